//! Context tables, regimes, permissions of stage 1 and overrides: 3.3, 5.2 to 5.4, 13.1, 13.4; Arm DDI 0487, D8.4.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::smmu::Issued;
use crate::smmuv3::Access;

/// A level 1 context table, and level 2 tables.
const LEVEL1: u64 = 0x4017_0000;
const LEVEL2: u64 = 0x4013_0000;

fn issue(direct: &mut Direct, substream: u32) -> Response {
    match direct.issue(0x5000, READ, Some(substream)) {
        Issued::Ended(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_level_context_tables_are_indexed_as_5_2_says() {
    // S1Fmt 1: 64 CDs a table; 2: 1024 CDs. S1CDMax 8.
    for (format, substream, entry, index) in [(1, 0xc5, 3, 5), (2, 0xc5, 0, 0xc5)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(STE0_STAGE1 | LEVEL1 | 8 << 59 | format << 4, STE1, 0);
        direct.map(0x5000, DATA, PAGE_RW);
        // No level 1 descriptor: C_BAD_SUBSTREAMID (5.3.1).
        assert_eq!(issue(&mut direct, substream), Response::Abort);
        assert_eq!(direct.take_event(), [0x100_000c_5008, 0, 0, 0]);
        direct.poke(LEVEL1 + entry * 8, LEVEL2 | 1);
        direct.invalidate();
        // No CD.
        assert_eq!(issue(&mut direct, substream), Response::Abort);
        assert_eq!(direct.take_event(), [0x100_000c_580a, 0, 0, 0]);
        direct.poke(LEVEL2 + index * 64 + 8, TABLES);
        direct.poke(LEVEL2 + index * 64, CD0 | CD_A);
        direct.invalidate();
        assert!(matches!(issue(&mut direct, substream), Response::Physical(_)));
        // L2Ptr beyond OAS (3.4.3); no memory there.
        direct.poke(LEVEL1 + entry * 8, 1 << 50 | 1);
        direct.invalidate();
        assert_eq!(issue(&mut direct, substream), Response::Abort);
        assert_eq!(direct.take_event(), [0x100_000c_5008, 0, 0, 0]);
        direct.poke(LEVEL1 + entry * 8, END | 1);
        direct.invalidate();
        assert_eq!(issue(&mut direct, substream), Response::Abort);
        assert_eq!(direct.take_event(), [0x100_000c_5809, 0, 0, END + index * 64]);
    }
}

#[test]
fn level1_descriptor_that_cannot_be_read_is_f_cd_fetch() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | END | 8 << 59 | 1 << 4, STE1, 0);
    assert_eq!(issue(&mut direct, 0xc5), Response::Abort);
    assert_eq!(direct.take_event(), [0x100_000c_5809, 0, 0, END + 0x18]);
}

#[test]
fn default_substream_0_without_its_level1_descriptor_names_substream_0() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | LEVEL1 | 8 << 59 | 1 << 4, STE1 | 2, 0);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0008, 0, 0, 0]);
}

#[test]
fn level1_descriptor_goes_through_stage2() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xf | 0xa000 | 8 << 59 | 1 << 4, STE1, STE2 | S2R);
    assert_eq!(issue(&mut direct, 0xc5), Response::Abort);
    // F_TRANSLATION, S2, CLASS = CD, the IPA of the level 1 descriptor (its bits 11:0 are not told).
    assert_eq!(direct.take_event(), [0x100_000c_5810, 0x88_0000_0000, 0x5000, 0xa000]);
    // With S2S alone it stalls (3.12); the retry finds descriptor 3 and, through it, CD 5.
    direct.set_ste_word(2, STE2 | S2S);
    direct.invalidate();
    let (slot, recorded) = stalls(direct.issue(0x5000, READ, Some(0xc5)));
    let record = direct.take_event();
    assert_eq!((recorded, untagged(record)), (true, [0x100_000c_5810, 0x88_8000_0000, 0x5000, 0xa000]));
    direct.map2(0xa000, LEVEL1, S2_RW);
    direct.poke(LEVEL1 + 3 * 8, LEVEL2 | 1);
    direct.poke(LEVEL2 + 5 * 64 + 8, TABLES);
    direct.poke(LEVEL2 + 5 * 64, CD0 | CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.resume(stag(record), RETRY);
    assert_eq!(direct.poll(slot), through(DATA));
}

