//! One grace period, from its start to the moment when no core holds it up.

use super::super::atomic::Ordering::{Acquire, Relaxed};
use super::super::mutant::mutant;
use super::super::per_core::PerCore;
use super::retired::Chain;
use super::{Core, CoreId, CoreSet, Stuck};

/// A period that has lasted this many looks is expedited unasked.
const PATIENCE: u32 = 256;

/// The period that runs.
#[derive(Debug)]
pub(super) struct Period {
    number: u64,
    /// What waits for it.
    retired: Chain,
    /// Cores not known to have been quiescent since the start.
    holding: CoreSet,
    /// How often each core had come or gone at the start.
    presence: [u64; super::super::MAX_CORES],
    looks: u32,
    expedited: bool,
    /// When [`Period::stuck`] first looked, in microseconds.
    seen_us: Option<u64>,
    told: bool,
}

impl Period {
    /// Period `number`, which the caller has just added to `requested`, for what was `retired` before. It waits for the cores that
    /// are present.
    pub(super) fn start(number: u64, retired: Chain, cores: &PerCore<Core>) -> Self {
        let mut period = Self {
            number,
            retired,
            holding: CoreSet::EMPTY,
            presence: [0; super::super::MAX_CORES],
            looks: 0,
            expedited: false,
            seen_us: None,
            told: false,
        };
        for ((id, core), presence) in cores.iter().zip(&mut period.presence) {
            // Acquire: pairs with the release of a core that went away.
            *presence = core.presence.load(if mutant!("away_unread") { Relaxed } else { Acquire });
            if !presence.is_multiple_of(2) {
                period.holding.insert(id);
            }
        }
        period
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// The period has ended: what waited for it.
    pub(super) fn into_retired(self) -> Chain {
        self.retired
    }

    pub(super) const fn holding(&self) -> CoreSet {
        self.holding
    }

    /// Lets go of the cores that acknowledged this period, or have been away since its start. Returns those that still hold it up.
    pub(super) fn look(&mut self, cores: &PerCore<Core>) -> CoreSet {
        for ((id, core), presence) in cores.iter().zip(&self.presence) {
            // Acquire: pairs with the release of the acknowledgement, of going and of coming.
            let acknowledgement = if mutant!("look_unread") { Relaxed } else { Acquire };
            let change = if mutant!("change_unread") { Relaxed } else { Acquire };
            if self.holding.contains(id)
                && (core.acknowledged.load(acknowledgement) >= self.number || core.presence.load(change) != *presence)
            {
                self.holding.remove(id);
            }
        }
        self.looks = self.looks.saturating_add(1);
        self.holding
    }

    /// Says once which cores still hold the period up when it has lasted `after_us` microseconds from the first call on.
    pub(super) fn stuck(&mut self, cores: &PerCore<Core>, now_us: u64, after_us: u64) -> Option<Stuck> {
        let for_us = now_us.saturating_sub(*self.seen_us.get_or_insert(now_us));
        if self.told || for_us < after_us {
            return None;
        }
        self.told = !self.look(cores).is_empty();
        self.told.then_some(Stuck { period: self.number, holding: self.holding, for_us })
    }

    /// Interrupts the cores that hold the period up, once, if that is `wanted` or it has lasted long. Returns whether it did.
    pub(super) fn expedite(&mut self, wanted: bool, kick: fn(CoreId)) -> bool {
        let now = !self.expedited && (wanted || self.looks > PATIENCE);
        if now {
            self.expedited = true;
            self.holding.iter().for_each(kick);
        }
        now
    }
}
