//! Memory that devices share.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch;
use crate::arch::cache::{self, DataCaches};
use crate::driver::dma::{CacheMaintenance, DmaMemory, DmaRegion, NoMemory};
use crate::smmuv3::PhysAddr;
use crate::sync::lock::IrqLock;

/// How many regions can be taken back, if nothing is given out between: what bring-up of an SMMU takes, and more.
const REMEMBERED: usize = 8;

/// RAM for what the SMMUs and their devices reach, given out from one end.
#[derive(Debug)]
pub struct DeviceMemory(IrqLock<Free>);

#[derive(Debug)]
struct Free {
    memory: Range<u64>,
    /// The last regions given out, the latest at the end: where each one begins, and where the free memory began before.
    latest: heapless::Deque<(u64, u64), REMEMBERED>,
}

impl DeviceMemory {
    /// All of `memory` to give out.
    ///
    /// # Safety
    ///
    /// `memory` is mapped as data, one to one, and used by nobody else, for ever.
    pub(super) const unsafe fn new(memory: Range<u64>) -> Self {
        Self(IrqLock::new(Free { memory, latest: heapless::Deque::new() }))
    }

    /// How many bytes are left.
    pub fn left(&self) -> u64 {
        arch::masked(|masked| {
            let free = self.0.lock(masked);
            free.memory.end - free.memory.start
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
            let Free { memory, latest } = &mut *free;
            let start = memory.start.checked_next_multiple_of(line.max(align as u64))?;
            let end =
                start.checked_add(bytes as u64)?.checked_next_multiple_of(line).filter(|&end| end <= memory.end)?;
            if latest.is_full() {
                latest.pop_front();
            }
            let _ = latest.push_back((start, memory.start));
            memory.start = end;
            Some(start)
        })
        .ok_or(refused)?;
        // SAFETY: mapped and aligned memory that is given out as words alone; all bit patterns are words, and everybody accesses them
        // atomically, also who still has them from before they were taken back.
        let words = unsafe { core::slice::from_raw_parts(start as *const AtomicU64, bytes / 8) };
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Ok(DmaRegion { phys: PhysAddr(start), words })
    }

    /// Takes back what was given out last, and then what was given out before that; what is given back in another order is lost.
    fn free(&self, region: DmaRegion) {
        arch::masked(|masked| {
            let mut free = self.0.lock(masked);
            let Free { memory, latest } = &mut *free;
            if let Some((_, before)) = latest.pop_back_if(|(start, _)| *start == region.phys.0) {
                memory.start = before;
            }
        });
    }

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        Some(&DataCaches)
    }
}
