//! The model at EL2: traps, its interrupts, its clock, and what it keeps from EL1.

use alloc::boxed::Box;
use alloc::format;
use core::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed};
use core::time::Duration;

use smccc::Smc;
use smccc::psci::{self, error::Error::*};
use smmu_iopf::arch::timer::Timer;
use smmu_iopf::driver::dma::{DmaMemory, DmaRegion};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::interrupts::ConnectError;
use smmu_iopf::model::engine::registers as engine;
use smmu_iopf::platform::board::{Smmu, Wires};
use smmu_iopf::platform::smmu_registers::SmmuRegisters;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::sync::{Masked, wait};

use crate::harness::{Failure, equal};

const MODEL: u64 = 0x0b00_0000;

/// log2 of the command queue's entries.
const QUEUE_BITS: u32 = 8;

/// CMD_SYNC without a signal (CS=0), and with an interrupt and no MSI (CS=1).
const SYNC: [u64; 2] = [0x46, 0];
const SYNC_INTERRUPT: [u64; 2] = [0x1046, 0];

/// How many CMD_SYNCs interrupted since the queue was enabled.
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

pub(crate) fn model(kernel: &Kernel) -> Result<&Smmu, Failure> {
    let smmu = kernel.board.smmus.iter().find(|smmu| smmu.window.start == MODEL);
    smmu.ok_or(Failure::NotHere("modelled SMMU"))
}

/// The model's command queue.
pub(crate) struct Commands {
    pub(crate) registers: SmmuRegisters,
    queue: DmaRegion,
    sent: u32,
}

impl Commands {
    /// Enables the queue.
    pub(crate) fn new(kernel: &Kernel) -> Result<Self, Failure> {
        let smmu = model(kernel)?;
        let registers =
            SmmuRegisters::new(kernel.board.registers(&smmu.window).ok_or("its registers are not mapped")?)?;
        let enable = |cr0| {
            registers.write32(Register::Cr0, cr0);
            wait::until(&mut Timer, 1_000_000, || match registers.read32(Register::Cr0Ack) {
                ack if ack == cr0 => Ok(()),
                ack => Err(ack),
            })
            .map_err(|expired| format!("CR0ACK is {:#x}", expired.last))
        };
        enable(0)?;
        let queue = kernel.device_memory.allocate(16 << QUEUE_BITS, 16 << QUEUE_BITS)?;
        registers.write32(Register::Cr1, 0xd75); // Queues and tables are write-back, inner shareable (SMMU_CR1).
        registers.write64(Register::CmdqBase, queue.phys.0 | u64::from(QUEUE_BITS));
        registers.write32(Register::CmdqProd, 0);
        registers.write32(Register::CmdqCons, 0);
        enable(1 << 3)?; // CMDQEN
        let interrupt = match smmu.wires {
            Some(Wires::Separate { command_sync, .. }) => command_sync,
            Some(Wires::Combined(interrupt)) => Some(interrupt),
            None => None,
        };
        let interrupt = interrupt.ok_or("it has no interrupt for CMD_SYNC")?;
        let handler = Box::new(|_: &Masked| {
            INTERRUPTS.fetch_add(1, Relaxed);
        });
        match kernel.interrupts.connect(interrupt, handler) {
            // Another test in this boot connected it.
            Ok(()) | Err(ConnectError::Taken(_)) => {}
            Err(error) => return Err(error.into()),
        }
        INTERRUPTS.store(0, Relaxed);
        Ok(Self { registers, queue, sent: 0 })
    }

    /// Puts a command into the queue.
    pub(crate) fn add(&mut self, command: [u64; 2]) {
        let slot = 2 * (self.sent as usize % (1 << QUEUE_BITS));
        self.queue.words[slot].store(command[0], Relaxed);
        self.queue.words[slot + 1].store(command[1], Relaxed);
        self.sent += 1;
    }

    /// Hands what is in the queue to the SMMU.
    pub(crate) fn publish(&self) {
        self.registers.write32(Register::CmdqProd, self.sent());
    }

    /// Behind the last command, as CMDQ_PROD has it.
    pub(crate) fn sent(&self) -> u32 {
        self.sent % (2 << QUEUE_BITS)
    }
}

/// Whether there were `expected` interrupts.
fn interrupted(expected: u32) -> Result<(), u32> {
    match INTERRUPTS.load(Relaxed) {
        count if count == expected => Ok(()),
        count => Err(count),
    }
}

