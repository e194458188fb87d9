//! What the SMMU goes on using until it is told to forget: 3.11, 3.17, 3.21, 4.3, 4.4, 6.3.9.6.

use super::bench::*;
use crate::model::profile::Profile;

const STREAM: u64 = 0x100;
/// The stream of engine 1.
const OTHER: u64 = 0x101;
const CACHE_SEED: u64 = 0xe78;
const CACHE_POISON: u64 = 0xe0c;
/// What a write by engine 0 leaves.
const WRITTEN: u64 = 0x1122_3344_5566_7788;

/// 0x5000 of address space n is page n of the data; engine 0 is attached to address space 0, with ASID 1.
fn attached() -> Bench {
    attached_to(Bench::enabled())
}

fn attached_to(mut bench: Bench) -> Bench {
    bench.attach(STREAM, 0, 0, CD_A | CD_R);
    for space in 0..3 {
        bench.map(space, 0x5000, DATA + space * 0x1000, NG | PAGE_RW);
    }
    bench
}

/// nG of a leaf: it belongs to the ASID.
const NG: u64 = 1 << 11;

/// Where a write of engine 0 to 0x5000 goes: which page of the data; `None` if it ends otherwise.
fn written_page(bench: &mut Bench) -> Option<u64> {
    for page in 0..3 {
        bench.poke(DATA + page * 0x1000, 0);
    }
    bench.write_word(0, 0x5000);
    (0..3).find(|page| bench.peek(DATA + page * 0x1000) == WRITTEN)
}

#[test]
fn changed_ste_is_used_stale_until_cfgi_ste() {
    // 3.21.3, 4.3.1.
    let mut bench = attached();
    assert_eq!(written_page(&mut bench), Some(0));
    bench.set_ste(STREAM, 1, 0);
    assert_eq!(written_page(&mut bench), Some(0), "Config = abort in memory");
    // The STE of another stream, CDs and translations are something else (4.3).
    bench.forget_configuration(OTHER);
    bench.command([0x06 | STREAM << 32, 0]);
    bench.command([0x05 | STREAM << 32, 0]);
    bench.forget_translations();
    assert_eq!(written_page(&mut bench), Some(0));
    bench.forget_configuration(STREAM);
    assert_eq!(written_page(&mut bench), None);
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn invalid_ste_is_kept_too() {
    // 3.21.3: a structure may be cached whether it is valid or not.
    let mut bench = attached();
    bench.set_ste(STREAM, 0, 0);
    assert_eq!(written_page(&mut bench), None);
    bench.attach(STREAM, 0, 0, CD_A | CD_R);
    assert_eq!(written_page(&mut bench), None);
    assert_eq!(bench.take_events(), [[0x100_0000_0004, 0, 0, 0]; 2], "C_BAD_STE");
    bench.forget_configuration(STREAM);
    assert_eq!(written_page(&mut bench), Some(0));
}

#[test]
fn changed_cd_is_used_stale_until_cfgi_cd() {
    // 4.3.3. The CD is that of another ASID, so that translations do not matter.
    let mut bench = attached();
    assert_eq!(written_page(&mut bench), Some(0));
    bench.set_cd(0, CD_A | CD_R | 2 << 48, 1);
    assert_eq!(written_page(&mut bench), Some(0));
    // Another SubstreamID, another stream.
    bench.command([0x05 | 1 << 12 | STREAM << 32, 1]);
    bench.command([0x05 | OTHER << 32, 1]);
    assert_eq!(written_page(&mut bench), Some(0));
    bench.command([0x05 | STREAM << 32, 1]);
    assert_eq!(written_page(&mut bench), Some(1));
}

#[test]
fn cfgi_ste_takes_the_cds_found_through_it() {
    // 4.3.1: with Leaf too; 4.3.4 for CMD_CFGI_CD_ALL.
    for command in [[0x03 | STREAM << 32, 1], [0x06 | STREAM << 32, 0], [0x04 | OTHER << 32, 0], [0x04, 31]] {
        let mut bench = attached();
        assert_eq!(written_page(&mut bench), Some(0));
        bench.set_cd(0, CD_A | CD_R | 2 << 48, 1);
        bench.command(command);
        assert_eq!(written_page(&mut bench), Some(1), "{command:x?}");
    }
}

#[test]
fn shared_cd_is_invalidated_for_each_stream() {
    // 4.3.3: it is cached once for every stream that it is found through.
    let mut bench = attached();
    bench.set_ste(OTHER, STE0_STAGE1 | CDS, STE1);
    bench.write_word(1, 0x5000);
    assert_eq!((bench.state(1), written_page(&mut bench)), (2, Some(0)));
    bench.set_cd(0, CD_A | CD_R | 2 << 48, 1);
    bench.command([0x05 | STREAM << 32, 1]);
    assert_eq!(written_page(&mut bench), Some(1));
    bench.poke(DATA, 0);
    bench.write_word(1, 0x5000);
    assert_eq!(bench.peek(DATA), WRITTEN, "still the old CD");
}

#[test]
fn level_1_descriptor_stays_with_leaf_and_goes_without() {
    // 4.3.1.
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write(STRTAB_BASE_CFG, 1 << 16 | 8 << 6 | 16);
    bench.poke(STREAMS + 8, 0);
    bench.enable(ALL_ON);
    bench.write_word(0, DATA);
    bench.poke(STREAMS + 8, (STREAMS + 0x4000) | 9);
    bench.poke(STREAMS + 0x4000, 0x9);
    bench.write_word(0, DATA);
    bench.command([0x03 | STREAM << 32, 1]);
    bench.write_word(0, DATA);
    assert_eq!(bench.take_events(), [[0x100_0000_0002, 0, 0, 0]; 3], "C_BAD_STREAMID");
    bench.command([0x03 | STREAM << 32, 0]);
    bench.write_word(0, DATA);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, WRITTEN));
}

