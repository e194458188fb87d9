//! Making the SMMU and devices forget translations (4.4, 4.5.1).

use super::error::DriverError;
use super::registers::Registers;
use super::{BATCH, Delay, Smmu};
use crate::smmuv3::command::{Command, TlbiRange};
use crate::smmuv3::{Asid, StreamId, SubstreamId, Vmid};
use crate::sync::Cpu;

const PAGE_SHIFT: u32 = 12;
/// CMD_ATC_INV.Size for everything (4.5.1).
const EVERYTHING: u8 = 52;
/// The driver's streams use stage 1 alone, which tags translations with VMID 0.
const VMID: Vmid = Vmid(0);

/// A range of 4 KiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// The address of the first.
    pub first: u64,
    /// How many, at least 1.
    pub count: u64,
}

impl Pages {
    /// The smallest naturally aligned power of two of pages around the range, as its CMD_ATC_INV.Size: the power.
    fn atc_size(self) -> u8 {
        let first = self.first >> PAGE_SHIFT;
        let last = first.saturating_add(self.count.saturating_sub(1));
        let differing = u64::BITS - (first ^ last).leading_zeros();
        (differing as u8).min(EVERYTHING)
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Makes the SMMU forget every translation of an address space. When it returns, no access under way uses one.
    ///
    /// # Errors
    ///
    /// [`DriverError::Timeout`] when the SMMU did not complete it in time.
    pub fn invalidate_asid(&self, cpu: &mut Cpu, asid: Asid) -> Result<(), DriverError> {
        self.commands.execute(cpu, &[Command::TlbiNhAsid { vmid: VMID, asid }])
    }

    /// Makes the SMMU forget the translations of some pages of an address space, table descriptors included. When it
    /// returns, no access under way uses one.
    ///
    /// # Errors
    ///
    /// [`DriverError::Timeout`] when the SMMU did not complete it in time.
    pub fn invalidate_pages(&self, cpu: &mut Cpu, asid: Asid, pages: Pages) -> Result<(), DriverError> {
        // Past a batch, one command for all beats one for each page.
        if pages.count > BATCH as u64 {
            return self.invalidate_asid(cpu, asid);
        }
        let commands: heapless::Vec<Command, BATCH> = (0..pages.count)
            .map(|page| pages.first.wrapping_add(page << PAGE_SHIFT))
            .map(|address| Command::TlbiNhVa { vmid: VMID, asid, range: TlbiRange::single(address, false) })
            .collect();
        self.commands.execute(cpu, &commands)
    }

    /// Makes a device forget translations that it got by ATS; `None` means all of them. To be called after the SMMU has
    /// forgotten them (4.5.1). When it returns, no access under way uses one.
    ///
    /// # Errors
    ///
    /// [`DriverError::AtcInvalidationTimeout`] when the device did not complete it: nothing that the translations lead to
    /// may be used again until the device is reset. [`DriverError::Timeout`] when the SMMU did not, and
    /// [`DriverError::NotSupported`] on an SMMU without ATS.
    pub fn invalidate_atc(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        substream: Option<SubstreamId>,
        pages: Option<Pages>,
    ) -> Result<(), DriverError> {
        if !self.features.ats {
            return Err(DriverError::NotSupported { stream, what: "ATS" });
        }
        let (address, size) = pages.map_or((0, EVERYTHING), |pages| (pages.first, pages.atc_size()));
        let command = Command::AtcInv { stream, substream, global: false, address, size };
        self.commands.execute(cpu, &[command])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atc_invalidation_covers_the_range_and_is_aligned() {
        for (first, count, size) in [
            (0x1000, 1, 0),
            (0x2000, 2, 1),
            (0x1000, 2, 2),
            (0x7000, 2, 4),
            (0, 0x10_0000, 20),
            (0, 1 << 52, 52),
            (!0xfff, 5, 52),
        ] {
            assert_eq!(Pages { first, count }.atc_size(), size, "{first:#x} {count}");
        }
    }
}
