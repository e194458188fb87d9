//! A virtual machine's own stage 1 under the host's stage 2 (docs/structures.md).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use smmu_iopf::driver::{DriverError, FaultMode, Guest, GuestInvalidation, StreamConfig, Transition, Translation};
use smmu_iopf::iopf::{Fault, FaultGroup, FaultHandler, Stage2Fault, Verdict};
use smmu_iopf::model::engine::registers::{self as reg, status};
use smmu_iopf::smmuv3::event::FaultClass;
use smmu_iopf::smmuv3::{Asid, PageResponse, SubstreamId, Vmid};
use smmu_iopf::sync::Masked;
use spin::Mutex;

use super::bench::Need::{self, PageRequests, Stall, Substreams};
use super::bench::world::{BYTES, GUEST, ONE_CD, World, guest};
use super::bench::{Pager, Space, on_each, plain};

scenarios![
    stalls_at_stage_2_under_stage_1_say_what_is_missing_and_are_answered,
    each_stall_at_stage_2_of_a_batch_says_what_it_misses,
    what_a_virtual_machine_has_forgotten_is_forgotten_under_its_vmid,
    devices_forget_every_substream_of_a_virtual_machine,
];

stepped![a_virtual_machine_turns_its_own_stage_on_and_off_without_interruption];

/// Its own stage 1 comes and goes without the device noticing; the VMID stays, so that only one word counts in both (5.2).
fn a_virtual_machine_turns_its_own_stage_on_and_off_without_interruption() {
    on_each(&[Need::Stage2], |profile| {
        let mut world = World::new(profile);
        let machine = world.machines[0].stage2();
        let config = |translation| StreamConfig { translation, ..plain(FaultMode::Terminate) };
        let [alone, nested] = [Translation::Stage2(machine), Translation::Nested(ONE_CD, machine)].map(config);
        let other = config(Translation::Nested(Guest { contexts: GUEST + 0x40, ..ONE_CD }, machine));
        world.attach(0, FaultMode::Terminate, alone.translation).unwrap();
        world.bench.fill(0, world.memory.phys.0, BYTES, 7, None);
        for (config, steps) in [(nested, 2), (other, 1), (alone, 1), (nested, 1)] {
            assert_eq!(world.bench.state(0), status::BUSY);
            let before = world.bench.smmu.command_counts().commands;
            assert_eq!(world.change(0, &config), Ok(Transition::Hitless));
            assert_eq!(world.bench.smmu.command_counts().commands - before, 2 * steps);
        }
        world.bench.finish([0]);
        assert_eq!((world.bench.state(0), world.events()), (status::DONE, vec![]));
        assert!((0..BYTES).step_by(8).all(|offset| world.words(offset) == [0, 0, 0, 7, 0]));
    });
}

/// Maps what stage 2 lacks, at once or later, and notes what for.
struct Hypervisor {
    machine: Arc<Space>,
    defers: bool,
    seen: Mutex<Vec<(Option<Stage2Fault>, u64)>>,
    deferred: Mutex<Vec<FaultGroup>>,
}

impl Hypervisor {
    fn resolve(&self, fault: &Fault) -> PageResponse {
        self.seen.lock().push((fault.stage2, fault.address));
        let Some(stage2) = fault.stage2 else { return PageResponse::Invalid };
        self.machine.map(stage2.ipa);
        PageResponse::Success
    }
}

impl FaultHandler for Hypervisor {
    fn handle(&self, _: &Masked, faults: &[Fault]) -> Verdict {
        if self.defers { Verdict::Defer } else { Verdict::Answer(self.resolve(&faults[0])) }
    }

    fn defer(&self, _: &Masked, group: FaultGroup) {
        self.deferred.lock().push(group);
    }
}

