//! An SMMU on paper: it has a command queue and nothing behind it, consumes as much as chance wants whenever somebody comes by, and keeps a book of
//! what it consumed. For the host and for the target.
//!
//! Each core's commands bear its number, as their ASID or in their StreamID; those with an ASID count up by their address, and answers to stalls by
//! their STAG. So a command that is lost, comes twice or overtakes another one of its core is one that is not due; a SYNC that is believed
//! before it is complete is one whose commands are not in the book.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::array;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use embedded_hal::delay::DelayNs;
use smmu_iopf::driver::dma::{CacheMaintenance, DmaMemory, DmaRegion, NoMemory};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{
    Context, DriverError, EventSink, FaultMode, Hooks, Options, OutputQueue, Pages, Smmu, StreamConfig, Translation,
    Wake,
};
use smmu_iopf::iopf::{Fault, FaultGroup, FaultHandler, Priority, Report, Request, StreamLimits, Verdict};
use smmu_iopf::smmuv3::command::{Command, SyncCompletion};
use smmu_iopf::smmuv3::event::{Event, EventError};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{Access, Asid, PageResponse, PhysAddr, Stag, StreamId};
use smmu_iopf::sync::cpu::pause;
use smmu_iopf::sync::grace::{Domain, Grace};
use smmu_iopf::sync::{Cpu, MAX_CORES, Masked};
use spin::Mutex;

/// IDR0.MSI, IDR0.SEV, and IDR0.COHACC, which it has otherwise.
pub(crate) const MSI: u32 = 1 << 13;
pub(crate) const SEV: u32 = 1 << 14;
pub(crate) const NOT_COHERENT: u32 = 1 << 4;

/// IDR0, IDR1, IDR3 and IDR5 of QEMU's SMMU, but for STALL_MODEL: faults may stall. No ATS, and no invalidation by range.
const IDS: [u32; 4] = [0x0c44_101b, 0x0273_0010, 0, 0x74];

/// The StreamID of core 0's device whose faults stall; those of the other cores follow. Below are those that are attached and detached.
const STALLING: u32 = MAX_CORES as u32;

/// How long a core waits for its answers to be in the queue, in looks, as [`Options::limit_us`]: a core of a busy machine is away for long.
const LIMIT_US: u32 = 5_000_000;

/// Bytes of memory that an SMMU on paper wants.
pub(crate) const MEMORY: usize = 256 << 10;

/// GERROR.CMDQ_ERR, CR0.CMDQEN, GBPA.Update; CMDQ_CONS.ERR: CERROR_ILL and CERROR_ABT (7.1).
const CMDQ_ERR: u32 = 1 << 0;
const CMDQEN: u32 = 1 << 3;
const UPDATE: u32 = 1 << 31;
const ILLEGAL: u32 = 1 << 24;
const ABORT: u32 = 2 << 24;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Of one core.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// Numbered commands, refused ones among them.
    numbered: u64,
    /// CFGI_STE of its stream.
    configuring: u64,
    /// CMD_RESUME.
    resumed: u64,
}

/// The reader of the queue, one at a time.
struct Consumer {
    random: Random,
    /// Commands consumed.
    position: u64,
    consumed: [Done; MAX_CORES],
}

/// What was complete at the last SYNC, and what was refused since the core looked.
#[derive(Default)]
struct Book {
    numbered: AtomicU64,
    configuring: AtomicU64,
    resumed: AtomicU64,
    refused: Mutex<Vec<[u64; 2]>>,
}

/// What an SMMU sees that is not coherent: lines of 64 bytes that somebody has cleaned.
struct View {
    cpu: &'static [AtomicU64],
    memory: Vec<AtomicU64>,
    /// Held while lines go to memory: each goes as a whole.
    cleaning: Mutex<()>,
}

impl CacheMaintenance for View {
    fn clean(&self, words: &[AtomicU64]) {
        let first = words.first().and_then(|word| self.cpu.element_offset(word));
        let lines = first.map_or(0..0, |first| first & !7..(first + words.len()).next_multiple_of(8));
        let _cleaning = self.cleaning.lock();
        for (cpu, memory) in self.cpu.iter().zip(&self.memory).take(lines.end).skip(lines.start) {
            memory.store(cpu.load(Relaxed), Relaxed);
        }
    }

    fn invalidate(&self, _: &[AtomicU64]) {}
}

