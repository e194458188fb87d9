//! Handlers of single substreams, in place of their stream's.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use embedded_hal::delay::DelayNs;
use spin::Once;

use super::fault::Answer;
use super::slot::{GroupSlot, State, Word};
use super::state::FaultState;
use super::table::FaultTable;
use super::{FaultHandler, try_boxed};
use crate::smmuv3::{PageResponse, StreamId, SubstreamId};
use crate::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::grace::{Counted, Domain, GraceTimeout, ReadGuard, Ref, Slot};
use crate::sync::mutant::mutant;
use crate::sync::{Cpu, Masked};

/// The most substreams of one master that have handlers of their own.
pub const MAX_SUBSTREAM_HANDLERS: usize = 16;

/// A substream's handler. A group that it deferred owns a reference.
pub(super) struct Special {
    stream: StreamId,
    substream: SubstreamId,
    pub(super) handler: Arc<dyn FaultHandler>,
}

impl fmt::Debug for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Special")
            .field("stream", &self.stream)
            .field("substream", &self.substream)
            .finish_non_exhaustive()
    }
}

/// The substreams of one master that have handlers of their own.
pub(super) struct Specials {
    /// Made for the first of them.
    slots: Once<Box<[Slot<Special>; MAX_SUBSTREAM_HANDLERS]>>,
    /// Someone sets or removes one.
    changing: AtomicBool,
}

/// Why a substream's handler could not be set or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubstreamError {
    /// The stream is not open.
    #[error("{0:?} is not open")]
    NotOpen(StreamId),
    /// Another call sets or removes a handler of this master.
    #[error("the handlers of {0:?} are being changed")]
    Busy(StreamId),
    /// The substream has a handler of its own.
    #[error("{0:?} has a handler already")]
    Taken(SubstreamId),
    /// The substream has none of its own.
    #[error("{0:?} has no handler of its own")]
    NotSet(SubstreamId),
    /// [`MAX_SUBSTREAM_HANDLERS`] of this master's have one.
    #[error("{0:?} has as many handlers as may be")]
    Full(StreamId),
    /// The heap is full.
    #[error("no memory for a handler of {0:?}")]
    NoMemory(StreamId),
    /// Reports may still be under way on these cores. The handler is in its place as before.
    #[error(transparent)]
    Grace(#[from] GraceTimeout),
}

impl Specials {
    pub(super) fn new() -> Self {
        Self { slots: Once::new(), changing: AtomicBool::new(false) }
    }

    /// The own handler of a substream, if there is one.
    #[inline(always)]
    pub(super) fn find<'g>(
        &self,
        section: &'g ReadGuard<'_>,
        stream: StreamId,
        substream: Option<SubstreamId>,
    ) -> Option<&'g Counted<Special>> {
        self.find_slot(section, stream, substream?).map(|(_, special)| special)
    }

    #[inline(never)]
    fn find_slot<'g>(
        &self,
        section: &'g ReadGuard<'_>,
        stream: StreamId,
        substream: SubstreamId,
    ) -> Option<(&Slot<Special>, &'g Counted<Special>)> {
        let mut set = self.slots.get()?.iter().filter_map(|slot| Some((slot, slot.load(section)?)));
        set.find(|(_, special)| special.stream == stream && special.substream == substream)
    }

    /// Runs `change`, unless somebody else is at it.
    fn change<T>(
        &self,
        stream: StreamId,
        change: impl FnOnce() -> Result<T, SubstreamError>,
    ) -> Result<T, SubstreamError> {
        // A lock: pairs with the store below.
        let order = if mutant!("changing_unread") { Relaxed } else { Acquire };
        if self.changing.swap(true, order) {
            return Err(SubstreamError::Busy(stream));
        }
        let changed = change();
        self.changing.store(false, if mutant!("changing_relaxed") { Relaxed } else { Release });
        changed
    }

    fn set(&self, domain: &Arc<Domain>, masked: &Masked, special: Special) -> Result<(), SubstreamError> {
        let Special { stream, substream, .. } = special;
        let no_memory = SubstreamError::NoMemory(stream);
        let slots = self.slots.try_call_once(|| {
            let slots = try_boxed(MAX_SUBSTREAM_HANDLERS, || Some(Slot::new(Arc::clone(domain))));
            slots.and_then(|slots| slots.try_into().ok()).ok_or(no_memory)
        })?;
        let section = domain.read(masked);
        if self.find_slot(&section, stream, substream).is_some() {
            return Err(SubstreamError::Taken(substream));
        }
        let free = slots.iter().find(|slot| slot.load(&section).is_none()).ok_or(SubstreamError::Full(stream))?;
        let special = Ref::new(domain, special).map_err(|_| no_memory)?;
        // Empty, and nobody else fills it.
        let _ = free.publish(special);
        Ok(())
    }
}

