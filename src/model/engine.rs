//! A DMA engine: a device with 4 KiB of [registers] that copies, fills and compares, and makes single accesses. Its
//! datasheet is `docs/engine.md`.
//!
//! | part | what it is |
//! |---|---|
//! | [`registers`] | names and offsets of the registers |
//! | `control` | reads and writes of them |
//! | `job` | which bytes come next: windows, pieces, the order |
//! | `lane` | one window under way: its accesses, what it waits for |
//! | `transfer` | the bytes of an access |
//! | [`buffers`] | where they are between a read and a write |
//! | `paging` | accesses by ATS, and page requests |
//! | `atc` | translations got by ATS |
//! | `pri` | page request groups and their answers |

mod atc;
pub mod buffers;
mod control;
mod job;
mod lane;
mod paging;
mod pri;
pub mod registers;
mod transfer;

use self::atc::Atc;
use self::buffers::Buffers;
use self::job::Job;
use self::lane::{Lane, Wait};
use self::pri::PageRequests;
use self::registers::{MAX_DEPTH, hostile, status};
use super::board::{self, EngineKind};
use super::endpoint::{Endpoints, GroupResponse, Invalidated, Invalidation};
use super::memory::Memory;
use super::smmu::Smmu;
use super::wire::{Wire, Wires};
use crate::smmuv3::{StreamId, SubstreamId};

/// The bytes of a page, the most that a piece has.
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
    /// By [`PageResponse`](crate::smmuv3::PageResponse).
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
    compare: u64,
    attributes: u32,
    pasid: u32,
    seed: u32,
    depth: u32,
    group_size: u32,
    control: u32,
}

impl Setup {
    /// The PASID that accesses carry.
    fn substream(&self) -> Option<SubstreamId> {
        let used = self.control & registers::control::USE_PASID != 0;
        used.then_some(SubstreamId::from_low_bits(self.pasid.into()))
    }
}

/// What is around an engine in a step.
struct Surroundings<'a, M, W> {
    smmu: &'a mut Smmu,
    buffers: &'a mut Buffers,
    memory: &'a M,
    wires: &'a mut W,
}

/// A DMA engine.
#[derive(Debug)]
pub struct Engine {
    index: u8,
    stream: StreamId,
    kind: EngineKind,
    response_needs_pasid: bool,
    pasid_bits: u8,
    setup: Setup,
    job: Option<Job>,
    /// The state of STATUS when no job is under way, and the reason.
    ended: u32,
    fault_address: u64,
    bytes_done: u64,
    /// What the last read or atomic access found.
    result: u64,
    lanes: [Option<Lane>; MAX_DEPTH],
    /// How many shared pages the lanes hold.
    buffers_held: u8,
    next_lane: usize,
    /// Decides which lane comes next, unless it is 0: a xorshift generator.
    chance: u32,
    /// Steps made, which is the engine's time.
    time: u32,
    hostile: u32,
    ats_control: u32,
    /// When the invalidations that are outstanding are complete.
    invalidated: Option<u32>,
    atc: Atc,
    pri: PageRequests,
    counters: Counters,
}

impl Engine {
    /// Engine `index` of the board, after reset. The index is below [`board::MAX_ENGINES`].
    pub const fn new(index: usize) -> Self {
        Self {
            index: index as u8,
            stream: board::engine_stream(index),
            kind: board::engine_kind(index),
            response_needs_pasid: board::engine_response_needs_pasid(index),
            pasid_bits: board::PASID_BITS,
            setup: Setup {
                source: 0,
                destination: 0,
                length: 0,
                pattern: 0,
                compare: 0,
                attributes: 0,
                pasid: 0,
                seed: 0,
                depth: 1,
                group_size: 1,
                control: 0,
            },
            job: None,
            ended: status::IDLE,
            fault_address: 0,
            bytes_done: 0,
            result: 0,
            lanes: [const { None }; MAX_DEPTH],
            buffers_held: 0,
            next_lane: 0,
            chance: 0,
            time: 0,
            hostile: 0,
            ats_control: 0,
            invalidated: None,
            atc: Atc::new(),
            pri: PageRequests::new(),
            counters: Counters {
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
            },
        }
    }

