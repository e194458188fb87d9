//! The event queue: stall records go to the fault core, the rest to the kernel's sink (7.2, 7.3).

use core::cell::Cell;
use core::sync::atomic::Ordering::Relaxed;

use super::command_queue::{Answers, CommandQueue, Unsent};
use super::record_queue::{Drained, Records, first_words, words};
use super::registers::Registers;
use super::report::Incident;
use super::{Delay, Smmu};
use crate::iopf::StallAnswers;
use crate::smmuv3::PageResponse;
use crate::smmuv3::event::{Event, Stall, StallRun};
use crate::sync::Masked;

/// Tag of an event record in the trace.
const TRACE_EVENT: u8 = b'E';

/// [`Smmu::terminated`] of nobody's stalls: no StreamID is as long.
pub(super) const NOBODY: u64 = u64::MAX;

/// Puts answers into the command queue, or into `unsent`.
struct Resumes<'a, R, D> {
    commands: &'a CommandQueue<R, D>,
    masked: &'a Masked,
    unsent: &'a mut Answers,
    /// There were some.
    resumed: &'a Cell<bool>,
}

impl<R: Registers, D: Delay> StallAnswers for Resumes<'_, R, D> {
    #[inline(always)]
    fn answer<'s>(&mut self, runs: impl Iterator<Item = StallRun<'s>> + Clone, count: usize, response: PageResponse) {
        self.commands.resume(self.masked, runs, count, response, self.unsent);
        self.resumed.set(true);
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Takes one batch of records out of the event queue, and answers what can be answered at once.
    ///
    /// For the event queue's interrupt, and once after the interrupt was enabled. While [`Drained::more`] is set the
    /// caller comes again: no further interrupt announces what is in the queue already. While answers wait for room in
    /// the command queue nothing is taken out; [`Smmu::expire`] wakes the drainer to try again.
    // Out of line: once, whoever calls it, and the way of a lone fault through it is one function.
    #[inline(never)]
    pub fn drain_events(&self, masked: &Masked) -> Drained {
        let resumed = Cell::new(false);
        self.events.drain(
            &self.hardware,
            masked,
            |records, answers| self.take_events(masked, records, answers, &resumed),
            || {},
            |answers| {
                // Another core may have published them before CONS was written: a stall whose record finds no room waits (7.4).
                if resumed.take() {
                    self.commands.publish_relaxed();
                }
                self.send(masked, answers);
            },
        )
    }

    /// Reports the stalls among `records`, and puts the answers that there are into the command queue, which is noted in `resumed`, or
    /// else into `answers`.
    #[inline(always)]
    fn take_events(&self, masked: &Masked, records: Records<'_, 4>, answers: &mut Answers, resumed: &Cell<bool>) {
        if let Some(trace) = &self.trace {
            records.for_each(|record| trace.add(masked, TRACE_EVENT, &words(record)));
        }
        let resumes = Resumes { commands: &self.commands, masked, unsent: answers, resumed };
        match records.only() {
            _ if self.terminated.load(Relaxed) != NOBODY => self.take_others(masked, records, resumes),
            Some(record) => {
                let fourth = || record[3].load(Relaxed);
                if !self.faults.stall(masked, records.first(), first_words(record), fourth, resumes) {
                    self.pass_on(masked, words(record));
                }
            }
            None => self.take_many(masked, records, resumes),
        }
    }

    /// As [`take_events`](Self::take_events). Out of line: it makes room for a batch of runs.
    #[inline(never)]
    fn take_many(&self, masked: &Masked, records: Records<'_, 4>, resumes: Resumes<'_, R, D>) {
        self.faults.stalls(masked, records.first(), resumes, |stalls| {
            records.for_each(|record| {
                if !stalls.report(|| (records.number(record), record[3].load(Relaxed)), first_words(record)) {
                    self.pass_on(masked, words(record));
                }
            });
        });
    }

    /// As [`take_events`](Self::take_events), while STALL_TERM answers the stalls of a stream.
    #[cold]
    #[inline(never)]
    fn take_others(&self, masked: &Masked, records: Records<'_, 4>, resumes: Resumes<'_, R, D>) {
        let terminated = self.terminated.load(Relaxed);
        let is_answered = |stall: Stall| u64::from(stall.stream().0) == terminated;
        self.faults.stalls(masked, records.first(), resumes, |stalls| {
            records.for_each(|record| {
                let first = first_words(record);
                let is_taken = Stall::decode(first).is_some_and(is_answered)
                    || stalls.report(|| (records.number(record), record[3].load(Relaxed)), first);
                if !is_taken {
                    self.pass_on(masked, words(record));
                }
            });
        });
    }

    /// Gives a record that is nobody's page fault to the kernel.
    #[cold]
    fn pass_on(&self, masked: &Masked, words: [u64; 4]) {
        match Event::decode(words) {
            Ok(event) => {
                self.hooks.events.event(masked, &event);
                self.hardware.reports.tell(masked, Incident::Event(&event));
            }
            Err(error) => {
                self.hooks.events.undecodable(masked, words, error);
                self.hardware.reports.tell(masked, Incident::Undecodable { words, error });
            }
        }
    }

    /// Sends the answers of a batch; what finds no room is sent before more is taken out of the queue.
    #[inline(always)]
    pub(super) fn send(&self, masked: &Masked, answers: &mut Answers) {
        if !answers.is_empty() {
            self.send_all(masked, answers);
        }
    }

    fn send_all(&self, masked: &Masked, answers: &mut Answers) {
        let Err(Unsent { sent, timeout }) = self.commands.answer(masked, answers) else { return answers.clear() };
        answers.drain(..sent);
        if timeout.timeout.waited_us > 0 {
            self.hardware.reports.tell(masked, Incident::Unsent { waiting: answers.len(), timeout });
        }
    }
}
