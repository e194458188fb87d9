//! Stage 2, alone and under stage 1: 3.4, 3.12, 3.13, 5.2, 5.5, 7.3.12 to 7.3.16, 7.3.22.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::smmu::{Issued, Polled};
use crate::smmuv3::PhysAddr;

// Word 1 of a record (7.3.13): RnW, S2, CLASS, TTRnW.
const RNW: u64 = 1 << 35;
const S2: u64 = 1 << 39;
const TT: u64 = 1 << 40;
const IN: u64 = 2 << 40;
const TTRNW: u64 = 1 << 44;

/// Stage 2 alone, recording.
fn stage2(word2: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 | word2);
    direct
}

/// Both stages, recording.
fn nested(word2: u64, cd: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.nest(0, S2R | word2, CD_R | CD_A | cd);
    direct
}

#[test]
fn stage2_translates_pages_and_blocks() {
    let mut direct = stage2(S2R);
    direct.map2(0x5000, DATA, S2_RW);
    assert_eq!(direct.reaches(0x5678, WRITE), DATA + 0x678);
    assert_eq!(direct.reaches(0x7fff_fff0, READ), 0x7fff_fff0);
}

#[test]
fn stage2_translation_fault_tells_the_ipa() {
    let mut direct = stage2(S2R);
    assert_eq!(direct.fault(0x6008, WRITE), [0x100_0000_0010, S2 | IN, 0x6008, 0x6000]);
    assert_eq!(direct.fault(0x6008, READ), [0x100_0000_0010, S2 | IN | RNW, 0x6008, 0x6000]);
    // Beyond S2T0SZ, and not taken for IPA 0.
    direct.map2(0, DATA, S2_RW);
    assert_eq!(direct.fault(0x80_0000_0000, WRITE), [0x100_0000_0010, S2 | IN, 0x80_0000_0000, 0x80_0000_0000]);
}

#[test]
fn stage2_output_beyond_s2ps_is_an_address_size_fault() {
    // S2PS is 32 bits.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, (STE2 | S2R) & !(7 << 48));
    direct.map2(0x7000, 0x1_0000_0000, S2_RW);
    direct.invalidate();
    assert_eq!(direct.fault(0x7000, WRITE), [0x100_0000_0011, S2 | IN, 0x7000, 0x7000]);
    // From a table, too.
    direct.poke(STAGE2 + 0x1000 + 8, 0x1_0000_0003);
    assert_eq!(direct.fault(0x20_0000, WRITE), [0x100_0000_0011, S2 | IN, 0x20_0000, 0x20_0000]);
}

#[test]
fn stage2_access_flag_comes_before_permission() {
    let mut direct = stage2(S2R);
    // S2AP = 0b01: reads alone.
    direct.map2(0x8000, DATA, S2_RW & !(1 << 10) & !(2 << 6));
    assert_eq!(direct.fault(0x8000, WRITE), [0x100_0000_0012, S2 | IN, 0x8000, 0x8000]);
    direct.map2(0x8000, DATA, S2_RW & !(2 << 6));
    direct.invalidate();
    assert_eq!(direct.fault(0x8000, WRITE), [0x100_0000_0013, S2 | IN, 0x8000, 0x8000]);
    assert_eq!(direct.reaches(0x8000, READ), DATA);
}

#[test]
fn stage2_fault_is_silent_without_s2r() {
    let mut direct = stage2(0);
    assert_eq!(direct.access(0x6000, WRITE), Response::Abort);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn stage2_access_flag_fault_can_be_disabled() {
    let mut direct = stage2(S2R | 1 << 53);
    direct.map2(0x5000, DATA, S2_RW & !(1 << 10));
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
}

#[test]
fn address_beyond_the_ipas_is_a_stage1_fault_that_never_stalls() {
    // S2S, and no S2R (3.4, 3.12).
    let mut direct = stage2(S2S);
    assert_eq!(direct.fault(1 << 48, WRITE), [0x100_0000_0011, IN, 1 << 48, 0]);
}

#[test]
fn stage2_table_that_cannot_be_read_is_f_walk_eabt_of_stage_2() {
    let mut direct = stage2(S2S);
    direct.poke(STAGE2 + 0x1000, END | 3);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_000b, S2 | IN | RNW, 0x5000, END + 0x28]);
}

