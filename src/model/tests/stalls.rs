//! Stalled transactions: 3.12.2, 4.7, 7.2.1.

use std::vec::Vec;

use super::bench::*;
use crate::model::engine::registers as reg;
use crate::model::smmu::diagnostics as diag;

/// The StreamIDs of engines 0 and 1.
const STREAM: u64 = 0x100;
const NEIGHBOUR: u64 = 0x101;

/// Engine 0's stream stalls; nothing is mapped in its address space 0.
fn stalling() -> Bench {
    let bench = Bench::enabled();
    bench.attach(STREAM, 0, 0, CD_S | CD_R | CD_A);
    bench
}

fn stag(record: [u64; 4]) -> u64 {
    assert_eq!(record[1] >> 31 & 1, 1, "not a stall: {record:x?}");
    record[1] & 0xffff
}

#[test]
fn write_to_an_unmapped_page_stalls_with_a_record() {
    let mut bench = stalling();
    bench.write_word(0, 0x12_3456_7008);
    assert_eq!(bench.state(0), 1);
    let record = bench.take_event();
    // F_TRANSLATION, StreamID; Stall, CLASS = IN, RnW = 0; InputAddr (7.3.13).
    assert_eq!(record[0], 0x100_0000_0010);
    assert_eq!(record[1] & !0xffff, 0x0000_0200_8000_0000);
    assert_eq!(record[2], 0x12_3456_7008);
    assert_eq!(bench.read(diag::STALLS_RECORDED as u64), 1);
    assert_eq!(bench.engine(0, reg::STALLS), 1);
}

#[test]
fn read_record_says_that_it_reads() {
    let mut bench = stalling();
    bench.read_word(0, 0x5000);
    let record = bench.take_event();
    assert_eq!(record[1] & !0xffff, 0x0000_0208_8000_0000);
}

#[test]
fn resume_with_retry_looks_everything_up_again() {
    let mut bench = stalling();
    bench.write_word(0, 0x5008);
    let stag = stag(bench.take_event());
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.run();
    assert_eq!(bench.state(0), 1, "mapping alone releases nothing");
    bench.resume(STREAM, stag, 1);
    assert_eq!(bench.state(0), 2);
    assert_eq!(bench.peek(DATA + 8), 0x1122_3344_5566_7788);
    assert_eq!(bench.take_events().len(), 0);
    assert_eq!(bench.engine(0, reg::STALLS_RETRIED), 1);
}

#[test]
fn resume_with_retry_faults_again_with_another_tag() {
    let mut bench = stalling();
    bench.write_word(0, 0x5008);
    let first = stag(bench.take_event());
    bench.resume(STREAM, first, 1);
    let second = stag(bench.take_event());
    assert_ne!(first, second);
    assert_eq!(bench.state(0), 1);
}

#[test]
fn resume_with_abort_aborts() {
    let mut bench = stalling();
    bench.write_word(0, 0x5008);
    let stag = stag(bench.take_event());
    bench.resume(STREAM, stag, 2);
    assert_eq!(bench.state(0), 3);
    assert_eq!(bench.engine64(0, reg::FAULT_ADDRESS), 0x5008);
    assert_eq!(bench.engine(0, reg::STALLS_REFUSED), 1);
}

#[test]
fn resume_without_abort_reads_zeros_and_drops_writes() {
    let mut bench = stalling();
    bench.map(0, 0x6000, DATA, PAGE_RW);
    bench.poke(DATA, !0);
    bench.copy(0, 0x5000, 0x6000, 8);
    let tag = stag(bench.take_event());
    bench.resume(STREAM, tag, 0);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, 0));
    bench.write_word(0, 0x5000);
    let tag = stag(bench.take_event());
    bench.resume(STREAM, tag, 0);
    assert_eq!(bench.state(0), 2);
}

#[test]
fn resume_needs_stream_and_tag() {
    let mut bench = stalling();
    bench.write_word(0, 0x5008);
    let stag = stag(bench.take_event());
    bench.resume(NEIGHBOUR, stag, 1);
    bench.resume(STREAM, stag ^ 1, 1);
    bench.resume(STREAM, stag ^ 0x40, 1);
    assert_eq!(bench.state(0), 1);
    assert_eq!(bench.read(diag::RESUMED_NOTHING as u64), 3);
    assert_eq!(bench.read(GERROR), 0, "not an error, only without effect (4.7.1)");
}

