//! Taking faults away from a stream while they happen, and what is left when a step fails.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;
#[cfg(not(target_os = "none"))]
use std::thread;

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DeviceControl, DriverError, FaultMode, Options};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, ats_control, hostile, pri_control, pri_status, status};
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId};

use super::bench::Need::{PageRequests, Queues, Stall};
use super::bench::pending::{BASE, BYTES, Restless, paging, requesting, stalled};
use super::bench::{Bench, Device, LIMIT_US, LIMITS, Pager, Space, cpu, on_each, passed_on};

scenarios![
    a_stream_can_be_enabled_again_after_it_was_disabled,
    an_atc_invalidation_that_times_out_leaves_the_stream_quarantined_until_it_succeeds,
    a_device_that_does_not_come_to_rest_is_named_and_stays_quarantined,
    a_core_that_is_never_quiescent_keeps_the_state_alive_and_is_named,
    a_device_starts_nothing_new_before_its_stream_is_aborted,
    page_requests_that_nobody_took_out_yet_are_taken_out_before_the_end,
    answers_that_find_room_while_the_device_is_waited_for_are_sent_then,
    the_drainer_comes_again_for_answers_that_found_no_room_while_it_is_waited_for,
    disabling_a_stalled_stream_terminates_what_is_pending_and_late_answers_send_nothing,
    disabling_a_stream_with_page_requests_answers_what_is_pending_with_invalid,
];

fn disabling_a_stalled_stream_terminates_what_is_pending_and_late_answers_send_nothing() {
    on_each(&[Stall], |profile| {
        let (mut bench, _, pager) = stalled(profile);
        bench.disable(0).unwrap();
        assert_eq!(bench.state(0), status::ABORTED);
        assert_eq!(bench.model_count(diagnostics::STALLS_TERMINATED), 8);
        assert_eq!(bench.smmu.command_counts().answers, 0);

        assert_eq!(bench.live(), 1, "the groups still refer to it");
        for group in pager.take() {
            assert!(bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).is_err());
        }
        assert_eq!(bench.live(), 0);
        assert_eq!(bench.smmu.command_counts().answers, 0);
        assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);

        bench.fill(0, BASE, 8, 1, None);
        bench.finish([0]);
        assert_eq!(bench.state(0), status::ABORTED, "the stream is aborted");
        assert_eq!(bench.model_count(diagnostics::STALLS_RECORDED), 8, "and does not stall");
    });
}

fn a_stream_can_be_enabled_again_after_it_was_disabled() {
    on_each(&[Stall], |profile| {
        let (mut bench, space, pager) = stalled(profile);
        bench.disable(0).unwrap();
        drop(pager.take());
        bench.enable(0, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.fill(0, BASE, BYTES, 9, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(BASE + BYTES - 8)), (status::DONE, 9));
        assert_eq!(bench.smmu.faults().live(), 1);
    });
}

#[test]
fn disabling_works_while_the_engine_goes_on_faulting_and_another_core_drains() {
    on_each(&[Stall], |profile| {
        for round in 0..10 {
            let mut bench = Bench::patient(profile);
            let space = Space::new(&bench, 1);
            bench.attach(0, FaultMode::Stall, &space).unwrap();
            bench.enable(0, Pager::new(&space, BASE..BASE + (1 << 20))).unwrap();
            bench.machine.write_engine(0, reg::DEPTH, 4);
            bench.fill(0, BASE, 1 << 20, 1, None);
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let (smmu, domain, stop) = (bench.smmu.clone(), bench.domain.clone(), &stop);
                scope.spawn(move || {
                    let mut cpu = cpu(1);
                    domain.online(&mut cpu);
                    while !stop.load(Ordering::Relaxed) {
                        cpu.masked(|masked| smmu.drain_events(masked));
                        domain.poll(&mut cpu);
                        thread::yield_now();
                    }
                    domain.offline(&mut cpu);
                });
                for _ in 0..round * 7 {
                    bench.machine.step();
                }
                let disabled = bench.disable(0);
                stop.store(true, Ordering::Relaxed);
                disabled.unwrap();
            });
            assert_ne!(bench.state(0), status::BUSY);
            assert_eq!(bench.live(), 0);
            assert_eq!(bench.model_count(diagnostics::STALLED), 0);
            assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);
            let stalls = bench.model_count(diagnostics::STALLS_RECORDED);
            assert_eq!(bench.smmu.event_records(), stalls, "every record was taken out");
        }
    });
}

