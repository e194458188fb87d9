//! What a kernel would be to driver, fault core and model.
#![allow(dead_code, unused_imports, reason = "each test crate uses a part")]

/// The machine under test: memory, the model, and how it is let work.
#[cfg(not(target_os = "none"))]
pub(crate) mod machine {
    use alloc::sync::Arc;
    use alloc::vec::Vec;

    pub(crate) use smmu_iopf::model::host::{
        HostDelay as MachineDelay, HostMemory as MachineMemory, HostSmmu as Machine,
    };
    use smmu_iopf::model::profile::Profile as Modelled;
    use spin::Mutex;

    use super::profile::{ENGINES, Profile};

    /// `bytes` of zeroed memory for an SMMU that is coherent, or not: then with caches that are never at rest. Other tests have had it
    /// before, since it lives for ever, and there are many tests.
    pub(crate) fn memory(bytes: usize, coherent: bool) -> Arc<MachineMemory> {
        static POOLS: [Mutex<Vec<Arc<MachineMemory>>>; 2] = [const { Mutex::new(Vec::new()) }; 2];
        let mut pool = POOLS[usize::from(coherent)].lock();
        let free = |memory: &&Arc<MachineMemory>| memory.size() == bytes && Arc::strong_count(memory) == 1;
        if let Some(memory) = pool.iter().find(free) {
            memory.start_over();
            return memory.clone();
        }
        let memory = match coherent {
            true => MachineMemory::new(bytes),
            false => MachineMemory::behind_caches(bytes, 0x5eed),
        };
        pool.push(Arc::new(memory));
        pool[pool.len() - 1].clone()
    }

    /// Where device memory begins.
    pub(crate) fn memory_base() -> u64 {
        smmu_iopf::model::host::MEMORY_BASE
    }

    /// What the machine can be.
    pub(crate) fn profiles() -> Vec<Profile> {
        Modelled::ALL.iter().copied().map(Profile::Model).collect()
    }

    /// Whether the SMMU is the model.
    pub(crate) const fn has_model() -> bool {
        true
    }

    /// A machine of this profile after reset.
    pub(crate) fn reset(memory: Arc<MachineMemory>, profile: Profile) -> Arc<Machine> {
        Machine::with(memory, profile.modelled().expect("the model"), ENGINES)
    }
}
/// The methods of a `DeviceControl` that a device passes on to the one that it is made of, its field `$to`.
macro_rules! passed_on {
    ($to:tt: $($method:ident),+ $(,)?) => { $(passed_on!(@ $method $to);)+ };
    (@ is_idle $to:tt) => { passed_on!(@@ is_idle $to () -> bool); };
    (@ response_needs_pasid $to:tt) => { passed_on!(@@ response_needs_pasid $to () -> bool); };
    (@ enable_page_requests $to:tt) => { passed_on!(@@ enable_page_requests $to (allocation: u32) -> ()); };
    (@ page_requests_stopped $to:tt) => { passed_on!(@@ page_requests_stopped $to () -> bool); };
    (@ page_requests_failed $to:tt) => { passed_on!(@@ page_requests_failed $to () -> bool); };
    (@ sends_stop_markers $to:tt) => { passed_on!(@@ sends_stop_markers $to () -> bool); };
    (@ stop_substream $to:tt) => { passed_on!(@@ stop_substream $to (stream: StreamId, substream: SubstreamId) -> ()); };
    (@ substream_stopped $to:tt) => {
        passed_on!(@@ substream_stopped $to (stream: StreamId, substream: SubstreamId) -> bool);
    };
    (@ $method:ident $to:tt) => { passed_on!(@@ $method $to () -> ()); };
    (@@ $method:ident $to:tt ($($argument:ident: $type:ty),*) -> $result:ty) => {
        fn $method(&self, $($argument: $type),*) -> $result {
            self.$to.$method($($argument),*)
        }
    };
}
pub(crate) use passed_on;

