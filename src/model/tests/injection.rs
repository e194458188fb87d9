//! What the control page lets go wrong: `docs/control.md`; 3.12, 3.18, 4.5.1, 6.3.9, 6.3.14, 6.3.16, 7.1, 7.2.2, 7.3, 8.2, 12.3.

use std::vec;

use super::bench::*;
use crate::model::board;
use crate::model::engine::registers::{self as reg, ats_control, pri_control, pri_status};
use crate::model::machine::Width;
use crate::model::profile::Profile;
use crate::model::wire::Wire;

// Offsets of the control page.
const FAIL: u64 = 0x004;
const TICKS: u64 = 0x008;
const ENGINES: u64 = 0x010;
const SOURCES: u64 = 0x018;
const LATE_TICKS: u64 = 0x01c;
const REORDER: u64 = 0x020;
const SEED: u64 = 0x024;
const REORDERED: u64 = 0x028;
const BUSY: u64 = 0x02c;
const RESET: u64 = 0x030;
const PASSED: u64 = 0x034;
const EVENT_WRITE: u64 = 0x100;
const PAGE_REQUEST_WRITE: u64 = 0x108;
const COMMAND_FETCH: u64 = 0x110;
const COMMAND_ILLEGAL: u64 = 0x118;
const ATC_INVALIDATION: u64 = 0x120;
const STE_FETCH: u64 = 0x128;
const CD_FETCH: u64 = 0x130;
const TABLE_FETCH: u64 = 0x138;
const MESSAGE: u64 = 0x140;
const INTERRUPT_LOST: u64 = 0x148;
const INTERRUPT_LATE: u64 = 0x150;
const CR0_LATE: u64 = 0x180;
const IRQ_CTRL_LATE: u64 = 0x188;
const GBPA_LATE: u64 = 0x190;
const COMMANDS_HELD: u64 = 0x198;
const ENGINES_HELD: u64 = 0x1a0;
const HAPPENED: u64 = 4;

const UNTIL_RELEASED: u32 = 0xffff_ffff;

/// IDR1 of the SMMU (6.3.2).
const IDR1: u64 = 0x04;

/// CMD_SYNC without a signal (4.7.3).
const SYNC: [u64; 2] = [0x46, 0];
/// CMD_ATC_INV of everything, for engine 2 (4.5.1).
const ATC_INV: [u64; 2] = [0x40 | 0x102 << 32, 52];

/// Engine 0's and engine 1's streams record faults and abort.
fn recording() -> Bench {
    let bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_R | CD_A);
    bench.attach(0x101, 1, 1, CD_R | CD_A);
    bench
}

/// Engine 2 asks for pages; nothing is mapped.
fn asking() -> Bench {
    let mut bench = Bench::enabled();
    bench.set_cd(0, CD_A | CD_R, 0);
    bench.set_ste(0x102, STE0_STAGE1 | CDS, STE1 | S1STALLD | EATS);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(2, reg::PRI_ALLOCATION, 64);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench
}

fn smmu_interrupts(bench: &mut Bench) -> vec::Vec<Wire> {
    bench.take_raised().into_iter().filter(|wire| !matches!(wire, Wire::Engine(_))).collect()
}

/// The point or hold at `offset`: what is left, how often it happened.
fn pair(bench: &Bench, offset: u64) -> (u32, u32) {
    (bench.control(offset), bench.control(offset + HAPPENED))
}

#[test]
fn everything_is_off_after_reset_and_the_page_ends_after_4_kib() {
    let mut bench = Bench::reset();
    assert_eq!(bench.control(0), 0x3154_4e43);
    for offset in (4..0x1000).step_by(4) {
        assert_eq!(bench.control(offset), if offset == SOURCES { 0xf } else { 0 }, "{offset:#x}");
    }
    for offset in (4..0x2000).step_by(4) {
        bench.set_control(offset, 0xffff_ffff);
    }
    assert_eq!((bench.control(REORDER), bench.control(SOURCES), bench.control(EVENT_WRITE)), (1, 0xf, 0xffff_ffff));
    assert_eq!((bench.control(EVENT_WRITE + HAPPENED), bench.control64(TICKS)), (0, 0), "read-only");
    assert_eq!((bench.control(0x158), bench.control(0x1a8), bench.control(0x1000)), (0, 0, 0), "nothing there");
    bench.machine.reset(Profile::Full, 4);
    for offset in (4..0x1000).step_by(4) {
        assert_eq!(bench.control(offset), if offset == SOURCES { 0xf } else { 0 }, "{offset:#x}");
    }
}

