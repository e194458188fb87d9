//! Which translations each CMD_TLBI reaches, and no others: 4.4.1.1, 4.4.2 to 4.4.4.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;

const SYNC: [u64; 2] = [0x46, 0];
/// nG of a page.
const NOT_GLOBAL: u64 = 1 << 11;
/// STRW = EL2, CR2.E2H.
const EL2: u64 = 2 << 30;
const E2H: u32 = 1;
/// Where everything leads at first, and after the change.
const OLD: u64 = DATA;
const NEW: u64 = DATA + 0x1000;

/// A translation of every kind, by StreamID and address:
///
/// | number | translation |
/// |---|---|
/// | 0, 1 | NS-EL1, VMID 1, ASID 5: two pages |
/// | 2 | NS-EL1, VMID 1: a global page |
/// | 3 | NS-EL1, VMID 1, ASID 6 |
/// | 4 | NS-EL1, VMID 2, ASID 5 |
/// | 5, 6 | stage 2 of VMID 1, and of VMID 2 |
/// | 7, 9 | NS-EL2-E2H, ASIDs 5 and 6; or NS-EL2 |
/// | 8 | NS-EL2-E2H: a global page; or NS-EL2 |
const TRANSLATIONS: [(u64, u64); 10] = [
    (0x100, 0x5000),
    (0x100, 0x7000),
    (0x100, 0x6000),
    (0x101, 0x5000),
    (0x102, 0x5000),
    (0x103, 0x5000),
    (0x104, 0x5000),
    (0x105, 0x5000),
    (0x105, 0x6000),
    (0x106, 0x5000),
];

/// What of [`TRANSLATIONS`] changes in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Changed {
    /// The level 3 descriptors.
    Leaf,
    /// The level 2 descriptors, which lead to another level 3 table.
    Table,
}
use Changed::{Leaf, Table};

fn set_ste(direct: &Direct, stream: u64, words: [u64; 4]) {
    for (word, value) in (0..).zip(words) {
        direct.poke(STREAMS + stream * 64 + word * 8, value);
    }
}

/// Where the numbers of [`TRANSLATIONS`] are that lead to `page`.
fn leading(direct: &mut Direct, page: u64) -> Vec<usize> {
    let mut leads = |number: usize| {
        let (stream, address) = TRANSLATIONS[number];
        direct.reaches_from(stream, address, READ) == page
    };
    (0..TRANSLATIONS.len()).filter(|&number| leads(number)).collect()
}

