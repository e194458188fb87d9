//! A kernel's side of the driver and the fault core, as `docs/porting.md` asks for it, without `kernel` and `platform`.
//!
//! Two cores, each a thread, and two SMMUs. The first core takes the interrupts. The second attaches a device of each SMMU, serves
//! the faults that the interrupt handlers leave to it, and takes the devices away again. The SMMUs are models with memory
//! of their own, one of them not coherent; page tables are the kernel's.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use smmu_iopf::driver::dma::{CacheMaintenance, Coherence, DmaMemory, DmaRegion, NoMemory};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{
    Context, DeviceControl, EventSink, FaultMode, Hooks, Options, OutputQueue, Report, Smmu, StreamConfig, Tag, Wake,
};
use smmu_iopf::iopf::{Decided, Fault, FaultGroup, FaultHandler, Priority, StreamLimits, Verdict, WorkQueues};
use smmu_iopf::model::board::{self, SMMU_BASE};
use smmu_iopf::model::engine::registers::{self as engine, ats_control, control, pri_control, pri_status, status};
use smmu_iopf::model::host::{HostDelay, HostMemory, HostSmmu};
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::profile::Profile;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::event::{Event, EventError};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId};
use smmu_iopf::sync::grace::Domain;
use smmu_iopf::sync::{CoreId, Cpu, Masked};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Registers: 32 and 64 bits wide. On hardware a write comes after a `DSB`, and a read before one.
#[derive(Clone)]
struct Mapped(Arc<HostSmmu>);

impl Registers for Mapped {
    fn read32(&self, register: Register) -> u32 {
        self.0.read(SMMU_BASE + register.offset() as u64, Width::Word) as u32
    }

    fn write32(&self, register: Register, value: u32) {
        self.0.write(SMMU_BASE + register.offset() as u64, Width::Word, value.into());
    }

    fn write64(&self, register: Register, value: u64) {
        self.0.write(SMMU_BASE + register.offset() as u64, Width::Double, value);
    }
}

/// Memory that the SMMU and its devices reach. Where they see it and where the cores do are two addresses. For an SMMU that is not coherent
/// it says how caches are maintained.
struct Dma(Arc<HostMemory>);

impl DmaMemory for Dma {
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory> {
        self.0.allocate(bytes, align)
    }

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        self.0.maintenance()
    }
}

/// The interrupts that software makes pending, on the core that drains. Both are at first: a queue that became non-empty before its
/// interrupt was enabled raises none.
struct Pending([AtomicBool; 2]);

impl Wake for Pending {
    fn wake(&self, _: &Masked, queue: OutputQueue) {
        self.0[queue as usize].store(true, Release);
    }
}

/// The log: records that are nobody's page fault.
struct Log;

impl EventSink for Log {
    // Each is reported too, if there are not too many.
    fn event(&self, _: &Masked, _: &Event) {}

    fn undecodable(&self, _: &Masked, _: [u64; 4], _: EventError) {}

    fn report(&self, _: &Masked, report: &Report<'_>) {
        println!("{report}");
    }
}

/// An SMMU with the kernel's things beside it.
struct Node {
    machine: Arc<HostSmmu>,
    memory: Arc<Dma>,
    smmu: Arc<Smmu<Mapped, HostDelay>>,
    pending: Arc<Pending>,
    recover: AtomicBool,
}

impl Node {
    fn bring_up(cpu: &mut Cpu, domain: &Arc<Domain>, profile: Profile) -> Outcome<Self> {
        let memory = Arc::new(match profile.features().coherent {
            true => HostMemory::new(8 << 20),
            false => HostMemory::behind_caches(8 << 20, 0),
        });
        let machine = HostSmmu::with(memory.clone(), profile, board::DEFAULT_ENGINES);
        let (memory, pending) = (Arc::new(Dma(memory)), Arc::new(Pending([true.into(), true.into()])));
        let hooks = Hooks { wake: pending.clone(), events: Arc::new(Log) };
        let registers = Mapped(machine.clone());
        let delay = machine.delay();
        let smmu = Smmu::probe(cpu, registers, memory.clone(), domain.clone(), delay, hooks, Options::default())?;
        println!("{}", smmu.features());
        Ok(Self { machine, memory, smmu, pending, recover: AtomicBool::new(false) })
    }

    /// What the interrupts of this SMMU do, one batch at a time.
    fn interrupts(&self, masked: &Masked) {
        // The machine goes on between two interrupts.
        (0..8).for_each(|_| _ = self.machine.step());
        let mut due = [0, 1].map(|queue| self.pending.0[queue].swap(false, Relaxed));
        for wire in self.machine.take_raised() {
            match wire {
                Wire::EventQueue => due[OutputQueue::Events as usize] = true,
                Wire::PriQueue => due[OutputQueue::PageRequests as usize] = true,
                Wire::GlobalError => {
                    let recover = self.smmu.handle_global_error(masked).recover;
                    self.recover.fetch_or(recover, Relaxed);
                }
                Wire::CommandSync | Wire::Engine(_) => {}
            }
        }
        for (queue, drain) in [
            (OutputQueue::Events, Smmu::drain_events as fn(&Smmu<_, _>, &Masked) -> _),
            (OutputQueue::PageRequests, Smmu::drain_page_requests),
        ] {
            if due[queue as usize] && drain(&self.smmu, masked).more {
                self.pending.wake(masked, queue);
            }
        }
    }

