//! The storage of one group, and the word that says who may answer it.
//!
//! A word is {generation, state, held, count, response}. Whoever answers read the word first and claims by
//! compare-exchange on all of it, so a group has one answer, and a claim meant for an earlier group in the same slot fails.
//!
//! | from | to | by |
//! |---|---|---|
//! | `Free` | `Partial`, next generation | the reporter: the group waits for its last request |
//! | `Free` | `Pending`, held, next generation | the reporter: the handler deferred it |
//! | `Partial` | `Filling` | the reporter: the next request came |
//! | `Partial` | `Free` | who discards partial groups |
//! | `Filling` | `Partial`, or `Pending`, held | the reporter: as from `Free` |
//! | `Filling` | `Free` | the reporter: answered at once |
//! | `Pending` | `Sending` | who answers: holder, time-out, disable |
//! | `Pending` | `Unsent` | the holder drops it |
//! | `Sending` | `Answered` if held, else `Free` | who answers: it is published |
//! | `Sending` | `Unsent` | who answers: it could not be published |
//! | `Unsent` | `Sending` | who tries again |
//!
//! `held` falls, in any state, when the holder lets go; `Answered` then becomes `Free`. So no slot is used again while
//! someone holds its group.
//!
//! A free slot is the reporter's alone: one core at a time drains the queue of a stream, and no one else changes the word of a
//! free slot. So it is filled as it is, and used from the store on that passes the group on.

use alloc::boxed::Box;

use super::fault::{Answer, Fault, Request, Stage2Fault};
use crate::smmuv3::event::FaultClass;
use crate::smmuv3::{Access, PageResponse, PrgIndex, Stag, StreamId, SubstreamId};
use crate::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sync::mutant::mutant;

/// What goes on in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Filling,
    Partial,
    Pending,
    Sending,
    Unsent,
    Answered,
}

/// A slot's word: state in bits 2:0, held in bit 3, response in bits 5:4 (0 until one is decided), special in bit 6, count in
/// bits 15:8, generation above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    const HELD: u64 = 1 << 3;
    const SPECIAL: u64 = 1 << 6;
    const COUNT_SHIFT: u32 = 8;
    const GENERATION_SHIFT: u32 = 16;

    pub(super) fn state(self) -> State {
        match self.0 & 7 {
            0 => State::Free,
            1 => State::Filling,
            2 => State::Partial,
            3 => State::Pending,
            4 => State::Sending,
            5 => State::Unsent,
            _ => State::Answered,
        }
    }

    pub(super) fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    /// Whether a handler of its substream's own deferred the group.
    pub(super) fn is_special(self) -> bool {
        self.0 & Self::SPECIAL != 0
    }

    /// The number of requests in the group.
    pub(super) fn count(self) -> usize {
        (self.0 >> Self::COUNT_SHIFT) as usize & 0xff
    }

    /// How often the slot has been used.
    pub(super) fn generation(self) -> u64 {
        self.0 >> Self::GENERATION_SHIFT
    }

    /// The answer that a `Sending` or `Unsent` group got.
    pub(super) fn response(self) -> PageResponse {
        match self.0 >> 4 & 3 {
            0 => PageResponse::Failure,
            2 => PageResponse::Success,
            _ => PageResponse::Invalid,
        }
    }

    /// Whether the group wants an answer that no one has claimed.
    pub(super) fn is_unanswered(self) -> bool {
        matches!(self.state(), State::Pending | State::Unsent)
    }

    /// Whether the device waits for an answer that is not published yet.
    pub(super) fn wants_answer(self) -> bool {
        self.is_unanswered() || self.state() == State::Sending && !mutant!("claimed_is_answered")
    }

    fn with_state(self, state: State) -> Self {
        Self(self.0 & !7 | state as u64)
    }

    pub(super) fn with_held(self, held: bool) -> Self {
        Self(self.0 & !Self::HELD | if held { Self::HELD } else { 0 })
    }

    fn with_count(self, count: usize) -> Self {
        Self(self.0 & !(0xff << Self::COUNT_SHIFT) | (count as u64 & 0xff) << Self::COUNT_SHIFT)
    }

    /// The word as long as no answer is decided.
    pub(super) fn undecided(self) -> Self {
        Self(self.0 & !(3 << 4))
    }

    pub(super) fn with_response(self, response: PageResponse) -> Self {
        Self(self.undecided().0 | (response as u64) << 4)
    }

    fn with_special(self, special: bool) -> Self {
        Self(self.0 & !Self::SPECIAL | if special { Self::SPECIAL } else { 0 })
    }

    fn free(self) -> Self {
        self.with_state(State::Free).with_held(false).with_special(false).with_count(0).undecided()
    }

    fn next_generation(self) -> Self {
        if mutant!("slot_without_generation") {
            return self;
        }
        Self(self.0.wrapping_add(1 << Self::GENERATION_SHIFT))
    }
}

