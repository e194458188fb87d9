//! ATS: translation requests and translated accesses (3.9.1, 13.6, 13.7).

use super::configuration::Denied;
use super::registers::cr0;
use super::translation::{Cause, Fault, Mapping, Purpose, Rights, Walker, admit};
use super::{Outcome, Smmu, denied, effective, events};
use crate::model::endpoint::{Completion, Response, Transaction};
use crate::model::memory::Memory;
use crate::model::wire::Wires;
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::event::{Event, FaultClass, FaultKind};
use crate::smmuv3::ste::{AtsMode, InstructionOverride, Ste, StreamConfig, StreamWorld};
use crate::smmuv3::{Access, PhysAddr};

/// What a translation request asks for: reading always, writing if the access writes (NW = 0), executing if it fetches.
/// Without a PASID a device can ask neither for execution nor for privilege (13.7).
fn asked(transaction: &Transaction) -> Access {
    let Access { write, execute, privileged, .. } = transaction.access;
    let tagged = transaction.substream.is_some();
    Access { read: true, write, execute: execute && tagged, privileged: privileged && tagged }
}

/// What is granted of what was asked for (13.7.1).
fn granted(rights: Rights, asked: Access, instruction: InstructionOverride) -> Rights {
    let (read, execute) = match instruction {
        // Execution comes with reading.
        InstructionOverride::Incoming => (rights.read, rights.read && rights.execute),
        InstructionOverride::Instruction => (rights.execute, rights.execute),
        InstructionOverride::Data => (rights.read, rights.read),
    };
    // To grant writing that was not asked for is permitted, but then the page would count as dirty.
    Rights { read, write: asked.write && rights.write, execute: asked.execute && execute }
}

/// A translation, and what of it is granted.
struct Grant {
    /// What the device gets: a physical address, or an IPA with split-stage ATS.
    output: u64,
    /// log2 of the bytes for which all this holds.
    shift: u32,
    rights: Rights,
}

/// Sets the flags for what was granted, and keeps it: the device's own accesses pass the SMMU by.
fn note_grant(
    walker: &mut Walker<'_, impl Memory>,
    context: Option<&(ContextDescriptor, StreamWorld)>,
    address: u64,
    write: bool,
    access: Access,
    split: bool,
) -> Result<(), Fault> {
    // Permissions have been looked at; only a write makes dirty.
    let noted = Access { read: false, write, execute: false, privileged: access.privileged };
    match (split, context) {
        (false, _) => walker.translate(context, address, noted).map(|_| ()),
        (true, Some((cd, world))) if walker.recall(cd, *world, address, write)?.is_none() => {
            walker.stage1(cd, *world, address, Some(noted)).map(|_| ())
        }
        (true, _) => Ok(()),
    }
}

