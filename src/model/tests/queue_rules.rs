//! Output queues: 3.5.

use std::sync::Arc;

use super::bench::*;
use super::direct::*;
use crate::model::board;
use crate::model::engine::registers as reg;
use crate::model::host::{HostMemory, HostSmmu};
use crate::model::machine::Width;
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
fn page_request_is_in_memory_before_its_message() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // PRIQ_IRQ_CFG0 and CFG1, then PRIQ_IRQEN.
    direct.write64(0xd0, DATA);
    direct.write(0xd8, 9);
    direct.write(IRQ_CTRL, 2);
    direct.step();
    direct.memory.take_written(0..u64::MAX);
    assert_eq!(direct.page_request(STREAM, None, READ, true, 7), None);
    let written = direct.memory.take_written(0..u64::MAX);
    assert_eq!(written, [PAGE_REQUESTS, PAGE_REQUESTS + 8, DATA]);
    assert_eq!((direct.read(PRIQ_PROD), &direct.raised.wires[..]), (1, &[Wire::PriQueue][..]));
}

#[test]
fn whoever_sees_a_message_sees_prod_cover_its_record() {
    // Another core looks at memory at any moment, and at registers between the accesses of the SMMU.
    let host = HostSmmu::new(Arc::new(HostMemory::new((END - 0x4000_0000) as usize)));
    let write = |offset: u64, width, value| host.write(board::SMMU_BASE + offset, width, value);
    for (offset, value) in DOUBLE {
        write(offset, Width::Double, if offset == 0xb0 { DATA } else { value });
    }
    for (offset, value) in WORD {
        write(offset, Width::Word, value.into());
    }
    write(0xb8, Width::Word, 1);
    write(0xbc, Width::Word, 0);
    write(IRQ_CTRL, Width::Word, 4);
    write(CR0, Width::Word, 8);
    host.run(10);
    let commands = [[0x04, 31], [0x30, 0], [0x20, 0], [0x46, 0]];
    for (at, word) in (COMMANDS..).step_by(8).zip(commands.into_iter().flatten()) {
        host.memory().store(at, word).unwrap();
    }
    write(CMDQ_PROD, Width::Word, 4);
    host.run(10);
    write(CR0, Width::Word, 0xf);
    host.run(10);
    std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            while host.memory().load(DATA) != Some(1) {
                std::thread::yield_now();
            }
            let prod = host.read(board::SMMU_BASE + EVENTQ_PROD, Width::Word);
            (prod, host.memory().load(EVENTS))
        });
        // Engine 0 writes: its STE is not valid.
        host.write_engine64(0, reg::DESTINATION, 0x5000);
        host.write_engine64(0, reg::LENGTH, 8);
        host.write_engine(0, reg::CONTROL, 0x11);
        host.run(100);
        assert_eq!(observer.join().unwrap(), (1, Some(0x100_0000_0004)));
    });
}
