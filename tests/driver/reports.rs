//! What the driver tells without being asked: every field of what nobody answers, and no more lines than somebody can read.

use alloc::format;
use smmu_iopf::driver::{FaultMode, GlobalErrors, Options};
use smmu_iopf::model::engine::registers::status;

use super::bench::Need::{NoStall, Queues, Termination};
use super::bench::{Bench, LIMIT_US, Space, on_each};

scenarios![
    a_terminated_access_is_told_with_every_field_and_a_flood_of_them_four_times_a_second,
    records_that_found_the_event_queue_full_are_lost_and_those_after_them_are_not,
];

const ADDRESS: u64 = 0x1000_0000;

/// Has engine 0 write where nothing is mapped: the access is terminated.
fn blocked(bench: &mut Bench) {
    bench.fill(0, ADDRESS, 8, 1, None);
    bench.finish([0]);
    assert_eq!(bench.state(0), status::ABORTED);
}

/// An unprivileged write of data that found nothing at stage 1, of a transaction without a substream (7.3.13).
fn a_terminated_access_is_told_with_every_field_and_a_flood_of_them_four_times_a_second() {
    on_each(&[Termination], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        let line = format!(
            "F_TRANSLATION, translation fault: StreamID={:#x} SSV=0 Stall=0 PnU=0 InD=0 RnW=0 S2=0 CLASS={} \
             InputAddr=0x10000000",
            bench.stream(0).0,
            profile.input_class()
        );
        (0..40).for_each(|_| blocked(&mut bench));
        assert_eq!(bench.sink.take_lines(), [&*line; 4]);
        assert_eq!(bench.sink.0.lock().len(), 40, "the kernel gets each record");
        assert_eq!(bench.smmu.event_counts().suppressed, 36);

        let _ = bench.smmu.expire(&bench.cpu, 999_000);
        blocked(&mut bench);
        assert_eq!(bench.sink.take_lines(), [""; 0]);
        let _ = bench.smmu.expire(&bench.cpu, 1_000_000);
        blocked(&mut bench);
        blocked(&mut bench);
        assert_eq!(bench.sink.take_lines(), [line.clone() + " (and 37 of its kind before it)", line]);
        assert_eq!(bench.smmu.event_counts().suppressed, 37);
        let others = (bench.smmu.page_request_counts().suppressed, bench.smmu.command_counts().suppressed);
        assert_eq!(others, (0, 0));
    });
}

/// 7.4. QEMU's SMMU tells by EVENTQ_ABT_ERR in place of OVFLG (docs/qemu-deviations.md).
fn records_that_found_the_event_queue_full_are_lost_and_those_after_them_are_not() {
    on_each(&[NoStall, Queues], |profile| {
        let mut bench = Bench::with(profile, Options { limit_us: LIMIT_US, event_queue_log2: 2, ..Options::default() });
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        // Nobody takes them out meanwhile.
        for _ in 0..6 {
            bench.fill(0, ADDRESS, 8, 1, None);
            bench.machine.run(100);
            assert_eq!(bench.state(0), status::ABORTED);
        }
        let is_qemu = profile.modelled().is_none();
        assert_eq!(bench.global_errors(), GlobalErrors { event_queue_abort: is_qemu, ..GlobalErrors::default() });
        bench.drain();
        assert_eq!(bench.smmu.event_counts().overflows, if is_qemu { 0 } else { 1 });
        assert_eq!(bench.sink.0.lock().len(), 4);
        blocked(&mut bench);
        assert_eq!((bench.sink.0.lock().len(), bench.global_errors()), (5, GlobalErrors::default()));
    });
}
