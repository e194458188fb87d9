//! Deferred groups on cores that have time: in which order, on which core, and for how many at a time.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use smmu_iopf::iopf::{
    BUDGET, Decided, Fault, FaultGroup, FaultHandler, FaultTable, Kind, Limits, OWN_TURNS, OpenRequest, PATIENCE,
    Priority, Report, StreamLimits, Target, Verdict, WorkQueues,
};
use smmu_iopf::smmuv3::PageResponse::{Invalid, Success};
use smmu_iopf::smmuv3::{Stag, StreamId};
use smmu_iopf::sync::{CoreId, Cpu, Masked};

use super::fault_bench::*;

const MANY: StreamLimits = StreamLimits { groups: 64, ..STREAM_LIMITS };
const OTHER: StreamId = StreamId(7);

/// Leaves every group to a core with time, and notes what was served where.
struct Worker {
    queues: Arc<WorkQueues>,
    served: Mutex<Vec<(StreamId, u16, usize)>>,
}

impl FaultHandler for Worker {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.queues.push(masked, group);
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        let Target::Stall(Stag(tag)) = group.target() else { panic!("{group:?}") };
        assert_ne!(tag, BAD, "as it must");
        self.served.lock().unwrap().push((group.stream(), tag, cpu.core().index()));
        Some(group.decide(Success))
    }
}

/// The handler panics at a stall with this tag.
const BAD: u16 = 0xbad;

/// The bench, its queues, what they woke, and the handler.
struct Office {
    bench: Bench,
    queues: Arc<WorkQueues>,
    woken: Arc<Mutex<Vec<usize>>>,
    worker: Arc<Worker>,
}

impl Office {
    fn new() -> Self {
        let woken = Arc::new(Mutex::new(Vec::new()));
        let wake = {
            let woken = woken.clone();
            move |_: &Masked, core: CoreId| woken.lock().unwrap().push(core.index())
        };
        let queues = Arc::new(WorkQueues::new(Box::new(wake)));
        let worker = Arc::new(Worker { queues: queues.clone(), served: Mutex::default() });
        Self { bench: Bench::with_limits(Limits { states: 8, groups: 1024 }), queues, woken, worker }
    }

    fn open(&mut self, stream: StreamId, priority: Priority) {
        self.bench.open_to(stream, Kind::Stall, self.worker.clone(), StreamLimits { priority, ..MANY });
    }

    /// Reports `tags` of `stream` on core `core`.
    fn report(&self, core: usize, stream: StreamId, tags: impl IntoIterator<Item = u16>) {
        for tag in tags {
            let report = cpu(core).masked(|masked| self.bench.table.report(masked, 0, stall(stream, tag, 0)));
            assert_eq!(report, Report::Deferred);
        }
    }

    fn begin_rest(&self, core: usize) -> bool {
        cpu(core).masked(|masked| self.queues.begin_rest(masked))
    }

    /// The cores woken since the last call.
    fn woken(&self) -> Vec<usize> {
        std::mem::take(&mut self.woken.lock().unwrap())
    }

    /// What was served since the last call.
    fn served(&self) -> Vec<(StreamId, u16, usize)> {
        std::mem::take(&mut self.worker.served.lock().unwrap())
    }

    /// The streams whose turns the next `turns` of core 0 are.
    fn turns(&self, turns: usize) -> Vec<StreamId> {
        (0..turns)
            .map(|_| {
                assert!(self.queues.work(&self.bench.cpu) > 0);
                let served = self.served();
                assert!(served.iter().all(|group| group.0 == served[0].0));
                served[0].0
            })
            .collect()
    }
}

#[test]
fn the_groups_of_a_stream_are_served_in_their_order_and_answered_once() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.report(0, STREAM, 0..3);
    assert_eq!(office.queues.work(&office.bench.cpu), 3);
    assert_eq!(office.served(), [0, 1, 2].map(|tag| (STREAM, tag, 0)));
    assert_eq!(office.bench.responder.take(), [0, 1, 2].map(|tag| to_stall(STREAM, tag, Success)));
    assert_eq!(office.queues.work(&office.bench.cpu), 0);
    assert_eq!(office.bench.table.totals().slots_in_use, 0);
}

