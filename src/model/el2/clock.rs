//! The machine's clock: a core that does nothing but step the machine, and sleeps when there is nothing to do.
//!
//! A core that polls costs the host a core. So after a while of idleness this one waits in WFI, until another core that
//! wrote to a register of the machine sends it an SGI. Its redistributor and CPU interface are its own, since EL1 does
//! not know of it, but the distributor is EL1's: while interrupts are off there, the clock polls on.
//!
//! A write to a register makes the machine go a little at once, on the core that writes, and so do reads that find it
//! standing still with work to do. The clock is there for the rest. So nothing depends on the host running this core's
//! thread in time, which costs milliseconds where the host has fewer cores than the board, nor on EL1 leaving
//! interrupts on.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst, fence};

use aarch64_cpu::asm;

use super::firmware::Shared;
use super::gic;
use crate::sync::pause;

/// How often the clock lets other cores go first before it takes its turn.
const COURTESY: u32 = 1000;

/// After how many idle steps in a row the clock sleeps. They are counted and not timed, since QEMU's global lock is
/// taken for a look at the counter, and whoever takes that in a loop starves the other cores.
const PATIENCE: u32 = 500;

/// After how many accesses without a step in between a read makes a busy machine go.
const LATE: u32 = 8;

/// How many steps the machine goes at most for an access. After an answer to a fault, the first one retries and the
/// second one meets the next fault.
const AT_ONCE: u32 = 2;

/// Whether the machine has work, and who sees to it.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Whether there may be something to do.
    busy: AtomicBool,
    /// How many times registers were accessed since the last step.
    accesses: AtomicU32,
    /// Whether the clock sleeps, or is about to.
    asleep: AtomicBool,
}

impl Pulse {
    pub(super) const fn new() -> Self {
        Self { busy: AtomicBool::new(false), accesses: AtomicU32::new(0), asleep: AtomicBool::new(false) }
    }

    /// Notes a step, and whether there is more to do. The machine's lock is held.
    pub(super) fn stepped(&self, busy: bool) {
        self.accesses.store(0, Relaxed);
        self.busy.store(busy, Relaxed);
    }

    /// Notes an access to a register, and says how many steps the machine should go at once. The machine's lock is held.
    pub(super) fn accessed(&self, write: bool) -> u32 {
        let accesses = self.accesses.load(Relaxed).saturating_add(1);
        self.accesses.store(accesses, Relaxed);
        if write {
            self.busy.store(true, Relaxed);
        }
        if write || self.is_busy() && accesses > LATE { AT_ONCE } else { 0 }
    }

    /// Whether there may be something to do.
    fn is_busy(&self) -> bool {
        self.busy.load(Relaxed)
    }

    /// Wakes the clock, the core of affinity `mpidr`, if it sleeps.
    pub(super) fn wake(&self, mpidr: u64) {
        // Pairs with the fence in `sleep`: this core sees the clock asleep, or the clock sees the machine busy.
        fence(SeqCst);
        if self.asleep.load(Relaxed) {
            gic::wake(mpidr);
        }
    }

    /// Waits until it is [woken](Pulse::wake), unless there is work already.
    ///
    /// # Safety
    ///
    /// This core [listens](gic::listen).
    unsafe fn sleep(&self) {
        self.asleep.store(true, Relaxed);
        fence(SeqCst);
        if !self.is_busy() {
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
    let mut idle = 0;
    loop {
        for _ in 0..COURTESY {
            if !shared.is_wanted() {
                break;
            }
            pause();
        }
        // Without work it does not even take the lock: the host might stop its thread while it has it.
        if shared.pulse.is_busy() && shared.step() {
            idle = 0;
            continue;
        }
        pause();
        idle += 1;
        if idle > PATIENCE {
            idle = 0;
            if shared.distributor.is_enabled() {
                // SAFETY: by the caller.
                unsafe { shared.pulse.sleep() };
            }
        }
    }
}
