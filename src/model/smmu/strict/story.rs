//! What was done before a violation, and how it is told.

use core::fmt;

use super::{Recent, Violation};
use crate::model::machine::Width;
use crate::smmuv3::Access;
use crate::smmuv3::command::Command;
use crate::smmuv3::event::{Event, TranslationFault};
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::registers::Register;

/// How many of the last register writes, commands and records are told, of each kind.
const KEPT: usize = 32;

/// Something that was done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// Software wrote a register.
    Write { offset: usize, width: Width, value: u64 },
    /// The SMMU fetched a command.
    Command([u64; 2]),
    /// The SMMU wrote an event record.
    Event([u64; 4]),
    /// The SMMU wrote a page request.
    PageRequest([u64; 2]),
}

/// The last things done. Each kind has its own place, so that many of one do not displace the others.
#[derive(Debug)]
pub(super) struct Journal {
    writes: Recent<(u32, Entry), KEPT>,
    commands: Recent<(u32, Entry), KEPT>,
    records: Recent<(u32, Entry), KEPT>,
    /// The number of the next entry.
    next: u32,
}

impl Journal {
    pub(super) const fn new() -> Self {
        Self { writes: Recent::new(), commands: Recent::new(), records: Recent::new(), next: 0 }
    }

    pub(super) fn note(&mut self, entry: Entry) {
        let kind = match entry {
            Entry::Write { .. } => &mut self.writes,
            Entry::Command(_) => &mut self.commands,
            Entry::Event(_) | Entry::PageRequest(_) => &mut self.records,
        };
        kind.push((self.next, entry));
        self.next = self.next.wrapping_add(1);
    }
}

/// A violation with what led to it: its rule, what was due, and the last register writes, commands and records in the
/// order in which they came.
#[derive(Debug)]
pub struct Story<'a> {
    /// The violation.
    pub violation: Violation,
    pub(super) journal: &'a Journal,
}

impl fmt::Display for Story<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the driver broke {}", self.violation)?;
        writeln!(f, "  due: {}", self.violation.rule.due())?;
        write!(f, "  before, the last {KEPT} writes, commands and records, their words in hexadecimal:")?;
        let Journal { writes, commands, records, next } = self.journal;
        let mut kinds = [writes, commands, records].map(|kind| kind.iter().peekable());
        // The age, so that the count may wrap.
        let age = |number: u32| next.wrapping_sub(number);
        loop {
            let oldest =
                kinds.iter_mut().filter_map(|kind| kind.peek().map(|(number, _)| age(*number))).max().and_then(
                    |oldest| kinds.iter_mut().find_map(|kind| kind.next_if(|(number, _)| age(*number) == oldest)),
                );
            match oldest {
                Some((number, entry)) => write!(f, "\n  {number:>6} {entry}")?,
                None => return Ok(()),
            }
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Write { offset, width, value } => {
                match (Register::from_offset(offset), offset.checked_sub(4).and_then(Register::from_offset)) {
                    (Some(register), _) => write!(f, "write    {}", register.name())?,
                    (None, Some(register)) if register.is_64bit() => write!(f, "write    {}[63:32]", register.name())?,
                    _ => write!(f, "write    {offset:#x}")?,
                }
                write!(f, " = {value:#x}{}", if width == Width::Double { ", 64 bits" } else { "" })
            }
            Self::Command(words) => match Command::decode(words) {
                Ok(command) => write!(f, "command  {command:x?}"),
                Err(_) => write!(f, "command  {words:x?}"),
            },
            Self::Event(words) => match Event::decode(words) {
                Ok(Event::Fault(TranslationFault { kind, stream, stag, access, address, .. })) => {
                    let wanted = match access {
                        Access { write: true, .. } => "write",
                        Access { execute: true, .. } => "fetch",
                        _ => "read",
                    };
                    write!(f, "event    {kind:?} {stream:x?} {stag:x?} {wanted} at {address:#x}")
                }
                Ok(event) => write!(f, "event    {event:x?}"),
                Err(_) => write!(f, "event    {words:x?}"),
            },
            Self::PageRequest(words) => {
                let PageRequest { stream, substream, last, group, address, .. } = PageRequest::decode(words);
                let last = if last { " Last" } else { "" };
                write!(f, "request  {stream:x?} {substream:x?} {group:x?}{last} at {address:#x}")
            }
        }
    }
}
