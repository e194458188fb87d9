//! Histories at random: what the fault core does is compared, step by step, with a [`Reference`] that follows the rules alone.
//!
//! A history that failed once is in `random.txt`, by its seed, and runs first. A seed stands for its history only as long as
//! [`step`] makes the same of it; docs/testing.md says how to find them again after a change there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use smmu_iopf::iopf::{
    Answer, CloseError, Fault, FaultGroup, FlushError, Kind, Limits, OpenError, Partials, Report, Request, Statistics,
    Stopping, Target,
};
use smmu_iopf::smmuv3::{Access, PageResponse, PrgIndex, Stag, StreamId, SubstreamId};

use super::fault_bench::*;
use super::reference::{GroupId, Reference};

const ROOM: Limits = Limits { states: 4, groups: 9 };

/// A stalling master, one with page requests and two StreamIDs, and another stalling one.
const MASTERS: [(&[StreamId], Kind); 3] = [
    (&[StreamId(5)], Kind::Stall),
    (&[StreamId(0x405), StreamId(0x8_0001)], Kind::Page),
    (&[StreamId(6)], Kind::Stall),
];

const STREAMS: [StreamId; 4] = [MASTERS[0].0[0], MASTERS[1].0[0], MASTERS[1].0[1], MASTERS[2].0[0]];

#[derive(Clone, Debug)]
enum Step {
    Stall {
        stream: StreamId,
        substream: Option<SubstreamId>,
        wild: bool,
        early: bool,
    },
    Request {
        stream: StreamId,
        substream: Option<SubstreamId>,
        group: u16,
        last: bool,
        none: bool,
        wild: bool,
        early: bool,
    },
    Handlers {
        defers: [bool; 2],
        drops: bool,
    },
    Responder {
        stuck: bool,
    },
    Respond {
        group: prop::sample::Index,
        response: PageResponse,
    },
    Drop {
        group: prop::sample::Index,
    },
    Expire {
        after_ms: u64,
    },
    Flush {
        stream: StreamId,
    },
    Discard {
        which: Partials,
    },
    SetOwn {
        stream: StreamId,
        substream: SubstreamId,
    },
    RemoveOwn {
        stream: StreamId,
        substream: SubstreamId,
    },
    Marker {
        stream: StreamId,
        substream: SubstreamId,
    },
    Stop {
        stream: StreamId,
        substream: SubstreamId,
        until: Until,
    },
    Reopen {
        master: usize,
    },
    Open {
        master: usize,
    },
    Close {
        stream: StreamId,
    },
    AnswerPending {
        master: usize,
    },
    Finish {
        master: usize,
    },
    Free,
}

/// How far a substream's stop goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Until {
    Refused,
    Answered,
    Ended,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let master = || 0..MASTERS.len();
    let stream = || prop::sample::select(STREAMS.to_vec());
    let paging = || prop::sample::select(vec![1, 1, 1, 2, 2, 0]).prop_map(|index| STREAMS[index]);
    let substream = || prop::sample::select(vec![5, 5, 5, 6]).prop_map(SubstreamId::from_low_bits);
    let rarely = || prop::bool::weighted(0.1);
    let which = prop_oneof![
        Just(Partials::All),
        stream().prop_map(Partials::Stream),
        (paging(), substream()).prop_map(|(stream, substream)| Partials::Substream(stream, substream)),
    ];
    let response = prop::sample::select(vec![PageResponse::Success, PageResponse::Invalid, PageResponse::Failure]);
    prop_oneof![
        6 => (stream(), prop::option::of(substream()), rarely(), rarely())
            .prop_map(|(stream, substream, wild, early)| Step::Stall { stream, substream, wild, early }),
        10 => (paging(), prop::option::of(substream()), 0..3_u16, any::<bool>(), rarely(), rarely(), rarely()).prop_map(
            |(stream, substream, group, last, none, wild, early)| {
                Step::Request { stream, substream, group, last, none, wild, early }
            }
        ),
        2 => (prop::array::uniform2(prop::bool::weighted(0.8)), rarely())
            .prop_map(|(defers, drops)| Step::Handlers { defers, drops }),
        1 => any::<bool>().prop_map(|stuck| Step::Responder { stuck }),
        4 => (index(), response).prop_map(|(group, response)| Step::Respond { group, response }),
        1 => index().prop_map(|group| Step::Drop { group }),
        3 => (0..700_u64).prop_map(|after_ms| Step::Expire { after_ms }),
        1 => stream().prop_map(|stream| Step::Flush { stream }),
        1 => which.prop_map(|which| Step::Discard { which }),
        2 => (stream(), substream()).prop_map(|(stream, substream)| Step::SetOwn { stream, substream }),
        2 => (stream(), substream()).prop_map(|(stream, substream)| Step::RemoveOwn { stream, substream }),
        1 => (paging(), substream()).prop_map(|(stream, substream)| Step::Marker { stream, substream }),
        2 => (paging(), substream(), prop::sample::select(vec![Until::Refused, Until::Answered, Until::Ended]))
            .prop_map(|(stream, substream, until)| Step::Stop { stream, substream, until }),
        1 => master().prop_map(|master| Step::Reopen { master }),
        2 => master().prop_map(|master| Step::Open { master }),
        1 => stream().prop_map(|stream| Step::Close { stream }),
        1 => master().prop_map(|master| Step::AnswerPending { master }),
        1 => master().prop_map(|master| Step::Finish { master }),
        1 => Just(Step::Free),
    ]
}

