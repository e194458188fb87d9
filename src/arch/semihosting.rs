//! What the machine's host does for the firmware: the command line, and the end of the run.

use alloc::string::String;
use alloc::vec::Vec;

/// The longest command line that is understood, in bytes.
const COMMAND_LINE: usize = 1024;

/// The arguments, without the program's name. A command line that is missing or too long gives none.
pub fn arguments() -> Vec<String> {
    let Ok(arguments) = semihosting::experimental::env::args::<COMMAND_LINE>() else { return Vec::new() };
    (&arguments).skip(1).filter_map(|argument| argument.ok().map(String::from)).collect()
}

/// Ends QEMU with `status`.
pub fn exit(status: i32) -> ! {
    semihosting::process::exit(status)
}

/// Prints on the host, for when there is no console. Slow.
pub fn print(text: core::fmt::Arguments<'_>) {
    use semihosting::io::Write;
    if let Ok(mut stderr) = semihosting::io::stderr() {
        // There is nowhere else to say that it failed.
        let _ = stderr.write_fmt(text);
    }
}

/// Says why the firmware can't boot, and ends QEMU with status 1. Works before there is a console.
pub fn refuse(why: impl core::fmt::Display) -> ! {
    print(format_args!("smmu-iopf: {why}\n"));
    exit(1)
}
