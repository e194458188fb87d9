//! Words of STEs, written by hand from 5.1 and 5.2.

use proptest::prelude::*;

use super::*;
use crate::smmuv3::features::{Features, Httu, StallModel, TableEndianness, test_features};

fn stage1() -> Stage1 {
    Stage1 {
        context: PhysAddr(0x8123_4000),
        cd_max: 8,
        format: ContextTableFormat::Linear,
        default_substream: DefaultSubstream::Substream0,
        attributes: TableAttributes::COHERENT,
        stall_disabled: true,
        world: StreamWorld::El1,
    }
}

fn stage2() -> Stage2 {
    Stage2 {
        table: PhysAddr(0x9000_0000),
        t0sz: 24,
        sl0: 1,
        granule: Granule::Size4K,
        attributes: TableAttributes::COHERENT,
        output_size: AddressSize::Bits44,
        big_endian: false,
        access_flag_fault_disabled: true,
        protected_walk: false,
        flag_update: FlagUpdate::None,
        stall: true,
        record: true,
    }
}

/// V, Config 5, linear table at 0x8123_4000, S1CDMax 8; S1DSS 2, S1CIR 1, S1COR 1, S1CSH 3, S1STALLD.
const STAGE1: [u64; 8] = [0x4000_0000_8123_400b, 0x0000_0000_0800_00d6, 0, 0, 0, 0, 0, 0];

/// V, Config 6; S2T0SZ 24, S2SL0 1, S2IR0 1, S2OR0 1, S2SH0 3, S2PS 4, S2AA64, S2AFFD, S2S, S2R; S2TTB.
const STAGE2: [u64; 8] = [0xd, 0, 0x062c_3558_0000_0042, 0x9000_0000, 0, 0, 0, 0];

#[track_caller]
fn check(words: [u64; 8], ste: Ste) {
    assert_eq!(ste.encode(), words, "encode {ste:?}");
    assert_eq!(Ste::decode(words, &test_features()), Ok(ste), "decode {words:#x?}");
}

fn set(mut words: [u64; 8], word: usize, bits: u64) -> [u64; 8] {
    words[word] |= bits;
    words
}

/// S2S is 0.
fn no_stall(mut words: [u64; 8]) -> [u64; 8] {
    words[2] &= !(1 << 57);
    words
}

#[track_caller]
fn illegal(words: [u64; 8], features: Features, field: &'static str, value: u64) {
    assert_eq!(Ste::decode(words, &features), Err(SteError::Illegal { field, value }));
}

#[test]
fn abort_and_bypass_are_config_0_and_4() {
    check([0x1, 0, 0, 0, 0, 0, 0, 0], Ste::new(StreamConfig::Abort));
    check([0x9, 0, 0, 0, 0, 0, 0, 0], Ste::new(StreamConfig::Bypass));
    // 0b0xx behaves as 0b000, whatever else the STE holds.
    for config in 1..=3 {
        let words = [config << 1 | 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Ste::decode(words, &test_features()), Ok(Ste::new(StreamConfig::Abort)));
    }
}

#[test]
fn stage_1_is_config_5() {
    check(STAGE1, Ste::new(StreamConfig::Stage1(stage1())));
    // PPAR, MEV, EATS 1, SHCFG 1 and S2VMID.
    check(
        set(set(STAGE1, 1, 0x0000_1000_100c_0000), 2, 0xffee),
        Ste {
            config: StreamConfig::Stage1(stage1()),
            ats: AtsMode::Full,
            response_with_pasid: true,
            merge_events: true,
            incoming_shareability: true,
            privilege: PrivilegeOverride::Incoming,
            instruction: InstructionOverride::Incoming,
            vmid: Vmid(0xffee),
        },
    );
    // STRW 2, two-level tables of 4 KiB, S1DSS 1, WT inside, WB without allocation outside, OSH.
    check(
        [0xa000_0000_8123_401b, 0x0000_0000_8000_00b9, 0, 0, 0, 0, 0, 0],
        Ste::new(StreamConfig::Stage1(Stage1 {
            cd_max: 20,
            format: ContextTableFormat::TwoLevel4K,
            default_substream: DefaultSubstream::Bypass,
            attributes: TableAttributes {
                inner: crate::smmuv3::Cacheability::WriteThrough,
                outer: crate::smmuv3::Cacheability::WriteBackNoAllocate,
                shareability: crate::smmuv3::Shareability::OuterShareable,
            },
            stall_disabled: false,
            world: StreamWorld::El2,
            ..stage1()
        })),
    );
}

