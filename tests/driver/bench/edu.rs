//! QEMU's `edu` devices as the engines of a machine: jobs done by messages, a page at each step.
//!
//! A device is not told what becomes of its writes, so memory tells: a write has succeeded that arrived in device memory, and a job is
//! aborted where one did not. Where a page leads to, a mark says that no other page has at that place; what follows has to arrive behind
//! it. So a write that goes astray, to memory that is no longer its stream's for instance, is one that went there, and is the test's to
//! notice; only one that leaves device memory counts as aborted.
//!
//! A copy is read and written by DMA, of whose reads memory does not tell: a blocked one gives zeros. So a copy of a word that is zero
//! counts as aborted. The first four bytes go ahead alone, since QEMU's SMMU records every four bytes that are blocked.
//!
//! Of the engine's registers there are those of a fill and a copy without a PASID, in whole words; a fill's have halves of 16 bits.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use smmu_iopf::arch::timer::Timer;
use smmu_iopf::model::engine::registers::{self as reg, control, status};
use smmu_iopf::platform::edu::MAX_DMA;

use crate::edu::Device;

const PAGE: u64 = 4096;
/// Its words.
const WORDS: usize = 512;

const FILL: u32 = control::START | control::FILL << control::OPERATION;
const COPY: u32 = control::START | control::COPY << control::OPERATION;

/// What is in memory before a copy.
const POISON: u64 = 0xdead_beef_dead_beef;

/// An engine.
pub(super) struct Engine {
    device: Device,
    job: Job,
}

/// The registers that a job has, and how far it is.
#[derive(Default)]
struct Job {
    copies: bool,
    source: u64,
    destination: u64,
    length: u64,
    pattern: u64,
    state: u32,
    fault_address: u64,
    done: u64,
}

impl Engine {
    pub(super) fn new(device: Device) -> Self {
        Self { device, job: Job::default() }
    }

    pub(super) fn reset(&mut self) {
        self.job = Job::default();
    }

    pub(super) fn stream(&self) -> u32 {
        self.device.stream
    }

    pub(super) fn read(&self, offset: usize) -> u32 {
        const FAULT_ADDRESS_HIGH: usize = reg::FAULT_ADDRESS + 4;
        match offset {
            reg::STREAM_ID => self.device.stream,
            reg::STATUS => self.job.state,
            reg::FAULT_ADDRESS => self.job.fault_address as u32,
            FAULT_ADDRESS_HIGH => (self.job.fault_address >> 32) as u32,
            _ => panic!("edu as an engine has no register {offset:#x}"),
        }
    }

    pub(super) fn write(&mut self, offset: usize, value: u64) {
        match (offset, value) {
            (reg::SOURCE, _) => self.job.source = value,
            (reg::DESTINATION, _) => self.job.destination = value,
            (reg::LENGTH, _) => self.job.length = value,
            (reg::PATTERN, _) => self.job.pattern = value,
            (reg::PASID, 0) => {}
            (reg::CONTROL, _) if [FILL, COPY].map(u64::from).contains(&value) => self.start(value == COPY.into()),
            _ => panic!("edu as an engine does not take {value:#x} in register {offset:#x}"),
        }
    }

    fn start(&mut self, copies: bool) {
        let Job { source, destination, length, pattern, .. } = self.job;
        let aligned = (source | destination | length).is_multiple_of(8);
        assert!(length > 0 && aligned, "{length:#x} bytes from {source:#x} to {destination:#x}");
        assert_eq!(pattern & 0xffff_0000_ffff_0000, 0, "messages have 16 bits");
        assert_ne!(self.job.state, status::BUSY, "a job is under way");
        (self.job.copies, self.job.state, self.job.done) = (copies, status::BUSY, 0);
    }

    /// Does a page of the job, if there is one. Returns whether there is more.
    pub(super) fn step(&mut self, memory: &[AtomicU64]) -> bool {
        let Job { copies, source, destination, length, state, done, .. } = self.job;
        if state != status::BUSY {
            return false;
        }
        let left = |address: u64| PAGE - address % PAGE;
        let (from, to) = (source + done, destination + done);
        let bytes = left(to).min(length - done);
        let bytes = if copies { bytes.min(left(from)).min(MAX_DMA.into()) } else { bytes };
        match if copies { self.copy(from, to, bytes, memory) } else { self.fill(to, bytes, memory) } {
            Err(address) => (self.job.state, self.job.fault_address) = (status::ABORTED, address),
            Ok(()) if done + bytes == length => self.job.state = status::DONE,
            Ok(()) => self.job.done += bytes,
        }
        self.job.state == status::BUSY
    }

    /// Fills `bytes` from `to` on, in one page. The error is the address whose write did not arrive.
    fn fill(&mut self, to: u64, bytes: u64, memory: &[AtomicU64]) -> Result<(), u64> {
        let start = self.lead(to, memory).ok_or(to)?;
        for address in (to..to + bytes).step_by(4) {
            let half = |word: u64| (word >> (8 * (address & 4))) as u32;
            self.device.write(address, half(self.job.pattern) as u16);
            let word = memory[start + ((address - to) / 8) as usize].load(Relaxed);
            if half(word) != half(self.job.pattern) {
                return Err(address);
            }
        }
        Ok(())
    }

    /// Copies `bytes`, in one page each, from `from` to `to`. The error is the address whose access did not succeed.
    fn copy(&mut self, from: u64, to: u64, bytes: u64, memory: &[AtomicU64]) -> Result<(), u64> {
        let start = self.lead(to, memory).ok_or(to)?;
        let words = &memory[start..start + (bytes / 8) as usize];
        for bytes in [4, bytes as u32] {
            words.iter().for_each(|word| word.store(POISON, Relaxed));
            self.device.dma.read(&mut Timer, from, bytes).expect("edu reads");
            self.device.dma.write(&mut Timer, to, bytes).expect("edu writes");
            if words[0].load(Relaxed) as u32 == 0 {
                return Err(from);
            }
            let missing = words.iter().take(bytes.div_ceil(8) as usize).position(|word| word.load(Relaxed) == POISON);
            if let Some(missing) = missing {
                return Err(to + 8 * missing as u64);
            }
        }
        Ok(())
    }

    /// The word of `memory` that `address` leads to: translation keeps what is below a page. Its low half is overwritten.
    fn lead(&mut self, address: u64, memory: &[AtomicU64]) -> Option<usize> {
        let find = |mark: u16| {
            let mut places = ((address % PAGE / 8) as usize..memory.len()).step_by(WORDS);
            places.find(|&place| memory[place].load(Relaxed) as u32 == mark.into())
        };
        let mark = (0x8001..).find(|&mark| find(mark).is_none())?;
        self.device.write(address, mark);
        find(mark)
    }
}
