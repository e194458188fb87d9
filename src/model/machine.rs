//! The whole machine: one SMMU, the engines behind it, and the address decoder in front.

use core::ops::Range;

use super::board::{self, DEFAULT_ENGINES, MAX_ENGINES};
use super::control;
use super::engine::buffers::Buffers;
use super::engine::{Engine, registers};
use super::memory::Memory;
use super::profile::Profile;
use super::smmu::strict::{Story, Violation};
use super::smmu::{Smmu, diagnostics};
use super::wire::Wires;
use crate::smmuv3::features::{Features, FeaturesError, IdRegisters};

/// What brought a core from EL1 to EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A read at this physical address.
    Read(u64),
    /// A write at this physical address.
    Write(u64),
    /// Anything but an access.
    Other,
}

/// The registers that count traps, in order.
const TRAP_COUNTERS: Range<usize> = control::SMMU_READ_TRAPS..control::OTHER_TRAPS + 4;
const TRAP_KINDS: usize = TRAP_COUNTERS.end.abs_diff(TRAP_COUNTERS.start) / 4;

/// How wide a register access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

/// An SMMU and 1 to [`MAX_ENGINES`] DMA engines behind it.
///
/// Registers change by [`write`](Machine::write); everything else happens in [`step`](Machine::step), which is the
/// machine's clock. The caller holds a lock around each call.
#[derive(Debug)]
pub struct Machine {
    smmu: Smmu,
    engines: [Engine; MAX_ENGINES],
    /// How many of the engines there are.
    count: usize,
    /// How many there are to be, where the SMMU has StreamIDs for them.
    wanted: usize,
    /// Whether the last tick, or a write since, left something to do.
    busy: bool,
    /// What the registers that reset leaves UNKNOWN follow from, 0 if they are zero.
    unknown: u32,
    /// The engines that may have something to do, one bit each: the others cost a step nothing.
    awake: u64,
    buffers: Buffers,
    /// How often who runs the machine was trapped into, by kind.
    traps: [u32; TRAP_KINDS],
}

const _: () = assert!(MAX_ENGINES as u32 <= u64::BITS);

impl Machine {
    /// The machine after reset, of the profile [`Profile::Full`], with [`DEFAULT_ENGINES`] DMA engines.
    pub const fn new() -> Self {
        let mut machine = Self {
            smmu: Smmu::new(),
            engines: [const { Engine::new(0) }; MAX_ENGINES],
            count: DEFAULT_ENGINES,
            wanted: DEFAULT_ENGINES,
            busy: false,
            unknown: 0,
            awake: 0,
            buffers: Buffers::new(),
            traps: [0; TRAP_KINDS],
        };
        let mut index = 0;
        while index < MAX_ENGINES {
            machine.engines[index] = Engine::new(index);
            index += 1;
        }
        machine
    }

    fn engines(&mut self) -> &mut [Engine] {
        self.engines.get_mut(..self.count).unwrap_or_default()
    }

    /// Resets everything. From now on the SMMU is one of `profile`, with `engines` engines behind it, 1 to
    /// [`Profile::max_engines`], which have the StreamIDs of [`Profile::engine_stream`]. Other numbers are clamped.
    pub fn reset(&mut self, profile: Profile, engines: usize) {
        self.reset_to(profile.id_registers(), profile.features(), engines);
    }

    /// The same with ID registers that no profile has. What the model does not have is not there, though they may say so
    /// (docs/model.md).
    ///
    /// # Errors
    ///
    /// [`FeaturesError`] for ID registers that contradict the architecture; nothing is reset then.
    pub fn reset_with(&mut self, ids: IdRegisters, engines: usize) -> Result<(), FeaturesError> {
        self.reset_to(ids, Features::decode(ids)?, engines);
        Ok(())
    }

    fn reset_to(&mut self, ids: IdRegisters, features: Features, engines: usize) {
        self.smmu.reset_with(ids, features);
        for (index, engine) in self.engines.iter_mut().enumerate() {
            engine.reset(index, board::wired_stream(index, &features), board::pasid_bits(&features));
        }
        self.count = engines.clamp(1, board::max_engines(&features));
        self.wanted = engines;
        self.busy = false;
        self.unknown = 0;
        self.awake = 0;
        self.buffers = Buffers::new();
        self.traps = [0; TRAP_KINDS];
    }

    /// Counts a trap, for the control page.
    pub fn count_trap(&mut self, trap: Trap) {
        let smmu = board::SMMU_BASE..board::SMMU_BASE + board::SMMU_SIZE;
        let page = board::CONTROL_BASE..board::CONTROL_BASE + board::CONTROL_SIZE;
        let counter = match trap {
            Trap::Read(address) if smmu.contains(&address) => control::SMMU_READ_TRAPS,
            Trap::Write(address) if smmu.contains(&address) => control::SMMU_WRITE_TRAPS,
            Trap::Read(address) | Trap::Write(address) if page.contains(&address) => control::CONTROL_TRAPS,
            Trap::Read(address) | Trap::Write(address)
                if (board::ENGINE_BASE..board::WINDOW.end).contains(&address) =>
            {
                control::ENGINE_TRAPS
            }
            _ => control::OTHER_TRAPS,
        };
        if let Some(count) = self.traps.get_mut((counter - TRAP_COUNTERS.start) / 4) {
            *count = count.wrapping_add(1);
        }
    }

