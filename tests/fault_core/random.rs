//! Every order of reports, answers, drops, time-outs, closes and finishes, checked against a simulated SMMU.
//!
//! What is checked: a stall or a group with Last gets one answer, or STALL_TERM, and none twice; nothing is sent for a
//! stall after its STALL_TERM; the limits hold; at the end nothing is live.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use smmu_iopf::iopf::{Answer, FaultGroup, Kind, Limits, Partials, Report, Target};
use smmu_iopf::smmuv3::{PageResponse, PrgIndex, Stag, StreamId, SubstreamId};

use super::fault_bench::*;

const STREAMS: usize = 3;
const ROOM: Limits = Limits { states: 4, groups: 9 };

/// A stalling master, one with page requests, and another stalling one.
fn stream(index: usize) -> (StreamId, Kind) {
    (StreamId(0x400 * index as u32 + 5), if index == 1 { Kind::Page } else { Kind::Stall })
}

#[derive(Clone, Debug)]
enum Step {
    Stall { stream: usize },
    Request { group: u16, last: bool },
    SwitchHandler { defers: bool, drops: bool },
    SwitchResponder { stuck: bool },
    Respond { group: prop::sample::Index, response: PageResponse },
    Drop { group: prop::sample::Index },
    Expire { after_ms: u64 },
    Discard,
    Open { stream: usize },
    Close { stream: usize },
    Term { stream: usize },
    Finish { stream: usize },
    Free,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let stream = || 0..STREAMS;
    let response = prop::sample::select(vec![PageResponse::Success, PageResponse::Invalid, PageResponse::Failure]);
    prop_oneof![
        6 => stream().prop_map(|stream| Step::Stall { stream }),
        6 => (0..4_u16, any::<bool>()).prop_map(|(group, last)| Step::Request { group, last }),
        2 => (prop::bool::weighted(0.8), prop::bool::weighted(0.1))
            .prop_map(|(defers, drops)| Step::SwitchHandler { defers, drops }),
        1 => any::<bool>().prop_map(|stuck| Step::SwitchResponder { stuck }),
        4 => (index(), response).prop_map(|(group, response)| Step::Respond { group, response }),
        1 => index().prop_map(|group| Step::Drop { group }),
        3 => (0..700_u64).prop_map(|after_ms| Step::Expire { after_ms }),
        1 => Just(Step::Discard),
        2 => stream().prop_map(|stream| Step::Open { stream }),
        2 => stream().prop_map(|stream| Step::Close { stream }),
        2 => stream().prop_map(|stream| Step::Term { stream }),
        2 => stream().prop_map(|stream| Step::Finish { stream }),
        1 => Just(Step::Free),
    ]
}

/// How far a stream's life is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Unknown,
    Open,
    Closed,
    /// After STALL_TERM, or for page requests after the pending ones were answered.
    Ended,
}

struct World {
    bench: Bench,
    life: [Life; STREAMS],
    /// What the hardware waits for, with the number of answers it wants: more than one where an index was used twice.
    waiting: BTreeMap<(StreamId, u32), u32>,
    next_tag: u16,
    held: Vec<FaultGroup>,
    now_us: u64,
}

