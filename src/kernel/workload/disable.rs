//! Faults are taken away from streams whose engines are at work, whose groups are held, whose readers are slow.

use alloc::sync::Arc;
use core::sync::atomic::{
    AtomicU8, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use core::time::Duration;

use heapless::Vec;

use super::bench::{Bench, Failure, JOB_LIMIT, PAGE, Served, anonymous};
use crate::arch;
use crate::arch::timer::{self, Timer};
use crate::iopf::{Fault, FaultGroup, FaultHandler, Report as Reported, Request, Verdict};
use crate::kernel::devices::{BoardSmmu, EngineUnit};
use crate::kernel::engine::{Job, Operation, Status};
use crate::kernel::report::Report;
use crate::kernel::runtime::{Kernel, Work};
use crate::smmuv3::{Access, PageResponse, Stag, SubstreamId};
use crate::sync::lock::IrqLock;
use crate::sync::{CoreId, Cpu, Masked, wait};

/// How many accesses the engines have under way.
const DEPTH: usize = 4;

/// How long the parked core stays in its read section while faults are being disabled.
const PARKED: Duration = Duration::from_millis(20);

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    match bench.engine(true, 0) {
        Some(unit) => {
            pending_faults(bench, report, unit, "stalls")?;
            parked_reader(bench, report, unit)?;
        }
        None => report.not_checked("disabling with stalls", "no engine on this machine stalls"),
    }
    match bench.engine(false, 0) {
        Some(unit) => pending_faults(bench, report, unit, "page requests"),
        None => {
            report.not_checked("disabling with page requests", "no engine on this machine sends them");
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
    let space = bench.space(&[anonymous(at, 64 * PAGE)])?;
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

    late_records(bench, report, &served, kind);
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
    let Served { unit, smmu, spaces, pager } = served;
    bench.release(unit.engine.stream(), &smmu, spaces, pager)
}

/// A record that comes after the end is refused.
fn late_records(bench: &Bench, report: &mut Report, served: &Served, kind: &str) {
    let fault = Fault {
        stream: served.unit.engine.stream(),
        substream: None,
        address: 0,
        access: Access::READ,
        request: Request::Stall(Stag(0)),
    };
    // Reported straight to the fault core, so its answer goes nowhere: there is no such stall.
    let refused = bench.cpu.masked(|masked| served.smmu.faults().report(masked, u64::MAX, fault));
    let invalid = matches!(refused, Reported::Answer(answer) if answer.response != PageResponse::Success);
    report.equal(format_args!("{kind}: a later record is refused"), true, invalid);
}

fn live(bench: &Bench) -> usize {
    bench.devices.smmus.iter().map(|unit| unit.smmu.faults().live()).sum()
}

/// What another core does for [`parked_reader`]: it enters a read section, and stays there for a while.
struct Parker {
    kernel: &'static Kernel,
    smmu: Arc<BoardSmmu>,
    state: AtomicU8,
    live_seen: AtomicUsize,
}

/// States of a [`Parker`], each following the one before.
mod parker {
    pub(super) const ASKED: u8 = 0;
    pub(super) const PARKED: u8 = 1;
    pub(super) const DISABLING: u8 = 2;
    pub(super) const RELEASED: u8 = 3;
}

impl Work for Parker {
    fn work(&self, cpu: &mut Cpu) -> bool {
        use parker::{ASKED, DISABLING, PARKED as IN_SECTION, RELEASED};
        if cpu.core() == CoreId::FIRST || self.state.compare_exchange(ASKED, IN_SECTION, Acquire, Relaxed).is_err() {
            return false;
        }
        cpu.masked(|masked| {
            let _section = self.kernel.domain.read(masked);
            let mut since = None;
            // Runs out only if nobody disables, which the count that is not written tells.
            let _ = wait::until(&mut Timer, 2_000_000, || {
                if self.state.load(Acquire) != DISABLING {
                    return Err(());
                }
                let since = *since.get_or_insert_with(timer::now);
                if timer::now() - since < PARKED { Err(()) } else { Ok(()) }
            });
            self.live_seen.store(self.smmu.faults().live(), Relaxed);
            self.state.store(RELEASED, Release);
        });
        true
    }

    fn is_waiting(&self, masked: &Masked) -> bool {
        masked.core() != CoreId::FIRST && self.state.load(Relaxed) == parker::ASKED
    }
}

fn parked_reader(bench: &mut Bench, report: &mut Report, unit: &'static EngineUnit) -> Result<(), Failure> {
    if bench.kernel.cores() < 2 {
        report.not_checked("another core parked inside a read section", "one core runs the kernel");
        return Ok(());
    }
    let at = bench.somewhere(0);
    let space = bench.space(&[anonymous(at, PAGE)])?;
    let live_before = live(bench);
    let served = bench.serve(unit, &[(None, space)], |pager| pager)?;
    let parker = Arc::new(Parker {
        kernel: bench.kernel,
        smmu: served.smmu.clone(),
        state: AtomicU8::new(parker::ASKED),
        live_seen: AtomicUsize::new(usize::MAX),
    });
    let work: Arc<dyn Work> = parker.clone();
    let kernel = bench.kernel;
    kernel.add_work(&bench.cpu, work.clone()).map_err(|_| Failure::new("no room for more work"))?;
    bench.cpu.masked(|masked| kernel.wake_others(masked));
    bench.wait("a parked core", JOB_LIMIT, || parker.state.load(Acquire) == parker::PARKED)?;

    let start = timer::now();
    parker.state.store(parker::DISABLING, Release);
    served.smmu.disable_faults(&mut bench.cpu, unit.engine.stream(), &unit.engine)?;
    let waited = timer::now() - start;
    report.equal("parked core: disabling waits for its read section", true, waited >= PARKED);
    report.equal("parked core: it has left before", parker::RELEASED, parker.state.load(Acquire));
    let seen = parker.live_seen.load(Relaxed);
    report.equal("parked core: live states that it sees", live_before + 1, seen);
    bench.settle();
    report.equal("parked core: live states when it is released", live_before, live(bench));
    kernel.remove_work(&bench.cpu, &work);
    let Served { unit, smmu, spaces, pager } = served;
    bench.release(unit.engine.stream(), &smmu, spaces, pager)
}
