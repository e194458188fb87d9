//! Writes to registers: 3.5.1, 3.9.1, 3.11, 6.2, 6.3.

use super::*;
use crate::model::board;
use crate::model::engine::registers as reg;
use crate::model::machine::Width;

#[test]
fn access_that_is_not_aligned_is_named() {
    let mut bench = prepared();
    bench.write64(STRTAB_BASE, STREAMS);
    bench.write(STRTAB_BASE + 4, 0);
    assert_eq!(broken(&mut bench), None, "halves of a 64-bit register may be written apart");
    bench.machine.write(board::SMMU_BASE + STRTAB_BASE + 4, Width::Double, 0);
    assert_eq!(broken(&mut bench), Some(("misaligned-access", "6.2")));
    bench.write(CR0 + 2, 0);
    assert_eq!(broken(&mut bench), Some(("misaligned-access", "6.2")));
    bench.machine.write(board::SMMU_BASE - 2, Width::Word, 0);
    assert_eq!(broken(&mut bench), None, "beside the SMMU");
}

#[test]
fn sixty_four_bits_into_two_registers_are_named() {
    for (offset, named) in [
        // Two registers: CR0 and CR0ACK, PROD and CONS of the command queue; STATUSR and GBPA, IDR4 and IDR5, of which this
        // SMMU has but the second.
        (CR0, true),
        (CMDQ_PROD, true),
        (0x40, true),
        (0x10, true),
        // One register. S2PII, which this SMMU does not have.
        (CMDQ_BASE, false),
        (0x30, false),
        // Beside the registers: the counters of the model.
        (0xe70, false),
    ] {
        let mut bench = prepared();
        bench.write64(offset, 0);
        assert_eq!(broken(&mut bench), named.then_some(("double-access", "6.2")), "{offset:#x}");
    }
}

#[test]
fn half_of_a_register_leaves_the_other_as_it_is() {
    const BASE: u64 = 1 << 62 | STREAMS;
    let mut bench = strict();
    bench.enable(ALL_ON & !1);
    bench.write64(STRTAB_BASE, BASE);
    bench.enable(ALL_ON);
    for (offset, half) in [(STRTAB_BASE, BASE as u32), (STRTAB_BASE + 4, (BASE >> 32) as u32)] {
        bench.write(offset, half);
        assert_eq!(broken(&mut bench), None, "{offset:#x}: the same value");
    }
    for (offset, half, whole) in
        [(STRTAB_BASE, 0x4002_0000, 1 << 62 | 0x4002_0000), (STRTAB_BASE + 4, 1, 1 << 32 | STREAMS)]
    {
        bench.write(offset, half);
        let violation = bench.machine.take_violation().unwrap();
        assert_eq!(violation.rule.name(), "guarded-field");
        let about = [Some(("register", 0x80)), Some(("value", BASE)), Some(("written", whole)), None];
        assert_eq!(violation.details, about, "{offset:#x}");
    }
}

#[test]
fn attributes_of_tables_and_of_queues_are_guarded_each_by_their_own_enables() {
    // CR1: those of tables are bits 11:6, those of queues bits 5:0.
    for (enable, tables, queues) in [(1, true, false), (2, false, true), (4, false, true), (8, false, true)] {
        for (bits, named) in [(1 << 6, tables), (1 << 11, tables), (1 << 0, queues), (1 << 5, queues)] {
            let mut bench = strict();
            bench.enable(enable);
            let value = bench.read(CR1);
            bench.write(CR1, value ^ bits);
            assert_eq!(broken(&mut bench).is_some(), named, "enables {enable:#x}, bits {bits:#x}");
        }
    }
}

