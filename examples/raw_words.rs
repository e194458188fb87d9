//! The model driven by hand: no driver, no decoders, only addresses and words, as the SMMUv3 architecture has them.
//!
//! An engine writes to a page that is not there. First on a stream that stalls: the event record is read, the page mapped,
//! and CMD_RESUME lets the write go on. Then on a stream with ATS and PRI: the page request is read from the PRI queue, the
//! page mapped, and CMD_PRI_RESP answers it. Whatever is not as expected ends the program with status 1.
//!
//! Section numbers are the architecture's. `docs/model.md` walks through it; `docs/engine.md` is the engine's datasheet.

use std::sync::Arc;

use smmu_iopf::model::board::{ENGINE_BASE, ENGINE_STRIDE, SMMU_BASE};
use smmu_iopf::model::host::{HostMemory, HostSmmu};
use smmu_iopf::model::machine::Width;

// Registers of the SMMU: pages 0 (6.2.1) and, 0x1_0000 above it, 1 (6.2.2).
const IDR0: u64 = SMMU_BASE; // S2P 0, S1P 1, ATS 10, PRI 16, STALL_MODEL 25:24 (6.3.1)
const CR0: u64 = SMMU_BASE + 0x20; // SMMUEN 0, PRIQEN 1, EVENTQEN 2, CMDQEN 3 (6.3.9); 4 above it CR0ACK (6.3.10)
const CR1: u64 = SMMU_BASE + 0x28; // attributes of the SMMU's own accesses (6.3.11)
const CR2: u64 = SMMU_BASE + 0x2c; // RECINVSID 1: record StreamIDs that the table does not have (6.3.12)
const IRQ_CTRL: u64 = SMMU_BASE + 0x50; // interrupts: global error 0, PRI queue 1, event queue 2 (6.3.16)
const GERROR: u64 = SMMU_BASE + 0x60; // global errors (6.3.19)
const MESSAGES: [u64; 3] = [SMMU_BASE + 0x68, SMMU_BASE + 0xb0, SMMU_BASE + 0xd0]; // GERROR_, EVENTQ_, PRIQ_IRQ_CFG0 (3.18.2)
const STRTAB_BASE: u64 = SMMU_BASE + 0x80; // where it is (6.3.24); 8 above it STRTAB_BASE_CFG: LOG2SIZE 5:0, linear (6.3.25)
const CMDQ_BASE: u64 = SMMU_BASE + 0x90; // log2 of the entries 4:0, and the address (6.3.26)
const CMDQ_CONS: u64 = SMMU_BASE + 0x9c; // the SMMU's index; why it stopped in 30:24 (6.3.28); 4 below it CMDQ_PROD (6.3.27)
const EVENTQ_BASE: u64 = SMMU_BASE + 0xa0; // as CMDQ_BASE (6.3.29)
const PRIQ_BASE: u64 = SMMU_BASE + 0xc0; // as CMDQ_BASE (6.3.33)
const EVENTQ_CONS: u64 = SMMU_BASE + 0x1_00ac; // software's index (6.3.96); 4 below it EVENTQ_PROD (6.3.95)
const PRIQ_CONS: u64 = SMMU_BASE + 0x1_00cc; // the same of the PRI queue (6.3.97, 6.3.98)
// Registers of an engine (docs/engine.md).
const DESTINATION: u64 = 0x18; // first byte to write
const LENGTH: u64 = 0x20; // bytes
const PATTERN: u64 = 0x28; // what to write
const CONTROL: u64 = 0x40; // START 0, OPERATION 7:4, of which 1 is fill
const STATUS: u64 = 0x44; // STATE 3:0: 1 busy, 2 done
const ATS_CONTROL: u64 = 0x60; // ENABLE 0
const PRI_CONTROL: u64 = 0x64; // ENABLE 0
const PRI_ALLOCATION: u64 = 0x70; // how many page requests may be outstanding
const VALUE: u64 = 0x1122_3344_5566_7788;
// Where things lie. Memory begins at 0x4000_0000.
const STREAM_TABLE: u64 = 0x4001_0000; // 512 entries of 64 bytes
const COMMANDS: u64 = 0x4002_0000; // 16 entries of 16 bytes
const EVENTS: u64 = 0x4003_0000; // 16 entries of 32 bytes
const PAGE_REQUESTS: u64 = 0x4004_0000; // 16 entries of 16 bytes
const CONTEXTS: u64 = 0x4005_0000; // a context descriptor of 64 bytes for each of the two streams
const TABLES: u64 = 0x4006_0000; // translation tables of levels 1, 2 and 3, which both streams share
const DATA: u64 = 0x4010_0000; // two pages
const ADDRESS: u64 = 0x1_0000; // what the first stream writes to; the second one writes to the page behind it
const LEAF: u64 = TABLES + 0x2000 + (ADDRESS >> 12) * 8; // the descriptor of that page at level 3
// Engine 0 stalls, engine 2 has ATS and PRI: where their registers are, and their StreamIDs.
const STALLING: (u64, u64) = (ENGINE_BASE, 0x100);
const ASKING: (u64, u64) = (ENGINE_BASE + 2 * ENGINE_STRIDE, 0x102);
// Stream table entry (5.2). Word 0: V 0, Config 3:1 = 0b101, stage 1; the address of the context descriptor comes to it.
const STE0: u64 = 1 | 5 << 1;
// Word 1: S1CIR 3:2 and S1COR 5:4 write-back, S1CSH 7:6 inner shareable, SHCFG 45:44 as it comes. And of a PCIe function:
// S1STALLD 27, since it must not stall; EATS 29:28 = 0b01, full ATS.
const STE1: u64 = 1 << 2 | 1 << 4 | 3 << 6 | 1 << 44;
const STE1_ATS: u64 = STE1 | 1 << 27 | 1 << 28;
// Context descriptor (5.4). Word 0: T0SZ 5:0 for 39 bits, TG0 7:6 4 KiB, IR0 9:8 and OR0 11:10 write-back, SH0 13:12 inner
// shareable, EPD1 30, V 31, IPS 34:32 48 bits, AA64 41, R 45, A 46, ASET 47, ASID 63:48. And with S 44, which stalls.
const CD0: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 5 << 32 | 1 << 41 | 7 << 45 | 1 << 48;
const CD0_STALL: u64 = CD0 | 1 << 44;
// Descriptor of a page (Arm DDI 0487, D8.3): AP[1], for all; inner shareable; Access flag. A table's is 3.
const PAGE: u64 = 3 | 1 << 6 | 3 << 8 | 1 << 10;
// Commands: opcode 7:0, StreamID 63:32.
const CFGI_ALL: [u64; 2] = [0x04, 31]; // forgets STEs and CDs (4.3.6)
const TLBI_ALL: [[u64; 2]; 2] = [[0x30, 0], [0x20, 0]]; // NSNH_ALL and EL2_ALL forget translations (4.4.4.1, 4.4.2.7)
const SYNC: [u64; 2] = [0x46, 0]; // consumed when what came before it is complete (4.7.3)
const RESUME_RETRY: u64 = 0x44 | 1 << 12; // Ac 12; STAG 15:0 in word 1 (4.7.1)
const PRI_RESP: u64 = 0x41; // PRGIndex 8:0 and Resp 13:12 in word 1 (4.5.2)
type Outcome<T = ()> = Result<T, String>;

