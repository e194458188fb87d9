//! The SMMU: an SMMUv3.3 with one programming interface (Non-secure). What it offers is its [`Profile`].
//!
//! | part | what it is |
//! |---|---|
//! | `registers` | the register file: what reads and writes do |
//! | `queue` | queue registers and their arithmetic |
//! | `commands` | the command queue |
//! | `events` | the event queue |
//! | `msi` | interrupts by wire and message, global errors |
//! | `cache` | what is kept of STEs, CDs and tables until it is invalidated |
//! | `configuration` | from StreamID and SubstreamID to STE and CD |
//! | `translation` | translation tables of both stages |
//! | `stall` | transactions that stall |
//! | `ats` | translation requests and translated accesses |
//! | `page_requests` | the PRI queue and automatic responses |
//! | `injection` | what goes wrong on request |
//! | `times` | how long faults take |
//! | [`diagnostics`] | what the model counts, and its switches |
//! | [`strict`] | names the mistakes of a driver |

mod ats;
mod cache;
mod commands;
mod configuration;
pub mod diagnostics;
mod events;
mod injection;
mod msi;
mod page_requests;
mod queue;
mod registers;
mod stall;
pub mod strict;
mod times;
mod translation;

use self::cache::{Ahead, Caches};
use self::configuration::Denied;
use self::diagnostics::count;
use self::injection::{Injection, Late};
use self::registers::{RegisterFile, cr0, gerror};
pub(in crate::model) use self::stall::STALL_MAX;
pub use self::stall::Slot;
use self::stall::{Stalls, State};
use self::strict::Strict;
use self::times::Times;
use self::translation::{Fault, Purpose, Table, Translation, Walker};
use super::endpoint::{Endpoints, Response, Transaction};
use super::machine::Width;
use super::memory::Memory;
use super::profile::Profile;
use super::wire::Wires;
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::event::{Event, FaultKind, TranslationFault};
use crate::smmuv3::features::{Features, IdRegisters};
use crate::smmuv3::ste::{InstructionOverride, PrivilegeOverride, Ste, StreamConfig};
use crate::smmuv3::{Access, PhysAddr, StreamId};

/// An SMMUv3.
#[derive(Debug)]
pub struct Smmu {
    registers: RegisterFile,
    stalls: Stalls,
    caches: Caches<Translation, Table>,
    /// A CMD_ATC_INV timed out since the last CMD_SYNC.
    invalidation_timed_out: bool,
    /// Service failure mode (12.3).
    failed: bool,
    /// The youngest event record, `EVENTQ_PROD` after it, and the tick that it is of.
    last_record: Option<(Event, u32, u64)>,
    injection: Injection,
    times: Times,
    strict: Strict,
}

/// How an access goes on that was just issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issued {
    /// It has its response.
    Ended(Response),
    /// It stalls: the device polls `slot` until it ends.
    Stalled {
        /// Where the SMMU holds it.
        slot: Slot,
        /// A stall record was written for it.
        recorded: bool,
    },
    /// The SMMU holds as many stalled accesses as it can: to be issued again later.
    NoRoom,
}

/// What has become of an access that stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// It still stalls.
    Stalled {
        /// A stall record was written for it just now.
        recorded: bool,
    },
    /// It has its response; the slot is no longer its own.
    Ended(Response),
}

/// What translation makes of an access.
enum Outcome {
    /// The response, without a record.
    Ended(Response),
    /// A record and a response.
    Recorded(Event, Response),
    /// A stall, and the fault that its record tells.
    Stalled(TranslationFault),
}

impl Smmu {
    /// The SMMU after reset, of the profile [`Profile::Full`].
    pub const fn new() -> Self {
        Self {
            registers: RegisterFile::new(Profile::Full),
            stalls: Stalls::new(),
            caches: Caches::new(),
            invalidation_timed_out: false,
            failed: false,
            last_record: None,
            injection: Injection::new(),
            times: Times::new(),
            strict: Strict::new(),
        }
    }

    /// Resets the SMMU to one of `profile`. What stalled is forgotten: the devices behind it are reset with it. The caches
    /// are empty, which 3.11 permits and what they hold of another profile asks for.
    pub fn reset(&mut self, profile: Profile) {
        self.reset_with(profile.id_registers(), profile.features());
    }

    /// The same with `ids`, which say `features`.
    pub fn reset_with(&mut self, ids: IdRegisters, features: Features) {
        self.registers = RegisterFile::with(ids, features);
        self.stalls = Stalls::new();
        self.caches.clear();
        self.invalidation_timed_out = false;
        self.failed = false;
        self.last_record = None;
        self.injection = Injection::new();
        self.times.reset();
        self.strict = Strict::new();
    }

