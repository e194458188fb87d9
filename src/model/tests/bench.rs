//! A machine with memory, and the least that a driver does with it.

use std::boxed::Box;
use std::vec::Vec;

use crate::model::board;
use crate::model::engine::registers as reg;
use crate::model::host::HostMemory;
use crate::model::machine::{Machine, Width};
use crate::model::memory::Memory;
use crate::model::profile::Profile;
use crate::model::wire::{Wire, Wires};
use crate::smmuv3::PhysAddr;

// Register offsets (6.2.1, 6.2.2).
pub(super) const CR0: u64 = 0x20;
pub(super) const CR0ACK: u64 = 0x24;
pub(super) const CR1: u64 = 0x28;
pub(super) const CR2: u64 = 0x2c;
pub(super) const GBPA: u64 = 0x44;
pub(super) const IRQ_CTRL: u64 = 0x50;
pub(super) const IRQ_CTRLACK: u64 = 0x54;
pub(super) const GERROR: u64 = 0x60;
pub(super) const GERRORN: u64 = 0x64;
pub(super) const STRTAB_BASE: u64 = 0x80;
pub(super) const STRTAB_BASE_CFG: u64 = 0x88;
pub(super) const CMDQ_BASE: u64 = 0x90;
pub(super) const CMDQ_PROD: u64 = 0x98;
pub(super) const CMDQ_CONS: u64 = 0x9c;
pub(super) const EVENTQ_BASE: u64 = 0xa0;
pub(super) const EVENTQ_PROD: u64 = 0x100a8;
pub(super) const EVENTQ_CONS: u64 = 0x100ac;
pub(super) const PRIQ_BASE: u64 = 0xc0;
pub(super) const PRIQ_PROD: u64 = 0x100c8;
pub(super) const PRIQ_CONS: u64 = 0x100cc;

/// The control page.
const CONTROL: u64 = 0x0b08_0000;

// Where the bench puts things.
pub(super) const STREAMS: u64 = 0x4001_0000;
pub(super) const COMMANDS: u64 = 0x4008_0000;
pub(super) const EVENTS: u64 = 0x4009_0000;
pub(super) const PAGE_REQUESTS: u64 = 0x400a_0000;
pub(super) const CDS: u64 = 0x400b_0000;
/// Level 1 tables, one for each address space; the others follow.
pub(super) const TABLES: u64 = 0x400c_0000;
pub(super) const DATA: u64 = 0x4020_0000;
/// The end of memory.
pub(super) const END: u64 = 0x4040_0000;

/// Entries of the event queue and of the PRI queue.
pub(super) const ENTRIES: u32 = 16;

/// SMMUEN, PRIQEN, EVENTQEN, CMDQEN.
pub(super) const ALL_ON: u32 = 0xf;

// Words of an STE (5.2) for stage 1 with one CD: V, Config = 0b101. Word 1: SHCFG = incoming.
pub(super) const STE0_STAGE1: u64 = 0xb;
pub(super) const STE1: u64 = 1 << 44;
pub(super) const S1STALLD: u64 = 1 << 27;
pub(super) const EATS: u64 = 1 << 28;
pub(super) const PPAR: u64 = 1 << 18;

/// Word 0 of a CD (5.4): T0SZ = 25, 4 KiB, write-back, inner shareable, EPD1, V, IPS = 48 bits, AA64, ASET, ASID 1.
pub(super) const CD0: u64 = 0x0001_8205_c000_3519;
/// Fault flags of CD word 0: stall; record; abort.
pub(super) const CD_S: u64 = 1 << 44;
pub(super) const CD_R: u64 = 1 << 45;
pub(super) const CD_A: u64 = 1 << 46;

/// Leaf flags: valid page, Access flag, inner shareable, unprivileged access.
pub(super) const PAGE_RW: u64 = 0x743;
/// The same, read-only.
pub(super) const PAGE_RO: u64 = 0x7c3;

/// What the registers that reset leaves UNKNOWN follow from in these tests, and the register that fills them. ERR of CMDQ_CONS,
/// which nothing but the SMMU writes, comes out as 0.
pub(super) const UNKNOWN: u32 = 0xbad_0187;
pub(super) const REGISTER_POISON: u64 = 0xe7c;

