//! Making the SMMU and devices forget translations (4.4, 4.5.1).

mod range;

use core::iter;
use core::sync::atomic::Ordering;

use self::range::AtcSpan;
pub use self::range::{Gathered, Pages};
use super::command_queue::Synced;
use super::error::{DriverError, Unsupported};
use super::registers::Registers;
use super::smmu::Control;
use super::stream::Stream;
use super::translation::HOST;
use super::{BATCH, Delay, Smmu};
use crate::smmuv3::command::{Command, TlbiRange};
use crate::smmuv3::{Asid, StreamId, SubstreamId, Vmid};
use crate::sync::Cpu;
use crate::sync::grace::Grace;

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
    /// [`DriverError::Unsupported`] on an SMMU without stage 1, and [`DriverError::CommandTimeout`] when it did not complete it in time.
    pub fn invalidate_asid(&self, cpu: &mut Cpu, _grace: &Grace, asid: Asid) -> Result<Synced, DriverError> {
        if !self.features.stage1 {
            return Err(Unsupported::NoStage1.into());
        }
        self.commands.execute(cpu, &[Command::TlbiNhAsid { vmid: HOST, asid }])
    }

    /// Makes the SMMU forget every translation of a virtual machine, those of its own address spaces included, and its devices with ATS. When it
    /// returns, no access under way uses one. `grace` is as `_grace` of [`Smmu::invalidate_asid`].
    ///
    /// # Errors
    ///
    /// As [`Smmu::invalidate_ipas`].
    pub fn invalidate_vmid(&self, cpu: &mut Cpu, grace: &Grace, vmid: Vmid) -> Result<Synced, DriverError> {
        self.invalidate_ipas(cpu, grace, vmid, &Gathered::all())
    }

    /// Makes the SMMU forget what stage 2 said of the intermediate addresses that are `gathered`, and the virtual machine's devices with ATS.
    /// When it returns, no access under way uses any of it. `grace` is as `_grace` of [`Smmu::invalidate_asid`].
    ///
    /// Of what was translated by both stages no cache knows the intermediate addresses: of a virtual machine's own stage 1 everything
    /// is forgotten (4.4.3.1), and by the devices of such streams everything (3.9.1). The SMMU takes another CMD_SYNC for that once a
    /// virtual machine of it has had a stage 1.
    ///
    /// # Errors
    ///
    /// [`DriverError::Unsupported`] on an SMMU without stage 2; [`DriverError::CommandTimeout`] when it did not complete it in time,
    /// [`DriverError::AtcInvalidationTimeout`] when a device did not; [`DriverError::Busy`].
    pub fn invalidate_ipas(
        &self,
        cpu: &mut Cpu,
        grace: &Grace,
        vmid: Vmid,
        gathered: &Gathered,
    ) -> Result<Synced, DriverError> {
        let synced = self.forget_stage2(cpu, grace, vmid, gathered)?;
        if !self.uses_ats() {
            return Ok(synced);
        }
        let control = self.control(cpu)?;
        self.forget_machine_by_devices(cpu, &control, synced, vmid, gathered)
    }

    /// The SMMU's part of [`invalidate_ipas`](Self::invalidate_ipas).
    pub(super) fn forget_stage2(
        &self,
        cpu: &mut Cpu,
        _grace: &Grace,
        vmid: Vmid,
        gathered: &Gathered,
    ) -> Result<Synced, DriverError> {
        if !self.features.stage2 {
            return Err(Unsupported::NoStage2.into());
        }
        let mut commands = heapless::Vec::new();
        if !self.by_ranges(gathered, &mut commands, |range| Command::TlbiS2Ipa { vmid, range }) {
            return self.commands.execute(cpu, &[Command::TlbiS12VmAll { vmid }]);
        }
        let synced = self.commands.execute(cpu, &commands)?;
        // Acquire: pairs with the store in `lead`. An entry that the SMMU found before the SYNC has its store seen behind it.
        if gathered.is_empty() || !self.nested.load(Ordering::Acquire) {
            return Ok(synced);
        }
        // Behind the SYNC: until then what stage 2 said may be combined with stage 1 anew.
        self.commands.execute(cpu, &[Command::TlbiNhAll { vmid }])
    }

    /// The devices' part of [`invalidate_ipas`](Self::invalidate_ipas).
    pub(super) fn forget_machine_by_devices(
        &self,
        cpu: &mut Cpu,
        control: &Control,
        synced: Synced,
        vmid: Vmid,
        gathered: &Gathered,
    ) -> Result<Synced, DriverError> {
        let is_its = |stream: &StreamId, own: &Stream| own.vmid() == Some(vmid) && control.has_ats(*stream);
        let its = control.streams.iter().filter(|(stream, own)| !gathered.is_empty() && is_its(stream, own));
        let commands = its.flat_map(|(&stream, own)| {
            let nested = own.guest.map(|_| all_of_device(stream, own.has_guest_substreams()));
            let spans = nested.is_none().then(|| gathered.atc_spans());
            let alone = spans.into_iter().flatten().map(move |span| atc_invalidation(stream, None, span));
            nested.into_iter().flatten().chain(alone)
        });
        self.forget_by_devices(cpu, synced, commands)
    }

    /// Makes the SMMU forget what is `gathered` of an address space, table descriptors included, by one CMD_SYNC. When it returns, no access
    /// under way uses any of it. Any number of cores may do so side by side. `grace` is as `_grace` of [`Smmu::invalidate_asid`].
    ///
    /// # Errors
    ///
    /// As [`Smmu::invalidate_asid`].
    pub fn invalidate_pages(
        &self,
        cpu: &mut Cpu,
        grace: &Grace,
        asid: Asid,
        gathered: &Gathered,
    ) -> Result<Synced, DriverError> {
        // Filled where it is: it is large to be moved.
        let mut commands = heapless::Vec::new();
        let command = |range| Command::TlbiNhVa { vmid: HOST, asid, range };
        if self.features.stage1 && self.by_ranges(gathered, &mut commands, command) {
            self.commands.execute(cpu, &commands)
        } else {
            self.invalidate_asid(cpu, grace, asid)
        }
    }

    /// Fills `commands` with one for each range that is `gathered`. Says no where one for everything beats them: they are more than a batch.
    fn by_ranges(
        &self,
        gathered: &Gathered,
        commands: &mut heapless::Vec<Command, BATCH>,
        command: impl Fn(TlbiRange) -> Command,
    ) -> bool {
        gathered.ranges().is_some_and(|ranges| {
            let mut ranges = ranges.iter().flat_map(|pages| pages.tlb_ranges(self.features.range_invalidation));
            ranges.all(|range| commands.push(command(range)).is_ok())
        })
    }

    /// As [`invalidate_pages`](Self::invalidate_pages), and makes the devices with ATS that know the address space forget it too, by another
    /// CMD_SYNC. As long as no device has ATS enabled it waits for no other core; else for one that is changing streams.
    ///
    /// # Errors
    ///
    /// As [`Smmu::invalidate_asid`]; [`DriverError::AtcInvalidationTimeout`] when a device did not complete it in time, and [`DriverError::Busy`].
    pub fn invalidate(
        &self,
        cpu: &mut Cpu,
        grace: &Grace,
        asid: Asid,
        gathered: &Gathered,
    ) -> Result<Synced, DriverError> {
        let synced = self.invalidate_pages(cpu, grace, asid, gathered)?;
        if !self.uses_ats() {
            return Ok(synced);
        }
        let control = self.control(cpu)?;
        self.forget_space_by_devices(cpu, &control, synced, asid, gathered)
    }

    /// Whether a device may have translations that the SMMU gave before the SYNC which this core has just waited for.
    ///
    /// Relaxed. Such a device was noted first, and the SYNC of its entry and the register write that enabled its ATS came behind that; the SYNC
    /// of the invalidation was complete after it asked, and this core has seen that by an acquire, or by a register read. A device that is
    /// noted later asks for its translations later, and gets none of those that were forgotten.
    fn uses_ats(&self) -> bool {
        self.uses_ats.load(Ordering::Relaxed)
    }

    /// The devices' part of [`invalidate`](Self::invalidate).
    pub(super) fn forget_space_by_devices(
        &self,
        cpu: &mut Cpu,
        control: &Control,
        synced: Synced,
        asid: Asid,
        gathered: &Gathered,
    ) -> Result<Synced, DriverError> {
        let attached = control.streams.iter().filter(|(stream, _)| control.has_ats(**stream));
        let spaces = attached.flat_map(|(&stream, attached)| {
            let of_asid = attached.spaces.iter().filter(move |(_, other)| *other == asid);
            of_asid.map(move |&(substream, _)| (stream, attached.asked_with(substream)))
        });
        let commands = spaces.flat_map(|(stream, substream)| {
            gathered.atc_spans().map(move |span| atc_invalidation(stream, substream, span))
        });
        self.forget_by_devices(cpu, synced, commands)
    }

    /// Makes the SMMU and all devices with ATS forget all translations. When it returns, no access under way uses one. `_grace` is as that of
    /// [`Smmu::invalidate_asid`].
    ///
    /// # Errors
    ///
    /// As [`Smmu::invalidate`].
    pub fn invalidate_all(&self, cpu: &mut Cpu, _grace: &Grace) -> Result<Synced, DriverError> {
        let commands = [Command::TlbiNsnhAll, Command::TlbiEl2All];
        let synced = self.commands.execute(cpu, if self.features.hyp { &commands } else { &commands[..1] })?;
        if !self.uses_ats() {
            return Ok(synced);
        }
        let control = self.control(cpu)?;
        let with_ats = control.streams.iter().filter(|(stream, _)| control.has_ats(**stream));
        let commands = with_ats.flat_map(|(&stream, attached)| attached.all_of_atc(stream));
        self.forget_by_devices(cpu, synced, commands)
    }

    /// Has devices carry out `commands`, CMD_ATC_INVs, with a CMD_SYNC for each batch of them. Returns the proof of the last, or `synced` if there
    /// are none.
    pub(super) fn forget_by_devices(
        &self,
        cpu: &mut Cpu,
        synced: Synced,
        commands: impl Iterator<Item = Command>,
    ) -> Result<Synced, DriverError> {
        Ok(self.execute_all(cpu, commands)?.unwrap_or(synced))
    }

    /// Has `commands` carried out, with a CMD_SYNC for each batch of them. Returns the proof of the last, if there are any.
    pub(super) fn execute_all(
        &self,
        cpu: &mut Cpu,
        commands: impl Iterator<Item = Command>,
    ) -> Result<Option<Synced>, DriverError> {
        let (mut commands, mut synced) = (commands.peekable(), None);
        while commands.peek().is_some() {
            // Filled where it is: it is large to be moved.
            let mut batch = heapless::Vec::<_, BATCH>::new();
            batch.extend(iter::from_fn(|| commands.next()).take(BATCH));
            synced = Some(self.commands.execute(cpu, &batch)?);
        }
        Ok(synced)
    }

    /// Makes a device forget translations that it got by ATS, with this SubstreamID or without one; no `pages` means all
    /// of them. When it returns, no access under way uses one. SubstreamIDs that only a virtual machine knows are
    /// [`Smmu::invalidate_ipas`]'s business, and [`GuestInvalidation::Device`](super::GuestInvalidation::Device)'s.
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
        if !self.features.ats {
            return Err(DriverError::NotSupported { stream, what: "ATS" });
        }
        let mut commands = heapless::Vec::<_, BATCH>::new();
        match pages {
            None => commands.extend([atc_invalidation(stream, substream, AtcSpan::ALL)]),
            Some(pages) => {
                commands.extend(pages.atc_spans().into_iter().map(|span| atc_invalidation(stream, substream, span)))
            }
        }
        self.commands.execute(cpu, &commands)
    }
}

