//! What bring-up has of memory is given back when it fails, and what a driver has of it does not grow from life to life.

use super::*;
use driver_bench::Need;
use driver_bench::life::{self, Kernel};
use smmu_iopf::driver::dma::{self, CacheMaintenance, DmaRegion};
use smmu_iopf::driver::registers::Registers;
use smmu_iopf::model::control;
use smmu_iopf::smmuv3::registers::Register;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Device memory that fails once, after `good` allocations.
struct Scarce {
    memory: Arc<machine::MachineMemory>,
    good: AtomicUsize,
    /// The bytes in use, and the address behind the last byte that ever was.
    used: AtomicUsize,
    end: AtomicU64,
    /// What was given back.
    free: Mutex<[Option<DmaRegion>; 8]>,
}

impl Scarce {
    fn new(machine: &Machine) -> Arc<Self> {
        let (memory, good) = (machine.memory().clone(), AtomicUsize::new(usize::MAX));
        Arc::new(Self { memory, good, used: AtomicUsize::new(0), end: AtomicU64::new(0), free: Mutex::default() })
    }

    fn usage(&self) -> (usize, u64) {
        (self.used.load(Relaxed), self.end.load(Relaxed))
    }
}

impl DmaMemory for Scarce {
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, dma::NoMemory> {
        if self.good.fetch_sub(1, Relaxed) == 0 {
            return Err(dma::NoMemory { bytes, align });
        }
        let fits =
            |region: &mut DmaRegion| size_of_val(region.words) == bytes && region.phys.0.is_multiple_of(align as u64);
        let free = self.free.lock().unwrap().iter_mut().find_map(|region| region.take_if(fits));
        let region = free.map_or_else(|| self.memory.allocate(bytes, align), Ok)?;
        self.used.fetch_add(bytes, Relaxed);
        self.end.fetch_max(region.phys.0 + bytes as u64, Relaxed);
        Ok(region)
    }

    fn free(&self, region: DmaRegion) {
        self.used.fetch_sub(size_of_val(region.words), Relaxed);
        region.words.iter().for_each(|word| word.store(0, Relaxed));
        let mut free = self.free.lock().unwrap();
        assert!(free.iter().flatten().all(|other| other.phys != region.phys), "twice");
        *free.iter_mut().find(|place| place.is_none()).unwrap() = Some(region);
    }

    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        self.memory.maintenance()
    }
}

/// Heap and device memory are full at each allocation of bring-up in turn, of an SMMU that an earlier owner left on.
#[test]
fn a_failed_bring_up_leaves_the_smmu_off_and_gives_everything_back() {
    driver_bench::on_each(&[], |profile| {
        let fresh = || {
            let machine = machine::reset(machine::memory(4 << 20, profile.features().coherent), profile);
            let memory = Scarce::new(&machine);
            (machine, memory)
        };
        let domain = Arc::new(Domain::new());
        let cpu = RefCell::new(driver_bench::cpu(0));
        domain.online(&mut cpu.borrow_mut());
        let hooks = Hooks { wake: Arc::new(Deaf), events: Arc::new(driver_bench::Sink::default()) };
        let probe = |machine: &Arc<Machine>, memory: &Arc<Scarce>| {
            let options = Options { trace: true, limit_us: driver_bench::LIMIT_US, ..Options::default() };
            let (domain, hooks) = (domain.clone(), hooks.clone());
            Smmu::probe(&mut cpu.borrow_mut(), machine.clone(), memory.clone(), domain, machine.delay(), hooks, options)
        };
        let (machine, memory) = fresh();
        drop(probe(&machine, &memory).unwrap());
        let once = memory.usage();
        drop((machine, memory));

        let (machine, memory) = fresh();
        let check = |machine: &Machine, memory: &Scarce| {
            let registers = [Register::Cr0, Register::Cr0Ack, Register::IrqCtrl, Register::IrqCtrlAck];
            assert_eq!(registers.map(|register| machine.read32(register)), [0; 4], "{}", profile.name());
            assert_eq!(memory.usage().0, 0, "{}", profile.name());
        };
        for site in 0.. {
            leave_on(&machine);
            let before = HEAP.get().bytes;
            memory.good.store(site, Relaxed);
            let probed = probe(&machine, &memory).map(drop);
            let after = HEAP.get().bytes;
            if memory.good.swap(usize::MAX, Relaxed) < usize::MAX / 2 {
                // The stream table, two queues; lines for messages, the PRI queue.
                let regions = 3
                    + usize::from(Need::SyncMessages.is_met(profile))
                    + usize::from(Need::PageRequests.is_met(profile));
                assert_eq!((probed, site), (Ok(()), regions), "{}", profile.name());
                break;
            }
            assert!(matches!(probed, Err(DriverError::NoMemory(_))), "{}, {site}: {probed:?}", profile.name());
            check(&machine, &memory);
            assert_eq!(after, before, "{}, {site}", profile.name());
        }
        assert_eq!(memory.usage(), once, "{}: as the first time", profile.name());

        drop((machine, memory));
        let (machine, memory) = fresh();
        let work = || {
            leave_on(&machine);
            probe(&machine, &memory)
        };
        let (smmu, failures) = with_growing_heap(work, |error| {
            assert!(matches!(error, DriverError::HeapFull | DriverError::NoTable), "{error}");
            check(&machine, &memory);
        });
        assert_eq!(failures, 11, "{}", profile.name());
        assert_eq!(memory.usage(), once, "{}: as the first time", profile.name());
        drop(smmu);

        // Nothing is given back that the SMMU may still reach: no command is consumed, and CR0 = 0 is acknowledged or not.
        for hold in [control::COMMANDS_HELD, control::CR0_LATE] {
            for number in 0.. {
                let (machine, memory) = fresh();
                machine.write_control(control::PASSED, number);
                machine.write_control(hold, control::UNTIL_RELEASED);
                let Err(error) = probe(&machine, &memory) else {
                    assert!(number >= 3, "{}: {hold:#x}", profile.name());
                    break;
                };
                let place = format!("{}: {error}", profile.name());
                if hold == control::COMMANDS_HELD {
                    assert!(matches!(error, DriverError::CommandTimeout(_)), "{place}");
                    check(&machine, &memory);
                } else {
                    assert!(matches!(error, DriverError::Timeout(_)), "{place}");
                    assert_eq!(memory.usage().0, once.0, "{place}");
                }
                machine.write_control(hold, 0);
                drop(probe(&machine, &memory).unwrap());
                let end = memory.usage().1;
                assert_eq!(end == once.1, hold == control::COMMANDS_HELD, "{place}");
            }
        }

        // Nor where the message of its CMD_SYNC may still come: that is consumed, and EVENTQEN, behind CMDQEN, acknowledged too late.
        if Need::SyncMessages.is_met(profile) {
            for late_ticks in [0, 10 * driver_bench::LIMIT_US] {
                let (machine, memory) = fresh();
                machine.write_control(control::SOURCES, 1 << 2);
                machine.write_control(control::LATE_TICKS, late_ticks);
                machine.write_control(control::INTERRUPT_LATE, 1);
                machine.write_control(control::PASSED, 1);
                machine.write_control(control::CR0_LATE, driver_bench::LIMIT_US + 100);
                let probed = probe(&machine, &memory).map(drop);
                assert!(matches!(probed, Err(DriverError::Timeout(_))), "{}: {probed:?}", profile.name());
                // 128 bytes for each of 8 cores.
                assert_eq!(memory.usage().0, if late_ticks == 0 { 0 } else { 1024 }, "{}", profile.name());
            }
        }
    });
}

