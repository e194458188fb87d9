//! STEs, CDs, level 1 tables of both, and translation tables of both stages, in a small memory that the fuzzer writes:
//! accesses, ATS requests, page requests and retries through them.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use smmu_iopf::model::endpoint::{
    Completion, Endpoints, GroupResponse, Invalidated, Invalidation, Response, Transaction,
};
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::profile::Profile;
use smmu_iopf::model::smmu::{Issued, Polled, Slot, Smmu};
use smmu_iopf::smmuv3::page_request::PageRequest;
use smmu_iopf::smmuv3::queue::QueueIndex;
use smmu_iopf::smmuv3::{Access, PhysAddr, PrgIndex, StreamId, SubstreamId};
use smmu_iopf_fuzz::*;

const BYTES: u64 = 0x2_0000;
/// STEs, or level 1 descriptors and STEs.
const STREAMS: u64 = BASE;
/// CDs, or level 1 descriptors and CDs.
const CDS: u64 = BASE + 0x2000;
/// Pages of tables.
const TABLES: u64 = BASE + 0x4000;
const TABLE_PAGES: u64 = 12;
const COMMANDS: u64 = BASE + 0x1_c000;
const EVENTS: u64 = BASE + 0x1_d000;
const PAGE_REQUESTS: u64 = BASE + 0x1_e000;
const RECORDS_END: u64 = BASE + 0x1_f000;
/// log2 of the entries of the queues.
const LOG2: u64 = 4;
/// What one access may do: 5 stage 1 fetches, each with a stage 2 walk of 5, updates of flags, tries again when a
/// descriptor changed, STE and CD.
const ACCESSES: u32 = 512;
const OPERATIONS: usize = 200;
/// The points of the control page for fetches: STE_FETCH, CD_FETCH, TABLE_FETCH.
const FETCHES: [usize; 3] = [0x128, 0x130, 0x138];

fuzz_target!(|bytes: &[u8]| {
    let _ = run(&mut Unstructured::new(bytes));
});

/// Devices that never enable ATS and wait for nothing.
struct Devices;

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
        true
    }
}

struct Bench {
    smmu: Box<Smmu>,
    memory: Guest,
    profile: Profile,
    stalled: Vec<(Slot, u64)>,
    event: [u64; 4],
    seen: [QueueIndex; 2],
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let profile = any_profile(input)?;
    let memory = Guest::new(BYTES as usize, profile, EVENTS..RECORDS_END);
    let mut smmu = Box::<Smmu>::default();
    smmu.reset(profile);
    let none = Indices::of(Queue::Events, &profile.features(), |_| 0).prod;
    let mut bench = Bench { smmu, memory, profile, stalled: Vec::new(), event: [0; 4], seen: [none; 2] };
    bench.set_up(input)?;
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        bench.operation(input)?;
    }
    bench.cached_is_as_walked(input)
}

impl Bench {
    fn set_up(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let switches = input.arbitrary::<u8>()?;
        self.write(0xe00, u64::from(switches & 0xf));
        self.write(0xe78, u64::from(switches >> 4));
        self.write64(STRTAB_BASE, STREAMS);
        // Linear with 32 STEs; 2-level with SPLIT 6, 8 or 10.
        self.write(
            STRTAB_BASE_CFG,
            *input.choose(&[5, 1 << 16 | 6 << 6 | 9, 1 << 16 | 8 << 6 | 12, 1 << 16 | 10 << 6 | 16])?,
        );
        self.write(CR2, u64::from(input.arbitrary::<u8>()? & 7));
        self.write64(CMDQ_BASE, COMMANDS | LOG2);
        self.write64(EVENTQ_BASE, EVENTS | LOG2);
        self.write64(PRIQ_BASE, PAGE_REQUESTS | LOG2);
        self.write(CR0, ALL_ON | 1 << 4);
        self.step();
        for stream in 0..4 {
            self.structures(input, stream)?;
        }
        Ok(())
    }

    /// A stream's STE and CD, mostly sound: one stage or both, with a few bits otherwise.
    fn structures(&self, input: &mut Unstructured<'_>, stream: u64) -> Result<()> {
        let ste = STREAMS + stream * 64;
        let config = *input.choose(&[0xb_u64, 0xd, 0xf, 0x9, 0x1])?;
        let substreams = u64::from(input.arbitrary::<u8>()?) % 4;

        self.memory.poke(ste + 8, (1 << 44) | sparse(input, 0xffff_ffff)?);
        // S2T0SZ 25, S2SL0 1, 4 KiB, S2PS 48 bits, S2AA64 (5.2).
        self.memory.poke(ste + 16, 0x000d_3559_0000_0007 ^ sparse(input, 0x07ff_ffff_0000_0000)?);
        self.memory.poke(ste + 24, TABLES + u64::from(input.arbitrary::<u8>()?) % TABLE_PAGES * 0x1000);
        self.memory.poke(ste, config | (CDS + stream * 64) | substreams << 59);
        let cd = CDS + stream * 64;
        self.memory.poke(cd + 8, TABLES + u64::from(input.arbitrary::<u8>()?) % TABLE_PAGES * 0x1000);
        self.memory.poke(cd + 16, TABLES + u64::from(input.arbitrary::<u8>()?) % TABLE_PAGES * 0x1000);
        self.memory.poke(cd + 24, 0xff);
        // T0SZ 25, 4 KiB, EPD1, V, IPS 48 bits, AA64, ASET, ASID 1, R, A (5.4).
        self.memory.poke(cd, 0x0001_e205_c000_3519 ^ sparse(input, 0x0000_ffff_ffff_ffff)?);
        Ok(())
    }

