//! Cores that are switched off and on again, by PSCI (DEN 0022).
//!
//! A core is asked to leave, and goes by itself where it has no work in its hands, which is the head of its loop. With interrupts
//! masked for good it goes offline for grace periods, puts the groups in its lists behind those of the first core, turns its
//! alarm and its interface to the interrupt controller off, and calls CPU_OFF. When it comes back it begins as it did at boot.
//!
//! The first core stays: every shared interrupt is routed to it, it drains the queues, and it leads the kernel. Interrupts that
//! software sends to a core that is off stay pending in its redistributor until it is back; each of them has that core look for
//! something, and it looks then anyway. A message that the ITS makes an LPI of one core waits in the same way: whoever wants it
//! served meanwhile connects it to the first core.

use core::sync::atomic::{
    AtomicI64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use core::time::Duration;

use smccc::psci::{self, AffinityState, LowestAffinityLevel};
use smccc::{Hvc, Smc};

use super::interrupts::{ConnectError, Sgi, send};
use super::runtime::Kernel;
use crate::arch;
use crate::arch::entry::other_cores_entry;
use crate::arch::timer::Alarm;
use crate::platform::board::{Mpidr, PsciMethod};
use crate::sync::{CoreId, CoreSet, Cpu, MAX_CORES};

/// How long a core may take to leave or to come. It finishes what it is at before it leaves.
const LIMIT: Duration = Duration::from_secs(20);

/// Why a core was not switched off or on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PowerError {
    /// The board has no such core.
    #[error("there is no {0}")]
    NoCore(CoreId),
    /// The first core stays.
    #[error("{0} takes the shared interrupts and stays")]
    Stays(CoreId),
    /// The core is off, or somebody else has asked it to leave.
    #[error("{0} is not on, or about to leave")]
    NotOn(CoreId),
    /// PSCI refused.
    #[error("{core}: PSCI {call}: {error}")]
    Psci {
        /// The core that was to leave or to come.
        core: CoreId,
        /// The function that was called.
        call: &'static str,
        /// What it answered.
        error: psci::Error,
    },
    /// The core did not leave, or did not come. One that has not left by then stays.
    #[error("{core}: {after} {waited_us} us ago, and it is not done")]
    Late {
        /// The core.
        core: CoreId,
        /// What was done.
        after: &'static str,
        /// How long ago, in microseconds.
        waited_us: u32,
    },
}

// States of a core. Below 0, it is on, and that is what PSCI said last when it was to leave.
const OFF: i64 = 0;
const ON: i64 = 1;
const ASKED: i64 = 2;

/// Which cores run the kernel.
#[derive(Debug)]
pub(super) struct Power([AtomicI64; MAX_CORES]);

impl Power {
    /// The first core is on.
    pub(super) const fn new() -> Self {
        let mut states = [const { AtomicI64::new(OFF) }; MAX_CORES];
        states[CoreId::FIRST.index()] = AtomicI64::new(ON);
        Self(states)
    }

    fn of(&self, core: CoreId) -> &AtomicI64 {
        // A CoreId is below MAX_CORES by construction.
        &self.0[core.index()]
    }
}

impl Kernel {
    /// The cores that run the kernel now.
    pub fn online(&self) -> CoreSet {
        let mut set = CoreSet::EMPTY;
        CoreId::all().filter(|&core| self.power.of(core).load(Relaxed) != OFF).for_each(|core| set.insert(core));
        set
    }

    /// Has `core`, another one, finish what it is at and switch itself off, and works until it is off.
    ///
    /// # Errors
    ///
    /// [`PowerError`], and the core stays; after [`Late`](PowerError::Late) it may be found off all the same.
    pub fn switch_off(&self, cpu: &mut Cpu, core: CoreId) -> Result<(), PowerError> {
        let mpidr = self.mpidr(core)?;
        if core == CoreId::FIRST {
            return Err(PowerError::Stays(core));
        }
        let state = self.power.of(core);
        let ask = |state| (state == ON || state < 0).then_some(ASKED);
        state.fetch_update(Relaxed, Relaxed, ask).map_err(|_| PowerError::NotOn(core))?;
        // Ends its sleep, if it is in one.
        send(Sgi::Wake, core);
        let look = || match state.load(Acquire) {
            OFF if affinity_info(self.board.psci, mpidr) == Ok(AffinityState::Off) => Ok(None),
            refusal @ ..0 => Ok(Some(refusal.into())),
            _ => Err(()),
        };
        match self.wait_until(cpu, LIMIT, look) {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(PowerError::Psci { core, call: "CPU_OFF", error }),
            Err(expired) => {
                // If it has not begun to leave.
                let _ = state.compare_exchange(ASKED, ON, Relaxed, Relaxed);
                Err(PowerError::Late { core, after: "asked to leave", waited_us: expired.waited_us })
            }
        }
    }

