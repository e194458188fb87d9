//! Random histories of streams and mappings: each write of a device goes where what was done last says, and nowhere else.

use alloc::sync::Arc;
use alloc::vec::Vec;

use smmu_iopf::driver::{FaultMode, Pages, StreamConfig, Tag};
use smmu_iopf::model::engine::registers::status;

use super::bench::Need::{Stage2, Termination};
use super::bench::random::Random;
use super::bench::{Bench, Profile, Space, on_each, plain};

scenarios![whatever_was_done_before_a_write_goes_where_stream_and_mapping_lead];

const BASE: u64 = 0x1000_0000;
const PAGES: usize = 4;
const STREAMS: usize = 3;
const STEPS: u64 = 300;

/// Streams, what they may lead to, and what both are by what was done.
struct World {
    bench: Bench,
    spaces: Vec<Arc<Space>>,
    mapped: Vec<[bool; PAGES]>,
    streams: [Option<usize>; STREAMS],
    /// Writes that were terminated.
    aborted: usize,
}

fn address(page: usize) -> u64 {
    BASE + 4096 * page as u64
}

impl World {
    fn new(profile: Profile) -> Self {
        let bench = Bench::of(profile);
        let mut spaces: Vec<_> = [1, 2].map(|asid| Space::new(&bench, asid)).into();
        if Stage2.is_met(profile) {
            spaces.extend([1, 2].map(|vmid| Space::machine(&bench, vmid)));
        }
        let mapped = spaces.iter().map(|_| [false; PAGES]).collect();
        Self { bench, spaces, mapped, streams: [None; STREAMS], aborted: 0 }
    }

    /// Has the stream of an engine lead to a space, or nowhere.
    fn lead(&mut self, engine: usize, space: Option<usize>) {
        let stream = self.bench.stream(engine);
        let Bench { smmu, cpu, .. } = &mut self.bench;
        let config = |space: usize| StreamConfig {
            translation: self.spaces[space].translation(),
            ..plain(FaultMode::Terminate)
        };
        match (self.streams[engine], space) {
            (None, None) => {}
            (Some(_), None) => smmu.detach(cpu, stream).unwrap(),
            (None, Some(space)) => smmu.attach(cpu, stream, &config(space)).unwrap(),
            (Some(_), Some(space)) => _ = smmu.change(cpu, stream, &config(space)).unwrap(),
        }
        self.streams[engine] = space;
    }

    /// Has the SMMU forget a page whose entry is another by now.
    fn invalidate(&mut self, space: usize, page: usize) {
        let grace = self.bench.grace();
        let Bench { smmu, cpu, .. } = &mut self.bench;
        let _ = match self.spaces[space].tag {
            Tag::AddressSpace(asid) => {
                smmu.invalidate(cpu, &grace, asid, &Pages { first: address(page), count: 1 }.into()).unwrap()
            }
            Tag::VirtualMachine(vmid) => smmu.invalidate_vmid(cpu, &grace, vmid).unwrap(),
        };
    }

    /// Has an engine write to a page.
    fn write(&mut self, engine: usize, page: usize, value: u64) {
        let target = self.streams[engine].filter(|space| self.mapped[*space][page]);
        self.bench.fill(engine, address(page), 8, value, None);
        self.bench.finish([engine]);
        self.aborted += usize::from(target.is_none());
        let state = if target.is_some() { status::DONE } else { status::ABORTED };
        assert_eq!(self.bench.state(engine), state, "write {value}");
        for (space, one) in self.spaces.iter().enumerate() {
            assert_eq!(one.word(address(page)) == value, Some(space) == target, "write {value}, space {space}");
        }
        assert_eq!(self.bench.sink.0.lock().len(), self.aborted, "write {value}: a record each");
    }

    fn step(&mut self, random: &mut Random, number: u64) {
        let (engine, page, space) = (random.below(STREAMS), random.below(PAGES), random.below(self.spaces.len()));
        match random.below(10) {
            0 => self.lead(engine, None),
            1 | 2 => self.lead(engine, Some(space)),
            // What was invalid is remembered nowhere.
            3 if !self.mapped[space][page] => {
                self.spaces[space].map(address(page));
                self.mapped[space][page] = true;
            }
            4 if self.mapped[space][page] => {
                self.spaces[space].hide(address(page));
                self.mapped[space][page] = false;
                self.invalidate(space, page);
            }
            5 if self.mapped[space][page] => {
                self.spaces[space].remap(address(page));
                self.invalidate(space, page);
            }
            _ => self.write(engine, page, number),
        }
    }
}

fn whatever_was_done_before_a_write_goes_where_stream_and_mapping_lead() {
    on_each(&[Termination], |profile| {
        for seed in 1..=4_u64 {
            let (mut world, mut random) = (World::new(profile), Random::new(seed));
            (1..=STEPS).for_each(|number| world.step(&mut random, number));
            assert!(world.aborted > 0 && world.aborted < STEPS as usize / 2, "{} aborted", world.aborted);
        }
    });
}
