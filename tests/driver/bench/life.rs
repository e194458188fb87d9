//! The whole life of a driver, from bring-up to teardown, whatever fails in it.

mod elsewhere;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DriverError, FaultMode, GlobalErrors, Options, OutputQueue, Pages, Tag};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, pri_status, status};
use smmu_iopf::model::smmu::diagnostics;
use smmu_iopf::model::wire::Wire;
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{Asid, PageResponse, SubstreamId};

use super::Need::{self, Ats, Faults, Messages, PageRequests, Stage2, Stall, Substreams};
use super::machine::{self, Machine};
use super::world::Tables;
use super::{Bench, Doorbells, Pager, Profile, Space, faulting_engines, substreams};

pub(crate) const BASE: u64 = 0x1000_0000;
pub(crate) const BYTES: u64 = 4 * 4096;

/// How long the engines may take, in steps, until their faults are taken away: where faults are answered, and where the
/// handlers only collect them.
pub(crate) const PATIENCE: usize = 1000;
pub(crate) const COLLECTING: usize = 250;

/// A limit that is waited for in vain at each command in turn, in microseconds, which are steps.
pub(crate) const LIMIT_US: u32 = 2000;

pub(crate) fn options() -> Options {
    Options { limit_us: LIMIT_US, stream_bits: 9, ..Options::default() }
}

pub(crate) fn machine(profile: Profile) -> Arc<Machine> {
    machine::reset(machine::memory(1 << 20, profile.features().coherent), profile)
}

/// What a life came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The first error of each step that failed, with its name.
    pub(crate) errors: Vec<(&'static str, DriverError)>,
    /// The command at CMDQ_CONS at the first of them.
    pub(crate) front: Option<[u64; 2]>,
    pub(crate) global: Vec<GlobalErrors>,
    /// The engines that were still waiting when their faults were taken away.
    pub(crate) waiting: Vec<usize>,
    /// The engines whose faults were served again after records were lost.
    pub(crate) reopened: Vec<usize>,
    /// The states of the jobs that the engines had then.
    pub(crate) interrupted: Vec<u32>,
    /// Page requests ended by a Response Failure, and were served again.
    pub(crate) failed: bool,
    /// The states of the engines' last jobs.
    pub(crate) states: Vec<u32>,
}

impl Outcome {
    /// A step failed, which will be repeated: what was held goes on.
    fn fails(&mut self, machine: &Machine, step: &'static str, error: DriverError) {
        self.front.get_or_insert_with(|| front(machine));
        self.errors.push((step, error));
        for hold in [control::CR0_LATE, control::IRQ_CTRL_LATE, control::GBPA_LATE, control::COMMANDS_HELD] {
            machine.write_control(hold, 0);
        }
    }
}

/// The command at CMDQ_CONS, if there is one in memory.
fn front(machine: &Machine) -> [u64; 2] {
    let base = u64::from(machine.read32(Register::CmdqBase));
    let (entries, address) = (1 << (base & 0x1f), base & !0x1f);
    let index = u64::from(machine.read32(Register::CmdqCons)) % entries;
    [0, 8].map(|word| machine.memory().load(address + 16 * index + word).unwrap_or(0))
}

/// A kernel that hears of interrupts and looks after the driver from time to time.
pub(crate) struct Kernel {
    pub(crate) bench: Bench,
    /// A stalling engine, and one that asks for pages, where the SMMU has both.
    pub(crate) engines: Vec<(usize, FaultMode)>,
    pub(crate) spaces: [Arc<Space>; 2],
    /// Where interrupts go as messages, if the SMMU sends some; else the kernel hears wires.
    pub(crate) bells: Option<Doorbells>,
    /// The engines' handlers, if they defer every group and never answer.
    pub(crate) deferring: Vec<Arc<Pager>>,
    pub(crate) outcome: Outcome,
    pub(crate) recover: bool,
    pub(crate) steps: u64,
    /// How often what fails is tried: once more than things go wrong.
    pub(crate) tries: usize,
}

impl Kernel {
    /// Brings the driver up, again if it fails; holds of the control page have ended then.
    pub(crate) fn new(profile: Profile, machine: &Arc<Machine>) -> Self {
        Self::up(profile, machine).unwrap()
    }

    /// The same; the error is the second one.
    pub(crate) fn up(profile: Profile, machine: &Arc<Machine>) -> Result<Self, DriverError> {
        let mut outcome = Outcome::default();
        let bench = Bench::on(machine.clone(), options(), u64::MAX).or_else(|error| {
            outcome.fails(machine, "bring-up", error);
            Bench::on(machine.clone(), options(), u64::MAX)
        })?;
        let spaces = [Space::new(&bench, 1), Space::new(&bench, 2)];
        let engines = faulting_engines(profile).collect();
        let bells = Messages.is_met(profile).then(|| Doorbells::new(machine));
        let mut kernel =
            Self { bench, engines, spaces, bells, deferring: Vec::new(), outcome, recover: false, steps: 0, tries: 2 };
        if let Some(messages) = kernel.bells.as_ref().map(Doorbells::messages) {
            kernel.again("messages", |bench| bench.smmu.set_messages(&mut bench.cpu, Some(&messages)));
        }
        Ok(kernel)
    }