#[test]
fn ticks_and_64_bit_registers_are_read_whole_or_by_halves() {
    let mut bench = Bench::reset();
    for _ in 0..5 {
        bench.step();
    }
    assert_eq!((bench.control64(TICKS), bench.control(TICKS), bench.control(TICKS + 4)), (5, 5, 0));
    bench.machine.write(board::CONTROL_BASE + ENGINES, Width::Double, 0x1234_5678_9abc_def0);
    assert_eq!((bench.control(ENGINES), bench.control(ENGINES + 4)), (0x9abc_def0, 0x1234_5678));
    bench.set_control(ENGINES + 4, 1);
    assert_eq!(bench.control64(ENGINES), 0x1_9abc_def0);
}

#[test]
fn reset_makes_it_an_smmu_of_another_profile() {
    let mut bench = recording();
    bench.set_control(EVENT_WRITE, 2);
    bench.write_word(0, 0x5000);
    let (full, small) = (bench.read(IDR1), 8);
    // "small": 4 bits of StreamIDs, none of SubstreamIDs, queues of 2 entries (6.3.2). ATTR_PERMS_OVR.
    bench.set_control(RESET, small);
    assert_eq!(bench.read(IDR1), 0x0421_0804 | 1 << 11 | 1 << 16 | 1 << 21);
    assert_eq!((bench.read(CR0ACK), bench.read(EVENTQ_PROD), bench.control(EVENT_WRITE)), (0, 0, 0));
    assert_eq!((bench.control64(TICKS), bench.control(RESET)), (0, 0));
    assert_eq!(bench.engine(0, reg::STATUS), 0, "its job is gone");
    for nothing in [0, 12, 0xffff_ffff] {
        bench.set_control(RESET, nothing);
        assert_ne!(bench.read(IDR1), full);
    }
    bench.set_control(RESET, 1);
    assert_eq!(bench.read(IDR1), full);
}

#[test]
fn reset_brings_back_all_engines_that_the_profile_has_streams_for() {
    let mut bench = Bench::reset();
    bench.machine.reset(Profile::Full, 20);
    let there = |bench: &Bench| (0..64).filter(|&engine| bench.engine(engine, reg::ID) != 0).count();
    let counts = [8, 1].map(|profile| {
        bench.set_control(RESET, profile);
        there(&bench)
    });
    assert_eq!(counts, [Profile::Small.max_engines().min(20), 20]);
    assert!(counts[0] < 20);
}

#[test]
fn reset_leaves_strict_mode_on_and_registers_unknown() {
    let mut bench = Bench::reset();
    bench.set_control(RESET, 1);
    assert_eq!(bench.read(CMDQ_PROD), 0, "nothing is UNKNOWN where it was not asked for");
    bench.write(CR0, 8);
    assert!(bench.machine.violation().is_none());
    bench.machine.be_strict();
    bench.machine.poison_registers(UNKNOWN);
    for _ in 0..2 {
        bench.set_control(RESET, 1);
        assert!(bench.machine.violation().is_none());
        assert_ne!(bench.read(CMDQ_PROD), 0, "UNKNOWN (6.3.27)");
        bench.write(CR0, 8);
        assert!(bench.machine.violation().is_some(), "the queue was enabled before its registers were written");
    }
}

#[test]
fn it_is_busy_from_a_write_until_a_tick_finds_nothing() {
    let mut bench = Bench::enabled();
    while bench.step() {}
    assert_eq!(bench.control(BUSY), 0);
    bench.submit([0x46, 0]);
    assert_eq!(bench.control(BUSY), 1);
    while bench.step() {
        assert_eq!(bench.control(BUSY), 1);
    }
    assert_eq!(bench.control(BUSY), 0);
}

