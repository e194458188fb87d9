//! The records that are taken out of a queue together.

use core::cell::Cell;
use core::{array, fmt};

use super::FaultHandler;
use super::fault::{Fault, Report};
use super::shared::AT_ONCE;
use super::state::FaultState;
use super::statistics::Counter;
use super::table::FaultTable;
use crate::smmuv3::StreamId;
use crate::sync::Masked;
use crate::sync::grace::{Counted, ReadGuard, Stock};

/// How many streams' states are kept at hand. A power of two: streams with the same low bits take each other's place.
const AT_HAND: usize = 4;

/// What a group of one that is answered Success at once is counted as.
const SERVED: [Counter; 4] = [Counter::Records, Counter::Groups, Counter::Inline, Counter::Success];

/// What a deferred group's last request is counted as.
const DEFERRED: [Counter; 3] = [Counter::Records, Counter::Groups, Counter::Deferred];

/// Records of one queue that are reported together, in their order: see [`FaultTable::batch`].
///
/// All lie in one read section, so a stream's state is looked up once. What its handler answers Success at once leaves together,
/// and is counted and measured together, at the end of the batch; what it defers is counted then, too.
pub struct Batch<'a> {
    table: &'a FaultTable,
    moment: Moment<'a>,
    at_hand: [Option<AtHand<'a>>; AT_HAND],
    tallies: Tallies<'a>,
    /// Groups answered Success at once, of streams that have left, and not counted for all streams yet.
    served: u64,
}

/// Where and when a report comes from.
pub(super) struct Moment<'a> {
    pub(super) section: &'a ReadGuard<'a>,
    pub(super) masked: &'a Masked,
    /// When the batch began, if the table has a clock.
    pub(super) began: Option<u64>,
    /// Slots that are counted in the limit over all streams and not in use, until the end of the batch.
    pub(super) aside: Cell<usize>,
}

/// What was deferred of a stream that the batch has met.
pub(super) struct Tally<'a> {
    /// References for groups that are deferred.
    pub(super) references: Stock<'a, FaultState>,
    /// Groups deferred, and not counted yet.
    pub(super) deferred: u32,
}

impl Tally<'_> {
    /// How many slots and references the next deferred group takes: a stream that has one will have more.
    pub(super) const fn at_once(&self) -> usize {
        if self.deferred == 0 { 1 } else { AT_ONCE }
    }
}

/// What was deferred, by the place of the stream. Apart from what is at hand, for what is answered at once has nothing to do with it.
pub(super) struct Tallies<'a>(Option<[Option<Tally<'a>>; AT_HAND]>);

impl<'a> Tallies<'a> {
    /// That of `stream`, which is at hand, and whose state is `state`.
    pub(super) fn of(&mut self, stream: StreamId, state: &'a Counted<FaultState>) -> &mut Tally<'a> {
        let tally = &mut self.0.get_or_insert_with(|| array::from_fn(|_| None))[place(stream)];
        tally.get_or_insert_with(|| Tally { references: Stock::new(state), deferred: 0 })
    }
}

/// A stream that the batch has met.
struct AtHand<'a> {
    stream: StreamId,
    state: &'a Counted<FaultState>,
    handler: &'a dyn FaultHandler,
    /// Groups answered Success at once, and not counted yet.
    served: u32,
}

impl<'a> Batch<'a> {
    pub(super) fn new(table: &'a FaultTable, section: &'a ReadGuard<'a>, masked: &'a Masked) -> Self {
        let moment = Moment { section, masked, began: table.shared.now(), aside: Cell::new(0) };
        Self { table, moment, at_hand: array::from_fn(|_| None), tallies: Tallies(None), served: 0 }
    }

    /// Deals with one record, the `record`th of its queue, from 0.
    ///
    /// Does not allocate, takes no lock, and looks at a bounded number of things. The handler is called within.
    #[inline(always)]
    pub fn report(&mut self, record: u64, fault: &Fault) -> Report {
        let place = place(fault.stream);
        if self.at_hand[place].as_ref().is_none_or(|at_hand| at_hand.stream != fault.stream) {
            self.fetch(fault.stream);
        }
        let outcome = match &mut self.at_hand[place] {
            Some(AtHand { stream, state, handler, served })
                if *stream == fault.stream && state.serves(fault.request) =>
            {
                FaultState::report(state, *handler, &self.moment, record, fault, served, &mut self.tallies)
            }
            _ => self.table.report_unknown(self.moment.masked, fault),
        };
        outcome.of(fault)
    }

    /// Puts the state of `stream`, if there is one, at hand.
    ///
    /// For the rest of the batch it is the right one: the queue's end was read before, so its records are older than this look.
    #[cold]
    fn fetch(&mut self, stream: StreamId) {
        let Some(state) = self.table.find(self.moment.section, stream) else { return };
        let handler = &*state.handler;
        let place = place(stream);
        let before = self.at_hand[place].replace(AtHand { stream, state, handler, served: 0 });
        if let Some(before) = before {
            self.settle(&before, self.ticks());
            self.settle_tally(place, before.state);
        }
    }

    /// How long the batch has taken by now, if the table has a clock.
    fn ticks(&self) -> Option<u64> {
        Some(self.table.shared.now()?.saturating_sub(self.moment.began?))
    }

    /// Counts what was served of a stream, at `ticks`.
    #[inline(always)]
    fn settle(&mut self, at_hand: &AtHand<'_>, ticks: Option<u64>) {
        let served = at_hand.served.into();
        self.served += served;
        at_hand.state.counters.add(self.moment.masked, SERVED, served);
        if let Some(ticks) = ticks {
            at_hand.state.latencies.add(self.moment.masked, ticks, served);
        }
    }

    /// Counts what was deferred of the stream in `place`, and gives back the references that are left.
    fn settle_tally(&mut self, place: usize, state: &FaultState) {
        if let Some(tally) = self.tallies.0.as_mut().and_then(|tallies| tallies[place].take()) {
            let count = tally.deferred.into();
            state.counters.add(self.moment.masked, DEFERRED, count);
            self.table.shared.counters.add(self.moment.masked, DEFERRED, count);
        }
    }

    /// As [`settle_tally`](Self::settle_tally), for all streams, and gives back the slots that are left.
    #[cold]
    fn settle_tallies(&mut self) {
        for place in 0..AT_HAND {
            if let Some(AtHand { state, .. }) = self.at_hand[place] {
                self.settle_tally(place, state);
            }
        }
        self.table.shared.release_slots(self.moment.aside.get());
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.tallies.0.is_some() || self.moment.aside.get() > 0 {
            self.settle_tallies();
        }
        let ticks = self.ticks();
        for place in 0..AT_HAND {
            if let Some(at_hand) = self.at_hand[place].take_if(|at_hand| at_hand.served > 0) {
                self.settle(&at_hand, ticks);
            }
        }
        if self.served > 0 {
            let shared = &self.table.shared;
            shared.counters.add(self.moment.masked, SERVED, self.served);
            if let Some(ticks) = ticks {
                shared.latencies.add(self.moment.masked, ticks, self.served);
            }
        }
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("table", self.table).field("began", &self.moment.began).finish_non_exhaustive()
    }
}

const fn place(stream: StreamId) -> usize {
    stream.0 as usize % AT_HAND
}
