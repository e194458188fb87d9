//! Which stream has which fault state, and what is done to all of them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use embedded_hal::delay::DelayNs;
use spin::Once;

use super::batch::{Batch, Moment, Tally};
use super::closing::Closing;
use super::fault::{Answer, Fault, Kind, Outcome, Report, Request, Target};
use super::latency::Latencies;
use super::shared::{Live, Shared};
use super::slot::{GroupSlot, State};
use super::stalls::{StallAnswers, Stalls};
use super::state::FaultState;
use super::statistics::{Counter, Statistics};
use super::{FaultHandler, Limits, MAX_GROUP_REQUESTS, MAX_MASTER_STREAMS, PageResponder, StreamLimits, try_boxed};
use crate::smmuv3::{PageResponse, StreamId, SubstreamId};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::grace::{Counted, Domain, GraceTimeout, ReadGuard, Ref, Slot};
use crate::sync::lock::IrqLock;
use crate::sync::memory::try_arc;
use crate::sync::mutant::mutant;
use crate::sync::{Cpu, Masked, wait};

/// A leaf of the table holds 2^10 streams; one under loom, which keeps a history of each.
const LEAF_BITS: u32 = if cfg!(loom) { 0 } else { 10 };
const LEAF: usize = 1 << LEAF_BITS;

/// How long [`FaultTable::open`] waits for closed streams' states to be freed, in microseconds.
const FREE_LIMIT_US: u32 = 10_000;
/// How many of the groups that time out at once are logged one by one: a stuck handler may hold thousands.
const LINES: usize = 4;

type Leaf = Box<[Slot<FaultState>; LEAF]>;

/// The fault states of one SMMU's streams, found by StreamID in constant time and without a lock.
///
/// The records of one queue are reported by one core at a time, in their order, and a stream's come from one queue: so that core takes
/// the stream's free slots without an exchange. Everything else may be called by any core at any time.
pub struct FaultTable {
    pub(super) shared: Arc<Shared>,
    stream_bits: u32,
    /// Leaves are made when a stream in them is first opened, and stay.
    leaves: Box<[Once<Leaf>]>,
    /// One StreamID of each open master, plus 1; 0 is a free entry. For what visits all streams.
    open: Box<[AtomicU64]>,
    opening: IrqLock<()>,
}

/// Whose faults to serve, and how.
pub struct OpenRequest<'a> {
    /// Every StreamID of the master, each once, 1 to [`MAX_MASTER_STREAMS`].
    pub streams: &'a [StreamId],
    /// How the master waits for answers.
    pub kind: Kind,
    /// Who decides.
    pub handler: Arc<dyn FaultHandler>,
    /// How much the master may ask for.
    pub limits: StreamLimits,
    /// The number of records that the master's queue has had. Records with a lower number are of an earlier life of these
    /// StreamIDs, and are refused without an answer.
    pub since: u64,
}

/// Why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A limit is out of its range.
    #[error("{limits:?} out of range")]
    NotSupported {
        /// The limits asked for.
        limits: StreamLimits,
    },
    /// No StreamID, or more than [`MAX_MASTER_STREAMS`].
    #[error("{count} StreamIDs in one master")]
    StreamCount {
        /// How many.
        count: usize,
    },
    /// The request names the StreamID twice.
    #[error("{stream:?} is named twice")]
    Repeated {
        /// The StreamID.
        stream: StreamId,
    },
    /// The table has no such StreamID.
    #[error("{stream:?} has more than {bits} bits")]
    NoSuchStream {
        /// The StreamID.
        stream: StreamId,
        /// The width of the table's StreamIDs.
        bits: u32,
    },
    /// The stream is open, or was closed and has not ended.
    #[error("{stream:?} is in use")]
    Busy {
        /// The StreamID.
        stream: StreamId,
    },
    /// The heap is full.
    #[error("no memory for the fault state of {stream:?}")]
    NoMemory {
        /// The first StreamID.
        stream: StreamId,
    },
    /// As many states as may be are live or wait for their grace period, even after waiting for one.
    #[error("{live} fault states are live, {limit} may be")]
    TooManyStates {
        /// How many there are.
        live: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// Why a stream could not be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// It is not open.
    #[error("{0:?} is not open")]
    NotOpen(StreamId),
    /// Someone else is closing it, or has just finished.
    #[error("{0:?} is being closed")]
    Closing(StreamId),
}

