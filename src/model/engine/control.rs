//! Reads and writes of an engine's registers.

use super::job::Job;
use super::registers::{self as reg, capability, control, status};
use super::{End, Engine};
use crate::model::board::EngineKind;
use crate::model::machine::Width;
use crate::smmuv3::SubstreamId;

/// The 64-bit registers.
const DOUBLES: [usize; 8] = [
    reg::SOURCE,
    reg::DESTINATION,
    reg::LENGTH,
    reg::PATTERN,
    reg::FAULT_ADDRESS,
    reg::BYTES_DONE,
    reg::RESULT,
    reg::COMPARE,
];

/// The fields of ATS_CONTROL.
const ATS_CONTROL: u32 = reg::ats_control::ENABLE
    | reg::ats_control::INVALIDATIONS_TIME_OUT
    | reg::ats_control::INVALIDATIONS_LATE
    | reg::ats_control::INVALIDATIONS_REFUSED
    | reg::ats_control::ASK_FOR_WRITE
    | reg::ats_control::LATENCY_MASK << reg::ats_control::LATENCY;

impl Engine {
    /// Reads the register at `offset`, aligned to `width`.
    pub fn read(&self, offset: usize, width: Width) -> u64 {
        match width {
            Width::Double if DOUBLES.contains(&offset) => self.value(offset),
            Width::Double => 0,
            Width::Word if DOUBLES.contains(&offset) => self.value(offset) & 0xffff_ffff,
            Width::Word if offset % 8 == 4 && DOUBLES.contains(&(offset - 4)) => self.value(offset - 4) >> 32,
            Width::Word => self.value(offset) & 0xffff_ffff,
        }
    }

    /// Writes the register at `offset`, aligned to `width`.
    pub fn write(&mut self, offset: usize, width: Width, value: u64) {
        match width {
            Width::Double if DOUBLES.contains(&offset) => self.set(offset, value),
            Width::Double => {}
            Width::Word if DOUBLES.contains(&offset) => {
                self.set(offset, self.value(offset) & !0xffff_ffff | value & 0xffff_ffff);
            }
            Width::Word if offset % 8 == 4 && DOUBLES.contains(&(offset - 4)) => {
                self.set(offset - 4, self.value(offset - 4) & 0xffff_ffff | value << 32);
            }
            Width::Word => self.set(offset, value & 0xffff_ffff),
        }
    }

    fn has_ats(&self) -> bool {
        self.kind == EngineKind::PageRequest
    }

    fn capability(&self) -> u32 {
        let kind = match self.kind {
            EngineKind::Stall => capability::CAN_STALL,
            EngineKind::PageRequest if self.response_needs_pasid => {
                capability::ATS | capability::PRI | capability::RESPONSE_PASID_REQUIRED
            }
            EngineKind::PageRequest => capability::ATS | capability::PRI,
        };
        kind | u32::from(self.pasid_bits) << capability::PASID_BITS
    }

    fn status(&self) -> u32 {
        match &self.job {
            None => self.ended,
            Some(job) => {
                let stopping = if job.stopping { status::STOPPING } else { 0 };
                status::BUSY | stopping | (self.lanes.iter().flatten().count() as u32) << status::OUTSTANDING
            }
        }
    }

