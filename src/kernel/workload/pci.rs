//! What the parts of the main job with QEMU's PCI devices share.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use super::bench::{Bench, Failure, LIMIT_US, context};
use crate::arch::timer;
use crate::driver::{FaultMode, StreamConfig};
use crate::kernel::devices::Unit;
use crate::kernel::report::Report;
use crate::platform::boot::MappedBoard;
use crate::platform::pci::{Ecam, Function, RootBus};
use crate::smmuv3::StreamId;
use crate::smmuv3::event::{Event, FaultKind};
use crate::sva::address_space::AddressSpace;

/// A PCI function and the SMMU in front of it.
pub(super) struct Behind {
    pub(super) function: Function,
    pub(super) stream: StreamId,
    pub(super) front: &'static Unit,
}

/// The PCIe bus of `board`, if there is one. Out of line, and in a box: it is large for a stack.
#[inline(never)]
pub(super) fn bring_up(board: &MappedBoard) -> Result<Option<Box<RootBus<Ecam>>>, Failure> {
    let Some(pcie) = &board.pcie else { return Ok(None) };
    let window = board.registers(&pcie.ecam).ok_or_else(|| Failure::new("PCIe is not mapped"))?;
    let ecam = Ecam { window, first_bus: pcie.first_bus };
    Ok(Some(Box::new(RootBus::bring_up(ecam, pcie).map_err(Failure::new)?)))
}

impl Bench {
    /// The function `what`, [`find`](RootBus::find) by `vendor` and `device`, if there is one and an SMMU in front of it. If
    /// not, says so: a failure if it is `expected` to be there.
    pub(super) fn behind(
        &self,
        report: &mut Report,
        expected: bool,
        what: &str,
        [vendor, device]: [u16; 2],
    ) -> Option<Behind> {
        let found = || {
            let pcie = self.kernel.board.pcie.as_ref().ok_or("this machine has no PCIe")?;
            let bus = self.bus.as_ref().ok_or("this machine has no PCIe")?;
            let function = bus.find(vendor, device).cloned().ok_or("this machine has no such device")?;
            let no_smmu = "no SMMU is in front of this machine's PCIe";
            let (phandle, stream) = pcie.stream(function.requester()).ok_or(no_smmu)?;
            let front = self.devices.smmus.iter().find(|unit| unit.phandle == phandle).ok_or(no_smmu)?;
            Ok(Behind { function, stream, front })
        };
        found().map_err(|why: &str| self.lacks(report, expected, what, why)).ok()
    }

    /// Attaches `behind` to `space` and lets it do DMA.
    pub(super) fn attach(&mut self, behind: &Behind, space: &AddressSpace) -> Result<(), Failure> {
        let config = StreamConfig { faults: FaultMode::Terminate, translation: context(space).into() };
        behind.front.smmu.attach(&mut self.cpu, behind.stream, &config)?;
        self.bus()?.allow_dma(behind.function.address, true);
        self.forget_events(behind)
    }

    /// What came before belongs to nobody here, and what of it still is in the queue.
    pub(super) fn forget_events(&mut self, behind: &Behind) -> Result<(), Failure> {
        let Unit { smmu, events, .. } = behind.front;
        // The drainer may have put some of it off.
        let (start, limit) = (timer::now(), Duration::from_micros(LIMIT_US.into()));
        while self.cpu.masked(|masked| smmu.drain_events(masked)).more {
            if timer::now() - start > limit {
                return Err(Failure::new("the event queue does not become empty"));
            }
        }
        events.take(&self.cpu);
        Ok(())
    }

    /// The PCIe bus.
    pub(super) fn bus(&mut self) -> Result<&mut RootBus<Ecam>, Failure> {
        self.bus.as_deref_mut().ok_or_else(|| Failure::new("this machine has no PCIe"))
    }

    /// The events since there were `before` of them, of which one is waited for.
    pub(super) fn blocked(&mut self, behind: &Behind, before: u64) -> Result<Vec<Seen>, Failure> {
        let events = &behind.front.events;
        self.wait("an event record", Duration::from_micros(LIMIT_US.into()), || events.seen() > before)?;
        Ok(events.take(&self.cpu).iter().map(Seen::of).collect())
    }
}

/// What an event says about a blocked access.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) kind: Option<FaultKind>,
    pub(super) stream: StreamId,
    pub(super) address: u64,
    pub(super) write: bool,
}

impl Seen {
    fn of(event: &Event) -> Self {
        match event {
            Event::Fault(fault) => {
                Self { kind: Some(fault.kind), stream: fault.stream, address: fault.address, write: fault.access.write }
            }
            other => Self { kind: None, stream: other.stream().unwrap_or(StreamId(0)), address: 0, write: false },
        }
    }
}