#[test]
fn stage_2_is_config_6() {
    let ste = Ste { vmid: Vmid(0x42), ..Ste::new(StreamConfig::Stage2(stage2())) };
    check(STAGE2, ste);
    // S2PTW is for walks of stage 1 (5.2).
    assert_eq!(Ste::decode(set(STAGE2, 2, 1 << 54), &test_features()), Ok(ste));
    // S2TG 1 is 64 KiB and 2 is 16 KiB; S2ENDI, S2HA, S2HD; a table above 4 GiB.
    check(
        [0xd, 0, 0x019c_7558_0000_0042, 0x0000_0abc_dead_0000, 0, 0, 0, 0],
        Ste {
            config: StreamConfig::Stage2(Stage2 {
                granule: Granule::Size64K,
                table: PhysAddr(0x0abc_dead_0000),
                big_endian: true,
                flag_update: FlagUpdate::AccessFlagAndDirty,
                access_flag_fault_disabled: false,
                stall: false,
                record: false,
                ..stage2()
            }),
            ..ste
        },
    );
    check(
        [0xd, 0, 0x010c_b558_0000_0042, 0x9000_0000, 0, 0, 0, 0],
        Ste {
            config: StreamConfig::Stage2(Stage2 {
                granule: Granule::Size16K,
                flag_update: FlagUpdate::AccessFlag,
                access_flag_fault_disabled: false,
                stall: false,
                record: false,
                ..stage2()
            }),
            ..ste
        },
    );
}

#[test]
fn nested_is_config_7_and_alone_allows_split_ats() {
    // S2S is 0: split ATS must not stall (5.2, EATS). S2PTW.
    let words = [0x4000_0000_8123_400f, 0x0000_0000_2800_00d6, 0x046c_3558_0000_0042, 0x9000_0000, 0, 0, 0, 0];
    check(
        words,
        Ste {
            ats: AtsMode::Split,
            vmid: Vmid(0x42),
            ..Ste::new(StreamConfig::Nested(stage1(), Stage2 { stall: false, protected_walk: true, ..stage2() }))
        },
    );
    illegal(set(words, 2, 1 << 57), test_features(), "EATS", 2);
    illegal(words, Features { split_ats: false, ..test_features() }, "EATS", 2);
    illegal(set(STAGE1, 1, 2 << 28), test_features(), "EATS", 2);
    illegal(set(STAGE2, 1, 1 << 28), test_features(), "EATS", 1);
    // EATS 1 with S2S under Config 7, EATS 2 without S2S under Config 6; from Config 0 to 4 EATS is ignored.
    let stalling = [0xf, 1 << 28, STAGE2[2], STAGE2[3], 0, 0, 0, 0];
    illegal(stalling, test_features(), "EATS", 1);
    illegal(set(no_stall(STAGE2), 1, 2 << 28), test_features(), "EATS", 2);
    for (config, eats) in (0..=4).flat_map(|config| (0..4).map(move |eats| (config, eats))) {
        let words = [config << 1 | 1, eats << 28, 0, 0, 0, 0, 0, 0];
        assert!(Ste::decode(words, &test_features()).is_ok(), "Config {config} EATS {eats}");
    }
}

#[test]
fn an_ste_without_v_is_not_valid() {
    let mut words = STAGE1;
    words[0] &= !1;
    assert_eq!(Ste::decode(words, &test_features()), Err(SteError::NotValid));
    assert_eq!(Ste::decode(Ste::NOT_VALID, &test_features()), Err(SteError::NotValid));
}

