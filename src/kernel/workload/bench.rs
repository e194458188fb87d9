//! What the parts of the main job share: address spaces, streams, engines, and waiting for them.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use crate::arch::timer;
use crate::driver::dma::{DmaMemory, DmaRegion, NoMemory};
use crate::driver::{Context, DriverError, FaultMode, StreamConfig, Translation};
use crate::iopf::{FaultHandler, Priority, StreamLimits};
use crate::kernel::control_page::{ControlPage, Traps};
use crate::kernel::devices::{BoardSmmu, Devices, EngineUnit, Unit};
use crate::kernel::engine::{Job, Status};
use crate::kernel::report::Report;
use crate::kernel::runtime::{Kernel, Work};
use crate::platform::pci::{Ecam, RootBus};
use crate::smmuv3::{StreamId, SubstreamId};
use crate::sva::address_space::{AddressSpace, Backing, Region, SpaceError};
use crate::sva::frames::{FRAME_BYTES, FramePool, PoolError};
use crate::sva::pager::DemandPager;
use crate::sva::{MAIR, Permissions, T0SZ};
use crate::sync::Cpu;

/// Page frames for address spaces: twice what the largest part has in use at a time.
const FRAMES: u32 = 8192;

/// How long a job of an engine may take.
pub(super) const JOB_LIMIT: Duration = Duration::from_secs(20);

/// How long anything else may take.
pub(super) const LIMIT_US: u32 = 5_000_000;

/// The bytes of a page.
pub(super) const PAGE: u64 = FRAME_BYTES as u64;

