//! What crosses the end of a stream's faults: references, answers, groups, devices that go on.

use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
#[cfg(not(target_os = "none"))]
use std::thread;

use smmu_iopf::driver::{DriverError, FaultMode, Options};
use smmu_iopf::iopf::{FaultGroup, FaultHandler, Verdict};
use smmu_iopf::model::engine::registers::{self as reg, hostile, status};
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::smmuv3::{PageResponse, SubstreamId};
use smmu_iopf::sync::Masked;

use super::bench::Need::{Faults, PageRequests, Stall, Substreams};
use super::bench::machine::{self, Machine};
use super::bench::{Bench, LIMIT_US, LIMITS, Pager, Profile, Space, cpu, faulting_engines, on_each, substreams};

scenarios![
    a_reader_that_holds_a_reference_over_a_disable_reads_the_life_it_found,
    a_device_with_page_requests_that_does_not_stop_is_quarantined_and_named_until_it_does,
    an_answer_that_comes_after_the_stream_was_enabled_again_reaches_nobody,
    a_group_that_is_dropped_unanswered_is_refused,
];

const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 16 * 4096;

/// A bench on which engine `engine` waits for the answers to `groups` groups, which its handler holds.
fn waiting(profile: Profile, engine: usize, groups: usize) -> (Bench, Arc<Space>, Arc<Pager>) {
    waiting_on(Bench::of(profile), profile, engine, groups)
}

fn waiting_on(mut bench: Bench, profile: Profile, engine: usize, groups: usize) -> (Bench, Arc<Space>, Arc<Pager>) {
    let space = Space::new(&bench, 1);
    let pager = Pager::deferring(&space, BASE..BASE + BYTES);
    let (_, faults) = faulting_engines(profile).find(|(served, _)| *served == engine).unwrap();
    bench.attach(engine, faults, &space).unwrap();
    bench.enable(engine, pager.clone()).unwrap();
    bench.machine.write_engine(engine, reg::DEPTH, groups as u32);
    bench.fill(engine, BASE, BYTES, 1, None);
    bench.run_until(|_| pager.deferred.lock().len() == groups);
    (bench, space, pager)
}

/// Answers late: the group must say so.
fn is_late(bench: &Bench, group: FaultGroup) -> bool {
    bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).is_err()
}

fn a_reader_that_holds_a_reference_over_a_disable_reads_the_life_it_found() {
    on_each(&[Faults], |profile| {
        for (engine, _) in faulting_engines(profile) {
            let (mut bench, space, pager) = waiting(profile, engine, 1);
            let group = pager.take().remove(0);
            let faults = group.faults().collect::<Vec<_>>();
            bench.disable(engine).unwrap();
            drop(bench.grace());
            assert_eq!(bench.live(), 1, "the reference keeps the state");
            // A second life under the same StreamID, with other faults.
            bench.enable(engine, Pager::new(&space, BASE + 4096..BASE + BYTES)).unwrap();
            bench.fill(engine, BASE + 8192, 8, 2, None);
            bench.finish([engine]);
            assert_eq!(bench.live(), 2);
            assert!(!group.is_waiting());
            assert_eq!((group.stream(), group.faults().collect::<Vec<_>>()), (profile.engine_stream(engine), faults));
            drop(group);
            assert_eq!(bench.live(), 1);
            bench.disable(engine).unwrap();
            assert_eq!((bench.live(), bench.domain.stats().in_memory()), (0, 0));
        }
    });
}