/// What the access attributes `all` get, as a string: r, w, x unprivileged, then privileged.
fn rights(direct: &mut Direct) -> std::string::String {
    [
        (READ, 'r'),
        (WRITE, 'w'),
        (FETCH, 'x'),
        (privileged(READ), 'R'),
        (privileged(WRITE), 'W'),
        (privileged(FETCH), 'X'),
    ]
    .into_iter()
    .map(|(access, letter)| if matches!(direct.access(0x5000, access), Response::Physical(_)) { letter } else { '-' })
    .collect()
}

const WXN: u64 = 1 << 36;
const PAN: u64 = 1 << 40;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// AP[1] = 0.
const PRIVILEGED_RW: u64 = PAGE_RW & !(1 << 6);
const PRIVILEGED_RO: u64 = PAGE_RO & !(1 << 6);

#[test]
fn stage1_permissions_are_those_of_the_architecture() {
    for (flags, cd, expected) in [
        (PAGE_RW, 0, "rwxRW-"),
        (PAGE_RO, 0, "r-xR-X"),
        (PRIVILEGED_RW, 0, "--xRWX"),
        (PRIVILEGED_RO, 0, "--xR-X"),
        (PAGE_RO | PXN, 0, "r-xR--"),
        (PAGE_RO | UXN, 0, "r--R-X"),
        (PAGE_RW, WXN, "rw-RW-"),
        (PRIVILEGED_RW, WXN, "--xRW-"),
        (PAGE_RO, WXN, "r-xR-X"),
        (PAGE_RW, PAN, "rwx---"),
        (PAGE_RO, PAN, "r-x--X"),
        (PRIVILEGED_RW, PAN, "--xRWX"),
    ] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_A | cd);
        direct.map(0x5000, DATA, flags);
        assert_eq!(rights(&mut direct), expected, "{flags:x} {cd:x}");
    }
}

#[test]
fn tables_limit_unless_the_cd_disables_it() {
    // PXNTable, UXNTable, APTable[0], APTable[1].
    for (bit, expected) in [(59, "r-xR--"), (60, "r--R-X"), (61, "--xR-X"), (62, "r-xR-X")] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_A);
        direct.map(0x5000, DATA, PAGE_RO);
        direct.poke(TABLES, direct.peek(TABLES) | 1 << bit);
        assert_eq!(rights(&mut direct), expected, "{bit}");
        // HAD0 is bit 1 of word 1.
        direct.poke(CDS + 8, TABLES | 2);
        direct.invalidate();
        assert_eq!(rights(&mut direct), "r-xR-X");
    }
}

#[test]
fn el2_knows_no_privilege() {
    // STRW 2.
    for (flags, expected) in [(PRIVILEGED_RW, "rwxRWX"), (PAGE_RO | PXN, "r-xR-X"), (PAGE_RO | UXN, "r--R--")] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(2 << 30, CD_A);
        direct.map(0x5000, DATA, flags);
        assert_eq!(rights(&mut direct), expected, "{flags:x}");
    }
    // With E2H it does.
    let mut direct = Direct::enabled(ALL_ON, 1);
    direct.stage1(2 << 30, CD_A);
    direct.map(0x5000, DATA, PRIVILEGED_RW);
    assert_eq!(rights(&mut direct), "--xRWX");
}

#[test]
fn el2_can_disable_a_half_of_its_addresses_with_e2h_alone() {
    // EPD0 is bit 14 of a CD; without E2H there is one half (5.4, EPD0).
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(2 << 30, CD_R | CD_A | 1 << 14);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    let mut direct = Direct::enabled(ALL_ON, 1);
    direct.stage1(2 << 30, CD_R | CD_A | 1 << 14);
    direct.map(0x5000, DATA, PAGE_RW);
    // F_TRANSLATION; RnW, CLASS = IN.
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0010, 0x208_0000_0000, 0x5000, 0]);
}

