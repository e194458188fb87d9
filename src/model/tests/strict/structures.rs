//! STEs and CDs that change while they are valid: 3.21.3, 5.1 to 5.3, 6.3.25.

use super::*;
use crate::model::endpoint::Response;
use crate::model::smmu::Issued;
use crate::model::smmu::strict::Violation;
use crate::smmuv3::PhysAddr;

const STREAM: u64 = 0x100;
const STE: u64 = STREAMS + STREAM * 64;
/// EPD0 of a CD, bit 14 of word 0: one word.
const EPD0: u64 = 1 << 14;

/// Engine 0 has read through its STE and CD.
fn used() -> Bench {
    let mut bench = strict();
    bench.attach(STREAM, 0, 0, CD_R | CD_A);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 2);
    bench
}

fn invalidate(bench: &mut Bench, command: [u64; 2]) -> Option<(&'static str, &'static str)> {
    bench.command(command);
    bench.command(SYNC);
    broken(bench)
}

#[test]
fn ste_that_changes_in_one_word_is_silent() {
    let mut bench = used();
    // Another CD; then abort.
    bench.poke(STE, STE0_STAGE1 | (CDS + 0x40));
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    bench.poke(STE, 1);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
}

#[test]
fn ste_that_changes_in_two_words_while_it_is_valid_is_named() {
    let torn = Some(("torn-ste", "3.21.3"));
    for command in [cfgi_ste(STREAM), CFGI_ALL, [0x04 | 0x101 << 32, 0]] {
        let mut bench = used();
        bench.poke(STE, STE0_STAGE1 | (CDS + 0x40));
        bench.poke(STE + 8, STE1 | S1STALLD);
        assert_eq!(invalidate(&mut bench, cfgi_ste(0x103)), None, "of another stream");
        assert_eq!(invalidate(&mut bench, command), torn, "{command:x?}");
        assert_eq!(invalidate(&mut bench, command), None, "that is how it is now");
    }
}

#[test]
fn ste_that_passes_through_invalid_may_change_as_it_likes() {
    let mut bench = used();
    bench.poke(STE, (STE0_STAGE1 | CDS) & !1);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    bench.poke(STE + 8, STE1 | S1STALLD);
    bench.poke(STE, (STE0_STAGE1 | (CDS + 0x40)) & !1);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    bench.poke(STE, STE0_STAGE1 | (CDS + 0x40));
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
}

#[test]
fn words_that_mean_nothing_yet_may_be_filled_while_the_ste_is_valid() {
    let mut bench = strict();
    // Bypass, whose transactions keep their shareability.
    bench.set_ste(STREAM, 9, STE1);
    bench.write_word(0, DATA);
    assert_eq!(bench.state(0), 2);
    // Word 2 is stage 2's VMID and size, word 3 its table: neither counts while stage 2 is off, but the VMID.
    bench.poke(STE + 16, 0x000d_3559_0000_0000);
    bench.poke(STE + 24, DATA);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    // Stage 2 on: one word.
    bench.poke(STE, 0xd);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
}

#[test]
fn a_field_that_stage_2_alone_ignores_may_change_with_another_word() {
    let mut bench = strict();
    bench.set_ste(STREAM, 0xd, STE1);
    bench.poke(STE + 16, 0x000d_3559_0000_0000);
    bench.poke(STE + 24, DATA);
    bench.write_word(0, 0x5000);
    // S2PTW (5.2), and another table.
    bench.poke(STE + 16, 0x004d_3559_0000_0000);
    bench.poke(STE + 24, DATA + 0x1000);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
}

#[test]
fn cd_that_changes_in_one_word_is_silent_and_in_two_it_is_named() {
    for command in [cfgi_cd(STREAM), [0x06 | STREAM << 32, 0]] {
        let mut bench = used();
        bench.poke(CDS + 8, TABLES + 0x1000);
        assert_eq!(invalidate(&mut bench, command), None);
        bench.write_word(0, 0x5000);
        bench.poke(CDS + 8, TABLES);
        bench.poke(CDS + 24, 0xff44);
        assert_eq!(invalidate(&mut bench, command), Some(("torn-cd", "3.21.3")));
    }
}

