//! The measurements.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Display;
use core::hint::black_box;
use core::time::Duration;

use smmu_iopf::arch::pmu::Instructions;
use smmu_iopf::arch::timer::{self, Timer};
use smmu_iopf::driver::dma::DmaMemory;
use smmu_iopf::driver::{Context, FaultMode, Options, OutputQueue, StreamConfig};
use smmu_iopf::iopf::{
    Counter, Counters, Decided, Fault, FaultGroup, FaultHandler, Histogram, Kind, Limits, MAX_MASTER_STREAMS,
    OpenRequest, Priority, StreamLimits, Verdict,
};
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::devices::{Devices, EngineUnit, Unit};
use smmu_iopf::kernel::engine::{Job, Operation, Status};
use smmu_iopf::kernel::interrupts::{Sgi, send};
use smmu_iopf::smmuv3::StreamId;
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Region};
use smmu_iopf::sva::frames::{FRAME_BYTES, FramePool};
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sva::{MAIR, Permissions, T0SZ};
use smmu_iopf::sync::{CoreId, Cpu, Masked};

use crate::commands;

const PAGE: u64 = FRAME_BYTES as u64;
/// Stalls of one engine at a time: its most.
const DEPTH: u64 = 32;
/// Where the engines read.
const START: u64 = 1 << 30;
/// The most pages that the measurements of one engine touch: the region is as large, and shares its memory.
const PAGES: u64 = 512;
/// Streams enabled beside the engines' in the second half.
const STREAMS: u32 = 1 << 16;

smmu_iopf::entry!(main);

fn main(kernel: &'static Kernel, mut cpu: Cpu) -> i32 {
    let result = match kernel.board.engines.is_empty() {
        true => commands::run(kernel, &mut cpu),
        false => run(kernel, &mut cpu),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            log::error!("{error}");
            1
        }
    }
}

pub(crate) fn text(error: impl Display) -> String {
    format!("{error}")
}

fn run(kernel: &'static Kernel, cpu: &mut Cpu) -> Result<(), String> {
    let instructions =
        Instructions::start().ok_or("this core does not count instructions: run it with --deterministic")?;
    if kernel.cores() != 1 {
        return Err("the count is of all cores: run it with --smp 1".into());
    }
    let limits = Limits { states: STREAMS as usize / MAX_MASTER_STREAMS + 8, ..Options::default().limits };
    let options = Options { limits, stream_bits: 16, ..Options::default() };
    let devices = Devices::bring_up(kernel, cpu, &options).map_err(text)?;
    let stalling = devices.engines.iter().filter(|unit| unit.description.can_stall).collect::<Vec<_>>();
    let &[first, second, ..] = stalling.as_slice() else { return Err("two engines that stall are wanted".into()) };
    let unit = devices.smmu_of(first).ok_or("no SMMU in front of the engines")?;
    let frames = Arc::new(FramePool::new(&*kernel.device_memory, 256, devices.coherence()).map_err(text)?);
    let mut bench = Bench { kernel, unit, engines: [first, second], frames, instructions };
    bench.calibrate(cpu)?;
    for streams in ["2 streams", "65,536 streams"] {
        for deferring in [false, true] {
            bench.serve(cpu, deferring)?;
            bench.measure(cpu, deferring, streams)?;
            bench.end(cpu)?;
        }
        if streams.starts_with('2') {
            bench.open_many(cpu)?;
        }
    }
    Ok(())
}

/// The two engines, the SMMU in front of them, and the count.
struct Bench {
    kernel: &'static Kernel,
    unit: &'static Unit,
    engines: [&'static EngineUnit; 2],
    frames: Arc<FramePool>,
    instructions: Instructions,
}

/// Leaves every group to a core with time.
struct Deferring(Arc<DemandPager>);

impl FaultHandler for Deferring {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.0.defer(masked, group);
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        self.0.serve(cpu, group)
    }
}

