//! What a CMD_SYNC promises, and how it tells that it is complete: 4.7.3, 4.8.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::engine::registers::{self as reg, ats_control, pri_control};
use crate::model::profile::Profile;
use crate::model::smmu::Polled;
use crate::model::smmu::diagnostics::CACHE_SEED;
use crate::model::wire::Wire;

const SYNC: [u64; 2] = [0x46, 0];
/// CS = 1 with MSI data 7, before the address.
const MESSAGE: u64 = 0x1046 | 7 << 32;
/// nG of a page.
const NOT_GLOBAL: u64 = 1 << 11;

#[test]
fn message_needs_an_address_in_any_of_its_bits() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    // Address 0: the wire alone. A write to physical 0 would abort, as no memory is there.
    direct.command([MESSAGE, 0]);
    assert_eq!((direct.read(GERROR), direct.raised.wires.pop()), (0, Some(Wire::CommandSync)));
    // Bits 48 to 51 are beyond the 48 bits that are put out: not 0, and then cut to 0 (4.7.3).
    for (bit, consumed) in [(48, 2), (51, 3)] {
        direct.command([MESSAGE, 1 << bit]);
        assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR) ^ direct.read(GERRORN)), (consumed, 1 << 4), "{bit}");
        direct.write(GERRORN, direct.read(GERROR));
    }
    // CERROR_ILL.
    direct.command([MESSAGE, 1 << 52]);
    assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR) ^ direct.read(GERRORN)), (3 | 1 << 24, 1));
}

#[test]
fn without_msi_and_sev_there_is_the_wire_alone() {
    // QEMU's SMMU has IDR0.MSI = 0 and SEV = 0: MSIAddress is ignored, CS = 0b10 is as 0b00 (4.7.3), and space in a full queue
    // is no event (4.1.2).
    let mut direct = Direct::profile(Profile::Qemu10);
    direct.command([MESSAGE, DATA]);
    assert_eq!((direct.peek(DATA), direct.read(GERROR)), (0, 0));
    assert_eq!(direct.raised.wires, [Wire::CommandSync]);
    direct.command([0x2046, 0]);
    for _ in 0..16 {
        direct.submit([0x46, 0]);
    }
    direct.step();
    assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR), direct.raised.events), (18, 0, 0));
}

/// 4.7.3: CMDQ_CONS is past the CMD_SYNC when its wire is raised and before its message is written.
#[test]
fn whoever_sees_a_signal_finds_its_sync_consumed() {
    for (address, at) in [(0, None), (DATA, Some(DATA))] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.moment(at, |direct| direct.command([MESSAGE, address]));
        assert_eq!(direct.read(CMDQ_CONS), 1, "{at:?}");
    }
}

#[test]
fn nobody_sees_a_signal_before_its_sync_is_consumed() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(CMDQ_BASE, COMMANDS | 8);
    // Twice as many as a step consumes: the number of each is its message.
    for slot in 0..64 {
        bench.poke(COMMANDS + slot * 16, 0x1046 | (slot + 1) << 32);
        bench.poke(COMMANDS + slot * 16 + 8, DATA);
    }
    bench.enable(ALL_ON);
    bench.write(CMDQ_PROD, 64);
    let mut seen = 0;
    while bench.step() {
        seen += bench.take_raised().into_iter().filter(|wire| *wire == Wire::CommandSync).count() as u64;
        assert_eq!((u64::from(bench.read(CMDQ_CONS)), bench.peek(DATA)), (seen, seen));
    }
    assert_eq!(seen, 64);
}

#[test]
fn sync_completes_the_messages_of_those_before_it() {
    let mut bench = Bench::enabled();
    bench.submit([MESSAGE, END]);
    bench.submit([MESSAGE, DATA]);
    bench.submit(SYNC);
    while bench.read(CMDQ_CONS) != 3 {
        bench.step();
    }
    assert_eq!((bench.read(GERROR), bench.peek(DATA)), (1 << 4, 7));
}

/// Engine 0 fills the 16 pages from 0x1_0000 on with 1, which lie at DATA, and is in the middle of filling them with 2;
/// address space 1 has them at DATA + 0x8_0000.
fn filling() -> Bench {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_A);
    for (space, physical) in [(0, DATA), (1, DATA + 0x8_0000)] {
        for page in 0..16 {
            bench.map(space, 0x1_0000 + page * 0x1000, physical + page * 0x1000, PAGE_RW | NOT_GLOBAL);
        }
    }
    bench.set_engine64(0, reg::DESTINATION, 0x1_0000);
    bench.set_engine64(0, reg::LENGTH, 0x1_0000);
    for (pattern, steps) in [(1, 100), (2, 5)] {
        bench.set_engine64(0, reg::PATTERN, pattern);
        bench.set_engine(0, reg::CONTROL, 0x11);
        for _ in 0..steps {
            bench.step();
        }
    }
    bench
}

