//! Giving a stream's page faults to a handler.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::error::DriverError;
use super::hooks::{DeviceControl, OutputQueue};
use super::record_queue::RecordQueue;
use super::registers::Registers;
use super::smmu::Control;
use super::stream::FaultMode;
use super::{Delay, Smmu};
use crate::iopf::{Closing, FaultHandler, Kind, OpenError, OpenRequest, StreamLimits, repeated};
use crate::smmuv3::StreamId;
use crate::smmuv3::ste::Ste;
use crate::sync::Cpu;
use crate::sync::grace::Grace;

/// Streams whose faults, or whose ATS alone, are enabled together, from enabling to the end of disabling. All of them are attached meanwhile.
pub(super) struct Life {
    pub(super) mode: FaultMode,
    pub(super) streams: Box<[StreamId]>,
    pub(super) phase: Phase,
    /// How many page requests its device may have outstanding.
    credits: u32,
    /// For how many Stop markers of its streams the PRI queue keeps room.
    markers: u8,
    /// [`RecordQueue::losses`] of the PRI queue when its device last had no request outstanding.
    losses: u64,
}

/// How far a life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Faults are served.
    Served,
    /// [`Smmu::recover`] stopped it: streams that stall are aborted. Or [`Smmu::reopen_faults`] has begun.
    Stopped,
    /// [`Smmu::disable_faults`] has begun.
    Ending,
}

// `docs/performance.md` has this number.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Life>() == 32);

impl Life {
    /// ATS alone.
    pub(super) fn of_ats(streams: Box<[StreamId]>) -> Self {
        Self { mode: FaultMode::Ats, streams, phase: Phase::Served, credits: 0, markers: 0, losses: 0 }
    }

