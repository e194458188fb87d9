use std::vec::Vec;

use super::*;
use crate::smmuv3::command::TlbiSpan;

const PAGE_4K: Place = Place { granule: Granule::Size4K, level: 3 };
const BLOCK_2M: Place = Place { granule: Granule::Size4K, level: 2 };
const BLOCK_1G: Place = Place { granule: Granule::Size4K, level: 1 };
const LEVEL_0: Place = Place { granule: Granule::Size4K, level: 0 };
const PAGE_16K: Place = Place { granule: Granule::Size16K, level: 3 };
const BLOCK_32M: Place = Place { granule: Granule::Size16K, level: 2 };
const PAGE_64K: Place = Place { granule: Granule::Size64K, level: 3 };
const BLOCK_512M: Place = Place { granule: Granule::Size64K, level: 2 };

const fn el1(vmid: u16, asid: u16) -> Space {
    Space::El1 { vmid: Vmid(vmid), asid: Asid(asid), private_asid: false }
}

const fn el1_private(vmid: u16, asid: u16) -> Space {
    Space::El1 { vmid: Vmid(vmid), asid: Asid(asid), private_asid: true }
}

const fn e2h(asid: u16) -> Space {
    Space::El2E2h { asid: Asid(asid), private_asid: false }
}

const fn stage2(vmid: u16) -> Space {
    Space::Stage2 { vmid: Vmid(vmid) }
}

/// A TLB whose entries hold the order in which they were put in.
struct Bench {
    tlb: Tlb<usize, usize>,
    count: usize,
    random: Random,
    controls: Controls,
}

impl Bench {
    fn new() -> Self {
        Self { tlb: Tlb::new(), count: 0, random: Random::new(3), controls: Controls::default() }
    }

    fn leaf(&mut self, space: Space, global: bool, address: u64, place: Place) -> &mut Self {
        self.tlb.insert(Tags::leaf(space, global, address, place), self.count, &mut self.random);
        self.count += 1;
        self
    }

    fn table(&mut self, space: Space, address: u64, place: Place) -> &mut Self {
        self.tlb.insert_table(Tags::table(space, address, place), self.count, &mut self.random);
        self.count += 1;
        self
    }

    /// The numbers of the entries that `command` leaves.
    fn after(&mut self, command: Command) -> Vec<usize> {
        self.tlb.invalidate(&command, self.controls);
        let values = |entry: &Entry<usize>| entry.value;
        let mut left: Vec<usize> = self.tlb.leaves.iter().chain(self.tlb.tables.iter()).map(values).collect();
        left.sort_unstable();
        left
    }
}

/// One entry of every kind at 0x4000_0000:
///
/// | number | entry |
/// |---|---|
/// | 0, 1 | VMID 1, ASID 5: a page; the level 2 table above it |
/// | 2, 3 | VMID 1, ASID 6: a page; a table |
/// | 4 | VMID 1: a global page of 0x4000_3000, put in with ASID 5 |
/// | 5, 6 | VMID 2, ASID 5: a page; a table |
/// | 7, 8 | VMID 1: an IPA page; a stage 2 table |
/// | 9 | VMID 2: an IPA page |
/// | 10, 11 | EL2: a page; a table |
/// | 12, 13 | EL2-E2H, ASID 5: a page; a table |
/// | 14 | EL2-E2H: a global page of 0x4000_3000 |
/// | 15 | VMID 1, ASID 5, ASET 1: a page of 0x4000_4000 |
fn everything() -> Bench {
    let (at, global) = (0x4000_0000, 0x4000_3000);
    let mut bench = Bench::new();
    bench.leaf(el1(1, 5), false, at, PAGE_4K).table(el1(1, 5), at, BLOCK_2M);
    bench.leaf(el1(1, 6), false, at, PAGE_4K).table(el1(1, 6), at, BLOCK_2M);
    bench.leaf(el1(1, 5), true, global, PAGE_4K);
    bench.leaf(el1(2, 5), false, at, PAGE_4K).table(el1(2, 5), at, BLOCK_2M);
    bench.leaf(stage2(1), false, at, PAGE_4K).table(stage2(1), at, BLOCK_2M).leaf(stage2(2), false, at, PAGE_4K);
    bench.leaf(Space::El2, false, at, PAGE_4K).table(Space::El2, at, BLOCK_2M);
    bench.leaf(e2h(5), false, at, PAGE_4K).table(e2h(5), at, BLOCK_2M).leaf(e2h(5), true, global, PAGE_4K);
    bench.leaf(el1_private(1, 5), false, 0x4000_4000, PAGE_4K);
    bench
}

