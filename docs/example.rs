use std::sync::Arc;

use smmu_iopf::driver::{Context, EventSink, FaultMode, Hooks, Options, OutputQueue, Smmu, StreamConfig, Wake};
use smmu_iopf::iopf::{Priority, StreamLimits, WorkQueues};
use smmu_iopf::model::engine::registers::{self as reg, control, status};
use smmu_iopf::model::{
    board,
    host::{HostMemory, HostSmmu},
};
use smmu_iopf::smmuv3::Asid;
use smmu_iopf::smmuv3::event::{Event, EventError};
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Region};
use smmu_iopf::sva::{MAIR, Permissions, T0SZ, frames::FramePool, pager::DemandPager};
use smmu_iopf::sync::{CoreId, Cpu, Masked, grace::Domain};

/// In a kernel: makes the interrupt of the queue pending, and keeps records that are nobody's fault.
struct Kernel;

impl Wake for Kernel {
    fn wake(&self, _: &Masked, _: OutputQueue) {}
}

impl EventSink for Kernel {
    fn event(&self, _: &Masked, _: &Event) {}
    fn undecodable(&self, _: &Masked, _: [u64; 4], _: EventError) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: this thread stands for core 0, and no other does.
    let mut cpu = unsafe { Cpu::new(CoreId::FIRST) };
    let domain = Arc::new(Domain::new());
    domain.online(&mut cpu);

    let memory = Arc::new(HostMemory::new(8 << 20));
    let hardware = HostSmmu::new(memory.clone());
    let hooks = Hooks { wake: Arc::new(Kernel), events: Arc::new(Kernel) };
    let smmu = Smmu::probe(
        &mut cpu,
        hardware.clone(),
        memory.clone(),
        domain.clone(),
        hardware.delay(),
        hooks,
        Options::default(),
    )?;

    // An address space of 64 KiB, no page of which is there, for engine 0, whose accesses stall.
    let frames = Arc::new(FramePool::new(&*memory, 64, smmu.coherence())?);
    let region =
        Region { start: 0x10_0000, bytes: 0x1_0000, permissions: Permissions::READ_WRITE, backing: Backing::Anonymous };
    let space = Arc::new(AddressSpace::new(smmu.take_asid(&mut cpu)?, &[region], frames)?);
    let context = Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR };
    let stream = board::engine_stream(0);
    let config = StreamConfig { faults: FaultMode::Stall, translation: context.into() };
    smmu.attach(&mut cpu, stream, &config)?;
    // Groups that the interrupt handlers leave to a core with time. In a kernel: interrupts a core that sleeps.
    let work = Arc::new(WorkQueues::new(Box::new(|_, _| {})));
    let pager = Arc::new(DemandPager::new(Box::new([(None, space.clone())]), work.clone()));
    let limits = StreamLimits { groups: 16, requests: 1, time_out_us: 1_000_000, priority: Priority::Normal };
    smmu.enable_faults(&mut cpu, &[stream], None, pager, limits)?;

    // The engine fills all of it; what its interrupts would do, this loop does.
    hardware.write_engine64(0, reg::DESTINATION, region.start);
    hardware.write_engine64(0, reg::LENGTH, region.bytes);
    hardware.write_engine64(0, reg::PATTERN, 0x0123_4567_89ab_cdef);
    hardware.write_engine(0, reg::CONTROL, control::START | control::FILL << control::OPERATION);
    for _ in 0..10_000 {
        hardware.step();
        cpu.masked(|masked| smmu.drain_events(masked));
        work.work(&cpu);
        domain.poll(&mut cpu);
    }
    assert_eq!(hardware.read_engine(0, reg::STATUS) & status::STATE, status::DONE);
    assert_eq!((space.pages(), smmu.event_records()), (16, 16));
    Ok(())
}
