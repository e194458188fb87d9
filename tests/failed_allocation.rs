//! The heap is full at each place that asks it for memory, and what an enabled stream takes of it.

extern crate alloc;

#[path = "driver/bench/mod.rs"]
mod driver_bench;
#[path = "support/fault_bench.rs"]
mod fault_bench;
#[path = "failed_allocation/lives.rs"]
mod lives;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::Arc;

use driver_bench::machine::{self, Machine};
use driver_bench::{Pager, Space, plain, stream, substreams};
use fault_bench::{Bench, Clock, STREAM, stall, to_stall};
use smmu_iopf::driver::dma::{Coherence, DmaMemory};
use smmu_iopf::driver::{
    DriverError, FaultMode, Hooks, Lost, Options, OutputQueue, Pages, Smmu, StreamConfig, Tag, Translation, Wake,
    Walked,
};
use smmu_iopf::iopf::{
    FaultTable, FlushError, Kind, NoMemory, OpenError, OpenRequest, Priority, Report, StreamLimits, SubstreamError,
    WorkQueues,
};
use smmu_iopf::model::engine::registers::status;
use smmu_iopf::model::host::HostMemory;
use smmu_iopf::model::profile::Profile;
use smmu_iopf::smmuv3::PageResponse::Invalid;
use smmu_iopf::smmuv3::{Asid, StreamId, SubstreamId};
use smmu_iopf::sva::Permissions;
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Region, SpaceError};
use smmu_iopf::sva::frames::{FRAME_BYTES, FramePool, PoolError};
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sync::Masked;
use smmu_iopf::sync::grace::{Domain, Ref};

/// What happened in this thread.
#[derive(Clone, Copy)]
struct Heap {
    /// Allocations from now on until one fails; after that none does.
    good: usize,
    /// Whether one failed.
    failed: bool,
    /// Bytes in use, how many may be, and how many would have been at the first allocation that failed for that.
    bytes: isize,
    most: isize,
    wanted: isize,
    /// The sizes of the last allocations.
    sizes: [usize; 16],
    count: usize,
}

thread_local! {
    static HEAP: Cell<Heap> =
        const { Cell::new(Heap { good: usize::MAX, failed: false, bytes: 0, most: isize::MAX, wanted: 0, sizes: [0; 16], count: 0 }) };
}

/// The system's allocator, which fails when it is told to.
struct Failing;

