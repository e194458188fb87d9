//! A virtual machine's own stage 1 under the host's stage 2 (docs/structures.md).

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use smmu_iopf::driver::{
    DriverError, FaultMode, Gathered, Guest, GuestInvalidation, Pages, StreamConfig, Transition, Translation,
};
use smmu_iopf::iopf::{Fault, FaultGroup, FaultHandler, Stage2Fault, Verdict};
use smmu_iopf::model::engine::registers::{self as reg, ats_control, status};
use smmu_iopf::smmuv3::command::{CommandError, TlbiRange, TlbiSpan};
use smmu_iopf::smmuv3::event::FaultClass;
use smmu_iopf::smmuv3::ste::DefaultSubstream;
use smmu_iopf::smmuv3::{Asid, Granule, PageResponse, SubstreamId, Vmid};
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
    devices_forget_what_stage_2_does_not_map_any_more,
    a_device_that_does_not_forget_a_page_of_stage_2_is_an_error,
    intermediate_addresses_are_forgotten_with_what_stage_1_made_of_them,
    what_a_virtual_machine_has_its_devices_forget_reaches_the_pasids_that_it_says,
    what_is_no_command_of_the_smmu_is_refused_to_a_virtual_machine,
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
            // Two pages, and as many as a table maps.
            let spans = [(1, 3), (9, 0)].map(|(scale, ttl)| TlbiSpan { granule: Granule::Size4K, ttl, num: 0, scale });
            let by_ranges = spans.into_iter().filter(|_| profile.features().range_invalidation).map(|span| {
                let range = TlbiRange { address: 0, leaf: true, span: Some(span) };
                (vec![GuestInvalidation::Addresses { asid: Some(Asid(0x11)), range }], false)
            });
            let of_page = |asid, leaf| GuestInvalidation::Addresses { asid, range: TlbiRange::single(0, leaf) };
            let others = [
                (vec![GuestInvalidation::All], false),
                (vec![GuestInvalidation::AddressSpace(Asid(0x11))], false),
                (vec![of_page(Some(Asid(0x11)), true); 70], false),
                (vec![of_page(None, false)], false),
                (vec![GuestInvalidation::Contexts(stream), GuestInvalidation::All], true),
                (vec![GuestInvalidation::Context { stream, substream, leaf: true }, GuestInvalidation::All], true),
            ];
            by_ranges.chain(others).collect::<Vec<_>>()
        };
        for (mut invalidations, changes_descriptor) in requests(profile.engine_stream(0)) {
            let mut world = World::new(profile);
            let (machine, start) = (world.machines[0].clone(), world.memory.phys.0);
            for invalidation in &mut invalidations {
                if let GuestInvalidation::Addresses { range, .. } = invalidation {
                    // The last one of its span.
                    range.address = start + 0x1000 - range.span.map_or(0x1000, |span| span.bytes());
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

/// A stage 1 for transactions without a PASID and those with PASID 1.
const TWO_CDS: Guest = Guest { substream_bits: 1, default_substream: DefaultSubstream::Substream0, ..ONE_CD };

/// 3.9.1: what a device got by ATS is of both stages.
fn devices_forget_what_stage_2_does_not_map_any_more() {
    on_each(&[Need::Stage2, PageRequests, Substreams], |profile| {
        for (is_nested, by_pages) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut world = World::new(profile);
            let (machine, start) = (world.machines[0].clone(), world.memory.phys.0);
            let nested = Translation::Nested(TWO_CDS, machine.stage2());
            let translation = if is_nested { nested } else { machine.translation() };
            let pasids = if is_nested { &[None, Some(1)][..] } else { &[None] };
            world.attach(2, FaultMode::PageRequest, translation).unwrap();
            world.bench.enable(2, Pager::new(&machine, start..start)).unwrap();
            let write = |world: &mut World, address, value, pasid| {
                world.bench.fill(2, address, 8, value, pasid);
                world.bench.finish([2]);
                (world.bench.state(2), machine.word(address))
            };
            for &pasid in pasids {
                assert_eq!(write(&mut world, start, 7, pasid), (status::DONE, 7));
                assert_eq!(write(&mut world, start + 0x1000, 7, pasid), (status::DONE, 7));
            }
            machine.hide(start);
            let grace = world.bench.grace();
            let (smmu, cpu, pages) = (&world.bench.smmu, &mut world.bench.cpu, Pages { first: start, count: 1 });
            let _ = match by_pages {
                true => smmu.invalidate_ipas(cpu, &grace, Vmid(1), &pages.into()).unwrap(),
                false => smmu.invalidate_vmid(cpu, &grace, Vmid(1)).unwrap(),
            };
            let asked = world.bench.machine.read_engine(2, reg::TRANSLATION_REQUESTS);
            for &pasid in pasids {
                assert_eq!(write(&mut world, start + 0x1000, 8, pasid), (status::DONE, 8));
            }
            // Which addresses of the device's are the page's, the host knows where they are intermediate ones.
            let asked = world.bench.machine.read_engine(2, reg::TRANSLATION_REQUESTS) - asked;
            assert_eq!(asked, if by_pages && !is_nested { 0 } else { pasids.len() as u32 });
            for &pasid in pasids {
                assert_eq!(write(&mut world, start, 8, pasid), (status::ABORTED, 7), "{pasid:?}");
            }
            world.bench.disable(2).unwrap();
        }
    });
}

/// 3.9.1.4: the page may not be used again.
fn a_device_that_does_not_forget_a_page_of_stage_2_is_an_error() {
    on_each(&[Need::Stage2, PageRequests], |profile| {
        let mut world = World::new(profile);
        let (machine, start, stream) = (world.machines[0].clone(), world.memory.phys.0, world.bench.stream(2));
        world.attach(2, FaultMode::PageRequest, machine.translation()).unwrap();
        world.bench.enable(2, Pager::new(&machine, start..start)).unwrap();
        assert_eq!(world.write(2, 7), status::DONE);
        machine.hide(start);
        let grace = world.bench.grace();
        let pages = Gathered::from(Pages { first: start, count: 1 });
        let device = GuestInvalidation::Device { stream, substream: None, global: false, address: start, size: 0 };
        for (control, forgotten) in [
            (ats_control::ENABLE | ats_control::INVALIDATIONS_TIME_OUT, Err(DriverError::AtcInvalidationTimeout)),
            (ats_control::ENABLE, Ok(())),
        ] {
            world.bench.machine.write_engine(2, reg::ATS_CONTROL, control);
            let (smmu, cpu) = (&world.bench.smmu, &mut world.bench.cpu);
            assert_eq!(smmu.invalidate_ipas(cpu, &grace, Vmid(1), &pages).map(drop), forgotten);
            assert_eq!(smmu.invalidate_vmid(cpu, &grace, Vmid(1)).map(drop), forgotten);
            assert_eq!(smmu.invalidate_guest(cpu, Vmid(1), &[device]).map(drop), forgotten);
        }
        assert_eq!(world.write(2, 8), status::ABORTED);
        assert_eq!(machine.word(start), 7);
        world.bench.disable(2).unwrap();
    });
}

/// 4.4.3.1: CMD_TLBI_S2_IPA need not reach what is of both stages, and that may be found again when a stage 1 that went comes back.
fn intermediate_addresses_are_forgotten_with_what_stage_1_made_of_them() {
    on_each(&[Need::Stage2], |profile| {
        for goes in [false, true] {
            let mut world = World::new(profile);
            world.bench.calm_caches();
            let (machine, start) = (world.machines[0].clone(), world.memory.phys.0);
            let nested = Translation::Nested(ONE_CD, machine.stage2());
            world.attach(0, FaultMode::Terminate, nested).unwrap();
            let write = |world: &mut World, value| {
                world.bench.fill(0, start, 8, value, None);
                world.bench.finish([0]);
                (world.bench.state(0), machine.word(start))
            };
            assert_eq!(write(&mut world, 7), (status::DONE, 7));
            machine.remap(start);
            assert_eq!(write(&mut world, 8), (status::DONE, 0), "the SMMU remembers the page");
            let config = |translation| StreamConfig { translation, ..plain(FaultMode::Terminate) };
            if goes {
                world.change(0, &config(machine.translation())).unwrap();
            }
            let grace = world.bench.grace();
            let pages = Gathered::from(Pages { first: start, count: 1 });
            let _ = world.bench.smmu.invalidate_ipas(&mut world.bench.cpu, &grace, Vmid(1), &pages).unwrap();
            if goes {
                world.change(0, &config(nested)).unwrap();
            }
            assert_eq!(write(&mut world, 9), (status::DONE, 9));
        }
    });
}

/// 4.5.1: a PASID, all PASIDs by Global, or none.
fn what_a_virtual_machine_has_its_devices_forget_reaches_the_pasids_that_it_says() {
    on_each(&[Need::Stage2, PageRequests, Substreams], |profile| {
        let mut world = World::new(profile);
        let (machine, start, stream) = (world.machines[0].clone(), world.memory.phys.0, world.bench.stream(2));
        world.attach(2, FaultMode::PageRequest, Translation::Nested(TWO_CDS, machine.stage2())).unwrap();
        world.bench.enable(2, Pager::new(&machine, start..start)).unwrap();
        // Where a write of each arrives: in the first page or the second one.
        let write = |world: &mut World, value| {
            [None, Some(1)].map(|pasid| {
                let before = [start, start + 0x1000].map(|page| machine.word(page));
                let value = value + u64::from(pasid.is_some());
                world.bench.fill(2, start, 8, value, pasid);
                world.bench.finish([2]);
                assert_eq!(world.bench.state(2), status::DONE);
                let now = [start, start + 0x1000].map(|page| machine.word(page));
                assert_eq!([now[0] != before[0], now[1] != before[1]].iter().filter(|changed| **changed).count(), 1);
                usize::from(now[1] != before[1])
            })
        };
        assert_eq!(write(&mut world, 0x10), [0, 0]);
        let of = |pasid: Option<u32>, global, address, size| {
            let substream = pasid.map(|pasid| SubstreamId::new(pasid).unwrap());
            GuestInvalidation::Device { stream, substream, global, address, size }
        };
        let page = start >> 12;
        for (n, (invalidation, forgets)) in (2..).zip([
            (of(Some(0), false, start, 0), [false, false]),
            (of(Some(1), false, start + 0x1000, 0), [false, false]),
            (of(None, true, start, 0), [true, false]),
            (of(Some(1), false, start, 0), [false, true]),
            (of(Some(0), true, start, 0), [false, true]),
            (of(Some(5), true, 0, 52), [false, true]),
            (of(Some(0), true, (page ^ 1) << 12, 1), [false, true]),
            (of(None, false, 0, 52), [true, false]),
        ]) {
            // Where its first page goes, the virtual machine changes each time.
            let odd = n % 2;
            machine.set_word(GUEST + 0x3000 + (page & 0x1ff) * 8, (start + odd * 0x1000) | 0xf43);
            // Both know the other page.
            let smmu = &world.bench.smmu;
            let mut carry_out = |what| smmu.invalidate_guest(&mut world.bench.cpu, Vmid(1), &[what]).unwrap();
            let _ = carry_out(of(Some(0), true, 0, 52));
            let _ = carry_out(of(None, false, 0, 52));
            let _ = carry_out(GuestInvalidation::All);
            assert_eq!(write(&mut world, 0x100 * n), [odd as usize; 2]);
            machine.set_word(GUEST + 0x3000 + (page & 0x1ff) * 8, (start + (1 - odd) * 0x1000) | 0xf43);
            let smmu = &world.bench.smmu;
            let _ = smmu.invalidate_guest(&mut world.bench.cpu, Vmid(1), &[GuestInvalidation::All]).unwrap();
            let _ = smmu.invalidate_guest(&mut world.bench.cpu, Vmid(1), &[invalidation]).unwrap();
            let expected = forgets.map(|forgets| (if forgets { 1 - odd } else { odd }) as usize);
            assert_eq!(write(&mut world, 0x100 * n + 0x10), expected, "{invalidation:?}");
        }
        world.bench.disable(2).unwrap();
    });
}

fn what_is_no_command_of_the_smmu_is_refused_to_a_virtual_machine() {
    on_each(&[Need::Stage2], |profile| {
        refuses(World::new(profile));
    });
}

#[test]
fn ranges_are_refused_to_a_virtual_machine_where_the_smmu_has_none() {
    refuses(World::without_ranges());
}

fn refuses(mut world: World) {
    let features = *world.bench.smmu.features();
    let (stream, other) = (world.bench.stream(0), world.bench.stream(1));
    world.attach(0, FaultMode::Terminate, world.machines[0].translation()).unwrap();
    world.attach(1, FaultMode::Terminate, world.machines[1].translation()).unwrap();
    let before = world.bench.smmu.command_counts().commands;
    let mut carry_out = |invalidation| {
        let both = [GuestInvalidation::All, invalidation];
        world.bench.smmu.invalidate_guest(&mut world.bench.cpu, Vmid(1), &both).map(drop)
    };
    let mut by_range = |ttl, num, scale| {
        let span = Some(TlbiSpan { granule: Granule::Size4K, ttl, num, scale });
        let range = TlbiRange { address: 0, leaf: true, span };
        carry_out(GuestInvalidation::Addresses { asid: None, range })
    };
    if features.range_invalidation {
        assert_eq!(by_range(0, 0, 0), Err(DriverError::GuestCommand(CommandError::EmptySpan(0x13))));
        for (ttl, num, scale) in [(4, 0, 0), (0, 32, 0), (0, 0, 32)] {
            assert_eq!(by_range(ttl, num, scale), Err(DriverError::GuestCommand(CommandError::WideSpan(0x13))));
        }
    } else {
        let error = by_range(0, 1, 0).unwrap_err().to_string();
        assert!(error.contains("IDR3.RIL"), "{error}");
    }
    let mut of_device = |stream, pasid: Option<u32>, size| {
        let substream = pasid.map(|pasid| SubstreamId::new(pasid).unwrap());
        carry_out(GuestInvalidation::Device { stream, substream, global: true, address: 0, size })
    };
    assert_eq!(of_device(other, None, 52), Err(DriverError::NotAttached(other)));
    assert_eq!(of_device(stream, None, 53), Err(DriverError::GuestCommand(CommandError::AtcSize(53))));
    if !features.ats {
        let refused = Err(DriverError::GuestCommand(CommandError::NotSupported(0x40)));
        assert_eq!(of_device(stream, None, 52), refused);
    }
    if features.ssid_bits == 0 {
        let error = of_device(stream, Some(0), 52).unwrap_err().to_string();
        assert!(error.contains("IDR1.SSIDSIZE"), "{error}");
    }
    let contexts = Err(DriverError::NotAttached(stream));
    assert_eq!(carry_out(GuestInvalidation::Contexts(stream)), contexts, "it has no stage 1");
    assert_eq!(world.bench.smmu.command_counts().commands, before, "nothing is done");
}
