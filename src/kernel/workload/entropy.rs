//! QEMU's virtio-rng behind QEMU's SMMU. Its bytes are nobody's to know, so what is checked is that they come and where to.

use alloc::vec;
use core::sync::atomic::Ordering::Relaxed;

use super::bench::{Bench, Failure, LIMIT_US, PAGE};
use super::reach::Reach;
use crate::kernel::report::Report;
use crate::platform::virtio::{ENTROPY, Entropy, VENDOR};

/// How much is asked for at a time. QEMU reports each 4 blocked bytes by themselves.
const BYTES: usize = 64;

/// What the device reads of memory, or writes: a page of its queue and one of data.
const AREA: u64 = 2 * PAGE;

pub(super) fn run(bench: &mut Bench, report: &mut Report) -> Result<(), Failure> {
    let Some(behind) = bench.behind(report, bench.expected.unpaced, "virtio-rng", [VENDOR, ENTROPY]) else {
        return Ok(());
    };
    let reach = Reach::new(bench, &behind, AREA)?;
    bench.attach(&behind, &reach.space)?;
    Entropy::share(reach.shared(bench)?).map_err(Failure::new)?;
    let mut device = Entropy::start(bench.bus()?, &behind.function, LIMIT_US).map_err(Failure::new)?;

    let mut fetched = [[0; BYTES]; 2];
    for bytes in &mut fetched {
        report.equal("random bytes that come", BYTES, device.fill(bytes).map_err(Failure::new)?);
    }
    // By chance once in 2^512 runs.
    report.equal("they are other ones each time", true, fetched[0] != fetched[1]);

    let data = reach.written.start + PAGE;
    let page = || reach.written.words(PAGE, PAGE).iter();
    page().for_each(|word| word.store(0, Relaxed));
    let mut bytes = [0; BYTES];
    let ended = reach.without_page(bench, report, &behind, data, || device.fill(&mut bytes))?;
    log::info!("  the device says of the request: {ended:?}");
    report.equal(
        "and blocked: words of the page that are not 0",
        0,
        page().filter(|word| word.load(Relaxed) != 0).count(),
    );
    reach.map(data)?;
    report.equal("random bytes when the page is back", BYTES, device.fill(&mut bytes).map_err(Failure::new)?);
    report.equal("they arrive", true, bytes != [0; BYTES]);

    drop(device);
    bench.bus()?.allow_dma(behind.function.address, false);
    bench.reclaim(&behind.front.smmu, vec![reach.space])?;
    Ok(behind.front.smmu.detach(&mut bench.cpu, behind.stream)?)
}
