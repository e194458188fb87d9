//! Context tables: linear and of two levels, grown where address spaces are.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use smmu_iopf::driver::{DriverError, FaultMode, StreamConfig, Translation};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::status;
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::smmuv3::SubstreamId;
use smmu_iopf::smmuv3::event::Event;

use super::bench::Need::{Model, PageRequests, Substreams, Termination};
use super::bench::{Bench, Pager, Profile, Space, on, on_each, plain};

scenarios![
    every_pasid_leads_to_its_own_address_space,
    pasids_that_were_used_before_there_was_a_table_for_them_work,
    taking_away_what_was_never_given_needs_no_table,
    twenty_bits_of_pasids_take_memory_only_where_address_spaces_are,
    a_table_that_is_used_again_leads_to_nobody,
    without_memory_nothing_changes_and_the_call_may_be_repeated,
    page_requests_of_the_last_pasid_are_served,
    a_first_level_that_is_used_again_leads_to_no_second_level_of_another_stream,
    a_table_for_which_there_is_no_second_level_is_kept,
    what_failed_before_a_stream_was_detached_costs_the_next_one_nothing,
    a_change_that_failed_is_made_good_whatever_comes_between,
    an_address_space_whose_taking_away_failed_is_gone_though_a_table_was_made_between,
];

const BASE: u64 = 0x1000_0000;

fn substream(pasid: u32) -> SubstreamId {
    SubstreamId::new(pasid).unwrap()
}

/// An address space with one page.
fn space(bench: &Bench, asid: u16) -> Arc<Space> {
    let space = Space::new(bench, asid);
    space.map(BASE);
    space
}

/// As many substreams as the SMMU has, and `default` for what comes without one.
fn config(profile: Profile, default: Option<&Space>) -> StreamConfig {
    let context = default.map(Space::context);
    StreamConfig {
        translation: Translation::Stage1 { context, substream_bits: profile.features().ssid_bits },
        ..plain(FaultMode::Terminate)
    }
}

fn attach(bench: &mut Bench, profile: Profile, engine: usize, default: Option<&Space>) -> Result<(), DriverError> {
    bench.smmu.attach(&mut bench.cpu, profile.engine_stream(engine), &config(profile, default))
}

/// Gives a PASID of an engine an address space, or takes it away.
fn give(bench: &mut Bench, engine: usize, pasid: u32, space: Option<&Space>) -> Result<(), DriverError> {
    let (stream, context) = (bench.stream(engine), space.map(Space::context));
    bench.smmu.attach_substream(&mut bench.cpu, stream, substream(pasid), context.as_ref())
}

/// The state of a job that writes `pattern` with `pasid`.
fn write(bench: &mut Bench, engine: usize, pasid: Option<u32>, pattern: u64) -> u32 {
    bench.fill(engine, BASE, 8, pattern, pasid);
    bench.finish([engine]);
    bench.state(engine)
}

/// The first and the last of the second-level tables, and what lies at their borders.
fn pasids(profile: Profile) -> &'static [u32] {
    match profile.features().ssid_bits {
        20 => &[1, 63, 64, 127, 0xffff, 0xf_ffbf, 0xf_ffff],
        _ => &[1, 63, 64, 127, 128, 255],
    }
}

fn every_pasid_leads_to_its_own_address_space() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let default = space(&bench, 1);
        attach(&mut bench, profile, 0, Some(&default)).unwrap();
        let spaces: Vec<_> = (2..).zip(pasids(profile)).map(|(asid, pasid)| (*pasid, space(&bench, asid))).collect();
        for (pasid, space) in &spaces {
            give(&mut bench, 0, *pasid, Some(space)).unwrap();
        }
        for (pasid, _) in &spaces {
            assert_eq!(write(&mut bench, 0, Some(*pasid), 0x100 + u64::from(*pasid)), status::DONE, "{pasid:#x}");
        }
        assert_eq!(write(&mut bench, 0, None, 7), status::DONE);
        for (pasid, space) in &spaces {
            assert_eq!(space.word(BASE), 0x100 + u64::from(*pasid));
        }
        assert_eq!(default.word(BASE), 7);
        // One taken away, the others stay.
        let (gone, _) = spaces[1];
        give(&mut bench, 0, gone, None).unwrap();
        for (pasid, _) in &spaces {
            let state = if *pasid == gone { status::ABORTED } else { status::DONE };
            assert_eq!(write(&mut bench, 0, Some(*pasid), 9), state, "{pasid:#x}");
        }
        let beyond = give(&mut bench, 0, 1 << profile.features().ssid_bits.min(19), Some(&default));
        assert_eq!(beyond.is_err(), profile.features().ssid_bits < 20);
    });
}

