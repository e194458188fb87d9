//! ATS translation requests and translated accesses: 3.9.1, 3.13.7, 13.6, 13.7.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::profile::Profile;
use crate::model::smmu::Issued;
use crate::smmuv3::features::IdRegisters;
use crate::smmuv3::{Access, PhysAddr};

/// ATSCHK beside all queues.
const CHECKED: u32 = ALL_ON | 1 << 4;
const SPLIT: u64 = 2 << 28;
/// nG of a leaf.
const NOT_GLOBAL: u64 = 1 << 11;
/// A page of 4 KiB, unprivileged, not to be executed.
fn page(output: u64, write: bool) -> Completion {
    Completion::Success { page: PhysAddr(output), span: 12, read: true, write, execute: false, privileged: false }
}

#[test]
fn disabled_ats_is_refused_with_a_record_where_3_9_1_2_says_so() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for (word0, word1, record) in [
        // EATS = 0; bypass; split-stage without ATSCHK; abort.
        (STE0_STAGE1 | CDS, 0, true),
        (9, EATS, true),
        (0xf | CDS, SPLIT, true),
        (1, EATS, false),
    ] {
        direct.set_ste(word0, STE1 | word1, STE2);
        direct.set_cd(CD_A, TABLES);
        direct.invalidate();
        assert_eq!(direct.request(0x5678, READ, None), Completion::UnsupportedRequest);
        let records = direct.take_events();
        assert_eq!(records.len(), usize::from(record), "{word0:x} {word1:x}");
        assert!(records.iter().all(|record| *record == [0x100_0000_0005, 0, 0x5000, 0]));
    }
}

#[test]
fn configuration_errors_abort_without_a_record() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // V = 0, and an ILLEGAL STE: S1CDMax is beyond SSIDSIZE.
    for (word0, word1) in [(0, 0), (STE0_STAGE1 | CDS | 9 << 59, STE1 | EATS)] {
        direct.set_ste(word0, word1, 0);
        direct.invalidate();
        assert_eq!(direct.request(0x5000, READ, None), Completion::CompleterAbort);
    }
    direct.stage1(EATS, 0);
    direct.poke(CDS, 0);
    direct.invalidate();
    assert_eq!(direct.request(0x5000, READ, None), Completion::CompleterAbort);
    assert_eq!(direct.request(0x5000, READ, Some(1)), Completion::CompleterAbort);
    direct.stage1(EATS, CD_A);
    direct.poke(TABLES, END | 3);
    direct.invalidate();
    assert_eq!(direct.request(0x5000, READ, None), Completion::CompleterAbort, "F_WALK_EABT");
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn faults_grant_nothing_and_leave_no_record() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(EATS, S2R, CD_R | CD_A);
    direct.leaf_at(0);
    assert_eq!(direct.request(0x5000, READ, None), NOTHING);
    direct.map(0x5000, 0x9000, PAGE_RW);
    assert_eq!(direct.request(0x5000, READ, None), NOTHING);
    // Stage 2 does not lead to the CD.
    direct.set_ste(0xf | 0xa000, STE1 | EATS, STE2 | S2R);
    direct.invalidate();
    assert_eq!(direct.request(0x5000, READ, None), NOTHING);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn completion_that_grants_nothing_is_of_the_smallest_size() {
    // 2 MiB at stage 1 for privileged accesses alone; 1 GiB at stage 2 with S2AP = 0.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(EATS, CD_R | CD_A);
    direct.leaf_at(0);
    direct.poke(TABLES + 0x1008, DATA | PAGE_RW & !2 & !(1 << 6));
    assert_eq!(direct.request(0x23_4567, READ, None), NOTHING);
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1 | EATS, STE2 | S2R);
    direct.poke(STAGE2 + 8, 0x4000_0000 | BLOCK_RW & !(3 << 6));
    assert_eq!(direct.request(DATA, READ, None), NOTHING);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn nested_translation_gives_what_both_stages_permit() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(EATS, S2R, CD_R | CD_A);
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.request(0x5123, WRITE, None), page(DATA, true));
    // NW = 1: writing is not asked for.
    assert_eq!(direct.request(0x5123, READ, None), page(DATA, false));
    direct.map2(0x9000, DATA, S2_RW & !(1 << 7));
    direct.invalidate();
    assert_eq!(direct.request(0x5123, WRITE, None), page(DATA, false));
    direct.map(0x5000, 0x9000, PAGE_RO);
    direct.map2(0x9000, DATA, S2_RW);
    direct.invalidate();
    assert_eq!(direct.request(0x5123, WRITE, None), page(DATA, false));
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn size_is_the_smaller_of_both_stages() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(EATS, S2R, CD_A);
    // Stage 1: 2 MiB at 0x20_0000 to 0x4020_0000; stage 2: 1 GiB.
    direct.leaf_at(0);
    direct.poke(TABLES + 0x1008, DATA | PAGE_RW & !2);
    let Completion::Success { page, span, .. } = direct.request(0x23_4567, READ, None) else { panic!() };
    assert_eq!((page, span), (PhysAddr(0x4023_4000), 21));
    // Stage 1: 2 MiB at 0x40_0000 to IPA 0; stage 2: 4 KiB.
    direct.poke(TABLES + 0x1010, PAGE_RW & !2);
    direct.map2(0x5000, DATA, S2_RW);
    let Completion::Success { page, span, .. } = direct.request(0x40_5678, READ, None) else { panic!() };
    assert_eq!((page, span), (PhysAddr(DATA), 12));
}

