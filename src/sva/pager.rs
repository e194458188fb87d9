//! Demand paging: the fault handler that brings pages in.

use alloc::boxed::Box;
use alloc::sync::Arc;

use heapless::Vec;

use super::address_space::{AddressSpace, Effort, Resolution};
use super::page_in::Step;
use crate::iopf::{Fault, FaultGroup, FaultHandler, MAX_GROUP_REQUESTS, Verdict, WorkQueues};
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

    /// The answer to a group with pages that are there or come at once, or `None`. Nothing is undone then: a page that is
    /// there already stays, and the next attempt finds it.
    fn answer_at_once(&self, masked: &Masked, faults: &[Fault]) -> Option<PageResponse> {
        if !self.allows(faults) {
            return Some(PageResponse::Invalid);
        }
        for fault in faults {
            let space = self.space(fault)?;
            if space.page_ins().is_under_way(masked, fault.address, fault.access) {
                return None;
            }
            match space.resolve(fault.address, fault.access, Effort::Ready) {
                Resolution::Mapped | Resolution::Present => {}
                Resolution::NoFrame => return None,
                Resolution::Refused => return Some(PageResponse::Invalid),
            }
        }
        Some(PageResponse::Success)
    }

    /// The group with its answer when all of its pages could be brought in, or one could not; `None` when it waits for a
    /// page that is on its way.
    fn bring_in(&self, cpu: &Cpu, mut group: FaultGroup) -> Option<(FaultGroup, PageResponse)> {
        let faults: Vec<Fault, MAX_GROUP_REQUESTS> = group.faults().take(MAX_GROUP_REQUESTS).collect();
        if !self.allows(&faults) {
            return Some((group, PageResponse::Invalid));
        }
        for fault in &faults {
            let Fault { address, access, .. } = *fault;
            let Some(space) = self.space(fault) else { return Some((group, PageResponse::Invalid)) };
            if space.translate(address).is_some() {
                continue;
            }
            let leads;
            (group, leads) = match cpu.masked(|masked| space.page_ins().join(masked, address, access, group)) {
                Step::Lead(group) => (group, true),
                Step::Alone(group) => (group, false),
                Step::Wait => return None,
            };
            let resolution = space.resolve(address, access, Effort::Zero);
            let is_there = matches!(resolution, Resolution::Mapped | Resolution::Present);
            if leads {
                cpu.masked(|masked| space.page_ins().end(masked, &self.work, address, is_there));
            }
            if !is_there {
                return Some((group, PageResponse::Invalid));
            }
        }
        Some((group, PageResponse::Success))
    }

    /// Whether every access of a group is allowed. It is asked before any of the group is mapped: a page that is mapped for a
    /// request which is then refused could let the device through by an early retry (3.12.2.2).
    fn allows(&self, faults: &[Fault]) -> bool {
        faults.iter().all(|fault| self.space(fault).is_some_and(|space| space.allows(fault.address, fault.access)))
    }

    fn space(&self, fault: &Fault) -> Option<&AddressSpace> {
        self.spaces.iter().find(|(substream, _)| *substream == fault.substream).map(|(_, space)| &**space)
    }
}

impl FaultHandler for DemandPager {
    fn handle(&self, masked: &Masked, faults: &[Fault]) -> Verdict {
        self.answer_at_once(masked, faults).map_or(Verdict::Defer, Verdict::Answer)
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.work.push(masked, group);
    }

    /// Pages are zeroed with interrupts unmasked, so a group costs no other core a longer grace period.
    fn serve(&self, cpu: &Cpu, group: FaultGroup) {
        let Some((group, answer)) = self.bring_in(cpu, group) else { return };
        // A late answer is no error here: whoever took the group back has answered it.
        let _ = cpu.masked(|masked| group.respond(masked, answer));
    }
}
