//! Memory that notes which words the SMMU reads and writes, and may refuse that.

use core::cell::{Cell, RefCell};
use core::ops::Range;
use std::boxed::Box;
use std::vec::Vec;

use super::bench::END;
use crate::model::host::HostMemory;
use crate::model::memory::{Abort, Memory};
use crate::smmuv3::PhysAddr;

pub(super) struct Watched {
    pub(super) inner: HostMemory,
    read: RefCell<Vec<u64>>,
    written: RefCell<Vec<u64>>,
    pub(super) refused_reads: RefCell<Range<u64>>,
    pub(super) refused_writes: RefCell<Range<u64>>,
    /// How many accesses were refused.
    pub(super) refused: Cell<u32>,
    /// A write to this word unwinds out of the SMMU, see [`Direct::moment`](super::direct::Direct::moment).
    pub(super) stops_at: Cell<Option<u64>>,
}

impl Watched {
    /// The memory of the bench.
    pub(super) fn new() -> Self {
        let inner = HostMemory::new((END - 0x4000_0000) as usize);
        Self {
            inner,
            read: RefCell::default(),
            written: RefCell::default(),
            refused_reads: RefCell::default(),
            refused_writes: RefCell::default(),
            refused: Cell::default(),
            stops_at: Cell::default(),
        }
    }

    /// The words in `range` that were read since the last call, in order.
    pub(super) fn take_read(&self, range: Range<u64>) -> Vec<u64> {
        self.read.take().into_iter().filter(|address| range.contains(address)).collect()
    }

    /// The words in `range` that were written since the last call, in order.
    pub(super) fn take_written(&self, range: Range<u64>) -> Vec<u64> {
        self.written.take().into_iter().filter(|address| range.contains(address)).collect()
    }
}

impl Watched {
    fn pass(&self, PhysAddr(address): PhysAddr, reads: bool, writes: bool) -> Result<(), Abort> {
        if writes && self.stops_at.get() == Some(address) {
            std::panic::resume_unwind(Box::new(()));
        }
        for (does, notes, refused) in
            [(reads, &self.read, &self.refused_reads), (writes, &self.written, &self.refused_writes)]
        {
            if does {
                notes.borrow_mut().push(address);
                if refused.borrow().contains(&address) {
                    self.refused.set(self.refused.get() + 1);
                    return Err(Abort);
                }
            }
        }
        Ok(())
    }
}

impl Memory for Watched {
    fn read64(&self, address: PhysAddr) -> Result<u64, Abort> {
        self.pass(address, true, false)?;
        self.inner.read64(address)
    }

    fn write64(&self, address: PhysAddr, value: u64) -> Result<(), Abort> {
        self.pass(address, false, true)?;
        self.inner.write64(address, value)
    }

    fn write32(&self, address: PhysAddr, value: u32) -> Result<(), Abort> {
        self.pass(address, false, true)?;
        self.inner.write32(address, value)
    }

    fn compare_exchange64(&self, address: PhysAddr, expected: u64, new: u64) -> Result<u64, Abort> {
        self.pass(address, true, true)?;
        self.inner.compare_exchange64(address, expected, new)
    }

    fn read(&self, address: PhysAddr, bytes: &mut [u8]) -> Result<(), Abort> {
        self.pass(address, true, false)?;
        self.inner.read(address, bytes)
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), Abort> {
        self.pass(address, false, true)?;
        self.inner.write(address, bytes)
    }
}
