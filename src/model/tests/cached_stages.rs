//! What is kept of stage 2, of both stages together, of 2-level context tables and of EL2: 3.13, 3.17, 3.20.1, 3.21, 4.3, 4.4.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::smmu::Issued;
use crate::model::smmu::diagnostics::{self, control};
use crate::smmuv3::{Access, PhysAddr};

/// nG of a leaf: it belongs to the ASID.
const NG: u64 = 1 << 11;
/// The VMID of [`STE2`] and another one, in a command.
const VMID: u64 = 7 << 32;
const OTHER_VMID: u64 = 8 << 32;
/// ASID 1, which [`CD0`] has, in a command.
const ASID: u64 = 1 << 48;

// Opcodes (4.1.3).
const CFGI_CD: u64 = 0x05 | STREAM << 32;
const NH_ALL: u64 = 0x10;
const NH_ASID: u64 = 0x11;
const NH_VA: u64 = 0x12;
const NH_VAA: u64 = 0x13;
const EL2_ALL: u64 = 0x20;
const EL2_ASID: u64 = 0x21;
const EL2_VA: u64 = 0x22;
const EL2_VAA: u64 = 0x23;
const S12_VMALL: u64 = 0x28;
const S2_IPA: u64 = 0x2a;
const NSNH_ALL: u64 = 0x30;

/// Stage 2 alone; 0x5000 leads to the data.
fn stage2() -> Direct {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 | S2R);
    direct.map2(0x5000, DATA, S2_RW);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct
}

/// Both stages; 0x5000 leads to the data by way of IPA 0x9000.
fn nested() -> Direct {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(0, S2R, CD_R | CD_A);
    direct.map(0x5000, 0x9000, PAGE_RW | NG);
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct
}

#[test]
fn ipa_is_translated_stale_until_it_is_invalidated() {
    // 4.4.3, 4.4.4.1.
    for command in [[S2_IPA | VMID, 0x5000], [S2_IPA | VMID, 0x5001], [S12_VMALL | VMID, 0], [NSNH_ALL, 0]] {
        let mut direct = stage2();
        direct.map2(0x5000, DATA + 0x1000, S2_RW);
        // Another IPA, other VMIDs, stage 1, EL2.
        direct.command([S2_IPA | VMID, 0x6000]);
        direct.command([S2_IPA | OTHER_VMID, 0x5000]);
        direct.command([S12_VMALL | OTHER_VMID, 0]);
        direct.command([NH_ALL | VMID, 0]);
        direct.command([EL2_ALL, 0]);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
        direct.command(command);
        assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000, "{command:x?}");
    }
}

#[test]
fn ipa_command_leaves_combined_translations_alone() {
    // 4.4.3.1: a command for stage 1 has to follow.
    for command in
        [[NH_VA | VMID | ASID, 0x5001], [NH_VAA | VMID, 0x5000], [NH_ASID | VMID | ASID, 0], [NH_ALL | VMID, 0]]
    {
        let mut direct = nested();
        direct.map2(0x9000, DATA + 0x1000, S2_RW);
        direct.command([S2_IPA | VMID, 0x9000]);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
        direct.command([command[0] ^ VMID ^ OTHER_VMID, command[1]]);
        direct.command([NH_VAA | VMID, 0x9000]);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
        direct.command(command);
        assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000, "{command:x?}");
        // Of a second change only stage 1 is told: stage 2 still has its own.
        direct.map2(0x9000, DATA + 0x2000, S2_RW);
        direct.command(command);
        assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000, "{command:x?}");
    }
}

#[test]
fn commands_for_both_stages_take_combined_translations() {
    // 4.4.3.2, 4.4.4.1.
    for command in [[S12_VMALL | VMID, 0], [NSNH_ALL, 0]] {
        let mut direct = nested();
        direct.map2(0x9000, DATA + 0x1000, S2_RW);
        direct.command([S12_VMALL | OTHER_VMID, 0]);
        direct.command([EL2_ALL, 0]);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
        direct.command(command);
        assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000, "{command:x?}");
    }
}

