//! Address spaces made by hand, and handlers that page into them.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::{iter, slice};

use smmu_iopf::driver::dma::DmaRegion;
use smmu_iopf::driver::{Context, Stage2, Tag, Translation};
use smmu_iopf::iopf::{Fault, FaultGroup, FaultHandler, Verdict};
use smmu_iopf::smmuv3::event::StallRun;
use smmu_iopf::smmuv3::{Asid, PageResponse, SubstreamId, Vmid};
use smmu_iopf::sync::Masked;
use spin::Mutex;

use super::machine::MachineMemory;
use super::{Bench, coherence, zeroed};

/// An address space, or the memory of a virtual machine: tables for 39 address bits, or as many as there are, and the pages mapped, made
/// by hand.
pub(crate) struct Space {
    memory: Arc<MachineMemory>,
    root: DmaRegion,
    pub(crate) tag: Tag,
    ipa_bits: u8,
    tables: Mutex<BTreeMap<u64, DmaRegion>>,
    pages: Mutex<BTreeMap<u64, DmaRegion>>,
}

/// Leaf flags: valid page, Access flag, inner shareable, unprivileged, not global; read-only with bit 7.
const PAGE: u64 = 0xf43;

/// The same at stage 2: write-back memory, read and write.
const STAGE2_PAGE: u64 = 0x7ff;

impl Space {
    pub(crate) fn new(bench: &Bench, asid: u16) -> Arc<Self> {
        Self::on(bench.machine.memory().clone(), asid)
    }

    pub(crate) fn on(memory: Arc<MachineMemory>, asid: u16) -> Arc<Self> {
        Self::tagged(memory, Tag::AddressSpace(Asid(asid)), 0)
    }

    /// The memory of a virtual machine.
    pub(crate) fn machine(bench: &Bench, vmid: u16) -> Arc<Self> {
        let ipa_bits = bench.smmu.features().ias().min(39);
        Self::tagged(bench.machine.memory().clone(), Tag::VirtualMachine(Vmid(vmid)), ipa_bits)
    }

    pub(crate) fn tagged(memory: Arc<MachineMemory>, tag: Tag, ipa_bits: u8) -> Arc<Self> {
        let root = zeroed(&memory, 4096, 4096);
        Arc::new(Self { memory, root, tag, ipa_bits, tables: Mutex::default(), pages: Mutex::default() })
    }

    /// AttrIndx 0 is write-back memory.
    pub(crate) fn context(&self) -> Context {
        let Tag::AddressSpace(asid) = self.tag else { panic!("a virtual machine") };
        Context { table: self.root.phys, asid, t0sz: 25, mair: 0xff }
    }

    pub(crate) fn stage2(&self) -> Stage2 {
        let Tag::VirtualMachine(vmid) = self.tag else { panic!("an address space") };
        Stage2 { table: self.root.phys, vmid, ipa_bits: self.ipa_bits }
    }

    /// How a stream goes through it.
    pub(crate) fn translation(&self) -> Translation {
        match self.tag {
            Tag::AddressSpace(_) => self.context().into(),
            Tag::VirtualMachine(_) => Translation::Stage2(self.stage2()),
        }
    }

    /// Maps the page of `address` to zeroed memory, if it is not mapped.
    pub(crate) fn map(&self, address: u64) {
        self.map_as(address, if matches!(self.tag, Tag::AddressSpace(_)) { PAGE } else { STAGE2_PAGE });
    }

    pub(crate) fn map_read_only(&self, address: u64) {
        self.map_as(address, PAGE | 0x80);
    }

    /// Maps the page of `address`, which is mapped, to other zeroed memory. What remembers the old one is the test's business.
    pub(crate) fn remap(&self, address: u64) {
        self.pages.lock().remove(&(address & !0xfff));
        self.map(address);
    }

    /// Takes the page of `address` away, until it is mapped again.
    pub(crate) fn hide(&self, address: u64) {
        let table = self.table(self.table(self.root, address, 30), address, 21);
        self.store(&table.words[index(address, 12)], 0);
    }

    fn map_as(&self, address: u64, flags: u64) {
        let page = address & !0xfff;
        let mut pages = self.pages.lock();
        let frame = *pages.entry(page).or_insert_with(|| zeroed(&self.memory, 4096, 4096));
        let leaf = self.table(self.table(self.root, address, 30), address, 21);
        self.store(&leaf.words[index(address, 12)], frame.phys.0 | flags);
    }