#[test]
fn change_of_a_guarded_register_is_named_and_the_same_value_is_not() {
    // Each register, a bit of it, and the enable that guards it.
    for (offset, bit, enable) in [
        (CR1, 1 << 6, 1),
        (CR1, 1 << 0, 2),
        (CR1, 1 << 0, 4),
        (CR1, 1 << 0, 8),
        (CR2, 1 << 0, 1),
        (STRTAB_BASE, 1 << 20, 1),
        (STRTAB_BASE + 4, 1 << 0, 1),
        // RA and WA.
        (STRTAB_BASE + 4, 1 << 30, 1),
        (CMDQ_BASE + 4, 1 << 30, 8),
        (EVENTQ_BASE + 4, 1 << 30, 4),
        (PRIQ_BASE + 4, 1 << 30, 2),
        (STRTAB_BASE_CFG, 1 << 16, 1),
        (CMDQ_BASE, 1 << 20, 8),
        (CMDQ_CONS, 1 << 0, 8),
        (EVENTQ_BASE, 1 << 20, 4),
        (EVENTQ_PROD, 1 << 0, 4),
        (PRIQ_BASE, 1 << 20, 2),
        (PRIQ_PROD, 1 << 0, 2),
    ] {
        let mut bench = strict();
        let value = bench.read(offset);
        bench.write(offset, value);
        assert_eq!(broken(&mut bench), None, "{offset:#x}: the same value");
        bench.enable(ALL_ON & !enable);
        assert_eq!(broken(&mut bench), None);
        if offset != CR1 {
            bench.write(offset, value ^ bit);
            bench.write(offset, value);
            assert_eq!(broken(&mut bench), None, "{offset:#x}: not guarded");
        }
        bench.write(CR0, ALL_ON);
        bench.write(offset, value ^ bit);
        assert_eq!(broken(&mut bench), Some(("guarded-field", "6.2")), "{offset:#x}: on the way to 1");
        bench.step();
        bench.write(offset, value ^ bit);
        assert_eq!(broken(&mut bench), Some(("guarded-field", "6.2")), "{offset:#x}: enabled");
        bench.write(CR0, 0);
        bench.write(offset, value ^ bit);
        assert_eq!(broken(&mut bench), Some(("guarded-field", "6.2")), "{offset:#x}: on the way to 0");
    }
}

#[test]
fn change_of_a_message_register_is_named_while_its_interrupt_is_enabled() {
    for (enable, first) in [(1, 0x68), (2, 0xd0), (4, 0xb0)] {
        let mut bench = prepared();
        bench.write64(first, 0);
        assert_eq!(broken(&mut bench), None);
        for (offset, value) in [(first, 0x1000), (first + 8, 1), (first + 12, 1)] {
            bench.write(IRQ_CTRL, 7 & !enable);
            bench.step();
            bench.write(offset, value);
            bench.write(offset, 0);
            assert_eq!(broken(&mut bench), None);
            bench.write(IRQ_CTRL, 7);
            bench.write(offset, value);
            assert_eq!(broken(&mut bench), Some(("guarded-field", "6.2")), "{offset:#x}");
            bench.step();
        }
    }
}

#[test]
fn field_that_changes_before_its_acknowledgement_is_named_and_its_neighbour_is_not() {
    let mut bench = prepared();
    bench.write(CR0, 8);
    bench.write(CR0, 8 | 4);
    assert_eq!(broken(&mut bench), None, "each field is independent");
    bench.write(CR0, 4);
    assert_eq!(broken(&mut bench), Some(("field-in-update", "6.3.9")));
    bench.step();
    bench.write(CR0, 4);
    assert_eq!(broken(&mut bench), None);
    bench.write(IRQ_CTRL, 0);
    bench.step();
    bench.write(IRQ_CTRL, 1);
    bench.write(IRQ_CTRL, 1 | 4);
    assert_eq!(broken(&mut bench), None, "each field is independent");
    bench.write(IRQ_CTRL, 4);
    assert_eq!(broken(&mut bench), Some(("field-in-update", "6.3.9")));
}

#[test]
fn gbpa_wants_update_and_one_update_at_a_time() {
    let mut bench = prepared();
    bench.write(GBPA, 1 << 31 | 1 << 20);
    bench.step();
    bench.write(GBPA, 1 << 31);
    assert_eq!(broken(&mut bench), None);
    bench.write(GBPA, 1 << 31 | 1 << 20);
    assert_eq!(broken(&mut bench), Some(("gbpa-in-update", "6.3.14.1")));
    bench.step();
    bench.write(GBPA, 1 << 20);
    assert_eq!(broken(&mut bench), Some(("gbpa-without-update", "6.3.14.1")));
}

#[test]
fn error_is_acknowledged_only_while_it_is_active() {
    let mut bench = strict();
    // The message of a CMD_SYNC goes where there is no memory: MSI_CMDQ_ABT_ERR.
    bench.command([0x1046, END]);
    assert_eq!(bench.read(GERROR), 1 << 4);
    bench.write(GERRORN, 1 << 4);
    bench.write(GERRORN, 1 << 4);
    assert_eq!(broken(&mut bench), None);
    bench.write(GERRORN, 0);
    assert_eq!(broken(&mut bench), Some(("error-not-active", "6.3.20")));
}

