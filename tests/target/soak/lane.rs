//! One engine, whose faults are enabled and disabled again and again.

use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use heapless::Vec;
use smmu_iopf::arch::mmio::Mmio;
use smmu_iopf::driver::dma::DmaMemory;
use smmu_iopf::driver::{Context, DeviceControl, FaultMode, StreamConfig, Translation};
use smmu_iopf::iopf::{Decided, Fault, FaultGroup, FaultHandler, Priority, StreamLimits, Verdict};
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::devices::EngineUnit;
use smmu_iopf::kernel::engine::{Counters, Job, Operation};
use smmu_iopf::model::engine::registers::{self as reg, hostile};
use smmu_iopf::smmuv3::event::StallRun;
use smmu_iopf::smmuv3::{PageResponse, PhysAddr, StreamId, SubstreamId};
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Region};
use smmu_iopf::sva::frames::FRAME_BYTES;
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sva::{MAIR, Permissions, T0SZ};
use smmu_iopf::sync::lock::IrqLock;
use smmu_iopf::sync::{Cpu, Masked};

use super::{Random, Soak};
use crate::harness::{Failure, Outcome, equal, holds};

const PAGE: u64 = FRAME_BYTES as u64;

/// The pages of a job, and of an address space: after so many jobs there is another.
const JOB_PAGES: u32 = 4;
const PAGES: u32 = 64;

/// Where they are: beyond the board's memory, for accesses that claim to be translated.
const START: u64 = 4 << 30;

/// The most groups that are held.
const HELD: usize = 64;

/// What happens to the groups of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Served at once if that is possible.
    Inline,
    /// Left to a core with time.
    Deferred,
    /// One this way, one that way.
    Mixed,
    /// Kept past the end.
    Held,
    /// Kept past their time-out.
    TimedOut,
    /// Refused.
    Refused,
    /// The first one ends the device's page requests.
    Failed,
}

/// The pager, or something worse.
struct Handler {
    pager: DemandPager,
    mode: Mode,
    groups: AtomicU32,
    /// Stalls that were served at once, and those of them whose pages the pager found by the run.
    at_once: AtomicU32,
    in_runs: AtomicU32,
    held: IrqLock<Vec<FaultGroup, HELD>>,
}

impl FaultHandler for Handler {
    fn handle(&self, masked: &Masked, faults: &[Fault]) -> Verdict {
        let count = self.groups.fetch_add(1, Relaxed);
        match self.mode {
            Mode::Inline => self.pager.handle(masked, faults),
            Mode::Mixed if count.is_multiple_of(2) => self.pager.handle(masked, faults),
            Mode::Failed if count == 0 => Verdict::Answer(PageResponse::Failure),
            Mode::Failed => self.pager.handle(masked, faults),
            Mode::Refused => Verdict::Answer(PageResponse::Invalid),
            Mode::Deferred | Mode::Mixed | Mode::Held | Mode::TimedOut => Verdict::Defer,
        }
    }

    fn serve_at_once(&self, masked: &Masked, stalls: StallRun<'_>) -> usize {
        let stalls = match self.mode {
            Mode::Inline => stalls,
            // Those behind the first are reported one by one.
            Mode::Mixed if self.groups.load(Relaxed).is_multiple_of(2) => stalls.up_to(1),
            _ => return 0,
        };
        let there = self.pager.serve_at_once(masked, stalls);
        // A page of a job is touched once: it is not there, and comes at once where it is memory, or where a frame is zeroed.
        let comes = |stall| self.pager.handle(masked, &[Fault::from(&stall)]) == Verdict::Answer(PageResponse::Success);
        let served = there + stalls.behind(there).count_while(comes);
        self.groups.fetch_add(served as u32, Relaxed);
        self.at_once.fetch_add(served as u32, Relaxed);
        self.in_runs.fetch_add(there as u32, Relaxed);
        served
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        match self.mode {
            // A group that finds no room is dropped, which answers it.
            Mode::Held | Mode::TimedOut => drop(self.held.lock(masked).push(group)),
            _ => self.pager.defer(masked, group),
        }
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        self.pager.serve(cpu, group)
    }
}

/// From enabling to disabling.
struct Life {
    handler: Arc<Handler>,
    /// It ends after this many groups, or with the job.
    target: u32,
    /// Before, the PASID is stopped, and a new use of it begins.
    stops: bool,
    random: Random,
    /// The rules that the device breaks.
    hostile: u32,
    /// Jobs that had ended, and what was counted, when it began.
    jobs: u32,
    before: Option<Counters>,
}