#[test]
fn second_answer_to_one_stall_matches_nothing() {
    let mut bench = stalling();
    bench.write_word(0, 0x5008);
    let stag = stag(bench.take_event());
    bench.resume(STREAM, stag, 2);
    bench.write_word(0, 0x5008);
    bench.resume(STREAM, stag, 2);
    assert_eq!(bench.state(0), 1, "the tag of the first stall does not name the second one");
    assert_eq!(bench.read(diag::RESUMED_NOTHING as u64), 1);
}

#[test]
fn stalls_of_one_stream_are_answered_in_any_order() {
    let mut bench = stalling();
    bench.set_engine(0, reg::DEPTH, 4);
    bench.copy(0, 0x10_0000, 0x20_0000, 0x4000);
    let records = bench.take_events();
    assert_eq!(records.iter().map(|r| r[2]).collect::<Vec<_>>(), [0x10_0000, 0x10_1000, 0x10_2000, 0x10_3000]);
    for page in 0..4 {
        bench.map(0, 0x10_0000 + page * 0x1000, DATA + page * 0x1000, PAGE_RO);
        bench.map(0, 0x20_0000 + page * 0x1000, DATA + 0x8000 + page * 0x1000, PAGE_RW);
        bench.poke(DATA + page * 0x1000, page + 1);
    }
    for record in records.into_iter().rev() {
        bench.resume(STREAM, stag(record), 1);
    }
    assert_eq!(bench.state(0), 2);
    assert_eq!((0..4).map(|page| bench.peek(DATA + 0x8000 + page * 0x1000)).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn one_stall_does_not_hold_up_another_stream() {
    let mut bench = stalling();
    bench.attach(NEIGHBOUR, 1, 1, CD_S | CD_R | CD_A);
    bench.map(1, 0x5000, DATA, PAGE_RW);
    bench.write_word(0, 0x5000);
    bench.write_word(1, 0x5000);
    assert_eq!((bench.state(0), bench.state(1)), (1, 2));
}

#[test]
fn stall_record_waits_for_space_and_does_not_overflow_the_queue() {
    let mut bench = stalling();
    fill_event_queue(&mut bench);
    bench.write_word(0, 0x5008);
    assert_eq!(bench.state(0), 1);
    assert_eq!(bench.read(EVENTQ_PROD), 0x10, "full, no OVFLG");
    assert_eq!(bench.read(diag::STALLS_HELD as u64), 1);
    assert_eq!(bench.take_events().len(), 16);
    bench.run();
    let record = bench.take_event();
    assert_eq!((record[0], record[2]), (0x100_0000_0010, 0x5008));
    assert_eq!(bench.read(diag::STALLS_RECORDED as u64), 1);
}

#[test]
fn held_back_stall_is_tried_again_before_it_is_recorded() {
    let mut bench = stalling();
    fill_event_queue(&mut bench);
    bench.write_word(0, 0x5008);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.run();
    assert_eq!(bench.state(0), 1, "tried again only when the queue is writable");
    assert_eq!(bench.take_events().len(), 16);
    bench.run();
    assert_eq!(bench.state(0), 2);
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn stall_waits_for_a_disabled_event_queue() {
    let mut bench = stalling();
    bench.enable(ALL_ON & !4);
    bench.write_word(0, 0x5008);
    assert_eq!(bench.read(EVENTQ_PROD), 0);
    bench.enable(ALL_ON);
    bench.run();
    stag(bench.take_event());
    assert_eq!(bench.state(0), 1);
}

#[test]
fn stall_term_ends_recorded_and_held_back_stalls_of_its_stream() {
    let mut bench = stalling();
    bench.attach(NEIGHBOUR, 1, 1, CD_S | CD_R | CD_A);
    bench.write_word(1, 0x5000);
    let neighbour = stag(bench.take_event());
    bench.set_engine(0, reg::DEPTH, 2);
    bench.set_engine64(0, reg::LENGTH, 0x2000);
    bench.set_engine64(0, reg::DESTINATION, 0x5000);
    fill_event_queue_to(&mut bench, 15);
    bench.set_engine(0, reg::CONTROL, 0x211);
    bench.run();
    // One is recorded, the other held back by the full queue.
    assert_eq!(bench.read(diag::STALLS_HELD as u64), 1);
    // Config = abort, CFGI_STE, SYNC, STALL_TERM (4.7.2.1).
    bench.set_ste(STREAM, 1, 0);
    bench.command([0x03 | STREAM << 32, 1]);
    bench.command([0x46, 0]);
    bench.command([0x45 | STREAM << 32, 0]);
    assert_eq!(bench.state(0), 3);
    assert_eq!(bench.state(1), 1);
    assert_eq!(bench.read(diag::STALLS_TERMINATED as u64), 2);
    assert_eq!(bench.read(diag::EARLY_STALL_TERMS as u64), 0);
    let records = bench.take_events();
    assert_eq!(records.len(), 16, "the held-back record is gone");
    bench.resume(STREAM, records[15][1] & 0xffff, 1);
    assert_eq!(bench.read(diag::RESUMED_NOTHING as u64), 1, "STALL_TERM was the answer");
    bench.resume(NEIGHBOUR, neighbour, 2);
    assert_eq!(bench.state(1), 3);
}

#[test]
fn stall_term_before_the_ste_aborts_is_counted() {
    let mut bench = stalling();
    bench.command([0x45 | STREAM << 32, 0]);
    assert_eq!(bench.read(diag::EARLY_STALL_TERMS as u64), 1);
}

#[test]
fn disabling_the_smmu_aborts_all_stalls_and_frees_their_tags() {
    let mut bench = stalling();
    bench.attach(NEIGHBOUR, 1, 1, CD_S | CD_R | CD_A);
    bench.write_word(0, 0x5000);
    bench.write_word(1, 0x5000);
    let records = bench.take_events();
    bench.enable(ALL_ON & !1);
    bench.run();
    assert_eq!((bench.state(0), bench.state(1)), (3, 3));
    assert_eq!(bench.read(diag::STALLS_DISABLED as u64), 2);
    assert_eq!(bench.read(diag::STALLED as u64), 0);
    bench.resume(STREAM, stag(records[0]), 1);
    assert_eq!(bench.read(diag::RESUMED_NOTHING as u64), 1);
}

#[test]
fn retry_that_meets_a_disabled_smmu_does_not_bypass_it() {
    let mut bench = stalling();
    bench.set_engine(0, reg::DEPTH, 2);
    bench.set_engine64(0, reg::DESTINATION, DATA);
    bench.set_engine64(0, reg::LENGTH, 0x2000);
    bench.set_engine64(0, reg::PATTERN, !0);
    bench.set_engine(0, reg::CONTROL, 0x211);
    bench.run();
    let [first, second] = bench.take_events()[..] else { panic!() };
    bench.submit([0x44 | 1 << 12 | STREAM << 32, stag(first)]);
    bench.submit([0x44 | 1 << 12 | STREAM << 32, stag(second)]);
    // In this step the engine moves the first page; the second is only marked for a retry when SMMUEN goes to 0.
    bench.map(0, DATA, DATA + 0x8000, PAGE_RW);
    bench.step();
    assert_eq!((bench.peek(DATA + 0x8000), bench.read(diag::STALLED as u64)), (!0, 1));
    bench.write(CR0, ALL_ON & !1);
    bench.run();
    assert_eq!(bench.state(0), 3);
    assert_eq!(bench.peek(DATA + 0x1000), 0);
}

#[test]
fn abort_on_the_event_queue_eats_the_record_and_the_stall_stays() {
    let mut bench = stalling();
    bench.enable(ALL_ON & !4);
    bench.write64(EVENTQ_BASE, END | 4);
    bench.enable(ALL_ON);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.read(GERROR), 1 << 2);
    assert_eq!(bench.read(EVENTQ_PROD), 0, "a synchronous abort does not move PROD (7.2.2)");
    assert_eq!(bench.state(0), 1);
    bench.set_ste(STREAM, 1, 0);
    bench.command([0x45 | STREAM << 32, 0]);
    assert_eq!(bench.state(0), 3);
}

#[test]
fn suppressed_duplicates_try_again_with_any_answer_to_the_first() {
    let mut bench = stalling();
    bench.write(diag::CONTROL as u64, diag::control::SUPPRESS_DUPLICATES);
    // Windows at a misalignment of half a page: two of them write to the page at 0x6000.
    bench.set_engine(0, reg::DEPTH, 2);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.map(0, 0x7000, DATA + 0x2000, PAGE_RW);
    bench.set_engine64(0, reg::DESTINATION, 0x5800);
    bench.set_engine64(0, reg::LENGTH, 0x2000);
    bench.set_engine(0, reg::CONTROL, 0x211);
    bench.run();
    let first = bench.take_event();
    assert_eq!(bench.read(diag::STALLS_SUPPRESSED as u64), 1);
    bench.resume(STREAM, stag(first), 2);
    let second = bench.take_event();
    assert_ne!(stag(first), stag(second), "each refused one becomes visible (3.12.2.1)");
    bench.resume(STREAM, stag(second), 2);
    assert_eq!(bench.state(0), 3);
}

#[test]
fn early_retry_succeeds_and_still_wants_its_answer() {
    let mut bench = stalling();
    bench.write(diag::CONTROL as u64, diag::control::EARLY_RETRY);
    bench.write_word(0, 0x5008);
    let stag = stag(bench.take_event());
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.run();
    assert_eq!(bench.state(0), 2);
    assert_eq!(bench.read(diag::STALLED as u64), 1, "the tag is not free yet");
    bench.resume(STREAM, stag, 1);
    assert_eq!(bench.read(diag::STALLED as u64), 0);
    assert_eq!(bench.read(diag::RESUMED_NOTHING as u64), 0);
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn refused_stall_may_still_succeed_when_the_page_is_mapped_first() {
    let mut bench = stalling();
    bench.write(diag::CONTROL as u64, diag::control::EARLY_RETRY);
    bench.write_word(0, 0x5008);
    let stag = stag(bench.take_event());
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.resume(STREAM, stag, 2);
    assert_eq!(bench.state(0), 2, "mapping and then terminating is the mistake (3.12.2.2)");
}

#[test]
fn with_depth_1_there_is_one_stall_for_each_page() {
    let mut bench = stalling();
    bench.set_engine64(0, reg::SOURCE, 0x10_0000);
    bench.set_engine64(0, reg::DESTINATION, 0x20_0000);
    bench.set_engine64(0, reg::LENGTH, 0x8_0000);
    bench.set_engine(0, reg::SEED, 77);
    bench.set_engine(0, reg::CONTROL, 1);
    let mut pages = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        bench.run();
        for record in bench.take_events() {
            assert!(pages.insert(record[2]), "{:x} twice", record[2]);
            bench.map(0, record[2], DATA + pages.len() as u64 * 0x1000, PAGE_RW);
            bench.resume(STREAM, stag(record), 1);
        }
    }
    assert_eq!(bench.state(0), 2);
    assert_eq!(pages.len(), 0x100);
    assert_eq!(bench.read(diag::STALLS_RECORDED as u64), 0x100);
    assert_eq!(bench.read(diag::RESUMED_RETRY as u64), 0x100);
    assert_eq!(bench.engine64(0, reg::BYTES_DONE), 0x8_0000);
}

/// Fills the event queue with records of a stream that has no STE.
fn fill_event_queue(bench: &mut Bench) {
    fill_event_queue_to(bench, 16);
}

fn fill_event_queue_to(bench: &mut Bench, count: u32) {
    bench.set_ste(0x103, 0, 0);
    for _ in 0..count {
        bench.write_word(3, 0x5000);
    }
    assert_eq!((bench.read(EVENTQ_PROD).wrapping_sub(bench.read(EVENTQ_CONS))) & 0x1f, count);
}

#[test]
fn stall_record_that_waited_lies_behind_the_records_that_filled_the_queue() {
    let mut bench = stalling();
    fill_event_queue(&mut bench);
    let words = |bench: &Bench| (0..64).map(|word| bench.peek(EVENTS + word * 8)).collect::<Vec<_>>();
    let full = words(&bench);
    // C_BAD_STE of stream 0x103.
    assert!(full.chunks(4).all(|record| record == [0x103_0000_0004, 0, 0, 0]));
    bench.write_word(0, 0x5008);
    assert_eq!(words(&bench), full, "nothing is overwritten while it waits");
    // One is consumed: the stall takes its slot, and leaves the others.
    bench.write(EVENTQ_CONS, 1);
    bench.run();
    assert_eq!(bench.read(EVENTQ_PROD), 0x11);
    let after = words(&bench);
    assert_eq!((after[0], after[2], &after[4..]), (0x100_0000_0010, 0x5008, &full[4..]));
}

/// The records that there are, and those for which the event queue has to be emptied first: StreamID, address and STAG.
fn all_records(bench: &mut Bench) -> Vec<(u64, u64, u64)> {
    let mut records = Vec::new();
    loop {
        bench.run();
        let taken = bench.take_events();
        if taken.is_empty() {
            return records;
        }
        records.extend(taken.into_iter().map(|record| (record[0] >> 32, record[2], stag(record))));
    }
}

#[test]
fn accesses_beyond_those_that_can_stall_wait_at_their_engines() {
    // Three engines that stall, 32 pages each: 96 accesses, and IDR5.STALL_MAX is 64.
    let mut bench = Bench::enabled_with(5);
    let engines = [0, 1, 4];
    for (number, engine) in engines.into_iter().enumerate() {
        bench.attach(0x100 + engine as u64, engine as u64, 0, CD_S | CD_A);
        bench.set_engine(engine, reg::DEPTH, 32);
        bench.set_engine64(engine, reg::DESTINATION, number as u64 * 0x2_0000);
        bench.set_engine64(engine, reg::LENGTH, 0x2_0000);
        bench.set_engine64(engine, reg::PATTERN, 7);
        bench.set_engine(engine, reg::CONTROL, 0x11);
    }
    let states = |bench: &Bench| engines.map(|engine| bench.state(engine));
    for (count, after) in [(64, [1; 3]), (32, [2; 3])] {
        let records = all_records(&mut bench);
        assert_eq!((records.len(), states(&bench)), (count, [1; 3]), "the rest has no response");
        for &(stream, address, stag) in &records {
            bench.map(0, address, DATA + address, PAGE_RW);
            bench.resume(stream, stag, 1);
        }
        assert_eq!(states(&bench), after);
    }
    assert!((0..96).all(|page| bench.peek(DATA + page * 0x1000) == 7));
    assert_eq!((bench.read(diag::STALLED as u64), bench.read(diag::RESUMED_NOTHING as u64)), (0, 0));
}

#[test]
fn stalls_at_the_same_time_are_timed_each_for_itself() {
    // On the control page: STREAM, ANSWER_COUNT and ANSWER_SUM. The second stall comes a tick after the first.
    let mut bench = Bench::enabled();
    let stags = [0, 1].map(|engine| {
        bench.attach(0x100 + engine as u64, engine as u64, engine as u64, CD_S | CD_A);
        bench.set_engine64(engine, reg::DESTINATION, 0x5000);
        bench.set_engine64(engine, reg::LENGTH, 8);
        bench.set_engine(engine, reg::CONTROL, 0x11);
        bench.step();
        stag(bench.take_event())
    });
    for _ in 0..6 {
        bench.step();
    }
    for (stream, stag) in (0x100..).zip(stags) {
        bench.submit([0x44 | 2 << 12 | stream << 32, stag]);
    }
    bench.run();
    let times = [0x100, 0x101].map(|stream| {
        bench.set_control(0x200, stream);
        (bench.control(0x208), bench.control64(0x210))
    });
    assert_eq!(times, [(1, 8), (1, 7)]);
}
