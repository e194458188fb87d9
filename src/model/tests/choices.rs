//! What the architecture leaves to the SMMU: merged events (7.3.1), and choices by a seed.

use super::bench::*;
use super::direct::*;
use crate::model::engine::registers::{self as reg, hostile};
use crate::model::smmu::diagnostics::{self, control};
use crate::model::smmu::{Issued, Polled};

/// STE.MEV.
const MEV: u64 = 1 << 19;
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
    assert_eq!(direct.take_events().len(), 2);
}

#[test]
fn bad_stream_tables_merge_without_mev() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.write(CONTROL, control::MERGE_EVENTS);
    direct.set_ste(0, 0, 0);
    direct.access(0x5000, WRITE);
    direct.access(0x5000, WRITE);
    assert_eq!(direct.take_event(), [0x100_0000_0004, 0, 0, 0]);
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
