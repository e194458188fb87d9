//! What faults do: 5.5, 3.12.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::smmu::{Issued, Polled};
use crate::smmuv3::PhysAddr;

/// Stall of word 1 of a record.
const STALL: u64 = 1 << 31;

#[test]
fn each_stage_decides_what_is_recorded_of_its_faults() {
    for (record1, record2) in [(0, 0), (0, S2R), (CD_R, 0), (CD_R, S2R)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.nest(0, record2, CD_A | record1);
        assert_eq!(direct.access(0x5000, READ), Response::Abort);
        assert_eq!(direct.take_events().len(), usize::from(record1 != 0));
        direct.map(0x6000, 0x9000, PAGE_RW);
        assert_eq!(direct.access(0x6000, READ), Response::Abort);
        assert_eq!(direct.take_events().len(), usize::from(record2 != 0));
    }
}

#[test]
fn fault_that_neither_aborts_nor_is_recorded_ends_unnoticed() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, 0);
    assert_eq!([READ, WRITE].map(|access| direct.access(0x5000, access)), [Response::Ignored; 2]);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn fault_of_stage2_aborts_whatever_the_cd_wants() {
    // CD.A is 0; the page, the table, and the CD itself.
    for ipa in [IPA_OF_PAGE, IPA_OF_TABLE, IPA_OF_CD] {
        let mut direct = Direct::nested_in_pages(0, CD_R);
        direct.change2(ipa, |_| 0);
        assert_eq!(direct.access(0x5008, READ), Response::Abort);
        assert_eq!(direct.take_events().len(), 1);
    }
}

#[test]
fn fault_of_stage2_stalls_whatever_it_was_for() {
    // S2R is ignored with S2S.
    for ipa in [IPA_OF_PAGE, IPA_OF_TABLE, IPA_OF_CD] {
        let mut direct = Direct::nested_in_pages(S2S, CD_A);
        direct.set_ste_word(2, STE2 & !(7 << 48) | 2 << 48 | S2S);
        direct.change2(ipa, |leaf| leaf & !1);
        let slot = direct.stall(0x5008, READ);
        let record = direct.take_event();
        assert_eq!((record[1] & STALL, record[3]), (STALL, ipa));
        direct.change2(ipa, |leaf| leaf | 1);
        direct.command([0x44 | 1 << 12 | STREAM << 32, record[1] & 0xffff]);
        assert_eq!(direct.poll(slot), Polled::Ended(Response::Physical(PhysAddr(DATA + 8))));
    }
}

#[test]
fn faults_of_translation_requests_are_told_to_the_device_alone() {
    for flags in [0, CD_A, CD_R, CD_R | CD_A, CD_S | CD_R | CD_A] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(EATS, flags);
        let Completion::Success { read: false, write: false, .. } = direct.request(0x5000, WRITE, None) else {
            panic!("{flags:x}")
        };
        assert_eq!(direct.take_events().len(), 0);
    }
}

#[test]
fn stall_holds_one_transaction_of_its_stream_alone() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_S | CD_A);
    direct.map(0x6000, DATA, PAGE_RW);
    let slot = direct.stall(0x5000, WRITE);
    assert_eq!(direct.reaches(0x6000, WRITE), DATA);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false });
}

#[test]
fn transactions_stall_until_there_is_no_room_and_wait_then() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_S | CD_A);
    // IDR5.STALL_MAX is 64.
    let mut slots = std::vec::Vec::new();
    for page in 0..64 {
        slots.push(direct.stall(0x5000 + page * 0x1000, WRITE));
        direct.take_event();
    }
    assert_eq!(direct.issue(0x10_0000, WRITE, None), Issued::NoRoom);
    direct.command([0x45 | STREAM << 32, 0]);
    assert_eq!(direct.poll(slots[63]), Polled::Ended(Response::Abort));
    direct.stall(0x10_0000, WRITE);
}