#[test]
fn aborted_event_write_loses_the_record_and_shuts_the_queue() {
    let mut bench = recording();
    bench.set_control(EVENT_WRITE, 2);
    bench.write_word(0, 0x5000);
    assert_eq!((bench.read(GERROR), pair(&bench, EVENT_WRITE)), (0, (1, 0)));
    bench.take_raised();
    bench.write_word(0, 0x6000);
    // EVENTQ_ABT_ERR (7.2.2, 7.5); PROD stays.
    assert_eq!((bench.read(GERROR), pair(&bench, EVENT_WRITE)), (1 << 2, (0, 1)));
    assert_eq!((bench.read(EVENTQ_PROD), smmu_interrupts(&mut bench)), (1, vec![Wire::GlobalError]));
    bench.write_word(0, 0x7000);
    assert_eq!(bench.read(EVENTQ_PROD), 1, "nothing is written while the error is active (7.2.1)");
    bench.write(GERRORN, 1 << 2);
    bench.write_word(0, 0x8000);
    let addresses: vec::Vec<u64> = bench.take_events().iter().map(|record| record[2]).collect();
    assert_eq!(addresses, [0x5000, 0x8000], "it happens once");
}

#[test]
fn stall_whose_record_write_aborts_waits_for_ever_until_it_is_terminated() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_R | CD_A);
    bench.set_control(EVENT_WRITE, 1);
    bench.write_word(0, 0x5000);
    bench.write(GERRORN, 1 << 2);
    bench.run();
    assert_eq!((bench.state(0), bench.read(EVENTQ_PROD)), (1, 0));
    // STE abort, CFGI_STE, CMD_STALL_TERM (4.7.2).
    bench.set_ste(0x100, 1, 0);
    bench.command([0x03 | 0x100 << 32, 1]);
    bench.command([0x45 | 0x100 << 32, 0]);
    assert_eq!(bench.state(0), 3);
}

#[test]
fn aborted_pri_write_is_answered_with_failure() {
    let mut bench = asking();
    bench.set_control(PAGE_REQUEST_WRITE, 1);
    bench.write_word(2, 0x5000);
    // PRIQ_ABT_ERR; PROD stays; an automatic response with failure (8.2).
    assert_eq!((bench.read(GERROR), bench.read(PRIQ_PROD)), (1 << 3, 0));
    assert_eq!(pair(&bench, PAGE_REQUEST_WRITE), (0, 1));
    assert_eq!(bench.engine(2, reg::PRI_STATUS) & pri_status::RESPONSE_FAILURE, pri_status::RESPONSE_FAILURE);
    assert_eq!(bench.state(2), 3);
}

#[test]
fn aborted_command_fetch_stops_the_queue_and_the_command_is_fetched_again() {
    let mut bench = Bench::enabled();
    bench.set_control(COMMAND_FETCH, 2);
    (0..3).for_each(|_| bench.submit(SYNC));
    bench.run();
    // CERROR_ABT at the second one (7.1).
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (2 << 24 | 1, 1));
    assert_eq!(pair(&bench, COMMAND_FETCH), (0, 1));
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS) & 0xff, 3);
}

#[test]
fn command_taken_as_illegal_has_no_effect() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_R | CD_A);
    bench.write_word(0, 0x5000);
    let stag = bench.take_event()[1] & 0xffff;
    bench.set_control(COMMAND_ILLEGAL, 1);
    // CMD_RESUME with abort (4.7.1).
    bench.resume(0x100, stag, 2);
    assert_eq!((bench.read(CMDQ_CONS), bench.state(0)), (1 << 24, 1));
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS) & 0xff, bench.state(0)), (1, 3));
}

#[test]
fn nth_atc_invalidation_times_out_at_the_next_sync() {
    let mut bench = asking();
    bench.set_control(ATC_INVALIDATION, 2);
    for command in [ATC_INV, SYNC, ATC_INV, ATC_INV, SYNC] {
        bench.submit(command);
    }
    bench.run();
    // CERROR_ATC_INV_SYNC at the second CMD_SYNC (4.5.1, 7.1).
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (3 << 24 | 4, 1));
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS) & 0xff, 5, "once it was told it is over (7.1)");
}

