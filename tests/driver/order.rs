//! The order of what the driver does to memory, SMMU and device, word for word: one trace of all three.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{
    DeviceControl, DriverError, FaultMode, Gathered, Guest, Hooks, Options, OutputQueue, Pages, Smmu, StreamConfig,
    Tag, Translation, Wake,
};
use smmu_iopf::iopf::FaultHandler;
use smmu_iopf::model::board::SMMU_BASE;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, ats_control, control as job, pri_control, pri_status, status};
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::profile::Profile;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{PageResponse, StreamId, SubstreamId, Vmid};
use smmu_iopf::sync::grace::Domain;
use smmu_iopf::sync::{Cpu, Masked};

use super::bench::machine::{Machine, MachineDelay, MachineMemory};
use super::bench::world::ONE_CD;
use super::bench::{LIMIT_US, LIMITS, Pager, Sink, Space, cpu, passed_on, substreams};

const BASE: u64 = 0x1000_0000;
/// The substream that has an address space, with this ASID.
const PASID: u32 = 5;
const ASID: u16 = 7;

/// The registers of an SMMU that note what is written to them: the others by their names, CMDQ_PROD by the commands that it publishes,
/// and before them what has changed in memory of the entries and descriptors watched.
struct Bus {
    machine: Arc<Machine>,
    trace: Mutex<Vec<String>>,
    /// CMDQ_PROD as last written.
    put: AtomicU32,
    /// StreamIDs, and what was last seen of their entries and of PASID's descriptors.
    watched: Mutex<Vec<(u32, [u64; 3])>>,
}

impl Bus {
    fn note(&self, what: impl Into<String>) {
        self.trace.lock().unwrap().push(what.into());
    }

    fn load(&self, address: u64) -> u64 {
        self.machine.memory().load(address).unwrap_or(0)
    }

    /// The entry of a stream: EATS and PPAR (5.2), and V of the descriptor of PASID (5.4).
    fn fields(&self, stream: u32) -> [u64; 3] {
        let (base, config) = (
            self.machine.read(SMMU_BASE + Register::StrtabBase.offset() as u64, Width::Double),
            self.machine.read32(Register::StrtabBaseCfg),
        );
        // STRTAB_BASE_CFG.FMT is 1, two levels, and SPLIT is in bits 10:6 (6.3.25).
        assert_eq!(config >> 16, 1);
        let split = config >> 6 & 31;
        let table = self.load((base & 0x000f_ffff_ffff_ffc0) + 8 * u64::from(stream >> split)) & 0x000f_ffff_ffff_ffc0;
        let entry = table + 64 * u64::from(stream & ((1 << split) - 1));
        let (first, second) = (self.load(entry), self.load(entry + 8));
        let descriptor = self.load((first & 0x000f_ffff_ffff_ffc0) + 64 * u64::from(PASID));
        [second >> 28 & 3, second >> 18 & 1, descriptor >> 31 & 1]
    }

    fn note_changes(&self) {
        for (stream, seen) in self.watched.lock().unwrap().iter_mut() {
            let now = self.fields(*stream);
            if now[..2] != seen[..2] {
                self.note(format!("STE {stream:#x} EATS={} PPAR={}", now[0], now[1]));
            }
            if now[2] != seen[2] {
                self.note(format!("CD {stream:#x} {PASID} V={}", now[2]));
            }
            *seen = now;
        }
    }

