//! The stream table: which structure says what becomes of a stream's transactions (3.3.1, 5.1, 5.2).

use core::slice;
use core::sync::atomic::Ordering;

use super::dma::{DmaRegion, Lent, Shared};
use super::error::DriverError;
use super::sorted::Sorted;
use super::structure::{self, Structure};
use crate::smmuv3::features::Features;
use crate::smmuv3::ste::L1StreamTableDescriptor;
use crate::smmuv3::{PhysAddr, StreamId};

/// Bytes of a stream table entry.
const ENTRY_BYTES: usize = 64;
/// StreamIDs of a second-level table, as a power of two (STRTAB_BASE_CFG.SPLIT).
const SPLIT: u8 = 8;

/// The stream table of one SMMU. Entries and second-level tables start zeroed, which is invalid: what is not attached is
/// terminated and reported.
pub(super) struct StreamTable {
    bits: u8,
    first: DmaRegion,
    /// The second-level tables made so far, by the upper bits of the StreamID; `None` if the table is linear.
    second: Option<Sorted<usize, DmaRegion>>,
    memory: Shared,
}

impl StreamTable {
    /// A table for 2^`bits` StreamIDs, or as many as the SMMU has: two levels where it offers them, so that memory is
    /// used only where streams are.
    pub(super) fn new(features: &Features, bits: u8, memory: &mut Lent<'_>) -> Result<Self, DriverError> {
        let bits = features.sid_bits.min(bits);
        let two_level = features.two_level && bits > SPLIT;
        let (bytes, second) = if two_level {
            (size_of::<u64>() << (bits - SPLIT), Some(Sorted::new()))
        } else {
            (ENTRY_BYTES << bits, None)
        };
        let first = memory.allocate(bytes, bytes.max(ENTRY_BYTES))?;
        Ok(Self { bits, first, second, memory: memory.shared().clone() })
    }

    /// Covers two to the power of this many StreamIDs.
    pub(super) const fn bits(&self) -> u8 {
        self.bits
    }

    /// Where the table, or its first level, lies.
    pub(super) const fn base(&self) -> PhysAddr {
        self.first.phys
    }

    /// STRTAB_BASE_CFG.SPLIT if the table has two levels.
    pub(super) fn split(&self) -> Option<u8> {
        self.second.as_ref().map(|_| SPLIT)
    }

    /// The entry of `stream`. Makes its second-level table if there is none yet: the SMMU may have cached the first-level
    /// descriptor as invalid, so the entry's first invalidation must cover it.
    pub(super) fn entry(&mut self, stream: StreamId) -> Result<&'static Structure, DriverError> {
        let bits = self.bits;
        let out_of_range = || DriverError::StreamOutOfRange { stream, bits };
        let index = stream.0 as usize;
        if index >> self.bits != 0 {
            return Err(out_of_range());
        }
        let Some(second) = &mut self.second else {
            return structure::at(self.first.words, index).ok_or_else(out_of_range);
        };
        let upper = index >> SPLIT;
        let table = match second.get(&upper) {
            Some(table) => *table,
            None => {
                second.try_reserve()?;
                let bytes = ENTRY_BYTES << SPLIT;
                let table = self.memory.allocate(bytes, bytes)?;
                let descriptor = L1StreamTableDescriptor { span: SPLIT + 1, table: table.phys };
                let first = self.first.words.get(upper).ok_or_else(out_of_range)?;
                // Release: the SMMU must find the table zeroed when it finds the table.
                first.store(descriptor.encode(), Ordering::Release);
                self.memory.coherence().clean(slice::from_ref(first));
                second.insert(upper, table);
                table
            }
        };
        structure::at(table.words, index & ((1 << SPLIT) - 1)).ok_or_else(out_of_range)
    }
}
