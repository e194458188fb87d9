//! What a page fault, and what a command, costs the kernel on the target, in instructions. `tools/costs.sh` runs it, and `docs/performance.md` says more.
//!
//! Two engines' accesses stall until a whole batch of records is in the event queue, with interrupts masked; then the
//! function that the interrupt calls is called once, between two readings of the instruction count.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("this benchmark runs on the target: tools/costs.sh");
    std::process::ExitCode::from(2)
}

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod commands;
#[cfg(target_os = "none")]
mod costs;
