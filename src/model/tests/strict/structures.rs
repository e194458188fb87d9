//! STEs and CDs that change while they are valid: 3.21.3.

use super::*;

const STREAM: u64 = 0x100;
const STE: u64 = STREAMS + STREAM * 64;
/// EPD0 of a CD, bit 14 of word 0: one word.
const EPD0: u64 = 1 << 14;

/// Engine 0 has read through its STE and CD.
fn used() -> Bench {
    let mut bench = strict();
    bench.attach(STREAM, 0, 0, CD_R | CD_A);
    bench.map(0, 0x5000, DATA, PAGE_RW);
    bench.write_word(0, 0x5000);
    assert_eq!(bench.state(0), 2);
    bench
}

fn invalidate(bench: &mut Bench, command: [u64; 2]) -> Option<(&'static str, &'static str)> {
    bench.command(command);
    bench.command(SYNC);
    broken(bench)
}

#[test]
fn ste_that_changes_in_one_word_is_silent() {
    let mut bench = used();
    // Another CD; then abort.
    bench.poke(STE, STE0_STAGE1 | (CDS + 0x40));
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    bench.poke(STE, 1);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
}

#[test]
fn ste_that_changes_in_two_words_while_it_is_valid_is_named() {
    let torn = Some(("torn-ste", "3.21.3"));
    for command in [cfgi_ste(STREAM), CFGI_ALL, [0x04 | 0x101 << 32, 0]] {
        let mut bench = used();
        bench.poke(STE, STE0_STAGE1 | (CDS + 0x40));
        bench.poke(STE + 8, STE1 | S1STALLD);
        assert_eq!(invalidate(&mut bench, cfgi_ste(0x103)), None, "of another stream");
        assert_eq!(invalidate(&mut bench, command), torn, "{command:x?}");
        assert_eq!(invalidate(&mut bench, command), None, "that is how it is now");
    }
}

#[test]
fn ste_that_passes_through_invalid_may_change_as_it_likes() {
    let mut bench = used();
    bench.poke(STE, (STE0_STAGE1 | CDS) & !1);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    bench.poke(STE + 8, STE1 | S1STALLD);
    bench.poke(STE, (STE0_STAGE1 | (CDS + 0x40)) & !1);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    bench.poke(STE, STE0_STAGE1 | (CDS + 0x40));
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
}

#[test]
fn words_that_mean_nothing_yet_may_be_filled_while_the_ste_is_valid() {
    let mut bench = strict();
    // Bypass, whose transactions keep their shareability.
    bench.set_ste(STREAM, 9, STE1);
    bench.write_word(0, DATA);
    assert_eq!(bench.state(0), 2);
    // Word 2 is stage 2's VMID and size, word 3 its table: neither counts while stage 2 is off, but the VMID.
    bench.poke(STE + 16, 0x000d_3559_0000_0000);
    bench.poke(STE + 24, DATA);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    // Stage 2 on: one word.
    bench.poke(STE, 0xd);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
}

#[test]
fn cd_that_changes_in_one_word_is_silent_and_in_two_it_is_named() {
    for command in [cfgi_cd(STREAM), [0x06 | STREAM << 32, 0]] {
        let mut bench = used();
        bench.poke(CDS + 8, TABLES + 0x1000);
        assert_eq!(invalidate(&mut bench, command), None);
        bench.write_word(0, 0x5000);
        bench.poke(CDS + 8, TABLES);
        bench.poke(CDS + 24, 0xff44);
        assert_eq!(invalidate(&mut bench, command), Some(("torn-cd", "3.21.3")));
    }
}

#[test]
fn cd_that_passes_through_invalid_may_change_as_it_likes() {
    let mut bench = used();
    let valid = bench.peek(CDS);
    bench.poke(CDS, valid & !(1 << 31));
    assert_eq!(invalidate(&mut bench, cfgi_cd(STREAM)), None);
    bench.poke(CDS + 8, TABLES + 0x1000);
    bench.poke(CDS + 24, 0xff44);
    bench.poke(CDS, valid | EPD0);
    assert_eq!(invalidate(&mut bench, cfgi_cd(STREAM)), None);
}

#[test]
fn cd_of_a_stream_that_left_it_may_change_as_it_likes() {
    let mut bench = used();
    bench.poke(STE, 1);
    assert_eq!(invalidate(&mut bench, cfgi_ste(STREAM)), None);
    bench.poke(CDS + 8, TABLES + 0x1000);
    bench.poke(CDS + 24, 0xff44);
    assert_eq!(invalidate(&mut bench, cfgi_cd(STREAM)), None);
}
