//! The stalls of a batch, by address space.

use core::cell::Cell;
use core::{array, fmt, iter};

use super::FaultHandler;
use super::batch::{Moment, Tally};
use super::fault::{Fault, Outcome, Stage2Fault};
use super::state::FaultState;
use super::table::FaultTable;
use crate::smmuv3::PageResponse;
use crate::smmuv3::event::{Stall, StallBuffer, StallRun};
use crate::sync::Masked;
use crate::sync::grace::Counted;

/// How many runs are gathered at a time. A power of two: streams with the same low bits take each other's place.
const RUNS: usize = 4;

/// The most stalls of a run: as many as a drain takes out of a queue, so that a stream's are together.
const RUN: usize = 64;

/// Stalls that are reported together: see [`FaultTable::stalls`].
pub struct Stalls<'a, A: StallAnswers> {
    table: &'a FaultTable,
    moment: Moment<'a>,
    /// No record has a lower number.
    first: u64,
    /// Of the runs that are not empty: which it is, and whose.
    owners: heapless::Vec<(usize, Owner<'a>), RUNS>,
    runs: Runs,
    answers: A,
}

/// Stalls of one address space each, of which nobody has been asked about the last ones yet.
type Runs = [StallBuffer<RUN>; RUNS];

/// Whose stalls those of a run are.
struct Owner<'a> {
    state: &'a Counted<FaultState>,
    handler: &'a dyn FaultHandler,
    /// How many of its first stalls were served at once, when it ends.
    served: Cell<usize>,
}

/// What the answers to stalls that are reported together go to.
pub trait StallAnswers {
    /// Takes the answer `response` to the stalls of all `runs`: `count` of them, at least one.
    fn answer<'s>(&mut self, runs: impl Iterator<Item = StallRun<'s>> + Clone, count: usize, response: PageResponse);
}

/// For who takes the answers run by run.
impl<F: FnMut(StallRun<'_>, PageResponse)> StallAnswers for F {
    fn answer<'s>(&mut self, runs: impl Iterator<Item = StallRun<'s>> + Clone, _: usize, response: PageResponse) {
        runs.for_each(|run| self(run, response));
    }
}

impl<'a, A: StallAnswers> Stalls<'a, A> {
    #[inline(always)]
    pub(super) fn new(table: &'a FaultTable, moment: Moment<'a>, first: u64, answers: A) -> Self {
        Self {
            table,
            moment,
            first,
            owners: heapless::Vec::new(),
            runs: array::from_fn(|_| StallBuffer::new()),
            answers,
        }
    }

    /// Deals with the stall in a record, now or with others. The record begins with `words`, and `more` says the how manyth of its queue
    /// it is, from 0, and what its word 3 is, when that is asked. Returns whether it is a stall's.
    ///
    /// Does not allocate, takes no lock, and looks at a bounded number of things. The handler is called within.
    #[inline(always)]
    pub fn report(&mut self, more: impl Fn() -> (u64, u64), words: [u64; 3]) -> bool {
        let [origin, second, third] = words;
        self.runs[place(origin)].push(words) || self.begin(more, origin, (second, third))
    }

    /// Begins another run in place of the one that a stall does not go on.
    #[inline(never)]
    fn begin(&mut self, more: impl Fn() -> (u64, u64), origin: u64, (second, third): (u64, u64)) -> bool {
        let Some(stall) = Stall::decode([origin, second, third]) else { return false };
        let Self { table, moment, first, owners, runs, answers } = self;
        let place = place(origin);
        if let Some(index) = owners.iter().position(|(other, _)| *other == place) {
            let (_, owner) = owners.swap_remove(index);
            end_early(&owner, runs[place].run(), moment, answers);
        }
        // For the rest of the batch it is the right state: the queue's end was read before, so its records are older than this look.
        let state = table.find(moment.section, stall.stream());
        match Owner::of(state, moment, &stall, |since| *first >= since || more().0 >= since) {
            Some(owner) => {
                owners.extend([(place, owner)]);
                runs[place].begin(stall);
            }
            None => {
                runs[place] = StallBuffer::new();
                report_alone(table, moment, state, more(), &stall, answers);
            }
        }
        true
    }
}

impl FaultTable {
    /// As [`stalls`](Self::stalls) and [`Stalls::report`], for the only record of a batch: the `record`th of its queue, which begins with
    /// `words`, and whose word 3 is `fourth`, when that is asked.
    #[inline(always)]
    pub fn stall(
        &self,
        masked: &Masked,
        record: u64,
        words: [u64; 3],
        fourth: impl FnOnce() -> u64,
        mut answers: impl StallAnswers,
    ) -> bool {
        let Some(stall) = Stall::decode(words) else { return false };
        let section = self.shared.domain.read(masked);
        let moment = self.shared.moment(&section, masked);
        // The right state, as in a batch of many.
        let state = self.find(moment.section, stall.stream());
        match Owner::of(state, &moment, &stall, |since| record >= since) {
            Some(owner) => end(iter::once((&owner, (&stall).into())), &moment, &mut answers),
            None => report_alone(self, &moment, state, (record, fourth()), &stall, &mut answers),
        }
        true
    }
}

