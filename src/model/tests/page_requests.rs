//! Page requests of an engine, and their answers: 3.9, 4.5.2, 8.

use std::vec::Vec;

use super::bench::*;
use crate::model::engine::Engine;
use crate::model::engine::registers::{self as reg, ats_control, pri_control, pri_status, status};
use crate::model::host::HostMemory;
use crate::model::machine::Width;
use crate::model::smmu::{Smmu, diagnostics as diag};
use crate::model::wire::Wire;
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{Access, PageResponse, PrgIndex, StreamId, SubstreamId};

/// The StreamID of engine 2.
pub(super) const STREAM: u64 = 0x102;

/// Codes of CMD_PRI_RESP (4.5.2).
const FAILURE: u64 = 0;
const INVALID: u64 = 1;
const SUCCESS: u64 = 2;

/// Engine 2 translates by ATS and may ask for pages; nothing is mapped in its two address spaces.
pub(super) fn asking() -> Bench {
    let mut bench = Bench::enabled_with(7);
    bench.set_cd(0, CD_A | CD_R, 0);
    bench.set_cd(1, CD_A | CD_R, 1);
    // Two substreams; accesses without PASID use CD 0 (S1DSS = 2).
    bench.set_ste(STREAM, STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS | PPAR | 2);
    bench.set_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(2, reg::PRI_ALLOCATION, 64);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.take_raised();
    bench
}

/// Starts engine 2 on filling, with PASID 1 or without.
pub(super) fn fill(bench: &mut Bench, address: u64, length: u64, pasid: bool) {
    bench.set_engine64(2, reg::DESTINATION, address);
    bench.set_engine64(2, reg::LENGTH, length);
    bench.set_engine64(2, reg::PATTERN, 0x1122_3344_5566_7788);
    bench.set_engine(2, reg::PASID, 1);
    bench.set_engine(2, reg::CONTROL, 0x211 | u32::from(pasid) << 8);
    bench.run();
}

pub(super) fn reason(bench: &Bench) -> u32 {
    bench.engine(2, reg::STATUS) >> status::REASON & 7
}

#[test]
fn miss_by_ats_asks_for_the_page() {
    let mut bench = asking();
    fill(&mut bench, 0x5008, 8, false);
    assert_eq!(bench.state(2), 1);
    // StreamID; W and Last, no PASID; group 0, page address (8).
    assert_eq!(bench.take_page_requests(), [[0x6000_0000_0000_0102, 0x5000]]);
    assert_eq!(bench.take_raised(), [Wire::PriQueue]);
    assert_eq!(bench.take_events().len(), 0, "a refused translation request records nothing (3.9.1)");
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.run();
    assert_eq!(bench.state(2), 1);
    bench.respond(STREAM, None, 0, SUCCESS);
    assert_eq!((bench.state(2), bench.peek(DATA + 8)), (2, 0x1122_3344_5566_7788));
    assert_eq!(bench.read(diag::RESPONDED_SUCCESS as u64), 1);
}

#[test]
fn page_request_carries_the_pasid_and_the_answer_must_too() {
    let mut bench = asking();
    bench.set_ste(STREAM, STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS | PPAR);
    fill(&mut bench, 0x5008, 8, true);
    assert_eq!(bench.take_page_requests(), [[0xe000_0001_0000_0102, 0x5000]]);
    bench.map(1, 0x5000, DATA, PAGE_RW);
    bench.respond(STREAM, None, 0, SUCCESS);
    assert_eq!(bench.state(2), 1, "no PASID: the device waits for one (PRG Response PASID Required)");
    assert_eq!(bench.read(diag::RESPONDED_NOTHING as u64), 1);
    assert_eq!(bench.engine(2, reg::PRI_STATUS), pri_status::UNEXPECTED_GROUP);
    bench.respond(STREAM, Some(1), 0, SUCCESS);
    assert_eq!(bench.state(2), 2);
}

