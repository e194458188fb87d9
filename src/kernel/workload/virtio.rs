//! What the parts of the main job with virtio devices share: memory that a device reaches, and a page of it taken away.

use alloc::sync::Arc;

use super::bench::{Bench, Failure, LIMIT_US, PAGE};
use super::pci::{Behind, Seen};
use crate::arch::timer::Timer;
use crate::driver::dma::{DmaMemory, DmaRegion};
use crate::driver::{Pages, Walked};
use crate::kernel::report::Report;
use crate::platform::virtio::{Area, Shared};
use crate::smmuv3::Access;
use crate::smmuv3::event::FaultKind;
use crate::sva::Permissions;
use crate::sva::address_space::{AddressSpace, Backing, Effort, Region, Resolution};
use crate::sync::lock::IrqLock;

/// What a virtio device reaches.
pub(super) struct Reach {
    pub(super) space: Arc<AddressSpace>,
    /// Where what it writes begins: a page of its queue, then buffers.
    pub(super) written: u64,
    /// The memory there.
    pub(super) memory: DmaRegion,
}

impl Reach {
    /// An address space of two areas of `bytes`, all of it mapped: this SMMU terminates what misses.
    pub(super) fn new(bench: &mut Bench, bytes: u64) -> Result<(Self, Shared), Failure> {
        // Above this machine's memory: a DMA that nobody translates would meet nothing.
        let [read, written] = [1, 2].map(|index| bench.somewhere(index));
        let allocate = || bench.kernel.device_memory.allocate(bytes as usize, PAGE as usize);
        let [to_read, memory] = [allocate()?, allocate()?];
        let region = |start, permissions, memory: &DmaRegion| Region {
            start,
            bytes,
            permissions,
            backing: Backing::Memory(memory.phys),
        };
        let regions = [region(read, Permissions::READ, &to_read), region(written, Permissions::READ_WRITE, &memory)];
        let reach = Self { space: bench.space(&regions)?, written, memory };
        for page in (0..bytes).step_by(PAGE as usize) {
            reach.map(read + page)?;
            reach.map(written + page)?;
        }
        let Some(pcie) = bench.kernel.board.pcie.clone() else { return Err(Failure::new("no PCIe")) };
        let [read, written] = [Area::new(read, to_read), Area::new(written, memory)].map(IrqLock::new);
        Ok((reach, Shared { pcie, read, written }))
    }

    pub(super) fn map(&self, address: u64) -> Result<(), Failure> {
        match self.space.resolve(address, Access::READ, Effort::Zero) {
            Resolution::Mapped => Ok(()),
            other => Err(Failure::new(format_args!("a page for a virtio device: {other:?}"))),
        }
    }

    /// Has the device do a `request` while `page`, which it writes for that, is not mapped, and says how the request ended. What
    /// is looked at is the first record: QEMU 7.2 reports the second half of a queue's entry at its offset in the queue.
    pub(super) fn without_page<T>(
        &self,
        bench: &mut Bench,
        report: &mut Report,
        behind: &Behind,
        page: u64,
        request: impl FnOnce() -> T,
    ) -> Result<T, Failure> {
        if !self.space.unmap(page) {
            return Err(Failure::new("a page of a virtio device was not mapped"));
        }
        let grace = bench.kernel.domain.synchronize(&mut bench.cpu, &mut Timer, LIMIT_US).map_err(Failure::new)?;
        let pages = Pages { first: page, count: 1 };
        behind.front.smmu.invalidate_pages(&mut bench.cpu, &grace, self.space.asid(), pages)?;
        behind.front.events.take(&bench.cpu);
        let before = behind.front.events.seen();
        let ended = request();
        let first = bench.blocked(behind, before)?.into_iter().next();
        report.equal(
            "a write to a page taken away is reported",
            Some(Seen { kind: Some(FaultKind::Translation), stream: behind.stream, address: page, write: true }),
            first.map(|seen| Seen { address: seen.address & !(PAGE - 1), ..seen }),
        );
        Ok(ended)
    }
}
