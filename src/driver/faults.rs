//! Giving a stream's page faults to a handler.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::error::DriverError;
use super::hooks::OutputQueue;
use super::registers::Registers;
use super::stream::FaultMode;
use super::structure::{Structure, WORDS};
use super::{Delay, Smmu};
use crate::iopf::{FaultHandler, Kind, OpenRequest, StreamLimits};
use crate::smmuv3::StreamId;
use crate::sync::Cpu;

/// Streams whose faults are enabled together, from enabling to the end of disabling.
pub(super) struct Life {
    pub(super) mode: FaultMode,
    pub(super) members: Vec<Member>,
}

/// One stream of a life.
pub(super) struct Member {
    pub(super) stream: StreamId,
    pub(super) ste: &'static Structure,
    /// Its entry without faults.
    pub(super) disabled: [u64; WORDS],
}

impl Life {
    /// Whether `stream` is one of these.
    pub(super) fn has(&self, stream: StreamId) -> bool {
        self.members.iter().any(|member| member.stream == stream)
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// Hands the page faults of attached streams to `handler`. Several StreamIDs are those of one device: they share
    /// limits and end together.
    ///
    /// When it returns, a stream in [`FaultMode::Stall`] is translated and stalls, and for one in
    /// [`FaultMode::PageRequest`] ATS and PRI may be enabled at the device (3.9.2).
    ///
    /// # Errors
    ///
    /// [`DriverError::NotAttached`], [`DriverError::FaultsEnabled`] when they are enabled or an earlier life has not ended,
    /// [`DriverError::NotSupported`] for streams in [`FaultMode::Terminate`], in different modes, or none at all,
    /// [`DriverError::Open`] when the fault core refuses, and [`DriverError::Busy`]. After
    /// [`DriverError::Timeout`] and [`DriverError::IllegalCommand`] the faults count as enabled, and [`Smmu::disable_faults`]
    /// ends that.
    pub fn enable_faults(
        &self,
        cpu: &mut Cpu,
        streams: &[StreamId],
        handler: Arc<dyn FaultHandler>,
        limits: StreamLimits,
    ) -> Result<(), DriverError> {
        let mut control = self.control(cpu)?;
        let mut mode = None;
        let mut members = Vec::with_capacity(streams.len());
        let mut enabled = Vec::with_capacity(streams.len());
        for &stream in streams {
            let attached = control.streams.get(&stream).filter(|attached| attached.complete);
            let attached = attached.ok_or(DriverError::NotAttached(stream))?;
            if control.lives.iter().any(|life| life.has(stream)) {
                return Err(DriverError::FaultsEnabled(stream));
            }
            if *mode.get_or_insert(attached.mode) != attached.mode {
                return Err(DriverError::NotSupported { stream, what: "one handler for streams in different modes" });
            }
            members.push(Member { stream, ste: attached.ste, disabled: attached.disabled });
            enabled.push(attached.enabled);
        }
        let (mode, kind, queue) = match mode {
            Some(mode @ FaultMode::Stall) => (mode, Kind::Stall, OutputQueue::Events),
            Some(mode @ FaultMode::PageRequest) => (mode, Kind::Page, OutputQueue::PageRequests),
            Some(FaultMode::Terminate) | None => {
                let stream = streams.first().copied().unwrap_or(StreamId(0));
                return Err(DriverError::NotSupported { stream, what: "enabling faults" });
            }
        };
        // What the queue holds now belongs to an earlier life of these StreamIDs: the streams are not live yet.
        let since = self.produced(queue);
        let request = OpenRequest { streams, kind, handler, limits, since };
        self.faults.open(cpu, &mut self.hardware.delay(), request)?;
        let entries = members.iter().map(|member| (member.stream, member.ste)).zip(enabled).collect::<Vec<_>>();
        control.lives.push(Life { mode, members });
        for ((stream, ste), enabled) in entries {
            self.change_entry(cpu, stream, ste, &enabled)?;
        }
        Ok(())
    }
}
