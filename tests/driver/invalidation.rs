//! Invalidation: what is forgotten when it returns, by the SMMU and by devices, and what they keep.

use alloc::vec::Vec;
use core::cell::Cell;

use smmu_iopf::driver::{DriverError, FaultMode, Gathered, Pages};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, status};
use smmu_iopf::smmuv3::event::{Event, FaultKind};
use smmu_iopf::smmuv3::{Asid, SubstreamId, Vmid};

use super::bench::Need::{Ats, PageRequests, Queues, Stage2, Stall, Substreams, Termination};
use super::bench::pending::Hooked;
#[cfg(not(target_os = "none"))]
use super::bench::world::World;
use super::bench::{Bench, Pager, Space, cpu, on_each, substreams};

scenarios![
    pages_that_were_invalidated_are_walked_anew,
    pages_that_were_taken_away_or_made_read_only_are_not_written_any_more,
    one_address_space_is_forgotten_and_another_one_is_not,
    one_virtual_machine_is_forgotten_and_another_one_is_not,
    a_device_forgets_the_pages_that_were_invalidated_and_no_more,
    invalidations_complete_and_a_substream_can_be_taken_away,
    the_smmu_forgets_what_was_gathered_by_one_sync_and_no_more,
    the_smmu_forgets_intermediate_addresses_that_were_gathered_and_no_more,
    devices_forget_what_was_gathered_by_a_second_sync,
    a_device_forgets_the_translations_of_its_substreams_with_all_others,
    more_pages_than_a_batch_has_commands_for_are_the_whole_address_space,
    more_intermediate_addresses_than_a_batch_has_commands_for_are_the_whole_virtual_machine,
    pages_are_invalidated_while_a_device_is_waited_for_where_none_has_ats,
];

const BASE: u64 = 0x1000_0000;

/// As many pages as are invalidated one by one.
const PAGES: u64 = 16;
const BYTES: u64 = PAGES * 4096;

fn addresses() -> impl Iterator<Item = u64> {
    (BASE..BASE + BYTES).step_by(4096)
}

/// Fills all pages with `pattern`, and says in which of them it arrived.
fn fill(bench: &mut Bench, engine: usize, space: &Space, pattern: u64) -> Vec<u64> {
    bench.fill(engine, BASE, BYTES, pattern, None);
    bench.finish([engine]);
    assert_eq!(bench.state(engine), status::DONE);
    addresses().filter(|address| space.word(*address) == pattern).collect()
}

fn pages_that_were_invalidated_are_walked_anew() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 3);
        addresses().for_each(|address| space.map(address));
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        assert_eq!(fill(&mut bench, 0, &space, 1).len(), PAGES as usize);
        addresses().for_each(|address| space.remap(address));
        assert_ne!(fill(&mut bench, 0, &space, 2).len(), PAGES as usize, "the SMMU remembers some of them");
        let grace = bench.grace();
        let pages = Pages { first: BASE, count: PAGES };
        bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(3), &pages.into()).unwrap();
        assert_eq!(fill(&mut bench, 0, &space, 3).len(), PAGES as usize);
    });
}

fn pages_that_were_taken_away_or_made_read_only_are_not_written_any_more() {
    on_each(&[Termination], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 3);
        let [gone, read_only, other] = [BASE, BASE + 4096, BASE + 8192];
        addresses().take(3).for_each(|address| space.map(address));
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        let write = |bench: &mut Bench, address, pattern| {
            bench.fill(0, address, 8, pattern, None);
            bench.finish([0]);
            (bench.state(0), space.word(address))
        };
        for address in [gone, read_only, other] {
            assert_eq!(write(&mut bench, address, 1), (status::DONE, 1));
        }
        space.hide(gone);
        space.map_read_only(read_only);
        let grace = bench.grace();
        bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(3), &Pages { first: BASE, count: 2 }.into()).unwrap();
        assert_eq!(write(&mut bench, gone, 2), (status::ABORTED, 1));
        assert_eq!(write(&mut bench, read_only, 2), (status::ABORTED, 1));
        assert_eq!(write(&mut bench, other, 2), (status::DONE, 2));
        let events = core::mem::take(&mut *bench.sink.0.lock());
        let faults = events.iter().map(|event| match event {
            Event::Fault(fault) => (fault.kind, fault.address, fault.access.write),
            other => panic!("{other:?}"),
        });
        let faults = faults.collect::<Vec<_>>();
        assert_eq!(faults, [(FaultKind::Translation, gone, true), (FaultKind::Permission, read_only, true)]);
    });
}

