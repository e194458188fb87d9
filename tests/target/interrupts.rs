//! The timer, interrupts between cores, and cores that work and wait.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use core::time::Duration;

use aarch64_cpu::registers::{CNTV_CTL_EL0, Readable};
use embedded_hal::delay::DelayNs;
use smmu_iopf::arch::timer::{Alarm, Timer, now};
use smmu_iopf::kernel::interrupts::{Sgi, send};
use smmu_iopf::kernel::runtime::Work;
use smmu_iopf::sync::{CoreId, Cpu, MAX_CORES, Masked, wait};

use crate::harness::{equal, holds};

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
    kernel.interrupts.connect_private(Sgi::Drain as u32, handler)?;
    for round in 1..=100 {
        for core in CoreId::all().take(kernel.cores()) {
            send(Sgi::Drain, core);
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

/// Notes which cores looked after it.
#[derive(Default)]
struct Seen([AtomicUsize; MAX_CORES]);

impl Work for Seen {
    fn work(&self, cpu: &mut Cpu) -> bool {
        self.0[cpu.core().index()].fetch_add(1, Relaxed);
        false
    }

    fn is_waiting(&self, _: &Masked) -> bool {
        false
    }
}

test!(fn every_core_looks_for_work_when_woken(kernel, cpu) {
    let seen = Arc::new(Seen::default());
    kernel.add_work(cpu, seen.clone()).map_err(|_| "no room for more work")?;
    let missing = || CoreId::all().take(kernel.cores()).find(|core| seen.0[core.index()].load(Relaxed) == 0);
    cpu.masked(|masked| kernel.wake_others(masked));
    kernel
        .wait_until(cpu, LIMIT, || missing().map_or(Ok(()), Err))
        .map_err(|expired| format!("{} did not look", expired.last))?;
    Ok(())
});
