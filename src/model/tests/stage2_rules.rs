//! What each field of an STE that describes stage 2 does: 5.2.

use super::bench::*;
use super::direct::*;
use crate::model::profile::Profile;

/// RnW of word 1 of a record (7.3.13).
const RNW: u64 = 1 << 35;
/// The Access flag of a leaf.
const AF: u64 = 1 << 10;
/// Config = 0b110, valid.
const STAGE2_ALONE: u64 = 0xd;
/// Free memory for tables, aligned to 64 KiB.
const SPARE: u64 = 0x4013_0000;

/// Stage 2 alone, with this in word 2 and at this table, and all enabled that `profile` has beside PRI.
fn with(profile: Profile, word2: u64, table: u64) -> Direct {
    let mut direct = Direct::of(profile, 0);
    direct.enable(ALL_ON & !2);
    direct.set_ste(STAGE2_ALONE, STE1, word2);
    direct.set_ste_word(3, table);
    direct
}

/// Stage 2 alone, with these fields in word 2 beside S2R; 0x5000 is mapped.
fn stage2(word2: u64) -> Direct {
    let direct = with(Profile::Full, STE2 | S2R | word2, STAGE2);
    direct.map2(0x5000, DATA, S2_RW);
    direct
}

#[test]
fn attributes_of_stage2_tables_are_all_legal_and_flags_are_set_with_each() {
    // S2IR0, S2OR0, S2SH0, without and with S2HA.
    for attributes in 0..64 {
        for (flags, before) in [(0, S2_RW), (S2HA, S2_RW & !AF)] {
            let mut direct = stage2(0);
            direct.set_ste_word(2, STE2 & !(0x3f << 40) | attributes << 40 | S2R | flags);
            direct.map2(0x5000, DATA, before);
            assert_eq!(direct.reaches(0x5000, WRITE), DATA);
            assert_eq!(direct.peek(leaf2(0x5000)), DATA | S2_RW);
        }
    }
}

#[test]
fn smallest_s2t0sz_is_16_or_12() {
    // S2SL0 2: from level 1, with 4 KiB from level 0. IAS is 48 bits, and 52 in the big profile, where S2TG counts: 12 with 64
    // KiB (1), 16 with 4 KiB (0) and 16 KiB (2).
    for (profile, granule, t0sz, legal) in [
        (Profile::Full, 1, 15, false),
        (Profile::Full, 1, 16, true),
        (Profile::Big, 1, 11, false),
        (Profile::Big, 1, 12, true),
        (Profile::Big, 0, 15, false),
        (Profile::Big, 0, 16, true),
        (Profile::Big, 2, 15, false),
        (Profile::Big, 2, 16, true),
    ] {
        let mut direct = with(profile, 1 << 51 | 6 << 48 | granule << 46 | 2 << 38 | t0sz << 32 | S2R, SPARE);
        // C_BAD_STE or, nothing being mapped, F_TRANSLATION.
        let record = if legal { 0x10 } else { 0x04 };
        assert_eq!(direct.fault(0x5000, READ)[0] & 0xff, record, "S2TG {granule} S2T0SZ {t0sz}");
    }
}

#[test]
fn output_of_stage2_has_as_many_bits_as_s2ps_and_oas() {
    // OAS is 48 bits, as many as descriptors of 4 KiB have, and 44 in QEMU's SMMU.
    let sizes = [(0, 32), (1, 36), (2, 40), (3, 42), (4, 44), (5, 48), (6, 48), (7, 48)];
    let full = sizes.map(|(size, bits)| (Profile::Full, size, bits));
    for (profile, size, bits) in full.into_iter().chain([5, 6, 7].map(|size| (Profile::Qemu10, size, 44))) {
        let word2 = STE2 & !(7 << 48) | size << 48 | S2R;
        let mut direct = with(profile, word2, STAGE2);
        let highest = 1 << (bits - 1);
        direct.map2(0x6000, highest, S2_RW);
        assert_eq!(direct.reaches(0x6000, READ), highest);
        if bits < 48 {
            direct.map2(0x7000, highest << 1, S2_RW);
            assert_eq!(direct.fault(0x7000, READ), [0x100_0000_0011, S2 | IN | RNW, 0x7000, 0x7000], "{size}");
        }
        // The table has no more of them either: C_BAD_STE.
        let mut direct = with(profile, word2, highest << 1);
        assert_eq!(direct.fault(0x5000, READ)[0], 0x100_0000_0004);
    }
}

