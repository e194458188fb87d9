//! Where the machine lies on the QEMU virt board. These addresses and interrupts are unused there.

use super::wire::Wire;
use crate::smmuv3::StreamId;
use crate::smmuv3::features::Features;

/// The SMMU's registers: physical address of page 0.
pub const SMMU_BASE: u64 = 0x0b00_0000;
/// The size of the SMMU's registers, pages 0 and 1 of 64 KiB each.
pub const SMMU_SIZE: u64 = 0x2_0000;

/// The [control page](super::control).
pub const CONTROL_BASE: u64 = 0x0b08_0000;
/// The size of the control page.
pub const CONTROL_SIZE: u64 = 0x1000;

/// The number of DMA engines unless somebody chooses another.
pub const DEFAULT_ENGINES: usize = 4;
/// The most DMA engines.
pub const MAX_ENGINES: usize = 64;
/// The registers of engine 0.
pub const ENGINE_BASE: u64 = 0x0b10_0000;
/// From one engine's registers to the next one's.
pub const ENGINE_STRIDE: u64 = 0x1_0000;
/// The size of an engine's registers.
pub const ENGINE_SIZE: u64 = 0x1000;

/// The physical addresses that the machine answers at, end not included. Where there is no engine, registers read as
/// zero and ignore writes.
pub const WINDOW: core::ops::Range<u64> = SMMU_BASE..ENGINE_BASE + MAX_ENGINES as u64 * ENGINE_STRIDE;

/// The StreamID of engine 0; the next ones follow.
pub const FIRST_STREAM: u32 = 0x100;

/// The first SPI of the SMMU: event queue, PRI queue, command sync, global error.
pub const SMMU_SPI: u32 = 200;
/// The SPI of engine 0; the next ones follow up to [`LAST_SPI`].
pub const ENGINE_SPI: u32 = 208;
/// The last SPI that the board has.
pub const LAST_SPI: u32 = 223;
/// The SPI of the first engine for which none is left behind [`ENGINE_SPI`]; the next ones follow. Those below 176 are
/// for devices on QEMU's platform bus, of which there are none.
pub const ENGINE_SPI_LOW: u32 = 152;
const _: () = assert!(ENGINE_SPI_LOW + MAX_ENGINES as u32 - (LAST_SPI - ENGINE_SPI + 1) <= SMMU_SPI);

/// The DeviceID of the SMMU's messages at the ITS: QEMU takes the stores of CPUs for those of device 0.
pub const MESSAGE_DEVICE: u32 = 0;
/// From the start of an ITS's registers to GITS_TRANSLATER, where messages go.
pub const ITS_TRANSLATER: u64 = 0x1_0040;
/// The size of an ITS's registers, those of control and those of translation.
pub const ITS_SIZE: u64 = 0x2_0000;

/// The compatible string of an engine's device-tree node.
pub const ENGINE_COMPATIBLE: &str = "smmu-iopf,dma-engine";

/// The compatible string of the control page's device-tree node.
pub const CONTROL_COMPATIBLE: &str = "smmu-iopf,model-control";

/// The width of the engines' PASIDs, in bits, where the SMMU has no more SubstreamIDs ([`pasid_bits`]).
pub const PASID_BITS: u8 = 8;

/// What an engine can do beyond plain, stallable accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// A platform device: its accesses may stall (`dma-can-stall`).
    Stall,
    /// Like a PCIe function with ATS and PRI.
    PageRequest,
}

/// What engine `index` is: of every four, the first two stall and the others ask for pages.
pub const fn engine_kind(index: usize) -> EngineKind {
    if index % 4 < 2 { EngineKind::Stall } else { EngineKind::PageRequest }
}

/// Whether engine `index` wants the PASID of a page request back in the response ("PRG Response PASID Required"): of
/// those that ask for pages, the first two of every four do.
pub const fn engine_response_needs_pasid(index: usize) -> bool {
    index % 8 < 4
}

/// The number of engines that `value`, of an argument `engines=`, asks for: 1 to [`MAX_ENGINES`] in decimal.
pub fn parse_engines(value: &str) -> Option<usize> {
    value.parse().ok().filter(|count| (1..=MAX_ENGINES).contains(count))
}

/// The StreamID of engine `index`, where the SMMU has the bits for it ([`wired_stream`]).
pub const fn engine_stream(index: usize) -> StreamId {
    StreamId(FIRST_STREAM + index as u32)
}

/// The StreamID of engine `index` of an SMMU with `features`: only the bits that it has are wired (6.3.2).
pub const fn wired_stream(index: usize, features: &Features) -> StreamId {
    let StreamId(stream) = engine_stream(index);
    StreamId((stream as u64 & ((1 << features.sid_bits) - 1)) as u32)
}

/// The width of the PASIDs of engines behind an SMMU with `features`, in bits: [`PASID_BITS`], or more if it has more
/// SubstreamIDs.
pub const fn pasid_bits(features: &Features) -> u8 {
    if features.ssid_bits > PASID_BITS { features.ssid_bits } else { PASID_BITS }
}

/// How many engines have a StreamID of their own there, at most [`MAX_ENGINES`].
pub const fn max_engines(features: &Features) -> usize {
    match features.sid_bits {
        bits @ 0..6 => 1 << bits,
        _ => MAX_ENGINES,
    }
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
        Wire::Engine(index) if index as u32 <= LAST_SPI - ENGINE_SPI => ENGINE_SPI + index as u32,
        Wire::Engine(index) => ENGINE_SPI_LOW + index as u32 - (LAST_SPI - ENGINE_SPI + 1),
    }
}
