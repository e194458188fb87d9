//! Streams: attaching them, changing where they go, and detaching them.

use alloc::vec::Vec;
use core::cell::Cell;
use core::mem;
use core::sync::atomic::{Ordering, fence};

use super::command_queue::Synced;
use super::context_table::{ContextTable, Tables};
use super::error::DriverError;
use super::guest::Guest;
use super::hardware::Hardware;
use super::reclaim::{self, Remembered};
use super::registers::Registers;
use super::smmu::Control;
use super::sorted::Sorted;
use super::structure::{self, CD, Change, STE, Structure, WORDS};
use super::translation::{Context, Stage2, Translation};
use super::{Delay, Smmu};
use crate::iopf::MAX_MASTER_STREAMS;
use crate::smmuv3::command::Command;
use crate::smmuv3::{Asid, StreamId, SubstreamId, Vmid};
use crate::sync::Cpu;

/// Substream 0, whose descriptor serves transactions without a substream.
pub(super) const FIRST: SubstreamId = SubstreamId::from_low_bits(0);

/// What becomes of an access that misses its translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultMode {
    /// It is terminated and reported.
    Terminate,
    /// It stalls until the fault is answered. Until faults are enabled the stream is aborted, since nobody would answer.
    Stall,
    /// The device asks for the page by ATS and PRI beforehand; what misses all the same is terminated and reported.
    PageRequest,
    /// The device asks for translations by ATS, and not for pages: it is told that there is none, and accesses nothing. What misses all the
    /// same is terminated and reported, and so is what misses until [`Smmu::enable_ats`].
    Ats,
}

impl FaultMode {
    /// Its device has translations of its own.
    pub(super) fn uses_ats(self) -> bool {
        matches!(self, Self::PageRequest | Self::Ats)
    }
}

/// How a stream is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// What becomes of accesses that miss.
    pub faults: FaultMode,
    /// Where its transactions go: `context.into()` is one address space.
    pub translation: Translation,
}

/// How a stream's transactions fared while [`Smmu::change`] changed its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Each went where it would have gone before, or where it goes now.
    Hitless,
    /// Some may have been terminated, and reported as C_BAD_STE.
    Interrupted,
}

/// A stream that has an entry.
pub(super) struct Stream {
    /// It is attached; else the step that was to attach it failed.
    pub(super) complete: bool,
    pub(super) mode: FaultMode,
    /// [`Smmu::recover`] aborted it, though its faults are not enabled, or its end has begun: STALL_TERM ends its stalls.
    pub(super) stopped: bool,
    /// Where every fault stalls: it has been translated in [`FaultMode::Terminate`], so transactions may be stalled for which no life answers,
    /// wherever it goes now.
    pub(super) stalls_unasked: bool,
    pub(super) ste: &'static Structure,
    /// The SMMU has of the entry what is in memory (see [`Change::settled`]).
    pub(super) settled: Cell<bool>,
    /// The SMMU has the first-level descriptor that leads to the entry.
    pub(super) reached: Cell<bool>,
    /// The entry with faults enabled.
    pub(super) enabled: [u64; WORDS],
    /// The entry with faults off.
    pub(super) disabled: [u64; WORDS],
    /// The table of stage 1.
    pub(super) contexts: Option<ContextTable>,
    /// Tables that the entry may still lead to, after a change or an end that is not complete: there is none else.
    left: [Option<ContextTable>; 2],
    /// A virtual machine's own stage 1.
    pub(super) guest: Option<Guest>,
    /// What tags the translations of stage 2, and where they come from.
    pub(super) stage2: Option<Stage2>,
    /// Substream 0's descriptor serves the transactions without a substream (S1DSS = 0b10, 5.2).
    pub(super) has_default: bool,
    /// The address spaces that a descriptor leads to, or that the device may still have translations of.
    pub(super) spaces: Vec<(SubstreamId, Asid)>,
}

/// A stream, and what its entry is to be.
type EntryChange<'a> = (StreamId, &'a Stream, &'a [u64; WORDS]);

impl Stream {
    /// The SubstreamID with which the device asks for the translations of `substream` (4.5.1): none for what serves
    /// transactions without one.
    pub(super) fn asked_with(&self, substream: SubstreamId) -> Option<SubstreamId> {
        Some(substream).filter(|&substream| substream != FIRST || !self.has_default)
    }

