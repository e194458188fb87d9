//! Reference counts that never come back from 0 and never wrap.

use super::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use super::mutant::mutant;

/// How many references an object has.
///
/// It saturates: a count that reached [`SATURATED`](Self::SATURATED) stays there, so its object is leaked instead of
/// being freed too early.
#[derive(Debug)]
pub struct RefCount(AtomicU32);

/// What [`RefCount::try_get`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Get {
    /// There are as many references more.
    Taken,
    /// As for [`Taken`](Self::Taken), and the count just saturated: the object is leaked from now on.
    Saturated,
    /// The count was 0, and is still.
    Gone,
}

impl RefCount {
    /// The count that never changes again.
    pub const SATURATED: u32 = u32::MAX;

    /// A count of `references`.
    #[cfg(not(loom))]
    pub const fn new(references: u32) -> Self {
        Self(AtomicU32::new(references))
    }

    /// A count of `references`.
    #[cfg(loom)]
    pub fn new(references: u32) -> Self {
        Self(AtomicU32::new(references))
    }

    /// Takes `more` references, unless there is none left.
    ///
    /// Relaxed: whoever gets here reached the object through a pointer read with acquire order, or holds a reference.
    pub fn try_get(&self, more: u32) -> Get {
        if mutant!("get_without_zero_check") {
            self.0.fetch_add(more, Relaxed);
            return Get::Taken;
        }
        let sum = |count: u32| match count {
            0 | Self::SATURATED => None,
            _ => Some(count.saturating_add(more)),
        };
        match self.0.fetch_update(Relaxed, Relaxed, sum) {
            Ok(before) if before.saturating_add(more) == Self::SATURATED => Get::Saturated,
            Ok(_) | Err(Self::SATURATED) => Get::Taken,
            Err(_) => Get::Gone,
        }
    }

    /// Gives `fewer` references back, and tells whether the last was among them: then the object is the caller's alone.
    ///
    /// Release, so that all that was done with a reference comes before the last one's acquire fence.
    #[must_use = "the last one has to dispose of the object"]
    pub fn put(&self, fewer: u32) -> bool {
        let order = if mutant!("put_relaxed") { Relaxed } else { Release };
        let rest = |count: u32| match count {
            Self::SATURATED if !mutant!("put_unsaturates") => None,
            // More than there are is a caller's mistake, and the object's end is in somebody else's hands already.
            _ => count.checked_sub(fewer),
        };
        let last = self.0.fetch_update(order, Relaxed, rest) == Ok(fewer);
        if last && !mutant!("put_without_acquire") {
            // Pairs with the release of every earlier put.
            fence(Acquire);
        }
        last
    }

    /// The count at some moment, for reports.
    pub fn count(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_reference_tells_that_it_was() {
        let count = RefCount::new(1);
        assert_eq!(count.try_get(1), Get::Taken);
        assert!(!count.put(1));
        assert!(count.put(1));
    }

    #[test]
    fn none_left_stays_none() {
        let count = RefCount::new(1);
        assert!(count.put(1));
        assert_eq!(count.try_get(1), Get::Gone);
        assert!(!count.put(1));
        assert_eq!(count.count(), 0);
    }

    #[test]
    fn a_saturated_count_says_so_once_and_never_ends() {
        let count = RefCount::new(RefCount::SATURATED - 1);
        assert_eq!(count.try_get(1), Get::Saturated);
        assert_eq!(count.try_get(1), Get::Taken);
        for _ in 0..4 {
            assert!(!count.put(1));
        }
        assert_eq!(count.count(), 0xffff_ffff);
    }

    #[test]
    fn several_are_taken_and_given_back_at_once() {
        let count = RefCount::new(1);
        assert_eq!(count.try_get(8), Get::Taken);
        assert!(!count.put(2));
        assert_eq!(count.count(), 7);
        assert!(!count.put(8), "more than there are");
        assert!(count.put(7));
        assert_eq!(count.try_get(8), Get::Gone);
        assert_eq!(RefCount::new(RefCount::SATURATED - 3).try_get(8), Get::Saturated);
    }
}
