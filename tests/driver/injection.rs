//! The driver while the machine fails as `docs/control.md` lets it: at each command, record, fetch, interrupt and
//! acknowledgement of a life from bring-up to teardown.
//!
//! Whatever fails, each step ends in success or in an error value; repeated, it succeeds; and in the end nothing is live,
//! stalled or answered twice.

#[cfg(not(target_os = "none"))]
mod lives;

use alloc::vec::Vec;

use smmu_iopf::driver::registers::Registers;
use smmu_iopf::driver::{DriverError, FaultMode, GlobalErrors};
use smmu_iopf::model::control;
use smmu_iopf::model::engine::registers::{self as reg, status};
use smmu_iopf::smmuv3::registers::Register;
use smmu_iopf::smmuv3::{Asid, PageResponse};

use super::bench::Need::{Faults, Messages, PageRequests, Stall, SyncMessages};
use super::bench::life::{BASE, BYTES, Kernel, LIMIT_US, Life, Outcome, live, machine, options};
use super::bench::{Bench, Profile, Space, faulting_engines, on_each};

scenarios![
    life_without_injection_has_no_error,
    command_whose_fetch_aborts_is_fetched_again_and_nobody_notices,
    command_taken_as_illegal_is_an_error_of_its_owner_and_the_step_can_be_repeated,
    aborted_event_write_costs_the_stalling_stream_a_job_and_the_other_goes_on,
    aborted_pri_write_costs_the_stream_that_asked_a_job_and_the_other_goes_on,
    atc_invalidation_that_times_out_is_an_error_and_can_be_repeated,
    aborted_fetches_of_tables_end_the_access_and_nothing_else,
    lost_interrupts_cost_time_only,
    aborted_messages_are_noted_and_syncs_complete_without,
    a_message_that_is_lost_or_aborted_is_not_waited_for_long,
    an_smmu_whose_messages_all_abort_asks_for_one,
    late_interrupts_cost_time_only,
    late_acknowledgements_are_waited_for,
    acknowledgement_that_never_comes_is_named_and_the_step_can_be_repeated,
    paused_commands_are_waited_for_and_time_out_when_they_stay_paused,
    service_failure_ends_all_that_is_pending_and_everything_is_taken_away_at_once,
    an_smmu_that_is_given_up_leaves_nothing_pending_and_can_be_brought_up_anew,
];

/// How late what is late comes, in ticks.
const LATE: u32 = 30;

/// Lives through `point` at the first occurrence, the second one, and so on, until a life has no more; `check` looks at
/// each. Returns how many occurrences there were.
fn each(profile: Profile, point: usize, check: impl FnMut(u32, &Outcome)) -> u32 {
    each_of(profile, Kernel::live, point, LATE, check)
}

fn each_of(profile: Profile, life: Life, point: usize, late_ticks: u32, mut check: impl FnMut(u32, &Outcome)) -> u32 {
    for number in 1.. {
        let machine = machine(profile);
        machine.write_control(control::LATE_TICKS, late_ticks);
        machine.write_control(point, number);
        let outcome = Kernel::new(profile, &machine).through(life);
        if machine.read_control(point + control::HAPPENED) == 0 {
            return number - 1;
        }
        check(number, &outcome);
    }
    unreachable!()
}

fn all_done(outcome: &Outcome) -> bool {
    !outcome.states.is_empty() && outcome.states.iter().all(|state| *state == status::DONE)
}

fn life_without_injection_has_no_error() {
    on_each(&[Faults], |profile| {
        let outcome = live(profile, &machine(profile));
        assert!(outcome.errors.is_empty() && outcome.global.is_empty() && outcome.waiting.is_empty(), "{outcome:?}");
        assert!(all_done(&outcome));
    });
}

fn command_whose_fetch_aborts_is_fetched_again_and_nobody_notices() {
    on_each(&[Faults], |profile| {
        let commands = each(profile, control::COMMAND_FETCH, |number, outcome| {
            assert!(outcome.errors.is_empty() && all_done(outcome), "command {number}: {outcome:?}");
        });
        // Some and a SYNC in bring-up, and CFGI and SYNC of each change of an engine's entry.
        assert!(commands > 15 * faulting_engines(profile).count() as u32, "{commands}");
    });
}

