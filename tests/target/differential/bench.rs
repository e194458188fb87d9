//! Two SMMUs, a device behind each, and the memory that both see.

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use smmu_iopf::arch::mmio::Mmio;
use smmu_iopf::arch::timer::Timer;
use smmu_iopf::driver::dma::{DmaMemory, DmaRegion};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::model::engine::registers as engine;
use smmu_iopf::platform::board::Pcie;
use smmu_iopf::platform::pci::{Ecam, RootBus};
use smmu_iopf::platform::smmu_registers::SmmuRegisters;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::sync::wait;

use super::case::{Built, arena};
use crate::edu::{self, Device, ecam, find};
use crate::harness::Failure;

const QUEUE_BITS: u32 = 8;
/// log2 of the STEs.
const STREAM_BITS: u32 = 9;

/// In the word of a page that a read may come to; the number of the page is below it.
const MARK: u64 = 0x6b00_0000;

const TRIES: u32 = 1_000_000;

/// What an access comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Where in the arena it wrote.
    pub(super) landed: Option<u64>,
    /// What was recorded, without StreamIDs.
    pub(super) records: Vec<[u64; 4]>,
}

/// An SMMU, enabled, with a linear stream table.
struct Side {
    registers: SmmuRegisters,
    streams: DmaRegion,
    /// The device that accesses memory next.
    stream: u32,
    commands: DmaRegion,
    sent: u32,
    events: DmaRegion,
    taken: u32,
}

impl Side {
    fn new(kernel: &Kernel, registers: SmmuRegisters, stream: u32) -> Result<Self, Failure> {
        let region = |bytes: usize| kernel.device_memory.allocate(bytes, bytes);
        let (streams, commands, events) =
            (region(64 << STREAM_BITS)?, region(16 << QUEUE_BITS)?, region(32 << QUEUE_BITS)?);
        let side = Self { registers, streams, stream, commands, sent: 0, events, taken: 0 };
        side.enable(0)?;
        // Everything write-back and inner shareable (6.3.11).
        side.registers.write32(Register::Cr1, 0xd75);
        side.registers.write64(Register::StrtabBase, streams.phys.0);
        side.registers.write32(Register::StrtabBaseCfg, STREAM_BITS);
        side.registers.write64(Register::CmdqBase, commands.phys.0 | u64::from(QUEUE_BITS));
        side.registers.write32(Register::CmdqProd, 0);
        side.registers.write32(Register::CmdqCons, 0);
        side.registers.write64(Register::EventqBase, events.phys.0 | u64::from(QUEUE_BITS));
        side.registers.write32(Register::EventqProd, 0);
        side.registers.write32(Register::EventqCons, 0);
        // EVENTQEN and CMDQEN, then SMMUEN too.
        side.enable(0xc)?;
        side.enable(0xd)?;
        Ok(side)
    }

    fn enable(&self, cr0: u32) -> Result<(), Failure> {
        self.registers.write32(Register::Cr0, cr0);
        wait::until(&mut Timer, TRIES, || match self.registers.read32(Register::Cr0Ack) {
            ack if ack == cr0 => Ok(()),
            ack => Err(ack),
        })
        .map_err(|expired| format!("CR0ACK is {:#x}", expired.last).into())
    }

    /// Makes `ste` the STE of the device, and the SMMU forget all that it knew.
    fn set(&mut self, ste: &[u64; 8]) -> Result<(), Failure> {
        let first = 8 * self.stream as usize;
        for (slot, word) in self.streams.words[first..].iter().zip(ste) {
            slot.store(*word, Relaxed);
        }
        let stream = u64::from(self.stream) << 32;
        // CFGI_STE, CFGI_CD_ALL, TLBI_NSNH_ALL, SYNC (4.3.1, 4.3.4, 4.4.4.1, 4.7.3).
        for command in [[0x03 | stream, 1], [0x06 | stream, 0], [0x30, 0], [0x46, 0]] {
            let slot = 2 * (self.sent as usize % (1 << QUEUE_BITS));
            self.commands.words[slot].store(command[0], Relaxed);
            self.commands.words[slot + 1].store(command[1], Relaxed);
            self.sent = (self.sent + 1) % (2 << QUEUE_BITS);
        }
        self.registers.write32(Register::CmdqProd, self.sent);
        wait::until(&mut Timer, TRIES, || match self.registers.read32(Register::CmdqCons) {
            cons if cons == self.sent => Ok(()),
            cons => Err(cons),
        })
        .map_err(|expired| format!("CMDQ_CONS is {:#x}, not {:#x}", expired.last, self.sent).into())
    }