/// A step of the main job that went wrong in a way that no check is about.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Driver(#[from] DriverError),
    #[error("{0}")]
    Space(#[from] SpaceError),
    #[error("{0}")]
    Memory(#[from] NoMemory),
    #[error("{0}")]
    Frames(#[from] PoolError),
    #[error("{0}")]
    Other(String),
}

impl Failure {
    pub(super) fn new(what: impl fmt::Display) -> Self {
        Self::Other(alloc::format!("{what}"))
    }
}

/// Which SMMUs the launcher has put into the machine. A part of the main job whose hardware is there must run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) qemu: bool,
    pub(super) model: bool,
    /// The launcher has put devices behind QEMU's SMMU that QEMU serves in its own time.
    pub(super) unpaced: bool,
}

/// Why a part of the main job has no engine to work with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lack {
    /// There is none of its kind.
    Engine,
    /// The SMMU in front of it lacks this.
    Feature(&'static str),
}

/// The machine, ready for work.
pub(super) struct Bench {
    pub(super) kernel: &'static Kernel,
    pub(super) devices: &'static Devices,
    pub(super) cpu: Cpu,
    pub(super) frames: Arc<FramePool>,
    /// The PCIe bus, if there is one.
    pub(super) bus: Option<Box<RootBus<Ecam>>>,
    /// The model's, if it is there.
    pub(super) control_page: Option<ControlPage>,
    pub(super) expected: Expected,
    /// Page-ins that faults had in common with others, in address spaces that have ended.
    pub(super) saved: u64,
    random: u64,
}

/// An engine's stream, served by a pager.
pub(super) struct Served {
    pub(super) unit: &'static EngineUnit,
    pub(super) smmu: Arc<BoardSmmu>,
    pub(super) spaces: Vec<Arc<AddressSpace>>,
}

impl Bench {
    pub(super) fn new(
        kernel: &'static Kernel,
        devices: &'static Devices,
        cpu: Cpu,
        seed: u64,
        expected: Expected,
    ) -> Result<Self, Failure> {
        let frames = Arc::new(FramePool::new(&*kernel.device_memory, FRAMES, devices.coherence())?);
        let zeroing: Arc<dyn Work> = frames.clone();
        kernel.add_work(&cpu, zeroing).map_err(|_| Failure::new("no room for more work"))?;
        let board = &kernel.board;
        let control_page = board.control.as_ref().and_then(|window| board.registers(window)).and_then(ControlPage::new);
        let bus = super::pci::bring_up(board)?;
        Ok(Self { kernel, devices, cpu, frames, bus, control_page, expected, saved: 0, random: seed })
    }

    /// Notes that `what` cannot be checked: a failure if the hardware for it is `expected` to be there.
    pub(super) fn lacks(&self, report: &mut Report, expected: bool, what: &str, why: &str) {
        if expected { report.error(what, why) } else { report.not_checked(what, why) }
    }

    /// As [`Bench::lacks`], for want of an engine behind the modelled SMMU, or of what the SMMU would need for it.
    pub(super) fn lacks_engine(&self, report: &mut Report, what: &str, lack: Lack) {
        match lack {
            Lack::Engine => self.lacks(report, self.expected.model, what, "this machine has no engine for it"),
            Lack::Feature(why) => report.not_checked(what, why),
        }
    }

    /// The next number of the seed's sequence.
    pub(super) fn random(&mut self) -> u64 {
        split_mix(&mut self.random)
    }

    /// A seed for an engine's order of pages, never 0.
    pub(super) fn job_seed(&mut self) -> u32 {
        self.random() as u32 | 1
    }

    /// Memory of `bytes` full of random words.
    pub(super) fn random_memory(&mut self, bytes: u64) -> Result<DmaRegion, Failure> {
        let region = self.kernel.device_memory.allocate(bytes as usize, FRAME_BYTES)?;
        region.words.iter().for_each(|word| word.store(self.random(), Relaxed));
        Ok(region)
    }

    /// A start for a region: somewhere in the `index`th GiB, so that regions of different indices do not meet.
    pub(super) fn somewhere(&mut self, index: u64) -> u64 {
        ((index + 1) << 30) + (self.random() & 0xff << 21)
    }

    /// The SMMU in front of `unit`.
    pub(super) fn front(&self, unit: &EngineUnit) -> Result<&'static Unit, Failure> {
        self.devices.smmu_of(unit).ok_or_else(|| Failure::new("no SMMU in front of an engine"))
    }

    /// An address space with `regions` for devices behind `front`.
    pub(super) fn space(&mut self, front: &Unit, regions: &[Region]) -> Result<Arc<AddressSpace>, Failure> {
        let asid = front.smmu.take_asid(&mut self.cpu)?;
        Ok(Arc::new(AddressSpace::new(asid, regions, self.frames.clone())?))
    }

    /// The engine number `index` among those that stall, or among those that send page requests with a PASID, if the SMMU
    /// in front of it can do that.
    pub(super) fn engine(&self, can_stall: bool, index: usize) -> Result<&'static EngineUnit, Lack> {
        let mut engines = self.devices.engines.iter().filter(|unit| unit.description.can_stall == can_stall);
        let unit = engines.nth(index).ok_or(Lack::Engine)?;
        let features = self.devices.smmu_of(unit).ok_or(Lack::Engine)?.smmu.features();
        match can_stall {
            true if !features.can_stall() => Err(Lack::Feature("its SMMU never stalls")),
            false if !features.pri => Err(Lack::Feature("its SMMU takes no page requests")),
            false if features.ssid_bits < unit.description.pasid_bits => {
                Err(Lack::Feature("its SMMU has fewer SubstreamIDs than the engine has PASIDs"))
            }
            _ => Ok(unit),
        }
    }

    /// Attaches the stream of `unit` to `spaces` and has a pager serve its faults, called through what `wrap` makes of it.
    pub(super) fn serve(
        &mut self,
        unit: &'static EngineUnit,
        spaces: &[(Option<SubstreamId>, Arc<AddressSpace>)],
        wrap: impl FnOnce(Arc<DemandPager>) -> Arc<dyn FaultHandler>,
    ) -> Result<Served, Failure> {
        let front = self.front(unit)?;
        let (smmu, stream, cpu) = (&front.smmu, unit.engine.stream(), &mut self.cpu);
        let stalls = unit.description.can_stall;
        let plain = spaces.iter().find(|(substream, _)| substream.is_none());
        let config = StreamConfig {
            faults: if stalls { FaultMode::Stall } else { FaultMode::PageRequest },
            translation: Translation::Stage1 {
                context: plain.map(|(_, space)| context(space)),
                substream_bits: if stalls { 0 } else { unit.description.pasid_bits },
            },
        };
        smmu.attach(cpu, stream, &config)?;
        for (substream, space) in spaces {
            if let Some(substream) = substream {
                smmu.attach_substream(cpu, stream, *substream, Some(&context(space)))?;
            }
        }
        let pager = Arc::new(DemandPager::new(spaces.into(), self.kernel.work_queues.clone()));
        let limits = StreamLimits { groups: 64, requests: 32, time_out_us: 10_000_000, priority: Priority::Normal };
        smmu.enable_faults(cpu, &[stream], Some(&unit.engine), wrap(pager), limits)?;
        let spaces = spaces.iter().map(|(_, space)| space.clone()).collect();
        Ok(Served { unit, smmu: smmu.clone(), spaces })
    }

    /// Ends what [`Bench::serve`] began, and gives the memory back.
    pub(super) fn end(&mut self, served: Served) -> Result<(), Failure> {
        let Served { unit, smmu, spaces } = served;
        if let Some(latencies) = self.cpu.masked(|masked| smmu.faults().latencies(masked, unit.engine.stream())) {
            let (stream, us) =
                (unit.engine.stream(), |percent| latencies.below(percent).map_or(u64::MAX, timer::ticks_to_us));
            let answers = latencies.count();
            log::info!("  {stream:?}: {answers} answers, half within {} us, 99 of 100 within {} us", us(50), us(99));
        }
        smmu.disable_faults(&mut self.cpu, unit.engine.stream(), &unit.engine)?;
        self.release(unit.engine.stream(), &smmu, spaces)
    }

    /// Gives back what is left when faults are disabled.
    pub(super) fn release(
        &mut self,
        stream: StreamId,
        smmu: &BoardSmmu,
        spaces: Vec<Arc<AddressSpace>>,
    ) -> Result<(), Failure> {
        self.reclaim(smmu, spaces)?;
        Ok(smmu.detach(&mut self.cpu, stream)?)
    }

    /// Gives the memory of `spaces`, which only `smmu` knows, back: no fault finds them any more.
    pub(super) fn reclaim(&mut self, smmu: &BoardSmmu, spaces: Vec<Arc<AddressSpace>>) -> Result<(), Failure> {
        self.settle();
        for space in spaces {
            // Groups that still wait for a core with time, or are on one, hold the fault state, and it the pager and the space.
            let mut shared = Some(space);
            let owned = self.kernel.wait_until(&mut self.cpu, Duration::from_micros(LIMIT_US.into()), || {
                shared.take().map(Arc::try_unwrap).transpose().map_err(|space| {
                    let holders = Arc::strong_count(&space);
                    shared = Some(space);
                    holders
                })
            });
            let owned =
                owned.map_err(|expired| Failure::new(format_args!("{} hold an ended address space", expired.last)))?;
            if let Some(space) = owned {
                self.saved += space.page_ins().saved();
                let forgotten = smmu.forget(&mut self.cpu, space).map_err(|remembered| remembered.error)?;
                AddressSpace::reclaim(forgotten);
            }
        }
        Ok(())
    }

    /// Lets grace periods pass until nothing waits to be freed, or half a second is over.
    pub(super) fn settle(&mut self) {
        let domain = &self.kernel.domain;
        // Whether it came to that is for the checks of what is live.
        let _ = self.kernel.wait_until(&mut self.cpu, Duration::from_millis(500), || match domain.stats().pending() {
            0 => Ok(()),
            pending => Err(pending),
        });
    }

    /// Starts `job` on `unit` and waits for its end.
    pub(super) fn run_job(&mut self, unit: &EngineUnit, job: &Job) -> Result<Status, Failure> {
        let before = unit.engine.jobs_ended();
        unit.engine.start(job);
        self.wait_for_job(unit, before)
    }

    /// Waits until `unit` has told of the end of a job after `before`.
    pub(super) fn wait_for_job(&mut self, unit: &EngineUnit, before: u32) -> Result<Status, Failure> {
        self.wait("an engine's interrupt", JOB_LIMIT, || unit.engine.jobs_ended() != before)?;
        Ok(unit.engine.status())
    }

    /// The traps to the model until now, if it counts them.
    pub(super) fn traps(&self) -> Option<Traps> {
        self.control_page.as_ref().map(ControlPage::traps)
    }

    /// The traps to the model since `before`.
    pub(super) fn traps_since(&self, before: Option<Traps>) -> Option<Traps> {
        Some(self.traps()?.since(before?))
    }

    /// Prints what `faults` faults in `groups` groups cost in traps, those of the engine's registers apart: they start and end the
    /// job. It varies with batches and time, so nothing is checked.
    pub(super) fn print_traps(&self, what: impl fmt::Display, faults: u64, groups: u64, traps: Option<Traps>) {
        let Some(Traps { smmu_reads, smmu_writes, control, engines, other }) = traps else { return };
        let smmu = smmu_reads.wrapping_add(smmu_writes);
        let ratio = |count: u32, of: u64| Hundredths(100 * u64::from(count) / of.max(1));
        log::info!(
            "  {what}: {} traps a fault, {} a group: of {smmu} {smmu_reads} are reads and {smmu_writes} writes of the SMMU's \
             registers; besides {engines} of the engine's, {control} of the control page, {other} others",
            ratio(smmu, faults),
            ratio(smmu, groups),
        );
    }

    /// Works and sleeps until `reached`.
    pub(super) fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut reached: impl FnMut() -> bool,
    ) -> Result<(), Failure> {
        self.kernel
            .wait_until(&mut self.cpu, limit, || if reached() { Ok(()) } else { Err(()) })
            .map_err(|expired| Failure::new(format_args!("{what} did not come within {} us", expired.waited_us)))
    }
}

