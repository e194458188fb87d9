//! An engine whose accesses stall copies between two regions, page by page, and everybody counts the same.

use super::bench::{Bench, Failure, PAGE, anonymous, backed, equal_words};
use crate::kernel::engine::{Job, Operation, Status};
use crate::kernel::report::Report;

/// How much is copied.
const BYTES: u64 = 4 << 20;

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let unit = match bench.engine(true, 0) {
        Ok(unit) => unit,
        Err(lack) => {
            bench.lacks_engine(report, "stall", lack);
            return Ok(());
        }
    };
    let data = bench.random_memory(BYTES)?;
    let (from, to) = (bench.somewhere(0), bench.somewhere(1));
    let space = bench.space(bench.front(unit)?, &[backed(from, BYTES, &data), anonymous(to, BYTES)])?;
    let served = bench.serve(unit, &[(None, space.clone())], |pager| pager)?;

    let stalls_before = unit.engine.counters();
    let records_before = served.smmu.event_records();
    let answers_before = served.smmu.faults().totals().statistics;
    let job = Job { seed: bench.job_seed(), ..Job::new(Operation::Copy, from, to, BYTES) };
    let traps_before = bench.traps();
    let status = bench.run_job(unit, &job)?;
    let traps = bench.traps_since(traps_before);

    // Each page of both regions once, and once only: one access at a time, so that none stalls behind another.
    let pages = 2 * BYTES / PAGE;
    let (counters, answers) = (unit.engine.counters(), served.smmu.faults().totals().statistics);
    report.equal("the engine's copy of 4 MiB", Status::Done, status);
    report.equal("words that the CPU finds equal", data.words.len(), equal_words(&space, to, &data));
    report.equal("pages touched, by the address space", pages, space.pages());
    report.equal("stalls, by the model", pages, u64::from(counters.stalls - stalls_before.stalls));
    report.equal(
        "stalls resumed, by the model",
        pages,
        u64::from(counters.stalls_retried - stalls_before.stalls_retried),
    );
    report.equal("event records, by the driver", pages, served.smmu.event_records() - records_before);
    report.equal("answers Success, by the fault core", pages, answers.success - answers_before.success);
    report.equal(
        "other answers, by the fault core",
        0,
        answers.invalid + answers.failure - answers_before.invalid - answers_before.failure,
    );
    bench.print_traps("stalls", pages, pages, traps);
    drop(space);
    bench.end(served)
}