pub(crate) mod life;
#[cfg(target_os = "none")]
#[path = "board.rs"]
pub(crate) mod machine;
pub(crate) mod pending;
mod profile;
pub(crate) mod random;
mod space;
pub(crate) mod world;

use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use smmu_iopf::driver::dma::{CacheMaintenance, Coherence, DmaMemory, DmaRegion, NoMemory};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{
    DeviceControl, DriverError, EventSink, FaultMode, GlobalErrors, Hooks, Lost, Messages, Options, OutputQueue,
    Report, Smmu, StreamConfig, Translation, Wake,
};
use smmu_iopf::iopf::{FaultHandler, Priority, StreamLimits};
use smmu_iopf::model::board;
use smmu_iopf::model::control as model_control;
use smmu_iopf::model::engine::registers::{self as reg, ats_control, control, pri_control, pri_status, status};
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::command::Msi;
use smmu_iopf::smmuv3::event::{Event, EventError};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::registers::fields::CR0;
use smmu_iopf::smmuv3::{PhysAddr, Shareability, StreamId, SubstreamId};
use smmu_iopf::sync::grace::{Domain, Grace};
use smmu_iopf::sync::{CoreId, Cpu, Masked};
use spin::Mutex;

use self::machine::{Machine, MachineDelay, MachineMemory};
pub(crate) use self::profile::{Need, Profile, faulting_engines, on, on_each};
pub(crate) use self::space::{Pager, Space};

/// The driver on the machine under test.
pub(crate) type Driver = Smmu<Arc<Machine>, MachineDelay>;

/// A limit that no test waits for in vain but those that mean to, in microseconds; each is a step of the model.
pub(crate) const LIMIT_US: u32 = 20_000;

pub(crate) const LIMITS: StreamLimits =
    StreamLimits { groups: 64, requests: 8, time_out_us: 1_000_000, priority: Priority::Normal };

/// Thread level on a core.
pub(crate) fn cpu(core: usize) -> Cpu {
    // SAFETY: the calling thread stands for the core, and no other does.
    unsafe { Cpu::new(CoreId::new(core).unwrap()) }
}

/// What reached the kernel's event sink: the records, and the lines to print.
#[derive(Default)]
pub(crate) struct Sink(pub(crate) Mutex<Vec<Event>>, Mutex<Vec<String>>);

impl Sink {
    /// What was printed since the last call.
    pub(crate) fn take_lines(&self) -> Vec<String> {
        core::mem::take(&mut *self.1.lock())
    }
}

impl EventSink for Sink {
    fn event(&self, _: &Masked, event: &Event) {
        self.0.lock().push(*event);
    }

    fn undecodable(&self, _: &Masked, words: [u64; 4], error: EventError) {
        panic!("{error}: {words:x?}");
    }

    fn report(&self, _: &Masked, report: &Report<'_>) {
        self.1.lock().push(report.to_string());
    }
}

/// Wakes the drainer by draining.
#[derive(Default)]
struct DrainNow(Mutex<Weak<Driver>>);

impl Wake for DrainNow {
    fn wake(&self, masked: &Masked, queue: OutputQueue) {
        let smmu = self.0.lock().upgrade().unwrap();
        drain(&smmu, masked, queue);
    }
}

fn drain(smmu: &Driver, masked: &Masked, queue: OutputQueue) {
    let once = || match queue {
        OutputQueue::Events => smmu.drain_events(masked),
        OutputQueue::PageRequests => smmu.drain_page_requests(masked),
    };
    while once().more {}
}

/// Hands the allocation number `bad` out at an address where there is no memory.
pub(crate) struct Broken {
    memory: Arc<MachineMemory>,
    count: AtomicU64,
    bad: u64,
    /// Nothing is handed out.
    pub(crate) empty: AtomicBool,
    /// The bytes handed out and not given back, which are handed out no more.
    pub(crate) used: AtomicUsize,
}