fn disabling_a_stream_with_page_requests_answers_what_is_pending_with_invalid() {
    on_each(&[PageRequests], |profile| {
        let (mut bench, space, pager) = requesting(profile);
        bench.disable(2).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_INVALID), 1);
        assert_eq!(bench.machine.read_engine(2, reg::ATS_CONTROL) & ats_control::ENABLE, 0);
        assert!(bench.machine.read_engine(2, reg::INVALIDATIONS) > 0);
        for group in pager.take() {
            assert!(bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).is_err());
        }
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_UNEXPECTED), 0);
        assert_eq!(bench.live(), 0);

        bench.enable(2, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.fill(2, BASE, BYTES, 8, None);
        bench.finish([2]);
        assert_eq!((bench.state(2), space.word(BASE + BYTES - 8)), (status::DONE, 8));
    });
}

fn an_atc_invalidation_that_times_out_leaves_the_stream_quarantined_until_it_succeeds() {
    on_each(&[PageRequests], |profile| {
        let (mut bench, space, pager) = requesting(profile);
        drop(pager.take());
        let time_out = ats_control::ENABLE | ats_control::INVALIDATIONS_TIME_OUT;
        bench.machine.write_engine(2, reg::ATS_CONTROL, time_out);
        let device = Restless::new(&bench, 2);
        let result = bench.smmu.disable_faults(&mut bench.cpu, profile.engine_stream(2), &device);
        assert_eq!(result, Err(DriverError::AtcInvalidationTimeout));
        assert_eq!(bench.smmu.command_counts().errors, 1);
        let again = bench.enable(2, Pager::new(&space, BASE..BASE + BYTES));
        assert_eq!(again, Err(DriverError::FaultsEnabled(profile.engine_stream(2))));
        assert_eq!(bench.live(), 1);

        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

fn a_device_that_does_not_come_to_rest_is_named_and_stays_quarantined() {
    on_each(&[Stall], |profile| {
        let (mut bench, space, pager) = stalled(profile);
        drop(pager.take());
        let device = Restless::new(&bench, 0);
        let result = bench.smmu.disable_faults(&mut bench.cpu, profile.engine_stream(0), &device);
        let busy = DriverError::DeviceBusy { stream: profile.engine_stream(0), state: "idle", waited_us: LIMIT_US };
        assert_eq!(result, Err(busy));
        assert!(bench.enable(0, Pager::new(&space, BASE..BASE + BYTES)).is_err());
        assert!(bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).is_err());
        bench.disable(0).unwrap();
        assert_eq!(bench.live(), 0);
        bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).unwrap();
    });
}

fn a_core_that_is_never_quiescent_keeps_the_state_alive_and_is_named() {
    on_each(&[Stall], |profile| {
        let (mut bench, _, pager) = stalled(profile);
        drop(pager.take());
        let mut parked = cpu(1);
        bench.domain.online(&mut parked);
        match bench.disable(0) {
            Err(DriverError::Grace(timeout)) => assert!(timeout.holding.contains(parked.core())),
            other => panic!("{other:?}"),
        }
        assert_eq!(bench.smmu.faults().live(), 1);
        bench.domain.offline(&mut parked);
        bench.disable(0).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

/// A device that notes when it is to start nothing new, by the commands sent so far, and that takes nothing out of a queue.
struct Noted {
    device: Device,
    stopped: Mutex<Vec<u64>>,
}

impl Noted {
    fn new(bench: &Bench, engine: usize) -> Self {
        Self { device: bench.device(engine), stopped: Mutex::default() }
    }
}

impl DeviceControl for Noted {
    passed_on!(device: is_idle, response_needs_pasid, enable_ats, disable_ats, enable_page_requests, disable_page_requests, page_requests_failed, reset_page_requests, sends_stop_markers, stop_substream, substream_stopped);

    fn stop_new_work(&self) {
        self.stopped.lock().push(self.device.smmu.command_counts().commands);
        self.device.stop_new_work();
    }

    fn page_requests_stopped(&self) -> bool {
        self.device.machine.read_engine(self.device.engine, reg::PRI_STATUS) & pri_status::STOPPED != 0
    }
}

fn a_device_starts_nothing_new_before_its_stream_is_aborted() {
    on_each(&[Stall], |profile| {
        let (mut bench, _, pager) = stalled(profile);
        drop(pager.take());
        let (device, before) = (Noted::new(&bench, 0), bench.smmu.command_counts().commands);
        bench.smmu.disable_faults(&mut bench.cpu, profile.engine_stream(0), &device).unwrap();
        assert_eq!(*device.stopped.lock(), [before]);
    });
}

fn page_requests_that_nobody_took_out_yet_are_taken_out_before_the_end() {
    on_each(&[PageRequests], |profile| {
        let (mut bench, _) = paging(profile);
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NO_LAST);
        bench.fill(2, BASE, 8, 1, None);
        bench.machine.run(100);
        // It is in the queue, and the device does not wait for an answer any more.
        bench.machine.write_engine(2, reg::PRI_CONTROL, 0);
        bench.machine.write_engine(2, reg::PRI_CONTROL, pri_control::RESET);
        assert_eq!(bench.smmu.page_request_records(), 0);
        let device = Noted::new(&bench, 2);
        bench.smmu.disable_faults(&mut bench.cpu, profile.engine_stream(2), &device).unwrap();
        assert_eq!(bench.smmu.page_request_records(), 1);
        assert_eq!(bench.machine.read32(Register::PriqCons), bench.machine.read32(Register::PriqProd));
    });
}

/// Longer than an answer waits for room in the command queue, and not as long as the wait after it.
const COMMANDS_LATE: u32 = LIMIT_US / 2;

fn answers_that_find_room_while_the_device_is_waited_for_are_sent_then() {
    on_each(&[PageRequests, Queues], |profile| {
        let mut bench =
            Bench::with(profile, Options { limit_us: LIMIT_US, command_queue_log2: 1, ..Options::default() });
        let space = Space::new(&bench, 1);
        let pager = Pager::deferring(&space, BASE..BASE + BYTES);
        bench.attach(2, FaultMode::PageRequest, &space).unwrap();
        bench.enable(2, pager.clone()).unwrap();
        bench.machine.write_engine(2, reg::DEPTH, 4);
        bench.machine.write_engine(2, reg::GROUP_SIZE, 1);
        bench.fill(2, BASE, BYTES, 1, None);
        bench.run_until(|_| pager.deferred.lock().len() == 4);
        bench.machine.write_control(control::COMMANDS_HELD, COMMANDS_LATE);
        let device = Noted::new(&bench, 2);
        bench.smmu.disable_faults(&mut bench.cpu, profile.engine_stream(2), &device).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_INVALID), 4);
        drop(pager.take());
        assert_eq!(bench.live(), 0);
    });
}

/// A device that fills the command queue as it comes to rest.
struct Late(Noted, Arc<Pager>);

impl DeviceControl for Late {
    passed_on!(0: stop_new_work, is_idle, response_needs_pasid, enable_ats, disable_ats, enable_page_requests, disable_page_requests, page_requests_failed, reset_page_requests, sends_stop_markers, stop_substream, substream_stopped);

    fn page_requests_stopped(&self) -> bool {
        let stopped = self.0.page_requests_stopped();
        let machine = &self.0.device.machine;
        if stopped && machine.read_control(control::COMMANDS_HELD) == 0 && self.1.groups.load(Ordering::Relaxed) == 0 {
            machine.write_control(control::COMMANDS_HELD, COMMANDS_LATE);
        }
        stopped
    }
}

fn the_drainer_comes_again_for_answers_that_found_no_room_while_it_is_waited_for() {
    on_each(&[PageRequests, Queues], |profile| {
        let mut bench =
            Bench::with(profile, Options { limit_us: LIMIT_US, command_queue_log2: 1, ..Options::default() });
        let space = Space::new(&bench, 1);
        let (quiet, pager) = (Pager::new(&space, BASE..BASE + BYTES), Pager::new(&space, BASE..BASE + BYTES));
        for (engine, pager) in [(2, quiet), (3, pager.clone())] {
            bench.attach(engine, FaultMode::PageRequest, &space).unwrap();
            bench.enable(engine, pager).unwrap();
        }
        // The other engine's groups are in the queue, and nobody took them out.
        bench.machine.write_engine(3, reg::DEPTH, 4);
        bench.machine.write_engine(3, reg::GROUP_SIZE, 1);
        bench.fill(3, BASE, 4 * 4096, 1, None);
        bench.machine.run(100);
        let device = Late(Noted::new(&bench, 2), pager.clone());
        bench.smmu.disable_faults(&mut bench.cpu, profile.engine_stream(2), &device).unwrap();
        assert_eq!(bench.smmu.page_request_records(), 4);
        bench.finish([3]);
        assert_eq!(bench.state(3), status::DONE);
    });
}

#[test]
fn page_requests_from_before_their_stream_was_enabled_are_nobodys() {
    on_each(&[PageRequests], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        let pager = Pager::new(&space, 0..BASE + BYTES);
        bench.attach(2, FaultMode::PageRequest, &space).unwrap();
        bench.machine.write_engine(2, reg::HOSTILE, hostile::STORM | hostile::WHILE_DISABLED | hostile::NO_CREDITS);
        bench.machine.run(2);
        bench.machine.write_engine(2, reg::HOSTILE, 0);
        let (device, streams) = (Noted::new(&bench, 2), [bench.stream(2)]);
        bench.smmu.enable_faults(&mut bench.cpu, &streams, Some(&device), pager.clone(), LIMITS).unwrap();
        bench.drain();
        assert_eq!((bench.smmu.page_request_records(), pager.groups.load(Ordering::Relaxed)), (2, 0));
        assert_eq!(bench.smmu.command_counts().answers, 0);
        bench.disable(2).unwrap();
    });
}