#[test]
fn hardware_sets_the_access_flag_of_stage2() {
    // S2HA; S2AFFD is ignored with it.
    for affd in [0, 1 << 53] {
        let mut direct = stage2(S2HA | affd);
        direct.change2(0x5000, |leaf| leaf & !AF);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
        assert_eq!(direct.peek(leaf2(0x5000)), DATA | S2_RW);
    }
    // S2HD without S2HA does nothing.
    let mut direct = stage2(S2HD);
    direct.change2(0x5000, |leaf| leaf & !AF);
    assert_eq!(direct.fault(0x5000, READ)[0], 0x100_0000_0012);
    direct.map2(0x5000, DATA, S2_RW & !(1 << 7) | 1 << 51);
    assert_eq!(direct.fault(0x5000, WRITE)[0], 0x100_0000_0013);
    assert_eq!(direct.peek(leaf2(0x5000)), DATA | S2_RW & !(1 << 7) | 1 << 51);
}

#[test]
fn protected_walk_keeps_cds_and_tables_out_of_devices() {
    // MemAttr is bits 5:2 of a leaf: 0 to 3 are the four kinds of Device, 5 is Normal Non-cacheable. CLASS is CD or TT; TTRnW
    // is bit 44.
    let of_type = |direct: &Direct, ipa, kind: u64| direct.change2(ipa, |leaf| leaf & !(0xf << 2) | kind << 2);
    for (ipa, class) in [(IPA_OF_CD, 0), (IPA_OF_TABLE, 1 << 40 | 1 << 44)] {
        for kind in [0, 1, 2, 3, 5] {
            let mut direct = Direct::nested_in_pages(0, CD_A);
            of_type(&direct, ipa, kind);
            assert_eq!(direct.reaches(0x5008, READ), DATA + 8);
            let mut direct = Direct::nested_in_pages(S2PTW, CD_A);
            of_type(&direct, ipa, kind);
            if kind == 5 {
                assert_eq!(direct.reaches(0x5008, READ), DATA + 8);
            } else {
                let record = [0x100_0000_0013, S2 | RNW | class, 0x5008, ipa];
                assert_eq!(direct.fault(0x5008, READ), record, "{kind}");
            }
        }
    }
    // It means nothing to a stream of stage 2 alone.
    let mut direct = stage2(S2PTW);
    of_type(&direct, 0x5000, 0);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
}

#[test]
fn first_table_of_stage2_is_aligned_whatever_s2ttb_holds() {
    // 39 bits: one table. 43 bits: 16 of them side by side, 64 KiB.
    for (t0sz, bits) in [(25, 0xff0), (21, 0xfff0)] {
        let mut direct = with(Profile::Full, STE2 & !(0x3f << 32) | t0sz << 32 | S2R, STAGE2 | bits);
        direct.map2(0x5000, DATA, S2_RW);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
    }
}

#[test]
fn small_first_table_of_stage2_is_aligned_to_64_bytes_with_52_bits() {
    // 64 KiB granule, 31 bits from level 2: 4 descriptors. The second table at 0x20 maps 512 MiB at its number 2.
    for (size, at) in [(6, 0), (5, 0x20)] {
        let word2 = 1 << 51 | size << 48 | 1 << 46 | 1 << 38 | 33 << 32 | S2R;
        let mut direct = with(Profile::Big, word2, SPARE | 0x20);
        direct.poke(SPARE + at + 16, 0x4000_0000 | BLOCK_RW);
        assert_eq!(direct.reaches(0x4020_0000, READ), DATA);
    }
}

#[test]
fn table_of_stage2_beyond_48_bits_needs_the_large_granule() {
    for (granule, record) in [(0, 0x04), (2 << 46, 0x04), (1 << 46, 0x0b)] {
        // S2PS 6: 52 bits. C_BAD_STE, or F_WALK_EABT of a table that is not there.
        let mut direct = with(Profile::Big, STE2 & !(7 << 48) | 6 << 48 | granule | S2R, 1 << 48);
        assert_eq!(direct.fault(0x5000, READ)[0] & 0xff, record);
    }
}
