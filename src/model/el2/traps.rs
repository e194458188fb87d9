//! What EL1 does that comes here.

use core::fmt;

use aarch64_cpu::registers::{ELR_EL2, ESR_EL2, FAR_EL2, HPFAR_EL2, Readable, SPSR_EL2, Writeable};

use super::access::{Access, Registers};
use super::console::{die, say};
use super::cpu::affinity;
use super::firmware::{Shared, end_once, idle, shared};
use super::psci;
use crate::model::board;
use crate::model::machine::Width;

/// SMCCC's answer to a call that nobody implements.
const NOT_SUPPORTED: u64 = -1i64 as u64;

/// A synchronous exception from EL1, with EL1's registers.
pub extern "C" fn trap(registers: &mut Registers) {
    let shared = shared();
    let syndrome = ESR_EL2.extract();
    let iss = syndrome.read(ESR_EL2::ISS);
    let class = syndrome.read_as_enum(ESR_EL2::EC);
    if class != Some(ESR_EL2::EC::Value::DataAbortLowerEL) {
        shared.count_other_trap();
    }
    match class {
        Some(ESR_EL2::EC::Value::DataAbortLowerEL) => emulate(shared, iss, registers),
        Some(ESR_EL2::EC::Value::SMC64) => psci::serve(shared, registers),
        // WFI is trapped with one core only. It may return at any time.
        Some(ESR_EL2::EC::Value::TrappedWFIorWFE) => idle(shared),
        Some(ESR_EL2::EC::Value::HVC64) => {
            registers[0] = NOT_SUPPORTED;
            return; // ELR is behind an HVC already
        }
        _ => give_up("can't handle this exception", registers),
    }
    ELR_EL2.set(ELR_EL2.get().wrapping_add(4));
}

/// Does an access to the model's registers.
fn emulate(shared: &Shared, iss: u64, registers: &mut Registers) {
    let address = address();
    if !board::WINDOW.contains(&address) {
        give_up("nothing is at this address", registers);
    }
    let Some(access) = Access::decode(iss) else {
        give_up("an access to a register must be a plain load or store (ISV is 0)", registers)
    };
    let width = match access.bytes {
        4 => Some(Width::Word),
        8 => Some(Width::Double),
        _ => None,
    };
    if access.write {
        shared.write(address, width, access.stored(registers));
    } else {
        access.load(registers, shared.read(address, width));
    }
}

/// The physical address that aborted.
fn address() -> u64 {
    HPFAR_EL2.read(HPFAR_EL2::FIPA) << 12 | FAR_EL2.get() & 0xfff
}

/// Reports what EL1 did and ends QEMU.
fn give_up(why: &str, registers: &Registers) -> ! {
    end_once();
    say!("{why}");
    say!(
        "core {:#x}, physical address {:#x}, ESR_EL2 {:#x}, ELR {:#x}, FAR {:#x}, SPSR {:#x}",
        affinity(),
        address(),
        ESR_EL2.get(),
        ELR_EL2.get(),
        FAR_EL2.get(),
        SPSR_EL2.get(),
    );
    for (row, values) in registers.chunks(4).enumerate() {
        say!("x{:<2} {}", 4 * row, Row(values));
    }
    die()
}

/// Registers in hexadecimal, beside each other.
struct Row<'a>(&'a [u64]);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|value| write!(f, " {value:016x}"))
    }
}