/// One engine with its stream.
pub(super) struct Lane {
    unit: &'static EngineUnit,
    registers: Mmio,
    /// The pages of address spaces without pages of their own.
    memory: PhysAddr,
    space: Option<Arc<AddressSpace>>,
    /// The first page that no job has touched.
    page: u32,
    life: Option<Life>,
    /// Groups that came without a Last, which nobody answers.
    endless: u32,
    pub(super) lives: u64,
    pub(super) late: u64,
    /// How many stalls were served at once, and how many of them in runs.
    pub(super) at_once: u64,
    pub(super) in_runs: u64,
    /// How often the PASID was stopped, and how often page requests were served again after a Failure.
    pub(super) stops: u64,
    pub(super) reopened: u64,
}

/// What the lanes' engines counted, and the model for them.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) stalls: u64,
    pub(super) stalls_ended: u64,
    pub(super) groups: u64,
    pub(super) responses: u64,
    pub(super) unexpected: u64,
    pub(super) answered: u64,
}

/// The engine, which stops breaking rules when it is to come to rest.
struct Device<'a> {
    unit: &'a EngineUnit,
    registers: &'a Mmio,
    hostile: u32,
}

impl DeviceControl for Device<'_> {
    fn stop_new_work(&self) {
        self.unit.engine.stop_new_work();
    }

    fn is_idle(&self) -> bool {
        self.unit.engine.is_idle()
    }

    fn response_needs_pasid(&self) -> bool {
        self.unit.engine.response_needs_pasid()
    }

    fn enable_ats(&self) {
        self.unit.engine.enable_ats();
    }

    fn enable_page_requests(&self, allocation: u32) {
        self.unit.engine.enable_page_requests(allocation);
    }

    fn page_requests_failed(&self) -> bool {
        self.unit.engine.page_requests_failed()
    }

    fn disable_page_requests(&self) {
        if self.hostile & hostile::NO_LAST == 0 {
            self.registers.write32(reg::HOSTILE, 0);
        }
        self.unit.engine.disable_page_requests();
        if self.hostile & hostile::NO_LAST != 0 {
            // What nobody answers is given up as a function's reset would.
            self.registers.write32(reg::PRI_CONTROL, reg::pri_control::RESET);
            self.registers.write32(reg::HOSTILE, 0);
            self.unit.engine.stop_new_work();
        }
    }

    fn page_requests_stopped(&self) -> bool {
        self.unit.engine.page_requests_stopped()
    }

    fn sends_stop_markers(&self) -> bool {
        // One of the two does, and the other does not.
        self.unit.engine.stream().0.is_multiple_of(2)
    }

    fn stop_substream(&self, stream: StreamId, substream: SubstreamId) {
        if self.sends_stop_markers() {
            return self.unit.engine.stop_substream(stream, substream);
        }
        self.registers.write32(reg::PRI_STATUS, reg::pri_status::PASID_STOPPED);
        self.registers.write32(reg::PASID, substream.get());
        let stop = reg::pri_control::STOP_PASID | reg::pri_control::NO_STOP_MARKER;
        self.registers.write32(reg::PRI_CONTROL, reg::pri_control::ENABLE | stop);
    }

    fn substream_stopped(&self, stream: StreamId, substream: SubstreamId) -> bool {
        self.unit.engine.substream_stopped(stream, substream)
    }

    fn reset_page_requests(&self) {
        self.unit.engine.reset_page_requests();
    }

    fn disable_ats(&self) {
        self.unit.engine.disable_ats();
    }
}

fn context(space: &AddressSpace) -> Context {
    Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR }
}

impl Lane {
    /// The lane of engine `index`.
    pub(super) fn new(kernel: &Kernel, unit: &'static EngineUnit) -> Result<Self, Failure> {
        let registers = kernel.board.registers(&unit.description.window).ok_or("an engine is not mapped")?;
        let memory = kernel.device_memory.allocate(PAGES as usize * FRAME_BYTES, FRAME_BYTES)?.phys;
        let (space, life) = (None, None);
        Ok(Self {
            unit,
            registers,
            memory,
            space,
            page: 0,
            life,
            endless: 0,
            lives: 0,
            late: 0,
            at_once: 0,
            in_runs: 0,
            stops: 0,
            reopened: 0,
        })
    }

    pub(super) fn stream(&self) -> StreamId {
        self.unit.engine.stream()
    }

    fn can_stall(&self) -> bool {
        self.unit.description.can_stall
    }

    fn substream(&self) -> Option<SubstreamId> {
        if self.can_stall() { None } else { SubstreamId::new(1) }
    }

