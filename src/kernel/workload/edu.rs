//! QEMU's SMMU with QEMU's `edu` device behind it: others wrote both, so they judge tables, commands and queues.

use alloc::vec::Vec;
use core::time::Duration;

use super::bench::{Bench, Failure, LIMIT_US, PAGE, anonymous, context, equal_words};
use crate::arch::timer::Timer;
use crate::driver::dma::DmaRegion;
use crate::driver::{FaultMode, StreamConfig};
use crate::kernel::report::Report;
use crate::platform::edu::{DEVICE, Edu, VENDOR};
use crate::platform::pci::{Ecam, RootBus};
use crate::smmuv3::event::{Event, FaultKind};
use crate::smmuv3::{Access, StreamId};
use crate::sva::Permissions;
use crate::sva::address_space::{AddressSpace, Backing, Effort, Region, Resolution};

/// How much is written and read back.
const BYTES: u64 = PAGE;

/// The bytes of a DMA that is to be blocked: QEMU reports each access of up to 4 bytes by itself.
const BLOCKED_BYTES: u32 = 4;

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let Some(pcie) = &bench.kernel.board.pcie else {
        bench.lacks(report, bench.expected.qemu, "edu", "this machine has no PCIe");
        return Ok(());
    };
    let registers = |window| bench.kernel.board.registers(window).ok_or_else(|| Failure::new("PCIe is not mapped"));
    let window = registers(&pcie.ecam)?;
    let mut bus = RootBus::bring_up(Ecam { window, first_bus: pcie.first_bus }, pcie).map_err(Failure::new)?;
    let Some(function) = bus.find(VENDOR, DEVICE).cloned() else {
        bench.lacks(report, bench.expected.qemu, "edu", "this machine has no edu device");
        return Ok(());
    };
    let Some((phandle, stream)) = pcie.stream(function.requester()) else {
        bench.lacks(report, bench.expected.qemu, "edu", "no SMMU is in front of this machine's PCIe");
        return Ok(());
    };
    let front = bench.devices.smmus.iter().find(|unit| unit.phandle == phandle);
    let (Some(front), Some(bar)) = (front, &function.bars[0]) else {
        return Err(Failure::new("edu has no BAR 0, or no SMMU"));
    };
    let mut edu = Edu::new(registers(bar)?).map_err(Failure::new)?;

    let data = bench.random_memory(BYTES)?;
    let [from, to, read_only, unmapped] = [0, 1, 2, 3].map(|index| bench.somewhere(index));
    let source =
        Region { start: from, bytes: BYTES, permissions: Permissions::READ, backing: Backing::Memory(data.phys) };
    let protected = Region { permissions: Permissions::READ, ..anonymous(read_only, PAGE) };
    let space = bench.space(&[source, anonymous(to, BYTES), protected])?;
    // This SMMU terminates what misses, so the pages are there beforehand.
    for (address, access) in [(from, Access::READ), (to, Access::WRITE), (read_only, Access::READ)] {
        if space.resolve(address, access, Effort::Zero) != Resolution::Mapped {
            return Err(Failure::new("no page frame for edu"));
        }
    }
    let config = StreamConfig {
        faults: FaultMode::Terminate,
        context: Some(context(&space)),
        substream_bits: 0,
        response_needs_pasid: false,
    };
    front.smmu.attach(&mut bench.cpu, stream, &config)?;
    bus.allow_dma(function.address, true);
    // What came before belongs to nobody here.
    front.events.take(&bench.cpu);

    edu.copy(&mut Timer, from, to, BYTES as u32).map_err(Failure::new)?;
    check_copy(report, &space, to, &data);

    let blocked = |bench: &mut Bench, seen: u64| -> Result<Vec<Event>, Failure> {
        let events = &front.events;
        bench.wait("an event record", Duration::from_micros(LIMIT_US.into()), || events.seen() > seen)?;
        Ok(front.events.take(&bench.cpu))
    };
    let seen = front.events.seen();
    edu.read(&mut Timer, unmapped, BLOCKED_BYTES).map_err(Failure::new)?;
    let events = blocked(bench, seen)?;
    report.equal(
        "a read of an unmapped address is reported",
        &[Seen { kind: Some(FaultKind::Translation), stream, address: unmapped, write: false }][..],
        events.iter().map(Seen::of).collect::<Vec<_>>(),
    );
    let seen = front.events.seen();
    edu.write(&mut Timer, read_only, BLOCKED_BYTES).map_err(Failure::new)?;
    let events = blocked(bench, seen)?;
    report.equal(
        "a write to a read-only page is reported",
        &[Seen { kind: Some(FaultKind::Permission), stream, address: read_only, write: true }][..],
        events.iter().map(Seen::of).collect::<Vec<_>>(),
    );
    let untouched = space.word(read_only).map(|word| word.load(core::sync::atomic::Ordering::Relaxed));
    report.equal("and blocked: the page holds", Some(0), untouched);

    bus.allow_dma(function.address, false);
    bench.reclaim(&front.smmu, alloc::vec![space])?;
    Ok(front.smmu.detach(&mut bench.cpu, stream)?)
}

fn check_copy(report: &mut Report, space: &AddressSpace, to: u64, data: &DmaRegion) {
    report.equal("words that edu read and wrote back, equal", data.words.len(), equal_words(space, to, data));
}

/// What an event says about a blocked access.
#[derive(Debug, PartialEq)]
struct Seen {
    kind: Option<FaultKind>,
    stream: StreamId,
    address: u64,
    write: bool,
}

impl Seen {
    fn of(event: &Event) -> Self {
        match event {
            Event::Fault(fault) => {
                Self { kind: Some(fault.kind), stream: fault.stream, address: fault.address, write: fault.access.write }
            }
            other => Self { kind: None, stream: other.stream().unwrap_or(StreamId(0)), address: 0, write: false },
        }
    }
}