#[test]
fn cd_that_passes_through_invalid_may_change_as_it_likes() {
    let mut bench = used();
    let valid = bench.peek(CDS);
    bench.poke(CDS, valid & !(1 << 31));
    assert_eq!(invalidate(&mut bench, cfgi_cd(STREAM)), None);
    bench.poke(CDS + 8, TABLES + 0x1000);
    bench.poke(CDS + 24, 0xff44);
    bench.poke(CDS, valid | EPD0);
    assert_eq!(invalidate(&mut bench, cfgi_cd(STREAM)), None);
}

#[test]
fn cd_of_a_stream_that_left_it_may_change_as_it_likes() {
    let mut bench = used();
    bench.poke(STE, 1);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    bench.poke(CDS + 8, TABLES + 0x1000);
    bench.poke(CDS + 24, 0xff44);
    assert_eq!(invalidate(&mut bench, cfgi_cd(STREAM)), None);
}

/// A level 1 table, and the array of STEs or CDs that its descriptors lead to.
const LEVEL1: u64 = DATA + 0x1_0000;
const LEVEL2: u64 = DATA + 0x10_0000;

/// Which rule is broken, and what about it.
fn told(violation: Option<Violation>) -> Option<(&'static str, Vec<(&'static str, u64)>)> {
    violation.map(|violation| (violation.rule.name(), violation.details.into_iter().flatten().collect()))
}

/// An STE of stream 0x102 at `at`, which leads to CD 0, and an access of engine 2 that takes this stream table: one with
/// this STRTAB_BASE_CFG and the level 1 descriptors `level1`, by their number.
fn used_from(at: u64, configuration: u32, level1: &[(u64, u64)]) -> Bench {
    let mut bench = strict();
    bench.enable(ALL_ON & !1);
    bench.write64(STRTAB_BASE, LEVEL1);
    bench.write(STRTAB_BASE_CFG, configuration);
    bench.enable(ALL_ON);
    level1.iter().for_each(|(number, word)| bench.poke(LEVEL1 + number * 8, *word));
    bench.set_cd(0, CD_R | CD_A, 0);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.poke(at + 8, STE1);
    bench.poke(at, STE0_STAGE1 | CDS);
    bench.write_word(2, 0x5000);
    assert_eq!(broken(&mut bench), None);
    bench
}

/// Changes two words of the STE at `at`.
fn tear_ste(bench: &Bench, at: u64) {
    bench.poke(at, STE0_STAGE1 | (CDS + 0x40));
    bench.poke(at + 8, STE1 | S1STALLD);
}

#[test]
fn ste_is_watched_where_the_stream_table_has_it() {
    const TWO_LEVEL: u32 = 1 << 16;
    for (configuration, level1, at) in [
        // Linear: FMT 0, and the reserved FMT 3.
        (9, None, LEVEL1 + 0x102 * 64),
        (3 << 16 | 9, None, LEVEL1 + 0x102 * 64),
        // SPLIT, of which 7 is reserved and as 6; the number of the descriptor; SPAN, from the largest to the smallest
        // that reaches so far; the number of the STE.
        (TWO_LEVEL | 6 << 6 | 9, Some((4, 7)), LEVEL2 + 2 * 64),
        (TWO_LEVEL | 6 << 6 | 9, Some((4, 3)), LEVEL2 + 2 * 64),
        (TWO_LEVEL | 7 << 6 | 9, Some((4, 7)), LEVEL2 + 2 * 64),
        (TWO_LEVEL | 8 << 6 | 9, Some((1, 9)), LEVEL2 + 2 * 64),
        (TWO_LEVEL | 10 << 6 | 9, Some((0, 11)), LEVEL2 + 0x102 * 64),
        (TWO_LEVEL | 10 << 6 | 9, Some((0, 10)), LEVEL2 + 0x102 * 64),
    ] {
        let level1: Vec<_> = level1.into_iter().map(|(number, span)| (number, LEVEL2 | span)).collect();
        let mut bench = used_from(at, configuration, &level1);
        assert_eq!(bench.state(2), 2, "{configuration:#x}");
        tear_ste(&bench, at);
        let about = [("StreamID", 0x102), ("address", at), ("changed words", 0b11)].into();
        bench.command(CFGI_ALL);
        assert_eq!(told(bench.machine.take_violation()), Some(("torn-ste", about)), "{configuration:#x}");
    }
}

