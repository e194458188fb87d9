//! One window of a job under way: the accesses of its pieces, one after the other, and what they wait for.

use super::buffers::{BUFFERS_PER_ENGINE, Buffer};
use super::job::Job;
use super::registers::{hostile, status};
use super::{Engine, PAGE, Surroundings};
use crate::model::endpoint::{Response, Transaction};
use crate::model::memory::Memory;
use crate::model::smmu::{Issued, Polled, Slot};
use crate::model::wire::Wires;
use crate::smmuv3::{Access, PrgIndex};

/// What a lane waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing: its next access may start.
    Nothing,
    /// The access is at the SMMU, which holds it.
    Stall(Slot),
    /// The completion of a translation request, which arrives at this time.
    Completion { due: u32, denied: bool },
    /// The answer to a page request group.
    Group(PrgIndex),
}

/// Where the bytes are between the read and the second access of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing was read.
    Nothing,
    /// Up to 8 bytes, here.
    Word([u8; 8]),
    /// A page that all engines share.
    Page(Buffer),
}

/// A window under way.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// Offset of the current piece.
    offset: u64,
    /// Offset of the end of the window.
    end: u64,
    /// What was read of the piece, the first `length` bytes of it.
    pub(super) held: Held,
    length: u16,
    pub(super) wait: Wait,
}

/// An access of a lane.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) address: u64,
    pub(super) length: usize,
    pub(super) access: Access,
    /// The last byte of the range that it is part of.
    pub(super) last: u64,
}

/// How an attempt at an access went.
pub(super) enum Attempt {
    /// It has its response.
    Ended(Response),
    /// It waits for this now.
    Waits(Wait),
    /// Nothing came of it yet.
    NotYet,
    /// It cannot be made, for this reason: the job is aborted.
    Impossible(u32),
}

impl Lane {
    pub(super) fn new(window: core::ops::Range<u64>) -> Self {
        Self { offset: window.start, end: window.end, held: Held::Nothing, length: 0, wait: Wait::Nothing }
    }

    pub(super) fn step(&self, job: &Job) -> Step {
        let second = self.held != Held::Nothing;
        let (base, access) = job.side(second);
        Step {
            address: base.wrapping_add(self.offset),
            length: if second { self.length.into() } else { job.piece(self.offset, self.end) },
            access,
            last: base.saturating_add(job.length - 1),
        }
    }
}

impl Engine {
    /// Gives lane `index` its chance. Returns whether it did anything.
    pub(super) fn advance<M: Memory, W: Wires>(&mut self, index: usize, around: &mut Surroundings<'_, M, W>) -> bool {
        let Some(job) = self.job else { return false };
        let Some(Some(lane)) = self.lanes.get(index) else { return false };
        let (step, wait) = (lane.step(&job), lane.wait);
        let transaction =
            Transaction { stream: self.stream, substream: job.substream, address: step.address, access: step.access };
        let attempt = match wait {
            Wait::Stall(slot) => self.poll(slot, around),
            // Nothing of it is outstanding, so it goes when the job ends before its time.
            _ if job.end.is_some() || job.stopping => {
                self.remove(index, around);
                return true;
            }
            Wait::Group(_) => Attempt::NotYet,
            Wait::Completion { due, .. } if self.is_before(due) => return false,
            Wait::Completion { denied, .. } => self.complete(denied, &job, step, &transaction, around),
            Wait::Nothing if self.is_hostile(hostile::UNSUPPORTED) => {
                let translated = self.is_hostile(hostile::TRANSLATED);
                Attempt::Ended(around.smmu.unsupported(&transaction, translated, around.memory, around.wires))
            }
            Wait::Nothing if self.is_hostile(hostile::TRANSLATED) => {
                Attempt::Ended(around.smmu.translated(&transaction, around.memory, around.wires))
            }
            Wait::Nothing if self.translates() => self.access_by_ats(&job, step, &transaction, around),
            Wait::Nothing => self.access(&transaction, around),
        };
        match attempt {
            Attempt::NotYet => {
                if let Wait::Completion { .. } = wait {
                    self.wait(index, Wait::Nothing);
                }
                false
            }
            Attempt::Impossible(reason) => {
                self.fail(status::ABORTED, reason, step.address);
                self.remove(index, around);
                true
            }
            Attempt::Waits(wait) => {
                self.wait(index, wait);
                true
            }
            Attempt::Ended(response) => {
                self.wait(index, Wait::Nothing);
                match self.transfer(index, &job, step, response, around) {
                    Ok(length) => self.move_on(index, &job, length, around),
                    Err(end) => {
                        self.fail(end.state, end.reason, end.address);
                        self.remove(index, around);
                    }
                }
                true
            }
        }
    }

    fn wait(&mut self, index: usize, wait: Wait) {
        if let Some(Some(lane)) = self.lanes.get_mut(index) {
            lane.wait = wait;
        }
    }

    fn remove<M, W>(&mut self, index: usize, around: &mut Surroundings<'_, M, W>) {
        self.let_go(index, around);
        if let Some(slot) = self.lanes.get_mut(index) {
            *slot = None;
        }
    }

    /// Lane `index` needs what it read no more.
    fn let_go<M, W>(&mut self, index: usize, around: &mut Surroundings<'_, M, W>) {
        let Some(Some(lane)) = self.lanes.get_mut(index) else { return };
        if let Held::Page(buffer) = core::mem::replace(&mut lane.held, Held::Nothing) {
            around.buffers.give_back(buffer);
            self.buffers_held -= 1;
        }
    }

    /// Where lane `index` keeps up to `length` bytes: a shared page if one is to be had, else its own word.
    pub(super) fn hold<M, W>(&mut self, length: usize, around: &mut Surroundings<'_, M, W>) -> Held {
        let wants = length > 8 && self.buffers_held < BUFFERS_PER_ENGINE;
        match wants.then(|| around.buffers.take()).flatten() {
            Some(buffer) => {
                self.buffers_held += 1;
                Held::Page(buffer)
            }
            None => Held::Word([0; 8]),
        }
    }

    /// A plain access: the SMMU translates it, or lets it stall.
    fn access<M: Memory, W: Wires>(
        &mut self,
        transaction: &Transaction,
        around: &mut Surroundings<'_, M, W>,
    ) -> Attempt {
        match around.smmu.access(transaction, around.memory, around.wires) {
            Issued::Ended(response) => Attempt::Ended(response),
            Issued::Stalled { slot, recorded } => {
                self.count_record(recorded);
                Attempt::Waits(Wait::Stall(slot))
            }
            Issued::NoRoom => Attempt::NotYet,
        }
    }

    fn poll<M: Memory, W: Wires>(&mut self, slot: Slot, around: &mut Surroundings<'_, M, W>) -> Attempt {
        match around.smmu.poll(slot, around.memory, around.wires) {
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

    /// `length` bytes of lane `index` have been dealt with on one side: on to the destination, the next piece or the end
    /// of the window.
    fn move_on<M, W>(&mut self, index: usize, job: &Job, length: usize, around: &mut Surroundings<'_, M, W>) {
        let Some(Some(lane)) = self.lanes.get_mut(index) else { return };
        if job.operation.has_two_sides() && lane.length == 0 {
            lane.length = length.min(PAGE) as u16;
            return;
        }
        self.let_go(index, around);
        self.bytes_done += length as u64;
        let Some(slot) = self.lanes.get_mut(index) else { return };
        let Some(lane) = slot else { return };
        lane.length = 0;
        lane.offset += length as u64;
        if lane.offset >= lane.end {
            *slot = None;
        }
    }
}
