//! An SMMU whose accesses are not coherent (IDR0.COHACC = 0): it has a view of memory of its own, which only cache maintenance brings up
//! to date. Seed 0: nothing else moves. Others: what the CPU changed is also written back, and what it has read is read again, at any time.
//!
//! The other tests of the driver run over such memory too, each on profile `non-coherent`; on all others maintenance panics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use smmu_iopf::driver::dma::{Coherence, DmaMemory};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{Context, FaultMode, Gathered, Lost, Options, StreamConfig, Transition, Translation};
use smmu_iopf::iopf::WorkQueues;
use smmu_iopf::model::board;
use smmu_iopf::model::control as failures;
use smmu_iopf::model::engine::registers::{self as reg, control, hostile, status};
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::profile::Profile;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{Access, Asid, PhysAddr, SubstreamId};
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Effort, Region, Resolution};
use smmu_iopf::sva::frames::FramePool;
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sva::{MAIR, Permissions, T0SZ};

use super::bench::machine::{Machine, MachineMemory, memory_base};
use super::bench::{Bench, LIMIT_US, LIMITS, Pager, Space, plain, substreams, zeroed};

const BASE: u64 = 0x1000_0000;
const OTHER: u64 = 0x2000_0000;
/// More pages than any queue of [`bench`] has entries.
const PAGES: u64 = 80;
const BYTES: u64 = PAGES * 4096;

/// A bench with queues that go round: 4 commands, 64 events, 4 page requests.
fn bench(seed: u32) -> Bench {
    let memory = Arc::new(MachineMemory::behind_caches(4 << 20, seed));
    let machine = Machine::with(memory, Profile::NonCoherent, board::DEFAULT_ENGINES);
    let options = Options {
        command_queue_log2: 2,
        event_queue_log2: 0,
        page_request_queue_log2: 2,
        limit_us: LIMIT_US,
        ..Options::default()
    };
    Bench::on(machine, options, u64::MAX).unwrap()
}

/// Whatever the caches do by themselves.
fn with_each_seed(test: impl Fn(&mut Bench)) {
    for seed in [0, 1, 2, 3, 0x5eed_5eed] {
        println!("seed {seed:#x}:");
        let mut bench = bench(seed);
        test(&mut bench);
        assert!(bench.machine.memory().maintained() > 0);
    }
}

fn substream(pasid: u32) -> SubstreamId {
    SubstreamId::new(pasid).unwrap()
}

/// An address space with one page.
fn space(bench: &Bench, asid: u16) -> Arc<Space> {
    let space = Space::new(bench, asid);
    space.map(BASE);
    space
}

/// The state of a job that writes `pattern` to [`BASE`].
fn write(bench: &mut Bench, engine: usize, pasid: Option<u32>, pattern: u64) -> u32 {
    bench.fill(engine, BASE, 8, pattern, pasid);
    bench.finish([engine]);
    bench.state(engine)
}

#[test]
fn stalls_are_served_round_and_round_the_queues() {
    with_each_seed(|bench| {
        let space = Space::new(bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, BASE..OTHER + BYTES)).unwrap();
        bench.machine.write_engine(0, reg::DEPTH, 3);
        bench.fill(0, BASE, BYTES, 7, None);
        bench.finish([0]);
        bench.start(0, control::COPY, BASE, OTHER, BYTES, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(OTHER + BYTES - 8)), (status::DONE, 7));
        assert_eq!((bench.smmu.event_records(), bench.smmu.command_counts().answers), (2 * PAGES, 2 * PAGES));
        bench.disable(0).unwrap();
        assert_eq!(bench.live(), 0);
        // Terminated and reported: the CPU reads the record.
        let stream = bench.stream(0);
        bench.smmu.detach(&mut bench.cpu, stream).unwrap();
        assert_eq!(write(bench, 0, None, 1), status::ABORTED);
        assert_eq!(bench.sink.0.lock().len(), 1);
    });
}

#[test]
fn page_requests_are_served_round_and_round_and_through_an_overflow() {
    with_each_seed(|bench| {
        let pasid = substream(1);
        let space = Space::new(bench, 1);
        let stream = bench.stream(2);
        bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::PageRequest, 4)).unwrap();
        bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, Some(&space.context())).unwrap();
        bench.enable(2, Pager::with(BTreeMap::from([(Some(pasid), space.clone())]), BASE..BASE + BYTES)).unwrap();
        bench.fill(2, BASE, BYTES / 2, 7, Some(1));
        bench.finish([2]);
        assert_eq!((bench.state(2), space.word(BASE + BYTES / 2 - 8)), (status::DONE, 7));
        assert!(bench.smmu.page_request_records() >= PAGES / 2);
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NO_CREDITS);
        bench.machine.write_engine(2, reg::DEPTH, 8);
        bench.fill(2, BASE, BYTES, 8, Some(1));
        bench.machine.run(200);
        bench.finish([2]);
        assert_eq!((bench.state(2), space.word(BASE + BYTES - 8)), (status::DONE, 8));
        assert!(bench.smmu.page_request_counts().overflows > 0);
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_UNEXPECTED), 0);
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

