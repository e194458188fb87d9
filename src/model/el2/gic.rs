//! The GICv3: the machine's interrupts for EL1, and the wake-up of the machine's clock.

use aarch64_cpu::asm::{self, barrier};
use aarch64_cpu::registers::{CNTVCT_EL0, Readable};

use crate::model::board;
use crate::model::wire::{Wire, Wires};

/// The SGI that wakes the clock. EL1 may send it too, to all cores; the clock then wakes in vain.
const WAKE: u32 = 15;
/// Interrupt numbers from here on are no interrupts (1023: nothing is pending).
const SPECIAL: u64 = 1020;

const GICD_CTLR: u64 = 0x0;
const GICD_TYPER: u64 = 0x4;
const GICD_ISPENDR: u64 = 0x200;
const ENABLE_GROUP1: u32 = 1 << 1;

const GICR_TYPER: u64 = 0x8;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_TYPER_VLPIS: u64 = 1 << 1;
const GICR_WAKER: u64 = 0x14;
const PROCESSOR_SLEEP: u32 = 1 << 1;
const CHILDREN_ASLEEP: u32 = 1 << 2;
const GICR_FRAME: u64 = 0x1_0000;
const GICR_IGROUPR0: u64 = GICR_FRAME + 0x80;
const GICR_ISENABLER0: u64 = GICR_FRAME + 0x100;

/// How often a redistributor that wakes is looked at.
const PATIENCE: u32 = 1_000_000;

/// Why the GIC is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GicError {
    #[error("the GIC lacks SPI {needed} (GICD_TYPER.ITLinesNumber is {lines})")]
    Interrupts { needed: u32, lines: u32 },
    #[error("no redistributor is core {0:#x}'s")]
    Redistributor(u64),
    #[error("the redistributor of core {0:#x} does not wake")]
    Asleep(u64),
}

/// A distributor, which is EL1's but for the machine's SPIs becoming pending.
#[derive(Debug)]
pub(super) struct Distributor {
    base: u64,
    /// The SMMU's interrupts all come by the wire of the event queue.
    one_wire: bool,
}

impl Distributor {
    /// The distributor at `base`, if it has all the interrupts that the board uses.
    ///
    /// # Safety
    ///
    /// A GICv3's distributor is at `base`, mapped as device memory.
    pub(super) unsafe fn new(base: u64, one_wire: bool) -> Result<Self, GicError> {
        let needed = board::LAST_SPI;
        // SAFETY: by the caller; reading GICD_TYPER has no effect.
        let lines = unsafe { read(base + GICD_TYPER) } & 0x1f;
        if 32 * lines <= needed { Err(GicError::Interrupts { needed, lines }) } else { Ok(Self { base, one_wire }) }
    }

    /// Whether EL1 lets interrupts of group 1 pass, and so the one that wakes the clock.
    pub(super) fn is_enabled(&self) -> bool {
        // SAFETY: by `new`; reading GICD_CTLR has no effect.
        unsafe { read(self.base + GICD_CTLR) & ENABLE_GROUP1 != 0 }
    }
}

impl Wires for &Distributor {
    fn raise(&mut self, wire: Wire) {
        let wire = match wire {
            Wire::PriQueue | Wire::CommandSync | Wire::GlobalError if self.one_wire => Wire::EventQueue,
            wire => wire,
        };
        let interrupt = 32 + board::spi(wire);
        let register = GICD_ISPENDR + 4 * u64::from(interrupt / 32);
        // SAFETY: by `new`. Bits written as zero have no effect, so that this needs no lock against EL1.
        unsafe { write(self.base + register, 1 << (interrupt % 32)) };
    }

    // A look at it takes QEMU's global lock, so the machine looks once for each record and each answer.
    fn counter(&self) -> Option<u64> {
        Some(CNTVCT_EL0.get())
    }

    fn send_event(&mut self) {
        // What the machine wrote is there before the event.
        barrier::dsb(barrier::ISHST);
        asm::sev();
    }
}

