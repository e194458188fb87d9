//! When records are written, wait or are lost: 7.2, 7.4.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::profile::Profile;
use crate::model::smmu::diagnostics::{self, control};
use crate::model::smmu::{Issued, Polled, Slot};
use crate::smmuv3::PhysAddr;

const CONTROL: u64 = diagnostics::CONTROL as u64;
const OVFLG: u32 = 1 << 31;
/// SMMUEN and EVENTQEN of CR0.
const SMMUEN: u32 = 1;
const EVENTQEN: u32 = 4;
/// EVENTQ_ABT_ERR of GERROR.
const EVENTQ_ABT_ERR: u32 = 1 << 2;
/// CD.HA.
const HA: u64 = 1 << 43;
/// The Access flag of a leaf.
const AF: u64 = 1 << 10;

/// Stage 1 alone, nothing mapped, with these fault flags.
fn stage1(flags: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, flags);
    direct
}

/// Writes CR0 and lets it take effect.
fn enable(direct: &mut Direct, cr0: u32) {
    direct.write(CR0, cr0);
    direct.step();
    assert_eq!(direct.read(CR0ACK), cr0);
}

/// Puts the event queue elsewhere, which is possible only while it is disabled.
fn move_queue(direct: &mut Direct, base: u64) {
    enable(direct, ALL_ON & !EVENTQEN);
    direct.write64(EVENTQ_BASE, base | 4);
    enable(direct, ALL_ON);
}

/// `count` reads of pages from 0x10_0000 on end in translation faults that do not stall.
fn record(direct: &mut Direct, count: u32) {
    for page in 0..count {
        direct.set_cd(CD_R | CD_A, TABLES);
        direct.invalidate();
        assert_eq!(direct.access(0x10_0000 + u64::from(page) * 0x1000, READ), Response::Abort);
    }
}

/// An access that stalls without a record.
fn wait(direct: &mut Direct, address: u64) -> Slot {
    match direct.issue(address, WRITE, None) {
        Issued::Stalled { slot, recorded: false } => slot,
        other => panic!("{other:?}"),
    }
}

/// A full event queue, and an access to 0x5000 that stalls behind it.
fn waiting() -> (Direct, Slot) {
    let mut direct = stage1(CD_R | CD_A);
    record(&mut direct, ENTRIES);
    direct.set_cd(CD_S | CD_A, TABLES);
    direct.invalidate();
    let slot = wait(&mut direct, 0x5000);
    assert_eq!(direct.read(EVENTQ_PROD), ENTRIES);
    (direct, slot)
}

#[test]
fn errors_are_told_when_a_transaction_meets_them_and_not_before() {
    // 7.2: an ILLEGAL STE, and a CD that is not valid, are there from the start; commands that name them tell nothing.
    let mut direct = Direct::enabled(ALL_ON, 0);
    for (word0, record) in [(0xd, 0x04), (STE0_STAGE1 | CDS, 0x0a)] {
        direct.set_ste(word0, STE1, 0);
        direct.command([0x03 | STREAM << 32, 1]);
        direct.command([0x05 | STREAM << 32, 1]);
        direct.command([0x46, 0]);
        assert_eq!(direct.take_events().len(), 0);
        assert_eq!(direct.fault(0x5000, READ), [STREAM << 32 | record, 0, 0, 0]);
    }
    // STRTAB_BASE without memory behind it, which is used as soon as SMMUEN is 1.
    direct.enable(ALL_ON & !1);
    direct.write64(STRTAB_BASE, END);
    direct.enable(ALL_ON);
    direct.invalidate();
    assert_eq!(direct.take_events().len(), 0);
    assert_eq!(direct.fault(0x5000, READ), [STREAM << 32 | 0x03, 0, 0, END + 0x4000]);
}

#[test]
fn prefetches_of_what_is_in_error_leave_no_record() {
    // CMD_PREFETCH_CONFIG and CMD_PREFETCH_ADDR: a stream without an STE, a bad CD, no translation.
    let mut direct = Direct::enabled(ALL_ON, 0);
    for (word0, cd) in [(0, 0), (STE0_STAGE1 | CDS, 0), (STE0_STAGE1 | CDS, CD0 | CD_R | CD_A)] {
        direct.set_ste(word0, STE1, 0);
        direct.poke(CDS + 8, TABLES);
        direct.poke(CDS, cd);
        direct.invalidate();
        direct.command([0x01 | STREAM << 32, 0]);
        direct.command([0x02 | STREAM << 32, 0x5000]);
        assert_eq!((direct.read(EVENTQ_PROD), direct.read(GERROR)), (0, 0), "{word0:x} {cd:x}");
    }
}

