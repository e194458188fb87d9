//! A queue that the SMMU fills and the driver empties: the event queue and the PRI queue (3.5, 7.4, 8.1).

use core::sync::atomic::{AtomicU64 as Word, Ordering};
use core::{array, mem};

use super::command_queue::Answers;
use super::dma::{Coherence, DmaRegion};
use super::hardware::Hardware;
use super::hooks::OutputQueue;
use super::registers::Registers;
use super::report::Incident;
use super::{BATCH, Delay};
use crate::smmuv3::StreamId;
use crate::smmuv3::queue::{QueueIndex, QueuePointer, QueueSize};
use crate::smmuv3::registers::Register;
use crate::sync::Masked;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::lock::IrqLock;
use crate::sync::mutant::mutant;

/// What a drain did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Records taken out of the queue.
    pub records: usize,
    /// There is, or may be, more: drain again, after letting other interrupts in.
    pub more: bool,
}

/// Counts of an output queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Records that the driver is past: dealt with, or skipped unread when PROD made no sense or an abort made them
    /// worthless.
    pub records: u64,
    /// Overflows acknowledged.
    pub overflows: u64,
    /// Times that PROD made no sense, and the queue was skipped up to it.
    pub nonsense: u64,
    /// Answers, of one batch at most, that wait for room in the command queue. No records are taken out meanwhile.
    pub unsent: u64,
    /// [Reports](super::Report) about the queue and its records that were not made, as there were too many.
    pub suppressed: u64,
}

/// How far the driver has come. Records are counted from the start of the queue's life in 64 bits; CONS is the low bits.
#[derive(Debug)]
struct State {
    /// The number of the next record to take out.
    next: u64,
    /// What OVACKFLG was last written as.
    acknowledged: bool,
    /// Answers of the last batch that found no room in the command queue.
    unsent: Answers,
    /// What the queue holds is not to be believed.
    shut: bool,
    /// Records thrown away unread that nobody was told of.
    lost: u64,
}

/// An output queue with records of `WORDS` 64-bit words.
#[derive(Debug)]
pub(super) struct RecordQueue<const WORDS: usize> {
    memory: DmaRegion,
    /// The records, or none where they have to be invalidated: these take the way of those that go round, and the others pay nothing.
    at_hand: &'static [[Word; WORDS]],
    coherence: Coherence,
    size: QueueSize,
    state: IrqLock<State>,
    /// The number of records dealt with, answers included, or skipped. Release, for those who wait for it.
    done: AtomicU64,
    overflows: AtomicU64,
    nonsense: AtomicU64,
    /// How many of those the last recovery knew of.
    recovered: AtomicU64,
    /// How often records were thrown away unread, or could not be written; in no way exact.
    losses: AtomicU64,
    /// The number of `State::unsent`, and `State::acknowledged`, for those who do not hold the state.
    unsent: AtomicU64,
    acknowledged: AtomicBool,
}

impl<const WORDS: usize> RecordQueue<WORDS> {
    /// The registers of the event queue, whose records have 4 words (7.3), or of the PRI queue, where they have 2 (8.1).
    const REGISTERS: [Register; 2] = match WORDS {
        4 => [Register::EventqProd, Register::EventqCons],
        2 => [Register::PriqProd, Register::PriqCons],
        _ => panic!("there is no such queue"),
    };
    const PROD: Register = Self::REGISTERS[0];
    const CONS: Register = Self::REGISTERS[1];
    const QUEUE: OutputQueue = if WORDS == 4 { OutputQueue::Events } else { OutputQueue::PageRequests };

    /// A queue over `memory`, whose BASE, PROD = 0 and CONS = 0 the caller writes before it enables the queue.
    pub(super) fn new(memory: DmaRegion, size: QueueSize, coherence: Coherence) -> Self {
        let words = memory.words.get(..size.entries() as usize * WORDS).unwrap_or_default();
        Self {
            memory: DmaRegion { words, ..memory },
            at_hand: if coherence.is_coherent() { words.as_chunks().0 } else { &[] },
            coherence,
            size,
            state: IrqLock::new(State { next: 0, acknowledged: false, unsent: Answers::new(), shut: false, lost: 0 }),
            done: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            nonsense: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            acknowledged: AtomicBool::new(false),
        }
    }

