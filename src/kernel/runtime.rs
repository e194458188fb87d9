//! What the kernel has while it runs, and what its cores do when nothing is asked of them.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use core::time::Duration;

use aarch64_cpu::asm::wfi;
use embedded_hal::delay::DelayNs;
use spin::Once;

use super::devices::DRAINER;
use super::interrupts::{Interrupts, Sgi, send};
use super::pace::Pace;
use super::power::Power;
use crate::arch::heap::Heap;
use crate::arch::timer::{self, Alarm};
use crate::iopf::WorkQueues;
use crate::platform::boot::MappedBoard;
use crate::platform::device_memory::DeviceMemory;
use crate::sva::frames::FramePool;
use crate::sync::grace::Domain;
use crate::sync::lock::IrqLock;
use crate::sync::wait::{self, Expired};
use crate::sync::{Cpu, Masked};

/// A core that holds a grace period up for so long, in microseconds, is named in the log. No masked section is meant to
/// take a thousandth of that.
const STUCK_US: u64 = 1_000_000;

/// The most kinds of work that cores look after.
const WORKERS: usize = 16;

/// Something that cores do when they have time.
pub trait Work: Send + Sync {
    /// Does what there is to do, and returns whether that was anything.
    fn work(&self, cpu: &mut Cpu) -> bool;

    /// Whether there is something to do.
    fn is_waiting(&self, masked: &Masked) -> bool;

    /// How long a core may sleep before it looks here again, for what comes with time and not by an interrupt. `None`: for good.
    fn look_again(&self) -> Option<Duration> {
        None
    }
}

/// The kernel: one, from the end of boot until the machine stops.
pub struct Kernel {
    /// The machine.
    pub board: MappedBoard,
    /// The arguments of the command line.
    pub arguments: Vec<String>,
    /// The cores and the objects they share under grace periods.
    pub domain: Arc<Domain>,
    /// Memory for what SMMUs and devices reach.
    pub device_memory: Arc<DeviceMemory>,
    /// Interrupts and their handlers.
    pub interrupts: Interrupts,
    /// The heap.
    pub heap: &'static Heap,
    /// Groups that wait for a core with time.
    pub work_queues: Arc<WorkQueues>,
    pub(super) cores: AtomicUsize,
    pub(super) power: Power,
    pub(super) workers: IrqLock<heapless::Vec<Arc<dyn Work>, WORKERS>>,
    pub(super) pace: Pace,
}

static KERNEL: Once<Kernel> = Once::new();

impl Kernel {
    /// The kernel, or `None` before it has booted.
    pub fn get() -> Option<&'static Self> {
        KERNEL.get()
    }

    pub(super) fn start(self) -> &'static Self {
        KERNEL.call_once(|| self)
    }

    /// How many cores the kernel has: those below this number, whether they are [on](Self::online) or not.
    pub fn cores(&self) -> usize {
        self.cores.load(Relaxed)
    }

    /// From now on, cores with time do `work` too.
    ///
    /// # Errors
    ///
    /// `work`, if there are too many kinds of work.
    pub fn add_work(&self, cpu: &Cpu, work: Arc<dyn Work>) -> Result<(), Arc<dyn Work>> {
        cpu.masked(|masked| self.workers.lock(masked).push(work))
    }

    /// No core begins `work` from now on. One that is at it holds it until it is done.
    pub fn remove_work(&self, cpu: &Cpu, work: &Arc<dyn Work>) {
        // Dropped outside of the masked section.
        let _removed = cpu.masked(|masked| {
            let mut workers = self.workers.lock(masked);
            let index = workers.iter().position(|other| Arc::ptr_eq(other, work))?;
            Some(workers.swap_remove(index))
        });
    }

    /// Does what there is to do, and is quiescent once. Returns whether anything was done.
    pub fn work(&self, cpu: &mut Cpu) -> bool {
        self.domain.poll(cpu);
        if let Some(stuck) = self.domain.stuck(cpu, timer::now().as_micros() as u64, STUCK_US) {
            log::error!("{stuck}");
        }
        // One turn of groups first, for which devices wait. The rest comes in every round all the same: a flood of groups keeps
        // each core busy, and their time-outs, and the frames that they want zeroed, are in the rest.
        let served = match cpu.core() {
            // A storm of interrupts may keep it from what it took.
            DRAINER if self.online().iter().any(|core| core != DRAINER) => self.work_queues.work_one(cpu),
            _ => self.work_queues.work(cpu),
        } > 0;
        let workers = cpu.masked(|masked| self.workers.lock(masked).clone());
        workers.iter().fold(served, |worked, work| worked | work.work(cpu))
    }

    /// Sleeps until an interrupt comes or some work is to be looked at again, unless there is something to do.
    pub fn idle(&self, cpu: &mut Cpu) {
        self.idle_for(cpu, None);
    }

    /// As [`Kernel::idle`], for `most` at most.
    fn idle_for(&self, cpu: &mut Cpu, most: Option<Duration>) {
        let has_work = |masked: &Masked| {
            if masked.core() == DRAINER {
                self.pace.forgive(masked);
            }
            let workers = self.workers.lock(masked);
            // Set with interrupts masked, so that the alarm is still to come, or pending, when the core goes to sleep.
            let again = workers.iter().filter_map(|work| work.look_again()).chain(most).min();
            again.into_iter().for_each(|after| Alarm::set(masked, after));
            let has_groups = self.work_queues.begin_rest(masked);
            has_groups || self.is_to_leave(masked.core()) || workers.iter().any(|work| work.is_waiting(masked))
        };
        self.domain.idle(cpu, has_work, wfi);
        cpu.masked(|masked| self.work_queues.end_rest(masked));
    }

    /// Works and sleeps until `look` is content (`Ok`), for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`Expired`] with what `look` saw last.
    pub fn wait_until<T, S>(
        &self,
        cpu: &mut Cpu,
        limit: Duration,
        mut look: impl FnMut() -> Result<T, S>,
    ) -> Result<T, Expired<S>> {
        let start = timer::now();
        // A sleep ends with any interrupt, so what counts is the clock, not the number of sleeps.
        let outcome = wait::until(&mut Rest { kernel: self, cpu }, u32::MAX, || match look() {
            Ok(value) => Ok(Ok(value)),
            Err(last) if timer::now() - start >= limit => Ok(Err(last)),
            Err(last) => Err(last),
        });
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(last)) | Err(Expired { last, .. }) => {
                Err(Expired { last, waited_us: (timer::now() - start).as_micros() as u32 })
            }
        }
    }

    /// Wakes every core but this one to look for work.
    pub fn wake_others(&self, masked: &Masked) {
        self.online().iter().filter(|&core| core != masked.core()).for_each(|core| send(Sgi::Wake, core));
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("board", &self.board).field("arguments", &self.arguments).finish_non_exhaustive()
    }
}

/// A delay that is used: for work if there is any, else for sleep until an interrupt, a millisecond at most.
struct Rest<'a> {
    kernel: &'a Kernel,
    cpu: &'a mut Cpu,
}

impl DelayNs for Rest<'_> {
    fn delay_ns(&mut self, _: u32) {
        if self.kernel.work(self.cpu) {
            return;
        }
        self.kernel.idle_for(self.cpu, Some(Duration::from_millis(1)));
    }
}

impl Work for FramePool {
    fn work(&self, _: &mut Cpu) -> bool {
        // A few at a time, so that more urgent work does not wait long.
        self.zero_some(8) > 0
    }

    fn is_waiting(&self, _: &Masked) -> bool {
        self.is_dirty()
    }
}
