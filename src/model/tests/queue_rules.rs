//! Output queues: 3.5.

use super::bench::*;
use super::direct::*;
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
