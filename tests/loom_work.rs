//! Deferred groups between cores, in every order that the memory model allows. `tools/loom.sh` runs it, also with mistakes
//! built in.
//!
//! A thread stands for a core.
#![cfg(loom)]

#[path = "support/fault_bench.rs"]
mod fault_bench;
#[path = "support/loom_smmu.rs"]
mod loom_smmu;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use embedded_hal::delay::DelayNs;
use fault_bench::{cpu, stall};
use loom::thread::{self, JoinHandle};
use loom_smmu::Smmu;
use smmu_iopf::iopf::{
    Decided, Fault, FaultGroup, FaultHandler, FaultTable, Kind, Limits, OpenRequest, Priority, Report, StreamLimits,
    Target, Verdict, WorkQueues,
};
use smmu_iopf::smmuv3::PageResponse::Success;
use smmu_iopf::smmuv3::{Stag, StreamId};
use smmu_iopf::sync::grace::Domain;
use smmu_iopf::sync::{CoreId, Cpu, Masked};

/// The only stream: a table of 0 bits keeps the state space small.
const STREAM: StreamId = StreamId(0);

struct Worker {
    queues: Arc<WorkQueues>,
    domain: Arc<Domain>,
    served: Mutex<Vec<u16>>,
}

impl FaultHandler for Worker {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.queues.push(masked, group);
    }

    fn serve(&self, cpu: &Cpu, group: FaultGroup) -> Option<Decided> {
        // An interrupt comes meanwhile, at whose end the core is quiescent.
        // SAFETY: no section of the thread that stands for the core is open.
        self.domain.quiescent(unsafe { Masked::new(cpu.core()) });
        let Target::Stall(Stag(tag)) = group.target() else { panic!("{group:?}") };
        self.served.lock().unwrap().push(tag);
        Some(group.decide(Success))
    }
}

struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {
        thread::yield_now();
    }
}

struct World {
    domain: Arc<Domain>,
    queues: Arc<WorkQueues>,
    worker: Arc<Worker>,
    smmu: Arc<Smmu>,
    table: FaultTable,
    /// The cores that were interrupted.
    woken: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Arc<Self> {
        let domain = Arc::new(Domain::new());
        let woken = Arc::new(AtomicUsize::new(0));
        let wake = {
            let woken = woken.clone();
            move |_: &Masked, core: CoreId| _ = woken.fetch_or(1 << core.index(), SeqCst)
        };
        let queues = Arc::new(WorkQueues::new(Box::new(wake)));
        let worker = Arc::new(Worker { queues: queues.clone(), domain: domain.clone(), served: Mutex::default() });
        let smmu = Arc::new(Smmu::default());
        let table = FaultTable::new(domain.clone(), smmu.clone(), 0, Limits { states: 1, groups: 2 }).unwrap();
        let limits = StreamLimits { groups: 2, requests: 1, time_out_us: 1000, priority: Priority::Normal };
        let handler = worker.clone();
        let request = OpenRequest { streams: &[STREAM], kind: Kind::Stall, handler, limits, since: 0 };
        let mut here = cpu(0);
        domain.online(&mut here);
        table.open(&mut here, &mut NoDelay, request).unwrap();
        Arc::new(Self { domain, queues, worker, smmu, table, woken })
    }

    /// Runs `life` as core `core`.
    fn core<T: 'static>(
        self: &Arc<Self>,
        core: usize,
        life: impl FnOnce(&Self, &mut Cpu) -> T + 'static,
    ) -> JoinHandle<T> {
        let world = Arc::clone(self);
        world.domain.online(&mut cpu(core));
        thread::spawn(move || life(&world, &mut cpu(core)))
    }

    fn report(&self, cpu: &Cpu, tag: u16) {
        let report = cpu.masked(|masked| self.table.report(masked, 0, stall(STREAM, tag, 0)));
        assert_eq!(report, Report::Deferred);
    }
}

