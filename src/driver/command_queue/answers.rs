//! Answers to page faults: CMD_RESUME (4.7) and CMD_PRI_RESP (4.5), put into the queue in masked sections by whoever decided them.

use core::hint;
use core::sync::atomic::Ordering;

use super::{CommandQueue, WORDS};
use crate::driver::error::CommandTimeout;
use crate::driver::registers::Registers;
use crate::driver::{BATCH, Delay};
use crate::iopf::{Answer, BUDGET, NotSent, PageResponder, Target};
use crate::smmuv3::command::{Command, ResumeAction};
use crate::smmuv3::event::{Stall, StallRun};
use crate::smmuv3::{PageResponse, StreamId};
use crate::sync::Masked;
use crate::sync::wait;

/// The longest wait for room for answers, in microseconds: it is one with interrupts masked.
const ANSWER_LIMIT_US: u32 = 1_000;

/// Tag of an answer in the trace.
const TRACE_ANSWER: u8 = b'A';

/// An answer as the command that carries it.
#[derive(Clone, Copy, Debug)]
pub(in crate::driver) struct AnswerCommand(pub(in crate::driver) [u64; WORDS]);

impl AnswerCommand {
    /// Whose answer it is.
    pub(in crate::driver) fn stream(self) -> Option<StreamId> {
        match Command::decode(self.0) {
            Ok(Command::Resume { stream, .. } | Command::PriResp { stream, .. }) => Some(stream),
            _ => None,
        }
    }
}

/// Answers on their way into the queue.
pub(in crate::driver) type Answers = heapless::Vec<AnswerCommand, BATCH>;

/// Answers that found no room in the queue in time.
#[derive(Debug)]
pub(in crate::driver) struct Unsent {
    /// How many of the answers were sent: the first ones.
    pub(in crate::driver) sent: usize,
    /// What the next ones waited for.
    pub(in crate::driver) timeout: CommandTimeout,
}

impl<R: Registers, D: Delay> CommandQueue<R, D> {
    /// Whether page responses to `stream` carry the PASID of the request, as its endpoint's "PRG Response PASID Required"
    /// asks.
    pub(in crate::driver) fn set_response_pasid(&self, stream: StreamId, carried: bool) {
        let (word, bit) = pasid_bit(stream);
        // Relaxed: set before the stream's faults are enabled, and not changed while they are.
        match self.without_pasid.get(word) {
            Some(word) if carried => word.fetch_and(!bit, Ordering::Relaxed),
            Some(word) => word.fetch_or(bit, Ordering::Relaxed),
            None => return,
        };
    }

    fn response_carries_pasid(&self, stream: StreamId) -> bool {
        let (word, bit) = pasid_bit(stream);
        self.without_pasid.get(word).is_none_or(|word| word.load(Ordering::Relaxed) & bit == 0)
    }

