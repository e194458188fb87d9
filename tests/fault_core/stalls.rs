//! Stalls that are reported together.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use smmu_iopf::iopf::{
    Answer, BUCKETS, Fault, FaultHandler, Kind, Limits, Stage2Fault, StallAnswers, StreamLimits, Verdict,
};
use smmu_iopf::smmuv3::PageResponse::{Invalid, Success};
use smmu_iopf::smmuv3::event::{FaultClass, StallRun};
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId};
use smmu_iopf::sync::Masked;

use super::fault_bench::*;

/// Not in the place of [`STREAM`], whose runs would end where one of its begins.
const OTHER: StreamId = StreamId(0x102);

fn bench() -> Bench {
    let mut bench = Bench::open(Kind::Stall);
    bench.open_stream(OTHER, Kind::Stall).unwrap();
    bench.handler.at_once.store(100, SeqCst);
    bench
}

impl Bench {
    fn asked(&self) -> Vec<Vec<u16>> {
        std::mem::take(&mut self.handler.asked.lock().unwrap())
    }
}

fn success(stream: StreamId, tags: impl IntoIterator<Item = u16>) -> Vec<Answer> {
    tags.into_iter().map(|tag| to_stall(stream, tag, Success)).collect()
}

#[test]
fn stalls_of_two_streams_that_take_turns_are_asked_about_by_stream() {
    let bench = bench();
    let stalls = [1, 2, 3, 4, 5].map(|tag| stall(if tag % 2 == 1 { STREAM } else { OTHER }, tag, 0x1000));
    let answers = bench.report_stalls(0, &stalls);
    assert_eq!(answers, [success(STREAM, [1, 3, 5]), success(OTHER, [2, 4])].concat());
    assert_eq!(bench.asked(), [vec![1, 3, 5], vec![2, 4]]);
    let totals = bench.table.totals();
    assert_eq!(totals.statistics.records, 5);
    assert_eq!((totals.statistics.groups, totals.statistics.inline, totals.statistics.success), (5, 5, 5));
    let other = bench.cpu.masked(|masked| bench.table.statistics(masked, OTHER)).unwrap();
    assert_eq!((other.records, other.groups, other.inline, other.success), (2, 2, 2, 2));
}

#[test]
fn what_is_answered_at_once_is_measured_from_the_beginning_of_its_batch_until_all_of_that_is_answered() {
    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(1000) };
    }
    /// Each look takes three ticks.
    fn clock() -> u64 {
        NOW.replace(NOW.get() + 3)
    }
    let bench = bench();
    bench.table.set_clock(clock);
    let _ = bench.report_stalls(0, &[1, 2, 3].map(|tag| stall(if tag == 2 { OTHER } else { STREAM }, tag, 0x1000)));
    let mut expected = [0; BUCKETS];
    expected[2] = 3;
    assert_eq!(bench.table.totals().latencies.buckets, expected);
    expected[2] = 2;
    let of_stream = bench.cpu.masked(|masked| bench.table.latencies(masked, STREAM)).unwrap();
    assert_eq!(of_stream.buckets, expected);
}

#[test]
fn what_is_between_those_answered_at_once_is_asked_about_by_itself() {
    let bench = bench();
    let addresses = [(1, 0x1000), (2, 0x2000), (3, WILD), (4, 0x3000), (5, WILD)];
    let stalls = addresses.map(|(tag, address)| stall(STREAM, tag, address));
    let answers = bench.report_stalls(0, &stalls);
    let responses = [Success, Success, Invalid, Success, Invalid];
    assert_eq!(answers, responses.into_iter().zip(1..).map(|(r, tag)| to_stall(STREAM, tag, r)).collect::<Vec<_>>());
    assert_eq!(bench.asked(), [vec![1, 2, 3, 4, 5], vec![4, 5]]);
    let seen = bench.handler.seen.lock().unwrap();
    assert_eq!(*seen, [0, 1, 2, 3, 4].map(|n| vec![stalls[n]]), "each once");
    drop(seen);
    let statistics = bench.table.totals().statistics;
    assert_eq!((statistics.records, statistics.success, statistics.invalid), (5, 3, 2));
}

#[test]
fn a_handler_that_answers_none_at_once_is_asked_about_each_and_may_defer() {
    let bench = bench();
    bench.handler.at_once.store(0, SeqCst);
    bench.handler.defers.store(true, SeqCst);
    assert_eq!(bench.report_stalls(0, &[stall(STREAM, 1, 0x1000), stall(STREAM, 2, 0x2000)]), []);
    let groups = bench.handler.take();
    assert_eq!(groups.len(), 2);
    for group in groups {
        bench.cpu.masked(|masked| group.respond(masked, Success)).unwrap();
    }
    assert_eq!(bench.responder.take(), success(STREAM, [1, 2]));
}

