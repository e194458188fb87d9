//! The event queue (7.2 to 7.4) and global errors (7.5).

use super::Smmu;
use super::diagnostics::count;
use super::registers::{cr0, gerror, irq_ctrl};
use super::walk;
use crate::model::endpoint::Transaction;
use crate::model::memory::Memory;
use crate::model::wire::{Wire, Wires};
use crate::smmuv3::PhysAddr;
use crate::smmuv3::event::{Event, FaultClass, FaultKind, Fetch, Origin, TranslationFault};

impl Smmu {
    /// Whether a record could be written now (7.2.1).
    pub(super) fn event_queue_is_writable(&self) -> bool {
        self.event_queue_is_on() && !self.registers.events.is_full()
    }

    fn event_queue_is_on(&self) -> bool {
        self.registers.enabled(cr0::EVENTQEN) && !self.registers.error_active(gerror::EVENTQ_ABT_ERR)
    }

    /// Records `event`, which no stalled transaction waits with: where it cannot be written it is lost (7.2.1).
    pub(super) fn record(&mut self, event: &Event, memory: &impl Memory, wires: &mut impl Wires) {
        if self.event_queue_is_writable() {
            self.write_event(event, memory, wires);
            return;
        }
        count(&mut self.registers.diagnostics.events_lost, 1);
        // Only a queue that is on overflows; one in error is not written at all (7.4).
        if self.event_queue_is_on() {
            self.registers.events.overflow();
        }
    }

    /// Writes `event` to the queue, which is writable. Returns whether it got there.
    pub(super) fn write_event(&mut self, event: &Event, memory: &impl Memory, wires: &mut impl Wires) -> bool {
        match self.registers.events.push(memory, &event.encode()) {
            Ok(was_empty) => {
                count(&mut self.registers.diagnostics.events_recorded, 1);
                if was_empty && self.registers.interrupt_enabled(irq_ctrl::EVENTQ) {
                    wires.raise(Wire::EventQueue);
                }
                true
            }
            Err(_) => {
                count(&mut self.registers.diagnostics.events_lost, 1);
                self.global_error(gerror::EVENTQ_ABT_ERR, wires);
                false
            }
        }
    }

    /// Activates a global error, with its interrupt (7.5.1).
    pub(super) fn global_error(&mut self, error: u32, wires: &mut impl Wires) {
        if self.registers.activate(error) && self.registers.interrupt_enabled(irq_ctrl::GERROR) {
            wires.raise(Wire::GlobalError);
        }
    }
}

impl Transaction {
    pub(super) fn origin(&self) -> Origin {
        Origin { stream: self.stream, substream: self.substream }
    }
}

/// An access of the SMMU's own to `address` that reached no memory.
pub(super) fn fetch(PhysAddr(address): PhysAddr) -> Fetch {
    Fetch { reason: 0, granule_protection: false, address }
}

/// The fault of stage 1 that ends `transaction` or stalls it.
pub(super) fn stage1_fault(transaction: &Transaction, kind: FaultKind) -> TranslationFault {
    TranslationFault {
        kind,
        stream: transaction.stream,
        substream: transaction.substream,
        stag: None,
        access: transaction.access,
        class: FaultClass::Input,
        ipa: None,
        table_write: false,
        address: transaction.address,
    }
}

/// What a record tells about `fault`, which translation found: the kind of a translation-related fault, or the whole of
/// another event.
pub(super) fn fault_kind(transaction: &Transaction, fault: walk::Fault) -> Result<FaultKind, Event> {
    match fault {
        walk::Fault::Translation => Ok(FaultKind::Translation),
        walk::Fault::AddressSize => Ok(FaultKind::AddressSize),
        walk::Fault::Access => Ok(FaultKind::Access),
        walk::Fault::Permission => Ok(FaultKind::Permission),
        walk::Fault::Abort(address) => Err(walk_abort(transaction, address)),
        walk::Fault::Conflict => Err(tlb_conflict(transaction)),
    }
}

/// `F_WALK_EABT` for a stage 1 table at `address` (7.3.12).
fn walk_abort(transaction: &Transaction, address: PhysAddr) -> Event {
    Event::WalkEabt {
        origin: transaction.origin(),
        access: transaction.access,
        class: FaultClass::TableDescriptor,
        stage2: false,
        address: transaction.address,
        fetch: fetch(address),
    }
}

/// `F_TLB_CONFLICT` at stage 1 (7.3.17).
fn tlb_conflict(transaction: &Transaction) -> Event {
    Event::TlbConflict {
        origin: transaction.origin(),
        reason: 0,
        access: transaction.access,
        address: transaction.address,
        ipa: None,
    }
}

/// `F_BAD_ATS_TREQ` (7.3.6).
pub(super) fn bad_ats_request(transaction: &Transaction) -> Event {
    Event::BadAtsTreq { origin: transaction.origin(), address: transaction.address & !0xfff }
}

/// `F_TRANSL_FORBIDDEN` (7.3.8). Without PASID support on translated accesses they carry none (3.9.1.3).
pub(super) fn translated_forbidden(transaction: &Transaction) -> Event {
    Event::TranslForbidden {
        origin: Origin { stream: transaction.stream, substream: None },
        write: transaction.access.write,
        address: transaction.address,
    }
}
