//! What of STEs, CDs and their fields is remembered, until when, and under which tags: 5.2, 5.2.1, 5.4, 5.4.1.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::{Completion, Response};
use crate::model::smmu::Issued;
use crate::model::smmu::diagnostics::CACHE_SEED;
use crate::smmuv3::PhysAddr;

/// nG of a leaf: it belongs to the ASID.
const NG: u64 = 1 << 11;
/// Of CD word 0.
const EPD0: u64 = 1 << 14;
const EPD1: u64 = 1 << 30;
const ASET: u64 = 1 << 47;
/// STE.STRW for NS-EL2, or NS-EL2-E2H with CR2.E2H.
const EL2: u64 = 2 << 30;
const E2H: u32 = 1;

const SYNC: [u64; 2] = [0x46, 0];
/// CMD_CFGI_STE and CMD_CFGI_CD with Leaf; CMD_TLBI_NH_ALL, _NH_ASID, _S12_VMALL and _S2_IPA (4.3, 4.4).
const CFGI_STE: [u64; 2] = [0x03 | STREAM << 32, 1];
const CFGI_CD: [u64; 2] = [0x05 | STREAM << 32, 1];
const NH_ALL: u64 = 0x10;
const NH_ASID: u64 = 0x11;
const S12_VMALL: u64 = 0x28;
const S2_IPA: u64 = 0x2a;

/// Where 0x5000 leads to at first, and after the change of its leaf that the cache may hide.
const OLD: u64 = DATA;
const NEW: u64 = DATA + 0x1000;

/// Word 1 of the record of a read: RnW, CLASS = IN (7.3.13).
const READ_OF_INPUT: u64 = 1 << 35 | IN;

fn commands(direct: &mut Direct, commands: &[[u64; 2]]) {
    for command in commands {
        direct.command(*command);
    }
    direct.command(SYNC);
}

/// Stage 1 alone with these words of the STE and flags of the CD; 0x5000 was translated and its leaf, of one ASID, changed.
fn stage1(cr2: u32, word1: u64, word2: u64) -> Direct {
    let mut direct = Direct::enabled(ALL_ON, cr2);
    direct.stage1(word1, CD_R | CD_A);
    direct.set_ste_word(2, word2);
    direct.map(0x5000, OLD, PAGE_RW | NG);
    assert_eq!(direct.reaches(0x5000, READ), OLD);
    direct.map(0x5000, NEW, PAGE_RW | NG);
    direct
}

/// Stage 2 alone, likewise.
fn stage2() -> Direct {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 | S2R);
    direct.map2(0x5000, OLD, S2_RW);
    assert_eq!(direct.reaches(0x5000, READ), OLD);
    direct.map2(0x5000, NEW, S2_RW);
    direct
}

