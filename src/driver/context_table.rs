//! The context table of a stream: one context descriptor for each substream (3.3.2, 5.3, 5.4).

use alloc::vec::Vec;
use core::cell::Cell;
use core::slice;
use core::sync::atomic::Ordering;

use super::dma::{Coherence, DmaRegion, Shared};
use super::error::DriverError;
use super::reclaim::Forgotten;
use super::sorted::Sorted;
use super::stream::FIRST;
use super::structure::{self, Structure, WORDS};
use crate::smmuv3::cd::L1ContextDescriptor;
use crate::smmuv3::features::Features;
use crate::smmuv3::ste::ContextTableFormat;
use crate::smmuv3::{PhysAddr, SubstreamId};

/// Bytes of a context descriptor.
const ENTRY_BYTES: usize = 64;
/// Substreams of a second-level table, as a power of two (STE.S1Fmt = 0b01).
const SPLIT: u8 = 6;
/// Bytes of a second-level table, and its alignment.
const LEAF_BYTES: usize = ENTRY_BYTES << SPLIT;

/// A context table. It outlives the stream it was made for, to be used by another of the same size.
pub(super) struct ContextTable {
    bits: u8,
    first: DmaRegion,
    /// The second-level tables made so far, by the upper bits of the SubstreamID; `None` if the table is linear.
    leaves: Option<Sorted<usize, DmaRegion>>,
    /// The SMMU has of every descriptor, of both levels, what is in memory (see [`structure::change_all`]).
    settled: Cell<bool>,
}

/// Context tables, and second-level tables of them, that no stream uses: every descriptor is invalid.
pub(super) struct Tables {
    /// There is room for all there are, so that giving one back asks for no memory; in `leaves` too.
    spare: Vec<ContextTable>,
    made: usize,
    leaves: Vec<DmaRegion>,
    leaves_made: usize,
}

impl Tables {
    pub(super) const fn new() -> Self {
        Self { spare: Vec::new(), made: 0, leaves: Vec::new(), leaves_made: 0 }
    }

    /// A table for 2^`bits` substreams. No descriptor is valid but the first one, where it is to hold `first`: the SMMU cannot
    /// have seen the table, so that nothing is invalidated (3.21.3.1).
    pub(super) fn take(
        &mut self,
        features: &Features,
        bits: u8,
        first: Option<&[u64; WORDS]>,
        memory: &Shared,
    ) -> Result<ContextTable, DriverError> {
        let mut table = match self.spare.iter().position(|table| table.bits == bits) {
            Some(spare) => self.spare.swap_remove(spare),
            None => {
                self.spare.try_reserve(self.made + 1)?;
                let table = ContextTable::new(features, bits, memory)?;
                self.made += 1;
                table
            }
        };
        let Some(words) = first else { return Ok(table) };
        if let Some(entry) = table.entry(FIRST) {
            structure::fill(entry, words);
            memory.coherence().clean(entry);
        } else if let Err(error) = self.grow(&mut table, FIRST, words, memory) {
            self.spare.push(table);
            return Err(error);
        }
        Ok(table)
    }

    /// Makes the second-level table of `substream`, of which `table` has none. The descriptor holds `words` as soon as the SMMU
    /// can find it, so that it takes one invalidation (3.21.3.1), with Leaf = 0.
    pub(super) fn grow(
        &mut self,
        table: &mut ContextTable,
        substream: SubstreamId,
        words: &[u64; WORDS],
        memory: &Shared,
    ) -> Result<(), DriverError> {
        let (upper, lower) = split(substream);
        let (Some(leaves), Some(first)) = (&mut table.leaves, table.first.words.get(upper)) else { return Ok(()) };
        leaves.try_reserve()?;
        let leaf = self.take_leaf(memory)?;
        if let Some(entry) = structure::at(leaf.words, lower) {
            structure::fill(entry, words);
            memory.coherence().clean(entry);
        }
        // Release: the SMMU must find the descriptors when it finds their table.
        first.store(L1ContextDescriptor { table: leaf.phys }.encode(), Ordering::Release);
        memory.coherence().clean(slice::from_ref(first));
        leaves.insert(upper, leaf);
        Ok(())
    }

