//! What the architecture leaves to the SMMU: merged events (7.3.1), and choices by a seed.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::engine::registers::{self as reg, hostile};
use crate::model::smmu::diagnostics::{self, control};
use crate::model::smmu::{Issued, Polled};

/// STE.MEV.
const MEV: u64 = 1 << 19;
/// CD.HA, and the Access flag of a leaf.
const HA: u64 = 1 << 43;
const AF: u64 = 1 << 10;
/// TTRnW, in word 1 of a record.
const TTRNW: u64 = 1 << 44;
const CONTROL: u64 = diagnostics::CONTROL as u64;
const SEED: u64 = diagnostics::SEED as u64;

#[test]
fn like_events_merge_when_told_and_the_ste_permits_it() {
    for (switch, word1, records) in [(0, MEV, 3), (control::MERGE_EVENTS, 0, 3), (control::MERGE_EVENTS, MEV, 1)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.write(CONTROL, switch);
        direct.stage1(word1, CD_R | CD_A);
        for address in [0x5000, 0x5008, 0x5ff8] {
            direct.access(address, WRITE);
        }
        let taken = direct.take_events();
        assert_eq!(taken.len(), records);
        assert_eq!(taken[0][2], 0x5000);
    }
}

#[test]
fn unlike_events_and_read_records_do_not_merge() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.write(CONTROL, control::MERGE_EVENTS);
    direct.stage1(MEV, CD_R | CD_A);
    // Another page, another direction.
    direct.access(0x5000, WRITE);
    direct.access(0x6000, WRITE);
    direct.access(0x6000, READ);
    assert_eq!(direct.take_events().len(), 3);
    // The record was read: the same again is new.
    direct.access(0x6000, READ);
    assert_eq!(direct.take_events().len(), 1);
    // Stalls never merge.
    direct.stage1(MEV, CD_S | CD_A);
    direct.invalidate();
    direct.stall(0x7000, WRITE);
    direct.stall(0x7000, WRITE);
    // Nor with what is terminated at the same place.
    direct.stage1(MEV, CD_R | CD_A);
    direct.invalidate();
    direct.access(0x7000, WRITE);
    assert_eq!(direct.take_events().len(), 3);
}

#[test]
fn bad_stream_tables_merge_without_mev() {
    // 7.3.1: C_BAD_STE, C_BAD_STREAMID with a table of 256 STEs, F_STE_FETCH of the STE at 0x4001_4000.
    for (number, log2, word3) in [(0x04, 9, 0), (0x02, 8, 0), (0x03, 9, 0x4001_4000)] {
        let mut direct = Direct::enabled(0, 0);
        direct.write(STRTAB_BASE_CFG, log2);
        direct.enable(ALL_ON);
        direct.write(CONTROL, control::MERGE_EVENTS);
        direct.set_ste(0, 0, 0);
        if word3 != 0 {
            direct.refuse_reads(word3..word3 + 64);
        }
        direct.access(0x5000, WRITE);
        direct.access(0x5000, WRITE);
        assert_eq!(direct.take_event(), [0x100_0000_0000 | number, 0, 0, word3]);
    }
}

#[test]
fn unsupported_accesses_merge_without_mev_if_they_are_the_same() {
    // 7.3.1: of F_UUT every field counts.
    let mut bench = Bench::enabled();
    bench.write(CONTROL, control::MERGE_EVENTS);
    bench.set_engine(0, reg::HOSTILE, hostile::UNSUPPORTED);
    for address in [0x5000, 0x5000, 0x5008] {
        bench.write_word(0, address);
    }
    let addresses: std::vec::Vec<_> = bench.take_events().iter().map(|record| (record[0], record[2])).collect();
    assert_eq!(addresses, [(0x100_0000_0001, 0x5000), (0x100_0000_0001, 0x5008)]);
}

#[test]
fn seed_decides_each_choice_and_repeats_itself() {
    let run = |seed| {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.write(CONTROL, control::SUPPRESS_DUPLICATES);
        direct.write(SEED, seed);
        direct.stage1(0, CD_S | CD_A);
        let recorded: std::vec::Vec<bool> = (0..12)
            .map(|_| match direct.issue(0x5000, WRITE, None) {
                Issued::Stalled { recorded, .. } => recorded,
                other => panic!("{other:?}"),
            })
            .collect();
        recorded
    };
    // The first has nothing to be a duplicate of.
    assert_eq!(run(0), [&[true][..], &[false; 11]].concat(), "without a seed every one is taken");
    let chosen = run(0x1234_5678);
    assert!(chosen[1..].contains(&true) && chosen[1..].contains(&false));
    assert_eq!(run(0x1234_5678), chosen);
    assert_ne!(run(0x9abc_def1), chosen);
}

