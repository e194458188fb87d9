//! PSCI calls of whatever runs at EL1.
//!
//! All go on to QEMU, which implements PSCI, but for two. CPU_ON: a core starts at EL2, so that it must start in this
//! image's code, which goes on to where EL1 wanted it. CPU_SUSPEND with one core: it is a WFI, and the machine goes on.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use smccc::{Call, Smc};

use super::access::Registers;
use super::firmware::{Entry, Shared, idle};
use crate::sync::cpu::MAX_CORES;

const CPU_SUSPEND_32: u32 = 0x8400_0001;
const CPU_SUSPEND_64: u32 = 0xc400_0001;
const CPU_ON_32: u32 = 0x8400_0003;
const CPU_ON_64: u32 = 0xc400_0003;
const AFFINITY_INFO: u32 = 0xc400_0004;

const SYSTEM_OFF: u32 = 0x8400_0008;

const SUCCESS: i64 = 0;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;

/// Where each core enters EL1.
static ENTRIES: [(AtomicU64, AtomicU64); MAX_CORES] = [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_CORES];

/// Serves the SMC that EL1 made.
pub(super) fn serve(shared: &Shared, registers: &mut Registers) {
    let function = registers[0] as u32;
    match function {
        CPU_ON_32 | CPU_ON_64 => {
            let width = if function == CPU_ON_32 { u32::MAX.into() } else { u64::MAX };
            let entry = Entry { address: registers[2] & width, argument: registers[3] & width };
            registers[0] = cpu_on(shared, registers[1] & width, entry) as u64;
        }
        CPU_SUSPEND_32 | CPU_SUSPEND_64 if shared.clock.is_none() => {
            idle(shared);
            registers[0] = SUCCESS as u64;
        }
        _ => {
            let mut arguments = [0; 17];
            arguments.copy_from_slice(&registers[1..18]);
            registers[..18].copy_from_slice(&Smc::call64(function, arguments));
        }
    }
}

/// Starts the core of affinity `mpidr` at EL1. Cores that the tree did not name to EL1 do not exist for it.
fn cpu_on(shared: &Shared, mpidr: u64, entry: Entry) -> i64 {
    let guests = shared.cores.iter().enumerate().filter(|(index, _)| Some(*index) != shared.clock);
    let Some((index, _)) = guests.into_iter().find(|(_, core)| core.mpidr == mpidr) else { return INVALID_PARAMETERS };
    // Its entry must stay until the core has read it: one caller at a time, and only while the core is off.
    let _one_at_a_time = shared.cpu_on.lock();
    match call(AFFINITY_INFO, [mpidr, 0, 0]) {
        0 => return ALREADY_ON,
        1 => {}
        2 => return ON_PENDING,
        error => return error,
    }
    ENTRIES[index].0.store(entry.address, Relaxed);
    ENTRIES[index].1.store(entry.argument, Relaxed);
    start(mpidr, index)
}

/// Starts core `index` in this image, and gives PSCI's answer.
pub(super) fn start(mpidr: u64, index: usize) -> i64 {
    unsafe extern "C" {
        safe fn model_start_secondary();
    }
    call(CPU_ON_64, [mpidr, model_start_secondary as *const () as u64, index as u64])
}

/// Where core `index` enters EL1. CPU_ON orders this after the entry was stored.
pub(super) fn entry(index: usize) -> Entry {
    let (address, argument) = &ENTRIES[index];
    Entry { address: address.load(Relaxed), argument: argument.load(Relaxed) }
}

/// Ends QEMU in the way that is left when semihosting fails.
pub(super) fn power_off() -> ! {
    loop {
        call(SYSTEM_OFF, [0; 3]);
    }
}

fn call(function: u32, arguments: [u64; 3]) -> i64 {
    let mut all = [0; 17];
    all[..3].copy_from_slice(&arguments);
    Smc::call64(function, all)[0] as i64
}
