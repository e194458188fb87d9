//! The ITS itself: brought up, and told by commands which message is which interrupt (IHI 0069, 5.2 and 5.3).

use core::sync::atomic::Ordering::Relaxed;

use heapless::Vec;

use super::command::{self, Command, Target};
use super::lpi::Lpis;
use crate::arch::mmio::Mmio;
use crate::arch::timer::Timer;
use crate::driver::dma::{DmaMemory, DmaRegion, NoMemory};
use crate::platform::board::{self, Mpidr};
use crate::platform::boot::MappedBoard;
use crate::smmuv3::PhysAddr;
use crate::sync::{CoreId, MAX_CORES, wait};

// Registers of control (12.18), and of translation, 64 KiB on.
const GITS_CTLR: usize = 0x0;
const ENABLED: u32 = 1;
const QUIESCENT: u32 = 1 << 31;
const GITS_TYPER: usize = 0x8;
const GITS_CBASER: usize = 0x80;
const GITS_CWRITER: usize = 0x88;
const GITS_CREADR: usize = 0x90;
const GITS_BASER: usize = 0x100;
const TABLES: usize = 8;
const GITS_TRANSLATER: u64 = 0x1_0040;

/// GITS_CBASER and GITS_BASER: valid, write-back, inner shareable.
const VALID: u64 = 1 << 63;
const CACHED: u64 = 7 << 59 | 1 << 10;
/// GITS_BASER: pages of 64 KiB, asked for; and what it then has, at bits 9:8.
const PAGES_OF_64_KIB: u64 = 2 << 8;

/// GITS_CREADR: a command could not be read.
const STALLED: u64 = 1;
/// GITS_CREADR and GITS_CWRITER: where in the queue, in bytes.
const OFFSET: u64 = 0xf_ffe0;

/// The size of the command queue, in bytes.
const QUEUE: usize = 0x1000;
/// The size of a table, in bytes: for thousands of devices or collections, of 8 bytes each.
const TABLE: usize = 0x1_0000;

/// How many bits the event numbers of a device have at most.
const EVENT_BITS: u8 = 4;

/// How long the ITS may take for anything, in microseconds.
const LIMIT_US: u32 = 1_000_000;

/// Why messages can't be made interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItsError {
    /// The board has no ITS, or not at registers that can be reached.
    #[error("there is no ITS")]
    NoIts,
    /// No redistributor is the core's.
    #[error("no redistributor is core {:#x}'s", .0.0)]
    NoRedistributor(Mpidr),
    /// A core's redistributor takes no LPIs.
    #[error("the redistributor of core {:#x} has no LPIs", .0.0)]
    NoLpis(Mpidr),
    /// The ITS has no table for devices, or none for collections.
    #[error("the ITS has no table of type {0}")]
    NoTable(u64),
    /// The ITS or its table of devices does not reach as far.
    #[error("the ITS has no DeviceID {0:#x}")]
    NoDevice(u32),
    /// The event's number has more bits than a device's events have here.
    #[error("a device has no event {0}")]
    NoEvent(u32),
    /// All LPIs are in use.
    #[error("no LPI is left")]
    NoMoreLpis,
    /// This core takes no LPIs.
    #[error("{0} takes no LPIs")]
    NoCore(CoreId),
    /// There is no memory for a table.
    #[error("{0}")]
    Memory(#[from] NoMemory),
    /// The ITS has stopped: it can't read the command at this offset of its queue.
    #[error("the ITS is stalled at {0:#x} of its queue")]
    Stalled(u64),
    /// The ITS did not come to rest, or did not carry out its commands.
    #[error("{register} is {actual:#x} and not {expected:#x} after {waited_us} us")]
    Timeout {
        /// Which register was looked at.
        register: &'static str,
        /// What it should have become.
        expected: u64,
        /// What it was at last.
        actual: u64,
        /// How long was waited.
        waited_us: u32,
    },
}

/// An ITS that runs, and the cores that take its LPIs. Collection n is core n's.
#[derive(Debug)]
pub struct Its {
    registers: Mmio,
    doorbell: PhysAddr,
    queue: DmaRegion,
    /// Where the next command goes, in bytes.
    next: usize,
    targets: Vec<Target, MAX_CORES>,
    lpis: Lpis,
    /// The size of an entry of a device's table, in bytes.
    entry: usize,
    /// How many DeviceIDs there are.
    devices: u64,
    /// How many bits the event numbers of a device have.
    event_bits: u8,
}

