//! The machine under test on the target, set back for each test: the model at EL2, or QEMU's own SMMU where there is no model. As
//! `model::host` is on the host, by other names.

#[path = "edu.rs"]
mod engine;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use embedded_hal::delay::DelayNs;
use smmu_iopf::arch::cache::DataCaches;
use smmu_iopf::arch::mmio::Mmio;
use smmu_iopf::driver::dma::{CacheMaintenance, DmaMemory, DmaRegion, NoMemory};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::model::board;
use smmu_iopf::model::control;
use smmu_iopf::model::machine::Width;
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::platform::board::Wires;
use smmu_iopf::platform::pci::RootBus;
use smmu_iopf::smmuv3::features::{Features, IdRegisters};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{PhysAddr, StreamId};
use spin::{Mutex, Once};

use self::engine::Engine;
use super::profile::{ENGINES, Profile, RAN};
use crate::edu;
use crate::harness::{Failure, Outcome};

/// What a test has for device memory, and the largest alignment in it.
const MEMORY: usize = 4 << 20;
const ALIGN: usize = 1 << 20;

/// The longest cache line that the architecture has, in bytes.
const LINE: usize = 2048;

/// GICD_ISPENDR and GICD_ICPENDR, a bit for each interrupt, and GICD_ICFGR, two of which the upper one says that it is edge-triggered.
const PENDING: usize = 0x200;
const CLEAR_PENDING: usize = 0x280;
const CONFIGURATION: usize = 0xc00;
/// The SMMU's wires, whose interrupts follow on each other.
const WIRES: [Wire; 4] = [Wire::EventQueue, Wire::PriQueue, Wire::CommandSync, Wire::GlobalError];

/// What there is of the machine on the board.
struct Parts {
    distributor: Mmio,
    /// The INTID of the first wire.
    first_wire: usize,
    smmu: Mmio,
    behind: Behind,
    memory: DmaRegion,
    used: AtomicUsize,
}

/// What is behind the SMMU.
enum Behind {
    /// The model has a control page, and engines of its own.
    Model { control: Mmio, engines: [Mmio; ENGINES] },
    /// QEMU's has `edu` devices.
    Qemu { profile: Profile, engines: Mutex<Vec<Engine>> },
}

static PARTS: Once<Parts> = Once::new();

/// Runs `test`, which panics if something is wrong.
pub(crate) fn run(kernel: &'static Kernel, test: fn()) -> Outcome {
    PARTS.try_call_once(|| Parts::new(kernel))?;
    RAN.store(false, Ordering::Relaxed);
    test();
    if RAN.load(Ordering::Relaxed) { Ok(()) } else { Err(Failure::NotHere("SMMU with what it needs")) }
}

/// The same, if the machine works only when it is let.
pub(crate) fn run_stepped(kernel: &'static Kernel, test: fn()) -> Outcome {
    if crate::model::model(kernel).is_ok() { Err(Failure::Elsewhere("--smmu qemu")) } else { run(kernel, test) }
}

impl Parts {
    /// The model if there is one, else QEMU's SMMU.
    fn new(kernel: &Kernel) -> Result<Self, Failure> {
        let registers = |window| kernel.board.registers(window).ok_or("registers that are not mapped");
        let distributor = registers(&kernel.board.gic.distributor)?;
        let (smmu, first_wire, behind) = match crate::model::model(kernel) {
            Ok(model) => {
                let control = kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
                let engines = kernel.board.engines.iter().filter(|engine| board::WINDOW.contains(&engine.window.start));
                let engines: Vec<_> =
                    engines.take(ENGINES).map(|engine| registers(&engine.window)).collect::<Result<_, _>>()?;
                let engines = engines.try_into().map_err(|_| Failure::NotHere("DMA engine for each job"))?;
                (model, board::SMMU_SPI as usize + 32, Behind::Model { control: registers(control)?, engines })
            }
            Err(_) => {
                let smmu = kernel.board.smmus.first().ok_or(Failure::NotHere("SMMU"))?;
                let Some(Wires::Separate { event_queue, .. }) = smmu.wires else {
                    return Err("QEMU's SMMU without a wire for each interrupt".into());
                };
                let first_wire = event_queue.intid as usize;
                // Its wires are pulsed.
                let shift = first_wire % 16 * 2;
                let configuration = CONFIGURATION + first_wire / 16 * 4;
                distributor.write32(configuration, distributor.read32(configuration) | 0xaa << shift);
                (smmu, first_wire, Behind::qemu(kernel, &registers(&smmu.window)?)?)
            }
        };
        let memory = kernel.device_memory.allocate(MEMORY, ALIGN)?;
        Ok(Self { distributor, first_wire, smmu: registers(&smmu.window)?, behind, memory, used: AtomicUsize::new(0) })
    }
}

