//! Probing: what is accepted, what is refused by name, and which register is named when it does not answer.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use embedded_hal::delay::DelayNs;
use smmu_iopf::driver::dma::{CacheMaintenance, DmaMemory, DmaRegion, NoMemory};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{
    CommandTimeout, Context, Delay, DriverError, FaultMode, Hooks, Options, OutputQueue, Smmu, StreamConfig, Timeout,
    Translation, Unsupported, Wake,
};
use smmu_iopf::model::board;
use smmu_iopf::model::engine::registers::status;
use smmu_iopf::model::profile::Profile;
use smmu_iopf::smmuv3::features::IdRegisters;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{Asid, PhysAddr, StreamId, SubstreamId};
use smmu_iopf::sync::Masked;
use smmu_iopf::sync::grace::Domain;

use super::bench::machine::{self, Machine, MachineMemory};
use super::bench::{Bench, LIMIT_US, Need, Pager, Sink, Space, cpu, on_each, plain, substreams};

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
    // A linear table of 20 bits would be 64 MiB.
    Options { limit_us: 100, stream_bits: 9, ..Options::default() }
}

/// The model with one register stuck at a value.
struct Stuck {
    machine: Arc<Machine>,
    register: Register,
    value: u32,
}

impl Registers for Stuck {
    fn read32(&self, register: Register) -> u32 {
        if register == self.register { self.value } else { self.machine.read32(register) }
    }

    fn write32(&self, register: Register, value: u32) {
        self.machine.write32(register, value);
    }

    fn write64(&self, register: Register, value: u64) {
        self.machine.write64(register, value);
    }
}

fn probe_stuck(profile: Profile, register: Register, value: u32) -> Result<Arc<Smmu<Stuck, impl Delay>>, DriverError> {
    let memory = machine::memory(1 << 20, profile.features().coherent);
    let machine = Machine::with(memory.clone(), profile, board::DEFAULT_ENGINES);
    let delay = machine.delay();
    let registers = Stuck { machine, register, value };
    Smmu::probe(&mut cpu(0), registers, memory, Arc::new(Domain::new()), delay, hooks(), options())
}

#[test]
fn a_polled_register_that_is_frozen_ends_the_wait_and_is_named() {
    // GBPA.Update never clears; CR0ACK and IRQ_CTRLACK keep what they had, at off and at on; nothing is consumed.
    on_each(&[], |profile| {
        for (register, actual, expected) in [
            (Register::Gbpa, 1 << 31, 0),
            (Register::Cr0Ack, 1, 0),
            (Register::Cr0Ack, 0, 8),
            (Register::IrqCtrlAck, 7, 0),
            (Register::IrqCtrlAck, 0, if profile.features().pri { 7 } else { 5 }),
        ] {
            let timeout = Timeout { register, expected, actual, waited_us: 100 };
            let probed = probe_stuck(profile.modelled().unwrap(), register, actual).map(drop);
            assert_eq!(probed, Err(DriverError::Timeout(timeout)), "{}", register.name());
        }
        let probed = probe_stuck(profile.modelled().unwrap(), Register::CmdqCons, 0).map(drop);
        if !Need::Queues.is_met(profile) {
            // A queue of two entries stands where it began after four commands.
        } else if Need::SyncMessages.is_met(profile) {
            assert_eq!(probed, Ok(()), "a message says more");
        } else {
            // CFGI_ALL, TLBI_NSNH_ALL, TLBI_EL2_ALL where there is an EL2, and SYNC.
            let expected = if profile.features().hyp { 4 } else { 3 };
            let timeout = Timeout { register: Register::CmdqCons, expected, actual: 0, waited_us: 100 };
            let stuck = CommandTimeout { timeout, command: Some([0x04, 31]), errors: 0 };
            assert_eq!(probed, Err(DriverError::CommandTimeout(stuck)));
        }
    });
}

