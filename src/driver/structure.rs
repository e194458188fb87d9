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
/// The SMMU reads the words one by one in any order and caches invalid structures too. So a change of a valid structure
/// within one word is made at once and disturbs nothing; anything more goes through V=0: invalid, filled, valid, and each
/// state is invalidated in the caches before the next (3.21.3.1).
///
/// Only zeros are known to be invalid for the SMMU too: of anything else an earlier call may have failed between the store
/// and the SYNC. So an entry becomes zeros when its invalidation is complete, and one that is as it should be is invalidated
/// all the same.
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
    let store = |first| {
        entry[0].store(first, Ordering::Relaxed);
        entry[1..].iter().zip(&target[1..]).for_each(|(word, &value)| word.store(value, Ordering::Relaxed));
    };
    let old = words(entry);
    if target[0] & valid == 0 {
        entry[0].store(old[0] & !valid, Ordering::Relaxed);
        let done = invalidate()?;
        store(target[0]);
        return Ok(done);
    }
    let changes = old.iter().zip(target).filter(|(old, new)| old != new).count();
    if old[0] & valid == 0 || changes > 1 {
        if old != [0; WORDS] {
            entry[0].store(old[0] & !valid, Ordering::Relaxed);
            invalidate()?;
        }
        store(target[0] & !valid);
        invalidate()?;
    }
    store(target[0]);
    invalidate()
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::convert::Infallible;

    use super::*;

    const OLD: [u64; WORDS] = [0xb, 1, 2, 0, 0, 0, 0, 0];
    const NEW: [u64; WORDS] = [0xd, 3, 4, 0, 0, 0, 0, 0];
    const NONE: [u64; WORDS] = [0; WORDS];

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
        let [old_invalid, new_invalid] = [[0xa, 1, 2, 0, 0, 0, 0, 0], [0xc, 3, 4, 0, 0, 0, 0, 0]];
        assert_eq!(states(OLD, NEW), [old_invalid, new_invalid, NEW]);
        assert_eq!(states(NONE, NEW), [new_invalid, NEW]);
        assert_eq!(states(OLD, NONE), [old_invalid]);
    }

    #[test]
    fn a_change_within_one_word_never_makes_the_structure_invalid() {
        assert_eq!(states(OLD, [0x1, 1, 2, 0, 0, 0, 0, 0]), [[0x1, 1, 2, 0, 0, 0, 0, 0]]);
    }

    #[test]
    fn an_unchanged_structure_is_invalidated_again() {
        assert_eq!(states(OLD, OLD), [OLD]);
        assert_eq!(states(NONE, NONE), [NONE]);
    }

    /// An SMMU may have read each word at any time since the last invalidation that was completed. So of what it may have,
    /// either every word 0 is invalid, or one word alone has more than one value.
    #[test]
    fn whatever_fails_no_valid_structure_is_mixed_of_two() {
        let targets = [OLD, NEW, NONE, [0x1, 1, 2, 0, 0, 0, 0, 0]];
        for from in targets {
            // Two calls to the same or another target, of which the first fails at some step, and a third one to the end.
            for (failing, then) in targets.into_iter().flat_map(|one| targets.map(|other| (one, other))) {
                for good in 0..3 {
                    let entry = from.map(AtomicU64::new);
                    let mut seen = [from].to_vec();
                    let mut look = |complete: bool| {
                        seen.push(words(&entry));
                        let values = |index: usize| seen.iter().map(move |words| words[index]);
                        let invalid = values(0).all(|first| first & STE_V == 0);
                        let several = (0..WORDS).filter(|&index| values(index).any(|value| value != seen[0][index]));
                        assert!(invalid || several.count() <= 1, "{from:x?} {failing:x?} {then:x?}: {seen:x?}");
                        if complete {
                            seen = [words(&entry)].to_vec();
                        }
                    };
                    let mut calls = 0;
                    let _ = update(&entry, &failing, STE_V, || {
                        calls += 1;
                        look(calls <= good);
                        if calls <= good { Ok(()) } else { Err(()) }
                    });
                    for target in [then, NEW] {
                        let _ = update(&entry, &target, STE_V, || {
                            look(true);
                            Ok::<_, ()>(())
                        });
                        assert_eq!(words(&entry), target);
                    }
                }
            }
        }
    }
}
