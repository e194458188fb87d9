//! Streams that go elsewhere while their devices are at work, and what is left when that fails (docs/structures.md).

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use smmu_iopf::driver::{DriverError, FaultMode, Stage2, StreamConfig, Transition, Translation};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::status;
use smmu_iopf::smmuv3::event::Event;

use super::bench::Need::{self};
use super::bench::world::{BYTES, KINDS, PAGES, Tables, World, has};
use super::bench::{Pager, Profile, Space, on_each, plain};

scenarios![
    a_change_that_fails_can_be_repeated_or_ended,
    what_a_failed_change_leaves_in_use_can_be_forgotten,
    a_change_that_failed_and_is_refused_when_it_is_repeated_can_still_be_repeated,
    a_stream_that_a_failed_forgetting_left_is_invalidated_before_it_changes,
    a_detachment_that_fails_again_and_again_loses_no_tables,
    a_change_notices_no_abort_that_can_be_repeated_and_no_lost_message,
    a_change_that_no_command_is_consumed_for_is_an_error_and_can_be_repeated,
];

stepped![whatever_changes_into_whatever_a_device_at_work_reaches_the_old_or_the_new];

/// The cells of the table of `change` in the documentation: from, to, steps, and whether nothing is interrupted.
fn cells() -> Vec<(&'static str, &'static str, u64, Transition)> {
    let text = include_str!("../../docs/structures.md");
    let table = text.lines().skip_while(|line| !line.starts_with("| `change` from, to |"));
    let rows: Vec<Vec<&str>> = table
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!((rows.len(), &rows[0][1..]), (2 + KINDS.len(), &KINDS[..]));
    let cell = |to: &(usize, &'static str), row: &[&'static str]| {
        let text = row[to.0 + 1];
        let transition = if text.ends_with('!') { Transition::Interrupted } else { Transition::Hitless };
        (row[0], to.1, text.trim_end_matches('!').parse().unwrap(), transition)
    };
    rows[2..].iter().flat_map(|row| KINDS.into_iter().enumerate().map(move |to| cell(&to, row))).collect()
}

fn whatever_changes_into_whatever_a_device_at_work_reaches_the_old_or_the_new() {
    on_each(&[], |profile| {
        for (from, to, steps, transition) in cells() {
            if !has(profile, from) || !has(profile, to) {
                continue;
            }
            let mut world = World::new(profile);
            let neighbour = Space::new(&world.bench, 9);
            (0..PAGES).for_each(|page| neighbour.map(world.memory.phys.0 + page * 4096));
            let [old, new] = [world.config(from, false), world.config(to, true)];
            let (stream, bench) = (profile.engine_stream(0), &mut world.bench);
            bench.attach(1, FaultMode::Terminate, &neighbour).unwrap();
            bench.smmu.attach(&mut bench.cpu, stream, &old).unwrap();
            for engine in [0, 1] {
                bench.fill(engine, world.memory.phys.0, BYTES, 7, None);
            }
            bench.run_until(|_| neighbour.word(world.memory.phys.0) == 7);
            assert_eq!(bench.state(0), if from == "abort" { status::ABORTED } else { status::BUSY }, "{from}");
            let before = bench.smmu.command_counts().commands;
            let changed = bench.smmu.change(&mut bench.cpu, stream, &new);
            let commands = bench.smmu.command_counts().commands - before;
            assert_eq!(changed, Ok(transition), "{from} to {to}");
            // A CFGI and a SYNC each, or a SYNC to know that nothing was to be done.
            assert!(commands == 2 * steps || steps == 0 && commands <= 1, "{from} to {to}: {commands} commands");
            if from != "abort" && to != "abort" && transition == Transition::Hitless {
                assert_eq!(bench.state(0), status::BUSY, "{from} to {to}");
            }
            bench.finish([0, 1]);

            assert_eq!(bench.state(1), status::DONE, "the other stream");
            let reached = [World::reached(from, false), World::reached(to, true)];
            let mut written = 0;
            for offset in (0..BYTES).step_by(8) {
                assert_eq!(neighbour.word(world.memory.phys.0 + offset), 7);
                for (place, word) in world.words(offset).into_iter().enumerate() {
                    assert!(word == 0 || word == 7 && reached.contains(&Some(place)), "{from} to {to}: {place}");
                    written += u64::from(word == 7);
                }
            }
            let events = core::mem::take(&mut *world.bench.sink.0.lock());
            if transition == Transition::Hitless {
                assert_eq!(events, [], "{from} to {to}");
            }
            if transition == Transition::Hitless && !reached.contains(&None) {
                assert_eq!((world.bench.state(0), written), (status::DONE, BYTES / 8), "{from} to {to}");
            }
            let is_its = |event: &Event| matches!(event, Event::BadSte { origin } if origin.stream == stream);
            assert!(events.iter().all(is_its), "{from} to {to}: {events:?}");

            // From now on it is the new.
            let state = world.write(0, 8);
            assert_eq!(state, if to == "abort" { status::ABORTED } else { status::DONE }, "{from} to {to}");
            for (place, word) in world.words(BYTES - 8).into_iter().enumerate() {
                assert_eq!(word == 8, reached[1] == Some(place), "{from} to {to}: {place}");
            }
        }
    });
}

