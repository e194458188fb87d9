//! Engines that break the rules: what the SMMU makes of it.

use super::bench::*;
use crate::model::engine::registers::{self as reg, ats_control, hostile, pri_control, pri_status, status};
use crate::model::smmu::diagnostics as diag;

/// The StreamID of engine 2.
const STREAM: u64 = 0x102;

/// Codes of CMD_PRI_RESP (4.5.2).
const INVALID: u64 = 1;
const SUCCESS: u64 = 2;

/// Engine 2 translates by ATS and has four page requests; nothing is mapped in its two address spaces.
fn hostile(mode: u32) -> Bench {
    let mut bench = Bench::enabled();
    bench.set_cd(0, CD_A | CD_R, 0);
    bench.set_cd(1, CD_A | CD_R, 1);
    bench.set_ste(STREAM, STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS | PPAR | 2);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(2, reg::PRI_ALLOCATION, 4);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.set_engine(2, reg::HOSTILE, mode);
    bench
}

/// Engine 2 fills pages from 0x5000 on, with PASID 1 or without.
fn fill(bench: &mut Bench, pages: u64, pasid: bool) {
    bench.set_engine64(2, reg::DESTINATION, 0x5000);
    bench.set_engine64(2, reg::LENGTH, pages * 0x1000);
    bench.set_engine(2, reg::PASID, 1);
    bench.set_engine(2, reg::CONTROL, 0x11 | u32::from(pasid) << 8);
    bench.run();
}

#[test]
fn modes_are_the_low_eleven_bits_of_every_engine() {
    let mut bench = Bench::reset();
    for index in 0..4 {
        bench.set_engine(index, reg::HOSTILE, !0 ^ hostile::STORM);
        assert_eq!(bench.engine(index, reg::HOSTILE), 0x7bf);
    }
}

#[test]
fn requests_without_last_are_queued_and_nobody_owes_an_answer() {
    let mut bench = hostile(hostile::NO_LAST);
    fill(&mut bench, 1, false);
    assert_eq!(bench.take_page_requests(), [[0x2000_0000_0000_0102, 0x5000]]);
    assert_eq!(bench.read(diag::PAGE_REQUEST_GROUPS as u64), 0);
    bench.set_engine(2, reg::PRI_CONTROL, 0);
    bench.set_engine(2, reg::CONTROL, 2);
    bench.run();
    assert_eq!((bench.state(2), bench.engine(2, reg::PRI_STATUS)), (5, 0), "stopped, but its group is outstanding");
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::RESET);
    assert_eq!(bench.engine(2, reg::PRI_STATUS), pri_status::STOPPED);
}

#[test]
fn wrong_pasid_is_in_the_record_and_wanted_in_the_answer() {
    let mut bench = hostile(hostile::WRONG_PASID);
    fill(&mut bench, 1, true);
    assert_eq!(bench.take_page_requests(), [[0xe000_0002_0000_0102, 0x5000]]);
    bench.respond(STREAM, Some(1), 0, INVALID);
    assert_eq!((bench.state(2), bench.engine(2, reg::RESPONSES_UNEXPECTED)), (1, 1));
    bench.respond(STREAM, Some(2), 0, INVALID);
    assert_eq!(bench.state(2), 3);
}

#[test]
fn more_requests_than_credits_overflow_the_queue() {
    let mut bench = hostile(hostile::NO_CREDITS);
    bench.set_engine(2, reg::DEPTH, 32);
    fill(&mut bench, 32, false);
    // 16 entries; the others are answered with success and asked again (8.1).
    assert_eq!(bench.read(PRIQ_PROD), 1 << 31 | ENTRIES);
    assert!(bench.read(diag::AUTO_SUCCESS as u64) >= 16);
    assert_eq!(bench.engine(2, reg::RESPONSES_UNEXPECTED), 0);
}

#[test]
fn index_that_is_outstanding_is_in_two_groups() {
    let mut bench = hostile(hostile::REUSE_INDEX);
    bench.set_engine(2, reg::DEPTH, 2);
    fill(&mut bench, 2, false);
    assert_eq!(bench.take_page_requests(), [[0x6000_0000_0000_0102, 0x5000], [0x6000_0000_0000_0102, 0x6000]]);
    for page in 0..2 {
        bench.map(0, 0x5000 + page * 0x1000, DATA, PAGE_RW);
    }
    bench.respond(STREAM, None, 0, SUCCESS);
    assert_eq!(bench.state(2), 1, "one answer for two requests with Last");
    bench.respond(STREAM, None, 0, SUCCESS);
    assert_eq!((bench.state(2), bench.engine(2, reg::RESPONSES_UNEXPECTED)), (2, 0));
}