    /// The commands up to `end`, by the opcodes and fields of 4.1.1 to 4.7.
    fn note_commands(&self, end: u32) {
        let base = self.machine.read(SMMU_BASE + Register::CmdqBase.offset() as u64, Width::Double);
        let entries = 1 << (base & 31);
        let mut put = self.put.swap(end, Ordering::Relaxed);
        while put != end {
            let address = (base & 0x000f_ffff_ffff_ffe0) + u64::from(put % entries) * 16;
            let (first, second) = (self.load(address), self.load(address + 8));
            let (stream, substream) = (first >> 32, first >> 12 & 0xf_ffff);
            let pasid = if first >> 11 & 1 != 0 { format!(" {substream}") } else { String::new() };
            self.note(match first & 0xff {
                0x03 => format!("CFGI_STE {stream:#x}"),
                0x05 => format!("CFGI_CD {stream:#x} {substream}"),
                0x10 => format!("TLBI_NH_ALL {}", first >> 32 & 0xffff),
                0x11 => format!("TLBI_NH_ASID {}", first >> 48),
                0x28 => format!("TLBI_S12_VMALL {}", first >> 32 & 0xffff),
                // NUM + 1 pages, times 2^SCALE, if there is a TG.
                0x2a if second >> 10 & 3 == 0 => format!("TLBI_S2_IPA {} {:#x}", first >> 32 & 0xffff, second & !0xfff),
                0x2a => {
                    let pages = ((first >> 12 & 31) + 1) << (first >> 20 & 31);
                    format!("TLBI_S2_IPA {} {:#x}*{pages}", first >> 32 & 0xffff, second & !0xfff)
                }
                0x40 if first >> 9 & 1 != 0 => format!("ATC_INV {stream:#x} global"),
                0x40 => format!("ATC_INV {stream:#x}{pasid}"),
                0x41 => format!("PRI_RESP {stream:#x}{pasid} Resp={}", second >> 12 & 3),
                0x45 => format!("STALL_TERM {stream:#x}"),
                0x46 => "SYNC".into(),
                other => format!("{other:#x}"),
            });
            put = (put + 1) % (2 * entries);
        }
    }
}

impl Registers for Bus {
    fn read32(&self, register: Register) -> u32 {
        self.machine.read32(register)
    }

    fn write32(&self, register: Register, value: u32) {
        if register == Register::CmdqProd {
            self.note_changes();
            self.note_commands(value);
        } else {
            self.note(register.name());
        }
        self.machine.write32(register, value);
    }

    fn write64(&self, register: Register, value: u64) {
        self.note(register.name());
        self.machine.write64(register, value);
    }
}

type Driver = Smmu<Arc<Bus>, MachineDelay>;

/// Wakes the drainer by draining.
#[derive(Default)]
struct DrainNow(Mutex<Weak<Driver>>);

impl Wake for DrainNow {
    fn wake(&self, masked: &Masked, _: OutputQueue) {
        let smmu = self.0.lock().unwrap().upgrade().unwrap();
        while smmu.drain_page_requests(masked).more {}
    }
}

struct Bench {
    bus: Arc<Bus>,
    smmu: Arc<Driver>,
    domain: Arc<Domain>,
    space: Arc<Space>,
    cpu: Cpu,
}