/// 5.4: where IDR0.ASID16 is 0, a descriptor whose ASID has more than 8 bits is illegal.
#[test]
fn an_asid_that_is_too_long_for_the_smmu_is_refused() {
    let idr0 = Machine::new(machine::memory(1 << 20, true)).read32(Register::Idr0);
    let [short, long] = [idr0 & !(1 << 12), idr0].map(|idr0| probe_stuck(Profile::Full, Register::Idr0, idr0).unwrap());
    let stream = StreamId(0);
    let refused = Err(DriverError::NotSupported { stream, what: "an address space with that ASID" });
    let pasid = SubstreamId::new(1).unwrap();
    for (smmu, asid, expected) in [(&short, 0xff, Ok(())), (&short, 0x100, refused), (&long, 0xffff, Ok(()))] {
        let context = Context { table: PhysAddr(0x4000_0000), asid: Asid(asid), t0sz: 16, mair: 0xff };
        let config = StreamConfig {
            translation: Translation::Stage1 { context: Some(context), substream_bits: 1 },
            ..plain(FaultMode::Terminate)
        };
        assert_eq!(smmu.attach(&mut cpu(0), stream, &config), expected, "{asid:#x}");
        let _ = smmu.detach(&mut cpu(0), stream);
        smmu.attach(&mut cpu(0), stream, &substreams(FaultMode::Terminate, 1)).unwrap();
        assert_eq!(smmu.attach_substream(&mut cpu(0), stream, pasid, Some(&context)), expected, "{asid:#x}");
        smmu.detach(&mut cpu(0), stream).unwrap();
    }
}

/// 5.4: each would be an illegal descriptor, or one that leads elsewhere. The SMMU has 44 address bits.
#[test]
fn an_address_space_that_the_smmu_cannot_have_is_refused_by_name() {
    let idr5 = Machine::new(machine::memory(1 << 20, true)).read32(Register::Idr5);
    let smmu = probe_stuck(Profile::Full, Register::Idr5, idr5 & !7 | 4).unwrap();
    let (stream, pasid) = (StreamId(0), SubstreamId::new(1).unwrap());
    let good = Context { table: PhysAddr(0xfff_ffff_f000), asid: Asid(1), t0sz: 16, mair: 0xff };
    let (bits, beyond) = ("an address space with so many address bits (CD.T0SZ)", "tables at that address (IDR5.OAS)");
    for (context, what) in [
        (Context { t0sz: 15, ..good }, Some(bits)),
        (Context { t0sz: 39, ..good }, None),
        (Context { t0sz: 40, ..good }, Some(bits)),
        (Context { table: PhysAddr(1 << 44), ..good }, Some(beyond)),
        (Context { table: PhysAddr(0x4000_0800), ..good }, Some("tables that are not aligned")),
        (good, None),
    ] {
        let expected = || what.map_or(Ok(()), |what| Err(DriverError::NotSupported { stream, what }));
        let config = StreamConfig { translation: context.into(), ..plain(FaultMode::Terminate) };
        assert_eq!(smmu.attach(&mut cpu(0), stream, &config), expected(), "{context:?}");
        let _ = smmu.detach(&mut cpu(0), stream);
        smmu.attach(&mut cpu(0), stream, &substreams(FaultMode::Terminate, 1)).unwrap();
        assert_eq!(smmu.attach_substream(&mut cpu(0), stream, pasid, Some(&context)), expected(), "{context:?}");
        smmu.detach(&mut cpu(0), stream).unwrap();
    }
}

