use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::ptr;
use std::sync::Mutex;

use super::*;
use crate::driver::dma::{CacheMaintenance, Coherence, DmaMemory, Lent, NoMemory, Shared};
use crate::driver::fake::{self, Fake, Lines, NoDelay};
use crate::iopf::{Answer, Target};
use crate::smmuv3::command::ResumeAction;
use crate::smmuv3::event::{Stall, StallBuffer};
use crate::smmuv3::features::IdRegisters;
use crate::smmuv3::queue::QueueSize;
use crate::smmuv3::{PageResponse, PrgIndex, Stag, StreamId, SubstreamId};

const SYNC: [u64; 2] = [0x46, 0];
const CFGI_STE_0X10_LEAF: [u64; 2] = [0x10_0000_0003, 1];

struct Bench {
    fake: Arc<Fake>,
    queue: CommandQueue<Arc<Fake>, NoDelay>,
    /// Where messages go.
    lines: Option<DmaRegion>,
}

/// Memory for messages.
#[derive(Default)]
struct Messages(Mutex<Option<DmaRegion>>);

impl DmaMemory for Messages {
    fn allocate(&self, bytes: usize, _: usize) -> Result<DmaRegion, NoMemory> {
        Ok(*self.0.lock().unwrap().insert(fake::region(bytes)))
    }
}

/// S1P, AArch64 tables, COHACC, ATS, PRI, little-endian tables, and stalls.
const IDS: IdRegisters = IdRegisters {
    idr0: 1 << 1 | 2 << 2 | 1 << 4 | 1 << 10 | 1 << 16 | 2 << 21,
    idr1: 0x1084_1210,
    idr3: 0,
    idr5: 0x0040_0015,
    iidr: 0,
    aidr: 0,
};

/// A queue of 2^`log2` commands on an SMMU with stall, ATS and PRI.
fn bench(log2: u8, on_write: impl Fn(&mut BTreeMap<usize, u64>, Register, u64) + Send + Sync + 'static) -> Bench {
    bench_of(IDS, log2, on_write)
}

fn bench_of(
    id: IdRegisters,
    log2: u8,
    on_write: impl Fn(&mut BTreeMap<usize, u64>, Register, u64) + Send + Sync + 'static,
) -> Bench {
    bench_within(10, id, log2, on_write)
}

fn bench_within(
    limit_us: u32,
    id: IdRegisters,
    log2: u8,
    on_write: impl Fn(&mut BTreeMap<usize, u64>, Register, u64) + Send + Sync + 'static,
) -> Bench {
    let fake = Fake::new(on_write);
    let features = Features::decode(id).unwrap();
    let ring = Ring::new(QueueSize::new(log2).unwrap()).unwrap();
    let region = fake::region(COMMAND_BYTES << log2);
    let messages = Arc::new(Messages::default());
    let shared = Shared::new(messages.clone(), Coherence::COHERENT, features.oas);
    let completion = Completion::new(&features, &mut Lent::new(&shared)).unwrap();
    let mut hardware = fake::hardware(&fake);
    hardware.limit_us = limit_us;
    let queue = CommandQueue::new(Arc::new(hardware), features, 8, region, ring, completion, None).unwrap();
    Bench { fake, queue, lines: *messages.0.lock().unwrap() }
}

impl Bench {
    /// The SMMU sends message `data` to a core's line.
    fn send(&self, core: usize, data: u64) {
        self.lines.unwrap().words[core * 16].store(data, Ordering::Release);
    }

    fn answer<const N: usize>(&self, answers: [Answer; N]) -> Result<(), Timeout> {
        let answers = answers.iter().filter_map(|answer| self.queue.command_for(answer)).collect::<Answers>();
        fake::cpu().masked(|masked| self.queue.answer(masked, &answers)).map_err(|unsent| unsent.timeout.timeout)
    }
}

/// Consumes whatever is published.
fn consume(values: &mut BTreeMap<usize, u64>, register: Register, value: u64) {
    if register == Register::CmdqProd {
        values.insert(Register::CmdqCons.offset(), value);
    }
}