impl Behind {
    fn qemu(kernel: &Kernel, smmu: &Mmio) -> Result<Self, Failure> {
        let read = |register: Register| smmu.read32(register.offset());
        let features = Features::decode(IdRegisters {
            idr0: read(Register::Idr0),
            idr1: read(Register::Idr1),
            idr3: read(Register::Idr3),
            idr5: read(Register::Idr5),
            iidr: read(Register::Iidr),
            aidr: read(Register::Aidr),
        })?;
        let pcie = edu::pcie(kernel)?;
        let mut bus = RootBus::bring_up(edu::ecam(kernel, pcie)?, pcie)?;
        let devices = edu::Device::all(kernel, pcie, &mut bus)?;
        let engines: Vec<_> = devices.into_iter().take(ENGINES).map(Engine::new).collect();
        let streams: Vec<_> = engines.iter().map(|engine| StreamId(engine.stream())).collect();
        let streams = streams.try_into().map_err(|_| Failure::NotHere("edu device for each engine"))?;
        Ok(Self::Qemu { profile: Profile::Qemu { features, streams }, engines: Mutex::new(engines) })
    }
}

fn parts() -> &'static Parts {
    PARTS.get().expect("a test runs")
}

/// Whether the SMMU is the model.
pub(crate) fn has_model() -> bool {
    matches!(parts().behind, Behind::Model { .. })
}

/// What the machine can be.
pub(crate) fn profiles() -> Vec<Profile> {
    match parts().behind {
        Behind::Model { .. } => Modelled::ALL.iter().copied().map(Profile::Model).collect(),
        Behind::Qemu { profile, .. } => vec![profile],
    }
}

/// A machine of this profile after reset. QEMU's SMMU has none but that of the board: it is disabled, and its caches keep what they have.
pub(crate) fn reset(memory: Arc<MachineMemory>, profile: Profile) -> Arc<Machine> {
    match (&parts().behind, profile) {
        (Behind::Model { .. }, Profile::Model(profile)) => Machine::with(memory, profile, ENGINES),
        (Behind::Qemu { engines, .. }, Profile::Qemu { .. }) => {
            let machine = Arc::new(Machine(memory));
            for (register, acknowledge) in
                [(Register::Cr0, Register::Cr0Ack), (Register::IrqCtrl, Register::IrqCtrlAck)]
            {
                machine.write32(register, 0);
                assert_eq!(machine.read32(acknowledge), 0, "QEMU acknowledges at once");
            }
            machine.write32(Register::Gerrorn, machine.read32(Register::Gerror));
            engines.lock().iter_mut().for_each(Engine::reset);
            machine.take_raised();
            machine
        }
        _ => panic!("{} is not on this board", profile.name()),
    }
}

/// Where device memory begins.
pub(crate) fn memory_base() -> u64 {
    parts().memory.phys.0
}

/// Device memory, given out once in a test.
#[derive(Debug)]
pub(crate) struct MachineMemory {
    coherent: bool,
}

/// All the memory there is, zeroed, whatever was given out of it before, for an SMMU that is coherent, or not. It has at least `bytes`.
pub(crate) fn memory(bytes: usize, coherent: bool) -> Arc<MachineMemory> {
    assert!(bytes <= MEMORY, "{bytes:#x} bytes of memory");
    parts().used.store(0, Ordering::Relaxed);
    parts().memory.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    Arc::new(MachineMemory { coherent })
}

impl MachineMemory {
    fn word(address: u64) -> Option<&'static AtomicU64> {
        let offset = address.checked_sub(memory_base()).filter(|offset| offset.is_multiple_of(8))?;
        parts().memory.words.get(offset as usize / 8)
    }

    pub(crate) fn load(&self, address: u64) -> Option<u64> {
        Some(Self::word(address)?.load(Ordering::Relaxed))
    }

    pub(crate) fn store(&self, address: u64, value: u64) -> Option<()> {
        Self::word(address)?.store(value, Ordering::Relaxed);
        Some(())
    }
}

impl DmaMemory for MachineMemory {
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory> {
        assert!(align <= ALIGN, "alignment {align:#x}");
        let Parts { memory, used, .. } = parts();
        // Whole lines of the longest that there are: what is not coherent shares none.
        let start = used.load(Ordering::Relaxed).next_multiple_of((align / 8).max(LINE / 8));
        let words = memory.words.get(start..start + bytes.div_ceil(8)).ok_or(NoMemory { bytes, align })?;
        used.store(start + words.len(), Ordering::Relaxed);
        Ok(DmaRegion { phys: PhysAddr(memory.phys.0 + 8 * start as u64), words })
    }

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        if self.coherent { None } else { Some(&DataCaches) }
    }
}

/// The SMMU, its engines and its control page.
#[derive(Debug)]
pub(crate) struct Machine(Arc<MachineMemory>);

impl Machine {
    /// The model as this profile, after reset.
    pub(crate) fn with(memory: Arc<MachineMemory>, profile: Modelled, engines: usize) -> Arc<Self> {
        assert!(engines <= ENGINES, "{engines} engines");
        let number = Modelled::ALL.iter().position(|&other| other == profile).map_or(0, |index| index as u32 + 1);
        let machine = Arc::new(Self(memory));
        machine.write_control(control::RESET, number);
        machine.take_raised();
        machine
    }