    /// Does `step`, and if it fails again after a look at the global errors, and the end of holds.
    pub(crate) fn again(&mut self, name: &'static str, mut step: impl FnMut(&mut Bench) -> Result<(), DriverError>) {
        let mut result = step(&mut self.bench);
        for _ in 1..self.tries {
            let Err(error) = result else { break };
            self.outcome.fails(&self.bench.machine, name, error);
            self.look_after();
            result = step(&mut self.bench);
        }
        self.must(name, result);
        self.look_after();
    }

    /// Only an SMMU that was given up fails for good, and only with what it does not do any more.
    pub(crate) fn must(&self, name: &'static str, result: Result<(), DriverError>) {
        let Err(error) = result else { return };
        let gone = match error {
            DriverError::GivenUp => !matches!(name, "disable" | "detach"),
            // What could not be done before cannot be taken back.
            DriverError::NotAttached(_) | DriverError::FaultsNotEnabled(_) => true,
            _ => false,
        };
        assert!(gone && self.bench.smmu.is_given_up(), "{name}: {error}");
    }

    /// What the global error interrupt does.
    pub(crate) fn global_error(&mut self) {
        let errors = self.bench.global_errors();
        self.note(errors);
    }

    pub(crate) fn note(&mut self, errors: GlobalErrors) {
        // What waits for its recovery is told again.
        if errors != GlobalErrors::default() && !self.recover {
            self.outcome.global.push(errors);
        }
        self.recover |= errors.recover;
    }

    /// What the kernel's upkeep does.
    pub(crate) fn look_after(&mut self) {
        let errors = self.bench.smmu.expire(&self.bench.cpu, 0).errors;
        self.note(errors);
        if self.recover
            && let Ok(lost) = self.bench.recover()
        {
            self.recover = false;
            for (engine, _) in self.engines.clone() {
                if lost.streams.contains(&self.bench.stream(engine)) {
                    self.again("reopen", |bench| bench.reopen(engine));
                    self.outcome.reopened.push(engine);
                }
            }
        }
        self.bench.domain.poll(&mut self.bench.cpu);
    }

    /// One step of the machine, and its interrupts.
    pub(crate) fn step(&mut self) {
        self.bench.machine.step();
        let wires = self.bench.machine.take_raised();
        for interrupt in self.bells.as_ref().map_or(wires, Doorbells::take) {
            match interrupt {
                Wire::EventQueue => self.drain(OutputQueue::Events),
                Wire::PriQueue => self.drain(OutputQueue::PageRequests),
                Wire::GlobalError => self.global_error(),
                Wire::CommandSync | Wire::Engine(_) => {}
            }
        }
        self.steps += 1;
        if self.steps.is_multiple_of(100) {
            self.look_after();
        }
    }

    pub(crate) fn drain(&mut self, queue: OutputQueue) {
        let Bench { smmu, cpu, .. } = &mut self.bench;
        let once = |cpu: &smmu_iopf::sync::Cpu| match queue {
            OutputQueue::Events => cpu.masked(|masked| smmu.drain_events(masked)),
            OutputQueue::PageRequests => cpu.masked(|masked| smmu.drain_page_requests(masked)),
        };
        while once(cpu).more {}
    }

    pub(crate) fn attach(&mut self) {
        for (index, (engine, mode)) in self.engines.clone().into_iter().enumerate() {
            let space = self.spaces[index].clone();
            self.again("attach", |bench| bench.attach(engine, mode, &space));
            self.enable(engine, &space);
        }
    }

    /// The same, with handlers that never answer.
    pub(crate) fn attach_deferring(&mut self) {
        self.deferring = self.spaces.iter().map(|space| Pager::deferring(space, BASE..BASE + BYTES)).collect();
        self.attach();
    }

    pub(crate) fn pager(&self, space: &Arc<Space>) -> Arc<Pager> {
        let deferring = self.spaces.iter().zip(&self.deferring).find(|(own, _)| Arc::ptr_eq(own, space));
        deferring.map_or_else(|| Pager::new(space, BASE..BASE + BYTES), |(_, pager)| pager.clone())
    }

    /// Enables an engine's faults; where that failed, and could not be undone, it takes them away first.
    pub(crate) fn enable(&mut self, engine: usize, space: &Arc<Space>) {
        let pager = self.pager(space);
        self.enable_to(engine, &pager);
    }

    fn enable_to(&mut self, engine: usize, pager: &Arc<Pager>) {
        self.again("enable", |bench| match bench.enable(engine, pager.clone()) {
            Err(DriverError::FaultsEnabled(_)) => {
                bench.disable(engine)?;
                bench.enable(engine, pager.clone())
            }
            enabled => enabled,
        });
    }