/// Prints what came, and says whether it was that.
fn expect(what: &str, got: u64, expected: u64) -> Outcome {
    println!("{what}: {got:#x}");
    if got == expected { Ok(()) } else { Err(format!("{what} should have been {expected:#x}")) }
}
struct Machine(Arc<HostSmmu>);

impl Machine {
    fn read(&self, register: u64) -> u64 {
        self.0.read(register, Width::Word)
    }
    fn write(&self, register: u64, value: u64) {
        self.0.write(register, Width::Word, value);
    }
    fn load(&self, address: u64) -> u64 {
        self.0.memory().load(address).unwrap_or(!0)
    }
    fn store(&self, address: u64, words: &[u64]) -> Outcome {
        let mut places = (address..).step_by(8).zip(words);
        places.try_for_each(|(at, &word)| self.0.memory().store(at, word)).ok_or(format!("no memory at {address:#x}"))
    }

    /// Writes CR0 and waits until that is in effect (6.3.9).
    fn enable(&self, fields: u64) -> Outcome {
        self.write(CR0, fields);
        self.0.run(100);
        expect("CR0ACK", self.read(CR0 + 4), fields)
    }

    /// Submits commands and a CMD_SYNC, and waits until they are consumed.
    fn submit(&self, commands: &[[u64; 2]]) -> Outcome {
        let mut prod = self.read(CMDQ_CONS - 4);
        for command in commands.iter().chain([&SYNC]) {
            // Bit 4 of an index is the wrap bit of a queue of 16 entries (3.5.1).
            self.store(COMMANDS + (prod & 0xf) * 16, command)?;
            prod = (prod + 1) & 0x1f;
        }
        self.write(CMDQ_CONS - 4, prod);
        self.0.run(1000);
        expect("CMDQ_CONS", self.read(CMDQ_CONS), prod)
    }

    /// The one new record, of `N` words, of an output queue.
    fn take<const N: usize>(&self, queue: u64, cons_register: u64) -> Outcome<[u64; N]> {
        let (prod, cons) = (self.read(cons_register - 4), self.read(cons_register));
        expect("new records", prod.wrapping_sub(cons) & 0x1f, 1)?;
        let at = queue + (cons & 0xf) * 8 * N as u64;
        let record = std::array::from_fn(|word| self.load(at + 8 * word as u64));
        self.write(cons_register, prod); // not before the record was read
        Ok(record)
    }

