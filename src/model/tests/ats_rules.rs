//! ATS invalidation and page responses: 3.9.1, 4.5, 4.7.3.

use std::vec;
use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::engine::registers::{self as reg, ats_control, pri_control};
use crate::model::wire::Wire;

/// The StreamIDs of engines 2 and 3.
const FIRST: u64 = 0x102;
const SECOND: u64 = 0x103;

const SYNC: [u64; 2] = [0x46, 0];
/// CMD_ATC_INV of everything without a PASID, of engine 2.
const ALL: [u64; 2] = [0x40 | FIRST << 32, 52];

/// Engines 2 and 3 translate by ATS, without PASID through CD 0 and with PASID 1 through CD 1 (S1DSS = 2); address space 0
/// for both has 16 pages from 0x1_0000 on at DATA, and address space 1 the same.
fn translating() -> Bench {
    let mut bench = Bench::enabled();
    for stream in [FIRST, SECOND] {
        bench.set_ste(stream, STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS | PPAR | 2);
    }
    for engine in [2, 3] {
        bench.set_engine(engine, reg::ATS_CONTROL, ats_control::ENABLE);
        bench.set_engine(engine, reg::PRI_ALLOCATION, 64);
        bench.set_engine(engine, reg::PRI_CONTROL, pri_control::ENABLE);
    }
    for space in [0, 1] {
        bench.set_cd(space, CD_A, space);
        for page in 0..16 {
            bench.map(space, 0x1_0000 + page * 0x1000, DATA + page * 0x1000, PAGE_RW);
        }
    }
    bench
}

/// Fills 8 bytes at 0x1_0000 by engine `engine`, with PASID 1 or without, and tells how many translation requests it has
/// sent until now.
fn requests(bench: &mut Bench, engine: usize, pasid: bool) -> u32 {
    bench.set_engine64(engine, reg::DESTINATION, 0x1_0000);
    bench.set_engine64(engine, reg::LENGTH, 8);
    bench.set_engine(engine, reg::PASID, 1);
    bench.set_engine(engine, reg::CONTROL, 0x11 | u32::from(pasid) << 8);
    bench.run();
    assert_eq!(bench.state(engine), 2);
    bench.engine(engine, reg::TRANSLATION_REQUESTS)
}

/// Starts engine 2 on filling the 16 pages with `pattern`, without letting it run.
fn start_filling(bench: &mut Bench, pattern: u64) {
    bench.set_engine64(2, reg::DESTINATION, 0x1_0000);
    bench.set_engine64(2, reg::LENGTH, 0x1_0000);
    bench.set_engine64(2, reg::PATTERN, pattern);
    bench.set_engine(2, reg::CONTROL, 0x11);
}

/// The first word of each page of `physical` on.
fn pages(bench: &Bench, physical: u64) -> Vec<u64> {
    (0..16).map(|page| bench.peek(physical + page * 0x1000)).collect()
}

#[test]
fn span_reaches_the_device_as_it_is() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for (size, address, first, last) in [
        (0, 0xab00_0000_0000_5000, 0xab00_0000_0000_5000, 0xab00_0000_0000_5fff),
        (0, 0xffff_ffff_ffff_f000, 0xffff_ffff_ffff_f000, u64::MAX),
        // Aligned down to 4096 << 3.
        (3, 0xabcd_ef01_2345_f000, 0xabcd_ef01_2345_8000, 0xabcd_ef01_2345_ffff),
        (51, 0x8000_0000_0000_0000, 0x8000_0000_0000_0000, u64::MAX),
        (52, 0x5000, 0, u64::MAX),
    ] {
        direct.command([0x40 | STREAM << 32, address | size]);
        let taken = direct.devices.invalidations.pop().unwrap();
        assert_eq!((taken.first, taken.last), (first, last), "{size} {address:x}");
    }
}

