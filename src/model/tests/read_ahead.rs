//! What the SMMU reads before anybody asks for it, when CACHE_SEED says so: 3.21.1, 3.21.3, 7.2.

use core::ops::Range;
use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::smmu::Issued;
use crate::model::smmu::diagnostics;

const EVERYWHERE: Range<u64> = 0..u64::MAX;
const SEEDS: Range<u32> = 1..17;
/// A stream beside [`STREAM`], and where its STE lies.
const OTHER: u64 = 0x101;
const OTHER_STE: u64 = STREAMS + OTHER * 64;
/// Access flag of a leaf.
const AF: u64 = 1 << 10;
const DBM: u64 = 1 << 51;
const HA_HD: u64 = 3 << 42;
const SYNC: [u64; 2] = [0x46, 0];

/// Lets the caches do by `seed` what they may for 100 ticks; then they are at rest again.
fn unrest(direct: &mut Direct, seed: u32) {
    direct.write(diagnostics::CACHE_SEED as u64, seed);
    for _ in 0..100 {
        direct.step();
    }
    direct.write(diagnostics::CACHE_SEED as u64, 0);
}

/// Stage 1, with these flags of the CD, and two pages: 0x5000, and 0x6000 with this descriptor.
fn two_pages(cd: u64, second: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(EATS, CD_R | CD_A | cd);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.map(0x6000, 0, second);
    direct
}

/// For how many seeds `stale` finds something old.
fn count(stale: impl Fn(u32) -> bool) -> usize {
    SEEDS.filter(|&seed| stale(seed)).count()
}

#[test]
fn page_that_no_access_used_is_stale_until_tlbi() {
    let stale = |seed, ats, commands: &[[u64; 2]]| {
        let mut direct = two_pages(0, (DATA + 0x1000) | PAGE_RW);
        if ats {
            assert!(matches!(direct.request(0x5000, READ, None), Completion::Success { read: true, .. }));
        } else {
            direct.reaches(0x5000, READ);
        }
        unrest(&mut direct, seed);
        direct.map(0x6000, DATA + 0x2000, PAGE_RW);
        commands.iter().for_each(|&command| direct.command(command));
        direct.reaches(0x6000, READ) == DATA + 0x1000
    };
    for ats in [false, true] {
        assert!(!stale(0, ats, &[]), "caches at rest hold what was used");
        assert!(count(|seed| stale(seed, ats, &[])) > 2);
        // Of another page; of this one.
        assert!(count(|seed| stale(seed, ats, &[[0x12 | 1 << 48, 0x7001], SYNC])) > 2);
        assert_eq!(count(|seed| stale(seed, ats, &[[0x12 | 1 << 48, 0x6001], SYNC])), 0);
    }
}

#[test]
fn what_was_read_ahead_before_an_invalidation_is_gone_after_its_sync() {
    // The caches are disturbed all the time: of the page at 0x6000 and of the neighbour's STE, whether the old one is used.
    let stale = |seed, commands: &[[u64; 2]]| {
        let mut direct = two_pages(0, (DATA + 0x1000) | PAGE_RW);
        for (word, value) in [0x9, STE1].into_iter().enumerate() {
            direct.poke(OTHER_STE + word as u64 * 8, value);
        }
        direct.reaches(0x5000, READ);
        direct.write(diagnostics::CACHE_SEED as u64, seed);
        for _ in 0..100 {
            direct.step();
        }
        direct.map(0x6000, DATA + 0x2000, PAGE_RW);
        // Config = 0b000.
        direct.poke(OTHER_STE, 1);
        commands.iter().for_each(|&command| direct.command(command));
        let page = direct.reaches(0x6000, READ) == DATA + 0x1000;
        let ste = direct.issue_from(OTHER, DATA, READ) != Issued::Ended(Response::Abort);
        [page, ste]
    };
    let times = |commands: &[[u64; 2]]| [0, 1].map(|which| count(|seed| stale(seed, commands)[which]));
    // CMD_TLBI_NH_VA, CMD_CFGI_STE: their consumption alone promises nothing (4.8).
    let commands = [[0x12 | 1 << 48, 0x6001], [0x03 | OTHER << 32, 1], SYNC];
    assert!(times(&[]).iter().all(|&times| times > 2));
    assert!(times(&commands[..2]).iter().all(|&times| times > 2));
    assert_eq!(times(&commands), [0, 0]);
}

