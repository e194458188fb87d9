//! What records tell: 7.3.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::engine::registers as reg;
use crate::model::profile::Profile;
use crate::model::smmu::{Issued, diagnostics};

// Word 1 of a record (7.3.12 to 7.3.16): RnW, InD, PnU, CLASS = CD, TTRnW.
pub(super) const RNW: u64 = 1 << 35;
const IND: u64 = 1 << 34;
const PNU: u64 = 1 << 33;
pub(super) const CD: u64 = 0;
const TTRNW: u64 = 1 << 44;

/// ATSCHK beside all queues, and EATS for split-stage ATS.
pub(super) const CHECKED: u32 = ALL_ON | 1 << 4;
pub(super) const SPLIT: u64 = 2 << 28;
/// STE.MEV.
const MEV: u64 = 1 << 19;

/// The Access flag of a leaf, at both stages.
pub(super) const AF: u64 = 1 << 10;
/// CD.HA.
const HA: u64 = 1 << 43;
/// Word 0 of a CD whose upper half is one of 39 bits too: without EPD1, T1SZ 25, TG1 4 KiB.
const BOTH_HALVES: u64 = CD0 & !(1 << 30) | 25 << 16 | 2 << 22 | CD_R | CD_A;
/// An address with more bits than S2PS 0b010, 40.
pub(super) const BEYOND_S2PS: u64 = 1 << 40;

/// What stage 2 translates for an access to 0x5008 in [`Direct::nested_in_pages`], with CLASS.
const WAYS: [(u64, u64); 3] = [(IPA_OF_CD, CD), (IPA_OF_TABLE, TT), (IPA_OF_PAGE, IN)];

/// Both stages. Neither the CD nor stage 1 wants records.
pub(super) fn nested() -> Direct {
    Direct::nested_in_pages(0, CD_A)
}

/// The record of a read of 0x5008 after the stage 2 leaf of `ipa` was changed.
fn fault_after(ipa: u64, change: impl Fn(u64) -> u64) -> [u64; 4] {
    let mut direct = nested();
    direct.change2(ipa, change);
    direct.fault(0x5008, READ)
}

pub(super) fn stage1(word1: u64, cd: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(word1, CD_R | CD_A | cd);
    direct
}

/// Stage 2 alone, with nothing mapped below 1 GiB.
fn stage2() -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 | S2R);
    direct
}

pub(super) fn response(direct: &mut Direct, substream: Option<u32>) -> Response {
    match direct.issue(0x5008, READ, substream) {
        Issued::Ended(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fixture_translates() {
    assert_eq!(nested().reaches(0x5008, READ), DATA + 8);
}

#[test]
fn records_lie_one_behind_the_other_and_what_they_do_not_define_is_0() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for word in 0..16 {
        direct.poke(EVENTS + word * 8, !0);
    }
    direct.access(0x5008, WRITE);
    direct.set_ste(0xd, STE1, STE2 | S2R);
    direct.invalidate();
    direct.access(0x5008, WRITE);
    direct.access(0x6008, READ);
    // C_BAD_STE; F_TRANSLATION at stage 2, whose NSIPA is 0 (7.3.13).
    let expected = [
        [0x100_0000_0004, 0, 0, 0],
        [0x100_0000_0010, S2 | IN, 0x5008, 0x5000],
        [0x100_0000_0010, S2 | IN | RNW, 0x6008, 0x6000],
        [!0; 4],
    ];
    for (word, expected) in expected.as_flattened().iter().enumerate() {
        assert_eq!(direct.peek(EVENTS + word as u64 * 8), *expected, "{word}");
    }
}

/// A 2-level stream table of 2^16 StreamIDs with SPLIT 6, whose level 1 descriptor for the stream is this.
fn two_level(descriptor: u64) -> Direct {
    let mut direct = Direct::off(0);
    direct.write(STRTAB_BASE_CFG, 1 << 16 | 6 << 6 | 16);
    direct.poke(STREAMS + 4 * 8, descriptor);
    direct.write(CR0, ALL_ON);
    direct.step();
    direct
}

#[test]
fn level_1_stream_descriptor_that_cannot_be_read_is_f_ste_fetch() {
    let mut direct = two_level(0);
    direct.refuse_reads(STREAMS..STREAMS + 0x100);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0003, 0, 0, STREAMS + 0x20]);
}

