//! The PRI queue: page requests become groups in the fault core (8).

use super::command_queue::Answers;
use super::record_queue::{Drained, Records, words};
use super::registers::Registers;
use super::{Delay, Smmu};
use crate::iopf::{Fault, Partials, Report, Request};
use crate::smmuv3::page_request::PageRequest;
use crate::sync::Masked;

/// Tag of a page request in the trace.
const TRACE_PAGE_REQUEST: u8 = b'P';

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Takes one batch of records out of the PRI queue, and answers what can be answered at once.
    ///
    /// CONS is written before the answers go out: an answer returns a credit, and the request that spends it needs the
    /// slot (8). To be called like [`Smmu::drain_events`]; does nothing on an SMMU without PRI.
    #[inline(never)]
    pub fn drain_page_requests(&self, masked: &Masked) -> Drained {
        let Some(page_requests) = &self.page_requests else {
            return Drained::default();
        };
        page_requests.drain(
            &self.hardware,
            masked,
            |records, answers| self.take_page_requests(masked, records, answers),
            || {
                // The SMMU has answered the Last of these groups itself, or will get no Last for them (8.1.1).
                self.faults.discard_partials(masked, Partials::All);
            },
            |answers| self.send(masked, answers),
        )
    }

    /// Reports the page requests in `records`.
    fn take_page_requests(&self, masked: &Masked, records: Records<'_, 2>, answers: &mut Answers) {
        self.faults.batch(masked, |batch| {
            records.for_each(|record| {
                let number = records.number(record);
                if let Report::Answer(answer) = batch.report(number, &self.take_page_request(masked, words(record)))
                    && let Some(command) = self.commands.command_for(&answer)
                {
                    // There is room for an answer to each record.
                    let _ = answers.push(command);
                }
            });
        });
    }

    fn take_page_request(&self, masked: &Masked, words: [u64; 2]) -> Fault {
        if let Some(trace) = &self.trace {
            trace.add(masked, TRACE_PAGE_REQUEST, &words);
        }
        let request = PageRequest::decode(words);
        Fault {
            stream: request.stream,
            substream: request.substream,
            address: request.address,
            access: request.access,
            request: Request::Page { group: request.group, last: request.last },
            stage2: None,
        }
    }
}
