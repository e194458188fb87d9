//! The ways into a kernel, from the entry code and from the vectors in `boot/kernel.S`.
//!
//! What holds because of where a core comes in is handed on as a value: [`Boot`], [`Cpu`], [`Masked`]. So the kernel that
//! takes them needs no `unsafe`.

use core::ops::Range;

use super::exception::Frame;
use super::{core_id, semihosting};
use crate::sync::{CoreId, Cpu, Masked};

/// What the entry code has mapped as memory, one to one, until an [`AddressMap`](super::mmu::AddressMap) takes its place.
pub const MAPPED: Range<u64> = 0x4000_0000..0x8000_0000;

/// The machine as the entry code leaves it: one core runs, with [`MAPPED`] mapped, and of the memory only the image and the
/// device tree are in use. There is one, and whoever takes memory from it or maps it anew uses it up.
#[derive(Debug)]
pub struct Boot {
    /// What was in X0 at entry: the address of the device tree, or 0.
    pub(crate) tree: u64,
}

/// A kernel, as the hardware enters it.
pub trait Image {
    /// The first core comes in.
    fn first_core(boot: Boot, cpu: Cpu) -> !;

    /// Another core comes in, after PSCI CPU_ON with [`other_cores_entry`] and its number.
    fn other_core(cpu: Cpu) -> !;

    /// An interrupt interrupted thread level.
    fn interrupt(masked: Masked);

    /// An exception that is no such interrupt was taken. `vector` is the number of the vector's entry, below 16.
    fn exception(frame: &Frame, vector: u64) -> !;
}

/// Makes `$image`, an [`Image`](crate::arch::entry::Image), what this crate's entry code and vectors call.
#[macro_export]
macro_rules! entry_code {
    ($image:ty) => {
        ::core::arch::global_asm!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/boot/kernel.S")),
            first_core = sym $crate::arch::entry::first_core::<$image>,
            other_core = sym $crate::arch::entry::other_core::<$image>,
            interrupt = sym $crate::arch::entry::interrupt::<$image>,
            exception = sym $crate::arch::entry::exception::<$image>,
        );
    };
}

unsafe extern "C" {
    fn kernel_secondary_start();
}

/// Where PSCI CPU_ON has a core begin, with its number as the context, once
/// [`AddressMap::activate`](super::mmu::AddressMap::activate) has run.
pub fn other_cores_entry() -> u64 {
    kernel_secondary_start as *const () as u64
}

/// From `kernel_start`.
///
/// # Safety
///
/// For the entry code only: this is the first core, for the first time, and the machine is as [`Boot`] says.
pub unsafe extern "C" fn first_core<I: Image>(tree: u64) -> ! {
    // SAFETY: this is the first core, and the entry code calls here once.
    let cpu = unsafe { Cpu::new(CoreId::FIRST) };
    I::first_core(Boot { tree }, cpu)
}

/// From `kernel_secondary_start`. `index` is what CPU_ON passed on.
///
/// # Safety
///
/// For the entry code only: this is the core with the number `index`, for the first time, or after CPU_OFF.
pub unsafe extern "C" fn other_core<I: Image>(index: u64) -> ! {
    let Some(core) = CoreId::new(index as usize) else {
        semihosting::refuse("a core came up that nobody started");
    };
    // SAFETY: this is core `core`, and its entry code calls here once. If it was here before, what it ran then ended in CPU_OFF and
    // never uses its `Cpu` again.
    let cpu = unsafe { Cpu::new(core) };
    I::other_core(cpu)
}

/// From the vector of an interrupt of thread level.
///
/// # Safety
///
/// For the vector only: the core has just taken an interrupt from a thread, and interrupts stay masked until this returns.
pub unsafe extern "C" fn interrupt<I: Image>() {
    // SAFETY: PSTATE.I and F are set by the exception, until the vector's ERET. It interrupted a thread that had them
    // clear, so no proof was alive on this core.
    I::interrupt(unsafe { Masked::new(core_id()) });
}

/// From every other vector.
///
/// # Safety
///
/// For the vectors only: `frame` is what they have just saved.
pub unsafe extern "C" fn exception<I: Image>(frame: &Frame, vector: u64) -> ! {
    I::exception(frame, vector)
}
