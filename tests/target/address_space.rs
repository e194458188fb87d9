//! What is mapped, and how.

use alloc::format;
use core::ops::Range;

use smmu_iopf::arch::image;
use smmu_iopf::arch::mmu::{Probe, allows};

use crate::harness::{Outcome, equal, holds};

/// Checks of each page of `range` whether it can be read and whether it can be written.
fn has_access(what: &str, range: Range<u64>, read: bool, write: bool) -> Outcome {
    for page in range.step_by(0x1000) {
        let access = (allows(page, Probe::Read), allows(page, Probe::Write));
        equal(&format!("{what} at {page:#x}, (read, write)"), (read, write), access)?;
    }
    Ok(())
}

test!(fn only_data_can_be_written(_, _) {
    has_access("code", image::code(), true, false)?;
    has_access("a constant", image::constants(), true, false)?;
    has_access("data", image::data(), true, true)
});

test!(fn every_stack_has_a_guard_below_it(_, _) {
    equal("stacks", 16, image::stacks_without_guards().count())?;
    for stack in image::stacks_without_guards() {
        has_access("a guard", stack.start - 0x1000..stack.start, false, false)?;
        has_access("a stack", stack, true, true)?;
    }
    Ok(())
});

test!(fn every_device_of_the_board_is_mapped(kernel, _) {
    for (what, window) in kernel.board.windows() {
        has_access(what, window.start..window.start + 1, true, true)?;
        has_access(what, window.end - 0x1000..window.end, true, true)?;
    }
    Ok(())
});

test!(fn nothing_else_is_mapped(kernel, _) {
    // The flash, a hole between devices, the first byte above the memory, and the last page within reach.
    for address in [0, 0x0e00_0000, 0x8000_0000, 0x7f_ffff_f000] {
        holds("the board has nothing there", !kernel.board.windows().any(|(_, window)| window.contains(&address)))?;
        has_access("nothing", address..address + 1, false, false)?;
    }
    Ok(())
});
