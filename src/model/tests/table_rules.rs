//! Changes of translation tables and the invalidations that bring them: 3.21.1, 4.4.

use super::bench::*;
use super::direct::*;
use crate::model::engine::registers as reg;
use crate::model::profile::Profile;

const SYNC: [u64; 2] = [0x46, 0];
const AF: u64 = 1 << 10;
/// nG of a page.
const NOT_GLOBAL: u64 = 1 << 11;
/// The page that is mapped at first, and the one in its place.
const OLD: u64 = DATA;
const NEW: u64 = DATA + 0x1000;
/// STRW = EL2.
const EL2: u64 = 2 << 30;
/// CR2.E2H.
const E2H: u32 = 1;

/// Maps 0x5000 to the old page, uses it, maps it to the new one, and shows that `commands` and a CMD_SYNC bring that.
#[track_caller]
fn brings_the_new_page(direct: &mut Direct, flags: u64, commands: &[[u64; 2]]) {
    direct.map(0x5000, OLD, flags);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5008, READ), OLD + 8);
    direct.map(0x5000, NEW, flags);
    for command in commands {
        direct.command(*command);
        direct.command(SYNC);
    }
    assert_eq!((direct.reaches(0x5008, READ), direct.read(GERROR)), (NEW + 8, 0), "{commands:x?}");
}

#[test]
fn page_of_el1_is_looked_up_again_after_each_command_that_names_it() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A);
    // ASID 1, VMID 0: CMD_TLBI_NH_ALL, NH_ASID, NH_VA, NH_VAA, NSNH_ALL.
    for command in [[0x10, 0], [0x11 | 1 << 48, 0], [0x12 | 1 << 48, 0x5000], [0x13, 0x5000], [0x30, 0]] {
        brings_the_new_page(&mut direct, PAGE_RW | NOT_GLOBAL, &[command]);
    }
}

#[test]
fn global_page_is_named_by_every_asid_and_by_none() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A);
    // NH_VA of ASID 9, with Leaf; NH_VAA with Leaf; NH_ALL.
    for command in [[0x12 | 9 << 48, 0x5001], [0x13, 0x5001], [0x10, 0]] {
        brings_the_new_page(&mut direct, PAGE_RW, &[command]);
    }
}

#[test]
fn aset_does_not_matter_for_a_command() {
    // ASET is bit 47 of a CD.
    for aset in [0, 1 << 47] {
        for command in [[0x11 | 1 << 48, 0], [0x12 | 1 << 48, 0x5000]] {
            let mut direct = Direct::enabled(ALL_ON, 0);
            direct.stage1(0, CD_A);
            direct.poke(CDS, (CD0 | CD_A) & !(1 << 47) | aset);
            brings_the_new_page(&mut direct, PAGE_RW | NOT_GLOBAL, &[command]);
        }
    }
}

#[test]
fn page_of_stage_1_under_stage_2_is_named_with_the_vmid() {
    // VMID 7: CMD_TLBI_NH_ALL, NH_ASID, NH_VA, NH_VAA.
    let vmid = 7 << 32;
    for command in
        [[0x10 | vmid, 0], [0x11 | vmid | 1 << 48, 0], [0x12 | vmid | 1 << 48, 0x5000], [0x13 | vmid, 0x5000]]
    {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.nest(0, S2R, CD_A);
        brings_the_new_page(&mut direct, PAGE_RW | NOT_GLOBAL, &[command]);
    }
}

#[test]
fn page_of_el2_is_looked_up_again_after_each_command_that_names_it() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(EL2, CD_A);
    // CMD_TLBI_EL2_ALL, EL2_VA whatever the ASID, EL2_VAA.
    for command in [[0x20, 0], [0x22, 0x5000], [0x22 | 9 << 48, 0x5001], [0x23, 0x5000]] {
        brings_the_new_page(&mut direct, PAGE_RW, &[command]);
    }
}

#[test]
fn page_of_el2_with_e2h_is_looked_up_again_after_each_command_that_names_it() {
    let mut direct = Direct::enabled(ALL_ON, E2H);
    direct.stage1(EL2, CD_A);
    // EL2_ALL, EL2_ASID and EL2_VA of ASID 1, EL2_VAA; global by EL2_VA of another ASID.
    for command in [[0x20, 0], [0x21 | 1 << 48, 0], [0x22 | 1 << 48, 0x5000], [0x23, 0x5000]] {
        brings_the_new_page(&mut direct, PAGE_RW | NOT_GLOBAL, &[command]);
    }
    brings_the_new_page(&mut direct, PAGE_RW, &[[0x22 | 9 << 48, 0x5000]]);
}

