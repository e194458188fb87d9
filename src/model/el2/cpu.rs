//! EL2's system registers on one core.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::*;

/// What the model needs of a core and the core lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lack {
    #[error("atomics (FEAT_LSE): QEMU needs -cpu max or another one of Armv8.1 and later")]
    Atomics,
    #[error("40 physical address bits (PARange is {0})")]
    PhysicalAddresses(u64),
    #[error("translation with 4 KiB pages (TGran4 is {0:#x})")]
    Granule(u64),
    #[error("GICv3 system registers: QEMU needs -M gic-version=3")]
    Gic,
}

/// Reads a system register by name or encoding.
macro_rules! mrs {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reading the system registers that this module names has no side effect, and its callers checked that
        // they exist.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Writes a system register by name or encoding.
macro_rules! msr {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the registers that this module writes decide what EL1 may do. None changes how EL2 itself runs.
        unsafe { core::arch::asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nomem, nostack)) };
    }};
}

/// Checks that this core has what the firmware relies on.
pub(super) fn check() -> Result<(), Lack> {
    let atomics = ID_AA64ISAR0_EL1.get() >> 20 & 0xf;
    if atomics < 2 {
        return Err(Lack::Atomics);
    }
    let range = ID_AA64MMFR0_EL1.get() & 0xf;
    if range < 2 {
        return Err(Lack::PhysicalAddresses(range));
    }
    // 0 and 1 support the granule, 15 does not; the field for stage 2 (43:40) repeats it where it is 0.
    let granule = ID_AA64MMFR0_EL1.get() >> 28 & 0xf;
    if granule > 1 || ID_AA64MMFR0_EL1.get() >> 40 & 0xf == 1 {
        return Err(Lack::Granule(granule));
    }
    match ID_AA64PFR0_EL1.get() >> 24 & 0xf {
        0 => Err(Lack::Gic),
        _ => Ok(()),
    }
}

/// Prepares this core for EL1: translation through the stage 2 tables at `tables`, and as few traps as there can be.
///
/// EL1 starts with its MMU off, interrupts masked and everything that the core has: what EL2 has to allow for a feature
/// is allowed where the feature exists. Interrupts go to EL1. `alone` tells that no other core drives the machine.
pub(super) fn prepare(tables: u64, alone: bool) {
    let (features0, features1) = (ID_AA64PFR0_EL1.get(), mrs!("id_aa64pfr1_el1"));
    let memory1 = mrs!("id_aa64mmfr1_el1");
    let debug0 = ID_AA64DFR0_EL1.get();
    let field = |register: u64, at: u32| register >> at & 0xf;

    let mut hcr = HCR_EL2::RW::EL1IsAarch64 + HCR_EL2::VM::Enable + HCR_EL2::TSC.val(1);
    // Pointer authentication (where there is none, the bits are reserved and ignored).
    hcr += HCR_EL2::API.val(1) + HCR_EL2::APK.val(1);
    if field(features1, 8) >= 2 {
        hcr += HCR_EL2::ATA.val(1); // memory tagging
    }
    if alone {
        hcr += HCR_EL2::TWI.val(1);
    }
    HCR_EL2.write(hcr);

    VTTBR_EL2.set(tables);
    VTCR_EL2.write(
        VTCR_EL2::T0SZ.val(24)
            + VTCR_EL2::SL0.val(1)
            + VTCR_EL2::IRGN0::NormalWBRAWA
            + VTCR_EL2::ORGN0::NormalWBRAWA
            + VTCR_EL2::SH0::Inner
            + VTCR_EL2::TG0::Granule4KB
            + VTCR_EL2::PS::PA_40B_1TB
            + VTCR_EL2::RES1.val(1),
    );

    msr!("hstr_el2", 0);
    msr!("vpidr_el2", mrs!("midr_el1"));
    msr!("vmpidr_el2", mrs!("mpidr_el1"));
    CNTHCTL_EL2.write(CNTHCTL_EL2::EL1PCEN.val(1) + CNTHCTL_EL2::EL1PCTEN.val(1));
    CNTVOFF_EL2.set(0);
    // The PMU's counters all belong to EL1.
    let counters = if matches!(field(debug0, 8), 0 | 15) { 0 } else { mrs!("pmcr_el0") >> 11 & 0x1f };
    msr!("mdcr_el2", counters);

    // RES1 bits only: no trap of floating point (TFP), SVE (TZ) or SME (TSM), whose lengths stay open.
    msr!("cptr_el2", 0x22ff);
    barrier::isb(barrier::SY);
    if field(features0, 32) != 0 {
        msr!("S3_4_C1_C2_0", 0x1ff); // ZCR_EL2.LEN
    }
    if field(features1, 24) != 0 {
        msr!("S3_4_C1_C2_6", 0xc000_01ff); // SMCR_EL2.{FA64, EZT0, LEN}
    }
    if field(memory1, 40) != 0 {
        // HCRX_EL2.{EnAS0, MSCEn, TCR2En, SCTLR2En, GCSEn, EnFPM}
        msr!("S3_4_C1_C2_2", 1 | 1 << 11 | 1 << 14 | 1 << 15 | 1 << 22 | 1 << 23);
    }
    allow_fine_grained(ID_AA64MMFR0_EL1.get() >> 56 & 0xf);

    msr!("S3_4_C12_C9_5", 0xf); // ICC_SRE_EL2.{Enable, DIB, DFB, SRE}
    barrier::isb(barrier::SY);
    msr!("S3_4_C12_C11_0", 0); // ICH_HCR_EL2

    SCTLR_EL1.set(0x30d0_0800); // RES1 bits only: MMU and caches off, little endian
    SPSR_EL2.write(
        SPSR_EL2::M::EL1h + SPSR_EL2::D::Masked + SPSR_EL2::A::Masked + SPSR_EL2::I::Masked + SPSR_EL2::F::Masked,
    );

    barrier::isb(barrier::SY);
    // SAFETY: EL1 does not run yet, and no translation of EL2's own changes.
    unsafe { core::arch::asm!("tlbi alle1", "dsb nsh", "isb", options(nostack)) };
}

