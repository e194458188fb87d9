//! How the SMMU's interrupts travel: by its wires, or as messages (3.18).

use core::sync::atomic::Ordering;

use super::dma::within;
use super::error::{DriverError, Timeout};
use super::hardware::Hardware;
use super::hooks::OutputQueue;
use super::registers::Registers;
use super::{Delay, Smmu};
use crate::smmuv3::command::Msi;
use crate::smmuv3::features::Features;
use crate::smmuv3::registers::Register;
use crate::smmuv3::registers::fields::{IRQ_CFG2, IRQ_CTRL};
use crate::sync::Cpu;

/// The messages that tell of what the SMMU's interrupts tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages {
    /// The event queue became non-empty.
    pub events: Msi,
    /// The PRI queue became non-empty. Unused without PRI.
    pub page_requests: Msi,
    /// A global error became active.
    pub global_errors: Msi,
}

/// After this many messages that were aborted, [`GlobalErrors::unreachable`](super::GlobalErrors::unreachable) is told.
pub const ABORTED_MESSAGES: u32 = 3;

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Has the SMMU send its interrupts as `messages`, or, with `None`, pulse its wires alone, as [`Smmu::probe`] leaves it. With
    /// messages it pulses the wires too, where it has any: their interrupts stay off at the interrupt controller then.
    ///
    /// What handles the interrupts must be there already. All are off for a moment, and what happens then raises none (6.3.16), so the
    /// drainer of each queue is woken, and [`Smmu::expire`] finds global errors.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoMessages`] from an SMMU without `IDR0.MSI`, [`DriverError::MessageAddress`], [`DriverError::BeyondAddresses`]
    /// (IDR5.OAS), [`DriverError::Busy`], [`DriverError::GivenUp`]. After [`DriverError::Timeout`] of `IRQ_CTRLACK` interrupts may be off, and the call may be repeated.
    pub fn set_messages(&self, cpu: &mut Cpu, messages: Option<&Messages>) -> Result<(), DriverError> {
        let _control = self.control(cpu)?;
        if self.is_given_up() {
            return Err(DriverError::GivenUp);
        }
        if messages.is_some() && !self.features.msi {
            return Err(DriverError::NoMessages);
        }
        if let Some(Messages { events, page_requests, global_errors }) = messages {
            let page_requests = Some(page_requests).filter(|_| self.features.pri);
            for &Msi { address, .. } in [events, global_errors].into_iter().chain(page_requests) {
                if address.0 == 0 || address.0 % 4 != 0 {
                    return Err(DriverError::MessageAddress(address));
                }
                within(self.features.oas, address, size_of::<u32>())?;
            }
        }
        self.hardware.disable_interrupts(cpu)?;
        self.aborted_messages.store(0, Ordering::Relaxed);
        self.hardware.enable_interrupts(cpu, &self.features, messages)?;
        cpu.masked(|masked| {
            self.hooks.wake.wake(masked, OutputQueue::Events);
            self.hooks.wake.wake(masked, OutputQueue::PageRequests);
        });
        Ok(())
    }
}

impl<R: Registers, D: Delay> Hardware<R, D> {
    /// No interrupt comes behind this, and each message under way has arrived, or is a global error (6.3.16).
    fn disable_interrupts(&self, cpu: &mut Cpu) -> Result<(), Timeout> {
        // Where an update of an earlier call was not acknowledged in time, it is before there is another one.
        self.poll(cpu, Register::IrqCtrlAck, u32::MAX, self.read(Register::IrqCtrl))?;
        self.write(Register::IrqCtrl, 0);
        self.poll(cpu, Register::IrqCtrlAck, u32::MAX, 0)
    }

    /// Interrupts on that are off, as messages too if there are some.
    pub(super) fn enable_interrupts(
        &self,
        cpu: &mut Cpu,
        features: &Features,
        messages: Option<&Messages>,
    ) -> Result<(), Timeout> {
        use Register::{
            EventqIrqCfg0, EventqIrqCfg1, EventqIrqCfg2, GerrorIrqCfg0, GerrorIrqCfg1, GerrorIrqCfg2, PriqIrqCfg0,
            PriqIrqCfg1, PriqIrqCfg2,
        };
        let mut enables = IRQ_CTRL::GERROR::SET + IRQ_CTRL::EVENTQ::SET;
        if features.msi {
            let global_errors = messages.map(|messages| &messages.global_errors);
            self.configure([GerrorIrqCfg0, GerrorIrqCfg1, GerrorIrqCfg2], global_errors);
            self.configure([EventqIrqCfg0, EventqIrqCfg1, EventqIrqCfg2], messages.map(|messages| &messages.events));
        }
        if features.pri {
            // LO = 0: when the queue becomes non-empty, since it drains into groups at once.
            self.write(PriqIrqCfg2, 0);
            if features.msi {
                let page_requests = messages.map(|messages| &messages.page_requests);
                self.configure([PriqIrqCfg0, PriqIrqCfg1, PriqIrqCfg2], page_requests);
            }
            enables += IRQ_CTRL::PRIQ::SET;
        }
        self.write(Register::IrqCtrl, enables.value);
        self.poll(cpu, Register::IrqCtrlAck, u32::MAX, enables.value)
    }

    /// Sets what the registers CFG0, CFG1 and CFG2 of one interrupt say of its message (6.3.21 to 6.3.23).
    fn configure(&self, [address, data, attributes]: [Register; 3], message: Option<&Msi>) {
        // With address 0 there is none.
        self.registers.write64(address, message.map_or(0, |message| message.address.0));
        if let Some(message) = message {
            self.write(data, message.data);
            let shareability = IRQ_CFG2::SH.val(message.shareability as u32);
            self.write(attributes, (IRQ_CFG2::MEMATTR.val(message.attributes.into()) + shareability).value);
        }
    }
}
