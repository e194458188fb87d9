//! ATS of devices that send no page requests (3.9): translations only, and what they don't get they don't access.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::error::DriverError;
use super::faults::Life;
use super::hooks::DeviceControl;
use super::registers::Registers;
use super::smmu::Control;
use super::stream::FaultMode;
use super::{Delay, Smmu};
use crate::iopf::{MAX_MASTER_STREAMS, OpenError, repeated};
use crate::smmuv3::StreamId;
use crate::sync::Cpu;

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Enables ATS of a device whose StreamIDs are attached in [`FaultMode::Ats`]: in their entries (EATS), CFGI and SYNC, and then at the device
    /// (3.9.2). From then on invalidations reach its translations. Of `device`, only what is about ATS is called.
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsEnabled`] when it is enabled, [`DriverError::NotSupported`] for streams in another mode,
    /// [`DriverError::Open`] for no StreamIDs, too many, or one twice, [`DriverError::HeapFull`], [`DriverError::Busy`]: nothing is enabled then.
    ///
    /// When the entries could not be changed, the error of that, and they are changed back. Where that fails too, ATS counts as enabled, and
    /// [`Smmu::disable_ats`] ends that.
    pub fn enable_ats(
        &self,
        cpu: &mut Cpu,
        streams: &[StreamId],
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        let first = *streams.first().ok_or(OpenError::StreamCount { count: 0 })?;
        if streams.len() > MAX_MASTER_STREAMS {
            return Err(OpenError::StreamCount { count: streams.len() }.into());
        }
        if let Some(stream) = repeated(streams) {
            return Err(OpenError::Repeated { stream }.into());
        }
        let mut control = self.control(cpu)?;
        let Control { streams: attached, lives, .. } = &mut *control;
        for &stream in streams {
            let own = attached.get(&stream).filter(|own| own.complete).ok_or(DriverError::NotAttached(stream))?;
            if lives.iter().any(|life| life.has(stream)) {
                return Err(DriverError::FaultsEnabled(stream));
            }
            if own.mode != FaultMode::Ats {
                return Err(DriverError::NotSupported { stream, what: "ATS, as it is attached," });
            }
        }
        let mut life = Vec::new();
        life.try_reserve_exact(streams.len())?;
        lives.try_reserve(1)?;
        life.extend_from_slice(streams);
        lives.push(Life::of_ats(life.into_boxed_slice()));
        self.note_ats(lives);
        if let Err(error) = self.change_entries(cpu, attached, streams, |own| &own.enabled) {
            if let Err(left) = self.end_ats(cpu, &mut control, first, device) {
                log::error!("ATS of {first:?} is neither enabled nor disabled: {left}");
            }
            return Err(error);
        }
        device.enable_ats();
        Ok(())
    }

    /// Disables ATS of a stream, and of those enabled together with it: at the device, which then forgets its translations, and in the entries
    /// (3.9.2). Its accesses, if it makes any, are translated by the SMMU from then on.
    ///
    /// # Errors
    ///
    /// [`DriverError::FaultsNotEnabled`], [`DriverError::Busy`] at the start. After that, the error of the step that failed; the call may be repeated.
    pub fn disable_ats(&self, cpu: &mut Cpu, stream: StreamId, device: &dyn DeviceControl) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        self.end_ats(cpu, &mut control, stream, device)
    }

    fn end_ats(
        &self,
        cpu: &mut Cpu,
        control: &mut Control,
        stream: StreamId,
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        let others_use_ats = control.others_use_ats(stream);
        let Control { streams, lives, .. } = control;
        let life = lives.iter().find(|life| life.has(stream) && life.mode == FaultMode::Ats);
        let life = life.ok_or(DriverError::FaultsNotEnabled(stream))?;
        match self.end_translations(cpu, streams, life, device) {
            // Translation is turned off when no device uses ATS any more (3.9.1).
            Err(DriverError::GivenUp) => self.turn_off(cpu, others_use_ats),
            ended => ended?,
        }
        lives.retain(|life| !life.has(stream));
        self.note_ats(lives);
        Ok(())
    }

    /// Notes whether a device may be using ATS: before an entry lets it, and when none does any more.
    pub(super) fn note_ats(&self, lives: &[Life]) {
        self.uses_ats.store(lives.iter().any(|life| life.mode.uses_ats()), Ordering::Relaxed);
    }
}