#[test]
fn nothing_is_prefetched_or_recorded_without_a_transaction() {
    // The model does neither on its own (7.2), without CACHE_SEED. A prefetch of 0x6000 would set its Access flag.
    let mut direct = stage1(CD_R | CD_A | HA);
    direct.map(0x5000, DATA, PAGE_RW & !AF);
    direct.map(0x6000, DATA, PAGE_RW & !AF);
    direct.reaches(0x5000, READ);
    direct.command([0x46, 0]);
    assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RW);
    assert_eq!(direct.peek(TABLES + 0x2030), DATA | PAGE_RW & !AF);
    assert_eq!(direct.read(EVENTQ_PROD), 0);
}

#[test]
fn transaction_leaves_one_record_each_time_that_it_is_tried() {
    // A bad STE and, behind it, all else that could be told.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.issue(0x5000, WRITE, Some(9));
    assert_eq!(direct.take_events(), [[STREAM << 32 | 0x9804, 0, 0, 0]]);
    // A stall that is tried again at the wish of software is recorded again, once.
    direct.stage1(0, CD_S | CD_A);
    direct.invalidate();
    let slot = direct.stall(0x5000, WRITE);
    let stag = direct.take_event()[1] & 0xffff;
    direct.command([0x44 | 1 << 12 | STREAM << 32, stag]);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: true });
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false });
    assert_eq!(direct.take_events().len(), 1);
}

#[test]
fn full_queue_in_error_loses_records_without_an_overflow() {
    let mut direct = stage1(CD_R | CD_A);
    move_queue(&mut direct, END);
    record(&mut direct, 1);
    assert_eq!((direct.read(GERROR), direct.read(EVENTQ_PROD)), (EVENTQ_ABT_ERR, 0));
    // Software makes it full; the error stays active.
    enable(&mut direct, ALL_ON & !EVENTQEN);
    direct.write64(EVENTQ_BASE, EVENTS | 4);
    direct.write(EVENTQ_PROD, ENTRIES);
    enable(&mut direct, ALL_ON);
    direct.poke(EVENTS, 0);
    record(&mut direct, 1);
    assert_eq!((direct.read(EVENTQ_PROD), direct.peek(EVENTS)), (ENTRIES, 0));
}

#[test]
fn stall_waits_for_the_acknowledgement_of_an_aborted_write() {
    let mut direct = stage1(CD_R | CD_A);
    move_queue(&mut direct, END);
    record(&mut direct, 1);
    move_queue(&mut direct, EVENTS);
    assert_eq!(direct.read(GERROR), EVENTQ_ABT_ERR);
    // The queue can be written now, and is not: a record without a stall is lost (7.2).
    direct.poke(EVENTS, 0);
    record(&mut direct, 1);
    assert_eq!((direct.read(EVENTQ_PROD), direct.peek(EVENTS)), (0, 0));
    direct.set_cd(CD_S | CD_A, TABLES);
    direct.invalidate();
    let slot = wait(&mut direct, 0x5000);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false });
    assert_eq!(direct.read(EVENTQ_PROD), 0);
    direct.write(GERRORN, EVENTQ_ABT_ERR);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: true });
    let [first, second, address, _] = direct.take_event();
    assert_eq!((first, second & !0xffff, address), (0x100_0000_0010, 0x200_8000_0000, 0x5000));
}

#[test]
fn waiting_stall_that_faults_otherwise_after_an_invalidation_tells_the_new_fault() {
    let (mut direct, slot) = waiting();
    direct.map(0x5000, DATA, PAGE_RO);
    direct.invalidate();
    assert_eq!(direct.take_events().len(), 16);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: true });
    // F_PERMISSION, where it was F_TRANSLATION.
    assert_eq!(direct.take_event()[0], 0x100_0000_0013);
}

