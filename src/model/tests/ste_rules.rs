//! What each field of an STE does, and where it does nothing: 5.2.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::profile::Profile;
use crate::model::smmu::Issued;
use crate::smmuv3::PhysAddr;

// Word 1 of a record (7.3.13): RnW, S2, CLASS = IN.
const RNW: u64 = 1 << 35;
const S2: u64 = 1 << 39;
const IN: u64 = 2 << 40;

const ATSCHK: u32 = 1 << 4;
const SPLIT: u64 = 2 << 28;
/// Config = 0b110 and 0b111, valid.
const STAGE2_ALONE: u64 = 0xd;
const NESTED: u64 = 0xf;
/// Bits 1 to 3 of word 0.
const CONFIG: u64 = 0xe;

/// A level 1 context table, and a level 2 table aligned to 64 KiB.
const LEVEL1: u64 = 0x4017_0000;
const LEVEL2: u64 = 0x4013_0000;

/// Stage 1 alone; 0x5000 is mapped.
fn stage1() -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    direct
}

/// Stage 2 alone, with these fields in word 2 beside S2R; 0x5000 is mapped.
fn stage2(word2: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STAGE2_ALONE, STE1, STE2 | S2R | word2);
    direct.map2(0x5000, DATA, S2_RW);
    direct
}

