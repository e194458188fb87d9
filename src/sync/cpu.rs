//! Cores, and the proof that interrupts are masked on one.
//!
//! A read section of [grace periods](super) is "interrupts masked on this core", so the proof of masking is a value:
//! [`Masked`]. Code at thread level holds its core's [`Cpu`] and borrows a `Masked` from it; an exception vector, which
//! the hardware entered masked, makes one by itself.
//!
//! On the host a thread stands for a core, and nothing needs masking.

use core::fmt;
use core::marker::PhantomData;

/// The most cores that the per-core arrays hold.
pub const MAX_CORES: usize = 8;

/// The number of a core, below [`MAX_CORES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(u8);

impl CoreId {
    /// The core that boots.
    pub const FIRST: Self = Self(0);

    /// `index` as a core's number, or `None` if it is not below [`MAX_CORES`].
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_CORES { Some(Self(index as u8)) } else { None }
    }

    /// The number, below [`MAX_CORES`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl CoreId {
    /// Every core that can be.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_CORES).filter_map(Self::new)
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", self.0)
    }
}

/// Some of the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreSet(u8);

const _: () = assert!(MAX_CORES <= u8::BITS as usize);

impl CoreSet {
    /// No core.
    pub const EMPTY: Self = Self(0);

    /// Adds `core`.
    pub const fn insert(&mut self, core: CoreId) {
        self.0 |= 1 << core.0;
    }

    /// Takes `core` out.
    pub const fn remove(&mut self, core: CoreId) {
        self.0 &= !(1 << core.0);
    }

    /// Whether `core` is in it.
    pub const fn contains(self, core: CoreId) -> bool {
        self.0 & 1 << core.0 != 0
    }

    /// Whether no core is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The cores in it, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = CoreId> {
        CoreId::all().filter(move |&core| self.contains(core))
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no core");
        }
        for (position, core) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{core}")?;
        }
        Ok(())
    }
}

/// A value that must stay on the core that made it.
type NotSend = PhantomData<*const ()>;

/// Thread level on one core: what waits, takes it mutably.
///
/// There is one for each core that can wait. Waiting takes `&mut Cpu` and a masked section borrows it, so code that waits inside a
/// masked section does not compile.
///
/// ```compile_fail,E0502
/// # use smmu_iopf::sync::{CoreId, Cpu};
/// fn wait(_: &mut Cpu) {}
/// fn wrong(cpu: &mut Cpu) {
///     cpu.masked(|_| wait(cpu));
/// }
/// ```
#[derive(Debug)]
pub struct Cpu {
    core: CoreId,
    here: NotSend,
}

impl Cpu {
    /// Thread level on `core`.
    ///
    /// # Safety
    ///
    /// The caller runs on `core`, and of all `Cpu`s for it one at most is ever borrowed mutably.
    pub const unsafe fn new(core: CoreId) -> Self {
        Self { core, here: PhantomData }
    }

    /// Core `index`, for unit tests. A test has its own objects, and its threads, if it has several, stand for different
    /// cores.
    #[cfg(test)]
    pub(crate) fn of_test(index: usize) -> Self {
        // SAFETY: on the host nothing but the objects that cores share depends on a core's number; a test shares none with
        // another, and keeps its own cores apart.
        unsafe { Self::new(CoreId::new(index).unwrap()) }
    }

    /// Which core this is.
    pub const fn core(&self) -> CoreId {
        self.core
    }

    /// Runs `section` with interrupts masked, and leaves the mask as it was.
    pub fn masked<R>(&self, section: impl FnOnce(&Masked) -> R) -> R {
        let before = mask::save_and_mask();
        let result = section(&Masked { core: self.core, here: PhantomData });
        mask::restore(before);
        result
    }
}

/// Proof that interrupts are masked on this core, as long as it is borrowed.
#[derive(Debug)]
pub struct Masked {
    core: CoreId,
    here: NotSend,
}

impl Masked {
    /// The proof, for code that knows better than the type system.
    ///
    /// # Safety
    ///
    /// The caller runs on `core` with IRQ and FIQ masked, and they stay masked until the value is gone. What runs on
    /// `core` meanwhile, runs under this proof: no other was alive when it was made. On the host no other thread stands
    /// for `core` meanwhile.
    pub const unsafe fn new(core: CoreId) -> Self {
        Self { core, here: PhantomData }
    }

    /// The masked core.
    pub const fn core(&self) -> CoreId {
        self.core
    }
}

/// Lets another core go first, in a loop that waits for it.
///
/// YIELD on the target, where [`core::hint::spin_loop`] is an ISB, at which QEMU under `-icount` does not switch cores.
pub fn pause() {
    #[cfg(target_os = "none")]
    // SAFETY: YIELD is a hint: it touches neither memory, registers nor flags.
    unsafe {
        core::arch::asm!("yield", options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_os = "none", loom, shuttle)))]
    std::thread::yield_now();
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}

#[cfg(target_os = "none")]
mod mask {
    use core::sync::atomic::{Ordering::SeqCst, compiler_fence};

    use aarch64_cpu::registers::{DAIF, ReadWriteable, Readable, Writeable};

    // Writing DAIF is no memory access to the compiler; the fences keep the section's accesses inside.
    pub(super) fn save_and_mask() -> u64 {
        let before = DAIF.get();
        DAIF.modify(DAIF::I::Masked + DAIF::F::Masked);
        compiler_fence(SeqCst);
        before
    }

    pub(super) fn restore(before: u64) {
        compiler_fence(SeqCst);
        DAIF.set(before);
    }
}

#[cfg(not(target_os = "none"))]
mod mask {
    /// The state of a mask that there is not.
    pub(super) struct NoMask;

    pub(super) fn save_and_mask() -> NoMask {
        NoMask
    }

    pub(super) fn restore(NoMask: NoMask) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_core_beyond_the_arrays_has_no_number() {
        assert_eq!(CoreId::new(7).map(CoreId::index), Some(7));
        assert_eq!(CoreId::new(8), None);
    }

    #[test]
    fn a_set_of_cores_names_them() {
        let mut set = CoreSet::EMPTY;
        assert_eq!(set.to_string(), "no core");
        for core in CoreId::all().filter(|core| [1, 3, 7].contains(&core.index())) {
            set.insert(core);
        }
        assert_eq!(set.to_string(), "core 1, core 3, core 7");
        set.remove(CoreId(3));
        assert_eq!(set.to_string(), "core 1, core 7");
    }
}
