//! Memory that the CPU and the SMMU both reach.

use core::sync::atomic::AtomicU64;

use crate::smmuv3::PhysAddr;

/// No memory of the size and alignment asked for is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {bytes} bytes of device memory with alignment {align} left")]
pub struct NoMemory {
    /// The size asked for, in bytes.
    pub bytes: usize,
    /// The alignment asked for, in bytes.
    pub align: usize,
}

/// Gives out memory that is physically contiguous and that an SMMU can read and write coherently.
///
/// What it gives out lives for ever: an SMMU may still read it when the CPU has no more use for it, so giving memory
/// back is a question of the protocol, which pools above this trait settle.
pub trait DmaMemory: Send + Sync {
    /// A region of `bytes` (a multiple of 8), zeroed, aligned to `align` (a power of two, at least 8).
    ///
    /// # Errors
    ///
    /// [`NoMemory`] when none is left.
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory>;
}

/// A piece of memory shared with devices: 64-bit words, each read and written as one.
///
/// Words are atomic because a device may access them at any time. Relaxed accesses are enough: what orders them against
/// the device is the register access between (see [`Registers`](super::registers::Registers)).
#[derive(Clone, Copy, Debug)]
pub struct DmaRegion {
    /// Where devices see it.
    pub phys: PhysAddr,
    /// What the CPU sees.
    pub words: &'static [AtomicU64],
}