fn command_taken_as_illegal_is_an_error_of_its_owner_and_the_step_can_be_repeated() {
    on_each(&[Faults], |profile| {
        let mut refused = 0;
        let commands = each(profile, control::COMMAND_ILLEGAL, |number, outcome| {
            refused += usize::from(!outcome.errors.is_empty());
            for (step, error) in &outcome.errors {
                assert!(matches!(error, DriverError::IllegalCommand { .. }), "command {number}, {step}: {error}");
            }
            // Also where it was the command of an answer, which has no owner: it is fetched once more.
            assert!(all_done(outcome) && outcome.waiting.is_empty(), "command {number}: {outcome:?}");
        });
        let engines = faulting_engines(profile).count();
        assert!(commands as usize > 15 * engines && refused > 5 * engines, "{refused} of {commands}");
    });
}

fn aborted_event_write_costs_the_stalling_stream_a_job_and_the_other_goes_on() {
    on_each(&[Stall], |profile| {
        let events = each(profile, control::EVENT_WRITE, |number, outcome| {
            let [abort] = outcome.global[..] else { panic!("record {number}: {outcome:?}") };
            assert!(abort.event_queue_abort && abort.recover, "record {number}: {abort:?}");
            let expected = [status::ABORTED, status::DONE];
            assert_eq!(outcome.interrupted, expected[..faulting_engines(profile).count()], "record {number}");
            assert_eq!(outcome.reopened, [0], "record {number}");
            assert!(all_done(outcome), "record {number}: {outcome:?}");
            assert!(outcome.errors.is_empty() && outcome.waiting.is_empty(), "record {number}: {outcome:?}");
        });
        assert_eq!(events, 4);
    });
}

fn aborted_pri_write_costs_the_stream_that_asked_a_job_and_the_other_goes_on() {
    on_each(&[PageRequests], |profile| {
        let requests = each(profile, control::PAGE_REQUEST_WRITE, |number, outcome| {
            let [abort] = outcome.global[..] else { panic!("request {number}: {outcome:?}") };
            assert!(abort.page_request_queue_abort && abort.recover, "request {number}: {abort:?}");
            let expected = [status::DONE, status::ABORTED];
            assert_eq!(outcome.interrupted, expected[2 - faulting_engines(profile).count()..], "request {number}");
            assert_eq!(outcome.reopened, [2], "request {number}");
            assert!(all_done(outcome), "request {number}: {outcome:?}");
            assert!(outcome.errors.is_empty() && outcome.waiting.is_empty(), "request {number}: {outcome:?}");
        });
        assert_eq!(requests, 4);
    });
}

fn atc_invalidation_that_times_out_is_an_error_and_can_be_repeated() {
    on_each(&[PageRequests], |profile| {
        let invalidations = each(profile, control::ATC_INVALIDATION, |number, outcome| {
            let [(step, error)] = &outcome.errors[..] else { panic!("invalidation {number}: {outcome:?}") };
            assert_eq!(*error, DriverError::AtcInvalidationTimeout);
            assert!(matches!(*step, "invalidate" | "disable"), "invalidation {number}: {step}");
            assert!(all_done(outcome));
        });
        assert!(invalidations >= 2, "{invalidations}");
    });
}

fn aborted_fetches_of_tables_end_the_access_and_nothing_else() {
    on_each(&[Faults], |profile| {
        for point in [control::STE_FETCH, control::CD_FETCH, control::TABLE_FETCH] {
            let fetches = each(profile, point, |number, outcome| {
                assert!(outcome.errors.is_empty() && outcome.global.is_empty(), "fetch {number}: {outcome:?}");
                assert!(outcome.waiting.is_empty(), "fetch {number}: {outcome:?}");
                let ended = |state: &u32| matches!(*state, status::DONE | status::ABORTED);
                assert!(outcome.states.iter().all(ended), "fetch {number}: {outcome:?}");
            });
            // What is read once is kept.
            assert!(fetches as usize >= faulting_engines(profile).count(), "{point:#x}: {fetches}");
        }
    });
}

