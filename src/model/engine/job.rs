//! Which bytes of a job come next.

use super::registers::{attributes, control, status};
use super::{End, Setup};
use crate::smmuv3::{Access, SubstreamId};

/// The bytes of a window, the unit of order and depth.
const WINDOW: u64 = 4096;

/// The most bytes of a single access.
const WORD: u64 = 8;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Copy,
    Fill,
    Compare,
    Read,
    Write,
    Add,
    Swap,
    CompareSwap,
}

impl Operation {
    fn decode(control: u32) -> Option<Self> {
        Some(match control >> control::OPERATION & control::OPERATION_MASK {
            control::COPY => Self::Copy,
            control::FILL => Self::Fill,
            control::COMPARE => Self::Compare,
            control::READ => Self::Read,
            control::WRITE => Self::Write,
            control::ADD => Self::Add,
            control::SWAP => Self::Swap,
            control::COMPARE_SWAP => Self::CompareSwap,
            _ => return None,
        })
    }

    /// Reads its source and keeps the bytes until it accesses its destination.
    pub(super) fn has_two_sides(self) -> bool {
        matches!(self, Self::Copy | Self::Compare)
    }

    fn is_single(self) -> bool {
        !matches!(self, Self::Copy | Self::Fill | Self::Compare)
    }

    /// What its access to the destination does, or its only one.
    fn access(self) -> Access {
        match self {
            Self::Compare | Self::Read => Access::READ,
            Self::Copy | Self::Fill | Self::Write => Access::WRITE,
            Self::Add | Self::Swap | Self::CompareSwap => Access { read: true, ..Access::WRITE },
        }
    }
}

/// A job under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) operation: Operation,
    pub(super) source: u64,
    pub(super) destination: u64,
    pub(super) length: u64,
    pub(super) pattern: u64,
    pub(super) compare: u64,
    pub(super) substream: Option<SubstreamId>,
    attributes: u32,
    pub(super) depth: usize,
    pub(super) group_size: u32,
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
        let operation = Operation::decode(setup.control);
        let windows = setup.length.div_ceil(WINDOW);
        let (first, stride) = order(setup.seed, windows);
        let mut job = Self {
            operation: operation.unwrap_or(Operation::Copy),
            source: setup.source,
            destination: setup.destination,
            length: setup.length,
            pattern: setup.pattern,
            compare: setup.compare,
            substream: (setup.control & control::USE_PASID != 0)
                .then_some(SubstreamId::from_low_bits(setup.pasid.into())),
            attributes: setup.attributes,
            depth: setup.depth as usize,
            group_size: setup.group_size,
            interrupt: setup.control & control::INTERRUPT != 0,
            stopping: false,
            end: None,
            windows,
            started: 0,
            first,
            stride,
        };
        let address = if job.operation == Operation::Read { job.source } else { job.destination };
        let fits = (1..=WORD).contains(&job.length) && job.length <= WINDOW - address % WINDOW;
        if operation.is_none() || job.operation.is_single() && !fits {
            job.end = Some(End { state: status::ABORTED, reason: status::REQUEST, address });
        }
        job
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
    pub(super) fn piece(&self, offset: u64, end: u64) -> usize {
        let room = |base: u64| WINDOW - base.wrapping_add(offset) % WINDOW;
        let length = match self.operation {
            Operation::Copy | Operation::Compare => room(self.source).min(room(self.destination)),
            Operation::Read => room(self.source),
            _ => room(self.destination),
        };
        (end - offset).min(length) as usize
    }

    /// The base address of an access and what it does: the first one of a piece, or the one to the destination.
    pub(super) fn side(&self, second: bool) -> (u64, Access) {
        let (base, access) = match self.operation {
            operation if operation.has_two_sides() && !second => (self.source, Access::READ),
            Operation::Read => (self.source, Access::READ),
            operation => (self.destination, operation.access()),
        };
        // What writes is data (13.1.2).
        let execute = self.attributes & attributes::INSTRUCTION != 0 && !access.write;
        (base, Access { privileged: self.attributes & attributes::PRIVILEGED != 0, execute, ..access })
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
