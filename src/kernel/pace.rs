//! How much of the drainer's time the queues get.
//!
//! A device that asks without end keeps its queue full, and its interrupt handler always has a next batch. So while the core
//! has something else to do, the handler leaves it as long as it took itself: then it stays away, and an alarm calls it again.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use super::devices::{DRAINER, drain_again};
use super::interrupts::send;
use crate::arch::timer::{self, Alarm};
use crate::driver::{Drained, OutputQueue};
use crate::sync::Masked;

/// The most that it takes in advance, in microseconds.
const BURST_US: u64 = 2_000;

/// The drainer's debt. Written by that core alone.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the core has had as much time as the drains, in ticks of the counter.
    even_at: AtomicU64,
    /// The queues that wait for time: a bit each.
    waiting: AtomicU8,
    /// [`BURST_US`] in ticks.
    burst: u64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { even_at: AtomicU64::new(0), waiting: AtomicU8::new(0), burst: timer::us_to_ticks(BURST_US) }
    }

    /// Runs `drain`, one batch of `queue`, or has it called for when there is time for it again.
    pub(super) fn run(&self, masked: &Masked, queue: OutputQueue, drain: impl FnOnce() -> Drained) {
        let start = timer::ticks();
        let even_at = self.even_at.load(Relaxed).max(start);
        let early = (even_at - start).saturating_sub(self.burst);
        if early > 0 {
            return self.wait(masked, queue, early);
        }
        // An interrupt comes when a queue becomes non-empty only, so a rest calls for another batch.
        if drain().more {
            send(drain_again(queue), DRAINER);
        }
        self.even_at.store(even_at + 2 * (timer::ticks() - start), Relaxed);
    }

    /// Calls `queue` in `ticks`.
    #[cold]
    #[inline(never)]
    fn wait(&self, masked: &Masked, queue: OutputQueue, ticks: u64) {
        self.waiting.fetch_or(bit(queue), Relaxed);
        Alarm::set(masked, Duration::from_micros(timer::ticks_to_us(ticks)));
    }

    /// Calls the queues that wait. They wait again if it is too early.
    pub(super) fn resume(&self, _: &Masked) {
        let waiting = self.waiting.swap(0, Relaxed);
        let queues = [OutputQueue::Events, OutputQueue::PageRequests];
        queues
            .into_iter()
            .filter(|queue| waiting & bit(*queue) != 0)
            .for_each(|queue| send(drain_again(queue), DRAINER));
    }

    /// The core has nothing else to do.
    pub(super) fn forgive(&self, masked: &Masked) {
        self.even_at.store(0, Relaxed);
        self.resume(masked);
    }
}

const fn bit(queue: OutputQueue) -> u8 {
    1 << queue as u8
}
