//! Streams: attaching them to address spaces, and detaching them.

use alloc::vec::Vec;
use core::cell::Cell;

use super::command_queue::Synced;
use super::context_table::ContextTable;
use super::error::DriverError;
use super::hardware::Hardware;
use super::reclaim::{self, Remembered};
use super::registers::Registers;
use super::smmu::Control;
use super::structure::{self, CD, STE, Structure, WORDS};
use super::{Delay, Smmu};
use crate::smmuv3::cd::{ContextDescriptor, TableBase};
use crate::smmuv3::command::Command;
use crate::smmuv3::features::{Features, StallModel};
use crate::smmuv3::ste::{AtsMode, DefaultSubstream, Stage1, Ste, StreamWorld};
use crate::smmuv3::{AddressSize, Asid, FlagUpdate, Granule, PhysAddr, StreamId, SubstreamId, TableAttributes, ste};
use crate::sync::Cpu;
use crate::sync::grace::Grace;

/// Substream 0, whose descriptor serves transactions without a substream.
pub(super) const FIRST: SubstreamId = SubstreamId::from_low_bits(0);

/// An address space as a context descriptor describes it: stage 1 tables with the 4 KiB granule, in the lower half of
/// the addresses (5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The top-level translation table.
    pub table: PhysAddr,
    /// The tag of the address space's translations, not [`NO_TABLES`], and below 256 where IDR0.ASID16 is 0.
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

/// The tag of descriptors that have no tables any more. No address space has it: an access through such a descriptor may
/// not meet somebody else's translations in the TLB.
pub const NO_TABLES: Asid = Asid(0);

/// A stream whose entry leads to a context table.
pub(super) struct Stream {
    /// It is attached; else the step that was to attach it failed.
    pub(super) complete: bool,
    pub(super) mode: FaultMode,
    /// [`Smmu::recover`] aborted it, though its faults are not enabled.
    pub(super) stopped: bool,
    pub(super) ste: &'static Structure,
    /// The SMMU has of the entry what is in memory (see [`structure::change`]).
    pub(super) settled: Cell<bool>,
    /// The SMMU has the first-level descriptor that leads to the entry.
    pub(super) reached: Cell<bool>,
    /// The entry with faults enabled.
    pub(super) enabled: [u64; WORDS],
    /// The entry with faults off.
    pub(super) disabled: [u64; WORDS],
    pub(super) contexts: ContextTable,
    /// Substream 0's descriptor serves the transactions without a substream (S1DSS = 0b10, 5.2).
    pub(super) has_default: bool,
    /// The address spaces that a descriptor leads to, or that the device may still have translations of.
    pub(super) spaces: Vec<(SubstreamId, Asid)>,
}

