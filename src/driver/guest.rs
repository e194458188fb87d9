//! Streams of virtual machines that have their own stage 1: nested translation (3.3, 5.2).
//!
//! The context descriptors, and the tables that they lead to, are the virtual machine's: they lie at intermediate addresses, and
//! the SMMU reads them through stage 2. So are its ASIDs, which mean something beside its VMID alone (3.17). What the virtual
//! machine has its own SMMU forget, is carried out here under that VMID, and reaches nobody else.

use super::command_queue::Synced;
use super::error::{DriverError, Unsupported};
use super::registers::Registers;
use super::smmu::Control;
use super::{BATCH, Delay, Smmu};
use crate::smmuv3::command::{Command, TlbiRange};
use crate::smmuv3::features::Features;
use crate::smmuv3::ste::{ContextTableFormat, DefaultSubstream};
use crate::smmuv3::{Asid, StreamId, SubstreamId, Vmid};
use crate::sync::Cpu;

/// What a virtual machine says of its stage 1 in its stream table entry (5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The intermediate address of its context descriptor, or of their table, a multiple of 64 (S1ContextPtr).
    pub contexts: u64,
    /// The number of descriptors as a power of two (S1CDMax).
    pub substream_bits: u8,
    /// How they are laid out (S1Fmt).
    pub format: ContextTableFormat,
    /// What happens to transactions without a substream (S1DSS).
    pub default_substream: DefaultSubstream,
}

impl Guest {
    /// Why an SMMU cannot have it.
    pub(super) fn refusal(&self, features: &Features) -> Option<&'static str> {
        let two_level = self.substream_bits > 0 && self.format != ContextTableFormat::Linear;
        let refusals = [
            (!features.stage1, "stage 1 translation (IDR0.S1P)"),
            (self.substream_bits > features.ssid_bits, "as many substreams"),
            (two_level && !features.cd2l, "context tables of two levels (IDR0.CD2L)"),
            (self.contexts >> features.ias() != 0, "context descriptors at that address (IDR5.OAS)"),
            (!self.contexts.is_multiple_of(64), "context descriptors that are not aligned"),
        ];
        refusals.into_iter().find(|(refused, _)| *refused).map(|(_, what)| what)
    }
}

/// What a virtual machine has its SMMU forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestInvalidation {
    /// Every translation of its stage 1 (CMD_TLBI_NH_ALL).
    All,
    /// Those of an address space that are not global (CMD_TLBI_NH_ASID).
    AddressSpace(Asid),
    /// Those of addresses, in one address space or, without an ASID, in all (CMD_TLBI_NH_VA, CMD_TLBI_NH_VAA).
    Addresses {
        /// In which address space.
        asid: Option<Asid>,
        /// Which addresses. A span needs IDR3.RIL, which the virtual machine's SMMU has where this one has it.
        range: TlbiRange,
    },
    /// Every context descriptor of a stream (CMD_CFGI_CD_ALL).
    Contexts(StreamId),
    /// One context descriptor (CMD_CFGI_CD).
    Context {
        /// Of which stream.
        stream: StreamId,
        /// Its index in the table.
        substream: SubstreamId,
        /// Not the first-level descriptor that leads to it.
        leaf: bool,
    },
    /// What a device got by ATS (CMD_ATC_INV). It comes behind the SYNC of what the SMMU is to forget of it (4.5.1).
    Device {
        /// The device's stream.
        stream: StreamId,
        /// Of which PASID; `None` for translations without one.
        substream: Option<SubstreamId>,
        /// Of all PASIDs, if the device knows Global Invalidate. Means nothing without `substream`.
        global: bool,
        /// An address in the span.
        address: u64,
        /// log2 of the span in pages of 4096, aligned to itself; 52 is everything.
        size: u8,
    },
}

impl GuestInvalidation {
    /// Whether it is about streams of the virtual machine alone, and a command that the SMMU has.
    fn check(&self, control: &Control, vmid: Vmid, features: &Features) -> Result<(), DriverError> {
        let (stream, needs_stage1) = match *self {
            Self::Contexts(stream) | Self::Context { stream, .. } => (Some(stream), true),
            Self::Device { stream, .. } => (Some(stream), false),
            Self::All | Self::AddressSpace(_) | Self::Addresses { .. } => (None, false),
        };
        if let Some(stream) = stream.filter(|stream| !control.is_its(vmid, *stream, needs_stage1)) {
            return Err(DriverError::NotAttached(stream));
        }
        match *self {
            Self::Addresses { range: TlbiRange { span: Some(_), .. }, .. } if !features.range_invalidation => {
                Err(Unsupported::NoRanges.into())
            }
            Self::Device { stream, substream: Some(_), .. } if features.ssid_bits == 0 => {
                Err(DriverError::NotSupported { stream, what: "a PASID (IDR1.SSIDSIZE)" })
            }
            _ => Ok(self.command(vmid).check(features)?),
        }
    }

    const fn command(&self, vmid: Vmid) -> Command {
        match *self {
            Self::All => Command::TlbiNhAll { vmid },
            Self::AddressSpace(asid) => Command::TlbiNhAsid { vmid, asid },
            Self::Addresses { asid: Some(asid), range } => Command::TlbiNhVa { vmid, asid, range },
            Self::Addresses { asid: None, range } => Command::TlbiNhVaa { vmid, range },
            Self::Contexts(stream) => Command::CfgiCdAll { stream },
            Self::Context { stream, substream, leaf } => Command::CfgiCd { stream, substream, leaf },
            Self::Device { stream, substream, global, address, size } => {
                Command::AtcInv { stream, substream, global, address, size }
            }
        }
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Carries out what a virtual machine has its SMMU forget, which is everything between two of its SYNCs: there is no order among it
    /// (4.8). When it returns, no access under way uses any of it.
    ///
    /// # Errors
    ///
    /// With nothing done: [`DriverError::NotAttached`] for a stream that is not the virtual machine's, [`DriverError::Unsupported`] for ranges
    /// without IDR3.RIL, [`DriverError::NotSupported`] for a PASID where the SMMU has none, [`DriverError::GuestCommand`] for anything
    /// else that this SMMU has not, and [`DriverError::Busy`].
    ///
    /// [`DriverError::CommandTimeout`] when the SMMU did not complete it in time, [`DriverError::AtcInvalidationTimeout`] when a device did not.
    pub fn invalidate_guest(
        &self,
        cpu: &mut Cpu,
        vmid: Vmid,
        invalidations: &[GuestInvalidation],
    ) -> Result<Synced, DriverError> {
        let control = self.control(cpu)?;
        invalidations.iter().try_for_each(|invalidation| invalidation.check(&control, vmid, &self.features))?;
        drop(control);
        let (batches, rest) = invalidations.as_chunks::<BATCH>();
        for batch in batches {
            let _ = self.commands.execute(cpu, &batch.map(|invalidation| invalidation.command(vmid)))?;
        }
        let rest: heapless::Vec<_, BATCH> = rest.iter().map(|invalidation| invalidation.command(vmid)).collect();
        self.commands.execute(cpu, &rest)
    }
}

impl Control {
    /// Whether `stream` is one of the virtual machine's, with a stage 1 of its own if it needs that.
    fn is_its(&self, vmid: Vmid, stream: StreamId, needs_stage1: bool) -> bool {
        let own = self.streams.get(&stream).filter(|own| own.complete && own.vmid() == Some(vmid));
        own.is_some_and(|own| own.guest.is_some() || !needs_stage1)
    }
}
