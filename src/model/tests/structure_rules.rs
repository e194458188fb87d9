//! Changes of configuration structures and the commands that bring them: 3.21.3, 4.3.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::smmu::Issued;
use crate::smmuv3::PhysAddr;

const SYNC: [u64; 2] = [0x46, 0];
/// The page that 0x5000 is at in the tables of the bench, and in other ones.
const OLD: u64 = DATA;
const NEW: u64 = DATA + 0x1000;
const OTHER_TABLES: u64 = 0x4014_0000;
/// nG of a page.
const NOT_GLOBAL: u64 = 1 << 11;
/// Second levels of STEs or CDs, the one in use at first and another.
const FIRST: u64 = 0x4013_0000;
const SECOND: u64 = 0x4017_0000;

/// CMD_CFGI_STE with Leaf and without; CMD_CFGI_STE_RANGE of 16 StreamIDs, of which the low 4 bits of StreamID do not
/// count; CMD_CFGI_ALL with a StreamID that does not matter.
const STE_WITH_LEAF: [u64; 2] = [0x03 | STREAM << 32, 1];
const STE_WITHOUT_LEAF: [u64; 2] = [0x03 | STREAM << 32, 0];
const RANGE: [u64; 2] = [0x04 | (STREAM + 7) << 32, 3];
const ALL: [u64; 2] = [0x04 | 0xffff << 32, 31];
/// CMD_CFGI_CD_ALL.
const CD_ALL: [u64; 2] = [0x06 | STREAM << 32, 0];

/// CMD_CFGI_CD.
const fn cd(substream: u64, leaf: u64) -> [u64; 2] {
    [0x05 | substream << 12 | STREAM << 32, leaf]
}

/// Writes a CD with these tables.
fn set_cd(direct: &Direct, at: u64, tables: u64) {
    direct.poke(at + 8, tables);
    direct.poke(at, CD0 | CD_R | CD_A);
}

/// An SMMU with the two sets of tables.
fn prepared(cr0: u32) -> Direct {
    let direct = Direct::enabled(cr0, 0);
    direct.map(0x5000, OLD, PAGE_RW | NOT_GLOBAL);
    direct.poke(OTHER_TABLES, (OTHER_TABLES + 0x1000) | 3);
    direct.poke(OTHER_TABLES + 0x1000, (OTHER_TABLES + 0x2000) | 3);
    direct.poke(OTHER_TABLES + 0x2028, NEW | PAGE_RW | NOT_GLOBAL);
    direct
}

/// Where an access with this SubstreamID ends.
#[track_caller]
fn reached(direct: &mut Direct, substream: Option<u32>) -> u64 {
    match direct.issue(0x5000, WRITE, substream) {
        Issued::Ended(Response::Physical(PhysAddr(physical))) => physical,
        other => panic!("{other:?}"),
    }
}

/// Shows that the access goes to the new page after `command`, CMD_TLBI_NSNH_ALL, as the ASID is the same, and CMD_SYNC.
#[track_caller]
fn brings_the_new(direct: &mut Direct, substream: Option<u32>, command: [u64; 2]) {
    for command in [command, SYNC, [0x30, 0], SYNC] {
        direct.command(command);
    }
    assert_eq!(reached(direct, substream), NEW, "{command:x?}");
}

#[test]
fn ste_is_read_anew_after_each_command_that_names_its_stream() {
    for command in [STE_WITH_LEAF, STE_WITHOUT_LEAF, RANGE, ALL] {
        let mut direct = prepared(ALL_ON);
        direct.stage1(0, CD_A);
        assert_eq!(reached(&mut direct, None), OLD);
        set_cd(&direct, CDS + 0x40, OTHER_TABLES);
        direct.poke(STREAMS + STREAM * 64, STE0_STAGE1 | (CDS + 0x40));
        brings_the_new(&mut direct, None, command);
    }
}

