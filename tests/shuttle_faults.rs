//! The driver, the fault core and the model in random schedules: faults of both kinds, answers, time-outs, queue overflows,
//! enabling, disabling and removal of a device, the end of a PASID, a PASID's own handler set and removed, all at once. `tools/shuttle.sh`
//! runs it, also with mistakes built in.
//!
//! A task stands for a core, and one for the machine. The queues of the SMMU have two entries, and a stream has one slot, so
//! that little is needed for much to go wrong.
#![cfg(shuttle)]

extern crate alloc;

#[path = "driver/bench/mod.rs"]
mod driver_bench;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use driver_bench::machine::{Machine, MachineMemory};
use driver_bench::{Pager, Space, cpu, plain, substreams};
use embedded_hal::delay::DelayNs;
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::thread::{self, yield_now};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DeviceControl, EventSink, FaultMode, Hooks, Options, OutputQueue, Smmu, StreamConfig, Wake};
use smmu_iopf::iopf::{FaultGroup, FlushError, Priority, StreamLimits, SubstreamError};
use smmu_iopf::model::board;
use smmu_iopf::model::engine::registers::{
    self as reg, ats_control, control, hostile, pri_control, pri_status, status,
};
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::profile::Profile;
use smmu_iopf::model::smmu::diagnostics::*;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::event::{Event, EventError};
use smmu_iopf::smmuv3::features::IdRegisters;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId};
use smmu_iopf::sync::grace::Domain;
use smmu_iopf::sync::{Cpu, Masked};

const BASE: u64 = 0x1000_0000;
/// The pages of a job.
const PAGES: u64 = 3;
/// How often a core ends what its engine is at, and begins anew.
const ROUNDS: u64 = 2;
/// The jobs of a schedule: each begins where nothing is mapped.
const JOBS: u64 = ENGINES.len() as u64 * (ROUNDS + 1);
/// Where nothing is mapped.
const WILD: u64 = BASE + JOBS * PAGES * 4096;
/// An engine that stalls, and one that asks by PRI.
const ENGINES: [usize; 2] = [0, 2];
/// The one that asks, and the PASID that it uses.
const ASKER: usize = ENGINES[1];
const PASID: SubstreamId = SubstreamId::from_low_bits(1);
/// An engine whose accesses are terminated, with a record each.
const DISTURBER: usize = 1;
/// Longer than any schedule: a wait that ends in vain is a failure.
const LIMIT_US: u32 = 1_000_000;
const LIMITS: StreamLimits = StreamLimits { groups: 1, requests: 2, time_out_us: 1000, priority: Priority::Normal };
/// Far more than a schedule takes: one that takes more has no end.
const MOST_STEPS: usize = 300_000;

std::thread_local! {
    // What a machine's memory is made of is never freed, so all schedules of a test share it.
    static MEMORY: Arc<MachineMemory> = Arc::new(MachineMemory::new(1 << 20));
}

/// The registers and the clock of the machine: each access is a step of its own, and a delay lets others go on.
#[derive(Clone)]
struct Bus(Arc<Machine>);

impl Registers for Bus {
    fn read32(&self, register: Register) -> u32 {
        yield_now();
        self.0.read32(register)
    }

    fn write32(&self, register: Register, value: u32) {
        yield_now();
        self.0.write32(register, value);
    }

    fn write64(&self, register: Register, value: u64) {
        yield_now();
        self.0.write64(register, value);
    }
}

impl DelayNs for Bus {
    fn delay_ns(&mut self, _: u32) {
        yield_now();
        self.0.step();
    }

    fn delay_us(&mut self, _: u32) {
        self.delay_ns(0);
    }

    fn delay_ms(&mut self, _: u32) {
        self.delay_ns(0);
    }
}

/// The drainer's interrupt, and the sink of what is no fault.
#[derive(Default)]
struct Kernel {
    woken: [AtomicBool; 2],
    terminated: Mutex<Vec<Event>>,
}

impl Wake for Kernel {
    fn wake(&self, _: &Masked, queue: OutputQueue) {
        self.woken[queue as usize].store(true, Relaxed);
    }
}

impl EventSink for Kernel {
    fn event(&self, _: &Masked, event: &Event) {
        self.terminated.lock().unwrap().push(*event);
    }

