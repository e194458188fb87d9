//! Which stalls and page request groups software was told of, and what became of them (4.5.2, 4.7, 8.1.1).

use super::super::Smmu;
use super::commands::covers;
use super::{Entry, Recent, Rule};
use crate::smmuv3::command::Command;
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{PrgIndex, Stag, StreamId, SubstreamId};

/// How many of the last stall records, and of the last groups, are remembered.
const REMEMBERED: usize = 128;
/// How many CFGI commands are remembered until their CMD_SYNC. With more, each is taken to cover every stream.
const PENDING: usize = 16;

/// What software was told of, and what it answered.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) stalls: Records,
    pub(super) groups: Groups,
}

impl Answers {
    pub(super) const fn new() -> Self {
        Self {
            stalls: Records { recent: Recent::new(), forgot: false, pending: [None; PENDING], many_pending: false },
            groups: Groups { recent: Recent::new(), forgot: false },
        }
    }

    /// Everything open has ended by SMMUEN, and an answer that comes late is ignored (4.5.2, 6.3.9.6).
    pub(super) fn disabled(&mut self) {
        self.stalls.recent.newest_first().filter(|record| record.is_open()).for_each(|record| record.fate = Fate::Lost);
        self.groups.recent.newest_first().for_each(|group| group.fate = GroupFate::Lost);
    }
}

/// What became of a stall record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It wants an answer. Whether an invalidation of its STE was completed since it was written.
    Open {
        invalidated: bool,
    },
    Resumed,
    Terminated,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    stream: StreamId,
    stag: Stag,
    fate: Fate,
}

impl Record {
    const fn is_open(&self) -> bool {
        matches!(self.fate, Fate::Open { .. })
    }
}

/// Stall records.
#[derive(Debug)]
pub(super) struct Records {
    recent: Recent<Record, REMEMBERED>,
    /// One of which an answer would be no mistake is not remembered any more.
    forgot: bool,
    /// CFGI commands since the last CMD_SYNC, and whether there were more.
    pending: [Option<Command>; PENDING],
    many_pending: bool,
}

impl Records {
    /// A stall record was written.
    pub(super) fn given(&mut self, stream: StreamId, stag: Stag) {
        let old = self.recent.push(Record { stream, stag, fate: Fate::Open { invalidated: false } });
        self.forgot |= old.is_some_and(|old| matches!(old.fate, Fate::Open { .. } | Fate::Lost));
    }

    /// CMD_RESUME: `matched` says whether a stalled transaction was named.
    pub(super) fn resumed(&mut self, stream: StreamId, stag: Stag, matched: bool) -> Option<Rule> {
        let record = self.recent.newest_first().find(|record| record.stream == stream && record.stag == stag);
        match record {
            Some(record) if matched => {
                record.fate = Fate::Resumed;
                None
            }
            _ if matched => None,
            Some(Record { fate: Fate::Resumed, .. }) => Some(Rule::ResumeTwice),
            Some(Record { fate: Fate::Terminated, .. }) => Some(Rule::ResumeAfterTerminate),
            Some(_) => None,
            None => (!self.forgot).then_some(Rule::ResumeUnknown),
        }
    }

    /// CMD_STALL_TERM. Returns whether a record is open whose STE was not invalidated after it was written.
    pub(super) fn terminated(&mut self, stream: StreamId) -> bool {
        let mut early = false;
        for record in self.recent.newest_first().filter(|record| record.stream == stream) {
            if let Fate::Open { invalidated } = record.fate {
                early |= !invalidated;
                record.fate = Fate::Terminated;
            }
        }
        early
    }

    /// A CFGI command.
    pub(super) fn invalidated(&mut self, command: &Command) {
        match self.pending.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(*command),
            None => self.many_pending = true,
        }
    }

    /// A CMD_SYNC: the CFGI commands before it are complete. They cover stalls behind them too, which may have been under
    /// way with the old STE.
    pub(super) fn synchronized(&mut self) {
        let Self { recent, pending, many_pending, .. } = self;
        let is_covered = |stream| *many_pending || pending.iter().flatten().any(|command| covers(command, stream));
        for record in recent.newest_first().filter(|record| record.is_open() && is_covered(record.stream)) {
            record.fate = Fate::Open { invalidated: true };
        }
        *pending = [None; PENDING];
        *many_pending = false;
    }
}

