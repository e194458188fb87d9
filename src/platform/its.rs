//! Interrupts by message: the GIC's interrupt translation service (ITS) and its LPIs (IHI 0069, chapter 5).
//!
//! A device writes the number of an event to GITS_TRANSLATER. The ITS knows which device wrote; it finds the device's table of
//! events, there the interrupt (an LPI, of INTID 8192 and above) and its collection, and the core that the collection is for.
//! Software fills these tables in by commands, and has no say in their layout. Whether an LPI is on is a byte in memory, the
//! same for all cores; whether it is pending, a bit in a table for each core.
//!
//! Nothing here is given back: what is mapped stays mapped.

pub mod command;
#[cfg(target_os = "none")]
mod lpi;
#[cfg(target_os = "none")]
mod service;

#[cfg(target_os = "none")]
pub use self::service::{Its, ItsError};
