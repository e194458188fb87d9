//! The engines, by their datasheet.

use std::vec::Vec;

use super::bench::*;
use crate::model::engine::registers::{self as reg, control};
use crate::model::memory::Memory;
use crate::model::profile::Profile;
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
    let offsets = [
        reg::SOURCE,
        reg::DESTINATION,
        reg::LENGTH,
        reg::PATTERN,
        reg::COMPARE,
        reg::ATTRIBUTES,
        reg::PASID,
        reg::SEED,
        reg::DEPTH,
    ];
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
    for (value, expected) in [(0, 1), (1, 1), (32, 32), (33, 32), (!0, 32)] {
        bench.set_engine(2, reg::DEPTH, value);
        bench.set_engine(2, reg::GROUP_SIZE, value);
        assert_eq!((bench.engine(2, reg::DEPTH), bench.engine(2, reg::GROUP_SIZE)), (expected, expected));
    }
}

#[test]
fn sixty_four_engines_work_at_once_and_have_names_of_their_own() {
    let mut bench = Bench::with(Profile::Full, 64);
    for index in 0..64 {
        assert_eq!(bench.engine(index, reg::STREAM_ID), 0x100 + index as u32);
        let capability = [0x808, 0x808, 0x807, 0x807, 0x808, 0x808, 0x803, 0x803][index % 8];
        assert_eq!(bench.engine(index, reg::CAPABILITY), capability);
        let to = DATA + index as u64 * 0x2000;
        bench.poke(to, index as u64 + 1);
        bench.set_engine64(index, reg::SOURCE, to);
        bench.set_engine64(index, reg::DESTINATION, to + 0x1000);
        bench.set_engine64(index, reg::LENGTH, 0x1000);
        bench.set_engine(index, reg::CONTROL, 0x201);
    }
    bench.run();
    assert!((0..64).all(|index| bench.state(index) == 2));
    assert!((0..64).all(|index| bench.peek(DATA + index * 0x2000 + 0x1000) == index + 1));
    assert_eq!(bench.take_raised().len(), 64);
}

#[test]
fn engines_beyond_their_number_are_not_there() {
    let mut bench = untranslated();
    bench.set_engine64(4, reg::LENGTH, 8);
    assert_eq!((bench.engine(4, reg::ID), bench.engine64(4, reg::LENGTH)), (0, 0));
    bench.machine.reset(Profile::Full, 5);
    assert_eq!((bench.engine(4, reg::ID), bench.engine64(4, reg::LENGTH)), (0x3141_4d44, 0));
    assert_eq!(bench.engine(5, reg::ID), 0);
    bench.machine.reset(Profile::Full, 0);
    assert_eq!((bench.engine(0, reg::ID), bench.engine(1, reg::ID)), (0x3141_4d44, 0));
    bench.machine.reset(Profile::Small, 64);
    assert_eq!((bench.engine(15, reg::ID), bench.engine(16, reg::ID)), (0x3141_4d44, 0), "four bits of StreamID");
}

#[test]
fn pasids_are_as_wide_as_the_smmu_has_substreams_and_8_bits_at_least() {
    for (profile, capability, pasid) in
        [(Profile::Big, 0x1407, 0xf_ffff), (Profile::Full, 0x807, 0xff), (Profile::Small, 0x807, 0xff)]
    {
        let mut bench = Bench::with(profile, 4);
        bench.set_engine(2, reg::PASID, !0);
        assert_eq!((bench.engine(2, reg::CAPABILITY), bench.engine(2, reg::PASID)), (capability, pasid), "{profile:?}");
    }
}

#[test]
fn thirty_two_accesses_stall_at_once() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    bench.set_engine(0, reg::DEPTH, 32);
    bench.set_engine64(0, reg::LENGTH, 0x4_0000);
    bench.set_engine(0, reg::CONTROL, 0x11);
    bench.run();
    assert_eq!(bench.engine(0, reg::STATUS), 0x20_0001, "busy, 32 outstanding");
    let mut pages = Vec::new();
    for _ in 0..2 {
        pages.extend(bench.take_events().iter().map(|record| record[2]));
        bench.run();
    }
    assert_eq!(pages, (0..32).map(|page| page * 0x1000).collect::<Vec<_>>());
}

/// nG of a leaf.
const NG: u64 = 1 << 11;

/// Engine 0 copies 8 pages with all sources mapped, and all its writes stall with what it read.
fn writes_stall() -> Bench {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    // ASID 3, and nG in the leaves: the translations are kept apart (3.17).
    bench.attach(0x101, 1, 1, CD_S | CD_A | 2 << 48);
    for page in 0..16 {
        bench.poke(DATA + page * 0x1000 + 0xff8, page + 1);
        for space in 0..2 {
            bench.map(space, 0x1_0000 + page * 0x1000, DATA + page * 0x1000, PAGE_RW | NG);
        }
    }
    bench.set_engine(0, reg::DEPTH, 8);
    bench.copy(0, 0x1_0000, 0x10_0000, 0x8000);
    bench
}

#[test]
fn held_pages_of_one_engine_do_not_stop_another() {
    let mut bench = writes_stall();
    assert_eq!(bench.engine(0, reg::STATUS), 0x8_0001, "every write waits");
    for page in 0..8 {
        bench.map(1, 0x10_0000 + page * 0x1000, DATA + 0x2_0000 + page * 0x1000, PAGE_RW | NG);
    }
    bench.copy(1, 0x1_0000, 0x10_0000, 0x8000);
    assert_eq!(bench.state(1), 2);
    assert_eq!(bench.peek(DATA + 0x2_7ff8), 8);
}