/// One fault in words that several cores may read while one writes: who reads them for a claim has its claim fail if
/// they changed meanwhile, because every change of owner goes through the slot's word.
#[derive(Debug)]
struct StoredFault {
    /// StreamID 31:0, SubstreamID 51:32, SubstreamID valid 52, read 53, write 54, execute 55, privileged 56.
    who: AtomicU64,
    /// STAG 15:0, or PRG index 15:0 with Last 16 and 17 set. Of a stall also what stopped at stage 2: a structure of stage 1 to be
    /// written 16, CLASS 19:18 or, if it was not there, 3, IPA 63:20 (55:12 of it).
    request: AtomicU64,
    address: AtomicU64,
}

impl StoredFault {
    fn new() -> Self {
        Self { who: AtomicU64::new(0), request: AtomicU64::new(0), address: AtomicU64::new(0) }
    }

    // Relaxed: the slot's word orders the stores before the loads.
    fn store(&self, fault: &Fault) {
        let substream = fault.substream.map_or(0, |s| 1 << 52 | u64::from(s.get()) << 32);
        let Access { read, write, execute, privileged } = fault.access;
        let access = u64::from(read) | u64::from(write) << 1 | u64::from(execute) << 2 | u64::from(privileged) << 3;
        let request = match fault.request {
            Request::Stall(tag) => u64::from(tag.0) | store_stage2(fault.stage2),
            Request::Page { group, last } => 1 << 17 | u64::from(last) << 16 | u64::from(group.get()),
        };
        self.who.store(u64::from(fault.stream.0) | substream | access << 53, Relaxed);
        self.request.store(request, Relaxed);
        self.address.store(fault.address, Relaxed);
    }

    fn load(&self) -> Fault {
        let who = self.who.load(Relaxed);
        let request = self.request.load(Relaxed);
        let bit = |n: u32| who >> n & 1 != 0;
        Fault {
            stream: StreamId(who as u32),
            substream: bit(52).then(|| SubstreamId::from_low_bits(who >> 32)),
            address: self.address.load(Relaxed),
            access: Access { read: bit(53), write: bit(54), execute: bit(55), privileged: bit(56) },
            request: if request >> 17 & 1 != 0 {
                Request::Page { group: PrgIndex::from_low_bits(request), last: request >> 16 & 1 != 0 }
            } else {
                Request::Stall(Stag(request as u16))
            },
            stage2: if request >> 17 & 1 != 0 { None } else { load_stage2(request) },
        }
    }
}

const fn store_stage2(fault: Option<Stage2Fault>) -> u64 {
    match fault {
        None => 3 << 18,
        Some(Stage2Fault { ipa, class, table_write }) => {
            (ipa >> 12) << 20 | (class as u64) << 18 | (table_write as u64) << 16
        }
    }
}

const fn load_stage2(request: u64) -> Option<Stage2Fault> {
    let class = match request >> 18 & 3 {
        0 => FaultClass::ContextDescriptor,
        1 => FaultClass::TableDescriptor,
        2 => FaultClass::Input,
        _ => return None,
    };
    Some(Stage2Fault { ipa: (request >> 20) << 12, class, table_write: request >> 16 & 1 != 0 })
}

/// Room for one group.
#[derive(Debug)]
pub(super) struct GroupSlot {
    index: u16,
    word: AtomicU64,
    /// The low half of the generation that the time-out pass saw last (63:32), and when first, in milliseconds (31:0).
    seen: AtomicU64,
    /// When its group was deferred, by the table's clock. Relaxed: the word orders it.
    deferred_at: AtomicU64,
    requests: Box<[StoredFault]>,
}

/// A slot that this reporter alone may change, until one of the methods that end this.
#[derive(Debug)]
#[must_use = "a slot that is not passed on is lost"]
pub(super) struct Filling<'a> {
    slot: &'a GroupSlot,
    /// What the slot's word is to be next, but for the state.
    word: Word,
}

