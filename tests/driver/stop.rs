//! PASIDs that a device stops using while it goes on with others.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(target_os = "none"))]
use std::thread;

use smmu_iopf::driver::{DeviceControl, DriverError, FaultMode, Options, StreamConfig, Translation};
use smmu_iopf::iopf::{FaultGroup, StopError};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, ats_control, control as job, hostile, pri_control, status};
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId};

use super::bench::Need::{PageRequests, Queues, Stall, Substreams};
use super::bench::world::Tables;
use super::bench::{Bench, Device, LIMIT_US, Pager, Profile, Space, cpu, on_each, substreams};

scenarios![
    translations_that_the_device_does_not_forget_in_time_keep_the_substream_stopped,
    a_stop_ends_soon_when_the_smmu_is_given_up_meanwhile,
    what_is_no_substream_or_has_no_page_requests_is_refused,
];

const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 64 * 4096;

pub(super) fn pasid(id: u32) -> SubstreamId {
    SubstreamId::new(id).unwrap()
}

/// A bench whose engine 2 has page requests enabled, and the handler of PASIDs 1 and 2, whose address spaces have the ASIDs 1 and 2.
pub(super) fn paging(profile: Profile) -> (Bench, Arc<Pager>) {
    paging_on(Bench::of(profile))
}

pub(super) fn paging_on(mut bench: Bench) -> (Bench, Arc<Pager>) {
    let stream = bench.stream(2);
    bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::PageRequest, 4)).unwrap();
    let spaces: BTreeMap<_, _> = [1, 2].map(|id| (Some(pasid(id)), Space::new(&bench, id as u16))).into();
    for (substream, space) in &spaces {
        bench.smmu.attach_substream(&mut bench.cpu, stream, substream.unwrap(), Some(&space.context())).unwrap();
    }
    let pager = Pager::with(spaces, BASE..BASE + BYTES);
    bench.enable(2, pager.clone()).unwrap();
    (bench, pager)
}

/// The same with a group of PASID 1 that its handler holds.
pub(super) fn waiting(profile: Profile) -> (Bench, Arc<Pager>, FaultGroup) {
    let (mut bench, pager) = paging(profile);
    pager.defers.store(true, Ordering::Relaxed);
    bench.fill(2, BASE, 8, 1, Some(1));
    bench.run_until(|_| !pager.deferred.lock().is_empty());
    let group = pager.take().remove(0);
    (bench, pager, group)
}

pub(super) fn stop(bench: &mut Bench, id: u32, device: &dyn DeviceControl) -> Result<(), DriverError> {
    let stream = bench.stream(2);
    bench.smmu.stop_substream(&mut bench.cpu, stream, pasid(id), device)
}

pub(super) fn in_use(bench: &Bench, id: u32, lack: &'static str) -> Result<(), DriverError> {
    Err(DriverError::SubstreamInUse { stream: bench.stream(2), substream: pasid(id), lack, waited_us: LIMIT_US })
}

pub(super) fn is_late(bench: &Bench, group: FaultGroup) -> bool {
    bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).is_err()
}

/// How a job with a PASID ends.
pub(super) fn fill(bench: &mut Bench, id: u32) -> u32 {
    bench.fill(2, BASE, 8, id.into(), Some(id));
    bench.finish([2]);
    bench.state(2)
}

/// What an engine does to stop a PASID, and whether it says that it has.
pub(super) struct Stops<F: Fn(&Device), G: Fn(&Device) -> bool> {
    device: Device,
    stop: F,
    is_done: G,
    /// A look takes out of the queue what there is.
    drains: bool,
}

impl<F: Fn(&Device), G: Fn(&Device) -> bool> Stops<F, G> {
    pub(super) fn new(device: Device, stop: F, is_done: G) -> Self {
        Self { device, stop, is_done, drains: true }
    }
}

impl<F: Fn(&Device), G: Fn(&Device) -> bool> DeviceControl for Stops<F, G> {
    fn stop_new_work(&self) {
        unreachable!()
    }

    fn is_idle(&self) -> bool {
        unreachable!()
    }

