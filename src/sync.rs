//! What cores share: masked sections, grace periods, reference counts, locks, values that leave something to be done, and the one
//! bounded wait.

pub mod atomic;
pub mod cpu;
pub mod grace;
pub mod lock;
pub(crate) mod memory;
pub(crate) mod mutant;
pub mod owed;
pub mod per_core;
pub mod refcount;
pub mod wait;

pub use cpu::{CoreId, CoreSet, Cpu, MAX_CORES, Masked, pause};
