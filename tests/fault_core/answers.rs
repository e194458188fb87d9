//! One fault, one answer.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use smmu_iopf::iopf::{Answer, BUCKETS, Kind, LateAnswer, Limits, Report, Statistics, StreamLimits, Target};
use smmu_iopf::smmuv3::PageResponse::{Failure, Invalid, Success};
use smmu_iopf::smmuv3::{Access, Stag, StreamId};

use super::fault_bench::*;

#[test]
fn an_inline_answer_goes_back_to_the_reporter_and_takes_no_slot() {
    let bench = Bench::open(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 7, 0x1000)), Report::Answer(to_stall(STREAM, 7, Success)));
    assert_eq!(bench.responder.take(), []);
    let totals = bench.table.totals();
    assert_eq!((totals.statistics.inline, totals.statistics.success, totals.slots_in_use), (1, 1, 0));
}

#[test]
fn a_wild_address_is_answered_invalid() {
    let bench = Bench::open(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 7, WILD)), Report::Answer(to_stall(STREAM, 7, Invalid)));
}

#[test]
fn a_deferred_group_is_answered_through_the_responder() {
    let bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 7, 0x1000)), Report::Deferred);
    let group = bench.handler.take_one();
    assert_eq!((group.stream(), group.target(), group.len()), (STREAM, Target::Stall(Stag(7)), 1));
    assert_eq!(group.faults().collect::<Vec<_>>(), [stall(STREAM, 7, 0x1000)]);
    assert!(group.is_waiting());
    bench.cpu.masked(|masked| group.respond(masked, Success)).unwrap();
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 7, Success)]);
    assert_eq!(bench.table.totals().slots_in_use, 0);
}

#[test]
fn every_field_of_a_deferred_fault_survives_storage() {
    let bench = Bench::deferring(Kind::Page);
    let access = Access { read: false, write: true, execute: true, privileged: true };
    let fault =
        smmu_iopf::iopf::Fault { access, ..in_substream(page(STREAM, 511, true, 0xffff_ffff_ffff_f000), 0xf_ffff) };
    assert_eq!(bench.report(fault), Report::Deferred);
    assert_eq!(bench.handler.take_one().faults().collect::<Vec<_>>(), [fault]);
}

#[test]
fn the_answer_to_a_group_carries_the_substream_of_its_last_request() {
    let bench = Bench::open(Kind::Page);
    let answer = Answer { substream: smmu_iopf::smmuv3::SubstreamId::new(5), ..to_group(STREAM, 3, Success) };
    assert_eq!(bench.report(in_substream(page(STREAM, 3, true, 0), 5)), Report::Answer(answer));
}

#[test]
fn a_group_dropped_by_its_holder_is_answered_invalid_by_the_next_pass() {
    let bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 7, 0)), Report::Deferred);
    drop(bench.handler.take());
    assert_eq!(bench.table.expire(&bench.cpu, 0), 0);
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 7, Invalid)]);
    assert_eq!(bench.table.totals().slots_in_use, 0);
}

#[test]
fn a_group_dropped_within_defer_is_answered_with_the_report() {
    let bench = Bench::deferring(Kind::Stall);
    bench.handler.drops.store(true, SeqCst);
    assert_eq!(bench.report(stall(STREAM, 7, 0)), Report::Answer(to_stall(STREAM, 7, Invalid)));
    assert_eq!(bench.table.totals().slots_in_use, 0);
    bench.table.expire(&bench.cpu, 0);
    assert_eq!(bench.responder.take(), []);
}

#[test]
fn a_group_whose_handler_panics_is_answered_invalid_and_the_table_goes_on() {
    for defers in [false, true] {
        for kind in [Kind::Stall, Kind::Page] {
            let mut bench = Bench::open(kind);
            bench.handler.defers.store(defers, SeqCst);
            bench.handler.panics.store(true, SeqCst);
            if kind == Kind::Stall {
                assert_eq!(bench.report(stall(STREAM, 7, 0)), Report::Answer(to_stall(STREAM, 7, Invalid)));
            } else {
                assert_eq!(bench.report(page(STREAM, 7, false, 0)), Report::Held);
                assert_eq!(bench.report(page(STREAM, 7, true, 0)), Report::Answer(to_group(STREAM, 7, Invalid)));
            }
            assert_eq!(bench.table.totals().slots_in_use, 0);
            bench.handler.defers.store(false, SeqCst);
            bench.handler.panics.store(false, SeqCst);
            let (again, answer) = match kind {
                Kind::Stall | Kind::Stage2Stall => (stall(STREAM, 7, 0), to_stall(STREAM, 7, Success)),
                Kind::Page => (page(STREAM, 7, true, 0), to_group(STREAM, 7, Success)),
            };
            assert_eq!(bench.report(again), Report::Answer(answer));
            let statistics = bench.table.totals().statistics;
            assert_eq!((statistics.groups, statistics.answers()), (2, 2));
            bench.close(STREAM);
            bench.free();
            assert_eq!((bench.table.live(), Arc::strong_count(&bench.handler)), (0, 1));
        }
    }
}

