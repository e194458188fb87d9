//! Cores that are switched off and come back.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use core::time::Duration;

use embedded_hal::delay::DelayNs;
use smccc::psci::error::Error::AlreadyOn;
use smmu_iopf::arch::timer::Timer;
use smmu_iopf::driver::{Context, FaultMode, Options, StreamConfig};
use smmu_iopf::iopf::{
    Answer, Decided, Fault, FaultGroup, FaultHandler, FaultTable, Kind, Limits, NotSent, OpenRequest, PageResponder,
    Priority, Report, Request, StreamLimits, Verdict,
};
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::devices::Devices;
use smmu_iopf::kernel::engine::{Job, Operation, Status};
use smmu_iopf::kernel::power::PowerError;
use smmu_iopf::kernel::runtime::Work;
use smmu_iopf::smmuv3::PageResponse::Success;
use smmu_iopf::smmuv3::{Access, Stag, StreamId};
use smmu_iopf::sva::address_space::{AddressSpace, Backing, Region};
use smmu_iopf::sva::frames::{FRAME_BYTES, FramePool};
use smmu_iopf::sva::pager::DemandPager;
use smmu_iopf::sva::{MAIR, Permissions, T0SZ};
use smmu_iopf::sync::grace::Ref;
use smmu_iopf::sync::lock::IrqLock;
use smmu_iopf::sync::{CoreId, Cpu, Masked};

use crate::harness::{Failure, Outcome, equal, holds};

const LIMIT: Duration = Duration::from_secs(20);

/// How often a core goes and comes.
const ROUNDS: u32 = 20;

/// The last core, if it is not the first.
fn last(kernel: &Kernel) -> Result<CoreId, Failure> {
    CoreId::new(kernel.cores() - 1).filter(|core| *core != CoreId::FIRST).ok_or(Failure::NotHere("second core"))
}

/// Works until `reached`.
fn until(kernel: &Kernel, cpu: &mut Cpu, what: &'static str, reached: impl Fn() -> bool) -> Outcome {
    kernel.wait_until(cpu, LIMIT, || if reached() { Ok(()) } else { Err(()) }).map_err(|_| Failure::from(what))
}

/// Puts every group that it is to serve back into the queues, so that there always is one somewhere; at the end it answers.
struct Again {
    kernel: &'static Kernel,
    /// By stream.
    served: [AtomicU32; STREAMS],
    ends: AtomicBool,
    answers: AtomicU32,
}

/// More of them than cores, so that each core has some in its lists.
const STREAMS: usize = 16;

impl PageResponder for Again {
    fn respond(&self, _: &Masked, answers: &[Answer]) -> Result<(), NotSent> {
        self.answers.fetch_add(answers.len() as u32, Relaxed);
        Ok(())
    }
}

impl FaultHandler for Again {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.kernel.work_queues.push(masked, group);
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        self.served[group.stream().0 as usize].fetch_add(1, Relaxed);
        if self.ends.load(Acquire) {
            return Some(group.decide(Success));
        }
        cpu.masked(|masked| self.defer(masked, group));
        None
    }
}

test!(fn groups_that_wait_at_a_core_that_is_switched_off_are_served_by_others(kernel, cpu) {
    let core = last(kernel)?;
    let again = Arc::new(Again {
        kernel,
        served: Default::default(),
        ends: false.into(),
        answers: 0.into(),
    });
    let limits = Limits { states: STREAMS, groups: STREAMS };
    let table = FaultTable::new(kernel.domain.clone(), again.clone(), 4, limits)?;
    let limits = StreamLimits { groups: 1, requests: 1, time_out_us: 60_000_000, priority: Priority::Normal };
    for stream in (0..STREAMS as u32).map(StreamId) {
        let handler = again.clone();
        table.open(cpu, &mut Timer, OpenRequest { streams: &[stream], kind: Kind::Stall, handler, limits, since: 0 })?;
        let request = Request::Stall(Stag(0));
        let fault = Fault { stream, substream: None, address: 0, access: Access::READ, request, stage2: None };
        equal("the report", Report::Deferred, cpu.masked(|masked| table.report(masked, 0, fault)))?;
    }
    cpu.masked(|masked| kernel.wake_others(masked));
    let served = || again.served.iter().map(|count| count.load(Relaxed)).collect::<Vec<_>>();
    for _ in 0..ROUNDS {
        kernel.switch_off(cpu, core)?;
        holds("the core is off", !kernel.online().contains(core))?;
        let before = served();
        let turned = || served().iter().zip(&before).all(|(now, before)| now > before);
        until(kernel, cpu, "a stream is not served while the core is off", turned)?;
        // A period that starts now does not wait for it.
        let freed = kernel.domain.stats().freed;
        drop(Ref::new(&kernel.domain, 7)?);
        let _ = kernel.domain.synchronize(cpu, &mut Timer, 5_000_000)?;
        until(kernel, cpu, "an object is not freed", || kernel.domain.stats().freed > freed)?;
        kernel.switch_on(cpu, core)?;
        holds("the core is on", kernel.online().contains(core))?;
    }
    again.ends.store(true, Release);
    until(kernel, cpu, "a group is lost", || again.answers.load(Relaxed) == STREAMS as u32)?;
    holds("the core had groups in its lists when it left", kernel.work_queues.counts().handed_over > 0)?;
    equal("groups in storage", 0, table.totals().slots_in_use)
});

