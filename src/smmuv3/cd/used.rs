//! Which bits of a CD count, and which it makes the SMMU ignore (5.4, 5.4.1.1).

use super::ContextDescriptor;
use super::codec::{Half, LOWER, TABLE, UPPER, VALID};

impl Half {
    /// The bits of word 0 that describe tables.
    const fn walk(&self) -> u64 {
        self.tsz.mask() | self.granule.mask() | self.inner.mask() | self.outer.mask() | self.shareability.mask()
    }
}

impl ContextDescriptor {
    /// The bits that count in the CD with these words, found through an STE whose StreamWorld is EL1: for EL2 without E2H
    /// EPD0 and EPD1 mean nothing. The others are IGNORED: they may have any value, and change at any time, while these
    /// stay.
    ///
    /// For fields that this crate does not know, a bit counts.
    pub const fn used(words: &[u64; 8]) -> [u64; 8] {
        let [first, ..] = *words;
        if !VALID.is_set(first) {
            return [VALID.mask(), 0, 0, 0, 0, 0, 0, 0];
        }
        let mut used = [!0; 8];
        if LOWER.disabled.is_set(first) {
            used[0] &= !LOWER.walk();
            used[1] &= !TABLE.mask();
        }
        if UPPER.disabled.is_set(first) {
            used[0] &= !UPPER.walk();
            used[2] &= !TABLE.mask();
        }
        used
    }
}
