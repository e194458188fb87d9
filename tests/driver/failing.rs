//! Random histories of streams in which calls fail: a write of a device goes nowhere that no call can have led it, what failed can be repeated,
//! and nothing is left in the end.

mod reference;

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use std::{env, println, thread};

use smmu_iopf::driver::{DeviceControl, DriverError, FaultMode, Options, StreamConfig, Translation};
use smmu_iopf::iopf::StreamLimits;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::status;
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::smmuv3::{StreamId, SubstreamId};

use self::reference::{Call, Config, Stream};
use super::bench::Need::{Ats, PageRequests, Queues, Stage2, Stall, Substreams, Termination};
use super::bench::random::Random;
use super::bench::world::Tables;
use super::bench::{Bench, Device, LIMITS, Pager, Profile, Space, on_each, passed_on, substreams};

const BASE: u64 = 0x1000_0000;
const MISSING: u64 = BASE + 4096;

/// The first two may stall, the others may send page requests.
const ENGINES: usize = 4;
const ASIDS: usize = 3;
const VMIDS: usize = 2;
const STEPS: u64 = 200;

/// A transaction has none of them, or one, which lie in different tables of the second level where there are two levels.
const PLACES: usize = 3;
const PASIDS: [Option<u32>; PLACES] = [None, Some(1), Some(0x41)];

const NOWHERE: StreamConfig = StreamConfig { faults: FaultMode::Terminate, translation: Translation::Abort };

/// What the driver is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Stream(usize, Call),
    /// The tables of a tag, which then has others.
    Forget(usize),
    /// From an abort of the event queue, for which this engine sees to.
    Recover(usize),
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Stream(_, Call::Attach(_)) => "attach",
            Self::Stream(_, Call::Change(_)) => "change",
            Self::Stream(_, Call::Detach) => "detach",
            Self::Stream(_, Call::Substream(..)) => "attach a substream",
            Self::Stream(_, Call::Enable) => "enable",
            Self::Stream(_, Call::Disable) => "disable",
            Self::Stream(_, Call::Reopen) => "reopen",
            Self::Forget(_) => "forget",
            Self::Recover(_) => "recover",
        }
    }
}

/// What goes wrong during a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    None,
    /// The command of this number is illegal.
    Illegal(u32),
    /// So many commands are consumed, and no more.
    Late(u32),
    /// The ATC invalidation of this number times out.
    AtcTimeout(u32),
    NoMemory,
    /// The device does not come to rest.
    Busy,
}

/// A device that does not come to rest, or one that does.
struct Rests(Device, bool);

impl DeviceControl for Rests {
    passed_on!(0: stop_new_work, response_needs_pasid, enable_ats, disable_ats, enable_page_requests, disable_page_requests, page_requests_failed, reset_page_requests, sends_stop_markers, stop_substream, substream_stopped);

    fn is_idle(&self) -> bool {
        self.1 && self.0.is_idle()
    }

    fn page_requests_stopped(&self) -> bool {
        self.1 && self.0.page_requests_stopped()
    }
}

/// What happened in histories: of each kind of step, or with which error.
type Happened = BTreeSet<(&'static str, &'static str)>;

struct History<'a> {
    profile: Profile,
    random: Random,
    seed: u64,
    bench: Bench,
    /// All that there have been.
    spaces: Vec<Arc<Space>>,
    /// The space of each tag: ASIDs, and VMIDs if there are some.
    tags: Vec<usize>,
    streams: [Stream; ENGINES],
    /// What failed last, and can be repeated.
    failed: Option<Step>,
    number: u64,
    /// Whom the last step was about: the next one often is, too.
    engine: usize,
    /// The last word written.
    written: u64,
    /// The driver's memory before the first table.
    memory: usize,
    log: Vec<String>,
    happened: &'a mut Happened,
}

impl Drop for History<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let last = &self.log[self.log.len().saturating_sub(40)..];
            println!("on {}, seed {}:\n{}", self.profile.name(), self.seed, last.join("\n"));
        }
    }
}