    /// The SMMU after reset with ID registers that no profile has.
    #[cfg(test)]
    pub fn with_ids(ids: IdRegisters) -> Self {
        let features = Features::decode(ids).expect("sound ID registers");
        Self { registers: RegisterFile::with(ids, features), ..Self::new() }
    }

    /// Whether it watches the driver.
    pub(super) fn is_strict(&self) -> bool {
        self.registers.diagnostics.is_strict()
    }

    /// Enters service failure mode (12.3). From now on transactions are aborted, those that stall too, ATS requests get
    /// Completer Abort, and no queue is accessed. Registers can still be read and written; to acknowledge SFM_ERR changes
    /// nothing (6.3.19). Only a reset ends it.
    pub fn fail(&mut self, memory: &impl Memory, wires: &mut impl Wires) {
        self.failed = true;
        self.global_error(gerror::SFM_ERR, memory, wires);
    }

    /// Reads the register at `offset`, aligned to `width`.
    pub fn read(&self, offset: usize, width: Width) -> u64 {
        self.registers.read(offset, width, self.stalls.len() as u32)
    }

    /// Writes the register at `offset`, aligned to `width`. What that sets going happens in [`step`](Smmu::step).
    pub fn write(&mut self, offset: usize, width: Width, value: u64) {
        self.check_write(offset, width, value);
        self.registers.write(offset, width, value);
        self.strict.turn(self.registers.diagnostics.is_strict());
        self.write_cache_control(offset, value as u32);
        if width == Width::Double {
            self.write_cache_control(offset + 4, (value >> 32) as u32);
        }
    }

    fn write_cache_control(&mut self, offset: usize, value: u32) {
        match offset {
            diagnostics::CACHE_SEED => self.caches.set_seed(value),
            diagnostics::CACHE_POISON => self.caches.poison(StreamId(value), Translation::IDENTITY),
            _ => {}
        }
    }

    /// One tick: acknowledges register updates, then consumes some commands. Returns whether there was anything to do.
    pub fn step<E: Endpoints + ?Sized>(
        &mut self,
        memory: &impl Memory,
        wires: &mut impl Wires,
        endpoints: &mut E,
    ) -> bool {
        self.injection.tick();
        self.watch_commands(memory);
        let pending = self.registers.pending();
        let updates = pending & !self.injection.late_updates(pending);
        self.inject(updates, memory, wires);
        let acknowledged = self.registers.acknowledge(updates);
        if acknowledged.disabled {
            self.strict.disabled(endpoints.is_ats_enabled());
            let ended = self.stalls.terminate(None);
            count(&mut self.registers.diagnostics.stalls_disabled, ended);
        }
        if let Some(ahead) = self.caches.disturb()
            && self.registers.enabled(cr0::SMMUEN)
            && !self.failed
        {
            self.read_ahead(ahead, memory);
        }
        let consumed = !self.injection.goes_on(Late::Commands) && self.consume_commands(memory, wires, endpoints);
        consumed || acknowledged.any || self.injection.waits()
    }

    /// Reads what the SMMU may read at any time (3.21.1, 3.21.3). It stays in the caches; that there is nothing to read is
    /// no event (7.2), and no flag is updated.
    fn read_ahead(&mut self, Ahead { origin, address }: Ahead, memory: &impl Memory) {
        let Ok(ste) = self.ste(origin, memory) else { return };
        let Ok(context) = self.context(&ste, origin, Purpose::ReadAhead, memory) else { return };
        if let Some(address) = address {
            // A fault of a walk that no transaction waits for.
            let _ = self.walker(&ste, memory, Purpose::ReadAhead).read_ahead(context.as_ref(), address);
        }
    }

    /// The engines that do nothing in this tick, a bit each, as the [control page](super::control) asks.
    pub fn held_engines(&mut self) -> u64 {
        self.injection.held_engines()
    }

    /// An access of a device arrives.
    pub fn access(&mut self, transaction: &Transaction, memory: &impl Memory, wires: &mut impl Wires) -> Issued {
        if self.failed {
            return Issued::Ended(Response::Abort);
        }
        self.watch_structures(transaction.origin(), memory);
        match self.translate(transaction, memory) {
            Outcome::Ended(response) => Issued::Ended(response),
            Outcome::Recorded(event, response) => {
                self.record(&event, memory, wires);
                Issued::Ended(response)
            }
            Outcome::Stalled(fault) => match self.stalls.add(*transaction, State::Held) {
                Some(slot) => {
                    let recorded = self.hold(slot, transaction, fault, memory, wires);
                    Issued::Stalled { slot, recorded }
                }
                None => Issued::NoRoom,
            },
        }
    }

