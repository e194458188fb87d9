//! Which of several errors is told, and which accesses leave no records but their own: 7.3.22.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use super::record_rules::{AF, BEYOND_S2PS, CD, CHECKED, RNW, SPLIT, nested, response, stage1};
use crate::model::endpoint::{Completion, Response};
use crate::model::profile::Profile;
use crate::smmuv3::features::IdRegisters;

#[test]
fn stream_beyond_the_table_reads_nothing() {
    let mut direct = Direct::off(0);
    direct.write(STRTAB_BASE_CFG, 8);
    direct.write(CR0, ALL_ON);
    direct.step();
    direct.refuse_reads(0..END);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0002, 0, 0, 0]);
    direct.issue(0x5008, READ, Some(3));
    assert_eq!(direct.take_event(), [0x100_0000_3802, 0, 0, 0]);
    assert_eq!(direct.refused(), 0);
    // In range, F_STE_FETCH comes before what the STE is.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.refuse_reads(STREAMS..CDS);
    assert_eq!(direct.fault(0x5008, READ)[0], 0x100_0000_0003);
}

#[test]
fn errors_of_the_stream_come_in_their_order() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // All is wrong: the STE, the SubstreamID, none of them, the CD.
    direct.refuse_reads(CDS..TABLES);
    let stage1 = STE0_STAGE1 | CDS | 2 << 59;
    for (word0, word1, substream, record) in [
        // S1CDMax 9 is ILLEGAL.
        (STE0_STAGE1 | CDS | 9 << 59, 0, Some(0x200), 0x100_0020_0804),
        (STE0_STAGE1 | CDS | 9 << 59, 0, None, 0x100_0000_0004),
        (stage1, 0, Some(4), 0x100_0000_4008),
        (stage1, 0, None, 0x100_0000_0006),
        (stage1, 2, Some(0), 0x100_0000_0006),
    ] {
        direct.set_ste(word0, STE1 | word1, 0);
        direct.invalidate();
        assert_eq!(response(&mut direct, substream), Response::Abort);
        assert_eq!(direct.take_event(), [record, 0, 0, 0], "{word0:x} {substream:?}");
    }
    // CDs were not looked at so far.
    assert_eq!(direct.refused(), 0);
}

#[test]
fn errors_of_the_cd_come_in_their_order() {
    // Stage 2 does not map it, it cannot be read, it is not valid.
    let mut direct = nested();
    direct.poke(CDS + 0x40, 0);
    direct.refuse_reads(CDS..TABLES);
    direct.map2(0xa000, CDS, 0);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0010, RNW | S2 | CD, 0x5008, 0xa000]);
    direct.map2(0xa000, CDS, S2_RW);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0009, 0, 0, CDS + 0x40]);
    direct.refuse_reads(0..0);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000a, 0, 0, 0]);
}

#[test]
fn faults_of_one_stage_come_in_their_order() {
    // IPS is 32 bits. The level 2 table is read-only for what is behind it.
    let mut direct = stage1(0, 0);
    direct.poke(CDS, CD0 & !(7 << 32) | CD_R | CD_A);
    direct.map(0x5000, 0, 0);
    direct.poke(TABLES, (TABLES + 0x1000) | 3 | 1 << 62);
    direct.refuse_reads(TABLES..DATA);
    // Out of range: nothing is read.
    assert_eq!(direct.fault(1 << 39, WRITE), [0x100_0000_0010, IN, 1 << 39, 0]);
    assert_eq!(direct.refused(), 0);
    // Each level: the abort, the descriptor, its output.
    let leaf = TABLES + 0x2028;
    let readable = |direct: &Direct| direct.refuse_reads(0..0);
    let descriptors = [(1 << 32, 0x10), (1 << 32 | 3, 0x11)];
    for level in [TABLES + 0x1000, leaf] {
        direct.refuse_reads(level..level + 8);
        assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_000b, TT, 0x5008, level]);
        readable(&direct);
        for (word, number) in descriptors {
            direct.poke(level, word);
            assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_0000 | number, IN, 0x5008, 0]);
        }
        direct.poke(level, (TABLES + 0x2000) | 3);
    }
    // The leaf, which no flag is set in now: its Access flag, then its permissions.
    assert_eq!(direct.fault(0x5008, WRITE)[0], 0x100_0000_0012);
    direct.poke(leaf, DATA | PAGE_RW);
    assert_eq!(direct.fault(0x5008, WRITE)[0], 0x100_0000_0013);
}

#[test]
fn stage1_range_comes_before_stage2() {
    let mut direct = nested();
    direct.refuse_reads(leaf2(0xb000)..leaf2(0xb000) + 8);
    direct.poke(CDS + 0x40, CD0 | CD_R | CD_A);
    assert_eq!(direct.fault(1 << 39, READ), [0x100_0000_0010, RNW | IN, 1 << 39, 0]);
    assert_eq!(direct.refused(), 0);
}