    /// Begins a life with a job of the engine.
    pub(super) fn begin(&mut self, soak: &Soak, cpu: &mut Cpu, random: &mut Random) -> Outcome {
        if self.page == PAGES {
            self.detach(soak, cpu)?;
        }
        let space = match self.space.clone() {
            Some(space) => space,
            None => self.attach(soak, cpu, random)?,
        };
        let mode = match random.below(64) {
            0..=15 => Mode::Inline,
            16..=31 => Mode::Deferred,
            32..=46 => Mode::Mixed,
            56..=60 if !self.can_stall() => Mode::Failed,
            47..=58 => Mode::Held,
            59..=62 => Mode::Refused,
            _ => Mode::TimedOut,
        };
        let hostile = match (random.below(64), self.can_stall()) {
            (0..=3, true) => hostile::TRANSLATED,
            (0..=3, false) if mode != Mode::Failed => hostile::NO_LAST,
            (4..=7, false) => hostile::EARLY_STOP_MARKER,
            (8, false) => hostile::STORM,
            _ => 0,
        };
        let target = match mode {
            Mode::TimedOut => u32::MAX,
            Mode::Held => random.below(2),
            Mode::Failed => 1,
            _ => random.below(JOB_PAGES + 2),
        };
        // Nobody hears of groups without a Last.
        let target = if hostile & hostile::NO_LAST != 0 { 0 } else { target };
        let pager = DemandPager::new([(self.substream(), space)].into(), soak.kernel.work_queues.clone());
        let [groups, at_once, in_runs] = [const { AtomicU32::new(0) }; 3];
        let handler = Arc::new(Handler { pager, mode, groups, at_once, in_runs, held: IrqLock::new(Vec::new()) });
        let limits = StreamLimits {
            groups: HELD as u16,
            requests: 32,
            time_out_us: if mode == Mode::TimedOut { 2_000 } else { 60_000_000 },
            priority: if random.one_in(2) { Priority::Normal } else { Priority::High },
        };
        let before = (hostile & hostile::NO_LAST != 0).then(|| self.unit.engine.counters());
        let device = Device { unit: self.unit, registers: &self.registers, hostile };
        soak.unit.smmu.enable_faults(cpu, &[self.stream()], Some(&device), handler.clone(), limits)?;
        self.registers.write32(reg::HOSTILE, hostile);
        // Groups without a Last keep a PASID in use for ever.
        let stops = !self.can_stall() && hostile & hostile::NO_LAST == 0 && random.one_in(3);
        let mut random = Random(random.next());
        let jobs = self.start(&mut random);
        self.life = Some(Life { handler, target, stops, random, hostile, jobs, before });
        Ok(())
    }

    /// Starts a job on pages that none has touched. Returns how many had ended.
    fn start(&mut self, random: &mut Random) -> u32 {
        let jobs = self.unit.engine.jobs_ended();
        let at = START + u64::from(self.page) * PAGE;
        self.unit.engine.start(&Job {
            substream: self.substream(),
            depth: 1 + random.below(JOB_PAGES),
            group: 1 + random.below(4),
            seed: random.next() as u32,
            ..Job::new(Operation::Fill, 0, at, u64::from(JOB_PAGES) * PAGE)
        });
        self.page += JOB_PAGES;
        jobs
    }

    /// Ends the life, if there is one, in the middle of the engine's work.
    pub(super) fn end(&mut self, soak: &Soak, cpu: &mut Cpu) -> Outcome {
        let Some(life) = self.life.take() else { return Ok(()) };
        let Life { handler, target, stops, mut random, hostile, mut jobs, before } = life;
        let engine = &self.unit.engine;
        let far_enough = || handler.groups.load(Relaxed) >= target || engine.jobs_ended() != jobs;
        soak.until(cpu, &format!("{:?}: {target} groups, hostile {hostile:#x}", handler.mode), far_enough)?;
        // Pages that a storm asked for are there already: no group has been failed then.
        let failed = handler.mode == Mode::Failed && handler.groups.load(Relaxed) > 0;
        if failed {
            soak.until(cpu, "a Response Failure", || engine.page_requests_failed())?;
        }
        if stops {
            self.stop(soak, cpu, hostile)?;
            // A storm uses the PASID anew at once.
            self.let_go(cpu, &handler, hostile & hostile::STORM != 0)?;
        }
        if failed {
            let device = Device { unit: self.unit, registers: &self.registers, hostile };
            soak.unit.smmu.reopen_faults(cpu, self.stream(), &device)?;
            self.reopened += 1;
        }
        if (stops || failed) && self.page < PAGES {
            soak.until(cpu, "the end of a job that was stopped or failed", || engine.jobs_ended() != jobs)?;
            // What a storm has outstanding may leave no credit for the job.
            let more = if hostile & hostile::STORM == 0 { random.below(2) } else { 0 };
            let groups = handler.groups.load(Relaxed) + more;
            jobs = self.start(&mut random);
            let served = || handler.groups.load(Relaxed) >= groups || engine.jobs_ended() != jobs;
            soak.until(cpu, &format!("{:?}: a new use of the PASID, hostile {hostile:#x}", handler.mode), served)?;
        }
        let device = Device { unit: self.unit, registers: &self.registers, hostile };
        soak.unit.smmu.disable_faults(cpu, self.stream(), &device)?;
        self.registers.write32(reg::HOSTILE, 0);
        soak.until(cpu, &format!("{:?}: the job's end, hostile {hostile:#x}", handler.mode), || {
            engine.jobs_ended() != jobs
        })?;
        self.let_go(cpu, &handler, false)?;
        if let Some(before) = before {
            let after = engine.counters();
            equal("answers to groups without a Last", before.success, after.success)?;
            self.endless += after.groups - before.groups;
        }
        self.at_once += u64::from(handler.at_once.load(Relaxed));
        self.in_runs += u64::from(handler.in_runs.load(Relaxed));
        self.lives += 1;
        Ok(())
    }