impl Smmu {
    /// A translation request for the page of `transaction` arrives.
    pub fn translation_request(
        &mut self,
        transaction: &Transaction,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Completion {
        let asked = asked(transaction);
        self.note_translation_request(transaction.stream, wires);
        if self.failed {
            return Completion::CompleterAbort;
        }
        // Without ATS nothing routes such requests here; they get what a disabled interface answers (6.3.9.6).
        if !self.registers.enabled(cr0::SMMUEN) || !self.registers.features.ats {
            return self.refuse_translation(transaction, memory, wires);
        }
        self.watch_structures(transaction.origin(), memory);
        self.caches.note(transaction.origin(), transaction.address);
        let ste = match self.ste(transaction.origin(), memory) {
            Ok(ste) if ste.config == StreamConfig::Abort => return Completion::UnsupportedRequest,
            Ok(ste) if self.ats_mode(&ste) == AtsMode::Disabled => {
                return self.refuse_translation(transaction, memory, wires);
            }
            Ok(ste) => ste,
            Err(Event::BadStreamId { .. }) if !self.registers.records_bad_streams() => {
                return Completion::CompleterAbort;
            }
            Err(event) => return self.abort_completion(&event, memory, wires),
        };
        let access = Access { privileged: effective(asked, &ste).privileged, ..asked };
        let outcome = match self.context(&ste, transaction.origin(), Purpose::Access, memory) {
            Ok(context) => self.grant(&ste, context.as_ref(), transaction.address, access, memory),
            Err(Denied::With(event)) => return self.abort_completion(&event, memory, wires),
            Err(Denied::Fault(fault)) => Err(fault),
        };
        match outcome {
            Ok(Grant { output, shift, rights }) => Completion::Success {
                page: PhysAddr(output & !0xfff),
                span: shift as u8,
                read: rights.read,
                write: rights.write,
                execute: rights.execute,
                privileged: asked.privileged,
            },
            Err(fault) => match (fault.cause, events::describe(transaction, effective(asked, &ste), &fault)) {
                (Cause::Walk(_) | Cause::Conflict, Err(event)) => self.abort_completion(&event, memory, wires),
                _ => self.no_access(asked.privileged),
            },
        }
    }

    /// What `access` gets of the translation of `address`. Flags are updated for what is granted (3.13.7), those of a
    /// stage 2 leaf that split-stage ATS leaves for later not.
    fn grant(
        &mut self,
        ste: &Ste,
        context: Option<&(ContextDescriptor, StreamWorld)>,
        address: u64,
        access: Access,
        memory: &impl Memory,
    ) -> Result<Grant, Fault> {
        if context.is_none() && !self.bypass_reaches(ste, address) {
            return Err(Fault::stage1(FaultKind::AddressSize));
        }
        let smallest = self.smallest_unit();
        let split = self.ats_mode(ste) == AtsMode::Split;
        let mut grant = Grant {
            output: address,
            shift: if context.is_none() && ste.stage2().is_none() { smallest } else { 63 },
            rights: Rights { read: true, write: true, execute: true },
        };
        let narrow = |grant: &mut Grant, mapping: &Mapping| {
            grant.rights = grant.rights.and(mapping.permissions.of(access.privileged));
            grant.shift = grant.shift.min(mapping.shift);
        };
        // It must leave no trace of what is not granted.
        let mut look = self.walker(ste, memory, Purpose::Look);
        let mut kept = None;
        if let Some((cd, world)) = context {
            admit(cd, *world, address, access.privileged)?;
            kept = look.recall(cd, *world, address, false)?;
            let mapping = match kept.and_then(|kept| kept.stage1) {
                Some(mapping) => mapping,
                None => look.stage1(cd, *world, address, None)?,
            };
            narrow(&mut grant, &mapping);
            grant.output = mapping.translate(address);
        }
        let none = |rights: Rights| granted(rights, access, ste.instruction) == Rights::default();
        // What stage 1 grants nothing of is not translated at stage 2 (3.9.1.2).
        if let Some(stage2) = ste.stage2()
            && !none(grant.rights)
        {
            let mapping = match kept.and_then(|kept| kept.stage2) {
                Some(mapping) => mapping,
                None => look.stage2(stage2, grant.output, FaultClass::Input, None)?,
            };
            narrow(&mut grant, &mapping);
            if !split {
                grant.output = mapping.translate(grant.output);
            }
        }
        grant.rights = granted(grant.rights, access, ste.instruction);
        if context.is_none() && ste.stage2().is_none() {
            // Where nothing translates writing is granted whatever NW says (13.6.4).
            grant.rights.write = true;
        }
        if grant.rights == Rights::default() {
            (grant.output, grant.shift) = (0, smallest);
        } else {
            note_grant(
                &mut self.walker(ste, memory, Purpose::Access),
                context,
                address,
                grant.rights.write,
                access,
                split,
            )?;
        }
        Ok(grant)
    }

    /// The effective `EATS`: split-stage ATS counts only with ATSCHK (5.2).
    fn ats_mode(&self, ste: &Ste) -> AtsMode {
        match ste.ats {
            AtsMode::Split if !self.registers.enabled(cr0::ATSCHK) => AtsMode::Disabled,
            mode => mode,
        }
    }

    /// log2 of the smallest translation unit: the smallest granule (3.9.1).
    fn smallest_unit(&self) -> u32 {
        let features = &self.registers.features;
        match (features.granule_4k, features.granule_16k) {
            (true, _) => 12,
            (false, true) => 14,
            (false, false) => 16,
        }
    }

    fn no_access(&self, privileged: bool) -> Completion {
        let span = self.smallest_unit() as u8;
        Completion::Success { page: PhysAddr(0), span, read: false, write: false, execute: false, privileged }
    }

    fn abort_completion(&mut self, event: &Event, memory: &impl Memory, wires: &mut impl Wires) -> Completion {
        if self.registers.records_ats_errors() {
            self.record(event, memory, wires);
        }
        Completion::CompleterAbort
    }

    fn refuse_translation(
        &mut self,
        transaction: &Transaction,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Completion {
        self.record(&events::bad_ats_request(transaction), memory, wires);
        Completion::UnsupportedRequest
    }

    /// An access to an address arrives that a device got by ATS (3.9.1.3).
    pub fn translated(&mut self, transaction: &Transaction, memory: &impl Memory, wires: &mut impl Wires) -> Response {
        if self.failed {
            return Response::Abort;
        }
        // Translated accesses carry no PASID here, and so neither privilege nor instruction fetches (3.9.1.3).
        let Access { read, write, execute, .. } = transaction.access;
        let access = Access { read: read || execute, write, execute: false, privileged: false };
        let transaction = &Transaction { substream: None, access, ..*transaction };
        if !self.registers.enabled(cr0::SMMUEN) || !self.registers.features.ats {
            return self.forbid(transaction, memory, wires);
        }
        if self.registers.enabled(cr0::ATSCHK) {
            let ste = match self.ste(transaction.origin(), memory) {
                Err(event) => {
                    if self.registers.records_ats_errors() {
                        self.record(&event, memory, wires);
                    }
                    return Response::Abort;
                }
                Ok(ste) if ste.config == StreamConfig::Abort => return Response::Abort,
                Ok(ste) => ste,
            };
            match self.ats_mode(&ste) {
                AtsMode::Disabled => return self.forbid(transaction, memory, wires),
                AtsMode::Split => return self.translated_by_stage2(transaction, &ste, memory, wires),
                AtsMode::Full => {}
            }
        }
        if transaction.address >> self.registers.output_bits() != 0 {
            return Response::Abort;
        }
        Response::Physical(PhysAddr(transaction.address))
    }

    /// A translated access with an IPA, which is all that split-stage ATS gives out (13.6.3).
    fn translated_by_stage2(
        &mut self,
        transaction: &Transaction,
        ste: &Ste,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Response {
        let access = effective(transaction.access, ste);
        let result = if self.bypass_reaches(ste, transaction.address) {
            self.walker(ste, memory, Purpose::Access).translate(None, transaction.address, access)
        } else {
            Err(Fault::stage1(FaultKind::AddressSize))
        };
        match result.map_err(|fault| denied(transaction, access, &fault, ste, None)) {
            Ok(translation) => Response::Physical(translation.translate(transaction.address)),
            Err(Outcome::Recorded(event, response)) => {
                self.record(&event, memory, wires);
                response
            }
            // An STE whose stage 2 stalls is ILLEGAL with it (5.2).
            Err(Outcome::Ended(_) | Outcome::Stalled(_)) => Response::Abort,
        }
    }

    fn forbid(&mut self, transaction: &Transaction, memory: &impl Memory, wires: &mut impl Wires) -> Response {
        self.record(&events::translated_forbidden(transaction), memory, wires);
        Response::Abort
    }
}
