//! What the driver asks of the kernel and of device drivers.

use super::report::Report;
use crate::smmuv3::event::{Event, EventError};
use crate::sync::Masked;

/// A queue that the SMMU fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputQueue {
    /// The event queue.
    Events,
    /// The PRI queue.
    PageRequests,
}

/// Wakes the core that drains a queue.
pub trait Wake: Send + Sync {
    /// Makes the drainer of `queue` drain it soon, by an interrupt to its core for example. Never waits.
    fn wake(&self, masked: &Masked, queue: OutputQueue);
}

/// Takes the event records that are nobody's page fault: terminated accesses, configuration errors. And prints.
pub trait EventSink: Send + Sync {
    /// One record, in the drainer's masked section: takes note and returns. It is printed by [`report`](Self::report).
    fn event(&self, masked: &Masked, event: &Event);

    /// A record that is not defined (7.3), as the SMMU wrote it.
    fn undecodable(&self, masked: &Masked, words: [u64; 4], error: EventError);

    /// A line for whoever looks after the machine, [`LINES`](super::LINES) a second of each kind at most. In a masked section, on any core.
    fn report(&self, masked: &Masked, report: &Report<'_>) {
        let _ = masked;
        log::warn!("{report}");
    }
}

/// The device behind a stream, as far as taking faults away from it needs it. None of the methods waits.
pub trait DeviceControl {
    /// Starts no new work. Accesses already under way may go on.
    fn stop_new_work(&self);

    /// Whether no access is outstanding, stalled ones included.
    fn is_idle(&self) -> bool;

    /// Clears Enable of the page request interface: no new page requests.
    fn disable_page_requests(&self);

    /// Whether the page request interface has come to rest: its Stopped bit, no request without a response.
    fn page_requests_stopped(&self) -> bool;

    /// Has the page request interface, which is disabled, forget the requests that it has had no response for: its Reset bit.
    /// For groups whose records are lost, to which no response comes any more (8.2).
    fn reset_page_requests(&self);

    /// Sets Enable of the page request interface, which has come to rest, again, with the allocation that it had; a Response
    /// Failure that it had is cleared before.
    fn resume_page_requests(&self);

    /// Clears Enable of address translation services.
    fn disable_ats(&self);
}
