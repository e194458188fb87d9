//! What aborts of the queues and lost interrupts cost, and how service goes on.

use alloc::vec;
use core::cell::Cell;
use core::sync::atomic::Ordering;

use smmu_iopf::driver::{
    DriverError, FaultMode, GlobalErrors, Lost, Options, StreamConfig, Transition, Translation, Upkeep,
};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, status};
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::PageResponse;

use super::bench::Need::{Model, NoStall, PageRequests, Queues, Stage2, Stall, SyncMessages, Termination};
use super::bench::pending::{BASE, BYTES, Hooked, Restless, stalled};
use super::bench::{Bench, LIMIT_US, Pager, Profile, Space, on, on_each, plain};

scenarios![
    what_is_in_the_event_queue_when_a_write_aborts_is_not_believed,
    an_aborted_event_queue_stops_the_stalling_streams_and_spares_the_others,
    after_an_aborted_event_write_the_engine_is_served_again,
    a_stream_that_is_about_to_end_is_not_reopened,
    global_errors_whose_interrupt_was_lost_are_found,
    where_every_fault_stalls_an_aborted_event_queue_stops_streams_without_a_handler_too,
    a_stall_whose_record_is_lost_ends_with_its_stream,
    a_stall_whose_record_is_lost_ends_wherever_its_stream_goes,
    answers_to_streams_without_a_handler_are_not_sent_after_stall_term,
    without_stalls_an_aborted_event_queue_has_lost_reports_alone,
    an_event_queue_that_is_not_there_costs_reports_alone,
    an_illegal_command_that_nobody_waits_for_is_replaced_and_the_queue_goes_on,
    a_stream_of_a_virtual_machine_is_stopped_and_served_again_too,
    a_stream_whose_detachment_failed_is_not_reopened_into_the_tables_of_another,
    a_stall_from_before_a_change_is_answered_though_faults_are_enabled_before_the_drain,
    a_stall_from_before_a_change_that_failed_is_answered_by_the_drain,
    a_stream_whose_change_failed_before_a_recovery_can_be_changed_all_the_same,
];

fn what_is_in_the_event_queue_when_a_write_aborts_is_not_believed() {
    on_each(&[Stall, Termination], |profile| {
        // 7.2.2.
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.attach(1, FaultMode::Terminate, &space).unwrap();
        bench.machine.write_control(control::EVENT_WRITE, 2);
        for engine in [1, 0] {
            bench.fill(engine, BASE, 8, 1, None);
            bench.machine.run(100);
        }
        assert!(bench.global_errors().recover);
        assert_eq!(bench.sink.take_lines(), ["global errors: EVENTQ_ABT_ERR"]);
        assert!(bench.global_errors().recover);
        assert_eq!(bench.sink.take_lines(), [""; 0], "it was told of");
        // An interrupt from before.
        bench.drain();
        let lost = Lost { events: 1, streams: vec![profile.engine_stream(0)], ..Lost::default() };
        assert_eq!(bench.recover(), Ok(lost));
        bench.finish([0]);
        assert_eq!((bench.smmu.event_records(), bench.sink.0.lock().len()), (1, 0));
        bench.disable(0).unwrap();
        // What is written from now on is.
        bench.fill(1, BASE, 8, 1, None);
        bench.finish([1]);
        assert_eq!((bench.smmu.event_records(), bench.sink.0.lock().len()), (2, 1));
    });
}

