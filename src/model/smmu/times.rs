//! How long faults take: from the record to software's answer, and from there until the device tries again.
//!
//! The unit is that of [`Wires::counter`] where there is one, else ticks.

use super::Smmu;
use super::stall::{STALL_MAX, Slot};
use crate::model::board::MAX_ENGINES;
use crate::model::control::{self, BUCKETS};
use crate::model::wire::Wires;
use crate::smmuv3::{PrgIndex, StreamId};

/// How many page request groups are timed at once.
const GROUPS: usize = 256;

/// How often which time occurred.
#[derive(Clone, Copy, Debug)]
struct Histogram {
    count: u32,
    sum: u64,
    min: u64,
    max: u64,
    buckets: [u32; BUCKETS],
}

impl Histogram {
    const fn new() -> Self {
        Self { count: 0, sum: 0, min: 0, max: 0, buckets: [0; BUCKETS] }
    }

    fn add(&mut self, time: u64) {
        self.min = if self.count == 0 { time } else { self.min.min(time) };
        self.max = self.max.max(time);
        self.sum = self.sum.wrapping_add(time);
        self.count = self.count.wrapping_add(1);
        let number = (u64::BITS - time.leading_zeros()) as usize;
        if let Some(bucket) = self.buckets.get_mut(number.min(BUCKETS - 1)) {
            *bucket = bucket.wrapping_add(1);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    answers: Histogram,
    retries: Histogram,
    /// When the first page request group was answered with success since the device last asked for a translation.
    answered: Option<u64>,
}

impl Stream {
    const fn new() -> Self {
        Self { answers: Histogram::new(), retries: Histogram::new(), answered: None }
    }
}

/// Where a stalled transaction is.
#[derive(Clone, Copy, Debug)]
enum Stamp {
    Nothing,
    Recorded(u64),
    Answered(u64),
}

#[derive(Clone, Copy, Debug)]
struct Group {
    stream: StreamId,
    group: PrgIndex,
    recorded: u64,
}

/// The times of every stream, and what is under way.
#[derive(Debug)]
pub(super) struct Times {
    /// By the low bits of the StreamID: no two engines have the same ones.
    streams: [Stream; MAX_ENGINES],
    stalls: [Stamp; STALL_MAX],
    groups: [Option<Group>; GROUPS],
    untimed: u32,
    /// The stream whose times are told.
    selected: u32,
}

impl Times {
    pub(super) const fn new() -> Self {
        Self {
            streams: [Stream::new(); MAX_ENGINES],
            stalls: [Stamp::Nothing; STALL_MAX],
            groups: [None; GROUPS],
            untimed: 0,
            selected: 0,
        }
    }

    /// As after [`new`](Times::new), in place: it is too large for a stack.
    pub(super) fn reset(&mut self) {
        self.streams.fill(Stream::new());
        self.stalls.fill(Stamp::Nothing);
        self.groups.fill(None);
        (self.untimed, self.selected) = (0, 0);
    }

    fn stream(&mut self, StreamId(stream): StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(stream as usize % MAX_ENGINES)
    }

    /// The transaction in `slot` stalls without a record of its own.
    pub(super) fn stall_unrecorded(&mut self, slot: Slot) {
        self.set_stall(slot, Stamp::Nothing);
    }

    /// The record of the transaction in `slot` was written.
    pub(super) fn stall_recorded(&mut self, slot: Slot, now: u64) {
        self.set_stall(slot, Stamp::Recorded(now));
    }

    fn set_stall(&mut self, slot: Slot, stamp: Stamp) {
        if let Some(stall) = self.stalls.get_mut(slot.index()) {
            *stall = stamp;
        }
    }

    /// The record of the transaction in `slot` was answered, so that it tries again if it is to `retry`.
    pub(super) fn stall_answered(&mut self, stream: StreamId, slot: Slot, retry: bool, now: u64) {
        let Some(&Stamp::Recorded(recorded)) = self.stalls.get(slot.index()) else { return };
        self.set_stall(slot, if retry { Stamp::Answered(now) } else { Stamp::Nothing });
        if let Some(stream) = self.stream(stream) {
            stream.answers.add(now.wrapping_sub(recorded));
        }
    }

    /// The transaction in `slot` tries again.
    pub(super) fn stall_retried(&mut self, stream: StreamId, slot: Slot, now: u64) {
        let Some(&Stamp::Answered(answered)) = self.stalls.get(slot.index()) else { return };
        self.set_stall(slot, Stamp::Nothing);
        if let Some(stream) = self.stream(stream) {
            stream.retries.add(now.wrapping_sub(answered));
        }
    }

    fn group(&mut self, stream: StreamId, group: PrgIndex) -> Option<&mut Option<Group>> {
        // An engine takes indices in turn, so it has this many groups under way before two of them meet.
        let StreamId(number) = stream;
        self.groups.get_mut(number.wrapping_mul(37).wrapping_add(group.get().into()) as usize % GROUPS)
    }

    /// The last request of a page request group was written.
    pub(super) fn group_recorded(&mut self, stream: StreamId, group: PrgIndex, now: u64) {
        let Some(entry) = self.group(stream, group) else { return };
        if entry.replace(Group { stream, group, recorded: now }).is_some() {
            self.untimed = self.untimed.wrapping_add(1);
        }
    }

    /// A page request group was answered, with success or not.
    pub(super) fn group_answered(&mut self, stream: StreamId, group: PrgIndex, success: bool, now: u64) {
        let Some(entry) = self.group(stream, group) else { return };
        let Some(timed) = entry.take_if(|timed| timed.stream == stream && timed.group == group) else { return };
        if let Some(stream) = self.stream(stream) {
            stream.answers.add(now.wrapping_sub(timed.recorded));
            if success {
                stream.answered.get_or_insert(now);
            }
        }
    }

    /// The register at `offset` of the control page.
    pub(super) fn read(&self, offset: usize) -> u32 {
        match offset {
            control::STREAM => return self.selected,
            control::UNTIMED => return self.untimed,
            _ => {}
        }
        let Some(stream) = self.streams.get(self.selected as usize % MAX_ENGINES) else { return 0 };
        let Stream { answers, retries, .. } = stream;
        let word = |value: u64| (value >> (8 * (offset & 4))) as u32;
        let bucket = |histogram: &Histogram, first| histogram.buckets.get((offset - first) / 4).copied().unwrap_or(0);
        match offset {
            control::ANSWER_COUNT => answers.count,
            control::RETRY_COUNT => retries.count,
            control::RETRY_BUCKETS.. => bucket(retries, control::RETRY_BUCKETS),
            control::ANSWER_BUCKETS.. => bucket(answers, control::ANSWER_BUCKETS),
            _ => match offset & !4 {
                control::ANSWER_SUM => word(answers.sum),
                control::ANSWER_MIN => word(answers.min),
                control::ANSWER_MAX => word(answers.max),
                control::RETRY_SUM => word(retries.sum),
                control::RETRY_MIN => word(retries.min),
                control::RETRY_MAX => word(retries.max),
                _ => 0,
            },
        }
    }
}

impl Smmu {
    /// The time now.
    pub(super) fn time(&self, wires: &impl Wires) -> u64 {
        wires.counter().unwrap_or(self.injection.now())
    }

    /// A device asks for a translation: if it was answered before, this is its retry.
    pub(super) fn note_translation_request(&mut self, stream: StreamId, wires: &impl Wires) {
        let Some(answered) = self.times.stream(stream).and_then(|stream| stream.answered.take()) else { return };
        let now = self.time(wires);
        if let Some(stream) = self.times.stream(stream) {
            stream.retries.add(now.wrapping_sub(answered));
        }
    }

    /// Reads 32 bits of the [control page](control) at `offset`.
    pub fn read_control(&self, offset: usize) -> u32 {
        if offset < control::STREAM { self.injection.read(offset) } else { self.times.read(offset) }
    }

    /// Writes 32 bits of the [control page](control) at `offset`. What that sets going happens in [`step`](Smmu::step).
    pub fn write_control(&mut self, offset: usize, value: u32) {
        match offset {
            control::STREAM => self.times.selected = value,
            _ => self.injection.write(offset, value),
        }
    }
}

#[cfg(test)]
mod tests;
