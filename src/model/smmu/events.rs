//! The event queue (7.2 to 7.4).

use super::Smmu;
use super::diagnostics::{control, count};
use super::injection::{Point, Records};
use super::msi::Source;
use super::registers::{cr0, gerror};
use super::translation::{Cause, Fault};
use crate::model::endpoint::Transaction;
use crate::model::memory::Memory;
use crate::model::wire::Wires;
use crate::smmuv3::event::{Event, Fetch, Origin, TranslationFault};
use crate::smmuv3::{Access, PhysAddr};

/// The ticks within which events may merge: more is a significant amount of time (7.3.1).
const MERGED_WITHIN: u64 = 256;

impl Smmu {
    /// Whether a record could be written now (7.2.1).
    pub(super) fn event_queue_is_writable(&self) -> bool {
        self.event_queue_is_on() && !self.registers.events.is_full()
    }

    fn event_queue_is_on(&self) -> bool {
        !self.failed && self.registers.enabled(cr0::EVENTQEN) && !self.registers.error_active(gerror::EVENTQ_ABT_ERR)
    }

    /// Records `event`, which no stalled transaction waits with: where it cannot be written it is lost (7.2.1).
    pub(super) fn record(&mut self, event: &Event, memory: &impl Memory, wires: &mut impl Wires) {
        if self.merges(event, memory) {
            count(&mut self.registers.diagnostics.events_merged, 1);
            return;
        }
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

    /// Whether the youngest record stands for `event` too, whose stream permits it (7.3.1): it tells the same but for the
    /// place in the page, does not stall, is not old, and software has not read it yet.
    fn merges(&mut self, event: &Event, memory: &impl Memory) -> bool {
        let Some((last, prod, tick)) = self.last_record else { return false };
        if !self.registers.diagnostics.permits(control::MERGE_EVENTS) {
            return false;
        }
        let unread = self.registers.events.prod == prod && self.registers.events.is_ready();
        let recent = self.injection.now().wrapping_sub(tick) < MERGED_WITHIN;
        if !unread || !recent || mergeable(&last) != mergeable(event) {
            return false;
        }
        let permitted = match event {
            Event::Uut { .. } | Event::BadStreamId { .. } | Event::SteFetch { .. } | Event::BadSte { .. } => true,
            // With SMMUEN=0 no STE says so, since none is read (3.21.3).
            event => event.stream().filter(|_| self.registers.enabled(cr0::SMMUEN)).is_some_and(|stream| {
                self.ste(Origin { stream, substream: None }, memory).is_ok_and(|ste| ste.merge_events)
            }),
        };
        permitted && self.registers.diagnostics.takes(control::MERGE_EVENTS)
    }

    /// Writes `event` to the queue, which is writable. Returns whether it got there.
    pub(super) fn write_event(&mut self, event: &Event, memory: &impl Memory, wires: &mut impl Wires) -> bool {
        let queue = &mut self.registers.events;
        match self.injection.passes(Point::EventWrite).and_then(|()| queue.push(memory, &event.encode())) {
            Ok(was_empty) => {
                self.last_record = Some((*event, queue.prod, self.injection.now()));
                if self.injection.swaps(Records::Events, event.stream()) {
                    queue.swap_youngest::<4>(memory);
                    self.last_record = None;
                }
                count(&mut self.registers.diagnostics.events_recorded, 1);
                self.strict.event(event);
                if was_empty {
                    self.interrupt(Source::EventQueue, memory, wires);
                }
                true
            }
            Err(_) => {
                count(&mut self.registers.diagnostics.events_lost, 1);
                self.global_error(gerror::EVENTQ_ABT_ERR, memory, wires);
                false
            }
        }
    }
}

/// What has to be the same for two records to be one. A stall has its STAG, and so is like no event that may merge.
fn mergeable(event: &Event) -> Event {
    const PAGE: u64 = !0xfff;
    match *event {
        Event::Fault(fault) => Event::Fault(TranslationFault { address: fault.address & PAGE, ..fault }),
        Event::WalkEabt { origin, access, class, stage2, address, fetch } => {
            Event::WalkEabt { origin, access, class, stage2, address: address & PAGE, fetch }
        }
        Event::TranslForbidden { origin, write, address } => {
            Event::TranslForbidden { origin, write, address: address & PAGE }
        }
        Event::TlbConflict { origin, reason, access, address, ipa } => {
            Event::TlbConflict { origin, reason, access, address: address & PAGE, ipa }
        }
        event => event,
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

/// What a record tells about `fault` of `transaction`, whose attributes are those of `access` after the STE's overrides:
/// a translation-related fault, which may stall (7.3.13 to 7.3.16), `F_WALK_EABT` (7.3.12) or `F_TLB_CONFLICT`
/// (7.3.17).
pub(super) fn describe(transaction: &Transaction, access: Access, fault: &Fault) -> Result<TranslationFault, Event> {
    let class = fault.class;
    match fault.cause {
        Cause::Related(kind) => Ok(TranslationFault {
            kind,
            stream: transaction.stream,
            substream: transaction.substream,
            stag: None,
            // RnW of an atomic access is 1 only if writing alone was permitted (13.1.1).
            access: Access { write: access.write && !fault.read_only, ..access },
            class,
            ipa: fault.ipa,
            table_write: fault.table_write,
            address: transaction.address,
        }),
        Cause::Walk(address) => Err(Event::WalkEabt {
            origin: transaction.origin(),
            access,
            class,
            stage2: fault.ipa.is_some(),
            address: transaction.address,
            fetch: fetch(address),
        }),
        Cause::Conflict => Err(Event::TlbConflict {
            origin: transaction.origin(),
            reason: 0,
            access,
            address: transaction.address,
            ipa: fault.ipa,
        }),
    }
}

/// Reason of `F_UUT`, whose meaning is the implementation's: the kind of the transaction. There is no other.
const UNSUPPORTED_KIND: u16 = 1;

/// `F_UUT` (7.3.2). Its attributes are those that came, whatever an STE overrides.
pub(super) fn unsupported(transaction: &Transaction) -> Event {
    Event::Uut {
        origin: transaction.origin(),
        reason: UNSUPPORTED_KIND,
        access: transaction.access,
        address: transaction.address,
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
