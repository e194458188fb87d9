//! Between a fault's report and its answer nothing is allocated or freed.

#[path = "support/fault_bench.rs"]
mod fault_bench;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use fault_bench::{Clock, LIMITS, STREAM, STREAM_LIMITS, cpu, page, stall};
use smmu_iopf::iopf::{
    Answer, Fault, FaultGroup, FaultHandler, FaultTable, Kind, NotSent, OpenRequest, PageResponder, Report, Verdict,
};
use smmu_iopf::smmuv3::{PageResponse, StreamId};
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
    fn respond(&self, _: &Masked, _: Answer) -> Result<(), NotSent> {
        self.0.fetch_add(1, Relaxed);
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
