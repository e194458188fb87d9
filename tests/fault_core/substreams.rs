//! Handlers of single substreams.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use smmu_iopf::iopf::{Answer, Fault, Kind, MAX_SUBSTREAM_HANDLERS, Report, StreamLimits, SubstreamError, WorkQueues};
use smmu_iopf::smmuv3::PageResponse::{self, Invalid, Success};
use smmu_iopf::smmuv3::{StreamId, SubstreamId};
use smmu_iopf::sync::Cpu;

use super::fault_bench::*;

const FIVE: u32 = 5;

fn pasid(id: u32) -> SubstreamId {
    SubstreamId::new(id).unwrap()
}

fn fault(group: u16, id: u32) -> Fault {
    in_substream(page(STREAM, group, true, 0x1000), id)
}

fn answer(group: u16, id: u32, response: PageResponse) -> Answer {
    Answer { substream: SubstreamId::new(id), ..to_group(STREAM, group, response) }
}

/// A bench whose substream 5 has the handler that is returned, which defers.
fn bench() -> (Bench, Arc<Handler>) {
    let mut bench = Bench::open(Kind::Page);
    let own = Arc::new(Handler::default());
    own.defers.store(true, SeqCst);
    bench.table.set_substream_handler(&mut bench.cpu, STREAM, pasid(FIVE), own.clone()).unwrap();
    (bench, own)
}

fn remove(bench: &mut Bench) -> Result<usize, SubstreamError> {
    bench.table.remove_substream_handler(&mut bench.cpu, &mut Clock, STREAM, pasid(FIVE), 100)
}

#[test]
fn a_substreams_own_handler_decides_about_it_and_about_nothing_else() {
    let (bench, own) = bench();
    assert_eq!(bench.report(fault(1, FIVE)), Report::Deferred);
    assert_eq!(bench.report(fault(2, 6)), Report::Answer(answer(2, 6, Success)));
    assert_eq!(bench.report(page(STREAM, 3, true, 0)), Report::Answer(to_group(STREAM, 3, Success)));
    assert_eq!((own.seen.lock().unwrap().len(), bench.handler.seen.lock().unwrap().len()), (1, 2));
    bench.cpu.masked(|masked| own.take_one().respond(masked, Success)).unwrap();
    assert_eq!(bench.responder.take(), [answer(1, FIVE, Success)]);
}

#[test]
fn the_same_substream_of_another_stream_of_the_master_is_another_one() {
    let mut bench = Bench::new();
    let other = StreamId(0x102);
    bench.open_with(&[STREAM, other], Kind::Page, STREAM_LIMITS, 0).unwrap();
    let own = Arc::new(Handler::default());
    bench.table.set_substream_handler(&mut bench.cpu, other, pasid(FIVE), own.clone()).unwrap();
    let _ = bench.report(fault(1, FIVE));
    let _ = bench.report(Fault { stream: other, ..fault(1, FIVE) });
    assert_eq!((own.seen.lock().unwrap().len(), bench.handler.seen.lock().unwrap().len()), (1, 1));
}

#[test]
fn removing_it_answers_what_it_had_deferred_and_late_answers_send_nothing() {
    let (mut bench, own) = bench();
    bench.handler.defers.store(true, SeqCst);
    assert_eq!(bench.report(fault(1, FIVE)), Report::Deferred);
    assert_eq!(bench.report(fault(2, FIVE)), Report::Deferred);
    assert_eq!(bench.report(fault(3, 6)), Report::Deferred);
    assert_eq!(remove(&mut bench), Ok(2));
    assert_eq!(bench.responder.take(), [1, 2].map(|group| answer(group, FIVE, Invalid)));
    for group in own.take() {
        assert!(bench.cpu.masked(|masked| group.respond(masked, Success)).is_err());
    }
    // From now on they are the stream's handler's, whose own groups were let be.
    assert_eq!(bench.report(fault(4, FIVE)), Report::Deferred);
    assert_eq!(bench.handler.take().len(), 2);
    assert_eq!(bench.responder.take(), []);
}

#[test]
fn removing_it_answers_what_it_dropped_and_counts_no_answer_that_was_not_sent() {
    let (mut bench, own) = bench();
    assert_eq!(bench.report(fault(1, FIVE)), Report::Deferred);
    assert_eq!(bench.report(fault(2, FIVE)), Report::Deferred);
    let mut groups = own.take();
    drop(groups.remove(0));
    bench.responder.stuck.store(true, SeqCst);
    bench.cpu.masked(|masked| groups.remove(0).respond(masked, Success)).unwrap();
    assert_eq!(bench.report(fault(3, FIVE)), Report::Deferred);
    // Nothing can be sent: none is counted, none is lost.
    assert_eq!((remove(&mut bench), bench.responder.take()), (Ok(0), vec![]));
    bench.responder.stuck.store(false, SeqCst);
    bench.table.expire(&bench.cpu, 0);
    assert_eq!(bench.responder.take(), [(1, Invalid), (2, Success), (3, Invalid)].map(|(g, r)| answer(g, FIVE, r)));
    drop(own.take());

    bench.table.set_substream_handler(&mut bench.cpu, STREAM, pasid(FIVE), own.clone()).unwrap();
    assert_eq!(bench.report(fault(4, FIVE)), Report::Deferred);
    drop(own.take());
    assert_eq!(remove(&mut bench), Ok(1));
    assert_eq!(bench.responder.take(), [answer(4, FIVE, Invalid)]);
}