fn an_aborted_event_queue_stops_the_stalling_streams_and_spares_the_others() {
    on_each(&[Stall, PageRequests], |profile| {
        // The event queue lies where there is no memory: no stall record can be written.
        let options = Options { limit_us: LIMIT_US, ..Options::default() };
        let mut bench = Bench::with_broken(profile, options, if SyncMessages.is_met(profile) { 3 } else { 2 });
        let (space, other) = (Space::new(&bench, 1), Space::new(&bench, 2));
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        bench.attach(2, FaultMode::PageRequest, &other).unwrap();
        bench.enable(2, Pager::new(&other, BASE..BASE + BYTES)).unwrap();
        bench.fill(0, BASE, 8, 1, None);
        bench.machine.run(100);
        let errors = bench.global_errors();
        assert_eq!(errors, GlobalErrors { event_queue_abort: true, recover: true, ..GlobalErrors::default() });
        assert_eq!(bench.state(0), status::BUSY, "its record is lost");

        let lost = Lost { streams: vec![profile.engine_stream(0)], ..Lost::default() };
        assert_eq!(bench.recover(), Ok(lost.clone()));
        bench.finish([0]);
        assert_eq!(bench.state(0), status::ABORTED);
        let commands = bench.smmu.command_counts().commands;
        assert_eq!(bench.recover(), Ok(lost), "it still waits to be reopened");
        assert_eq!(bench.smmu.command_counts().commands, commands, "there is nothing left to recover from");
        bench.disable(0).unwrap();
        assert_eq!(bench.recover(), Ok(Lost::default()));

        bench.fill(2, BASE, BYTES, 6, None);
        bench.finish([2]);
        assert_eq!((bench.state(2), other.word(BASE)), (status::DONE, 6));
        bench.disable(2).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

/// Has the faults of an engine served again. Returns whether it was to start nothing new before.
fn reopen_stopped(bench: &mut Bench, engine: usize) -> bool {
    let (stream, stopped) = (bench.stream(engine), Cell::new(false));
    let device = Hooked(bench.device(engine), || stopped.set(true));
    bench.smmu.reopen_faults(&mut bench.cpu, stream, &device).unwrap();
    stopped.get()
}

/// Two stalls wait for their handler, and the record of a third one is lost.
fn after_an_aborted_event_write_the_engine_is_served_again() {
    on_each(&[Stall], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        let pager = Pager::deferring(&space, BASE..BASE + BYTES);
        bench.attach(0, FaultMode::Stall, &space).unwrap();
        bench.enable(0, pager.clone()).unwrap();
        bench.machine.write_engine(0, reg::DEPTH, 3);
        bench.machine.write_control(control::EVENT_WRITE, 3);
        bench.fill(0, BASE, BYTES, 1, None);
        bench.run_until(|_| pager.deferred.lock().len() == 2);
        bench.machine.run(100);
        assert!(bench.global_errors().recover);
        let (stream, other) = (bench.stream(0), bench.stream(1));
        assert_eq!(bench.recover(), Ok(Lost { terminated: 2, streams: vec![stream], ..Lost::default() }));

        let device = Restless::new(&bench, 0);
        let busy = bench.smmu.reopen_faults(&mut bench.cpu, stream, &device);
        assert_eq!(busy, Err(DriverError::DeviceBusy { stream, state: "idle", waited_us: LIMIT_US }));
        bench.fill(0, BASE, 8, 1, None);
        bench.finish([0]);
        assert_eq!(bench.state(0), status::ABORTED, "its entry does not translate before it has come to rest");

        assert!(reopen_stopped(&mut bench, 0));
        assert_eq!(bench.recover(), Ok(Lost::default()));
        bench.fill(0, BASE, BYTES, 9, None);
        bench.run_until(|_| pager.deferred.lock().len() == 5);
        let mut groups = pager.take();
        for late in groups.drain(..2) {
            assert!(!late.is_waiting());
            assert!(bench.cpu.masked(|masked| late.respond(masked, PageResponse::Success)).is_err());
        }
        pager.defers.store(false, Ordering::Relaxed);
        for group in groups {
            let answer = pager.resolve(group.faults());
            bench.cpu.masked(|masked| group.respond(masked, answer)).unwrap();
        }
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(BASE + BYTES - 8)), (status::DONE, 9));
        // Nothing is to be done a second time, and for who is not there.
        bench.reopen(0).unwrap();
        assert_eq!(bench.reopen(1), Err(DriverError::NotAttached(other)));
        bench.disable(0).unwrap();
        assert_eq!(bench.reopen(0), Err(DriverError::FaultsNotEnabled(stream)));
        for counter in [diagnostics::STALLED, diagnostics::RESUMED_NOTHING] {
            assert_eq!(bench.model_count(counter), 0);
        }
        assert_eq!(bench.live(), 0);
    });
}

