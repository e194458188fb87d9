//! The machine as its device tree describes it.

use core::ops::Range;

use heapless::Vec;

use crate::smmuv3::StreamId;
use crate::sync::cpu::MAX_CORES;

/// The most pieces of memory.
pub const MAX_MEMORY: usize = 8;
/// The most reserved pieces of memory.
pub const MAX_RESERVED: usize = 16;
/// The most regions of GIC redistributors.
pub const MAX_REDISTRIBUTORS: usize = 4;
/// The most address windows of the PCIe host bridge.
pub const MAX_PCIE_WINDOWS: usize = 4;
/// The most entries of an `iommu-map`.
pub const MAX_STREAM_MAPS: usize = 4;
/// The most SMMUs.
pub const MAX_SMMUS: usize = 4;
/// The most DMA engines.
pub const MAX_ENGINES: usize = 64;

/// The board. No two windows of registers, nor a window and memory, overlap, and all are whole 4 KiB pages below 2^48.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// Where memory is.
    pub memory: Vec<Range<u64>, MAX_MEMORY>,
    /// What of the memory is not for the kernel's use.
    pub reserved: Vec<Range<u64>, MAX_RESERVED>,
    /// The cores, the index of each being its number.
    pub cores: Vec<Mpidr, MAX_CORES>,
    /// How PSCI is called.
    pub psci: PsciMethod,
    /// The interrupt controller.
    pub gic: Gic,
    /// The interrupt of each core's virtual timer.
    pub timer: Interrupt,
    /// The registers of the first PL011.
    pub uart: Range<u64>,
    /// The PCIe host bridge, if there is one.
    pub pcie: Option<Pcie>,
    /// The SMMUs, in the tree's order.
    pub smmus: Vec<Smmu, MAX_SMMUS>,
    /// The DMA engines, in the tree's order.
    pub engines: Vec<Engine, MAX_ENGINES>,
    /// The control page of the model.
    pub control: Option<Range<u64>>,
}

impl Board {
    /// The SMMU that `phandle` names.
    pub fn smmu(&self, phandle: Phandle) -> Option<&Smmu> {
        self.smmus.iter().find(|smmu| smmu.phandle == phandle)
    }

    /// Every window of device registers, with a word for what it is.
    pub fn windows(&self) -> impl Iterator<Item = (&'static str, &Range<u64>)> {
        let pcie = self.pcie.iter().flat_map(|pcie| {
            let windows = pcie.windows.iter().map(|window| ("PCIe window", &window.cpu));
            core::iter::once(("PCIe configuration space", &pcie.ecam)).chain(windows)
        });
        core::iter::once(("GIC distributor", &self.gic.distributor))
            .chain(self.gic.redistributors.iter().map(|window| ("GIC redistributors", window)))
            .chain(self.gic.its.iter().map(|its| ("ITS", &its.window)))
            .chain(core::iter::once(("UART", &self.uart)))
            .chain(pcie)
            .chain(self.smmus.iter().map(|smmu| ("SMMU", &smmu.window)))
            .chain(self.engines.iter().map(|engine| ("DMA engine", &engine.window)))
            .chain(self.control.iter().map(|window| ("control page", window)))
    }
}

/// The affinity fields of a core's MPIDR_EL1, as PSCI takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mpidr(pub u64);

/// The instruction that calls PSCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsciMethod {
    /// HVC.
    Hvc,
    /// SMC.
    Smc,
}

/// What a node refers to another one by: an `iommus` or an `iommu-map` to an SMMU, an `msi-parent` to an ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phandle(pub u32);

/// A wire to the interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its INTID: 16 to 31 are private to a core, 32 to 1019 shared.
    pub intid: u32,
    /// When it is pending.
    pub trigger: Trigger,
}

/// When an interrupt is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// From a rising edge on until it is taken.
    Edge,
    /// While the wire is high.
    Level,
}

/// The GICv3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic {
    /// The distributor's registers.
    pub distributor: Range<u64>,
    /// The redistributors', two or four 64 KiB frames for each core.
    pub redistributors: Vec<Range<u64>, MAX_REDISTRIBUTORS>,
    /// What makes interrupts of messages.
    pub its: Option<Its>,
}

/// An interrupt translation service of the GIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Its {
    /// Its name among the devices that send messages.
    pub phandle: Phandle,
    /// Its registers: 64 KiB of control, 64 KiB of translation.
    pub window: Range<u64>,
}

