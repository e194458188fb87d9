//! An engine at a wild address is aborted, and the engine next to it does not notice.

use alloc::sync::Arc;

use super::bench::{Bench, Failure, PAGE, anonymous, backed, equal_words};
use crate::iopf::{Decided, Fault, FaultGroup, FaultHandler, Verdict};
use crate::kernel::engine::{Job, Operation, Status};
use crate::kernel::report::Report;
use crate::sva::pager::DemandPager;
use crate::sync::{Cpu, Masked};

/// How much the neighbour copies.
const BYTES: u64 = 1 << 20;

/// Leaves every group to the pager's workers.
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

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let (wild, neighbour) = match (bench.engine(true, 0), bench.engine(true, 1)) {
        (Ok(wild), Ok(neighbour)) => (wild, neighbour),
        (Err(lack), _) | (_, Err(lack)) => {
            bench.lacks_engine(report, "wild addresses", lack);
            return Ok(());
        }
    };
    let data = bench.random_memory(BYTES)?;
    let (from, to) = (bench.somewhere(0), bench.somewhere(1));
    let space = bench.space(bench.front(neighbour)?, &[backed(from, BYTES, &data), anonymous(to, BYTES)])?;
    let neighbour_served = bench.serve(neighbour, &[(None, space.clone())], |pager| Arc::new(Deferring(pager)))?;
    let (good, bad) = (bench.somewhere(2), bench.somewhere(3));
    let wild_space = bench.space(bench.front(wild)?, &[anonymous(good, PAGE)])?;
    let wild_served = bench.serve(wild, &[(None, wild_space)], |pager| pager)?;

    let before = wild_served.smmu.faults().totals().statistics;
    let (wild_before, neighbour_jobs) = (wild.engine.counters(), neighbour.engine.jobs_ended());
    neighbour.engine.start(&Job { depth: 4, ..Job::new(Operation::Copy, from, to, BYTES) });
    let wild_status = bench.run_job(wild, &Job::new(Operation::Copy, good, bad, PAGE))?;
    let neighbour_status = bench.wait_for_job(neighbour, neighbour_jobs)?;

    let after = wild_served.smmu.faults().totals().statistics;
    let refused = wild.engine.counters().stalls_refused - wild_before.stalls_refused;
    report.equal("the wild engine reports the abort and its address", Status::Aborted(bad), wild_status);
    report.equal("answers Invalid, by the fault core", 1, after.invalid - before.invalid);
    report.equal("stalls refused, by the model", 1, refused);
    report.equal("the neighbour's copy of 1 MiB", Status::Done, neighbour_status);
    report.equal("words that the CPU finds equal", data.words.len(), equal_words(&space, to, &data));
    report.equal("groups that workers answered", true, after.deferred - before.deferred >= 2 * BYTES / PAGE);
    drop(space);
    bench.end(neighbour_served)?;
    bench.end(wild_served)
}
