//! The model as firmware: at EL2, below a kernel that takes it for hardware.
//!
//! QEMU starts this image instead of a kernel (`-M virt,virtualization=on,gic-version=3 -kernel smmu-model`), with the
//! kernel, or any other image for EL1, beside it in memory at [`KERNEL`] (`-device loader`). The firmware adds the
//! model's nodes to the device tree, hides its own memory and one core, and enters the kernel at EL1, with the tree's
//! address in x0. From then on it runs in four cases:
//!
//! - An access to the model's registers finds no translation at stage 2 and traps. It is decoded from its syndrome, done
//!   on the [machine](super::machine) under its lock, and the core goes on behind it.
//! - An interrupt of the machine is raised by making an SPI pending at the distributor (GICD_ISPENDR). No interrupt is
//!   taken at EL2. A message is stored in memory, or to the doorbell of the board's ITS, GITS_TRANSLATER: to QEMU it is one of
//!   DeviceID 0, as the tree tells EL1.
//! - SMC traps, for PSCI: every core must enter EL1 through EL2's set-up.
//! - The machine's clock: the last core stays here and does nothing but step the machine, which also goes a step or two
//!   at each write to a register. With a single core there is no such core: the machine goes at each access to its
//!   registers, while the core waits in WFI (which traps then), and in CPU_SUSPEND. Software that spins on memory alone
//!   and does neither sees no progress there.
//!
//! What can't be emulated ends QEMU with status 3 and a report on the UART: an access without a syndrome (a pair,
//! writeback, SIMD or atomic instruction on a register), or one to this image's memory or above 1 TiB. An abort at EL1
//! instead would leave its reader guessing; real hardware might even do such an access.
//!
//! The firmware has no heap, and its translation is fixed at build time (`boot/el2.S`): text is executable and
//! read-only, everything else not executable, guards lie below the stacks. The MMU is on before any Rust code runs,
//! since atomics and unaligned accesses need Normal memory. Floating-point registers are never touched.

pub mod access;

#[cfg(target_os = "none")]
mod clock;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod firmware;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod psci;
#[cfg(target_os = "none")]
mod stage2;
#[cfg(target_os = "none")]
mod traps;

use core::ops::Range;

#[cfg(target_os = "none")]
pub use self::firmware::{fatal, panic, start, start_secondary};
#[cfg(target_os = "none")]
pub use self::traps::trap;

/// The memory that the image and its data occupy: the end of the first GiB, 4 MiB as `boot/model.ld` lays them out.
pub const IMAGE: Range<u64> = 0x7fc0_0000..0x8000_0000;
/// The stacks: one for each core and one for the end, each with a guard page at its low end.
pub const STACKS: u64 = IMAGE.start + 0x30_0000;
/// The room for one stack with its guard, in bytes.
pub const STACK_SIZE: u64 = 0x1_0000;
/// Where QEMU puts the device tree: at the start of memory. The firmware's tree takes its place.
pub const TREE: u64 = 0x4000_0000;
/// Where the image for EL1 is entered. The tree may reach up to it.
pub const KERNEL: u64 = 0x4020_0000;