impl Bench {
    /// A bench with `engines` attached, which ask for pages.
    fn new(engines: &[usize]) -> Self {
        let memory = Arc::new(MachineMemory::new(4 << 20));
        let machine = Machine::with(memory.clone(), Profile::Full, 8);
        let (trace, put, watched) = (Mutex::default(), AtomicU32::new(0), Mutex::default());
        let bus = Arc::new(Bus { machine: machine.clone(), trace, put, watched });
        let (domain, mut cpu, wake) = (Arc::new(Domain::new()), cpu(0), Arc::new(DrainNow::default()));
        domain.online(&mut cpu);
        let hooks = Hooks { wake: wake.clone(), events: Arc::new(Sink::default()) };
        let options = Options { limit_us: LIMIT_US, ..Options::default() };
        let (delay, memory_of_smmu) = (machine.delay(), memory.clone());
        let smmu = Smmu::probe(&mut cpu, bus.clone(), memory_of_smmu, domain.clone(), delay, hooks, options).unwrap();
        *wake.0.lock().unwrap() = Arc::downgrade(&smmu);
        let space = Space::on(memory, ASID);
        let mut bench = Self { bus, smmu, domain, space, cpu };
        for &engine in engines {
            let (stream, config) = (bench.stream(engine), substreams(FaultMode::PageRequest, 4));
            bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
            let (pasid, context) = (SubstreamId::new(PASID).unwrap(), bench.space.context());
            bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, Some(&context)).unwrap();
            bench.bus.watched.lock().unwrap().push((stream.0, bench.bus.fields(stream.0)));
        }
        bench.take();
        bench
    }

    fn stream(&self, engine: usize) -> StreamId {
        StreamId(self.bus.machine.read_engine(engine, reg::STREAM_ID))
    }

    /// What was noted since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.bus.trace.lock().unwrap())
    }

    fn device(&self, engine: usize) -> Device {
        Device { bus: self.bus.clone(), smmu: self.smmu.clone(), engine }
    }

    /// A handler that leaves every group to be answered later.
    fn deferring(&self) -> Arc<Pager> {
        Pager::deferring(&self.space, BASE..BASE + 4096)
    }

    /// Enables the faults of `engines`, which are one device, the first of them.
    fn enable(&mut self, engines: &[usize], handler: Arc<dyn FaultHandler>) -> Result<(), DriverError> {
        let streams: Vec<_> = engines.iter().map(|&engine| self.stream(engine)).collect();
        let device = self.device(engines[0]);
        self.smmu.enable_faults(&mut self.cpu, &streams, Some(&device), handler, LIMITS)
    }

    fn disable(&mut self, engine: usize) -> Result<(), DriverError> {
        let (stream, device) = (self.stream(engine), self.device(engine));
        self.smmu.disable_faults(&mut self.cpu, stream, &device)
    }

    /// Has an engine ask for a page of PASID, which goes to `handler`.
    fn ask(&mut self, engine: usize, handler: &Pager) {
        let (machine, before) = (&self.bus.machine, handler.groups.load(Ordering::Relaxed));
        machine.write_engine64(engine, reg::DESTINATION, BASE);
        machine.write_engine64(engine, reg::LENGTH, 8);
        machine.write_engine(engine, reg::PASID, PASID);
        let fill = job::START | job::FILL << job::OPERATION | job::USE_PASID;
        machine.write_engine(engine, reg::CONTROL, fill);
        while handler.groups.load(Ordering::Relaxed) == before {
            machine.step();
            self.cpu.masked(|masked| self.smmu.drain_page_requests(masked));
        }
        self.take();
    }
}

/// An engine, whose calls are noted.
struct Device {
    bus: Arc<Bus>,
    smmu: Arc<Driver>,
    engine: usize,
}

impl Device {
    fn read(&self, offset: usize) -> u32 {
        self.bus.machine.read_engine(self.engine, offset)
    }

    fn write(&self, call: impl Into<String>, offset: usize, value: u32) {
        self.bus.note(call);
        self.bus.machine.write_engine(self.engine, offset, value);
    }
}

impl DeviceControl for Device {
    fn stop_new_work(&self) {
        self.write("stop_new_work", reg::CONTROL, job::STOP);
    }

    fn is_idle(&self) -> bool {
        self.read(reg::STATUS) & status::STATE != status::BUSY
    }

    fn response_needs_pasid(&self) -> bool {
        self.read(reg::CAPABILITY) & reg::capability::RESPONSE_PASID_REQUIRED != 0
    }

    fn enable_ats(&self) {
        self.write("enable_ats", reg::ATS_CONTROL, ats_control::ENABLE);
    }

    fn disable_ats(&self) {
        self.write("disable_ats", reg::ATS_CONTROL, 0);
    }

    fn enable_page_requests(&self, allocation: u32) {
        self.bus.machine.write_engine(self.engine, reg::PRI_ALLOCATION, allocation);
        self.write(format!("enable_page_requests {allocation}"), reg::PRI_CONTROL, pri_control::ENABLE);
    }

    fn disable_page_requests(&self) {
        self.write("disable_page_requests", reg::PRI_CONTROL, 0);
    }

    fn page_requests_stopped(&self) -> bool {
        // The interrupt that would come meanwhile.
        cpu(0).masked(|masked| while self.smmu.drain_page_requests(masked).more {});
        self.read(reg::PRI_STATUS) & pri_status::STOPPED != 0
    }

    fn page_requests_failed(&self) -> bool {
        self.read(reg::PRI_STATUS) & pri_status::RESPONSE_FAILURE != 0
    }

    fn stop_substream(&self, _: StreamId, substream: SubstreamId) {
        self.bus.machine.write_engine(self.engine, reg::PASID, substream.get());
        self.write("stop_substream", reg::PRI_CONTROL, pri_control::ENABLE | pri_control::STOP_PASID);
    }