#[test]
fn a_flooding_stream_gets_its_budget_and_then_it_is_the_others_turn() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.open(OTHER, Priority::Normal);
    office.report(0, STREAM, 0..64);
    office.report(0, OTHER, 0..1);
    assert_eq!(office.queues.work(&office.bench.cpu), BUDGET);
    assert_eq!(office.queues.work(&office.bench.cpu), 1);
    let streams: Vec<_> = office.served().iter().map(|group| group.0).collect();
    assert_eq!((streams[..BUDGET].to_vec(), streams[BUDGET]), (vec![STREAM; BUDGET], OTHER));
    // A stream that is served comes behind one that came meanwhile.
    office.report(0, OTHER, 1..2);
    assert_eq!(office.turns(3), [STREAM, OTHER, STREAM]);
}

#[test]
fn who_takes_one_group_leaves_the_rest_to_other_cores() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.report(0, STREAM, 0..4);
    assert_eq!(office.queues.work_one(&office.bench.cpu), 1);
    assert_eq!(office.queues.work(&cpu(1)), 3);
    assert_eq!(office.served(), [(0, 0), (1, 1), (2, 1), (3, 1)].map(|(tag, core)| (STREAM, tag, core)));
}

#[test]
fn three_streams_take_turns() {
    let mut office = Office::new();
    let streams = [STREAM, OTHER, StreamId(9)];
    for stream in streams {
        office.open(stream, Priority::Normal);
        office.report(0, stream, 0..2 * BUDGET as u16);
    }
    assert_eq!(office.turns(6), [streams, streams].concat());
    assert!(!office.queues.is_waiting());
}

#[test]
fn a_higher_priority_comes_first_and_a_lower_one_is_passed_over_so_often_at_most() {
    let mut office = Office::new();
    let low = StreamId(9);
    office.open(low, Priority::Low);
    office.open(STREAM, Priority::Normal);
    office.open(OTHER, Priority::High);
    office.report(0, low, 0..8);
    office.report(0, STREAM, 0..8);
    office.report(0, OTHER, 0..64);
    // Both have lost patience at once: the lowest comes first, and the other one next.
    let mut expected = vec![OTHER; PATIENCE as usize];
    expected.extend([low, STREAM, OTHER]);
    assert_eq!(office.turns(expected.len()), expected);
}

#[test]
fn of_three_floods_the_lower_ones_get_their_turns_too() {
    let mut office = Office::new();
    let low = StreamId(9);
    for (stream, priority) in [(low, Priority::Low), (STREAM, Priority::Normal), (OTHER, Priority::High)] {
        office.open(stream, priority);
        office.report(0, stream, 0..64);
    }
    let turns: String = office
        .turns(12)
        .iter()
        .map(|stream| match *stream {
            OTHER => 'H',
            STREAM => 'N',
            _ => 'L',
        })
        .collect();
    assert_eq!(turns, "HHHHLNHHHLHN");
}

#[test]
fn who_was_not_there_has_not_been_passed_over() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Low);
    office.open(OTHER, Priority::High);
    office.report(0, OTHER, 0..64);
    office.turns(PATIENCE as usize + 1);
    office.report(0, STREAM, 0..1);
    assert_eq!(office.turns(1), [OTHER]);
}

#[test]
fn a_resting_core_is_woken_once_and_a_second_stream_wakes_another() {
    let mut office = Office::new();
    for stream in [STREAM, OTHER, StreamId(9)] {
        office.open(stream, Priority::Normal);
    }
    assert!(!office.begin_rest(2) && !office.begin_rest(3));
    office.report(0, STREAM, 0..2);
    assert_eq!(office.woken(), [2]);
    office.report(0, OTHER, 0..1);
    assert_eq!(office.woken(), [3]);
    office.report(0, StreamId(9), 0..1);
    assert_eq!(office.woken(), []);
    // Each finds its own; what no one was woken for is the reporting core's, and whoever is done first takes it.
    for (core, stream) in [(2, STREAM), (3, OTHER), (3, StreamId(9))] {
        assert!(office.queues.work(&cpu(core)) > 0);
        assert_eq!(office.served().last().map(|group| (group.0, group.2)), Some((stream, core)));
    }
    let counts = office.queues.counts();
    assert_eq!((counts.groups, counts.turns, counts.stolen, counts.wakes), (4, 3, 1, 2));
}

