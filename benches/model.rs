//! What the model costs on the host: a translation that is cached, walks, a stall, an ATS request, a page request.
//! `docs/performance.md` has the numbers of a run, and how to count instructions: each operation is a function of its own,
//! never inlined, for that.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use smmu_iopf::model::endpoint::{
    Completion, Endpoints, GroupResponse, Invalidated, Invalidation, Response, Transaction,
};
use smmu_iopf::model::host::HostMemory;
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::smmu::{Issued, Polled, Slot, Smmu};
use smmu_iopf::model::wire::{Wire, Wires};
use smmu_iopf::smmuv3::page_request::PageRequest;
use smmu_iopf::smmuv3::{Access, PrgIndex, StreamId};

/// The streams of stage 1, of both stages, and of stage 1 with ATS.
const STAGE1: u32 = 0;
const NESTED: u32 = 1;
const ATS: u32 = 2;

const STREAMS: u64 = 0x4000_0000;
const CDS: u64 = 0x4000_1000;
const COMMANDS: u64 = 0x4000_2000;
const EVENTS: u64 = 0x4000_3000;
const PAGE_REQUESTS: u64 = 0x4000_4000;
/// Tables of level 0 to 3 of stage 1, then those of stage 2, a page each.
const TABLES: u64 = 0x4001_0000;
const STAGE2: u64 = 0x4002_0000;
const DATA: u64 = 0x4010_0000;
const MEMORY: usize = 4 << 20;

/// A page that is mapped, and one that is when a stall is answered.
const MAPPED: u64 = 0x5000;
const MISSING: u64 = 0x6000;

/// Leaf flags of stage 1: valid page, Access flag, inner shareable, unprivileged access.
const PAGE_RW: u64 = 0x743;

#[derive(Default)]
struct Devices {
    responses: u32,
}

impl Endpoints for Devices {
    fn invalidate(&mut self, _: &Invalidation) -> Invalidated {
        Invalidated::Completed
    }

    fn is_invalidating(&self) -> bool {
        false
    }

    fn is_ats_enabled(&self) -> bool {
        false
    }

    fn respond(&mut self, _: &GroupResponse) -> bool {
        self.responses += 1;
        true
    }
}

struct Nowhere;

impl Wires for Nowhere {
    fn raise(&mut self, _: Wire) {}

    fn send_event(&mut self) {}
}

struct Bench {
    smmu: Box<Smmu>,
    memory: HostMemory,
    devices: Devices,
}

impl Bench {
    /// An SMMU at work: queues of 16 entries and a linear table of 64 STEs; 4 KiB pages, four levels at both stages.
    fn new() -> Self {
        let mut bench = Self { smmu: Box::default(), memory: HostMemory::new(MEMORY), devices: Devices::default() };
        for level in 0..3 {
            bench.poke(TABLES + level * 0x1000, (TABLES + (level + 1) * 0x1000) | 3);
        }
        bench.map(MAPPED, DATA | PAGE_RW);
        // Stage 2 maps the second GiB to itself, in 2 MiB blocks, so that a walk ends at level 2.
        bench.poke(STAGE2, (STAGE2 + 0x1000) | 3);
        bench.poke(STAGE2 + 0x1008, (STAGE2 + 0x2000) | 3);
        for block in 0..512 {
            bench.poke(STAGE2 + 0x2000 + block * 8, (0x4000_0000 + (block << 21)) | 0x7fd);
        }
        // STEs (5.2): stage 1, both stages with S2T0SZ 16 and S2SL0 2, stage 1 with EATS and S1STALLD.
        let stage2 = 0x000d_3590_0000_0007;
        for (stream, words) in [(0, [0xb, 0, 0, 0]), (1, [0xf, 0, stage2, STAGE2]), (2, [0xb, 1 << 28 | 1 << 27, 0, 0])]
        {
            let ste = STREAMS + stream * 64;
            bench.poke(ste + 24, words[3]);
            bench.poke(ste + 16, words[2]);
            bench.poke(ste + 8, 1 << 44 | words[1]);
            bench.poke(ste, (CDS + stream * 64) | words[0]);
            // A CD (5.4): T0SZ 16, 4 KiB, EPD1, V, IPS 48 bits, AA64, ASET, ASID of its own, S for stage 1, R, A.
            let stalls = u64::from(stream == 0);
            let cd = CDS + stream * 64;
            bench.poke(cd + 8, TABLES);
            bench.poke(cd + 24, 0xff);
            bench.poke(cd, 0x0000_e205_c000_3510 | (stream + 1) << 48 | stalls << 44);
        }
        for (offset, value) in [(0x80, STREAMS), (0x90, COMMANDS | 4), (0xa0, EVENTS | 4), (0xc0, PAGE_REQUESTS | 4)] {
            bench.smmu.write(offset, Width::Double, value);
        }
        bench.write(0x88, 6);
        bench.write(0x20, 0xf);
        bench.step();
        bench
    }

    fn poke(&self, address: u64, value: u64) {
        self.memory.store(address, value).expect("in memory");
    }