#[test]
fn waiting_stall_that_an_invalidation_made_succeed_is_never_told() {
    let (mut direct, slot) = waiting();
    direct.map(0x5000, DATA, PAGE_RW);
    direct.invalidate();
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false }, "not before the queue can be written");
    assert_eq!(direct.take_events().len(), 16);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Physical(PhysAddr(DATA))));
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn waiting_stall_of_a_stream_that_may_stall_no_more_is_terminated_with_its_record() {
    let (mut direct, slot) = waiting();
    direct.set_cd(CD_R | CD_A, TABLES);
    direct.invalidate();
    assert_eq!(direct.take_events().len(), 16);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Abort));
    assert_eq!(direct.take_event(), [0x100_0000_0010, 0x200_0000_0000, 0x5000, 0]);
}

#[test]
fn retry_into_a_full_queue_loses_the_record_of_a_terminating_fault() {
    let mut direct = stage1(CD_S | CD_A);
    let slot = direct.stall(0x5000, WRITE);
    let stag = direct.take_event()[1] & 0xffff;
    record(&mut direct, ENTRIES);
    assert_eq!(direct.read(EVENTQ_PROD), ENTRIES + 1);
    direct.command([0x44 | 1 << 12 | STREAM << 32, stag]);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Abort));
    assert_eq!(direct.read(EVENTQ_PROD), OVFLG | (ENTRIES + 1));
    assert!(direct.take_events().iter().all(|record| record[2] != 0x5000));
}

#[test]
fn each_of_several_waiting_stalls_gets_its_record_as_there_is_room() {
    let (mut direct, first) = waiting();
    let slots = [first, wait(&mut direct, 0x6000), wait(&mut direct, 0x7000)];
    let poll = |direct: &mut Direct| slots.map(|slot| direct.poll(slot));
    let told = |recorded| Polled::Stalled { recorded };
    // Room for two.
    direct.write(EVENTQ_CONS, 2);
    assert_eq!(poll(&mut direct), [told(true), told(true), told(false)]);
    assert_eq!(direct.read(EVENTQ_PROD), ENTRIES + 2, "and no overflow");
    direct.write(EVENTQ_CONS, ENTRIES);
    assert_eq!(poll(&mut direct), [told(false), told(false), told(true)]);
    let records = direct.take_events();
    assert_eq!(records.iter().map(|record| record[2]).collect::<Vec<_>>(), [0x5000, 0x6000, 0x7000]);
}

#[test]
fn disabling_the_smmu_ends_waiting_stalls_and_their_records() {
    let (mut direct, slot) = waiting();
    enable(&mut direct, ALL_ON & !SMMUEN);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Abort));
    assert_eq!(direct.take_events().len(), 16);
    enable(&mut direct, ALL_ON);
    assert_eq!((direct.read(EVENTQ_PROD), direct.take_events().len()), (ENTRIES, 0));
}

#[test]
fn early_retry_that_succeeds_before_there_is_a_record_leaves_none() {
    // The second of two duplicates has no record of its own (3.12.2.1).
    let mut direct = stage1(CD_S | CD_A);
    direct.write(CONTROL, control::SUPPRESS_DUPLICATES | control::EARLY_RETRY);
    direct.stall(0x5000, WRITE);
    let second = wait(&mut direct, 0x5008);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.poll(second), Polled::Ended(Response::Physical(PhysAddr(DATA + 8))));
    assert_eq!(direct.take_event()[2], 0x5000);
}

#[test]
fn what_was_recorded_before_the_queue_is_off_can_be_seen_then() {
    let mut direct = stage1(CD_R | CD_A);
    // The update has not taken effect: the fault is still recorded.
    direct.write(CR0, ALL_ON & !EVENTQEN);
    direct.access(0x5000, READ);
    direct.step();
    assert_eq!((direct.read(CR0ACK), direct.read(EVENTQ_PROD)), (ALL_ON & !EVENTQEN, 1));
    assert_eq!(direct.peek(EVENTS), 0x100_0000_0010);
    // Now it has: what is lost is lost for good.
    direct.access(0x6000, READ);
    enable(&mut direct, ALL_ON);
    assert_eq!(direct.read(EVENTQ_PROD), 1);
}

#[test]
fn abort_of_a_record_can_be_seen_when_the_queue_is_off() {
    let mut direct = stage1(CD_R | CD_A);
    move_queue(&mut direct, END);
    direct.write(CR0, ALL_ON & !EVENTQEN);
    direct.access(0x5000, READ);
    direct.step();
    assert_eq!((direct.read(CR0ACK), direct.read(GERROR)), (ALL_ON & !EVENTQEN, EVENTQ_ABT_ERR));
}

