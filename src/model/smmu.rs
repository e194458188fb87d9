//! The SMMU: an SMMUv3.2 with one programming interface (Non-secure), stage 1, stall, ATS and PRI.
//!
//! | part | what it is |
//! |---|---|
//! | `registers` | the register file: what reads and writes do |
//! | `queue` | queue registers and their arithmetic |
//! | `commands` | the command queue |
//! | `events` | the event queue and global errors |
//! | `cache` | what is kept of STEs, CDs and tables until it is invalidated |
//! | `configuration` | from StreamID and SubstreamID to STE and CD |
//! | `walk` | stage 1 translation tables |
//! | `stall` | transactions that stall |
//! | `ats` | translation requests and translated accesses |
//! | `page_requests` | the PRI queue and automatic responses |
//! | [`diagnostics`] | what the model counts, and its switches |

mod ats;
mod cache;
mod commands;
mod configuration;
pub mod diagnostics;
mod events;
mod page_requests;
mod queue;
mod registers;
mod stall;
mod walk;

use self::cache::Caches;
use self::configuration::{Denied, Route};
use self::diagnostics::count;
use self::registers::{OUTPUT_BITS, RegisterFile, cr0};
pub use self::stall::Slot;
use self::stall::{Stalls, State};
use super::endpoint::{Endpoints, Response, Transaction};
use super::machine::Width;
use super::memory::Memory;
use super::wire::Wires;
use crate::smmuv3::event::{Event, FaultKind, TranslationFault};
use crate::smmuv3::{PhysAddr, StreamId};

/// An SMMUv3.
#[derive(Debug)]
pub struct Smmu {
    registers: RegisterFile,
    stalls: Stalls,
    caches: Caches<walk::Leaf, walk::Table>,
    /// A CMD_ATC_INV timed out since the last CMD_SYNC.
    invalidation_timed_out: bool,
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
    /// The SMMU after reset.
    pub const fn new() -> Self {
        Self {
            registers: RegisterFile::new(),
            stalls: Stalls::new(),
            caches: Caches::new(),
            invalidation_timed_out: false,
        }
    }

    /// Reads the register at `offset`, aligned to `width`.
    pub fn read(&self, offset: usize, width: Width) -> u64 {
        self.registers.read(offset, width, self.stalls.len() as u32)
    }

    /// Writes the register at `offset`, aligned to `width`. What that sets going happens in [`step`](Smmu::step).
    pub fn write(&mut self, offset: usize, width: Width, value: u64) {
        match offset {
            diagnostics::CACHE_SEED => self.caches.set_seed(value as u32),
            diagnostics::CACHE_POISON => self.caches.poison(StreamId(value as u32), walk::Leaf::IDENTITY),
            _ => self.registers.write(offset, width, value),
        }
    }

    /// One tick: acknowledges register updates, then consumes some commands. Returns whether there was anything to do.
    pub fn step<E: Endpoints + ?Sized>(
        &mut self,
        memory: &impl Memory,
        wires: &mut impl Wires,
        endpoints: &mut E,
    ) -> bool {
        let acknowledged = self.registers.acknowledge();
        if acknowledged.disabled {
            let ended = self.stalls.terminate(None);
            count(&mut self.registers.diagnostics.stalls_disabled, ended);
        }
        if let Some((stream, substream)) = self.caches.disturb()
            && self.registers.enabled(cr0::SMMUEN)
        {
            // What it reads stays in the caches; that there is nothing to read is no event (4.2).
            let _ = self.configure(stream, substream, memory);
        }
        self.consume_commands(memory, wires, endpoints) || acknowledged.any
    }

