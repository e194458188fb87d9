//! What another core does between two of the driver's looks at the SMMU.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{FaultMode, Hooks, Options, OutputQueue, Smmu, StreamConfig, Wake};
use smmu_iopf::model::board;
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, control as job, status};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::sync::Masked;
use smmu_iopf::sync::grace::Domain;

use super::bench::Need::{Stall, Termination};
use super::bench::machine::{self, Machine};
use super::bench::{LIMIT_US, LIMITS, Pager, Sink, Space, cpu, on_each, plain};

const BASE: u64 = 0x1000_0000;

type Other = Box<dyn FnOnce() + Send>;

/// How long the other core is given: it may wait for a lock of the one that reads.
const PATIENCE: Duration = Duration::from_millis(50);

/// Registers between two reads of which another core does something: behind the read that brings `left` to 0.
struct Bus {
    machine: Arc<Machine>,
    left: AtomicUsize,
    other: Mutex<Option<Other>>,
    doing: Mutex<Option<JoinHandle<()>>>,
}

impl Bus {
    fn new(machine: Arc<Machine>) -> Self {
        Self { machine, left: AtomicUsize::new(0), other: Mutex::default(), doing: Mutex::default() }
    }

    /// Behind so many reads from now on.
    fn interrupt(&self, reads: usize, other: impl FnOnce() + Send + 'static) {
        *self.other.lock().unwrap() = Some(Box::new(other));
        self.left.store(reads, Ordering::Relaxed);
    }

    /// Returns whether there were as many, when the other core is done.
    fn interrupted(&self) -> bool {
        let doing = self.doing.lock().unwrap().take();
        let began = doing.is_some();
        doing.into_iter().for_each(|doing| doing.join().unwrap());
        self.left.store(0, Ordering::Relaxed);
        began
    }
}

impl Registers for Bus {
    fn read32(&self, register: Register) -> u32 {
        let value = self.machine.read32(register);
        let last = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, last) == Ok(1) {
            let doing = self.other.lock().unwrap().take().map(thread::spawn);
            let began = Instant::now();
            while doing.as_ref().is_some_and(|doing| !doing.is_finished()) && began.elapsed() < PATIENCE {
                thread::yield_now();
            }
            *self.doing.lock().unwrap() = doing;
        }
        value
    }

    fn write32(&self, register: Register, value: u32) {
        self.machine.write32(register, value);
    }

    fn write64(&self, register: Register, value: u64) {
        self.machine.write64(register, value);
    }
}

struct Asleep;

impl Wake for Asleep {
    fn wake(&self, _: &Masked, _: OutputQueue) {}
}

/// The one learns of the abort, and the other has recovered from it before the one shuts the queue.
#[test]
fn a_recovery_while_another_core_looks_at_global_errors_leaves_the_event_queue_open() {
    on_each(&[Stall, Termination], |profile| {
        for reads in 1.. {
            let memory = machine::memory(4 << 20, profile.features().coherent);
            let machine = Machine::with(memory.clone(), profile.modelled().unwrap(), board::DEFAULT_ENGINES);
            let (bus, mut cpu0, domain) = (Arc::new(Bus::new(machine.clone())), cpu(0), Arc::new(Domain::new()));
            domain.online(&mut cpu0);
            let hooks = Hooks { wake: Arc::new(Asleep), events: Arc::new(Sink::default()) };
            let options = Options { limit_us: LIMIT_US, ..Options::default() };
            let delay = machine.delay();
            let smmu = Smmu::probe(&mut cpu0, bus.clone(), memory.clone(), domain, delay, hooks, options).unwrap();
            let space = Space::on(memory, 1);
            let config = |faults| StreamConfig { translation: space.translation(), ..plain(faults) };
            let fill = |engine, address| {
                machine.write_engine64(engine, reg::DESTINATION, address);
                machine.write_engine64(engine, reg::LENGTH, 8);
                machine.write_engine(engine, reg::CONTROL, job::START | job::FILL << job::OPERATION);
                machine.run(100);
            };
            smmu.attach(&mut cpu0, profile.engine_stream(1), &config(FaultMode::Terminate)).unwrap();
            machine.write_control(control::EVENT_WRITE, 1);
            fill(1, BASE);

            let other = smmu.clone();
            bus.interrupt(reads, move || drop(other.recover(&mut cpu(1)).unwrap()));
            let _asks = cpu0.masked(|masked| smmu.handle_global_error(masked));
            if !bus.interrupted() {
                assert!(reads > 4, "it has looked at GERROR and GERRORN twice");
                break;
            }
            if smmu.expire(&cpu0, 0).errors.recover {
                let _lost = smmu.recover(&mut cpu0).unwrap();
            }

            smmu.attach(&mut cpu0, profile.engine_stream(0), &config(FaultMode::Stall)).unwrap();
            let pager = Pager::new(&space, BASE..BASE + 4096);
            smmu.enable_faults(&mut cpu0, &[profile.engine_stream(0)], None, pager, LIMITS).unwrap();
            fill(0, BASE);
            cpu0.masked(|masked| while smmu.drain_events(masked).more {});
            machine.run(100);
            assert_eq!(machine.read_engine(0, reg::STATUS) & status::STATE, status::DONE, "after read {reads}");
        }
    });
}
