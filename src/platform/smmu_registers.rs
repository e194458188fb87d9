//! An SMMU's registers on the board.

use crate::arch::mmio::Mmio;
use crate::driver::registers::Registers;
use crate::smmuv3::registers::{self, Register};

/// The window is smaller than an SMMU's two register pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an SMMU's registers take {:#x} bytes, its window has {size:#x}", registers::SIZE)]
pub struct WindowTooSmall {
    /// The size of the window, in bytes.
    pub size: usize,
}

/// An SMMUv3's registers in a window of device memory.
#[derive(Clone, Debug)]
pub struct SmmuRegisters(Mmio<{ registers::SIZE }>);

impl SmmuRegisters {
    /// The SMMU whose page 0 starts at the start of `window`.
    ///
    /// # Errors
    ///
    /// [`WindowTooSmall`] if not every register lies in it.
    pub fn new(window: Mmio) -> Result<Self, WindowTooSmall> {
        window.at_least().map(Self).ok_or(WindowTooSmall { size: window.size() })
    }
}

impl Registers for SmmuRegisters {
    fn read32(&self, register: Register) -> u32 {
        self.0.read32(register.offset())
    }

    fn write32(&self, register: Register, value: u32) {
        self.0.write32(register.offset(), value);
    }

    fn read32_relaxed(&self, register: Register) -> u32 {
        self.0.read32_relaxed(register.offset())
    }

    fn write32_relaxed(&self, register: Register, value: u32) {
        self.0.write32_relaxed(register.offset(), value);
    }

    fn write64(&self, register: Register, value: u64) {
        self.0.write64(register.offset(), value);
    }
}
