//! What records tell, and which of several errors is told: 7.3.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::engine::registers as reg;
use crate::model::profile::Profile;
use crate::model::smmu::Issued;
use crate::smmuv3::features::IdRegisters;

// Word 1 of a record (7.3.12 to 7.3.16): RnW, InD, S2, CLASS, TTRnW.
const RNW: u64 = 1 << 35;
const IND: u64 = 1 << 34;
const S2: u64 = 1 << 39;
const CD: u64 = 0;
const TT: u64 = 1 << 40;
const IN: u64 = 2 << 40;
const TTRNW: u64 = 1 << 44;

/// ATSCHK beside all queues, and EATS for split-stage ATS.
const CHECKED: u32 = ALL_ON | 1 << 4;
const SPLIT: u64 = 2 << 28;
/// STE.MEV.
const MEV: u64 = 1 << 19;

/// The Access flag of a leaf, at both stages.
const AF: u64 = 1 << 10;
/// CD.HA.
const HA: u64 = 1 << 43;
/// An address with more bits than S2PS 0b010, 40.
const BEYOND_S2PS: u64 = 1 << 40;

/// What stage 2 translates for an access to 0x5008 in [`Direct::nested_in_pages`], with CLASS.
const WAYS: [(u64, u64); 3] = [(IPA_OF_CD, CD), (IPA_OF_TABLE, TT), (IPA_OF_PAGE, IN)];

/// Both stages. Neither the CD nor stage 1 wants records.
fn nested() -> Direct {
    Direct::nested_in_pages(0, CD_A)
}

/// The record of a read of 0x5008 after the stage 2 leaf of `ipa` was changed.
fn fault_after(ipa: u64, change: impl Fn(u64) -> u64) -> [u64; 4] {
    let mut direct = nested();
    direct.change2(ipa, change);
    direct.fault(0x5008, READ)
}

fn stage1(word1: u64, cd: u64) -> Direct {
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

fn response(direct: &mut Direct, substream: Option<u32>) -> Response {
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
    // TTB0 beyond IPS, S2TTB beyond S2PS: 32 bits each.
    let mut direct = stage1(0, 0);
    direct.poke(CDS + 8, 1 << 32);
    direct.poke(CDS, CD0 & !(7 << 32) | CD_R | CD_A);
    assert_eq!(direct.fault(0x5008, READ), [0x100_0000_000a, 0, 0, 0]);
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
}

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
fn translation_requests_are_recorded_only_where_ats_is_off() {
    // With a PASID: SSV and SubstreamID (7.3.6).
    let mut direct = stage1(0, 0);
    assert_eq!(direct.request(0x5678, READ, Some(1)), Completion::UnsupportedRequest);
    assert_eq!(direct.take_event(), [0x100_0000_1805, 0, 0x5000, 0]);
    let stage1 = STE0_STAGE1 | CDS;
    for (word0, word1, cd, table, expected) in [
        // C_BAD_STE, C_BAD_CD, F_TRANSLATION, F_PERMISSION; then F_BAD_ATS_TREQ.
        (0, EATS, 0, 0, None),
        (stage1, EATS, 0, 0, None),
        (stage1, EATS, CD0 | CD_R | CD_A, 0, None),
        (stage1, EATS, CD0 | CD_R | CD_A, DATA | PAGE_RW & !(1 << 6), None),
        (stage1, 0, CD0 | CD_R | CD_A, 0, Some([0x100_0000_0005, 0, 0x5000, 0])),
    ] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(word0, STE1 | word1, 0);
        direct.poke(CDS + 8, TABLES);
        direct.poke(CDS, cd);
        direct.poke(direct.leaf_at(0x5000), table);
        let completion = direct.request(0x5678, READ, None);
        assert_eq!(completion == Completion::UnsupportedRequest, expected.is_some());
        assert_eq!(direct.take_events(), Vec::from_iter(expected));
    }
}

#[test]
fn translated_accesses_are_forbidden_or_have_stage2_faults_or_end_in_silence() {
    let split = (0xf | CDS, STE1 | SPLIT, STE2 | S2R);
    for ((word0, word1, word2), expected) in [
        // No ATS; no valid STE; abort.
        ((STE0_STAGE1 | CDS, STE1, 0), Some([0x100_0000_0007, RNW, 0x5000, 0])),
        ((0, STE1, 0), None),
        ((1, STE1 | EATS, 0), None),
        // A CD that is not valid means nothing; stage 2 does not map the address, recorded or not.
        (split, Some([0x100_0000_0010, S2 | IN | RNW, 0x5000, 0x5000])),
        ((split.0, split.1, STE2), None),
    ] {
        let mut direct = Direct::enabled(CHECKED, 0);
        direct.set_ste(word0, word1, word2);
        assert_eq!(direct.translated(0x5000, READ), Response::Abort);
        assert_eq!(direct.take_events(), Vec::from_iter(expected));
    }
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

#[test]
fn errors_of_translated_accesses_are_told_in_their_order() {
    const SPLIT: u64 = 2 << 28;
    // ATSCHK; all that is wrong at once, then without the first, and so on (3.9.1.3).
    let mut direct = Direct::enabled(ALL_ON | 1 << 4, 0);
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
    direct.enable(ALL_ON | 1 << 4);
    let mut records = |base, log2, word0| {
        direct.set_ste(word0, STE1, 0);
        direct.enable(ALL_ON & !1);
        direct.write64(STRTAB_BASE, base);
        direct.write(STRTAB_BASE_CFG, log2);
        direct.enable(ALL_ON | 1 << 4);
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
