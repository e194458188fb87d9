//! A disk of QEMU's behind QEMU's SMMU: what is written comes back, a page taken away is out of its reach, and it goes on.

use alloc::vec;
use core::sync::atomic::Ordering::Relaxed;

use super::bench::{Bench, Failure, LIMIT_US, PAGE, split_mix};
use super::reach::Reach;
use crate::arch::timer;
use crate::kernel::report::Report;
use crate::platform::virtio::{DISK, Disk, VENDOR, VirtioError};

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
    let Some(behind) = bench.behind(report, bench.expected.unpaced, "virtio-blk", [VENDOR, DISK]) else {
        return Ok(());
    };
    let reach = Reach::new(bench, &behind, AREA)?;
    bench.attach(&behind, &reach.space)?;
    Disk::share(reach.shared(bench)?).map_err(Failure::new)?;
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
    let data = reach.written.start + PAGE;
    let mark = || reach.written.words(PAGE, SECTOR as u64).iter();
    mark().for_each(|word| word.store(MARK, Relaxed));
    let ended = reach.without_page(bench, report, &behind, data, || disk.read(0, &mut [0; SECTOR]))?;
    log::info!("  the disk says of the request: {ended:?}");
    let untouched = mark().filter(|word| word.load(Relaxed) == MARK).count();
    report.equal("and blocked: words of the page that hold", SECTOR / 8, untouched);
    reach.map(data)?;
    first_sector(report, &mut disk)?;
    drop(disk);

    // What it can't say in its queue, nobody hears.
    let mut disk = start(bench, LOST_US)?;
    let ended = reach.without_page(bench, report, &behind, reach.written.start, || disk.read(0, &mut [0; SECTOR]))?;
    report.equal("the request is lost", true, matches!(ended, Err(VirtioError::Timeout { .. })));
    drop(disk);
    reach.map(reach.written.start)?;
    let mut disk = start(bench, LIMIT_US)?;
    first_sector(report, &mut disk)?;

    drop(disk);
    bench.bus()?.allow_dma(behind.function.address, false);
    bench.reclaim(&behind.front.smmu, vec![reach.space])?;
    Ok(behind.front.smmu.detach(&mut bench.cpu, behind.stream)?)
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