#[test]
fn execute_never_at_stage2_goes_by_privilege() {
    let mut direct = stage2(S2R);
    // XN[1:0] in bits 54:53 (Arm DDI 0487, D8.4): who may execute.
    for (xn, unprivileged, privileged_too) in [(0, true, true), (1, true, false), (2, false, false), (3, false, true)] {
        direct.map2(0x5000, DATA, S2_RW | xn << 53);
        direct.invalidate();
        for (access, permitted) in [(FETCH, unprivileged), (privileged(FETCH), privileged_too)] {
            assert_eq!(matches!(direct.access(0x5000, access), Response::Physical(_)), permitted, "{xn} {access:?}");
        }
    }
}

#[test]
fn tables_side_by_side_begin_a_walk() {
    // S2T0SZ 20, 44 bits, from level 1: 32 tables are too many; 43 bits are 16 tables.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 & !(0x3f << 32) | 20 << 32 | S2R);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0004, 0, 0, 0]);
    direct.set_ste(0xd, STE1, STE2 & !(0x3f << 32) | 21 << 32 | S2R);
    // Index 0x1fff of 16 * 512, in a table aligned to 64 KiB.
    direct.poke(STAGE2 + 0x1fff * 8, 0x4000_0000 | BLOCK_RW);
    direct.invalidate();
    assert_eq!(direct.reaches(0x7ff_c020_0000, READ), DATA);
}

#[test]
fn nested_translation_goes_through_both_stages() {
    let mut direct = nested(0, 0);
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.reaches(0x5123, WRITE), DATA + 0x123);
    // A stage 1 fault comes first and has no IPA.
    direct.map(0x5000, 0x9000, PAGE_RO);
    direct.map2(0x9000, DATA, 0);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0013, IN, 0x5000, 0]);
    // The IPA of the access.
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.invalidate();
    assert_eq!(direct.fault(0x5123, WRITE), [0x100_0000_0010, S2 | IN, 0x5123, 0x9000]);
}

#[test]
fn cd_fetch_goes_through_stage2() {
    let mut direct = nested(0, 0);
    // The CD at an IPA that stage 2 maps to it.
    direct.set_ste(0xf | 0xa040, STE1, STE2 | S2R);
    direct.map(0x5000, DATA, PAGE_RW);
    let cd = direct.peek(CDS);
    direct.poke(CDS + 0x40, cd);
    direct.poke(CDS + 0x48, TABLES);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0010, S2 | RNW, 0x5000, 0xa000], "CLASS = CD");
    direct.map2(0xa000, CDS, S2_RW);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    // No memory behind it: F_CD_FETCH with the PA.
    direct.map2(0xa000, END, S2_RW);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0009, 0, 0, END + 0x40]);
    // It can stall, as S2S has it.
    direct.map2(0xa000, CDS, 0);
    direct.set_ste(0xf | 0xa040, STE1, STE2 | S2S);
    direct.invalidate();
    let slot = direct.stall(0x5000, WRITE);
    let [first, second, address, ipa] = direct.take_event();
    assert_eq!((first, second & !0xffff, address, ipa), (0x100_0000_0010, S2 | 1 << 31, 0x5000, 0xa000));
    direct.map2(0xa000, CDS, S2_RW);
    direct.invalidate();
    direct.command([0x44 | 1 << 12 | STREAM << 32, second & 0xffff]);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Physical(PhysAddr(DATA))));
    // With neither S2S nor S2R it aborts in silence (5.5).
    direct.map2(0xa000, CDS, 0);
    direct.set_ste_word(2, STE2);
    direct.invalidate();
    assert_eq!(direct.access(0x5000, WRITE), Response::Abort);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn stage1_walk_goes_through_stage2() {
    let mut direct = nested(0, 0);
    // The first table at IPA 0xc000, the level 3 table at IPA 0xb000.
    direct.map2(0xc000, TABLES, S2_RW);
    direct.set_cd(CD_R | CD_A, 0xc000);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.poke(TABLES + 0x1000, 0xb000 | 3);
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0010, S2 | TT, 0x5000, 0xb000]);
    direct.map2(0xb000, TABLES + 0x2000, S2_RW);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    // The walk's reads need permission to read: TTRnW = 1.
    direct.map2(0xb000, TABLES + 0x2000, S2_RW & !(1 << 6));
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0013, S2 | TT | TTRNW, 0x5000, 0xb000]);
    // An abort behind stage 2 is one of stage 1: S2 = 0, the PA.
    direct.map2(0xb000, END, S2_RW);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_000b, TT, 0x5000, END + 0x28]);
}

