//! ATS translation requests and translated accesses, by every error and fault that they may meet: 3.9, 3.9.1, 3.9.2.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::smmu::Issued;
use crate::smmuv3::PhysAddr;

/// ATSCHK beside all queues.
const CHECKED: u32 = ALL_ON | 1 << 4;
/// Split-stage ATS.
const SPLIT: u64 = 2 << 28;
const AF: u64 = 1 << 10;

fn page(output: u64, write: bool) -> Completion {
    Completion::Success { page: PhysAddr(output), span: 12, read: true, write, execute: false, privileged: false }
}

fn through(physical: u64) -> Response {
    Response::Physical(PhysAddr(physical))
}

/// Both stages with full ATS, recording everything that may be.
fn nested() -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.nest(EATS, S2R, CD_R | CD_A);
    direct
}

/// A request that is answered so, without a record.
#[track_caller]
fn silently(direct: &mut Direct, completion: Completion) {
    assert_eq!(direct.request(0x5000, WRITE, None), completion);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn substream_where_stage_1_is_off_is_c_bad_substreamid() {
    // Config = bypass and stage 2; PASIDs wider than SSIDSIZE, which is 8, whatever S1CDMax.
    let mut direct = Direct::enabled(ALL_ON, 0);
    for config in [4, 6] {
        direct.set_ste(1 | config << 1, STE1, STE2 | S2R);
        direct.invalidate();
        assert_eq!(direct.issue(0x5000, WRITE, Some(1)), Issued::Ended(Response::Abort));
        assert_eq!(direct.take_event(), [0x100_0000_1008, 0, 0, 0]);
    }
    direct.set_ste(STE0_STAGE1 | CDS | 8 << 59, STE1, 0);
    direct.invalidate();
    direct.set_cd(CD_A, TABLES);
    assert_eq!(direct.issue(0x5000, WRITE, Some(0x100)), Issued::Ended(Response::Abort));
    assert_eq!(direct.take_event(), [0x100_0010_0008, 0, 0, 0]);
}

#[test]
fn stage_1_faults_of_a_request_grant_nothing() {
    // F_ADDR_SIZE with IPS of 32 bits; F_ACCESS; F_TRANSLATION with CD.A = 0 and with CD.S = 1 (3.9.1.2).
    for (cd, leaf) in [
        (CD_R | CD_A, 0x1_0000_0000 | PAGE_RW),
        (CD_R | CD_A, DATA | PAGE_RW & !AF),
        (CD_R, 0),
        (CD_S | CD_R | CD_A, 0),
    ] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(EATS, cd);
        direct.poke(CDS, (CD0 | cd) & !(7 << 32));
        direct.poke(direct.leaf_at(0x5000), leaf);
        silently(&mut direct, NOTHING);
        assert_eq!(direct.read(crate::model::smmu::diagnostics::STALLED as u64), 0);
    }
}

#[test]
fn stage_2_faults_of_the_ipa_of_a_request_grant_nothing() {
    // F_TRANSLATION, F_ADDR_SIZE with S2PS of 32 bits, F_ACCESS.
    for leaf in [0, 0x1_0000_0000 | S2_RW, DATA | S2_RW & !AF] {
        let mut direct = nested();
        direct.set_ste(0xf | CDS, STE1 | EATS, (STE2 | S2R) & !(7 << 48));
        direct.map(0x5000, 0x9000, PAGE_RW);
        direct.map2(0x9000, leaf, 0);
        silently(&mut direct, NOTHING);
    }
}

#[test]
fn stage_2_faults_of_the_way_to_the_page_of_a_request_grant_nothing() {
    // Translation and permission, of the level 3 table of stage 1 and of the CD.
    for leaf in [0, S2_RW & !(1 << 6)] {
        let mut direct = nested();
        direct.map(0x5000, 0x9000, PAGE_RW);
        direct.map2(0x9000, DATA, S2_RW);
        direct.poke(TABLES + 0x1000, 0xb000 | 3);
        direct.map2(0xb000, if leaf == 0 { 0 } else { TABLES + 0x2000 }, leaf);
        silently(&mut direct, NOTHING);
        let mut direct = nested();
        direct.set_ste(0xf | 0xa000, STE1 | EATS, STE2 | S2R);
        direct.map2(0xa000, if leaf == 0 { 0 } else { CDS }, leaf);
        silently(&mut direct, NOTHING);
    }
}