    /// Takes out one batch: `take` gets the records, and adds the answers that there are by now, one a record at most;
    /// `overflowed` is called when an overflow is about to be acknowledged, after the last record before it was taken, or when records are
    /// skipped since PROD makes no sense;
    /// `send` gets the answers after CONS was written, also when there are none, and takes out those that it has sent.
    ///
    /// What `send` leaves is kept, and sent before anything else is taken out of the queue: so it never is more than a
    /// batch, and none is lost. CONS is written once. One core drains at a time; another gets `more` at once.
    #[inline(always)]
    pub(super) fn drain<R: Registers, D: Delay>(
        &self,
        hardware: &Hardware<R, D>,
        masked: &Masked,
        take: impl FnOnce(Records<'_, WORDS>, &mut Answers),
        overflowed: impl FnOnce(),
        mut send: impl FnMut(&mut Answers),
    ) -> Drained {
        let Some(mut state) = self.state.try_lock(masked) else {
            return Drained { records: 0, more: true };
        };
        if !state.unsent.is_empty() {
            send(&mut state.unsent);
            if !self.settle(&state) && !state.shut {
                return Drained { records: 0, more: false };
            }
        }
        if state.shut {
            let prod = self.prod(hardware);
            self.skip(hardware, masked, &mut state, prod);
            return Drained::default();
        }
        let prod = self.prod(hardware);
        let Some(pending) = self.pending(prod, state.next) else {
            self.nonsense.fetch_add(1, Ordering::Relaxed);
            hardware.reports.tell(masked, Incident::Nonsense { queue: Self::QUEUE, prod: prod.raw() });
            overflowed();
            self.skip(hardware, masked, &mut state, prod);
            return Drained { records: 0, more: false };
        };
        let count = pending.min(BATCH as u64);
        // A batch has no more records than there is room for answers, and the rest of the last one is gone.
        take(self.records(state.next, count), &mut state.unsent);
        state.next += count;
        // A PRI queue in overflow takes no records, so everything up to PROD is what there was before it (8.1.1).
        let acknowledge = prod.overflow != state.acknowledged && count == pending;
        if acknowledge {
            hardware.reports.tell(masked, Incident::Overflow(Self::QUEUE));
            overflowed();
            state.acknowledged = prod.overflow;
        }
        let cons = (count > 0 || acknowledge).then(|| self.write_cons(hardware, &state));
        if acknowledge {
            // Not before the SMMU writes records again: who sees it may have one sent in place of one that is lost.
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
        send(&mut state.unsent);
        if !self.settle(&state) {
            return Drained { records: count as usize, more: false };
        }
        // The interrupt comes when the queue becomes non-empty: what came in before the CONS write raised none (3.18.2). Where
        // nothing was taken out, the queue was empty, and it raises one. Relaxed: what there is, is taken out after another look.
        let has_more = |cons| self.size.pointer(hardware.registers.read32_relaxed(Self::PROD)).raw() != cons;
        let more = count < pending || !mutant!("prod_read_once") && cons.is_some_and(has_more);
        Drained { records: count as usize, more }
    }

    /// Drops the answers to `dropped` streams that could not be sent. Returns how many.
    pub(super) fn drop_unsent(&self, masked: &Masked, dropped: impl Fn(StreamId) -> bool) -> usize {
        let mut state = self.state.lock(masked);
        let before = state.unsent.len();
        state.unsent.retain(|answer| !answer.stream().is_some_and(&dropped));
        self.settle(&state);
        before - state.unsent.len()
    }

    /// Says that everything before `next` is dealt with, unless answers wait to be sent. Returns whether none do.
    fn settle(&self, state: &State) -> bool {
        self.unsent.store(state.unsent.len() as u64, Ordering::Relaxed);
        if state.unsent.is_empty() {
            // Pairs with `done`: the answers before are in the command queue.
            let order = if mutant!("records_done_relaxed") { Ordering::Relaxed } else { Ordering::Release };
            self.done.store(state.next, order);
        }
        state.unsent.is_empty()
    }

    /// The number of the first record that the SMMU has not written yet.
    ///
    /// With the drainer's lock: PROD says how far the SMMU is ahead of what was taken out, and by no more than the queue.
    pub(super) fn produced<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>, masked: &Masked) -> u64 {
        let state = self.state.lock(masked);
        let prod = self.prod(hardware);
        state.next + self.pending(prod, state.next).unwrap_or(0)
    }

    /// Whether there is, or may be, something for a drainer to do. Without the drainer's lock: it would come again and again
    /// while this core reads a register.
    pub(super) fn is_waiting<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>) -> bool {
        let prod = self.prod(hardware);
        self.pending(prod, self.done()) != Some(0)
            || prod.overflow != self.acknowledged.load(Ordering::Relaxed)
            || self.unsent.load(Ordering::Relaxed) > 0
    }