    /// The virtual machine that it is of.
    pub(super) fn vmid(&self) -> Option<Vmid> {
        self.stage2.map(|stage2| stage2.vmid)
    }

    /// The device's transactions may have substreams.
    pub(super) fn takes_substreams(&self) -> bool {
        self.contexts.as_ref().is_some_and(|contexts| contexts.bits() > 0) || self.has_guest_substreams()
    }

    /// The device may have translations of substreams that only the virtual machine knows.
    pub(super) fn has_guest_substreams(&self) -> bool {
        self.guest.is_some_and(|guest| guest.substream_bits > 0)
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Attaches a stream: from now on its transactions go where `config` says. A stream in [`FaultMode::Stall`] is aborted
    /// until its faults are enabled.
    ///
    /// # Errors
    ///
    /// [`DriverError::AlreadyAttached`], [`DriverError::StreamOutOfRange`], [`DriverError::NotSupported`] when the SMMU
    /// cannot do what `config` asks for, [`DriverError::VmidInUse`], [`DriverError::NoMemory`],
    /// [`DriverError::BeyondAddresses`], [`DriverError::HeapFull`], [`DriverError::CommandTimeout`], [`DriverError::Busy`]. The call may be repeated.
    pub fn attach(&self, cpu: &mut Cpu, stream: StreamId, config: &StreamConfig) -> Result<(), DriverError> {
        let mut control = self.begin(cpu, stream, config)?;
        match control.streams.get(&stream) {
            Some(attached) if attached.complete => return Err(DriverError::AlreadyAttached(stream)),
            Some(_) => self.end(cpu, &mut control, stream)?,
            None => {}
        }
        self.lead(cpu, &mut control, stream, config).map(drop)
    }

    /// Changes where the transactions of an attached stream go, and what becomes of those that miss, while its device may be
    /// at work. Substreams have no address spaces afterwards. Says whether the device was interrupted; docs/structures.md tells
    /// beforehand.
    ///
    /// What the stream was translated by stays in use until [`Smmu::forget`], as after [`Smmu::detach`].
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsEnabled`], and those of [`Smmu::attach`] and [`Smmu::detach`]. The call may
    /// be repeated. After an error of a step that changes something, the stream is neither as before nor as asked for: until a
    /// call succeeds nothing can be done with it but that and [`Smmu::detach`], and it is interrupted. Where every fault stalls
    /// (IDR0.STALL_MODEL = 0b10), its device has to be at rest before that call if [`Smmu::recover`] or a failed [`Smmu::detach`] came between (4.7.2).
    pub fn change(&self, cpu: &mut Cpu, stream: StreamId, config: &StreamConfig) -> Result<Transition, DriverError> {
        let mut control = self.begin(cpu, stream, config)?;
        let attached = control.streams.get(&stream).ok_or(DriverError::NotAttached(stream))?;
        // A device that was stopped has to come to rest before (4.7.2). What is not complete leads nowhere, and cannot be reopened.
        if attached.stopped && attached.complete || control.lives.iter().any(|life| life.has(stream)) {
            return Err(DriverError::FaultsEnabled(stream));
        }
        if !attached.complete {
            // It stays known until it leads somewhere, so that this can be repeated. Its stalls are the drain's, as in any change: behind
            // STALL_TERM its device would have to come to rest (4.7.2).
            self.empty(cpu, &mut control, stream, false)?;
            self.lead(cpu, &mut control, stream, config)?;
            return Ok(Transition::Interrupted);
        }
        self.lead(cpu, &mut control, stream, config)
    }

    /// The right to change streams, if the SMMU can do what `config` asks for.
    fn begin(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        config: &StreamConfig,
    ) -> Result<spin::MutexGuard<'_, Control>, DriverError> {
        self.supports(stream, config)?;
        // Before it takes memory that an SMMU which is given up would keep.
        if self.hardware.is_given_up() {
            return Err(DriverError::GivenUp);
        }
        self.control(cpu)
    }

    /// Has the entry of a stream, which is not attached or attached as a whole, say what `config` asks for.
    fn lead(
        &self,
        cpu: &mut Cpu,
        control: &mut Control,
        stream: StreamId,
        config: &StreamConfig,
    ) -> Result<Transition, DriverError> {
        let (guest, stage2) = match config.translation {
            Translation::Stage2(stage2) => (None, Some(stage2)),
            Translation::Nested(guest, stage2) => (Some(guest), Some(stage2)),
            _ => (None, None),
        };
        if let Some(new) = stage2
            && control.streams.iter().filter_map(|(_, own)| own.stage2).any(|old| old.vmid == new.vmid && old != new)
        {
            return Err(DriverError::VmidInUse(new.vmid));
        }
        // The heap is asked before anything is done. What a step that finds it full leaves, the next call finds.
        let mut spaces = Vec::new();
        spaces.try_reserve_exact(1)?;
        control.streams.try_reserve()?;
        let ste = control.table.entry(stream)?;
        let (mut contexts, mut has_default) = (None, false);
        if let Translation::Stage1 { context, substream_bits } = config.translation {
            let words = context.map(|context| self.descriptor(config.faults, &context).encode());
            contexts = Some(control.tables.take(&self.features, substream_bits, words.as_ref(), &control.memory)?);
            has_default = context.is_some();
            spaces.extend(context.map(|context| (FIRST, context.asid)));
        }
        if guest.is_some() {
            // Relaxed: the fence has it seen before the entry. Pairs with the load in `forget_stage2`.
            self.nested.store(true, Ordering::Relaxed);
            fence(Ordering::Release);
        }
        let [enabled, disabled] = self.entries(config, contexts.as_ref());
        let is_translated = contexts.is_some() || stage2.is_some();
        let new_stalls = is_translated && config.faults == FaultMode::Terminate && self.forces_stalls();
        // Noted first: a step that fails may have made the SMMU find the tables.
        let old = control.streams.remove(&stream);
        let stalls_unasked = new_stalls || old.as_ref().is_some_and(|old| old.stalls_unasked);
        let (settled, reached) = old.as_ref().map_or((true, false), |old| (old.settled.get(), old.reached.get()));
        let transition = match STE.is_hitless(&structure::words(ste), &disabled) {
            true => Transition::Hitless,
            false => Transition::Interrupted,
        };
        let attached = Stream {
            complete: false,
            mode: config.faults,
            stopped: false,
            stalls_unasked,
            ste,
            settled: Cell::new(settled),
            reached: Cell::new(reached),
            enabled,
            disabled,
            contexts,
            left: [None, old.and_then(|old| old.contexts)],
            guest,
            stage2,
            has_default,
            spaces,
        };
        control.streams.insert(stream, attached);
        let attached = control.streams.get_mut(&stream).ok_or(DriverError::NotAttached(stream))?;
        if attached.left.iter().any(Option::is_some) {
            self.leave(cpu, &mut control.tables, stream, attached, &disabled)?;
        } else {
            self.change_entry(cpu, stream, attached, &disabled)?;
        }
        attached.complete = true;
        Ok(transition)
    }

    /// Gives a substream of an attached stream an address space, or takes it away with `None`: its accesses are terminated
    /// and reported then. [`Smmu::forget`] does it without reports.
    ///
    /// The device has forgotten the translations of the address space that was in use before; the SMMU does so in
    /// [`Smmu::forget`].
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::SubstreamOutOfRange`], [`DriverError::NotSupported`] for an address space that the SMMU can't
    /// have, [`DriverError::NoMemory`] and [`DriverError::BeyondAddresses`] for the descriptors of 64 neighbours, [`DriverError::HeapFull`], [`DriverError::CommandTimeout`],
    /// [`DriverError::AtcInvalidationTimeout`], [`DriverError::Busy`]. The call may be repeated.
    pub fn attach_substream(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        substream: SubstreamId,
        context: Option<&Context>,
    ) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        let has_ats = control.has_ats(stream);
        let Control { streams, tables, memory, .. } = &mut *control;
        let attached = streams.get_mut(&stream).filter(|attached| attached.complete);
        let attached = attached.ok_or(DriverError::NotAttached(stream))?;
        let asked_with = attached.asked_with(substream);
        let Stream { mode, contexts, spaces, .. } = attached;
        // A table of one descriptor serves transactions without a substream.
        let contexts = contexts.as_mut().filter(|contexts| contexts.bits() > 0 && contexts.covers(substream));
        let contexts = contexts.ok_or(DriverError::SubstreamOutOfRange { stream, substream })?;
        if let Some(what) = context.and_then(|context| context.refusal(&self.features)) {
            return Err(DriverError::NotSupported { stream, what });
        }
        let target = context.map_or([0; WORDS], |context| self.descriptor(*mode, context).encode());
        if let Some(space) = context.map(|context| (substream, context.asid))
            && !spaces.contains(&space)
        {
            spaces.try_reserve(1)?;
            spaces.push(space);
        }
        let synced = match contexts.entry(substream) {
            Some(entry) => self.change_descriptor(cpu, stream, contexts, substream, entry, &target)?,
            None if context.is_none() => None,
            None => {
                tables.grow(contexts, substream, &target, memory)?;
                Some(self.show_descriptors(cpu, stream, contexts, substream)?)
            }
        };
        if has_ats {
            let synced = self.proof(cpu, synced)?;
            self.invalidate_atc(cpu, &synced, stream, asked_with, None)?;
        }
        spaces.retain(|space| space.0 != substream || context.is_some_and(|context| context.asid == space.1));
        Ok(())
    }

    /// Detaches a stream: from now on its transactions are terminated and reported.
    ///
    /// Where every fault stalls (IDR0.STALL_MODEL = 0b10), those that are stalled end too (4.7.2). Its device should be at rest before it is
    /// attached again.
    ///
    /// Its address spaces' translations stay in the SMMU until [`Smmu::forget`].
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsEnabled`], [`DriverError::Grace`], [`DriverError::CommandTimeout`],
    /// [`DriverError::NotDrained`] where every fault stalls, [`DriverError::Busy`]. The call may be repeated.
    pub fn detach(&self, cpu: &mut Cpu, stream: StreamId) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        if control.lives.iter().any(|life| life.has(stream)) {
            return Err(DriverError::FaultsEnabled(stream));
        }
        self.end(cpu, &mut control, stream)
    }

    /// Takes a stream's entry from the SMMU, and its context tables back.
    fn end(&self, cpu: &mut Cpu, control: &mut Control, stream: StreamId) -> Result<(), DriverError> {
        match self.empty(cpu, control, stream, true) {
            // What an SMMU that is given up may still read is not used again.
            Ok(()) | Err(DriverError::GivenUp) => {
                control.streams.remove(&stream);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves a stream that leads nowhere and has nothing. Its stalls are ended too, or left to the drain, unless STALL_TERM has been there before.
    fn empty(
        &self,
        cpu: &mut Cpu,
        control: &mut Control,
        stream: StreamId,
        ends_stalls: bool,
    ) -> Result<(), DriverError> {
        let Control { streams, tables, .. } = control;
        let attached = streams.get_mut(&stream).ok_or(DriverError::NotAttached(stream))?;
        attached.complete = false;
        attached.stopped |= ends_stalls && attached.stalls_unasked;
        let [left, _] = &mut attached.left;
        *left = attached.contexts.take().or(left.take());
        self.leave(cpu, tables, stream, attached, &[0; WORDS])?;
        if attached.stopped { self.end_unasked(cpu, stream) } else { Ok(()) }
    }

    /// Changes the entry of a stream so that it does not lead to what the stream has left any more, and takes that back.
    fn leave(
        &self,
        cpu: &mut Cpu,
        tables: &mut Tables,
        stream: StreamId,
        own: &mut Stream,
        target: &[u64; WORDS],
    ) -> Result<(), DriverError> {
        let Hardware { domain, limit_us, .. } = &*self.hardware;
        let left = mem::take(&mut own.left);
        let invalidate = |cpu: &mut Cpu, _: &_, _: &_| {
            // CFGI_STE makes the SMMU forget the descriptors too (4.3.1).
            let synced = self.change_entry(cpu, stream, own, target)?;
            self.proof(cpu, synced)
        };
        match reclaim::forget(domain, cpu, &mut self.hardware.delay(), *limit_us, left, invalidate) {
            Ok(left) => {
                tables.give_back(left, self.hardware.coherence);
                Ok(())
            }
            Err(Remembered { memory, error }) => {
                own.left = memory;
                Err(error)
            }
        }
    }

    /// Changes the entry of a stream (see [`structure::change_all`]).
    pub(super) fn change_entry(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        own: &Stream,
        target: &[u64; WORDS],
    ) -> Result<Option<Synced>, DriverError> {
        self.change_each(cpu, &[(stream, own, target)])
    }

    /// Changes the entries of `streams`, which are `attached`, to one that each of them has, with one SYNC a step for all.
    pub(super) fn change_entries(
        &self,
        cpu: &mut Cpu,
        attached: &Sorted<StreamId, Stream>,
        streams: &[StreamId],
        entry: impl Fn(&Stream) -> &[u64; WORDS],
    ) -> Result<(), DriverError> {
        let mut changes = heapless::Vec::<_, MAX_MASTER_STREAMS>::new();
        for &stream in streams {
            let own = attached.get(&stream).ok_or(DriverError::NotAttached(stream))?;
            // There is room for as many as may be enabled together.
            let _ = changes.push((stream, own, entry(own)));
        }
        self.change_each(cpu, &changes).map(drop)
    }

    /// At most [`MAX_MASTER_STREAMS`] changes.
    fn change_each<'a>(&self, cpu: &mut Cpu, streams: &[EntryChange<'a>]) -> Result<Option<Synced>, DriverError> {
        let change = |&(_, own, target): &EntryChange<'a>| Change { entry: own.ste, settled: &own.settled, target };
        let changes: heapless::Vec<_, MAX_MASTER_STREAMS> = streams.iter().map(change).collect();
        structure::change_all(&STE, &changes, || {
            let due = streams.iter().filter(|(_, own, _)| !own.settled.get());
            // The first time Leaf = 0: the first-level descriptor may be new, and cached as invalid (4.3.1).
            let command = |&(stream, own, _): &EntryChange<'a>| Command::CfgiSte { stream, leaf: own.reached.get() };
            due.clone().for_each(|(_, own, _)| self.hardware.coherence.clean(own.ste));
            let commands: heapless::Vec<_, MAX_MASTER_STREAMS> = due.clone().map(command).collect();
            let synced = self.commands.execute(cpu, &commands)?;
            due.for_each(|(_, own, _)| own.reached.set(true));
            Ok(synced)
        })
    }

    /// Changes the descriptor of a substream (see [`structure::change`]).
    pub(super) fn change_descriptor(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        contexts: &ContextTable,
        substream: SubstreamId,
        descriptor: &Structure,
        target: &[u64; WORDS],
    ) -> Result<Option<Synced>, DriverError> {
        let settled = contexts.settled();
        let unsettled = if settled.get() { None } else { Some(self.settle_descriptors(cpu, stream, contexts)?) };
        let changed = structure::change(&CD, descriptor, settled, target, || {
            self.hardware.coherence.clean(descriptor);
            self.commands.execute(cpu, &[Command::CfgiCd { stream, substream, leaf: true }])
        })?;
        Ok(changed.or(unsettled))
    }

    /// Has the SMMU find the second-level table that `substream` has got, which it may have cached as missing (4.3.3).
    fn show_descriptors(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        contexts: &ContextTable,
        substream: SubstreamId,
    ) -> Result<Synced, DriverError> {
        if !contexts.settled().replace(false) {
            return self.settle_descriptors(cpu, stream, contexts);
        }
        let synced = self.commands.execute(cpu, &[Command::CfgiCd { stream, substream, leaf: false }])?;
        contexts.settled().set(true);
        Ok(synced)
    }

    /// Makes the SMMU forget every descriptor of a stream (4.3.4), where it is not known which of them a call that failed was
    /// about.
    pub(super) fn settle_descriptors(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        contexts: &ContextTable,
    ) -> Result<Synced, DriverError> {
        let synced = self.commands.execute(cpu, &[Command::CfgiCdAll { stream }])?;
        contexts.settled().set(true);
        Ok(synced)
    }

    /// The proof that a change is complete, where there may have been nothing to change.
    fn proof(&self, cpu: &mut Cpu, synced: Option<Synced>) -> Result<Synced, DriverError> {
        synced.map_or_else(|| self.commands.execute(cpu, &[]), Ok)
    }
}

impl Control {
    /// Whether the device of `stream` may be using ATS.
    pub(super) fn has_ats(&self, stream: StreamId) -> bool {
        self.lives.iter().any(|life| life.mode.uses_ats() && life.has(stream))
    }

    /// Whether a device of other streams may be using ATS.
    pub(super) fn others_use_ats(&self, stream: StreamId) -> bool {
        self.lives.iter().any(|life| life.mode.uses_ats() && !life.has(stream))
    }
}
