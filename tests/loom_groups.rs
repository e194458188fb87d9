//! Who answers a group, in every order that the memory model allows. `tools/loom.sh` runs it, also with mistakes built in.
//!
//! A thread stands for a core.
#![cfg(loom)]

#[path = "support/fault_bench.rs"]
mod fault_bench;
#[path = "support/loom_smmu.rs"]
mod loom_smmu;
#[path = "support/loom_world.rs"]
mod loom_world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use fault_bench::{cpu, in_substream, page, stall, to_group, to_stall};
use loom::thread;
use loom_world::{FIVE, LATE_US, STREAM, World, Yield, explore};
use smmu_iopf::iopf::{Answer, Fault, FlushError, Kind, Leftover, Partials, Report};
use smmu_iopf::smmuv3::PageResponse::{Failure, Invalid, Success};
use smmu_iopf::smmuv3::{Access, SubstreamId};
use smmu_iopf::sync::Cpu;

#[test]
fn a_group_has_one_answer_from_its_handler_or_from_its_time_out() {
    explore(None, || {
        let world = World::with_group(7);
        let handler = world.core(1, |world, cpu| world.respond(cpu, Success));
        let timed_out = world.table.expire(&cpu(0), LATE_US) == 1;
        let in_time = handler.join().unwrap();
        assert!(timed_out ^ in_time);
        assert_eq!(world.sent(), [to_stall(STREAM, 7, if in_time { Success } else { Invalid })]);
        assert_eq!(world.table.totals().slots_in_use, 0);
    });
}

#[test]
fn two_passes_and_a_dropping_holder_give_one_answer() {
    explore(2, || {
        let world = World::with_group(7);
        let holder = world.core(1, |world, _| drop(world.handler.take_one()));
        let other = world.core(2, |world, cpu| world.table.expire(cpu, LATE_US));
        world.table.expire(&cpu(0), LATE_US);
        holder.join().unwrap();
        other.join().unwrap();
        // What was dropped after the passes.
        world.table.expire(&cpu(0), LATE_US);
        assert_eq!(world.sent(), [to_stall(STREAM, 7, Invalid)]);
        assert_eq!(world.table.totals().slots_in_use, 0);
    });
}

#[test]
fn a_time_out_never_hits_the_next_group_in_the_slot() {
    explore(3, || {
        let world = World::with_group(7);
        let pass = world.core(1, |world, cpu| world.table.expire(cpu, LATE_US) == 1);
        let here = cpu(0);
        let in_time = world.respond(&here, Success);
        let reused = world.report(&here, 8) == Report::Deferred;
        let timed_out = pass.join().unwrap();
        assert!(timed_out ^ in_time);
        let mut expected = vec![to_stall(STREAM, 7, if in_time { Success } else { Invalid })];
        if reused {
            assert!(world.respond(&here, Success));
            expected.push(to_stall(STREAM, 8, Success));
        }
        assert_eq!(world.sent(), expected);
    });
}

#[test]
fn a_pass_that_sees_a_group_sees_what_is_in_it() {
    explore(3, || {
        let world = World::new();
        let pass = world.core(1, |world, cpu| {
            world.table.expire(cpu, 0);
            world.table.expire(cpu, LATE_US) == 1
        });
        assert_eq!(world.report(&cpu(0), 7), Report::Deferred);
        let timed_out = pass.join().unwrap();
        let sent = if timed_out { vec![to_stall(STREAM, 7, Invalid)] } else { vec![] };
        assert_eq!(world.sent(), sent);
        drop(world.handler.take());
    });
}

#[test]
fn a_group_that_is_dropped_while_its_last_request_comes_has_one_answer_and_one_slot() {
    explore(None, || {
        let world = World::of(Kind::Page, 2);
        let here = cpu(0);
        let report = |last| here.masked(|masked| world.table.report(masked, 0, page(STREAM, 3, last, 0)));
        assert_eq!(report(false), Report::Held);
        let dropper = world.core(1, |world, cpu| {
            cpu.masked(|masked| world.table.discard_partials(masked, Partials::Stream(STREAM)));
        });
        let (requests, response) = match report(true) {
            Report::Deferred => {
                let group = world.handler.take_one();
                (group.len(), here.masked(|masked| group.respond(masked, Success)).map(|()| Success))
            }
            // The slot is free, and not given back yet.
            Report::Answer(answer) => (1, Ok(answer.response)),
            other => panic!("{other:?}"),
        };
        dropper.join().unwrap();
        let totals = world.table.totals();
        assert_eq!(totals.slots_in_use, 0);
        // Both requests were answered together, or the first was dropped and the last is a group by itself.
        assert_eq!(totals.statistics.discarded, 2 - requests as u64);
        let expected = match response.unwrap() {
            Success => vec![to_group(STREAM, 3, Success)],
            refused => {
                assert_eq!(refused, Invalid);
                vec![]
            }
        };
        assert_eq!(world.sent(), expected);
    });
}

