//! The PRI queue, its overflow, and the responses that the SMMU gives by itself: 8.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::GroupResponse;
use crate::model::engine::registers::{self as reg, ats_control, pri_control};
use crate::model::profile::Profile;
use crate::smmuv3::features::IdRegisters;
use crate::smmuv3::{Access, PageResponse, PrgIndex, StreamId};

const OVFLG: u32 = 1 << 31;
/// Neither read nor write: with Last and a PASID, a Stop marker.
const NEITHER: Access = Access { read: false, write: false, execute: false, privileged: false };

/// What the SMMU answers by itself to group `group` of the stream, without PASID.
fn answer(response: PageResponse, group: u64) -> Option<GroupResponse> {
    let stream = StreamId(STREAM as u32);
    Some(GroupResponse { stream, substream: None, group: PrgIndex::from_low_bits(group), response })
}

fn success(group: u64) -> Option<GroupResponse> {
    answer(PageResponse::Success, group)
}

fn failure(group: u64) -> Option<GroupResponse> {
    answer(PageResponse::Failure, group)
}

/// An SMMU whose PRI queue is full of requests without Last of group 0.
fn full() -> Direct {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for _ in 0..ENTRIES {
        assert_eq!(direct.page_request(STREAM, None, READ, false, 0), None);
    }
    direct
}

#[test]
fn record_tells_what_the_device_asks_for() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    let both = Access { read: true, ..WRITE };
    let fetch = Access { read: true, ..privileged(FETCH) };
    for (pasid, access, word0) in [
        // R is bit 60, W bit 61.
        (None, READ, 0x1000_0000_0000_0100),
        (None, WRITE, 0x2000_0000_0000_0100),
        (None, both, 0x3000_0000_0000_0100),
        // Without a PASID neither Priv nor X (8).
        (None, privileged(READ), 0x1000_0000_0000_0100),
        (None, fetch, 0x1000_0000_0000_0100),
        // With SSV and the PASID: Priv is bit 58, X bit 59.
        (Some(5), READ, 0x9000_0005_0000_0100),
        (Some(5), privileged(READ), 0x9400_0005_0000_0100),
        (Some(5), fetch, 0x9c00_0005_0000_0100),
    ] {
        direct.page_request(STREAM, pasid, access, false, 3);
        assert_eq!(direct.take_page_requests(), [[word0, 0x5003]], "{access:?}");
    }
}

#[test]
fn last_without_pasid_is_a_request_though_it_neither_reads_nor_writes() {
    let mut direct = full();
    assert_eq!(direct.page_request(STREAM, None, NEITHER, true, 7), success(7));
    assert_eq!(direct.page_request(STREAM, Some(1), NEITHER, true, 7), None, "with a PASID a Stop marker");
}

#[test]
fn requests_of_several_groups_and_pasids_lie_as_they_came() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for (pasid, last, group) in
        [(None, false, 1), (None, false, 2), (None, true, 1), (Some(1), false, 3), (Some(2), true, 3), (None, true, 2)]
    {
        assert_eq!(direct.page_request(STREAM, pasid, READ, last, group), None);
    }
    let records = direct.take_page_requests();
    assert_eq!(records.iter().map(|record| record[1] & 0x1ff).collect::<Vec<_>>(), [1, 2, 1, 3, 3, 2]);
    // SSV, Last and the PASID.
    let tags: Vec<u64> = records.iter().map(|record| record[0] >> 32 & 0xc000_0007).collect();
    assert_eq!(tags, [0, 0, 0x4000_0000, 0x8000_0001, 0xc000_0002, 0x4000_0000]);
}

#[test]
fn request_is_written_whatever_the_ste_and_the_checks_of_ats() {
    for (cr0, word0, word1) in [
        (ALL_ON, 0, 0),
        (ALL_ON, 1, 0),
        (ALL_ON | 1 << 4, 1, 0),
        (ALL_ON | 1 << 4, STE0_STAGE1 | CDS, STE1),
        (ALL_ON, STE0_STAGE1 | CDS, STE1 | EATS),
    ] {
        let mut direct = Direct::enabled(cr0, 0);
        direct.set_ste(word0, word1, 0);
        assert_eq!(direct.page_request(STREAM, Some(1), READ, true, 7), None);
        // A StreamID beyond the table of 512.
        assert_eq!(direct.page_request(0x1234, None, READ, true, 7), None);
        let records = direct.take_page_requests();
        assert_eq!(records, [[0xd000_0001_0000_0100, 0x5007], [0x5000_0000_0000_1234, 0x5007]]);
        assert_eq!(direct.take_events().len(), 0);
    }
}

