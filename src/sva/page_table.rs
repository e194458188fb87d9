//! Stage 1 page tables that an SMMU walks: 4 KiB granule, 39 bits of address, three levels.
//!
//! Entries change from invalid by compare-exchange, so cores map side by side without a lock. From invalid to valid needs
//! no TLB invalidation: a translation that faulted is not cached (Arm DDI 0487, D8.16).
//!
//! An SMMU whose accesses are not coherent finds an entry when it is cleaned, which who maps a page does, and who finds it mapped does too:
//! it may be before the other one, and says to the device that the page is there.

use alloc::sync::Arc;
use core::slice;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::address_space::{Effort, Region};
use super::frames::{Frame, FramePool, FrameWords};
use crate::smmuv3::descriptor::{Descriptor, InputSize, Level, PageDescriptor, TableDescriptor};
use crate::smmuv3::{Access, PhysAddr, Shareability};
use crate::sync::atomic::AtomicU64 as Word;
use crate::sync::mutant::mutant;

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
    last_table: LastTable,
}

/// The last table that a walk came to at the end: the number of its frame in bits 31:0, the bits above [`SHIFT`](Self::SHIFT) of the
/// addresses that it is for above.
#[derive(Debug)]
struct LastTable(Word);

impl LastTable {
    /// A table at the end of a walk is for the addresses that have the bits from here on in common.
    const SHIFT: u32 = Level::Two.shift();

    fn new() -> Self {
        Self(Word::new(u64::MAX))
    }

    /// The table on the way to `address` is in frame number `frame`.
    fn note(&self, address: u64, frame: usize) {
        // Release: what this walk acquired, the table's zeroes among it, before whoever takes the table from here.
        let order = if mutant!("last_table_relaxed") { Relaxed } else { Release };
        self.0.store(address >> Self::SHIFT << 32 | frame as u64, order);
    }

    /// The bits of the addresses that the table is for, and the number of its frame.
    #[inline(always)]
    fn get(&self) -> (u64, usize) {
        // Acquire: pairs with the Release in `note`. A table stays where it is as long as this one is used.
        let last = self.0.load(if mutant!("last_table_unread") { Relaxed } else { Acquire });
        (last >> 32, last as u32 as usize)
    }
}

impl PageTable {
    const SIZE: InputSize = match InputSize::new(super::T0SZ) {
        Some(size) => size,
        None => panic!("T0SZ is out of range"),
    };

    /// The levels whose entries lead to tables.
    const TABLE_LEVELS: [Level; 2] = [Level::One, Level::Two];

    /// Addresses below this can be mapped.
    pub(super) const REACH: u64 = 1 << Self::SIZE.bits();

    /// Pages below this physical address can be mapped: an entry holds bits 47:12 (Arm DDI 0487, D8.3).
    pub(super) const OUTPUT_REACH: u64 = 1 << 48;

    /// A table that maps nothing, or `None` without a frame for it.
    pub(super) fn new(frames: Arc<FramePool>) -> Option<Self> {
        Some(Self { root: frames.take()?, frames, last_table: LastTable::new() })
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
        let mapped = self.map_at(entry, page, permissions, effort);
        self.clean(entry);
        mapped
    }

    fn map_at(
        &self,
        entry: &AtomicU64,
        page: Option<PhysAddr>,
        permissions: Permissions,
        effort: Effort,
    ) -> Result<bool, MapError> {
        if is_valid(entry.load(Acquire)) {
            return Ok(false);
        }
        if let Some(page) = page {
            return Ok(Self::exchange(entry, leaf(page, permissions)));
        }
        match self.take(effort) {
            Some(frame) => {
                let leaf = leaf(frame.phys(), permissions);
                Ok(self.install(entry, frame, leaf))
            }
            // The last frame may have been taken for this very page.
            None if is_valid(entry.load(Acquire)) && !mutant!("page_not_looked_at_again") => Ok(false),
            None => Err(MapError::NoFrame),
        }
    }