#[test]
fn group_has_up_to_its_size_of_pages_and_last_on_the_last() {
    let mut bench = asking();
    bench.set_engine(2, reg::GROUP_SIZE, 8);
    bench.map(0, 0x1_2000, DATA + 0x2000, PAGE_RW);
    fill(&mut bench, 0x1_0000, 0xb000, false);
    let requests = bench.take_page_requests();
    let pages: Vec<u64> = requests.iter().map(|r| r[1]).collect();
    // The third page is there already; the group looks eight pages ahead.
    assert_eq!(pages, [0x1_0000, 0x1_1000, 0x1_3000, 0x1_4000, 0x1_5000, 0x1_6000, 0x1_7000]);
    let words: Vec<u64> = requests.iter().map(|r| r[0]).collect();
    assert_eq!(words[..6], [0x2000_0000_0000_0102; 6]);
    assert_eq!(words[6], 0x6000_0000_0000_0102);
    for page in 0..8 {
        bench.map(0, 0x1_0000 + page * 0x1000, DATA + page * 0x1000, PAGE_RW);
    }
    bench.respond(STREAM, None, 0, SUCCESS);
    assert_eq!(bench.take_page_requests().iter().map(|r| r[1]).collect::<Vec<_>>(), [0x1_8001, 0x1_9001, 0x1_a001]);
    for page in 8..11 {
        bench.map(0, 0x1_0000 + page * 0x1000, DATA + page * 0x1000, PAGE_RW);
    }
    bench.respond(STREAM, None, 1, SUCCESS);
    assert_eq!(bench.state(2), 2);
    assert_eq!((bench.engine(2, reg::PAGE_REQUESTS), bench.engine(2, reg::PAGE_REQUEST_GROUPS)), (10, 2));
    assert_eq!(bench.read(diag::PAGE_REQUEST_GROUPS as u64), 2);
    for word in 0..0xb000 / 8 {
        assert_eq!(bench.peek(DATA + word * 8), 0x1122_3344_5566_7788);
    }
}

#[test]
fn several_groups_are_outstanding_and_answered_in_any_order() {
    let mut bench = asking();
    bench.set_engine(2, reg::DEPTH, 3);
    fill(&mut bench, 0x1_0000, 0x3000, false);
    let requests = bench.take_page_requests();
    assert_eq!(requests.iter().map(|r| r[1]).collect::<Vec<_>>(), [0x1_0000, 0x1_1001, 0x1_2002]);
    for page in 0..3 {
        bench.map(0, 0x1_0000 + page * 0x1000, DATA + page * 0x1000, PAGE_RW);
    }
    for (group, state) in [(2, 1), (0, 1), (1, 2)] {
        bench.respond(STREAM, None, group, SUCCESS);
        assert_eq!(bench.state(2), state, "after {group}");
    }
    assert_eq!((bench.read(diag::RESPONDED_SUCCESS as u64), bench.engine(2, reg::RESPONSES_UNEXPECTED)), (3, 0));
}

#[test]
fn allocation_bounds_what_is_outstanding() {
    let mut bench = asking();
    bench.set_engine(2, reg::PRI_CONTROL, 0);
    bench.set_engine(2, reg::PRI_ALLOCATION, 5);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.set_engine(2, reg::GROUP_SIZE, 4);
    bench.set_engine(2, reg::DEPTH, 8);
    fill(&mut bench, 0x1_0000, 0x1_0000, false);
    assert_eq!(bench.take_page_requests().len(), 5);
}

#[test]
fn invalid_aborts_the_access_and_only_that() {
    let mut bench = asking();
    fill(&mut bench, 0x5008, 8, false);
    bench.respond(STREAM, None, 0, INVALID);
    assert_eq!((bench.state(2), reason(&bench)), (3, status::PAGE_INVALID));
    assert_eq!(bench.engine64(2, reg::FAULT_ADDRESS), 0x5008);
    fill(&mut bench, 0x6000, 8, false);
    assert_eq!(bench.take_page_requests().len(), 2, "the next one asks again");
}