    /// From now on no record is believed, as after an abort (7.2.2): who drains throws away what there is, until
    /// [`discard`](Self::discard). Returns whether it was so before.
    pub(super) fn shut(&self, masked: &Masked) -> bool {
        mem::replace(&mut self.state.lock(masked).shut, true)
    }

    /// Whether it is [shut](Self::shut).
    pub(super) fn is_shut(&self, masked: &Masked) -> bool {
        self.state.lock(masked).shut
    }

    /// Throws away everything up to PROD, after an abort made the records worthless (7.2.2). Those behind it are believed.
    pub(super) fn discard<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>, masked: &Masked) {
        let mut state = self.state.lock(masked);
        state.shut = false;
        let prod = self.prod(hardware);
        self.skip(hardware, masked, &mut state, prod);
    }

    /// The number of records thrown away unread since the last call.
    pub(super) fn take_lost(&self, masked: &Masked) -> u64 {
        mem::take(&mut self.state.lock(masked).lost)
    }

    /// How many records the queue holds.
    pub(super) fn entries(&self) -> u32 {
        self.size.entries()
    }

    /// The number of records dealt with or skipped so far.
    pub(super) fn done(&self) -> u64 {
        self.done.load(if mutant!("records_done_unread") { Ordering::Relaxed } else { Ordering::Acquire })
    }

    /// How often records were thrown away unread so far.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// How many overflows were acknowledged so far.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    pub(super) fn counts<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>) -> RecordCounts {
        RecordCounts {
            records: self.done(),
            overflows: self.overflows(),
            nonsense: self.nonsense.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
            suppressed: hardware.reports.suppressed(Self::QUEUE.into()),
        }
    }

    /// How often PROD has made no sense, if a recovery has to know: what was skipped then, nobody has seen.
    pub(super) fn unrecovered(&self) -> Option<u64> {
        let nonsense = self.nonsense.load(Ordering::Relaxed);
        (nonsense != self.recovered.load(Ordering::Relaxed)).then_some(nonsense)
    }

    /// A recovery has dealt with what [`unrecovered`](Self::unrecovered) said.
    pub(super) fn recover(&self, nonsense: u64) {
        self.recovered.store(nonsense, Ordering::Relaxed);
    }

    fn skip<R: Registers, D: Delay>(
        &self,
        hardware: &Hardware<R, D>,
        masked: &Masked,
        state: &mut State,
        prod: QueuePointer,
    ) {
        let lap = 2 * u64::from(self.size.entries());
        let skipped = u64::from(prod.index.raw()).wrapping_sub(state.next) & (lap - 1);
        state.next += skipped;
        state.lost += skipped;
        let acknowledge = prod.overflow != state.acknowledged;
        if acknowledge {
            hardware.reports.tell(masked, Incident::Overflow(Self::QUEUE));
            state.acknowledged = prod.overflow;
        }
        self.write_cons(hardware, state);
        self.overflows.fetch_add(acknowledge.into(), Ordering::Relaxed);
        self.note_loss();
        self.settle(state);
    }

    /// Records were lost, and the SMMU writes others again: who sees it may have one sent in place of one that is lost.
    pub(super) fn note_loss(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    fn prod<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>) -> QueuePointer {
        self.size.pointer(hardware.read(Self::PROD))
    }

    /// Returns what was written: PROD of a queue with no more in it.
    fn write_cons<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>, state: &State) -> u32 {
        self.acknowledged.store(state.acknowledged, Ordering::Relaxed);
        let cons = QueuePointer { index: self.index(state.next), overflow: state.acknowledged }.raw();
        hardware.write(Self::CONS, cons);
        cons
    }

    /// How many records wait from `next` on, or `None` if PROD makes no sense.
    fn pending(&self, prod: QueuePointer, next: u64) -> Option<u64> {
        self.size.len(prod.index, self.index(next)).ok().map(u64::from)
    }

    /// A record's number as CONS holds it.
    const fn index(&self, number: u64) -> QueueIndex {
        self.size.index(number as u32)
    }

    /// The `count` records from number `first` on, which the SMMU has written.
    fn records(&self, first: u64, count: u64) -> Records<'_, WORDS> {
        let (start, count) = (self.size.slot(self.index(first)) as usize, count as usize);
        if let Some(all) = self.at_hand.get(start..start + count) {
            return Records { first, parts: [all, &[]] };
        }
        let (before, from_first) = split(self.memory.words.as_chunks().0, start);
        let (until_end, _) = split(from_first, count);
        let (wrapped, _) = split(before, count - until_end.len());
        // Each time anew: a line may have come into the cache with the records of the last batch, or by itself.
        [until_end, wrapped].iter().for_each(|part| self.coherence.invalidate(part.as_flattened()));
        Records { first, parts: [until_end, wrapped] }
    }
}

