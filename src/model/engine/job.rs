//! Which bytes of a job come next.

use super::registers::control;
use super::{End, Setup};
use crate::smmuv3::SubstreamId;

/// The bytes of a window, the unit of order and depth.
const WINDOW: u64 = 4096;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Copy,
    Fill,
    Compare,
}

/// A job under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) operation: Operation,
    pub(super) source: u64,
    pub(super) destination: u64,
    pub(super) length: u64,
    pub(super) pattern: u64,
    pub(super) substream: Option<SubstreamId>,
    pub(super) depth: usize,
    pub(super) group_size: usize,
    pub(super) interrupt: bool,
    pub(super) stopping: bool,
    /// Why the job ends before its time. No new window starts once it is set.
    pub(super) end: Option<End>,
    windows: u64,
    started: u64,
    /// Window number `i` to start is window `(first + i * stride) % windows`, which visits each once because `stride` and
    /// `windows` have no common divisor.
    first: u64,
    stride: u64,
}

impl Job {
    pub(super) fn new(setup: &Setup) -> Self {
        let operation = match setup.control >> control::OPERATION & 3 {
            control::COPY => Operation::Copy,
            control::FILL => Operation::Fill,
            _ => Operation::Compare,
        };
        let windows = setup.length.div_ceil(WINDOW);
        let (first, stride) = order(setup.seed, windows);
        Self {
            operation,
            source: setup.source,
            destination: setup.destination,
            length: setup.length,
            pattern: setup.pattern,
            substream: (setup.control & control::USE_PASID != 0)
                .then_some(SubstreamId::from_low_bits(setup.pasid.into())),
            depth: setup.depth as usize,
            group_size: setup.group_size as usize,
            interrupt: setup.control & control::INTERRUPT != 0,
            stopping: false,
            end: None,
            windows,
            started: 0,
            first,
            stride,
        }
    }

    /// Whether windows are left to start.
    pub(super) fn has_more(&self) -> bool {
        self.started < self.windows && self.end.is_none() && !self.stopping
    }

    /// The next window: offset of its first byte and of the byte after its last.
    pub(super) fn next_window(&mut self) -> Option<core::ops::Range<u64>> {
        if !self.has_more() {
            return None;
        }
        let turn = u128::from(self.started) * u128::from(self.stride) + u128::from(self.first);
        let window = (turn % u128::from(self.windows)) as u64;
        self.started += 1;
        let start = window * WINDOW;
        Some(start..start.saturating_add(WINDOW).min(self.length))
    }

    /// The length of the piece at `offset` of a window that ends at `end`: up to the next page boundary on either side.
    pub(super) fn piece(&self, offset: u64, end: u64) -> u64 {
        let room = |base: u64| WINDOW - base.wrapping_add(offset) % WINDOW;
        let length = (end - offset).min(room(self.destination));
        if self.operation == Operation::Fill { length } else { length.min(room(self.source)) }
    }
}

/// First window and stride for `seed`: ascending order for 0.
fn order(seed: u32, windows: u64) -> (u64, u64) {
    if seed == 0 || windows < 2 {
        return (0, 1);
    }
    // A multiplicative hash spreads near-by seeds.
    let mixed = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut stride = 1 + (mixed >> 32) % (windows - 1);
    while gcd(stride, windows) != 1 {
        stride -= 1;
    }
    (mixed % windows, stride)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
