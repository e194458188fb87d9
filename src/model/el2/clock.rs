//! The machine's clock: a core that does nothing but step the machine, and sleeps when there is nothing to do.
//!
//! A core that polls costs the host a core. So after a while of idleness this one waits in WFI, until another core that
//! wrote to a register of the machine sends it an SGI. Its redistributor and CPU interface are its own, since EL1 does
//! not know of it, but the distributor is EL1's: while interrupts are off there, the clock polls on. Should EL1 switch
//! them off under a sleeping clock, whoever accesses a register steps the machine.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};

use aarch64_cpu::asm;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use spin::RelaxStrategy;

use super::firmware::{Pause, Shared};
use super::gic;

/// How often the clock lets other cores go first before it takes its turn.
const COURTESY: u32 = 1000;

/// How long the machine must be idle before its clock sleeps, as a fraction of a second.
const IDLE_FRACTION: u64 = 1000;

/// How the clock learns of work.
#[derive(Debug)]
pub(super) struct Doorbell {
    work: AtomicBool,
    asleep: AtomicBool,
}

impl Doorbell {
    pub(super) const fn new() -> Self {
        Self { work: AtomicBool::new(false), asleep: AtomicBool::new(false) }
    }

    /// Tells the clock, which is the core of affinity `mpidr`, that a register was written.
    pub(super) fn ring(&self, mpidr: u64) {
        self.work.store(true, Relaxed);
        // Pairs with the fence in `sleep`: this core sees the clock asleep, or the clock sees the work.
        fence(SeqCst);
        if self.asleep.load(Relaxed) {
            gic::wake(mpidr);
        }
    }

    /// Whether the clock sleeps although there is work.
    pub(super) fn is_late(&self) -> bool {
        self.asleep.load(Relaxed) && self.work.load(Relaxed)
    }

    /// Waits for the next [`ring`](Doorbell::ring), if there is no work yet.
    ///
    /// # Safety
    ///
    /// This core [listens](gic::listen).
    unsafe fn sleep(&self) {
        self.asleep.store(true, Relaxed);
        fence(SeqCst);
        if !self.work.load(Relaxed) {
            asm::wfi();
        }
        self.asleep.store(false, Relaxed);
        // SAFETY: by the caller.
        unsafe { gic::acknowledge() };
    }
}

/// Drives the machine for ever.
///
/// # Safety
///
/// This core [listens](gic::listen).
pub(super) unsafe fn run(shared: &Shared) -> ! {
    let patience = CNTFRQ_EL0.get() / IDLE_FRACTION;
    let mut idle_since = CNTPCT_EL0.get();
    loop {
        for _ in 0..COURTESY {
            if !shared.is_wanted() {
                break;
            }
            Pause::relax();
        }
        // A register written before this is seen by the step, since both hold the lock; one written later is work.
        shared.doorbell.work.store(false, Relaxed);
        if shared.step() {
            idle_since = CNTPCT_EL0.get();
            continue;
        }
        Pause::relax();
        if CNTPCT_EL0.get() - idle_since > patience {
            if shared.distributor.is_enabled() {
                // SAFETY: by the caller.
                unsafe { shared.doorbell.sleep() };
            }
            idle_since = CNTPCT_EL0.get();
        }
    }
}
