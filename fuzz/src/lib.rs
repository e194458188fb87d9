//! What the fuzz targets of the model share: guest memory that holds the model to its contract, interrupts that go
//! nowhere, values that are more often interesting than random ones, and what is always true of an SMMU's registers.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use smmu_iopf::model::board;
use smmu_iopf::model::machine::{Machine, Width};
use smmu_iopf::model::memory::{Abort, Memory};
use smmu_iopf::model::profile::Profile;
use smmu_iopf::model::wire::{Wire, Wires};
use smmu_iopf::smmuv3::PhysAddr;
use smmu_iopf::smmuv3::event::Event;
use smmu_iopf::smmuv3::features::Features;
use smmu_iopf::smmuv3::page_request::PageRequest;
use smmu_iopf::smmuv3::queue::{QueueIndex, QueueSize};

/// Where guest memory starts.
pub const BASE: u64 = 0x4000_0000;

// Register offsets (6.2.1, 6.2.2).
pub const CR0: usize = 0x20;
pub const CR0ACK: usize = 0x24;
pub const CR2: usize = 0x2c;
pub const IRQ_CTRL: usize = 0x50;
pub const GERROR: usize = 0x60;
pub const GERRORN: usize = 0x64;
pub const STRTAB_BASE: usize = 0x80;
pub const STRTAB_BASE_CFG: usize = 0x88;
pub const CMDQ_BASE: usize = 0x90;
pub const CMDQ_PROD: usize = 0x98;
pub const CMDQ_CONS: usize = 0x9c;
pub const EVENTQ_BASE: usize = 0xa0;
pub const EVENTQ_PROD: usize = 0x100a8;
pub const EVENTQ_CONS: usize = 0x100ac;
pub const PRIQ_BASE: usize = 0xc0;
pub const PRIQ_PROD: usize = 0x100c8;
pub const PRIQ_CONS: usize = 0x100cc;

/// SMMUEN, PRIQEN, EVENTQEN, CMDQEN.
pub const ALL_ON: u64 = 0xf;

/// Guest memory. It checks what the model owes it: words are aligned, addresses exist on a bus of the profile's width, and
/// one call makes a bounded number of accesses.
pub struct Guest {
    bytes: RefCell<Vec<u8>>,
    /// What only the model's records may be written to.
    records: Range<u64>,
    /// log2 of the bytes that the bus addresses (`IDR5.OAS`).
    address_bits: u32,
    accesses: Cell<u32>,
    limit: Cell<u32>,
    writes: Cell<u64>,
}

impl Guest {
    /// `bytes` of zeroed memory from [`BASE`] on, a multiple of 8. Into `records` nothing but whole words may be written,
    /// as the SMMU writes records.
    pub fn new(bytes: usize, profile: Profile, records: Range<u64>) -> Self {
        Self {
            bytes: RefCell::new(vec![0; bytes]),
            records,
            address_bits: profile.features().oas.bits().into(),
            accesses: Cell::new(0),
            limit: Cell::new(u32::MAX),
            writes: Cell::new(0),
        }
    }

    /// From now on `limit` accesses are permitted, until the next call.
    pub fn allow(&self, limit: u32) {
        self.accesses.set(0);
        self.limit.set(limit);
    }

    /// How many writes there were that changed something.
    pub fn writes(&self) -> u64 {
        self.writes.get()
    }

    /// The word at `address`, as software reads it; 0 where there is none.
    pub fn peek(&self, address: u64) -> u64 {
        self.place(PhysAddr(address), 8).map_or(0, |place| self.word(place))
    }

    /// Writes the word at `address`, as software does.
    pub fn poke(&self, address: u64, value: u64) {
        if let Ok(place) = self.place(PhysAddr(address & !7), 8) {
            self.bytes.borrow_mut()[place].copy_from_slice(&value.to_le_bytes());
        }
    }

    fn place(&self, PhysAddr(address): PhysAddr, length: usize) -> std::result::Result<Range<usize>, Abort> {
        let first = usize::try_from(address.checked_sub(BASE).ok_or(Abort)?).map_err(|_| Abort)?;
        let end = first.checked_add(length).filter(|end| *end <= self.bytes.borrow().len()).ok_or(Abort)?;
        Ok(first..end)
    }

