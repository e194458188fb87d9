//! Stream tables, STEs and context tables: 3.3, 5, 7.3.2 to 7.3.11.

use super::bench::*;

const STREAM: u64 = 0x100;

/// Engine 0 writes to a mapped page; the records that this leaves.
fn records_of(bench: &mut Bench) -> std::vec::Vec<[u64; 4]> {
    bench.write_word(0, 0x5000);
    bench.take_events()
}

#[test]
fn disabled_smmu_lets_through_or_aborts_as_gbpa_says() {
    let mut bench = Bench::reset();
    bench.set_up();
    // With the event queue on: SMMUEN=0 leaves no record (7.2.1).
    bench.enable(4);
    bench.write_word(0, DATA);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, 0x1122_3344_5566_7788));
    bench.write_word(0, 1 << 48);
    assert_eq!(bench.state(0), 3, "beyond the output size (3.4)");
    bench.write(GBPA, 1 << 31 | 1 << 20);
    bench.run();
    bench.write_word(0, DATA);
    assert_eq!(bench.state(0), 3);
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn ste_config_abort_is_silent() {
    let mut bench = Bench::enabled();
    bench.set_ste(STREAM, 1, 0);
    assert_eq!(records_of(&mut bench).len(), 0);
    assert_eq!(bench.state(0), 3);
}

#[test]
fn bypass_goes_straight_through() {
    let mut bench = Bench::enabled();
    bench.set_ste(STREAM, 1 | 4 << 1, 0);
    bench.write_word(0, DATA);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, 0x1122_3344_5566_7788));
    bench.write_word(0, 0x0001_0000_0000_0000);
    assert_eq!(bench.state(0), 3);
    // F_ADDR_SIZE, not stalled, CLASS = IN, a write.
    assert_eq!(bench.take_event(), [0x100_0000_0011, 0x200_0000_0000, 0x0001_0000_0000_0000, 0]);
}

#[test]
fn invalid_and_illegal_stes_are_c_bad_ste() {
    let words = [
        // V = 0.
        (0, 0),
        // Stage 2 with VMSAv8-32 tables, which are not there.
        (1 | 6 << 1, 0),
        (1 | 7 << 1, 0),
        // More substreams than IDR1.SSIDSIZE.
        (STE0_STAGE1 | CDS | 9 << 59, STE1),
        // A context pointer beyond 48 bits.
        (STE0_STAGE1 | CDS | 1 << 50, STE1),
    ];
    for (word0, word1) in words {
        let mut bench = Bench::enabled();
        bench.set_ste(STREAM, word0, word1);
        assert_eq!(records_of(&mut bench), [[0x100_0000_0004, 0, 0, 0]], "{word0:x} {word1:x}");
        assert_eq!(bench.state(0), 3);
    }
}

#[test]
fn stream_beyond_the_table_is_recorded_only_with_recinvsid() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write(STRTAB_BASE_CFG, 8);
    bench.enable(ALL_ON);
    assert_eq!(records_of(&mut bench), [[0x100_0000_0002, 0, 0, 0]]);
    assert_eq!(bench.state(0), 3);
    bench.enable(ALL_ON & !1);
    bench.write(CR2, 0);
    bench.enable(ALL_ON);
    assert_eq!(records_of(&mut bench).len(), 0);
    assert_eq!(bench.state(0), 3);
}

#[test]
fn ste_that_cannot_be_read_is_f_ste_fetch() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(STRTAB_BASE, END);
    bench.enable(ALL_ON);
    // The fetch address is STE 0x100 of 64 bytes.
    assert_eq!(records_of(&mut bench), [[0x100_0000_0003, 0, 0, END + 0x4000]]);
}

#[test]
fn linear_table_is_aligned_to_its_size() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(STRTAB_BASE, STREAMS | 0x4c0);
    bench.enable(ALL_ON);
    bench.set_ste(STREAM, 1 | 4 << 1, 0);
    bench.write_word(0, DATA);
    assert_eq!(bench.state(0), 2);
}

/// A 2-level table with this SPLIT whose level 1 descriptor for stream 0x100 is `descriptor`.
fn two_level(split: u32, descriptor: u64) -> Bench {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write(STRTAB_BASE_CFG, 1 << 16 | split << 6 | 16);
    bench.poke(STREAMS + (STREAM >> split) * 8, descriptor);
    bench.enable(ALL_ON);
    bench
}

#[test]
fn two_level_table_leads_to_the_ste() {
    for split in [6, 8, 10] {
        let leaf = STREAMS + 0x4_0000;
        let mut bench = two_level(split, leaf | u64::from(split + 1));
        let index = STREAM & ((1 << split) - 1);
        bench.poke(leaf + index * 64, 1 | 4 << 1);
        bench.write_word(0, DATA);
        assert_eq!(bench.state(0), 2, "SPLIT {split}");
    }
}

