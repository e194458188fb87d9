//! Strict mode: names the first mistake that a driver makes, where an SMMU would go on in one of the ways that the
//! architecture permits.
//!
//! Each broken rule has a name, its section and what was due ([`Rule`]). Strict mode never changes what the SMMU does. It
//! judges only what it has seen: a rule whose breach could also be something that the architecture lets a driver do is not
//! here, and where its memory has run out it says nothing.
//!
//! | part | what it looks at |
//! |---|---|
//! | `registers` | writes to registers |
//! | `commands` | the command queue |
//! | `answers` | stalls and page request groups, and their answers |
//! | `structures` | STEs and CDs that change under the SMMU |
//! | `story` | what was done before, and how it is told |

mod answers;
mod commands;
mod registers;
mod story;
mod structures;

use core::fmt;

use self::answers::Answers;
use self::commands::Published;
use self::registers::Written;
pub use self::story::Story;
use self::story::{Entry, Journal};
use self::structures::Watched;
use super::Smmu;
use crate::model::machine::Width;
use crate::smmuv3::event::{Event, TranslationFault};

/// Declares the rules: variant, name, section, what is due.
macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $section:literal, $due:literal;)+) => {
        /// A rule of the programming model that a driver can break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[$doc])* $variant,)+
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The section of the specification that it is from.
            pub const fn section(self) -> &'static str {
                match self { $(Self::$variant => $section,)+ }
            }

            /// What a driver owes.
            pub const fn due(self) -> &'static str {
                match self { $(Self::$variant => $due,)+ }
            }
        }
    };
}

