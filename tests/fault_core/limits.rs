//! A device that asks for too much harms only itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use embedded_hal::delay::DelayNs;
use smmu_iopf::iopf::{FaultTable, Kind, Limits, OpenError, OpenRequest, Report, StreamLimits};
use smmu_iopf::smmuv3::PageResponse::{Invalid, Success};
use smmu_iopf::smmuv3::StreamId;
use smmu_iopf::sync::grace::Ref;

use super::fault_bench::*;

#[test]
fn a_stream_over_its_limit_is_answered_invalid_and_its_neighbour_does_not_notice() {
    let mut bench = Bench::deferring(Kind::Stall);
    let other = StreamId(7);
    bench.open_stream(other, Kind::Stall).unwrap();
    for tag in 0..4 {
        assert_eq!(bench.report(stall(STREAM, tag, 0)), Report::Deferred);
    }
    assert_eq!(bench.report(stall(STREAM, 4, 0)), Report::Answer(to_stall(STREAM, 4, Invalid)));
    assert_eq!(bench.report(stall(other, 0, 0)), Report::Deferred);
    assert_eq!(bench.table.totals().statistics.over_limit, 1);
    // One answered, one more is served.
    let first = bench.handler.take().remove(0);
    bench.cpu.masked(|masked| first.respond(masked, Success)).unwrap();
    assert_eq!(bench.report(stall(STREAM, 5, 0)), Report::Deferred);
}

#[test]
fn faults_that_are_answered_inline_need_no_room() {
    let bench = Bench::deferring(Kind::Stall);
    for tag in 0..4 {
        assert_eq!(bench.report(stall(STREAM, tag, 0)), Report::Deferred);
    }
    bench.handler.defers.store(false, SeqCst);
    assert_eq!(bench.report(stall(STREAM, 4, 0)), Report::Answer(to_stall(STREAM, 4, Success)));
}

#[test]
fn the_limit_over_all_streams_holds() {
    let mut bench = Bench::with_limits(Limits { states: 8, groups: 5 });
    bench.handler.defers.store(true, SeqCst);
    for stream in [STREAM, StreamId(7)] {
        bench.open_stream(stream, Kind::Stall).unwrap();
        for tag in 0..3 {
            let _ = bench.report(stall(stream, tag, 0));
        }
    }
    let totals = bench.table.totals();
    assert_eq!((totals.slots_in_use, totals.statistics.deferred, totals.statistics.over_limit), (5, 5, 1));
    drop(bench.handler.take());
    bench.table.expire(&bench.cpu, 0);
    assert_eq!(bench.table.totals().slots_in_use, 0);
}

#[test]
fn a_timed_out_group_counts_until_its_holder_lets_go() {
    let bench = Bench::deferring(Kind::Stall);
    for tag in 0..4 {
        assert_eq!(bench.report(stall(STREAM, tag, 0)), Report::Deferred);
    }
    bench.table.expire(&bench.cpu, 0);
    assert_eq!(bench.table.expire(&bench.cpu, 1_000_000), 4);
    assert_eq!(bench.report(stall(STREAM, 4, 0)), Report::Answer(to_stall(STREAM, 4, Invalid)));
    drop(bench.handler.take());
    assert_eq!(bench.report(stall(STREAM, 5, 0)), Report::Deferred);
}

#[test]
fn partial_groups_count_and_a_request_without_room_has_its_group_refused() {
    let bench = Bench::open(Kind::Page);
    for group in 0..6 {
        assert_eq!(bench.report(page(STREAM, group, false, 0)), Report::Held);
    }
    assert_eq!(bench.table.totals().slots_in_use, 4);
    assert_eq!(bench.report(page(STREAM, 4, true, 0)), Report::Answer(to_group(STREAM, 4, Invalid)));
    assert_eq!(bench.report(page(STREAM, 0, true, 0)), Report::Answer(to_group(STREAM, 0, Success)));
    // There is room now, but a request of group 5 is lost.
    assert_eq!(bench.report(page(STREAM, 5, true, 0)), Report::Answer(to_group(STREAM, 5, Invalid)));
    assert_eq!(bench.table.totals().statistics.over_limit, 2);
}

#[test]
fn a_table_of_2_to_the_20_streams_finds_the_first_and_the_last() {
    let mut bench = Bench::new();
    for stream in [0, 0xf_ffff].map(StreamId) {
        bench.open_stream(stream, Kind::Stall).unwrap();
        assert_eq!(bench.report(stall(stream, 1, 0)), Report::Answer(to_stall(stream, 1, Success)));
    }
    let stream = StreamId(0x10_0000);
    assert_eq!(bench.open_stream(stream, Kind::Stall), Err(OpenError::NoSuchStream { stream, bits: 20 }));
}

#[test]
fn a_table_narrower_than_a_leaf_ends_where_its_streams_end() {
    let bench = Bench::new();
    let mut bench = Bench {
        table: FaultTable::new(Arc::clone(&bench.domain), bench.responder.clone(), 3, LIMITS).unwrap(),
        ..bench
    };
    bench.open_stream(StreamId(7), Kind::Stall).unwrap();
    let stream = StreamId(8);
    assert_eq!(bench.open_stream(stream, Kind::Stall), Err(OpenError::NoSuchStream { stream, bits: 3 }));
    assert!(FaultTable::new(bench.domain.clone(), bench.responder.clone(), 33, LIMITS).is_err());
}

