//! Page requests over the life of a device: how many it may have outstanding, and what becomes of them.

use alloc::vec;
use core::cell::Cell;
use core::sync::atomic::Ordering;

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DriverError, FaultMode, GlobalErrors, Lost, Options};
use smmu_iopf::iopf::StreamLimits;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, ats_control, hostile, status};
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::smmuv3::PageResponse;
use smmu_iopf::smmuv3::registers::Register;

use super::bench::Need::{PageRequests, Queues, Substreams};
use super::bench::machine::{self, Machine};
use super::bench::pending::{BASE, BYTES, Hooked, paging, requesting};
use super::bench::{Bench, LIMIT_US, LIMITS, Pager, Profile, Space, cpu, on, on_each, substreams};

scenarios![
    devices_that_obey_never_fill_a_pri_queue_of_two_entries_beyond_it,
    the_event_queue_has_room_for_every_stall_where_the_smmu_lets_it,
    page_request_groups_that_an_abort_threw_away_do_not_keep_their_device_from_stopping,
];

/// Engines that ask for pages.
const ASKERS: [usize; 3] = [2, 3, 6];

/// A bench whose PRI queue has eight entries, with [`ASKERS`] attached, which have substreams.
fn eight_entries(profile: Profile) -> Bench {
    let options = Options { limit_us: LIMIT_US, page_request_queue_log2: 3, ..Options::default() };
    let memory = machine::memory(4 << 20, profile.features().coherent);
    let machine = Machine::with(memory, profile.modelled().unwrap(), 8);
    let mut bench = Bench::on(machine, options, u64::MAX).unwrap();
    for engine in ASKERS {
        let stream = bench.stream(engine);
        bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::PageRequest, 4)).unwrap();
    }
    bench
}

/// Enables the faults of an engine that is to have up to `groups` groups. Says how many page requests it may have outstanding.
fn grant(bench: &mut Bench, engine: usize, groups: u16) -> Result<u32, DriverError> {
    let (stream, device, space) = (bench.stream(engine), bench.device(engine), Space::new(bench, 1));
    let limits = StreamLimits { groups, ..LIMITS };
    bench.smmu.enable_faults(&mut bench.cpu, &[stream], Some(&device), Pager::new(&space, 0..1), limits)?;
    Ok(bench.machine.read_engine(engine, reg::PRI_ALLOCATION))
}

#[test]
fn the_pri_queue_is_shared_out_and_given_back_with_room_for_a_stop_marker_of_each_stream() {
    on_each(&[PageRequests, Substreams, Queues], |profile| {
        let mut bench = eight_entries(profile);
        let [first, second, third] = ASKERS;
        assert_eq!(grant(&mut bench, first, 64), Ok(7), "eight without a Stop marker");
        let refused = DriverError::NoCredits { stream: bench.stream(second), needed: 2, free: 0 };
        assert_eq!(grant(&mut bench, second, 1), Err(refused));
        bench.disable(first).unwrap();

        assert_eq!(grant(&mut bench, first, 2), Ok(2), "as many as it may have groups");
        assert_eq!(grant(&mut bench, second, 3), Ok(3));
        let refused = DriverError::NoCredits { stream: bench.stream(third), needed: 2, free: 1 };
        assert_eq!(grant(&mut bench, third, 3), Err(refused));
        bench.disable(first).unwrap();
        assert_eq!(grant(&mut bench, third, 64), Ok(3));
        bench.disable(second).unwrap();
        bench.disable(third).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

#[test]
fn two_stream_ids_of_one_device_share_its_page_requests() {
    on_each(&[PageRequests, Substreams, Queues], |profile| {
        let mut bench = eight_entries(profile);
        let space = Space::new(&bench, 1);
        let (streams, device) = ([bench.stream(2), bench.stream(3)], bench.device(2));
        bench.smmu.enable_faults(&mut bench.cpu, &streams, Some(&device), Pager::new(&space, 0..1), LIMITS).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::PRI_ALLOCATION), 6, "eight without two Stop markers");
    });
}

fn devices_that_obey_never_fill_a_pri_queue_of_two_entries_beyond_it() {
    on(Modelled::Small, |profile| {
        // No substreams, so no Stop markers.
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        for engine in [2, 3] {
            bench.attach(engine, FaultMode::PageRequest, &space).unwrap();
        }
        let pager = Pager::new(&space, BASE..BASE + BYTES);
        bench.enable(2, pager.clone()).unwrap();
        let refused = DriverError::NoCredits { stream: bench.stream(3), needed: 1, free: 0 };
        assert_eq!(bench.enable(3, pager), Err(refused));
        bench.machine.write_engine(2, reg::DEPTH, 16);
        bench.machine.write_engine(2, reg::GROUP_SIZE, 4);
        bench.fill(2, BASE, BYTES, 5, None);
        // Nobody drains at first.
        bench.machine.run(200);
        assert_eq!(bench.machine.read_engine(2, reg::PAGE_REQUESTS), 2);
        bench.finish([2]);
        assert_eq!((bench.state(2), space.word(BASE + BYTES - 8)), (status::DONE, 5));
        assert_eq!(bench.smmu.page_request_counts().overflows, 0);
    });
}

fn the_event_queue_has_room_for_every_stall_where_the_smmu_lets_it() {
    on_each(&[], |profile| {
        let bench = Bench::with(profile, Options { limit_us: LIMIT_US, event_queue_log2: 2, ..Options::default() });
        // IDR5.STALL_MAX is 64 where there are stalls; IDR1.EVENTQS is 1 on the small one.
        let log2size = match profile.name() {
            "full" | "forced-stall" | "no-pri" | "no-ats" | "linear-only" | "non-coherent" | "big" => 6,
            "terminate-only" | "qemu" | "qemu-7.2" | "qemu-10" => 2,
            "small" => 1,
            other => panic!("a profile that this test does not know: {other}"),
        };
        assert_eq!(bench.machine.read32(Register::EventqBase) & 0x1f, log2size);
    });
}

#[test]
fn an_aborted_pri_queue_starts_anew() {
    on_each(&[PageRequests, Queues], |profile| {
        let (mut bench, pager) = paging(profile);
        // A request without Last that was taken out, one with Last that was not, and one whose write aborts.
        bench.machine.write_engine(2, reg::HOSTILE, hostile::NO_LAST);
        bench.machine.write_engine(2, reg::DEPTH, 3);
        bench.fill(2, BASE, 3 * 4096, 1, None);
        bench.run_until(|bench| bench.machine.read_engine(2, reg::PAGE_REQUESTS) == 1);
        assert_eq!(bench.smmu.faults().totals().slots_in_use, 1);
        bench.machine.write_engine(2, reg::HOSTILE, 0);
        bench.machine.write_control(control::PAGE_REQUEST_WRITE, 2);
        bench.machine.run(100);
        assert_eq!(bench.machine.read_engine(2, reg::PAGE_REQUESTS), 3);
        let errors = bench.global_errors();
        assert_eq!(errors, GlobalErrors { page_request_queue_abort: true, recover: true, ..GlobalErrors::default() });
        let errors = bench.global_errors();
        assert_eq!(errors, GlobalErrors::default());
        bench.drain();
        assert_eq!((bench.smmu.page_request_records(), pager.groups.load(Ordering::Relaxed)), (2, 0));
        assert_eq!(bench.smmu.faults().totals().slots_in_use, 0);
        // Nobody knows which group with Last was in the queue: the device is made to forget it.
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_UNEXPECTED), 0);
    });
}