#[test]
fn largest_queue_is_that_of_idr1() {
    let mut direct = Direct::enabled(ALL_ON & !2, 0);
    assert_eq!(direct.read(0x04) >> 11 & 0x1f, 10, "IDR1.PRIQS");
    // LOG2SIZE 12 counts as 10.
    direct.write64(PRIQ_BASE, PAGE_REQUESTS | 12);
    direct.enable(ALL_ON);
    for _ in 0..1024 {
        assert_eq!(direct.page_request(STREAM, None, READ, true, 7), None);
    }
    assert_eq!(direct.read(PRIQ_PROD), 0x400, "the wrap bit");
    assert_eq!(direct.peek(PAGE_REQUESTS + 1023 * 16 + 8), 0x5007);
    assert_eq!(direct.page_request(STREAM, None, READ, true, 7), success(7));
}

#[test]
fn full_queue_overflows_with_the_next_message_and_each_overflow_toggles() {
    let mut direct = full();
    assert_eq!(direct.read(PRIQ_PROD), ENTRIES, "full is not yet an overflow");
    direct.page_request(STREAM, None, READ, true, 7);
    assert_eq!(direct.read(PRIQ_PROD), OVFLG | ENTRIES);
    // Acknowledged, with CONS where it is: the next one overflows again.
    direct.write(PRIQ_CONS, OVFLG);
    assert_eq!(direct.page_request(STREAM, None, READ, true, 8), success(8));
    assert_eq!(direct.read(PRIQ_PROD), ENTRIES);
}

#[test]
fn overflow_with_a_pasid_needs_an_ste_that_can_be_read() {
    // RECINVSID is set: no record all the same (8.1).
    let mut direct = full();
    let response = direct.page_request(0x200, Some(1), READ, true, 0x1ff);
    assert_eq!(response, failure(0x1ff).map(|answer| GroupResponse { stream: StreamId(0x200), ..answer }));
    // An STE that is not valid, one that is ILLEGAL (more CDs than IDR1.SSIDSIZE = 8 permits), both with PPAR, and one that
    // aborts.
    direct.set_ste(0, PPAR, 0);
    assert_eq!(direct.page_request(STREAM, Some(1), READ, true, 7), failure(7));
    direct.set_ste(STE0_STAGE1 | CDS | 9 << 59, STE1 | PPAR, 0);
    direct.invalidate();
    assert_eq!(direct.page_request(STREAM, Some(1), READ, true, 7), failure(7));
    direct.set_ste(1, PPAR, 0);
    direct.invalidate();
    let response = direct.page_request(STREAM, Some(1), READ, true, 7).unwrap();
    assert_eq!((response.response, response.substream.map(|pasid| pasid.get())), (PageResponse::Success, Some(1)));
    // A table without memory behind it.
    direct.enable(ALL_ON & !1);
    direct.write64(STRTAB_BASE, END);
    direct.enable(ALL_ON);
    direct.invalidate();
    assert_eq!(direct.page_request(STREAM, Some(1), READ, true, 7), failure(7));
    assert_eq!(direct.take_events().len(), 0);
}

