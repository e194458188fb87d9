//! Where streams go: to nowhere, untranslated, through an address space, through a virtual machine (docs/structures.md).

use alloc::string::ToString;
use alloc::vec;

use smmu_iopf::driver::{DriverError, FaultMode, Guest, Options, Pages, Stage2, StreamConfig, Transition, Translation};
use smmu_iopf::model::board;
use smmu_iopf::model::engine::registers::{self as reg, status};
use smmu_iopf::model::profile::Profile;
use smmu_iopf::smmuv3::event::{Event, FaultClass, FaultKind};
use smmu_iopf::smmuv3::features::IdRegisters;
use smmu_iopf::smmuv3::ste::ContextTableFormat;
use smmu_iopf::smmuv3::{Asid, PageResponse, PhysAddr, Vmid};

use super::bench::Need::{self, PageRequests, Stall, Termination};
use super::bench::machine::{self, Machine};
use super::bench::world::{BYTES, GUEST, ONE_CD, PAGES, Tables, World};
use super::bench::{Bench, LIMIT_US, Pager, Space, faulting_engines, on_each, plain};

scenarios![
    what_misses_at_stage_2_is_terminated_and_reported,
    faults_of_a_virtual_machine_are_served,
    stalls_of_a_dying_virtual_machine_are_refused,
    faults_that_are_enabled_after_the_virtual_machine_died_do_not_lead_to_its_tables,
    devices_with_ats_forget_a_dying_virtual_machine,
    a_vmid_stands_for_one_set_of_tables,
    what_an_smmu_cannot_do_is_refused_by_the_field_that_says_so,
];

stepped![a_dying_virtual_machine_ends_its_accesses_without_a_record_and_its_vmid_is_free];

/// 7.3.13: the address is an intermediate one, and the record has it as such too.
fn what_misses_at_stage_2_is_terminated_and_reported() {
    on_each(&[Need::Stage2, Termination], |profile| {
        let mut world = World::new(profile);
        let end = world.memory.phys.0 + BYTES;
        world.attach(0, FaultMode::Terminate, world.machines[0].translation()).unwrap();
        world.bench.fill(0, end, 8, 1, None);
        world.bench.finish([0]);
        assert_eq!(world.bench.state(0), status::ABORTED);
        let [Event::Fault(fault)] = world.events()[..] else { panic!("one fault") };
        let expected = (FaultKind::Translation, FaultClass::Input, end, Some(end), None);
        assert_eq!((fault.kind, fault.class, fault.address, fault.ipa, fault.stag), expected);
    });
}

fn faults_of_a_virtual_machine_are_served() {
    on_each(&[Need::Stage2, Need::Faults], |profile| {
        for (engine, faults) in super::bench::faulting_engines(profile) {
            let mut world = World::new(profile);
            let machine = Space::machine(&world.bench, 3);
            let start = world.memory.phys.0;
            world.attach(engine, faults, machine.translation()).unwrap();
            world.bench.enable(engine, Pager::new(&machine, start..start + BYTES)).unwrap();
            assert_eq!((world.write(engine, 7), machine.pages() as u64), (status::DONE, PAGES), "{faults:?}");
            assert_eq!(machine.word(start + BYTES - 8), 7);
            world.bench.fill(engine, start + BYTES, 8, 7, None);
            world.bench.finish([engine]);
            assert_eq!(world.bench.state(engine), status::ABORTED, "{faults:?}");
            assert_eq!(
                world.change(engine, &plain(FaultMode::Terminate)),
                Err(DriverError::FaultsEnabled(world.bench.stream(engine)))
            );
            world.bench.disable(engine).unwrap();
            assert_eq!(
                (world.change(engine, &world.config("bypass", false)), world.bench.live()),
                (Ok(Transition::Hitless), 0)
            );
            assert_eq!((world.write(engine, 8), world.words(0)[0]), (status::DONE, 8));
        }
    });
}

/// Stalls that wait while the virtual machine is taken away are refused, and nobody is left waiting.
fn stalls_of_a_dying_virtual_machine_are_refused() {
    on_each(&[Need::Stage2, Stall], |profile| {
        let mut world = World::new(profile);
        let machine = Space::machine(&world.bench, 3);
        let start = world.memory.phys.0;
        let pager = Pager::deferring(&machine, start..start + BYTES);
        world.attach(0, FaultMode::Stall, machine.translation()).unwrap();
        world.bench.enable(0, pager.clone()).unwrap();
        world.bench.fill(0, start, BYTES, 7, None);
        world.bench.run_until(|_| !pager.deferred.lock().is_empty());
        let _ = world.bench.smmu.forget(&mut world.bench.cpu, Tables(machine.tag)).unwrap();
        // Nobody can resolve them, and Success would do no harm: the entry aborts.
        for group in pager.take() {
            let _ = world.bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success));
        }
        world.bench.finish([0]);
        assert_eq!((world.bench.state(0), world.events()), (status::ABORTED, vec![]));
        world.bench.disable(0).unwrap();
        assert_eq!(world.bench.live(), 0);
    });
}

