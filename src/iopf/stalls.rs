//! The stalls of a batch, by address space.

use core::{array, fmt};

use super::FaultHandler;
use super::batch::{Moment, Tally};
use super::fault::{Fault, Outcome, Stage2Fault};
use super::state::FaultState;
use super::table::FaultTable;
use crate::smmuv3::PageResponse;
use crate::smmuv3::event::{Stall, StallBuffer, StallRun};
use crate::sync::grace::Counted;

/// How many runs are gathered at a time. A power of two: streams with the same low bits take each other's place.
const RUNS: usize = 4;

/// The most stalls of a run.
const RUN: usize = 32;

/// Stalls that are reported together: see [`FaultTable::stalls`].
pub struct Stalls<'a, A: FnMut(StallRun<'_>, PageResponse)> {
    table: &'a FaultTable,
    moment: Moment<'a>,
    runs: [Run<'a>; RUNS],
    answer: A,
}

/// Stalls of one address space, of which nobody has been asked about the last ones yet.
struct Run<'a> {
    /// While there are none, nobody.
    owner: Option<Owner<'a>>,
    /// The record of the first.
    record: u64,
    stalls: StallBuffer<RUN>,
}

/// Whose stalls those of a run are.
#[derive(Clone, Copy)]
struct Owner<'a> {
    state: &'a Counted<FaultState>,
    handler: &'a dyn FaultHandler,
}

impl<'a, A: FnMut(StallRun<'_>, PageResponse)> Stalls<'a, A> {
    #[inline(always)]
    pub(super) fn new(table: &'a FaultTable, moment: Moment<'a>, answer: A) -> Self {
        Self { table, moment, runs: array::from_fn(|_| Run::none()), answer }
    }

    /// Deals with the stall in a record, now or with others. The record begins with `words`, and `more` says the how manyth of its queue
    /// it is, from 0, and what its word 3 is, when that is asked. Returns whether it is a stall's.
    ///
    /// Does not allocate, takes no lock, and looks at a bounded number of things. The handler is called within.
    #[inline(always)]
    pub fn report(&mut self, more: impl FnOnce() -> (u64, u64), words: [u64; 3]) -> bool {
        let [origin, second, third] = words;
        self.runs[place(origin)].stalls.push(words) || self.begin(more, origin, (second, third))
    }

    /// Begins another run in place of the one that a stall does not go on.
    #[inline(never)]
    fn begin(&mut self, more: impl FnOnce() -> (u64, u64), origin: u64, (second, third): (u64, u64)) -> bool {
        let Some(stall) = Stall::decode([origin, second, third]) else { return false };
        let Self { table, moment, runs, answer } = self;
        let (run, (record, fourth)) = (&mut runs[place(origin)], more());
        if run.owner.is_some() {
            run.end_early(moment, answer);
        }
        // For the rest of the batch it is the right state: the queue's end was read before, so its records are older than this look.
        let state = table.find(moment.section, stall.stream());
        let handler = state.and_then(|state| state.handler_of_run(moment, record, &stall));
        run.owner = state.zip(handler).map(|(state, handler)| Owner { state, handler });
        run.record = record;
        if run.owner.is_some() {
            run.stalls.begin(stall);
        } else {
            run.stalls = StallBuffer::new();
            report_alone(table, moment, state, record, (&stall, fourth), answer);
        }
        true
    }
}

impl Run<'_> {
    #[inline(always)]
    fn none() -> Self {
        Self { owner: None, record: 0, stalls: StallBuffer::new() }
    }

    /// Has those answered that can be at once, and the others reported by themselves, in their order.
    #[inline(always)]
    fn end(&self, moment: &Moment<'_>, answer: &mut impl FnMut(StallRun<'_>, PageResponse)) {
        let (Some(owner), stalls) = (self.owner, self.stalls.run()) else { return };
        let count = owner.serve_at_once(stalls, moment, answer);
        if count < stalls.len() {
            owner.report_one_by_one(self.record, stalls.behind(count), moment, answer);
        }
    }

    /// As [`end`](Self::end), before the batch is over.
    #[inline(never)]
    fn end_early(&self, moment: &Moment<'_>, answer: &mut impl FnMut(StallRun<'_>, PageResponse)) {
        self.end(moment, answer);
    }
}

impl Owner<'_> {
    /// Has the first of `stalls` answered that can be at once. Returns how many.
    #[inline(always)]
    fn serve_at_once(
        self,
        stalls: StallRun<'_>,
        moment: &Moment<'_>,
        answer: &mut impl FnMut(StallRun<'_>, PageResponse),
    ) -> usize {
        let count = super::survive(|| self.handler.serve_at_once(moment.masked, stalls)).unwrap_or(0);
        let at_once = stalls.up_to(count);
        if !at_once.is_empty() {
            answer(at_once, PageResponse::Success);
            self.state.count_served(moment, at_once.len());
        }
        at_once.len()
    }

    /// Reports those of which the first can't be answered at once. `record` is that of the run's first: none of it is of an earlier life of
    /// the stream.
    #[cold]
    fn report_one_by_one(
        self,
        record: u64,
        mut stalls: StallRun<'_>,
        moment: &Moment<'_>,
        answer: &mut impl FnMut(StallRun<'_>, PageResponse),
    ) {
        let mut tally = Tally::new(self.state, moment.masked);
        while let Some(first) = stalls.first() {
            let outcome = FaultState::report(self.state, moment, record, &Fault::from(&first), &mut tally);
            if let Outcome::Answer(response) = outcome {
                answer((&first).into(), response);
            }
            stalls = stalls.behind(1);
            if !stalls.is_empty() {
                stalls = stalls.behind(self.serve_at_once(stalls, moment, answer));
            }
        }
    }
}

/// Has a stall, whose record has this word 3, reported by itself.
#[cold]
#[inline(never)]
fn report_alone(
    table: &FaultTable,
    moment: &Moment<'_>,
    state: Option<&Counted<FaultState>>,
    record: u64,
    (stall, fourth): (&Stall, u64),
    answer: &mut impl FnMut(StallRun<'_>, PageResponse),
) {
    let fault = Fault { stage2: Stage2Fault::of(stall, fourth), ..Fault::from(stall) };
    if let Outcome::Answer(response) = table.report_in(moment, state, record, &fault) {
        answer(stall.into(), response);
    }
}

impl<A: FnMut(StallRun<'_>, PageResponse)> Drop for Stalls<'_, A> {
    fn drop(&mut self) {
        self.runs.iter().for_each(|run| run.end(&self.moment, &mut self.answer));
        self.table.shared.release_slots(self.moment.aside.get());
    }
}

impl<A: FnMut(StallRun<'_>, PageResponse)> fmt::Debug for Stalls<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stalls").field("table", self.table).finish_non_exhaustive()
    }
}

/// By the StreamID, in bits 63:32 of word 0 (7.3).
#[inline(always)]
const fn place(origin: u64) -> usize {
    (origin >> 32) as usize % RUNS
}
