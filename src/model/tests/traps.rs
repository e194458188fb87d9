//! The counters of traps in the control page: `docs/control.md`.

use super::bench::*;
use crate::model::machine::{Trap, Width};
use crate::model::profile::Profile;

/// SMMU_READ_TRAPS, SMMU_WRITE_TRAPS, CONTROL_TRAPS, ENGINE_TRAPS, OTHER_TRAPS.
const COUNTERS: [u64; 5] = [0x400, 0x404, 0x408, 0x40c, 0x410];

fn counts(bench: &Bench) -> [u32; 5] {
    COUNTERS.map(|offset| bench.control(offset))
}

#[test]
fn each_kind_of_trap_has_a_counter_of_its_own() {
    let mut bench = Bench::reset();
    // The first and the last word of each block of registers on the board, and what lies between the blocks.
    for (trap, counter) in [
        (Trap::Read(0x0b00_0000), 0),
        (Trap::Read(0x0b01_fffc), 0),
        (Trap::Write(0x0b00_0000), 1),
        (Trap::Write(0x0b01_fffc), 1),
        (Trap::Read(0x0b08_0000), 2),
        (Trap::Write(0x0b08_0ffc), 2),
        (Trap::Write(0x0b10_0000), 3),
        (Trap::Read(0x0b4f_fffc), 3),
        (Trap::Read(0x0b02_0000), 4),
        (Trap::Write(0x0b08_1000), 4),
        (Trap::Other, 4),
    ] {
        let mut expected = counts(&bench);
        expected[counter] += 1;
        bench.machine.count_trap(trap);
        assert_eq!(counts(&bench), expected, "{trap:?}");
    }
    assert_eq!(counts(&bench), [2, 2, 2, 2, 3]);
    assert_eq!(bench.machine.read(0x0b08_040c, Width::Word), 2, "ENGINE_TRAPS on the board");
    assert_eq!(bench.machine.read(0x0b08_0410, Width::Double), 3, "nothing follows OTHER_TRAPS");
}

#[test]
fn counters_of_traps_are_read_only_and_zero_after_reset() {
    let mut bench = Bench::reset();
    bench.machine.count_trap(Trap::Other);
    for offset in COUNTERS {
        bench.set_control(offset, 0xffff_ffff);
    }
    assert_eq!(counts(&bench), [0, 0, 0, 0, 1], "accesses on the host are no traps");
    bench.machine.reset(Profile::Full, 4);
    assert_eq!(counts(&bench), [0; 5]);
}
