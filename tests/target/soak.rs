//! Streams come and go, over and over, while engines fault and everything around them gets in the way.
//!
//! Of four engines two stall and two send page requests. Cores that come by end the life of one in the middle of its work and
//! begin the next, while the others work. The last core goes offline and comes back, and stays masked for longer than a
//! grace period takes. The first drains the queues, replaces what interrupt handlers read, and has the others switched off and on,
//! one at a time. Storms of interrupts go to all, whose handlers read under grace periods and keep references. In the end nothing
//! may be left of it.

mod lane;
mod readers;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Display;
use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use core::time::Duration;

use smmu_iopf::arch::timer::{self, Timer};
use smmu_iopf::driver::Options;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::control_page::ControlPage;
use smmu_iopf::kernel::devices::{Devices, Unit};
use smmu_iopf::kernel::runtime::Work;
use smmu_iopf::model::control::UNTIMED;
use smmu_iopf::sva::frames::FramePool;
use smmu_iopf::sync::{CoreId, Cpu, Masked, wait};
use spin::Mutex;

use self::lane::{Lane, Sums};
use self::readers::Readers;
use crate::harness::{Failure, Outcome, argument, equal, holds};

/// How many cycles there are unless `cycles=N` says otherwise, and before anything is measured.
const CYCLES: u32 = 150;
const WARM_UP: u32 = 40;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Page frames for address spaces.
const FRAMES: u32 = 2048;

/// SplitMix64.
struct Random(u64);

impl Random {
    /// What is random in cycle `cycle` of the run with `seed`.
    fn new(seed: u64, cycle: u32) -> Self {
        let mut random = Self(seed ^ u64::from(cycle) << 32);
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u32) -> u32 {
        (self.next() >> 32) as u32 % bound
    }

    /// Whether a chance of one in `count` has come.
    fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }
}

/// What the cores share.
struct Soak {
    kernel: &'static Kernel,
    unit: &'static Unit,
    seed: u64,
    frames: Arc<FramePool>,
    readers: Readers,
    /// An engine of each kind each. While a cycle waits, its core may begin another with the other two.
    lanes: [Mutex<[Lane; 2]>; 2],
    /// The next cycle, and the first that is not to be.
    next: AtomicU32,
    end: AtomicU32,
    /// For the cycle in which the restless core did something last.
    restless: AtomicU32,
    /// How often a core was switched off, and on again.
    switched: AtomicU32,
    /// Something went wrong: no more cycles.
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Soak {
    /// Notes what went wrong first.
    fn fail(&self, cycle: u32, what: impl Display) {
        self.failure.lock().get_or_insert_with(|| format!("seed {}, cycle {cycle}: {what}", self.seed));
        self.failed.store(true, Release);
    }

    /// Works, without sleep, until `reached`.
    fn until(&self, cpu: &mut Cpu, what: &str, mut reached: impl FnMut() -> bool) -> Result<(), Failure> {
        let start = timer::now();
        while !reached() {
            if timer::now() - start > LIMIT {
                return Err(Failure::Wrong(format!("{what} did not come within {LIMIT:?}")));
            }
            self.kernel.work(cpu);
        }
        Ok(())
    }

    /// One cycle, if one is left.
    fn cycle(&self, cpu: &mut Cpu) -> bool {
        let core = cpu.core().index();
        let free = (0..2).find_map(|index| self.lanes[(core + index) % 2].try_lock());
        let Some(mut lanes) = free else { return false };
        let take = |next: u32| (next < self.end.load(Acquire)).then_some(next + 1);
        if self.failed.load(Acquire) {
            return false;
        }
        let Ok(cycle) = self.next.fetch_update(Relaxed, Relaxed, take) else { return false };
        let mut random = Random::new(self.seed, cycle);
        let lane = &mut lanes[random.below(2) as usize];
        if random.one_in(2) {
            cpu.masked(|_| self.readers.storm(self.kernel, &mut random));
        }
        let outcome = lane.end(self, cpu).and_then(|()| lane.begin(self, cpu, &mut random));
        if let Err(Failure::Wrong(why)) = outcome {
            self.fail(cycle, format_args!("{:?}: {why}", lane.stream()));
        }
        true
    }

    /// What the restless core does: once every few cycles.
    fn disturb(&self, cpu: &mut Cpu) -> bool {
        let cycle = self.next.load(Relaxed);
        let last = self.restless.load(Relaxed);
        if cycle.wrapping_sub(last) < 4 {
            return false;
        }
        self.restless.store(cycle, Relaxed);
        let mut random = Random::new(!self.seed, cycle);
        let us = 50 + random.below(1_000);
        let spin = || {
            let _ = wait::until(&mut Timer, us, || Err::<(), _>(()));
        };
        match random.below(3) {
            // An interrupt whose handler reads brings it back before its time.
            0 => {
                self.kernel.domain.offline(cpu);
                spin();
                self.kernel.domain.online(cpu);
            }
            1 => self.kernel.domain.idle(cpu, |_| false, spin),
            _ => cpu.masked(|masked| {
                let _section = self.kernel.domain.read(masked);
                spin();
            }),
        }
        true
    }
}

impl Work for Soak {
    fn work(&self, cpu: &mut Cpu) -> bool {
        match cpu.core().index() {
            0 => false,
            core if core + 1 == self.kernel.cores() => self.disturb(cpu),
            _ => self.cycle(cpu),
        }
    }

