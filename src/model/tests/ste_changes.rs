//! When a change of an STE takes effect: 5.2.1.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};

/// Stage 1 alone; 0x5000 is mapped.
fn stage1() -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    direct
}

/// Stage 2 alone, recording; 0x5000 is mapped.
fn stage2() -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 | S2R);
    direct.map2(0x5000, DATA, S2_RW);
    direct
}

/// What a driver does after it changed the STE: CFGI_STE, SYNC.
fn changed(direct: &mut Direct) {
    direct.command([0x03 | STREAM << 32, 1]);
    direct.command([0x46, 0]);
}

#[test]
fn ste_that_could_not_be_read_is_read_again() {
    let mut direct = stage1();
    direct.refuse_reads(STREAMS..COMMANDS);
    assert_eq!(direct.fault(0x5000, READ)[0], 0x100_0000_0003);
    direct.refuse_reads(0..0);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
}

#[test]
fn bypass_and_back_needs_no_tlbi() {
    let mut direct = stage1();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.set_ste_word(0, 9);
    changed(&mut direct);
    assert_eq!(direct.reaches(0x5000, READ), 0x5000);
    direct.set_ste_word(0, STE0_STAGE1 | CDS);
    changed(&mut direct);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
}

#[test]
fn translations_of_another_streamworld_are_not_used() {
    let mut direct = stage1();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    // STRW 2, NS-EL2, whose translations of the changed table are its own.
    direct.set_ste_word(1, STE1 | 2 << 30);
    direct.map(0x5000, DATA + 0x1000, PAGE_RW);
    changed(&mut direct);
    assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000);
}

#[test]
fn fields_that_translations_do_not_hold_need_no_tlbi() {
    let mut direct = stage1();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    // PRIVCFG: unprivileged, for a page of privileged accesses that was translated before.
    direct.map(0x6000, DATA, PAGE_RW & !(1 << 6));
    assert_eq!(direct.reaches(0x6000, privileged(READ)), DATA);
    direct.set_ste_word(1, STE1 | 2 << 48);
    changed(&mut direct);
    assert_eq!(direct.fault(0x6000, privileged(READ))[0], 0x100_0000_0013);
    // EATS.
    assert_eq!(direct.request(0x5000, READ, None), Completion::UnsupportedRequest);
    direct.take_event();
    direct.set_ste_word(1, STE1 | EATS);
    changed(&mut direct);
    assert!(matches!(direct.request(0x5000, READ, None), Completion::Success { read: true, .. }));
    // S1STALLD, which makes a CD that stalls ILLEGAL: S2S and S2R likewise of stage 2.
    direct.set_cd(CD_S | CD_A, TABLES);
    changed(&mut direct);
    direct.stall(0x7000, READ);
    direct.take_event();
    direct.set_ste_word(1, STE1 | S1STALLD);
    changed(&mut direct);
    assert_eq!(direct.fault(0x7000, READ)[0], 0x100_0000_000a);
    let mut direct = stage2();
    for (flags, records) in [(S2R, 1), (0, 0), (S2R, 1)] {
        direct.set_ste_word(2, STE2 | flags);
        changed(&mut direct);
        assert_eq!(direct.access(0x6000, READ), Response::Abort);
        assert_eq!(direct.take_events().len(), records);
    }
}

#[test]
fn remaining_fields_that_translations_do_not_hold_need_no_tlbi() {
    // INSTCFG: 0b11 makes a read an instruction fetch, which UXN forbids.
    let mut direct = stage1();
    direct.map(0x6000, DATA, PAGE_RW | 1 << 54);
    assert_eq!(direct.reaches(0x6000, READ), DATA);
    direct.set_ste_word(1, STE1 | 3 << 50);
    changed(&mut direct);
    assert_eq!(direct.fault(0x6000, READ)[0], 0x100_0000_0013);
    // S1DSS, with S1CDMax = 1: CD 0, then bypass, then abort.
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | 2, 0);
    changed(&mut direct);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.set_ste_word(1, STE1 | 1);
    changed(&mut direct);
    assert_eq!(direct.reaches(0x5000, READ), 0x5000);
    direct.set_ste_word(1, STE1);
    changed(&mut direct);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0006, 0, 0, 0]);
    // S2S: a page that is not mapped is aborted, and then stalls.
    let mut direct = stage2();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    assert_eq!(direct.fault(0x6000, READ)[0], 0x100_0000_0010);
    direct.set_ste_word(2, STE2 | S2S);
    changed(&mut direct);
    direct.stall(0x6000, READ);
    direct.take_event();
    // MEV, with merging switched on: two records, then one.
    let mut direct = stage1();
    direct.write(0xe00, 1 << 2);
    for (word1, records) in [(STE1, 2), (STE1 | 1 << 19, 1), (STE1, 2)] {
        direct.set_ste_word(1, word1);
        changed(&mut direct);
        direct.access(0x7000, READ);
        direct.access(0x7000, READ);
        assert_eq!(direct.take_events().len(), records);
    }
    // PPAR: whether the answer to a Last that finds the PRI queue full has its PASID (8.1).
    let mut direct = stage1();
    for group in 0..ENTRIES {
        assert_eq!(direct.page_request(STREAM, Some(1), READ, true, group.into()), None);
    }
    for (word1, pasid) in [(STE1 | PPAR, true), (STE1, false), (STE1 | PPAR, true)] {
        direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, word1, 0);
        changed(&mut direct);
        let answer = direct.page_request(STREAM, Some(1), READ, true, 0x20).unwrap();
        assert_eq!(answer.substream.is_some(), pasid);
    }
}

#[test]
fn cfgi_ste_reaches_the_cds_behind_the_ste() {
    let mut direct = stage1();
    let cd = direct.peek(CDS);
    direct.poke(CDS, 0);
    assert_eq!(direct.fault(0x5000, READ)[0], 0x100_0000_000a);
    direct.poke(CDS, cd);
    changed(&mut direct);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
}
