//! Words of commands, written by hand from chapter 4.

use super::*;
use crate::smmuv3::features::test_features;

const SSID: fn(u32) -> SubstreamId = |value| SubstreamId::new(value).unwrap();
const GROUP: fn(u16) -> PrgIndex = |value| PrgIndex::new(value).unwrap();

#[track_caller]
fn check(words: [u64; 2], command: Command) {
    assert_eq!(command.encode(), words, "encode {command:?}");
    assert_eq!(Command::decode(words), Ok(command), "decode {words:#x?}");
}

#[test]
fn prefetch_words_are_those_of_4_2() {
    check(
        [0x0102_0304_abcd_e801, 0],
        Command::PrefetchConfig { stream: StreamId(0x0102_0304), substream: Some(SSID(0xabcde)) },
    );
    check([0x0102_0304_0000_0001, 0], Command::PrefetchConfig { stream: StreamId(0x0102_0304), substream: None });
    check(
        [0x0000_0005_0000_0002, 0x0000_1234_5678_9000],
        Command::PrefetchAddress { stream: StreamId(5), substream: None, address: 0x1234_5678_9000 },
    );
}

#[test]
fn configuration_invalidation_words_are_those_of_4_3() {
    check([0x0000_0100_0000_0003, 1], Command::CfgiSte { stream: StreamId(0x100), leaf: true });
    check([0xffff_ffff_0000_0003, 0], Command::CfgiSte { stream: StreamId(u32::MAX), leaf: false });
    check([0x0000_0040_0000_0004, 5], Command::CfgiSteRange { stream: StreamId(0x40), range: 5 });
    check([0x0000_0000_0000_0004, 31], Command::CfgiAll);
    check([0x0000_0101_0000_7005, 1], Command::CfgiCd { stream: StreamId(0x101), substream: SSID(7), leaf: true });
    check([0x0000_0101_0000_0006, 0], Command::CfgiCdAll { stream: StreamId(0x101) });
}

#[test]
fn cfgi_all_ignores_its_stream_id_as_4_3_6_says() {
    assert_eq!(Command::decode([0x1234_5678_0000_0004, 31]), Ok(Command::CfgiAll));
}

#[test]
fn stage_1_tlb_invalidation_words_are_those_of_4_4_2() {
    check([0x0000_1234_0000_0010, 0], Command::TlbiNhAll { vmid: Vmid(0x1234) });
    check([0xbeef_0001_0000_0011, 0], Command::TlbiNhAsid { vmid: Vmid(1), asid: Asid(0xbeef) });
    check(
        [0x0003_0002_0000_0012, 0xffff_8000_1234_5001],
        Command::TlbiNhVa { vmid: Vmid(2), asid: Asid(3), range: TlbiRange::single(0xffff_8000_1234_5000, true) },
    );
    check(
        [0x0000_0009_0000_0013, 0x6000],
        Command::TlbiNhVaa { vmid: Vmid(9), range: TlbiRange::single(0x6000, false) },
    );
    check([0x0000_0000_0000_0020, 0], Command::TlbiEl2All);
    check([0x0055_0000_0000_0021, 0], Command::TlbiEl2Asid { asid: Asid(0x55) });
    check(
        [0x0055_0000_0000_0022, 0x7000],
        Command::TlbiEl2Va { asid: Asid(0x55), range: TlbiRange::single(0x7000, false) },
    );
    check([0x0000_0000_0000_0023, 0x7001], Command::TlbiEl2Vaa { range: TlbiRange::single(0x7000, true) });
}