/// An answer that this core alone may send.
#[derive(Debug)]
#[must_use = "a claim is for sending an answer"]
pub(super) struct Claim<'a> {
    slot: &'a GroupSlot,
    /// The slot's, with the answer in it; only the holder changes it, who lets go.
    word: Word,
}

/// Whether a transition made its slot free, so that the limit gets it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a freed slot is given back to the limit"]
pub(super) struct Freed(pub(super) bool);

impl GroupSlot {
    /// Free slot number `index` with room for `requests` requests (1 to 255), or `None` without memory.
    pub(super) fn new(index: u16, requests: usize) -> Option<Self> {
        let requests = super::try_boxed(requests, || Some(StoredFault::new()))?;
        Some(Self {
            index,
            word: AtomicU64::new(0),
            seen: AtomicU64::new(u64::MAX),
            deferred_at: AtomicU64::new(0),
            requests,
        })
    }

    /// Its number among its stream's slots.
    pub(super) fn index(&self) -> u16 {
        self.index
    }

    /// The word; acquires what its writer stored in the slot.
    pub(super) fn word(&self) -> Word {
        Word(self.word.load(if mutant!("group_unread") { Relaxed } else { Acquire }))
    }

    /// Release: what a winner read of the slot it has read before a later owner stores. No acquire: whoever has `from`
    /// acquired what it stands for by [`word`](Self::word), or was given it with the group.
    fn exchange(&self, from: Word, to: Word) -> bool {
        self.word.compare_exchange(from.0, to.0, Release, Relaxed).is_ok()
    }

    /// The slot if it is free, for the drainer of its stream's queue, who passes it on before anything else is reported.
    ///
    /// Nothing is written: the word is the latest, since after a slot became free its drainers alone write it, one after the other.
    pub(super) fn take(&self) -> Option<Filling<'_>> {
        let free = self.word();
        (free.state() == State::Free).then(|| Filling { slot: self, word: free.next_generation() })
    }

    /// Takes the slot back if it holds the partial group that `fault` belongs to.
    pub(super) fn resume(&self, fault: &Fault) -> Option<Filling<'_>> {
        let from = self.word();
        let to = from.with_state(State::Filling);
        (from.state() == State::Partial && self.is_group_of(fault) && self.exchange(from, to))
            .then_some(Filling { slot: self, word: to })
    }

    /// Whether the group in the slot waits for its answer and has the same index and PASID as `fault`'s.
    pub(super) fn is_duplicate(&self, fault: &Fault) -> bool {
        self.word().is_unanswered() && self.is_group_of(fault)
    }

    /// Whether the slot holds a partial group that has the same index as `fault`'s, and is not its.
    pub(super) fn is_partial_beside(&self, fault: &Fault) -> bool {
        self.word().state() == State::Partial && self.has_index_of(fault) && !self.is_group_of(fault)
    }

    fn is_group_of(&self, fault: &Fault) -> bool {
        self.has_index_of(fault) && self.requests.first().is_some_and(|first| first.load().substream == fault.substream)
    }

    fn has_index_of(&self, fault: &Fault) -> bool {
        self.requests.first().is_some_and(|first| {
            let first = first.load();
            first.stream == fault.stream && first.target() == fault.target()
        })
    }

    /// The requests of the group that `word` was read for; of another one if the slot has been used again since.
    pub(super) fn faults(&self, word: Word) -> impl Iterator<Item = Fault> + '_ {
        self.requests.iter().take(word.count()).map(StoredFault::load)
    }

    /// The request that ended the group that `word` was read for; of another one if the slot has been used again since.
    pub(super) fn last(&self, word: Word) -> Fault {
        // There is room for one request at least, and no count is more than there is room for.
        self.requests[word.count().saturating_sub(1)].load()
    }

    /// The answer `response` to the group that `word` was read for.
    pub(super) fn answer(&self, word: Word, response: PageResponse) -> Option<Answer> {
        self.requests.get(word.count().checked_sub(1)?).map(|last| last.load().answer(response))
    }

    /// Claims the answer to the group that `word` was read for. `let_go`: the caller is its holder.
    ///
    /// `None` if it is answered, or was never asked.
    pub(super) fn claim(&self, word: Word, response: PageResponse, let_go: bool) -> Option<Claim<'_>> {
        if !word.is_unanswered() {
            return None;
        }
        let to = word.with_state(State::Sending).with_response(response).with_held(word.is_held() && !let_go);
        let won = self.exchange(word, to) || mutant!("claim_unchecked");
        won.then_some(Claim { slot: self, word: to })
    }

    /// Drops the partial group that `word` was read for.
    pub(super) fn discard(&self, word: Word) -> Freed {
        Freed(word.state() == State::Partial && (self.exchange(word, word.free()) || mutant!("discard_unchecked")))
    }

    /// The holder lets go without an answer: a group that still waits for one is to be answered Invalid.
    pub(super) fn let_go(&self) -> Freed {
        self.update(|word| match word.state() {
            State::Pending => word.with_state(State::Unsent).with_response(PageResponse::Invalid).with_held(false),
            State::Answered => word.free(),
            _ => word.with_held(false),
        })
    }

    /// Whether the group that `word` was read for has waited for `time_out_ms` since this was first asked.
    pub(super) fn is_overdue(&self, word: Word, now_ms: u32, time_out_ms: u32) -> bool {
        let generation = word.generation() as u32;
        let seen = self.seen.load(Relaxed);
        if (seen >> 32) as u32 != generation {
            self.seen.store(u64::from(generation) << 32 | u64::from(now_ms), Relaxed);
            return false;
        }
        // Signed: several cores come by, and one may have read the clock before another that was faster to get here.
        let waited_ms = now_ms.wrapping_sub(seen as u32) as i32;
        waited_ms >= 0 && waited_ms as u32 >= time_out_ms
    }

    /// Few rounds: each that fails saw another owner's step, and a group has few.
    ///
    /// Release as in [`exchange`](Self::exchange), for the next owner of a slot that this frees; what the owners before released
    /// goes on with it, since this is a read-modify-write. No acquire: nothing in the slot is read afterwards.
    fn update(&self, step: impl Fn(Word) -> Word) -> Freed {
        let mut from = self.word();
        loop {
            let to = step(from);
            match self.word.compare_exchange(from.0, to.0, Release, Relaxed) {
                Ok(_) => return Freed(to.state() == State::Free),
                Err(now) => from = Word(now),
            }
        }
    }
}