fn one_virtual_machine_is_forgotten_and_another_one_is_not() {
    on_each(&[Stage2], |profile| {
        let mut bench = Bench::of(profile);
        bench.calm_caches();
        let machines = [(0, 3), (1, 4)].map(|(engine, vmid)| {
            let machine = Space::machine(&bench, vmid);
            machine.map(BASE);
            bench.attach(engine, FaultMode::Terminate, &machine).unwrap();
            machine
        });
        let arrived = |bench: &mut Bench, pattern| {
            [0, 1].map(|engine: usize| {
                bench.fill(engine, BASE, 8, pattern, None);
                bench.finish([engine]);
                assert_eq!(bench.state(engine), status::DONE);
                machines[engine].word(BASE) == pattern
            })
        };
        assert_eq!(arrived(&mut bench, 1), [true, true]);
        machines.iter().for_each(|machine| machine.remap(BASE));
        assert_eq!(arrived(&mut bench, 2), [false, false], "the SMMU remembers both");
        let grace = bench.grace();
        let _ = bench.smmu.invalidate_vmid(&mut bench.cpu, &grace, Vmid(3)).unwrap();
        assert_eq!(arrived(&mut bench, 3), [true, false]);
        let _ = bench.smmu.invalidate_vmid(&mut bench.cpu, &grace, Vmid(4)).unwrap();
        assert_eq!(arrived(&mut bench, 4), [true, true]);
    });
}

fn one_address_space_is_forgotten_and_another_one_is_not() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        bench.calm_caches();
        let spaces = [(0, 3), (1, 4)].map(|(engine, asid)| {
            let space = Space::new(&bench, asid);
            addresses().take(2).for_each(|address| space.map(address));
            bench.attach(engine, FaultMode::Terminate, &space).unwrap();
            space
        });
        let arrived = |bench: &mut Bench, pattern| {
            [0, 1].map(|engine: usize| {
                bench.fill(engine, BASE, 2 * 4096, pattern, None);
                bench.finish([engine]);
                assert_eq!(bench.state(engine), status::DONE);
                addresses().take(2).filter(|address| spaces[engine].word(*address) == pattern).count()
            })
        };
        assert_eq!(arrived(&mut bench, 1), [2, 2]);
        spaces.iter().for_each(|space| addresses().take(2).for_each(|address| space.remap(address)));
        assert_eq!(arrived(&mut bench, 2), [0, 0], "the SMMU remembers all of them");
        let grace = bench.grace();
        let _ = bench.smmu.invalidate_asid(&mut bench.cpu, &grace, Asid(3)).unwrap();
        assert_eq!(arrived(&mut bench, 3), [2, 0]);
        bench.smmu.invalidate_all(&mut bench.cpu, &grace).unwrap();
        assert_eq!(arrived(&mut bench, 4), [2, 2]);
    });
}

/// The model consumes 32 commands in a step, so the SYNC behind as many waits for the next one.
#[test]
fn pages_are_not_believed_to_be_forgotten_before_the_sync_behind_them_is_consumed() {
    const PAGES: u64 = 32;
    on_each(&[Queues], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 3);
        let addresses = || (0..PAGES).map(|page| BASE + page * 4096);
        let fill = |bench: &mut Bench, pattern| {
            bench.fill(0, BASE, PAGES * 4096, pattern, None);
            bench.finish([0]);
            addresses().filter(|address| space.word(*address) == pattern).count()
        };
        addresses().for_each(|address| space.map(address));
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        assert_eq!(fill(&mut bench, 1), PAGES as usize);
        addresses().for_each(|address| space.remap(address));
        let grace = bench.grace();
        let mut gathered = Gathered::from(Pages { first: BASE, count: PAGES });
        if bench.smmu.features().range_invalidation {
            // 33 pages are two ranges.
            (0..16).for_each(|n| gathered.add(Pages { first: BASE + (n << 20), count: 33 }));
        }
        let began = bench.machine.read_control(control::TICKS);
        bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(3), &gathered).unwrap();
        assert_eq!(bench.machine.read_control(control::TICKS) - began, 2);
        assert_eq!(fill(&mut bench, 2), PAGES as usize);
    });
}