fn lost_interrupts_cost_time_only() {
    on_each(&[Faults], |profile| {
        let interrupts = each(profile, control::INTERRUPT_LOST, |number, outcome| {
            assert!(outcome.errors.is_empty() && all_done(outcome), "interrupt {number}: {outcome:?}");
        });
        assert!(interrupts >= 2, "{interrupts}");
    });
}

fn aborted_messages_are_noted_and_syncs_complete_without() {
    on_each(&[Faults, SyncMessages], |profile| {
        let messages = each(profile, control::MESSAGE, |number, outcome| {
            let expected = GlobalErrors { msi_abort: true, ..GlobalErrors::default() };
            assert_eq!(outcome.global, [expected], "message {number}");
            assert!(outcome.errors.is_empty() && all_done(outcome), "message {number}: {outcome:?}");
        });
        // One in bring-up, and of each change of an engine's entry.
        assert!(messages > 5 * faulting_engines(profile).count() as u32, "{messages}");
    });
}

fn a_message_that_is_lost_or_aborted_is_not_waited_for_long() {
    on_each(&[Faults, SyncMessages], |profile| {
        for point in [control::INTERRUPT_LOST, control::MESSAGE] {
            let machine = machine(profile);
            let mut kernel = Kernel::new(profile, &machine);
            machine.write_control(control::SOURCES, 1 << 2);
            machine.write_control(point, 1);
            let (grace, began) = (kernel.bench.grace(), machine.read_control(control::TICKS));
            let _ = kernel.bench.smmu.invalidate_asid(&mut kernel.bench.cpu, &grace, Asid(1)).unwrap();
            assert_eq!(machine.read_control(point + control::HAPPENED), 1);
            let ticks = machine.read_control(control::TICKS) - began;
            assert!(ticks < 10, "{point:#x}: {ticks}");
        }
    });
}

/// The SMMU writes its messages to where there is no memory.
fn an_smmu_whose_messages_all_abort_asks_for_one() {
    on_each(&[Faults, SyncMessages], |profile| {
        let mut bench = Bench::with_broken(profile, options(), 2);
        let errors = bench.smmu.expire(&bench.cpu, 0).errors;
        assert_eq!(errors, GlobalErrors { msi_abort: true, ..GlobalErrors::default() });
        let grace = bench.grace();
        for _ in 0..3 {
            let _ = bench.smmu.invalidate_asid(&mut bench.cpu, &grace, Asid(1)).unwrap();
        }
        assert_eq!(bench.global_errors(), GlobalErrors::default());
    });
}

fn late_interrupts_cost_time_only() {
    on_each(&[Faults], |profile| {
        for ticks in [1, 30, 1000] {
            let interrupts = each_of(profile, Kernel::live, control::INTERRUPT_LATE, ticks, |number, outcome| {
                assert!(
                    outcome.errors.is_empty() && all_done(outcome),
                    "interrupt {number}, {ticks} ticks: {outcome:?}"
                );
            });
            assert!(interrupts >= 2, "{interrupts}");
        }
    });
}

/// The registers whose updates are acknowledged, each with its hold and where the acknowledgement is.
const ACKNOWLEDGED: [(usize, Register); 3] = [
    (control::CR0_LATE, Register::Cr0Ack),
    (control::IRQ_CTRL_LATE, Register::IrqCtrlAck),
    (control::GBPA_LATE, Register::Gbpa),
];

/// Lives on an SMMU whose hold lets 0, 1, 2 and so on pass, until a life has no more; `check` looks at each. Returns how many there were.
fn each_held(profile: Profile, hold: usize, ticks: u32, check: impl FnMut(u32, &Outcome)) -> u32 {
    each_held_of(profile, Kernel::live, hold, ticks, check)
}

