//! The firmware's life: from the first instruction in Rust to EL1, the clock, and the end.

use core::panic::PanicInfo;
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use aarch64_cpu::asm;
use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, Readable};
use heapless::{String, Vec};
use spin::mutex::{SpinMutex, SpinMutexGuard};
use spin::{Once, RelaxStrategy};

use super::clock::{self, Pulse};
use super::console::{condemn, die, say};
use super::gic::{self, Distributor, GicError};
use super::memory::GuestMemory;
use super::stage2::GIB;
use super::{IMAGE, KERNEL, TREE, cpu, psci, stage2};
use crate::model::board;
use crate::model::device_tree::{self, Core, TreeError};
use crate::model::machine::{Machine, Trap, Width};
use crate::model::memory::Memory;
use crate::model::profile::Profile;
use crate::smmuv3::PhysAddr;
use crate::sync::cpu::MAX_CORES;
use crate::sync::pause;

/// The most bytes that the new device tree may have. QEMU's are about 8 KiB.
const TREE_ROOM: usize = 0x1_0000;

/// What follows from it in strict mode: the registers that reset leaves UNKNOWN, what caches forget and read ahead, and when.
const SEED: u32 = 0x5eed;

/// The longest command line that is understood, and the room for a name in an error, in bytes.
const COMMAND_LINE: usize = 1024;
const NAME: usize = 64;

/// A mutex whose waiters [`pause`]. EL2 runs with interrupts masked, so that it needs no proof of that.
type Mutex<T> = SpinMutex<T, Pause>;

/// Waits as [`pause`] does.
pub(super) struct Pause;

impl RelaxStrategy for Pause {
    fn relax() {
        pause();
    }
}

/// What the cores share.
pub(super) struct Shared {
    /// How many cores are about to access the machine's registers. The clock leaves them the lock.
    waiting: AtomicU32,
    pub(super) pulse: Pulse,
    memory: GuestMemory,
    /// All cores, in the device tree's order; the first is the one QEMU started.
    pub(super) cores: Vec<Core, MAX_CORES>,
    /// Which of them is the machine's clock.
    pub(super) clock: Option<usize>,
    /// Held by whoever is in CPU_ON.
    pub(super) cpu_on: Mutex<()>,
    pub(super) distributor: Distributor,
    /// Where the redistributors are.
    redistributors: u64,
}

static MACHINE: Mutex<Machine> = Mutex::new(Machine::new());
static SHARED: Once<Shared> = Once::new();
static NEW_TREE: Mutex<[u8; TREE_ROOM]> = Mutex::new([0; TREE_ROOM]);

/// Where a core enters EL1, and what is in x0 then.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    pub(super) address: u64,
    pub(super) argument: u64,
}

impl Shared {
    /// Reads a register of the machine. No register can be accessed in parts, without a `width`: such reads give zero.
    pub(super) fn read(&self, address: u64, width: Option<Width>) -> u64 {
        self.access(Trap::Read(address), |machine| width.map_or(0, |width| machine.read(address, width)))
    }

    /// Writes a register of the machine, and sees to it that the machine acts on it. Without a `width` nothing is written.
    pub(super) fn write(&self, address: u64, width: Option<Width>, value: u64) {
        self.access(Trap::Write(address), |machine| {
            if let Some(width) = width {
                machine.write(address, width, value);
            }
        });
        if let Some(clock) = self.clock.and_then(|index| self.cores.get(index)) {
            self.pulse.wake(clock.mpidr);
        }
    }

    /// Counts a trap that is no access.
    pub(super) fn count_other_trap(&self) {
        self.machine().count_trap(Trap::Other);
    }

    /// One tick of the machine; whether there is more to do at once.
    pub(super) fn step(&self) -> bool {
        self.tick(&mut MACHINE.lock())
    }

