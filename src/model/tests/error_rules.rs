//! Errors of the command queue, and global errors: 7.1, 7.5.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::engine::registers as reg;
use crate::model::smmu::Polled;
use crate::model::wire::Wire;

const SYNC: [u64; 2] = [0x46, 0];
/// An opcode that there is not.
const ILLEGAL: [u64; 2] = [0xff, 0];

const GERROR_IRQ_CFG0: u64 = 0x68;
const EVENTQ_IRQ_CFG0: u64 = 0xb0;

// Bits of GERROR (6.3.19).
const CMDQ_ERR: u32 = 1 << 0;
const EVENTQ_ABT_ERR: u32 = 1 << 2;
const MSI_CMDQ_ABT_ERR: u32 = 1 << 4;
const MSI_EVENTQ_ABT_ERR: u32 = 1 << 5;
const MSI_GERROR_ABT_ERR: u32 = 1 << 7;

/// The interrupts of global errors.
fn errors_told(bench: &mut Bench) -> usize {
    bench.take_raised().into_iter().filter(|wire| *wire == Wire::GlobalError).count()
}

fn are_illegal(commands: &[[u64; 2]]) {
    for &command in commands {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.command(command);
        assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (1 << 24, CMDQ_ERR), "{command:x?}");
    }
}

#[test]
fn secure_commands_are_illegal_on_this_queue() {
    // CMD_TLBI_S_EL2_ALL, _ASID, _VA and _VAA, CMD_TLBI_S_S12_VMALL, CMD_TLBI_S_S2_IPA, CMD_TLBI_SNH_ALL (4.1.1).
    are_illegal(&[0x50, 0x51, 0x52, 0x53, 0x58, 0x5a, 0x60].map(|opcode| [opcode, 0]));
}

#[test]
fn known_commands_with_reserved_values_are_illegal() {
    // CS of CMD_SYNC, Resp of CMD_PRI_RESP.
    are_illegal(&[[0x3046, 0], [0x41, 3 << 12]]);
}

#[test]
fn known_commands_with_reserved_bits_are_illegal() {
    // 4.1.5 permits to look at them: CMD_CFGI_STE, CMD_STALL_TERM, CMD_TLBI_NSNH_ALL.
    are_illegal(&[[0x03, 2], [0x45 | 1 << 12, 0], [0x30, 1]]);
}

#[test]
fn commands_behind_an_error_do_nothing_before_the_acknowledgement() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_S | CD_A);
    let slot = direct.stall(0x5000, WRITE);
    let stag = direct.take_event()[1] & 0xffff;
    direct.command(ILLEGAL);
    direct.command([0x44 | 2 << 12 | STREAM << 32, stag]);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false });
    direct.poke(COMMANDS, SYNC[0]);
    direct.step();
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false });
    direct.write(GERRORN, CMDQ_ERR);
    direct.step();
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Abort));
}

#[test]
fn command_whose_read_was_aborted_is_read_again() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.refuse_reads(COMMANDS..COMMANDS + 16);
    direct.command(SYNC);
    assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (2 << 24, CMDQ_ERR), "CERROR_ABT");
    direct.refuse_reads(0..0);
    direct.step();
    assert_eq!(direct.read(CMDQ_CONS), 2 << 24);
    direct.write(GERRORN, CMDQ_ERR);
    direct.step();
    assert_eq!((direct.read(CMDQ_CONS) & 0xf_ffff, direct.read(GERROR)), (1, CMDQ_ERR));
}

#[test]
fn active_error_of_the_command_queue_has_a_reason() {
    // CERROR_ILL, CERROR_ABT, CERROR_ATC_INV_SYNC: never CERROR_NONE.
    let mut bench = Bench::enabled();
    bench.command(ILLEGAL);
    assert_eq!((bench.read(GERROR), bench.read(CMDQ_CONS) >> 24), (CMDQ_ERR, 1));
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(CMDQ_BASE, END | 4);
    bench.enable(ALL_ON);
    bench.write(CMDQ_PROD, 1);
    bench.run();
    assert_eq!((bench.read(GERROR), bench.read(CMDQ_CONS) >> 24), (CMDQ_ERR, 2));
    let mut bench = Bench::enabled();
    bench.set_engine(2, reg::ATS_CONTROL, reg::ats_control::ENABLE | reg::ats_control::INVALIDATIONS_TIME_OUT);
    bench.submit([0x40 | 0x102 << 32, 52]);
    bench.command(SYNC);
    assert_eq!((bench.read(GERROR), bench.read(CMDQ_CONS) >> 24), (CMDQ_ERR, 3));
    // It has one as soon as it is active: at its interrupt, and before its message (7.1).
    for (message, at) in [(0, None), (DATA, Some(DATA))] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.write64(GERROR_IRQ_CFG0, message);
        direct.write(IRQ_CTRL, 1);
        direct.step();
        direct.moment(at, |direct| direct.command(ILLEGAL));
        assert_eq!((direct.read(GERROR), direct.read(CMDQ_CONS) >> 24), (CMDQ_ERR, 1));
    }
}