#[test]
fn requests_while_disabled_are_queued_whatever_the_stream() {
    // The SMMU has no switch of a stream's page requests: neither EATS nor an abort stops them (8.2).
    for (word0, word1) in [(STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS), (1, 0)] {
        let mut bench = hostile(hostile::WHILE_DISABLED | hostile::NO_CREDITS | hostile::STORM);
        bench.set_ste(STREAM, word0, word1);
        bench.set_engine(2, reg::PRI_CONTROL, 0);
        bench.step();
        bench.set_engine(2, reg::HOSTILE, 0);
        bench.run();
        assert_eq!(bench.take_page_requests().len(), 1);
        assert_eq!(bench.engine(2, reg::PRI_STATUS), 0, "it has one outstanding");
        bench.respond(STREAM, None, 0, INVALID);
        assert_eq!(bench.engine(2, reg::PRI_STATUS), pri_status::STOPPED);
    }
}

#[test]
fn spurious_translated_access_goes_through_unless_it_is_checked() {
    let legal = STE0_STAGE1 | CDS;
    for (atschk, word0, eats, state, record) in [
        (0, legal, 0, 2, None),
        // Abort, and not valid.
        (0, 1, 0, 2, None),
        (0, 0, 0, 2, None),
        (0x10, legal, 0, 3, Some(0x102_0000_0007)),
        (0x10, legal, EATS, 2, None),
    ] {
        let mut bench = hostile(hostile::TRANSLATED);
        bench.set_engine(2, reg::ATS_CONTROL, 0);
        bench.set_ste(STREAM, word0, STE1 | S1STALLD | eats);
        bench.enable(ALL_ON | atschk);
        bench.set_engine64(2, reg::DESTINATION, DATA);
        bench.set_engine64(2, reg::LENGTH, 8);
        bench.set_engine64(2, reg::PATTERN, !0);
        bench.set_engine(2, reg::CONTROL, 0x11);
        bench.run();
        assert_eq!((bench.state(2), bench.peek(DATA)), (state, if state == 2 { !0 } else { 0 }));
        assert_eq!(bench.take_events().first().map(|record| record[0]), record, "F_TRANSL_FORBIDDEN (7.3.8)");
    }
}

#[test]
fn storm_sends_one_request_a_step_as_far_as_its_credits_go() {
    let mut bench = hostile(hostile::STORM);
    bench.set_engine64(2, reg::DESTINATION, 0x8_0000);
    for _ in 0..10 {
        assert!(bench.step(), "a storm is never idle");
    }
    let requests = bench.take_page_requests();
    assert_eq!(
        requests.iter().map(|request| request[1]).collect::<std::vec::Vec<_>>(),
        [0x8_0000, 0x8_1001, 0x8_2002, 0x8_3003]
    );
    assert!(requests.iter().all(|request| request[0] == 0x6000_0000_0000_0102));
    bench.set_engine(2, reg::HOSTILE, 0);
    for group in 0..4 {
        bench.respond(STREAM, None, group, INVALID);
    }
    assert_eq!((bench.engine(2, reg::RESPONSES_INVALID), bench.engine(2, reg::RESPONSES_UNEXPECTED)), (4, 0));
}

#[test]
fn storm_without_credits_is_answered_by_the_overflow() {
    let mut bench = hostile(hostile::STORM | hostile::NO_CREDITS);
    for _ in 0..1000 {
        bench.step();
    }
    assert_eq!(bench.read(PRIQ_PROD), 1 << 31 | ENTRIES);
    assert_eq!(bench.read(diag::AUTO_SUCCESS as u64), 1000 - ENTRIES);
    assert_eq!(bench.engine(2, reg::RESPONSES_SUCCESS), 1000 - ENTRIES);
}

#[test]
fn storm_at_a_queue_that_is_off_fails_at_once() {
    let mut bench = hostile(hostile::STORM);
    bench.enable(ALL_ON & !2);
    for _ in 0..10 {
        bench.step();
    }
    // The failure takes its right to ask (8.2).
    assert_eq!(bench.engine(2, reg::PRI_STATUS), pri_status::RESPONSE_FAILURE | pri_status::STOPPED);
    assert_eq!(bench.engine(2, reg::RESPONSES_FAILURE), 1);
}

#[test]
fn stopped_is_never_set_by_one_that_never_stops() {
    let mut bench = hostile(hostile::NEVER_STOPPED);
    bench.set_engine(2, reg::PRI_CONTROL, 0);
    bench.run();
    assert_eq!(bench.engine(2, reg::PRI_STATUS), 0);
    bench.set_engine(2, reg::HOSTILE, 0);
    assert_eq!(bench.engine(2, reg::PRI_STATUS), pri_status::STOPPED);
}

