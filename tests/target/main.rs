//! The tests that run on the target. `./run-qemu.sh test` boots one after the other; `docs/testing.md` says more.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("these tests run on the target: ./run-qemu.sh test");
    std::process::ExitCode::from(2)
}

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
#[macro_use]
mod harness;
#[cfg(target_os = "none")]
#[path = "../support/paper.rs"]
mod paper;
#[cfg(target_os = "none")]
mod selection;

#[cfg(target_os = "none")]
mod address_space;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod commands;
#[cfg(target_os = "none")]
mod cores;
#[cfg(target_os = "none")]
mod differential;
#[cfg(target_os = "none")]
#[path = "../driver/mod.rs"]
#[allow(dead_code, unused_imports, reason = "what only tests on the host use")]
mod driver;
#[cfg(target_os = "none")]
mod edu;
#[cfg(target_os = "none")]
mod faults;
#[cfg(target_os = "none")]
mod grace;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod messages;
#[cfg(target_os = "none")]
mod model;
#[cfg(target_os = "none")]
mod recovery;
#[cfg(target_os = "none")]
mod registers;
#[cfg(target_os = "none")]
mod soak;
#[cfg(target_os = "none")]
mod storm;