#[test]
fn contexts_are_found_where_tables_grow_and_are_used_again() {
    with_each_seed(|bench| {
        let stream = bench.stream(0);
        let default = space(bench, 1);
        let translation = Translation::Stage1 { context: Some(default.context()), substream_bits: 8 };
        let config = StreamConfig { translation, ..plain(FaultMode::Terminate) };
        bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
        assert_eq!((write(bench, 0, None, 1), default.word(BASE)), (status::DONE, 1));
        for pasid in [1, 64, 65, 255] {
            assert_eq!(write(bench, 0, Some(pasid), 1), status::ABORTED, "{pasid}");
            let space = space(bench, 1 + pasid as u16);
            bench.smmu.attach_substream(&mut bench.cpu, stream, substream(pasid), Some(&space.context())).unwrap();
            assert_eq!((write(bench, 0, Some(pasid), 2), space.word(BASE)), (status::DONE, 2), "{pasid}");
        }
        let another = space(bench, 300);
        bench.smmu.attach_substream(&mut bench.cpu, stream, substream(255), Some(&another.context())).unwrap();
        assert_eq!((write(bench, 0, Some(255), 8), another.word(BASE)), (status::DONE, 8));
        bench.smmu.attach_substream(&mut bench.cpu, stream, substream(64), None).unwrap();
        assert_eq!((write(bench, 0, Some(64), 3), write(bench, 0, Some(65), 3)), (status::ABORTED, status::DONE));
        // Tables that are used again lead nowhere, nor to second-level tables that another stream has by now.
        bench.smmu.detach(&mut bench.cpu, stream).unwrap();
        let [second, third] = [1, 2].map(|engine| bench.stream(engine));
        bench.smmu.attach(&mut bench.cpu, second, &substreams(FaultMode::Terminate, 7)).unwrap();
        let space = space(bench, 9);
        bench.smmu.attach_substream(&mut bench.cpu, second, substream(66), Some(&space.context())).unwrap();
        bench.smmu.attach_substream(&mut bench.cpu, second, substream(2), Some(&space.context())).unwrap();
        let states = [66, 2, 65, 1, 64].map(|pasid| write(bench, 1, Some(pasid), 5));
        let (done, aborted) = (status::DONE, status::ABORTED);
        assert_eq!(states, [done, done, aborted, aborted, aborted]);
        bench.smmu.attach(&mut bench.cpu, third, &substreams(FaultMode::Terminate, 8)).unwrap();
        let states = [None, Some(2), Some(66), Some(194), Some(255)].map(|pasid| write(bench, 2, pasid, 6));
        assert_eq!(states, [aborted; 5]);
    });
}

#[test]
fn every_step_of_a_change_reaches_the_smmu() {
    with_each_seed(|bench| {
        let stream = bench.stream(0);
        let [one, two] = [1, 2].map(|asid| space(bench, asid));
        let machine = Space::machine(bench, 1);
        machine.map(BASE);
        let config = |translation| StreamConfig { translation, ..plain(FaultMode::Terminate) };
        use Transition::{Hitless, Interrupted};
        // Where an entry is invalid in between, that has to reach the SMMU too.
        let all = [
            (one.translation(), Hitless),
            (machine.translation(), Interrupted),
            (Translation::Abort, Hitless),
            (two.translation(), Hitless),
            (one.translation(), Hitless),
            (machine.translation(), Interrupted),
        ];
        bench.smmu.attach(&mut bench.cpu, stream, &config(Translation::Abort)).unwrap();
        for (pattern, (translation, transition)) in (1..).zip(all) {
            assert_eq!(bench.smmu.change(&mut bench.cpu, stream, &config(translation)), Ok(transition));
            let state = write(bench, 0, None, pattern);
            assert_eq!(state == status::DONE, translation != Translation::Abort, "{translation:?}");
            for space in [&one, &two, &machine] {
                assert_eq!(space.word(BASE) == pattern, space.translation() == translation, "{translation:?}");
            }
        }
    });
}

#[test]
fn what_an_aborted_write_to_the_event_queue_cost_is_served_again() {
    with_each_seed(|bench| {
        let space = Space::new(bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.machine.write_control(failures::EVENT_WRITE, 3);
        bench.fill(0, BASE, BYTES, 1, None);
        let mut errors = bench.global_errors();
        bench.run_until(|bench| {
            errors = bench.global_errors();
            errors.recover
        });
        let lost = Lost { streams: vec![bench.stream(0)], ..Lost::default() };
        assert_eq!(bench.recover(), Ok(lost));
        bench.reopen(0).unwrap();
        bench.fill(0, BASE, BYTES, 9, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(BASE + BYTES - 8)), (status::DONE, 9));
    });
}

