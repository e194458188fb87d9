//! The guest's memory, as the machine's own accesses reach it.

use core::ops::Range;
use core::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release, SeqCst},
    fence,
};

use aarch64_cpu::asm::barrier;
use heapless::Vec;

use super::gic;
use crate::model::memory::{Abort, Memory};
use crate::smmuv3::PhysAddr;

/// The memory that the device tree names, less what is hidden from EL1, and for messages GITS_TRANSLATER of the ITS.
///
/// EL1 may access it at the same time, so every access here is atomic.
#[derive(Debug)]
pub(super) struct GuestMemory {
    ranges: Vec<Range<u64>, 16>,
    /// Where GITS_TRANSLATER is.
    doorbell: Option<u64>,
}

/// Memory as single bytes, words and single bytes.
type Parts<'a> = (&'a [AtomicU8], &'a [AtomicU64], &'a [AtomicU8]);

impl GuestMemory {
    /// # Safety
    ///
    /// Everything in `ranges` is memory that is mapped where it is, writable, and that no Rust object of this image
    /// lies in. At `doorbell` is GITS_TRANSLATER of an ITS, mapped as device memory.
    pub(super) unsafe fn new(ranges: impl Iterator<Item = Range<u64>>, doorbell: Option<u64>) -> Self {
        Self { ranges: ranges.collect(), doorbell }
    }

    /// Checks that `bytes` bytes from `address` on are memory.
    fn check(&self, address: PhysAddr, bytes: usize) -> Result<usize, Abort> {
        let start = address.0;
        let end = start.checked_add(bytes as u64).ok_or(Abort)?;
        let inside = self.ranges.iter().any(|range| range.start <= start && end <= range.end);
        if inside { Ok(start as usize) } else { Err(Abort) }
    }

    fn word(&self, address: PhysAddr) -> Result<&AtomicU64, Abort> {
        let place = self.check(address, 8)?;
        if !place.is_multiple_of(8) {
            return Err(Abort);
        }
        // SAFETY: by `new`, the eight bytes just checked are mapped memory without Rust objects; they are aligned.
        Ok(unsafe { AtomicU64::from_ptr(place as *mut u64) })
    }

    /// The `bytes` bytes from `address` on.
    fn parts(&self, address: PhysAddr, bytes: usize) -> Result<Parts<'_>, Abort> {
        let place = self.check(address, bytes)?;
        // SAFETY: by `new`, the bytes just checked are mapped memory without Rust objects, and atomic access to them is
        // right however EL1 accesses them.
        let all = unsafe { core::slice::from_raw_parts(place as *const AtomicU8, bytes) };
        // SAFETY: eight atomic bytes that are aligned to 8 are as good as one atomic word.
        Ok(unsafe { all.align_to() })
    }
}

impl Memory for GuestMemory {
    fn read64(&self, address: PhysAddr) -> Result<u64, Abort> {
        Ok(self.word(address)?.load(Relaxed))
    }

    fn write64(&self, address: PhysAddr, value: u64) -> Result<(), Abort> {
        self.word(address)?.store(value, Relaxed);
        Ok(())
    }

    fn write32(&self, address: PhysAddr, value: u32) -> Result<(), Abort> {
        if self.doorbell == Some(address.0) {
            // What the machine wrote is there before the interrupt.
            barrier::dsb(barrier::ISHST);
            // SAFETY: by `new`, GITS_TRANSLATER is there; writing it makes at most an interrupt pending, for EL1.
            unsafe { gic::write(address.0, value) };
            return Ok(());
        }
        let place = self.check(address, 4)?;
        if !place.is_multiple_of(4) {
            return Err(Abort);
        }
        // SAFETY: by `new`, the four bytes just checked are mapped memory without Rust objects; they are aligned.
        let word = unsafe { AtomicU32::from_ptr(place as *mut u32) };
        // Pairs with the acquire, or the address dependency through a register, of whoever polls for the message.
        word.store(value, Release);
        Ok(())
    }

    fn compare_exchange64(&self, address: PhysAddr, expected: u64, new: u64) -> Result<u64, Abort> {
        let held = self.word(address)?.compare_exchange(expected, new, SeqCst, SeqCst);
        // Of an exchange alone only the reading half comes before what follows.
        fence(SeqCst);
        Ok(held.unwrap_or_else(|other| other))
    }

    fn read(&self, address: PhysAddr, bytes: &mut [u8]) -> Result<(), Abort> {
        let (head, words, tail) = self.parts(address, bytes.len())?;
        let (head_bytes, rest) = bytes.split_at_mut(head.len());
        let (word_bytes, tail_bytes) = rest.split_at_mut(8 * words.len());
        head_bytes.iter_mut().zip(head).for_each(|(byte, from)| *byte = from.load(Relaxed));
        for (chunk, from) in word_bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *chunk = from.load(Relaxed).to_le_bytes();
        }
        tail_bytes.iter_mut().zip(tail).for_each(|(byte, from)| *byte = from.load(Relaxed));
        Ok(())
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), Abort> {
        let (head, words, tail) = self.parts(address, bytes.len())?;
        let (head_bytes, rest) = bytes.split_at(head.len());
        let (word_bytes, tail_bytes) = rest.split_at(8 * words.len());
        head_bytes.iter().zip(head).for_each(|(byte, to)| to.store(*byte, Relaxed));
        for (chunk, to) in word_bytes.as_chunks().0.iter().zip(words) {
            to.store(u64::from_le_bytes(*chunk), Relaxed);
        }
        tail_bytes.iter().zip(tail).for_each(|(byte, to)| to.store(*byte, Relaxed));
        Ok(())
    }
}