fn issue(direct: &mut Direct, substream: u32) -> Response {
    match direct.issue(0x5000, READ, Some(substream)) {
        Issued::Ended(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ste_counts_as_it_was_read_until_cfgi_and_sync() {
    // V = 0; ILLEGAL, as S2AA64 is 0; bypass.
    for (word0, aborts) in [(0, true), (0xd, true), (9, false)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.set_ste(word0, STE1, 0);
        let ends = |direct: &mut Direct| direct.access(OLD, READ) == Response::Abort;
        assert_eq!(ends(&mut direct), aborts);
        direct.set_ste(if aborts { 9 } else { 1 }, STE1, 0);
        direct.command([0x03 | (STREAM + 1) << 32, 1]);
        direct.command(SYNC);
        assert_eq!(ends(&mut direct), aborts, "stale");
        commands(&mut direct, &[CFGI_STE]);
        assert_eq!(ends(&mut direct), !aborts);
    }
}

#[test]
fn level_1_stream_descriptor_counts_as_it_was_read_until_cfgi_without_leaf() {
    let mut direct = Direct::off(0);
    direct.write(STRTAB_BASE_CFG, 1 << 16 | 6 << 6 | 16);
    direct.enable(ALL_ON);
    // Span 0; then 64 STEs, of which the first bypasses.
    assert_eq!(direct.fault(OLD, READ)[0], 0x100_0000_0002);
    direct.poke(0x4002_0000, 9);
    direct.poke(STREAMS + 4 * 8, 0x4002_0000 | 7);
    commands(&mut direct, &[CFGI_STE]);
    assert_eq!(direct.fault(OLD, READ)[0], 0x100_0000_0002, "stale");
    commands(&mut direct, &[[CFGI_STE[0], 0]]);
    assert_eq!(direct.reaches(OLD, READ), OLD);
}

#[test]
fn equal_stes_of_two_streams_are_remembered_apart() {
    // CONT 15 makes both of them one span; CFGI_STE names StreamID 0x100 alone.
    let mut bench = Bench::enabled();
    let both = |bench: &Bench, config: u64| {
        for stream in [0x100, 0x101] {
            bench.set_ste(stream, 1 | config << 1, STE1 | 0xf << 13);
        }
    };
    let ends = |bench: &mut Bench| {
        [0, 1].map(|engine| {
            bench.write_word(engine, DATA);
            bench.state(engine)
        })
    };
    both(&bench, 4);
    assert_eq!(ends(&mut bench), [2, 2]);
    both(&bench, 0);
    bench.command([0x03 | 0x100 << 32, 1]);
    bench.command(SYNC);
    assert_eq!(ends(&mut bench), [3, 2]);
    bench.command([0x03 | 0x101 << 32, 1]);
    bench.command(SYNC);
    assert_eq!(ends(&mut bench), [3, 3]);
}

#[test]
fn cd_counts_as_it_was_read_until_cfgi_and_sync() {
    // V = 0; ILLEGAL, as AA64 is 0; one that translates.
    for (word0, bad) in [(CD0 & !(1 << 31), true), (CD0 & !(1 << 41), true), (CD0 | CD_A, false)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, 0);
        direct.poke(CDS, word0);
        direct.map(0x5000, OLD, PAGE_RW);
        let ends = |direct: &mut Direct| direct.access(0x5000, READ) == Response::Abort;
        assert_eq!(ends(&mut direct), bad);
        direct.poke(CDS, if bad { CD0 | CD_A } else { 0 });
        direct.command(SYNC);
        assert_eq!(ends(&mut direct), bad, "stale");
        commands(&mut direct, &[CFGI_CD]);
        assert_eq!(ends(&mut direct), !bad);
    }
}

#[test]
fn one_cd_that_two_substreams_share_is_remembered_for_each() {
    // S1Fmt 1: SubstreamIDs 5 and 0x45 find the same CD behind two level 1 descriptors.
    const LEVEL1: u64 = 0x4017_0000;
    const LEVEL2: u64 = 0x4013_0000;
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | LEVEL1 | 8 << 59 | 1 << 4, STE1, 0);
    direct.map(0x5000, OLD, PAGE_RW);
    for number in 0..2 {
        direct.poke(LEVEL1 + number * 8, LEVEL2 | 1);
    }
    direct.poke(LEVEL2 + 5 * 64 + 8, TABLES);
    direct.poke(LEVEL2 + 5 * 64, CD0 | CD_A);
    let ends = |direct: &mut Direct| [5, 0x45].map(|substream| issue(direct, substream) == Response::Abort);
    assert_eq!(ends(&mut direct), [false, false]);
    direct.poke(LEVEL2 + 5 * 64, 0);
    commands(&mut direct, &[[0x05 | 5 << 12 | STREAM << 32, 1]]);
    assert_eq!(ends(&mut direct), [true, false]);
}

#[test]
fn translations_of_el1_belong_to_the_vmid_of_their_ste() {
    // VMID 7, alone and nested; commands of VMID 8 leave them.
    let mut alone = stage1(0, 0, 7);
    let mut nested = Direct::nested_in_pages(0, CD_A);
    assert_eq!(nested.reaches(0x5000, READ), OLD);
    nested.map2(IPA_OF_PAGE, NEW, S2_RW);
    for direct in [&mut alone, &mut nested] {
        for command in [[NH_ALL | 8 << 32, 0], [NH_ASID | 8 << 32 | 1 << 48, 0], [S12_VMALL | 8 << 32, 0]] {
            commands(direct, &[command]);
        }
        assert_eq!(direct.reaches(0x5000, READ), OLD);
        commands(direct, &[[S12_VMALL | 7 << 32, 0]]);
        assert_eq!(direct.reaches(0x5000, READ), NEW);
    }
}

#[test]
fn translations_of_stage2_belong_to_the_vmid_of_their_ste() {
    for command in [[S12_VMALL | 7 << 32, 0], [S2_IPA | 7 << 32, 0x5000]] {
        let mut direct = stage2();
        commands(&mut direct, &[[S12_VMALL | 8 << 32, 0], [S2_IPA | 8 << 32, 0x5000]]);
        assert_eq!(direct.reaches(0x5000, READ), OLD);
        commands(&mut direct, &[command]);
        assert_eq!(direct.reaches(0x5000, READ), NEW);
    }
}

#[test]
fn changed_vmid_finds_nothing_and_leaves_what_there_is() {
    let mut direct = stage1(0, 0, 7);
    let vmid = |direct: &mut Direct, vmid| {
        direct.set_ste_word(2, vmid);
        commands(direct, &[CFGI_STE]);
        direct.reaches(0x5000, READ)
    };
    assert_eq!([8, 7].map(|number| vmid(&mut direct, number)), [NEW, OLD]);
    commands(&mut direct, &[[NH_ALL | 7 << 32, 0]]);
    assert_eq!(direct.reaches(0x5000, READ), NEW);
    // NS-EL2 has no VMID.
    let mut direct = stage1(0, EL2, 7);
    assert_eq!(vmid(&mut direct, 8), OLD);
}

/// Writes CD word 0 and invalidates the CD; where 0x5000 leads to then.
fn with_cd(direct: &mut Direct, word0: u64) -> Response {
    direct.poke(CDS, word0 | CD_R | CD_A);
    commands(direct, &[CFGI_CD]);
    direct.access(0x5000, READ)
}

#[test]
fn translations_belong_to_the_asid_of_their_cd() {
    // CD0 has ASID 1; here 3. NS-EL1, and NS-EL2-E2H.
    for (cr2, word1) in [(0, 0), (E2H, EL2)] {
        let mut direct = stage1(cr2, word1, 0);
        assert_eq!(with_cd(&mut direct, CD0 | 2 << 48), Response::Physical(PhysAddr(NEW)));
        // Back again: what was there is still there.
        assert_eq!(with_cd(&mut direct, CD0), Response::Physical(PhysAddr(OLD)));
    }
}

#[test]
fn el2_has_no_asids() {
    let mut direct = stage1(0, EL2, 0);
    for asid in [2, 0xfffe] {
        assert_eq!(with_cd(&mut direct, CD0 | asid << 48), Response::Physical(PhysAddr(OLD)));
    }
}

#[test]
fn aset_is_part_of_the_tag_even_of_global_translations() {
    // CD0 has ASET 1.
    let mut direct = stage1(0, 0, 0);
    direct.map(0x5000, OLD, PAGE_RW);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, READ), OLD);
    direct.map(0x5000, NEW, PAGE_RW);
    assert_eq!(with_cd(&mut direct, CD0 & !ASET), Response::Physical(PhysAddr(NEW)));
    assert_eq!(with_cd(&mut direct, CD0), Response::Physical(PhysAddr(OLD)));
    // Another ASID with that ASET finds it, being global.
    assert_eq!(with_cd(&mut direct, CD0 | 2 << 48), Response::Physical(PhysAddr(OLD)));
}

