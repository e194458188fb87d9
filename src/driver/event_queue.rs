//! The event queue: stall records go to the fault core, the rest to the kernel's sink (7.2, 7.3).

use super::command_queue::{Answers, Unsent};
use super::record_queue::{Drained, Records};
use super::registers::Registers;
use super::{Delay, Smmu};
use crate::iopf::{Fault, Report, Request};
use crate::smmuv3::event::{Event, Stall};
use crate::sync::Masked;

/// Tag of an event record in the trace.
const TRACE_EVENT: u8 = b'E';

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Takes one batch of records out of the event queue, and answers what can be answered at once.
    ///
    /// For the event queue's interrupt, and once after the interrupt was enabled. While [`Drained::more`] is set the
    /// caller comes again: no further interrupt announces what is in the queue already. While answers wait for room in
    /// the command queue nothing is taken out; [`Smmu::expire`] wakes the drainer to try again.
    pub fn drain_events(&self, masked: &Masked) -> Drained {
        self.events.drain(
            &self.hardware,
            masked,
            |records, answers| self.report(masked, records, answers, |words| self.take_event(masked, words)),
            || log::warn!("the event queue overflowed: reports of terminated accesses are lost"),
            |answers| self.send(masked, answers),
        )
    }

    /// The fault in a record, if it is one to answer.
    #[inline(always)]
    fn take_event(&self, masked: &Masked, words: [u64; 4]) -> Option<Fault> {
        if let Some(trace) = &self.trace {
            trace.add(masked, TRACE_EVENT, &words);
        }
        let Some(Stall { stream, substream, stag, access, address }) = Stall::decode(words) else {
            self.pass_on(masked, words);
            return None;
        };
        Some(Fault { stream, substream, address, access, request: Request::Stall(stag) })
    }

    /// Gives a record that is nobody's page fault to the kernel.
    #[cold]
    fn pass_on(&self, masked: &Masked, words: [u64; 4]) {
        match Event::decode(words) {
            Ok(event) => self.hooks.events.event(masked, &event),
            Err(error) => self.hooks.events.undecodable(masked, words, error),
        }
    }

    /// Reports the faults that `fault_of` finds in `records`.
    #[inline(always)]
    pub(super) fn report<const WORDS: usize>(
        &self,
        masked: &Masked,
        records: Records<'_, WORDS>,
        answers: &mut Answers,
        fault_of: impl Fn([u64; WORDS]) -> Option<Fault>,
    ) {
        self.faults.batch(masked, |batch| {
            for (number, words) in records {
                if let Some(fault) = fault_of(words)
                    && let Report::Answer(answer) = batch.report(number, &fault)
                    && let Some(command) = self.commands.command_for(&answer)
                {
                    // There is room for an answer to each record.
                    let _ = answers.push(command);
                }
            }
        });
    }

    /// Sends the answers of a batch; what finds no room is sent before more is taken out of the queue.
    pub(super) fn send(&self, masked: &Masked, answers: &mut Answers) {
        let all = answers.len();
        let Err(Unsent { sent, timeout }) = self.commands.answer(masked, answers) else { return answers.clear() };
        answers.drain(..sent);
        if timeout.waited_us > 0 {
            log::error!("{} of {all} answers wait to be sent: {timeout}", answers.len());
        }
    }
}
