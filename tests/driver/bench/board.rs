//! The machine under test on the target: the model at EL2, which is reset for each test. As `model::host` is on the host, by other names.

use alloc::sync::Arc;
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
use smmu_iopf::model::profile::Profile;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::PhysAddr;
use smmu_iopf::smmuv3::registers::Register;
use spin::Once;

use crate::harness::{Failure, Outcome};

/// What a test has for device memory, and the largest alignment in it.
const MEMORY: usize = 4 << 20;
const ALIGN: usize = 1 << 20;

/// The longest cache line that the architecture has, in bytes.
const LINE: usize = 2048;

/// GICD_ISPENDR and GICD_ICPENDR of the SMMU's wires, whose INTIDs are their SPIs' numbers and 32: a bit each.
const PENDING: usize = 0x200 + FIRST_WIRE / 32 * 4;
const CLEAR_PENDING: usize = 0x280 + FIRST_WIRE / 32 * 4;
const FIRST_WIRE: usize = board::SMMU_SPI as usize + 32;
const WIRES: [Wire; 4] = [Wire::EventQueue, Wire::PriQueue, Wire::CommandSync, Wire::GlobalError];

/// What there is of the machine on the board.
struct Parts {
    distributor: Mmio,
    windows: [Mmio; 2 + board::DEFAULT_ENGINES],
    memory: DmaRegion,
    used: AtomicUsize,
}

static PARTS: Once<Parts> = Once::new();

/// Runs `test`, which panics if something is wrong.
pub(crate) fn run(kernel: &'static Kernel, test: fn()) -> Outcome {
    let smmu = &crate::model::model(kernel)?.window;
    let control = kernel.board.control.as_ref().ok_or(Failure::NotHere("control page"))?;
    let engines = kernel.board.engines.iter().filter(|engine| board::WINDOW.contains(&engine.window.start));
    let mut windows = [smmu, control].into_iter().chain(engines.map(|engine| &engine.window));
    PARTS.try_call_once(|| -> Result<_, Failure> {
        let mut window = || {
            let window = windows.next().ok_or(Failure::NotHere("DMA engine"))?;
            Ok::<_, Failure>(kernel.board.registers(window).ok_or("registers that are not mapped")?)
        };
        Ok(Parts {
            distributor: kernel.board.registers(&kernel.board.gic.distributor).ok_or("no distributor")?,
            windows: [window()?, window()?, window()?, window()?, window()?, window()?],
            memory: kernel.device_memory.allocate(MEMORY, ALIGN)?,
            used: AtomicUsize::new(0),
        })
    })?;
    test();
    Ok(())
}

fn parts() -> &'static Parts {
    PARTS.get().expect("a test runs")
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
    /// A machine of this profile after reset.
    pub(crate) fn with(memory: Arc<MachineMemory>, profile: Profile, engines: usize) -> Arc<Self> {
        assert!(engines <= board::DEFAULT_ENGINES, "{engines} engines");
        let number = Profile::ALL.iter().position(|&other| other == profile).map_or(0, |index| index as u32 + 1);
        let machine = Arc::new(Self(memory));
        machine.write_control(control::RESET, number);
        machine.take_raised();
        machine
    }

    pub(crate) fn memory(&self) -> &Arc<MachineMemory> {
        &self.0
    }

    /// Lets the machine work, which it does while it is looked at. Returns whether there may be more to do.
    pub(crate) fn step(&self) -> bool {
        self.read_control(control::BUSY) != 0
    }

    /// Lets it work until nothing is left to do, at most `limit` times.
    pub(crate) fn run(&self, limit: usize) -> usize {
        (0..limit).find(|_| !self.step()).unwrap_or(limit)
    }

    /// The wires that were raised since the last call, which are pending at the interrupt controller and enabled nowhere.
    pub(crate) fn take_raised(&self) -> Vec<Wire> {
        let pending = parts().distributor.read32(PENDING);
        let raised = |wire: usize| pending & 1 << ((FIRST_WIRE + wire) % 32) != 0;
        parts().distributor.write32(CLEAR_PENDING, pending & 0xf << (FIRST_WIRE % 32));
        WIRES.into_iter().enumerate().filter_map(|(index, wire)| raised(index).then_some(wire)).collect()
    }

    /// The window of registers that `address` is in, and the offset in it.
    fn window(address: u64) -> (&'static Mmio, usize) {
        let (index, base) = match address {
            board::CONTROL_BASE..board::ENGINE_BASE => (1, board::CONTROL_BASE),
            ..board::CONTROL_BASE => (0, board::SMMU_BASE),
            _ => {
                let engine = (address - board::ENGINE_BASE) / board::ENGINE_STRIDE;
                (2 + engine as usize, board::engine_base(engine as usize))
            }
        };
        (&parts().windows[index], (address - base) as usize)
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
        self.read(board::engine_base(engine) + offset as u64, Width::Word) as u32
    }

    pub(crate) fn write_engine(&self, engine: usize, offset: usize, value: u32) {
        self.write(board::engine_base(engine) + offset as u64, Width::Word, value.into());
    }

    pub(crate) fn write_engine64(&self, engine: usize, offset: usize, value: u64) {
        self.write(board::engine_base(engine) + offset as u64, Width::Double, value);
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