    fn substream_stopped(&self, _: StreamId, _: SubstreamId) -> bool {
        cpu(0).masked(|masked| while self.smmu.drain_page_requests(masked).more {});
        self.read(reg::PRI_STATUS) & pri_status::PASID_STOPPED != 0
    }

    fn reset_page_requests(&self) {
        self.write("reset_page_requests", reg::PRI_CONTROL, pri_control::RESET);
    }
}

/// What enabling engine 2, which wants PASIDs in responses, looks like.
const UP: [&str; 5] = ["STE 0x102 EATS=1 PPAR=1", "CFGI_STE 0x102", "SYNC", "enable_ats", "enable_page_requests 64"];

/// From the end of its page requests on, taking that back.
const DOWN: [&str; 7] =
    ["disable_ats", "ATC_INV 0x102", "ATC_INV 0x102 5", "SYNC", "STE 0x102 EATS=0 PPAR=0", "CFGI_STE 0x102", "SYNC"];

#[test]
fn ats_is_on_in_the_entry_before_it_is_at_the_device_and_page_requests_come_last() {
    let mut bench = Bench::new(&[2, 6]);
    let handler = bench.deferring();
    bench.enable(&[2], handler.clone()).unwrap();
    assert_eq!(bench.take(), UP);
    // Engine 6 wants responses without a PASID (docs/engine.md).
    bench.enable(&[6], handler).unwrap();
    let up = ["STE 0x106 EATS=1 PPAR=0", "CFGI_STE 0x106", "SYNC", "enable_ats", "enable_page_requests 64"];
    assert_eq!(bench.take(), up);
}

#[test]
fn an_interface_that_is_not_at_rest_or_was_told_failure_is_reset_before_anything_else() {
    let mut bench = Bench::new(&[2]);
    let handler = bench.deferring();
    for failed in [false, true] {
        // A group of somebody before, to which the answer comes, or never does.
        bench.enable(&[2], handler.clone()).unwrap();
        bench.ask(2, &handler);
        let machine = &bench.bus.machine;
        if failed {
            let group = handler.deferred.lock().pop().unwrap();
            bench.cpu.masked(|masked| group.respond(masked, PageResponse::Failure)).unwrap();
            machine.run(100);
            assert_ne!(machine.read_engine(2, reg::PRI_STATUS) & pri_status::RESPONSE_FAILURE, 0);
        }
        drop(handler.take());
        bench.disable(2).unwrap();
        if !failed {
            let machine = &bench.bus.machine;
            machine.write_engine(2, reg::ATS_CONTROL, 0);
            machine.write_engine(2, reg::PRI_CONTROL, pri_control::ENABLE);
        }
        bench.take();
        bench.enable(&[2], handler.clone()).unwrap();
        assert_eq!(bench.take(), [&["disable_page_requests", "reset_page_requests"], &UP[..]].concat(), "{failed}");
        bench.disable(2).unwrap();
        bench.take();
    }
}

#[test]
fn a_device_that_was_told_failure_is_reset_and_asks_again_when_it_is_reopened() {
    let mut bench = Bench::new(&[2]);
    let (handler, device) = (bench.deferring(), bench.device(2));
    bench.enable(&[2], handler.clone()).unwrap();
    let stream = bench.stream(2);
    let reopen = |bench: &mut Bench| bench.smmu.reopen_faults(&mut bench.cpu, stream, &device);
    bench.take();
    reopen(&mut bench).unwrap();
    assert_eq!(bench.take(), [""; 0], "it has nothing to mend");
    bench.ask(2, &handler);
    let group = handler.take().remove(0);
    bench.cpu.masked(|masked| group.respond(masked, PageResponse::Failure)).unwrap();
    bench.bus.machine.run(100);
    bench.take();
    reopen(&mut bench).unwrap();
    let again = ["disable_page_requests", "reset_page_requests", "enable_page_requests 64"];
    assert_eq!(bench.take(), [&["disable_page_requests"], &again[..]].concat());
    bench.ask(2, &handler);
    let group = handler.take().remove(0);
    bench.space.map(BASE);
    bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).unwrap();
    bench.bus.machine.run(100);
    assert_eq!(bench.bus.machine.read_engine(2, reg::STATUS) & status::STATE, status::DONE);
}