/// Why a flush ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// The stream is not open.
    #[error("{0:?} is not open")]
    NotOpen(StreamId),
    /// The heap is full: there is no room to note what waits.
    #[error("no memory to flush {0:?}")]
    NoMemory(StreamId),
    /// Reports may still be under way on these cores.
    #[error(transparent)]
    Grace(#[from] GraceTimeout),
    /// A group was not answered in time.
    #[error("{stream:?} has {waiting} unanswered groups after {waited_us} us, {group:?} among them")]
    Outstanding {
        /// The stream.
        stream: StreamId,
        /// One of its unanswered groups, if one was left at the last look.
        group: Option<Target>,
        /// How many were left.
        waiting: usize,
        /// How long was waited, in microseconds, without the grace period.
        waited_us: u32,
    },
}

/// Which partial groups to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partials {
    /// Those of all streams: the queue has overflowed, and requests with Last may be lost (8.1).
    All,
    /// Those of the master with this StreamID.
    Stream(StreamId),
    /// Those of one PASID, which the device has stopped using.
    Substream(StreamId, SubstreamId),
}

/// What a whole table has done, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What was counted, over all streams, closed ones and unknown ones too.
    pub statistics: Statistics,
    /// How long the answers took, over all streams.
    pub latencies: Latencies,
    /// Fault states that are open, or closed and not freed yet.
    pub live_states: usize,
    /// Groups in storage: partial, deferred, or answered and still held.
    pub slots_in_use: usize,
}

impl FaultTable {
    /// An empty table for StreamIDs of `stream_bits` (at most 32) bits.
    ///
    /// # Errors
    ///
    /// [`NoMemory`](super::NoMemory) when the heap is full, or `stream_bits` is over 32.
    pub fn new(
        domain: Arc<Domain>,
        responder: Arc<dyn PageResponder>,
        stream_bits: u32,
        limits: Limits,
    ) -> Result<Self, super::NoMemory> {
        let leaves = 1_usize.checked_shl(stream_bits.saturating_sub(LEAF_BITS)).filter(|_| stream_bits <= 32);
        Ok(Self {
            shared: Shared::new(domain, responder, limits).and_then(try_arc).ok_or(super::NoMemory)?,
            stream_bits,
            leaves: leaves.and_then(|count| try_boxed(count, || Some(Once::new()))).ok_or(super::NoMemory)?,
            open: try_boxed(limits.states, || Some(AtomicU64::new(0))).ok_or(super::NoMemory)?,
            opening: IrqLock::new(()),
        })
    }

    /// Has the time that answers take measured by `clock`: a counter that all cores share and that only grows, read at the
    /// beginning of a batch and for each answer, or for those that are decided together. Only the first call counts.
    pub fn set_clock(&self, clock: fn() -> u64) {
        self.shared.clock.call_once(|| clock);
    }

