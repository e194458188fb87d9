//! Stage 1 translation and its faults: 3.4, 5.5, 7.3.12 to 7.3.16, 7.3.22.

use super::bench::*;

const STREAM: u64 = 0x100;

/// Engine 0's stream terminates faults, records them, and aborts.
fn terminating() -> Bench {
    let bench = Bench::enabled();
    bench.attach(STREAM, 0, 0, CD_R | CD_A);
    bench
}

/// Word 1 of a record that is not stalled, CLASS = IN: of a write, and of a read.
const WRITE: u64 = 0x200_0000_0000;
const READ: u64 = 0x208_0000_0000;

#[test]
fn mapped_page_is_written_and_read() {
    let mut bench = terminating();
    bench.map(0, 0x7f_ffff_f000, DATA, PAGE_RW);
    bench.map(0, 0x5000, DATA + 0x1000, PAGE_RW);
    bench.write_word(0, 0x7f_ffff_f008);
    bench.copy(0, 0x7f_ffff_f008, 0x5010, 8);
    assert_eq!(bench.state(0), 2);
    assert_eq!(bench.peek(DATA + 0x1010), 0x1122_3344_5566_7788);
    assert_eq!(bench.take_events().len(), 0);
}

#[test]
fn unmapped_page_is_a_translation_fault() {
    let mut bench = terminating();
    bench.write_word(0, 0x5008);
    assert_eq!(bench.state(0), 3);
    assert_eq!(bench.take_event(), [0x100_0000_0010, WRITE, 0x5008, 0]);
    bench.read_word(0, 0x5008);
    assert_eq!(bench.take_event(), [0x100_0000_0010, READ, 0x5008, 0]);
    // A missing table instead of a missing page.
    bench.write_word(0, 0x40_0000_0000);
    assert_eq!(bench.take_event()[0], 0x100_0000_0010);
}

#[test]
fn address_outside_t0sz_is_a_translation_fault() {
    let mut bench = terminating();
    bench.map(0, 0, DATA, PAGE_RW);
    for address in [0x80_0000_0000, 0x0100_0000_0000_0000, 0xffff_ff80_0000_0000] {
        bench.write_word(0, address);
        assert_eq!(bench.take_event(), [0x100_0000_0010, WRITE, address, 0]);
    }
}

#[test]
fn top_byte_is_ignored_only_when_the_cd_says_so() {
    let mut bench = terminating();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.attach(STREAM, 0, 0, CD_R | CD_A | 1 << 38);
    bench.write_word(0, 0xab00_0000_0000_5000);
    assert_eq!(bench.state(0), 2);
    bench.write_word(0, 0xab01_0000_0000_5000);
    assert_eq!(bench.take_event()[2], 0xab01_0000_0000_5000);
}

#[test]
fn disabled_lower_half_is_a_translation_fault() {
    let mut bench = terminating();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.attach(STREAM, 0, 0, CD_R | CD_A | 1 << 14);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.take_event()[0], 0x100_0000_0010);
}

#[test]
fn upper_half_goes_through_ttb1() {
    let mut bench = terminating();
    bench.map(1, 0x5000, DATA, PAGE_RW);
    // EPD1 = 0, T1SZ = 25 in w0[21:16], TG1 = 4 KiB (0b10) in w0[23:22], TTB1 in word 2 (5.4).
    bench.poke(CDS + 16, TABLES + 0x1000);
    bench.poke(CDS, (CD0 | CD_R | CD_A) & !(1 << 30) | 25 << 16 | 2 << 22);
    bench.write_word(0, 0xffff_ff80_0000_5000);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, 0x1122_3344_5566_7788));
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 3, "the lower half has no such page");
}

#[test]
fn output_beyond_ips_is_an_address_size_fault() {
    let mut bench = terminating();
    // IPS = 32 bits.
    bench.attach(STREAM, 0, 0, CD_R | CD_A);
    bench.poke(CDS, (CD0 | CD_R | CD_A) & !(7 << 32));
    bench.map(0, 0x5000, 0x1_0000_0000, PAGE_RW);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.take_event(), [0x100_0000_0011, WRITE, 0x5000, 0]);
    // From a table, too.
    bench.poke(TABLES + 8, 0x1_0000_0003);
    bench.write_word(0, 0x4000_0000);
    assert_eq!(bench.take_event(), [0x100_0000_0011, WRITE, 0x4000_0000, 0]);
}

#[test]
fn clear_access_flag_is_an_access_fault() {
    let mut bench = terminating();
    bench.map(0, 0x5000, DATA, PAGE_RW & !(1 << 10));
    bench.write_word(0, 0x5000);
    assert_eq!(bench.take_event(), [0x100_0000_0012, WRITE, 0x5000, 0]);
    // AFFD: no such fault.
    bench.attach(STREAM, 0, 0, CD_R | CD_A | 1 << 35);
    bench.forget_configuration(STREAM);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 2);
}

#[test]
fn permissions_are_checked_last() {
    let mut bench = terminating();
    bench.map(0, 0x5000, DATA, PAGE_RO);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.take_event(), [0x100_0000_0013, WRITE, 0x5000, 0]);
    // Privileged only: AP[1] = 0.
    bench.map(0, 0x6000, DATA, PAGE_RW & !(1 << 6));
    bench.read_word(0, 0x6000);
    assert_eq!(bench.take_event(), [0x100_0000_0013, READ, 0x6000, 0]);
    // Access flag before permission.
    bench.map(0, 0x7000, DATA, PAGE_RO & !(1 << 10));
    bench.write_word(0, 0x7000);
    assert_eq!(bench.take_event()[0], 0x100_0000_0012);
}