    /// Writes an entry, or data, as the SMMU has to find it.
    fn store(&self, word: &AtomicU64, value: u64) {
        word.store(value, Ordering::Release);
        coherence(&self.memory).clean(slice::from_ref(word));
    }

    fn table(&self, upper: DmaRegion, address: u64, shift: u32) -> DmaRegion {
        let mut tables = self.tables.lock();
        let entry = &upper.words[index(address, shift)];
        let key = upper.phys.0 + 8 * index(address, shift) as u64;
        *tables.entry(key).or_insert_with(|| {
            let table = zeroed(&self.memory, 4096, 4096);
            self.store(entry, table.phys.0 | 3);
            table
        })
    }

    /// How many pages are mapped.
    pub(crate) fn pages(&self) -> usize {
        self.pages.lock().len()
    }

    /// The word at `address`, 0 where nothing is mapped.
    pub(crate) fn word(&self, address: u64) -> u64 {
        let pages = self.pages.lock();
        pages.get(&(address & !0xfff)).map_or(0, |page| {
            let word = &page.words[(address as usize & 0xfff) / 8];
            coherence(&self.memory).invalidate(slice::from_ref(word));
            word.load(Ordering::Relaxed)
        })
    }

    pub(crate) fn set_word(&self, address: u64, value: u64) {
        let pages = self.pages.lock();
        self.store(&pages[&(address & !0xfff)].words[(address as usize & 0xfff) / 8], value);
    }
}

fn index(address: u64, shift: u32) -> usize {
    (address >> shift) as usize & 0x1ff
}

/// Demand paging over ranges: maps what is inside, refuses what is not, at once or later.
pub(crate) struct Pager {
    /// Where pages go, by substream.
    pub(crate) spaces: BTreeMap<Option<SubstreamId>, Arc<Space>>,
    pub(crate) valid: Range<u64>,
    pub(crate) defers: AtomicBool,
    /// How many of the first stalls of a run it serves at once, and how many it has.
    pub(crate) at_once: AtomicUsize,
    pub(crate) served: AtomicU64,
    pub(crate) deferred: Mutex<Vec<FaultGroup>>,
    pub(crate) groups: AtomicU64,
    pub(crate) faults: AtomicU64,
}

impl Pager {
    pub(crate) fn new(space: &Arc<Space>, valid: Range<u64>) -> Arc<Self> {
        Self::with(BTreeMap::from([(None, space.clone())]), valid)
    }

    pub(crate) fn with(spaces: BTreeMap<Option<SubstreamId>, Arc<Space>>, valid: Range<u64>) -> Arc<Self> {
        Arc::new(Self {
            spaces,
            valid,
            defers: AtomicBool::new(false),
            at_once: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            deferred: Mutex::default(),
            groups: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        })
    }

    /// The same, but every group is deferred.
    pub(crate) fn deferring(space: &Arc<Space>, valid: Range<u64>) -> Arc<Self> {
        let pager = Self::new(space, valid);
        pager.defers.store(true, Ordering::Relaxed);
        pager
    }

    pub(crate) fn resolve(&self, faults: impl Iterator<Item = Fault>) -> PageResponse {
        for fault in faults {
            match self.spaces.get(&fault.substream) {
                Some(space) if self.valid.contains(&fault.address) => space.map(fault.address),
                _ => return PageResponse::Invalid,
            }
        }
        PageResponse::Success
    }

    pub(crate) fn take(&self) -> Vec<FaultGroup> {
        core::mem::take(&mut *self.deferred.lock())
    }
}

impl FaultHandler for Pager {
    fn handle(&self, _: &Masked, faults: &[Fault]) -> Verdict {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.faults.fetch_add(faults.len() as u64, Ordering::Relaxed);
        if self.defers.load(Ordering::Relaxed) {
            return Verdict::Defer;
        }
        Verdict::Answer(self.resolve(faults.iter().copied()))
    }

    fn serve_at_once(&self, _: &Masked, stalls: StallRun<'_>) -> usize {
        let first = stalls.up_to(self.at_once.load(Ordering::Relaxed));
        let is_there = |stall| self.resolve(iter::once(Fault::from(&stall))) == PageResponse::Success;
        let served = first.count_while(is_there);
        for counter in [&self.groups, &self.faults, &self.served] {
            counter.fetch_add(served as u64, Ordering::Relaxed);
        }
        served
    }

    fn defer(&self, _: &Masked, group: FaultGroup) {
        self.deferred.lock().push(group);
    }
}
