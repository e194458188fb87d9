//! A working machine whose command queue, structures and tables the fuzzer fills, while its engines run.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use smmu_iopf::model::board;
use smmu_iopf::model::engine::registers as engine;
use smmu_iopf::model::machine::{Machine, Width};
use smmu_iopf::model::profile::Profile;
use smmu_iopf_fuzz::*;

const BYTES: u64 = 0x8_0000;
const STREAMS: u64 = BASE;
const CDS: u64 = BASE + 0x1_0000;
/// Tables of level 1, 2 and 3.
const TABLES: u64 = BASE + 0x1_1000;
const COMMANDS: u64 = BASE + 0x2_0000;
const EVENTS: u64 = BASE + 0x3_0000;
const PAGE_REQUESTS: u64 = BASE + 0x3_4000;
const RECORDS_END: u64 = BASE + 0x3_8000;
const DATA: u64 = BASE + 0x4_0000;
/// log2 of the entries of the queues.
const LOG2: u64 = 4;
/// What one step may do: 4 engines and 32 commands.
const ACCESSES: u32 = 1 << 13;
const OPERATIONS: usize = 300;

/// Opcodes of the commands of chapter 4.
const OPCODES: [u8; 22] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x28, 0x2a, 0x30, 0x40, 0x41, 0x44,
    0x45, 0x46, 0x00,
];

fuzz_target!(|bytes: &[u8]| {
    let _ = run(&mut Unstructured::new(bytes));
});

struct Bench {
    machine: Box<Machine>,
    memory: Guest,
    profile: Profile,
    /// The last event record.
    event: [u64; 4],
    /// The first record of each queue that was not looked at.
    seen: [smmu_iopf::smmuv3::queue::QueueIndex; 2],
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut bench = Bench::new(any_profile(input)?, input.arbitrary()?);
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        bench.operation(input)?;
    }
    for _ in 0..64 {
        bench.step();
    }
    Ok(())
}

impl Bench {
    /// A machine at work: its engines' streams go through stage 1, of which every other page of 2 MiB is mapped. Odd
    /// engines' streams abort what they do not translate, the others stall it.
    fn new(profile: Profile, strict: bool) -> Self {
        let memory = Guest::new(BYTES as usize, profile, EVENTS..RECORDS_END);
        let mut machine = Box::<Machine>::default();
        machine.reset(profile, 4);
        if strict {
            machine.be_strict();
        }
        let none = Indices::of(Queue::Events, &profile.features(), |_| 0).prod;
        let mut bench = Self { machine, memory, profile, event: [0; 4], seen: [none; 2] };
        for index in 0..4 {
            bench.attach(index);
        }
        bench.memory.poke(TABLES, (TABLES + 0x1000) | 3);
        bench.memory.poke(TABLES + 0x1000, (TABLES + 0x2000) | 3);
        for page in (0..64).step_by(2) {
            bench.memory.poke(TABLES + 0x2000 + page * 8, (DATA + page % 64 * 0x1000) | 0x743);
        }
        bench.write64(STRTAB_BASE, STREAMS);
        bench.write(STRTAB_BASE_CFG, profile.features().sid_bits.min(9).into());
        bench.write(CR2, 2);
        bench.write64(CMDQ_BASE, COMMANDS | LOG2);
        bench.write64(EVENTQ_BASE, EVENTS | LOG2);
        bench.write64(PRIQ_BASE, PAGE_REQUESTS | LOG2);
        bench.write(IRQ_CTRL, 7);
        bench.write(CR0, ALL_ON);
        bench.step();
        bench
    }

    fn stream(&self, index: usize) -> u64 {
        self.profile.engine_stream(index).0.into()
    }