#[test]
fn fetch_address_tells_only_bits_that_a_physical_address_has() {
    // OAS is 48 bits (7.3.4, 3.4.3). Span 7: 64 STEs.
    let mut direct = two_level(1 << 50 | 0x4002_0000 | 7);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0003, 0, 0, 0x4002_0000]);
}

#[test]
fn fetch_address_is_that_of_the_structure_that_was_wanted() {
    // The STE, the CD of SubstreamID 3, the level 2 descriptor of 0x5008.
    let mut direct = stage1(0, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 2 << 59, STE1, 0);
    direct.refuse_reads(STREAMS..CDS);
    assert_eq!(response(&mut direct, Some(3)), Response::Abort);
    assert_eq!(direct.take_event(), [0x100_0000_3803, 0, 0, STREAMS + 0x4000]);
    direct.refuse_reads(CDS..TABLES);
    assert_eq!(response(&mut direct, Some(3)), Response::Abort);
    assert_eq!(direct.take_event(), [0x100_0000_3809, 0, 0, CDS + 0xc0]);
    direct.refuse_reads(TABLES + 0x1000..TABLES + 0x2000);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.set_ste(STE0_STAGE1 | CDS, STE1, 0);
    direct.invalidate();
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000b, RNW | TT, 0x5008, TABLES + 0x1000]);
}

#[test]
fn translated_access_of_a_bypassed_stream_is_forbidden_when_it_is_checked() {
    for eats in 0..4 {
        let mut direct = Direct::enabled(CHECKED, 0);
        direct.set_ste(9, STE1 | eats << 28, 0);
        assert_eq!(direct.translated(DATA, READ), Response::Abort);
        assert_eq!(direct.take_event(), [0x100_0000_0007, RNW, DATA, 0], "EATS {eats}");
    }
}

#[test]
fn level_1_context_descriptor_without_v_is_c_bad_substreamid() {
    let mut direct = stage1(0, 0);
    // S1Fmt 1, S1CDMax 8; SubstreamID 0x43 is behind level 1 descriptor 1, here all ones but V.
    direct.set_ste(STE0_STAGE1 | 0x4017_0000 | 8 << 59 | 1 << 4, STE1, 0);
    direct.poke(0x4017_0008, !1);
    assert_eq!(response(&mut direct, Some(0x43)), Response::Abort);
    assert_eq!(direct.take_event(), [0x100_0004_3008, 0, 0, 0]);
}

#[test]
fn level_2_context_table_beyond_the_ipas_is_c_bad_substreamid() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xf | 0x4017_0000 | 8 << 59 | 1 << 4, STE1, STE2 | S2R);
    direct.poke(0x4017_0008, 1 << 48 | 1);
    assert_eq!(response(&mut direct, Some(0x43)), Response::Abort);
    assert_eq!(direct.take_event(), [0x100_0004_3008, 0, 0, 0]);
}

#[test]
fn flag_update_that_is_aborted_is_f_walk_eabt() {
    let mut direct = stage1(0, HA);
    direct.map(0x5000, DATA, PAGE_RW & !AF);
    direct.refuse_writes(TABLES..DATA);
    let leaf = TABLES + 0x2028;
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000b, RNW | TT, 0x5008, leaf]);
    // RnW is the transaction's, also where the walk only reads.
    direct.refuse_reads(leaf..leaf + 8);
    assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_000b, TT, 0x5008, leaf]);
    // Of a leaf of stage 2.
    for (ipa, class) in WAYS {
        let mut direct = Direct::nested_in_pages(S2HA, CD_A);
        direct.change2(ipa, |leaf| leaf & !AF);
        direct.refuse_writes(leaf2(ipa)..leaf2(ipa) + 8);
        assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000b, RNW | S2 | class, 0x5008, leaf2(ipa)]);
    }
    let mut direct = stage2();
    direct.set_ste_word(2, STE2 | S2R | S2HA);
    direct.map2(0x5000, DATA, S2_RW & !AF);
    direct.refuse_writes(leaf2(0x5000)..leaf2(0x5000) + 8);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000b, RNW | S2 | IN, 0x5008, leaf2(0x5000)]);
}

