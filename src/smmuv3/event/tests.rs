//! Words of event records, written by hand from 7.3.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const SSID: fn(u32) -> SubstreamId = |value| SubstreamId::new(value).unwrap();

const ORIGIN: Origin = Origin { stream: StreamId(0x1_0203), substream: None };
const PASID: fn() -> Origin = || Origin { stream: StreamId(0x10), substream: Some(SSID(5)) };
const EXECUTE: Access = Access { read: false, write: false, execute: true, privileged: false };

#[track_caller]
fn check(words: [u64; 4], event: Event) {
    assert_eq!(event.encode(), words, "encode {event:?}");
    assert_eq!(Event::decode(words), Ok(event), "decode {words:#x?}");
}

fn fault(kind: FaultKind) -> TranslationFault {
    TranslationFault {
        kind,
        stream: StreamId(0x100),
        substream: None,
        stag: None,
        access: Access::READ,
        class: FaultClass::Input,
        ipa: None,
        table_write: false,
        address: 0,
    }
}

#[test]
fn records_without_address_are_those_of_7_3() {
    // 7.3.3, 7.3.5, 7.3.11, 7.3.9: the last without SSV.
    check([0x0001_0203_0000_0002, 0, 0, 0], Event::BadStreamId { origin: ORIGIN });
    check([0x0000_0010_0000_5802, 0, 0, 0], Event::BadStreamId { origin: PASID() });
    check([0x0001_0203_0000_0004, 0, 0, 0], Event::BadSte { origin: ORIGIN });
    check([0x0000_0010_0000_5804, 0, 0, 0], Event::BadSte { origin: PASID() });
    check([0x0001_0203_0000_000a, 0, 0, 0], Event::BadCd { origin: ORIGIN });
    check([0x0000_0010_0000_580a, 0, 0, 0], Event::BadCd { origin: PASID() });
    check([0x0000_0020_ffff_f008, 0, 0, 0], Event::BadSubstreamId { stream: StreamId(0x20), substream: SSID(0xfffff) });
    // 7.3.18.
    check([0x0001_0203_0000_0021, 0xbeef, 0, 0], Event::CfgConflict { origin: ORIGIN, reason: 0xbeef });
    check([0x0000_0010_0000_5821, 0xbeef, 0, 0], Event::CfgConflict { origin: PASID(), reason: 0xbeef });
}

#[test]
fn f_stream_disabled_names_no_substream() {
    check([0x0001_0203_0000_0006, 0, 0, 0], Event::StreamDisabled { stream: StreamId(0x1_0203) });
    // Bits 31 to 8 are reserved here (7.3.7).
    assert_eq!(
        Event::decode([0x0001_0203_0000_5806, 0, 0, 0]),
        Ok(Event::StreamDisabled { stream: StreamId(0x1_0203) })
    );
}

#[test]
fn f_uut_is_that_of_7_3_2() {
    check(
        [0x0000_0010_0000_5801, 0x0000_000a_0000_1234, 0xfedc_ba98_7654_3210, 0],
        Event::Uut {
            origin: PASID(),
            reason: 0x1234,
            access: Access { privileged: true, ..Access::READ },
            address: 0xfedc_ba98_7654_3210,
        },
    );
    // InD is 0 in a write, whatever the device calls it (13.1.2).
    let access = Access { execute: true, ..Access::WRITE };
    assert_eq!(Event::Uut { origin: PASID(), reason: 0, access, address: 0 }.encode()[1], 0);
}

#[test]
fn fetch_records_are_those_of_7_3_4_7_3_10_and_7_3_20() {
    let fetch = Fetch { reason: 9, granule_protection: true, address: 0x00ab_cdef_0123_4568 };
    check([0x0001_0203_0000_0003, 0x1_0009, 0, 0x00ab_cdef_0123_4568], Event::SteFetch { origin: ORIGIN, fetch });
    check([0x0000_0010_0000_5803, 0x1_0009, 0, 0x00ab_cdef_0123_4568], Event::SteFetch { origin: PASID(), fetch });
    check([0x0000_0010_0000_5809, 0x1_0009, 0, 0x00ab_cdef_0123_4568], Event::CdFetch { origin: PASID(), fetch });
    check([0x0001_0203_0000_0025, 0x1_0009, 0, 0x00ab_cdef_0123_4568], Event::VmsFetch { origin: ORIGIN, fetch });
}