#[test]
fn aborted_fetches_are_recorded_with_their_address() {
    // F_STE_FETCH (7.3.4): STE 0x100 of 64 bytes.
    let cases = [
        (STE_FETCH, [0x100_0000_0003, 0, 0, STREAMS + 0x4000]),
        // F_CD_FETCH (7.3.10).
        (CD_FETCH, [0x100_0000_0009, 0, 0, CDS]),
        // F_WALK_EABT (7.3.12): CLASS = TT, RnW = 0, the first level.
        (TABLE_FETCH, [0x100_0000_000b, 0x100_0000_0000, 0x5008, TABLES]),
    ];
    for (point, record) in cases {
        let mut bench = recording();
        bench.map(0, 0x5000, DATA, PAGE_RW);
        bench.set_control(point, 1);
        bench.write_word(0, 0x5008);
        assert_eq!((bench.state(0), bench.take_event()), (3, record));
        assert_eq!(pair(&bench, point), (0, 1));
        bench.write_word(0, 0x5008);
        assert_eq!((bench.state(0), bench.take_events().len()), (2, 0), "it happens once");
    }
}

#[test]
fn every_level_of_a_walk_counts() {
    let mut bench = recording();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    let leaf = bench.leaf_at(0, 0x5000);
    bench.set_control(TABLE_FETCH, 3);
    bench.write_word(0, 0x5008);
    // Level 1, 2, 3; the third is the page's descriptor (7.3.12).
    assert_eq!(bench.take_event(), [0x100_0000_000b, 0x100_0000_0000, 0x5008, leaf]);
}

#[test]
fn aborted_messages_are_global_errors_of_their_source() {
    // GERROR_IRQ_CFG0, EVENTQ_IRQ_CFG0, PRIQ_IRQ_CFG0 (6.3.21, 6.3.33, 6.3.36).
    let messages = |sources| {
        let mut bench = Bench::reset();
        bench.initialise();
        for (number, offset) in [0x68, 0xb0, 0xd0].into_iter().enumerate() {
            bench.write64(offset, DATA + 8 * number as u64);
            bench.write(offset + 8, 7);
        }
        bench.write(IRQ_CTRL, 7);
        bench.enable(ALL_ON);
        bench.set_control(SOURCES, sources);
        bench.set_control(MESSAGE, 1);
        bench
    };
    let mut bench = messages(1);
    bench.command([0x1046, DATA + 0x18]);
    bench.write_word(0, 0x5000);
    // MSI_EVENTQ_ABT_ERR; the record is there, and the other messages are (7.5).
    assert_eq!((bench.read(GERROR), bench.read(EVENTQ_PROD), bench.peek(DATA + 8)), (1 << 5, 1, 0));
    assert_eq!(bench.peek(DATA), 7);
    // CMD_SYNC with message 9 (4.7.3): MSI_CMDQ_ABT_ERR.
    let mut bench = messages(4);
    bench.command([0x1046 | 9 << 32, DATA + 0x18]);
    assert_eq!((bench.read(GERROR), bench.read(CMDQ_CONS), bench.peek(DATA + 0x18)), (1 << 4, 1, 0));
    // Of a global error: MSI_GERROR_ABT_ERR, which has no interrupt (7.5.1).
    let mut bench = messages(8);
    bench.command([0xff, 0]);
    assert_eq!((bench.read(GERROR), bench.peek(DATA)), (1 | 1 << 7, 0));
    assert_eq!(smmu_interrupts(&mut bench), [Wire::GlobalError]);
    // Of the PRI queue: MSI_PRIQ_ABT_ERR.
    let mut bench = messages(2);
    bench.set_cd(0, CD_A | CD_R, 0);
    bench.set_ste(0x102, STE0_STAGE1 | CDS, STE1 | S1STALLD | EATS);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(2, reg::PRI_ALLOCATION, 64);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.write_word(2, 0x5000);
    assert_eq!((bench.read(GERROR), bench.read(PRIQ_PROD), bench.peek(DATA + 0x10)), (1 << 6, 1, 0));
}