    /// The records since the last call.
    fn records(&mut self) -> Vec<[u64; 4]> {
        let prod = self.registers.read32(Register::EventqProd);
        let mut records = Vec::new();
        while self.taken != prod {
            let first = 4 * (self.taken as usize % (1 << QUEUE_BITS));
            let mut record = core::array::from_fn(|word| self.events.words[first + word].load(Relaxed));
            record[0] &= !(0xffff_ffff << 32);
            records.push(record);
            self.taken = (self.taken + 1) % (2 << QUEUE_BITS);
        }
        self.registers.write32(Register::EventqCons, self.taken);
        records
    }
}

/// QEMU's `iommu-testdev`, which newer versions have: it writes a word of its own through the SMMU, at once.
struct TestDevice {
    registers: Mmio,
    stream: u32,
}

impl TestDevice {
    const VENDOR: u16 = 0x1b36;
    const DEVICE: u16 = 0x0005;

    // Its registers: a read of the first runs what was armed.
    const RUN: usize = 0x00;
    const ADDRESS: usize = 0x04;
    const LENGTH: usize = 0x0c;
    const RESULT: usize = 0x10;
    const DOORBELL: usize = 0x14;
    /// Where it looks for what it wrote, past the SMMU.
    const PHYSICAL: usize = 0x1c;

    /// What it writes.
    const VALUE: u32 = 0x1234_5678;
    const ARMED: u32 = 0xffff_fffe;

    fn new(kernel: &Kernel, pcie: &Pcie, bus: &mut RootBus<Ecam>) -> Result<Option<Self>, Failure> {
        let found = find(kernel, pcie, bus, [Self::VENDOR, Self::DEVICE])?;
        Ok(found.into_iter().next().map(|(_, registers, stream)| Self { registers, stream }))
    }

    /// Writes [`Self::VALUE`] to `address`. That it finds it nowhere in `elsewhere` is no matter.
    fn write(&self, address: u64, elsewhere: u64) -> Result<(), Failure> {
        for (register, value) in [(Self::ADDRESS, address), (Self::PHYSICAL, elsewhere)] {
            self.registers.write32(register, value as u32);
            self.registers.write32(register + 4, (value >> 32) as u32);
        }
        self.registers.write32(Self::LENGTH, 4);
        self.registers.write32(Self::DOORBELL, 1);
        self.registers.read32(Self::RUN);
        match self.registers.read32(Self::RESULT) {
            Self::ARMED => Err("iommu-testdev did nothing".into()),
            _ => Ok(()),
        }
    }
}

/// Both of them.
pub(super) struct Bench {
    pub(super) arena: DmaRegion,
    qemu: Side,
    model: Side,
    device: Device,
    test_device: Option<TestDevice>,
    /// The accesses that it made.
    pub(super) by_test_device: u32,
    engine: Mmio,
    /// Where QEMU's device puts what it read.
    result: DmaRegion,
    writes: u16,
}

const MODEL: u64 = 0x0b00_0000;
const QEMU: u64 = 0x0905_0000;
const IDENTIFICATION: [Register; 5] = [Register::Idr0, Register::Idr1, Register::Idr3, Register::Idr5, Register::Aidr];

impl Bench {
    pub(super) fn new(kernel: &Kernel) -> Result<Self, Failure> {
        let registers = |base| -> Result<SmmuRegisters, Failure> {
            let smmu = kernel.board.smmus.iter().find(|smmu| smmu.window.start == base);
            let window = &smmu.ok_or(Failure::NotHere("second SMMU"))?.window;
            Ok(SmmuRegisters::new(kernel.board.registers(window).ok_or("its registers are not mapped")?)?)
        };
        let (qemu, model) = (registers(QEMU)?, registers(MODEL)?);
        let [theirs, ours] = [&qemu, &model].map(|smmu| IDENTIFICATION.map(|register| smmu.read32(register)));
        if theirs != ours {
            log::info!("ID registers: QEMU's {theirs:#x?}, the model's {ours:#x?}");
            return Err(Failure::NotHere("model of QEMU's SMMU: not applicable to this profile"));
        }
        let pcie = edu::pcie(kernel)?;
        let mut bus = RootBus::bring_up(ecam(kernel, pcie)?, pcie)?;
        let edu = Device::all(kernel, pcie, &mut bus)?.into_iter().next().ok_or(Failure::NotHere("edu device"))?;
        let device = kernel.board.engines.first().ok_or(Failure::NotHere("DMA engine"))?;
        let engine = kernel.board.registers(&device.window).ok_or("the engine's registers are not mapped")?;
        engine.write64(engine::LENGTH, 4);
        Ok(Self {
            arena: kernel.device_memory.allocate(arena::SIZE as usize, arena::SIZE as usize)?,
            qemu: Side::new(kernel, qemu, edu.stream)?,
            model: Side::new(kernel, model, device.stream.0)?,
            device: edu,
            test_device: TestDevice::new(kernel, pcie, &mut bus)?,
            by_test_device: 0,
            engine,
            result: kernel.device_memory.allocate(8, 8)?,
            writes: 0,
        })
    }

