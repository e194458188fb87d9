//! Making the SMMU and devices forget translations (4.4, 4.5.1).

use super::command_queue::Synced;
use super::error::DriverError;
use super::registers::Registers;
use super::{BATCH, Delay, Smmu};
use crate::smmuv3::command::{Command, TlbiRange};
use crate::smmuv3::{Asid, StreamId, SubstreamId, Vmid};
use crate::sync::Cpu;
use crate::sync::grace::Grace;

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
    /// `_grace` is a grace period since cores could last write to the tables: one that still could, might have the SMMU
    /// translate by what it writes afterwards.
    ///
    /// ```compile_fail,E0061
    /// # use smmu_iopf::driver::{Delay, DriverError, Smmu, Synced, registers::Registers};
    /// # use smmu_iopf::{smmuv3::Asid, sync::Cpu};
    /// fn wrong<R: Registers, D: Delay>(smmu: &Smmu<R, D>, cpu: &mut Cpu) -> Result<Synced, DriverError> {
    ///     smmu.invalidate_asid(cpu, Asid(1))
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DriverError::CommandTimeout`] when the SMMU did not complete it in time.
    pub fn invalidate_asid(&self, cpu: &mut Cpu, _grace: &Grace, asid: Asid) -> Result<Synced, DriverError> {
        self.commands.execute(cpu, &[Command::TlbiNhAsid { vmid: VMID, asid }])
    }

    /// Makes the SMMU forget the translations of some pages of an address space, table descriptors included. When it
    /// returns, no access under way uses one. `grace` is as `_grace` of [`Smmu::invalidate_asid`].
    ///
    /// # Errors
    ///
    /// [`DriverError::CommandTimeout`] when the SMMU did not complete it in time.
    pub fn invalidate_pages(
        &self,
        cpu: &mut Cpu,
        grace: &Grace,
        asid: Asid,
        pages: Pages,
    ) -> Result<Synced, DriverError> {
        // Past a batch, one command for all beats one for each page.
        if pages.count > BATCH as u64 {
            return self.invalidate_asid(cpu, grace, asid);
        }
        let addresses = (0..pages.count).map(|page| pages.first.wrapping_add(page << PAGE_SHIFT));
        let command = |address| Command::TlbiNhVa { vmid: VMID, asid, range: TlbiRange::single(address, false) };
        // Filled where it is: it is large to be moved.
        let mut commands = heapless::Vec::<Command, BATCH>::new();
        commands.extend(addresses.map(command));
        self.commands.execute(cpu, &commands)
    }

    /// Makes a device forget translations that it got by ATS, with this SubstreamID or without one; no `pages` means all
    /// of them. When it returns, no access under way uses one.
    ///
    /// `_forgotten` is that the SMMU has forgotten them: else it would give them to the device again (4.5.1).
    ///
    /// ```compile_fail,E0308
    /// # use smmu_iopf::driver::{Delay, DriverError, Smmu, Synced, registers::Registers};
    /// # use smmu_iopf::{smmuv3::StreamId, sync::{Cpu, grace::Grace}};
    /// fn wrong<R: Registers, D: Delay>(
    ///     smmu: &Smmu<R, D>,
    ///     cpu: &mut Cpu,
    ///     grace: &Grace,
    ///     stream: StreamId,
    /// ) -> Result<Synced, DriverError> {
    ///     smmu.invalidate_atc(cpu, grace, stream, None, None)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DriverError::AtcInvalidationTimeout`] when the device did not complete it: nothing that the translations lead to
    /// may be used again until the device is reset. [`DriverError::CommandTimeout`] when the SMMU did not, and
    /// [`DriverError::NotSupported`] on an SMMU without ATS.
    pub fn invalidate_atc(
        &self,
        cpu: &mut Cpu,
        _forgotten: &Synced,
        stream: StreamId,
        substream: Option<SubstreamId>,
        pages: Option<Pages>,
    ) -> Result<Synced, DriverError> {
        self.invalidate_device(cpu, stream, substream, pages)
    }

    /// The same for a device that has ATS off, and so gets nothing again.
    pub(super) fn invalidate_device(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        substream: Option<SubstreamId>,
        pages: Option<Pages>,
    ) -> Result<Synced, DriverError> {
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