#[test]
fn f_walk_eabt_is_that_of_7_3_12() {
    // An instruction fetch, CLASS TTD, S2.
    check(
        [0x0001_0203_0000_000b, 0x0000_018c_0000_0007, 0x0000_7fff_0000_1238, 0x0000_0000_8000_1000],
        Event::WalkEabt {
            origin: ORIGIN,
            access: EXECUTE,
            class: FaultClass::TableDescriptor,
            stage2: true,
            address: 0x0000_7fff_0000_1238,
            fetch: Fetch { reason: 7, granule_protection: false, address: 0x8000_1000 },
        },
    );
}

#[test]
fn ats_records_are_those_of_7_3_6_and_7_3_8() {
    check([0x0001_0203_0000_0005, 0, 0x9000, 0], Event::BadAtsTreq { origin: ORIGIN, address: 0x9000 });
    check([0x0000_0010_0000_5805, 0, 0x9000, 0], Event::BadAtsTreq { origin: PASID(), address: 0x9000 });
    check(
        [0x0001_0203_0000_0007, 0x8_0000_0000, 0x9008, 0],
        Event::TranslForbidden { origin: ORIGIN, write: false, address: 0x9008 },
    );
    check(
        [0x0001_0203_0000_0007, 0, 0x9008, 0],
        Event::TranslForbidden { origin: ORIGIN, write: true, address: 0x9008 },
    );
}

#[test]
fn stalled_f_translation_is_that_of_7_3_13() {
    // A write, CLASS IN, Stall, STAG 0x42.
    check(
        [0x0000_0100_0000_0010, 0x0000_0200_8000_0042, 0xdead_b008, 0],
        Event::Fault(TranslationFault {
            stag: Some(Stag(0x42)),
            access: Access::WRITE,
            address: 0xdead_b008,
            ..fault(FaultKind::Translation)
        }),
    );
    // The first half of one that silicon wrote: StreamID 1, SubstreamID 2, STAG 0xb17, a read.
    check(
        [0x0000_0001_0000_2810, 0x0000_0208_8000_0b17, 0x1000, 0],
        Event::Fault(TranslationFault {
            stream: StreamId(1),
            substream: Some(SSID(2)),
            stag: Some(Stag(0xb17)),
            address: 0x1000,
            ..fault(FaultKind::Translation)
        }),
    );
}

#[test]
fn the_four_faults_have_their_fields_at_the_same_places() {
    for (number, kind) in [
        (0x10, FaultKind::Translation),
        (0x11, FaultKind::AddressSize),
        (0x12, FaultKind::Access),
        (0x13, FaultKind::Permission),
    ] {
        let fault = TranslationFault {
            stream: StreamId(0x8765_4321),
            substream: Some(SSID(0xabcde)),
            stag: Some(Stag(0x9876)),
            access: Access { privileged: true, ..EXECUTE },
            ipa: Some(0x0012_3456_789a_b000),
            address: 0xfedc_ba98_7654_3210,
            ..fault(kind)
        };
        // CLASS IN, S2, RnW, InD and PnU; Stall.
        let words = [0x8765_4321_abcd_e800, 0x0000_028e_8000_9876, 0xfedc_ba98_7654_3210, 0x0012_3456_789a_b000];
        check([words[0] | number, words[1], words[2], words[3]], Event::Fault(fault));
        // Bits 11:0 of the IPA are not told.
        let told = Event::Fault(TranslationFault { ipa: Some(0x0012_3456_789a_bfff), ..fault }).encode();
        assert_eq!(told[3], words[3]);
        // A write, CLASS TT.
        let write = TranslationFault {
            access: Access::WRITE,
            class: FaultClass::TableDescriptor,
            table_write: kind == FaultKind::Permission,
            ..fault
        };
        check([words[0] | number, 0x0000_0180_8000_9876, words[2], words[3]], Event::Fault(write));
    }
}

