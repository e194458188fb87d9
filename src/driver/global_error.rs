//! Global errors (7.5): reported, acknowledged, and recovered from where something was lost.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::{fmt, mem};

use tock_registers::LocalRegisterCopy;
use tock_registers::fields::Field;

use super::error::DriverError;
use super::faults::{Life, Phase};
use super::hooks::OutputQueue;
use super::messages::ABORTED_MESSAGES;
use super::registers::Registers;
use super::report::Incident;
use super::smmu::Control;
use super::stream::FaultMode;
use super::translation::aborted;
use super::{Delay, Smmu};
use crate::iopf::Partials;
use crate::smmuv3::StreamId;
use crate::smmuv3::registers::fields::GERROR;
use crate::sync::{Cpu, Masked};

/// The global errors that were found active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalErrors {
    /// The command queue stopped (CMDQ_ERR). It has been repaired.
    pub command_queue: bool,
    /// A write to the event queue aborted (EVENTQ_ABT_ERR): records are lost, those of stalls perhaps among them.
    pub event_queue_abort: bool,
    /// A write to the PRI queue aborted (PRIQ_ABT_ERR): page requests are lost. The queue has started anew.
    pub page_request_queue_abort: bool,
    /// A message was aborted (MSI_*_ABT_ERR), and with it an interrupt lost: the drainer of the queue has been woken.
    pub msi_abort: bool,
    /// So many messages were aborted ([`ABORTED_MESSAGES`]) that more will be: where the SMMU has wires, [`Smmu::set_messages`]
    /// should go back to them. Without, [`Smmu::expire`] finds what no interrupt tells.
    pub unreachable: bool,
    /// The SMMU entered service failure mode (12.3). It is given up, as by [`Smmu::give_up`].
    pub service_failure: bool,
    /// [`Smmu::recover`] must run: after an abort of the event queue it stays shut until then. [`Smmu::expire`] asks for it too where PROD of
    /// a queue made no sense, and what there was until then was skipped.
    pub recover: bool,
}

/// What aborts of the queues have cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Event records thrown away unread since the last recovery. Not among them are those whose write aborted: how many these
    /// are, nobody knows.
    pub events: u64,
    /// Page requests thrown away unread since then, likewise.
    pub page_requests: u64,
    /// Stalls that waited for their answer, and that STALL_TERM ended instead.
    pub terminated: usize,
    /// A StreamID of each device that waits for [`Smmu::reopen_faults`], or [`Smmu::disable_faults`], since this recovery or an
    /// earlier one.
    pub streams: Vec<StreamId>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, page_requests, terminated, streams } = self;
        write!(f, "{events} event records and {page_requests} page requests lost, {terminated} stalls ended, ")?;
        write!(f, "to be reopened: {streams:?}")
    }
}

type Flags = LocalRegisterCopy<u32, GERROR::Register>;

