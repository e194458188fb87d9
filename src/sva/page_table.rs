//! Stage 1 page tables that an SMMU walks: 4 KiB granule, 39 bits of address, three levels.
//!
//! Entries change from invalid by compare-exchange, so cores map side by side without a lock. From invalid to valid needs
//! no TLB invalidation: a translation that faulted is not cached (Arm DDI 0487, D8.16).

use alloc::sync::Arc;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::address_space::Effort;
use super::frames::{Frame, FramePool, FrameWords};
use crate::smmuv3::descriptor::{Descriptor, InputSize, Level, PageDescriptor, TableDescriptor};
use crate::smmuv3::{Access, PhysAddr, Shareability};

/// What a device may do with a page: read it, and perhaps write it. Nothing is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Writing is allowed.
    pub write: bool,
}

impl Permissions {
    /// Reading only.
    pub const READ: Self = Self { write: false };
    /// Reading and writing.
    pub const READ_WRITE: Self = Self { write: true };

    /// Whether `access` is allowed.
    pub const fn allow(self, access: Access) -> bool {
        (self.write || !access.write) && !access.execute
    }
}

/// Why a page could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MapError {
    /// No frame for the page or for a table on the way to it.
    NoFrame,
    /// The address has more bits than the table.
    OutOfReach,
    /// An entry on the way is none that this code makes.
    Corrupt,
}

const _: () = assert!(PageTable::SIZE.start_level() as u8 == PageTable::TABLE_LEVELS[0] as u8);

/// A page table and the pool that its tables and pages come from. It keeps what it took: what may still be walked by an
/// SMMU is not given back by a destructor.
#[derive(Debug)]
pub(super) struct PageTable {
    root: Frame,
    frames: Arc<FramePool>,
    /// The last table that a walk came to at the end: the number of its frame in bits 31:0, the bits above
    /// [`LAST_TABLE_SHIFT`](Self::LAST_TABLE_SHIFT) of the addresses that it is for above.
    last_table: AtomicU64,
}

impl PageTable {
    const SIZE: InputSize = match InputSize::new(super::T0SZ) {
        Some(size) => size,
        None => panic!("T0SZ is out of range"),
    };

    /// The levels whose entries lead to tables.
    const TABLE_LEVELS: [Level; 2] = [Level::One, Level::Two];

    /// A table at the end of a walk is for the addresses that have the bits from here on in common.
    const LAST_TABLE_SHIFT: u32 = Level::Two.shift();

    /// Addresses below this can be mapped.
    pub(super) const REACH: u64 = 1 << Self::SIZE.bits();

    /// Pages below this physical address can be mapped: an entry holds bits 47:12 (Arm DDI 0487, D8.3).
    pub(super) const OUTPUT_REACH: u64 = 1 << 48;

    /// A table that maps nothing, or `None` without a frame for it.
    pub(super) fn new(frames: Arc<FramePool>) -> Option<Self> {
        Some(Self { root: frames.take()?, frames, last_table: AtomicU64::new(u64::MAX) })
    }

    pub(super) fn root(&self) -> PhysAddr {
        self.root.phys()
    }

    /// Maps `page`, or else a new, zeroed one, at `address`, and returns whether it is this call that did.
    pub(super) fn map(
        &self,
        address: u64,
        page: Option<PhysAddr>,
        permissions: Permissions,
        effort: Effort,
    ) -> Result<bool, MapError> {
        let table = self.walk(address, Some(effort))?.ok_or(MapError::NoFrame)?;
        let entry = &table[Level::Three.index(address)];
        if is_valid(entry.load(Acquire)) {
            return Ok(false);
        }
        if let Some(page) = page {
            return Ok(Self::exchange(entry, leaf(page, permissions)));
        }
        let frame = self.take(effort)?;
        let leaf = leaf(frame.phys(), permissions);
        Ok(self.install(entry, frame, leaf))
    }

    /// The table that the last walk came to, if there was one.
    #[inline(always)]
    pub(super) fn last_table(&self) -> Option<LastTable> {
        // Acquire: pairs with the Release in `walk`. A table stays where it is as long as this one is used.
        let last = self.last_table.load(Acquire);
        let entries = self.frames.memory().frame(last as u32 as usize)?;
        Some(LastTable { prefix: last >> 32, entries })
    }

    /// Takes the page at `address` out of the table, and returns whether one was there.
    pub(super) fn unmap(&self, address: u64) -> bool {
        // Relaxed: whoever finds the entry invalid reads nothing by it.
        let table = self.walk(address, None).ok().flatten();
        table.is_some_and(|table| is_valid(table[Level::Three.index(address)].swap(Descriptor::INVALID, Relaxed)))
    }

    /// Gives all tables, and the pages at addresses that `is_own`, back to the pool. Where a page came from, its entry does not
    /// say: memory mapped for its owner may be the pool's too.
    pub(super) fn free(self, is_own: impl Fn(u64) -> bool) {
        self.free_table(self.root(), Self::SIZE.start_level(), 0, &is_own);
        self.frames.free(self.root);
    }