/// Stops once at the first command with `error`, and goes on when it is acknowledged.
fn stop_once(error: u64) -> impl Fn(&mut BTreeMap<usize, u64>, Register, u64) {
    move |values, register, value| match register {
        Register::CmdqProd if !values.contains_key(&Register::Gerror.offset()) => {
            values.insert(Register::CmdqCons.offset(), error << 24);
            values.insert(Register::Gerror.offset(), 1);
        }
        Register::Gerrorn => {
            assert_eq!(value, 1);
            let prod = values[&Register::CmdqProd.offset()];
            values.insert(Register::CmdqCons.offset(), error << 24 | prod);
        }
        Register::CmdqProd if values.contains_key(&Register::Gerrorn.offset()) => consume(values, register, value),
        _ => {}
    }
}

fn cfgi() -> Command {
    Command::CfgiSte { stream: StreamId(0x10), leaf: true }
}

#[test]
fn a_batch_is_written_whole_before_one_prod_write() {
    let bench = bench(3, consume);
    let retry = Command::Resume { stream: StreamId(2), stag: Stag(7), action: ResumeAction::Retry };
    bench.queue.submit(&mut fake::cpu(), &[cfgi(), retry, cfgi()]).unwrap();
    assert_eq!(bench.fake.written(Register::CmdqProd), [3]);
    assert_eq!(bench.queue.read(0), CFGI_STE_0X10_LEAF);
    assert_eq!(bench.queue.read(1), [0x2_0000_1044, 7]);
    assert_eq!(bench.queue.read(2), CFGI_STE_0X10_LEAF);
}

#[test]
fn execute_returns_when_the_sync_behind_the_commands_is_consumed() {
    let bench = bench(3, consume);
    bench.queue.execute(&mut fake::cpu(), &[cfgi()]).unwrap();
    assert_eq!((bench.queue.read(0), bench.queue.read(1)), (CFGI_STE_0X10_LEAF, SYNC));
}

#[test]
fn a_batch_longer_than_the_queue_goes_through_it_in_parts() {
    let bench = bench(1, consume);
    bench.queue.execute(&mut fake::cpu(), &[cfgi(); 5]).unwrap();
    assert_eq!(bench.fake.written(Register::CmdqProd), [2, 0, 2]);
}

#[test]
fn commands_and_their_sync_share_a_prod_write_where_they_fit() {
    for (count, written) in [(0, &[1][..]), (1, &[2]), (7, &[8]), (8, &[8, 9]), (9, &[8, 10])] {
        let bench = bench(3, consume);
        bench.queue.execute(&mut fake::cpu(), &[cfgi(); 9][..count]).unwrap();
        assert_eq!(bench.fake.written(Register::CmdqProd), written);
        let end = count as u64 + 1;
        assert_eq!(bench.queue.counts().commands, end);
        assert_eq!(bench.queue.read(end - 1), SYNC);
    }
}

#[test]
fn a_sync_that_is_next_is_not_complete() {
    let bench = bench(3, |values, register, value| consume(values, register, value.saturating_sub(1)));
    let result = bench.queue.execute(&mut fake::cpu(), &[cfgi()]);
    let timeout = Timeout { register: Register::CmdqCons, expected: 2, actual: 1, waited_us: 10 };
    let stuck = CommandTimeout { timeout, command: Some(SYNC), errors: 0 };
    assert_eq!(result.map(drop), Err(stuck.into()));
}

/// IDR0.MSI, IDR0.SEV.
const MSI: u32 = 1 << 13;
const SEV: u32 = 1 << 14;

fn with(idr0: u32) -> IdRegisters {
    IdRegisters { idr0: IDS.idr0 | idr0, ..IDS }
}

#[test]
fn a_sync_asks_for_what_idr0_offers() {
    // Opcode 0x46. CS = 2 at bit 12; CS = 1, MSH = 3 at bit 22, MSIATTR = 0xf at bit 24, and the message at bit 32 (4.7.3).
    for (idr0, sync) in [
        (0, [0x46, 0]),
        (SEV, [0x2046, 0]),
        (MSI, [0x1_0fc0_1046, 0x1234_0000]),
        (MSI | SEV, [0x1_0fc0_1046, 0x1234_0000]),
    ] {
        let bench = bench_of(with(idr0), 3, consume);
        bench.queue.execute(&mut fake::cpu(), &[cfgi()]).unwrap();
        assert_eq!(bench.queue.read(1), sync, "{idr0:#x}");
        assert_eq!(bench.lines.is_some(), idr0 & MSI != 0);
    }
}