/// Leaves every group to a core with time, answers it there, and notes the order.
struct InOrder {
    kernel: &'static Kernel,
    served: IrqLock<heapless::Vec<StreamId, 8>>,
}

impl PageResponder for InOrder {
    fn respond(&self, _: &Masked, _: &[Answer]) -> Result<(), NotSent> {
        Ok(())
    }
}

impl FaultHandler for InOrder {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.kernel.work_queues.push(masked, group);
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        let _ = cpu.masked(|masked| self.served.lock(masked).push(group.stream()));
        Some(group.decide(Success))
    }
}

/// Keeps a core busy between the look whether it is to leave and its sleep, until the first core has asked it to.
struct Busy {
    core: CoreId,
    begun: AtomicBool,
    /// The first core is about to ask.
    asks: AtomicBool,
    asked: AtomicBool,
}

impl Work for Busy {
    fn work(&self, cpu: &mut Cpu) -> bool {
        if cpu.core() == self.core && !self.begun.swap(true, Relaxed) {
            while !self.asked.load(Acquire) {
                spin_loop();
            }
            // For the interrupt to come.
            Timer.delay_ms(1);
        }
        if cpu.core() == CoreId::FIRST && self.asks.load(Relaxed) {
            // It waits for the core to be off by now.
            self.asked.store(true, Release);
        }
        false
    }

    fn is_waiting(&self, _: &Masked) -> bool {
        false
    }
}

test!(fn a_core_that_is_asked_to_leave_when_it_is_about_to_sleep_leaves(kernel, cpu) {
    let core = last(kernel)?;
    let busy = Arc::new(Busy { core, begun: false.into(), asks: false.into(), asked: false.into() });
    kernel.add_work(cpu, busy.clone()).map_err(|_| "no room for more work")?;
    cpu.masked(|masked| kernel.wake_others(masked));
    until(kernel, cpu, "the core does not work", || busy.begun.load(Relaxed))?;
    busy.asks.store(true, Relaxed);
    kernel.switch_off(cpu, core)?;
    kernel.switch_on(cpu, core)?;
    Ok(())
});

// `tools/gdb/test.sh` stops here too, where the counts are asked for.
test!(fn with_every_other_core_off_the_first_serves_all_by_priority(kernel, cpu) {
    last(kernel)?;
    let others = || CoreId::all().take(kernel.cores()).skip(1);
    others().try_for_each(|core| kernel.switch_off(cpu, core))?;
    let handler = Arc::new(InOrder { kernel, served: IrqLock::new(heapless::Vec::new()) });
    let table = FaultTable::new(kernel.domain.clone(), handler.clone(), 4, Limits { states: 4, groups: 8 })?;
    let waiting = [(1, Priority::Low, 2), (2, Priority::Normal, 1), (3, Priority::High, 3), (4, Priority::Normal, 1)];
    for (stream, priority, groups) in waiting {
        let limits = StreamLimits { groups: 4, requests: 1, time_out_us: 60_000_000, priority };
        let (streams, handler) = (&[StreamId(stream)], handler.clone());
        table.open(cpu, &mut Timer, OpenRequest { streams, kind: Kind::Stall, handler, limits, since: 0 })?;
        for tag in 0..groups {
            let (address, request) = (u64::from(stream) << 12, Request::Stall(Stag(tag)));
            let fault = Fault { stream: streams[0], substream: None, address, access: Access::READ, request, stage2: None };
            equal("the report", Report::Deferred, cpu.masked(|masked| table.report(masked, 0, fault)))?;
        }
    }
    let before = kernel.work_queues.counts();
    while kernel.work_queues.work(cpu) > 0 {}
    let served = cpu.masked(|masked| handler.served.lock(masked).clone());
    equal("the order", &[3, 3, 3, 2, 4, 1, 1].map(StreamId)[..], &served)?;
    others().try_for_each(|core| kernel.switch_on(cpu, core))?;
    let after = kernel.work_queues.counts();
    equal("turns", 4, after.turns - before.turns)?;
    equal("cores woken", before.wakes, after.wakes)
});

