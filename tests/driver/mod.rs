//! Driver, fault core and SMMU together. On the host the SMMU is the model in the same process; on the target it is the model at EL2, or
//! QEMU's own where there is no model, and the same tests are the target's own (`tests/target`).

#[cfg(not(target_os = "none"))]
extern crate alloc;

/// The tests of a module that run on the host and on the target. One that needs more than both have is a `#[test]`, which is the host's.
/// `stepped![...]` has those whose machine has to work only when it is let, so that a job is under way while something else happens: as on
/// the host and with QEMU's SMMU, and not at EL2.
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        scenarios!(@ run, scenarios, $($name),+);
    };
    (@ $run:ident, $module:ident, $($name:ident),+) => {
        #[cfg(not(target_os = "none"))]
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::$name();
                }
            )+
        }
        $(
            #[cfg(target_os = "none")]
            const _: () = {
                #[linkme::distributed_slice(crate::harness::TESTS)]
                static TEST: crate::harness::Test = crate::harness::Test {
                    module: module_path!(),
                    name: stringify!($name),
                    run: |kernel, _| crate::driver::bench::machine::$run(kernel, $name),
                    must_end_by: None,
                };
            };
        )+
    };
}

macro_rules! stepped {
    ($($name:ident),+ $(,)?) => {
        scenarios!(@ run_stepped, stepped, $($name),+);
    };
}

mod ats;
mod bench;
mod changes;
#[cfg(not(target_os = "none"))]
mod coherence;
mod contexts;
mod domains;
#[cfg(not(target_os = "none"))]
mod failing;
mod faults;
mod given_up;
mod histories;
mod hostile;
mod injection;
mod invalidation;
mod lives;
mod messages;
mod nested;
#[cfg(not(target_os = "none"))]
mod order;
mod page_requests;
#[cfg(not(target_os = "none"))]
mod probe;
mod profiles;
#[cfg(not(target_os = "none"))]
mod races;
mod reclaim;
mod recovery;
mod reports;
mod skipped;
mod stop;
mod stop_markers;
mod structures;
mod teardown;
