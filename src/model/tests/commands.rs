//! The command queue: 4, 7.1.

use super::bench::*;
use crate::model::engine::registers as reg;
use crate::model::memory::Memory;
use crate::model::wire::Wire;
use crate::smmuv3::PhysAddr;

/// CMD_SYNC without a signal, and with an interrupt (4.7.3).
const SYNC: [u64; 2] = [0x46, 0];
const SYNC_IRQ: [u64; 2] = [0x1046, 0];

fn error(bench: &Bench) -> u32 {
    bench.read(CMDQ_CONS) >> 24
}

#[test]
fn commands_are_consumed_in_order_around_the_wrap() {
    let mut bench = Bench::enabled();
    for count in 1..=40 {
        bench.command(SYNC);
        assert_eq!(bench.read(CMDQ_CONS), count & 0x1f);
    }
    assert_eq!(bench.read(GERROR), 0);
}

#[test]
fn nothing_is_consumed_while_the_queue_is_off() {
    let mut bench = Bench::enabled();
    bench.enable(ALL_ON & !8);
    bench.command(SYNC);
    assert_eq!(bench.read(CMDQ_CONS), 0);
    bench.enable(ALL_ON);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 1);
}

#[test]
fn every_invalidation_and_prefetch_is_consumed() {
    let mut bench = Bench::enabled();
    let commands = [
        [0x01 | 0x100 << 32, 0],
        [0x01 | 1 << 11 | 5 << 12 | 0x100 << 32, 0],
        [0x02 | 0x100 << 32, 0x5000],
        [0x03 | 0x100 << 32, 1],
        [0x03 | 0x100 << 32, 0],
        [0x04 | 0x100 << 32, 3],
        [0x04, 31],
        [0x05 | 5 << 12 | 0x100 << 32, 1],
        [0x05 | 0x100 << 32, 0],
        [0x06 | 0x100 << 32, 0],
        [0x10, 0],
        [0x11 | 7 << 48, 0],
        [0x12 | 7 << 48, 0x1234_5001],
        [0x12 | 3 << 12 | 1 << 20 | 7 << 48, 0x1234_5000 | 1 << 10 | 3 << 8],
        [0x13, 0x1234_5001],
        [0x30, 0],
        [0x40 | 0x102 << 32, 52],
        [0x46, 0],
    ];
    for (number, command) in commands.into_iter().enumerate() {
        bench.command(command);
        assert_eq!(bench.read(CMDQ_CONS), number as u32 + 1, "{command:x?}");
    }
}

#[track_caller]
fn are_illegal(commands: &[[u64; 2]]) {
    for &command in commands {
        let mut bench = Bench::enabled();
        bench.command(SYNC);
        bench.command(command);
        assert_eq!(bench.read(CMDQ_CONS), 1 << 24 | 1, "CERROR_ILL at {command:x?}");
        assert_eq!(bench.read(GERROR), 1);
    }
}

/// Shows that each of these opcodes is CERROR_ILL.
#[track_caller]
fn opcodes_are_illegal(opcodes: impl Iterator<Item = u64>) {
    let mut bench = Bench::enabled();
    for opcode in opcodes {
        let slot = bench.read(CMDQ_CONS) & 0x1f;
        bench.command([opcode, 0]);
        assert_eq!(bench.read(CMDQ_CONS), 1 << 24 | slot, "CERROR_ILL at {opcode:x}");
        bench.poke(COMMANDS + u64::from(slot & 0xf) * 16, SYNC[0]);
        let error = bench.read(GERROR);
        bench.write(GERRORN, error);
        bench.run();
    }
}

#[test]
fn opcodes_that_4_1_1_reserves_or_leaves_to_the_implementation_are_illegal() {
    // What begins at 0x80 is IMPLEMENTATION DEFINED, and there is none.
    let named = |opcode: &u64| {
        matches!(opcode, 0x01..=0x07 | 0x10..=0x13 | 0x18 | 0x1a | 0x20..=0x23 | 0x28 | 0x2a | 0x30 | 0x40 | 0x41)
            || matches!(opcode, 0x44..=0x46 | 0x50..=0x53 | 0x58 | 0x5a | 0x60 | 0x70 | 0x73)
    };
    opcodes_are_illegal((0..=0xff).filter(|opcode| !named(opcode)));
}

