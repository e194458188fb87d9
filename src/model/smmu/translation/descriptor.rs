//! The words of VMSAv8-64 translation tables, of every granule (Arm DDI 0487, D8.3).

use crate::smmuv3::Granule;
use crate::smmuv3::bits::Field;

const VALID: Field = Field::bit(0);
/// A table at levels 0 to 2, a page at level 3; else a block.
const TABLE_OR_PAGE: Field = Field::bit(1);
/// Bits 51:48 of an address, in descriptors of the 64 KiB granule.
const HIGH_ADDRESS: Field = Field::new(15, 12);

/// Stage 2: the memory type; of a Device type if the upper two bits are 0.
pub(super) const STAGE2_DEVICE_OR_NOT: Field = Field::new(5, 4);
/// Stage 1, AP\[1\]: unprivileged accesses are permitted.
pub(super) const UNPRIVILEGED: Field = Field::bit(6);
/// Stage 1, AP\[2\]: writes are not permitted.
pub(super) const READ_ONLY: Field = Field::bit(7);
/// Stage 2, S2AP\[0\].
pub(super) const STAGE2_READ: Field = Field::bit(6);
/// Stage 2, S2AP\[1\].
pub(super) const STAGE2_WRITE: Field = Field::bit(7);
pub(super) const ACCESSED: Field = Field::bit(10);
pub(super) const NOT_GLOBAL: Field = Field::bit(11);
/// nT of a block: not to be kept by what could conflict (3.21.1).
const NO_TRANSLATION_CACHING: Field = Field::bit(16);
pub(super) const DIRTY_BIT_MODIFIER: Field = Field::bit(51);
pub(super) const PRIVILEGED_EXECUTE_NEVER: Field = Field::bit(53);
pub(super) const EXECUTE_NEVER: Field = Field::bit(54);
/// Stage 2, XN\[1:0\].
pub(super) const STAGE2_EXECUTE: Field = Field::new(54, 53);
pub(super) const TABLE_PRIVILEGED_EXECUTE_NEVER: Field = Field::bit(59);
pub(super) const TABLE_EXECUTE_NEVER: Field = Field::bit(60);
pub(super) const TABLE_PRIVILEGED_ONLY: Field = Field::bit(61);
pub(super) const TABLE_READ_ONLY: Field = Field::bit(62);

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing, or what is reserved at its level.
    Invalid,
    /// Leads to this table. Not at level 3.
    Table(u64),
    /// A block or page at this address.
    Leaf(u64),
}

/// log2 of the bytes that an entry of `level`, 0 to 3, translates.
pub(super) const fn shift(granule: Granule, level: u8) -> u32 {
    let page = granule.shift();
    page + (page - 3) * 3_u32.saturating_sub(level as u32)
}

/// Whether a TLB may not keep the leaf `word` of `level`.
pub(super) const fn is_not_for_caching(word: u64, level: u8) -> bool {
    level < 3 && NO_TRANSLATION_CACHING.is_set(word)
}

/// The entry in `word` of a table of `level`. `wide`: addresses have 52 bits.
pub(super) const fn decode(word: u64, granule: Granule, level: u8, wide: bool) -> Entry {
    if !VALID.is_set(word) {
        return Entry::Invalid;
    }
    let wide = wide && matches!(granule, Granule::Size64K);
    let block = match (granule, level) {
        (Granule::Size4K, 1 | 2) | (Granule::Size16K | Granule::Size64K, 2) => true,
        // Blocks of 4 TiB come with 52-bit addresses.
        (Granule::Size64K, 1) => wide,
        _ => false,
    };
    let high = if wide { HIGH_ADDRESS.get(word) << 48 } else { 0 };
    match (TABLE_OR_PAGE.is_set(word), level) {
        (true, 3) => Entry::Leaf(high | Field::new(47, granule.shift()).address(word)),
        (false, _) if block => Entry::Leaf(high | Field::new(47, shift(granule, level)).address(word)),
        (true, 0..3) => Entry::Table(high | Field::new(47, granule.shift()).address(word)),
        _ => Entry::Invalid,
    }
}
