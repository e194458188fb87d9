//! The engines, by their datasheet.

use std::vec::Vec;

use super::bench::*;
use crate::model::engine::registers::{self as reg, control};
use crate::model::memory::Memory;
use crate::model::wire::Wire;
use crate::smmuv3::PhysAddr;

/// The SMMU lets everything through.
fn untranslated() -> Bench {
    Bench::reset()
}

fn bytes(bench: &Bench, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = std::vec![0; length];
    bench.memory.read(PhysAddr(address), &mut bytes).unwrap();
    bytes
}

/// Puts bytes that differ from their neighbours at `address`.
fn scatter(bench: &Bench, address: u64, length: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + i / 256) as u8).collect();
    bench.memory.write(PhysAddr(address), &bytes).unwrap();
    bytes
}

#[test]
fn engines_say_what_they_are() {
    let bench = untranslated();
    for index in 0..4 {
        assert_eq!(bench.engine(index, reg::ID), 0x3141_4d44);
        assert_eq!(bench.engine(index, reg::STREAM_ID), 0x100 + index as u32);
        assert_eq!(bench.engine(index, reg::CAPABILITY), if index < 2 { 0x808 } else { 0x807 });
    }
}

#[test]
fn copy_moves_bytes_at_any_alignment_and_in_any_order() {
    for (seed, depth) in [(0, 1), (0, 8), (1, 1), (12345, 3), (0xffff_ffff, 8)] {
        for (source, destination, length) in
            [(0, 0, 0x3000), (1, 0, 0x2fff), (0xfff, 0x801, 0x4321), (5, 5, 1), (8, 0xff8, 16)]
        {
            let mut bench = untranslated();
            let expected = scatter(&bench, DATA + source, length);
            bench.set_engine(1, reg::SEED, seed);
            bench.set_engine(1, reg::DEPTH, depth);
            bench.copy(1, DATA + source, DATA + 0x1_0000 + destination, length as u64);
            assert_eq!(bench.state(1), 2);
            assert_eq!(bytes(&bench, DATA + 0x1_0000 + destination, length), expected, "{seed} {depth} {source:x}");
            assert_eq!(bench.peek(DATA + 0x1_0000 + (destination + length as u64).next_multiple_of(8)), 0);
            assert_eq!(bench.engine64(1, reg::BYTES_DONE), length as u64);
        }
    }
}

#[test]
fn fill_repeats_the_pattern_by_address() {
    let mut bench = untranslated();
    bench.set_engine64(0, reg::DESTINATION, DATA + 3);
    bench.set_engine64(0, reg::LENGTH, 0x1006);
    bench.set_engine64(0, reg::PATTERN, 0x0706_0504_0302_0100);
    bench.set_engine(0, reg::CONTROL, 0x11);
    bench.run();
    let expected: Vec<u8> = (3..3 + 0x1006).map(|a| (a % 8) as u8).collect();
    assert_eq!(bytes(&bench, DATA + 3, 0x1006), expected);
    assert_eq!((bytes(&bench, DATA, 3), bytes(&bench, DATA + 3 + 0x1006, 1)), (std::vec![0; 3], std::vec![0]));
}

#[test]
fn compare_finds_the_first_difference_of_a_piece() {
    let mut bench = untranslated();
    scatter(&bench, DATA, 0x2000);
    bench.copy(0, DATA, DATA + 0x8000, 0x2000);
    let compare = |bench: &mut Bench| {
        bench.set_engine(0, reg::CONTROL, 0x21);
        bench.run();
        bench.state(0)
    };
    assert_eq!(compare(&mut bench), 2);
    bench.memory.write(PhysAddr(DATA + 0x9234), &[0x55, 0x55]).unwrap();
    assert_eq!(compare(&mut bench), 4);
    assert_eq!(bench.engine64(0, reg::FAULT_ADDRESS), DATA + 0x9234);
    assert_eq!(bench.engine64(0, reg::BYTES_DONE), 0x1000);
}

#[test]
fn end_of_a_job_raises_the_interrupt_only_when_asked() {
    let mut bench = untranslated();
    bench.copy(3, DATA, DATA + 0x1000, 8);
    assert_eq!(bench.take_raised(), [Wire::Engine(3)]);
    bench.set_engine(3, reg::CONTROL, 1);
    bench.run();
    assert_eq!(bench.take_raised(), []);
    assert_eq!(bench.engine(3, reg::JOBS), 2);
}