#[test]
fn each_message_has_its_number_and_each_core_its_line() {
    let bench = bench_of(with(MSI), 3, consume);
    for core in [0, 0, 1] {
        bench.queue.execute(&mut Cpu::of_test(core), &[]).unwrap();
    }
    let syncs = [[0x1_0fc0_1046, 0x1234_0000], [0x2_0fc0_1046, 0x1234_0000], [0x1_0fc0_1046, 0x1234_0080]];
    assert_eq!([0, 1, 2].map(|position| bench.queue.read(position)), syncs);
}

#[test]
fn a_message_completes_a_sync_and_makes_room_without_a_look_at_cons() {
    let bench = bench_of(with(MSI), 1, |_, _, _| {});
    bench.send(0, 0xffff_ffff_0000_0001);
    bench.queue.execute(&mut fake::cpu(), &[cfgi()]).unwrap();
    assert_eq!(bench.fake.reads(Register::CmdqCons), 0);
    // The SMMU has not moved CONS: that there is room is from the message.
    bench.queue.submit(&mut fake::cpu(), &[cfgi(); 2]).unwrap();
    assert_eq!(bench.fake.reads(Register::CmdqCons), 0);
}

#[test]
fn the_message_of_another_sync_is_not_believed() {
    let bench = bench_of(with(MSI), 3, |_, _, _| {});
    bench.send(0, 1);
    bench.queue.execute(&mut fake::cpu(), &[]).unwrap();
    // That of the one before, and that of another core's second one.
    bench.send(1, 2);
    let result = bench.queue.execute(&mut fake::cpu(), &[]);
    assert!(matches!(result, Err(DriverError::CommandTimeout(_))), "{result:?}");
}

#[test]
fn a_message_is_under_way_from_when_its_sync_was_consumed_until_it_is_there() {
    let bench = bench_of(with(MSI), 3, |_, _, _| {});
    let mut cpu = fake::cpu();
    assert!(bench.queue.messages_arrived(&cpu), "none was asked for");
    assert!(bench.queue.execute(&mut cpu, &[cfgi()]).is_err());
    // Not consumed, without and with CERROR_ILL at the command before (ERR, bits 30:24 of CMDQ_CONS, 6.3.28).
    for cons in [0, 1 << 24, 1 << 24 | 1] {
        bench.fake.set(Register::CmdqCons, cons);
        assert!(bench.queue.messages_arrived(&cpu), "{cons:#x}");
    }
    // Consumed, after an error before it too, which stays in CONS.
    for cons in [2, 1 << 24 | 2] {
        bench.fake.set(Register::CmdqCons, cons);
        assert!(!bench.queue.messages_arrived(&cpu), "{cons:#x}");
    }
    bench.send(0, 1);
    assert!(bench.queue.messages_arrived(&cpu));
}

#[test]
fn a_sync_whose_message_is_lost_is_complete_when_it_is_consumed() {
    let bench = bench_of(with(MSI), 3, consume);
    bench.queue.execute(&mut fake::cpu(), &[cfgi()]).unwrap();
    // After a microsecond.
    assert_eq!(bench.fake.reads(Register::CmdqCons), 1);
}

/// Nobody has looked at CONS when the time is over.
#[test]
fn a_sync_whose_message_is_lost_and_that_is_consumed_at_the_last_moment_is_complete() {
    let bench = bench_within(0, with(MSI), 3, consume);
    bench.queue.execute(&mut fake::cpu(), &[cfgi()]).unwrap();
    assert_eq!(bench.fake.reads(Register::CmdqCons), 1);
}

#[test]
fn after_an_aborted_message_none_is_asked_for() {
    for (idr0, sync) in [(MSI, [0x46, 0]), (MSI | SEV, [0x2046, 0])] {
        let bench = bench_of(with(idr0), 3, consume);
        bench.queue.abandon_messages();
        bench.queue.execute(&mut fake::cpu(), &[]).unwrap();
        assert_eq!(bench.queue.read(0), sync);
    }
}

