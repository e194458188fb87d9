//! Faults are taken away from streams whose engines are at work, whose groups are held, whose readers are slow.

use alloc::sync::Arc;
use core::sync::atomic::{
    AtomicU8,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use core::time::Duration;

use heapless::Vec;

use super::bench::{Bench, Failure, JOB_LIMIT, PAGE, Served, anonymous};
use crate::arch;
use crate::arch::timer::{self, Timer};
use crate::driver::DeviceControl;
use crate::iopf::{Fault, FaultGroup, FaultHandler, Report as Reported, Request, Verdict};
use crate::kernel::devices::EngineUnit;
use crate::kernel::engine::{Engine, Job, Operation, Status};
use crate::kernel::report::Report;
use crate::kernel::runtime::{Kernel, Work};
use crate::smmuv3::{Access, PageResponse, PrgIndex, Stag, StreamId, SubstreamId};
use crate::sync::lock::IrqLock;
use crate::sync::{CoreId, Cpu, Masked, wait};

/// How many accesses the engines have under way.
const DEPTH: usize = 4;

/// How long everybody has time to free what the parked core may be reading.
const PARKED: Duration = Duration::from_millis(20);

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    match bench.engine(true, 0) {
        Ok(unit) => {
            pending_faults(bench, report, unit, "stalls")?;
            parked_reader(bench, report, unit)?;
        }
        Err(lack) => bench.lacks_engine(report, "disabling with stalls", lack),
    }
    match bench.engine(false, 0) {
        Ok(unit) => pending_faults(bench, report, unit, "page requests"),
        Err(lack) => {
            bench.lacks_engine(report, "disabling with page requests", lack);
            Ok(())
        }
    }
}

/// Holds every group and answers none.
struct Holder(IrqLock<Vec<FaultGroup, { 2 * DEPTH }>>);

impl FaultHandler for Holder {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        let refused = self.0.lock(masked).push(group);
        drop(refused);
    }
}

fn pending_faults(
    bench: &mut Bench,
    report: &mut Report,
    unit: &'static EngineUnit,
    kind: &str,
) -> Result<(), Failure> {
    let at = bench.somewhere(0);
    let space = bench.space(bench.front(unit)?, &[anonymous(at, 64 * PAGE)])?;
    let substream = if unit.description.can_stall { None } else { SubstreamId::new(1) };
    let holder = Arc::new(Holder(IrqLock::new(Vec::new())));
    let live_before = live(bench);
    let served = bench.serve(unit, &[(substream, space)], |_| holder.clone())?;

    let (counters, totals) = (unit.engine.counters(), served.smmu.faults().totals().statistics);
    let jobs = unit.engine.jobs_ended();
    let job = Job { depth: DEPTH as u32, substream, ..Job::new(Operation::Fill, 0, at, 64 * PAGE) };
    unit.engine.start(&job);
    // The bench waits with its core's `Cpu`, so the look masks by itself.
    let held = || arch::masked(|masked| holder.0.lock(masked).len());
    bench.wait("a held group for each access", JOB_LIMIT, || held() == DEPTH)?;

    served.smmu.disable_faults(&mut bench.cpu, unit.engine.stream(), &unit.engine)?;
    let status = bench.wait_for_job(unit, jobs)?;
    let (after, answered) = (unit.engine.counters(), served.smmu.faults().totals().statistics);
    let in_regions = matches!(status, Status::Aborted(address) if (at..at + 64 * PAGE).contains(&address));
    report.equal(format_args!("{kind}: the engine reports the abort"), true, in_regions);
    let pending = DEPTH as u64;
    if unit.description.can_stall {
        let refused = u64::from(after.stalls_refused - counters.stalls_refused);
        report.equal(format_args!("{kind}: pending stalls refused, by the model"), pending, refused);
        let terminated = answered.terminated - totals.terminated;
        report.equal(format_args!("{kind}: answered by STALL_TERM, by the fault core"), pending, terminated);
    } else {
        let invalid = u64::from(after.invalid - counters.invalid);
        report.equal(format_args!("{kind}: responses Invalid, by the model"), pending, invalid);
        let answers = answered.invalid - totals.invalid;
        report.equal(format_args!("{kind}: answers Invalid, by the fault core"), pending, answers);
    }

    late_records(bench, report, &served, &job, kind)?;
    bench.settle();
    report.equal(format_args!("{kind}: live states while groups are held"), live_before + 1, live(bench));
    let commands = served.smmu.command_counts().answers;
    let late = core::iter::from_fn(|| bench.cpu.masked(|masked| holder.0.lock(masked).pop()))
        .map(|group| bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).is_err())
        .filter(|late| *late)
        .count();
    report.equal(format_args!("{kind}: late answers refused"), DEPTH, late);
    report.equal(format_args!("{kind}: commands sent for them"), 0, served.smmu.command_counts().answers - commands);
    bench.settle();
    report.equal(format_args!("{kind}: live states when they are let go"), live_before, live(bench));
    let Served { unit, smmu, spaces } = served;
    bench.release(unit.engine.stream(), &smmu, spaces)
}