#[test]
fn stage2_table_that_cannot_be_read_tells_what_was_translated() {
    for (ipa, class) in WAYS {
        let mut direct = nested();
        direct.refuse_reads(leaf2(ipa)..leaf2(ipa) + 8);
        // The address of the stage 2 descriptor.
        assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000b, RNW | S2 | class, 0x5008, leaf2(ipa)]);
    }
    let mut direct = stage2();
    direct.refuse_reads(leaf2(0x5000)..leaf2(0x5000) + 8);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000b, RNW | S2 | IN, 0x5008, leaf2(0x5000)]);
}

#[test]
fn stage2_records_tell_the_substream_and_the_access_after_overrides() {
    for (overrides, access, told) in [
        // PRIVCFG and INSTCFG: as it came; unprivileged data; privileged instruction.
        (0, READ, RNW),
        (0, WRITE, 0),
        (0, FETCH, RNW | IND),
        (0, privileged(WRITE), PNU),
        (2 << 48 | 2 << 50, privileged(FETCH), RNW),
        (3 << 48 | 3 << 50, READ, RNW | IND | PNU),
        (3 << 48 | 3 << 50, WRITE, PNU),
    ] {
        // S1CDMax 2: the CD of SubstreamID 3 leads to IPA 0x9000.
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(0xf | CDS | 2 << 59, STE1 | overrides, STE2 | S2R);
        direct.poke(CDS + 0xc8, TABLES);
        direct.poke(CDS + 0xc0, CD0 | CD_A);
        direct.map(0x5000, 0x9000, if access.write { PAGE_RW } else { PAGE_RO });
        // F_WALK_EABT, then F_TRANSLATION.
        direct.refuse_reads(leaf2(0x9000)..leaf2(0x9000) + 8);
        for (number, last) in [(0x0b, leaf2(0x9000)), (0x10, 0x9000)] {
            assert_eq!(direct.issue(0x5008, access, Some(3)), Issued::Ended(Response::Abort));
            let record = [0x100_0000_3800 | number, S2 | IN | told, 0x5008, last];
            assert_eq!(direct.take_event(), record, "{overrides:x} {access:?}");
            direct.refuse_reads(0..0);
        }
    }
}

#[test]
fn stage2_translation_fault_tells_what_was_translated() {
    for (ipa, class) in WAYS {
        assert_eq!(fault_after(ipa, |_| 0), [0x100_0000_0010, RNW | S2 | class, 0x5008, ipa]);
    }
    assert_eq!(stage2().fault(0x5008, READ), [0x100_0000_0010, RNW | S2 | IN, 0x5008, 0x5000]);
    // Of stage 1: S2 is 0, CLASS is IN.
    let mut direct = stage1(0, 0);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0010, RNW | IN, 0x5008, 0]);
}

#[test]
fn address_that_neither_half_translates_is_f_translation() {
    const TOP: u64 = 0xffff_ff80_0000_0000;
    let mut direct = stage1(0, 0);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.poke(CDS + 16, TABLES);
    // Both halves; EPD0; EPD1. What is translated ends at the 39 bits of T0SZ and T1SZ.
    for (disabled, lower, upper) in [(0, true, true), (1 << 14, false, true), (1 << 30, true, false)] {
        direct.poke(CDS, BOTH_HALVES | disabled);
        direct.invalidate();
        for (address, translated) in
            [(0x5008, lower), (TOP + 0x5008, upper), (0x80_0000_5008, false), (TOP - 0x80_0000_0000 + 0x5008, false)]
        {
            if translated {
                assert_eq!(direct.reaches(address, READ), DATA + 8);
            } else {
                assert_eq!(direct.fault(address, READ), [0x100_0000_0010, RNW | IN, address, 0]);
            }
        }
    }
}

#[test]
fn stage2_address_size_fault_tells_what_was_translated() {
    for (ipa, class) in WAYS {
        let record = fault_after(ipa, |leaf| leaf | BEYOND_S2PS);
        assert_eq!(record, [0x100_0000_0011, RNW | S2 | class, 0x5008, ipa]);
    }
    // Of a table descriptor.
    let mut direct = nested();
    direct.poke(STAGE2 + 0x1000, BEYOND_S2PS | 3);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0011, RNW | S2 | CD, 0x5008, 0xa000]);
}

