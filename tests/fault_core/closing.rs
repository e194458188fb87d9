//! The end of a stream, and what may not happen after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use embedded_hal::delay::DelayNs;
use smmu_iopf::iopf::{CloseError, FaultTable, FlushError, Kind, Leftover, OpenError, Report, Target, Unfinished};
use smmu_iopf::smmuv3::PageResponse::{Failure, Invalid, Success};
use smmu_iopf::smmuv3::{Stag, StreamId};
use smmu_iopf::sync::Cpu;

use super::fault_bench::*;

#[test]
fn stalls_that_wait_at_close_are_dropped_without_a_command() {
    let mut bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 1, 0)), Report::Deferred);
    let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
    let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
    let leftover = closing.answer_pending(&bench.cpu, &grace);
    assert_eq!(leftover, Leftover { answered: 0, terminated: 1, unsent: 0 });
    bench.cpu.masked(|masked| closing.finish(masked)).unwrap();
    assert_eq!(bench.responder.take(), []);
    assert_eq!(bench.table.totals().statistics.terminated, 1);
}

#[test]
fn page_request_groups_that_wait_at_close_are_answered_invalid_and_partials_dropped() {
    let mut bench = Bench::deferring(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 1, true, 0)), Report::Deferred);
    assert_eq!(bench.report(page(STREAM, 2, false, 0)), Report::Held);
    let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
    let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
    assert_eq!(closing.answer_pending(&bench.cpu, &grace).answered, 1);
    assert_eq!(bench.responder.take(), [to_group(STREAM, 1, Invalid)]);
    let statistics = bench.cpu.masked(|masked| closing.finish(masked)).unwrap();
    assert_eq!((statistics.discarded, statistics.invalid, statistics.groups), (1, 1, 1));
}

#[test]
fn from_close_on_a_stall_is_swallowed_because_stall_term_answers_it() {
    let bench = Bench::open(Kind::Stall);
    let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
    assert_eq!(bench.report(stall(STREAM, 1, 0)), Report::Swallowed);
    assert_eq!(bench.handler.seen.lock().unwrap().len(), 0);
    assert_eq!((closing.statistics().closed, closing.statistics().groups), (1, 0));
}

#[test]
fn from_close_on_a_page_request_is_answered_invalid_without_the_handler() {
    let bench = Bench::open(Kind::Page);
    let _closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
    assert_eq!(bench.report(page(STREAM, 1, false, 0)), Report::Swallowed);
    assert_eq!(bench.report(page(STREAM, 1, true, 0)), Report::Answer(to_group(STREAM, 1, Invalid)));
    assert_eq!(bench.handler.seen.lock().unwrap().len(), 0);
    assert_eq!(bench.table.totals().slots_in_use, 0);
}

#[test]
fn late_answer_after_close_sends_nothing_whether_finished_or_not() {
    for kind in [Kind::Stall, Kind::Page] {
        let mut bench = Bench::deferring(kind);
        for n in 0..2 {
            let fault = if kind == Kind::Stall { stall(STREAM, n, 0) } else { page(STREAM, n, true, 0) };
            assert_eq!(bench.report(fault), Report::Deferred);
        }
        let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
        let mut groups = bench.handler.take();
        assert!(bench.cpu.masked(|masked| groups.remove(0).respond(masked, Success)).is_err());
        assert_eq!(bench.responder.take(), []);
        // Time-outs and retries are the disabler's now too.
        bench.table.expire(&bench.cpu, 0);
        assert_eq!(bench.table.expire(&bench.cpu, 9_000_000), 0);
        assert_eq!(bench.responder.take(), []);
        let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
        let _ = closing.answer_pending(&bench.cpu, &grace);
        bench.cpu.masked(|masked| closing.finish(masked)).unwrap();
        let answers = if kind == Kind::Stall { vec![] } else { vec![Invalid; 2] };
        assert_eq!(bench.responder.take().iter().map(|answer| answer.response).collect::<Vec<_>>(), answers);
        assert!(bench.cpu.masked(|masked| groups.remove(0).respond(masked, Success)).is_err());
        assert_eq!(bench.responder.take(), []);
        assert_eq!(bench.table.totals().slots_in_use, 0);
    }
}