fn issue(direct: &mut Direct, substream: u32) -> Response {
    match direct.issue(0x5000, READ, Some(substream)) {
        Issued::Ended(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn stream_that_aborts_does_so_whatever_else_its_ste_holds() {
    for config in 0..4 {
        let mut direct = Direct::enabled(ALL_ON | ATSCHK, 0);
        for word in 1..8 {
            direct.set_ste_word(word, !0);
        }
        direct.set_ste_word(0, !CONFIG | config << 1);
        assert_eq!(issue(&mut direct, 1), Response::Abort);
        assert_eq!(direct.access(DATA, READ), Response::Abort);
        assert_eq!(direct.translated(DATA, READ), Response::Abort);
        assert_eq!(direct.request(DATA, READ, None), Completion::UnsupportedRequest);
        assert_eq!(direct.take_events().len(), 0);
    }
}

#[test]
fn stream_that_bypasses_does_so_whatever_else_its_ste_holds() {
    for dss in 0..4 {
        let mut direct = Direct::enabled(ALL_ON, 0);
        for word in 2..8 {
            direct.set_ste_word(word, !0);
        }
        direct.set_ste_word(1, !3 | dss);
        direct.set_ste_word(0, !CONFIG | 4 << 1);
        for access in [READ, WRITE, FETCH, privileged(READ)] {
            assert_eq!(direct.reaches(DATA, access), DATA);
        }
    }
}

#[test]
fn stage2_fields_mean_nothing_to_a_stream_of_stage1() {
    // S2T0SZ, S2SL0, S2TG, S2AA64, S2ENDI, S2PTW, S2HA, S2HD, S2S and S2TTB with it, all in one; S2VMID is 0.
    let mut direct = stage1();
    direct.set_ste_word(2, !0xffff);
    direct.set_ste_word(3, !0);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    assert_eq!(direct.fault(0x6000, WRITE), [0x100_0000_0010, IN, 0x6000, 0]);
    // S2R does not record what CD.R does not.
    direct.set_cd(CD_A, TABLES);
    direct.invalidate();
    assert_eq!(direct.access(0x6000, WRITE), Response::Abort);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn stage1_fields_mean_nothing_to_a_stream_of_stage2() {
    // S1Fmt, S1ContextPtr and S1CDMax; S1DSS, S1CIR, S1COR, S1CSH, S1STALLD and STRW.
    for dss in 0..4 {
        let mut direct = stage2(0);
        direct.set_ste_word(0, !CONFIG | STAGE2_ALONE);
        direct.set_ste_word(1, STE1 | dss | 0xfc | S1STALLD | 3 << 30);
        assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    }
}

#[test]
fn s1stalld_and_s2s_count_where_their_stage_translates_alone() {
    // STALL_MODEL 0b00, 0b01 and 0b10, with CD.S and S2S as 5.5 has them where they count. S1STALLD is set under Config 0b100
    // and 0b110, and S2S is both under 0b100 and 0b101.
    for (profile, cd_s, s2s) in
        [(Profile::Full, 0, 0), (Profile::TerminateOnly, 0, 0), (Profile::ForcedStall, CD_S, S2S)]
    {
        for (word0, word1, word2) in [
            (9, S1STALLD, 0),
            (9, S1STALLD, S2S),
            (STE0_STAGE1 | CDS, 0, 0),
            (STE0_STAGE1 | CDS, 0, S2S),
            (STAGE2_ALONE, S1STALLD, s2s),
        ] {
            let mut direct = Direct::of(profile, 0);
            // No PRIQEN where there is no PRI.
            direct.enable(ALL_ON & !2);
            direct.set_ste(word0, STE1 | word1, STE2 | word2);
            direct.set_cd(CD_A | cd_s, TABLES);
            direct.map(0x5000, 0x5000, PAGE_RW);
            direct.map2(0x5000, 0x5000, S2_RW);
            assert_eq!(direct.reaches(0x5000, READ), 0x5000, "{profile:?} {word0:x} {word2:x}");
        }
    }
}

#[test]
fn substream_of_a_stream_of_stage2_is_c_bad_substreamid() {
    let mut direct = stage2(0);
    assert_eq!(issue(&mut direct, 0), Response::Abort);
    assert_eq!(issue(&mut direct, 5), Response::Abort);
    assert_eq!(direct.take_events(), [[0x100_0000_0008, 0, 0, 0], [0x100_0000_5008, 0, 0, 0]]);
}

#[test]
fn stage2_alone_translates_the_address_as_an_ipa() {
    let mut direct = stage2(0);
    assert_eq!(direct.reaches(0x5678, READ), DATA + 0x678);
    assert_eq!(direct.fault(0x6678, READ), [0x100_0000_0010, S2 | IN | RNW, 0x6678, 0x6000]);
}

#[test]
fn both_stages_translate_one_after_the_other() {
    let mut direct = Direct::nested_in_pages(0, CD_R | CD_A);
    assert_eq!(direct.reaches(0x5678, READ), DATA + 0x678);
    direct.change2(IPA_OF_PAGE, |_| 0);
    direct.invalidate();
    assert_eq!(direct.fault(0x5678, READ), [0x100_0000_0010, S2 | IN | RNW, 0x5678, IPA_OF_PAGE]);
}

#[test]
fn short_level_1_context_tables_have_one_descriptor() {
    // S1CDMax 4 with 64 CDs in a table, S1CDMax 8 with 1024.
    for (format, max, substream) in [(1, 4, 15), (2, 8, 0xff)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(STE0_STAGE1 | LEVEL1 | max << 59 | format << 4, STE1, 0);
        direct.map(0x5000, DATA, PAGE_RW);
        direct.poke(LEVEL1, LEVEL2 | 1);
        direct.poke(LEVEL2 + substream * 64 + 8, TABLES);
        direct.poke(LEVEL2 + substream * 64, CD0 | CD_A);
        assert_eq!(issue(&mut direct, substream as u32), Response::Physical(PhysAddr(DATA)));
    }
}

#[test]
fn context_tables_are_aligned_whatever_their_pointers_hold() {
    // S1Fmt, the level 1 descriptor, S1ContextPtr: bits 11:0 and 15:0 of L2Ptr, and a linear table of 16 CDs.
    for (format, level1, context) in [(1, LEVEL2 | 0xfff, LEVEL1), (2, LEVEL2 | 0xffff, LEVEL1), (0, 0, LEVEL2 | 0x3c0)]
    {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(STE0_STAGE1 | context | 4 << 59 | format << 4, STE1, 0);
        direct.map(0x5000, DATA, PAGE_RW);
        direct.poke(LEVEL1, level1);
        direct.poke(LEVEL2 + 5 * 64 + 8, TABLES);
        direct.poke(LEVEL2 + 5 * 64, CD0 | CD_A);
        assert_eq!(issue(&mut direct, 5), Response::Physical(PhysAddr(DATA)), "S1Fmt {format}");
    }
}

#[test]
fn level_1_context_table_is_aligned_to_its_size() {
    // S1CDMax 16. S1Fmt 1, 64 CDs a table: 1024 level 1 descriptors, 8 KiB; S1Fmt 2, 1024 CDs: 64 of them, 512 bytes.
    for (format, pointer, substream) in [(1, 0x4017_1fc0, 64), (2, 0x4017_01c0, 1024)] {
        let mut direct = Direct::of(Profile::Big, 0);
        direct.enable(ALL_ON);
        direct.set_ste(STE0_STAGE1 | pointer | 16 << 59 | format << 4, STE1, 0);
        direct.map(0x5000, DATA, PAGE_RW);
        direct.poke(0x4017_0008, LEVEL2 | 1);
        direct.poke(LEVEL2 + 8, TABLES);
        direct.poke(LEVEL2, CD0 | CD_A);
        assert_eq!(issue(&mut direct, substream), Response::Physical(PhysAddr(DATA)));
    }
}

#[test]
fn stream_without_substreams_has_one_cd() {
    // S1CDMax 0: S1Fmt and S1DSS mean nothing, nor do bits 58:56, above S1ContextPtr.
    for (format, dss) in (0..4).flat_map(|format| (0..4).map(move |dss| (format, dss))) {
        let mut direct = stage1();
        direct.set_ste_word(0, STE0_STAGE1 | CDS | format << 4 | 7 << 56);
        direct.set_ste_word(1, STE1 | dss);
        assert_eq!(direct.reaches(0x5000, WRITE), DATA, "S1Fmt {format} S1DSS {dss}");
    }
}

#[test]
fn context_pointer_beyond_the_ipas_is_c_bad_ste() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(NESTED | 1 << 48, STE1, STE2 | S2R);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0004, 0, 0, 0]);
}

#[test]
fn translation_request_of_a_disabled_substream_is_aborted_in_silence() {
    for (dss, substream) in [(0, None), (2, Some(0))] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(STE0_STAGE1 | CDS | 2 << 59, STE1 | EATS | dss, 0);
        assert_eq!(direct.request(0x5000, READ, substream), Completion::CompleterAbort);
        assert_eq!(direct.take_events().len(), 0);
    }
}