impl DmaMemory for Broken {
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory> {
        if self.empty.load(Ordering::Relaxed) {
            return Err(NoMemory { bytes, align });
        }
        let region = self.memory.allocate(bytes, align)?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let phys = match self.count.fetch_add(1, Ordering::Relaxed) == self.bad {
            true => PhysAddr(0x1_0000_0000),
            false => region.phys,
        };
        Ok(DmaRegion { phys, ..region })
    }

    fn free(&self, region: DmaRegion) {
        self.used.fetch_sub(size_of_val(region.words), Ordering::Relaxed);
    }

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        self.memory.maintenance().or(Some(&Never))
    }
}

/// Maintenance that nobody asks for whose SMMU is coherent.
struct Never;

impl CacheMaintenance for Never {
    fn clean(&self, _: &[AtomicU64]) {
        panic!("a coherent SMMU needs no clean");
    }

    fn invalidate(&self, _: &[AtomicU64]) {
        panic!("a coherent SMMU needs no invalidation");
    }
}

/// What the memory needs that the machine shares, its engines included.
pub(crate) fn coherence(memory: &MachineMemory) -> Coherence {
    memory.maintenance().map_or(Coherence::COHERENT, Coherence::by)
}

/// A region that the machine finds zeroed too.
pub(crate) fn zeroed(memory: &MachineMemory, bytes: usize, align: usize) -> DmaRegion {
    let region = memory.allocate(bytes, align).unwrap();
    coherence(memory).clean(region.words);
    region
}

/// Memory for messages: a word each, which the SMMU writes its data to.
pub(crate) struct Doorbells(DmaRegion, Coherence);

impl Doorbells {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self(zeroed(machine.memory(), 64, 64), coherence(machine.memory()))
    }

    /// The data 0xe1 for the event queue, 0xe2 for the PRI queue, 0xe3 for global errors; as Device-nGnRE (5.2, MemAttr).
    pub(crate) fn messages(&self) -> Messages {
        let message = |place: u64| Msi {
            address: PhysAddr(self.0.phys.0 + 8 * place),
            data: 0xe1 + place as u32,
            attributes: 1,
            shareability: Shareability::OuterShareable,
        };
        Messages { events: message(0), page_requests: message(1), global_errors: message(2) }
    }

    /// What came since the last call, as the wires that it stands for.
    pub(crate) fn take(&self) -> Vec<Wire> {
        let wires = [Wire::EventQueue, Wire::PriQueue, Wire::GlobalError];
        self.1.invalidate(self.0.words);
        let rung = self.0.words.iter().zip(0xe1..).map(|(word, data)| match word.swap(0, Ordering::Acquire) {
            0 => false,
            actual => {
                assert_eq!(actual, data);
                true
            }
        });
        let rung = wires.into_iter().zip(rung).filter_map(|(wire, rung)| rung.then_some(wire)).collect();
        self.1.clean(self.0.words);
        rung
    }
}

pub(crate) struct Bench {
    pub(crate) machine: Arc<Machine>,
    pub(crate) smmu: Arc<Driver>,
    /// The driver's device memory.
    pub(crate) memory: Arc<Broken>,
    pub(crate) domain: Arc<Domain>,
    pub(crate) sink: Arc<Sink>,
    pub(crate) cpu: Cpu,
}

impl Bench {
    /// A bench with everything.
    pub(crate) fn new() -> Self {
        Self::of(Modelled::Full)
    }

    /// A bench whose machine is of `profile`.
    pub(crate) fn of(profile: impl Into<Profile>) -> Self {
        Self::with(profile, Options { limit_us: LIMIT_US, ..Options::default() })
    }

    /// The same, for threads: one whose core the host gives to another is waited for by the steps of the model.
    pub(crate) fn patient(profile: impl Into<Profile>) -> Self {
        Self::with(profile, Options { limit_us: 100 * LIMIT_US, ..Options::default() })
    }

    pub(crate) fn with(profile: impl Into<Profile>, options: Options) -> Self {
        Self::with_broken(profile, options, u64::MAX)
    }