    fn undecodable(&self, _: &Masked, words: [u64; 4], error: EventError) {
        panic!("{error}: {words:x?}");
    }
}

struct World {
    machine: Arc<Machine>,
    smmu: Arc<Smmu<Bus, Bus>>,
    domain: Arc<Domain>,
    kernel: Arc<Kernel>,
    pager: Arc<Pager>,
    /// The PASID's own handler.
    own: Arc<Pager>,
    space: Arc<Space>,
    /// The asking device sends no Stop markers.
    silent: bool,
    jobs: AtomicU64,
    /// How often the PASID was stopped, how often the device was told to, and how often it was served again after a Response Failure.
    stops: AtomicU64,
    asked: AtomicU64,
    reopened: AtomicU64,
    /// How many cores end a life now, and how often one began to while another did.
    ending: AtomicU64,
    beside: AtomicU64,
    /// How often the PASID's own handler was removed, and how many groups were refused with it.
    removed: AtomicU64,
    refused: AtomicU64,
    ends: AtomicBool,
}

/// An engine, as its device driver has it.
struct Device<'a>(&'a World, usize);

impl DeviceControl for Device<'_> {
    fn stop_new_work(&self) {
        self.0.machine.write_engine(self.1, reg::CONTROL, control::STOP);
    }

    fn is_idle(&self) -> bool {
        !self.0.is_busy(self.1)
    }

    fn response_needs_pasid(&self) -> bool {
        self.0.machine.read_engine(self.1, reg::CAPABILITY) & reg::capability::RESPONSE_PASID_REQUIRED != 0
    }

    fn enable_ats(&self) {
        self.0.machine.write_engine(self.1, reg::ATS_CONTROL, ats_control::ENABLE);
    }

    fn enable_page_requests(&self, allocation: u32) {
        // It does not keep to what it is granted, so the queue overflows at times.
        self.0.machine.write_engine(self.1, reg::PRI_ALLOCATION, allocation.max(8));
        self.0.machine.write_engine(self.1, reg::GROUP_SIZE, 2);
        self.0.machine.write_engine(self.1, reg::PRI_CONTROL, pri_control::ENABLE);
    }

    fn page_requests_failed(&self) -> bool {
        self.0.machine.read_engine(self.1, reg::PRI_STATUS) & pri_status::RESPONSE_FAILURE != 0
    }

    fn disable_page_requests(&self) {
        self.0.machine.write_engine(self.1, reg::PRI_CONTROL, 0);
    }

    fn page_requests_stopped(&self) -> bool {
        self.0.machine.read_engine(self.1, reg::PRI_STATUS) & pri_status::STOPPED != 0
    }

    fn stop_substream(&self, _: StreamId, substream: SubstreamId) {
        self.0.asked.fetch_add(1, Relaxed);
        if thread_rng().gen_range(0..4_u32) == 0 {
            // Until it is looked at.
            self.0.machine.write_engine(self.1, reg::HOSTILE, hostile::STORM | hostile::NO_CREDITS);
        }
        self.0.machine.write_engine(self.1, reg::PRI_STATUS, pri_status::PASID_STOPPED);
        self.0.machine.write_engine(self.1, reg::PASID, substream.get());
        let silent = if self.0.silent { pri_control::NO_STOP_MARKER } else { 0 };
        let stop = pri_control::ENABLE | pri_control::STOP_PASID | silent;
        self.0.machine.write_engine(self.1, reg::PRI_CONTROL, stop);
    }

    fn sends_stop_markers(&self) -> bool {
        !self.0.silent
    }

    fn substream_stopped(&self, _: StreamId, _: SubstreamId) -> bool {
        self.0.machine.write_engine(self.1, reg::HOSTILE, 0);
        self.0.machine.read_engine(self.1, reg::PRI_STATUS) & pri_status::PASID_STOPPED != 0
    }

    fn reset_page_requests(&self) {
        self.0.machine.write_engine(self.1, reg::PRI_CONTROL, pri_control::RESET);
    }

    fn disable_ats(&self) {
        self.0.machine.write_engine(self.1, reg::ATS_CONTROL, 0);
    }
}