    fn take_leaf(&mut self, memory: &Shared) -> Result<DmaRegion, DriverError> {
        if let Some(leaf) = self.leaves.pop() {
            return Ok(leaf);
        }
        self.leaves.try_reserve(self.leaves_made + 1)?;
        let leaf = memory.allocate(LEAF_BYTES, LEAF_BYTES)?;
        self.leaves_made += 1;
        Ok(leaf)
    }

    /// Takes tables back to which no entry leads any more.
    pub(super) fn give_back(&mut self, left: Forgotten<[Option<ContextTable>; 2]>, coherence: Coherence) {
        let clear = |region: &DmaRegion| {
            region.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            coherence.clean(region.words);
        };
        for mut table in left.into_inner().into_iter().flatten() {
            match &mut table.leaves {
                None => clear(&table.first),
                Some(leaves) => {
                    while let Some((upper, leaf)) = leaves.pop() {
                        if let Some(word) = table.first.words.get(upper) {
                            word.store(L1ContextDescriptor::NOT_VALID, Ordering::Relaxed);
                            coherence.clean(slice::from_ref(word));
                        }
                        clear(&leaf);
                        self.leaves.push(leaf);
                    }
                }
            }
            table.settled.set(true);
            self.spare.push(table);
        }
    }
}

impl ContextTable {
    /// A table of 2^`bits` invalid descriptors: two levels where the SMMU offers them, so that memory is used only where
    /// address spaces are.
    fn new(features: &Features, bits: u8, memory: &Shared) -> Result<Self, DriverError> {
        let two_level = features.cd2l && bits > SPLIT;
        let (bytes, leaves) = if two_level {
            (L1ContextDescriptor::SIZE << (bits - SPLIT), Some(Sorted::new()))
        } else {
            (ENTRY_BYTES << bits, None)
        };
        let first = memory.allocate(bytes, bytes.max(ENTRY_BYTES))?;
        Ok(Self { bits, first, leaves, settled: Cell::new(true) })
    }

    /// The number of descriptors as a power of two (STE.S1CDMax).
    pub(super) const fn bits(&self) -> u8 {
        self.bits
    }

    /// Where the table, or its first level, lies (STE.S1ContextPtr).
    pub(super) const fn base(&self) -> PhysAddr {
        self.first.phys
    }

    /// How it is laid out (STE.S1Fmt).
    pub(super) const fn format(&self) -> ContextTableFormat {
        match self.leaves {
            Some(_) => ContextTableFormat::TwoLevel4K,
            None => ContextTableFormat::Linear,
        }
    }

    /// Whether the SMMU has of every descriptor what is in memory.
    pub(super) const fn settled(&self) -> &Cell<bool> {
        &self.settled
    }

    /// Whether the table reaches as far as `substream`.
    pub(super) const fn covers(&self, substream: SubstreamId) -> bool {
        substream.get() >> self.bits == 0
    }

    /// The descriptor of `substream`, 0 standing for transactions without one. `None` if there is no second-level table for
    /// it, so that it is not valid.
    pub(super) fn entry(&self, substream: SubstreamId) -> Option<&'static Structure> {
        let (upper, lower) = split(substream);
        match &self.leaves {
            None => structure::at(self.first.words, substream.get() as usize),
            Some(leaves) => structure::at(leaves.get(&upper)?.words, lower),
        }
    }
}

/// The number of the second-level table that `substream` is in, and of its descriptor there.
const fn split(substream: SubstreamId) -> (usize, usize) {
    let index = substream.get() as usize;
    (index >> SPLIT, index & ((1 << SPLIT) - 1))
}
