//! All cores at one command queue, whose SMMU is on paper (`tests/support/paper.rs`).

use alloc::sync::Arc;
use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use core::time::Duration;

use smmu_iopf::arch::timer;
use smmu_iopf::driver::dma::DmaMemory;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::runtime::Work;
use smmu_iopf::sync::{Cpu, MAX_CORES, Masked};
use spin::Mutex;

use crate::harness::{Failure, argument, equal, holds};
use crate::paper::{Commands, MEMORY, MSI, NOT_COHERENT, Paper, Random, SEV};

/// How long each kind of SMMU is kept busy, in seconds, unless `seconds=N` says otherwise.
const SECONDS: u32 = 1;

/// In a run of so many seconds every core has its part.
const LONG: u32 = 20;

/// One command in so many fails, each with a line in the log.
const FAILS_IN: u64 = 5_000;

/// What the cores do until told to stop.
struct Issuers {
    commands: Commands,
    cores: [Mutex<(Random, u64)>; MAX_CORES],
    ends: AtomicBool,
    /// Cores that issue a batch.
    busy: AtomicU32,
}

impl Issuers {
    fn issue(&self, cpu: &mut Cpu) -> bool {
        self.busy.fetch_add(1, Acquire);
        let goes_on = !self.ends.load(Acquire) && {
            let (random, sent) = &mut *self.cores[cpu.core().index()].lock();
            self.commands.issue(cpu, random, sent)
        };
        self.busy.fetch_sub(1, Release);
        goes_on
    }
}

impl Work for Issuers {
    fn work(&self, cpu: &mut Cpu) -> bool {
        cpu.core().index() > 0 && self.issue(cpu)
    }

    fn is_waiting(&self, masked: &Masked) -> bool {
        masked.core().index() > 0 && !self.ends.load(Relaxed)
    }
}

fn run(kernel: &'static Kernel, cpu: &mut Cpu, idr0: u32, seconds: u32) -> Result<(), Failure> {
    let memory = kernel.device_memory.allocate(MEMORY, 1 << 12)?;
    let paper = Paper::new(memory, idr0, idr0.into());
    let issuers = Arc::new(Issuers {
        commands: Commands::new(paper, &kernel.domain, cpu, 8, FAILS_IN)?,
        cores: core::array::from_fn(|core| Mutex::new((Random(core as u64), 0))),
        ends: false.into(),
        busy: 0.into(),
    });
    let work: Arc<dyn Work> = issuers.clone();
    kernel.add_work(cpu, work.clone()).map_err(|_| "no room for more work")?;
    cpu.masked(|masked| kernel.wake_others(masked));
    let (start, mut told) = (timer::now(), 0);
    while timer::now() - start < Duration::from_secs(seconds.into()) && issuers.issue(cpu) {
        kernel.domain.poll(cpu);
        let minutes = (timer::now() - start).as_secs() / 60;
        if minutes > told {
            log::info!("{minutes} min: {:?}", issuers.commands.smmu.command_counts());
            told = minutes;
        }
    }
    issuers.ends.store(true, Release);
    let at_rest = || if issuers.busy.load(Acquire) == 0 { Ok(()) } else { Err(()) };
    kernel.wait_until(cpu, Duration::from_secs(60), at_rest).map_err(|_| "a core does not come back")?;
    kernel.remove_work(cpu, &work);
    let sent = issuers.cores.each_ref().map(|core| core.lock().1);
    issuers.commands.check(&sent)?;
    let counts = issuers.commands.smmu.command_counts();
    let failures = issuers.commands.paper.failures.each_ref().map(|failures| failures.load(Relaxed));
    let answered = issuers.commands.answered();
    log::info!("IDR0 {idr0:#x}: {sent:?} commands, {answered:?} answers, {:?}", issuers.commands.paper.prod_writes);
    log::info!("{counts:?}; {failures:?} illegal, aborted and messages lost");
    // In a short run a host with fewer cores may leave some of these out.
    let least = if seconds < LONG { kernel.cores().min(2) } else { kernel.cores() };
    let at_it = sent.iter().zip(answered).filter(|(sent, answered)| **sent > 0 && (*answered > 0 || seconds < LONG));
    holds("cores were at it together", at_it.count() >= least)?;
    equal("errors", failures[0] + failures[1], counts.errors)
}

test!(fn commands_of_all_cores_are_carried_out_once_in_order_and_syncs_are_believed_when_complete(kernel, cpu) {
    let seconds = argument(kernel, "seconds=", SECONDS)?;
    [MSI, SEV, 0, NOT_COHERENT].into_iter().try_for_each(|idr0| run(kernel, cpu, idr0, seconds))
});