/// The first words of the pages from `physical` on.
fn pages(bench: &Bench, physical: u64) -> Vec<u64> {
    (0..16).map(|page| bench.peek(physical + page * 0x1000)).collect()
}

/// Runs `commands`, and shows that after them nothing more is written to the old pages, and all the rest to the new ones.
fn nothing_old_after(bench: &mut Bench, commands: &[[u64; 2]]) {
    for command in commands {
        bench.submit(*command);
    }
    while bench.read(CMDQ_CONS) != commands.len() as u32 {
        bench.step();
    }
    let old = pages(bench, DATA);
    assert!(old.contains(&1) && old.contains(&2), "in the middle of it: {old:?}");
    bench.run();
    assert_eq!(bench.state(0), 2);
    assert_eq!(pages(bench, DATA), old);
    let new = pages(bench, DATA + 0x8_0000);
    assert!(new.iter().zip(&old).all(|pair| pair == (&2, &1) || *pair.1 == 2), "{old:?} {new:?}");
}

#[test]
fn no_access_through_an_old_translation_comes_after_tlbi_and_sync() {
    // CMD_TLBI_NH_ALL, NH_ASID of ASID 1, NSNH_ALL: of changed leaves, and of a level 3 table in the place of another.
    for command in [[0x10, 0], [0x11 | 1 << 48, 0], [0x30, 0]] {
        for table in [None, Some(TABLES + 0x8_0000)] {
            let mut bench = filling();
            let first = bench.leaf_at(0, 0x1_0000);
            let leaves = table.map_or(first, |table| table | first & 0xfff);
            for page in 0..16 {
                bench.poke(leaves + page * 8, (DATA + 0x8_0000 + page * 0x1000) | PAGE_RW | NOT_GLOBAL);
            }
            if let Some(table) = table {
                bench.poke(bench.peek(TABLES) & !0xfff, table | 3);
            }
            nothing_old_after(&mut bench, &[command, SYNC]);
        }
    }
}

#[test]
fn no_access_through_an_old_structure_comes_after_cfgi_and_sync() {
    // The STE leads to another CD by CMD_CFGI_STE, or the CD to other tables by CMD_CFGI_CD. The new ASID is 3, so that
    // nothing in the TLBs is its own.
    for new_cd in [true, false] {
        let mut bench = filling();
        let command = if new_cd {
            bench.attach(0x100, 1, 1, CD_A | 2 << 48);
            [0x03 | 0x100 << 32, 1]
        } else {
            bench.set_cd(0, CD_A | 2 << 48, 1);
            [0x05 | 0x100 << 32, 1]
        };
        nothing_old_after(&mut bench, &[command, SYNC]);
    }
}

#[test]
fn sync_that_failed_is_fetched_anew_and_completes_what_else_came_before_it() {
    // With CACHE_SEED the CMD_TLBI_NH_ALL waits for its CMD_SYNC; the CMD_ATC_INV of engine 2 times out.
    for seed in 1..20 {
        let mut bench = Bench::enabled();
        bench.attach(0x100, 0, 0, CD_A);
        bench.map(0, 0x5000, DATA, PAGE_RW);
        bench.write_word(0, 0x5000);
        bench.write(CACHE_SEED as u64, seed);
        bench.map(0, 0x5000, DATA + 0x1000, PAGE_RW);
        bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE | ats_control::INVALIDATIONS_TIME_OUT);
        for command in [[0x10, 0], [0x40 | 0x102 << 32, 52], SYNC] {
            bench.submit(command);
        }
        bench.run();
        assert_eq!(bench.read(CMDQ_CONS), 3 << 24 | 2, "CERROR_ATC_INV_SYNC");
        // Another CMD_SYNC in its place, with a message.
        bench.poke(COMMANDS + 0x20, MESSAGE);
        bench.poke(COMMANDS + 0x28, DATA + 0x2000);
        bench.write(GERRORN, 1);
        bench.run();
        assert_eq!((bench.read(CMDQ_CONS) & 0xff, bench.peek(DATA + 0x2000)), (3, 7));
        bench.write_word(0, 0x5000);
        assert_eq!(bench.peek(DATA + 0x1000), 0x1122_3344_5566_7788, "{seed}");
    }
}

