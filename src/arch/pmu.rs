//! The performance monitors' count of instructions (Arm DDI 0487, D13).

use core::arch::asm;

/// INST_RETIRED, an event and its bit in PMCEID0_EL0.
const INST_RETIRED: u64 = 0x08;

/// A running count of the instructions that this core retires at EL1, not those of EL2 in between.
///
/// Under QEMU the event exists with `-icount` only, and counts the instructions of all cores: with one core it is exact.
#[derive(Debug)]
pub struct Instructions(());

impl Instructions {
    /// Starts the count, or `None` if this core cannot count instructions.
    pub fn start() -> Option<Self> {
        let events: u64;
        // SAFETY: reads which events there are.
        unsafe { asm!("mrs {}, pmceid0_el0", out(reg) events, options(nomem, nostack, preserves_flags)) };
        if events >> INST_RETIRED & 1 == 0 {
            return None;
        }
        // SAFETY: event counter 0 is nobody else's. The filter bits are 0: EL1 counts, EL2 does not. E, P, C and LC of PMCR.
        unsafe {
            asm!(
                "msr pmevtyper0_el0, {event}",
                "msr pmcntenset_el0, {counter}",
                "msr pmcr_el0, {control}",
                "isb",
                event = in(reg) INST_RETIRED,
                counter = in(reg) 1_u64,
                control = in(reg) 0x47_u64,
                options(nomem, nostack, preserves_flags)
            );
        }
        Some(Self(()))
    }

    /// The count, modulo 2^32.
    #[inline(always)]
    pub fn now(&self) -> u32 {
        let count: u64;
        // SAFETY: reads the counter. Not `nomem`: it is to stay where it stands among accesses.
        unsafe { asm!("isb", "mrs {}, pmevcntr0_el0", out(reg) count, options(nostack, preserves_flags)) };
        count as u32
    }
}
