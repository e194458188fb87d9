//! The timer, interrupts between cores, and cores that work and wait.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use core::time::Duration;

use aarch64_cpu::registers::{CNTV_CTL_EL0, Readable};
use embedded_hal::delay::DelayNs;
use smmu_iopf::arch::image;
use smmu_iopf::arch::timer::{Alarm, Timer, now};
use smmu_iopf::iopf::{
    Answer, Decided, Fault, FaultGroup, FaultHandler, FaultTable, Kind, Limits, NotSent, OpenRequest, PageResponder,
    Priority, Report, Request, StreamLimits, Verdict,
};
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::fatal::End;
use smmu_iopf::kernel::interrupts::{Sgi, send};
use smmu_iopf::kernel::runtime::Work;
use smmu_iopf::platform::board::{Interrupt, Trigger};
use smmu_iopf::platform::edu;
use smmu_iopf::platform::pci::RootBus;
use smmu_iopf::smmuv3::{Access, Stag, StreamId};
use smmu_iopf::sync::{CoreId, Cpu, MAX_CORES, Masked, wait};

use crate::edu::{Device, ecam, find, pcie};
use crate::harness::{Failure, Outcome, equal, holds};

/// An SPI that nothing on the board uses.
const QUIET: Interrupt = Interrupt { intid: 32 + 192, trigger: Trigger::Edge };

const GICD_ISENABLER: usize = 0x100;
const GICD_ISPENDR: usize = 0x200;

