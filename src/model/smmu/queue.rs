//! Queue registers and the arithmetic on them (3.5).

use crate::model::memory::{Abort, Memory};
use crate::smmuv3::PhysAddr;

/// The bits of BASE that exist: allocation hint, ADDR\[47:5\] (OAS is 48), LOG2SIZE.
const BASE: u64 = 1 << 62 | 0xffff_ffff_ffe0 | 0x1f;
/// The bits of an index with its wrap bit.
const INDEX: u32 = 0xf_ffff;
/// OVFLG of PROD and OVACKFLG of CONS.
pub(super) const OVERFLOW: u32 = 1 << 31;

/// BASE, PROD and CONS of one queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) base: u64,
    pub(super) prod: u32,
    pub(super) cons: u32,
    /// The largest LOG2SIZE, as the ID registers tell.
    max_log2: u32,
}

impl Queue {
    pub(super) const fn new(max_log2: u32) -> Self {
        Self { base: 0, prod: 0, cons: 0, max_log2 }
    }

    pub(super) fn set_base(&mut self, value: u64) {
        self.base = value & BASE;
    }

    /// LOG2SIZE as it is used: larger values count as the largest (6.3.26).
    fn log2(&self) -> u32 {
        ((self.base & 0x1f) as u32).min(self.max_log2)
    }

    fn wrap(&self) -> u32 {
        1 << self.log2()
    }

    /// `index` without the bits that the queue's size leaves out.
    fn index(&self, index: u32) -> u32 {
        index & (self.wrap() * 2 - 1) & INDEX
    }

    fn after(&self, index: u32) -> u32 {
        self.index(self.index(index) + 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index(self.prod) == self.index(self.cons)
    }

    pub(super) fn is_full(&self) -> bool {
        self.index(self.prod) ^ self.index(self.cons) == self.wrap()
    }

    /// Where the entry of `size` bytes at `index` lies. The base is aligned to the size of the queue (6.3.26).
    fn entry(&self, index: u32, size: u64) -> PhysAddr {
        let align = (size << self.log2()).max(32);
        let base = self.base & 0xffff_ffff_ffe0 & !(align - 1);
        PhysAddr(base + u64::from(index & (self.wrap() - 1)) * size)
    }

    /// The entry at CONS, of 16 bytes.
    pub(super) fn front(&self, memory: &impl Memory) -> Result<[u64; 2], Abort> {
        let PhysAddr(address) = self.entry(self.cons, 16);
        Ok([memory.read64(PhysAddr(address))?, memory.read64(PhysAddr(address + 8))?])
    }

    /// Moves CONS past the front entry, and takes `ERR` out of it.
    pub(super) fn pop(&mut self) {
        self.cons = self.after(self.cons);
    }

    /// Writes `entry` at PROD, where there must be space, and moves PROD past it. Returns whether the queue was empty.
    pub(super) fn push(&mut self, memory: &impl Memory, entry: &[u64]) -> Result<bool, Abort> {
        let PhysAddr(address) = self.entry(self.prod, entry.len() as u64 * 8);
        for (word, &value) in entry.iter().enumerate() {
            memory.write64(PhysAddr(address + word as u64 * 8), value)?;
        }
        let was_empty = self.is_empty();
        self.prod = self.prod & OVERFLOW | self.after(self.prod);
        Ok(was_empty)
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