/// What comes after the end: the engine's accesses are aborted without the fault core hearing of them, and a record that
/// were to come all the same is refused.
fn late_records(bench: &mut Bench, report: &mut Report, served: &Served, job: &Job, kind: &str) -> Result<(), Failure> {
    let (unit, faults) = (served.unit, served.smmu.faults());
    let before = faults.totals().statistics;
    let status = bench.run_job(unit, job)?;
    report.equal(format_args!("{kind}: a later job is aborted"), true, matches!(status, Status::Aborted(_)));
    report.equal(
        format_args!("{kind}: faults reported for it"),
        0,
        faults.totals().statistics.records - before.records,
    );

    let (request, expected) = if unit.description.can_stall {
        (Request::Stall(Stag(0)), PageResponse::Invalid)
    } else {
        (Request::Page { group: PrgIndex::from_low_bits(0), last: true }, PageResponse::Failure)
    };
    let stream = unit.engine.stream();
    let fault = Fault { stream, substream: job.substream, address: 0, access: Access::READ, request, stage2: None };
    // Reported straight to the fault core, so its answer goes nowhere: no device waits for it.
    let refused = bench.cpu.masked(|masked| faults.report(masked, u64::MAX, fault));
    report.equal(format_args!("{kind}: a later record"), Reported::Answer(fault.answer(expected)), refused);
    Ok(())
}

fn live(bench: &Bench) -> usize {
    bench.devices.smmus.iter().map(|unit| unit.smmu.faults().live()).sum()
}

/// Another core in a read section, from when it is asked until it is released.
struct Parker {
    kernel: &'static Kernel,
    state: AtomicU8,
}

/// States of a [`Parker`], each following the one before.
mod parker {
    pub(super) const NEW: u8 = 0;
    pub(super) const ASKED: u8 = 1;
    pub(super) const PARKED: u8 = 2;
    pub(super) const RELEASED: u8 = 3;
    pub(super) const GONE: u8 = 4;
}

impl Work for Parker {
    fn work(&self, cpu: &mut Cpu) -> bool {
        if cpu.core() == CoreId::FIRST
            || self.state.compare_exchange(parker::ASKED, parker::PARKED, AcqRel, Relaxed).is_err()
        {
            return false;
        }
        cpu.masked(|masked| {
            let _section = self.kernel.domain.read(masked);
            // When it runs out, the state of the core is not what the check expects.
            let released = || if self.state.load(Acquire) == parker::RELEASED { Ok(()) } else { Err(()) };
            if wait::until(&mut Timer, 5_000_000, released).is_ok() {
                self.state.store(parker::GONE, Release);
            }
        });
        true
    }

    fn is_waiting(&self, masked: &Masked) -> bool {
        masked.core() != CoreId::FIRST && self.state.load(Relaxed) == parker::ASKED
    }
}

/// The engine, with the parker asked in between: at the first question whether the device is at rest the disabler's grace
/// period has passed, and what remains is to take the fault state out of the table and retire it.
struct ParkingDevice<'a> {
    engine: &'a Engine,
    parker: &'a Parker,
}

impl DeviceControl for ParkingDevice<'_> {
    fn stop_new_work(&self) {
        self.engine.stop_new_work();
    }

    fn is_idle(&self) -> bool {
        if self.parker.state.compare_exchange(parker::NEW, parker::ASKED, AcqRel, Relaxed).is_ok() {
            arch::masked(|masked| self.parker.kernel.wake_others(masked));
        }
        self.parker.state.load(Acquire) == parker::PARKED && self.engine.is_idle()
    }

    fn response_needs_pasid(&self) -> bool {
        self.engine.response_needs_pasid()
    }

    fn enable_ats(&self) {
        self.engine.enable_ats();
    }

    fn enable_page_requests(&self, allocation: u32) {
        self.engine.enable_page_requests(allocation);
    }

    fn page_requests_failed(&self) -> bool {
        self.engine.page_requests_failed()
    }

    fn disable_page_requests(&self) {
        self.engine.disable_page_requests();
    }

    fn page_requests_stopped(&self) -> bool {
        self.engine.page_requests_stopped()
    }

    fn stop_substream(&self, stream: StreamId, substream: SubstreamId) {
        self.engine.stop_substream(stream, substream);
    }

    fn substream_stopped(&self, stream: StreamId, substream: SubstreamId) -> bool {
        self.engine.substream_stopped(stream, substream)
    }

    fn reset_page_requests(&self) {
        self.engine.reset_page_requests();
    }

    fn disable_ats(&self) {
        self.engine.disable_ats();
    }
}

fn parked_reader(bench: &mut Bench, report: &mut Report, unit: &'static EngineUnit) -> Result<(), Failure> {
    let kernel = bench.kernel;
    if kernel.board.cores.len() < 2 {
        report.not_checked("another core parked inside a read section", "one core runs the kernel");
        return Ok(());
    }
    let at = bench.somewhere(0);
    let space = bench.space(bench.front(unit)?, &[anonymous(at, PAGE)])?;
    let live_before = live(bench);
    let served = bench.serve(unit, &[(None, space)], |pager| pager)?;
    let parker = Arc::new(Parker { kernel, state: AtomicU8::new(parker::NEW) });
    let work: Arc<dyn Work> = parker.clone();
    kernel.add_work(&bench.cpu, work.clone()).map_err(|_| Failure::new("no room for more work"))?;

    let device = ParkingDevice { engine: &unit.engine, parker: &parker };
    served.smmu.disable_faults(&mut bench.cpu, unit.engine.stream(), &device)?;
    // More than once round: whatever could free the state, has had its chance.
    let start = timer::now();
    bench.wait("time", JOB_LIMIT, || timer::now() - start > PARKED)?;
    report.equal("parked core: it is in its read section", parker::PARKED, parker.state.load(Acquire));
    report.equal("parked core: live states, after disabling", live_before + 1, live(bench));
    parker.state.store(parker::RELEASED, Release);
    bench.settle();
    report.equal("parked core: it has left", parker::GONE, parker.state.load(Acquire));
    report.equal("parked core: live states when it is released", live_before, live(bench));
    kernel.remove_work(&bench.cpu, &work);
    let Served { unit, smmu, spaces } = served;
    bench.release(unit.engine.stream(), &smmu, spaces)
}
