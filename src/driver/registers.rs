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

    /// As [`read32`](Self::read32), for a value after which nothing is read that depends on it: memory accesses behind it in program order
    /// may happen before it. It happens after this core's accesses to the same page of registers before it. Where that saves nothing, this
    /// stays as it is.
    fn read32_relaxed(&self, register: Register) -> u32 {
        self.read32(register)
    }

    /// As [`write32`](Self::write32), without a barrier of its own: it happens after what this core's last `write32` is after, not after
    /// that write itself, and after what other cores' accesses this core has seen by an acquire. Its other accesses since then may happen
    /// later. Where that saves nothing, this stays as it is.
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