    /// A bench whose device memory number `bad` does not exist: 0 the stream table, 1 the command queue, 2 the
    /// lines for messages where there are some ([`Need::SyncMessages`]); then the event queue and the PRI queue.
    pub(crate) fn with_broken(profile: impl Into<Profile>, options: Options, bad: u64) -> Self {
        let profile = profile.into();
        let memory = machine::memory(4 << 20, profile.features().coherent);
        Self::on(machine::reset(memory, profile), options, bad).unwrap()
    }

    /// A bench on a machine that is there already.
    pub(crate) fn on(machine: Arc<Machine>, options: Options, bad: u64) -> Result<Self, DriverError> {
        let memory = machine.memory().clone();
        // Caches as bad as the architecture permits: filled at reset, and never at rest.
        write_caches(&machine, diagnostics::CACHE_POISON, machine.read_engine(0, reg::STREAM_ID));
        write_caches(&machine, diagnostics::CACHE_SEED, 0x5eed);
        let domain = Arc::new(Domain::new());
        let mut cpu = cpu(0);
        domain.online(&mut cpu);
        let wake = Arc::new(DrainNow::default());
        let sink = Arc::new(Sink::default());
        let hooks = Hooks { wake: wake.clone(), events: sink.clone() };
        let broken = Arc::new(Broken {
            memory,
            count: AtomicU64::new(0),
            bad,
            empty: AtomicBool::new(false),
            used: AtomicUsize::new(0),
        });
        let smmu =
            Smmu::probe(&mut cpu, machine.clone(), broken.clone(), domain.clone(), machine.delay(), hooks, options)?;
        *wake.0.lock() = Arc::downgrade(&smmu);
        Ok(Self { machine, smmu, memory: broken, domain, sink, cpu })
    }

    /// What the interrupts would do: drains both queues.
    pub(crate) fn drain(&mut self) {
        self.cpu.masked(|masked| {
            drain(&self.smmu, masked, OutputQueue::Events);
            drain(&self.smmu, masked, OutputQueue::PageRequests);
        });
        self.domain.poll(&mut self.cpu);
    }

