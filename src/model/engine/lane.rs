//! One window of a job under way: the accesses of its pieces, one after the other, and what they wait for.

use super::job::{Job, Operation};
use super::pri::Group;
use super::registers::{ats_control, status};
use super::{End, Engine, PAGE};
use crate::model::endpoint::{Completion, Response, Transaction};
use crate::model::memory::{Abort, Memory};
use crate::model::smmu::{Issued, Polled, Slot, Smmu};
use crate::model::wire::Wires;
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{Access, PageResponse, PhysAddr, PrgIndex};

/// What a lane waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Nothing: its next access may start.
    Nothing,
    /// The access is at the SMMU, which holds it.
    Stall(Slot),
    /// The answer to a page request group.
    Group(PrgIndex),
}

/// A window under way.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// Offset of the current piece.
    offset: u64,
    /// Offset of the end of the window.
    end: u64,
    /// The source was read; what is left of the piece is the access to the destination.
    read: bool,
    wait: Wait,
}

/// An access of a lane.
#[derive(Clone, Copy)]
struct Step {
    address: u64,
    length: usize,
    access: Access,
    /// The last byte of the range that it is part of.
    last: u64,
}

/// How an attempt at an access went.
enum Attempt {
    /// It has its response.
    Ended(Response),
    /// It waits for this now.
    Waits(Wait),
    /// Nothing came of it yet, and nothing will before software does something.
    NotYet,
    /// It cannot be made, for this reason: the job is aborted.
    Impossible(u32),
}

/// What a translation request came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Translation {
    /// The access is granted.
    Granted,
    /// The access is not granted: a page request may help.
    Denied,
    /// The device may not ask.
    Refused,
}

impl Lane {
    pub(super) fn new(window: core::ops::Range<u64>) -> Self {
        Self { offset: window.start, end: window.end, read: false, wait: Wait::Nothing }
    }

    fn step(&self, job: &Job) -> Step {
        let (base, access) = match job.operation {
            Operation::Copy | Operation::Compare if !self.read => (job.source, Access::READ),
            Operation::Compare => (job.destination, Access::READ),
            Operation::Copy | Operation::Fill => (job.destination, Access::WRITE),
        };
        Step {
            address: base.wrapping_add(self.offset),
            length: job.piece(self.offset, self.end) as usize,
            access,
            last: base.saturating_add(job.length - 1),
        }
    }
}