#[test]
fn ranges_and_levels_name_what_lies_in_them() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A);
    for command in [
        // NH_VAA: TG 4 KiB (1 << 10), NUM 1 (two pages) from 0x4000 on; the same with TTL 3 (3 << 8) and Leaf.
        [0x13 | 1 << 12, 0x4000 | 1 << 10],
        [0x13 | 1 << 12, 0x4000 | 1 << 10 | 3 << 8 | 1],
        // SCALE 2, NUM 0: four pages.
        [0x13 | 2 << 20, 0x4000 | 1 << 10],
    ] {
        brings_the_new_page(&mut direct, PAGE_RW, &[command]);
    }
    // A block of 2 MiB at 0x20_0000 is named by any address in it.
    direct.poke(TABLES + 0x1008, OLD | PAGE_RW & !2);
    assert_eq!(direct.reaches(0x20_5008, READ), OLD + 0x5008);
    direct.poke(TABLES + 0x1008, 0);
    direct.command([0x13, 0x3f_f000]);
    direct.command(SYNC);
    direct.poke(TABLES + 0x1008, 0x4000_0000 | PAGE_RW & !2);
    assert_eq!(direct.reaches(0x20_5008, READ), 0x4000_5008);
}

#[test]
fn replaced_table_is_followed_after_an_invalidation_without_leaf() {
    // NH_VA, NH_VAA, and NH_VAA by range and level 3, all with Leaf = 0.
    for command in [[0x12 | 1 << 48, 0x5000], [0x13, 0x5000], [0x13 | 1 << 12, 0x4000 | 1 << 10 | 3 << 8]] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_A);
        direct.map(0x5000, OLD, PAGE_RW);
        assert_eq!(direct.reaches(0x5000, READ), OLD);
        direct.poke(TABLES + 0x3028, NEW | PAGE_RW);
        direct.poke(TABLES + 0x1000, (TABLES + 0x3000) | 3);
        direct.command(command);
        direct.command(SYNC);
        assert_eq!(direct.reaches(0x5000, READ), NEW, "{command:x?}");
    }
}

/// Stage 2 alone.
fn stage2() -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(0xd, STE1, STE2 | S2R);
    direct
}

#[test]
fn page_of_stage_2_is_looked_up_again_after_each_command_that_names_it() {
    // VMID 7: CMD_TLBI_S2_IPA with and without Leaf, S12_VMALL, NSNH_ALL.
    for command in [[0x2a | 7 << 32, 0x5000], [0x2a | 7 << 32, 0x5001], [0x28 | 7 << 32, 0], [0x30, 0]] {
        let mut direct = stage2();
        direct.map2(0x5000, OLD, S2_RW);
        assert_eq!(direct.reaches(0x5000, READ), OLD);
        direct.map2(0x5000, NEW, S2_RW);
        direct.command(command);
        direct.command(SYNC);
        assert_eq!(direct.reaches(0x5000, READ), NEW, "{command:x?}");
    }
}

#[test]
fn replaced_table_of_stage_2_is_followed_after_an_invalidation_without_leaf() {
    let mut direct = stage2();
    direct.map2(0x5000, OLD, S2_RW);
    assert_eq!(direct.reaches(0x5000, READ), OLD);
    direct.poke(STAGE2 + 0x3028, NEW | S2_RW);
    direct.poke(STAGE2 + 0x1000, (STAGE2 + 0x3000) | 3);
    direct.command([0x2a | 7 << 32, 0x5000]);
    direct.command(SYNC);
    assert_eq!(direct.reaches(0x5000, READ), NEW);
}

#[test]
fn both_stages_are_looked_up_again_after_the_commands_of_both() {
    // The IPA of the page, and that of the level 3 table of stage 1.
    for changed in [0x9000, 0xb000] {
        for second in [[0x10 | 7 << 32, 0], [0x13 | 7 << 32, 0x5000]] {
            let mut direct = Direct::enabled(ALL_ON, 0);
            direct.nest(0, S2R, CD_A);
            direct.map(0x5000, 0x9000, PAGE_RW);
            direct.poke(TABLES + 0x1000, 0xb000 | 3);
            direct.map2(0xb000, TABLES + 0x2000, S2_RW);
            direct.map2(0x9000, OLD, S2_RW);
            direct.map2(0xc000, NEW, S2_RW);
            assert_eq!(direct.reaches(0x5000, READ), OLD);
            direct.poke(TABLES + 0x3028, 0xc000 | PAGE_RW);
            direct.map2(changed, if changed == 0x9000 { NEW } else { TABLES + 0x3000 }, S2_RW);
            for command in [[0x2a | 7 << 32, changed], SYNC, second, SYNC] {
                direct.command(command);
            }
            assert_eq!(direct.reaches(0x5000, READ), NEW, "{changed:x} {second:x?}");
        }
    }
}