/// The owner has begun to take the faults away: nobody has them served again under its feet.
fn a_stream_that_is_about_to_end_is_not_reopened() {
    on_each(&[Stall], |profile| {
        let (mut bench, _, pager) = stalled(profile);
        drop(pager.take());
        let stream = profile.engine_stream(0);
        let device = Restless::new(&bench, 0);
        assert!(bench.smmu.disable_faults(&mut bench.cpu, stream, &device).is_err());
        bench.attach(1, FaultMode::Stall, &Space::new(&bench, 2)).unwrap();
        bench.enable(1, pager).unwrap();
        bench.machine.write_control(control::EVENT_WRITE, 1);
        bench.fill(1, BASE, 8, 1, None);
        bench.machine.run(100);
        assert!(bench.global_errors().recover);
        let stopped = Lost { terminated: 8, streams: vec![profile.engine_stream(1)], ..Lost::default() };
        assert_eq!(bench.recover(), Ok(stopped));
        assert_eq!(bench.reopen(0), Err(DriverError::FaultsNotEnabled(stream)));
        [0, 1].into_iter().for_each(|engine| bench.disable(engine).unwrap());
        assert_eq!(bench.live(), 0);
    });
}

fn global_errors_whose_interrupt_was_lost_are_found() {
    on_each(&[Stall, PageRequests], |profile| {
        let mut bench = Bench::of(profile);
        for (engine, mode) in [(0, FaultMode::Stall), (2, FaultMode::PageRequest)] {
            let space = Space::new(&bench, engine as u16 + 1);
            bench.attach(engine, mode, &space).unwrap();
            bench.enable(engine, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
        }
        assert_eq!(bench.smmu.expire(&bench.cpu, 0), Upkeep::default());
        for (engine, write, expected) in [
            (0, control::EVENT_WRITE, GlobalErrors { event_queue_abort: true, ..GlobalErrors::default() }),
            (
                2,
                control::PAGE_REQUEST_WRITE,
                GlobalErrors { page_request_queue_abort: true, ..GlobalErrors::default() },
            ),
        ] {
            bench.machine.write_control(write, 1);
            bench.fill(engine, BASE, 8, 1, None);
            bench.machine.run(100);
            let errors = GlobalErrors { recover: true, ..expected };
            assert_eq!(bench.smmu.expire(&bench.cpu, 0), Upkeep { timed_out: 0, errors });
            let streams = vec![bench.stream(engine)];
            assert_eq!(bench.recover(), Ok(Lost { streams, ..Lost::default() }));
            bench.reopen(engine).unwrap();
            assert_eq!(bench.smmu.expire(&bench.cpu, 0), Upkeep::default());
            bench.fill(engine, BASE, BYTES, 3, None);
            bench.finish([engine]);
            assert_eq!(bench.state(engine), status::DONE);
        }
        [0, 2].into_iter().for_each(|engine| bench.disable(engine).unwrap());
        assert_eq!(bench.live(), 0);
    });
}

/// Its transactions stall though nobody asked for it, and nobody would answer one whose record is lost.
fn where_every_fault_stalls_an_aborted_event_queue_stops_streams_without_a_handler_too() {
    on(Modelled::ForcedStall, |profile| {
        for stage in [1, 2] {
            let mut bench = Bench::of(profile);
            let space = if stage == 1 { Space::new(&bench, 1) } else { Space::machine(&bench, 1) };
            bench.attach(0, FaultMode::Terminate, &space).unwrap();
            bench.machine.write_control(control::EVENT_WRITE, 1);
            bench.fill(0, BASE, 8, 1, None);
            bench.machine.run(100);
            assert_eq!((bench.state(0), bench.model_count(diagnostics::STALLED)), (status::BUSY, 1));
            assert!(bench.global_errors().recover);
            let stream = bench.stream(0);
            assert_eq!(bench.recover(), Ok(Lost { streams: vec![stream], ..Lost::default() }), "stage {stage}");
            bench.finish([0]);
            assert_eq!((bench.state(0), bench.model_count(diagnostics::STALLED)), (status::ABORTED, 0));
            // It is aborted until it is reopened, and goes nowhere else before.
            let elsewhere = bench.smmu.change(&mut bench.cpu, stream, &plain(FaultMode::Terminate));
            assert_eq!(elsewhere, Err(DriverError::FaultsEnabled(stream)));
            space.map(BASE);
            let device = Restless::new(&bench, 0);
            let reopened = bench.smmu.reopen_faults(&mut bench.cpu, stream, &device);
            assert_eq!(reopened, Err(DriverError::DeviceBusy { stream, state: "idle", waited_us: LIMIT_US }));
            bench.fill(0, BASE, 8, 1, None);
            bench.finish([0]);
            assert_eq!(bench.state(0), status::ABORTED);
            assert!(reopen_stopped(&mut bench, 0));
            bench.fill(0, BASE, 8, 1, None);
            bench.finish([0]);
            assert_eq!(bench.state(0), status::DONE);
            assert_eq!(bench.recover(), Ok(Lost::default()));
        }
    });
}

/// It was in the queue before the handler came, whom it is none of the business of.
fn a_stall_from_before_a_change_is_answered_though_faults_are_enabled_before_the_drain() {
    on(Modelled::ForcedStall, |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.fill(0, BASE, 8, 1, None);
        bench.machine.run(100);
        assert_eq!((bench.smmu.event_records(), bench.model_count(diagnostics::STALLED)), (0, 1));
        let (stream, config) = (bench.stream(0), plain(FaultMode::Stall));
        let config = StreamConfig { translation: space.translation(), ..config };
        bench.smmu.change(&mut bench.cpu, stream, &config).unwrap();
        let pager = Pager::new(&space, BASE..BASE + BYTES);
        bench.enable(0, pager.clone()).unwrap();
        bench.finish([0]);
        assert_eq!((bench.state(0), pager.groups.load(Ordering::Relaxed)), (status::ABORTED, 0));
        bench.fill(0, BASE, 8, 2, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), space.word(BASE)), (status::DONE, 2));
        bench.disable(0).unwrap();
    });
}