/// What has to be written before anything is enabled, queues of 16 entries: 64-bit registers; the last three are the
/// addresses of messages, of which there are none (6.3.21, 6.3.30, 6.3.34).
pub(super) const DOUBLE: [(u64, u64); 7] = [
    (STRTAB_BASE, STREAMS),
    (CMDQ_BASE, COMMANDS | 4),
    (EVENTQ_BASE, EVENTS | 4),
    (PRIQ_BASE, PAGE_REQUESTS | 4),
    (0x68, 0),
    (0xb0, 0),
    (0xd0, 0),
];
/// Then 32-bit registers: memory is write-back and inner shareable, RECINVSID, a linear stream table of 512 entries, empty
/// queues, LO of the PRI queue 0, and bypass while SMMUEN is 0.
pub(super) const WORD: [(u64, u32); 11] = [
    (CR1, 0xd75),
    (CR2, 2),
    (STRTAB_BASE_CFG, 9),
    (CMDQ_PROD, 0),
    (CMDQ_CONS, 0),
    (EVENTQ_PROD, 0),
    (EVENTQ_CONS, 0),
    (PRIQ_PROD, 0),
    (PRIQ_CONS, 0),
    (0xdc, 0),
    (GBPA, 1 << 31),
];

#[derive(Default)]
pub(super) struct Raised {
    pub(super) wires: Vec<Wire>,
    /// WFE wake-up events.
    pub(super) events: u32,
    /// The next wire unwinds out of the SMMU, see [`Direct::moment`](super::direct::Direct::moment).
    pub(super) stops: bool,
}

impl Wires for Raised {
    fn raise(&mut self, wire: Wire) {
        if self.stops {
            std::panic::resume_unwind(Box::new(()));
        }
        self.wires.push(wire);
    }

    fn send_event(&mut self) {
        self.events += 1;
    }
}

pub(super) struct Bench {
    pub(super) machine: Box<Machine>,
    pub(super) memory: HostMemory,
    pub(super) raised: Raised,
    next_table: u64,
}

impl Bench {
    /// A machine after reset.
    pub(super) fn reset() -> Self {
        let memory = HostMemory::new((END - 0x4000_0000) as usize);
        let machine = Box::default();
        Self { machine, memory, raised: Raised::default(), next_table: TABLES + 0x10_0000 }
    }

    /// A machine of `profile` after reset.
    pub(super) fn of(profile: Profile) -> Self {
        Self::with(profile, 4)
    }

    /// A machine of `profile` with `engines` engines after reset.
    pub(super) fn with(profile: Profile, engines: usize) -> Self {
        let mut bench = Self::reset();
        bench.machine.reset(profile, engines);
        bench
    }

    /// A machine with its queues and a linear table of 512 STEs, all enabled, recording bad StreamIDs, interrupts on.
    pub(super) fn enabled() -> Self {
        Self::enabled_with(4)
    }

    /// The same with `engines` engines.
    pub(super) fn enabled_with(engines: usize) -> Self {
        let mut bench = Self::with(Profile::Full, engines);
        bench.set_up();
        bench.enable(ALL_ON);
        bench
    }

    pub(super) fn set_up(&mut self) {
        self.initialise();
        self.write(IRQ_CTRL, 7);
    }

    /// Writes all that has to be written before anything is enabled.
    pub(super) fn initialise(&mut self) {
        self.write(REGISTER_POISON, UNKNOWN);
        for (offset, value) in DOUBLE {
            self.write64(offset, value);
        }
        for (offset, value) in WORD {
            self.write(offset, value);
        }
        self.step();
    }

    pub(super) fn enable(&mut self, fields: u32) {
        self.write(CR0, fields);
        self.step();
        assert_eq!(self.read(CR0ACK), fields);
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        self.machine.read(board::SMMU_BASE + offset, Width::Word) as u32
    }

    pub(super) fn read64(&self, offset: u64) -> u64 {
        self.machine.read(board::SMMU_BASE + offset, Width::Double)
    }

    pub(super) fn write(&mut self, offset: u64, value: u32) {
        self.machine.write(board::SMMU_BASE + offset, Width::Word, value.into());
    }