/// Whichever command of a change fails, it can be repeated, or the stream detached, and what it used is used again.
fn a_change_that_fails_can_be_repeated_or_ended() {
    on_each(&[Need::Model, Need::Queues], |profile| {
        for (from, to) in KINDS.into_iter().flat_map(|from| KINDS.map(|to| (from, to))) {
            if !has(profile, from) || !has(profile, to) {
                continue;
            }
            let mut world = World::new(profile);
            let (stream, [old, new]) = (profile.engine_stream(0), [world.config(from, false), world.config(to, true)]);
            let mut used = None;
            for number in 1.. {
                let mut failed = false;
                for repeat in [true, false] {
                    world.bench.smmu.attach(&mut world.bench.cpu, stream, &old).unwrap();
                    world.bench.machine.write_control(control::COMMAND_ILLEGAL, number);
                    let changed = world.change(0, &new);
                    world.bench.machine.write_control(control::COMMAND_ILLEGAL, 0);
                    failed |= changed.is_err();
                    if changed.is_err() && repeat {
                        let enabled = world.bench.enable(0, Pager::new(&world.spaces[0], 0..1));
                        assert_eq!(enabled, Err(DriverError::NotAttached(stream)));
                        assert_eq!(world.change(0, &new), Ok(Transition::Interrupted), "{from} to {to}");
                    }
                    if changed.is_ok() || repeat {
                        let state = world.write(0, 8);
                        assert_eq!(state, if to == "abort" { status::ABORTED } else { status::DONE });
                    }
                    world.bench.smmu.detach(&mut world.bench.cpu, stream).unwrap();
                }
                let now = world.bench.memory.used.load(Relaxed);
                assert_eq!(*used.get_or_insert(now), now, "{from} to {to}: tables are leaked");
                if !failed {
                    break;
                }
            }
        }
    });
}

/// What a failed change may have left to the SMMU, is forgotten as well.
fn what_a_failed_change_leaves_in_use_can_be_forgotten() {
    on_each(&[Need::Model, Need::Queues], |profile| {
        for (from, to, steps) in
            [("one CD", "bypass", 1), ("bypass", "one CD", 2), ("one CD", "stage 2", 3), ("stage 2", "one CD", 3)]
        {
            if !has(profile, from) || !has(profile, to) {
                continue;
            }
            // The CFGI of each step, which has a SYNC behind it.
            for number in (0..steps).map(|step| 1 + 2 * step) {
                let mut world = World::new(profile);
                let stream = profile.engine_stream(0);
                let [old, new] = [world.config(from, false), world.config(to, false)];
                world.bench.smmu.attach(&mut world.bench.cpu, stream, &old).unwrap();
                assert_eq!(world.write(0, 7), status::DONE);
                world.bench.machine.write_control(control::COMMAND_ILLEGAL, number);
                assert!(world.change(0, &new).is_err());
                let space = Tables(world.spaces[0].tag);
                let _ = world.bench.smmu.forget(&mut world.bench.cpu, space).unwrap();
                if Need::Stage2.is_met(profile) {
                    world.forget(0).unwrap();
                }
                assert_eq!(world.write(0, 8), status::ABORTED, "{from} to {to}");
                assert!(!world.words(0).contains(&8));
                assert_eq!(world.change(0, &new), Ok(Transition::Interrupted));
            }
        }
    });
}

/// For want of memory, or since the VMID is that of the tables that the first one was about (5.2.1).
fn a_change_that_failed_and_is_refused_when_it_is_repeated_can_still_be_repeated() {
    on_each(&[Need::Model, Need::Queues, Need::Substreams], |profile| {
        let mut world = World::new(profile);
        let stream = profile.engine_stream(0);
        world.attach(0, FaultMode::Terminate, Translation::Bypass).unwrap();
        let refuse = |world: &mut World, config: &StreamConfig| {
            world.bench.machine.write_control(control::COMMAND_ILLEGAL, 1);
            assert!(matches!(world.change(0, config), Err(DriverError::IllegalCommand { .. })));
        };
        let [one, table] = ["one CD", "CD table"].map(|kind| world.config(kind, false));
        refuse(&mut world, &one);
        world.bench.memory.empty.store(true, Relaxed);
        assert!(matches!(world.change(0, &table), Err(DriverError::NoMemory(_))));
        world.bench.memory.empty.store(false, Relaxed);
        assert_eq!(world.write(0, 7), status::ABORTED);
        assert_eq!(world.change(0, &table), Ok(Transition::Interrupted));
        assert_eq!((world.write(0, 8), world.words(0)), (status::DONE, [0, 8, 0, 0, 0]));
        if Need::Stage2.is_met(profile) {
            let [machine, other] = [0, 1].map(|machine| world.machines[machine].stage2());
            let config =
                |machine| StreamConfig { translation: Translation::Stage2(machine), ..plain(FaultMode::Terminate) };
            refuse(&mut world, &config(machine));
            let other = config(Stage2 { vmid: machine.vmid, ..other });
            assert_eq!(world.change(0, &other), Err(DriverError::VmidInUse(machine.vmid)));
            assert_eq!(world.change(0, &config(machine)), Ok(Transition::Interrupted));
            assert_eq!((world.write(0, 9), world.words(0)), (status::DONE, [0, 8, 0, 9, 0]));
        }
        world.bench.smmu.detach(&mut world.bench.cpu, stream).unwrap();
    });
}