/// Not by STALL_TERM, behind which the entry may not translate before the device is at rest (4.7.2).
fn a_stall_from_before_a_change_that_failed_is_answered_by_the_drain() {
    on(Modelled::ForcedStall, |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [Space::new(&bench, 1), Space::new(&bench, 2)];
        spaces[1].map(BASE);
        bench.attach(0, FaultMode::Terminate, &spaces[0]).unwrap();
        bench.fill(0, BASE + 4096, 8, 1, None);
        bench.machine.run(100);
        let config = StreamConfig { translation: spaces[1].translation(), ..plain(FaultMode::Terminate) };
        bench.machine.write_control(control::COMMAND_ILLEGAL, 1);
        let stream = bench.stream(0);
        let failed = bench.smmu.change(&mut bench.cpu, stream, &config);
        assert!(matches!(failed, Err(DriverError::IllegalCommand { .. })), "{failed:?}");
        assert_eq!(bench.smmu.change(&mut bench.cpu, stream, &config), Ok(Transition::Interrupted));
        assert_eq!((bench.smmu.event_records(), bench.model_count(diagnostics::STALLED)), (0, 1));
        bench.finish([0]);
        assert_eq!((bench.state(0), bench.model_count(diagnostics::RESUMED_NOTHING)), (status::ABORTED, 0));
        bench.fill(0, BASE, 8, 7, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), spaces[1].word(BASE)), (status::DONE, 7));
    });
}

/// Engine 0 of a machine where every fault stalls has no handler, and a stall whose record was lost.
fn lost_stall(profile: Profile) -> Bench {
    let mut bench = Bench::of(profile);
    let space = Space::new(&bench, 1);
    bench.attach(0, FaultMode::Terminate, &space).unwrap();
    bench.machine.write_control(control::EVENT_WRITE, 1);
    bench.fill(0, BASE, 8, 1, None);
    bench.machine.run(100);
    assert_eq!((bench.state(0), bench.model_count(diagnostics::STALLED)), (status::BUSY, 1));
    bench
}

