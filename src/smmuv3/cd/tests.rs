//! Words of CDs, written by hand from 5.3 and 5.4.

use proptest::prelude::*;

use super::*;
use crate::smmuv3::features::{Features, Httu, StallModel, TableEndianness, test_features};
use crate::smmuv3::ste::{ContextTableFormat, DefaultSubstream, Stage1, StreamWorld};
use crate::smmuv3::{Cacheability, Shareability};

const STREAM: Stage1 = Stage1 {
    context: PhysAddr(0),
    cd_max: 0,
    format: ContextTableFormat::Linear,
    default_substream: DefaultSubstream::Terminate,
    attributes: TableAttributes::COHERENT,
    stall_disabled: false,
    world: StreamWorld::El1,
};

/// T0SZ 25, TG0 0, IR0 1, OR0 1, SH0 3, EPD1, V, IPS 4, AA64, S, R, A, ASET, ASID 0x1234; TTB0; MAIR.
const LOWER: [u64; 8] = [0x1234_f204_c000_3519, 0x8800_0000, 0, 0xff44_0c04_00ff_44bb, 0, 0, 0, 0];

fn lower() -> ContextDescriptor {
    ContextDescriptor {
        ttb0: Some(TableBase {
            table: PhysAddr(0x8800_0000),
            tsz: 25,
            granule: Granule::Size4K,
            attributes: TableAttributes::COHERENT,
            hierarchy_disabled: false,
        }),
        ttb1: None,
        ignore_top_byte: [false; 2],
        unprivileged_disabled: [false; 2],
        big_endian: false,
        output_size: AddressSize::Bits44,
        access_flag_fault_disabled: false,
        flag_update: FlagUpdate::None,
        write_execute_never: false,
        privileged_access_never: false,
        stall: true,
        record: true,
        abort: true,
        asid: Asid(0x1234),
        private_asid: true,
        mair: 0xff44_0c04_00ff_44bb,
    }
}

#[track_caller]
fn check(words: [u64; 8], cd: ContextDescriptor) {
    assert_eq!(cd.encode(), words, "encode {cd:?}");
    assert_eq!(ContextDescriptor::decode(words, &test_features(), &STREAM), Ok(cd), "decode {words:#x?}");
}

/// `LOWER` with other bits in word 0.
fn lower_with(clear: u64, set: u64) -> [u64; 8] {
    let mut words = LOWER;
    words[0] = words[0] & !clear | set;
    words
}

#[track_caller]
fn illegal(words: [u64; 8], features: Features, field: &'static str, value: u64) {
    assert_eq!(ContextDescriptor::decode(words, &features, &STREAM), Err(ContextError::Illegal { field, value }));
}

#[test]
fn the_lower_half_is_described_as_5_4_says() {
    check(LOWER, lower());
    // TG0 1 is 64 KiB, 2 is 16 KiB; TBI0.
    for (tg0, granule) in [(1, Granule::Size64K), (2, Granule::Size16K)] {
        let ttb0 = Some(TableBase { granule, ..lower().ttb0.unwrap() });
        let cd = ContextDescriptor { ttb0, ignore_top_byte: [true, false], ..lower() };
        check(lower_with(0, tg0 << 6 | 1 << 38), cd);
    }
}

#[test]
fn the_upper_half_is_described_as_5_4_says() {
    // EPD0, T1SZ 16, TG1 3 (64 KiB), IR1 2, OR1 2, SH1 2, V, IPS 4, AFFD, TBI1, AA64, HD, HA, A, ASID 7; TTB1.
    let upper = ContextDescriptor {
        ttb0: None,
        ttb1: Some(TableBase {
            table: PhysAddr(0x0a00_0000_0000),
            tsz: 16,
            granule: Granule::Size64K,
            attributes: TableAttributes {
                inner: Cacheability::WriteThrough,
                outer: Cacheability::WriteThrough,
                shareability: Shareability::OuterShareable,
            },
            hierarchy_disabled: false,
        }),
        ignore_top_byte: [false, true],
        access_flag_fault_disabled: true,
        flag_update: FlagUpdate::AccessFlagAndDirty,
        stall: false,
        record: false,
        asid: Asid(7),
        private_asid: false,
        mair: 0,
        ..lower()
    };
    check([0x0007_4e8c_aad0_4000, 0, 0x0a00_0000_0000, 0, 0, 0, 0, 0], upper);
    // TG1 1 is 16 KiB, 2 is 4 KiB.
    for (word, granule) in [(0x0007_4e8c_aa50_4000, Granule::Size16K), (0x0007_4e8c_aa90_4000, Granule::Size4K)] {
        let ttb1 = Some(TableBase { granule, ..upper.ttb1.unwrap() });
        check([word, 0, 0x0a00_0000_0000, 0, 0, 0, 0, 0], ContextDescriptor { ttb1, ..upper });
    }
}

