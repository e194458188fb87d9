//! An SMMU without engines: accesses with any attributes, and ATS requests, straight into it.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::vec::Vec;

use super::bench::*;
use crate::model::endpoint::{Completion, Endpoints, GroupResponse, Invalidation, Response, Transaction};
use crate::model::host::HostMemory;
use crate::model::machine::Width;
use crate::model::memory::{Abort, Memory};
use crate::model::profile::Profile;
use crate::model::smmu::{Issued, Polled, Slot, Smmu};
use crate::smmuv3::{Access, PhysAddr, StreamId, SubstreamId};

/// The stream of all accesses, and the same in word 0 of a record.
pub(super) const STREAM: u64 = 0x100;

/// The level 1 table of stage 2, the level 2 table for its first GiB, and the level 3 table for the first 2 MiB.
pub(super) const STAGE2: u64 = 0x4018_0000;
/// The level 3 table of stage 2.
pub(super) const STAGE2_PAGES: u64 = STAGE2 + 0x2000;
/// Stage 2 leaf flags: valid block, all memory attributes normal, reads and writes, inner shareable, Access flag.
pub(super) const BLOCK_RW: u64 = 0x7fd;
/// The same for a page.
pub(super) const S2_RW: u64 = 0x7ff;

// The IPAs of `nested_in_pages`.
pub(super) const IPA_OF_CD: u64 = 0xa000;
pub(super) const IPA_OF_TABLE: u64 = 0xb000;
pub(super) const IPA_OF_PAGE: u64 = 0x9000;

/// Word 2 of an STE (5.2): VMID 7, S2T0SZ 25, S2SL0 1, write-back, inner shareable, 4 KiB, S2PS 48 bits, S2AA64.
pub(super) const STE2: u64 = 0x000d_3559_0000_0007;
pub(super) const S2PTW: u64 = 1 << 54;
pub(super) const S2HD: u64 = 1 << 55;
pub(super) const S2HA: u64 = 1 << 56;
pub(super) const S2S: u64 = 1 << 57;
pub(super) const S2R: u64 = 1 << 58;

pub(super) const READ: Access = Access::READ;
pub(super) const WRITE: Access = Access::WRITE;
pub(super) const FETCH: Access = Access { read: false, write: false, execute: true, privileged: false };

/// This access, privileged.
pub(super) fn privileged(access: Access) -> Access {
    Access { privileged: true, ..access }
}

/// Where the stage 2 leaf of `ipa` lies.
pub(super) fn leaf2(ipa: u64) -> u64 {
    STAGE2_PAGES + (ipa >> 12) * 8
}

struct Nobody;

impl Endpoints for Nobody {
    fn invalidate(&mut self, _: &Invalidation) -> bool {
        true
    }

    fn is_invalidating(&self) -> bool {
        false
    }

    fn respond(&mut self, _: &GroupResponse) -> bool {
        false
    }
}

/// Memory of which some refuses the SMMU's reads or writes.
struct Guarded {
    memory: HostMemory,
    reads: RefCell<Range<u64>>,
    writes: RefCell<Range<u64>>,
    refused: Cell<u32>,
}

impl Guarded {
    fn new() -> Self {
        let memory = HostMemory::new((END - 0x4000_0000) as usize);
        Self { memory, reads: RefCell::default(), writes: RefCell::default(), refused: Cell::default() }
    }

    /// The memory, unless an access of one of these ranges touches `address`.
    fn pass(&self, PhysAddr(address): PhysAddr, refused: &[&RefCell<Range<u64>>]) -> Result<&HostMemory, Abort> {
        if refused.iter().any(|range| range.borrow().contains(&address)) {
            self.refused.set(self.refused.get() + 1);
            return Err(Abort);
        }
        Ok(&self.memory)
    }
}

impl Memory for Guarded {
    fn read64(&self, address: PhysAddr) -> Result<u64, Abort> {
        self.pass(address, &[&self.reads])?.read64(address)
    }

    fn write64(&self, address: PhysAddr, value: u64) -> Result<(), Abort> {
        self.pass(address, &[&self.writes])?.write64(address, value)
    }

    fn write32(&self, address: PhysAddr, value: u32) -> Result<(), Abort> {
        self.pass(address, &[&self.writes])?.write32(address, value)
    }

    fn compare_exchange64(&self, address: PhysAddr, expected: u64, new: u64) -> Result<u64, Abort> {
        self.pass(address, &[&self.reads, &self.writes])?.compare_exchange64(address, expected, new)
    }

    fn read(&self, address: PhysAddr, bytes: &mut [u8]) -> Result<(), Abort> {
        self.pass(address, &[&self.reads])?.read(address, bytes)
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), Abort> {
        self.pass(address, &[&self.writes])?.write(address, bytes)
    }
}

pub(super) struct Direct {
    smmu: Smmu,
    memory: Guarded,
    raised: Raised,
}