#[test]
fn tables_limit_what_is_behind_them() {
    for (bit, reads) in [(62, true), (61, false)] {
        let mut bench = terminating();
        bench.map(0, 0x5000, DATA, PAGE_RW);
        bench.poke(TABLES, bench.peek(TABLES) | 1 << bit);
        bench.write_word(0, 0x5000);
        assert_eq!(bench.take_event()[0], 0x100_0000_0013);
        bench.map(0, 0x4000_0000, DATA + 0x1000, PAGE_RW);
        bench.copy(0, 0x5000, 0x4000_0000, 8);
        assert_eq!(bench.state(0) == 2, reads);
    }
}

#[test]
fn blocks_translate_with_their_offset() {
    let mut bench = terminating();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    let level2 = bench.peek(TABLES) & !0xfff;
    // 2 MiB at 0x20_0000, 1 GiB at 0x4000_0000.
    bench.poke(level2 + 8, DATA | PAGE_RW & !2);
    bench.poke(TABLES + 8, 0x4000_0000 | PAGE_RW & !2);
    bench.write_word(0, 0x20_0000 + 0x1_2340);
    assert_eq!(bench.peek(DATA + 0x1_2340), 0x1122_3344_5566_7788);
    bench.write_word(0, DATA + 0x4560);
    assert_eq!(bench.peek(DATA + 0x4560), 0x1122_3344_5566_7788);
    // Not a page: bit 1 clear at level 3.
    bench.map(0, 0x6000, DATA, PAGE_RW & !2);
    bench.write_word(0, 0x6000);
    assert_eq!(bench.take_event()[0], 0x100_0000_0010);
}

#[test]
fn four_levels_translate_48_bits() {
    let mut bench = terminating();
    bench.map(0, 0x5000, DATA, PAGE_RW);
    let level0 = TABLES + 0x8_0000;
    bench.poke(level0 + 0x1ff * 8, TABLES | 3);
    bench.poke(CDS + 8, level0);
    bench.poke(CDS, (CD0 | CD_R | CD_A) & !0x3f | 16);
    bench.write_word(0, 0xff80_0000_5000);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, 0x1122_3344_5566_7788));
}

#[test]
fn block_where_the_granule_has_none_is_a_translation_fault() {
    for (tg0, levels) in [
        // 4 KiB: at level 0 none, at level 1 one of 1 GiB.
        (0, &[0x8_0000, 0x9_0000][..]),
        // 16 KiB: at levels 0 and 1 none, at level 2 one of 32 MiB.
        (2, &[0x8_0000, 0x9_0000, 0xa_0000]),
        // 64 KiB, addresses of 48 bits: at level 1 none, at level 2 one of 512 MiB.
        (1, &[0x8_0000, 0x9_0000]),
    ] {
        let mut bench = terminating();
        // T0SZ 16: 48 bits.
        bench.poke(CDS, (CD0 | CD_R | CD_A) & !0xff | tg0 << 6 | 16);
        bench.poke(CDS + 8, TABLES + levels[0]);
        for pair in levels.windows(2) {
            bench.poke(TABLES + pair[0], DATA | PAGE_RW & !2);
            bench.write_word(0, 0x20_0008);
            assert_eq!(bench.take_event(), [0x100_0000_0010, WRITE, 0x20_0008, 0], "TG0 {tg0}");
            bench.poke(TABLES + pair[0], (TABLES + pair[1]) | 3);
        }
        // The walk came this way: a block at the next level translates.
        bench.poke(TABLES + levels[levels.len() - 1], 0x4000_0000 | PAGE_RW & !2);
        bench.write_word(0, 0x20_0008);
        assert_eq!((bench.state(0), bench.peek(DATA + 8)), (2, 0x1122_3344_5566_7788), "TG0 {tg0}");
    }
}

#[test]
fn table_that_cannot_be_read_is_f_walk_eabt() {
    let mut bench = terminating();
    bench.poke(TABLES, END | 3);
    bench.write_word(0, 0x20_0000);
    assert_eq!(bench.state(0), 3);
    // CLASS = TT; the level 2 descriptor 1 (7.3.12).
    assert_eq!(bench.take_event(), [0x100_0000_000b, 0x100_0000_0000, 0x20_0000, END + 8]);
    // It never stalls.
    bench.attach(STREAM, 0, 0, CD_S | CD_A);
    bench.write_word(0, 0x20_0000);
    assert_eq!((bench.state(0), bench.take_events().len()), (3, 1));
}

#[test]
fn unrecorded_faults_leave_no_record() {
    let mut bench = terminating();
    bench.attach(STREAM, 0, 0, CD_A);
    bench.write_word(0, 0x5000);
    assert_eq!((bench.state(0), bench.take_events().len()), (3, 0));
}

#[test]
fn without_abort_reads_give_zeros_and_writes_vanish() {
    let mut bench = terminating();
    bench.attach(STREAM, 0, 0, CD_R);
    bench.map(0, 0x6000, DATA, PAGE_RW);
    bench.poke(DATA, !0);
    bench.copy(0, 0x5000, 0x6000, 8);
    assert_eq!((bench.state(0), bench.peek(DATA)), (2, 0));
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 2);
    assert_eq!(bench.take_events().len(), 2);
}

#[test]
fn page_outside_memory_aborts_the_access_without_a_record() {
    let mut bench = terminating();
    bench.map(0, 0x5000, END, PAGE_RW);
    bench.write_word(0, 0x5000);
    assert_eq!((bench.state(0), bench.take_events().len()), (3, 0));
}