#[test]
fn ranges_and_granules_are_coded_as_4_4_1_1_says() {
    // TG 1 is 4 KiB, TTL 3, NUM 31, SCALE 2.
    let span = TlbiSpan { granule: Granule::Size4K, ttl: 3, num: 31, scale: 2 };
    check(
        [0x0003_0002_0021_f012, 0x4000_0700],
        Command::TlbiNhVa {
            vmid: Vmid(2),
            asid: Asid(3),
            range: TlbiRange { address: 0x4000_0000, leaf: false, span: Some(span) },
        },
    );
    assert_eq!(span.bytes(), 32 * 4 * 4096);
    // TG 3 is 64 KiB: one granule at level 2.
    let span = TlbiSpan { granule: Granule::Size64K, ttl: 2, num: 0, scale: 0 };
    check(
        [0x0000_0009_0000_0013, 0x2000_0e01],
        Command::TlbiNhVaa { vmid: Vmid(9), range: TlbiRange { address: 0x2000_0000, leaf: true, span: Some(span) } },
    );
    assert_eq!(span.bytes(), 65536);
    // TG 2 is 16 KiB, SCALE 31 the largest.
    let span = TlbiSpan { granule: Granule::Size16K, ttl: 0, num: 0, scale: 31 };
    check(
        [0x0000_0077_01f0_002a, 0x000f_ffff_ffff_c800],
        Command::TlbiS2Ipa {
            vmid: Vmid(0x77),
            range: TlbiRange { address: 0x000f_ffff_ffff_c000, leaf: false, span: Some(span) },
        },
    );
    assert_eq!(span.bytes(), 1 << 45);
}

#[test]
fn stage_2_tlb_invalidation_words_are_those_of_4_4_3_and_4_4_4() {
    check([0x0000_0077_0000_0028, 0], Command::TlbiS12VmAll { vmid: Vmid(0x77) });
    check(
        [0x0000_0077_0000_002a, 0x000f_ffff_ffff_f001],
        Command::TlbiS2Ipa { vmid: Vmid(0x77), range: TlbiRange::single(0x000f_ffff_ffff_f000, true) },
    );
    check([0x0000_0000_0000_0030, 0], Command::TlbiNsnhAll);
}

#[test]
fn atc_inv_words_are_those_of_4_5_1() {
    check(
        [0x0000_0102_0000_1a40, 0x8003],
        Command::AtcInv { stream: StreamId(0x102), substream: Some(SSID(1)), global: true, address: 0x8000, size: 3 },
    );
    check(
        [0x0000_0102_0000_0040, 0x34],
        Command::AtcInv {
            stream: StreamId(0x102),
            substream: None,
            global: false,
            address: 0,
            size: Command::ATC_INV_ALL,
        },
    );
}

#[test]
fn pri_resp_words_are_those_of_4_5_2() {
    let response = |substream, group, response| Command::PriResp {
        stream: StreamId(0x103),
        substream,
        group: GROUP(group),
        response,
    };
    check([0x0000_0103_0000_2841, 0x21ff], response(Some(SSID(2)), 0x1ff, PageResponse::Success));
    check([0x0000_0103_0000_0041, 0x1005], response(None, 5, PageResponse::Invalid));
    check([0x0000_0103_0000_0041, 0x0000], response(None, 0, PageResponse::Failure));
}

#[test]
fn resume_and_stall_term_words_are_those_of_4_7() {
    let resume = |action| Command::Resume { stream: StreamId(0x100), stag: Stag(0xabcd), action };
    check([0x0000_0100_0000_1044, 0xabcd], resume(ResumeAction::Retry));
    check([0x0000_0100_0000_2044, 0xabcd], resume(ResumeAction::Abort));
    check([0x0000_0100_0000_0044, 0xabcd], resume(ResumeAction::Terminate));
    check([0x0000_0100_0000_0045, 0], Command::StallTerm { stream: StreamId(0x100) });
    // Abort is ignored on retry.
    assert_eq!(Command::decode([0x0000_0100_0000_3044, 0xabcd]), Ok(resume(ResumeAction::Retry)));
}