#[test]
fn level_1_descriptor_without_the_stream_is_c_bad_streamid() {
    let leaf = STREAMS + 0x4_0000;
    // SPLIT 10: StreamID 0x100 is number 0x100 of its level 2 array.
    for descriptor in [
        // Span 0; a reserved span.
        leaf,
        leaf | 12,
        // 256 STEs: one too few.
        leaf | 9,
    ] {
        let mut bench = two_level(10, descriptor);
        assert_eq!(records_of(&mut bench), [[0x100_0000_0002, 0, 0, 0]], "{descriptor:x}");
        // RECINVSID is 0.
        bench.enable(ALL_ON & !1);
        bench.write(CR2, 0);
        bench.enable(ALL_ON);
        assert_eq!((records_of(&mut bench).len(), bench.state(0)), (0, 3), "{descriptor:x}");
    }
    // Span 0 leads to no STE at all, not to number 0 either, which StreamID 0x100 is with SPLIT 8.
    let mut bench = two_level(8, leaf);
    assert_eq!(records_of(&mut bench), [[0x100_0000_0002, 0, 0, 0]]);
    // A span that is larger than SPLIT + 1.
    let mut bench = two_level(6, leaf | 8);
    assert_eq!(records_of(&mut bench), [[0x100_0000_0002, 0, 0, 0]]);
    // One that is just enough leads to an STE that is not valid.
    let mut bench = two_level(10, leaf | 10);
    assert_eq!(records_of(&mut bench), [[0x100_0000_0004, 0, 0, 0]]);
    let mut bench = two_level(10, END | 10);
    assert_eq!(records_of(&mut bench), [[0x100_0000_0003, 0, 0, END + 0x4000]]);
}

#[test]
fn cd_that_cannot_be_read_is_f_cd_fetch() {
    let mut bench = Bench::enabled();
    bench.set_ste(STREAM, STE0_STAGE1 | END, STE1);
    assert_eq!(records_of(&mut bench), [[0x100_0000_0009, 0, 0, END]]);
}

#[test]
fn invalid_and_illegal_cds_are_c_bad_cd() {
    let words: [(u64, u64); 6] = [
        (0, TABLES),
        // AA64 = 0.
        (CD0 & !(1 << 41), TABLES),
        // A reserved granule.
        (CD0 | 3 << 6, TABLES),
        // T0SZ = 10 and T0SZ = 40: more than 48 and fewer than 25 bits.
        (CD0 & !0x3f | 10, TABLES),
        (CD0 & !0x3f | 40, TABLES),
        // A table beyond 48 bits.
        (CD0, 1 << 50),
    ];
    for (word0, word1) in words {
        let mut bench = Bench::enabled();
        bench.set_ste(STREAM, STE0_STAGE1 | CDS, STE1);
        bench.poke(CDS + 8, word1);
        bench.poke(CDS, word0);
        assert_eq!(records_of(&mut bench), [[0x100_0000_000a, 0, 0, 0]], "{word0:x} {word1:x}");
        assert_eq!(bench.state(0), 3);
    }
}

#[test]
fn cd_may_not_stall_where_the_ste_forbids_it() {
    let mut bench = Bench::enabled();
    bench.attach(STREAM, 0, 0, CD_S | CD_A);
    bench.set_ste(STREAM, STE0_STAGE1 | CDS, STE1 | S1STALLD);
    assert_eq!(records_of(&mut bench), [[0x100_0000_000a, 0, 0, 0]]);
    bench.attach(STREAM, 0, 0, CD_A);
    bench.set_ste(STREAM, STE0_STAGE1 | CDS, STE1 | S1STALLD);
    bench.forget_configuration(STREAM);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    assert_eq!(records_of(&mut bench).len(), 0);
    assert_eq!(bench.state(0), 2);
}

/// Engine 0 writes to its page with this PASID.
fn write_with_pasid(bench: &mut Bench, pasid: u32) -> std::vec::Vec<[u64; 4]> {
    use crate::model::engine::registers as reg;
    bench.set_engine64(0, reg::DESTINATION, 0x5000);
    bench.set_engine64(0, reg::LENGTH, 8);
    bench.set_engine64(0, reg::PATTERN, pasid.into());
    bench.set_engine(0, reg::PASID, pasid);
    bench.set_engine(0, reg::CONTROL, 0x111);
    bench.run();
    bench.take_events()
}

