//! What holds once the kernel has booted.

use alloc::format;

use aarch64_cpu::registers::{CurrentEL, Readable, SCTLR_EL1};
use smmu_iopf::arch;
use smmu_iopf::arch::image;
use smmu_iopf::smmuv3::StreamId;

use crate::harness::{Failure, equal, holds};

test!(fn runs_at_el1_with_mmu_caches_and_write_xor_execute(_, _) {
    equal("CurrentEL.EL", 1, CurrentEL.read(CurrentEL::EL))?;
    for (what, bit) in [("M", SCTLR_EL1::M), ("C", SCTLR_EL1::C), ("I", SCTLR_EL1::I), ("WXN", SCTLR_EL1::WXN)] {
        equal(&format!("SCTLR_EL1.{what}"), 1, SCTLR_EL1.read(bit))?;
    }
    Ok(())
});

test!(fn every_core_of_the_tree_comes_up(kernel, _) {
    equal("cores", kernel.board.cores.len(), kernel.cores())
});

test!(fn this_is_the_first_core(_, cpu) {
    equal("the core's number", 0, cpu.core().index())?;
    equal("the number by register", cpu.core(), arch::core_id())
});

test!(fn the_image_lies_in_memory(kernel, _) {
    let image = image::whole();
    equal("the image's start", 0x4020_0000, image.start)?;
    let around = kernel.board.memory.iter().any(|memory| memory.start <= image.start && image.end <= memory.end);
    holds("the image lies in memory", around)
});

test!(fn the_tree_shows_the_model_without_its_image(kernel, _) {
    let Some(smmu) = kernel.board.smmus.iter().find(|smmu| smmu.window.start == 0x0b00_0000) else {
        return Err(Failure::NotHere("modelled SMMU"));
    };
    equal("memory", core::slice::from_ref(&(0x4000_0000..0x7fc0_0000)), &kernel.board.memory)?;
    equal("engines", 4, kernel.board.engines.len())?;
    for (engine, stream) in kernel.board.engines.iter().zip(0x100..) {
        equal("the engine's stream", StreamId(stream), engine.stream)?;
        equal("the engine's SMMU", smmu.phandle, engine.smmu)?;
    }
    Ok(())
});
