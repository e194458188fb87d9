//! The aarch64 core: what takes instructions that Rust has no name for.

pub mod cache;
pub mod entry;
pub mod exception;
pub mod heap;
pub mod image;
pub mod mmio;
pub mod mmu;
pub mod pmu;
pub mod semihosting;
pub mod timer;

use aarch64_cpu::registers::{DAIF, Readable, TPIDR_EL1, Writeable};

use crate::sync::{CoreId, Cpu, Masked};

/// The core that runs this. The entry code put its index into `TPIDR_EL1`.
pub fn core_id() -> CoreId {
    CoreId::new(TPIDR_EL1.get() as usize).unwrap_or(CoreId::FIRST)
}

/// Runs `section` with interrupts masked, for code that is not handed its core's [`Cpu`]: the log, the heap.
///
/// `section` must not wait for another core.
pub(crate) fn masked<R>(section: impl FnOnce(&Masked) -> R) -> R {
    // SAFETY: this core's number, and the value is never borrowed mutably.
    let cpu = unsafe { Cpu::new(core_id()) };
    cpu.masked(section)
}

/// Takes no interrupts from now on, for good: a section ends, and what is under it may use the core's [`Cpu`].
pub(crate) fn mask() {
    DAIF.write(DAIF::D::Masked + DAIF::I::Masked + DAIF::F::Masked);
}

/// Takes interrupts from now on.
pub(crate) fn unmask() {
    DAIF.write(DAIF::D::Masked);
}