impl World {
    fn new(cpu: &mut Cpu) -> Arc<Self> {
        let memory = MEMORY.with(Arc::clone);
        memory.start_over();
        // The smallest SMMU, with two substreams (IDR1.SSIDSIZE).
        let small = Profile::Small.id_registers();
        let ids = IdRegisters { idr1: small.idr1 | 1 << 6, ..small };
        let machine = Machine::with_ids(memory.clone(), ids, board::DEFAULT_ENGINES).unwrap();
        let domain = Arc::new(Domain::new());
        domain.online(cpu);
        let kernel = Arc::new(Kernel::default());
        let hooks = Hooks { wake: kernel.clone(), events: kernel.clone() };
        let options = Options { limit_us: LIMIT_US, ..Options::default() };
        let bus = Bus(machine.clone());
        let smmu = Smmu::probe(cpu, bus.clone(), memory.clone(), domain.clone(), bus, hooks, options).unwrap();
        let space = Space::on(memory, 1);
        let [pager, own] = [(); 2].map(|()| {
            let pager = Pager::with([(None, space.clone()), (Some(PASID), space.clone())].into(), BASE..WILD);
            pager.defers.store(true, Relaxed);
            pager
        });
        // All stalls are deferred, the first of a run is served at once, or both are for which there is room.
        pager.at_once.store(thread_rng().gen_range(0..3), Relaxed);
        Arc::new(Self {
            machine,
            smmu,
            domain,
            kernel,
            pager,
            own,
            space,
            silent: thread_rng().gen_range(0..4_u32) == 0,
            jobs: AtomicU64::new(0),
            stops: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            reopened: AtomicU64::new(0),
            ending: AtomicU64::new(0),
            beside: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        })
    }

    /// Runs `turn` as core `core` again and again, until the world ends.
    fn core(
        self: &Arc<Self>,
        core: usize,
        mut turn: impl FnMut(&Self, &mut Cpu) + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || {
            let mut cpu = cpu(core);
            world.domain.online(&mut cpu);
            while !world.ends.load(Relaxed) {
                turn(&world, &mut cpu);
                world.domain.poll(&mut cpu);
                yield_now();
            }
            world.domain.offline(&mut cpu);
        })
    }

    fn stream(&self, engine: usize) -> StreamId {
        StreamId(self.machine.read_engine(engine, reg::STREAM_ID))
    }

    fn is_busy(&self, engine: usize) -> bool {
        self.machine.read_engine(engine, reg::STATUS) & status::STATE == status::BUSY
    }

    fn attach(&self, cpu: &mut Cpu, engine: usize) {
        let faults = match engine {
            DISTURBER => FaultMode::Terminate,
            _ if board::engine_kind(engine) == board::EngineKind::Stall => FaultMode::Stall,
            _ => FaultMode::PageRequest,
        };
        let config = match engine {
            ASKER => substreams(faults, 1),
            _ => StreamConfig { translation: self.space.context().into(), ..plain(faults) },
        };
        self.smmu.attach(cpu, self.stream(engine), &config).unwrap();
        if engine == ASKER {
            self.attach_substream(cpu);
        }
    }

    fn attach_substream(&self, cpu: &mut Cpu) {
        self.smmu.attach_substream(cpu, self.stream(ASKER), PASID, Some(&self.space.context())).unwrap();
    }

    /// Has an engine begin a job of `pages` pages from `destination` on, two at a time.
    fn start(&self, engine: usize, destination: u64, pages: u64) {
        self.machine.write_engine(engine, reg::DEPTH, 2);
        self.machine.write_engine64(engine, reg::PATTERN, 1);
        self.machine.write_engine64(engine, reg::DESTINATION, destination);
        self.machine.write_engine64(engine, reg::LENGTH, pages * 4096);
        let pasid = if engine == ASKER { control::USE_PASID } else { 0 };
        self.machine.write_engine(engine, reg::PASID, PASID.get());
        self.machine.write_engine(engine, reg::CONTROL, control::START | control::FILL << control::OPERATION | pasid);
    }

    /// The same where nothing is mapped.
    fn begin(&self, engine: usize) {
        self.start(engine, BASE + self.jobs.fetch_add(1, Relaxed) * PAGES * 4096, PAGES);
    }

    /// Enables an engine's faults, and has it begin a job.
    fn enable(&self, cpu: &mut Cpu, engine: usize) {
        let device = Device(self, engine);
        let streams = [self.stream(engine)];
        self.smmu.enable_faults(cpu, &streams, Some(&device), self.pager.clone(), LIMITS).unwrap();
        self.begin(engine);
    }

    /// Ends the use of the PASID, and begins another, which needs page requests.
    fn stop(&self, cpu: &mut Cpu) {
        self.smmu.stop_substream(cpu, self.stream(ASKER), PASID, &Device(self, ASKER)).unwrap();
        assert!(!self.is_busy(ASKER), "its job had the PASID");
        self.stops.fetch_add(1, Relaxed);
        self.attach_substream(cpu);
        let device = Device(self, ASKER);
        self.reopened.fetch_add(device.page_requests_failed().into(), Relaxed);
        self.smmu.reopen_faults(cpu, self.stream(ASKER), &device).unwrap();
        self.begin(ASKER);
    }

    fn disable(&self, cpu: &mut Cpu, engine: usize) {
        let others = self.ending.fetch_add(1, Relaxed);
        self.beside.fetch_add(others, Relaxed);
        self.smmu.disable_faults(cpu, self.stream(engine), &Device(self, engine)).unwrap();
        self.ending.fetch_sub(1, Relaxed);
    }
}

