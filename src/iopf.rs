//! The fault core: which stream a fault belongs to, what is still unanswered, and who may answer it.
//!
//! It knows no SMMU: records come in as [`Fault`]s, answers leave through a [`PageResponder`].
//!
//! # The life of a stream
//!
//! [`FaultTable::open`] makes a fault state and publishes it under the master's StreamIDs. [`FaultTable::batch`] finds it in
//! a read section and asks the handler. What the handler answers at once goes back to the caller, who sends it. Else the
//! group moves to a slot of the state, and a [`FaultGroup`], which owns a reference to the state, to the handler.
//! [`FaultGroup::respond`], the time-out ([`FaultTable::expire`]) and the disabler ([`Closing`]) claim the slot; one wins.
//! After [`FaultTable::close`] and a grace period only the disabler is left, and [`Closing::finish`] takes the state
//! out. Its last reference, which a group may hold for long, retires it, and it is freed a grace period later.

mod batch;
mod closing;
pub mod fault;
mod group;
mod latency;
mod shared;
mod slot;
mod stalls;
mod state;
mod statistics;
mod stopping;
mod substream;
mod table;
mod work;

pub use batch::Batch;
pub use closing::{Closing, Leftover, Unfinished};
pub use fault::{Answer, Fault, Kind, Report, Request, Stage2Fault, Target};
pub use group::{Decided, FaultGroup, LateAnswer};
pub use latency::{BUCKETS, Histogram, Latencies};
pub use stalls::{StallAnswers, Stalls};
pub use statistics::{Counter, Counters, Statistics};
pub use stopping::{StopError, Stopping};
pub use substream::{MAX_SUBSTREAM_HANDLERS, SubstreamError};
pub(crate) use table::repeated;
pub use table::{CloseError, FaultTable, FlushError, OpenError, OpenRequest, Partials, Totals};
pub use work::{BUDGET, OWN_TURNS, PATIENCE, Priority, WakeCore, WorkCounts, WorkQueues};

use crate::smmuv3::PageResponse;
use crate::smmuv3::event::StallRun;
use crate::sync::memory::try_boxed;
use crate::sync::{Cpu, Masked};

/// Answers that could not be queued; nothing of them reached the SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("of the answers only {sent} could be queued")]
pub struct NotSent {
    /// How many could be: the first ones.
    pub sent: usize,
}

/// The way answers leave: on an SMMU its command queue.
pub trait PageResponder: Send + Sync {
    /// Publishes `answers`, [`BUDGET`] at most, in this order before it returns. The caller has claimed them in this same masked
    /// section, so a grace period that ends later finds them published.
    ///
    /// # Errors
    ///
    /// [`NotSent`] when some could not be published; those are then kept and tried again by [`FaultTable::expire`].
    fn respond(&self, masked: &Masked, answers: &[Answer]) -> Result<(), NotSent>;
}

/// What a handler decides about a group at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer.
    Answer(PageResponse),
    /// It takes longer; [`FaultHandler::defer`] gets the group.
    Defer,
}

/// Decides about a stream's faults.
///
/// [`handle`](Self::handle), [`serve_at_once`](Self::serve_at_once) and [`defer`](Self::defer) run in the masked section of the
/// report, often in an interrupt: they neither wait nor allocate. On the host a group whose handler panics is answered Invalid.
pub trait FaultHandler: Send + Sync {
    /// Looks at a complete group: one stall, or the requests of a page request group in their order, at least one.
    ///
    /// Success says that every page is there with the access asked for. Invalid refuses. Failure says that PRI is down
    /// for the whole function.
    fn handle(&self, masked: &Masked, faults: &[Fault]) -> Verdict;

    /// Looks at stalls of one stream and substream, at least one, in their order, each a group of its own. Returns how many of the
    /// first ones are to be answered Success at once; of the others, [`handle`](Self::handle) is asked about the first.
    ///
    /// Unless this is overridden, that is asked about each.
    fn serve_at_once(&self, masked: &Masked, stalls: StallRun<'_>) -> usize {
        let _ = (masked, stalls);
        0
    }

    /// Takes over a group that [`handle`](Self::handle) deferred. It only puts it where someone will work on it; where
    /// there is no room, dropping it answers Invalid.
    fn defer(&self, masked: &Masked, group: FaultGroup);

    /// Decides about a group that [`defer`](Self::defer) put into [`WorkQueues`], at thread level on a core that has time. Returns it
    /// with its answer, which leaves together with those of the other groups of its turn, [`BUDGET`] at most, when the last of them
    /// was served: with less work than [`FaultGroup::respond`] for each. Or `None`, when it has answered it itself, or passed it on.
    ///
    /// It may take long. It is not called for a group that has been refused or whose stream is closed by then. Unless it is
    /// overridden, the group is dropped, and so answered Invalid.
    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        let _ = (cpu, group);
        None
    }
}

/// The most requests that a page request group may have and still be served.
pub const MAX_GROUP_REQUESTS: usize = 32;

/// The most StreamIDs of one master.
pub const MAX_MASTER_STREAMS: usize = 16;

/// What one master may ask for. Beyond it, its groups are answered Invalid; others do not notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Groups in storage, 1 to 65534: partial, deferred, or answered and not let go. No device needs
    /// more page requests outstanding.
    pub groups: u16,
    /// Requests in a page request group, 1 to [`MAX_GROUP_REQUESTS`].
    pub requests: u8,
    /// How long a deferred group may wait, in microseconds. Rounded up to milliseconds.
    pub time_out_us: u32,
    /// Whether its deferred groups come before or after those of others.
    pub priority: Priority,
}

/// What all masters of a table may have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fault states, those included that are closed and not freed yet.
    pub states: usize,
    /// Groups in storage.
    pub groups: usize,
}

/// The heap is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory for the fault table")]
pub struct NoMemory;

/// What `call` returns, or `None` if it panicked. Only where panics unwind: on the target they end the machine, and under
/// loom and shuttle they are what a test waits for.
#[cfg(not(any(target_os = "none", loom, shuttle)))]
fn survive<T>(call: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).ok()
}

/// What `call` returns.
#[cfg(any(target_os = "none", loom, shuttle))]
fn survive<T>(call: impl FnOnce() -> T) -> Option<T> {
    Some(call())
}