fn a_device_forgets_the_pages_that_were_invalidated_and_no_more() {
    on_each(&[PageRequests], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 3);
        bench.attach(2, FaultMode::PageRequest, &space).unwrap();
        bench.enable(2, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        assert_eq!(fill(&mut bench, 2, &space, 1).len(), PAGES as usize);
        addresses().for_each(|address| space.remap(address));
        let grace = bench.grace();
        let synced = bench.smmu.invalidate_asid(&mut bench.cpu, &grace, Asid(3)).unwrap();
        assert_eq!(fill(&mut bench, 2, &space, 2), [0; 0], "the device remembers all of them");
        // Four pages, aligned, so that the range is no larger (4.5.1.1).
        let pages = Pages { first: BASE + 4 * 4096, count: 4 };
        bench.smmu.invalidate_atc(&mut bench.cpu, &synced, profile.engine_stream(2), None, Some(pages)).unwrap();
        let asked = bench.machine.read_engine(2, reg::TRANSLATION_REQUESTS);
        let forgotten = addresses().skip(4).take(4).collect::<Vec<_>>();
        assert_eq!(fill(&mut bench, 2, &space, 3), forgotten);
        assert_eq!(bench.machine.read_engine(2, reg::TRANSLATION_REQUESTS) - asked, 4);
        bench.disable(2).unwrap();
    });
}

fn invalidations_complete_and_a_substream_can_be_taken_away() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 3);
        space.map(BASE);
        let config = substreams(FaultMode::Terminate, 2);
        let substream = SubstreamId::new(3).unwrap();
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(2), &config).unwrap();
        bench
            .smmu
            .attach_substream(&mut bench.cpu, profile.engine_stream(2), substream, Some(&space.context()))
            .unwrap();
        bench.fill(2, BASE, 8, 1, Some(3));
        bench.finish([2]);
        assert_eq!(bench.state(2), status::DONE);
        bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(2), substream, None).unwrap();
        let grace = bench.grace();
        let (cpu, smmu) = (&mut bench.cpu, &bench.smmu);
        smmu.invalidate_asid(cpu, &grace, Asid(3)).unwrap();
        let pages = Pages { first: BASE, count: 3 };
        smmu.invalidate(cpu, &grace, Asid(3), &pages.into()).unwrap();
        let synced = smmu.invalidate(cpu, &grace, Asid(3), &Pages { count: 1 << 20, ..pages }.into()).unwrap();
        let device = smmu.invalidate_atc(cpu, &synced, profile.engine_stream(2), Some(substream), Some(pages));
        let lacks = DriverError::NotSupported { stream: profile.engine_stream(2), what: "ATS" };
        assert_eq!(device.err(), (!Ats.is_met(profile)).then_some(lacks));
        bench.fill(2, BASE, 8, 1, Some(3));
        bench.finish([2]);
        assert_eq!(bench.state(2), status::ABORTED);
        let beyond = SubstreamId::new(4).unwrap();
        let out_of_range = DriverError::SubstreamOutOfRange { stream: profile.engine_stream(2), substream: beyond };
        let result = bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(2), beyond, None);
        assert_eq!(result, Err(out_of_range));
    });
}

/// What a profile's SMMU is asked, when two ranges of an address space are to be forgotten, of 4 pages and of 3.
fn gathered() -> Gathered {
    let mut gathered = Gathered::from(Pages { first: BASE + 2 * 4096, count: 2 });
    gathered.add(Pages { first: BASE + 8 * 4096, count: 3 });
    gathered.add(Pages { first: BASE + 4 * 4096, count: 2 });
    gathered
}

/// The pages of [`gathered`].
fn forgotten() -> Vec<u64> {
    [2, 3, 4, 5, 8, 9, 10].map(|page| BASE + page * 4096).into()
}

