//! What changes of streams and substreams cost, and whom they disturb (docs/structures.md).

mod driver_bench;

use driver_bench::Need::{self, PageRequests, Queues, Stall, Substreams};
use driver_bench::{Bench, Pager, Space, on_each, plain};
use smmu_iopf::driver::{FaultMode, StreamConfig};
use smmu_iopf::model::board;
use smmu_iopf::model::engine::registers::status;
use smmu_iopf::model::machine::Width;
use smmu_iopf::smmuv3::SubstreamId;
use smmu_iopf::smmuv3::registers::Register;

const BASE: u64 = 0x1000_0000;
const PAGES: u64 = 64;

/// CFGI commands from number `first` on, each of which a SYNC must follow at once (4.1.3: opcodes 0x03 to 0x06 and 0x46).
fn steps_since(bench: &Bench, first: u64) -> usize {
    let base = bench.host.read(board::SMMU_BASE + Register::CmdqBase.offset() as u64, Width::Double);
    let entries = 1 << (base & 0x1f);
    let commands = bench.smmu.command_counts().commands;
    assert!(commands - first <= entries, "what was put in is still there");
    let opcode = |number: u64| {
        let address = (base & 0x000f_ffff_ffff_ffe0) + number % entries * 16;
        bench.host.memory().load(address).unwrap() & 0xff
    };
    let steps = (first..commands).filter(|&number| matches!(opcode(number), 0x03..=0x06));
    steps.inspect(|&number| assert_eq!(opcode(number + 1), 0x46)).count()
}

/// The rows of the table in the documentation that begins with `head`.
fn rows(head: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = include_str!("../docs/structures.md").lines().skip_while(move |line| !line.starts_with(head));
    lines.skip(2).take_while(|line| line.starts_with('|')).map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`')).collect()
    })
}

#[test]
fn calls_take_the_steps_of_the_table() {
    type Mode = (&'static str, usize, FaultMode, Need);
    let modes: [Mode; 2] =
        [("stalls", 0, FaultMode::Stall, Stall), ("asks for pages", 2, FaultMode::PageRequest, PageRequests)];
    for (name, engine, mode, need) in modes {
        on_each(&[need, Queues], |profile| {
            let mut bench = Bench::of(profile);
            let space = Space::new(&bench, 1);
            let mut count = 0;
            for row in rows("| call | stream |") {
                let (call, stream, steps) = (row[0], row[1], row[2]);
                if !stream.starts_with(name) && stream != "either" {
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
                assert_eq!(steps_since(&bench, before), steps.parse().unwrap(), "{call} of a stream that {name}");
            }
            assert_eq!(count, 5, "attach, enable, disable, detach, attach");
        });
    }
}

#[test]
fn substreams_take_the_steps_of_the_table() {
    on_each(&[Substreams, Queues], |profile| {
        if !profile.features().cd2l {
            return;
        }
        let mut bench = Bench::of(profile);
        let (stream, spaces) = (profile.engine_stream(0), [Space::new(&bench, 1), Space::new(&bench, 2)]);
        let config = StreamConfig { substream_bits: 8, ..plain(FaultMode::Terminate) };
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
            assert_eq!(steps_since(&bench, before), row[2].parse().unwrap(), "{row:?}");
        }
    });
}

/// Other tables under the same tag are one word: a device that is at work does not notice.
#[test]
fn a_device_at_work_is_not_disturbed_by_a_change_of_one_word() {
    on_each(&[Substreams], |profile| {
        let mut bench = Bench::of(profile);
        let spaces = [Space::new(&bench, 1), Space::new(&bench, 1)];
        for page in 0..PAGES {
            spaces.iter().for_each(|space| space.map(BASE + page * 4096));
        }
        let config = StreamConfig { substream_bits: 4, ..plain(FaultMode::Terminate) };
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
        assert_eq!((bench.state(0), bench.sink.0.lock().unwrap().len()), (status::DONE, 0));
        for page in 0..PAGES {
            assert!(spaces.iter().any(|space| space.word(BASE + page * 4096) == 7), "page {page}");
        }
    });
}
