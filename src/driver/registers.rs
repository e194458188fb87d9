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

    fn write64(&self, register: Register, value: u64) {
        (**self).write64(register, value);
    }
}