// SAFETY: every call that does not fail goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = HEAP.get();
        let after = heap.bytes + layout.size() as isize;
        let is_over = after > heap.most;
        if is_over && !heap.failed {
            heap.wanted = after;
        }
        let fails = heap.good == 0 || is_over;
        heap.failed |= fails;
        heap.good =
            if heap.good == 0 { usize::MAX } else { heap.good.saturating_sub(usize::from(heap.good != usize::MAX)) };
        if !fails {
            heap.bytes += layout.size() as isize;
            heap.sizes[heap.count % 16] = layout.size();
            heap.count += 1;
        }
        HEAP.set(heap);
        // SAFETY: the caller's promise.
        if fails { ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let heap = HEAP.get();
        HEAP.set(Heap { bytes: heap.bytes - layout.size() as isize, ..heap });
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Runs `work` with a heap that fails once, after `good` allocations. Returns whether it came to that.
fn with_full_heap<T>(good: usize, work: impl FnOnce() -> T) -> (T, bool) {
    HEAP.set(Heap { good, failed: false, ..HEAP.get() });
    let result = work();
    let failed = HEAP.get().failed;
    HEAP.set(Heap { good: usize::MAX, failed: false, ..HEAP.get() });
    (result, failed)
}

/// Does `work` again and again, with a heap that has room for one allocation more each time, until it succeeds. `check` gets what fails.
/// Returns what the last one returned, and how many failed. Nothing leaks.
fn with_growing_heap<T, E>(work: impl Fn() -> Result<T, E>, mut check: impl FnMut(E)) -> (T, usize) {
    let before = HEAP.get().bytes;
    let mut most = before;
    for failures in 0.. {
        HEAP.set(Heap { most, failed: false, ..HEAP.get() });
        let result = work();
        let Heap { failed, wanted, .. } = HEAP.get();
        HEAP.set(Heap { most: isize::MAX, failed: false, ..HEAP.get() });
        match result {
            Ok(done) => {
                assert!(!failed, "a failure that nobody was told of");
                return (done, failures);
            }
            Err(error) => {
                assert!(failed);
                assert_eq!(HEAP.get().bytes, before, "failure {failures} leaks");
                check(error);
                most = wanted;
            }
        }
    }
    unreachable!()
}

/// The sizes of what `work` allocated.
fn allocations<T>(work: impl FnOnce() -> T) -> (T, Vec<usize>) {
    HEAP.set(Heap { count: 0, ..HEAP.get() });
    let result = work();
    let Heap { sizes, count, .. } = HEAP.get();
    assert!(count <= sizes.len(), "{count} allocations");
    (result, sizes[..count].to_vec())
}

const LIMITS: StreamLimits =
    StreamLimits { groups: 2, requests: 3, time_out_us: 1_000_000, priority: Priority::Normal };
const NEIGHBOUR: StreamId = StreamId(STREAM.0 + 1);

fn open(bench: &mut Bench, streams: &[StreamId], kind: Kind) -> Result<(), OpenError> {
    bench.open_with(streams, kind, LIMITS, 0)
}

#[test]
fn a_heap_that_is_full_at_any_allocation_of_open_leaves_nothing_open_and_nothing_leaked() {
    for kind in [Kind::Stall, Kind::Page] {
        let streams = [STREAM, StreamId(STREAM.0 | 0x8000)];
        let mut sites = 0;
        loop {
            // A new table each time: one that has a leaf keeps it.
            let mut bench = Bench::new();
            let (opened, failed) = with_full_heap(sites, || open(&mut bench, &streams, kind));
            if !failed {
                assert_eq!((opened, bench.table.open_streams().count()), (Ok(()), 1));
                break;
            }
            assert!(matches!(opened, Err(OpenError::NoMemory { .. })), "allocation {sites}: {opened:?}");
            assert_eq!((bench.table.live(), bench.table.open_streams().count()), (0, 0), "allocation {sites}");
            assert_eq!((bench.domain.stats().in_memory(), Arc::strong_count(&bench.handler)), (0, 1));
            for stream in streams {
                assert_eq!(bench.report(stall(stream, 1, 0)), Report::Answer(to_stall(stream, 1, Invalid)));
            }
            assert_eq!(open(&mut bench, &streams, kind), Ok(()), "allocation {sites}");
            sites += 1;
        }
        // Two leaves, the StreamIDs, two slots, the requests of each, for pages the places, the lane, the statistics, the
        // latencies, the state.
        assert_eq!(sites, if kind == Kind::Stall { 10 } else { 11 });
    }
}

#[test]
fn a_failed_open_gives_back_every_byte() {
    let mut bench = Bench::new();
    // The leaf stays.
    open(&mut bench, &[NEIGHBOUR], Kind::Stall).unwrap();
    for kind in [Kind::Stall, Kind::Page] {
        for good in 0.. {
            let before = HEAP.get().bytes;
            let (opened, failed) = with_full_heap(good, || open(&mut bench, &[STREAM], kind));
            if !failed {
                opened.unwrap();
                bench.close(STREAM);
                bench.free();
            }
            assert_eq!(HEAP.get().bytes, before, "allocation {good}");
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn a_heap_that_is_full_at_any_allocation_of_enable_leaves_the_stream_off() {
    let mut sites = 0;
    loop {
        // A new driver each time: one that has a leaf keeps it.
        let mut bench = driver_bench::Bench::new();
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        let pager = Pager::new(&space, 0..1 << 30);
        let handler = pager.clone();
        let (enabled, failed) = with_full_heap(sites, || bench.enable(0, handler));
        if !failed {
            assert_eq!(enabled, Ok(()));
            bench.disable(0).unwrap();
            assert_eq!(bench.live(), 0);
            break;
        }
        let no_memory = OpenError::NoMemory { stream: stream(0) };
        assert_eq!(enabled, Err(DriverError::Open(no_memory)), "allocation {sites}");
        assert_eq!((bench.smmu.faults().live(), Arc::strong_count(&pager)), (0, 1));
        assert_eq!(bench.disable(0), Err(DriverError::FaultsNotEnabled(stream(0))));
        bench.enable(0, pager).unwrap();
        sites += 1;
    }
    // The StreamIDs of the life and the list of lives; a leaf, the StreamIDs, 64 slots, the requests of each, the lane,
    // the statistics, the latencies, the state.
    assert_eq!(sites, 2 + 71);
}

#[test]
fn a_heap_that_is_full_when_a_substream_gets_a_handler_leaves_it_without() {
    let substream = SubstreamId::new(5).unwrap();
    for site in 0.. {
        let mut bench = Bench::open(Kind::Page);
        let handler = bench.handler.clone();
        let mut set = || bench.table.set_substream_handler(&mut bench.cpu, STREAM, substream, handler.clone());
        let (done, failed) = with_full_heap(site, &mut set);
        if !failed {
            assert_eq!(done, Ok(()));
            // The list of them, the handler's place in it.
            assert_eq!(site, 2);
            break;
        }
        assert_eq!(done, Err(SubstreamError::NoMemory(STREAM)), "allocation {site}");
        assert_eq!(set(), Ok(()), "allocation {site}");
    }
}

/// Does `work` on what `prepare` made, with the heap full at each of its allocations in turn: it says so, `check` finds nothing half
/// done, and then it is done. Returns how many allocations it makes.
fn at_each_site<W>(
    prepare: impl Fn() -> W,
    work: impl Fn(&mut W) -> Result<(), DriverError>,
    check: impl Fn(&mut W),
) -> usize {
    for site in 0.. {
        let mut world = prepare();
        let (done, failed) = with_full_heap(site, || work(&mut world));
        if !failed {
            assert_eq!(done, Ok(()));
            return site;
        }
        assert_eq!(done, Err(DriverError::HeapFull), "allocation {site}");
        check(&mut world);
        assert_eq!(work(&mut world), Ok(()), "allocation {site}");
    }
    unreachable!()
}

/// A driver with a stream attached to a space, if it is to be.
fn driver(engine: usize, attached: Option<FaultMode>) -> (driver_bench::Bench, Arc<Space>) {
    let mut bench = driver_bench::Bench::new();
    let space = Space::new(&bench, 1);
    if let Some(faults) = attached {
        let config = match faults {
            FaultMode::PageRequest => substreams(faults, 8),
            _ => StreamConfig { translation: space.context().into(), ..plain(faults) },
        };
        bench.smmu.attach(&mut bench.cpu, stream(engine), &config).unwrap();
    }
    (bench, space)
}

#[test]
fn a_heap_that_is_full_at_any_allocation_of_attach_leaves_the_stream_alone() {
    let attach = |(bench, space): &mut (driver_bench::Bench, Arc<Space>)| bench.attach(0, FaultMode::Terminate, space);
    let check = |(bench, space): &mut (driver_bench::Bench, Arc<Space>)| {
        space.map(0x1000);
        bench.fill(0, 0x1000, 8, 7, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(0x1000)), (status::ABORTED, 0));
        assert_eq!(bench.smmu.detach(&mut bench.cpu, stream(0)), Err(DriverError::NotAttached(stream(0))));
    };
    // The address spaces, the streams, the second-level tables, the context tables of those detached.
    assert_eq!(at_each_site(|| driver(0, None), attach, check), 4);
}

#[test]
fn a_failed_attach_gives_back_every_byte() {
    let bytes_after = |failures: usize| {
        let (mut bench, space) = driver(0, None);
        let before = HEAP.get().bytes;
        for good in 0..failures {
            assert!(with_full_heap(good.min(1), || bench.attach(0, FaultMode::Stall, &space)).0.is_err());
        }
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.smmu.detach(&mut bench.cpu, stream(0)).unwrap();
        HEAP.get().bytes - before
    };
    // The first asks for the address spaces in vain, the others get those and ask for the streams in vain.
    assert_eq!(bytes_after(5), bytes_after(0));
}

#[test]
fn a_heap_that_is_full_when_a_substream_is_attached_leaves_it_alone() {
    let [first, second] = [1, 2].map(|substream| SubstreamId::new(substream).unwrap());
    let prepare = || {
        let (mut bench, space) = driver(2, Some(FaultMode::PageRequest));
        space.map(0x1000);
        bench.smmu.attach_substream(&mut bench.cpu, stream(2), first, Some(&space.context())).unwrap();
        (bench, space)
    };
    let attach = |(bench, space): &mut (driver_bench::Bench, Arc<Space>)| {
        bench.smmu.attach_substream(&mut bench.cpu, stream(2), second, Some(&space.context()))
    };
    let check = |(bench, space): &mut (driver_bench::Bench, Arc<Space>)| {
        bench.fill(2, 0x1000, 8, 7, Some(second.get()));
        bench.finish([2]);
        assert_eq!((bench.state(2), space.word(0x1000)), (status::ABORTED, 0));
        bench.fill(2, 0x1000, 8, 8, Some(first.get()));
        bench.finish([2]);
        assert_eq!((bench.state(2), space.word(0x1000)), (status::DONE, 8));
    };
    // The address spaces: there was room for one.
    assert_eq!(at_each_site(prepare, attach, check), 1);
}

#[test]
fn a_heap_that_is_full_when_a_stream_goes_elsewhere_leaves_it_where_it_was() {
    let prepare = || {
        let (bench, space) = driver(0, Some(FaultMode::Terminate));
        let other = Space::new(&bench, 2);
        [&space, &other].into_iter().for_each(|space| space.map(0x1000));
        ((bench, space), other)
    };
    let change = |((bench, _), other): &mut ((driver_bench::Bench, Arc<Space>), Arc<Space>)| {
        let translation = Translation::Stage1 { context: Some(other.context()), substream_bits: 4 };
        let config = StreamConfig { translation, ..plain(FaultMode::Terminate) };
        bench.smmu.change(&mut bench.cpu, stream(0), &config).map(drop)
    };
    let check = |((bench, space), other): &mut ((driver_bench::Bench, Arc<Space>), Arc<Space>)| {
        bench.fill(0, 0x1000, 8, 7, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(0x1000), other.word(0x1000)), (status::DONE, 7, 0));
    };
    // The address spaces; for the context table of before there was room.
    assert_eq!(at_each_site(prepare, change, check), 1);
}

#[test]
fn a_heap_that_is_full_when_a_tag_is_taken_leaves_it_free() {
    let prepare = driver_bench::Bench::new;
    let asid = |bench: &mut driver_bench::Bench| bench.smmu.take_asid(&mut bench.cpu).map(drop);
    let vmid = |bench: &mut driver_bench::Bench| bench.smmu.take_vmid(&mut bench.cpu).map(drop);
    // The first 64 tags.
    assert_eq!(at_each_site(prepare, asid, |_| ()), 1);
    assert_eq!(at_each_site(prepare, vmid, |_| ()), 1);
    let mut bench = prepare();
    assert_eq!(with_full_heap(0, || bench.smmu.take_asid(&mut bench.cpu)), (Err(DriverError::HeapFull), true));
    assert_eq!(bench.smmu.take_asid(&mut bench.cpu), Ok(Asid(1)));
}

#[test]
fn what_is_taken_away_asks_the_heap_for_nothing() {
    let substream = SubstreamId::new(1).unwrap();
    let (mut bench, space) = driver(2, Some(FaultMode::PageRequest));
    let (smmu, id) = (bench.smmu.clone(), stream(2));
    smmu.attach_substream(&mut bench.cpu, id, substream, Some(&space.context())).unwrap();
    bench.enable(2, Pager::with([(Some(substream), space.clone())].into(), 0..1 << 30)).unwrap();
    let grace = bench.grace();
    let pages = Pages { first: 0x1000, count: 3 };
    let ((), sizes) = allocations(|| {
        let synced = smmu.invalidate(&mut bench.cpu, &grace, Asid(1), &pages.into()).unwrap();
        let _ = smmu.invalidate_atc(&mut bench.cpu, &synced, id, Some(substream), Some(pages)).unwrap();
        let _ = smmu.invalidate_asid(&mut bench.cpu, &grace, Asid(1)).unwrap();
        smmu.attach_substream(&mut bench.cpu, id, substream, None).unwrap();
        let tables = Tables(Asid(1));
        let _ = smmu.forget(&mut bench.cpu, tables).unwrap();
    });
    assert_eq!(sizes, []);
    let (disabled, sizes) = allocations(|| bench.disable(2));
    assert_eq!((disabled, sizes), (Ok(()), vec![]));
    // Nor when it is refused, and put back.
    bench.hold_commands(true);
    let (refused, sizes) = allocations(|| smmu.detach(&mut bench.cpu, id));
    assert!(matches!(refused, Err(DriverError::CommandTimeout(_))), "{refused:?}");
    assert_eq!(sizes, []);
    bench.hold_commands(false);
    let (detached, sizes) = allocations(|| smmu.detach(&mut bench.cpu, id));
    assert_eq!((detached, sizes), (Ok(()), vec![]));
}

/// An address space by name.
#[derive(Debug)]
struct Tables(Asid);

impl Walked for Tables {
    fn tag(&self) -> Tag {
        Tag::AddressSpace(self.0)
    }
}

#[test]
fn a_heap_that_is_full_at_a_recovery_leaves_it_to_be_done() {
    // The event queue lies where there is no memory: no stall record can be written.
    let options = Options { limit_us: driver_bench::LIMIT_US, ..Options::default() };
    let mut bench = driver_bench::Bench::with_broken(Profile::Full, options, 3);
    let space = Space::new(&bench, 1);
    bench.attach(0, FaultMode::Stall, &space).unwrap();
    bench.enable(0, Pager::new(&space, 0..1 << 30)).unwrap();
    bench.fill(0, 0x1000, 8, 1, None);
    bench.machine.run(100);
    assert!(bench.cpu.masked(|masked| bench.smmu.handle_global_error(masked)).recover);
    let mut recover = || bench.smmu.recover(&mut bench.cpu);
    assert_eq!(with_full_heap(0, &mut recover), (Err(DriverError::HeapFull), true));
    let lost = Lost { streams: vec![stream(0)], ..Lost::default() };
    assert_eq!(with_full_heap(1, &mut recover), (Ok(lost), false));
    bench.finish([0]);
    assert_eq!(with_full_heap(0, || bench.reopen(0)), (Ok(()), false));
    let mut recover = || bench.smmu.recover(&mut bench.cpu);
    assert_eq!(with_full_heap(1, &mut recover), (Ok(Lost::default()), false));
    bench.disable(0).unwrap();
}

#[test]
fn a_heap_that_is_full_at_a_flush_is_told() {
    let mut bench = Bench::new();
    open(&mut bench, &[STREAM], Kind::Stall).unwrap();
    let mut flush = || bench.table.flush(&mut bench.cpu, &mut Clock, STREAM, 50);
    assert_eq!(with_full_heap(0, &mut flush), (Err(FlushError::NoMemory(STREAM)), true));
    assert_eq!(with_full_heap(1, &mut flush), (Ok(()), false));
}

#[test]
fn retiring_asks_the_heap_for_nothing() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        let object = Ref::new(&bench.domain, 7_u64).unwrap();
        let ((), sizes) = allocations(|| drop(object));
        assert_eq!(sizes, []);
    }
    open(&mut bench, &[STREAM], Kind::Stall).unwrap();
    let ((), sizes) = allocations(|| {
        bench.close(STREAM);
        bench.free();
    });
    assert_eq!(sizes, []);
    assert_eq!((bench.table.live(), bench.domain.stats().in_memory()), (0, 0));
}

