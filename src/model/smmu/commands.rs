//! The command queue (4, 7.1).

use super::Smmu;
use super::cache::Controls;
use super::diagnostics::count;
use super::injection::{Late, Point};
use super::registers::{cr0, gerror};
use super::stall::{Resumed, Slot, State};
use crate::model::endpoint::{Endpoints, GroupResponse, Invalidated, Invalidation, Response};
use crate::model::memory::{Abort, Memory};
use crate::model::wire::{Wire, Wires};
use crate::smmuv3::command::{Command, ResumeAction, SyncCompletion};
use crate::smmuv3::event::Origin;
use crate::smmuv3::ste::StreamConfig;
use crate::smmuv3::{PageResponse, PhysAddr, Stag, StreamId, SubstreamId};

/// The most commands consumed in one tick.
const COMMANDS_PER_STEP: usize = 32;

/// Why a command was not consumed: `CMDQ_CONS.ERR` (7.1).
#[derive(Clone, Copy)]
enum CommandError {
    /// CERROR_ILL.
    Illegal = 1,
    /// CERROR_ABT.
    Abort = 2,
    /// CERROR_ATC_INV_SYNC.
    InvalidationTimeout = 3,
}

impl Smmu {
    /// Consumes commands, some of them. Returns whether there were any.
    pub(super) fn consume_commands<E: Endpoints + ?Sized>(
        &mut self,
        memory: &impl Memory,
        wires: &mut impl Wires,
        endpoints: &mut E,
    ) -> bool {
        for consumed in 0..COMMANDS_PER_STEP {
            if self.failed
                || !self.registers.enabled(cr0::CMDQEN)
                || self.registers.error_active(gerror::CMDQ_ERR)
                || !self.registers.commands.is_ready()
            {
                return consumed > 0;
            }
            let words = self.registers.commands.front(memory);
            let command = self.decode(words);
            // A CMD_SYNC waits for the invalidation requests before it (4.5.1).
            if matches!(command, Ok(Command::Sync(_))) && endpoints.is_invalidating() {
                return consumed > 0;
            }
            if self.injection.holds(Late::Commands) {
                return consumed > 0;
            }
            if let Ok(words) = words {
                self.check_fetched(words);
            }
            // Only for an answer is it worth a look at the clock.
            let now = match command {
                Ok(Command::Resume { .. } | Command::PriResp { .. }) => self.time(wires),
                _ => 0,
            };
            // What fails on request is no mistake of the driver's.
            let illegal = words.ok().filter(|_| matches!(command, Err(CommandError::Illegal)));
            let command = self.injected(command);
            match command.and_then(|command| self.execute(&command, memory, endpoints, now).map(|()| command)) {
                Ok(command) => {
                    if matches!(command, Command::Sync(_)) {
                        self.deliver_late_sync(memory, wires);
                    }
                    let was_full = self.registers.commands.is_full();
                    self.registers.commands.pop();
                    count(&mut self.registers.diagnostics.commands, 1);
                    // Software may wait for space in WFE (4.1.2).
                    if was_full && self.registers.features.sev {
                        wires.send_event();
                    }
                    // Its completion can be seen, so it may be signalled (3.18).
                    if let Command::Sync(completion) = command {
                        self.signal(completion, memory, wires);
                    }
                }
                Err(error) => {
                    self.check_error(illegal);
                    count(&mut self.registers.diagnostics.command_errors, 1);
                    self.registers.set_command_error(error as u32);
                    self.global_error(gerror::CMDQ_ERR, memory, wires);
                }
            }
        }
        true
    }

    /// The command that was fetched, if this SMMU has it. Bits that must be 0 are checked, as 4.1.5 permits.
    fn decode(&self, words: Result<[u64; 2], Abort>) -> Result<Command, CommandError> {
        let words = words.map_err(|Abort| CommandError::Abort)?;
        let command = Command::decode(words).map_err(|_| CommandError::Illegal)?;
        command.check(&self.registers.features).map_err(|_| CommandError::Illegal)?;
        Ok(command)
    }

    /// `command`, which is about to be carried out, or what goes wrong instead.
    fn injected(&self, command: Result<Command, CommandError>) -> Result<Command, CommandError> {
        let command = command?;
        self.injection.passes(Point::CommandFetch).map_err(|Abort| CommandError::Abort)?;
        self.injection.passes(Point::CommandIllegal).map_err(|Abort| CommandError::Illegal)?;
        Ok(command)
    }