#[test]
fn a_group_that_misses_its_time_is_answered_invalid_and_a_late_answer_sends_nothing() {
    let bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 7, 0)), Report::Deferred);
    // Its time, 1 s, starts with the first pass that sees it.
    assert_eq!(bench.table.expire(&bench.cpu, 5_000_000), 0);
    assert_eq!(bench.table.expire(&bench.cpu, 5_999_000), 0);
    assert_eq!(bench.table.expire(&bench.cpu, 6_000_000), 1);
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 7, Invalid)]);
    // The holder still has the slot.
    assert_eq!(bench.table.totals().slots_in_use, 1);
    let group = bench.handler.take_one();
    assert!(!group.is_waiting());
    let late = bench.cpu.masked(|masked| group.respond(masked, Success));
    assert_eq!(late, Err(LateAnswer { answer: to_stall(STREAM, 7, Success) }));
    assert_eq!(bench.responder.take(), []);
    let totals = bench.table.totals();
    assert_eq!((totals.statistics.time_outs, totals.statistics.late_answers, totals.slots_in_use), (1, 1, 0));
}

#[test]
fn a_core_that_looked_at_the_clock_a_moment_earlier_times_nothing_out() {
    let bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 7, 0)), Report::Deferred);
    bench.table.expire(&bench.cpu, 5_001_000);
    assert_eq!(bench.table.expire(&bench.cpu, 5_000_000), 0);
    assert_eq!(bench.responder.take(), []);
    assert_eq!(bench.table.expire(&bench.cpu, 6_001_000), 1);
}

#[test]
fn a_time_out_is_rounded_up_to_milliseconds() {
    let mut bench = Bench::new();
    bench.handler.defers.store(true, SeqCst);
    bench.open_with(&[STREAM], Kind::Stall, StreamLimits { time_out_us: 1500, ..STREAM_LIMITS }, 0).unwrap();
    assert_eq!(bench.report(stall(STREAM, 1, 0)), Report::Deferred);
    let expired = [0, 1999, 2000].map(|now_us| bench.table.expire(&bench.cpu, now_us));
    assert_eq!(expired, [0, 0, 1]);
    drop(bench.handler.take());
}

#[test]
fn a_slot_used_again_begins_its_time_anew() {
    let bench = Bench::deferring(Kind::Stall);
    for tag in 0..8 {
        assert_eq!(bench.report(stall(STREAM, tag, 0)), Report::Deferred);
        let now = 900_000 * u64::from(tag);
        assert_eq!(bench.table.expire(&bench.cpu, now), 0);
        assert_eq!(bench.table.expire(&bench.cpu, now + 800_000), 0);
        bench.cpu.masked(|masked| bench.handler.take_one().respond(masked, Success)).unwrap();
    }
}

#[test]
fn an_answer_that_cannot_be_sent_is_kept_and_sent_later() {
    let bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 7, 0)), Report::Deferred);
    bench.responder.stuck.store(true, SeqCst);
    bench.cpu.masked(|masked| bench.handler.take_one().respond(masked, Success)).unwrap();
    bench.table.expire(&bench.cpu, 0);
    assert_eq!(bench.cpu.masked(|masked| bench.table.unanswered(masked, STREAM)), 1);
    let statistics = bench.table.totals().statistics;
    assert_eq!((statistics.not_sent, statistics.answers()), (2, 0));
    bench.responder.stuck.store(false, SeqCst);
    bench.table.expire(&bench.cpu, 0);
    bench.table.expire(&bench.cpu, 0);
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 7, Success)]);
    assert_eq!(bench.table.totals().slots_in_use, 0);
}

#[test]
fn a_time_out_that_cannot_be_sent_is_kept_too_and_stays_the_answer() {
    let bench = Bench::deferring(Kind::Stall);
    assert_eq!(bench.report(stall(STREAM, 7, 0)), Report::Deferred);
    bench.responder.stuck.store(true, SeqCst);
    bench.table.expire(&bench.cpu, 0);
    assert_eq!(bench.table.expire(&bench.cpu, 2_000_000), 1);
    assert_eq!(bench.table.expire(&bench.cpu, 9_000_000), 0);
    bench.responder.stuck.store(false, SeqCst);
    bench.table.expire(&bench.cpu, 9_000_000);
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 7, Invalid)]);
    assert!(bench.cpu.masked(|masked| bench.handler.take_one().respond(masked, Success)).is_err());
    assert_eq!(bench.responder.take(), []);
}

#[test]
fn faults_of_an_unknown_stream_are_refused_and_counted() {
    let bench = Bench::open(Kind::Stall);
    let unknown = StreamId(0x102);
    let beyond = StreamId(0xffff_ffff);
    assert_eq!(bench.report(stall(unknown, 1, 0)), Report::Answer(to_stall(unknown, 1, Invalid)));
    assert_eq!(bench.report(stall(beyond, 1, 0)), Report::Answer(to_stall(beyond, 1, Invalid)));
    assert_eq!(bench.report(page(unknown, 1, false, 0)), Report::Swallowed);
    assert_eq!(bench.report(page(unknown, 1, true, 0)), Report::Answer(to_group(unknown, 1, Failure)));
    let statistics = bench.table.totals().statistics;
    assert_eq!((statistics.unknown, statistics.groups, statistics.answers()), (4, 3, 3));
    assert_eq!((statistics.swallowed, statistics.invalid, statistics.failure), (1, 2, 1));
}