pub(crate) struct Paper {
    memory: DmaRegion,
    view: Option<&'static View>,
    /// Bytes of it that were given out.
    used: AtomicUsize,
    /// What it offers for a SYNC, and whether it is coherent.
    idr0: u32,
    gbpa: AtomicU32,
    cr0: AtomicU32,
    irq_ctrl: AtomicU32,
    base: AtomicU64,
    prod: AtomicU32,
    cons: AtomicU32,
    gerror: AtomicU32,
    gerrorn: AtomicU32,
    /// One command in so many fails, and messages get lost; 0 for none yet.
    fails_in: AtomicU64,
    consumer: Mutex<Consumer>,
    books: [Book; MAX_CORES],
    /// CERROR_ILL, CERROR_ABT and lost messages.
    pub(crate) failures: [AtomicU64; 3],
    pub(crate) prod_writes: AtomicU64,
    wrong: Mutex<Option<String>>,
}

impl Paper {
    /// An SMMU over [`MEMORY`] bytes, with that of [`MSI`], [`SEV`] and [`NOT_COHERENT`] which is in `idr0`.
    pub(crate) fn new(memory: DmaRegion, idr0: u32, seed: u64) -> Arc<Self> {
        let consumer = Consumer { random: Random(seed), position: 0, consumed: Default::default() };
        let view = || {
            let (cpu, cleaning) = (memory.words, Mutex::new(()));
            &*Box::leak(Box::new(View { cpu, memory: cpu.iter().map(|_| AtomicU64::new(0)).collect(), cleaning }))
        };
        Arc::new(Self {
            memory,
            view: (idr0 & NOT_COHERENT != 0).then(view),
            used: 0.into(),
            idr0,
            gbpa: 0.into(),
            cr0: 0.into(),
            irq_ctrl: 0.into(),
            base: 0.into(),
            prod: 0.into(),
            cons: 0.into(),
            gerror: 0.into(),
            gerrorn: 0.into(),
            fails_in: 0.into(),
            consumer: Mutex::new(consumer),
            books: array::from_fn(|_| Book::default()),
            failures: Default::default(),
            prod_writes: 0.into(),
            wrong: Mutex::new(None),
        })
    }

    /// Notes what was wrong first.
    fn wrong(&self, what: String) {
        self.wrong.lock().get_or_insert(what);
    }

