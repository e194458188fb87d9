//! The machine on the host: memory, and a driver's view of the registers.
//!
//! [`HostSmmu`] is the driver's [`Registers`] and, through [`HostSmmu::delay`], its clock: whenever something waits, the
//! machine steps. So driver, fault core and model run together in an ordinary test, on one thread or many.
//!
//! The machine is [strict](super::smmu::strict): a driver's first mistake panics with its story, in whatever call it is
//! seen. A test that means a mistake asks for [`HostSmmu::keep_violations`]. Registers that reset leaves UNKNOWN hold
//! anything.
//!
//! [`HostMemory::behind_caches`] is memory for an SMMU whose accesses are not coherent.

mod caches;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::string::ToString;
use std::sync::{Mutex, MutexGuard, PoisonError};

use embedded_hal::delay::DelayNs;

use self::caches::{Caches, LINE};
use super::board;
use super::machine::{Machine, Width};
use super::memory::{Abort, Memory};
use super::profile::Profile;
use super::smmu::strict::Violation;
use super::wire::{Wire, Wires};
use crate::driver::dma::{CacheMaintenance, DmaMemory, DmaRegion, NoMemory};
use crate::driver::registers::Registers;
use crate::smmuv3::PhysAddr;
use crate::smmuv3::features::{FeaturesError, IdRegisters};
use crate::smmuv3::registers::Register;

/// The physical address at which the host's memory starts, as RAM does on the board.
pub const MEMORY_BASE: u64 = 0x4000_0000;

/// What the registers that reset leaves UNKNOWN follow from.
const UNKNOWN: u32 = 0x5eed;

/// An arena of physical memory, given out once and for ever.
#[derive(Debug)]
pub struct HostMemory {
    /// What the CPU sees.
    words: &'static [AtomicU64],
    /// What the machine sees: the same where there are no caches between.
    memory: &'static [AtomicU64],
    caches: Option<&'static Caches>,
    /// The words given out.
    used: AtomicUsize,
    /// The words up to the last one that was written by address.
    written: AtomicUsize,
}

impl HostMemory {
    /// `bytes` of zeroed memory at [`MEMORY_BASE`]. It is never freed.
    pub fn new(bytes: usize) -> Self {
        let words: Vec<AtomicU64> = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
        let words = words.leak();
        Self { words, memory: words, caches: None, used: AtomicUsize::new(0), written: AtomicUsize::new(0) }
    }

    /// The same behind caches of the CPU that the machine, engines included, does not see into: it has its own view, which holds junk until
    /// the CPU's is cleaned. With a `seed` other than 0 lines of 128 bytes are also written back, if the CPU has changed them, or filled
    /// again at random, as in any cache; with 0 nothing moves but by [maintenance](DmaMemory::maintenance).
    ///
    /// An invalidation that loses what the CPU wrote panics.
    pub fn behind_caches(bytes: usize, seed: u32) -> Self {
        let without = Self::new(bytes);
        let caches = Caches::new(without.words, seed);
        Self { memory: caches.memory, caches: Some(caches), ..without }
    }

    /// How many cache lines were maintained since the start.
    pub fn maintained(&self) -> usize {
        self.caches.map_or(0, Caches::maintained)
    }

    /// How large it is, in bytes.
    pub fn size(&self) -> usize {
        8 * self.words.len()
    }

    /// Zeroes it and gives it out anew: for one machine after another on the same memory. Who has memory of
    /// before, shares it with others now.
    pub fn start_over(&self) {
        let used = self.used.swap(0, Ordering::Relaxed).max(self.written.swap(0, Ordering::Relaxed));
        self.words.iter().take(used).for_each(|word| word.store(0, Ordering::Relaxed));
        self.caches.iter().for_each(|caches| caches.start_over(used));
    }

    /// The 64-bit word at physical `address`, as a driver sees it that has maintained its caches for that; `None` where there is no
    /// memory or `address` is no multiple of 8. The machine's own accesses are those of [`Memory`].
    pub fn load(&self, address: u64) -> Option<u64> {
        let index = Self::index(address)?;
        self.caches.iter().for_each(|caches| caches.settle(index));
        Some(self.words.get(index)?.load(Ordering::Relaxed))
    }

