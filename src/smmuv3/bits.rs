//! One field of a 64-bit word.

/// Bits `high:low` of a word.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    mask: u64,
    low: u32,
}

impl Field {
    /// Bits `high` down to `low`, both included, `63 >= high >= low`.
    pub(crate) const fn new(high: u32, low: u32) -> Self {
        Self { mask: (u64::MAX >> (63 - high)) & (u64::MAX << low), low }
    }

    /// Bit `bit`.
    pub(crate) const fn bit(bit: u32) -> Self {
        Self::new(bit, bit)
    }

    /// The bits of the word that are the field's.
    pub(crate) const fn mask(self) -> u64 {
        self.mask
    }

    /// The field's value.
    pub(crate) const fn get(self, word: u64) -> u64 {
        (word & self.mask) >> self.low
    }

    /// Whether any bit of the field is 1.
    pub(crate) const fn is_set(self, word: u64) -> bool {
        word & self.mask != 0
    }

    /// A word that holds `value` in the field, its excess bits dropped, and zeros elsewhere.
    pub(crate) const fn put(self, value: u64) -> u64 {
        (value << self.low) & self.mask
    }

    /// A word with the field's bit as `set` says.
    pub(crate) const fn flag(self, set: bool) -> u64 {
        self.put(set as u64)
    }

    /// The address whose bits `high:low` the field holds in place, other bits zero.
    pub(crate) const fn address(self, word: u64) -> u64 {
        word & self.mask
    }
}