#[test]
fn ttb0_and_ttb1_are_ipas() {
    let mut direct = nested(0, 0);
    direct.map(0x5000, DATA, PAGE_RW);
    // EPD1 = 0, T1SZ = 25, TG1 = 2.
    direct.poke(CDS + 16, 0xd000);
    direct.poke(CDS + 8, 0xc000);
    direct.poke(CDS, CD0 & !(1 << 30) | 25 << 16 | 2 << 22 | CD_R | CD_A);
    for (ipa, address) in [(0xc000, 0x5000), (0xd000, 0xffff_ff80_0000_5000)] {
        assert_eq!(direct.fault(address, WRITE), [0x100_0000_0010, S2 | TT, address, ipa]);
        direct.map2(ipa, TABLES, S2_RW);
        assert_eq!(direct.reaches(address, WRITE), DATA);
    }
}

#[test]
fn protected_walk_keeps_the_smmu_out_of_devices() {
    let mut direct = nested(S2PTW, 0);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.poke(TABLES + 0x1000, 0xb000 | 3);
    // MemAttr[3:2] = 0: Device.
    direct.map2(0xb000, TABLES + 0x2000, S2_RW & !(0xf << 2));
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0013, S2 | TT | TTRNW, 0x5000, 0xb000]);
    direct.nest(0, S2R, CD_R | CD_A);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    // Accesses of the device are not concerned.
    direct.nest(0, S2R | S2PTW, CD_R | CD_A);
    direct.poke(TABLES + 0x1000, (TABLES + 0x2000) | 3);
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.map2(0x9000, DATA, S2_RW & !(0xf << 2));
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
}

const HA: u64 = 1 << 43;
const HD: u64 = 1 << 42;
const DBM: u64 = 1 << 51;
const AF: u64 = 1 << 10;

#[test]
fn access_flag_of_both_stages_is_set() {
    let mut direct = nested(S2HA, HA);
    direct.map(0x5000, 0x9000, PAGE_RW & !AF);
    direct.map2(0x9000, DATA, S2_RW & !AF);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    assert_eq!(direct.peek(TABLES + 0x2028), 0x9000 | PAGE_RW);
    assert_eq!(direct.peek(STAGE2_PAGES + 0x48), DATA | S2_RW);
    // With AF updates alone DBM means nothing.
    direct.map(0x5000, 0x9000, PAGE_RO | DBM);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, WRITE)[0], 0x100_0000_0013);
}

