//! Eight cores at one command queue: none of their commands is lost, comes twice or overtakes another one of its core, no SYNC is believed
//! early, and an error is its owner's alone.

extern crate alloc;

#[path = "support/paper.rs"]
mod paper;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use paper::{Commands, MEMORY, MSI, NOT_COHERENT, Paper, Random, SEV};
use smmu_iopf::driver::dma::DmaMemory;
use smmu_iopf::model::host::HostMemory;
use smmu_iopf::sync::grace::Domain;
use smmu_iopf::sync::{CoreId, Cpu, MAX_CORES};

const EACH: Duration = Duration::from_secs(1);

/// Core `index`, for the thread that stands for it.
fn cpu(index: usize) -> Cpu {
    // SAFETY: one thread at a time stands for the core.
    unsafe { Cpu::new(CoreId::new(index).unwrap()) }
}

fn run(idr0: u32, log2: u8) {
    let memory = HostMemory::new(MEMORY).allocate(MEMORY, 1 << 12).unwrap();
    let (paper, domain) = (Paper::new(memory, idr0, log2.into()), Arc::new(Domain::new()));
    let mut first = cpu(0);
    domain.online(&mut first);
    let commands = Commands::new(paper, &domain, &mut first, log2, 500).unwrap();
    domain.offline(&mut first);
    let end = Instant::now() + EACH;
    let issue = |core| {
        let (mut cpu, mut random, mut sent) = (cpu(core), Random(core as u64), 0);
        domain.online(&mut cpu);
        while Instant::now() < end && commands.issue(&mut cpu, &mut random, &mut sent) {}
        domain.offline(&mut cpu);
        sent
    };
    let sent = thread::scope(|scope| {
        let cores = [0, 1, 2, 3, 4, 5, 6, 7].map(|core| scope.spawn(move || issue(core)));
        cores.map(|core| core.join().unwrap())
    });
    commands.check(&sent).unwrap();
    let failures = commands.paper.failures.each_ref().map(|failures| failures.load(Relaxed));
    let [illegal, aborted, lost] = failures;
    let answered = commands.answered();
    println!("IDR0 {idr0:#x}, 2^{log2} slots: {sent:?}, {answered:?} answers");
    println!("{illegal} illegal, {aborted} aborted, {lost} messages lost");
    assert!(sent.len() == MAX_CORES && sent.iter().chain(&answered).all(|count| *count > 0));
    assert!(illegal > 0 && aborted > 0 && (lost > 0) == (idr0 == MSI));
}

#[test]
fn commands_of_eight_cores_are_carried_out_once_in_order_and_syncs_are_believed_when_complete() {
    for idr0 in [MSI, SEV, 0, MSI | NOT_COHERENT] {
        // Smaller than a batch, than those of all cores together, and larger.
        for log2 in [2, 7, 10] {
            run(idr0, log2);
        }
    }
}