impl<'a> History<'a> {
    fn new(profile: Profile, seed: u64, happened: &'a mut Happened) -> Self {
        let mut bench = Bench::with(profile, Options { limit_us: 200, ..Options::default() });
        let streams = core::array::from_fn(|engine| bench.stream(engine));
        // The tables that lead to the entries stay.
        for &stream in &streams {
            bench.smmu.attach(&mut bench.cpu, stream, &NOWHERE).unwrap();
            bench.smmu.detach(&mut bench.cpu, stream).unwrap();
        }
        // The SMMU keeps what it should not have any more longer then.
        if seed.is_multiple_of(2) {
            bench.calm_caches();
        }
        let memory = bench.memory.used.load(Relaxed);
        let streams = streams.map(|stream| Stream::new(stream, !Termination.is_met(profile)));
        let mut history = Self {
            profile,
            random: Random::new(seed),
            seed,
            bench,
            spaces: Vec::new(),
            tags: Vec::new(),
            streams,
            failed: None,
            number: 0,
            engine: 0,
            written: 0,
            memory,
            log: Vec::new(),
            happened,
        };
        for tag in 0..ASIDS + if Stage2.is_met(profile) { VMIDS } else { 0 } {
            let space = history.new_space(tag);
            history.tags.push(space);
        }
        history
    }

    fn new_space(&mut self, tag: usize) -> usize {
        let space = match tag.checked_sub(ASIDS) {
            None => Space::new(&self.bench, 1 + tag as u16),
            Some(machine) => Space::machine(&self.bench, 1 + machine as u16),
        };
        space.map(BASE);
        self.spaces.push(space);
        self.spaces.len() - 1
    }

    fn table_bits(&self) -> u8 {
        self.profile.features().ssid_bits.min(8)
    }

    fn choose_config(&mut self, engine: usize) -> Config {
        let bits = self.table_bits();
        let Self { profile, random, tags, .. } = self;
        if random.below(8) == 0 {
            return Config { faults: FaultMode::Terminate, space: None, substream_bits: 0 };
        }
        let modes: &[_] = match engine {
            2 | 3 => &[(FaultMode::PageRequest, PageRequests), (FaultMode::Ats, Ats)],
            _ => &[(FaultMode::Stall, Stall)],
        };
        let forced = !Termination.is_met(*profile);
        let faults = match random.below(modes.len() + 1).checked_sub(1).map(|mode| modes[mode]) {
            Some((faults, need)) if need.is_met(*profile) && !(forced && faults != FaultMode::Stall) => faults,
            _ => FaultMode::Terminate,
        };
        let tag = random.below(tags.len());
        let substream_bits = if tag < ASIDS && random.below(4) > 0 { bits } else { 0 };
        Config { faults, space: Some(tags[tag]), substream_bits }
    }

    /// Seldom one that is refused.
    fn choose_step(&mut self) -> Step {
        loop {
            let step = self.any_step();
            match step {
                Step::Stream(engine, call) if self.streams[engine].refuses(call) && self.random.below(16) > 0 => {}
                _ => return step,
            }
        }
    }

    fn any_step(&mut self) -> Step {
        if self.random.below(3) == 0 {
            self.engine = self.random.below(ENGINES);
        }
        let engine = self.engine;
        let config = self.choose_config(engine);
        let stalls = Stall.is_met(self.profile);
        let call = match self.random.below(14) {
            0 => Call::Attach(config),
            1..4 => Call::Change(config),
            4 => Call::Detach,
            5..8 if Substreams.is_met(self.profile) => {
                let (place, space) = (1 + self.random.below(PLACES - 1), self.tags[self.random.below(ASIDS)]);
                Call::Substream(place, (self.random.below(4) > 0).then_some(space))
            }
            8 | 9 => Call::Enable,
            10 => Call::Disable,
            11 if stalls => Call::Reopen,
            12 if stalls => return Step::Recover(engine),
            _ => {
                let space = self.random.one_of(&self.streams[engine].targets());
                let tag = self.tags.iter().position(|&current| Some(current) == space);
                return Step::Forget(tag.unwrap_or_else(|| self.random.below(self.tags.len())));
            }
        };
        Step::Stream(engine, call)
    }