#[test]
fn a_queue_that_is_never_consumed_ends_the_wait_and_is_named() {
    let bench = bench(1, |_, _, _| {});
    bench.fake.set(Register::Gerror, 0x90);
    bench.fake.set(Register::Gerrorn, 0x80);
    let timeout = Timeout { register: Register::CmdqCons, expected: 2, actual: 0, waited_us: 10 };
    let stuck = CommandTimeout { timeout, command: Some(CFGI_STE_0X10_LEAF), errors: 0x10 };
    assert_eq!(bench.queue.execute(&mut fake::cpu(), &[cfgi()]).map(drop), Err(stuck.into()));
    // Two slots are taken; one more is free when the SMMU has consumed the first, two when it has consumed both.
    for count in [1, 2] {
        let full = CommandTimeout { timeout: Timeout { expected: count as u32, ..timeout }, ..stuck };
        assert_eq!(bench.queue.submit(&mut fake::cpu(), &[cfgi(); 2][..count]), Err(full.into()));
    }
    assert_eq!(
        DriverError::from(stuck).to_string(),
        "CMDQ_CONS did not become 0x2 within 10 us: it is 0x0, and stands at CMD_CFGI_STE StreamID=0x10 Leaf=1, \
         with the global errors 0x10"
    );
}

/// What an SMMU finds that sees nothing but what was cleaned: words by their addresses.
#[derive(Default)]
struct View(Mutex<BTreeMap<usize, u64>>);

impl View {
    fn of(&self, words: &[Word]) -> Vec<Option<u64>> {
        let view = self.0.lock().unwrap();
        words.iter().map(|word| view.get(&ptr::from_ref(word).addr()).copied()).collect()
    }
}

impl CacheMaintenance for View {
    fn clean(&self, words: &[Word]) {
        let now = words.iter().map(|word| (ptr::from_ref(word).addr(), word.load(Ordering::Relaxed)));
        self.0.lock().unwrap().extend(now);
    }

    fn invalidate(&self, _: &[Word]) {
        unreachable!("an SMMU does not write its command queue");
    }
}

/// Round the end of the queue, and for the SYNC in place of a command that was refused.
#[test]
fn what_the_smmu_is_to_read_is_cleaned_before_it_is_told() {
    let (view, told) = (&*Box::leak(Box::<View>::default()), Arc::new(Mutex::new(Vec::new())));
    let (region, smmu) = (fake::region(COMMAND_BYTES << 2), stop_once(1));
    let fake = Fake::new({
        let told = told.clone();
        move |values, register, value| {
            if matches!(register, Register::CmdqProd | Register::Gerrorn) {
                told.lock().unwrap().push((register, view.of(region.words)));
            }
            smmu(values, register, value);
        }
    });
    let mut hardware = fake::hardware(&fake);
    hardware.coherence = Coherence::by(view);
    let (features, ring) = (Features::decode(IDS).unwrap(), Ring::new(QueueSize::new(2).unwrap()).unwrap());
    let shared = Shared::new(Arc::new(Messages::default()), hardware.coherence, features.oas);
    let completion = Completion::new(&features, &mut Lent::new(&shared)).unwrap();
    let queue = CommandQueue::new(Arc::new(hardware), features, 8, region, ring, completion, None).unwrap();
    let mut cpu = fake::cpu();
    assert!(queue.execute(&mut cpu, &[cfgi()]).is_err());
    queue.submit(&mut cpu, &[cfgi(), cfgi(), cfgi()]).unwrap();
    let [cfgi, sync] = [CFGI_STE_0X10_LEAF, SYNC].map(|command| command.map(Some));
    let told = told.lock().unwrap();
    let slots = |(register, words): &(Register, Vec<_>)| (*register, words.as_chunks::<2>().0.to_vec());
    let expected = [
        (Register::CmdqProd, [cfgi, sync, [None; 2], [None; 2]].to_vec()),
        (Register::Gerrorn, [sync, sync, [None; 2], [None; 2]].to_vec()),
        (Register::CmdqProd, [cfgi, sync, cfgi, cfgi].to_vec()),
    ];
    assert_eq!(told.iter().map(slots).collect::<Vec<_>>(), expected);
}