    fn response_needs_pasid(&self) -> bool {
        unreachable!()
    }

    fn enable_ats(&self) {
        unreachable!()
    }

    fn disable_ats(&self) {
        unreachable!()
    }

    fn enable_page_requests(&self, _: u32) {
        unreachable!()
    }

    fn disable_page_requests(&self) {
        unreachable!()
    }

    fn page_requests_stopped(&self) -> bool {
        unreachable!()
    }

    fn page_requests_failed(&self) -> bool {
        unreachable!()
    }

    fn reset_page_requests(&self) {
        unreachable!()
    }

    fn stop_substream(&self, _: StreamId, _: SubstreamId) {
        (self.stop)(&self.device);
    }

    fn substream_stopped(&self, stream: StreamId, substream: SubstreamId) -> bool {
        let stopped = self.drains && self.device.substream_stopped(stream, substream);
        (self.is_done)(&self.device) || stopped
    }
}

#[test]
fn a_stopped_pasid_is_answered_and_forgotten_and_the_other_goes_on() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (mut bench, pager) = paging(profile);
        pager.defers.store(true, Ordering::Relaxed);
        // A request for PASID 2, and one for PASID 1.
        bench.machine.write_engine(2, reg::HOSTILE, hostile::WRONG_PASID);
        bench.machine.write_engine(2, reg::DEPTH, 2);
        bench.fill(2, BASE, 2 * 4096, 1, Some(1));
        bench.run_until(|_| pager.deferred.lock().len() == 1);
        bench.machine.write_engine(2, reg::HOSTILE, 0);
        bench.run_until(|_| pager.deferred.lock().len() == 2);
        let mut groups = pager.take();
        let (own, other) = (groups.pop().unwrap(), groups.pop().unwrap());
        let of = |group: &FaultGroup| group.faults().next().unwrap().substream;
        assert_eq!((of(&own), of(&other)), (Some(pasid(1)), Some(pasid(2))));

        // The engine sends its marker when its job is over, which waits for both.
        let other = spin::Mutex::new(Some(other));
        let answer_other = |device: &Device| {
            if device.machine.read_engine(2, reg::RESPONSES_INVALID) == 1
                && let Some(group) = other.lock().take()
            {
                assert!(group.is_waiting(), "that of PASID 2 was refused too");
                cpu(0).masked(|masked| group.respond(masked, PageResponse::Success)).unwrap();
            }
            false
        };
        let device = bench.device(2);
        let asked = |device: &Device| device.stop_substream(StreamId(0), pasid(1));
        stop(&mut bench, 1, &Stops::new(device, asked, answer_other)).unwrap();
        assert!(other.lock().is_none());
        assert!(is_late(&bench, own));
        let counters = [reg::RESPONSES_SUCCESS, reg::RESPONSES_INVALID, reg::RESPONSES_UNEXPECTED];
        assert_eq!(counters.map(|counter| bench.machine.read_engine(2, counter)), [1, 1, 0]);
        assert!(bench.machine.read_engine(2, reg::INVALIDATIONS) > 0);
        assert_eq!(bench.smmu.faults().totals().slots_in_use, 0);
        assert_ne!(bench.state(2), status::BUSY);

        pager.defers.store(false, Ordering::Relaxed);
        assert_eq!((fill(&mut bench, 2), fill(&mut bench, 1)), (status::DONE, status::ABORTED));
        let (stream, context) = (bench.stream(2), pager.spaces[&Some(pasid(1))].context());
        bench.smmu.attach_substream(&mut bench.cpu, stream, pasid(1), Some(&context)).unwrap();
        assert_eq!(fill(&mut bench, 1), status::DONE, "of a new use");
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

/// Has an engine that waits for answers for ever come to rest.
fn reset(bench: &Bench) {
    for (register, value) in
        [(reg::HOSTILE, 0), (reg::CONTROL, job::STOP), (reg::PRI_CONTROL, 0), (reg::PRI_CONTROL, pri_control::RESET)]
    {
        bench.machine.write_engine(2, register, value);
    }
}