/// The next number of the sequence that begins with `state` (SplitMix64).
pub(super) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A number of hundredths, as a decimal.
struct Hundredths(u64);

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// How a context descriptor describes `space`.
pub(super) fn context(space: &AddressSpace) -> Context {
    Context { table: space.root(), asid: space.asid(), t0sz: T0SZ, mair: MAIR }
}

/// A readable and writable region of new pages.
pub(super) const fn anonymous(start: u64, bytes: u64) -> Region {
    Region { start, bytes, permissions: Permissions::READ_WRITE, backing: Backing::Anonymous }
}

/// A read-only region of pages that are there.
pub(super) const fn backed(start: u64, bytes: u64, memory: &DmaRegion) -> Region {
    Region { start, bytes, permissions: Permissions::READ, backing: Backing::Memory(memory.phys) }
}

/// How many of the words at `start` of `space` are what `expected` holds. A word whose page is not mapped is not.
pub(super) fn equal_words(space: &AddressSpace, start: u64, expected: &DmaRegion) -> usize {
    let is_equal = |(index, word): &(usize, &core::sync::atomic::AtomicU64)| {
        space.word(start + *index as u64 * 8).is_some_and(|copy| copy.load(Relaxed) == word.load(Relaxed))
    };
    expected.words.iter().enumerate().filter(is_equal).count()
}
