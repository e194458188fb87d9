//! The command queue: 3.21.2, 4.5, 7.1.

use super::*;

#[test]
fn illegal_command_is_named_and_again_if_it_is_kept() {
    let mut bench = strict();
    bench.command(SYNC);
    assert_eq!(broken(&mut bench), None);
    bench.command([0xff, 0]);
    assert_eq!(broken(&mut bench), Some(("illegal-command", "7.1")));
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(broken(&mut bench), Some(("illegal-command-kept", "7.1")));
    // Replaced at CONS, which is 5: while the error is active it may change (7.1).
    bench.poke(COMMANDS + 5 * 16, SYNC[0]);
    bench.write(GERRORN, 0);
    bench.run();
    assert_eq!((broken(&mut bench), bench.read(CMDQ_CONS) & 0x1f), (None, 6));
}

#[test]
fn illegal_command_in_the_place_of_another_is_one_of_its_own() {
    let mut bench = strict();
    for opcode in [0xff, 0xfe, 0xff] {
        // CONS is 4: the bring-up consumed as many.
        bench.poke(COMMANDS + 4 * 16, opcode);
        let acknowledged = bench.read(GERROR);
        bench.write(GERRORN, acknowledged);
        bench.write(CMDQ_PROD, 5);
        bench.run();
        let violation = bench.machine.take_violation().unwrap();
        assert_eq!(violation.rule.name(), "illegal-command");
        assert_eq!(violation.details, [Some(("CONS", 4)), Some(("word 0", opcode)), Some(("word 1", 0)), None]);
    }
}

#[test]
fn aborted_fetch_is_no_mistake_of_the_command() {
    let mut bench = prepared();
    bench.write64(CMDQ_BASE, END | 4);
    bench.enable(8);
    bench.write(CMDQ_PROD, 1);
    bench.run();
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 2 << 24, "CERROR_ABT");
    assert_eq!(broken(&mut bench), None);
}

/// A queue of 256 commands, of which 40 are CMD_SYNCs that are published, and 32 of those consumed.
fn eight_left() -> Bench {
    let mut bench = Bench::reset();
    bench.write(CONTROL, STRICT);
    bench.set_up();
    bench.write64(CMDQ_BASE, COMMANDS | 8);
    bench.write(CMDQ_PROD, 0);
    bench.write(CMDQ_CONS, 0);
    for slot in 0..256 {
        bench.poke(COMMANDS + slot * 16, SYNC[0]);
    }
    bench.enable(8);
    bench.write(CMDQ_PROD, 40);
    assert!(bench.step());
    assert_eq!((bench.read(CMDQ_CONS), broken(&mut bench)), (32, None));
    bench
}

#[test]
fn command_that_changes_after_its_publication_is_named() {
    let mut bench = eight_left();
    // Another CMD_SYNC: CS = SIG_SEV.
    bench.poke(COMMANDS + 40 * 16, 0x2046);
    bench.write(CMDQ_PROD, 41);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), broken(&mut bench)), (41, None), "behind PROD");
    let mut bench = eight_left();
    bench.poke(COMMANDS + 39 * 16, 0x2046);
    bench.run();
    assert_eq!(broken(&mut bench), Some(("command-changed", "3.21.2")));
    // While the queue is disabled its commands may change.
    let mut bench = eight_left();
    bench.enable(0);
    assert_eq!(bench.read(CMDQ_CONS), 32);
    bench.poke(COMMANDS + 39 * 16, 0x2046);
    bench.enable(8);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), broken(&mut bench)), (40, None));
}

#[test]
fn slot_may_be_used_again_once_its_command_is_consumed() {
    let mut bench = strict();
    for round in 0..100 {
        bench.command([0x1046 | round << 32, DATA]);
    }
    assert_eq!((broken(&mut bench), bench.peek(DATA)), (None, 99));
}

#[test]
fn pasid_in_a_command_is_named_where_there_are_none() {
    for opcode in [0x40, 0x41] {
        for (ssv, name) in [(0, None), (1 << 11, Some(("pasid-not-supported", "4.5")))] {
            let mut bench = Bench::of(Profile::Small);
            bench.write(CONTROL, STRICT);
            bench.write(CR1, 0);
            bench.write64(CMDQ_BASE, COMMANDS | 1);
            bench.write(CMDQ_PROD, 0);
            bench.write(CMDQ_CONS, 0);
            bench.enable(8);
            bench.poke(COMMANDS, opcode | ssv);
            bench.write(CMDQ_PROD, 1);
            bench.run();
            assert_eq!(bench.read(CMDQ_CONS), 1);
            assert_eq!(broken(&mut bench), name, "{opcode:#x}");
        }
    }
}