    /// Judges an access of the model of `length` bytes.
    fn access(&self, address: PhysAddr, length: usize, align: u64) -> std::result::Result<Range<usize>, Abort> {
        let PhysAddr(first) = address;
        assert!(first.is_multiple_of(align), "misaligned access at {first:#x}");
        assert!(first >> self.address_bits == 0, "{first:#x} is no physical address");
        self.accesses.set(self.accesses.get() + 1);
        assert!(self.accesses.get() <= self.limit.get(), "more than {} accesses in one call", self.limit.get());
        self.place(address, length)
    }

    fn word(&self, place: Range<usize>) -> u64 {
        u64::from_le_bytes(self.bytes.borrow()[place].try_into().unwrap())
    }

    fn put(&self, place: Range<usize>, new: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        self.writes.set(self.writes.get() + u64::from(bytes[place.clone()] != *new));
        bytes[place].copy_from_slice(new);
    }

    fn is_record(&self, PhysAddr(address): PhysAddr, length: u64) -> bool {
        address < self.records.end && self.records.start < address.saturating_add(length)
    }
}

impl Memory for Guest {
    fn read64(&self, address: PhysAddr) -> std::result::Result<u64, Abort> {
        Ok(self.word(self.access(address, 8, 8)?))
    }

    fn write64(&self, address: PhysAddr, value: u64) -> std::result::Result<(), Abort> {
        self.put(self.access(address, 8, 8)?, &value.to_le_bytes());
        Ok(())
    }

    fn write32(&self, address: PhysAddr, value: u32) -> std::result::Result<(), Abort> {
        let place = self.access(address, 4, 4)?;
        if self.is_record(address, 4) {
            return Err(Abort);
        }
        self.put(place, &value.to_le_bytes());
        Ok(())
    }

    fn compare_exchange64(&self, address: PhysAddr, expected: u64, new: u64) -> std::result::Result<u64, Abort> {
        let place = self.access(address, 8, 8)?;
        if self.is_record(address, 8) {
            return Err(Abort);
        }
        let held = self.word(place.clone());
        if held == expected {
            self.put(place, &new.to_le_bytes());
        }
        Ok(held)
    }

    fn read(&self, address: PhysAddr, bytes: &mut [u8]) -> std::result::Result<(), Abort> {
        let place = self.access(address, bytes.len(), 1)?;
        bytes.copy_from_slice(&self.bytes.borrow()[place]);
        Ok(())
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> std::result::Result<(), Abort> {
        let place = self.access(address, bytes.len(), 1)?;
        if self.is_record(address, bytes.len() as u64) {
            return Err(Abort);
        }
        self.put(place, bytes);
        Ok(())
    }
}

/// Takes interrupts and forgets them.
pub struct Nowhere;

impl Wires for Nowhere {
    fn raise(&mut self, _: Wire) {}

    fn send_event(&mut self) {}
}

/// One of the profiles.
pub fn any_profile(input: &mut Unstructured<'_>) -> Result<Profile> {
    input.choose(Profile::ALL).copied()
}

/// A value: small, a place in the first `bytes` of memory, few bits set, few clear, or any.
pub fn value(input: &mut Unstructured<'_>, bytes: u64) -> Result<u64> {
    Ok(match input.int_in_range(0..=7)? {
        0 => input.arbitrary::<u8>()?.into(),
        1 => BASE + u64::from(input.arbitrary::<u16>()?) * 64 % bytes,
        2 => (BASE + u64::from(input.arbitrary::<u8>()?) * 4096 % bytes) | u64::from(input.arbitrary::<u16>()?),
        3 => 1 << input.int_in_range(0..=63)?,
        4 => !(1 << input.int_in_range(0..=63)?),
        5 => input.arbitrary::<u32>()?.into(),
        6 => (u64::from(input.arbitrary::<u16>()?) << 48) | u64::from(input.arbitrary::<u16>()?),
        _ => input.arbitrary()?,
    })
}

/// The queues of an SMMU, from its registers.
#[derive(Clone, Copy)]
pub enum Queue {
    /// Commands.
    Commands,
    /// Events.
    Events,
    /// Page requests.
    PageRequests,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 3] = [Self::Commands, Self::Events, Self::PageRequests];