    /// Whether both have stage 2.
    pub(super) fn has_stage2(&self) -> bool {
        self.qemu.registers.read32(Register::Idr0) & 1 != 0
    }

    /// What QEMU and the model make of an access.
    pub(super) fn run(&mut self, case: &Built) -> Result<[Outcome; 2], Failure> {
        self.place(case, true);
        // Every other write, told by its address, so that a case is the same each time.
        let by_test_device = self.test_device.as_ref().filter(|_| !case.read && case.address & 8 != 0);
        self.qemu.stream = by_test_device.map_or(self.device.stream, |device| device.stream);
        self.qemu.set(&case.ste)?;
        let qemu = if let Some(device) = by_test_device {
            device.write(case.address, self.result.phys.0)?;
            self.by_test_device += 1;
            Outcome { landed: self.find(case.address, TestDevice::VALUE), records: self.qemu.records() }
        } else if case.read {
            self.device.dma.read(&mut Timer, case.address, 4)?;
            let records = self.qemu.records();
            // What it read, it writes where it can be seen: Config = bypass.
            let landed = if records.is_empty() {
                self.qemu.set(&[0x9, 1 << 44, 0, 0, 0, 0, 0, 0])?;
                self.device.dma.write(&mut Timer, self.result.phys.0, 4)?;
                self.marked(self.result.words[0].load(Relaxed), case.address)
            } else {
                None
            };
            Outcome { landed, records }
        } else {
            let value = self.next_value();
            self.device.write(case.address, value);
            Outcome { landed: self.find(case.address, value.into()), records: self.qemu.records() }
        };
        self.place(case, false);
        Ok([qemu, self.run_model(case)?])
    }

    /// What the model makes of an access.
    pub(super) fn run_model(&mut self, case: &Built) -> Result<Outcome, Failure> {
        self.place(case, true);
        self.model.set(&case.ste)?;
        let value = self.next_value();
        self.engine.write64(engine::SOURCE, case.address);
        self.engine.write64(engine::DESTINATION, case.address);
        self.engine.write64(engine::PATTERN, value.into());
        let operation = if case.read { engine::control::READ } else { engine::control::WRITE };
        self.engine.write32(engine::CONTROL, engine::control::START | operation << engine::control::OPERATION);
        let state =
            wait::until(&mut Timer, TRIES, || match self.engine.read32(engine::STATUS) & engine::status::STATE {
                engine::status::BUSY => Err(()),
                state => Ok(state),
            })
            .map_err(|_| "the engine does not end")?;
        let landed = match (case.read, state) {
            (false, _) => self.find(case.address, value.into()),
            (true, engine::status::DONE) => self.marked(self.engine.read64(engine::RESULT), case.address),
            (true, _) => None,
        };
        let outcome = Outcome { landed, records: self.model.records() };
        self.place(case, false);
        Ok(outcome)
    }

    /// Writes the words of a case, or clears them. What a read may come to in the window tells where it is.
    fn place(&self, case: &Built, present: bool) {
        if case.read {
            for page in 0..arena::WINDOW_SIZE / 4096 {
                let mark = if present { (MARK | page) << (8 * (case.address & 4)) } else { 0 };
                self.arena.words[(page * 512 + (case.address & 0xfff) / 8) as usize].store(mark, Relaxed);
            }
        }
        for (at, word) in &case.words {
            let slot = &self.arena.words[((at - self.arena.phys.0) / 8) as usize];
            slot.store(if present { *word } else { 0 }, Relaxed);
        }
    }

    /// Which place in the arena has what was read.
    fn marked(&self, read: u64, address: u64) -> Option<u64> {
        let read = read & 0xffff_ffff;
        (read & MARK == MARK).then(|| (read & !MARK) * 4096 + (address & 0xfff))
    }

    /// What no word of a case has in either half.
    fn next_value(&mut self) -> u16 {
        self.writes = self.writes.wrapping_add(1);
        0x5a00 | self.writes & 0xff
    }

    /// Where in the arena `value` was written, and undoes that. Translation keeps the low bits of the `address`.
    fn find(&self, address: u64, value: u32) -> Option<u64> {
        let (first, high) = ((address & 0xfff) / 8, address & 4 != 0);
        let shift = if high { 32 } else { 0 };
        (0..arena::SIZE / 4096).find_map(|page| {
            let index = (page * 512 + first) as usize;
            let word = self.arena.words[index].load(Relaxed);
            (word >> shift & 0xffff_ffff == u64::from(value)).then(|| {
                self.arena.words[index].store(word & !(0xffff_ffff << shift), Relaxed);
                page * 4096 + (address & 0xfff)
            })
        })
    }
}
