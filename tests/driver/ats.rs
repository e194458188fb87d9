//! Devices with ATS that send no page requests.

use alloc::sync::Arc;

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DriverError, FaultMode, Pages};
use smmu_iopf::iopf::OpenError;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, status};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{Asid, StreamId, SubstreamId};

use super::bench::Need::{Ats, PageRequests, Substreams};
use super::bench::world::Tables;
use super::bench::{Bench, Device, LIMITS, Pager, Profile, Space, on_each, plain, substreams};

scenarios![
    translations_are_asked_for_and_pages_are_not,
    invalidations_reach_the_translations_of_a_device_with_ats_alone,
    accesses_are_translated_by_the_smmu_when_ats_is_disabled,
    a_pasid_of_a_device_with_ats_alone_is_stopped,
    what_has_no_ats_or_has_it_already_is_refused,
    an_smmu_that_is_given_up_is_turned_off_when_no_device_uses_ats,
];

const BASE: u64 = 0x1000_0000;

fn device(bench: &Bench) -> Device {
    Device { silent: true, ..bench.device(2) }
}

fn enable(bench: &mut Bench) -> Result<(), DriverError> {
    let (stream, device) = (bench.stream(2), device(bench));
    bench.smmu.enable_ats(&mut bench.cpu, &[stream], &device)
}

fn disable(bench: &mut Bench) -> Result<(), DriverError> {
    let (stream, device) = (bench.stream(2), device(bench));
    bench.smmu.disable_ats(&mut bench.cpu, stream, &device)
}

/// A bench whose engine 2 has ATS enabled and the page at [`BASE`].
fn translating(profile: Profile) -> (Bench, Arc<Space>) {
    let mut bench = Bench::of(profile);
    let space = Space::new(&bench, 1);
    space.map(BASE);
    bench.attach(2, FaultMode::Ats, &space).unwrap();
    enable(&mut bench).unwrap();
    (bench, space)
}

fn fill(bench: &mut Bench, address: u64, pasid: Option<u32>) -> u32 {
    bench.fill(2, address, 8, 1, pasid);
    bench.finish([2]);
    bench.state(2)
}

fn requests(bench: &Bench) -> [u32; 2] {
    [reg::TRANSLATION_REQUESTS, reg::PAGE_REQUESTS].map(|counter| bench.machine.read_engine(2, counter))
}

fn translations_are_asked_for_and_pages_are_not() {
    on_each(&[Ats], |profile| {
        let (mut bench, space) = translating(profile);
        assert_eq!((fill(&mut bench, BASE, None), space.word(BASE)), (status::DONE, 1));
        assert_eq!(requests(&bench), [1, 0]);
        assert_eq!(fill(&mut bench, BASE + 4096, None), status::ABORTED);
        assert_eq!(requests(&bench), [2, 0]);
        // That there is no translation is no event (3.9.1).
        assert_eq!(bench.smmu.event_records(), 0);
        space.map(BASE + 4096);
        assert_eq!(fill(&mut bench, BASE + 4096, None), status::DONE);
    });
}

fn invalidations_reach_the_translations_of_a_device_with_ats_alone() {
    on_each(&[Ats], |profile| {
        let (mut bench, space) = translating(profile);
        for step in 0..3 {
            space.map(BASE);
            assert_eq!(fill(&mut bench, BASE, None), status::DONE);
            space.hide(BASE);
            let grace = bench.grace();
            let pages = Pages { first: BASE, count: 1 };
            let (smmu, cpu) = (&bench.smmu, &mut bench.cpu);
            match step {
                0 => drop(smmu.invalidate(cpu, &grace, Asid(1), &pages.into()).unwrap()),
                1 => drop(smmu.invalidate_all(cpu, &grace).unwrap()),
                _ => drop(smmu.forget(cpu, Tables(space.tag)).unwrap()),
            }
            assert_eq!(fill(&mut bench, BASE, None), status::ABORTED, "step {step}");
        }
    });
}

fn accesses_are_translated_by_the_smmu_when_ats_is_disabled() {
    on_each(&[Ats], |profile| {
        let (mut bench, space) = translating(profile);
        assert_eq!(fill(&mut bench, BASE, None), status::DONE);
        let before = bench.machine.read_engine(2, reg::INVALIDATIONS);
        disable(&mut bench).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::INVALIDATIONS), before + 1);
        let asked = requests(&bench);
        assert_eq!(
            (fill(&mut bench, BASE, None), fill(&mut bench, BASE + 4096, None)),
            (status::DONE, status::ABORTED)
        );
        assert_eq!((requests(&bench), bench.smmu.event_records()), (asked, 1));
        space.map(BASE + 4096);
        enable(&mut bench).unwrap();
        assert_eq!(fill(&mut bench, BASE + 4096, None), status::DONE);
        assert_eq!(requests(&bench), [asked[0] + 1, 0]);
        disable(&mut bench).unwrap();
        let stream = bench.stream(2);
        bench.smmu.detach(&mut bench.cpu, stream).unwrap();
    });
}