/// What an earlier owner leaves: a command queue that is on.
fn leave_on(machine: &Machine) {
    machine.write32(Register::Cr0, 0);
    machine.run(10);
    machine.write32(Register::Cr1, 0);
    machine.write64(Register::CmdqBase, 0);
    machine.write32(Register::CmdqProd, 0);
    machine.write32(Register::CmdqCons, 0);
    machine.write32(Register::Cr0, 1 << 3);
    machine.run(10);
    assert_eq!(machine.read32(Register::Cr0Ack), 1 << 3);
}

/// Each thing that may fail, at each occurrence in a life, in one life after another on the same driver; where a life is not the usual one, each
/// command, as the rest is the same.
#[test]
fn lives_in_which_the_same_fails_take_no_more_memory_and_the_same_tags() {
    let [usual, others @ ..] = life::LIVES.map(|(life, _)| life);
    for profile in [Profile::Full, Profile::NonCoherent] {
        same_again(profile, usual, (control::EVENT_WRITE..=control::INTERRUPT_LATE).step_by(8));
    }
    for life in others {
        same_again(Profile::Full, life, [control::COMMAND_ILLEGAL, control::ATC_INVALIDATION].into_iter());
    }
}

fn same_again(profile: Profile, life: life::Life, points: impl Iterator<Item = usize>) {
    const LIVES: usize = 4;
    let holds = [control::COMMANDS_HELD];
    for point in points.chain(holds) {
        for number in 1.. {
            let machine = life::machine(profile.into());
            let mut kernel = Kernel::new(profile.into(), &machine);
            let mut taken = Vec::with_capacity(LIVES);
            for _ in 0..LIVES {
                let is_hold = holds.contains(&point);
                machine.write_control(control::PASSED, number - 1);
                machine.write_control(point, if is_hold { control::UNTIL_RELEASED } else { number });
                let tags = kernel.live_again(life);
                machine.write_control(point, 0);
                // The kernel's and the bench's own.
                kernel.outcome = life::Outcome::default();
                kernel.bench.sink.take_lines();
                *kernel.bench.sink.0.lock() = Vec::new();
                let driver = (kernel.bench.memory.used.load(Relaxed), HEAP.get().bytes);
                taken.push((tags, driver));
            }
            assert!(taken[1..].iter().all(|again| *again == taken[1]), "{point:#x}, {number}: {taken:?}");
            assert_eq!(taken[0].0, taken[1].0, "{point:#x}, {number}");
            if machine.read_control(point + control::HAPPENED) == 0 {
                break;
            }
        }
    }
}
