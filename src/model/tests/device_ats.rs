//! ATS as an engine uses it, and what it keeps of translations: 3.9.1, 4.5.1.

use std::vec::Vec;

use super::bench::*;
use super::page_requests::{STREAM, asking, fill, reason};
use crate::model::engine::registers::{self as reg, ats_control, status};

#[test]
fn translation_is_kept_until_it_is_invalidated() {
    let mut bench = asking();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    fill(&mut bench, 0x5000, 8, false);
    assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 1);
    bench.map(0, 0x5000, DATA + 0x1000, PAGE_RW);
    fill(&mut bench, 0x5010, 8, false);
    assert_eq!(bench.peek(DATA + 0x10), 0x1122_3344_5566_7788, "the old page: nobody invalidated");
    // Invalidating another page, or with a PASID, leaves it.
    bench.command([0x40 | STREAM << 32, 0x6000]);
    bench.command([0x40 | 1 << 11 | 1 << 12 | STREAM << 32, 52]);
    fill(&mut bench, 0x5018, 8, false);
    assert_eq!(bench.peek(DATA + 0x18), 0x1122_3344_5566_7788);
    bench.forget_translations();
    // 4096 << 3 bytes, aligned to themselves, hold it.
    bench.command([0x40 | STREAM << 32, 0x7000 | 3]);
    fill(&mut bench, 0x5020, 8, false);
    assert_eq!(bench.peek(DATA + 0x1020), 0x1122_3344_5566_7788);
    assert_eq!(bench.engine(2, reg::INVALIDATIONS), 3);
}

#[test]
fn invalidation_with_global_reaches_every_pasid() {
    let mut bench = asking();
    bench.set_ste(STREAM, STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS | PPAR);
    bench.map(1, 0x5000, DATA, PAGE_RW);
    fill(&mut bench, 0x5000, 8, true);
    bench.command([0x40 | 1 << 11 | STREAM << 32, 52]);
    fill(&mut bench, 0x5000, 8, true);
    assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 1, "PASID 0 is another address space");
    bench.command([0x40 | 1 << 11 | 1 << 9 | STREAM << 32, 52]);
    fill(&mut bench, 0x5000, 8, true);
    assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 2);
}

#[test]
fn switching_ats_off_forgets_translations() {
    let mut bench = asking();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    fill(&mut bench, 0x5000, 8, false);
    bench.set_engine(2, reg::ATS_CONTROL, 0);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    fill(&mut bench, 0x5000, 8, false);
    assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 2);
}

#[test]
fn translation_request_of_a_stream_without_ats_is_unsupported_and_recorded() {
    // EATS = 0; bypass, whatever EATS is; the SMMU off. F_BAD_ATS_TREQ (7.3.6).
    let words = [(STE0_STAGE1 | CDS, STE1), (9, EATS), (9, 2 << 28), (9, 3 << 28)];
    for (word0, word1) in words {
        let mut bench = asking();
        bench.set_ste(STREAM, word0, word1);
        fill(&mut bench, 0x5008, 8, false);
        assert_eq!((bench.state(2), reason(&bench)), (3, status::TRANSLATION));
        let record = bench.take_event();
        assert_eq!((record[0], record[2] & !0xfff), (0x102_0000_0005, 0x5000));
    }
    let mut bench = asking();
    bench.enable(ALL_ON & !1);
    fill(&mut bench, 0x5008, 8, false);
    assert_eq!((bench.state(2), reason(&bench)), (3, status::TRANSLATION));
    assert_eq!(bench.take_event()[0], 0x102_0000_0005);
}

#[test]
fn translation_request_that_meets_a_configuration_error_is_not_recorded() {
    // Config = abort: Unsupported Request; V = 0, S1CDMax beyond SSIDSIZE and a bad CD: Completer Abort (3.9.1.2).
    let illegal = STE0_STAGE1 | CDS | 9 << 59;
    for (word0, word1) in [(1, EATS), (0, 0), (illegal, STE1 | EATS), (STE0_STAGE1 | END, STE1 | EATS)] {
        let mut bench = asking();
        bench.set_ste(STREAM, word0, word1);
        fill(&mut bench, 0x5008, 8, false);
        assert_eq!((bench.state(2), reason(&bench)), (3, status::TRANSLATION));
        assert_eq!((bench.take_events().len(), bench.take_page_requests().len()), (0, 0));
    }
}

#[test]
fn translated_access_is_checked_only_with_atschk() {
    for (atschk, state) in [(0, 2), (0x10, 3)] {
        let mut bench = asking();
        bench.map(0, 0x5000, DATA, PAGE_RW);
        bench.enable(ALL_ON | atschk);
        fill(&mut bench, 0x5000, 8, false);
        assert_eq!(bench.state(2), 2);
        // EATS = 0 behind the device's back.
        bench.set_ste(STREAM, STE0_STAGE1 | CDS, STE1);
        bench.forget_configuration(STREAM);
        fill(&mut bench, 0x5000, 8, false);
        assert_eq!(bench.state(2), state);
        let records: Vec<u64> = bench.take_events().iter().map(|r| r[0]).collect();
        assert_eq!(records.is_empty(), atschk == 0);
        // F_TRANSL_FORBIDDEN (7.3.8).
        assert!(records.iter().all(|&word| word == 0x102_0000_0007));
    }
}

