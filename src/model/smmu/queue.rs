//! Queue registers and the arithmetic on them (3.5).

use crate::model::memory::{Abort, Memory};
use crate::smmuv3::PhysAddr;
use crate::smmuv3::queue::{QueueIndex, QueueSize};

/// The allocation hint of BASE and its LOG2SIZE.
const HINT: u64 = 1 << 62;
const LOG2SIZE: u64 = 0x1f;
/// OVFLG of PROD and OVACKFLG of CONS.
pub(super) const OVERFLOW: u32 = 1 << 31;

/// BASE, PROD and CONS of one queue.
///
/// Of an index only the bits up to the wrap bit are kept, as they read as zero above it where the SMMU writes the index
/// and have no effect where software does (6.3.27, 6.3.28, 6.3.95 to 6.3.98). So a smaller LOG2SIZE truncates them.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) base: u64,
    pub(super) prod: u32,
    pub(super) cons: u32,
    /// The largest queue, as the ID registers tell.
    largest: QueueSize,
    /// The bits of the address of BASE that exist (6.3.26).
    address: u64,
}

impl Queue {
    /// A queue of at most `largest` entries in a system with `output_bits` bits of physical address.
    pub(super) const fn new(largest: QueueSize, output_bits: u32) -> Self {
        Self { base: 0, prod: 0, cons: 0, largest, address: ((1 << output_bits) - 1) & !LOG2SIZE }
    }

    pub(super) fn set_base(&mut self, value: u64) {
        self.base = value & (HINT | self.address | LOG2SIZE);
        self.set_prod(self.prod);
        self.cons = self.cons & !0xf_ffff | self.index(self.cons).raw();
    }

    /// Takes the index and the flag of `value`.
    pub(super) fn set_prod(&mut self, value: u32) {
        self.prod = value & OVERFLOW | self.index(value).raw();
    }

    /// Takes the index and the flag of `value`.
    pub(super) fn set_cons(&mut self, value: u32) {
        self.cons = value & OVERFLOW | self.index(value).raw();
    }

    /// The size that is used: a larger LOG2SIZE counts as the largest (6.3.26).
    pub(super) fn size(&self) -> QueueSize {
        QueueSize::new((self.base & LOG2SIZE) as u8).map_or(self.largest, |size| size.min(self.largest))
    }

    pub(super) fn index(&self, raw: u32) -> QueueIndex {
        self.size().index(raw)
    }

    /// How many entries there are; `None` while the indices are inconsistent (3.5.1).
    pub(super) fn len(&self) -> Option<u32> {
        self.size().len(self.index(self.prod), self.index(self.cons)).ok()
    }

    /// Whether there is an entry to consume. Of a queue with inconsistent indices nothing is consumed, one of the
    /// behaviours that 3.5.1 permits.
    pub(super) fn is_ready(&self) -> bool {
        self.len().is_some_and(|len| len > 0)
    }

    /// Whether no entry can be written. A queue with inconsistent indices counts as full, one of the behaviours that 3.5.1
    /// permits.
    pub(super) fn is_full(&self) -> bool {
        self.len().is_none_or(|len| len == self.size().entries())
    }

    /// What a queue of entries of `size` bytes is aligned to, in bytes (6.3.26).
    fn alignment(&self, size: u64) -> u64 {
        (size << self.size().log2()).max(32)
    }

    /// Whether software has aligned the base of this queue of entries of `size` bytes.
    pub(super) fn is_aligned(&self, size: u64) -> bool {
        self.base & self.address & (self.alignment(size) - 1) == 0
    }

    /// Where the entry of `size` bytes at `index` lies. The base is aligned to the size of the queue (6.3.26).
    fn entry(&self, index: u32, size: u64) -> PhysAddr {
        let base = self.base & self.address & !(self.alignment(size) - 1);
        PhysAddr(base + u64::from(self.size().slot(self.index(index))) * size)
    }

    /// The entry at CONS, of 16 bytes.
    pub(super) fn front(&self, memory: &impl Memory) -> Result<[u64; 2], Abort> {
        self.command(self.cons, memory)
    }

    /// The entry at `index`, of 16 bytes.
    pub(super) fn command(&self, index: u32, memory: &impl Memory) -> Result<[u64; 2], Abort> {
        let PhysAddr(address) = self.entry(index, 16);
        Ok([memory.read64(PhysAddr(address))?, memory.read64(PhysAddr(address + 8))?])
    }

    /// Moves CONS past the front entry, and takes `ERR` out of it.
    pub(super) fn pop(&mut self) {
        self.cons = self.size().advance(self.index(self.cons), 1).raw();
    }

    /// Writes `entry` at PROD, where there must be space, and moves PROD past it. Returns whether the queue was empty.
    pub(super) fn push(&mut self, memory: &impl Memory, entry: &[u64]) -> Result<bool, Abort> {
        let PhysAddr(address) = self.entry(self.prod, entry.len() as u64 * 8);
        for (word, &value) in entry.iter().enumerate() {
            memory.write64(PhysAddr(address + word as u64 * 8), value)?;
        }
        let was_empty = !self.is_ready();
        self.prod = self.prod & OVERFLOW | self.size().advance(self.index(self.prod), 1).raw();
        Ok(was_empty)
    }

    /// Lets the two youngest entries, of `N` words, change places. Software has not seen them yet.
    pub(super) fn swap_youngest<const N: usize>(&mut self, memory: &impl Memory) {
        let before = |count| {
            let index = self.size().advance(self.index(self.prod), 2 * self.size().entries() - count);
            self.entry(index.raw(), N as u64 * 8)
        };
        let (PhysAddr(youngest), PhysAddr(older)) = (before(1), before(2));
        for offset in (0..N as u64).map(|word| word * 8) {
            let (one, other) = (PhysAddr(youngest + offset), PhysAddr(older + offset));
            // Both were written just now.
            if let (Ok(first), Ok(second)) = (memory.read64(one), memory.read64(other)) {
                let _ = memory.write64(one, second).and_then(|()| memory.write64(other, first));
            }
        }
    }

    /// Whether an overflow is not yet acknowledged (7.4, 8.1).
    pub(super) fn overflown(&self) -> bool {
        (self.prod ^ self.cons) & OVERFLOW != 0
    }

    /// Notes that an entry was lost because the queue is full.
    pub(super) fn overflow(&mut self) {
        if !self.overflown() {
            self.prod ^= OVERFLOW;
        }
    }
}