#[test]
fn aborted_entry_hides_nothing_before_it_and_shows_nothing_behind_it() {
    // A queue of 2^19 records over all memory, at the last two of which it stands; the next is beyond memory.
    let mut bench = Bench::of(Profile::Big);
    bench.set_up();
    bench.write64(EVENTQ_BASE, 0x4000_0000 | 19);
    bench.write(EVENTQ_PROD, 0x1_fffe);
    bench.write(EVENTQ_CONS, 0x1_fffe);
    bench.enable(ALL_ON);
    for _ in 0..4 {
        bench.write_word(0, 0x5000);
    }
    assert_eq!((bench.read(GERROR), bench.read(EVENTQ_PROD)), (EVENTQ_ABT_ERR, 0x2_0000));
    assert_eq!([END - 64, END - 32].map(|at| bench.peek(at)), [0x100_0000_0004; 2]);
}

#[test]
fn records_go_on_at_the_entry_that_aborted() {
    let mut direct = stage1(CD_R | CD_A);
    record(&mut direct, 3);
    move_queue(&mut direct, END);
    // The second is lost by the error; there is room, and so no overflow (7.2.1).
    record(&mut direct, 2);
    assert_eq!((direct.read(GERROR), direct.read(EVENTQ_PROD)), (EVENTQ_ABT_ERR, 3));
    move_queue(&mut direct, EVENTS);
    direct.write(GERRORN, EVENTQ_ABT_ERR);
    direct.access(0x5000, READ);
    assert_eq!((direct.read(GERROR), direct.read(EVENTQ_PROD)), (EVENTQ_ABT_ERR, 4));
    assert_eq!(direct.peek(EVENTS + 3 * 32 + 16), 0x5000);
}

#[test]
fn disabling_the_smmu_ends_a_stall_whose_record_was_lost() {
    let mut direct = stage1(CD_S | CD_A);
    move_queue(&mut direct, END);
    let Issued::Stalled { slot, recorded: false } = direct.issue(0x5000, WRITE, None) else { panic!() };
    assert_eq!((direct.read(GERROR), direct.poll(slot)), (EVENTQ_ABT_ERR, Polled::Stalled { recorded: false }));
    enable(&mut direct, ALL_ON & !SMMUEN);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Abort));
}

#[test]
fn overflow_is_seen_only_after_the_index_of_the_full_queue() {
    let mut direct = stage1(CD_R | CD_A);
    for prod in 1..=ENTRIES {
        record(&mut direct, 1);
        assert_eq!(direct.read(EVENTQ_PROD), prod);
    }
    record(&mut direct, 1);
    assert_eq!(direct.read(EVENTQ_PROD), OVFLG | ENTRIES);
}

#[test]
fn full_queue_loses_errors_and_terminated_faults_alike() {
    let mut direct = stage1(CD_R | CD_A);
    record(&mut direct, ENTRIES);
    // C_BAD_SUBSTREAMID, F_TRANSLATION, F_WALK_EABT, C_BAD_CD, C_BAD_STE.
    direct.issue(0x5000, READ, Some(1));
    direct.access(0x5000, READ);
    direct.poke(TABLES, END | 3);
    direct.invalidate();
    direct.access(0x5000, READ);
    direct.poke(CDS, 0);
    direct.invalidate();
    direct.access(0x5000, READ);
    direct.set_ste(0, 0, 0);
    direct.invalidate();
    direct.access(0x5000, READ);
    assert_eq!(direct.read(diagnostics::EVENTS_LOST as u64), 5);
    let records = direct.take_events();
    assert_eq!(records.len(), 16);
    assert!(records.iter().all(|record| record[2] >= 0x10_0000));
}

#[test]
fn full_queue_that_is_off_does_not_overflow() {
    let mut direct = stage1(CD_R | CD_A);
    record(&mut direct, ENTRIES);
    enable(&mut direct, ALL_ON & !EVENTQEN);
    record(&mut direct, 2);
    assert_eq!(direct.read(EVENTQ_PROD), ENTRIES);
    enable(&mut direct, ALL_ON);
    assert_eq!(direct.read(EVENTQ_PROD), ENTRIES);
}

#[test]
fn queue_is_written_and_not_read() {
    // To read it is permitted (7.2.2); the model does not.
    let mut direct = stage1(CD_R | CD_A);
    direct.refuse_reads(EVENTS..EVENTS + 0x200);
    record(&mut direct, 3);
    assert_eq!((direct.read(EVENTQ_PROD), direct.refused()), (3, 0));
}
