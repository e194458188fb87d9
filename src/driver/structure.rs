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
    // Relaxed: what leads to the entry is stored with release.
    entry.iter().zip(words).for_each(|(word, &value)| word.store(value, Ordering::Relaxed));
}

/// A structure, and what it is to mean.
pub(super) struct Change<'a> {
    pub(super) entry: &'a Structure,
    /// Whether the SMMU has of the structure only what is in memory. It is false after a call that failed: then an invalidation comes first,
    /// since what such a call left in memory does not say what it left in the SMMU.
    pub(super) settled: &'a Cell<bool>,
    pub(super) target: &'a [u64; WORDS],
}

/// Brings each entry to mean what its target does by the least sequence there is (see `plan`), a step of each at a time; `invalidate` has the
/// SMMU find what is in memory: the structures that are not settled cleaned where its accesses are not coherent, their CFGIs, and one completed
/// SYNC.
///
/// Returns what the last `invalidate` did, or `None` if there was nothing to do.
///
/// # Errors
///
/// What `invalidate` returned; the entries stay at the step reached, and the call may be repeated, with other targets too.
pub(super) fn change_all<T, E>(
    kind: &Kind,
    changes: &[Change<'_>],
    mut invalidate: impl FnMut() -> Result<T, E>,
) -> Result<Option<T>, E> {
    let mut done = None;
    loop {
        for Change { entry, settled, target } in changes.iter().filter(|change| change.settled.get()) {
            // What remains to be done follows from what is in memory.
            let Some(step) = kind.plan(&words(entry), target).next() else { continue };
            settled.set(false);
            for (word, &new) in entry.iter().zip(&step).filter(|(word, new)| word.load(Ordering::Relaxed) != **new) {
                // Release: the SMMU, which looks when it likes, must find what the structure leads to when it finds that it leads there.
                word.store(new, Ordering::Release);
            }
        }
        if changes.iter().all(|change| change.settled.get()) {
            return Ok(done);
        }
        done = Some(invalidate()?);
        changes.iter().for_each(|change| change.settled.set(true));
    }
}

/// [`change_all`] of one.
pub(super) fn change<T, E>(
    kind: &Kind,
    entry: &Structure,
    settled: &Cell<bool>,
    target: &[u64; WORDS],
    invalidate: impl FnMut() -> Result<T, E>,
) -> Result<Option<T>, E> {
    change_all(kind, &[Change { entry, settled, target }], invalidate)
}

#[cfg(test)]
mod tests;
