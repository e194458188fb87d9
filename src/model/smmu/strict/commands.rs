//! Rules about the command queue (3.11, 3.21.2, 4, 7.1).

use super::super::Smmu;
use super::super::registers::{cr0, gerror};
use super::{Entry, Rule};
use crate::model::memory::Memory;
use crate::smmuv3::StreamId;
use crate::smmuv3::command::Command;
use crate::smmuv3::features::Features;
use crate::smmuv3::ste::StreamConfig;

/// How many commands from CONS on are known by their words, more than one tick consumes.
const WINDOW: u32 = 64;

/// Invalidations of everything: which commands were consumed, and then a CMD_SYNC.
const CFGI_ALL: u8 = 1 << 0;
const TLBI_NSNH_ALL: u8 = 1 << 1;
const TLBI_EL2_ALL: u8 = 1 << 2;

/// What strict mode knows of the commands.
#[derive(Debug)]
pub(super) struct Published {
    /// The words of the commands from CONS up to `seen`, by the low bits of their index.
    words: [[u64; 2]; WINDOW as usize],
    /// The index behind the last command whose words are known.
    seen: Option<u32>,
    /// The illegal command that stopped the queue, and its index.
    illegal: Option<(u32, [u64; 2])>,
    /// Invalidations of everything that were consumed, and those with a CMD_SYNC behind them, since the reset.
    invalidations: u8,
    completed: u8,
}

impl Published {
    pub(super) const fn new() -> Self {
        Self { words: [[0; 2]; WINDOW as usize], seen: None, illegal: None, invalidations: 0, completed: 0 }
    }

    /// Whether all that caches may hold after a reset was invalidated (3.11).
    pub(super) const fn all_invalidated(&self, el2: bool) -> bool {
        let wanted = CFGI_ALL | TLBI_NSNH_ALL | if el2 { TLBI_EL2_ALL } else { 0 };
        self.completed & wanted == wanted
    }

    /// `command` is consumed.
    fn consumed(&mut self, command: &Command, features: &Features) {
        self.illegal = None;
        self.invalidations |= match *command {
            Command::CfgiAll => CFGI_ALL,
            Command::CfgiSteRange { range, .. } if range + 1 >= features.sid_bits => CFGI_ALL,
            Command::TlbiNsnhAll => TLBI_NSNH_ALL,
            // 4.4.4.1: it says the same where there is stage 1 of EL1 alone.
            Command::TlbiNhAll { .. } if !features.stage2 && !features.hyp => TLBI_NSNH_ALL,
            Command::TlbiEl2All => TLBI_EL2_ALL,
            _ => 0,
        };
        if matches!(command, Command::Sync(_)) {
            self.completed |= self.invalidations;
        }
    }
}

/// Whether a CFGI of STEs covers the STE of `stream`.
pub(super) fn covers(command: &Command, stream: StreamId) -> bool {
    match *command {
        Command::CfgiAll => true,
        Command::CfgiSte { stream: named, .. } => named == stream,
        Command::CfgiSteRange { stream: named, range } => {
            (named.0 ^ stream.0).checked_shr(u32::from(range) + 1).is_none_or(|rest| rest == 0)
        }
        _ => false,
    }
}

impl Smmu {
    /// Looks at the commands that PROD covers: from now on they may not change (3.21.2).
    pub(in crate::model::smmu) fn watch_commands(&mut self, memory: &impl Memory) {
        if !self.strict.on {
            return;
        }
        let queue = &self.registers.commands;
        let published = &mut self.strict.published;
        // While the queue is disabled or in error, software may change what is in it.
        let runs = self.registers.enabled(cr0::CMDQEN) && !self.registers.error_active(gerror::CMDQ_ERR);
        let Some(len) = queue.len().filter(|_| runs) else {
            published.seen = None;
            return;
        };
        let (size, cons) = (queue.size(), queue.index(queue.cons));
        let known = published.seen.and_then(|seen| size.len(size.index(seen), cons).ok()).filter(|known| *known <= len);
        for ahead in known.unwrap_or(0)..len.min(WINDOW) {
            let index = size.advance(cons, ahead).raw();
            let (Ok(words), Some(kept)) =
                (queue.command(index, memory), published.words.get_mut((index % WINDOW) as usize))
            else {
                return;
            };
            *kept = words;
            published.seen = Some(size.advance(cons, ahead + 1).raw());
        }
    }

