//! The kernel that ties the rooms together: boot, cores and their work, the workload, the report.

pub mod boot;
pub mod devices;
pub mod engine;
pub mod fatal;
pub mod interrupts;
pub mod model_times;
pub mod report;
pub mod runtime;
pub mod workload;

pub use runtime::Kernel;
