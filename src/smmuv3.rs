//! The SMMUv3 architecture (Arm IHI 0070) written down: layouts as pure encode and decode, no state and no I/O.
//!
//! Section numbers in this room's documentation are sections of that specification.

pub(crate) mod bits;
pub mod cd;
pub mod command;
pub mod descriptor;
pub mod event;
pub mod features;
pub mod page_request;
pub mod queue;
pub mod registers;
pub mod ste;
pub mod types;

pub use types::{
    Access, AddressSize, Asid, Cacheability, FlagUpdate, Granule, PageResponse, PhysAddr, PrgIndex, Shareability, Stag,
    StreamId, SubstreamId, TableAttributes, Vmid,
};
