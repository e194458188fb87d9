//! The end of one substream's page requests, while the master's others go on: PASID stop.
//!
//! A device that stops using a PASID sends a Stop marker behind the last page request for it (8). Until then its groups are refused, which
//! is what it waits for; behind it, requests with this PASID are of another use of it.

use super::MAX_MASTER_STREAMS;
use super::fault::{Answer, Kind};
use super::slot::GroupSlot;
use super::state::FaultState;
use super::substream::refuse;
use super::table::FaultTable;
use crate::smmuv3::{StreamId, SubstreamId};
use crate::sync::grace::{Grace, Ref};
use crate::sync::{Cpu, Masked};

/// Whose faults a state lets in: all, all but those of one substream, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gate(pub(super) u32);

impl Gate {
    pub(super) const OPEN: Self = Self(0);
    pub(super) const CLOSED: Self = Self(1);
    const STOPPING: u32 = 1 << 31;
    const MARKED: u32 = 1 << 30;

    /// Shut for one substream: SubstreamID in bits 19:0, the number of its stream among the master's in bits 23:20.
    const fn stopping(number: usize, substream: SubstreamId) -> Self {
        Self(Self::STOPPING | (number as u32) << 20 | substream.get())
    }

    /// And its Stop marker has come.
    pub(super) const fn marked(self) -> Self {
        Self(self.0 | Self::MARKED)
    }

    /// The substream that it is shut for, of a master with these `streams`.
    fn stopped(self, streams: &[StreamId]) -> Option<(StreamId, SubstreamId)> {
        let stream = streams.get(self.0 as usize >> 20 & 0xf).filter(|_| self.0 & Self::STOPPING != 0)?;
        Some((*stream, SubstreamId::from_low_bits(self.0.into())))
    }

    /// Whether it is shut for this substream, and not for others.
    pub(super) fn is_of(self, streams: &[StreamId], stream: StreamId, substream: Option<SubstreamId>) -> bool {
        self.stopped(streams).is_some_and(|(of, stopped)| of == stream && substream == Some(stopped))
    }
}

const _: () = assert!(MAX_MASTER_STREAMS <= 16);

/// Why a substream could not be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// The stream is not open, or was closed.
    #[error("{0:?} is not open")]
    NotOpen(StreamId),
    /// It has no page requests, so there are no Stop markers.
    #[error("{0:?} does not send page requests")]
    NoPageRequests(StreamId),
    /// Another substream of the master is being stopped.
    #[error("{substream:?} of {stream:?}, of the same master, is being stopped")]
    Busy {
        /// Its stream.
        stream: StreamId,
        /// Which it is.
        substream: SubstreamId,
    },
}

/// The right to answer for a substream whose use ends.
///
/// From the next grace period on its page requests are refused as they come: those with Last are answered Invalid, and the others are dropped.
/// Dropping this leaves it so, until [`FaultTable::stop_substream`] is called again for it, or the master is closed.
#[derive(Debug)]
#[must_use = "the substream's page requests are refused until it is finished"]
pub struct Stopping {
    state: Ref<FaultState>,
    gate: Gate,
}

impl FaultTable {
    /// Stops serving one substream of an open master that sends page requests. To be called before the device is told to stop using the PASID:
    /// it is the Stop marker that comes after this that [`Stopping::is_marked`] tells of. One substream of a master is stopped at a time.
    ///
    /// # Errors
    ///
    /// [`StopError`]; nothing has changed then.
    pub fn stop_substream(
        &self,
        masked: &Masked,
        stream: StreamId,
        substream: SubstreamId,
    ) -> Result<Stopping, StopError> {
        let state = self.get(masked, stream).ok_or(StopError::NotOpen(stream))?;
        if state.kind != Kind::Page {
            return Err(StopError::NoPageRequests(stream));
        }
        let number = state.streams.iter().position(|&own| own == stream).ok_or(StopError::NotOpen(stream))?;
        let gate = Gate::stopping(number, substream);
        match state.change_gate(Gate::OPEN, gate) {
            Ok(()) => {}
            // A call before this one has got so far.
            Err(shut) if shut == gate || shut == gate.marked() => {}
            Err(shut) => {
                let busy = |(stream, substream)| StopError::Busy { stream, substream };
                return Err(shut.stopped(&state.streams).map_or(StopError::NotOpen(stream), busy));
            }
        }
        Ok(Stopping { state, gate })
    }
}

impl Stopping {
    /// Whether the substream's Stop marker was taken out of the queue since it is refused.
    pub fn is_marked(&self) -> bool {
        self.state.gate() == self.gate.marked()
    }

    /// Answers what waits, Invalid unless an answer was decided before. Returns how many groups wait for their answer all the same, because it
    /// could not be sent, or another core is about to: try again. Partial groups want none ([`FaultTable::discard_partials`]).
    ///
    /// `grace` is a grace period that began after [`FaultTable::stop_substream`] and passed: so every report that did not see that has ended.
    pub fn answer_pending(&self, cpu: &Cpu, _grace: &Grace) -> usize {
        let is_its = |answer: &Answer| self.gate.is_of(&self.state.streams, answer.stream, answer.substream);
        let waits = |slot: &&GroupSlot| {
            cpu.masked(|masked| refuse(masked, &self.state, slot, |_, answer| is_its(answer)));
            let word = slot.word();
            word.wants_answer() && slot.answer(word, word.response()).is_some_and(|answer| is_its(&answer))
        };
        self.state.slots.iter().filter(waits).count()
    }

    /// The use of the substream has ended: faults with this SubstreamID, of a new one, are served.
    pub fn finish(self) {
        // Its groups that lost requests have no last one any more. Those of other substreams are forgotten with them, as an index has none: at
        // worst their last request is served by itself, and the device asks for the rest again.
        self.state.forget_cuts();
        // Closed meanwhile, it stays so.
        let _ = self.state.change_gate(self.gate, Gate::OPEN);
        let _ = self.state.change_gate(self.gate.marked(), Gate::OPEN);
    }
}
