//! Records lost by the SMMU, and the kernel that goes on all the same.

use alloc::format;
use alloc::sync::Arc;
use core::time::Duration;

use smmu_iopf::driver::registers::Registers as _;
use smmu_iopf::driver::{Context, FaultMode, Options, StreamConfig};
use smmu_iopf::iopf::{Priority, StreamLimits};
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::devices::{Devices, EngineUnit, Unit};
use smmu_iopf::kernel::engine::{Job, Operation, Status};
use smmu_iopf::platform::smmu_registers::SmmuRegisters;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Region};
use smmu_iopf::sva::frames::{FRAME_BYTES, FramePool};
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sva::{MAIR, Permissions, T0SZ};
use smmu_iopf::sync::Cpu;

use crate::harness::{Failure, Outcome, equal, holds};

/// Where the jobs work.
const START: u64 = 1 << 30;
const BYTES: u64 = 4 * FRAME_BYTES as u64;

/// How long a job may take, the kernel's recovery included.
const LIMIT: Duration = Duration::from_secs(5);

// Of the control page (docs/control.md): the Nth write of a record to the event queue and to the PRI queue aborts.
const EVENT_WRITE: usize = 0x100;
const PAGE_REQUEST_WRITE: usize = 0x108;
// The Nth message of the sources whose bits are set aborts; the second register counts those that did.
const SOURCES: usize = 0x18;
const EVENT_QUEUE: u32 = 1 << 0;
const MESSAGE: usize = 0x140;
const MESSAGES_ABORTED: usize = 0x144;
// The update of IRQ_CTRL that comes after as many as PASSED says is not acknowledged until 0 is written.
const PASSED: usize = 0x34;
const IRQ_CTRL_LATE: usize = 0x188;
const FOR_EVER: u32 = 0xffff_ffff;

/// Attaches the engine's stream to a space of its own, of `pages` pages that come with its faults, and has these served.
fn serve(
    kernel: &'static Kernel,
    cpu: &mut Cpu,
    front: &Unit,
    unit: &EngineUnit,
    frames: &Arc<FramePool>,
    pages: u64,
) -> Outcome {
    let (smmu, stream, stalls) = (&front.smmu, unit.engine.stream(), unit.description.can_stall);
    let (permissions, bytes) = (Permissions::READ_WRITE, pages * FRAME_BYTES as u64);
    let region = Region { start: START, bytes, permissions, backing: Backing::Anonymous };
    let space = Arc::new(AddressSpace::new(smmu.take_asid(cpu)?, &[region], frames.clone())?);
    let context = Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR };
    let faults = if stalls { FaultMode::Stall } else { FaultMode::PageRequest };
    smmu.attach(cpu, stream, &StreamConfig { faults, translation: context.into() })?;
    let pager = Arc::new(DemandPager::new([(None, space)].into(), kernel.work_queues.clone()));
    let limits = StreamLimits { groups: 64, requests: 32, time_out_us: 1_000_000, priority: Priority::Normal };
    Ok(smmu.enable_faults(cpu, &[stream], Some(&unit.engine), pager, limits)?)
}

/// Fills the pages of a job from `start` on: how it ended.
fn run(kernel: &Kernel, cpu: &mut Cpu, unit: &EngineUnit, start: u64) -> Result<Status, Failure> {
    unit.engine.start(&Job { pattern: 7, ..Job::new(Operation::Fill, 0, start, BYTES) });
    let ended = || match unit.engine.status() {
        Status::Busy => Err(()),
        status => Ok(status),
    };
    let waits = |_| Failure::Wrong(format!("{:?} waits for ever", unit.engine.stream()));
    kernel.wait_until(cpu, LIMIT, ended).map_err(waits)
}

test!(fn an_engine_whose_records_were_lost_is_served_again(kernel, cpu) {
    let window = kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
    let control = kernel.board.registers(window).ok_or("the control page is not mapped")?;
    let devices = Devices::bring_up(kernel, cpu, &Options::default())?;
    let frames = Arc::new(FramePool::new(&*kernel.device_memory, 64, devices.coherence())?);
    for (stalls, point) in [(true, EVENT_WRITE), (false, PAGE_REQUEST_WRITE)] {
        let unit = devices.engines.iter().find(|unit| unit.description.can_stall == stalls);
        let unit = unit.ok_or(Failure::NotHere("engines of both kinds"))?;
        let front = devices.smmu_of(unit).ok_or(Failure::NotHere("SMMU in front of the engine"))?;
        let (smmu, stream) = (&front.smmu, unit.engine.stream());
        serve(kernel, cpu, front, unit, &frames, BYTES / FRAME_BYTES as u64)?;
        let errors = front.events.global_errors();
        control.write32(point, 1);
        holds("the first job is lost", matches!(run(kernel, cpu, unit, START)?, Status::Aborted(_) | Status::Stopped))?;
        // An automatic answer ends the job before the kernel has recovered.
        let _ = kernel.wait_until(cpu, Duration::from_millis(100), || Err::<(), _>(()));
        equal("the next job", Status::Done, run(kernel, cpu, unit, START)?)?;
        holds("a global error was told", front.events.global_errors() > errors)?;
        smmu.disable_faults(cpu, stream, &unit.engine)?;
        smmu.detach(cpu, stream)?;
    }
    Ok(())
});