    /// What is due from time to time, at thread level.
    fn upkeep(&self, cpu: &mut Cpu, now_us: u64) -> Outcome {
        let recover = self.smmu.expire(cpu, now_us).errors.recover;
        if self.recover.swap(false, Relaxed) || recover {
            let lost = self.smmu.recover(cpu)?;
            println!("{lost}");
            for stream in lost.streams {
                let engines = 0..board::DEFAULT_ENGINES;
                let is_its = |&number: &usize| self.machine.read_engine(number, engine::STREAM_ID) == stream.0;
                let Some(number) = engines.into_iter().find(is_its) else { continue };
                self.smmu.reopen_faults(cpu, stream, &Device(&self.machine, number))?;
            }
        }
        Ok(())
    }
}

/// An address space: one table at each of levels 1 to 3 (39 bits, 4 KiB), so its first 2 MiB.
struct Space {
    memory: Arc<Dma>,
    coherence: Coherence,
    tables: [DmaRegion; 3],
    /// The pages that there are. Held while one is brought in: who faults on it meanwhile finds it there.
    pages: Mutex<u64>,
    work: Arc<WorkQueues>,
}

impl Space {
    fn new(node: &Node, work: &Arc<WorkQueues>) -> Outcome<Arc<Self>> {
        let table = || node.memory.allocate(4096, 4096);
        let tables = [table()?, table()?, table()?];
        (0..2).for_each(|level| tables[level].words[0].store(tables[level + 1].phys.0 | 3, Relaxed));
        let (memory, coherence) = (node.memory.clone(), node.smmu.coherence());
        tables.iter().for_each(|table| coherence.clean(table.words));
        Ok(Arc::new(Self { memory, coherence, tables, pages: Mutex::new(0), work: work.clone() }))
    }

    fn map(&self, address: u64) -> Option<()> {
        let entry = self.tables[2].words.get(address as usize >> 12)?;
        let mut pages = self.pages.lock().ok()?;
        if entry.load(Relaxed) == 0 {
            let page = self.memory.allocate(4096, 4096).ok()?;
            self.coherence.clean(page.words);
            // A page: not global, accessed, inner shareable, for unprivileged accesses.
            entry.store(page.phys.0 | 0xf43, Release);
            self.coherence.clean(std::slice::from_ref(entry));
            *pages += 1;
        }
        Some(())
    }
}

impl FaultHandler for Space {
    fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
        Verdict::Defer
    }

    fn defer(&self, masked: &Masked, group: FaultGroup) {
        self.work.push(masked, group);
    }

    fn serve(&self, _: &Cpu, group: FaultGroup) -> Option<Decided> {
        let all = group.faults().try_for_each(|fault| self.map(fault.address));
        // It may come too late: then the time-out or the disabler has given another answer.
        Some(group.decide(all.map_or(PageResponse::Invalid, |()| PageResponse::Success)))
    }
}

/// A device: engine `number` of the machine.
struct Device<'a>(&'a HostSmmu, usize);

impl DeviceControl for Device<'_> {
    fn stop_new_work(&self) {
        self.0.write_engine(self.1, engine::CONTROL, control::STOP);
    }

    fn is_idle(&self) -> bool {
        self.0.read_engine(self.1, engine::STATUS) & status::STATE != status::BUSY
    }

    fn response_needs_pasid(&self) -> bool {
        self.0.read_engine(self.1, engine::CAPABILITY) & engine::capability::RESPONSE_PASID_REQUIRED != 0
    }

    fn enable_ats(&self) {
        self.0.write_engine(self.1, engine::ATS_CONTROL, ats_control::ENABLE);
    }

    fn enable_page_requests(&self, allocation: u32) {
        self.0.write_engine(self.1, engine::PRI_ALLOCATION, allocation);
        self.0.write_engine(self.1, engine::PRI_CONTROL, pri_control::ENABLE);
    }

    fn page_requests_failed(&self) -> bool {
        self.0.read_engine(self.1, engine::PRI_STATUS) & pri_status::RESPONSE_FAILURE != 0
    }

    fn disable_page_requests(&self) {
        self.0.write_engine(self.1, engine::PRI_CONTROL, 0);
    }

    fn page_requests_stopped(&self) -> bool {
        self.0.read_engine(self.1, engine::PRI_STATUS) & pri_status::STOPPED != 0
    }

    fn stop_substream(&self, _: StreamId, substream: SubstreamId) {
        self.0.write_engine(self.1, engine::PRI_STATUS, pri_status::PASID_STOPPED);
        self.0.write_engine(self.1, engine::PASID, substream.get());
        self.0.write_engine(self.1, engine::PRI_CONTROL, pri_control::ENABLE | pri_control::STOP_PASID);
    }

    fn substream_stopped(&self, _: StreamId, _: SubstreamId) -> bool {
        self.0.read_engine(self.1, engine::PRI_STATUS) & pri_status::PASID_STOPPED != 0
    }

    fn reset_page_requests(&self) {
        self.0.write_engine(self.1, engine::PRI_CONTROL, pri_control::RESET);
    }

    fn disable_ats(&self) {
        self.0.write_engine(self.1, engine::ATS_CONTROL, 0);
    }
}