#[test]
fn skipped_stage1_reads_no_cd() {
    // S1CDMax 2, S1DSS 1; without and with stage 2.
    for (word0, word2) in [(STE0_STAGE1, 0), (NESTED, STE2 | S2R)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(word0 | CDS | 2 << 59, STE1 | 1, word2);
        direct.refuse_reads(CDS..TABLES);
        assert_eq!(direct.reaches(DATA, READ), DATA);
        assert_eq!(direct.refused(), 0);
    }
}

#[test]
fn attributes_of_context_tables_are_all_legal() {
    // S1CIR, S1COR, S1CSH.
    for attributes in 0..64 {
        let mut direct = stage1();
        direct.set_ste_word(1, STE1 | attributes << 2);
        assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    }
}

#[test]
fn cont_reaches_no_other_stream() {
    // CONT 15 in the STEs of StreamIDs 0x100 and 0x101, which differ; the model uses each one's own.
    let mut bench = Bench::enabled();
    for (stream, space) in [(0x100, 0), (0x101, 1)] {
        // ASID 1 and 3.
        bench.attach(stream, space, space, CD_A | space << 49);
        bench.set_ste(stream, STE0_STAGE1 | (CDS + space * 64), STE1 | 0xf << 13);
        // nG.
        bench.map(space, 0x5000, DATA + space * 0x1000, PAGE_RW | 1 << 11);
        bench.write_word(space as usize, 0x5000);
    }
    assert_eq!([DATA, DATA + 0x1000].map(|at| bench.peek(at)), [0x1122_3344_5566_7788; 2]);
}