/// Sends a Stop marker for the PASID in its register, whatever waits for an answer.
pub(super) fn send_marker(device: &Device) {
    device.machine.write_engine(2, reg::PRI_CONTROL, pri_control::ENABLE | pri_control::SEND_STOP_MARKER);
}

/// A device that waits for no answers sends its marker behind requests of a group whose Last never comes (8).
#[test]
fn a_group_without_its_last_request_ends_with_its_pasid() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (mut bench, pager) = paging(profile);
        // One of PASID 2, and one of PASID 1.
        bench.machine.write_engine(2, reg::DEPTH, 2);
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NO_LAST | hostile::WRONG_PASID);
        bench.fill(2, BASE, 2 * 4096, 1, Some(1));
        bench.run_until(|bench| bench.smmu.page_request_records() == 1);
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NO_LAST);
        bench.run_until(|bench| bench.smmu.page_request_records() == 2);
        assert_eq!(bench.smmu.faults().totals().slots_in_use, 2);
        let device = Stops::new(bench.device(2), send_marker, |_| true);
        stop(&mut bench, 1, &device).unwrap();
        assert_eq!((bench.smmu.faults().totals().slots_in_use, pager.groups.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(bench.smmu.faults().totals().statistics.discarded, 1);
        reset(&bench);
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

#[test]
fn answers_that_found_no_room_before_the_marker_are_sent_before_the_end() {
    on_each(&[PageRequests, Substreams, Queues], |profile| {
        let options = Options { limit_us: LIMIT_US, command_queue_log2: 1, ..Options::default() };
        let (mut bench, _) = paging_on(Bench::with(profile, options));
        // A job with PASID 1 says what the storm carries.
        assert_eq!(fill(&mut bench, 1), status::DONE);
        let groups = bench.machine.read_engine(2, reg::PAGE_REQUEST_GROUPS);
        let storm = |device: &Device| {
            device.machine.write_control(control::COMMANDS_HELD, LIMIT_US / 2);
            device.machine.write_engine(2, reg::HOSTILE, hostile::STORM);
            device.machine.run(4);
            device.machine.write_engine(2, reg::HOSTILE, 0);
            send_marker(device);
            device.machine.run(1);
        };
        let device = Stops::new(bench.device(2), storm, |_| true);
        stop(&mut bench, 1, &device).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::PAGE_REQUEST_GROUPS), groups + 4);
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_INVALID), 4);
        bench.disable(2).unwrap();
    });
}

/// The device is done when it has its answers, which the drainer has and finds no room for. No interrupt tells that there is room.
#[test]
fn who_stops_a_pasid_has_answers_sent_that_found_no_room() {
    on_each(&[PageRequests, Substreams, Queues], |profile| {
        let options = Options { limit_us: LIMIT_US, command_queue_log2: 1, ..Options::default() };
        let (mut bench, _) = paging_on(Bench::with(profile, options));
        assert_eq!(fill(&mut bench, 1), status::DONE);
        let smmu = bench.smmu.clone();
        let drain = || cpu(0).masked(|masked| while smmu.drain_page_requests(masked).more {});
        let storm = |device: &Device| {
            device.machine.write_control(control::COMMANDS_HELD, LIMIT_US / 2);
            device.machine.write_engine(2, reg::HOSTILE, hostile::STORM);
            device.machine.run(4);
            device.machine.write_engine(2, reg::HOSTILE, 0);
            send_marker(device);
            device.machine.run(1);
            drain();
        };
        let is_answered = |device: &Device| device.machine.read_engine(2, reg::RESPONSES_INVALID) == 4;
        let device = Stops { drains: false, ..Stops::new(bench.device(2), storm, is_answered) };
        stop(&mut bench, 1, &device).unwrap();
        assert!(is_answered(&bench.device(2)));
        bench.disable(2).unwrap();
    });
}

