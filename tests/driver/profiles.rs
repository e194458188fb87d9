//! The driver on every kind of SMMU that the model can be: what it serves, and what it refuses by name.

use alloc::sync::Arc;

use smmu_iopf::driver::{DriverError, FaultMode, Options};
use smmu_iopf::model::board;
use smmu_iopf::model::engine::registers::{control, status};
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::Asid;
use smmu_iopf::smmuv3::event::{Event, FaultKind};
use smmu_iopf::smmuv3::features::IdRegisters;

use super::bench::machine::{self, Machine};
use super::bench::{Bench, LIMIT_US, Need, Pager, Profile, Space, faulting_engines, on_each, plain, substreams};

scenarios![
    every_profile_comes_up_and_translates,
    reads_are_translated_and_reported_as_reads,
    what_another_driver_left_is_forgotten,
    what_a_profile_lacks_is_refused_by_name,
];

const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 8 * 4096;

/// What the profile lacks for stalls, for page requests and for 16 substreams, in the driver's words.
fn lacks(profile: impl Into<Profile>) -> [Option<&'static str>; 3] {
    let (stall, pri, substreams) = (Some("the stall model"), Some("ATS with PRI"), Some("as many substreams"));
    match profile.into().name() {
        "full" | "linear-only" | "non-coherent" | "big" => [None, None, None],
        "terminate-only" => [stall, None, None],
        "forced-stall" | "no-pri" | "no-ats" => [None, pri, None],
        "qemu" | "qemu-7.2" | "qemu-10" => [stall, pri, substreams],
        "small" => [None, None, substreams],
        other => panic!("a profile that this test does not know: {other}"),
    }
}

fn every_profile_comes_up_and_translates() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        for address in (BASE..BASE + BYTES).step_by(4096) {
            space.map(address);
        }
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.fill(0, BASE, BYTES, 7, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(BASE + BYTES - 8)), (status::DONE, 7));
    });
}

fn reads_are_translated_and_reported_as_reads() {
    on_each(&[Need::Termination], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        let [from, to, nowhere] = [BASE, BASE + 4096, BASE + 8192];
        [from, to].into_iter().for_each(|address| space.map(address));
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.fill(0, from, 24, 7, None);
        bench.finish([0]);
        bench.start(0, control::COPY, from, to, 16, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), [0, 8, 16].map(|offset| space.word(to + offset))), (status::DONE, [7, 7, 0]));
        assert_eq!(bench.sink.0.lock().len(), 0);
        bench.start(0, control::COPY, nowhere, to, 16, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), bench.fault_address(0)), (status::ABORTED, nowhere));
        let [Event::Fault(fault)] = bench.sink.0.lock()[..] else { panic!("one fault") };
        assert_eq!((fault.kind, fault.address, fault.access.write), (FaultKind::Translation, nowhere, false));
    });
}

/// It ended without a word, and its streams, contexts and translations may be in the SMMU's caches.
fn what_another_driver_left_is_forgotten() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let write = |bench: &mut Bench, pattern| {
            bench.fill(0, BASE, 8, pattern, None);
            bench.finish([0]);
            bench.state(0)
        };
        let old = Space::new(&bench, 1);
        old.map(BASE);
        bench.attach(0, FaultMode::Terminate, &old).unwrap();
        assert_eq!((write(&mut bench, 1), old.word(BASE)), (status::DONE, 1));
        let machine = bench.machine.clone();
        drop(bench);
        let options = Options { limit_us: LIMIT_US, ..Options::default() };
        let mut bench = Bench::on(machine, options, u64::MAX).unwrap();
        assert_eq!(write(&mut bench, 2), status::ABORTED);
        let new = Space::new(&bench, 1);
        new.map(BASE);
        bench.attach(0, FaultMode::Terminate, &new).unwrap();
        assert_eq!((write(&mut bench, 3), old.word(BASE), new.word(BASE)), (status::DONE, 1, 3));
    });
}