#[test]
fn lost_interrupt_takes_its_message_along() {
    let mut bench = Bench::reset();
    bench.initialise();
    bench.write64(0xb0, DATA);
    bench.write(0xb8, 7);
    bench.write(IRQ_CTRL, 7);
    bench.enable(ALL_ON);
    bench.set_control(SOURCES, 1);
    bench.set_control(INTERRUPT_LOST, 2);
    // Not counted: another source.
    bench.command([0x1046, 0]);
    for (number, lost) in [false, true, false].into_iter().enumerate() {
        bench.poke(DATA, 0);
        bench.take_raised();
        bench.write_word(0, 0x5000);
        let expected = if lost { vec![] } else { vec![Wire::EventQueue] };
        assert_eq!(smmu_interrupts(&mut bench), expected, "{number}");
        assert_eq!(bench.peek(DATA), if lost { 0 } else { 7 });
        bench.take_events();
    }
    assert_eq!(pair(&bench, INTERRUPT_LOST), (0, 1));
}

#[test]
fn late_interrupt_comes_after_its_ticks() {
    let mut bench = Bench::enabled();
    bench.set_control(LATE_TICKS, 3);
    bench.set_control(INTERRUPT_LATE, 1);
    bench.submit([0x1046, 0]);
    bench.submit([0x1046, 0]);
    assert!(bench.step());
    assert_eq!(bench.read(CMDQ_CONS), 2);
    assert_eq!(bench.take_raised(), [Wire::CommandSync], "the second one");
    for _ in 0..2 {
        assert!(bench.step(), "it is still to come");
        assert_eq!(bench.take_raised(), []);
    }
    bench.step();
    assert_eq!(bench.take_raised(), [Wire::CommandSync]);
    assert!(!bench.step());
    assert_eq!(pair(&bench, INTERRUPT_LATE), (0, 1));
}

#[test]
fn late_interrupt_comes_before_irq_ctrl_is_acknowledged() {
    let mut bench = Bench::enabled();
    bench.set_control(LATE_TICKS, 1000);
    bench.set_control(INTERRUPT_LATE, 1);
    bench.set_control(SOURCES, 1);
    bench.set_engine64(0, reg::DESTINATION, 0x5000);
    bench.set_engine64(0, reg::LENGTH, 8);
    bench.set_engine(0, reg::CONTROL, 0x11);
    for _ in 0..3 {
        bench.step();
    }
    assert_eq!((bench.read(EVENTQ_PROD), bench.take_raised()), (1, vec![]));
    bench.write(IRQ_CTRL, 0);
    bench.step();
    assert_eq!(bench.read(IRQ_CTRLACK), 0);
    assert_eq!(bench.take_raised(), [Wire::EventQueue], "(6.3.16)");
}

#[test]
fn late_message_of_a_sync_comes_before_the_next_sync_is_complete() {
    // 4.7.3: SOURCES has CMD_SYNC alone; two messages to one word, then a CMD_SYNC without a signal.
    let mut bench = Bench::enabled();
    bench.set_control(SOURCES, 4);
    bench.set_control(LATE_TICKS, UNTIL_RELEASED);
    for (next, expected) in [([0x1046 | 2 << 32, DATA], 2), (SYNC, 1)] {
        bench.set_control(INTERRUPT_LATE, 1);
        bench.poke(DATA, 0);
        bench.command([0x1046 | 1 << 32, DATA]);
        assert_eq!(bench.peek(DATA), 0);
        bench.command(next);
        assert_eq!((bench.peek(DATA), bench.read(GERROR)), (expected, 0));
    }
    // One that aborts: MSI_CMDQ_ABT_ERR.
    bench.set_control(INTERRUPT_LATE, 1);
    bench.command([0x1046, END]);
    assert_eq!(bench.read(GERROR), 0);
    bench.command(SYNC);
    assert_eq!(bench.read(GERROR), 1 << 4);
}

#[test]
fn cr0_is_acknowledged_late() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.set_control(CR0_LATE, 3);
    for _ in 0..10 {
        bench.step();
    }
    assert_eq!(pair(&bench, CR0_LATE), (3, 0), "it begins with an update");
    bench.write(CR0, ALL_ON);
    for left in [2, 1, 0] {
        assert!(bench.step());
        assert_eq!((bench.read(CR0ACK), bench.control(CR0_LATE)), (0, left));
    }
    bench.step();
    assert_eq!((bench.read(CR0ACK), pair(&bench, CR0_LATE)), (ALL_ON, (0, 1)));
    bench.write(CR0, 0);
    bench.step();
    assert_eq!(bench.read(CR0ACK), 0, "once");
}

