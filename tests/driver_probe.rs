//! Probing: what is accepted, what is refused by name, and which register is named when it does not answer.

mod driver_bench;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use driver_bench::{Need, Sink, cpu, on_each, plain};
use embedded_hal::delay::DelayNs;
use smmu_iopf::driver::dma::{DmaMemory, DmaRegion, NoMemory};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{
    Context, Delay, DriverError, FaultMode, Hooks, Options, OutputQueue, Smmu, StreamConfig, Timeout, Unsupported, Wake,
};
use smmu_iopf::model::board;
use smmu_iopf::model::host::{HostMemory, HostSmmu};
use smmu_iopf::model::profile::Profile;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{Asid, PhysAddr, StreamId, SubstreamId};
use smmu_iopf::sync::Masked;
use smmu_iopf::sync::grace::Domain;

#[derive(Clone)]
struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}

struct Asleep;

impl Wake for Asleep {
    fn wake(&self, _: &Masked, _: OutputQueue) {}
}

fn hooks() -> Hooks {
    Hooks { wake: Arc::new(Asleep), events: Arc::new(Sink::default()) }
}

fn options() -> Options {
    Options { limit_us: 100, ..Options::default() }
}

/// The model with one register stuck at a value.
struct Stuck {
    host: Arc<HostSmmu>,
    register: Register,
    value: u32,
}

impl Registers for Stuck {
    fn read32(&self, register: Register) -> u32 {
        if register == self.register { self.value } else { self.host.read32(register) }
    }

    fn write32(&self, register: Register, value: u32) {
        self.host.write32(register, value);
    }

    fn write64(&self, register: Register, value: u64) {
        self.host.write64(register, value);
    }
}

fn probe_stuck(profile: Profile, register: Register, value: u32) -> Result<Arc<Smmu<Stuck, impl Delay>>, DriverError> {
    let memory = Arc::new(HostMemory::new(1 << 20));
    let host = HostSmmu::with(memory.clone(), profile, board::DEFAULT_ENGINES);
    let delay = host.delay();
    let registers = Stuck { host, register, value };
    Smmu::probe(&mut cpu(0), registers, memory, Arc::new(Domain::new()), delay, hooks(), options())
}

#[test]
fn a_polled_register_that_is_frozen_ends_the_wait_and_is_named() {
    // GBPA.Update never clears; CR0ACK and IRQ_CTRLACK keep what they had, at off and at on; nothing is consumed.
    on_each(&[Need::Queues], |profile| {
        // CFGI_ALL, TLBI_NSNH_ALL, TLBI_EL2_ALL where there is EL2, and SYNC.
        let commands = if profile.features().hyp { 4 } else { 3 };
        for (register, actual, expected) in [
            (Register::Gbpa, 1 << 31, 0),
            (Register::Cr0Ack, 1, 0),
            (Register::Cr0Ack, 0, 8),
            (Register::IrqCtrlAck, 7, 0),
            (Register::IrqCtrlAck, 0, if profile.features().pri { 7 } else { 5 }),
            (Register::CmdqCons, 0, commands),
        ] {
            let timeout = Timeout { register, expected, actual, waited_us: 100 };
            let probed = probe_stuck(profile, register, actual).map(drop);
            assert_eq!(probed, Err(DriverError::Timeout(timeout)), "{}", register.name());
        }
    });
}

/// 5.4: where IDR0.ASID16 is 0, a descriptor whose ASID has more than 8 bits is illegal.
#[test]
fn an_asid_that_is_too_long_for_the_smmu_is_refused() {
    let idr0 = HostSmmu::new(Arc::new(HostMemory::new(1 << 20))).read32(Register::Idr0);
    let [short, long] = [idr0 & !(1 << 12), idr0].map(|idr0| probe_stuck(Profile::Full, Register::Idr0, idr0).unwrap());
    let stream = StreamId(0);
    let refused = Err(DriverError::NotSupported { stream, what: "an address space with that ASID" });
    let pasid = SubstreamId::new(1).unwrap();
    for (smmu, asid, expected) in [(&short, 0xff, Ok(())), (&short, 0x100, refused), (&long, 0xffff, Ok(()))] {
        let context = Context { table: PhysAddr(0x4000_0000), asid: Asid(asid), t0sz: 16, mair: 0xff };
        let config = StreamConfig { context: Some(context), substream_bits: 1, ..plain(FaultMode::Terminate) };
        assert_eq!(smmu.attach(&mut cpu(0), stream, &config), expected, "{asid:#x}");
        let _ = smmu.detach(&mut cpu(0), stream);
        smmu.attach(&mut cpu(0), stream, &StreamConfig { context: None, ..config }).unwrap();
        assert_eq!(smmu.attach_substream(&mut cpu(0), stream, pasid, Some(&context)), expected, "{asid:#x}");
        smmu.detach(&mut cpu(0), stream).unwrap();
    }
}

