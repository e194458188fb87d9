//! The end: what is printed when the kernel cannot go on, and the status that QEMU ends with.

use core::panic::PanicInfo;

use aarch64_cpu::registers::{ESR_EL1, FAR_EL1, Readable, SP_EL0};
use spin::Once;

use crate::arch::exception::{Frame, Syndrome, backtrace, frame_pointer};
use crate::arch::{self, semihosting};
use crate::platform::console::print_unlocked;

/// The status of a run that a panic or an exception ended.
pub const STATUS: i32 = 101;

/// What a kernel ends by that cannot go on.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// A panic.
    Panic,
    /// An exception that nothing expected.
    Exception {
        /// Its cause.
        syndrome: Syndrome,
        /// The address of the fault, if there is one.
        address: Option<u64>,
    },
    /// An interrupt that nobody asked for.
    Interrupt(u32),
}

/// What is done after the report, and the status to end with.
pub type LastWords = fn(&End) -> i32;

static LAST_WORDS: Once<LastWords> = Once::new();

/// From now on, `last_words` runs after the report. Without it the status is [`STATUS`]. The first one stays.
pub fn set_last_words(last_words: LastWords) {
    LAST_WORDS.call_once(|| last_words);
}

fn end(end: &End) -> ! {
    semihosting::exit(LAST_WORDS.get().map_or(STATUS, |last_words| last_words(end)))
}

/// Reports a panic and ends QEMU.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    print_unlocked(format_args!("{}: {info}", arch::core_id()));
    print_backtrace(frame_pointer());
    end(&End::Panic)
}

/// Reports an exception that nothing expected, and ends QEMU. `vector` is the number of the vector's entry.
pub fn exception(frame: &Frame, vector: u64) -> ! {
    let (syndrome, address) = (Syndrome(ESR_EL1.get()), FAR_EL1.get());
    let from = ["a thread", "an exception handler", "EL0", "EL0 in AArch32"][vector as usize / 4 % 4];
    let kind = ["synchronous exception", "IRQ", "FIQ", "SError"][vector as usize % 4];
    print_unlocked(format_args!("{}: unexpected {kind} from {from}: {syndrome}", arch::core_id()));
    if syndrome.has_address() {
        print_unlocked(format_args!("  address {address:#018x}"));
    }
    print_unlocked(format_args!(
        "  pc {:#018x}  pstate {:#010x}  sp_el0 {:#018x}",
        frame.elr,
        frame.spsr,
        SP_EL0.get()
    ));
    for (index, four) in frame.x.chunks(4).enumerate() {
        let mut line = heapless::String::<128>::new();
        for (offset, value) in four.iter().enumerate() {
            // 4 times 24 characters fit.
            let _ = core::fmt::write(&mut line, format_args!("  x{:<2} {value:#018x}", index * 4 + offset));
        }
        print_unlocked(format_args!("{line}"));
    }
    print_backtrace(frame.x[29]);
    end(&End::Exception { syndrome, address: syndrome.has_address().then_some(address) })
}

fn print_backtrace(frame_pointer: u64) {
    print_unlocked(format_args!("  called from (addr2line -e IMAGE ADDRESS...):"));
    for address in backtrace(frame_pointer) {
        print_unlocked(format_args!("    {address:#018x}"));
    }
}

/// Reports an interrupt that nobody asked for, and ends QEMU.
pub(super) fn unexpected_interrupt(intid: u32) -> ! {
    print_unlocked(format_args!("{}: unexpected interrupt {intid}", arch::core_id()));
    end(&End::Interrupt(intid))
}
