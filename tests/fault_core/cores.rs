//! Five threads stand for cores: one drains, stalls one and two at a time, one works on deferred groups, one times out, closes and opens
//! again, one flushes, drops partial groups and gives a substream a handler of its own, and one flushes and closes beside it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use embedded_hal::delay::DelayNs;
use smmu_iopf::iopf::{
    Answer, CloseError, Fault, FaultGroup, FaultHandler, FaultTable, Kind, Limits, NotSent, OpenRequest, PageResponder,
    Partials, Priority, Report, StreamLimits, Target, Verdict,
};
use smmu_iopf::smmuv3::event::StallRun;
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId};
use smmu_iopf::sync::Masked;
use smmu_iopf::sync::grace::Domain;

use super::fault_bench::{STREAM, cpu, in_substream, page, recorded as words, stall};

const PAGES: StreamId = StreamId(0x8_0007);
const FAULTS: u16 = if cfg!(miri) { 60 } else { 20_000 };
const GROUPS: Limits = Limits { states: 8, groups: 12 };
const STREAM_GROUPS: StreamLimits =
    StreamLimits { groups: 8, requests: 4, time_out_us: 1000, priority: Priority::Normal };
const LONG_US: u32 = 10_000_000;

/// What the hardware waits for. An answer that it does not wait for is remembered.
#[derive(Default)]
struct Hardware {
    waiting: Mutex<HashSet<(StreamId, Target)>>,
    strays: Mutex<Vec<Answer>>,
    /// The stalls that have been reported.
    reported: Mutex<Vec<(StreamId, Target)>>,
    /// The stalling stream's STE aborts: it stalls nothing new.
    aborts: AtomicBool,
    stuck: AtomicBool,
}

impl Hardware {
    /// Records a fault, unless its stream aborts or its index is in use.
    fn record(&self, fault: &Fault) -> bool {
        let mut waiting = self.waiting.lock().unwrap();
        let may = fault.stream == PAGES || !self.aborts.load(SeqCst);
        may && (!fault.wants_answer() || waiting.insert((fault.stream, fault.target())))
    }

    fn answer(&self, answer: Answer) {
        if !self.waiting.lock().unwrap().remove(&(answer.stream, answer.to)) {
            self.strays.lock().unwrap().push(answer);
        }
    }

    fn abort_new_stalls(&self) {
        let _settled = self.waiting.lock().unwrap();
        self.aborts.store(true, SeqCst);
    }

    fn stall_term(&self) {
        self.waiting.lock().unwrap().retain(|&(stream, _)| stream != STREAM);
    }
}

impl PageResponder for Hardware {
    fn respond(&self, _: &Masked, answers: &[Answer]) -> Result<(), NotSent> {
        if self.stuck.load(SeqCst) {
            return Err(NotSent { sent: 0 });
        }
        // Widens the gap between claim and publication.
        thread::yield_now();
        answers.iter().for_each(|&answer| self.answer(answer));
        Ok(())
    }
}

/// Answers one fault in four at once, and of the stalls among them every other one before it is asked about it.
#[derive(Default)]
struct Deferring {
    groups: Mutex<Vec<FaultGroup>>,
    served: AtomicU64,
}

impl FaultHandler for Deferring {
    fn handle(&self, _: &Masked, faults: &[Fault]) -> Verdict {
        match faults.iter().any(|fault| fault.address % 4 == 0) {
            true => Verdict::Answer(PageResponse::Success),
            false => Verdict::Defer,
        }
    }

    fn serve_at_once(&self, _: &Masked, stalls: StallRun<'_>) -> usize {
        let served = stalls.count_while(|stall| stall.address() % 8 == 0);
        self.served.fetch_add(served as u64, SeqCst);
        served
    }

    fn defer(&self, _: &Masked, group: FaultGroup) {
        self.groups.lock().unwrap().push(group);
    }
}

struct Sleep;

impl DelayNs for Sleep {
    fn delay_ns(&mut self, ns: u32) {
        thread::sleep(Duration::from_nanos(ns.into()));
    }
}

