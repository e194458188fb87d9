use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::driver::command_queue::AnswerCommand;
use crate::driver::dma::{CacheMaintenance, Coherence};
use crate::driver::fake::{self, Fake, NoDelay};
use alloc::sync::Arc;
use std::sync::Mutex;

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
    let queue = RecordQueue::new(region, QueueSize::new(log2).unwrap(), Coherence::COHERENT);
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
                |batch, _| batch.for_each(|record| records.push((batch.number(record), words(record)[0]))),
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

/// What an SMMU has written, by the addresses of the words where the CPU finds it once it has invalidated them.
struct Written(Mutex<Vec<u64>>, DmaRegion);

impl CacheMaintenance for Written {
    fn clean(&self, _: &[Word]) {
        unreachable!("the CPU writes no records");
    }

    fn invalidate(&self, words: &[Word]) {
        let written = self.0.lock().unwrap();
        for word in words {
            word.store(written[self.1.words.element_offset(word).unwrap()], Ordering::Relaxed);
        }
    }
}

/// Those that are not there yet are not looked at: they would be found as they were when they are.
#[test]
fn records_are_invalidated_each_time_before_they_are_read_also_across_the_wrap() {
    let bench = bench(2);
    let written: &Written = Box::leak(Box::new(Written(Mutex::new(vec![7; 8]), bench.region)));
    let queue = RecordQueue::new(bench.region, QueueSize::new(2).unwrap(), Coherence::by(written));
    let bench = Bench { queue, ..bench };
    let write = |words: &[u64]| written.0.lock().unwrap()[..words.len()].copy_from_slice(words);
    write(&[10, 0, 11, 0, 12, 0, 13, 0]);
    assert_eq!(bench.drain(3).0, [(0, 10), (1, 11), (2, 12)]);
    assert_eq!(bench.region.words[6].load(Ordering::Relaxed), 0);
    write(&[14, 0, 15, 0, 16, 0]);
    assert_eq!(bench.drain(0b110).0, [(3, 13), (4, 14), (5, 15)]);
    write(&[17, 0, 18, 0, 19, 0, 20, 0]);
    assert_eq!(bench.drain(0).0, [(6, 19), (7, 20)]);
}

/// The one before the records, and the one after CONS (3.18.2).
#[test]
fn prod_is_read_twice_a_batch_however_many_records_there_are() {
    let bench = bench(7);
    let reads = |prod| {
        let before = bench.fake.reads(Register::PriqProd);
        bench.drain(prod);
        (bench.fake.reads(Register::PriqProd) - before, bench.fake.reads(Register::PriqCons))
    };
    assert_eq!([1, 64, 128].map(reads), [(2, 0), (2, 0), (2, 0)]);
    // It is known that there is more, or that the interrupt will come.
    assert_eq!([0x80 | 90, 0x80 | 90, 0x80 | 90].map(reads), [(1, 0), (2, 0), (1, 0)]);
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
    for (flag, overflows) in [(0, 0), (1 << 31, 1)] {
        let bench = bench(2);
        assert_eq!(bench.drain(flag | 0b101), (vec![], true, Drained::default()));
        let counts = RecordCounts { records: 5, nonsense: 1, overflows, ..RecordCounts::default() };
        assert_eq!(bench.queue.counts(&bench.hardware), counts);
        assert_eq!(bench.cons(), [flag | 0b101]);
        assert_eq!(bench.drain(flag | 0b110).0, [(5, 0)]);
    }
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
        let take = |batch: Records<2>, answers: &mut Answers| batch.for_each(|_| answers.push(ANSWER).unwrap());
        let drained = bench.queue.drain(&bench.hardware, masked, take, || {}, |_| {});
        assert_eq!(drained, Drained { records: 4, more: false });
        // The queue is full again.
        bench.fake.set(Register::PriqProd, 0b010);
        assert_eq!((bench.queue.done(), bench.queue.produced(&bench.hardware, masked)), (2, 10));
    });
}

#[test]
fn while_answers_wait_for_room_nothing_is_taken_out() {
    let (bench, mut records) = (bench(2), Vec::new());
    let drain = |prod, records: &mut Vec<u64>| {
        bench.fake.set(Register::PriqProd, prod);
        let take = |batch: Records<'_, 2>, answers: &mut Answers| {
            batch.for_each(|record| records.push(batch.number(record)));
            let _ = answers.push(ANSWER);
        };
        fake::cpu().masked(|masked| bench.queue.drain(&bench.hardware, masked, take, || {}, |_| {}))
    };
    drain(1, &mut records);
    assert_eq!(drain(3, &mut records), Drained { records: 0, more: false });
    assert_eq!((records, bench.cons()), (vec![0], vec![1]));
}