#[test]
fn writes_make_clean_pages_dirty() {
    let mut direct = nested(S2HA | S2HD, HA | HD);
    direct.map(0x5000, 0x9000, PAGE_RO & !AF | DBM);
    direct.map2(0x9000, DATA, S2_RW & !AF & !(1 << 7) | DBM);
    // A read sets the Access flags alone.
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    assert_eq!(direct.peek(TABLES + 0x2028), 0x9000 | PAGE_RO | DBM);
    assert_eq!(direct.peek(STAGE2_PAGES + 0x48), DATA | S2_RW & !(1 << 7) | DBM);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    assert_eq!(direct.peek(TABLES + 0x2028), 0x9000 | PAGE_RW | DBM);
    assert_eq!(direct.peek(STAGE2_PAGES + 0x48), DATA | S2_RW | DBM);
    // What is not permitted for another reason is not made dirty: AP[1] = 0.
    direct.map(0x6000, 0x9000, PAGE_RO & !(1 << 6) | DBM);
    assert_eq!(direct.fault(0x6000, WRITE)[0], 0x100_0000_0013);
    assert_eq!(direct.peek(TABLES + 0x2030) & 1 << 7, 1 << 7);
    // Nor what a table makes read-only.
    direct.map(0x7000, 0x9000, PAGE_RO | DBM);
    direct.poke(TABLES + 0x1000, (TABLES + 0x2000) | 3 | 1 << 62);
    direct.invalidate();
    assert_eq!(direct.fault(0x7000, WRITE)[0], 0x100_0000_0013);
}

#[test]
fn update_of_a_stage1_descriptor_needs_permission_to_write_at_stage2() {
    let mut direct = nested(S2HA, HA);
    direct.map(0x5000, DATA, PAGE_RW & !AF);
    direct.poke(TABLES + 0x1000, 0xb000 | 3);
    direct.map2(0xb000, TABLES + 0x2000, S2_RW & !(1 << 7));
    // A read, and yet TTRnW = 0 (7.3.16).
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0013, S2 | TT | RNW, 0x5000, 0xb000]);
    // With S2HD and DBM the table's page becomes dirty (3.13.5).
    direct.nest(0, S2R | S2HA | S2HD, CD_R | CD_A | HA);
    direct.map(0x5000, DATA, PAGE_RW & !AF);
    direct.poke(TABLES + 0x1000, 0xb000 | 3);
    direct.map2(0xb000, TABLES + 0x2000, S2_RW & !(1 << 7) | DBM);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    assert_eq!(direct.peek(STAGE2_PAGES + 0x58), (TABLES + 0x2000) | S2_RW | DBM);
}

#[test]
fn stall_goes_by_the_stage_of_the_fault() {
    // Table of 3.12.5: {CD.S, S2S}, the stage of the fault, stalled or not.
    for (cd_s, s2s) in [(0, 0), (0, S2S), (CD_S, 0), (CD_S, S2S)] {
        let mut direct = nested(s2s, cd_s);
        direct.leaf_at(0);
        let at_stage1 = direct.issue(0x5000, WRITE, None);
        assert_eq!(matches!(at_stage1, Issued::Stalled { .. }), cd_s != 0);
        direct.map(0x6000, 0x9000, PAGE_RW);
        let at_stage2 = direct.issue(0x6000, WRITE, None);
        assert_eq!(matches!(at_stage2, Issued::Stalled { .. }), s2s != 0);
        let records = direct.take_events();
        assert_eq!([records[0][1] >> 31 & 1, records[0][3]], [u64::from(cd_s != 0), 0]);
        assert_eq!([records[1][1] >> 31 & 1, records[1][3]], [u64::from(s2s != 0), 0x9000]);
    }
}

#[test]
fn stage2_stall_can_end_raz_wi() {
    let mut direct = stage2(S2S);
    let slot = direct.stall(0x5000, WRITE);
    let stag = direct.take_event()[1] & 0xffff;
    direct.command([0x44 | STREAM << 32, stag]);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Ignored));
}

#[test]
fn bypassed_stage1_leaves_stage2() {
    // S1CDMax 2, S1DSS 1.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xf | CDS | 2 << 59, STE1 | 1, STE2 | S2R);
    direct.map2(0x5000, DATA, S2_RW);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    assert_eq!(direct.fault(0x6000, WRITE), [0x100_0000_0010, S2 | IN, 0x6000, 0x6000]);
}