    /// Lets the engines fill four pages that are not mapped, until they end or nothing has happened for long.
    pub(crate) fn fault(&mut self) {
        for &(engine, _) in &self.engines {
            self.bench.machine.write_engine(engine, reg::DEPTH, 2);
            self.bench.fill(engine, BASE, BYTES, 7, None);
        }
        for _ in 0..if self.deferring.is_empty() { PATIENCE } else { COLLECTING } {
            self.step();
            if self.waiting().is_empty() {
                break;
            }
        }
        self.outcome.waiting = self.waiting();
    }

    pub(crate) fn states(&self) -> Vec<u32> {
        self.engines.iter().map(|&(engine, _)| self.bench.state(engine)).collect()
    }

    pub(crate) fn waiting(&self) -> Vec<usize> {
        let engines = self.engines.iter().map(|&(engine, _)| engine);
        engines.filter(|&engine| self.bench.state(engine) == status::BUSY).collect()
    }

    pub(crate) fn invalidate(&mut self) {
        let grace = self.bench.grace();
        self.again("invalidate", |bench| bench.smmu.invalidate_asid(&mut bench.cpu, &grace, Asid(1)).map(drop));
        let pages = Pages { first: BASE, count: 3 };
        let mut synced = None;
        self.again("invalidate", |bench| {
            synced = Some(bench.smmu.invalidate(&mut bench.cpu, &grace, Asid(2), &pages.into())?);
            Ok(())
        });
        let Some(synced) = synced else { return };
        for (engine, _) in self.engines.clone().into_iter().filter(|(_, mode)| *mode == FaultMode::PageRequest) {
            let stream = self.bench.stream(engine);
            self.again("invalidate", |bench| {
                bench.smmu.invalidate_atc(&mut bench.cpu, &synced, stream, None, Some(pages)).map(drop)
            });
        }
    }

    /// Takes everything away, and checks that nothing is left.
    pub(crate) fn take_down(&mut self) {
        for (engine, mode) in self.engines.clone() {
            self.again("disable", |bench| match mode {
                FaultMode::Ats => elsewhere::disable_ats(bench),
                _ => bench.disable(engine),
            });
            let stream = self.bench.stream(engine);
            self.again("detach", |bench| bench.smmu.detach(&mut bench.cpu, stream));
        }
        // Late answers send nothing.
        for group in self.deferring.iter().flat_map(|pager| pager.take()) {
            let _ = self.bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success));
        }
        self.bench.machine.run(200);
        let bench = &mut self.bench;
        assert_eq!((bench.live(), bench.smmu.faults().totals().slots_in_use), (0, 0));
        self.outcome.states = self.states();
        let bench = &mut self.bench;
        assert!(!self.outcome.states.contains(&status::BUSY), "{:?}", self.outcome);
        assert_ne!(bench.machine.read_engine(2, reg::PRI_STATUS) & pri_status::STOPPED, 0);
        for counter in [diagnostics::STALLED, diagnostics::RESUMED_NOTHING, diagnostics::RESPONDED_NOTHING] {
            assert_eq!(bench.model_count(counter), 0, "{counter:#x}");
        }
    }
}

/// All of a life but bring-up, after which another one may begin.
pub(crate) type Life = fn(&mut Kernel);

/// Every life that takes all away by itself, and what it needs.
pub(crate) const LIVES: [(Life, &[Need]); 5] = [
    (Kernel::live, &[Faults]),
    (Kernel::live_with_pasids, &[PageRequests, Substreams]),
    (Kernel::live_in_virtual_machine, &[Faults, Stage2]),
    (Kernel::live_with_ats, &[Ats, Substreams]),
    (Kernel::live_with_stalling_pasids, &[Stall, Substreams]),
];

/// The whole life of a driver.
pub(crate) fn live(profile: Profile, machine: &Arc<Machine>) -> Outcome {
    Kernel::new(profile, machine).through(Kernel::live)
}

impl Kernel {
    /// What `life` comes to.
    pub(crate) fn through(mut self, life: Life) -> Outcome {
        life(&mut self);
        self.outcome
    }

    pub(crate) fn live(&mut self) {
        self.attach();
        self.fault();
        self.look_after();
        if !self.outcome.reopened.is_empty() {
            self.outcome.interrupted = self.states();
            self.fault();
        }
        self.invalidate();
        self.take_down();
    }

    /// A life in which no fault is answered before the faults are taken away.
    pub(crate) fn live_and_let_wait(&mut self) {
        self.attach_deferring();
        self.fault();
        self.take_down();
    }

    /// The same with tags of its own, which are taken and given back, and were given out before.
    pub(crate) fn live_again(&mut self, life: Life) -> [Tag; 2] {
        self.outcome = Outcome::default();
        self.deferring.clear();
        let Bench { smmu, cpu, .. } = &mut self.bench;
        let tags = [Tag::AddressSpace(smmu.take_asid(cpu).unwrap()), Tag::VirtualMachine(smmu.take_vmid(cpu).unwrap())];
        life(self);
        tags.into_iter().for_each(|tag| self.forget(tag));
        tags
    }
}