    pub(crate) fn memory(&self) -> &Arc<MachineMemory> {
        &self.0
    }

    /// Lets the machine work: the model does while it is looked at. Returns whether there may be more to do.
    pub(crate) fn step(&self) -> bool {
        match &parts().behind {
            Behind::Model { .. } => self.read_control(control::BUSY) != 0,
            Behind::Qemu { engines, .. } => {
                engines.lock().iter_mut().fold(false, |busy, engine| busy | engine.step(parts().memory.words))
            }
        }
    }

    /// Lets it work until nothing is left to do, at most `limit` times.
    pub(crate) fn run(&self, limit: usize) -> usize {
        (0..limit).find(|_| !self.step()).unwrap_or(limit)
    }

    /// The wires that were raised since the last call, which are pending at the interrupt controller and enabled nowhere.
    pub(crate) fn take_raised(&self) -> Vec<Wire> {
        let Parts { distributor, first_wire, .. } = parts();
        let (register, shift) = (first_wire / 32 * 4, first_wire % 32);
        let pending = distributor.read32(PENDING + register);
        distributor.write32(CLEAR_PENDING + register, pending & 0xf << shift);
        WIRES
            .into_iter()
            .enumerate()
            .filter_map(|(wire, name)| (pending >> (shift + wire) & 1 != 0).then_some(name))
            .collect()
    }

    /// The model's window of registers that `address` is in, or that of an SMMU in its place, and the offset in it.
    fn window(address: u64) -> (&'static Mmio, usize) {
        let Parts { smmu, behind, .. } = parts();
        let (window, base) = match (address, behind) {
            (..board::CONTROL_BASE, _) => (smmu, board::SMMU_BASE),
            (..board::ENGINE_BASE, Behind::Model { control, .. }) => (control, board::CONTROL_BASE),
            (_, Behind::Model { engines, .. }) => {
                let engine = ((address - board::ENGINE_BASE) / board::ENGINE_STRIDE) as usize;
                (&engines[engine], board::engine_base(engine))
            }
            _ => panic!("only the model has registers at {address:#x}"),
        };
        (window, (address - base) as usize)
    }

    pub(crate) fn read(&self, address: u64, width: Width) -> u64 {
        let (window, offset) = Self::window(address);
        match width {
            Width::Word => window.read32(offset).into(),
            Width::Double => window.read64(offset),
        }
    }

    pub(crate) fn write(&self, address: u64, width: Width, value: u64) {
        let (window, offset) = Self::window(address);
        match width {
            Width::Word => window.write32(offset, value as u32),
            Width::Double => window.write64(offset, value),
        }
    }

    pub(crate) fn read_engine(&self, engine: usize, offset: usize) -> u32 {
        match &parts().behind {
            Behind::Model { engines, .. } => engines[engine].read32(offset),
            Behind::Qemu { engines, .. } => engines.lock()[engine].read(offset),
        }
    }

    pub(crate) fn write_engine(&self, engine: usize, offset: usize, value: u32) {
        match &parts().behind {
            Behind::Model { engines, .. } => engines[engine].write32(offset, value),
            Behind::Qemu { engines, .. } => engines.lock()[engine].write(offset, value.into()),
        }
    }

    pub(crate) fn write_engine64(&self, engine: usize, offset: usize, value: u64) {
        match &parts().behind {
            Behind::Model { engines, .. } => engines[engine].write64(offset, value),
            Behind::Qemu { engines, .. } => engines.lock()[engine].write(offset, value),
        }
    }

    pub(crate) fn read_control(&self, offset: usize) -> u32 {
        self.read(board::CONTROL_BASE + offset as u64, Width::Word) as u32
    }

    pub(crate) fn write_control(&self, offset: usize, value: u32) {
        self.write(board::CONTROL_BASE + offset as u64, Width::Word, value.into());
    }

    /// A delay that lets the machine work, once for each call.
    pub(crate) fn delay(self: &Arc<Self>) -> MachineDelay {
        MachineDelay(self.clone())
    }
}

impl Registers for Machine {
    fn read32(&self, register: Register) -> u32 {
        self.read(board::SMMU_BASE + register.offset() as u64, Width::Word) as u32
    }

    fn write32(&self, register: Register, value: u32) {
        self.write(board::SMMU_BASE + register.offset() as u64, Width::Word, value.into());
        // QEMU's SMMU has consumed the commands by now: nobody waits for them, and the devices work between them all the same.
        if register == Register::CmdqProd && !has_model() {
            self.step();
        }
    }

    fn write64(&self, register: Register, value: u64) {
        self.write(board::SMMU_BASE + register.offset() as u64, Width::Double, value);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct MachineDelay(Arc<Machine>);

impl DelayNs for MachineDelay {
    fn delay_ns(&mut self, _: u32) {
        self.0.step();
    }

    fn delay_us(&mut self, _: u32) {
        self.0.step();
    }

    fn delay_ms(&mut self, _: u32) {
        self.0.step();
    }
}
