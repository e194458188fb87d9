//! What each field of a CD does, and where it does nothing: 5.4.

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::profile::Profile;

// Word 1 of a record (7.3.13): RnW, CLASS = IN.
const RNW: u64 = 1 << 35;
const IN: u64 = 2 << 40;

// Fields of CD word 0.
const EPD0: u64 = 1 << 14;
const ENDI: u64 = 1 << 15;
const EPD1: u64 = 1 << 30;
const AFFD: u64 = 1 << 35;
const UWXN: u64 = 1 << 37;
const TBI1: u64 = 1 << 39;
const PAN: u64 = 1 << 40;
const HD: u64 = 1 << 42;
const HA: u64 = 1 << 43;
/// T1SZ 25 and TG1 4 KiB.
const UPPER: u64 = 25 << 16 | 2 << 22;
/// STE.STRW for NS-EL2.
const EL2: u64 = 2 << 30;

/// The Access flag of a leaf, and its AP[2] and DBM.
const AF: u64 = 1 << 10;
const DBM: u64 = 1 << 51;
const UXN: u64 = 1 << 54;

/// The first page of the upper half, 39 bits.
const TOP: u64 = 0xffff_ff80_0000_0000;
/// Free memory for tables, aligned to 64 KiB.
const SPARE: u64 = 0x4013_0000;

/// Stage 1 alone with `word0` in the CD; 0x5000 is mapped in the lower half.
fn with(word0: u64) -> Direct {
    let direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, 0);
    direct.poke(CDS, word0);
    direct.map(0x5000, DATA, PAGE_RW);
    direct
}

/// The CD of the other tests with these flags, recording.
fn flags(flags: u64) -> Direct {
    with(CD0 | CD_R | CD_A | flags)
}

/// Both halves through the same tables, with these flags.
fn both_halves(more: u64) -> Direct {
    let direct = flags(0);
    direct.poke(CDS + 16, TABLES);
    direct.poke(CDS, CD0 & !EPD1 | UPPER | CD_R | CD_A | more);
    direct
}

/// F_TRANSLATION of a read.
fn unmapped(address: u64) -> [u64; 4] {
    [0x100_0000_0010, IN | RNW, address, 0]
}

#[test]
fn upper_half_ends_where_t1sz_says() {
    let mut direct = both_halves(0);
    assert_eq!(direct.reaches(TOP + 0x5000, READ), DATA);
    // The second one has bits 38:0 of the page that is mapped, and one above them that is 0.
    for address in [TOP - 0x1000, 0xffff_ff00_0000_5000] {
        assert_eq!(direct.fault(address, READ), unmapped(address));
    }
}

#[test]
fn top_byte_of_the_upper_half_counts_unless_tbi1_is_set() {
    let tagged = TOP & !(0xff << 56) | 0xab << 56;
    let mut direct = both_halves(0);
    assert_eq!(direct.fault(tagged + 0x5000, READ), unmapped(tagged + 0x5000));
    let mut direct = both_halves(TBI1);
    assert_eq!(direct.reaches(tagged + 0x5000, READ), DATA);
    // Bit 55 chooses the half and TBI0: of the lower one the top byte still counts.
    assert_eq!(direct.fault(0xab << 56 | 0x5000, READ), unmapped(0xab << 56 | 0x5000));
}

#[test]
fn fields_of_a_disabled_upper_half_mean_nothing() {
    // T1SZ, TG1, IR1, OR1, SH1; TTB1.
    for bits in [0, 0x3f << 16, 3 << 22, 0x3fff << 16] {
        let mut direct = with(CD0 | bits | CD_R | CD_A);
        direct.poke(CDS + 16, !0);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
        assert_eq!(direct.fault(TOP + 0x5000, READ), unmapped(TOP + 0x5000));
    }
}

#[test]
fn fields_of_a_disabled_lower_half_mean_nothing() {
    // T0SZ, TG0, IR0, OR0, SH0; TTB0.
    for bits in [0, 0x3fff] {
        let mut direct = with(CD0 & !0x3fff & !EPD1 | bits | EPD0 | UPPER | CD_R | CD_A);
        direct.poke(CDS + 8, !0);
        direct.poke(CDS + 16, TABLES);
        assert_eq!(direct.reaches(TOP + 0x5000, READ), DATA);
        assert_eq!(direct.fault(0x5000, READ), unmapped(0x5000));
    }
}