#[test]
fn changed_page_is_used_stale_until_tlbi() {
    // 4.4.2.
    for command in
        [[0x12 | 1 << 48, 0x5001], [0x12 | 1 << 48, 0x5000], [0x13, 0x5001], [0x11 | 1 << 48, 0], [0x10, 0], [0x30, 0]]
    {
        let mut bench = attached();
        assert_eq!(written_page(&mut bench), Some(0));
        bench.map(0, 0x5000, DATA + 0x1000, NG | PAGE_RW);
        // Another page, another ASID, CFGI.
        bench.command([0x12 | 1 << 48, 0x6000]);
        bench.command([0x12 | 2 << 48, 0x5000]);
        bench.command([0x11 | 2 << 48, 0]);
        bench.command([0x04, 31]);
        assert_eq!(written_page(&mut bench), Some(0));
        bench.command(command);
        assert_eq!(written_page(&mut bench), Some(1), "{command:x?}");
    }
}

#[test]
fn global_page_survives_tlbi_by_asid() {
    // 4.4.2.2, 4.4.2.4.
    let mut bench = attached();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    assert_eq!(written_page(&mut bench), Some(0));
    bench.map(0, 0x5000, DATA + 0x1000, PAGE_RW);
    bench.command([0x11 | 1 << 48, 0]);
    assert_eq!(written_page(&mut bench), Some(0));
    bench.command([0x12 | 9 << 48, 0x5001]);
    assert_eq!(written_page(&mut bench), Some(1));
}

#[test]
fn table_stays_with_leaf_and_goes_without() {
    // 4.4.2.4: the level 2 table is another one; only Leaf = 0 makes the SMMU see that.
    let mut bench = attached();
    assert_eq!(written_page(&mut bench), Some(0));
    let other = bench.peek(TABLES + 0x1000);
    bench.poke(TABLES, other);
    bench.command([0x12 | 1 << 48, 0x5001]);
    assert_eq!(written_page(&mut bench), Some(0));
    bench.command([0x12 | 1 << 48, 0x5000]);
    assert_eq!(written_page(&mut bench), Some(1));
}

#[test]
fn faults_are_not_remembered_but_missing_permission_is() {
    // 3.21.1; Arm DDI 0487, D8.17: what gives a translation, address size or access flag fault is never cached.
    let mut bench = attached();
    for flags in [0, NG | PAGE_RW & !(1 << 10)] {
        bench.map(0, 0x6000, DATA, flags);
        bench.write_word(0, 0x6000);
        assert_eq!((bench.state(0), bench.take_events().len()), (3, 1));
        bench.map(0, 0x6000, DATA, NG | PAGE_RW);
        bench.write_word(0, 0x6000);
        assert_eq!((bench.state(0), bench.take_events().len()), (2, 0));
        bench.forget_translations();
    }
    bench.map(0, 0x6000, DATA, NG | PAGE_RO);
    bench.read_word(0, 0x6000);
    bench.take_events();
    bench.map(0, 0x6000, DATA, NG | PAGE_RW);
    bench.write_word(0, 0x6000);
    assert_eq!(bench.take_event()[0], 0x100_0000_0013, "F_PERMISSION");
    bench.forget_translations();
    bench.write_word(0, 0x6000);
    assert_eq!(bench.state(0), 2);
}