#[test]
fn what_the_stream_table_does_not_reach_is_no_ste() {
    const TWO_LEVEL: u32 = 1 << 16;
    for (configuration, level1, at) in [
        // LOG2SIZE is 8 (6.3.25).
        (8, None, LEVEL1 + 0x102 * 64),
        (TWO_LEVEL | 6 << 6 | 8, Some((4, LEVEL2 | 7)), LEVEL2 + 2 * 64),
        // SPAN is for two STEs; 0; reserved; or beyond SPLIT + 1 (5.1).
        (TWO_LEVEL | 6 << 6 | 9, Some((4, LEVEL2 | 2)), LEVEL2 + 2 * 64),
        (TWO_LEVEL | 6 << 6 | 9, Some((4, LEVEL2)), LEVEL2 + 2 * 64),
        (TWO_LEVEL | 6 << 6 | 9, Some((4, LEVEL2 | 12)), LEVEL2 + 2 * 64),
        (TWO_LEVEL | 6 << 6 | 9, Some((4, LEVEL2 | 8)), LEVEL2 + 2 * 64),
        (TWO_LEVEL | 8 << 6 | 9, Some((1, LEVEL2 | 10)), LEVEL2 + 2 * 64),
        // No memory there.
        (TWO_LEVEL | 6 << 6 | 9, Some((4, END | 7)), LEVEL2 + 2 * 64),
    ] {
        let level1: Vec<_> = level1.into_iter().collect();
        let mut bench = used_from(at, configuration, &level1);
        assert_eq!(bench.state(2), 3, "{configuration:#x} {level1:x?}");
        tear_ste(&bench, at);
        for command in [CFGI_ALL, SYNC, stall_term(0x102)] {
            bench.command(command);
            assert_eq!(broken(&mut bench), None, "{configuration:#x} {level1:x?}");
        }
    }
}

/// An SMMU with 20 bits of SubstreamID, after an access with `substream` by an STE with this word 0, the descriptor
/// `level1` of the level 1 table by its number, and the CD at `at`, of which then two words have changed: the tables and
/// MAIR. Whether it found its way.
fn used_with(substream: u32, at: u64, word0: u64, level1: Option<(u64, u64)>) -> (Direct, bool) {
    let mut direct = strict_alone(Profile::Big);
    if let Some((number, word)) = level1 {
        direct.poke(LEVEL1 + number * 8, word);
    }
    direct.set_ste(STE0_STAGE1 | LEVEL1 | word0, STE1, 0);
    direct.poke(at + 8, TABLES);
    direct.poke(at + 24, 0xff);
    direct.poke(at, CD0 | CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    let issued = direct.issue(0x5000, WRITE, Some(substream));
    direct.poke(at + 8, TABLES + 0x1000);
    direct.poke(at + 24, 0xff44);
    (direct, issued == Issued::Ended(Response::Physical(PhysAddr(DATA))))
}

/// S1Fmt and S1CDMax of an STE.
const fn table(format: u64, cd_max: u64) -> u64 {
    format << 4 | cd_max << 59
}

#[test]
fn cd_is_watched_where_the_table_of_its_ste_has_it() {
    for (substream, word0, level1, number) in [
        // Linear; descriptors of 64 CDs; of 1024. With and without more than one descriptor.
        (0xc5, table(0, 8), None, 0xc5),
        (0x25, table(1, 6), Some(0), 0x25),
        (0xfc5, table(1, 12), Some(63), 5),
        (0x2c5, table(2, 10), Some(0), 0x2c5),
        (0xec5, table(2, 12), Some(3), 0x2c5),
        // One CD, whatever S1Fmt says.
        (0, table(2, 0), None, 0),
    ] {
        let at = if level1.is_some() { LEVEL2 } else { LEVEL1 } + number * 64;
        let (mut direct, found) = used_with(substream, at, word0, level1.map(|number| (number, LEVEL2 | 1)));
        // Without substreams a SubstreamID is an error, but CD 0 may have been read.
        assert!(found || substream == 0, "{substream:#x}");
        let substream = u64::from(substream);
        direct.command([0x05 | 1 << 12 | STREAM << 32, 1]);
        assert_eq!(direct.take_violation(), None, "the CD of another SubstreamID");
        direct.command([0x05 | substream << 12 | STREAM << 32, 1]);
        let about = [("StreamID", STREAM), ("SubstreamID", substream), ("address", at), ("changed words", 0b1010)];
        assert_eq!(told(direct.take_violation()), Some(("torn-cd", about.into())), "{substream:#x}");
    }
}

#[test]
fn what_the_table_of_an_ste_does_not_reach_is_no_cd() {
    for (substream, word0, level1, number) in [
        // S1CDMax is too small for the SubstreamID; V of the descriptor is 0; there is no memory (5.2, 5.3).
        (0xc5, table(0, 7), None, 0xc5),
        (0xc5, table(1, 7), Some((3, LEVEL2 | 1)), 5),
        (0xc5, table(1, 8), Some((3, LEVEL2)), 5),
        (0xc5, table(1, 8), Some((3, END | 1)), 5),
    ] {
        let at = if level1.is_some() { LEVEL2 } else { LEVEL1 } + number * 64;
        let (mut direct, found) = used_with(substream, at, word0, level1);
        assert!(!found, "{substream:#x} {word0:#x}");
        direct.command([0x05 | u64::from(substream) << 12 | STREAM << 32, 1]);
        assert_eq!(direct.take_violation(), None, "{substream:#x} {word0:#x}");
    }
}

/// `engines` engines have written one after the other, the first one first, each with an STE and a CD of its own.
fn used_by(engines: u64) -> Bench {
    let mut bench = strict_with(32);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    for engine in 0..engines {
        bench.attach(STREAM + engine, engine, 0, CD_R | CD_A);
        bench.write_word(engine as usize, 0x5000);
    }
    bench
}

#[test]
fn sixteen_stes_and_cds_are_watched_however_often_they_are_used() {
    for (engines, named) in [(2, true), (16, true), (17, false)] {
        let mut bench = used_by(engines);
        (0..20).for_each(|_| bench.write_word(engines as usize - 1, 0x5000));
        bench.poke(CDS + 8, TABLES + 0x1000);
        bench.poke(CDS + 24, 0xff44);
        assert_eq!(invalidate(&mut bench, cfgi_cd(STREAM)).is_some(), named, "the first CD of {engines}");
        let mut bench = used_by(engines);
        (0..20).for_each(|_| bench.write_word(engines as usize - 1, 0x5000));
        tear_ste(&bench, STE);
        assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)).is_some(), named, "the first STE of {engines}");
    }
}

