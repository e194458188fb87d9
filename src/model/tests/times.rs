//! How long faults take, by the control page: `docs/control.md`; 3.12.2, 4.7.1, 8.

use std::boxed::Box;
use std::vec::Vec;

use super::bench::*;
use super::direct::{ABORTED, Direct, RECORDED, RETRY, WAITS, WRITE, stag};
use crate::model::engine::registers::{self as reg, ats_control, pri_control};
use crate::model::machine::Machine;
use crate::model::profile::Profile;
use crate::model::smmu::diagnostics::control;
use crate::model::wire::{Wire, Wires};

const ENGINES: u64 = 0x010;
const ENGINES_HELD: u64 = 0x1a0;
const STREAM: u64 = 0x200;
const UNTIMED: u64 = 0x204;
const ANSWER_COUNT: u64 = 0x208;
const ANSWER_SUM: u64 = 0x210;
const ANSWER_MIN: u64 = 0x218;
const ANSWER_MAX: u64 = 0x220;
const RETRY_COUNT: u64 = 0x228;
const RETRY_SUM: u64 = 0x230;
const RETRY_MIN: u64 = 0x238;
const RETRY_MAX: u64 = 0x240;
const ANSWER_BUCKETS: u64 = 0x300;
const RETRY_BUCKETS: u64 = 0x380;

/// The buckets from `first` on that are not 0: number and count.
fn buckets(bench: &Bench, first: u64) -> Vec<(u64, u32)> {
    (0..32).map(|number| (number, bench.control(first + 4 * number))).filter(|(_, count)| *count != 0).collect()
}

/// Engine 0's stream stalls; its times are selected.
fn stalling() -> Bench {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_R | CD_A);
    bench.set_control(STREAM, 0x100);
    bench
}

/// Stalls engine 0 at `address` and answers in the `ticks`th tick after the one of the record, with these actions.
fn stall(bench: &mut Bench, address: u64, ticks: u32, action: u64) {
    bench.set_engine64(0, reg::DESTINATION, address);
    bench.set_engine64(0, reg::LENGTH, 8);
    bench.set_engine(0, reg::CONTROL, 0x11);
    while bench.read(EVENTQ_PROD) == bench.read(EVENTQ_CONS) {
        bench.step();
    }
    let stag = bench.take_event()[1] & 0xffff;
    for _ in 1..ticks {
        bench.step();
    }
    bench.submit([0x44 | action << 12 | 0x100 << 32, stag]);
    bench.run();
}

#[test]
fn stall_is_timed_from_record_to_answer_and_to_retry() {
    let mut bench = stalling();
    bench.map(0, 0x6000, DATA, PAGE_RW);
    stall(&mut bench, 0x5000, 1, 2);
    stall(&mut bench, 0x5000, 5, 2);
    stall(&mut bench, 0x5000, 8, 2);
    assert_eq!((bench.control(ANSWER_COUNT), bench.control64(ANSWER_SUM)), (3, 14));
    assert_eq!((bench.control64(ANSWER_MIN), bench.control64(ANSWER_MAX)), (1, 8));
    // 1; 4 to 7; 8 to 15.
    assert_eq!(buckets(&bench, ANSWER_BUCKETS), [(1, 1), (3, 1), (4, 1)]);
    assert_eq!((bench.control(RETRY_COUNT), bench.control64(RETRY_MIN)), (0, 0), "an abort is not tried again");
    // With retry it stalls again, with a record of its own; the engine polls in the tick of the answer.
    stall(&mut bench, 0x5000, 3, 1);
    assert_eq!((bench.control(ANSWER_COUNT), bench.control(RETRY_COUNT)), (4, 1));
    assert_eq!((bench.control64(RETRY_SUM), bench.control64(RETRY_MAX)), (0, 0));
    assert_eq!(buckets(&bench, RETRY_BUCKETS), [(0, 1)]);
}

#[test]
fn retries_are_timed_while_the_device_waits() {
    let mut bench = stalling();
    bench.set_control(ENGINES, 1);
    bench.write_word(0, 0x5000);
    for ticks in [6, 3] {
        let stag = bench.take_event()[1] & 0xffff;
        // In the first of these ticks the answer is consumed; the engine tries again in the first one after them.
        bench.set_control(ENGINES_HELD, ticks);
        bench.submit([0x44 | 1 << 12 | 0x100 << 32, stag]);
        bench.run();
    }
    assert_eq!((bench.control(RETRY_COUNT), bench.control64(RETRY_SUM)), (2, 9));
    assert_eq!((bench.control64(RETRY_MIN), bench.control64(RETRY_MAX)), (3, 6));
    // 2 to 3; 4 to 7.
    assert_eq!(buckets(&bench, RETRY_BUCKETS), [(2, 1), (3, 1)]);
}