#[test]
fn override_of_privilege_comes_before_the_check_and_the_record() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // PRIVCFG 3: privileged. PnU is bit 33.
    direct.stage1(3 << 48, CD_R | CD_A);
    direct.map(0x5000, DATA, PRIVILEGED_RO);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0013, 0x202_0000_0000, 0x5000, 0]);
    // PRIVCFG 2: unprivileged.
    direct.stage1(2 << 48, CD_R | CD_A);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, privileged(READ)), [0x100_0000_0013, 0x208_0000_0000, 0x5000, 0]);
}

#[test]
fn override_of_kind_comes_before_the_check_and_the_record() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // INSTCFG 3: reads are fetches, InD is bit 34; writes are not concerned.
    direct.stage1(3 << 50, CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW | UXN);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0013, 0x20c_0000_0000, 0x5000, 0]);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    // INSTCFG 2: fetches are reads.
    direct.stage1(2 << 50, CD_R | CD_A);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, FETCH), DATA);
    assert_eq!(direct.fault(0x6000, FETCH), [0x100_0000_0010, 0x208_0000_0000, 0x6000, 0]);
}

#[test]
fn access_that_writes_is_one_of_data_whatever_comes_with_it() {
    // 13.1.2: InD counts for reads alone. UXN, bit 54 of the leaf.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW | 1 << 54);
    let write = Access { execute: true, ..WRITE };
    assert_eq!(direct.reaches(0x5000, write), DATA);
    assert_eq!(direct.fault(0x6000, write), [0x100_0000_0010, IN, 0x6000, 0]);
}

#[test]
fn atomic_access_that_may_only_write_is_told_as_a_read() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 | S2R);
    // S2AP = 0b10: writes alone (13.1.1).
    direct.map2(0x5000, DATA, S2_RW & !(1 << 6));
    let atomic = crate::smmuv3::Access { read: true, ..WRITE };
    assert_eq!(direct.fault(0x5000, atomic), [0x100_0000_0013, 0x288_0000_0000, 0x5000, 0x5000]);
    direct.map2(0x5000, DATA, S2_RW & !(2 << 6));
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, atomic)[1], 0x280_0000_0000);
}

#[test]
fn other_granules_translate() {
    // TG0 2: 16 KiB; T0SZ 28, 36 bits, level 2 of 2^25 first. A block of 32 MiB and, through a table, a page of 16 KiB.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    direct.poke(CDS, CD0 & !0x3f | 28 | 2 << 6 | CD_R | CD_A);
    direct.poke(TABLES + 3 * 8, 0x4000_0000 | PAGE_RW & !2);
    direct.poke(TABLES, (TABLES + 0x8000) | 3);
    direct.poke(TABLES + 0x8000 + 5 * 8, DATA | PAGE_RW);
    assert_eq!(direct.reaches(0x0600_0000 | 0x12_3456, READ), 0x4012_3456);
    assert_eq!(direct.reaches(5 << 14 | 0x3abc, WRITE), DATA + 0x3abc);
    assert_eq!(direct.fault(6 << 14, WRITE)[0], 0x100_0000_0010);
    // TG0 1: 64 KiB; T0SZ 22, 42 bits, level 2 of 2^29 first: 512 MiB and 64 KiB.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    let tables = 0x4010_0000;
    direct.poke(CDS + 8, tables);
    direct.poke(CDS, CD0 & !0x3f | 22 | 1 << 6 | CD_R | CD_A);
    direct.poke(tables + 3 * 8, 0x4000_0000 | PAGE_RW & !2);
    direct.poke(tables, (tables + 0x1_0000) | 3);
    direct.poke(tables + 0x1_0000 + 5 * 8, DATA | PAGE_RW);
    assert_eq!(direct.reaches(0x6000_0000 | 0x12_3456, READ), 0x4012_3456);
    assert_eq!(direct.reaches(5 << 16 | 0xabcc, WRITE), DATA + 0xabcc);
}
