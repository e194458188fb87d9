//! What an exception leaves behind: the registers of the interrupted code, its cause, its callers.

use core::fmt;
use core::ops::Range;

use super::image;

/// The registers that the vectors in `boot/kernel.S` save, in their order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// X0 to X30.
    pub x: [u64; 31],
    /// Where the exception was taken from.
    pub elr: u64,
    /// The processor state it was taken from.
    pub spsr: u64,
}

const _: () = assert!(core::mem::offset_of!(Frame, elr) == 248 && core::mem::offset_of!(Frame, spsr) == 256);

/// ESR_EL1, in words.
#[derive(Clone, Copy, Debug)]
pub struct Syndrome(pub u64);

impl Syndrome {
    /// The exception class.
    pub const fn class(self) -> u64 {
        self.0 >> 26 & 0x3f
    }

    /// Whether FAR_EL1 holds the address of the fault.
    pub const fn has_address(self) -> bool {
        matches!(self.class(), 0x20..=0x22 | 0x24..=0x25 | 0x34..=0x35)
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class() {
            0x00 => "unknown instruction",
            0x07 => "floating point or SIMD instruction",
            0x0e => "illegal execution state",
            0x15 => "SVC",
            0x16 => "HVC",
            0x17 => "SMC",
            0x18 => "system register access",
            0x20 | 0x21 => "instruction abort",
            0x22 => "PC alignment fault",
            0x24 | 0x25 => "data abort",
            0x26 => "SP alignment fault",
            0x2f => "SError",
            0x3c => "BRK",
            _ => "exception",
        };
        write!(f, "{class}")?;
        if matches!(self.class(), 0x20 | 0x21 | 0x24 | 0x25) {
            let kind = match self.0 >> 2 & 0xf {
                0 => "address size fault",
                1 => "translation fault",
                2 => "access flag fault",
                3 => "permission fault",
                4 => "external abort",
                8 => "alignment fault",
                _ => "fault",
            };
            let access = if self.class() & 4 == 0 {
                "fetch"
            } else if self.0 & 1 << 6 != 0 {
                "write"
            } else {
                "read"
            };
            write!(f, ": {kind} on {access}, level {}", self.0 & 3)?;
        }
        write!(f, " (ESR {:#010x})", self.0)
    }
}

/// The frame pointer of the function that this is inlined into.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let value;
    // SAFETY: copies X29 and touches nothing else.
    unsafe { core::arch::asm!("mov {0}, x29", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The return addresses on the stack, innermost first, from the frame record at `frame_pointer` on.
///
/// Follows frame records as long as they are aligned, lie in one of the image's stacks and go upwards, so a broken chain ends
/// it early and never faults.
pub fn backtrace(frame_pointer: u64) -> impl Iterator<Item = u64> {
    let mut record = frame_pointer;
    core::iter::from_fn(move || {
        let is_inside = |stack: Range<u64>| stack.contains(&record) && stack.end - record >= 16;
        if !record.is_multiple_of(8) || !image::stacks_without_guards().any(is_inside) {
            return None;
        }
        let at = record as *const u64;
        // SAFETY: aligned, and both words lie in one of the image's stacks, which every address map has.
        let (caller, return_address) = unsafe { (at.read_volatile(), at.add(1).read_volatile()) };
        // A thread's stack may not be followed into another: callers lie above.
        record = if caller > record { caller } else { 0 };
        (return_address != 0).then_some(return_address)
    })
    .take(32)
}