/// Where the STE of the stream beside [`STREAM`] lies, and tables for it.
const OTHER_STE: u64 = STREAMS + (STREAM + 1) * 64;
const OTHER_TABLES: u64 = 0x4014_0000;

/// Writes the other tables, which have this descriptor for 0x5000.
fn set_other_tables(direct: &Direct, leaf: u64) {
    direct.poke(OTHER_TABLES, (OTHER_TABLES + 0x1000) | 3);
    direct.poke(OTHER_TABLES + 0x1000, (OTHER_TABLES + 0x2000) | 3);
    direct.poke(OTHER_TABLES + 0x2028, leaf);
}

/// Shows that the first stream has the old page and the other one the new page, time and again.
#[track_caller]
fn have_their_own_pages(direct: &mut Direct) {
    for _ in 0..3 {
        assert_eq!(direct.reaches(0x5000, READ), OLD);
        assert_eq!(direct.reaches_from(STREAM + 1, 0x5000, READ), NEW);
    }
}

/// Shows that after a change of the descriptor at `leaf`, of the first stream, nothing is new after the first command,
/// and the page is after the second.
#[track_caller]
fn is_named_by_the_second_alone(direct: &mut Direct, leaf: u64, commands: [[u64; 2]; 2]) {
    direct.poke(leaf, direct.peek(leaf) ^ OLD ^ NEW);
    for (command, page) in commands.into_iter().zip([OLD, NEW]) {
        direct.command(command);
        direct.command(SYNC);
        assert_eq!(direct.reaches(0x5000, READ), page, "{command:x?}");
    }
}

#[test]
fn asids_that_differ_in_their_upper_half_are_told_apart() {
    // 0x0101 and 0x0201, of EL1 and of EL2 with E2H: CMD_TLBI_NH_ASID, EL2_ASID.
    for (cr2, word1, opcode) in [(0, 0, 0x11), (E2H, EL2, 0x21)] {
        let mut direct = Direct::enabled(ALL_ON, cr2);
        direct.stage1(word1, CD_A);
        direct.map(0x5000, OLD, PAGE_RW | NOT_GLOBAL);
        set_other_tables(&direct, NEW | PAGE_RW | NOT_GLOBAL);
        let cd = CD0 & !(0xffff << 48) | CD_A;
        direct.poke(CDS, cd | 0x0101 << 48);
        direct.poke(CDS + 0x48, OTHER_TABLES);
        direct.poke(CDS + 0x40, cd | 0x0201 << 48);
        direct.poke(OTHER_STE + 8, STE1 | word1);
        direct.poke(OTHER_STE, STE0_STAGE1 | (CDS + 0x40));
        have_their_own_pages(&mut direct);
        let commands = [0x0201, 0x0101].map(|asid| [opcode | asid << 48, 0]);
        is_named_by_the_second_alone(&mut direct, TABLES + 0x2028, commands);
    }
}

#[test]
fn vmids_that_differ_in_their_upper_half_are_told_apart() {
    // 7 and 0x107. Stage 2 alone, with tables for each: CMD_TLBI_S12_VMALL.
    let mut direct = stage2();
    direct.map2(0x5000, OLD, S2_RW);
    set_other_tables(&direct, NEW | S2_RW);
    for (word, value) in [(1, STE1), (2, STE2 | S2R | 0x100), (3, OTHER_TABLES), (0, 0xd)] {
        direct.poke(OTHER_STE + word * 8, value);
    }
    have_their_own_pages(&mut direct);
    let commands = |opcode: u64| [0x107, 7].map(|vmid| [opcode | vmid << 32, 0]);
    is_named_by_the_second_alone(&mut direct, leaf2(0x5000), commands(0x28));
    // Both stages, with stage 1 tables for each and the same ASID: CMD_TLBI_NH_ALL.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.nest(0, S2R, CD_A);
    direct.map(0x5000, OLD, PAGE_RW | NOT_GLOBAL);
    set_other_tables(&direct, NEW | PAGE_RW | NOT_GLOBAL);
    direct.poke(CDS + 0x48, OTHER_TABLES);
    direct.poke(CDS + 0x40, CD0 | CD_A);
    for (word, value) in [(1, STE1), (2, STE2 | S2R | 0x100), (3, STAGE2), (0, 0xf | (CDS + 0x40))] {
        direct.poke(OTHER_STE + word * 8, value);
    }
    have_their_own_pages(&mut direct);
    is_named_by_the_second_alone(&mut direct, TABLES + 0x2028, commands(0x10));
}