#[test]
fn terminated_faults_are_those_of_7_3_14_and_7_3_15() {
    check(
        [0x0000_0100_0000_0011, 0x0000_0208_0000_0000, 0x5000, 0],
        Event::Fault(TranslationFault { address: 0x5000, ..fault(FaultKind::AddressSize) }),
    );
    // At stage 2, while fetching the CD: CLASS 0, S2, an IPA.
    check(
        [0x0000_0100_0000_0012, 0x0000_0088_0000_0000, 0x5000, 0x00ff_ffff_ffff_f000],
        Event::Fault(TranslationFault {
            class: FaultClass::ContextDescriptor,
            ipa: Some(0x00ff_ffff_ffff_f000),
            address: 0x5000,
            ..fault(FaultKind::Access)
        }),
    );
}

#[test]
fn f_permission_names_the_table_access_as_7_3_16_says() {
    let at_table = TranslationFault {
        stream: StreamId(0x200),
        substream: Some(SSID(3)),
        access: Access { privileged: true, ..EXECUTE },
        class: FaultClass::TableDescriptor,
        ipa: Some(0x40_0000_5000),
        address: 0xffff_0000_0000_1234,
        ..fault(FaultKind::Permission)
    };
    // TTRnW = 1: the walk's read lacked permission.
    check(
        [0x0000_0200_0000_3813, 0x0000_118e_0000_0000, 0xffff_0000_0000_1234, 0x0000_0040_0000_5000],
        Event::Fault(at_table),
    );
    // TTRnW = 0: its write.
    check(
        [0x0000_0200_0000_3813, 0x0000_018e_0000_0000, 0xffff_0000_0000_1234, 0x0000_0040_0000_5000],
        Event::Fault(TranslationFault { table_write: true, ..at_table }),
    );
    // With another class TTRnW is unknown.
    assert_eq!(
        Event::decode([0x0000_0100_0000_0013, 0x0000_1208_0000_0000, 0, 0]),
        Ok(Event::Fault(fault(FaultKind::Permission)))
    );
}

#[test]
fn f_tlb_conflict_is_that_of_7_3_17() {
    check(
        [0x0001_0203_0000_0020, 0x0000_0080_0000_0003, 0x7123, 0x6000],
        Event::TlbConflict { origin: ORIGIN, reason: 3, access: Access::WRITE, address: 0x7123, ipa: Some(0x6000) },
    );
}

#[test]
fn e_page_request_is_that_of_7_3_19() {
    // pR is bit 103, uW bit 98, Span 8 at bit 108.
    check(
        [0x0000_0010_0000_5824, 0x0000_8084_0000_0000, 0x7000, 0],
        Event::PageRequest {
            origin: PASID(),
            unprivileged: Access::WRITE,
            privileged: Access { privileged: true, ..Access::READ },
            address: 0x7000,
            span: 8,
        },
    );
    // Each of the flags: uX, uW, uR, pX, pW, pR; the largest span.
    let nothing = Access { read: false, write: false, execute: false, privileged: false };
    let flags =
        [Access { execute: true, ..nothing }, Access { write: true, ..nothing }, Access { read: true, ..nothing }];
    for (bit, flag) in [33, 34, 35, 37, 38, 39].into_iter().zip(flags.into_iter().cycle()) {
        let kernel = Access { privileged: true, ..nothing };
        let (unprivileged, privileged) =
            if bit < 36 { (flag, kernel) } else { (nothing, Access { privileged: true, ..flag }) };
        check(
            [0x0001_0203_0000_0024, 0xff << 44 | 1 << bit, 0xffff_ffff_ffff_f000, 0],
            Event::PageRequest { origin: ORIGIN, unprivileged, privileged, address: 0xffff_ffff_ffff_f000, span: 0xff },
        );
    }
}

