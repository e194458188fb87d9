//! Memory that the SMMU reads is used again when cores, SMMU and devices have forgotten it, and not before.

use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use spin::Mutex;

use smmu_iopf::driver::{
    Context, DriverError, FaultMode, NO_TABLES, Options, Remembered, StreamConfig, Tag, Translation,
};
use smmu_iopf::iopf::{Fault, FaultGroup, FaultHandler, Verdict};
use smmu_iopf::model::board;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, ats_control, status};
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::smmuv3::features::IdRegisters;
use smmu_iopf::smmuv3::{Access, Asid, PageResponse, SubstreamId, Vmid};
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Effort, Region};
use smmu_iopf::sva::frames::{FRAME_WORDS, Frame, FramePool};
use smmu_iopf::sva::{MAIR, Permissions, T0SZ};
use smmu_iopf::sync::Masked;

use super::bench::Need::{Model, PageRequests, Substreams, Termination};
use super::bench::machine::{self, Machine, memory_base};
use super::bench::{Bench, LIMIT_US, Profile, cpu, faulting_engines, on, on_each, plain, substreams};

scenarios![
    where_every_fault_stalls_those_of_a_dying_address_space_are_refused,
    without_a_grace_period_nothing_is_invalidated_and_the_memory_stays,
    a_sync_that_times_out_gives_no_memory_back,
    an_atc_invalidation_that_times_out_gives_no_memory_back,
    a_device_whose_end_failed_is_asked_to_forget_an_address_space_too,
    each_pasid_that_leads_to_an_address_space_is_invalidated_and_no_other,
    a_substream_that_gets_another_address_space_asks_the_device_to_forget_the_first,
    a_descriptor_without_tables_is_quiet_and_under_nobodys_tag,
    the_tag_without_tables_is_nobodys,
    a_tag_is_given_out_again_when_it_is_forgotten_and_not_before,
    a_tag_that_is_used_again_leads_to_the_new_pages_alone,
    a_tag_whose_translations_a_device_may_have_is_not_given_out,
    a_stream_that_could_not_be_attached_is_forgotten_too,
];

stepped![a_dying_address_space_ends_its_accesses_without_a_record];

const BASE: u64 = 0x1000_0000;
const PAGES: u64 = 64;
const BYTES: u64 = PAGES * 4096;
const FRAMES: u32 = 100;

/// A bench with a pool of page frames.
struct World {
    bench: Bench,
    frames: Arc<FramePool>,
}

/// Maps pages into an address space until that is taken away, and refuses from then on.
struct Swappable(Mutex<Option<AddressSpace>>);

impl FaultHandler for Swappable {
    fn handle(&self, _: &Masked, faults: &[Fault]) -> Verdict {
        let space = self.0.lock();
        let maps = |fault: &Fault| {
            space.as_ref().is_some_and(|space| {
                space.resolve(fault.address, fault.access, Effort::Ready);
                space.translate(fault.address).is_some()
            })
        };
        Verdict::Answer(if faults.iter().all(maps) { PageResponse::Success } else { PageResponse::Invalid })
    }

    fn defer(&self, _: &Masked, _: FaultGroup) {}
}

impl World {
    fn new(profile: Profile) -> Self {
        let bench = Bench::of(profile);
        let frames = Arc::new(FramePool::new(&**bench.machine.memory(), FRAMES, bench.smmu.coherence()).unwrap());
        Self { bench, frames }
    }

    /// An address space whose first page is mapped.
    fn space(&self, asid: u16) -> AddressSpace {
        let region =
            Region { start: BASE, bytes: BYTES, permissions: Permissions::READ_WRITE, backing: Backing::Anonymous };
        let space = AddressSpace::new(Asid(asid), &[region], self.frames.clone()).unwrap();
        space.resolve(BASE, Access::WRITE, Effort::Zero);
        space
    }

    fn attach(&mut self, engine: usize, faults: FaultMode, space: &AddressSpace) {
        let config = StreamConfig { translation: context(space).into(), ..plain(faults) };
        let stream = self.bench.stream(engine);
        self.bench.smmu.attach(&mut self.bench.cpu, stream, &config).unwrap();
    }

