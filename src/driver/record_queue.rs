//! A queue that the SMMU fills and the driver empties: the event queue and the PRI queue (3.5, 7.4, 8.1).

use core::sync::atomic::{AtomicU64 as Word, Ordering};
use core::{array, mem};

use super::command_queue::Answers;
use super::dma::DmaRegion;
use super::hardware::Hardware;
use super::registers::Registers;
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
    size: QueueSize,
    state: IrqLock<State>,
    /// The number of records dealt with, answers included, or skipped. Release, for those who wait for it.
    done: AtomicU64,
    overflows: AtomicU64,
    nonsense: AtomicU64,
    /// How often records were thrown away unread.
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

    /// A queue over `memory`, whose BASE, PROD = 0 and CONS = 0 the caller writes before it enables the queue.
    pub(super) fn new(memory: DmaRegion, size: QueueSize) -> Self {
        let words = memory.words.get(..size.entries() as usize * WORDS).unwrap_or_default();
        Self {
            memory: DmaRegion { words, ..memory },
            size,
            state: IrqLock::new(State { next: 0, acknowledged: false, unsent: Answers::new(), shut: false, lost: 0 }),
            done: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            nonsense: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            acknowledged: AtomicBool::new(false),
        }
    }

    /// Takes out one batch: `take` gets the records, and adds the answers that there are by now, one a record at most;
    /// `overflowed` is called when an overflow is about to be acknowledged, after the last record before it was taken;
    /// `send` gets the answers after CONS was written, also when there are none, and takes out those that it has sent.
    ///
    /// What `send` leaves is kept, and sent before anything else is taken out of the queue: so it never is more than a
    /// batch, and none is lost. CONS is written once. One core drains at a time; another gets `more` at once.
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
        if state.shut {
            let prod = self.prod(hardware);
            self.skip(hardware, &mut state, prod);
            return Drained::default();
        }
        if !state.unsent.is_empty() {
            send(&mut state.unsent);
            if !self.settle(&state) {
                return Drained { records: 0, more: false };
            }
        }
        let prod = self.prod(hardware);
        let Some(pending) = self.pending(prod, state.next) else {
            self.nonsense.fetch_add(1, Ordering::Relaxed);
            log::error!("{} is {:#x}: more than the whole queue ahead", Self::PROD.name(), prod.raw());
            self.skip(hardware, &mut state, prod);
            return Drained { records: 0, more: false };
        };
        let count = pending.min(BATCH as u64);
        // A batch has no more records than there is room for answers, and the rest of the last one is gone.
        take(self.records(state.next, count), &mut state.unsent);
        state.next += count;
        // A PRI queue in overflow takes no records, so everything up to PROD is what there was before it (8.1.1).
        let acknowledge = prod.overflow != state.acknowledged && count == pending;
        if acknowledge {
            overflowed();
            state.acknowledged = prod.overflow;
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
        if count > 0 || acknowledge {
            self.write_cons(hardware, &state);
        }
        send(&mut state.unsent);
        if !self.settle(&state) {
            return Drained { records: count as usize, more: false };
        }
        // The interrupt comes when the queue becomes non-empty: what came in before the CONS write raised none (3.18.2). Where
        // nothing was taken out, the queue was empty, and it raises one.
        let more = count < pending
            || (count > 0 || acknowledge) && !mutant!("prod_read_once") && {
                let prod = self.prod(hardware);
                self.pending(prod, state.next) != Some(0) || prod.overflow != state.acknowledged
            };
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

    /// Throws away everything up to PROD, after an abort made the records worthless (7.2.2). Those behind it are believed.
    pub(super) fn discard<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>, masked: &Masked) {
        let mut state = self.state.lock(masked);
        state.shut = false;
        let prod = self.prod(hardware);
        self.skip(hardware, &mut state, prod);
    }

    /// The number of records thrown away unread since the last call.
    pub(super) fn take_lost(&self, masked: &Masked) -> u64 {
        mem::take(&mut self.state.lock(masked).lost)
    }

    /// The number of records dealt with or skipped so far.
    pub(super) fn done(&self) -> u64 {
        self.done.load(if mutant!("records_done_unread") { Ordering::Relaxed } else { Ordering::Acquire })
    }

    /// How often records were thrown away unread so far.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    pub(super) fn counts(&self) -> RecordCounts {
        RecordCounts {
            records: self.done(),
            overflows: self.overflows.load(Ordering::Relaxed),
            nonsense: self.nonsense.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
        }
    }

    fn skip<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>, state: &mut State, prod: QueuePointer) {
        let lap = 2 * u64::from(self.size.entries());
        let skipped = u64::from(prod.index.raw()).wrapping_sub(state.next) & (lap - 1);
        state.next += skipped;
        state.lost += skipped;
        state.acknowledged = prod.overflow;
        self.losses.fetch_add(1, Ordering::Relaxed);
        self.write_cons(hardware, state);
        self.settle(state);
    }

    fn prod<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>) -> QueuePointer {
        self.size.pointer(hardware.read(Self::PROD))
    }

    fn write_cons<R: Registers, D: Delay>(&self, hardware: &Hardware<R, D>, state: &State) {
        self.acknowledged.store(state.acknowledged, Ordering::Relaxed);
        let cons = QueuePointer { index: self.index(state.next), overflow: state.acknowledged };
        hardware.write(Self::CONS, cons.raw());
    }

    /// How many records wait from `next` on, or `None` if PROD makes no sense.
    fn pending(&self, prod: QueuePointer, next: u64) -> Option<u64> {
        self.size.len(prod.index, self.index(next)).ok().map(u64::from)
    }

    /// A record's number as CONS holds it.
    const fn index(&self, number: u64) -> QueueIndex {
        self.size.index(number as u32)
    }

    /// The `count` records from number `first` on.
    fn records(&self, first: u64, count: u64) -> Records<'_, WORDS> {
        let (memory, _) = self.memory.words.as_chunks();
        let (before, from_first) = split(memory, self.size.slot(self.index(first)).into());
        let (until_end, _) = split(from_first, count);
        let (wrapped, _) = split(before, count - until_end.len() as u64);
        Records { first, parts: [until_end, wrapped] }
    }
}