#[test]
fn failure_stops_page_requests_until_reset() {
    let mut bench = asking();
    fill(&mut bench, 0x5008, 8, false);
    bench.respond(STREAM, None, 0, FAILURE);
    assert_eq!((bench.state(2), reason(&bench)), (3, status::PAGE_FAILURE));
    assert_eq!(bench.engine(2, reg::PRI_STATUS), pri_status::RESPONSE_FAILURE | pri_status::STOPPED);
    bench.take_page_requests();
    fill(&mut bench, 0x5008, 8, false);
    assert_eq!((bench.state(2), bench.take_page_requests().len()), (3, 0));
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    assert_eq!(bench.engine(2, reg::PRI_CONTROL), 0, "not without a reset");
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::RESET);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    fill(&mut bench, 0x5008, 8, false);
    assert_eq!((bench.state(2), bench.take_page_requests().len()), (1, 1));
}

#[test]
fn disabled_pri_is_stopped_when_its_groups_are_answered() {
    let mut bench = asking();
    fill(&mut bench, 0x5008, 8, false);
    bench.set_engine(2, reg::PRI_CONTROL, 0);
    bench.run();
    assert_eq!((bench.state(2), bench.engine(2, reg::PRI_STATUS)), (1, 0));
    bench.respond(STREAM, None, 0, INVALID);
    assert_eq!((bench.state(2), bench.engine(2, reg::PRI_STATUS)), (3, pri_status::STOPPED));
    bench.take_page_requests();
    fill(&mut bench, 0x5008, 8, false);
    assert_eq!((bench.state(2), reason(&bench)), (3, status::TRANSLATION));
    assert_eq!(bench.take_page_requests().len(), 0);
}

#[test]
fn stop_marker_is_last_without_read_or_write() {
    let mut bench = asking();
    bench.set_engine(2, reg::PASID, 1);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE | pri_control::SEND_STOP_MARKER);
    bench.run();
    let records = bench.take_page_requests();
    assert_eq!(records, [[0xc000_0001_0000_0102, 0]]);
    assert_eq!(bench.read(diag::PAGE_REQUESTS as u64), 0);
}

#[test]
fn answer_to_no_group_is_counted() {
    let mut bench = asking();
    bench.respond(STREAM, None, 3, SUCCESS);
    bench.respond(0x777, None, 0, SUCCESS);
    assert_eq!(bench.read(diag::RESPONDED_NOTHING as u64), 2);
    assert_eq!(bench.read(GERROR), 0);
}

/// Fills the PRI queue with Stop markers, which want no answer.
fn fill_queue(bench: &mut Bench) {
    for _ in 0..ENTRIES {
        bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE | pri_control::SEND_STOP_MARKER);
        bench.run();
    }
    assert_eq!(bench.read(PRIQ_PROD), ENTRIES);
}

const OVFLG: u32 = 1 << 31;

#[test]
fn overflow_answers_last_with_success_and_writes_nothing_until_acknowledged() {
    let mut bench = asking();
    fill_queue(&mut bench);
    fill(&mut bench, 0x5008, 8, false);
    assert_eq!(bench.read(PRIQ_PROD), OVFLG | ENTRIES);
    assert_eq!(bench.state(2), 1);
    let answered = bench.read(diag::AUTO_SUCCESS as u64);
    assert!(answered >= 1, "the one that overflowed is answered too (8.1)");
    // Space without an acknowledgement does not help.
    bench.write(PRIQ_CONS, 4);
    bench.run();
    assert_eq!(bench.read(PRIQ_PROD), OVFLG | ENTRIES);
    assert!(bench.read(diag::AUTO_SUCCESS as u64) > answered);
    // RD and OVACKFLG in one write (8.1.1): the device asks again and is heard.
    bench.write(PRIQ_CONS, OVFLG | ENTRIES);
    bench.run();
    assert_eq!(bench.read(PRIQ_PROD), OVFLG | (ENTRIES + 1));
    bench.map(0, 0x5000, DATA, PAGE_RW);
    let group = bench.peek(PAGE_REQUESTS + 8) & 0x1ff;
    bench.respond(STREAM, None, group, SUCCESS);
    assert_eq!(bench.state(2), 2);
}