    /// The table that the last walk came to, if there was one, and entries need not be cleaned.
    #[inline(always)]
    pub(super) fn table_at_hand(&self) -> Option<TableAtHand> {
        let (prefix, frame) = self.last_table.get();
        Some(TableAtHand { prefix, entries: self.frames.memory().frame(frame)? })
    }

    /// Takes the page at `address` out of the table, and returns whether one was there.
    pub(super) fn unmap(&self, address: u64) -> bool {
        // Relaxed: whoever finds the entry invalid reads nothing by it.
        let Some(table) = self.walk(address, None).ok().flatten() else { return false };
        let entry = &table[Level::Three.index(address)];
        let old = entry.swap(Descriptor::INVALID, Relaxed);
        self.clean(entry);
        is_valid(old)
    }

    /// Has the SMMU find what is in `entry`.
    fn clean(&self, entry: &AtomicU64) {
        self.frames.coherence().clean(slice::from_ref(entry));
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
                let frame = self.take(effort);
                let is_none = frame.is_none();
                if let Some(frame) = frame {
                    let new = TableDescriptor::new(frame.phys()).encode();
                    self.install(entry, frame, new);
                }
                word = entry.load(Acquire);
                // The last frame may have been taken for this very table.
                if !is_valid(word) || is_none && mutant!("table_not_looked_at_again") {
                    return Err(MapError::NoFrame);
                }
            }
            if make.is_some() {
                self.clean(entry);
            }
            let Descriptor::Table(descriptor) = Descriptor::decode(word, level) else { return Err(MapError::Corrupt) };
            table = descriptor.table;
        }
        let last = memory.index_of(table).ok_or(MapError::Corrupt)?;
        let words = memory.frame(last).ok_or(MapError::Corrupt)?;
        // What takes the table from there cleans nothing.
        if self.frames.coherence().is_coherent() {
            self.last_table.note(address, last);
        }
        Ok(Some(words))
    }

    /// A frame, to be [installed](Self::install) at once. After `None` an entry that the last one went into is valid.
    fn take(&self, effort: Effort) -> Option<Frame> {
        match effort {
            Effort::Ready => self.frames.try_zeroed(),
            Effort::Zero => self.frames.try_any(),
        }
    }

    /// Puts `word`, which leads to `frame`, into an invalid `entry`. Of two cores that try, one does, and the other's
    /// frame goes back. Only then is it in use: who finds no frame meanwhile waits for what becomes of this one.
    fn install(&self, entry: &AtomicU64, frame: Frame, word: u64) -> bool {
        let installed = Self::exchange(entry, word);
        if installed {
            self.frames.keep(&frame);
        } else {
            self.frames.give_back(frame);
        }
        installed
    }

    /// Puts `word` into `entry` if that is invalid.
    fn exchange(entry: &AtomicU64, word: u64) -> bool {
        // Release: what a frame holds, before whoever finds it by this entry. Pairs with the Acquire loads of `entry`.
        entry.compare_exchange(Descriptor::INVALID, word, AcqRel, Acquire).is_ok()
    }
}

/// The table that the last walk came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableAtHand {
    /// The bits from [`LastTable::SHIFT`] on of the addresses that it is for.
    prefix: u64,
    entries: &'static FrameWords,
}

impl TableAtHand {
    /// The entries for the addresses of `region`, whose first page [has](first_entry) the entry `first`, if there are any.
    #[inline(always)]
    pub(super) fn entries_of(self, region: &Region, first: u64) -> Option<Entries> {
        let table = self.prefix << LastTable::SHIFT;
        let start = region.start.max(table);
        let end = (region.start + region.bytes).min(table + (1 << LastTable::SHIFT));
        let page = |address: u64| (address.wrapping_sub(table) >> Level::Three.shift()) as usize;
        let entries = self.entries.get(page(start)..page(end))?;
        let first = if is_valid(first) { first + (start - region.start) } else { first };
        Some(Entries { start, entries, first })
    }
}

