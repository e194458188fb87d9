//! Changing a stream table entry or a context descriptor under the eyes of the SMMU (3.21.3).

use core::sync::atomic::{AtomicU64, Ordering};

/// The number of 64-bit words in an STE and in a CD.
pub(super) const WORDS: usize = 8;

/// A stream table entry or a context descriptor in memory.
pub(super) type Structure = [AtomicU64; WORDS];

/// The V bit of a stream table entry, in word 0.
pub(super) const STE_V: u64 = 1 << 0;
/// The V bit of a context descriptor, in word 0.
pub(super) const CD_V: u64 = 1 << 31;

/// The structure at `index` of a table of structures.
pub(super) fn at(table: &'static [AtomicU64], index: usize) -> Option<&'static Structure> {
    let start = index.checked_mul(WORDS)?;
    table.get(start..start.checked_add(WORDS)?)?.try_into().ok()
}

/// What `entry` holds.
pub(super) fn words(entry: &Structure) -> [u64; WORDS] {
    entry.each_ref().map(|word| word.load(Ordering::Relaxed))
}

/// Brings `entry` to `target`; `invalidate` is the structure's CFGI and a completed SYNC, `valid` its V bit in word 0.
///
/// The SMMU reads the words one by one in any order and caches invalid structures too. So a change within one word is
/// made at once and disturbs nothing; anything more goes through V=0: invalid, filled, valid, and each state is
/// invalidated in the caches before the next (3.21.3.1). An entry that is there already is invalidated all the same,
/// since an earlier attempt may have failed between the store and the SYNC.
///
/// Returns what the last `invalidate` did.
///
/// # Errors
///
/// What `invalidate` returned; the entry stays at the step reached, and the call may be repeated.
pub(super) fn update<T, E>(
    entry: &Structure,
    target: &[u64; WORDS],
    valid: u64,
    mut invalidate: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    // Relaxed throughout: the register write within `invalidate` orders the stores before what the SMMU reads.
    let store_rest =
        || entry[1..].iter().zip(&target[1..]).for_each(|(word, &value)| word.store(value, Ordering::Relaxed));
    let first = entry[0].load(Ordering::Relaxed);
    let changes = entry.iter().zip(target).filter(|(word, value)| word.load(Ordering::Relaxed) != **value).count();
    if changes <= 1 {
        store_rest();
        entry[0].store(target[0], Ordering::Relaxed);
        return invalidate();
    }
    if first & valid != 0 {
        entry[0].store(first & !valid, Ordering::Relaxed);
        invalidate()?;
    }
    store_rest();
    entry[0].store(target[0] & !valid, Ordering::Relaxed);
    let done = invalidate()?;
    if target[0] & valid == 0 {
        return Ok(done);
    }
    entry[0].store(target[0], Ordering::Relaxed);
    invalidate()
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::convert::Infallible;

    use super::*;

    /// What the SMMU may cache at each invalidation on the way from `from` to `to`.
    fn states(from: [u64; WORDS], to: [u64; WORDS]) -> Vec<[u64; WORDS]> {
        let entry = from.map(AtomicU64::new);
        let mut seen = Vec::new();
        update(&entry, &to, STE_V, || {
            seen.push(words(&entry));
            Ok::<_, Infallible>(())
        })
        .unwrap();
        assert_eq!(words(&entry), to);
        seen
    }

    #[test]
    fn a_change_of_several_words_passes_through_invalid_and_is_invalidated_at_each_step() {
        assert_eq!(
            states([0xb, 1, 2, 0, 0, 0, 0, 0], [0xd, 3, 4, 0, 0, 0, 0, 0]),
            [[0xa, 1, 2, 0, 0, 0, 0, 0], [0xc, 3, 4, 0, 0, 0, 0, 0], [0xd, 3, 4, 0, 0, 0, 0, 0]]
        );
    }

    #[test]
    fn a_change_within_one_word_never_makes_the_structure_invalid() {
        assert_eq!(states([0xb, 1, 2, 0, 0, 0, 0, 0], [0x1, 1, 2, 0, 0, 0, 0, 0]), [[0x1, 1, 2, 0, 0, 0, 0, 0]]);
    }

    #[test]
    fn an_unchanged_structure_is_invalidated_again() {
        assert_eq!(states([1; WORDS], [1; WORDS]), [[1; WORDS]]);
    }

    #[test]
    fn a_failed_invalidation_on_the_way_leaves_the_structure_invalid() {
        for good in 0..2 {
            let entry = [1; WORDS].map(AtomicU64::new);
            let mut calls = 0;
            let result = update(&entry, &[3; WORDS], STE_V, || {
                calls += 1;
                if calls > good { Err(calls) } else { Ok(()) }
            });
            assert_eq!(result, Err(good + 1));
            assert_eq!(words(&entry)[0] & STE_V, 0);
        }
    }
}
