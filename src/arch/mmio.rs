//! Device registers: the one place where an address becomes an access.

use core::arch::asm;

/// A window of device registers, as the CPU sees it.
///
/// Every access is a single load or store whose address is a plain base register: `rustc` turns volatile accesses into
/// forms with writeback, which trap to a hypervisor without a syndrome.
///
/// A write happens after every memory access before it in program order, and every memory access after a read in program
/// order happens after it.
///
/// It is known to have `LEAST` bytes: whether a register is among these, the compiler sees where it knows the register.
#[derive(Clone, Debug)]
pub struct Mmio<const LEAST: usize = 0> {
    base: usize,
    size: usize,
}

impl Mmio {
    /// The window of `size` bytes at `base`.
    ///
    /// # Safety
    ///
    /// `base..base + size` is mapped as device memory for as long as the value or a clone of it is used, and it holds
    /// device registers only: no access to it changes memory that Rust knows of. `base` is aligned to 8 bytes.
    pub const unsafe fn new(base: usize, size: usize) -> Self {
        Self { base, size }
    }

    /// The windows of the first two pages of `BYTES`, a multiple of 8; `None` if this one is smaller.
    pub const fn pages<const BYTES: usize>(&self) -> Option<[Mmio<BYTES>; 2]> {
        let Self { base, size } = *self;
        if size / 2 < BYTES {
            return None;
        }
        Some([Mmio { base, size: BYTES }, Mmio { base: base + BYTES, size: BYTES }])
    }
}

impl<const LEAST: usize> Mmio<LEAST> {
    /// The size of the window, in bytes.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Reads the 32-bit register at `offset` bytes.
    ///
    /// # Panics
    ///
    /// If the register is not aligned or not in the window. Whoever has the window's size from elsewhere compares it
    /// with what the device needs first.
    pub fn read32(&self, offset: usize) -> u32 {
        let address = self.address::<u32>(offset);
        let value;
        // SAFETY: the address is aligned and in the window, which `new`'s caller vouched for.
        unsafe {
            asm!("ldr {value:w}, [{address}]", "dsb ld", address = in(reg) address, value = out(reg) value,
                options(nostack, preserves_flags));
        }
        value
    }

    /// As [`Mmio::read32`], but memory accesses after it in program order may happen before it. Accesses to one peripheral keep
    /// their order (nGnRE).
    ///
    /// # Panics
    ///
    /// As [`Mmio::read32`].
    pub fn read32_relaxed(&self, offset: usize) -> u32 {
        let address = self.address::<u32>(offset);
        let value;
        // SAFETY: the address is aligned and in the window, which `new`'s caller vouched for.
        unsafe {
            asm!("ldr {value:w}, [{address}]", address = in(reg) address, value = out(reg) value,
                options(nostack, preserves_flags));
        }
        value
    }

    /// Reads the 64-bit register at `offset` bytes.
    ///
    /// # Panics
    ///
    /// As [`Mmio::read32`].
    pub fn read64(&self, offset: usize) -> u64 {
        let address = self.address::<u64>(offset);
        let value;
        // SAFETY: the address is aligned and in the window, which `new`'s caller vouched for.
        unsafe {
            asm!("ldr {value}, [{address}]", "dsb ld", address = in(reg) address, value = out(reg) value,
                options(nostack, preserves_flags));
        }
        value
    }

    /// Writes the 32-bit register at `offset` bytes.
    ///
    /// # Panics
    ///
    /// As [`Mmio::read32`].
    pub fn write32(&self, offset: usize, value: u32) {
        let address = self.address::<u32>(offset);
        // SAFETY: the address is aligned and in the window, which `new`'s caller vouched for.
        unsafe {
            asm!("dsb sy", "str {value:w}, [{address}]", address = in(reg) address, value = in(reg) value,
                options(nostack, preserves_flags));
        }
    }

    /// As [`Mmio::write32`], but without a barrier: it happens after what the last barrier is after, and after what a load acquire before
    /// it saw (Arm DDI 0487, B2.3.2); an observer of that memory in its shareability domain finds it then.
    ///
    /// # Panics
    ///
    /// As [`Mmio::read32`].
    pub fn write32_relaxed(&self, offset: usize, value: u32) {
        let address = self.address::<u32>(offset);
        // SAFETY: the address is aligned and in the window, which `new`'s caller vouched for.
        unsafe {
            asm!("str {value:w}, [{address}]", address = in(reg) address, value = in(reg) value,
                options(nostack, preserves_flags));
        }
    }

    /// Writes the 64-bit register at `offset` bytes.
    ///
    /// # Panics
    ///
    /// As [`Mmio::read32`].
    pub fn write64(&self, offset: usize, value: u64) {
        let address = self.address::<u64>(offset);
        // SAFETY: the address is aligned and in the window, which `new`'s caller vouched for.
        unsafe {
            asm!("dsb sy", "str {value}, [{address}]", address = in(reg) address, value = in(reg) value,
                options(nostack, preserves_flags));
        }
    }

    fn address<T>(&self, offset: usize) -> usize {
        let bytes = size_of::<T>();
        let is_in = |size: usize| size.checked_sub(bytes).is_some_and(|last| offset <= last);
        if !offset.is_multiple_of(bytes) || !is_in(LEAST) && !is_in(self.size) {
            self.refuse(offset, bytes);
        }
        self.base + offset
    }

    /// Out of line, so that an access sets up no message.
    #[cold]
    #[inline(never)]
    fn refuse(&self, offset: usize, bytes: usize) -> ! {
        panic!("no {bytes} byte register at {offset:#x} of the {:#x} bytes at {:#x}", self.size, self.base);
    }
}