impl FaultTable {
    /// Has `handler` decide about the faults of `substream` of an open stream, in place of the stream's handler.
    ///
    /// # Errors
    ///
    /// [`SubstreamError`]; nothing has changed then.
    pub fn set_substream_handler(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        substream: SubstreamId,
        handler: Arc<dyn FaultHandler>,
    ) -> Result<(), SubstreamError> {
        let state = cpu.masked(|masked| self.get(masked, stream)).ok_or(SubstreamError::NotOpen(stream))?;
        let special = Special { stream, substream, handler };
        state.specials.change(stream, || cpu.masked(|masked| state.specials.set(&state.shared.domain, masked, special)))
    }

    /// Gives the faults of `substream` back to the stream's handler. When it returns, the substream's handler is not called for
    /// new faults any more, and what it had deferred is answered, Invalid unless an answer was decided before. Returns how many
    /// groups that was; answers that the responder can't send are not among them, and tried again by
    /// [`expire`](FaultTable::expire). The handler is let go with the last of these groups.
    ///
    /// Waits for a grace period, at most `limit_us` microseconds. Partial groups go to the stream's handler when they are
    /// complete; for a PASID that the device stops using, [`FaultTable::stop_substream`] drops them.
    ///
    /// # Errors
    ///
    /// [`SubstreamError`]; nothing has changed then.
    pub fn remove_substream_handler(
        &self,
        cpu: &mut Cpu,
        delay: &mut impl DelayNs,
        stream: StreamId,
        substream: SubstreamId,
        limit_us: u32,
    ) -> Result<usize, SubstreamError> {
        let state = cpu.masked(|masked| self.get(masked, stream)).ok_or(SubstreamError::NotOpen(stream))?;
        let domain = &state.shared.domain;
        state.specials.change(stream, || {
            let (slot, special) = cpu
                .masked(|masked| {
                    let section = domain.read(masked);
                    let (slot, _) = state.specials.find_slot(&section, stream, substream)?;
                    slot.unpublish().map(|special| (slot, special))
                })
                .ok_or(SubstreamError::NotSet(substream))?;
            // Reports that found the handler are over then: their groups are answered, or in slots.
            if let Err(error) = domain.synchronize(cpu, delay, limit_us) {
                let _ = slot.publish(special);
                return Err(error.into());
            }
            let is_its = |word: Word, answer: &Answer| {
                word.is_special() && answer.stream == stream && answer.substream == Some(substream)
            };
            let refuse = |slot| cpu.masked(|masked| refuse(masked, &state, slot, is_its));
            Ok(state.slots.iter().filter(|slot| refuse(slot)).count())
        })
    }
}

/// Answers the group in `slot`, Invalid unless that was decided before, if it is one that `is_meant`, given its word and answer. Returns
/// whether the answer was sent.
pub(super) fn refuse(
    masked: &Masked,
    state: &FaultState,
    slot: &GroupSlot,
    is_meant: impl FnOnce(Word, &Answer) -> bool,
) -> bool {
    // Closed or not, claim and publication lie in one section, as for every answer.
    let _section = state.shared.domain.read(masked);
    let word = slot.word();
    // One that was let go, or whose answer could not be sent, has its answer already.
    let response = if word.state() == State::Unsent { word.response() } else { PageResponse::Invalid };
    let is_meant = word.is_unanswered()
        && (!state.is_closed() || mutant!("refuse_after_close"))
        && slot.answer(word, response).is_some_and(|answer| is_meant(word, &answer));
    let claim = is_meant.then(|| slot.claim(word, response, false)).flatten();
    claim.is_some_and(|claim| state.send(masked, claim))
}