#[test]
fn opcodes_of_secure_state_and_of_el3_are_illegal() {
    opcodes_are_illegal([0x18, 0x1a, 0x50, 0x51, 0x52, 0x53, 0x58, 0x5a, 0x60].into_iter());
}

#[test]
fn ssec_is_illegal_in_every_command_that_has_it() {
    are_illegal(&[0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x40, 0x41, 0x44, 0x45].map(|opcode| [opcode | 1 << 10, 0]));
    // CMD_CFGI_ALL too.
    are_illegal(&[[0x04 | 1 << 10, 31]]);
}

#[test]
fn reserved_values_and_bits_are_illegal() {
    are_illegal(&[
        // A granule with neither range nor level, and a level that 16 KiB has with DS only (4.4.1.1).
        [0x12, 1 << 10],
        [0x13, 2 << 10 | 1 << 8],
        // SCALE has 5 bits without DS (4.4.1.1).
        [0x12 | 1 << 25, 1 << 10],
        // Reserved bits, which the model checks (4.1.5); Size over 52 (4.5.1).
        [0x03, 2],
        [0x10 | 1 << 63, 0],
        [0x40, 53],
        // Resp = 3 (4.5.2), CS = 3 (4.7.3).
        [0x41, 3 << 12],
        [0x3046, 0],
    ]);
}

#[test]
fn illegal_command_stops_the_queue_until_it_is_replaced_and_the_error_acknowledged() {
    let mut bench = Bench::enabled();
    bench.submit(SYNC_IRQ);
    bench.submit([0xff, 0]);
    bench.submit(SYNC_IRQ);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (1 << 24 | 1, 1), "CERROR_ILL");
    assert_eq!(bench.take_raised(), [Wire::CommandSync, Wire::GlobalError], "the one before it, not the one behind");
    // The culprit is replaced by a CMD_SYNC, and the error acknowledged (7.1).
    bench.poke(COMMANDS + 16, SYNC[0]);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 1 << 24 | 1, "not before the acknowledgement");
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS) & 0xff, bench.read(GERROR)), (3, 1));
    assert_eq!(bench.take_raised(), [Wire::CommandSync]);
}

#[test]
fn nothing_is_consumed_while_the_error_is_active() {
    let mut bench = Bench::enabled();
    bench.command([0xff, 0]);
    bench.poke(COMMANDS, SYNC[0]);
    for _ in 0..3 {
        bench.command(SYNC_IRQ);
    }
    assert_eq!((bench.read(CMDQ_CONS), bench.take_raised()), (1 << 24, std::vec![Wire::GlobalError]));
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS) & 0xff, 4, "without a write to CMDQ_PROD");
}

#[test]
fn second_error_toggles_back() {
    let mut bench = Bench::enabled();
    bench.command([0xff, 0]);
    bench.poke(COMMANDS, SYNC[0]);
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS) & 0x1f, 1, "what was put in its place is consumed");
    bench.command([0xff, 0]);
    assert_eq!((bench.read(GERROR), bench.read(GERRORN)), (0, 1));
    assert_eq!(error(&bench), 1);
}

#[test]
fn prod_may_go_back_to_cons_while_the_error_is_active() {
    let mut bench = Bench::enabled();
    bench.submit([0xff, 0]);
    bench.submit([0xff, 0]);
    bench.run();
    bench.write(CMDQ_PROD, 0);
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(GERROR), bench.read(GERRORN));
    bench.command(SYNC);
    assert_eq!(bench.read(CMDQ_CONS), 1);
}

#[test]
fn aborted_fetch_is_tried_again_after_the_acknowledgement() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(CMDQ_BASE, END | 4);
    bench.enable(ALL_ON);
    bench.write(CMDQ_PROD, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 2 << 24, "CERROR_ABT");
    assert_eq!(bench.read(GERROR), 1);
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 2 << 24, "and again");
    assert_eq!((bench.read(GERROR), bench.read(GERRORN)), (0, 1));
}