fn what_a_profile_lacks_is_refused_by_name() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let stream = bench.stream(2);
        let configurations =
            [plain(FaultMode::Stall), plain(FaultMode::PageRequest), substreams(FaultMode::Terminate, 4)];
        for (config, lack) in configurations.into_iter().zip(lacks(profile)) {
            let expected = lack.map_or(Ok(()), |what| Err(DriverError::NotSupported { stream, what }));
            assert_eq!(bench.smmu.attach(&mut bench.cpu, stream, &config), expected);
            if expected.is_ok() {
                bench.smmu.detach(&mut bench.cpu, stream).unwrap();
            }
        }
    });
}

/// How many SYNCs a bring-up and an invalidation had, and how many interrupts and events they raised.
#[cfg(not(target_os = "none"))]
fn completions(machine: Arc<Machine>) -> [u64; 3] {
    let mut bench =
        Bench::on(machine, Options { limit_us: LIMIT_US, stream_bits: 9, ..Options::default() }, u64::MAX).unwrap();
    let grace = bench.grace();
    let _ = bench.smmu.invalidate_asid(&mut bench.cpu, &grace, Asid(1)).unwrap();
    let interrupts = bench.machine.take_raised().iter().filter(|wire| **wire == Wire::CommandSync).count();
    [bench.model_count(diagnostics::SYNCS), interrupts as u64, bench.machine.take_events()]
}

/// Whether a message came to where it was to, `injection` has.
#[test]
fn a_sync_is_told_of_as_the_profile_offers() {
    on_each(&[Need::Model, Need::Queues], |profile| {
        let profile = profile.modelled().unwrap();
        let has_both = !profile.name().starts_with("qemu");
        let memory = || machine::memory(4 << 20, profile.features().coherent);
        let told = completions(Machine::with(memory(), profile, board::DEFAULT_ENGINES));
        // An SMMU whose accesses are not coherent is asked for events rather than for messages to memory.
        let messages = has_both && profile.name() != "non-coherent";
        assert_eq!(told, [2, if messages { 2 } else { 0 }, if has_both && !messages { 2 } else { 0 }]);
        // IDR0.MSI = 0 and IDR0.SEV as it is.
        let ids = profile.id_registers();
        let ids = IdRegisters { idr0: ids.idr0 & !(1 << 13), ..ids };
        let told = completions(Machine::with_ids(memory(), ids, board::DEFAULT_ENGINES).unwrap());
        assert_eq!(told, [2, 0, if has_both { 2 } else { 0 }]);
    });
}

/// So a need leaves no test out where it could run.
#[test]
fn a_need_is_met_by_every_profile_that_has_what_it_names() {
    for &profile in Modelled::ALL {
        let name = profile.name();
        let met = [Need::Stall, Need::PageRequests, Need::Substreams].map(|need| need.is_met(profile));
        assert_eq!(met, lacks(profile).map(|lack| lack.is_none()), "{name}");
        assert_eq!(Need::Faults.is_met(profile), met[0] || met[1], "{name}");
        assert_eq!([Need::NoStall, Need::Model].map(|need| need.is_met(profile)), [!met[0], true], "{name}");
        assert_eq!(Need::Termination.is_met(profile), name != "forced-stall", "{name}");
        assert_eq!(Need::Queues.is_met(profile), name != "small", "{name}");
        let no_ats = ["forced-stall", "no-ats", "qemu-7.2", "qemu-10"];
        assert_eq!(Need::Ats.is_met(profile), !no_ats.contains(&name), "{name}");
    }
}

#[test]
fn faults_are_served_wherever_there_are_any() {
    on_each(&[Need::Faults], |profile| {
        for (engine, mode) in faulting_engines(profile) {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            let pager = Pager::new(&space, BASE..BASE + BYTES);
            bench.attach(engine, mode, &space).unwrap();
            bench.enable(engine, pager).unwrap();
            bench.fill(engine, BASE, BYTES, 7, None);
            bench.finish([engine]);
            assert_eq!((bench.state(engine), space.pages()), (status::DONE, 8));
            bench.disable(engine).unwrap();
            assert_eq!(bench.live(), 0);
        }
    });
}