#[test]
fn a_group_keeps_the_removed_handler_and_the_last_lets_it_go() {
    let (mut bench, own) = bench();
    assert_eq!(bench.report(fault(1, FIVE)), Report::Deferred);
    remove(&mut bench).unwrap();
    bench.free();
    assert_eq!(Arc::strong_count(&own), 2);
    drop(own.take());
    bench.free();
    assert_eq!(Arc::strong_count(&own), 1);
}

#[test]
fn the_end_of_the_stream_lets_its_substreams_handlers_go() {
    let (mut bench, own) = bench();
    bench.close(STREAM);
    bench.free();
    bench.free();
    assert_eq!((Arc::strong_count(&own), bench.domain.stats().in_memory()), (1, 0));
    assert_eq!(remove(&mut bench), Err(SubstreamError::NotOpen(STREAM)));
}

#[test]
fn a_closed_streams_groups_are_the_disablers() {
    let (mut bench, own) = bench();
    assert_eq!(bench.report(fault(1, FIVE)), Report::Deferred);
    let closing = bench.cpu.masked(|masked| bench.table.close(masked, STREAM)).unwrap();
    let removed = bench.table.remove_substream_handler(&mut bench.cpu, &mut Clock, STREAM, pasid(FIVE), 100);
    assert_eq!((removed, bench.responder.take()), (Ok(0), vec![]));
    let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
    assert_eq!(closing.answer_pending(&bench.cpu, &grace).answered, 1);
    drop(own.take());
}

#[test]
fn a_core_in_a_section_keeps_the_handler_in_its_place_and_is_named() {
    let (mut bench, own) = bench();
    let mut other: Cpu = cpu(1);
    bench.domain.online(&mut other);
    other.masked(|masked| {
        let _section = bench.domain.read(masked);
        assert!(matches!(remove(&mut bench), Err(SubstreamError::Grace(_))));
    });
    assert_eq!(bench.report(fault(1, FIVE)), Report::Deferred);
    bench.domain.offline(&mut other);
    assert_eq!(remove(&mut bench), Ok(1));
    drop(own.take());
}

#[test]
fn what_is_set_twice_not_set_or_too_much_is_refused() {
    let (mut bench, own) = bench();
    let mut set = |id| bench.table.set_substream_handler(&mut bench.cpu, STREAM, pasid(id), own.clone());
    assert_eq!(set(FIVE), Err(SubstreamError::Taken(pasid(FIVE))));
    for id in 0..MAX_SUBSTREAM_HANDLERS as u32 - 1 {
        assert_eq!(set(100 + id), Ok(()));
    }
    assert_eq!(set(99), Err(SubstreamError::Full(STREAM)));
    assert_eq!(remove(&mut bench), Ok(0));
    assert_eq!(remove(&mut bench), Err(SubstreamError::NotSet(pasid(FIVE))));
}

#[test]
fn what_it_leaves_to_a_core_with_time_comes_back_to_it() {
    struct Worker(Arc<WorkQueues>);
    impl smmu_iopf::iopf::FaultHandler for Worker {
        fn handle(&self, _: &smmu_iopf::sync::Masked, _: &[Fault]) -> smmu_iopf::iopf::Verdict {
            smmu_iopf::iopf::Verdict::Defer
        }

        fn defer(&self, masked: &smmu_iopf::sync::Masked, group: smmu_iopf::iopf::FaultGroup) {
            self.0.push(masked, group);
        }

        fn serve(&self, _: &Cpu, group: smmu_iopf::iopf::FaultGroup) -> Option<smmu_iopf::iopf::Decided> {
            Some(group.decide(Success))
        }
    }
    let mut bench = Bench::new();
    bench.open_with(&[STREAM], Kind::Page, StreamLimits { groups: 8, ..STREAM_LIMITS }, 0).unwrap();
    let work = Arc::new(WorkQueues::new(Box::new(|_, _| {})));
    bench.table.set_substream_handler(&mut bench.cpu, STREAM, pasid(FIVE), Arc::new(Worker(work.clone()))).unwrap();
    assert_eq!(bench.report(fault(1, FIVE)), Report::Deferred);
    assert_eq!(work.work(&bench.cpu), 1);
    assert_eq!(bench.responder.take(), [answer(1, FIVE, Success)]);
}