impl Engine {
    /// Gives lane `index` its chance. Returns whether it did anything.
    pub(super) fn advance(
        &mut self,
        index: usize,
        smmu: &mut Smmu,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> bool {
        let Some(job) = self.job else { return false };
        let Some(Some(lane)) = self.lanes.get_mut(index) else { return false };
        let step = lane.step(&job);
        let transaction =
            Transaction { stream: self.stream, substream: job.substream, address: step.address, access: step.access };
        let attempt = match lane.wait {
            Wait::Stall(slot) => self.poll(slot, smmu, memory, wires),
            // Nothing of it is outstanding, so it goes when the job ends before its time.
            _ if job.end.is_some() || job.stopping => {
                self.remove(index);
                return true;
            }
            Wait::Group(_) => Attempt::NotYet,
            Wait::Nothing if self.ats_control & ats_control::ENABLE != 0 => {
                self.access_by_ats(&job, step, &transaction, smmu, memory, wires)
            }
            Wait::Nothing => self.access(&transaction, smmu, memory, wires),
        };
        match attempt {
            Attempt::NotYet => false,
            Attempt::Impossible(reason) => {
                self.fail(status::ABORTED, reason, step.address);
                self.remove(index);
                true
            }
            Attempt::Waits(wait) => {
                if let Some(Some(lane)) = self.lanes.get_mut(index) {
                    lane.wait = wait;
                }
                true
            }
            Attempt::Ended(response) => {
                match self.transfer(index, &job, step, response, memory) {
                    Ok(()) => self.move_on(index, &job, step),
                    Err(end) => {
                        self.fail(end.state, end.reason, end.address);
                        self.remove(index);
                    }
                }
                true
            }
        }
    }

    fn remove(&mut self, index: usize) {
        if let Some(slot) = self.lanes.get_mut(index) {
            *slot = None;
        }
    }

    /// A plain access: the SMMU translates it, or lets it stall.
    fn access(
        &mut self,
        transaction: &Transaction,
        smmu: &mut Smmu,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Attempt {
        match smmu.access(transaction, memory, wires) {
            Issued::Ended(response) => Attempt::Ended(response),
            Issued::Stalled { slot, recorded } => {
                self.count_record(recorded);
                Attempt::Waits(Wait::Stall(slot))
            }
            Issued::NoRoom => Attempt::NotYet,
        }
    }

    fn poll(&mut self, slot: Slot, smmu: &mut Smmu, memory: &impl Memory, wires: &mut impl Wires) -> Attempt {
        match smmu.poll(slot, memory, wires) {
            Polled::Stalled { recorded } => {
                self.count_record(recorded);
                Attempt::NotYet
            }
            Polled::Ended(response) => {
                let counter = match response {
                    Response::Physical(_) => &mut self.counters.stalls_retried,
                    Response::Abort | Response::Ignored => &mut self.counters.stalls_refused,
                };
                *counter = counter.wrapping_add(1);
                Attempt::Ended(response)
            }
        }
    }

    fn count_record(&mut self, recorded: bool) {
        self.counters.stalls = self.counters.stalls.wrapping_add(recorded.into());
    }

    /// An access to an address that ATS translated; where it does not, a page request.
    fn access_by_ats(
        &mut self,
        job: &Job,
        step: Step,
        transaction: &Transaction,
        smmu: &mut Smmu,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Attempt {
        match self.translate(transaction, smmu, memory, wires) {
            Translation::Granted => {}
            Translation::Denied => return self.request_pages(job, step, transaction, smmu, memory, wires),
            Translation::Refused => return Attempt::Impossible(status::TRANSLATION),
        }
        let Some(physical) = self.atc.look_up(job.substream, transaction.address, transaction.access) else {
            return Attempt::NotYet;
        };
        let translated = Transaction { address: physical.0, ..*transaction };
        Attempt::Ended(smmu.translated(&translated, memory, wires))
    }

    /// Finds out whether `transaction` is granted, from the translations at hand or by a translation request.
    fn translate(
        &mut self,
        transaction: &Transaction,
        smmu: &mut Smmu,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Translation {
        let Transaction { substream, address, access, .. } = *transaction;
        if self.atc.look_up(substream, address, access).is_some() {
            return Translation::Granted;
        }
        self.counters.translation_requests = self.counters.translation_requests.wrapping_add(1);
        match smmu.translation_request(transaction, memory, wires) {
            Completion::Success { page, read, write, .. } => {
                if read || write {
                    self.atc.insert(substream, address, page, read, write);
                }
                let granted = (read || !access.read) && (write || !access.write);
                if granted { Translation::Granted } else { Translation::Denied }
            }
            Completion::UnsupportedRequest | Completion::CompleterAbort => Translation::Refused,
        }
    }

    /// Waits for the page of `transaction`: asks for it, and for those that the job needs after it, in one page request
    /// group.
    fn request_pages(
        &mut self,
        job: &Job,
        step: Step,
        transaction: &Transaction,
        smmu: &mut Smmu,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Attempt {
        let first = transaction.address & !0xfff;
        if let Some(index) = self.pri.asked_for(job.substream, first) {
            return Attempt::Waits(Wait::Group(index));
        }
        if self.pri.failed() {
            return Attempt::Impossible(status::PAGE_FAILURE);
        }
        if !self.pri.enabled() || self.pri.allocation() == 0 {
            return Attempt::Impossible(status::TRANSLATION);
        }
        let most = job.group_size.min(self.pri.credits());
        if most == 0 {
            return Attempt::NotYet;
        }
        let mut group = Group::new(job.substream);
        group.add(first);
        let next = (1..most as u64).map_while(|number| first.checked_add(number * PAGE as u64));
        for page in next.take_while(|&page| page <= step.last) {
            let ahead = Transaction { address: page, ..*transaction };
            if self.pri.asked_for(job.substream, page).is_none()
                && self.translate(&ahead, smmu, memory, wires) == Translation::Denied
            {
                group.add(page);
            }
        }
        let Some(index) = self.pri.open(group) else { return Attempt::NotYet };
        self.send_group(index, &group, transaction.access, smmu, memory, wires);
        if self.pri.is_open(index) {
            Attempt::Waits(Wait::Group(index))
        } else if self.pri.failed() {
            Attempt::Impossible(status::PAGE_FAILURE)
        } else {
            // Answered with success because the PRI queue overflows: to be asked again (8.1).
            Attempt::NotYet
        }
    }

    fn send_group(
        &mut self,
        index: PrgIndex,
        group: &Group,
        access: Access,
        smmu: &mut Smmu,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) {
        self.counters.groups = self.counters.groups.wrapping_add(1);
        let pages = group.pages();
        for (number, &address) in pages.iter().enumerate() {
            self.counters.page_requests = self.counters.page_requests.wrapping_add(1);
            let last = number + 1 == pages.len();
            let request =
                PageRequest { stream: self.stream, substream: group.substream, access, last, group: index, address };
            if let Some(response) = smmu.page_request(&request, memory, wires) {
                self.respond(&response);
                if response.response == PageResponse::Failure {
                    break;
                }
            }
        }
    }

    /// Lets the lanes that wait for the group `index` go on, or ends the job with the first of them for `reason`.
    pub(super) fn resume_waiting(&mut self, index: PrgIndex, reason: Option<u32>) {
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

    /// Moves the data of `step`, which has its response.
    fn transfer(
        &mut self,
        index: usize,
        job: &Job,
        step: Step,
        response: Response,
        memory: &impl Memory,
    ) -> Result<(), End> {
        let refused = End { state: status::ABORTED, reason: status::ACCESS, address: step.address };
        let Some(buffer) = self.buffers.get_mut(index).and_then(|buffer| buffer.get_mut(..step.length)) else {
            return Err(refused);
        };
        let second = self.lanes.get(index).is_some_and(|lane| lane.as_ref().is_some_and(|lane| lane.read));
        let physical = match response {
            Response::Abort => return Err(refused),
            Response::Physical(physical) => Some(physical),
            Response::Ignored => None,
        };
        if step.access.write {
            if job.operation == Operation::Fill {
                fill(buffer, job.pattern, step.address);
            }
            match physical {
                Some(physical) => memory.write(physical, buffer).map_err(|Abort| refused),
                None => Ok(()),
            }
        } else if second {
            match first_difference(buffer, physical, memory) {
                Ok(None) => Ok(()),
                Ok(Some(at)) => Err(End { state: status::MISMATCH, reason: 0, address: step.address.wrapping_add(at) }),
                Err(Abort) => Err(refused),
            }
        } else {
            match physical {
                Some(physical) => memory.read(physical, buffer).map_err(|Abort| refused),
                None => {
                    buffer.fill(0);
                    Ok(())
                }
            }
        }
    }

    /// `step` of lane `index` is done: on to the destination, the next piece or the end of the window.
    fn move_on(&mut self, index: usize, job: &Job, step: Step) {
        let Some(slot) = self.lanes.get_mut(index) else { return };
        let Some(lane) = slot else { return };
        lane.wait = Wait::Nothing;
        if !lane.read && job.operation != Operation::Fill {
            lane.read = true;
            return;
        }
        lane.read = false;
        lane.offset += step.length as u64;
        self.bytes_done += step.length as u64;
        if lane.offset >= lane.end {
            *slot = None;
        }
    }
}

/// Fills `buffer`, which goes to `address`, with `pattern`.
fn fill(buffer: &mut [u8], pattern: u64, address: u64) {
    let bytes = pattern.to_le_bytes();
    for (byte, at) in buffer.iter_mut().zip(address % 8..) {
        *byte = bytes[(at % 8) as usize];
    }
}

/// Where `expected` differs from memory at `physical`, or from zeros where that is `None`.
fn first_difference(expected: &[u8], physical: Option<PhysAddr>, memory: &impl Memory) -> Result<Option<u64>, Abort> {
    const CHUNK: usize = 256;
    let mut bytes = [0; CHUNK];
    for (number, expected) in expected.chunks(CHUNK).enumerate() {
        let offset = (number * CHUNK) as u64;
        let actual = bytes.get_mut(..expected.len()).unwrap_or_default();
        if let Some(physical) = physical {
            memory.read(PhysAddr(physical.0 + offset), actual)?;
        }
        if let Some(at) = expected.iter().zip(&*actual).position(|(a, b)| a != b) {
            return Ok(Some(offset + at as u64));
        }
    }
    Ok(None)
}