    /// What a command does before it is consumed; `now` is the time of an answer. Parameters out of range have no effect
    /// (4.1.7): no device and no transaction has such a StreamID.
    fn execute<E: Endpoints + ?Sized>(
        &mut self,
        command: &Command,
        memory: &impl Memory,
        endpoints: &mut E,
        now: u64,
    ) -> Result<(), CommandError> {
        self.check_command(command, memory);
        match *command {
            Command::Resume { stream, stag, action } => self.resume(stream, stag, action, now),
            Command::StallTerm { stream } => self.stall_term(stream, memory),
            Command::Sync(_) => self.sync()?,
            // The ATS interface is off with the SMMU (6.3.9.6).
            Command::AtcInv { .. } | Command::PriResp { .. } if !self.registers.enabled(cr0::SMMUEN) => {}
            Command::AtcInv { stream, substream, global, address, size } => {
                let substream = self.presentable(substream);
                // A span of 4096 << size bytes, aligned to itself; from 2^64 on, everything (4.5.1).
                let span = 4096u64.checked_shl(size.into()).filter(|_| size < 52).map_or(u64::MAX, |span| span - 1);
                let invalidation =
                    Invalidation { stream, substream, global, first: address & !span, last: address | span };
                self.invalidation_timed_out |= endpoints.invalidate(&invalidation) == Invalidated::TimedOut;
                self.invalidation_timed_out |= self.injection.strikes(Point::AtcInvalidation);
            }
            Command::PriResp { stream, substream, group, response } => {
                let substream = self.presentable(substream);
                let matched = endpoints.respond(&GroupResponse { stream, substream, group, response });
                if matched {
                    self.times.group_answered(stream, group, response == PageResponse::Success, now);
                }
                let counters = &mut self.registers.diagnostics;
                let counter = match (matched, response) {
                    (false, _) => &mut counters.responded_nothing,
                    (true, PageResponse::Success) => &mut counters.responded_success,
                    (true, PageResponse::Invalid) => &mut counters.responded_invalid,
                    (true, PageResponse::Failure) => &mut counters.responded_failure,
                };
                count(counter, 1);
            }
            // A prefetch need not do anything (4.2).
            Command::PrefetchConfig { .. } | Command::PrefetchAddress { .. } => {}
            // The rest is CMD_CFGI_* and CMD_TLBI_*. What they name is gone by the next CMD_SYNC.
            _ => self.caches.invalidate(command, Controls { e2h: self.registers.e2h() }),
        }
        Ok(())
    }

    /// The PASID of a message to a device. A system without them ignores SSV, one of the behaviours that 4.5.1 and 4.5.2
    /// permit.
    fn presentable(&self, substream: Option<SubstreamId>) -> Option<SubstreamId> {
        substream.filter(|_| self.registers.features.ssid_bits > 0)
    }

    fn resume(&mut self, stream: StreamId, stag: Stag, action: ResumeAction, now: u64) {
        let answer = match action {
            ResumeAction::Retry => State::Retry,
            // With TERM_MODEL = 1 every termination is an abort (4.7.1).
            ResumeAction::Terminate if self.registers.features.term_model => {
                State::Terminate { response: Response::Abort, may_retry: true }
            }
            ResumeAction::Abort => State::Terminate { response: Response::Abort, may_retry: true },
            ResumeAction::Terminate => State::Terminate { response: Response::Ignored, may_retry: true },
        };
        let resumed = self.stalls.resume(stream, stag, answer);
        if resumed == Resumed::Match {
            self.times.stall_answered(stream, Slot::of(stag), action == ResumeAction::Retry, now);
        }
        self.check_resume(stream, stag, resumed == Resumed::Match);
        let counters = &mut self.registers.diagnostics;
        let counter = match (resumed, action) {
            (Resumed::Nothing, _) => &mut counters.resumed_nothing,
            (Resumed::Match, ResumeAction::Retry) => &mut counters.resumed_retry,
            (Resumed::Match, ResumeAction::Abort) => &mut counters.resumed_abort,
            (Resumed::Match, ResumeAction::Terminate) => &mut counters.resumed_ignore,
        };
        count(counter, 1);
    }

    fn stall_term(&mut self, stream: StreamId, memory: &impl Memory) {
        if self.registers.enabled(cr0::SMMUEN)
            && self.ste(Origin { stream, substream: None }, memory).is_ok_and(|ste| ste.config != StreamConfig::Abort)
        {
            count(&mut self.registers.diagnostics.early_stall_terms, 1);
        }
        count(&mut self.registers.diagnostics.stalls_terminated, self.stalls.terminate(Some(stream)));
    }

    /// Commands, event records and messages are all complete when their tick ends, so that a CMD_SYNC waits for nothing
    /// but the ATC invalidations before it, and completes those of the caches (4.7.3). A stalled transaction whose record
    /// could not be written is always retried before it is recorded.
    fn sync(&mut self) -> Result<(), CommandError> {
        self.caches.complete();
        if core::mem::take(&mut self.invalidation_timed_out) {
            return Err(CommandError::InvalidationTimeout);
        }
        count(&mut self.registers.diagnostics.syncs, 1);
        Ok(())
    }

    /// Signals that a CMD_SYNC is complete (4.7.3).
    fn signal(&mut self, completion: SyncCompletion, memory: &impl Memory, wires: &mut impl Wires) {
        match completion {
            SyncCompletion::None => {}
            SyncCompletion::Interrupt { msi } => {
                // That there is a message is decided by the whole address, and then it is truncated to OAS.
                let message = msi
                    .filter(|_| self.registers.features.msi)
                    .map(|msi| (PhysAddr(self.registers.truncated(msi.address.0)), msi.data));
                // The wire, whatever address the command gives.
                self.send(Wire::CommandSync, message, memory, wires);
            }
            SyncCompletion::Event => {
                if self.registers.features.sev {
                    wires.send_event();
                }
            }
        }
    }
}