#[test]
fn bad_half_makes_the_cd_bad_for_both() {
    // EPD0, EPD1 and an invalid T0SZ or T1SZ, as in the table of 5.4.1.1.
    for (word0, tsz) in
        [(CD0 & !EPD1 | UPPER, 0), (CD0 & !EPD1 | UPPER, 16), (CD0, 0), (CD0 & !EPD1 | UPPER | EPD0, 16)]
    {
        let mut direct = with(word0 & !(0x3f << tsz) | 63 << tsz | CD_R | CD_A);
        direct.poke(CDS + 16, TABLES);
        for address in [0x5000, TOP + 0x5000] {
            assert_eq!(direct.fault(address, READ), [0x100_0000_000a, 0, 0, 0], "{word0:x} {tsz}");
        }
    }
}

#[test]
fn cd_without_halves_is_legal_and_translates_nothing() {
    // ENDI, which would be ILLEGAL, is ignored then; as are both halves' fields.
    for endianness in [0, ENDI] {
        let mut direct = with(CD0 | 0x3fff | 0x3fff << 16 | EPD0 | endianness | CD_R | CD_A);
        for address in [0x5000, TOP + 0x5000] {
            assert_eq!(direct.fault(address, READ), unmapped(address));
        }
    }
    let mut direct = with(CD0 | ENDI | CD_R | CD_A);
    assert_eq!(direct.fault(0x5000, READ)[0], 0x100_0000_000a);
}

#[test]
fn granule_of_the_upper_half_has_no_0() {
    let mut direct = with(CD0 & !EPD1 | 25 << 16 | CD_R | CD_A);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_000a, 0, 0, 0]);
    assert_eq!(with(CD0 | 25 << 16).reaches(0x5000, READ), DATA);
}

#[test]
fn halves_have_granules_and_sizes_of_their_own() {
    // The upper one: T1SZ 22, 42 bits, TG1 64 KiB (0b11): level 2 of 512 MiB, and a page.
    let mut direct = with(CD0 & !EPD1 | 22 << 16 | 3 << 22 | CD_R | CD_A);
    direct.poke(CDS + 16, SPARE);
    direct.poke(SPARE, (SPARE + 0x1_0000) | 3);
    direct.poke(SPARE + 0x1_0000 + 5 * 8, DATA | PAGE_RW);
    assert_eq!(direct.reaches(0xffff_fc00_0005_6788, READ), DATA + 0x6788);
    assert_eq!(direct.reaches(0x5678, READ), DATA + 0x678);
}

#[test]
fn attributes_of_tables_and_memory_are_all_legal() {
    // IR0, OR0, SH0 and IR1, OR1, SH1, with and without updates of flags; MAIR0, MAIR1.
    for attributes in 0..64 {
        for update in [0, HA] {
            let mut direct = both_halves(update);
            let word0 = direct.peek(CDS) & !(0x3f << 8) & !(0x3f << 24);
            direct.poke(CDS, word0 | attributes << 8 | attributes << 24);
            direct.poke(CDS + 24, attributes * 0x0404_0404_0404_0404);
            for address in [0x5000, TOP + 0x5000] {
                direct.map(0x5000, DATA, if update == 0 { PAGE_RW } else { PAGE_RW & !AF });
                assert_eq!(direct.reaches(address, READ), DATA);
                assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RW);
            }
        }
    }
    // AttrIndx.
    for index in 0..8 {
        let mut direct = flags(0);
        direct.map(0x5000, DATA, PAGE_RW | index << 2);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
    }
}

/// IPS, and how many bits an address has with it: where OAS is 48 bits, as many as descriptors of 4 KiB have, and where it
/// is 44.
const OUTPUT_SIZES: [(Profile, u64, u32); 10] = [
    (Profile::Full, 1, 36),
    (Profile::Full, 2, 40),
    (Profile::Full, 3, 42),
    (Profile::Full, 4, 44),
    (Profile::Full, 5, 48),
    (Profile::Full, 6, 48),
    (Profile::Full, 7, 48),
    (Profile::Qemu10, 5, 44),
    (Profile::Qemu10, 6, 44),
    (Profile::Qemu10, 7, 44),
];