/// The SMMU has seen that there is no second-level table (5.3): it has to look again.
fn pasids_that_were_used_before_there_was_a_table_for_them_work() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        attach(&mut bench, profile, 0, None).unwrap();
        let spaces = [space(&bench, 2), space(&bench, 3)];
        for pasid in [64, 65] {
            assert_eq!(write(&mut bench, 0, Some(pasid), 1), status::ABORTED);
        }
        let events = bench.sink.0.lock().len();
        assert_eq!(events, 2);
        // The second one finds the table.
        for (pasid, space) in [64, 65].into_iter().zip(&spaces) {
            give(&mut bench, 0, pasid, Some(space)).unwrap();
            assert_eq!(write(&mut bench, 0, Some(pasid), pasid.into()), status::DONE);
            assert_eq!(space.word(BASE), u64::from(pasid));
        }
        assert_eq!(write(&mut bench, 0, Some(66), 1), status::ABORTED);
    });
}

fn taking_away_what_was_never_given_needs_no_table() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        attach(&mut bench, profile, 0, None).unwrap();
        let (used, commands) = (bench.memory.used.load(Ordering::Relaxed), bench.smmu.command_counts().commands);
        give(&mut bench, 0, 200, None).unwrap();
        assert_eq!(bench.memory.used.load(Ordering::Relaxed), used);
        assert_eq!(bench.smmu.command_counts().commands, commands);
    });
}

fn twenty_bits_of_pasids_take_memory_only_where_address_spaces_are() {
    on(Modelled::Big, |profile| {
        let mut bench = Bench::of(profile);
        let used = |bench: &Bench| bench.memory.used.load(Ordering::Relaxed);
        let spaces = [space(&bench, 2), space(&bench, 3)];
        // The second level of the stream table comes with the first stream.
        attach(&mut bench, profile, 1, None).unwrap();
        let before = used(&bench);
        attach(&mut bench, profile, 0, None).unwrap();
        // 2^14 descriptors of the first level.
        assert_eq!(used(&bench) - before, 128 << 10);
        for (pasid, tables) in [(0x4_0000, 1), (0x4_003f, 1), (0xf_ffff, 2), (0x4_0001, 2)] {
            give(&mut bench, 0, pasid, Some(&spaces[0])).unwrap();
            assert_eq!(used(&bench) - before, (128 + 4 * tables) << 10, "{pasid:#x}");
        }
        // What a stream leaves is enough for the next one, wherever its address spaces are.
        bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).unwrap();
        let before = used(&bench);
        for round in 0..8 {
            attach(&mut bench, profile, 0, Some(&spaces[1])).unwrap();
            give(&mut bench, 0, 0x1_0000 << (round % 4), Some(&spaces[0])).unwrap();
            assert_eq!(write(&mut bench, 0, Some(0x1_0000 << (round % 4)), round), status::DONE);
            bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).unwrap();
        }
        assert_eq!(used(&bench), before);
    });
}

/// Tables that move from stream to stream take no address space with them.
fn a_table_that_is_used_again_leads_to_nobody() {
    on_each(&[Substreams, Termination], |profile| {
        let mut bench = Bench::of(profile);
        let secret = space(&bench, 2);
        attach(&mut bench, profile, 0, Some(&secret)).unwrap();
        for pasid in pasids(profile) {
            give(&mut bench, 0, *pasid, Some(&secret)).unwrap();
            assert_eq!(write(&mut bench, 0, Some(*pasid), 5), status::DONE);
        }
        bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).unwrap();
        let own = space(&bench, 3);
        attach(&mut bench, profile, 1, None).unwrap();
        // It takes a second-level table of the others too.
        give(&mut bench, 1, 2, Some(&own)).unwrap();
        for pasid in pasids(profile).iter().copied().map(Some).chain([None]) {
            assert_eq!(write(&mut bench, 1, pasid, 6), status::ABORTED, "{pasid:x?}");
        }
        assert_eq!((write(&mut bench, 1, Some(2), 6), own.word(BASE), secret.word(BASE)), (status::DONE, 6, 5));
    });
}

