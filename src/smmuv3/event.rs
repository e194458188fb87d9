//! Event queue records (7.3).

mod codec;
mod display;
mod stall;

use thiserror::Error;

pub use self::stall::{AccessSet, Stall, StallBuffer, StallRun};
use super::{Access, Stag, StreamId, SubstreamId};

/// One record of the event queue.
///
/// The accesses in records carry the attributes after the STE's overrides, except in [`Event::Uut`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `F_UUT`: a transaction of a kind that the SMMU does not support (7.3.2).
    Uut {
        /// Where it came from.
        origin: Origin,
        /// Implementation-defined cause.
        reason: u16,
        /// What it wanted.
        access: Access,
        /// Its address.
        address: u64,
    },
    /// `C_BAD_STREAMID`: the stream table has no entry for the StreamID (7.3.3).
    BadStreamId {
        /// Where the transaction came from.
        origin: Origin,
    },
    /// `F_STE_FETCH`: reading the STE was aborted (7.3.4).
    SteFetch {
        /// Where the transaction came from.
        origin: Origin,
        /// What was aborted.
        fetch: Fetch,
    },
    /// `C_BAD_STE`: the STE is not valid (7.3.5).
    BadSte {
        /// Where the transaction came from.
        origin: Origin,
    },
    /// `F_BAD_ATS_TREQ`: an ATS translation request of a stream that may make none (7.3.6). What access it asked for and
    /// how many pages is not decoded.
    BadAtsTreq {
        /// Where it came from.
        origin: Origin,
        /// Its address, a multiple of 4096.
        address: u64,
    },
    /// `F_STREAM_DISABLED`: a transaction without SubstreamID, or with SubstreamID 0, where `STE.S1DSS` allows none
    /// (7.3.7). The record does not tell which of the two.
    StreamDisabled {
        /// The stream.
        stream: StreamId,
    },
    /// `F_TRANSL_FORBIDDEN`: a translated transaction of a stream that may make none (7.3.8).
    TranslForbidden {
        /// Where it came from.
        origin: Origin,
        /// Whether it was a write.
        write: bool,
        /// Its address.
        address: u64,
    },
    /// `C_BAD_SUBSTREAMID`: a SubstreamID that the STE does not allow or the CD table does not have (7.3.9).
    BadSubstreamId {
        /// The stream.
        stream: StreamId,
        /// Which SubstreamID.
        substream: SubstreamId,
    },
    /// `F_CD_FETCH`: reading the CD was aborted (7.3.10).
    CdFetch {
        /// Where the transaction came from.
        origin: Origin,
        /// What was aborted.
        fetch: Fetch,
    },
    /// `C_BAD_CD`: the CD is not valid (7.3.11).
    BadCd {
        /// Where the transaction came from.
        origin: Origin,
    },
    /// `F_WALK_EABT`: reading a translation table was aborted (7.3.12).
    WalkEabt {
        /// Where the transaction came from.
        origin: Origin,
        /// What it wanted.
        access: Access,
        /// What was being translated.
        class: FaultClass,
        /// The table was one of stage 2.
        stage2: bool,
        /// The transaction's address.
        address: u64,
        /// What was aborted.
        fetch: Fetch,
    },
    /// `F_TRANSLATION`, `F_ADDR_SIZE`, `F_ACCESS` or `F_PERMISSION`: the translation-related faults, which alone can
    /// stall (7.3.13 to 7.3.16).
    Fault(TranslationFault),
    /// `F_TLB_CONFLICT`: TLB entries contradict each other (7.3.17).
    TlbConflict {
        /// Where the transaction came from.
        origin: Origin,
        /// Implementation-defined cause.
        reason: u16,
        /// What it wanted.
        access: Access,
        /// The transaction's address.
        address: u64,
        /// The IPA, for a conflict at stage 2.
        ipa: Option<u64>,
    },
    /// `F_CFG_CONFLICT`: cached configuration contradicts itself (7.3.18).
    CfgConflict {
        /// Where the transaction came from.
        origin: Origin,
        /// Implementation-defined cause.
        reason: u16,
    },
    /// `E_PAGE_REQUEST`: a hint that pages will be used soon, which wants no answer (7.3.19).
    PageRequest {
        /// Where it came from.
        origin: Origin,
        /// What will be done unprivileged, [`Access::privileged`] false.
        unprivileged: Access,
        /// What will be done privileged, [`Access::privileged`] true.
        privileged: Access,
        /// The first page's address.
        address: u64,
        /// The number of 4096-byte pages.
        span: u8,
    },
    /// `F_VMS_FETCH`: reading the VMS was aborted (7.3.20).
    VmsFetch {
        /// Where the transaction came from.
        origin: Origin,
        /// What was aborted.
        fetch: Fetch,
    },
    /// `IMPDEF_EVENTn`: numbers 0xe0 to 0xef, whose layout is the implementation's (7.3.21).
    ImplementationDefined {
        /// The record as it is.
        words: [u64; 4],
    },
}

/// Where a transaction came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Its StreamID.
    pub stream: StreamId,
    /// Its SubstreamID, if it had one.
    pub substream: Option<SubstreamId>,
}