/// Both halves through the same tables, with this IPS.
fn with_output_size(profile: Profile, size: u64) -> Direct {
    let mut direct = Direct::of(profile, 0);
    direct.enable(ALL_ON & !2);
    direct.stage1(0, 0);
    direct.poke(CDS + 16, TABLES);
    direct.poke(CDS, CD0 & !EPD1 & !(7 << 32) | UPPER | size << 32 | CD_R | CD_A);
    direct
}

#[test]
fn output_of_stage1_has_as_many_bits_as_ips_and_oas() {
    for (profile, size, bits) in OUTPUT_SIZES {
        let mut direct = with_output_size(profile, size);
        let highest = 1 << (bits - 1);
        direct.map(0x6000, highest, PAGE_RW);
        assert_eq!(direct.reaches(0x6000, READ), highest);
        if bits < 48 {
            direct.map(0x7000, highest << 1, PAGE_RW);
            assert_eq!(direct.fault(0x7000, READ), [0x100_0000_0011, IN | RNW, 0x7000, 0], "{size}");
        }
    }
}

#[test]
fn first_tables_of_stage1_have_as_many_bits_as_ips_and_oas() {
    // F_WALK_EABT of a table that is not there, and C_BAD_CD, for both halves.
    for (profile, size, bits) in OUTPUT_SIZES {
        for (ttb, address) in [(CDS + 8, 0x5000), (CDS + 16, TOP + 0x5000)] {
            for (table, record) in [(1 << (bits - 1), 0x0b), (1 << bits, 0x0a)] {
                let mut direct = with_output_size(profile, size);
                direct.poke(ttb, table);
                assert_eq!(direct.fault(address, READ)[0], 0x100_0000_0000 | record, "{table:x}");
            }
        }
    }
}

#[test]
fn ips_counts_before_stage2_does() {
    // IPS is 32 bits; stage 2 has no such IPA, and says nothing.
    let mut direct = Direct::nested_in_pages(0, 0);
    direct.poke(CDS + 0x40, CD0 & !(7 << 32) | CD_R | CD_A);
    direct.poke(TABLES + 0x2028, 1 << 32 | PAGE_RW);
    assert_eq!(direct.fault(0x5000, READ), [0x100_0000_0011, IN | RNW, 0x5000, 0]);
    // Nor is a TTB0 or TTB1 beyond IPS one of its addresses.
    for (lower, upper) in [(1 << 32, TABLES), (TABLES, 1 << 32)] {
        direct.poke(CDS + 0x48, lower);
        direct.poke(CDS + 0x50, upper);
        direct.poke(CDS + 0x40, CD0 & !EPD1 & !(7 << 32) | UPPER | CD_R | CD_A);
        direct.invalidate();
        assert_eq!(direct.fault(0x5000, READ), [0x100_0000_000a, 0, 0, 0]);
    }
}

#[test]
fn hardware_sets_the_access_flag_of_stage1() {
    // AFFD is ignored with HA.
    for affd in [0, AFFD] {
        let mut direct = flags(HA | affd);
        direct.map(0x5000, DATA, PAGE_RW & !AF);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
        assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RW);
    }
}

#[test]
fn hardware_makes_stage1_pages_dirty_with_both_flags_alone() {
    let mut direct = flags(HA | HD);
    direct.map(0x5000, DATA, PAGE_RO | DBM);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RW | DBM);
    // HD alone, and none of them: nothing is written.
    for update in [HD, 0] {
        let mut direct = flags(update);
        direct.map(0x5000, DATA, PAGE_RO | DBM);
        assert_eq!(direct.fault(0x5000, WRITE)[0], 0x100_0000_0013);
        direct.map(0x6000, DATA, PAGE_RW & !AF);
        assert_eq!(direct.fault(0x6000, READ)[0], 0x100_0000_0012);
        let leaves = [TABLES + 0x2028, TABLES + 0x2030].map(|at| direct.peek(at));
        assert_eq!(leaves, [DATA | PAGE_RO | DBM, DATA | PAGE_RW & !AF]);
    }
}

#[test]
fn access_flag_that_is_not_needed_stays_clear() {
    let mut direct = flags(AFFD);
    direct.map(0x5000, DATA, PAGE_RW & !AF);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RW & !AF);
}

#[test]
fn uwxn_changes_nothing() {
    for flag in [0, UWXN] {
        let mut direct = flags(flag);
        assert_eq!(direct.reaches(0x5000, FETCH), DATA);
    }
}