    pub(super) fn write64(&mut self, offset: u64, value: u64) {
        self.machine.write(board::SMMU_BASE + offset, Width::Double, value);
    }

    pub(super) fn control(&self, offset: u64) -> u32 {
        self.machine.read(CONTROL + offset, Width::Word) as u32
    }

    pub(super) fn control64(&self, offset: u64) -> u64 {
        self.machine.read(CONTROL + offset, Width::Double)
    }

    /// Writes a register of the control page.
    pub(super) fn set_control(&mut self, offset: u64, value: u32) {
        self.machine.write(CONTROL + offset, Width::Word, value.into());
    }

    pub(super) fn step(&mut self) -> bool {
        self.machine.step(&self.memory, &mut self.raised)
    }

    /// Steps until nothing is left to do.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the machine does not come to rest");
    }

    pub(super) fn take_raised(&mut self) -> Vec<Wire> {
        core::mem::take(&mut self.raised.wires)
    }

    pub(super) fn peek(&self, address: u64) -> u64 {
        self.memory.read64(PhysAddr(address)).unwrap()
    }

    pub(super) fn poke(&self, address: u64, value: u64) {
        self.memory.write64(PhysAddr(address), value).unwrap();
    }

    /// Submits one command and lets the machine come to rest.
    pub(super) fn command(&mut self, words: [u64; 2]) {
        self.submit(words);
        self.run();
    }

    /// Puts one command into the queue.
    pub(super) fn submit(&mut self, words: [u64; 2]) {
        let prod = self.read(CMDQ_PROD);
        let slot = COMMANDS + u64::from(prod & 0xf) * 16;
        self.poke(slot, words[0]);
        self.poke(slot + 8, words[1]);
        self.write(CMDQ_PROD, (prod + 1) & 0x1f);
    }

    /// CMD_CFGI_STE with Leaf (4.3.1): the SMMU forgets the STE of `stream` and the CDs found through it.
    pub(super) fn forget_configuration(&mut self, stream: u64) {
        self.command([0x03 | stream << 32, 1]);
    }

    /// CMD_TLBI_NSNH_ALL (4.4.4.1): the SMMU forgets all translations.
    pub(super) fn forget_translations(&mut self) {
        self.command([0x30, 0]);
    }

    /// CMD_RESUME (4.7.1): Action (retry) is bit 12, Abort bit 13.
    pub(super) fn resume(&mut self, stream: u64, stag: u64, action: u64) {
        self.command([0x44 | action << 12 | stream << 32, stag]);
    }

    /// CMD_PRI_RESP (4.5.2) with a PASID if there is one.
    pub(super) fn respond(&mut self, stream: u64, pasid: Option<u64>, group: u64, response: u64) {
        let pasid = pasid.map_or(0, |pasid| 1 << 11 | pasid << 12);
        self.command([0x41 | pasid | stream << 32, group | response << 12]);
    }

    /// The event records from `EVENTQ_CONS` on; moves CONS to PROD.
    pub(super) fn take_events(&mut self) -> Vec<[u64; 4]> {
        let (prod, mut cons) = (self.read(EVENTQ_PROD), self.read(EVENTQ_CONS));
        let mut records = Vec::new();
        while (prod ^ cons) & 0x1f != 0 {
            let at = EVENTS + u64::from(cons & 0xf) * 32;
            records.push([self.peek(at), self.peek(at + 8), self.peek(at + 16), self.peek(at + 24)]);
            cons = (cons + 1) & 0x1f;
        }
        self.write(EVENTQ_CONS, prod);
        records
    }

    /// The one event record there is.
    pub(super) fn take_event(&mut self) -> [u64; 4] {
        let records = self.take_events();
        assert_eq!(records.len(), 1, "{records:x?}");
        records[0]
    }

    /// The PRI records from `PRIQ_CONS` on; moves CONS to PROD, with OVACKFLG.
    pub(super) fn take_page_requests(&mut self) -> Vec<[u64; 2]> {
        let (prod, mut cons) = (self.read(PRIQ_PROD), self.read(PRIQ_CONS));
        let mut records = Vec::new();
        while (prod ^ cons) & 0x1f != 0 {
            let at = PAGE_REQUESTS + u64::from(cons & 0xf) * 16;
            records.push([self.peek(at), self.peek(at + 8)]);
            cons = (cons + 1) & 0x1f;
        }
        self.write(PRIQ_CONS, prod);
        records
    }

    /// Writes the first two words of the STE of `stream`.
    pub(super) fn set_ste(&self, stream: u64, word0: u64, word1: u64) {
        self.poke(STREAMS + stream * 64 + 8, word1);
        self.poke(STREAMS + stream * 64, word0);
    }

    /// Writes CD number `index` of the bench: `flags` beside [`CD0`], and the level 1 table number `space`.
    pub(super) fn set_cd(&self, index: u64, flags: u64, space: u64) {
        let at = CDS + index * 64;
        self.poke(at + 8, TABLES + space * 0x1000);
        self.poke(at + 24, 0xff);
        self.poke(at, CD0 | flags);
    }

    /// Stream `stream` goes through stage 1 with CD `index`, address space `space`, and the fault flags `flags`.
    pub(super) fn attach(&self, stream: u64, index: u64, space: u64, flags: u64) {
        self.set_cd(index, flags, space);
        self.set_ste(stream, STE0_STAGE1 | (CDS + index * 64), STE1);
    }

    fn table_at(&mut self, entry: u64) -> u64 {
        if self.peek(entry) == 0 {
            self.poke(entry, self.next_table | 3);
            self.next_table += 0x1000;
        }
        self.peek(entry) & !0xfff
    }

    /// Where the level 3 descriptor of `address` in address space `space` lies; makes the tables above it.
    pub(super) fn leaf_at(&mut self, space: u64, address: u64) -> u64 {
        let level1 = TABLES + space * 0x1000 + (address >> 30 & 0x1ff) * 8;
        let level2 = self.table_at(level1) + (address >> 21 & 0x1ff) * 8;
        self.table_at(level2) + (address >> 12 & 0x1ff) * 8
    }

    /// Maps the page at `address` to `physical` with these leaf flags.
    pub(super) fn map(&mut self, space: u64, address: u64, physical: u64, flags: u64) {
        let leaf = self.leaf_at(space, address);
        self.poke(leaf, physical | flags);
    }

    pub(super) fn engine(&self, index: usize, offset: usize) -> u32 {
        self.machine.read(board::engine_base(index) + offset as u64, Width::Word) as u32
    }

    pub(super) fn engine64(&self, index: usize, offset: usize) -> u64 {
        self.machine.read(board::engine_base(index) + offset as u64, Width::Double)
    }

    pub(super) fn set_engine(&mut self, index: usize, offset: usize, value: u32) {
        self.machine.write(board::engine_base(index) + offset as u64, Width::Word, value.into());
    }

    pub(super) fn set_engine64(&mut self, index: usize, offset: usize, value: u64) {
        self.machine.write(board::engine_base(index) + offset as u64, Width::Double, value);
    }

    /// Starts engine `index` on copying, and lets the machine come to rest.
    pub(super) fn copy(&mut self, index: usize, source: u64, destination: u64, length: u64) {
        self.set_engine64(index, reg::SOURCE, source);
        self.set_engine64(index, reg::DESTINATION, destination);
        self.set_engine64(index, reg::LENGTH, length);
        self.set_engine(index, reg::CONTROL, 0x201);
        self.run();
    }

    /// Starts engine `index` on filling 8 bytes at `address`, which is one write, and lets the machine come to rest.
    pub(super) fn write_word(&mut self, index: usize, address: u64) {
        self.set_engine64(index, reg::DESTINATION, address);
        self.set_engine64(index, reg::LENGTH, 8);
        self.set_engine64(index, reg::PATTERN, 0x1122_3344_5566_7788);
        self.set_engine(index, reg::CONTROL, 0x211);
        self.run();
    }

    /// Starts engine `index` on copying 8 bytes from `address`, of which the read comes first, and lets the machine come
    /// to rest.
    pub(super) fn read_word(&mut self, index: usize, address: u64) {
        self.copy(index, address, address, 8);
    }

    /// The low four bits of engine `index`'s status: 1 busy, 2 done, 3 aborted, 4 mismatch, 5 stopped.
    pub(super) fn state(&self, index: usize) -> u32 {
        self.engine(index, reg::STATUS) & 0xf
    }
}