#[test]
fn overflow_drops_requests_without_last_and_stop_markers_in_silence() {
    let mut bench = asking();
    fill_queue(&mut bench);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE | pri_control::SEND_STOP_MARKER);
    bench.run();
    assert_eq!(bench.read(diag::PAGE_REQUESTS_DROPPED as u64), 1);
    assert_eq!(bench.read(diag::AUTO_SUCCESS as u64), 0);
    assert_eq!(bench.read(PRIQ_PROD), OVFLG | ENTRIES, "it overflows all the same");
    bench.set_engine(2, reg::GROUP_SIZE, 4);
    bench.set_engine64(2, reg::DESTINATION, 0x1_0000);
    bench.set_engine64(2, reg::LENGTH, 0x4000);
    bench.set_engine(2, reg::CONTROL, 0x211);
    bench.step();
    assert_eq!(bench.read(diag::PAGE_REQUESTS_DROPPED as u64), 4);
    assert_eq!(bench.read(diag::AUTO_SUCCESS as u64), 1);
}

#[test]
fn overflow_answer_has_the_pasid_that_ppar_says() {
    for (ppar, answered) in [(PPAR, true), (0, false)] {
        let mut bench = asking();
        bench.set_ste(STREAM, STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS | ppar);
        fill_queue(&mut bench);
        fill(&mut bench, 0x5008, 8, true);
        assert!(bench.read(diag::AUTO_SUCCESS as u64) >= 1);
        // Without its PASID the device does not know the answer, and waits on.
        let waits = bench.engine(2, reg::PRI_STATUS) & pri_status::UNEXPECTED_GROUP != 0;
        assert_eq!(waits, !answered, "IDR3.PPS is 0: STE.PPAR decides (8.1)");
    }
}

#[test]
fn overflow_with_a_pasid_and_no_ste_is_a_failure() {
    // No engine gets that far without an STE, so this one talks to the SMMU itself.
    let memory = HostMemory::new(0x20_0000);
    let mut smmu = Smmu::new();
    smmu.write(STRTAB_BASE as usize, Width::Double, STREAMS);
    smmu.write(STRTAB_BASE_CFG as usize, Width::Word, 9);
    smmu.write(PRIQ_BASE as usize, Width::Double, PAGE_REQUESTS);
    smmu.write(CR0 as usize, Width::Word, 3);
    smmu.step(&memory, &mut Raised::default(), &mut [] as &mut [Engine]);
    let request = |pasid: Option<u32>| PageRequest {
        stream: StreamId(0x102),
        substream: pasid.and_then(SubstreamId::new),
        access: Access::READ,
        last: true,
        group: PrgIndex::from_low_bits(7),
        address: 0x5000,
    };
    let mut send = |pasid| {
        let response = smmu.page_request(&request(pasid), &memory, &mut Raised::default());
        response.map(|r| (r.response, r.substream, r.group.get()))
    };
    assert_eq!(send(Some(1)), None, "the queue has room for one");
    assert_eq!(send(Some(1)), Some((PageResponse::Failure, None, 7)));
    assert_eq!(send(None), Some((PageResponse::Success, None, 7)), "without PASID the STE does not matter (8.1)");
}

#[test]
fn switched_off_queue_answers_everything_with_failure() {
    let mut bench = asking();
    bench.enable(ALL_ON & !2);
    bench.set_engine(2, reg::GROUP_SIZE, 4);
    fill(&mut bench, 0x1_0000, 0x4000, false);
    assert_eq!((bench.state(2), reason(&bench)), (3, status::PAGE_FAILURE));
    assert_eq!(bench.engine(2, reg::PRI_STATUS), pri_status::RESPONSE_FAILURE | pri_status::STOPPED);
    assert_eq!(bench.read(diag::AUTO_FAILURE as u64), 1, "the first request is answered, although not Last (8.2)");
    assert_eq!(bench.read(PRIQ_PROD), 0, "no overflow");
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::SEND_STOP_MARKER);
    bench.run();
    assert_eq!(bench.read(diag::AUTO_FAILURE as u64), 1, "Stop markers are not answered");
}