#[test]
fn early_retry_by_seed_comes_sooner_or_later() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.write(CONTROL, control::EARLY_RETRY);
    direct.write(SEED, 1);
    // By xorshift, 1 goes to 0x42021, 0x4080601, 0x9dcca8c5: the first opportunity whose top bit is set is the third.
    direct.stage1(0, CD_S | CD_A);
    let slot = direct.stall(0x5000, WRITE);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false });
    assert_eq!(direct.read(SEED), 0x42021);
    assert_eq!(direct.poll(slot), Polled::Stalled { recorded: false });
    assert!(matches!(direct.poll(slot), Polled::Ended(_)));
}

#[test]
fn events_that_differ_in_any_field_do_not_merge() {
    let merging = || {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.write(CONTROL, control::MERGE_EVENTS);
        direct.set_ste(STE0_STAGE1 | CDS | 1 << 59, STE1 | MEV | 2, 0);
        direct.set_cd(CD_R | CD_A, TABLES);
        // CD 1 and the STE of the next stream are the same.
        for (from, to, words) in [(CDS, CDS + 64, 4), (STREAMS + STREAM * 64, STREAMS + (STREAM + 1) * 64, 4)] {
            (0..words).for_each(|word| direct.poke(to + word * 8, direct.peek(from + word * 8)));
        }
        direct.leaf_at(0);
        direct
    };
    let first = |direct: &mut Direct| direct.issue(0x5000, READ, None);
    // The second access: the same; of another SubstreamID, StreamID, RnW, PnU, InD.
    type Second<'a> = &'a dyn Fn(&mut Direct) -> Issued;
    let seconds: [(Second<'_>, usize); 6] = [
        (&first, 1),
        (&|direct| direct.issue(0x5000, WRITE, None), 2),
        (&|direct| direct.issue(0x5000, READ, Some(1)), 2),
        (&|direct| direct.issue_from(STREAM + 1, 0x5000, READ), 2),
        (&|direct| direct.issue(0x5000, privileged(READ), None), 2),
        (&|direct| direct.issue(0x5000, FETCH, None), 2),
    ];
    for (second, records) in seconds {
        let mut direct = merging();
        assert_eq!([first(&mut direct), second(&mut direct)], [Issued::Ended(Response::Abort); 2]);
        assert_eq!(direct.take_events().len(), records);
    }
    // The event: F_TRANSLATION, then F_PERMISSION.
    let mut direct = merging();
    direct.access(0x5000, WRITE);
    direct.map(0x5000, DATA, PAGE_RO);
    direct.access(0x5000, WRITE);
    assert_eq!(direct.take_events().iter().map(|record| record[0] & 0xff).collect::<std::vec::Vec<_>>(), [0x10, 0x13]);
    // S2 and CLASS, and the IPA, of one address: stage 2 lacks the table, then the page, then another page; then stage 1.
    let mut direct = Direct::nested_in_pages(0, CD_R | CD_A);
    direct.write(CONTROL, control::MERGE_EVENTS);
    direct.set_ste_word(1, STE1 | MEV);
    direct.map2(IPA_OF_TABLE, 0, 0);
    direct.access(0x5000, WRITE);
    direct.map2(IPA_OF_TABLE, TABLES + 0x2000, S2_RW);
    direct.map2(IPA_OF_PAGE, 0, 0);
    direct.access(0x5000, WRITE);
    direct.poke(TABLES + 0x2000 + 5 * 8, 0xc000 | PAGE_RW);
    direct.access(0x5000, WRITE);
    direct.poke(TABLES + 0x2000 + 5 * 8, 0);
    direct.access(0x5000, WRITE);
    assert_eq!(direct.take_events().len(), 4);
    // FetchAddr: the level 3 table is elsewhere, and cannot be read there either.
    let mut direct = merging();
    for table in [END, END + 0x1000] {
        direct.poke(TABLES + 0x1000, table | 3);
        direct.invalidate();
        direct.access(0x5000, WRITE);
    }
    assert_eq!(direct.take_events().iter().map(|record| record[3]).collect::<Vec<_>>(), [END + 0x28, END + 0x1028]);
    // TTRnW: stage 2 does not let the walk read the leaf, then not set its Access flag.
    let mut direct = Direct::nested_in_pages(0, CD_R | CD_A | HA);
    direct.write(CONTROL, control::MERGE_EVENTS);
    direct.set_ste_word(1, STE1 | MEV);
    direct.poke(TABLES + 0x2028, IPA_OF_PAGE | PAGE_RW & !AF);
    // S2AP: writes alone, then reads alone.
    for permissions in [S2_RW & !(1 << 6), S2_RW & !(1 << 7)] {
        direct.map2(IPA_OF_TABLE, TABLES + 0x2000, permissions);
        direct.invalidate();
        direct.access(0x5000, WRITE);
    }
    assert_eq!(direct.take_events().iter().map(|record| record[1]).collect::<Vec<_>>(), [S2 | TT | TTRNW, S2 | TT]);
}

#[test]
fn events_far_apart_in_time_do_not_merge() {
    // The model's measure of a significant amount of time (7.3.1) is 256 ticks.
    for (ticks, records) in [(255, 1), (256, 2)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.write(CONTROL, control::MERGE_EVENTS);
        direct.stage1(MEV, CD_R | CD_A);
        direct.access(0x5000, WRITE);
        (0..ticks).for_each(|_| direct.step());
        direct.access(0x5000, WRITE);
        assert_eq!(direct.take_events().len(), records);
    }
}

#[test]
fn place_in_the_page_does_not_count_where_7_3_says_so() {
    let addresses = [0x5000, 0x5ff8, 0x6ff8];
    let told =
        |direct: &mut Direct| direct.take_events().iter().map(|record| (record[0], record[2])).collect::<Vec<_>>();
    // F_WALK_EABT of both pages: their table cannot be read.
    let mut direct = Direct::enabled(ALL_ON | 1 << 4, 0);
    direct.write(CONTROL, control::MERGE_EVENTS);
    direct.stage1(MEV, CD_R | CD_A);
    direct.leaf_at(0);
    direct.refuse_reads(TABLES + 0x2000..TABLES + 0x3000);
    assert_eq!(addresses.map(|address| direct.access(address, WRITE)), [Response::Abort; 3]);
    assert_eq!(told(&mut direct), [(0x100_0000_000b, 0x5000), (0x100_0000_000b, 0x6ff8)]);
    // F_TRANSL_FORBIDDEN: EATS = 0 with ATSCHK.
    assert_eq!(addresses.map(|address| direct.translated(address, WRITE)), [Response::Abort; 3]);
    assert_eq!(told(&mut direct), [(0x100_0000_0007, 0x5000), (0x100_0000_0007, 0x6ff8)]);
    // F_TLB_CONFLICT: the pages become a block, which is then found by way of 0x7000.
    direct.refuse_reads(0..0);
    for address in addresses {
        direct.map(address & !0xfff, DATA, PAGE_RW);
        direct.reaches(address, WRITE);
    }
    direct.poke(TABLES + 0x1000, DATA | PAGE_RW & !2);
    // CMD_TLBI_NH_VA with Leaf = 0.
    direct.command([0x12 | 1 << 48, 0x7000]);
    direct.reaches(0x7000, WRITE);
    assert_eq!(addresses.map(|address| direct.access(address, WRITE)), [Response::Abort; 3]);
    assert_eq!(told(&mut direct), [(0x100_0000_0020, 0x5000), (0x100_0000_0020, 0x6ff8)]);
}

/// Only strict mode (bit 3) stays, once it is set, until the next reset; bits from 4 on are none.
#[test]
fn switches_read_back_and_strict_mode_stays() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for (written, expected) in
        [(0xffff_fff7, 0x7), (0x2, 0x2), (0x0, 0x0), (0xd, 0xd), (0x8, 0x8), (0x4, 0xc), (0x0, 0x8)]
    {
        direct.write(CONTROL, written);
        assert_eq!(direct.read(CONTROL), expected, "{written:#x}");
    }
}