/// Goes through the faults of the stage 2 translation of `ipa`, each with all that come after it.
fn faults_of_stage2(direct: &mut Direct, ipa: u64, class: u64) {
    let leaf = leaf2(ipa);
    let good = direct.peek(leaf);
    direct.refuse_reads(leaf..leaf + 8);
    assert_eq!(direct.fault(0x5008, READ)[..2], [0x100_0000_000b, RNW | S2 | class]);
    direct.refuse_reads(0..0);
    // Not valid; beyond S2PS; without Access flag; without permission.
    for (word, number) in
        [(BEYOND_S2PS, 0x10), (BEYOND_S2PS | 3, 0x11), (good & !AF & !(3 << 6), 0x12), (good & !(3 << 6), 0x13)]
    {
        direct.poke(leaf, word);
        assert_eq!(direct.fault(0x5008, READ)[0], 0x100_0000_0000 | number);
    }
    direct.poke(leaf, good);
    direct.invalidate();
}

#[test]
fn stage2_faults_of_a_stage1_table_come_before_its_own() {
    let mut direct = nested();
    direct.poke(CDS + 0x40, CD0 | CD_R | CD_A);
    // The table of the leaf is at an IPA that there is not, and S2T0SZ gives 39 bits.
    direct.poke(TABLES + 0x1000, 1 << 39 | 3);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0010, RNW | S2 | TT, 0x5008, 1 << 39]);
    direct.poke(TABLES + 0x1000, 0xb000 | 3);
    direct.invalidate();
    // Its own faults, an abort and an invalid leaf, come after all of these.
    direct.poke(TABLES + 0x2028, 0);
    faults_of_stage2(&mut direct, 0xb000, TT);
    let leaf = TABLES + 0x2028;
    direct.refuse_reads(leaf..leaf + 8);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000b, RNW | TT, 0x5008, leaf]);
    direct.refuse_reads(0..0);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0010, RNW | IN, 0x5008, 0]);
}

#[test]
fn stage1_leaf_comes_before_stage2_faults_of_where_it_leads() {
    let mut direct = nested();
    direct.poke(CDS + 0x40, CD0 | CD_R | CD_A);
    // F_ACCESS and F_PERMISSION of stage 1, with an IPA that there is not.
    let leaf = TABLES + 0x2028;
    direct.poke(leaf, 1 << 39 | PAGE_RO & !AF);
    assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_0012, IN, 0x5008, 0]);
    direct.poke(leaf, 1 << 39 | PAGE_RO);
    assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_0013, IN, 0x5008, 0]);
    direct.poke(leaf, 1 << 39 | PAGE_RW);
    direct.invalidate();
    assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_0010, S2 | IN, 0x5008, 1 << 39]);
    direct.poke(leaf, 0x9000 | PAGE_RW);
    direct.invalidate();
    faults_of_stage2(&mut direct, 0x9000, IN);
}

#[test]
fn translation_requests_where_ats_is_off_are_unsupported_and_recorded() {
    // With a PASID: SSV and SubstreamID (7.3.6).
    let mut direct = stage1(0, 0);
    assert_eq!(direct.request(0x5678, READ, Some(1)), Completion::UnsupportedRequest);
    assert_eq!(direct.take_event(), [0x100_0000_1805, 0, 0x5000, 0]);
    for (cr0, word0, word1) in [
        // EATS = 0; bypass; split-stage ATS without ATSCHK; SMMUEN = 0.
        (ALL_ON, STE0_STAGE1 | CDS, 0),
        (ALL_ON, 9, EATS),
        (ALL_ON, 0xf | CDS, SPLIT),
        (ALL_ON & !1, STE0_STAGE1 | CDS, EATS),
    ] {
        let mut direct = Direct::enabled(cr0, 0);
        direct.set_ste(word0, STE1 | word1, STE2);
        direct.set_cd(CD_R | CD_A, TABLES);
        assert_eq!(direct.request(0x5678, READ, None), Completion::UnsupportedRequest);
        assert_eq!(direct.take_event(), [0x100_0000_0005, 0, 0x5000, 0], "{word0:x} {word1:x}");
    }
}

#[test]
fn translation_requests_of_a_stream_that_aborts_are_unsupported_without_a_record() {
    for config in 0..4 {
        for eats in [0, EATS] {
            let mut direct = Direct::enabled(ALL_ON, 0);
            direct.set_ste(1 | config << 1, STE1 | eats, 0);
            assert_eq!(direct.request(0x5678, READ, None), Completion::UnsupportedRequest);
            assert_eq!(direct.take_events().len(), 0, "{config} {eats:x}");
        }
    }
}