#[test]
fn nothing_is_sent_after_stall_term() {
    explore(None, || {
        let world = World::with_group(7);
        let handler = world.core(1, |world, cpu| {
            // Quiescent here, so that the period may end before the answer as well as after it.
            world.domain.poll(cpu);
            world.respond(cpu, Success)
        });
        let mut here = cpu(0);
        let closing = here.masked(|masked| world.table.close(masked, STREAM)).unwrap();
        // One look is enough: the orders in which the period does not end in time are not of interest.
        if let Ok(grace) = world.domain.synchronize(&mut here, &mut Yield, 1) {
            world.smmu.terminated.store(true, SeqCst);
            let terminated = closing.answer_pending(&here, &grace).terminated == 1;
            here.masked(|masked| closing.finish(masked)).unwrap();
            let in_time = handler.join().unwrap();
            assert!(terminated ^ in_time);
        } else {
            let _ = handler.join().unwrap();
        }
    });
}

#[test]
fn who_answers_while_the_stream_is_closed_and_reopened_answers_its_own_group_or_nobody() {
    explore(3, || {
        let world = World::with_group(7);
        let late = world.handler.take_one();
        let handler = world.core(1, move |world, cpu| {
            world.domain.poll(cpu);
            cpu.masked(|masked| late.respond(masked, Success)).is_ok()
        });
        let mut here = cpu(0);
        let closing = here.masked(|masked| world.table.close(masked, STREAM)).unwrap();
        let Ok(grace) = world.domain.synchronize(&mut here, &mut Yield, 1) else {
            let _ = handler.join().unwrap();
            return;
        };
        let terminated = closing.answer_pending(&here, &grace).terminated == 1;
        closing.reopen().unwrap();
        let reused = world.report(&here, 8) == Report::Deferred;
        let in_time = handler.join().unwrap();
        assert!(terminated ^ in_time);
        let mut expected = Vec::new();
        expected.extend(in_time.then(|| to_stall(STREAM, 7, Success)));
        if reused {
            assert!(world.respond(&here, Success));
            expected.push(to_stall(STREAM, 8, Success));
        }
        assert_eq!(world.sent(), expected);
    });
}

#[test]
fn a_report_that_races_with_close_is_in_a_group_or_swallowed() {
    explore(None, || {
        let world = World::new();
        let drainer = world.core(1, |world, cpu| {
            world.domain.poll(cpu);
            world.report(cpu, 7)
        });
        let mut here = cpu(0);
        let closing = here.masked(|masked| world.table.close(masked, STREAM)).unwrap();
        if let Ok(grace) = world.domain.synchronize(&mut here, &mut Yield, 1) {
            let terminated = closing.answer_pending(&here, &grace).terminated;
            let report = drainer.join().unwrap();
            assert_eq!(
                (report, terminated),
                if terminated == 1 { (Report::Deferred, 1) } else { (Report::Swallowed, 0) }
            );
            here.masked(|masked| closing.finish(masked)).unwrap();
        } else {
            let _ = drainer.join().unwrap();
        }
        drop(world.handler.take());
    });
}

/// A partial group, and those who may drop it.
const DROPS: [Partials; 2] = [Partials::All, Partials::Substream(STREAM, SubstreamId::from_low_bits(5))];

#[test]
fn a_partial_group_that_an_overflow_or_a_pasid_stop_drops_while_its_stream_ends_is_dropped_once() {
    for which in DROPS {
        explore(3, move || {
            let world = World::of(Kind::Page, 2);
            let mut here = cpu(0);
            assert_eq!(world.request(&here, false), Report::Held);
            let dropper = world.core(1, move |world, cpu| {
                world.domain.poll(cpu);
                cpu.masked(|masked| world.table.discard_partials(masked, which));
            });
            let leftover = world.end(&mut here);
            dropper.join().unwrap();
            assert!(leftover.is_none_or(|leftover| leftover == Leftover::default()));
            let totals = world.table.totals();
            assert_eq!((totals.slots_in_use, totals.statistics.discarded), (0, 1));
            assert_eq!(world.sent(), []);
        });
    }
}

