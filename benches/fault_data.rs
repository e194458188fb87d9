//! What it costs to take a reference to an object that another core may replace at any time, and to give it back: grace periods,
//! and what else could have been used. `docs/performance.md` has a run. `take` is never inlined, so that its instructions can be counted.
//!
//! Each thread takes and gives back in batches; behind each batch it says that it holds nothing, as a core does at the end
//! of an interrupt. With churn, the first thread then replaces the object: it takes the old one out and puts a new one in, as disabling
//! and enabling a stream do.

use std::hint::black_box;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_epoch::{Atomic, Guard, Owned, Shared, pin};
use smmu_iopf::sync::grace::{Domain, Ref, Slot};
use smmu_iopf::sync::{CoreId, Cpu};

/// What is shared, as large as a fault state.
type Object = [u64; 32];

const OBJECT: Object = [7; 32];

/// How a thread reaches the object.
trait Scheme: Sync {
    const NAME: &str;

    /// What a thread has for itself.
    type Thread;

    fn new() -> Self;
    fn enter(&self, thread: usize) -> Self::Thread;

    /// Takes a reference, looks, and gives it back. 0 while there is no object.
    fn take(&self, thread: &mut Self::Thread) -> u64;

    /// The thread holds nothing.
    fn quiescent(&self, thread: &mut Self::Thread);

    fn replace(&self, thread: &mut Self::Thread);
}

/// Ours.
struct Grace {
    domain: Arc<Domain>,
    slot: Slot<Object>,
}

impl Scheme for Grace {
    const NAME: &str = "grace periods";
    type Thread = Cpu;

    fn new() -> Self {
        let domain = Arc::new(Domain::new());
        let slot = Slot::new(domain.clone());
        assert!(slot.publish(Ref::new(&domain, OBJECT).unwrap()).is_ok());
        Self { domain, slot }
    }

    fn enter(&self, thread: usize) -> Cpu {
        // SAFETY: this thread alone stands for the core, until it ends.
        let mut cpu = unsafe { Cpu::new(CoreId::new(thread).unwrap()) };
        self.domain.online(&mut cpu);
        cpu
    }

    #[inline(never)]
    fn take(&self, cpu: &mut Cpu) -> u64 {
        cpu.masked(|masked| {
            let reference = self.slot.load(&self.domain.read(masked)).and_then(|object| object.try_ref());
            reference.map_or(0, |object| object[0])
        })
    }

    #[inline(never)]
    fn quiescent(&self, cpu: &mut Cpu) {
        self.domain.poll(cpu);
    }

    fn replace(&self, _: &mut Cpu) {
        drop(self.slot.unpublish());
        assert!(self.slot.publish(Ref::new(&self.domain, OBJECT).unwrap()).is_ok());
    }
}

/// A mutex around the pointer.
struct Locked(Mutex<Option<Arc<Object>>>);

impl Scheme for Locked {
    const NAME: &str = "mutex";
    type Thread = ();

    fn new() -> Self {
        Self(Mutex::new(Some(Arc::new(OBJECT))))
    }

    fn enter(&self, _: usize) {}

    #[inline(never)]
    fn take(&self, (): &mut ()) -> u64 {
        let reference = self.0.lock().unwrap().clone();
        reference.map_or(0, |object| object[0])
    }

    fn quiescent(&self, (): &mut ()) {}

    fn replace(&self, (): &mut ()) {
        drop(self.0.lock().unwrap().take());
        *self.0.lock().unwrap() = Some(Arc::new(OBJECT));
    }
}

/// Epochs, pinned for a batch: as long as the thread may hold something.
struct Epochs(Atomic<Arc<Object>>);

impl Scheme for Epochs {
    const NAME: &str = "crossbeam-epoch";
    type Thread = Guard;

    fn new() -> Self {
        Self(Atomic::new(Arc::new(OBJECT)))
    }

    fn enter(&self, _: usize) -> Guard {
        pin()
    }

    #[inline(never)]
    fn take(&self, guard: &mut Guard) -> u64 {
        let shared = self.0.load(Acquire, guard);
        // SAFETY: what is taken out is destroyed when no guard of before is left.
        let reference = unsafe { shared.as_ref() }.cloned();
        reference.map_or(0, |object| object[0])
    }

    #[inline(never)]
    fn quiescent(&self, guard: &mut Guard) {
        guard.repin();
    }

    fn replace(&self, guard: &mut Guard) {
        let old = self.0.swap(Shared::null(), AcqRel, guard);
        // SAFETY: it is out of reach, and nobody else has taken it out.
        unsafe { guard.defer_destroy(old) };
        self.0.store(Owned::new(Arc::new(OBJECT)), Release);
    }
}

impl Drop for Epochs {
    fn drop(&mut self) {
        // SAFETY: nobody else is left.
        unsafe { drop(std::mem::take(&mut self.0).into_owned()) };
    }
}

/// A pointer that is swapped, with a debt for each reader.
struct Swapped(ArcSwapOption<Object>);

impl Scheme for Swapped {
    const NAME: &str = "arc-swap";
    type Thread = ();

    fn new() -> Self {
        Self(ArcSwapOption::from_pointee(OBJECT))
    }

    fn enter(&self, _: usize) {}

    #[inline(never)]
    fn take(&self, (): &mut ()) -> u64 {
        self.0.load_full().map_or(0, |object| object[0])
    }

    fn quiescent(&self, (): &mut ()) {}

    fn replace(&self, (): &mut ()) {
        self.0.store(None);
        self.0.store(Some(Arc::new(OBJECT)));
    }
}

/// How references are taken.
#[derive(Clone, Copy)]
struct Load {
    threads: usize,
    batch: u64,
    churns: bool,
}

/// How long it takes each of the threads to take `takes` references.
fn measure<S: Scheme>(load: Load, takes: u64) -> Duration {
    let scheme = S::new();
    let start = Barrier::new(load.threads);
    let times = thread::scope(|scope| {
        let run = |index: usize| {
            let (scheme, start) = (&scheme, &start);
            move || {
                let mut thread = scheme.enter(index);
                start.wait();
                let began = Instant::now();
                for _ in 0..takes.div_ceil(load.batch) {
                    for _ in 0..load.batch {
                        black_box(scheme.take(&mut thread));
                    }
                    scheme.quiescent(&mut thread);
                    if load.churns && index == 0 {
                        scheme.replace(&mut thread);
                    }
                }
                began.elapsed()
            }
        };
        let threads: Vec<_> = (0..load.threads).map(|index| scope.spawn(run(index))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    times.into_iter().max().unwrap()
}

fn compare(criterion: &mut Criterion) {
    for threads in [1, 2] {
        for churns in [false, true] {
            for batch in [64, 1] {
                let load = Load { threads, batch, churns };
                let churn = if churns { "replaced" } else { "not replaced" };
                let mut group = criterion.benchmark_group(format!("{threads} threads, batches of {batch}, {churn}"));
                group.throughput(Throughput::Elements(1));
                let mut bench = |name: &str, measure: fn(Load, u64) -> Duration| {
                    let id = BenchmarkId::from_parameter(name);
                    group.bench_function(id, |bencher| bencher.iter_custom(|takes| measure(load, takes)));
                };
                bench(Grace::NAME, measure::<Grace>);
                bench(Locked::NAME, measure::<Locked>);
                bench(Epochs::NAME, measure::<Epochs>);
                bench(Swapped::NAME, measure::<Swapped>);
                group.finish();
            }
        }
    }
}

criterion_group!(benches, compare);
criterion_main!(benches);
