//! The generic timer.

use core::time::Duration;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_TVAL_EL0, CNTVCT_EL0, Readable, Writeable};
use embedded_hal::delay::DelayNs;

use crate::sync::Masked;
use crate::sync::cpu::pause;

/// The virtual counter: the time since the machine started.
pub fn now() -> Duration {
    barrier::isb(barrier::SY);
    let (count, frequency) = (u128::from(CNTVCT_EL0.get()), u128::from(CNTFRQ_EL0.get()).max(1));
    Duration::from_nanos((count * 1_000_000_000 / frequency) as u64)
}

/// The virtual counter as it counts: for measuring, where a few instructions more or less do not matter.
pub fn ticks() -> u64 {
    CNTVCT_EL0.get()
}

/// What `ticks` of the virtual counter are in microseconds, rounded up.
pub fn ticks_to_us(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000).div_ceil(u128::from(CNTFRQ_EL0.get()).max(1)) as u64
}

/// What `us` microseconds are in ticks of the virtual counter, rounded down.
pub fn us_to_ticks(us: u64) -> u64 {
    (u128::from(us) * u128::from(CNTFRQ_EL0.get()) / 1_000_000) as u64
}

/// Delays by watching the counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer;

impl DelayNs for Timer {
    fn delay_ns(&mut self, ns: u32) {
        let end = now() + Duration::from_nanos(ns.into());
        while now() < end {
            pause();
        }
    }
}

/// This core's timer interrupt.
#[derive(Debug)]
pub struct Alarm;

impl Alarm {
    /// Raises the interrupt once, `after` from now on, in place of what was set before.
    pub fn set(_: &Masked, after: Duration) {
        let ticks = after.as_nanos() * u128::from(CNTFRQ_EL0.get()) / 1_000_000_000;
        CNTV_TVAL_EL0.set(ticks.min(i32::MAX as u128) as u64);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
    }

    /// Takes the interrupt back: its handler, since it is raised as long as it is on.
    pub fn clear(_: &Masked) {
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::CLEAR);
        barrier::isb(barrier::SY);
    }
}
