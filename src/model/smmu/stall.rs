//! Transactions that stall (3.12.2): from the fault until the device has its response.

use crate::model::endpoint::{Response, Transaction};
use crate::smmuv3::event::TranslationFault;
use crate::smmuv3::{Stag, StreamId};

/// The most transactions that stall at a time: `IDR5.STALL_MAX`.
pub(in crate::model) const STALL_MAX: usize = 64;

/// Where a transaction is held. The device that issued it polls with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u8);

impl Slot {
    /// The slot of the transaction that `stag` names.
    pub(super) const fn of(stag: Stag) -> Self {
        Self((stag.0 % STALL_MAX as u16) as u8)
    }

    /// Below [`STALL_MAX`].
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What has become of a stalled transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Stalled, and its record waits until the event queue is writable (7.2.1).
    Held,
    /// Stalled, and one record stands for it and for the older one in this slot (3.12.2.1).
    Suppressed(Slot),
    /// Stalled and recorded: software answers it.
    Recorded,
    /// Not stalled any more after an early retry, but software still has to answer the record (3.12.2.2).
    Gone,
    /// Answered: tries again as if it had just arrived.
    Retry,
    /// Answered: ends with this response.
    Terminate {
        /// The response.
        response: Response,
        /// It may still try again first, and succeed (3.12.2.2).
        may_retry: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    transaction: Transaction,
    state: State,
    /// What its last record told, if it has one.
    fault: Option<TranslationFault>,
}

/// What a CMD_RESUME found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resumed {
    /// The stalled transaction that it names.
    Match,
    /// Nothing: software answered what it was not asked.
    Nothing,
}

/// The stalled transactions.
///
/// A STAG is the slot's number and, above it, a count that moves on with every record of that slot: so a STAG that was
/// answered comes back late, and an answer too many is seen to match nothing.
#[derive(Debug)]
pub(super) struct Stalls {
    entries: [Option<Entry>; STALL_MAX],
    records: [u16; STALL_MAX],
}

impl Stalls {
    pub(super) const fn new() -> Self {
        Self { entries: [None; STALL_MAX], records: [0; STALL_MAX] }
    }

    /// Takes a slot for `transaction`, or `None` when all are taken.
    pub(super) fn add(&mut self, transaction: Transaction, state: State) -> Option<Slot> {
        let index = self.entries.iter().position(Option::is_none)?;
        *self.entries.get_mut(index)? = Some(Entry { transaction, state, fault: None });
        Some(Slot(index as u8))
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
            *entry = None;
        }
    }

    pub(super) fn get(&self, slot: Slot) -> Option<(Transaction, State)> {
        let entry = (*self.entries.get(usize::from(slot.0))?)?;
        Some((entry.transaction, entry.state))
    }

    pub(super) fn set(&mut self, slot: Slot, state: State) {
        if let Some(Some(entry)) = self.entries.get_mut(usize::from(slot.0)) {
            entry.state = state;
        }
    }

    /// A record is about to be written for the transaction in `slot`, which tells of `fault`.
    pub(super) fn record(&mut self, slot: Slot, fault: &TranslationFault) {
        if let Some(Some(entry)) = self.entries.get_mut(usize::from(slot.0)) {
            entry.state = State::Recorded;
            entry.fault = Some(*fault);
        }
    }

    /// How many transactions are held.
    pub(super) fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// The STAG for the next record of `slot`.
    pub(super) fn next_stag(&mut self, slot: Slot) -> Stag {
        if let Some(count) = self.records.get_mut(usize::from(slot.0)) {
            *count = (*count + 1) % (1 << 10);
        }
        self.stag(slot)
    }

    fn stag(&self, slot: Slot) -> Stag {
        let count = self.records.get(usize::from(slot.0)).copied().unwrap_or(0);
        Stag(count << 6 | u16::from(slot.0))
    }

    /// A recorded transaction that a record of `transaction` would be a duplicate of, which stalls for `fault`: one for an
    /// unrelated reason would not (3.12.2.1).
    pub(super) fn duplicate_of(&self, transaction: &Transaction, fault: &TranslationFault) -> Option<Slot> {
        let reason = |fault: &TranslationFault| {
            let TranslationFault { kind, class, ipa, table_write, .. } = *fault;
            (kind, class, ipa.map(|ipa| ipa >> 12), table_write)
        };
        let same = |entry: &Entry| {
            entry.state == State::Recorded
                && entry.transaction.stream == transaction.stream
                && entry.transaction.substream == transaction.substream
                && entry.transaction.access == transaction.access
                && entry.transaction.address >> 12 == transaction.address >> 12
                && entry.fault.as_ref().map(reason) == Some(reason(fault))
        };
        let index = self.entries.iter().position(|entry| entry.as_ref().is_some_and(same))?;
        Some(Slot(index as u8))
    }

    /// CMD_RESUME: the transaction that `stream` and `stag` name goes on as `answer` says, and the duplicates that were
    /// suppressed for it try again (3.12.2.1, 4.7.1).
    pub(super) fn resume(&mut self, stream: StreamId, stag: Stag, answer: State) -> Resumed {
        let slot = Slot::of(stag);
        let Some((transaction, state)) = self.get(slot) else { return Resumed::Nothing };
        if transaction.stream != stream || self.stag(slot) != stag {
            return Resumed::Nothing;
        }
        match state {
            State::Recorded => self.set(slot, answer),
            State::Gone => self.remove(slot),
            _ => return Resumed::Nothing,
        }
        for entry in self.entries.iter_mut().flatten() {
            if entry.state == State::Suppressed(slot) {
                entry.state = State::Retry;
            }
        }
        Resumed::Match
    }

    /// Marks what stalls, of `stream` or all, for an abort (4.7.2, 6.3.9.6). Returns how many it were.
    pub(super) fn terminate(&mut self, stream: Option<StreamId>) -> u32 {
        let aborted = State::Terminate { response: Response::Abort, may_retry: false };
        let mut count = 0;
        for slot in &mut self.entries {
            let Some(entry) = slot else { continue };
            if stream.is_some_and(|stream| stream != entry.transaction.stream) {
                continue;
            }
            match entry.state {
                State::Gone => *slot = None,
                State::Terminate { .. } => entry.state = aborted,
                _ => {
                    entry.state = aborted;
                    count += 1;
                }
            }
        }
        count
    }
}