impl Direct {
    /// An SMMU with its queues and a linear table of 512 STEs, all enabled with the fields `cr0`, and the fields `cr2`
    /// beside RECINVSID. Stage 2 maps the second GiB, where all memory is, to itself.
    pub(super) fn enabled(cr0: u32, cr2: u32) -> Self {
        let mut direct = Self::off(cr2);
        direct.enable(cr0);
        direct
    }

    /// Enables one that is off with the fields `cr0`, with the stage 2 tables of [`enabled`](Self::enabled).
    pub(super) fn enable(&mut self, cr0: u32) {
        self.write(CR0, cr0);
        self.step();
        self.poke(STAGE2, (STAGE2 + 0x1000) | 3);
        self.poke(STAGE2 + 8, 0x4000_0000 | BLOCK_RW);
        self.poke(STAGE2 + 0x1000, STAGE2_PAGES | 3);
    }

    /// Both stages, where stage 2 maps in pages of their own all that it translates for 0x5008: the CD at [`IPA_OF_CD`],
    /// the stage 1 leaf at [`IPA_OF_TABLE`], and the page at [`IPA_OF_PAGE`] to [`DATA`]. S2PS is 40 bits. `word2` is
    /// beside S2R, and `cd` are the CD's flags.
    pub(super) fn nested_in_pages(word2: u64, cd: u64) -> Self {
        let direct = Self::enabled(ALL_ON, 0);
        direct.set_ste(0xf | IPA_OF_CD | 0x40, STE1, STE2 & !(7 << 48) | 2 << 48 | S2R | word2);
        direct.poke(CDS + 0x48, TABLES);
        direct.poke(CDS + 0x40, CD0 | cd);
        direct.map(0x5000, IPA_OF_PAGE, PAGE_RW);
        direct.poke(TABLES + 0x1000, IPA_OF_TABLE | 3);
        for (ipa, output) in [(IPA_OF_CD, CDS), (IPA_OF_TABLE, TABLES + 0x2000), (IPA_OF_PAGE, DATA)] {
            direct.map2(ipa, output, S2_RW);
        }
        direct
    }

    /// The same before it is enabled, its memory empty.
    pub(super) fn off(cr2: u32) -> Self {
        Self::of(Profile::Full, cr2)
    }

    /// The same of `profile`.
    pub(super) fn of(profile: Profile, cr2: u32) -> Self {
        let mut direct = Self { smmu: Smmu::new(), memory: Guarded::new(), raised: Raised::default() };
        direct.smmu.reset(profile);
        direct.write64(STRTAB_BASE, STREAMS);
        direct.write(STRTAB_BASE_CFG, 9);
        direct.write(CR2, 2 | cr2);
        direct.write64(CMDQ_BASE, COMMANDS | 4);
        direct.write64(EVENTQ_BASE, EVENTS | 4);
        direct
    }

    /// From now on the SMMU's reads of this range, and of no other, are aborted.
    pub(super) fn refuse_reads(&self, range: Range<u64>) {
        self.memory.reads.replace(range);
    }

    /// From now on the SMMU's writes to this range, and to no other, are aborted.
    pub(super) fn refuse_writes(&self, range: Range<u64>) {
        self.memory.writes.replace(range);
    }

    /// How many accesses were aborted so.
    pub(super) fn refused(&self) -> u32 {
        self.memory.refused.get()
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) {
        self.smmu.write(offset as usize, Width::Word, value.into());
    }

    pub(super) fn write64(&mut self, offset: u64, value: u64) {
        self.smmu.write(offset as usize, Width::Double, value);
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        self.smmu.read(offset as usize, Width::Word) as u32
    }

    pub(super) fn step(&mut self) {
        while self.smmu.step(&self.memory, &mut self.raised, &mut Nobody) {}
    }

    pub(super) fn peek(&self, address: u64) -> u64 {
        self.memory.memory.read64(PhysAddr(address)).unwrap()
    }

    pub(super) fn poke(&self, address: u64, value: u64) {
        self.memory.memory.write64(PhysAddr(address), value).unwrap();
    }

    /// Writes the STE: words 0 and 1, and word 2 with the stage 2 tables.
    pub(super) fn set_ste(&self, word0: u64, word1: u64, word2: u64) {
        for (word, value) in [word0, word1, word2, STAGE2].into_iter().enumerate() {
            self.poke(STREAMS + STREAM * 64 + word as u64 * 8, value);
        }
    }

    /// The STE for both stages with one CD, the CD at [`CDS`], and stage 1 tables at [`TABLES`].
    pub(super) fn nest(&self, word1: u64, word2: u64, cd: u64) {
        self.set_ste(0xf | CDS, STE1 | word1, STE2 | word2);
        self.set_cd(cd, TABLES);
    }

    /// The STE for stage 1 alone.
    pub(super) fn stage1(&self, word1: u64, cd: u64) {
        self.set_ste(STE0_STAGE1 | CDS, STE1 | word1, 0);
        self.set_cd(cd, TABLES);
    }

