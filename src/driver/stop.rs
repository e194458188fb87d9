//! Stopping one substream of a device that asks for pages, while its others go on: PASID stop (8).
//!
//! The order: the substream refused in the fault core; a grace period, after which no group is added; the device stops; what waits is answered, until
//! the Stop marker has come, from a device that sends one, and the device is done; the PRI queue drained; the descriptor made invalid, CFGI_CD, SYNC; TLBI, SYNC; ATC_INV with
//! the PASID, SYNC (4.5.1).

use super::error::DriverError;
use super::hooks::{DeviceControl, OutputQueue};
use super::registers::Registers;
use super::smmu::Control;
use super::stream::{FaultMode, Stream};
use super::structure::WORDS;
use super::{Delay, Smmu};
use crate::iopf::{Partials, Stopping};
use crate::smmuv3::{StreamId, SubstreamId};
use crate::sync::mutant::mutant;
use crate::sync::wait::Expired;
use crate::sync::{Cpu, Masked};

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Takes the address space of a substream away from a stream with page requests, or with ATS alone, whose device may be using it: that stops, by `device`, and
    /// goes on with its others. One substream of a device is stopped at a time.
    ///
    /// When it returns, every page request for it is answered, Invalid if its handler has not answered it by then, which is told so if it does
    /// later; no record of them is left in the queue, the device uses it no more, its accesses would be terminated and reported, and
    /// device and SMMU have forgotten its translations. The address space is forgotten by [`Smmu::forget`]. A
    /// handler of its own stays ([`FaultTable::remove_substream_handler`](crate::iopf::FaultTable::remove_substream_handler)).
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsNotEnabled`], [`DriverError::SubstreamOutOfRange`], which substream 0 also is where it
    /// serves transactions without one, [`DriverError::Stop`] where the stream stalls, its end has begun, or another substream of the device
    /// is being stopped, and [`DriverError::Busy`], with nothing done. After that, the error of the step that failed:
    /// [`DriverError::SubstreamInUse`] where the Stop marker does not come, [`DriverError::AtcInvalidationTimeout`] for example. The
    /// substream's page requests are refused from then on, until [`Smmu::reopen_faults`] has the device served anew; the call may be
    /// repeated, after that too, and [`Smmu::disable_faults`] does as well.
    pub fn stop_substream(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        substream: SubstreamId,
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        if self.hardware.is_given_up() {
            return Err(DriverError::GivenUp);
        }
        let mut control = self.control(cpu)?;
        let Control { streams, lives, .. } = &mut *control;
        let own = streams.get_mut(&stream).ok_or(DriverError::NotAttached(stream))?;
        let life = lives.iter().find(|life| life.has(stream)).ok_or(DriverError::FaultsNotEnabled(stream))?;
        let asks_for_pages = life.mode != FaultMode::Ats;
        let is_one = own.asked_with(substream).is_some();
        let Stream { contexts, spaces, .. } = own;
        let contexts = contexts.as_ref().filter(|contexts| is_one && contexts.bits() > 0 && contexts.covers(substream));
        let contexts = contexts.ok_or(DriverError::SubstreamOutOfRange { stream, substream })?;

        let stop = |masked: &Masked| self.faults.stop_substream(masked, stream, substream);
        let stopping = asks_for_pages.then(|| cpu.masked(stop)).transpose()?;
        let grace = self.hardware.domain.synchronize(cpu, &mut self.hardware.delay(), self.hardware.limit_us)?;
        cpu.masked(|masked| self.faults.discard_partials(masked, Partials::Substream(stream, substream)));
        let losses = || self.page_requests.as_ref().map_or(0, |queue| queue.overflows() + queue.losses());
        let mut seen = losses();
        device.stop_substream(stream, substream);
        let look = |cpu: &Cpu| {
            let waiting = stopping.as_ref().map_or(0, |stopping| stopping.answer_pending(cpu, &grace));
            self.wake_for_unsent(cpu, OutputQueue::PageRequests);
            let is_done = device.substream_stopped(stream, substream);
            let needs_marker = stopping.as_ref().filter(|_| device.sends_stop_markers());
            let is_marked = needs_marker.is_none_or(Stopping::is_marked);
            let now = losses();
            if is_done && !is_marked && now != seen && !mutant!("marker_not_asked_again") {
                // A queue in overflow drops Stop markers too (8.1), and what was thrown away unread may have had it.
                seen = now;
                device.stop_substream(stream, substream);
            }
            match (waiting, is_done, is_marked) {
                _ if self.hardware.is_given_up() => Ok(()),
                (0, true, true) => Ok(()),
                (0, true, false) => Err("its Stop marker has not come"),
                (0, false, _) => Err("it is not done"),
                _ => Err("answers to it could not be sent"),
            }
        };
        self.hardware.wait(cpu, self.hardware.limit_us, look).map_err(|Expired { last: lack, waited_us }| {
            DriverError::SubstreamInUse { stream, substream, lack, waited_us }
        })?;
        // The answers that the drainer gave meanwhile are in the command queue then.
        self.drain_past(cpu, OutputQueue::PageRequests)?;

        if let Some(descriptor) = contexts.entry(substream) {
            self.change_descriptor(cpu, stream, contexts, substream, descriptor, &[0; WORDS])?;
        }
        let mut synced = None;
        for &(_, asid) in spaces.iter().filter(|(other, _)| *other == substream) {
            synced = Some(self.invalidate_asid(cpu, &grace, asid)?);
        }
        if let Some(synced) = synced {
            self.invalidate_atc(cpu, &synced, stream, Some(substream), None)?;
        }
        spaces.retain(|(other, _)| *other != substream);
        if let Some(stopping) = stopping {
            stopping.finish();
        }
        Ok(())
    }
}
