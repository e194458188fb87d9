//! Taking page faults away from a stream: everything pending is answered once, and nothing is touched after it was freed.
//!
//! The order is the point. A stalling stream (4.7.2.1): no new work, entry to abort, closed in the fault core, a grace
//! period (every answer claimed before is now in the command queue, or waits for room there and is dropped), STALL_TERM,
//! the device comes to rest, the event queue drained past all its records. A stream with page requests (3.9.2, 8): requests
//! off at the device, closed, a grace period, pending groups answered, the device comes to rest, the PRI queue drained, ATS off
//! at the device, its translations invalidated, ATS off in the entry.
//!
//! Each step can be repeated, so a teardown that failed is taken up again by another call.

use core::sync::atomic::Ordering;

use super::error::DriverError;
use super::event_queue::NOBODY;
use super::faults::{Life, Phase};
use super::hooks::{DeviceControl, OutputQueue};
use super::registers::Registers;
use super::smmu::Control;
use super::sorted::Sorted;
use super::stream::{FaultMode, Stream};
use super::{Delay, Smmu};
use crate::iopf::Closing;
use crate::smmuv3::StreamId;
use crate::smmuv3::command::Command;
use crate::sync::Cpu;
use crate::sync::grace::Grace;
use crate::sync::wait::Expired;

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Takes the page faults of a stream, and of those enabled together with it, away from their handler.
    ///
    /// When it returns, every fault is answered (by its group, with Invalid, or by STALL_TERM), no record of the streams is
    /// left in a queue, the device is at rest, and the fault state is on its way to be freed after a grace period. A
    /// stalling stream is aborted from now on; on a stream with page requests ATS is off, and it is translated.
    ///
    /// On an SMMU that is given up ([`Smmu::give_up`]) groups end without an answer to the device. When no other stream with page
    /// requests is left, the SMMU is turned off with everything aborted, which ends its stalls.
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsNotEnabled`], [`DriverError::Busy`] at the start. After that, the
    /// error of the step that failed, [`DriverError::DeviceBusy`] for example: the streams are quarantined then, and the
    /// call may be repeated.
    pub fn disable_faults(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        self.end_life(cpu, &mut control, stream, device)
    }

    /// [`Smmu::disable_faults`] with the right to change streams.
    pub(super) fn end_life(
        &self,
        cpu: &mut Cpu,
        control: &mut Control,
        stream: StreamId,
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        let others_use_ats = control.others_use_ats(stream);
        let Control { streams, lives, .. } = control;
        if streams.get(&stream).is_none() {
            return Err(DriverError::NotAttached(stream));
        }
        let life = lives.iter_mut().find(|life| life.has(stream) && life.mode != FaultMode::Ats);
        let life = life.ok_or(DriverError::FaultsNotEnabled(stream))?;
        life.phase = Phase::Ending;
        let life = &*life;
        let ended = match life.mode {
            FaultMode::PageRequest => self.end_page_requests(cpu, streams, stream, life, device),
            FaultMode::Stall | FaultMode::Terminate | FaultMode::Ats => {
                self.end_stalls(cpu, streams, stream, life, device)
            }
        };
        let (closing, grace) = match ended {
            Err(DriverError::GivenUp) => self.end_given_up(cpu, stream, life, device, others_use_ats)?,
            ended => ended?,
        };
        // Stalls that STALL_TERM answered are dropped here.
        closing.answer_pending(cpu, &grace);
        cpu.masked(|masked| closing.finish(masked))
            .map_err(|unfinished| DriverError::Unanswered { stream, waiting: unfinished.waiting })?;
        lives.retain(|life| !life.has(stream));
        self.note_ats(lives);
        Ok(())
    }

    fn end_stalls(
        &self,
        cpu: &mut Cpu,
        streams: &Sorted<StreamId, Stream>,
        stream: StreamId,
        life: &Life,
        device: &dyn DeviceControl,
    ) -> Result<(Closing<'_>, Grace), DriverError> {
        device.stop_new_work();
        let closed = self.terminate_stalls(cpu, streams, stream, life)?;
        self.end_events(cpu, stream, device)?;
        Ok(closed)
    }

    /// Waits until a device whose streams are aborted has nothing under way, and no record of it is in the event queue.
    pub(super) fn end_events(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        self.wait_device(cpu, stream, "idle", |_| device.is_idle())?;
        // Makes the events of what was terminated visible (4.7.3), so that the drain takes them too.
        self.commands.execute(cpu, &[])?;
        self.drain_past(cpu, OutputQueue::Events)
    }

    /// From the entries' abort to STALL_TERM: after it no transaction of the streams is stalled, and none will be.
    pub(super) fn terminate_stalls(
        &self,
        cpu: &mut Cpu,
        streams: &Sorted<StreamId, Stream>,
        stream: StreamId,
        life: &Life,
    ) -> Result<(Closing<'_>, Grace), DriverError> {
        self.change_entries(cpu, streams, &life.streams, |own| &own.disabled)?;
        let closed = self.close(cpu, stream)?;
        self.send_stall_term(cpu, &life.streams)?;
        Ok(closed)
    }

    /// Ends the stalls of `streams`, which are aborted.
    pub(super) fn send_stall_term(&self, cpu: &mut Cpu, streams: &[StreamId]) -> Result<(), DriverError> {
        self.drop_unsent(cpu, streams);
        streams.iter().try_for_each(|&stream| self.commands.submit(cpu, &[Command::StallTerm { stream }]))
    }

    /// STALL_TERM answers those too whose answers found no room in the command queue: sent after it, they might hit other transactions.
    fn drop_unsent(&self, cpu: &Cpu, streams: &[StreamId]) {
        let dropped = cpu.masked(|masked| self.events.drop_unsent(masked, |stream| streams.contains(&stream)));
        if dropped > 0 {
            log::warn!("{dropped} unsent answers of {streams:?} are dropped: their stalls are terminated");
        }
    }

    /// Ends the stalls of a stream that is aborted and has no life. No record of them is left, whose answer might hit a stall of the stream's
    /// next life.
    pub(super) fn end_unasked(&self, cpu: &mut Cpu, stream: StreamId) -> Result<(), DriverError> {
        self.terminated.store(stream.0.into(), Ordering::Relaxed);
        let ended = self.end_terminated(cpu, stream);
        self.terminated.store(NOBODY, Ordering::Relaxed);
        ended
    }

    fn end_terminated(&self, cpu: &mut Cpu, stream: StreamId) -> Result<(), DriverError> {
        // For that it takes the drainer's lock: a drain that had begun has put its answers into the command queue before STALL_TERM.
        self.send_stall_term(cpu, &[stream])?;
        self.commands.execute(cpu, &[])?;
        self.drain_past(cpu, OutputQueue::Events)
    }

    fn end_page_requests(
        &self,
        cpu: &mut Cpu,
        streams: &Sorted<StreamId, Stream>,
        stream: StreamId,
        life: &Life,
        device: &dyn DeviceControl,
    ) -> Result<(Closing<'_>, Grace), DriverError> {
        let closed = self.stop_page_requests(cpu, stream, life, device)?;
        self.end_translations(cpu, streams, life, device)?;
        Ok(closed)
    }

    /// Disables ATS, at the device first.
    pub(super) fn end_translations(
        &self,
        cpu: &mut Cpu,
        streams: &Sorted<StreamId, Stream>,
        life: &Life,
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        device.disable_ats();
        let all = life.streams.iter().filter_map(|&stream| Some(streams.get(&stream)?.all_of_atc(stream)));
        // They have ATS off, and get nothing again.
        self.execute_all(cpu, all.flatten())?;
        self.change_entries(cpu, streams, &life.streams, |own| &own.disabled)
    }

    /// Turns an SMMU off that is given up, when nobody else uses ATS: it ends stalls, should the SMMU have any (6.3.9.6), and has to wait until no
    /// device uses ATS (3.9.1).
    pub(super) fn turn_off(&self, cpu: &mut Cpu, others_use_ats: bool) {
        if !others_use_ats && let Err(error) = self.hardware.silence(cpu) {
            log::error!("an SMMU that is given up can't be turned off: {error}");
        }
    }

    /// Disables the page requests of a device: after it none waits for an answer, and none is in the queue.
    pub(super) fn stop_page_requests(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        life: &Life,
        device: &dyn DeviceControl,
    ) -> Result<(Closing<'_>, Grace), DriverError> {
        device.disable_page_requests();
        let (closing, grace) = self.close(cpu, stream)?;
        // From here on the drainer answers every request. The device stops when it has all answers, so those that found no
        // room are tried again meanwhile.
        let mut unsent = usize::MAX;
        let look = |cpu: &Cpu| {
            if unsent > 0 {
                unsent = closing.answer_pending(cpu, &grace).unsent;
            }
            self.wake_for_unsent(cpu, OutputQueue::PageRequests);
            let in_vain = self.hardware.is_given_up() || self.has_lost_requests(life);
            device.page_requests_stopped() || unsent == 0 && in_vain
        };
        self.wait_device(cpu, stream, "stopped", look)?;
        self.drain_past(cpu, OutputQueue::PageRequests)?;
        if !device.page_requests_stopped() {
            // It has all answers that there are, and waits for those to requests that were thrown away.
            self.commands.execute(cpu, &[])?;
            self.rest_page_requests(cpu, stream, device)?;
        }
        Ok((closing, grace))
    }

    /// Brings the page request interface of a device to where it may be enabled.
    pub(super) fn rest_page_requests(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        if device.page_requests_stopped() && !device.page_requests_failed() {
            return Ok(());
        }
        device.disable_page_requests();
        device.reset_page_requests();
        self.wait_device(cpu, stream, "stopped", |_| device.page_requests_stopped())
    }

    /// What an SMMU that carries out no commands leaves to be done: groups are ended without an answer to the device, which was told to
    /// begin nothing new, and comes to rest without one.
    fn end_given_up(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        life: &Life,
        device: &dyn DeviceControl,
        others_use_ats: bool,
    ) -> Result<(Closing<'_>, Grace), DriverError> {
        let (closing, grace) = self.close(cpu, stream)?;
        // First, since a device may never come to rest.
        closing.answer_pending(cpu, &grace);
        if life.mode == FaultMode::PageRequest {
            device.reset_page_requests();
            self.wait_device(cpu, stream, "stopped", |_| device.page_requests_stopped())?;
            self.drain_past(cpu, OutputQueue::PageRequests)?;
            device.disable_ats();
            self.turn_off(cpu, others_use_ats);
        } else {
            self.turn_off(cpu, others_use_ats);
            self.wait_device(cpu, stream, "idle", |_| device.is_idle())?;
            self.drain_past(cpu, OutputQueue::Events)?;
        }
        Ok((closing, grace))
    }

    /// Closes the streams in the fault core, and lets a grace period pass: no report and no turn calls the handler any more,
    /// though a core may still be in its `serve`, and every answer claimed before is in the command queue or with the drainer,
    /// waiting for room there.
    pub(super) fn close(&self, cpu: &mut Cpu, stream: StreamId) -> Result<(Closing<'_>, Grace), DriverError> {
        let closing = cpu.masked(|masked| self.faults.close(masked, stream))?;
        let grace = self.hardware.domain.synchronize(cpu, &mut self.hardware.delay(), self.hardware.limit_us)?;
        Ok((closing, grace))
    }

    fn wait_device(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        state: &'static str,
        mut reached: impl FnMut(&Cpu) -> bool,
    ) -> Result<(), DriverError> {
        let look = |cpu: &Cpu| if reached(cpu) { Ok(()) } else { Err(()) };
        self.hardware
            .wait(cpu, self.hardware.limit_us, look)
            .map_err(|Expired { waited_us, .. }| DriverError::DeviceBusy { stream, state, waited_us })
    }
}
