//! A fault table under loom, with one stream and a responder that knows when the stream has ended.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use embedded_hal::delay::DelayNs;
use loom::thread::{self, JoinHandle};
use smmu_iopf::iopf::{
    Answer, Fault, FaultTable, Kind, Leftover, Limits, OpenRequest, PageResponder, Priority, Report, StreamLimits,
};
use smmu_iopf::smmuv3::event::StallRun;
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId};
use smmu_iopf::sync::grace::Domain;
use smmu_iopf::sync::{Cpu, Masked};

use super::fault_bench::{Handler, cpu, in_substream, page, recorded, stall};
use super::loom_smmu::Smmu;

/// The only stream: a table of 0 bits keeps the state space small.
pub(crate) const STREAM: StreamId = StreamId(0);

/// The substream of page requests.
pub(crate) const FIVE: SubstreamId = SubstreamId::from_low_bits(5);

/// Later than any time-out.
pub(crate) const LATE_US: u64 = 10_000;

pub(crate) struct Yield;

impl DelayNs for Yield {
    fn delay_ns(&mut self, _: u32) {
        thread::yield_now();
    }
}

pub(crate) struct World {
    pub(crate) domain: Arc<Domain>,
    pub(crate) smmu: Arc<Smmu>,
    pub(crate) handler: Arc<Handler>,
    pub(crate) table: FaultTable,
}

impl World {
    /// The stream is open, with room for one group, and its handler defers.
    pub(crate) fn new() -> Arc<Self> {
        Self::of(Kind::Stall, 1)
    }

    /// One whose groups have up to `requests` requests.
    pub(crate) fn of(kind: Kind, requests: u8) -> Arc<Self> {
        let domain = Arc::new(Domain::new());
        let smmu = Arc::new(Smmu::default());
        let handler = Arc::new(Handler::default());
        handler.defers.store(true, SeqCst);
        let table = FaultTable::new(domain.clone(), smmu.clone(), 0, Limits { states: 1, groups: 1 }).unwrap();
        let request = OpenRequest {
            streams: &[STREAM],
            kind,
            handler: handler.clone(),
            limits: StreamLimits { groups: 1, requests, time_out_us: 1000, priority: Priority::Normal },
            since: 0,
        };
        let mut here = cpu(0);
        domain.online(&mut here);
        table.open(&mut here, &mut Yield, request).unwrap();
        Arc::new(Self { domain, smmu, handler, table })
    }

    /// One whose only slot holds the group of `tag`, which the time-out pass has seen.
    pub(crate) fn with_group(tag: u16) -> Arc<Self> {
        let world = Self::new();
        assert_eq!(world.report(&cpu(0), tag), Report::Deferred);
        assert_eq!(world.table.expire(&cpu(0), 0), 0);
        world
    }

    /// Runs `life` as core `core`, which goes offline after it.
    pub(crate) fn core<T: 'static>(
        self: &Arc<Self>,
        core: usize,
        life: impl FnOnce(&Self, &mut Cpu) -> T + 'static,
    ) -> JoinHandle<T> {
        let world = Arc::clone(self);
        world.domain.online(&mut cpu(core));
        thread::spawn(move || {
            let mut cpu = cpu(core);
            let result = life(&world, &mut cpu);
            world.domain.offline(&mut cpu);
            result
        })
    }

    pub(crate) fn report(&self, cpu: &Cpu, tag: u16) -> Report {
        cpu.masked(|masked| self.table.report(masked, 0, stall(STREAM, tag, 0)))
    }

    /// The handler answers its group. Returns whether that was in time.
    pub(crate) fn respond(&self, cpu: &Cpu, response: PageResponse) -> bool {
        let group = self.handler.take_one();
        cpu.masked(|masked| group.respond(masked, response)).is_ok()
    }

    /// Reports a stall alone, and sends the answer that it has at once.
    pub(crate) fn report_lone(&self, cpu: &Cpu, tag: u16) {
        cpu.masked(|masked| {
            let answer = |run: StallRun<'_>, response| self.answer(masked, run, response);
            assert!(self.table.stall(masked, 0, recorded(&stall(STREAM, tag, 0)), || 0, answer));
        });
    }

    /// Reports stalls together, whose tags are `first` and those behind it, and sends the answers that they have at once.
    pub(crate) fn report_run(&self, cpu: &Cpu, first: u16, addresses: &[u64]) {
        cpu.masked(|masked| {
            let answer = |run: StallRun<'_>, response| self.answer(masked, run, response);
            self.table.stalls(masked, 0, answer, |batch| {
                for (tag, &address) in (first..).zip(addresses) {
                    assert!(batch.report(|| (0, 0), recorded(&stall(STREAM, tag, address))));
                }
            });
        });
    }

    fn answer(&self, masked: &Masked, run: StallRun<'_>, response: PageResponse) {
        let answers = run.iter().map(|stall| Fault::from(&stall).answer(response)).collect::<Vec<_>>();
        self.smmu.respond(masked, &answers).unwrap();
    }

    /// One page request of group 3.
    pub(crate) fn request(&self, cpu: &Cpu, last: bool) -> Report {
        let fault = in_substream(page(STREAM, 3, last, 0), 5);
        cpu.masked(|masked| self.table.report(masked, 0, fault))
    }

    /// What disabling does. `None` if the grace period does not end within one look: those orders are not of interest.
    pub(crate) fn end(&self, cpu: &mut Cpu) -> Option<Leftover> {
        let closing = cpu.masked(|masked| self.table.close(masked, STREAM)).unwrap();
        let grace = self.domain.synchronize(cpu, &mut Yield, 1).ok()?;
        self.smmu.terminated.store(closing.kind() == Kind::Stall, SeqCst);
        let leftover = closing.answer_pending(cpu, &grace);
        cpu.masked(|masked| closing.finish(masked)).unwrap();
        Some(leftover)
    }

    pub(crate) fn sent(&self) -> Vec<Answer> {
        self.smmu.sent.lock().unwrap().clone()
    }
}

/// Runs `model` in every order with at most so many preemptions; `None` is all.
pub(crate) fn explore(preemptions: impl Into<Option<usize>>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions.into();
    builder.check(model);
}