#[test]
fn pan_goes_by_the_privilege_that_privcfg_gives() {
    // PRIVCFG 3 makes every access privileged, 2 none.
    for (privcfg, access, permitted) in [(3, READ, false), (3, WRITE, false), (2, privileged(READ), true)] {
        let mut direct = flags(PAN);
        direct.set_ste_word(1, STE1 | privcfg << 48);
        assert_eq!(direct.access(0x5000, access) != Response::Abort, permitted);
    }
    // NS-EL2 knows no PAN.
    let mut direct = flags(PAN);
    direct.set_ste_word(1, STE1 | EL2);
    assert_eq!(direct.reaches(0x5000, privileged(READ)), DATA);
}

#[test]
fn pan_keeps_privileged_data_accesses_out_of_unprivileged_pages() {
    let mut direct = flags(PAN);
    for access in [READ, WRITE, FETCH] {
        assert_eq!(direct.reaches(0x5000, access), DATA);
    }
    let record = |direct: &mut Direct, access| direct.fault(0x5000, access)[0];
    assert_eq!([READ, WRITE].map(|access| record(&mut direct, privileged(access))), [0x100_0000_0013; 2]);
    direct.map(0x6000, DATA, PAGE_RO);
    assert_eq!(direct.reaches(0x6000, privileged(FETCH)), DATA);
}

#[test]
fn el2_has_the_lower_half_alone() {
    // TBI1 and TTB1 are not there: bit 55 is a bit of the address, and the top byte counts.
    for tbi in [0, TBI1] {
        let mut direct = both_halves(tbi);
        direct.set_ste_word(1, STE1 | EL2);
        assert_eq!(direct.reaches(0x5000, READ), DATA);
        for address in [TOP + 0x5000, 0xab80_0000_0000_5000, 1 << 55 | 0x5000, 0xab << 56 | 0x5000] {
            assert_eq!(direct.fault(address, READ), unmapped(address));
        }
    }
}