#[test]
fn stage_1_rules_of_5_2_hold() {
    let full = test_features();
    illegal(STAGE1, Features { stage1: false, ..full }, "Config", 5);
    illegal(STAGE1, Features { ssid_bits: 7, ..full }, "S1CDMax", 8);
    for format in [1, 2] {
        illegal(set(STAGE1, 0, format << 4), Features { cd2l: false, ..full }, "S1Fmt", format);
    }
    illegal(set(STAGE1, 0, 1 << 44), full, "S1ContextPtr", 0x1000_8123_4000);
    illegal(set(STAGE1, 2, 0x100), Features { vmid_bits: 8, ..full }, "S2VMID", 0x100);
    // Without substreams S1CDMax, S1Fmt and S1DSS are ignored.
    let ignored = Ste::decode(set(STAGE1, 0, 2 << 4), &Features { ssid_bits: 0, cd2l: false, ..full }).unwrap();
    let expected = Stage1 { cd_max: 0, default_substream: DefaultSubstream::Terminate, ..stage1() };
    assert_eq!(ignored, Ste::new(StreamConfig::Stage1(expected)));
    // S1DSS 1 and 2 and S1Fmt 2 also where the STE has none.
    for default in [1, 2] {
        let words = [0x8123_402b, 0x0800_00d4 | default, 0, 0, 0, 0, 0, 0];
        let ste = Ste::decode(words, &Features { cd2l: false, ..full });
        assert_eq!(ste, Ok(Ste::new(StreamConfig::Stage1(expected))));
    }
    // S1Fmt 3 behaves as 0.
    assert_eq!(Ste::decode(set(STAGE1, 0, 3 << 4), &full), Ste::decode(STAGE1, &full));
}

#[test]
fn stream_world_counts_at_stage_1_alone_and_only_with_el2() {
    let full = test_features();
    for world in [1, 3] {
        illegal(set(STAGE1, 1, world << 30), full, "STRW", world);
    }
    for world in 0..4 {
        let ste = Ste::decode(set(STAGE1, 1, world << 30), &Features { hyp: false, ..full });
        assert_eq!(ste, Ok(Ste::new(StreamConfig::Stage1(stage1()))), "{world}");
    }
    // Config 4, 6 and 7 (5.2, STRW).
    for world in 0..4 {
        assert_eq!(Ste::decode([0x9, world << 30, 0, 0, 0, 0, 0, 0], &full), Ok(Ste::new(StreamConfig::Bypass)));
        assert_eq!(Ste::decode(set(STAGE2, 1, world << 30), &full), Ste::decode(STAGE2, &full));
        let nested = [0xf, 0, STAGE2[2], STAGE2[3], 0, 0, 0, 0];
        assert_eq!(Ste::decode(set(nested, 1, world << 30), &full), Ste::decode(nested, &full));
        assert!(Ste::decode(nested, &full).is_ok());
    }
}

#[test]
fn stall_rules_of_5_5_hold() {
    let model = |stall_model| Features { stall_model, ..test_features() };
    let stall_allowed = {
        let mut words = STAGE1;
        words[1] &= !(1 << 27);
        words
    };
    let stage2_no_stall = no_stall(STAGE2);
    for stall_model in [StallModel::Terminate, StallModel::Forced] {
        illegal(STAGE1, model(stall_model), "S1STALLD", 1);
        assert!(Ste::decode(stall_allowed, &model(stall_model)).is_ok());
    }
    illegal(STAGE2, model(StallModel::Terminate), "S2S", 1);
    // Config 7.
    let nested = [0xf, 0, STAGE2[2], STAGE2[3], 0, 0, 0, 0];
    illegal(nested, model(StallModel::Terminate), "S2S", 1);
    illegal(no_stall(nested), model(StallModel::Forced), "S2S", 0);
    illegal(set(no_stall(nested), 1, 1 << 27), model(StallModel::Terminate), "S1STALLD", 1);
    illegal(set(nested, 1, 1 << 27), model(StallModel::Forced), "S1STALLD", 1);
    illegal(stage2_no_stall, model(StallModel::Forced), "S2S", 0);
    assert!(Ste::decode(STAGE2, &model(StallModel::Forced)).is_ok());
    assert!(Ste::decode(stage2_no_stall, &model(StallModel::Terminate)).is_ok());
}