/// Ends what an engine is at, and begins anew, while another core does so with the other one.
fn control(world: &World, cpu: &mut Cpu, engine: usize) {
    for _ in 0..ROUNDS {
        for _ in 0..thread_rng().gen_range(0..40_u32) {
            if engine != ASKER && !world.is_busy(DISTURBER) {
                world.start(DISTURBER, WILD, 1);
            }
            yield_now();
        }
        if thread_rng().gen_range(0..4_u32) == 0 {
            let flushed = ENGINES[thread_rng().gen_range(0..ENGINES.len())];
            let mut bus = Bus(world.machine.clone());
            match world.smmu.faults().flush(cpu, &mut bus, world.stream(flushed), LIMIT_US) {
                Ok(()) => {}
                // The other core has ended its life.
                Err(error) => assert!(flushed != engine && matches!(error, FlushError::NotOpen(_)), "{error}"),
            }
        }
        if engine == ASKER && thread_rng().gen_range(0..2_u32) == 0 {
            world.stop(cpu);
            continue;
        }
        world.disable(cpu, engine);
        if thread_rng().gen_range(0..2_u32) == 0 {
            // The device is pulled out, and another one plugged in.
            world.smmu.detach(cpu, world.stream(engine)).unwrap();
            world.attach(cpu, engine);
        }
        world.enable(cpu, engine);
    }
}

/// Gives the PASID a handler of its own, and takes it away again.
fn specialize(world: &World, cpu: &mut Cpu) {
    let (faults, stream, own) = (world.smmu.faults(), world.stream(ASKER), &world.own);
    match faults.set_substream_handler(cpu, stream, PASID, own.clone()) {
        Ok(()) => {}
        Err(error) => assert_eq!(error, SubstreamError::NotOpen(stream)),
    }
    for _ in 0..thread_rng().gen_range(0..40_u32) {
        world.domain.poll(cpu);
        yield_now();
    }
    match faults.remove_substream_handler(cpu, &mut Bus(world.machine.clone()), stream, PASID, LIMIT_US) {
        Ok(refused) => {
            world.removed.fetch_add(1, Relaxed);
            world.refused.fetch_add(refused as u64, Relaxed);
        }
        // It went with its stream.
        Err(error) => assert!(matches!(error, SubstreamError::NotOpen(_) | SubstreamError::NotSet(_)), "{error}"),
    }
    // Nobody waits for what it deferred, and it is asked no more.
    let asked = own.groups.load(Relaxed);
    assert!(!own.take().iter().any(FaultGroup::is_waiting));
    (0..thread_rng().gen_range(0..40_u32)).for_each(|_| {
        world.domain.poll(cpu);
        yield_now();
    });
    assert_eq!(own.groups.load(Relaxed), asked);
}

/// Takes out what the interrupts tell of.
fn drain(world: &World, cpu: &mut Cpu) {
    let raised = world.machine.take_raised();
    for (queue, wire) in [(OutputQueue::Events, Wire::EventQueue), (OutputQueue::PageRequests, Wire::PriQueue)] {
        if !world.kernel.woken[queue as usize].swap(false, Relaxed) && !raised.contains(&wire) {
            continue;
        }
        let batch = |masked: &Masked| match queue {
            OutputQueue::Events => world.smmu.drain_events(masked),
            OutputQueue::PageRequests => world.smmu.drain_page_requests(masked),
        };
        while cpu.masked(batch).more {
            yield_now();
        }
    }
}