#[test]
fn a_partial_group_is_not_flushed_and_is_dropped_once() {
    for which in DROPS {
        explore(3, move || {
            let world = World::of(Kind::Page, 2);
            let mut here = cpu(0);
            assert_eq!(world.request(&here, false), Report::Held);
            let dropper = world.core(1, move |world, cpu| {
                world.domain.poll(cpu);
                cpu.masked(|masked| world.table.discard_partials(masked, which));
            });
            let flushed = world.table.flush(&mut here, &mut Yield, STREAM, 1);
            assert!(matches!(flushed, Ok(()) | Err(FlushError::Grace(_))));
            dropper.join().unwrap();
            assert_eq!((world.table.totals().slots_in_use, world.sent()), (0, vec![]));
        });
    }
}

#[test]
fn a_group_that_is_completed_dropped_and_ended_at_once_has_one_answer_and_one_slot() {
    explore(2, || {
        let world = World::of(Kind::Page, 2);
        let mut here = cpu(0);
        assert_eq!(world.request(&here, false), Report::Held);
        let drainer = world.core(1, |world, cpu| {
            world.domain.poll(cpu);
            world.request(cpu, true)
        });
        let dropper = world.core(2, |world, cpu| {
            world.domain.poll(cpu);
            cpu.masked(|masked| world.table.discard_partials(masked, Partials::All));
        });
        let leftover = world.end(&mut here);
        let report = drainer.join().unwrap();
        dropper.join().unwrap();
        drop(world.handler.take());
        if let Some(leftover) = leftover {
            let deferred = usize::from(report == Report::Deferred);
            // Refused by the closed stream, or for want of room; or nobody's, when the stream is out of the table.
            assert!(deferred == 1 || matches!(report, Report::Answer(Answer { response: Invalid | Failure, .. })));
            assert_eq!(leftover, Leftover { answered: deferred, ..Leftover::default() });
            assert_eq!(world.sent().len(), deferred);
            assert_eq!(world.table.totals().slots_in_use, 0);
        }
    });
}

#[test]
fn a_time_out_while_the_stream_ends_answers_before_stall_term_or_not_at_all() {
    explore(3, || {
        let world = World::with_group(7);
        let pass = world.core(1, |world, cpu| {
            world.domain.poll(cpu);
            world.table.expire(cpu, LATE_US) == 1
        });
        let leftover = world.end(&mut cpu(0));
        let timed_out = pass.join().unwrap();
        drop(world.handler.take());
        if let Some(leftover) = leftover {
            assert!(timed_out ^ (leftover.terminated == 1));
            assert_eq!(world.sent().len(), usize::from(timed_out));
            assert_eq!(world.table.totals().slots_in_use, 0);
        }
    });
}

#[test]
fn what_its_holder_drops_while_the_stream_ends_is_sent_before_stall_term_or_not_at_all() {
    explore(3, || {
        let world = World::with_group(7);
        let holder = world.core(1, |world, cpu| {
            world.domain.poll(cpu);
            drop(world.handler.take_one());
            world.table.expire(cpu, 0);
        });
        let leftover = world.end(&mut cpu(0));
        holder.join().unwrap();
        if let Some(leftover) = leftover {
            assert_eq!(world.sent().len() + leftover.terminated, 1);
            assert_eq!(world.table.totals().slots_in_use, 0);
        }
    });
}

#[test]
fn a_flush_while_the_stream_ends_sends_before_stall_term_or_not_at_all() {
    explore(2, || {
        let world = World::with_group(7);
        drop(world.handler.take_one());
        let flusher = world.core(1, |world, cpu| world.table.flush(cpu, &mut Yield, STREAM, 1));
        let leftover = world.end(&mut cpu(0));
        let flushed = flusher.join().unwrap();
        if let Some(leftover) = leftover {
            assert_eq!(world.sent().len() + leftover.terminated, 1);
            assert_eq!(world.table.totals().slots_in_use, 0);
            if leftover.terminated == 0 {
                assert!(!matches!(flushed, Err(FlushError::Outstanding { .. })));
            }
        }
    });
}

#[test]
fn a_flush_that_succeeds_comes_after_the_answer_of_a_time_out() {
    explore(None, || {
        let world = World::with_group(7);
        let pass = world.core(1, |world, cpu| {
            world.domain.poll(cpu);
            world.table.expire(cpu, LATE_US);
        });
        let answer = [to_stall(STREAM, 7, Invalid)];
        if world.table.flush(&mut cpu(0), &mut Yield, STREAM, 1).is_ok() {
            assert_eq!(world.sent(), answer);
        }
        pass.join().unwrap();
        assert_eq!(world.sent(), answer);
        drop(world.handler.take());
        assert_eq!(world.table.totals().slots_in_use, 0);
    });
}