test!(fn an_smmu_whose_messages_are_aborted_is_heard_by_its_wires(kernel, cpu) {
    let window = kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
    let control = kernel.board.registers(window).ok_or("the control page is not mapped")?;
    let devices = Devices::bring_up(kernel, cpu, &Options::default())?;
    let unit = devices.engines.iter().find(|unit| unit.description.can_stall);
    let unit = unit.ok_or(Failure::NotHere("an engine that stalls"))?;
    let front = devices.smmu_of(unit).ok_or(Failure::NotHere("SMMU in front of the engine"))?;
    if !front.is_by_message() {
        return Err(Failure::NotHere("an SMMU with messages, and an ITS"));
    }
    let frames = Arc::new(FramePool::new(&*kernel.device_memory, 64, devices.coherence())?);
    serve(kernel, cpu, front, unit, &frames, 8 * BYTES / FRAME_BYTES as u64)?;
    control.write32(SOURCES, EVENT_QUEUE);
    for job in 0..3 {
        control.write32(MESSAGE, 1);
        equal("a job", Status::Done, run(kernel, cpu, unit, START + job * BYTES)?)?;
    }
    kernel
        .wait_until(cpu, LIMIT, || if front.is_by_message() { Err(()) } else { Ok(()) })
        .map_err(|_| "the kernel stays with messages")?;
    control.write32(MESSAGE, 1);
    for job in 3..6 {
        equal("a job by wires", Status::Done, run(kernel, cpu, unit, START + job * BYTES)?)?;
    }
    equal("messages aborted", 3, control.read32(MESSAGES_ABORTED))?;
    front.smmu.disable_faults(cpu, unit.engine.stream(), &unit.engine)?;
    Ok(front.smmu.detach(cpu, unit.engine.stream())?)
});

test!(fn an_smmu_that_is_late_to_send_messages_is_heard_by_its_wires(kernel, cpu) {
    let window = kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
    let control = kernel.board.registers(window).ok_or("the control page is not mapped")?;
    // The first update of IRQ_CTRL is that of bring-up, the next one that of messages.
    control.write32(PASSED, 1);
    control.write32(IRQ_CTRL_LATE, FOR_EVER);
    let devices = Devices::bring_up(kernel, cpu, &Options { limit_us: 20_000, ..Options::default() })?;
    if control.read32(IRQ_CTRL_LATE + 4) == 0 {
        return Err(Failure::NotHere("an SMMU with messages, and an ITS"));
    }
    control.write32(IRQ_CTRL_LATE, 0);
    let unit = devices.engines.iter().find(|unit| unit.description.can_stall);
    let unit = unit.ok_or(Failure::NotHere("an engine that stalls"))?;
    let front = devices.smmu_of(unit).ok_or(Failure::NotHere("SMMU in front of the engine"))?;
    let registers = kernel.board.smmus.iter().find(|smmu| smmu.phandle == front.phandle);
    let registers = registers.and_then(|smmu| kernel.board.registers(&smmu.window)).ok_or("no registers of the SMMU")?;
    let registers = SmmuRegisters::new(registers)?;
    let wires = || {
        // GERROR, PRIQ, EVENTQ; no address of a message.
        let on = registers.read32(Register::IrqCtrlAck) == 0b111 && registers.read32(Register::EventqIrqCfg0) == 0;
        if on && !front.is_by_message() { Ok(()) } else { Err(()) }
    };
    kernel.wait_until(cpu, LIMIT, wires).map_err(|_| "its interrupts stay off")?;
    let frames = Arc::new(FramePool::new(&*kernel.device_memory, 64, devices.coherence())?);
    serve(kernel, cpu, front, unit, &frames, BYTES / FRAME_BYTES as u64)?;
    equal("a job by wires", Status::Done, run(kernel, cpu, unit, START)?)?;
    front.smmu.disable_faults(cpu, unit.engine.stream(), &unit.engine)?;
    Ok(front.smmu.detach(cpu, unit.engine.stream())?)
});