#[test]
fn substream_selects_its_cd() {
    let mut bench = Bench::enabled();
    for space in 0..4 {
        // ASID 1, 3, 5, 7, and nG in the leaf: the translations are kept apart (3.17).
        bench.set_cd(space, CD_A | CD_R | space << 49, space);
        bench.map(space, 0x5000, DATA + space * 0x1000, PAGE_RW | 1 << 11);
    }
    bench.set_ste(STREAM, STE0_STAGE1 | CDS | 2 << 59, STE1);
    for pasid in 0..4 {
        assert_eq!(write_with_pasid(&mut bench, pasid).len(), 0);
        assert_eq!(bench.peek(DATA + u64::from(pasid) * 0x1000), pasid.into());
    }
    // One beyond the table; the record has no SSV (7.3.9).
    assert_eq!(write_with_pasid(&mut bench, 4), [[0x100_0000_4008, 0, 0, 0]]);
    assert_eq!(bench.state(0), 3);
    // CD errors name the substream.
    bench.poke(CDS + 3 * 64, 0);
    bench.forget_configuration(STREAM);
    assert_eq!(write_with_pasid(&mut bench, 3), [[0x100_0000_380a, 0, 0, 0]]);
}

#[test]
fn accesses_with_and_without_a_substream_have_translations_of_their_own() {
    // S1CDMax 1; 0x5000 leads to one page by CD 0, to another by CD 1. S1DSS 1: without SubstreamID there is no stage 1; 2: it is
    // that of CD 0 (5.2).
    let mut bench = Bench::enabled();
    for space in 0..2 {
        bench.set_cd(space, CD_A | CD_R | space << 49, space);
        bench.map(space, 0x5000, DATA + space * 0x1000, PAGE_RW | 1 << 11);
    }
    bench.set_ste(STREAM, STE0_STAGE1 | CDS | 1 << 59, STE1 | 2);
    bench.write_word(0, 0x5000);
    assert_eq!(write_with_pasid(&mut bench, 1).len(), 0);
    bench.set_ste(STREAM, STE0_STAGE1 | CDS | 1 << 59, STE1 | 1);
    bench.forget_configuration(STREAM);
    bench.write_word(0, DATA + 0x2000);
    assert_eq!(
        [0, 0x1000, 0x2000].map(|page| bench.peek(DATA + page)),
        [0x1122_3344_5566_7788, 1, 0x1122_3344_5566_7788]
    );
    bench.poke(DATA + 0x1000, 0);
    assert_eq!(write_with_pasid(&mut bench, 1).len(), 0);
    assert_eq!(bench.peek(DATA + 0x1000), 1);
}

#[test]
fn substream_where_none_may_be_is_c_bad_substreamid() {
    let mut bench = Bench::enabled();
    bench.attach(STREAM, 0, 0, CD_A);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    assert_eq!(write_with_pasid(&mut bench, 1), [[0x100_0000_1008, 0, 0, 0]], "S1CDMax = 0");
    assert_eq!(write_with_pasid(&mut bench, 0), [[0x100_0000_0008, 0, 0, 0]], "not the only CD's");
    bench.set_ste(STREAM, 1 | 4 << 1, 0);
    bench.forget_configuration(STREAM);
    assert_eq!(write_with_pasid(&mut bench, 1), [[0x100_0000_1008, 0, 0, 0]], "bypass");
}

#[test]
fn default_substream_decides_about_accesses_without_one() {
    let mut bench = Bench::enabled();
    bench.set_cd(0, CD_A, 0);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    let stage1 = STE0_STAGE1 | CDS | 2 << 59;
    // S1DSS = 0, and 3 which is reserved: F_STREAM_DISABLED.
    for dss in [0, 3] {
        bench.set_ste(STREAM, stage1, STE1 | dss);
        bench.forget_configuration(STREAM);
        assert_eq!(records_of(&mut bench), [[0x100_0000_0006, 0, 0, 0]]);
        assert_eq!(bench.state(0), 3);
    }
    // 1: bypass.
    bench.set_ste(STREAM, stage1, STE1 | 1);
    bench.forget_configuration(STREAM);
    bench.write_word(0, DATA + 0x100);
    assert_eq!((bench.state(0), bench.peek(DATA + 0x100)), (2, 0x1122_3344_5566_7788));
    // 2: CD 0, which accesses with SubstreamID 0 may not use then.
    bench.set_ste(STREAM, stage1, STE1 | 2);
    bench.forget_configuration(STREAM);
    assert_eq!(records_of(&mut bench).len(), 0);
    assert_eq!(bench.peek(DATA), 0x1122_3344_5566_7788);
    // The record has neither SSV nor SubstreamID (7.3.7).
    assert_eq!(write_with_pasid(&mut bench, 0), [[0x100_0000_0006, 0, 0, 0]]);
}
