//! Engines that break the rules, under the driver: it survives each of them, and a neighbour does not notice.

use alloc::sync::Arc;
use alloc::vec::Vec;

use smmu_iopf::driver::{DriverError, FaultMode};
use smmu_iopf::model::engine::registers::{self as reg, hostile, status};
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::smmuv3::SubstreamId;
use smmu_iopf::smmuv3::event::Event;

use super::bench::Need::{Model, PageRequests, Substreams};
use super::bench::machine::memory_base;
use super::bench::{Bench, Pager, Profile, Space, on_each, substreams};

scenarios![
    an_engine_that_never_stops_is_named_and_stays_quarantined,
    accesses_and_requests_that_are_not_permitted_are_refused_and_recorded,
];

const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 16 * 4096;

/// Attaches engine `engine` to a space of its own, reached by PASID 1, and enables its faults.
fn paging(profile: Profile, bench: &mut Bench, engine: usize) -> Arc<Space> {
    let space = Space::new(bench, engine as u16);
    let config = substreams(FaultMode::PageRequest, 4);
    bench.smmu.attach(&mut bench.cpu, profile.engine_stream(engine), &config).unwrap();
    let pasid = SubstreamId::new(1).unwrap();
    bench.smmu.attach_substream(&mut bench.cpu, profile.engine_stream(engine), pasid, Some(&space.context())).unwrap();
    let pager = Pager::with([(Some(pasid), space.clone())].into(), BASE..BASE + BYTES);
    bench.enable(engine, pager).unwrap();
    space
}

/// Lets engine 2 work in these hostile modes beside engine 3, which must not notice, and takes engine 2's faults away.
/// Gives the result of that and the bench, of which engine 2 is out of its modes and all queues are drained.
fn survive(profile: Profile, modes: u32) -> (Result<(), DriverError>, Bench) {
    let mut bench = Bench::of(profile);
    paging(profile, &mut bench, 2);
    let space = paging(profile, &mut bench, 3);
    bench.machine.write_engine(2, reg::HOSTILE, modes);
    bench.machine.write_engine(2, reg::DEPTH, 8);
    bench.machine.write_engine(2, reg::GROUP_SIZE, 4);
    bench.fill(2, BASE, BYTES, 2, Some(1));
    bench.fill(3, BASE, BYTES, 3, Some(1));
    bench.finish([3]);
    assert_eq!((bench.state(3), space.word(BASE + BYTES - 8)), (status::DONE, 3), "modes {modes:#x}");
    assert_eq!(bench.machine.read_engine(3, reg::RESPONSES_UNEXPECTED), 0);
    for _ in 0..200 {
        bench.machine.step();
        bench.drain();
    }
    let result = bench.disable(2);
    for _ in 0..200 {
        bench.machine.step();
        bench.drain();
    }
    bench.machine.write_engine(2, reg::HOSTILE, 0);
    bench.machine.run(1000);
    bench.drain();
    bench.machine.run(1000);
    // Each Last in the queue was answered once, whoever sent it.
    assert_eq!(bench.model_count(diagnostics::PAGE_REQUEST_GROUPS), bench.smmu.command_counts().answers, "{modes:#x}");
    (result, bench)
}

#[test]
fn requests_that_break_the_rules_are_answered_and_faults_can_be_taken_away() {
    on_each(&[PageRequests, Substreams], |profile| {
        for modes in [
            0,
            hostile::WRONG_PASID,
            hostile::NO_CREDITS,
            hostile::REUSE_INDEX,
            hostile::WHILE_DISABLED,
            hostile::STORM,
            hostile::STORM | hostile::NO_CREDITS,
            hostile::EARLY_STOP_MARKER,
            hostile::WRONG_PASID | hostile::REUSE_INDEX | hostile::EARLY_STOP_MARKER,
        ] {
            let (result, mut bench) = survive(profile, modes);
            assert_eq!(result, Ok(()), "modes {modes:#x}");
            // Nobody has PASID 2; a storm leaves the handler's range, and asks at each of 200 steps.
            let refused = bench.machine.read_engine(2, reg::RESPONSES_INVALID) > 0;
            assert_eq!(refused, modes & (hostile::WRONG_PASID | hostile::STORM) != 0, "modes {modes:#x}");
            let requests = bench.machine.read_engine(2, reg::PAGE_REQUESTS);
            assert_eq!(requests >= 200, modes & hostile::STORM != 0, "modes {modes:#x}: {requests}");
            bench.disable(3).unwrap();
            assert_eq!(bench.live(), 0, "modes {modes:#x}");
            assert_eq!(bench.smmu.faults().totals().slots_in_use, 0, "modes {modes:#x}");
        }
    });
}

#[test]
fn a_storm_after_page_requests_are_disabled_is_answered_too() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (_, mut bench) = survive(profile, hostile::STORM | hostile::WHILE_DISABLED);
        assert!(
            bench.machine.read_engine(2, reg::RESPONSES_INVALID) + bench.machine.read_engine(2, reg::RESPONSES_FAILURE)
                > 0
        );
        bench.disable(3).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_UNEXPECTED), 0);
    });
}

fn an_engine_that_never_stops_is_named_and_stays_quarantined() {
    on_each(&[PageRequests, Substreams], |profile| {
        for modes in [hostile::NEVER_STOPPED, hostile::NO_LAST] {
            let (result, mut bench) = survive(profile, modes);
            match result {
                Err(DriverError::DeviceBusy { stream: named, .. }) => assert_eq!(named, profile.engine_stream(2)),
                other => panic!("modes {modes:#x}: {other:?}"),
            }
            let pager = Pager::new(&Space::new(&bench, 9), BASE..BASE + BYTES);
            assert_eq!(bench.enable(2, pager), Err(DriverError::FaultsEnabled(profile.engine_stream(2))));
        }
    });
}

fn accesses_and_requests_that_are_not_permitted_are_refused_and_recorded() {
    on_each(&[Model], |profile| {
        for mode in [hostile::TRANSLATED, hostile::TRANSLATION_REQUESTS, hostile::UNSUPPORTED] {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            bench.attach(2, FaultMode::Terminate, &space).unwrap();
            bench.machine.write_engine(2, reg::HOSTILE, mode);
            bench.fill(2, memory_base(), 8, 1, None);
            bench.finish([2]);
            assert_eq!(bench.state(2), status::ABORTED);
            let streams = bench.sink.0.lock().iter().map(Event::stream).collect::<Vec<_>>();
            assert_eq!(streams, [Some(profile.engine_stream(2))], "mode {mode:#x}");
        }
    });
}