    /// Offsets of BASE, PROD and CONS.
    pub const fn registers(self) -> [usize; 3] {
        match self {
            Self::Commands => [CMDQ_BASE, CMDQ_PROD, CMDQ_CONS],
            Self::Events => [EVENTQ_BASE, EVENTQ_PROD, EVENTQ_CONS],
            Self::PageRequests => [PRIQ_BASE, PRIQ_PROD, PRIQ_CONS],
        }
    }

    /// The size that is used: LOG2SIZE, at most what IDR1 says (6.3.26).
    pub fn size(self, features: &Features, base: u64) -> QueueSize {
        let largest = match self {
            Self::Commands => features.command_queue,
            Self::Events => features.event_queue,
            Self::PageRequests => features.pri_queue.unwrap_or(QueueSize::ONE),
        };
        QueueSize::new((base & 0x1f) as u8).map_or(largest, |size| size.min(largest))
    }
}

/// PROD and CONS of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Indices {
    /// The size of the queue.
    pub size: QueueSize,
    /// PROD.
    pub prod: QueueIndex,
    /// CONS.
    pub cons: QueueIndex,
}

impl Indices {
    /// The indices of `queue` by `read`, which reads a register at an offset.
    pub fn of(queue: Queue, features: &Features, read: impl Fn(usize) -> u64) -> Self {
        let [base, prod, cons] = queue.registers().map(read);
        let size = queue.size(features, base);
        Self { size, prod: size.index(prod as u32), cons: size.index(cons as u32) }
    }
}

/// The SMMU's register at `offset`; of a 64-bit one the low half.
pub fn read(machine: &Machine, offset: usize) -> u64 {
    machine.read(board::SMMU_BASE + offset as u64, Width::Word)
}

/// What is always true of registers, whatever was written to them: `poisoned` says that REGISTER_POISON was, which may put
/// anything into CMDQ_CONS.ERR. `read` reads a register at an offset.
pub fn check_registers(features: &Features, poisoned: bool, read: impl Fn(usize) -> u64) {
    for queue in Queue::ALL {
        let [base, prod, cons] = queue.registers().map(&read);
        let size = queue.size(features, base);
        // Bits 30:20 of PROD and of CONS but for ERR, and those above the wrap bit, read as zero where an index is kept.
        assert_eq!(size.index(prod as u32).raw(), prod as u32 & 0x7fff_ffff);
        let index = if matches!(queue, Queue::Commands) { 0x80ff_ffff } else { 0x7fff_ffff };
        assert_eq!(size.index(cons as u32).raw(), cons as u32 & index);
    }
    // Reasons of 7.1 that this SMMU has: none, illegal, abort, ATC invalidation.
    assert!(poisoned || read(CMDQ_CONS) >> 24 & 0x7f <= 3);
    // PRIQEN, ATSCHK where there is PRI, ATS; VMW is not there (6.3.9).
    let cr0 = 0b1101 | u64::from(features.pri) << 1 | u64::from(features.ats) << 4;
    assert_eq!(read(CR0ACK) & !cr0, 0);
    // At most STALL_MAX transactions stall (6.3.6), and after an early retry none more does.
    assert!(read(0xe04) <= 64);
}

/// Reads the records from index `from` to PROD: each one is an event of chapter 7 or a page request of chapter 8. Returns
/// the last event's words.
pub fn check_records(queue: Queue, base: u64, from: QueueIndex, indices: Indices, memory: &Guest) -> Option<[u64; 4]> {
    let bytes = if matches!(queue, Queue::Events) { 32 } else { 16 };
    let mut last = None;
    let mut index = from;
    for _ in 0..indices.size.entries() {
        if index == indices.prod {
            break;
        }
        let at = base + u64::from(indices.size.slot(index)) * bytes;
        let words = [0, 8, 16, 24].map(|word| memory.peek(at + word));
        if matches!(queue, Queue::Events) {
            match Event::decode(words) {
                Ok(event) => assert_eq!(Event::decode(event.encode()), Ok(event)),
                Err(error) => panic!("{error:?}: {words:x?}"),
            }
            last = Some(words);
        } else {
            let request = PageRequest::decode([words[0], words[1]]);
            assert_eq!(request.encode(), [words[0], words[1]], "reserved bits are not 0: {request:?}");
        }
        index = indices.size.advance(index, 1);
    }
    last
}