#[test]
fn an_illegal_command_is_replaced_by_a_sync_and_reported_to_who_sent_it() {
    let bench = bench(3, stop_once(1));
    let mut cpu = fake::cpu();
    let result = bench.queue.execute(&mut cpu, &[cfgi()]).map(drop);
    let refused = DriverError::IllegalCommand { words: CFGI_STE_0X10_LEAF };
    assert_eq!(refused.to_string(), "the SMMU refused CMD_CFGI_STE StreamID=0x10 Leaf=1 as illegal");
    assert_eq!(result, Err(refused));
    assert_eq!(bench.queue.read(0), SYNC);
    let failure = cpu.masked(|masked| bench.queue.last_failure(masked));
    let words = CFGI_STE_0X10_LEAF;
    assert_eq!(failure, Some(CommandFailure { error: CommandError::Illegal, words, position: 0 }));
    assert_eq!(bench.queue.execute(&mut cpu, &[cfgi()]).map(drop), Ok(()), "others are not blamed");
}

#[test]
fn an_answer_that_is_refused_is_fetched_once_more_before_it_is_replaced() {
    let bench = bench(3, |_, _, _| {});
    let mut cpu = fake::cpu();
    let retry = |stag| Command::Resume { stream: StreamId(2), stag: Stag(stag), action: ResumeAction::Retry };
    bench.queue.submit(&mut cpu, &[retry(7), retry(8)]).unwrap();
    for (gerror, left) in [(1, [0x2_0000_1044, 7]), (0, SYNC)] {
        bench.fake.set(Register::CmdqCons, 1 << 24);
        bench.fake.set(Register::Gerror, gerror);
        assert!(cpu.masked(|masked| bench.queue.repair(masked)));
        assert_eq!(bench.queue.read(0), left);
    }
    // The next one is another command.
    bench.fake.set(Register::CmdqCons, 1 << 24 | 1);
    bench.fake.set(Register::Gerror, 1);
    assert!(cpu.masked(|masked| bench.queue.repair(masked)));
    assert_eq!(bench.queue.read(1), [0x2_0000_1044, 8]);
    assert_eq!(bench.queue.counts().errors, 3);
}

#[test]
fn a_command_whose_fetch_aborted_is_innocent_and_fetched_again() {
    let bench = bench(3, stop_once(2));
    bench.queue.execute(&mut fake::cpu(), &[cfgi()]).unwrap();
    assert_eq!(bench.queue.read(0), CFGI_STE_0X10_LEAF);
    assert_eq!(bench.queue.counts().errors, 1);
}

/// Each look of the wait finds it stopped again (7.1).
#[test]
fn a_fetch_that_aborts_for_ever_is_told_a_few_times_only() {
    let lines = Arc::new(Lines::default());
    let fake = Fake::new(|values, register, value| {
        if register == Register::Gerrorn {
            values.insert(Register::CmdqCons.offset(), 2 << 24);
            values.insert(Register::Gerror.offset(), !value & 1);
        }
    });
    let hardware = Arc::new(fake::hardware_with(&fake, lines.clone()));
    let (ring, region) = (Ring::new(QueueSize::new(3).unwrap()).unwrap(), fake::region(COMMAND_BYTES << 3));
    let features = Features::decode(IDS).unwrap();
    let shared = Shared::new(Arc::new(Messages::default()), Coherence::COHERENT, features.oas);
    let completion = Completion::new(&features, &mut Lent::new(&shared)).unwrap();
    let queue = CommandQueue::new(hardware, features, 8, region, ring, completion, None).unwrap();
    fake.set(Register::CmdqCons, 2 << 24);
    fake.set(Register::Gerror, 1);
    let timeout = Timeout { register: Register::CmdqCons, expected: 2, actual: 2 << 24, waited_us: 10 };
    let timeout = CommandTimeout { timeout, command: Some(CFGI_STE_0X10_LEAF), errors: 1 };
    assert_eq!(queue.execute(&mut fake::cpu(), &[cfgi()]).map(drop), Err(timeout.into()));
    let counts = queue.counts();
    assert!(counts.errors > 4, "{counts:?}");
    assert_eq!(counts.suppressed, counts.errors - 4);
    assert_eq!(lines.take(), ["command queue error: CERROR_ABT at command 0, CMD_CFGI_STE StreamID=0x10 Leaf=1"; 4]);
}