#[test]
fn translated_access_through_a_disabled_smmu_is_forbidden() {
    let mut bench = asking();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    fill(&mut bench, 0x5000, 8, false);
    bench.enable(ALL_ON & !1);
    fill(&mut bench, 0x5000, 8, false);
    assert_eq!(bench.state(2), 3);
    assert_eq!(bench.take_event()[0], 0x102_0000_0007);
}

#[test]
fn invalidation_drops_a_translation_that_is_on_its_way() {
    let mut bench = asking();
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE | 20 << ats_control::LATENCY);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.set_engine64(2, reg::DESTINATION, 0x5000);
    bench.set_engine64(2, reg::LENGTH, 8);
    bench.set_engine64(2, reg::PATTERN, !0);
    bench.set_engine(2, reg::CONTROL, 0x11);
    bench.step();
    assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 1);
    bench.map(0, 0x5000, DATA + 0x1000, PAGE_RW);
    bench.submit([0x30, 0]);
    bench.submit([0x40 | STREAM << 32, 0x5000]);
    bench.run();
    assert_eq!((bench.state(2), bench.engine(2, reg::TRANSLATION_REQUESTS)), (2, 2));
    assert_eq!((bench.peek(DATA), bench.peek(DATA + 0x1000)), (0, !0));
}

#[test]
fn sync_waits_for_an_invalidation_that_is_late() {
    let mut bench = asking();
    let late = ats_control::ENABLE | ats_control::INVALIDATIONS_LATE | 5 << ats_control::LATENCY;
    bench.set_engine(2, reg::ATS_CONTROL, late);
    bench.submit([0x40 | STREAM << 32, 52]);
    bench.submit([0x46, 0]);
    let consumed: Vec<u32> = (0..7)
        .map(|_| {
            bench.step();
            bench.read(CMDQ_CONS)
        })
        .collect();
    assert_eq!(consumed, [1, 1, 1, 1, 1, 2, 2]);
    assert_eq!(bench.read(GERROR), 0);
}

#[test]
fn translation_of_a_read_asks_for_write_only_when_told() {
    for (asks, requests) in [(0, 2), (ats_control::ASK_FOR_WRITE, 1)] {
        let mut bench = asking();
        bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE | asks);
        bench.map(0, 0x5000, DATA, PAGE_RW);
        bench.copy(2, 0x5000, 0x5800, 8);
        assert_eq!((bench.state(2), bench.engine(2, reg::TRANSLATION_REQUESTS)), (2, requests));
    }
}

#[test]
fn translation_for_unprivileged_accesses_does_not_serve_privileged_ones() {
    let mut bench = asking();
    bench.map(1, 0x5000, DATA, PAGE_RW);
    for (attributes, requests) in [(0, 1), (1, 2), (0, 2), (1, 2)] {
        bench.set_engine(2, reg::ATTRIBUTES, attributes);
        fill(&mut bench, 0x5000, 8, true);
        assert_eq!((bench.state(2), bench.engine(2, reg::TRANSLATION_REQUESTS)), (2, requests));
    }
    // Without a PASID there is nothing to tell them apart by.
    bench.map(0, 0x5000, DATA, PAGE_RW);
    for attributes in [0, 1] {
        bench.set_engine(2, reg::ATTRIBUTES, attributes);
        fill(&mut bench, 0x5000, 8, false);
        assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 3);
    }
}

#[test]
fn translation_of_a_block_serves_all_of_it_until_any_of_it_is_invalidated() {
    let mut bench = asking();
    // The level 2 descriptor of 2 MiB at 0x20_0000: valid, block, and otherwise as a page's.
    bench.leaf_at(0, 0x20_0000);
    let level2 = bench.peek(TABLES) & !0xfff;
    bench.poke(level2 + 8, DATA | 0x741);
    for (address, requests) in [(0x20_0000, 1), (0x20_5000, 1), (0x3f_f000, 1)] {
        fill(&mut bench, address, 8, false);
        assert_eq!((bench.state(2), bench.engine(2, reg::TRANSLATION_REQUESTS)), (2, requests));
        assert_eq!(bench.peek(DATA + address - 0x20_0000), 0x1122_3344_5566_7788);
    }
    bench.command([0x40 | STREAM << 32, 0x40_0000]);
    fill(&mut bench, 0x20_0000, 8, false);
    assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 1, "the page behind it is another");
    bench.command([0x40 | STREAM << 32, 0x20_1000]);
    fill(&mut bench, 0x20_0000, 8, false);
    assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 2);
}