    fn map(&self, address: u64, leaf: u64) {
        self.poke(TABLES + 0x3000 + (address >> 12) * 8, leaf);
    }

    fn write(&mut self, offset: usize, value: u32) {
        self.smmu.write(offset, Width::Word, value.into());
    }

    fn step(&mut self) {
        self.smmu.step(&self.memory, &mut Nowhere, &mut self.devices);
    }

    fn command(&mut self, words: [u64; 2]) {
        let prod = self.smmu.read(0x98, Width::Word);
        self.poke(COMMANDS + (prod & 0xf) * 16, words[0]);
        self.poke(COMMANDS + (prod & 0xf) * 16 + 8, words[1]);
        self.write(0x98, (prod as u32 + 1) & 0x1f);
        self.step();
    }

    /// CMD_TLBI_NSNH_ALL (4.4.4.1).
    fn forget_translations(&mut self) {
        self.command([0x30, 0]);
    }

    fn access(&mut self, stream: u32, address: u64) -> Issued {
        let transaction = transaction(stream, address);
        self.smmu.access(&transaction, &self.memory, &mut Nowhere)
    }
}

fn transaction(stream: u32, address: u64) -> Transaction {
    Transaction { stream: StreamId(stream), substream: None, address, access: Access::WRITE }
}

#[inline(never)]
fn cached_translation(bench: &mut Bench) -> Issued {
    // Not the address of `walk`: functions that are equal may become one.
    bench.access(STAGE1, MAPPED + 8)
}

#[inline(never)]
fn walk(bench: &mut Bench) -> Issued {
    bench.access(STAGE1, MAPPED)
}

#[inline(never)]
fn nested_walk(bench: &mut Bench) -> Issued {
    bench.access(NESTED, MAPPED)
}

/// An access stalls, its record is read, the page mapped, and the answer lets the access try again.
#[inline(never)]
fn stall_to_retry(bench: &mut Bench) -> Polled {
    let slot = stall(bench.access(STAGE1, MISSING));
    let prod = bench.smmu.read(0x100a8, Width::Word);
    let record = EVENTS + (prod.wrapping_sub(1) & 0xf) * 32;
    let stag = bench.memory.load(record + 8).expect("in memory") & 0xffff;
    bench.write(0x100ac, prod as u32);
    bench.map(MISSING, DATA | PAGE_RW);
    bench.command([0x1044, stag]);
    bench.smmu.poll(slot, &bench.memory, &mut Nowhere)
}

fn stall(issued: Issued) -> Slot {
    match issued {
        Issued::Stalled { slot, recorded: true } => slot,
        other => panic!("{other:?}"),
    }
}

#[inline(never)]
fn translation_request(bench: &mut Bench) -> Completion {
    bench.smmu.translation_request(&transaction(ATS, MAPPED), &bench.memory, &mut Nowhere)
}

/// A group of one page request is written, its record taken, and the answer reaches the device.
#[inline(never)]
fn page_request_to_response(bench: &mut Bench) -> u32 {
    let request = PageRequest {
        stream: StreamId(ATS),
        substream: None,
        access: Access::WRITE,
        last: true,
        group: PrgIndex::from_low_bits(1),
        address: MISSING,
    };
    assert_eq!(bench.smmu.page_request(&request, &bench.memory, &mut Nowhere), None, "no automatic answer");
    let prod = bench.smmu.read(0x100c8, Width::Word);
    bench.write(0x100cc, prod as u32);
    bench.command([0x41 | u64::from(ATS) << 32, 0x2001]);
    bench.devices.responses
}

fn model(criterion: &mut Criterion) {
    let bench = &mut Bench::new();
    assert!(matches!(walk(bench), Issued::Ended(Response::Physical(_))));
    criterion.bench_function("cached translation", |bencher| bencher.iter(|| black_box(cached_translation(bench))));
    criterion.bench_function("invalidation, walk of 4 levels", |bencher| {
        bencher.iter(|| {
            bench.forget_translations();
            black_box(walk(bench))
        });
    });
    assert!(matches!(nested_walk(bench), Issued::Ended(Response::Physical(_))));
    criterion.bench_function("invalidation, nested walk", |bencher| {
        bencher.iter(|| {
            bench.forget_translations();
            black_box(nested_walk(bench))
        });
    });
    criterion.bench_function("stall to retry, invalidation", |bencher| {
        bencher.iter(|| {
            let ended = stall_to_retry(bench);
            assert!(matches!(ended, Polled::Ended(Response::Physical(_))), "{ended:?}");
            bench.map(MISSING, 0);
            bench.forget_translations();
        });
    });
    assert!(matches!(translation_request(bench), Completion::Success { write: true, .. }));
    criterion
        .bench_function("ATS translation request", |bencher| bencher.iter(|| black_box(translation_request(bench))));
    let before = bench.devices.responses;
    assert_eq!(page_request_to_response(bench), before + 1);
    criterion.bench_function("page request to response", |bencher| {
        bencher.iter(|| black_box(page_request_to_response(bench)));
    });
}

criterion_group!(benches, model);
criterion_main!(benches);