#[test]
fn an_atc_invalidation_that_timed_out_fails_its_sync() {
    let invalidation = Command::AtcInv { stream: StreamId(0x10), substream: None, global: false, address: 0, size: 52 };
    let words = [0x10_0000_0040, 52];
    for (commands, result) in [
        (&[invalidation][..], Err(DriverError::AtcInvalidationTimeout)),
        (&[cfgi(), invalidation], Err(DriverError::AtcInvalidationTimeout)),
        // Somebody else's.
        (&[cfgi()], Ok(())),
    ] {
        let bench = bench(3, stop_once(3));
        assert_eq!(bench.queue.execute(&mut fake::cpu(), commands).map(drop), result);
        let last = bench.queue.read(commands.len() as u64 - 1);
        assert_eq!(last, if result.is_err() { words } else { CFGI_STE_0X10_LEAF }, "nothing is replaced");
    }
}

/// More often than failures are kept.
#[test]
fn one_failure_that_repeats_hides_nothing_of_others() {
    let invalidation = Command::AtcInv { stream: StreamId(0x10), substream: None, global: false, address: 0, size: 52 };
    for (code, own, result) in
        [(2, invalidation, Ok(())), (3, cfgi(), Ok(())), (3, invalidation, Err(DriverError::AtcInvalidationTimeout))]
    {
        let left = AtomicU64::new(20);
        let fake = Fake::new(move |values, register, value| match register {
            Register::Gerrorn if left.fetch_sub(1, Ordering::Relaxed) == 1 => {
                values.insert(Register::CmdqCons.offset(), values[&Register::CmdqProd.offset()]);
            }
            Register::CmdqProd | Register::Gerrorn => {
                let known = if register == Register::Gerrorn { value } else { 0 };
                values.insert(Register::CmdqCons.offset(), code << 24);
                values.insert(Register::Gerror.offset(), !known & 1);
            }
            _ => {}
        });
        let mut hardware = fake::hardware(&fake);
        hardware.limit_us = 1000;
        let (ring, region) = (Ring::new(QueueSize::new(3).unwrap()).unwrap(), fake::region(COMMAND_BYTES << 3));
        let features = Features::decode(IDS).unwrap();
        let shared = Shared::new(Arc::new(Messages::default()), Coherence::COHERENT, features.oas);
        let completion = Completion::new(&features, &mut Lent::new(&shared)).unwrap();
        let queue = CommandQueue::new(Arc::new(hardware), features, 8, region, ring, completion, None).unwrap();
        let mut cpu = fake::cpu();
        assert_eq!(queue.execute(&mut cpu, &[own]).map(drop), result);
        let last = cpu.masked(|masked| queue.last_failure(masked)).unwrap();
        assert_eq!((queue.counts().errors, last.position), (20, 0));
    }
}

#[test]
fn answers_wait_in_vain_once_until_there_is_room_again() {
    let bench = bench(0, |_, _, _| {});
    let to = Target::Stall(Stag(1));
    let answer = Answer { stream: StreamId(1), substream: None, to, response: PageResponse::Success };
    let waited = || bench.answer([answer]).map_err(|timeout| timeout.waited_us);
    assert_eq!([waited(), waited(), waited()], [Ok(()), Err(10), Err(0)]);
    bench.fake.set(Register::CmdqCons, 1);
    assert_eq!([waited(), waited(), waited()], [Ok(()), Err(10), Err(0)]);
}

