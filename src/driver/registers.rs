//! The wire: how the driver reaches an SMMU's registers.

use alloc::sync::Arc;

use crate::smmuv3::registers::Register;

/// Access to one SMMU's registers.
///
/// Implementations order memory and registers as a driver needs: a write happens after every memory access before it in
/// program order (on Arm `DSB`, 3.21.2), and every memory access after a read in program order happens after it.
pub trait Registers: Send + Sync {
    /// Reads 32 bits.
    fn read32(&self, register: Register) -> u32;

    /// Writes 32 bits.
    fn write32(&self, register: Register, value: u32);

    /// As [`read32`](Self::read32), for a value after which nothing is read that depends on it: memory accesses that come after it
    /// in program order may happen before it. Where that saves nothing, this stays as it is.
    fn read32_relaxed(&self, register: Register) -> u32 {
        self.read32(register)
    }

    /// As [`write32`](Self::write32), behind another write to these registers: it happens after that write and what that one is after, and
    /// after what other cores' memory accesses this core has seen since by an acquire. Other accesses of this core between
    /// the two may happen later. Where that saves nothing, this stays as it is.
    fn write32_relaxed(&self, register: Register, value: u32) {
        self.write32(register, value);
    }

    /// Writes 64 bits to one of the registers that [`Register::is_64bit`] names.
    fn write64(&self, register: Register, value: u64);
}

impl<T: Registers + ?Sized> Registers for Arc<T> {
    fn read32(&self, register: Register) -> u32 {
        (**self).read32(register)
    }

    fn write32(&self, register: Register, value: u32) {
        (**self).write32(register, value);
    }

    fn read32_relaxed(&self, register: Register) -> u32 {
        (**self).read32_relaxed(register)
    }

    fn write32_relaxed(&self, register: Register, value: u32) {
        (**self).write32_relaxed(register, value);
    }

    fn write64(&self, register: Register, value: u64) {
        (**self).write64(register, value);
    }
}
