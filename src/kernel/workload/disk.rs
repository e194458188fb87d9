//! A disk of QEMU's behind QEMU's SMMU: what is written comes back, a page taken away is out of its reach, and it goes on.

use alloc::vec;
use core::sync::atomic::Ordering::Relaxed;

use super::bench::{Bench, Failure, LIMIT_US, PAGE, split_mix};
use super::pci::{Behind, Seen};
use crate::arch::timer::{self, Timer};
use crate::driver::dma::{DmaMemory, DmaRegion};
use crate::driver::{Pages, Walked};
use crate::kernel::report::Report;
use crate::platform::virtio::{Area, DISK, Disk, Shared, VENDOR, VirtioError};
use crate::smmuv3::event::FaultKind;
use crate::smmuv3::{Access, PhysAddr};
use crate::sva::Permissions;
use crate::sva::address_space::{AddressSpace, Backing, Effort, Region, Resolution};
use crate::sync::lock::IrqLock;

/// How much is written and read back.
const BYTES: usize = 16 << 20;

/// How much of it in a request.
const REQUEST: usize = 1 << 20;

/// The bytes of a sector, and of a request that is to be blocked: QEMU reports each 4 bytes by themselves.
const SECTOR: usize = 512;

/// What the disk reads, or writes, of memory: a page of its queue, the data of a request, and a page for what is around it.
const AREA: u64 = REQUEST as u64 + 2 * PAGE;

/// How long a request may take that never ends.
const LOST_US: u32 = 50_000;

/// What a page holds that the disk must not write.
const MARK: u64 = 0x5a5a_5a5a_5a5a_5a5a;

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let Some(behind) = bench.behind(report, bench.expected.disks, "virtio-blk", [VENDOR, DISK]) else {
        return Ok(());
    };
    // Above this machine's memory: a DMA that nobody translates would meet nothing.
    let [read, written] = [1, 2].map(|index| bench.somewhere(index));
    let memory = || bench.kernel.device_memory.allocate(AREA as usize, PAGE as usize);
    let [to_read, to_write] = [memory()?, memory()?];
    let region = |start, permissions, DmaRegion { phys: PhysAddr(phys), .. }| {
        let backing = Backing::Memory(PhysAddr(phys));
        Region { start, bytes: AREA, permissions, backing }
    };
    let regions = [region(read, Permissions::READ, to_read), region(written, Permissions::READ_WRITE, to_write)];
    let space = bench.space(&regions)?;
    for page in (0..AREA).step_by(PAGE as usize) {
        map(&space, read + page, Access::READ)?;
        map(&space, written + page, Access::WRITE)?;
    }
    bench.attach(&behind, &space)?;
    let Some(pcie) = bench.kernel.board.pcie.clone() else { return Err(Failure::new("this machine has no PCIe")) };
    let [read, to_be_written] = [Area::new(read, to_read), Area::new(written, to_write)].map(IrqLock::new);
    Disk::share(Shared { pcie, read, written: to_be_written }).map_err(Failure::new)?;
    let start =
        |bench: &mut Bench, limit_us| Disk::start(bench.bus()?, &behind.function, limit_us).map_err(Failure::new);
    let mut disk = start(bench, LIMIT_US)?;
    let seed = bench.random();
    there_and_back(report, &mut disk, seed)?;
    let first_sector = |report: &mut Report, disk: &mut Disk| {
        let (mut sector, mut random) = ([0; SECTOR], seed);
        disk.read(0, &mut sector).map_err(Failure::new)?;
        report.equal("words it reads when the page is back, equal", SECTOR / 8, equal(&sector, &mut random));
        Ok::<_, Failure>(())
    };

    // The data of a request comes behind the queue. A disk of QEMU's does not notice what the SMMU does to it.
    let data = written + PAGE;
    let mark = || to_write.words.iter().skip(PAGE as usize / 8).take(SECTOR / 8);
    mark().for_each(|word| word.store(MARK, Relaxed));
    let ended = without_page(bench, report, &behind, &space, data, &mut disk)?;
    log::info!("  the disk says of the request: {ended:?}");
    let untouched = mark().filter(|word| word.load(Relaxed) == MARK).count();
    report.equal("and blocked: words of the page that hold", SECTOR / 8, untouched);
    map(&space, data, Access::WRITE)?;
    first_sector(report, &mut disk)?;
    drop(disk);

    // What it can't say in its queue, nobody hears.
    let mut disk = start(bench, LOST_US)?;
    let ended = without_page(bench, report, &behind, &space, written, &mut disk)?;
    report.equal("the request is lost", true, matches!(ended, Err(VirtioError::Timeout { .. })));
    drop(disk);
    map(&space, written, Access::WRITE)?;
    let mut disk = start(bench, LIMIT_US)?;
    first_sector(report, &mut disk)?;

    drop(disk);
    bench.bus()?.allow_dma(behind.function.address, false);
    bench.reclaim(&behind.front.smmu, vec![space])?;
    Ok(behind.front.smmu.detach(&mut bench.cpu, behind.stream)?)
}

