//! The fault core: which stream a fault belongs to, what is still unanswered, and who may answer it.
//!
//! It knows no SMMU: records come in as [`Fault`]s, answers leave through a [`PageResponder`].

pub mod fault;

pub use fault::{Answer, Fault, Kind, Report, Request, Target};

use crate::smmuv3::PageResponse;
use crate::sync::Masked;

/// An answer that could not be queued; nothing of it reached the SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{answer:?} could not be queued")]
pub struct NotSent {
    /// The answer.
    pub answer: Answer,
}

/// The way answers leave: on an SMMU its command queue.
pub trait PageResponder: Send + Sync {
    /// Publishes `answer` before it returns. The caller has claimed the answer in this same masked section, so a grace
    /// period that ends later finds it published.
    ///
    /// # Errors
    ///
    /// [`NotSent`] when the answer could not be published; it is then kept and tried again by the time-out pass.
    fn respond(&self, masked: &Masked, answer: Answer) -> Result<(), NotSent>;
}

/// What a handler decides about a group at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer.
    Answer(PageResponse),
    /// It takes longer; [`FaultHandler::defer`] gets the group.
    Defer,
}