    /// Writes the 64-bit word at physical `address`, likewise; `None` where [`load`](HostMemory::load) gives it.
    pub fn store(&self, address: u64, value: u64) -> Option<()> {
        let index = Self::index(address)?;
        self.words.get(index)?.store(value, Ordering::Relaxed);
        self.written.fetch_max(index + 1, Ordering::Relaxed);
        self.caches.iter().for_each(|caches| caches.settle(index));
        Some(())
    }

    /// [`word`](HostMemory::word), to write to.
    fn word_to_write(&self, address: PhysAddr) -> Result<(&'static AtomicU64, usize), Abort> {
        let found = self.word(address)?;
        self.written.fetch_max((address.0 - MEMORY_BASE) as usize / 8 + 1, Ordering::Relaxed);
        Ok(found)
    }

    /// The number of the word at `address`, if that is a multiple of 8.
    fn index(address: u64) -> Option<usize> {
        let offset = address.checked_sub(MEMORY_BASE).filter(|offset| offset.is_multiple_of(8))?;
        usize::try_from(offset / 8).ok()
    }

    /// The machine's word that holds the byte at `address`, and that byte's place in it.
    fn word(&self, PhysAddr(address): PhysAddr) -> Result<(&'static AtomicU64, usize), Abort> {
        let offset = address.checked_sub(MEMORY_BASE).ok_or(Abort)?;
        let index = usize::try_from(offset / 8).map_err(|_| Abort)?;
        let word = self.memory.get(index).ok_or(Abort)?;
        if let Some(caches) = self.caches {
            caches.disturb(index, self.used.load(Ordering::Relaxed));
        }
        Ok((word, (offset % 8) as usize))
    }
}

/// The word of an address that is a multiple of 8.
fn aligned((word, first): (&AtomicU64, usize)) -> Result<&AtomicU64, Abort> {
    if first == 0 { Ok(word) } else { Err(Abort) }
}

impl DmaMemory for HostMemory {
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory> {
        // Behind caches, lines of its own.
        let line = if self.caches.is_some() { LINE } else { 1 };
        let align_words = (align / 8).max(line);
        let mut start = 0;
        let update = |used: usize| {
            start = used.next_multiple_of(align_words);
            Some((start + bytes.div_ceil(8)).next_multiple_of(line)).filter(|&end| end <= self.words.len())
        };
        // Only uniqueness matters: what is given out was zeroed before the arena existed.
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).map_err(|_| NoMemory { bytes, align })?;
        let words = self.words.get(start..start + bytes.div_ceil(8)).ok_or(NoMemory { bytes, align })?;
        Ok(DmaRegion { phys: PhysAddr(MEMORY_BASE + start as u64 * 8), words })
    }

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        self.caches.map(|caches| caches as _)
    }
}

// Relaxed accesses suffice: the lock around the machine orders them.
impl Memory for HostMemory {
    fn read64(&self, address: PhysAddr) -> Result<u64, Abort> {
        aligned(self.word(address)?).map(|word| word.load(Ordering::Relaxed))
    }

    fn write64(&self, address: PhysAddr, value: u64) -> Result<(), Abort> {
        aligned(self.word_to_write(address)?).map(|word| word.store(value, Ordering::Relaxed))
    }

    // Release: pairs with an Acquire load of whoever polls for the message.
    fn write32(&self, address: PhysAddr, value: u32) -> Result<(), Abort> {
        let (word, first) = self.word_to_write(address)?;
        if !first.is_multiple_of(4) {
            return Err(Abort);
        }
        let merge = |old: u64| Some(old & !(0xffff_ffff << (8 * first)) | u64::from(value) << (8 * first));
        // The closure always gives a value, so this cannot fail.
        let _ = word.fetch_update(Ordering::Release, Ordering::Relaxed, merge);
        Ok(())
    }