/// 6.3.24, 6.3.26: an SMMU need not store such bits, and would use other memory.
#[test]
fn memory_beyond_what_the_smmu_addresses_is_refused_and_the_call_may_be_repeated() {
    let ids = Profile::Full.id_registers();
    let ids = IdRegisters { idr5: ids.idr5 & !7, ..ids };
    let machine = || Machine::with_ids(machine::memory(MEMORY, true), ids, board::DEFAULT_ENGINES).unwrap();
    let check = |refused: &DriverError| {
        let DriverError::BeyondAddresses { address, bits: 32, .. } = *refused else { panic!("{refused}") };
        assert_eq!(address, PhysAddr(0x1_0000_0000));
    };
    let pasid = SubstreamId::new(64).unwrap();
    // The stream table, the queues and the lines for messages; then a table of either level for stream and substreams.
    for bad in 0..10 {
        let options = Options { limit_us: LIMIT_US, ..options() };
        let mut bench = match Bench::on(machine(), options, bad) {
            Ok(bench) => bench,
            Err(refused) => {
                assert!(bad < 5);
                check(&refused);
                continue;
            }
        };
        assert!(bad >= 5, "allocation {bad} is not one of the probe");
        let space = Space::new(&bench, 1);
        space.map(BASE);
        let config = StreamConfig {
            translation: Translation::Stage1 { context: Some(space.context()), substream_bits: 8 },
            ..plain(FaultMode::Terminate)
        };
        let stream = bench.stream(0);
        let mut refusals = 0;
        let mut twice = |done: &mut dyn FnMut() -> Result<(), DriverError>| {
            if let Err(refused) = done() {
                check(&refused);
                refusals += 1;
                done().unwrap();
            }
        };
        twice(&mut || bench.smmu.attach(&mut bench.cpu, stream, &config));
        twice(&mut || bench.smmu.attach_substream(&mut bench.cpu, stream, pasid, Some(&space.context())));
        assert_eq!(refusals, u32::from(bad < 9), "allocation {bad}");
        for pasid in [None, Some(64)] {
            bench.fill(0, BASE, 8, 1, pasid);
            bench.finish([0]);
            assert_eq!(bench.state(0), status::DONE);
        }
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
    maintenance: Option<&'static dyn CacheMaintenance>,
}

/// Maintenance of caches that are not there.
struct NoCaches;

impl CacheMaintenance for NoCaches {
    fn clean(&self, _: &[AtomicU64]) {}

    fn invalidate(&self, _: &[AtomicU64]) {}
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

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        self.maintenance
    }
}

fn probe_paper(ids: [u32; 4], memory: DmaRegion) -> Result<(), DriverError> {
    probe_paper_with(ids, memory, Some(&NoCaches))
}

fn probe_paper_with(
    ids: [u32; 4],
    memory: DmaRegion,
    maintenance: Option<&'static dyn CacheMaintenance>,
) -> Result<(), DriverError> {
    let memory = Arc::new(Reused { memory, used: Mutex::new(0), maintenance });
    Smmu::probe(&mut cpu(0), Paper::new(ids), memory, Arc::new(Domain::new()), NoDelay, hooks(), options()).map(drop)
}

/// Enough for an event queue of 2^16 entries, the most that STALL_MAX has room for (6.3.6).
const MEMORY: usize = 8 << 20;

fn memory(bytes: usize) -> DmaRegion {
    MachineMemory::new(bytes).allocate(bytes, 8).unwrap()
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
        ([idr0 & !(3 << 2) | 1 << 2, idr1, idr3, idr5], Unsupported::NoAarch64Tables),
        ([idr0 & !(1 << 4), idr1, idr3, idr5], Unsupported::NotCoherent),
        ([idr0 | 3 << 21, idr1, idr3, idr5], Unsupported::BigEndian),
        ([idr0, idr1, idr3, idr5 & !(1 << 4)], Unsupported::No4KGranule),
        ([idr0, idr1 | 1 << 29, idr3, idr5], Unsupported::Preset),
        ([idr0, idr1 | 1 << 30, idr3, idr5], Unsupported::Preset),
    ] {
        assert_eq!(probe_paper_with(ids, memory(1 << 20), None), Err(DriverError::Unsupported(reason)));
    }
}

#[test]
fn an_smmu_that_is_not_coherent_is_accepted_with_cache_maintenance() {
    let [idr0, idr1, idr3, idr5] = QEMU_10;
    assert_eq!(probe_paper([idr0 & !(1 << 4), idr1, idr3, idr5], memory(1 << 20)), Ok(()));
}

#[test]
fn queues_of_one_entry_and_one_stream_are_enough() {
    probe_paper([QEMU_10[0], 0, QEMU_10[2], QEMU_10[3]], memory(4096)).unwrap();
}

