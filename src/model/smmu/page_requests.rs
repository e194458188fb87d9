//! The PRI queue and automatic responses (8).

use super::Smmu;
use super::diagnostics::count;
use super::injection::{Point, Records};
use super::msi::Source;
use super::registers::{cr0, gerror};
use crate::model::endpoint::GroupResponse;
use crate::model::memory::Memory;
use crate::model::wire::Wires;
use crate::smmuv3::event::{Event, Origin};
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{PageResponse, SubstreamId};

impl Smmu {
    /// A page request or Stop marker arrives. Returns the automatic response, if it gets one: then it was discarded.
    pub fn page_request(
        &mut self,
        request: &PageRequest,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Option<GroupResponse> {
        // Where there are no substreams, no request has one (8).
        let substream = request.substream.filter(|_| self.registers.features.ssid_bits > 0);
        let request = &PageRequest { substream, ..*request };
        let enabled = self.registers.enabled(cr0::PRIQEN) && self.registers.enabled(cr0::SMMUEN);
        // Service failure mode is not among the causes of 8.2: it is answered like a queue that is off, since the queue is
        // not accessed and the device must not wait for ever.
        if self.failed || !enabled || self.registers.error_active(gerror::PRIQ_ABT_ERR) {
            // Whatever the request: answered with failure and without PASID (8.2).
            return self.discard(request, (!request.is_stop_marker()).then_some((PageResponse::Failure, None)));
        }
        // While an overflow is not acknowledged nothing is written, even if there is space by now (8.1).
        if self.registers.page_requests.overflown() || self.registers.page_requests.is_full() {
            self.registers.page_requests.overflow();
            if request.last && self.registers.interrupts_on_last_only() {
                self.interrupt(Source::PriQueue, memory, wires);
            }
            let answered = request.last && !request.is_stop_marker();
            let response = answered.then(|| self.overflow_response(request, memory, wires));
            if answered {
                self.note_automatic(request);
            }
            return self.discard(request, response);
        }
        let queue = &mut self.registers.page_requests;
        match self.injection.passes(Point::PageRequestWrite).and_then(|()| queue.push(memory, &request.encode())) {
            Ok(was_empty) => {
                if self.injection.swaps(Records::PageRequests, Some(request.stream)) {
                    queue.swap_youngest::<2>(memory);
                }
                self.note_request(request);
                if !request.is_stop_marker() {
                    if request.last {
                        let now = self.time(wires);
                        self.times.group_recorded(request.stream, request.group, now);
                    }
                    count(&mut self.registers.diagnostics.page_requests, 1);
                    count(&mut self.registers.diagnostics.page_request_groups, u32::from(request.last));
                }
                let occurred = if self.registers.interrupts_on_last_only() { request.last } else { was_empty };
                if occurred {
                    self.interrupt(Source::PriQueue, memory, wires);
                }
                None
            }
            Err(_) => {
                self.global_error(gerror::PRIQ_ABT_ERR, memory, wires);
                self.discard(request, (!request.is_stop_marker()).then_some((PageResponse::Failure, None)))
            }
        }
    }

    /// The answer to a last request that overflows the queue, and its PASID. Why there is no STE to ask is recorded where
    /// configuration errors of ATS are (8.1).
    fn overflow_response(
        &mut self,
        request: &PageRequest,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> (PageResponse, Option<SubstreamId>) {
        let Some(substream) = request.substream else { return (PageResponse::Success, None) };
        if self.registers.features.pps {
            return (PageResponse::Success, Some(substream));
        }
        match self.ste(Origin { stream: request.stream, substream: Some(substream) }, memory) {
            Err(event) => {
                let bad_stream = matches!(event, Event::BadStreamId { .. });
                if self.registers.records_ats_errors() && (!bad_stream || self.registers.records_bad_streams()) {
                    self.record(&event, memory, wires);
                }
                (PageResponse::Failure, None)
            }
            Ok(ste) => (PageResponse::Success, ste.response_with_pasid.then_some(substream)),
        }
    }

    fn discard(
        &mut self,
        request: &PageRequest,
        response: Option<(PageResponse, Option<SubstreamId>)>,
    ) -> Option<GroupResponse> {
        let counters = &mut self.registers.diagnostics;
        let counter = match response {
            None => &mut counters.page_requests_dropped,
            Some((PageResponse::Success, _)) => &mut counters.auto_success,
            Some(_) => &mut counters.auto_failure,
        };
        count(counter, 1);
        let (response, substream) = response?;
        Some(GroupResponse { stream: request.stream, substream, group: request.group, response })
    }
}
