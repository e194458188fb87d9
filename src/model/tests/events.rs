//! The event queue: 7.2, 7.4, 3.18.

use super::bench::*;
use crate::model::smmu::diagnostics as diag;
use crate::model::wire::Wire;

const OVFLG: u32 = 1 << 31;

/// A machine on which every write of engine 0 leaves a C_BAD_STE record.
fn recording() -> Bench {
    let mut bench = Bench::enabled();
    bench.take_raised();
    bench
}

/// Makes `count` records, or attempts to.
fn make(bench: &mut Bench, count: u32) {
    for _ in 0..count {
        bench.write_word(0, 0x5000);
    }
}

/// The interrupts without those of the engines.
fn smmu_interrupts(bench: &mut Bench) -> std::vec::Vec<Wire> {
    bench.take_raised().into_iter().filter(|wire| !matches!(wire, Wire::Engine(_))).collect()
}

#[test]
fn record_beyond_the_queue_is_lost_and_raises_the_overflow_flag_once() {
    let mut bench = recording();
    make(&mut bench, ENTRIES);
    assert_eq!(bench.read(EVENTQ_PROD), ENTRIES, "full is not yet an overflow");
    for lost in 1..=3 {
        make(&mut bench, 1);
        assert_eq!(bench.read(EVENTQ_PROD), OVFLG | ENTRIES);
        assert_eq!(bench.read(diag::EVENTS_LOST as u64), lost);
    }
}

#[test]
fn queue_goes_on_recording_during_an_overflow() {
    let mut bench = recording();
    make(&mut bench, ENTRIES + 1);
    // Space, but OVACKFLG not yet changed (7.4).
    bench.write(EVENTQ_CONS, 4);
    make(&mut bench, 1);
    assert_eq!(bench.read(EVENTQ_PROD), OVFLG | (ENTRIES + 1));
    // Acknowledged, and a second overflow toggles the flag back.
    bench.write(EVENTQ_CONS, OVFLG | 4);
    make(&mut bench, 4);
    assert_eq!(bench.read(EVENTQ_PROD), 4 | ENTRIES, "wrap bit differs from CONS, index equal");
}

#[test]
fn disabled_queue_loses_records_without_an_overflow() {
    let mut bench = recording();
    bench.enable(ALL_ON & !4);
    make(&mut bench, 3);
    assert_eq!((bench.read(EVENTQ_PROD), bench.peek(EVENTS)), (0, 0));
    assert_eq!(bench.read(diag::EVENTS_LOST as u64), 3);
}

#[test]
fn interrupt_comes_when_the_queue_becomes_non_empty() {
    let mut bench = recording();
    make(&mut bench, 3);
    assert_eq!(smmu_interrupts(&mut bench), [Wire::EventQueue]);
    bench.write(EVENTQ_CONS, 2);
    make(&mut bench, 1);
    assert_eq!(smmu_interrupts(&mut bench), [], "it was not empty");
    bench.take_events();
    make(&mut bench, 1);
    assert_eq!(smmu_interrupts(&mut bench), [Wire::EventQueue]);
}

#[test]
fn interrupt_needs_its_enable_and_does_not_come_late() {
    let mut bench = recording();
    bench.write(IRQ_CTRL, 3);
    bench.run();
    make(&mut bench, 1);
    bench.write(IRQ_CTRL, 7);
    bench.run();
    assert_eq!(smmu_interrupts(&mut bench), [], "an occurrence before the enable raises nothing (6.3.16)");
}

#[test]
fn record_lies_where_prod_was() {
    let mut bench = recording();
    make(&mut bench, 1);
    assert_eq!(bench.read(EVENTQ_PROD), 1);
    assert_eq!(bench.peek(EVENTS), 0x100_0000_0004);
}

#[test]
fn aborted_write_is_a_global_error_that_stops_the_queue_until_acknowledged() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(EVENTQ_BASE, END | 4);
    bench.enable(ALL_ON);
    make(&mut bench, 1);
    assert_eq!((bench.read(GERROR), bench.read(EVENTQ_PROD)), (1 << 2, 0));
    assert_eq!(smmu_interrupts(&mut bench), [Wire::GlobalError], "the queue stayed empty (7.2.2)");
    make(&mut bench, 1);
    assert_eq!(bench.read(GERROR), 1 << 2, "not written, so not aborted again");
    assert_eq!(bench.read(EVENTQ_PROD), 0, "and no overflow: there is room (7.4)");
    bench.write(GERRORN, 1 << 2);
    make(&mut bench, 1);
    assert_eq!((bench.read(GERROR), bench.read(GERRORN)), (0, 1 << 2));
}

#[test]
fn queue_of_one_entry_works() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(EVENTQ_BASE, EVENTS);
    bench.enable(ALL_ON);
    make(&mut bench, 1);
    assert_eq!(bench.read(EVENTQ_PROD), 1);
    make(&mut bench, 1);
    assert_eq!(bench.read(EVENTQ_PROD), OVFLG | 1);
    bench.write(EVENTQ_CONS, OVFLG | 1);
    make(&mut bench, 1);
    assert_eq!(bench.read(EVENTQ_PROD), OVFLG);
}

#[test]
fn log2size_beyond_the_id_register_counts_as_the_largest() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(EVENTQ_BASE, EVENTS & !0x7fff | 19);
    bench.write(EVENTQ_PROD, 0x3ff);
    bench.write(EVENTQ_CONS, 0);
    bench.enable(ALL_ON);
    make(&mut bench, 1);
    assert_eq!(bench.read64(EVENTQ_BASE) & 0x1f, 19, "reads back as written");
    assert_eq!(bench.read(EVENTQ_PROD), 0x400, "2^10 entries: IDR1.EVENTQS is 10");
    make(&mut bench, 1);
    assert_eq!(bench.read(EVENTQ_PROD), OVFLG | 0x400, "and with them it is full");
}
