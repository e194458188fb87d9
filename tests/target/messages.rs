//! Interrupts by message: the model writes to the doorbell of the board's ITS, and the core that it is for takes an LPI.

use alloc::boxed::Box;
use alloc::format;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use smmu_iopf::arch::mmio::Mmio;
use smmu_iopf::arch::timer::Timer;
use smmu_iopf::driver::dma::DmaMemory;
use smmu_iopf::driver::registers::Registers as _;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::model::engine::registers as engine;
use smmu_iopf::platform::its::{Its, ItsError};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::sync::{CoreId, MAX_CORES, Masked, wait};

use crate::harness::{Failure, Outcome, equal};
use crate::model::{Commands, model};

/// GITS_TRANSLATER of QEMU's ITS.
const DOORBELL: u64 = 0x0809_0040;

/// The events that the messages name, and the LPIs that they become.
const QUEUE_EVENT: u32 = 3;
const QUEUE_LPI: u32 = 8192;
const SYNC_EVENT: u32 = 5;
const SYNC_LPI: u32 = 8193;

// GERROR: a message aborted (7.5).
const MSI_CMDQ_ABT_ERR: u32 = 1 << 4;
const MSI_EVENTQ_ABT_ERR: u32 = 1 << 5;

/// How often each core took the LPI of the event queue, and that of CMD_SYNC.
static TAKEN: [[AtomicU32; MAX_CORES]; 2] = [const { [const { AtomicU32::new(0) }; MAX_CORES] }; 2];

/// The model with a command queue, an event queue and a stream table in which no entry is valid.
struct Bench {
    commands: Commands,
    engine: Mmio,
}

impl Bench {
    fn new(kernel: &Kernel) -> Result<Self, Failure> {
        let mut commands = Commands::new(kernel)?;
        let unit = kernel.board.engines.first().ok_or(Failure::NotHere("DMA engine"))?;
        let engine = kernel.board.registers(&unit.window).ok_or("the engine is not mapped")?;
        // What the SMMU may hold since reset: CFGI_ALL, TLBI_NSNH_ALL, TLBI_EL2_ALL, SYNC (3.11).
        [[0x04, 31], [0x30, 0], [0x20, 0], [0x46, 0]].into_iter().for_each(|command| commands.add(command));
        commands.publish();
        becomes("CMDQ_CONS", 4, || commands.registers.read32(Register::CmdqCons))?;
        let table = kernel.device_memory.allocate(64 << 9, 64 << 9)?;
        let events = kernel.device_memory.allocate(32 << 4, 32 << 4)?;
        let registers = &commands.registers;
        registers.write64(Register::StrtabBase, table.phys.0);
        registers.write32(Register::StrtabBaseCfg, 9);
        registers.write64(Register::EventqBase, events.phys.0 | 4);
        registers.write32(Register::EventqProd, 0);
        registers.write32(Register::EventqCons, 0);
        Ok(Self { commands, engine })
    }

    /// Where the event queue's message goes, and what it is. Then the SMMU is on.
    fn enable(&self, address: u64, data: u32) -> Outcome {
        let registers = &self.commands.registers;
        registers.write64(Register::EventqIrqCfg0, address);
        registers.write32(Register::EventqIrqCfg1, data);
        registers.write32(Register::EventqIrqCfg2, 0);
        registers.write32(Register::IrqCtrl, 1 << 2); // EVENTQ
        becomes("IRQ_CTRLACK", 1 << 2, || registers.read32(Register::IrqCtrlAck))?;
        let cr0 = 1 << 3 | 1 << 2 | 1; // CMDQEN, EVENTQEN, SMMUEN
        registers.write32(Register::Cr0, cr0);
        becomes("CR0ACK", cr0, || registers.read32(Register::Cr0Ack))
    }

    /// An access by an engine whose STE is not valid: it is aborted, and the event queue gets a record (7.3.5).
    fn record(&self) -> Outcome {
        self.engine.write64(engine::DESTINATION, 0x5000);
        self.engine.write64(engine::LENGTH, 8);
        self.engine.write32(engine::CONTROL, 0x11); // START, fill
        becomes("the engine's state", 3, || self.engine.read32(engine::STATUS) & 0xf)
    }

    /// The event queue is emptied, so that the next record makes it non-empty again.
    fn empty(&self) {
        let registers = &self.commands.registers;
        registers.write32(Register::EventqCons, registers.read32(Register::EventqProd));
    }

    /// How many records wait in the event queue.
    fn waiting(&self) -> u32 {
        let registers = &self.commands.registers;
        registers.read32(Register::EventqProd).wrapping_sub(registers.read32(Register::EventqCons)) & 0x1f
    }

    /// Interrupts are off: their messages may be changed (3.18.1).
    fn disable(&self) -> Outcome {
        let registers = &self.commands.registers;
        registers.write32(Register::IrqCtrl, 0);
        becomes("IRQ_CTRLACK", 0, || registers.read32(Register::IrqCtrlAck))
    }