#[test]
fn prefetches_take_no_place_of_invalidations_that_wait_for_their_sync() {
    // As many as there are places, then CMD_TLBI_NH_VA: it is still as late as it may be (4.8).
    let stale = |seed| {
        let mut direct = two_pages(0, 0);
        direct.reaches(0x5000, READ);
        direct.write(diagnostics::CACHE_SEED as u64, seed);
        for _ in 0..16 {
            direct.command([0x02 | STREAM << 32, 0x5000]);
        }
        direct.map(0x5000, DATA + 0x2000, PAGE_RW);
        direct.command([0x12 | 1 << 48, 0x5001]);
        direct.reaches(0x5000, READ) == DATA
    };
    assert!(count(stale) > 2);
}

#[test]
fn page_of_stage_2_that_no_access_used_is_stale_until_tlbi() {
    // Stage 2 alone, and under stage 1, where 0x6000 leads to the IPA 0x8000.
    for nested in [false, true] {
        let stale = |seed, commands: &[[u64; 2]]| {
            let mut direct = Direct::enabled(ALL_ON, 0);
            if nested {
                direct.nest(0, S2R, CD_R | CD_A);
                direct.map(0x5000, 0x9000, PAGE_RW);
                direct.map(0x6000, 0x8000, PAGE_RW);
            } else {
                direct.set_ste(0xd, STE1, STE2 | S2R);
            }
            let ipas = if nested { [0x9000, 0x8000] } else { [0x5000, 0x6000] };
            direct.map2(ipas[0], DATA, S2_RW);
            direct.map2(ipas[1], DATA + 0x1000, S2_RW);
            direct.reaches(0x5000, READ);
            unrest(&mut direct, seed);
            direct.map2(ipas[1], DATA + 0x2000, S2_RW);
            commands.iter().for_each(|&command| direct.command(command));
            direct.reaches(0x6000, READ) == DATA + 0x1000
        };
        assert!(!stale(0, &[]));
        assert!(count(|seed| stale(seed, &[])) > 2);
        // CMD_TLBI_S12_VMALL.
        assert_eq!(count(|seed| stale(seed, &[[0x28 | 7 << 32, 0], SYNC])), 0);
    }
}

#[test]
fn what_faults_is_neither_kept_nor_recorded() {
    // Not valid; Access flag 0; with IPS = 32 bits, an address that has more.
    for (cd, second) in [(0, 0), (0, (DATA + 0x1000) | PAGE_RW & !AF), (0x5 << 32, 1 << 40 | PAGE_RW)] {
        for seed in SEEDS {
            let mut direct = two_pages(0, second);
            direct.poke(CDS, (CD0 | CD_R | CD_A) ^ cd);
            direct.reaches(0x5000, READ);
            unrest(&mut direct, seed);
            assert_eq!((direct.read(EVENTQ_PROD), direct.read(GERROR)), (0, 0), "{second:x} {seed}");
            direct.map(0x6000, DATA + 0x2000, PAGE_RW);
            assert_eq!(direct.reaches(0x6000, READ), DATA + 0x2000, "{second:x} {seed}");
        }
    }
}

#[test]
fn reads_that_abort_leave_nothing_behind() {
    let mut refused = 0;
    // The STE of the neighbour, its CD, the level 3 table of this stream.
    for range in [OTHER_STE..OTHER_STE + 64, CDS + 0x40..CDS + 0x80, TABLES + 0x2030..TABLES + 0x2038] {
        for seed in SEEDS {
            let mut direct = two_pages(CD_S, (DATA + 0x1000) | PAGE_RW);
            for (at, value) in [
                (CDS + 0x48, TABLES),
                (CDS + 0x40, CD0 | CD_A),
                (OTHER_STE + 8, STE1),
                (OTHER_STE, STE0_STAGE1 | CDS | 0x40),
            ] {
                direct.poke(at, value);
            }
            direct.reaches(0x5000, READ);
            direct.refuse_reads(range.clone());
            unrest(&mut direct, seed);
            refused += direct.refused();
            assert_eq!((direct.read(EVENTQ_PROD), direct.read(GERROR)), (0, 0), "{range:x?} {seed}");
            direct.refuse_reads(0..0);
            assert_eq!(direct.reaches(0x6000, READ), DATA + 0x1000);
            assert_eq!(direct.reaches_from(OTHER, 0x5000, READ), DATA);
        }
        assert!(refused > 5, "{range:x?}: {refused}");
        refused = 0;
    }
}

#[test]
fn no_flag_is_updated_for_what_nobody_uses() {
    // 3.13: what would need its Access flag set is not kept; a page that is writable-clean is, as such.
    let clean = (DATA + 0x1000) | PAGE_RO | DBM;
    let mut kept = [0, 0];
    for (second, kept) in [clean & !AF, clean].into_iter().zip(&mut kept) {
        for seed in SEEDS {
            let mut direct = two_pages(HA_HD, second);
            direct.reaches(0x5000, READ);
            unrest(&mut direct, seed);
            assert_eq!(direct.peek(TABLES + 0x2030), second, "{seed}");
            direct.memory.take_read(EVERYWHERE);
            direct.reaches(0x6000, READ);
            *kept += u32::from(direct.memory.take_read(EVERYWHERE).is_empty());
            // Kept or not, the write makes it dirty.
            direct.reaches(0x6000, WRITE);
            assert_eq!(direct.peek(TABLES + 0x2030), (DATA + 0x1000) | PAGE_RW | DBM, "{seed}");
        }
    }
    assert!(kept[0] == 0 && kept[1] > 2, "{kept:?}");
}