    /// One that may matter to the step.
    fn choose_failure(&mut self, step: Step) -> Failure {
        let ats = Ats.is_met(self.profile);
        let random = &mut self.random;
        match (random.below(8), step) {
            (0 | 1, _) => Failure::Illegal(1 + random.below(4) as u32),
            (2 | 3, _) => Failure::Late(random.below(4) as u32),
            (4, Step::Stream(_, Call::Attach(_) | Call::Change(_) | Call::Substream(..))) => Failure::NoMemory,
            (4 | 5, Step::Stream(_, Call::Enable | Call::Disable | Call::Reopen)) => Failure::Busy,
            (5 | 6, Step::Stream(..) | Step::Forget(_)) if ats => Failure::AtcTimeout(1 + random.below(3) as u32),
            _ => Failure::None,
        }
    }

    fn begin(&self, failure: Failure) {
        let machine = &self.bench.machine;
        match failure {
            Failure::Illegal(number) => machine.write_control(control::COMMAND_ILLEGAL, number),
            Failure::Late(passed) => {
                machine.write_control(control::PASSED, passed);
                machine.write_control(control::COMMANDS_HELD, control::UNTIL_RELEASED);
            }
            Failure::AtcTimeout(number) => machine.write_control(control::ATC_INVALIDATION, number),
            Failure::NoMemory => self.bench.memory.empty.store(true, Relaxed),
            Failure::Busy | Failure::None => {}
        }
    }

    fn end(&self) {
        for register in [control::COMMAND_ILLEGAL, control::COMMANDS_HELD, control::ATC_INVALIDATION] {
            self.bench.machine.write_control(register, 0);
        }
        self.bench.memory.empty.store(false, Relaxed);
    }

    /// Asks the driver.
    fn call(&mut self, engine: usize, call: Call, failure: Failure) -> Result<(), DriverError> {
        let device = Rests(self.bench.device(engine), failure != Failure::Busy);
        // Of a PRI queue of eight entries both devices have their part.
        let (handler, limits) = (Pager::new(&self.spaces[0], 0..0), StreamLimits { groups: 2, ..LIMITS });
        let (stream, spaces) = (self.bench.stream(engine), &self.spaces);
        let config = |config: Config| StreamConfig { faults: config.faults, translation: translation(spaces, config) };
        let (smmu, cpu, faults) = (&self.bench.smmu, &mut self.bench.cpu, self.streams[engine].faults);
        match call {
            Call::Attach(new) => smmu.attach(cpu, stream, &config(new)),
            Call::Change(new) => smmu.change(cpu, stream, &config(new)).map(drop),
            Call::Detach => smmu.detach(cpu, stream),
            Call::Substream(place, space) => {
                let context = space.map(|space| spaces[space].context());
                smmu.attach_substream(cpu, stream, pasid(place), context.as_ref())
            }
            Call::Enable if faults == FaultMode::Ats => smmu.enable_ats(cpu, &[stream], &device),
            Call::Enable => smmu.enable_faults(cpu, &[stream], Some(&device), handler, limits),
            Call::Disable if faults == FaultMode::Ats => smmu.disable_ats(cpu, stream, &device),
            Call::Disable => smmu.disable_faults(cpu, stream, &device),
            Call::Reopen => smmu.reopen_faults(cpu, stream, &device),
        }
    }

    /// Notes what became of a step that was not refused. Nothing fails of itself.
    fn note(&mut self, step: Step, failure: Failure, result: &Result<(), DriverError>) {
        let is_again = self.failed == Some(step);
        let outcome = match result {
            Err(error) => {
                assert_ne!(failure, Failure::None, "{error}");
                self.happened.insert((kind(error), "met"));
                "failed"
            }
            Ok(()) if is_again => "done again",
            Ok(()) => "done",
        };
        self.happened.insert((step.name(), outcome));
        match result {
            Err(_) => self.failed = Some(step),
            Ok(()) if is_again => self.failed = None,
            Ok(()) => {}
        }
    }

    fn log(&mut self, step: Step, failure: Failure, result: &dyn core::fmt::Debug) {
        self.log.push(format!("step {}: {step:?}, {failure:?}: {result:?}", self.number));
    }