#[test]
fn execution_and_privilege_are_asked_for_with_a_pasid_alone() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS | 2, 0);
    direct.set_cd(CD_A, TABLES);
    direct.map(0x5000, DATA, PAGE_RO & !(1 << 6));
    let fetch = privileged(FETCH);
    assert_eq!(direct.request(0x5000, fetch, None), NOTHING);
    let cd = direct.peek(CDS);
    direct.poke(CDS + 0x40, cd);
    direct.poke(CDS + 0x48, TABLES);
    direct.invalidate();
    assert_eq!(
        direct.request(0x5000, fetch, Some(1)),
        Completion::Success {
            page: PhysAddr(DATA),
            span: 12,
            read: true,
            write: false,
            execute: true,
            privileged: true
        }
    );
    // PXN: not to be executed, and Priv is as it came.
    direct.map(0x5000, DATA, PAGE_RO & !(1 << 6) | 1 << 53);
    direct.invalidate();
    assert_eq!(
        direct.request(0x5000, fetch, Some(1)),
        Completion::Success {
            page: PhysAddr(DATA),
            span: 12,
            read: true,
            write: false,
            execute: false,
            privileged: true
        }
    );
}

#[test]
fn pasid_chooses_the_cd_that_translates_a_request() {
    // CD 0 without a PASID (S1DSS = 2); CD 1 with tables of its own: a block of 1 GiB.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS | 2, 0);
    direct.set_cd(CD_A, TABLES);
    direct.map(0x5000, DATA, PAGE_RO | NOT_GLOBAL);
    direct.poke(TABLES + 0x3000, 0x4000_0000 | PAGE_RW & !2 | NOT_GLOBAL);
    direct.poke(CDS + 0x48, TABLES + 0x3000);
    direct.poke(CDS + 0x40, CD0 | CD_A | 2 << 48);
    for _ in 0..2 {
        assert_eq!(direct.request(0x5000, WRITE, None), page(DATA, false));
        let expected = Completion::Success {
            page: PhysAddr(0x4000_5000),
            span: 30,
            read: true,
            write: true,
            execute: false,
            privileged: false,
        };
        assert_eq!(direct.request(0x5000, WRITE, Some(1)), expected);
    }
}

