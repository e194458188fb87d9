//! The kernel that ties the rooms together: boot, cores and their work, the workload, the report.

pub mod boot;
pub mod control_page;
pub mod devices;
pub mod engine;
pub mod fatal;
pub mod interrupts;
mod pace;
pub mod power;
pub mod report;
pub mod runtime;
pub mod workload;

pub use runtime::Kernel;
