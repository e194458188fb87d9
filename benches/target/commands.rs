//! What a command costs, from one core and from all at once, at QEMU's own SMMU: it consumes while CMDQ_PROD is written, so nobody waits for it.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::hint::black_box;
use core::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use core::time::Duration;

use smmu_iopf::arch::pmu::Instructions;
use smmu_iopf::arch::timer::Timer;
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{EventSink, Gathered, Hooks, Options, OutputQueue, Pages, Smmu, Wake};
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::runtime::Work;
use smmu_iopf::platform::smmu_registers::SmmuRegisters;
use smmu_iopf::smmuv3::Asid;
use smmu_iopf::smmuv3::event::{Event, EventError};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::registers::fields::IDR3;
use smmu_iopf::sync::grace::Grace;
use smmu_iopf::sync::{Cpu, MAX_CORES, Masked};

use crate::costs::{row, text};

/// Batches of each core.
const BATCHES: u32 = 1_000;
/// How often that is measured, each time a little later in QEMU's slices: the least counts. Where QEMU always stops a core between its
/// reservation and its publication, the others wait for that core's next turn, and any change of the code may bring that about.
const RUNS: u32 = 8;
/// How much later, in turns of a loop.
const LATER: u32 = 149;

/// Registers whose PROD writes are counted, and by which the SMMU has no ranges: a page is a command.
struct Counted {
    registers: SmmuRegisters,
    prod_writes: AtomicU32,
}

impl Registers for Counted {
    fn read32(&self, register: Register) -> u32 {
        let value = self.registers.read32(register);
        if register == Register::Idr3 { value & !IDR3::RIL::SET.mask() } else { value }
    }

    fn write32(&self, register: Register, value: u32) {
        if register == Register::CmdqProd {
            self.prod_writes.fetch_add(1, Relaxed);
        }
        self.registers.write32(register, value);
    }

    fn write64(&self, register: Register, value: u64) {
        self.registers.write64(register, value);
    }
}

/// Nothing faults here.
struct Nobody;

impl Wake for Nobody {
    fn wake(&self, _: &Masked, _: OutputQueue) {}
}

impl EventSink for Nobody {
    fn event(&self, _: &Masked, _: &Event) {}

    fn undecodable(&self, _: &Masked, _: [u64; 4], _: EventError) {}
}

/// What each core does once a turn.
struct Issuers {
    registers: Arc<Counted>,
    smmu: Arc<Smmu<Arc<Counted>, Timer>>,
    grace: Grace,
    /// The turn, and the commands of a batch in it.
    turn: AtomicU32,
    count: AtomicU32,
    /// By core: the turn that it has done, and its batches that failed.
    done: [AtomicU32; MAX_CORES],
    failed: AtomicU32,
}

impl Issuers {
    fn is_due(&self, masked: &Masked) -> bool {
        self.done[masked.core().index()].load(Relaxed) != self.turn.load(Acquire)
    }
}

impl Work for Issuers {
    fn work(&self, cpu: &mut Cpu) -> bool {
        if !cpu.masked(|masked| self.is_due(masked)) {
            return false;
        }
        let turn = self.turn.load(Acquire);
        for spent in 0..turn % RUNS * LATER {
            black_box(spent);
        }
        let pages = Gathered::from(Pages { first: 0, count: self.count.load(Relaxed).into() });
        for _ in 0..BATCHES {
            if self.smmu.invalidate_pages(cpu, &self.grace, Asid(1), &pages).is_err() {
                self.failed.fetch_add(1, Relaxed);
            }
        }
        self.done[cpu.core().index()].store(turn, Release);
        true
    }

    fn is_waiting(&self, masked: &Masked) -> bool {
        self.is_due(masked)
    }
}

#[inline(never)]
pub(crate) fn run(kernel: &'static Kernel, cpu: &mut Cpu) -> Result<(), String> {
    let instructions =
        Instructions::start().ok_or("this core does not count instructions: run it with --deterministic")?;
    let description = kernel.board.smmus.first().ok_or("no SMMU")?;
    let registers = kernel.board.registers(&description.window).ok_or("its registers are not mapped")?;
    let registers = SmmuRegisters::new(registers).map_err(text)?;
    let registers = Arc::new(Counted { registers, prod_writes: 0.into() });
    let hooks = Hooks { wake: Arc::new(Nobody), events: Arc::new(Nobody) };
    let (memory, domain) = (kernel.device_memory.clone(), kernel.domain.clone());
    let options = Options { stream_bits: 8, ..Options::default() };
    let smmu = Smmu::probe(cpu, registers.clone(), memory, domain, Timer, hooks, options).map_err(text)?;
    let grace = kernel.domain.synchronize(cpu, &mut Timer, 1_000_000).map_err(text)?;
    let (turn, count, failed) = (0.into(), 0.into(), 0.into());
    let issuers = Arc::new(Issuers { registers, smmu, grace, turn, count, done: Default::default(), failed });
    let work: Arc<dyn Work> = issuers.clone();
    kernel.add_work(cpu, work).map_err(|_| "no room for more work")?;
    let cores = kernel.cores();
    let mut last = 0;
    for count in [1, 64] {
        let mut runs = [(0, 0); RUNS as usize];
        for run in &mut runs {
            let writes = issuers.registers.prod_writes.load(Relaxed);
            let start = instructions.now();
            last += 1;
            issuers.count.store(count, Relaxed);
            issuers.turn.store(last, Release);
            cpu.masked(|masked| kernel.wake_others(masked));
            let all_done = || match issuers.done[..cores].iter().all(|done| done.load(Acquire) == last) {
                true => Ok(()),
                false => Err(()),
            };
            kernel.wait_until(cpu, Duration::from_secs(60), all_done).map_err(|_| "a core does not come to an end")?;
            let taken = instructions.now().wrapping_sub(start);
            *run = (taken, issuers.registers.prod_writes.load(Relaxed) - writes);
        }
        let (taken, writes) = runs.into_iter().min().unwrap_or_default();
        let batches = cores as u32 * BATCHES;
        let of = if cores == 1 { "1 core".into() } else { format!("{cores} cores") };
        row(&format!("command, batch of {count}, {of}"), taken, batches * count);
        row(&format!("CMDQ_PROD writes, batch of {count}, {of}"), writes, batches);
    }
    match issuers.failed.load(Relaxed) {
        0 => Ok(()),
        failed => Err(format!("{failed} batches failed")),
    }
}
