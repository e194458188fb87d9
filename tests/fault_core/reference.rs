//! What the fault core has to do, without slots, words and atomics: a map of groups, and the rules.

use std::collections::{BTreeMap, BTreeSet};

use smmu_iopf::iopf::{
    Answer, Fault, Kind, Leftover, Limits, Partials, Report, Request, Statistics, StopError, SubstreamError,
};
use smmu_iopf::smmuv3::PageResponse::{self, Failure, Invalid, Success};
use smmu_iopf::smmuv3::{StreamId, SubstreamId};

use super::fault_bench::{STREAM_LIMITS, WILD};

/// A deferred group, for as long as somebody may ask about it.
pub(super) type GroupId = u32;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Waits for its last request.
    Partial,
    /// Waits for its answer.
    Waiting,
    /// The answer waits to be sent.
    Unsent(PageResponse),
    /// Answered, and still held.
    Answered,
}

struct Group {
    life: u32,
    faults: Vec<Fault>,
    phase: Phase,
    held: bool,
    /// A handler of its substream's own deferred it.
    own: bool,
    /// The time of the first time-out pass that saw it.
    seen_ms: Option<u64>,
}

impl Group {
    fn last(&self) -> &Fault {
        self.faults.last().unwrap()
    }

    /// The answer that it is owed: what was decided, or Invalid.
    fn owed(&self) -> Option<PageResponse> {
        match self.phase {
            Phase::Waiting => Some(Invalid),
            Phase::Unsent(response) => Some(response),
            Phase::Partial | Phase::Answered => None,
        }
    }
}

/// A master from open to finish.
struct Life {
    number: u32,
    streams: &'static [StreamId],
    kind: Kind,
    since: u64,
    closed: bool,
    /// The substream that is being stopped, and whether its Stop marker has come.
    stopping: Option<(StreamId, SubstreamId, bool)>,
    /// Groups that lost a request for want of room.
    cut: BTreeSet<(StreamId, u16)>,
    /// Substreams with handlers of their own.
    own: BTreeSet<(StreamId, u32)>,
}

/// The fault core as it should be.
pub(super) struct Reference {
    limits: Limits,
    lives: Vec<Life>,
    lived: u32,
    /// All that takes up room.
    groups: BTreeMap<GroupId, Group>,
    next: GroupId,
    /// The handlers defer: the streams', and the substreams' own.
    pub(super) defers: [bool; 2],
    /// The streams' handlers have no room for what they defer.
    pub(super) drops: bool,
    /// Nothing can be sent.
    pub(super) stuck: bool,
    /// What the handlers were asked since this was last taken.
    pub(super) asked: [Vec<Vec<Fault>>; 2],
    /// What was sent since this was last taken.
    pub(super) sent: Vec<Answer>,
    /// What was counted, but duplicates and failed attempts.
    pub(super) counts: Statistics,
}

