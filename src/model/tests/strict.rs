//! Strict mode: a driver that does it right is silent, and one that does it wrong is stopped by name.

mod answers;
mod commands;
mod registers;
mod structures;

use std::format;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::{String, ToString};
use std::sync::Arc;
use std::vec::Vec;

use super::bench::*;
use super::direct::{Direct, FETCH, READ, WRITE};
use crate::driver::registers::Registers;
use crate::model::host::{HostMemory, HostSmmu};
use crate::model::profile::Profile;
use crate::model::smmu::strict::Rule;
use crate::smmuv3::registers::Register;

/// The diagnostics' control register, and its bit STRICT.
const CONTROL: u64 = 0xe00;
const STRICT: u32 = 1 << 3;

// Commands (4.3, 4.4, 4.7): opcode in bits 7:0; StreamID in 63:32.
const SYNC: [u64; 2] = [0x46, 0];
const CFGI_ALL: [u64; 2] = [0x04, 31];
const TLBI_NSNH_ALL: [u64; 2] = [0x30, 0];
const TLBI_EL2_ALL: [u64; 2] = [0x20, 0];

const fn cfgi_ste(stream: u64) -> [u64; 2] {
    [0x03 | stream << 32, 1]
}

const fn cfgi_cd(stream: u64) -> [u64; 2] {
    [0x05 | stream << 32, 1]
}

const fn stall_term(stream: u64) -> [u64; 2] {
    [0x45 | stream << 32, 0]
}

/// A strict machine after reset, with its tables and queues set up.
fn prepared() -> Bench {
    let mut bench = Bench::reset();
    bench.write(CONTROL, STRICT);
    bench.set_up();
    bench.step();
    bench
}

/// A strict machine of `profile` that was enabled by the book (3.11), with `engines` engines.
fn strict_of(profile: Profile, engines: usize) -> Bench {
    let mut bench = Bench::with(profile, engines);
    bench.write(CONTROL, STRICT);
    bench.set_up();
    bench.enable(8);
    for command in [CFGI_ALL, TLBI_NSNH_ALL, TLBI_EL2_ALL, SYNC] {
        bench.command(command);
    }
    bench.enable(ALL_ON);
    assert_eq!(broken(&mut bench), None);
    bench
}

fn strict_with(engines: usize) -> Bench {
    strict_of(Profile::Full, engines)
}

fn strict() -> Bench {
    strict_with(4)
}

/// An enabled SMMU of `profile` without engines, which is strict from now on.
fn strict_alone(profile: Profile) -> Direct {
    let mut direct = Direct::profile(profile);
    direct.write(CONTROL, STRICT);
    direct
}

/// The rule that was broken: its name and its section.
fn broken(bench: &mut Bench) -> Option<(&'static str, &'static str)> {
    bench.machine.take_violation().map(|violation| (violation.rule.name(), violation.rule.section()))
}

#[test]
fn nothing_is_named_without_strict_mode() {
    let mut bench = Bench::enabled();
    bench.write(CMDQ_CONS, 7);
    bench.command([0xff, 0]);
    assert_eq!(broken(&mut bench), None);
}

#[test]
fn strict_mode_stays_on_until_a_reset() {
    let mut bench = prepared();
    bench.write(CONTROL, 1);
    assert_eq!(bench.read(CONTROL), STRICT | 1);
    bench.machine.reset(Profile::Full, 4);
    assert_eq!(bench.read(CONTROL), 0);
}

#[test]
fn only_the_first_violation_counts_until_it_is_taken() {
    let mut bench = strict();
    bench.write(GERRORN, 1);
    bench.write(GBPA, 0);
    assert_eq!(broken(&mut bench), Some(("error-not-active", "6.3.20")));
    assert_eq!(broken(&mut bench), None);
    bench.write(GBPA, 0);
    assert_eq!(broken(&mut bench), Some(("gbpa-without-update", "6.3.14.1")));
}

#[test]
fn strict_mode_changes_nothing_that_software_sees() {
    let outcome = |strict: bool| {
        let mut bench = Bench::reset();
        bench.write(CONTROL, if strict { STRICT } else { 0 });
        bench.set_up();
        bench.enable(ALL_ON);
        bench.attach(0x100, 0, 0, CD_S | CD_R | CD_A);
        bench.write_word(0, 0x5000);
        bench.command([0xff, 0]);
        bench.write(GERRORN, 3);
        bench.run();
        [CR0ACK, GERROR, GERRORN, CMDQ_CONS, EVENTQ_PROD, 0xe64, 0xe6c].map(|offset| bench.read(offset))
    };
    assert_eq!(outcome(true), outcome(false));
}

#[test]
fn strict_mode_uses_up_no_fetch_that_is_to_abort() {
    let outcome = |strict: bool| {
        let mut bench = Bench::enabled();
        bench.write(CONTROL, if strict { STRICT } else { 0 });
        bench.attach(0x100, 0, 0, CD_S | CD_R | CD_A);
        // STE_FETCH of the control page: the next fetch of an STE aborts, which is the SMMU's own for STALL_TERM.
        bench.set_control(0x128, 1);
        bench.command(stall_term(0x100));
        bench.write_word(0, 0x5000);
        // Aborts that are due and that were; STALL_TERMs that found another STE than one that aborts.
        [bench.control(0x128), bench.control(0x12c), bench.read(0xe70), bench.read(EVENTQ_PROD)]
    };
    assert_eq!(outcome(true), outcome(false));
}