/// Makes this core, of affinity `mpidr`, take the interrupt that wakes the clock as a reason to leave WFI. The
/// redistributors start at `base`.
///
/// # Safety
///
/// A GICv3's redistributors are at `base`, mapped as device memory, and EL1 does not know of this core.
pub(super) unsafe fn listen(base: u64, mpidr: u64) -> Result<(), GicError> {
    let affinity = mpidr >> 8 & 0xff00_0000 | mpidr & 0xff_ffff;
    let mut frame = base;
    // SAFETY: by the caller; the last redistributor says that it is the last. Reading GICR_TYPER has no effect, and the
    // other registers are those of this core's redistributor.
    unsafe {
        loop {
            let kind = u64::from(read(frame + GICR_TYPER)) | u64::from(read(frame + GICR_TYPER + 4)) << 32;
            if kind >> 32 == affinity {
                break;
            }
            if kind & GICR_TYPER_LAST != 0 {
                return Err(GicError::Redistributor(mpidr));
            }
            frame += if kind & GICR_TYPER_VLPIS != 0 { 4 * GICR_FRAME } else { 2 * GICR_FRAME };
        }
        write(frame + GICR_WAKER, read(frame + GICR_WAKER) & !PROCESSOR_SLEEP);
        if !(0..PATIENCE).any(|_| read(frame + GICR_WAKER) & CHILDREN_ASLEEP == 0) {
            return Err(GicError::Asleep(mpidr));
        }
        write(frame + GICR_IGROUPR0, 1 << WAKE);
        write(frame + GICR_ISENABLER0, 1 << WAKE);
        core::arch::asm!(
            "msr S3_4_C12_C9_5, {enable}", // ICC_SRE_EL2
            "isb",
            "msr S3_0_C4_C6_0, {all}", // ICC_PMR_EL1
            "msr S3_0_C12_C12_7, {group1}", // ICC_IGRPEN1_EL1
            "isb",
            enable = in(reg) 0xf_u64,
            all = in(reg) 0xff_u64,
            group1 = in(reg) 1_u64,
            options(nostack),
        );
    }
    Ok(())
}

/// Sends the interrupt that wakes the clock to the core of affinity `mpidr`.
pub(super) fn wake(mpidr: u64) {
    let (aff0, aff1, aff2, aff3) = (mpidr & 0xff, mpidr >> 8 & 0xff, mpidr >> 16 & 0xff, mpidr >> 32 & 0xff);
    let target = aff3 << 48 | aff2 << 32 | aff1 << 16 | (aff0 / 16) << 44 | 1 << (aff0 % 16);
    barrier::dsb(barrier::ISHST);
    // SAFETY: this sends an SGI to a core that only this firmware uses.
    unsafe {
        core::arch::asm!("msr S3_0_C12_C11_5, {}", "isb", in(reg) target | u64::from(WAKE) << 24, options(nostack));
    }
}

/// Takes and ends all pending interrupts of this core.
///
/// # Safety
///
/// [`listen`] was called on this core.
pub(super) unsafe fn acknowledge() {
    loop {
        let interrupt: u64;
        // SAFETY: by the caller the CPU interface is this firmware's: ICC_IAR1_EL1 and ICC_EOIR1_EL1.
        unsafe {
            core::arch::asm!("mrs {}, S3_0_C12_C12_0", "dsb sy", out(reg) interrupt, options(nostack));
            if interrupt >= SPECIAL {
                return;
            }
            core::arch::asm!("msr S3_0_C12_C12_1, {}", "isb", in(reg) interrupt, options(nostack));
        }
    }
}

/// # Safety
///
/// `address` is that of a register in mapped device memory.
unsafe fn read(address: u64) -> u32 {
    // SAFETY: by the caller.
    unsafe { (address as *const u32).read_volatile() }
}

/// # Safety
///
/// `address` is that of a register in mapped device memory, and writing `value` to it does no harm.
pub(super) unsafe fn write(address: u64, value: u32) {
    // SAFETY: by the caller.
    unsafe { (address as *mut u32).write_volatile(value) };
}
