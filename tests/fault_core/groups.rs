//! Page request groups.

use std::sync::atomic::Ordering::SeqCst;

use smmu_iopf::iopf::{Kind, Partials, Report};
use smmu_iopf::smmuv3::PageResponse::{Invalid, Success};
use smmu_iopf::smmuv3::{StreamId, SubstreamId};

use super::fault_bench::*;

#[test]
fn requests_wait_for_the_last_one_and_reach_the_handler_in_their_order() {
    let bench = Bench::open(Kind::Page);
    let group = [page(STREAM, 9, false, 0x3000), page(STREAM, 9, false, 0x1000), page(STREAM, 9, true, 0x2000)];
    assert_eq!(bench.report(group[0]), Report::Held);
    assert_eq!(bench.report(group[1]), Report::Held);
    assert_eq!(bench.table.totals().slots_in_use, 1);
    assert_eq!(bench.report(group[2]), Report::Answer(to_group(STREAM, 9, Success)));
    assert_eq!(*bench.handler.seen.lock().unwrap(), [group.to_vec()]);
    assert_eq!(bench.table.totals().slots_in_use, 0);
}

#[test]
fn one_refused_page_refuses_its_group() {
    let bench = Bench::open(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 9, false, WILD)), Report::Held);
    assert_eq!(bench.report(page(STREAM, 9, true, 0)), Report::Answer(to_group(STREAM, 9, Invalid)));
}

#[test]
fn groups_interleave() {
    let bench = Bench::deferring(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 1, false, 0x1000)), Report::Held);
    assert_eq!(bench.report(page(STREAM, 2, false, 0x2000)), Report::Held);
    assert_eq!(bench.report(page(STREAM, 1, true, 0x3000)), Report::Deferred);
    assert_eq!(bench.report(page(STREAM, 2, true, 0x4000)), Report::Deferred);
    let pages = |group: &smmu_iopf::iopf::FaultGroup| group.faults().map(|fault| fault.address).collect::<Vec<_>>();
    let groups = bench.handler.take();
    assert_eq!(groups.iter().map(pages).collect::<Vec<_>>(), [[0x1000, 0x3000], [0x2000, 0x4000]]);
    for group in groups.into_iter().rev() {
        bench.cpu.masked(|masked| group.respond(masked, Success)).unwrap();
    }
    assert_eq!(bench.responder.take(), [to_group(STREAM, 2, Success), to_group(STREAM, 1, Success)]);
}

#[test]
fn the_same_index_of_two_streams_of_one_master_is_two_groups() {
    let mut bench = Bench::new();
    let other = StreamId(0x8_0000);
    bench.open_with(&[STREAM, other], Kind::Page, STREAM_LIMITS, 0).unwrap();
    assert_eq!(bench.report(page(STREAM, 1, false, 0x1000)), Report::Held);
    assert_eq!(bench.report(page(other, 1, true, 0x2000)), Report::Answer(to_group(other, 1, Success)));
    assert_eq!(bench.report(page(STREAM, 1, true, 0x3000)), Report::Answer(to_group(STREAM, 1, Success)));
    assert_eq!(bench.handler.seen.lock().unwrap()[0].len(), 1);
    assert_eq!(bench.handler.seen.lock().unwrap()[1].len(), 2);
}

#[test]
fn one_index_for_two_pasids_and_none_is_three_groups() {
    let bench = Bench::open(Kind::Page);
    let request = |pasid: Option<u32>, last, address| {
        let request = page(STREAM, 9, last, address);
        pasid.map_or(request, |pasid| in_substream(request, pasid))
    };
    let all = [Some(5), Some(6), None];
    for (at, pasid) in all.into_iter().enumerate() {
        assert_eq!(bench.report(request(pasid, false, (at as u64) << 12)), Report::Held);
    }
    // Another index has its place in the slots meanwhile, where one becomes free.
    for (at, pasid) in [(1, Some(6)), (2, None), (0, Some(5))] {
        assert_eq!(bench.report(request(pasid, false, 0x1_0000 | at << 12)), Report::Held);
        let last = request(pasid, true, 0x2_0000 | at << 12);
        assert_eq!(bench.report(last), Report::Answer(last.answer(Success)));
        let seen = bench.handler.seen.lock().unwrap().pop().unwrap();
        let want = [request(pasid, false, at << 12), request(pasid, false, 0x1_0000 | at << 12), last];
        assert_eq!(seen, want);
        assert_eq!(bench.report(page(STREAM, 10 + at as u16, false, 0)), Report::Held);
    }
    assert_eq!(bench.table.totals().slots_in_use, 3, "those of the other indices");
    assert_eq!(bench.table.totals().statistics.duplicates, 0);
}

#[test]
fn a_group_that_overflows_refuses_its_own_last_request_and_not_the_other_pasids_group_of_its_index() {
    let bench = Bench::open(Kind::Page);
    for pasid in [5, 6] {
        assert_eq!(bench.report(in_substream(page(STREAM, 9, false, 0), pasid)), Report::Held);
    }
    for _ in 0..STREAM_LIMITS.requests {
        assert_eq!(bench.report(in_substream(page(STREAM, 9, false, 0), 5)), Report::Held);
    }
    let [six, five] = [6, 5].map(|pasid| in_substream(page(STREAM, 9, true, 0), pasid));
    assert_eq!(bench.report(six), Report::Answer(six.answer(Success)));
    assert_eq!(bench.report(five), Report::Answer(five.answer(Invalid)));
    assert_eq!(bench.report(five), Report::Answer(five.answer(Success)), "a group of its own");
}