#[test]
fn stage2_access_fault_tells_what_was_translated() {
    for (ipa, class) in WAYS {
        assert_eq!(fault_after(ipa, |leaf| leaf & !AF), [0x100_0000_0012, RNW | S2 | class, 0x5008, ipa]);
    }
}

#[test]
fn stage2_permission_fault_tells_what_was_translated() {
    // S2AP[0] = 0: no reading.
    for ((ipa, class), read) in WAYS.into_iter().zip([0, TTRNW, 0]) {
        let record = fault_after(ipa, |leaf| leaf & !(1 << 6));
        assert_eq!(record, [0x100_0000_0013, RNW | S2 | class | read, 0x5008, ipa]);
    }
}

#[test]
fn stage1_permission_fault_goes_by_the_leaf_and_the_tables_for_what_the_record_tells() {
    for (leaf, limit, access, told) in [
        // AP[2], AP[1], UXN, PXN.
        (PAGE_RO, 0, WRITE, 0),
        (PAGE_RO, 0, privileged(WRITE), PNU),
        (PAGE_RW & !(1 << 6), 0, READ, RNW),
        (PAGE_RO | 1 << 54, 0, FETCH, RNW | IND),
        (PAGE_RO | 1 << 53, 0, privileged(FETCH), RNW | IND | PNU),
        // APTable[1], APTable[0], UXNTable, PXNTable, of the level 1 descriptor.
        (PAGE_RW, 1 << 62, privileged(WRITE), PNU),
        (PAGE_RW, 1 << 61, READ, RNW),
        (PAGE_RO, 1 << 60, FETCH, RNW | IND),
        (PAGE_RO, 1 << 59, privileged(FETCH), RNW | IND | PNU),
    ] {
        let mut direct = stage1(0, 0);
        direct.map(0x5000, DATA, leaf);
        direct.poke(TABLES, (TABLES + 0x1000) | 3 | limit);
        let record = [0x100_0000_0013, told | IN, 0x5008, 0];
        assert_eq!(direct.fault(0x5008, access), record, "{leaf:x} {limit:x} {access:?}");
        // And by nothing else.
        direct.map(0x5000, DATA, if access.write { PAGE_RW } else { PAGE_RO });
        direct.invalidate();
        assert_eq!(direct.reaches(0x5008, access), DATA + 8);
    }
}

#[test]
fn stage2_permission_fault_goes_by_s2ap_and_xn_for_what_the_record_tells() {
    for (permissions, access, told) in [
        // S2AP[0], S2AP[1]; XN = 0b10: nobody, 0b01: unprivileged alone, 0b11: privileged alone.
        (S2_RW & !(1 << 6), READ, RNW),
        (S2_RW & !(1 << 7), WRITE, 0),
        (S2_RW | 2 << 53, FETCH, RNW | IND),
        (S2_RW | 1 << 53, privileged(FETCH), RNW | IND | PNU),
        (S2_RW | 3 << 53, FETCH, RNW | IND),
    ] {
        let mut direct = stage2();
        direct.map2(0x5000, DATA, permissions);
        assert_eq!(direct.fault(0x5008, access), [0x100_0000_0013, told | S2 | IN, 0x5008, 0x5000], "{permissions:x}");
        direct.map2(0x5000, DATA, S2_RW);
        direct.invalidate();
        assert_eq!(direct.reaches(0x5008, access), DATA + 8);
    }
}

#[test]
fn stage1_tables_and_cds_are_read_as_data() {
    // XN = 0b10 at stage 2 does not stop the walk of an instruction fetch; it stops the fetch itself.
    let mut direct = nested();
    for ipa in [0xa000, 0xb000] {
        direct.change2(ipa, |leaf| leaf | 2 << 53);
    }
    assert_eq!(direct.reaches(0x5008, FETCH), DATA + 8);
    let mut direct = nested();
    direct.change2(0x9000, |leaf| leaf | 2 << 53);
    assert_eq!(direct.fault(0x5008, FETCH), [0x100_0000_0013, RNW | IND | S2 | IN, 0x5008, 0x9000]);
}