#[test]
fn suppressed_stall_is_not_timed_by_what_was_in_its_place() {
    let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
    direct.set_control(STREAM, 0x100);
    let first = direct.stall(0x5000, WRITE);
    let second = direct.stall(0x6000, WRITE);
    let stags: Vec<u64> = direct.take_events().into_iter().map(stag).collect();
    // The second one is to try again, but SMMUEN goes to 0 before it does: both end, and are not timed further.
    direct.resume(stags[1], RETRY);
    direct.enable(ALL_ON & !1);
    assert_eq!([first, second].map(|slot| direct.poll(slot)), [ABORTED, ABORTED]);
    direct.enable(ALL_ON);
    let (first, tag) = direct.tagged(0x5000);
    let suppressed = direct.stall_unseen(0x5008, WRITE);
    assert_eq!(suppressed, second, "the same place");
    direct.resume(tag, RETRY);
    assert_eq!([first, suppressed].map(|slot| direct.poll(slot)), [RECORDED, WAITS]);
    // The second and the third stall were answered, and of these only the third was tried again.
    assert_eq!((direct.control(ANSWER_COUNT), direct.control(RETRY_COUNT)), (2, 1));
}

#[test]
fn stream_selects_whose_times_are_told() {
    let mut bench = stalling();
    stall(&mut bench, 0x5000, 2, 2);
    assert_eq!(bench.control(STREAM), 0x100);
    bench.set_control(STREAM, 0x101);
    assert_eq!((bench.control(ANSWER_COUNT), buckets(&bench, ANSWER_BUCKETS)), (0, Vec::new()));
    bench.set_control(STREAM, 0x100);
    assert_eq!(bench.control(ANSWER_COUNT), 1);
    bench.machine.reset(Profile::Full, 4);
    bench.set_control(STREAM, 0x100);
    assert_eq!((bench.control(ANSWER_COUNT), buckets(&bench, ANSWER_BUCKETS)), (0, Vec::new()));
}

#[test]
fn stall_that_is_terminated_or_lost_is_not_timed() {
    let mut bench = stalling();
    bench.write_word(0, 0x5000);
    bench.take_event();
    bench.set_ste(0x100, 1, 0);
    bench.command([0x45 | 0x100 << 32, 0]);
    assert_eq!((bench.state(0), bench.control(ANSWER_COUNT)), (3, 0));
}

#[test]
fn page_request_group_is_timed_from_its_last_request_to_the_answer_and_to_the_next_translation_request() {
    let mut bench = Bench::enabled();
    bench.set_cd(0, CD_A | CD_R, 0);
    bench.set_ste(0x102, STE0_STAGE1 | CDS, STE1 | S1STALLD | EATS);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(2, reg::PRI_ALLOCATION, 64);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.set_control(STREAM, 0x102);
    bench.set_engine64(2, reg::DESTINATION, 0x5000);
    bench.set_engine64(2, reg::LENGTH, 8);
    bench.set_engine(2, reg::CONTROL, 0x11);
    while bench.read(PRIQ_PROD) == 0 {
        bench.step();
    }
    bench.map(0, 0x5000, DATA, PAGE_RW);
    for _ in 1..20 {
        bench.step();
    }
    bench.respond(0x102, None, 0, 2);
    assert_eq!(bench.state(2), 2);
    assert_eq!((bench.control(ANSWER_COUNT), bench.control64(ANSWER_SUM)), (1, 20));
    assert_eq!(buckets(&bench, ANSWER_BUCKETS), [(5, 1)]);
    assert_eq!((bench.control(RETRY_COUNT), bench.control64(RETRY_SUM), bench.control(UNTIMED)), (1, 0, 0));
}

/// Interrupts go nowhere, and the counter says what it was told.
struct Clock(u64);

impl Wires for Clock {
    fn raise(&mut self, _: Wire) {}

    fn send_event(&mut self) {}

    fn counter(&self) -> Option<u64> {
        Some(self.0)
    }
}

#[test]
fn counter_of_the_board_is_used_where_there_is_one() {
    let mut bench = stalling();
    let mut clock = Clock(1 << 40);
    let mut machine: Box<Machine> = core::mem::take(&mut bench.machine);
    let start = |bench: &mut Bench, machine: &mut Box<Machine>, clock: &mut Clock| {
        core::mem::swap(&mut bench.machine, machine);
        bench.set_engine64(0, reg::DESTINATION, 0x5000);
        bench.set_engine64(0, reg::LENGTH, 8);
        bench.set_engine(0, reg::CONTROL, 0x11);
        while bench.machine.step(&bench.memory, clock) {}
    };
    start(&mut bench, &mut machine, &mut clock);
    let stag = bench.take_event()[1] & 0xffff;
    clock.0 += (1 << 35) + 5;
    bench.submit([0x44 | 2 << 12 | 0x100 << 32, stag]);
    while bench.machine.step(&bench.memory, &mut clock) {}
    assert_eq!((bench.control64(ANSWER_SUM), bench.control64(ANSWER_MAX)), (0x8_0000_0005, 0x8_0000_0005));
    assert_eq!(bench.control64(ANSWER_MIN), 0x8_0000_0005);
    // The last bucket takes all that is longer.
    assert_eq!(buckets(&bench, ANSWER_BUCKETS), [(31, 1)]);
}