const REGION: Region =
    Region { start: BASE, bytes: BYTES, permissions: Permissions::READ_WRITE, backing: Backing::Anonymous };

/// The word that the device left at `address`.
fn word(bench: &Bench, space: &AddressSpace, address: u64) -> u64 {
    bench.machine.memory().load(space.translate(address).unwrap().0).unwrap()
}

#[test]
fn an_address_space_of_ours_is_walked_paged_forgotten_and_its_frames_come_back_zeroed() {
    with_each_seed(|bench| {
        let frames =
            Arc::new(FramePool::new(&**bench.machine.memory(), PAGES as u32 + 4, bench.smmu.coherence()).unwrap());
        let (stream, work) = (bench.stream(0), Arc::new(WorkQueues::new(Box::new(|_, _| {}))));
        for round in 1..=2 {
            let space = Arc::new(AddressSpace::new(Asid(round), &[REGION], frames.clone()).unwrap());
            let context = Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR };
            let config = StreamConfig { translation: context.into(), ..plain(FaultMode::Stall) };
            bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
            let pager = Arc::new(DemandPager::new(Box::new([(None, space.clone())]), work.clone()));
            bench.smmu.enable_faults(&mut bench.cpu, &[stream], None, pager, LIMITS).unwrap();
            // The lower half is there before, the upper half comes with faults, zeroed: a device reads that too.
            (BASE..BASE + BYTES / 2).step_by(4096).for_each(|address| {
                assert_eq!(space.resolve(address, Access::WRITE, Effort::Zero), Resolution::Mapped);
            });
            bench.fill(0, BASE, BYTES / 2, 7, None);
            bench.finish([0]);
            assert_eq!(
                (bench.state(0), bench.smmu.event_records()),
                (status::DONE, (u64::from(round) - 1) * PAGES / 2)
            );
            assert_eq!(word(bench, &space, BASE + 4096), 7);
            bench.start(0, control::COPY, BASE + BYTES / 2, BASE, BYTES / 2, None);
            bench.run_until(|bench| {
                work.work(&bench.cpu);
                bench.state(0) != status::BUSY
            });
            assert_eq!((bench.state(0), word(bench, &space, BASE + 4096)), (status::DONE, 0));
            assert_eq!(space.pages(), PAGES);
            // What the next ones must not find.
            bench.fill(0, BASE, BYTES, 0x5a5a, None);
            bench.finish([0]);
            bench.disable(0).unwrap();
            bench.smmu.detach(&mut bench.cpu, stream).unwrap();
            assert_eq!(bench.live(), 0);
            let forgotten = bench.smmu.forget(&mut bench.cpu, Arc::into_inner(space).unwrap()).unwrap();
            AddressSpace::reclaim(forgotten);
            assert_eq!(frames.in_use(), 0);
        }
    });
}

#[test]
fn a_page_that_is_unmapped_and_invalidated_is_gone_for_the_device() {
    with_each_seed(|bench| {
        let frames = Arc::new(FramePool::new(&**bench.machine.memory(), 8, bench.smmu.coherence()).unwrap());
        let memory = zeroed(bench.machine.memory(), 8192, 4096);
        let region = Region { bytes: 8192, backing: Backing::Memory(memory.phys), ..REGION };
        let space = AddressSpace::new(Asid(1), &[region], frames).unwrap();
        let context = Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR };
        let stream = bench.stream(0);
        let config = StreamConfig { translation: context.into(), ..plain(FaultMode::Terminate) };
        bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
        for _ in 0..2 {
            assert_eq!(space.resolve(BASE, Access::WRITE, Effort::Zero), Resolution::Mapped);
            assert!(!space.resolve_soon(BASE, Access::WRITE), "it would not be cleaned");
            assert_eq!(write(bench, 0, None, 1), status::DONE);
            assert!(space.unmap(BASE));
            let grace = bench.grace();
            bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(1), &Gathered::all()).unwrap();
            assert_eq!(write(bench, 0, None, 2), status::ABORTED);
        }
    });
}