#[test]
fn combined_translation_is_as_wide_as_the_narrower_stage() {
    // Stage 1: 2 MiB at 0x20_0000 to IPA 0; stage 2: pages of 4 KiB.
    let mut direct = nested();
    direct.poke(TABLES + 0x1008, NG | PAGE_RW & !2);
    direct.map2(0x6000, DATA + 0x1000, S2_RW);
    direct.map2(0x7000, DATA + 0x2000, S2_RW);
    assert_eq!(direct.reaches(0x20_6000, READ), DATA + 0x1000);
    assert_eq!(direct.reaches(0x20_7000, READ), DATA + 0x2000);
    assert_eq!(direct.fault(0x20_8000, READ)[3], 0x8000);
    // A command for any address of the block takes them all (Arm DDI 0487, D8.17): they come from one descriptor.
    direct.poke(TABLES + 0x1008, 0);
    assert_eq!(direct.reaches(0x20_7000, READ), DATA + 0x2000);
    direct.command([NH_VA | VMID | ASID, 0x3f_f000]);
    assert_eq!(direct.fault(0x20_7000, READ)[0], 0x100_0000_0010);
}

#[test]
fn combined_translation_knows_which_stage_denies() {
    let mut direct = nested();
    direct.map2(0x9000, DATA, S2_RW & !(1 << 7));
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    // Stage 2, though memory would permit it by now: S2, CLASS = IN, the IPA.
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_0013, 1 << 39 | 2 << 40, 0x5008, 0x9000]);
    direct.map(0x5000, 0x9000, PAGE_RO | NG);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.map(0x5000, 0x9000, PAGE_RW | NG);
    assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_0013, 2 << 40, 0x5008, 0]);
}

#[test]
fn walk_of_stage1_uses_what_is_kept_of_stage2() {
    // The level 3 table at IPA 0xb000, and another one that lies there later.
    let mut direct = nested();
    direct.poke(TABLES + 0x1000, 0xb000 | 3);
    direct.poke(TABLES + 0x3028, (DATA + 0x1000) | PAGE_RW | NG);
    direct.map2(0xb000, TABLES + 0x2000, S2_RW);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.map2(0xb000, TABLES + 0x3000, S2_RW);
    direct.command([NH_ALL | VMID, 0]);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.command([S2_IPA | VMID, 0xb000]);
    assert_eq!(direct.reaches(0x5000, READ), DATA, "the combined translation");
    direct.command([NH_ALL | VMID, 0]);
    assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000);
}

#[test]
fn fetch_of_a_cd_uses_what_is_kept_of_stage2() {
    // The CD at IPA 0xa000; later there is none there.
    let mut direct = nested();
    direct.set_ste(0xf | 0xa000, STE1, STE2 | S2R);
    direct.map2(0xa000, CDS, S2_RW);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.map2(0xa000, DATA, S2_RW);
    direct.command([CFGI_CD, 1]);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.command([S2_IPA | VMID, 0xa000]);
    assert_eq!(direct.reaches(0x5000, READ), DATA, "the CD itself");
    direct.command([CFGI_CD, 1]);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_000a, 0, 0, 0], "C_BAD_CD");
}

