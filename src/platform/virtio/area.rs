//! Memory that one device reaches through its address space, and what of it is in use.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use crate::driver::dma::DmaRegion;

const PAGE: usize = 0x1000;
const PAGE_WORDS: usize = PAGE / 8;

/// One stretch of a device's addresses with the memory behind it.
#[derive(Debug)]
pub struct Area {
    start: u64,
    memory: DmaRegion,
    /// Pages from here on are free.
    free: usize,
    /// Pages below this are the queues'.
    queues: usize,
    /// How many buffers lie behind the queues.
    buffers: usize,
}

/// Pages of an area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    /// Where the device finds them.
    pub(super) address: u64,
    /// Where the CPU does.
    pub(super) words: &'static [AtomicU64],
}

impl Area {
    /// `memory`, which the device finds at `start`. Both are page-aligned, and nobody else uses the memory.
    pub const fn new(start: u64, memory: DmaRegion) -> Self {
        Self { start, memory, free: 0, queues: 0, buffers: 0 }
    }

    /// Pages for a queue, for as long as it exists. Queues come before buffers.
    pub(super) fn take_for_queue(&mut self, pages: usize) -> Option<Pages> {
        let taken = self.take(pages.checked_mul(PAGE)?)?;
        self.queues = self.free;
        Some(taken)
    }

    /// Pages for a buffer of `bytes`.
    pub(super) fn take_for_buffer(&mut self, bytes: usize) -> Option<Pages> {
        let taken = self.take(bytes)?;
        self.buffers += 1;
        Some(taken)
    }

    /// The queues' pages are free again, and with them the buffers', which devices know by the queues alone.
    pub(super) fn give_queues_back(&mut self) {
        (self.free, self.queues, self.buffers) = (0, 0, 0);
    }

    /// A buffer is free again: its pages, as soon as no other buffer is there.
    pub(super) fn give_buffer_back(&mut self) {
        self.buffers = self.buffers.saturating_sub(1);
        if self.buffers == 0 {
            self.free = self.queues;
        }
    }

    /// The memory from `address` on.
    pub(super) fn at(&self, address: u64) -> Option<&'static [AtomicU64]> {
        self.memory.words.get(address.checked_sub(self.start)? as usize / 8..)
    }

    fn take(&mut self, bytes: usize) -> Option<Pages> {
        let end = self.free.checked_add(bytes.div_ceil(PAGE))?;
        let words = self.memory.words.get(self.free * PAGE_WORDS..end.checked_mul(PAGE_WORDS)?)?;
        let address = self.start + (self.free * PAGE) as u64;
        self.free = end;
        Some(Pages { address, words })
    }
}

/// Copies `bytes` to where a device looks.
pub(super) fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks();
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*bytes), Relaxed);
    }
    if let Some(word) = words.get(whole.len()).filter(|_| !rest.is_empty()) {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_le_bytes(last), Relaxed);
    }
}

/// Copies to `bytes` what a device may have written.
pub(super) fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
    let (whole, rest) = bytes.as_chunks_mut();
    let count = whole.len();
    for (word, bytes) in words.iter().zip(whole) {
        *bytes = word.load(Relaxed).to_le_bytes();
    }
    if let Some(word) = words.get(count) {
        let last = word.load(Relaxed).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::smmuv3::PhysAddr;

    fn area(pages: usize) -> Area {
        let words: Vec<AtomicU64> = (0..pages * PAGE_WORDS).map(|_| AtomicU64::new(0)).collect();
        Area::new(0x4000_0000, DmaRegion { phys: PhysAddr(0x8000_0000), words: words.leak() })
    }

    #[test]
    fn queues_and_buffers_lie_behind_each_other_in_whole_pages() {
        let mut area = area(4);
        assert_eq!(area.take_for_queue(1).unwrap().address, 0x4000_0000);
        assert_eq!(area.take_for_buffer(1).unwrap().address, 0x4000_1000);
        let last = area.take_for_buffer(0x1001).unwrap();
        assert_eq!((last.address, last.words.len()), (0x4000_2000, 1024));
        assert!(area.take_for_buffer(1).is_none());
    }

    #[test]
    fn pages_of_buffers_are_free_when_the_last_buffer_is() {
        let mut area = area(3);
        area.take_for_queue(1).unwrap();
        area.take_for_buffer(16).unwrap();
        area.take_for_buffer(512).unwrap();
        area.give_buffer_back();
        assert!(area.take_for_buffer(1).is_none());
        area.give_buffer_back();
        assert_eq!(area.take_for_buffer(0x2000).unwrap().address, 0x4000_1000);
    }

    #[test]
    fn a_lost_buffer_is_free_when_the_queues_are() {
        let mut area = area(2);
        area.take_for_queue(1).unwrap();
        area.take_for_buffer(1).unwrap();
        area.give_queues_back();
        assert_eq!(area.take_for_queue(2).unwrap().address, 0x4000_0000);
    }

    #[test]
    fn bytes_come_back_as_they_were_whatever_their_number() {
        let area = area(1);
        let words = area.at(0x4000_0008).unwrap();
        for count in 0..=17 {
            let bytes: Vec<u8> = (1..=count).collect();
            copy_in(words, &bytes);
            let mut back = std::vec![0; count.into()];
            copy_out(words, &mut back);
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn addresses_outside_are_nowhere() {
        assert!(area(1).at(0x3fff_fff8).is_none());
        assert!(area(1).at(0x4000_1008).is_none());
    }
}
