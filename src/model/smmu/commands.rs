//! The command queue (4, 7.1).

use super::Smmu;
use super::cache::Controls;
use super::diagnostics::count;
use super::registers::{cr0, gerror};
use super::stall::{Resumed, State};
use crate::model::endpoint::{Endpoints, GroupResponse, Invalidation, Response};
use crate::model::memory::Memory;
use crate::model::wire::{Wire, Wires};
use crate::smmuv3::command::{Command, ResumeAction, SyncCompletion};
use crate::smmuv3::event::Origin;
use crate::smmuv3::ste::StreamConfig;
use crate::smmuv3::{PageResponse, Stag, StreamId};

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
            if !self.registers.enabled(cr0::CMDQEN)
                || self.registers.error_active(gerror::CMDQ_ERR)
                || self.registers.commands.is_empty()
            {
                return consumed > 0;
            }
            let result = match self.registers.commands.front(memory) {
                Ok(words) => match Command::decode(words) {
                    Ok(command) => self.execute(&command, memory, wires, endpoints),
                    Err(_) => Err(CommandError::Illegal),
                },
                Err(_) => Err(CommandError::Abort),
            };
            match result {
                Ok(()) => {
                    self.registers.commands.pop();
                    count(&mut self.registers.diagnostics.commands, 1);
                }
                Err(error) => {
                    count(&mut self.registers.diagnostics.command_errors, 1);
                    self.registers.set_command_error(error as u32);
                    self.global_error(gerror::CMDQ_ERR, wires);
                }
            }
        }
        true
    }

    fn execute<E: Endpoints + ?Sized>(
        &mut self,
        command: &Command,
        memory: &impl Memory,
        wires: &mut impl Wires,
        endpoints: &mut E,
    ) -> Result<(), CommandError> {
        match *command {
            Command::Resume { stream, stag, action } => self.resume(stream, stag, action),
            Command::StallTerm { stream } => self.stall_term(stream, memory),
            Command::Sync(completion) => self.sync(completion, wires)?,
            // The ATS interface is off with the SMMU (6.3.9.6).
            Command::AtcInv { .. } | Command::PriResp { .. } if !self.registers.enabled(cr0::SMMUEN) => {}
            Command::AtcInv { stream, substream, global, address, size } => {
                // A span of 4096 << size bytes, aligned to itself; from 2^64 on, everything (4.5.1).
                let span = 4096u64.checked_shl(size.into()).filter(|_| size < 52).map_or(u64::MAX, |span| span - 1);
                let invalidation =
                    Invalidation { stream, substream, global, first: address & !span, last: address | span };
                self.invalidation_timed_out |= !endpoints.invalidate(&invalidation);
            }
            Command::PriResp { stream, substream, group, response } => {
                let matched = endpoints.respond(&GroupResponse { stream, substream, group, response });
                let counters = &mut self.registers.diagnostics;
                let counter = match (matched, response) {
                    (false, _) => &mut counters.responded_nothing,
                    (true, PageResponse::Success) => &mut counters.responded_success,
                    (true, PageResponse::Invalid) => &mut counters.responded_invalid,
                    (true, PageResponse::Failure) => &mut counters.responded_failure,
                };
                count(counter, 1);
            }
            // There is no stage 2 and no EL2 (4.4).
            Command::TlbiEl2All
            | Command::TlbiEl2Asid { .. }
            | Command::TlbiEl2Va { .. }
            | Command::TlbiEl2Vaa { .. }
            | Command::TlbiS12VmAll { .. }
            | Command::TlbiS2Ipa { .. } => return Err(CommandError::Illegal),
            // A prefetch need not do anything (4.2).
            Command::PrefetchConfig { .. } | Command::PrefetchAddress { .. } => {}
            // The rest is CMD_CFGI_* and CMD_TLBI_*. What they name is gone by the next CMD_SYNC.
            _ => self.caches.invalidate(command, Controls::default()),
        }
        Ok(())
    }

    fn resume(&mut self, stream: StreamId, stag: Stag, action: ResumeAction) {
        let answer = match action {
            ResumeAction::Retry => State::Retry,
            ResumeAction::Abort => State::Terminate { response: Response::Abort, may_retry: true },
            ResumeAction::Terminate => State::Terminate { response: Response::Ignored, may_retry: true },
        };
        let counters = &mut self.registers.diagnostics;
        let counter = match (self.stalls.resume(stream, stag, answer), action) {
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

    fn sync(&mut self, completion: SyncCompletion, wires: &mut impl Wires) -> Result<(), CommandError> {
        self.caches.complete();
        if core::mem::take(&mut self.invalidation_timed_out) {
            return Err(CommandError::InvalidationTimeout);
        }
        count(&mut self.registers.diagnostics.syncs, 1);
        if let SyncCompletion::Interrupt { .. } = completion {
            // No MSIs: the wire, whatever address the command gives (4.7.3).
            wires.raise(Wire::CommandSync);
        }
        Ok(())
    }
}