#[test]
fn cont_reaches_no_stream_beyond_the_table_or_the_level_2_array() {
    // CONT 15 in the last STE, which is used first: of a table of 2^8, and of a level 2 array of Span 3, four STEs.
    for (configuration, last, ste) in [(8, 0xff, STREAMS + 0xff * 64), (1 << 16 | 6 << 6 | 16, 0x103, LEVEL2 + 3 * 64)]
    {
        let mut direct = Direct::off(0);
        direct.write(STRTAB_BASE_CFG, configuration);
        direct.enable(ALL_ON);
        direct.poke(STREAMS + 4 * 8, LEVEL2 | 3);
        direct.poke(ste + 8, STE1 | 0xf << 13);
        direct.poke(ste, 9);
        assert_eq!(direct.reaches_from(last, DATA, READ), DATA);
        assert_eq!(direct.issue_from(last + 1, DATA, READ), Issued::Ended(Response::Abort));
        assert_eq!(direct.take_event(), [(last + 1) << 32 | 0x02, 0, 0, 0]);
    }
}

#[test]
fn bits_without_a_meaning_change_nothing() {
    // Word 1: SW_RESERVED, what lies below SHCFG, NSCFG, the implementation's bits. Words 2 and 4: the implementation's. Word 3:
    // all but the S2TTB of VMSAv8-64, bits 51:4. Words 4 to 7 whole.
    for (word, bits) in [
        (1, 0xf << 20),
        (1, 7 << 41),
        (1, 3 << 46),
        (1, 0xfff << 52),
        (2, 0xffff << 16),
        (3, 0xf),
        (3, 0xfff << 52),
        (4, !0),
        (5, !0),
        (6, !0),
        (7, !0),
    ] {
        for (stage, more, ipa) in [(1, 0, 0), (2, S2, 0x6000)] {
            let mut direct = if stage == 1 { stage1() } else { stage2(0) };
            let at = STREAMS + STREAM * 64 + word * 8;
            direct.set_ste_word(word, direct.peek(at) | bits);
            assert_eq!(direct.reaches(0x5000, WRITE), DATA, "{word} {bits:x}");
            assert_eq!(direct.fault(0x6000, READ), [0x100_0000_0010, more | IN | RNW, 0x6000, ipa]);
        }
    }
}

#[test]
fn full_ats_gives_what_all_enabled_stages_give() {
    let mut direct = stage2(0);
    direct.set_ste_word(1, STE1 | EATS);
    let page = Completion::Success {
        page: PhysAddr(DATA),
        span: 12,
        read: true,
        write: true,
        execute: false,
        privileged: false,
    };
    assert_eq!(direct.request(0x5678, WRITE, None), page);
    let mut direct = Direct::nested_in_pages(0, CD_A);
    direct.set_ste_word(1, STE1 | EATS);
    assert_eq!(direct.request(0x5678, WRITE, None), page);
}

#[test]
fn eats_is_checked_against_the_stages_that_there_are() {
    // EATS 1 with S2S, without stage 2; EATS 3 with S2S and both stages is as 0.
    let mut direct = stage1();
    direct.set_ste_word(1, STE1 | EATS);
    direct.set_ste_word(2, STE2 | S2S);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    let mut direct = Direct::nested_in_pages(S2S, CD_A);
    direct.set_ste_word(1, STE1 | 3 << 28);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    // ATSCHK, or a split stage would be refused likewise.
    direct.enable(ALL_ON | 0x10);
    assert_eq!(direct.request(0x5000, READ, None), Completion::UnsupportedRequest);
    assert_eq!(direct.take_event(), [0x100_0000_0005, 0, 0x5000, 0]);
}

#[test]
fn eats_means_nothing_without_ats() {
    for eats in 0..4 {
        let mut direct = Direct::of(Profile::NoAts, 0);
        // No PRIQEN without PRI.
        direct.enable(ALL_ON & !2);
        direct.stage1(eats << 28, CD_R | CD_A);
        direct.map(0x5000, DATA, PAGE_RW);
        assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    }
}