#[test]
fn queue_that_is_too_large_is_named() {
    for offset in [CMDQ_BASE, EVENTQ_BASE, PRIQ_BASE] {
        let mut bench = prepared();
        // 2^10 entries is what IDR1 says.
        bench.write64(offset, COMMANDS | 10);
        assert_eq!(broken(&mut bench), None);
        bench.write64(offset, COMMANDS | 11);
        assert_eq!(broken(&mut bench), Some(("queue-too-large", "6.3.26")), "{offset:#x}");
    }
}

#[test]
fn queue_that_is_not_aligned_to_its_size_is_named() {
    // 16 entries of 16 bytes, and of 32.
    for (offset, size, enable) in [(CMDQ_BASE, 0x100, 8), (PRIQ_BASE, 0x100, 2), (EVENTQ_BASE, 0x200, 4)] {
        let mut bench = prepared();
        bench.write64(offset, DATA | size | 4);
        bench.enable(enable);
        assert_eq!(broken(&mut bench), None);
        bench.enable(0);
        bench.write64(offset, DATA | (size / 2) | 4);
        bench.enable(enable);
        assert_eq!(broken(&mut bench), Some(("queue-misaligned", "6.3.26")), "{offset:#x}");
    }
}

#[test]
fn queue_enabled_with_inconsistent_indices_is_named() {
    for (prod, cons, enable) in [(CMDQ_PROD, CMDQ_CONS, 8), (EVENTQ_PROD, EVENTQ_CONS, 4), (PRIQ_PROD, PRIQ_CONS, 2)] {
        for (prod_value, cons_value, consistent) in
            [(3, 3, true), (19, 3, true), (5, 3, true), (2, 19, true), (20, 3, false), (2, 3, false)]
        {
            let mut bench = prepared();
            bench.write(prod, prod_value);
            bench.write(cons, cons_value);
            bench.enable(ALL_ON & !1 & !enable);
            assert_eq!(broken(&mut bench), None, "not before it is enabled");
            bench.write(CR0, ALL_ON & !1);
            let expected = (!consistent).then_some(("queue-inconsistent", "3.5.1"));
            assert_eq!(broken(&mut bench), expected, "PROD {prod_value}, CONS {cons_value}");
        }
    }
}

#[test]
fn command_producer_moves_forward_and_not_beyond_the_queue() {
    let submitted = || {
        let mut bench = strict();
        // The queue holds 16; the bring-up consumed 4.
        bench.command(SYNC);
        bench.submit(SYNC);
        bench.submit(SYNC);
        assert_eq!((bench.read(CMDQ_PROD), bench.read(CMDQ_CONS)), (7, 5));
        assert_eq!(broken(&mut bench), None);
        bench
    };
    for (prod, name) in
        [(7, None), (8, None), (21, None), (22, Some("producer-too-far")), (6, Some("producer-backwards"))]
            .into_iter()
            .chain([(5, Some("producer-backwards")), (4, Some("producer-backwards"))])
    {
        let mut bench = submitted();
        bench.write(CMDQ_PROD, prod);
        assert_eq!(broken(&mut bench), name.map(|name| (name, "3.5.1")), "PROD {prod}");
    }
    // Back to CONS while CMDQ_ERR is active (7.1), and no further.
    for (prod, name) in [(6, None), (5, None), (4, Some("producer-backwards"))] {
        let mut bench = submitted();
        bench.run();
        bench.write(CMDQ_PROD, 7);
        for _ in 0..3 {
            bench.submit([0xff, 0]);
        }
        bench.run();
        assert_eq!(broken(&mut bench), Some(("illegal-command", "7.1")));
        assert_eq!(bench.read(CMDQ_CONS) & 0x1f, 7);
        bench.write(CMDQ_PROD, prod + 2);
        assert_eq!(broken(&mut bench), name.map(|name| (name, "3.5.1")), "PROD {prod} with an error");
    }
    let mut bench = submitted();
    bench.run();
    bench.enable(ALL_ON & !8);
    bench.write(CMDQ_PROD, 3);
    assert_eq!(broken(&mut bench), None, "the queue is disabled");
}

/// A strict machine with three unread records in the event queue.
fn three_events() -> Bench {
    let mut bench = strict();
    bench.attach(0x100, 0, 0, CD_R | CD_A);
    for page in 5..8 {
        bench.write_word(0, page << 12);
    }
    assert_eq!((bench.read(EVENTQ_PROD), bench.read(EVENTQ_CONS)), (3, 0));
    bench
}