/// `docs/performance.md` has these numbers.
#[test]
fn an_enabled_stream_takes_what_the_documents_say() {
    let mut bench = Bench::new();
    let mut of = |stream, kind| {
        let handler = bench.handler.clone();
        let request = OpenRequest { streams: &[StreamId(stream)], kind, handler, limits: LIMITS, since: 0 };
        let (opened, sizes) = allocations(|| bench.table.open(&mut bench.cpu, &mut Clock, request));
        opened.unwrap();
        sizes
    };
    // The leaf of the first: a pointer and its domain for each of 1,024 StreamIDs.
    assert_eq!(of(1, Kind::Stall)[0], 16_384);
    // Its StreamIDs; the slots; the requests of each; where its groups are; the lane; the statistics; the latencies; the state.
    assert_eq!(of(2, Kind::Stall), [4, 96, 24, 24, 64, 2048, 2048, 216]);
    assert_eq!(of(3, Kind::Page), [4, 96, 72, 72, 1024 + 2, 64, 2048, 2048, 216]);
}

#[test]
fn a_heap_that_is_full_at_any_allocation_of_a_new_table_is_an_error() {
    let bench = Bench::new();
    let table = || FaultTable::new(bench.domain.clone(), bench.responder.clone(), 20, fault_bench::LIMITS);
    let (table, failures) = with_growing_heap(table, |NoMemory| {});
    // The counts, the latencies, what it shares, its leaves, what is open.
    assert_eq!(failures, 5);
    drop(table);
}