/// 7.3.13: the record has the address of the transaction, and the intermediate address of what stage 2 lacks, by CLASS. What the
/// virtual machine itself does not map, is a fault of its stage 1.
fn stalls_at_stage_2_under_stage_1_say_what_is_missing_and_are_answered() {
    on_each(&[Need::Stage2, Stall], |profile| {
        for defers in [false, true] {
            let mut world = World::new(profile);
            let (machine, start) = (world.machines[0].clone(), world.memory.phys.0);
            guest(&machine, start, true);
            let pages = [GUEST, GUEST + 0x1000, GUEST + 0x2000, GUEST + 0x3000, start];
            pages.into_iter().for_each(|page| machine.hide(page));
            let (seen, deferred) = (Mutex::default(), Mutex::default());
            let hypervisor = Arc::new(Hypervisor { machine: machine.clone(), defers, seen, deferred });
            world.attach(0, FaultMode::Stall, Translation::Nested(ONE_CD, machine.stage2())).unwrap();
            world.bench.enable(0, hypervisor.clone()).unwrap();
            let write = |world: &mut World, address| {
                world.bench.fill(0, address, 8, 7, None);
                world.bench.run_until(|bench| {
                    for group in core::mem::take(&mut *hypervisor.deferred.lock()) {
                        let response = group.faults().map(|fault| hypervisor.resolve(&fault)).last().unwrap();
                        bench.cpu.masked(|masked| group.respond(masked, response)).unwrap();
                    }
                    bench.state(0) != status::BUSY
                });
                world.bench.state(0)
            };
            assert_eq!((write(&mut world, start + 0x10), machine.word(start + 0x10)), (status::DONE, 7));
            let [cd, table, input] = [FaultClass::ContextDescriptor, FaultClass::TableDescriptor, FaultClass::Input];
            let classes = [cd, table, table, table, input];
            let expected = pages
                .into_iter()
                .zip(classes)
                .map(|(ipa, class)| (Some(Stage2Fault { ipa, class, table_write: false }), start + 0x10));
            assert_eq!(core::mem::take(&mut *hypervisor.seen.lock()), expected.collect::<Vec<_>>());
            assert_eq!(write(&mut world, start + BYTES), status::ABORTED);
            assert_eq!(*hypervisor.seen.lock(), [(None, start + BYTES)]);
            world.bench.disable(0).unwrap();
            assert_eq!((world.bench.live(), world.events()), (0, vec![]));
        }
    });
}

/// 7.3.13: the intermediate address in word 3 of each record.
fn each_stall_at_stage_2_of_a_batch_says_what_it_misses() {
    on_each(&[Need::Stage2, Stall], |profile| {
        let mut world = World::new(profile);
        let (machine, start) = (world.machines[0].clone(), world.memory.phys.0);
        guest(&machine, start, true);
        let pages = [start, start + 0x1000];
        pages.into_iter().for_each(|page| machine.hide(page));
        let hypervisor = Arc::new(Hypervisor {
            machine: machine.clone(),
            defers: false,
            seen: Mutex::default(),
            deferred: Mutex::default(),
        });
        world.attach(0, FaultMode::Stall, Translation::Nested(ONE_CD, machine.stage2())).unwrap();
        world.bench.enable(0, hypervisor.clone()).unwrap();
        world.bench.machine.write_engine(0, reg::DEPTH, 2);
        world.bench.fill(0, start, 0x2000, 7, None);
        world.bench.machine.run(1000);
        let smmu = &world.bench.smmu;
        assert_eq!(world.bench.cpu.masked(|masked| smmu.drain_events(masked)).records, 2, "one batch");
        let class = FaultClass::Input;
        let expected = pages.map(|ipa| (Some(Stage2Fault { ipa, class, table_write: false }), ipa));
        let mut seen = core::mem::take(&mut *hypervisor.seen.lock());
        seen.sort_by_key(|&(_, address)| address);
        assert_eq!(seen, expected);
        world.bench.finish([0]);
        assert_eq!((world.bench.state(0), machine.word(start + 0x1ff8)), (status::DONE, 7));
        world.bench.disable(0).unwrap();
    });
}

