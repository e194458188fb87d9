//! A group that someone has to answer.

use super::fault::{Answer, Fault, Target};
use super::slot::{GroupSlot, State, Word};
use super::state::FaultState;
use super::statistics::Counter;
use super::substream::Special;
use crate::smmuv3::{PageResponse, StreamId};
use crate::sync::Masked;
use crate::sync::grace::Ref;
use crate::sync::mutant::mutant;

/// One stall, or one page request group, whose answer the owner of this value owes.
///
/// It keeps the stream's fault state and handler alive. Dropping it unanswered answers Invalid: the answer goes out with
/// the report that is still under way, or with the next [`FaultTable::expire`](super::FaultTable::expire).
#[derive(Debug)]
#[must_use = "a group that is dropped is answered Invalid"]
pub struct FaultGroup {
    state: Ref<FaultState>,
    slot: u16,
    /// What the slot's word was when the group was deferred; not held once an answer has let go of it.
    word: Word,
    special: Option<Ref<Special>>,
}

// It is passed on often. Up to 32 bytes are moved in registers, more by a call.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<FaultGroup>() == 32);

/// The answer came too late, and nothing was sent: the group had been answered, or its stream was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{answer:?} is too late")]
pub struct LateAnswer {
    /// What would have been sent.
    pub answer: Answer,
}

impl FaultGroup {
    pub(super) fn new(state: Ref<FaultState>, slot: u16, word: Word, special: Option<Ref<Special>>) -> Self {
        Self { state, slot, word, special }
    }

    /// Whose it is.
    pub fn stream(&self) -> StreamId {
        self.last().stream
    }

    /// What the answer goes to.
    pub fn target(&self) -> Target {
        self.last().target()
    }

    /// The number of requests in it, at least 1.
    pub fn len(&self) -> usize {
        self.word.count()
    }

    /// Never: a group has a request that ends it.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The requests, in the order in which they were reported.
    pub fn faults(&self) -> impl Iterator<Item = Fault> + '_ {
        self.slot().faults(self.word)
    }

    /// Whether an answer would still be sent. It may be too late right afterwards.
    pub fn is_waiting(&self) -> bool {
        !self.state.is_closed() && self.slot().word().state() == State::Pending
    }

    /// Answers the group. An answer that the responder can't send is kept, and tried again by
    /// [`FaultTable::expire`](super::FaultTable::expire).
    ///
    /// # Errors
    ///
    /// [`LateAnswer`] when the group has been answered for its time-out, or its stream was closed. Nothing is sent then.
    pub fn respond(mut self, masked: &Masked, response: PageResponse) -> Result<(), LateAnswer> {
        // Closed or not, claim and publication lie in one read section: the grace period of a disabler that this did not
        // see ends after the answer is published.
        let _section = self.state.shared.domain.read(masked);
        if (!self.state.is_closed() || mutant!("respond_after_close"))
            && let Some(claim) = self.state.slots[usize::from(self.slot)].claim(self.word, response, true)
        {
            self.word = self.word.with_held(false);
            self.state.send(masked, claim);
            return Ok(());
        }
        self.state.count(masked, [Counter::LateAnswers]);
        Err(LateAnswer { answer: self.last().answer(response) })
    }

    /// Its stream's.
    pub(super) fn state(&self) -> &Ref<FaultState> {
        &self.state
    }

    /// The handler of its substream's own that deferred it.
    pub(super) fn special(&self) -> Option<&Ref<Special>> {
        self.special.as_ref()
    }

    /// The request that ended it: what is in the slot stays as long as the group is held.
    fn last(&self) -> Fault {
        self.slot().last(self.word)
    }

    fn slot(&self) -> &GroupSlot {
        // The group was made with the number of one of its state's slots.
        &self.state.slots[usize::from(self.slot)]
    }
}

impl Drop for FaultGroup {
    fn drop(&mut self) {
        if self.word.is_held() {
            self.state.give_back(self.slot().let_go());
        }
    }
}