    /// A CMD_SYNC whose signal is a message (4.7.3).
    fn sync(&mut self, address: u64, data: u32) {
        self.commands.add([0x1046 | u64::from(data) << 32, address]);
        self.commands.publish();
    }
}

/// Waits until `value` is `expected`.
fn becomes(what: &str, expected: u32, value: impl Fn() -> u32) -> Outcome {
    wait::until(&mut Timer, 1_000_000, || match value() {
        value if value == expected => Ok(()),
        value => Err(value),
    })
    .map_err(|expired| format!("{what}: expected {expected:#x}, actual {:#x}", expired.last).into())
}

fn taken(which: usize) -> [u32; MAX_CORES] {
    core::array::from_fn(|core| TAKEN[which][core].load(Relaxed))
}

test!(fn messages_to_the_doorbell_are_lpis_on_the_cores_they_are_mapped_to(kernel, _) {
    let Some(messages) = model(kernel)?.messages else { return Err(Failure::NotHere("ITS")) };
    for (which, intid) in [(0, QUEUE_LPI), (1, SYNC_LPI)] {
        let handler = Box::new(move |masked: &Masked| {
            TAKEN[which][masked.core().index()].fetch_add(1, Relaxed);
        });
        kernel.interrupts.connect_private(intid, handler)?;
    }
    let memory = &*kernel.device_memory;
    let mut its = Its::bring_up(&kernel.board, memory)?;
    equal("the doorbell", DOORBELL, its.doorbell().0)?;
    // QEMU's ITS has 16 bits of DeviceIDs.
    equal("a DeviceID beyond", Err(ItsError::NoDevice(0x1_0000)), its.add_device(memory, 0x1_0000))?;
    its.add_device(memory, messages.device)?;
    let beyond = its.connect(messages.device, 16, CoreId::FIRST);
    equal("an event beyond", Err(ItsError::NoEvent(16)), beyond)?;
    let last = CoreId::new(kernel.cores() - 1).ok_or("no last core")?;
    equal("the event queue's LPI", QUEUE_LPI, its.connect(messages.device, QUEUE_EVENT, last)?)?;
    equal("CMD_SYNC's LPI", SYNC_LPI, its.connect(messages.device, SYNC_EVENT, CoreId::FIRST)?)?;

    let mut bench = Bench::new(kernel)?;
    bench.enable(DOORBELL, QUEUE_EVENT)?;
    let gerror = bench.commands.registers.read32(Register::Gerror);
    for round in 1..=1000 {
        bench.record()?;
        becomes("LPIs of the event queue", round, || TAKEN[0][last.index()].load(Relaxed))?;
        bench.empty();
        bench.sync(DOORBELL, SYNC_EVENT);
        becomes("LPIs of CMD_SYNC", round, || TAKEN[1][CoreId::FIRST.index()].load(Relaxed))?;
    }
    // Nowhere else.
    let on = |core: CoreId| core::array::from_fn(|index| if index == core.index() { 1000 } else { 0 });
    equal("LPIs of the event queue by core", on(last), taken(0))?;
    equal("LPIs of CMD_SYNC by core", on(CoreId::FIRST), taken(1))?;
    equal("GERROR", gerror, bench.commands.registers.read32(Register::Gerror))?;
    // An event that is not mapped: it is nothing, and no error of the SMMU's.
    bench.sync(DOORBELL, 7);
    bench.sync(DOORBELL, SYNC_EVENT);
    becomes("LPIs of CMD_SYNC", 1001, || TAKEN[1][CoreId::FIRST.index()].load(Relaxed))?;
    equal("GERROR", gerror, bench.commands.registers.read32(Register::Gerror))
});

test!(fn messages_that_reach_no_doorbell_abort(kernel, _) {
    let mut bench = Bench::new(kernel)?;
    // The ITS's own registers, and beside GITS_TRANSLATER; itself where the machine has no ITS.
    let without_its = kernel.board.gic.its.is_none().then_some(DOORBELL);
    for address in [0x0808_0000, DOORBELL + 4].into_iter().chain(without_its) {
        bench.enable(address, QUEUE_EVENT)?;
        let before = bench.commands.registers.read32(Register::Gerror);
        bench.record()?;
        let gerror = || bench.commands.registers.read32(Register::Gerror);
        equal(&format!("GERROR, event queue to {address:#x}"), before ^ MSI_EVENTQ_ABT_ERR, gerror())?;
        bench.sync(address, SYNC_EVENT);
        let gerror = || bench.commands.registers.read32(Register::Gerror);
        let both = before ^ MSI_EVENTQ_ABT_ERR ^ MSI_CMDQ_ABT_ERR;
        becomes(&format!("GERROR, CMD_SYNC to {address:#x}"), both, gerror)?;
        // The record and the command count all the same.
        becomes("CMDQ_CONS", bench.commands.sent(), || bench.commands.registers.read32(Register::CmdqCons))?;
        equal("records in the event queue", 1, bench.waiting())?;
        bench.empty();
        bench.commands.registers.write32(Register::Gerrorn, both);
        bench.disable()?;
    }
    Ok(())
});