#[test]
fn stop_marker_out_of_order_stands_between_the_requests_of_its_pasid() {
    let mut bench = hostile(hostile::EARLY_STOP_MARKER);
    bench.set_engine(2, reg::GROUP_SIZE, 2);
    fill(&mut bench, 2, true);
    let records = bench.take_page_requests();
    assert_eq!(records, [[0xa000_0001_0000_0102, 0x5000], [0xc000_0001_0000_0102, 0], [0xe000_0001_0000_0102, 0x6000]]);
    bench.respond(STREAM, Some(1), 0, INVALID);
    assert_eq!(bench.state(2), 3);
}

#[test]
fn translation_requests_without_ats_are_unsupported_and_recorded() {
    let mut bench = hostile(hostile::TRANSLATION_REQUESTS);
    bench.set_engine(2, reg::ATS_CONTROL, 0);
    bench.set_ste(STREAM, STE0_STAGE1 | CDS, STE1 | S1STALLD);
    fill(&mut bench, 1, false);
    assert_eq!((bench.state(2), bench.engine(2, reg::STATUS) >> status::REASON & 7), (3, status::TRANSLATION));
    // F_BAD_ATS_TREQ (7.3.6).
    assert_eq!(bench.take_event()[0], 0x102_0000_0005);
    // A device that stalls can do it too.
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    bench.set_engine(0, reg::HOSTILE, hostile::TRANSLATION_REQUESTS);
    bench.write_word(0, 0x5000);
    assert_eq!((bench.state(0), bench.take_event()[0]), (3, 0x100_0000_0005));
}

/// Engine 2 reads 8 bytes at 0x5008, privileged, as an instruction fetch, with PASID 1.
fn fetch(bench: &mut Bench) {
    bench.set_engine64(2, reg::SOURCE, 0x5008);
    bench.set_engine64(2, reg::LENGTH, 8);
    bench.set_engine(2, reg::PASID, 1);
    bench.set_engine(2, reg::ATTRIBUTES, 3);
    bench.set_engine(2, reg::CONTROL, 0x141);
    bench.run();
}

#[test]
fn access_of_an_unsupported_kind_is_aborted_and_recorded_as_it_came() {
    // 3.12, 7.3.2. The stream translates 0x5008 in both spaces; its STE makes everything unprivileged data.
    for (cr0, word0) in [(ALL_ON, STE0_STAGE1 | CDS | 1 << 59), (ALL_ON, 0), (ALL_ON & !1, 0)] {
        let mut bench = hostile(hostile::UNSUPPORTED);
        bench.map(0, 0x5000, DATA, PAGE_RW);
        bench.map(1, 0x5000, DATA, PAGE_RW);
        bench.set_ste(STREAM, word0, STE1 | S1STALLD | EATS | PPAR | 2 | 2 << 48 | 2 << 50);
        bench.enable(cr0);
        fetch(&mut bench);
        // Aborted by the access.
        assert_eq!(bench.engine(2, reg::STATUS), 0x13);
        // F_UUT, SSV, SubstreamID 1; Reason 1, PnU, InD, RnW.
        assert_eq!(bench.take_event(), [0x102_0000_1801, 0xe_0000_0001, 0x5008, 0]);
        bench.set_engine(2, reg::ATTRIBUTES, 0);
        bench.write_word(2, 0x5010);
        assert_eq!((bench.state(2), bench.peek(DATA + 0x10)), (3, 0));
        assert_eq!(bench.take_event(), [0x102_0000_0001, 1, 0x5010, 0]);
        assert_eq!(bench.engine(2, reg::TRANSLATION_REQUESTS), 0);
    }
}

#[test]
fn translated_access_of_an_unsupported_kind_leaves_no_record() {
    // 3.9.1.3.
    let mut bench = hostile(hostile::UNSUPPORTED | hostile::TRANSLATED);
    bench.write_word(2, DATA);
    assert_eq!((bench.state(2), bench.peek(DATA), bench.take_events().len()), (3, 0, 0));
}

#[test]
fn unsupported_access_does_not_stall_and_overflows_a_full_queue() {
    // 7.2.1, 7.4.
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A | CD_R);
    bench.set_engine(0, reg::HOSTILE, hostile::UNSUPPORTED);
    for _ in 0..=ENTRIES {
        bench.write_word(0, 0x5000);
        assert_eq!(bench.state(0), 3);
    }
    assert_eq!(bench.read(EVENTQ_PROD), 1 << 31 | ENTRIES);
    bench.set_engine(0, reg::HOSTILE, 0);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 2, "the stream works");
}
