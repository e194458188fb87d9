//! An engine with ATS and PRI copies in two address spaces of its own, which have the same addresses and different data.

use alloc::vec::Vec;

use super::bench::{Bench, Failure, PAGE, anonymous, backed, equal_words};
use crate::kernel::engine::{Job, Operation, Status};
use crate::kernel::report::Report;
use crate::smmuv3::SubstreamId;

/// How much is copied in each address space.
const BYTES: u64 = 4 << 20;

/// The most pages of a group.
const GROUP: u32 = 8;

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let unit = match bench.engine(false, 0) {
        Ok(unit) => unit,
        Err(lack) => {
            bench.lacks_engine(report, "page requests", lack);
            return Ok(());
        }
    };
    let (from, to) = (bench.somewhere(0), bench.somewhere(1));
    let mut spaces = Vec::new();
    let mut data = Vec::new();
    for pasid in [1, 2] {
        let memory = bench.random_memory(BYTES)?;
        let space = bench.space(bench.front(unit)?, &[backed(from, BYTES, &memory), anonymous(to, BYTES)])?;
        spaces.push((SubstreamId::new(pasid), space));
        data.push(memory);
    }
    let served = bench.serve(unit, &spaces, |pager| pager)?;

    for ((substream, space), data) in spaces.iter().zip(&data) {
        let Some(pasid) = substream.map(SubstreamId::get) else { continue };
        let (before, requests_before) = (unit.engine.counters(), served.smmu.page_request_records());
        let answers_before = served.smmu.faults().totals().statistics;
        let job = Job {
            substream: *substream,
            group: GROUP,
            seed: bench.job_seed(),
            ..Job::new(Operation::Copy, from, to, BYTES)
        };
        let traps_before = bench.traps();
        let status = bench.run_job(unit, &job)?;
        let traps = bench.traps_since(traps_before);

        let pages = 2 * BYTES / PAGE;
        let (after, answers) = (unit.engine.counters(), served.smmu.faults().totals().statistics);
        let groups = u64::from(after.groups - before.groups);
        report.equal(format_args!("PASID {pasid}: the engine's copy of 4 MiB"), Status::Done, status);
        report.equal(
            format_args!("PASID {pasid}: words that the CPU finds equal"),
            data.words.len(),
            equal_words(space, to, data),
        );
        report.equal(format_args!("PASID {pasid}: pages touched, by the address space"), pages, space.pages());
        let requests = u64::from(after.page_requests - before.page_requests);
        report.equal(format_args!("PASID {pasid}: page requests, by the model"), pages, requests);
        let records = served.smmu.page_request_records() - requests_before;
        report.equal(format_args!("PASID {pasid}: page request records, by the driver"), requests, records);
        let success = answers.success - answers_before.success;
        report.equal(format_args!("PASID {pasid}: answers Success, by the fault core"), groups, success);
        let received = u64::from(after.success - before.success);
        report.equal(format_args!("PASID {pasid}: responses Success, by the model"), groups, received);
        let full = pages.div_ceil(GROUP.into());
        report.equal(
            format_args!("PASID {pasid}: groups of more than one page"),
            true,
            groups >= full && groups < pages,
        );
        bench.print_traps(format_args!("PASID {pasid}"), requests, groups, traps);
        report.equal(format_args!("PASID {pasid}: unexpected responses"), before.unexpected, after.unexpected);
        // The engine goes on with the next one.
        let markers = answers.stop_markers;
        if let Some(substream) = *substream {
            served.smmu.stop_substream(&mut bench.cpu, unit.engine.stream(), substream, &unit.engine)?;
        }
        let stopped = served.smmu.faults().totals().statistics.stop_markers - markers;
        report.equal(format_args!("PASID {pasid}: Stop markers, by the fault core"), 1, stopped);
        let status = bench.run_job(unit, &job)?;
        report.equal(
            format_args!("PASID {pasid}: the same once it is stopped is aborted"),
            true,
            matches!(status, Status::Aborted(_)),
        );
    }
    drop(spaces);
    bench.end(served)
}