#[test]
fn translation_requests_that_err_or_fault_leave_no_record() {
    let stage1 = STE0_STAGE1 | CDS;
    let valid = CD0 | CD_R | CD_A;
    for (log2, word0, cd, leaf, completion) in [
        // C_BAD_STREAMID, of a table of 256 STEs; C_BAD_STE; C_BAD_CD.
        (8, stage1, valid, 0, Completion::CompleterAbort),
        (9, 0, 0, 0, Completion::CompleterAbort),
        (9, stage1, 0, 0, Completion::CompleterAbort),
        // F_TRANSLATION; F_PERMISSION, of a page of the kernel's.
        (9, stage1, valid, 0, NOTHING),
        (9, stage1, valid, DATA | PAGE_RW & !(1 << 6), NOTHING),
    ] {
        let mut direct = Direct::off(0);
        direct.write(STRTAB_BASE_CFG, log2);
        direct.enable(ALL_ON);
        direct.set_ste(word0, STE1 | EATS, 0);
        direct.poke(CDS + 8, TABLES);
        direct.poke(CDS, cd);
        direct.poke(direct.leaf_at(0x5000), leaf);
        assert_eq!(direct.request(0x5678, READ, None), completion, "{log2} {word0:x} {cd:x}");
        assert_eq!(direct.take_events().len(), 0, "{log2} {word0:x} {cd:x}");
    }
}

#[test]
fn translated_accesses_are_forbidden_or_fault_in_split_stage_or_end_in_silence() {
    let split = (0xf | CDS, STE1 | SPLIT, STE2 | S2R);
    for (address, (word0, word1, word2), expected) in [
        // No ATS; no valid STE; abort.
        (0x5000, (STE0_STAGE1 | CDS, STE1, 0), Some([0x100_0000_0007, RNW, 0x5000, 0])),
        (0x5000, (0, STE1, 0), None),
        (0x5000, (1, STE1 | EATS, 0), None),
        // No IPA: F_ADDR_SIZE, as at stage 1 (3.9.1.3).
        (1 << 48, split, Some([0x100_0000_0011, IN | RNW, 1 << 48, 0])),
        // A CD that is not valid means nothing; stage 2 does not map the address, recorded or not.
        (0x5000, split, Some([0x100_0000_0010, S2 | IN | RNW, 0x5000, 0x5000])),
        (0x5000, (split.0, split.1, STE2), None),
    ] {
        let mut direct = Direct::enabled(CHECKED, 0);
        direct.set_ste(word0, word1, word2);
        assert_eq!(direct.translated(address, READ), Response::Abort);
        assert_eq!(direct.take_events(), Vec::from_iter(expected));
    }
}

#[test]
fn errors_of_translated_accesses_are_told_in_their_order() {
    // All that is wrong at once, then without the first, and so on (3.9.1.3).
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.nest(SPLIT, S2R, CD_A);
    let ste = [0, 1].map(|word| direct.peek(STREAMS + STREAM * 64 + word * 8));
    let beyond = 1 << 48;
    let mut records = |word0, word1, address| {
        direct.set_ste_word(1, word1);
        direct.set_ste_word(0, word0);
        direct.invalidate();
        assert_eq!(direct.translated(address, WRITE), Response::Abort);
        direct.take_events()
    };
    // C_BAD_STE (of stage 1 alone, STRW = 1), which is not recorded, before F_TRANSL_FORBIDDEN (EATS = 0).
    assert_eq!(records(STE0_STAGE1 | CDS, STE1 | 1 << 30, beyond), Vec::<[u64; 4]>::new());
    // F_TRANSL_FORBIDDEN before F_ADDR_SIZE, that before stage 2, of which F_TRANSLATION.
    assert_eq!(records(ste[0], STE1, beyond), [[0x100_0000_0007, 0, beyond, 0]]);
    assert_eq!(records(ste[0], ste[1], beyond), [[0x100_0000_0011, IN, beyond, 0]]);
    assert_eq!(records(ste[0], ste[1], 0x6000), [[0x100_0000_0010, S2 | IN, 0x6000, 0x6000]]);
}

#[test]
fn configuration_errors_of_translated_accesses_are_told_in_their_order() {
    // IDR0.ATSRECERR beside what the full profile has, and CR2.REC_CFG_ATS: these errors leave records too (6.3.12).
    let full = Profile::Full.id_registers();
    let mut direct = Direct::with_ids(IdRegisters { idr0: full.idr0 | 1 << 23, ..full });
    direct.enable(0);
    direct.write(CR2, 2 | 1 << 3);
    direct.enable(CHECKED);
    let mut records = |base, log2, word0| {
        direct.set_ste(word0, STE1, 0);
        direct.enable(ALL_ON & !1);
        direct.write64(STRTAB_BASE, base);
        direct.write(STRTAB_BASE_CFG, log2);
        direct.enable(CHECKED);
        direct.invalidate();
        // Beyond OAS, which would be the last error.
        assert_eq!(direct.translated(1 << 48, WRITE), Response::Abort);
        direct.take_events()
    };
    // No memory at the table, which has no such stream: C_BAD_STREAMID, before F_STE_FETCH.
    assert_eq!(records(END, 8, 0), [[0x100_0000_0002, 0, 0, 0]]);
    assert_eq!(records(END, 9, 0), [[0x100_0000_0003, 0, 0, END + 0x4000]]);
    // V = 0: C_BAD_STE; then bypass, which has no ATS: F_TRANSL_FORBIDDEN.
    assert_eq!(records(STREAMS, 9, 0x8), [[0x100_0000_0004, 0, 0, 0]]);
    assert_eq!(records(STREAMS, 9, 0x9), [[0x100_0000_0007, 0, 1 << 48, 0]]);
}
