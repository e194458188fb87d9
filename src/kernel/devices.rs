//! The board's SMMUs and the DMA engines behind them, found, brought up, connected to their interrupts.

mod wiring;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use heapless::Deque;

use self::wiring::Service;
use super::engine::Engine;
use super::interrupts::{ConnectError, Sgi, send};
use super::pace::Pace;
use super::runtime::{Kernel, Work};
use crate::arch::timer::{self, Timer};
use crate::driver::dma::Coherence;
use crate::driver::{self, DriverError, EventSink, GlobalErrors, Hooks, Options, OutputQueue, Report, Smmu, Wake};
use crate::platform::board::{self, Phandle, Wires};
use crate::platform::smmu_registers::{SmmuRegisters, WindowTooSmall};
use crate::smmuv3::event::{Event, EventError};
use crate::sync::lock::IrqLock;
use crate::sync::{CoreId, Cpu, Masked};

/// An SMMU of this board.
pub type BoardSmmu = Smmu<SmmuRegisters, Timer>;

/// The core that drains all queues: shared interrupts are routed there.
pub(super) const DRAINER: CoreId = CoreId::FIRST;

/// How long all cores may sleep while the faults of a stream are served. The first looks each millisecond while it waits for
/// something; this is for when it is busy otherwise.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How long they may sleep else: until what reports there were before hold none back any more.
const LOOK_FOR_REPORTS: Duration = Duration::from_secs(1);

/// The most events kept until somebody looks.
const EVENTS: usize = 64;

/// One SMMU with what is known about it.
pub struct Unit {
    /// Its name in the device tree.
    pub phandle: Phandle,
    /// Its driver.
    pub smmu: Arc<BoardSmmu>,
    /// What it reported that was nobody's page fault.
    pub events: Arc<EventLog>,
    /// What the device tree says.
    description: board::Smmu,
    /// Its interrupts are messages.
    by_message: AtomicBool,
    /// A global error wants more than an interrupt handler can do.
    recover: AtomicBool,
    /// Its messages do not come.
    unreachable: AtomicBool,
    /// When the waiting groups were last looked at, in milliseconds.
    looked_after: AtomicU64,
    pace: &'static Pace,
}

/// An engine with what is known about it.
pub struct EngineUnit {
    /// What the device tree says.
    pub description: board::Engine,
    /// Its driver.
    pub engine: Engine,
}

/// SMMUs and engines.
pub struct Devices {
    /// In the device tree's order.
    pub smmus: Vec<Unit>,
    /// In the device tree's order.
    pub engines: Vec<EngineUnit>,
}

/// The devices that are up, for debuggers: nothing here reads it, `tools/gdb` begins with it.
#[used]
static DEVICES: AtomicPtr<Devices> = AtomicPtr::new(ptr::null_mut());

/// Why the devices could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// An SMMU's registers are not where a device can be.
    #[error("SMMU at {0:#x}: not mapped as a device")]
    NotMapped(u64),
    /// An SMMU's registers do not fit their window.
    #[error("SMMU at {0:#x}: {1}")]
    Window(u64, WindowTooSmall),
    /// An SMMU could not be brought up.
    #[error("SMMU at {0:#x}: {1}")]
    Smmu(u64, DriverError),
    /// An interrupt could not be connected.
    #[error("interrupt: {0}")]
    Connect(#[from] ConnectError),
    /// The kernel looks after as many things as it can.
    #[error("no room for more work")]
    TooMuchWork,
}