/// S8: no record, and the VMID is used again for other tables at the same addresses.
fn a_dying_virtual_machine_ends_its_accesses_without_a_record_and_its_vmid_is_free() {
    on_each(&[Need::Stage2], |profile| {
        let mut world = World::new(profile);
        let next = Space::machine(&world.bench, 1);
        (0..PAGES).for_each(|page| next.map(world.memory.phys.0 + page * 4096));
        let in_use = Err(DriverError::VmidInUse(Vmid(1)));
        for engine in [0, 1] {
            world.attach(engine, FaultMode::Terminate, world.machines[0].translation()).unwrap();
        }
        assert_eq!(world.attach(2, FaultMode::Terminate, next.translation()), in_use);
        assert_eq!((world.write(0, 7), world.words(0)[3]), (status::DONE, 7));
        world.bench.fill(1, world.memory.phys.0, BYTES, 6, None);
        world.bench.run_until(|_| world.machines[0].word(world.memory.phys.0) == 6);
        world.forget(0).unwrap();
        world.machines[0].set_word(world.memory.phys.0, 5);
        world.bench.finish([1]);
        assert_eq!((world.bench.state(1), world.write(0, 8), world.words(0)[3]), (status::ABORTED, status::ABORTED, 5));
        assert_eq!(world.events(), []);
        let config = StreamConfig { translation: next.translation(), ..plain(FaultMode::Terminate) };
        assert_eq!(world.change(0, &config), Ok(Transition::Hitless));
        assert_eq!((world.write(0, 9), next.word(world.memory.phys.0), world.words(0)[3]), (status::DONE, 9, 5));
        assert_eq!(world.events(), []);
    });
}

fn faults_that_are_enabled_after_the_virtual_machine_died_do_not_lead_to_its_tables() {
    on_each(&[Need::Stage2, Need::Faults], |profile| {
        for (engine, mode) in faulting_engines(profile) {
            let mut world = World::new(profile);
            let (machine, start) = (world.machines[0].clone(), world.memory.phys.0);
            world.attach(engine, mode, machine.translation()).unwrap();
            world.forget(0).unwrap();
            world.bench.enable(engine, Pager::new(&machine, start..start + BYTES)).unwrap();
            assert_eq!((world.write(engine, 7), machine.word(start)), (status::ABORTED, 0), "{mode:?}");
            world.bench.disable(engine).unwrap();
        }
    });
}

fn devices_with_ats_forget_a_dying_virtual_machine() {
    on_each(&[Need::Stage2, PageRequests], |profile| {
        let mut world = World::new(profile);
        let machine = world.machines[0].clone();
        let start = world.memory.phys.0;
        world.attach(2, FaultMode::PageRequest, machine.translation()).unwrap();
        world.bench.enable(2, Pager::new(&machine, start..start)).unwrap();
        assert_eq!(world.write(2, 7), status::DONE);
        let before = world.bench.machine.read_engine(2, reg::INVALIDATIONS);
        world.forget(0).unwrap();
        assert_eq!(world.bench.machine.read_engine(2, reg::INVALIDATIONS) - before, 1);
        assert_eq!((world.write(2, 8), machine.word(start)), (status::ABORTED, 7));
        world.bench.disable(2).unwrap();
        assert_eq!(world.bench.live(), 0);
    });
}

/// 5.2.1: tables of one VMID are taken for each other.
fn a_vmid_stands_for_one_set_of_tables() {
    on_each(&[Need::Stage2], |profile| {
        let mut world = World::new(profile);
        let machine = world.machines[0].stage2();
        for engine in [0, 1] {
            world.attach(engine, FaultMode::Terminate, Translation::Stage2(machine)).unwrap();
        }
        let in_use = Err(DriverError::VmidInUse(Vmid(1)));
        for other in [Stage2 { table: world.machines[1].stage2().table, ..machine }, Stage2 { ipa_bits: 38, ..machine }]
        {
            let config = StreamConfig { translation: Translation::Stage2(other), ..plain(FaultMode::Terminate) };
            assert_eq!(world.change(0, &config).map(drop), in_use);
            assert_eq!(world.attach(2, FaultMode::Terminate, Translation::Stage2(other)), in_use);
        }
        assert_eq!((world.write(0, 7), world.words(0)[3]), (status::DONE, 7));
    });
}

