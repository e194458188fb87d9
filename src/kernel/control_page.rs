//! What the model tells about the kernel: how long faults took, and what its traps were. Its control page, `docs/control.md`.

use core::fmt;

use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};

use crate::arch::mmio::Mmio;
use crate::model::control as reg;
use crate::smmuv3::StreamId;

const IDENT: u32 = 0x3154_4e43;

/// The model's control page, as far as it tells something.
#[derive(Debug)]
pub struct ControlPage(Mmio);

/// How often the kernel trapped to the model. The counts wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traps {
    /// Reads of the SMMU's registers.
    pub smmu_reads: u32,
    /// Writes of the SMMU's registers.
    pub smmu_writes: u32,
    /// Accesses to the control page.
    pub control: u32,
    /// Accesses to the engines' registers.
    pub engines: u32,
    /// All others.
    pub other: u32,
}

/// Some times, in counts of the virtual counter.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    count: u32,
    sum: u64,
    shortest: u64,
    longest: u64,
    buckets: [u32; reg::BUCKETS],
}

impl ControlPage {
    /// The control page at `registers`, or `None` if it is not one.
    pub fn new(registers: Mmio) -> Option<Self> {
        let is_there = registers.size() >= reg::OTHER_TRAPS + 4 && registers.read32(reg::IDENT) == IDENT;
        is_there.then_some(Self(registers))
    }

    /// The times of `stream` from a fault's record to its answer, and from there until the device tried again.
    pub fn times(&self, StreamId(stream): StreamId) -> [Times; 2] {
        let Self(registers) = self;
        registers.write32(reg::STREAM, stream);
        let times = |count, sum, shortest, longest, buckets| Times {
            count: registers.read32(count),
            sum: registers.read64(sum),
            shortest: registers.read64(shortest),
            longest: registers.read64(longest),
            buckets: core::array::from_fn(|number| registers.read32(buckets + 4 * number)),
        };
        [
            times(reg::ANSWER_COUNT, reg::ANSWER_SUM, reg::ANSWER_MIN, reg::ANSWER_MAX, reg::ANSWER_BUCKETS),
            times(reg::RETRY_COUNT, reg::RETRY_SUM, reg::RETRY_MIN, reg::RETRY_MAX, reg::RETRY_BUCKETS),
        ]
    }

    /// The traps until now.
    pub fn traps(&self) -> Traps {
        let Self(registers) = self;
        Traps {
            smmu_reads: registers.read32(reg::SMMU_READ_TRAPS),
            smmu_writes: registers.read32(reg::SMMU_WRITE_TRAPS),
            control: registers.read32(reg::CONTROL_TRAPS),
            engines: registers.read32(reg::ENGINE_TRAPS),
            other: registers.read32(reg::OTHER_TRAPS),
        }
    }
}

impl Traps {
    /// Those after `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            smmu_reads: self.smmu_reads.wrapping_sub(before.smmu_reads),
            smmu_writes: self.smmu_writes.wrapping_sub(before.smmu_writes),
            control: self.control.wrapping_sub(before.control),
            engines: self.engines.wrapping_sub(before.engines),
            other: self.other.wrapping_sub(before.other),
        }
    }
}

impl Times {
    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What `percent` of them do not exceed: a power of two of counts, or the longest.
    fn within(&self, percent: u64) -> u64 {
        let wanted = (u64::from(self.count) * percent).div_ceil(100);
        let mut seen = 0;
        let reached = |bucket: &u32| {
            seen += u64::from(*bucket);
            seen >= wanted
        };
        match self.buckets.iter().position(reached) {
            Some(number) if number < reg::BUCKETS - 1 => self.longest.min(1 << number),
            _ => self.longest,
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frequency = CNTFRQ_EL0.get().max(1);
        let us = |count: u64| (u128::from(count) * 1_000_000).div_ceil(frequency.into());
        write!(
            f,
            "{} times, {} to {} us, mean {} us, half within {} us, 99 of 100 within {} us",
            self.count,
            us(self.shortest),
            us(self.longest),
            us(self.sum / u64::from(self.count.max(1))),
            us(self.within(50)),
            us(self.within(99)),
        )?;
        let filled = (0..).zip(&self.buckets).filter(|&(_, &count)| count > 0);
        filled.enumerate().try_for_each(|(index, (number, count))| {
            let start = if index == 0 { "; " } else { ", " };
            if number < reg::BUCKETS - 1 {
                write!(f, "{start}{count} up to {} us", us(1 << number))
            } else {
                write!(f, "{start}{count} longer")
            }
        })
    }
}