/// Everything leads to the old page, and is in use.
fn prepared(cr2: u32) -> Direct {
    let mut direct = Direct::enabled(ALL_ON, cr2);
    for (number, asid) in [(0, 5), (1, 6)] {
        direct.poke(CDS + number * 64 + 8, TABLES);
        direct.poke(CDS + number * 64, CD0 & !(0xffff << 48) | CD_A | asid << 48);
    }
    for (stream, cd, word1, vmid) in
        [(0x100, 0, 0, 1), (0x101, 1, 0, 1), (0x102, 0, 0, 2), (0x105, 0, EL2, 0), (0x106, 1, EL2, 0)]
    {
        set_ste(&direct, stream, [STE0_STAGE1 | (CDS + cd * 64), STE1 | word1, vmid, 0]);
    }
    for (stream, vmid) in [(0x103, 1), (0x104, 2)] {
        set_ste(&direct, stream, [0xd, STE1, STE2 & !0xffff | S2R | vmid, STAGE2]);
    }
    for (address, flags) in [(0x5000, NOT_GLOBAL), (0x6000, 0), (0x7000, NOT_GLOBAL)] {
        direct.map(address, OLD, PAGE_RW | flags);
        direct.poke(TABLES + 0x3000 + (address >> 12) * 8, NEW | PAGE_RW | flags);
    }
    direct.map2(0x5000, OLD, S2_RW);
    direct.poke(STAGE2 + 0x3028, NEW | S2_RW);
    assert_eq!(leading(&mut direct, OLD), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    direct
}

fn change(direct: &Direct, changed: Changed) {
    if changed == Table {
        direct.poke(TABLES + 0x1000, (TABLES + 0x3000) | 3);
        direct.poke(STAGE2 + 0x1000, (STAGE2 + 0x3000) | 3);
        return;
    }
    for address in [0x5000, 0x6000, 0x7000] {
        direct.poke(direct.leaf_at(address), direct.peek(TABLES + 0x3000 + (address >> 12) * 8));
    }
    direct.map2(0x5000, NEW, S2_RW);
}

/// The numbers of what is new after a change, the command and a CMD_SYNC.
fn new(cr2: u32, changed: Changed, command: [u64; 2]) -> Vec<usize> {
    let mut direct = prepared(cr2);
    change(&direct, changed);
    direct.command(command);
    direct.command(SYNC);
    assert_eq!(direct.read(GERROR), 0);
    leading(&mut direct, NEW)
}

#[test]
fn nh_all_reaches_stage_1_of_its_vmid_with_global_pages() {
    for changed in [Leaf, Table] {
        assert_eq!(new(0, changed, [0x10 | 1 << 32, 0]), [0, 1, 2, 3]);
    }
}

#[test]
fn nh_asid_reaches_its_asid_and_vmid_and_no_global_page() {
    for changed in [Leaf, Table] {
        assert_eq!(new(0, changed, [0x11 | 1 << 32 | 5 << 48, 0]), [0, 1]);
    }
}

#[test]
fn nh_vaa_reaches_an_address_of_its_vmid_with_every_asid_and_global_pages() {
    let nh_vaa = |changed, word1| new(0, changed, [0x13 | 1 << 32, word1]);
    for (address, expected) in [(0x5000, &[0, 3][..]), (0x6000, &[2])] {
        assert_eq!(nh_vaa(Leaf, address), expected);
        assert_eq!(nh_vaa(Table, address), expected);
        // Leaf.
        assert_eq!(nh_vaa(Leaf, address | 1), expected);
        assert_eq!(nh_vaa(Table, address | 1), []);
    }
}

#[test]
fn nh_va_reaches_an_address_of_its_asid_and_vmid_and_global_pages() {
    let nh_va = |asid: u64, changed, word1| new(0, changed, [0x12 | 1 << 32 | asid << 48, word1]);
    assert_eq!(nh_va(5, Leaf, 0x5000), [0]);
    assert_eq!(nh_va(5, Table, 0x5000), [0]);
    // Leaf.
    assert_eq!(nh_va(5, Leaf, 0x5001), [0]);
    assert_eq!(nh_va(5, Table, 0x5001), []);
    for word1 in [0x6000, 0x6001] {
        assert_eq!(nh_va(9, Leaf, word1), [2]);
    }
}

#[test]
fn el2_all_reaches_both_regimes_of_el2() {
    for (cr2, changed) in [(0, Leaf), (0, Table), (E2H, Leaf), (E2H, Table)] {
        assert_eq!(new(cr2, changed, [0x20, 0]), [7, 8, 9]);
    }
    // What was translated with the other value of CR2.E2H is reached too.
    for cr2 in [0, E2H] {
        let mut direct = prepared(cr2);
        let set = |direct: &mut Direct, cr2| {
            direct.enable(ALL_ON & !1);
            direct.write(CR2, 2 | cr2);
            direct.enable(ALL_ON);
        };
        set(&mut direct, cr2 ^ E2H);
        change(&direct, Leaf);
        direct.command([0x20, 0]);
        direct.command(SYNC);
        set(&mut direct, cr2);
        assert_eq!(leading(&mut direct, NEW), [7, 8, 9], "{cr2}");
    }
}

#[test]
fn el2_asid_reaches_its_asid_of_el2_with_e2h_and_no_global_page() {
    for changed in [Leaf, Table] {
        assert_eq!(new(E2H, changed, [0x21 | 5 << 48, 0]), [7]);
    }
    assert_eq!(new(0, Leaf, [0x21 | 5 << 48, 0]), []);
}

#[test]
fn s2_ipa_reaches_an_ipa_of_its_vmid() {
    let s2_ipa = |changed, word1| new(0, changed, [0x2a | 1 << 32, word1]);
    assert_eq!(s2_ipa(Leaf, 0x5000), [5]);
    assert_eq!(s2_ipa(Table, 0x5000), [5]);
    // Leaf.
    assert_eq!(s2_ipa(Leaf, 0x5001), [5]);
    assert_eq!(s2_ipa(Table, 0x5001), []);
}

#[test]
fn s12_vmall_reaches_both_stages_of_its_vmid() {
    for changed in [Leaf, Table] {
        assert_eq!(new(0, changed, [0x28 | 1 << 32, 0]), [0, 1, 2, 3, 5]);
    }
}

#[test]
fn nsnh_all_reaches_everything_but_el2() {
    for (cr2, changed) in [(0, Leaf), (0, Table), (E2H, Leaf)] {
        assert_eq!(new(cr2, changed, [0x30, 0]), [0, 1, 2, 3, 4, 5, 6]);
    }
}

// Fields of the ranges of 4.4.1.1: TG = 4 KiB, TTL in word 1, NUM and SCALE in word 0.
const SIZE_4K: u64 = 1 << 10;
const fn ttl(level: u64) -> u64 {
    level << 8
}
const fn pages(num: u64, scale: u64) -> u64 {
    num << 12 | scale << 20
}

#[test]
fn range_has_num_plus_1_times_2_to_the_scale_granules() {
    for (word0, word1, expected) in [
        (pages(0, 0), 0x1000 | SIZE_4K | ttl(3), 1..2),
        (pages(2, 0), 0x2000 | SIZE_4K, 2..5),
        (pages(0, 1), 0x4000 | SIZE_4K, 4..6),
        (pages(2, 2), 0x2000 | SIZE_4K | ttl(3), 2..14),
        (pages(31, 31), SIZE_4K, 0..16),
    ] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_A);
        for page in [OLD, NEW] {
            (0..16).for_each(|number| direct.map(number << 12, page, PAGE_RW));
            if page == OLD {
                assert!((0..16).all(|number| direct.reaches(number << 12, READ) == OLD));
            }
        }
        direct.command([0x13 | word0, word1 | 1]);
        direct.command(SYNC);
        let new: Vec<u64> = (0..16).filter(|number| direct.reaches(number << 12, READ) == NEW).collect();
        assert_eq!(new, expected.collect::<Vec<_>>(), "{word0:x} {word1:x}");
    }
}