    fn operation(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=15)? {
            0..=3 => {
                // A descriptor: the next level's table, a block, or a page, with a few bits otherwise.
                let page = u64::from(input.arbitrary::<u8>()?) % TABLE_PAGES;
                let entry = u64::from(input.arbitrary::<u8>()?) % 8;
                let next = u64::from(input.arbitrary::<u8>()?) % (BYTES / 0x1000);
                let flags = *input.choose(&[3, 3, 0x743, 0x7c3, 0x741, 0x7ff, 0x7fd, 0x343, 0])?;
                let place = TABLES + page * 0x1000 + entry * 8;
                self.memory.poke(place, (BASE + next * 0x1000) | flags ^ sparse(input, u64::MAX)?);
            }
            4 => self.memory.poke(STREAMS + u64::from(input.arbitrary::<u16>()?) * 8 % 0x1_c000, value(input, BYTES)?),
            5 => self.structures(input, input.len() as u64 % 4)?,
            6..=8 => {
                let transaction = transaction(input)?;
                self.memory.allow(ACCESSES);
                let issued = self.smmu.access(&transaction, &self.memory, &mut Nowhere);
                match issued {
                    Issued::Ended(response) => self.check_response(response, transaction.address),
                    Issued::Stalled { slot, .. } => self.stalled.push((slot, transaction.address)),
                    Issued::NoRoom => assert!(!self.stalled.is_empty(), "no room, and nothing stalls"),
                }
            }
            9 => {
                let transaction = transaction(input)?;
                self.memory.allow(ACCESSES);
                let completion = self.smmu.translation_request(&transaction, &self.memory, &mut Nowhere);
                if let Completion::Success { page: PhysAddr(page), span, read, write, execute, .. } = completion {
                    assert!((12..64).contains(&span), "a span of 2^{span}");
                    if read || write || execute {
                        assert!(page.is_multiple_of(4096) && page >> 52 == 0, "{page:#x}");
                    }
                }
            }
            10 => {
                let transaction = transaction(input)?;
                self.memory.allow(ACCESSES);
                let response = self.smmu.translated(&transaction, &self.memory, &mut Nowhere);
                self.check_response(response, transaction.address);
            }
            11 => {
                let Transaction { stream, substream, address, access } = transaction(input)?;
                let group = PrgIndex::from_low_bits(input.arbitrary::<u8>()?.into());
                let address = address & !0xfff;
                let request = PageRequest { stream, substream, address, access, last: input.arbitrary()?, group };
                self.memory.allow(ACCESSES);
                self.smmu.page_request(&request, &self.memory, &mut Nowhere);
            }
            12 => self.poll(),
            13 => {
                let action = u64::from(input.arbitrary::<u8>()?) % 4;
                self.submit([0x44 | (self.event[0] & !0xffff_ffff) | action << 12, self.event[1] & 0xffff]);
                self.poll();
            }
            14 => {
                let option = u64::from(input.arbitrary::<u8>()?);
                self.submit(match option % 6 {
                    0 => [0x03 | (option >> 4) << 32, 1],
                    1 => [0x45 | (option >> 4) << 32, 0],
                    2 => [0x11 | 1 << 48, option >> 4 << 12],
                    3 => [0x2a | 7 << 32, option >> 4 << 12],
                    4 => [0x05 | (option >> 4) << 32, 1],
                    _ => [0x30, 0],
                });
            }
            _ => {
                self.smmu.write_control(*input.choose(&FETCHES)?, u32::from(input.arbitrary::<u8>()? % 8));
            }
        }
        self.check();
        Ok(())
    }

    /// What stalls is polled once.
    fn poll(&mut self) {
        for (slot, address) in std::mem::take(&mut self.stalled) {
            self.memory.allow(ACCESSES);
            match self.smmu.poll(slot, &self.memory, &mut Nowhere) {
                Polled::Ended(response) => self.check_response(response, address),
                Polled::Stalled { .. } => self.stalled.push((slot, address)),
            }
        }
    }

    /// Where an access ends exists, and is in its page where it was.
    fn check_response(&self, response: Response, address: u64) {
        if let Response::Physical(PhysAddr(physical)) = response {
            assert_eq!(physical >> self.profile.features().oas.bits(), 0, "{physical:#x} is no physical address");
            assert_eq!(physical & 0xfff, address & 0xfff);
        }
    }

    /// An access that the SMMU has just translated, without a change in memory, ends once more in the same way.
    fn cached_is_as_walked(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for fetch in FETCHES {
            self.smmu.write_control(fetch, 0);
        }
        for _ in 0..4 {
            let transaction = transaction(input)?;
            for command in [[0x04, 31], [0x30, 0], [0x20, 0], [0x46, 0]] {
                self.submit(command);
            }
            let mut access = || {
                let writes = self.memory.writes();
                self.memory.allow(ACCESSES);
                let issued = self.smmu.access(&transaction, &self.memory, &mut Nowhere);
                (issued, self.memory.writes() != writes)
            };
            let ((first, changed), (second, _)) = (access(), access());
            if let (Issued::Ended(Response::Physical(_)), false) = (first, changed) {
                assert_eq!(first, second, "{transaction:x?}");
            }
        }
        Ok(())
    }

    fn submit(&mut self, words: [u64; 2]) {
        let indices = Indices::of(Queue::Commands, &self.profile.features(), |offset| self.read(offset));
        let slot = COMMANDS + u64::from(indices.size.slot(indices.prod)) * 16;
        self.memory.poke(slot, words[0]);
        self.memory.poke(slot + 8, words[1]);
        self.write(CMDQ_PROD, indices.size.advance(indices.prod, 1).raw().into());
        self.step();
        // Commands that this profile does not have are skipped.
        if (self.read(GERROR) ^ self.read(GERRORN)) & 1 != 0 {
            let slot = COMMANDS + u64::from(indices.size.slot(indices.size.index(self.read(CMDQ_CONS) as u32))) * 16;
            self.memory.poke(slot, 0x46);
            self.write(GERRORN, self.read(GERROR));
            self.step();
        }
    }

    fn step(&mut self) {
        self.memory.allow(1 << 14);
        self.smmu.step(&self.memory, &mut Nowhere, &mut Devices);
    }

    /// Looks at the records and takes them.
    fn check(&mut self) {
        let features = self.profile.features();
        check_registers(&features, false, |offset| self.read(offset));
        for (queue, base, seen) in [(Queue::Events, EVENTS, 0), (Queue::PageRequests, PAGE_REQUESTS, 1)] {
            let indices = Indices::of(queue, &features, |offset| self.read(offset));
            if let Some(event) = check_records(queue, base, self.seen[seen], indices, &self.memory) {
                self.event = event;
            }
            self.seen[seen] = indices.prod;
            let [_, prod, cons] = queue.registers();
            self.write(cons, self.read(prod));
        }
        if let Some(story) = self.smmu.violation() {
            assert!(!story.to_string().is_empty());
            self.smmu.take_violation();
        }
    }

    fn read(&self, offset: usize) -> u64 {
        self.smmu.read(offset, Width::Word)
    }

    fn write(&mut self, offset: usize, value: u64) {
        self.smmu.write(offset, Width::Word, value);
    }

    fn write64(&mut self, offset: usize, value: u64) {
        self.smmu.write(offset, Width::Double, value);
    }
}

