//! Whatever software writes, and wherever: never a panic, never a step without end, strict or not, and the same to see.

use std::vec;
use std::vec::Vec;

use super::bench::*;
use crate::model::board;
use crate::model::machine::Width;
use crate::model::memory::Memory;
use crate::model::profile::Profile;
use crate::smmuv3::PhysAddr;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A value with few bits set, with few bits clear, small, an address, or any.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => 1 << self.below(64) | 1 << self.below(64),
            1 => !(1 << self.below(64)),
            2 => self.below(64),
            3 => (DATA + self.below(END - DATA)) & !0xfff,
            4 => (0x4000_0000 + self.below(END - 0x4000_0000)) & !0x3f | self.below(64),
            _ => self.next(),
        }
    }
}

const REGISTERS: [u64; 34] = [
    CR0,
    CR0ACK,
    CR1,
    CR2,
    GBPA,
    IRQ_CTRL,
    GERROR,
    GERRORN,
    STRTAB_BASE,
    STRTAB_BASE_CFG,
    CMDQ_BASE,
    CMDQ_PROD,
    CMDQ_CONS,
    EVENTQ_BASE,
    EVENTQ_PROD,
    EVENTQ_CONS,
    PRIQ_BASE,
    PRIQ_PROD,
    PRIQ_CONS,
    CR0,
    CMDQ_PROD,
    EVENTQ_CONS,
    PRIQ_CONS,
    GERRORN,
    0xe00,
    0x68,
    0xb0,
    0xd0,
    0xdc,
    IRQ_CTRL,
    GERRORN,
    0xe08,
    0xe0c,
    0xe78,
];

fn touch_register(bench: &mut Bench, random: &mut Random) {
    let base = match random.below(4) {
        0 => board::SMMU_BASE + REGISTERS[random.below(34) as usize],
        1 => board::engine_base(random.below(4) as usize) + random.below(0x60) * 4,
        2 => board::CONTROL_BASE + random.below(0x100) * 4,
        _ => board::WINDOW.start - 8 + random.below(board::WINDOW.end - board::WINDOW.start + 16),
    };
    let width = if random.below(4) == 0 { Width::Double } else { Width::Word };
    bench.machine.write(base, width, random.value());
    bench.machine.read(base, width);
}

/// Every other seed is strict.
#[test]
fn random_registers_and_random_memory_are_survived() {
    for seed in 0..24 {
        let mut random = Random(seed);
        let mut bench = Bench::of(Profile::ALL[seed as usize % Profile::ALL.len()]);
        bench.write(0xe00, if seed % 2 == 0 { 8 } else { 0 });
        for _ in 0..2000 {
            let address = PhysAddr(0x4000_0000 + random.below((END - 0x4000_0000) / 8) * 8);
            bench.memory.write64(address, random.value()).unwrap();
        }
        for _ in 0..4000 {
            touch_register(&mut bench, &mut random);
            bench.step();
        }
    }
}

/// A working machine, of which single words are spoiled while its engines run.
fn spoiled(seed: u64, strict: bool) -> Bench {
    let mut random = Random(seed);
    let mut bench = Bench::enabled();
    bench.write(0xe00, if strict { 8 } else { 0 });
    for engine in 0..4 {
        bench.attach(0x100 + engine, engine, engine, if engine < 2 { CD_S | CD_A } else { CD_A });
        for page in 0..16 {
            if random.below(2) == 0 {
                bench.map(engine, 0x5000 + page * 0x1000, DATA + random.below(0x100) * 0x1000, PAGE_RW);
            }
        }
    }
    for engine in 2..4 {
        bench.set_ste(0x100 + engine, STE0_STAGE1 | (CDS + engine * 64), STE1 | EATS | S1STALLD);
        bench.machine.write(board::engine_base(engine as usize) + 0x60, Width::Word, 1);
        bench.machine.write(board::engine_base(engine as usize) + 0x70, Width::Word, 64);
        bench.machine.write(board::engine_base(engine as usize) + 0x64, Width::Word, 1);
    }
    for _ in 0..300 {
        let engine = random.below(4) as usize;
        match random.below(10) {
            0 => {
                bench.set_engine(engine, 0x38, random.below(10) as u32);
                bench.set_engine(engine, 0x3c, random.below(10) as u32);
                bench.set_engine64(engine, 0x10, 0x5000 + random.below(0x1_0000));
                bench.set_engine64(engine, 0x18, 0x5000 + random.below(0x1_0000));
                bench.set_engine64(engine, 0x20, random.below(0x8000));
                bench.set_engine(engine, 0x40, 1 | (random.below(4) as u32) << 4);
            }
            1 => bench.set_engine(engine, 0x40, 2),
            2 => {
                for record in bench.take_events() {
                    bench.submit([0x44 | random.below(4) << 12 | record[0] & !0xffff_ffff, record[1] & 0xffff]);
                }
            }
            3 => {
                for record in bench.take_page_requests() {
                    let response = random.below(3);
                    bench.submit([0x41 | record[0] << 32, record[1] & 0x1ff | response << 12]);
                }
            }
            4 => bench.submit([random.below(0x80) | random.next() & !0xffff, random.value()]),
            // CMD_CFGI_STE and CMD_STALL_TERM for an engine's stream, and what the control page makes go wrong.
            5 => {
                let stream = (0x100 + engine as u64) << 32;
                bench.submit([0x03 | stream, 0]);
                bench.submit([0x45 | stream, 0]);
            }
            6 => bench.set_control(0x100 + random.below(11) * 8, 1 + random.below(3) as u32),
            7 => {
                let error = bench.read(GERROR);
                bench.write(GERRORN, error);
            }
            8 => {
                let places = [STREAMS + 0x4000 + random.below(32) * 8, CDS + random.below(32) * 8];
                let place = if random.below(2) == 0 { places[0] } else { places[1] };
                let value = bench.peek(place);
                bench.poke(place, value ^ 1 << random.below(64));
            }
            _ => touch_register(&mut bench, &mut random),
        }
        for _ in 0..8 {
            bench.step();
        }
    }
    bench
}

/// All that software sees of a machine: its registers, but that it is strict, and its memory.
fn seen(bench: &Bench) -> (Vec<u64>, Vec<u8>) {
    let registers = board::WINDOW.step_by(8).map(|at| {
        let strict = if at == board::SMMU_BASE + 0xe00 { 8 } else { 0 };
        bench.machine.read(at, Width::Double) & !strict
    });
    let mut memory = vec![0; (END - 0x4000_0000) as usize];
    bench.memory.read(PhysAddr(0x4000_0000), &mut memory).unwrap();
    (registers.collect(), memory)
}

#[test]
fn spoiled_structures_under_running_engines_are_survived_and_strict_mode_changes_nothing() {
    for seed in 1000..1016 {
        let (strict, lenient) = (spoiled(seed, true), spoiled(seed, false));
        assert!(seen(&strict) == seen(&lenient), "seed {seed}");
    }
}
