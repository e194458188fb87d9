//! Accesses by ATS, and page requests where it does not grant them.

use super::atc::{Space, Translation};
use super::job::Job;
use super::lane::{Attempt, Step, Wait};
use super::pri::{self, Group};
use super::registers::{ats_control, hostile, status};
use super::{Engine, PAGE, Surroundings};
use crate::model::endpoint::{Completion, GroupResponse, Transaction};
use crate::model::memory::Memory;
use crate::model::wire::Wires;
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{Access, PageResponse, PrgIndex, SubstreamId};

/// What a translation request came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grant {
    /// The access is granted.
    Granted,
    /// The access is not granted: a page request may help.
    Denied,
    /// The device may not ask.
    Refused,
}

impl Engine {
    /// Whether accesses go by ATS.
    pub(super) fn translates(&self) -> bool {
        self.ats_control & ats_control::ENABLE != 0 || self.is_hostile(hostile::TRANSLATION_REQUESTS)
    }

    pub(super) fn is_hostile(&self, mode: u32) -> bool {
        self.hostile & mode != 0
    }

    /// How many steps a completion takes.
    pub(super) fn latency(&self) -> u32 {
        self.ats_control >> ats_control::LATENCY & ats_control::LATENCY_MASK
    }

    /// An access to an address that ATS translated; where it does not, a page request.
    pub(super) fn access_by_ats<M: Memory, W: Wires>(
        &mut self,
        job: &Job,
        step: Step,
        transaction: &Transaction,
        around: &mut Surroundings<'_, M, W>,
    ) -> Attempt {
        if self.atc.look_up(transaction).is_some() {
            return self.translated_access(transaction, around);
        }
        let denied = match self.ask(transaction, around) {
            Grant::Granted => false,
            Grant::Denied => true,
            Grant::Refused => return Attempt::Impossible(status::TRANSLATION),
        };
        match self.latency() {
            0 => self.complete(denied, job, step, transaction, around),
            latency => Attempt::Waits(Wait::Completion { due: self.time.wrapping_add(latency), denied }),
        }
    }

    /// The completion of a translation request arrives.
    pub(super) fn complete<M: Memory, W: Wires>(
        &mut self,
        denied: bool,
        job: &Job,
        step: Step,
        transaction: &Transaction,
        around: &mut Surroundings<'_, M, W>,
    ) -> Attempt {
        self.atc.arrive(Space::of(transaction), transaction.address);
        if denied {
            return self.request_pages(job, step, transaction, around);
        }
        self.translated_access(transaction, around)
    }

    fn translated_access<M: Memory, W: Wires>(
        &mut self,
        transaction: &Transaction,
        around: &mut Surroundings<'_, M, W>,
    ) -> Attempt {
        match self.atc.look_up(transaction) {
            Some(physical) => {
                let translated = Transaction { address: physical.0, ..*transaction };
                Attempt::Ended(around.smmu.translated(&translated, around.memory, around.wires))
            }
            // It was invalidated on its way, and is asked for again.
            None => Attempt::Waits(Wait::Nothing),
        }
    }

    /// Sends a translation request for `transaction`. What it grants is kept, not yet to be used.
    fn ask<M: Memory, W: Wires>(&mut self, transaction: &Transaction, around: &mut Surroundings<'_, M, W>) -> Grant {
        let mut request = *transaction;
        request.access.write |= self.ats_control & ats_control::ASK_FOR_WRITE != 0;
        self.counters.translation_requests = self.counters.translation_requests.wrapping_add(1);
        match around.smmu.translation_request(&request, around.memory, around.wires) {
            Completion::Success { page, span, read, write, execute, .. } => {
                let translation = Translation { physical: page, bits: span, read, write, execute };
                if read || write {
                    self.atc.insert(Space::of(transaction), transaction.address, translation);
                }
                if translation.grants(transaction) { Grant::Granted } else { Grant::Denied }
            }
            Completion::UnsupportedRequest | Completion::CompleterAbort => Grant::Refused,
        }
    }

    /// Whether the page of `transaction` has to be asked for: not at hand, and not granted.
    fn lacks<M: Memory, W: Wires>(&mut self, transaction: &Transaction, around: &mut Surroundings<'_, M, W>) -> bool {
        if self.atc.look_up(transaction).is_some() {
            return false;
        }
        let grant = self.ask(transaction, around);
        self.atc.arrive(Space::of(transaction), transaction.address);
        grant == Grant::Denied
    }

    /// The PASID that page requests for `substream` carry.
    fn pasid_on_the_wire(&self, substream: Option<SubstreamId>) -> Option<SubstreamId> {
        let wrong = |pasid: SubstreamId| SubstreamId::from_low_bits(u64::from(pasid.get()) + 1);
        if self.is_hostile(hostile::WRONG_PASID) { substream.map(wrong) } else { substream }
    }