    /// Lets the machine and the drainer work until `done`.
    pub(crate) fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..50_000 {
            self.machine.step();
            self.drain();
            if done(self) {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    /// Lets them work until no engine of `engines` is busy.
    pub(crate) fn finish<const N: usize>(&mut self, engines: [usize; N]) {
        self.run_until(|bench| engines.iter().all(|&engine| bench.state(engine) != status::BUSY));
    }

    /// The state of an engine's job.
    pub(crate) fn state(&self, engine: usize) -> u32 {
        self.machine.read_engine(engine, reg::STATUS) & status::STATE
    }

    pub(crate) fn fault_address(&self, engine: usize) -> u64 {
        let half = |offset| u64::from(self.machine.read_engine(engine, offset));
        half(reg::FAULT_ADDRESS) | half(reg::FAULT_ADDRESS + 4) << 32
    }

    /// Starts a job: `operation` is one of `control::{COPY, FILL, COMPARE}`.
    pub(crate) fn start(
        &self,
        engine: usize,
        operation: u32,
        source: u64,
        destination: u64,
        length: u64,
        pasid: Option<u32>,
    ) {
        self.machine.write_engine64(engine, reg::SOURCE, source);
        self.machine.write_engine64(engine, reg::DESTINATION, destination);
        self.machine.write_engine64(engine, reg::LENGTH, length);
        self.machine.write_engine(engine, reg::PASID, pasid.unwrap_or(0));
        let pasid = if pasid.is_some() { control::USE_PASID } else { 0 };
        self.machine.write_engine(engine, reg::CONTROL, control::START | operation << control::OPERATION | pasid);
    }

    pub(crate) fn fill(&self, engine: usize, destination: u64, length: u64, pattern: u64, pasid: Option<u32>) {
        self.machine.write_engine64(engine, reg::PATTERN, pattern);
        self.start(engine, control::FILL, 0, destination, length, pasid);
    }

    /// Attaches an engine to `space`, with its faults off.
    pub(crate) fn attach(&mut self, engine: usize, faults: FaultMode, space: &Space) -> Result<(), DriverError> {
        let config = StreamConfig { translation: space.translation(), ..plain(faults) };
        let stream = self.stream(engine);
        self.smmu.attach(&mut self.cpu, stream, &config)
    }

    pub(crate) fn enable(&mut self, engine: usize, handler: Arc<dyn FaultHandler>) -> Result<(), DriverError> {
        let (stream, device) = (self.stream(engine), self.device(engine));
        self.smmu.enable_faults(&mut self.cpu, &[stream], Some(&device), handler, LIMITS)
    }

    /// The device that an engine is.
    pub(crate) fn device(&self, engine: usize) -> Device {
        Device { machine: self.machine.clone(), smmu: self.smmu.clone(), engine, needs_pasid: None, silent: false }
    }

    /// The StreamID that the engine says it has.
    pub(crate) fn stream(&self, engine: usize) -> StreamId {
        StreamId(self.machine.read_engine(engine, reg::STREAM_ID))
    }

    pub(crate) fn disable(&mut self, engine: usize) -> Result<(), DriverError> {
        let (stream, device) = (self.stream(engine), self.device(engine));
        self.smmu.disable_faults(&mut self.cpu, stream, &device)
    }

    pub(crate) fn reopen(&mut self, engine: usize) -> Result<(), DriverError> {
        let (stream, device) = (self.stream(engine), self.device(engine));
        self.smmu.reopen_faults(&mut self.cpu, stream, &device)
    }

    /// What the global error interrupt would do.
    pub(crate) fn global_errors(&self) -> GlobalErrors {
        self.cpu.masked(|masked| self.smmu.handle_global_error(masked))
    }

    pub(crate) fn recover(&mut self) -> Result<Lost, DriverError> {
        self.smmu.recover(&mut self.cpu)
    }

    /// Has the SMMU's caches forget nothing of themselves.
    pub(crate) fn calm_caches(&self) {
        write_caches(&self.machine, diagnostics::CACHE_SEED, 0);
    }

    /// Has the SMMU consume no commands, or go on consuming them, which the driver does not know.
    pub(crate) fn hold_commands(&mut self, held: bool) {
        let enables = self.machine.read32(Register::Cr0);
        let enables = CR0::CMDQEN.val(u32::from(!held)).modify(enables);
        self.machine.write32(Register::Cr0, enables);
        self.machine.step();
    }

    /// Has the SMMU, which is [held](Self::hold_commands), take the command that waits first as illegal. The model does so by itself; QEMU's
    /// finds an opcode there that no command has (4.1.3).
    pub(crate) fn spoil_command(&self) {
        if machine::has_model() {
            return self.machine.write_control(model_control::COMMAND_ILLEGAL, 1);
        }
        let base = self.machine.read(board::SMMU_BASE + Register::CmdqBase.offset() as u64, Width::Double);
        let index = u64::from(self.machine.read32(Register::CmdqCons)) & ((1 << (base & 0x1f)) - 1);
        self.machine.memory().store((base & 0x000f_ffff_ffff_ffe0) + 16 * index, 0xff).unwrap();
    }

    /// Lets a grace period pass.
    pub(crate) fn grace(&mut self) -> Grace {
        self.domain.synchronize(&mut self.cpu, &mut self.machine.delay(), LIMIT_US).unwrap()
    }

    /// Live fault states, after everything due was freed.
    pub(crate) fn live(&mut self) -> usize {
        let _passed = self.grace();
        self.domain.poll(&mut self.cpu);
        self.smmu.faults().live()
    }

    /// One of the model's own counters, by its offset in the SMMU's page 0.
    pub(crate) fn model_count(&self, offset: usize) -> u64 {
        self.machine.read(board::SMMU_BASE + offset as u64, smmu_iopf::model::machine::Width::Word)
    }
}

/// Says how the model's caches are to behave. QEMU's forget nothing of themselves, and have after reset what they had before.
fn write_caches(machine: &Machine, register: usize, value: u32) {
    if machine::has_model() {
        machine.write(board::SMMU_BASE + register as u64, Width::Word, value.into());
    }
}

pub(crate) fn stream(engine: usize) -> StreamId {
    board::engine_stream(engine)
}

/// A configuration without address spaces.
pub(crate) fn plain(faults: FaultMode) -> StreamConfig {
    substreams(faults, 0)
}

/// The same with 2^`bits` substreams.
pub(crate) fn substreams(faults: FaultMode, substream_bits: u8) -> StreamConfig {
    let translation = Translation::Stage1 { context: None, substream_bits };
    StreamConfig { faults, translation }
}

/// An engine's side of giving faults to a handler and taking them away.
pub(crate) struct Device {
    pub(crate) machine: Arc<Machine>,
    pub(crate) smmu: Arc<Driver>,
    pub(crate) engine: usize,
    /// What its driver says, if not the engine, of "PRG Response PASID Required".
    pub(crate) needs_pasid: Option<bool>,
    /// It stops PASIDs without Stop markers.
    pub(crate) silent: bool,
}

impl DeviceControl for Device {
    fn stop_new_work(&self) {
        self.machine.write_engine(self.engine, reg::CONTROL, control::STOP);
    }

    fn is_idle(&self) -> bool {
        self.machine.read_engine(self.engine, reg::STATUS) & status::STATE != status::BUSY
    }

    fn response_needs_pasid(&self) -> bool {
        let capability = self.machine.read_engine(self.engine, reg::CAPABILITY);
        self.needs_pasid.unwrap_or(capability & reg::capability::RESPONSE_PASID_REQUIRED != 0)
    }

    fn enable_ats(&self) {
        self.machine.write_engine(self.engine, reg::ATS_CONTROL, ats_control::ENABLE);
    }

    fn enable_page_requests(&self, allocation: u32) {
        self.machine.write_engine(self.engine, reg::PRI_ALLOCATION, allocation);
        self.machine.write_engine(self.engine, reg::PRI_CONTROL, pri_control::ENABLE);
    }

    fn page_requests_failed(&self) -> bool {
        self.machine.read_engine(self.engine, reg::PRI_STATUS) & pri_status::RESPONSE_FAILURE != 0
    }

    fn disable_page_requests(&self) {
        self.machine.write_engine(self.engine, reg::PRI_CONTROL, 0);
    }

    fn page_requests_stopped(&self) -> bool {
        // The interrupt that would come meanwhile.
        cpu(0).masked(|masked| drain(&self.smmu, masked, OutputQueue::PageRequests));
        self.machine.read_engine(self.engine, reg::PRI_STATUS) & pri_status::STOPPED != 0
    }

    fn stop_substream(&self, _: StreamId, substream: SubstreamId) {
        self.machine.write_engine(self.engine, reg::PRI_STATUS, pri_status::PASID_STOPPED);
        self.machine.write_engine(self.engine, reg::PASID, substream.get());
        let silent = if self.silent { pri_control::NO_STOP_MARKER } else { 0 };
        let enabled = self.machine.read_engine(self.engine, reg::PRI_CONTROL) & pri_control::ENABLE;
        self.machine.write_engine(self.engine, reg::PRI_CONTROL, enabled | pri_control::STOP_PASID | silent);
    }

    fn sends_stop_markers(&self) -> bool {
        !self.silent
    }

    fn substream_stopped(&self, _: StreamId, _: SubstreamId) -> bool {
        cpu(0).masked(|masked| drain(&self.smmu, masked, OutputQueue::PageRequests));
        self.machine.read_engine(self.engine, reg::PRI_STATUS) & pri_status::PASID_STOPPED != 0
    }

    fn reset_page_requests(&self) {
        self.machine.write_engine(self.engine, reg::PRI_CONTROL, pri_control::RESET);
    }

    fn disable_ats(&self) {
        self.machine.write_engine(self.engine, reg::ATS_CONTROL, 0);
    }
}