/// The SMMU may have the stream's stage 2 still, with words of the new entry in it otherwise.
fn a_stream_that_a_failed_forgetting_left_is_invalidated_before_it_changes() {
    on_each(&[Need::Model, Need::Queues, Need::Stage2], |profile| {
        for fails in [false, true] {
            let mut world = World::new(profile);
            world.attach(0, FaultMode::Terminate, world.machines[0].translation()).unwrap();
            if fails {
                world.bench.machine.write_control(control::COMMAND_ILLEGAL, 1);
                assert!(matches!(world.forget(0), Err(DriverError::IllegalCommand { .. })));
            } else {
                world.forget(0).unwrap();
            }
            let before = world.bench.smmu.command_counts().commands;
            assert_eq!(world.change(0, &world.config("stage 2", true)), Ok(Transition::Hitless));
            // From an entry that aborts, and before that one CFGI and SYNC.
            let steps = 2 + u64::from(fails);
            assert_eq!(world.bench.smmu.command_counts().commands - before, 2 * steps);
            assert_eq!((world.write(0, 7), world.words(0)), (status::DONE, [0, 0, 0, 0, 7]));
        }
    });
}

fn a_detachment_that_fails_again_and_again_loses_no_tables() {
    on_each(&[Need::Queues], |profile| {
        let mut world = World::new(profile);
        let stream = profile.engine_stream(0);
        let attach =
            |world: &mut World| world.attach(0, FaultMode::Terminate, world.config("one CD", false).translation);
        attach(&mut world).unwrap();
        let used = world.bench.memory.used.load(Relaxed);
        world.bench.hold_commands(true);
        for _ in 0..3 {
            let detached = world.bench.smmu.detach(&mut world.bench.cpu, stream);
            assert!(matches!(detached, Err(DriverError::CommandTimeout(_))), "{detached:?}");
        }
        world.bench.hold_commands(false);
        world.bench.smmu.detach(&mut world.bench.cpu, stream).unwrap();
        attach(&mut world).unwrap();
        assert_eq!((world.write(0, 7), world.bench.memory.used.load(Relaxed)), (status::DONE, used));
    });
}

/// Every kind that the profile has, one after another, and back to the first.
fn round(profile: Profile) -> Vec<&'static str> {
    KINDS.into_iter().chain([KINDS[0]]).filter(|kind| has(profile, kind)).collect()
}

fn a_change_notices_no_abort_that_can_be_repeated_and_no_lost_message() {
    on_each(&[Need::Model, Need::Queues], |profile| {
        for point in [control::COMMAND_FETCH, control::MESSAGE, control::INTERRUPT_LOST, control::INTERRUPT_LATE] {
            for number in 1.. {
                let mut world = World::new(profile);
                let kinds = round(profile);
                world.attach(0, FaultMode::Terminate, world.config(kinds[0], false).translation).unwrap();
                world.bench.machine.write_control(control::LATE_TICKS, 30);
                world.bench.machine.write_control(point, number);
                for kind in &kinds[1..] {
                    let changed = world.change(0, &world.config(kind, true));
                    assert!(changed.is_ok(), "{kind}, {point:#x}, occurrence {number}: {changed:?}");
                    let state = if *kind == "abort" { status::ABORTED } else { status::DONE };
                    assert_eq!(world.write(0, number.into()), state, "{kind}, {point:#x}, occurrence {number}");
                }
                if world.bench.machine.read_control(point + control::HAPPENED) == 0 {
                    // A CFGI and a SYNC for each change at least, of which the SYNCs send messages.
                    let changes = kinds.len() as u32 - 1;
                    let least = match point {
                        control::COMMAND_FETCH => 2 * changes,
                        _ if Need::SyncMessages.is_met(profile) => changes,
                        _ => 0,
                    };
                    assert!(number > least, "{point:#x}: {number}");
                    break;
                }
            }
        }
    });
}

fn a_change_that_no_command_is_consumed_for_is_an_error_and_can_be_repeated() {
    on_each(&[Need::Queues], |profile| {
        let mut world = World::new(profile);
        let kinds = round(profile);
        world.attach(0, FaultMode::Terminate, world.config(kinds[0], false).translation).unwrap();
        for kind in &kinds[1..] {
            let config = world.config(kind, true);
            world.bench.hold_commands(true);
            let held = world.change(0, &config);
            assert!(matches!(held, Err(DriverError::CommandTimeout(_))), "{kind}: {held:?}");
            world.bench.hold_commands(false);
            assert_eq!(world.change(0, &config), Ok(Transition::Interrupted), "{kind}");
            let state = if *kind == "abort" { status::ABORTED } else { status::DONE };
            assert_eq!(world.write(0, 7), state, "{kind}");
        }
    });
}