#[test]
fn changed_asid_leaves_the_old_translations_where_they_are() {
    // 5.4: old entries keep their tag; back at the old ASID they are found again.
    let mut bench = attached();
    assert_eq!(written_page(&mut bench), Some(0));
    bench.map(0, 0x5000, DATA + 0x1000, NG | PAGE_RW);
    bench.set_cd(0, CD_A | CD_R | 2 << 48, 0);
    bench.forget_configuration(STREAM);
    assert_eq!(written_page(&mut bench), Some(1));
    bench.set_cd(0, CD_A | CD_R, 0);
    bench.forget_configuration(STREAM);
    assert_eq!(written_page(&mut bench), Some(0), "stale");
}

#[test]
fn fault_flags_are_the_cds_own_and_not_the_translations() {
    // 5.4: A, R and S are not cached in a TLB.
    let mut bench = attached();
    bench.map(0, 0x6000, DATA, NG | PAGE_RO);
    bench.write_word(0, 0x6000);
    assert_eq!(bench.take_events().len(), 1);
    bench.set_cd(0, CD_A, 0);
    bench.command([0x05 | STREAM << 32, 1]);
    bench.write_word(0, 0x6000);
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn disabling_the_smmu_invalidates_nothing() {
    // 6.3.9.6: not required. What is invalidated while it is off is gone.
    let mut bench = attached();
    assert_eq!(written_page(&mut bench), Some(0));
    bench.map(0, 0x5000, DATA + 0x1000, NG | PAGE_RW);
    bench.set_ste(STREAM, 1, 0);
    bench.enable(ALL_ON & !1);
    bench.enable(ALL_ON);
    assert_eq!(written_page(&mut bench), Some(0));
    bench.enable(ALL_ON & !1);
    bench.attach(STREAM, 0, 0, CD_A | CD_R);
    bench.command([0x04, 31]);
    bench.forget_translations();
    bench.enable(ALL_ON);
    assert_eq!(written_page(&mut bench), Some(1));
}

#[test]
fn nothing_is_read_ahead_while_the_smmu_is_off() {
    // 3.21.3, 6.3.9.6: no entries are inserted, whatever commands and accesses come.
    let mut bench = attached();
    bench.enable(ALL_ON & !1);
    bench.set_ste(STREAM, 1, 0);
    bench.write(CACHE_SEED, 1);
    for _ in 0..1000 {
        bench.forget_configuration(STREAM);
        bench.command([0x46, 0]);
        bench.command([0x01 | STREAM << 32, 0]);
        bench.command([0x45 | STREAM << 32, 0]);
    }
    bench.write(CACHE_SEED, 0);
    bench.attach(STREAM, 0, 0, CD_A | CD_R);
    bench.enable(ALL_ON);
    assert_eq!(written_page(&mut bench), Some(0));
}

#[test]
fn reset_may_leave_anything_in_the_caches() {
    // 3.11: software has to invalidate all before it enables translation.
    let poisoned = |commands: &[[u64; 2]]| {
        let mut bench = Bench::reset();
        bench.write(CACHE_POISON, STREAM as u32);
        bench.set_up();
        bench.attach(STREAM, 0, 0, CD_A | CD_R);
        bench.map(0, DATA + 0x5000, DATA, NG | PAGE_RW);
        bench.enable(ALL_ON & !1);
        for &command in commands {
            bench.command(command);
        }
        bench.enable(ALL_ON);
        bench.write_word(0, DATA + 0x5000);
        (bench.peek(DATA) == WRITTEN, bench.peek(DATA + 0x5000) == WRITTEN)
    };
    assert_eq!(poisoned(&[]), (false, true), "bypasses the SMMU");
    assert_eq!(poisoned(&[[0x30, 0]]), (false, true));
    assert_eq!(poisoned(&[[0x04, 31]]), (false, true), "translated to itself");
    assert_eq!(poisoned(&[[0x04, 31], [0x11 | 1 << 48, 0]]), (false, true), "by a global entry");
    assert_eq!(poisoned(&[[0x04, 31], [0x30, 0]]), (true, false));
    // Without stage 2 and EL2 this suffices too (4.4.4.1).
    assert_eq!(poisoned(&[[0x04, 31], [0x10, 0]]), (true, false));
}

#[test]
fn caches_are_filled_by_the_upper_half_of_a_64_bit_write_too() {
    let mut bench = Bench::reset();
    // SEED is the lower half.
    bench.write64(0xe08, STREAM << 32);
    bench.set_up();
    bench.enable(ALL_ON);
    bench.write_word(0, DATA);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, WRITTEN), "the STE in memory is not valid");
}