/// The entries of one table for one region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries {
    /// The address of the first one's page.
    start: u64,
    entries: &'static [AtomicU64],
    /// What the first one holds when its page is mapped, if the region has pages, else [`Descriptor::INVALID`].
    first: u64,
}

impl Entries {
    /// Whether the region has pages of its own for them.
    #[inline(always)]
    pub(super) fn have_pages(&self) -> bool {
        is_valid(self.first)
    }

    /// Maps the region's page for `address` there, unless one is. Returns whether one is there now.
    #[inline(always)]
    pub(super) fn map(self, address: u64) -> bool {
        let Some((distance, entry)) = self.entry(address) else { return false };
        // Where this fails, a page is there already.
        PageTable::exchange(entry, self.first + distance);
        true
    }

    /// Whether a page is there for `address`.
    #[inline(always)]
    pub(super) fn is_mapped(self, address: u64) -> bool {
        self.entry(address).is_some_and(|(_, entry)| is_valid(entry.load(Acquire)))
    }

    /// The entry for `address`, and how far its page is behind the first one's, in bytes.
    #[inline(always)]
    fn entry(self, address: u64) -> Option<(u64, &'static AtomicU64)> {
        let page = address.wrapping_sub(self.start) >> Level::Three.shift();
        Some((page << Level::Three.shift(), self.entries.get(page as usize)?))
    }
}

/// What the entry of the region's first page holds when it is mapped, or [`Descriptor::INVALID`] for a region without pages. Those of the
/// next pages follow, as an entry holds the address of its page in place, and a region's pages lie one after the other.
pub(super) fn first_entry(region: &Region) -> u64 {
    region.output(region.start).map_or(Descriptor::INVALID, |page| leaf(page, region.permissions))
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

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::cell::Cell;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::driver::dma::{Coherence, DmaMemory, DmaRegion, NoMemory};

    /// Six frames, which all executions share, zeroed.
    struct Memory;

    impl DmaMemory for Memory {
        fn allocate(&self, bytes: usize, _: usize) -> Result<DmaRegion, NoMemory> {
            static WORDS: [AtomicU64; 6 * 512] = [const { AtomicU64::new(0) }; 6 * 512];
            WORDS.iter().for_each(|word| word.store(0, Relaxed));
            Ok(DmaRegion { phys: PhysAddr(0x8000_0000), words: &WORDS[..bytes / 8] })
        }
    }

    /// One takes what is ready, in an interrupt; the other takes its time.
    #[test]
    fn of_two_that_race_for_the_last_frames_for_one_table_and_its_page_none_refuses() {
        loom::model(|| {
            // The root, two tables and a page, and then as many as are wanted.
            let pool = std::sync::Arc::new(FramePool::new(&Memory, 4 + 2, Coherence::COHERENT).unwrap());
            let table = Arc::new(PageTable::new(pool).unwrap());
            assert_eq!(table.map(0x1000, None, Permissions::READ, Effort::Ready), Ok(true));
            let first = thread::spawn({
                let table = table.clone();
                move || table.map(0x20_0000, None, Permissions::READ, Effort::Ready)
            });
            let here = table.map(0x20_0000, None, Permissions::READ, Effort::Zero);
            // The first may leave its page to a worker.
            let there = first.join().unwrap();
            assert!(matches!(here, Ok(_)) && matches!(there, Ok(_) | Err(MapError::NoFrame)), "{here:?} {there:?}");
            assert_eq!(table.pages(), 2);
        });
    }

    #[test]
    fn who_takes_a_table_from_the_last_walk_finds_it_as_that_walk_did() {
        loom::model(|| {
            // What is in frame 3, which loom watches.
            let shared = Arc::new((LastTable::new(), Cell::new(7)));
            let walk = thread::spawn({
                let shared = shared.clone();
                move || {
                    shared.1.set(0);
                    shared.0.note(0x20_1000, 3);
                }
            });
            // Offers loom the schedules in which the walk is over.
            thread::yield_now();
            if let (1, frame) = shared.0.get() {
                assert_eq!((frame, shared.1.get()), (3, 0));
            }
            walk.join().unwrap();
        });
    }
}
