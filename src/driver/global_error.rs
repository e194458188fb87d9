//! Global errors (7.5): reported, acknowledged, and recovered from where something was lost.

use alloc::vec::Vec;

use tock_registers::LocalRegisterCopy;

use super::error::DriverError;
use super::registers::Registers;
use super::stream::{self, FaultMode, Stream};
use super::{Delay, Smmu};
use crate::iopf::Partials;
use crate::smmuv3::StreamId;
use crate::smmuv3::command::Command;
use crate::smmuv3::features::StallModel;
use crate::smmuv3::registers::fields::GERROR;
use crate::sync::{Cpu, Masked};

/// The global errors that were found active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalErrors {
    /// The command queue stopped (CMDQ_ERR). It has been repaired.
    pub command_queue: bool,
    /// A write to the event queue aborted (EVENTQ_ABT_ERR): records are lost, those of stalls perhaps among them.
    pub event_queue_abort: bool,
    /// A write to the PRI queue aborted (PRIQ_ABT_ERR): page requests are lost. The queue starts anew.
    pub page_request_queue_abort: bool,
    /// An MSI was aborted.
    pub msi_abort: bool,
    /// The SMMU entered service failure mode (12.3): it needs to be brought up anew.
    pub service_failure: bool,
    /// [`Smmu::recover`] must run: the event queue stays shut until then.
    pub recover: bool,
}

type Flags = LocalRegisterCopy<u32, GERROR::Register>;

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Reports the active global errors, repairs what can be repaired in an interrupt, and acknowledges them.
    ///
    /// For the global error interrupt. [`GlobalErrors::recover`] asks for [`Smmu::recover`] at thread level.
    pub fn handle_global_error(&self, masked: &Masked) -> GlobalErrors {
        let command_queue = self.commands.repair(masked);
        let active = Flags::new(self.hardware.active_errors());
        let event_queue_abort = active.is_set(GERROR::EVENTQ_ABT_ERR);
        let page_request_queue_abort = active.is_set(GERROR::PRIQ_ABT_ERR);
        // While an abort is not acknowledged nothing is written to that queue, so what is thrown away is what there was.
        if let (true, Some(page_requests)) = (page_request_queue_abort, &self.page_requests) {
            page_requests.discard(&self.hardware, masked);
            self.faults.discard_partials(masked, Partials::All);
        }
        // Without stalls the event queue holds reports alone: what aborted is lost, and nobody waits for it.
        let recover = event_queue_abort && self.features.can_stall();
        if recover {
            self.events.shut(masked);
        }
        let mut simple = GERROR::PRIQ_ABT_ERR::SET
            + GERROR::MSI_CMDQ_ABT_ERR::SET
            + GERROR::MSI_EVENTQ_ABT_ERR::SET
            + GERROR::MSI_PRIQ_ABT_ERR::SET
            + GERROR::MSI_GERROR_ABT_ERR::SET
            + GERROR::SFM_ERR::SET;
        if !recover {
            simple += GERROR::EVENTQ_ABT_ERR::SET;
        }
        let acknowledged = self.hardware.acknowledge(masked, simple.mask() & active.get(), |_| {});
        if active.get() != 0 {
            log::error!("global errors {:#x}, acknowledged {acknowledged:#x}", active.get());
        }
        GlobalErrors {
            command_queue,
            event_queue_abort,
            page_request_queue_abort,
            msi_abort: active.any_matching_bits_set(
                GERROR::MSI_CMDQ_ABT_ERR::SET
                    + GERROR::MSI_EVENTQ_ABT_ERR::SET
                    + GERROR::MSI_PRIQ_ABT_ERR::SET
                    + GERROR::MSI_GERROR_ABT_ERR::SET,
            ),
            service_failure: active.is_set(GERROR::SFM_ERR),
            recover,
        }
    }

    /// Recovers from an abort of the event queue, which may have eaten stall records: their transactions would wait for
    /// ever. So every stream that stalls is aborted, its stalls are terminated, and it is closed in the fault core. The
    /// queue starts anew; streams with page requests and those that terminate go on undisturbed (7.2.2).
    ///
    /// Returns one StreamID of each device that was stopped, which [`Smmu::disable_faults`] brings to its end, and, where every
    /// fault stalls, each stream of [`FaultMode::Terminate`], which is aborted until it is detached and attached anew.
    ///
    /// # Errors
    ///
    /// [`DriverError::HeapFull`], with nothing done, or that of the step that failed; the queue stays shut then, and the call may be repeated.
    pub fn recover(&self, cpu: &mut Cpu) -> Result<Vec<StreamId>, DriverError> {
        let control = self.control(cpu)?;
        if !Flags::new(self.hardware.active_errors()).is_set(GERROR::EVENTQ_ABT_ERR) {
            return Ok(Vec::new());
        }
        let mut stopped = Vec::new();
        stopped.try_reserve_exact(control.lives.len() + control.streams.len())?;
        for life in control.lives.iter().filter(|life| life.mode == FaultMode::Stall) {
            if let Some(&stream) = life.streams.first() {
                let (closing, grace) = self.terminate_stalls(cpu, &control.streams, stream, life)?;
                closing.answer_pending(cpu, &grace);
                stopped.push(stream);
            }
        }
        let stalls_unasked =
            |own: &Stream| own.mode == FaultMode::Terminate && self.features.stall_model == StallModel::Forced;
        for (&stream, own) in control.streams.iter().filter(|(_, own)| stalls_unasked(own)) {
            self.change_entry(cpu, stream, own, &stream::aborted(own.disabled))?;
            self.commands.submit(cpu, &[Command::StallTerm { stream }])?;
            stopped.push(stream);
        }
        cpu.masked(|masked| {
            self.events.discard(&self.hardware, masked);
            self.hardware.acknowledge(masked, GERROR::EVENTQ_ABT_ERR::SET.mask(), |_| {});
        });
        Ok(stopped)
    }
}