#[test]
fn stage_2_rules_of_5_2_hold() {
    let full = test_features();
    let with_word2 = |clear: u64, set: u64| {
        let mut words = STAGE2;
        words[2] = words[2] & !clear | set;
        words
    };
    illegal(STAGE2, Features { stage2: false, ..full }, "Config", 6);
    illegal([0xf, 0, STAGE2[2], STAGE2[3], 0, 0, 0, 0], Features { stage2: false, ..full }, "Config", 7);
    illegal(with_word2(1 << 51, 0), full, "S2AA64", 0);
    illegal(with_word2(0, 3 << 46), full, "S2TG", 3);
    illegal(STAGE2, Features { granule_4k: false, ..full }, "S2TG", 0);
    illegal(with_word2(0, 1 << 46), Features { granule_64k: false, ..full }, "S2TG", 1);
    illegal(with_word2(0, 2 << 46), Features { granule_16k: false, ..full }, "S2TG", 2);
    // S2DS is w3[3] and counts only with IDR5.DS.
    assert_eq!(Ste::decode(set(STAGE2, 3, 8), &full), Ste::decode(STAGE2, &full));
    assert!(Ste::decode(STAGE2, &Features { ds: true, ..full }).is_ok());
    illegal(set(STAGE2, 3, 8), Features { ds: true, ..full }, "S2DS", 1);
    illegal(with_word2(0, 1 << 56), Features { httu: Httu::None, ..full }, "S2HA", 1);
    illegal(with_word2(0, 1 << 55), Features { httu: Httu::AccessFlag, ..full }, "S2HD", 1);
    illegal(STAGE2, Features { table_endianness: TableEndianness::Big, ..full }, "S2ENDI", 0);
    illegal(with_word2(0, 1 << 52), Features { table_endianness: TableEndianness::Little, ..full }, "S2ENDI", 1);
    illegal(with_word2(0, 0x100), Features { vmid_bits: 8, ..full }, "S2VMID", 0x142);
    illegal(set(STAGE2, 3, 1 << 44), full, "S2TTB", 0x1000_9000_0000);
    // S2PS 0 is 32 bits.
    let mut words = with_word2(7 << 48, 0);
    words[3] = 0x1_9000_0000;
    illegal(words, full, "S2TTB", 0x1_9000_0000);
}

#[test]
fn stage_2_access_flags_of_tables_need_those_of_leaves() {
    // S2HAFT is w2[59]; it counts only where IDR0.HTTU is 3 (5.2).
    let tables = Features { httu: Httu::Tables, ..test_features() };
    let words = set(STAGE2, 2, 1 << 59);
    illegal(words, tables, "S2HAFT", 1);
    assert!(Ste::decode(set(words, 2, 1 << 56), &tables).is_ok());
    assert!(Ste::decode(words, &Features { httu: Httu::Dirty, ..tables }).is_ok());
}

#[test]
fn stage_2_sizes_and_first_levels_must_agree() {
    let full = test_features();
    let words = |t0sz: u64, sl0: u64, granule: u64| {
        let mut words = STAGE2;
        words[2] = words[2] & !(0xc0ff << 32) | t0sz << 32 | sl0 << 38 | granule << 46;
        words
    };
    // 4 KiB. SL0 1 begins at level 1, which resolves 31 to 43 bits; 2 at level 0, from 40; 0 at level 2, up to 34.
    for (t0sz, sl0, fits) in
        [(21, 1, true), (33, 1, true), (34, 1, false), (24, 2, true), (25, 2, false), (30, 0, true), (29, 0, false)]
    {
        assert_eq!(Ste::decode(words(t0sz, sl0, 0), &full).is_ok(), fits, "T0SZ {t0sz} SL0 {sl0}");
    }
    // 44-bit IPAs: 20 is the smallest T0SZ; 39 the largest without small tables.
    illegal(words(19, 2, 0), full, "S2T0SZ", 19);
    illegal(words(40, 0, 0), full, "S2T0SZ", 40);
    illegal(words(39, 3, 0), full, "S2SL0", 3);
    assert!(Ste::decode(words(43, 3, 0), &Features { small_tables: true, ..full }).is_ok());
    // 64 KiB. SL0 1 begins at level 2, which resolves 30 to 46 bits; 2 at level 1, from 43; 0 at level 3, up to 33.
    for (t0sz, sl0, fits) in
        [(20, 1, true), (34, 1, true), (35, 1, false), (21, 2, true), (22, 2, false), (31, 0, true), (30, 0, false)]
    {
        assert_eq!(Ste::decode(words(t0sz, sl0, 1), &full).is_ok(), fits, "T0SZ {t0sz} SL0 {sl0}");
    }
    // 16 KiB. SL0 1 begins at level 2, which resolves 26 to 40 bits; 2 at level 1, from 37; 0 at level 3, up to 29.
    for (t0sz, sl0, fits) in
        [(24, 1, true), (23, 1, false), (27, 2, true), (28, 2, false), (35, 0, true), (34, 0, false)]
    {
        assert_eq!(Ste::decode(words(t0sz, sl0, 2), &full).is_ok(), fits, "T0SZ {t0sz} SL0 {sl0}");
    }
    illegal(words(24, 3, 1), full, "S2SL0", 3);
}

