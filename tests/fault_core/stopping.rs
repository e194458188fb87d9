//! One substream stopped, and what becomes of its groups and of the others'.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use smmu_iopf::iopf::{
    Answer, Fault, FaultTable, Kind, NotSent, OpenRequest, PageResponder, Partials, Report, StopError, Stopping,
    StreamLimits,
};
use smmu_iopf::smmuv3::PageResponse::{self, Failure, Invalid, Success};
use smmu_iopf::smmuv3::{Access, StreamId, SubstreamId};
use smmu_iopf::sync::Masked;
use smmu_iopf::sync::grace::{Domain, Grace};

use super::fault_bench::*;

/// The other StreamID of the master.
const OTHER: StreamId = StreamId(0x8_0000);
const FIVE: u32 = 5;

fn fault(stream: StreamId, group: u16, pasid: u32) -> Fault {
    in_substream(page(stream, group, true, 0x1000), pasid)
}

fn answer(group: u16, pasid: u32, response: PageResponse) -> Answer {
    Answer { substream: SubstreamId::new(pasid), ..to_group(STREAM, group, response) }
}

fn marker(stream: StreamId, pasid: u32) -> Fault {
    Fault { access: Access::default(), ..fault(stream, 0, pasid) }
}

/// A bench whose master has two StreamIDs, and whose handler defers.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.handler.defers.store(true, SeqCst);
    bench.open_with(&[STREAM, OTHER], Kind::Page, StreamLimits { groups: 8, ..STREAM_LIMITS }, 0).unwrap();
    bench
}

fn stop(bench: &Bench, stream: StreamId, pasid: u32) -> Result<Stopping, StopError> {
    bench.cpu.masked(|masked| bench.table.stop_substream(masked, stream, SubstreamId::new(pasid).unwrap()))
}

fn grace(bench: &mut Bench) -> Grace {
    bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap()
}

#[test]
fn requests_of_a_stopped_substream_are_refused_as_they_come_and_those_of_others_are_not() {
    let bench = bench();
    let stopping = stop(&bench, OTHER, FIVE).unwrap();
    let refused = Answer { stream: OTHER, ..answer(1, FIVE, Invalid) };
    assert_eq!(bench.report(fault(OTHER, 1, FIVE)), Report::Answer(refused));
    assert_eq!(bench.report(in_substream(page(OTHER, 2, false, 0), FIVE)), Report::Swallowed);
    for other in [fault(OTHER, 3, 6), page(OTHER, 4, true, 0), fault(STREAM, 1, FIVE)] {
        assert_eq!(bench.report(other), Report::Deferred);
    }
    assert_eq!(bench.handler.seen.lock().unwrap().len(), 3);
    stopping.finish();
    assert_eq!(bench.report(fault(OTHER, 1, FIVE)), Report::Deferred);
    drop(bench.handler.take());
}

#[test]
fn the_stop_marker_of_that_substream_alone_is_its_end_and_only_after_it_was_stopped() {
    let bench = bench();
    let _ = bench.report(marker(STREAM, FIVE));
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    let _ = bench.report(marker(STREAM, 6));
    let _ = bench.report(marker(OTHER, FIVE));
    assert!(!stopping.is_marked());
    assert_eq!(bench.report(marker(STREAM, FIVE)), Report::Swallowed);
    assert!(stopping.is_marked());
    let refused = bench.report(fault(STREAM, 1, FIVE));
    assert_eq!(refused, Report::Answer(answer(1, FIVE, Invalid)), "until it is finished");
    // Who asks again finds the marker that came meanwhile.
    drop(stopping);
    let again = stop(&bench, STREAM, FIVE).unwrap();
    assert!(again.is_marked());
    again.finish();
    assert!(!stop(&bench, STREAM, FIVE).unwrap().is_marked());
}