#[test]
fn commands_reach_translations_whatever_their_aset() {
    for aset in [0, ASET] {
        for command in [[NH_ALL, 0], [NH_ASID | 1 << 48, 0]] {
            let mut direct = stage1(0, 0, 0);
            direct.invalidate();
            direct.map(0x5000, OLD, PAGE_RW | NG);
            assert_eq!(with_cd(&mut direct, CD0 & !ASET | aset), Response::Physical(PhysAddr(OLD)));
            direct.map(0x5000, NEW, PAGE_RW | NG);
            commands(&mut direct, &[command]);
            assert_eq!(direct.reaches(0x5000, READ), NEW);
        }
    }
}

#[test]
fn disabled_half_is_used_while_it_is_remembered() {
    // CD0 has EPD1; T1SZ = 25, TG1 = 2 (4 KiB) for the upper half, whose tables are the same (5.4).
    let upper = CD0 & !EPD1 | 25 << 16 | 2 << 22;
    for (enabled, disabled, base) in [(CD0, CD0 | EPD0, 0), (upper, upper | EPD1, 0xffff_ff80_0000_0000)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(EATS, CD_R | CD_A);
        direct.poke(CDS + 16, TABLES);
        direct.poke(CDS, enabled | CD_R | CD_A);
        direct.map(0x5000, OLD, PAGE_RW | NG);
        direct.map(0x6000, OLD, PAGE_RW | NG);
        assert_eq!(direct.reaches(base | 0x5000, READ), OLD);
        direct.map(0x5000, NEW, PAGE_RW | NG);
        let change = |direct: &mut Direct, word0| {
            direct.poke(CDS, word0 | CD_R | CD_A);
            commands(direct, &[CFGI_CD]);
        };
        change(&mut direct, disabled);
        assert_eq!(direct.reaches(base | 0x5000, WRITE), OLD);
        let granted = direct.request(base | 0x5000, READ, None);
        assert!(matches!(granted, Completion::Success { page: PhysAddr(OLD), read: true, .. }));
        // What is not remembered is not walked for.
        direct.memory.take_read(TABLES..TABLES + 0x3000);
        assert_eq!(direct.fault(base | 0x6000, READ), [0x100_0000_0010, READ_OF_INPUT, base | 0x6000, 0]);
        let refused = direct.request(base | 0x6000, READ, None);
        assert!(matches!(refused, Completion::Success { read: false, write: false, .. }));
        commands(&mut direct, &[[NH_ALL, 0]]);
        assert_eq!(direct.fault(base | 0x5000, READ), [0x100_0000_0010, READ_OF_INPUT, base | 0x5000, 0]);
        assert_eq!(direct.memory.take_read(TABLES..TABLES + 0x3000), []);
        change(&mut direct, enabled);
        assert_eq!(direct.reaches(base | 0x5000, READ), NEW);
    }
}