#[test]
fn level_1_descriptors_are_those_of_5_1() {
    let descriptor = L1StreamTableDescriptor { table: PhysAddr(0x8000_1000), span: 7 };
    assert_eq!(descriptor.encode(), 0x8000_1007);
    assert_eq!(L1StreamTableDescriptor::decode(0x8000_1007), Some(descriptor));
    assert_eq!(descriptor.entries(), 64);
    // The table is aligned to its size of 4096, reserved bits are ignored.
    assert_eq!(L1StreamTableDescriptor::decode(0xff00_0000_8000_1fe7), Some(descriptor));
    assert_eq!(L1StreamTableDescriptor::decode(0x00ff_ffff_ffff_ffc1).unwrap().table.0, 0x00ff_ffff_ffff_ffc0);
    assert_eq!(L1StreamTableDescriptor::decode(0x8000_000b).unwrap().entries(), 1024);
    for span in [0, 12, 31] {
        assert_eq!(L1StreamTableDescriptor::decode(0x8000_0000 | span), None);
    }
}

#[test]
fn overrides_of_permissions_are_bits_48_to_51_of_word_1() {
    let features = Features { permission_overrides: true, ..test_features() };
    let ste = Ste {
        privilege: PrivilegeOverride::Privileged,
        instruction: InstructionOverride::Data,
        ..Ste::new(StreamConfig::Bypass)
    };
    let words = [0x9, 0x000b_0000_0000_0000, 0, 0, 0, 0, 0, 0];
    assert_eq!(ste.encode(), words);
    assert_eq!(Ste::decode(words, &features), Ok(ste));
    // Reserved values, and a machine without the overrides, keep what comes (5.2).
    let incoming = Ok(Ste::new(StreamConfig::Bypass));
    assert_eq!(Ste::decode([0x9, 0x0005_0000_0000_0000, 0, 0, 0, 0, 0, 0], &features), incoming);
    assert_eq!(Ste::decode(words, &test_features()), incoming);
    let words = [0x9, 0x000e_0000_0000_0000, 0, 0, 0, 0, 0, 0];
    assert_eq!(Ste::decode(words, &test_features()), incoming);
}

#[test]
fn smallest_ipas_with_small_tables_are_of_16_bits_and_17_with_the_large_granule() {
    let features = Features { small_tables: true, ..test_features() };
    // S2TG 0, 2 and 1 with the S2SL0 that begins at level 3.
    for (granule, sl0, t0sz, legal) in
        [(0, 3, 48, true), (0, 3, 49, false), (2, 0, 48, true), (2, 0, 49, false), (1, 0, 47, true), (1, 0, 48, false)]
    {
        let mut words = STAGE2;
        words[2] = words[2] & !(0xff << 32 | 3 << 46) | granule << 46 | sl0 << 38 | t0sz << 32;
        assert_eq!(Ste::decode(words, &features).is_ok(), legal, "S2TG {granule} S2T0SZ {t0sz}");
    }
}

