//! Which SMMU a scenario runs on, and what it asks of it.

use core::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(target_os = "none"))]
use std::println as say;

#[cfg(target_os = "none")]
use log::info as say;
use smmu_iopf::driver::FaultMode;
use smmu_iopf::model::profile::Profile as Modelled;
use smmu_iopf::smmuv3::StreamId;
use smmu_iopf::smmuv3::features::{Features, StallModel};

use super::machine;

/// The engines that every machine has.
pub(crate) const ENGINES: usize = smmu_iopf::model::board::DEFAULT_ENGINES;

/// An SMMU with engines behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// The model, as one of its profiles.
    Model(Modelled),
    /// QEMU's own, as its ID registers say, and the StreamIDs of the devices behind it.
    Qemu { features: Features, streams: [StreamId; ENGINES] },
}

impl From<Modelled> for Profile {
    fn from(profile: Modelled) -> Self {
        Self::Model(profile)
    }
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        self.modelled().map_or("qemu", Modelled::name)
    }

    pub(crate) fn features(self) -> Features {
        match self {
            Self::Model(profile) => profile.features(),
            Self::Qemu { features, .. } => features,
        }
    }

    pub(crate) fn engine_stream(self, engine: usize) -> StreamId {
        match self {
            Self::Model(profile) => profile.engine_stream(engine),
            Self::Qemu { streams, .. } => streams[engine],
        }
    }

    /// What CLASS says of stage 1 faults of the input address: QEMU 7.2 says CD (docs/qemu-deviations.md, `class-of-stage1`), and has no
    /// stage 2, which later ones have.
    pub(crate) fn input_class(self) -> &'static str {
        match self {
            Self::Qemu { features, .. } if !features.stage2 => "CD",
            _ => "IN",
        }
    }

    /// The model's profile, if it is the model.
    pub(crate) fn modelled(self) -> Option<Modelled> {
        match self {
            Self::Model(profile) => Some(profile),
            Self::Qemu { .. } => None,
        }
    }
}

/// What a test asks of the machine beyond translation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// The model, for what no hardware has: failures on demand, counters of what it did, engines that break the rules.
    Model,
    /// Faults that stall.
    Stall,
    /// That no fault can stall.
    NoStall,
    /// PRI, so ATS too.
    PageRequests,
    /// Faults that the device waits for: either.
    Faults,
    /// Faults that do not stall.
    Termination,
    Ats,
    /// 16 substreams.
    Substreams,
    /// Queues of eight entries.
    Queues,
    /// Interrupts as messages.
    Messages,
    /// Messages to memory too, by which a CMD_SYNC says that it is complete.
    SyncMessages,
    /// Stage 2, with a walk that begins at level 1.
    Stage2,
}

impl Need {
    pub(crate) fn is_met(self, profile: impl Into<Profile>) -> bool {
        let profile = profile.into();
        let features = profile.features();
        match self {
            Self::Model => profile.modelled().is_some(),
            Self::Stall => features.can_stall(),
            Self::NoStall => !features.can_stall(),
            Self::PageRequests => features.pri,
            Self::Faults => features.can_stall() || features.pri,
            Self::Termination => features.stall_model != StallModel::Forced,
            Self::Ats => features.ats,
            Self::Substreams => features.ssid_bits >= 4,
            Self::Queues => features.event_queue.log2() >= 3,
            Self::Messages => features.msi,
            Self::SyncMessages => features.msi && features.coherent,
            Self::Stage2 => features.stage2 && features.ias() >= 35,
        }
    }
}

/// Whether a test ran on any profile since this was last cleared.
pub(crate) static RAN: AtomicBool = AtomicBool::new(false);

/// Runs `test` once for each profile of the machine that has what it needs. Which these are is printed, and what the others lack.
pub(crate) fn on_each(needs: &[Need], test: impl Fn(Profile)) {
    for profile in machine::profiles() {
        match needs.iter().find(|need| !need.is_met(profile)) {
            None => run(profile, &test),
            Some(lack) => say!("not on {}: it lacks {lack:?}", profile.name()),
        }
    }
}

/// Runs `test` on the model as this profile, which no other will do for.
pub(crate) fn on(profile: Modelled, test: impl Fn(Profile)) {
    match machine::profiles().into_iter().find(|one| one.modelled() == Some(profile)) {
        Some(profile) => run(profile, &test),
        None => say!("not here: it is about the model as {}", profile.name()),
    }
}

fn run(profile: Profile, test: &impl Fn(Profile)) {
    RAN.store(true, Ordering::Relaxed);
    say!("on {}:", profile.name());
    test(profile);
}

/// The engines of a profile whose faults wait for answers: one that stalls, one that asks for pages, with how they fault.
pub(crate) fn faulting_engines(profile: Profile) -> impl Iterator<Item = (usize, FaultMode)> {
    let engines = [(0, FaultMode::Stall, Need::Stall), (2, FaultMode::PageRequest, Need::PageRequests)];
    engines.into_iter().filter(move |(.., need)| need.is_met(profile)).map(|(engine, mode, _)| (engine, mode))
}