    /// Whether `stream` is one of these.
    pub(super) fn has(&self, stream: StreamId) -> bool {
        self.streams.contains(&stream)
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Hands the page faults of attached streams to `handler`. Several StreamIDs are those of one device: they share
    /// limits and end together. Streams in [`FaultMode::Stall`] need no `device`.
    ///
    /// When it returns, a stream in [`FaultMode::Stall`] is translated and stalls. For one in [`FaultMode::PageRequest`] ATS and page
    /// requests are enabled at the device, in this order: its page request interface is reset if it is not at rest or has a Response
    /// Failure; EATS and PPAR are set in the entry, CFGI and SYNC; ATS is enabled at the device (3.9.2), and then page requests.
    ///
    /// Its allocation, all its StreamIDs together, is as many page requests as it may have groups in storage, or what is left of the PRI
    /// queue, which is shared out until [`Smmu::disable_faults`] gives it back. Each StreamID with substreams also has room there for
    /// one Stop marker (8), unless its device sends none: it stops one PASID at a time.
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsEnabled`] when they are enabled or an earlier life has not ended,
    /// [`DriverError::NotSupported`] for streams in [`FaultMode::Terminate`] or [`FaultMode::Ats`], in different modes, none at all, or page requests
    /// without a `device`, [`DriverError::NoCredits`], [`DriverError::DeviceBusy`] when the page request interface does not come to rest,
    /// [`DriverError::Open`] when the fault core refuses, a StreamID that is named twice for example, [`DriverError::NotDrained`] where every fault
    /// stalls, and [`DriverError::Busy`]: nothing is enabled then.
    ///
    /// When the entry could not be changed, [`DriverError::CommandTimeout`], [`DriverError::IllegalCommand`] or [`DriverError::GivenUp`], all is
    /// taken back in reverse order. Where that fails too, or there is no `device` for it, the faults count as enabled, and
    /// [`Smmu::disable_faults`] ends that.
    pub fn enable_faults(
        &self,
        cpu: &mut Cpu,
        streams: &[StreamId],
        device: Option<&dyn DeviceControl>,
        handler: Arc<dyn FaultHandler>,
        limits: StreamLimits,
    ) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        let Control { streams: attached, lives, .. } = &mut *control;
        let (mut mode, mut has_stage2, mut markers, mut has_stalls) = (None, false, 0, false);
        let mut life = Vec::new();
        let first = streams.first().copied().unwrap_or(StreamId(0));
        life.try_reserve_exact(streams.len())
            .and_then(|()| lives.try_reserve(1))
            .map_err(|_| OpenError::NoMemory { stream: first })?;
        if let Some(stream) = repeated(streams) {
            return Err(OpenError::Repeated { stream }.into());
        }
        for &stream in streams {
            let own = attached.get(&stream).filter(|own| own.complete).ok_or(DriverError::NotAttached(stream))?;
            if own.stopped || lives.iter().any(|life| life.has(stream)) {
                return Err(DriverError::FaultsEnabled(stream));
            }
            if *mode.get_or_insert(own.mode) != own.mode {
                return Err(DriverError::NotSupported { stream, what: "one handler for streams in different modes" });
            }
            has_stage2 |= own.stage2.is_some();
            has_stalls |= own.stalls_unasked;
            let has_markers = own.takes_substreams() && device.is_some_and(DeviceControl::sends_stop_markers);
            markers = u8::saturating_add(markers, has_markers.into());
            life.push(stream);
        }
        let (mode, kind, queue) = match mode {
            Some(mode @ FaultMode::Stall) if has_stage2 => (mode, Kind::Stage2Stall, OutputQueue::Events),
            Some(mode @ FaultMode::Stall) => (mode, Kind::Stall, OutputQueue::Events),
            Some(mode @ FaultMode::PageRequest) => (mode, Kind::Page, OutputQueue::PageRequests),
            Some(FaultMode::Terminate | FaultMode::Ats) | None => {
                return Err(DriverError::NotSupported { stream: first, what: "enabling faults" });
            }
        };
        let (asker, credits) = match (mode, device) {
            (FaultMode::PageRequest, None) => {
                return Err(DriverError::NotSupported {
                    stream: first,
                    what: "page requests without control of the device",
                });
            }
            (FaultMode::PageRequest, Some(device)) => (Some(device), self.credits(lives, first, limits, markers)?),
            _ => (None, 0),
        };
        if let Some(device) = asker {
            self.rest_page_requests(cpu, first, device)?;
            let needs_pasid = device.response_needs_pasid();
            for &stream in streams {
                self.commands.set_response_pasid(stream, needs_pasid);
                let Some(own) = attached.get_mut(&stream) else { continue };
                own.enabled = Ste::with_ppar(own.enabled, needs_pasid);
            }
        }
        if has_stalls {
            // From before a change, and refused by the drain as long as nobody serves the streams. No other comes: they are aborted.
            self.drain_past(cpu, queue)?;
        }
        // What the queue holds now belongs to an earlier life of these StreamIDs: the streams are not live yet.
        let since = cpu.masked(|masked| self.produced(masked, queue));
        let request = OpenRequest { streams, kind, handler, limits, since };
        self.faults.open(cpu, &mut self.hardware.delay(), request)?;
        lives.push(Life {
            mode,
            streams: life.into_boxed_slice(),
            phase: Phase::Served,
            credits,
            markers,
            losses: self.page_request_losses(),
        });
        self.note_ats(lives);
        if let Err(error) = self.change_entries(cpu, attached, streams, |own| &own.enabled) {
            let undone = device.map(|device| self.end_life(cpu, &mut control, first, device));
            if let Some(Err(left)) = undone {
                log::error!("faults of {first:?} are neither enabled nor disabled: {left}");
            }
            return Err(error);
        }
        if let Some(device) = asker {
            device.enable_ats();
            device.enable_page_requests(credits);
        }
        Ok(())
    }

    /// How many page requests the device of a life that is about to begin may have outstanding beside those of `lives`, so that the PRI
    /// queue takes all of them, and the Stop markers too, which want no credit of the device (8).
    fn credits(&self, lives: &[Life], stream: StreamId, limits: StreamLimits, markers: u8) -> Result<u32, DriverError> {
        let entries = self.page_requests.as_ref().map_or(0, RecordQueue::entries);
        let given = |life: &Life| life.credits + u32::from(life.markers);
        let used: u32 = lives.iter().filter(|life| life.mode == FaultMode::PageRequest).map(given).sum();
        let (free, markers) = (entries.saturating_sub(used), u32::from(markers));
        // Each request belongs to a group, so with no more than that none is refused for want of storage.
        match free.saturating_sub(markers).min(limits.groups.into()) {
            0 if limits.groups > 0 => Err(DriverError::NoCredits { stream, needed: markers + 1, free }),
            credits => Ok(credits),
        }
    }

    /// Has a stream's faults, and those enabled together with it, served again by the same handlers, after [`Smmu::recover`]
    /// named it: what it stopped, or a device whose page requests were thrown away. Also a device whose page requests an answer Failure
    /// ended. Does nothing for others.
    ///
    /// The device has to come to rest, as in [`Smmu::disable_faults`]: before, its entry may not translate again (4.7.2). Page requests
    /// that still wait for their answer are answered Invalid; ATS stays on.
    ///
    /// # Errors
    ///
    /// Those of [`Smmu::disable_faults`], which may be called instead at any time. The call may be repeated.
    pub fn reopen_faults(
        &self,
        cpu: &mut Cpu,
        stream: StreamId,
        device: &dyn DeviceControl,
    ) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        let Control { streams, lives, .. } = &mut *control;
        // What is not complete has given its tables back, or has none yet.
        let own = streams.get_mut(&stream).filter(|own| own.complete).ok_or(DriverError::NotAttached(stream))?;
        if own.stopped {
            device.stop_new_work();
            self.end_events(cpu, stream, device)?;
            self.change_entry(cpu, stream, own, &own.disabled)?;
            own.stopped = false;
            return Ok(());
        }
        let is_its = |life: &&mut Life| life.has(stream) && life.phase != Phase::Ending && life.mode != FaultMode::Ats;
        let life = lives.iter_mut().find(is_its);
        let life = life.ok_or(DriverError::FaultsNotEnabled(stream))?;
        if life.mode == FaultMode::PageRequest {
            if life.phase == Phase::Served && !self.has_lost_requests(life) && !device.page_requests_failed() {
                return Ok(());
            }
            // Until all of it is done: the reset ends what tells of a Failure.
            life.phase = Phase::Stopped;
            // Read first: what is lost meanwhile is lost for the device too.
            let losses = self.page_request_losses();
            let (closing, grace) = self.stop_page_requests(cpu, stream, life, device)?;
            self.rest_page_requests(cpu, stream, device)?;
            reopen(cpu, stream, closing, &grace)?;
            life.losses = losses;
            device.enable_page_requests(life.credits);
            life.phase = Phase::Served;
        } else if life.phase == Phase::Stopped {
            device.stop_new_work();
            self.end_events(cpu, stream, device)?;
            let (closing, grace) = self.close(cpu, stream)?;
            reopen(cpu, stream, closing, &grace)?;
            self.change_entries(cpu, streams, &life.streams, |own| &own.enabled)?;
            life.phase = Phase::Served;
        }
        Ok(())
    }

    /// Whether page requests of `life` may have been thrown away unread: their device waits for ever then.
    pub(super) fn has_lost_requests(&self, life: &Life) -> bool {
        life.mode == FaultMode::PageRequest && life.losses != self.page_request_losses()
    }

    fn page_request_losses(&self) -> u64 {
        self.page_requests.as_ref().map_or(0, RecordQueue::losses)
    }
}

/// Serves a closed stream, of which nothing is in a queue, again.
fn reopen(cpu: &Cpu, stream: StreamId, closing: Closing<'_>, grace: &Grace) -> Result<(), DriverError> {
    closing.answer_pending(cpu, grace);
    closing.reopen().map_err(|unfinished| DriverError::Unanswered { stream, waiting: unfinished.waiting })
}