#[test]
fn vmid_counts_where_it_tags_translations() {
    // 5.2, S2VMID: not without stage 2, not where nothing is translated, not in the world of EL2.
    let full = test_features();
    let vmid = |words: [u64; 8], features: Features| Ste::decode(set(words, 2, 0x142), &features).map(|ste| ste.vmid.0);
    let el2 = set(STAGE1, 1, 2 << 30);
    assert_eq!(vmid(STAGE1, full), Ok(0x142));
    assert_eq!(vmid(STAGE2, full), Ok(0x142));
    for bits in [8, 16] {
        let features = Features { vmid_bits: bits, ..full };
        assert_eq!(vmid(STAGE1, Features { stage2: false, ..features }), Ok(0));
        assert_eq!(vmid(el2, features), Ok(0));
        assert_eq!(vmid([0x1, 0, 0, 0, 0, 0, 0, 0], features), Ok(0));
        assert_eq!(vmid([0x9, 0, 0, 0, 0, 0, 0, 0], features), Ok(0));
    }
}

/// Config 0, 4, 5 with one CD and with two-level tables, 6, 7, and V = 0, and the bits that count in them.
const USED: [([u64; 8], [u64; 4]); 7] = [
    ([0xe, 0, 0, 0, 0, 0, 0, 0], [0x1, 0, 0, 0]),
    // CONT is in word 1.
    ([0x1, 0, 0, 0, 0, 0, 0, 0], [0xf, 0x1_e000, 0, 0]),
    ([0x9, 0, 0, 0, 0, 0, 0, 0], [0x0700_0000_0000_000f, !0xf800_00ff, 0xf000_0000_ffff_0000, 0xfff0_0000_0000_0007]),
    ([0x8123_400b, 0xd4, 0, 0, 0, 0, 0, 0], [!0x30, !0x3, 0xf000_0000_ffff_ffff, 0xfff0_0000_0000_0007]),
    ([0x4000_0000_8123_401b, 0xd6, 0, 0, 0, 0, 0, 0], [!0, !0, 0xf000_0000_ffff_ffff, 0xfff0_0000_0000_0007]),
    ([0xd, 0, 0x040c_3558_0000_0042, 0x9000_0000, 0, 0, 0, 0], [0x0700_0000_0000_000f, !0xc800_00ff, !(1 << 54), !0]),
    ([0x4000_0000_8123_401f, 0xd6, 0x040c_3558_0000_0042, 0x9000_0000, 0, 0, 0, 0], [!0, !0xc000_0000, !0, !0]),
];

#[test]
fn bits_that_count_are_those_of_the_stages_that_translate() {
    for (index, (words, [first, second, third, fourth])) in USED.into_iter().enumerate() {
        // What nothing is known of counts in what is not aborted.
        let rest = if index < 2 { 0 } else { !0 };
        assert_eq!(Ste::used(&words), [first, second, third, fourth, rest, rest, rest, rest], "{words:#x?}");
    }
}

#[test]
fn stage_2_stalls_count_beside_ats_without_stage_2() {
    // 5.2, EATS: SMMUv3.0.
    const S2S: u64 = 1 << 57;
    for (words, counts) in [
        (STAGE1, false),
        (set(STAGE1, 1, 1 << 28), true),
        ([0x9, 1 << 28, 0, 0, 0, 0, 0, 0], false),
        (STAGE2, true),
        (set(no_stall(STAGE2), 1, 1 << 28), true),
    ] {
        assert_eq!(Ste::used(&words)[2] & S2S != 0, counts, "{words:#x?}");
    }
}

proptest! {
    #[test]
    fn bits_that_do_not_count_change_nothing(noise: [u64; 8]) {
        for (words, _) in USED {
            let (used, mut noisy) = (Ste::used(&words), words);
            noisy.iter_mut().zip(noise.iter().zip(used)).for_each(|(word, (noise, used))| *word ^= noise & !used);
            prop_assert_eq!(Ste::used(&noisy), used);
            let meaning = |words| match Ste::decode(words, &test_features()) {
                // The rest is IGNORED (5.2.1).
                Ok(Ste { config: StreamConfig::Abort, .. }) => Ok(Ste::new(StreamConfig::Abort)),
                other => other,
            };
            prop_assert_eq!(meaning(noisy), meaning(words));
        }
    }
}