#[test]
fn messages_reach_devices_in_the_order_of_the_queue() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for page in [5, 3, 9] {
        direct.submit([0x40 | STREAM << 32, page << 12]);
        direct.submit([0x30, 0]);
    }
    direct.step();
    assert_eq!(direct.devices.invalidations.iter().map(|sent| sent.first >> 12).collect::<Vec<_>>(), [5, 3, 9]);
}

#[test]
fn invalidation_takes_the_pages_of_its_span_and_none_beside_it() {
    let mut bench = translating();
    // For each page from 0x1_2000 to 0x1_9000, whether engine 2 asks for its translation.
    let asks = |bench: &mut Bench| {
        [2, 3, 4, 5, 6, 7, 8, 9].map(|page| {
            let before = bench.engine(2, reg::TRANSLATION_REQUESTS);
            bench.write_word(2, 0x1_0000 + page * 0x1000);
            bench.engine(2, reg::TRANSLATION_REQUESTS) - before
        })
    };
    assert_eq!(asks(&mut bench), [1; 8]);
    assert_eq!(asks(&mut bench), [0; 8]);
    // 4096 << 2 bytes, aligned down to 0x1_4000.
    bench.command([0x40 | FIRST << 32, 0x1_6000 | 2]);
    bench.command(SYNC);
    assert_eq!(asks(&mut bench), [0, 0, 1, 1, 1, 1, 0, 0]);
}

#[test]
fn invalidation_with_pasid_reaches_that_pasid_alone() {
    let mut bench = translating();
    assert_eq!([requests(&mut bench, 2, true), requests(&mut bench, 2, false)], [1, 2]);
    // Of PASID 0, 2 and 1, without Global.
    for (pasid, expected) in [(0, [2, 2]), (2, [2, 2]), (1, [3, 3])] {
        bench.command([ALL[0] | 1 << 11 | pasid << 12, 52]);
        bench.command(SYNC);
        assert_eq!([requests(&mut bench, 2, true), requests(&mut bench, 2, false)], expected, "{pasid}");
    }
}

#[test]
fn invalidation_without_pasid_leaves_translations_with_one() {
    let mut bench = translating();
    assert_eq!([requests(&mut bench, 2, true), requests(&mut bench, 2, false)], [1, 2]);
    bench.command(ALL);
    bench.command(SYNC);
    assert_eq!([requests(&mut bench, 2, true), requests(&mut bench, 2, false)], [2, 3]);
    // Global without SSV is ignored.
    bench.command([ALL[0] | 1 << 9, 52]);
    bench.command(SYNC);
    assert_eq!([requests(&mut bench, 2, true), requests(&mut bench, 2, false)], [3, 4]);
}

#[test]
fn invalidation_leaves_other_devices_alone() {
    let mut bench = translating();
    assert_eq!([requests(&mut bench, 2, false), requests(&mut bench, 3, false)], [1, 1]);
    bench.command(ALL);
    bench.command(SYNC);
    assert_eq!([requests(&mut bench, 2, false), requests(&mut bench, 3, false)], [2, 1]);
}

#[test]
fn ill_formed_commands_are_illegal_although_smmuen_is_0() {
    // Size over 52, Resp = 3, SSec, a reserved bit (4.1.3, 4.1.5, 4.1.6): of messages to devices, and of prefetches.
    for command in [
        [0x40, 53],
        [0x41, 3 << 12],
        [0x40 | 1 << 10, 52],
        [0x41 | 1 << 10, 0],
        [0x41, 1 << 20],
        [0x01 | 1 << 10, 0],
        [0x02, 1 << 10],
    ] {
        let mut direct = Direct::enabled(8, 0);
        direct.command(command);
        assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (1 << 24, 1), "{command:x?}");
    }
}