#[test]
fn level_1_stream_descriptor_is_read_anew_without_leaf() {
    // SPLIT = 8: the stream is the first of the second 256; SPLIT = 10: in the middle of the first 1024.
    for (split, leaf, index) in [(8, STREAMS + 8, 0), (10, STREAMS, STREAM)] {
        for command in [STE_WITHOUT_LEAF, RANGE, ALL] {
            let mut direct = prepared(ALL_ON & !1);
            direct.write(STRTAB_BASE_CFG, 1 << 16 | split << 6 | (split + 1));
            direct.enable(ALL_ON);
            for (table, cd, tables) in [(FIRST, CDS, TABLES), (SECOND, CDS + 0x40, OTHER_TABLES)] {
                set_cd(&direct, cd, tables);
                direct.poke(table + index * 64 + 8, STE1);
                direct.poke(table + index * 64, STE0_STAGE1 | cd);
            }
            let span = u64::from(split) + 1;
            direct.poke(leaf, FIRST | span);
            assert_eq!(reached(&mut direct, None), OLD);
            direct.poke(leaf, SECOND | span);
            brings_the_new(&mut direct, None, command);
        }
    }
}

#[test]
fn cd_is_read_anew_after_each_command_that_names_it_or_its_stream() {
    // S1CDMax 8, one level: SubstreamID 5.
    for command in [cd(5, 1), cd(5, 0), CD_ALL, STE_WITH_LEAF, RANGE, ALL] {
        let mut direct = prepared(ALL_ON);
        direct.set_ste(STE0_STAGE1 | FIRST | 8 << 59, STE1, 0);
        set_cd(&direct, FIRST + 5 * 64, TABLES);
        assert_eq!(reached(&mut direct, Some(5)), OLD);
        direct.poke(FIRST + 5 * 64 + 8, OTHER_TABLES);
        brings_the_new(&mut direct, Some(5), command);
    }
}

#[test]
fn level_1_context_descriptor_is_read_anew_without_leaf() {
    // S1Fmt 1: 64 CDs a table; 2: 1024, so that 70 lies in the first one.
    for (format, substream) in [(1, 5), (2, 70)] {
        for command in [cd(substream, 0), CD_ALL, STE_WITH_LEAF, RANGE, ALL] {
            let mut direct = prepared(ALL_ON);
            direct.set_ste(STE0_STAGE1 | CDS | 8 << 59 | format << 4, STE1, 0);
            set_cd(&direct, FIRST + substream * 64, TABLES);
            set_cd(&direct, SECOND + substream * 64, OTHER_TABLES);
            direct.poke(CDS, FIRST | 1);
            assert_eq!(reached(&mut direct, Some(substream as u32)), OLD);
            direct.poke(CDS, SECOND | 1);
            brings_the_new(&mut direct, Some(substream as u32), command);
        }
    }
}

#[test]
fn stes_of_a_range_are_read_anew_whichever_of_them_the_command_names() {
    // Bypass, then abort (Config 0b100 and 0b000), of five of 1024 streams.
    const STREAM_IDS: [u64; 5] = [0x106, 0x107, 0x10f, 0x110, 0x3ff];
    let new = |stream: u64, range: u64| {
        let mut direct = Direct::off(0);
        direct.write(STRTAB_BASE_CFG, 10);
        direct.enable(ALL_ON);
        for config in [9, 1] {
            for stream in STREAM_IDS {
                direct.poke(STREAMS + stream * 64 + 8, STE1);
                direct.poke(STREAMS + stream * 64, config);
                if config == 9 {
                    assert_eq!(direct.reaches_from(stream, DATA, READ), DATA);
                }
            }
        }
        direct.command([0x04 | stream << 32, range]);
        direct.command(SYNC);
        STREAM_IDS.map(|stream| direct.issue_from(stream, DATA, READ) == Issued::Ended(Response::Abort))
    };
    for stream in [0x106, 0x107] {
        assert_eq!(new(stream, 0), [true, true, false, false, false]);
    }
    for stream in [0x100, 0x107, 0x10f] {
        assert_eq!(new(stream, 3), [true, true, true, false, false]);
    }
    assert_eq!(new(0x3, 8), [true, true, true, true, false]);
    assert_eq!(new(0x200, 8), [false, false, false, false, true]);
    // CMD_CFGI_ALL.
    for stream in [0, 0x107, 0xffff_ffff] {
        assert_eq!(new(stream, 31), [true; 5]);
    }
}