#[test]
fn page_requests_end_before_ats_and_that_at_the_device_before_it_does_in_the_entry() {
    let mut bench = Bench::new(&[2]);
    let handler = bench.deferring();
    bench.enable(&[2], handler.clone()).unwrap();
    bench.ask(2, &handler);
    bench.disable(2).unwrap();
    assert_eq!(bench.take(), [&["disable_page_requests", "PRI_RESP 0x102 5 Resp=1"], &DOWN[..]].concat());
    drop(handler.take());
}

/// 4.7.2.1: STALL_TERM behind the entry's SYNC, and another SYNC, with which the events of what it terminated are visible (4.7.3).
#[test]
fn a_device_that_stalls_is_aborted_before_its_stalls_end_and_their_events_are_waited_for() {
    let mut bench = Bench::new(&[]);
    let (stream, device, handler) = (bench.stream(0), bench.device(0), bench.deferring());
    let config = StreamConfig { faults: FaultMode::Stall, translation: bench.space.context().into() };
    bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
    bench.smmu.enable_faults(&mut bench.cpu, &[stream], None, handler, LIMITS).unwrap();
    bench.take();
    bench.smmu.disable_faults(&mut bench.cpu, stream, &device).unwrap();
    assert_eq!(bench.take(), ["stop_new_work", "CFGI_STE 0x100", "SYNC", "STALL_TERM 0x100", "SYNC"]);
}

#[test]
fn a_device_with_two_stream_ids_takes_one_sync_a_step() {
    let mut bench = Bench::new(&[2, 3]);
    let handler = bench.deferring();
    bench.enable(&[2, 3], handler).unwrap();
    let entries = ["STE 0x102 EATS=1 PPAR=1", "STE 0x103 EATS=1 PPAR=1", "CFGI_STE 0x102", "CFGI_STE 0x103", "SYNC"];
    assert_eq!(bench.take(), [&entries[..], &UP[3..]].concat());
    bench.disable(3).unwrap();
    let forgotten = ["ATC_INV 0x102", "ATC_INV 0x102 5", "ATC_INV 0x103", "ATC_INV 0x103 5", "SYNC"];
    let entries = ["STE 0x102 EATS=0 PPAR=0", "STE 0x103 EATS=0 PPAR=0", "CFGI_STE 0x102", "CFGI_STE 0x103", "SYNC"];
    assert_eq!(bench.take(), [&["disable_page_requests", "disable_ats"], &forgotten[..], &entries].concat());
}

/// Functions may ignore Global.
#[test]
fn a_device_is_told_of_each_pasid_that_it_is_to_forget() {
    let mut bench = Bench::new(&[2]);
    let handler = bench.deferring();
    bench.enable(&[2], handler).unwrap();
    bench.take();
    let grace = bench.domain.synchronize(&mut bench.cpu, &mut bench.bus.machine.delay(), LIMIT_US).unwrap();
    let _ = bench.smmu.invalidate_all(&mut bench.cpu, &grace).unwrap();
    // TLBI_NSNH_ALL, and TLBI_EL2_ALL with IDR0.HYP (4.4.2).
    assert_eq!(bench.take(), ["0x30", "0x20", "SYNC", "ATC_INV 0x102", "ATC_INV 0x102 5", "SYNC"]);
}

