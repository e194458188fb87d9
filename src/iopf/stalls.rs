//! The stalls of a batch, by address space.

use core::{fmt, slice};

use super::FaultHandler;
use super::batch::{Moment, Tally};
use super::fault::{Fault, Outcome};
use super::state::FaultState;
use super::table::FaultTable;
use crate::smmuv3::PageResponse;
use crate::smmuv3::event::Stall;
use crate::sync::grace::Counted;

/// How many runs are gathered at a time. A power of two: streams with the same low bits take each other's place.
const RUNS: usize = 4;

/// The most stalls of a run.
const RUN: usize = 32;

/// Stalls that are reported together: see [`FaultTable::stalls`].
pub struct Stalls<'a, A: FnMut(&[Stall], PageResponse)> {
    table: &'a FaultTable,
    moment: Moment<'a>,
    runs: [Option<Run<'a>>; RUNS],
    answer: A,
}

/// Stalls of one address space, of which nobody has been asked about the last ones yet.
struct Run<'a> {
    state: &'a Counted<FaultState>,
    handler: &'a dyn FaultHandler,
    /// The record of the first.
    record: u64,
    first: Stall,
    stalls: heapless::Vec<Stall, RUN>,
}

impl<'a, A: FnMut(&[Stall], PageResponse)> Stalls<'a, A> {
    #[inline(always)]
    pub(super) fn new(table: &'a FaultTable, moment: Moment<'a>, answer: A) -> Self {
        Self { table, moment, runs: [None, None, None, None], answer }
    }

    /// Deals with the stall in the `record`th record of its queue, from 0, now or with others.
    ///
    /// Does not allocate, takes no lock, and looks at a bounded number of things. The handler is called within.
    #[inline(always)]
    pub fn report(&mut self, record: u64, stall: Stall) {
        let run = self.runs[place(&stall)].as_mut().filter(|run| run.first.is_beside(&stall));
        if run.is_none_or(|run| run.stalls.push(stall).is_err()) {
            self.begin(record, stall);
        }
    }

    /// Begins another run in place of the one that `stall` does not go on.
    #[inline(never)]
    fn begin(&mut self, record: u64, stall: Stall) {
        let Self { table, moment, runs, answer } = self;
        let run = &mut runs[place(&stall)];
        if let Some(run) = run {
            run.end(moment, answer);
        }
        // For the rest of the batch it is the right state: the queue's end was read before, so its records are older than this look.
        let state = table.find(moment.section, stall.stream());
        let handler = state.and_then(|state| state.handler_of_run(moment, record, &stall));
        if let (Some(state), Some(handler)) = (state, handler) {
            let new = Run { state, handler, record, first: stall, stalls: heapless::Vec::new() };
            // There is room for one.
            let _ = run.insert(new).stalls.push(stall);
        } else {
            *run = None;
            if let Outcome::Answer(response) = table.report_in(moment, state, record, &Fault::from(&stall)) {
                answer(slice::from_ref(&stall), response);
            }
        }
    }
}

impl Run<'_> {
    /// Has those answered that can be at once, and the others reported by themselves, in their order.
    #[inline(always)]
    fn end(&self, moment: &Moment<'_>, answer: &mut impl FnMut(&[Stall], PageResponse)) {
        let rest = self.serve_at_once(&self.stalls, moment, answer);
        if !rest.is_empty() {
            self.end_one_by_one(rest, moment, answer);
        }
    }

    /// Has the first of `stalls` answered that can be at once. Returns the others.
    #[inline(always)]
    fn serve_at_once<'s>(
        &self,
        stalls: &'s [Stall],
        moment: &Moment<'_>,
        answer: &mut impl FnMut(&[Stall], PageResponse),
    ) -> &'s [Stall] {
        let count = super::survive(|| self.handler.serve_at_once(moment.masked, stalls)).unwrap_or(0);
        let (at_once, rest) = stalls.split_at_checked(count).unwrap_or((stalls, &[]));
        if !at_once.is_empty() {
            answer(at_once, PageResponse::Success);
            self.state.count_served(moment, at_once.len());
        }
        rest
    }

    /// As [`end`](Self::end), for the rest of the run, of which the first can't be answered at once.
    #[cold]
    fn end_one_by_one(&self, mut rest: &[Stall], moment: &Moment<'_>, answer: &mut impl FnMut(&[Stall], PageResponse)) {
        let mut tally = Tally::new(self.state, moment.masked);
        while let Some((first, behind)) = rest.split_first() {
            // The record of the run's first: none of it is of an earlier life of the stream.
            let outcome = FaultState::report(self.state, moment, self.record, &Fault::from(first), &mut tally);
            if let Outcome::Answer(response) = outcome {
                answer(slice::from_ref(first), response);
            }
            rest = if behind.is_empty() { behind } else { self.serve_at_once(behind, moment, answer) };
        }
    }
}

impl<A: FnMut(&[Stall], PageResponse)> Drop for Stalls<'_, A> {
    fn drop(&mut self) {
        self.runs.iter().flatten().for_each(|run| run.end(&self.moment, &mut self.answer));
        self.table.shared.release_slots(self.moment.aside.get());
    }
}

impl<A: FnMut(&[Stall], PageResponse)> fmt::Debug for Stalls<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stalls").field("table", self.table).finish_non_exhaustive()
    }
}

#[inline(always)]
const fn place(stall: &Stall) -> usize {
    stall.stream().0 as usize % RUNS
}