impl Bench {
    /// The instructions of `work`, without those of counting.
    fn count<T>(&self, work: impl FnOnce() -> T) -> (u32, T) {
        let empty = self.instructions.now();
        let start = self.instructions.now();
        let value = work();
        let end = self.instructions.now();
        (end.wrapping_sub(start).wrapping_sub(start.wrapping_sub(empty)), value)
    }

    /// What is no part of a fault's costs, or counted apart.
    fn calibrate(&self, cpu: &mut Cpu) -> Result<(), String> {
        // Unmasking takes the interrupt, which only ends an idle core's sleep. What waited meanwhile comes the first time.
        let interrupt = || self.count(|| cpu.masked(|_| send(Sgi::Wake, CoreId::FIRST))).0;
        interrupt();
        row("interrupt that does nothing, its SGI included", interrupt(), 1);
        let (frame, taken) = self.count(|| self.frames.take_zeroed());
        taken.into_iter().for_each(|frame| self.frames.free(frame));
        row("page frame taken", frame, 1);
        row("look for deferred work, none there", self.count(|| self.kernel.work_queues.work(cpu)).0, 1);
        let counters = Counters::new().ok_or("no memory for counters")?;
        let latencies = Histogram::new().ok_or("no memory for latencies")?;
        cpu.masked(|masked| {
            let counting = self.count(|| black_box(&counters).add(masked, [Counter::Served], black_box(DEPTH))).0;
            row("counters of a stream or of all, once a run", counting, 1);
            let measuring = self.count(|| black_box(&latencies).add(masked, black_box(DEPTH), black_box(DEPTH))).0;
            row("latencies of a stream or of all, once a run", measuring, 1);
            let clock: fn() -> u64 = black_box(timer::ticks);
            row("time stamp, twice a batch", self.count(clock).0, 1);
        });
        Ok(())
    }

    /// Serves both engines, each with a new address space.
    fn serve(&mut self, cpu: &mut Cpu, deferring: bool) -> Result<(), String> {
        self.engines.into_iter().try_for_each(|unit| self.serve_one(cpu, unit, deferring))
    }