#[test]
fn structures_that_are_valid_again_are_watched_again() {
    let mut bench = used();
    let (ste, cd) = (bench.peek(STE), bench.peek(CDS));
    for (at, valid) in [(STE, ste), (CDS, cd)] {
        let invalid = if at == STE { valid & !1 } else { valid & !(1 << 31) };
        for word in [invalid, valid] {
            bench.poke(at, word);
            assert_eq!(invalidate(&mut bench, if at == STE { cfgi_ste(STREAM) } else { cfgi_cd(STREAM) }), None);
        }
    }
    bench.write_word(0, 0x5000);
    bench.poke(CDS + 8, TABLES + 0x1000);
    bench.poke(CDS + 24, 0xff44);
    assert_eq!(invalidate(&mut bench, cfgi_cd(STREAM)), Some(("torn-cd", "3.21.3")));
    tear_ste(&bench, STE);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), Some(("torn-ste", "3.21.3")));
}

#[test]
fn stall_term_is_named_while_a_level_1_descriptor_leads_the_smmu_to_the_old_ste() {
    let (other, early) = (LEVEL2 + 0x1000, Some(("terminate-not-invalidated", "4.7.2")));
    // CMD_CFGI_STE with Leaf, which leaves the descriptor where it is, and without (5.1.1).
    for (leaf, expected) in [(1, early), (0, None)] {
        let mut bench = used_from(LEVEL2 + 2 * 64, 1 << 16 | 6 << 6 | 9, &[(4, LEVEL2 | 7)]);
        bench.poke(other + 2 * 64, 1);
        bench.poke(LEVEL1 + 4 * 8, other | 7);
        bench.command([0x03 | 0x102 << 32, leaf]);
        bench.command(SYNC);
        bench.command(stall_term(0x102));
        assert_eq!(broken(&mut bench), expected, "Leaf = {leaf}");
    }
}

#[test]
fn stall_term_is_judged_by_an_ste_that_nobody_has_read_but_the_caches_hold() {
    // CACHE_POISON: 64 STEs from here on that bypass. The table has 512; in memory they are not valid.
    for (stream, expected) in [(0x1c0, Some(("terminate-not-invalidated", "4.7.2"))), (0x200, None)] {
        let mut bench = strict();
        bench.write(0xe0c, stream as u32);
        bench.command(stall_term(stream));
        assert_eq!(broken(&mut bench), expected, "{stream:#x}");
    }
}