impl Its {
    /// Brings the board's ITS up, with LPIs on all cores. To be called once: the tables of LPIs can't be exchanged (5.1).
    ///
    /// # Errors
    ///
    /// [`ItsError`]. What was brought up until then stays.
    pub fn bring_up(board: &MappedBoard, memory: &impl DmaMemory) -> Result<Self, ItsError> {
        let board::Its { window, .. } = board.gic.its.as_ref().ok_or(ItsError::NoIts)?;
        let registers = board.registers(window).ok_or(ItsError::NoIts)?;
        registers.write32(GITS_CTLR, registers.read32(GITS_CTLR) & !ENABLED);
        wait::until(&mut Timer, LIMIT_US, || match registers.read32(GITS_CTLR) {
            control if control & QUIESCENT != 0 => Ok(()),
            control => Err(control),
        })
        .map_err(|expired| ItsError::Timeout {
            register: "GITS_CTLR",
            expected: QUIESCENT.into(),
            actual: expired.last.into(),
            waited_us: expired.waited_us,
        })?;
        let kind = registers.read64(GITS_TYPER);
        // Bits 31:24: so many collections need no table.
        let collections_inside = (kind >> 24 & 0xff) as usize;
        // Bits 17:13 and 12:8: the bits of DeviceIDs and of events, less one.
        let devices = add_table(&registers, memory, 1)?.min(2 << (kind >> 13 & 0x1f));
        let event_bits = EVENT_BITS.min((kind >> 8 & 0x1f) as u8 + 1);
        if collections_inside < board.cores.len() {
            add_table(&registers, memory, 4)?;
        }
        let queue = memory.allocate(QUEUE, 0x1_0000)?;
        registers.write64(GITS_CBASER, VALID | CACHED | queue.phys.0 | (QUEUE / 0x1000 - 1) as u64);
        registers.write64(GITS_CWRITER, 0);
        registers.write32(GITS_CTLR, ENABLED);

        let lpis = Lpis::new(memory)?;
        let by_address = kind >> 19 & 1 != 0;
        let doorbell = PhysAddr(window.start + GITS_TRANSLATER);
        let entry = (kind >> 4 & 0xf) as usize + 1;
        let targets = Vec::new();
        let mut its = Self { registers, doorbell, queue, next: 0, targets, lpis, entry, devices, event_bits };
        for (&mpidr, collection) in board.cores.iter().zip(0..) {
            let target = its.lpis.start_core(board, memory, mpidr, by_address)?;
            its.run(&[Command::MapCollection { collection, target }, Command::Sync { target }])?;
            // As many as there are cores.
            let _ = its.targets.push(target);
        }
        Ok(its)
    }

    /// Where messages go.
    pub fn doorbell(&self) -> PhysAddr {
        self.doorbell
    }

    /// Lets `device` send messages: numbers from 0 to 15 (fewer if the ITS has no such events), each of which does nothing until it is connected.
    ///
    /// # Errors
    ///
    /// [`ItsError`] without such a DeviceID or memory, or if the ITS does not carry it out.
    pub fn add_device(&mut self, memory: &impl DmaMemory, device: u32) -> Result<(), ItsError> {
        // The ITS ignores commands for what it does not have.
        if u64::from(device) >= self.devices {
            return Err(ItsError::NoDevice(device));
        }
        let bytes = (self.entry << self.event_bits).next_multiple_of(256);
        let table = memory.allocate(bytes, bytes.next_power_of_two())?.phys;
        self.run(&[Command::MapDevice { device, table, event_bits: self.event_bits }])
    }

    /// From now on the message `event` of `device` is an interrupt of `core`: its INTID. The handler must be there before the first one
    /// is sent.
    ///
    /// # Errors
    ///
    /// [`ItsError`] without such a device, event or core or an LPI, or if the ITS does not carry it out.
    pub fn connect(&mut self, device: u32, event: u32, core: CoreId) -> Result<u32, ItsError> {
        if u64::from(device) >= self.devices {
            return Err(ItsError::NoDevice(device));
        }
        if event >> self.event_bits != 0 {
            return Err(ItsError::NoEvent(event));
        }
        let target = *self.targets.get(core.index()).ok_or(ItsError::NoCore(core))?;
        let intid = self.lpis.enable_next()?;
        let collection = core.index() as u16;
        self.run(&[
            Command::MapEvent { device, event, intid, collection },
            Command::Invalidate { device, event },
            Command::Sync { target },
        ])?;
        Ok(intid)
    }

    /// Has the ITS carry `commands` out, fewer than the queue has room for, and waits for that.
    fn run(&mut self, commands: &[Command]) -> Result<(), ItsError> {
        for command in commands {
            let words = self.queue.words.iter().skip(self.next / 8);
            // Relaxed: the write of GITS_CWRITER orders them before the ITS reads.
            words.zip(command.encode()).for_each(|(word, value)| word.store(value, Relaxed));
            self.next = (self.next + command::BYTES) % QUEUE;
        }
        let end = self.next as u64;
        self.registers.write64(GITS_CWRITER, end);
        wait::until(&mut Timer, LIMIT_US, || match self.registers.read64(GITS_CREADR) {
            read if read & STALLED != 0 => Ok(Err(ItsError::Stalled(read & OFFSET))),
            read if read & OFFSET == end => Ok(Ok(())),
            read => Err(read),
        })
        .unwrap_or_else(|expired| {
            Err(ItsError::Timeout {
                register: "GITS_CREADR",
                expected: end,
                actual: expired.last,
                waited_us: expired.waited_us,
            })
        })
    }
}

/// Gives the ITS its table of `kind`: 1 of devices, 4 of collections (GITS_BASER, 12.19). Returns how many it has room for.
fn add_table(registers: &Mmio, memory: &impl DmaMemory, kind: u64) -> Result<u64, ItsError> {
    let mut all = (0..TABLES).map(|index| GITS_BASER + 8 * index);
    let is_of_kind = |register: &usize| registers.read64(*register) >> 56 & 7 == kind;
    let register = all.find(is_of_kind).ok_or(ItsError::NoTable(kind))?;
    // Pages may have one size only: what the register then says.
    registers.write64(register, PAGES_OF_64_KIB);
    let size = registers.read64(register) >> 8 & 3;
    let page = match size {
        0 => 0x1000,
        1 => 0x4000,
        _ => 0x1_0000,
    };
    let table = memory.allocate(TABLE, TABLE)?;
    registers.write64(register, VALID | CACHED | table.phys.0 | size << 8 | (TABLE / page - 1) as u64);
    // Bits 52:48: the size of an entry in bytes, less one.
    Ok(TABLE as u64 / ((registers.read64(register) >> 48 & 0x1f) + 1))
}