    fn compare_exchange64(&self, address: PhysAddr, expected: u64, new: u64) -> Result<u64, Abort> {
        let word = aligned(self.word_to_write(address)?)?;
        let held = word.compare_exchange(expected, new, Ordering::SeqCst, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Ok(held.unwrap_or_else(|other| other))
    }

    fn read(&self, address: PhysAddr, bytes: &mut [u8]) -> Result<(), Abort> {
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (word, first) = self.word(at)?;
            let (part, after) = rest.split_at_mut(rest.len().min(8 - first));
            part.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[first..first + part.len()]);
            at = PhysAddr(at.0 + part.len() as u64);
            rest = after;
        }
        Ok(())
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), Abort> {
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (word, first) = self.word_to_write(at)?;
            let (part, after) = rest.split_at(rest.len().min(8 - first));
            let merge = |old: u64| {
                let mut new = old.to_le_bytes();
                new[first..first + part.len()].copy_from_slice(part);
                Some(u64::from_le_bytes(new))
            };
            // The closure always gives a value, so this cannot fail.
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merge);
            at = PhysAddr(at.0 + part.len() as u64);
            rest = after;
        }
        Ok(())
    }
}

/// The interrupts raised, and the WFE wake-up events sent, since they were last taken.
#[derive(Debug)]
struct Raised {
    wires: Vec<Wire>,
    events: u64,
}

impl Raised {
    fn new() -> Self {
        // Room for those of a test that looks at allocations, which are to be the driver's alone.
        Self { wires: Vec::with_capacity(1 << 10), events: 0 }
    }
}

impl Wires for Raised {
    fn raise(&mut self, wire: Wire) {
        self.wires.push(wire);
    }

    fn send_event(&mut self) {
        self.events += 1;
    }
}

/// The machine on the host, shared by threads.
#[derive(Debug)]
pub struct HostSmmu {
    memory: Arc<HostMemory>,
    /// In a box, since it is large for a stack.
    machine: Mutex<(Box<Machine>, Raised)>,
    /// A violation does not panic.
    keeps_violations: AtomicBool,
}

impl HostSmmu {
    /// A machine of profile [`Profile::Full`] with its usual engines after reset, in front of `memory`.
    pub fn new(memory: Arc<HostMemory>) -> Arc<Self> {
        Self::with(memory, Profile::Full, board::DEFAULT_ENGINES)
    }

    /// A machine of this profile with `engines` engines, 1 to [`board::MAX_ENGINES`], after reset, in front of `memory`.
    pub fn with(memory: Arc<HostMemory>, profile: Profile, engines: usize) -> Arc<Self> {
        let mut machine = Box::<Machine>::default();
        machine.reset(profile, engines);
        Self::started(memory, machine)
    }

    /// The same with ID registers that no profile has.
    ///
    /// # Errors
    ///
    /// [`FeaturesError`] for ID registers that contradict the architecture.
    pub fn with_ids(memory: Arc<HostMemory>, ids: IdRegisters, engines: usize) -> Result<Arc<Self>, FeaturesError> {
        let mut machine = Box::<Machine>::default();
        machine.reset_with(ids, engines)?;
        Ok(Self::started(memory, machine))
    }

    fn started(memory: Arc<HostMemory>, mut machine: Box<Machine>) -> Arc<Self> {
        machine.poison_registers(UNKNOWN);
        machine.be_strict();
        let keeps_violations = AtomicBool::new(false);
        Arc::new(Self { memory, machine: Mutex::new((machine, Raised::new())), keeps_violations })
    }

    /// From now on a driver's mistake does not panic, but waits for [`HostSmmu::take_violation`].
    pub fn keep_violations(&self) {
        self.keeps_violations.store(true, Ordering::Relaxed);
    }

    /// The first mistake of the driver since the start or the last call.
    pub fn take_violation(&self) -> Option<Violation> {
        self.lock().0.take_violation()
    }

    /// The memory.
    pub fn memory(&self) -> &Arc<HostMemory> {
        &self.memory
    }