/// Sets the bit of the interrupt `QUIET` in a distributor's register of one bit for each interrupt.
fn set(kernel: &Kernel, register: usize) -> Outcome {
    let distributor = kernel.board.registers(&kernel.board.gic.distributor).ok_or("the distributor is not mapped")?;
    distributor.write32(register + QUIET.intid as usize / 32 * 4, 1 << (QUIET.intid % 32));
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(5);

test!(fn a_delay_lasts_as_long_as_asked(_, _) {
    let start = now();
    Timer.delay_us(2_000);
    let lasted = now() - start;
    holds("2 ms have passed", lasted >= Duration::from_millis(2))?;
    holds("not 5 s", lasted < LIMIT)
});

test!(fn the_alarm_rings_when_its_time_has_come(_, cpu) {
    let enabled = || CNTV_CTL_EL0.read(CNTV_CTL_EL0::ENABLE);
    let start = now();
    let set = cpu.masked(|masked| {
        Alarm::set(masked, Duration::from_millis(10));
        enabled()
    });
    equal("CNTV_CTL_EL0.ENABLE when set", 1, set)?;
    // The handler turns it off. Delays do the waiting, since a kernel that rests sets the alarm itself.
    wait::until(&mut Timer, 5_000_000, || if enabled() == 0 { Ok(()) } else { Err(()) })
        .map_err(|expired| format!("no interrupt within {} us", expired.waited_us))?;
    holds("not before its time", now() - start >= Duration::from_millis(10))
});

test!(fn an_interrupt_reaches_every_core(kernel, cpu) {
    let taken: Arc<[AtomicU32; MAX_CORES]> = Arc::default();
    let count = taken.clone();
    let handler = Box::new(move |masked: &Masked| {
        count[masked.core().index()].fetch_add(1, Relaxed);
    });
    kernel.interrupts.connect_private(Sgi::DrainEvents as u32, handler)?;
    for round in 1..=100 {
        for core in CoreId::all().take(kernel.cores()) {
            send(Sgi::DrainEvents, core);
            let seen = || match taken[core.index()].load(Relaxed) {
                seen if seen == round => Ok(()),
                seen => Err(seen),
            };
            kernel
                .wait_until(cpu, LIMIT, seen)
                .map_err(|expired| format!("{core}: {} interrupts, expected {round}", expired.last))?;
        }
    }
    Ok(())
});

/// Notes how often cores came.
#[derive(Default)]
struct Seen([AtomicUsize; MAX_CORES]);

impl Seen {
    fn note(&self, core: CoreId) {
        self.0[core.index()].fetch_add(1, Relaxed);
    }

    fn count(&self, core: CoreId) -> usize {
        self.0[core.index()].load(Relaxed)
    }
}

impl Work for Seen {
    fn work(&self, cpu: &mut Cpu) -> bool {
        self.note(cpu.core());
        false
    }

    fn is_waiting(&self, _: &Masked) -> bool {
        false
    }
}

test!(fn every_core_looks_for_work_when_woken(kernel, cpu) {
    let seen = Arc::new(Seen::default());
    kernel.add_work(cpu, seen.clone()).map_err(|_| "no room for more work")?;
    let missing = || CoreId::all().take(kernel.cores()).find(|core| seen.count(*core) == 0);
    cpu.masked(|masked| kernel.wake_others(masked));
    kernel
        .wait_until(cpu, LIMIT, || missing().map_or(Ok(()), Err))
        .map_err(|expired| format!("{} did not look", expired.last))?;
    Ok(())
});

/// Wants to be looked at every millisecond until `ends`.
struct Ticking {
    seen: Seen,
    ends: AtomicBool,
}

impl Work for Ticking {
    fn work(&self, cpu: &mut Cpu) -> bool {
        self.seen.work(cpu)
    }

    fn is_waiting(&self, _: &Masked) -> bool {
        false
    }

    fn look_again(&self) -> Option<Duration> {
        (!self.ends.load(Relaxed)).then_some(Duration::from_millis(1))
    }
}

test!(fn what_comes_with_time_is_looked_at_while_the_first_core_is_busy(kernel, cpu) {
    if kernel.cores() < 2 {
        return Err(Failure::NotHere("second core"));
    }
    let ticking = Arc::new(Ticking { seen: Seen::default(), ends: AtomicBool::new(false) });
    kernel.add_work(cpu, ticking.clone()).map_err(|_| "no room for more work")?;
    // Once, so that they know of it.
    cpu.masked(|masked| kernel.wake_others(masked));
    // This core neither works nor sleeps.
    let others = || CoreId::all().take(kernel.cores()).skip(1);
    let late = || others().find(|core| ticking.seen.count(*core) < 20).map_or(Ok(()), Err);
    let seen = wait::until(&mut Timer, 5_000_000, late);
    ticking.ends.store(true, Relaxed);
    seen.map_err(|expired| format!("{} looked less than 20 times in 5 s", expired.last))?;
    Ok(())
});

/// Answers nothing, and puts every group that it is to serve back into the queues: they never are empty.
struct Again {
    kernel: &'static Kernel,
    served: Seen,
    ends: AtomicBool,
}

impl PageResponder for Again {
    fn respond(&self, _: &Masked, _: &[Answer]) -> Result<(), NotSent> {
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
        self.served.note(cpu.core());
        if !self.ends.load(Relaxed) {
            cpu.masked(|masked| self.defer(masked, group));
        }
        None
    }
}

test!(fn a_core_with_groups_to_serve_looks_after_the_rest_too(kernel, cpu) {
    const STREAM: StreamId = StreamId(0);
    let seen = Arc::new(Seen::default());
    let again = Arc::new(Again { kernel, served: Seen::default(), ends: AtomicBool::new(false) });
    let table = FaultTable::new(kernel.domain.clone(), again.clone(), 0, Limits { states: 1, groups: 1 })?;
    let limits = StreamLimits { groups: 1, requests: 1, time_out_us: 1_000_000, priority: Priority::Normal };
    let handler = again.clone();
    table.open(cpu, &mut Timer, OpenRequest { streams: &[STREAM], kind: Kind::Stall, handler, limits, since: 0 })?;
    kernel.add_work(cpu, seen.clone()).map_err(|_| "no room for more work")?;
    let request = Request::Stall(Stag(0));
    let fault = Fault { stream: STREAM, substream: None, address: 0, access: Access::READ, request, stage2: None };
    equal("the report", Report::Deferred, cpu.masked(|masked| table.report(masked, 0, fault)))?;
    let core = cpu.core();
    // The others take the group too: a round of this core in which it did.
    let round = wait::until(&mut Timer, 5_000_000, || {
        let (served, before) = (again.served.count(core), seen.count(core));
        kernel.work(cpu);
        if again.served.count(core) == served { Err(()) } else { Ok(seen.count(core) - before) }
    });
    again.ends.store(true, Relaxed);
    let rounds = round.map_err(|expired| format!("no group within {} us", expired.waited_us))?;
    equal("rounds of the rest", 1, rounds)
});

test!(fn no_edge_is_lost(kernel, cpu) {
    let taken = Arc::new(AtomicU32::new(0));
    let count = taken.clone();
    kernel.interrupts.connect(QUIET, Box::new(move |_| _ = count.fetch_add(1, Relaxed)))?;
    holds("a second handler is refused", kernel.interrupts.connect(QUIET, Box::new(|_| {})).is_err())?;
    for round in 1..=1000 {
        // As the edge of a device's wire.
        set(kernel, GICD_ISPENDR)?;
        let seen = || match taken.load(Relaxed) {
            seen if seen == round => Ok(()),
            seen => Err(seen),
        };
        kernel
            .wait_until(cpu, LIMIT, seen)
            .map_err(|expired| format!("{} interrupts, expected {round}", expired.last))?;
    }
    Ok(())
});

// `edu` without messages pulls its pin, INTA, until it is acknowledged. QEMU's bridge leads INTA of slot n to SPI 3 + n % 4.
test!(fn a_level_calls_until_it_is_taken_away(kernel, cpu) {
    let pcie = pcie(kernel)?;
    let mut bus = RootBus::bring_up(ecam(kernel, pcie)?, pcie)?;
    let found = find(kernel, pcie, &mut bus, [edu::VENDOR, edu::DEVICE])?.into_iter().next();
    let (function, registers, _) = found.ok_or(Failure::NotHere("edu"))?;
    let intid = 32 + 3 + u32::from(function.device) % 4;
    let (taken, wire) = (Arc::new(AtomicU32::new(0)), registers.clone());
    let count = taken.clone();
    let handler = move |_: &Masked| {
        if count.fetch_add(1, Relaxed) % 3 == 2 {
            wire.write32(Device::ACKNOWLEDGE, 1);
        }
    };
    kernel.interrupts.connect(Interrupt { intid, trigger: Trigger::Level }, Box::new(handler))?;
    for calls in [3, 6] {
        registers.write32(Device::RAISE, 1);
        let called = || if taken.load(Relaxed) >= calls { Ok(()) } else { Err(()) };
        kernel.wait_until(cpu, LIMIT, called).map_err(|_| format!("{taken:?} interrupts, expected {calls}"))?;
        Timer.delay_us(1_000);
        equal("interrupts", calls, taken.load(Relaxed))?;
    }
    Ok(())
});

test!(fn an_interrupt_without_a_handler_ends_the_machine(kernel, _) must_end_by(|end| {
    matches!(end, End::Interrupt(224))
}) {
    set(kernel, GICD_ISENABLER)?;
    set(kernel, GICD_ISPENDR)
});

/// Uses up the stack it is on.
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    black_box(overflow(black_box(depth + 1))) + 1
}

test!(fn a_handler_that_overruns_its_stack_meets_the_guard(kernel, _) must_end_by(|end| {
    // The first core's stacks are the first two: for the thread, then for exceptions.
    let Some(stack) = image::stacks_without_guards().nth(1) else { return false };
    let guard = stack.start - 0x1000..stack.start;
    matches!(end, End::Exception { address: Some(address), .. } if guard.contains(address))
}) {
    kernel.interrupts.connect(QUIET, Box::new(|_| _ = overflow(0)))?;
    set(kernel, GICD_ISPENDR)
});
