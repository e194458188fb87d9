//! Queue indices (3.5.1): circular arithmetic on PROD and CONS with their wrap bit.
//!
//! A queue of 2^n entries counts its entries modulo 2^(n+1): the low n bits are the slot, bit n is the wrap bit. Equal
//! indices mean empty, indices that differ in the wrap bit alone mean full.

use thiserror::Error;

/// Bit 31 of PROD (`OVFLG`) and CONS (`OVACKFLG`) of the event and PRI queues (6.3.95 to 6.3.98).
const OVERFLOW: u32 = 1 << 31;

/// The size of a queue, a power of two from 1 to 2^19 entries (6.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueSize(u8);

/// An index with its wrap bit, without flags. Only [`QueueSize`] makes and moves one, and only forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueIndex(u32);

/// What PROD or CONS of an event or PRI queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueuePointer {
    /// Where it points.
    pub index: QueueIndex,
    /// `OVFLG` of PROD, `OVACKFLG` of CONS: an overflow is active while the two differ (7.4, 8.1).
    pub overflow: bool,
}

/// PROD is more than a whole queue ahead of CONS, which no correct sequence of accesses produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("PROD {prod:#x} is more than {entries} entries ahead of CONS {cons:#x}")]
pub struct OutOfStep {
    /// The write index with its wrap bit.
    pub prod: u32,
    /// The read index with its wrap bit.
    pub cons: u32,
    /// The queue's size.
    pub entries: u32,
}

impl QueueSize {
    /// log2 of the largest queue (6.3.2).
    pub const MAX_LOG2: u8 = 19;

    /// A queue of 2^`log2` entries, or `None` if `log2` is over [`QueueSize::MAX_LOG2`].
    pub const fn new(log2: u8) -> Option<Self> {
        if log2 <= Self::MAX_LOG2 { Some(Self(log2)) } else { None }
    }

    /// log2 of the number of entries, for `LOG2SIZE`.
    pub const fn log2(self) -> u8 {
        self.0
    }

    /// The number of entries.
    pub const fn entries(self) -> u32 {
        1 << self.0
    }

    /// The bits of an index and its wrap bit.
    const fn mask(self) -> u32 {
        (2 << self.0) - 1
    }

    /// The index in a raw PROD or CONS; flags and reserved bits are dropped.
    pub const fn index(self, raw: u32) -> QueueIndex {
        QueueIndex(raw & self.mask())
    }

    /// The index and the overflow flag in a raw PROD or CONS.
    pub const fn pointer(self, raw: u32) -> QueuePointer {
        QueuePointer { index: self.index(raw), overflow: raw & OVERFLOW != 0 }
    }

    /// The slot of the entry at `index`, below [`QueueSize::entries`].
    pub const fn slot(self, index: QueueIndex) -> u32 {
        index.0 & (self.entries() - 1)
    }

    /// `index` moved forward by `count` entries.
    pub const fn advance(self, index: QueueIndex, count: u32) -> QueueIndex {
        self.index(index.0.wrapping_add(count))
    }

    /// How many entries there are from `cons` up to `prod`.
    ///
    /// # Errors
    ///
    /// [`OutOfStep`] when that is more than the queue holds.
    pub const fn len(self, prod: QueueIndex, cons: QueueIndex) -> Result<u32, OutOfStep> {
        let len = prod.0.wrapping_sub(cons.0) & self.mask();
        if len <= self.entries() {
            Ok(len)
        } else {
            Err(OutOfStep { prod: prod.0, cons: cons.0, entries: self.entries() })
        }
    }

    /// How many entries can still be written.
    ///
    /// # Errors
    ///
    /// As [`QueueSize::len`].
    pub const fn space(self, prod: QueueIndex, cons: QueueIndex) -> Result<u32, OutOfStep> {
        match self.len(prod, cons) {
            Ok(len) => Ok(self.entries() - len),
            Err(error) => Err(error),
        }
    }

    /// Whether there is no entry from `cons` up to `prod`.
    pub const fn is_empty(self, prod: QueueIndex, cons: QueueIndex) -> bool {
        prod.0 == cons.0
    }

    /// Whether no entry can be written: same slot, other wrap bit.
    pub const fn is_full(self, prod: QueueIndex, cons: QueueIndex) -> bool {
        prod.0 ^ cons.0 == self.entries()
    }
}

impl QueueIndex {
    /// The start of a queue.
    pub const ZERO: Self = Self(0);

    /// The value for a PROD or CONS register without flags.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl QueuePointer {
    /// The value for the PROD or CONS register.
    pub const fn raw(self) -> u32 {
        self.index.0 | if self.overflow { OVERFLOW } else { 0 }
    }
}