#[test]
fn page_that_may_be_executed_only_grants_nothing() {
    // For unprivileged accesses, with UXN = 0: NW = 1 and Exe; NW = 0 and Exe (13.7).
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS, 0);
    direct.poke(CDS + 0x48, TABLES);
    direct.poke(CDS + 0x40, CD0 | CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW & !(1 << 6));
    for access in [FETCH, Access { write: true, ..FETCH }] {
        assert_eq!(direct.request(0x5000, access, Some(1)), NOTHING);
    }
    assert_eq!(direct.issue(0x5000, FETCH, Some(1)), Issued::Ended(Response::Physical(PhysAddr(DATA))));
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn overrides_decide_what_is_granted_but_not_priv() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // The example of 13.7.1: PRIVCFG = unprivileged, User-RO, Priv=1 asked.
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS | 2 | 2 << 48, 0);
    for cd in [CDS, CDS + 0x40] {
        direct.poke(cd + 8, TABLES);
        direct.poke(cd, CD0 | CD_A);
    }
    direct.map(0x5000, DATA, PAGE_RO | 1 << 54);
    let asked = privileged(WRITE);
    let expected = |execute| Completion::Success {
        page: PhysAddr(DATA),
        span: 12,
        read: true,
        write: false,
        execute,
        privileged: true,
    };
    assert_eq!(direct.request(0x5000, asked, Some(1)), expected(false));
    // INSTCFG = data: what can be read can be executed.
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS | 2 | 2 << 48 | 2 << 50, 0);
    direct.invalidate();
    assert_eq!(direct.request(0x5000, Access { execute: true, ..asked }, Some(1)), expected(true));
}

#[test]
fn flags_are_updated_when_translation_is_granted() {
    const AF: u64 = 1 << 10;
    const CLEAN: u64 = PAGE_RO | 1 << 51;
    let mut direct = Direct::enabled(ALL_ON, 0);
    // HD and HA; S2HD and S2HA.
    direct.nest(EATS, S2R | S2HA | S2HD, CD_A | 3 << 42);
    direct.map(0x5000, 0x9000, CLEAN & !AF);
    direct.map2(0x9000, DATA, S2_RW & !(1 << 7) | 1 << 51);
    assert_eq!(direct.request(0x5000, READ, None), page(DATA, false));
    assert_eq!(direct.peek(TABLES + 0x2028), 0x9000 | CLEAN, "a request with NW = 1 makes nothing dirty");
    assert_eq!(direct.request(0x5000, WRITE, None), page(DATA, true));
    assert_eq!(direct.peek(TABLES + 0x2028), 0x9000 | PAGE_RW | 1 << 51);
    assert_eq!(direct.peek(STAGE2_PAGES + 0x48), DATA | S2_RW | 1 << 51);
    // Read-only at stage 1: stage 2 stays clean.
    direct.map(0x5000, 0x9000, PAGE_RO);
    direct.map2(0x9000, DATA, S2_RW & !(1 << 7) | 1 << 51);
    direct.invalidate();
    assert_eq!(direct.request(0x5000, WRITE, None), page(DATA, false));
    assert_eq!(direct.peek(STAGE2_PAGES + 0x48) & 1 << 7, 0);
    // Nothing granted: nothing touched.
    direct.map(0x5000, 0x9000, CLEAN & !AF & !(1 << 6));
    direct.invalidate();
    assert_eq!(direct.request(0x5000, WRITE, None), NOTHING);
    assert_eq!(direct.peek(TABLES + 0x2028), 0x9000 | CLEAN & !AF & !(1 << 6));
}

#[test]
fn split_stage_gives_ipas_with_the_permissions_of_both_stages() {
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.nest(SPLIT, S2R, CD_A);
    direct.map(0x5000, 0x9000, PAGE_RW);
    // The combination of permissions counts all the same (13.6.3).
    direct.map2(0x9000, DATA, S2_RW & !(1 << 7));
    assert_eq!(direct.request(0x5000, WRITE, None), page(0x9000, false));
    direct.map2(0x9000, DATA, S2_RW);
    direct.invalidate();
    assert_eq!(direct.request(0x5000, WRITE, None), page(0x9000, true));
}