/// Stage 2 first (4.4.3.1), then what stage 1 made of it, and the devices behind both (4.5.1): there is no order but through SYNCs.
#[test]
fn stage_2_is_forgotten_before_what_was_made_of_it() {
    let mut bench = Bench::new(&[]);
    let machine = Space::tagged(bench.bus.machine.memory().clone(), Tag::VirtualMachine(Vmid(9)), 39);
    let translation = Translation::Stage2(machine.stage2());
    let nested = Translation::Nested(Guest { substream_bits: 1, ..ONE_CD }, machine.stage2());
    let grace = bench.domain.synchronize(&mut bench.cpu, &mut bench.bus.machine.delay(), LIMIT_US).unwrap();
    let mut gathered = Gathered::from(Pages { first: BASE, count: 1 });
    gathered.add(Pages { first: BASE + 0x8000, count: 6 });
    let stage2 = ["TLBI_S2_IPA 9 0x10000000", "TLBI_S2_IPA 9 0x10008000*6", "SYNC"];

    let mut attach = |engine, translation| {
        let (stream, config) = (bench.stream(engine), StreamConfig { faults: FaultMode::Ats, translation });
        bench.smmu.attach(&mut bench.cpu, stream, &config).unwrap();
        let device = bench.device(engine);
        bench.smmu.enable_ats(&mut bench.cpu, &[stream], &device).unwrap();
        bench.take();
        let _ = bench.smmu.invalidate_ipas(&mut bench.cpu, &grace, Vmid(9), &gathered).unwrap();
        bench.take()
    };
    // The device's addresses are the intermediate ones, which 6 pages from 8 on are two spans of.
    let alone = ["ATC_INV 0x103", "ATC_INV 0x103", "ATC_INV 0x103"];
    assert_eq!(attach(3, translation), [&stage2[..], &alone, &["SYNC"]].concat());
    let both = ["TLBI_NH_ALL 9", "SYNC", "ATC_INV 0x102", "ATC_INV 0x102 global"];
    assert_eq!(attach(2, nested), [&stage2[..], &both, &alone, &["SYNC"]].concat());

    let _ = bench.smmu.invalidate_vmid(&mut bench.cpu, &grace, Vmid(9)).unwrap();
    let all = ["TLBI_S12_VMALL 9", "SYNC", "ATC_INV 0x102", "ATC_INV 0x102 global", "ATC_INV 0x103", "SYNC"];
    assert_eq!(bench.take(), all);
    let mut invalidate = |vmid, gathered: &Gathered| {
        let _ = bench.smmu.invalidate_ipas(&mut bench.cpu, &grace, Vmid(vmid), gathered).unwrap();
        bench.take()
    };
    // Another virtual machine has no device.
    let page = Pages { first: BASE, count: 1 };
    assert_eq!(invalidate(8, &page.into()), ["TLBI_S2_IPA 8 0x10000000", "SYNC", "TLBI_NH_ALL 8", "SYNC"]);
    assert_eq!(invalidate(9, &Gathered::new()), ["SYNC"]);
}

#[test]
fn what_fails_in_the_middle_is_taken_back_in_reverse_order() {
    let mut bench = Bench::new(&[2]);
    let handler = bench.deferring();
    bench.bus.machine.write_control(control::COMMAND_ILLEGAL, 1);
    assert!(matches!(bench.enable(&[2], handler.clone()), Err(DriverError::IllegalCommand { .. })));
    let begun = ["STE 0x102 EATS=1 PPAR=1", "CFGI_STE 0x102", "SYNC"];
    // The refused command is replaced, and the error acknowledged (7.1).
    let undone: Vec<_> = bench.take().into_iter().filter(|what| what != "GERRORN").collect();
    assert_eq!(
        undone,
        [&begun[..], &["disable_page_requests"], &DOWN[..4], &["CFGI_STE 0x102", "SYNC"], &DOWN[4..]].concat()
    );
    assert_eq!(bench.disable(2), Err(DriverError::FaultsNotEnabled(bench.stream(2))));
    bench.enable(&[2], handler).unwrap();
    assert_eq!(bench.take(), UP);
}

#[test]
fn what_cannot_be_taken_back_counts_as_enabled_and_can_be_disabled() {
    let mut bench = Bench::new(&[2]);
    let handler = bench.deferring();
    bench.bus.machine.write_control(control::COMMANDS_HELD, control::UNTIL_RELEASED);
    assert!(matches!(bench.enable(&[2], handler.clone()), Err(DriverError::CommandTimeout(_))));
    assert!(!bench.take().iter().any(|what| what.starts_with("enable")));
    bench.bus.machine.write_control(control::COMMANDS_HELD, 0);
    assert_eq!(bench.enable(&[2], handler.clone()), Err(DriverError::FaultsEnabled(bench.stream(2))));
    bench.disable(2).unwrap();
    bench.take();
    bench.enable(&[2], handler).unwrap();
    assert_eq!(bench.take(), UP);
}

