//! The whole machine: one SMMU, the engines behind it, and the address decoder in front.

use super::board::{self, ENGINES};
use super::engine::Engine;
use super::memory::Memory;
use super::profile::Profile;
use super::smmu::Smmu;
use super::wire::Wires;

/// How wide a register access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

/// An SMMU and [`ENGINES`] DMA engines behind it.
///
/// Registers change by [`write`](Machine::write); everything else happens in [`step`](Machine::step), which is the
/// machine's clock. The caller holds a lock around each call.
#[derive(Debug)]
pub struct Machine {
    smmu: Smmu,
    engines: [Engine; ENGINES],
}

impl Machine {
    /// The machine after reset, of the profile [`Profile::Full`].
    pub const fn new() -> Self {
        Self { smmu: Smmu::new(), engines: [Engine::new(0), Engine::new(1), Engine::new(2), Engine::new(3)] }
    }

    /// Resets everything. From now on the SMMU is one of `profile`, and the engines have the StreamIDs of
    /// [`Profile::engine_stream`].
    pub fn reset(&mut self, profile: Profile) {
        self.smmu.reset(profile);
        for (index, engine) in self.engines.iter_mut().enumerate() {
            engine.reset(profile.engine_stream(index));
        }
    }

    /// The SMMU fails: it enters service failure mode, which only [`reset`](Machine::reset) ends (12.3).
    pub fn fail(&mut self, memory: &impl Memory, wires: &mut impl Wires) {
        self.smmu.fail(memory, wires);
    }

    /// Reads the register at physical `address`. Where there is none, and for a misaligned access, zero (6.2).
    pub fn read(&self, address: u64, width: Width) -> u64 {
        match decode(address, width) {
            Some(Target::Smmu(offset)) => self.smmu.read(offset, width),
            Some(Target::Engine(index, offset)) => self.engines.get(index).map_or(0, |e| e.read(offset, width)),
            None => 0,
        }
    }

    /// Writes `value` to the register at physical `address`. Where there is none, and for a misaligned access, nothing
    /// happens (6.2).
    pub fn write(&mut self, address: u64, width: Width, value: u64) {
        match decode(address, width) {
            Some(Target::Smmu(offset)) => self.smmu.write(offset, width, value),
            Some(Target::Engine(index, offset)) => {
                if let Some(engine) = self.engines.get_mut(index) {
                    engine.write(offset, width, value);
                }
            }
            None => {}
        }
    }

    /// One tick: the SMMU acknowledges register updates and consumes some commands, and each engine makes at most a
    /// page of progress.
    ///
    /// Returns whether anything was done or more can be done without the outside: while this is false the clock may
    /// sleep until the next register write.
    pub fn step(&mut self, memory: &impl Memory, wires: &mut impl Wires) -> bool {
        let mut busy = self.smmu.step(memory, wires, &mut self.engines[..]);
        for engine in &mut self.engines {
            busy |= engine.step(&mut self.smmu, memory, wires);
        }
        busy
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

enum Target {
    Smmu(usize),
    Engine(usize, usize),
}

fn decode(address: u64, width: Width) -> Option<Target> {
    let size = match width {
        Width::Word => 4,
        Width::Double => 8,
    };
    if !address.is_multiple_of(size) {
        return None;
    }
    if let Some(offset) = address.checked_sub(board::ENGINE_BASE) {
        let index = usize::try_from(offset / board::ENGINE_STRIDE).ok()?;
        let offset = offset % board::ENGINE_STRIDE;
        return (index < ENGINES && offset < board::ENGINE_SIZE).then_some(Target::Engine(index, offset as usize));
    }
    let offset = address.checked_sub(board::SMMU_BASE)?;
    (offset < board::SMMU_SIZE).then_some(Target::Smmu(offset as usize))
}
