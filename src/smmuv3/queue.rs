//! Queue indices (3.5.1): circular arithmetic on PROD and CONS with their wrap bit.
//!
//! A queue of 2^n entries counts its entries modulo 2^(n+1): the low n bits are the slot, bit n is the wrap bit. Equal
//! indices mean empty, indices that differ in the wrap bit alone mean full.

use thiserror::Error;

/// Bit 31 of PROD (`OVFLG`) and CONS (`OVACKFLG`) of the event and PRI queues (6.3.95 to 6.3.98).
const OVERFLOW: u32 = 1 << 31;

/// The size of a queue, a power of two from 1 to 2^19 entries (6.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueSize {
    /// The bits of an index and its wrap bit: what every batch asks for.
    mask: u32,
}

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

    /// A queue of one entry.
    pub const ONE: Self = Self { mask: 1 };

    /// A queue of 2^`log2` entries, or `None` if `log2` is over [`QueueSize::MAX_LOG2`].
    pub const fn new(log2: u8) -> Option<Self> {
        if log2 <= Self::MAX_LOG2 { Some(Self { mask: (2 << log2) - 1 }) } else { None }
    }

    /// log2 of the number of entries, for `LOG2SIZE`.
    pub const fn log2(self) -> u8 {
        self.entries().trailing_zeros() as u8
    }

    /// The number of entries.
    pub const fn entries(self) -> u32 {
        (self.mask >> 1) + 1
    }

    /// The index in a raw PROD or CONS; flags and reserved bits are dropped.
    pub const fn index(self, raw: u32) -> QueueIndex {
        QueueIndex(raw & self.mask)
    }

    /// The index and the overflow flag in a raw PROD or CONS.
    pub const fn pointer(self, raw: u32) -> QueuePointer {
        QueuePointer { index: self.index(raw), overflow: raw & OVERFLOW != 0 }
    }

    /// The slot of the entry at `index`, below [`QueueSize::entries`].
    pub const fn slot(self, index: QueueIndex) -> u32 {
        index.0 & (self.mask >> 1)
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
        let len = prod.0.wrapping_sub(cons.0) & self.mask;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arithmetic_is_that_of_counting_for_every_index_of_small_queues() {
        for log2 in 0..=4 {
            let size = QueueSize::new(log2).unwrap();
            let entries = 1u32 << log2;
            assert_eq!(size.entries(), entries);
            // Two rounds through all indices and wrap bits.
            for read in 0..4 * entries {
                let cons = size.index(read);
                assert_eq!(cons.raw(), read % (2 * entries));
                assert_eq!(size.slot(cons), read % entries);
                for len in 0..=entries {
                    let prod = size.advance(cons, len);
                    assert_eq!(prod.raw(), (read + len) % (2 * entries));
                    assert_eq!(size.len(prod, cons), Ok(len));
                    assert_eq!(size.space(prod, cons), Ok(entries - len));
                    assert_eq!(size.is_empty(prod, cons), len == 0);
                    assert_eq!(size.is_full(prod, cons), len == entries);
                }
                for ahead in entries + 1..2 * entries {
                    let prod = size.advance(cons, ahead);
                    let error = OutOfStep { prod: prod.raw(), cons: cons.raw(), entries };
                    assert_eq!(size.len(prod, cons), Err(error));
                    assert_eq!(size.space(prod, cons), Err(error));
                    assert!(!size.is_empty(prod, cons) && !size.is_full(prod, cons));
                }
            }
        }
    }

    #[test]
    fn the_wrap_bit_is_bit_log2size_of_the_register() {
        // 3.5.1: a queue of 8 entries that is full, one round ahead, in slot 5.
        let size = QueueSize::new(3).unwrap();
        let (prod, cons) = (size.pointer(0x8000_000d), size.pointer(0x0000_0005));
        assert!(prod.overflow && !cons.overflow);
        assert_eq!((size.slot(prod.index), size.slot(cons.index)), (5, 5));
        assert!(size.is_full(prod.index, cons.index));
        assert_eq!((prod.raw(), cons.raw()), (0x8000_000d, 5));
        // The largest queue uses all 20 bits.
        let size = QueueSize::new(19).unwrap();
        assert_eq!(size.index(u32::MAX).raw(), 0x000f_ffff);
        assert_eq!(QueueSize::new(20), None);
    }

    proptest! {
        #[test]
        fn what_is_advanced_is_counted(log2 in 0u8..=19, raw: u32, share in 0.0..=1.0f64) {
            let size = QueueSize::new(log2).unwrap();
            let cons = size.index(raw);
            let len = (f64::from(size.entries()) * share) as u32;
            let prod = size.advance(cons, len);
            prop_assert_eq!(size.len(prod, cons), Ok(len));
            prop_assert_eq!(size.slot(prod), (size.slot(cons) + len) % size.entries());
            prop_assert!(size.slot(prod) < size.entries());
        }

        #[test]
        fn any_two_registers_give_a_length_within_the_queue_or_an_error(log2 in 0u8..=19, prod: u32, cons: u32) {
            let size = QueueSize::new(log2).unwrap();
            let (prod, cons) = (size.pointer(prod).index, size.pointer(cons).index);
            match size.len(prod, cons) {
                Ok(len) => prop_assert!(len <= size.entries() && size.advance(cons, len) == prod),
                Err(error) => prop_assert_eq!(error.entries, size.entries()),
            }
        }
    }
}
