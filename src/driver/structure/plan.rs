//! The least sequence of word writes and invalidations from one structure to another.
//!
//! The SMMU reads the 64-bit words of a structure one by one, in any order and at any time, and may keep each of them until it
//! is invalidated (3.21.3). So between two invalidations it may have any mixture of the words before and after, and each
//! mixture has to mean what the old structure meant, or what the new one means, or be invalid by V=0, where nothing else can
//! be had. It must not be ILLEGAL with V=1: software may not let a structure that it modifies enter that state (3.21.3.1).
//!
//! Bits that do not count in a structure ([`Ste::used`], [`ContextDescriptor::used`]) may change at any time. What remains to
//! be changed are bits that count before and after. If they lie in one word, one store brings the change about and nothing is
//! disturbed; what counts only afterwards and lies in other words is filled in and invalidated before. If they lie in several
//! words, mixtures of them mean something else, or are ILLEGAL. So V is 0 while they change, and there is no shorter way than
//! three steps: with the old word 0, or the new one, such a mixture would have V=1.
//!
//! | bits that count before and after differ in | steps, each with CFGI and SYNC | disturbs |
//! |---|---|---|
//! | no word | none | |
//! | one word | what counts only afterwards in other words, if it differs; that word | nothing |
//! | several words | V=0; all but V; V=1 | the structure is invalid for a while |
//!
//! What counts neither before nor after gets its new value with the rest, at no cost; what counts only before stays.
//! An invalid structure is one of which V alone counts, so making it valid is the second row, and so is making it invalid.

use super::WORDS;
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::ste::Ste;

type Words = [u64; WORDS];

/// A kind of structure.
pub(in crate::driver) struct Kind {
    /// The V bit of word 0.
    pub(super) valid: u64,
    pub(super) used: fn(&Words) -> Words,
}

/// Stream table entries.
pub(in crate::driver) const STE: Kind = Kind { valid: 1 << 0, used: Ste::used };
/// Context descriptors of streams whose StreamWorld is EL1.
pub(in crate::driver) const CD: Kind = Kind { valid: 1 << 31, used: ContextDescriptor::used };

impl Kind {
    /// Whether the structure is not made invalid on its way from `old` to what `target` means, but if one of them is.
    pub(in crate::driver) fn is_hitless(&self, old: &Words, target: &Words) -> bool {
        let is_valid = |words: &Words| words[0] & self.valid != 0;
        let [from, to] = [old, target].map(is_valid);
        !(from && to) || self.plan(old, target).all(|words| is_valid(&words))
    }

    /// How to get from `old`, which is what the SMMU has, to what `target` means: what the structure holds at each
    /// invalidation.
    pub(super) fn plan(&self, old: &Words, target: &Words) -> impl Iterator<Item = Words> + use<> {
        let (counts, needed) = ((self.used)(old), (self.used)(target));
        let (mut filled, mut last) = (*old, *old);
        let (mut fills, mut switches) = (false, 0);
        for ((filled, last), (target, (counts, needed))) in
            filled.iter_mut().zip(&mut last).zip(target.iter().zip(counts.iter().zip(&needed)))
        {
            let old = *filled;
            if (old ^ target) & counts & needed != 0 {
                *last = *target;
                switches += 1;
            } else {
                *filled = (old & counts) | (target & !counts);
                *last = *filled;
                fills |= (old ^ *filled) & needed != 0;
            }
        }
        let invalid = |mut words: Words| {
            words[0] = last[0] & !self.valid;
            words
        };
        let steps = match switches {
            0 | 1 => [fills.then_some(filled), (switches == 1).then_some(last), None],
            _ => [Some(invalid(*old)), Some(invalid(last)), Some(last)],
        };
        steps.into_iter().flatten()
    }
}
