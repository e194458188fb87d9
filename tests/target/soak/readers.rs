//! Interrupt handlers that read under grace periods, and keep references for a while.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use arm_gic::IntId;
use arm_gic::gicv3::{GicCpuInterface, SgiTarget, SgiTargetGroup};
use heapless::Deque;
use smmu_iopf::arch::timer::Timer;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::devices::BoardSmmu;
use smmu_iopf::smmuv3::StreamId;
use smmu_iopf::sync::grace::{Domain, Ref, Slot};
use smmu_iopf::sync::lock::IrqLock;
use smmu_iopf::sync::{MAX_CORES, Masked, wait};

use super::Random;
use crate::harness::Failure;

/// A software-generated interrupt that is nobody's.
const SGI: u32 = 8;

/// In a redistributor's second frame.
const GICR_ISENABLER0: usize = 0x1_0100;
/// The size of a redistributor's frames, without those of GICv4.
const GICR_STRIDE: usize = 0x2_0000;

/// References that each core keeps.
const KEPT: usize = 4;

const ALIVE: u32 = 0x600d_600d;

/// Something that says whether it has been freed.
#[derive(Debug)]
struct Token(AtomicU32);

impl Drop for Token {
    fn drop(&mut self) {
        self.0.store(0, SeqCst);
    }
}

struct Shared {
    domain: Arc<Domain>,
    smmu: Arc<BoardSmmu>,
    streams: [StreamId; 4],
    token: Slot<Token>,
    kept: [IrqLock<Deque<Ref<Token>, KEPT>>; MAX_CORES],
    taken: AtomicU64,
    found_dead: AtomicBool,
}

/// The readers of all cores.
pub(super) struct Readers(Arc<Shared>);

impl Readers {
    /// Turns the interrupt on at each core. To be made once.
    pub(super) fn new(kernel: &'static Kernel, smmu: Arc<BoardSmmu>, streams: [StreamId; 4]) -> Result<Self, Failure> {
        let window = kernel.board.gic.redistributors.first().ok_or("no redistributor")?;
        let redistributors = kernel.board.registers(window).ok_or("the redistributors are not mapped")?;
        let shared = Arc::new(Shared {
            domain: kernel.domain.clone(),
            smmu,
            streams,
            token: Slot::new(kernel.domain.clone()),
            kept: [const { IrqLock::new(Deque::new()) }; MAX_CORES],
            taken: AtomicU64::new(0),
            found_dead: AtomicBool::new(false),
        });
        let handled = shared.clone();
        kernel.interrupts.connect_private(SGI, Box::new(move |masked| handled.read(masked)))?;
        (0..kernel.cores()).for_each(|core| redistributors.write32(GICR_STRIDE * core + GICR_ISENABLER0, 1 << SGI));
        let readers = Self(shared);
        readers.replace()?;
        Ok(readers)
    }

    /// Sends interrupts to cores that chance chooses.
    pub(super) fn storm(&self, kernel: &Kernel, random: &mut Random) {
        for _ in 0..1 + random.below(16) {
            let core = random.below(kernel.cores() as u32);
            let target = SgiTarget::List { affinity3: 0, affinity2: 0, affinity1: 0, target_list: 1 << core };
            // Fails for INTIDs above 15 only.
            let _ = GicCpuInterface::send_sgi(IntId::sgi(SGI), target, SgiTargetGroup::CurrentGroup1);
        }
    }

    /// Puts another object into the place of what the handlers read.
    pub(super) fn replace(&self) -> Result<(), Failure> {
        let Self(shared) = self;
        drop(shared.token.unpublish());
        let token = Ref::new(&shared.domain, Token(AtomicU32::new(ALIVE)))?;
        shared.token.publish(token).map_err(|_| Failure::from("the slot is not empty"))
    }

    /// Lets everything go, so that all can be freed.
    pub(super) fn let_go(&self, masked: &Masked) {
        let Self(shared) = self;
        drop(shared.token.unpublish());
        for kept in &shared.kept {
            let mut kept = kept.lock(masked);
            while kept.pop_front().is_some() {}
        }
    }

    /// How many interrupts were taken, and whether a handler found what was freed.
    pub(super) fn seen(&self) -> (u64, bool) {
        (self.0.taken.load(Relaxed), self.0.found_dead.load(Relaxed))
    }
}

impl Shared {
    /// The handler.
    fn read(&self, masked: &Masked) {
        let count = self.taken.fetch_add(1, Relaxed);
        let section = self.domain.read(masked);
        let check = |token: &Token| {
            if token.0.load(SeqCst) != ALIVE {
                self.found_dead.store(true, Relaxed);
            }
        };
        let Some(token) = self.token.load(&section) else { return };
        check(token);
        // The fault states that these read are those that come and go.
        let stream = self.streams[count as usize % self.streams.len()];
        self.smmu.faults().unanswered(masked, stream);
        self.smmu.faults().statistics(masked, stream);
        if count.is_multiple_of(4) {
            let _ = wait::until(&mut Timer, 20, || Err::<(), _>(()));
        }
        check(token);
        let mut kept = self.kept[masked.core().index()].lock(masked);
        kept.iter().for_each(|kept| check(kept));
        if kept.is_full() {
            kept.pop_front();
        }
        if let Some(reference) = token.try_ref() {
            let _ = kept.push_back(reference);
        }
    }
}