#[test]
fn el2_with_e2h_has_the_upper_half_too() {
    let mut direct = Direct::enabled(ALL_ON, 1);
    direct.stage1(EL2, 0);
    direct.poke(CDS + 16, TABLES);
    direct.poke(CDS, CD0 & !EPD1 | UPPER | CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    for address in [0x5000, TOP + 0x5000] {
        assert_eq!(direct.reaches(address, READ), DATA);
    }
}

#[test]
fn each_half_decides_about_the_limits_of_its_own_tables() {
    // HAD0 is bit 1 of word 1, HAD1 of word 2. UXNTable is bit 60 of a table descriptor.
    for (had0, had1) in [(0, 0), (2, 0), (0, 2)] {
        let mut direct = both_halves(0);
        direct.poke(TABLES, direct.peek(TABLES) | 1 << 60);
        direct.poke(CDS + 8, TABLES | had0);
        direct.poke(CDS + 16, TABLES | had1);
        for (address, had) in [(0x5000, had0), (TOP + 0x5000, had1)] {
            assert_eq!(direct.access(address, FETCH) != Response::Abort, had != 0, "{had0} {had1} {address:x}");
        }
    }
    // The leaf's own UXN still counts.
    let mut direct = flags(0);
    direct.map(0x5000, DATA, PAGE_RW | UXN);
    direct.poke(CDS + 8, TABLES | 2);
    assert_eq!(direct.fault(0x5000, FETCH)[0], 0x100_0000_0013);
}

#[test]
fn first_table_of_stage1_is_aligned_whatever_ttb0_and_ttb1_hold() {
    let mut direct = both_halves(0);
    for ttb in [CDS + 8, CDS + 16] {
        direct.poke(ttb, TABLES | 0xff0);
    }
    for address in [0x5000, TOP + 0x5000] {
        assert_eq!(direct.reaches(address, READ), DATA);
    }
    // T0SZ and T1SZ 33, 31 bits: two descriptors of level 1, of which that at 0x30 leads on, with 48 bits.
    let mut direct = with(CD0 & !0x3f & !EPD1 | 33 | 33 << 16 | 2 << 22 | CD_R | CD_A);
    direct.poke(SPARE + 0x30, direct.peek(TABLES));
    for ttb in [CDS + 8, CDS + 16] {
        direct.poke(ttb, SPARE | 0x30);
    }
    for address in [0x5000, 0xffff_ffff_8000_5000] {
        assert_eq!(direct.reaches(address, READ), DATA);
    }
}

#[test]
fn small_first_table_of_stage1_is_aligned_to_64_bytes_with_52_bits() {
    // 64 KiB granule (TG0 1, TG1 3), 31 bits from level 2: 4 descriptors, 32 bytes. The third maps 512 MiB.
    for (size, at) in [(6, 0), (5, 0x20)] {
        let mut direct = Direct::of(Profile::Big, 0);
        direct.enable(ALL_ON);
        direct.stage1(0, 0);
        direct.poke(CDS + 8, SPARE | 0x20);
        direct.poke(CDS + 16, SPARE | 0x20);
        let halves = 1 << 6 | 33 | 3 << 22 | 33 << 16;
        direct.poke(CDS, CD0 & !(7 << 32) & !0x3f & !EPD1 | size << 32 | halves | CD_R | CD_A);
        direct.poke(SPARE + at + 16, 0x4000_0000 | PAGE_RW & !2);
        for address in [0x4020_0000, 0xffff_ffff_c020_0000] {
            assert_eq!(direct.reaches(address, READ), DATA);
        }
    }
}

#[test]
fn table_of_stage1_beyond_48_bits_needs_the_large_granule() {
    // TG0 and TG1 for 4, 16 and 64 KiB. C_BAD_CD, or F_WALK_EABT of a table that is not there.
    for (lower, upper, record) in [(0, 2, 0x0a), (2, 1, 0x0a), (1, 3, 0x0b)] {
        let upper = CD0 & !EPD1 | EPD0 | 25 << 16 | upper << 22;
        for (word0, ttb, address) in [(CD0 | lower << 6, CDS + 8, 0x5000), (upper, CDS + 16, TOP + 0x5000)] {
            let mut direct = Direct::of(Profile::Big, 0);
            direct.enable(ALL_ON);
            direct.stage1(0, 0);
            direct.poke(ttb, 1 << 48);
            direct.poke(CDS, word0 & !(7 << 32) | 6 << 32 | CD_R | CD_A);
            assert_eq!(direct.fault(address, READ)[0] & 0xff, record, "{word0:x}");
        }
    }
}

#[test]
fn bits_without_a_meaning_change_nothing_in_a_cd() {
    // NSCFG0 and NSCFG1; what lies above the TTB0 and TTB1 of VMSAv8-64, bits 51:4; AMAIR0 and AMAIR1; the rest.
    for (word, bits) in [(1, 1), (1, 0xfff << 52), (2, 1), (2, 0xfff << 52), (4, !0), (5, !0), (6, !0), (7, !0)] {
        let mut direct = both_halves(0);
        direct.poke(CDS + word * 8, direct.peek(CDS + word * 8) | bits);
        for half in [0, TOP] {
            assert_eq!(direct.reaches(half | 0x5000, WRITE), DATA, "{word} {bits:x}");
            assert_eq!(direct.fault(half | 0x6000, READ), unmapped(half | 0x6000));
        }
    }
}

#[test]
fn cd_is_legal_for_one_stream_and_bad_for_another() {
    // S1STALLD of the second one's STE.
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_S | CD_A);
    bench.set_ste(0x101, STE0_STAGE1 | CDS, STE1 | S1STALLD);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.write_word(0, 0x5000);
    bench.write_word(1, 0x5000);
    assert_eq!((bench.state(0), bench.state(1)), (2, 3));
    assert_eq!(bench.take_event(), [0x101_0000_000a, 0, 0, 0]);
}

#[test]
fn cd_that_could_not_be_read_is_read_again() {
    // Aborted, and not mapped by stage 2.
    let mut direct = Direct::nested_in_pages(0, CD_A);
    direct.refuse_reads(CDS..TABLES);
    assert_eq!(direct.fault(0x5000, READ)[0], 0x100_0000_0009);
    direct.refuse_reads(0..0);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    let mut direct = Direct::nested_in_pages(0, CD_A);
    direct.change2(IPA_OF_CD, |leaf| leaf & !1);
    assert_eq!(direct.fault(0x5000, READ)[0], 0x100_0000_0010);
    direct.change2(IPA_OF_CD, |leaf| leaf | 1);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
}