/// An access of the SMMU's own that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fetch {
    /// Implementation-defined cause.
    pub reason: u16,
    /// It was a granule protection check that failed.
    pub granule_protection: bool,
    /// The physical address, a multiple of 8. Bits above the output address size may be anything.
    pub address: u64,
}

/// A fault that translation found, and that the stream may be set up to stall on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TranslationFault {
    /// What is wrong.
    pub kind: FaultKind,
    /// Whose transaction.
    pub stream: StreamId,
    /// In which of its address spaces.
    pub substream: Option<SubstreamId>,
    /// The transaction is stalled and waits under this tag; `None`: it has been terminated.
    pub stag: Option<Stag>,
    /// What the transaction wanted. An instruction fetch is `execute` alone.
    pub access: Access,
    /// What was being translated.
    pub class: FaultClass,
    /// For a fault at stage 2, the IPA that it faulted on; `None` for stage 1.
    pub ipa: Option<u64>,
    /// The walk's own access that lacked permission was a write, as of hardware Access flag update. Only for
    /// [`FaultKind::Permission`] with [`FaultClass::TableDescriptor`], else false.
    pub table_write: bool,
    /// The transaction's address, as it came.
    pub address: u64,
}

/// What is wrong with a translation. Numbered as the events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FaultKind {
    /// `F_TRANSLATION`: nothing is mapped there.
    Translation = 0x10,
    /// `F_ADDR_SIZE`: the output address is too large.
    AddressSize = 0x11,
    /// `F_ACCESS`: the Access flag is 0.
    Access = 0x12,
    /// `F_PERMISSION`: what is mapped does not allow the access.
    Permission = 0x13,
}

/// What was being translated. Numbered as the field `CLASS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FaultClass {
    /// The address of a CD, at stage 2.
    ContextDescriptor = 0,
    /// The address of a stage 1 table, at stage 2.
    TableDescriptor = 1,
    /// The address of the transaction, or the IPA that it became.
    Input = 2,
}

/// Why four words are not an event record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EventError {
    /// A reserved event number.
    #[error("unknown event {0:#04x}")]
    Number(u8),
    /// The reserved `CLASS` 3.
    #[error("event {0:#04x} with the reserved class 3")]
    Class(u8),
}

impl Event {
    /// The bytes that a record takes.
    pub const SIZE: usize = 32;

    /// The stream that the event is about; `None` if only the implementation knows.
    pub const fn stream(&self) -> Option<StreamId> {
        match *self {
            Self::Uut { origin, .. }
            | Self::BadStreamId { origin }
            | Self::SteFetch { origin, .. }
            | Self::BadSte { origin }
            | Self::BadAtsTreq { origin, .. }
            | Self::TranslForbidden { origin, .. }
            | Self::CdFetch { origin, .. }
            | Self::BadCd { origin }
            | Self::WalkEabt { origin, .. }
            | Self::TlbConflict { origin, .. }
            | Self::CfgConflict { origin, .. }
            | Self::PageRequest { origin, .. }
            | Self::VmsFetch { origin, .. } => Some(origin.stream),
            Self::StreamDisabled { stream }
            | Self::BadSubstreamId { stream, .. }
            | Self::Fault(TranslationFault { stream, .. }) => Some(stream),
            Self::ImplementationDefined { .. } => None,
        }
    }

    /// The event number (7.3), 0xe0 to 0xef where the implementation defines the event.
    pub const fn number(&self) -> u8 {
        self.encode()[0] as u8
    }

    /// The specification's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Uut { .. } => "F_UUT",
            Self::BadStreamId { .. } => "C_BAD_STREAMID",
            Self::SteFetch { .. } => "F_STE_FETCH",
            Self::BadSte { .. } => "C_BAD_STE",
            Self::BadAtsTreq { .. } => "F_BAD_ATS_TREQ",
            Self::StreamDisabled { .. } => "F_STREAM_DISABLED",
            Self::TranslForbidden { .. } => "F_TRANSL_FORBIDDEN",
            Self::BadSubstreamId { .. } => "C_BAD_SUBSTREAMID",
            Self::CdFetch { .. } => "F_CD_FETCH",
            Self::BadCd { .. } => "C_BAD_CD",
            Self::WalkEabt { .. } => "F_WALK_EABT",
            Self::Fault(TranslationFault { kind, .. }) => match kind {
                FaultKind::Translation => "F_TRANSLATION",
                FaultKind::AddressSize => "F_ADDR_SIZE",
                FaultKind::Access => "F_ACCESS",
                FaultKind::Permission => "F_PERMISSION",
            },
            Self::TlbConflict { .. } => "F_TLB_CONFLICT",
            Self::CfgConflict { .. } => "F_CFG_CONFLICT",
            Self::PageRequest { .. } => "E_PAGE_REQUEST",
            Self::VmsFetch { .. } => "F_VMS_FETCH",
            Self::ImplementationDefined { .. } => "IMPDEF_EVENT",
        }
    }
}

#[cfg(test)]
mod tests;
