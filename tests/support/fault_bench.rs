//! A fault table with a responder that records and a handler that does as it is told.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use embedded_hal::delay::DelayNs;
use smmu_iopf::iopf::{
    Answer, Fault, FaultGroup, FaultHandler, FaultTable, Kind, Limits, NotSent, OpenError, OpenRequest, PageResponder,
    Priority, Report, Request, StreamLimits, Target, Verdict,
};
use smmu_iopf::smmuv3::event::{Event, FaultClass, FaultKind, StallRun, TranslationFault};
use smmu_iopf::smmuv3::{Access, PageResponse, PrgIndex, Stag, StreamId, SubstreamId};
use smmu_iopf::sync::grace::Domain;
use smmu_iopf::sync::{CoreId, Cpu, Masked};

/// Addresses from here on are refused by the handler.
pub const WILD: u64 = 1 << 40;

pub const STREAM: StreamId = StreamId(0x101);

pub const LIMITS: Limits = Limits { states: 8, groups: 64 };
pub const STREAM_LIMITS: StreamLimits =
    StreamLimits { groups: 4, requests: 4, time_out_us: 1_000_000, priority: Priority::Normal };

/// The core `index`, for a thread that stands for it.
pub fn cpu(index: usize) -> Cpu {
    // SAFETY: the test asks once for each core, from the thread that stands for it.
    unsafe { Cpu::new(CoreId::new(index).unwrap()) }
}

pub fn stall(stream: StreamId, tag: u16, address: u64) -> Fault {
    Fault { stream, substream: None, address, access: Access::READ, request: Request::Stall(Stag(tag)), stage2: None }
}

/// The first words of the record of `fault`, a stall.
pub fn recorded(fault: &Fault) -> [u64; 3] {
    let Request::Stall(stag) = fault.request else { panic!("a page request") };
    let &Fault { stream, substream, address, access, .. } = fault;
    let (kind, class) = (FaultKind::Translation, FaultClass::Input);
    let stag = Some(stag);
    let event =
        TranslationFault { kind, stream, substream, stag, access, class, ipa: None, table_write: false, address };
    let [first, second, third, _] = Event::Fault(event).encode();
    [first, second, third]
}

pub fn page(stream: StreamId, group: u16, last: bool, address: u64) -> Fault {
    let request = Request::Page { group: PrgIndex::new(group).unwrap(), last };
    Fault { stream, substream: None, address, access: Access::READ, request, stage2: None }
}

pub fn in_substream(fault: Fault, substream: u32) -> Fault {
    Fault { substream: SubstreamId::new(substream), ..fault }
}

pub fn to_stall(stream: StreamId, tag: u16, response: PageResponse) -> Answer {
    Answer { stream, substream: None, to: Target::Stall(Stag(tag)), response }
}

pub fn to_group(stream: StreamId, group: u16, response: PageResponse) -> Answer {
    Answer { stream, substream: None, to: Target::Group(PrgIndex::new(group).unwrap()), response }
}

/// Records what is sent; while `stuck`, sends no more than the first `room` answers of a batch.
#[derive(Default)]
pub struct Recorder {
    pub stuck: AtomicBool,
    pub room: AtomicUsize,
    /// Batches that came, sent or not.
    pub batches: AtomicUsize,
    sent: Mutex<Vec<Answer>>,
}

impl Recorder {
    /// What was sent since the last call.
    pub fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

impl PageResponder for Recorder {
    fn respond(&self, _: &Masked, answers: &[Answer]) -> Result<(), NotSent> {
        let sent = if self.stuck.load(SeqCst) { self.room.load(SeqCst).min(answers.len()) } else { answers.len() };
        self.sent.lock().unwrap().extend(&answers[..sent]);
        self.batches.fetch_add(1, SeqCst);
        if sent == answers.len() { Ok(()) } else { Err(NotSent { sent }) }
    }
}

/// Answers Success, Invalid for wild addresses; or defers.
#[derive(Default)]
pub struct Handler {
    pub defers: AtomicBool,
    /// Has no room for deferred groups.
    pub drops: AtomicBool,
    /// Panics in each of its methods.
    pub panics: AtomicBool,
    /// How many stalls it answers at once in one call.
    pub at_once: AtomicUsize,
    /// The tags of the stalls that each call of `serve_at_once` got.
    pub asked: Mutex<Vec<Vec<u16>>>,
    pub seen: Mutex<Vec<Vec<Fault>>>,
    groups: Mutex<Vec<FaultGroup>>,
}

impl Handler {
    /// The groups deferred since the last call, oldest first.
    pub fn take(&self) -> Vec<FaultGroup> {
        std::mem::take(&mut self.groups.lock().unwrap())
    }

    /// The only group deferred since the last call.
    pub fn take_one(&self) -> FaultGroup {
        let mut groups = self.take();
        assert_eq!(groups.len(), 1);
        groups.remove(0)
    }
}

impl FaultHandler for Handler {
    fn handle(&self, _: &Masked, faults: &[Fault]) -> Verdict {
        self.seen.lock().unwrap().push(faults.to_vec());
        let defers = self.defers.load(SeqCst);
        assert!(defers || !self.panics.load(SeqCst), "as it must");
        if defers {
            return Verdict::Defer;
        }
        let wild = faults.iter().any(|fault| fault.address >= WILD);
        Verdict::Answer(if wild { PageResponse::Invalid } else { PageResponse::Success })
    }

