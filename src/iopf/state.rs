//! What the fault core knows of one stream while its faults are served.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16 as Hint, Ordering::Relaxed};
use core::{fmt, slice};

use super::batch::{Moment, Tally};
use super::fault::{Fault, Kind, Outcome, Request, Target};
use super::group::FaultGroup;
use super::latency::Histogram;
use super::shared::Live;
use super::slot::{Claim, Filling, Freed, GroupSlot, State};
use super::statistics::{Counter, Counters};
use super::stopping::Gate;
use super::substream::{Special, Specials};
use super::work::Lane;
use super::{FaultHandler, MAX_GROUP_REQUESTS, NotSent, StreamLimits, Verdict};
use crate::smmuv3::event::Stall;
use crate::smmuv3::{PageResponse, PrgIndex, StreamId};
use crate::sync::Masked;
use crate::sync::atomic::{AtomicBool, AtomicU32};
use crate::sync::grace::Counted;
use crate::sync::mutant::mutant;

/// One master's fault state: found under each of its StreamIDs, owned by the table's slots and by every deferred group.
pub(super) struct FaultState {
    pub(super) shared: Live,
    pub(super) streams: Box<[StreamId]>,
    pub(super) kind: Kind,
    pub(super) handler: Arc<dyn FaultHandler>,
    pub(super) specials: Specials,
    pub(super) limits: StreamLimits,
    /// The first record of the queue that is of this life.
    pub(super) since: u64,
    /// A [`Gate`]. A grace period after it is closed, only the disabler answers groups. Page requests that it does not let in are refused as
    /// they come.
    gate: AtomicU32,
    /// Someone holds the right to answer and finish.
    pub(super) closing: AtomicBool,
    pub(super) slots: Box<[GroupSlot]>,
    /// For each stream and PRG index the slot that its group was last put in, counted from 1, or [`NOWHERE`] or [`CUT`].
    /// A hint: what the slot holds by now, and for which PASID, the slot says. Only the drainer of the queue writes it, and
    /// [`forget_cuts`](Self::forget_cuts). The last is no index's: not [`NOWHERE`] once the device has had groups of two PASIDs under one index at
    /// a time. Of these a place knows one.
    places: Box<[Hint]>,
    /// Where to begin the search for a free slot.
    next: Hint,
    /// Deferred groups that wait for a core with time.
    pub(super) lane: Lane,
    pub(super) counters: Counters,
    pub(super) latencies: Histogram,
}

/// No slot has been used for this index.
const NOWHERE: u16 = 0;
/// Requests of this index were dropped, so that Last is answered Invalid: the next one whose own requests are in no slot. A device that gives one
/// index to two PASIDs at a time, against PCIe, may get that for the other PASID.
const CUT: u16 = u16::MAX;

/// The storage of a group whose first requests came before.
enum Place<'a> {
    None,
    Partial(Filling<'a>),
    Cut,
}

impl FaultState {
    /// `None` without memory.
    pub(super) fn new(
        shared: Live,
        streams: &[StreamId],
        kind: Kind,
        handler: Arc<dyn FaultHandler>,
        limits: StreamLimits,
        since: u64,
    ) -> Option<Self> {
        let (requests, places) = match kind {
            Kind::Stall | Kind::Stage2Stall => (1, 0),
            Kind::Page => (limits.requests.into(), streams.len() * usize::from(PrgIndex::COUNT) + 1),
        };
        let mut ids = streams.iter().copied();
        let mut indices = 0..limits.groups;
        Some(Self {
            shared,
            streams: super::try_boxed(streams.len(), || ids.next())?,
            kind,
            handler,
            specials: Specials::new(),
            limits,
            since,
            gate: AtomicU32::new(Gate::OPEN.0),
            closing: AtomicBool::new(false),
            slots: super::try_boxed(limits.groups.into(), || GroupSlot::new(indices.next()?, requests))?,
            places: super::try_boxed(places, || Some(Hint::new(NOWHERE)))?,
            next: Hint::new(0),
            lane: Lane::new(limits.groups)?,
            counters: Counters::new()?,
            latencies: Histogram::new()?,
        })
    }