fn each_held_of(profile: Profile, life: Life, hold: usize, ticks: u32, mut check: impl FnMut(u32, &Outcome)) -> u32 {
    for number in 0.. {
        let machine = machine(profile);
        machine.write_control(control::PASSED, number);
        machine.write_control(hold, ticks);
        // An earlier owner's update of CR0 (CMDQEN) is under way, with an empty queue.
        machine.write32(Register::Cr1, 0);
        machine.write64(Register::CmdqBase, 0);
        machine.write32(Register::CmdqProd, 0);
        machine.write32(Register::CmdqCons, 0);
        machine.write32(Register::Cr0, 1 << 3);
        let outcome = Kernel::new(profile, &machine).through(life);
        if machine.read_control(hold + control::HAPPENED) == 0 {
            return number;
        }
        check(number, &outcome);
    }
    unreachable!()
}

/// What a life writes: CR0 as an earlier owner left it, zero, an enable for each queue and translation, and for what ATS needs; IRQ_CTRL
/// once, and twice for messages, each time off and on; GBPA once.
fn updates(profile: Profile, hold: usize) -> u32 {
    let features = profile.features();
    match hold {
        control::CR0_LATE => 5 + u32::from(features.pri) + u32::from(features.ats),
        control::IRQ_CTRL_LATE => 1 + 2 * u32::from(features.msi),
        _ => 1,
    }
}

fn late_acknowledgements_are_waited_for() {
    on_each(&[Faults], |profile| {
        for (hold, register) in ACKNOWLEDGED {
            let late = each_held(profile, hold, 100, |number, outcome| {
                assert!(outcome.errors.is_empty() && all_done(outcome), "{register:?}, {number}: {outcome:?}");
            });
            assert_eq!(late, updates(profile, hold), "{register:?}");
        }
    });
}

fn acknowledgement_that_never_comes_is_named_and_the_step_can_be_repeated() {
    on_each(&[Faults], |profile| {
        for (hold, register) in ACKNOWLEDGED {
            let mut steps = Vec::new();
            let held = each_held(profile, hold, control::UNTIL_RELEASED, |number, outcome| {
                let [(step, DriverError::Timeout(timeout))] = &outcome.errors[..] else {
                    panic!("{register:?}, {number}: {outcome:?}")
                };
                assert_eq!((timeout.register, timeout.waited_us), (register, LIMIT_US), "{number}");
                assert!(all_done(outcome), "{register:?}, {number}: {outcome:?}");
                steps.push(*step);
            });
            assert_eq!(held, updates(profile, hold), "{register:?}");
            let messages = register == Register::IrqCtrlAck && Messages.is_met(profile);
            assert_eq!(steps.iter().filter(|step| **step == "messages").count(), if messages { 2 } else { 0 });
        }
    });
}

#[test]
fn a_queue_that_stands_still_at_any_command_is_waited_for() {
    on_each(&[Faults], |profile| {
        let commands = each_held(profile, control::COMMANDS_HELD, 100, |number, outcome| {
            assert!(outcome.errors.is_empty() && all_done(outcome), "command {number}: {outcome:?}");
        });
        assert!(commands > 15 * faulting_engines(profile).count() as u32, "{commands}");
    });
}

#[test]
fn a_queue_that_stays_still_at_any_command_is_an_error_that_names_it_and_the_step_can_be_repeated() {
    on_each(&[Faults], |profile| {
        let mut steps = Vec::new();
        let commands = each_held(profile, control::COMMANDS_HELD, control::UNTIL_RELEASED, |number, outcome| {
            let [(step, error)] = &outcome.errors[..] else { panic!("command {number}: {outcome:?}") };
            let DriverError::CommandTimeout(stuck) = error else { panic!("command {number}: {outcome:?}") };
            assert_eq!((stuck.command, stuck.errors), (outcome.front, 0), "command {number}, {step}");
            steps.push(*step);
            // Where answers were in the queue, their engines wait until the next step fails.
            assert!(all_done(outcome) || !outcome.waiting.is_empty(), "command {number}: {outcome:?}");
        });
        assert!(commands > 15 * faulting_engines(profile).count() as u32, "{commands}");
        for step in ["bring-up", "attach", "enable", "invalidate", "disable", "detach"] {
            assert!(steps.contains(&step), "{step}");
        }
    });
}