#[test]
fn a_heap_that_is_full_at_any_allocation_of_page_frames_and_an_address_space_is_an_error() {
    const FRAMES: u32 = 4;
    // Room for one pool: a try that fails must not take it.
    let memory = HostMemory::new(FRAMES as usize * FRAME_BYTES);
    let pool = || FramePool::new(&memory, FRAMES, Coherence::COHERENT);
    let (frames, failures) = with_growing_heap(pool, |error| assert_eq!(error, PoolError::HeapFull { frames: FRAMES }));
    assert_eq!(failures, 1);
    let frames = Arc::new(frames);
    // More of them than are sorted without memory by a sort that keeps their order.
    let region = |index: u64| Region {
        start: index << 20,
        bytes: 1 << 20,
        permissions: Permissions::READ_WRITE,
        backing: Backing::Anonymous,
    };
    let regions = (0..100).map(region).rev().collect::<Vec<_>>();
    let space = || AddressSpace::new(Asid(1), &regions, frames.clone());
    let (space, failures) = with_growing_heap(space, |error| assert_eq!(error, SpaceError::NoMemory));
    // The regions, sorted and prepared; the faults that wait for a page.
    assert_eq!((failures, frames.in_use()), (3, 1));
    assert_eq!(space.asid(), Asid(1));
}