#[test]
fn a_reopened_stream_is_served_and_what_its_handler_holds_from_before_stays_too_late() {
    for kind in [Kind::Stall, Kind::Page] {
        let mut bench = Bench::deferring(kind);
        let fault = |n, last| if kind == Kind::Stall { stall(STREAM, n, 0) } else { page(STREAM, n, last, 0) };
        assert_eq!(bench.report(fault(0, true)), Report::Deferred);
        if kind == Kind::Page {
            // One request more than a group may have.
            (0..5).for_each(|_| assert_eq!(bench.report(fault(1, false)), Report::Held));
        }
        let late = bench.handler.take_one();
        let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
        let Unfinished { closing, waiting } = closing.reopen().unwrap_err();
        assert_eq!(waiting, 1);
        let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
        let _ = closing.answer_pending(&bench.cpu, &grace);
        closing.reopen().unwrap();

        let _ = bench.responder.take();
        assert_eq!(bench.report(fault(1, true)), Report::Deferred);
        assert!(!late.is_waiting());
        assert!(bench.cpu.masked(|masked| late.respond(masked, Success)).is_err());
        assert_eq!(bench.responder.take(), []);
        let group = bench.handler.take_one();
        assert_eq!(group.len(), 1);
        bench.cpu.masked(|masked| group.respond(masked, Success)).unwrap();
        assert_eq!(bench.responder.take().len(), 1);
        bench.close(STREAM);
        bench.free();
        assert_eq!((bench.table.live(), bench.table.totals().slots_in_use), (0, 0));
    }
}

#[test]
fn a_held_group_keeps_state_and_handler_and_letting_go_frees_both() {
    let mut bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 1, 0)), Report::Deferred);
    bench.close(STREAM);
    bench.free();
    assert_eq!((bench.table.live(), Arc::strong_count(&bench.handler)), (1, 2));
    let group = bench.handler.take_one();
    assert_eq!(group.faults().count(), 1);
    drop(group);
    bench.free();
    assert_eq!((bench.table.live(), Arc::strong_count(&bench.handler)), (0, 1));
    assert_eq!(bench.domain.stats().in_memory(), 0);
}

#[test]
fn a_state_is_not_freed_while_another_core_is_in_a_section() {
    let mut bench = Bench::open(Kind::Stall);
    let mut other: Cpu = cpu(1);
    bench.domain.online(&mut other);
    other.masked(|masked| {
        let section = bench.domain.read(masked);
        let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
        assert!(bench.domain.synchronize(&mut bench.cpu, &mut Clock, 10).is_err());
        bench.cpu.masked(|masked| closing.finish(masked)).unwrap();
        bench.domain.poll(&mut bench.cpu);
        assert_eq!(bench.table.live(), 1);
        drop(section);
    });
    bench.domain.offline(&mut other);
    bench.free();
    assert_eq!(bench.table.live(), 0);
}

#[test]
fn an_open_stream_is_busy_and_so_is_one_that_has_not_ended() {
    let mut bench = Bench::open(Kind::Stall);
    let busy = Err(OpenError::Busy { stream: STREAM });
    assert_eq!(bench.open_stream(STREAM, Kind::Stall), busy);
    // Another master that shares one StreamID gets none.
    let free = StreamId(7);
    assert_eq!(bench.open_with(&[free, STREAM], Kind::Stall, STREAM_LIMITS, 0), busy);
    assert_eq!(bench.report(stall(free, 1, 0)), Report::Answer(to_stall(free, 1, Invalid)));
    // Quarantined.
    drop(bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap());
    assert_eq!(bench.open_stream(STREAM, Kind::Stall), busy);
    // A second attempt to end it may work.
    bench.close(STREAM);
    bench.open_stream(STREAM, Kind::Stall).unwrap();
    assert_eq!(bench.report(stall(STREAM, 1, 0)), Report::Answer(to_stall(STREAM, 1, Success)));
}

#[test]
fn only_one_closes() {
    let bench = Bench::open(Kind::Stall);
    let close = |stream| bench.cpu.masked(|masked| bench.table.close(masked, stream));
    assert_eq!(close(StreamId(7)).map(drop), Err(CloseError::NotOpen(StreamId(7))));
    let closing = close(STREAM).unwrap();
    assert_eq!(close(STREAM).map(drop), Err(CloseError::Closing(STREAM)));
    drop(closing);
    assert!(close(STREAM).is_ok());
}