#[test]
fn all_cds_and_level_1_descriptors_of_a_stream_are_read_anew_with_it() {
    // S1Fmt 1, S1CDMax 8, S1DSS 2: SubstreamIDs 5 and 0x45 of the stream, and CD 0 of the last of the 16 streams.
    const LAST: u64 = STREAM + 15;
    let ends = |direct: &mut Direct| {
        [reached(direct, Some(5)), reached(direct, Some(0x45)), direct.reaches_from(LAST, 0x5000, WRITE)]
    };
    for (command, expected) in [
        (CD_ALL, [NEW, NEW, OLD]),
        (STE_WITH_LEAF, [NEW, NEW, OLD]),
        (STE_WITHOUT_LEAF, [NEW, NEW, OLD]),
        (RANGE, [NEW; 3]),
        (ALL, [NEW; 3]),
    ] {
        let mut direct = prepared(ALL_ON);
        for stream in [STREAM, LAST] {
            direct.poke(STREAMS + stream * 64 + 8, STE1 | 2);
            direct.poke(STREAMS + stream * 64, STE0_STAGE1 | CDS | 8 << 59 | 1 << 4);
        }
        // Each with an ASID of its own, which is its number.
        for (second_level, tables) in [(FIRST, TABLES), (SECOND, OTHER_TABLES)] {
            for number in [0, 5, 0x45] {
                let at = second_level + number * 64;
                direct.poke(at + 8, tables);
                direct.poke(at, CD0 & !(0xffff << 48) | CD_A | number << 48);
            }
        }
        let lead_to = |direct: &Direct, second_level: u64| {
            direct.poke(CDS, second_level | 1);
            direct.poke(CDS + 8, (second_level + 0x1000) | 1);
        };
        lead_to(&direct, FIRST);
        assert_eq!(ends(&mut direct), [OLD; 3]);
        lead_to(&direct, SECOND);
        for command in [command, SYNC, [0x30, 0], SYNC] {
            direct.command(command);
        }
        assert_eq!(ends(&mut direct), expected, "{command:x?}");
    }
}

#[test]
fn substream_0_names_the_cd_of_transactions_without_one() {
    // S1CDMax 8 and S1DSS 2; and no substreams at all.
    for (word0, word1) in [(STE0_STAGE1 | FIRST | 8 << 59, STE1 | 2), (STE0_STAGE1 | FIRST, STE1)] {
        let mut direct = prepared(ALL_ON);
        direct.set_ste(word0, word1, 0);
        set_cd(&direct, FIRST, TABLES);
        assert_eq!(reached(&mut direct, None), OLD);
        direct.poke(FIRST + 8, OTHER_TABLES);
        brings_the_new(&mut direct, None, cd(0, 1));
    }
}

#[test]
fn shared_cd_is_read_anew_for_each_stream_that_a_command_names() {
    let mut direct = prepared(ALL_ON);
    let other = STREAMS + (STREAM + 1) * 64;
    set_cd(&direct, CDS, TABLES);
    direct.set_ste(STE0_STAGE1 | CDS, STE1, 0);
    direct.poke(other + 8, STE1);
    direct.poke(other, STE0_STAGE1 | CDS);
    assert_eq!([direct.reaches(0x5000, WRITE), direct.reaches_from(STREAM + 1, 0x5000, WRITE)], [OLD, OLD]);
    direct.poke(CDS + 8, OTHER_TABLES);
    direct.command([0x05 | (STREAM + 1) << 32, 1]);
    brings_the_new(&mut direct, None, cd(0, 1));
    assert_eq!(direct.reaches_from(STREAM + 1, 0x5000, WRITE), NEW);
}

#[test]
fn structures_that_were_invalid_when_they_were_read_are_read_anew() {
    let mut direct = prepared(ALL_ON);
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0004, 0, 0, 0]);
    direct.set_ste(STE0_STAGE1 | CDS, STE1, 0);
    direct.command(STE_WITH_LEAF);
    direct.command(SYNC);
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_000a, 0, 0, 0]);
    set_cd(&direct, CDS, OTHER_TABLES);
    brings_the_new(&mut direct, None, cd(0, 1));
}
