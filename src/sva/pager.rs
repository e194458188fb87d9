//! Demand paging: the fault handler that brings pages in.

use alloc::boxed::Box;
use alloc::sync::Arc;

use heapless::Deque;

use super::address_space::{AddressSpace, Effort, Resolution};
use crate::iopf::{Fault, FaultGroup, FaultHandler, Verdict};
use crate::smmuv3::{PageResponse, SubstreamId};
use crate::sync::lock::IrqLock;
use crate::sync::{Cpu, Masked};

/// The most groups that wait for a worker. One more is dropped, and so answered Invalid.
pub const DEFERRED_GROUPS: usize = 64;

/// Serves one stream's faults out of its address spaces: inline while zeroed frames are ready, by a worker otherwise.
pub struct DemandPager {
    spaces: Box<[(Option<SubstreamId>, Arc<AddressSpace>)]>,
    deferred: IrqLock<Deque<FaultGroup, DEFERRED_GROUPS>>,
    wake: Box<dyn Fn(&Masked) + Send + Sync>,
}

impl DemandPager {
    /// A pager for a stream whose substreams use `spaces`; `None` is what the stream uses without a substream. It calls
    /// `wake` when a group has come to wait for [`DemandPager::work`].
    pub fn new(
        spaces: Box<[(Option<SubstreamId>, Arc<AddressSpace>)]>,
        wake: Box<dyn Fn(&Masked) + Send + Sync>,
    ) -> Self {
        Self { spaces, deferred: IrqLock::new(Deque::new()), wake }
    }

    /// Whether a group waits for [`DemandPager::work`].
    pub fn is_waiting(&self, masked: &Masked) -> bool {
        !self.deferred.lock(masked).is_empty()
    }

    /// Answers the groups that wait, and returns how many: work for a core that has time.
    ///
    /// Pages are zeroed with interrupts unmasked, so a group costs no other core a longer grace period.
    pub fn work(&self, cpu: &Cpu) -> usize {
        let mut groups = 0;
        while let Some(group) = cpu.masked(|masked| self.deferred.lock(masked).pop_front()) {
            let answer = self.answer(|| group.faults(), Effort::Zero).unwrap_or(PageResponse::Invalid);
            // A late answer is no error here: whoever took the group back has answered it.
            let _ = cpu.masked(|masked| group.respond(masked, answer));
            groups += 1;
        }
        groups
    }

    /// The answer to a group, or `None` when a frame is missing. Nothing is undone then: a page that is there already
    /// stays, and the next attempt finds it.
    ///
    /// All of the group is looked at before any of it is mapped: a page that is mapped for a request which is then
    /// refused could let the device through by an early retry (3.12.2.2).
    fn answer<F: Iterator<Item = Fault>>(&self, faults: impl Fn() -> F, effort: Effort) -> Option<PageResponse> {
        let allowed = |fault: Fault| self.space(&fault).is_some_and(|space| space.allows(fault.address, fault.access));
        if !faults().all(allowed) {
            return Some(PageResponse::Invalid);
        }
        for fault in faults() {
            match self.space(&fault)?.resolve(fault.address, fault.access, effort) {
                Resolution::Mapped | Resolution::Present => {}
                Resolution::NoFrame => return None,
                Resolution::Refused => return Some(PageResponse::Invalid),
            }
        }
        Some(PageResponse::Success)
    }

    fn space(&self, fault: &Fault) -> Option<&AddressSpace> {
        self.spaces.iter().find(|(substream, _)| *substream == fault.substream).map(|(_, space)| &**space)
    }
}

impl FaultHandler for DemandPager {
    fn handle(&self, _: &Masked, faults: &[Fault]) -> Verdict {
        self.answer(|| faults.iter().copied(), Effort::Ready).map_or(Verdict::Defer, Verdict::Answer)
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        // The lock is let go before a group that found no room is dropped, and so answered.
        let refused = self.deferred.lock(masked).push_back(group);
        drop(refused);
        (self.wake)(masked);
    }
}