/// Of two cores that map a page, the one that comes second says that it is there: it cannot know that the first one has cleaned the entries.
#[test]
fn who_finds_a_page_mapped_has_the_smmu_see_it() {
    with_each_seed(|bench| {
        let frames = Arc::new(FramePool::new(&**bench.machine.memory(), 8, bench.smmu.coherence()).unwrap());
        let space = AddressSpace::new(Asid(1), &[REGION], frames.clone()).unwrap();
        assert_eq!(space.resolve(BASE, Access::WRITE, Effort::Zero), Resolution::Mapped);
        let mut table = space.root();
        for shift in [30, 21, 12] {
            let index = BASE >> shift & 0x1ff;
            let entry = &frames.words(table).unwrap()[index as usize];
            let held = entry.load(Relaxed);
            // As if the first one had not got as far as that: memory holds what it did, the cache the entry.
            bench.machine.memory().store(table.0 + 8 * index, 0).unwrap();
            entry.store(held, Relaxed);
            table = PhysAddr(held & 0x0000_ffff_ffff_f000);
        }
        assert_eq!(space.resolve(BASE, Access::WRITE, Effort::Ready), Resolution::Present);
        let context = Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR };
        let config = StreamConfig { translation: context.into(), ..plain(FaultMode::Terminate) };
        let stream = bench.stream(0);
        bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
        assert_eq!(write(bench, 0, None, 1), status::DONE);
    });
}

/// 6.3.11: non-cacheable 0b00. 5.2: S1CIR, S1COR in bits 69:66 and S1CSH in 71:70; S2IR0, S2OR0 in 171:168 and S2SH0 in 173:172, 0b10
/// outer shareable, which is what non-cacheable is taken for.
#[test]
fn the_smmu_goes_around_the_caches() {
    for (profile, cr1, stage1, stage2) in
        [(Profile::NonCoherent, 0, 0x20 << 2, 0x20 << 40), (Profile::Full, 0xd75, 0x35 << 2, 0x35 << 40)]
    {
        let mut bench = Bench::with(profile, Options { limit_us: LIMIT_US, stream_bits: 9, ..Options::default() });
        assert_eq!(bench.machine.read32(Register::Cr1), cr1);
        let stream = bench.stream(0);
        let (space, machine) = (Space::new(&bench, 1), Space::machine(&bench, 1));
        let base = bench.machine.read(board::SMMU_BASE + Register::StrtabBase.offset() as u64, Width::Double);
        let entry = |bench: &Bench, word: u64| {
            let memory = bench.machine.memory();
            let upper = memory.load((base & 0x000f_ffff_ffff_ffc0) + 8 * u64::from(stream.0 >> 8)).unwrap();
            memory.load((upper & 0x000f_ffff_ffff_ffc0) + 64 * u64::from(stream.0 & 0xff) + 8 * word).unwrap()
        };
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        assert_eq!(entry(&bench, 1) & 0x3f << 2, stage1);
        let config = StreamConfig { translation: machine.translation(), ..plain(FaultMode::Terminate) };
        bench.smmu.change(&mut bench.cpu, stream, &config).unwrap();
        assert_eq!(entry(&bench, 2) & 0x3f << 40, stage2);
        assert_eq!(bench.smmu.coherence().is_coherent(), profile == Profile::Full);
    }
}

#[test]
fn memory_behind_caches_is_given_out_by_whole_lines() {
    let memory = MachineMemory::behind_caches(4096, 0);
    let starts = [8, 136, 8].map(|bytes| memory.allocate(bytes, 8).unwrap().phys.0 & 0xfff);
    assert_eq!(starts, [0, 0x80, 0x180]);
    assert!(!Coherence::by(memory.maintenance().unwrap()).is_coherent());
}

#[test]
fn memory_that_starts_over_is_zero_wherever_it_was_written() {
    let memory = MachineMemory::new(1 << 20);
    memory.store(memory_base() + 0x8_0000, 7).unwrap();
    memory.start_over();
    assert_eq!(memory.load(memory_base() + 0x8_0000), Some(0));
}

/// STEs of neighbours lie in one line: these are of StreamIDs that do not.
#[test]
fn every_entry_of_a_device_with_several_stream_ids_is_cleaned() {
    let memory = Arc::new(MachineMemory::behind_caches(4 << 20, 0));
    let machine = Machine::with(memory, Profile::NonCoherent, 8);
    let mut bench = Bench::on(machine, Options { limit_us: LIMIT_US, ..Options::default() }, u64::MAX).unwrap();
    let space = Space::new(&bench, 1);
    let streams = [0, 4].map(|engine| {
        bench.attach(engine, FaultMode::Stall, &space).unwrap();
        bench.stream(engine)
    });
    let pager = Pager::new(&space, BASE..BASE + BYTES);
    bench.smmu.enable_faults(&mut bench.cpu, &streams, None, pager, LIMITS).unwrap();
    for engine in [0, 4] {
        assert_eq!(write(&mut bench, engine, None, 7), status::DONE, "engine {engine}");
    }
    bench.disable(0).unwrap();
    for engine in [0, 4] {
        assert_eq!(write(&mut bench, engine, None, 8), status::ABORTED, "engine {engine}");
    }
}