    /// Attaches an engine's stream and has its faults served.
    fn serve(&mut self, engine: usize, faults: FaultMode, space: AddressSpace) -> Arc<Swappable> {
        self.attach(engine, faults, &space);
        let handler = Arc::new(Swappable(Mutex::new(Some(space))));
        self.bench.enable(engine, handler.clone()).unwrap();
        handler
    }

    #[expect(clippy::result_large_err, reason = "the space comes back in it, by value as it went")]
    fn forget(&mut self, space: AddressSpace) -> Result<(), Remembered<AddressSpace>> {
        let forgotten = self.bench.smmu.forget(&mut self.bench.cpu, space)?;
        AddressSpace::reclaim(forgotten);
        Ok(())
    }

    /// Uses every frame that is free for something else.
    fn use_free_frames(&self) -> Vec<Frame> {
        let taken: Vec<_> = core::iter::from_fn(|| self.frames.take()).collect();
        for frame in &taken {
            let words = self.frames.words(frame.phys()).unwrap();
            words.iter().for_each(|word| word.store(0x5a5a, Relaxed));
            self.bench.smmu.coherence().clean(words);
        }
        taken
    }

    /// Whether all that [`World::use_free_frames`] wrote is there.
    fn is_untouched(&self, taken: &[Frame]) -> bool {
        let words = |frame: &Frame| (frame.phys().0..).step_by(8).take(FRAME_WORDS);
        let memory = self.bench.machine.memory();
        taken.iter().flat_map(words).all(|address| memory.load(address) == Some(0x5a5a))
    }
}

/// What a device wrote to the first page.
fn written(bench: &Bench, space: &AddressSpace) -> u64 {
    bench.machine.memory().load(space.translate(BASE).unwrap().0).unwrap()
}

fn context(space: &AddressSpace) -> Context {
    Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR }
}

/// S8: whatever the stream does with a fault, a job under way and one that comes later are aborted, no event is recorded,
/// and the memory is used for something else without the device's seeing it.
fn a_dying_address_space_ends_its_accesses_without_a_record() {
    on_each(&[], |profile| {
        let terminated = Termination.is_met(profile).then_some((0, FaultMode::Terminate));
        for (engine, faults) in terminated.into_iter().chain(faulting_engines(profile)) {
            let mut world = World::new(profile);
            let space = world.space(1);
            let space = if faults == FaultMode::Terminate {
                world.attach(engine, faults, &space);
                (0..PAGES).for_each(|page| _ = space.resolve(BASE + page * 4096, Access::WRITE, Effort::Zero));
                world.bench.fill(engine, BASE, BYTES, 7, None);
                world.bench.machine.run(20);
                space
            } else {
                let handler = world.serve(engine, faults, space);
                world.bench.fill(engine, BASE, BYTES, 7, None);
                world.bench.run_until(|_| handler.0.lock().as_ref().unwrap().pages() > 4);
                handler.0.lock().take().unwrap()
            };
            assert_eq!(world.bench.state(engine), status::BUSY, "{faults:?}");
            world.forget(space).unwrap();
            assert_eq!(world.frames.in_use(), 0);
            let taken = world.use_free_frames();
            assert_eq!(taken.len(), FRAMES as usize);
            world.bench.finish([engine]);
            assert_eq!(world.bench.state(engine), status::ABORTED, "{faults:?}");
            world.bench.fill(engine, BASE, BYTES, 7, None);
            world.bench.finish([engine]);
            assert_eq!(world.bench.state(engine), status::ABORTED, "{faults:?}");
            assert_eq!(*world.bench.sink.0.lock(), [], "{faults:?}");
            assert!(world.is_untouched(&taken), "{faults:?}");
        }
    });
}

