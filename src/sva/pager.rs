//! Demand paging: the fault handler that brings pages in.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::address_space::{AddressSpace, Effort, Resolution};
use crate::iopf::{Fault, FaultGroup, FaultHandler, Verdict, WorkQueues};
use crate::smmuv3::{PageResponse, SubstreamId};
use crate::sync::{Cpu, Masked};

/// Serves one stream's faults out of its address spaces: inline while zeroed frames are ready, by a worker otherwise.
pub struct DemandPager {
    spaces: Box<[(Option<SubstreamId>, Arc<AddressSpace>)]>,
    work: Arc<WorkQueues>,
}

impl DemandPager {
    /// A pager for a stream whose substreams use `spaces`; `None` is what the stream uses without a substream. What it can't
    /// answer at once waits in `work`.
    pub fn new(spaces: Box<[(Option<SubstreamId>, Arc<AddressSpace>)]>, work: Arc<WorkQueues>) -> Self {
        Self { spaces, work }
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
        self.work.push(masked, group);
    }

    /// Pages are zeroed with interrupts unmasked, so a group costs no other core a longer grace period.
    fn serve(&self, cpu: &Cpu, group: FaultGroup) {
        let answer = self.answer(|| group.faults(), Effort::Zero).unwrap_or(PageResponse::Invalid);
        // A late answer is no error here: whoever took the group back has answered it.
        let _ = cpu.masked(|masked| group.respond(masked, answer));
    }
}