    /// Frees what is below `table`, which maps the addresses from `start` on.
    fn free_table(&self, table: PhysAddr, level: Level, start: u64, is_own: &impl Fn(u64) -> bool) {
        for (index, entry) in (0..).zip(self.frames.words(table).into_iter().flatten()) {
            let address = start | index << level.shift();
            match (Descriptor::decode(entry.load(Acquire), level), level.next()) {
                (Descriptor::Table(TableDescriptor { table, .. }), Some(next)) => {
                    self.free_table(table, next, address, is_own);
                    self.frames.free_at(table);
                }
                (Descriptor::Leaf(page), _) if is_own(address) => self.frames.free_at(page.output),
                _ => {}
            }
        }
    }

    /// How many pages are mapped.
    pub(super) fn pages(&self) -> u64 {
        self.pages_below(self.root(), Self::SIZE.start_level())
    }

    fn pages_below(&self, table: PhysAddr, level: Level) -> u64 {
        let entries = self.frames.words(table).into_iter().flatten();
        let decoded = entries.map(|entry| (Descriptor::decode(entry.load(Acquire), level), level.next()));
        let pages = decoded.map(|of_entry| match of_entry {
            (Descriptor::Table(TableDescriptor { table, .. }), Some(next)) => self.pages_below(table, next),
            (Descriptor::Leaf(_), _) => 1,
            _ => 0,
        });
        pages.sum()
    }

    /// Where `address` is mapped to.
    pub(super) fn translate(&self, address: u64) -> Option<PhysAddr> {
        let table = self.walk(address, None).ok()??;
        match Descriptor::decode(table[Level::Three.index(address)].load(Acquire), Level::Three) {
            Descriptor::Leaf(page) => Some(PhysAddr(page.output.0 | address & 0xfff)),
            _ => None,
        }
    }

    /// The word at `address`, a multiple of 8.
    pub(super) fn word(&self, address: u64) -> Option<&'static AtomicU64> {
        let at = self.translate(address)?;
        self.frames.words(at)?.get((at.0 & 0xfff) as usize / 8)
    }

    /// The last table on the way to `address`. Missing tables are made with the `effort` given, or end the walk with `None`.
    fn walk(&self, address: u64, make: Option<Effort>) -> Result<Option<&'static FrameWords>, MapError> {
        if !Self::SIZE.contains(address) {
            return Err(MapError::OutOfReach);
        }
        let memory = self.frames.memory();
        let mut table = self.root();
        for level in Self::TABLE_LEVELS {
            let entry = &memory.words(table).ok_or(MapError::Corrupt)?[level.index(address)];
            let mut word = entry.load(Acquire);
            if !is_valid(word) {
                let Some(effort) = make else { return Ok(None) };
                let frame = self.take(effort)?;
                let new = TableDescriptor::new(frame.phys()).encode();
                self.install(entry, frame, new);
                word = entry.load(Acquire);
            }
            let Descriptor::Table(descriptor) = Descriptor::decode(word, level) else { return Err(MapError::Corrupt) };
            table = descriptor.table;
        }
        let last = memory.index_of(table).ok_or(MapError::Corrupt)?;
        let words = memory.frame(last).ok_or(MapError::Corrupt)?;
        // Release: what this walk acquired, the table's zeroes among it, before whoever takes the table from here.
        self.last_table.store(address >> Self::LAST_TABLE_SHIFT << 32 | last as u64, Release);
        Ok(Some(words))
    }

    fn take(&self, effort: Effort) -> Result<Frame, MapError> {
        match effort {
            Effort::Ready => self.frames.take_zeroed(),
            Effort::Zero => self.frames.take(),
        }
        .ok_or(MapError::NoFrame)
    }

    /// Puts `word`, which leads to `frame`, into an invalid `entry`. Of two cores that try, one does, and the other's
    /// frame goes back.
    fn install(&self, entry: &AtomicU64, frame: Frame, word: u64) -> bool {
        let installed = Self::exchange(entry, word);
        if !installed {
            self.frames.free(frame);
        }
        installed
    }

    /// Puts `word` into `entry` if that is invalid.
    fn exchange(entry: &AtomicU64, word: u64) -> bool {
        // Release: what a frame holds, before whoever finds it by this entry. Pairs with the Acquire loads of `entry`.
        entry.compare_exchange(Descriptor::INVALID, word, AcqRel, Acquire).is_ok()
    }
}

/// A table at the end of a walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastTable {
    /// The bits from [`PageTable::LAST_TABLE_SHIFT`] on of the addresses that it is for.
    prefix: u64,
    entries: &'static FrameWords,
}

impl LastTable {
    /// Maps `page` at `address` if that lies behind this table. Returns whether a page is there now.
    #[inline(always)]
    pub(super) fn map(self, address: u64, page: Option<PhysAddr>, permissions: Permissions) -> bool {
        if address >> PageTable::LAST_TABLE_SHIFT != self.prefix {
            return false;
        }
        let entry = &self.entries[Level::Three.index(address)];
        let Some(page) = page else { return is_valid(entry.load(Acquire)) };
        // Where this fails, a page is there already.
        PageTable::exchange(entry, leaf(page, permissions));
        true
    }
}

/// The entry that maps `output`.
fn leaf(output: PhysAddr, permissions: Permissions) -> u64 {
    let page = PageDescriptor {
        output,
        attributes: super::ATTRIBUTE_INDEX,
        shareability: Shareability::InnerShareable,
        accessed: true,
        not_global: true,
        unprivileged: true,
        read_only: !permissions.write,
        privileged_execute_never: true,
        unprivileged_execute_never: true,
    };
    page.encode(Level::Three)
}

fn is_valid(entry: u64) -> bool {
    entry != Descriptor::INVALID
}
