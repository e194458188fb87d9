//! The SMMU.

use super::engine::Engine;
use super::machine::Width;
use super::memory::Memory;
use super::wire::Wires;

/// An SMMUv3.2 with one programming interface (Non-secure), stage 1, stall, ATS and PRI.
#[derive(Debug)]
pub struct Smmu {}

impl Smmu {
    /// The SMMU after reset.
    pub const fn new() -> Self {
        Self {}
    }

    /// Reads the register at `offset`, aligned to `width`.
    pub fn read(&self, _offset: usize, _width: Width) -> u64 {
        0
    }

    /// Writes the register at `offset`, aligned to `width`.
    pub fn write(&mut self, _offset: usize, _width: Width, _value: u64) {}

    /// One tick. Returns whether anything was done.
    pub fn step(&mut self, _memory: &impl Memory, _wires: &mut impl Wires, _engines: &mut [Engine]) -> bool {
        false
    }
}

impl Default for Smmu {
    fn default() -> Self {
        Self::new()
    }
}