    fn is_waiting(&self, masked: &Masked) -> bool {
        (1..self.kernel.cores() - 1).contains(&masked.core().index())
            && !self.failed.load(Relaxed)
            && self.next.load(Relaxed) < self.end.load(Relaxed)
    }
}

/// A core that is off.
struct Away {
    core: CoreId,
    until: Duration,
}

/// What has to be as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    heap: usize,
    frames: usize,
    objects: u64,
    live_states: usize,
    slots_in_use: usize,
}

impl Soak {
    fn memory(&self) -> Memory {
        let totals = self.unit.smmu.faults().totals();
        Memory {
            heap: self.kernel.heap.used(),
            frames: self.frames.in_use(),
            objects: self.kernel.domain.stats().in_memory(),
            live_states: totals.live_states,
            slots_in_use: totals.slots_in_use,
        }
    }

    /// Runs `cycles` more cycles, ends all lives, and waits until nothing is left to be freed.
    fn run(&self, cpu: &mut Cpu, cycles: u32) -> Outcome {
        let first = self.next.load(Relaxed);
        let (start, end) = (timer::now(), first + cycles);
        self.readers.replace()?;
        self.end.store(end, Release);
        cpu.masked(|masked| self.kernel.wake_others(masked));
        let (mut last, mut moved) = (first, timer::now());
        let mut away: Option<Away> = None;
        let at_rest = || self.next.load(Acquire) >= end && self.lanes.iter().all(|lanes| lanes.try_lock().is_some());
        while !at_rest() && !self.failed.load(Acquire) {
            let _ = self.kernel.wait_until(cpu, Duration::from_millis(2), || Err::<(), _>(()));
            let next = self.next.load(Relaxed);
            if let Some(Away { core, .. }) = away.take_if(|away| timer::now() >= away.until) {
                self.kernel.switch_on(cpu, core)?;
            }
            if next == last {
                if timer::now() - moved > 4 * LIMIT {
                    return Err(Failure::Wrong(format!("seed {}: cycle {next} stands still", self.seed)));
                }
                continue;
            }
            let mut random = Random::new(self.seed.rotate_left(7), next);
            self.readers.replace()?;
            if random.one_in(8) {
                // The drainer.
                let _ = cpu.masked(|_| wait::until(&mut Timer, random.below(1_000), || Err::<(), _>(())));
            }
            if away.is_none() && random.one_in(8) {
                let core = 1 + random.below(self.kernel.cores() as u32 - 1);
                let core = CoreId::new(core as usize).ok_or("no such core")?;
                self.kernel.switch_off(cpu, core)?;
                self.switched.fetch_add(1, Relaxed);
                away = Some(Away { core, until: timer::now() + Duration::from_micros(random.below(8_000).into()) });
            }
            if next / 1_000 != last / 1_000 {
                log::info!("cycle {next}: {} s", (timer::now() - start).as_secs());
            }
            (last, moved) = (next, timer::now());
        }
        if let Some(Away { core, .. }) = away {
            self.kernel.switch_on(cpu, core)?;
        }
        if let Some(failure) = self.failure.lock().take() {
            return Err(Failure::Wrong(failure));
        }
        for lanes in &self.lanes {
            for lane in lanes.lock().iter_mut() {
                let ended = lane.end(self, cpu).and_then(|()| lane.detach(self, cpu));
                if let Err(Failure::Wrong(why)) = ended {
                    return Err(Failure::Wrong(format!("seed {}, after cycle {end}: {why}", self.seed)));
                }
            }
        }
        cpu.masked(|masked| self.readers.let_go(masked));
        self.until(cpu, "the end of what was retired", || self.kernel.domain.stats().pending() == 0)
    }

    /// What the engines counted, and the model's answers to their records.
    fn sums(&self) -> Result<Sums, Failure> {
        let window = self.kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
        let registers = || self.kernel.board.registers(window);
        let page = registers().and_then(ControlPage::new).ok_or("the control page is not mapped")?;
        let mut sums = Sums::default();
        for lanes in &self.lanes {
            for lane in lanes.lock().iter() {
                lane.add_to(&mut sums);
                sums.answered += u64::from(page.times(lane.stream())[0].count());
            }
        }
        sums.answered += u64::from(registers().map_or(0, |registers| registers.read32(UNTIMED)));
        Ok(sums)
    }
}

