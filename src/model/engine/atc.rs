//! The translations that the engine got by ATS (3.9.1), kept until they are invalidated.

use crate::model::endpoint::{Invalidation, Transaction};
use crate::smmuv3::{PhysAddr, SubstreamId};

const ENTRIES: usize = 32;

/// For whom and for what a translation was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    substream: Option<SubstreamId>,
    /// Asked for privileged accesses, or for instruction fetches: the permissions granted are for those alone.
    privileged: bool,
    execute: bool,
}

impl Space {
    /// The space of `transaction`. Only what carries a PASID says what it is for (13.7).
    pub(super) fn of(transaction: &Transaction) -> Self {
        let Transaction { substream, access, .. } = *transaction;
        let pasid = substream.is_some();
        Self { substream, privileged: pasid && access.privileged, execute: pasid && access.execute }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    space: Space,
    /// Input address of the first byte.
    first: u64,
    translation: Translation,
    /// Its completion has arrived. Until then it serves nobody, and an invalidation drops it: what was asked for before
    /// an invalidation must not be used after it.
    arrived: bool,
}

impl Entry {
    fn covers(&self, space: Space, address: u64) -> bool {
        self.space == space && address & !self.translation.offset() == self.first
    }
}

/// A translation, as a completion has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    pub(super) physical: PhysAddr,
    /// It is for `1 << bits` bytes, aligned to themselves.
    pub(super) bits: u8,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) execute: bool,
}

impl Translation {
    /// The bits of an address within it.
    fn offset(&self) -> u64 {
        (1u64 << self.bits.min(63)) - 1
    }

    /// Whether `transaction` may use it.
    pub(super) fn grants(&self, transaction: &Transaction) -> bool {
        let access = transaction.access;
        let execute = Space::of(transaction).execute;
        (self.read || !access.read) && (self.write || !access.write) && (self.execute || !execute)
    }
}

/// The address translation cache. When it is full, the oldest translation goes.
#[derive(Debug)]
pub(super) struct Atc {
    entries: [Option<Entry>; ENTRIES],
    next: usize,
}

impl Atc {
    pub(super) const fn new() -> Self {
        Self { entries: [None; ENTRIES], next: 0 }
    }

    /// The physical address for `transaction`, if it is known and the access is granted.
    pub(super) fn look_up(&self, transaction: &Transaction) -> Option<PhysAddr> {
        let address = transaction.address;
        let space = Space::of(transaction);
        let mut entries = self.entries.iter().flatten().filter(|entry| entry.arrived);
        let translation = entries.find(|entry| entry.covers(space, address))?.translation;
        let physical = PhysAddr(translation.physical.0 | address & translation.offset());
        translation.grants(transaction).then_some(physical)
    }

    /// Keeps the translation of what is around `address`, in the place of an older one. It serves nobody before it has
    /// [arrived](Atc::arrive).
    pub(super) fn insert(&mut self, space: Space, address: u64, mut translation: Translation) {
        translation.physical.0 &= !translation.offset();
        let entry = Entry { space, first: address & !translation.offset(), translation, arrived: false };
        let old = |slot: &Option<Entry>| {
            slot.is_some_and(|slot| slot.covers(space, address) || entry.covers(slot.space, slot.first))
        };
        let index = self.entries.iter().position(old).unwrap_or_else(|| {
            let index = self.next;
            self.next = (index + 1) % ENTRIES;
            index
        });
        if let Some(slot) = self.entries.get_mut(index) {
            *slot = Some(entry);
        }
        // A translation of a block leaves no smaller one beside it.
        for (other, slot) in self.entries.iter_mut().enumerate() {
            if other != index && slot.is_some_and(|slot| entry.covers(slot.space, slot.first)) {
                *slot = None;
            }
        }
    }

    /// The completion of the translation around `address` has arrived, unless it was dropped.
    pub(super) fn arrive(&mut self, space: Space, address: u64) {
        if let Some(entry) = self.entries.iter_mut().flatten().find(|entry| entry.covers(space, address)) {
            entry.arrived = true;
        }
    }

    /// Drops what `invalidation` names (4.5.1).
    pub(super) fn invalidate(&mut self, invalidation: &Invalidation) {
        for slot in &mut self.entries {
            let Some(entry) = slot else { continue };
            let substream = entry.space.substream;
            let meant = match invalidation.substream {
                Some(_) if invalidation.global => substream.is_some(),
                named => substream == named,
            };
            if meant
                && entry.first <= invalidation.last
                && entry.first | entry.translation.offset() >= invalidation.first
            {
                *slot = None;
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries = [None; ENTRIES];
    }
}