    /// Puts answers to the stalls of all `runs`, `count` together, which fit `unsent`, into the queue, or into `unsent` where there is no
    /// room now for all. [`publish`](Self::publish) follows in the same masked section.
    #[inline(always)]
    pub(in crate::driver) fn resume<'s>(
        &self,
        masked: &Masked,
        runs: impl Iterator<Item = StallRun<'s>> + Clone,
        count: usize,
        response: PageResponse,
        unsent: &mut Answers,
    ) {
        if !self.features.can_stall() || self.hardware.is_given_up() {
            self.refused.fetch_add(count as u64, Ordering::Relaxed);
            return;
        }
        let action = action(response);
        let commands = || {
            let command =
                move |stall: Stall| Command::Resume { stream: stall.stream(), stag: stall.stag(), action }.encode();
            runs.clone().map(move |run| run.iter().map(command))
        };
        if !unsent.is_empty() || self.fill(masked, commands(), count).is_err() {
            hint::cold_path();
            // Where there is no room, they are tried again.
            commands().flatten().for_each(|command| unsent.push(AnswerCommand(command)).unwrap_or(()));
        } else if let Some(trace) = &self.trace {
            commands().flatten().for_each(|command| trace.add(masked, TRACE_ANSWER, &command));
        }
    }

    /// Sends `answers` in this order, with one PROD write if they fit the queue at once. This is a masked section, so it waits for
    /// a short time while the queue is full, and after one wait in vain for none, until there is room again. Those to an SMMU that
    /// is given up are counted, and nobody waits for them.
    ///
    /// # Errors
    ///
    /// [`Unsent`] when the SMMU consumed nothing in time.
    pub(in crate::driver) fn answer(&self, masked: &Masked, answers: &[AnswerCommand]) -> Result<(), Unsent> {
        let mut sent = 0;
        for batch in answers.chunks(self.ring.size() as usize) {
            let limit_us = match self.stuck.load(Ordering::Relaxed) {
                true => 0,
                false => ANSWER_LIMIT_US.min(self.hardware.limit_us),
            };
            let submit = || match self.hardware.is_given_up() {
                true => Ok(None),
                false => self.try_submit(masked, batch.iter().map(|answer| answer.0)).map(Some),
            };
            let submitted = wait::until(&mut self.hardware.delay(), limit_us, submit);
            self.stuck.store(submitted.is_err(), Ordering::Relaxed);
            let positions =
                submitted.map_err(|expired| Unsent { sent, timeout: self.no_room(batch.len(), &expired) })?;
            if positions.is_none() {
                self.refused.fetch_add((answers.len() - sent) as u64, Ordering::Relaxed);
                return Ok(());
            }
            if let Some(trace) = &self.trace {
                batch.iter().for_each(|answer| trace.add(masked, TRACE_ANSWER, &answer.0));
            }
            sent += batch.len();
        }
        Ok(())
    }

    /// The command that carries `answer`. What this SMMU has no command for is counted instead.
    #[inline(always)]
    pub(in crate::driver) fn command_for(&self, answer: &Answer) -> Option<AnswerCommand> {
        let &Answer { stream, substream, to, response } = answer;
        let command = match to {
            Target::Stall(stag) if self.features.can_stall() => {
                Command::Resume { stream, stag, action: action(response) }
            }
            Target::Group(group) if self.features.pri => {
                let substream = substream.filter(|_| self.response_carries_pasid(stream));
                Command::PriResp { stream, substream, group, response }
            }
            Target::Stall(_) | Target::Group(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        Some(AnswerCommand(command.encode()))
    }

    /// Whether this SMMU has a command for answers to `target`.
    fn has_command(&self, target: Target) -> bool {
        match target {
            Target::Stall(_) => self.features.can_stall(),
            Target::Group(_) => self.features.pri,
        }
    }
}

impl<R: Registers, D: Delay> PageResponder for CommandQueue<R, D> {
    fn respond(&self, masked: &Masked, answers: &[Answer]) -> Result<(), NotSent> {
        let mut sent = 0;
        for batch in answers.chunks(BUDGET) {
            let mut commands = heapless::Vec::<_, BUDGET>::new();
            commands.extend(batch.iter().filter_map(|answer| self.command_for(answer)));
            self.answer(masked, &commands).map_err(|unsent| {
                let mut with_command = (sent..).zip(batch).filter(|(_, answer)| self.has_command(answer.to));
                NotSent { sent: with_command.nth(unsent.sent).map_or(sent, |(first_unsent, _)| first_unsent) }
            })?;
            sent += batch.len();
        }
        Ok(())
    }
}

/// How a stalled transaction goes on.
const fn action(response: PageResponse) -> ResumeAction {
    match response {
        PageResponse::Success => ResumeAction::Retry,
        PageResponse::Invalid | PageResponse::Failure => ResumeAction::Abort,
    }
}

/// The word and the bit that stand for a stream.
const fn pasid_bit(stream: StreamId) -> (usize, u64) {
    ((stream.0 / u64::BITS) as usize, 1 << (stream.0 % u64::BITS))
}
