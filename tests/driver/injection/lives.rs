//! Every life of a driver, while the machine fails at each step of it in turn.

use super::super::bench::Need::{self, Ats, Stage2, Substreams};
use super::super::bench::life::LIVES;
use super::*;

/// What may go wrong, one thing at a time.
fn points() -> impl Iterator<Item = usize> {
    (control::EVENT_WRITE..=control::INTERRUPT_LATE).step_by(8)
}

/// The kinds of SMMU whose ways through a life are unlike: the others are as `full`, with other sizes, or as a part of it.
const UNLIKE: [&str; 4] = ["full", "non-coherent", "forced-stall", "small"];

/// [`on_each`] of those kinds.
fn on_unlike(needs: &[Need], test: impl Fn(Profile)) {
    on_each(needs, |profile| {
        if UNLIKE.contains(&profile.name()) {
            test(profile);
        }
    });
}

/// The usual life, and where it matters all those that this SMMU has what it takes for.
fn lives(profile: Profile) -> impl Iterator<Item = Life> {
    let count = if UNLIKE.contains(&profile.name()) { LIVES.len() } else { 1 };
    let is_met = move |needs: &[Need]| needs.iter().all(|need| need.is_met(profile));
    LIVES.into_iter().take(count).filter(move |(_, needs)| is_met(needs)).map(|(life, _)| life)
}

#[test]
fn faults_that_are_pending_at_teardown_end_whatever_goes_wrong() {
    on_each(&[Faults], |profile| {
        let (names, engines): (Vec<_>, Vec<_>) =
            faulting_engines(profile).map(|(engine, _)| (engine, status::ABORTED)).unzip();
        let outcome = Kernel::new(profile, &machine(profile)).through(Kernel::live_and_let_wait);
        assert_eq!((outcome.waiting, &outcome.states), (names, &engines));
        for point in points() {
            let occurrences = each_of(profile, Kernel::live_and_let_wait, point, LATE, |number, outcome| {
                assert_eq!(outcome.states, engines, "{point:#x}, occurrence {number}");
                assert!(outcome.errors.len() <= 1, "{point:#x}, occurrence {number}: {outcome:?}");
            });
            let never = match point {
                control::MESSAGE => !Messages.is_met(profile),
                control::EVENT_WRITE => !Stall.is_met(profile),
                control::PAGE_REQUEST_WRITE | control::ATC_INVALIDATION => !PageRequests.is_met(profile),
                _ => false,
            };
            assert_eq!(occurrences == 0, never, "{point:#x}");
        }
    });
}

/// PASIDs stopped, attached and forgotten, and page requests served again after a Failure.
#[test]
fn pasids_come_and_go_whatever_goes_wrong() {
    on_each(&[PageRequests, Substreams], |profile| {
        assert!(Kernel::new(profile, &machine(profile)).through(Kernel::live_with_pasids).failed);
        let steps = ["attach", "attach_substream", "enable", "stop", "forget", "disable", "detach"];
        goes_wrong(profile, Kernel::live_with_pasids, &steps, &[control::EVENT_WRITE]);
    });
}

#[test]
fn pasids_of_a_stalling_stream_come_and_go_whatever_goes_wrong() {
    on_unlike(&[Stall, Substreams], |profile| {
        let never = [control::PAGE_REQUEST_WRITE, control::ATC_INVALIDATION];
        let steps = ["attach", "attach_substream", "enable", "forget", "disable", "detach"];
        goes_wrong(profile, Kernel::live_with_stalling_pasids, &steps, &never);
    });
}

#[test]
fn ats_comes_and_goes_whatever_goes_wrong() {
    on_unlike(&[Ats, Substreams], |profile| {
        let steps = ["attach", "attach_substream", "enable", "invalidate", "stop", "forget", "disable", "detach"];
        goes_wrong(profile, Kernel::live_with_ats, &steps, &[control::PAGE_REQUEST_WRITE]);
    });
}

#[test]
fn virtual_machines_come_and_go_whatever_goes_wrong() {
    on_unlike(&[Faults, Stage2], |profile| {
        let pri = [control::PAGE_REQUEST_WRITE, control::ATC_INVALIDATION];
        let steps =
            ["attach", "enable", "change", "invalidate_ipas", "invalidate_guest", "forget", "disable", "detach"];
        let mut never = Vec::new();
        if !Stall.is_met(profile) {
            never.push(control::EVENT_WRITE);
        }
        if !PageRequests.is_met(profile) {
            never.extend(pri);
        }
        goes_wrong(profile, Kernel::live_in_virtual_machine, &steps, &never);
    });
}