#[test]
fn empty_job_is_done() {
    let mut bench = untranslated();
    bench.copy(0, DATA, DATA, 0);
    assert_eq!((bench.state(0), bench.engine64(0, reg::BYTES_DONE)), (2, 0));
}

#[test]
fn one_step_moves_at_most_a_page() {
    let mut bench = untranslated();
    bench.set_engine(0, reg::DEPTH, 8);
    bench.set_engine64(0, reg::DESTINATION, DATA);
    bench.set_engine64(0, reg::LENGTH, 0x10_0000);
    bench.set_engine(0, reg::CONTROL, 0x11);
    for step in 1..=0x100 {
        bench.step();
        assert_eq!(bench.engine64(0, reg::BYTES_DONE), step * 0x1000);
    }
}

#[test]
fn registers_of_a_job_under_way_are_locked() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    bench.write_word(0, 0x5000);
    let offsets = [reg::SOURCE, reg::DESTINATION, reg::LENGTH, reg::PATTERN, reg::PASID, reg::SEED, reg::DEPTH];
    for offset in offsets {
        let before = bench.engine(0, offset);
        bench.set_engine(0, offset, !before);
        assert_eq!(bench.engine(0, offset), before, "{offset:#x}");
    }
    bench.set_engine(0, reg::CONTROL, control::START);
    bench.run();
    assert_eq!(bench.engine(0, reg::JOBS), 0);
}

#[test]
fn stopped_job_ends_when_its_last_access_has() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    bench.set_engine64(0, reg::LENGTH, 0x4000);
    bench.set_engine64(0, reg::DESTINATION, 0x5000);
    bench.set_engine(0, reg::CONTROL, 0x211);
    bench.run();
    bench.set_engine(0, reg::CONTROL, control::STOP);
    bench.run();
    assert_eq!(bench.engine(0, reg::STATUS), 0x1_0101, "busy, stopping, one outstanding");
    let record = bench.take_event();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.resume(0x100, record[1] & 0xffff, 1);
    assert_eq!(bench.state(0), 5);
    assert_eq!(bench.engine64(0, reg::BYTES_DONE), 0x1000);
    assert_eq!(bench.take_events().len(), 0, "nothing new was started");
    assert!(bench.take_raised().contains(&Wire::Engine(0)));
}

#[test]
fn aborted_job_waits_for_its_other_accesses() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    bench.set_engine(0, reg::DEPTH, 2);
    bench.set_engine64(0, reg::LENGTH, 0x4000);
    bench.set_engine64(0, reg::DESTINATION, 0x5000);
    bench.set_engine(0, reg::CONTROL, 0x211);
    bench.run();
    let [first, second] = bench.take_events()[..] else { panic!() };
    bench.resume(0x100, second[1] & 0xffff, 2);
    assert_eq!(bench.state(0), 1);
    bench.resume(0x100, first[1] & 0xffff, 2);
    assert_eq!(bench.state(0), 3);
    assert_eq!(bench.engine64(0, reg::FAULT_ADDRESS), 0x6000, "the first refusal counts");
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn seeds_give_different_orders() {
    let order = |seed: u32| {
        let mut bench = Bench::enabled();
        bench.attach(0x100, 0, 0, CD_A | CD_R | CD_S);
        bench.set_engine(0, reg::SEED, seed);
        bench.set_engine(0, reg::DEPTH, 8);
        bench.set_engine64(0, reg::LENGTH, 0x10_0000);
        bench.set_engine(0, reg::CONTROL, 0x11);
        bench.run();
        bench.take_events().iter().map(|record| record[2]).collect::<Vec<_>>()
    };
    assert_eq!(order(0), (0..8).map(|page| page * 0x1000).collect::<Vec<_>>());
    assert_eq!(order(5), order(5));
    assert_ne!(order(5), order(6));
    assert_ne!(order(5), order(0));
}

#[test]
fn depth_and_group_size_are_clamped() {
    let mut bench = untranslated();
    for (value, expected) in [(0, 1), (1, 1), (8, 8), (9, 8), (!0, 8)] {
        bench.set_engine(2, reg::DEPTH, value);
        bench.set_engine(2, reg::GROUP_SIZE, value);
        assert_eq!((bench.engine(2, reg::DEPTH), bench.engine(2, reg::GROUP_SIZE)), (expected, expected));
    }
}
