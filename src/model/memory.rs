//! The memory that the machine reads and writes.

use crate::smmuv3::PhysAddr;

/// The access reached no memory: an external abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort;

/// Physical memory, as the machine's own accesses see it.
///
/// Accesses are coherent with the CPUs. Ordering against them comes from the lock around the machine: everything the
/// machine wrote in one call is visible to whoever calls it next.
pub trait Memory {
    /// Reads the 64-bit word at `address`, a multiple of 8, as one.
    ///
    /// # Errors
    ///
    /// [`Abort`] where there is no memory, or `address` is not aligned.
    fn read64(&self, address: PhysAddr) -> Result<u64, Abort>;

    /// Writes the 64-bit word at `address`, a multiple of 8, as one.
    ///
    /// # Errors
    ///
    /// [`Abort`] where there is no memory, or `address` is not aligned.
    fn write64(&self, address: PhysAddr, value: u64) -> Result<(), Abort>;

    /// Writes the 32-bit word at `address`, a multiple of 4, as one: a message (3.18). Whoever sees it sees all that the
    /// machine wrote before.
    ///
    /// # Errors
    ///
    /// [`Abort`] where there is no memory, or `address` is not aligned.
    fn write32(&self, address: PhysAddr, value: u32) -> Result<(), Abort>;

    /// Writes `new` to the 64-bit word at `address`, a multiple of 8, if it holds `expected`, as one access with the look
    /// at it. Returns what the word held. Whoever sees a later access of the machine sees the new word (3.13).
    ///
    /// # Errors
    ///
    /// [`Abort`] where there is no memory, or `address` is not aligned.
    fn compare_exchange64(&self, address: PhysAddr, expected: u64, new: u64) -> Result<u64, Abort>;

    /// Reads `bytes.len()` bytes from `address` on.
    ///
    /// # Errors
    ///
    /// [`Abort`] where some of it is no memory. What `bytes` holds then is unspecified.
    fn read(&self, address: PhysAddr, bytes: &mut [u8]) -> Result<(), Abort>;

    /// Writes `bytes` from `address` on.
    ///
    /// # Errors
    ///
    /// [`Abort`] where some of it is no memory. Some of it may have been written.
    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), Abort>;
}
