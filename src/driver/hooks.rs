//! What the driver asks of the kernel and of device drivers.

use super::report::Report;
use crate::smmuv3::event::{Event, EventError};
use crate::smmuv3::{StreamId, SubstreamId};
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

/// The device behind streams, all its StreamIDs together, as far as giving its faults to a handler and taking them back needs it. None of
/// the methods waits.
///
/// A device whose faults stall has nothing to do in those about ATS and page requests, which are not called for it. One with ATS alone
/// ([`FaultMode::Ats`](super::FaultMode::Ats)) has them for ATS and for the end of PASIDs, without Stop markers.
pub trait DeviceControl {
    /// Starts no new work. Accesses already under way may go on.
    fn stop_new_work(&self);

    /// Whether no access is outstanding, stalled ones included.
    fn is_idle(&self) -> bool;

    /// Whether responses to its page requests have to carry the PASID of the request: "PRG Response PASID Required".
    fn response_needs_pasid(&self) -> bool;

    /// Sets Enable of address translation services, with the smallest translation unit that the driver invalidates by, 4 KiB (STU = 0, 3.9.1).
    /// PASIDs, if it uses any, are enabled at the device before: with ATS on PCIe leaves undefined what a change of that does.
    fn enable_ats(&self);

    /// Clears Enable of address translation services.
    fn disable_ats(&self);

    /// Sets the Outstanding Page Request Allocation of the page request interface, and then Enable. It is disabled and at rest, without a
    /// Response Failure.
    fn enable_page_requests(&self, allocation: u32);

    /// Clears Enable of the page request interface: no new page requests.
    fn disable_page_requests(&self);

    /// Whether the page request interface has come to rest: its Stopped bit, no request without a response. One that is enabled has not, whatever
    /// the bit, which means nothing then.
    fn page_requests_stopped(&self) -> bool;

    /// Whether the page request interface was told to send no more: its Response Failure bit.
    fn page_requests_failed(&self) -> bool;

    /// Has the page request interface, which is disabled, forget the requests that it has had no response for, by its Reset bit, and a
    /// Response Failure.
    fn reset_page_requests(&self);

    /// Whether a Stop marker tells the end of a PASID's use (8). A device may do without, which PCIe leaves to it: it is done with a PASID when
    /// it has the responses to all page requests for it. Unless this is overridden, it sends one.
    fn sends_stop_markers(&self) -> bool {
        true
    }

    /// Ends the use of a PASID by one of its StreamIDs, by the device's own means: it begins nothing new with it, and sends a Stop marker behind
    /// the last page request for it, if it sends any. Others go on. It is called again where that took too long, or an overflow (8.1) or
    /// an abort of the PRI queue may have cost the marker.
    fn stop_substream(&self, stream: StreamId, substream: SubstreamId);

    /// Whether that is done: nothing is under way with the PASID, and without a Stop marker no page request for it waits for its response.
    fn substream_stopped(&self, stream: StreamId, substream: SubstreamId) -> bool;
}