#[test]
fn pieces_without_a_page_are_copied_word_by_word() {
    let mut bench = writes_stall();
    for page in 0..8 {
        bench.map(0, 0x10_0000 + page * 0x1000, DATA + 0x2_0000 + page * 0x1000, PAGE_RW | NG);
    }
    for record in bench.take_events() {
        bench.resume(0x100, record[1] & 0xffff, 1);
    }
    assert_eq!((bench.state(0), bench.engine64(0, reg::BYTES_DONE)), (2, 0x8000));
    for page in 0..8 {
        assert_eq!(bench.peek(DATA + 0x2_0ff8 + page * 0x1000), page + 1);
    }
}

#[test]
fn seed_decides_the_order_of_completion() {
    let order = |seed: u32| {
        let mut bench = untranslated();
        bench.set_engine(0, reg::SEED, seed);
        bench.set_engine(0, reg::DEPTH, 4);
        bench.set_engine64(0, reg::PATTERN, !0);
        bench.set_engine64(0, reg::DESTINATION, DATA);
        bench.set_engine64(0, reg::LENGTH, 0x8000);
        bench.set_engine(0, reg::CONTROL, 0x11);
        let written = |bench: &Bench| (0..8).filter(|page| bench.peek(DATA + page * 0x1000) != 0).collect::<Vec<_>>();
        let mut order = Vec::new();
        while bench.step() {
            let new = written(&bench).into_iter().find(|page| !order.contains(page));
            order.extend(new);
        }
        assert_eq!(order.len(), 8);
        order
    };
    assert_eq!(order(0), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(order(9), order(9));
    assert_ne!(order(9), order(10));
}

fn single(bench: &mut Bench, operation: u32, address: u64, length: u64) -> u32 {
    bench.set_engine64(0, reg::SOURCE, address);
    bench.set_engine64(0, reg::DESTINATION, address);
    bench.set_engine64(0, reg::LENGTH, length);
    bench.set_engine(0, reg::CONTROL, 1 | operation << 4);
    bench.run();
    bench.state(0)
}

#[test]
fn single_read_gives_its_bytes_and_zeros_above() {
    let mut bench = untranslated();
    bench.poke(DATA, 0x8877_6655_4433_2211);
    bench.poke(DATA + 8, 0xffee_ddcc_bbaa_9900);
    for (address, length, result) in
        [(0, 8, 0x8877_6655_4433_2211), (0, 1, 0x11), (3, 2, 0x5544), (5, 7, 0xbb_aa99_0088_7766), (7, 3, 0x99_0088)]
    {
        assert_eq!(single(&mut bench, control::READ, DATA + address, length), 2);
        assert_eq!(bench.engine64(0, reg::RESULT), result, "{address} {length}");
    }
}

#[test]
fn single_write_touches_its_bytes_alone() {
    let mut bench = untranslated();
    bench.set_engine64(0, reg::PATTERN, 0x1122_3344_5566_7788);
    assert_eq!(single(&mut bench, control::WRITE, DATA + 6, 3), 2);
    assert_eq!((bench.peek(DATA), bench.peek(DATA + 8)), (0x7788_0000_0000_0000, 0x66));
}

#[test]
fn atomic_accesses_give_what_was_there() {
    let mut bench = untranslated();
    bench.poke(DATA, 0x0102_03ff);
    bench.set_engine64(0, reg::PATTERN, 2);
    assert_eq!(single(&mut bench, control::ADD, DATA, 1), 2);
    assert_eq!((bench.engine64(0, reg::RESULT), bench.peek(DATA)), (0xff, 0x0102_0301));
    assert_eq!(single(&mut bench, control::SWAP, DATA, 4), 2);
    assert_eq!((bench.engine64(0, reg::RESULT), bench.peek(DATA)), (0x0102_0301, 2));
    bench.set_engine64(0, reg::PATTERN, 7);
    bench.set_engine64(0, reg::COMPARE, 3);
    assert_eq!(single(&mut bench, control::COMPARE_SWAP, DATA, 8), 2);
    assert_eq!((bench.engine64(0, reg::RESULT), bench.peek(DATA)), (2, 2));
    bench.set_engine64(0, reg::COMPARE, 0xff02);
    assert_eq!(single(&mut bench, control::COMPARE_SWAP, DATA, 1), 2, "one byte of it counts");
    assert_eq!((bench.engine64(0, reg::RESULT), bench.peek(DATA)), (2, 7));
}

#[test]
fn impossible_requests_end_before_they_touch_anything() {
    let mut bench = Bench::enabled();
    for (operation, address, length) in [(4, 0x5000, 0), (5, 0x5000, 9), (6, 0x5ffc, 5), (3, 0x5000, 8), (9, 0x5000, 8)]
    {
        assert_eq!(single(&mut bench, operation, address, length), 3);
        assert_eq!(bench.engine(0, reg::STATUS), 0x53, "aborted, request");
    }
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn record_says_what_the_access_was() {
    // PnU is bit 33 of word 1, InD bit 34, RnW bit 35 (7.3.13). A write is data whatever the device says (13.1.2).
    for (operation, attributes, word) in [
        (control::READ, 0, 8 << 32),
        (control::READ, 1, 0xa << 32),
        (control::READ, 2, 0xc << 32),
        (control::READ, 3, 0xe << 32),
        (control::WRITE, 3, 2 << 32),
        (control::WRITE, 0, 0),
        (control::ADD, 0, 0),
    ] {
        let mut bench = Bench::enabled();
        bench.attach(0x100, 0, 0, CD_A | CD_R);
        bench.set_engine(0, reg::ATTRIBUTES, attributes);
        assert_eq!(single(&mut bench, operation, 0x5123, 4), 3);
        let record = bench.take_event();
        assert_eq!((record[0], record[1] & 0xe << 32, record[2]), (0x100_0000_0010, word, 0x5123));
    }
}