    /// The SMMU fetched `words`, the command at CONS.
    pub(in crate::model::smmu) fn check_fetched(&mut self, words: [u64; 2]) {
        if !self.strict.on {
            return;
        }
        self.strict.journal.note(Entry::Command(words));
        let cons = self.registers.commands.index(self.registers.commands.cons);
        let published = &self.strict.published;
        let before = published.words.get((cons.raw() % WINDOW) as usize).copied().unwrap_or(words);
        // What is seen at all goes further than a tick gets.
        if published.seen.is_some() && before != words {
            let about = [("CONS", cons.raw().into()), ("published", before[0]), ("consumed", words[0])];
            self.strict.violate(Rule::CommandChanged, about);
        }
    }

    /// The command queue stops; `illegal` is the command at CONS if that is why (7.1).
    pub(in crate::model::smmu) fn check_error(&mut self, illegal: Option<[u64; 2]>) {
        // Until the error is acknowledged, the commands from CONS on may change (7.1).
        self.strict.published.seen = None;
        let Some(words) = illegal.filter(|_| self.strict.on) else { return };
        let cons = self.registers.commands.index(self.registers.commands.cons).raw();
        let rule = match self.strict.published.illegal.replace((cons, words)) {
            Some(before) if before == (cons, words) => Rule::IllegalCommandKept,
            _ => Rule::IllegalCommand,
        };
        self.strict.violate(rule, [("CONS", cons.into()), ("word 0", words[0]), ("word 1", words[1])]);
    }

    /// The SMMU is about to execute `command`.
    pub(in crate::model::smmu) fn check_command(&mut self, command: &Command, memory: &impl Memory) {
        if !self.strict.on {
            return;
        }
        if matches!(command, Command::Sync(_)) && self.invalidation_timed_out {
            // It is not consumed (4.7.3).
            return;
        }
        self.strict.published.consumed(command, &self.registers.features);
        let enabled = self.registers.enabled(cr0::SMMUEN);
        match *command {
            Command::StallTerm { stream } => self.check_stall_term(stream, memory),
            Command::AtcInv { substream: Some(_), stream, .. }
            | Command::PriResp { substream: Some(_), stream, .. }
                if self.registers.features.ssid_bits == 0 =>
            {
                self.strict.violate(Rule::PasidNotSupported, [("StreamID", stream.0.into())]);
            }
            // Ignored at SMMUEN = 0 (4.5.2).
            Command::PriResp { stream, substream, group, .. } if enabled => {
                let broken = self.strict.answers.groups.answer(stream, group, substream);
                let about = [("StreamID", stream.0.into()), ("PRGIndex", group.get().into())];
                match (broken, substream) {
                    (Some(rule), Some(pasid)) => {
                        self.strict.violate(rule, [about[0], about[1], ("PASID", pasid.get().into())]);
                    }
                    (Some(rule), None) => self.strict.violate(rule, about),
                    (None, _) => {}
                }
            }
            Command::CfgiAll
            | Command::CfgiSte { .. }
            | Command::CfgiSteRange { .. }
            | Command::CfgiCd { .. }
            | Command::CfgiCdAll { .. } => {
                self.strict.answers.stalls.invalidated(command);
                self.check_structures(command, memory);
            }
            Command::Sync(_) => self.strict.answers.stalls.synchronized(),
            _ => {}
        }
    }

    fn check_stall_term(&mut self, stream: StreamId, memory: &impl Memory) {
        let about = [("StreamID", stream.0.into())];
        // What memory says: whether the caches know of it is the other rule's.
        let ste = self.ste_in_memory(stream, memory);
        if self.registers.enabled(cr0::SMMUEN) && ste.is_some_and(|ste| ste.config != StreamConfig::Abort) {
            self.strict.violate(Rule::TerminateNotAborting, about);
        }
        // An STE that aborts in memory alone: what arrives from now on may still stall, whether anything does or not.
        let stale = self.registers.enabled(cr0::SMMUEN)
            && self.ste_in_use(stream, memory).is_some_and(|ste| ste.config != StreamConfig::Abort);
        if self.strict.answers.stalls.terminated(stream) || stale {
            self.strict.violate(Rule::TerminateNotInvalidated, about);
        }
    }
}