test!(fn each_of_20_000_trapped_writes_gives_one_interrupt(kernel, _) {
    let mut commands = Commands::new(kernel)?;
    for sent in 1..=20_000 {
        commands.add(SYNC_INTERRUPT);
        commands.publish();
        wait::until(&mut Timer, 1_000_000, || interrupted(sent))
            .map_err(|expired| format!("{sent} commands, {} interrupts", expired.last))?;
    }
    equal("CMDQ_CONS", 20_000 % (2 << QUEUE_BITS), commands.registers.read32(Register::CmdqCons))
});

test!(fn messages_reach_memory_and_abort_elsewhere(kernel, _) {
    let mut commands = Commands::new(kernel)?;
    let place = kernel.device_memory.allocate(8, 8)?;
    // CMD_SYNC with an MSI to the upper half (4.7.3), which is polled without a look at any register.
    commands.add([0x1046 | 0x1234_5678 << 32, place.phys.0 + 4]);
    commands.publish();
    wait::until(&mut Timer, 1_000_000, || match place.words[0].load(Acquire) {
        0x1234_5678_0000_0000 => Ok(()),
        word => Err(word),
    })
    .map_err(|expired| format!("the word is {:#x}", expired.last))?;
    equal("CMDQ_CONS", 1, commands.registers.read32(Register::CmdqCons))?;
    // The UART is a device, which the SMMU does not reach: MSI_CMDQ_ABT_ERR.
    let before = commands.registers.read32(Register::Gerror);
    commands.add([0x1046, 0x0900_0000]);
    commands.publish();
    wait::until(&mut Timer, 1_000_000, || interrupted(2)).map_err(|expired| format!("{} interrupts", expired.last))?;
    let after = commands.registers.read32(Register::Gerror);
    commands.registers.write32(Register::Gerrorn, after);
    equal("GERROR", before ^ 1 << 4, after)
});

test!(fn the_machine_goes_on_while_all_cores_sleep(kernel, cpu) {
    let mut commands = Commands::new(kernel)?;
    // More than the machine does at once when it is told of them.
    (1..1 << QUEUE_BITS).for_each(|_| commands.add(SYNC));
    commands.add(SYNC_INTERRUPT);
    commands.publish();
    // No register is read meanwhile.
    kernel
        .wait_until(cpu, Duration::from_secs(5), || interrupted(1))
        .map_err(|expired| format!("{} interrupts", expired.last))?;
    equal("CMDQ_CONS", 1 << QUEUE_BITS, commands.registers.read32(Register::CmdqCons))
});

test!(fn narrow_accesses_reach_no_register(kernel, _) {
    let address = model(kernel)?.window.start as usize;
    let (byte, half): (u64, u64);
    // SAFETY: these are plain loads and stores of the model's IDR0 and CR0, which is mapped as device memory; the model
    // takes them for accesses to no register, and so does nothing.
    unsafe {
        core::arch::asm!(
            "mov {byte}, #-1",
            "mov {half}, #-1",
            "strb wzr, [{base}]",
            "ldrb {byte:w}, [{base}]",
            "ldrsh {half}, [{base}]",
            base = in(reg) address,
            byte = out(reg) byte,
            half = out(reg) half,
        );
    }
    equal("a byte", 0, byte)?;
    equal("a halfword", 0, half)
});

test!(fn the_clocks_core_does_not_exist_for_psci(kernel, _) {
    model(kernel)?;
    // QEMU numbers cores by affinity level 0; the tree's cores are all but the last.
    let hidden = kernel.board.cores.len() as u64;
    equal("CPU_ON of the clock", Err(InvalidParameters), psci::cpu_on::<Smc>(hidden, 0x4020_0000, 0))
});

test!(fn a_running_core_is_not_started_again(kernel, _) {
    model(kernel)?;
    for core in &kernel.board.cores {
        equal("CPU_ON of a core that runs", Err(AlreadyOn), psci::cpu_on::<Smc>(core.0, 0x4020_0000, 0))?;
    }
    Ok(())
});

// Of the control page (docs/control.md): the Nth write of an event record aborts, and how often that happened.
const EVENT_WRITE: usize = 0x100;
const EVENT_WRITES_ABORTED: usize = 0x104;

/// EVENTQ_ABT_ERR of GERROR.
const EVENTQ_ABT_ERR: u32 = 1 << 2;

