//! What the driver tells without being asked, line by line, and no faster than a person reads.
//!
//! How often there is something to tell a hostile device decides, and it is told with interrupts masked, perhaps by a slow UART. So
//! each kind of incident has [`LINES`] lines a second. The others are counted: the next line of the kind says how many there were
//! before it, and the counts of the queue hold them all. A second is over when [`Smmu::expire`](super::Smmu::expire) says so.

use alloc::sync::Arc;
use core::array;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tock_registers::LocalRegisterCopy;

use super::command_queue::CommandFailure;
use super::error::CommandTimeout;
use super::hooks::{EventSink, OutputQueue};
use crate::smmuv3::event::{Event, EventError};
use crate::smmuv3::registers::Register;
use crate::smmuv3::registers::fields::GERROR;
use crate::sync::Masked;

/// The lines that each kind of incident has in a second.
pub const LINES: u32 = 4;

/// Something that the kernel may want to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// What it is.
    pub incident: Incident<'a>,
    /// How many incidents of its kind were not reported since the last that was, as there were too many.
    pub suppressed: u64,
}

/// What there may be to tell. Each event number (7.3) is a kind of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incident<'a> {
    /// An event record that is nobody's page fault.
    Event(&'a Event),
    /// An event record that is not defined (7.3).
    Undecodable {
        /// As the SMMU wrote it.
        words: [u64; 4],
        /// What is wrong.
        error: EventError,
    },
    /// A queue overflowed: reports of terminated accesses are lost, or page requests (7.4, 8.1).
    Overflow(OutputQueue),
    /// PROD of a queue is more than the whole queue ahead. The queue is skipped up to it.
    Nonsense {
        /// Which queue.
        queue: OutputQueue,
        /// What was read.
        prod: u32,
    },
    /// The command queue stopped, and goes on (7.1).
    CommandFailure(&'a CommandFailure),
    /// Answers found no room in the command queue. They are tried again.
    Unsent {
        /// How many of a batch.
        waiting: usize,
        /// What they waited for.
        timeout: CommandTimeout,
    },
    /// These bits of GERROR were active (7.5).
    GlobalErrors(u32),
}

/// Kinds below this are the numbers of events, of which [`IMPLEMENTATION_DEFINED`] is none.
const EVENTS: usize = 0x26;
const IMPLEMENTATION_DEFINED: usize = 0;
const KINDS: usize = EVENTS + 8;

impl Incident<'_> {
    const fn kind(&self) -> usize {
        match self {
            Self::Event(event) => match event.number() as usize {
                number if number < EVENTS => number,
                _ => IMPLEMENTATION_DEFINED,
            },
            Self::Undecodable { .. } => EVENTS,
            Self::Overflow(queue) => EVENTS + 1 + *queue as usize,
            Self::Nonsense { queue, .. } => EVENTS + 3 + *queue as usize,
            Self::CommandFailure(_) => EVENTS + 5,
            Self::Unsent { .. } => EVENTS + 6,
            Self::GlobalErrors(_) => EVENTS + 7,
        }
    }

    fn source(&self) -> Option<Source> {
        match self {
            Self::Event(_) | Self::Undecodable { .. } => Some(Source::Events),
            Self::Overflow(queue) | Self::Nonsense { queue, .. } => Some((*queue).into()),
            Self::CommandFailure(_) | Self::Unsent { .. } => Some(Source::Commands),
            Self::GlobalErrors(_) => None,
        }
    }
}

/// The queue that an incident is about.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Events,
    PageRequests,
    Commands,
}

impl From<OutputQueue> for Source {
    fn from(queue: OutputQueue) -> Self {
        match queue {
            OutputQueue::Events => Self::Events,
            OutputQueue::PageRequests => Self::PageRequests,
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.incident)?;
        match self.suppressed {
            0 => Ok(()),
            suppressed => write!(f, " (and {suppressed} of its kind before it)"),
        }
    }
}