#[test]
fn a_group_with_more_requests_than_its_storage_is_answered_invalid_at_last_and_counted() {
    let bench = Bench::open(Kind::Page);
    for address in 0..6 {
        assert_eq!(bench.report(page(STREAM, 9, false, address << 12)), Report::Held);
    }
    // Its storage is free again before Last comes.
    assert_eq!(bench.table.totals().slots_in_use, 0);
    assert_eq!(bench.report(page(STREAM, 9, true, 0)), Report::Answer(to_group(STREAM, 9, Invalid)));
    let statistics = bench.table.totals().statistics;
    assert_eq!((statistics.over_limit, statistics.cut, statistics.inline), (1, 2, 0));
    // The next group of that index is served.
    assert_eq!(bench.report(page(STREAM, 9, true, 0)), Report::Answer(to_group(STREAM, 9, Success)));
}

#[test]
fn a_group_that_only_its_last_request_overfills_is_answered_invalid() {
    let bench = Bench::open(Kind::Page);
    for address in 0..4 {
        assert_eq!(bench.report(page(STREAM, 9, false, address << 12)), Report::Held);
    }
    assert_eq!(bench.report(page(STREAM, 9, true, 0)), Report::Answer(to_group(STREAM, 9, Invalid)));
    assert_eq!(bench.table.totals().statistics.over_limit, 1);
    assert_eq!(bench.table.totals().slots_in_use, 0);
}

#[test]
fn an_index_used_again_before_its_answer_is_a_group_of_its_own_with_an_answer_of_its_own() {
    let bench = Bench::deferring(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 9, true, 0x1000)), Report::Deferred);
    assert_eq!(bench.report(page(STREAM, 9, false, 0x2000)), Report::Held);
    assert_eq!(bench.report(page(STREAM, 9, true, 0x3000)), Report::Deferred);
    assert_eq!(bench.table.totals().statistics.duplicates, 1);
    let groups = bench.handler.take();
    assert_eq!(groups.iter().map(smmu_iopf::iopf::FaultGroup::len).collect::<Vec<_>>(), [1, 2]);
    for (group, response) in groups.into_iter().zip([Success, Invalid]) {
        bench.cpu.masked(|masked| group.respond(masked, response)).unwrap();
    }
    assert_eq!(bench.responder.take(), [to_group(STREAM, 9, Success), to_group(STREAM, 9, Invalid)]);
}

#[test]
fn discarded_partials_are_forgotten_without_an_answer() {
    let mut bench = Bench::open(Kind::Page);
    let other = StreamId(7);
    bench.open_stream(other, Kind::Page).unwrap();
    assert_eq!(bench.report(page(STREAM, 1, false, 0x1000)), Report::Held);
    assert_eq!(bench.report(page(other, 1, false, 0x1000)), Report::Held);
    bench.cpu.masked(|masked| bench.table.discard_partials(masked, Partials::Stream(other)));
    assert_eq!(bench.table.totals().slots_in_use, 1);
    bench.cpu.masked(|masked| bench.table.discard_partials(masked, Partials::All));
    let totals = bench.table.totals();
    assert_eq!((totals.slots_in_use, totals.statistics.discarded, totals.statistics.answers()), (0, 2, 0));
    assert_eq!(bench.report(page(STREAM, 1, true, 0x2000)), Report::Answer(to_group(STREAM, 1, Success)));
    assert_eq!(bench.handler.seen.lock().unwrap()[0].len(), 1);
}

#[test]
fn discarding_one_pasid_leaves_the_others_and_complete_groups() {
    let bench = Bench::deferring(Kind::Page);
    assert_eq!(bench.report(in_substream(page(STREAM, 1, false, 0), 5)), Report::Held);
    assert_eq!(bench.report(in_substream(page(STREAM, 2, false, 0), 6)), Report::Held);
    assert_eq!(bench.report(in_substream(page(STREAM, 3, true, 0), 5)), Report::Deferred);
    let five = SubstreamId::new(5).unwrap();
    bench.cpu.masked(|masked| bench.table.discard_partials(masked, Partials::Substream(STREAM, five)));
    assert_eq!(bench.table.totals().statistics.discarded, 1);
    assert_eq!(bench.table.totals().slots_in_use, 2);
    assert!(bench.handler.take_one().is_waiting());
}

#[test]
fn after_an_overflow_a_cut_group_counts_as_new() {
    let bench = Bench::open(Kind::Page);
    for _ in 0..5 {
        assert_eq!(bench.report(page(STREAM, 9, false, 0)), Report::Held);
    }
    bench.cpu.masked(|masked| bench.table.discard_partials(masked, Partials::All));
    assert_eq!(bench.report(page(STREAM, 9, true, 0)), Report::Answer(to_group(STREAM, 9, Success)));
}

#[test]
fn a_partial_group_is_not_timed_out_because_nobody_waits_for_it() {
    let bench = Bench::open(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 9, false, 0)), Report::Held);
    assert_eq!(bench.table.expire(&bench.cpu, 0), 0);
    assert_eq!(bench.table.expire(&bench.cpu, 9_000_000), 0);
    assert_eq!(bench.report(page(STREAM, 9, true, 0)), Report::Answer(to_group(STREAM, 9, Success)));
}

#[test]
fn a_partial_group_that_is_deferred_keeps_its_slot() {
    let bench = Bench::open(Kind::Page);
    assert_eq!(bench.report(page(STREAM, 9, false, 0)), Report::Held);
    bench.handler.defers.store(true, SeqCst);
    assert_eq!(bench.report(page(STREAM, 9, true, 0)), Report::Deferred);
    assert_eq!(bench.table.totals().slots_in_use, 1);
    drop(bench.handler.take());
}