/// The answers come from another thread while the streams' stalls are terminated: each stall is resumed before STALL_TERM or
/// not at all, and no RESUME meets a STAG that is free or somebody else's. The first few come before; in odd rounds the others
/// come after, in even ones whenever they do.
#[test]
fn a_resume_that_races_with_stall_term_comes_before_it_or_never() {
    on_each(&[Stall], |profile| {
        let (mut resumed, mut refused) = (0, 0);
        for round in 0..40 {
            let (mut bench, _, pager) = waiting_on(Bench::patient(profile), profile, 0, 8);
            let groups = pager.take();
            let (before, answered, ended) = (round % 8, AtomicUsize::new(0), AtomicBool::new(false));
            let late = thread::scope(|scope| {
                let (domain, answered, ended) = (bench.domain.clone(), &answered, &ended);
                let answering = scope.spawn(move || {
                    let mut cpu = cpu(1);
                    domain.online(&mut cpu);
                    let mut late = 0;
                    for (index, group) in groups.into_iter().enumerate() {
                        while round % 2 == 1 && index == before && !ended.load(Ordering::Acquire) {
                            domain.poll(&mut cpu);
                            thread::yield_now();
                        }
                        late += usize::from(cpu.masked(|masked| group.respond(masked, PageResponse::Invalid)).is_err());
                        domain.poll(&mut cpu);
                        answered.fetch_add(1, Ordering::Release);
                        thread::yield_now();
                    }
                    domain.offline(&mut cpu);
                    late
                });
                while answered.load(Ordering::Acquire) < before {
                    thread::yield_now();
                }
                bench.disable(0).unwrap();
                ended.store(true, Ordering::Release);
                answering.join().unwrap()
            });
            let sent = bench.smmu.command_counts().answers;
            assert_eq!(sent + late as u64, 8);
            assert_eq!(bench.smmu.faults().totals().statistics.terminated, late as u64);
            assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);
            assert_eq!((bench.state(0), bench.live()), (status::ABORTED, 0));
            resumed += sent;
            refused += late;
        }
        // Odd rounds alone: 1, 3, 5, 7 before, 5 times, and 7, 5, 3, 1 after.
        assert!(resumed >= 80 && refused >= 80, "{resumed} resumed, {refused} refused");
    });
}

fn a_device_with_page_requests_that_does_not_stop_is_quarantined_and_named_until_it_does() {
    on_each(&[PageRequests], |profile| {
        let (mut bench, space, pager) = waiting(profile, 2, 1);
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NEVER_STOPPED);
        let named = DriverError::DeviceBusy { stream: profile.engine_stream(2), state: "stopped", waited_us: LIMIT_US };
        assert_eq!(bench.disable(2), Err(named.clone()));
        let stream = profile.engine_stream(2);
        assert_eq!(
            named.to_string(),
            format!("the device of stream {stream:?} did not become stopped within 20000 us")
        );
        // What waited is answered all the same, and nothing new begins.
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_INVALID), 1);
        assert!(is_late(&bench, pager.take().remove(0)));
        let again = Pager::new(&space, BASE..BASE + BYTES);
        assert_eq!(bench.enable(2, again.clone()), Err(DriverError::FaultsEnabled(profile.engine_stream(2))));
        assert_eq!(
            bench.smmu.detach(&mut bench.cpu, profile.engine_stream(2)),
            Err(DriverError::FaultsEnabled(profile.engine_stream(2)))
        );
        assert_eq!(bench.live(), 1);
        assert_eq!(bench.disable(2), Err(named));

        bench.machine.write_engine(2, reg::HOSTILE, 0);
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
        bench.enable(2, again).unwrap();
        bench.fill(2, BASE, BYTES, 5, None);
        bench.finish([2]);
        assert_eq!((bench.state(2), space.word(BASE + BYTES - 8)), (status::DONE, 5));
    });
}

fn an_answer_that_comes_after_the_stream_was_enabled_again_reaches_nobody() {
    on_each(&[Faults], |profile| {
        for (engine, _) in faulting_engines(profile) {
            let (mut bench, space, first) = waiting(profile, engine, 1);
            let late = first.take().remove(0);
            bench.disable(engine).unwrap();
            let second = Pager::deferring(&space, BASE..BASE + BYTES);
            bench.enable(engine, second.clone()).unwrap();
            bench.fill(engine, BASE, BYTES, 3, None);
            bench.run_until(|_| !second.deferred.lock().is_empty());
            // The new life waits in the same slot, for the same kind of answer.
            let commands = bench.smmu.command_counts().answers;
            assert!(is_late(&bench, late));
            bench.machine.run(100);
            assert_eq!(bench.smmu.command_counts().answers, commands);
            assert_eq!((bench.state(engine), second.deferred.lock().len()), (status::BUSY, 1));
            let group = second.take().remove(0);
            assert!(group.is_waiting());
            second.defers.store(false, Ordering::Relaxed);
            let answer = second.resolve(group.faults());
            bench.cpu.masked(|masked| group.respond(masked, answer)).unwrap();
            bench.finish([engine]);
            assert_eq!((bench.state(engine), space.word(BASE)), (status::DONE, 3));
            assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);
            assert_eq!(bench.machine.read_engine(engine, reg::RESPONSES_UNEXPECTED), 0);
        }
    });
}

