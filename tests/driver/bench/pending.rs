//! Streams in the middle of their work, for tests that end it.

use alloc::sync::Arc;

use smmu_iopf::driver::{DeviceControl, FaultMode};
use smmu_iopf::model::engine::registers as reg;
use smmu_iopf::smmuv3::{StreamId, SubstreamId};

use super::{Bench, Device, Pager, Profile, Space, passed_on};

pub(crate) const BASE: u64 = 0x1000_0000;
pub(crate) const BYTES: u64 = 16 * 4096;

/// A bench whose engine 0 has eight stalls deferred and unanswered.
pub(crate) fn stalled(profile: Profile) -> (Bench, Arc<Space>, Arc<Pager>) {
    let mut bench = Bench::of(profile);
    let space = Space::new(&bench, 1);
    let pager = Pager::deferring(&space, BASE..BASE + BYTES);
    bench.attach(0, FaultMode::Stall, &space).unwrap();
    bench.enable(0, pager.clone()).unwrap();
    bench.machine.write_engine(0, reg::DEPTH, 8);
    bench.fill(0, BASE, BYTES, 1, None);
    bench.run_until(|_| pager.deferred.lock().len() == 8);
    (bench, space, pager)
}

/// A bench whose engine 2 has a page request group deferred and unanswered.
pub(crate) fn requesting(profile: Profile) -> (Bench, Arc<Space>, Arc<Pager>) {
    let mut bench = Bench::of(profile);
    let space = Space::new(&bench, 1);
    let pager = Pager::deferring(&space, BASE..BASE + BYTES);
    bench.attach(2, FaultMode::PageRequest, &space).unwrap();
    bench.enable(2, pager.clone()).unwrap();
    bench.machine.write_engine(2, reg::GROUP_SIZE, 2);
    bench.fill(2, BASE, BYTES, 1, None);
    bench.run_until(|_| !pager.deferred.lock().is_empty());
    (bench, space, pager)
}

/// A bench whose engine 2 has page requests enabled, and its handler.
pub(crate) fn paging(profile: Profile) -> (Bench, Arc<Pager>) {
    let mut bench = Bench::of(profile);
    let space = Space::new(&bench, 1);
    let pager = Pager::new(&space, BASE..BASE + BYTES);
    bench.attach(2, FaultMode::PageRequest, &space).unwrap();
    bench.enable(2, pager.clone()).unwrap();
    (bench, pager)
}

/// A device that never comes to rest and keeps ATS on.
pub(crate) struct Restless(pub(crate) Device);

impl Restless {
    pub(crate) fn new(bench: &Bench, engine: usize) -> Self {
        Self(bench.device(engine))
    }
}

impl DeviceControl for Restless {
    passed_on!(0: stop_new_work, response_needs_pasid, enable_ats, enable_page_requests, disable_page_requests, page_requests_stopped, page_requests_failed, reset_page_requests, sends_stop_markers, stop_substream, substream_stopped);

    fn is_idle(&self) -> bool {
        false
    }

    fn disable_ats(&self) {}
}

/// A device whose driver does something else too each time that it, or its page requests, are to stop.
pub(crate) struct Hooked<F: Fn()>(pub(crate) Device, pub(crate) F);

impl<F: Fn()> DeviceControl for Hooked<F> {
    passed_on!(0: is_idle, response_needs_pasid, enable_ats, disable_ats, enable_page_requests, page_requests_stopped, page_requests_failed, reset_page_requests, sends_stop_markers, stop_substream, substream_stopped);

    fn stop_new_work(&self) {
        (self.1)();
        self.0.stop_new_work();
    }

    fn disable_page_requests(&self) {
        (self.1)();
        self.0.disable_page_requests();
    }
}
