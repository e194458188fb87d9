//! Stop markers that come late, get lost, or are never sent.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use core::sync::atomic::{AtomicUsize, Ordering};

use smmu_iopf::driver::{DeviceControl, DriverError, FaultMode, Options};
use smmu_iopf::iopf::StopError;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, hostile, status};
use smmu_iopf::smmuv3::StreamId;

use super::bench::Need::{Model, PageRequests, Substreams};
use super::bench::{Bench, Device, LIMIT_US, LIMITS, Pager, cpu, on_each, substreams};
use super::stop::{Stops, fill, in_use, is_late, paging, paging_on, pasid, send_marker, stop, waiting};

scenarios![
    a_device_that_sends_no_stop_marker_is_named_and_may_be_asked_again,
    a_stop_marker_that_comes_late_is_found_by_the_next_call,
    a_pasid_of_a_device_without_stop_markers_is_stopped_when_its_requests_are_answered,
    a_device_without_stop_markers_has_the_whole_queue_for_its_page_requests,
];

fn a_device_that_sends_no_stop_marker_is_named_and_may_be_asked_again() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (mut bench, pager, group) = waiting(profile);
        let done_in_silence = Stops::new(bench.device(2), |_| {}, |_| true);
        let (stream, silent) = (bench.stream(2), in_use(&bench, 1, "its Stop marker has not come"));
        assert_eq!(stop(&mut bench, 1, &done_in_silence), silent);
        assert_eq!(
            silent.unwrap_err().to_string(),
            format!(
                "the device of stream {stream:?} goes on with substream {:?} after 20000 us: its Stop marker has not come",
                pasid(1)
            )
        );
        // What waited is answered all the same, and its requests are refused.
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_INVALID), 1);
        assert!(is_late(&bench, group));
        assert_eq!(bench.smmu.faults().totals().slots_in_use, 0);
        bench.finish([2]);
        pager.defers.store(false, Ordering::Relaxed);
        assert_eq!((fill(&mut bench, 1), fill(&mut bench, 2)), (status::ABORTED, status::DONE));
        assert_eq!(bench.machine.read_engine(2, reg::RESPONSES_INVALID), 2);
        let busy = StopError::Busy { stream, substream: pasid(1) };
        let device = bench.device(2);
        assert_eq!(stop(&mut bench, 2, &device), Err(DriverError::Stop(busy)), "one at a time");
        stop(&mut bench, 1, &device).unwrap();
        stop(&mut bench, 2, &device).unwrap();
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

fn a_stop_marker_that_comes_late_is_found_by_the_next_call() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (mut bench, _, group) = waiting(profile);
        bench.machine.write_control(control::ENGINES, 1 << 2);
        bench.machine.write_control(control::ENGINES_HELD, control::UNTIL_RELEASED);
        let asked = AtomicUsize::new(0);
        // It sends no more than one.
        let ask = |device: &Device| {
            if asked.fetch_add(1, Ordering::Relaxed) == 0 {
                device.stop_substream(StreamId(0), pasid(1));
            }
        };
        let device = Stops::new(bench.device(2), ask, |_| true);
        let silent = in_use(&bench, 1, "its Stop marker has not come");
        assert_eq!(stop(&mut bench, 1, &device), silent);
        bench.machine.write_control(control::ENGINES_HELD, 0);
        bench.finish([2]);
        bench.machine.run(100);
        bench.drain();
        stop(&mut bench, 1, &device).unwrap();
        assert!(is_late(&bench, group));
        // That was the end of that use.
        assert_eq!(stop(&mut bench, 1, &device), silent);
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