fn a_stall_whose_record_is_lost_ends_with_its_stream() {
    on(Modelled::ForcedStall, |profile| {
        let mut bench = lost_stall(profile);
        let stream = bench.stream(0);
        bench.smmu.detach(&mut bench.cpu, stream).unwrap();
        bench.finish([0]);
        assert_eq!((bench.state(0), bench.model_count(diagnostics::STALLED)), (status::ABORTED, 0));
        assert!(bench.global_errors().recover);
        assert_eq!(bench.recover(), Ok(Lost::default()));
        // And no record that is not lost is answered in the next life.
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.fill(0, BASE, 8, 1, None);
        bench.machine.run(100);
        assert_eq!((bench.smmu.event_records(), bench.model_count(diagnostics::STALLED)), (0, 1));
        bench.smmu.detach(&mut bench.cpu, stream).unwrap();
        assert_eq!(bench.smmu.event_records(), 1);
        // Nor when STALL_TERM has ended it: that would be seen with the next commands.
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        assert_eq!(bench.model_count(diagnostics::RESUMED_NOTHING), 0);
        // What stalls from now on is answered.
        bench.finish([0]);
        bench.fill(0, BASE, 8, 1, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), bench.model_count(diagnostics::STALLED)), (status::ABORTED, 0));
    });
}

fn a_stall_whose_record_is_lost_ends_wherever_its_stream_goes() {
    on(Modelled::ForcedStall, |profile| {
        for (faults, translation) in
            [(FaultMode::Terminate, Translation::Bypass), (FaultMode::Stall, plain(FaultMode::Stall).translation)]
        {
            let mut bench = lost_stall(profile);
            let stream = bench.stream(0);
            let elsewhere = StreamConfig { faults, translation };
            bench.smmu.change(&mut bench.cpu, stream, &elsewhere).unwrap();
            assert!(bench.global_errors().recover);
            assert_eq!(bench.recover(), Ok(Lost { streams: vec![stream], ..Lost::default() }));
            bench.finish([0]);
            assert_eq!((bench.state(0), bench.model_count(diagnostics::STALLED)), (status::ABORTED, 0));
            if faults == FaultMode::Stall {
                let space = Space::new(&bench, 1);
                let early = bench.enable(0, Pager::new(&space, BASE..BASE + BYTES));
                assert_eq!(early, Err(DriverError::FaultsEnabled(stream)));
            }
            bench.reopen(0).unwrap();
            assert_eq!(bench.recover(), Ok(Lost::default()));
        }
    });
}

fn answers_to_streams_without_a_handler_are_not_sent_after_stall_term() {
    on(Modelled::ForcedStall, |profile| {
        for detached in [true, false] {
            let options = Options { limit_us: LIMIT_US, command_queue_log2: 1, ..Options::default() };
            let mut bench = Bench::with(profile, options);
            let space = Space::new(&bench, 1);
            [0, 1].into_iter().for_each(|engine| bench.attach(engine, FaultMode::Terminate, &space).unwrap());
            bench.hold_commands(true);
            bench.machine.write_engine(0, reg::DEPTH, 8);
            bench.fill(0, BASE, 8 * 4096, 7, None);
            bench.machine.run(1000);
            bench.drain();
            assert_eq!((bench.smmu.command_counts().answers, bench.smmu.event_counts().unsent), (2, 6));
            if detached {
                bench.hold_commands(false);
                let stream = bench.stream(0);
                bench.smmu.detach(&mut bench.cpu, stream).unwrap();
            } else {
                bench.machine.write_control(control::EVENT_WRITE, 1);
                bench.fill(1, BASE, 8, 1, None);
                bench.machine.run(100);
                assert!(bench.global_errors().recover);
                bench.hold_commands(false);
                let _lost = bench.recover().unwrap();
            }
            assert_eq!(bench.smmu.event_counts().unsent, 0);
            bench.finish([0]);
            assert_eq!(bench.state(0), status::ABORTED);
            let counts = [diagnostics::STALLED, diagnostics::RESUMED_NOTHING].map(|count| bench.model_count(count));
            assert_eq!(counts, [0, 0]);
        }
    });
}