#[test]
fn a_device_that_has_stopped_a_pasid_is_not_told_to_forget_its_address_space_again() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (mut bench, pager) = paging(profile);
        let device = bench.device(2);
        assert_eq!((fill(&mut bench, 1), fill(&mut bench, 2)), (status::DONE, status::DONE));
        stop(&mut bench, 1, &device).unwrap();
        let invalidations = |bench: &Bench| bench.machine.read_engine(2, reg::INVALIDATIONS);
        let before = invalidations(&bench);
        let mut forget = |id| {
            let tables = Tables(pager.spaces[&Some(pasid(id))].tag);
            let _ = bench.smmu.forget(&mut bench.cpu, tables).unwrap();
            invalidations(&bench) - before
        };
        assert_eq!((forget(1), forget(2)), (0, 1));
    });
}

/// Another core drains and a third answers what is deferred, while the engine asks for groups of eight pages, with Stop markers in
/// between in odd rounds.
#[test]
fn requests_that_race_with_the_stop_are_answered_once() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut refused = 0;
        for round in 0..24 {
            let (mut bench, pager) = paging_on(Bench::patient(profile));
            pager.defers.store(round % 3 != 0, Ordering::Relaxed);
            bench.machine.write_engine(2, reg::DEPTH, 8);
            bench.machine.write_engine(2, reg::GROUP_SIZE, 8);
            bench.machine.write_engine(2, reg::HOSTILE, if round % 2 == 1 { hostile::EARLY_STOP_MARKER } else { 0 });
            bench.fill(2, BASE, BYTES, 1, Some(1));
            let ended = AtomicBool::new(false);
            thread::scope(|scope| {
                let (smmu, domain, ended, pager) = (&bench.smmu, &bench.domain, &ended, &pager);
                scope.spawn(move || {
                    let mut cpu = cpu(1);
                    domain.online(&mut cpu);
                    while !ended.load(Ordering::Relaxed) {
                        cpu.masked(|masked| smmu.drain_page_requests(masked));
                        domain.poll(&mut cpu);
                        thread::yield_now();
                    }
                    domain.offline(&mut cpu);
                });
                scope.spawn(move || {
                    let mut cpu = cpu(2);
                    domain.online(&mut cpu);
                    while !ended.load(Ordering::Relaxed) {
                        for group in pager.take() {
                            let response = pager.resolve(group.faults());
                            let _ = cpu.masked(|masked| group.respond(masked, response));
                            domain.poll(&mut cpu);
                            thread::yield_now();
                        }
                        domain.poll(&mut cpu);
                        thread::yield_now();
                    }
                    domain.offline(&mut cpu);
                });
                for _ in 0..round * 5 {
                    bench.machine.step();
                }
                let (stream, device) = (bench.stream(2), bench.device(2));
                let stopped = smmu.stop_substream(&mut bench.cpu, stream, pasid(1), &device);
                ended.store(true, Ordering::Relaxed);
                stopped.unwrap();
            });
            drop(pager.take());
            let read = |counter| bench.machine.read_engine(2, counter);
            assert_eq!(
                read(reg::PAGE_REQUEST_GROUPS),
                read(reg::RESPONSES_SUCCESS) + read(reg::RESPONSES_INVALID),
                "round {round}"
            );
            assert_eq!((read(reg::RESPONSES_UNEXPECTED), read(reg::RESPONSES_FAILURE)), (0, 0));
            assert_eq!(bench.smmu.faults().totals().slots_in_use, 0, "round {round}");
            assert_ne!(bench.state(2), status::BUSY);
            refused += read(reg::RESPONSES_INVALID);
            bench.disable(2).unwrap();
            assert_eq!(bench.live(), 0);
        }
        assert!(refused > 0, "no group was caught by a stop");
    });
}

fn translations_that_the_device_does_not_forget_in_time_keep_the_substream_stopped() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (mut bench, _) = paging(profile);
        let device = bench.device(2);
        bench.machine.write_engine(2, reg::ATS_CONTROL, ats_control::ENABLE | ats_control::INVALIDATIONS_TIME_OUT);
        assert_eq!(stop(&mut bench, 1, &device), Err(DriverError::AtcInvalidationTimeout));
        bench.machine.write_engine(2, reg::ATS_CONTROL, ats_control::ENABLE);
        let before = bench.machine.read_engine(2, reg::INVALIDATIONS);
        stop(&mut bench, 1, &device).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::INVALIDATIONS), before + 1);
        assert_eq!((fill(&mut bench, 1), fill(&mut bench, 2)), (status::ABORTED, status::DONE));
    });
}

