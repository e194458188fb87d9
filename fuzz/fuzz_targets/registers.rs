//! Any accesses to any registers of any profile, over any memory, while the machine steps.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use smmu_iopf::model::board;
use smmu_iopf::model::machine::{Machine, Width};
use smmu_iopf::model::profile::Profile;
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf_fuzz::{BASE, Guest, Nowhere, any_profile, check_registers, read, value};

/// Guest memory.
const BYTES: u64 = 0x4_0000;
/// What one step may do: 64 engines that each ask for a group of pages, and 32 commands.
const ACCESSES: u32 = 1 << 16;
/// The most operations of an input.
const OPERATIONS: usize = 400;

fuzz_target!(|bytes: &[u8]| {
    // An input that is too short ends early.
    let _ = run(&mut Unstructured::new(bytes));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let profile = any_profile(input)?;
    let memory = Guest::new(BYTES as usize, profile, 0..0);
    let mut machine = Box::<Machine>::default();
    machine.reset(profile, input.int_in_range(1..=board::MAX_ENGINES)?);
    if input.arbitrary()? {
        machine.be_strict();
    }
    let mut poisoned = false;
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        match input.int_in_range(0..=7)? {
            0 => memory.poke(BASE + u64::from(input.arbitrary::<u16>()?) * 8 % BYTES, value(input, BYTES)?),
            1 => step(&mut machine, &memory, input.int_in_range(1..=32)?, profile, poisoned),
            2 if input.ratio(1, 64)? => {
                machine.reset(profile, input.int_in_range(1..=board::MAX_ENGINES)?);
                poisoned = false;
            }
            _ => {
                let address = register(input)?;
                let width = if input.arbitrary()? { Width::Double } else { Width::Word };
                machine.write(address, width, value(input, BYTES)?);
                machine.read(address, width);
                poisoned |= (address..address + 8).contains(&(board::SMMU_BASE + diagnostics::REGISTER_POISON as u64));
                step(&mut machine, &memory, input.int_in_range(0..=2)?, profile, poisoned);
            }
        }
    }
    step(&mut machine, &memory, 64, profile, poisoned);
    Ok(())
}

/// The address of a register: one that exists, one of the control page or of an engine, or any place at all.
fn register(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=7)? {
        0..=3 => board::SMMU_BASE + input.choose(Register::ALL)?.offset() as u64,
        4 => board::SMMU_BASE + 0xe00 + u64::from(input.arbitrary::<u8>()?) % 32 * 4,
        5 => board::CONTROL_BASE + u64::from(input.arbitrary::<u8>()?) * 4,
        6 => board::engine_base(input.int_in_range(0..=3)?) + u64::from(input.arbitrary::<u8>()?) % 0x30 * 4,
        _ => {
            board::WINDOW.start - 8
                + u64::from(input.arbitrary::<u32>()?) % (board::WINDOW.end - board::WINDOW.start + 16)
        }
    })
}

fn step(machine: &mut Machine, memory: &Guest, steps: u32, profile: Profile, poisoned: bool) {
    for _ in 0..steps {
        memory.allow(ACCESSES);
        machine.step(memory, &mut Nowhere);
        check_registers(&profile.features(), poisoned, |offset| read(machine, offset));
    }
    if let Some(story) = machine.violation() {
        assert!(!story.to_string().is_empty());
        machine.take_violation();
    }
}