const fn atc_invalidation(stream: StreamId, substream: Option<SubstreamId>, span: AtcSpan) -> Command {
    let AtcSpan { address, size } = span;
    Command::AtcInv { stream, substream, global: false, address, size }
}

impl Stream {
    /// What makes its device forget everything, by the PASIDs that there are: not every device knows Global.
    pub(super) fn all_of_atc(&self, stream: StreamId) -> impl Iterator<Item = Command> {
        let known = self.spaces.iter().filter_map(|&(substream, _)| self.asked_with(substream));
        let known = known.map(move |substream| atc_invalidation(stream, Some(substream), AtcSpan::ALL));
        all_of_device(stream, self.has_guest_substreams()).chain(known)
    }
}

/// What makes a device forget everything, of its substreams too if it has any.
pub(super) fn all_of_device(stream: StreamId, has_substreams: bool) -> impl Iterator<Item = Command> {
    iter::once(atc_invalidation(stream, None, AtcSpan::ALL)).chain(has_substreams.then(|| of_all_substreams(stream)))
}

/// CMD_ATC_INV of everything, with Global (4.5.1).
const fn of_all_substreams(stream: StreamId) -> Command {
    let (substream, AtcSpan { address, size }) = (Some(SubstreamId::from_low_bits(0)), AtcSpan::ALL);
    Command::AtcInv { stream, substream, global: true, address, size }
}