#[test]
fn sequence_of_a_change_of_tables_brings_the_device_the_new_translation() {
    let mut bench = translating();
    bench.set_engine64(2, reg::PATTERN, 1);
    requests(&mut bench, 2, false);
    bench.map(0, 0x1_0000, DATA + 0x8_0000, PAGE_RW);
    bench.set_engine64(2, reg::PATTERN, 2);
    // Old at the device as long as only the SMMU was told (3.9.1).
    bench.command([0x30, 0]);
    bench.command([0x04, 31]);
    bench.command(SYNC);
    requests(&mut bench, 2, false);
    assert_eq!([bench.peek(DATA), bench.peek(DATA + 0x8_0000)], [2, 0]);
    bench.command(ALL);
    bench.command(SYNC);
    requests(&mut bench, 2, false);
    assert_eq!([bench.peek(DATA), bench.peek(DATA + 0x8_0000)], [2, 2]);
}

#[test]
fn no_access_through_an_invalidated_translation_comes_after_the_sync() {
    let mut bench = translating();
    start_filling(&mut bench, 1);
    bench.run();
    start_filling(&mut bench, 2);
    for _ in 0..5 {
        bench.step();
    }
    for page in 0..16 {
        bench.map(0, 0x1_0000 + page * 0x1000, DATA + 0x8_0000 + page * 0x1000, PAGE_RW);
    }
    for command in [[0x30, 0], SYNC, ALL, SYNC] {
        bench.submit(command);
    }
    while bench.read(CMDQ_CONS) != 4 {
        bench.step();
    }
    let old = pages(&bench, DATA);
    assert!(old.contains(&1) && old.contains(&2), "in the middle of it: {old:?}");
    bench.run();
    assert_eq!(bench.state(2), 2);
    assert_eq!(pages(&bench, DATA), old);
    // The page that was being filled may have got its first bytes in the old place.
    let new = pages(&bench, DATA + 0x8_0000);
    assert_eq!(new.iter().zip(&old).filter(|pair| *pair == (&0, &1)).count(), 0, "{old:?} {new:?}");
}

#[test]
fn invalidation_that_times_out_leaves_the_translation_in_use() {
    let mut bench = translating();
    assert_eq!(requests(&mut bench, 2, false), 1);
    bench.map(0, 0x1_0000, DATA + 0x8_0000, PAGE_RW);
    bench.command([0x30, 0]);
    bench.command(SYNC);
    let time_out = ats_control::ENABLE | ats_control::INVALIDATIONS_TIME_OUT;
    bench.set_engine(2, reg::ATS_CONTROL, time_out);
    bench.command(ALL);
    bench.command(SYNC);
    assert_eq!(bench.read(CMDQ_CONS), 3 << 24 | 3, "CERROR_ATC_INV_SYNC at the CMD_SYNC");
    bench.set_engine64(2, reg::PATTERN, 7);
    assert_eq!(requests(&mut bench, 2, false), 1);
    assert_eq!([bench.peek(DATA), bench.peek(DATA + 0x8_0000)], [7, 0]);
    // Acknowledged, and sent again.
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.write(GERRORN, 1);
    bench.run();
    bench.command(ALL);
    bench.command(SYNC);
    assert_eq!((bench.read(CMDQ_CONS), requests(&mut bench, 2, false)), (6, 2));
    assert_eq!(bench.peek(DATA + 0x8_0000), 7);
}

#[test]
fn invalidation_that_is_refused_completes_and_leaves_the_translation_in_use() {
    let mut bench = translating();
    assert_eq!(requests(&mut bench, 2, false), 1);
    bench.map(0, 0x1_0000, DATA + 0x8_0000, PAGE_RW);
    bench.command([0x30, 0]);
    bench.command(SYNC);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE | ats_control::INVALIDATIONS_REFUSED);
    bench.command(ALL);
    bench.command(SYNC);
    // Unsupported Request: no error, and no promise (3.9.1.5).
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (4, 0));
    bench.set_engine64(2, reg::PATTERN, 7);
    assert_eq!(requests(&mut bench, 2, false), 1);
    assert_eq!([bench.peek(DATA), bench.peek(DATA + 0x8_0000)], [7, 0]);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.command(ALL);
    bench.command(SYNC);
    assert_eq!((bench.read(CMDQ_CONS), requests(&mut bench, 2, false)), (6, 2));
    assert_eq!(bench.peek(DATA + 0x8_0000), 7);
}