fn where_every_fault_stalls_those_of_a_dying_address_space_are_refused() {
    on(Modelled::ForcedStall, |profile| {
        let mut world = World::new(profile);
        let space = world.space(1);
        let handler = world.serve(0, FaultMode::Stall, space);
        let space = handler.0.lock().take().unwrap();
        world.forget(space).unwrap();
        world.bench.fill(0, BASE, 8, 7, None);
        world.bench.finish([0]);
        assert_eq!(world.bench.state(0), status::ABORTED);
        let statistics = world.bench.smmu.faults().totals().statistics;
        assert_eq!((statistics.groups, statistics.invalid), (1, 1));
        assert_eq!(*world.bench.sink.0.lock(), []);
    });
}

fn without_a_grace_period_nothing_is_invalidated_and_the_memory_stays() {
    on_each(&[], |profile| {
        let mut world = World::new(profile);
        let space = world.space(1);
        world.attach(0, FaultMode::Terminate, &space);
        let commands = world.bench.smmu.command_counts().commands;
        let mut reader = cpu(1);
        world.bench.domain.online(&mut reader);
        let remembered = world.forget(space).unwrap_err();
        assert_eq!(remembered.error.to_string(), format!("grace period held up by core 1 for {LIMIT_US} us"));
        assert_eq!(world.bench.smmu.command_counts().commands, commands);
        world.bench.fill(0, BASE, 8, 7, None);
        world.bench.finish([0]);
        assert_eq!(world.bench.state(0), status::DONE, "the SMMU still has it");
        // Root, two tables, one page.
        assert_eq!(world.frames.in_use(), 4);
        world.bench.domain.offline(&mut reader);
        world.forget(remembered.memory).unwrap();
        assert_eq!(world.frames.in_use(), 0);
    });
}

fn a_sync_that_times_out_gives_no_memory_back() {
    on_each(&[], |profile| {
        let mut world = World::new(profile);
        let space = world.space(1);
        world.attach(0, FaultMode::Terminate, &space);
        world.bench.hold_commands(true);
        let remembered = world.forget(space).unwrap_err();
        assert!(matches!(remembered.error, DriverError::CommandTimeout(_)), "{remembered}");
        assert_eq!(world.frames.in_use(), 4);
        world.bench.hold_commands(false);
        world.forget(remembered.memory).unwrap();
        assert_eq!(world.frames.in_use(), 0);
    });
}

fn an_atc_invalidation_that_times_out_gives_no_memory_back() {
    on_each(&[PageRequests], |profile| {
        let mut world = World::new(profile);
        let space = world.space(1);
        let handler = world.serve(2, FaultMode::PageRequest, space);
        let time_out = ats_control::ENABLE | ats_control::INVALIDATIONS_TIME_OUT;
        world.bench.machine.write_engine(2, reg::ATS_CONTROL, time_out);
        let space = handler.0.lock().take().unwrap();
        let remembered = world.forget(space).unwrap_err();
        assert_eq!(remembered.error, DriverError::AtcInvalidationTimeout);
        assert_eq!(world.frames.in_use(), 4);
        // It is not enough that the stream's entry leads elsewhere by now.
        let remembered = world.forget(remembered.memory).unwrap_err();
        assert_eq!(remembered.error, DriverError::AtcInvalidationTimeout);

        world.bench.machine.write_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
        let before = world.bench.machine.read_engine(2, reg::INVALIDATIONS);
        world.forget(remembered.memory).unwrap();
        assert_eq!(world.bench.machine.read_engine(2, reg::INVALIDATIONS) - before, 1);
        assert_eq!(world.frames.in_use(), 0);
    });
}

/// It may have the translations that its end was to take from it.
fn a_device_whose_end_failed_is_asked_to_forget_an_address_space_too() {
    on_each(&[Model, PageRequests], |profile| {
        let mut world = World::new(profile);
        let space = world.space(1);
        let handler = world.serve(2, FaultMode::PageRequest, space);
        let time_out = |world: &World| world.bench.machine.write_control(control::ATC_INVALIDATION, 1);
        time_out(&world);
        assert_eq!(world.bench.disable(2), Err(DriverError::AtcInvalidationTimeout));
        let space = handler.0.lock().take().unwrap();
        time_out(&world);
        let remembered = world.forget(space).unwrap_err();
        assert_eq!((&remembered.error, world.frames.in_use()), (&DriverError::AtcInvalidationTimeout, 4));
        world.forget(remembered.memory).unwrap();
        world.bench.disable(2).unwrap();
    });
}

