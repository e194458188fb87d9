//! The translations that the engine got by ATS (3.9.1), kept until they are invalidated.

use crate::model::endpoint::Invalidation;
use crate::smmuv3::{Access, PhysAddr, SubstreamId};

const ENTRIES: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    substream: Option<SubstreamId>,
    /// Input address of the page, in bytes.
    page: u64,
    physical: PhysAddr,
    read: bool,
    write: bool,
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

    /// The physical address for an access to `address`, if it is known and the access is granted.
    pub(super) fn look_up(&self, substream: Option<SubstreamId>, address: u64, access: Access) -> Option<PhysAddr> {
        let page = address & !0xfff;
        let entry = self.entries.iter().flatten().find(|entry| entry.substream == substream && entry.page == page)?;
        let granted = (entry.read || !access.read) && (entry.write || !access.write);
        granted.then_some(PhysAddr(entry.physical.0 | address & 0xfff))
    }

    /// Keeps the translation of the page at `address`, in the place of an older one.
    pub(super) fn insert(
        &mut self,
        substream: Option<SubstreamId>,
        address: u64,
        physical: PhysAddr,
        read: bool,
        write: bool,
    ) {
        let page = address & !0xfff;
        let old = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.substream == substream && entry.page == page);
        let index = self.entries.iter().position(old).unwrap_or_else(|| {
            let index = self.next;
            self.next = (index + 1) % ENTRIES;
            index
        });
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = Some(Entry { substream, page, physical, read, write });
        }
    }

    /// Drops what `invalidation` names (4.5.1).
    pub(super) fn invalidate(&mut self, invalidation: &Invalidation) {
        for slot in &mut self.entries {
            let Some(entry) = slot else { continue };
            let space = match invalidation.substream {
                Some(_) if invalidation.global => entry.substream.is_some(),
                substream => entry.substream == substream,
            };
            if space && entry.page <= invalidation.last && entry.page | 0xfff >= invalidation.first {
                *slot = None;
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries = [None; ENTRIES];
    }
}