#[test]
fn answers_without_a_command_are_counted_and_leave_the_queue_alone() {
    let id = IdRegisters { idr0: 1 << 1 | 2 << 2 | 1 << 4 | 1 << 24 | 2 << 21, ..IDS };
    let bench = bench_of(id, 3, consume);
    let to = [Target::Stall(Stag(1)), Target::Group(PrgIndex::new(1).unwrap())];
    let answers = to.map(|to| Answer { stream: StreamId(1), substream: None, to, response: PageResponse::Invalid });
    bench.answer(answers).unwrap();
    assert_eq!(bench.fake.written(Register::CmdqProd), []);
    assert_eq!(bench.queue.counts(), CommandCounts { refused: 2, ..CommandCounts::default() });
}

#[test]
fn a_response_carries_the_pasid_unless_the_endpoint_wants_none() {
    let bench = bench(3, consume);
    let answer = |stream| Answer {
        stream: StreamId(stream),
        substream: SubstreamId::new(5),
        to: Target::Group(PrgIndex::new(9).unwrap()),
        response: PageResponse::Success,
    };
    bench.queue.set_response_pasid(StreamId(0x43), false);
    bench.answer([answer(0x42), answer(0x43)]).unwrap();
    assert_eq!(bench.queue.read(0), [0x42_0000_5841, 0x2009]);
    assert_eq!(bench.queue.read(1), [0x43_0000_0041, 0x2009]);
    assert_eq!(bench.queue.counts().answers, 2);
}

#[test]
fn stalls_are_retried_or_aborted_never_completed_with_zeros() {
    let bench = bench(3, consume);
    let answer = |response| Answer { stream: StreamId(1), substream: None, to: Target::Stall(Stag(0x1234)), response };
    let answers = [PageResponse::Success, PageResponse::Invalid, PageResponse::Failure].map(answer);
    bench.answer(answers).unwrap();
    assert_eq!(bench.queue.read(0), [0x1_0000_1044, 0x1234]);
    assert_eq!(bench.queue.read(1), [0x1_0000_2044, 0x1234]);
    assert_eq!(bench.queue.read(2), [0x1_0000_2044, 0x1234]);
}

/// Stalled writes of StreamID 1 under `tags`.
fn stalls<const N: usize>(tags: [u64; N]) -> StallBuffer<N> {
    let mut stalls = StallBuffer::new();
    for words in tags.map(|tag| [0x1_0000_0010, 1 << 31 | tag, 0x1000]) {
        if !stalls.push(words) {
            stalls.begin(Stall::decode(words).unwrap());
        }
    }
    stalls
}

#[test]
fn a_run_goes_round_the_queue_and_is_published_once() {
    let bench = bench(2, consume);
    fake::cpu().masked(|masked| {
        let mut unsent = Answers::new();
        for run in [[1, 2, 3], [4, 5, 6]] {
            bench.queue.resume(masked, iter::once(stalls(run).run()), 3, PageResponse::Success, &mut unsent);
            bench.queue.publish();
        }
        assert!(unsent.is_empty());
    });
    assert_eq!(bench.fake.written(Register::CmdqProd), [3, 0b110]);
    assert_eq!([3, 4, 5, 2].map(|position| bench.queue.read(position)[1]), [4, 5, 6, 3]);
}

#[test]
fn the_runs_of_a_batch_lie_one_behind_the_other_or_all_wait_for_room() {
    let bench = bench(2, consume);
    let (two, one) = (stalls([1, 2]), stalls([3]));
    fake::cpu().masked(|masked| {
        let mut unsent = Answers::new();
        for first in [0, 3] {
            bench.queue.resume(masked, [two.run(), one.run()].into_iter(), 3, PageResponse::Success, &mut unsent);
            assert!(unsent.is_empty());
            bench.queue.publish();
            assert_eq!([0, 1, 2].map(|n| bench.queue.read(first + n)[1]), [1, 2, 3]);
        }
        let five = [two.run(), two.run(), one.run()];
        bench.queue.resume(masked, five.into_iter(), 5, PageResponse::Invalid, &mut unsent);
        assert_eq!(unsent.iter().map(|answer| answer.0[1]).collect::<Vec<_>>(), [1, 2, 1, 2, 3]);
    });
    assert_eq!(bench.fake.written(Register::CmdqProd), [3, 0b110]);
}

