//! Output queues: 3.5.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::engine::registers as reg;
use crate::model::wire::Wire;

const OVFLG: u32 = 1 << 31;

#[test]
fn queue_that_is_enabled_full_gets_no_record_before_cons_moves() {
    let mut direct = Direct::enabled(ALL_ON & !4, 0);
    direct.stage1(0, CD_R | CD_A);
    direct.write(EVENTQ_CONS, 0x03);
    direct.write(EVENTQ_PROD, 0x13);
    direct.enable(ALL_ON);
    direct.access(0x5000, WRITE);
    assert_eq!((direct.read(EVENTQ_PROD), direct.peek(EVENTS + 3 * 32)), (OVFLG | 0x13, 0));
    direct.write(EVENTQ_CONS, OVFLG | 0x04);
    direct.access(0x5000, WRITE);
    assert_eq!((direct.read(EVENTQ_PROD), direct.peek(EVENTS + 3 * 32)), (OVFLG | 0x14, 0x100_0000_0010));
}

#[test]
fn record_comes_before_its_message_and_before_the_response() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    // EVENTQ_IRQ_CFG0 and CFG1, then EVENTQ_IRQEN.
    direct.write64(0xb0, DATA);
    direct.write(0xb8, 9);
    direct.write(IRQ_CTRL, 4);
    direct.step();
    direct.memory.take_written(0..u64::MAX);
    direct.access(0x5000, WRITE);
    let written = direct.memory.take_written(0..u64::MAX);
    assert_eq!(written, [EVENTS, EVENTS + 8, EVENTS + 16, EVENTS + 24, DATA]);
    // PROD covers the record when the access has its response and the interrupt is raised.
    assert_eq!((direct.read(EVENTQ_PROD), &direct.raised.wires[..]), (1, &[Wire::EventQueue][..]));
}

#[test]
fn stall_record_is_written_although_another_device_fills_the_queue_again_and_again() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    // Engine 3 has no STE: each of its accesses leaves a record.
    for _ in 0..ENTRIES {
        bench.write_word(3, 0x5000);
    }
    bench.write_word(0, 0x5008);
    assert_eq!(bench.state(0), 1);
    let mut turns = 0;
    loop {
        let taken = bench.take_events();
        if taken.iter().any(|record| untagged(*record) == [0x100_0000_0010, STALL | IN, 0x5008, 0]) {
            break;
        }
        turns += 1;
        assert!(turns < 4, "{taken:x?}");
        for _ in 0..2 * ENTRIES {
            bench.write_word(3, 0x5000);
        }
    }
}

#[test]
fn prod_covers_a_record_that_is_in_memory_and_no_later_than_message_and_interrupt() {
    // F_TRANSLATION of a write to 0x5000; a request to read 0x5000, the Last of group 7.
    let event = [0x100_0000_0010, IN, 0x5000, 0];
    let request = [0x5000_0000_0000_0100, 0x5007];
    // IRQ_CFG0 and CFG1, then the enable in IRQ_CTRL.
    for (pri, queue, record, prod, configuration, enable) in
        [(false, EVENTS, &event[..], EVENTQ_PROD, 0xb0, 4), (true, PAGE_REQUESTS, &request[..], PRIQ_PROD, 0xd0, 2)]
    {
        let at = |address| {
            let mut direct = Direct::enabled(ALL_ON, 0);
            direct.stage1(0, CD_R | CD_A);
            direct.write64(configuration, DATA);
            direct.write(configuration + 8, 9);
            direct.write(IRQ_CTRL, enable);
            direct.step();
            direct.moment(address, |direct| {
                if pri {
                    direct.page_request(STREAM, None, READ, true, 7);
                } else {
                    direct.access(0x5000, WRITE);
                }
            });
            let words = (0..record.len() as u64).map(|word| direct.peek(queue + word * 8)).collect::<Vec<_>>();
            (direct.read(prod), words)
        };
        for word in 0..record.len() {
            assert_eq!(at(Some(queue + word as u64 * 8)).0, 0, "word {word} is still to come");
        }
        for address in [Some(DATA), None] {
            assert_eq!(at(address), (1, record.to_vec()));
        }
    }
}

#[test]
fn records_of_all_streams_lie_in_one_queue() {
    // A translation fault; no STE behind two others; a StreamID beyond the 512 of the table.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    direct.access(0x5000, WRITE);
    for stream in [0, 0x1ff, 0x200, STREAM] {
        direct.issue_from(stream, 0x6000, READ);
    }
    assert_eq!(direct.read(EVENTQ_PROD), 5);
    let read = 1 << 35;
    assert_eq!(
        direct.take_events(),
        [
            [0x100_0000_0010, IN, 0x5000, 0],
            [0x04, 0, 0, 0],
            [0x1ff_0000_0004, 0, 0, 0],
            [0x200_0000_0002, 0, 0, 0],
            [0x100_0000_0010, IN | read, 0x6000, 0],
        ]
    );
}

#[test]
fn base_keeps_its_hint_and_counts_as_aligned_to_the_size_of_the_queue() {
    // 6.3.26: RA or WA, bit 62. A queue of 16 records of 32 bytes begins at a multiple of 512.
    let mut direct = Direct::off(0);
    direct.write64(EVENTQ_BASE, 1 << 62 | EVENTS | 0x3e0 | 4);
    assert_eq!([0, 4].map(|half| direct.read(EVENTQ_BASE + half)), [EVENTS as u32 | 0x3e4, 1 << 30]);
    direct.enable(ALL_ON);
    direct.stage1(0, CD_R | CD_A);
    direct.access(0x5000, WRITE);
    assert_eq!([0, 0x200, 0x3e0].map(|at| direct.peek(EVENTS + at)), [0, 0x100_0000_0010, 0]);
}

#[test]
fn records_that_change_places_do_so_as_a_whole() {
    // REORDER and REORDERED of the control page; engines 0 and 1 in the same tick: a write, and the read of a copy.
    let mut bench = Bench::enabled();
    bench.set_control(0x020, u32::MAX);
    for engine in 0..2 {
        bench.attach(0x100 + engine as u64, engine as u64, engine as u64, CD_R | CD_A);
        bench.set_engine64(engine, reg::SOURCE, 0x6008);
        bench.set_engine64(engine, reg::DESTINATION, 0x5000);
        bench.set_engine64(engine, reg::LENGTH, 8);
        bench.set_engine(engine, reg::CONTROL, if engine == 0 { 0x11 } else { 0x01 });
    }
    bench.run();
    assert_eq!(bench.control(0x028), 1);
    let read = 1 << 35;
    assert_eq!(bench.take_events(), [[0x101_0000_0010, IN | read, 0x6008, 0], [0x100_0000_0010, IN, 0x5000, 0]]);
}