    fn bring_up(&self) -> Outcome {
        expect("IDR0: both stages, ATS, PRI, stall", self.read(IDR0) & 0x0301_0403, 0x0001_0403)?;
        self.write(CR1, 0xd75); // tables and queues: write-back, inner shareable
        self.write(CR2, 2);
        self.write(STRTAB_BASE + 8, 9);
        self.0.write(STRTAB_BASE, Width::Double, STREAM_TABLE);
        // After reset most registers hold anything: no message is to be sent, and the queues are empty (6.3.26).
        MESSAGES.iter().for_each(|&address| self.0.write(address, Width::Double, 0));
        for (base, queue, cons) in [
            (CMDQ_BASE, COMMANDS, CMDQ_CONS),
            (EVENTQ_BASE, EVENTS, EVENTQ_CONS),
            (PRIQ_BASE, PAGE_REQUESTS, PRIQ_CONS),
        ] {
            self.0.write(base, Width::Double, queue | 4);
            self.write(cons - 4, 0);
            self.write(cons, 0);
        }
        self.store(TABLES, &[(TABLES + 0x1000) | 3])?;
        self.store(TABLES + 0x1000, &[(TABLES + 0x2000) | 3])?;
        // Word 1: TTB0; word 3: MAIR0, write-back.
        self.store(CONTEXTS, &[CD0_STALL, TABLES, 0, 0xff, 0, 0, 0, 0, CD0, TABLES, 0, 0xff])?;
        self.store(STREAM_TABLE + STALLING.1 * 64, &[STE0 | CONTEXTS, STE1])?;
        self.store(STREAM_TABLE + ASKING.1 * 64, &[STE0 | (CONTEXTS + 64), STE1_ATS])?;
        self.enable(1 << 3)?;
        self.submit(&[CFGI_ALL, TLBI_ALL[0], TLBI_ALL[1]])?;
        self.write(IRQ_CTRL, 7);
        self.enable(0xf)
    }

    /// Starts an engine on filling 8 bytes at `address`, and lets it go as far as it can.
    fn fill(&self, engine: u64, address: u64) -> Outcome {
        for (offset, value) in [(DESTINATION, address), (LENGTH, 8), (PATTERN, VALUE)] {
            self.0.write(engine + offset, Width::Double, value);
        }
        self.write(engine + CONTROL, 1 | 1 << 4);
        self.0.run(1000);
        println!("interrupts: {:?}", self.0.take_raised());
        expect("the engine is busy", self.read(engine + STATUS) & 0xf, 1)
    }
}

fn main() -> Outcome {
    let machine = Machine(HostSmmu::new(Arc::new(HostMemory::new(4 << 20))));
    machine.bring_up()?;

    let (engine, stream) = STALLING;
    machine.fill(engine, ADDRESS)?;
    let [first, second, address, _] = machine.take(EVENTS, EVENTQ_CONS)?;
    expect("F_TRANSLATION (0x10) and the StreamID (7.3.13)", first, 0x10 | stream << 32)?;
    expect("Stall 31, CLASS 41:40 = input address, no RnW 35", second & !0xffff, 1 << 31 | 2 << 40)?;
    expect("InputAddr", address, ADDRESS)?;
    machine.store(LEAF, &[DATA | PAGE])?;
    machine.submit(&[[RESUME_RETRY | stream << 32, second & 0xffff]])?; // the record's STAG
    expect("the engine is done", machine.read(engine + STATUS) & 0xf, 2)?;
    expect("memory", machine.load(DATA), VALUE)?;

    let (engine, stream) = ASKING;
    for (offset, value) in [(ATS_CONTROL, 1), (PRI_ALLOCATION, 8), (PRI_CONTROL, 1)] {
        machine.write(engine + offset, value);
    }
    machine.fill(engine, ADDRESS + 0x1000)?;
    let [first, second] = machine.take(PAGE_REQUESTS, PRIQ_CONS)?;
    expect("StreamID, W 61, Last 62, no PASID (8)", first, stream | 1 << 61 | 1 << 62)?;
    expect("page address", second & !0xfff, ADDRESS + 0x1000)?;
    machine.store(LEAF + 8, &[(DATA + 0x1000) | PAGE])?;
    machine.submit(&[[PRI_RESP | stream << 32, second & 0x1ff | 2 << 12]])?; // the request's PRGIndex; success
    expect("the engine is done", machine.read(engine + STATUS) & 0xf, 2)?;
    expect("memory", machine.load(DATA + 0x1000), VALUE)?;
    expect("GERROR", machine.read(GERROR), 0)
}

#[test]
fn everything_is_as_expected() {
    assert_eq!(main(), Ok(()));
}