    /// Stops the PASID in the middle of the engine's work, and lets it be used anew.
    fn stop(&mut self, soak: &Soak, cpu: &mut Cpu, hostile: u32) -> Outcome {
        let (Some(space), Some(substream)) = (self.space.clone(), self.substream()) else {
            return Err("a PASID without an address space".into());
        };
        let (smmu, stream) = (&soak.unit.smmu, self.stream());
        let device = Device { unit: self.unit, registers: &self.registers, hostile };
        smmu.stop_substream(cpu, stream, substream, &device)?;
        holds("the job of a stopped PASID has ended", self.unit.engine.is_idle())?;
        smmu.attach_substream(cpu, stream, substream, Some(&context(&space)))?;
        self.stops += 1;
        Ok(())
    }

    /// Answers what the handler holds, which comes too late but for groups that came since, if `more` may have.
    fn let_go(&mut self, cpu: &mut Cpu, handler: &Handler, more: bool) -> Outcome {
        let held = cpu.masked(|masked| core::mem::take(&mut *handler.held.lock(masked)));
        for group in held {
            let late = cpu.masked(|masked| group.respond(masked, PageResponse::Success)).is_err();
            holds("an answer after the end is refused", late || more)?;
            self.late += u64::from(late);
        }
        Ok(())
    }

    /// Attaches the stream to a new address space, whose pages are its own, or memory.
    fn attach(&mut self, soak: &Soak, cpu: &mut Cpu, random: &mut Random) -> Result<Arc<AddressSpace>, Failure> {
        let region = Region {
            start: START,
            bytes: u64::from(PAGES) * PAGE,
            permissions: Permissions::READ_WRITE,
            backing: if random.one_in(2) { Backing::Memory(self.memory) } else { Backing::Anonymous },
        };
        let asid = soak.unit.smmu.take_asid(cpu)?;
        let space = Arc::new(AddressSpace::new(asid, &[region], soak.frames.clone())?);
        let context = context(&space);
        let smmu = &soak.unit.smmu;
        let config = StreamConfig {
            faults: if self.can_stall() { FaultMode::Stall } else { FaultMode::PageRequest },
            translation: Translation::Stage1 {
                context: self.can_stall().then_some(context),
                substream_bits: if self.can_stall() { 0 } else { self.unit.description.pasid_bits },
            },
        };
        smmu.attach(cpu, self.stream(), &config)?;
        if let Some(substream) = self.substream() {
            smmu.attach_substream(cpu, self.stream(), substream, Some(&context))?;
        }
        self.space = Some(space.clone());
        self.page = 0;
        Ok(space)
    }

    /// Detaches the stream, and takes the memory of its address space back.
    pub(super) fn detach(&mut self, soak: &Soak, cpu: &mut Cpu) -> Outcome {
        let Some(space) = self.space.take() else { return Ok(()) };
        // Groups that wait for a core with time hold the fault state, and it the pager and the space.
        soak.until(cpu, "the end of an address space's use", || Arc::strong_count(&space) == 1)?;
        let space = Arc::try_unwrap(space).map_err(|_| "an address space is in use again")?;
        let forgotten = soak.unit.smmu.forget(cpu, space).map_err(|remembered| remembered.error)?;
        AddressSpace::reclaim(forgotten);
        Ok(soak.unit.smmu.detach(cpu, self.stream())?)
    }

    /// Adds what this engine counted.
    pub(super) fn add_to(&self, sums: &mut Sums) {
        let counters = self.unit.engine.counters();
        sums.stalls += u64::from(counters.stalls);
        sums.stalls_ended += u64::from(counters.stalls_retried) + u64::from(counters.stalls_refused);
        sums.groups += u64::from(counters.groups) - u64::from(self.endless);
        sums.responses += [counters.success, counters.invalid, counters.failure].map(u64::from).iter().sum::<u64>();
        sums.unexpected += u64::from(counters.unexpected);
    }
}