/// The fields for which these ID registers must be refused (6.3.1, 6.3.2, 6.3.6): reserved values, and what the driver needs.
fn faulty(ids: IdRegisters) -> Vec<&'static str> {
    let IdRegisters { idr0, idr1, idr5, .. } = ids;
    let field = |word: u32, low: u32, bits: u32| word >> low & ((1 << bits) - 1);
    let has_pri = field(idr0, 10, 1) & field(idr0, 16, 1) == 1;
    let fields = [
        ("IDR0.S1P", field(idr0, 0, 2) == 0),
        ("IDR0.TTF", field(idr0, 2, 2) < 2),
        ("IDR0.TTENDIAN", matches!(field(idr0, 21, 2), 1 | 3)),
        ("IDR0.STALL_MODEL", field(idr0, 24, 2) == 3),
        ("IDR0.ST_LEVEL", field(idr0, 27, 2) > 1),
        ("IDR1.SIDSIZE", field(idr1, 0, 6) > 32),
        ("IDR1.SSIDSIZE", field(idr1, 6, 5) > 20),
        ("IDR1.PRIQS", has_pri && field(idr1, 11, 5) > 19),
        ("IDR1.EVENTQS", field(idr1, 16, 5) > 19),
        ("IDR1.CMDQS", field(idr1, 21, 5) > 19),
        ("IDR1.QUEUES_PRESET", field(idr1, 29, 1) == 1),
        ("IDR1.TABLES_PRESET", field(idr1, 30, 1) == 1),
        ("IDR5.GRAN4K", field(idr5, 4, 1) == 0),
        ("IDR5.VAX", field(idr5, 10, 2) == 3),
    ];
    fields.into_iter().filter(|(_, is_faulty)| *is_faulty).map(|(name, _)| name).collect()
}

/// Whether `probed` is right: success where no field is faulty, else an error that names one that is.
fn assert_refused_by_name(ids: IdRegisters, probed: &Result<(), DriverError>) {
    let faulty = faulty(ids);
    match probed {
        Ok(()) => assert_eq!(faulty, [""; 0], "{ids:x?} accepted"),
        Err(error) => {
            let text = error.to_string();
            assert!(faulty.iter().any(|name| text.contains(name)), "{ids:x?}: {text}, and not {faulty:?}");
        }
    }
}

/// The sets of ID registers that are one bit away from a profile's.
fn neighbours() -> impl Iterator<Item = IdRegisters> {
    let each = |profile: &Profile| {
        let ids = profile.id_registers();
        (0..32).map(|bit| 1 << bit).flat_map(move |bit| {
            [
                IdRegisters { idr0: ids.idr0 ^ bit, ..ids },
                IdRegisters { idr1: ids.idr1 ^ bit, ..ids },
                IdRegisters { idr3: ids.idr3 ^ bit, ..ids },
                IdRegisters { idr5: ids.idr5 ^ bit, ..ids },
            ]
        })
    };
    Profile::ALL.iter().flat_map(each)
}

const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 2 * 4096;

/// Attaches engine `engine` to `space` in `mode`, has it fill two pages, which come with its faults, and takes everything away again.
fn serve(bench: &mut Bench, engine: usize, mode: FaultMode, space: Arc<Space>) {
    bench.attach(engine, mode, &space).unwrap();
    if mode == FaultMode::Terminate {
        (BASE..BASE + BYTES).step_by(4096).for_each(|address| space.map(address));
    } else {
        bench.enable(engine, Pager::new(&space, BASE..BASE + BYTES)).unwrap();
    }
    bench.fill(engine, BASE, BYTES, 7, None);
    bench.finish([engine]);
    assert_eq!((bench.state(engine), space.word(BASE + BYTES - 8)), (status::DONE, 7), "{mode:?}");
    if mode != FaultMode::Terminate {
        bench.disable(engine).unwrap();
    }
    let stream = bench.stream(engine);
    bench.smmu.detach(&mut bench.cpu, stream).unwrap();
    assert_eq!(bench.live(), 0);
}