/// What has to have happened in the histories of a run; else it shows nothing of it.
#[derive(Clone, Copy, Debug)]
enum Kinds {
    /// A substream's stop came to its end,
    Ended,
    /// found that its Stop marker had come,
    Marked,
    /// or that answers could not be sent.
    Unsent,
    /// A closed master was served again.
    Reopened,
}

static NOTED: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];

fn note(kind: Kinds, happened: bool) {
    NOTED[kind as usize].fetch_add(happened.into(), SeqCst);
}

/// The fault core and what it should be.
struct World {
    bench: Bench,
    /// The handler of substreams that have their own.
    own: Arc<Handler>,
    reference: Reference,
    held: Vec<(FaultGroup, GroupId)>,
    /// The number of the next record.
    record: u64,
    next_tag: u16,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            bench: Bench::with_limits(ROOM),
            own: Arc::default(),
            reference: Reference::new(ROOM),
            held: Vec::new(),
            record: 1,
            next_tag: 0,
            now_ms: 0,
        };
        world.step(Step::Handlers { defers: [true; 2], drops: false });
        (0..MASTERS.len()).for_each(|master| world.step(Step::Open { master }));
        world
    }

    fn report(&mut self, fault: Fault, early: bool) {
        // The record before the first of the latest life is of no life that is.
        let record = if early { 0 } else { self.record };
        self.record += 1;
        let (expected, id) = self.reference.report(record, fault);
        // One stall of three by the way of many, and one by that of a lone one.
        let reported = match fault.request {
            Request::Stall(Stag(tag)) if tag % 3 == 0 => self.bench.report_stalls(record, &[fault]),
            Request::Stall(Stag(tag)) if tag % 3 == 1 => self.bench.report_lone(record, &fault),
            _ => match self.bench.report_record(record, fault) {
                Report::Answer(answer) => vec![answer],
                other => {
                    assert_eq!(other, expected);
                    vec![]
                }
            },
        };
        assert_eq!(reported, if let Report::Answer(answer) = expected { vec![answer] } else { vec![] });
        let groups = self.bench.handler.take().into_iter().chain(self.own.take());
        self.held.extend(groups.map(|group| (group, id.unwrap())));
    }

    fn take(&mut self, group: prop::sample::Index) -> Option<(FaultGroup, GroupId)> {
        (!self.held.is_empty()).then(|| self.held.remove(group.index(self.held.len())))
    }

    fn step(&mut self, step: Step) {
        let address = |wild| if wild { WILD } else { 0x1000 };
        let bench = &mut self.bench;
        match step {
            Step::Stall { stream, substream, wild, early } => {
                self.next_tag += 1;
                let fault = Fault { substream, ..stall(stream, self.next_tag, address(wild)) };
                self.report(fault, early);
            }
            Step::Request { stream, substream, group, last, none, wild, early } => {
                let access = if none { Access::default() } else { Access::READ };
                let fault = Fault { substream, access, ..page(stream, group, last, address(wild)) };
                self.report(fault, early);
            }
            Step::Marker { stream, substream } => {
                let marker =
                    Fault { substream: Some(substream), access: Access::default(), ..page(stream, 0, true, 0) };
                self.report(marker, false);
            }
            Step::Handlers { defers, drops } => {
                for (handler, defers) in [(&bench.handler, defers[0]), (&self.own, defers[1])] {
                    handler.defers.store(defers, SeqCst);
                    handler.at_once.store((!defers).into(), SeqCst);
                }
                bench.handler.drops.store(drops, SeqCst);
                (self.reference.defers, self.reference.drops) = (defers, drops);
            }
            Step::Responder { stuck } => {
                bench.responder.stuck.store(stuck, SeqCst);
                self.reference.stuck = stuck;
            }
            Step::Respond { group, response } => {
                if let Some((group, id)) = self.take(group) {
                    let in_time = self.bench.cpu.masked(|masked| group.respond(masked, response)).is_ok();
                    assert_eq!(in_time, self.reference.respond(id, response));
                }
            }
            Step::Drop { group } => {
                if let Some((group, id)) = self.take(group) {
                    drop(group);
                    self.reference.let_go(id);
                }
            }
            Step::Expire { after_ms } => {
                self.now_ms += after_ms;
                assert_eq!(bench.table.expire(&bench.cpu, self.now_ms * 1000), self.reference.expire(self.now_ms));
            }
            Step::Flush { stream } => {
                let flushed = bench.table.flush(&mut bench.cpu, &mut Clock, stream, 0);
                let sent = bench.responder.take();
                let left = self.reference.flush(stream, &sent);
                self.reference.sent.clear();
                match flushed {
                    Ok(()) => assert_eq!(left, 0),
                    Err(FlushError::Outstanding { waiting, .. }) => assert!(left > 0 && left == waiting),
                    Err(error) => {
                        assert_eq!(error, FlushError::NotOpen(stream));
                        assert!(!self.reference.is_open(stream));
                    }
                }
            }
            Step::Discard { which } => {
                bench.cpu.masked(|masked| bench.table.discard_partials(masked, which));
                self.reference.discard(which);
            }
            Step::SetOwn { stream, substream } => {
                let set = bench.table.set_substream_handler(&mut bench.cpu, stream, substream, self.own.clone());
                assert_eq!(set, self.reference.set_own(stream, substream));
            }
            Step::RemoveOwn { stream, substream } => {
                let removed = bench.table.remove_substream_handler(&mut bench.cpu, &mut Clock, stream, substream, 1000);
                assert_eq!(removed, self.reference.remove_own(stream, substream));
            }
            Step::Stop { stream, substream, until } => {
                let stopping = bench.cpu.masked(|masked| bench.table.stop_substream(masked, stream, substream));
                let marked = self.reference.stop(stream, substream);
                assert_eq!(stopping.as_ref().map(Stopping::is_marked), marked.as_ref().copied());
                if let (Ok(stopping), true) = (stopping, until != Until::Refused) {
                    let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
                    let waiting = stopping.answer_pending(&bench.cpu, &grace);
                    assert_eq!(waiting, self.reference.answer_stopped(stream, substream));
                    note(Kinds::Unsent, waiting > 0);
                    note(Kinds::Marked, stopping.is_marked());
                    if until == Until::Ended {
                        note(Kinds::Ended, true);
                        stopping.finish();
                        self.reference.end_stop(stream);
                    }
                }
            }
            Step::Reopen { master } => {
                let stream = MASTERS[master].0[0];
                if self.reference.is_closed_stream(stream) {
                    let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
                    let closing = bench.cpu.masked(|masked| bench.table.close(masked, stream)).unwrap();
                    assert_eq!(closing.answer_pending(&bench.cpu, &grace), self.reference.answer_pending(stream));
                    let reopened = closing.reopen().map_err(|unfinished| unfinished.waiting);
                    note(Kinds::Reopened, reopened.is_ok());
                    assert_eq!(reopened, self.reference.reopen(stream));
                }
            }
            Step::Open { master } => {
                let (streams, kind) = MASTERS[master];
                let was_open = self.reference.is_open(streams[0]);
                match bench.open_with(streams, kind, STREAM_LIMITS, self.record) {
                    Err(OpenError::Busy { stream }) => assert!(was_open && streams.contains(&stream)),
                    Err(error) => assert_eq!(error, OpenError::TooManyStates { live: 4, limit: 4 }),
                    Ok(()) => assert!(!was_open),
                }
                self.reference.open(streams, kind, self.record);
            }
            Step::Close { stream } => bench.cpu.masked(|masked| match bench.table.close(masked, stream) {
                Ok(_closing) => {
                    assert!(self.reference.close(stream));
                    assert_eq!(bench.table.close(masked, stream).unwrap_err(), CloseError::Closing(stream));
                }
                Err(error) => {
                    assert_eq!(error, CloseError::NotOpen(stream));
                    assert!(!self.reference.close(stream));
                }
            }),
            Step::AnswerPending { master } => {
                let stream = MASTERS[master].0[0];
                if self.reference.is_closed_stream(stream) {
                    let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
                    let closing = bench.cpu.masked(|masked| bench.table.close(masked, stream)).unwrap();
                    let leftover = closing.answer_pending(&bench.cpu, &grace);
                    assert_eq!(leftover, self.reference.answer_pending(stream));
                }
            }
            Step::Finish { master } => {
                let stream = MASTERS[master].0[0];
                if self.reference.is_closed_stream(stream) {
                    let closing = bench.cpu.masked(|masked| bench.table.close(masked, stream)).unwrap();
                    let finished = bench.cpu.masked(|masked| closing.finish(masked));
                    let finished = finished.map(drop).map_err(|unfinished| unfinished.waiting);
                    assert_eq!(finished, self.reference.finish(stream));
                }
            }
            Step::Free => {
                bench.free();
                assert_eq!(bench.table.live(), self.reference.live());
            }
        }
        self.check();
    }

    /// Both have been asked, have sent, have counted and hold the same.
    fn check(&mut self) {
        let asked = [&self.bench.handler, &self.own].map(|handler| std::mem::take(&mut *handler.seen.lock().unwrap()));
        assert_eq!(asked, std::mem::take(&mut self.reference.asked));
        // In what order one pass sends, no rule says.
        let sorted = |mut answers: Vec<Answer>| {
            answers.sort_by_key(|answer| format!("{answer:?}"));
            answers
        };
        assert_eq!(sorted(self.bench.responder.take()), sorted(std::mem::take(&mut self.reference.sent)));

        let totals = self.bench.table.totals();
        let Statistics { duplicates, not_sent, .. } = totals.statistics;
        assert_eq!(totals.statistics, Statistics { duplicates, not_sent, ..self.reference.counts });
        assert_eq!(totals.slots_in_use, self.reference.slots_in_use());
        assert!(totals.slots_in_use <= ROOM.groups);
        assert!((self.reference.live()..=ROOM.states).contains(&totals.live_states));
        for stream in STREAMS {
            let unanswered = self.bench.cpu.masked(|masked| self.bench.table.unanswered(masked, stream));
            assert_eq!(unanswered, self.reference.unanswered(stream));
        }
        for (group, id) in &self.held {
            assert_eq!(group.is_waiting(), self.reference.is_waiting(*id));
            assert_eq!(group.faults().collect::<Vec<_>>(), self.reference.faults(*id));
        }
        // By the books of both, each group has one answer, or had STALL_TERM, or waits.
        let waiting: usize = MASTERS.map(|(streams, _)| self.reference.unanswered(streams[0])).iter().sum();
        let statistics = totals.statistics;
        assert_eq!(statistics.groups, statistics.answers() + statistics.terminated + waiting as u64);
    }

    /// Everything is let go and closed: then nothing waits, is in use or live.
    fn end(mut self) {
        self.step(Step::Responder { stuck: false });
        for (master, (streams, _)) in MASTERS.into_iter().enumerate() {
            self.step(Step::Close { stream: streams[0] });
            self.step(Step::AnswerPending { master });
            self.step(Step::Finish { master });
        }
        self.held.clear();
        // A substream's handler goes when its stream's state is freed: a period later.
        self.bench.free();
        self.bench.free();
        let totals = self.bench.table.totals();
        assert_eq!((totals.live_states, totals.slots_in_use), (0, 0));
        assert_eq!(totals.statistics.groups, totals.statistics.answers() + totals.statistics.terminated);
        assert_eq!(self.bench.domain.stats().in_memory(), 0);
        assert_eq!(Arc::strong_count(&self.own), 1);
    }
}