#[test]
fn level1_cd_stays_with_leaf_and_goes_without() {
    // 4.3.3. S1Fmt 1, S1CDMax 8, SubstreamID 0xc5: CD 5 of the fourth table.
    const LEVEL1: u64 = 0x4017_0000;
    const LEVEL2: u64 = 0x4013_0000;
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | LEVEL1 | 8 << 59 | 1 << 4, STE1, 0);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.poke(LEVEL1 + 3 * 8, LEVEL2 | 1);
    direct.poke(LEVEL2 + 5 * 64 + 8, TABLES);
    direct.poke(LEVEL2 + 5 * 64, CD0 | CD_A);
    let works =
        |direct: &mut Direct| matches!(direct.issue(0x5000, READ, Some(0xc5)), Issued::Ended(Response::Physical(_)));
    assert!(works(&mut direct));
    // The next table has no CDs.
    direct.poke(LEVEL1 + 3 * 8, (LEVEL2 + 0x1000) | 1);
    direct.command([CFGI_CD | 0xc5 << 12, 1]);
    assert!(works(&mut direct), "the CD was read again from where it was");
    direct.command([CFGI_CD | 0xc1 << 12, 0]);
    assert!(works(&mut direct), "another CD");
    direct.command([CFGI_CD | 0xc5 << 12, 0]);
    assert!(!works(&mut direct));
    assert_eq!(direct.take_event(), [0x100_000c_580a, 0, 0, 0], "C_BAD_CD");
    // One that is not valid stays as well.
    direct.poke(LEVEL1 + 3 * 8, 0);
    direct.command([CFGI_CD | 0xc5 << 12, 0]);
    assert!(!works(&mut direct));
    direct.poke(LEVEL1 + 3 * 8, LEVEL2 | 1);
    direct.command([CFGI_CD | 0xc5 << 12, 1]);
    assert!(!works(&mut direct));
    assert_eq!(direct.take_events(), [[0x100_000c_5008, 0, 0, 0]; 2], "C_BAD_SUBSTREAMID");
    direct.command([CFGI_CD | 0xc5 << 12, 0]);
    assert!(works(&mut direct));
}

/// EL2 (STRW 2), with or without E2H; 0x5000 leads to the data.
fn el2(e2h: u32) -> Direct {
    let mut direct = Direct::enabled(ALL_ON, e2h);
    direct.stage1(2 << 30, CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW | NG);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct
}

#[test]
fn el2_is_invalidated_by_its_own_commands() {
    // 4.4.2.7 to 4.4.2.10. Without E2H there are no ASIDs.
    let other = ASID << 1;
    let without: &[[u64; 2]] = &[[EL2_ALL, 0], [EL2_VA | other, 0x5000], [EL2_VAA, 0x5001]];
    let with: &[[u64; 2]] = &[[EL2_ALL, 0], [EL2_VA | ASID, 0x5000], [EL2_VAA, 0x5001], [EL2_ASID | ASID, 0]];
    for (e2h, commands) in [(0, without), (1, with)] {
        for &command in commands {
            let mut direct = el2(e2h);
            direct.map(0x5000, DATA + 0x1000, PAGE_RW | NG);
            direct.command([NSNH_ALL, 0]);
            direct.command([NH_ALL, 0]);
            direct.command([EL2_VAA, 0x6000]);
            direct.command([EL2_ASID | other, 0]);
            if e2h != 0 {
                direct.command([EL2_VA | other, 0x5000]);
            }
            assert_eq!(direct.reaches(0x5000, READ), DATA);
            direct.command(command);
            assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000, "{e2h} {command:x?}");
        }
    }
}

const HA: u64 = 1 << 43;
const HD: u64 = 1 << 42;
const DBM: u64 = 1 << 51;

#[test]
fn write_walks_again_for_what_is_kept_clean_and_only_once() {
    // 3.13.3: the descriptor in memory becomes dirty, so it is read again. The leaf is global here, then it is not: two
    // entries would conflict.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A | HA | HD);
    direct.map(0x5000, DATA, PAGE_RO | DBM);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.map(0x5000, DATA + 0x1000, PAGE_RO | DBM | NG);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA + 0x1000);
    assert_eq!(direct.peek(TABLES + 0x2028), (DATA + 0x1000) | PAGE_RW | DBM | NG);
    assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000);
    // What is kept dirty is not looked at again.
    direct.map(0x5000, DATA, PAGE_RO | DBM);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA + 0x1000);
    assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RO | DBM);
}

