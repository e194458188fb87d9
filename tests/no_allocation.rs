//! Between a record's decode and its answer nothing is allocated or freed, page frames of the pool aside.

extern crate alloc;

#[path = "driver/bench/mod.rs"]
mod driver_bench;
#[path = "support/fault_bench.rs"]
mod fault_bench;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use driver_bench::{Bench, plain, stream};
use fault_bench::{Clock, LIMITS, STREAM, STREAM_LIMITS, cpu, page, stall};
use smmu_iopf::driver::{Context, FaultMode, StreamConfig, Translation};
use smmu_iopf::iopf::{
    Answer, Fault, FaultGroup, FaultHandler, FaultTable, Kind, NotSent, OpenRequest, PageResponder, Report, Verdict,
    WorkQueues,
};
use smmu_iopf::model::engine::registers::{self as reg, status};
use smmu_iopf::smmuv3::{Asid, PageResponse, StreamId, SubstreamId};
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Region};
use smmu_iopf::sva::frames::FramePool;
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sva::{MAIR, Permissions, T0SZ};
use smmu_iopf::sync::Masked;
use smmu_iopf::sync::grace::Domain;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, and how often this thread called it.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        CALLS.with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often the allocator was called while `work` ran.
fn calls(work: impl FnOnce()) -> usize {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl PageResponder for Counter {
    fn respond(&self, _: &Masked, answers: &[Answer]) -> Result<(), NotSent> {
        self.0.fetch_add(answers.len(), Relaxed);
        Ok(())
    }
}

/// Defers addresses from 1 MiB on.
#[derive(Default)]
struct Handler(Mutex<heapless::Vec<FaultGroup, 8>>);

impl FaultHandler for Handler {
    fn handle(&self, _: &Masked, faults: &[Fault]) -> Verdict {
        match faults.iter().any(|fault| fault.address >= 1 << 20) {
            true => Verdict::Defer,
            false => Verdict::Answer(PageResponse::Success),
        }
    }

    fn defer(&self, _: &Masked, group: FaultGroup) {
        let _ = self.0.lock().unwrap().push(group);
    }
}

#[test]
fn the_allocator_is_counted() {
    assert_eq!(calls(|| drop(std::hint::black_box(Box::new(1)))), 2);
}

#[test]
fn nothing_is_allocated_between_report_and_answer() {
    const PAGES: StreamId = StreamId(7);
    let domain = Arc::new(Domain::new());
    let responder = Arc::new(Counter::default());
    let handler = Arc::new(Handler::default());
    let table = FaultTable::new(domain.clone(), responder.clone(), 20, LIMITS).unwrap();
    let mut cpu = cpu(0);
    domain.online(&mut cpu);
    for (stream, kind) in [(STREAM, Kind::Stall), (PAGES, Kind::Page)] {
        let request =
            OpenRequest { streams: &[stream], kind, handler: handler.clone(), limits: STREAM_LIMITS, since: 0 };
        table.open(&mut cpu, &mut Clock, request).unwrap();
    }
    let report = |fault| cpu.masked(|masked| table.report(masked, 0, fault));
    let answered = |fault, response| assert_eq!(report(fault), Report::Answer(fault.answer(response)));
    const FAR: u64 = 1 << 20;

    let inline = calls(|| answered(stall(STREAM, 1, 0), PageResponse::Success));
    let inline_group = calls(|| {
        assert_eq!(report(page(PAGES, 1, false, 0)), Report::Held);
        assert_eq!(report(page(PAGES, 1, false, 0)), Report::Held);
        answered(page(PAGES, 1, true, 0), PageResponse::Success);
    });
    let deferred = calls(|| {
        assert_eq!(report(stall(STREAM, 1, FAR)), Report::Deferred);
        assert_eq!(report(page(PAGES, 1, false, FAR)), Report::Held);
        assert_eq!(report(page(PAGES, 1, true, FAR)), Report::Deferred);
        while let Some(group) = handler.0.lock().unwrap().pop() {
            assert_eq!(group.faults().count(), group.len());
            cpu.masked(|masked| group.respond(masked, PageResponse::Success)).unwrap();
        }
    });
    let refused = calls(|| {
        answered(stall(StreamId(8), 1, 0), PageResponse::Invalid);
        for tag in 0..4 {
            assert_eq!(report(stall(STREAM, tag, FAR)), Report::Deferred);
        }
        answered(stall(STREAM, 4, FAR), PageResponse::Invalid);
    });
    let timed_out = calls(|| {
        assert_eq!(table.expire(&cpu, 0), 0);
        assert_eq!(table.expire(&cpu, 1_000_000), 4);
    });
    assert_eq!([inline, inline_group, deferred, refused, timed_out], [0; 5]);
    assert_eq!(responder.0.load(Relaxed), 6);
}

/// What the interrupt handlers and a worker core do, on the shipped driver with the shipped pager, for stalls and for page
/// request groups, inline and deferred.
#[test]
fn nothing_is_allocated_between_a_record_and_its_command() {
    const START: u64 = 0x4000_0000;
    const BYTES: u64 = 64 * 4096;
    let mut bench = Bench::new();
    let frames = Arc::new(FramePool::new(&**bench.machine.memory(), 200, bench.smmu.coherence()).unwrap());
    let region =
        Region { start: START, bytes: BYTES, permissions: Permissions::READ_WRITE, backing: Backing::Anonymous };
    let pasid = SubstreamId::new(3);
    let work = Arc::new(WorkQueues::new(Box::new(|_, _| {})));
    for (engine, substream, faults) in [(0, None, FaultMode::Stall), (2, pasid, FaultMode::PageRequest)] {
        let space = Arc::new(AddressSpace::new(Asid(engine as u16 + 1), &[region], frames.clone()).unwrap());
        let context = Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR };
        let config = StreamConfig {
            translation: Translation::Stage1 {
                context: substream.is_none().then_some(context),
                substream_bits: if substream.is_some() { 8 } else { 0 },
            },
            ..plain(faults)
        };
        bench.smmu.attach(&mut bench.cpu, stream(engine), &config).unwrap();
        if let Some(substream) = substream {
            bench.smmu.attach_substream(&mut bench.cpu, stream(engine), substream, Some(&context)).unwrap();
        }
        let pager = Arc::new(DemandPager::new(Box::new([(substream, space)]), work.clone()));
        bench.enable(engine, pager).unwrap();
        bench.machine.write_engine(engine, reg::DEPTH, 8);
        bench.machine.write_engine(engine, reg::GROUP_SIZE, 4);
    }
    // Zeroed ahead are 100 frames of the 136 that it takes: the faults that need the rest are deferred.
    let dirty: Vec<_> = (0..140).map(|_| frames.take_zeroed().unwrap()).collect();
    dirty.into_iter().for_each(|frame| frames.free(frame));
    frames.zero_some(40);

    bench.fill(0, START, BYTES, 1, None);
    bench.fill(2, START, BYTES, 2, pasid.map(SubstreamId::get));
    let (mut in_drains, mut in_work, mut rounds) = (0, 0, 0);
    while [0, 2].map(|engine| bench.state(engine)) != [status::DONE; 2] {
        bench.machine.step();
        in_drains += calls(|| {
            bench.cpu.masked(|masked| {
                bench.smmu.drain_events(masked);
                bench.smmu.drain_page_requests(masked);
            });
        });
        in_work += calls(|| while work.work(&bench.cpu) > 0 {});
        rounds += 1;
        assert!(rounds < 100_000, "it does not come to an end");
    }
    let statistics = bench.smmu.faults().totals().statistics;
    assert_eq!(bench.smmu.event_records(), 64);
    assert!(statistics.inline > 40 && statistics.deferred > 10, "{statistics:?}");
    assert_eq!(statistics.success, bench.smmu.command_counts().answers);
    assert_eq!((in_drains, in_work), (0, 0));
}