#[test]
fn fault_of_a_descriptor_is_not_remembered() {
    // F_ACCESS, and F_ADDR_SIZE with IPS of 32 bits: mended without an invalidation.
    for (leaf, id) in [(DATA | PAGE_RW & !AF, 0x12), (0x1_0000_0000 | PAGE_RW, 0x11)] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_R | CD_A);
        direct.poke(CDS, (CD0 | CD_R | CD_A) & !(7 << 32));
        direct.poke(direct.leaf_at(0x5000), leaf);
        assert_eq!(direct.fault(0x5000, WRITE)[0], 0x100_0000_0000 | id);
        direct.map(0x5000, DATA, PAGE_RW);
        assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    }
}

#[test]
fn contiguous_bit_alone_makes_no_conflict() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    // 16 pages from 0 on; the hint is bit 52.
    for contiguous in [0, 1 << 52, 0] {
        for page in 0..16 {
            direct.map(page << 12, DATA + (page << 12), PAGE_RW | contiguous);
        }
        for page in 0..16 {
            assert_eq!(direct.reaches(page << 12, WRITE), DATA + (page << 12));
        }
    }
    assert_eq!(direct.take_events().len(), 0);
}

/// A block of 2 MiB, nT of it, and a table that has the same in pages.
const BLOCK: u64 = DATA | PAGE_RW & !2;
const NT: u64 = 1 << 16;
const LEVEL3: u64 = TABLES + 0x8_0000;

/// Engine 0 of `bench` copies 32 pages, each to the second behind it, in a block of 2 MiB at 0x20_0000 that becomes
/// `descriptors`, one after the other, with TLBs invalidated behind each: it ends well, and has done it all.
fn job_runs_on_while_a_block_becomes(mut bench: Bench, descriptors: &[u64]) {
    bench.attach(0x100, 0, 0, CD_R | CD_A);
    bench.leaf_at(0, 0);
    let level2 = bench.peek(TABLES) & !0xfff;
    bench.poke(level2 + 8, BLOCK);
    for page in 0..512 {
        bench.poke(LEVEL3 + page * 8, (DATA + page * 0x1000) | PAGE_RW);
    }
    for page in 0..2 {
        bench.poke(DATA + page * 0x1000, page + 1);
    }
    bench.set_engine64(0, reg::SOURCE, 0x20_0000);
    bench.set_engine64(0, reg::DESTINATION, 0x20_2000);
    bench.set_engine64(0, reg::LENGTH, 0x2_0000);
    bench.set_engine(0, reg::CONTROL, 1);
    let run = |bench: &mut Bench| (0..4).for_each(|_| _ = bench.step());
    for &descriptor in descriptors {
        run(&mut bench);
        bench.poke(level2 + 8, descriptor);
        // The last page, and with it the table, is invalidated first, and then all.
        bench.submit([0x13, 0x3f_f000]);
        run(&mut bench);
        bench.submit([0x10, 0]);
        bench.submit(SYNC);
    }
    assert_eq!(bench.state(0), 1, "under way");
    bench.run();
    assert_eq!((bench.state(0), bench.take_events().len(), bench.read(GERROR)), (2, 0, 0));
    assert!((0..34).all(|page| bench.peek(DATA + page * 0x1000) == page % 2 + 1));
}

#[test]
fn block_becomes_a_table_and_a_block_again_by_way_of_nt_under_a_running_job() {
    job_runs_on_while_a_block_becomes(Bench::enabled(), &[BLOCK | NT, LEVEL3 | 3, BLOCK | NT, BLOCK]);
}

#[test]
fn block_becomes_a_table_and_a_block_again_at_once_under_a_running_job_with_bbml_2() {
    // As QEMU's SMMU has it.
    let mut bench = Bench::of(Profile::Qemu10);
    bench.set_up();
    bench.enable(0xd);
    job_runs_on_while_a_block_becomes(bench, &[LEVEL3 | 3, BLOCK, LEVEL3 | 3, BLOCK]);
}