/// Answers what was deferred, drops some of it, or lets it wait for the time-out.
fn work(world: &World, cpu: &mut Cpu) {
    for group in world.pager.take().into_iter().chain(world.own.take()) {
        match thread_rng().gen_range(0..8_u32) {
            0 => drop(group),
            1 => {
                while group.is_waiting() && !world.ends.load(Relaxed) {
                    world.domain.poll(cpu);
                    yield_now();
                }
                assert!(cpu.masked(|masked| group.respond(masked, PageResponse::Success)).is_err());
            }
            2 if group.faults().all(|fault| fault.substream == Some(PASID)) => {
                let _ = cpu.masked(|masked| group.respond(masked, PageResponse::Failure));
            }
            _ => {
                let response = world.pager.resolve(group.faults());
                let _ = cpu.masked(|masked| group.respond(masked, response));
            }
        }
    }
}

/// What went on in all schedules: for what never does, nothing is shown.
static SEEN: [AtomicU64; KINDS.len()] = [const { AtomicU64::new(0) }; KINDS.len()];
const KINDS: [&str; 22] = [
    "answers Success",
    "stalls served at once",
    "answers Invalid",
    "answers Failure",
    "time-outs",
    "late answers",
    "refusals for a limit",
    "partial groups dropped",
    "faults after close",
    "stalls ended by STALL_TERM",
    "stalls that waited for the event queue",
    "records lost by the event queue",
    "overflows of the PRI queue",
    "page requests answered by the SMMU",
    "PASIDs stopped",
    "without a Stop marker",
    "Stop markers asked for again",
    "page requests served again after a Failure",
    "lives ended while another one was",
    "PASIDs' own handlers removed",
    "groups that these were asked about",
    "groups that were refused with them",
];

fn schedule() {
    let mut here = cpu(0);
    let world = World::new(&mut here);
    world.attach(&mut here, DISTURBER);
    for engine in ENGINES {
        world.attach(&mut here, engine);
        world.enable(&mut here, engine);
    }
    let machine = {
        let world = world.clone();
        thread::spawn(move || {
            while !world.ends.load(Relaxed) {
                world.machine.step();
                yield_now();
            }
        })
    };
    let mut now_us = 0;
    let cores = [
        world.core(1, drain),
        world.core(2, work),
        world.core(3, move |world, cpu| {
            now_us += 250;
            let _ = world.smmu.expire(cpu, now_us);
        }),
        world.core(4, specialize),
    ];
    let controls = {
        let world = world.clone();
        thread::spawn(move || {
            let mut cpu = cpu(5);
            world.domain.online(&mut cpu);
            control(&world, &mut cpu, ASKER);
            world.domain.offline(&mut cpu);
        })
    };
    control(&world, &mut here, ENGINES[0]);
    world.domain.offline(&mut here);
    controls.join().unwrap();
    world.domain.online(&mut here);
    // Nothing waits for ever: each fault is answered, by its handler or for its time.
    while ENGINES.iter().chain([&DISTURBER]).any(|&engine| world.is_busy(engine)) {
        world.domain.poll(&mut here);
        yield_now();
    }
    ENGINES.iter().for_each(|&engine| world.disable(&mut here, engine));
    world.ends.store(true, Relaxed);
    // One of them may wait for a grace period.
    world.domain.offline(&mut here);
    cores.into_iter().chain([machine]).for_each(|task| task.join().unwrap());
    world.domain.online(&mut here);
    drop((world.pager.take(), world.own.take()));
    // A PASID's handler goes with its stream's fault state, a period later.
    for _ in 0..2 {
        let _passed = world.domain.synchronize(&mut here, &mut Bus(world.machine.clone()), LIMIT_US).unwrap();
        world.domain.poll(&mut here);
    }
    world.check();
}