    fn take(&mut self, step: Step, failure: Failure) {
        match step {
            Step::Stream(engine, call) => {
                self.begin(failure);
                let result = self.call(engine, call, failure);
                self.end();
                self.log(step, failure, &result);
                if self.streams[engine].is_refused(call, &result) {
                    self.failed = self.failed.filter(|failed| *failed != step);
                    return;
                }
                self.note(step, failure, &result);
                match &result {
                    Ok(()) => self.streams[engine].done(call),
                    Err(error) => self.streams[engine].failed(call, error),
                }
            }
            Step::Forget(tag) => {
                let space = self.tags[tag];
                let tables = Tables(self.spaces[space].tag);
                self.begin(failure);
                let result = self.bench.smmu.forget(&mut self.bench.cpu, tables).map(drop).map_err(|left| left.error);
                self.end();
                self.log(step, failure, &result);
                self.note(step, failure, &result);
                self.streams.iter_mut().for_each(|stream| stream.forgets(space, result.is_ok()));
                if result.is_ok() {
                    self.tags[tag] = self.new_space(tag);
                    // It may have been about what is gone.
                    self.failed = None;
                }
            }
            Step::Recover(engine) => self.recover(engine, failure),
        }
    }

    fn recover(&mut self, engine: usize, failure: Failure) {
        let step = Step::Recover(engine);
        self.bench.machine.write_control(control::EVENT_WRITE, 1);
        self.bench.fill(engine, MISSING, 8, 0, None);
        self.bench.machine.run(200);
        self.bench.machine.write_control(control::EVENT_WRITE, 0);
        if self.bench.global_errors().recover {
            self.begin(failure);
            let mut result = self.bench.recover();
            self.end();
            self.log(step, failure, &result);
            self.note(step, failure, &result.clone().map(drop));
            if result.is_err() {
                self.streams.iter_mut().for_each(|stream| stream.recovered(false));
                result = self.bench.recover();
                self.log(step, Failure::None, &result);
                self.note(step, Failure::None, &result.map(drop));
            }
            self.streams.iter_mut().for_each(|stream| stream.recovered(true));
            self.bench.finish([engine]);
            for engine in 0..ENGINES {
                if self.random.below(2) == 0 {
                    let reopening = Step::Stream(engine, Call::Reopen);
                    let failure = self.choose_failure(reopening);
                    self.take(reopening, failure);
                }
            }
        }
        self.bench.finish([engine]);
    }

    fn step(&mut self) {
        self.number += 1;
        let again = self.failed.filter(|_| self.random.below(2) == 0);
        let step = again.unwrap_or_else(|| self.choose_step());
        let failure = self.choose_failure(step);
        self.take(step, failure);
        self.look_around();
        let engine = match step {
            Step::Stream(engine, _) | Step::Recover(engine) => engine,
            Step::Forget(_) => self.random.below(ENGINES),
        };
        for engine in [engine, self.random.below(ENGINES)] {
            (0..PLACES).for_each(|place| self.write(engine, place));
        }
        if self.random.below(4) == 0 {
            self.miss(engine);
        }
    }

    /// What interrupts would do, when what was late has come.
    fn look_around(&mut self) {
        self.bench.machine.run(100);
        self.bench.drain();
        self.bench.global_errors();
    }

    fn write(&mut self, engine: usize, place: usize) {
        if place > 0 && !Substreams.is_met(self.profile) {
            return;
        }
        self.written += 1;
        let value = self.written;
        self.bench.fill(engine, BASE, 8, value, PASIDS[place]);
        self.bench.finish([engine]);
        let (stream, is_in) = (&self.streams[engine], |&space: &usize| self.spaces[space].word(BASE) == value);
        let may = stream.may_reach(place);
        let is_right = match self.bench.state(engine) {
            status::DONE => may.iter().flatten().any(is_in),
            _ => may.contains(&None),
        };
        if !is_right {
            let reached = (0..self.spaces.len()).find(is_in);
            panic!("write {value} of engine {engine}, PASID {:?}: {reached:?} of {may:?}: {stream:?}", PASIDS[place]);
        }
    }

    /// What is nowhere mapped is aborted, whoever answers.
    fn miss(&mut self, engine: usize) {
        self.bench.fill(engine, MISSING, 8, 0, None);
        self.bench.finish([engine]);
        assert_eq!(self.bench.state(engine), status::ABORTED);
    }

