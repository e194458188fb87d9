//! An SMMU's registers on the board.

use crate::arch::mmio::Mmio;
use crate::driver::registers::Registers;
use crate::smmuv3::registers::{self, PAGE1, Register};

/// The window is smaller than an SMMU's two register pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an SMMU's registers take {:#x} bytes, its window has {size:#x}", registers::SIZE)]
pub struct WindowTooSmall {
    /// The size of the window, in bytes.
    pub size: usize,
}

/// An SMMUv3's registers in a window of device memory: page 0 and page 1 (6.1).
#[derive(Clone, Debug)]
pub struct SmmuRegisters([Mmio<PAGE1>; 2]);

impl SmmuRegisters {
    /// The SMMU whose page 0 starts at the start of `window`.
    ///
    /// # Errors
    ///
    /// [`WindowTooSmall`] if not every register lies in it.
    pub fn new(window: Mmio) -> Result<Self, WindowTooSmall> {
        window.pages().map(Self).ok_or(WindowTooSmall { size: window.size() })
    }

    /// The page that `register` is in, and where it is there.
    fn place(&self, register: Register) -> (&Mmio<PAGE1>, usize) {
        let offset = register.offset();
        (&self.0[offset / PAGE1], offset % PAGE1)
    }
}

impl Registers for SmmuRegisters {
    fn read32(&self, register: Register) -> u32 {
        let (page, offset) = self.place(register);
        page.read32(offset)
    }

    fn write32(&self, register: Register, value: u32) {
        let (page, offset) = self.place(register);
        page.write32(offset, value);
    }

    fn read32_relaxed(&self, register: Register) -> u32 {
        let (page, offset) = self.place(register);
        page.read32_relaxed(offset)
    }

    fn write32_relaxed(&self, register: Register, value: u32) {
        let (page, offset) = self.place(register);
        page.write32_relaxed(offset, value);
    }

    fn write64(&self, register: Register, value: u64) {
        let (page, offset) = self.place(register);
        page.write64(offset, value);
    }
}