    /// Reports records that were in their queue before this call: `report_all` gives them to the [`Batch`] in their order.
    pub fn batch<T>(&self, masked: &Masked, report_all: impl FnOnce(&Batch<'_>) -> T) -> T {
        let section = self.shared.domain.read(masked);
        report_all(&Batch::new(self, self.shared.moment(&section, masked)))
    }

    /// Reports stalls whose records, the `first`th and later, were in their queue before this call: `report_all` gives them to the [`Stalls`]
    /// in their order.
    ///
    /// Like a [`Batch`], with less work for each: handlers are asked about stalls of one address space together. `answers` gets those
    /// that are to be answered now, and how; those of one address space in their order, and the last when `report_all` is done. Where
    /// they are of few address spaces and served at once, it gets all together.
    #[inline(always)]
    pub fn stalls<A: StallAnswers>(
        &self,
        masked: &Masked,
        first: u64,
        answers: A,
        report_all: impl FnOnce(&mut Stalls<'_, A>),
    ) {
        let section = self.shared.domain.read(masked);
        let moment = self.shared.moment(&section, masked);
        report_all(&mut Stalls::new(self, moment, first, answers));
    }

    /// Reports one record: a batch of one.
    pub fn report(&self, masked: &Masked, record: u64, fault: Fault) -> Report {
        self.batch(masked, |batch| batch.report(record, &fault))
    }

    /// Deals with one record of a stream with this `state`, if it has any.
    pub(super) fn report_in(
        &self,
        moment: &Moment<'_>,
        state: Option<&Counted<FaultState>>,
        record: u64,
        fault: &Fault,
    ) -> Outcome {
        match state.filter(|state| state.serves(fault.request)) {
            Some(state) => FaultState::report(state, moment, record, fault, &mut Tally::new(state, moment.masked)),
            None => self.report_unknown(moment.masked, fault),
        }
    }

    /// The state of a stream, kept for the section only.
    pub(super) fn find<'g>(&self, section: &'g ReadGuard<'_>, stream: StreamId) -> Option<&'g Counted<FaultState>> {
        self.slot(stream)?.load(section)
    }

    /// No one serves the fault: a stall is refused, and PRI is down for the whole function.
    fn report_unknown(&self, masked: &Masked, fault: &Fault) -> Outcome {
        let count = |which: Counter| self.shared.counters.add(masked, [which], 1);
        count(Counter::Records);
        count(Counter::Unknown);
        if !fault.wants_answer() {
            if fault.is_stop_marker() {
                count(Counter::StopMarkers);
            }
            count(Counter::Swallowed);
            return Outcome::Swallowed;
        }
        let response = match fault.request {
            Request::Stall(_) => PageResponse::Invalid,
            Request::Page { .. } => PageResponse::Failure,
        };
        count(Counter::Groups);
        count(response.into());
        Outcome::Answer(response)
    }

    /// Serves the faults of a master from now on.
    ///
    /// When the bound on states is reached, waits for closed ones to be freed, a bounded time.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing has changed then.
    pub fn open(&self, cpu: &mut Cpu, delay: &mut impl DelayNs, request: OpenRequest<'_>) -> Result<(), OpenError> {
        let OpenRequest { streams, kind, handler, limits, since } = request;
        let first = *streams.first().ok_or(OpenError::StreamCount { count: 0 })?;
        if streams.len() > MAX_MASTER_STREAMS {
            return Err(OpenError::StreamCount { count: streams.len() });
        }
        if let Some(stream) = repeated(streams) {
            return Err(OpenError::Repeated { stream });
        }
        let requests = 1..=MAX_GROUP_REQUESTS;
        if limits.groups == 0 || limits.groups == u16::MAX || !requests.contains(&limits.requests.into()) {
            return Err(OpenError::NotSupported { limits });
        }
        for &stream in streams {
            self.make_leaf(stream)?;
        }
        let live = self.reserve_state(cpu, delay)?;
        let no_memory = OpenError::NoMemory { stream: first };
        let state = FaultState::new(live, streams, kind, handler, limits, since).ok_or(no_memory.clone())?;
        let state = Ref::new(&self.shared.domain, state).map_err(|_| no_memory)?;
        cpu.masked(|masked| {
            let _opening = self.opening.lock(masked);
            let section = self.shared.domain.read(masked);
            let used = |&stream: &StreamId| self.slot(stream).is_none_or(|slot| slot.load(&section).is_some());
            if let Some(&stream) = streams.iter().find(|stream| used(stream)) {
                return Err(OpenError::Busy { stream });
            }
            let entry = self.open.iter().find(|entry| entry.load(Relaxed) == 0);
            if let Some(entry) = entry {
                entry.store(u64::from(first.0) + 1, Relaxed);
            }
            for &stream in streams {
                if let Some(slot) = self.slot(stream)
                    && let Some(reference) = state.try_ref()
                {
                    // Empty, and nobody else fills it.
                    let _ = slot.publish(reference);
                }
            }
            Ok(())
        })
    }

    fn make_leaf(&self, stream: StreamId) -> Result<(), OpenError> {
        let no_such = OpenError::NoSuchStream { stream, bits: self.stream_bits };
        if u64::from(stream.0) >> self.stream_bits != 0 {
            return Err(no_such);
        }
        let leaf = self.leaves.get((stream.0 >> LEAF_BITS) as usize).ok_or(no_such)?;
        leaf.try_call_once(|| {
            let slots = try_boxed(LEAF, || Some(Slot::new(Arc::clone(&self.shared.domain))));
            slots.and_then(|slots| slots.try_into().ok()).ok_or(OpenError::NoMemory { stream })
        })?;
        Ok(())
    }

    fn reserve_state(&self, cpu: &mut Cpu, delay: &mut impl DelayNs) -> Result<Live, OpenError> {
        if let Some(live) = Live::new(&self.shared) {
            return Ok(live);
        }
        // In vain or not, what is due now is freed; whether that was enough the last look tells.
        let _ = self.shared.domain.synchronize(cpu, delay, FREE_LIMIT_US);
        let live = wait::until(delay, FREE_LIMIT_US, || {
            self.shared.domain.poll(cpu);
            // Another core may be freeing it.
            let is_freed = self.shared.domain.stats().pending() == 0;
            Live::new(&self.shared).map_or(if is_freed { Ok(None) } else { Err(()) }, |live| Ok(Some(live)))
        });
        let limit = self.shared.limits.states;
        live.ok().flatten().ok_or_else(|| OpenError::TooManyStates { live: self.shared.live(), limit })
    }

    /// Stops serving a master, by any of its StreamIDs: from the next grace period on, only [`Closing`] answers for it.
    ///
    /// # Errors
    ///
    /// [`CloseError`]
    pub fn close(&self, masked: &Masked, stream: StreamId) -> Result<Closing<'_>, CloseError> {
        let state = self.get(masked, stream).ok_or(CloseError::NotOpen(stream))?;
        Closing::begin(self, state).ok_or(CloseError::Closing(stream))
    }

    /// Waits until everything that this stream reported before the call is answered, for at most `limit_us` microseconds
    /// each for reports under way and for answers. Groups that come while it waits for answers are not waited for. Meanwhile this core holds
    /// no grace period up, nor with that who ends the stream.
    ///
    /// A group that its handler answered at once counts as answered when [`report`](Self::report) returned the answer: the
    /// caller of that may still keep it until there is room to send it.
    ///
    /// # Errors
    ///
    /// [`FlushError`] names what is outstanding.
    pub fn flush(
        &self,
        cpu: &mut Cpu,
        delay: &mut impl DelayNs,
        stream: StreamId,
        limit_us: u32,
    ) -> Result<(), FlushError> {
        // Reports that have begun are then answered, or in a slot.
        let _reported = self.shared.domain.synchronize(cpu, delay, limit_us)?;
        let state = cpu.masked(|masked| self.get(masked, stream)).ok_or(FlushError::NotOpen(stream))?;
        // All of them now: what comes into a slot later is not waited for.
        let mut waiting = Vec::new();
        waiting.try_reserve_exact(state.slots.len()).map_err(|_| FlushError::NoMemory(stream))?;
        waiting.extend(state.slots.iter().map(|slot| (slot, slot.word())).filter(|(_, word)| word.wants_answer()));
        let mut waiting = waiting.into_iter().peekable();
        wait::until(delay, limit_us, || {
            self.shared.domain.poll(cpu);
            while let Some(&(slot, word)) = waiting.peek() {
                cpu.masked(|masked| self.resend(masked, &state, slot));
                let now = slot.word();
                if now.generation() == word.generation() && now.wants_answer() {
                    return Err(());
                }
                waiting.next();
            }
            Ok(())
        })
        .map_err(|expired| {
            let (waiting, group) = state.unanswered();
            FlushError::Outstanding { stream, group, waiting, waited_us: expired.waited_us }
        })
    }

    /// Drops partial groups, which want no answer as long as their last request has not come.
    pub fn discard_partials(&self, masked: &Masked, which: Partials) {
        match which {
            Partials::All => self.open_streams().for_each(|stream| self.discard_partials_of(masked, stream, None)),
            Partials::Stream(stream) => self.discard_partials_of(masked, stream, None),
            Partials::Substream(stream, substream) => self.discard_partials_of(masked, stream, Some(substream)),
        }
    }

    fn discard_partials_of(&self, masked: &Masked, stream: StreamId, substream: Option<SubstreamId>) {
        let section = self.shared.domain.read(masked);
        let Some(state) = self.slot(stream).and_then(|slot| slot.load(&section)) else { return };
        let meant = |fault: &Fault| substream.is_none() || fault.stream == stream && fault.substream == substream;
        state.slots.iter().for_each(|slot| state.discard(masked, slot, meant));
        if substream.is_none() {
            state.forget_cuts();
        }
    }

    /// Answers Invalid what has waited for its stream's time-out, and tries answers again that could not be sent. To be
    /// called regularly, by one core or several, with the time in microseconds from any beginning.
    ///
    /// A group's time starts with the first call after it was deferred. Returns how many groups timed out; the first ones are logged.
    pub fn expire(&self, cpu: &Cpu, now_us: u64) -> usize {
        if self.shared.slots_in_use() == 0 {
            return 0;
        }
        let now_ms = (now_us / 1000) as u32;
        let mut timed_out = 0;
        for stream in self.open_streams() {
            let Some(state) = cpu.masked(|masked| self.get(masked, stream)) else { continue };
            for slot in &state.slots {
                if let Some(answer) = cpu.masked(|masked| self.expire_slot(masked, &state, slot, now_ms)) {
                    timed_out += 1;
                    let Answer { stream, to, .. } = answer;
                    if timed_out <= LINES {
                        log::warn!("{stream:?}: {to:?} not answered in {} us, refused", state.limits.time_out_us);
                    }
                }
            }
        }
        if timed_out > LINES {
            log::warn!("and {} more groups", timed_out - LINES);
        }
        timed_out
    }

    /// One masked section of [`expire`](Self::expire), and the time-out's answer if there was one.
    fn expire_slot(&self, masked: &Masked, state: &FaultState, slot: &GroupSlot, now_ms: u32) -> Option<Answer> {
        self.resend(masked, state, slot);
        let _section = self.shared.domain.read(masked);
        let word = slot.word();
        let due = word.state() == State::Pending
            && slot.is_overdue(word, now_ms, state.limits.time_out_us.div_ceil(1000))
            && (!state.is_closed() || mutant!("expire_after_close"));
        let claim = due.then(|| slot.claim(word, PageResponse::Invalid, false)).flatten()?;
        let answer = claim.answer();
        state.count(masked, [Counter::TimeOuts]);
        state.send(masked, claim);
        Some(answer)
    }

    /// Tries an unsent answer again, unless that is the disabler's.
    fn resend(&self, masked: &Masked, state: &FaultState, slot: &GroupSlot) {
        let _section = self.shared.domain.read(masked);
        if slot.word().state() == State::Unsent && (!state.is_closed() || mutant!("resend_after_close")) {
            state.resend(masked, slot);
        }
    }

    /// What was counted for an open or closing master.
    pub fn statistics(&self, masked: &Masked, stream: StreamId) -> Option<Statistics> {
        let section = self.shared.domain.read(masked);
        self.slot(stream)?.load(&section).map(|state| state.counters.read())
    }

    /// How long the answers to an open or closing master took.
    pub fn latencies(&self, masked: &Masked, stream: StreamId) -> Option<Latencies> {
        let section = self.shared.domain.read(masked);
        self.slot(stream)?.load(&section).map(|state| state.latencies.read())
    }

    /// How many groups of a master wait for their answer, 0 if it is not open.
    pub fn unanswered(&self, masked: &Masked, stream: StreamId) -> usize {
        let section = self.shared.domain.read(masked);
        self.slot(stream).and_then(|slot| slot.load(&section)).map_or(0, |state| state.unanswered().0)
    }

    /// What the table has done, and holds now.
    pub fn totals(&self) -> Totals {
        Totals {
            statistics: self.shared.counters.read(),
            latencies: self.shared.latencies.read(),
            live_states: self.live(),
            slots_in_use: self.shared.slots_in_use(),
        }
    }

    /// The number of fault states that are open, or closed and not freed yet.
    pub fn live(&self) -> usize {
        self.shared.live()
    }

    /// The first StreamID of every master that is open or closing.
    pub fn open_streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        let entries = self.open.iter().map(|entry| entry.load(Relaxed));
        entries.filter_map(|entry| entry.checked_sub(1).map(|stream| StreamId(stream as u32)))
    }