#[test]
fn what_stage_1_grants_nothing_of_is_not_looked_up_at_stage_2() {
    // Privileged only at stage 1; at stage 2 the Access flag is clear, with S2HA.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(EATS, S2R | S2HA, CD_A);
    direct.map(0x5000, 0x9000, PAGE_RW & !(1 << 6));
    direct.map2(0x9000, DATA, S2_RW & !AF);
    silently(&mut direct, NOTHING);
    assert_eq!(direct.peek(STAGE2_PAGES + 0x48), DATA | S2_RW & !AF);
    // Where the level 3 table of stage 2 would be there is no memory.
    direct.poke(STAGE2 + 0x1000, END | 3);
    direct.invalidate();
    silently(&mut direct, NOTHING);
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.invalidate();
    silently(&mut direct, Completion::CompleterAbort);
}

#[test]
fn configuration_errors_of_a_request_are_completer_abort_without_a_record() {
    // C_BAD_STREAMID, with and without RECINVSID (bit 1 of CR2, which is guarded by SMMUEN).
    for recinvsid in [2, 0] {
        let mut direct = Direct::enabled(ALL_ON & !1, 0);
        direct.write(CR2, recinvsid);
        direct.write(STRTAB_BASE_CFG, 8);
        direct.enable(ALL_ON);
        silently(&mut direct, Completion::CompleterAbort);
    }
    // F_STE_FETCH.
    let mut direct = Direct::enabled(ALL_ON & !1, 0);
    direct.write64(STRTAB_BASE, END);
    direct.enable(ALL_ON);
    silently(&mut direct, Completion::CompleterAbort);
    // F_STREAM_DISABLED: S1CDMax 1, S1DSS 0, no PASID.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | EATS, 0);
    silently(&mut direct, Completion::CompleterAbort);
    // F_WALK_EABT of stage 1, and of stage 2.
    let mut direct = nested();
    direct.poke(TABLES, END | 3);
    silently(&mut direct, Completion::CompleterAbort);
    let mut direct = nested();
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.poke(STAGE2 + 0x1000, END | 3);
    silently(&mut direct, Completion::CompleterAbort);
}

#[test]
fn device_can_tell_what_it_may_not_ask_from_what_is_in_error() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for (word0, eats, completion) in [
        (1, EATS, Completion::UnsupportedRequest),
        (9, EATS, Completion::UnsupportedRequest),
        (STE0_STAGE1 | CDS, 0, Completion::UnsupportedRequest),
        // Without ATSCHK.
        (0xf | CDS, SPLIT, Completion::UnsupportedRequest),
        (0, EATS, Completion::CompleterAbort),
        (STE0_STAGE1 | END, EATS, Completion::CompleterAbort),
    ] {
        direct.set_ste(word0, STE1 | eats, STE2);
        direct.invalidate();
        assert_eq!(direct.request(0x5000, READ, None), completion, "{word0:x} {eats:x}");
    }
    direct.enable(ALL_ON & !1);
    assert_eq!(direct.request(0x5000, READ, None), Completion::UnsupportedRequest);
}

#[test]
fn translated_access_of_a_bad_stream_aborts_silently_and_only_with_atschk() {
    for (cr0, response) in [(CHECKED, Response::Abort), (ALL_ON, through(DATA))] {
        // C_BAD_STREAMID, with RECINVSID; F_STE_FETCH.
        for (base, size) in [(STREAMS, 8), (END, 9)] {
            let mut direct = Direct::enabled(ALL_ON & !1, 0);
            direct.write64(STRTAB_BASE, base);
            direct.write(STRTAB_BASE_CFG, size);
            direct.enable(cr0);
            assert_eq!(direct.translated(DATA, READ), response);
            assert_eq!(direct.take_events().len(), 0);
        }
    }
}