#[test]
fn sync_words_are_those_of_4_7_3() {
    check([0x0046, 0], Command::Sync(SyncCompletion::None));
    check([0x1046, 0], Command::Sync(SyncCompletion::Interrupt { msi: None }));
    check([0x2046, 0], Command::Sync(SyncCompletion::Event));
    check(
        [0x8765_4321_0fc0_1046, 0x4000_1004],
        Command::Sync(SyncCompletion::Interrupt {
            msi: Some(Msi {
                address: PhysAddr(0x4000_1004),
                data: 0x8765_4321,
                attributes: 0xf,
                shareability: Shareability::InnerShareable,
            }),
        }),
    );
    // Without SIG_IRQ, and without an address, the message is ignored.
    assert_eq!(Command::decode([0x8765_4321_0fc0_0046, 0x1000]), Ok(Command::Sync(SyncCompletion::None)));
    assert_eq!(Command::decode([0x8765_4321_0fc0_1046, 0]), Ok(Command::Sync(SyncCompletion::Interrupt { msi: None })));
}

#[test]
fn ignored_substream_and_global_are_dropped() {
    // SSV = 0: SubstreamID and G mean nothing (4.5.1).
    assert_eq!(
        Command::decode([0x0000_0102_abcd_e240, 0x34]),
        Ok(Command::AtcInv { stream: StreamId(0x102), substream: None, global: false, address: 0, size: 52 })
    );
    // Nor are they written: G is bit 9.
    let words = |substream, global| {
        Command::AtcInv { stream: StreamId(0x102), substream, global, address: 0, size: 52 }.encode()
    };
    assert_eq!(words(None, true), [0x0000_0102_0000_0040, 0x34]);
    assert_eq!(words(Some(SSID(1)), false), [0x0000_0102_0000_1840, 0x34]);
}

#[test]
fn illegal_words_are_refused() {
    // Reserved and Secure opcodes (4.1.1).
    for opcode in [0x00, 0x07, 0x08, 0x14, 0x18, 0x1a, 0x24, 0x29, 0x31, 0x42, 0x50, 0x60, 0x70, 0x80, 0xff] {
        assert_eq!(Command::decode([opcode, 0]), Err(CommandError::Opcode(opcode as u8)));
    }
    // SSec (4.1.6).
    assert_eq!(
        Command::decode([0x0000_0100_0000_0445, 0]),
        Err(CommandError::Reserved { opcode: 0x45, word: 0, bits: 0x400 })
    );
    // Reserved bits (4.1.5).
    assert_eq!(
        Command::decode([0x0000_0100_0000_0003, 0x10]),
        Err(CommandError::Reserved { opcode: 0x03, word: 1, bits: 0x10 })
    );
    assert_eq!(Command::decode([0x41, 0x3000]), Err(CommandError::Response));
    assert_eq!(Command::decode([0x3046, 0]), Err(CommandError::Completion));
    assert_eq!(Command::decode([0x40, 53]), Err(CommandError::AtcSize(53)));
    // A granule without range or level, and a range or level without a granule (4.4.1.1).
    assert_eq!(Command::decode([0x12, 0x400]), Err(CommandError::EmptySpan(0x12)));
    assert_eq!(Command::decode([0x1012, 0]), Err(CommandError::Reserved { opcode: 0x12, word: 0, bits: 0x1000 }));
    assert_eq!(Command::decode([0x12, 0x100]), Err(CommandError::Reserved { opcode: 0x12, word: 1, bits: 0x100 }));
}

