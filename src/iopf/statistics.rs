//! What the fault core counts.
//!
//! A core adds to its own copy with a load and a store: interrupts are masked, so nothing comes between. A sum read
//! while other cores run may miss what they add at that moment.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::smmuv3::PageResponse;
use crate::sync::Masked;
use crate::sync::per_core::PerCore;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident $counter:ident,)+) => {
        /// What was counted, of one stream or of all.
        ///
        /// `groups` is the sum of the answers by code, `terminated`, and what still waits for an answer.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Statistics {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        /// One of the counters: [`Statistics`] says which.
        #[derive(Clone, Copy, Debug)]
        pub enum Counter {
            $($(#[doc = $doc])+ $counter,)+
            /// Stalls that were answered Success at once in a run: each is one of the records, groups, inline groups and answers Success, and
            /// counted here alone.
            Served,
        }

        const COUNTERS: usize = [$(Counter::$counter,)+ Counter::Served].len();

        impl Counters {
            /// The sums over all cores.
            pub fn read(&self) -> Statistics {
                let served = self.sum(Counter::Served);
                let mut sums = Statistics { $($field: self.sum(Counter::$counter),)+ };
                for sum in [&mut sums.records, &mut sums.groups, &mut sums.inline, &mut sums.success] {
                    *sum += served;
                }
                sums
            }
        }
    };
}

counters! {
    /// Faults reported.
    records Records,
    /// Stalls and page request groups with their last request, that got or will get one answer.
    groups Groups,
    /// Groups that the handler answered at once.
    inline Inline,
    /// Groups that the handler deferred.
    deferred Deferred,
    /// Answers Success.
    success Success,
    /// Answers Invalid.
    invalid Invalid,
    /// Answers Failure.
    failure Failure,
    /// Stop markers, which want no answer.
    stop_markers StopMarkers,
    /// Faults of a StreamID whose faults of that kind no one serves.
    unknown Unknown,
    /// Faults from before the stream was opened, refused without an answer.
    early Early,
    /// Faults after the stream was closed, or of a substream that is being stopped.
    closed Closed,
    /// Faults of which nothing had to be sent: stop markers, early ones, stalls after close, requests without Last that
    /// no one serves.
    swallowed Swallowed,
    /// Page requests dropped for want of room; the last request of their group is answered Invalid.
    cut Cut,
    /// Groups answered Invalid because of a limit.
    over_limit OverLimit,
    /// Groups that began while one with the same index waited for its answer.
    duplicates Duplicates,
    /// Partial groups dropped.
    discarded Discarded,
    /// Groups answered Invalid because their time was over.
    time_outs TimeOuts,
    /// Answers that came when the group was answered or its stream closed.
    late_answers LateAnswers,
    /// Attempts to send an answer that failed; each is tried again.
    not_sent NotSent,
    /// Stalls dropped without a command, because STALL_TERM answered them.
    terminated Terminated,
}

impl Statistics {
    /// Answers of every code.
    pub const fn answers(&self) -> u64 {
        self.success + self.invalid + self.failure
    }
}

/// Counters, a set for each core, in memory of their own. Public so that what counting costs can be measured.
#[derive(Debug)]
pub struct Counters(Box<[PerCore<[AtomicU64; COUNTERS]>; 1]>);

impl Counters {
    /// `None` without memory.
    pub fn new() -> Option<Self> {
        let counters = super::try_boxed(1, || Some(PerCore::new(|| [const { AtomicU64::new(0) }; COUNTERS])))?;
        counters.try_into().ok().map(Self)
    }

    /// Adds `count` to each of `counters`.
    pub fn add<const N: usize>(&self, masked: &Masked, counters: [Counter; N], count: u64) {
        let of_core = self.0[0].here(masked);
        for counter in counters {
            let own = &of_core[counter as usize];
            own.store(own.load(Relaxed).wrapping_add(count), Relaxed);
        }
    }

    fn sum(&self, counter: Counter) -> u64 {
        self.0[0].iter().map(|(_, of_core)| of_core[counter as usize].load(Relaxed)).sum()
    }
}

impl From<PageResponse> for Counter {
    fn from(response: PageResponse) -> Self {
        match response {
            PageResponse::Success => Self::Success,
            PageResponse::Invalid => Self::Invalid,
            PageResponse::Failure => Self::Failure,
        }
    }
}