test!(fn streams_come_and_go_while_engines_fault_and_nothing_is_left(kernel, cpu) {
    let (seed, cycles) = (argument(kernel, "seed=", 1)?, argument(kernel, "cycles=", CYCLES)?);
    if kernel.cores() < 3 {
        return Err(Failure::NotHere("third core"));
    }
    if kernel.board.control.is_none() {
        return Err(Failure::NotHere("modelled SMMU"));
    }
    // Cores of a busy machine are away for long.
    let devices = Devices::bring_up(kernel, cpu, &Options { limit_us: 10_000_000, stream_bits: 16, ..Options::default() })?;
    let of_kind = |stalls| devices.engines.iter().filter(move |unit| unit.description.can_stall == stalls);
    let engines = of_kind(true).take(2).zip(of_kind(false).take(2)).collect::<Vec<_>>();
    let &[(stall0, page0), (stall1, page1)] = engines.as_slice() else { return Err(Failure::NotHere("fourth engine")) };
    let unit = devices.smmu_of(stall0).ok_or("no SMMU in front of the engines")?;
    if !unit.smmu.features().can_stall() || !unit.smmu.features().pri {
        return Err(Failure::NotHere("SMMU with stalls and page requests"));
    }
    let frames = Arc::new(FramePool::new(&*kernel.device_memory, FRAMES, devices.coherence())?);
    let zeroing: Arc<dyn Work> = frames.clone();
    kernel.add_work(cpu, zeroing).map_err(|_| "no room for more work")?;
    let streams = [stall0, page0, stall1, page1].map(|unit| unit.engine.stream());
    let lane = |unit| Lane::new(kernel, unit);
    let soak = Arc::new(Soak {
        kernel,
        unit,
        seed: seed.into(),
        frames,
        readers: Readers::new(kernel, unit.smmu.clone(), streams)?,
        lanes: [Mutex::new([lane(stall0)?, lane(page0)?]), Mutex::new([lane(stall1)?, lane(page1)?])],
        next: 0.into(),
        end: 0.into(),
        restless: 0.into(),
        switched: 0.into(),
        failed: false.into(),
        failure: Mutex::new(None),
    });
    let work: Arc<dyn Work> = soak.clone();
    kernel.add_work(cpu, work).map_err(|_| "no room for more work")?;

    // What stays for good is allocated in the first cycles.
    soak.run(cpu, WARM_UP)?;
    let before = soak.memory();
    let start = timer::now();
    soak.run(cpu, cycles)?;
    let took = timer::now() - start;

    equal("memory", before, soak.memory())?;
    let (smmu, sums) = (&unit.smmu, soak.sums()?);
    let totals = smmu.faults().totals().statistics;
    let (events, requests, commands) = (smmu.event_counts(), smmu.page_request_counts(), smmu.command_counts());
    log::info!("{cycles} cycles in {} ms, seed {seed}: {sums:?}", took.as_millis());
    log::info!("{totals:?}");
    let (interrupts, found_dead) = soak.readers.seen();
    let sum = |of: fn(&Lane) -> u64| soak.lanes.iter().map(|lanes| lanes.lock().iter().map(of).sum::<u64>()).sum::<u64>();
    let (lives, late) = (sum(|lane| lane.lives), sum(|lane| lane.late));
    let (stops, reopened) = (sum(|lane| lane.stops), sum(|lane| lane.reopened));
    let (at_once, in_runs) = (sum(|lane| lane.at_once), sum(|lane| lane.in_runs));
    log::info!("{lives} lives, {late} late answers refused, {interrupts} reading interrupts, {:?}", kernel.domain.stats());
    log::info!("{at_once} stalls served at once, {in_runs} in runs");
    log::info!("{stops} PASIDs stopped, {reopened} times page requests served again after a Failure");
    let switched = soak.switched.load(Relaxed);
    log::info!("{switched} times a core was off; {:?}", kernel.work_queues.counts());
    holds("cores were switched off", switched > 0)?;
    holds("stalls were served at once", at_once > 0)?;
    // Pages of an SMMU that is not coherent have to be cleaned, one by one.
    holds("stalls were served in runs", in_runs > 0 || !devices.coherence().is_coherent())?;
    holds("PASIDs were stopped", stops > 0)?;
    holds("page requests were served again after a Failure", reopened > 0)?;
    equal("lives", u64::from(WARM_UP + cycles), lives)?;
    holds("no handler found what was freed", !found_dead)?;
    equal("objects alive for ever", 0, kernel.domain.stats().leaked)?;
    equal("stalls that ended, of those recorded", sums.stalls, sums.stalls_ended)?;
    equal("responses, of groups with a Last", sums.groups, sums.responses)?;
    equal("responses to nothing", 0, sums.unexpected)?;
    equal("answers that found their record, of those sent", commands.answers, sums.answered)?;
    equal("answers and terminations, of groups", totals.groups, totals.answers() + totals.terminated)?;
    equal("answers of the fault core, of those sent", commands.answers, totals.answers())?;
    equal("answers not sent", 0, events.unsent + requests.unsent + commands.refused)?;
    equal("overflows", 0, events.overflows + requests.overflows)?;
    equal("records that made no sense", 0, unit.events.undecodable() + events.nonsense + requests.nonsense)?;
    equal("global errors", 0, unit.events.global_errors() + commands.errors)
});
