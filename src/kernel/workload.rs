//! The main job: real DMA through both SMMUs, page faults served, and every count checked where it can be checked.

mod bench;
mod change;
mod disable;
mod disk;
mod edu;
mod entropy;
mod nvme;
mod page_requests;
mod pci;
mod reach;
mod stall;
mod wild;

use super::devices::Devices;
use super::report::Report;
use super::runtime::Kernel;
use crate::driver::Options;
use crate::iopf::{Totals, WorkCounts};
use crate::sync::Cpu;
use bench::{Bench, Expected};

/// Runs every part of the main job, and returns 0 if all checks held, else 1.
///
/// Arguments of the command line: `seed=N` decides addresses, data and the order of pages; `smmu=qemu`, `model` or `both` (as
/// without it) says which SMMUs there must be; `trace` keeps a hash over the ordered records and answers.
pub fn run(kernel: &'static Kernel, mut cpu: Cpu) -> i32 {
    let argument = |name: &str| kernel.arguments.iter().find_map(|argument| argument.strip_prefix(name));
    let seed = match argument("seed=").map(str::parse) {
        None => 1,
        Some(Ok(seed)) => seed,
        Some(Err(error)) => {
            log::error!("argument seed=: {error}");
            return 2;
        }
    };
    let [qemu, model] = match argument("smmu=") {
        Some("qemu") => [true, false],
        Some("model") => [false, true],
        Some("both") | None => [true, true],
        Some(other) => {
            log::error!("argument smmu=: '{other}' is none of qemu, model, both");
            return 2;
        }
    };
    let trace = argument("trace").is_some();
    // What is to be the same again has none of these.
    let expected = Expected { qemu, model, unpaced: qemu && !trace };
    let options = Options { trace, stream_bits: 16, ..Options::default() };
    let heap_before = kernel.heap.used();
    log::info!("smmu-iopf: {} cores run the kernel, seed {seed}", kernel.cores());
    let devices = match Devices::bring_up(kernel, &mut cpu, &options) {
        Ok(devices) => devices,
        Err(error) => {
            log::error!("{error}");
            return 1;
        }
    };
    let mut bench = match Bench::new(kernel, devices, cpu, seed, expected) {
        Ok(bench) => bench,
        Err(error) => {
            log::error!("{error}");
            return 1;
        }
    };
    let mut report = Report::default();
    type Part = fn(&mut Bench, &mut Report) -> Result<(), bench::Failure>;
    let parts: [(&str, Part); 9] = [
        ("1. QEMU's SMMU: translated DMA, blocked DMA", edu::run),
        ("2. Stall: a copy between two regions of which no page is mapped", stall::run),
        ("3. PRI: the same by page request groups, two PASIDs with the same addresses", page_requests::run),
        ("4. A wild address, and a neighbour that goes on", wild::run),
        ("5. Faults taken away from a stream at work", disable::run),
        ("6. A disk: 16 MiB there and back by translated DMA, a page taken away", disk::run),
        ("7. A source of random bytes: the same with what only it knows", entropy::run),
        ("8. An NVMe disk: 16 MiB there and back without a copy, a page taken away", nvme::run),
        (
            "9. A stream of QEMU's SMMU that goes elsewhere: untranslated, through an address space, through a virtual machine",
            change::run,
        ),
    ];
    for (title, part) in parts {
        report.heading(title);
        if let Err(failure) = part(&mut bench, &mut report) {
            report.error(title, failure);
        }
    }
    report.heading("Afterwards");
    bench.settle();
    report.equal("page frames in use", 0, bench.frames.in_use());
    report.equal("fault states live", 0, devices.smmus.iter().map(|unit| unit.smmu.faults().live()).sum::<usize>());
    report.equal(
        "records that made no sense",
        0,
        devices.smmus.iter().map(|unit| unit.events.undecodable()).sum::<u64>(),
    );
    report.equal("global errors", 0, devices.smmus.iter().map(|unit| unit.events.global_errors()).sum::<u64>());
    print_totals(&bench, heap_before);
    print_times(&bench);
    if report.failed() == 0 {
        log::info!("{} checks: all checks held", report.held());
        0
    } else {
        log::error!("{} checks failed, {} held", report.failed(), report.held());
        1
    }
}

fn print_totals(bench: &Bench, heap_before: usize) {
    for unit in &bench.devices.smmus {
        let smmu = &unit.smmu;
        let Totals { statistics: s, live_states, .. } = smmu.faults().totals();
        let records = smmu.event_records() + smmu.page_request_records();
        log::info!(
            "SMMU {:#x}: {records} records, {} groups ({} inline, {} deferred); answers: {} success, {} invalid, {} failure, \
             {} by STALL_TERM; {} refusals; {live_states} live states",
            unit.phandle.0,
            s.groups,
            s.inline,
            s.deferred,
            s.success,
            s.invalid,
            s.failure,
            s.terminated,
            s.unknown + s.early + s.closed + s.over_limit,
        );
        if let Some(hash) = bench.cpu.masked(|masked| smmu.trace_hash(masked)) {
            log::info!("SMMU {:#x}: records and answers hash to {hash:#018x}", unit.phandle.0);
        }
    }
    let WorkCounts { groups, turns, stolen, wakes, .. } = bench.kernel.work_queues.counts();
    log::info!(
        "work: {groups} groups in {turns} turns, {stolen} of them stolen; {wakes} cores woken; {} page-ins saved",
        bench.saved
    );
    let grace = bench.kernel.domain.stats();
    log::info!(
        "grace periods: {} ended, {} expedited; objects: {} retired, {} freed; heap: {} bytes in use, {} of them before the \
         devices; frames in use: {}",
        grace.periods,
        grace.expedited,
        grace.retired,
        grace.freed,
        bench.kernel.heap.used(),
        heap_before,
        bench.frames.in_use(),
    );
}

/// What the model says about the time that faults took. It varies from run to run, so nothing is checked.
fn print_times(bench: &Bench) {
    let Some(page) = &bench.control_page else { return };
    for unit in &bench.devices.engines {
        let [answers, retries] = page.times(unit.engine.stream());
        for (what, times) in [("fault to answer", answers), ("answer to retry", retries)] {
            if times.count() > 0 {
                log::info!("{what}, by the model: {:?}, {times}", unit.engine.stream());
            }
        }
    }
}