    /// Whether a core waits for the machine.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// The machine, for a trap: who steps it makes way.
    fn machine(&self) -> SpinMutexGuard<'static, Machine, Pause> {
        self.waiting.fetch_add(1, Relaxed);
        let machine = MACHINE.lock();
        self.waiting.fetch_sub(1, Relaxed);
        machine
    }

    fn access<R>(&self, trap: Trap, access: impl FnOnce(&mut Machine) -> R) -> R {
        let mut machine = self.machine();
        machine.count_trap(trap);
        let result = access(&mut machine);
        judge(&machine);
        let steps = self.pulse.accessed(matches!(trap, Trap::Write(_))).max(u32::from(self.clock.is_none()));
        for _ in 0..steps {
            if !self.tick(&mut machine) {
                break;
            }
        }
        result
    }

    fn tick(&self, machine: &mut Machine) -> bool {
        let busy = machine.step(&self.memory, &mut &self.distributor);
        judge(machine);
        self.pulse.stepped(busy);
        busy
    }
}

/// Why the firmware does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("no profile is called '{0}'")]
    Profile(String<NAME>),
    #[error("this core lacks {0}")]
    Core(#[from] cpu::Lack),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("this is core {here:#x}, and not {first:#x}, the first in the device tree")]
    NotFirst { here: u64, first: u64 },
    #[error(transparent)]
    Gic(#[from] GicError),
    #[error("argument engines= wants 1 to {}", board::MAX_ENGINES)]
    Engines,
    #[error("profile {profile} has StreamIDs for {most} engines")]
    TooManyEngines { profile: &'static str, most: usize },
    #[error("nothing is loaded at {KERNEL:#x}: QEMU needs -device loader,file=...")]
    NoKernel,
    #[error("PSCI does not start core {mpidr:#x}: error {error}")]
    Clock { mpidr: u64, error: i64 },
}

/// What the first core does: everything before EL1.
pub extern "C" fn start(_index: u64) -> Entry {
    match boot() {
        Ok(entry) => entry,
        Err(refusal) => {
            say!("{refusal}");
            die()
        }
    }
}

/// What the command line asks for.
struct Options {
    profile: Profile,
    engines: usize,
    strict: bool,
}

/// What the command line asks for with `profile=NAME`, `engines=N` and `strict`: the profile with everything, the usual engines and
/// leniency, if it does not. It is the kernel's command line too; one that is missing or too long asks for nothing.
fn options() -> Result<Options, Refusal> {
    let (mut profile, mut engines, mut strict) = (Profile::Full, board::DEFAULT_ENGINES, false);
    let Ok(arguments) = semihosting::experimental::env::args::<COMMAND_LINE>() else {
        return Ok(Options { profile, engines, strict });
    };
    for argument in (&arguments).skip(1).filter_map(Result::ok) {
        strict |= argument == "strict";
        match argument.split_once('=') {
            Some(("profile", name)) => {
                let unknown = || Refusal::Profile(name.chars().take(NAME / 4).collect());
                profile = Profile::from_name(name).ok_or_else(unknown)?;
            }
            Some(("engines", count)) => engines = board::parse_engines(count).ok_or(Refusal::Engines)?,
            _ => {}
        }
    }
    if engines > profile.max_engines() {
        return Err(Refusal::TooManyEngines { profile: profile.name(), most: profile.max_engines() });
    }
    Ok(Options { profile, engines, strict })
}

/// Ends QEMU with the story if the software at EL1 has broken a rule (strict mode).
fn judge(machine: &Machine) {
    if let Some(story) = machine.violation() {
        end_once();
        say!("{story}");
        condemn()
    }
}

fn boot() -> Result<Entry, Refusal> {
    cpu::check()?;
    let Options { profile, engines, strict } = options()?;
    let mut machine = MACHINE.lock();
    machine.reset(profile, engines);
    if strict {
        machine.poison_registers(SEED);
        machine.poison_caches(SEED);
        machine.be_strict();
    }
    drop(machine);

    // SAFETY: QEMU put its device tree here, and nothing else lies between here and the kernel. No other core runs.
    let room = unsafe { slice::from_raw_parts_mut(TREE as *mut u8, (KERNEL - TREE) as usize) };
    let found = device_tree::survey(room)?;
    let here = cpu::affinity();
    let first = found.cores.first().map_or(0, |core| core.mpidr);
    if here != first {
        return Err(Refusal::NotFirst { here, first });
    }
    let clock = found.cores.len().checked_sub(1).filter(|last| *last > 0);
    let mut new_tree = NEW_TREE.lock();
    let clock_core = clock.and_then(|index| found.cores.get(index));
    let length = device_tree::splice(room, &found, IMAGE, clock_core, profile, engines, &mut *new_tree)?;
    room[..length].copy_from_slice(&new_tree[..length]);

    // What lies above is not mapped as device memory.
    let its = found.its.filter(|its| its.base < GIB - board::ITS_SIZE);
    let visible = found.memory.iter().flat_map(|range| device_tree::without(range, &IMAGE));
    // SAFETY: the device tree names these as memory, boot/el2.S maps what memory the board may have, and all of this
    // image's objects are in IMAGE. `room` is not used any more. The tree has an ITS at `its`, in the first GiB, which is mapped
    // as device memory.
    let memory = unsafe { GuestMemory::new(visible, its.map(|its| its.base + board::ITS_TRANSLATER)) };
    if !memory.read64(PhysAddr(KERNEL)).is_ok_and(|word| word != 0) {
        return Err(Refusal::NoKernel);
    }
    // SAFETY: the device tree has a GICv3's distributor there, and the first GiB is mapped as device memory.
    let distributor = unsafe { Distributor::new(found.distributor, profile.has_one_wire()) }?;
    let shared = SHARED.call_once(|| Shared {
        waiting: AtomicU32::new(0),
        pulse: Pulse::new(),
        memory,
        cores: found.cores,
        clock,
        cpu_on: Mutex::new(()),
        distributor,
        redistributors: found.redistributors,
    });
    cpu::prepare(stage2::build(), clock.is_none());
    if let Some(clock) = clock {
        let mpidr = shared.cores[clock].mpidr;
        match psci::start(mpidr, clock) {
            0 => {}
            error => return Err(Refusal::Clock { mpidr, error }),
        }
    }
    let (smmu, cores, name) = (board::SMMU_BASE, shared.cores.len(), profile.name());
    match clock {
        Some(_) => {
            say!(
                "SMMUv3 at {smmu:#x}, profile {name}, and {engines} engines; the last of {cores} cores is their clock"
            );
        }
        None => say!("SMMUv3 at {smmu:#x}, profile {name}, and {engines} engines, stepped in traps"),
    }
    Ok(Entry { address: KERNEL, argument: TREE })
}

/// What every other core does: the clock stays, and the rest is prepared for EL1.
pub extern "C" fn start_secondary(index: u64) -> Entry {
    let shared = shared();
    let index = index as usize;
    if let Err(lack) = cpu::check() {
        say!("core {index} lacks {lack}");
        die();
    }
    if shared.clock == Some(index) {
        be_clock(shared);
    }
    cpu::prepare(stage2::address(), false);
    psci::entry(index)
}

fn be_clock(shared: &Shared) -> ! {
    // SAFETY: the device tree has a GICv3's redistributors there, the first GiB is mapped as device memory, and the tree
    // that EL1 sees lacks this core.
    if let Err(error) = unsafe { gic::listen(shared.redistributors, cpu::affinity()) } {
        say!("{error}");
        die();
    }
    // SAFETY: this core listens.
    unsafe { clock::run(shared) }
}

/// What the only core does when EL1 has nothing to do: drives the machine until that is idle too or an interrupt is
/// pending, then waits for one.
pub(super) fn idle(shared: &Shared) {
    while !cpu::is_interrupt_pending() {
        if !shared.step() {
            asm::wfi();
            return;
        }
    }
}

/// What the cores share, which the first core set up before it started any other and before EL1 ran.
pub(super) fn shared() -> &'static Shared {
    match SHARED.get() {
        Some(shared) => shared,
        None => die(),
    }
}

/// Reports a panic of the firmware and ends QEMU.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    end_once();
    say!("{info}");
    die()
}

/// Reports an exception that only an error of the firmware can cause, and ends QEMU.
pub extern "C" fn fatal(vector: u64, stack: u64) -> ! {
    end_once();
    let (syndrome, address, fault) = (ESR_EL2.get(), ELR_EL2.get(), FAR_EL2.get());
    say!("exception {vector} at EL2: ESR {syndrome:#x}, ELR {address:#x}, FAR {fault:#x}, SP {stack:#x}");
    die()
}

/// Lets the first core that reports its end go on. The next one stops, and so does a report that itself goes wrong.
pub(super) fn end_once() {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if ENDING.swap(true, Relaxed) {
        psci::power_off();
    }
}