#[test]
fn disabled_half_may_be_forgotten_without_a_tlbi() {
    // CACHE_SEED lets the TLB forget at its own time, as it always may: then it is a miss.
    let forgotten = |&seed: &u32| {
        let mut direct = stage1(0, 0, 0);
        direct.poke(CDS, CD0 | EPD0 | CD_R | CD_A);
        commands(&mut direct, &[CFGI_CD]);
        direct.write(CACHE_SEED as u64, seed);
        for _ in 0..3000 {
            direct.step();
        }
        match direct.access(0x5000, READ) {
            Response::Physical(physical) => {
                assert_eq!(physical, PhysAddr(OLD));
                false
            }
            response => {
                assert_eq!((response, direct.take_event()[0]), (Response::Abort, 0x100_0000_0010));
                true
            }
        }
    };
    let times = (0..9).filter(forgotten).count();
    assert!(0 < times && times < 9, "{times}");
}

#[test]
fn top_byte_and_privilege_count_in_a_disabled_half() {
    // TBI0 and TBI1 are bits 38 and 39 of word 0, E0PD0 and E0PD1 bits 66 and 130 of the CD: EPDx makes none of them ignored
    // (5.4). T1SZ = 25, TG1 = 2.
    let upper = CD0 & !EPD1 | 25 << 16 | 2 << 22;
    for (enabled, disabled, tbi, ttb, address, tagged) in [
        (CD0, CD0 | EPD0, 1 << 38, CDS + 8, 0x5000, 0xab00_0000_0000_5000),
        (upper, upper | EPD1, 1 << 39, CDS + 16, 0xffff_ff80_0000_5000, 0xabff_ff80_0000_5000),
    ] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, 0);
        direct.poke(CDS + 16, TABLES);
        direct.map(0x5000, OLD, PAGE_RW | NG);
        let change = |direct: &mut Direct, word0| {
            direct.poke(CDS, word0 | CD_R | CD_A);
            commands(direct, &[CFGI_CD]);
        };
        change(&mut direct, enabled);
        assert_eq!(direct.reaches(address, READ), OLD);
        change(&mut direct, disabled | tbi);
        assert_eq!(direct.reaches(tagged, READ), OLD);
        change(&mut direct, disabled);
        assert_eq!(direct.reaches(address, READ), OLD);
        assert_eq!(direct.fault(tagged, READ), [0x100_0000_0010, READ_OF_INPUT, tagged, 0]);
        direct.poke(ttb, TABLES | 4);
        commands(&mut direct, &[CFGI_CD]);
        assert_eq!(direct.fault(address, READ), [0x100_0000_0010, READ_OF_INPUT, address, 0]);
        assert_eq!(direct.reaches(address, privileged(READ)), OLD);
    }
}

