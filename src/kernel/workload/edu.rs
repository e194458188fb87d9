//! QEMU's SMMU with QEMU's `edu` device behind it: others wrote both, so they judge tables, commands and queues.

use super::bench::{Bench, Failure, PAGE, anonymous, equal_words};
use super::pci::{Behind, Seen};
use crate::arch::timer::Timer;
use crate::driver::dma::DmaRegion;
use crate::kernel::report::Report;
use crate::platform::edu::{DEVICE, Edu, VENDOR};
use crate::smmuv3::Access;
use crate::smmuv3::event::FaultKind;
use crate::sva::Permissions;
use crate::sva::address_space::{AddressSpace, Backing, Effort, Region, Resolution};

/// How much is written and read back.
const BYTES: u64 = PAGE;

/// The bytes of a DMA that is to be blocked: QEMU reports each access of up to 4 bytes by itself.
const BLOCKED_BYTES: u32 = 4;

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let Some(behind) = bench.behind(report, bench.expected.qemu, "edu", [VENDOR, DEVICE]) else { return Ok(()) };
    let Behind { function, stream, front } = &behind;
    let (stream, Some(bar)) = (*stream, &function.bars[0]) else { return Err(Failure::new("edu has no BAR 0")) };
    let registers = bench.kernel.board.registers(bar).ok_or_else(|| Failure::new("PCIe is not mapped"))?;
    let mut edu = Edu::new(registers).map_err(Failure::new)?;

    let data = bench.random_memory(BYTES)?;
    let [from, to, read_only, unmapped] = [0, 1, 2, 3].map(|index| bench.somewhere(index));
    let source =
        Region { start: from, bytes: BYTES, permissions: Permissions::READ, backing: Backing::Memory(data.phys) };
    let protected = Region { permissions: Permissions::READ, ..anonymous(read_only, PAGE) };
    let space = bench.space(front, &[source, anonymous(to, BYTES), protected])?;
    // This SMMU terminates what misses, so the pages are there beforehand.
    for (address, access) in [(from, Access::READ), (to, Access::WRITE), (read_only, Access::READ)] {
        if space.resolve(address, access, Effort::Zero) != Resolution::Mapped {
            return Err(Failure::new("no page frame for edu"));
        }
    }
    bench.attach(&behind, &space)?;

    edu.copy(&mut Timer, from, to, BYTES as u32).map_err(Failure::new)?;
    check_copy(report, &space, to, &data);

    let seen = front.events.seen();
    edu.read(&mut Timer, unmapped, BLOCKED_BYTES).map_err(Failure::new)?;
    let events = bench.blocked(&behind, seen)?;
    report.equal(
        "a read of an unmapped address is reported",
        &[Seen { kind: Some(FaultKind::Translation), stream, address: unmapped, write: false }][..],
        events,
    );
    let seen = front.events.seen();
    edu.write(&mut Timer, read_only, BLOCKED_BYTES).map_err(Failure::new)?;
    let events = bench.blocked(&behind, seen)?;
    report.equal(
        "a write to a read-only page is reported",
        &[Seen { kind: Some(FaultKind::Permission), stream, address: read_only, write: true }][..],
        events,
    );
    let untouched = space.word(read_only).map(|word| word.load(core::sync::atomic::Ordering::Relaxed));
    report.equal("and blocked: the page holds", Some(0), untouched);

    bench.bus()?.allow_dma(function.address, false);
    bench.reclaim(&front.smmu, alloc::vec![space])?;
    Ok(front.smmu.detach(&mut bench.cpu, stream)?)
}

fn check_copy(report: &mut Report, space: &AddressSpace, to: u64, data: &DmaRegion) {
    report.equal("words that edu read and wrote back, equal", data.words.len(), equal_words(space, to, data));
}
