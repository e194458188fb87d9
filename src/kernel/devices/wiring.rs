//! How an SMMU's interrupts reach the drainer: as messages through the ITS where both have them, else by wires.

use alloc::boxed::Box;
use core::sync::atomic::Ordering::Relaxed;

use super::{DRAINER, Unit};
use crate::driver::{DriverError, Messages, OutputQueue};
use crate::kernel::interrupts::ConnectError;
use crate::kernel::runtime::Kernel;
use crate::platform::board::{self, Wires};
use crate::platform::its::{Its, ItsError};
use crate::smmuv3::Shareability;
use crate::smmuv3::command::Msi;
use crate::sync::{Cpu, Masked};

/// Device-nGnRE, as 3.18 recommends for what is another device's register (coded as STE.MemAttr, 5.2).
const DEVICE: u8 = 0b0001;

/// Why an SMMU's interrupts do not come as messages.
#[derive(Debug, thiserror::Error)]
enum NoMessages {
    #[error(transparent)]
    Its(#[from] ItsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// The board's ITS, brought up for the first SMMU that can use it.
#[derive(Default)]
pub(super) enum Service {
    #[default]
    Down,
    Up(Its),
    Failed,
}

impl Service {
    /// The ITS that `messages` are to go to, if it can be brought up.
    fn get(&mut self, kernel: &Kernel, messages: &board::Messages) -> Option<&mut Its> {
        let there = kernel.board.gic.its.as_ref().is_some_and(|its| its.phandle == messages.its);
        if let (true, Self::Down) = (there, &self) {
            *self = Its::bring_up(&kernel.board, &*kernel.device_memory).map_or_else(
                |error| {
                    log::warn!("no interrupts by message: {error}");
                    Self::Failed
                },
                Self::Up,
            );
        }
        match self {
            Self::Up(its) if there => Some(its),
            _ => None,
        }
    }
}

impl Unit {
    /// Connects the SMMU's interrupts, as messages if that is possible.
    pub(super) fn connect(
        &'static self,
        kernel: &Kernel,
        cpu: &mut Cpu,
        service: &mut Service,
    ) -> Result<(), ConnectError> {
        if let Some(messages) = self.description.messages.filter(|_| self.smmu.features().msi)
            && let Some(its) = service.get(kernel, &messages)
        {
            match self.connect_messages(kernel, cpu, its, messages.device) {
                Ok(()) => return Ok(()),
                Err(error) => log::warn!("SMMU {:#x}: no interrupts by message: {error}", self.phandle.0),
            }
        }
        self.connect_wires(kernel)
    }

    fn connect_messages(
        &'static self,
        kernel: &Kernel,
        cpu: &mut Cpu,
        its: &mut Its,
        device: u32,
    ) -> Result<(), NoMessages> {
        its.add_device(&*kernel.device_memory, device)?;
        let mut message = |event: u32, handle: fn(&Self, &Masked)| -> Result<Msi, NoMessages> {
            // None is sent before the driver is told where to.
            let intid = its.connect(device, event, DRAINER)?;
            kernel.interrupts.connect_private(intid, Box::new(move |masked| handle(self, masked)))?;
            let (attributes, shareability) = (DEVICE, Shareability::OuterShareable);
            Ok(Msi { address: its.doorbell(), data: event, attributes, shareability })
        };
        let messages = Messages {
            events: message(0, |unit, masked| unit.drain(masked, OutputQueue::Events))?,
            page_requests: message(1, |unit, masked| unit.drain(masked, OutputQueue::PageRequests))?,
            global_errors: message(2, Self::look_at_errors)?,
        };
        self.by_message.store(true, Relaxed);
        if let Err(error) = self.smmu.set_messages(cpu, Some(&messages)) {
            // Interrupts may be off, or come as messages yet.
            log::warn!("SMMU {:#x}: its messages: {error}", self.phandle.0);
            self.unreachable.store(true, Relaxed);
        }
        Ok(())
    }

    fn connect_wires(&'static self, kernel: &Kernel) -> Result<(), ConnectError> {
        let interrupts = &kernel.interrupts;
        let drain = |queue| Box::new(move |masked: &Masked| self.drain(masked, queue));
        match self.description.wires {
            Some(Wires::Separate { event_queue, pri_queue, global_error, .. }) => {
                interrupts.connect(event_queue, drain(OutputQueue::Events))?;
                if let Some(interrupt) = pri_queue {
                    interrupts.connect(interrupt, drain(OutputQueue::PageRequests))?;
                }
                interrupts.connect(global_error, Box::new(|masked| self.look_at_errors(masked)))
            }
            // What it was is not told.
            Some(Wires::Combined(interrupt)) => interrupts.connect(
                interrupt,
                Box::new(|masked| {
                    self.drain(masked, OutputQueue::Events);
                    self.drain(masked, OutputQueue::PageRequests);
                    self.look_at_errors(masked);
                }),
            ),
            None => {
                log::warn!("SMMU {:#x} has no interrupts: it is looked at from time to time", self.phandle.0);
                Ok(())
            }
        }
    }

    /// Hears the wires instead of messages that don't come. Returns whether that is done, or can't be.
    pub(super) fn go_back_to_wires(&'static self, kernel: &Kernel, cpu: &mut Cpu) -> bool {
        if self.description.wires.is_none() || !self.by_message.load(Relaxed) {
            return true;
        }
        match self.connect_wires(kernel) {
            // Connected by an earlier try.
            Ok(()) | Err(ConnectError::Taken(_)) => {}
            Err(error) => {
                log::error!("SMMU {:#x}: its messages don't come, and its wires: {error}", self.phandle.0);
                return true;
            }
        }
        match self.smmu.set_messages(cpu, None) {
            Ok(()) => {
                log::warn!("SMMU {:#x}: its messages don't come; its wires are heard instead", self.phandle.0);
                self.by_message.store(false, Relaxed);
                true
            }
            Err(DriverError::GivenUp) => true,
            Err(error) => {
                log::error!("SMMU {:#x}: back to its wires: {error}; it is tried again", self.phandle.0);
                false
            }
        }
    }
}
