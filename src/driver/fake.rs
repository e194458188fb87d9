//! For unit tests: registers that are memory, a clock that is a counter, device memory from the heap.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use embedded_hal::delay::DelayNs;

use super::dma::DmaRegion;
use super::hardware::Hardware;
use super::registers::Registers;
use crate::smmuv3::PhysAddr;
use crate::smmuv3::registers::Register;
use crate::sync::Cpu;
use crate::sync::grace::Domain;

/// What happens when the driver writes a register: it gets all values, the register and the new value.
type OnWrite = dyn Fn(&mut BTreeMap<usize, u64>, Register, u64) + Send + Sync;

/// Registers that hold what was written, but for what the test makes of a write.
pub(super) struct Fake {
    values: Mutex<BTreeMap<usize, u64>>,
    written: Mutex<Vec<(Register, u64)>>,
    read: Mutex<Vec<Register>>,
    on_write: Box<OnWrite>,
}

impl Fake {
    pub(super) fn new(
        on_write: impl Fn(&mut BTreeMap<usize, u64>, Register, u64) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            values: Mutex::default(),
            written: Mutex::default(),
            read: Mutex::default(),
            on_write: Box::new(on_write),
        })
    }

    pub(super) fn set(&self, register: Register, value: u64) {
        self.values.lock().unwrap().insert(register.offset(), value);
    }

    /// What was written to `register`, in order.
    pub(super) fn written(&self, register: Register) -> Vec<u64> {
        let written = self.written.lock().unwrap();
        written.iter().filter(|(written, _)| *written == register).map(|(_, value)| *value).collect()
    }

    /// How often `register` was read.
    pub(super) fn reads(&self, register: Register) -> usize {
        self.read.lock().unwrap().iter().filter(|read| **read == register).count()
    }
}

impl Registers for Fake {
    fn read32(&self, register: Register) -> u32 {
        self.read.lock().unwrap().push(register);
        self.values.lock().unwrap().get(&register.offset()).map_or(0, |value| *value as u32)
    }

    fn write32(&self, register: Register, value: u32) {
        self.write64(register, value.into());
    }

    fn write64(&self, register: Register, value: u64) {
        self.written.lock().unwrap().push((register, value));
        let mut values = self.values.lock().unwrap();
        values.insert(register.offset(), value);
        (self.on_write)(&mut values, register, value);
    }
}

/// A delay that takes no time.
#[derive(Clone)]
pub(super) struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

pub(super) fn hardware(fake: &Arc<Fake>) -> Hardware<Arc<Fake>, NoDelay> {
    Hardware::new(fake.clone(), NoDelay, Arc::new(Domain::new()), 10)
}

pub(super) fn cpu() -> Cpu {
    Cpu::of_test(0)
}

/// A region at a made-up address.
pub(super) fn region(bytes: usize) -> DmaRegion {
    let words = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    DmaRegion { phys: PhysAddr(0x1234_0000), words: words.leak() }
}

pub(super) fn fill(region: &DmaRegion, start: usize, words: &[u64]) {
    region.words[start..].iter().zip(words).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
}