fn key(answer: &Answer) -> (StreamId, u32) {
    let target = match answer.to {
        Target::Stall(tag) => u32::from(tag.0),
        Target::Group(index) => 0x1_0000 | u32::from(index.get()),
    };
    (answer.stream, target)
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            bench: Bench::with_limits(ROOM),
            life: [Life::Unknown; STREAMS],
            waiting: BTreeMap::new(),
            next_tag: 0,
            held: Vec::new(),
            now_us: 0,
        };
        (0..STREAMS).for_each(|index| world.step(Step::Open { stream: index }));
        world
    }

    /// The hardware takes an answer: exactly one that it waits for.
    fn take_answer(&mut self, answer: &Answer) {
        let wanted = self.waiting.get_mut(&key(answer)).unwrap_or_else(|| panic!("{answer:?} answers nothing"));
        *wanted -= 1;
        if *wanted == 0 {
            self.waiting.remove(&key(answer));
        }
    }

    fn report(&mut self, fault: smmu_iopf::iopf::Fault) {
        if fault.wants_answer() {
            *self.waiting.entry(key(&fault.answer(PageResponse::Success))).or_default() += 1;
        }
        let index = (0..STREAMS).find(|&index| stream(index).0 == fault.stream).unwrap();
        match self.bench.report(fault) {
            Report::Answer(answer) => self.take_answer(&answer),
            Report::Held => assert!(!fault.wants_answer()),
            Report::Deferred => assert_eq!(self.life[index], Life::Open),
            // STALL_TERM is this stall's answer, and has been given.
            Report::Swallowed if fault.wants_answer() => {
                assert!(matches!(self.life[index], Life::Closed | Life::Ended), "{fault:?} swallowed");
                self.take_answer(&fault.answer(PageResponse::Success));
            }
            Report::Swallowed => {}
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Stall { stream: index } => {
                let (id, kind) = stream(index);
                // After STALL_TERM the stream's STE aborts, so it stalls no more.
                if kind == Kind::Stall && self.life[index] != Life::Ended {
                    self.next_tag += 1;
                    self.report(stall(id, self.next_tag, 0x1000));
                }
            }
            Step::Request { group, last } => self.report(page(stream(1).0, group, last, 0x1000)),
            Step::SwitchHandler { defers, drops } => {
                self.bench.handler.defers.store(defers, SeqCst);
                self.bench.handler.drops.store(drops, SeqCst);
            }
            Step::SwitchResponder { stuck } => self.bench.responder.stuck.store(stuck, SeqCst),
            Step::Respond { group, response } if !self.held.is_empty() => {
                let group = self.held.remove(group.index(self.held.len()));
                let _ = self.bench.cpu.masked(|masked| group.respond(masked, response));
            }
            Step::Drop { group } if !self.held.is_empty() => {
                drop(self.held.remove(group.index(self.held.len())));
            }
            Step::Respond { .. } | Step::Drop { .. } => {}
            Step::Expire { after_ms } => {
                self.now_us += after_ms * 1000;
                self.bench.table.expire(&self.bench.cpu, self.now_us);
            }
            Step::Discard => {
                let table = &self.bench.table;
                self.bench.cpu.masked(|masked| table.discard_partials(masked, Partials::All));
            }
            Step::Open { stream: index } => {
                let (id, kind) = stream(index);
                let opened = self.bench.open_stream(id, kind);
                match self.life[index] {
                    // Held groups may keep so many states that there is no room.
                    Life::Unknown => {
                        if opened.is_ok() {
                            self.life[index] = Life::Open;
                        }
                    }
                    _ => assert!(opened.is_err()),
                }
            }
            Step::Close { stream: index } => {
                let (table, id) = (&self.bench.table, stream(index).0);
                let closed = self.bench.cpu.masked(|masked| table.close(masked, id).is_ok());
                assert_eq!(closed, self.life[index] != Life::Unknown);
                if self.life[index] == Life::Open {
                    self.life[index] = Life::Closed;
                }
            }
            Step::Term { stream: index } if self.life[index] == Life::Closed => {
                let bench = &mut self.bench;
                let (id, kind) = stream(index);
                let grace = bench.domain.synchronize(&mut bench.cpu, &mut Clock, 1000).unwrap();
                // Published before the grace period ended: before STALL_TERM.
                let sent = bench.responder.take();
                sent.iter().for_each(|answer| self.take_answer(answer));
                if kind == Kind::Stall {
                    // STALL_TERM ends every stall of the stream: no answer may come after it.
                    self.waiting.retain(|&(of, _), _| of != id);
                }
                let bench = &self.bench;
                let closing = bench.cpu.masked(|masked| bench.table.close(masked, id)).unwrap();
                let leftover = closing.answer_pending(&bench.cpu, &grace);
                if leftover.unsent == 0 {
                    self.life[index] = Life::Ended;
                }
            }
            Step::Finish { stream: index } if self.life[index] == Life::Ended => {
                let bench = &self.bench;
                let closing = bench.cpu.masked(|masked| bench.table.close(masked, stream(index).0)).unwrap();
                bench.cpu.masked(|masked| closing.finish(masked)).unwrap();
                self.life[index] = Life::Unknown;
            }
            Step::Term { .. } | Step::Finish { .. } => {}
            Step::Free => self.bench.free(),
        }
        self.held.append(&mut self.bench.handler.take());
        for answer in self.bench.responder.take() {
            self.take_answer(&answer);
        }
        self.check();
    }

    fn check(&self) {
        let totals = self.bench.table.totals();
        assert!(totals.slots_in_use <= ROOM.groups);
        assert!(totals.live_states <= ROOM.states);
        // The groups that the fault core thinks are waiting are those that the hardware waits for.
        let waiting: u32 = self.waiting.values().sum();
        let unanswered: usize = (0..STREAMS).map(|index| self.unanswered(index)).sum();
        assert_eq!(waiting as usize, unanswered);
        let statistics = totals.statistics;
        assert_eq!(statistics.groups, statistics.answers() + statistics.terminated + unanswered as u64);
        for index in 0..STREAMS {
            assert!(self.unanswered(index) <= usize::from(STREAM_LIMITS.groups));
        }
    }

    fn unanswered(&self, index: usize) -> usize {
        self.bench.cpu.masked(|masked| self.bench.table.unanswered(masked, stream(index).0))
    }

    /// Everything is let go and closed: then nothing waits, is in use or live.
    fn end(mut self) {
        self.step(Step::SwitchResponder { stuck: false });
        for stream in 0..STREAMS {
            self.step(Step::Close { stream });
            self.step(Step::Term { stream });
            self.step(Step::Finish { stream });
        }
        self.held.clear();
        self.bench.free();
        assert!(self.waiting.is_empty());
        let totals = self.bench.table.totals();
        assert_eq!((totals.live_states, totals.slots_in_use), (0, 0));
        assert_eq!(self.bench.domain.stats().in_memory(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 200 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_answers_everything_once_and_leaves_nothing(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        world.end();
    }

    #[test]
    fn any_fault_survives_storage_and_gets_its_answer(
        tag in any::<u16>(), index in 0..512_u16, is_stall in any::<bool>(), address in any::<u64>(),
        substream in prop::option::of(0..1_u32 << 20), bits in prop::array::uniform4(any::<bool>()),
    ) {
        let kind = if is_stall { Kind::Stall } else { Kind::Page };
        let bench = Bench::deferring(kind);
        let [read, write, execute, privileged] = bits;
        let mut fault = if is_stall { stall(STREAM, tag, address) } else { page(STREAM, index, true, address) };
        fault.access = smmu_iopf::smmuv3::Access { read, write, execute, privileged };
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