#[test]
fn clean_page_of_a_disabled_half_cannot_become_dirty() {
    // HA and HD are bits 43 and 42; DBM bit 51 of a leaf. To make it dirty is the walk's work, and none is made (3.13, 5.4).
    let clean = PAGE_RO | 1 << 51;
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A | 3 << 42);
    direct.map(0x5000, OLD, clean);
    assert_eq!(direct.reaches(0x5000, READ), OLD);
    direct.poke(CDS, CD0 | CD_R | CD_A | 3 << 42 | EPD0);
    commands(&mut direct, &[CFGI_CD]);
    assert_eq!(direct.reaches(0x5000, READ), OLD);
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0010, 2 << 40, 0x5000, 0]);
    assert_eq!(direct.peek(direct.leaf_at(0x5000)), OLD | clean);
}

#[test]
fn tables_of_a_cd_are_held_in_translations_until_a_tlbi() {
    // Tables side by side that lead to another page.
    let mut direct = stage1(0, 0, 0);
    direct.map(0x5000, OLD, PAGE_RW | NG);
    for (at, next) in [(0, 0x1000), (0x1000, 0x2000)] {
        direct.poke(0x4013_0000 + at, (0x4013_0000 + next) | 3);
    }
    direct.poke(0x4013_2028, NEW | PAGE_RW | NG);
    direct.poke(CDS + 8, 0x4013_0000);
    assert_eq!(with_cd(&mut direct, CD0), Response::Physical(PhysAddr(OLD)));
    commands(&mut direct, &[[NH_ALL, 0]]);
    assert_eq!(direct.reaches(0x5000, READ), NEW);
}

#[test]
fn tables_of_an_ste_are_held_in_translations_until_a_tlbi() {
    let mut direct = stage2();
    direct.map2(0x5000, OLD, S2_RW);
    for (at, next) in [(0, 0x1000), (0x1000, 0x2000)] {
        direct.poke(0x4013_0000 + at, (0x4013_0000 + next) | 3);
    }
    direct.poke(0x4013_2028, NEW | S2_RW);
    direct.set_ste_word(3, 0x4013_0000);
    commands(&mut direct, &[CFGI_STE]);
    assert_eq!(direct.reaches(0x5000, READ), OLD);
    commands(&mut direct, &[[S12_VMALL | 7 << 32, 0]]);
    assert_eq!(direct.reaches(0x5000, READ), NEW);
}

#[test]
fn what_stage_1_alone_left_goes_through_stage_2_once_both_translate() {
    // VMID 7 and ASID 1 all the time, and no TLBI: old or new at stage 1, but never past stage 2 (5.4.1).
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | CDS, STE1, 7);
    direct.set_cd(CD_A, TABLES);
    direct.map(0x5000, 0x9000, PAGE_RW);
    direct.map2(0x9000, DATA, S2_RW);
    assert_eq!(direct.reaches(0x5008, READ), 0x9008);
    direct.set_ste(0xf | CDS, STE1, STE2);
    direct.command(CFGI_STE);
    direct.command(SYNC);
    assert_eq!(direct.reaches(0x5008, READ), DATA + 8);
}

#[test]
fn streams_with_one_tag_share_what_was_found_first() {
    // Two CDs with ASID 1, and two STEs with VMID 0, whose tables differ: unpredictable which is used; the model uses what
    // it has, which is never a third.
    let mut bench = Bench::enabled();
    for (stream, space) in [(0x100, 0), (0x101, 1)] {
        bench.attach(stream, space, space, CD_A);
        bench.map(space, 0x5000, DATA + space * 0x1000, PAGE_RW | NG);
        bench.write_word(space as usize, 0x5000);
        assert_eq!(bench.state(space as usize), 2);
    }
    assert_eq!([DATA, DATA + 0x1000].map(|at| bench.peek(at)), [0x1122_3344_5566_7788, 0]);
    let mut bench = Bench::enabled();
    for (stream, tables) in [(0x100, 0x4013_0000), (0x101, 0x4014_0000)] {
        let page = if stream == 0x100 { DATA } else { DATA + 0x1000 };
        for (at, word) in [(0, (tables + 0x1000) | 3), (0x1000, (tables + 0x2000) | 3), (0x2028, page | S2_RW)] {
            bench.poke(tables + at, word);
        }
        for (word, value) in [(2, STE2), (3, tables), (1, STE1), (0, 0xd)] {
            bench.poke(STREAMS + stream * 64 + word * 8, value);
        }
        bench.write_word(stream as usize & 1, 0x5000);
        assert_eq!(bench.state(stream as usize & 1), 2);
    }
    assert_eq!([DATA, DATA + 0x1000].map(|at| bench.peek(at)), [0x1122_3344_5566_7788, 0]);
}