#[test]
fn sync_raises_its_interrupt_only_when_asked() {
    let mut bench = Bench::enabled();
    bench.command(SYNC);
    // SIG_NONE ignores MSIData, MSIAttr, MSH and MSIAddress.
    bench.command([0x46 | 0x3f << 22 | 7 << 32, DATA]);
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR), bench.raised.events), (2, 0, 0));
    bench.command([0x2046, 0]);
    assert_eq!(bench.take_raised(), []);
    bench.command(SYNC_IRQ);
    assert_eq!(bench.take_raised(), [Wire::CommandSync]);
    assert_eq!(bench.peek(DATA), 0);
}

#[test]
fn sync_writes_its_message_and_pulses_the_wire() {
    let mut bench = Bench::enabled();
    bench.poke(DATA, u64::MAX);
    // Bits of the address beyond OAS are dropped (3.4.3), and 32 bits are written.
    bench.command([0x1046 | 0x1234_5678 << 32, 1 << 50 | (DATA + 4)]);
    assert_eq!(bench.peek(DATA), 0x1234_5678_ffff_ffff);
    assert_eq!((bench.take_raised(), bench.read(GERROR)), (std::vec![Wire::CommandSync], 0));
}

#[test]
fn aborted_message_of_a_sync_is_a_global_error_and_the_sync_is_consumed() {
    let mut bench = Bench::enabled();
    bench.command([0x1046, END]);
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (1, 1 << 4));
    assert_eq!(bench.take_raised(), [Wire::CommandSync, Wire::GlobalError]);
    bench.command([0x1046, END]);
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (2, 1 << 4), "not activated again while active (7.5)");
    assert_eq!(bench.take_raised(), [Wire::CommandSync]);
    bench.command([0x1046 | 9 << 32, DATA]);
    assert_eq!(bench.peek(DATA), 9, "an abort does not affect later messages (6.3.19)");
}

#[test]
fn events_for_wfe_come_with_sig_sev_and_with_space_in_a_full_queue() {
    let mut bench = Bench::enabled();
    bench.command([0x2046, 0]);
    assert_eq!(bench.raised.events, 1);
    bench.command(SYNC);
    assert_eq!(bench.raised.events, 1);
    for _ in 0..16 {
        bench.submit(SYNC);
    }
    bench.run();
    assert_eq!(bench.raised.events, 2, "once: it was full before the first command only (4.1.2)");
}

#[test]
fn reason_of_an_error_survives_what_software_writes_to_cons() {
    let mut bench = Bench::enabled();
    bench.command([0xff, 0]);
    bench.enable(ALL_ON & !8);
    bench.write(CMDQ_CONS, 0x7f00_0005);
    assert_eq!(bench.read(CMDQ_CONS), 1 << 24 | 5, "ERR ignores the write (6.3.28)");
    assert_eq!(bench.read(GERROR), 1, "CMDQEN neither affects nor acknowledges the error");
}

#[test]
fn nothing_is_consumed_while_the_indices_are_inconsistent() {
    let mut bench = Bench::enabled();
    bench.enable(ALL_ON & !8);
    // 17 commands in a queue of 16.
    bench.write(CMDQ_PROD, 17);
    bench.enable(ALL_ON);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (0, 0), "3.5.1");
    // Still so, and no more with an index that is consistent.
    bench.write(CMDQ_PROD, 18);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (0, 0));
    bench.poke(COMMANDS, 0x46);
    bench.poke(COMMANDS + 8, 0);
    bench.write(CMDQ_PROD, 1);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (1, 0));
}

#[test]
fn sync_after_an_invalidation_that_timed_out_is_not_consumed() {
    let mut bench = Bench::enabled();
    bench.set_engine(2, reg::ATS_CONTROL, reg::ats_control::ENABLE | reg::ats_control::INVALIDATIONS_TIME_OUT);
    bench.submit([0x40 | 0x102 << 32, 52]);
    bench.submit(SYNC_IRQ);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 3 << 24 | 1, "CERROR_ATC_INV_SYNC, RD at the CMD_SYNC (7.1)");
    assert_eq!(bench.take_raised(), [Wire::GlobalError], "no completion signal");
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 2, "fetched again, it completes the rest (4.7.3)");
    assert_eq!(bench.take_raised(), [Wire::CommandSync]);
}

