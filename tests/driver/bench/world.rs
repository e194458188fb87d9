//! Everywhere that a stream can go, each with memory of its own.

use alloc::sync::Arc;
use alloc::vec::Vec;

use smmu_iopf::driver::dma::DmaRegion;
use smmu_iopf::driver::{DriverError, FaultMode, Guest, StreamConfig, Tag, Transition, Translation, Walked};
use smmu_iopf::smmuv3::event::Event;
use smmu_iopf::smmuv3::features::StallModel;
use smmu_iopf::smmuv3::ste::{ContextTableFormat, DefaultSubstream};

use super::Need::{self, Substreams};
use super::{Bench, LIMIT_US, Options, Profile, Space, machine, plain, zeroed};

pub(crate) const PAGES: u64 = 8;
pub(crate) const BYTES: u64 = PAGES * 4096;

/// Where transactions can go, each to memory of its own under the same addresses: those of `memory`.
pub(crate) struct World {
    pub(crate) bench: Bench,
    pub(crate) memory: DmaRegion,
    pub(crate) spaces: [Arc<Space>; 2],
    pub(crate) machines: [Arc<Space>; 2],
}

/// The kinds, with the names that docs/structures.md gives them.
pub(crate) const KINDS: [&str; 6] = ["abort", "bypass", "one CD", "CD table", "stage 2", "nested"];

/// Where a virtual machine has its context descriptors, and behind them one table of each level.
pub(crate) const GUEST: u64 = 0x2000_0000;

/// What it says of them in its entry.
pub(crate) const ONE_CD: Guest = Guest {
    contexts: GUEST,
    substream_bits: 0,
    format: ContextTableFormat::Linear,
    default_substream: DefaultSubstream::Terminate,
};

/// Gives a virtual machine a stage 1 of its own, for transactions without a SubstreamID and those with SubstreamID 1, that maps the
/// pages from `start` on to where they are.
pub(crate) fn guest(machine: &Space, start: u64, stalls: bool) {
    (0..4).for_each(|page| machine.map(GUEST + page * 4096));
    // T0SZ 25, IR0 1, OR0 1, SH0 3, EPD1, V, IPS 2 (40 bits), AA64, R, A, ASET, ASID 0x11; S. TTB0. MAIR (5.4).
    let first = 0x0011_e202_c000_3519 | u64::from(stalls) << 44;
    for descriptor in [GUEST, GUEST + 0x40] {
        [first, GUEST + 0x1000, 0, 0xff]
            .into_iter()
            .zip(0..)
            .for_each(|(word, n)| machine.set_word(descriptor + 8 * n, word));
    }
    let index = |shift: u32| (start >> shift & 0x1ff) * 8;
    machine.set_word(GUEST + 0x1000 + index(30), (GUEST + 0x2000) | 3);
    machine.set_word(GUEST + 0x2000 + index(21), (GUEST + 0x3000) | 3);
    assert_eq!(start >> 21, (start + BYTES - 1) >> 21, "one table of level 3");
    for page in (start..start + BYTES).step_by(4096) {
        machine.set_word(GUEST + 0x3000 + (page >> 12 & 0x1ff) * 8, page | 0xf43);
    }
}

impl World {
    pub(crate) fn new(profile: Profile) -> Self {
        Self::on(Bench::of(profile))
    }

    pub(crate) fn on(bench: Bench) -> Self {
        let memory = zeroed(bench.machine.memory(), BYTES as usize, 4096);
        let spaces = [1, 2].map(|asid| Space::new(&bench, asid));
        let machines = [1, 2].map(|vmid| Space::machine(&bench, vmid));
        for page in 0..PAGES {
            spaces.iter().chain(&machines).for_each(|space| space.map(memory.phys.0 + page * 4096));
        }
        let forced = bench.smmu.features().stall_model == StallModel::Forced;
        machines.iter().for_each(|machine| guest(machine, memory.phys.0, forced));
        Self { bench, memory, spaces, machines }
    }