#[test]
fn an_unknown_record_is_an_error_and_an_implementation_defined_one_is_kept() {
    for number in [0x00, 0x0c, 0x0f, 0x14, 0x1f, 0x22, 0x23, 0x26, 0x80, 0xdf, 0xf0, 0xff] {
        assert_eq!(Event::decode([number, 0, 0, 0]), Err(EventError::Number(number as u8)));
    }
    check([0xe5, 1, 2, 3], Event::ImplementationDefined { words: [0xe5, 1, 2, 3] });
    for number in [0x0b, 0x10, 0x11, 0x12, 0x13] {
        assert_eq!(Event::decode([number, 3 << 40, 0, 0]), Err(EventError::Class(number as u8)));
    }
}

#[test]
fn reserved_bits_and_unknown_fields_are_ignored() {
    // SSV = 0: SubstreamID unknown. Stall = 0: no STAG. S2 = 0: IPA unknown. InD of a write: 0 (7.3).
    assert_eq!(
        Event::decode([0x0000_0100_abcd_e710, 0xffff_e20c_7fff_ffff & !(1 << 35), 0x5000, u64::MAX]),
        Ok(Event::Fault(TranslationFault { access: Access::WRITE, address: 0x5000, ..fault(FaultKind::Translation) }))
    );
}

#[test]
fn every_event_but_the_implementations_names_its_stream() {
    assert_eq!(Event::BadSte { origin: ORIGIN }.stream(), Some(StreamId(0x1_0203)));
    assert_eq!(Event::Fault(fault(FaultKind::Access)).stream(), Some(StreamId(0x100)));
    assert_eq!(Event::ImplementationDefined { words: [0xe0, 0, 0, 0] }.stream(), None);
}

#[test]
fn each_number_has_its_name_in_7_3() {
    for (number, name) in [
        (0x01, "F_UUT"),
        (0x02, "C_BAD_STREAMID"),
        (0x03, "F_STE_FETCH"),
        (0x04, "C_BAD_STE"),
        (0x05, "F_BAD_ATS_TREQ"),
        (0x06, "F_STREAM_DISABLED"),
        (0x07, "F_TRANSL_FORBIDDEN"),
        (0x08, "C_BAD_SUBSTREAMID"),
        (0x09, "F_CD_FETCH"),
        (0x0a, "C_BAD_CD"),
        (0x0b, "F_WALK_EABT"),
        (0x10, "F_TRANSLATION"),
        (0x11, "F_ADDR_SIZE"),
        (0x12, "F_ACCESS"),
        (0x13, "F_PERMISSION"),
        (0x20, "F_TLB_CONFLICT"),
        (0x21, "F_CFG_CONFLICT"),
        (0x24, "E_PAGE_REQUEST"),
        (0x25, "F_VMS_FETCH"),
        (0xe0, "IMPDEF_EVENT"),
        (0xef, "IMPDEF_EVENT"),
    ] {
        assert_eq!(Event::decode([number, 0, 0, 0]).unwrap().name(), name);
    }
}

/// What an answer takes of a stall.
fn parts(stall: Stall) -> (StreamId, Option<SubstreamId>, Stag, Access, u64) {
    (stall.stream(), stall.substream(), stall.stag(), stall.access(), stall.address())
}

#[test]
fn a_stalled_read_has_its_stream_substream_tag_and_address() {
    assert_eq!(
        Stall::decode([0x0000_0100_0000_2810, 0x0000_0208_8000_1234, 0x4000_5678]).map(parts),
        Some((StreamId(0x100), SubstreamId::new(2), Stag(0x1234), Access::READ, 0x4000_5678))
    );
    // Terminated, and other events.
    for words in [
        [0x0000_0100_0000_2810, 0x0000_0208_0000_1234, 0x4000_5678],
        [0x0000_0100_0000_280f, 0x0000_0208_8000_1234, 0x4000_5678],
        [0x0000_0100_0000_2814, 0x0000_0208_8000_1234, 0x4000_5678],
        [0x0000_0100_0000_2890, 0x0000_0208_8000_1234, 0x4000_5678],
    ] {
        assert!(Stall::decode(words).is_none(), "{words:x?}");
    }
}