#[test]
fn consumer_moves_forward_and_not_past_the_producer() {
    for (cons, then, name) in [
        (0, 0, None),
        (1, 3, None),
        (2, 1, Some("consumer-backwards")),
        (0, 31, Some("consumer-backwards")),
        (3, 4, Some("consumer-past-producer")),
        (1, 8, Some("consumer-past-producer")),
        // 16 ahead, which is the queue's size, and one more, which can only be 15 back.
        (0, 16, Some("consumer-past-producer")),
        (0, 17, Some("consumer-backwards")),
    ] {
        let mut bench = three_events();
        bench.write(EVENTQ_CONS, cons);
        assert_eq!(broken(&mut bench), None);
        bench.write(EVENTQ_CONS, then);
        assert_eq!(broken(&mut bench), name.map(|name| (name, "3.5.1")), "from {cons} to {then}");
    }
    let mut bench = strict();
    bench.write(PRIQ_CONS, 1);
    assert_eq!(broken(&mut bench), Some(("consumer-past-producer", "3.5.1")));
    let mut bench = three_events();
    bench.enable(ALL_ON & !4);
    bench.write(EVENTQ_CONS, 9);
    assert_eq!(broken(&mut bench), None, "the queue is disabled");
}

#[test]
fn overflow_is_acknowledged_only_after_it_occurred() {
    const OVACKFLG: u32 = 1 << 31;
    let mut bench = three_events();
    bench.write(EVENTQ_CONS, OVACKFLG | 3);
    assert_eq!(broken(&mut bench), Some(("overflow-not-active", "6.3.96")));
    let mut bench = three_events();
    for page in 8..25 {
        bench.write_word(0, page << 12);
    }
    assert_eq!(bench.read(EVENTQ_PROD), 1 << 31 | 16);
    bench.write(EVENTQ_CONS, 2);
    bench.write(EVENTQ_CONS, OVACKFLG | 15);
    bench.write(EVENTQ_CONS, OVACKFLG | 16);
    assert_eq!(broken(&mut bench), None);
    bench.write(EVENTQ_CONS, 16);
    assert_eq!(broken(&mut bench), Some(("overflow-not-active", "6.3.96")));
    let mut bench = strict();
    bench.write(PRIQ_CONS, OVACKFLG);
    assert_eq!(broken(&mut bench), Some(("overflow-not-active", "6.3.96")));
}

#[test]
fn stream_table_that_is_not_aligned_to_its_size_is_named() {
    // Linear, 2^9 STEs of 64 bytes: 32 KiB. 2-level, 2^(16 - 8) descriptors of 8 bytes: 2 KiB, 2^(16 - 10): 512 bytes. One
    // descriptor: 64 bytes.
    for (configuration, aligned) in
        [(9, 0x8000), (1 << 16 | 8 << 6 | 16, 0x800), (1 << 16 | 10 << 6 | 16, 0x200), (1 << 16 | 6 << 6 | 4, 0x40)]
    {
        let mut bench = strict();
        bench.enable(ALL_ON & !1);
        bench.write(STRTAB_BASE_CFG, configuration);
        bench.write64(STRTAB_BASE, 1 << 62 | DATA | aligned);
        bench.enable(ALL_ON);
        assert_eq!(broken(&mut bench), None);
        if aligned == 0x40 {
            continue;
        }
        bench.enable(ALL_ON & !1);
        bench.write64(STRTAB_BASE, DATA | (aligned / 2));
        bench.write(CR0, ALL_ON);
        assert_eq!(broken(&mut bench), Some(("stream-table-misaligned", "6.3.24")), "{configuration:#x}");
    }
}

#[test]
fn translations_of_el1_are_all_there_is_without_stage_2_and_el2() {
    // 4.4.4.1. TLBI_NH_ALL of VMID 0.
    for (profile, expected) in [(Profile::Qemu7, None), (Profile::Qemu10, Some(("not-invalidated", "3.11")))] {
        let mut bench = Bench::of(profile);
        bench.write(CONTROL, STRICT);
        bench.initialise();
        bench.enable(8);
        [CFGI_ALL, [0x10, 0], SYNC].into_iter().for_each(|command| bench.command(command));
        bench.write(CR0, 0xd);
        assert_eq!(broken(&mut bench), expected, "{}", profile.name());
    }
}