fn a_group_that_is_dropped_unanswered_is_refused() {
    on_each(&[Faults], |profile| {
        for (engine, _) in faulting_engines(profile) {
            let (mut bench, space, pager) = waiting(profile, engine, 1);
            drop(pager.take());
            assert_eq!(bench.smmu.command_counts().answers, 0);
            let _ = bench.smmu.expire(&bench.cpu, 0);
            assert_eq!(bench.smmu.command_counts().answers, 1);
            bench.finish([engine]);
            assert_eq!((bench.state(engine), space.pages()), (status::ABORTED, 0));
            let statistics = bench.smmu.faults().totals().statistics;
            assert_eq!((statistics.groups, statistics.invalid, statistics.time_outs), (1, 1, 0));
        }
    });
}

/// Panics at the first fault and maps from then on.
struct Panicking(Arc<Pager>, AtomicBool);

impl FaultHandler for Panicking {
    fn handle(&self, masked: &Masked, faults: &[smmu_iopf::iopf::Fault]) -> Verdict {
        assert!(self.1.swap(true, Ordering::Relaxed), "as it must");
        self.0.handle(masked, faults)
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.0.defer(masked, group);
    }
}

#[test]
fn a_device_whose_handler_panics_is_refused_and_served_the_next_time() {
    on_each(&[Faults], |profile| {
        for (engine, _) in faulting_engines(profile) {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            let (_, faults) = faulting_engines(profile).find(|(served, _)| *served == engine).unwrap();
            bench.attach(engine, faults, &space).unwrap();
            let handler = Arc::new(Panicking(Pager::new(&space, BASE..BASE + BYTES), AtomicBool::new(false)));
            bench.enable(engine, handler).unwrap();
            for state in [status::ABORTED, status::DONE] {
                bench.fill(engine, BASE, 8, 6, None);
                bench.finish([engine]);
                assert_eq!(bench.state(engine), state);
            }
            assert_eq!(space.word(BASE), 6);
            let statistics = bench.smmu.faults().totals().statistics;
            assert_eq!((statistics.invalid, statistics.success), (1, 1));
            bench.disable(engine).unwrap();
            assert_eq!(bench.live(), 0);
        }
    });
}

/// Engine 2 wants responses with the PASID of the request, engine 6 without (docs/engine.md). Their drivers say the contrary in their first
/// lives. Of what the SMMU answers itself, STE.PPAR decides (8.1).
#[test]
fn the_pasid_in_responses_is_as_the_device_of_this_life_wants_it_whatever_that_of_the_one_before_did() {
    on_each(&[PageRequests, Substreams], |profile| {
        let options = Options { limit_us: LIMIT_US, page_request_queue_log2: 2, ..Options::default() };
        let machine =
            Machine::with(machine::memory(4 << 20, profile.features().coherent), profile.modelled().unwrap(), 8);
        let mut bench = Bench::on(machine, options, u64::MAX).unwrap();
        let space = Space::new(&bench, 1);
        let pasid = SubstreamId::new(1);
        let pager = Pager::with([(pasid, space.clone())].into(), BASE..BASE + 8 * BYTES);
        for (engine, needs_pasid) in [(2, true), (6, false)] {
            let stream = bench.stream(engine);
            bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::PageRequest, 4)).unwrap();
            bench.smmu.attach_substream(&mut bench.cpu, stream, pasid.unwrap(), Some(&space.context())).unwrap();
            let mut device = bench.device(engine);
            for says in [!needs_pasid, needs_pasid] {
                device.needs_pasid = Some(says);
                let (smmu, cpu) = (&bench.smmu, &mut bench.cpu);
                smmu.enable_faults(cpu, &[stream], Some(&device), pager.clone(), LIMITS).unwrap();
                if says == needs_pasid {
                    // With PPS = 1 all of the SMMU's own answers have one.
                    let overflows = needs_pasid || !profile.features().pps;
                    bench.machine.write_engine(engine, reg::HOSTILE, if overflows { hostile::NO_CREDITS } else { 0 });
                    bench.machine.write_engine(engine, reg::DEPTH, 8);
                    let before = bench.smmu.page_request_counts().overflows;
                    bench.fill(engine, BASE + engine as u64 * BYTES, BYTES, 1, Some(1));
                    bench.machine.run(20);
                    bench.finish([engine]);
                    assert_eq!(bench.state(engine), status::DONE);
                    assert_eq!(bench.smmu.page_request_counts().overflows > before, overflows);
                    assert_eq!(bench.machine.read_engine(engine, reg::RESPONSES_UNEXPECTED), 0);
                }
                bench.smmu.disable_faults(&mut bench.cpu, stream, &device).unwrap();
            }
        }
    });
}
