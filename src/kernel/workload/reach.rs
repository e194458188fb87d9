//! What the parts of the main job with QEMU's own devices share: memory that a device reaches, and a page of it taken away.

use alloc::sync::Arc;
use core::sync::atomic::AtomicU64;

use super::bench::{Bench, Failure, LIMIT_US, PAGE};
use super::pci::{Behind, Seen};
use crate::arch::timer::Timer;
use crate::driver::Pages;
use crate::driver::dma::{DmaMemory, DmaRegion};
use crate::kernel::report::Report;
use crate::platform::virtio::{Area, Shared};
use crate::smmuv3::Access;
use crate::smmuv3::event::FaultKind;
use crate::sva::Permissions;
use crate::sva::address_space::{AddressSpace, Backing, Effort, Region, Resolution};
use crate::sync::lock::IrqLock;

/// What a device reaches: two stretches of its addresses.
pub(super) struct Reach {
    pub(super) space: Arc<AddressSpace>,
    /// What it may read.
    pub(super) read: Stretch,
    /// What it may write too.
    pub(super) written: Stretch,
}

/// Addresses of a device, and the memory behind them.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    pub(super) start: u64,
    pub(super) memory: DmaRegion,
}

impl Stretch {
    /// The words of `bytes` from byte `from` on.
    pub(super) fn words(&self, from: u64, bytes: u64) -> &'static [AtomicU64] {
        let behind = self.memory.words.get(from as usize / 8..).unwrap_or_default();
        behind.get(..bytes as usize / 8).unwrap_or(behind)
    }

    fn region(&self, permissions: Permissions) -> Region {
        let bytes = self.memory.words.len() as u64 * 8;
        Region { start: self.start, bytes, permissions, backing: Backing::Memory(self.memory.phys) }
    }
}

impl Reach {
    /// An address space of two stretches of `bytes` for `behind`, all of it mapped: this SMMU terminates what misses.
    pub(super) fn new(bench: &mut Bench, behind: &Behind, bytes: u64) -> Result<Self, Failure> {
        // Above this machine's memory: a DMA that nobody translates would meet nothing.
        let [read, written] = [1, 2].map(|index| bench.somewhere(index));
        let stretch = |start| {
            let memory = bench.kernel.device_memory.allocate(bytes as usize, PAGE as usize)?;
            Ok::<_, Failure>(Stretch { start, memory })
        };
        let (read, written) = (stretch(read)?, stretch(written)?);
        let space =
            bench.space(behind.front, &[read.region(Permissions::READ), written.region(Permissions::READ_WRITE)])?;
        let reach = Self { space, read, written };
        for page in (0..bytes).step_by(PAGE as usize) {
            reach.map(reach.read.start + page)?;
            reach.map(reach.written.start + page)?;
        }
        Ok(reach)
    }

    /// What a virtio device is told of it.
    pub(super) fn shared(&self, bench: &Bench) -> Result<Shared, Failure> {
        let Some(pcie) = bench.kernel.board.pcie.clone() else { return Err(Failure::new("no PCIe")) };
        let area = |stretch: Stretch| IrqLock::new(Area::new(stretch.start, stretch.memory));
        Ok(Shared { pcie, read: area(self.read), written: area(self.written) })
    }

    pub(super) fn map(&self, address: u64) -> Result<(), Failure> {
        match self.space.resolve(address, Access::READ, Effort::Zero) {
            Resolution::Mapped => Ok(()),
            other => Err(Failure::new(format_args!("a page for a device: {other:?}"))),
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
            return Err(Failure::new("a page of a device was not mapped"));
        }
        let grace = bench.kernel.domain.synchronize(&mut bench.cpu, &mut Timer, LIMIT_US).map_err(Failure::new)?;
        let taken = Pages { first: page, count: 1 };
        behind.front.smmu.invalidate(&mut bench.cpu, &grace, self.space.asid(), &taken.into())?;
        bench.forget_events(behind)?;
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
