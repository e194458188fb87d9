//! The kernel's own address space: one to one, and never both writable and executable.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{PAR_EL1, ReadWriteable, Readable, SCTLR_EL1};
use aarch64_paging::MapError;
use aarch64_paging::descriptor::El1Attributes as Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{El1And0, MemoryRegion};

/// What a range of memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Code: read and executed.
    Code,
    /// Constants: read.
    Constants,
    /// Data: read and written.
    Data,
    /// Device registers: read and written, in order, nothing merged.
    Device,
}

impl Kind {
    // `boot/kernel.S` sets MAIR_EL1: attribute 0 is Device-nGnRE, attribute 1 Normal write-back.
    fn attributes(self) -> Attributes {
        let normal = Attributes::ATTRIBUTE_INDEX_1 | Attributes::INNER_SHAREABLE;
        let never_executed = Attributes::UXN | Attributes::PXN;
        let kind = match self {
            Self::Code => normal | Attributes::READ_ONLY | Attributes::UXN,
            Self::Constants => normal | Attributes::READ_ONLY | never_executed,
            Self::Data => normal | never_executed,
            Self::Device => Attributes::ATTRIBUTE_INDEX_0 | never_executed,
        };
        kind | Attributes::VALID | Attributes::ACCESSED
    }
}

/// The root table for cores that start later; their entry code reads it before its MMU is on.
#[unsafe(no_mangle)]
static SECONDARY_TABLE: AtomicU64 = AtomicU64::new(0);

/// The address space while it is made.
#[derive(Debug)]
pub struct AddressMap(IdMap<El1And0>);

impl AddressMap {
    /// Addresses below this can be mapped.
    pub const REACH: u64 = 1 << 39;

    /// Nothing is mapped. Tables come from the heap.
    pub fn empty() -> Self {
        // REACH starts at level 1; TCR_EL1 is set for it.
        Self(IdMap::with_asid(0, 1, El1And0))
    }

    /// Maps `range`, widened to whole pages.
    ///
    /// # Errors
    ///
    /// [`MapError`] if the range is out of reach or backwards.
    pub fn map(&mut self, range: Range<u64>, kind: Kind) -> Result<(), MapError> {
        self.0.map_range(&MemoryRegion::new(range.start as usize, range.end as usize), kind.attributes())
    }

    /// Makes this the address space of this core, and of those that start later, for ever.
    ///
    /// # Safety
    ///
    /// What the program uses is mapped as it uses it: its code, constants, data, stacks and heap.
    pub unsafe fn activate(mut self) {
        // SAFETY: as the caller says.
        unsafe { self.0.activate() };
        SECONDARY_TABLE.store(self.0.root_address().0 as u64, Relaxed);
        clean(&raw const SECONDARY_TABLE as u64);
        SCTLR_EL1.modify(SCTLR_EL1::WXN::Enable);
        barrier::isb(barrier::SY);
        core::mem::forget(self);
    }
}

/// Writes the cache line of `address` back, for readers whose MMU is off.
fn clean(address: u64) {
    // SAFETY: cleaning changes no data.
    unsafe { core::arch::asm!("dc cvac, {0}", "dsb sy", in(reg) address, options(nostack, preserves_flags)) };
}

/// An access by the kernel itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A load.
    Read,
    /// A store.
    Write,
}

/// Whether the kernel could do `access` at `address`, as the MMU says without doing it.
pub fn allows(address: u64, access: Probe) -> bool {
    // SAFETY: address translation instructions only write PAR_EL1, which nothing else here uses.
    unsafe {
        match access {
            Probe::Read => core::arch::asm!("at s1e1r, {0}", in(reg) address, options(nostack, preserves_flags)),
            Probe::Write => core::arch::asm!("at s1e1w, {0}", in(reg) address, options(nostack, preserves_flags)),
        }
    }
    barrier::isb(barrier::SY);
    PAR_EL1.get() & 1 == 0
}