    /// An access of a device arrives.
    pub fn access(&mut self, transaction: &Transaction, memory: &impl Memory, wires: &mut impl Wires) -> Issued {
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

    /// Has the access in `slot` ended? If it was answered with retry, or its record had to wait for the event queue, it is
    /// tried again here, as if it had just arrived (3.12.2).
    pub fn poll(&mut self, slot: Slot, memory: &impl Memory, wires: &mut impl Wires) -> Polled {
        let Some((transaction, state)) = self.stalls.get(slot) else { return Polled::Ended(Response::Abort) };
        match state {
            State::Retry => self.retry(slot, &transaction, memory, wires),
            State::Held if self.event_queue_is_writable() => self.retry(slot, &transaction, memory, wires),
            State::Held => Polled::Stalled { recorded: false },
            State::Recorded | State::Suppressed(_) | State::Terminate { may_retry: true, .. }
                if self.registers.diagnostics.is_set(diagnostics::control::EARLY_RETRY) =>
            {
                self.retry_early(slot, &transaction, state, memory)
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

    /// A retry that software did not ask for. It records nothing, and a record that was written still wants its answer
    /// (3.12.2.2).
    fn retry_early(&mut self, slot: Slot, transaction: &Transaction, state: State, memory: &impl Memory) -> Polled {
        let response = match (self.translate(transaction, memory), state) {
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
        if self.registers.diagnostics.is_set(diagnostics::control::SUPPRESS_DUPLICATES)
            && let Some(first) = self.stalls.duplicate_of(transaction)
        {
            count(&mut self.registers.diagnostics.stalls_suppressed, 1);
            self.stalls.set(slot, State::Suppressed(first));
            return false;
        }
        if !self.event_queue_is_writable() {
            count(&mut self.registers.diagnostics.stalls_held, 1);
            return false;
        }
        let stag = self.stalls.next_stag(slot);
        self.stalls.set(slot, State::Recorded);
        let recorded = self.write_event(&Event::Fault(TranslationFault { stag: Some(stag), ..fault }), memory, wires);
        count(&mut self.registers.diagnostics.stalls_recorded, u32::from(recorded));
        recorded
    }

    /// The way of an access through the SMMU (15): configuration, then translation.
    fn translate(&mut self, transaction: &Transaction, memory: &impl Memory) -> Outcome {
        let Transaction { stream, substream, address, access } = *transaction;
        if !self.registers.enabled(cr0::SMMUEN) {
            // Without a translation there is no record of an address beyond the output size (3.4).
            let aborts = self.registers.aborts_when_disabled() || address >> OUTPUT_BITS != 0;
            return Outcome::Ended(if aborts { Response::Abort } else { Response::Physical(PhysAddr(address)) });
        }
        let route = match self.configure(stream, substream, memory) {
            Ok(route) => route,
            Err(Denied::Silently) => return Outcome::Ended(Response::Abort),
            Err(Denied::With(event)) => return Outcome::Recorded(event, Response::Abort),
        };
        match route {
            Route::Bypass if address >> OUTPUT_BITS == 0 => Outcome::Ended(Response::Physical(PhysAddr(address))),
            Route::Bypass => {
                let fault = events::stage1_fault(transaction, FaultKind::AddressSize);
                Outcome::Recorded(Event::Fault(fault), Response::Abort)
            }
            Route::Stage1(cd) => {
                let fault = match self.stage1(&cd, address, memory) {
                    Ok(leaf) if leaf.grants(access) => {
                        return Outcome::Ended(Response::Physical(leaf.physical(address)));
                    }
                    Ok(_) => walk::Fault::Permission,
                    Err(fault) => fault,
                };
                let kind = match events::fault_kind(transaction, fault) {
                    Ok(kind) => kind,
                    Err(event) => return Outcome::Recorded(event, Response::Abort),
                };
                let fault = events::stage1_fault(transaction, kind);
                if cd.stall {
                    return Outcome::Stalled(fault);
                }
                let response = if cd.abort { Response::Abort } else { Response::Ignored };
                if cd.record { Outcome::Recorded(Event::Fault(fault), response) } else { Outcome::Ended(response) }
            }
        }
    }
}

impl Default for Smmu {
    fn default() -> Self {
        Self::new()
    }
}