/// Attaches a device, lets it copy 16 pages' worth between pages that are not there, and takes it away. The source begins in the middle of a
/// page, and four accesses are under way: two of them fault on one page.
fn use_device(cpu: &mut Cpu, node: &Node, number: usize, work: &Arc<WorkQueues>, upkeep: &mut Upkeep<'_>) -> Outcome {
    let Node { machine, smmu, .. } = node;
    let stream = StreamId(machine.read_engine(number, engine::STREAM_ID));
    let space = Space::new(node, work)?;
    let page_requests = board::engine_kind(number) == board::EngineKind::PageRequest;
    let faults = if page_requests { FaultMode::PageRequest } else { FaultMode::Stall };
    let asid = smmu.take_asid(cpu)?;
    let context = Context { table: space.tables[0].phys, asid, t0sz: 25, mair: 0xff };
    let config = StreamConfig { faults, translation: context.into() };
    smmu.attach(cpu, stream, &config)?;
    let limits = StreamLimits { groups: 16, requests: 8, time_out_us: 1_000_000, priority: Priority::Normal };
    let device = Device(machine, number);
    smmu.enable_faults(cpu, &[stream], Some(&device), space.clone(), limits)?;
    machine.write_engine64(number, engine::SOURCE, 0x10_0800);
    machine.write_engine64(number, engine::DESTINATION, 0x1_0000);
    machine.write_engine64(number, engine::LENGTH, 16 * 4096);
    machine.write_engine(number, engine::DEPTH, 4);
    machine.write_engine(number, engine::CONTROL, control::START | control::COPY << control::OPERATION);
    let start = Instant::now();
    while !device.is_idle() {
        if start.elapsed().as_secs() > 10 {
            return Err("the device does not come to an end".into());
        }
        upkeep(cpu)?;
    }
    let state = machine.read_engine(number, engine::STATUS) & status::STATE;
    smmu.disable_faults(cpu, stream, &device)?;
    // The tables stay the handler's; their tag is the next device's.
    let _ = smmu.forget(cpu, Tag::AddressSpace(asid)).map_err(|remembered| remembered.error)?;
    smmu.detach(cpu, stream)?;
    let pages = *space.pages.lock().map_err(|_| "a handler has panicked")?;
    if (state, pages) == (status::DONE, 17 + 16) { Ok(()) } else { Err(format!("state {state}, {pages} pages").into()) }
}

/// One round of what a core does with its time.
type Upkeep<'a> = dyn FnMut(&mut Cpu) -> Outcome + 'a;

fn main() -> Outcome {
    // SAFETY: this thread stands for core 1, and no other does.
    let mut cpu = unsafe { Cpu::new(CoreId::new(1).ok_or("core 1")?) };
    let domain = Arc::new(Domain::new());
    domain.online(&mut cpu);
    // No core sleeps here, so none has to be woken.
    let work = Arc::new(WorkQueues::new(Box::new(|_, _| {})));
    let mut node = |profile| Node::bring_up(&mut cpu, &domain, profile);
    let nodes = [node(Profile::Full)?, node(Profile::NonCoherent)?];
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: this thread stands for core 0, and no other does.
            let mut cpu = unsafe { Cpu::new(CoreId::FIRST) };
            domain.online(&mut cpu);
            while !stop.load(Relaxed) {
                // In a vector, where `Masked` is made and not lent, `Domain::quiescent` takes it at the end.
                cpu.masked(|masked| nodes.iter().for_each(|node| node.interrupts(masked)));
                domain.poll(&mut cpu);
                thread::yield_now();
            }
            domain.offline(&mut cpu);
        });
        let mut upkeep = |cpu: &mut Cpu| {
            work.work(cpu);
            domain.poll(cpu);
            nodes.iter().try_for_each(|node| node.upkeep(cpu, start.elapsed().as_micros() as u64))
        };
        let mut devices = [(0, 0), (1, 2), (1, 1), (0, 3)].into_iter();
        let outcome =
            devices.try_for_each(|(node, engine)| use_device(&mut cpu, &nodes[node], engine, &work, &mut upkeep));
        stop.store(true, Relaxed);
        outcome
    });
    outcome?;
    domain.poll(&mut cpu);
    match nodes.iter().map(|node| node.smmu.faults().live()).sum() {
        0 => Ok(()),
        live => Err(format!("{live} fault states left").into()),
    }
}

#[test]
fn devices_of_two_smmus_are_served() {
    main().unwrap();
}