    fn word(&self, address: u64) -> Option<&'static AtomicU64> {
        let offset = address.checked_sub(self.memory.phys.0).filter(|offset| offset.is_multiple_of(8))?;
        let words = self.view.map_or(self.memory.words, |view| &view.memory);
        words.get(offset as usize / 8)
    }

    /// The number of slots.
    fn size(&self) -> u64 {
        1 << (self.base.load(Relaxed) & 0x1f)
    }

    /// `position` as PROD and CONS have it.
    fn index(&self, position: u64) -> u32 {
        (position & (2 * self.size() - 1)) as u32
    }

    /// Consumes as much as chance wants, if nobody else is at it.
    fn step(&self) {
        let Some(mut consumer) = self.consumer.try_lock() else { return };
        let most = 1 << consumer.random.below(8);
        for _ in 0..consumer.random.below(most) {
            if !self.consume(&mut consumer) {
                return;
            }
        }
    }

    /// Consumes a command, if there is one and nothing fails.
    fn consume(&self, consumer: &mut Consumer) -> bool {
        let stopped = (self.gerror.load(SeqCst) ^ self.gerrorn.load(SeqCst)) & CMDQ_ERR != 0;
        let index = self.index(consumer.position);
        if stopped || self.cr0.load(Relaxed) & CMDQEN == 0 || self.prod.load(Acquire) == index {
            return false;
        }
        let address = (self.base.load(Relaxed) & 0xf_ffff_ffff_ffe0) + 16 * (consumer.position & (self.size() - 1));
        let words = [address, address + 8].map(|word| self.word(word).map_or(0, |word| word.load(Relaxed)));
        let command = Command::decode(words);
        let fails_in = self.fails_in.load(Relaxed);
        if fails_in > 0 && consumer.random.one_in(fails_in) {
            // Nobody's attach is to fail, whose state is not looked after here; and nobody hears of an answer that is refused.
            let may_be_illegal = !matches!(command, Ok(Command::CfgiSte { .. } | Command::Resume { .. }));
            let illegal = may_be_illegal && consumer.random.one_in(2);
            if illegal && let Some(core) = self.number(consumer, &command) {
                self.books[core].refused.lock().push(words);
            }
            self.failures[usize::from(!illegal)].fetch_add(1, Relaxed);
            self.cons.store(index | if illegal { ILLEGAL } else { ABORT }, SeqCst);
            self.gerror.fetch_xor(CMDQ_ERR, SeqCst);
            return false;
        }
        self.number(consumer, &command);
        match command {
            Ok(Command::CfgiSte { stream: StreamId(stream), .. }) => {
                consumer.consumed[stream as usize % MAX_CORES].configuring += 1;
            }
            Ok(Command::Resume { stream: StreamId(stream), stag: Stag(stag), .. }) => {
                let due = &mut consumer.consumed[stream as usize % MAX_CORES].resumed;
                if stream < STALLING || stag != *due as u16 {
                    self.wrong(format!("stream {stream}: an answer to stall {stag} where {due} is due"));
                }
                *due += 1;
            }
            Ok(Command::Sync(_)) => {
                for (book, done) in self.books.iter().zip(&consumer.consumed) {
                    book.numbered.store(done.numbered, Relaxed);
                    book.configuring.store(done.configuring, Relaxed);
                    book.resumed.store(done.resumed, Relaxed);
                }
            }
            Ok(Command::TlbiNhVa { .. } | Command::CfgiCd { .. } | Command::CfgiAll | Command::TlbiNsnhAll) => {}
            other => self.wrong(format!("{other:x?} at command {}", consumer.position)),
        }
        consumer.position += 1;
        self.cons.store(self.index(consumer.position), Release);
        if let Ok(Command::Sync(completion)) = command {
            self.signal(consumer, completion, fails_in > 0);
        }
        true
    }

    /// Takes note of a numbered command, and says whose it is.
    fn number(&self, consumer: &mut Consumer, command: &Result<Command, impl Sized>) -> Option<usize> {
        let Ok(Command::TlbiNhVa { asid: Asid(core), range, .. }) = command else { return None };
        let core = usize::from(*core);
        let due = &mut consumer.consumed[core].numbered;
        if range.address >> 12 != *due {
            self.wrong(format!("core {core}: command {} where {due} is due", range.address >> 12));
        }
        *due += 1;
        Some(core)
    }

    fn signal(&self, consumer: &mut Consumer, completion: SyncCompletion, fails: bool) {
        let offered = match completion {
            SyncCompletion::None => 0,
            SyncCompletion::Event => SEV,
            SyncCompletion::Interrupt { .. } => MSI,
        };
        // One that was put in an illegal command's place asks for nothing.
        if offered & !self.idr0 != 0 {
            self.wrong(format!("{completion:?} of an SMMU with IDR0 {:#x}", self.idr0));
        }
        let SyncCompletion::Interrupt { msi: Some(msi) } = completion else { return };
        if fails && consumer.random.one_in(64) {
            self.failures[2].fetch_add(1, Relaxed);
        } else {
            match self.word(msi.address.0) {
                Some(word) => word.store(msi.data.into(), Release),
                None => self.wrong(format!("{msi:x?} to where there is no memory")),
            }
        }
    }

    fn write_prod(&self, value: u32) {
        let before = self.prod.swap(value, SeqCst);
        if self.cr0.load(Relaxed) & CMDQEN == 0 {
            return;
        }
        let (size, lap) = (self.size() as u32, 2 * self.size() as u32 - 1);
        let cons = self.cons.load(SeqCst) & lap;
        let (moved, held) = (value.wrapping_sub(before) & lap, value.wrapping_sub(cons) & lap);
        if moved == 0 || moved > size || held > size {
            self.wrong(format!("PROD from {before:#x} to {value:#x} with CONS {cons:#x} and {size} slots"));
        }
        self.prod_writes.fetch_add(1, Relaxed);
        self.step();
    }
}

impl Registers for Paper {
    fn read32(&self, register: Register) -> u32 {
        match register {
            Register::Idr0 => IDS[0] ^ self.idr0,
            Register::Idr1 => IDS[1],
            Register::Idr3 => IDS[2],
            Register::Idr5 => IDS[3],
            Register::Gbpa => self.gbpa.load(Relaxed),
            Register::Cr0 | Register::Cr0Ack => self.cr0.load(Relaxed),
            Register::IrqCtrl | Register::IrqCtrlAck => self.irq_ctrl.load(Relaxed),
            Register::Gerror => self.gerror.load(SeqCst),
            Register::Gerrorn => self.gerrorn.load(SeqCst),
            Register::CmdqProd => self.prod.load(SeqCst),
            Register::CmdqCons => {
                self.step();
                self.cons.load(SeqCst)
            }
            _ => 0,
        }
    }

