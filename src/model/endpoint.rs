//! What passes between the SMMU and the devices behind it.

use crate::smmuv3::{Access, PageResponse, PhysAddr, PrgIndex, StreamId, SubstreamId};

/// An access of a device, as it arrives at the SMMU. It lies within one 4 KiB page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Which device.
    pub stream: StreamId,
    /// The PASID, if the access carries one.
    pub substream: Option<SubstreamId>,
    /// The input address.
    pub address: u64,
    /// What it wants to do.
    pub access: Access,
}

/// How an access ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// It goes on to this physical address.
    Physical(PhysAddr),
    /// It is refused with a bus error.
    Abort,
    /// It ends well without touching memory: reads return zeros, writes are dropped.
    Ignored,
}

/// What the SMMU answers to an ATS translation request (3.9.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Success. Neither `read` nor `write` means that the page cannot be accessed, and `page` means nothing. The bits
    /// Global, No-snoop and Untranslated-only of a completion are always 0 (3.9.1, 13.6).
    Success {
        /// Where the 4 KiB page leads to that was asked for: a physical address, or an IPA with split-stage ATS.
        page: PhysAddr,
        /// log2 of the bytes, aligned in input and output, around the page for which the answer holds, at least 12.
        span: u8,
        /// Reads are granted.
        read: bool,
        /// Writes are granted.
        write: bool,
        /// Instruction fetches are granted.
        execute: bool,
        /// To privileged accesses, as was asked for, else to unprivileged ones.
        privileged: bool,
    },
    /// Unsupported Request: ATS is not for this device.
    UnsupportedRequest,
    /// Completer Abort: the configuration of this stream is in error.
    CompleterAbort,
}

/// An ATS invalidation request (4.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// To which device.
    pub stream: StreamId,
    /// In which address space.
    pub substream: Option<SubstreamId>,
    /// In all address spaces that have a PASID. Counts only with a `substream`.
    pub global: bool,
    /// First byte of the span.
    pub first: u64,
    /// Last byte of the span.
    pub last: u64,
}

/// How an ATS invalidation request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidated {
    /// The device completes it, now or while it [is invalidating](Endpoints::is_invalidating).
    Completed,
    /// The device, or whoever answers for one that does not exist, refuses it with Unsupported Request: nothing was
    /// invalidated, and a CMD_SYNC does not tell (3.9.1.5).
    UnsupportedRequest,
    /// The device never answers: the CMD_SYNC that waits for it fails (3.9.1.4).
    TimedOut,
}

/// A page request group response, by software or automatic (8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupResponse {
    /// To which device.
    pub stream: StreamId,
    /// The PASID that the response carries.
    pub substream: Option<SubstreamId>,
    /// Which group.
    pub group: PrgIndex,
    /// The answer.
    pub response: PageResponse,
}

/// The devices behind the SMMU, as far as the SMMU sends them something.
pub trait Endpoints {
    /// Asks a device to invalidate cached translations.
    fn invalidate(&mut self, invalidation: &Invalidation) -> Invalidated;

    /// Whether a device has yet to complete an invalidation request that it will complete. A CMD_SYNC waits for that
    /// (4.5.1).
    fn is_invalidating(&self) -> bool;

    /// Whether some device has ATS enabled.
    fn is_ats_enabled(&self) -> bool;

    /// Delivers a page request group response. Returns whether a device was waiting for it.
    fn respond(&mut self, response: &GroupResponse) -> bool;
}