fn paused_commands_are_waited_for_and_time_out_when_they_stay_paused() {
    on_each(&[Faults], |profile| {
        let machine = machine(profile);
        let mut kernel = Kernel::new(profile, &machine);
        machine.write_control(control::COMMANDS_HELD, 500);
        kernel.attach();
        assert!(kernel.outcome.errors.is_empty(), "{:?}", kernel.outcome);
        machine.write_control(control::COMMANDS_HELD, control::UNTIL_RELEASED);
        let grace = kernel.bench.grace();
        let held = kernel.bench.smmu.invalidate_asid(&mut kernel.bench.cpu, &grace, Asid(1));
        // It stands at TLBI_NH_ASID of ASID 1, VMID 0.
        let Err(DriverError::CommandTimeout(stuck)) = held else { panic!("{held:?}") };
        assert_eq!((stuck.command, stuck.errors), (Some([0x0001_0000_0000_0011, 0]), 0));
        // Answers wait in the queue meanwhile, and a teardown that fails is taken up again.
        kernel.fault();
        let engines = kernel.engines.iter().map(|(engine, _)| *engine);
        assert!(engines.eq(kernel.outcome.waiting.iter().copied()), "{:?}", kernel.outcome);
        assert!(kernel.bench.disable(0).is_err());
        machine.write_control(control::COMMANDS_HELD, 0);
        let outcome = kernel.through(Kernel::take_down);
        assert!(outcome.errors.is_empty(), "{outcome:?}");
    });
}

#[test]
fn delayed_engines_are_waited_for_at_teardown_or_named() {
    on_each(&[Stall], |profile| {
        let machine = machine(profile);
        machine.write_control(control::ENGINES, 1 << 0 | 1 << 2);
        for ticks in [100, control::UNTIL_RELEASED] {
            let mut kernel = Kernel::new(profile, &machine);
            kernel.attach();
            kernel.bench.fill(0, BASE, BYTES, 7, None);
            (0..3).for_each(|_| kernel.step());
            machine.write_control(control::ENGINES_HELD, ticks);
            let result = kernel.bench.disable(0);
            if ticks == control::UNTIL_RELEASED {
                let busy =
                    DriverError::DeviceBusy { stream: profile.engine_stream(0), state: "idle", waited_us: LIMIT_US };
                assert_eq!(result, Err(busy));
                machine.write_control(control::ENGINES_HELD, 0);
            } else {
                assert_eq!(result, Ok(()));
                let space = kernel.spaces[0].clone();
                kernel.enable(0, &space);
            }
            let outcome = kernel.through(Kernel::take_down);
            assert!(outcome.errors.is_empty(), "{outcome:?}");
        }
    });
}

#[test]
fn reordered_records_are_served_all_the_same() {
    on_each(&[Stall], |profile| {
        for seed in 0..20 {
            let machine = machine(profile);
            machine.write_control(control::REORDER, 1);
            machine.write_control(control::SEED, seed);
            let mut kernel = Kernel::new(profile, &machine);
            let space = Space::new(&kernel.bench, 3);
            kernel.attach();
            kernel.again("attach", |bench| bench.attach(1, FaultMode::Stall, &space));
            kernel.enable(1, &space);
            kernel.bench.machine.write_engine(1, reg::DEPTH, 2);
            kernel.bench.fill(1, BASE, BYTES, 9, None);
            kernel.fault();
            while kernel.bench.state(1) == status::BUSY {
                kernel.step();
            }
            assert_eq!((kernel.bench.state(1), space.word(BASE + BYTES - 8)), (status::DONE, 9));
            assert!(seed != 0 || machine.read_control(control::REORDERED) > 0);
            kernel.again("disable", |bench| bench.disable(1));
            assert!(all_done(&kernel.through(Kernel::take_down)));
        }
    });
}