/// The first `count` of `all`, or all, and the others.
fn split<T>(all: &[T], count: u64) -> (&[T], &[T]) {
    all.split_at_checked(count as usize).unwrap_or((all, &[]))
}

/// Records that are in the queue, numbered one after the other.
#[derive(Clone, Copy)]
pub(super) struct Records<'a, const WORDS: usize> {
    first: u64,
    /// Those up to the end of the memory, and those from its start on.
    parts: [&'a [[Word; WORDS]]; 2],
}

impl<const WORDS: usize> Records<'_, WORDS> {
    /// Has `take` look at each record and its number, in their order.
    #[inline(always)]
    pub(super) fn for_each(&self, mut take: impl FnMut(u64, &[Word; WORDS])) {
        let mut number = self.first;
        for part in &self.parts {
            for record in *part {
                take(number, record);
                number += 1;
            }
        }
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
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::driver::command_queue::AnswerCommand;
    use crate::driver::fake::{self, Fake, NoDelay};
    use alloc::sync::Arc;

    /// CMD_PRI_RESP of StreamID 1, group 0, Success.
    const ANSWER: AnswerCommand = AnswerCommand([0x1_0000_0041, 0x2000]);

    struct Bench {
        fake: Arc<Fake>,
        hardware: Hardware<Arc<Fake>, NoDelay>,
        queue: RecordQueue<2>,
        region: DmaRegion,
    }

    /// A queue of 2^`log2` records.
    fn bench(log2: u8) -> Bench {
        let fake = Fake::new(|_, _, _| {});
        let region = fake::region(16 << log2);
        let queue = RecordQueue::new(region, QueueSize::new(log2).unwrap());
        Bench { hardware: fake::hardware(&fake), fake, queue, region }
    }

    impl Bench {
        /// Drains with PROD at `prod`: what came out, whether an overflow was acknowledged, and the result.
        fn drain(&self, prod: u64) -> (Vec<(u64, u64)>, bool, Drained) {
            self.fake.set(Register::PriqProd, prod);
            let (mut records, mut overflowed) = (Vec::new(), false);
            let drained = fake::cpu().masked(|masked| {
                self.queue.drain(
                    &self.hardware,
                    masked,
                    |batch, _| batch.for_each(|number, record| records.push((number, words(record)[0]))),
                    || overflowed = true,
                    |_| {},
                )
            });
            (records, overflowed, drained)
        }

        fn cons(&self) -> Vec<u64> {
            self.fake.written(Register::PriqCons)
        }
    }

    #[test]
    fn an_empty_queue_gives_nothing_and_cons_is_not_written() {
        let bench = bench(2);
        assert_eq!(bench.drain(0), (vec![], false, Drained::default()));
        assert_eq!(bench.cons(), []);
    }

    #[test]
    fn records_come_out_in_order_across_the_wrap_with_64_bit_numbers_and_one_cons_write_a_batch() {
        let bench = bench(2);
        fake::fill(&bench.region, 0, &[10, 0, 11, 0, 12, 0, 13, 0]);
        assert_eq!(bench.drain(3).0, [(0, 10), (1, 11), (2, 12)]);
        fake::fill(&bench.region, 0, &[14, 0, 15, 0]);
        assert_eq!(bench.drain(0b110).0, [(3, 13), (4, 14), (5, 15)]);
        assert_eq!(bench.cons(), [3, 0b110]);
        assert_eq!(bench.queue.done(), 6);
    }

    #[test]
    fn cons_is_written_before_the_answers_go_out() {
        let bench = bench(2);
        bench.fake.set(Register::PriqProd, 1);
        let mut sent = Vec::new();
        fake::cpu().masked(|masked| {
            let send = |answers: &mut Answers| {
                sent.push((answers.len(), bench.cons()));
                answers.clear();
            };
            let take = |_: Records<2>, answers: &mut Answers| answers.extend([ANSWER]);
            bench.queue.drain(&bench.hardware, masked, take, || {}, send)
        });
        assert_eq!(sent, [(1, vec![1])]);
    }

    #[test]
    fn a_full_queue_is_drained_whole() {
        let bench = bench(2);
        let (records, _, drained) = bench.drain(0b100);
        assert_eq!((records.len(), drained), (4, Drained { records: 4, more: false }));
    }

    #[test]
    fn a_batch_stops_at_its_cap_and_says_that_there_is_more() {
        let bench = bench(7);
        assert_eq!(bench.drain(100).2, Drained { records: 64, more: true });
        assert_eq!(bench.drain(100).2, Drained { records: 36, more: false });
        assert_eq!(bench.cons(), [64, 100]);
    }

    #[test]
    fn an_overflow_is_acknowledged_in_the_cons_write_of_the_last_record_before_it() {
        let bench = bench(7);
        let (records, overflowed, drained) = bench.drain(1 << 31 | 0x80);
        assert_eq!((records.len(), overflowed, drained.more), (64, false, true));
        let (records, overflowed, drained) = bench.drain(1 << 31 | 0x80);
        assert_eq!((records.len(), overflowed, drained.more), (64, true, false));
        assert_eq!(bench.cons(), [0x40, 1 << 31 | 0x80]);
        assert!(!bench.drain(1 << 31 | 0x80).1);
        assert!(bench.drain(0x80).1, "the flag toggles");
        assert_eq!(bench.cons()[2..], [0x80]);
    }

    #[test]
    fn every_cons_write_carries_the_acknowledgement() {
        let bench = bench(2);
        bench.drain(1 << 31);
        bench.drain(1 << 31 | 1);
        assert_eq!(bench.cons(), [1 << 31, 1 << 31 | 1]);
    }

    #[test]
    fn a_prod_that_makes_no_sense_skips_the_queue_and_is_counted() {
        let bench = bench(2);
        assert_eq!(bench.drain(0b101), (vec![], false, Drained::default()));
        assert_eq!(bench.queue.counts(), RecordCounts { records: 5, overflows: 0, nonsense: 1, unsent: 0 });
        assert_eq!(bench.cons(), [0b101]);
        assert_eq!(bench.drain(0b110).0, [(5, 0)]);
    }

    #[test]
    fn a_second_core_gets_nothing_while_one_drains_and_is_told_to_come_again() {
        let bench = bench(2);
        let cpu = fake::cpu();
        cpu.masked(|masked| {
            let _draining = bench.queue.state.lock(masked);
            assert_eq!(bench.drain(3), (vec![], false, Drained { records: 0, more: true }));
        });
    }

    /// An overflow while the last record was taken out: no interrupt tells of it (7.4).
    #[test]
    fn an_overflow_that_comes_during_a_drain_asks_for_another_one() {
        let fake = Fake::new(|values, register, value| {
            if register == Register::PriqCons && value == 1 {
                values.insert(Register::PriqProd.offset(), 1 << 31 | 1);
            }
        });
        let bench = Bench { hardware: fake::hardware(&fake), fake, ..bench(2) };
        assert_eq!(bench.drain(1).2, Drained { records: 1, more: true });
        assert!(bench.queue.is_waiting(&bench.hardware));
        assert_eq!(bench.drain(1 << 31 | 1), (vec![], true, Drained::default()));
        assert!(!bench.queue.is_waiting(&bench.hardware));
    }

    #[test]
    fn produced_counts_what_the_smmu_has_written_whether_answers_are_sent_or_not() {
        let bench = bench(2);
        bench.drain(2);
        bench.fake.set(Register::PriqProd, 0b110);
        fake::cpu().masked(|masked| {
            let take = |batch: Records<2>, answers: &mut Answers| batch.for_each(|_, _| answers.push(ANSWER).unwrap());
            let drained = bench.queue.drain(&bench.hardware, masked, take, || {}, |_| {});
            assert_eq!(drained, Drained { records: 4, more: false });
            // The queue is full again.
            bench.fake.set(Register::PriqProd, 0b010);
            assert_eq!((bench.queue.done(), bench.queue.produced(&bench.hardware, masked)), (2, 10));
        });
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use alloc::sync::Arc;

    use embedded_hal::delay::DelayNs;
    use loom::sync::Mutex;
    use loom::thread;

    use super::*;
    use crate::driver::command_queue::AnswerCommand;
    use crate::sync::Cpu;
    use crate::sync::grace::Domain;

    /// The registers of an event queue, and its interrupt.
    #[derive(Default)]
    struct Wire(Mutex<Lines>);

    #[derive(Default)]
    struct Lines {
        prod: u32,
        cons: u32,
        pending: bool,
    }

    impl Wire {
        /// The SMMU writes a record: the interrupt comes if the queue was empty (3.18.2).
        fn record(&self) {
            let mut lines = self.0.lock().unwrap();
            lines.pending |= lines.prod == lines.cons;
            lines.prod += 1;
        }

        fn take_interrupt(&self) -> bool {
            core::mem::take(&mut self.0.lock().unwrap().pending)
        }
    }

    impl Registers for Wire {
        fn read32(&self, _: Register) -> u32 {
            self.0.lock().unwrap().prod
        }

        fn write32(&self, register: Register, value: u32) {
            assert_eq!(register, Register::EventqCons);
            self.0.lock().unwrap().cons = value;
        }

        fn write64(&self, register: Register, _: u64) {
            panic!("{} is written", register.name());
        }
    }

    #[derive(Clone)]
    struct NoDelay;

    impl DelayNs for NoDelay {
        fn delay_ns(&mut self, _: u32) {}
    }

    /// A queue of 8 records and its hardware.
    fn queue(wire: &Arc<Wire>) -> (RecordQueue<4>, Hardware<Arc<Wire>, NoDelay>) {
        let words = (0..8 * 4).map(|_| core::sync::atomic::AtomicU64::new(0)).collect::<alloc::vec::Vec<_>>();
        let memory = DmaRegion { phys: crate::smmuv3::PhysAddr(0), words: words.leak() };
        let queue = RecordQueue::new(memory, QueueSize::new(3).unwrap());
        (queue, Hardware::new(wire.clone(), NoDelay, Arc::new(Domain::new()), 1))
    }

    #[test]
    fn who_sees_that_a_record_is_dealt_with_sees_its_answer_sent() {
        loom::model(|| {
            let wire = Arc::new(Wire::default());
            wire.record();
            let (queue, hardware) = queue(&wire);
            let (queue, sent) = (Arc::new(queue), Arc::new(AtomicBool::new(false)));
            let waiter = thread::spawn({
                let (queue, sent) = (queue.clone(), sent.clone());
                move || assert!(queue.done() == 0 || sent.load(Ordering::Relaxed))
            });
            // CMD_RESUME of StreamID 1, STAG 7, retry.
            let answer = AnswerCommand([0x1_0000_1044, 7]);
            Cpu::of_test(0).masked(|masked| {
                let send = |answers: &mut Answers| {
                    sent.store(true, Ordering::Relaxed);
                    answers.clear();
                };
                let take =
                    |batch: Records<4>, answers: &mut Answers| batch.for_each(|_, _| answers.push(answer).unwrap());
                queue.drain(&hardware, masked, take, || {}, send)
            });
            assert_eq!(queue.done(), 1);
            waiter.join().unwrap();
        });
    }

    #[test]
    fn a_record_that_comes_while_the_queue_is_drained_is_not_slept_over() {
        loom::model(|| {
            let wire = Arc::new(Wire::default());
            let (queue, hardware) = queue(&wire);
            let smmu = thread::spawn({
                let wire = wire.clone();
                move || (0..2).for_each(|_| wire.record())
            });
            let cpu = Cpu::of_test(0);
            let interrupt = || {
                let drain = |masked: &Masked| queue.drain(&hardware, masked, |_, _| {}, || {}, |_| {});
                if wire.take_interrupt() {
                    while cpu.masked(drain).more {}
                }
            };
            interrupt();
            smmu.join().unwrap();
            interrupt();
            assert_eq!(queue.done(), 2);
        });
    }
}
