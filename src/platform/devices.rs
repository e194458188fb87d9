//! The device registers that the kernel has mapped.

use core::ops::Range;

use super::board::Board;
use crate::arch::mmio::Mmio;

/// Opens windows of the board's device registers.
#[derive(Clone, Copy, Debug)]
pub struct Devices<'a>(&'a Board);

impl<'a> Devices<'a> {
    /// The devices of `board`.
    ///
    /// # Safety
    ///
    /// Every one of [`Board::windows`] is mapped at its own address as device memory, and stays so.
    pub const unsafe fn new(board: &'a Board) -> Self {
        Self(board)
    }

    /// The registers at `window`, or `None` if that is not all inside one of the board's windows, or does not start at
    /// a multiple of 8.
    pub fn open(self, window: &Range<u64>) -> Option<Mmio> {
        let is_inside = |(_, whole): (_, &Range<u64>)| whole.start <= window.start && window.end <= whole.end;
        if !window.start.is_multiple_of(8) || window.is_empty() || !self.0.windows().any(is_inside) {
            return None;
        }
        // SAFETY: inside a window of the board, which is mapped as `new`'s caller vouched for, lies apart from memory,
        // as the board promises, and aligned as checked.
        Some(unsafe { Mmio::new(window.start as usize, (window.end - window.start) as usize) })
    }
}
