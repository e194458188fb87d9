//! Streams: attaching them to address spaces, and detaching them.

use core::sync::atomic::Ordering;

use super::context_table::ContextTable;
use super::error::DriverError;
use super::registers::Registers;
use super::smmu::Control;
use super::structure::{self, CD_V, STE_V, Structure, WORDS};
use super::{Delay, Smmu};
use crate::smmuv3::cd::{ContextDescriptor, TableBase};
use crate::smmuv3::command::Command;
use crate::smmuv3::features::StallModel;
use crate::smmuv3::ste::{AtsMode, ContextTableFormat, DefaultSubstream, Stage1, Ste, StreamWorld};
use crate::smmuv3::{AddressSize, Asid, FlagUpdate, Granule, PhysAddr, StreamId, SubstreamId, TableAttributes, ste};
use crate::sync::Cpu;

/// Substream 0, whose descriptor also serves transactions without a substream.
const FIRST: SubstreamId = SubstreamId::from_low_bits(0);

/// An address space as a context descriptor describes it: stage 1 tables with the 4 KiB granule, in the lower half of
/// the addresses (5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The top-level translation table.
    pub table: PhysAddr,
    /// The tag of the address space's translations.
    pub asid: Asid,
    /// 64 minus the number of address bits: 16 for 48 bits, 25 for 39.
    pub t0sz: u8,
    /// The memory attributes that AttrIndx selects, MAIR_EL1's format.
    pub mair: u64,
}

/// What becomes of an access that misses its translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultMode {
    /// It is terminated and reported.
    Terminate,
    /// It stalls until the fault is answered. Until faults are enabled the stream is aborted, since nobody would answer.
    Stall,
    /// The device asks for the page by ATS and PRI beforehand; what misses all the same is terminated and reported.
    PageRequest,
}

/// How a stream is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// What becomes of accesses that miss.
    pub faults: FaultMode,
    /// Where transactions without a substream go; `None` terminates them.
    pub context: Option<Context>,
    /// The number of substreams as a power of two; 0 is none. See [`Smmu::attach_substream`].
    pub substream_bits: u8,
    /// The device's "PRG Response PASID Required" (STE.PPAR, 8.1).
    pub response_needs_pasid: bool,
}

/// An attached stream.
pub(super) struct Stream {
    pub(super) mode: FaultMode,
    pub(super) ste: &'static Structure,
    /// The entry with faults enabled.
    pub(super) enabled: [u64; WORDS],
    /// The entry with faults off.
    pub(super) disabled: [u64; WORDS],
    contexts: ContextTable,
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Attaches a stream: from now on its transactions are translated. A stream in [`FaultMode::Stall`] is aborted until
    /// its faults are enabled.
    ///
    /// # Errors
    ///
    /// [`DriverError::AlreadyAttached`], [`DriverError::StreamOutOfRange`], [`DriverError::NotSupported`] when the SMMU
    /// cannot do what `config` asks for, [`DriverError::NoMemory`], [`DriverError::Timeout`], [`DriverError::Busy`].
    pub fn attach(&self, cpu: &mut Cpu, stream: StreamId, config: &StreamConfig) -> Result<(), DriverError> {
        self.supports(stream, config)?;
        let mut control = self.control(cpu)?;
        if control.streams.contains_key(&stream) {
            return Err(DriverError::AlreadyAttached(stream));
        }
        let ste = control.table.entry(stream)?;
        let contexts = control.context_table(config.substream_bits)?;
        if let (Some(context), Some(first)) = (config.context, contexts.entry(FIRST)) {
            // No invalidation: the SMMU cannot have seen the table through this stream (3.21.3.1).
            let words = self.descriptor(config.faults, &context).encode();
            first.iter().zip(words).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        }
        let [enabled, disabled] = self.entries(config, &contexts);
        self.commands.set_response_pasid(stream, config.response_needs_pasid);
        self.change_entry(cpu, stream, ste, &disabled)?;
        let attached = Stream { mode: config.faults, ste, enabled, disabled, contexts };
        control.streams.insert(stream, attached);
        Ok(())
    }