fn what_an_smmu_cannot_do_is_refused_by_the_field_that_says_so() {
    on_each(&[], |profile| {
        let mut world = World::new(profile);
        let features = profile.features();
        let machine = world.machines[0].stage2();
        let beyond = 1 << features.oas.bits().min(48);
        for (stage2, what) in [
            (Stage2 { vmid: Vmid(0), ..machine }, "that VMID (IDR0.VMID16)"),
            (
                Stage2 { ipa_bits: features.ias().min(48) + 1, ..machine },
                "stage 2 with so many address bits (IDR5.OAS)",
            ),
            (Stage2 { ipa_bits: 24, ..machine }, "stage 2 with so many address bits (IDR5.OAS)"),
            (Stage2 { table: PhysAddr(beyond), ..machine }, "stage 2 tables at that address (IDR5.OAS)"),
            (Stage2 { ipa_bits: 40, table: PhysAddr(0x4000_1000), ..machine }, "stage 2 tables that are not aligned"),
        ] {
            let stream = world.bench.stream(0);
            let what = if features.stage2 { what } else { "stage 2 translation (IDR0.S2P)" };
            let refused = Err(DriverError::NotSupported { stream, what });
            assert_eq!(world.attach(0, FaultMode::Terminate, Translation::Stage2(stage2)), refused);
            world.attach(0, FaultMode::Terminate, Translation::Abort).unwrap();
            let config = StreamConfig { translation: Translation::Stage2(stage2), ..plain(FaultMode::Terminate) };
            assert_eq!(world.change(0, &config).map(drop), refused);
            world.bench.smmu.detach(&mut world.bench.cpu, stream).unwrap();
        }
        let guests = [
            (Guest { contexts: 1 << features.ias(), ..ONE_CD }, "context descriptors at that address (IDR5.OAS)"),
            (Guest { contexts: GUEST + 0x20, ..ONE_CD }, "context descriptors that are not aligned"),
            (Guest { substream_bits: features.ssid_bits + 1, ..ONE_CD }, "as many substreams"),
        ];
        let two_level = Guest { substream_bits: 1, format: ContextTableFormat::TwoLevel4K, ..ONE_CD };
        let two_level = (two_level, "context tables of two levels (IDR0.CD2L)");
        let lacks_levels = features.ssid_bits > 0 && !features.cd2l;
        for (guest, what) in guests.into_iter().chain(lacks_levels.then_some(two_level)) {
            let stream = world.bench.stream(0);
            let what = if features.stage2 { what } else { "stage 2 translation (IDR0.S2P)" };
            let refused = Err(DriverError::NotSupported { stream, what });
            assert_eq!(world.attach(0, FaultMode::Terminate, Translation::Nested(guest, machine)), refused);
        }
        // Nothing is translated, so nothing faults.
        let modes = super::bench::faulting_engines(profile);
        for ((engine, mode), translation) in modes.zip([Translation::Abort, Translation::Bypass]) {
            let (stream, what) = (world.bench.stream(engine), "faults without translation");
            assert_eq!(world.attach(engine, mode, translation), Err(DriverError::NotSupported { stream, what }));
        }
        if !features.stage2 {
            let error = world.forget(0).unwrap_err();
            assert!(error.to_string().contains("IDR0.S2P"), "{error}");
        }
    });
}

/// 6.3.1: without VMID16 a VMID has 8 bits; without S1P there is no stage 1.
#[test]
fn an_smmu_with_stage_2_alone_and_short_vmids_is_served() {
    let ids = Profile::Full.id_registers();
    // S1P, HYP, VMID16.
    let ids = IdRegisters { idr0: ids.idr0 & !(1 << 1 | 1 << 9 | 1 << 18), ..ids };
    let machine = Machine::with_ids(machine::memory(4 << 20, true), ids, board::DEFAULT_ENGINES).unwrap();
    let bench = Bench::on(machine, Options { limit_us: LIMIT_US, ..Options::default() }, u64::MAX).unwrap();
    let mut world = World::on(bench);
    let stream = world.bench.stream(0);
    let refused = |what| Err(DriverError::NotSupported { stream, what });
    let long = Stage2 { vmid: Vmid(0x100), ..world.machines[0].stage2() };
    for (translation, what) in [
        (world.spaces[0].translation(), "stage 1 translation (IDR0.S1P)"),
        (Translation::Nested(ONE_CD, world.machines[0].stage2()), "stage 1 translation (IDR0.S1P)"),
        (Translation::Stage2(long), "that VMID (IDR0.VMID16)"),
    ] {
        assert_eq!(world.attach(0, FaultMode::Terminate, translation), refused(what));
    }
    let machine = Space::machine(&world.bench, 0xff);
    let start = world.memory.phys.0;
    world.attach(0, FaultMode::Stall, machine.translation()).unwrap();
    world.bench.enable(0, Pager::new(&machine, start..start + BYTES)).unwrap();
    assert_eq!((world.write(0, 7), machine.word(start)), (status::DONE, 7));
    world.bench.disable(0).unwrap();
    let _ = world.bench.smmu.forget(&mut world.bench.cpu, Tables(machine.tag)).unwrap();
    assert_eq!(world.change(0, &world.config("bypass", false)), Ok(Transition::Hitless));
    assert_eq!((world.write(0, 8), world.words(0)[0]), (status::DONE, 8));
    let grace = world.bench.grace();
    let (smmu, cpu, page) = (&world.bench.smmu, &mut world.bench.cpu, Pages { first: 0, count: 1 });
    let refused = [smmu.invalidate_asid(cpu, &grace, Asid(1)), smmu.invalidate(cpu, &grace, Asid(1), &page.into())];
    for error in refused.map(Result::unwrap_err) {
        assert!(error.to_string().contains("IDR0.S1P"), "{error}");
    }
}
