//! Stalled transactions: records, tags, retries, suppressed duplicates: 3.12.2, 7.2.1.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::smmu::diagnostics::{self as diag, control};
use crate::model::smmu::{Issued, Polled, Slot};
use crate::smmuv3::{Access, PhysAddr};

const STALLED: u64 = diag::STALLED as u64;
const NOTHING_RESUMED: u64 = diag::RESUMED_NOTHING as u64;

#[test]
fn stalls_are_recorded_although_r_is_0() {
    let mut direct = Direct::stalling(0);
    direct.stall(0x5000, WRITE);
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | IN, 0x5000, 0]);
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 | S2S);
    direct.stall(0x5000, WRITE);
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | S2 | IN, 0x5000, 0x5000]);
}

#[test]
fn retry_under_a_cd_that_terminates_ends_as_it_says() {
    for (flags, response, records) in
        [(CD_R | CD_A, Response::Abort, 1), (CD_A, Response::Abort, 0), (CD_R, Response::Ignored, 1)]
    {
        let mut direct = Direct::stalling(0);
        let (slot, stag) = direct.tagged(0x5008);
        direct.stage1(0, flags);
        direct.invalidate();
        direct.resume(stag, RETRY);
        assert_eq!(direct.poll(slot), Polled::Ended(response));
        let taken = direct.take_events();
        assert_eq!(taken.len(), records);
        assert!(taken.iter().all(|record| *record == [0x100_0000_0010, IN, 0x5008, 0]), "Stall = 0 (3.12.2)");
    }
}

#[test]
fn retry_under_an_ste_that_aborts_aborts_in_silence() {
    let mut direct = Direct::stalling(0);
    let (slot, stag) = direct.tagged(0x5008);
    direct.abort_stream();
    direct.resume(stag, RETRY);
    assert_eq!((direct.poll(slot), direct.take_events().len()), (ABORTED, 0));
}

#[test]
fn retry_goes_by_the_ste_and_the_tables_of_its_time() {
    let mut direct = Direct::stalling(0);
    let (slot, stag) = direct.tagged(0x5008);
    // Another CD, with tables of its own at 0x4014_0000, and a page in the old ones too.
    direct.map(0x5000, DATA, PAGE_RW);
    let tables = 0x4014_0000;
    direct.poke(tables, (tables + 0x1000) | 3);
    direct.poke(tables + 0x1000, (tables + 0x2000) | 3);
    direct.poke(tables + 0x2028, (DATA + 0x3000) | PAGE_RW);
    direct.poke(CDS + 0x48, tables);
    direct.poke(CDS + 0x40, CD0 | CD_S | CD_A);
    direct.set_ste(STE0_STAGE1 | (CDS + 0x40), STE1, 0);
    direct.invalidate();
    assert_eq!(direct.poll(slot), WAITS, "invalidations release nothing (4.3.8)");
    direct.resume(stag, RETRY);
    assert_eq!(direct.poll(slot), through(DATA + 0x3008));
}

#[test]
fn answer_to_one_of_two_stalls_leaves_the_other() {
    for answer in [RETRY, ABORT] {
        let mut direct = Direct::stalling(0);
        let (first, stag) = direct.tagged(0x5000);
        let (second, _) = direct.tagged(0x6000);
        direct.map(0x5000, DATA, PAGE_RW);
        direct.map(0x6000, DATA + 0x1000, PAGE_RW);
        direct.resume(stag, answer);
        assert_eq!(direct.poll(second), WAITS);
        assert_eq!(direct.poll(first), if answer == RETRY { through(DATA) } else { ABORTED });
        assert_eq!(direct.poll(second), WAITS);
    }
}

#[test]
fn stag_of_an_unanswered_stall_occurs_in_no_other_record() {
    let mut direct = Direct::stalling(0);
    let (first, stag) = direct.tagged(0x5000);
    for turn in 0..5000 {
        let (slot, other) = direct.tagged(0x6000);
        assert_ne!(other, stag, "after {turn}");
        direct.resume(other, ABORT);
        assert_eq!(direct.poll(slot), ABORTED);
    }
    assert_eq!(direct.poll(first), WAITS);
    direct.resume(stag, ABORT);
    assert_eq!(direct.poll(first), ABORTED);
}