#[test]
fn commands_need_their_features() {
    let full = test_features();
    let resume = Command::Resume { stream: StreamId(1), stag: Stag(1), action: ResumeAction::Retry };
    let respond =
        Command::PriResp { stream: StreamId(1), substream: None, group: GROUP(0), response: PageResponse::Success };
    let invalidate = Command::AtcInv { stream: StreamId(1), substream: None, global: false, address: 0, size: 52 };
    for command in [resume, respond, invalidate, Command::TlbiEl2All, Command::CfgiCdAll { stream: StreamId(1) }] {
        assert_eq!(command.check(&full), Ok(()));
    }
    let bare = Features {
        stage1: false,
        ats: false,
        pri: false,
        hyp: false,
        stall_model: crate::smmuv3::features::StallModel::Terminate,
        ..full
    };
    for (command, opcode) in [
        (resume, 0x44),
        (Command::StallTerm { stream: StreamId(1) }, 0x45),
        (respond, 0x41),
        (invalidate, 0x40),
        (Command::TlbiEl2All, 0x20),
        (Command::CfgiCdAll { stream: StreamId(1) }, 0x06),
    ] {
        assert_eq!(command.check(&bare), Err(CommandError::NotSupported(opcode)));
    }
    assert_eq!(Command::Sync(SyncCompletion::None).check(&bare), Ok(()));
}

#[test]
fn a_range_or_a_level_is_enough_of_a_span() {
    // 4.4.1.1. Level 1 of the 16 KiB granule needs DS.
    let full = test_features();
    let check = |features: Features, granule, ttl, num, scale| {
        let range = TlbiRange { address: 0, leaf: true, span: Some(TlbiSpan { granule, ttl, num, scale }) };
        Command::TlbiEl2Vaa { range }.check(&features)
    };
    for (ttl, num, scale) in [(2, 0, 0), (0, 1, 0), (0, 0, 1)] {
        assert_eq!(check(full, Granule::Size4K, ttl, num, scale), Ok(()), "TTL {ttl} NUM {num} SCALE {scale}");
    }
    assert_eq!(check(full, Granule::Size4K, 0, 0, 0), Err(CommandError::EmptySpan(0x23)));
    assert_eq!(check(full, Granule::Size16K, 1, 0, 0), Err(CommandError::EmptySpan(0x23)));
    assert_eq!(check(Features { ds: true, ..full }, Granule::Size16K, 1, 0, 0), Ok(()));
    assert_eq!(check(full, Granule::Size16K, 2, 0, 0), Ok(()));
    assert_eq!(check(full, Granule::Size4K, 1, 0, 0), Ok(()));
    let without = Features { range_invalidation: false, ..full };
    assert_eq!(check(without, Granule::Size4K, 0, 1, 0), Err(CommandError::NotSupported(0x23)));
}

#[test]
fn what_has_no_room_in_its_field_is_no_command() {
    let full = test_features();
    for (fits, ttl, num, scale) in
        [(true, 3, 31, 31), (false, 4, 31, 31), (false, 3, 32, 31), (false, 3, 31, 32), (false, 0, 0, 32)]
    {
        let span = Some(TlbiSpan { granule: Granule::Size4K, ttl, num, scale });
        let checked = Command::TlbiEl2Vaa { range: TlbiRange { address: 0, leaf: true, span } }.check(&full);
        assert_eq!(checked, if fits { Ok(()) } else { Err(CommandError::WideSpan(0x23)) });
    }
    let invalidate =
        |size| Command::AtcInv { stream: StreamId(1), substream: None, global: false, address: 0, size }.check(&full);
    assert_eq!((invalidate(52), invalidate(53)), (Ok(()), Err(CommandError::AtcSize(53))));
}

