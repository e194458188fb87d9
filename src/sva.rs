//! Address spaces shared with devices: regions whose pages come when a device touches them.
//!
//! [`frames`] holds the memory, `page_table` what the SMMU walks, [`address_space`] what may be touched, [`page_in`] what is on
//! its way, and [`pager`] is the fault handler that puts them together.

pub mod address_space;
pub mod frames;
pub mod page_in;
mod page_table;
pub mod pager;
#[cfg(test)]
mod tests;

pub use page_table::Permissions;

/// The size of these address spaces as a context descriptor says it: 64 less the 39 bits of an address.
pub const T0SZ: u8 = 25;

/// The memory attributes of these address spaces, in MAIR_EL1's format: index 0 is Normal, write-back, allocating.
pub const MAIR: u64 = 0xff;

/// The index of [`MAIR`] that every page has.
const ATTRIBUTE_INDEX: u8 = 0;