    // A test that panicked while it held the machine leaves it as it was between two of its steps.
    fn lock(&self) -> MutexGuard<'_, (Box<Machine>, Raised)> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the machine do something, and panics if the driver has made a mistake.
    fn with_machine<R>(&self, operation: impl FnOnce(&mut Machine, &mut Raised) -> R) -> R {
        let mut guard = self.lock();
        let (machine, raised) = &mut *guard;
        let result = operation(machine, raised);
        let story = machine.violation().filter(|_| !self.keeps_violations.load(Ordering::Relaxed));
        let story = story.map(|story| story.to_string());
        drop(guard);
        if let Some(story) = story.filter(|_| !std::thread::panicking()) {
            panic!("{story}");
        }
        result
    }

    /// One tick of the machine. Returns whether anything was done.
    pub fn step(&self) -> bool {
        self.with_machine(|machine, raised| machine.step(&*self.memory, raised))
    }

    /// Steps until nothing is left to do, at most `limit` times. Returns the number of steps.
    pub fn run(&self, limit: usize) -> usize {
        (0..limit).find(|_| !self.step()).unwrap_or(limit)
    }

    /// The interrupts raised since the last call, in order.
    pub fn take_raised(&self) -> Vec<Wire> {
        self.lock().1.wires.drain(..).collect()
    }

    /// How many WFE wake-up events were sent since the last call. Nothing on the host waits for one.
    pub fn take_events(&self) -> u64 {
        core::mem::take(&mut self.lock().1.events)
    }

    /// Reads the register at physical `address`.
    pub fn read(&self, address: u64, width: Width) -> u64 {
        self.with_machine(|machine, _| machine.read(address, width))
    }

    /// Writes the register at physical `address`.
    pub fn write(&self, address: u64, width: Width, value: u64) {
        self.with_machine(|machine, _| machine.write(address, width, value));
    }

    /// Reads 32 bits of engine `engine`'s register at `offset`.
    pub fn read_engine(&self, engine: usize, offset: usize) -> u32 {
        self.read(board::engine_base(engine) + offset as u64, Width::Word) as u32
    }

    /// Writes 32 bits to engine `engine`'s register at `offset`.
    pub fn write_engine(&self, engine: usize, offset: usize, value: u32) {
        self.write(board::engine_base(engine) + offset as u64, Width::Word, value.into());
    }

    /// Writes 64 bits to engine `engine`'s register at `offset`.
    pub fn write_engine64(&self, engine: usize, offset: usize, value: u64) {
        self.write(board::engine_base(engine) + offset as u64, Width::Double, value);
    }

    /// Reads 32 bits of the [control page](super::control) at `offset`.
    pub fn read_control(&self, offset: usize) -> u32 {
        self.read(board::CONTROL_BASE + offset as u64, Width::Word) as u32
    }

    /// Writes 32 bits to the [control page](super::control) at `offset`.
    pub fn write_control(&self, offset: usize, value: u32) {
        self.write(board::CONTROL_BASE + offset as u64, Width::Word, value.into());
    }

    /// A delay that steps the machine: once for each call, whatever its length.
    pub fn delay(self: &Arc<Self>) -> HostDelay {
        HostDelay(self.clone())
    }
}

impl Registers for HostSmmu {
    fn read32(&self, register: Register) -> u32 {
        self.read(board::SMMU_BASE + register.offset() as u64, Width::Word) as u32
    }

    fn write32(&self, register: Register, value: u32) {
        self.write(board::SMMU_BASE + register.offset() as u64, Width::Word, value.into());
    }

    fn write64(&self, register: Register, value: u64) {
        self.write(board::SMMU_BASE + register.offset() as u64, Width::Double, value);
    }
}

/// Time on the host: to wait is to let the machine work.
#[derive(Clone, Debug)]
pub struct HostDelay(Arc<HostSmmu>);

impl DelayNs for HostDelay {
    fn delay_ns(&mut self, _ns: u32) {
        self.0.step();
    }

    fn delay_us(&mut self, _us: u32) {
        self.0.step();
    }

    fn delay_ms(&mut self, _ms: u32) {
        self.0.step();
    }
}
