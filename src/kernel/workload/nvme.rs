//! An NVMe controller of QEMU's behind QEMU's SMMU: it reads and writes the data where it lies, loses a page, and goes on.

use alloc::vec;
use core::sync::atomic::Ordering::Relaxed;

use super::bench::{Bench, Failure, LIMIT_US, PAGE, split_mix};
use super::reach::Reach;
use crate::arch::timer;
use crate::kernel::report::Report;
use crate::platform::nvme::{DEVICE, Nvme, NvmeError, READ_PAGES, VENDOR, WRITTEN_PAGES, Window};

/// How much is written and read back.
const BYTES: u64 = 16 << 20;

/// How much of it in a command: pages on a list.
const REQUEST: u64 = 256 << 10;

/// The bytes of a command that is to be blocked: QEMU reports each 4 bytes by themselves.
const BLOCK: u64 = 512;

/// Where the data lies, behind what the driver has for itself.
const DATA: u64 = if READ_PAGES > WRITTEN_PAGES { READ_PAGES } else { WRITTEN_PAGES } * PAGE;

/// How long a command may take that never ends.
const LOST_US: u32 = 50_000;

/// What a page holds that the controller must not write.
const MARK: u64 = 0x5a5a_5a5a_5a5a_5a5a;

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let Some(behind) = bench.behind(report, bench.expected.unpaced, "NVMe", [VENDOR, DEVICE]) else { return Ok(()) };
    let reach = Reach::new(bench, &behind, DATA + REQUEST)?;
    bench.attach(&behind, &reach.space)?;
    let bar = behind.function.bars[0].as_ref().ok_or_else(|| Failure::new("the NVMe controller has no BAR 0"))?;
    let [read, written] = [reach.read, reach.written].map(|of| Window { address: of.start, memory: of.memory });
    let board = &bench.kernel.board;
    let start = |limit_us| {
        let registers = board.registers(bar).ok_or_else(|| Failure::new("PCIe is not mapped"))?;
        Nvme::start(registers, read, written, limit_us).map_err(Failure::new)
    };
    let mut nvme = start(LIMIT_US)?;
    report.equal("bytes of the disk", BYTES, nvme.bytes());
    let seed = bench.random();
    there_and_back(report, &reach, &mut nvme, seed)?;

    let data = reach.written.start + DATA;
    let words = || reach.written.words(DATA, BLOCK).iter();
    let first_block = |report: &mut Report, nvme: &mut Nvme| {
        nvme.read(0, data, BLOCK).map_err(Failure::new)?;
        let mut random = seed;
        let equal = words().filter(|word| word.load(Relaxed) == split_mix(&mut random)).count();
        report.equal("words it reads when the page is back, equal", BLOCK as usize / 8, equal);
        Ok::<_, Failure>(())
    };

    words().for_each(|word| word.store(MARK, Relaxed));
    let ended = reach.without_page(bench, report, &behind, data, || nvme.read(0, data, BLOCK))?;
    log::info!("  the controller says of the command: {ended:?}");
    let untouched = words().filter(|word| word.load(Relaxed) == MARK).count();
    report.equal("and blocked: words of the page that hold", BLOCK as usize / 8, untouched);
    reach.map(data)?;
    first_block(report, &mut nvme)?;
    drop(nvme);

    // What it can't say in its completion queue, nobody hears, or it gives up.
    let mut nvme = start(LOST_US)?;
    let completions = reach.written.start + PAGE;
    let ended = reach.without_page(bench, report, &behind, completions, || nvme.read(0, data, BLOCK))?;
    let is_lost = matches!(ended, Err(NvmeError::Timeout { .. } | NvmeError::Fatal));
    report.equal("the command is lost", true, is_lost);
    drop(nvme);
    reach.map(completions)?;
    let mut nvme = start(LIMIT_US)?;
    first_block(report, &mut nvme)?;

    drop(nvme);
    bench.bus()?.allow_dma(behind.function.address, false);
    bench.reclaim(&behind.front.smmu, vec![reach.space])?;
    Ok(behind.front.smmu.detach(&mut bench.cpu, behind.stream)?)
}

/// Has the controller write random words to the disk from where it may only read, and read them back to where it may write.
fn there_and_back(report: &mut Report, reach: &Reach, nvme: &mut Nvme, seed: u64) -> Result<(), Failure> {
    let began = timer::now();
    let requests = || (0..BYTES).step_by(REQUEST as usize);
    let mut random = seed;
    for place in requests() {
        for word in reach.read.words(DATA, REQUEST) {
            word.store(split_mix(&mut random), Relaxed);
        }
        nvme.write(reach.read.start + DATA, place, REQUEST).map_err(Failure::new)?;
    }
    let mut equal = 0;
    random = seed;
    for place in requests() {
        let words = reach.written.words(DATA, REQUEST);
        words.iter().for_each(|word| word.store(0, Relaxed));
        nvme.read(place, reach.written.start + DATA, REQUEST).map_err(Failure::new)?;
        equal += words.iter().filter(|word| word.load(Relaxed) == split_mix(&mut random)).count();
    }
    report.equal("words written and read back, equal", BYTES as usize / 8, equal);
    log::info!("  {} MiB there and back in {} ms", BYTES >> 20, (timer::now() - began).as_millis());
    Ok(())
}