#[test]
fn a_run_ends_when_it_is_long_and_when_another_stream_wants_its_place() {
    let mut bench = bench();
    let neighbour = StreamId(STREAM.0 + 4);
    bench.open_stream(neighbour, Kind::Stall).unwrap();
    let mut stalls = (0..70).map(|tag| stall(STREAM, tag, 0x1000)).collect::<Vec<_>>();
    stalls.push(stall(neighbour, 70, 0x1000));
    stalls.push(stall(STREAM, 71, 0x1000));
    let answers = bench.report_stalls(0, &stalls);
    assert_eq!(answers, [success(STREAM, 0..70), success(neighbour, [70]), success(STREAM, [71])].concat());
    assert_eq!(bench.asked(), [(0..64).collect(), (64..70).collect(), vec![70], vec![71]]);
    assert_eq!(bench.table.totals().statistics.success, 72);
}

/// What was answered together.
#[derive(Default)]
struct Together(Vec<(Vec<Vec<u16>>, PageResponse)>);

impl StallAnswers for &mut Together {
    fn answer<'s>(&mut self, runs: impl Iterator<Item = StallRun<'s>> + Clone, count: usize, response: PageResponse) {
        let tags = runs.map(|run| run.iter().map(|stall| stall.stag().0).collect()).collect::<Vec<Vec<_>>>();
        assert_eq!(tags.iter().map(Vec::len).sum::<usize>(), count);
        self.0.push((tags, response));
    }
}

#[test]
fn what_is_answered_at_once_is_answered_together_and_the_rest_behind_it() {
    let bench = bench();
    let stalls = [1, 2, 3, 4, 5, 6].map(|tag| stall(if tag % 2 == 1 { STREAM } else { OTHER }, tag, 0x1000));
    let last = [(OTHER, 7, WILD), (OTHER, 8, 0x1000), (STREAM, 9, 0x1000)].map(|(of, tag, at)| stall(of, tag, at));
    let mut together = Together::default();
    bench.cpu.masked(|masked| {
        bench.table.stalls(masked, 0, &mut together, |batch| {
            stalls.iter().chain(&last).for_each(|fault| assert!(batch.report(|| (0, 0), recorded(fault))));
        });
    });
    let at_once = vec![vec![1, 3, 5, 9], vec![2, 4, 6]];
    assert_eq!(together.0, [(at_once, Success), (vec![vec![7]], Invalid), (vec![vec![8]], Success)]);
}

#[test]
fn each_substream_is_asked_about_for_itself_and_with_its_own_handler() {
    let mut bench = bench();
    let own = Arc::new(Handler::default());
    own.at_once.store(100, SeqCst);
    let five = SubstreamId::new(5).unwrap();
    bench.table.set_substream_handler(&mut bench.cpu, STREAM, five, own.clone()).unwrap();
    let stalls = [
        in_substream(stall(STREAM, 1, 0x1000), 5),
        in_substream(stall(STREAM, 2, 0x1000), 5),
        in_substream(stall(STREAM, 3, 0x1000), 6),
        stall(STREAM, 4, 0x1000),
    ];
    let answers = bench.report_stalls(0, &stalls);
    assert_eq!(answers, stalls.map(|stall| stall.answer(Success)));
    assert_eq!(*own.asked.lock().unwrap(), [[1, 2]]);
    assert_eq!(bench.asked(), [[3], [4]]);
}

#[test]
fn early_and_unknown_ones_and_those_after_close_are_no_run() {
    let mut bench = bench();
    let late = StreamId(0x104);
    bench.open_with(&[late], Kind::Stall, STREAM_LIMITS, 2).unwrap();
    let unknown = StreamId(0x107);
    let stalls = [stall(late, 1, 0x1000), stall(unknown, 2, 0x1000), stall(late, 3, 0x1000)];
    assert_eq!(bench.report_stalls(0, &stalls), [to_stall(unknown, 2, Invalid), to_stall(late, 3, Success)]);
    assert_eq!(bench.asked(), [[3]], "in a batch that is older in part");
    let _closing = bench.cpu.masked(|masked| bench.table.close(masked, late)).unwrap();
    assert_eq!(bench.report_stalls(3, &[stall(late, 4, 0x1000), stall(late, 5, 0x1000)]), []);
    assert!(bench.asked().is_empty());
    let statistics = bench.table.totals().statistics;
    assert_eq!((statistics.early, statistics.unknown, statistics.closed, statistics.success), (1, 1, 2, 1));
    assert_eq!(statistics.records, 5);
}

#[test]
fn a_stream_of_page_requests_has_no_stalls_answered() {
    let bench = Bench::open(Kind::Page);
    bench.handler.at_once.store(100, SeqCst);
    assert_eq!(bench.report_stalls(0, &[stall(STREAM, 1, 0x1000)]), [to_stall(STREAM, 1, Invalid)]);
    assert!(bench.asked().is_empty());
}

#[test]
fn a_handler_that_panics_has_answered_none_at_once() {
    let bench = bench();
    bench.handler.panics.store(true, SeqCst);
    assert_eq!(
        bench.report_stalls(0, &[stall(STREAM, 1, 0x1000), stall(STREAM, 2, 0x1000)]),
        [1, 2].map(|tag| to_stall(STREAM, tag, Invalid))
    );
}

