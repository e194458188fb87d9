//! What the SMMU reads and writes of its own accord: 3.21.2, 3.21.3, 4.2, 8.2.

use core::ops::Range;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::smmu::{Issued, diagnostics};

const EVERYWHERE: Range<u64> = 0..u64::MAX;
/// A second level of STEs or CDs.
const LEVEL2: u64 = 0x4013_0000;
/// The largest of them.
const LEVEL2_END: u64 = LEVEL2 + 0x1_0000;

/// The range of the STE, and of the first CD.
const STE: Range<u64> = STREAMS + STREAM * 64..STREAMS + STREAM * 64 + 64;
const CD: Range<u64> = CDS..CDS + 64;

#[test]
fn queues_are_read_or_written_by_their_direction_alone() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    for _ in 0..20 {
        direct.invalidate();
        direct.fault(0x5000, WRITE);
        direct.page_request(STREAM, None, READ, true, 0);
        direct.take_page_requests();
    }
    assert_eq!(direct.memory.take_written(COMMANDS..COMMANDS + 0x100), []);
    let read = direct.memory.take_read(EVERYWHERE);
    let queues = [EVENTS..EVENTS + 0x200, PAGE_REQUESTS..PAGE_REQUESTS + 0x100];
    assert!(!read.iter().any(|address| queues.iter().any(|queue| queue.contains(address))), "{read:x?}");
}

#[test]
fn commands_beyond_prod_have_no_effect() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // CMD_SYNC with MSI data 9 behind the CMD_SYNC that is submitted.
    direct.poke(COMMANDS + 16, 0x1046 | 9 << 32);
    direct.poke(COMMANDS + 24, DATA);
    direct.command([0x46, 0]);
    direct.step();
    assert_eq!((direct.read(CMDQ_CONS), direct.peek(DATA), direct.raised.wires.len()), (1, 0, 0));
}

#[test]
fn pointers_of_invalid_structures_are_not_followed() {
    // An STE with V = 0.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_cd(CD_A, TABLES);
    direct.set_ste(STE0_STAGE1 & !1 | CDS, STE1, 0);
    direct.access(0x5000, WRITE);
    assert_eq!(direct.memory.take_read(CD), []);
    // A level 1 descriptor of STEs with SPAN = 0, in a table with SPLIT = 8.
    let mut direct = two_level(LEVEL2);
    direct.access(0x5000, WRITE);
    assert_eq!(direct.memory.take_read(LEVEL2..LEVEL2_END), []);
    // A level 1 descriptor of CDs with V = 0: S1Fmt 1, S1CDMax 8.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 8 << 59 | 1 << 4, STE1, 0);
    direct.poke(CDS, LEVEL2);
    assert_eq!(direct.issue(0x5000, WRITE, Some(1)), Issued::Ended(Response::Abort));
    assert_eq!(direct.memory.take_read(LEVEL2..LEVEL2_END), []);
}

/// A 2-level stream table of 2^9 StreamIDs with SPLIT = 8, and this level 1 descriptor for the stream, which is the first
/// of the second 256.
fn two_level(descriptor: u64) -> Direct {
    let mut direct = Direct::enabled(ALL_ON & !1, 0);
    direct.write(STRTAB_BASE_CFG, 1 << 16 | 8 << 6 | 9);
    direct.enable(ALL_ON);
    direct.poke(STREAMS + 8, descriptor);
    direct
}

#[test]
fn nothing_is_read_of_streams_with_smmuen_0() {
    let mut direct = Direct::enabled(ALL_ON & !1, 0);
    direct.stage1(EATS | 1 << 19, CD_A);
    direct.access(0x5000, WRITE);
    // Twice, with MERGE_EVENTS of the diagnostics: whether the STE has MEV (bit 83) is not looked up.
    direct.write(diagnostics::CONTROL as u64, diagnostics::control::MERGE_EVENTS);
    for _ in 0..2 {
        direct.request(0x5000, WRITE, None);
    }
    for _ in 0..2 {
        direct.translated(0x5000, WRITE);
    }
    assert_eq!(direct.take_events().len(), 4);
    direct.page_request(STREAM, Some(1), READ, true, 0);
    // CMD_PREFETCH_CONFIG, CMD_PREFETCH_ADDR.
    for command in [[0x01 | STREAM << 32, 0], [0x02 | STREAM << 32, 0x5000]] {
        direct.command(command);
    }
    assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (2, 0));
    let read = direct.memory.take_read(EVERYWHERE);
    assert!(read.iter().all(|address| (COMMANDS..COMMANDS + 0x100).contains(address)), "{read:x?}");
}

#[test]
fn what_was_seen_with_smmuen_0_is_not_kept() {
    let mut direct = Direct::enabled(ALL_ON & !1, 0);
    direct.set_ste(1, 0, 0);
    assert_eq!(direct.reaches(DATA, WRITE), DATA, "bypass");
    assert_eq!(direct.reaches(0x5000, WRITE), 0x5000, "bypass");
    direct.command([0x01 | STREAM << 32, 0]);
    direct.command([0x02 | STREAM << 32, 0x5000]);
    direct.stage1(0, CD_A);
    direct.map(0x5000, DATA + 0x1000, PAGE_RW);
    direct.enable(ALL_ON);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA + 0x1000);
}