#[test]
fn time_out_concerns_no_invalidation_of_an_earlier_sync() {
    let mut bench = translating();
    requests(&mut bench, 3, false);
    bench.command([0x40 | SECOND << 32, 52]);
    bench.command(SYNC);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE | ats_control::INVALIDATIONS_TIME_OUT);
    bench.command(ALL);
    bench.command(SYNC);
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), (3 << 24 | 3, 1));
    assert_eq!(requests(&mut bench, 3, false), 2, "the one that completed did happen");
    bench.write(GERRORN, 1);
    bench.run();
    assert_eq!(bench.read(CMDQ_CONS), 4);
}

#[test]
fn sync_signals_and_what_is_behind_it_begins_when_the_devices_have_answered() {
    let mut bench = translating();
    bench.attach(0x100, 2, 2, CD_S | CD_A);
    bench.write_word(0, 0x5000);
    let tag = stag(bench.take_event());
    let late = ats_control::ENABLE | ats_control::INVALIDATIONS_LATE | 5 << ats_control::LATENCY;
    bench.set_engine(2, reg::ATS_CONTROL, late);
    bench.take_raised();
    bench.submit(ALL);
    // CS = 1 with MSI data 1 to DATA, the same with 2, which comes last, and a CMD_RESUME with abort.
    bench.submit([0x1046 | 1 << 32, DATA]);
    bench.submit([0x1046 | 2 << 32, DATA]);
    bench.submit([0x44 | 1 << 13 | 0x100 << 32, tag]);
    for _ in 0..5 {
        bench.step();
        assert_eq!((bench.read(CMDQ_CONS), bench.take_raised(), bench.peek(DATA)), (1, vec![], 0));
        assert_eq!(bench.state(0), 1);
    }
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.peek(DATA), bench.state(0)), (4, 2, 3));
    let syncs = bench.take_raised().into_iter().filter(|wire| *wire == Wire::CommandSync).count();
    assert_eq!(syncs, 2);
}

#[test]
fn response_reaches_only_the_device_of_its_stream() {
    let mut bench = translating();
    for engine in [2, 3] {
        bench.write_word(engine, 0x9_0000);
    }
    assert_eq!(bench.take_page_requests().iter().map(|record| record[1]).collect::<Vec<_>>(), [0x9_0000; 2]);
    bench.respond(SECOND, None, 0, 1);
    assert_eq!([bench.state(2), bench.state(3)], [1, 3]);
    assert_eq!(bench.engine(2, reg::RESPONSES_UNEXPECTED), 0);
}

#[test]
fn response_has_all_bits_of_its_index() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for group in [0, 1, 0x0ff, 0x100, 0x1ff] {
        direct.command([0x41 | STREAM << 32, group | 2 << 12]);
        assert_eq!(u64::from(direct.devices.responses.pop().unwrap().group.get()), group);
    }
}

#[test]
fn translation_of_one_pasid_holds_for_no_other() {
    let mut bench = translating();
    // PASIDs 1 and 2 of engine 2, and none; each asks once, and then has its own.
    bench.set_ste(FIRST, STE0_STAGE1 | CDS | 2 << 59, STE1 | S1STALLD | EATS | PPAR | 2);
    bench.set_cd(2, CD_A, 0);
    let mut ask = |pasid: Option<u32>| {
        bench.set_engine64(2, reg::DESTINATION, 0x1_0000);
        bench.set_engine64(2, reg::LENGTH, 8);
        bench.set_engine(2, reg::PASID, pasid.unwrap_or(0));
        bench.set_engine(2, reg::CONTROL, 0x11 | u32::from(pasid.is_some()) << 8);
        bench.run();
        assert_eq!(bench.state(2), 2);
        bench.engine(2, reg::TRANSLATION_REQUESTS)
    };
    let seen = [Some(1), Some(2), None, Some(1), Some(2), None].map(&mut ask);
    assert_eq!(seen, [1, 2, 3, 3, 3, 3]);
}