/// An SMMU that acknowledges everything and translates nothing: what probing sees of any ID registers.
struct Paper {
    values: Mutex<HashMap<Register, u32>>,
}

impl Paper {
    fn new(ids: [u32; 4]) -> Self {
        let registers = [Register::Idr0, Register::Idr1, Register::Idr3, Register::Idr5];
        Self { values: Mutex::new(registers.into_iter().zip(ids).collect()) }
    }
}

impl Registers for Paper {
    fn read32(&self, register: Register) -> u32 {
        self.values.lock().unwrap().get(&register).copied().unwrap_or(0)
    }

    fn write32(&self, register: Register, value: u32) {
        let mut values = self.values.lock().unwrap();
        let (answers, answer) = match register {
            Register::Gbpa => (Register::Gbpa, value & !(1 << 31)),
            Register::Cr0 => (Register::Cr0Ack, value),
            Register::IrqCtrl => (Register::IrqCtrlAck, value),
            Register::CmdqProd => (Register::CmdqCons, value),
            other => (other, value),
        };
        values.insert(register, value);
        values.insert(answers, answer);
    }

    fn write64(&self, register: Register, _: u64) {
        assert!(register.is_64bit(), "{} is not 64 bits wide", register.name());
    }
}

/// One piece of memory, used again by every probe.
struct Reused {
    memory: DmaRegion,
    used: Mutex<usize>,
}

impl DmaMemory for Reused {
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory> {
        assert!(align.is_power_of_two() && bytes.is_multiple_of(8));
        let mut used = self.used.lock().unwrap();
        let start = used.next_multiple_of(align);
        let words = self.memory.words.get(start / 8..(start + bytes) / 8).ok_or(NoMemory { bytes, align })?;
        *used = start + bytes;
        Ok(DmaRegion { phys: PhysAddr(self.memory.phys.0 + start as u64), words })
    }
}

fn probe_paper(ids: [u32; 4], memory: DmaRegion) -> Result<(), DriverError> {
    let memory = Arc::new(Reused { memory, used: Mutex::new(0) });
    Smmu::probe(&mut cpu(0), Paper::new(ids), memory, Arc::new(Domain::new()), NoDelay, hooks(), options()).map(drop)
}

fn memory(bytes: usize) -> DmaRegion {
    HostMemory::new(bytes).allocate(bytes, 8).unwrap()
}

/// IDR0, IDR1, IDR3 and IDR5 of QEMU 7.2 and 10.0.
const QEMU_7: [u32; 4] = [0x0d40_101a, 0x0273_0010, 0x1404, 0x74];
const QEMU_10: [u32; 4] = [0x0d44_101b, 0x0273_0010, 0x1414, 0x74];

#[test]
fn the_smmus_of_qemu_are_accepted() {
    for ids in [QEMU_7, QEMU_10] {
        probe_paper(ids, memory(1 << 20)).unwrap();
    }
}

#[test]
fn an_smmu_that_lacks_what_the_driver_needs_is_refused_by_name() {
    let [idr0, idr1, idr3, idr5] = QEMU_10;
    for (ids, reason) in [
        ([idr0 & !(1 << 1), idr1, idr3, idr5], Unsupported::NoStage1),
        ([idr0 & !(3 << 2) | 1 << 2, idr1, idr3, idr5], Unsupported::NoAarch64Tables),
        ([idr0 & !(1 << 4), idr1, idr3, idr5], Unsupported::NotCoherent),
        ([idr0 | 3 << 21, idr1, idr3, idr5], Unsupported::BigEndian),
        ([idr0, idr1, idr3, idr5 & !(1 << 4)], Unsupported::No4KGranule),
        ([idr0, idr1 | 1 << 29, idr3, idr5], Unsupported::Preset),
        ([idr0, idr1 | 1 << 30, idr3, idr5], Unsupported::Preset),
    ] {
        assert_eq!(probe_paper(ids, memory(1 << 20)), Err(DriverError::Unsupported(reason)));
    }
}

#[test]
fn queues_of_one_entry_and_one_stream_are_enough() {
    probe_paper([QEMU_10[0], 0, QEMU_10[2], QEMU_10[3]], memory(4096)).unwrap();
}

#[test]
fn ten_thousand_random_id_register_sets_are_accepted_or_refused_and_nothing_else() {
    let memory = memory(1 << 20);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    };
    let mut accepted = 0;
    for round in 0..10_000 {
        let mut ids = [random(), random(), random(), random()];
        if round % 2 == 0 {
            // One to three bits away from a good one.
            ids = QEMU_10;
            for _ in 0..1 + random() % 3 {
                ids[random() as usize % 4] ^= 1 << (random() % 32);
            }
        }
        match probe_paper(ids, memory) {
            Ok(()) => accepted += 1,
            Err(DriverError::Features(_) | DriverError::Unsupported(_) | DriverError::NoMemory(_)) => {}
            Err(error) => panic!("{ids:#x?}: {error}"),
        }
    }
    assert!(accepted > 1_000, "{accepted}");
}