/// What is pending when the SMMU fails, and the fault that comes just then.
fn service_failure_ends_all_that_is_pending_and_everything_is_taken_away_at_once() {
    on_each(&[Faults], |profile| {
        for ticks in (0..30).step_by(3) {
            let machine = machine(profile);
            let mut kernel = Kernel::new(profile, &machine);
            kernel.attach_deferring();
            for (engine, _) in kernel.engines.clone() {
                kernel.bench.machine.write_engine(engine, reg::DEPTH, 2);
                kernel.bench.fill(engine, BASE, BYTES, 7, None);
            }
            (0..ticks).for_each(|_| kernel.step());
            machine.write_control(control::FAIL, 1);
            machine.step();
            let began = machine.read_control(control::TICKS);
            // Told by the interrupt, or found by who waits for the SMMU.
            if ticks % 2 == 0 {
                kernel.look_after();
                let failure = GlobalErrors { service_failure: true, ..GlobalErrors::default() };
                assert_eq!(kernel.outcome.global, [failure]);
                assert!(kernel.bench.smmu.is_given_up());
            }
            // Who has the groups answers them, or has let them go when their time is over.
            let refused = kernel.bench.smmu.command_counts().refused;
            let groups: Vec<_> = kernel.deferring.iter().flat_map(|pager| pager.take()).collect();
            let waiting = groups.len() as u64;
            for group in groups {
                kernel.bench.cpu.masked(|masked| group.respond(masked, PageResponse::Success)).unwrap();
            }
            let told = kernel.bench.smmu.command_counts().refused - refused;
            assert!(told == waiting || ticks % 2 == 1, "{told} of {waiting}");
            assert_eq!(kernel.bench.smmu.faults().totals().slots_in_use, 0);

            let space = kernel.spaces[0].clone();
            let other = kernel.bench.stream(1);
            if profile.features().can_stall() {
                assert_eq!(kernel.bench.attach(1, FaultMode::Stall, &space), Err(DriverError::GivenUp));
                // Where that had to be found out first, it is noted.
                let detached = kernel.bench.smmu.detach(&mut kernel.bench.cpu, other);
                assert!(detached == Ok(()) || detached == Err(DriverError::NotAttached(other)), "{detached:?}");
            }
            let grace = kernel.bench.grace();
            let invalidated = kernel.bench.smmu.invalidate_asid(&mut kernel.bench.cpu, &grace, Asid(1));
            assert_eq!(invalidated.map(drop), Err(DriverError::GivenUp));
            assert!(machine.read_control(control::TICKS) - began < 100, "nobody waits for it");
            let outcome = kernel.through(Kernel::take_down);
            assert!(outcome.errors.is_empty(), "{outcome:?}");
            if ticks > 0 {
                continue;
            }
            // It may be tried to bring it up, which this one's failure does not permit.
            match Bench::on(machine.clone(), options(), u64::MAX) {
                Err(DriverError::CommandTimeout(_)) => {}
                other => panic!("{:?}", other.map(|_| ())),
            }
        }
    });
}

/// An SMMU that consumes no commands and does not say why.
fn an_smmu_that_is_given_up_leaves_nothing_pending_and_can_be_brought_up_anew() {
    on_each(&[Faults], |profile| {
        let machine = machine(profile);
        let mut kernel = Kernel::new(profile, &machine);
        kernel.attach_deferring();
        kernel.fault();
        machine.write_control(control::COMMANDS_HELD, control::UNTIL_RELEASED);
        let engines = kernel.engines.clone();
        for &(engine, mode) in &engines {
            let result = kernel.bench.disable(engine);
            let timed_out = |result| matches!(result, Err(DriverError::CommandTimeout(_)));
            let stopped = Err(DriverError::DeviceBusy {
                stream: kernel.bench.stream(engine),
                state: "stopped",
                waited_us: LIMIT_US,
            });
            assert!(if mode == FaultMode::Stall { timed_out(result) } else { result == stopped });
        }
        kernel.bench.smmu.give_up();
        if let [(stalling, _), (_, FaultMode::PageRequest)] = engines[..] {
            // Translation is not turned off as long as a device uses ATS.
            let stream = kernel.bench.stream(stalling);
            let busy = Err(DriverError::DeviceBusy { stream, state: "idle", waited_us: LIMIT_US });
            assert_eq!(kernel.bench.disable(stalling), busy);
        }
        kernel.engines.reverse();
        let outcome = kernel.through(Kernel::take_down);
        assert!(outcome.errors.is_empty(), "{outcome:?}");
        machine.write_control(control::COMMANDS_HELD, 0);
        let outcome = live(profile, &machine);
        assert!(outcome.errors.is_empty() && all_done(&outcome), "{outcome:?}");
    });
}
