//! Where the machine lies on the QEMU virt board. These addresses and interrupts are unused there.

use super::wire::Wire;
use crate::smmuv3::StreamId;

/// The SMMU's registers: physical address of page 0.
pub const SMMU_BASE: u64 = 0x0b00_0000;
/// The size of the SMMU's registers, pages 0 and 1 of 64 KiB each.
pub const SMMU_SIZE: u64 = 0x2_0000;

/// The number of DMA engines.
pub const ENGINES: usize = 4;
/// The registers of engine 0.
pub const ENGINE_BASE: u64 = 0x0b10_0000;
/// From one engine's registers to the next one's.
pub const ENGINE_STRIDE: u64 = 0x1_0000;
/// The size of an engine's registers.
pub const ENGINE_SIZE: u64 = 0x1000;

/// The physical addresses that the machine answers at, end not included.
pub const WINDOW: core::ops::Range<u64> = SMMU_BASE..ENGINE_BASE + ENGINES as u64 * ENGINE_STRIDE;

/// The StreamID of engine 0; the next ones follow.
pub const FIRST_STREAM: u32 = 0x100;

/// The first SPI of the SMMU: event queue, PRI queue, command sync, global error.
pub const SMMU_SPI: u32 = 200;
/// The SPI of engine 0; the next ones follow.
pub const ENGINE_SPI: u32 = 208;

/// The compatible string of an engine's device-tree node.
pub const ENGINE_COMPATIBLE: &str = "smmu-iopf,dma-engine";

/// The width of the engines' PASIDs, in bits.
pub const PASID_BITS: u8 = 8;

/// What an engine can do beyond plain, stallable accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// A platform device: its accesses may stall (`dma-can-stall`).
    Stall,
    /// Like a PCIe function with ATS and PRI.
    PageRequest,
}

/// What engine `index` is.
pub const fn engine_kind(index: usize) -> EngineKind {
    if index < 2 { EngineKind::Stall } else { EngineKind::PageRequest }
}

/// The StreamID of engine `index`, where the SMMU has the bits for it
/// ([`Profile::engine_stream`](super::profile::Profile::engine_stream)).
pub const fn engine_stream(index: usize) -> StreamId {
    StreamId(FIRST_STREAM + index as u32)
}

/// The physical address of the registers of engine `index`.
pub const fn engine_base(index: usize) -> u64 {
    ENGINE_BASE + index as u64 * ENGINE_STRIDE
}

/// The number of the shared peripheral interrupt that `wire` is connected to (INTID less 32).
pub const fn spi(wire: Wire) -> u32 {
    match wire {
        Wire::EventQueue => SMMU_SPI,
        Wire::PriQueue => SMMU_SPI + 1,
        Wire::CommandSync => SMMU_SPI + 2,
        Wire::GlobalError => SMMU_SPI + 3,
        Wire::Engine(index) => ENGINE_SPI + index as u32,
    }
}
