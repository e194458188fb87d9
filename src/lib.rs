//! I/O page faults on an Arm SMMUv3: the architecture, a fault core, a driver, and a model to run them against.
//!
//! | room | what lives there |
//! |---|---|
//! | [`smmuv3`] | the architecture written down: registers, commands, records, tables, queue indices |
//! | [`sync`] | cores and masked sections, grace periods, reference counts, locks, the one bounded wait |
//! | [`model`] | an SMMUv3 with stall, ATS and PRI in software, and the DMA engines behind it |
//!
//! A room imports only rooms above it in this list.
#![no_std]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(target_os = "none")]
pub mod arch;
pub mod driver;
pub mod iopf;
#[cfg(target_os = "none")]
pub mod kernel;
pub mod model;
pub mod platform;
pub mod smmuv3;
pub mod sva;
pub mod sync;
