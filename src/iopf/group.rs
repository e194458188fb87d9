//! A group that someone has to answer.

use super::fault::{Answer, Fault, Target};
use super::slot::{Claim, GroupSlot, State, Word};
use super::state::FaultState;
use super::statistics::Counter;
use super::substream::Special;
use crate::smmuv3::{PageResponse, StreamId};
use crate::sync::Masked;
use crate::sync::grace::{Ref, Stock};
use crate::sync::mutant::mutant;
use crate::sync::owed::{Owed, Settle};

/// One stall, or one page request group, whose answer the owner of this value owes.
///
/// It keeps the stream's fault state and handler alive. Dropping it unanswered answers Invalid: the answer goes out with
/// the report that is still under way, or with the next [`FaultTable::expire`](super::FaultTable::expire).
#[derive(Debug)]
#[must_use = "a group that is dropped is answered Invalid"]
pub struct FaultGroup(Owed<Held>);

/// What the owner of a group has. Unless its answer was claimed, it is still to be let go.
#[derive(Debug)]
struct Held {
    state: Ref<FaultState>,
    slot: u16,
    /// What the slot's word was when the group was deferred, with the answer when that is decided.
    word: Word,
    special: Option<Ref<Special>>,
}

// It is passed on often. Up to 32 bytes are moved in registers, more by a call.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<FaultGroup>() == 32);

/// A group whose answer is decided: it leaves with those of its turn. Dropped, it is answered Invalid as any other.
#[derive(Debug)]
#[must_use = "a group that is dropped is answered Invalid"]
pub struct Decided(FaultGroup);

/// The answer came too late, and nothing was sent: the group had been answered, or its stream was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{answer:?} is too late")]
pub struct LateAnswer {
    /// What would have been sent.
    pub answer: Answer,
}

impl FaultGroup {
    pub(super) fn new(state: Ref<FaultState>, slot: u16, word: Word, special: Option<Ref<Special>>) -> Self {
        Self(Owed::new(Held { state, slot, word, special }))
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
        self.0.word.count()
    }

    /// Never: a group has a request that ends it.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The requests, in the order in which they were reported.
    pub fn faults(&self) -> impl Iterator<Item = Fault> + '_ {
        self.0.slot().faults(self.0.word)
    }

    /// Whether an answer would still be sent. It may be too late right afterwards.
    pub fn is_waiting(&self) -> bool {
        !self.0.state.is_closed() && self.0.slot().word().state() == State::Pending
    }

    /// Answers the group. An answer that the responder can't send is kept, and tried again by
    /// [`FaultTable::expire`](super::FaultTable::expire).
    ///
    /// # Errors
    ///
    /// [`LateAnswer`] when the group has been answered for its time-out, or its stream was closed. Nothing is sent then.
    pub fn respond(self, masked: &Masked, response: PageResponse) -> Result<(), LateAnswer> {
        let state = self.0.state.during(masked);
        if let Some(claim) = self.claim(state, response) {
            let _reference = self.0.take();
            state.send(masked, claim);
            return Ok(());
        }
        state.count(masked, [Counter::LateAnswers]);
        Err(LateAnswer { answer: self.last().answer(response) })
    }

    /// The group with its answer, for [`FaultHandler::serve`](super::FaultHandler::serve) to return.
    pub fn decide(mut self, response: PageResponse) -> Decided {
        self.0.word = self.0.word.with_response(response);
        Decided(self)
    }

    /// Claims the answer of the group, which is let go with that: its owner takes it. `None` when another has answered, or will.
    ///
    /// `state` is the group's, for a read section. Closed or not, claim and publication lie in that section: the grace period of a
    /// disabler that this did not see ends after the answer is published.
    #[inline(always)]
    fn claim<'s>(&self, state: &'s FaultState, response: PageResponse) -> Option<Claim<'s>> {
        if state.is_closed() && !mutant!("respond_after_close") {
            return None;
        }
        state.slots.get(usize::from(self.0.slot))?.claim(self.0.word.undecided(), response, true)
    }

    /// Its stream's.
    pub(super) fn state(&self) -> &Ref<FaultState> {
        &self.0.state
    }

    /// The handler of its substream's own that deferred it.
    pub(super) fn special(&self) -> Option<&Ref<Special>> {
        self.0.special.as_ref()
    }

    /// The request that ended it: what is in the slot stays as long as the group is held.
    fn last(&self) -> Fault {
        self.0.slot().last(self.0.word)
    }
}

/// Answers groups, those of `stream` together: one batch for the responder, one exchange for the limit over all streams and one for the
/// references. What comes too late is counted.
pub(super) fn respond_all<const N: usize>(
    masked: &Masked,
    stream: Ref<FaultState>,
    groups: &mut heapless::Vec<Decided, N>,
) {
    let state = stream.during(masked);
    let mut references = Stock::new(state);
    let mut claims = heapless::Vec::<_, N>::new();
    for Decided(group) in groups.drain(..) {
        let response = group.0.word.response();
        if !core::ptr::eq(&raw const **group.state(), state) {
            // A handler may decide about any group that it has.
            let _ = group.respond(masked, response);
            continue;
        }
        let Some(claim) = group.claim(state, response) else {
            state.count(masked, [Counter::LateAnswers]);
            continue;
        };
        // There is room for each, and it is a reference to this state.
        let _ = claims.push(claim);
        let _ = references.put(group.0.take().state);
    }
    if !claims.is_empty() {
        state.send_all(masked, &mut claims);
    }
    let _ = references.put(stream);
}

impl Held {
    fn slot(&self) -> &GroupSlot {
        // The group was made with the number of one of its state's slots.
        &self.state.slots[usize::from(self.slot)]
    }
}

impl Settle for Held {
    fn settle(&mut self) {
        self.state.give_back(self.slot().let_go());
    }
}