#[test]
fn a_fault_of_the_kind_that_the_stream_does_not_use_is_refused() {
    let bench = Bench::open(Kind::Stall);
    assert_eq!(bench.report(page(STREAM, 1, true, 0)), Report::Answer(to_group(STREAM, 1, Failure)));
    assert_eq!(bench.handler.seen.lock().unwrap().len(), 0);
    let bench = Bench::open(Kind::Page);
    assert_eq!(bench.report(stall(STREAM, 1, 0)), Report::Answer(to_stall(STREAM, 1, Invalid)));
}

#[test]
fn a_stop_marker_is_counted_and_not_answered() {
    let bench = Bench::open(Kind::Page);
    let mut marker = in_substream(page(STREAM, 0, true, 0), 5);
    marker.access = Access::default();
    assert_eq!(bench.report(marker), Report::Swallowed);
    assert_eq!(bench.table.totals().statistics.stop_markers, 1);
    // Without a PASID it is an ordinary request (8).
    marker.substream = None;
    assert_eq!(bench.report(marker), Report::Answer(to_group(STREAM, 0, Success)));
}

#[test]
fn with_a_clock_answers_are_measured_from_the_report_until_they_are_decided_or_sent() {
    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1000) };
    }
    /// Each look takes three ticks.
    fn clock() -> u64 {
        NOW.replace(NOW.get() + 3)
    }
    let mut bench = Bench::open(Kind::Stall);
    let _ = bench.report(stall(STREAM, 1, 0));
    assert_eq!(bench.table.totals().latencies.count(), 0, "without a clock");
    bench.table.set_clock(clock);
    // Inline, refused: 3 ticks each.
    let _ = bench.report(stall(STREAM, 2, 0));
    let _ = bench.report(stall(STREAM, 3, WILD));
    bench.handler.defers.store(true, SeqCst);
    // Deferred: 500 ticks in the handler's hands, 600 until the time-out, none for STALL_TERM at the end.
    assert_eq!(bench.report(stall(STREAM, 4, 0)), Report::Deferred);
    NOW.set(NOW.get() + 500);
    bench.cpu.masked(|masked| bench.handler.take_one().respond(masked, Success)).unwrap();
    assert_eq!(bench.report(stall(STREAM, 5, 0)), Report::Deferred);
    bench.table.expire(&bench.cpu, 0);
    NOW.set(NOW.get() + 600);
    bench.table.expire(&bench.cpu, 1_000_000);
    // Answered by a core that looked at the clock a moment earlier: no tick.
    assert_eq!(bench.report(stall(STREAM, 7, 0)), Report::Deferred);
    NOW.set(NOW.get() - 10);
    bench.cpu.masked(|masked| bench.handler.take().pop().unwrap().respond(masked, Success)).unwrap();
    assert_eq!(bench.report(stall(STREAM, 6, 0)), Report::Deferred);
    let mut expected = [0; BUCKETS];
    (expected[0], expected[2], expected[9], expected[10]) = (1, 2, 1, 1);
    let of_stream = bench.cpu.masked(|masked| bench.table.latencies(masked, STREAM)).unwrap();
    assert_eq!(of_stream.buckets, expected);
    bench.close(STREAM);
    assert_eq!(bench.table.totals().latencies.buckets, expected);
    drop(bench.handler.take());
}

#[test]
fn in_a_batch_each_stream_has_its_state_and_its_counts_whatever_streams_come_between() {
    let mut bench = Bench::with_limits(Limits { states: 8, groups: 8 });
    // Two of them with the same low bits.
    let streams = [StreamId(1), StreamId(5), StreamId(2)];
    for stream in streams {
        bench.open_stream(stream, Kind::Stall).unwrap();
    }
    let unknown = StreamId(9);
    let order = [streams[0], streams[1], streams[0], streams[2], unknown, streams[1], streams[0], streams[2]];
    bench.cpu.masked(|masked| {
        bench.table.batch(masked, |batch| {
            for (tag, stream) in (0..).zip(order) {
                let response = if stream == unknown { Invalid } else { Success };
                let report = batch.report(tag.into(), &stall(stream, tag, 0x1000));
                assert_eq!(report, Report::Answer(to_stall(stream, tag, response)));
            }
        });
    });
    let of = |stream| bench.cpu.masked(|masked| bench.table.statistics(masked, stream)).unwrap();
    let counts =
        |statistics: Statistics| [statistics.records, statistics.groups, statistics.inline, statistics.success];
    assert_eq!(streams.map(|stream| counts(of(stream))), [[3; 4], [2; 4], [2; 4]]);
    let all = bench.table.totals().statistics;
    assert_eq!((counts(all), all.unknown, all.invalid), ([8, 8, 7, 7], 1, 1));
}