#[test]
fn no_flag_of_stage_2_is_updated_for_what_nobody_uses() {
    // The neighbour's CD, and the page behind 0x6000, lie in pages whose Access flag is 0.
    for seed in SEEDS {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.nest(0, S2R | S2HA | S2HD, CD_R | CD_A | HA_HD);
        direct.map(0x5000, 0x9000, PAGE_RW);
        direct.map(0x6000, 0x8000, PAGE_RW);
        direct.map2(0x9000, DATA, S2_RW);
        direct.map2(0x8000, DATA + 0x1000, S2_RW & !AF);
        direct.map2(0xa000, CDS, S2_RW & !AF);
        for (word, value) in [0xf | 0xa000, STE1, STE2 | S2R | S2HA | S2HD, STAGE2].into_iter().enumerate() {
            direct.poke(OTHER_STE + word as u64 * 8, value);
        }
        direct.reaches(0x5000, READ);
        unrest(&mut direct, seed);
        assert_eq!([leaf2(0x8000), leaf2(0xa000)].map(|leaf| direct.peek(leaf) & AF), [0, 0], "{seed}");
        assert_eq!(direct.read(EVENTQ_PROD), 0);
        assert_eq!(direct.reaches(0x6000, READ), DATA + 0x1000);
        assert_eq!(direct.reaches_from(OTHER, 0x5000, READ), DATA);
        assert_eq!([leaf2(0x8000), leaf2(0xa000)].map(|leaf| direct.peek(leaf) & AF), [AF, AF]);
    }
}

#[test]
fn cd_of_a_neighbouring_substream_is_stale_until_cfgi() {
    // S1CDMax 3, S1DSS 1; SubstreamIDs 4 and 5.
    let stale = |seed, commands: &[[u64; 2]]| {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(STE0_STAGE1 | CDS | 3 << 59, STE1 | 1, 0);
        direct.map(0x5000, DATA, PAGE_RW);
        for substream in [4, 5] {
            direct.poke(CDS + substream * 64 + 8, TABLES);
            direct.poke(CDS + substream * 64, CD0 | CD_A);
        }
        assert!(matches!(direct.issue(0x5000, READ, Some(4)), Issued::Ended(Response::Physical(_))));
        unrest(&mut direct, seed);
        direct.poke(CDS + 5 * 64, 0);
        commands.iter().for_each(|&command| direct.command(command));
        matches!(direct.issue(0x5000, READ, Some(5)), Issued::Ended(Response::Physical(_)))
    };
    assert!(!stale(0, &[]));
    assert!(count(|seed| stale(seed, &[])) > 2);
    // CMD_CFGI_CD of SubstreamID 5.
    assert_eq!(count(|seed| stale(seed, &[[0x05 | 5 << 12 | STREAM << 32, 1], SYNC])), 0);
}

/// The words that the SMMU reads by `seed`, after an access, with these fields of CR0.
fn read(seed: u32, cr0: u32) -> Vec<u64> {
    let mut direct = two_pages(0, (DATA + 0x1000) | PAGE_RW);
    direct.reaches(0x5000, READ);
    direct.enable(cr0);
    direct.memory.take_read(EVERYWHERE);
    unrest(&mut direct, seed);
    direct.memory.take_read(EVERYWHERE)
}

#[test]
fn seed_decides_what_is_read_and_without_one_nothing_is() {
    assert_eq!(read(0, ALL_ON), []);
    assert_eq!(read(7, ALL_ON), read(7, ALL_ON));
    assert_ne!(read(7, ALL_ON), read(8, ALL_ON));
    // Beside 0x6000 at most 7 pages of each of three sizes, and the STEs of 8 streams: nothing far off.
    for address in SEEDS.flat_map(|seed| read(seed, ALL_ON)) {
        let near = [STREAMS + STREAM * 64..STREAMS + (STREAM + 8) * 64, CDS..CDS + 64, TABLES..TABLES + 0x2400];
        assert!(near.iter().any(|range| range.contains(&address)), "{address:x}");
    }
}

#[test]
fn nothing_is_read_with_smmuen_0() {
    // 3.21.1, 3.21.3, 6.3.9.6.
    for seed in SEEDS {
        assert_eq!(read(seed, ALL_ON & !1), []);
    }
}