fn without_stalls_an_aborted_event_queue_has_lost_reports_alone() {
    on_each(&[Model, NoStall], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.machine.write_control(control::EVENT_WRITE, 1);
        bench.fill(0, BASE, 8, 1, None);
        bench.finish([0]);
        assert_eq!(bench.global_errors(), GlobalErrors { event_queue_abort: true, ..GlobalErrors::default() });
        assert_eq!(bench.global_errors(), GlobalErrors::default());
        bench.fill(0, BASE, 8, 1, None);
        bench.finish([0]);
        assert_eq!(bench.sink.0.lock().len(), 1, "the second is reported");
    });
}

/// It lies where there is no memory.
fn an_event_queue_that_is_not_there_costs_reports_alone() {
    on_each(&[NoStall], |profile| {
        let options = Options { limit_us: LIMIT_US, ..Options::default() };
        let mut bench = Bench::with_broken(profile, options, if SyncMessages.is_met(profile) { 3 } else { 2 });
        let space = Space::new(&bench, 1);
        space.map(BASE);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.machine.take_raised();
        for (address, state) in [(BASE + 4096, status::ABORTED), (BASE, status::DONE)] {
            bench.fill(0, address, 8, 1, None);
            bench.finish([0]);
            assert_eq!(bench.state(0), state);
        }
        assert_eq!(bench.machine.take_raised(), [Wire::GlobalError]);
        assert_eq!(bench.global_errors(), GlobalErrors { event_queue_abort: true, ..GlobalErrors::default() });
        assert_eq!(bench.global_errors(), GlobalErrors::default());
        assert_eq!((bench.smmu.event_records(), bench.sink.0.lock().len()), (0, 0));
    });
}

/// 7.1: its caller gave it up before the SMMU came to it.
fn an_illegal_command_that_nobody_waits_for_is_replaced_and_the_queue_goes_on() {
    on_each(&[Queues], |profile| {
        let mut bench = Bench::of(profile);
        let (space, stream) = (Space::new(&bench, 1), bench.stream(0));
        space.map(BASE);
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.hold_commands(true);
        let held = bench.smmu.detach(&mut bench.cpu, stream);
        assert!(matches!(held, Err(DriverError::CommandTimeout(_))), "{held:?}");
        bench.spoil_command();
        bench.hold_commands(false);
        bench.machine.run(100);
        assert!(bench.global_errors().command_queue);
        assert_eq!(bench.global_errors(), GlobalErrors::default());
        assert_eq!(bench.smmu.command_counts().errors, 1);
        // Nothing is taken for done that it was to do.
        for state in [status::ABORTED, status::DONE] {
            match state {
                status::DONE => bench.attach(0, FaultMode::Terminate, &space).unwrap(),
                _ => bench.smmu.detach(&mut bench.cpu, stream).unwrap(),
            }
            bench.fill(0, BASE, 8, 1, None);
            bench.finish([0]);
            assert_eq!(bench.state(0), state);
        }
        assert_eq!(bench.smmu.command_counts().errors, 1);
    });
}

/// S2S and not CD.S decides there (5.2, 5.5).
fn a_stream_of_a_virtual_machine_is_stopped_and_served_again_too() {
    on_each(&[Stall, Stage2], |profile| {
        let mut bench = Bench::of(profile);
        let machine = Space::machine(&bench, 3);
        bench.attach(0, FaultMode::Stall, &machine).unwrap();
        bench.enable(0, Pager::new(&machine, BASE..BASE + BYTES)).unwrap();
        bench.machine.write_control(control::EVENT_WRITE, 1);
        bench.fill(0, BASE, 8, 7, None);
        bench.machine.run(100);
        assert!(bench.global_errors().recover);
        let lost = Lost { streams: vec![profile.engine_stream(0)], ..Lost::default() };
        assert_eq!(bench.recover(), Ok(lost));
        bench.finish([0]);
        assert_eq!((bench.state(0), machine.word(BASE)), (status::ABORTED, 0));
        bench.reopen(0).unwrap();
        bench.fill(0, BASE, 8, 8, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), machine.word(BASE)), (status::DONE, 8));
        bench.disable(0).unwrap();
        assert_eq!(bench.live(), 0);
    });
}