#[test]
fn a_pager_asks_the_heap_for_nothing() {
    let frames = Arc::new(FramePool::new(&HostMemory::new(1 << 20), 4, Coherence::COHERENT).unwrap());
    let space = Arc::new(AddressSpace::new(Asid(1), &[], frames).unwrap());
    let work = Arc::new(WorkQueues::new(Box::new(|_, _| {})));
    let spaces = [None, SubstreamId::new(1)].map(|substream| (substream, space.clone()));
    let spaces: Box<[_]> = spaces.into();
    let (pager, sizes) = allocations(|| DemandPager::new(spaces, work));
    assert_eq!(sizes, []);
    drop(pager);
}

/// Nobody hears of interrupts.
struct Deaf;

impl Wake for Deaf {
    fn wake(&self, _: &Masked, _: OutputQueue) {}
}

#[test]
fn a_heap_that_is_full_at_any_allocation_of_bring_up_is_an_error_and_bring_up_can_be_repeated() {
    let machine = Machine::with(machine::memory(4 << 20, true), Profile::Full, 4);
    let domain = Arc::new(Domain::new());
    let cpu = RefCell::new(driver_bench::cpu(0));
    domain.online(&mut cpu.borrow_mut());
    let hooks = Hooks { wake: Arc::new(Deaf), events: Arc::new(driver_bench::Sink::default()) };
    let memory: Arc<dyn DmaMemory> = machine.memory().clone();
    let probe = || {
        let options = Options { trace: true, stream_bits: 9, ..Options::default() };
        let (memory, domain, hooks) = (memory.clone(), domain.clone(), hooks.clone());
        Smmu::probe(&mut cpu.borrow_mut(), machine.clone(), memory, domain, machine.delay(), hooks, options)
    };
    let full = |error| assert!(matches!(error, DriverError::HeapFull | DriverError::NoTable), "{error}");
    let (smmu, failures) = with_growing_heap(probe, full);
    // What all parts share, the trace, the ring, the streams without PASIDs in responses, the command queue, five of the table, the SMMU.
    assert_eq!(failures, 11);
    assert!(!smmu.is_given_up());
}
