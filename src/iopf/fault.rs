//! One fault, and the answer to it.

use crate::smmuv3::event::{FaultClass, Stall, TranslationFault};
use crate::smmuv3::{Access, PageResponse, PrgIndex, Stag, StreamId, SubstreamId};

/// One access that a device could not complete, as its queue recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who accessed.
    pub stream: StreamId,
    /// In which of its address spaces; `None` is the one without a SubstreamID.
    pub substream: Option<SubstreamId>,
    /// Where, in bytes; for a page request the address of the page.
    pub address: u64,
    /// What the access needs.
    pub access: Access,
    /// How the device waits for the answer.
    pub request: Request,
    /// Where stage 2 misses, of a stall there; what is missing lies at this intermediate address then.
    pub stage2: Option<Stage2Fault>,
}

/// What a stall at stage 2 stopped (7.3.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2Fault {
    /// The intermediate address of the page, a multiple of 4096.
    pub ipa: u64,
    /// What is there: what the device accesses, or a structure of stage 1 that the SMMU has to read for that, whatever the device
    /// wants to do.
    pub class: FaultClass,
    /// The SMMU has to write the structure too: the Access flag of a table's entry.
    pub table_write: bool,
}

impl Stage2Fault {
    /// What the record of `stall`, which has this word 3, says of stage 2, if that is where it stopped. With the reserved CLASS it says
    /// nothing.
    pub(super) fn of(stall: &Stall, fourth: u64) -> Option<Self> {
        let TranslationFault { ipa, class, table_write, .. } = stall.fault(fourth)?;
        ipa.map(|ipa| Self { ipa, class, table_write })
    }
}

/// How a device waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The SMMU holds the transaction (3.12.2).
    Stall(Stag),
    /// The device sent a page request (8).
    Page {
        /// The group it belongs to.
        group: PrgIndex,
        /// It ends the group, which wants one answer.
        last: bool,
    },
}

impl From<&Stall> for Fault {
    #[inline(always)]
    fn from(stall: &Stall) -> Self {
        Self {
            stream: stall.stream(),
            substream: stall.substream(),
            address: stall.address(),
            access: stall.access(),
            request: Request::Stall(stall.stag()),
            stage2: None,
        }
    }
}

impl Fault {
    /// Whether this is a Stop marker, which wants no answer: Last without R and W, and with a PASID (8).
    pub const fn is_stop_marker(&self) -> bool {
        matches!(self.request, Request::Page { last: true, .. })
            && !self.access.read
            && !self.access.write
            && self.substream.is_some()
    }

    /// Whether this fault by itself asks for an answer: a stall does, and a page request that ends its group.
    pub const fn wants_answer(&self) -> bool {
        match self.request {
            Request::Stall(_) => true,
            Request::Page { last, .. } => last && !self.is_stop_marker(),
        }
    }

    /// What is answered.
    pub const fn target(&self) -> Target {
        match self.request {
            Request::Stall(tag) => Target::Stall(tag),
            Request::Page { group, .. } => Target::Group(group),
        }
    }

    /// The answer `response` to this fault and to the group that it ends.
    pub const fn answer(&self, response: PageResponse) -> Answer {
        Answer { stream: self.stream, substream: self.substream, to: self.target(), response }
    }
}

/// What an answer goes to; with the StreamID it names one stall or one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A stalled transaction.
    Stall(Stag),
    /// A page request group.
    Group(PrgIndex),
}

/// One answer, which becomes one CMD_RESUME or CMD_PRI_RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whose.
    pub stream: StreamId,
    /// The SubstreamID of the request that ended the group. Whether the response carries it is the endpoint's
    /// "PRG Response PASID Required", which the responder knows.
    pub substream: Option<SubstreamId>,
    /// To what.
    pub to: Target,
    /// How.
    pub response: PageResponse,
}

/// By which means a device has its faults answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The SMMU stalls its transactions, at stage 1.
    Stall,
    /// The SMMU stalls its transactions, at stage 2 or at both stages: each is reported by itself, with what [`Fault::stage2`] says.
    Stage2Stall,
    /// It sends page requests (ATS and PRI).
    Page,
}

/// What became of a reported fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an answer that is not sent leaves the device waiting"]
pub enum Report {
    /// The caller sends this answer, within the same masked section.
    Answer(Answer),
    /// A page request that waits for the last one of its group.
    Held,
    /// The handler has the group and answers later.
    Deferred,
    /// Nothing is to be sent for it: a Stop marker, a record of an earlier life, a stall that STALL_TERM answers, a
    /// page request without Last that no one serves.
    Swallowed,
}

/// A [`Report`] without what its caller knows: small enough for a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answer(PageResponse),
    Held,
    Deferred,
    Swallowed,
}

impl Outcome {
    /// The report of `fault`.
    #[inline(always)]
    pub(super) const fn of(self, fault: &Fault) -> Report {
        match self {
            Self::Answer(response) => Report::Answer(fault.answer(response)),
            Self::Held => Report::Held,
            Self::Deferred => Report::Deferred,
            Self::Swallowed => Report::Swallowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(access: Access, substream: Option<SubstreamId>, last: bool) -> Fault {
        let group = PrgIndex::from_low_bits(7);
        Fault {
            stream: StreamId(1),
            substream,
            address: 0,
            access,
            request: Request::Page { group, last },
            stage2: None,
        }
    }

    #[test]
    fn only_last_without_read_and_write_and_with_a_pasid_is_a_stop_marker() {
        let pasid = SubstreamId::new(3);
        let none = Access::default();
        assert!(page(none, pasid, true).is_stop_marker());
        assert!(!page(none, None, true).is_stop_marker());
        assert!(!page(none, pasid, false).is_stop_marker());
        assert!(!page(Access::READ, pasid, true).is_stop_marker());
        assert!(!page(Access::WRITE, pasid, true).is_stop_marker());
    }

    #[test]
    fn a_stop_marker_and_a_request_without_last_want_no_answer() {
        assert!(!page(Access::default(), SubstreamId::new(3), true).wants_answer());
        assert!(!page(Access::READ, None, false).wants_answer());
        assert!(page(Access::default(), None, true).wants_answer());
        assert!(page(Access::READ, None, true).wants_answer());
    }
}
