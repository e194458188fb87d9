//! The fault core alone: every rule of what is answered, by whom, and when.

#[path = "support/fault_bench.rs"]
mod fault_bench;

#[path = "fault_core/answers.rs"]
mod answers;
#[path = "fault_core/closing.rs"]
mod closing;
#[path = "fault_core/cores.rs"]
mod cores;
#[path = "fault_core/groups.rs"]
mod groups;
#[path = "fault_core/limits.rs"]
mod limits;
#[path = "fault_core/lone.rs"]
mod lone;
#[path = "fault_core/random.rs"]
mod random;
#[path = "fault_core/reference.rs"]
mod reference;
#[path = "fault_core/stalls.rs"]
mod stalls;
#[path = "fault_core/stopping.rs"]
mod stopping;
#[path = "fault_core/substreams.rs"]
mod substreams;
#[path = "fault_core/work.rs"]
mod work;
