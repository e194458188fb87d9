//! Where the image's parts lie: the symbols of `linker.ld`.

use core::ops::Range;

use crate::sync::MAX_CORES;

unsafe extern "C" {
    static __image_start: u8;
    static __rodata_start: u8;
    static __data_start: u8;
    static __stacks_start: u8;
    static __stacks_end: u8;
    static __image_end: u8;
}

/// The size of a stack in bytes; `boot/kernel.S` and `linker.ld` say so too.
const STACK_BYTES: u64 = 0x1_0000;
/// The size of the guard below each stack.
const GUARD_BYTES: u64 = 0x1000;

macro_rules! address {
    ($symbol:ident) => {
        &raw const $symbol as u64
    };
}

/// The whole image, with its stacks.
pub fn whole() -> Range<u64> {
    address!(__image_start)..address!(__image_end)
}

/// Code.
pub fn code() -> Range<u64> {
    address!(__image_start)..address!(__rodata_start)
}

/// Constants.
pub fn constants() -> Range<u64> {
    address!(__rodata_start)..address!(__data_start)
}

/// Variables.
pub fn data() -> Range<u64> {
    address!(__data_start)..address!(__stacks_start)
}

/// All stacks and their guards: for each core that of its threads, then that of its exceptions.
pub fn stacks() -> Range<u64> {
    address!(__stacks_start)..address!(__stacks_end)
}

/// The usable parts of [`stacks`], without the guard below each.
pub fn stacks_without_guards() -> impl Iterator<Item = Range<u64>> {
    (0..2 * MAX_CORES as u64).map(|index| {
        let guard = stacks().start + index * (GUARD_BYTES + STACK_BYTES);
        guard + GUARD_BYTES..guard + GUARD_BYTES + STACK_BYTES
    })
}
