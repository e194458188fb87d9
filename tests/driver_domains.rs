//! Where streams go: to nowhere, untranslated, through an address space, through a virtual machine, and from one to another
//! while their devices are at work (docs/structures.md).

mod driver_bench;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use driver_bench::Need::{self, PageRequests, Stall, Substreams, Termination};
use driver_bench::{Bench, LIMIT_US, Pager, Space, on_each, plain, zeroed};
use smmu_iopf::driver::dma::DmaRegion;
use smmu_iopf::driver::{
    DriverError, FaultMode, Guest, GuestInvalidation, Options, Pages, Stage2, StreamConfig, Tag, Transition,
    Translation, Walked,
};
use smmu_iopf::iopf::{Fault, FaultGroup, FaultHandler, Stage2Fault, Verdict};
use smmu_iopf::model::board;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, status};
use smmu_iopf::model::host::{HostMemory, HostSmmu};
use smmu_iopf::model::profile::Profile;
use smmu_iopf::smmuv3::event::{Event, FaultClass, FaultKind};
use smmu_iopf::smmuv3::features::{IdRegisters, StallModel};
use smmu_iopf::smmuv3::ste::{ContextTableFormat, DefaultSubstream};
use smmu_iopf::smmuv3::{Asid, PageResponse, PhysAddr, SubstreamId, Vmid};
use smmu_iopf::sync::Masked;

const PAGES: u64 = 8;
const BYTES: u64 = PAGES * 4096;

/// Where transactions can go, each to memory of its own under the same addresses: those of `memory`.
struct World {
    bench: Bench,
    memory: DmaRegion,
    spaces: [Arc<Space>; 2],
    machines: [Arc<Space>; 2],
}

/// The kinds, with the names that docs/structures.md gives them.
const KINDS: [&str; 6] = ["abort", "bypass", "one CD", "CD table", "stage 2", "nested"];

/// Where a virtual machine has its context descriptors, and behind them one table of each level.
const GUEST: u64 = 0x2000_0000;

/// What it says of them in its entry.
const ONE_CD: Guest = Guest {
    contexts: GUEST,
    substream_bits: 0,
    format: ContextTableFormat::Linear,
    default_substream: DefaultSubstream::Terminate,
};

/// Gives a virtual machine a stage 1 of its own, for transactions without a SubstreamID and those with SubstreamID 1, that maps the
/// pages from `start` on to where they are.
fn guest(machine: &Space, start: u64, stalls: bool) {
    (0..4).for_each(|page| machine.map(GUEST + page * 4096));
    // T0SZ 25, IR0 1, OR0 1, SH0 3, EPD1, V, IPS 2 (40 bits), AA64, R, A, ASET, ASID 0x11; S. TTB0. MAIR (5.4).
    let first = 0x0011_e202_c000_3519 | u64::from(stalls) << 44;
    for descriptor in [GUEST, GUEST + 0x40] {
        [first, GUEST + 0x1000, 0, 0xff]
            .into_iter()
            .zip(0..)
            .for_each(|(word, n)| machine.set_word(descriptor + 8 * n, word));
    }
    let index = |shift: u32| (start >> shift & 0x1ff) * 8;
    machine.set_word(GUEST + 0x1000 + index(30), (GUEST + 0x2000) | 3);
    machine.set_word(GUEST + 0x2000 + index(21), (GUEST + 0x3000) | 3);
    assert_eq!(start >> 21, (start + BYTES - 1) >> 21, "one table of level 3");
    for page in (start..start + BYTES).step_by(4096) {
        machine.set_word(GUEST + 0x3000 + (page >> 12 & 0x1ff) * 8, page | 0xf43);
    }
}

impl World {
    fn new(profile: Profile) -> Self {
        Self::on(Bench::of(profile))
    }

    fn on(bench: Bench) -> Self {
        let memory = zeroed(bench.host.memory(), BYTES as usize, 4096);
        let spaces = [1, 2].map(|asid| Space::new(&bench, asid));
        let machines = [1, 2].map(|vmid| Space::machine(&bench, vmid));
        for page in 0..PAGES {
            spaces.iter().chain(&machines).for_each(|space| space.map(memory.phys.0 + page * 4096));
        }
        let forced = bench.smmu.features().stall_model == StallModel::Forced;
        machines.iter().for_each(|machine| guest(machine, memory.phys.0, forced));
        Self { bench, memory, spaces, machines }
    }

    /// The configuration of a kind, the `other` one of it or not.
    fn config(&self, kind: &str, other: bool) -> StreamConfig {
        let translation = match kind {
            "abort" => Translation::Abort,
            "bypass" => Translation::Bypass,
            "one CD" => self.spaces[usize::from(other)].translation(),
            "CD table" => {
                let context = Some(self.spaces[usize::from(other)].context());
                Translation::Stage1 { context, substream_bits: 4 }
            }
            "stage 2" => self.machines[usize::from(other)].translation(),
            "nested" => Translation::Nested(ONE_CD, self.machines[usize::from(other)].stage2()),
            kind => panic!("{kind}"),
        };
        StreamConfig { translation, ..plain(FaultMode::Terminate) }
    }

