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
    /// There is one reference more.
    Taken,
    /// There is one reference more, and the count just saturated: the object is leaked from now on.
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

    /// Takes one more reference, unless there is none left.
    ///
    /// Relaxed: whoever gets here reached the object through a pointer read with acquire order, or holds a reference.
    pub fn try_get(&self) -> Get {
        if mutant!("get_without_zero_check") {
            self.0.fetch_add(1, Relaxed);
            return Get::Taken;
        }
        let more = |count| match count {
            0 | Self::SATURATED => None,
            _ => Some(count + 1),
        };
        match self.0.fetch_update(Relaxed, Relaxed, more) {
            Ok(before) if before + 1 == Self::SATURATED => Get::Saturated,
            Ok(_) | Err(Self::SATURATED) => Get::Taken,
            Err(_) => Get::Gone,
        }
    }

    /// Gives one reference back, and tells whether it was the last: then the object is the caller's alone.
    ///
    /// Release, so that all that was done with a reference comes before the last one's acquire fence.
    #[must_use = "the last one has to dispose of the object"]
    pub fn put(&self) -> bool {
        let order = if mutant!("put_relaxed") { Relaxed } else { Release };
        let less = |count| match count {
            // 0 is a caller's mistake, and the object's end is in somebody else's hands already.
            0 | Self::SATURATED if !mutant!("put_unsaturates") => None,
            _ => Some(count - 1),
        };
        let last = self.0.fetch_update(order, Relaxed, less) == Ok(1);
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
        assert_eq!(count.try_get(), Get::Taken);
        assert!(!count.put());
        assert!(count.put());
    }

    #[test]
    fn none_left_stays_none() {
        let count = RefCount::new(1);
        assert!(count.put());
        assert_eq!(count.try_get(), Get::Gone);
        assert!(!count.put());
        assert_eq!(count.count(), 0);
    }

    #[test]
    fn a_saturated_count_says_so_once_and_never_ends() {
        let count = RefCount::new(RefCount::SATURATED - 1);
        assert_eq!(count.try_get(), Get::Saturated);
        assert_eq!(count.try_get(), Get::Taken);
        for _ in 0..4 {
            assert!(!count.put());
        }
        assert_eq!(count.count(), 0xffff_ffff);
    }
}