#[test]
fn translated_access_of_split_stage_goes_through_stage2() {
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.nest(SPLIT, S2R, CD_A);
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.translated(0x9008, WRITE), Response::Physical(PhysAddr(DATA + 8)));
    direct.map2(0x9000, DATA, 0);
    direct.invalidate();
    assert_eq!(direct.translated(0x9008, WRITE), Response::Abort);
    assert_eq!(direct.take_event(), [0x100_0000_0010, 0x280_0000_0000, 0x9008, 0x9000]);
    assert_eq!(direct.translated(1 << 48, READ), Response::Abort);
    assert_eq!(direct.take_event(), [0x100_0000_0011, 0x208_0000_0000, 1 << 48, 0]);
    // S2R = 0.
    direct.nest(SPLIT, 0, CD_A);
    direct.invalidate();
    assert_eq!(direct.translated(0x9008, WRITE), Response::Abort);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn translated_access_of_split_stage_passes_unchecked_without_atschk() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(SPLIT, S2R, CD_A);
    assert_eq!(direct.translated(DATA + 8, WRITE), Response::Physical(PhysAddr(DATA + 8)));
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn skipped_stage1_is_answered_with_the_address_itself() {
    // S1CDMax 1, S1DSS 1.
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS | 1, 0);
    // Whatever NW says, W = 1 (13.6.4).
    for access in [WRITE, READ] {
        assert_eq!(direct.request(0x5123, access, None), page(0x5000, true));
    }
    assert_eq!(direct.request(1 << 48, WRITE, None), NOTHING);
    // Full ATS through stage 2 alone; split-stage ATS: the IPA.
    direct.map2(0x5000, DATA, S2_RW);
    direct.set_ste(0xf | CDS | 1 << 59, STE1 | EATS | 1, STE2 | S2R);
    direct.invalidate();
    assert_eq!(direct.request(0x5123, WRITE, None), page(DATA, true));
    assert_eq!(direct.request(0x5123, READ, None), page(DATA, false));
    direct.set_ste(0xf | CDS | 1 << 59, STE1 | SPLIT | 1, STE2 | S2R);
    direct.invalidate();
    assert_eq!(direct.request(0x5123, WRITE, None), page(0x5000, true));
}

#[test]
fn translated_access_of_a_stream_without_ats_is_forbidden_only_with_atschk() {
    for (cr0, checked) in [(ALL_ON, false), (CHECKED, true)] {
        let mut direct = Direct::enabled(cr0, 0);
        // EATS = 0, and bypass, whatever EATS is (5.2).
        for (word0, word1) in [(STE0_STAGE1 | CDS, 0), (9, EATS), (9, 2 << 28), (9, 3 << 28)] {
            direct.set_ste(word0, STE1 | word1, 0);
            direct.invalidate();
            assert_eq!(direct.translated(DATA, WRITE) == Response::Abort, checked);
            let records = direct.take_events();
            assert_eq!(records.len(), usize::from(checked));
            assert!(records.iter().all(|record| *record == [0x100_0000_0007, 0, DATA, 0]));
        }
    }
}

#[test]
fn translated_access_under_an_ste_that_aborts_or_is_not_valid_ends_silently_and_only_with_atschk() {
    for (cr0, checked) in [(ALL_ON, false), (CHECKED, true)] {
        let mut direct = Direct::enabled(cr0, 0);
        // Config = abort; V = 0; STRW = 1, which is ILLEGAL.
        for (word0, word1) in [(1, 0), (0, 0), (STE0_STAGE1 | CDS, STE1 | EATS | 1 << 30)] {
            direct.set_ste(word0, word1, 0);
            direct.invalidate();
            assert_eq!(direct.translated(DATA, READ) == Response::Abort, checked);
            assert_eq!(direct.take_events().len(), 0);
        }
    }
}

#[test]
fn translated_access_of_full_ats_is_looked_at_for_its_size_alone() {
    for cr0 in [ALL_ON, CHECKED] {
        let mut direct = Direct::enabled(cr0, 0);
        direct.stage1(EATS, CD_A);
        direct.invalidate();
        assert_eq!(direct.translated(DATA, READ), Response::Physical(PhysAddr(DATA)));
        assert_eq!(direct.translated(1 << 48, READ), Response::Abort);
        assert_eq!(direct.take_events().len(), 0);
    }
}