#[test]
fn a_stall_waits_for_its_answer_with_a_reserved_class_too() {
    let words = [0x0000_0100_0000_2810, 0x0000_0308_8000_1234, 0x4000_5678];
    assert_eq!(Stall::decode(words).map(|stall| stall.stag()), Some(Stag(0x1234)));
}

#[test]
fn stalls_of_one_stream_and_substream_are_gathered_while_there_is_room() {
    let words = |first: u64, tag: u64| [first, 0x0000_0208_8000_0000 | tag, 0x1000 * tag];
    let mut stalls = StallBuffer::<3>::new();
    assert!(!stalls.push(words(0x0000_0100_0000_2810, 1)), "the first");
    // F_UUT, C_BAD_STREAMID and F_STE_FETCH of StreamID 0, with a reserved bit where others have Stall.
    for number in [1, 2, 3] {
        assert!(!stalls.push([number, 1 << 31, 0]), "event {number}");
    }
    stalls.begin(Stall::decode(words(0x0000_0100_0000_2810, 1)).unwrap());
    assert!(stalls.push(words(0x0000_0100_0000_2813, 2)));
    assert!(!stalls.push(words(0x0000_0100_0000_3810, 9)), "another SubstreamID");
    assert!(!stalls.push(words(0x0000_0100_0000_2010, 9)), "none");
    assert!(!stalls.push(words(0x0000_0101_0000_2810, 9)), "another StreamID");
    assert!(!stalls.push(words(0x0000_0100_0000_2814, 9)), "another event");
    assert!(!stalls.push([0x0000_0100_0000_2810, 0x0000_0208_0000_0009, 0x9000]), "terminated");
    assert!(stalls.push(words(0x0000_0100_0000_2810, 3)));
    assert!(!stalls.push(words(0x0000_0100_0000_2810, 9)), "no room");
    let access = Access::READ;
    let of = |tag| (StreamId(0x100), SubstreamId::new(2), Stag(tag), access, 0x1000 * u64::from(tag));
    assert_eq!(stalls.run().iter().map(parts).collect::<Vec<_>>(), [of(1), of(2), of(3)]);
    let firsts = [stalls.run(), stalls.run().behind(1), stalls.run().behind(3)].map(|run| run.first().map(parts));
    assert_eq!(firsts, [Some(of(1)), Some(of(2)), None]);
    assert_eq!(
        [2, 4].map(|count| (stalls.run().up_to(count).len(), stalls.run().behind(count).len())),
        [(2, 1), (3, 0)]
    );
    assert_eq!([1, 2, 9].map(|tag| stalls.run().count_while(|stall| stall.stag() != Stag(tag))), [0, 1, 3]);
    stalls.begin(Stall::decode(words(0x0000_0101_0000_2811, 4)).unwrap());
    assert_eq!(
        stalls.run().iter().map(|stall| (stall.stream(), stall.stag())).collect::<Vec<_>>(),
        [(StreamId(0x101), Stag(4))]
    );
}

#[test]
fn the_access_of_a_stall_is_in_the_sets_that_include_it() {
    // RnW in bit 35, InD in 34, PnU in 33 (7.3.13): an unprivileged write, read, and fetch; the same, privileged; writes with InD.
    let words = [0x0_u64, 0x8, 0xc, 0x2, 0xa, 0xe, 0x4, 0x6].map(|access| access << 32);
    let stalls = words.map(|access| Stall::decode([0x10, access | 1 << 31, 0]).unwrap());
    let included = |set: AccessSet| stalls.map(|stall| stall.is_one_of(set));
    assert_eq!(included(AccessSet::of(|access| access.write)), [true, false, false, true, false, false, true, true]);
    assert_eq!(included(AccessSet::of(|access| access.read)), [false, true, false, false, true, false, false, false]);
    assert_eq!(
        included(AccessSet::of(|access| access.execute)),
        [false, false, true, false, false, true, false, false]
    );
    assert_eq!(
        included(AccessSet::of(|access| access.privileged)),
        [false, false, false, true, true, true, false, true]
    );
}