    /// Deals with one record of this stream.
    pub(super) fn report<'a>(
        this: &'a Counted<Self>,
        moment: &Moment<'_>,
        record: u64,
        fault: &Fault,
        tally: &mut Tally<'a>,
    ) -> Outcome {
        if record < this.since {
            return this.swallow(moment, Counter::Early);
        }
        Self::report_live(this, moment, fault, tally)
    }

    /// As [`report`](Self::report), for a record of this life.
    pub(super) fn report_live<'a>(
        this: &'a Counted<Self>,
        moment: &Moment<'_>,
        fault: &Fault,
        tally: &mut Tally<'a>,
    ) -> Outcome {
        let gate = this.gate();
        if fault.is_stop_marker() {
            if gate.is_of(&this.streams, fault.stream, fault.substream) {
                // By exchange: it may have been closed since.
                let from = if mutant!("marker_over_close") { this.gate() } else { gate };
                let _ = this.change_gate(from, gate.marked());
            }
            return this.swallow(moment, Counter::StopMarkers);
        }
        let is_shut = || gate == Gate::CLOSED || gate.is_of(&this.streams, fault.stream, fault.substream);
        if gate != Gate::OPEN && is_shut() && !mutant!("report_after_close") {
            if !fault.wants_answer() || matches!(fault.request, Request::Stall(_)) {
                return this.swallow(moment, Counter::Closed);
            }
            // Nothing comes behind it. What a closed master has, its disabler drops.
            if gate != Gate::CLOSED
                && let Place::Partial(slot) = this.find(moment, fault)
            {
                this.count(moment.masked, [Counter::Discarded]);
                this.give_back(slot.free());
            }
            this.set_place(fault, NOWHERE);
            let counters = [Counter::Records, Counter::Groups, Counter::Closed];
            return this.answer(moment, PageResponse::Invalid, counters);
        }
        if !fault.wants_answer() {
            return this.hold(moment, fault);
        }
        match this.find(moment, fault) {
            Place::None => Self::complete(this, moment, fault, tally),
            Place::Cut => {
                this.set_place(fault, NOWHERE);
                this.refuse(moment)
            }
            Place::Partial(slot) => Self::complete_partial(this, moment, fault, slot, tally),
        }
    }

    /// Who is to be asked about `stall`, whose record is of this life, and those of its substream that follow. `None` where each is to be
    /// reported by itself.
    pub(super) fn handler_of_run<'a>(&'a self, moment: &Moment<'a>, stall: &Stall) -> Option<&'a dyn FaultHandler> {
        if self.is_closed() && !mutant!("run_after_close") || self.kind != Kind::Stall {
            return None;
        }
        let special = self.specials.find(moment.section, stall.stream(), stall.substream());
        Some(self.handler(special))
    }

    /// A group of one.
    fn complete<'a>(this: &'a Counted<Self>, moment: &Moment<'_>, fault: &Fault, tally: &mut Tally<'a>) -> Outcome {
        let special = this.specials.find(moment.section, fault.stream, fault.substream);
        match ask(this.handler(special), moment.masked, slice::from_ref(fault)) {
            Verdict::Answer(response) => this.answer_inline(moment, response),
            Verdict::Defer => Self::defer_one(this, special, moment, fault, tally),
        }
    }

    /// Puts a group of one into a slot for its handler.
    fn defer_one<'a>(
        this: &'a Counted<Self>,
        special: Option<&Counted<Special>>,
        moment: &Moment<'_>,
        fault: &Fault,
        tally: &mut Tally<'a>,
    ) -> Outcome {
        let Some(mut slot) = this.take_slot(moment, tally.at_once()) else { return this.refuse(moment) };
        if !slot.push(fault) {
            this.give_back(slot.free());
            return this.refuse(moment);
        }
        this.set_place(fault, slot.slot().index() + 1);
        Self::defer(this, special, moment, slot, tally)
    }

    /// `last` ends the group in `slot`.
    fn complete_partial<'a>(
        this: &'a Counted<Self>,
        moment: &Moment<'_>,
        last: &Fault,
        mut slot: Filling<'_>,
        tally: &mut Tally<'a>,
    ) -> Outcome {
        if !slot.push(last) {
            this.give_back(slot.free());
            return this.refuse(moment);
        }
        let mut faults = heapless::Vec::<Fault, MAX_GROUP_REQUESTS>::new();
        faults.extend(slot.faults().take(MAX_GROUP_REQUESTS));
        let special = this.specials.find(moment.section, last.stream, last.substream);
        match ask(this.handler(special), moment.masked, &faults) {
            Verdict::Answer(response) => {
                this.give_back(slot.free());
                this.answer_inline(moment, response)
            }
            Verdict::Defer => Self::defer(this, special, moment, slot, tally),
        }
    }

    /// Gives the group in `filling` to the handler.
    fn defer(
        this: &Counted<Self>,
        special: Option<&Counted<Special>>,
        moment: &Moment<'_>,
        filling: Filling<'_>,
        tally: &mut Tally<'_>,
    ) -> Outcome {
        let own = special.and_then(Counted::try_ref);
        let at_once = tally.at_once();
        let state = tally.references.take(at_once as u32).filter(|_| own.is_some() == special.is_some());
        let Some(state) = state else {
            // Not while the table, or who removes a handler, has a reference: both keep theirs until this section has ended.
            this.give_back(filling.free());
            return this.refuse(moment);
        };
        if mutant!("reference_leaked") {
            core::mem::forget(state.clone());
        }
        tally.deferred += 1;
        let slot = filling.slot();
        let word = filling.defer(special.is_some(), moment.began.unwrap_or(0));
        let group = FaultGroup::new(state, slot.index(), word, own);
        let _ = super::survive(|| this.handler(special).defer(moment.masked, group));
        // A handler that had no room has dropped the group by now: its answer need not wait for the time-out pass.
        let now = slot.word();
        if now.state() == State::Unsent
            && now.generation() == word.generation()
            && let Some(claim) = slot.claim(now, now.response(), false)
        {
            let (response, _) = claim.kind();
            this.give_back(claim.done());
            return this.answer(moment, response, []);
        }
        Outcome::Deferred
    }

    /// Who decides: the substream's own handler or the stream's.
    fn handler<'a>(&'a self, special: Option<&'a Counted<Special>>) -> &'a dyn FaultHandler {
        special.map_or(&*self.handler, |special| &*special.handler)
    }

    /// Keeps a request until the last one of its group comes.
    fn hold(&self, moment: &Moment<'_>, fault: &Fault) -> Outcome {
        self.count(moment.masked, [Counter::Records]);
        let slot = match self.find(moment, fault) {
            Place::None => self.take_slot(moment, 1).inspect(|slot| self.set_place(fault, slot.slot().index() + 1)),
            Place::Partial(slot) => Some(slot),
            Place::Cut => None,
        };
        if let Some(mut slot) = slot {
            if slot.push(fault) {
                slot.hold();
                return Outcome::Held;
            }
            self.give_back(slot.free());
        }
        self.set_place(fault, CUT);
        self.count(moment.masked, [Counter::Cut]);
        Outcome::Held
    }

    /// Where the earlier requests of `fault`'s group are.
    fn find(&self, moment: &Moment<'_>, fault: &Fault) -> Place<'_> {
        let place = self.place(fault).map_or(NOWHERE, |place| place.load(Relaxed));
        if let Some(slot) = usize::from(place).checked_sub(1).and_then(|index| self.slots.get(index)) {
            if let Some(partial) = slot.resume(fault) {
                return Place::Partial(partial);
            }
            if slot.is_duplicate(fault) {
                self.count(moment.masked, [Counter::Duplicates]);
            }
            if slot.is_partial_beside(fault)
                && let Some(mixes) = self.places.last()
            {
                mixes.store(place, Relaxed);
            }
        }
        let mixes = self.places.last().is_some_and(|mixes| mixes.load(Relaxed) != NOWHERE);
        let elsewhere = || self.slots.iter().find_map(|slot| slot.resume(fault));
        match mixes.then(elsewhere).flatten() {
            Some(partial) => Place::Partial(partial),
            None if place == CUT => Place::Cut,
            None => Place::None,
        }
    }

    fn place(&self, fault: &Fault) -> Option<&Hint> {
        let Request::Page { group, .. } = fault.request else { return None };
        let stream = self.streams.iter().position(|&stream| stream == fault.stream)?;
        self.places.get(stream * usize::from(PrgIndex::COUNT) + usize::from(group.get()))
    }

    fn set_place(&self, fault: &Fault, to: u16) {
        if let Some(place) = self.place(fault) {
            place.store(to, Relaxed);
        }
    }

    /// A free slot, if neither limit is reached. For the limit over all streams the batch has some aside, or puts `at_once` there.
    fn take_slot(&self, moment: &Moment<'_>, at_once: usize) -> Option<Filling<'_>> {
        if moment.aside.get() == 0 {
            moment.aside.set(self.shared.reserve_slots(at_once));
        }
        let rest = moment.aside.get().checked_sub(1)?;
        let behind = self.slots.get(self.next.load(Relaxed).into()..).unwrap_or_default();
        let slot = behind.iter().chain(&self.slots).find_map(GroupSlot::take)?;
        moment.aside.set(rest);
        self.next.store(slot.slot().index() + 1, Relaxed);
        Some(slot)
    }

    /// Gives a slot that became free back to the limit.
    pub(super) fn give_back(&self, Freed(freed): Freed) {
        self.shared.release_slots(freed.into());
    }

    /// A record that nothing is sent for.
    fn swallow(&self, moment: &Moment<'_>, why: Counter) -> Outcome {
        self.count(moment.masked, [Counter::Records, why, Counter::Swallowed]);
        Outcome::Swallowed
    }

    /// A limit was reached.
    fn refuse(&self, moment: &Moment<'_>) -> Outcome {
        self.answer(moment, PageResponse::Invalid, [Counter::Records, Counter::Groups, Counter::OverLimit])
    }

    fn answer_inline(&self, moment: &Moment<'_>, response: PageResponse) -> Outcome {
        self.answer(moment, response, [Counter::Records, Counter::Groups, Counter::Inline])
    }

    /// An answer that was decided in the report.
    fn answer<const N: usize>(&self, moment: &Moment<'_>, response: PageResponse, counters: [Counter; N]) -> Outcome {
        self.measure(moment.masked, moment.began, self.shared.now(), 1);
        self.count(moment.masked, counters);
        self.count(moment.masked, [response.into()]);
        Outcome::Answer(response)
    }

    /// Sends a claimed answer, and returns whether that worked; if not, it is kept to be tried again.
    pub(super) fn send(&self, masked: &Masked, claim: Claim<'_>) -> bool {
        self.send_all(masked, &mut heapless::Vec::<_, 1>::from_array([claim]))
    }

    /// Sends claimed answers, and returns whether that worked for all; those for which not are kept to be tried again.
    pub(super) fn send_all<const N: usize>(&self, masked: &Masked, claims: &mut heapless::Vec<Claim<'_>, N>) -> bool {
        let mut answers = heapless::Vec::<_, N>::new();
        answers.extend(claims.iter().map(Claim::answer));
        let outcome = self.shared.responder.respond(masked, &answers);
        let sent = outcome.map_or_else(|NotSent { sent }| sent.min(claims.len()), |()| claims.len());
        let now = self.shared.now();
        for same in claims[..sent].chunk_by(|one, other| one.kind() == other.kind()) {
            let Some((response, start)) = same.first().map(Claim::kind) else { continue };
            self.measure(masked, Some(start), now, same.len());
            self.count_many(masked, [response.into()], same.len());
        }
        self.count_many(masked, [Counter::NotSent], claims.len() - sent);
        let mut freed = 0;
        for (index, claim) in claims.drain(..).enumerate() {
            if index < sent { freed += usize::from(claim.done().0) } else { claim.unsent() }
        }
        self.shared.release_slots(freed);
        outcome.is_ok()
    }

    /// Tries an answer again that could not be sent, or that a dropped group owes.
    pub(super) fn resend(&self, masked: &Masked, slot: &GroupSlot) -> bool {
        let word = slot.word();
        word.state() == State::Unsent
            && slot.claim(word, word.response(), false).is_some_and(|claim| self.send(masked, claim))
    }

    /// Drops the partial group in `slot` if its first request is one that `which` means.
    pub(super) fn discard(&self, masked: &Masked, slot: &GroupSlot, which: impl Fn(&Fault) -> bool) {
        let word = slot.word();
        if word.state() == State::Partial && slot.faults(word).next().is_some_and(|fault| which(&fault)) {
            let freed = slot.discard(word);
            if freed.0 {
                self.count(masked, [Counter::Discarded]);
            }
            self.give_back(freed);
        }
    }

    /// Forgets which groups lost requests.
    pub(super) fn forget_cuts(&self) {
        for place in &self.places {
            // By exchange: the drainer may have put the next group with this index into a slot since, and its last request has to
            // find the others there.
            let _ = place.compare_exchange(CUT, NOWHERE, Relaxed, Relaxed);
        }
    }

    /// Whether the stream serves faults of this kind.
    pub(super) fn serves(&self, request: Request) -> bool {
        match request {
            Request::Stall(_) => self.kind != Kind::Page,
            Request::Page { .. } => self.kind == Kind::Page,
        }
    }

    /// The number of groups that wait for an answer, and one of them.
    pub(super) fn unanswered(&self) -> (usize, Option<Target>) {
        let mut waiting = self.slots.iter().filter_map(|slot| {
            let word = slot.word();
            word.wants_answer().then(|| slot.answer(word, PageResponse::Invalid)).flatten()
        });
        let first = waiting.next().map(|answer| answer.to);
        (usize::from(first.is_some()) + waiting.count(), first)
    }

    /// Relaxed: what orders a claim against the disabler is the grace period after [`close`](Self::close).
    pub(super) fn is_closed(&self) -> bool {
        self.gate() == Gate::CLOSED
    }

    pub(super) fn close(&self) {
        // By exchange, as who else changes it meanwhile.
        self.gate.swap(Gate::CLOSED.0, Relaxed);
    }

    /// Relaxed: the first new record comes after the write of a register that lets the device cause it.
    pub(super) fn reopen(&self) {
        self.gate.store(Gate::OPEN.0, Relaxed);
    }

    pub(super) fn gate(&self) -> Gate {
        Gate(self.gate.load(Relaxed))
    }

    /// Relaxed, as [`close`](Self::close).
    pub(super) fn change_gate(&self, from: Gate, to: Gate) -> Result<(), Gate> {
        self.gate.compare_exchange(from.0, to.0, Relaxed, Relaxed).map(drop).map_err(Gate)
    }

    /// Counts and measures `groups`, perhaps none, that were answered Success at once, `now`.
    pub(super) fn count_served(&self, moment: &Moment<'_>, now: Option<u64>, groups: usize) {
        self.count_many(moment.masked, [Counter::Served], groups);
        self.measure(moment.masked, moment.began, now, groups);
    }

    /// Notes how long `answers` took from `start` until `now`, if there is a clock.
    fn measure(&self, masked: &Masked, start: Option<u64>, now: Option<u64>, answers: usize) {
        if let (Some(start), Some(now)) = (start, now) {
            let ticks = now.saturating_sub(start);
            self.latencies.add(masked, ticks, answers as u64);
            self.shared.latencies.add(masked, ticks, answers as u64);
        }
    }

    pub(super) fn count<const N: usize>(&self, masked: &Masked, counters: [Counter; N]) {
        self.count_many(masked, counters, 1);
    }

    pub(super) fn count_many<const N: usize>(&self, masked: &Masked, counters: [Counter; N], count: usize) {
        if count > 0 {
            self.counters.add(masked, counters, count as u64);
            self.shared.counters.add(masked, counters, count as u64);
        }
    }
}

/// What `handler` says. One that panics has refused, where that is survived.
fn ask(handler: &dyn FaultHandler, masked: &Masked, faults: &[Fault]) -> Verdict {
    super::survive(|| handler.handle(masked, faults)).unwrap_or(Verdict::Answer(PageResponse::Invalid))
}

impl fmt::Debug for FaultState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultState")
            .field("streams", &self.streams)
            .field("kind", &self.kind)
            .field("limits", &self.limits)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
