//! A hash over records and answers in their order, to tell whether two runs were the same.

use crate::sync::Masked;
use crate::sync::lock::IrqLock;

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// A 64-bit FNV-1a hash of words in the order they were added. Its lock is shared by all who add: it is meant for runs
/// that check determinism, not for production.
#[derive(Debug)]
pub(super) struct Trace(IrqLock<u64>);

impl Trace {
    /// The hash of nothing.
    pub(super) fn new() -> Self {
        Self(IrqLock::new(OFFSET_BASIS))
    }

    /// Adds words, little-endian, after a tag that tells records of one queue from those of another and from answers.
    pub(super) fn add(&self, masked: &Masked, tag: u8, words: &[u64]) {
        let mut hash = self.0.lock(masked);
        let mut byte = |byte: u8| *hash = (*hash ^ u64::from(byte)).wrapping_mul(PRIME);
        byte(tag);
        words.iter().flat_map(|word| word.to_le_bytes()).for_each(byte);
    }

    /// The hash now.
    pub(super) fn value(&self, masked: &Masked) -> u64 {
        *self.0.lock(masked)
    }
}