    pub(super) fn set_cd(&self, flags: u64, table: u64) {
        self.poke(CDS + 8, table);
        self.poke(CDS + 24, 0xff);
        self.poke(CDS, CD0 | flags);
    }

    /// Where the stage 1 leaf of `address`, below 2 MiB, lies; makes the tables above it.
    pub(super) fn leaf_at(&self, address: u64) -> u64 {
        self.poke(TABLES, (TABLES + 0x1000) | 3);
        self.poke(TABLES + 0x1000, (TABLES + 0x2000) | 3);
        TABLES + 0x2000 + (address >> 12) * 8
    }

    /// Maps the page at `address`, below 2 MiB, at stage 1.
    pub(super) fn map(&self, address: u64, output: u64, flags: u64) {
        self.poke(self.leaf_at(address), output | flags);
    }

    /// Maps the page at `ipa`, below 2 MiB, at stage 2.
    pub(super) fn map2(&self, ipa: u64, output: u64, flags: u64) {
        self.poke(leaf2(ipa), output | flags);
    }

    /// Changes the stage 2 leaf of `ipa`.
    pub(super) fn change2(&self, ipa: u64, change: impl Fn(u64) -> u64) {
        self.poke(leaf2(ipa), change(self.peek(leaf2(ipa))));
    }

    /// Writes one word of the STE.
    pub(super) fn set_ste_word(&self, word: u64, value: u64) {
        self.poke(STREAMS + STREAM * 64 + word * 8, value);
    }

    fn transaction(address: u64, access: Access, substream: Option<u32>) -> Transaction {
        let substream = substream.and_then(SubstreamId::new);
        Transaction { stream: StreamId(STREAM as u32), substream, address, access }
    }

    pub(super) fn issue(&mut self, address: u64, access: Access, substream: Option<u32>) -> Issued {
        self.smmu.access(&Self::transaction(address, access, substream), &self.memory, &mut self.raised)
    }

    /// An access that does not stall.
    #[track_caller]
    pub(super) fn access(&mut self, address: u64, access: Access) -> Response {
        match self.issue(address, access, None) {
            Issued::Ended(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// Where the access ends.
    #[track_caller]
    pub(super) fn reaches(&mut self, address: u64, access: Access) -> u64 {
        match self.access(address, access) {
            Response::Physical(PhysAddr(physical)) => physical,
            other => panic!("{other:?}: {:x?}", self.take_events()),
        }
    }

    /// The record of an access that is aborted.
    #[track_caller]
    pub(super) fn fault(&mut self, address: u64, access: Access) -> [u64; 4] {
        assert_eq!(self.access(address, access), Response::Abort);
        self.take_event()
    }

    /// The slot of an access that stalls and is recorded.
    #[track_caller]
    pub(super) fn stall(&mut self, address: u64, access: Access) -> Slot {
        match self.issue(address, access, None) {
            Issued::Stalled { slot, recorded: true } => slot,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn poll(&mut self, slot: Slot) -> Polled {
        self.smmu.poll(slot, &self.memory, &mut self.raised)
    }

    pub(super) fn request(&mut self, address: u64, access: Access, substream: Option<u32>) -> Completion {
        let transaction = Self::transaction(address, access, substream);
        self.smmu.translation_request(&transaction, &self.memory, &mut self.raised)
    }

    pub(super) fn translated(&mut self, address: u64, access: Access) -> Response {
        self.smmu.translated(&Self::transaction(address, access, None), &self.memory, &mut self.raised)
    }

    /// Submits one command.
    pub(super) fn command(&mut self, words: [u64; 2]) {
        let prod = self.read(CMDQ_PROD);
        let slot = COMMANDS + u64::from(prod & 0xf) * 16;
        self.poke(slot, words[0]);
        self.poke(slot + 8, words[1]);
        self.write(CMDQ_PROD, (prod + 1) & 0x1f);
        self.step();
    }

    /// What a driver does after it changed what may be cached: CFGI_ALL, TLBI_EL2_ALL, TLBI_NSNH_ALL, SYNC (4.3, 4.4).
    pub(super) fn forget(&mut self) {
        for command in [[0x04, 31], [0x20, 0], [0x30, 0], [0x46, 0]] {
            self.command(command);
        }
    }

    pub(super) fn take_events(&mut self) -> Vec<[u64; 4]> {
        let (prod, mut cons) = (self.read(EVENTQ_PROD), self.read(EVENTQ_CONS));
        let mut records = Vec::new();
        while (prod ^ cons) & 0x1f != 0 {
            let at = EVENTS + u64::from(cons & 0xf) * 32;
            records.push([0, 8, 16, 24].map(|word| self.peek(at + word)));
            cons = (cons + 1) & 0x1f;
        }
        self.write(EVENTQ_CONS, prod);
        records
    }

    #[track_caller]
    pub(super) fn take_event(&mut self) -> [u64; 4] {
        let records = self.take_events();
        assert_eq!(records.len(), 1, "{records:x?}");
        records[0]
    }
}