    fn serve_at_once(&self, _: &Masked, stalls: StallRun<'_>) -> usize {
        self.asked.lock().unwrap().push(stalls.iter().map(|stall| stall.stag().0).collect());
        assert!(!self.panics.load(SeqCst), "as it must");
        let tame = stalls.iter().take_while(|stall| stall.address() < WILD);
        let at_once = tame.take(self.at_once.load(SeqCst)).map(|stall| vec![Fault::from(&stall)]).collect::<Vec<_>>();
        let count = at_once.len();
        self.seen.lock().unwrap().extend(at_once);
        count
    }

    fn defer(&self, _: &Masked, group: FaultGroup) {
        assert!(!self.panics.load(SeqCst), "as it must");
        if !self.drops.load(SeqCst) {
            self.groups.lock().unwrap().push(group);
        }
    }
}

/// A clock that only a wait moves.
pub struct Clock;

impl DelayNs for Clock {
    fn delay_ns(&mut self, _: u32) {}
}

pub struct Bench {
    pub domain: Arc<Domain>,
    pub responder: Arc<Recorder>,
    pub handler: Arc<Handler>,
    pub table: FaultTable,
    pub cpu: Cpu,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_limits(LIMITS)
    }

    pub fn with_limits(limits: Limits) -> Self {
        let domain = Arc::new(Domain::new());
        let responder = Arc::new(Recorder::default());
        let table = FaultTable::new(domain.clone(), responder.clone(), 20, limits).unwrap();
        let mut cpu = cpu(0);
        domain.online(&mut cpu);
        Self { domain, responder, handler: Arc::default(), table, cpu }
    }

    /// A bench with [`STREAM`] open.
    pub fn open(kind: Kind) -> Self {
        let mut bench = Self::new();
        bench.open_stream(STREAM, kind).unwrap();
        bench
    }

    /// One whose handler defers.
    pub fn deferring(kind: Kind) -> Self {
        let bench = Self::open(kind);
        bench.handler.defers.store(true, SeqCst);
        bench
    }

    /// Another handler than the bench's.
    pub fn open_to(&mut self, stream: StreamId, kind: Kind, handler: Arc<dyn FaultHandler>, limits: StreamLimits) {
        let request = OpenRequest { streams: &[stream], kind, handler, limits, since: 0 };
        self.table.open(&mut self.cpu, &mut Clock, request).unwrap();
    }

    pub fn open_stream(&mut self, stream: StreamId, kind: Kind) -> Result<(), OpenError> {
        self.open_with(&[stream], kind, STREAM_LIMITS, 0)
    }

    pub fn open_with(
        &mut self,
        streams: &[StreamId],
        kind: Kind,
        limits: StreamLimits,
        since: u64,
    ) -> Result<(), OpenError> {
        let request = OpenRequest { streams, kind, handler: self.handler.clone(), limits, since };
        self.table.open(&mut self.cpu, &mut Clock, request)
    }

    pub fn report(&self, fault: Fault) -> Report {
        self.report_record(0, fault)
    }

    pub fn report_record(&self, record: u64, fault: Fault) -> Report {
        self.cpu.masked(|masked| self.table.report(masked, record, fault))
    }

    /// Reports stalls together, the first in record `record`: what is to be answered at once.
    pub fn report_stalls(&self, record: u64, stalls: &[Fault]) -> Vec<Answer> {
        let mut answers = Vec::new();
        let answer = |stalls: StallRun<'_>, response| {
            answers.extend(stalls.iter().map(|stall| Fault::from(&stall).answer(response)));
        };
        self.cpu.masked(|masked| {
            self.table.stalls(masked, record, answer, |batch| {
                (record..)
                    .zip(stalls)
                    .for_each(|(record, fault)| assert!(batch.report(|| (record, 0), recorded(fault))));
            });
        });
        answers
    }

    /// Reports a stall alone, in record `record`: what is to be answered at once.
    pub fn report_lone(&self, record: u64, stall: &Fault) -> Vec<Answer> {
        let mut answers = Vec::new();
        let answer = |stalls: StallRun<'_>, response| {
            answers.extend(stalls.iter().map(|stall| Fault::from(&stall).answer(response)));
        };
        assert!(self.cpu.masked(|masked| self.table.stall(masked, record, recorded(stall), || 0, answer)));
        answers
    }

    /// Everything that disabling does, without hardware.
    pub fn close(&mut self, stream: StreamId) {
        let closing = self.cpu.masked(|masked| self.table.close(masked, stream)).unwrap();
        let grace = self.domain.synchronize(&mut self.cpu, &mut Clock, 1000).unwrap();
        assert_eq!(closing.answer_pending(&self.cpu, &grace).unsent, 0);
        self.cpu.masked(|masked| closing.finish(masked)).unwrap();
    }

    /// Lets a grace period pass and frees what is due.
    pub fn free(&mut self) {
        let _grace = self.domain.synchronize(&mut self.cpu, &mut Clock, 1000).unwrap();
        self.domain.poll(&mut self.cpu);
    }
}
