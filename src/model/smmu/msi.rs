//! Interrupts: wires and messages (3.18).

use super::Smmu;
use super::registers::{gerror, irq_ctrl};
use crate::model::memory::Memory;
use crate::model::wire::{Wire, Wires};
use crate::smmuv3::PhysAddr;
use crate::smmuv3::registers::Register;

/// SH and MemAttr of `*_IRQ_CFG2`. They are kept and have no effect: all memory here is coherent.
pub(super) const ATTRIBUTES: u32 = 0x3f;

/// What `*_IRQ_CFG0` to `*_IRQ_CFG2` hold of one source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Msi {
    /// Where the message goes; 0: there is none.
    pub(super) address: u64,
    pub(super) data: u32,
    /// `*_IRQ_CFG2`: of the PRI queue with LO.
    pub(super) attributes: u32,
}

impl Msi {
    pub(super) const fn new() -> Self {
        Self { address: 0, data: 0, attributes: 0 }
    }

    /// Writes the one of the source's registers that `register` is; an address has only bits that exist.
    pub(super) fn set(&mut self, register: Register, value: u64) {
        match register {
            Register::GerrorIrqCfg0 | Register::EventqIrqCfg0 | Register::PriqIrqCfg0 => self.address = value & !3,
            Register::GerrorIrqCfg1 | Register::EventqIrqCfg1 | Register::PriqIrqCfg1 => self.data = value as u32,
            _ => self.attributes = value as u32 & ATTRIBUTES,
        }
    }
}

/// A source of interrupts that IRQ_CTRL enables (3.18.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    EventQueue,
    PriQueue,
    GlobalError,
}

impl Smmu {
    /// The source's interrupt, if it is enabled: an edge on its wire, and its message if it has an address (3.18.2).
    pub(super) fn interrupt(&mut self, source: Source, memory: &impl Memory, wires: &mut impl Wires) {
        let registers = &self.registers;
        let (enable, wire, msi) = match source {
            Source::EventQueue => (irq_ctrl::EVENTQ, Wire::EventQueue, registers.event_msi),
            Source::PriQueue => (irq_ctrl::PRIQ, Wire::PriQueue, registers.page_request_msi),
            Source::GlobalError => (irq_ctrl::GERROR, Wire::GlobalError, registers.gerror_msi),
        };
        if registers.interrupt_enabled(enable) {
            let message = (msi.address != 0).then_some((PhysAddr(msi.address), msi.data));
            self.send(wire, message, memory, wires);
        }
    }

    /// Activates a global error, with its interrupt (7.5.1).
    pub(super) fn global_error(&mut self, error: u32, memory: &impl Memory, wires: &mut impl Wires) {
        // A message that told of an aborted message would be aborted too.
        if self.registers.activate(error) && error != gerror::MSI_GERROR_ABT_ERR {
            self.interrupt(Source::GlobalError, memory, wires);
        }
    }
}