rules! {
    /// A write that is not aligned to its size.
    MisalignedAccess, "misaligned-access", "6.2", "an access to a register is aligned to its size";
    /// A 64-bit write to 32-bit registers.
    DoubleAccess, "double-access", "6.2", "a 32-bit register is accessed with 32 bits";
    /// A change of what is guarded by a field that is not in the state for it, or on the way there or from there.
    GuardedField, "guarded-field", "6.2", "a guarded field changes only while its guard is 0 and acknowledged as 0";
    /// A field of CR0 or IRQ_CTRL changed again before the change before was complete.
    FieldInUpdate, "field-in-update", "6.3.9", "a field of CR0 or IRQ_CTRL stays until its acknowledgement shows it";
    /// GBPA written without Update.
    GbpaWithoutUpdate, "gbpa-without-update", "6.3.14.1", "GBPA is written with Update set";
    /// GBPA written while Update is 1.
    GbpaInUpdate, "gbpa-in-update", "6.3.14.1", "GBPA is written only while Update is 0";
    /// A bit of GERRORN toggled whose error is not active.
    ErrorNotActive, "error-not-active", "6.3.20", "GERRORN is toggled only for errors that are active";
    /// A LOG2SIZE beyond IDR1.
    QueueTooLarge, "queue-too-large", "6.3.26", "LOG2SIZE is at most what IDR1 says for this queue";
    /// A queue enabled at an address that is not aligned to its size.
    QueueMisaligned, "queue-misaligned", "6.3.26", "a queue is aligned to its size in bytes";
    /// A queue enabled with PROD more than its size ahead of CONS.
    QueueInconsistent, "queue-inconsistent", "3.5.1", "PROD and CONS are consistent when the queue is enabled";
    /// CMDQ_PROD moved back, without an active command queue error, or beyond CONS with one.
    ProducerBackwards, "producer-backwards", "3.5.1", "CMDQ_PROD only moves forward, but to CONS while CMDQ_ERR is active";
    /// CMDQ_PROD moved more than the queue's size ahead of CONS.
    ProducerTooFar, "producer-too-far", "3.5.1", "CMDQ_PROD is at most the size of the queue ahead of CONS";
    /// CONS of the event or PRI queue moved back.
    ConsumerBackwards, "consumer-backwards", "3.5.1", "CONS of an enabled queue only moves forward";
    /// CONS of the event or PRI queue moved past PROD.
    ConsumerPastProducer, "consumer-past-producer", "3.5.1", "CONS of an enabled queue moves no further than PROD";
    /// OVACKFLG toggled while there is no overflow.
    OverflowNotActive, "overflow-not-active", "6.3.96", "OVACKFLG is set to the value of OVFLG";
    /// SMMUEN set while the base of the stream table is not aligned to its size.
    StreamTableMisaligned, "stream-table-misaligned", "6.3.24", "the stream table is aligned to its size in bytes";
    /// An enable set that puts to use what reset leaves UNKNOWN and nobody has written.
    RegisterUnwritten, "register-unwritten", "3.11",
        "what an enable puts to use is written after a reset, PROD and CONS of a queue after its BASE";
    /// SMMUEN set for the first time, and what the caches may hold since before the reset was not invalidated.
    NotInvalidated, "not-invalidated", "3.11",
        "CFGI_ALL, TLBI_NSNH_ALL (TLBI_NH_ALL where there is stage 1 of EL1 alone), with IDR0.HYP TLBI_EL2_ALL, and a SYNC are consumed before SMMUEN is set";
    /// SMMUEN cleared while ATS is enabled at a device.
    AtsLeftEnabled, "ats-left-enabled", "3.9.1", "ATS is disabled at all devices before SMMUEN is cleared";

    /// A command that the SMMU does not have, or with a reserved value.
    IllegalCommand, "illegal-command", "7.1", "every command in the queue is one that this SMMU has";
    /// CMDQ_ERR acknowledged, and the illegal command is still there.
    IllegalCommandKept, "illegal-command-kept", "7.1", "an illegal command is replaced before CMDQ_ERR is acknowledged";
    /// A command changed after PROD covered it and before it was consumed.
    CommandChanged, "command-changed", "3.21.2", "a command stays as it is from its publication to its consumption";
    /// SSV in a command where there are no PASIDs.
    PasidNotSupported, "pasid-not-supported", "4.5", "SSV is 0 where IDR1.SSIDSIZE is 0";

    /// A RESUME that names no stall record.
    ResumeUnknown, "resume-unknown", "4.7.1", "RESUME takes its StreamID and STAG from an unanswered stall record";
    /// A second RESUME for one record.
    ResumeTwice, "resume-twice", "4.7.1", "a stall record is answered by one RESUME";
    /// A RESUME for a record that STALL_TERM had answered.
    ResumeAfterTerminate, "resume-after-terminate", "4.7.1", "after STALL_TERM no record before it is answered";
    /// STALL_TERM of a stream whose STE lets transactions through.
    TerminateNotAborting, "terminate-not-aborting", "4.7.2", "the STE aborts new transactions before STALL_TERM";
    /// STALL_TERM of a stream whose STE aborts in memory, while the SMMU still has the one before, or without CFGI and SYNC after
    /// its last stall.
    TerminateNotInvalidated, "terminate-not-invalidated", "4.7.2",
        "CFGI_STE and SYNC are consumed between the change of the STE to abort and STALL_TERM";
    /// A PRI_RESP for a group of which there is no record.
    ResponseUnknown, "response-unknown", "4.5.2", "PRI_RESP answers a group whose requests are in the PRI queue";
    /// A second PRI_RESP for one group.
    ResponseTwice, "response-twice", "4.5.2", "a page request group is answered by one PRI_RESP";
    /// A PRI_RESP for a group whose Last the SMMU has answered on its own.
    ResponseToAutomatic, "response-to-automatic", "8.1.1", "a group whose Last was lost to an overflow is ignored";
    /// A PRI_RESP with a PASID that the group does not have.
    ResponsePasid, "response-pasid", "4.5.2", "the PASID of a PRI_RESP is that of the group's requests";

    /// A valid STE changed in such a way that the SMMU may read what it never was and never will be.
    TornSte, "torn-ste", "3.21.3", "a valid STE changes in one 64-bit word, or passes through V=0 and CFGI";
    /// The same of a CD.
    TornCd, "torn-cd", "3.21.3", "a valid CD changes in one 64-bit word, or passes through V=0 and CFGI";
}

/// The most words that tell about a violation.
const DETAILS: usize = 4;