    /// The fault state of `stream`, kept beyond the section.
    pub(super) fn get(&self, masked: &Masked, stream: StreamId) -> Option<Ref<FaultState>> {
        let section = self.shared.domain.read(masked);
        self.slot(stream)?.load(&section)?.try_ref()
    }

    fn slot(&self, stream: StreamId) -> Option<&Slot<FaultState>> {
        let leaf = self.leaves.get((stream.0 >> LEAF_BITS) as usize)?.get()?;
        Some(&leaf[stream.0 as usize % LEAF])
    }

    /// Takes a closed state out of the table: no report finds it any more.
    pub(super) fn remove(&self, masked: &Masked, state: &FaultState) {
        // Locked, so that no one opens one of the streams before all are out.
        let _opening = self.opening.lock(masked);
        for &stream in &state.streams {
            drop(self.slot(stream).and_then(Slot::unpublish));
        }
        let first = state.streams.first().map(|first| u64::from(first.0) + 1);
        if let Some(entry) = self.open.iter().find(|entry| Some(entry.load(Relaxed)) == first) {
            entry.store(0, Relaxed);
        }
    }
}

/// A StreamID that is among `streams` twice.
pub(crate) fn repeated(streams: &[StreamId]) -> Option<StreamId> {
    let is_before = |(index, stream): &(usize, &StreamId)| streams.iter().take(*index).any(|before| before == *stream);
    streams.iter().enumerate().find(is_before).map(|(_, stream)| *stream)
}

impl fmt::Debug for FaultTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultTable")
            .field("stream_bits", &self.stream_bits)
            .field("totals", &self.totals())
            .finish_non_exhaustive()
    }
}
