//! LPIs: their configuration in memory, and the cores that take them (IHI 0069, 5.1).

use core::sync::atomic::Ordering::Relaxed;

use super::command::Target;
use super::service::ItsError;
use crate::arch::mmio::Mmio;
use crate::driver::dma::{DmaMemory, DmaRegion};
use crate::platform::board::Mpidr;
use crate::platform::boot::MappedBoard;

/// The first LPI.
const FIRST: u32 = 8192;
/// INTIDs have so many bits here: LPIs up to 16383. With fewer there are none.
const INTID_BITS: u32 = 14;

/// A byte of the configuration table: the priority that all interrupts here have, bit 1 (RES1), and that the LPI is on.
const ENABLED: u64 = 0x80 | 1 << 1 | 1;

// A redistributor's registers (12.10).
const GICR_CTLR: usize = 0x0;
const ENABLE_LPIS: u32 = 1;
const GICR_TYPER: usize = 0x8;
const GICR_PROPBASER: usize = 0x70;
const GICR_PENDBASER: usize = 0x78;
/// GICR_TYPER: it has LPIs; it has virtual ones too, and so four frames of registers; it is the last one of its region.
const PHYSICAL_LPIS: u64 = 1 << 0;
const VIRTUAL_LPIS: u64 = 1 << 1;
const LAST: u64 = 1 << 4;
/// GICR_PENDBASER.PTZ: the table is zero.
const ZERO: u64 = 1 << 62;
/// Inner shareable, and written back: bits 11:10 and 9:7 of both registers.
const CACHED: u64 = 1 << 10 | 7 << 7;

/// The size of a frame of registers.
const FRAME: u64 = 0x1_0000;

/// The LPIs.
#[derive(Debug)]
pub(super) struct Lpis {
    /// A byte for each.
    configuration: DmaRegion,
    next: u32,
}

impl Lpis {
    /// None of them is on.
    pub(super) fn new(memory: &impl DmaMemory) -> Result<Self, ItsError> {
        let bytes = (1 << INTID_BITS) - FIRST as usize;
        Ok(Self { configuration: memory.allocate(bytes, 0x1000)?, next: FIRST })
    }

    /// Lets the core of affinity `mpidr` take LPIs. Returns what commands name it by; `by_address` says which (GITS_TYPER.PTA).
    pub(super) fn start_core(
        &self,
        board: &MappedBoard,
        memory: &impl DmaMemory,
        mpidr: Mpidr,
        by_address: bool,
    ) -> Result<Target, ItsError> {
        let (at, registers) = redistributor(board, mpidr).ok_or(ItsError::NoRedistributor(mpidr))?;
        let kind = registers.read64(GICR_TYPER);
        if kind & PHYSICAL_LPIS == 0 {
            return Err(ItsError::NoLpis(mpidr));
        }
        // A bit for each INTID. The tables may change only while LPIs are off, as reset left them (12.11).
        let pending = memory.allocate((1 << INTID_BITS) / 8, 0x1_0000)?;
        let bits = u64::from(INTID_BITS - 1);
        registers.write64(GICR_PROPBASER, self.configuration.phys.0 | CACHED | bits);
        registers.write64(GICR_PENDBASER, ZERO | pending.phys.0 | CACHED);
        registers.write32(GICR_CTLR, registers.read32(GICR_CTLR) | ENABLE_LPIS);
        Ok(Target(if by_address { at / FRAME } else { kind >> 8 & 0xffff }))
    }

    /// Turns the next LPI on: its INTID. The cores know of it after an INV.
    pub(super) fn enable_next(&mut self) -> Result<u32, ItsError> {
        let offset = (self.next - FIRST) as usize;
        let word = self.configuration.words.get(offset / 8).ok_or(ItsError::NoMoreLpis)?;
        // Relaxed: the write of GITS_CWRITER orders it before the INV.
        word.fetch_or(ENABLED << (8 * (offset % 8)), Relaxed);
        self.next += 1;
        Ok(self.next - 1)
    }
}

/// The redistributor of the core of affinity `mpidr`: its address, and its registers of physical LPIs.
fn redistributor(board: &MappedBoard, mpidr: Mpidr) -> Option<(u64, Mmio)> {
    let affinity = mpidr.0 >> 8 & 0xff00_0000 | mpidr.0 & 0xff_ffff;
    board.gic.redistributors.iter().find_map(|region| {
        let mut at = region.start;
        loop {
            let registers = board.registers(&(at..at + FRAME))?;
            let kind = registers.read64(GICR_TYPER);
            if kind >> 32 == affinity {
                return Some((at, registers));
            }
            if kind & LAST != 0 {
                return None;
            }
            at += if kind & VIRTUAL_LPIS != 0 { 4 * FRAME } else { 2 * FRAME };
        }
    })
}
