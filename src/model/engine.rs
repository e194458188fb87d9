//! A DMA engine.

use super::board;
use super::machine::Width;
use super::memory::Memory;
use super::smmu::Smmu;
use super::wire::Wires;
use crate::smmuv3::StreamId;

pub mod registers;

/// A DMA engine: copies, fills and compares memory between I/O virtual addresses. [`registers`] is its datasheet.
#[derive(Debug)]
pub struct Engine {
    stream: StreamId,
}

impl Engine {
    /// Engine `index` of the board, after reset.
    pub const fn new(index: usize) -> Self {
        Self { stream: board::engine_stream(index) }
    }

    /// Reads the register at `offset`, aligned to `width`.
    pub fn read(&self, offset: usize, _width: Width) -> u64 {
        match offset {
            registers::ID => registers::ID_VALUE.into(),
            registers::STREAM_ID => self.stream.0.into(),
            _ => 0,
        }
    }

    /// Writes the register at `offset`, aligned to `width`.
    pub fn write(&mut self, _offset: usize, _width: Width, _value: u64) {}

    /// One tick: at most a page of progress. Returns whether anything was done.
    pub fn step(&mut self, _smmu: &mut Smmu, _memory: &impl Memory, _wires: &mut impl Wires) -> bool {
        false
    }
}