#[test]
fn translation_request_gets_nothing_of_a_half_with_e0pd_unless_it_is_privileged() {
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS | 2, 0);
    direct.set_cd(CD_A, TABLES | 1 << 2);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.request(0x5123, WRITE, None), NOTHING);
    assert_eq!(direct.take_events().len(), 0);
    // PRIVCFG = privileged.
    direct.set_ste_word(1, STE1 | EATS | 2 | 3 << 48);
    direct.invalidate();
    assert_eq!(direct.request(0x5123, WRITE, None), page(DATA, true));
}

#[test]
fn translated_access_without_pasid_passes_although_s1dss_disables_such_streams() {
    // PASIDTT = 0: no translated access has a PASID. S1CDMax = 1, S1DSS = 0.
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS, 0);
    assert_eq!(direct.translated(DATA, READ), Response::Physical(PhysAddr(DATA)));
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn split_stage_updates_the_flags_of_stage_1_for_what_it_grants() {
    // HA and HD; the leaf is writable-clean, and its Access flag 0 (3.13.7).
    const AF: u64 = 1 << 10;
    const CLEAN: u64 = PAGE_RO | 1 << 51;
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.nest(SPLIT, S2R, CD_A | 3 << 42);
    direct.map(0x5000, 0x9000, CLEAN & !AF);
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.request(0x5000, READ, None), page(0x9000, false));
    assert_eq!(direct.peek(TABLES + 0x2028), 0x9000 | CLEAN);
    assert_eq!(direct.request(0x5000, WRITE, None), page(0x9000, true));
    assert_eq!(direct.peek(TABLES + 0x2028), 0x9000 | PAGE_RW | 1 << 51);
}

#[test]
fn split_stage_grants_what_the_tlb_holds() {
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.nest(SPLIT, S2R, CD_A);
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    direct.map(0x5000, 0, 0);
    assert_eq!(direct.request(0x5000, WRITE, None), page(0x9000, true));
    // CMD_TLBI_NSNH_ALL, CMD_SYNC.
    direct.command([0x30, 0]);
    direct.command([0x46, 0]);
    assert_eq!(direct.request(0x5000, WRITE, None), NOTHING);
}

#[test]
fn privilege_of_a_request_is_that_of_privcfg() {
    // The page is for privileged accesses alone (AP[1] = 0); PRIVCFG 2 is unprivileged, 3 privileged (13.7.1).
    for (privcfg, access, read) in
        [(0, READ, false), (0, privileged(READ), true), (2, privileged(READ), false), (3, READ, true)]
    {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS | 2 | privcfg << 48, 0);
        for (word, value) in [CD0 | CD_A, TABLES, 0, 0xff].into_iter().enumerate() {
            direct.poke(CDS + 0x40 + word as u64 * 8, value);
        }
        direct.map(0x5000, DATA, PAGE_RW & !(1 << 6));
        let Completion::Success { read: granted, privileged, .. } = direct.request(0x5000, access, Some(1)) else {
            panic!("refused");
        };
        assert_eq!((granted, privileged), (read, access.privileged), "{privcfg} {access:?}");
    }
}

#[test]
fn bad_stream_of_a_request_is_recorded_where_both_switches_say_so() {
    // IDR0.ATSRECERR beside what the full profile has; RECINVSID and REC_CFG_ATS of CR2 (3.9.1.2). No STE beside it: C_BAD_STE.
    let full = Profile::Full.id_registers();
    for (cr2, bad_stream, bad_ste) in [(0, 0, 0), (2, 0, 0), (8, 0, 1), (10, 1, 1)] {
        let mut direct = Direct::with_ids(IdRegisters { idr0: full.idr0 | 1 << 23, ..full });
        direct.enable(0);
        direct.write(CR2, cr2);
        for (log2, number, times) in [(8, 0x02, bad_stream), (9, 0x04, bad_ste)] {
            direct.enable(0xe);
            direct.write(STRTAB_BASE_CFG, log2);
            direct.enable(ALL_ON);
            assert_eq!(direct.request(0x5000, READ, None), Completion::CompleterAbort);
            let numbers: Vec<u64> = direct.take_events().iter().map(|record| record[0]).collect();
            assert_eq!(numbers, std::vec![0x100_0000_0000 | number; times], "{cr2:x}");
        }
    }
}