fn a_pasid_of_a_device_without_stop_markers_is_stopped_when_its_requests_are_answered() {
    on_each(&[PageRequests, Substreams], |profile| {
        let (mut bench, pager, group) = waiting(profile);
        let markers = |bench: &Bench| bench.smmu.faults().totals().statistics.stop_markers;
        let silent = Device { silent: true, ..bench.device(2) };
        stop(&mut bench, 1, &silent).unwrap();
        assert!(is_late(&bench, group));
        assert_eq!((bench.machine.read_engine(2, reg::RESPONSES_INVALID), markers(&bench)), (1, 0));
        assert_eq!(bench.smmu.faults().totals().slots_in_use, 0);
        pager.defers.store(false, Ordering::Relaxed);
        assert_eq!((fill(&mut bench, 2), fill(&mut bench, 1)), (status::DONE, status::ABORTED));
        // Its driver that says what is not so is told.
        let device = bench.device(2);
        let asked = |_: &Device| silent.stop_substream(StreamId(0), pasid(2));
        let lack = in_use(&bench, 2, "its Stop marker has not come");
        assert_eq!(stop(&mut bench, 2, &Stops::new(device, asked, |_| false)), lack);
        stop(&mut bench, 2, &silent).unwrap();
        assert_eq!(markers(&bench), 0);
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

fn a_device_without_stop_markers_has_the_whole_queue_for_its_page_requests() {
    on_each(&[PageRequests, Substreams], |profile| {
        for silent in [false, true] {
            let options = Options { limit_us: LIMIT_US, page_request_queue_log2: 1, ..Options::default() };
            let mut bench = Bench::with(profile, options);
            let stream = bench.stream(2);
            bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::PageRequest, 4)).unwrap();
            let device = Device { silent, ..bench.device(2) };
            let pager = Pager::with(BTreeMap::new(), 0..0);
            bench.smmu.enable_faults(&mut bench.cpu, &[stream], Some(&device), pager, LIMITS).unwrap();
            assert_eq!(bench.machine.read_engine(2, reg::PRI_ALLOCATION), if silent { 2 } else { 1 });
        }
    });
}

/// Where the PRI queue overflows, the SMMU drops Stop markers too (8.1).
#[test]
fn a_stop_marker_that_an_overflow_took_is_asked_for_again() {
    on_each(&[PageRequests, Substreams], |profile| {
        let options = Options { limit_us: LIMIT_US, page_request_queue_log2: 1, ..Options::default() };
        let (mut bench, _) = paging_on(Bench::with(profile, options));
        assert_eq!(fill(&mut bench, 1), status::DONE);
        let asked = AtomicUsize::new(0);
        let ask = |device: &Device| {
            let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            if is_first {
                device.machine.write_engine(2, reg::HOSTILE, hostile::STORM | hostile::NO_CREDITS);
                device.machine.run(4);
                device.machine.write_engine(2, reg::HOSTILE, 0);
            }
            send_marker(device);
            device.machine.run(1);
        };
        let began = bench.machine.read_control(control::TICKS);
        let device = Stops::new(bench.device(2), ask, |_| true);
        stop(&mut bench, 1, &device).unwrap();
        assert!(bench.machine.read_control(control::TICKS) - began < LIMIT_US / 2);
        assert_eq!((asked.load(Ordering::Relaxed), bench.smmu.page_request_counts().overflows), (2, 1));
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

#[test]
fn a_stop_marker_that_an_abort_took_is_asked_for_again() {
    on_each(&[PageRequests, Substreams, Model], |profile| {
        for comes in [true, false] {
            let (mut bench, _) = paging(profile);
            assert_eq!(fill(&mut bench, 1), status::DONE);
            let (smmu, asked) = (bench.smmu.clone(), AtomicUsize::new(0));
            let ask = |device: &Device| {
                let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
                if is_first {
                    device.machine.write_control(control::PAGE_REQUEST_WRITE, 1);
                }
                if is_first || comes {
                    send_marker(device);
                }
                device.machine.run(1);
                cpu(0).masked(|masked| smmu.handle_global_error(masked));
            };
            let began = bench.machine.read_control(control::TICKS);
            let device = Stops::new(bench.device(2), ask, |_| true);
            let stopped = stop(&mut bench, 1, &device);
            assert_eq!(stopped, if comes { Ok(()) } else { in_use(&bench, 1, "its Stop marker has not come") });
            assert!(bench.machine.read_control(control::TICKS) - began < LIMIT_US / 2 || !comes);
            // Once for what was lost.
            assert_eq!(asked.load(Ordering::Relaxed), 2);
            bench.disable(2).unwrap();
            assert_eq!(bench.live(), 0);
        }
    });
}