#[test]
fn structure_read_ahead_catches_a_missing_invalidation() {
    // 3.21.3: an SMMU may read any reachable structure at any time; here an STE that no access has used yet.
    let mut bench = Bench::enabled();
    bench.map(0, 0x5000, DATA, NG | PAGE_RW);
    bench.write(CACHE_SEED, 5);
    bench.forget_configuration(STREAM);
    bench.command([0x46, 0]);
    for _ in 0..200 {
        bench.step();
    }
    bench.write(CACHE_SEED, 0);
    bench.attach(STREAM, 0, 0, CD_A | CD_R);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.take_event()[0], 0x100_0000_0004, "C_BAD_STE");
    bench.forget_configuration(STREAM);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 2);
}

#[test]
fn invalidation_is_not_complete_before_the_sync() {
    // 4.8: the consumption of CMD_CFGI_* and CMD_TLBI_* means nothing; 4.7.3: that of a later CMD_SYNC does.
    let mut stale = 0;
    for seed in 1..20 {
        let mut bench = attached();
        assert_eq!(written_page(&mut bench), Some(0));
        bench.write(CACHE_SEED, seed);
        bench.map(0, 0x5000, DATA + 0x1000, NG | PAGE_RW);
        bench.forget_translations();
        stale += u32::from(written_page(&mut bench) == Some(0));
        bench.command([0x46, 0]);
        assert_eq!(written_page(&mut bench), Some(1));
    }
    assert!(stale > 10, "{stale}");
}

#[test]
fn entries_that_vanish_are_read_again() {
    let mut bench = attached();
    bench.write(CACHE_SEED, 77);
    for _ in 0..1000 {
        assert_eq!(written_page(&mut bench), Some(0));
    }
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn pages_that_become_a_block_without_break_before_make_conflict() {
    // 3.21.1.2: with BBML = 1 F_TLB_CONFLICT (7.3.17), which does not stall, unless the block has nT set.
    for no_caching in [0, 1 << 16] {
        let mut bench = attached();
        bench.set_cd(0, CD_S | CD_A | CD_R, 0);
        assert_eq!(written_page(&mut bench), Some(0));
        // The level 2 descriptor becomes a block of 2 MiB. Of the old tables only the page at 0x5000 stays.
        bench.poke(bench.peek(TABLES) & !0xfff, DATA | no_caching | NG | PAGE_RW & !2);
        bench.command([0x12 | 1 << 48, 0x6000]);
        bench.write_word(0, 0x6000);
        assert_eq!((bench.state(0), bench.peek(DATA + 0x6000)), (2, WRITTEN));
        let expected = if no_caching == 0 { None } else { Some(0) };
        assert_eq!(written_page(&mut bench), expected);
        let records: std::vec::Vec<_> = bench.take_events().iter().map(|record| (record[0], record[2])).collect();
        assert_eq!(records, if no_caching == 0 { &[(0x100_0000_0020, 0x5000)][..] } else { &[] });
    }
}

#[test]
fn where_blocks_may_change_at_any_time_nothing_conflicts() {
    // 3.21.1.3: BBML = 2, as QEMU's SMMU has it. The result is one of the two translations, here that of the tables.
    let mut bench = Bench::of(Profile::Qemu10);
    bench.set_up();
    bench.enable(0xd);
    let mut bench = attached_to(bench);
    assert_eq!(written_page(&mut bench), Some(0));
    bench.poke(bench.peek(TABLES) & !0xfff, DATA | NG | PAGE_RW & !2);
    bench.command([0x12 | 1 << 48, 0x6000]);
    bench.write_word(0, 0x6000);
    assert_eq!((bench.state(0), bench.peek(DATA + 0x6000)), (2, WRITTEN));
    bench.write_word(0, 0x5000);
    assert_eq!((bench.state(0), bench.peek(DATA + 0x5000)), (2, WRITTEN));
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn reset_to_a_profile_leaves_nothing_of_another() {
    // 3.11 permits that. What is kept was decoded for other ID registers.
    let mut bench = attached();
    assert_eq!(written_page(&mut bench), Some(0));
    bench.write(CACHE_POISON, OTHER as u32);
    bench.machine.reset(Profile::NoAts, 4);
    bench.set_up();
    bench.attach(OTHER, 0, 0, CD_A | CD_R);
    bench.map(0, 0x5000, DATA + 0x1000, NG | PAGE_RW);
    bench.enable(ALL_ON & !2);
    assert_eq!(written_page(&mut bench), Some(1));
    bench.poke(DATA + 0x1000, 0);
    bench.write_word(1, 0x5000);
    assert_eq!(bench.peek(DATA + 0x1000), WRITTEN);
}