    fn value(&self, offset: usize) -> u64 {
        let counters = &self.counters;
        match offset {
            reg::SOURCE => return self.setup.source,
            reg::DESTINATION => return self.setup.destination,
            reg::LENGTH => return self.setup.length,
            reg::PATTERN => return self.setup.pattern,
            reg::FAULT_ADDRESS => return self.fault_address,
            reg::BYTES_DONE => return self.bytes_done,
            reg::RESULT => return self.result,
            reg::COMPARE => return self.setup.compare,
            _ => {}
        }
        let word = match offset {
            reg::ID => reg::ID_VALUE,
            reg::STREAM_ID => self.stream.0,
            reg::CAPABILITY => self.capability(),
            reg::PASID => self.setup.pasid,
            reg::ATTRIBUTES => self.setup.attributes,
            reg::HOSTILE => self.hostile,
            reg::SEED => self.setup.seed,
            reg::DEPTH => self.setup.depth,
            reg::GROUP_SIZE => self.setup.group_size,
            reg::CONTROL => self.setup.control,
            reg::STATUS => self.status(),
            reg::ATS_CONTROL => self.ats_control,
            reg::PRI_CONTROL => self.pri.control(),
            reg::PRI_STATUS if self.has_ats() => self.pri.status(self.hostile),
            reg::PRI_CAPACITY if self.has_ats() => reg::MAX_PAGE_REQUESTS,
            reg::PRI_ALLOCATION => self.pri.allocation(),
            reg::STALLS => counters.stalls,
            reg::STALLS_RETRIED => counters.stalls_retried,
            reg::STALLS_REFUSED => counters.stalls_refused,
            reg::TRANSLATION_REQUESTS => counters.translation_requests,
            reg::PAGE_REQUESTS => counters.page_requests,
            reg::PAGE_REQUEST_GROUPS => counters.groups,
            reg::RESPONSES_FAILURE => counters.responses[0],
            reg::RESPONSES_INVALID => counters.responses[1],
            reg::RESPONSES_SUCCESS => counters.responses[2],
            reg::RESPONSES_UNEXPECTED => counters.unexpected,
            reg::INVALIDATIONS => counters.invalidations,
            reg::JOBS => counters.jobs,
            _ => 0,
        };
        word.into()
    }

    fn set(&mut self, offset: usize, value: u64) {
        let word = value as u32;
        match offset {
            reg::CONTROL => return self.set_control(word),
            reg::ATS_CONTROL if self.has_ats() => {
                self.ats_control = word & ATS_CONTROL;
                if word & reg::ats_control::ENABLE == 0 {
                    self.atc.clear();
                }
            }
            reg::PRI_CONTROL if self.has_ats() => {
                self.pri.set_control(word, SubstreamId::from_low_bits(self.setup.pasid.into()));
                if word & reg::pri_control::RESET != 0 {
                    self.resume_forgotten();
                }
            }
            reg::HOSTILE => self.hostile = word & reg::hostile::ALL,
            reg::PRI_STATUS => self.pri.clear_status(word),
            reg::PRI_ALLOCATION if self.has_ats() && !self.pri.enabled() => self.pri.set_allocation(word),
            _ => {}
        }
        if self.job.is_some() {
            return;
        }
        let setup = &mut self.setup;
        match offset {
            reg::SOURCE => setup.source = value,
            reg::DESTINATION => setup.destination = value,
            reg::LENGTH => setup.length = value,
            reg::PATTERN => setup.pattern = value,
            reg::COMPARE => setup.compare = value,
            reg::ATTRIBUTES => setup.attributes = word & (reg::attributes::PRIVILEGED | reg::attributes::INSTRUCTION),
            reg::PASID => setup.pasid = word & ((1 << self.pasid_bits) - 1),
            reg::SEED => setup.seed = word,
            reg::DEPTH => setup.depth = word.clamp(1, reg::MAX_DEPTH as u32),
            reg::GROUP_SIZE => setup.group_size = word.clamp(1, reg::MAX_GROUP_SIZE),
            _ => {}
        }
    }

    fn set_control(&mut self, word: u32) {
        if let Some(job) = &mut self.job {
            job.stopping |= word & control::STOP != 0;
            return;
        }
        self.setup.control =
            word & (control::OPERATION_MASK << control::OPERATION | control::USE_PASID | control::INTERRUPT);
        if word & control::START != 0 {
            self.job = Some(Job::new(&self.setup));
            self.bytes_done = 0;
            self.fault_address = 0;
            self.next_lane = 0;
            self.chance = self.setup.seed;
        }
    }

    /// The job ends with this, unless it already ends with something else.
    pub(super) fn fail(&mut self, state: u32, reason: u32, address: u64) {
        if let Some(job) = &mut self.job {
            job.end.get_or_insert(End { state, reason, address });
        }
    }
}
