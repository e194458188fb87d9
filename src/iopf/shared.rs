//! What all streams of one table share.

use alloc::sync::Arc;
use core::cell::Cell;
use core::ops::Deref;

use spin::Once;

use super::batch::Moment;
use super::latency::Histogram;
use super::statistics::Counters;
use super::{Limits, PageResponder};
use crate::sync::Masked;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::grace::{Domain, ReadGuard};

/// How many slots a drain counts, and references it takes, at once when it defers several groups.
pub(super) const AT_ONCE: usize = 8;

/// The part of a table that outlives it as long as a group does.
pub(super) struct Shared {
    pub(super) domain: Arc<Domain>,
    pub(super) responder: Arc<dyn PageResponder>,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    pub(super) latencies: Histogram,
    pub(super) clock: Once<fn() -> u64>,
    slots_in_use: AtomicUsize,
    live: AtomicUsize,
}

impl Shared {
    /// `None` without memory.
    pub(super) fn new(domain: Arc<Domain>, responder: Arc<dyn PageResponder>, limits: Limits) -> Option<Self> {
        Some(Self {
            domain,
            responder,
            limits,
            counters: Counters::new()?,
            latencies: Histogram::new()?,
            clock: Once::new(),
            slots_in_use: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
        })
    }

    /// The time now, if there is a clock.
    pub(super) fn now(&self) -> Option<u64> {
        self.clock.get().map(|clock| clock())
    }

    /// Reports of `section`, which begin now.
    pub(super) fn moment<'a>(&'a self, section: &'a ReadGuard<'a>, masked: &'a Masked) -> Moment<'a> {
        Moment { section, masked, shared: self, began: self.now(), aside: Cell::new(0) }
    }

    // Both counts are relaxed: they bound, and order nothing.

    /// Counts slots in use, unless the limit over all streams is reached: up to `most` as long as four times [`AT_ONCE`] are left,
    /// else one. Returns how many.
    pub(super) fn reserve_slots(&self, most: usize) -> usize {
        let allowed = |n| match self.limits.groups.saturating_sub(n) {
            0 => 0,
            left if left < 4 * AT_ONCE => 1,
            _ => most,
        };
        let more = |n| Some(n + allowed(n)).filter(|&sum| sum > n);
        self.slots_in_use.fetch_update(Relaxed, Relaxed, more).map_or(0, allowed)
    }

    pub(super) fn release_slots(&self, count: usize) {
        if count > 0 {
            self.slots_in_use.fetch_sub(count, Relaxed);
        }
    }

    pub(super) fn slots_in_use(&self) -> usize {
        self.slots_in_use.load(Relaxed)
    }

    pub(super) fn live(&self) -> usize {
        self.live.load(Relaxed)
    }
}

/// One fault state's place under the bound on states, from before it is made until it is freed.
pub(super) struct Live(Arc<Shared>);

impl Live {
    /// `None` if as many states are live as may be.
    pub(super) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let more = |n| (n < shared.limits.states).then_some(n + 1);
        shared.live.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Self(Arc::clone(shared)))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Relaxed);
    }
}

impl Deref for Live {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