#[test]
fn the_core_that_reports_is_not_woken_by_itself() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    assert!(!office.begin_rest(0));
    office.report(0, STREAM, 0..1);
    assert_eq!(office.woken(), []);
    assert!(office.begin_rest(0), "it looks before it rests");
}

#[test]
fn a_core_that_leaves_work_behind_wakes_one_that_rests() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.report(0, STREAM, 0..BUDGET as u16 + 1);
    assert!(office.begin_rest(5), "there is work");
    assert_eq!(office.queues.work(&office.bench.cpu), BUDGET);
    assert_eq!(office.woken(), [5]);
    assert_eq!(office.queues.work(&cpu(5)), 1);
}

#[test]
fn a_core_that_is_up_again_is_not_woken() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    assert!(!office.begin_rest(1));
    cpu(1).masked(|masked| office.queues.end_rest(masked));
    office.report(0, STREAM, 0..1);
    assert_eq!(office.woken(), []);
}

#[test]
fn work_of_a_core_that_never_gets_to_it_is_done_by_cores_that_are_never_idle() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.open(OTHER, Priority::Normal);
    // Core 4 gets into an endless interrupt handler with a lane in its list.
    office.report(4, OTHER, 0..1);
    // Core 0's own list never is empty.
    office.report(0, STREAM, 0..56);
    let mut turns = 0;
    while office.served().iter().all(|group| group.0 != OTHER) {
        office.queues.work(&office.bench.cpu);
        office.bench.responder.take();
        office.report(0, STREAM, 0..BUDGET as u16);
        turns += 1;
        assert!(turns <= OWN_TURNS as usize * 8, "starved");
    }
}

#[test]
fn what_a_core_that_leaves_has_in_its_lists_goes_behind_what_another_one_has() {
    let mut office = Office::new();
    let [high, low] = [StreamId(9), StreamId(10)];
    let priorities = [Priority::Normal, Priority::Normal, Priority::High, Priority::Low];
    for (stream, priority) in [STREAM, OTHER, high, low].into_iter().zip(priorities) {
        office.open(stream, priority);
    }
    office.report(0, STREAM, 0..1);
    // Two behind each other in one list, and a list of which core 0 has none.
    for stream in [OTHER, low, high] {
        office.report(4, stream, 0..2);
    }
    cpu(4).masked(|masked| office.queues.hand_over(masked, CoreId::FIRST));
    assert_eq!(office.queues.counts().handed_over, 3);
    assert_eq!(office.turns(4), [high, STREAM, OTHER, low]);
    assert!(!office.queues.is_waiting());
    // It may come back and do as before.
    office.report(4, OTHER, 2..3);
    assert_eq!(office.queues.work(&cpu(4)), 1);
    assert_eq!((office.queues.counts().stolen, office.bench.table.totals().slots_in_use), (0, 0));
}

#[test]
fn lanes_that_are_handed_over_stand_in_one_list_with_those_that_come_later() {
    let mut office = Office::new();
    let streams = [STREAM, OTHER, StreamId(9), StreamId(10), StreamId(11)];
    streams.into_iter().for_each(|stream| office.open(stream, Priority::Normal));
    // Two of core 0, two of core 4, in this order, and one that comes afterwards.
    for (core, stream) in [(0, STREAM), (0, OTHER), (4, StreamId(9)), (4, StreamId(10))] {
        office.report(core, stream, 0..1);
    }
    cpu(4).masked(|masked| office.queues.hand_over(masked, CoreId::FIRST));
    office.report(0, StreamId(11), 0..1);
    assert_eq!(office.turns(5), streams);
    assert!(!office.queues.is_waiting());
}

