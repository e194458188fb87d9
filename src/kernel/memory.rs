//! Memory: the heap, and what devices share.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use linked_list_allocator::Heap;

use crate::arch;
use crate::driver::dma::{DmaMemory, DmaRegion, NoMemory};
use crate::smmuv3::PhysAddr;
use crate::sync::lock::IrqLock;

/// The heap of the whole kernel. An image makes it its global allocator, see [`entry`](crate::entry).
pub struct KernelHeap(IrqLock<Heap>);

impl KernelHeap {
    /// A heap without memory.
    pub const fn empty() -> Self {
        Self(IrqLock::new(Heap::empty()))
    }

    /// Gives the heap its memory.
    ///
    /// # Safety
    ///
    /// `memory` is mapped as data, used by nobody else, and this is called once.
    pub unsafe fn start(&self, memory: Range<u64>) {
        arch::masked(|masked| {
            // SAFETY: as the caller says.
            unsafe { self.0.lock(masked).init(memory.start as *mut u8, (memory.end - memory.start) as usize) };
        });
    }

    /// How many bytes are allocated.
    pub fn used(&self) -> usize {
        arch::masked(|masked| self.0.lock(masked).used())
    }
}

impl fmt::Debug for KernelHeap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelHeap").field("used", &self.used()).finish_non_exhaustive()
    }
}

// SAFETY: the allocator below the lock hands out disjoint, aligned pieces of memory that is its own.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        arch::masked(|masked| self.0.lock(masked).allocate_first_fit(layout))
            .map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some(memory) = NonNull::new(memory) else { return };
        // SAFETY: the caller got `memory` from `alloc` with this layout.
        arch::masked(|masked| unsafe { self.0.lock(masked).deallocate(memory, layout) });
    }
}

/// RAM for what the SMMUs and their devices reach, given out from one end.
#[derive(Debug)]
pub struct DeviceMemory(IrqLock<Range<u64>>);

impl DeviceMemory {
    /// All of `memory` to give out.
    ///
    /// # Safety
    ///
    /// `memory` is mapped as data, one to one, and used by nobody else, for ever.
    pub const unsafe fn new(memory: Range<u64>) -> Self {
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
        let start = arch::masked(|masked| {
            let mut free = self.0.lock(masked);
            let start = free.start.checked_next_multiple_of(align as u64)?;
            let end = start.checked_add(bytes as u64).filter(|&end| end <= free.end)?;
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
}