impl Stream {
    /// The SubstreamID with which the device asks for the translations of `substream` (4.5.1): none for what serves
    /// transactions without one.
    pub(super) fn asked_with(&self, substream: SubstreamId) -> Option<SubstreamId> {
        Some(substream).filter(|&substream| substream != FIRST || !self.has_default)
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Attaches a stream: from now on its transactions are translated. A stream in [`FaultMode::Stall`] is aborted until
    /// its faults are enabled.
    ///
    /// # Errors
    ///
    /// [`DriverError::AlreadyAttached`], [`DriverError::StreamOutOfRange`], [`DriverError::NotSupported`] when the SMMU
    /// cannot do what `config` asks for, [`DriverError::NoMemory`], [`DriverError::HeapFull`], [`DriverError::CommandTimeout`],
    /// [`DriverError::Busy`]. The call may be repeated.
    pub fn attach(&self, cpu: &mut Cpu, stream: StreamId, config: &StreamConfig) -> Result<(), DriverError> {
        self.supports(stream, config)?;
        // Before it takes memory that an SMMU which is given up would keep.
        if self.hardware.is_given_up() {
            return Err(DriverError::GivenUp);
        }
        let mut control = self.control(cpu)?;
        match control.streams.get(&stream) {
            Some(attached) if attached.complete => return Err(DriverError::AlreadyAttached(stream)),
            Some(_) => self.end(cpu, &mut control, stream)?,
            None => {}
        }
        // The heap is asked before anything is done. What a step that finds it full leaves, the next call finds.
        let mut spaces = Vec::new();
        spaces.try_reserve_exact(1)?;
        control.streams.try_reserve()?;
        let ste = control.table.entry(stream)?;
        let mut contexts = control.context_table(&self.features, config.substream_bits)?;
        if let Some(context) = config.context {
            // No invalidation: the SMMU cannot have seen the table through this stream (3.21.3.1).
            let words = self.descriptor(config.faults, &context).encode();
            let Control { spare, leaves, memory, .. } = &mut *control;
            if let Some(first) = contexts.entry(FIRST) {
                structure::fill(first, &words);
            } else if let Err(error) = contexts.grow(FIRST, &words, leaves, &**memory) {
                spare.push(contexts);
                return Err(error);
            }
            spaces.push((FIRST, context.asid));
        }
        let [enabled, disabled] = self.entries(config, &contexts);
        self.commands.set_response_pasid(stream, config.response_needs_pasid);
        // Noted first: a step that fails may have made the SMMU find the tables.
        let (mode, has_default) = (config.faults, config.context.is_some());
        let (stopped, settled, reached) = (false, Cell::new(true), Cell::new(false));
        let attached = Stream {
            complete: false,
            mode,
            stopped,
            ste,
            settled,
            reached,
            enabled,
            disabled,
            contexts,
            has_default,
            spaces,
        };
        control.streams.insert(stream, attached);
        let attached = control.streams.get_mut(&stream).ok_or(DriverError::NotAttached(stream))?;
        self.change_entry(cpu, stream, attached, &disabled)?;
        attached.complete = true;
        Ok(())
    }

    /// Gives a substream of an attached stream an address space, or takes it away with `None`: its accesses are terminated
    /// and reported then. [`Smmu::forget`] does it without reports.
    ///
    /// The device has forgotten the translations of the address space that was in use before; the SMMU does so in
    /// [`Smmu::forget`].
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::SubstreamOutOfRange`], [`DriverError::NotSupported`] for a tag it can't have,
    /// [`DriverError::NoMemory`] for the descriptors of 64 neighbours, [`DriverError::HeapFull`], [`DriverError::CommandTimeout`], [`DriverError::AtcInvalidationTimeout`], [`DriverError::Busy`]. The call
    /// may be repeated.
    pub fn attach_substream(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        substream: SubstreamId,
        context: Option<&Context>,
    ) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        let has_ats = control.has_ats(stream);
        let Control { streams, leaves, memory, .. } = &mut *control;
        let attached = streams.get_mut(&stream).filter(|attached| attached.complete);
        let attached = attached.ok_or(DriverError::NotAttached(stream))?;
        // A table of one descriptor serves transactions without a substream.
        if attached.contexts.bits() == 0 || !attached.contexts.covers(substream) {
            return Err(DriverError::SubstreamOutOfRange { stream, substream });
        }
        if context.is_some_and(|context| !self.has_asid(context.asid)) {
            return Err(DriverError::NotSupported { stream, what: "an address space with that ASID" });
        }
        let target = context.map_or([0; WORDS], |context| self.descriptor(attached.mode, context).encode());
        if let Some(space) = context.map(|context| (substream, context.asid))
            && !attached.spaces.contains(&space)
        {
            attached.spaces.try_reserve(1)?;
            attached.spaces.push(space);
        }
        let synced = match attached.contexts.entry(substream) {
            Some(entry) => self.change_descriptor(cpu, stream, attached, substream, entry, &target)?,
            None if context.is_none() => None,
            None => {
                attached.contexts.grow(substream, &target, leaves, &**memory)?;
                Some(self.show_descriptors(cpu, stream, attached, substream)?)
            }
        };
        if has_ats {
            let synced = self.proof(cpu, synced)?;
            self.invalidate_atc(cpu, &synced, stream, attached.asked_with(substream), None)?;
        }
        attached.spaces.retain(|space| space.0 != substream || context.is_some_and(|context| context.asid == space.1));
        Ok(())
    }

    /// Detaches a stream: from now on its transactions are terminated and reported.
    ///
    /// Its address spaces' translations stay in the SMMU until [`Smmu::forget`].
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsEnabled`], [`DriverError::Grace`], [`DriverError::CommandTimeout`],
    /// [`DriverError::Busy`]. The call may be repeated.
    pub fn detach(&self, cpu: &mut Cpu, stream: StreamId) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        if control.lives.iter().any(|life| life.has(stream)) {
            return Err(DriverError::FaultsEnabled(stream));
        }
        self.end(cpu, &mut control, stream)
    }

    /// Takes a stream's entry from the SMMU, and its context table back.
    fn end(&self, cpu: &mut Cpu, control: &mut Control, stream: StreamId) -> Result<(), DriverError> {
        let attached = control.streams.remove(&stream).ok_or(DriverError::NotAttached(stream))?;
        // CFGI_STE makes the SMMU forget the descriptors too (4.3.1).
        let invalidate = |cpu: &mut Cpu, attached: &Stream, _: &Grace| {
            let synced = self.change_entry(cpu, stream, attached, &[0; WORDS])?;
            self.proof(cpu, synced)
        };
        let Hardware { domain, limit_us, .. } = &*self.hardware;
        match reclaim::forget(domain, cpu, &mut self.hardware.delay(), *limit_us, attached, invalidate) {
            Ok(forgotten) => {
                // Into the room that attaching made, as below.
                control.spare.push(ContextTable::reclaim(forgotten, &mut control.leaves));
                Ok(())
            }
            // What it may still read is not used again.
            Err(Remembered { error: DriverError::GivenUp, .. }) => Ok(()),
            Err(Remembered { memory, error }) => {
                control.streams.insert(stream, memory);
                Err(error)
            }
        }
    }

    /// Changes the entry of a stream (see [`structure::change`]).
    pub(super) fn change_entry(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        own: &Stream,
        target: &[u64; WORDS],
    ) -> Result<Option<Synced>, DriverError> {
        structure::change(&STE, own.ste, &own.settled, target, || {
            // The first time Leaf = 0: the first-level descriptor may be new, and cached as invalid (4.3.1).
            let leaf = own.reached.get();
            let synced = self.commands.execute(cpu, &[Command::CfgiSte { stream, leaf }])?;
            own.reached.set(true);
            Ok(synced)
        })
    }

    /// Changes the descriptor of a substream (see [`structure::change`]).
    pub(super) fn change_descriptor(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        own: &Stream,
        substream: SubstreamId,
        descriptor: &Structure,
        target: &[u64; WORDS],
    ) -> Result<Option<Synced>, DriverError> {
        let settled = own.contexts.settled();
        let unsettled = if settled.get() { None } else { Some(self.settle_descriptors(cpu, stream, own)?) };
        let changed = structure::change(&CD, descriptor, settled, target, || {
            self.commands.execute(cpu, &[Command::CfgiCd { stream, substream, leaf: true }])
        })?;
        Ok(changed.or(unsettled))
    }

    /// Has the SMMU find the second-level table that `substream` has got, which it may have cached as missing (4.3.3).
    fn show_descriptors(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        own: &Stream,
        substream: SubstreamId,
    ) -> Result<Synced, DriverError> {
        if !own.contexts.settled().replace(false) {
            return self.settle_descriptors(cpu, stream, own);
        }
        let synced = self.commands.execute(cpu, &[Command::CfgiCd { stream, substream, leaf: false }])?;
        own.contexts.settled().set(true);
        Ok(synced)
    }

    /// Makes the SMMU forget every descriptor of a stream (4.3.4), where it is not known which of them a call that failed was
    /// about.
    fn settle_descriptors(&self, cpu: &mut Cpu, stream: StreamId, own: &Stream) -> Result<Synced, DriverError> {
        let synced = self.commands.execute(cpu, &[Command::CfgiCdAll { stream }])?;
        own.contexts.settled().set(true);
        Ok(synced)
    }

    /// The proof that a change is complete, where there may have been nothing to change.
    fn proof(&self, cpu: &mut Cpu, synced: Option<Synced>) -> Result<Synced, DriverError> {
        synced.map_or_else(|| self.commands.execute(cpu, &[]), Ok)
    }

    /// Word 0 of a descriptor whose tables are gone: accesses miss without a walk (EPD0 and EPD1), and are aborted without
    /// a record (A, and neither R nor S: 5.5). Where every fault stalls, they stall and have to be answered. It differs from
    /// a descriptor with tables in this word alone, so that the change disturbs nothing.
    pub(super) fn quiet(&self) -> u64 {
        let context = Context { table: PhysAddr(0), asid: NO_TABLES, t0sz: 0, mair: 0 };
        let descriptor = self.descriptor(FaultMode::Terminate, &context);
        ContextDescriptor { ttb0: None, record: false, ..descriptor }.encode()[0]
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
            format: contexts.format(),
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
            FaultMode::Stall => [off.encode(), aborted(off.encode())],
        }
    }

    fn descriptor(&self, faults: FaultMode, context: &Context) -> ContextDescriptor {
        let lower = TableBase {
            table: context.table,
            tsz: context.t0sz,
            granule: Granule::Size4K,
            attributes: TableAttributes::COHERENT,
            hierarchy_disabled: false,
        };
        ContextDescriptor {
            ttb0: Some(lower),
            ttb1: None,
            ignore_top_byte: [false; 2],
            unprivileged_disabled: [false; 2],
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

    /// Whether address spaces may have this tag: with 8-bit ASIDs descriptors with a longer one are illegal (5.4).
    fn has_asid(&self, asid: Asid) -> bool {
        asid != NO_TABLES && asid.0.checked_shr(self.features.asid_bits.into()).is_none_or(|beyond| beyond == 0)
    }

    fn supports(&self, stream: StreamId, config: &StreamConfig) -> Result<(), DriverError> {
        let not_supported = |what| Err(DriverError::NotSupported { stream, what });
        match config.faults {
            FaultMode::Stall if !self.features.can_stall() => not_supported("the stall model"),
            FaultMode::PageRequest if !self.features.ats || self.page_requests.is_none() => {
                not_supported("ATS with PRI")
            }
            _ if config.context.is_some_and(|context| !self.has_asid(context.asid)) => {
                not_supported("an address space with that ASID")
            }
            _ if config.substream_bits > self.features.ssid_bits => not_supported("as many substreams"),
            _ => Ok(()),
        }
    }
}

impl Control {
    /// Whether the device of `stream` may be using ATS.
    pub(super) fn has_ats(&self, stream: StreamId) -> bool {
        self.lives.iter().any(|life| life.mode == FaultMode::PageRequest && life.has(stream))
    }

    /// A context table for 2^`bits` substreams, none of them valid.
    fn context_table(&mut self, features: &Features, bits: u8) -> Result<ContextTable, DriverError> {
        match self.spare.iter().position(|table| table.bits() == bits) {
            Some(spare) => Ok(self.spare.swap_remove(spare)),
            None => {
                // Also for those that are in use.
                self.spare.try_reserve(self.streams.len() + 1)?;
                Ok(ContextTable::new(features, bits, &*self.memory)?)
            }
        }
    }
}

/// The entry that aborts and differs from `entry` in one word.
pub(super) fn aborted(mut entry: [u64; WORDS]) -> [u64; WORDS] {
    entry[0] = Ste::new(ste::StreamConfig::Abort).encode()[0];
    entry
}