#[test]
fn a_flush_that_succeeds_comes_after_the_answers_to_reports_that_had_begun() {
    explore(3, || {
        let world = World::new();
        let begun = Arc::new(AtomicBool::new(false));
        let drainer = {
            let begun = begun.clone();
            world.core(1, move |world, cpu| {
                cpu.masked(|masked| {
                    begun.store(true, SeqCst);
                    thread::yield_now();
                    assert_eq!(world.table.report(masked, 0, stall(STREAM, 7, 0)), Report::Deferred);
                });
                world.domain.poll(cpu);
                world.respond(cpu, Success);
            })
        };
        thread::yield_now();
        if begun.load(SeqCst) && world.table.flush(&mut cpu(0), &mut Yield, STREAM, 1).is_ok() {
            assert_eq!(world.sent(), [to_stall(STREAM, 7, Success)]);
        }
        drainer.join().unwrap();
    });
}

#[test]
fn who_may_close_next_finds_what_the_last_one_answered() {
    explore(None, || {
        let world = World::with_group(7);
        let mut here = cpu(0);
        let closing = here.masked(|masked| world.table.close(masked, STREAM)).unwrap();
        let grace = world.domain.synchronize(&mut here, &mut Yield, 1).unwrap();
        let other = world.core(1, |world, cpu| {
            cpu.masked(|masked| world.table.close(masked, STREAM).is_ok_and(|closing| closing.finish(masked).is_err()))
        });
        assert_eq!(closing.answer_pending(&here, &grace).terminated, 1);
        drop(closing);
        assert!(!other.join().unwrap(), "the answered group is waited for");
        drop(world.handler.take());
    });
}

#[test]
fn of_two_that_give_a_substream_a_handler_one_does() {
    explore(2, || {
        let world = World::of(Kind::Page, 1);
        let set = |world: &World, cpu: &mut Cpu, substream| {
            let substream = SubstreamId::from_low_bits(substream);
            world.table.set_substream_handler(cpu, STREAM, substream, world.handler.clone()).is_ok()
        };
        let mut here = cpu(0);
        // Makes the room.
        assert!(set(&world, &mut here, 4));
        let other = world.core(1, move |world, cpu| set(world, cpu, 5));
        let done = set(&world, &mut here, 5);
        assert!(!(other.join().unwrap() && done), "the second handler is lost");
    });
}

#[test]
fn a_report_that_races_with_a_stop_of_its_substream_is_in_a_group_that_it_answers_or_refused() {
    explore(3, || {
        let world = World::of(Kind::Page, 1);
        let drainer = world.core(1, |world, cpu| {
            world.domain.poll(cpu);
            world.request(cpu, true)
        });
        let mut here = cpu(0);
        let stopping = here.masked(|masked| world.table.stop_substream(masked, STREAM, FIVE)).unwrap();
        let passed = world.domain.synchronize(&mut here, &mut Yield, 1);
        let waiting = passed.map(|grace| stopping.answer_pending(&here, &grace));
        let report = drainer.join().unwrap();
        let refused = Answer { substream: Some(FIVE), ..to_group(STREAM, 3, Invalid) };
        if waiting.is_ok() {
            assert_eq!(waiting, Ok(0));
            match report {
                Report::Deferred => assert_eq!(world.sent(), [refused]),
                report => assert_eq!((report, world.sent()), (Report::Answer(refused), vec![])),
            }
        }
        drop(world.handler.take());
    });
}

#[test]
fn a_stop_marker_that_comes_while_the_stream_is_closed_does_not_open_it() {
    explore(None, || {
        let world = World::of(Kind::Page, 1);
        let here = cpu(0);
        let stopping = here.masked(|masked| world.table.stop_substream(masked, STREAM, FIVE)).unwrap();
        let drainer = world.core(1, |world, cpu| {
            let marker = Fault { access: Access::default(), ..in_substream(page(STREAM, 0, true, 0), FIVE.get()) };
            cpu.masked(|masked| world.table.report(masked, 0, marker))
        });
        let closing = here.masked(|masked| world.table.close(masked, STREAM)).unwrap();
        assert_eq!(drainer.join().unwrap(), Report::Swallowed);
        let report = here.masked(|masked| world.table.report(masked, 0, page(STREAM, 3, true, 0)));
        assert_eq!(report, Report::Answer(to_group(STREAM, 3, Invalid)));
        drop((stopping, closing));
    });
}
