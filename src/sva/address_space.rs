//! Address spaces shared with devices: regions, and the pages that faults bring in.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::frames::{FRAME_BYTES, FramePool};
use super::page_in::PageIns;
use super::page_table::{Entries, MapError, PageTable, Permissions, first_entry};
use crate::driver::{Forgotten, Tag, Walked};
use crate::smmuv3::event::{AccessSet, StallRun};
use crate::smmuv3::{Access, Asid, PhysAddr};
use crate::sync::memory::try_boxed;

const PAGE: u64 = FRAME_BYTES as u64;

/// Where a region's pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Each page is a new one, zeroed.
    Anonymous,
    /// The pages are there, one after the other from this page-aligned address on, and stay their owner's.
    Memory(PhysAddr),
}

/// A range of addresses that may be used, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first address, page-aligned.
    pub start: u64,
    /// The size in bytes, a multiple of the page size.
    pub bytes: u64,
    /// What a device may do there.
    pub permissions: Permissions,
    /// Where its pages come from.
    pub backing: Backing,
}

impl Region {
    /// Whether every page of it could be mapped, if the addresses are the table's.
    fn is_mappable(&self) -> bool {
        let memory = match self.backing {
            Backing::Anonymous => 0,
            Backing::Memory(PhysAddr(memory)) => memory,
        };
        (self.start | self.bytes | memory).is_multiple_of(PAGE)
            && memory.checked_add(self.bytes).is_some_and(|end| end <= PageTable::OUTPUT_REACH)
    }

    pub(super) fn end(&self) -> Option<u64> {
        self.start.checked_add(self.bytes)
    }

    fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.bytes
    }

    /// What is mapped at an `address` in it: that of its memory, or `None` for a new page.
    pub(super) fn output(&self, address: u64) -> Option<PhysAddr> {
        match self.backing {
            Backing::Anonymous => None,
            Backing::Memory(PhysAddr(memory)) => Some(PhysAddr(memory + (address - self.start))),
        }
    }
}

/// Why an address space could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// A region is empty, not page-aligned, out of the table's reach, as it is or by its memory, or overlaps its neighbour.
    #[error("{0:x?} is empty, unaligned, out of reach or overlaps another region")]
    BadRegion(Region),
    /// No frame for the first table.
    #[error("no page frame left for the root table")]
    NoFrame,
    /// The heap is full.
    #[error("no memory for an address space")]
    NoMemory,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The page is there now.
    Mapped,
    /// The page was there already: an earlier fault brought it in.
    Present,
    /// No region allows this access at this address.
    Refused,
    /// The page may come, but no frame is ready.
    NoFrame,
}

/// Whether a fault may spend time on zeroing a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Take only what is ready: constant time, for interrupt handlers.
    Ready,
    /// Zero a frame if need be.
    Zero,
}

/// One address space: regions fixed when it is made, pages that come when they are touched.
///
/// Its memory comes back by [`reclaim`](Self::reclaim) alone; one that is dropped keeps it.
#[derive(Debug)]
pub struct AddressSpace {
    asid: Asid,
    regions: Box<[Prepared]>,
    /// The index of the region that was last found.
    last_region: AtomicUsize,
    table: PageTable,
    page_ins: PageIns,
}

/// A region, with what faults ask of it.
#[derive(Debug)]
struct Prepared {
    region: Region,
    /// The accesses that it allows.
    allowed: AccessSet,
    /// Its [`first_entry`].
    first: u64,
}

impl Prepared {
    fn new(region: Region) -> Self {
        let allowed = AccessSet::of(|access| region.permissions.allow(access));
        Self { region, allowed, first: first_entry(&region) }
    }
}

impl Walked for AddressSpace {
    fn tag(&self) -> Tag {
        Tag::AddressSpace(self.asid)
    }
}

impl AddressSpace {
    /// An address space tagged `asid` with `regions` and nothing mapped; tables and pages come from `frames`.
    ///
    /// # Errors
    ///
    /// [`SpaceError`] names a bad region, or says that there is no memory.
    pub fn new(asid: Asid, regions: &[Region], frames: Arc<FramePool>) -> Result<Self, SpaceError> {
        let mut each = regions.iter().copied();
        let mut sorted = try_boxed(regions.len(), || each.next()).ok_or(SpaceError::NoMemory)?;
        sorted.sort_unstable_by_key(|region| region.start);
        let mut free_from = 0;
        for region in &sorted {
            let mappable = region.is_mappable();
            free_from = region
                .end()
                .filter(|&end| mappable && region.bytes > 0 && region.start >= free_from && end <= PageTable::REACH)
                .ok_or(SpaceError::BadRegion(*region))?;
        }
        let mut sorted = sorted.iter().copied();
        let regions = try_boxed(regions.len(), || sorted.next().map(Prepared::new)).ok_or(SpaceError::NoMemory)?;
        let page_ins = PageIns::new().ok_or(SpaceError::NoMemory)?;
        let table = PageTable::new(frames).ok_or(SpaceError::NoFrame)?;
        Ok(Self { asid, regions, last_region: AtomicUsize::new(0), table, page_ins })
    }