#[test]
fn endianness_is_bit_15() {
    check(lower_with(0, 1 << 15), ContextDescriptor { big_endian: true, ..lower() });
    illegal(
        lower_with(0, 1 << 15),
        Features { table_endianness: TableEndianness::Little, ..test_features() },
        "ENDI",
        1,
    );
    illegal(LOWER, Features { table_endianness: TableEndianness::Big, ..test_features() }, "ENDI", 0);
}

#[test]
fn a_cd_without_v_is_not_valid() {
    assert_eq!(
        ContextDescriptor::decode(lower_with(1 << 31, 0), &test_features(), &STREAM),
        Err(ContextError::NotValid)
    );
}

#[test]
fn fault_rules_of_5_5_hold() {
    let model = |stall_model| Features { stall_model, ..test_features() };
    let no_stall = lower_with(1 << 44, 0);
    illegal(LOWER, model(StallModel::Terminate), "S", 1);
    illegal(no_stall, model(StallModel::Forced), "S", 0);
    let disabled = Stage1 { stall_disabled: true, ..STREAM };
    assert_eq!(
        ContextDescriptor::decode(LOWER, &test_features(), &disabled),
        Err(ContextError::Illegal { field: "S", value: 1 })
    );
    assert!(ContextDescriptor::decode(no_stall, &test_features(), &disabled).is_ok());
    illegal(lower_with(1 << 46, 0), Features { term_model: true, ..test_features() }, "A", 0);
    assert!(ContextDescriptor::decode(lower_with(1 << 46, 0), &test_features(), &STREAM).is_ok_and(|cd| !cd.abort));
}

#[test]
fn rules_of_5_4_2_hold() {
    let full = test_features();
    illegal(lower_with(1 << 41, 0), full, "AA64", 0);
    illegal(LOWER, Features { aarch64: false, ..full }, "AA64", 1);
    illegal(lower_with(0, 1 << 43), Features { httu: Httu::None, ..full }, "HA", 1);
    illegal(lower_with(0, 1 << 42), Features { httu: Httu::AccessFlag, ..full }, "HD", 1);
    illegal(LOWER, Features { asid_bits: 8, ..full }, "ASID", 0x1234);
    illegal(lower_with(0, 3 << 6), full, "TG0", 3);
    illegal(LOWER, Features { granule_4k: false, ..full }, "TG0", 0);
    illegal(lower_with(0x3f, 15), full, "T0SZ", 15);
    illegal(lower_with(0x3f, 40), full, "T0SZ", 40);
    illegal(lower_with(0x3f, 49), Features { small_tables: true, ..full }, "T0SZ", 49);
    assert!(ContextDescriptor::decode(lower_with(0x3f, 48), &Features { small_tables: true, ..full }, &STREAM).is_ok());
    // IPS is capped to OAS, TTB0 must fit it.
    let mut words = lower_with(0, 7 << 32);
    words[1] = 0x1000_0000_0000;
    illegal(words, full, "TTB0", 0x1000_0000_0000);
    // EPD1 = 0 makes TTB1 count: TG1 0 is reserved.
    illegal(lower_with(1 << 30, 0), full, "TG1", 0);
    // EPD0 = 1 makes T0SZ, TG0 and TTB0 ignored.
    let disabled = ContextDescriptor::decode(lower_with(0, 1 << 14 | 3 << 6), &full, &STREAM);
    assert_eq!(disabled, Ok(ContextDescriptor { ttb0: None, ..lower() }));
}

#[test]
fn permission_controls_are_bits_36_40_and_bit_1_of_the_tables() {
    // HAD0 is bit 65 and counts only with IDR3.HAD.
    let mut words = lower_with(0, 1 << 36 | 1 << 40);
    words[1] |= 2;
    let features = Features { hierarchy_disable: true, ..test_features() };
    let ttb0 = Some(TableBase { hierarchy_disabled: true, ..lower().ttb0.unwrap() });
    let cd = ContextDescriptor { ttb0, write_execute_never: true, privileged_access_never: true, ..lower() };
    assert_eq!(cd.encode(), words);
    assert_eq!(ContextDescriptor::decode(words, &features, &STREAM), Ok(cd));
    let without = ContextDescriptor::decode(words, &test_features(), &STREAM).unwrap();
    assert!(!without.ttb0.unwrap().hierarchy_disabled);
    // EL2 has one privilege, so PAN means nothing there.
    let el2 = Stage1 { world: StreamWorld::El2, ..STREAM };
    assert!(!ContextDescriptor::decode(words, &features, &el2).unwrap().privileged_access_never);
}

