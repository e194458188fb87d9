//! Pages of bytes between a read and a write, which all engines share.
//!
//! Nothing waits for one. A piece that gets none is short enough for its lane's own word, so that engines that hold
//! theirs for long, because their writes stall, slow the others down and never stop them.

use super::PAGE;

/// How many pages there are.
const BUFFERS: usize = 16;

/// How many pages one engine may hold.
pub(super) const BUFFERS_PER_ENGINE: u8 = 4;

/// The number of a page that its holder gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer(u8);

/// The pages.
#[derive(Debug)]
pub struct Buffers {
    pages: [[u8; PAGE]; BUFFERS],
    /// One bit for each page that nobody holds.
    free: u16,
}

impl Buffers {
    /// All pages free.
    pub const fn new() -> Self {
        Self { pages: [[0; PAGE]; BUFFERS], free: u16::MAX }
    }

    pub(super) fn take(&mut self) -> Option<Buffer> {
        let number = self.free.trailing_zeros();
        self.free &= self.free.wrapping_sub(1);
        (number < BUFFERS as u32).then_some(Buffer(number as u8))
    }

    pub(super) fn give_back(&mut self, Buffer(number): Buffer) {
        self.free |= 1 << number;
    }

    pub(super) fn bytes(&mut self, Buffer(number): Buffer) -> &mut [u8] {
        self.pages.get_mut(usize::from(number)).map_or(&mut [], |page| &mut page[..])
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new()
    }
}