#[test]
fn sync_waits_neither_for_resumed_accesses_nor_for_answers_to_devices() {
    let mut direct = Direct::stalling(0);
    let (slot, tag) = direct.tagged(0x5008);
    let (other, _) = direct.tagged(0x6000);
    direct.map(0x5000, DATA, PAGE_RW);
    direct.resume(tag, RETRY);
    direct.command([0x41 | 0x102 << 32, 2 << 12]);
    direct.command(SYNC);
    // The retry has not come yet, and a recorded stall stays as it is.
    assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (3, 0));
    assert_eq!((direct.poll(other), direct.poll(slot)), (WAITS, through(DATA + 8)));
    assert_eq!(direct.poll(other), WAITS);
}

#[test]
fn sync_waits_for_no_page_request_group() {
    let mut bench = Bench::enabled();
    bench.set_cd(0, CD_A, 0);
    bench.set_ste(0x102, STE0_STAGE1 | CDS, STE1 | S1STALLD | EATS);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(2, reg::PRI_ALLOCATION, 1);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.write_word(2, 0x5000);
    bench.command(SYNC);
    assert_eq!((bench.read(CMDQ_CONS), bench.state(2)), (1, 1));
}

#[test]
fn record_of_an_access_that_ended_is_there_at_the_sync_or_never() {
    for writable in [true, false] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_R | CD_A);
        direct.leaf_at(0);
        direct.enable(if writable { ALL_ON } else { ALL_ON & !4 });
        assert_eq!(direct.access(0x5000, WRITE), Response::Abort);
        direct.command(SYNC);
        assert_eq!(direct.read(EVENTQ_PROD), u32::from(writable));
        direct.enable(ALL_ON);
        direct.access(0x6000, WRITE);
        let expected = if writable { &[0x5000, 0x6000][..] } else { &[0x6000] };
        assert_eq!(direct.take_events().iter().map(|record| record[2]).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn record_of_a_stall_that_ended_is_of_its_new_configuration_and_there_at_the_sync_or_never() {
    for writable in [true, false] {
        let mut direct = Direct::stalling(0);
        let (slot, tag) = direct.tagged(0x5008);
        direct.stage1(0, CD_R | CD_A);
        direct.invalidate();
        direct.enable(if writable { ALL_ON } else { ALL_ON & !4 });
        direct.resume(tag, RETRY);
        assert_eq!(direct.poll(slot), ABORTED);
        direct.command(SYNC);
        direct.enable(ALL_ON);
        let expected: &[[u64; 4]] = if writable { &[[0x100_0000_0010, IN, 0x5008, 0]] } else { &[] };
        assert_eq!(direct.take_events(), expected);
    }
    // An end by SMMUEN has no record.
    let mut direct = Direct::stalling(0);
    let (slot, _) = direct.tagged(0x5008);
    direct.enable(ALL_ON & !1);
    assert_eq!(direct.poll(slot), ABORTED);
    direct.command(SYNC);
    direct.enable(ALL_ON);
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn record_that_waits_is_of_nothing_that_was_invalidated() {
    // The page was read-only when the write stalled, and is gone by the time of the record.
    let mut direct = Direct::stalling(0);
    direct.map(0x5000, DATA, PAGE_RO);
    direct.enable(ALL_ON & !4);
    let slot = direct.stall_unseen(0x5008, WRITE);
    direct.map(0x5000, 0, 0);
    direct.invalidate();
    direct.enable(ALL_ON);
    assert_eq!(direct.poll(slot), RECORDED);
    // F_TRANSLATION, not F_PERMISSION.
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | IN, 0x5008, 0]);
    assert_eq!(direct.poll(slot), WAITS);
}

#[test]
fn flag_updates_of_accesses_that_ended_are_in_memory_at_the_sync() {
    // HD and HA, and DBM in the page: writable-clean, Access flag clear.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A | 3 << 42);
    direct.map(0x5000, DATA, PAGE_RO & !(1 << 10) | 1 << 51);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    direct.command(SYNC);
    assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RO | 1 << 51);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    direct.command(SYNC);
    assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RW | 1 << 51);
}

#[test]
fn invalidations_release_no_stall() {
    let mut direct = Direct::stalling(0);
    let (slot, tag) = direct.tagged(0x5008);
    direct.map(0x5000, DATA, PAGE_RW);
    for command in [[0x03 | STREAM << 32, 0], [0x05 | STREAM << 32, 0], [0x12 | 1 << 48, 0x5000]] {
        direct.command(command);
    }
    direct.invalidate();
    assert_eq!(direct.poll(slot), WAITS);
    direct.resume(tag, ABORT);
    assert_eq!(direct.poll(slot), Polled::Ended(Response::Abort));
}