#[test]
fn error_interrupt_needs_its_enable() {
    let mut bench = Bench::enabled();
    bench.write(IRQ_CTRL, 6);
    bench.run();
    bench.command([0xff, 0]);
    assert_eq!(bench.read(GERROR), 1);
    assert_eq!(bench.take_raised(), []);
}

#[test]
fn one_step_consumes_a_bounded_number_of_commands() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(CMDQ_BASE, COMMANDS | 8);
    for slot in 0..256 {
        bench.poke(COMMANDS + slot * 16, SYNC[0]);
    }
    bench.enable(ALL_ON);
    bench.write(CMDQ_PROD, 200);
    assert!(bench.step());
    assert_eq!(bench.read(CMDQ_CONS), 32);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 200);
}

#[test]
fn reserved_bits_of_addresses_are_illegal() {
    // CMD_PREFETCH_ADDR: NS and the bit beside it (4.2.2). CMD_TLBI_S2_IPA and CMD_SYNC: bits 55:52 until SMMUv3.4 (4.1.6).
    for (command, legal) in [
        ([0x02, 0xfff << 52 | 0x3ff], true),
        ([0x02, 1 << 10], false),
        ([0x02, 1 << 11], false),
        ([0x2a, 1 << 51], true),
        ([0x2a, 1 << 52], false),
        ([0x2a, 1 << 55], false),
        ([0x46, 1 << 51], true),
        ([0x46, 1 << 52], false),
    ] {
        let mut bench = Bench::enabled();
        bench.command(command);
        assert_eq!(bench.read(CMDQ_CONS), if legal { 1 } else { 1 << 24 }, "{command:x?}");
    }
}

#[test]
fn commands_around_the_wrap_are_executed_once_each_and_in_order() {
    let mut bench = Bench::enabled();
    for first in [0, 7, 14, 21, 28] {
        // Seven at once, with the numbers that they write: later ones lie in slots of earlier ones.
        for number in first..first + 7 {
            bench.submit([0x1046 | (number + 1) << 32, DATA + number * 4]);
        }
        assert_eq!(bench.read(CMDQ_CONS), first as u32 & 0x1f, "not before a step");
        bench.run();
        assert_eq!(bench.read(CMDQ_CONS), (first as u32 + 7) & 0x1f);
        for number in first..first + 7 {
            let word = bench.peek(DATA + (number & !1) * 4) >> (32 * (number & 1)) as u32;
            assert_eq!(word as u32 as u64, number + 1);
            // Executed again it would come again.
            bench.memory.write32(PhysAddr(DATA + number * 4), 0).unwrap();
        }
    }
    bench.run();
    assert!((0..18).all(|word| bench.peek(DATA + word * 8) == 0));
    // All to one place: the last one stays.
    for number in 1..=9 {
        bench.submit([0x1046 | number << 32, DATA]);
    }
    bench.run();
    assert_eq!(bench.peek(DATA), 9);
    assert_eq!(bench.read(GERROR), 0);
}

#[test]
fn response_and_invalidation_for_no_device_complete() {
    // 0x777 is nobody's StreamID; engine 0 of 0x100 knows neither ATS nor PRI; at engine 2 of 0x102 ATS is off, where a
    // function answers Unsupported Request.
    let mut bench = Bench::enabled();
    for stream in [0x777, 0x100, 0x102] {
        bench.submit([0x40 | stream << 32, 52]);
        bench.submit([0x41 | stream << 32, 2 << 12]);
        bench.submit(SYNC);
    }
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (9, 0));
}

#[test]
fn attributes_of_a_message_are_all_legal() {
    // MSH in bits 23:22, MSIAttr in bits 27:24 of word 0 (4.7.3).
    let mut bench = Bench::enabled();
    for attributes in 0..64 {
        bench.poke(DATA, 0);
        bench.command([0x1046 | attributes << 22 | 9 << 32, DATA]);
        assert_eq!((bench.peek(DATA), bench.read(GERROR)), (9, 0), "{attributes:x}");
    }
}