/// Each thing in turn, and then the queue stands still at each command in turn, while `life` goes on. Each of `steps` is hurt by either; what
/// cannot happen is `never`.
fn goes_wrong(profile: Profile, life: Life, steps: &[&str], never: &[usize]) {
    let outcome = Kernel::new(profile, &machine(profile)).through(life);
    assert!(outcome.errors.is_empty(), "{outcome:?}");
    let mut hurt = Vec::new();
    for point in points() {
        let occurrences = each_of(profile, life, point, LATE, |number, outcome| {
            assert!(outcome.errors.len() <= 1, "{point:#x}, occurrence {number}: {outcome:?}");
            hurt.extend(outcome.errors.iter().map(|(step, _)| *step));
        });
        let is_never = never.contains(&point) || point == control::MESSAGE && !Messages.is_met(profile);
        assert_eq!(occurrences == 0, is_never, "{point:#x}");
    }
    let mut held = Vec::new();
    each_held_of(profile, life, control::COMMANDS_HELD, control::UNTIL_RELEASED, |number, outcome| {
        let [(step, error)] = &outcome.errors[..] else { panic!("command {number}: {outcome:?}") };
        match error {
            DriverError::CommandTimeout(stuck) => assert_eq!((stuck.command, stuck.errors), (outcome.front, 0)),
            // An answer to it stays in the queue.
            DriverError::SubstreamInUse { .. } => {}
            error => panic!("command {number}, {step}: {error}"),
        }
        held.push(*step);
    });
    for step in steps {
        assert!(hurt.contains(step) && held.contains(step), "{step}");
    }
}

/// The second may come while the first is told of, or recovered from.
#[test]
fn several_things_that_go_wrong_in_one_life_are_survived_too() {
    let points: Vec<_> = points().collect();
    on_each(&[Faults], |profile| {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        // xorshift64.
        let mut below = |end: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % end
        };
        let lives: Vec<_> = lives(profile).chain([Kernel::live_and_let_wait as Life]).collect();
        let mut most = 0;
        for _ in 0..30 * lives.len() {
            let machine = machine(profile);
            machine.write_control(control::LATE_TICKS, LATE);
            for _ in 0..2 + below(3) {
                let point = points[below(points.len())];
                let occurrences = match point {
                    control::COMMAND_FETCH | control::COMMAND_ILLEGAL => 60,
                    control::STE_FETCH.. => 20,
                    _ => 4,
                };
                machine.write_control(point, 1 + below(occurrences) as u32);
            }
            // Where bring-up fails twice, that is all.
            let Ok(kernel) = Kernel::up(profile, &machine) else { continue };
            let mut kernel = Kernel { tries: 6, ..kernel };
            lives[below(lives.len())](&mut kernel);
            let happened = points.iter().filter(|&&point| machine.read_control(point + control::HAPPENED) > 0);
            most = most.max(happened.count());
        }
        assert!(most >= 2, "{}", profile.name());
    });
}

#[test]
fn an_smmu_that_fails_at_any_moment_of_its_life_leaves_nothing_behind() {
    on_each(&[Faults], |profile| {
        for life in lives(profile) {
            let mut hurt = Vec::new();
            // Bring-up, attaching and enabling take some 100 ticks, and then engines work for long.
            for ticks in (1..100).chain((100..).step_by(17)) {
                let machine = machine(profile);
                machine.write_control(control::FAIL, ticks);
                // At most one wait is in vain.
                let (step, limit) = match Kernel::up(profile, &machine) {
                    Ok(kernel) => (kernel.through(life).errors.first().map(|(step, _)| *step), 2 * LIMIT_US),
                    Err(error) => {
                        let stuck = matches!(error, DriverError::CommandTimeout(_));
                        assert!(stuck || error == DriverError::GivenUp, "tick {ticks}: {error}");
                        // The second time it acknowledges what would tell, which changes nothing (12.3).
                        (Some("bring-up"), 3 * LIMIT_US)
                    }
                };
                if machine.read_control(control::FAIL) > 0 {
                    break;
                }
                let waited = machine.read_control(control::TICKS) - ticks;
                assert!(waited < limit, "tick {ticks}, {step:?}: {waited}");
                hurt.push(step);
            }
            for step in [Some("bring-up"), Some("attach"), Some("enable"), None] {
                assert!(hurt.contains(&step), "{step:?}");
            }
            assert_eq!(hurt.last(), Some(&None), "taken away without an error");
        }
    });
}