/// The first device's detachment has failed when its tables were given back, and the second device has them.
fn a_stream_whose_detachment_failed_is_not_reopened_into_the_tables_of_another() {
    on(Modelled::ForcedStall, |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [Space::new(&bench, 1), Space::new(&bench, 2)];
        spaces.iter().for_each(|space| space.map(BASE));
        bench.attach(0, FaultMode::Terminate, &spaces[0]).unwrap();
        let (first, second) = (bench.stream(0), bench.stream(1));
        // CFGI_STE and SYNC, after which its tables go back, and not STALL_TERM.
        bench.machine.write_control(control::PASSED, 2);
        bench.machine.write_control(control::COMMANDS_HELD, control::UNTIL_RELEASED);
        assert!(matches!(bench.smmu.detach(&mut bench.cpu, first), Err(DriverError::CommandTimeout(_))));
        bench.machine.write_control(control::COMMANDS_HELD, 0);
        bench.attach(1, FaultMode::Terminate, &spaces[1]).unwrap();
        bench.machine.write_control(control::EVENT_WRITE, 1);
        bench.fill(1, BASE + 4096, 8, 1, None);
        bench.machine.run(100);
        assert!(bench.global_errors().recover);
        assert_eq!(bench.recover(), Ok(Lost { streams: vec![second], ..Lost::default() }));
        bench.finish([1]);
        assert_eq!((bench.reopen(0), bench.reopen(1)), (Err(DriverError::NotAttached(first)), Ok(())));
        bench.fill(0, BASE, 8, 0x77, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), spaces[1].word(BASE)), (status::ABORTED, 0));
        bench.smmu.detach(&mut bench.cpu, first).unwrap();
    });
}

fn a_stream_whose_change_failed_before_a_recovery_can_be_changed_all_the_same() {
    on(Modelled::ForcedStall, |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [Space::new(&bench, 1), Space::new(&bench, 2)];
        spaces.iter().for_each(|space| space.map(BASE));
        let (first, second) = (bench.stream(0), bench.stream(1));
        (0..2).for_each(|engine| bench.attach(engine, FaultMode::Terminate, &spaces[0]).unwrap());
        let config = StreamConfig { translation: spaces[1].translation(), ..plain(FaultMode::Terminate) };
        bench.machine.write_control(control::COMMAND_ILLEGAL, 1);
        let failed = bench.smmu.change(&mut bench.cpu, first, &config);
        assert!(matches!(failed, Err(DriverError::IllegalCommand { .. })), "{failed:?}");
        bench.machine.write_control(control::EVENT_WRITE, 1);
        bench.fill(1, BASE + 4096, 8, 1, None);
        bench.machine.run(100);
        assert!(bench.global_errors().recover);
        assert_eq!(bench.recover(), Ok(Lost { streams: vec![second], ..Lost::default() }));
        bench.finish([1]);
        // What is attached has to be reopened first, and what is not, can't be.
        assert_eq!(bench.smmu.change(&mut bench.cpu, second, &config), Err(DriverError::FaultsEnabled(second)));
        assert_eq!(bench.reopen(0), Err(DriverError::NotAttached(first)));
        assert_eq!(bench.smmu.change(&mut bench.cpu, first, &config), Ok(Transition::Interrupted));
        bench.fill(0, BASE, 8, 7, None);
        bench.finish([0]);
        assert_eq!((bench.state(0), spaces[1].word(BASE)), (status::DONE, 7));
    });
}