#[test]
fn translated_access_counts_as_unprivileged_data_without_pasid() {
    let mut direct = Direct::enabled(CHECKED, 0);
    direct.nest(SPLIT, S2R, CD_A);
    // Privileged, and an instruction fetch; stage 2 grants neither execution nor, to this page, anything.
    direct.map2(0x9000, DATA, S2_RW | 2 << 53);
    assert_eq!(direct.translated(0x9008, privileged(FETCH)), through(DATA + 8), "a read of data");
    assert_eq!(direct.translated(0xa008, privileged(FETCH)), Response::Abort);
    // SSV, PnU and InD are 0, RnW (bit 35) is 1.
    let record = [0x100_0000_0010, S2 | IN | 1 << 35, 0xa008, 0xa000];
    assert_eq!(direct.take_event(), record);
    assert_eq!(direct.translated_with(0xa008, privileged(FETCH), Some(1)), Response::Abort);
    assert_eq!(direct.take_event(), record);
    // EATS = 0 with ATSCHK: F_TRANSL_FORBIDDEN.
    direct.nest(0, S2R, CD_A);
    direct.invalidate();
    assert_eq!(direct.translated(0x9008, privileged(FETCH)), Response::Abort);
    assert_eq!(direct.take_event(), [0x100_0000_0007, 1 << 35, 0x9008, 0]);
}

#[test]
fn overrides_change_what_stage_2_checks_of_a_translated_access() {
    // Execution for privileged accesses alone (XN 3); INSTCFG 3 makes reads fetches, PRIVCFG 3 makes them privileged.
    for (word1, response) in
        [(0, through(DATA)), (3 << 50, Response::Abort), (3 << 48, through(DATA)), (3 << 50 | 3 << 48, through(DATA))]
    {
        let mut direct = Direct::enabled(CHECKED, 0);
        direct.nest(SPLIT | word1, S2R, CD_A);
        direct.map2(0x9000, DATA, S2_RW | 3 << 53);
        assert_eq!(direct.translated(0x9000, READ), response, "{word1:x}");
    }
}

#[test]
fn atschk_and_the_ste_together_say_what_becomes_of_translated_accesses() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A);
    assert_eq!(direct.translated(DATA, READ), through(DATA));
    for (cr0, response) in [(CHECKED, Response::Abort), (ALL_ON, through(DATA)), (CHECKED, Response::Abort)] {
        direct.enable(cr0);
        // CMD_CFGI_STE with Leaf, CMD_SYNC (3.9.2).
        direct.command([0x03 | STREAM << 32, 1]);
        direct.command([0x46, 0]);
        assert_eq!(direct.translated(DATA, READ), response);
    }
}

#[test]
fn eats_is_followed_after_cfgi_ste_and_sync() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.map(0x5000, DATA, PAGE_RW);
    for (eats, completion) in
        [(0, Completion::UnsupportedRequest), (EATS, page(DATA, true)), (0, Completion::UnsupportedRequest)]
    {
        direct.stage1(eats, CD_A);
        direct.command([0x03 | STREAM << 32, 1]);
        direct.command([0x46, 0]);
        assert_eq!(direct.request(0x5000, WRITE, None), completion);
    }
}

#[test]
fn request_after_tlbi_and_sync_gets_the_new_translation() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(EATS, CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.request(0x5000, WRITE, None), page(DATA, true));
    direct.map(0x5000, DATA + 0x1000, PAGE_RO);
    direct.command([0x13, 0x5000]);
    direct.command([0x46, 0]);
    assert_eq!(direct.request(0x5000, WRITE, None), page(DATA + 0x1000, false));
    assert_eq!(direct.devices.invalidations.len(), 0, "nothing of that was passed on");
}

#[test]
fn request_without_a_pasid_is_one_of_unprivileged_data() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(EATS, CD_A);
    // For privileged accesses alone (AP[1] = 0), and for all.
    direct.map(0x5000, DATA, PAGE_RW & !(1 << 6));
    direct.map(0x6000, DATA, PAGE_RW);
    assert_eq!(direct.request(0x5000, privileged(FETCH), None), NOTHING);
    assert_eq!(direct.request(0x6000, privileged(FETCH), None), page(DATA, false));
}