#[test]
fn write_makes_a_clean_page_of_stage2_dirty_under_a_combined_translation() {
    let mut direct = nested();
    direct.set_ste(0xf | CDS, STE1, STE2 | S2R | S2HA | S2HD);
    direct.map2(0x9000, DATA, S2_RW & !(1 << 7) | DBM);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    assert_eq!(direct.peek(STAGE2_PAGES + 0x48), DATA | S2_RW & !(1 << 7) | DBM);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    assert_eq!(direct.peek(STAGE2_PAGES + 0x48), DATA | S2_RW | DBM);
}

#[test]
fn translation_request_keeps_what_it_grants_and_nothing_else() {
    let request = |direct: &mut Direct| match direct.request(0x5000, WRITE, None) {
        Completion::Success { page, write, .. } => (page.0, write),
        other => panic!("{other:?}"),
    };
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(EATS, CD_R | CD_A);
    // AP[1] = 0: nothing is granted.
    direct.map(0x5000, DATA, PAGE_RW & !(1 << 6));
    assert_eq!(request(&mut direct), (0, false));
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(request(&mut direct), (DATA, true));
    direct.map(0x5000, DATA + 0x1000, PAGE_RW);
    assert_eq!(request(&mut direct), (DATA, true));
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.command([NH_VA | ASID, 0x5001]);
    assert_eq!(request(&mut direct), (DATA + 0x1000, true));
}

#[test]
fn translation_request_keeps_nothing_of_a_walk_that_grants_nothing() {
    // S2AP = 0, and the level 3 table at IPA 0xb000: neither the one nor the other is kept.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(EATS, S2R, CD_R | CD_A);
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.poke(TABLES + 0x1000, 0xb000 | 3);
    direct.map2(0xb000, TABLES + 0x2000, S2_RW);
    direct.map2(0x9000, DATA, S2_RW & !(3 << 6));
    assert_eq!(direct.request(0x5000, READ, None), NOTHING);
    direct.poke(TABLES + 0x3028, 0xc000 | PAGE_RW);
    direct.map2(0xb000, TABLES + 0x3000, S2_RW);
    direct.map2(0x9000, DATA, S2_RW);
    direct.map2(0xc000, DATA + 0x1000, S2_RW);
    assert_eq!(direct.reaches(0x5000, READ), DATA + 0x1000);
}

#[test]
fn stage2_page_that_becomes_a_block_conflicts() {
    // 3.20.1, 3.21.1.2, 7.3.17: S2 and the IPA; 3.9.1.2: Completer Abort.
    for ats in [0, EATS] {
        let mut direct = stage2();
        direct.set_ste(0xd, STE1 | ats, STE2 | S2R);
        direct.command([0x04, 31]);
        direct.poke(STAGE2 + 0x1000, DATA | BLOCK_RW);
        direct.command([S2_IPA | VMID, 0x6000]);
        assert_eq!(direct.reaches(0x6000, READ), DATA + 0x6000);
        if ats == 0 {
            assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_0020, 1 << 39, 0x5008, 0x5000]);
        } else {
            assert_eq!(direct.request(0x5008, READ, None), Completion::CompleterAbort);
            assert_eq!(direct.take_events().len(), 0);
        }
        direct.command([S12_VMALL | VMID, 0]);
        assert_eq!(direct.reaches(0x5008, WRITE), DATA + 0x5008);
    }
}

/// An access, and PnU, InD and RnW of its record, bits 33, 34 and 35 of word 1 (7.3.17).
const CONFLICTING: [(Access, u64); 4] =
    [(WRITE, 0), (READ, 1 << 35), (FETCH, 3 << 34), (Access { privileged: true, ..READ }, 1 << 35 | 1 << 33)];

/// CDs 0 and 5, which are alike.
fn set_cds_0_and_5(direct: &Direct) {
    direct.set_cd(CD_R | CD_A, TABLES);
    (0..4).for_each(|word| direct.poke(CDS + 5 * 64 + word * 8, direct.peek(CDS + word * 8)));
}