#[test]
fn a_handler_that_claims_more_than_it_was_asked_about_has_answered_all() {
    struct Boastful;
    impl FaultHandler for Boastful {
        fn handle(&self, _: &Masked, _: &[smmu_iopf::iopf::Fault]) -> Verdict {
            Verdict::Answer(PageResponse::Failure)
        }
        fn serve_at_once(&self, _: &Masked, stalls: StallRun<'_>) -> usize {
            stalls.len() + 1
        }
        fn defer(&self, _: &Masked, _: smmu_iopf::iopf::FaultGroup) {}
    }
    let mut bench = Bench::new();
    bench.open_to(STREAM, Kind::Stall, Arc::new(Boastful), StreamLimits { groups: 1, ..STREAM_LIMITS });
    assert_eq!(bench.report_stalls(0, &[stall(STREAM, 1, 0)]), success(STREAM, [1]));
    assert_eq!(bench.table.totals().statistics.success, 1);
}

#[test]
fn a_run_behind_which_an_unknown_stall_takes_its_place_is_answered_once() {
    let bench = bench();
    let unknown = StreamId(STREAM.0 + 4);
    let answers = bench.report_stalls(0, &[stall(STREAM, 1, 0x1000), stall(unknown, 2, 0x1000)]);
    assert_eq!(answers, [to_stall(STREAM, 1, Success), to_stall(unknown, 2, Invalid)]);
}

#[test]
fn a_stall_behind_one_that_took_its_runs_place_is_answered() {
    let bench = bench();
    let unknown = StreamId(STREAM.0 + 4);
    let stalls =
        [stall(STREAM, 1, 0x1000), stall(unknown, 2, 0x1000), stall(STREAM, 3, 0x1000), stall(STREAM, 4, 0x1000)];
    assert_eq!(
        bench.report_stalls(0, &stalls),
        [(STREAM, 1, Success), (unknown, 2, Invalid), (STREAM, 3, Success), (STREAM, 4, Success)]
            .map(|(stream, tag, response)| to_stall(stream, tag, response))
    );
}

#[test]
fn a_run_keeps_the_limit_over_all_streams() {
    // With less than 32 left one at a time; else several are counted at once.
    for groups in [1, 5, 31, 33, 40, 60] {
        let mut bench = Bench::with_limits(Limits { states: 8, groups });
        bench.handler.defers.store(true, SeqCst);
        bench.open_with(&[STREAM], Kind::Stall, StreamLimits { groups: 64, ..STREAM_LIMITS }, 0).unwrap();
        let all = (0..64).map(|tag| stall(STREAM, tag, 0)).collect::<Vec<_>>();
        let refused = bench.report_stalls(0, &all).len();
        let totals = bench.table.totals();
        assert_eq!((refused, totals.slots_in_use), (64 - groups, groups));
        assert_eq!(
            (totals.statistics.deferred, totals.statistics.groups, totals.statistics.records),
            (groups as u64, 64, 64)
        );
        drop(bench.handler.take());
    }
}

/// 7.3.13, 7.3.16: F_TRANSLATION and F_PERMISSION with S2, CLASS and TTRnW; and without S2, and with the reserved CLASS, which is to be
/// answered too.
#[test]
fn stalls_at_stage_2_are_reported_one_by_one_with_what_is_missing() {
    const S2: u64 = 1 << 39;
    const IPA: u64 = 0x00ff_ffff_ffff_f000;
    let at = |class, table_write| Some(Stage2Fault { ipa: IPA, class, table_write });
    let cases = [
        (0x10, S2, at(FaultClass::ContextDescriptor, false)),
        (0x13, S2 | 1 << 40 | 1 << 44, at(FaultClass::TableDescriptor, false)),
        (0x13, S2 | 1 << 40, at(FaultClass::TableDescriptor, true)),
        (0x10, S2 | 2 << 40, at(FaultClass::Input, false)),
        (0x10, S2 | 3 << 40, None),
        (0x10, 2 << 40, None),
    ];
    for defers in [false, true] {
        let bench = Bench::open(Kind::Stage2Stall);
        bench.handler.at_once.store(100, SeqCst);
        bench.handler.defers.store(defers, SeqCst);
        for (tag, (kind, more, stage2)) in (7..).zip(cases) {
            let words = [0x101 << 32 | kind, 1 << 31 | 1 << 35 | more | u64::from(tag), 0x1234_5008];
            let mut answered = 0;
            let answer = |stalls: StallRun<'_>, _| answered += stalls.len();
            bench.cpu.masked(|masked| {
                bench.table.stalls(masked, 0, answer, |batch| assert!(batch.report(|| (0, IPA), words)))
            });
            let expected = Fault { stage2, ..stall(STREAM, tag, 0x1234_5008) };
            assert_eq!(std::mem::take(&mut *bench.handler.seen.lock().unwrap()), [vec![expected]]);
            if defers {
                let group = bench.handler.take_one();
                assert_eq!(group.faults().collect::<Vec<_>>(), [expected]);
                bench.cpu.masked(|masked| group.respond(masked, Success)).unwrap();
                assert_eq!(bench.responder.take(), [to_stall(STREAM, tag, Success)]);
            }
            assert_eq!(answered, usize::from(!defers));
        }
        assert_eq!(bench.asked(), [[0_u16; 0]; 0]);
    }
}