/// Each line holds the words' fields by hand.
#[test]
fn a_command_is_shown_with_the_names_of_chapter_4() {
    #[track_caller]
    fn check(words: [u64; 2], line: &str) {
        assert_eq!(std::format!("{}", Command::decode(words).unwrap()), line);
    }
    check([0x0000_0007_abcd_e801, 0], "CMD_PREFETCH_CONFIG StreamID=0x7 SSV=1 SubstreamID=0xabcde");
    check([0x0000_0005_0000_0002, 0x9000], "CMD_PREFETCH_ADDR StreamID=0x5 SSV=0 Address=0x9000");
    check([0x0000_0100_0000_0003, 1], "CMD_CFGI_STE StreamID=0x100 Leaf=1");
    check([0x0000_0040_0000_0004, 5], "CMD_CFGI_STE_RANGE StreamID=0x40 Range=5");
    check([0x0000_0000_0000_0004, 31], "CMD_CFGI_ALL");
    check([0x0000_0101_0000_7005, 0], "CMD_CFGI_CD StreamID=0x101 SubstreamID=0x7 Leaf=0");
    check([0x0000_0101_0000_0006, 0], "CMD_CFGI_CD_ALL StreamID=0x101");
    check([0x0000_0003_0000_0010, 0], "CMD_TLBI_NH_ALL VMID=0x3");
    check([0x0042_0003_0000_0011, 0], "CMD_TLBI_NH_ASID VMID=0x3 ASID=0x42");
    check([0x0042_0003_0000_0012, 0x7001], "CMD_TLBI_NH_VA VMID=0x3 ASID=0x42 Address=0x7000 Leaf=1");
    // SCALE 2, NUM 9; TG 3 (64 KiB), TTL 1.
    check(
        [0x0042_0003_0020_9012, 0x7_0000 | 3 << 10 | 1 << 8],
        "CMD_TLBI_NH_VA VMID=0x3 ASID=0x42 Address=0x70000 Leaf=0 NUM=9 SCALE=2 TTL=1 TG=64KB",
    );
    check([0x0000_0003_0000_0013, 0x7000], "CMD_TLBI_NH_VAA VMID=0x3 Address=0x7000 Leaf=0");
    check([0x20, 0], "CMD_TLBI_EL2_ALL");
    check([0x0042_0000_0000_0021, 0], "CMD_TLBI_EL2_ASID ASID=0x42");
    check([0x0042_0000_0000_0022, 0x7000], "CMD_TLBI_EL2_VA ASID=0x42 Address=0x7000 Leaf=0");
    check([0x23, 0x7001], "CMD_TLBI_EL2_VAA Address=0x7000 Leaf=1");
    check([0x0000_0003_0000_0028, 0], "CMD_TLBI_S12_VMALL VMID=0x3");
    check([0x0000_0003_0000_002a, 0x8000], "CMD_TLBI_S2_IPA VMID=0x3 Address=0x8000 Leaf=0");
    check([0x30, 0], "CMD_TLBI_NSNH_ALL");
    check(
        [0x0000_0010_0000_5a40, 0x1003],
        "CMD_ATC_INV StreamID=0x10 SSV=1 SubstreamID=0x5 Global=1 Address=0x1000 Size=3",
    );
    check([0x0000_0010_0000_0041, 0x2041], "CMD_PRI_RESP StreamID=0x10 SSV=0 PRGIndex=0x41 Resp=Success");
    check([0x0000_0010_0000_0041, 0x1041], "CMD_PRI_RESP StreamID=0x10 SSV=0 PRGIndex=0x41 Resp=InvalidRequest");
    check([0x0000_0010_0000_0041, 0x0041], "CMD_PRI_RESP StreamID=0x10 SSV=0 PRGIndex=0x41 Resp=ResponseFailure");
    check([0x0000_0010_0000_1044, 7], "CMD_RESUME StreamID=0x10 STAG=0x7 Action=Retry");
    check([0x0000_0010_0000_2044, 7], "CMD_RESUME StreamID=0x10 STAG=0x7 Action=Terminate Abort=1");
    check([0x0000_0010_0000_0044, 7], "CMD_RESUME StreamID=0x10 STAG=0x7 Action=Terminate Abort=0");
    check([0x0000_0010_0000_0045, 0], "CMD_STALL_TERM StreamID=0x10");
    check([0x46, 0], "CMD_SYNC CS=SIG_NONE");
    check([0x1046, 0], "CMD_SYNC CS=SIG_IRQ");
    check([0x0000_55aa_0000_1046, 0x8000], "CMD_SYNC CS=SIG_IRQ MSIAddress=0x8000 MSIData=0x55aa");
    check([0x2046, 0], "CMD_SYNC CS=SIG_SEV");
}