/// Has those stalls of all `runs`, each with its owner, answered together that can be at once, and the others reported by themselves, in
/// their order.
#[inline(always)]
fn end<'r>(
    runs: impl Iterator<Item = (&'r Owner<'r>, StallRun<'r>)> + Clone,
    moment: &Moment<'_>,
    answers: &mut impl StallAnswers,
) {
    let mut count = 0;
    for (owner, stalls) in runs.clone() {
        owner.served.set(owner.serve_at_once(stalls, moment));
        count += owner.served.get();
    }
    let mut now = None;
    if count > 0 {
        let served = runs.clone().map(|(owner, stalls)| stalls.up_to(owner.served.get()));
        answers.answer(served, count, PageResponse::Success);
        now = moment.now();
    }
    for (owner, stalls) in runs {
        let served = owner.served.get();
        owner.state.count_served(moment, now, served);
        if served < stalls.len() {
            owner.report_one_by_one(stalls.behind(served), moment, answers);
        }
    }
}

/// As [`end`], before the batch is over.
#[inline(never)]
fn end_early(owner: &Owner<'_>, stalls: StallRun<'_>, moment: &Moment<'_>, answers: &mut impl StallAnswers) {
    end(iter::once((owner, stalls)), moment, answers);
}

impl<'a> Owner<'a> {
    /// Who is asked about `stall`, of a stream with this `state`, and those of its substream that follow; `None` where each is to be reported
    /// by itself. `is_of_life` says whether its record is of a life of the stream that began with the record of that number.
    #[inline(always)]
    fn of(
        state: Option<&'a Counted<FaultState>>,
        moment: &Moment<'a>,
        stall: &Stall,
        is_of_life: impl Fn(u64) -> bool,
    ) -> Option<Self> {
        let state = state.filter(|state| is_of_life(state.since))?;
        let handler = state.handler_of_run(moment, stall)?;
        Some(Self { state, handler, served: Cell::new(0) })
    }

    /// How many of the first of `stalls` are to be answered Success at once.
    #[inline(always)]
    fn serve_at_once(&self, stalls: StallRun<'_>, moment: &Moment<'_>) -> usize {
        let served = super::survive(|| self.handler.serve_at_once(moment.masked, stalls)).unwrap_or(0);
        served.min(stalls.len())
    }

    /// Reports those of which the first can't be answered at once. As the run's first, none is of an earlier life of the stream.
    #[cold]
    fn report_one_by_one(&self, mut stalls: StallRun<'_>, moment: &Moment<'_>, answers: &mut impl StallAnswers) {
        let mut tally = Tally::new(self.state, moment.masked);
        while let Some(first) = stalls.first() {
            let outcome = FaultState::report_live(self.state, moment, &Fault::from(&first), &mut tally);
            if let Outcome::Answer(response) = outcome {
                answers.answer(iter::once((&first).into()), 1, response);
            }
            stalls = stalls.behind(1);
            if !stalls.is_empty() {
                let count = self.serve_at_once(stalls, moment);
                if count > 0 {
                    answers.answer(iter::once(stalls.up_to(count)), count, PageResponse::Success);
                    self.state.count_served(moment, moment.now(), count);
                }
                stalls = stalls.behind(count);
            }
        }
    }
}

/// Has a stall, whose record has this number and this word 3, reported by itself.
#[cold]
#[inline(never)]
fn report_alone(
    table: &FaultTable,
    moment: &Moment<'_>,
    state: Option<&Counted<FaultState>>,
    (record, fourth): (u64, u64),
    stall: &Stall,
    answers: &mut impl StallAnswers,
) {
    let fault = Fault { stage2: Stage2Fault::of(stall, fourth), ..Fault::from(stall) };
    if let Outcome::Answer(response) = table.report_in(moment, state, record, &fault) {
        answers.answer(iter::once(stall.into()), 1, response);
    }
}

impl<A: StallAnswers> Drop for Stalls<'_, A> {
    fn drop(&mut self) {
        let Self { moment, owners, runs, answers, .. } = self;
        end(owners.iter().map(|(place, owner)| (owner, runs[*place].run())), moment, answers);
    }
}

impl<A: StallAnswers> fmt::Debug for Stalls<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stalls").field("table", self.table).finish_non_exhaustive()
    }
}

/// By the StreamID, in bits 63:32 of word 0 (7.3).
#[inline(always)]
const fn place(origin: u64) -> usize {
    (origin >> 32) as usize % RUNS
}