#[test]
fn a_core_that_rests_is_woken_for_what_another_one_leaves_behind() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    // Whoever is woken first comes too late.
    assert!(!office.begin_rest(4));
    office.report(0, STREAM, 0..1);
    assert_eq!(office.woken(), [4]);
    assert!(office.begin_rest(3), "there is work");
    cpu(4).masked(|masked| office.queues.hand_over(masked, CoreId::FIRST));
    assert_eq!(office.woken(), [3]);
    assert_eq!(office.queues.work(&cpu(3)), 1);
}

#[test]
fn groups_of_a_stream_that_was_closed_meanwhile_are_let_go_and_not_served() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.report(0, STREAM, 0..3);
    office.bench.close(STREAM);
    office.bench.free();
    assert_eq!(office.bench.table.live(), 1);
    assert_eq!(office.queues.work(&office.bench.cpu), 3);
    assert_eq!((office.served(), office.bench.responder.take()), (vec![], vec![]));
    office.bench.free();
    assert_eq!((office.bench.table.live(), office.bench.table.totals().slots_in_use), (0, 0));
    assert_eq!(office.bench.domain.stats().in_memory(), 0);
}

#[test]
fn a_group_that_was_refused_for_its_time_out_is_not_served() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.report(0, STREAM, 0..1);
    assert_eq!(office.bench.table.expire(&office.bench.cpu, 0), 0);
    assert_eq!(office.bench.table.expire(&office.bench.cpu, STREAM_LIMITS.time_out_us.into()), 1);
    assert_eq!(office.bench.responder.take(), [to_stall(STREAM, 0, Invalid)]);
    assert_eq!(office.queues.work(&office.bench.cpu), 1);
    assert_eq!((office.served(), office.bench.table.totals().slots_in_use), (vec![], 0));
}

#[test]
fn a_handler_that_puts_groups_there_and_does_not_serve_them_is_answered_for() {
    struct Forgetful(Arc<WorkQueues>);
    impl FaultHandler for Forgetful {
        fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
            Verdict::Defer
        }

        fn defer(&self, masked: &Masked, group: FaultGroup) {
            self.0.push(masked, group);
        }
    }
    let mut office = Office::new();
    office.bench.open_to(STREAM, Kind::Stall, Arc::new(Forgetful(office.queues.clone())), MANY);
    office.report(0, STREAM, 0..1);
    assert_eq!(office.queues.work(&office.bench.cpu), 1);
    office.bench.table.expire(&office.bench.cpu, 0);
    assert_eq!(office.bench.responder.take(), [to_stall(STREAM, 0, Invalid)]);
}

#[test]
fn the_answers_of_a_turn_are_one_batch() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    let batch = BUDGET as u16;
    office.report(0, STREAM, 0..batch);
    assert_eq!(office.queues.work(&office.bench.cpu), BUDGET);
    assert_eq!(office.bench.responder.take(), (0..batch).map(|tag| to_stall(STREAM, tag, Success)).collect::<Vec<_>>());
    assert_eq!(office.bench.responder.batches.load(SeqCst), 1);
    let statistics = office.bench.table.totals().statistics;
    assert_eq!((statistics.deferred, statistics.success), (BUDGET as u64, BUDGET as u64));
    assert_eq!(office.bench.table.totals().slots_in_use, 0);
}

#[test]
fn of_a_turn_what_could_not_be_sent_is_sent_later_and_once() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.report(0, STREAM, 0..5);
    let responder = &office.bench.responder;
    responder.room.store(2, SeqCst);
    responder.stuck.store(true, SeqCst);
    assert_eq!(office.queues.work(&office.bench.cpu), 5);
    assert_eq!(responder.take(), [0, 1].map(|tag| to_stall(STREAM, tag, Success)));
    let totals = office.bench.table.totals();
    assert_eq!((totals.slots_in_use, totals.statistics.success, totals.statistics.not_sent), (3, 2, 3));
    responder.stuck.store(false, SeqCst);
    office.bench.table.expire(&office.bench.cpu, 0);
    assert_eq!(responder.take(), [2, 3, 4].map(|tag| to_stall(STREAM, tag, Success)));
    let totals = office.bench.table.totals();
    assert_eq!((totals.slots_in_use, totals.statistics.success), (0, 5));
}

