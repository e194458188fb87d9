//! Maintenance of the data caches by address, for memory that is also accessed around them.
//!
//! QEMU's TCG has no caches: there the instructions run, and nothing depends on them.

use core::arch::asm;
use core::sync::atomic::AtomicU64;

use crate::driver::dma::CacheMaintenance;

/// The caches of all cores, to the point of coherency.
#[derive(Debug)]
pub struct DataCaches;

impl CacheMaintenance for DataCaches {
    fn clean(&self, words: &[AtomicU64]) {
        for line in lines(words) {
            // SAFETY: it changes nothing that the CPU sees, and the address is mapped.
            unsafe { asm!("dc cvac, {line}", line = in(reg) line, options(nostack, preserves_flags)) };
        }
        complete();
    }

    /// A line that the CPU has changed all the same is not lost, but written back.
    fn invalidate(&self, words: &[AtomicU64]) {
        for line in lines(words) {
            // SAFETY: it loses nothing that the CPU wrote, and the address is mapped; all words are atomic, which may change at any time.
            unsafe { asm!("dc civac, {line}", line = in(reg) line, options(nostack, preserves_flags)) };
        }
        complete();
    }
}

/// The longest line that a cache writes back, in bytes: memory that others write around the caches shares none with what the CPU writes.
pub fn writeback_granule() -> u64 {
    match ctr() >> 24 & 0xf {
        // Not told: the most that there can be (Arm DDI 0487, D24.2.42).
        0 => 2048,
        words => 4 << words,
    }
}

/// An address in each line that has a part of `words`.
fn lines(words: &[AtomicU64]) -> impl Iterator<Item = usize> {
    let bytes = words.as_ptr_range();
    // CTR_EL0.DminLine: the shortest line of any data cache.
    let line = 4_usize << (ctr() >> 16 & 0xf);
    (bytes.start as usize & !(line - 1)..bytes.end as usize).step_by(line)
}

/// Everything before is complete, for every observer.
fn complete() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

fn ctr() -> u64 {
    let value;
    // SAFETY: reads an ID register.
    unsafe { asm!("mrs {value}, ctr_el0", value = out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