/// Runs `model` in every order with at most so many preemptions.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn what_one_core_leaves_two_others_do_once() {
    explore(2, || {
        let world = World::new();
        let workers = [1, 2].map(|core| world.core(core, |world, cpu| world.queues.work(cpu)));
        let here = cpu(0);
        world.report(&here, 7);
        world.report(&here, 8);
        let done: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        let mut rest = 0;
        while world.queues.is_waiting() {
            rest += world.queues.work(&here);
        }
        assert_eq!(done + rest, 2);
        let mut served = std::mem::take(&mut *world.worker.served.lock().unwrap());
        served.sort_unstable();
        assert_eq!(served, [7, 8]);
        assert_eq!(world.table.totals().slots_in_use, 0);
    });
}

#[test]
fn no_core_sleeps_over_work() {
    explore(3, || {
        let world = World::new();
        // Works until there is nothing left, then sleeps until it is interrupted.
        let worker = world.core(1, |world, cpu| {
            while cpu.masked(|masked| world.queues.begin_rest(masked)) {
                cpu.masked(|masked| world.queues.end_rest(masked));
                world.queues.work(cpu);
            }
        });
        world.report(&cpu(0), 7);
        worker.join().unwrap();
        assert!(!world.queues.is_waiting() || world.woken.load(SeqCst) == 1 << 1);
        while world.queues.work(&cpu(0)) > 0 {}
    });
}

#[test]
fn no_core_sleeps_over_what_another_one_leaves_behind() {
    explore(3, || {
        let world = World::new();
        world.report(&cpu(0), 7);
        let worker = world.core(1, |world, cpu| {
            while cpu.masked(|masked| world.queues.begin_rest(masked)) {
                cpu.masked(|masked| world.queues.end_rest(masked));
                world.queues.work(cpu);
            }
        });
        cpu(0).masked(|masked| world.queues.hand_over(masked, cpu(1).core()));
        worker.join().unwrap();
        assert!(!world.queues.is_waiting() || world.woken.load(SeqCst) == 1 << 1);
        while world.queues.work(&cpu(1)) > 0 {}
        assert_eq!(*world.worker.served.lock().unwrap(), [7]);
    });
}

#[test]
fn of_two_resting_cores_one_is_woken_for_one_lane() {
    explore(2, || {
        let world = World::new();
        let rest = |core| world.core(core, |world, cpu| cpu.masked(|masked| world.queues.begin_rest(masked)));
        let resting = [1, 2].map(rest);
        world.report(&cpu(0), 7);
        let saw: Vec<bool> = resting.into_iter().map(|core| core.join().unwrap()).collect();
        let woken = world.woken.load(SeqCst);
        assert!(woken.count_ones() <= 1);
        assert!(woken != 0 || saw == [true, true], "a core that slept was not woken");
        while world.queues.work(&cpu(0)) > 0 {}
    });
}

#[test]
fn the_answers_of_a_turn_are_sent_before_stall_term_or_not_at_all() {
    explore(2, || {
        let world = World::new();
        world.report(&cpu(0), 7);
        world.report(&cpu(0), 8);
        let worker = world.core(1, |world, cpu| {
            // Quiescent here, so that the period may end before the turn as well as after it.
            world.domain.poll(cpu);
            world.queues.work(cpu);
            world.domain.offline(cpu);
        });
        let mut here = cpu(0);
        let closing = here.masked(|masked| world.table.close(masked, STREAM)).unwrap();
        // One look is enough: the orders in which the period does not end in time are not of interest.
        let Ok(grace) = world.domain.synchronize(&mut here, &mut NoDelay, 1) else { return worker.join().unwrap() };
        world.smmu.terminated.store(true, SeqCst);
        let leftover = closing.answer_pending(&here, &grace);
        here.masked(|masked| closing.finish(masked)).unwrap();
        worker.join().unwrap();
        assert_eq!(world.smmu.sent.lock().unwrap().len() + leftover.terminated, 2);
        assert_eq!(world.table.totals().slots_in_use, 0);
    });
}