impl Reference {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lives: Vec::new(),
            lived: 0,
            groups: BTreeMap::new(),
            next: 0,
            defers: [false; 2],
            drops: false,
            stuck: false,
            asked: Default::default(),
            sent: Vec::new(),
            counts: Statistics::default(),
        }
    }

    fn life(&mut self, stream: StreamId) -> Option<&mut Life> {
        self.lives.iter_mut().find(|life| life.streams.contains(&stream))
    }

    fn is_closed(&self, life: u32) -> bool {
        self.lives.iter().find(|other| other.number == life).is_none_or(|life| life.closed)
    }

    /// Whether the stream is open, or closed and not finished.
    pub(super) fn is_open(&self, stream: StreamId) -> bool {
        self.lives.iter().any(|life| life.streams.contains(&stream))
    }

    pub(super) fn is_closed_stream(&self, stream: StreamId) -> bool {
        self.lives.iter().any(|life| life.closed && life.streams.contains(&stream))
    }

    /// The groups of a stream's master.
    fn of(&self, stream: StreamId) -> Vec<GroupId> {
        let life = self.lives.iter().find(|life| life.streams.contains(&stream)).map(|life| life.number);
        self.groups.iter().filter(|(_, group)| Some(group.life) == life).map(|(&id, _)| id).collect()
    }

    /// How many groups of a stream's master wait for an answer.
    pub(super) fn unanswered(&self, stream: StreamId) -> usize {
        self.of(stream).iter().filter(|id| self.groups[id].owed().is_some()).count()
    }

    pub(super) fn slots_in_use(&self) -> usize {
        self.groups.len()
    }

    /// How many states are in the table, or kept by a group that somebody holds.
    pub(super) fn live(&self) -> usize {
        let kept = self.groups.values().filter(|group| group.held).map(|group| group.life);
        self.lives.iter().map(|life| life.number).chain(kept).collect::<BTreeSet<_>>().len()
    }

    pub(super) fn is_waiting(&self, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(|group| group.phase == Phase::Waiting && !self.is_closed(group.life))
    }

    pub(super) fn faults(&self, id: GroupId) -> Vec<Fault> {
        self.groups[&id].faults.clone()
    }

    /// Returns whether there is room for the state and nobody has the streams.
    pub(super) fn open(&mut self, streams: &'static [StreamId], kind: Kind, since: u64) -> bool {
        let opened = self.live() < self.limits.states && self.life(streams[0]).is_none();
        if opened {
            self.lived += 1;
            let (cut, own) = Default::default();
            self.lives.push(Life { number: self.lived, streams, kind, since, closed: false, stopping: None, cut, own });
        }
        opened
    }

    fn has_room(&self, life: u32) -> bool {
        let of_stream = self.groups.values().filter(|group| group.life == life).count();
        self.groups.len() < self.limits.groups && of_stream < STREAM_LIMITS.groups.into()
    }

    fn put(&mut self, life: u32, faults: Vec<Fault>, phase: Phase, own: bool) -> GroupId {
        self.next += 1;
        let held = phase == Phase::Waiting;
        self.groups.insert(self.next, Group { life, faults, phase, held, own, seen_ms: None });
        self.next
    }

    fn count_answer(&mut self, response: PageResponse) {
        *match response {
            Success => &mut self.counts.success,
            Invalid => &mut self.counts.invalid,
            Failure => &mut self.counts.failure,
        } += 1;
    }

    fn answer(&mut self, fault: &Fault, response: PageResponse) -> Report {
        self.count_answer(response);
        Report::Answer(fault.answer(response))
    }

    fn refuse(&mut self, fault: &Fault) -> Report {
        self.counts.over_limit += 1;
        self.answer(fault, Invalid)
    }

    fn swallow(&mut self) -> Report {
        self.counts.swallowed += 1;
        Report::Swallowed
    }

    /// The partial group that `fault` belongs to.
    fn begun(&self, life: u32, fault: &Fault) -> Option<GroupId> {
        let is_begun = |group: &Group| {
            let name = |fault: &Fault| (fault.stream, fault.substream, fault.target());
            group.life == life && group.phase == Phase::Partial && name(&group.faults[0]) == name(fault)
        };
        self.groups.iter().find(|(_, group)| is_begun(group)).map(|(&id, _)| id)
    }

    /// What becomes of a fault, and of a deferred one who holds it.
    pub(super) fn report(&mut self, record: u64, fault: Fault) -> (Report, Option<GroupId>) {
        self.counts.records += 1;
        let (kind, group, last) = match fault.request {
            Request::Stall(_) => (Kind::Stall, 0, true),
            Request::Page { group, last } => (Kind::Page, group.get(), last),
        };
        let life = self.lives.iter_mut().find(|life| life.kind == kind && life.streams.contains(&fault.stream));
        let Some(&mut Life { number, since, closed, ref mut stopping, ref mut cut, ref own, .. }) = life else {
            self.counts.unknown += 1;
            self.counts.stop_markers += u64::from(fault.is_stop_marker());
            if !fault.wants_answer() {
                return (self.swallow(), None);
            }
            self.counts.groups += 1;
            return (self.answer(&fault, if kind == Kind::Stall { Invalid } else { Failure }), None);
        };
        if record < since {
            self.counts.early += 1;
            return (self.swallow(), None);
        }
        let is_stopped = stopping
            .is_some_and(|(stream, stopped, _)| !closed && (fault.stream, fault.substream) == (stream, Some(stopped)));
        if fault.is_stop_marker() {
            if let Some((_, _, marked)) = stopping.as_mut().filter(|_| is_stopped) {
                *marked = true;
            }
            self.counts.stop_markers += 1;
            return (self.swallow(), None);
        }
        if closed || is_stopped {
            self.counts.closed += 1;
            // A stall has STALL_TERM for its answer.
            if kind == Kind::Stall || !last {
                return (self.swallow(), None);
            }
            self.counts.groups += 1;
            cut.remove(&(fault.stream, group));
            if is_stopped {
                let begun = self.begun(number, &fault);
                self.counts.discarded += u64::from(begun.and_then(|id| self.groups.remove(&id)).is_some());
            }
            return (self.answer(&fault, Invalid), None);
        }
        let key = (fault.stream, group);
        let own = fault.substream.is_some_and(|substream| own.contains(&(fault.stream, substream.get())));
        let begun = self.begun(number, &fault);
        let cut = &mut self.life(fault.stream).unwrap().cut;
        // Of an index, whichever PASID's: a device that keeps to PCIe has it once at a time.
        let is_cut = begun.is_none() && if last { cut.remove(&key) } else { cut.contains(&key) };
        let mut faults = begun.and_then(|id| self.groups.remove(&id)).map_or(vec![], |group| group.faults);
        let fits = !is_cut && faults.len() < STREAM_LIMITS.requests.into();
        faults.push(fault);
        if !last {
            if fits && self.has_room(number) {
                self.put(number, faults, Phase::Partial, false);
            } else {
                self.counts.cut += 1;
                self.life(fault.stream).unwrap().cut.insert(key);
            }
            return (Report::Held, None);
        }
        self.counts.groups += 1;
        if !fits {
            return (self.refuse(&fault), None);
        }
        self.asked[usize::from(own)].push(faults.clone());
        if !self.defers[usize::from(own)] {
            self.counts.inline += 1;
            let is_wild = faults.iter().any(|fault| fault.address >= WILD);
            return (self.answer(&fault, if is_wild { Invalid } else { Success }), None);
        }
        // A group whose first requests came before has its room.
        if !self.has_room(number) {
            return (self.refuse(&fault), None);
        }
        self.counts.deferred += 1;
        if self.drops && !own {
            return (self.answer(&fault, Invalid), None);
        }
        (Report::Deferred, Some(self.put(number, faults, Phase::Waiting, own)))
    }

    /// Sends an answer, or keeps it. Returns which.
    fn send(&mut self, id: GroupId, response: PageResponse) -> bool {
        let group = self.groups.get_mut(&id).unwrap();
        if self.stuck {
            group.phase = Phase::Unsent(response);
            return false;
        }
        self.sent.push(group.last().answer(response));
        self.count_answer(response);
        self.end(id);
        true
    }

    /// The group needs no answer any more.
    fn end(&mut self, id: GroupId) {
        let group = self.groups.get_mut(&id).unwrap();
        group.phase = Phase::Answered;
        if !group.held {
            self.groups.remove(&id);
        }
    }

    /// The holder answers. Returns whether that was in time.
    pub(super) fn respond(&mut self, id: GroupId, response: PageResponse) -> bool {
        let in_time = self.is_waiting(id);
        if in_time {
            self.groups.get_mut(&id).unwrap().held = false;
            self.send(id, response);
        } else {
            self.counts.late_answers += 1;
            self.let_go(id);
        }
        in_time
    }

    /// The holder drops the group.
    pub(super) fn let_go(&mut self, id: GroupId) {
        let group = self.groups.get_mut(&id).unwrap();
        group.held = false;
        match group.phase {
            Phase::Waiting => group.phase = Phase::Unsent(Invalid),
            Phase::Answered => self.end(id),
            Phase::Partial | Phase::Unsent(_) => {}
        }
    }

    /// Returns how many groups timed out.
    pub(super) fn expire(&mut self, now_ms: u64) -> usize {
        let mut timed_out = 0;
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            let group = self.groups.get_mut(&id).unwrap();
            if self.lives.iter().find(|life| life.number == group.life).is_none_or(|life| life.closed) {
                continue;
            }
            match group.phase {
                Phase::Unsent(response) => _ = self.send(id, response),
                Phase::Waiting => {
                    let seen_ms = *group.seen_ms.get_or_insert(now_ms);
                    if now_ms - seen_ms >= u64::from(STREAM_LIMITS.time_out_us) / 1000 {
                        timed_out += 1;
                        self.counts.time_outs += 1;
                        self.send(id, Invalid);
                    }
                }
                Phase::Partial | Phase::Answered => {}
            }
        }
        timed_out
    }

    /// A flush that waits for nothing sent `answers`. It may send what is kept; returns how many groups are left.
    pub(super) fn flush(&mut self, stream: StreamId, answers: &[Answer]) -> usize {
        for answer in answers {
            let is_kept = |id: &GroupId| {
                let group = &self.groups[id];
                matches!(group.phase, Phase::Unsent(response) if group.last().answer(response) == *answer)
                    && !self.is_closed(group.life)
            };
            let id = self.of(stream).into_iter().find(is_kept).unwrap_or_else(|| panic!("{answer:?} was not kept"));
            self.send(id, answer.response);
        }
        self.unanswered(stream)
    }

    pub(super) fn discard(&mut self, which: Partials) {
        let is_meant = |life: &Life, first: &Fault| match which {
            Partials::All => true,
            Partials::Stream(stream) => life.streams.contains(&stream),
            Partials::Substream(stream, substream) => {
                (first.stream, first.substream) == (stream, Some(substream)) && life.streams.contains(&stream)
            }
        };
        for life in &mut self.lives {
            let before = self.groups.len();
            self.groups.retain(|_, group| {
                group.life != life.number || group.phase != Phase::Partial || !is_meant(life, &group.faults[0])
            });
            self.counts.discarded += (before - self.groups.len()) as u64;
            let all = match which {
                Partials::All => true,
                Partials::Stream(stream) => life.streams.contains(&stream),
                Partials::Substream(..) => false,
            };
            if all {
                life.cut.clear();
            }
        }
    }

    /// Returns whether there was something to close.
    pub(super) fn close(&mut self, stream: StreamId) -> bool {
        let life = self.life(stream);
        life.is_some_and(|life| {
            (life.closed, life.stopping) = (true, None);
            true
        })
    }

    /// Ends what waits on a closed stream.
    pub(super) fn answer_pending(&mut self, stream: StreamId) -> Leftover {
        let kind = self.life(stream).unwrap().kind;
        let mut leftover = Leftover::default();
        self.discard(Partials::Stream(stream));
        for id in self.of(stream) {
            let Some(response) = self.groups[&id].owed() else { continue };
            if kind == Kind::Stall {
                self.counts.terminated += 1;
                leftover.terminated += 1;
                self.end(id);
            } else if self.send(id, response) {
                leftover.answered += 1;
            } else {
                leftover.unsent += 1;
            }
        }
        leftover
    }

    /// # Errors
    ///
    /// How many groups wait.
    pub(super) fn finish(&mut self, stream: StreamId) -> Result<(), usize> {
        let waiting = self.unanswered(stream);
        if waiting > 0 {
            return Err(waiting);
        }
        self.discard(Partials::Stream(stream));
        self.lives.retain(|life| !life.streams.contains(&stream));
        Ok(())
    }

    /// Page requests of one substream are refused from now on. Returns whether its Stop marker has come since they first were.
    pub(super) fn stop(&mut self, stream: StreamId, substream: SubstreamId) -> Result<bool, StopError> {
        let life = self.life(stream).ok_or(StopError::NotOpen(stream))?;
        if life.kind != Kind::Page {
            return Err(StopError::NoPageRequests(stream));
        }
        if life.closed {
            return Err(StopError::NotOpen(stream));
        }
        match *life.stopping.get_or_insert((stream, substream, false)) {
            (of, stopped, marked) if (of, stopped) == (stream, substream) => Ok(marked),
            (stream, substream, _) => Err(StopError::Busy { stream, substream }),
        }
    }

    /// Answers what waits of a substream that is being stopped. Returns how many groups wait all the same.
    pub(super) fn answer_stopped(&mut self, stream: StreamId, substream: SubstreamId) -> usize {
        let mut waiting = 0;
        for id in self.of(stream) {
            let group = &self.groups[&id];
            let is_its = (group.last().stream, group.last().substream) == (stream, Some(substream));
            if let Some(response) = group.owed().filter(|_| is_its) {
                waiting += usize::from(!self.send(id, response));
            }
        }
        waiting
    }

    /// Its end: a new use of the substream is served.
    pub(super) fn end_stop(&mut self, stream: StreamId) {
        if let Some(life) = self.life(stream) {
            life.stopping = None;
            life.cut.clear();
        }
    }

    /// Serves a closed stream again. Returns how many groups wait: it stays closed then.
    pub(super) fn reopen(&mut self, stream: StreamId) -> Result<(), usize> {
        let waiting = self.unanswered(stream);
        if waiting > 0 {
            return Err(waiting);
        }
        if let Some(life) = self.life(stream) {
            life.closed = false;
            life.cut.clear();
        }
        Ok(())
    }

    pub(super) fn set_own(&mut self, stream: StreamId, substream: SubstreamId) -> Result<(), SubstreamError> {
        let life = self.life(stream).ok_or(SubstreamError::NotOpen(stream))?;
        if life.own.insert((stream, substream.get())) { Ok(()) } else { Err(SubstreamError::Taken(substream)) }
    }

    pub(super) fn remove_own(&mut self, stream: StreamId, substream: SubstreamId) -> Result<usize, SubstreamError> {
        let life = self.life(stream).ok_or(SubstreamError::NotOpen(stream))?;
        if !life.own.remove(&(stream, substream.get())) {
            return Err(SubstreamError::NotSet(substream));
        }
        if life.closed {
            return Ok(0);
        }
        let mut sent = 0;
        for id in self.of(stream) {
            let group = &self.groups[&id];
            let is_its = group.own && (group.last().stream, group.last().substream) == (stream, Some(substream));
            if let Some(response) = group.owed().filter(|_| is_its) {
                sent += usize::from(self.send(id, response));
            }
        }
        Ok(sent)
    }
}