#[test]
fn a_device_that_asks_for_pages_is_not_enabled_without_control_of_it_or_if_it_never_rests() {
    let mut bench = Bench::new(&[2]);
    let (handler, stream) = (bench.deferring(), bench.stream(2));
    let refused = bench.smmu.enable_faults(&mut bench.cpu, &[stream], None, handler.clone(), LIMITS);
    assert_eq!(
        refused.unwrap_err().to_string(),
        format!("stream {stream:?}: page requests without control of the device is not supported")
    );
    bench.bus.machine.write_engine(2, reg::HOSTILE, reg::hostile::NEVER_STOPPED);
    let busy = DriverError::DeviceBusy { stream, state: "stopped", waited_us: LIMIT_US };
    assert_eq!(bench.enable(&[2], handler.clone()), Err(busy));
    assert_eq!(bench.take(), ["disable_page_requests", "reset_page_requests"]);
    assert_eq!(bench.smmu.faults().live(), 0);
    bench.bus.machine.write_engine(2, reg::HOSTILE, 0);
    bench.enable(&[2], handler).unwrap();
    assert_eq!(bench.take(), UP);
    bench.domain.poll(&mut bench.cpu);
}

#[test]
fn a_substream_is_answered_before_its_marker_comes_and_has_no_descriptor_when_translations_are_forgotten() {
    let mut bench = Bench::new(&[2]);
    let (handler, stream, device) = (bench.deferring(), bench.stream(2), bench.device(2));
    bench.enable(&[2], handler.clone()).unwrap();
    bench.ask(2, &handler);
    let pasid = SubstreamId::new(PASID).unwrap();
    bench.smmu.stop_substream(&mut bench.cpu, stream, pasid, &device).unwrap();
    let answered = ["stop_substream", "PRI_RESP 0x102 5 Resp=1", "PRIQ_CONS"];
    let forgotten = ["CD 0x102 5 V=0", "CFGI_CD 0x102 5", "SYNC", "TLBI_NH_ASID 7", "SYNC", "ATC_INV 0x102 5", "SYNC"];
    assert_eq!(bench.take(), [&answered[..], &forgotten[..]].concat());
    drop(handler.take());
}

/// A device whose interface takes long to come to rest after its reset.
struct Slow(Device, AtomicU32);

impl DeviceControl for Slow {
    passed_on!(0: stop_new_work, is_idle, response_needs_pasid, enable_ats, disable_ats, enable_page_requests, disable_page_requests, page_requests_failed, sends_stop_markers, stop_substream, substream_stopped);

    fn page_requests_stopped(&self) -> bool {
        self.0.page_requests_stopped() && self.1.load(Ordering::Relaxed) != 1
    }

    fn reset_page_requests(&self) {
        self.0.reset_page_requests();
        self.1.store(1, Ordering::Relaxed);
    }
}

#[test]
fn a_reopening_whose_reset_took_too_long_can_be_repeated() {
    let mut bench = Bench::new(&[2]);
    let (handler, device) = (bench.deferring(), Slow(bench.device(2), AtomicU32::new(0)));
    bench.enable(&[2], handler.clone()).unwrap();
    let stream = bench.stream(2);
    bench.ask(2, &handler);
    let group = handler.take().remove(0);
    bench.cpu.masked(|masked| group.respond(masked, PageResponse::Failure)).unwrap();
    bench.bus.machine.run(100);
    bench.take();
    let busy = DriverError::DeviceBusy { stream, state: "stopped", waited_us: LIMIT_US };
    assert_eq!(bench.smmu.reopen_faults(&mut bench.cpu, stream, &device), Err(busy));
    // By now it is at rest.
    device.1.store(2, Ordering::Relaxed);
    bench.take();
    bench.smmu.reopen_faults(&mut bench.cpu, stream, &device).unwrap();
    let trace = bench.take();
    assert!(trace.iter().any(|what| what == "enable_page_requests 64"), "Ok(()), and nothing was done: {trace:?}");
}
