//! An SMMU without engines: accesses with any attributes, ATS requests and page requests, straight into it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::{String, ToString};
use std::vec::Vec;

use super::bench::*;
use super::watched::Watched;
use crate::model::endpoint::{Completion, Endpoints, GroupResponse, Invalidated, Invalidation, Response, Transaction};
use crate::model::machine::Width;
use crate::model::memory::Memory;
use crate::model::profile::Profile;
use crate::model::smmu::strict::Violation;
use crate::model::smmu::{Issued, Polled, Slot, Smmu, diagnostics};
use crate::smmuv3::features::IdRegisters;
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{Access, PhysAddr, PrgIndex, StreamId, SubstreamId};

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

// Actions of CMD_RESUME (4.7.1): the bits Ac and Ab.
pub(super) const RAZ_WI: u64 = 0;
pub(super) const RETRY: u64 = 1;
pub(super) const ABORT: u64 = 2;

// Word 1 of a record of a translation-related fault (7.3.13): Stall, S2, and CLASS = TT or IN.
pub(super) const STALL: u64 = 1 << 31;
pub(super) const S2: u64 = 1 << 39;
pub(super) const TT: u64 = 1 << 40;
pub(super) const IN: u64 = 2 << 40;

/// The STAG of a stall record.
#[track_caller]
pub(super) fn stag(record: [u64; 4]) -> u64 {
    assert_eq!(record[1] & STALL, STALL, "not a stall: {record:x?}");
    record[1] & 0xffff
}

/// A record without its STAG.
pub(super) fn untagged(record: [u64; 4]) -> [u64; 4] {
    [record[0], record[1] & !0xffff, record[2], record[3]]
}

/// What a translation request gets of a page that grants nothing.
pub(super) const NOTHING: Completion =
    Completion::Success { page: PhysAddr(0), span: 12, read: false, write: false, execute: false, privileged: false };

// What a poll of a stalled access finds: it ends with an abort, it still stalls, its record was written just now.
pub(super) const ABORTED: Polled = Polled::Ended(Response::Abort);
pub(super) const WAITS: Polled = Polled::Stalled { recorded: false };
pub(super) const RECORDED: Polled = Polled::Stalled { recorded: true };

/// It ends at this physical address.
pub(super) fn through(physical: u64) -> Polled {
    Polled::Ended(Response::Physical(PhysAddr(physical)))
}

/// The slot of an access that stalls, and whether a record was written for it.
#[track_caller]
pub(super) fn stalls(issued: Issued) -> (Slot, bool) {
    match issued {
        Issued::Stalled { slot, recorded } => (slot, recorded),
        other => panic!("{other:?}"),
    }
}

/// Where the stage 2 leaf of `ipa` lies.
pub(super) fn leaf2(ipa: u64) -> u64 {
    STAGE2_PAGES + (ipa >> 12) * 8
}

/// The messages that devices got.
#[derive(Default)]
pub(super) struct Devices {
    pub(super) invalidations: Vec<Invalidation>,
    pub(super) responses: Vec<GroupResponse>,
    /// One of them has an invalidation to complete.
    pub(super) invalidating: bool,
}

impl Endpoints for Devices {
    fn is_ats_enabled(&self) -> bool {
        false
    }

    fn invalidate(&mut self, invalidation: &Invalidation) -> Invalidated {
        self.invalidations.push(*invalidation);
        Invalidated::Completed
    }

    fn is_invalidating(&self) -> bool {
        self.invalidating
    }

    fn respond(&mut self, response: &GroupResponse) -> bool {
        self.responses.push(*response);
        false
    }
}

pub(super) struct Direct {
    smmu: Smmu,
    pub(super) memory: Watched,
    pub(super) raised: Raised,
    pub(super) devices: Devices,
}

impl Direct {
    fn around(smmu: Smmu) -> Self {
        let memory = Watched::new();
        Self { smmu, memory, raised: Raised::default(), devices: Devices::default() }
    }

    /// An SMMU with its queues and a linear table of 512 STEs, all enabled with the fields `cr0`, and the fields `cr2`
    /// beside RECINVSID. Stage 2 maps the second GiB, where all memory is, to itself.
    pub(super) fn enabled(cr0: u32, cr2: u32) -> Self {
        let mut direct = Self::around(Smmu::new());
        direct.set_up(cr2);
        direct.enable(cr0);
        direct
    }