#[test]
fn stag_of_a_stall_that_went_on_early_occurs_in_no_other_record_before_its_answer() {
    let mut direct = Direct::stalling(control::EARLY_RETRY);
    let (slot, stag) = direct.tagged(0x5008);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.poll(slot), through(DATA + 8));
    for turn in 0..5000 {
        let (slot, other) = direct.tagged(0x6000);
        assert_ne!(other, stag, "after {turn}");
        direct.resume(other, ABORT);
        assert_eq!(direct.poll(slot), ABORTED);
    }
    direct.resume(stag, RETRY);
    assert_eq!((direct.read(NOTHING_RESUMED), direct.read(STALLED)), (0, 0));
}

#[test]
fn stall_waits_for_the_acknowledgement_of_an_abort_of_the_queue() {
    let mut direct = Direct::stalling(0);
    // A write to where no memory is: EVENTQ_ABT_ERR. Then the queue moves to memory.
    direct.enable(ALL_ON & !4);
    direct.write64(EVENTQ_BASE, END | 4);
    direct.enable(ALL_ON);
    assert!(matches!(direct.issue_from(STREAM + 1, 0x5000, WRITE), Issued::Ended(Response::Abort)));
    assert_eq!(direct.read(GERROR), 1 << 2);
    direct.enable(ALL_ON & !4);
    direct.write64(EVENTQ_BASE, EVENTS | 4);
    direct.enable(ALL_ON);
    let slot = direct.stall_unseen(0x5008, WRITE);
    assert_eq!(direct.poll(slot), WAITS);
    direct.write(GERRORN, 1 << 2);
    assert_eq!(direct.poll(slot), RECORDED);
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | IN, 0x5008, 0]);
}

#[test]
fn stall_that_waited_is_recorded_with_the_fault_that_it_meets_then() {
    let (mut direct, slot) = Direct::waiting();
    direct.map(0x5000, DATA, PAGE_RO);
    direct.enable(ALL_ON);
    assert_eq!(direct.poll(slot), RECORDED);
    // F_PERMISSION in place of F_TRANSLATION.
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0013, STALL | IN, 0x5008, 0]);
}

#[test]
fn stall_that_waited_ends_under_a_configuration_that_terminates() {
    let (mut direct, slot) = Direct::waiting();
    direct.stage1(0, CD_R | CD_A);
    direct.invalidate();
    direct.enable(ALL_ON);
    assert_eq!(direct.poll(slot), ABORTED);
    assert_eq!(direct.take_event(), [0x100_0000_0010, IN, 0x5008, 0]);
}

#[test]
fn stall_that_waits_is_aborted_with_the_smmu_and_never_recorded() {
    let (mut direct, slot) = Direct::waiting();
    direct.enable(ALL_ON & !5);
    direct.enable(ALL_ON & !1);
    assert_eq!(direct.poll(slot), ABORTED);
    direct.enable(ALL_ON);
    assert_eq!((direct.take_events().len(), direct.read(STALLED)), (0, 0));
}

#[test]
fn stall_holds_up_nothing_else_of_its_stream() {
    // CD 1 for SubstreamID 1, CD 0 without one (S1CDMax 1, S1DSS 2).
    let mut direct = Direct::stalling(0);
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | 2, 0);
    direct.poke(CDS + 0x48, TABLES);
    direct.poke(CDS + 0x40, CD0 | CD_S | CD_A);
    direct.map(0x6000, DATA, PAGE_RW);
    let end = Issued::Ended(Response::Physical(PhysAddr(DATA)));
    let (slot, _) = direct.tagged(0x5000);
    assert_eq!(direct.issue(0x6000, WRITE, None), end, "a later one of the same stream");
    assert_eq!(direct.issue(0x6000, WRITE, Some(1)), end);
    let (tagged, _) = stalls(direct.issue(0x7000, WRITE, Some(1)));
    assert_eq!(direct.issue(0x6000, WRITE, None), end);
    assert_eq!((direct.poll(slot), direct.poll(tagged)), (WAITS, WAITS));
}

#[test]
fn stalls_on_one_page_have_a_record_each_unless_switched() {
    let mut direct = Direct::stalling(0);
    direct.stall(0x5000, WRITE);
    direct.stall(0x5000, WRITE);
    let records = direct.take_events();
    assert_eq!(untagged(records[0]), untagged(records[1]));
    assert_ne!(stag(records[0]), stag(records[1]));
}

