//! Streams of virtual machines that have their own stage 1: nested translation (3.3, 5.2).
//!
//! The context descriptors, and the tables that they lead to, are the virtual machine's: they lie at intermediate addresses, and
//! the SMMU reads them through stage 2. So are its ASIDs, which mean something beside its VMID alone (3.17). What the virtual
//! machine has its own SMMU forget, is carried out here under that VMID, and reaches nobody else.

use super::command_queue::Synced;
use super::error::DriverError;
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
    /// That of one address, in one address space or, without an ASID, in all (CMD_TLBI_NH_VA, CMD_TLBI_NH_VAA).
    Page {
        /// In which address space.
        asid: Option<Asid>,
        /// Which address.
        address: u64,
        /// Not the table descriptors that lead to it.
        leaf: bool,
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
}

impl GuestInvalidation {
    const fn stream(&self) -> Option<StreamId> {
        match *self {
            Self::Contexts(stream) | Self::Context { stream, .. } => Some(stream),
            Self::All | Self::AddressSpace(_) | Self::Page { .. } => None,
        }
    }

    const fn command(&self, vmid: Vmid) -> Command {
        match *self {
            Self::All => Command::TlbiNhAll { vmid },
            Self::AddressSpace(asid) => Command::TlbiNhAsid { vmid, asid },
            Self::Page { asid: Some(asid), address, leaf } => {
                Command::TlbiNhVa { vmid, asid, range: TlbiRange::single(address, leaf) }
            }
            Self::Page { asid: None, address, leaf } => {
                Command::TlbiNhVaa { vmid, range: TlbiRange::single(address, leaf) }
            }
            Self::Contexts(stream) => Command::CfgiCdAll { stream },
            Self::Context { stream, substream, leaf } => Command::CfgiCd { stream, substream, leaf },
        }
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Carries out what a virtual machine has its SMMU forget, which is everything between two of its SYNCs: there is no order among it
    /// (4.8). When it returns, no access under way uses any of it. For its devices with ATS, [`Smmu::invalidate_atc`] comes behind.
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`] for a stream that is not the virtual machine's, with nothing done, and
    /// [`DriverError::CommandTimeout`] when the SMMU did not complete it in time.
    pub fn invalidate_guest(
        &self,
        cpu: &mut Cpu,
        vmid: Vmid,
        invalidations: &[GuestInvalidation],
    ) -> Result<Synced, DriverError> {
        let control = self.control(cpu)?;
        match invalidations.iter().filter_map(GuestInvalidation::stream).find(|stream| !control.is_guest(vmid, *stream))
        {
            Some(stream) => return Err(DriverError::NotAttached(stream)),
            None => drop(control),
        }
        let (batches, rest) = invalidations.as_chunks::<BATCH>();
        for batch in batches {
            let _ = self.commands.execute(cpu, &batch.map(|invalidation| invalidation.command(vmid)))?;
        }
        let rest: heapless::Vec<_, BATCH> = rest.iter().map(|invalidation| invalidation.command(vmid)).collect();
        self.commands.execute(cpu, &rest)
    }
}

impl Control {
    /// Whether `stream` is one with a stage 1 of the virtual machine's own.
    fn is_guest(&self, vmid: Vmid, stream: StreamId) -> bool {
        let own = self.streams.get(&stream).filter(|own| own.complete && own.guest.is_some());
        own.and_then(|own| own.stage2).is_some_and(|stage2| stage2.vmid == vmid)
    }
}
