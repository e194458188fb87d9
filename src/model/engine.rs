//! A DMA engine: a device with 4 KiB of [registers] that copies, fills and compares.
//!
//! | part | what it is |
//! |---|---|
//! | [`registers`] | the datasheet |
//! | `job` | which bytes come next: windows, pieces, the order |
//! | `lane` | one piece under way: its accesses, what it waits for |
//! | `atc` | translations got by ATS |
//! | `pri` | page request groups and their answers |

mod atc;
mod control;
mod job;
mod lane;
mod pri;
pub mod registers;

use self::atc::Atc;
use self::job::Job;
use self::lane::Lane;
use self::pri::PageRequests;
use self::registers::{MAX_DEPTH, status};
use super::board::{self, EngineKind};
use super::endpoint::{Endpoints, GroupResponse, Invalidation};
use super::memory::Memory;
use super::smmu::Smmu;
use super::wire::{Wire, Wires};
use crate::smmuv3::{PageResponse, StreamId};

/// A page of bytes: what a piece holds between its read and its write.
const PAGE: usize = 4096;

/// Why and where a job ends before its time.
#[derive(Clone, Copy, Debug)]
struct End {
    state: u32,
    reason: u32,
    address: u64,
}

#[derive(Clone, Copy, Debug)]
struct Counters {
    stalls: u32,
    stalls_retried: u32,
    stalls_refused: u32,
    translation_requests: u32,
    page_requests: u32,
    groups: u32,
    /// By [`PageResponse`].
    responses: [u32; 3],
    unexpected: u32,
    invalidations: u32,
    jobs: u32,
}

/// The registers that software sets before it starts a job.
#[derive(Clone, Copy, Debug)]
struct Setup {
    source: u64,
    destination: u64,
    length: u64,
    pattern: u64,
    pasid: u32,
    seed: u32,
    depth: u32,
    group_size: u32,
    control: u32,
}

impl Setup {
    const RESET: Self = Self {
        source: 0,
        destination: 0,
        length: 0,
        pattern: 0,
        pasid: 0,
        seed: 0,
        depth: 1,
        group_size: 1,
        control: 0,
    };
}

impl Counters {
    const RESET: Self = Self {
        stalls: 0,
        stalls_retried: 0,
        stalls_refused: 0,
        translation_requests: 0,
        page_requests: 0,
        groups: 0,
        responses: [0; 3],
        unexpected: 0,
        invalidations: 0,
        jobs: 0,
    };
}

/// A DMA engine.
#[derive(Debug)]
pub struct Engine {
    index: u8,
    stream: StreamId,
    kind: EngineKind,
    setup: Setup,
    job: Option<Job>,
    /// The state of STATUS when no job is under way, and the reason.
    ended: u32,
    fault_address: u64,
    bytes_done: u64,
    lanes: [Option<Lane>; MAX_DEPTH],
    buffers: [[u8; PAGE]; MAX_DEPTH],
    next_lane: usize,
    ats_control: u32,
    atc: Atc,
    pri: PageRequests,
    counters: Counters,
}

impl Engine {
    /// Engine `index` of the board, after reset.
    pub const fn new(index: usize) -> Self {
        Self {
            index: index as u8,
            stream: board::engine_stream(index),
            kind: board::engine_kind(index),
            setup: Setup::RESET,
            job: None,
            ended: status::IDLE,
            fault_address: 0,
            bytes_done: 0,
            lanes: [const { None }; MAX_DEPTH],
            buffers: [[0; PAGE]; MAX_DEPTH],
            next_lane: 0,
            ats_control: 0,
            atc: Atc::new(),
            pri: PageRequests::new(),
            counters: Counters::RESET,
        }
    }

    /// Resets the engine, in place: as a whole it is too large for a stack. From now on it is the device `stream`.
    pub(super) fn reset(&mut self, stream: StreamId) {
        self.stream = stream;
        self.setup = Setup::RESET;
        self.job = None;
        self.ended = status::IDLE;
        self.fault_address = 0;
        self.bytes_done = 0;
        self.lanes = [const { None }; MAX_DEPTH];
        self.next_lane = 0;
        self.ats_control = 0;
        self.atc = Atc::new();
        self.pri = PageRequests::new();
        self.counters = Counters::RESET;
    }

    /// One tick: at most a page of progress. Returns whether anything was done.
    pub fn step(&mut self, smmu: &mut Smmu, memory: &impl Memory, wires: &mut impl Wires) -> bool {
        let mut busy = false;
        if let Some(substream) = self.pri.take_stop_marker() {
            smmu.page_request(&pri::stop_marker(self.stream, substream), memory, wires);
            busy = true;
        }
        if self.job.is_none() {
            return busy;
        }
        self.start_lanes();
        for turn in 0..MAX_DEPTH {
            let lane = (self.next_lane + turn) % MAX_DEPTH;
            if self.advance(lane, smmu, memory, wires) {
                self.next_lane = (lane + 1) % MAX_DEPTH;
                busy = true;
                break;
            }
        }
        self.end_job(wires) || busy
    }

    /// Puts the next windows of the job under way, as far as its depth allows.
    fn start_lanes(&mut self) {
        let Some(job) = &mut self.job else { return };
        let under_way = self.lanes.iter().flatten().count();
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_none()).take(job.depth.saturating_sub(under_way)) {
            *lane = job.next_window().map(Lane::new);
        }
    }

    /// Ends the job if nothing of it is under way and nothing more will be. Returns whether it did.
    fn end_job(&mut self, wires: &mut impl Wires) -> bool {
        let Some(job) = &self.job else { return false };
        if self.lanes.iter().any(Option::is_some) || job.has_more() {
            return false;
        }
        let state = if job.stopping { status::STOPPED } else { status::DONE };
        let end = job.end.unwrap_or(End { state, reason: 0, address: 0 });
        self.ended = end.state | end.reason << status::REASON;
        self.fault_address = end.address;
        if job.interrupt {
            wires.raise(Wire::Engine(self.index));
        }
        self.counters.jobs = self.counters.jobs.wrapping_add(1);
        self.job = None;
        true
    }
}

impl Endpoints for [Engine] {
    fn invalidate(&mut self, invalidation: &Invalidation) -> bool {
        match self.iter_mut().find(|engine| engine.stream == invalidation.stream) {
            Some(engine) => {
                engine.counters.invalidations = engine.counters.invalidations.wrapping_add(1);
                engine.atc.invalidate(invalidation);
                engine.ats_control & registers::ats_control::INVALIDATIONS_TIME_OUT == 0
            }
            None => true,
        }
    }

    fn respond(&mut self, response: &GroupResponse) -> bool {
        self.iter_mut().find(|engine| engine.stream == response.stream).is_some_and(|engine| engine.respond(response))
    }
}

impl Engine {
    /// A page request group response arrives. Returns whether it answers an outstanding group.
    fn respond(&mut self, response: &GroupResponse) -> bool {
        let Some(group) = self.pri.answer(response) else {
            self.counters.unexpected = self.counters.unexpected.wrapping_add(1);
            return false;
        };
        if let Some(count) = self.counters.responses.get_mut(response.response as usize) {
            *count = count.wrapping_add(1);
        }
        let reason = match response.response {
            PageResponse::Success => None,
            PageResponse::Invalid => Some(status::PAGE_INVALID),
            PageResponse::Failure => Some(status::PAGE_FAILURE),
        };
        self.resume_waiting(group, reason);
        true
    }
}