#[test]
fn conflict_of_stage_2_tells_the_access_and_the_ipa() {
    for substream in [None, Some(5)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        // Both stages, S1CDMax 3, S1DSS 2.
        direct.set_ste(0xf | CDS | 3 << 59, STE1 | 2, STE2 | S2R);
        set_cds_0_and_5(&direct);
        direct.map(0x5000, 0x9000, PAGE_RW);
        direct.map(0x6000, 0xa000, PAGE_RW);
        direct.map2(0x9000, DATA, S2_RW);
        direct.map2(0xa000, DATA, S2_RW);
        let tag = substream.map_or(0, |substream| u64::from(substream) << 12 | 1 << 11);
        assert!(matches!(direct.issue(0x5000, READ, substream), Issued::Ended(Response::Physical(PhysAddr(DATA)))));
        // Pages become a block of 2 MiB at stage 2; only of IPA 0x9000 the page stays, and only at stage 2.
        direct.poke(STAGE2 + 0x1000, DATA | BLOCK_RW);
        direct.command([S2_IPA | VMID, 0xa000]);
        direct.command([NH_ALL | VMID, 0]);
        assert!(matches!(direct.issue(0x6000, READ, substream), Issued::Ended(Response::Physical(_))));
        for (access, told) in CONFLICTING {
            assert_eq!(direct.issue(0x5008, access, substream), Issued::Ended(Response::Abort));
            assert_eq!(direct.take_event(), [0x100_0000_0020 | tag, S2 | told, 0x5008, 0x9000], "{access:?}");
        }
    }
}

#[test]
fn conflict_of_stage_1_tells_the_access() {
    for substream in [None, Some(5)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(STE0_STAGE1 | CDS | 3 << 59, STE1 | 2, 0);
        set_cds_0_and_5(&direct);
        direct.map(0x5000, DATA, PAGE_RW | NG);
        direct.map(0x6000, DATA, PAGE_RW | NG);
        let tag = substream.map_or(0, |substream| u64::from(substream) << 12 | 1 << 11);
        assert!(matches!(direct.issue(0x5000, READ, substream), Issued::Ended(Response::Physical(PhysAddr(DATA)))));
        direct.poke(TABLES + 0x1000, DATA | NG | PAGE_RW & !2);
        direct.command([NH_VA | ASID, 0x6000]);
        assert!(matches!(direct.issue(0x6000, READ, substream), Issued::Ended(Response::Physical(_))));
        for (access, told) in CONFLICTING {
            assert_eq!(direct.issue(0x5008, access, substream), Issued::Ended(Response::Abort));
            assert_eq!(direct.take_event(), [0x100_0000_0020 | tag, told, 0x5008, 0], "{access:?}");
        }
    }
}

#[test]
fn block_of_stage2_with_nt_is_not_kept_under_stage1_either() {
    // 3.21.1.2.
    let mut direct = nested();
    direct.poke(STAGE2 + 0x1000, DATA | BLOCK_RW | 1 << 16);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, READ), DATA + 0x9000);
    direct.poke(STAGE2 + 0x1000, 0x4000_0000 | BLOCK_RW | 1 << 16);
    assert_eq!(direct.reaches(0x5000, READ), 0x4000_9000);
}

#[test]
fn ste_that_a_record_is_merged_by_is_not_kept_while_the_smmu_is_off() {
    // 6.3.9.6; 7.3.1: whether the STE has MEV is asked for the second record.
    let mut direct = Direct::enabled(ALL_ON & !1, 0);
    direct.write(diagnostics::CONTROL as u64, control::MERGE_EVENTS);
    direct.set_ste(1, STE1, 0);
    for _ in 0..2 {
        assert_eq!(direct.request(0x5000, READ, None), Completion::UnsupportedRequest);
    }
    assert_eq!(direct.take_events().len(), 2, "F_BAD_ATS_TREQ");
    direct.stage1(0, CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.write(CR0, ALL_ON);
    direct.step();
    assert_eq!(direct.reaches(0x5000, READ), DATA);
}