    /// The word at `offset` of everything that a transaction can reach: memory, address spaces, virtual machines.
    fn words(&self, offset: u64) -> [u64; 5] {
        let [one, two] = [0, 1].map(|space: usize| self.spaces[space].word(self.memory.phys.0 + offset));
        let [three, four] = [0, 1].map(|space: usize| self.machines[space].word(self.memory.phys.0 + offset));
        let word = self.bench.host.memory().load(self.memory.phys.0 + offset).unwrap();
        [word, one, two, three, four]
    }

    /// Which of [`World::words`] a stream of this kind reaches.
    fn reached(kind: &str, other: bool) -> Option<usize> {
        match kind {
            "abort" => None,
            "bypass" => Some(0),
            "one CD" | "CD table" => Some(1 + usize::from(other)),
            _ => Some(3 + usize::from(other)),
        }
    }

    fn write(&mut self, engine: usize, value: u64) -> u32 {
        self.bench.fill(engine, self.memory.phys.0, BYTES, value, None);
        self.bench.finish([engine]);
        self.bench.state(engine)
    }
}

fn has(profile: Profile, kind: &str) -> bool {
    match kind {
        "CD table" => Substreams.is_met(profile),
        "stage 2" | "nested" => Need::Stage2.is_met(profile),
        _ => true,
    }
}

/// The cells of the table of `change` in the documentation: from, to, steps, and whether nothing is interrupted.
fn cells() -> Vec<(&'static str, &'static str, u64, Transition)> {
    let text = include_str!("../docs/structures.md");
    let table = text.lines().skip_while(|line| !line.starts_with("| `change` from, to |"));
    let rows: Vec<Vec<&str>> = table
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!((rows.len(), &rows[0][1..]), (2 + KINDS.len(), &KINDS[..]));
    let cell = |to: &(usize, &'static str), row: &[&'static str]| {
        let text = row[to.0 + 1];
        let transition = if text.ends_with('!') { Transition::Interrupted } else { Transition::Hitless };
        (row[0], to.1, text.trim_end_matches('!').parse().unwrap(), transition)
    };
    rows[2..].iter().flat_map(|row| KINDS.into_iter().enumerate().map(move |to| cell(&to, row))).collect()
}

#[test]
fn whatever_changes_into_whatever_a_device_at_work_reaches_the_old_or_the_new() {
    on_each(&[], |profile| {
        for (from, to, steps, transition) in cells() {
            if !has(profile, from) || !has(profile, to) {
                continue;
            }
            let mut world = World::new(profile);
            let neighbour = Space::new(&world.bench, 9);
            (0..PAGES).for_each(|page| neighbour.map(world.memory.phys.0 + page * 4096));
            let [old, new] = [world.config(from, false), world.config(to, true)];
            let (stream, bench) = (profile.engine_stream(0), &mut world.bench);
            bench.attach(1, FaultMode::Terminate, &neighbour).unwrap();
            bench.smmu.attach(&mut bench.cpu, stream, &old).unwrap();
            for engine in [0, 1] {
                bench.fill(engine, world.memory.phys.0, BYTES, 7, None);
            }
            bench.run_until(|_| neighbour.word(world.memory.phys.0) == 7);
            assert_eq!(bench.state(0), if from == "abort" { status::ABORTED } else { status::BUSY }, "{from}");
            let before = bench.smmu.command_counts().commands;
            let changed = bench.smmu.change(&mut bench.cpu, stream, &new);
            let commands = bench.smmu.command_counts().commands - before;
            assert_eq!(changed, Ok(transition), "{from} to {to}");
            // A CFGI and a SYNC each, or a SYNC to know that nothing was to be done.
            assert!(commands == 2 * steps || steps == 0 && commands <= 1, "{from} to {to}: {commands} commands");
            if from != "abort" && to != "abort" && transition == Transition::Hitless {
                assert_eq!(bench.state(0), status::BUSY, "{from} to {to}");
            }
            bench.finish([0, 1]);

            assert_eq!(bench.state(1), status::DONE, "the other stream");
            let reached = [World::reached(from, false), World::reached(to, true)];
            let mut written = 0;
            for offset in (0..BYTES).step_by(8) {
                assert_eq!(neighbour.word(world.memory.phys.0 + offset), 7);
                for (place, word) in world.words(offset).into_iter().enumerate() {
                    assert!(word == 0 || word == 7 && reached.contains(&Some(place)), "{from} to {to}: {place}");
                    written += u64::from(word == 7);
                }
            }
            let events = std::mem::take(&mut *world.bench.sink.0.lock().unwrap());
            if transition == Transition::Hitless {
                assert_eq!(events, [], "{from} to {to}");
            }
            if transition == Transition::Hitless && !reached.contains(&None) {
                assert_eq!((world.bench.state(0), written), (status::DONE, BYTES / 8), "{from} to {to}");
            }
            let is_its = |event: &Event| matches!(event, Event::BadSte { origin } if origin.stream == stream);
            assert!(events.iter().all(is_its), "{from} to {to}: {events:?}");

            // From now on it is the new.
            let state = world.write(0, 8);
            assert_eq!(state, if to == "abort" { status::ABORTED } else { status::DONE }, "{from} to {to}");
            for (place, word) in world.words(BYTES - 8).into_iter().enumerate() {
                assert_eq!(word == 8, reached[1] == Some(place), "{from} to {to}: {place}");
            }
        }
    });
}

