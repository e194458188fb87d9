//! Device registers: the SMMUs', by trap and by QEMU, and edu's.

use alloc::format;
use alloc::string::ToString;
use core::sync::atomic::Ordering::Relaxed;

use smmu_iopf::arch::mmio::Mmio;
use smmu_iopf::arch::timer::Timer;
use smmu_iopf::driver::dma::DmaMemory;
use smmu_iopf::driver::registers::Registers as _;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::platform::edu::{self, Edu};
use smmu_iopf::platform::pci::{Ecam, RootBus};
use smmu_iopf::platform::smmu_registers::SmmuRegisters;
use smmu_iopf::smmuv3::registers::Register;

use crate::harness::{Failure, equal, holds};

const MODEL: u64 = 0x0b00_0000;
const QEMU: u64 = 0x0905_0000;

/// The registers of the SMMU at `base`.
fn smmu(kernel: &Kernel, base: u64) -> Result<Mmio, Failure> {
    let smmu = kernel.board.smmus.iter().find(|smmu| smmu.window.start == base);
    let smmu = smmu.ok_or(Failure::NotHere(if base == MODEL { "modelled SMMU" } else { "SMMU of QEMU's" }))?;
    Ok(kernel.board.registers(&smmu.window).ok_or("its registers are not mapped")?)
}

test!(fn the_model_identifies_itself_through_the_trap(kernel, _) {
    let registers = SmmuRegisters::new(smmu(kernel, MODEL)?)?;
    // S2P, S1P, TTF AArch64, COHACC, HTTU 2, HYP, ATS, ASID16, MSI, SEV, PRI, VMID16, CD2L, TTENDIAN little, two-level stream
    // table; stall model 0b00: the profile "full".
    equal("IDR0", 0x084d_769b, registers.read32(Register::Idr0))
});

test!(fn every_trapped_read_gets_its_value(kernel, _) {
    let registers = SmmuRegisters::new(smmu(kernel, MODEL)?)?;
    let values = [Register::Idr0, Register::Idr1, Register::Idr5].map(|register| (register, registers.read32(register)));
    for _ in 0..2_000 {
        for (register, value) in values {
            equal(register.name(), value, registers.read32(register))?;
        }
    }
    Ok(())
});

test!(fn trapped_writes_of_both_widths_arrive(kernel, _) {
    let registers = smmu(kernel, MODEL)?;
    let (base, size) = (Register::CmdqBase.offset(), 10);
    registers.write64(base, 0x4000_0000 | size);
    equal("CMDQ_BASE", 0x4000_0000 | size, registers.read64(base))?;
    registers.write32(base, 0x4000_0040 | size as u32);
    equal("its lower half", 0x4000_0040 | size as u32, registers.read32(base))
});

test!(fn qemus_smmu_identifies_itself(kernel, _) {
    let registers = SmmuRegisters::new(smmu(kernel, QEMU)?)?;
    let idr0 = registers.read32(Register::Idr0);
    // 7.2 has stage 1 only, 10.0 has both.
    holds(&format!("IDR0 {idr0:#x}"), [0x0d40_101a, 0x0d44_101b].contains(&idr0))?;
    equal("IDR1", 0x0273_0010, registers.read32(Register::Idr1))
});

test!(fn edu_copies_a_page_while_its_smmu_is_off(kernel, _) {
    let pcie = kernel.board.pcie.as_ref().ok_or(Failure::NotHere("PCIe"))?;
    let window = kernel.board.registers(&pcie.ecam).ok_or("configuration space is not mapped")?;
    let mut bus = RootBus::bring_up(Ecam { window, first_bus: pcie.first_bus }, pcie)?;
    let function = bus.find(edu::VENDOR, edu::DEVICE).ok_or(Failure::NotHere("edu device"))?.clone();
    let bar = function.bars[0].as_ref().ok_or("edu has no BAR 0")?;
    let mut device = Edu::new(kernel.board.registers(bar).ok_or("BAR 0 is not mapped")?)?;

    let [from, to] = [(); 2].map(|()| kernel.device_memory.allocate(4096, 4096));
    let (from, to) = (from?, to?);
    for (word, value) in from.words.iter().zip(1_u64..) {
        word.store(value.wrapping_mul(0x0123_4567_89ab_cdef), Relaxed);
    }
    bus.allow_dma(function.address, true);
    device.copy(&mut Timer, from.phys.0, to.phys.0, 4096)?;
    bus.allow_dma(function.address, false);
    for (index, (sent, received)) in from.words.iter().zip(to.words).enumerate() {
        equal(&index.to_string(), sent.load(Relaxed), received.load(Relaxed))?;
    }
    Ok(())
});