#[test]
fn aborted_write_of_the_queue_fails_the_request_and_those_after_it() {
    let mut bench = asking();
    bench.enable(ALL_ON & !2);
    bench.write64(PRIQ_BASE, END | 4);
    bench.enable(ALL_ON);
    fill(&mut bench, 0x5008, 8, false);
    assert_eq!((bench.state(2), reason(&bench)), (3, status::PAGE_FAILURE));
    assert_eq!((bench.read(GERROR), bench.read(PRIQ_PROD)), (1 << 3, 0));
    // Also where it could be written now, until the error is acknowledged.
    bench.enable(ALL_ON & !2);
    bench.write64(PRIQ_BASE, PAGE_REQUESTS | 4);
    bench.enable(ALL_ON);
    for (prod, state) in [(0, 3), (1, 1)] {
        bench.set_engine(2, reg::PRI_CONTROL, pri_control::RESET);
        bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
        fill(&mut bench, 0x5008, 8, false);
        assert_eq!((bench.state(2), bench.read(PRIQ_PROD)), (state, prod));
        bench.write(GERRORN, 1 << 3);
    }
}

#[test]
fn responses_and_invalidations_are_ignored_while_the_smmu_is_off() {
    let mut bench = asking();
    fill(&mut bench, 0x5008, 8, false);
    bench.enable(ALL_ON & !1);
    bench.respond(STREAM, None, 0, INVALID);
    bench.command([0x40 | STREAM << 32, 52]);
    assert_eq!(bench.read(CMDQ_CONS), 2, "consumed");
    assert_eq!((bench.state(2), bench.engine(2, reg::INVALIDATIONS)), (1, 0));
    assert_eq!(bench.read(diag::RESPONDED_NOTHING as u64), 0);
}

#[test]
fn write_to_a_read_only_page_asks_for_it() {
    let mut bench = asking();
    bench.map(0, 0x5000, DATA, PAGE_RO);
    fill(&mut bench, 0x5000, 8, false);
    assert_eq!(bench.take_page_requests(), [[0x6000_0000_0000_0102, 0x5000]]);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.forget_translations();
    bench.respond(STREAM, None, 0, SUCCESS);
    assert_eq!(bench.state(2), 2);
}

#[test]
fn ats_and_pri_registers_of_a_stalling_engine_are_not_there() {
    let mut bench = Bench::reset();
    for offset in [reg::ATS_CONTROL, reg::PRI_CONTROL, reg::PRI_STATUS, reg::PRI_CAPACITY, reg::PRI_ALLOCATION] {
        bench.set_engine(0, offset, !0);
        assert_eq!(bench.engine(0, offset), 0, "{offset:#x}");
    }
}

#[test]
fn indices_are_used_in_turn_up_to_511() {
    let mut bench = asking();
    for turn in 0..514 {
        fill(&mut bench, 0x5008, 8, false);
        let group = turn % 512;
        assert_eq!(bench.take_page_requests(), [[0x6000_0000_0000_0102, 0x5000 | group]]);
        bench.respond(STREAM, None, group, INVALID);
        assert_eq!(bench.state(2), 3);
    }
}

#[test]
fn group_has_up_to_32_pages() {
    let mut bench = asking();
    bench.set_engine(2, reg::PRI_CONTROL, 0);
    bench.set_engine(2, reg::PRI_ALLOCATION, 1025);
    assert_eq!((bench.engine(2, reg::PRI_ALLOCATION), bench.engine(2, reg::PRI_CAPACITY)), (1024, 1024));
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.set_engine(2, reg::GROUP_SIZE, 32);
    fill(&mut bench, 0x1_0000, 0x4_0000, false);
    assert_eq!(bench.engine(2, reg::PAGE_REQUESTS), 32);
}

