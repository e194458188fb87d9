//! The heap.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

use linked_list_allocator::Heap as Pieces;

use super::masked;
use crate::sync::lock::IrqLock;

/// The heap of the whole kernel. An image makes it its global allocator, see [`entry`](crate::entry).
pub struct Heap(IrqLock<Pieces>);

impl Heap {
    /// A heap without memory.
    pub const fn empty() -> Self {
        Self(IrqLock::new(Pieces::empty()))
    }

    /// Gives the heap its memory.
    ///
    /// # Safety
    ///
    /// `memory` is mapped as data, used by nobody else, and this is called once.
    pub(crate) unsafe fn start(&self, memory: Range<u64>) {
        masked(|masked| {
            // SAFETY: as the caller says.
            unsafe { self.0.lock(masked).init(memory.start as *mut u8, (memory.end - memory.start) as usize) };
        });
    }

    /// How many bytes are allocated.
    pub fn used(&self) -> usize {
        masked(|masked| self.0.lock(masked).used())
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("used", &self.used()).finish_non_exhaustive()
    }
}

// SAFETY: the allocator below the lock hands out disjoint, aligned pieces of memory that is its own.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        masked(|masked| self.0.lock(masked).allocate_first_fit(layout)).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let Some(memory) = NonNull::new(memory) else { return };
        // SAFETY: the caller got `memory` from `alloc` with this layout.
        masked(|masked| unsafe { self.0.lock(masked).deallocate(memory, layout) });
    }
}