fn without_memory_nothing_changes_and_the_call_may_be_repeated() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [space(&bench, 2), space(&bench, 3)];
        let two_level = profile.features().cd2l;
        // Stream table, context table, its second level: whatever is there already.
        let mut failed = 0;
        let mut at_last = |bench: &mut Bench, step: &dyn Fn(&mut Bench) -> Result<(), DriverError>| {
            bench.memory.empty.store(true, Ordering::Relaxed);
            let result = step(bench);
            bench.memory.empty.store(false, Ordering::Relaxed);
            if let Err(error) = result {
                assert!(matches!(error, DriverError::NoMemory(_)), "{error}");
                failed += 1;
                step(bench).unwrap();
            }
        };
        at_last(&mut bench, &|bench| attach(bench, profile, 0, Some(&spaces[0])));
        at_last(&mut bench, &|bench| give(bench, 0, 3, Some(&spaces[1])));
        at_last(&mut bench, &|bench| give(bench, 0, 200, Some(&spaces[1])));
        assert_eq!(failed, if two_level { 2 } else { 1 });
        for (pasid, index) in [(None, 0), (Some(3), 1), (Some(200), 1)] {
            assert_eq!(write(&mut bench, 0, pasid, 4), status::DONE);
            assert_eq!(spaces[index].word(BASE), 4);
        }
        assert!(bench.sink.0.lock().is_empty());
    });
}