    /// Switches `core` on, and works until it runs the kernel.
    ///
    /// # Errors
    ///
    /// [`PowerError`]: [`Psci`](PowerError::Psci) also if it is on.
    pub fn switch_on(&self, cpu: &mut Cpu, core: CoreId) -> Result<(), PowerError> {
        let mpidr = self.mpidr(core)?;
        cpu_on(self.board.psci, mpidr, core).map_err(|error| PowerError::Psci { core, call: "CPU_ON", error })?;
        let state = self.power.of(core);
        let look = || if state.load(Acquire) == OFF { Err(()) } else { Ok(()) };
        self.wait_until(cpu, LIMIT, look).map_err(|expired| PowerError::Late {
            core,
            after: "PSCI CPU_ON",
            waited_us: expired.waited_us,
        })
    }

    fn mpidr(&self, core: CoreId) -> Result<Mpidr, PowerError> {
        self.board.cores.get(core.index()).copied().ok_or(PowerError::NoCore(core))
    }

    /// This core takes part from now on.
    pub(super) fn come(&self, cpu: &mut Cpu) -> Result<(), ConnectError> {
        self.interrupts.start_core(cpu.core(), self.board.timer)?;
        self.domain.online(cpu);
        arch::unmask();
        Ok(())
    }

    /// Tells who waits for it that this core is there.
    pub(super) fn announce(&self, core: CoreId) {
        self.power.of(core).store(ON, Release);
    }

    /// Whether `core` was asked to leave, and has not begun to. To be looked at masked before a sleep too: the interrupt that comes with
    /// the request may have come before that.
    pub(super) fn is_to_leave(&self, core: CoreId) -> bool {
        self.power.of(core).load(Relaxed) == ASKED
    }

    /// Leaves if this core was asked to, and returns only if it was not, or if PSCI refused. To be called without work in hand.
    pub(super) fn leave_if_asked(&self, cpu: &mut Cpu) -> Result<(), ConnectError> {
        if !self.is_to_leave(cpu.core()) {
            return Ok(());
        }
        let state = self.power.of(cpu.core());
        arch::mask();
        // Release: what this core has done comes before what is done by who finds it off.
        if state.compare_exchange(ASKED, OFF, AcqRel, Relaxed).is_err() {
            arch::unmask();
            return Ok(());
        }
        self.domain.offline(cpu);
        cpu.masked(|masked| {
            self.work_queues.hand_over(masked, CoreId::FIRST);
            Alarm::clear(masked);
            self.interrupts.stop_core(masked);
        });
        // Success does not return.
        let refusal = cpu_off(self.board.psci).err().unwrap_or(psci::Error::InternalFailure);
        self.come(cpu)?;
        state.store(refusal.into(), Release);
        Ok(())
    }
}

fn cpu_on(method: PsciMethod, mpidr: Mpidr, core: CoreId) -> Result<(), psci::Error> {
    let (entry, index) = (other_cores_entry(), core.index() as u64);
    match method {
        PsciMethod::Hvc => psci::cpu_on::<Hvc>(mpidr.0, entry, index),
        PsciMethod::Smc => psci::cpu_on::<Smc>(mpidr.0, entry, index),
    }
}

fn cpu_off(method: PsciMethod) -> Result<(), psci::Error> {
    match method {
        PsciMethod::Hvc => psci::cpu_off::<Hvc>(),
        PsciMethod::Smc => psci::cpu_off::<Smc>(),
    }
}

fn affinity_info(method: PsciMethod, mpidr: Mpidr) -> Result<AffinityState, psci::Error> {
    match method {
        PsciMethod::Hvc => psci::affinity_info::<Hvc>(mpidr.0, LowestAffinityLevel::All),
        PsciMethod::Smc => psci::affinity_info::<Smc>(mpidr.0, LowestAffinityLevel::All),
    }
}