impl fmt::Display for Incident<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Event(event) => write!(f, "{event}"),
            Self::Undecodable { words: [a, b, c, d], error } => {
                write!(f, "event record {a:#018x} {b:#018x} {c:#018x} {d:#018x}: {error}")
            }
            Self::Overflow(OutputQueue::Events) => {
                f.write_str("the event queue overflowed: reports of terminated accesses are lost")
            }
            Self::Overflow(OutputQueue::PageRequests) => {
                f.write_str("the PRI queue overflowed: groups without a Last are dropped")
            }
            Self::Nonsense { queue, prod } => {
                let register = match queue {
                    OutputQueue::Events => Register::EventqProd,
                    OutputQueue::PageRequests => Register::PriqProd,
                };
                write!(f, "{} is {prod:#x}: more than the whole queue ahead", register.name())
            }
            Self::CommandFailure(failure) => write!(f, "command queue error: {failure}"),
            Self::Unsent { waiting, timeout } => write!(f, "{waiting} answers wait to be sent: {timeout}"),
            Self::GlobalErrors(bits) => {
                let active = LocalRegisterCopy::<u32, GERROR::Register>::new(bits);
                f.write_str("global errors:")?;
                for (name, field) in [
                    ("CMDQ_ERR", GERROR::CMDQ_ERR),
                    ("EVENTQ_ABT_ERR", GERROR::EVENTQ_ABT_ERR),
                    ("PRIQ_ABT_ERR", GERROR::PRIQ_ABT_ERR),
                    ("MSI_CMDQ_ABT_ERR", GERROR::MSI_CMDQ_ABT_ERR),
                    ("MSI_EVENTQ_ABT_ERR", GERROR::MSI_EVENTQ_ABT_ERR),
                    ("MSI_PRIQ_ABT_ERR", GERROR::MSI_PRIQ_ABT_ERR),
                    ("MSI_GERROR_ABT_ERR", GERROR::MSI_GERROR_ABT_ERR),
                    ("SFM_ERR", GERROR::SFM_ERR),
                ] {
                    if active.is_set(field) {
                        write!(f, " {name}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// How much of one kind was told. All relaxed: several cores that tell at once may get a line more than there are, and nobody waits.
#[derive(Default)]
struct Kind {
    /// Lines of this second.
    lines: AtomicU32,
    /// Incidents without a line since the last line.
    untold: AtomicU64,
}

/// The reports of one SMMU.
pub(super) struct Reports {
    sink: Arc<dyn EventSink>,
    second: AtomicU64,
    kinds: [Kind; KINDS],
    /// Incidents without a line, ever, by [`Source`].
    suppressed: [AtomicU64; 3],
}

impl Reports {
    pub(super) fn new(sink: Arc<dyn EventSink>) -> Self {
        let kinds = array::from_fn(|_| Kind::default());
        Self { sink, second: AtomicU64::new(0), kinds, suppressed: Default::default() }
    }

    /// Reports `incident`, or counts it.
    #[cold]
    pub(super) fn tell(&self, masked: &Masked, incident: Incident<'_>) {
        let Some(kind) = self.kinds.get(incident.kind()) else { return };
        if kind.lines.load(Relaxed) >= LINES {
            kind.untold.fetch_add(1, Relaxed);
            let count = incident.source().and_then(|source| self.suppressed.get(source as usize));
            count.map(|count| count.fetch_add(1, Relaxed));
            return;
        }
        kind.lines.fetch_add(1, Relaxed);
        self.sink.report(masked, &Report { incident, suppressed: kind.untold.swap(0, Relaxed) });
    }

    /// With the time from any beginning, a new second gives new lines.
    pub(super) fn set_time(&self, now_us: u64) {
        let second = now_us / 1_000_000;
        if self.second.load(Relaxed) != second && self.second.swap(second, Relaxed) != second {
            self.kinds.iter().for_each(|kind| kind.lines.store(0, Relaxed));
        }
    }

    /// How many incidents of `source` were not reported.
    pub(super) fn suppressed(&self, source: Source) -> u64 {
        self.suppressed.get(source as usize).map_or(0, |count| count.load(Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