test!(fn a_core_goes_and_comes_while_the_stalls_of_an_engine_are_served(kernel, cpu) {
    const PAGES: u64 = 256;
    const START: u64 = 4 << 30;
    let core = last(kernel)?;
    let devices = Devices::bring_up(kernel, cpu, &Options { stream_bits: 16, ..Options::default() })?;
    let unit = devices.engines.iter().find(|unit| unit.description.can_stall).ok_or(Failure::NotHere("engine that stalls"))?;
    let smmu = &devices.smmu_of(unit).ok_or("no SMMU in front of the engine")?.smmu;
    if !smmu.features().can_stall() {
        return Err(Failure::NotHere("SMMU with stalls"));
    }
    let frames = Arc::new(FramePool::new(&*kernel.device_memory, 2 * PAGES as u32, devices.coherence())?);
    kernel.add_work(cpu, frames.clone()).map_err(|_| "no room for more work")?;
    let stream = unit.engine.stream();
    let (mut gone, mut before) = (0, unit.engine.counters());
    for _ in 0..ROUNDS {
        let region = Region {
            start: START,
            bytes: PAGES * FRAME_BYTES as u64,
            permissions: Permissions::READ_WRITE,
            backing: Backing::Anonymous,
        };
        let asid = smmu.take_asid(cpu)?;
        let space = Arc::new(AddressSpace::new(asid, &[region], frames.clone())?);
        let context = Context { table: space.root(), asid, t0sz: T0SZ, mair: MAIR };
        let config = StreamConfig { faults: FaultMode::Stall, translation: context.into() };
        smmu.attach(cpu, stream, &config)?;
        // Left to whoever has time: the queues are of use.
        let pager = Deferring(DemandPager::new([(None, space.clone())].into(), kernel.work_queues.clone()));
        let limits = StreamLimits { groups: 64, requests: 1, time_out_us: 60_000_000, priority: Priority::Normal };
        smmu.enable_faults(cpu, &[stream], Some(&unit.engine), Arc::new(pager), limits)?;
        let jobs = unit.engine.jobs_ended();
        unit.engine.start(&Job { depth: 4, ..Job::new(Operation::Fill, 0, START, PAGES * FRAME_BYTES as u64) });
        // At least once in the middle of the job.
        loop {
            kernel.switch_off(cpu, core)?;
            kernel.switch_on(cpu, core)?;
            gone += 1;
            if unit.engine.jobs_ended() != jobs {
                break;
            }
        }
        equal("the job", Status::Done, unit.engine.status())?;
        let after = unit.engine.counters();
        equal("stalls of the job", PAGES as u32, after.stalls - before.stalls)?;
        equal("stalls resumed", PAGES as u32, after.stalls_retried - before.stalls_retried)?;
        before = after;
        smmu.disable_faults(cpu, stream, &unit.engine)?;
        until(kernel, cpu, "the space is still in use", || Arc::strong_count(&space) == 1)?;
        let space = Arc::try_unwrap(space).map_err(|_| "the space is in use again")?;
        AddressSpace::reclaim(smmu.forget(cpu, space).map_err(|remembered| remembered.error)?);
        smmu.detach(cpu, stream)?;
    }
    log::info!("{core} went and came {gone} times; {:?}", kernel.work_queues.counts());
    equal("page frames in use", 0, frames.in_use())?;
    equal("groups in storage", 0, smmu.faults().totals().slots_in_use)
});

/// Leaves every group to a core with time.
struct Deferring(DemandPager);

impl FaultHandler for Deferring {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.0.defer(masked, group);
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        self.0.serve(cpu, group)
    }
}

test!(fn what_cannot_be_switched_off_or_on_is_refused_by_name(kernel, cpu) {
    let first = CoreId::FIRST;
    equal("the first core off", Err(PowerError::Stays(first)), kernel.switch_off(cpu, first))?;
    let already_on = |core| Err(PowerError::Psci { core, call: "CPU_ON", error: AlreadyOn });
    equal("the first core on", already_on(first), kernel.switch_on(cpu, first))?;
    if let Some(beyond) = CoreId::new(kernel.board.cores.len()) {
        equal("a core beyond, off", Err(PowerError::NoCore(beyond)), kernel.switch_off(cpu, beyond))?;
        equal("a core beyond, on", Err(PowerError::NoCore(beyond)), kernel.switch_on(cpu, beyond))?;
    }
    let core = last(kernel)?;
    equal("a core that runs, on", already_on(core), kernel.switch_on(cpu, core))?;
    kernel.switch_off(cpu, core)?;
    equal("a core that is off, off", Err(PowerError::NotOn(core)), kernel.switch_off(cpu, core))?;
    kernel.switch_on(cpu, core)?;
    Ok(())
});