#[test]
fn engine_that_wants_no_pasid_back_takes_none() {
    let mut bench = asking();
    bench.set_ste(0x106, STE0_STAGE1 | CDS | 1 << 59, STE1 | S1STALLD | EATS);
    bench.set_engine(6, reg::ATS_CONTROL, ats_control::ENABLE);
    bench.set_engine(6, reg::PRI_ALLOCATION, 1);
    bench.set_engine(6, reg::PRI_CONTROL, pri_control::ENABLE);
    bench.set_engine64(6, reg::DESTINATION, 0x5000);
    bench.set_engine64(6, reg::LENGTH, 8);
    bench.set_engine(6, reg::PASID, 1);
    bench.set_engine(6, reg::CONTROL, 0x111);
    bench.run();
    assert_eq!(bench.take_page_requests(), [[0xe000_0001_0000_0106, 0x5000]]);
    bench.map(1, 0x5000, DATA, PAGE_RW);
    bench.respond(0x106, Some(1), 0, SUCCESS);
    assert_eq!((bench.state(6), bench.engine(6, reg::RESPONSES_UNEXPECTED)), (1, 1));
    bench.respond(0x106, None, 0, SUCCESS);
    assert_eq!(bench.state(6), 2);
}

#[test]
fn reset_lets_what_waits_for_a_forgotten_group_end() {
    let mut bench = asking();
    fill(&mut bench, 0x5008, 8, false);
    bench.set_engine(2, reg::PRI_CONTROL, 0);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::RESET);
    bench.run();
    assert_eq!((bench.state(2), reason(&bench)), (3, status::TRANSLATION));
    bench.respond(STREAM, None, 0, SUCCESS);
    assert_eq!(bench.engine(2, reg::RESPONSES_UNEXPECTED), 1);
}

#[test]
fn pasid_stops_when_its_groups_are_answered() {
    let mut bench = asking();
    bench.set_engine(2, reg::DEPTH, 2);
    fill(&mut bench, 0x5000, 0x8000, true);
    assert_eq!(bench.take_page_requests().len(), 2);
    bench.set_engine(2, reg::PRI_CONTROL, pri_control::ENABLE | pri_control::STOP_PASID);
    bench.run();
    assert_eq!((bench.state(2), bench.engine(2, reg::PRI_STATUS)), (5, 0), "no access is outstanding, two groups are");
    bench.respond(STREAM, Some(1), 0, SUCCESS);
    assert_eq!(bench.take_page_requests().len(), 0);
    bench.respond(STREAM, Some(1), 1, INVALID);
    assert_eq!(bench.take_page_requests(), [[0xc000_0001_0000_0102, 0]]);
    assert_eq!(bench.engine(2, reg::PRI_STATUS), pri_status::PASID_STOPPED);
    bench.set_engine(2, reg::PRI_STATUS, pri_status::PASID_STOPPED);
    assert_eq!(bench.engine(2, reg::PRI_STATUS), 0);
}

#[test]
fn pasid_that_stops_without_a_stop_marker_says_so_when_its_groups_are_answered() {
    let mut bench = asking();
    fill(&mut bench, 0x5000, 0x8000, true);
    assert_eq!(bench.take_page_requests().len(), 1);
    let stop = pri_control::ENABLE | pri_control::STOP_PASID;
    bench.set_engine(2, reg::PRI_CONTROL, stop | pri_control::NO_STOP_MARKER);
    bench.run();
    assert_eq!(bench.engine(2, reg::PRI_STATUS), 0);
    bench.respond(STREAM, Some(1), 0, SUCCESS);
    assert_eq!((bench.take_page_requests().len(), bench.engine(2, reg::PRI_STATUS)), (0, pri_status::PASID_STOPPED));
    // That is of one stop only.
    bench.set_engine(2, reg::PRI_CONTROL, stop);
    bench.run();
    assert_eq!(bench.take_page_requests(), [[0xc000_0001_0000_0102, 0]]);
}

#[test]
fn privileged_page_request_says_so_only_with_a_pasid() {
    for (pasid, word) in [(true, 0xe400_0001_0000_0102), (false, 0x6000_0000_0000_0102)] {
        let mut bench = asking();
        bench.set_engine(2, reg::ATTRIBUTES, 1);
        fill(&mut bench, 0x5000, 8, pasid);
        assert_eq!(bench.take_page_requests(), [[word, 0x5000]]);
    }
}
