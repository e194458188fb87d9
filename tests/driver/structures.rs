//! What changes of streams and substreams cost, and whom they disturb (docs/structures.md).

use alloc::vec::Vec;
use smmu_iopf::driver::{FaultMode, Tag};
use smmu_iopf::model::board;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::status;
use smmu_iopf::model::machine::Width;
use smmu_iopf::smmuv3::event::Event;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{Asid, SubstreamId};

use super::bench::Need::{self, PageRequests, Queues, Stall, Substreams};
use super::bench::{Bench, Pager, Space, on_each, substreams};

scenarios![
    calls_take_the_steps_of_the_table,
    a_device_at_work_is_not_disturbed_by_a_change_of_one_word,
    streams_that_were_used_before_there_was_a_table_for_them_work,
    a_stream_whose_first_attachment_failed_has_its_table_all_the_same,
    substreams_take_the_steps_of_the_table,
    an_address_space_of_many_descriptors_is_forgotten_by_two_syncs,
    an_address_space_is_forgotten_after_a_step_that_failed,
];

stepped![a_stream_that_is_detached_while_its_device_is_at_work_is_not_written_to_any_more];

const BASE: u64 = 0x1000_0000;
const PAGES: u64 = 64;

/// The commands from number `first` on, as their opcode (4.1.3) and Leaf (4.3).
fn commands_since(bench: &Bench, first: u64) -> Vec<(u64, bool)> {
    let base = bench.machine.read(board::SMMU_BASE + Register::CmdqBase.offset() as u64, Width::Double);
    let entries = 1 << (base & 0x1f);
    let commands = bench.smmu.command_counts().commands;
    assert!(commands - first <= entries, "what was put in is still there");
    let word = |number: u64, offset: u64| {
        let address = (base & 0x000f_ffff_ffff_ffe0) + number % entries * 16 + offset;
        bench.machine.memory().load(address).unwrap()
    };
    (first..commands).map(|number| (word(number, 0) & 0xff, word(number, 8) & 1 != 0)).collect()
}

/// CFGI commands from number `first` on, each of which a SYNC must follow at once (opcodes 0x03 to 0x06 and 0x46).
fn invalidations_since(bench: &Bench, first: u64) -> Vec<(u64, bool)> {
    let commands = commands_since(bench, first);
    let steps = commands
        .iter()
        .zip(&commands[1.min(commands.len())..])
        .filter(|((opcode, _), _)| matches!(opcode, 0x03..=0x06));
    steps.inspect(|(_, behind)| assert_eq!(behind.0, 0x46)).map(|(step, _)| *step).collect()
}

fn steps_since(bench: &Bench, first: u64) -> usize {
    invalidations_since(bench, first).len()
}