    /// The 32 bits at `offset` of the control page.
    fn read_control(&self, offset: usize) -> u32 {
        match offset {
            control::BUSY => self.busy.into(),
            _ if TRAP_COUNTERS.contains(&offset) => {
                self.traps.get((offset - TRAP_COUNTERS.start) / 4).copied().unwrap_or(0)
            }
            _ => self.smmu.read_control(offset),
        }
    }

    /// Writes 32 bits at `offset` of the control page.
    fn write_control(&mut self, offset: usize, value: u32) {
        if offset != control::RESET {
            return self.smmu.write_control(offset, value);
        }
        let profile = (value as usize).checked_sub(1).and_then(|number| Profile::ALL.get(number));
        if let Some(&profile) = profile {
            let (strict, unknown) = (self.smmu.is_strict(), self.unknown);
            self.reset(profile, self.wanted);
            self.poison_registers(unknown);
            if strict {
                self.be_strict();
            }
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
            Some(Target::Control(offset)) => match width {
                Width::Word => self.read_control(offset).into(),
                Width::Double => u64::from(self.read_control(offset)) | u64::from(self.read_control(offset + 4)) << 32,
            },
            Some(Target::Engine(index, _)) if index >= self.count => 0,
            Some(Target::Engine(index, offset)) => self.engines.get(index).map_or(0, |e| e.read(offset, width)),
            None => 0,
        }
    }

    /// Writes `value` to the register at physical `address`. Where there is none, and for a misaligned access, nothing
    /// happens (6.2).
    pub fn write(&mut self, address: u64, width: Width, value: u64) {
        self.busy = true;
        match decode(address, width) {
            Some(Target::Smmu(offset)) => self.smmu.write(offset, width, value),
            Some(Target::Control(offset)) => {
                self.write_control(offset, value as u32);
                if width == Width::Double {
                    self.write_control(offset + 4, (value >> 32) as u32);
                }
            }
            Some(Target::Engine(index, offset)) => {
                if let Some(engine) = self.engines().get_mut(index) {
                    engine.write(offset, width, value);
                    self.awake |= 1 << index;
                }
            }
            None => {
                if let Some(offset) = address.checked_sub(board::SMMU_BASE).filter(|offset| *offset < board::SMMU_SIZE)
                {
                    self.smmu.misaligned_write(offset as usize, width, value);
                }
            }
        }
    }

    /// Turns strict mode on, until the next reset: a driver's first mistake is a [`violation`](Machine::violation). What
    /// happened before is not known to it.
    pub fn be_strict(&mut self) {
        let control = board::SMMU_BASE + diagnostics::CONTROL as u64;
        self.write(control, Width::Word, diagnostics::control::STRICT.into());
    }

    /// Fills the registers that reset leaves UNKNOWN with values that follow from `seed`
    /// ([`REGISTER_POISON`](diagnostics::REGISTER_POISON)). For right after a reset.
    pub fn poison_registers(&mut self, seed: u32) {
        self.unknown = seed;
        self.write(board::SMMU_BASE + diagnostics::REGISTER_POISON as u64, Width::Word, seed.into());
    }

    /// Makes the caches as bad as the architecture permits: they know the first engine's stream already
    /// ([`CACHE_POISON`](diagnostics::CACHE_POISON)), and are never at rest, as follows from `seed`
    /// ([`CACHE_SEED`](diagnostics::CACHE_SEED)). For right after a reset.
    pub fn poison_caches(&mut self, seed: u32) {
        let first = self.read(board::ENGINE_BASE + registers::STREAM_ID as u64, Width::Word);
        self.write(board::SMMU_BASE + diagnostics::CACHE_POISON as u64, Width::Word, first);
        self.write(board::SMMU_BASE + diagnostics::CACHE_SEED as u64, Width::Word, seed.into());
    }

    /// The first violation that strict mode found, with what led to it.
    pub fn violation(&self) -> Option<Story<'_>> {
        self.smmu.violation()
    }

    /// Takes the first violation: the next one is the first again.
    pub fn take_violation(&mut self) -> Option<Violation> {
        self.smmu.take_violation()
    }

    /// One tick: the SMMU acknowledges register updates and consumes some commands, and each engine makes at most a
    /// page of progress.
    ///
    /// Returns whether anything was done or more can be done without the outside: while this is false the clock may
    /// sleep until the next register write.
    pub fn step(&mut self, memory: &impl Memory, wires: &mut impl Wires) -> bool {
        let engines = self.engines.get_mut(..self.count).unwrap_or_default();
        let mut busy = self.smmu.step(memory, wires, engines);
        let mut rest = self.awake & !self.smmu.held_engines();
        while rest != 0 {
            let index = rest.trailing_zeros();
            rest &= rest - 1;
            let Some(engine) = engines.get_mut(index as usize) else { break };
            busy |= engine.step(&mut self.smmu, &mut self.buffers, memory, wires);
            if engine.is_asleep() {
                self.awake &= !(1 << index);
            }
        }
        self.busy = busy;
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
    Control(usize),
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
        return (offset < board::ENGINE_SIZE).then_some(Target::Engine(index, offset as usize));
    }
    if let Some(offset) = address.checked_sub(board::CONTROL_BASE) {
        return (offset < board::CONTROL_SIZE).then_some(Target::Control(offset as usize));
    }
    let offset = address.checked_sub(board::SMMU_BASE)?;
    (offset < board::SMMU_SIZE).then_some(Target::Smmu(offset as usize))
}