#[test]
fn every_fault_is_answered_once_whatever_the_cores_do_at_once() {
    let domain = Arc::new(Domain::new());
    let hardware = Arc::new(Hardware::default());
    let handler = Arc::new(Deferring::default());
    let table = FaultTable::new(domain.clone(), hardware.clone(), 20, GROUPS).unwrap();
    let (recorded, reported) = (AtomicU64::new(0), AtomicU64::new(0));
    let (drained, flushed) = (AtomicBool::new(false), AtomicBool::new(false));
    let ending = Mutex::new(false);
    // Odd while the stalling stream is being closed.
    let (closes, flushes) = (AtomicU64::new(0), AtomicU64::new(0));
    let (domain, table, hardware, handler) = (&domain, &table, &hardware, &handler);
    let open = |cpu: &mut _, stream, kind| {
        let since = recorded.load(SeqCst);
        let request = OpenRequest { streams: &[stream], kind, handler: handler.clone(), limits: STREAM_GROUPS, since };
        table.open(cpu, &mut Sleep, request)
    };
    let mut first = cpu(0);
    open(&mut first, STREAM, Kind::Stall).unwrap();
    open(&mut first, PAGES, Kind::Page).unwrap();
    domain.offline(&mut first);

    thread::scope(|scope| {
        // Drains.
        scope.spawn(|| {
            let mut cpu = cpu(1);
            domain.online(&mut cpu);
            for n in 0..FAULTS {
                let address = u64::from(n % 11);
                let faults = match n % 3 {
                    0 if n % 5 == 0 => vec![in_substream(page(PAGES, n / 3 % 512, n % 2 == 0, address), 1)],
                    0 => vec![page(PAGES, n / 3 % 512, n % 2 == 0, address)],
                    1 => vec![page(PAGES, n / 3 % 512, true, address)],
                    _ if n % 2 == 0 => vec![stall(STREAM, n, address)],
                    _ => vec![stall(STREAM, n, address), stall(STREAM, FAULTS + n, address + 1)],
                };
                let faults: Vec<_> = faults.into_iter().filter(|fault| hardware.record(fault)).collect();
                let first = recorded.fetch_add(faults.len() as u64, SeqCst);
                if n % 8 == 0 {
                    thread::yield_now();
                }
                cpu.masked(|masked| {
                    let stalls = |stalls: StallRun<'_>, response| {
                        stalls.iter().for_each(|stall| hardware.answer(Fault::from(&stall).answer(response)));
                    };
                    match faults.as_slice() {
                        [fault] if fault.stream == STREAM => {
                            assert!(table.stall(masked, first, words(fault), || 0, stalls));
                        }
                        // STALL_TERM has been given, or will be.
                        [fault] => match table.report(masked, first, *fault) {
                            Report::Answer(answer) => hardware.answer(answer),
                            Report::Swallowed | Report::Held | Report::Deferred => {}
                        },
                        _ => table.stalls(masked, first, stalls, |batch| {
                            let numbered = (first..).zip(&faults);
                            numbered.for_each(|(n, fault)| assert!(batch.report(|| (n, 0), words(fault))));
                        }),
                    }
                });
                reported.fetch_add(faults.len() as u64, SeqCst);
                let of_stream = faults.iter().filter(|fault| fault.stream == STREAM);
                hardware.reported.lock().unwrap().extend(of_stream.map(|fault| (STREAM, fault.target())));
                domain.poll(&mut cpu);
                thread::yield_now();
            }
            drained.store(true, SeqCst);
            domain.offline(&mut cpu);
        });
        // Works.
        scope.spawn(|| {
            let mut cpu = cpu(2);
            domain.online(&mut cpu);
            let mut n = 0_u32;
            while !drained.load(SeqCst) || !handler.groups.lock().unwrap().is_empty() {
                let group = handler.groups.lock().unwrap().pop();
                n += u32::from(group.is_some());
                match group {
                    Some(group) if n.is_multiple_of(8) => drop(group),
                    Some(group) => {
                        if n % 256 == 1 {
                            // Long enough to be timed out, and closed.
                            thread::sleep(Duration::from_millis(3));
                        }
                        let _ = cpu.masked(|masked| group.respond(masked, PageResponse::Success));
                    }
                    None => thread::yield_now(),
                }
                domain.poll(&mut cpu);
            }
            domain.offline(&mut cpu);
        });
        // Times out, closes, opens again.
        scope.spawn(|| {
            let mut cpu = cpu(3);
            domain.online(&mut cpu);
            let mut now_us = 0;
            let mut round = 0;
            loop {
                let last = drained.load(SeqCst) && flushed.load(SeqCst);
                hardware.stuck.store(round % 5 == 1 && !last, SeqCst);
                now_us += 700;
                table.expire(&cpu, now_us);
                domain.poll(&mut cpu);
                hardware.stuck.store(false, SeqCst);
                if round % 4 == 3 {
                    hardware.abort_new_stalls();
                    closes.fetch_add(1, SeqCst);
                    *ending.lock().unwrap() = true;
                    let closing = loop {
                        match cpu.masked(|masked| table.close(masked, STREAM)) {
                            Ok(closing) => break closing,
                            Err(CloseError::Closing(_)) => thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    };
                    let grace = domain.synchronize(&mut cpu, &mut Sleep, LONG_US).unwrap();
                    hardware.stall_term();
                    let target = recorded.load(SeqCst);
                    while reported.load(SeqCst) < target {
                        domain.poll(&mut cpu);
                        thread::yield_now();
                    }
                    let _ = closing.answer_pending(&cpu, &grace);
                    *ending.lock().unwrap() = false;
                    cpu.masked(|masked| closing.finish(masked)).unwrap();
                    while open(&mut cpu, STREAM, Kind::Stall).is_err() {
                        thread::yield_now();
                    }
                    hardware.aborts.store(false, SeqCst);
                    closes.fetch_add(1, SeqCst);
                }
                round += 1;
                if last {
                    break;
                }
                thread::yield_now();
            }
            domain.offline(&mut cpu);
        });
        // Flushes, drops partial groups, sets and removes a substream's handler.
        scope.spawn(|| {
            let mut cpu = cpu(4);
            domain.online(&mut cpu);
            let substream = SubstreamId::new(1).unwrap();
            let start = Instant::now();
            // At least one flush comes to its end, however the threads are scheduled; by Miri's clock, that of what it executes, it may not.
            let is_owed = || !cfg!(miri) && flushes.load(SeqCst) == 0 && start.elapsed() < Duration::from_secs(30);
            while !drained.load(SeqCst) || is_owed() {
                let _ = table.set_substream_handler(&mut cpu, PAGES, substream, handler.clone());
                cpu.masked(|masked| table.discard_partials(masked, Partials::All));
                // A fault that was reported to a life that is still the same, is answered by the end of a flush.
                let (life, reported) = (closes.load(SeqCst), hardware.reported.lock().unwrap().clone());
                let flushed = table.flush(&mut cpu, &mut Sleep, STREAM, 2000);
                if flushed.is_ok() && life.is_multiple_of(2) && closes.load(SeqCst) == life {
                    let waiting = hardware.waiting.lock().unwrap();
                    let left = reported.iter().find(|&&fault| waiting.contains(&fault));
                    assert_eq!(left, None, "flushed and not answered");
                    flushes.fetch_add(1, SeqCst);
                }
                cpu.masked(|masked| table.discard_partials(masked, Partials::Substream(PAGES, substream)));
                let _ = table.remove_substream_handler(&mut cpu, &mut Sleep, PAGES, substream, LONG_US);
                domain.poll(&mut cpu);
                thread::yield_now();
            }
            flushed.store(true, SeqCst);
            domain.offline(&mut cpu);
        });
        // Flushes the other stream meanwhile, and tries to close what another core closes.
        scope.spawn(|| {
            let mut cpu = cpu(5);
            domain.online(&mut cpu);
            while !drained.load(SeqCst) {
                let _ = table.flush(&mut cpu, &mut Sleep, PAGES, 500);
                // The right to end it, for a moment: the other core tries again.
                let ending = ending.lock().unwrap();
                if *ending {
                    drop(cpu.masked(|masked| table.close(masked, STREAM)));
                }
                drop(ending);
                cpu.masked(|masked| table.discard_partials(masked, Partials::Stream(PAGES)));
                thread::yield_now();
            }
            domain.offline(&mut cpu);
        });
    });
    assert!(cfg!(miri) || flushes.load(SeqCst) > 0);
    assert!(cfg!(miri) || handler.served.load(SeqCst) > 0, "no stall was served at once");

    // All hands are off: what is left is the disabler's.
    domain.online(&mut first);
    assert!(handler.groups.lock().unwrap().is_empty());
    for stream in [STREAM, PAGES] {
        let closing = first.masked(|masked| table.close(masked, stream)).unwrap();
        let grace = domain.synchronize(&mut first, &mut Sleep, LONG_US).unwrap();
        if stream == STREAM {
            hardware.stall_term();
        }
        assert_eq!(closing.answer_pending(&first, &grace).unsent, 0);
        first.masked(|masked| closing.finish(masked)).unwrap();
    }
    let _grace = domain.synchronize(&mut first, &mut Sleep, LONG_US).unwrap();
    domain.poll(&mut first);

    assert_eq!(*hardware.strays.lock().unwrap(), []);
    assert_eq!(*hardware.waiting.lock().unwrap(), HashSet::new());
    let totals = table.totals();
    assert_eq!((totals.live_states, totals.slots_in_use), (0, 0));
    assert_eq!(totals.statistics.groups, totals.statistics.answers() + totals.statistics.terminated);
    assert_eq!(totals.statistics.records, reported.load(SeqCst));
    assert_eq!(domain.stats().in_memory(), 0);
}