#[test]
fn suppression_tells_page_privilege_kind_and_direction_apart() {
    for (first, second, address) in [
        (WRITE, WRITE, 0x6000),
        (READ, privileged(READ), 0x5000),
        (READ, FETCH, 0x5000),
        (READ, Access { execute: true, ..READ }, 0x5000),
        (READ, WRITE, 0x5000),
        (WRITE, READ, 0x5000),
    ] {
        let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
        direct.stall(0x5000, first);
        direct.stall(address, second);
        assert_eq!(direct.take_events().len(), 2, "{first:?} {second:?}");
    }
}

#[test]
fn suppression_tells_streams_and_answered_stalls_apart() {
    let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
    direct.set_ste(STE0_STAGE1 | CDS | 2 << 59, STE1 | 2, 0);
    for cd in [CDS + 0x40, CDS + 0x80] {
        direct.poke(cd + 8, TABLES);
        direct.poke(cd, CD0 | CD_S | CD_A);
    }
    let other = STREAMS + (STREAM + 1) * 64;
    direct.poke(other + 8, STE1);
    direct.poke(other, STE0_STAGE1 | CDS);
    let (slot, tag) = direct.tagged(0x5000);
    assert!(stalls(direct.issue(0x5000, WRITE, Some(1))).1, "with a SubstreamID");
    assert!(stalls(direct.issue(0x5000, WRITE, Some(2))).1, "another SubstreamID");
    assert!(stalls(direct.issue_from(STREAM + 1, 0x5000, WRITE)).1, "another StreamID");
    assert_eq!(direct.take_events().len(), 3);
    direct.resume(tag, ABORT);
    direct.stall(0x5000, WRITE);
    assert_eq!(direct.poll(slot), ABORTED);
}

#[test]
fn retry_of_the_first_lets_the_suppressed_ones_through() {
    let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
    let (first, stag) = direct.tagged(0x5000);
    let others: Vec<Slot> = (1..5).map(|word| direct.stall_unseen(0x5000 + word * 8, WRITE)).collect();
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.poll(others[0]), WAITS);
    direct.resume(stag, RETRY);
    assert_eq!(direct.poll(first), through(DATA));
    for (slot, word) in others.into_iter().zip(1..) {
        assert_eq!(direct.poll(slot), through(DATA + word * 8));
    }
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn termination_of_the_first_lets_the_suppressed_ones_try_again() {
    let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
    let (first, stag) = direct.tagged(0x5000);
    let others: Vec<Slot> = (1..4).map(|word| direct.stall_unseen(0x5000 + word * 8, WRITE)).collect();
    direct.resume(stag, ABORT);
    assert_eq!(direct.poll(first), ABORTED);
    // Each tries again: the first that does is recorded, and has the others suppressed.
    assert_eq!([0, 1, 2].map(|other| direct.poll(others[other])), [RECORDED, WAITS, WAITS]);
    assert_eq!(direct.take_events().len(), 1);
    assert_eq!(direct.read(diag::STALLS_SUPPRESSED as u64), 5);
}

#[test]
fn suppressed_stalls_end_with_their_stream_and_with_the_smmu() {
    let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
    let (first, _) = direct.tagged(0x5000);
    let second = direct.stall_unseen(0x5008, WRITE);
    direct.abort_stream();
    direct.stall_term();
    assert_eq!((direct.poll(first), direct.poll(second)), (ABORTED, ABORTED));
    let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
    let (first, _) = direct.tagged(0x5000);
    let second = direct.stall_unseen(0x5008, WRITE);
    direct.enable(ALL_ON & !1);
    assert_eq!((direct.poll(first), direct.poll(second)), (ABORTED, ABORTED));
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn early_retry_uses_nothing_that_was_invalidated() {
    let mut direct = Direct::stalling(control::EARLY_RETRY);
    direct.map(0x5000, DATA, PAGE_RO);
    let (slot, _) = direct.tagged(0x5008);
    assert_eq!(direct.poll(slot), WAITS);
    direct.map(0x5000, DATA + 0x1000, PAGE_RW);
    direct.invalidate();
    assert_eq!(direct.poll(slot), through(DATA + 0x1008));
    // The CD leads to other tables: a block of 1 GiB.
    let mut direct = Direct::stalling(control::EARLY_RETRY);
    let (slot, _) = direct.tagged(0x5008);
    direct.poke(TABLES + 0x3000, 0x4000_0000 | PAGE_RW & !2);
    direct.set_cd(CD_S | CD_A, TABLES + 0x3000);
    direct.invalidate();
    assert_eq!(direct.poll(slot), through(0x4000_5008));
}

#[test]
fn early_retry_that_faults_leaves_the_stall_as_it_is() {
    let mut direct = Direct::stalling(control::EARLY_RETRY);
    let (slot, stag) = direct.tagged(0x5008);
    // Another fault than the one that was recorded.
    direct.map(0x5000, DATA, PAGE_RO);
    assert_eq!((direct.poll(slot), direct.poll(slot)), (WAITS, WAITS));
    assert_eq!(direct.take_events().len(), 0);
    direct.resume(stag, RAZ_WI);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Ignored));
}