#[test]
fn acknowledgements_wait_until_they_are_released() {
    let mut bench = Bench::reset();
    bench.set_control(IRQ_CTRL_LATE, UNTIL_RELEASED);
    bench.set_control(GBPA_LATE, UNTIL_RELEASED);
    bench.write(IRQ_CTRL, 7);
    // ABORT and Update (6.3.14).
    bench.write(GBPA, 1 << 31 | 1 << 20);
    bench.write(CR0, 1);
    for _ in 0..100 {
        bench.step();
    }
    assert!(!bench.step(), "time alone changes nothing");
    assert_eq!((bench.read(IRQ_CTRLACK), bench.read(GBPA) >> 31, bench.read(CR0ACK)), (0, 1, 1), "each of its own");
    assert_eq!(pair(&bench, IRQ_CTRL_LATE), (UNTIL_RELEASED, 1));
    bench.set_control(IRQ_CTRL_LATE, 0);
    bench.step();
    assert_eq!((bench.read(IRQ_CTRLACK), bench.read(GBPA)), (7, 1 << 31 | 1 << 20));
    bench.set_control(GBPA_LATE, 0);
    bench.step();
    assert_eq!(bench.read(GBPA), 1 << 20);
}

#[test]
fn commands_are_held_for_ticks_or_until_released() {
    let mut bench = Bench::enabled();
    bench.set_control(COMMANDS_HELD, 2);
    bench.submit(SYNC);
    for left in [1, 0] {
        assert!(bench.step());
        assert_eq!((bench.read(CMDQ_CONS), bench.control(COMMANDS_HELD)), (0, left));
    }
    bench.step();
    assert_eq!((bench.read(CMDQ_CONS), pair(&bench, COMMANDS_HELD)), (1, (0, 1)));
    bench.set_control(COMMANDS_HELD, UNTIL_RELEASED);
    bench.command(SYNC);
    assert_eq!((bench.read(CMDQ_CONS), pair(&bench, COMMANDS_HELD)), (1, (UNTIL_RELEASED, 2)));
    bench.set_control(COMMANDS_HELD, 0);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 2);
}

/// PASSED is read when the hold is written.
#[test]
fn holds_let_updates_and_commands_pass() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.set_control(PASSED, 2);
    bench.set_control(CR0_LATE, UNTIL_RELEASED);
    bench.set_control(PASSED, 0);
    for (value, begun) in [(8, 0), (ALL_ON, 0), (0, 1)] {
        bench.write(CR0, value);
        bench.run();
        assert_eq!(pair(&bench, CR0_LATE), (UNTIL_RELEASED, begun), "{value}");
    }
    assert_eq!(bench.read(CR0ACK), ALL_ON);
    bench.set_control(CR0_LATE, 0);
    bench.run();
    assert_eq!(bench.read(CR0ACK), 0);

    let mut bench = Bench::enabled();
    bench.set_control(PASSED, 3);
    bench.set_control(ENGINES_HELD, 1);
    bench.set_control(COMMANDS_HELD, 5);
    assert_eq!((bench.control(ENGINES_HELD + 4), pair(&bench, COMMANDS_HELD)), (1, (5, 0)), "engines are held at once");
    bench.run();
    for number in 1..=3 {
        bench.command(SYNC);
        assert_eq!((bench.read(CMDQ_CONS), pair(&bench, COMMANDS_HELD)), (number, (5, 0)));
    }
    bench.submit(SYNC);
    bench.step();
    assert_eq!((bench.read(CMDQ_CONS), pair(&bench, COMMANDS_HELD)), (3, (4, 1)));
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), pair(&bench, COMMANDS_HELD)), (4, (0, 1)));
}

#[test]
fn held_engines_do_nothing_while_the_others_go_on() {
    let mut bench = recording();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.map(1, 0x5000, DATA + 0x1000, PAGE_RW);
    bench.set_control(ENGINES, 1);
    bench.set_control(ENGINES_HELD, 50);
    for engine in 0..2 {
        bench.set_engine64(engine, reg::DESTINATION, 0x5000);
        bench.set_engine64(engine, reg::LENGTH, 8);
        bench.set_engine(engine, reg::CONTROL, 0x11);
    }
    for _ in 0..50 {
        assert!(bench.step());
    }
    assert_eq!((bench.state(0), bench.state(1)), (1, 2));
    bench.run();
    assert_eq!((bench.state(0), pair(&bench, ENGINES_HELD)), (2, (0, 1)));
}