/// Tables that nobody but the SMMU uses any more.
#[derive(Debug)]
struct Tables(Tag);

impl Walked for Tables {
    fn tag(&self) -> Tag {
        self.0
    }
}

impl World {
    fn change(&mut self, engine: usize, config: &StreamConfig) -> Result<Transition, DriverError> {
        let stream = self.bench.stream(engine);
        self.bench.smmu.change(&mut self.bench.cpu, stream, config)
    }

    fn attach(&mut self, engine: usize, faults: FaultMode, translation: Translation) -> Result<(), DriverError> {
        let stream = self.bench.stream(engine);
        let config = StreamConfig { translation, ..plain(faults) };
        self.bench.smmu.attach(&mut self.bench.cpu, stream, &config)
    }

    fn forget(&mut self, machine: usize) -> Result<(), DriverError> {
        let machine = Tables(self.machines[machine].tag);
        match self.bench.smmu.forget(&mut self.bench.cpu, machine) {
            Ok(_) => Ok(()),
            Err(remembered) => Err(remembered.error),
        }
    }

    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.bench.sink.0.lock().unwrap())
    }
}

/// 7.3.13: the address is an intermediate one, and the record has it as such too.
#[test]
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

#[test]
fn faults_of_a_virtual_machine_are_served() {
    on_each(&[Need::Stage2, Need::Faults], |profile| {
        for (engine, faults) in driver_bench::faulting_engines(profile) {
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
#[test]
fn stalls_of_a_dying_virtual_machine_are_refused() {
    on_each(&[Need::Stage2, Stall], |profile| {
        let mut world = World::new(profile);
        let machine = Space::machine(&world.bench, 3);
        let start = world.memory.phys.0;
        let pager = Pager::deferring(&machine, start..start + BYTES);
        world.attach(0, FaultMode::Stall, machine.translation()).unwrap();
        world.bench.enable(0, pager.clone()).unwrap();
        world.bench.fill(0, start, BYTES, 7, None);
        world.bench.run_until(|_| !pager.deferred.lock().unwrap().is_empty());
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
#[test]
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

#[test]
fn devices_with_ats_forget_a_dying_virtual_machine() {
    on_each(&[Need::Stage2, PageRequests], |profile| {
        let mut world = World::new(profile);
        let machine = world.machines[0].clone();
        let start = world.memory.phys.0;
        world.attach(2, FaultMode::PageRequest, machine.translation()).unwrap();
        world.bench.enable(2, Pager::new(&machine, start..start)).unwrap();
        assert_eq!(world.write(2, 7), status::DONE);
        let before = world.bench.host.read_engine(2, reg::INVALIDATIONS);
        world.forget(0).unwrap();
        assert_eq!(world.bench.host.read_engine(2, reg::INVALIDATIONS) - before, 1);
        assert_eq!((world.write(2, 8), machine.word(start)), (status::ABORTED, 7));
        world.bench.disable(2).unwrap();
        assert_eq!(world.bench.live(), 0);
    });
}

/// 5.2.1: tables of one VMID are taken for each other.
#[test]
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

#[test]
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
        let modes = driver_bench::faulting_engines(profile);
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

/// Its own stage 1 comes and goes without the device noticing; the VMID stays, so that only one word counts in both (5.2).
#[test]
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
        self.seen.lock().unwrap().push((fault.stage2, fault.address));
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
        self.deferred.lock().unwrap().push(group);
    }
}

/// 7.3.13: the record has the address of the transaction, and the intermediate address of what stage 2 lacks, by CLASS. What the
/// virtual machine itself does not map, is a fault of its stage 1.
#[test]
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
                    for group in std::mem::take(&mut *hypervisor.deferred.lock().unwrap()) {
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
            assert_eq!(std::mem::take(&mut *hypervisor.seen.lock().unwrap()), expected.collect::<Vec<_>>());
            assert_eq!(write(&mut world, start + BYTES), status::ABORTED);
            assert_eq!(*hypervisor.seen.lock().unwrap(), [(None, start + BYTES)]);
            world.bench.disable(0).unwrap();
            assert_eq!((world.bench.live(), world.events()), (0, vec![]));
        }
    });
}

/// 3.17: ASID 0x11 of one virtual machine is nothing to another, nor to the host.
#[test]
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
#[test]
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
            let before = world.bench.host.read_engine(2, reg::INVALIDATIONS);
            if dies {
                world.forget(0).unwrap();
                assert_eq!(write(&mut world, 8), (status::ABORTED, 7));
            } else {
                world.bench.disable(2).unwrap();
            }
            assert_eq!(world.bench.host.read_engine(2, reg::INVALIDATIONS) - before, 2);
        }
    });
}

