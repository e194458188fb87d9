//! How streams end on an SMMU that is given up.

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DeviceControl, DriverError, FaultMode, GlobalErrors, Lost, Options};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, hostile, pri_status, status};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{StreamId, SubstreamId};

use super::bench::Need::{Faults, Queues, Stall, Termination};
use super::bench::pending::{BASE, BYTES, Restless, stalled};
use super::bench::{Bench, Device, LIMIT_US, Pager, Space, faulting_engines, on_each, passed_on};

scenarios![
    an_smmu_that_is_given_up_has_nothing_to_recover,
    no_record_is_left_of_streams_whose_faults_end_on_an_smmu_that_is_given_up,
    answers_that_wait_while_the_event_queue_is_shut_end_with_an_smmu_that_is_given_up,
];

fn an_smmu_that_is_given_up_has_nothing_to_recover() {
    on_each(&[Stall], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.machine.write_control(control::EVENT_WRITE, 1);
        bench.fill(0, BASE, 8, 1, None);
        bench.machine.run(100);
        bench.smmu.give_up();
        assert_eq!(bench.global_errors(), GlobalErrors { event_queue_abort: true, ..GlobalErrors::default() });
        assert_eq!(bench.global_errors(), GlobalErrors::default());
        assert_eq!(bench.recover(), Ok(Lost::default()));
        bench.disable(0).unwrap();
        assert_eq!((bench.state(0), bench.live()), (status::ABORTED, 0));
    });
}

/// It answers nothing, and the device waits for answers.
#[test]
fn on_an_smmu_that_is_given_up_groups_end_before_the_device_is_waited_for() {
    on_each(&[Stall], |profile| {
        let (mut bench, _, pager) = stalled(profile);
        bench.smmu.give_up();
        let (stream, device) = (bench.stream(0), Restless::new(&bench, 0));
        let busy = DriverError::DeviceBusy { stream, state: "idle", waited_us: LIMIT_US };
        assert_eq!(bench.smmu.disable_faults(&mut bench.cpu, stream, &device), Err(busy));
        assert_eq!(bench.cpu.masked(|masked| bench.smmu.faults().unanswered(masked, stream)), 0);
        assert_eq!(bench.smmu.faults().totals().statistics.terminated, 8);
        drop(pager.take());
        bench.disable(0).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

/// Whose driver drains nothing, with requests on their way when it is reset.
struct Undrained(Device);

impl DeviceControl for Undrained {
    passed_on!(0: stop_new_work, is_idle, response_needs_pasid, enable_ats, disable_ats, enable_page_requests, disable_page_requests, page_requests_failed, sends_stop_markers, stop_substream, substream_stopped);

    fn page_requests_stopped(&self) -> bool {
        self.0.machine.read_engine(self.0.engine, reg::PRI_STATUS) & pri_status::STOPPED != 0
    }

    fn reset_page_requests(&self) {
        let Device { machine, engine, .. } = &self.0;
        machine.write_engine(*engine, reg::HOSTILE, hostile::STORM | hostile::NO_CREDITS | hostile::WHILE_DISABLED);
        machine.step();
        machine.write_engine(*engine, reg::HOSTILE, 0);
        self.0.reset_page_requests();
    }
}

fn no_record_is_left_of_streams_whose_faults_end_on_an_smmu_that_is_given_up() {
    on_each(&[Faults], |profile| {
        for (engine, mode) in faulting_engines(profile) {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            bench.attach(engine, mode, &space).unwrap();
            bench.enable(engine, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
            bench.fill(engine, BASE, BYTES, 1, None);
            bench.machine.run(100);
            let queue = match mode {
                FaultMode::PageRequest => [Register::PriqProd, Register::PriqCons],
                _ => [Register::EventqProd, Register::EventqCons],
            };
            let ends = |bench: &Bench| queue.map(|register| bench.machine.read32(register));
            assert_eq!(ends(&bench), [1, 0]);
            bench.smmu.give_up();
            let (stream, device) = (bench.stream(engine), Undrained(bench.device(engine)));
            bench.smmu.disable_faults(&mut bench.cpu, stream, &device).unwrap();
            let [prod, cons] = ends(&bench);
            assert!(prod == cons && prod > 0, "{mode:?}: {prod:#x}, {cons:#x}");
        }
    });
}

/// They found no room in the command queue, which stands still, before a write to the event queue aborted.
fn answers_that_wait_while_the_event_queue_is_shut_end_with_an_smmu_that_is_given_up() {
    on_each(&[Stall, Termination, Queues], |profile| {
        let mut bench =
            Bench::with(profile, Options { limit_us: LIMIT_US, command_queue_log2: 1, ..Options::default() });
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.attach(1, FaultMode::Terminate, &space).unwrap();
        bench.hold_commands(true);
        bench.machine.write_engine(0, reg::DEPTH, 8);
        bench.fill(0, BASE, BYTES, 7, None);
        while bench.smmu.event_counts().unsent == 0 {
            bench.machine.step();
            bench.drain();
        }
        bench.machine.write_control(control::EVENT_WRITE, 1);
        bench.fill(1, BASE + BYTES, 8, 1, None);
        bench.machine.run(100);
        assert!(bench.global_errors().recover);
        bench.drain();
        assert!(bench.smmu.event_counts().unsent > 0);
        bench.smmu.give_up();
        bench.disable(0).unwrap();
        assert_eq!((bench.state(0), bench.smmu.event_counts().unsent, bench.live()), (status::ABORTED, 0, 0));
    });
}