const ALL: [usize; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// All entries but these.
fn but(gone: &[usize]) -> Vec<usize> {
    ALL.into_iter().filter(|number| !gone.contains(number)).collect()
}

const fn at(address: u64, leaf: bool) -> TlbiRange {
    TlbiRange::single(address, leaf)
}

#[test]
fn an_entry_is_found_under_its_own_tags_alone() {
    // 3.17: no aliasing between regimes, VMIDs or ASIDs.
    let mut bench = everything();
    assert_eq!(bench.after(Command::CfgiAll), ALL);
    assert_eq!(bench.tlb.look_up(el1(1, 7), 0x4000_0000), Ok(None));
    assert_eq!(bench.tlb.look_up(el1(3, 5), 0x4000_0000), Ok(None));
    assert_eq!(bench.tlb.look_up(el1(1, 5), 0x4000_0fff), Ok(Some(0)));
    assert_eq!(bench.tlb.look_up(el1(1, 5), 0x4000_1000), Ok(None));
}

#[test]
fn aset_separates_global_entries_and_no_others() {
    // 3.17.1: global entries match within their ASET, any ASID; 3.17: for the others the ASETs are equivalent.
    let bench = everything();
    assert_eq!(bench.tlb.look_up(el1(1, 9), 0x4000_3000), Ok(Some(4)));
    assert_eq!(bench.tlb.look_up(el1_private(1, 5), 0x4000_3000), Ok(None));
    assert_eq!(bench.tlb.look_up(el1(2, 5), 0x4000_3000), Ok(None));
    assert_eq!(bench.tlb.look_up(el1_private(1, 5), 0x4000_0000), Ok(Some(0)));
    assert_eq!(bench.tlb.look_up(el1(1, 5), 0x4000_4000), Ok(Some(15)));
    // At EL2 with E2H too.
    let e2h_private = |asid| Space::El2E2h { asid: Asid(asid), private_asid: true };
    assert_eq!(bench.tlb.look_up(e2h(9), 0x4000_3000), Ok(Some(14)));
    assert_eq!(bench.tlb.look_up(e2h_private(5), 0x4000_3000), Ok(None));
    assert_eq!(bench.tlb.look_up(e2h_private(5), 0x4000_0000), Ok(Some(12)));
    assert_eq!(bench.tlb.look_up(e2h(9), 0x4000_0000), Ok(None));
}

#[test]
fn nh_all_takes_stage_1_of_a_vmid_with_global_entries() {
    // 4.4.2.1.
    assert_eq!(everything().after(Command::TlbiNhAll { vmid: Vmid(1) }), but(&[0, 1, 2, 3, 4, 15]));
    assert_eq!(everything().after(Command::TlbiNhAll { vmid: Vmid(0) }), ALL);
}

#[test]
fn nh_asid_spares_global_entries_and_ignores_aset() {
    // 4.4.2.2; 4.4: "disregard the ASET"; table entries match by ASID (Arm DDI 0487, TLBI ASIDE1).
    let command = Command::TlbiNhAsid { vmid: Vmid(1), asid: Asid(5) };
    assert_eq!(everything().after(command), but(&[0, 1, 15]));
}

#[test]
fn nh_va_takes_an_asid_and_global_entries_by_address() {
    // 4.4.2.4: with Leaf, tables stay; the address need not be that of the entry's start (4.4).
    let command = |asid, range| Command::TlbiNhVa { vmid: Vmid(1), asid: Asid(asid), range };
    assert_eq!(everything().after(command(5, at(0x4000_0000, true))), but(&[0]));
    assert_eq!(everything().after(command(5, at(0x4000_0000, false))), but(&[0, 1]));
    assert_eq!(everything().after(command(9, at(0x4000_3000, false))), but(&[4]));
    assert_eq!(everything().after(command(5, at(0x4000_3000, false))), but(&[1, 4]));
    assert_eq!(everything().after(command(5, at(0x4000_4000, true))), but(&[15]));
    assert_eq!(everything().after(command(5, at(0x4020_0000, false))), ALL);
}

#[test]
fn nh_vaa_takes_every_asid_by_address() {
    // 4.4.2.3.
    let command = |leaf| Command::TlbiNhVaa { vmid: Vmid(1), range: at(0x4000_0000, leaf) };
    assert_eq!(everything().after(command(true)), but(&[0, 2]));
    assert_eq!(everything().after(command(false)), but(&[0, 1, 2, 3]));
}

#[test]
fn el2_commands_take_the_regime_that_e2h_says() {
    let with = |e2h, command| {
        let mut bench = everything();
        bench.controls.e2h = e2h;
        bench.after(command)
    };
    let (page, global) = (at(0x4000_0000, false), at(0x4000_3000, true));
    for e2h in [false, true] {
        // 4.4.2.7: tagged with an ASID or not. 4.4.2.10: those without an ASID stay, and global ones.
        assert_eq!(with(e2h, Command::TlbiEl2All), but(&[10, 11, 12, 13, 14]));
        assert_eq!(with(e2h, Command::TlbiEl2Asid { asid: Asid(5) }), but(&[12, 13]));
        assert_eq!(with(e2h, Command::TlbiEl2Asid { asid: Asid(0) }), ALL);
    }
    // 4.4.2.8: without E2H the ASID is ignored.
    assert_eq!(with(false, Command::TlbiEl2Va { asid: Asid(9), range: page }), but(&[10, 11]));
    assert_eq!(with(true, Command::TlbiEl2Va { asid: Asid(9), range: page }), ALL);
    assert_eq!(with(true, Command::TlbiEl2Va { asid: Asid(5), range: page }), but(&[12, 13]));
    assert_eq!(with(true, Command::TlbiEl2Va { asid: Asid(9), range: global }), but(&[14]));
    // 4.4.2.9.
    assert_eq!(with(false, Command::TlbiEl2Vaa { range: page }), but(&[10, 11]));
    assert_eq!(with(true, Command::TlbiEl2Vaa { range: page }), but(&[12, 13]));
    assert_eq!(with(true, Command::TlbiEl2Vaa { range: global }), but(&[14]));
}

#[test]
fn s12_vmall_takes_both_stages_of_a_vmid() {
    // 4.4.3.2.
    assert_eq!(everything().after(Command::TlbiS12VmAll { vmid: Vmid(1) }), but(&[0, 1, 2, 3, 4, 7, 8, 15]));
}

#[test]
fn s2_ipa_takes_stage_2_alone() {
    // 4.4.3.1: entries of both stages together are found by VA and stay.
    let command = |leaf| Command::TlbiS2Ipa { vmid: Vmid(1), range: at(0x4000_0000, leaf) };
    assert_eq!(everything().after(command(true)), but(&[7]));
    assert_eq!(everything().after(command(false)), but(&[7, 8]));
}

#[test]
fn nsnh_all_takes_everything_but_el2() {
    // 4.4.4.1.
    assert_eq!(everything().after(Command::TlbiNsnhAll), [10, 11, 12, 13, 14]);
}

#[test]
fn configuration_commands_take_no_translations() {
    // 4.3.1: TLB entries of the old configuration need their own invalidation.
    assert_eq!(everything().after(Command::CfgiAll), ALL);
}

/// Leaves 0 to 2: 4 KiB granule at levels 3, 2 and 1; 3 to 5: the tables at levels 2, 1 and 0 above leaf 0; 6, 7: 16 KiB
/// granule at levels 3 and 2; 8, 9: 64 KiB granule at levels 3 and 2. All at different multiples of 512 GiB but for 3 to 5.
fn levels() -> Bench {
    let mut bench = Bench::new();
    bench.leaf(el1(0, 1), false, 0, PAGE_4K);
    bench.leaf(el1(0, 1), false, 1 << 39, BLOCK_2M).leaf(el1(0, 1), false, 2 << 39, BLOCK_1G);
    bench.table(el1(0, 1), 0, BLOCK_2M).table(el1(0, 1), 0, BLOCK_1G).table(el1(0, 1), 0, LEVEL_0);
    bench.leaf(el1(0, 1), false, 3 << 39, PAGE_16K).leaf(el1(0, 1), false, 4 << 39, BLOCK_32M);
    bench.leaf(el1(0, 1), false, 5 << 39, PAGE_64K).leaf(el1(0, 1), false, 6 << 39, BLOCK_512M);
    bench
}

/// What is left of [`levels`] after CMD_TLBI_NH_VAA of a range; says what is gone.
fn gone(address: u64, leaf: bool, granule: Granule, ttl: u8, num: u8, scale: u8) -> Vec<usize> {
    let range = TlbiRange { address, leaf, span: Some(TlbiSpan { granule, ttl, num, scale }) };
    let left = levels().after(Command::TlbiNhVaa { vmid: Vmid(0), range });
    (0..10).filter(|number| !left.contains(number)).collect()
}

#[test]
fn ttl_names_the_level_of_leaves_and_the_tables_above_it() {
    // 4.4.1.1: with TTL = 2 and Leaf = 0, level 2 blocks and tables of levels 0 and 1.
    use Granule::Size4K;
    assert_eq!(gone(0, false, Size4K, 3, 0, 0), [0, 3, 4, 5]);
    assert_eq!(gone(0, false, Size4K, 2, 0, 0), [4, 5]);
    assert_eq!(gone(0, false, Size4K, 1, 0, 0), [5]);
    assert_eq!(gone(0, true, Size4K, 3, 0, 0), [0]);
    assert_eq!(gone(0, false, Size4K, 0, 1, 0), [0, 3, 4, 5]);
    assert_eq!(gone(1 << 39, true, Size4K, 2, 0, 0), [1]);
    assert_eq!(gone(1 << 39, true, Size4K, 3, 0, 0), []);
    assert_eq!(gone(2 << 39, true, Size4K, 1, 0, 0), [2]);
    assert_eq!(gone(2 << 39, true, Size4K, 0, 1, 0), [2]);
}

#[test]
fn granule_must_be_that_of_the_tables() {
    // 4.4.1.1: with TG not 0 only entries of that granule need go, with TG = 0 those of any.
    use Granule::{Size4K, Size16K, Size64K};
    assert_eq!(gone(3 << 39, true, Size16K, 3, 0, 0), [6]);
    assert_eq!(gone(3 << 39, true, Size4K, 3, 0, 0), []);
    assert_eq!(gone(4 << 39, true, Size16K, 2, 0, 0), [7]);
    // Level 1 does not exist there without 52-bit addresses: as TTL = 0.
    assert_eq!(gone(4 << 39, true, Size16K, 1, 1, 0), [7]);
    assert_eq!(gone(5 << 39, true, Size64K, 3, 0, 0), [8]);
    assert_eq!(gone(5 << 39, true, Size16K, 3, 0, 0), []);
    assert_eq!(gone(6 << 39, true, Size64K, 2, 0, 0), [9]);
}

#[test]
fn address_without_a_granule_names_leaves_of_every_granule_and_level() {
    // 4.4.1.1: TG = 0. The last 4 KiB of each leaf.
    for (number, last) in [
        (0, 0),
        (1, (1 << 39) + 0x1f_f000),
        (2, (2 << 39) + 0x3fff_f000),
        (6, (3 << 39) + 0x3000),
        (7, (4 << 39) + 0x1ff_f000),
        (8, (5 << 39) + 0xf000),
        (9, (6 << 39) + 0x1fff_f000),
    ] {
        let left = |address| levels().after(Command::TlbiNhVaa { vmid: Vmid(0), range: at(address, true) });
        assert_eq!(left(last), (0..10).filter(|&other| other != number).collect::<Vec<_>>());
        assert_eq!(left(last + 0x1000), (0..10).collect::<Vec<_>>());
    }
}

#[test]
fn range_of_an_unaligned_address_is_not_counted_on() {
    // 4.4.1.1: UNPREDICTABLE, so none of the entries need go.
    use Granule::{Size4K, Size16K, Size64K};
    assert_eq!(gone((1 << 39) + 0x1000, true, Size4K, 2, 0, 0), []);
    assert_eq!(gone((2 << 39) + 0x20_0000, true, Size4K, 1, 31, 20), []);
    assert_eq!(gone((3 << 39) + 0x1000, true, Size16K, 3, 0, 0), []);
    assert_eq!(gone((4 << 39) + 0x4000, true, Size16K, 2, 0, 0), []);
    assert_eq!(gone((5 << 39) + 0x4000, true, Size64K, 0, 1, 0), []);
    assert_eq!(gone((6 << 39) + 0x1_0000, true, Size64K, 2, 0, 0), []);
}

#[test]
fn range_is_num_plus_1_times_2_to_the_scale_granules() {
    // 4.4.1.1. Pages 0 to 15 of 4 KiB.
    let left = |address, num, scale| {
        let mut bench = Bench::new();
        for page in 0..16 {
            bench.leaf(el1(0, 1), false, page << 12, PAGE_4K);
        }
        let span = Some(TlbiSpan { granule: Granule::Size4K, ttl: 3, num, scale });
        bench.after(Command::TlbiNhVa { vmid: Vmid(0), asid: Asid(1), range: TlbiRange { address, leaf: true, span } })
    };
    assert_eq!(left(0x1000, 0, 0), [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(left(0x2000, 2, 0), [0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(left(0x2000, 2, 2), [0, 1, 14, 15]);
    assert_eq!(left(0, 31, 31), []);
    // The end does not wrap.
    assert_eq!(left(0xffff_ffff_ffff_f000, 31, 31).len(), 16);
}

#[test]
fn smaller_entry_goes_with_the_whole_of_its_stage_1_block() {
    // Arm DDI 0487, D8.17: all entries with the stage 1 information of the block, whichever part of it is named.
    let mut bench = Bench::new();
    let mut random = Random::new(1);
    let tags = Tags::leaf(el1(1, 1), false, 0x40_3000, BLOCK_2M).part(0x40_3000, 12);
    bench.tlb.insert(tags, 7, &mut random);
    assert_eq!(bench.tlb.look_up(el1(1, 1), 0x40_3fff), Ok(Some(7)));
    assert_eq!(bench.tlb.look_up(el1(1, 1), 0x40_4000), Ok(None));
    bench.after(Command::TlbiNhVa { vmid: Vmid(1), asid: Asid(1), range: at(0x60_0000, true) });
    assert_eq!(bench.tlb.look_up(el1(1, 1), 0x40_3000), Ok(Some(7)));
    bench.after(Command::TlbiNhVa { vmid: Vmid(1), asid: Asid(1), range: at(0x5f_f000, true) });
    assert_eq!(bench.tlb.look_up(el1(1, 1), 0x40_3000), Ok(None));
}

#[test]
fn nearest_table_is_found_first() {
    let mut bench = levels();
    assert_eq!(bench.tlb.look_up_table(el1(0, 1), 0x1f_ffff, Granule::Size4K, 0), Some((2, 3)));
    assert_eq!(bench.tlb.look_up_table(el1(0, 1), 0x20_0000, Granule::Size4K, 0), Some((1, 4)));
    assert_eq!(bench.tlb.look_up_table(el1(0, 1), 1 << 30, Granule::Size4K, 0), Some((0, 5)));
    // A walk that starts at level 1 has no level 0 table, and one of another granule none of these.
    assert_eq!(bench.tlb.look_up_table(el1(0, 1), 1 << 30, Granule::Size4K, 1), None);
    assert_eq!(bench.tlb.look_up_table(el1(0, 1), 0, Granule::Size64K, 0), None);
    assert_eq!(bench.tlb.look_up_table(el1(0, 2), 0, Granule::Size4K, 0), None);
    bench.after(Command::TlbiNhVaa { vmid: Vmid(0), range: at(0, true) });
    assert_eq!(bench.tlb.look_up_table(el1(0, 1), 0, Granule::Size4K, 0), Some((2, 3)));
}

#[test]
fn two_entries_for_one_address_conflict() {
    // 3.21.1.2: a page under a block, without break-before-make; 3.17.1: a global entry over that of an ASID.
    let mut bench = Bench::new();
    bench.leaf(el1(0, 1), false, 0x20_0000, BLOCK_2M).leaf(el1(0, 1), false, 0x20_1000, PAGE_4K);
    assert_eq!(bench.tlb.look_up(el1(0, 1), 0x20_1000), Err(Conflict));
    assert_eq!(bench.tlb.look_up(el1(0, 1), 0x20_0000), Ok(Some(0)));
    bench.leaf(el1(0, 2), true, 0x20_0000, BLOCK_2M);
    assert_eq!(bench.tlb.look_up(el1(0, 1), 0x20_0000), Err(Conflict));
    // 3.21.1.3: an invalidation removes all that match.
    bench.after(Command::TlbiNhVa { vmid: Vmid(0), asid: Asid(1), range: at(0x20_1000, true) });
    assert_eq!(bench.tlb.look_up(el1(0, 1), 0x20_1000), Ok(None));
    // The same page, global and not; a page, and as much of a block around it.
    bench.leaf(el1(0, 1), false, 0x3000, PAGE_4K).leaf(el1(0, 1), true, 0x3000, PAGE_4K);
    assert_eq!(bench.tlb.look_up(el1(0, 1), 0x3000), Err(Conflict));
    let part = Tags::leaf(el1(0, 1), false, 0x4000, BLOCK_2M).part(0x4000, 12);
    bench.tlb.insert(part, 0, &mut bench.random);
    bench.leaf(el1(0, 1), false, 0x4000, PAGE_4K);
    assert_eq!(bench.tlb.look_up(el1(0, 1), 0x4000), Err(Conflict));
}

#[test]
fn an_entry_for_the_same_leaf_takes_the_place_of_the_old_one() {
    let mut bench = Bench::new();
    bench.leaf(el1(0, 1), false, 0x1000, PAGE_4K).leaf(el1(0, 1), false, 0x1000, PAGE_4K);
    assert_eq!(bench.tlb.look_up(el1(0, 1), 0x1000), Ok(Some(1)));
    bench.leaf(el1(0, 1), true, 0x2000, PAGE_4K).leaf(el1(0, 2), true, 0x2000, PAGE_4K);
    assert_eq!(bench.tlb.look_up(el1(0, 3), 0x2000), Ok(Some(3)));
}

#[test]
fn entries_for_other_leaves_keep_their_places() {
    // As many neighbours as there is room for, put in twice.
    let mut bench = Bench::new();
    for page in (0..512).chain(0..512) {
        bench.leaf(el1(0, 1), false, page << 12, PAGE_4K);
    }
    for page in 0..512 {
        assert_eq!(bench.tlb.look_up(el1(0, 1), page << 12), Ok(Some(512 + page as usize)));
    }
}

#[test]
fn regimes_without_asids_have_no_global_entries() {
    // 3.17.1: nG has no effect at EL2.
    let mut bench = Bench::new();
    bench.leaf(Space::El2, false, 0x1000, PAGE_4K).leaf(Space::El2, true, 0x1000, PAGE_4K);
    assert_eq!(bench.tlb.look_up(Space::El2, 0x1000), Ok(Some(1)));
}

#[test]
fn more_than_fits_evicts_and_evictions_leave_the_rest_alone() {
    let mut bench = Bench::new();
    for page in 0..2000 {
        bench.leaf(el1(0, 1), false, page << 12, PAGE_4K);
        assert_eq!(bench.tlb.look_up(el1(0, 1), page << 12), Ok(Some(page as usize)));
    }
    let count =
        |tlb: &Tlb<usize, usize>| (0..2000).filter(|&page| tlb.look_up(el1(0, 1), page << 12) != Ok(None)).count();
    let full = count(&bench.tlb);
    assert!((400..=512).contains(&full), "{full}");
    let mut random = Random::new(9);
    for _ in 0..20 {
        bench.tlb.evict(&mut random);
    }
    assert!((full - 20..full).contains(&count(&bench.tlb)));
}
