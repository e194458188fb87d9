//! Changing a stream table entry or a context descriptor under the eyes of the SMMU (3.21.3).

mod plan;

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

pub(super) use self::plan::{CD, Kind, STE};

/// The number of 64-bit words in an STE and in a CD.
pub(super) const WORDS: usize = 8;

/// A stream table entry or a context descriptor in memory.
pub(super) type Structure = [AtomicU64; WORDS];

/// The structure at `index` of a table of structures.
pub(super) fn at(table: &'static [AtomicU64], index: usize) -> Option<&'static Structure> {
    let start = index.checked_mul(WORDS)?;
    table.get(start..start.checked_add(WORDS)?)?.try_into().ok()
}

/// What `entry` holds.
pub(super) fn words(entry: &Structure) -> [u64; WORDS] {
    entry.each_ref().map(|word| word.load(Ordering::Relaxed))
}

/// Fills `entry`, of which the SMMU knows nothing.
pub(super) fn fill(entry: &Structure, words: &[u64; WORDS]) {
    // Relaxed, as all stores here: the register write that makes the SMMU look orders them before what it reads.
    entry.iter().zip(words).for_each(|(word, &value)| word.store(value, Ordering::Relaxed));
}

/// Brings `entry` to mean what `target` does by the least sequence there is (see `plan`); `invalidate` has the SMMU
/// find what is in memory: the words cleaned where its accesses are not coherent, the structure's CFGI and a completed SYNC.
///
/// `settled` is whether the SMMU has of the structure only what is in memory. It is false after a call that failed: then an
/// invalidation comes first, since what such a call left in memory does not say what it left in the SMMU.
///
/// Returns what the last `invalidate` did, or `None` if there was nothing to do.
///
/// # Errors
///
/// What `invalidate` returned; the entry stays at the step reached, and the call may be repeated, with another target too.
pub(super) fn change<T, E>(
    kind: &Kind,
    entry: &Structure,
    settled: &Cell<bool>,
    target: &[u64; WORDS],
    mut invalidate: impl FnMut() -> Result<T, E>,
) -> Result<Option<T>, E> {
    let mut done = None;
    if !settled.get() {
        done = Some(invalidate()?);
        settled.set(true);
    }
    for step in kind.plan(&words(entry), target) {
        settled.set(false);
        for (word, &new) in entry.iter().zip(&step).filter(|(word, new)| word.load(Ordering::Relaxed) != **new) {
            word.store(new, Ordering::Relaxed);
        }
        done = Some(invalidate()?);
        settled.set(true);
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
