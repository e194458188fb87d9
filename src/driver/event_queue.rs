//! The event queue: stall records go to the fault core, the rest to the kernel's sink (7.2, 7.3).

use super::command_queue::{Answers, Unsent};
use super::record_queue::Drained;
use super::registers::Registers;
use super::{Delay, Smmu};
use crate::iopf::{Answer, Fault, Report, Request};
use crate::smmuv3::event::{Event, TranslationFault};
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
            |record, words| self.take_event(masked, record, words),
            || log::warn!("the event queue overflowed: reports of terminated accesses are lost"),
            |answers| self.send(masked, answers),
        )
    }

    fn take_event(&self, masked: &Masked, record: u64, words: [u64; 4]) -> Option<Answer> {
        if let Some(trace) = &self.trace {
            trace.add(masked, TRACE_EVENT, &words);
        }
        match Event::decode(words) {
            Ok(Event::Fault(fault)) => match request(&fault) {
                Some(request) => self.report(masked, record, request),
                None => {
                    self.hooks.events.event(masked, &Event::Fault(fault));
                    None
                }
            },
            Ok(event) => {
                self.hooks.events.event(masked, &event);
                None
            }
            Err(error) => {
                self.hooks.events.undecodable(masked, words, error);
                None
            }
        }
    }

    pub(super) fn report(&self, masked: &Masked, record: u64, fault: Fault) -> Option<Answer> {
        match self.faults.report(masked, record, fault) {
            Report::Answer(answer) => Some(answer),
            Report::Held | Report::Deferred | Report::Swallowed => None,
        }
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

/// The fault to answer, if the record stands for a stalled transaction (3.12: a stream set to stall may terminate too).
fn request(fault: &TranslationFault) -> Option<Fault> {
    let stag = fault.stag?;
    Some(Fault {
        stream: fault.stream,
        substream: fault.substream,
        address: fault.address,
        access: fault.access,
        request: Request::Stall(stag),
    })
}