#[test]
fn el2_with_e2h_has_both_halves_and_asids() {
    let e2h = Stage1 { world: StreamWorld::El2E2h, ..STREAM };
    assert_eq!(ContextDescriptor::decode(LOWER, &test_features(), &e2h), Ok(lower()));
    let disabled = ContextDescriptor::decode(lower_with(0, 1 << 14), &test_features(), &e2h);
    assert_eq!(disabled, Ok(ContextDescriptor { ttb0: None, ..lower() }));
    // EPD1 = 0 makes TTB1 count: TG1 0 is reserved.
    let upper = ContextDescriptor::decode(lower_with(1 << 30, 0), &test_features(), &e2h);
    assert_eq!(upper, Err(ContextError::Illegal { field: "TG1", value: 0 }));
    let narrow = Features { asid_bits: 8, ..test_features() };
    let refused = ContextDescriptor::decode(LOWER, &narrow, &e2h);
    assert_eq!(refused, Err(ContextError::Illegal { field: "ASID", value: 0x1234 }));
}

#[test]
fn el2_has_one_half_that_cannot_be_disabled() {
    let el2 = Stage1 { world: StreamWorld::El2, ..STREAM };
    // EPD1 = 0, EPD0, TBI1.
    let words = lower_with(1 << 30, 1 << 14 | 1 << 39);
    assert_eq!(ContextDescriptor::decode(words, &Features { asid_bits: 8, ..test_features() }, &el2), Ok(lower()));
}

#[test]
fn access_flags_of_tables_need_those_of_leaves() {
    // HAFT is w1[3]; it counts only where IDR0.HTTU is 3 (5.4).
    let mut words = LOWER;
    words[1] |= 1 << 3;
    let tables = Features { httu: Httu::Tables, ..test_features() };
    illegal(words, tables, "HAFT", 1);
    words[0] |= 1 << 43;
    assert!(ContextDescriptor::decode(words, &tables, &STREAM).is_ok());
    words[0] = LOWER[0];
    assert!(ContextDescriptor::decode(words, &Features { httu: Httu::Dirty, ..tables }, &STREAM).is_ok());
}

#[test]
fn level_1_descriptors_are_those_of_5_3() {
    let descriptor = L1ContextDescriptor { table: PhysAddr(0x00ab_8000_5000) };
    assert_eq!(descriptor.encode(), 0x00ab_8000_5001);
    assert_eq!(L1ContextDescriptor::decode(0xff00_00ab_8000_5fff), Some(descriptor));
    assert_eq!(L1ContextDescriptor::decode(0x00ab_8000_5000), None);
}

#[test]
fn smallest_halves_with_small_tables_are_of_16_bits_and_17_with_the_large_granule() {
    let features = Features { small_tables: true, ..test_features() };
    // TG0 0, 2 and 1: 4 KiB, 16 KiB, 64 KiB.
    for (granule, tsz, legal) in
        [(0, 48, true), (0, 49, false), (2, 48, true), (2, 49, false), (1, 47, true), (1, 48, false)]
    {
        let mut words = LOWER;
        words[0] = words[0] & !0xff | granule << 6 | tsz;
        assert_eq!(ContextDescriptor::decode(words, &features, &STREAM).is_ok(), legal, "TG0 {granule} T0SZ {tsz}");
    }
}

#[test]
fn unprivileged_access_is_disabled_by_bits_66_and_130() {
    // Bit 2 of the tables' words; both halves with 4 KiB tables, T1SZ 25, and EPD1 = 0.
    let features = Features { unprivileged_disable: true, ..test_features() };
    let mut words = lower_with(1 << 30, 25 << 16 | 2 << 22);
    words[2] = 0x9900_0000;
    for (lower, upper) in [(false, false), (true, false), (false, true)] {
        words[1] = 0x8800_0000 | u64::from(lower) << 2;
        words[2] = 0x9900_0000 | u64::from(upper) << 2;
        let cd = ContextDescriptor::decode(words, &features, &STREAM).unwrap();
        assert_eq!(cd.unprivileged_disabled, [lower, upper]);
        assert_eq!([cd.encode()[1], cd.encode()[2]], [words[1], words[2]]);
    }
    // Without IDR3.E0PD the bits mean nothing, nor at EL2, which has one privilege.
    words[1] |= 4;
    let cd = ContextDescriptor::decode(words, &test_features(), &STREAM).unwrap();
    assert_eq!(cd.unprivileged_disabled, [false, false]);
    let el2 = Stage1 { world: StreamWorld::El2, ..STREAM };
    assert_eq!(ContextDescriptor::decode(words, &features, &el2).unwrap().unprivileged_disabled, [false, false]);
}

