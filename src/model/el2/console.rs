//! Words to the user, and the end of the machine.

use core::fmt::{self, Write};

/// The PL011 of the virt board. Whatever runs at EL1 has it too; EL2 speaks at its start and at the end.
const DATA: *mut u32 = 0x0900_0000 as *mut u32;
const FLAGS: *const u32 = 0x0900_0018 as *const u32;
const TRANSMIT_FULL: u32 = 1 << 5;

/// How often a full transmitter is looked at before the character is given up.
const PATIENCE: u32 = 100_000;

/// Writes to the board's UART.
#[derive(Debug)]
pub(super) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the first GiB is mapped as device memory, and the virt board has its PL011 there. Reading the
            // flags and writing a character have no effect but on the UART.
            unsafe {
                for _ in 0..PATIENCE {
                    if FLAGS.read_volatile() & TRANSMIT_FULL == 0 {
                        break;
                    }
                }
                DATA.write_volatile(byte.into());
            }
        }
        Ok(())
    }
}

/// Writes a line to the board's UART.
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // The console never fails.
        let _ = writeln!($crate::model::el2::console::Console, "smmu-model: {}", format_args!($($argument)*));
    }};
}
pub(super) use say;

/// Ends QEMU with a non-zero status.
pub(super) fn die() -> ! {
    semihosting::process::exit(STATUS)
}

/// Ends QEMU with a status of its own: the software at EL1 broke a rule.
pub(super) fn condemn() -> ! {
    semihosting::process::exit(VIOLATION)
}

/// QEMU's exit status when the model gives up.
const STATUS: i32 = 3;
/// QEMU's exit status when strict mode has found a violation.
const VIOLATION: i32 = 4;