impl<'a> Filling<'a> {
    /// The slot.
    pub(super) fn slot(&self) -> &'a GroupSlot {
        self.slot
    }

    /// Adds `fault`, or returns false when the slot has no room left.
    pub(super) fn push(&mut self, fault: &Fault) -> bool {
        let count = self.word.count();
        let Some(room) = self.slot.requests.get(count) else { return false };
        room.store(fault);
        self.word = self.word.with_count(count + 1);
        true
    }

    /// The requests so far.
    pub(super) fn faults(&self) -> impl Iterator<Item = Fault> + '_ {
        self.slot.faults(self.word)
    }

    /// The group waits for its last request.
    pub(super) fn hold(self) {
        let word = self.word.with_state(State::Partial);
        self.pass_on(word);
    }

    /// The group waits for its answer, and someone holds it: a `special` handler or the stream's.
    pub(super) fn defer(self, special: bool, now: u64) -> Word {
        self.slot.deferred_at.store(now, Relaxed);
        let word = self.word.with_state(State::Pending).with_held(true).with_special(special);
        self.pass_on(word)
    }

    /// The group is answered, or nothing will be.
    pub(super) fn free(self) -> Freed {
        let word = self.word.free();
        self.pass_on(word);
        Freed(true)
    }

    // Release pairs with the acquire of `word`.
    fn pass_on(self, word: Word) -> Word {
        let order = if mutant!("group_passed_on_relaxed") { Relaxed } else { Release };
        self.slot.word.store(word.0, order);
        word
    }
}

impl Claim<'_> {
    /// What to send. The request is there until the claim ends.
    pub(super) fn answer(&self) -> Answer {
        self.slot.last(self.word).answer(self.word.response())
    }

    /// What is counted and measured of the answer: how it is answered, and when its group was deferred.
    pub(super) fn kind(&self) -> (PageResponse, u64) {
        (self.word.response(), self.slot.deferred_at.load(Relaxed))
    }

    /// The answer is published, or the device needs none any more.
    pub(super) fn done(self) -> Freed {
        if !self.word.is_held() {
            // No one but the holder changes a word in this state. Release pairs with the acquire of `word`.
            self.slot.word.store(self.word.free().0, Release);
            return Freed(true);
        }
        self.slot.update(|word| if word.is_held() { word.with_state(State::Answered) } else { word.free() })
    }

    /// The answer could not be published; it stays to be tried again.
    pub(super) fn unsent(self) {
        let freed = self.slot.update(|word| word.with_state(State::Unsent));
        debug_assert_eq!(freed, Freed(false));
    }
}