/// A rule that was broken, and what by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What it was about: names and values.
    pub details: [Option<(&'static str, u64)>; DETAILS],
}

impl Violation {
    fn new<const N: usize>(rule: Rule, about: [(&'static str, u64); N]) -> Self {
        let mut details = [None; DETAILS];
        details.iter_mut().zip(about).for_each(|(detail, about)| *detail = Some(about));
        Self { rule, details }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.rule.name(), self.rule.section())?;
        for (number, (name, value)) in self.details.iter().flatten().enumerate() {
            write!(f, "{} {name} {value:#x}", if number == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

/// The last `N` of something.
#[derive(Debug)]
struct Recent<T, const N: usize> {
    entries: [Option<T>; N],
    next: usize,
}

impl<T: Copy, const N: usize> Recent<T, N> {
    const fn new() -> Self {
        Self { entries: [None; N], next: 0 }
    }

    /// Adds `entry`, and gives the one whose place it takes.
    fn push(&mut self, entry: T) -> Option<T> {
        let old = self.entries.get_mut(self.next)?.replace(entry);
        self.next = (self.next + 1) % N;
        old
    }

    /// What there is, oldest first.
    fn iter(&self) -> impl Iterator<Item = &T> {
        let (newer, older) = self.entries.split_at_checked(self.next).unwrap_or_default();
        older.iter().chain(newer).flatten()
    }

    /// What there is, newest first.
    fn newest_first(&mut self) -> impl Iterator<Item = &mut T> {
        let (newer, older) = self.entries.split_at_mut_checked(self.next).unwrap_or_default();
        newer.iter_mut().rev().chain(older.iter_mut().rev()).flatten()
    }
}

/// What strict mode knows.
#[derive(Debug)]
pub(super) struct Strict {
    on: bool,
    violation: Option<Violation>,
    journal: Journal,
    written: Written,
    published: Published,
    answers: Answers,
    watched: Watched,
}

impl Strict {
    pub(super) const fn new() -> Self {
        Self {
            on: false,
            violation: None,
            journal: Journal::new(),
            written: Written::new(),
            published: Published::new(),
            answers: Answers::new(),
            watched: Watched::new(),
        }
    }

    /// Turns strict mode on or off.
    pub(super) const fn turn(&mut self, on: bool) {
        self.on = on;
    }

    /// Notes a violation, of which the first one counts.
    fn violate<const N: usize>(&mut self, rule: Rule, about: [(&'static str, u64); N]) {
        self.violation.get_or_insert(Violation::new(rule, about));
    }

    /// An event record reaches its queue.
    pub(super) fn event(&mut self, event: &Event) {
        if !self.on {
            return;
        }
        self.journal.note(Entry::Event(event.encode()));
        if let Event::Fault(TranslationFault { stream, stag: Some(stag), .. }) = *event {
            self.answers.stalls.given(stream, stag);
        }
    }

    /// SMMUEN went from 1 to 0 and that has taken effect: stalls are terminated, groups answered, structures not read
    /// (6.3.9.6).
    pub(super) fn disabled(&mut self, ats_enabled: bool) {
        if !self.on {
            return;
        }
        self.answers.disabled();
        self.watched = Watched::new();
        if ats_enabled {
            self.violate(Rule::AtsLeftEnabled, []);
        }
    }
}

impl Smmu {
    /// The first violation that strict mode found, with what led to it.
    pub fn violation(&self) -> Option<Story<'_>> {
        self.strict.violation.map(|violation| Story { violation, journal: &self.strict.journal })
    }

    /// Takes the first violation: the next one is the first again.
    pub fn take_violation(&mut self) -> Option<Violation> {
        self.strict.violation.take()
    }

    /// A write that is not aligned to its size. It does nothing.
    pub fn misaligned_write(&mut self, offset: usize, width: Width, value: u64) {
        if self.strict.on {
            self.strict.journal.note(Entry::Write { offset, width, value });
            self.strict.violate(Rule::MisalignedAccess, [("offset", offset as u64)]);
        }
    }
}