/// 6.3.1: without VMID16 a VMID has 8 bits; without S1P there is no stage 1.
#[test]
fn an_smmu_with_stage_2_alone_and_short_vmids_is_served() {
    let ids = Profile::Full.id_registers();
    // S1P, HYP, VMID16.
    let ids = IdRegisters { idr0: ids.idr0 & !(1 << 1 | 1 << 9 | 1 << 18), ..ids };
    let host = HostSmmu::with_ids(Arc::new(HostMemory::new(4 << 20)), ids, board::DEFAULT_ENGINES).unwrap();
    let bench = Bench::on(host, Options { limit_us: LIMIT_US, ..Options::default() }, u64::MAX).unwrap();
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

/// Whichever command of a change fails, it can be repeated, or the stream detached, and what it used is used again.
#[test]
fn a_change_that_fails_can_be_repeated_or_ended() {
    on_each(&[Need::Queues], |profile| {
        for (from, to) in KINDS.into_iter().flat_map(|from| KINDS.map(|to| (from, to))) {
            if !has(profile, from) || !has(profile, to) {
                continue;
            }
            let mut world = World::new(profile);
            let (stream, [old, new]) = (profile.engine_stream(0), [world.config(from, false), world.config(to, true)]);
            let mut used = None;
            for number in 1.. {
                let mut failed = false;
                for repeat in [true, false] {
                    world.bench.smmu.attach(&mut world.bench.cpu, stream, &old).unwrap();
                    world.bench.host.write_control(control::COMMAND_ILLEGAL, number);
                    let changed = world.change(0, &new);
                    world.bench.host.write_control(control::COMMAND_ILLEGAL, 0);
                    failed |= changed.is_err();
                    if changed.is_err() && repeat {
                        let enabled = world.bench.enable(0, Pager::new(&world.spaces[0], 0..1));
                        assert_eq!(enabled, Err(DriverError::NotAttached(stream)));
                        assert_eq!(world.change(0, &new), Ok(Transition::Interrupted), "{from} to {to}");
                    }
                    if changed.is_ok() || repeat {
                        let state = world.write(0, 8);
                        assert_eq!(state, if to == "abort" { status::ABORTED } else { status::DONE });
                    }
                    world.bench.smmu.detach(&mut world.bench.cpu, stream).unwrap();
                }
                let now = world.bench.memory.used.load(Relaxed);
                assert_eq!(*used.get_or_insert(now), now, "{from} to {to}: tables are leaked");
                if !failed {
                    break;
                }
            }
        }
    });
}

/// What a failed change may have left to the SMMU, is forgotten as well.
#[test]
fn what_a_failed_change_leaves_in_use_can_be_forgotten() {
    on_each(&[Need::Queues], |profile| {
        for (from, to, steps) in
            [("one CD", "bypass", 1), ("bypass", "one CD", 2), ("one CD", "stage 2", 3), ("stage 2", "one CD", 3)]
        {
            if !has(profile, from) || !has(profile, to) {
                continue;
            }
            // The CFGI of each step, which has a SYNC behind it.
            for number in (0..steps).map(|step| 1 + 2 * step) {
                let mut world = World::new(profile);
                let stream = profile.engine_stream(0);
                let [old, new] = [world.config(from, false), world.config(to, false)];
                world.bench.smmu.attach(&mut world.bench.cpu, stream, &old).unwrap();
                assert_eq!(world.write(0, 7), status::DONE);
                world.bench.host.write_control(control::COMMAND_ILLEGAL, number);
                assert!(world.change(0, &new).is_err());
                let space = Tables(world.spaces[0].tag);
                let _ = world.bench.smmu.forget(&mut world.bench.cpu, space).unwrap();
                if Need::Stage2.is_met(profile) {
                    world.forget(0).unwrap();
                }
                assert_eq!(world.write(0, 8), status::ABORTED, "{from} to {to}");
                assert!(!world.words(0).contains(&8));
                assert_eq!(world.change(0, &new), Ok(Transition::Interrupted));
            }
        }
    });
}