    /// Nothing is left of it in the end.
    fn finish(mut self) {
        for engine in 0..ENGINES {
            for call in [Call::Disable, Call::Detach] {
                self.take(Step::Stream(engine, call), Failure::None);
            }
        }
        (0..self.tags.len()).for_each(|tag| self.take(Step::Forget(tag), Failure::None));
        assert_eq!((self.bench.live(), self.bench.model_count(diagnostics::STALLED)), (0, 0));
        let used = self.bench.memory.used.load(Relaxed) - self.memory;
        assert_eq!(used, self.spare());
    }

    /// The bytes of the tables that the driver has for the next streams.
    fn spare(&mut self) -> usize {
        let (bits, first) = (self.table_bits(), self.bench.stream(0).0 & !0x3f);
        let context = self.spaces[0].context();
        let Bench { smmu, cpu, memory, .. } = &mut self.bench;
        memory.empty.store(true, Relaxed);
        let mut bytes = 0;
        let mut next = (first..).map(StreamId);
        for bits in BTreeSet::from([0, bits]) {
            let two_level = bits > 6 && self.profile.features().cd2l;
            for stream in next.by_ref() {
                match smmu.attach(cpu, stream, &substreams(FaultMode::Terminate, bits)) {
                    Ok(()) => bytes += if two_level { 8 << (bits - 6) } else { 64 << bits },
                    Err(error) => {
                        assert!(matches!(error, DriverError::NoMemory(_)), "{error}");
                        break;
                    }
                }
                if two_level {
                    for number in 0..4 {
                        let substream = SubstreamId::new(number << 6).unwrap();
                        match smmu.attach_substream(cpu, stream, substream, Some(&context)) {
                            Ok(()) => bytes += 4096,
                            Err(error) => assert!(matches!(error, DriverError::NoMemory(_)), "{error}"),
                        }
                    }
                }
            }
        }
        memory.empty.store(false, Relaxed);
        bytes
    }
}

fn translation(spaces: &[Arc<Space>], config: Config) -> Translation {
    let Some(space) = config.space else { return Translation::Abort };
    match spaces[space].translation() {
        Translation::Stage1 { context, .. } => Translation::Stage1 { context, substream_bits: config.substream_bits },
        stage2 => stage2,
    }
}

fn pasid(place: usize) -> SubstreamId {
    SubstreamId::new(PASIDS[place].unwrap()).unwrap()
}

fn kind(error: &DriverError) -> &'static str {
    match error {
        DriverError::IllegalCommand { .. } => "illegal command",
        DriverError::CommandTimeout(_) => "command time-out",
        DriverError::AtcInvalidationTimeout => "ATC time-out",
        DriverError::NoMemory(_) => "no memory",
        DriverError::DeviceBusy { .. } => "busy device",
        _ => "other",
    }
}

/// What has to happen in the histories of a profile, or they show nothing of it.
fn expected(profile: Profile) -> Happened {
    let mut steps = Vec::from(["attach", "change", "detach", "forget"]);
    let mut errors = Vec::from(["illegal command", "command time-out", "no memory"]);
    if Substreams.is_met(profile) {
        steps.push("attach a substream");
    }
    if Stall.is_met(profile) || Ats.is_met(profile) {
        steps.extend(["enable", "disable"]);
        errors.push("busy device");
    }
    if Ats.is_met(profile) {
        errors.push("ATC time-out");
    }
    if Stall.is_met(profile) {
        steps.extend(["recover", "reopen"]);
    }
    let outcomes = steps.into_iter().flat_map(|step| ["done", "failed", "done again"].map(|outcome| (step, outcome)));
    outcomes.chain(errors.into_iter().map(|error| (error, "met"))).collect()
}

/// `HISTORIES` is how many there are of each profile, `SEED` the first one's seed, from 1 on.
#[test]
fn whatever_failed_before_a_write_goes_nowhere_else() {
    let number = |name: &str| env::var(name).ok().map(|number| number.parse::<u64>().unwrap());
    let (first, histories) = (number("SEED").unwrap_or(1), number("HISTORIES"));
    on_each(&[Queues], |profile| {
        let mut happened = Happened::new();
        for seed in first..first + histories.unwrap_or(8) {
            let mut history = History::new(profile, seed, &mut happened);
            (0..STEPS).for_each(|_| history.step());
            history.finish();
        }
        let missing: Vec<_> = expected(profile).difference(&happened).copied().collect();
        assert!(histories.is_some() || missing.is_empty(), "never on {}: {missing:?}", profile.name());
    });
}
