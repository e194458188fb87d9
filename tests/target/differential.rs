//! The model beside QEMU's own SMMU: the same STEs, CDs, translation tables and accesses, the same outcome and record.
//!
//! Where they differ, one of them is wrong. `docs/qemu-deviations.md` lists what QEMU does otherwise than the specification
//! says; `deviations` recognises exactly that.

mod bench;
mod case;
mod deviations;

use alloc::format;
use alloc::vec::Vec;

use smmu_iopf::kernel::Kernel;

use self::bench::{Bench, Outcome};
use self::case::{Built, Case, Random};
use self::deviations::Verdict;
use crate::harness::Failure;

/// How many cases there are.
const CASES: u32 = 4_000;

/// How many differences are made small and shown.
const SHOWN: u32 = 20;

/// The fields of a record that say something, by event number (7.3).
fn masked(record: &[u64; 4]) -> [u64; 4] {
    const SSV: u64 = 1 << 11;
    // Stall, PnU, InD, RnW, S2, CLASS.
    const FAULT: u64 = 1 << 31 | 1 << 33 | 1 << 34 | 1 << 35 | 1 << 39 | 3 << 40;
    let id = record[0] & 0xff;
    let ipa = if record[1] >> 39 & 1 != 0 { 0x000f_ffff_ffff_f000 } else { 0 };
    let masks = match id {
        // F_STE_FETCH, F_CD_FETCH.
        0x03 | 0x09 => [0xff | SSV, 0, 0, 0x00ff_ffff_ffff_fff8],
        // F_WALK_EABT.
        0x0b => [0xff | SSV, FAULT & !(1 << 31), !0, 0x00ff_ffff_ffff_fff8],
        0x10..=0x12 => [0xff | SSV, FAULT, !0, ipa],
        // TTRnW too.
        0x13 => [0xff | SSV, FAULT | 1 << 44, !0, ipa],
        _ => [0xff | SSV, 0, 0, 0],
    };
    core::array::from_fn(|word| record[word] & masks[word])
}

/// Whether two outcomes are one, as far as both say something.
fn same([qemu, model]: &[Outcome; 2]) -> bool {
    qemu.landed == model.landed
        && qemu.records.len() == model.records.len()
        && qemu.records.iter().map(masked).eq(model.records.iter().map(masked))
}

/// The argument `differential=SEED`.
fn seed(kernel: &Kernel) -> Result<u64, Failure> {
    let value = kernel.arguments.iter().find_map(|argument| argument.strip_prefix("differential="));
    Ok(value.ok_or("this wants an argument differential=SEED")?.parse()?)
}

/// Runs a case. `Ok` is how it went: which deviations of QEMU's were seen, or that nothing explains the difference.
fn judge(bench: &mut Bench, case: &Case) -> Result<(Built, [Outcome; 2], Verdict), Failure> {
    let built = case.build(bench.arena.phys.0);
    let outcomes = bench.run(&built)?;
    let verdict = if same(&outcomes) { Verdict::Same } else { deviations::judge(bench, case, &built, &outcomes)? };
    Ok((built, outcomes, verdict))
}

test!(fn the_model_does_what_qemus_smmu_does(kernel, _) {
    let seed = seed(kernel)?;
    let mut bench = Bench::new(kernel)?;
    let stage2 = bench.has_stage2();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut explained = [0_u32; deviations::ALL.len()];
    let (mut wrote, mut recorded, mut failed) = (0, 0, 0);
    for number in 0..CASES {
        let case = Case::random(&mut random, stage2);
        let (_, outcomes, verdict) = judge(&mut bench, &case)?;
        wrote += u32::from(outcomes[1].landed.is_some());
        recorded += u32::from(!outcomes[1].records.is_empty());
        match verdict {
            Verdict::Same => continue,
            Verdict::Deviations(seen) => {
                for (index, count) in explained.iter_mut().enumerate() {
                    *count += (seen >> index & 1) as u32;
                }
                continue;
            }
            Verdict::Different => failed += 1,
        }
        if failed > SHOWN {
            continue;
        }
        let small = case.shrink(|case| matches!(judge(&mut bench, case), Ok((_, _, Verdict::Different))));
        let (built, [qemu, model], _) = judge(&mut bench, &small)?;
        log::error!("seed {seed}, case {number}: {:x?}", small.odd().collect::<Vec<_>>());
        log::error!("  STE {:x?}, arena {:#x}", built.ste, bench.arena.phys.0);
        for (at, word) in built.words.iter().filter(|(_, word)| *word != 0) {
            log::error!("  {at:#x}: {word:#x}");
        }
        let access = if built.read { "read of" } else { "write to" };
        log::error!("  {access} {:#x}: QEMU {qemu:x?}, model {model:x?}", built.address);
    }
    log::info!("{CASES} cases, seed {seed}: {wrote} wrote, {recorded} were recorded, {failed} differ");
    log::info!("{:5} accesses by iommu-testdev", bench.by_test_device);
    for name in deviations::names() {
        let of_it = deviations::ALL.iter().zip(explained).filter(|(deviation, _)| deviation.name == name);
        log::info!("{:5} differ by {name}", of_it.map(|(_, count)| count).sum::<u32>());
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {CASES} cases differ").into()) }
});