/// The errors that stand for an interrupt lost, and the queue that it was about.
const MESSAGES: [(Field<u32, GERROR::Register>, Option<OutputQueue>); 3] = [
    (GERROR::MSI_EVENTQ_ABT_ERR, Some(OutputQueue::Events)),
    (GERROR::MSI_PRIQ_ABT_ERR, Some(OutputQueue::PageRequests)),
    // Whatever it was about is found here.
    (GERROR::MSI_GERROR_ABT_ERR, None),
];

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Reports the active global errors, repairs what can be repaired in an interrupt, and acknowledges them.
    ///
    /// For the global error interrupt. [`GlobalErrors::recover`] asks for [`Smmu::recover`] at thread level.
    pub fn handle_global_error(&self, masked: &Masked) -> GlobalErrors {
        if self.hardware.active_errors() == 0 {
            return GlobalErrors::default();
        }
        let command_queue = self.commands.repair(masked);
        let active = Flags::new(self.hardware.active_errors());
        let service_failure = active.is_set(GERROR::SFM_ERR);
        if service_failure {
            self.give_up();
        }
        if active.is_set(GERROR::MSI_CMDQ_ABT_ERR) {
            self.commands.abandon_messages();
        }
        let event_queue_abort = active.is_set(GERROR::EVENTQ_ABT_ERR);
        let page_request_queue_abort = active.is_set(GERROR::PRIQ_ABT_ERR);
        // While an abort is not acknowledged nothing is written to that queue, so what is thrown away is what there was. None of
        // it is believed (7.2.2, 8.2), though groups with their Last may be among it: their devices are named by `recover`.
        if let (true, Some(page_requests)) = (page_request_queue_abort, &self.page_requests) {
            page_requests.discard(&self.hardware, masked);
            self.faults.discard_partials(masked, Partials::All);
        }
        // Without stalls the event queue holds reports alone: what aborted is lost, and nobody waits for it. Those of an SMMU that is
        // given up end with it.
        let stalls_lost = event_queue_abort && self.features.can_stall() && !self.is_given_up();
        let known = if stalls_lost && self.events.shut(masked) { GERROR::EVENTQ_ABT_ERR::SET.mask() } else { 0 };
        let mut simple = GERROR::PRIQ_ABT_ERR::SET
            + GERROR::MSI_CMDQ_ABT_ERR::SET
            + GERROR::MSI_EVENTQ_ABT_ERR::SET
            + GERROR::MSI_PRIQ_ABT_ERR::SET
            + GERROR::MSI_GERROR_ABT_ERR::SET
            + GERROR::SFM_ERR::SET;
        if !stalls_lost {
            simple += GERROR::EVENTQ_ABT_ERR::SET;
        }
        self.hardware.acknowledge(masked, simple.mask() & active.get(), |_| {});
        if let (true, Some(page_requests)) = (page_request_queue_abort, &self.page_requests) {
            page_requests.note_loss();
        }
        if active.get() & !known != 0 {
            self.hardware.reports.tell(masked, Incident::GlobalErrors(active.get() & !known));
        }
        // Acknowledged before: another one that aborts from here on is told of anew.
        let mut lost = 0;
        for (_, queue) in MESSAGES.iter().filter(|(error, _)| active.is_set(*error)) {
            lost += 1;
            queue.iter().for_each(|queue| self.hooks.wake.wake(masked, *queue));
        }
        let lost_before = self.aborted_messages.fetch_add(lost, Ordering::Relaxed);
        GlobalErrors {
            command_queue,
            event_queue_abort,
            page_request_queue_abort,
            msi_abort: lost > 0 || active.is_set(GERROR::MSI_CMDQ_ABT_ERR),
            unreachable: lost > 0 && lost_before.saturating_add(lost) >= ABORTED_MESSAGES,
            service_failure,
            recover: stalls_lost || page_request_queue_abort,
        }
    }

    /// Gives up an SMMU that does not do its work any more, one whose commands keep timing out for example. Nothing is asked of it from
    /// then on: answers to it are counted ([`CommandCounts::refused`](super::command_queue::CommandCounts::refused)), so that every group
    /// that is pending ends by its handler or by its time-out, and all else fails with [`DriverError::GivenUp`] at once, but what takes
    /// things away: [`Smmu::disable_faults`] and [`Smmu::detach`].
    ///
    /// [`Smmu::forget`] fails for good, since nobody can prove what such an SMMU still reads: address spaces, tables and queues are not
    /// used again. When nothing is attached any more, [`Smmu::probe`] may try to bring the SMMU up anew, with queues and tables of its
    /// own; out of service failure mode only a system reset is sure to lead (12.3).
    pub fn give_up(&self) {
        self.hardware.give_up();
    }

    /// Whether the SMMU is given up.
    pub fn is_given_up(&self) -> bool {
        self.hardware.is_given_up()
    }

    /// Recovers from aborts of the queues, and says what was lost and whose faults are to be reopened.
    ///
    /// An abort of the event queue may have eaten stall records: their transactions would wait for ever. So every stream that
    /// stalls is aborted, its stalls are terminated, and it is closed in the fault core: those of [`FaultMode::Terminate`] too, where
    /// every fault stalls. The queue starts anew; streams with page requests and those that terminate go on undisturbed (7.2.2).
    ///
    /// An abort of the PRI queue may have eaten requests of any device, which waits for their answers, or was told by the SMMU to
    /// send no more (8.2). The devices are named, and nothing else is done to them.
    ///
    /// Records that were skipped since PROD of their queue made no sense may be lost in the same way.
    ///
    /// # Errors
    ///
    /// [`DriverError::HeapFull`], with nothing done, or that of the step that failed; the queue stays shut then, and the call may be repeated.
    pub fn recover(&self, cpu: &mut Cpu) -> Result<Lost, DriverError> {
        let mut control = self.control(cpu)?;
        let Control { streams, lives, terminated, .. } = &mut *control;
        let mut lost = Lost::default();
        lost.streams.try_reserve_exact(lives.len() + streams.len())?;
        let (skipped_events, skipped_requests) =
            (self.events.unrecovered(), self.page_requests.as_ref().and_then(|queue| queue.unrecovered()));
        // Shut also where a core had seen the abort before another recovery acknowledged it, and shut the queue only then.
        let is_aborted = Flags::new(self.hardware.active_errors()).is_set(GERROR::EVENTQ_ABT_ERR)
            || cpu.masked(|masked| self.events.is_shut(masked));
        if is_aborted || skipped_events.is_some() && self.features.can_stall() {
            // No drain answers behind STALL_TERM what was written before it.
            cpu.masked(|masked| self.events.shut(masked));
            for life in lives.iter_mut().filter(|life| life.mode == FaultMode::Stall) {
                let Some(&stream) = life.streams.first() else { continue };
                if life.phase == Phase::Served {
                    life.phase = Phase::Stopped;
                }
                let (closing, grace) = self.terminate_stalls(cpu, streams, stream, life)?;
                *terminated += closing.answer_pending(cpu, &grace).terminated;
            }
            let has_life = |stream: &StreamId| lives.iter().any(|life| life.has(*stream));
            for (&stream, own) in streams.iter_mut().filter(|(stream, own)| own.stalls_unasked && !has_life(stream)) {
                own.stopped = true;
                self.change_entry(cpu, stream, own, &aborted(own.disabled))?;
                self.send_stall_term(cpu, &[stream])?;
            }
            cpu.masked(|masked| {
                self.events.discard(&self.hardware, masked);
                self.hardware.acknowledge(masked, GERROR::EVENTQ_ABT_ERR::SET.mask(), |_| {});
            });
        }
        skipped_events.into_iter().for_each(|nonsense| self.events.recover(nonsense));
        if let (Some(queue), Some(nonsense)) = (&self.page_requests, skipped_requests) {
            queue.recover(nonsense);
        }
        lost.terminated = mem::take(terminated);
        cpu.masked(|masked| {
            lost.events = self.events.take_lost(masked);
            lost.page_requests = self.page_requests.as_ref().map_or(0, |queue| queue.take_lost(masked));
        });
        let waits = |life: &&Life| match life.phase {
            Phase::Served => self.has_lost_requests(life),
            Phase::Stopped => true,
            Phase::Ending => false,
        };
        lost.streams.extend(lives.iter().filter(waits).filter_map(|life| life.streams.first()));
        lost.streams.extend(streams.iter().filter(|(_, own)| own.stopped && own.complete).map(|(stream, _)| stream));
        Ok(lost)
    }
}