test!(fn the_control_page_aborts_one_write_of_an_event_record(kernel, _) {
    let mut commands = Commands::new(kernel)?;
    // What the SMMU may hold since reset: CFGI_ALL, TLBI_NSNH_ALL, TLBI_EL2_ALL (3.11).
    [[0x04, 31], [0x30, 0], [0x20, 0], SYNC].into_iter().for_each(|command| commands.add(command));
    commands.publish();
    let registers = &commands.registers;
    wait::until(&mut Timer, 1_000_000, || match registers.read32(Register::CmdqCons) {
        4 => Ok(()),
        cons => Err(cons),
    })
    .map_err(|expired| format!("CMDQ_CONS is {:#x}", expired.last))?;
    let window = kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
    let control = kernel.board.registers(window).ok_or("the control page is not mapped")?;
    let unit = kernel.board.engines.first().ok_or(Failure::NotHere("DMA engine"))?;
    let device = kernel.board.registers(&unit.window).ok_or("the engine is not mapped")?;

    // A stream table without a valid entry: every access is C_BAD_STE (7.3.5).
    let table = kernel.device_memory.allocate(64 << 9, 64 << 9)?;
    let events = kernel.device_memory.allocate(32 << 4, 32 << 4)?;
    let enable = |cr0| {
        registers.write32(Register::Cr0, cr0);
        wait::until(&mut Timer, 1_000_000, || match registers.read32(Register::Cr0Ack) {
            ack if ack == cr0 => Ok(()),
            ack => Err(ack),
        })
        .map_err(|expired| format!("CR0ACK is {:#x}", expired.last))
    };
    enable(0)?;
    registers.write64(Register::StrtabBase, table.phys.0);
    registers.write32(Register::StrtabBaseCfg, 9);
    registers.write64(Register::EventqBase, events.phys.0 | 4);
    registers.write32(Register::EventqProd, 0);
    registers.write32(Register::EventqCons, 0);
    registers.write32(Register::Gerrorn, registers.read32(Register::Gerror));
    let access = || {
        device.write64(engine::DESTINATION, 0x5000);
        device.write64(engine::LENGTH, 8);
        // START, fill.
        device.write32(engine::CONTROL, 0x11);
        wait::until(&mut Timer, 1_000_000, || match device.read32(engine::STATUS) & 0xf {
            3 => Ok(()),
            state => Err(state),
        })
        .map_err(|expired| format!("the engine's state is {}", expired.last))
    };
    enable(1 << 2 | 1)?; // EVENTQEN, SMMUEN
    control.write32(EVENT_WRITE, 2);
    let before = registers.read32(Register::Gerror);
    access()?;
    equal("records after one access", 1, registers.read32(Register::EventqProd))?;
    equal("GERROR", before, registers.read32(Register::Gerror))?;
    access()?;
    equal("records after the aborted write", 1, registers.read32(Register::EventqProd))?;
    equal("GERROR", before ^ EVENTQ_ABT_ERR, registers.read32(Register::Gerror))?;
    equal("EVENT_WRITE", 0, control.read32(EVENT_WRITE))?;
    equal("aborted writes", 1, control.read32(EVENT_WRITES_ABORTED))?;
    registers.write32(Register::Gerrorn, registers.read32(Register::Gerror));
    access()?;
    equal("records after the acknowledgement", 2, registers.read32(Register::EventqProd))?;
    equal("the record", 0x100_0000_0004, events.words[4].load(Acquire))?;
    enable(0)?;
    Ok(())
});

/// SMMU_READ_TRAPS of the control page; those of writes, the page, the engines and all others follow, 4 bytes each.
const TRAPS: usize = 0x400;

test!(fn each_kind_of_trap_is_counted(kernel, _) {
    let smmu = kernel.board.registers(&model(kernel)?.window).ok_or("its registers are not mapped")?;
    let window = kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
    let control = kernel.board.registers(window).ok_or("the control page is not mapped")?;
    let unit = kernel.board.engines.first().ok_or(Failure::NotHere("DMA engine"))?;
    let device = kernel.board.registers(&unit.window).ok_or("the engine is not mapped")?;
    let traps = || [0, 4, 8, 12, 16].map(|offset| control.read32(TRAPS + offset));

    let before = traps();
    for _ in 0..300 {
        smmu.read32(0); // IDR0
    }
    smmu.read64(0x90); // CMDQ_BASE
    smmu.write32(0x60, 0); // GERROR, which is read-only
    smmu.write64(0x68, 0); // GERROR_IRQ_CFG0
    device.read32(0); // ID
    device.write32(0x74, 0); // HOSTILE
    device.read64(0x10); // SOURCE
    control.read32(0); // IDENT
    psci::version::<Smc>()?;
    let after = traps();
    // Of the page: IDENT, the counters behind CONTROL_TRAPS the first time, and up to it the second time.
    let expected = [301, 2, 1 + 2 + 3, 3, 1];
    equal("traps", expected, core::array::from_fn(|kind| after[kind] - before[kind]))
});
