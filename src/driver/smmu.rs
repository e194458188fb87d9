//! One SMMU.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use super::Delay;
use super::command_queue::{CommandCounts, CommandFailure, CommandQueue};
use super::context_table::Tables;
use super::dma::{Coherence, Shared};
use super::error::DriverError;
use super::faults::Life;
use super::global_error::GlobalErrors;
use super::hardware::Hardware;
use super::hooks::{EventSink, OutputQueue, Wake};
use super::record_queue::{RecordCounts, RecordQueue};
use super::registers::Registers;
use super::sorted::Sorted;
use super::stream::Stream;
use super::stream_table::StreamTable;
use super::tags::Tags;
use super::trace::Trace;
use crate::iopf::{FaultTable, Limits};
use crate::smmuv3::StreamId;
use crate::smmuv3::features::Features;
use crate::sync::wait::Expired;
use crate::sync::{Cpu, Masked};

/// What a kernel decides about an SMMU. The SMMU's own limits apply on top.
#[derive(Clone, Debug)]
pub struct Options {
    /// Entries of the command queue, as a power of two.
    pub command_queue_log2: u8,
    /// Entries of the event queue, as a power of two. There are enough for every transaction that can be stalled in any case.
    pub event_queue_log2: u8,
    /// Entries of the PRI queue, as a power of two. [`Smmu::enable_faults`] shares them out: all devices together have no more page
    /// requests outstanding.
    pub page_request_queue_log2: u8,
    /// StreamIDs covered, as a power of two: 20 at most are sensible.
    pub stream_bits: u8,
    /// The limits of the fault core.
    pub limits: Limits,
    /// How long the SMMU, a device, another core or a drainer is waited for, in microseconds.
    pub limit_us: u32,
    /// Keep a hash over records and answers in their order ([`Smmu::trace_hash`]).
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            command_queue_log2: 8,
            event_queue_log2: 9,
            page_request_queue_log2: 9,
            stream_bits: 20,
            limits: Limits { states: 64, groups: 4096 },
            limit_us: 1_000_000,
            trace: false,
        }
    }
}

/// What the driver calls in the kernel.
#[derive(Clone)]
pub struct Hooks {
    /// Wakes the core that drains a queue.
    pub wake: Arc<dyn Wake>,
    /// Takes the event records that are nobody's page fault.
    pub events: Arc<dyn EventSink>,
}

/// What [`Smmu::expire`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "an error may ask for recovery"]
pub struct Upkeep {
    /// How many groups timed out.
    pub timed_out: usize,
    /// Global errors whose interrupt was lost, or that still wait for [`Smmu::recover`].
    pub errors: GlobalErrors,
}

/// What only one core at a time may change.
pub(super) struct Control {
    pub(super) table: StreamTable,
    pub(super) streams: Sorted<StreamId, Stream>,
    /// The streams whose faults, or whose ATS alone, are enabled, or whose end is not complete.
    pub(super) lives: Vec<Life>,
    /// Stalls that a recovery ended and that it has not told of yet.
    pub(super) terminated: usize,
    /// What the next streams' context tables are made of.
    pub(super) tables: Tables,
    pub(super) asids: Tags,
    pub(super) vmids: Tags,
    pub(super) memory: Shared,
}

/// An SMMU that is up.
pub struct Smmu<R, D> {
    pub(super) hardware: Arc<Hardware<R, D>>,
    pub(super) features: Features,
    pub(super) commands: Arc<CommandQueue<R, D>>,
    pub(super) events: RecordQueue<4>,
    /// Present if the SMMU has PRI.
    pub(super) page_requests: Option<RecordQueue<2>>,
    pub(super) faults: FaultTable,
    pub(super) hooks: Hooks,
    pub(super) trace: Option<Arc<Trace>>,
    /// Messages aborted since they were set, [`Messages`](super::Messages). Relaxed: a count.
    pub(super) aborted_messages: AtomicU32,
    /// A virtual machine has had a stage 1 of its own, so that translations of both stages together may be cached. It stays so. See
    /// [`Smmu::invalidate_ipas`].
    pub(super) nested: AtomicBool,
    /// A device of `control`'s lives may be using ATS. Relaxed: see [`Smmu::invalidate`].
    pub(super) uses_ats: AtomicBool,
    /// The stream without a life whose stalls STALL_TERM answers just now, and no drain, or
    /// [`NOBODY`](super::event_queue::NOBODY). Relaxed: a drain looks at it under
    /// the queue's lock, which who sets it takes afterwards.
    pub(super) terminated: AtomicU64,
    pub(super) control: spin::Mutex<Control>,
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// What the ID registers say.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// What the tables that the SMMU walks need when their owner changes them: nothing where its accesses are coherent (IDR0.COHACC), else each
    /// entry written is cleaned before a fault is answered, before [`Smmu::invalidate`] and before [`Smmu::attach`].
    pub fn coherence(&self) -> Coherence {
        self.hardware.coherence
    }

    /// The fault core's table of this SMMU's streams.
    pub fn faults(&self) -> &FaultTable {
        &self.faults
    }