    fn write32(&self, register: Register, value: u32) {
        match register {
            Register::Gbpa => self.gbpa.store(value & !UPDATE, Relaxed),
            Register::Cr0 => self.cr0.store(value, Relaxed),
            Register::IrqCtrl => self.irq_ctrl.store(value, Relaxed),
            Register::Gerrorn => self.gerrorn.store(value, SeqCst),
            Register::CmdqProd => self.write_prod(value),
            _ => {}
        }
    }

    fn write64(&self, register: Register, value: u64) {
        if register == Register::CmdqBase {
            self.base.store(value, Relaxed);
        }
    }
}

impl DmaMemory for Paper {
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory> {
        let mut start = 0;
        let take = |used: usize| {
            start = used.next_multiple_of(align);
            Some(start + bytes).filter(|end| *end <= MEMORY)
        };
        self.used.fetch_update(Relaxed, Relaxed, take).map_err(|_| NoMemory { bytes, align })?;
        let words = self.memory.words.get(start / 8..(start + bytes) / 8).ok_or(NoMemory { bytes, align })?;
        Ok(DmaRegion { phys: PhysAddr(self.memory.phys.0 + start as u64), words })
    }

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        self.view.map(|view| view as _)
    }
}

/// Whoever waits has the SMMU go on.
#[derive(Clone)]
pub(crate) struct PaperDelay(Arc<Paper>);

impl DelayNs for PaperDelay {
    fn delay_ns(&mut self, _: u32) {
        self.0.step();
        pause();
    }
}

/// Nobody has records to drain, or events to take.
struct Nobody;

impl Wake for Nobody {
    fn wake(&self, _: &Masked, _: OutputQueue) {}
}

impl EventSink for Nobody {
    fn event(&self, _: &Masked, _: &Event) {}

    fn undecodable(&self, _: &Masked, _: [u64; 4], _: EventError) {}
}

/// What stalled of a core's device.
#[derive(Default)]
struct Stalled {
    group: Mutex<Option<FaultGroup>>,
    /// The stalls that were answered.
    answered: AtomicU64,
}

impl FaultHandler for Stalled {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, _: &Masked, group: FaultGroup) {
        *self.group.lock() = Some(group);
    }
}

/// A driver whose SMMU is on paper, for all cores.
pub(crate) struct Commands {
    pub(crate) paper: Arc<Paper>,
    pub(crate) smmu: Arc<Smmu<Arc<Paper>, PaperDelay>>,
    stalled: [Arc<Stalled>; MAX_CORES],
    grace: Grace,
}

impl Commands {
    /// Brings the driver up, with a command queue of 2^`log2`. From then on one command in `fails_in` fails.
    pub(crate) fn new(
        paper: Arc<Paper>,
        domain: &Arc<Domain>,
        cpu: &mut Cpu,
        log2: u8,
        fails_in: u64,
    ) -> Result<Self, String> {
        let mut delay = PaperDelay(paper.clone());
        let hooks = Hooks { wake: Arc::new(Nobody), events: Arc::new(Nobody) };
        let options = Options {
            command_queue_log2: log2,
            event_queue_log2: 3,
            stream_bits: 4,
            limit_us: LIMIT_US,
            ..Options::default()
        };
        let grace = domain.synchronize(cpu, &mut delay, 1_000_000).map_err(|error| format!("{error}"))?;
        let smmu = Smmu::probe(cpu, paper.clone(), paper.clone(), domain.clone(), delay, hooks, options);
        let smmu = smmu.map_err(|error| format!("{error}"))?;
        let stalled: [Arc<Stalled>; MAX_CORES] = Default::default();
        for (stream, stalled) in (STALLING..).map(StreamId).zip(&stalled) {
            Self::attach_stalling(&smmu, &paper, cpu, stream, stalled).map_err(|error| format!("{error}"))?;
        }
        paper.fails_in.store(fails_in, Relaxed);
        Ok(Self { smmu, paper, stalled, grace })
    }

    fn attach_stalling(
        smmu: &Smmu<Arc<Paper>, PaperDelay>,
        paper: &Paper,
        cpu: &mut Cpu,
        stream: StreamId,
        stalled: &Arc<Stalled>,
    ) -> Result<(), DriverError> {
        let context = Context { table: paper.allocate(4096, 4096)?.phys, asid: Asid(0x100), t0sz: 25, mair: 0xff };
        smmu.attach(cpu, stream, &StreamConfig { faults: FaultMode::Stall, translation: context.into() })?;
        let limits = StreamLimits { groups: 2, requests: 1, time_out_us: u32::MAX, priority: Priority::Normal };
        smmu.enable_faults(cpu, &[stream], None, stalled.clone(), limits)
    }

