//! How long faults took, by the model: its control page (`docs/control.md`).

use core::fmt;

use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};

use crate::arch::mmio::Mmio;
use crate::model::control as reg;
use crate::smmuv3::StreamId;

const IDENT: u32 = 0x3154_4e43;

/// The model's control page, as far as it tells times.
#[derive(Debug)]
pub struct ModelTimes(Mmio);

/// Some times, in counts of the virtual counter.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    count: u32,
    sum: u64,
    shortest: u64,
    longest: u64,
    buckets: [u32; reg::BUCKETS],
}

impl ModelTimes {
    /// The control page at `registers`, or `None` if it is not one.
    pub fn new(registers: Mmio) -> Option<Self> {
        let is_there =
            registers.size() >= reg::RETRY_BUCKETS + 4 * reg::BUCKETS && registers.read32(reg::IDENT) == IDENT;
        is_there.then_some(Self(registers))
    }

    /// The times of `stream` from a fault's record to its answer, and from there until the device tried again.
    pub fn of(&self, StreamId(stream): StreamId) -> [Times; 2] {
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
        )
    }
}