#[test]
fn early_retry_of_a_recorded_stall_terminates_in_silence() {
    let mut direct = Direct::stalling(control::EARLY_RETRY);
    let (slot, stag) = direct.tagged(0x5008);
    direct.stage1(0, CD_R | CD_A);
    direct.invalidate();
    assert_eq!(direct.poll(slot), ABORTED);
    assert_eq!((direct.take_events().len(), direct.read(STALLED)), (0, 1), "and the record wants its answer");
    direct.resume(stag, RETRY);
    assert_eq!((direct.read(NOTHING_RESUMED), direct.read(STALLED)), (0, 0));
}

#[test]
fn early_retry_of_a_suppressed_stall_that_terminates_is_recorded() {
    // No record stands for the second access alone, so the one of its termination is its first (3.12.1, 3.12.2.1).
    let mut direct = Direct::stalling(control::EARLY_RETRY | control::SUPPRESS_DUPLICATES);
    direct.tagged(0x5000);
    let second = direct.stall_unseen(0x5008, WRITE);
    direct.stage1(0, CD_R | CD_A);
    direct.invalidate();
    assert_eq!(direct.poll(second), ABORTED);
    assert_eq!(direct.take_event(), [0x100_0000_0010, IN, 0x5008, 0]);
}

#[test]
fn stall_for_an_unrelated_reason_is_recorded_beside_older_ones() {
    let mut direct = Direct::stalling(control::SUPPRESS_DUPLICATES);
    direct.stall(0x5000, WRITE);
    direct.stall_unseen(0x5000, WRITE);
    // F_PERMISSION beside F_TRANSLATION.
    direct.map(0x5000, DATA, PAGE_RO);
    direct.stall(0x5000, WRITE);
    direct.stall_unseen(0x5000, WRITE);
    let records: Vec<_> = direct.take_events().into_iter().map(|record| (record[0], record[1] & !0xffff)).collect();
    assert_eq!(records, [(0x100_0000_0010, STALL | IN), (0x100_0000_0013, STALL | IN)]);
}

#[test]
fn stalls_at_stage_2_are_told_apart_by_class_and_page_and_from_those_at_stage_1() {
    let mut direct = Direct::nested_in_pages(S2S, CD_S | CD_A);
    direct.write(diag::CONTROL as u64, control::SUPPRESS_DUPLICATES);
    // The stage 1 table is not mapped; then it is, and the page is not; then another page; then nothing at stage 1; then the
    // page at the IPA of the first, which is not mapped again, where the table lies elsewhere.
    direct.map2(IPA_OF_TABLE, 0, 0);
    direct.stall(0x5000, WRITE);
    direct.map2(IPA_OF_TABLE, TABLES + 0x2000, S2_RW);
    direct.map2(IPA_OF_PAGE, 0, 0);
    direct.stall(0x5000, WRITE);
    direct.stall_unseen(0x5000, WRITE);
    let leaf = TABLES + 0x2000 + 5 * 8;
    direct.poke(leaf, 0xc000 | PAGE_RW);
    direct.stall(0x5000, WRITE);
    direct.poke(leaf, 0);
    direct.stall(0x5000, WRITE);
    direct.poke(TABLES + 0x1000, (TABLES + 0x2000) | 3);
    direct.poke(leaf, IPA_OF_TABLE | PAGE_RW);
    direct.map2(IPA_OF_TABLE, 0, 0);
    direct.invalidate();
    direct.stall(0x5000, WRITE);
    let records: Vec<_> = direct.take_events().into_iter().map(|record| (record[1] & !0xffff, record[3])).collect();
    let expected = [
        (STALL | S2 | TT, IPA_OF_TABLE),
        (STALL | S2 | IN, IPA_OF_PAGE),
        (STALL | S2 | IN, 0xc000),
        (STALL | IN, 0),
        (STALL | S2 | IN, IPA_OF_TABLE),
    ];
    assert_eq!(records, expected);
}
