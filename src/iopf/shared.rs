//! What all streams of one table share.

use alloc::sync::Arc;
use core::ops::Deref;

use spin::Once;

use super::latency::Histogram;
use super::statistics::Counters;
use super::{Limits, PageResponder};
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::grace::Domain;

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

    // Both counts are relaxed: they bound, and order nothing.
    fn add_below(count: &AtomicUsize, limit: usize) -> bool {
        count.fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1)).is_ok()
    }

    /// Counts one more slot in use, unless the limit over all streams is reached.
    pub(super) fn reserve_slot(&self) -> bool {
        Self::add_below(&self.slots_in_use, self.limits.groups)
    }

    pub(super) fn release_slot(&self) {
        self.slots_in_use.fetch_sub(1, Relaxed);
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
        Shared::add_below(&shared.live, shared.limits.states).then(|| Self(Arc::clone(shared)))
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
