//! Demand paging: the fault handler that brings pages in.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::address_space::{AddressSpace, Effort, Resolution};
use super::page_in::Step;
use crate::iopf::{Decided, Fault, FaultGroup, FaultHandler, Verdict, WorkQueues};
use crate::smmuv3::event::StallRun;
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
        let own = spaces.iter().find(|(substream, _)| substream.is_none()).map(|(_, space)| space.clone());
        Self { own, spaces, work }
    }

    /// The answer to a group with pages that are there or come at once, or `None`. Nothing is undone then: a page that is
    /// there already stays, and the next attempt finds it.
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

    /// Whether the page that `fault` wants is there now, or is refused; `None` when it is on its way, or no frame is ready.
    fn come_at_once(&self, masked: &Masked, fault: &Fault) -> Option<bool> {
        let Some(space) = self.space(fault.substream) else { return Some(false) };
        if space.page_ins().is_under_way(masked, fault.address, fault.access) {
            return None;
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
            if self.is_soon_there(&fault) {
                continue;
            }
            let is_there = cpu.masked(|masked| self.come_at_once(masked, &fault));
            if !is_there.or_else(|| self.bring_in_one(cpu, &fault, group))? {
                return Some(PageResponse::Invalid);
            }
        }
        Some(PageResponse::Success)
    }

    /// The way of most faults: whether the page that `fault` wants is there now, without a lock and without a walk.
    fn is_soon_there(&self, fault: &Fault) -> bool {
        self.space(fault.substream)
            .is_some_and(|space| !space.page_ins().are_under_way() && space.resolve_soon(fault.address, fault.access))
    }

    /// Whether the page that `fault` wants could be brought in with as much time as it takes; `None` when `group` waits for it.
    fn bring_in_one(&self, cpu: &Cpu, fault: &Fault, group: &mut Option<FaultGroup>) -> Option<bool> {
        let Fault { address, access, .. } = *fault;
        let Some(space) = self.space(fault.substream) else { return Some(false) };
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
        faults.all(|fault| self.space(fault.substream).is_some_and(|space| space.allows(fault.address, fault.access)))
    }

    fn space(&self, of: Option<SubstreamId>) -> Option<&AddressSpace> {
        if of.is_none() {
            return self.own.as_deref();
        }
        self.spaces.iter().find(|(substream, _)| *substream == of).map(|(_, space)| &**space)
    }
}

impl FaultHandler for DemandPager {
    fn handle(&self, masked: &Masked, faults: &[Fault]) -> Verdict {
        self.answer_at_once(masked, faults).map_or(Verdict::Defer, Verdict::Answer)
    }

    fn serve_at_once(&self, _: &Masked, stalls: StallRun<'_>) -> usize {
        let space = stalls.first().and_then(|first| self.space(first.substream()));
        // Who wants a page that is on its way, waits for it.
        let space = space.filter(|space| !space.page_ins().are_under_way());
        space.map_or(0, |space| space.resolve_run(stalls))
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