impl Devices {
    /// Brings up every SMMU, with `options`, and finds every engine of the board.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] names the device that failed.
    pub fn bring_up(kernel: &'static Kernel, cpu: &mut Cpu, options: &Options) -> Result<&'static Self, DeviceError> {
        let smmus = kernel
            .board
            .smmus
            .iter()
            .map(|description| bring_up_smmu(kernel, cpu, description, options.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let engines = kernel
            .board
            .engines
            .iter()
            .filter_map(|description| {
                let engine = kernel.board.registers(&description.window).and_then(Engine::new);
                // The device tree and the device have to agree on its StreamID.
                let engine = engine.filter(|engine| engine.stream() == description.stream);
                if engine.is_none() {
                    log::error!("no DMA engine with {:?} at {:#x}", description.stream, description.window.start);
                }
                Some(EngineUnit { description: description.clone(), engine: engine? })
            })
            .collect::<Vec<_>>();
        let devices: &'static Self = Box::leak(Box::new(Self { smmus, engines }));
        DEVICES.store(ptr::from_ref(devices).cast_mut(), Relaxed);
        for queue in [OutputQueue::Events, OutputQueue::PageRequests] {
            let drain = move |masked: &Masked| devices.smmus.iter().for_each(|unit| unit.drain(masked, queue));
            kernel.interrupts.connect_private(drain_again(queue) as u32, Box::new(drain))?;
        }
        let mut service = Service::default();
        for unit in &devices.smmus {
            unit.connect(kernel, cpu, &mut service)?;
            log::info!("SMMU {:#x}: interrupts {}", unit.phandle.0, unit.interrupts());
            kernel
                .add_work(cpu, Arc::new(Upkeep { kernel, unit, engines: &devices.engines }))
                .map_err(|_| DeviceError::TooMuchWork)?;
        }
        for unit in &devices.engines {
            kernel.interrupts.connect(unit.description.interrupt, Box::new(|_| unit.engine.job_ended()))?;
        }
        // What was recorded before the interrupts were connected.
        send(Sgi::DrainEvents, DRAINER);
        send(Sgi::DrainPageRequests, DRAINER);
        Ok(devices)
    }

    /// What tables need that any of the SMMUs walks.
    pub fn coherence(&self) -> Coherence {
        let mut each = self.smmus.iter().map(|unit| unit.smmu.coherence());
        each.find(|coherence| !coherence.is_coherent()).unwrap_or(Coherence::COHERENT)
    }

    /// The SMMU in front of `engine`.
    pub fn smmu_of(&self, engine: &EngineUnit) -> Option<&Unit> {
        self.smmus.iter().find(|unit| unit.phandle == engine.description.smmu)
    }
}

/// What has the drainer come for `queue` without an interrupt of the SMMU.
pub(super) const fn drain_again(queue: OutputQueue) -> Sgi {
    match queue {
        OutputQueue::Events => Sgi::DrainEvents,
        OutputQueue::PageRequests => Sgi::DrainPageRequests,
    }
}

fn bring_up_smmu(
    kernel: &'static Kernel,
    cpu: &mut Cpu,
    description: &board::Smmu,
    options: Options,
) -> Result<Unit, DeviceError> {
    let at = description.window.start;
    let registers = kernel.board.registers(&description.window).ok_or(DeviceError::NotMapped(at))?;
    let registers = SmmuRegisters::new(registers).map_err(|error| DeviceError::Window(at, error))?;
    let events = Arc::new(EventLog::new(description.phandle));
    let hooks = Hooks { wake: Arc::new(WakeDrainer), events: events.clone() };
    let memory = kernel.device_memory.clone();
    let smmu = Smmu::probe(cpu, registers, memory, kernel.domain.clone(), Timer, hooks, options)
        .map_err(|error| DeviceError::Smmu(at, error))?;
    smmu.faults().set_clock(timer::ticks);
    log::info!("SMMU at {at:#x}: {}", smmu.features());
    let [by_message, recover, unreachable] = [false; 3].map(AtomicBool::new);
    let (phandle, description, looked_after) = (description.phandle, description.clone(), AtomicU64::new(0));
    let pace = &kernel.pace;
    Ok(Unit { phandle, smmu, events, description, by_message, recover, unreachable, looked_after, pace })
}

impl Unit {
    /// Whether its interrupts are messages, and not wires.
    pub fn is_by_message(&self) -> bool {
        self.by_message.load(Relaxed)
    }

    /// How its interrupts come, in words.
    fn interrupts(&self) -> &'static str {
        match self.description.wires {
            _ if self.is_by_message() => "by message",
            Some(Wires::Separate { .. }) => "by wires",
            Some(Wires::Combined(_)) => "by one wire",
            None => "do not come",
        }
    }

    /// What the queue's interrupt does: one batch, when there is time for it.
    pub fn drain(&self, masked: &Masked, queue: OutputQueue) {
        self.pace.run(masked, queue, || match queue {
            OutputQueue::Events => self.smmu.drain_events(masked),
            OutputQueue::PageRequests => self.smmu.drain_page_requests(masked),
        });
    }

    /// What the global error interrupt does.
    fn look_at_errors(&self, masked: &Masked) {
        self.global_error(self.smmu.handle_global_error(masked));
    }

    fn global_error(&self, errors: GlobalErrors) {
        if errors == GlobalErrors::default() {
            return;
        }
        self.events.global_errors.fetch_add(1, Relaxed);
        if errors.recover {
            self.recover.store(true, Relaxed);
        }
        if errors.unreachable {
            self.unreachable.store(true, Relaxed);
        }
    }
}

/// What an SMMU needs from time to time: groups whose time is over answered, and recovery from lost records.
struct Upkeep {
    kernel: &'static Kernel,
    unit: &'static Unit,
    engines: &'static [EngineUnit],
}

impl Upkeep {
    /// Has the faults of what lost records served again. Returns whether that is done.
    fn recover(&self, cpu: &mut Cpu) -> bool {
        let Self { unit, engines, .. } = self;
        let lost = match unit.smmu.recover(cpu) {
            Ok(lost) => lost,
            Err(DriverError::GivenUp) => return true,
            Err(error) => {
                log::error!("SMMU {:#x}: recovery: {error}; it is tried again", unit.phandle.0);
                return false;
            }
        };
        log::error!("SMMU {:#x}: {lost}", unit.phandle.0);
        let mut done = true;
        for &stream in &lost.streams {
            let is_its =
                |engine: &&EngineUnit| engine.description.smmu == unit.phandle && engine.engine.stream() == stream;
            let Some(engine) = engines.iter().find(is_its) else { continue };
            match unit.smmu.reopen_faults(cpu, stream, &engine.engine) {
                // Who has the stream has ended it meanwhile, or can do nothing else.
                Ok(()) | Err(DriverError::NotAttached(_) | DriverError::FaultsNotEnabled(_) | DriverError::GivenUp) => {
                }
                Err(error) => {
                    log::error!("{stream:?} is not served: {error}; it is tried again");
                    done = false;
                }
            }
        }
        done
    }
}

impl Work for Upkeep {
    fn work(&self, cpu: &mut Cpu) -> bool {
        let Self { kernel, unit, .. } = self;
        // Milliseconds are the fault core's unit for this; one core a millisecond is enough.
        let now = timer::now();
        if unit.looked_after.fetch_max(now.as_millis() as u64, Relaxed) >= now.as_millis() as u64 {
            return false;
        }
        let driver::Upkeep { timed_out, errors } = unit.smmu.expire(cpu, now.as_micros() as u64);
        // What waits for its recovery is told again.
        unit.global_error(match unit.recover.load(Relaxed) {
            true => GlobalErrors { event_queue_abort: false, recover: false, ..errors },
            false => errors,
        });
        if unit.unreachable.swap(false, Relaxed) && !unit.go_back_to_wires(kernel, cpu) {
            unit.unreachable.store(true, Relaxed);
        }
        if !unit.recover.swap(false, Relaxed) {
            return timed_out > 0;
        }
        if !self.recover(cpu) {
            unit.recover.store(true, Relaxed);
        }
        true
    }

    fn is_waiting(&self, _: &Masked) -> bool {
        self.unit.recover.load(Relaxed) || self.unit.unreachable.load(Relaxed)
    }

    fn look_again(&self) -> Option<Duration> {
        let served = self.unit.smmu.faults().open_streams().next().is_some();
        Some(if served { LOOK_AGAIN } else { LOOK_FOR_REPORTS })
    }
}

struct WakeDrainer;

impl Wake for WakeDrainer {
    fn wake(&self, _: &Masked, queue: OutputQueue) {
        send(drain_again(queue), DRAINER);
    }
}

/// The events of one SMMU that were nobody's page fault: the first 64 until somebody takes them, and counts. Its reports are printed.
#[derive(Debug)]
pub struct EventLog {
    /// The SMMU's name in the device tree.
    phandle: Phandle,
    kept: IrqLock<Deque<Event, EVENTS>>,
    seen: AtomicU64,
    undecodable: AtomicU64,
    global_errors: AtomicU64,
}

impl EventLog {
    fn new(phandle: Phandle) -> Self {
        let kept = IrqLock::new(Deque::new());
        let [seen, undecodable, global_errors] = [0; 3].map(AtomicU64::new);
        Self { phandle, kept, seen, undecodable, global_errors }
    }

    /// Takes the events that were kept, oldest first.
    pub fn take(&self, cpu: &Cpu) -> Vec<Event> {
        core::iter::from_fn(|| cpu.masked(|masked| self.kept.lock(masked).pop_front())).collect()
    }

    /// How many events there were, kept or not.
    pub fn seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    /// How many records made no sense.
    pub fn undecodable(&self) -> u64 {
        self.undecodable.load(Relaxed)
    }

    /// How many global errors there were.
    pub fn global_errors(&self) -> u64 {
        self.global_errors.load(Relaxed)
    }
}

impl EventSink for EventLog {
    fn event(&self, masked: &Masked, event: &Event) {
        self.seen.fetch_add(1, Relaxed);
        // A full log keeps what came first, which is nearer to the cause; the count tells of the rest.
        let _ = self.kept.lock(masked).push_back(*event);
    }

    fn undecodable(&self, _: &Masked, _: [u64; 4], _: EventError) {
        self.undecodable.fetch_add(1, Relaxed);
    }

    fn report(&self, _: &Masked, report: &Report<'_>) {
        log::warn!("SMMU {:#x}: {report}", self.phandle.0);
    }
}
