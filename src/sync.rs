//! What cores share: masked sections, grace periods, reference counts, locks, and the one bounded wait.

pub mod cpu;
pub mod wait;

pub use cpu::{CoreId, Cpu, MAX_CORES, Masked};