#[test]
fn overflow_with_a_pasid_records_why_there_is_no_ste_where_the_switches_say_so() {
    // IDR0.ATSRECERR beside what the full profile has; RECINVSID and REC_CFG_ATS of CR2 (8.1).
    let full = Profile::Full.id_registers();
    for (cr2, bad_stream, others) in [(0, 0, 0), (2, 0, 0), (8, 0, 1), (10, 1, 1)] {
        let mut direct = Direct::with_ids(IdRegisters { idr0: full.idr0 | 1 << 23, ..full });
        direct.enable(ALL_ON & !1);
        direct.write(CR2, cr2);
        // C_BAD_STREAMID: 256 STEs; C_BAD_STE; F_STE_FETCH.
        for (base, log2, words, times) in [
            (STREAMS, 8, [STREAM << 32 | 0x1802, 0, 0, 0], bad_stream),
            (STREAMS, 9, [STREAM << 32 | 0x1804, 0, 0, 0], others),
            (END, 9, [STREAM << 32 | 0x1803, 0, 0, END + 0x4000], others),
        ] {
            direct.enable(ALL_ON & !1);
            direct.write64(STRTAB_BASE, base);
            direct.write(STRTAB_BASE_CFG, log2);
            direct.enable(ALL_ON);
            direct.invalidate();
            direct.write(PRIQ_CONS, direct.read(PRIQ_PROD) ^ ENTRIES);
            assert_eq!(direct.page_request(STREAM, Some(1), READ, true, 7), failure(7));
            assert_eq!(direct.take_events(), std::vec![words; times], "{cr2:x} {log2}");
        }
    }
}

#[test]
fn answer_of_an_overflow_reaches_the_device_that_asked_alone() {
    // Engines 2 and 3 ask by group 0 each; the second one finds a queue that is full.
    let mut bench = Bench::enabled();
    bench.set_cd(0, CD_A, 0);
    for engine in [2, 3] {
        bench.set_ste(0x100 + engine as u64, STE0_STAGE1 | CDS, STE1 | S1STALLD | EATS);
        bench.set_engine(engine, reg::ATS_CONTROL, ats_control::ENABLE);
        bench.set_engine(engine, reg::PRI_ALLOCATION, 1);
        bench.set_engine(engine, reg::PRI_CONTROL, pri_control::ENABLE);
    }
    bench.write_word(2, 0x5000);
    for _ in 1..ENTRIES {
        bench.set_engine(3, reg::PRI_CONTROL, pri_control::ENABLE | pri_control::SEND_STOP_MARKER);
        bench.run();
    }
    bench.write_word(3, 0x5000);
    assert!(bench.engine(3, reg::RESPONSES_SUCCESS) > 0);
    let answers = [reg::RESPONSES_SUCCESS, reg::RESPONSES_FAILURE, reg::RESPONSES_UNEXPECTED];
    assert_eq!((answers.map(|counter| bench.engine(2, counter)), bench.state(2)), ([0; 3], 1));
}

#[test]
fn overflow_ends_with_rd_and_ovackflg_in_one_write() {
    // 15 requests of group 0, and the first of two of group 7, whose Last finds no room.
    let mut direct = Direct::enabled(ALL_ON, 0);
    for _ in 1..ENTRIES {
        direct.page_request(STREAM, None, READ, false, 0);
    }
    direct.page_request(STREAM, None, WRITE, false, 7);
    assert_eq!(direct.page_request(STREAM, None, WRITE, true, 7), success(7));
    let old = [0x2000_0000_0000_0100, 0x5007];
    let last_entry = |direct: &Direct| [0, 8].map(|word| direct.peek(PAGE_REQUESTS + 15 * 16 + word));
    assert_eq!((direct.read(PRIQ_PROD), last_entry(&direct)), (OVFLG | 16, old), "answered, it stays in the queue");
    direct.write(PRIQ_CONS, OVFLG | 15);
    assert_eq!(direct.page_request(STREAM, None, READ, true, 8), None);
    assert_eq!(direct.take_page_requests(), [old, [0x5000_0000_0000_0100, 0x5008]]);
}

#[test]
fn index_of_an_answered_group_comes_again_while_its_requests_lie_in_the_queue() {
    let mut direct = full();
    assert_eq!(direct.page_request(STREAM, None, READ, true, 0), success(0), "the Last of group 0");
    // Two entries read, and the overflow acknowledged.
    direct.write(PRIQ_CONS, OVFLG | 2);
    assert_eq!(direct.page_request(STREAM, None, WRITE, true, 0), None);
    assert_eq!(direct.read(PRIQ_PROD), OVFLG | (ENTRIES + 1));
    assert_eq!((direct.peek(PAGE_REQUESTS), direct.peek(PAGE_REQUESTS + 8)), (0x6000_0000_0000_0100, 0x5000));
    assert_eq!(direct.peek(PAGE_REQUESTS + 2 * 16), 0x1000_0000_0000_0100, "one of the old group");
}