#[test]
fn limits_out_of_range_and_wrong_numbers_of_streams_are_refused() {
    let mut bench = Bench::new();
    let good = STREAM_LIMITS;
    for limits in [StreamLimits { groups: 0, ..good }, StreamLimits { groups: 0xffff, ..good }] {
        assert_eq!(bench.open_with(&[STREAM], Kind::Page, limits, 0), Err(OpenError::NotSupported { limits }));
    }
    for limits in [StreamLimits { requests: 0, ..good }, StreamLimits { requests: 33, ..good }] {
        assert_eq!(bench.open_with(&[STREAM], Kind::Page, limits, 0), Err(OpenError::NotSupported { limits }));
    }
    assert_eq!(bench.open_with(&[], Kind::Page, good, 0), Err(OpenError::StreamCount { count: 0 }));
    assert_eq!(bench.open_with(&[STREAM; 17], Kind::Page, good, 0), Err(OpenError::StreamCount { count: 17 }));
    let twice = [STREAM, StreamId(8), StreamId(9), StreamId(8)];
    assert_eq!(bench.open_with(&twice, Kind::Page, good, 0), Err(OpenError::Repeated { stream: StreamId(8) }));
    assert_eq!((bench.table.live(), bench.table.open_streams().count()), (0, 0));
}

#[test]
fn the_bound_on_states_counts_closed_ones_until_they_are_freed() {
    let mut bench = Bench::with_limits(Limits { states: 2, groups: 8 });
    bench.handler.defers.store(true, SeqCst);
    bench.open_stream(StreamId(1), Kind::Stall).unwrap();
    bench.open_stream(StreamId(2), Kind::Stall).unwrap();
    let full = Err(OpenError::TooManyStates { live: 2, limit: 2 });
    assert_eq!(bench.open_stream(StreamId(3), Kind::Stall), full);
    // A closed state that someone still holds is live.
    assert_eq!(bench.report(stall(StreamId(1), 0, 0)), Report::Deferred);
    bench.close(StreamId(1));
    assert_eq!(bench.open_stream(StreamId(3), Kind::Stall), full);
    // Let go, it is freed by the waiting open itself.
    drop(bench.handler.take());
    assert_eq!(bench.table.live(), 2);
    bench.open_stream(StreamId(3), Kind::Stall).unwrap();
    assert_eq!(bench.table.live(), 2);
}

#[test]
fn who_opens_at_the_bound_waits_for_a_state_that_another_core_is_freeing() {
    /// Keeps who frees it, until it is let go.
    #[derive(Debug)]
    struct Slow(Arc<[AtomicBool; 2]>);
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0[0].store(true, SeqCst);
            while !self.0[1].load(SeqCst) {
                thread::yield_now();
            }
        }
    }
    /// Lets it go while the open waits.
    struct LetGo(Arc<[AtomicBool; 2]>);
    impl DelayNs for LetGo {
        fn delay_ns(&mut self, _: u32) {
            self.0[1].store(true, SeqCst);
            thread::sleep(Duration::from_micros(10));
        }
    }
    let mut bench = Bench::with_limits(Limits { states: 1, ..LIMITS });
    bench.open_stream(STREAM, Kind::Stall).unwrap();
    bench.close(STREAM);
    let slow = Arc::<[AtomicBool; 2]>::default();
    // Freed before the state, which was retired before it.
    drop(Ref::new(&bench.domain, Slow(slow.clone())).unwrap());
    let Bench { domain, handler, table, cpu: here, .. } = &mut bench;
    domain.offline(here);
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(domain.poll(&mut cpu(1)), 2));
        while !slow[0].load(SeqCst) {
            thread::yield_now();
        }
        let handler = handler.clone();
        let request = OpenRequest { streams: &[STREAM], kind: Kind::Stall, handler, limits: STREAM_LIMITS, since: 0 };
        let opened = table.open(here, &mut LetGo(slow.clone()), request);
        slow[1].store(true, SeqCst);
        assert_eq!(opened, Ok(()));
    });
}

#[test]
fn a_batch_keeps_nothing_of_the_limit_over_all_streams_but_what_it_uses() {
    for groups in [1, 5, 31, 33, 40, 60] {
        let mut bench = Bench::with_limits(Limits { states: 8, groups });
        bench.handler.defers.store(true, SeqCst);
        let streams = [STREAM, StreamId(7)];
        for stream in streams {
            bench.open_with(&[stream], Kind::Stall, StreamLimits { groups: 64, ..STREAM_LIMITS }, 0).unwrap();
        }
        let deferred = |count: u16| {
            bench.cpu.masked(|masked| {
                bench.table.batch(masked, |batch| {
                    let reports = (0..count).map(|tag| batch.report(0, &stall(streams[usize::from(tag % 2)], tag, 0)));
                    reports.filter(|report| *report == Report::Deferred).count()
                })
            })
        };
        let few = groups.min(3);
        assert_eq!((deferred(few as u16), bench.table.totals().slots_in_use), (few, few));
        assert_eq!((deferred(64), bench.table.totals().slots_in_use), (groups - few, groups));
        let statistics = bench.table.totals().statistics;
        assert_eq!((statistics.deferred, statistics.over_limit), (groups as u64, (64 + few - groups) as u64));
        bench.cpu.masked(|masked| {
            bench.handler.take().into_iter().for_each(|group| group.respond(masked, Success).unwrap());
        });
        assert_eq!(bench.table.totals().slots_in_use, 0);
        streams.into_iter().for_each(|stream| bench.close(stream));
        bench.free();
        assert_eq!((bench.table.live(), bench.domain.stats().in_memory()), (0, 0));
    }
}
