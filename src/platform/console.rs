//! The log, on the board's PL011.

use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::boot::MappedBoard;
use crate::arch;
use crate::sync::Masked;
use crate::sync::lock::IrqLock;

/// Where the UART's registers are; 0 while there is none.
static UART: AtomicUsize = AtomicUsize::new(0);

/// One line at a time.
static LINE: IrqLock<()> = IrqLock::new(());

struct Console;

/// Sends the log to the board's PL011 from now on.
pub fn start(board: &MappedBoard) {
    UART.store(board.uart.start as usize, Relaxed);
    // Fails only if somebody has set a logger before, which then goes on.
    let _ = log::set_logger(&Console);
    log::set_max_level(LevelFilter::Info);
}

impl Log for Console {
    /// What a dependency has to say is of interest if something is wrong.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || !metadata.target().starts_with("virtio_drivers")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        arch::masked(|masked: &Masked| {
            let _line = LINE.lock(masked);
            print_unlocked(*record.args());
        });
    }

    fn flush(&self) {}
}

/// Prints a line at once, whoever else is printing: for the last words of a kernel.
pub fn print_unlocked(line: fmt::Arguments<'_>) {
    let Some(base) = NonNull::new(UART.load(Relaxed) as *mut PL011Registers) else { return };
    // SAFETY: `start` took the address from the mapped board, where it stays a PL011. Two writers at a time can only mix up
    // their characters.
    let uart = Uart::new(unsafe { UniqueMmioPointer::new(base) });
    // A UART that takes no characters has nowhere to say so.
    let _ = writeln!(Characters(uart), "{line}");
}

struct Characters<'a>(Uart<'a>);

impl Write for Characters<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // A FIFO that never empties costs characters, not the machine: the wait is bounded.
            for _ in 0..100_000 {
                if !self.0.is_tx_fifo_full() {
                    break;
                }
                crate::sync::cpu::pause();
            }
            if byte == b'\n' {
                self.0.write_word(b'\r');
            }
            self.0.write_word(byte);
        }
        Ok(())
    }
}