/// A group that waits for its handler, one with Last that is in the queue when another write aborts, and that one.
#[test]
fn after_an_aborted_pri_write_the_engine_is_served_again() {
    on_each(&[PageRequests, Queues], |profile| {
        let (mut bench, space, pager) = requesting(profile);
        bench.machine.write_engine(2, reg::HOSTILE, hostile::STORM);
        bench.machine.write_control(control::PAGE_REQUEST_WRITE, 2);
        bench.machine.run(2);
        bench.machine.write_engine(2, reg::HOSTILE, 0);
        assert!(bench.global_errors().recover);
        let streams = vec![bench.stream(2)];
        assert_eq!(bench.recover(), Ok(Lost { page_requests: 1, streams, ..Lost::default() }));
        bench.reopen(2).unwrap();
        assert_eq!(bench.recover(), Ok(Lost::default()));
        let mut groups = pager.take();
        let late = groups.remove(0);
        assert!(bench.cpu.masked(|masked| late.respond(masked, PageResponse::Success)).is_err());
        assert_ne!(bench.machine.read_engine(2, reg::ATS_CONTROL) & ats_control::ENABLE, 0);

        pager.defers.store(false, Ordering::Relaxed);
        bench.finish([2]);
        bench.fill(2, BASE, BYTES, 5, None);
        bench.finish([2]);
        assert_eq!((bench.state(2), space.word(BASE + BYTES - 8)), (status::DONE, 5));
        bench.disable(2).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_UNEXPECTED), 0);
        assert_eq!(bench.model_count(diagnostics::RESPONDED_NOTHING), 0);
        assert_eq!(bench.live(), 0);
    });
}

/// Groups with Last that wait in the queue when another write aborts, and one that waits for its handler: that one is answered.
fn page_request_groups_that_an_abort_threw_away_do_not_keep_their_device_from_stopping() {
    on_each(&[PageRequests, Queues], |profile| {
        let (mut bench, _, pager) = requesting(profile);
        bench.machine.write_engine(2, reg::HOSTILE, hostile::STORM);
        bench.machine.write_control(control::PAGE_REQUEST_WRITE, 2);
        bench.machine.run(2);
        bench.machine.write_engine(2, reg::HOSTILE, 0);
        let errors = bench.global_errors();
        assert!(errors.page_request_queue_abort, "{errors:?}");
        bench.disable(2).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_INVALID), 1);
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_UNEXPECTED), 0);
        drop(pager.take());
        assert_eq!(bench.live(), 0);
    });
}

/// The reopening of a device whose PRI failed, while an abort throws requests away once more: the device is named again.
#[test]
fn requests_that_are_thrown_away_during_a_reopening_have_their_device_reopened_again() {
    on_each(&[PageRequests], |profile| {
        let (mut bench, _) = paging(profile);
        let (stream, machine, smmu) = (bench.stream(2), bench.machine.clone(), bench.smmu.clone());
        let abort = || {
            machine.write_control(control::PAGE_REQUEST_WRITE, 1);
            machine.write_engine(3, reg::HOSTILE, hostile::STORM | hostile::NO_CREDITS | hostile::WHILE_DISABLED);
            machine.step();
            machine.write_engine(3, reg::HOSTILE, 0);
            assert!(cpu(0).masked(|masked| smmu.handle_global_error(masked)).page_request_queue_abort);
        };
        abort();
        let lost = |bench: &mut Bench| bench.recover().unwrap().streams;
        assert_eq!(lost(&mut bench), [stream]);
        let aborts = Cell::new(true);
        let device = Hooked(bench.device(2), || {
            if aborts.take() {
                abort();
            }
        });
        bench.smmu.reopen_faults(&mut bench.cpu, stream, &device).unwrap();
        assert_eq!(lost(&mut bench), [stream]);
        bench.smmu.reopen_faults(&mut bench.cpu, stream, &device).unwrap();
        assert_eq!(lost(&mut bench), []);
        bench.disable(2).unwrap();
    });
}