/// 3.17: ASID 0x11 of one virtual machine is nothing to another, nor to the host.
fn what_a_virtual_machine_has_forgotten_is_forgotten_under_its_vmid() {
    on_each(&[Need::Stage2], |profile| {
        let requests = |stream| {
            let substream = SubstreamId::new(0).unwrap();
            [
                (vec![GuestInvalidation::All], false),
                (vec![GuestInvalidation::AddressSpace(Asid(0x11))], false),
                (vec![GuestInvalidation::Page { asid: Some(Asid(0x11)), address: 0, leaf: true }; 70], false),
                (vec![GuestInvalidation::Page { asid: None, address: 0, leaf: false }], false),
                (vec![GuestInvalidation::Contexts(stream), GuestInvalidation::All], true),
                (vec![GuestInvalidation::Context { stream, substream, leaf: true }, GuestInvalidation::All], true),
            ]
        };
        for (mut invalidations, changes_descriptor) in requests(profile.engine_stream(0)) {
            let mut world = World::new(profile);
            let (machine, start) = (world.machines[0].clone(), world.memory.phys.0);
            for invalidation in &mut invalidations {
                if let GuestInvalidation::Page { address, .. } = invalidation {
                    *address = start;
                }
            }
            world.attach(0, FaultMode::Terminate, Translation::Nested(ONE_CD, machine.stage2())).unwrap();
            assert_eq!((world.write(0, 7), machine.word(start)), (status::DONE, 7));
            // Its first page goes where its second one goes: by its table, or by another one.
            let table = if changes_descriptor { GUEST + 0x4000 } else { GUEST + 0x3000 };
            if changes_descriptor {
                (4..7).for_each(|page| machine.map(GUEST + page * 4096));
                machine.set_word(GUEST + 0x6000 + (start >> 30 & 0x1ff) * 8, (GUEST + 0x5000) | 3);
                machine.set_word(GUEST + 0x5000 + (start >> 21 & 0x1ff) * 8, table | 3);
                machine.set_word(GUEST + 8, GUEST + 0x6000);
            }
            machine.set_word(table + (start >> 12 & 0x1ff) * 8, (start + 0x1000) | 0xf43);
            let _ = world.bench.smmu.invalidate_guest(&mut world.bench.cpu, Vmid(1), &invalidations).unwrap();
            world.bench.fill(0, start, 8, 9, None);
            world.bench.finish([0]);
            let words = [0, 0x1000].map(|offset| machine.word(start + offset));
            assert_eq!((world.bench.state(0), words), (status::DONE, [7, 9]), "{invalidations:?}");
        }
        // Nobody else's streams.
        let mut world = World::new(profile);
        world.attach(0, FaultMode::Terminate, Translation::Nested(ONE_CD, world.machines[0].stage2())).unwrap();
        world.attach(1, FaultMode::Terminate, world.machines[1].translation()).unwrap();
        for (vmid, engine) in [(2, 0), (2, 1), (1, 1), (1, 2)] {
            let stream = world.bench.stream(engine);
            let (smmu, contexts) = (&world.bench.smmu, [GuestInvalidation::Contexts(stream)]);
            let refused = smmu.invalidate_guest(&mut world.bench.cpu, Vmid(vmid), &contexts).map(drop);
            assert_eq!(refused, Err(DriverError::NotAttached(stream)));
        }
    });
}

/// The host does not know which substreams a virtual machine uses: a device forgets all of them.
fn devices_forget_every_substream_of_a_virtual_machine() {
    on_each(&[Need::Stage2, PageRequests, Substreams], |profile| {
        for dies in [true, false] {
            let mut world = World::new(profile);
            let (machine, start) = (world.machines[0].clone(), world.memory.phys.0);
            let two = Guest { substream_bits: 1, ..ONE_CD };
            world.attach(2, FaultMode::PageRequest, Translation::Nested(two, machine.stage2())).unwrap();
            world.bench.enable(2, Pager::new(&machine, start..start)).unwrap();
            let write = |world: &mut World, value| {
                world.bench.fill(2, start, 8, value, Some(1));
                world.bench.finish([2]);
                (world.bench.state(2), machine.word(start))
            };
            assert_eq!(write(&mut world, 7), (status::DONE, 7));
            let before = world.bench.machine.read_engine(2, reg::INVALIDATIONS);
            if dies {
                world.forget(0).unwrap();
                assert_eq!(write(&mut world, 8), (status::ABORTED, 7));
            } else {
                world.bench.disable(2).unwrap();
            }
            assert_eq!(world.bench.machine.read_engine(2, reg::INVALIDATIONS) - before, 2);
        }
    });
}