#[test]
fn level_names_leaves_of_that_level() {
    // A block of 1 GiB at 2 GiB, a block of 2 MiB at 2 MiB, and a page: address, place of the descriptor, old one, new one.
    const GIB: u64 = 1 << 30;
    const BLOCK: u64 = PAGE_RW & !2;
    for (level, address) in [(1, 2 * GIB), (2, 0x20_0000), (3, 0x5000)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_A);
        direct.map(0x5000, OLD, PAGE_RW);
        let leaves = [
            (2 * GIB, TABLES + 0x10, GIB | BLOCK, (3 * GIB) | BLOCK),
            (0x20_0000, TABLES + 0x1008, OLD | BLOCK, GIB | BLOCK),
            (0x5000, TABLES + 0x2028, OLD | PAGE_RW, NEW | PAGE_RW),
        ];
        let reached = |direct: &mut Direct| leaves.map(|(address, ..)| direct.reaches(address, READ));
        leaves.iter().for_each(|&(_, at, old, _)| direct.poke(at, old));
        assert_eq!(reached(&mut direct), [GIB, OLD, OLD]);
        leaves.iter().for_each(|&(_, at, _, new)| direct.poke(at, new));
        // At its address with each level but its own, and then with its own.
        for other in (1..4).filter(|&other| other != level) {
            direct.command([0x13, address | SIZE_4K | ttl(other) | 1]);
        }
        direct.command(SYNC);
        assert_eq!(reached(&mut direct), [GIB, OLD, OLD]);
        direct.command([0x13, address | SIZE_4K | ttl(level) | 1]);
        direct.command(SYNC);
        let mut expected = [GIB, OLD, OLD];
        expected[level as usize - 1] = [3 * GIB, GIB, NEW][level as usize - 1];
        assert_eq!(reached(&mut direct), expected, "{level}");
    }
}

#[test]
fn level_without_leaf_names_the_tables_of_all_levels_above() {
    // The level 1 descriptor leads to another level 2 table, with another level 3 table or block behind it.
    for (level, address, old_leaf, new_leaf) in
        [(3, 0x5000, TABLES + 0x2028, TABLES + 0x4028), (2, 0x20_0000, TABLES + 0x1008, TABLES + 0x3008)]
    {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_A);
        direct.map(0x5000, OLD, PAGE_RW);
        let (flags, new) = if level == 3 { (PAGE_RW, NEW) } else { (PAGE_RW & !2, 0x4000_0000) };
        direct.poke(old_leaf, OLD | flags);
        assert_eq!(direct.reaches(address, READ), OLD);
        direct.poke(TABLES + 0x3000, (TABLES + 0x4000) | 3);
        direct.poke(new_leaf, new | flags);
        direct.poke(TABLES, (TABLES + 0x3000) | 3);
        for (leaf, expected) in [(1, OLD), (0, new)] {
            direct.command([0x13, address | SIZE_4K | ttl(level) | leaf]);
            direct.command(SYNC);
            assert_eq!(direct.reaches(address, READ), expected, "{level}");
        }
    }
}