fn each_pasid_that_leads_to_an_address_space_is_invalidated_and_no_other() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut world = World::new(profile);
        let (dying, living) = (world.space(1), world.space(2));
        let config = substreams(FaultMode::PageRequest, 4);
        // Without a default, PASID 0 is a PASID like any other (S1DSS = 0b00, 5.2).
        let pasids = [0, 1, 2, 3].map(|pasid| SubstreamId::new(pasid).unwrap());
        let (bench, contexts) = (&mut world.bench, [&dying, &dying, &dying, &living].map(context));
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(2), &config).unwrap();
        for (pasid, context) in pasids.into_iter().zip(&contexts) {
            bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(2), pasid, Some(context)).unwrap();
        }
        bench.enable(2, Arc::new(Swappable(Mutex::new(None)))).unwrap();
        for pasid in [0, 1, 2, 3] {
            bench.fill(2, BASE, 8, pasid.into(), Some(pasid));
            bench.finish([2]);
            assert_eq!(bench.state(2), status::DONE);
        }
        let before = bench.machine.read_engine(2, reg::INVALIDATIONS);
        world.forget(dying).unwrap();
        let bench = &mut world.bench;
        assert_eq!(bench.machine.read_engine(2, reg::INVALIDATIONS) - before, 3);
        for (pasid, state) in [(0, status::ABORTED), (1, status::ABORTED), (2, status::ABORTED), (3, status::DONE)] {
            bench.fill(2, BASE, 8, 9, Some(pasid));
            bench.finish([2]);
            assert_eq!(bench.state(2), state, "PASID {pasid}");
        }
        // The device forgets every PASID at the end, not only what it uses without one.
        let before = bench.machine.read_engine(2, reg::INVALIDATIONS);
        bench.disable(2).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::INVALIDATIONS) - before, 2);
        world.forget(living).unwrap();
        assert_eq!(world.frames.in_use(), 0);
    });
}

fn a_substream_that_gets_another_address_space_asks_the_device_to_forget_the_first() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut world = World::new(profile);
        let (first, second) = (world.space(1), world.space(2));
        let config = substreams(FaultMode::PageRequest, 4);
        let pasid = SubstreamId::new(3).unwrap();
        let (bench, contexts) = (&mut world.bench, [&first, &second].map(context));
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(2), &config).unwrap();
        bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(2), pasid, Some(&contexts[0])).unwrap();
        bench.enable(2, Arc::new(Swappable(Mutex::new(None)))).unwrap();
        for (pattern, words) in [(5, [5, 0]), (6, [5, 6])] {
            bench.fill(2, BASE, 8, pattern, Some(3));
            bench.finish([2]);
            let word = |space: &AddressSpace| written(bench, space);
            assert_eq!((bench.state(2), [&first, &second].map(word)), (status::DONE, words));
            bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(2), pasid, Some(&contexts[1])).unwrap();
        }
        // It has forgotten the first by now, and not the second.
        for (space, invalidations) in [(first, 0), (second, 1)] {
            let before = world.bench.machine.read_engine(2, reg::INVALIDATIONS);
            world.forget(space).unwrap();
            assert_eq!(world.bench.machine.read_engine(2, reg::INVALIDATIONS) - before, invalidations);
        }
    });
}

