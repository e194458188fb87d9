//! Demand paging: the fault handler that brings pages in.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::slice;

use super::address_space::{AddressSpace, Effort, Resolution};
use super::page_in::Step;
use crate::iopf::{Decided, Fault, FaultGroup, FaultHandler, Verdict, WorkQueues};
use crate::smmuv3::{PageResponse, SubstreamId};
use crate::sync::{Cpu, Masked};

/// Serves one stream's faults out of its address spaces: inline while zeroed frames are ready, by a worker otherwise.
pub struct DemandPager {
    /// What the stream uses without a substream.
    own: Option<Arc<AddressSpace>>,
    spaces: Box<[(Option<SubstreamId>, Arc<AddressSpace>)]>,
    work: Arc<WorkQueues>,
}

impl DemandPager {
    /// A pager for a stream whose substreams use `spaces`; `None` is what the stream uses without a substream. What it can't
    /// answer at once waits in `work`.
    pub fn new(spaces: Box<[(Option<SubstreamId>, Arc<AddressSpace>)]>, work: Arc<WorkQueues>) -> Self {
        let own = spaces.iter().find(|(substream, _)| substream.is_none()).map(|(_, space)| Arc::clone(space));
        Self { own, spaces, work }
    }

    /// The answer to a group with pages that are there or come at once, or `None`. Nothing is undone then: a page that is
    /// there already stays, and the next attempt finds it.
    #[inline(never)]
    fn answer_at_once(&self, masked: &Masked, faults: &[Fault]) -> Option<PageResponse> {
        if faults.len() > 1 && !self.allows(faults.iter().copied()) {
            return Some(PageResponse::Invalid);
        }
        for fault in faults {
            if !self.come_at_once(masked, fault)? {
                return Some(PageResponse::Invalid);
            }
        }
        Some(PageResponse::Success)
    }

    /// The way of most faults, without a call: whether `fault` is the whole group, and its page is there now. What this leaves is
    /// for [`answer_at_once`](Self::answer_at_once).
    #[inline(always)]
    fn is_soon_there(&self, faults: &[Fault]) -> bool {
        let [fault] = faults else { return false };
        fault.substream.is_none()
            && self.own.as_deref().is_some_and(|space| {
                !space.page_ins().are_under_way() && space.resolve_soon(fault.address, fault.access)
            })
    }

    /// Whether the page that `fault` wants is there now, or is refused; `None` when it is on its way, or no frame is ready.
    fn come_at_once(&self, masked: &Masked, fault: &Fault) -> Option<bool> {
        let Some(space) = self.space(fault) else { return Some(false) };
        if space.page_ins().is_under_way(masked, fault.address, fault.access) {
            return None;
        }
        if space.resolve_soon(fault.address, fault.access) {
            return Some(true);
        }
        match space.resolve(fault.address, fault.access, Effort::Ready) {
            Resolution::Mapped | Resolution::Present => Some(true),
            Resolution::NoFrame => None,
            Resolution::Refused => Some(false),
        }
    }

    /// The answer to `group` when all of its pages could be brought in, or one could not; `None` when it waits for a page that
    /// is on its way, and is taken.
    fn bring_in(&self, cpu: &Cpu, group: &mut Option<FaultGroup>) -> Option<PageResponse> {
        if group.as_ref().is_some_and(|group| group.len() > 1 && !self.allows(group.faults())) {
            return Some(PageResponse::Invalid);
        }
        for next in 0..group.as_ref().map_or(0, FaultGroup::len) {
            let fault = group.as_ref().and_then(|group| group.faults().nth(next))?;
            if self.is_soon_there(slice::from_ref(&fault)) {
                continue;
            }
            let is_there = cpu.masked(|masked| self.come_at_once(masked, &fault));
            if !is_there.or_else(|| self.bring_in_one(cpu, &fault, group))? {
                return Some(PageResponse::Invalid);
            }
        }
        Some(PageResponse::Success)
    }

    /// Whether the page that `fault` wants could be brought in with as much time as it takes; `None` when `group` waits for it.
    fn bring_in_one(&self, cpu: &Cpu, fault: &Fault, group: &mut Option<FaultGroup>) -> Option<bool> {
        let Fault { address, access, .. } = *fault;
        let Some(space) = self.space(fault) else { return Some(false) };
        let step = cpu.masked(|masked| space.page_ins().join(masked, address, access, group));
        if step == Step::Wait {
            return None;
        }
        let is_there = match space.resolve(address, access, Effort::Zero) {
            Resolution::Mapped | Resolution::Present => true,
            Resolution::NoFrame | Resolution::Refused => false,
        };
        if step == Step::Lead {
            cpu.masked(|masked| space.page_ins().end(masked, &self.work, address, is_there));
        }
        Some(is_there)
    }

    /// Whether every access of a group is allowed. It is asked before any of the group is mapped: a page that is mapped for a
    /// request which is then refused could let the device through by an early retry (3.12.2.2). For a group of one, mapping
    /// its page asks.
    fn allows(&self, mut faults: impl Iterator<Item = Fault>) -> bool {
        faults.all(|fault| self.space(&fault).is_some_and(|space| space.allows(fault.address, fault.access)))
    }

    fn space(&self, fault: &Fault) -> Option<&AddressSpace> {
        self.spaces.iter().find(|(substream, _)| *substream == fault.substream).map(|(_, space)| &**space)
    }
}

impl FaultHandler for DemandPager {
    fn handle(&self, masked: &Masked, faults: &[Fault]) -> Verdict {
        if self.is_soon_there(faults) {
            return Verdict::Answer(PageResponse::Success);
        }
        self.answer_at_once(masked, faults).map_or(Verdict::Defer, Verdict::Answer)
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.work.push(masked, group);
    }

    /// Pages are zeroed with interrupts unmasked, so a group costs no other core a longer grace period.
    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        let mut group = Some(group);
        let answer = self.bring_in(cpu, &mut group)?;
        group.map(|group| group.decide(answer))
    }
}
