//! Driver for the DMA engines behind the modelled SMMU.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::arch::mmio::Mmio;
use crate::driver::DeviceControl;
use crate::model::engine::registers as reg;
use crate::smmuv3::{StreamId, SubstreamId};

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Copies `source` to `destination`.
    Copy,
    /// Writes `pattern` to `destination`.
    Fill,
    /// Compares `source` with `destination`.
    Compare,
}

/// One job of an engine. Addresses are I/O virtual, lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// What to do.
    pub operation: Operation,
    /// First byte to read.
    pub source: u64,
    /// First byte to write, or to compare with.
    pub destination: u64,
    /// How many bytes.
    pub length: u64,
    /// The word that a fill repeats.
    pub pattern: u64,
    /// The substream that accesses carry.
    pub substream: Option<SubstreamId>,
    /// How many accesses may be under way at a time.
    pub depth: u32,
    /// How many pages a page request group may have.
    pub group: u32,
    /// The order of the pages: ascending for zero, else what the seed decides.
    pub seed: u32,
}

impl Job {
    /// A job that deals with `length` bytes from `source` to `destination` one access at a time.
    pub const fn new(operation: Operation, source: u64, destination: u64, length: u64) -> Self {
        Self { operation, source, destination, length, pattern: 0, substream: None, depth: 1, group: 1, seed: 0 }
    }
}

/// How the last job of an engine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// None was started yet.
    Idle,
    /// Under way.
    Busy,
    /// Complete.
    Done,
    /// An access was refused, at this address.
    Aborted(u64),
    /// A difference was found, at this address.
    Mismatch(u64),
    /// Stopped on request.
    Stopped,
    /// The register holds a value that the datasheet does not know.
    Unknown(u32),
}

/// What an engine counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Stall records that the SMMU wrote for it.
    pub stalls: u32,
    /// Stalls resumed to try again.
    pub stalls_retried: u32,
    /// Stalls that ended refused.
    pub stalls_refused: u32,
    /// Page requests sent.
    pub page_requests: u32,
    /// Page request groups sent.
    pub groups: u32,
    /// Groups answered Success.
    pub success: u32,
    /// Groups answered Invalid.
    pub invalid: u32,
    /// Groups answered Failure.
    pub failure: u32,
    /// Answers to nothing.
    pub unexpected: u32,
}

/// One DMA engine.
#[derive(Debug)]
pub struct Engine {
    registers: Mmio,
    stream: StreamId,
    /// Jobs whose end an interrupt has told of.
    ended: AtomicU32,
}

impl Engine {
    /// The engine whose registers are at `registers`, or `None` if there is none.
    pub fn new(registers: Mmio) -> Option<Self> {
        if registers.size() < reg::JOBS + 4 || registers.read32(reg::ID) != reg::ID_VALUE {
            return None;
        }
        let stream = StreamId(registers.read32(reg::STREAM_ID));
        Some(Self { registers, stream, ended: AtomicU32::new(0) })
    }

    /// The StreamID of its accesses.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Starts `job`. An engine that is busy ignores it.
    pub fn start(&self, job: &Job) {
        let r = &self.registers;
        r.write64(reg::SOURCE, job.source);
        r.write64(reg::DESTINATION, job.destination);
        r.write64(reg::LENGTH, job.length);
        r.write64(reg::PATTERN, job.pattern);
        r.write32(reg::DEPTH, job.depth);
        r.write32(reg::GROUP_SIZE, job.group);
        r.write32(reg::SEED, job.seed);
        let operation = match job.operation {
            Operation::Copy => reg::control::COPY,
            Operation::Fill => reg::control::FILL,
            Operation::Compare => reg::control::COMPARE,
        };
        let mut control = reg::control::START | reg::control::INTERRUPT | operation << reg::control::OPERATION;
        if let Some(substream) = job.substream {
            r.write32(reg::PASID, substream.get());
            control |= reg::control::USE_PASID;
        }
        r.write32(reg::CONTROL, control);
    }

    /// Its interrupt: a job has ended.
    pub(super) fn job_ended(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// How many jobs have ended, as its interrupts told.
    pub fn jobs_ended(&self) -> u32 {
        self.ended.load(Relaxed)
    }

    /// How the last job stands.
    pub fn status(&self) -> Status {
        let value = self.registers.read32(reg::STATUS);
        match value & reg::status::STATE {
            reg::status::IDLE => Status::Idle,
            reg::status::BUSY => Status::Busy,
            reg::status::DONE => Status::Done,
            reg::status::ABORTED => Status::Aborted(self.registers.read64(reg::FAULT_ADDRESS)),
            reg::status::MISMATCH => Status::Mismatch(self.registers.read64(reg::FAULT_ADDRESS)),
            reg::status::STOPPED => Status::Stopped,
            _ => Status::Unknown(value),
        }
    }

    /// What it counted since reset.
    pub fn counters(&self) -> Counters {
        let read = |offset| self.registers.read32(offset);
        Counters {
            stalls: read(reg::STALLS),
            stalls_retried: read(reg::STALLS_RETRIED),
            stalls_refused: read(reg::STALLS_REFUSED),
            page_requests: read(reg::PAGE_REQUESTS),
            groups: read(reg::PAGE_REQUEST_GROUPS),
            success: read(reg::RESPONSES_SUCCESS),
            invalid: read(reg::RESPONSES_INVALID),
            failure: read(reg::RESPONSES_FAILURE),
            unexpected: read(reg::RESPONSES_UNEXPECTED),
        }
    }
}

impl DeviceControl for Engine {
    fn stop_new_work(&self) {
        self.registers.write32(reg::CONTROL, reg::control::STOP);
    }

    fn is_idle(&self) -> bool {
        self.status() != Status::Busy
    }

    fn response_needs_pasid(&self) -> bool {
        self.registers.read32(reg::CAPABILITY) & reg::capability::RESPONSE_PASID_REQUIRED != 0
    }

    fn enable_ats(&self) {
        self.registers.write32(reg::ATS_CONTROL, reg::ats_control::ENABLE);
    }

    fn disable_ats(&self) {
        self.registers.write32(reg::ATS_CONTROL, 0);
    }

    fn enable_page_requests(&self, allocation: u32) {
        self.registers.write32(reg::PRI_ALLOCATION, allocation);
        self.registers.write32(reg::PRI_CONTROL, reg::pri_control::ENABLE);
    }

    fn disable_page_requests(&self) {
        self.registers.write32(reg::PRI_CONTROL, 0);
    }

    fn page_requests_stopped(&self) -> bool {
        self.registers.read32(reg::PRI_STATUS) & reg::pri_status::STOPPED != 0
    }

    fn page_requests_failed(&self) -> bool {
        self.registers.read32(reg::PRI_STATUS) & reg::pri_status::RESPONSE_FAILURE != 0
    }

    fn stop_substream(&self, _: StreamId, substream: SubstreamId) {
        let r = &self.registers;
        r.write32(reg::PRI_STATUS, reg::pri_status::PASID_STOPPED);
        // Ignored while a job is under way, which has its own.
        r.write32(reg::PASID, substream.get());
        r.write32(reg::PRI_CONTROL, reg::pri_control::ENABLE | reg::pri_control::STOP_PASID);
    }

    fn substream_stopped(&self, _: StreamId, _: SubstreamId) -> bool {
        self.registers.read32(reg::PRI_STATUS) & reg::pri_status::PASID_STOPPED != 0
    }

    fn reset_page_requests(&self) {
        self.registers.write32(reg::PRI_CONTROL, reg::pri_control::RESET);
    }
}
