//! The kernel that ties the rooms together: boot, cores and their work, the workload, the report.

pub mod boot;
pub mod console;
pub mod fatal;
pub mod image;
pub mod interrupts;
pub mod memory;
pub mod report;
pub mod runtime;

pub use runtime::Kernel;