/// A change that fails leaves the SMMU with something that memory does not say. Other changes must not hide that.
fn a_change_that_failed_is_made_good_whatever_comes_between() {
    on_each(&[Substreams], |profile| {
        // With a second-level table and without.
        for (failing, other) in [(3, 5), (64, 65), (64, 3)] {
            let mut refused = 0;
            for number in 1.. {
                let mut bench = Bench::of(profile);
                let spaces = [space(&bench, 2), space(&bench, 3), space(&bench, 4)];
                attach(&mut bench, profile, 0, Some(&spaces[0])).unwrap();
                // The SMMU knows that there is nothing.
                for pasid in [failing, other] {
                    assert_eq!(write(&mut bench, 0, Some(pasid), 1), status::ABORTED);
                }
                bench.machine.write_control(control::COMMAND_ILLEGAL, number);
                let result = give(&mut bench, 0, failing, Some(&spaces[1]));
                if bench.machine.read_control(control::COMMAND_ILLEGAL + control::HAPPENED) == 0 {
                    break;
                }
                // A SYNC that is refused is replaced by another.
                match result {
                    Ok(()) => {}
                    Err(DriverError::IllegalCommand { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
                give(&mut bench, 0, other, Some(&spaces[2])).unwrap();
                give(&mut bench, 0, failing, Some(&spaces[1])).unwrap();
                for (pasid, index) in [(None, 0), (Some(failing), 1), (Some(other), 2)] {
                    assert_eq!(write(&mut bench, 0, pasid, 8), status::DONE, "{pasid:?}, command {number}");
                    assert_eq!(spaces[index].word(BASE), 8);
                }
            }
            assert!(refused >= 1, "{refused}");
        }
    });
}

/// What the new table is shown by says nothing of the others.
fn an_address_space_whose_taking_away_failed_is_gone_though_a_table_was_made_between() {
    on_each(&[Model, Substreams], |profile| {
        let mut bench = Bench::of(profile);
        bench.calm_caches();
        let spaces = [space(&bench, 2), space(&bench, 3), space(&bench, 4)];
        attach(&mut bench, profile, 0, Some(&spaces[0])).unwrap();
        give(&mut bench, 0, 3, Some(&spaces[1])).unwrap();
        assert_eq!(write(&mut bench, 0, Some(3), 1), status::DONE);
        bench.machine.write_control(control::COMMAND_ILLEGAL, 1);
        assert!(give(&mut bench, 0, 3, None).is_err());
        give(&mut bench, 0, 64, Some(&spaces[2])).unwrap();
        give(&mut bench, 0, 3, None).unwrap();
        let states = [3, 64].map(|pasid| write(&mut bench, 0, Some(pasid), 2));
        assert_eq!((states, spaces[1].word(BASE)), ([status::ABORTED, status::DONE], 1));
    });
}

/// A page request with a PASID of twenty bits is answered with it.
fn page_requests_of_the_last_pasid_are_served() {
    on_each(&[PageRequests, Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let last = (1 << profile.features().ssid_bits) - 1;
        let space = Space::new(&bench, 2);
        let config = StreamConfig { faults: FaultMode::PageRequest, ..config(profile, None) };
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(2), &config).unwrap();
        give(&mut bench, 2, last, Some(&space)).unwrap();
        bench.enable(2, Pager::with([(Some(substream(last)), space.clone())].into(), BASE..BASE + 1)).unwrap();
        assert_eq!((write(&mut bench, 2, Some(last), 6), space.word(BASE)), (status::DONE, 6));
        bench.disable(2).unwrap();
        assert!(!bench.sink.0.lock().iter().any(|event| matches!(event, Event::BadSubstreamId { .. })));
    });
}

/// A second-level table is one stream's at a time.
fn a_first_level_that_is_used_again_leads_to_no_second_level_of_another_stream() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [space(&bench, 2), space(&bench, 3)];
        attach(&mut bench, profile, 0, None).unwrap();
        attach(&mut bench, profile, 1, None).unwrap();
        give(&mut bench, 0, 64, Some(&spaces[0])).unwrap();
        bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).unwrap();
        give(&mut bench, 1, 64, Some(&spaces[1])).unwrap();
        attach(&mut bench, profile, 0, None).unwrap();
        assert_eq!(write(&mut bench, 0, Some(64), 1), status::ABORTED);
        assert_eq!(write(&mut bench, 1, Some(64), 2), status::DONE);
        assert_eq!(spaces.each_ref().map(|space| space.word(BASE)), [0, 2]);
    });
}

fn a_table_for_which_there_is_no_second_level_is_kept() {
    on(Modelled::Big, |profile| {
        let mut bench = Bench::of(profile);
        let default = space(&bench, 2);
        attach(&mut bench, profile, 0, None).unwrap();
        bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).unwrap();
        let used = bench.memory.used.load(Ordering::Relaxed);
        bench.memory.empty.store(true, Ordering::Relaxed);
        assert!(matches!(attach(&mut bench, profile, 0, Some(&default)), Err(DriverError::NoMemory(_))));
        bench.memory.empty.store(false, Ordering::Relaxed);
        attach(&mut bench, profile, 0, Some(&default)).unwrap();
        assert_eq!(bench.memory.used.load(Ordering::Relaxed) - used, 4096);
        assert_eq!(write(&mut bench, 0, None, 3), status::DONE);
    });
}

/// CFGI_STE takes the descriptors with it (4.3.1).
fn what_failed_before_a_stream_was_detached_costs_the_next_one_nothing() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [space(&bench, 2), space(&bench, 3)];
        attach(&mut bench, profile, 0, Some(&spaces[0])).unwrap();
        bench.machine.write_control(control::COMMAND_ILLEGAL, 1);
        assert!(give(&mut bench, 0, 3, Some(&spaces[1])).is_err());
        bench.smmu.detach(&mut bench.cpu, profile.engine_stream(0)).unwrap();
        attach(&mut bench, profile, 0, Some(&spaces[0])).unwrap();
        let before = bench.smmu.command_counts().commands;
        give(&mut bench, 0, 3, Some(&spaces[1])).unwrap();
        // Two steps, each with CFGI and SYNC.
        assert_eq!(bench.smmu.command_counts().commands - before, 4);
        assert_eq!(write(&mut bench, 0, Some(3), 1), status::DONE);
    });
}