#[test]
fn translation_enabled_before_everything_was_invalidated_is_named() {
    let enabled_after = |commands: &[[u64; 2]]| {
        let mut bench = prepared();
        bench.enable(8);
        commands.iter().for_each(|command| bench.command(*command));
        bench.write(CR0, ALL_ON);
        let first = broken(&mut bench);
        bench.run();
        bench.enable(ALL_ON & !1);
        first
    };
    let missing = Some(("not-invalidated", "3.11"));
    assert_eq!(enabled_after(&[TLBI_EL2_ALL, TLBI_NSNH_ALL, CFGI_ALL, SYNC]), None);
    // CMD_CFGI_STE_RANGE over all 2^16 StreamIDs.
    assert_eq!(enabled_after(&[TLBI_EL2_ALL, TLBI_NSNH_ALL, [0x04, 15], SYNC]), None);
    assert_eq!(enabled_after(&[TLBI_EL2_ALL, TLBI_NSNH_ALL, [0x04, 14], SYNC]), missing);
    assert_eq!(enabled_after(&[TLBI_EL2_ALL, TLBI_NSNH_ALL, CFGI_ALL]), missing, "no SYNC");
    assert_eq!(enabled_after(&[TLBI_EL2_ALL, TLBI_NSNH_ALL, SYNC, CFGI_ALL]), missing, "no SYNC behind");
    assert_eq!(enabled_after(&[TLBI_EL2_ALL, CFGI_ALL, SYNC]), missing);
    assert_eq!(enabled_after(&[TLBI_NSNH_ALL, CFGI_ALL, SYNC]), missing);
    assert_eq!(enabled_after(&[]), missing);
    // Published, but not consumed: the SMMU may not have got to them.
    let mut bench = prepared();
    bench.enable(8);
    [TLBI_EL2_ALL, TLBI_NSNH_ALL, CFGI_ALL, SYNC].iter().for_each(|command| bench.submit(*command));
    bench.write(CR0, ALL_ON);
    assert_eq!(broken(&mut bench), missing);
    // The caches were clean when the SMMU was disabled.
    let mut bench = strict();
    bench.enable(ALL_ON & !1);
    bench.enable(ALL_ON);
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn ats_has_to_be_off_at_the_devices_when_translation_is_disabled() {
    let mut bench = strict();
    bench.set_engine(2, reg::ATS_CONTROL, 1);
    bench.set_engine(2, reg::ATS_CONTROL, 0);
    bench.enable(ALL_ON & !1);
    bench.enable(ALL_ON);
    assert_eq!(broken(&mut bench), None);
    bench.set_engine(2, reg::ATS_CONTROL, 1);
    bench.enable(ALL_ON & !1);
    assert_eq!(broken(&mut bench), Some(("ats-left-enabled", "3.9.1")));
}

#[test]
fn registers_that_this_smmu_does_not_have_are_not_judged() {
    let mut bench = Bench::of(Profile::NoPri);
    bench.write(CONTROL, STRICT);
    bench.write64(PRIQ_BASE, PAGE_REQUESTS | 31);
    bench.write(PRIQ_CONS, 1 << 31);
    // Without BTM there is no CR2.PTM: it may be written again and again.
    bench.write(CR2, 6);
    bench.write(CR1, 0);
    bench.write64(CMDQ_BASE, COMMANDS | 4);
    bench.write(CMDQ_PROD, 0);
    bench.write(CMDQ_CONS, 0);
    bench.enable(8);
    for command in [CFGI_ALL, TLBI_NSNH_ALL, TLBI_EL2_ALL] {
        bench.command(command);
    }
    bench.write(CR2, 6);
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn enable_of_what_nobody_has_written_is_named() {
    const UNWRITTEN: Option<(&str, &str)> = Some(("register-unwritten", "3.11"));
    // Each enable of CR0 and what it puts to use: written in this order, all but one of them.
    for (enable, used) in [
        (8, &[CR1, CMDQ_BASE, CMDQ_PROD, CMDQ_CONS][..]),
        (4, &[CR1, EVENTQ_BASE, EVENTQ_PROD, EVENTQ_CONS]),
        (2, &[CR1, PRIQ_BASE, PRIQ_PROD, PRIQ_CONS]),
    ] {
        for left_out in used.iter().map(Some).chain([None]) {
            let mut bench = Bench::reset();
            bench.write(CONTROL, STRICT);
            for offset in used.iter().filter(|offset| Some(*offset) != left_out) {
                match *offset {
                    CMDQ_BASE | EVENTQ_BASE | PRIQ_BASE => bench.write64(*offset, COMMANDS),
                    _ => bench.write(*offset, 0),
                }
            }
            bench.write(CR0, enable);
            assert_eq!(broken(&mut bench), left_out.and(UNWRITTEN), "{enable} without {left_out:x?}");
        }
    }
    // SMMUEN, after a command queue that invalidated everything.
    for left_out in [CR1, STRTAB_BASE, STRTAB_BASE_CFG, 0] {
        let mut bench = Bench::reset();
        bench.write(CONTROL, STRICT);
        for (offset, value) in WORD.into_iter().filter(|(offset, _)| [CR1, STRTAB_BASE_CFG].contains(offset)) {
            if offset != left_out {
                bench.write(offset, value);
            }
        }
        if left_out != STRTAB_BASE {
            bench.write64(STRTAB_BASE, STREAMS);
        }
        bench.write64(CMDQ_BASE, COMMANDS | 4);
        bench.write(CMDQ_PROD, 0);
        bench.write(CMDQ_CONS, 0);
        bench.enable(8);
        for command in [CFGI_ALL, TLBI_NSNH_ALL, TLBI_EL2_ALL, SYNC] {
            bench.command(command);
        }
        broken(&mut bench);
        bench.write(CR0, 9);
        assert_eq!(broken(&mut bench), if left_out == 0 { None } else { UNWRITTEN }, "without {left_out:#x}");
    }
}

#[test]
fn queue_whose_base_was_written_after_its_indices_is_named() {
    const UNWRITTEN: Option<(&str, &str)> = Some(("register-unwritten", "3.11"));
    // The bases written before the indices, and after them: LOG2SIZE decides what the indices mean (6.3.26).
    for (before, after, expected) in [
        (&[][..], &[COMMANDS | 4][..], UNWRITTEN),
        (&[], &[COMMANDS], UNWRITTEN),
        (&[COMMANDS | 4], &[COMMANDS | 5], UNWRITTEN),
        (&[COMMANDS | 4], &[COMMANDS | 5, COMMANDS | 4], UNWRITTEN),
        (&[COMMANDS | 4], &[], None),
        (&[COMMANDS | 4], &[EVENTS | 4], None),
    ] {
        let mut bench = Bench::reset();
        bench.write(CONTROL, STRICT);
        bench.write(CR1, 0);
        before.iter().for_each(|base| bench.write64(CMDQ_BASE, *base));
        bench.write(CMDQ_PROD, 0);
        bench.write(CMDQ_CONS, 0);
        after.iter().for_each(|base| bench.write64(CMDQ_BASE, *base));
        bench.write(CR0, 8);
        assert_eq!(broken(&mut bench), expected, "{before:x?} {after:x?}");
    }
}

#[test]
fn half_of_a_register_is_not_all_of_it() {
    let mut bench = Bench::reset();
    bench.write(CONTROL, STRICT);
    bench.write(CR1, 0);
    bench.write(CMDQ_BASE, COMMANDS as u32 | 4);
    bench.write(CMDQ_PROD, 0);
    bench.write(CMDQ_CONS, 0);
    bench.write(CR0, 8);
    assert_eq!(broken(&mut bench), Some(("register-unwritten", "3.11")));
    bench.step();
    bench.enable(0);
    bench.write(CMDQ_BASE + 4, 0);
    bench.write(CR0, 8);
    assert_eq!(broken(&mut bench), None, "the lower half, and so LOG2SIZE, stayed");
}

#[test]
fn interrupt_enabled_with_a_message_that_nobody_has_written_is_named() {
    for (enable, first) in [(1, 0x68), (2, 0xd0), (4, 0xb0)] {
        // What is written: nothing; that there is no message; an address; the data and the attributes too.
        for (writes, named) in [(0, true), (1, false), (2, true), (4, false)] {
            let mut bench = Bench::reset();
            bench.write(CONTROL, STRICT);
            match writes {
                0 => {}
                1 => bench.write64(first, 0),
                _ => bench.write64(first, DATA),
            }
            if writes == 4 {
                bench.write(first + 8, 0);
                bench.write(first + 12, 0);
            }
            bench.write(IRQ_CTRL, enable);
            assert_eq!(broken(&mut bench).is_some(), named, "{enable} {writes}");
        }
    }
}