    /// Waits for the page of `transaction`: asks for it, and for those that the job needs after it, in one page request
    /// group.
    fn request_pages<M: Memory, W: Wires>(
        &mut self,
        job: &Job,
        step: Step,
        transaction: &Transaction,
        around: &mut Surroundings<'_, M, W>,
    ) -> Attempt {
        let substream = self.pasid_on_the_wire(job.substream);
        let first = transaction.address & !0xfff;
        if let Some(index) = self.pri.asked_for(substream, first) {
            return Attempt::Waits(Wait::Group(index));
        }
        let disabled = !self.pri.enabled() || self.pri.allocation() == 0;
        if disabled && !self.is_hostile(hostile::WHILE_DISABLED) {
            let reason = if self.pri.failed() { status::PAGE_FAILURE } else { status::TRANSLATION };
            return Attempt::Impossible(reason);
        }
        let credits = if self.is_hostile(hostile::NO_CREDITS) { u32::MAX } else { self.pri.credits() };
        let most = job.group_size.min(credits);
        if most == 0 {
            return Attempt::NotYet;
        }
        let mut group = Group::new(substream, first);
        for number in 1..most {
            let Some(page) = first.checked_add(u64::from(number) * PAGE as u64).filter(|&page| page <= step.last)
            else {
                break;
            };
            let ahead = Transaction { address: page, ..*transaction };
            if self.pri.asked_for(substream, page).is_none() && self.lacks(&ahead, around) {
                group.add(number);
            }
        }
        let reuse = self.is_hostile(hostile::REUSE_INDEX);
        let Some(index) = self.pri.open(group, reuse) else { return Attempt::NotYet };
        self.send_group(index, &group, transaction.access, around);
        if self.pri.is_open(index) {
            Attempt::Waits(Wait::Group(index))
        } else if self.pri.failed() {
            Attempt::Impossible(status::PAGE_FAILURE)
        } else {
            // Answered with success because the PRI queue overflows: to be asked again (8.1).
            Attempt::NotYet
        }
    }

    fn send_group<M: Memory, W: Wires>(
        &mut self,
        index: PrgIndex,
        group: &Group,
        access: Access,
        around: &mut Surroundings<'_, M, W>,
    ) {
        self.counters.groups = self.counters.groups.wrapping_add(1);
        for (number, address) in (1..).zip(group.pages()) {
            let last = number == group.len();
            if let Some(pasid) = group.substream.filter(|_| last && self.is_hostile(hostile::EARLY_STOP_MARKER)) {
                around.smmu.page_request(&pri::stop_marker(self.stream, pasid), around.memory, around.wires);
            }
            let last = last && !self.is_hostile(hostile::NO_LAST);
            let request =
                PageRequest { stream: self.stream, substream: group.substream, access, last, group: index, address };
            if self.send(&request, around) == Some(PageResponse::Failure) {
                break;
            }
        }
    }

    /// Sends one page request, and takes the automatic response if there is one.
    fn send<M: Memory, W: Wires>(
        &mut self,
        request: &PageRequest,
        around: &mut Surroundings<'_, M, W>,
    ) -> Option<PageResponse> {
        self.counters.page_requests = self.counters.page_requests.wrapping_add(1);
        let response = around.smmu.page_request(request, around.memory, around.wires)?;
        self.respond(&response);
        Some(response.response)
    }

    /// One page request of a storm: a group of its own, for the next page from DESTINATION on.
    pub(super) fn storm<M: Memory, W: Wires>(&mut self, around: &mut Surroundings<'_, M, W>) {
        let free = self.is_hostile(hostile::NO_CREDITS) || self.pri.credits() > 0;
        let enabled = self.is_hostile(hostile::WHILE_DISABLED) || self.pri.enabled();
        if !free || !enabled {
            return;
        }
        let Some(group) = self.pri.open_single() else { return };
        let page = u64::from(group.get()) * PAGE as u64;
        let request = PageRequest {
            stream: self.stream,
            substream: self.pasid_on_the_wire(self.setup.substream()),
            access: Access::WRITE,
            last: !self.is_hostile(hostile::NO_LAST),
            group,
            address: (self.setup.destination & !0xfff).wrapping_add(page),
        };
        self.counters.groups = self.counters.groups.wrapping_add(1);
        self.send(&request, around);
    }

    /// Sends the Stop marker whose time has come, if one has.
    pub(super) fn send_stop_marker<M: Memory, W: Wires>(&mut self, around: &mut Surroundings<'_, M, W>) -> bool {
        let busy = self.job.as_ref().and_then(|job| job.substream);
        let Some(substream) = self.pri.take_stop_marker(busy) else { return false };
        around.smmu.page_request(&pri::stop_marker(self.stream, substream), around.memory, around.wires);
        true
    }

    /// A page request group response arrives. Returns whether it answers an outstanding group.
    pub(super) fn respond(&mut self, response: &GroupResponse) -> bool {
        let Some(group) = self.pri.answer(response, self.response_needs_pasid) else {
            self.counters.unexpected = self.counters.unexpected.wrapping_add(1);
            return false;
        };
        if let Some(count) = self.counters.responses.get_mut(response.response as usize) {
            *count = count.wrapping_add(1);
        }
        let reason = match response.response {
            PageResponse::Success => None,
            PageResponse::Invalid => Some(status::PAGE_INVALID),
            PageResponse::Failure => Some(status::PAGE_FAILURE),
        };
        if !self.pri.is_open(group) {
            self.resume_waiting(group, reason);
        }
        true
    }

    /// Lets the lanes go on that wait for a group that is forgotten.
    pub(super) fn resume_forgotten(&mut self) {
        for lane in self.lanes.iter_mut().flatten() {
            if matches!(lane.wait, Wait::Group(index) if !self.pri.is_open(index)) {
                lane.wait = Wait::Nothing;
            }
        }
    }

    /// Lets the lanes that wait for the group `index` go on, or ends the job with the first of them for `reason`.
    fn resume_waiting(&mut self, index: PrgIndex, reason: Option<u32>) {
        let Some(job) = self.job else { return };
        let mut first = None;
        for lane in self.lanes.iter_mut().flatten().filter(|lane| lane.wait == Wait::Group(index)) {
            lane.wait = Wait::Nothing;
            first.get_or_insert(lane.step(&job).address);
        }
        if let (Some(reason), Some(address)) = (reason, first) {
            self.fail(status::ABORTED, reason, address);
        }
    }
}