impl World {
    /// Each record was answered once, by what the machine counted and by what the driver did, and nothing is left.
    fn check(&self) {
        let count = |offset: usize| self.machine.read(board::SMMU_BASE + offset as u64, Width::Word);
        assert_eq!(count(STALLED), 0);
        let resumed = count(RESUMED_RETRY) + count(RESUMED_ABORT);
        // STALL_TERM also ends stalls without a record, and those that were told to try again and have not yet.
        assert!(resumed + count(STALLS_TERMINATED) >= count(STALLS_RECORDED));
        let responded = count(RESPONDED_SUCCESS) + count(RESPONDED_INVALID) + count(RESPONDED_FAILURE);
        assert_eq!(responded, count(PAGE_REQUEST_GROUPS));
        let wrong = [RESUMED_NOTHING, RESPONDED_NOTHING, COMMAND_ERRORS, EARLY_STALL_TERMS];
        assert_eq!(wrong.map(count), [0; 4]);

        let others = self.kernel.terminated.lock().unwrap().len() as u64;
        assert_eq!(count(STALLS_RECORDED) + others, count(EVENTS_RECORDED));

        let totals = self.smmu.faults().totals();
        let statistics = totals.statistics;
        assert_eq!((totals.live_states, totals.slots_in_use), (0, 0));
        assert_eq!(self.smmu.faults().open_streams().count(), 0);
        assert_eq!(self.domain.stats().in_memory(), 0);
        // The fault states are gone, and with them their references to the handlers.
        assert_eq!([&self.pager, &self.own].map(Arc::strong_count), [1; 2]);
        assert!(statistics.stop_markers == 0 || !self.silent);
        assert_eq!(statistics.records - statistics.stop_markers, count(STALLS_RECORDED) + count(PAGE_REQUESTS));
        assert_eq!(statistics.groups, statistics.answers() + statistics.terminated);
        assert_eq!(statistics.answers(), resumed + responded);
        let now = [
            statistics.success,
            self.pager.served.load(Relaxed),
            statistics.invalid,
            statistics.failure,
            statistics.time_outs,
            statistics.late_answers,
            statistics.over_limit,
            statistics.discarded,
            statistics.closed,
            count(STALLS_TERMINATED),
            count(STALLS_HELD),
            count(EVENTS_LOST),
            self.smmu.page_request_counts().overflows,
            count(AUTO_SUCCESS) + count(AUTO_FAILURE),
            self.stops.load(Relaxed),
            if self.silent { self.stops.load(Relaxed) } else { 0 },
            self.asked.load(Relaxed) - self.stops.load(Relaxed),
            self.reopened.load(Relaxed),
            self.beside.load(Relaxed),
            self.removed.load(Relaxed),
            self.own.groups.load(Relaxed),
            self.refused.load(Relaxed),
        ];
        SEEN.iter().zip(now).for_each(|(sum, now)| _ = sum.fetch_add(now, Relaxed));
    }
}

/// Any task at each step, but that one is slow for a while, so that others do much between two steps of it.
struct Uneven {
    random: RandomScheduler,
    /// Who is slow: unless these bits of a random number are 0, it has to be drawn twice to get its turn.
    slow: Option<(TaskId, u64)>,
}

impl Scheduler for Uneven {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.slow = None;
        self.random.new_execution()
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        // It follows from the schedule's seed, as all that is random.
        let chance = self.random.next_u64();
        if chance.is_multiple_of(256) {
            self.slow = current.map(|task| (task, (1 << (chance >> 16) % 8) - 1));
        }
        let slow = self.slow.filter(|&(_, mask)| chance >> 32 & mask != 0).map(|(task, _)| task);
        let next = self.random.next_task(runnable, current, is_yielding);
        if next == slow { self.random.next_task(runnable, current, is_yielding) } else { next }
    }

    fn next_u64(&mut self) -> u64 {
        self.random.next_u64()
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |value| value.parse().expect(variable))
}

/// `SCHEDULES` schedules, of which the first follows from `SEED`. One that fails prints its own seed, and is the first of that.
#[test]
fn every_fault_is_answered_once_and_nothing_is_left() {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    let schedules = number("SCHEDULES", 1000);
    let random = RandomScheduler::new_from_seed(number("SEED", 1), schedules as usize);
    Runner::new(Uneven { random, slow: None }, config).run(schedule);
    for (kind, sum) in KINDS.iter().zip(&SEEN) {
        let sum = sum.load(Relaxed);
        println!("{sum:10} {kind}");
        assert!(sum > 0 || schedules < 10_000, "no {kind} in {schedules} schedules");
    }
}
