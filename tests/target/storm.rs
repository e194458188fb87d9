//! A device that asks without end, and what it leaves of the core that answers it.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use smmu_iopf::arch::timer;
use smmu_iopf::driver::{FaultMode, Options, StreamConfig, Translation};
use smmu_iopf::iopf::{Fault, FaultGroup, FaultHandler, Priority, StreamLimits, Verdict};
use smmu_iopf::kernel::devices::Devices;
use smmu_iopf::model::engine::registers::{self as reg, hostile};
use smmu_iopf::smmuv3::PageResponse;
use smmu_iopf::sync::Masked;

use crate::harness::{Failure, holds};

/// Refuses every fault at once.
#[derive(Default)]
struct Refusing(AtomicU32);

impl FaultHandler for Refusing {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        self.0.fetch_add(1, Relaxed);
        Verdict::Answer(PageResponse::Invalid)
    }

    fn defer(&self, _: &Masked, _: FaultGroup) {}
}

/// How often this core, the one that drains, gets round a loop in half a second.
fn rounds() -> u32 {
    let start = timer::now();
    (0..).take_while(|_| timer::now() - start < Duration::from_millis(500)).count() as u32
}

test!(fn a_storm_that_is_answered_at_once_leaves_the_drainer_time(kernel, cpu) {
    let devices = Devices::bring_up(kernel, cpu, &Options::default())?;
    let asks = devices.engines.iter().find(|unit| !unit.description.can_stall);
    let unit = asks.ok_or(Failure::NotHere("engine that asks for pages"))?;
    let smmu = &devices.smmu_of(unit).ok_or(Failure::NotHere("SMMU in front of the engine"))?.smmu;
    let stream = unit.engine.stream();
    let faults = FaultMode::PageRequest;
    smmu.attach(cpu, stream, &StreamConfig { faults, translation: Translation::Stage1 { context: None, substream_bits: 0 } })?;
    let handler = Arc::new(Refusing::default());
    let limits = StreamLimits { groups: 64, requests: 32, time_out_us: 1_000_000, priority: Priority::Normal };
    smmu.enable_faults(cpu, &[stream], Some(&unit.engine), handler.clone(), limits)?;
    let calm = rounds();
    let registers = kernel.board.registers(&unit.description.window).ok_or("the engine's registers are not mapped")?;
    registers.write32(reg::HOSTILE, hostile::STORM | hostile::NO_CREDITS);
    let stormy = rounds();
    let groups = handler.0.load(Relaxed);
    log::info!("{calm} rounds without a storm, {stormy} in one of {groups} groups");
    // More than it could have outstanding, also on a slow host.
    holds("a storm is no storm", groups > 64)?;
    holds("the storm leaves less than an eighth", stormy > calm / 8)?;
    Ok(smmu.disable_faults(cpu, stream, &unit.engine)?)
});