/// Maps a page beforehand: the SMMU terminates what misses.
fn map(space: &AddressSpace, address: u64, access: Access) -> Result<(), Failure> {
    match space.resolve(address, access, Effort::Zero) {
        Resolution::Mapped => Ok(()),
        other => Err(Failure::new(format_args!("a page for a disk: {other:?}"))),
    }
}

/// Writes random words to the disk and reads them back into other memory.
fn there_and_back(report: &mut Report, disk: &mut Disk, seed: u64) -> Result<(), Failure> {
    let start = timer::now();
    let mut data = vec![0; REQUEST];
    let requests = || (0..BYTES).step_by(REQUEST).map(|offset| offset / SECTOR);
    let mut random = seed;
    for sector in requests() {
        for word in data.as_chunks_mut().0 {
            *word = split_mix(&mut random).to_le_bytes();
        }
        disk.write(sector, &data).map_err(Failure::new)?;
    }
    let mut words = 0;
    random = seed;
    for sector in requests() {
        data.fill(0);
        disk.read(sector, &mut data).map_err(Failure::new)?;
        words += equal(&data, &mut random);
    }
    report.equal("words written and read back, equal", BYTES / 8, words);
    log::info!("  {} MiB there and back in {} ms", BYTES >> 20, (timer::now() - start).as_millis());
    Ok(())
}

/// How many words of `data` are the next ones of `random`.
fn equal(data: &[u8], random: &mut u64) -> usize {
    data.as_chunks().0.iter().filter(|word| **word == split_mix(random).to_le_bytes()).count()
}

/// Has the disk do a request while `page`, which it writes for that, is not mapped, and says how the request ended. What is looked
/// at is the first record: QEMU 7.2 and 10.0 report the second half of a queue's entry at its offset in the queue.
fn without_page(
    bench: &mut Bench,
    report: &mut Report,
    behind: &Behind,
    space: &AddressSpace,
    page: u64,
    disk: &mut Disk,
) -> Result<Result<(), VirtioError>, Failure> {
    if !space.unmap(page) {
        return Err(Failure::new("a page of a disk was not mapped"));
    }
    let grace = bench.kernel.domain.synchronize(&mut bench.cpu, &mut Timer, LIMIT_US).map_err(Failure::new)?;
    let pages = Pages { first: page, count: 1 };
    behind.front.smmu.invalidate_pages(&mut bench.cpu, &grace, space.asid(), pages)?;
    behind.front.events.take(&bench.cpu);
    let before = behind.front.events.seen();
    let ended = disk.read(0, &mut [0; SECTOR]);
    let first = bench.blocked(behind, before)?.into_iter().next();
    report.equal(
        "a write to a page taken away is reported",
        Some(Seen { kind: Some(FaultKind::Translation), stream: behind.stream, address: page, write: true }),
        first.map(|seen| Seen { address: seen.address & !(PAGE - 1), ..seen }),
    );
    Ok(ended)
}
