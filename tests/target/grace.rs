//! Grace periods between real cores.

use alloc::sync::Arc;
use core::sync::atomic::{
    AtomicU8,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use core::time::Duration;

use smmu_iopf::arch::timer::Timer;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::runtime::Work;
use smmu_iopf::sync::grace::Ref;
use smmu_iopf::sync::{CoreId, Cpu, Masked, wait};

use crate::harness::{Failure, equal};

const LIMIT: Duration = Duration::from_secs(20);

/// Has another core stay masked from when it finds this until it is released.
struct Parker(AtomicU8);

const ASKED: u8 = 0;
const PARKED: u8 = 1;
const RELEASED: u8 = 2;

impl Work for Parker {
    fn work(&self, cpu: &mut Cpu) -> bool {
        if cpu.core() == CoreId::FIRST || self.0.compare_exchange(ASKED, PARKED, AcqRel, Relaxed).is_err() {
            return false;
        }
        cpu.masked(|_| {
            let released = || if self.0.load(Acquire) == RELEASED { Ok(()) } else { Err(()) };
            // When it runs out, the core is not there any more when it is looked for.
            let _ = wait::until(&mut Timer, 30_000_000, released);
        });
        true
    }

    fn is_waiting(&self, masked: &Masked) -> bool {
        masked.core() != CoreId::FIRST && self.0.load(Relaxed) == ASKED
    }
}

/// Works until `reached`.
fn until(kernel: &Kernel, cpu: &mut Cpu, what: &'static str, reached: impl Fn() -> bool) -> Result<(), Failure> {
    kernel.wait_until(cpu, LIMIT, || if reached() { Ok(()) } else { Err(()) }).map_err(|_| Failure::from(what))
}

test!(fn a_core_that_stays_masked_is_named_once_and_blocks_frees_alone(kernel, cpu) {
    if kernel.cores() < 2 {
        return Err(Failure::NotHere("second core"));
    }
    let parker = Arc::new(Parker(AtomicU8::new(ASKED)));
    let work: Arc<dyn Work> = parker.clone();
    kernel.add_work(cpu, work.clone()).map_err(|_| "no room for more work")?;
    cpu.masked(|masked| kernel.wake_others(masked));
    until(kernel, cpu, "no core is parked", || parker.0.load(Acquire) == PARKED)?;
    let before = kernel.domain.stats();
    drop(Ref::new(&kernel.domain, 7)?);
    until(kernel, cpu, "the core is not named", || kernel.domain.stats().stuck > before.stuck)?;
    equal("objects that wait", 1, kernel.domain.stats().pending())?;
    // The kernel goes round many times more.
    let _ = kernel.wait_until(cpu, Duration::from_secs(1), || Err::<(), _>(()));
    equal("periods with a name", before.stuck + 1, kernel.domain.stats().stuck)?;
    parker.0.store(RELEASED, Release);
    until(kernel, cpu, "the object is not freed", || kernel.domain.stats().pending() == 0)?;
    equal("objects freed", before.freed + 1, kernel.domain.stats().freed)?;
    kernel.remove_work(cpu, &work);
    Ok(())
});