/// A TLB hit needs no walk, so EPD0 alone would not keep a descriptor with the old tag from the translations of the tag's next
/// owner.
fn a_descriptor_without_tables_is_quiet_and_under_nobodys_tag() {
    on_each(&[Termination], |profile| {
        let mut world = World::new(profile);
        let space = world.space(1);
        world.attach(0, FaultMode::Terminate, &space);
        // 5.4: ASID 0; ASET, A; neither R nor S; AA64; IPS, at most 5 (48 bits); V, EPD1, EPD0. And as it was: TTB0, MAIR0.
        let first = if profile.features().oas.bits() == 44 { 0x0000_c204_c000_4000 } else { 0x0000_c205_c000_4000 };
        let root = space.root().0;
        let memory = world.bench.machine.memory().clone();
        let words = |at: u64| [0, 8, 16, 24].map(|offset| memory.load(at + offset).unwrap());
        let found = |first| {
            let lines = (0..(4_u64 << 20) / 64).map(|line| memory_base() + line * 64);
            lines.map(words).filter(|words| words[0] == first).collect::<Vec<_>>()
        };
        assert_eq!(found(first), [[0; 4]; 0]);
        world.forget(space).unwrap();
        assert_eq!(found(first), [[first, root, 0, 0xff]]);
    });
}

fn the_tag_without_tables_is_nobodys() {
    on_each(&[Substreams], |profile| {
        let mut world = World::new(profile);
        let space = world.space(NO_TABLES.0);
        let config = StreamConfig {
            translation: Translation::Stage1 { context: Some(context(&space)), substream_bits: 2 },
            ..plain(FaultMode::Terminate)
        };
        let refused = Err(DriverError::NotSupported {
            stream: profile.engine_stream(2),
            what: "an address space with that ASID",
        });
        let (smmu, cpu) = (&world.bench.smmu, &mut world.bench.cpu);
        assert_eq!(smmu.attach(cpu, profile.engine_stream(2), &config), refused);
        smmu.attach(cpu, profile.engine_stream(2), &substreams(FaultMode::Terminate, 2)).unwrap();
        let pasid = SubstreamId::new(1).unwrap();
        assert_eq!(smmu.attach_substream(cpu, profile.engine_stream(2), pasid, Some(&context(&space))), refused);
    });
}

fn a_tag_is_given_out_again_when_it_is_forgotten_and_not_before() {
    on_each(&[], |profile| {
        let mut world = World::new(profile);
        let take = |world: &mut World| world.bench.smmu.take_asid(&mut world.bench.cpu).unwrap().0;
        assert_eq!([take(&mut world), take(&mut world)], [1, 2]);
        let space = world.space(1);
        world.attach(0, FaultMode::Terminate, &space);
        let stream = world.bench.stream(0);
        world.bench.smmu.detach(&mut world.bench.cpu, stream).unwrap();
        assert_eq!(take(&mut world), 3, "the TLB may have translations of the first");
        world.bench.hold_commands(true);
        let remembered = world.forget(space).unwrap_err();
        world.bench.hold_commands(false);
        assert_eq!(take(&mut world), 4);
        world.forget(remembered.memory).unwrap();
        assert_eq!([take(&mut world), take(&mut world)], [1, 5]);
        // One that came to no use.
        let _ = world.bench.smmu.forget(&mut world.bench.cpu, Tag::AddressSpace(Asid(2))).unwrap();
        assert_eq!(take(&mut world), 2);
    });
}

/// The same tag, and the same address, each time for another page: whoever has had it has not left a translation.
fn a_tag_that_is_used_again_leads_to_the_new_pages_alone() {
    on_each(&[], |profile| {
        let mut world = World::new(profile);
        let mut kept = Vec::new();
        for round in 1..=3 {
            // So that the frames are others.
            kept.extend(world.frames.take());
            let space = world.space(1);
            world.attach(0, FaultMode::Terminate, &space);
            world.bench.fill(0, BASE, 8, round, None);
            world.bench.finish([0]);
            assert_eq!((world.bench.state(0), written(&world.bench, &space)), (status::DONE, round));
            let stream = world.bench.stream(0);
            world.bench.smmu.detach(&mut world.bench.cpu, stream).unwrap();
            world.forget(space).unwrap();
        }
    });
}