/// The streams of the records that `count` engines leave which fault in the same tick, each twice.
fn order(count: usize, seed: u32, reorder: u32) -> (vec::Vec<u64>, u32) {
    let mut bench = Bench::enabled_with(4);
    bench.set_control(REORDER, reorder);
    bench.set_control(SEED, seed);
    for engine in 0..count {
        bench.attach(0x100 + engine as u64, engine as u64, engine as u64, CD_R | CD_S);
        bench.set_engine64(engine, reg::DESTINATION, 0x5000);
        bench.set_engine64(engine, reg::LENGTH, 0x2000);
        bench.set_engine(engine, reg::DEPTH, 2);
        bench.set_engine(engine, reg::CONTROL, 0x11);
    }
    bench.run();
    let records = bench.take_events();
    for stream in 0x100..0x100 + count as u64 {
        let own: vec::Vec<u64> = records.iter().filter(|r| r[0] >> 32 == stream).map(|r| r[2]).collect();
        assert_eq!(own, [0x5000, 0x6000], "a stream's own records stay in order");
    }
    (records.iter().map(|record| record[0] >> 32).collect(), bench.control(REORDERED))
}

#[test]
fn records_of_one_tick_and_different_streams_change_places() {
    assert_eq!(order(2, 0, 0), (vec![0x100, 0x101, 0x100, 0x101], 0));
    assert_eq!(order(2, 0, 1), (vec![0x101, 0x100, 0x101, 0x100], 2));
    // Each time the youngest but one is last: the second stream's record goes before the first one's, and so does the
    // third one's.
    assert_eq!(order(3, 0, 1).0, [0x101, 0x102, 0x100, 0x101, 0x102, 0x100]);
    assert_eq!(order(1, 0, 1), (vec![0x100, 0x100], 0));
}

#[test]
fn seed_of_the_reordering_decides_and_repeats_itself() {
    // By xorshift, 1 goes to 0x42021, 0x4080601, 0x9dcca8c5: only the third may changes places.
    assert_eq!(order(4, 1, 1).0[..4], [0x100, 0x101, 0x103, 0x102]);
    assert_eq!(order(4, 1, 1), order(4, 1, 1));
}

#[test]
fn page_requests_of_different_streams_change_places() {
    let mut bench = asking();
    bench.set_cd(1, CD_A | CD_R, 1);
    bench.set_ste(0x103, STE0_STAGE1 | (CDS + 64), STE1 | S1STALLD | EATS);
    bench.set_control(REORDER, 1);
    for engine in 2..4 {
        bench.set_engine(engine, reg::ATS_CONTROL, ats_control::ENABLE);
        bench.set_engine(engine, reg::PRI_ALLOCATION, 64);
        bench.set_engine(engine, reg::PRI_CONTROL, pri_control::ENABLE);
        bench.set_engine64(engine, reg::DESTINATION, 0x5000);
        bench.set_engine64(engine, reg::LENGTH, 8);
        bench.set_engine(engine, reg::CONTROL, 0x11);
    }
    bench.run();
    // StreamID in the low half (8).
    let streams: vec::Vec<u64> = bench.take_page_requests().iter().map(|r| r[0] & 0xffff_ffff).collect();
    assert_eq!(streams, [0x103, 0x102]);
}

#[test]
fn service_failure_mode_is_entered_with_the_tick_that_was_asked_for() {
    let mut bench = recording();
    bench.set_control(FAIL, 2);
    bench.set_control(FAIL, 0);
    bench.run();
    bench.set_control(FAIL, 3);
    for left in [2, 1] {
        assert!(bench.step(), "there is something to come");
        assert_eq!((bench.read(GERROR), bench.control(FAIL)), (0, left));
    }
    bench.step();
    assert_eq!(bench.control(FAIL), 0);
    // SFM_ERR (12.3, 7.5).
    assert_eq!((bench.read(GERROR), bench.take_raised()), (1 << 8, vec![Wire::GlobalError]));
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 3);
}