/// An SMMU with PRIQ_ABT_ERR active, and its queue in memory by now.
fn aborted() -> Direct {
    let mut direct = Direct::enabled(ALL_ON & !2, 0);
    direct.write64(PRIQ_BASE, END | 4);
    direct.enable(ALL_ON);
    assert_eq!(direct.page_request(STREAM, Some(1), READ, false, 7), failure(7));
    assert_eq!(direct.read(GERROR), 1 << 3);
    direct.enable(ALL_ON & !2);
    direct.write64(PRIQ_BASE, PAGE_REQUESTS | 4);
    direct.enable(ALL_ON);
    direct
}

#[test]
fn stop_marker_whose_write_aborts_is_not_answered() {
    let mut direct = Direct::enabled(ALL_ON & !2, 0);
    direct.write64(PRIQ_BASE, END | 4);
    direct.enable(ALL_ON);
    assert_eq!(direct.page_request(STREAM, Some(1), NEITHER, true, 0), None);
    assert_eq!((direct.read(GERROR), direct.read(PRIQ_PROD)), (1 << 3, 0));
    assert_eq!(direct.page_request(STREAM, Some(1), NEITHER, true, 0), None, "nor is the next one");
}

#[test]
fn everything_fails_without_a_pasid_until_the_abort_is_acknowledged() {
    let mut direct = aborted();
    // The queue is full, which is no overflow now (8.1, 8.2), and then empty.
    for prod in [ENTRIES, 0] {
        direct.enable(ALL_ON & !2);
        direct.write(PRIQ_PROD, prod);
        direct.enable(ALL_ON);
        for (pasid, last) in [(None, true), (None, false), (Some(1), true), (Some(1), false)] {
            assert_eq!(direct.page_request(STREAM, pasid, READ, last, 7), failure(7));
        }
        assert_eq!((direct.read(PRIQ_PROD), direct.peek(PAGE_REQUESTS)), (prod, 0));
    }
    direct.write(GERRORN, 1 << 3);
    assert_eq!(direct.page_request(STREAM, None, READ, true, 7), None);
    assert_eq!(direct.take_page_requests(), [[0x5000_0000_0000_0100, 0x5007]]);
}

#[test]
fn abort_comes_before_an_overflow() {
    let mut direct = aborted();
    // OVACKFLG unlike OVFLG is an active overflow.
    direct.write(PRIQ_CONS, OVFLG);
    assert_eq!(direct.page_request(STREAM, None, READ, true, 7), failure(7));
    assert_eq!(direct.page_request(STREAM, None, READ, false, 7), failure(7));
    direct.write(GERRORN, 1 << 3);
    assert_eq!(direct.page_request(STREAM, None, READ, true, 7), success(7));
}

#[test]
fn switched_off_queue_fails_everything_and_does_not_overflow() {
    // PRIQEN = 0, and SMMUEN = 0 with PRIQEN = 1 and 0 (8.2).
    for cr0 in [ALL_ON & !2, ALL_ON & !1, ALL_ON & !3] {
        let mut direct = full();
        direct.set_ste(1, PPAR, 0);
        direct.enable(cr0);
        for (pasid, last) in [(None, true), (None, false), (Some(1), true), (Some(1), false)] {
            assert_eq!(direct.page_request(STREAM, pasid, READ, last, 7), failure(7));
        }
        assert_eq!(direct.page_request(STREAM, Some(1), NEITHER, true, 0), None);
        assert_eq!(direct.read(PRIQ_PROD), ENTRIES, "full, and no overflow");
        // With space, nothing is written either.
        direct.write(PRIQ_CONS, ENTRIES);
        assert_eq!(direct.page_request(STREAM, None, READ, true, 7), failure(7));
        assert_eq!(direct.read(PRIQ_PROD), ENTRIES);
    }
}
