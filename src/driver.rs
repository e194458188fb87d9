//! Programs an SMMUv3: brings it up, keeps its tables, feeds its command queue and empties its event and PRI queues.
//!
//! | part | does |
//! |---|---|
//! | [`Smmu::probe`] | decodes the ID registers, and brings the SMMU up in the order of 3.11 and 6.3 |
//! | [`Smmu::attach`], [`Smmu::change`], [`Smmu::detach`] | stream table entries and context tables, changed as 3.21.3 asks |
//! | [`Smmu::enable_faults`], [`Smmu::disable_faults`] | give a stream's page faults to a handler, and take them back |
//! | [`Smmu::enable_ats`], [`Smmu::disable_ats`] | ATS of a device that asks for translations, and not for pages |
//! | [`Smmu::attach_substream`], [`Smmu::stop_substream`] | address spaces of PASIDs: given, changed, and taken away from a device at work |
//! | [`Smmu::drain_events`], [`Smmu::drain_page_requests`] | one batch of records from decode to answers |
//! | [`Smmu::set_messages`] | interrupts as messages, or by wires |
//! | [`Smmu::handle_global_error`], [`Smmu::recover`], [`Smmu::reopen_faults`] | global errors (7.5), and service after them |
//! | [`Smmu::give_up`] | an SMMU that does its work no more: what is pending ends, everything is taken away |
//! | [`Smmu::take_asid`], [`Smmu::take_vmid`] | tags for address spaces and virtual machines |
//! | [`Smmu::forget`] | takes the tables of an address space or a virtual machine from the SMMU, so that their memory can be used again |
//! | [`Smmu::invalidate_guest`] | what virtual machines have their own SMMU forget |
//! | [`Smmu::invalidate`] and its kin | TLB and ATC invalidation, gathered, complete on return |
//!
//! The driver knows its SMMU by [`Registers`](registers::Registers) and [`DmaMemory`](dma::DmaMemory) alone. What it waits for, it
//! waits for in [`sync::wait`](crate::sync::wait), and the error names the register.
//!
//! Where the SMMU's accesses are not coherent (IDR0.COHACC = 0), the driver maintains the caches for what is its own, and
//! [`Smmu::coherence`] does so for tables that are not.

mod ats;
mod bring_up;
pub mod command_queue;
mod context_table;
pub mod dma;
mod error;
mod event_queue;
#[cfg(test)]
mod fake;
mod faults;
mod global_error;
mod guest;
mod hardware;
mod hooks;
mod invalidation;
mod messages;
mod page_request_queue;
mod reclaim;
mod record_queue;
pub mod registers;
mod report;
mod ring;
mod smmu;
mod sorted;
mod stop;
mod stream;
mod stream_table;
mod structure;
mod tags;
mod teardown;
mod trace;
mod translation;

use embedded_hal::delay::DelayNs;

pub use command_queue::Synced;
pub use error::{CommandTimeout, DriverError, Timeout, Unsupported};
pub use global_error::{GlobalErrors, Lost};
pub use guest::{Guest, GuestInvalidation};
pub use hooks::{DeviceControl, EventSink, OutputQueue, Wake};
pub use invalidation::{Gathered, Pages};
pub use messages::{ABORTED_MESSAGES, Messages};
pub use reclaim::{Forgotten, Remembered, Tag, Walked};
pub use record_queue::{Drained, RecordCounts};
pub use report::{Incident, LINES, Report};
pub use smmu::{Hooks, Options, Smmu, Upkeep};
pub use stream::{FaultMode, StreamConfig, Transition};
pub use translation::{Context, HOST, NO_TABLES, Stage2, Translation};

/// The most records that one drain takes out of a queue, so that a masked section stays short.
pub const BATCH: usize = 64;

/// A delay that every core can have its own copy of.
pub trait Delay: DelayNs + Clone + Send + Sync + 'static {}

impl<T: DelayNs + Clone + Send + Sync + 'static> Delay for T {}