    /// Gives a substream of an attached stream an address space, or takes it away with `None`.
    ///
    /// The translations that were in use before stay in the SMMU and the device until they are invalidated.
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::SubstreamOutOfRange`], [`DriverError::Timeout`], [`DriverError::Busy`].
    pub fn attach_substream(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        substream: SubstreamId,
        context: Option<&Context>,
    ) -> Result<(), DriverError> {
        let control = self.control(cpu)?;
        let attached = control.streams.get(&stream).ok_or(DriverError::NotAttached(stream))?;
        let out_of_range = || DriverError::SubstreamOutOfRange { stream, substream };
        // A table of one descriptor serves transactions without a substream.
        if attached.contexts.bits() == 0 {
            return Err(out_of_range());
        }
        let entry = attached.contexts.entry(substream).ok_or_else(out_of_range)?;
        let target = context.map_or([0; WORDS], |context| self.descriptor(attached.mode, context).encode());
        structure::update(entry, &target, CD_V, || {
            self.commands.execute(cpu, &[Command::CfgiCd { stream, substream, leaf: true }])
        })
    }

    /// Detaches a stream: from now on its transactions are terminated and reported.
    ///
    /// Its address spaces' translations stay in the SMMU until [`Smmu::invalidate_asid`].
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsEnabled`], [`DriverError::Timeout`], [`DriverError::Busy`].
    pub fn detach(&self, cpu: &mut Cpu, stream: StreamId) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        let attached = control.streams.get(&stream).ok_or(DriverError::NotAttached(stream))?;
        if control.lives.iter().any(|life| life.has(stream)) {
            return Err(DriverError::FaultsEnabled(stream));
        }
        self.change_entry(cpu, stream, attached.ste, &[0; WORDS])?;
        if let Some(Stream { contexts, .. }) = control.streams.remove(&stream) {
            // CFGI_STE has made the SMMU forget the descriptors too (4.3.1).
            contexts.clear();
            control.spare.push(contexts);
        }
        Ok(())
    }

    /// Changes a stream table entry in the order of 3.21.3.1.
    pub(super) fn change_entry(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        ste: &Structure,
        target: &[u64; WORDS],
    ) -> Result<(), DriverError> {
        // Leaf = 0: the first-level descriptor may be new, and cached as invalid (4.3.1).
        structure::update(ste, target, STE_V, || {
            self.commands.execute(cpu, &[Command::CfgiSte { stream, leaf: false }])
        })
    }

    /// The stream's entry with faults enabled and with faults off. They differ in one word, so that going from one to the
    /// other disturbs nothing.
    fn entries(&self, config: &StreamConfig, contexts: &ContextTable) -> [[u64; WORDS]; 2] {
        let default_substream = match config.context {
            Some(_) => DefaultSubstream::Substream0,
            None => DefaultSubstream::Terminate,
        };
        let stage1 = Stage1 {
            context: contexts.base(),
            cd_max: contexts.bits(),
            format: ContextTableFormat::Linear,
            default_substream,
            attributes: TableAttributes::COHERENT,
            // PCIe streams must never stall (3.12.1). Where stalling is not configurable the field must be 0 (5.5).
            stall_disabled: config.faults != FaultMode::Stall && self.features.stall_model == StallModel::Configurable,
            world: StreamWorld::El1,
        };
        let off = Ste {
            response_with_pasid: config.response_needs_pasid,
            incoming_shareability: true,
            ..Ste::new(ste::StreamConfig::Stage1(stage1))
        };
        match config.faults {
            FaultMode::Terminate => [off.encode(); 2],
            FaultMode::PageRequest => [Ste { ats: AtsMode::Full, ..off }.encode(), off.encode()],
            FaultMode::Stall => {
                let mut aborted = off.encode();
                aborted[0] = Ste::new(ste::StreamConfig::Abort).encode()[0];
                [off.encode(), aborted]
            }
        }
    }

    fn descriptor(&self, faults: FaultMode, context: &Context) -> ContextDescriptor {
        let lower = TableBase {
            table: context.table,
            tsz: context.t0sz,
            granule: Granule::Size4K,
            attributes: TableAttributes::COHERENT,
            ignore_top_byte: false,
            hierarchy_disabled: false,
            unprivileged_disabled: false,
        };
        ContextDescriptor {
            ttb0: Some(lower),
            ttb1: None,
            big_endian: false,
            // More than 48 bits need other descriptors than ours (3.4.1).
            output_size: self.features.oas.min(AddressSize::Bits48),
            access_flag_fault_disabled: false,
            flag_update: FlagUpdate::None,
            write_execute_never: false,
            privileged_access_never: false,
            stall: faults == FaultMode::Stall || self.features.stall_model == StallModel::Forced,
            record: true,
            abort: true,
            asid: context.asid,
            private_asid: true,
            mair: context.mair,
        }
    }

    fn supports(&self, stream: StreamId, config: &StreamConfig) -> Result<(), DriverError> {
        let not_supported = |what| Err(DriverError::NotSupported { stream, what });
        match config.faults {
            FaultMode::Stall if !self.features.can_stall() => not_supported("the stall model"),
            FaultMode::PageRequest if !self.features.ats || self.page_requests.is_none() => {
                not_supported("ATS with PRI")
            }
            _ if config.substream_bits > self.features.ssid_bits => not_supported("as many substreams"),
            _ => Ok(()),
        }
    }
}

impl Control {
    /// A context table for 2^`bits` substreams, none of them valid.
    fn context_table(&mut self, bits: u8) -> Result<ContextTable, DriverError> {
        match self.spare.iter().position(|table| table.bits() == bits) {
            Some(spare) => Ok(self.spare.swap_remove(spare)),
            None => Ok(ContextTable::new(bits, &*self.memory)?),
        }
    }
}