#[test]
fn what_does_not_describe_tables_counts_without_them() {
    // EPD0 beside EPD1; TBI0, TBI1; E0PD0 and E0PD1 (5.4).
    let features = Features { unprivileged_disable: true, ..test_features() };
    for (word0, word1, word2) in [(0, 0, 0), (1 << 38, 0, 0), (1 << 39, 0, 0), (0, 4, 0), (0, 0, 4)] {
        let words = [0x1234_f204_4000_4000 | 1 << 31 | word0, word1, word2, LOWER[3], 0, 0, 0, 0];
        let cd = ContextDescriptor {
            ttb0: None,
            ignore_top_byte: [word0 == 1 << 38, word0 == 1 << 39],
            unprivileged_disabled: [word1 != 0, word2 != 0],
            ..lower()
        };
        assert_eq!(ContextDescriptor::decode(words, &features, &STREAM), Ok(cd));
        assert_eq!(cd.encode(), words);
    }
}

#[test]
fn largest_halves_are_of_48_bits_and_52_with_the_large_granule_where_there_are_so_many() {
    // VAX 1 and 0 (5.4, T0SZ); TG0 0, 2 and 1 are 4, 16 and 64 KiB.
    for (granule, tsz, va_bits, legal) in [
        (0, 16, 52, true),
        (0, 15, 52, false),
        (1, 12, 52, true),
        (1, 11, 52, false),
        (0, 16, 48, true),
        (0, 15, 48, false),
        (2, 16, 48, true),
        (2, 15, 48, false),
        (1, 16, 48, true),
        (1, 15, 48, false),
    ] {
        let words = lower_with(0xff, granule << 6 | tsz);
        let features = Features { va_bits, ..test_features() };
        let decoded = ContextDescriptor::decode(words, &features, &STREAM);
        assert_eq!(decoded.is_ok(), legal, "TG0 {granule} T0SZ {tsz} of {va_bits}");
    }
}

#[test]
fn asid_is_that_of_a_valid_descriptor() {
    assert_eq!(ContextDescriptor::asid_of(LOWER[0]), Some(Asid(0x1234)));
    assert_eq!(ContextDescriptor::asid_of(LOWER[0] & !(1 << 31)), None);
}

/// LOWER; the same of the upper half: T1SZ 25, IR1 1, OR1 1, SH1 3, TG1 2, EPD0; without tables; not valid. And the bits that
/// count in them.
const USED: [([u64; 8], [u64; 3]); 4] = [
    (LOWER, [!0x3fff_0000, !0, 0xfff0_0000_0000_000f]),
    ([0x1234_f204_b599_4000, 0, 0x8800_0000, 0xff44_0c04_00ff_44bb, 0, 0, 0, 0], [!0x3fff, 0xfff0_0000_0000_000f, !0]),
    (
        [0x1234_f204_c000_4000, 0, 0, 0xff44_0c04_00ff_44bb, 0, 0, 0, 0],
        [!0x3fff_3fff, 0xfff0_0000_0000_000f, 0xfff0_0000_0000_000f],
    ),
    ([0x1234_f204_4000_3519, 0x8800_0000, 0, 0, 0, 0, 0, 0], [1 << 31, 0, 0]),
];

#[test]
fn bits_that_count_are_those_of_the_halves_that_are_walked() {
    for (words, [first, second, third]) in USED {
        let rest = if words[0] & 1 << 31 == 0 { 0 } else { !0 };
        let used = [first, second, third, rest, rest, rest, rest, rest];
        assert_eq!(ContextDescriptor::used(&words), used, "{words:#x?}");
    }
}

proptest! {
    #[test]
    fn bits_that_do_not_count_change_nothing(noise: [u64; 8]) {
        for (words, _) in USED {
            let (used, mut noisy) = (ContextDescriptor::used(&words), words);
            noisy.iter_mut().zip(noise.iter().zip(used)).for_each(|(word, (noise, used))| *word ^= noise & !used);
            prop_assert_eq!(ContextDescriptor::used(&noisy), used);
            let meaning = |words| ContextDescriptor::decode(words, &test_features(), &STREAM);
            prop_assert_eq!(meaning(noisy), meaning(words));
        }
    }
}