fn the_smmu_forgets_what_was_gathered_by_one_sync_and_no_more() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        bench.calm_caches();
        let space = Space::new(&bench, 3);
        addresses().for_each(|address| space.map(address));
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        assert_eq!(fill(&mut bench, 0, &space, 1).len(), PAGES as usize);
        addresses().for_each(|address| space.remap(address));
        assert_eq!(fill(&mut bench, 0, &space, 2), [0; 0], "the SMMU remembers all of them");
        let grace = bench.grace();
        let before = bench.smmu.command_counts().commands;
        bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(3), &gathered()).unwrap();
        // 4 pages and 3 are a range each (4.4.1.1), and there is the SYNC.
        let commands = if bench.smmu.features().range_invalidation { 2 + 1 } else { 7 + 1 };
        assert_eq!(bench.smmu.command_counts().commands - before, commands, "{}", profile.name());
        assert_eq!(fill(&mut bench, 0, &space, 3), forgotten());
        bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(3), &Gathered::all()).unwrap();
        assert_eq!(fill(&mut bench, 0, &space, 4).len(), PAGES as usize);
    });
}

/// A virtual machine without a stage 1 of its own takes one SYNC.
fn the_smmu_forgets_intermediate_addresses_that_were_gathered_and_no_more() {
    on_each(&[Stage2], |profile| forget_gathered(Bench::of(profile)));
}

#[test]
fn an_smmu_without_ranges_forgets_intermediate_addresses_page_by_page() {
    forget_gathered(World::without_ranges().bench);
    forget_many(World::without_ranges().bench);
}

fn forget_gathered(mut bench: Bench) {
    bench.calm_caches();
    let machine = Space::machine(&bench, 3);
    addresses().for_each(|address| machine.map(address));
    bench.attach(0, FaultMode::Terminate, &machine).unwrap();
    assert_eq!(fill(&mut bench, 0, &machine, 1).len(), PAGES as usize);
    addresses().for_each(|address| machine.remap(address));
    assert_eq!(fill(&mut bench, 0, &machine, 2), [0; 0], "the SMMU remembers all of them");
    let grace = bench.grace();
    let ranges = if bench.smmu.features().range_invalidation { 2 } else { 7 };
    let mut forget = |vmid, gathered: &Gathered| {
        let before = bench.smmu.command_counts().commands;
        let _ = bench.smmu.invalidate_ipas(&mut bench.cpu, &grace, Vmid(vmid), gathered).unwrap();
        let commands = bench.smmu.command_counts().commands - before;
        (commands, fill(&mut bench, 0, &machine, 0x100 * commands + u64::from(vmid)))
    };
    assert_eq!(forget(2, &gathered()), (ranges + 1, [].into()), "another virtual machine's");
    assert_eq!(forget(3, &Gathered::new()), (1, [].into()));
    assert_eq!(forget(3, &gathered()), (ranges + 1, forgotten()));
    assert_eq!(forget(3, &Gathered::all()).1.len(), PAGES as usize);
}

fn devices_forget_what_was_gathered_by_a_second_sync() {
    on_each(&[PageRequests], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 3);
        bench.attach(2, FaultMode::PageRequest, &space).unwrap();
        bench.enable(2, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        assert_eq!(fill(&mut bench, 2, &space, 1).len(), PAGES as usize);
        addresses().for_each(|address| space.remap(address));
        let grace = bench.grace();
        let before = bench.smmu.command_counts().commands;
        bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(3), &gathered()).unwrap();
        // Pages 2 and 3, 4 and 5, 8 and 9, 10, each aligned, and the second SYNC.
        let tlb = if bench.smmu.features().range_invalidation { 2 + 1 } else { 7 + 1 };
        assert_eq!(bench.smmu.command_counts().commands - before, tlb + 4 + 1, "{}", profile.name());
        assert_eq!(fill(&mut bench, 2, &space, 2), forgotten());
        bench.smmu.invalidate_all(&mut bench.cpu, &grace).unwrap();
        assert_eq!(fill(&mut bench, 2, &space, 3).len(), PAGES as usize);
        bench.disable(2).unwrap();
    });
}