/// Who makes interrupts of a device's messages, and as whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages {
    /// The ITS.
    pub its: Phandle,
    /// The DeviceID there.
    pub device: u32,
}

/// A PCIe host bridge with memory-mapped configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcie {
    /// The configuration space: 4 KiB for each function, from `first_bus` on.
    pub ecam: Range<u64>,
    /// The number of the first bus.
    pub first_bus: u8,
    /// The number of the last bus.
    pub last_bus: u8,
    /// Where the CPU reaches the functions' registers.
    pub windows: Vec<PcieWindow, MAX_PCIE_WINDOWS>,
    /// Which requester has which StreamID.
    pub streams: Vec<StreamMap, MAX_STREAM_MAPS>,
}

impl Pcie {
    /// The SMMU in front of the function `requester` (bus 15:8, device 7:3, function 2:0), and the StreamID there.
    pub fn stream(&self, requester: u16) -> Option<(Phandle, StreamId)> {
        self.streams.iter().find_map(|map| {
            let offset = u32::from(requester).checked_sub(map.first_requester).filter(|offset| *offset < map.length)?;
            Some((map.smmu, StreamId(map.first_stream.0.checked_add(offset)?)))
        })
    }

    /// Where the CPU reaches `size` bytes at `pci` in PCI's memory, if they are all in one window.
    pub fn cpu_address(&self, pci: u64, size: u64) -> Option<u64> {
        self.windows.iter().filter(|window| window.space != PcieSpace::Io).find_map(|window| {
            let start = window.cpu.start.checked_add(pci.checked_sub(window.pci)?)?;
            start.checked_add(size).filter(|&end| end <= window.cpu.end).map(|_| start)
        })
    }
}

/// A window through which the CPU reaches one of PCI's address spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcieWindow {
    /// Which address space.
    pub space: PcieSpace,
    /// Where the window starts there.
    pub pci: u64,
    /// Where the CPU sees it.
    pub cpu: Range<u64>,
}

/// A PCI address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcieSpace {
    /// I/O ports.
    Io,
    /// Memory for BARs of 32 bits.
    Memory32,
    /// Memory for BARs of 64 bits.
    Memory64,
}

/// One entry of an `iommu-map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamMap {
    /// The first requester ID.
    pub first_requester: u32,
    /// How many requester IDs.
    pub length: u32,
    /// The SMMU in front of them.
    pub smmu: Phandle,
    /// The StreamID of the first one; the next ones follow.
    pub first_stream: StreamId,
}

/// An SMMUv3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smmu {
    /// Its name among the devices behind it.
    pub phandle: Phandle,
    /// Its registers, both pages of them.
    pub window: Range<u64>,
    /// Its interrupts, unless it has messages alone.
    pub wires: Option<Wires>,
    /// Where its messages may go instead.
    pub messages: Option<Messages>,
    /// Whether its accesses to tables and queues are coherent with the caches.
    pub coherent: bool,
}

/// An SMMU's wires to the interrupt controller (3.18.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wires {
    /// One for each source.
    Separate {
        /// The event queue became non-empty.
        event_queue: Interrupt,
        /// The PRI queue became non-empty.
        pri_queue: Option<Interrupt>,
        /// A CMD_SYNC completed.
        command_sync: Option<Interrupt>,
        /// A global error became active.
        global_error: Interrupt,
    },
    /// One for all, which does not tell of what.
    Combined(Interrupt),
}

impl Wires {
    /// Every one.
    pub fn all(self) -> impl Iterator<Item = Interrupt> {
        let all = match self {
            Self::Separate { event_queue, pri_queue, command_sync, global_error } => {
                [Some(event_queue), pri_queue, command_sync, Some(global_error)]
            }
            Self::Combined(interrupt) => [Some(interrupt), None, None, None],
        };
        all.into_iter().flatten()
    }
}

/// A DMA engine of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Its registers.
    pub window: Range<u64>,
    /// What it raises when it is done.
    pub interrupt: Interrupt,
    /// The SMMU in front of it.
    pub smmu: Phandle,
    /// Its StreamID there.
    pub stream: StreamId,
    /// Whether its accesses may stall.
    pub can_stall: bool,
    /// The width of its PASIDs, in bits; 0 if it has none.
    pub pasid_bits: u8,
}