    /// One whose stream stalls at stage 1, with nothing mapped and these switches of the model
    /// ([`control`](crate::model::smmu::diagnostics::control)).
    pub(super) fn stalling(switches: u32) -> Self {
        let mut direct = Self::enabled(ALL_ON, 0);
        direct.write(diagnostics::CONTROL as u64, switches);
        direct.stage1(0, CD_S | CD_A);
        direct.leaf_at(0);
        direct
    }

    /// The same with a stall at 0x5008 whose record waits for the event queue, which is disabled.
    pub(super) fn waiting() -> (Self, Slot) {
        let mut direct = Self::stalling(0);
        direct.enable(ALL_ON & !4);
        let slot = direct.stall_unseen(0x5008, WRITE);
        (direct, slot)
    }

    /// One of `profile`, with all enabled that it has.
    pub(super) fn profile(profile: Profile) -> Self {
        let mut smmu = Smmu::new();
        smmu.reset(profile);
        Self::started(smmu)
    }

    /// One with these ID registers.
    pub(super) fn with_ids(ids: IdRegisters) -> Self {
        Self::started(Smmu::with_ids(ids))
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

    /// One with its tables and queues set up, and not enabled.
    pub(super) fn off(cr2: u32) -> Self {
        Self::of(Profile::Full, cr2)
    }

    /// The same of `profile`.
    pub(super) fn of(profile: Profile, cr2: u32) -> Self {
        let mut smmu = Smmu::new();
        smmu.reset(profile);
        let mut direct = Self::around(smmu);
        direct.set_up(cr2);
        direct
    }

    fn started(smmu: Smmu) -> Self {
        let mut direct = Self::around(smmu);
        direct.set_up(0);
        direct.write(CR0, ALL_ON);
        direct.step();
        direct
    }

    fn set_up(&mut self, cr2: u32) {
        self.write(REGISTER_POISON, UNKNOWN);
        for (offset, value) in DOUBLE {
            self.write64(offset, value);
        }
        for (offset, value) in WORD {
            self.write(offset, value);
        }
        self.write(CR2, 2 | cr2);
        self.step();
        self.poke(STAGE2, (STAGE2 + 0x1000) | 3);
        self.poke(STAGE2 + 8, 0x4000_0000 | BLOCK_RW);
        self.poke(STAGE2 + 0x1000, STAGE2_PAGES | 3);
    }

    /// Sets CR0 and lets it take effect.
    #[track_caller]
    pub(super) fn enable(&mut self, cr0: u32) {
        self.write(CR0, cr0);
        self.step();
        assert_eq!(self.read(CR0ACK), cr0);
    }

    /// From now on the SMMU's reads of this range, and of no other, are aborted.
    pub(super) fn refuse_reads(&self, range: Range<u64>) {
        self.memory.refused_reads.replace(range);
    }

    /// From now on the SMMU's writes to this range, and to no other, are aborted.
    pub(super) fn refuse_writes(&self, range: Range<u64>) {
        self.memory.refused_writes.replace(range);
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

    pub(super) fn control(&self, offset: u64) -> u32 {
        self.smmu.read_control(offset as usize)
    }

    /// Writes a register of the control page.
    pub(super) fn set_control(&mut self, offset: u64, value: u32) {
        self.smmu.write_control(offset as usize, value);
    }

    /// The first mistake that strict mode has found since the last call.
    pub(super) fn take_violation(&mut self) -> Option<Violation> {
        self.smmu.take_violation()
    }

    /// What led to the first mistake.
    pub(super) fn story(&self) -> Option<String> {
        self.smmu.violation().map(|story| story.to_string())
    }

    /// Lets the SMMU do what `act` asks of it up to the moment when it is about to write the word at `address`, or to pulse
    /// a wire if there is none: from then on its registers and memory can be looked at as they are at that moment.
    #[track_caller]
    pub(super) fn moment(&mut self, address: Option<u64>, act: impl FnOnce(&mut Self)) {
        self.memory.stops_at.set(address);
        self.raised.stops = address.is_none();
        assert!(catch_unwind(AssertUnwindSafe(|| act(self))).is_err(), "the moment never came");
        self.memory.stops_at.set(None);
        self.raised.stops = false;
    }

    pub(super) fn step(&mut self) {
        while self.tick() {}
    }

    /// One tick. Whether there was anything to do.
    pub(super) fn tick(&mut self) -> bool {
        self.smmu.step(&self.memory, &mut self.raised, &mut self.devices)
    }

    pub(super) fn peek(&self, address: u64) -> u64 {
        self.memory.inner.read64(PhysAddr(address)).unwrap()
    }

    pub(super) fn poke(&self, address: u64, value: u64) {
        self.memory.inner.write64(PhysAddr(address), value).unwrap();
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

    /// An access of another stream.
    pub(super) fn issue_from(&mut self, stream: u64, address: u64, access: Access) -> Issued {
        let transaction = Transaction { stream: StreamId(stream as u32), ..Self::transaction(address, access, None) };
        self.smmu.access(&transaction, &self.memory, &mut self.raised)
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

    /// Where an access of another stream ends.
    #[track_caller]
    pub(super) fn reaches_from(&mut self, stream: u64, address: u64, access: Access) -> u64 {
        match self.issue_from(stream, address, access) {
            Issued::Ended(Response::Physical(PhysAddr(physical))) => physical,
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
        self.translated_with(address, access, None)
    }

    /// The same with a PASID.
    pub(super) fn translated_with(&mut self, address: u64, access: Access, pasid: Option<u32>) -> Response {
        self.smmu.translated(&Self::transaction(address, access, pasid), &self.memory, &mut self.raised)
    }

    /// A page request, or a Stop marker, of `stream`. Returns the automatic response, if there is one.
    pub(super) fn page_request(
        &mut self,
        stream: u64,
        pasid: Option<u32>,
        access: Access,
        last: bool,
        group: u64,
    ) -> Option<GroupResponse> {
        let request = PageRequest {
            stream: StreamId(stream as u32),
            substream: pasid.and_then(SubstreamId::new),
            access,
            last,
            group: PrgIndex::from_low_bits(group),
            address: 0x5000,
        };
        self.smmu.page_request(&request, &self.memory, &mut self.raised)
    }

    /// The PRI records from `PRIQ_CONS` on; moves CONS to PROD, with OVACKFLG.
    pub(super) fn take_page_requests(&mut self) -> Vec<[u64; 2]> {
        let (prod, mut cons) = (self.read(PRIQ_PROD), self.read(PRIQ_CONS));
        let mut records = Vec::new();
        while (prod ^ cons) & 0x1f != 0 {
            let at = PAGE_REQUESTS + u64::from(cons & 0xf) * 16;
            records.push([0, 8].map(|word| self.peek(at + word)));
            cons = (cons + 1) & 0x1f;
        }
        self.write(PRIQ_CONS, prod);
        records
    }

    /// What a driver does after it changed STEs, CDs or tables: CMD_CFGI_ALL, CMD_TLBI_NSNH_ALL, CMD_TLBI_EL2_ALL
    /// (4.3.6, 4.4.4.1, 4.4.2.7), CMD_SYNC.
    pub(super) fn invalidate(&mut self) {
        for command in [[0x04, 31], [0x30, 0], [0x20, 0], [0x46, 0]] {
            self.command(command);
        }
    }

    /// CMD_RESUME.
    pub(super) fn resume(&mut self, stag: u64, action: u64) {
        self.command([0x44 | action << 12 | STREAM << 32, stag]);
    }

    /// Makes the stream abort, as 4.7.2.1 asks for before CMD_STALL_TERM.
    pub(super) fn abort_stream(&mut self) {
        self.set_ste(1, 0, 0);
        self.invalidate();
    }

    /// CMD_STALL_TERM.
    pub(super) fn stall_term(&mut self) {
        self.command([0x45 | STREAM << 32, 0]);
    }

    /// A write that stalls: its slot and its STAG.
    #[track_caller]
    pub(super) fn tagged(&mut self, address: u64) -> (Slot, u64) {
        let slot = self.stall(address, WRITE);
        (slot, stag(self.take_event()))
    }

    /// The slot of an access that stalls without a record.
    #[track_caller]
    pub(super) fn stall_unseen(&mut self, address: u64, access: Access) -> Slot {
        let (slot, recorded) = stalls(self.issue(address, access, None));
        assert!(!recorded);
        slot
    }

    /// Submits one command and lets the SMMU come to rest.
    pub(super) fn command(&mut self, words: [u64; 2]) {
        self.submit(words);
        self.step();
    }

    /// Puts one command into the queue.
    pub(super) fn submit(&mut self, words: [u64; 2]) {
        let prod = self.read(CMDQ_PROD);
        let slot = COMMANDS + u64::from(prod & 0xf) * 16;
        self.poke(slot, words[0]);
        self.poke(slot + 8, words[1]);
        self.write(CMDQ_PROD, (prod + 1) & 0x1f);
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