/// What became of a page request group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupFate {
    /// Its Last has not come.
    Partial,
    /// It wants an answer.
    Open,
    Answered,
    /// The SMMU answered its Last on its own.
    Automatic,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    stream: StreamId,
    index: PrgIndex,
    /// The PASID of its first request.
    substream: Option<SubstreamId>,
    /// Not all of its requests have that PASID.
    mixed: bool,
    fate: GroupFate,
}

/// Page request groups.
#[derive(Debug)]
pub(super) struct Groups {
    recent: Recent<Group, REMEMBERED>,
    /// One of which an answer would be no mistake is not remembered any more.
    forgot: bool,
}

impl Groups {
    /// A page request was written to the queue, or the Last of a group was answered by the SMMU.
    fn requested(&mut self, request: &PageRequest, fate: GroupFate) {
        let PageRequest { stream, group: index, substream, .. } = *request;
        let begun = |group: &&mut Group| group.stream == stream && group.index == index;
        if let Some(group) = self.recent.newest_first().find(begun)
            && group.fate == GroupFate::Partial
        {
            group.mixed |= group.substream != substream;
            group.fate = fate;
            return;
        }
        let old = self.recent.push(Group { stream, index, substream, mixed: false, fate });
        self.forgot |= old.is_some_and(|old| !matches!(old.fate, GroupFate::Answered | GroupFate::Automatic));
    }

    /// CMD_PRI_RESP. Returns the rule that it breaks.
    pub(super) fn answer(&mut self, stream: StreamId, index: PrgIndex, substream: Option<SubstreamId>) -> Option<Rule> {
        let named = |group: &&mut Group| group.stream == stream && group.index == index;
        let fits = |group: &Group| substream.is_none() || substream == group.substream || group.mixed;
        // Groups of one index and several PASIDs may be answered in any order.
        let meant = |group: &&mut Group| named(group) && group.fate == GroupFate::Open && fits(group);
        if let Some(group) = self.recent.newest_first().find(meant) {
            group.fate = GroupFate::Answered;
            return None;
        }
        let mut newest = None;
        for group in self.recent.newest_first().filter(named) {
            match group.fate {
                GroupFate::Open => {
                    group.fate = GroupFate::Answered;
                    return Some(Rule::ResponsePasid);
                }
                // No rule says that a group may not be answered before its Last.
                GroupFate::Partial | GroupFate::Lost => {
                    group.fate = GroupFate::Answered;
                    return None;
                }
                GroupFate::Answered | GroupFate::Automatic => newest = newest.or(Some(group.fate)),
            }
        }
        if self.forgot {
            return None;
        }
        Some(match newest {
            Some(GroupFate::Automatic) => Rule::ResponseToAutomatic,
            Some(_) => Rule::ResponseTwice,
            None => Rule::ResponseUnknown,
        })
    }
}

impl Smmu {
    /// CMD_RESUME, of which `matched` says whether it named a stalled transaction.
    pub(in crate::model::smmu) fn check_resume(&mut self, stream: StreamId, stag: Stag, matched: bool) {
        if self.strict.on
            && let Some(rule) = self.strict.answers.stalls.resumed(stream, stag, matched)
        {
            self.strict.violate(rule, [("StreamID", stream.0.into()), ("STAG", stag.0.into())]);
        }
    }

    /// A page request or Stop marker reached its queue.
    pub(in crate::model::smmu) fn note_request(&mut self, request: &PageRequest) {
        if !self.strict.on {
            return;
        }
        self.strict.journal.note(Entry::PageRequest(request.encode()));
        if !request.is_stop_marker() {
            let fate = if request.last { GroupFate::Open } else { GroupFate::Partial };
            self.strict.answers.groups.requested(request, fate);
        }
    }

    /// The SMMU answers the Last of a group on its own, since the queue overflows (8.1).
    pub(in crate::model::smmu) fn note_automatic(&mut self, request: &PageRequest) {
        if self.strict.on {
            self.strict.answers.groups.requested(request, GroupFate::Automatic);
        }
    }
}