    /// Resets the engine, which is number `index`. From now on it is the device `stream`, with PASIDs of `pasid_bits` bits.
    pub(super) fn reset(&mut self, index: usize, stream: StreamId, pasid_bits: u8) {
        *self = Self { stream, pasid_bits, ..Self::new(index) };
    }

    /// One tick: at most a page of progress. Returns whether anything was done, or time has to pass.
    pub fn step(
        &mut self,
        smmu: &mut Smmu,
        buffers: &mut Buffers,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> bool {
        let around = &mut Surroundings { smmu, buffers, memory, wires };
        self.time = self.time.wrapping_add(1);
        let mut busy = self.send_stop_marker(around);
        if self.is_hostile(hostile::STORM) {
            self.storm(around);
            busy = true;
        }
        if let Some(due) = self.invalidated {
            self.invalidated = self.is_before(due).then_some(due);
            busy = true;
        }
        let Some(job) = &mut self.job else { return busy };
        job.stopping |= self.pri.is_stopping(job.substream);
        self.start_lanes();
        let first = self.first_lane();
        for turn in 0..MAX_DEPTH {
            let lane = (first + turn) % MAX_DEPTH;
            if self.advance(lane, around) {
                self.next_lane = (lane + 1) % MAX_DEPTH;
                busy = true;
                break;
            }
        }
        let waits = |lane: &Lane| matches!(lane.wait, Wait::Completion { .. });
        busy |= self.lanes.iter().flatten().any(waits);
        self.end_job(around.wires) || busy
    }

    /// Whether a step has nothing to do until a register is written.
    pub fn is_asleep(&self) -> bool {
        self.job.is_none() && self.invalidated.is_none() && self.pri.is_idle() && !self.is_hostile(hostile::STORM)
    }

    /// Whether time `due` is still to come.
    fn is_before(&self, due: u32) -> bool {
        (self.time.wrapping_sub(due) as i32) < 0
    }

    /// Which lane has the first chance: in turn, or as the seed decides.
    fn first_lane(&mut self) -> usize {
        if self.chance == 0 {
            return self.next_lane;
        }
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 17;
        self.chance ^= self.chance << 5;
        self.chance as usize % MAX_DEPTH
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

/// The engine of `stream`.
fn engine_of(engines: &mut [Engine], stream: StreamId) -> Option<&mut Engine> {
    engines.iter_mut().find(|engine| engine.stream == stream)
}

impl Endpoints for [Engine] {
    fn invalidate(&mut self, invalidation: &Invalidation) -> Invalidated {
        let engine = engine_of(self, invalidation.stream);
        engine.map_or(Invalidated::UnsupportedRequest, |engine| engine.invalidate(invalidation))
    }

    fn is_invalidating(&self) -> bool {
        self.iter().any(|engine| engine.invalidated.is_some())
    }

    fn is_ats_enabled(&self) -> bool {
        self.iter().any(|engine| engine.ats_control & registers::ats_control::ENABLE != 0)
    }

    fn respond(&mut self, response: &GroupResponse) -> bool {
        engine_of(self, response.stream).is_some_and(|engine| engine.respond(response))
    }
}

impl Engine {
    /// An invalidation request arrives.
    fn invalidate(&mut self, invalidation: &Invalidation) -> Invalidated {
        use registers::ats_control::{INVALIDATIONS_LATE, INVALIDATIONS_REFUSED, INVALIDATIONS_TIME_OUT};
        self.counters.invalidations = self.counters.invalidations.wrapping_add(1);
        // A request that is lost: what it names stays in use (3.9.1.4).
        if self.ats_control & INVALIDATIONS_TIME_OUT != 0 {
            return Invalidated::TimedOut;
        }
        if self.ats_control & INVALIDATIONS_REFUSED != 0 {
            return Invalidated::UnsupportedRequest;
        }
        self.atc.invalidate(invalidation);
        if self.ats_control & INVALIDATIONS_LATE != 0 {
            self.invalidated = Some(self.time.wrapping_add(self.latency()));
        }
        Invalidated::Completed
    }
}