/// The rows of the table in the documentation that begins with `head`.
fn rows(head: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = include_str!("../../docs/structures.md").lines().skip_while(move |line| !line.starts_with(head));
    lines.skip(2).take_while(|line| line.starts_with('|')).map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`')).collect()
    })
}

fn calls_take_the_steps_of_the_table() {
    type Mode = (&'static str, usize, FaultMode, Need);
    let modes: [Mode; 3] = [
        ("stalls", 0, FaultMode::Stall, Stall),
        ("asks for pages", 2, FaultMode::PageRequest, PageRequests),
        ("has no faults handled", 0, FaultMode::Terminate, Queues),
    ];
    for (name, engine, mode, need) in modes {
        on_each(&[need, Queues], |profile| {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            let mut count = 0;
            for row in rows("| call | stream |") {
                let (call, stream, steps) = (row[0], row[1], row[2]);
                let handled = mode != FaultMode::Terminate;
                if !(stream.contains(name) || stream == "any" || stream == "either" && handled) {
                    continue;
                }
                count += 1;
                let before = bench.smmu.command_counts().commands;
                match call {
                    "enable_faults" => bench.enable(engine, Pager::new(&space, BASE..BASE + 1)).unwrap(),
                    "disable_faults" => bench.disable(engine).unwrap(),
                    "detach" => bench.smmu.detach(&mut bench.cpu, profile.engine_stream(engine)).unwrap(),
                    _ => bench.attach(engine, mode, &space).unwrap(),
                }
                let invalidations = invalidations_since(&bench, before);
                assert_eq!(invalidations.len(), steps.parse::<usize>().unwrap(), "{call} of a stream that {name}");
                // The first-level descriptor may be new with a new stream, and is not later (4.3.1).
                for (step, invalidation) in invalidations.into_iter().enumerate() {
                    assert_eq!(invalidation, (0x03, !call.starts_with("attach") || step > 0));
                }
            }
            let calls = if mode == FaultMode::Terminate { 3 } else { 5 };
            assert_eq!(count, calls, "attach, enable, disable, detach, attach");
        });
    }
}

fn substreams_take_the_steps_of_the_table() {
    on_each(&[Substreams, Queues], |profile| {
        if !profile.features().cd2l {
            return;
        }
        let mut bench = Bench::of(profile);
        let (stream, spaces) = (profile.engine_stream(0), [Space::new(&bench, 1), Space::new(&bench, 2)]);
        let config = substreams(FaultMode::Terminate, 8);
        bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
        let rows: Vec<_> = rows("| substream | given |").collect();
        assert_eq!(rows.len(), 6);
        for row in &rows {
            bench.fill(0, BASE, 8, 1, Some(row[0].parse().unwrap()));
            bench.finish([0]);
            assert_eq!(bench.state(0), status::ABORTED);
        }
        for row in &rows {
            let space = match row[1] {
                given if given.starts_with("none") => None,
                "another address space" => Some(&spaces[1]),
                _ => Some(&spaces[0]),
            };
            let (context, before) = (space.map(|space| space.context()), bench.smmu.command_counts().commands);
            let substream = SubstreamId::new(row[0].parse().unwrap()).unwrap();
            bench.smmu.attach_substream(&mut bench.cpu, stream, substream, context.as_ref()).unwrap();
            assert_eq!(steps_since(&bench, before), row[2].parse::<usize>().unwrap(), "{row:?}");
        }
    });
}

/// A step of all of them together, then their translations.
fn an_address_space_of_many_descriptors_is_forgotten_by_two_syncs() {
    on_each(&[Substreams, Queues], |profile| {
        let mut bench = Bench::of(profile);
        let [space, other] = [1, 2].map(|asid| Space::new(&bench, asid));
        space.map(BASE);
        other.map(BASE);
        for engine in [0, 1] {
            let stream = profile.engine_stream(engine);
            bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::Terminate, 4)).unwrap();
            for (pasid, space) in [(1, &space), (2, &space), (3, &other)] {
                let pasid = SubstreamId::new(pasid).unwrap();
                bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, Some(&space.context())).unwrap();
            }
        }
        let use_all = |bench: &mut Bench, state: u32| {
            for (engine, pasid) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
                bench.fill(engine, BASE, 8, 7, Some(pasid));
                bench.finish([engine]);
                assert_eq!(bench.state(engine), state, "engine {engine}, substream {pasid}");
            }
        };
        use_all(&mut bench, status::DONE);
        let before = bench.smmu.command_counts().commands;
        let _forgotten = bench.smmu.forget(&mut bench.cpu, Tag::AddressSpace(Asid(1))).unwrap();
        // Four CMD_CFGI_CD, CMD_TLBI_NH_ASID.
        let opcodes = commands_since(&bench, before).into_iter().map(|(opcode, _)| opcode);
        assert_eq!(opcodes.collect::<Vec<_>>(), [0x05, 0x05, 0x05, 0x05, 0x46, 0x11, 0x46]);
        use_all(&mut bench, status::ABORTED);
        bench.fill(0, BASE, 8, 7, Some(3));
        bench.finish([0]);
        assert_eq!(bench.state(0), status::DONE);
    });
}

/// A descriptor whose change failed is not said to be settled by another that is forgotten, and is forgotten all the same.
fn an_address_space_is_forgotten_after_a_step_that_failed() {
    on_each(&[Need::Model, Substreams, Queues], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        space.map(BASE);
        for engine in [0, 1] {
            let stream = profile.engine_stream(engine);
            bench.smmu.attach(&mut bench.cpu, stream, &substreams(FaultMode::Terminate, 4)).unwrap();
            let pasid = SubstreamId::new(1).unwrap();
            bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, Some(&space.context())).unwrap();
        }
        // The second of the two CMD_CFGI_CD.
        bench.machine.write_control(control::COMMAND_ILLEGAL, 2);
        bench.smmu.forget(&mut bench.cpu, Tag::AddressSpace(Asid(1))).unwrap_err();
        let before = bench.smmu.command_counts().commands;
        let _forgotten = bench.smmu.forget(&mut bench.cpu, Tag::AddressSpace(Asid(1))).unwrap();
        // CMD_CFGI_CD_ALL of either stream.
        let opcodes = commands_since(&bench, before).into_iter().map(|(opcode, _)| opcode);
        assert_eq!(opcodes.collect::<Vec<_>>(), [0x06, 0x46, 0x06, 0x46, 0x11, 0x46]);
        for engine in [0, 1] {
            bench.fill(engine, BASE, 8, 7, Some(1));
            bench.finish([engine]);
            assert_eq!(bench.state(engine), status::ABORTED);
        }
        assert_eq!(bench.sink.0.lock().len(), 0, "without a record");
    });
}

/// Other tables under the same tag are one word: a device that is at work does not notice.
fn a_device_at_work_is_not_disturbed_by_a_change_of_one_word() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [Space::new(&bench, 1), Space::new(&bench, 1)];
        for page in 0..PAGES {
            spaces.iter().for_each(|space| space.map(BASE + page * 4096));
        }
        let config = substreams(FaultMode::Terminate, 4);
        bench.smmu.attach(&mut bench.cpu, profile.engine_stream(0), &config).unwrap();
        let pasid = SubstreamId::new(3).unwrap();
        let change = |bench: &mut Bench, space: &Space| {
            let before = bench.smmu.command_counts().commands;
            let stream = profile.engine_stream(0);
            bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, Some(&space.context())).unwrap();
            steps_since(bench, before)
        };
        assert_eq!(change(&mut bench, &spaces[0]), 2);
        bench.fill(0, BASE, PAGES * 4096, 7, Some(3));
        for space in spaces.iter().rev().cycle().take(6) {
            assert_eq!(bench.state(0), status::BUSY);
            assert_eq!(change(&mut bench, space), 1);
        }
        bench.finish([0]);
        assert_eq!((bench.state(0), bench.sink.0.lock().len()), (status::DONE, 0));
        for page in 0..PAGES {
            assert!(spaces.iter().any(|space| space.word(BASE + page * 4096) == 7), "page {page}");
        }
    });
}

/// The SMMU has seen that the first level leads nowhere (5.1): it has to look again.
fn streams_that_were_used_before_there_was_a_table_for_them_work() {
    on_each(&[], |profile| {
        let mut bench = Bench::of(profile);
        let space = Space::new(&bench, 1);
        space.map(BASE);
        for (engine, state) in [(0, status::ABORTED), (1, status::ABORTED), (0, status::DONE), (1, status::DONE)] {
            if state == status::DONE {
                bench.attach(engine, FaultMode::Terminate, &space).unwrap();
            }
            bench.fill(engine, BASE, 8, 1, None);
            bench.finish([engine]);
            assert_eq!(bench.state(engine), state, "engine {engine}");
        }
    });
}

fn a_stream_that_is_detached_while_its_device_is_at_work_is_not_written_to_any_more() {
    on_each(&[Need::Termination], |profile| {
        let mut bench = Bench::of(profile);
        let (space, stream) = (Space::new(&bench, 1), bench.stream(0));
        (0..PAGES).for_each(|page| space.map(BASE + page * 4096));
        bench.attach(0, FaultMode::Terminate, &space).unwrap();
        bench.fill(0, BASE, PAGES * 4096, 7, None);
        bench.run_until(|_| space.word(BASE + 4096) == 7);
        bench.smmu.detach(&mut bench.cpu, stream).unwrap();
        let written = |address: &u64| space.word(*address) == 7;
        let words = || (0..PAGES * 512).map(|word| BASE + 8 * word);
        let before = words().filter(written).count();
        assert!(before < words().count());
        bench.finish([0]);
        assert_eq!(bench.state(0), status::ABORTED);
        assert_eq!(words().filter(written).count(), before);
        let streams = bench.sink.0.lock().iter().map(Event::stream).collect::<Vec<_>>();
        assert_eq!(streams, [Some(stream)]);
    });
}

/// It has to look again whatever failed before, too.
fn a_stream_whose_first_attachment_failed_has_its_table_all_the_same() {
    on_each(&[Need::Model], |profile| {
        for number in 1.. {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            space.map(BASE);
            let write = |bench: &mut Bench, engine: usize| {
                bench.fill(engine, BASE, 8, 1, None);
                bench.finish([engine]);
                bench.state(engine)
            };
            assert_eq!([0, 1].map(|engine| write(&mut bench, engine)), [status::ABORTED; 2]);
            bench.machine.write_control(control::COMMAND_ILLEGAL, number);
            let failed = bench.attach(0, FaultMode::Terminate, &space).is_err();
            let happened = bench.machine.read_control(control::COMMAND_ILLEGAL + control::HAPPENED) != 0;
            bench.machine.write_control(control::COMMAND_ILLEGAL, 0);
            bench.attach(1, FaultMode::Terminate, &space).unwrap();
            if failed {
                bench.attach(0, FaultMode::Terminate, &space).unwrap();
            }
            assert_eq!([0, 1].map(|engine| write(&mut bench, engine)), [status::DONE; 2], "command {number}");
            if !happened {
                assert_eq!(number, 5, "four commands, and none of them failed");
                break;
            }
        }
    });
}
