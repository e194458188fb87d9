//! Records lost by the SMMU, and the kernel that goes on all the same.

use alloc::format;
use alloc::sync::Arc;
use core::time::Duration;

use smmu_iopf::driver::{Context, FaultMode, Options, StreamConfig};
use smmu_iopf::iopf::{Priority, StreamLimits};
use smmu_iopf::kernel::devices::Devices;
use smmu_iopf::kernel::engine::{Job, Operation, Status};
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Region};
use smmu_iopf::sva::frames::{FRAME_BYTES, FramePool};
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sva::{MAIR, Permissions, T0SZ};
use smmu_iopf::sync::Cpu;

use crate::harness::{Failure, equal, holds};

/// Where the jobs work.
const START: u64 = 1 << 30;
const BYTES: u64 = 4 * FRAME_BYTES as u64;

/// How long a job may take, the kernel's recovery included.
const LIMIT: Duration = Duration::from_secs(5);

// Of the control page (docs/control.md): the Nth write of a record to the event queue and to the PRI queue aborts.
const EVENT_WRITE: usize = 0x100;
const PAGE_REQUEST_WRITE: usize = 0x108;

test!(fn an_engine_whose_records_were_lost_is_served_again(kernel, cpu) {
    let window = kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
    let control = kernel.board.registers(window).ok_or("the control page is not mapped")?;
    let devices = Devices::bring_up(kernel, cpu, &Options::default())?;
    let frames = Arc::new(FramePool::new(&*kernel.device_memory, 64)?);
    for (stalls, point) in [(true, EVENT_WRITE), (false, PAGE_REQUEST_WRITE)] {
        let unit = devices.engines.iter().find(|unit| unit.description.can_stall == stalls);
        let unit = unit.ok_or(Failure::NotHere("engines of both kinds"))?;
        let front = devices.smmu_of(unit).ok_or(Failure::NotHere("SMMU in front of the engine"))?;
        let (smmu, stream) = (&front.smmu, unit.engine.stream());
        let permissions = Permissions::READ_WRITE;
        let region = Region { start: START, bytes: BYTES, permissions, backing: Backing::Anonymous };
        let space = Arc::new(AddressSpace::new(smmu.take_asid(cpu)?, &[region], frames.clone())?);
        let context = Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR };
        let faults = if stalls { FaultMode::Stall } else { FaultMode::PageRequest };
        let response_needs_pasid = unit.engine.response_needs_pasid();
        smmu.attach(
            cpu,
            stream,
            &StreamConfig { faults, translation: context.into(), response_needs_pasid },
        )?;
        let pager = Arc::new(DemandPager::new([(None, space)].into(), kernel.work_queues.clone()));
        let limits = StreamLimits { groups: 64, requests: 32, time_out_us: 1_000_000, priority: Priority::Normal };
        smmu.enable_faults(cpu, &[stream], pager, limits)?;
        if !stalls {
            unit.engine.enable_page_requests(32);
        }
        let errors = front.events.global_errors();
        control.write32(point, 1);
        let job = Job { pattern: 7, ..Job::new(Operation::Fill, 0, START, BYTES) };
        let run = |cpu: &mut Cpu| {
            unit.engine.start(&job);
            kernel
                .wait_until(cpu, LIMIT, || match unit.engine.status() {
                    Status::Busy => Err(()),
                    status => Ok(status),
                })
                .map_err(|_| Failure::Wrong(format!("{stream:?} waits for ever")))
        };
        holds("the first job is lost", matches!(run(cpu)?, Status::Aborted(_) | Status::Stopped))?;
        // An automatic answer ends the job before the kernel has recovered.
        let _ = kernel.wait_until(cpu, Duration::from_millis(100), || Err::<(), _>(()));
        equal("the next job", Status::Done, run(cpu)?)?;
        holds("a global error was told", front.events.global_errors() > errors)?;
        smmu.disable_faults(cpu, stream, &unit.engine)?;
        smmu.detach(cpu, stream)?;
    }
    Ok(())
});