proptest! {
    #[test]
    fn a_record_is_a_stall_where_the_event_has_a_tag(
        first: u64, number in prop_oneof![0x0f_u64..=0x14, any::<u64>()], second: u64, address: u64, fourth: u64,
    ) {
        let words = [first & !0xff | number & 0xff, second, address, fourth];
        let expected = match Event::decode(words) {
            Ok(Event::Fault(TranslationFault { stream, substream, stag: Some(stag), access, address, .. })) => {
                Some((stream, substream, stag, access, address))
            }
            Err(EventError::Class(_)) => return Ok(()),
            _ => None,
        };
        prop_assert_eq!(Stall::decode([words[0], words[1], words[2]]).map(parts), expected);
    }
}

/// Each line holds the words' fields by hand, with the names of 7.3.
#[test]
fn a_record_is_shown_with_each_of_its_fields_by_name() {
    #[track_caller]
    fn check(words: [u64; 4], line: &str) {
        assert_eq!(std::format!("{}", Event::decode(words).unwrap()), line);
    }
    let fetch = 0x00ab_cdef_0123_4568;
    check(
        [0x0000_0010_0000_5801, 0x0000_000a_0000_1234, 0xfedc_ba98_7654_3210, 0],
        "F_UUT, unsupported upstream transaction: StreamID=0x10 SSV=1 SubstreamID=0x5 Reason=0x1234 PnU=1 InD=0 RnW=1 \
         InputAddr=0xfedcba9876543210",
    );
    check([0x0001_0203_0000_0002, 0, 0, 0], "C_BAD_STREAMID, StreamID out of range: StreamID=0x10203 SSV=0");
    check(
        [0x0001_0203_0000_0003, 0x1_0009, 0, fetch],
        "F_STE_FETCH, fetch of the STE aborted: StreamID=0x10203 SSV=0 Reason=0x9 GPCF=1 FetchAddr=0xabcdef01234568",
    );
    check([0x0000_0010_0000_5804, 0, 0, 0], "C_BAD_STE, the STE is invalid: StreamID=0x10 SSV=1 SubstreamID=0x5");
    check(
        [0x0001_0203_0000_0005, 0, 0x9000, 0],
        "F_BAD_ATS_TREQ, ATS translation request disallowed: StreamID=0x10203 SSV=0 InputAddr=0x9000",
    );
    check(
        [0x0001_0203_0000_0006, 0, 0, 0],
        "F_STREAM_DISABLED, transactions without a substream disabled: StreamID=0x10203",
    );
    check(
        [0x0001_0203_0000_0007, 0x8_0000_0000, 0x9008, 0],
        "F_TRANSL_FORBIDDEN, translated transaction disallowed: StreamID=0x10203 SSV=0 RnW=1 InputAddr=0x9008",
    );
    check(
        [0x0001_0203_0000_0007, 0, 0x9008, 0],
        "F_TRANSL_FORBIDDEN, translated transaction disallowed: StreamID=0x10203 SSV=0 RnW=0 InputAddr=0x9008",
    );
    check(
        [0x0000_0020_ffff_f008, 0, 0, 0],
        "C_BAD_SUBSTREAMID, SubstreamID disallowed or out of range: StreamID=0x20 SubstreamID=0xfffff",
    );
    check(
        [0x0000_0010_0000_5809, 0x0_0009, 0, 0x1000],
        "F_CD_FETCH, fetch of the CD aborted: StreamID=0x10 SSV=1 SubstreamID=0x5 Reason=0x9 GPCF=0 FetchAddr=0x1000",
    );
    check([0x0001_0203_0000_000a, 0, 0, 0], "C_BAD_CD, the CD is invalid: StreamID=0x10203 SSV=0");
    // An instruction fetch, CLASS 1, S2.
    check(
        [0x0001_0203_0000_000b, 0x0000_018c_0000_0007, 0x0000_7fff_0000_1238, 0x0000_0000_8000_1000],
        "F_WALK_EABT, translation table walk aborted: StreamID=0x10203 SSV=0 PnU=0 InD=1 RnW=1 S2=1 CLASS=TTD \
         InputAddr=0x7fff00001238 Reason=0x7 GPCF=0 FetchAddr=0x80001000",
    );
    // A write, CLASS 2, Stall, STAG 0x42.
    check(
        [0x0000_0100_0000_0010, 0x0000_0200_8000_0042, 0xdead_b008, 0],
        "F_TRANSLATION, translation fault: StreamID=0x100 SSV=0 Stall=1 STAG=0x42 PnU=0 InD=0 RnW=0 S2=0 CLASS=IN \
         InputAddr=0xdeadb008",
    );
    // The same fields with S2, CLASS 0 and an IPA, and no stall.
    check(
        [0x0000_0100_0000_0011, 0x0000_008a_0000_0000, 0xdead_b008, 0x4000_5000],
        "F_ADDR_SIZE, address size fault: StreamID=0x100 SSV=0 Stall=0 PnU=1 InD=0 RnW=1 S2=1 CLASS=CD \
         InputAddr=0xdeadb008 IPA=0x40005000",
    );
    check(
        [0x0000_0100_0000_0012, 0x0000_0208_0000_0000, 0x1000, 0],
        "F_ACCESS, Access flag fault: StreamID=0x100 SSV=0 Stall=0 PnU=0 InD=0 RnW=1 S2=0 CLASS=IN InputAddr=0x1000",
    );
    // CLASS 1 at stage 2: TTRnW says that it was a read, and then a write, of the table.
    check(
        [0x0000_0100_0000_0013, 0x0000_1188_0000_0000, 0x1000, 0x7000],
        "F_PERMISSION, permission fault: StreamID=0x100 SSV=0 Stall=0 PnU=0 InD=0 RnW=1 S2=1 CLASS=TTD TTRnW=1 \
         InputAddr=0x1000 IPA=0x7000",
    );
    check(
        [0x0000_0100_0000_0013, 0x0000_0188_0000_0000, 0x1000, 0x7000],
        "F_PERMISSION, permission fault: StreamID=0x100 SSV=0 Stall=0 PnU=0 InD=0 RnW=1 S2=1 CLASS=TTD TTRnW=0 \
         InputAddr=0x1000 IPA=0x7000",
    );
    check(
        [0x0001_0203_0000_0020, 0x0000_0080_0000_0003, 0x1000, 0x7000],
        "F_TLB_CONFLICT, TLB conflict: StreamID=0x10203 SSV=0 Reason=0x3 PnU=0 InD=0 RnW=0 S2=1 InputAddr=0x1000 \
         IPA=0x7000",
    );
    check(
        [0x0001_0203_0000_0021, 0xbeef, 0, 0],
        "F_CFG_CONFLICT, configuration cache conflict: StreamID=0x10203 SSV=0 Reason=0xbeef",
    );
    // uW, pR and pX; Span 3.
    check(
        [0x0001_0203_0000_0024, 0x0000_30a4_0000_0000, 0x5000, 0],
        "E_PAGE_REQUEST, speculative page request hint: StreamID=0x10203 SSV=0 uR=0 uW=1 uX=0 pR=1 pW=0 pX=1 Span=3 \
         InputAddr=0x5000",
    );
    check(
        [0x0001_0203_0000_0025, 0x0_0009, 0, 0x1000],
        "F_VMS_FETCH, fetch of the VMS aborted: StreamID=0x10203 SSV=0 Reason=0x9 GPCF=0 FetchAddr=0x1000",
    );
    check(
        [0xe3, 1, 2, 3],
        "IMPDEF_EVENT, defined by the implementation: 0x00000000000000e3 0x0000000000000001 0x0000000000000002 \
         0x0000000000000003",
    );
}
