//! How long answers took.
//!
//! Measured if the table has a clock, from the beginning of the batch in which a group was reported complete, until its answer was
//! decided or, if it was deferred, sent. Stalls that were answered Success at once together are measured together. Each core adds
//! to its own copy, as for the counters.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::sync::Masked;
use crate::sync::per_core::PerCore;

/// The number of buckets.
pub const BUCKETS: usize = 32;

/// How many answers took how long, in ticks of the table's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Bucket 0 counts answers that took no tick, bucket n those from 2^(n-1) to 2^n - 1 ticks, the last one all that took
    /// longer too.
    pub buckets: [u64; BUCKETS],
}

impl Latencies {
    /// How many answers were measured.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The ticks below which `percent` of the answers stayed, rounded up to a power of two. `None` if that is beyond the
    /// buckets, or if nothing was measured.
    pub fn below(&self, percent: u64) -> Option<u64> {
        let wanted = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().take(BUCKETS - 1).position(|of_bucket| {
            seen += of_bucket;
            seen >= wanted
        })?;
        Some(1 << bucket)
    }
}

/// The buckets, a set for each core, in memory of their own. Public so that what measuring costs can be measured.
#[derive(Debug)]
pub struct Histogram(Box<[PerCore<[AtomicU64; BUCKETS]>; 1]>);

impl Histogram {
    /// `None` without memory.
    pub fn new() -> Option<Self> {
        let buckets = super::try_boxed(1, || Some(PerCore::new(|| [const { AtomicU64::new(0) }; BUCKETS])))?;
        buckets.try_into().ok().map(Self)
    }

    /// Counts `answers` that took `ticks`.
    pub fn add(&self, masked: &Masked, ticks: u64, answers: u64) {
        let bucket = (u64::BITS - ticks.leading_zeros()) as usize;
        if let Some(own) = self.0[0].here(masked).get(bucket.min(BUCKETS - 1)) {
            own.store(own.load(Relaxed).wrapping_add(answers), Relaxed);
        }
    }

    /// The sums over all cores.
    pub fn read(&self) -> Latencies {
        let mut buckets = [0; BUCKETS];
        for (_, of_core) in self.0[0].iter() {
            buckets.iter_mut().zip(of_core).for_each(|(sum, own)| *sum += own.load(Relaxed));
        }
        Latencies { buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Cpu;

    #[test]
    fn a_time_is_in_the_bucket_of_the_next_power_of_two() {
        let histogram = Histogram::new().unwrap();
        for core in 0..2 {
            Cpu::of_test(core).masked(|masked| {
                [0, 1, 2, 3, 4, 1 << 30, 1 << 31, u64::MAX]
                    .into_iter()
                    .for_each(|ticks| histogram.add(masked, ticks, 1));
            });
        }
        let mut expected = [0; BUCKETS];
        expected[..4].copy_from_slice(&[2, 2, 4, 2]);
        expected[31] = 6;
        assert_eq!(histogram.read().buckets, expected);
    }

    #[test]
    fn a_share_of_the_times_is_below_a_power_of_two() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.below(50), None);
        // 98 of at most 7 ticks, one of up to 1023, one too long.
        (latencies.buckets[3], latencies.buckets[10], latencies.buckets[31]) = (98, 1, 1);
        assert_eq!([50, 98, 99, 100].map(|percent| latencies.below(percent)), [Some(8), Some(8), Some(1024), None]);
    }
}