#[test]
fn split_stage_requests_give_ipas_with_the_permissions_of_both_stages() {
    let mut direct = Direct::enabled(ALL_ON | ATSCHK, 0);
    direct.nest(SPLIT, S2R, CD_A);
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.map2(0x9000, DATA, S2_RW & !(1 << 7));
    let Completion::Success { page, read: true, write: false, .. } = direct.request(0x5000, WRITE, None) else {
        panic!()
    };
    assert_eq!(page, PhysAddr(0x9000));
    assert_eq!(direct.translated(0x9008, READ), Response::Physical(PhysAddr(DATA + 8)));
}

#[test]
fn split_stage_goes_by_atschk_as_it_is_now() {
    let mut direct = Direct::enabled(ALL_ON | ATSCHK, 0);
    direct.nest(SPLIT, S2R, CD_A);
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.translated(0x9000, READ), Response::Physical(PhysAddr(DATA)));
    direct.write(CR0, ALL_ON);
    direct.step();
    assert_eq!(direct.translated(0x9000, READ), Response::Physical(PhysAddr(0x9000)));
    assert_eq!(direct.request(0x5000, READ, None), Completion::UnsupportedRequest);
    assert_eq!(direct.take_event()[0], 0x100_0000_0005);
}

#[test]
fn privilege_is_that_of_privcfg() {
    // A page for privileged accesses alone; 0 and 1: as it came; 2: never; 3: always. PnU is bit 33 of the record.
    const PNU: u64 = 1 << 33;
    for (privcfg, unprivileged, privileged_too) in
        [(0, false, true), (1, false, true), (2, false, false), (3, true, true)]
    {
        let mut direct = stage1();
        direct.map(0x5000, DATA, PAGE_RW & !(1 << 6));
        direct.set_ste_word(1, STE1 | privcfg << 48);
        for (access, permitted) in [(READ, unprivileged), (privileged(READ), privileged_too)] {
            assert_eq!(direct.access(0x5000, access) == Response::Physical(PhysAddr(DATA)), permitted, "{privcfg}");
        }
        direct.take_events();
        let tells = |access| direct.fault(0x6000, access)[1] & PNU != 0;
        assert_eq!([READ, privileged(READ)].map(tells), [unprivileged, privileged_too]);
    }
}

#[test]
fn kind_of_a_read_is_that_of_instcfg() {
    // 0 and 1: as it came; 2: data; 3: a fetch. InD is bit 34 of the record. Writes are data.
    for (instcfg, expected) in [(0, [false, true]), (1, [false, true]), (2, [false, false]), (3, [true, true])] {
        let mut direct = stage1();
        direct.set_ste_word(1, STE1 | instcfg << 50);
        let mut tells = |access| direct.fault(0x6000, access)[1] >> 34 & 1 != 0;
        assert_eq!([READ, FETCH].map(&mut tells), expected, "{instcfg}");
        assert!(!tells(WRITE));
    }
}

#[test]
fn overrides_apply_to_streams_that_bypass() {
    // PRIVCFG and INSTCFG 3: a privileged fetch; 2: an unprivileged read of data. F_ADDR_SIZE tells PnU and InD (7.3.14).
    for (overrides, access, told) in [(0xf << 48, READ, 0x6_0000_0000), (0xa << 48, privileged(FETCH), 0)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(9, STE1 | overrides, 0);
        assert_eq!(direct.fault(1 << 48, access), [0x100_0000_0011, IN | RNW | told, 1 << 48, 0]);
    }
}

#[test]
fn ste_that_is_not_valid_aborts_each_access_with_a_record() {
    let mut direct = stage1();
    // V = 0, whatever else it holds.
    direct.set_ste(0xa | CDS, STE1, 0);
    for access in [READ, WRITE, FETCH] {
        assert_eq!(direct.fault(0x5000, access), [0x100_0000_0004, 0, 0, 0]);
    }
}