/// The first `count` of `all`, or all, and the others.
fn split<T>(all: &[T], count: usize) -> (&[T], &[T]) {
    all.split_at_checked(count).unwrap_or((all, &[]))
}

/// Records that are in the queue, numbered one after the other.
#[derive(Clone, Copy)]
pub(super) struct Records<'a, const WORDS: usize> {
    first: u64,
    /// Those up to the end of the memory, and those from its start on.
    parts: [&'a [[Word; WORDS]]; 2],
}

impl<const WORDS: usize> Records<'_, WORDS> {
    /// The number of the first one.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The record, if it is the only one.
    #[inline(always)]
    pub(super) fn only(&self) -> Option<&[Word; WORDS]> {
        if let [[record], []] = self.parts { Some(record) } else { None }
    }

    /// Has `take` look at each record, in their order.
    #[inline(always)]
    pub(super) fn for_each(&self, mut take: impl FnMut(&[Word; WORDS])) {
        let [until_end, wrapped] = self.parts;
        until_end.iter().chain(wrapped).for_each(&mut take);
    }

    /// The number of a `record` of these. Nothing counts on its behalf, since it is rarely asked for.
    pub(super) fn number(&self, record: &[Word; WORDS]) -> u64 {
        let [until_end, wrapped] = self.parts;
        let behind = |part: &[[Word; WORDS]]| part.element_offset(record);
        let index = behind(until_end).or_else(|| Some(until_end.len() + behind(wrapped)?));
        self.first + index.unwrap_or_default() as u64
    }
}

/// The words of a record, which the SMMU leaves alone until CONS has passed it.
///
/// Relaxed: the PROD read before orders it after the SMMU's writes.
pub(super) fn words<const WORDS: usize>(record: &[Word; WORDS]) -> [u64; WORDS] {
    record.each_ref().map(|word| word.load(Ordering::Relaxed))
}

/// The first words of a record.
#[inline(always)]
pub(super) fn first_words<const WORDS: usize>(record: &[Word; 4]) -> [u64; WORDS] {
    array::from_fn(|n| record[n].load(Ordering::Relaxed))
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