#[test]
fn a_handler_that_panics_costs_the_others_of_its_turn_nothing() {
    let mut office = Office::new();
    office.open(STREAM, Priority::Normal);
    office.report(0, STREAM, [1, BAD, 2]);
    assert_eq!(office.queues.work(&office.bench.cpu), 3);
    assert_eq!(office.bench.responder.take(), [1, 2].map(|tag| to_stall(STREAM, tag, Success)));
    office.bench.table.expire(&office.bench.cpu, 0);
    assert_eq!(office.bench.responder.take(), [to_stall(STREAM, BAD, Invalid)]);
    assert_eq!(office.bench.table.totals().slots_in_use, 0);
}

/// Decides about each of its groups, and takes so long for one that all of them time out.
struct Slow {
    queues: Arc<WorkQueues>,
    table: OnceLock<Weak<FaultTable>>,
}

impl FaultHandler for Slow {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.queues.push(masked, group);
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        if group.target() == Target::Stall(Stag(2)) {
            let table = self.table.get().unwrap().upgrade().unwrap();
            assert_eq!([0, 2_000_000].map(|now_us| table.expire(cpu, now_us)), [0, 2]);
        }
        Some(group.decide(Success))
    }
}

#[test]
fn what_was_decided_in_a_turn_and_comes_too_late_is_counted_and_not_sent() {
    let Bench { domain, responder, cpu: mut here, .. } = Bench::new();
    let queues = Arc::new(WorkQueues::new(Box::new(|_, _| {})));
    let table = Arc::new(FaultTable::new(domain, responder.clone(), 20, LIMITS).unwrap());
    let handler = Arc::new(Slow { queues: queues.clone(), table: OnceLock::new() });
    handler.table.set(Arc::downgrade(&table)).unwrap();
    let request = OpenRequest { streams: &[STREAM], kind: Kind::Stall, handler, limits: STREAM_LIMITS, since: 0 };
    table.open(&mut here, &mut Clock, request).unwrap();
    for tag in [1, 2] {
        assert_eq!(here.masked(|masked| table.report(masked, 0, stall(STREAM, tag, 0))), Report::Deferred);
    }
    assert_eq!(queues.work(&here), 2);
    assert_eq!(responder.take(), [1, 2].map(|tag| to_stall(STREAM, tag, Invalid)));
    let totals = table.totals();
    assert_eq!((totals.slots_in_use, totals.statistics.late_answers, totals.statistics.success), (0, 2, 0));
}

/// Decides about each group when the next one comes.
struct Late {
    queues: Arc<WorkQueues>,
    last: Mutex<Option<FaultGroup>>,
}

impl FaultHandler for Late {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.queues.push(masked, group);
    }

    fn serve(&self, _: &Cpu, group: FaultGroup) -> Option<Decided> {
        self.last.lock().unwrap().replace(group).map(|last| last.decide(Success))
    }
}

#[test]
fn a_group_that_is_decided_in_a_turn_of_another_stream_has_its_answer_and_no_other_has() {
    let mut bench = Bench::new();
    let queues = Arc::new(WorkQueues::new(Box::new(|_, _| {})));
    let handler = Arc::new(Late { queues: queues.clone(), last: Mutex::default() });
    for (stream, tag) in [(STREAM, 1), (OTHER, 2)] {
        bench.open_to(stream, Kind::Stall, handler.clone(), STREAM_LIMITS);
        assert_eq!(bench.report(stall(stream, tag, 0)), Report::Deferred);
    }
    assert_eq!([queues.work(&bench.cpu), queues.work(&bench.cpu)], [1, 1]);
    assert_eq!(bench.responder.take(), [to_stall(STREAM, 1, Success)]);
    let unanswered = |stream| bench.cpu.masked(|masked| bench.table.unanswered(masked, stream));
    assert_eq!([STREAM, OTHER].map(unanswered), [0, 1]);
    drop(handler.last.lock().unwrap().take());
}