/// Mostly 0; else a few bits of `mask`.
fn sparse(input: &mut Unstructured<'_>, mask: u64) -> Result<u64> {
    Ok(match input.int_in_range(0..=7)? {
        0 => 1 << input.int_in_range(0..=63)? & mask,
        1 => 1 << input.int_in_range(0..=63)? & mask | 1 << input.int_in_range(0..=63)? & mask,
        2 => input.arbitrary::<u64>()? & mask,
        _ => 0,
    })
}

/// An access to one of the first pages that the tables tell of, or anywhere.
fn transaction(input: &mut Unstructured<'_>) -> Result<Transaction> {
    let flags = input.arbitrary::<u8>()?;
    let access =
        Access { read: flags & 1 != 0, write: flags & 2 != 0, execute: flags & 4 != 0, privileged: flags & 8 != 0 };
    let substream = if flags & 0x10 != 0 { SubstreamId::new(u32::from(input.arbitrary::<u8>()?) % 4) } else { None };
    let stream = StreamId(if flags & 0xe0 == 0 { input.arbitrary()? } else { u32::from(flags >> 5) % 4 });
    let parts = input.arbitrary::<u16>()?;
    let part = |shift: u32| u64::from(parts >> shift & 7);
    let address = match input.int_in_range(0..=7)? {
        0 => value(input, BYTES)?,
        1 => BASE + u64::from(input.arbitrary::<u16>()?) * 8 % BYTES,
        2 => !0 << 39 | part(0) << 30 | part(3) << 21 | part(6) << 12 | part(9) << 3,
        _ => part(0) << 30 | part(3) << 21 | part(6) << 12 | part(9) << 3,
    };
    Ok(Transaction { stream, substream, address, access })
}