#[test]
fn tables_out_of_range_are_bad_configuration_and_no_address_size_fault() {
    // TTB0 and TTB1 beyond IPS, S2TTB beyond S2PS: 32 bits each.
    let c_bad_cd = [0x100_0000_000a, 0, 0, 0];
    for (ttb0, ttb1, record) in [
        (1 << 32, TABLES, c_bad_cd),
        (TABLES, 1 << 32, c_bad_cd),
        // Only that was wrong.
        (TABLES, TABLES, [0x100_0000_0010, RNW | IN, 0x5008, 0]),
    ] {
        let mut direct = stage1(0, 0);
        direct.poke(CDS, BOTH_HALVES & !(7 << 32));
        direct.poke(CDS + 8, ttb0);
        direct.poke(CDS + 16, ttb1);
        assert_eq!(direct.fault(0x5008, READ), record, "{ttb0:x} {ttb1:x}");
    }
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 & !(7 << 48) | S2R);
    direct.poke(STREAMS + STREAM * 64 + 24, 1 << 32);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_0004, 0, 0, 0]);
}

#[test]
fn address_of_a_skipped_stage1_has_the_bits_of_an_ipa() {
    // S1CDMax 2, S1DSS 1, without and with stage 2, whose range, of 39 bits, is not asked.
    for (word0, word2) in [(STE0_STAGE1, 0), (0xf, STE2 | S2R)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(word0 | CDS | 2 << 59, STE1 | 1, word2);
        assert_eq!(direct.fault(1 << 48, READ), [0x100_0000_0011, RNW | IN, 1 << 48, 0]);
    }
}

#[test]
fn configuration_errors_abort_even_where_faults_would_not() {
    // CD.A is 0. C_BAD_SUBSTREAMID, F_WALK_EABT, F_CD_FETCH, C_BAD_CD, F_STREAM_DISABLED.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, 0);
    assert_eq!(direct.access(0x5008, READ), Response::Ignored);
    assert_eq!(response(&mut direct, Some(1)), Response::Abort);
    direct.refuse_reads(TABLES..TABLES + 8);
    assert_eq!(response(&mut direct, None), Response::Abort);
    direct.refuse_reads(CDS..CDS + 8);
    direct.invalidate();
    assert_eq!(response(&mut direct, None), Response::Abort);
    direct.refuse_reads(0..0);
    direct.poke(CDS, CD0 & !(1 << 41));
    direct.invalidate();
    assert_eq!(response(&mut direct, None), Response::Abort);
    direct.set_ste(STE0_STAGE1 | CDS | 2 << 59, STE1, 0);
    direct.invalidate();
    assert_eq!(response(&mut direct, None), Response::Abort);
    let numbers = direct.take_events().into_iter().map(|record| record[0] & 0xff);
    assert!(numbers.eq([0x08, 0x0b, 0x09, 0x0a, 0x06]));
    // F_TLB_CONFLICT: a page that is kept becomes part of a block, which is found by way of another page.
    let mut direct = stage1(0, 0);
    direct.poke(CDS, CD0 | CD_R);
    for page in [0x5000, 0x6000] {
        direct.map(page, DATA, PAGE_RW);
    }
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.poke(TABLES + 0x1000, DATA | PAGE_RW & !2);
    // CMD_TLBI_NH_VA, VMID 0, ASID 1, Leaf 0.
    direct.command([0x12 | 1 << 48, 0x6000]);
    assert_eq!(direct.reaches(0x6000, READ), DATA + 0x6000);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0020, RNW, 0x5000, 0]);
}