/// Brings up a model with `ids` and serves each kind of engine that its SMMU can serve; the others are refused by name.
fn serve_all(ids: IdRegisters) {
    println!("{ids:x?}");
    let machine =
        Machine::with_ids(machine::memory(MEMORY, ids.idr0 >> 4 & 1 == 1), ids, board::DEFAULT_ENGINES).unwrap();
    let mut bench = Bench::on(machine, Options { limit_us: LIMIT_US, ..options() }, u64::MAX).unwrap();
    // 6.3.1: an SMMU that forces stalls has no PCIe devices.
    let (stalls, forced) = (ids.idr0 >> 24 & 3 != 1, ids.idr0 >> 24 & 3 == 2);
    let has_both = ids.idr0 & (1 << 10 | 1 << 16) == 1 << 10 | 1 << 16;
    let asks = has_both && !forced;
    // With one bit of StreamID there is no engine 2.
    let modes = [(0, FaultMode::Terminate, true), (0, FaultMode::Stall, stalls), (2, FaultMode::PageRequest, asks)];
    for (engine, mode, has) in modes.into_iter().filter(|(engine, ..)| *engine < 1 << (ids.idr1 & 0x3f).min(6)) {
        let stream = bench.stream(engine);
        if has {
            // Each its own: nothing is invalidated in between.
            if ids.idr0 >> 1 & 1 == 1 {
                let space = Space::new(&bench, mode as u16 + 1);
                serve(&mut bench, engine, mode, space);
            }
            // OAS: 36 bits at least, for which a walk begins at level 1.
            if ids.idr0 & 1 == 1 && ids.idr5 & 7 > 0 {
                let machine = Space::machine(&bench, mode as u16 + 1);
                serve(&mut bench, engine, mode, machine);
            }
        } else {
            let attached = bench.smmu.attach(&mut bench.cpu, stream, &plain(mode));
            assert!(matches!(attached, Err(DriverError::NotSupported { .. })), "{mode:?}: {attached:?}");
            if forced && has_both {
                for mode in [mode, FaultMode::Ats] {
                    let what = "ATS where every fault stalls (IDR0.STALL_MODEL)";
                    let attached = bench.smmu.attach(&mut bench.cpu, stream, &plain(mode));
                    assert_eq!(attached, Err(DriverError::NotSupported { stream, what }), "{mode:?}");
                }
            }
        }
    }
}

#[test]
fn an_smmu_one_bit_away_from_a_profile_is_served_with_what_it_has_or_refused_by_name() {
    let memory = memory(MEMORY);
    let (mut served, mut refused) = (0, 0);
    for ids in neighbours() {
        let probed = probe_paper([ids.idr0, ids.idr1, ids.idr3, ids.idr5], memory);
        assert_refused_by_name(ids, &probed);
        if probed.is_err() {
            refused += 1;
            continue;
        }
        serve_all(ids);
        served += 1;
    }
    assert_eq!(served + refused, 11 * 4 * 32);
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_hundred_thousand_random_id_register_sets_are_accepted_or_refused_by_name() {
    let memory = memory(MEMORY);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    };
    let mut accepted = 0;
    for round in 0..100_000 {
        let mut ids = [random(), random(), random(), random()];
        if round % 2 == 0 {
            // One to three bits away from a good one.
            ids = QEMU_10;
            for _ in 0..1 + random() % 3 {
                ids[random() as usize % 4] ^= 1 << (random() % 32);
            }
        }
        let probed = probe_paper(ids, memory);
        accepted += usize::from(probed.is_ok());
        let [idr0, idr1, idr3, idr5] = ids;
        let ids = IdRegisters { idr0, idr1, idr3, idr5, iidr: 0, aidr: 0 };
        assert_refused_by_name(ids, &probed);
        // Paper agrees to everything: the first ones have to work too.
        if round < 1000 && probed.is_ok() {
            serve_all(ids);
        }
    }
    assert!(accepted > 10_000, "{accepted}");
}