    /// On an SMMU that has everything but invalidation by ranges.
    #[cfg(not(target_os = "none"))]
    pub(crate) fn without_ranges() -> Self {
        use smmu_iopf::model::profile::Profile as Modelled;
        use smmu_iopf::smmuv3::features::IdRegisters;

        let ids = Modelled::Full.id_registers();
        // RIL (6.3.4).
        let ids = IdRegisters { idr3: ids.idr3 & !(1 << 10), ..ids };
        let machine = machine::Machine::with_ids(machine::memory(4 << 20, true), ids, super::profile::ENGINES).unwrap();
        Self::on(Bench::on(machine, Options { limit_us: LIMIT_US, ..Options::default() }, u64::MAX).unwrap())
    }

    /// The configuration of a kind, the `other` one of it or not.
    pub(crate) fn config(&self, kind: &str, other: bool) -> StreamConfig {
        let translation = match kind {
            "abort" => Translation::Abort,
            "bypass" => Translation::Bypass,
            "one CD" => self.spaces[usize::from(other)].translation(),
            "CD table" => {
                let context = Some(self.spaces[usize::from(other)].context());
                Translation::Stage1 { context, substream_bits: 4 }
            }
            "stage 2" => self.machines[usize::from(other)].translation(),
            "nested" => Translation::Nested(ONE_CD, self.machines[usize::from(other)].stage2()),
            kind => panic!("{kind}"),
        };
        StreamConfig { translation, ..plain(FaultMode::Terminate) }
    }

    /// The word at `offset` of everything that a transaction can reach: memory, address spaces, virtual machines.
    pub(crate) fn words(&self, offset: u64) -> [u64; 5] {
        let [one, two] = [0, 1].map(|space: usize| self.spaces[space].word(self.memory.phys.0 + offset));
        let [three, four] = [0, 1].map(|space: usize| self.machines[space].word(self.memory.phys.0 + offset));
        let word = self.bench.machine.memory().load(self.memory.phys.0 + offset).unwrap();
        [word, one, two, three, four]
    }

    /// Which of [`World::words`] a stream of this kind reaches.
    pub(crate) fn reached(kind: &str, other: bool) -> Option<usize> {
        match kind {
            "abort" => None,
            "bypass" => Some(0),
            "one CD" | "CD table" => Some(1 + usize::from(other)),
            _ => Some(3 + usize::from(other)),
        }
    }

    pub(crate) fn write(&mut self, engine: usize, value: u64) -> u32 {
        self.bench.fill(engine, self.memory.phys.0, BYTES, value, None);
        self.bench.finish([engine]);
        self.bench.state(engine)
    }
}

pub(crate) fn has(profile: Profile, kind: &str) -> bool {
    match kind {
        "CD table" => Substreams.is_met(profile),
        "stage 2" | "nested" => Need::Stage2.is_met(profile),
        _ => true,
    }
}
/// Tables that nobody but the SMMU uses any more.
#[derive(Debug)]
pub(crate) struct Tables(pub(crate) Tag);

impl Walked for Tables {
    fn tag(&self) -> Tag {
        self.0
    }
}

impl World {
    pub(crate) fn change(&mut self, engine: usize, config: &StreamConfig) -> Result<Transition, DriverError> {
        let stream = self.bench.stream(engine);
        self.bench.smmu.change(&mut self.bench.cpu, stream, config)
    }

    pub(crate) fn attach(
        &mut self,
        engine: usize,
        faults: FaultMode,
        translation: Translation,
    ) -> Result<(), DriverError> {
        let stream = self.bench.stream(engine);
        let config = StreamConfig { translation, ..plain(faults) };
        self.bench.smmu.attach(&mut self.bench.cpu, stream, &config)
    }

    pub(crate) fn forget(&mut self, machine: usize) -> Result<(), DriverError> {
        let machine = Tables(self.machines[machine].tag);
        match self.bench.smmu.forget(&mut self.bench.cpu, machine) {
            Ok(_) => Ok(()),
            Err(remembered) => Err(remembered.error),
        }
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        core::mem::take(&mut *self.bench.sink.0.lock())
    }
}