    /// The tag of its translations.
    pub fn asid(&self) -> Asid {
        self.asid
    }

    /// Where its root table is.
    pub fn root(&self) -> PhysAddr {
        self.table.root()
    }

    /// How many pages faults have brought in, counted in the page table.
    pub fn pages(&self) -> u64 {
        self.table.pages()
    }

    /// The page-ins under way, for handlers that take their time.
    pub fn page_ins(&self) -> &PageIns {
        &self.page_ins
    }

    /// Brings in the page at `address` if a region allows `access` there. An access that asks for nothing needs only a
    /// region.
    ///
    /// Any core may call it at any time; of two that race for a page, one maps it and the other finds it
    /// [`Resolution::Present`].
    pub fn resolve(&self, address: u64, access: Access, effort: Effort) -> Resolution {
        let Some((index, region)) = region_of(&self.regions, address) else { return Resolution::Refused };
        if !region.permissions.allow(access) {
            return Resolution::Refused;
        }
        self.last_region.store(index, Relaxed);
        match self.table.map(address, region.output(address), region.permissions, effort) {
            Ok(true) => Resolution::Mapped,
            Ok(false) => Resolution::Present,
            Err(MapError::NoFrame) => Resolution::NoFrame,
            Err(MapError::OutOfReach | MapError::Corrupt) => Resolution::Refused,
        }
    }

    /// As [`resolve`](Self::resolve), if the page needs no frame, and lies in the region and behind the table that the last call found.
    /// Returns whether it is there now; where this can't do it, [`resolve`](Self::resolve) can, or refuses.
    pub fn resolve_soon(&self, address: u64, access: Access) -> bool {
        self.soon().is_some_and(|(Prepared { region, .. }, entries)| {
            region.permissions.allow(access)
                && if entries.have_pages() { entries.map(address) } else { entries.is_mapped(address) }
        })
    }

    /// As [`resolve_soon`](Self::resolve_soon) for each of `stalls`, up to the first for which this can't do it. Returns how many it could.
    #[inline(always)]
    pub fn resolve_run(&self, stalls: StallRun<'_>) -> usize {
        let Some((&Prepared { allowed, .. }, entries)) = self.soon() else { return 0 };
        if entries.have_pages() {
            stalls.count_while(|stall| stall.is_one_of(allowed) && entries.map(stall.address()))
        } else {
            stalls.count_while(|stall| stall.is_one_of(allowed) && entries.is_mapped(stall.address()))
        }
    }

    /// The region that the last call found, and its entries in the table that it found.
    #[inline(always)]
    fn soon(&self) -> Option<(&Prepared, Entries)> {
        let prepared = self.regions.get(self.last_region.load(Relaxed))?;
        Some((prepared, self.table.table_at_hand()?.entries_of(&prepared.region, prepared.first)?))
    }

    /// Takes the page at `address` away, which is its owner's ([`Backing::Memory`]), and returns whether one was there. The region
    /// stays: what resolves a fault there maps the page again.
    ///
    /// The SMMU and devices may go on with the page until they were told to forget it:
    /// [`Smmu::invalidate`](crate::driver::Smmu::invalidate).
    pub fn unmap(&self, address: u64) -> bool {
        let region = region_of(&self.regions, address);
        region.is_some_and(|(_, region)| region.backing != Backing::Anonymous) && self.table.unmap(address)
    }

    /// Where `address` is mapped to, as a device would find it.
    pub fn translate(&self, address: u64) -> Option<PhysAddr> {
        self.table.translate(address)
    }

    /// The word at `address`, a multiple of 8, if its page is mapped.
    pub fn word(&self, address: u64) -> Option<&'static AtomicU64> {
        self.table.word(address)
    }

    /// Whether a region allows `access` at `address`.
    pub fn allows(&self, address: u64, access: Access) -> bool {
        region_of(&self.regions, address).is_some_and(|(_, region)| region.permissions.allow(access))
    }

    /// Gives the tables and the pages that were its own back to the pool: for that every core, the SMMU and its devices have
    /// to have forgotten it.
    ///
    /// ```compile_fail,E0308
    /// # use smmu_iopf::sva::address_space::AddressSpace;
    /// fn wrong(space: AddressSpace) {
    ///     AddressSpace::reclaim(space);
    /// }
    /// ```
    pub fn reclaim(forgotten: Forgotten<Self>) {
        let Self { table, regions, .. } = forgotten.into_inner();
        table.free(|address| {
            region_of(&regions, address).is_some_and(|(_, region)| region.backing == Backing::Anonymous)
        });
    }
}

/// The one of `regions`, which are in order, that `address` is in, and its index.
fn region_of(regions: &[Prepared], address: u64) -> Option<(usize, &Region)> {
    let index = regions.partition_point(|prepared| prepared.region.start <= address).checked_sub(1)?;
    regions.get(index).map(|prepared| (index, &prepared.region)).filter(|(_, region)| region.contains(address))
}