#[test]
fn cd_is_read_only_through_an_ste_that_enables_stage_1() {
    // Abort, bypass, stage 2.
    for word0 in [1, 9, 0xd] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_cd(CD_A, TABLES);
        direct.set_ste(word0 | CDS, STE1, STE2);
        direct.access(DATA, WRITE);
        direct.request(DATA, WRITE, None);
        direct.command([0x01 | STREAM << 32, 0]);
        assert_eq!(direct.memory.take_read(CD), [], "{word0:x}");
    }
}

#[test]
fn no_ste_outside_the_table_is_read() {
    // Of 512 StreamIDs; the prefetch may go no further than an access (4.2).
    let mut direct = Direct::enabled(ALL_ON, 0);
    for stream in [512, 513, 0x1_0000, 0xffff_ffff] {
        assert_eq!(direct.issue_from(stream, 0x5000, WRITE), Issued::Ended(Response::Abort));
        direct.command([0x01 | stream << 32, 0]);
    }
    assert_eq!(direct.memory.take_read(STREAMS..STREAMS + 0x2_0000), []);
    // SPAN = 3: 4 STEs. The fifth is beyond it, and the last level 1 descriptor is the second.
    let mut direct = two_level(LEVEL2 | 3);
    for stream in [STREAM + 4, 512] {
        assert_eq!(direct.issue_from(stream, 0x5000, WRITE), Issued::Ended(Response::Abort));
        direct.command([0x01 | stream << 32, 0]);
    }
    let read = direct.memory.take_read(EVERYWHERE);
    let outside = |address: &&u64| **address != STREAMS + 8 && !(COMMANDS..COMMANDS + 0x100).contains(*address);
    assert_eq!(read.iter().find(outside), None, "{read:x?}");
}

#[test]
fn no_cd_outside_the_table_is_read() {
    // S1CDMax 2, S1DSS 2; S1Fmt 0 and 1.
    for format in [0, 1 << 4] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(STE0_STAGE1 | CDS | 2 << 59 | format, STE1 | 2, 0);
        direct.poke(CDS + 8, LEVEL2 | 1);
        for substream in [4, 5, 64, 0xf_ffff] {
            assert_eq!(direct.issue(0x5000, WRITE, Some(substream)), Issued::Ended(Response::Abort));
            direct.command([0x01 | 1 << 11 | u64::from(substream) << 12 | STREAM << 32, 0]);
        }
        let read = direct.memory.take_read(EVERYWHERE);
        let outside = |address: &&u64| !STE.contains(*address) && !(COMMANDS..COMMANDS + 0x100).contains(*address);
        assert_eq!(read.iter().find(outside), None, "{read:x?}");
    }
    // S1CDMax 8, S1Fmt 1: SubstreamID 0xc5 is in the fourth table of 64, at 5.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 8 << 59 | 1 << 4, STE1, 0);
    direct.poke(CDS + 3 * 8, LEVEL2 | 1);
    direct.memory.take_read(EVERYWHERE);
    direct.issue(0x5000, WRITE, Some(0xc5));
    let read = direct.memory.take_read(LEVEL2..LEVEL2 + 0x10000);
    assert!(read.contains(&(LEVEL2 + 5 * 64)) && read.iter().all(|at| *at < LEVEL2 + 0x1000), "{read:x?}");
}

#[test]
fn each_word_of_an_ste_and_a_cd_is_read_once_and_whole() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(EATS, CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    let words = |range: Range<u64>| range.step_by(8).collect::<std::vec::Vec<_>>();
    direct.access(0x5000, WRITE);
    assert_eq!(direct.memory.take_read(STE.start..CD.end), [words(STE), words(CD)].concat());
    direct.invalidate();
    direct.memory.take_read(EVERYWHERE);
    assert!(matches!(direct.request(0x5000, WRITE, None), Completion::Success { read: true, .. }));
    let read = direct.memory.take_read(STE.start..CD.end);
    let structures: std::vec::Vec<u64> =
        read.into_iter().filter(|address| STE.contains(address) || CD.contains(address)).collect();
    assert_eq!(structures, [words(STE), words(CD)].concat());
}

#[test]
fn fetches_that_aborted_are_not_remembered() {
    // F_STE_FETCH, then F_CD_FETCH.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    for (range, id) in [(STE, 0x03), (CD, 0x09)] {
        direct.refuse_reads(range);
        assert_eq!(direct.fault(0x5000, WRITE)[0], 0x100_0000_0000 | id);
    }
    direct.refuse_reads(0..0);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    // A CD that fails stage 2: mended there alone.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(0, S2R, CD_A);
    direct.set_ste(0xf | 0xa000, STE1, STE2 | S2R);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.fault(0x5000, WRITE)[0], 0x100_0000_0010);
    direct.map2(0xa000, CDS, S2_RW);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
}