    /// STE with stage 1, EATS and S1STALLD for engines with ATS (5.2), CD with T0SZ 25 and 4 KiB (5.4).
    fn attach(&mut self, index: usize) {
        let (ste, cd) = (STREAMS + self.stream(index) * 64, CDS + index as u64 * 64);
        let stalls = index < 2 && self.profile.features().can_stall();
        self.memory.poke(ste + 8, 1 << 44 | if index < 2 { 0 } else { 1 << 28 | 1 << 27 });
        self.memory.poke(ste, 0xb | cd);
        self.memory.poke(cd + 8, TABLES);
        self.memory.poke(cd + 24, 0xff);
        self.memory.poke(cd, 0x0001_8205_c000_3519 | 1 << 46 | u64::from(stalls) << 44);
        if index >= 2 {
            self.set_engine(index, engine::ATS_CONTROL, 1);
            self.set_engine(index, engine::PRI_ALLOCATION, 64);
            self.set_engine(index, engine::PRI_CONTROL, 1);
        }
    }

    fn operation(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=15)? {
            0..=3 => {
                let words = self.command(input)?;
                self.submit(words);
            }
            4 => {
                let opcode = u64::from(*input.choose(&OPCODES)?);
                let words = [value(input, BYTES)? & !0xff | opcode, value(input, BYTES)?];
                self.submit(words);
            }
            5 => {
                // The queue is written under the SMMU, wherever it reads.
                let slot = u64::from(input.arbitrary::<u8>()?) % 32;
                self.memory.poke(COMMANDS + slot * 8, value(input, BYTES)?);
            }
            6 => self.write(CMDQ_PROD, input.arbitrary::<u32>()?.into()),
            7 => self.write(CMDQ_PROD, u64::from(input.arbitrary::<u8>()?) % 32),
            8 => {
                // Software puts CMD_SYNC in the place of a command in error, and acknowledges.
                if input.arbitrary()? {
                    let slot = self.read(CMDQ_CONS) % 16;
                    self.memory.poke(COMMANDS + slot * 16, 0x46);
                }
                self.write(GERRORN, self.read(GERROR));
            }
            9 => {
                for queue in [Queue::Events, Queue::PageRequests] {
                    let [_, prod, cons] = queue.registers();
                    self.write(cons, self.read(prod));
                }
            }
            10 => self.job(input)?,
            11 => {
                // A point or a hold of the control page.
                let offset = 0x100 + u64::from(input.arbitrary::<u8>()?) % 0x2c * 4;
                let count = u64::from(input.arbitrary::<u8>()?) % 5;
                self.machine.write(board::CONTROL_BASE + offset, Width::Word, count);
            }
            12 => {
                let place = match input.int_in_range(0..=2)? {
                    0 => {
                        STREAMS
                            + self.stream(input.int_in_range(0..=3)?) * 64
                            + u64::from(input.arbitrary::<u8>()?) % 8 * 8
                    }
                    1 => CDS + u64::from(input.arbitrary::<u8>()?) % 32 * 8,
                    _ => TABLES + u64::from(input.arbitrary::<u16>()?) % 0x600 * 8,
                };
                let flip = if input.arbitrary()? { 1 << input.int_in_range(0..=63)? } else { value(input, BYTES)? };
                self.memory.poke(place, self.memory.peek(place) ^ flip);
            }
            13 => self.attach(input.int_in_range(0..=3)?),
            14 => self.write(CR0, if input.ratio(1, 4)? { input.arbitrary::<u8>()?.into() } else { ALL_ON }),
            _ => {
                // The switches of the model: suppress, retry early, merge, strict; seeds.
                let offset = *input.choose(&[0xe00, 0xe08, 0xe0c, 0xe78])?;
                self.write(offset, input.arbitrary::<u16>()?.into());
            }
        }
        for _ in 0..input.int_in_range(0..=8)? {
            self.step();
        }
        Ok(())
    }

    /// A command about what there is: the engines' streams, the last record, pages that are mapped.
    fn command(&self, input: &mut Unstructured<'_>) -> Result<[u64; 2]> {
        let stream = self.stream(input.int_in_range(0..=3)?) << 32;
        let option = u64::from(input.arbitrary::<u8>()?);
        let page = u64::from(input.arbitrary::<u8>()?) << 12;
        Ok(match input.int_in_range(0..=9)? {
            0 => [0x44 | (self.event[0] & !0xffff_ffff) | (option & 3) << 12, self.event[1] & 0xffff],
            1 => [0x44 | stream | (option & 3) << 12, page >> 12],
            2 => [0x45 | stream, 0],
            3 => [0x41 | stream, (page >> 12 & 0x1f) | (option & 3) << 12],
            4 => [0x40 | stream, page | option & 0x3f],
            5 => [0x46 | option << 12, page | BASE],
            6 => [0x03 | stream, 1],
            7 => [0x04, 31],
            8 => [0x11 | 1 << 48 | option << 12, page],
            _ => [0x30, 0],
        })
    }

    fn submit(&mut self, words: [u64; 2]) {
        let indices = Indices::of(Queue::Commands, &self.profile.features(), |offset| self.read(offset));
        let slot = COMMANDS + u64::from(indices.size.slot(indices.prod)) * 16;
        self.memory.poke(slot, words[0]);
        self.memory.poke(slot + 8, words[1]);
        self.write(CMDQ_PROD, indices.size.advance(indices.prod, 1).raw().into());
    }

    /// Starts an engine.
    fn job(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let index = input.int_in_range(0..=3)?;
        let base = board::engine_base(index);
        for register in [engine::SOURCE, engine::DESTINATION] {
            let address = u64::from(input.arbitrary::<u32>()?) % 0x8_0000;
            self.machine.write(base + register as u64, Width::Double, address);
        }
        self.machine.write(base + engine::LENGTH as u64, Width::Double, u64::from(input.arbitrary::<u16>()?));
        for register in [engine::DEPTH, engine::GROUP_SIZE, engine::SEED] {
            self.set_engine(index, register, u64::from(input.arbitrary::<u8>()?) % 33);
        }
        if input.ratio(1, 4)? {
            self.set_engine(index, engine::HOSTILE, input.arbitrary::<u16>()?.into());
            self.set_engine(index, engine::PASID, input.arbitrary::<u8>()?.into());
        }
        self.set_engine(index, engine::CONTROL, u64::from(input.arbitrary::<u16>()? & 0x3f3));
        Ok(())
    }

    /// One step, and what is true after each: commands are consumed in order, some of them, none after an error; records
    /// can be read.
    fn step(&mut self) {
        let features = self.profile.features();
        let before = Indices::of(Queue::Commands, &features, |offset| self.read(offset));
        let in_error = (self.read(GERROR) ^ self.read(GERRORN)) & 1 != 0;
        self.memory.allow(ACCESSES);
        self.machine.step(&self.memory, &mut Nowhere);
        let after = Indices::of(Queue::Commands, &features, |offset| self.read(offset));
        let entries = 2 * before.size.entries();
        let consumed = (after.cons.raw() + entries - before.cons.raw()) % entries;
        match before.size.len(before.prod, before.cons) {
            Ok(len) => assert!(consumed <= if in_error { 0 } else { len.min(32) }),
            Err(_) => assert_eq!(consumed, 0, "of a queue in disorder nothing is consumed"),
        }
        check_registers(&features, false, |offset| self.read(offset));
        for (queue, base, seen) in [(Queue::Events, EVENTS, 0), (Queue::PageRequests, PAGE_REQUESTS, 1)] {
            let indices = Indices::of(queue, &features, |offset| self.read(offset));
            if let Some(event) = check_records(queue, base, self.seen[seen], indices, &self.memory) {
                self.event = event;
            }
            self.seen[seen] = indices.prod;
        }
        if let Some(story) = self.machine.violation() {
            assert!(!story.to_string().is_empty());
            self.machine.take_violation();
        }
    }

    fn read(&self, offset: usize) -> u64 {
        read(&self.machine, offset)
    }

    fn write(&mut self, offset: usize, value: u64) {
        self.machine.write(board::SMMU_BASE + offset as u64, Width::Word, value);
    }

    fn write64(&mut self, offset: usize, value: u64) {
        self.machine.write(board::SMMU_BASE + offset as u64, Width::Double, value);
    }

    fn set_engine(&mut self, index: usize, offset: usize, value: u64) {
        self.machine.write(board::engine_base(index) + offset as u64, Width::Word, value);
    }
}