/// A machine with three active errors: an illegal command, the message of a CMD_SYNC, and the event queue.
fn three_errors() -> Bench {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(EVENTQ_BASE, END | 4);
    bench.enable(ALL_ON);
    bench.take_raised();
    bench.command([0x1046, END]);
    bench.command(ILLEGAL);
    bench.write_word(0, 0x5000);
    bench
}

#[test]
fn errors_are_active_and_acknowledged_apart_from_each_other() {
    let mut bench = three_errors();
    assert_eq!(bench.read(GERROR), CMDQ_ERR | EVENTQ_ABT_ERR | MSI_CMDQ_ABT_ERR);
    // Of the event queue alone: commands are still not consumed, and the other bits are as they were.
    bench.write(GERRORN, EVENTQ_ABT_ERR);
    bench.poke(COMMANDS + 16, SYNC[0]);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 1 << 24 | 1);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.read(GERROR), CMDQ_ERR | MSI_CMDQ_ABT_ERR, "the event queue's, toggled back");
    bench.write(GERRORN, EVENTQ_ABT_ERR | CMDQ_ERR);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS) & 0xf_ffff, 2);
}

#[test]
fn each_error_raises_its_own_interrupt() {
    assert_eq!(errors_told(&mut three_errors()), 3);
}

#[test]
fn error_from_before_the_interrupt_was_enabled_is_not_told_later() {
    let mut bench = Bench::enabled();
    bench.write(IRQ_CTRL, 6);
    bench.run();
    bench.command(ILLEGAL);
    bench.write(IRQ_CTRL, 7);
    bench.run();
    assert_eq!((bench.read(GERROR), errors_told(&mut bench)), (CMDQ_ERR, 0));
}

#[test]
fn error_without_an_address_for_its_message_raises_the_wire() {
    let mut bench = Bench::reset();
    bench.write(GERROR_IRQ_CFG0 + 8, 7);
    bench.set_up();
    bench.enable(ALL_ON);
    bench.take_raised();
    bench.command(ILLEGAL);
    assert_eq!((bench.read(GERROR), errors_told(&mut bench)), (CMDQ_ERR, 1), "no message, so none is aborted");
}

#[test]
fn error_of_an_error_message_raises_no_interrupt() {
    let mut bench = Bench::reset();
    bench.initialise();
    bench.write64(GERROR_IRQ_CFG0, END);
    bench.write(IRQ_CTRL, 7);
    bench.enable(ALL_ON);
    bench.take_raised();
    bench.command(ILLEGAL);
    assert_eq!((bench.read(GERROR), errors_told(&mut bench)), (CMDQ_ERR | MSI_GERROR_ABT_ERR, 1));
    // Nor when that is active already, and others become active.
    bench.write_word(0, 0x5000);
    assert_eq!((bench.read(GERROR), errors_told(&mut bench)), (CMDQ_ERR | MSI_GERROR_ABT_ERR, 0));
}

#[test]
fn abort_of_a_message_can_be_seen_when_its_interrupt_is_off() {
    let mut direct = Direct::off(0);
    direct.write64(EVENTQ_IRQ_CFG0, END);
    direct.write(IRQ_CTRL, 4);
    direct.write(CR0, ALL_ON);
    direct.step();
    // The update has not taken effect: the record still sends its message.
    direct.write(IRQ_CTRL, 0);
    direct.access(0x5000, WRITE);
    direct.step();
    assert_eq!((direct.read(IRQ_CTRLACK), direct.read(GERROR)), (0, MSI_EVENTQ_ABT_ERR));
}