#[test]
fn stalls_of_one_stream_have_tags_of_their_own() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_S | CD_A);
    let mut tags = std::collections::BTreeSet::new();
    for _ in 0..4 {
        for page in 0..16 {
            direct.stall(0x5000 + page * 0x1000, WRITE);
        }
        assert!(direct.take_events().iter().all(|record| tags.insert(record[1] & 0xffff)));
    }
    assert_eq!(tags.len(), 64);
    // One that went on early keeps its own until it is answered.
    let mut direct = Direct::stalling(diagnostics::control::EARLY_RETRY);
    let (slot, unanswered) = direct.tagged(0x5008);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.poll(slot), through(DATA + 8));
    let tags: Vec<u64> = (1..64).map(|page| direct.tagged(0x5000 + page * 0x1000).1).collect();
    assert!(!tags.contains(&unanswered));
    assert_eq!(direct.issue(0x4_5000, WRITE, None), Issued::NoRoom);
}

#[test]
fn substreams_that_may_not_be_used_are_f_stream_disabled() {
    // S1CDMax 2. S1DSS 0: none; S1DSS 2: SubstreamID 0.
    for (dss, substream) in [(0, None), (2, Some(0))] {
        let mut direct = stage1(0, 0);
        direct.set_ste(STE0_STAGE1 | CDS | 2 << 59, STE1 | dss, 0);
        assert_eq!(response(&mut direct, substream), Response::Abort);
        assert_eq!(direct.take_event(), [0x100_0000_0006, 0, 0, 0]);
    }
}

#[test]
fn every_substream_is_bad_where_there_are_none() {
    // IDR1.SSIDSIZE is 0, and S1CDMax ignored; the engine's stream is 0.
    let mut bench = Bench::of(Profile::Small);
    bench.set_up();
    bench.enable(ALL_ON);
    bench.attach(0, 0, 0, CD_A);
    bench.set_ste(0, STE0_STAGE1 | CDS | 2 << 59, STE1);
    bench.set_engine64(0, reg::DESTINATION, 0x5000);
    bench.set_engine64(0, reg::LENGTH, 8);
    bench.set_engine(0, reg::PASID, 1);
    bench.set_engine(0, reg::CONTROL, 0x111);
    bench.run();
    assert_eq!((bench.state(0), bench.peek(EVENTS)), (3, 0x1008));
}

#[test]
fn like_records_are_not_merged_unless_the_model_is_told() {
    let mut direct = stage1(MEV, 0);
    direct.access(0x5008, READ);
    direct.access(0x5008, READ);
    assert_eq!(direct.take_events(), [[0x100_0000_0010, RNW | IN, 0x5008, 0]; 2]);
}

#[test]
fn records_of_any_configuration_have_numbers_that_7_3_defines() {
    // Xorshift (Marsaglia 2003).
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut seen = std::collections::BTreeSet::new();
    let mut direct = nested();
    let base =
        [STREAMS + STREAM * 64, CDS + 0x40, TABLES, TABLES + 0x1000, TABLES + 0x2028, leaf2(0xb000), leaf2(0x9000)];
    for _ in 0..4000 {
        // One or two bits of what the access depends on are wrong.
        let changes = [(); 2].map(|()| (base[random() as usize % 7] + random() % 4 * 8, 1 << (random() % 64)));
        for (at, bit) in changes {
            direct.poke(at, direct.peek(at) ^ bit);
        }
        direct.invalidate();
        let substream = (random() % 4 == 0).then_some(random() as u32 & 3);
        direct.issue(0x5008, if random() % 2 == 0 { READ } else { WRITE }, substream);
        let records = direct.take_events();
        assert!(records.len() <= 1, "{records:x?}");
        seen.extend(records.iter().map(|record| record[0] & 0xff));
        for (at, bit) in changes {
            direct.poke(at, direct.peek(at) ^ bit);
        }
    }
    let defined = [0x04, 0x06, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x11, 0x12, 0x13];
    assert!(seen.iter().all(|number| defined.contains(number)) && seen.len() > 5, "{seen:x?}");
}

#[test]
fn write_is_of_data_whatever_the_device_calls_it() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    direct.leaf_at(0);
    // A write that is marked as an instruction access, and INSTCFG = instruction: InD = 0 (7.3).
    let marked = crate::smmuv3::Access { execute: true, ..WRITE };
    assert_eq!(direct.fault(0x5000, marked), [0x100_0000_0010, IN, 0x5000, 0]);
    direct.set_ste_word(1, STE1 | 3 << 50);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0010, IN, 0x5000, 0]);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0010, IN | RNW | IND, 0x5000, 0]);
}