    /// An access of a kind that the SMMU does not support arrives. It is aborted, with `F_UUT` unless it claims to be
    /// translated (3.12, 3.9.1.3), whatever SMMUEN and the configuration of its stream say (7.3.2).
    pub fn unsupported(
        &mut self,
        transaction: &Transaction,
        translated: bool,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Response {
        if !translated && !self.failed {
            self.record(&events::unsupported(transaction), memory, wires);
        }
        Response::Abort
    }

    /// Has the access in `slot` ended? If it was answered with retry, or its record had to wait for the event queue, it is
    /// tried again here, as if it had just arrived (3.12.2).
    pub fn poll(&mut self, slot: Slot, memory: &impl Memory, wires: &mut impl Wires) -> Polled {
        let Some((transaction, state)) = self.stalls.get(slot) else { return Polled::Ended(Response::Abort) };
        if self.failed {
            self.stalls.remove(slot);
            return Polled::Ended(Response::Abort);
        }
        match state {
            State::Retry => {
                let now = self.time(wires);
                self.times.stall_retried(transaction.stream, slot, now);
                self.retry(slot, &transaction, memory, wires)
            }
            State::Held if self.event_queue_is_writable() => self.retry(slot, &transaction, memory, wires),
            State::Held => Polled::Stalled { recorded: false },
            State::Recorded | State::Suppressed(_) | State::Terminate { may_retry: true, .. }
                if self.registers.diagnostics.takes(diagnostics::control::EARLY_RETRY) =>
            {
                self.retry_early(slot, &transaction, state, memory, wires)
            }
            State::Recorded | State::Suppressed(_) => Polled::Stalled { recorded: false },
            State::Terminate { response, .. } => {
                self.stalls.remove(slot);
                Polled::Ended(response)
            }
            State::Gone => Polled::Ended(Response::Abort),
        }
    }

    fn retry(&mut self, slot: Slot, transaction: &Transaction, memory: &impl Memory, wires: &mut impl Wires) -> Polled {
        let response = match self.translate(transaction, memory) {
            Outcome::Ended(response) => response,
            Outcome::Recorded(event, response) => {
                self.record(&event, memory, wires);
                response
            }
            Outcome::Stalled(fault) => {
                self.stalls.set(slot, State::Held);
                return Polled::Stalled { recorded: self.hold(slot, transaction, fault, memory, wires) };
            }
        };
        self.stalls.remove(slot);
        Polled::Ended(response)
    }

    /// A retry that software did not ask for. If a record was written it records nothing more, and that record still wants
    /// its answer (3.12.2.2).
    fn retry_early(
        &mut self,
        slot: Slot,
        transaction: &Transaction,
        state: State,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Polled {
        let response = match (self.translate(transaction, memory), state) {
            // None was written: that it is terminated has to be seen (3.12.2.1).
            (Outcome::Recorded(event, response), State::Suppressed(_)) => {
                self.record(&event, memory, wires);
                response
            }
            (Outcome::Ended(response) | Outcome::Recorded(_, response), _) => response,
            (Outcome::Stalled(_), State::Terminate { response, .. }) => response,
            (Outcome::Stalled(_), _) => return Polled::Stalled { recorded: false },
        };
        if matches!(response, Response::Physical(_)) {
            count(&mut self.registers.diagnostics.early_retries, 1);
        }
        match state {
            State::Recorded => self.stalls.set(slot, State::Gone),
            _ => self.stalls.remove(slot),
        }
        Polled::Ended(response)
    }

    /// The access in `slot` stalls: writes its record, or lets it wait, or finds that another record stands for it too.
    /// Returns whether a record was written.
    fn hold(
        &mut self,
        slot: Slot,
        transaction: &Transaction,
        fault: TranslationFault,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> bool {
        if let Some(first) = self.stalls.duplicate_of(transaction, &fault)
            && self.registers.diagnostics.takes(diagnostics::control::SUPPRESS_DUPLICATES)
        {
            count(&mut self.registers.diagnostics.stalls_suppressed, 1);
            self.stalls.set(slot, State::Suppressed(first));
            self.times.stall_unrecorded(slot);
            return false;
        }
        if !self.event_queue_is_writable() {
            count(&mut self.registers.diagnostics.stalls_held, 1);
            return false;
        }
        let stag = self.stalls.next_stag(slot);
        self.stalls.record(slot, &fault);
        let recorded = self.write_event(&Event::Fault(TranslationFault { stag: Some(stag), ..fault }), memory, wires);
        count(&mut self.registers.diagnostics.stalls_recorded, u32::from(recorded));
        if recorded {
            let now = self.time(wires);
            self.times.stall_recorded(slot, now);
        }
        recorded
    }

    /// The way of an access through the SMMU (15): configuration, then translation.
    fn translate(&mut self, transaction: &Transaction, memory: &impl Memory) -> Outcome {
        let address = transaction.address;
        if !self.registers.enabled(cr0::SMMUEN) {
            // Without a translation there is no record of an address beyond the output size (3.4).
            let aborts = self.registers.aborts_when_disabled() || address >> self.registers.output_bits() != 0;
            return Outcome::Ended(if aborts { Response::Abort } else { Response::Physical(PhysAddr(address)) });
        }
        self.caches.note(transaction.origin(), address);
        let ste = match self.ste(transaction.origin(), memory) {
            Ok(ste) if ste.config == StreamConfig::Abort => return Outcome::Ended(Response::Abort),
            Ok(ste) => ste,
            Err(Event::BadStreamId { .. }) if !self.registers.records_bad_streams() => {
                return Outcome::Ended(Response::Abort);
            }
            Err(event) => return Outcome::Recorded(event, Response::Abort),
        };
        let access = effective(transaction.access, &ste);
        let context = match self.context(&ste, transaction.origin(), Purpose::Access, memory) {
            Ok(context) => context,
            Err(Denied::With(event)) => return Outcome::Recorded(event, Response::Abort),
            Err(Denied::Fault(fault)) => return denied(transaction, access, &fault, &ste, None),
        };
        let cd = context.as_ref().map(|(cd, _)| cd);
        if cd.is_none() && !self.bypass_reaches(&ste, address) {
            let fault = events::describe(transaction, access, &Fault::stage1(FaultKind::AddressSize));
            // Whatever the faults of translation are set up to do (3.12).
            let event = fault.map_or_else(|event| event, Event::Fault);
            return Outcome::Recorded(event, Response::Abort);
        }
        match self.walker(&ste, memory, Purpose::Access).translate(context.as_ref(), address, access) {
            Ok(translation) => Outcome::Ended(Response::Physical(translation.translate(address))),
            Err(fault) => denied(transaction, access, &fault, &ste, cd),
        }
    }

    /// What walks the tables of a stream with this STE.
    fn walker<'a, M: Memory>(&'a mut self, ste: &'a Ste, memory: &'a M, purpose: Purpose) -> Walker<'a, M> {
        Walker {
            features: &self.registers.features,
            caches: &mut self.caches,
            injection: &self.injection,
            memory,
            vmid: ste.vmid,
            stage2: ste.stage2(),
            purpose,
        }
    }

    /// Whether an address that bypasses stage 1 is one that there can be: of an IPA if stage 2 translates, else of a
    /// physical address (3.4).
    fn bypass_reaches(&self, ste: &Ste, address: u64) -> bool {
        let features = &self.registers.features;
        let bits = if ste.stage2().is_some() { features.ias() } else { features.oas.bits() };
        address >> bits == 0
    }
}

/// What an access counts as: an instruction fetch is no read of data, every write is of data, and the STE may override what
/// else comes with it (13.1.2, 13.1.4).
fn effective(access: Access, ste: &Ste) -> Access {
    let privileged = match ste.privilege {
        PrivilegeOverride::Incoming => access.privileged,
        PrivilegeOverride::Unprivileged => false,
        PrivilegeOverride::Privileged => true,
    };
    if access.write {
        return Access { execute: false, privileged, ..access };
    }
    let fetch = match ste.instruction {
        InstructionOverride::Incoming => access.execute,
        InstructionOverride::Data => false,
        InstructionOverride::Instruction => true,
    };
    let reads = access.read || access.execute;
    Access { read: reads && !fetch, write: false, execute: reads && fetch, privileged }
}

/// What becomes of a transaction that finds no translation, as `cd` or `ste` has it for the stage of the fault (3.12, 5.5).
fn denied(
    transaction: &Transaction,
    access: Access,
    fault: &Fault,
    ste: &Ste,
    cd: Option<&ContextDescriptor>,
) -> Outcome {
    let description = match events::describe(transaction, access, fault) {
        Ok(description) => description,
        Err(event) => return Outcome::Recorded(event, Response::Abort),
    };
    let (stall, record, response) = match (fault.ipa, ste.stage2(), cd) {
        // Stage 2 always aborts what it terminates.
        (Some(_), Some(stage2), _) => (stage2.stall, stage2.record, Response::Abort),
        (None, _, Some(cd)) if !cd.abort => (cd.stall, cd.record, Response::Ignored),
        (None, _, Some(cd)) => (cd.stall, cd.record, Response::Abort),
        _ => (false, true, Response::Abort),
    };
    if stall {
        Outcome::Stalled(description)
    } else if record {
        Outcome::Recorded(Event::Fault(description), response)
    } else {
        Outcome::Ended(response)
    }
}

impl Default for Smmu {
    fn default() -> Self {
        Self::new()
    }
}