fn a_stop_ends_soon_when_the_smmu_is_given_up_meanwhile() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (mut bench, _) = paging(profile);
        let smmu = bench.smmu.clone();
        let gives_up = Stops::new(bench.device(2), move |_: &Device| smmu.give_up(), |_: &Device| false);
        let began = bench.machine.read_control(control::TICKS);
        assert_eq!(stop(&mut bench, 1, &gives_up), Err(DriverError::GivenUp));
        assert!(bench.machine.read_control(control::TICKS) - began < LIMIT_US / 2);
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

fn what_is_no_substream_or_has_no_page_requests_is_refused() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let (stream, space, device) = (bench.stream(2), Space::new(&bench, 1), bench.device(2));
        assert_eq!(stop(&mut bench, 1, &device), Err(DriverError::NotAttached(stream)));
        let translation = Translation::Stage1 { context: Some(space.context()), substream_bits: 4 };
        let config = StreamConfig { faults: FaultMode::PageRequest, translation };
        bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
        assert_eq!(stop(&mut bench, 1, &device), Err(DriverError::FaultsNotEnabled(stream)));
        bench.enable(2, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        for id in [0, 16] {
            let beyond = DriverError::SubstreamOutOfRange { stream, substream: pasid(id) };
            assert_eq!(stop(&mut bench, id, &device), Err(beyond));
        }
        bench.smmu.give_up();
        assert_eq!(stop(&mut bench, 1, &device), Err(DriverError::GivenUp));
    });
    on_each(&[Stall, Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let (stream, device) = (bench.stream(0), bench.device(0));
        bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::Stall, 4)).unwrap();
        let space = Space::new(&bench, 1);
        bench.enable(0, Pager::new(&space, 0..1)).unwrap();
        let refused = bench.smmu.stop_substream(&mut bench.cpu, stream, pasid(1), &device);
        assert_eq!(refused, Err(DriverError::Stop(StopError::NoPageRequests(stream))));
    });
}

#[test]
fn a_stop_that_fails_can_be_repeated_whatever_fails() {
    on_each(&[PageRequests, Substreams], |profile| {
        for point in [
            control::COMMAND_ILLEGAL,
            control::COMMAND_FETCH,
            control::ATC_INVALIDATION,
            control::MESSAGE,
            control::INTERRUPT_LOST,
            control::INTERRUPT_LATE,
            control::PAGE_REQUEST_WRITE,
            control::EVENT_WRITE,
        ] {
            for number in 1.. {
                let (mut bench, pager, group) = waiting(profile);
                let device = bench.device(2);
                let before = bench.machine.read_control(point + control::HAPPENED);
                bench.machine.write_control(control::LATE_TICKS, 30);
                bench.machine.write_control(point, number);
                let first = stop(&mut bench, 1, &device);
                let happened = bench.machine.read_control(point + control::HAPPENED) != before;
                bench.machine.write_control(point, 0);
                if let Err(error) = &first {
                    if bench.global_errors().recover {
                        let lost = bench.recover().unwrap();
                        for _ in lost.streams {
                            bench.reopen(2).unwrap();
                        }
                    }
                    let second = stop(&mut bench, 1, &device);
                    assert_eq!(second, Ok(()), "{point:#x} {number} after {error}");
                }
                assert!(is_late(&bench, group));
                pager.defers.store(false, Ordering::Relaxed);
                bench.finish([2]);
                assert_eq!(
                    (fill(&mut bench, 2), fill(&mut bench, 1)),
                    (status::DONE, status::ABORTED),
                    "{point:#x} {number}"
                );
                bench.disable(2).unwrap();
                assert_eq!(bench.live(), 0);
                assert_eq!(bench.smmu.faults().totals().slots_in_use, 0);
                if !happened {
                    break;
                }
            }
        }
    });
}