#[test]
fn story_tells_what_was_due_and_what_came_before() {
    let mut bench = strict();
    bench.attach(0x100, 0, 0, CD_S | CD_R | CD_A);
    bench.write_word(0, 0x5000);
    let stag = bench.take_event()[1] & 0xffff;
    bench.resume(0x100, stag, 2);
    bench.resume(0x100, stag, 2);
    let story = bench.machine.violation().unwrap().to_string();
    let lines: Vec<&str> = story.lines().collect();
    assert_eq!(lines[0], "the driver broke resume-twice (4.7.1): StreamID 0x100, STAG 0x40");
    assert_eq!(lines[1], "  due: a stall record is answered by one RESUME");
    // Oldest first: the record, that it was read, and each RESUME behind its PROD.
    let last: Vec<String> = lines[lines.len() - 6..].iter().map(|line| line[9..].chars().take(34).collect()).collect();
    let starts = [
        "event    Translation StreamId(100)",
        "write    EVENTQ_CONS = 0x1",
        "write    CMDQ_PROD = 0x5",
        "command  Resume { stream: StreamId",
        "write    CMDQ_PROD = 0x6",
        "command  Resume { stream: StreamId",
    ];
    last.iter().zip(starts).for_each(|(line, start)| assert!(start.starts_with(line.as_str()), "{line}"));
    bench.write64(STRTAB_BASE, 0);
    let story = bench.machine.violation().unwrap().to_string();
    assert!(story.ends_with("write    STRTAB_BASE = 0x0, 64 bits"), "{story}");
}

#[test]
fn story_names_what_was_written_and_what_a_record_is_about() {
    let mut direct = strict_alone(Profile::Full);
    direct.stage1(0, CD_S | CD_A);
    for access in [READ, WRITE, FETCH] {
        direct.stall(0x5000, access);
    }
    // C_BAD_STE of a stream whose STE is not valid.
    direct.issue_from(0x101, 0x5000, READ);
    let tags: Vec<u64> = direct.take_events().iter().map(|record| record[1] & 0xffff).collect();
    direct.page_request(0x100, Some(7), READ, false, 3);
    direct.page_request(0x100, None, READ, true, 4);
    // Half of a register; where there is none behind a register of 32 bits; beside all registers.
    for offset in [CMDQ_BASE + 4, 0x8, 0x48, 0xf00] {
        direct.write(offset, 0);
    }
    direct.write64(CMDQ_BASE, COMMANDS | 4);
    direct.command([0x46, 0]);
    direct.command([0xff, 0]);
    let story = direct.story().unwrap();
    let told: Vec<&str> = story.lines().skip(3).map(|line| &line[9..]).collect();
    let stall = |number: usize, wanted| {
        format!("event    Translation StreamId(100) Some(Stag({:x})) {wanted} at 0x5000", tags[number])
    };
    assert_eq!(
        told,
        [
            stall(0, "read").as_str(),
            stall(1, "write").as_str(),
            stall(2, "fetch").as_str(),
            "event    BadSte { origin: Origin { stream: StreamId(101), substream: None } }",
            "write    EVENTQ_CONS = 0x4",
            "request  StreamId(100) Some(SubstreamId(7)) PrgIndex(3) at 0x5000",
            "request  StreamId(100) None PrgIndex(4) Last at 0x5000",
            "write    CMDQ_BASE[63:32] = 0x0",
            "write    0x8 = 0x0",
            "write    0x48 = 0x0",
            "write    0xf00 = 0x0",
            "write    CMDQ_BASE = 0x40080004, 64 bits",
            "write    CMDQ_PROD = 0x1",
            "command  Sync(None)",
            "write    CMDQ_PROD = 0x2",
            "command  [ff, 0]",
        ]
    );
}

#[test]
fn mistake_on_the_host_panics_with_the_story() {
    let host = HostSmmu::new(Arc::new(HostMemory::new(0x1000)));
    host.write32(Register::Gbpa, 1 << 31);
    host.step();
    let panic = catch_unwind(AssertUnwindSafe(|| host.write32(Register::Gbpa, 0))).unwrap_err();
    let story = panic.downcast_ref::<String>().unwrap();
    assert!(story.starts_with("the driver broke gbpa-without-update (6.3.14.1): register 0x44"), "{story}");
    assert!(story.contains("write    GBPA = 0x80000000\n"), "{story}");
}

#[test]
fn mistake_on_the_host_that_is_meant_waits_to_be_taken() {
    let host = HostSmmu::new(Arc::new(HostMemory::new(0x1000)));
    host.keep_violations();
    host.write32(Register::Gbpa, 1 << 20);
    let violation = host.take_violation().unwrap();
    assert_eq!(violation.rule, Rule::GbpaWithoutUpdate);
    assert_eq!(violation.details[2], Some(("written", 1 << 20)));
    assert_eq!(host.take_violation(), None);
}

#[test]
fn documentation_names_every_rule_with_its_section_and_what_is_due() {
    let written = include_str!("../../../docs/strict.md");
    let rows: Vec<&str> = written.lines().filter(|line| line.starts_with("| `")).collect();
    let rules: Vec<String> =
        Rule::ALL.iter().map(|rule| format!("| `{}` | {} | {} |", rule.name(), rule.section(), rule.due())).collect();
    assert_eq!(rows, rules);
}