/// Turns all fine-grained traps off: FEAT_FGT of `level` 1, and FEAT_FGT2 where it is 2.
///
/// Most bits trap at 1; those whose names start with "n" trap at 0, and `-cpu max` resets them to that.
fn allow_fine_grained(level: u64) {
    if level >= 1 {
        msr!("S3_4_C1_C1_4", 0xfffc << 48); // HFGRTR_EL2: bits 63:50
        msr!("S3_4_C1_C1_5", 0xfffc << 48); // HFGWTR_EL2: bits 63:50
        msr!("S3_4_C1_C1_6", 0x1f << 55); // HFGITR_EL2: nBRBINJ, nBRBIALL, nGCSPUSHM_EL1, nGCSSTR_EL1, nGCSEPP
        msr!("S3_4_C3_C1_4", 3 << 59 | 1 << 61 | 1 << 62); // HDFGRTR_EL2: nBRBCTL, nBRBDATA, nBRBIDR, nPMSNEVFR
        msr!("S3_4_C3_C1_5", 1 << 60 | 1 << 61 | 1 << 62); // HDFGWTR_EL2: nBRBCTL, nBRBDATA, nPMSNEVFR
    }
    if level >= 2 {
        // In the registers of FEAT_FGT2 every bit is such a one.
        msr!("S3_4_C3_C1_2", 0xffff); // HFGRTR2_EL2
        msr!("S3_4_C3_C1_3", 0xffff); // HFGWTR2_EL2
        msr!("S3_4_C3_C1_7", 0x3); // HFGITR2_EL2
        msr!("S3_4_C3_C1_0", 0xff_ffff); // HDFGRTR2_EL2
        msr!("S3_4_C3_C1_1", 0xff_ffff); // HDFGWTR2_EL2
    }
}

/// The affinity fields of this core's MPIDR_EL1.
pub(super) fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// Whether an interrupt for EL1 is pending at this core, masked or not.
pub(super) fn is_interrupt_pending() -> bool {
    mrs!("isr_el1") != 0
}