fn a_tag_whose_translations_a_device_may_have_is_not_given_out() {
    on_each(&[PageRequests], |profile| {
        let mut world = World::new(profile);
        let take = |world: &mut World| world.bench.smmu.take_asid(&mut world.bench.cpu).unwrap().0;
        let asid = take(&mut world);
        let space = world.space(asid);
        let handler = world.serve(2, FaultMode::PageRequest, space);
        let time_out = ats_control::ENABLE | ats_control::INVALIDATIONS_TIME_OUT;
        world.bench.machine.write_engine(2, reg::ATS_CONTROL, time_out);
        let space = handler.0.lock().take().unwrap();
        let remembered = world.forget(space).unwrap_err();
        assert_eq!(take(&mut world), asid + 1);
        world.bench.machine.write_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
        world.forget(remembered.memory).unwrap();
        assert_eq!(take(&mut world), asid);
    });
}

/// 6.3.1: tags have 8 bits without ASID16 and VMID16.
#[test]
fn tags_that_are_all_in_use_are_an_error_and_come_round() {
    let ids = Modelled::Full.id_registers();
    let ids = IdRegisters { idr0: ids.idr0 & !(1 << 12 | 1 << 18), ..ids };
    let machine = Machine::with_ids(machine::memory(4 << 20, true), ids, board::DEFAULT_ENGINES).unwrap();
    let bench = Bench::on(machine, Options { limit_us: LIMIT_US, ..Options::default() }, u64::MAX).unwrap();
    let frames = Arc::new(FramePool::new(&**bench.machine.memory(), FRAMES, bench.smmu.coherence()).unwrap());
    let mut world = World { bench, frames };
    // The last one stays.
    for tag in 1..=254 {
        let bench = &mut world.bench;
        assert_eq!(bench.smmu.take_asid(&mut bench.cpu), Ok(Asid(tag)));
        assert_eq!(bench.smmu.take_vmid(&mut bench.cpu), Ok(Vmid(tag)));
    }
    assert_eq!(world.bench.smmu.take_vmid(&mut world.bench.cpu), Ok(Vmid(255)));
    assert_eq!(world.bench.smmu.take_vmid(&mut world.bench.cpu), Err(DriverError::NoVmid { bits: 8 }));
    // The same tag, and the same address, each time for another page: whoever has had it has not left a translation.
    for round in 1..=3 {
        let asid = world.bench.smmu.take_asid(&mut world.bench.cpu).unwrap();
        let exhausted = world.bench.smmu.take_asid(&mut world.bench.cpu);
        assert_eq!((asid, exhausted), (Asid(255), Err(DriverError::NoAsid { bits: 8 })));
        // So that the frames are others.
        let _kept = world.frames.take();
        let space = world.space(asid.0);
        world.attach(0, FaultMode::Terminate, &space);
        world.bench.fill(0, BASE, 8, round, None);
        world.bench.finish([0]);
        assert_eq!((world.bench.state(0), written(&world.bench, &space)), (status::DONE, round));
        let stream = world.bench.stream(0);
        world.bench.smmu.detach(&mut world.bench.cpu, stream).unwrap();
        world.forget(space).unwrap();
    }
    let _ = world.bench.smmu.forget(&mut world.bench.cpu, Tag::VirtualMachine(Vmid(9))).unwrap();
    assert_eq!(world.bench.smmu.take_vmid(&mut world.bench.cpu), Ok(Vmid(9)));
}

fn a_stream_that_could_not_be_attached_is_forgotten_too() {
    on_each(&[], |profile| {
        let mut world = World::new(profile);
        let space = world.space(1);
        let config = StreamConfig { translation: context(&space).into(), ..plain(FaultMode::Terminate) };
        world.bench.hold_commands(true);
        let attached = world.bench.smmu.attach(&mut world.bench.cpu, profile.engine_stream(0), &config);
        assert!(matches!(attached, Err(DriverError::CommandTimeout(_))), "{attached:?}");
        world.bench.hold_commands(false);
        let enabled = world.bench.enable(0, Arc::new(Swappable(Mutex::new(None))));
        assert_eq!(enabled, Err(DriverError::NotAttached(profile.engine_stream(0))));
        world.attach(0, FaultMode::Terminate, &space);
        world.bench.fill(0, BASE, 8, 1, None);
        world.bench.finish([0]);
        assert_eq!(world.bench.state(0), status::DONE);
        world.forget(space).unwrap();
        assert_eq!(world.frames.in_use(), 0);
    });
}