#[test]
fn a_master_is_opened_and_closed_with_all_its_streams() {
    let mut bench = Bench::new();
    let streams = [STREAM, StreamId(0x102), StreamId(0xf_ffff)];
    bench.open_with(&streams, Kind::Stall, STREAM_LIMITS, 0).unwrap();
    for stream in streams {
        assert_eq!(bench.report(stall(stream, 1, 0)), Report::Answer(to_stall(stream, 1, Success)));
    }
    assert_eq!(bench.table.live(), 1);
    bench.close(streams[1]);
    for stream in streams {
        assert_eq!(bench.report(stall(stream, 1, 0)), Report::Answer(to_stall(stream, 1, Invalid)));
    }
    bench.free();
    assert_eq!(bench.table.live(), 0);
    assert_eq!(bench.table.open_streams().count(), 0);
}

#[test]
fn records_from_before_enable_are_refused_without_an_answer() {
    let mut bench = Bench::new();
    bench.open_with(&[STREAM], Kind::Stall, STREAM_LIMITS, 100).unwrap();
    assert_eq!(bench.report_record(99, stall(STREAM, 1, 0)), Report::Swallowed);
    assert_eq!(bench.report_record(100, stall(STREAM, 1, 0)), Report::Answer(to_stall(STREAM, 1, Success)));
    let statistics = bench.table.totals().statistics;
    assert_eq!((statistics.early, statistics.groups, statistics.answers()), (1, 1, 1));
}

#[test]
fn after_finish_the_stream_is_unknown() {
    let mut bench = Bench::open(Kind::Page);
    bench.close(STREAM);
    assert_eq!(bench.report(page(STREAM, 1, true, 0)), Report::Answer(to_group(STREAM, 1, Failure)));
}

#[test]
fn an_answer_that_cannot_be_sent_keeps_the_stream_from_finishing() {
    let mut bench = Bench::deferring(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 1, true, 0)), Report::Deferred);
    let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
    let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
    bench.responder.stuck.store(true, SeqCst);
    assert_eq!(closing.answer_pending(&bench.cpu, &grace), Leftover { answered: 0, terminated: 0, unsent: 1 });
    let unfinished = bench.cpu.masked(|masked| closing.finish(masked)).unwrap_err();
    assert_eq!(unfinished.to_string(), "1 groups of [StreamId(257)] wait for an answer");
    bench.responder.stuck.store(false, SeqCst);
    assert_eq!(unfinished.closing.answer_pending(&bench.cpu, &grace).answered, 1);
    bench.cpu.masked(|masked| unfinished.closing.finish(masked)).unwrap();
    assert_eq!(bench.responder.take(), [to_group(STREAM, 1, Invalid)]);
}

#[test]
fn an_answer_decided_before_close_and_not_sent_is_what_the_device_gets() {
    let mut bench = Bench::deferring(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 1, true, 0)), Report::Deferred);
    bench.responder.stuck.store(true, SeqCst);
    bench.cpu.masked(|masked| bench.handler.take_one().respond(masked, Success)).unwrap();
    bench.responder.stuck.store(false, SeqCst);
    bench.close(STREAM);
    assert_eq!(bench.responder.take(), [to_group(STREAM, 1, Success)]);
}

#[test]
fn flush_returns_when_all_is_answered_and_else_names_what_is_outstanding() {
    let mut bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.table.flush(&mut bench.cpu, &mut Clock, STREAM, 50), Ok(()));
    assert_eq!(bench.report(stall(STREAM, 3, 0)), Report::Deferred);
    assert_eq!(bench.report(stall(STREAM, 4, 0)), Report::Deferred);
    let outstanding =
        FlushError::Outstanding { stream: STREAM, group: Some(Target::Stall(Stag(3))), waiting: 2, waited_us: 50 };
    assert_eq!(bench.table.flush(&mut bench.cpu, &mut Clock, STREAM, 50), Err(outstanding));
    // Dropped groups are answered by the flush itself.
    drop(bench.handler.take());
    assert_eq!(bench.table.flush(&mut bench.cpu, &mut Clock, STREAM, 50), Ok(()));
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 3, Invalid), to_stall(STREAM, 4, Invalid)]);
    let other = StreamId(7);
    assert_eq!(bench.table.flush(&mut bench.cpu, &mut Clock, other, 50), Err(FlushError::NotOpen(other)));
}