    /// The number of event records dealt with, or skipped, since the start.
    pub fn event_records(&self) -> u64 {
        self.events.done()
    }

    /// The number of page request records dealt with, or skipped, since the start.
    pub fn page_request_records(&self) -> u64 {
        self.page_requests.as_ref().map_or(0, RecordQueue::done)
    }

    /// Counts of the event queue.
    pub fn event_counts(&self) -> RecordCounts {
        self.events.counts(&self.hardware)
    }

    /// Counts of the PRI queue, zero without one.
    pub fn page_request_counts(&self) -> RecordCounts {
        self.page_requests.as_ref().map_or_else(RecordCounts::default, |queue| queue.counts(&self.hardware))
    }

    /// Counts of the command queue.
    pub fn command_counts(&self) -> CommandCounts {
        self.commands.counts()
    }

    /// The last command queue error.
    pub fn last_command_failure(&self, masked: &Masked) -> Option<CommandFailure> {
        self.commands.last_failure(masked)
    }

    /// A hash over all records and answers in their order, if [`Options::trace`] asked for it.
    pub fn trace_hash(&self, masked: &Masked) -> Option<u64> {
        self.trace.as_ref().map(|trace| trace.value(masked))
    }

    /// Answers the groups whose time is over, tries again to send what found no room in the command queue, and has records
    /// taken out, and global errors dealt with, whose interrupt was lost. To be called every few milliseconds. `now_us` is that of
    /// [`FaultTable::expire`].
    pub fn expire(&self, cpu: &Cpu, now_us: u64) -> Upkeep {
        self.hardware.reports.set_time(now_us);
        let timed_out = self.faults.expire(cpu, now_us);
        let (errors, is_shut) = cpu.masked(|masked| {
            // Only the drainer of a queue takes its records out and sends its answers.
            if self.events.is_waiting(&self.hardware) {
                self.hooks.wake.wake(masked, OutputQueue::Events);
            }
            if self.page_requests.as_ref().is_some_and(|queue| queue.is_waiting(&self.hardware)) {
                self.hooks.wake.wake(masked, OutputQueue::PageRequests);
            }
            (self.handle_global_error(masked), self.events.is_shut(masked))
        });
        let is_due = !self.is_given_up()
            && (is_shut
                || self.events.unrecovered().is_some()
                || self.page_requests.as_ref().is_some_and(|queue| queue.unrecovered().is_some()));
        Upkeep { timed_out, errors: GlobalErrors { recover: errors.recover || is_due, ..errors } }
    }

    /// The right to change streams: waits, bounded, for another core that has it, which may itself wait a few times.
    pub(super) fn control(&self, cpu: &mut Cpu) -> Result<spin::MutexGuard<'_, Control>, DriverError> {
        let look = |_: &Cpu| self.control.try_lock().ok_or(());
        self.hardware.wait(cpu, self.hardware.limit_us.saturating_mul(4), look).map_err(|_| DriverError::Busy)
    }

    /// The number of the first record of `queue` that the SMMU has not written yet.
    pub(super) fn produced(&self, masked: &Masked, queue: OutputQueue) -> u64 {
        match (queue, &self.page_requests) {
            (OutputQueue::Events, _) => self.events.produced(&self.hardware, masked),
            (OutputQueue::PageRequests, Some(records)) => records.produced(&self.hardware, masked),
            (OutputQueue::PageRequests, None) => 0,
        }
    }

    fn records(&self, queue: OutputQueue) -> u64 {
        match queue {
            OutputQueue::Events => self.event_records(),
            OutputQueue::PageRequests => self.page_request_records(),
        }
    }

    /// Has the drainer of `queue` come again if answers wait there for room in the command queue. For who waits for it: that
    /// there is room, no interrupt tells, and [`Smmu::expire`] may not be called meanwhile.
    pub(super) fn wake_for_unsent(&self, cpu: &Cpu, queue: OutputQueue) {
        let counts = match queue {
            OutputQueue::Events => self.event_counts(),
            OutputQueue::PageRequests => self.page_request_counts(),
        };
        if counts.unsent > 0 {
            cpu.masked(|masked| self.hooks.wake.wake(masked, queue));
        }
    }

    /// Has the drainer of `queue` deal with everything that the SMMU has written so far, and waits for it, bounded.
    pub(super) fn drain_past(&self, cpu: &mut Cpu, queue: OutputQueue) -> Result<(), DriverError> {
        let expected = cpu.masked(|masked| self.produced(masked, queue));
        if self.records(queue) >= expected {
            return Ok(());
        }
        cpu.masked(|masked| self.hooks.wake.wake(masked, queue));
        let look = |cpu: &Cpu| match self.records(queue) {
            done if done >= expected => Ok(()),
            done => {
                self.wake_for_unsent(cpu, queue);
                Err(done)
            }
        };
        self.hardware.wait(cpu, self.hardware.limit_us, look).map_err(|Expired { last: actual, waited_us }| {
            DriverError::NotDrained { queue, expected, actual, waited_us }
        })
    }
}