#[test]
fn what_its_handler_holds_is_answered_invalid_and_late_answers_send_nothing() {
    let mut bench = bench();
    for (group, pasid) in [(1, FIVE), (2, 6), (3, FIVE)] {
        assert_eq!(bench.report(fault(STREAM, group, pasid)), Report::Deferred);
    }
    assert_eq!(bench.report(in_substream(page(STREAM, 4, false, 0), FIVE)), Report::Held);
    assert_eq!(bench.report(in_substream(page(STREAM, 5, false, 0), 6)), Report::Held);
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    let grace = grace(&mut bench);
    let which = Partials::Substream(STREAM, SubstreamId::new(FIVE).unwrap());
    bench.cpu.masked(|masked| bench.table.discard_partials(masked, which));
    assert_eq!(stopping.answer_pending(&bench.cpu, &grace), 0);
    assert_eq!(bench.responder.take(), [answer(1, FIVE, Invalid), answer(3, FIVE, Invalid)]);
    let late = |group: smmu_iopf::iopf::FaultGroup| bench.cpu.masked(|masked| group.respond(masked, Success)).is_err();
    assert_eq!(bench.handler.take().into_iter().map(late).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(bench.responder.take(), [answer(2, 6, Success)]);
    assert_eq!(bench.table.totals().slots_in_use, 1, "the other's partial group");
    assert_eq!(bench.table.totals().statistics.discarded, 1);
    stopping.finish();
}

#[test]
fn answers_that_cannot_be_sent_are_said_to_wait_and_sent_by_another_try() {
    let mut bench = bench();
    for group in [1, 2] {
        assert_eq!(bench.report(fault(STREAM, group, FIVE)), Report::Deferred);
    }
    bench.responder.stuck.store(true, SeqCst);
    // Its handler has decided about one.
    let mut groups = bench.handler.take();
    bench.cpu.masked(|masked| groups.remove(1).respond(masked, Failure)).unwrap();
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    let grace = grace(&mut bench);
    assert_eq!((stopping.answer_pending(&bench.cpu, &grace), bench.responder.take()), (2, vec![]));
    bench.responder.stuck.store(false, SeqCst);
    assert_eq!(stopping.answer_pending(&bench.cpu, &grace), 0);
    assert_eq!(bench.responder.take(), [answer(1, FIVE, Invalid), answer(2, FIVE, Failure)]);
    drop(groups);
    assert_eq!(bench.table.totals().slots_in_use, 0);
    stopping.finish();
}

#[test]
fn a_group_that_was_cut_ends_with_its_last_request_and_not_with_the_next_group_of_its_index() {
    let bench = bench();
    for _ in 0..=STREAM_LIMITS.requests {
        let _ = bench.report(in_substream(page(STREAM, 1, false, 0), FIVE));
    }
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    assert_eq!(bench.report(fault(STREAM, 1, FIVE)), Report::Answer(answer(1, FIVE, Invalid)));
    assert_eq!(bench.report(fault(STREAM, 1, 6)), Report::Deferred);
    drop(bench.handler.take());
    stopping.finish();
}

#[test]
fn one_substream_of_a_master_that_sends_page_requests_is_stopped_at_a_time() {
    let mut bench = bench();
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    let busy = StopError::Busy { stream: STREAM, substream: SubstreamId::new(FIVE).unwrap() };
    assert_eq!(stop(&bench, STREAM, 6).unwrap_err(), busy);
    assert_eq!(stop(&bench, OTHER, FIVE).unwrap_err(), busy);
    stopping.finish();
    drop(stop(&bench, STREAM, 6).unwrap());
    assert_eq!(stop(&bench, StreamId(1), FIVE).unwrap_err(), StopError::NotOpen(StreamId(1)));
    bench.open_stream(StreamId(1), Kind::Stall).unwrap();
    assert_eq!(stop(&bench, StreamId(1), FIVE).unwrap_err(), StopError::NoPageRequests(StreamId(1)));
}

#[test]
fn a_master_that_is_closed_meanwhile_stays_closed_and_its_groups_are_the_disablers() {
    let mut bench = bench();
    assert_eq!(bench.report(fault(STREAM, 1, FIVE)), Report::Deferred);
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    let before = grace(&mut bench);
    let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
    assert_eq!((stopping.answer_pending(&bench.cpu, &before), bench.responder.take()), (1, vec![]));
    let _ = bench.report(marker(STREAM, FIVE));
    stopping.finish();
    assert_eq!(bench.report(fault(STREAM, 2, 6)), Report::Answer(answer(2, 6, Invalid)));
    assert_eq!(stop(&bench, STREAM, 6).unwrap_err(), StopError::NotOpen(STREAM));
    let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
    assert_eq!(closing.answer_pending(&bench.cpu, &grace).answered, 1);
    drop(bench.handler.take());
    // Served again, with every substream.
    closing.reopen().unwrap();
    assert_eq!(bench.report(fault(STREAM, 3, FIVE)), Report::Deferred);
    drop(bench.handler.take());
}

#[test]
fn a_group_that_was_cut_and_ended_with_its_substream_does_not_refuse_the_next_of_its_index() {
    let mut bench = bench();
    for _ in 0..=STREAM_LIMITS.requests {
        let _ = bench.report(in_substream(page(STREAM, 1, false, 0), FIVE));
    }
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    let _ = grace(&mut bench);
    let which = Partials::Substream(STREAM, SubstreamId::new(FIVE).unwrap());
    bench.cpu.masked(|masked| bench.table.discard_partials(masked, which));
    // The device sends no Last for it any more (8), and uses the index for another PASID.
    let _ = bench.report(marker(STREAM, FIVE));
    assert!(stopping.is_marked());
    stopping.finish();
    assert_eq!(bench.report(fault(STREAM, 1, 6)), Report::Deferred);
    drop(bench.handler.take());
}

#[test]
fn a_refused_last_request_ends_its_own_group_and_leaves_what_another_substream_has_under_its_index() {
    let bench = bench();
    for pasid in [FIVE, 6] {
        assert_eq!(bench.report(in_substream(page(STREAM, 1, false, 0x2000), pasid)), Report::Held);
    }
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    assert_eq!(bench.report(fault(STREAM, 1, FIVE)), Report::Answer(answer(1, FIVE, Invalid)));
    let totals = bench.table.totals();
    assert_eq!((totals.slots_in_use, totals.statistics.discarded), (1, 1));
    assert_eq!(bench.report(fault(STREAM, 1, 6)), Report::Deferred);
    assert_eq!(bench.handler.take_one().len(), 2);
    stopping.finish();
}

#[test]
fn a_refused_last_request_without_a_group_of_its_own_leaves_what_another_substream_has() {
    let bench = bench();
    assert_eq!(bench.report(in_substream(page(STREAM, 1, false, 0x2000), 6)), Report::Held);
    let stopping = stop(&bench, STREAM, FIVE).unwrap();
    assert_eq!(bench.report(fault(STREAM, 1, FIVE)), Report::Answer(answer(1, FIVE, Invalid)));
    assert_eq!(bench.report(fault(STREAM, 1, 6)), Report::Deferred);
    assert_eq!(bench.handler.take_one().len(), 2);
    stopping.finish();
}

/// Looks, before it sends the first answer, as core 1 how many groups wait for one.
struct Looks {
    stopping: Mutex<Option<(Stopping, Grace)>>,
    waiting: Mutex<Vec<usize>>,
}

impl PageResponder for Looks {
    fn respond(&self, _: &Masked, _: &[Answer]) -> Result<(), NotSent> {
        if let Some((stopping, grace)) = self.stopping.lock().unwrap().take() {
            self.waiting.lock().unwrap().push(stopping.answer_pending(&cpu(1), &grace));
        }
        Ok(())
    }
}

#[test]
fn a_group_whose_answer_is_claimed_and_not_published_waits() {
    let domain = Arc::new(Domain::new());
    let mut here = cpu(0);
    domain.online(&mut here);
    let looks = Arc::new(Looks { stopping: Mutex::default(), waiting: Mutex::default() });
    let table = FaultTable::new(domain.clone(), looks.clone(), 20, LIMITS).unwrap();
    let handler = Arc::new(Handler::default());
    handler.defers.store(true, SeqCst);
    let request =
        OpenRequest { streams: &[STREAM], kind: Kind::Page, handler: handler.clone(), limits: STREAM_LIMITS, since: 0 };
    table.open(&mut here, &mut Clock, request).unwrap();
    assert_eq!(here.masked(|masked| table.report(masked, 0, fault(STREAM, 1, FIVE))), Report::Deferred);
    let substream = SubstreamId::new(FIVE).unwrap();
    let stopping = here.masked(|masked| table.stop_substream(masked, STREAM, substream)).unwrap();
    let grace = domain.synchronize(&mut here, &mut Clock, 1000).unwrap();
    *looks.stopping.lock().unwrap() = Some((stopping, grace));
    here.masked(|masked| handler.take_one().respond(masked, Success)).unwrap();
    assert_eq!(*looks.waiting.lock().unwrap(), [1]);
}