#[test]
fn flush_does_not_wait_for_groups_that_come_while_it_waits() {
    struct Meanwhile<'a>(&'a FaultTable, &'a Handler);
    impl DelayNs for Meanwhile<'_> {
        fn delay_ns(&mut self, _: u32) {
            let mut groups = self.1.take();
            if groups.len() == 1 {
                cpu(0).masked(|masked| {
                    assert_eq!(self.0.report(masked, 0, stall(STREAM, 2, 0)), Report::Deferred);
                    groups.remove(0).respond(masked, Success).unwrap();
                });
            }
        }
    }
    let mut bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 1, 0)), Report::Deferred);
    let mut delay = Meanwhile(&bench.table, &bench.handler);
    assert_eq!(bench.table.flush(&mut bench.cpu, &mut delay, STREAM, 50), Ok(()));
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 1, Success)]);
}

#[test]
fn a_core_that_flushes_lets_the_end_of_the_stream_pass_that_answers_its_groups() {
    /// Says that the flush waits for answers.
    struct Waits<'a>(&'a AtomicBool);
    impl DelayNs for Waits<'_> {
        fn delay_ns(&mut self, _: u32) {
            self.0.store(true, SeqCst);
            thread::yield_now();
        }
    }
    struct Yield;
    impl DelayNs for Yield {
        fn delay_ns(&mut self, _: u32) {
            thread::yield_now();
        }
    }
    let mut bench = Bench::deferring(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 1, true, 0)), Report::Deferred);
    let Bench { domain, responder, handler, table, cpu: here } = &mut bench;
    let waits = AtomicBool::new(false);
    thread::scope(|scope| {
        let disabler = scope.spawn(|| {
            while !waits.load(SeqCst) {
                thread::yield_now();
            }
            let mut cpu = cpu(1);
            domain.online(&mut cpu);
            let closing = cpu.masked(|masked| table.close(masked, STREAM)).unwrap();
            let grace = domain.synchronize(&mut cpu, &mut Yield, 10_000_000).unwrap();
            assert_eq!(closing.answer_pending(&cpu, &grace).answered, 1);
            domain.offline(&mut cpu);
        });
        assert_eq!(table.flush(here, &mut Waits(&waits), STREAM, 100_000), Ok(()));
        domain.offline(here);
        disabler.join().unwrap();
    });
    assert_eq!(responder.take(), [to_group(STREAM, 1, Invalid)]);
    drop(handler.take());
}

#[test]
fn flush_does_not_wait_for_other_streams_or_partial_groups() {
    let mut bench = Bench::deferring(Kind::Page);
    let other = StreamId(7);
    bench.open_stream(other, Kind::Page).unwrap();
    assert_eq!(bench.report(page(other, 1, true, 0)), Report::Deferred);
    assert_eq!(bench.report(page(STREAM, 1, false, 0)), Report::Held);
    assert_eq!(bench.table.flush(&mut bench.cpu, &mut Clock, STREAM, 50), Ok(()));
}

#[test]
fn statistics_are_kept_per_stream_and_in_total() {
    let mut bench = Bench::open(Kind::Stall);
    let other = StreamId(7);
    bench.open_stream(other, Kind::Stall).unwrap();
    let _ = bench.report(stall(STREAM, 1, 0));
    let _ = bench.report(stall(other, 1, 0));
    let _ = bench.report(stall(other, 2, WILD));
    let of = |stream| bench.cpu.masked(|masked| bench.table.statistics(masked, stream)).unwrap();
    assert_eq!((of(STREAM).records, of(STREAM).success), (1, 1));
    assert_eq!((of(other).records, of(other).success, of(other).invalid), (2, 1, 1));
    bench.close(STREAM);
    assert_eq!(bench.cpu.masked(|masked| bench.table.statistics(masked, STREAM)), None);
    assert_eq!(bench.table.totals().statistics.records, 3);
}
