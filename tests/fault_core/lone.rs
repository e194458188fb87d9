//! Stalls that are alone in their batch.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use smmu_iopf::iopf::{Fault, Kind, Limits, Stage2Fault};
use smmu_iopf::smmuv3::PageResponse::{Invalid, Success};
use smmu_iopf::smmuv3::event::{FaultClass, StallRun};
use smmu_iopf::smmuv3::{StreamId, SubstreamId};

use super::fault_bench::*;

/// One whose handler answers at once.
fn bench() -> Bench {
    let bench = Bench::open(Kind::Stall);
    bench.handler.at_once.store(100, SeqCst);
    bench
}

#[test]
fn one_that_is_served_at_once_is_answered_and_counted() {
    let bench = bench();
    bench.table.set_clock(|| 7);
    assert_eq!(bench.report_lone(0, &stall(STREAM, 1, 0x1000)), [to_stall(STREAM, 1, Success)]);
    assert_eq!(*bench.handler.asked.lock().unwrap(), [[1]]);
    let totals = bench.table.totals();
    for counted in [totals.statistics, bench.cpu.masked(|masked| bench.table.statistics(masked, STREAM)).unwrap()] {
        assert_eq!((counted.records, counted.groups, counted.inline, counted.success), (1, 1, 1, 1));
        assert_eq!((counted.invalid, counted.failure, counted.deferred), (0, 0, 0));
    }
    assert_eq!((totals.latencies.count(), totals.latencies.buckets[0]), (1, 1));
}

#[test]
fn one_that_is_not_served_at_once_is_reported_by_itself() {
    let bench = bench();
    assert_eq!(bench.report_lone(0, &stall(STREAM, 1, WILD)), [to_stall(STREAM, 1, Invalid)]);
    assert_eq!(*bench.handler.asked.lock().unwrap(), [[1]]);
    assert_eq!(*bench.handler.seen.lock().unwrap(), [[stall(STREAM, 1, WILD)]]);
    let counted = bench.table.totals().statistics;
    assert_eq!((counted.records, counted.groups, counted.inline, counted.invalid), (1, 1, 1, 1));
}

#[test]
fn one_that_is_deferred_keeps_its_slot_and_no_other() {
    let mut bench = Bench::with_limits(Limits { states: 8, groups: 64 });
    bench.open_with(&[STREAM], Kind::Stall, STREAM_LIMITS, 0).unwrap();
    bench.handler.defers.store(true, SeqCst);
    assert_eq!(bench.report_lone(0, &stall(STREAM, 1, 0x1000)), []);
    let totals = bench.table.totals();
    assert_eq!((totals.slots_in_use, totals.statistics.deferred), (1, 1));
    let group = bench.handler.take_one();
    bench.cpu.masked(|masked| group.respond(masked, Success)).unwrap();
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 1, Success)]);
    assert_eq!(bench.table.totals().slots_in_use, 0);
}

#[test]
fn an_early_one_an_unknown_one_and_one_after_close_ask_nobody() {
    let mut bench = bench();
    let (late, unknown) = (StreamId(0x104), StreamId(0x107));
    bench.open_with(&[late], Kind::Stall, STREAM_LIMITS, 2).unwrap();
    assert_eq!(bench.report_lone(1, &stall(late, 1, 0x1000)), []);
    assert_eq!(bench.report_lone(1, &stall(unknown, 2, 0x1000)), [to_stall(unknown, 2, Invalid)]);
    assert!(bench.handler.asked.lock().unwrap().is_empty());
    assert_eq!(bench.report_lone(2, &stall(late, 3, 0x1000)), [to_stall(late, 3, Success)]);
    let _closing = bench.cpu.masked(|masked| bench.table.close(masked, late)).unwrap();
    assert_eq!(bench.report_lone(3, &stall(late, 4, 0x1000)), []);
    let counted = bench.table.totals().statistics;
    assert_eq!((counted.records, counted.groups, counted.success, counted.invalid), (4, 2, 1, 1));
    assert_eq!((counted.early, counted.unknown, counted.closed), (1, 1, 1));
}

#[test]
fn one_of_a_substream_asks_its_own_handler() {
    let mut bench = bench();
    let own = Arc::new(Handler::default());
    own.at_once.store(100, SeqCst);
    let five = SubstreamId::new(5).unwrap();
    bench.table.set_substream_handler(&mut bench.cpu, STREAM, five, own.clone()).unwrap();
    for (tag, substream) in [(1, 5), (2, 6)] {
        let stall = in_substream(stall(STREAM, tag, 0x1000), substream);
        assert_eq!(bench.report_lone(0, &stall), [stall.answer(Success)]);
    }
    assert_eq!(*own.asked.lock().unwrap(), [[1]]);
    assert_eq!(*bench.handler.asked.lock().unwrap(), [[2]]);
}

#[test]
fn a_handler_that_panics_has_not_answered_it_at_once() {
    let bench = bench();
    bench.handler.panics.store(true, SeqCst);
    assert_eq!(bench.report_lone(0, &stall(STREAM, 1, 0x1000)), [to_stall(STREAM, 1, Invalid)]);
}

/// 7.3.13: S2, CLASS 2, and the IPA in word 3.
#[test]
fn one_at_stage_2_is_reported_with_its_ipa() {
    const IPA: u64 = 0x00ff_ffff_ffff_f000;
    let bench = Bench::open(Kind::Stage2Stall);
    let words = [0x101 << 32 | 0x10, 1 << 31 | 1 << 35 | 1 << 39 | 2 << 40 | 7, 0x1234_5008];
    let mut answered = 0;
    let answer = |stalls: StallRun<'_>, _| answered += stalls.len();
    assert!(bench.cpu.masked(|masked| bench.table.stall(masked, 0, words, || IPA, answer)));
    let stage2 = Some(Stage2Fault { ipa: IPA, class: FaultClass::Input, table_write: false });
    let expected = Fault { stage2, ..stall(STREAM, 7, 0x1234_5008) };
    assert_eq!(*bench.handler.seen.lock().unwrap(), [[expected]]);
    assert_eq!(answered, 1);
}

/// 7.3.13: F_TRANSLATION with Stall clear; 7.3.3: C_BAD_STREAMID.
#[test]
fn a_record_that_is_of_no_stall_is_left_to_the_caller() {
    let bench = bench();
    for words in [[0x101 << 32 | 0x10, 1 << 35 | 2 << 40, 0x1000], [0x101 << 32 | 0x02, 1 << 31, 0]] {
        let answer = |_: StallRun<'_>, _| panic!("an answer");
        assert!(!bench.cpu.masked(|masked| bench.table.stall(masked, 0, words, || 0, answer)));
    }
    assert_eq!(bench.table.totals().statistics.records, 0);
}