fn a_pasid_of_a_device_with_ats_alone_is_stopped() {
    on_each(&[Ats, Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let stream = bench.stream(2);
        bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::Ats, 4)).unwrap();
        for id in [1, 2] {
            let space = Space::new(&bench, id as u16);
            space.map(BASE);
            let pasid = SubstreamId::new(id).unwrap();
            bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, Some(&space.context())).unwrap();
        }
        enable(&mut bench).unwrap();
        assert_eq!([1, 2].map(|id| fill(&mut bench, BASE, Some(id))), [status::DONE; 2]);
        let (device, before) = (device(&bench), bench.machine.read_engine(2, reg::INVALIDATIONS));
        let pasid = SubstreamId::new(1).unwrap();
        bench.smmu.stop_substream(&mut bench.cpu, stream, pasid, &device).unwrap();
        assert_eq!(bench.machine.read_engine(2, reg::INVALIDATIONS), before + 1);
        assert_eq!([1, 2].map(|id| fill(&mut bench, BASE, Some(id))), [status::ABORTED, status::DONE]);
        disable(&mut bench).unwrap();
    });
}

fn what_has_no_ats_or_has_it_already_is_refused() {
    on_each(&[Ats], |profile| {
        let (mut bench, space) = translating(profile);
        let (stream, other, device) = (bench.stream(2), bench.stream(1), device(&bench));
        assert_eq!(enable(&mut bench), Err(DriverError::FaultsEnabled(stream)));
        assert_eq!(bench.smmu.detach(&mut bench.cpu, stream), Err(DriverError::FaultsEnabled(stream)));
        assert_eq!(bench.disable(2), Err(DriverError::FaultsNotEnabled(stream)));
        assert_eq!(bench.reopen(2), Err(DriverError::FaultsNotEnabled(stream)));
        disable(&mut bench).unwrap();
        assert_eq!(disable(&mut bench), Err(DriverError::FaultsNotEnabled(stream)));
        let enabled = bench.enable(2, Pager::new(&space, 0..1));
        assert_eq!(enabled, Err(DriverError::NotSupported { stream, what: "enabling faults" }));
        bench.attach(1, FaultMode::Terminate, &space).unwrap();
        let mut of = |streams: &[StreamId]| bench.smmu.enable_ats(&mut bench.cpu, streams, &device);
        let unattached = StreamId(stream.0 + 1);
        for (streams, error) in [
            (&[stream, other][..], DriverError::NotSupported { stream: other, what: "ATS, as it is attached," }),
            (&[stream, unattached], DriverError::NotAttached(unattached)),
            (&[stream, stream], DriverError::Open(OpenError::Repeated { stream })),
            (&[], DriverError::Open(OpenError::StreamCount { count: 0 })),
            (&[stream; 17], DriverError::Open(OpenError::StreamCount { count: 17 })),
        ] {
            assert_eq!(of(streams), Err(error));
        }
        assert_eq!(bench.machine.read_engine(2, reg::ATS_CONTROL), 0);
    });
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let stream = bench.stream(2);
        if !profile.features().ats {
            let refused = bench.smmu.attach(&mut bench.cpu, stream, &plain(FaultMode::Ats));
            assert!(matches!(refused, Err(DriverError::NotSupported { .. })), "{refused:?}");
        }
    });
}

fn an_smmu_that_is_given_up_is_turned_off_when_no_device_uses_ats() {
    on_each(&[Ats], |profile| {
        let (mut bench, space) = translating(profile);
        let (stream, device) = (bench.stream(3), bench.device(3));
        bench.attach(3, FaultMode::Ats, &space).unwrap();
        bench.smmu.enable_ats(&mut bench.cpu, &[stream], &device).unwrap();
        bench.smmu.give_up();
        disable(&mut bench).unwrap();
        let is_on = |bench: &Bench| bench.machine.read32(Register::Cr0) & 1 != 0;
        assert!(is_on(&bench));
        bench.smmu.disable_ats(&mut bench.cpu, stream, &device).unwrap();
        assert!(!is_on(&bench));
    });
}

/// One that fails to enable has taken back what it did.
#[test]
fn enabling_and_disabling_that_fail_can_be_repeated() {
    on_each(&[Ats], |profile| {
        for point in [control::COMMAND_ILLEGAL, control::ATC_INVALIDATION] {
            let mut failed = 0;
            for number in 1.. {
                let mut bench = Bench::of(profile);
                let space = Space::new(&bench, 1);
                space.map(BASE);
                bench.attach(2, FaultMode::Ats, &space).unwrap();
                bench.machine.write_control(point, number);
                for _ in 0..2 {
                    if enable(&mut bench).is_err() {
                        failed += 1;
                        enable(&mut bench).unwrap();
                    }
                    assert_eq!(fill(&mut bench, BASE, None), status::DONE);
                    if disable(&mut bench).is_err() {
                        failed += 1;
                        disable(&mut bench).unwrap();
                    }
                    assert_eq!(bench.machine.read_engine(2, reg::ATS_CONTROL), 0);
                }
                if bench.machine.read_control(point + control::HAPPENED) == 0 {
                    break;
                }
            }
            assert!(failed >= 2, "{failed}");
        }
    });
}

#[test]
fn faults_of_other_streams_are_served_beside_it() {
    on_each(&[Ats, PageRequests], |profile| {
        let (mut bench, space) = translating(profile);
        bench.attach(3, FaultMode::PageRequest, &space).unwrap();
        let (stream, device) = (bench.stream(3), bench.device(3));
        let pager = Pager::new(&space, BASE..BASE + 64 * 4096);
        bench.smmu.enable_faults(&mut bench.cpu, &[stream], Some(&device), pager, LIMITS).unwrap();
        bench.fill(3, BASE, 4 * 4096, 1, None);
        bench.finish([3]);
        assert_eq!((bench.state(3), fill(&mut bench, BASE + 3 * 4096, None)), (status::DONE, status::DONE));
        bench.disable(3).unwrap();
        disable(&mut bench).unwrap();
        assert_eq!(bench.live(), 0);
    });
}
