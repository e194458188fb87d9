//! The context table of a stream: one context descriptor for each substream (3.3.2, 5.4).

use core::cell::Cell;
use core::sync::atomic::Ordering;

use super::dma::{DmaMemory, DmaRegion, NoMemory};
use super::reclaim::Forgotten;
use super::stream::Stream;
use super::structure::{self, Structure};
use crate::smmuv3::{PhysAddr, SubstreamId};

/// Bytes of a context descriptor.
const ENTRY_BYTES: usize = 64;

/// A linear context table. It outlives the stream it was made for, to be used by another of the same size.
#[derive(Debug)]
pub(super) struct ContextTable {
    bits: u8,
    region: DmaRegion,
    /// The SMMU has of every descriptor what is in memory (see [`structure::change`]).
    settled: Cell<bool>,
}

impl ContextTable {
    /// A table of 2^`bits` invalid descriptors.
    pub(super) fn new(bits: u8, memory: &dyn DmaMemory) -> Result<Self, NoMemory> {
        let bytes = ENTRY_BYTES << bits;
        Ok(Self { bits, region: memory.allocate(bytes, bytes)?, settled: Cell::new(true) })
    }

    /// The number of descriptors as a power of two (STE.S1CDMax).
    pub(super) const fn bits(&self) -> u8 {
        self.bits
    }

    /// Where the table lies (STE.S1ContextPtr).
    pub(super) const fn base(&self) -> PhysAddr {
        self.region.phys
    }

    /// Whether the SMMU has of every descriptor what is in memory.
    pub(super) const fn settled(&self) -> &Cell<bool> {
        &self.settled
    }

    /// The descriptor of `substream`, 0 standing for transactions without one.
    pub(super) fn entry(&self, substream: SubstreamId) -> Option<&'static Structure> {
        structure::at(self.region.words, substream.get() as usize)
    }

    /// The table of a stream that is no more, with every descriptor invalid again.
    pub(super) fn reclaim(stream: Forgotten<Stream>) -> Self {
        let table = stream.into_inner().contexts;
        table.region.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        table.settled.set(true);
        table
    }
}
