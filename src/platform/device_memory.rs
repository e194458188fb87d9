//! Memory that devices share.

use core::ops::Range;
use core::sync::atomic::AtomicU64;

use crate::arch;
use crate::arch::cache::{self, DataCaches};
use crate::driver::dma::{CacheMaintenance, DmaMemory, DmaRegion, NoMemory};
use crate::smmuv3::PhysAddr;
use crate::sync::lock::IrqLock;

/// RAM for what the SMMUs and their devices reach, given out from one end.
#[derive(Debug)]
pub struct DeviceMemory(IrqLock<Range<u64>>);

impl DeviceMemory {
    /// All of `memory` to give out.
    ///
    /// # Safety
    ///
    /// `memory` is mapped as data, one to one, and used by nobody else, for ever.
    pub(super) const unsafe fn new(memory: Range<u64>) -> Self {
        Self(IrqLock::new(memory))
    }

    /// How many bytes are left.
    pub fn left(&self) -> u64 {
        arch::masked(|masked| {
            let free = self.0.lock(masked);
            free.end - free.start
        })
    }
}

impl DmaMemory for DeviceMemory {
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory> {
        let refused = NoMemory { bytes, align };
        if !bytes.is_multiple_of(8) || !align.is_power_of_two() || align < 8 {
            return Err(refused);
        }
        let line = cache::writeback_granule();
        let start = arch::masked(|masked| {
            let mut free = self.0.lock(masked);
            let start = free.start.checked_next_multiple_of(line.max(align as u64))?;
            let end = start.checked_add(bytes as u64)?.checked_next_multiple_of(line).filter(|&end| end <= free.end)?;
            free.start = end;
            Some(start)
        })
        .ok_or(refused)?;
        // SAFETY: mapped and aligned memory that is given out only here and never taken back.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, bytes) };
        // SAFETY: as above; all bit patterns are words, and everybody accesses them atomically.
        let words = unsafe { core::slice::from_raw_parts(start as *const AtomicU64, bytes / 8) };
        Ok(DmaRegion { phys: PhysAddr(start), words })
    }

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        Some(&DataCaches)
    }
}
