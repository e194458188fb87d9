//! What every part of the driver shares: the registers, and waiting for them.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use super::Delay;
use super::dma::Coherence;
use super::error::Timeout;
use super::hooks::EventSink;
use super::registers::Registers;
use super::report::Reports;
use crate::smmuv3::registers::Register;
use crate::sync::grace::Domain;
use crate::sync::lock::IrqLock;
use crate::sync::wait::{self, Expired};
use crate::sync::{Cpu, Masked};

/// One SMMU's registers, and the means to wait for them.
pub(super) struct Hardware<R, D> {
    pub(super) registers: R,
    delay: D,
    pub(super) domain: Arc<Domain>,
    /// How what it reads and writes is kept the same for it and the cores.
    pub(super) coherence: Coherence,
    /// The longest wait for the SMMU, in microseconds.
    pub(super) limit_us: u32,
    /// Relaxed: it only ends waits that would be in vain.
    given_up: AtomicBool,
    pub(super) reports: Reports,
    /// Held while GERRORN is read, changed and written: one error is acknowledged once.
    acknowledging: IrqLock<()>,
}

impl<R: Registers, D: Delay> Hardware<R, D> {
    /// An SMMU that is taken for coherent until its ID registers were read.
    pub(super) fn new(registers: R, delay: D, domain: Arc<Domain>, limit_us: u32, sink: Arc<dyn EventSink>) -> Self {
        Self {
            registers,
            delay,
            domain,
            coherence: Coherence::COHERENT,
            limit_us,
            given_up: AtomicBool::new(false),
            reports: Reports::new(sink),
            acknowledging: IrqLock::new(()),
        }
    }

    /// No command is put into the queue, nor waited for, from now on.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self, register: Register) -> u32 {
        self.registers.read32(register)
    }

    pub(super) fn write(&self, register: Register, value: u32) {
        self.registers.write32(register, value);
    }

    /// The delay, for a wait.
    pub(super) fn delay(&self) -> D {
        self.delay.clone()
    }

    /// Waits at thread level until `look` is content, and lets grace periods pass meanwhile.
    pub(super) fn wait<T, S>(
        &self,
        cpu: &mut Cpu,
        limit_us: u32,
        mut look: impl FnMut(&Cpu) -> Result<T, S>,
    ) -> Result<T, Expired<S>> {
        wait::until(&mut self.delay(), limit_us, || {
            self.domain.poll(cpu);
            look(cpu)
        })
    }

    /// Waits until the bits of `mask` in `register` are `expected`.
    pub(super) fn poll(&self, cpu: &mut Cpu, register: Register, mask: u32, expected: u32) -> Result<(), Timeout> {
        let look = |_: &Cpu| match self.read(register) {
            value if value & mask == expected => Ok(()),
            value => Err(value),
        };
        self.wait(cpu, self.limit_us, look).map_err(|Expired { last, waited_us }| Timeout {
            register,
            expected,
            actual: last,
            waited_us,
        })
    }

    /// The global errors that are active: where GERROR and GERRORN differ (7.5).
    pub(super) fn active_errors(&self) -> u32 {
        self.read(Register::Gerror) ^ self.read(Register::Gerrorn)
    }

    /// Acknowledges those of `errors` that are active, after `before` dealt with them; `before` gets the active ones and
    /// is not called when there are none. One core at a time.
    pub(super) fn acknowledge(&self, masked: &Masked, errors: u32, before: impl FnOnce(u32)) -> u32 {
        let _acknowledging = self.acknowledging.lock(masked);
        let acknowledged = self.read(Register::Gerrorn);
        let active = (self.read(Register::Gerror) ^ acknowledged) & errors;
        if active != 0 {
            before(active);
            self.write(Register::Gerrorn, acknowledged ^ active);
        }
        active
    }
}
