//! The registers of the control page, at the offsets of `docs/control.md`, and what they start.

use super::*;
use crate::model::smmu::diagnostics::choose;

#[test]
fn what_is_written_reads_back_where_the_page_says_so() {
    let mut injection = Injection::new();
    // ENGINES and its upper half, SOURCES of 4 bits, LATE_TICKS, REORDER of one, SEED, PASSED.
    let written = [
        (0x010, 0xffff_0003, 0xffff_0003),
        (0x014, 0x8000_0001, 0x8000_0001),
        (0x018, 0xffff_fff5, 5),
        (0x01c, 0x1234_5678, 0x1234_5678),
        (0x020, 3, 1),
        (0x024, 0x9abc_def0, 0x9abc_def0),
        (0x034, 0xfedc_ba98, 0xfedc_ba98),
    ];
    for (offset, value, _) in written {
        injection.write(offset, !value);
        injection.write(offset, value);
    }
    for (offset, _, expected) in written {
        assert_eq!(injection.read(offset), expected, "{offset:#x}");
    }
    // What can't be written, and what is nothing.
    for offset in [0x000, 0x008, 0x00c, 0x028, 0x02c, 0x104, 0x184, 0x1a8] {
        let before = injection.read(offset);
        injection.write(offset, 0x5555_5555);
        assert_eq!(injection.read(offset), before, "{offset:#x}");
    }
}

#[test]
fn ticks_have_64_bits() {
    let mut injection = Injection::new();
    injection.now = 0x5_ffff_ffff;
    injection.tick();
    assert_eq!([injection.read(0x008), injection.read(0x00c)], [0, 6]);
}

/// COMMANDS_HELD and ENGINES_HELD begin when they are written, those of registers (CR0_LATE) with an update.
#[test]
fn a_hold_has_happened_when_it_begins_and_is_released_by_zero() {
    let mut injection = Injection::new();
    for (offset, began) in [(0x180, 0), (0x198, 1), (0x1a0, 1)] {
        injection.write(offset, 5);
        assert_eq!([injection.read(offset), injection.read(offset + 4)], [5, began], "{offset:#x}");
        injection.write(offset, 0);
        assert_eq!([injection.read(offset), injection.read(offset + 4)], [0, began], "{offset:#x}");
    }
    assert!(!injection.waits());
}

/// The second interrupt from now on (INTERRUPT_LATE) is late, and while it is, those that come are not.
#[test]
fn one_interrupt_is_late_and_the_others_arrive() {
    let mut injection = Injection::new();
    injection.write(0x01c, 100);
    injection.write(0x150, 2);
    let mut arrives = || injection.arrives(Wire::EventQueue, None);
    assert_eq!([arrives(), arrives(), arrives()], [true, false, true]);
    injection.write(0x150, 1);
    assert!(injection.arrives(Wire::EventQueue, None));
    assert_eq!([injection.read(0x150), injection.read(0x154)], [1, 1]);
}

/// The first numbers of the generator that begins with 2463534242 (Marsaglia 2003, "Xorshift RNGs", section 4).
#[test]
fn choices_follow_the_published_sequence() {
    let mut seed = 2_463_534_242;
    let chosen = [0; 3].map(|_| (choose(&mut seed), seed));
    assert_eq!(chosen, [(false, 723_471_715), (true, 2_497_366_906), (false, 2_064_144_800)]);
    let mut always = 0;
    assert_eq!((choose(&mut always), always), (true, 0));
}