fn a_device_forgets_the_translations_of_its_substreams_with_all_others() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 3);
        addresses().for_each(|address| space.map(address));
        let (stream, pasid) = (profile.engine_stream(2), SubstreamId::new(1).unwrap());
        bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::PageRequest, 1)).unwrap();
        bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, Some(&space.context())).unwrap();
        bench.enable(2, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        let fill = |bench: &mut Bench, pattern| {
            bench.fill(2, BASE, BYTES, pattern, Some(1));
            bench.finish([2]);
            addresses().filter(|address| space.word(*address) == pattern).count()
        };
        assert_eq!(fill(&mut bench, 1), PAGES as usize);
        addresses().for_each(|address| space.remap(address));
        assert_eq!(fill(&mut bench, 2), 0, "the device remembers all of them");
        let grace = bench.grace();
        bench.smmu.invalidate_all(&mut bench.cpu, &grace).unwrap();
        assert_eq!(fill(&mut bench, 3), PAGES as usize);
        bench.disable(2).unwrap();
    });
}

fn more_pages_than_a_batch_has_commands_for_are_the_whole_address_space() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let grace = bench.grace();
        let mut count = |pages: Pages| {
            let before = bench.smmu.command_counts().commands;
            bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(3), &pages.into()).unwrap();
            bench.smmu.command_counts().commands - before
        };
        let [few, many] = [64, 65].map(|pages| count(Pages { first: BASE, count: pages }));
        let by_ranges = bench.smmu.features().range_invalidation;
        // 64 is one range, 65 is two. By single pages 65 are more than a batch.
        assert_eq!([few, many], if by_ranges { [2, 3] } else { [65, 2] }, "{}", profile.name());
    });
}

fn more_intermediate_addresses_than_a_batch_has_commands_for_are_the_whole_virtual_machine() {
    on_each(&[Stage2], |profile| forget_many(Bench::of(profile)));
}

fn forget_many(mut bench: Bench) {
    bench.calm_caches();
    let machine = Space::machine(&bench, 3);
    addresses().for_each(|address| machine.map(address));
    bench.attach(0, FaultMode::Terminate, &machine).unwrap();
    fill(&mut bench, 0, &machine, 1);
    addresses().for_each(|address| machine.remap(address));
    let grace = bench.grace();
    let by_ranges = bench.smmu.features().range_invalidation;
    let mut count = |pages| {
        let before = bench.smmu.command_counts().commands;
        let elsewhere = Pages { first: BASE + BYTES, count: pages };
        let _ = bench.smmu.invalidate_ipas(&mut bench.cpu, &grace, Vmid(3), &elsewhere.into()).unwrap();
        let commands = bench.smmu.command_counts().commands - before;
        (commands, fill(&mut bench, 0, &machine, pages).len())
    };
    let [few, many] = [64, 65].map(&mut count);
    let all = PAGES as usize;
    assert_eq!([few, many], if by_ranges { [(2, 0), (3, 0)] } else { [(65, 0), (2, all)] });
}

/// Those of another core, while one waits for a device. None has ATS any more, whatever it had it for.
fn pages_are_invalidated_while_a_device_is_waited_for_where_none_has_ats() {
    for mode in [FaultMode::PageRequest, FaultMode::Ats] {
        on_each(&[Stall], |profile| {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            bench.attach(0, FaultMode::Stall, &space).unwrap();
            bench.enable(0, Pager::new(&space, BASE..BASE + 1)).unwrap();
            if PageRequests.is_met(profile) {
                bench.attach(2, mode, &space).unwrap();
                let (stream, device) = (bench.stream(2), bench.device(2));
                if mode == FaultMode::Ats {
                    bench.smmu.enable_ats(&mut bench.cpu, &[stream], &device).unwrap();
                    bench.smmu.disable_ats(&mut bench.cpu, stream, &device).unwrap();
                } else {
                    bench.enable(2, Pager::new(&space, BASE..BASE + 1)).unwrap();
                    bench.disable(2).unwrap();
                }
            }
            let (smmu, stream, grace, calls) = (bench.smmu.clone(), bench.stream(0), bench.grace(), Cell::new(0));
            let device = Hooked(bench.device(0), || {
                let mut other = cpu(1);
                assert!(smmu.invalidate(&mut other, &grace, Asid(1), &Gathered::all()).is_ok());
                assert!(smmu.invalidate_all(&mut other, &grace).is_ok());
                calls.set(calls.get() + 1);
            });
            smmu.disable_faults(&mut bench.cpu, stream, &device).unwrap();
            assert_eq!(calls.get(), 1);
        });
    }
}