/// Miri has no files.
fn config() -> ProptestConfig {
    let file = FileFailurePersistence::Direct("tests/fault_core/random.txt");
    if cfg!(miri) {
        return ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() };
    }
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    fn any_history(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.end();
    }
}

#[test]
fn any_history_is_that_of_the_reference() {
    any_history();
    for kind in [Kinds::Ended, Kinds::Marked, Kinds::Unsent, Kinds::Reopened] {
        assert!(NOTED[kind as usize].load(SeqCst) > 0 || cfg!(miri), "never {kind:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..config() })]

    #[test]
    fn any_fault_survives_storage_and_gets_its_answer(
        tag in any::<u16>(), index in 0..512_u16, is_stall in any::<bool>(), address in any::<u64>(),
        substream in prop::option::of(0..1_u32 << 20), bits in prop::array::uniform4(any::<bool>()),
    ) {
        let kind = if is_stall { Kind::Stall } else { Kind::Page };
        let bench = Bench::deferring(kind);
        let [read, write, execute, privileged] = bits;
        let mut fault = if is_stall { stall(STREAM, tag, address) } else { page(STREAM, index, true, address) };
        fault.access = Access { read, write, execute, privileged };
        fault.substream = substream.and_then(SubstreamId::new);
        prop_assume!(!fault.is_stop_marker());
        prop_assert_eq!(bench.report(fault), Report::Deferred);
        let group = bench.handler.take_one();
        prop_assert_eq!(group.faults().collect::<Vec<_>>(), [fault]);
        bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).unwrap();
        let to = if is_stall { Target::Stall(Stag(tag)) } else { Target::Group(PrgIndex::new(index).unwrap()) };
        let answer = Answer { stream: STREAM, substream: fault.substream, to, response: PageResponse::Success };
        prop_assert_eq!(bench.responder.take(), [answer]);
    }
}