#[test]
fn fault_flags_need_no_tlbi() {
    let mut direct = flags(0);
    // 0x5000 is translated before: a write to a read-only page is refused by what is cached too.
    direct.map(0x5000, DATA, PAGE_RO);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    for (fault_flags, records, response) in
        [(CD_R | CD_A, 1, Response::Abort), (CD_A, 0, Response::Abort), (CD_R, 1, Response::Ignored)]
    {
        direct.poke(CDS, CD0 | fault_flags);
        // CFGI_CD, SYNC.
        direct.command([0x05 | STREAM << 32, 1]);
        direct.command([0x46, 0]);
        assert_eq!(direct.access(0x5000, WRITE), response);
        assert_eq!(direct.take_events().len(), records);
    }
    direct.poke(CDS, CD0 | CD_S | CD_A);
    direct.command([0x05 | STREAM << 32, 1]);
    direct.command([0x46, 0]);
    direct.stall(0x5000, WRITE);
}

/// E0PD0 and E0PD1: bit 2 of the word of the table (bits 66 and 130 of the CD).
const E0PD: u64 = 1 << 2;

#[test]
fn unprivileged_access_to_a_half_with_e0pd_is_a_translation_fault() {
    for (lower, upper) in [(0, 0), (E0PD, 0), (0, E0PD)] {
        let mut direct = both_halves(0);
        direct.poke(CDS + 8, TABLES | lower);
        direct.poke(CDS + 16, TABLES | upper);
        for (address, prevented) in [(0x5000, lower != 0), (TOP + 0x5000, upper != 0)] {
            // The TLB holds the page from now on.
            assert_eq!(direct.reaches(address, privileged(READ)), DATA);
            if prevented {
                assert_eq!(direct.fault(address, READ), unmapped(address));
                assert_eq!(direct.fault(address, WRITE), [0x100_0000_0010, IN, address, 0]);
            } else {
                assert_eq!(direct.reaches(address, READ), DATA);
            }
        }
    }
}

#[test]
fn fault_of_e0pd_stalls_is_silent_and_aborts_as_any_translation_fault() {
    let mut direct = both_halves(CD_S);
    direct.poke(CDS + 8, TABLES | E0PD);
    direct.stall(0x5000, READ);
    assert_eq!(untagged(direct.take_event()), [0x100_0000_0010, STALL | IN | RNW, 0x5000, 0]);
    // R = 0, and A = 0.
    for (fault_flags, response, records) in [(CD_A, Response::Abort, 0), (CD_R, Response::Ignored, 1)] {
        let mut direct = with(CD0 | fault_flags);
        direct.poke(CDS + 8, TABLES | E0PD);
        assert_eq!(direct.access(0x5000, READ), response);
        assert_eq!(direct.take_events().len(), records);
    }
}

#[test]
fn e0pd_goes_by_the_privilege_after_the_overrides_of_the_ste() {
    // PRIVCFG: 0b10 makes unprivileged, 0b11 privileged.
    for (privcfg, access, passes) in [(3, READ, true), (2, privileged(READ), false)] {
        let mut direct = flags(0);
        direct.set_ste(STE0_STAGE1 | CDS, STE1 | privcfg << 48, 0);
        direct.poke(CDS + 8, TABLES | E0PD);
        assert_eq!(matches!(direct.access(0x5000, access), Response::Physical(_)), passes);
    }
}

#[test]
fn e0pd_counts_at_el1_and_at_el2_with_e2h_and_not_without_nor_without_the_feature() {
    // EL2, EL2 with E2H, NS-EL1.
    for (cr2, world, prevented) in [(0, EL2, false), (1, EL2, true), (0, 0, true)] {
        let mut direct = Direct::enabled(ALL_ON, cr2);
        direct.set_ste(STE0_STAGE1 | CDS, STE1 | world, 0);
        direct.set_cd(CD_R | CD_A, TABLES | E0PD);
        direct.map(0x5000, DATA, PAGE_RW);
        assert_eq!(direct.access(0x5000, READ) == Response::Abort, prevented);
    }
    // SMMUv3.1: IDR3.E0PD is 0.
    let mut direct = Direct::of(Profile::Qemu10, 0);
    direct.enable(0xd);
    direct.stage1(0, CD_R | CD_A);
    direct.set_cd(CD_R | CD_A, TABLES | E0PD);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.reaches(0x5000, READ), DATA);
}