    /// One more batch of a core, which has sent `sent` so far, or a change of its stream; and whether it is in the book. Returns
    /// whether nothing was wrong yet.
    pub(crate) fn issue(&self, cpu: &mut Cpu, random: &mut Random, sent: &mut u64) -> bool {
        if let Err(wrong) = self.try_issue(cpu, random, sent) {
            self.paper.wrong(wrong);
        }
        self.paper.wrong.lock().is_none()
    }

    /// Stalls an access of a core's device, and answers it: the answer is in the queue when this returns.
    fn answer(&self, cpu: &mut Cpu) -> Result<(), String> {
        let core = cpu.core().index();
        let (stream, stalled) = (StreamId(STALLING + core as u32), &self.stalled[core]);
        let stall = Request::Stall(Stag(stalled.answered.fetch_add(1, Relaxed) as u16));
        let (substream, stage2) = (None, None);
        let fault = Fault { stream, substream, address: 0x1000, access: Access::READ, request: stall, stage2 };
        let report = cpu.masked(|masked| self.smmu.faults().report(masked, 0, fault));
        let group = stalled.group.lock().take();
        let (Report::Deferred, Some(group)) = (report, group) else {
            return Err(format!("core {core}: a stall is not deferred: {report:?}"));
        };
        let in_time = cpu.masked(|masked| group.respond(masked, PageResponse::Success));
        let sent = self.smmu.faults().flush(cpu, &mut PaperDelay(self.paper.clone()), stream, LIMIT_US);
        in_time.map_err(|late| format!("core {core}: {late}"))?;
        sent.map_err(|error| format!("core {core}: {error}"))
    }

    fn try_issue(&self, cpu: &mut Cpu, random: &mut Random, sent: &mut u64) -> Result<(), String> {
        let core = cpu.core().index();
        let (book, mut early) = (&self.paper.books[core], false);
        if random.one_in(4) {
            (0..random.below(4)).try_for_each(|_| self.answer(cpu))?;
        }
        let result = if random.one_in(16) {
            let configured = book.configuring.load(Relaxed);
            let (stream, faults) = (StreamId(core as u32), FaultMode::Terminate);
            let translation = Translation::Stage1 { context: None, substream_bits: 0 };
            let config = StreamConfig { faults, translation };
            self.smmu.attach(cpu, stream, &config).and_then(|()| {
                early = book.configuring.load(Relaxed) == configured;
                self.smmu.detach(cpu, stream)
            })
        } else {
            let count = [1, 64, 1 + random.below(64)][random.below(3) as usize];
            let pages = Pages { first: *sent << 12, count };
            *sent += count;
            self.smmu.invalidate_pages(cpu, &self.grace, Asid(core as u16), &pages.into()).map(drop)
        };
        let complete = [&book.numbered, &book.resumed].map(|count| count.load(Relaxed));
        let issued = [*sent, self.stalled[core].answered.load(Relaxed)];
        if early || complete != issued {
            return Err(format!(
                "core {core}: {complete:?} of {issued:?} commands and answers complete, or no CFGI_STE, after {result:?}"
            ));
        }
        // Only who owns a command hears of it, and it hears of each batch with one.
        let refused = core::mem::take(&mut *book.refused.lock());
        match result {
            Ok(()) if refused.is_empty() => Ok(()),
            Err(DriverError::IllegalCommand { words }) if refused.contains(&words) => Ok(()),
            // A core of a busy machine was away for more errors than are kept.
            Err(DriverError::ManyErrors(_)) => Ok(()),
            other => Err(format!("core {core}: {other:?}, and refused were {refused:x?}")),
        }
    }

    /// What was wrong by the SMMU's book, or whether each core's commands are those that it has `sent`.
    pub(crate) fn check(&self, sent: &[u64]) -> Result<(), String> {
        if let Some(wrong) = self.paper.wrong.lock().take() {
            return Err(wrong);
        }
        let consumer = self.paper.consumer.lock();
        let consumed = consumer.consumed.iter().map(|done| done.numbered).collect::<Vec<_>>();
        match consumed.starts_with(sent) && consumer.consumed.map(|done| done.resumed) == self.answered() {
            true => Ok(()),
            false => Err(format!("{sent:?} commands and {:?} answers sent, {:?}", self.answered(), consumer.consumed)),
        }
    }

    /// How many stalls each core has answered.
    pub(crate) fn answered(&self) -> [u64; MAX_CORES] {
        self.stalled.each_ref().map(|stalled| stalled.answered.load(Relaxed))
    }
}