    fn serve_one(&mut self, cpu: &mut Cpu, unit: &EngineUnit, deferring: bool) -> Result<(), String> {
        let memory = self.kernel.device_memory.allocate((PAGES * PAGE) as usize, FRAME_BYTES).map_err(text)?;
        let region = Region {
            start: START,
            bytes: PAGES * PAGE,
            permissions: Permissions::READ_WRITE,
            backing: Backing::Memory(memory.phys),
        };
        let asid = self.unit.smmu.take_asid(cpu).map_err(text)?;
        let space = Arc::new(AddressSpace::new(asid, &[region], self.frames.clone()).map_err(text)?);
        let pager = Arc::new(DemandPager::new([(None, space.clone())].into(), self.kernel.work_queues.clone()));
        let config = StreamConfig {
            faults: FaultMode::Stall,
            translation: Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR }.into(),
        };
        let (smmu, stream) = (&self.unit.smmu, unit.engine.stream());
        smmu.attach(cpu, stream, &config).map_err(text)?;
        let handler: Arc<dyn FaultHandler> = if deferring { Arc::new(Deferring(pager)) } else { pager };
        let limits = StreamLimits { groups: 64, requests: 1, time_out_us: 10_000_000, priority: Priority::Normal };
        smmu.enable_faults(cpu, &[stream], None, handler, limits).map_err(text)
    }

    /// Ends that. The address spaces' few frames stay with them.
    fn end(&self, cpu: &mut Cpu) -> Result<(), String> {
        self.engines.iter().try_for_each(|unit| {
            let (smmu, stream) = (&self.unit.smmu, unit.engine.stream());
            smmu.disable_faults(cpu, stream, &unit.engine).map_err(text)?;
            smmu.detach(cpu, stream).map_err(text)
        })
    }

    /// Enables the faults of every StreamID that no engine has, by masters of 16.
    fn open_many(&self, cpu: &mut Cpu) -> Result<(), String> {
        let engine = |stream: &StreamId| self.engines.iter().any(|unit| unit.engine.stream() == *stream);
        let free = (0..STREAMS).map(StreamId).filter(|stream| !engine(stream)).collect::<Vec<_>>();
        let nobody = Arc::new(DemandPager::new([].into(), self.kernel.work_queues.clone()));
        let limits = StreamLimits { groups: 1, requests: 1, time_out_us: 1_000_000, priority: Priority::Normal };
        for streams in free.chunks(MAX_MASTER_STREAMS) {
            let handler = nobody.clone();
            let request = OpenRequest { streams, kind: Kind::Stall, handler, limits, since: 0 };
            self.unit.smmu.faults().open(cpu, &mut Timer, request).map_err(text)?;
        }
        Ok(())
    }

    fn measure(&self, cpu: &mut Cpu, deferring: bool, streams: &str) -> Result<(), String> {
        let path = if deferring { "deferred" } else { "inline" };
        let mut next = 0;
        // The first page of each brings its tables.
        self.batch(cpu, &mut next, &self.engines, 1)?;
        for (engines, per_engine) in [(&self.engines[..], DEPTH), (&self.engines, 1), (&self.engines[..1], 1)] {
            let (mut report, mut answer) = (0, 0);
            const ROUNDS: u32 = 4;
            for _ in 0..ROUNDS {
                let (drain, work) = self.batch(cpu, &mut next, engines, per_engine)?;
                report += drain;
                answer += work;
            }
            let faults = engines.len() as u32 * per_engine as u32;
            // What is answered inline leaves nothing to a worker, and is what the interrupt does.
            let instructions = if deferring { report + answer } else { report };
            let batch = if faults == 1 { "single".into() } else { format!("batch of {faults}") };
            row(&format!("{path}, {batch}, {streams}"), instructions, ROUNDS * faults);
        }
        Ok(())
    }

    /// One batch of `per_engine` stalls from each of `engines`: the instructions of the drain, and of the worker.
    fn batch(
        &self,
        cpu: &mut Cpu,
        next: &mut u64,
        engines: &[&EngineUnit],
        per_engine: u64,
    ) -> Result<(u32, u32), String> {
        let stalls = || engines.iter().map(|unit| unit.engine.counters().stalls).sum::<u32>();
        let wanted = stalls() + engines.len() as u32 * per_engine as u32;
        let first = START + *next * PAGE;
        *next += per_engine;
        let counts = cpu.masked(|masked| {
            for unit in engines {
                let fill = Job::new(Operation::Fill, 0, first, per_engine * PAGE);
                unit.engine.start(&Job { depth: per_engine as u32, ..fill });
            }
            // With one core the model goes on in the traps of these accesses.
            if !(0..1_000_000).any(|_| stalls() == wanted) {
                return Err(format!("{} stalls came, not {wanted}", stalls()));
            }
            let (drain, ()) = self.count(|| self.unit.drain(masked, OutputQueue::Events));
            // A turn takes a few groups of one stream.
            let (work, _) = self.count(|| while self.kernel.work_queues.work(cpu) > 0 {});
            Ok((drain, work))
        })?;
        self.kernel
            .wait_until(cpu, Duration::from_secs(10), || {
                let busy = engines.iter().any(|unit| unit.engine.status() == Status::Busy);
                if busy { Err(()) } else { Ok(()) }
            })
            .map_err(|_| "the engines did not finish")?;
        Ok(counts)
    }
}

/// One line for `tools/costs.sh`: instructions a fault, in hundredths.
pub(crate) fn row(what: &str, instructions: u32, faults: u32) {
    let hundredths = u64::from(instructions % faults) * 100 / u64::from(faults);
    log::info!("cost: {what}: {}.{hundredths:02}", instructions / faults);
}