#[test]
fn all_of_a_run_that_finds_no_room_is_kept_in_order_and_nothing_passes_it() {
    let bench = bench(2, |_, _, _| {});
    fake::cpu().masked(|masked| {
        let mut unsent = Answers::new();
        let three = stalls([1, 2, 3]);
        bench.queue.resume(masked, iter::once(three.run()), 3, PageResponse::Success, &mut unsent);
        bench.queue.resume(masked, iter::once(three.run()), 3, PageResponse::Success, &mut unsent);
        bench.queue.resume(masked, iter::once(stalls([9]).run()), 1, PageResponse::Success, &mut unsent);
        assert_eq!(unsent.iter().map(|answer| answer.0[1]).collect::<Vec<_>>(), [1, 2, 3, 9]);
    });
    assert_eq!(bench.fake.written(Register::CmdqProd), [3]);
}

#[test]
fn what_waits_for_room_publishes_what_takes_it() {
    let bench = bench(1, consume);
    fake::cpu().masked(|masked| {
        let mut unsent = Answers::new();
        bench.queue.resume(masked, iter::once(stalls([1, 2]).run()), 2, PageResponse::Success, &mut unsent);
        assert_eq!(bench.fake.written(Register::CmdqProd), []);
        bench.queue.answer(masked, &[AnswerCommand([0x1_0000_1044, 3])]).unwrap();
    });
    assert_eq!(bench.fake.written(Register::CmdqProd), [2, 3]);
}

#[test]
fn answers_to_an_smmu_that_is_given_up_are_counted_and_not_put_into_the_queue() {
    let bench = bench(2, consume);
    bench.queue.hardware.give_up();
    let mut unsent = Answers::new();
    fake::cpu().masked(|masked| {
        bench.queue.resume(masked, iter::once(stalls([1, 2]).run()), 2, PageResponse::Success, &mut unsent);
        bench.queue.publish();
    });
    assert!(unsent.is_empty());
    assert_eq!((bench.queue.counts().refused, bench.queue.counts().commands), (2, 0));
    assert_eq!(bench.fake.written(Register::CmdqProd), []);
}

#[test]
fn a_run_of_an_smmu_without_stalls_is_counted_and_leaves_the_queue_alone() {
    // STALL_MODEL = 0b01.
    let bench = bench_of(IdRegisters { idr0: IDS.idr0 | 1 << 24, ..IDS }, 3, consume);
    let mut unsent = Answers::new();
    fake::cpu().masked(|masked| {
        bench.queue.resume(masked, iter::once(stalls([1, 2]).run()), 2, PageResponse::Success, &mut unsent);
        bench.queue.publish();
    });
    assert!(unsent.is_empty());
    assert_eq!(bench.queue.counts(), CommandCounts { refused: 2, ..CommandCounts::default() });
    assert_eq!(bench.fake.written(Register::CmdqProd), []);
}

#[test]
fn the_answers_to_a_run_are_in_the_trace_once_those_that_wait_when_they_are_sent() {
    let mut bench = bench(1, consume);
    let trace = Arc::new(Trace::new());
    bench.queue.trace = Some(trace.clone());
    let expected = Trace::new();
    fake::cpu().masked(|masked| {
        let mut unsent = Answers::new();
        let resume = |tags, unsent: &mut Answers| {
            bench.queue.resume(masked, iter::once(stalls(tags).run()), 2, PageResponse::Success, unsent);
        };
        resume([1, 2], &mut unsent);
        [1, 2].iter().for_each(|&tag| expected.add(masked, b'A', &[0x1_0000_1044, tag]));
        assert_eq!(trace.value(masked), expected.value(masked));
        // Not before what waits is sent.
        unsent.push(AnswerCommand([0x1_0000_2044, 9])).unwrap();
        resume([3, 4], &mut unsent);
        assert_eq!(trace.value(masked), expected.value(masked));
        bench.queue.answer(masked, &unsent).unwrap();
        expected.add(masked, b'A', &[0x1_0000_2044, 9]);
        [3, 4].iter().for_each(|&tag| expected.add(masked, b'A', &[0x1_0000_1044, tag]));
        assert_eq!(trace.value(masked), expected.value(masked));
    });
}
