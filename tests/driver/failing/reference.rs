//! What a stream may lead to, and which calls about it are refused, by what was done and what of it failed.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cmp::{max, min};
use core::ops::Not;

use smmu_iopf::driver::{DriverError, FaultMode};
use smmu_iopf::smmuv3::{StreamId, SubstreamId};

use super::{PASIDS, PLACES};

/// Where a transaction may go: to a space, by its number, or nowhere.
pub(super) type Targets = BTreeSet<Option<usize>>;

fn only(target: Option<usize>) -> Targets {
    [target].into()
}

/// What is so; what is known of it after a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    No,
    Maybe,
    Yes,
}

use Holds::{Maybe, No, Yes};

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Yes } else { No }
    }
}

impl Not for Holds {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            No => Yes,
            Maybe => Maybe,
            Yes => No,
        }
    }
}

/// How a stream is to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) faults: FaultMode,
    /// Where it leads; `None` aborts it.
    pub(super) space: Option<usize>,
    /// Of its context table.
    pub(super) substream_bits: u8,
}

/// A call about a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Attach(Config),
    Change(Config),
    Detach,
    /// The place of [`PASIDS`], and its space.
    Substream(usize, Option<usize>),
    Enable,
    Disable,
    Reopen,
}

/// A stream as it may be.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    id: StreamId,
    /// Every fault of its SMMU stalls.
    forced: bool,
    /// The driver knows of it.
    known: Holds,
    /// As a whole.
    attached: bool,
    pub(super) faults: FaultMode,
    substream_bits: u8,
    /// Its faults, or its ATS, are enabled, or their end has begun.
    enabled: Holds,
    ending: bool,
    /// A recovery has it wait for its reopening, though it is not enabled.
    stopped: Holds,
    /// It goes to where `leads` says; else nowhere.
    open: Holds,
    /// For each of [`PASIDS`].
    leads: [Targets; PLACES],
}

impl Stream {
    pub(super) fn new(id: StreamId, forced: bool) -> Self {
        Self {
            id,
            forced,
            known: No,
            attached: false,
            faults: FaultMode::Terminate,
            substream_bits: 0,
            enabled: No,
            ending: false,
            stopped: No,
            open: No,
            leads: [const { Targets::new() }; PLACES],
        }
    }

    /// Where a transaction with the PASID of a place may go.
    pub(super) fn may_reach(&self, place: usize) -> Targets {
        let mut targets = if self.open == No { Targets::new() } else { self.leads[place].clone() };
        if self.open != Yes {
            targets.insert(None);
        }
        targets
    }

    /// Where its transactions may go.
    pub(super) fn targets(&self) -> Vec<Option<usize>> {
        (0..PLACES).flat_map(|place| self.may_reach(place)).collect()
    }

    /// Why a call is refused, each reason as far as it holds.
    fn refusals(&self, call: Call) -> [(DriverError, Holds); 3] {
        let (id, attached) = (self.id, Holds::from(self.attached));
        let not_attached = DriverError::NotAttached(id);
        let never = (DriverError::Busy, No);
        match call {
            Call::Attach(_) => [(DriverError::AlreadyAttached(id), attached), never.clone(), never],
            Call::Change(_) => {
                let in_use = max(self.enabled, min(self.stopped, attached));
                [(not_attached, !self.known), (DriverError::FaultsEnabled(id), in_use), never]
            }
            Call::Detach => [(not_attached, !self.known), (DriverError::FaultsEnabled(id), self.enabled), never],
            Call::Substream(place, _) => {
                let substream = SubstreamId::new(PASIDS[place].unwrap()).unwrap();
                let covered = self.substream_bits > 0 && substream.get() >> self.substream_bits == 0;
                let beyond = DriverError::SubstreamOutOfRange { stream: id, substream };
                [(not_attached, !attached), (beyond, (!covered).into()), never]
            }
            Call::Enable => {
                let nothing = DriverError::NotSupported { stream: id, what: "enabling faults" };
                let in_use = DriverError::FaultsEnabled(id);
                let has_none = self.faults == FaultMode::Terminate;
                [(not_attached, !attached), (in_use, max(self.enabled, self.stopped)), (nothing, has_none.into())]
            }
            Call::Disable => {
                let unknown = if self.faults == FaultMode::Ats { No } else { !self.known };
                [(not_attached, unknown), (DriverError::FaultsNotEnabled(id), !self.enabled), never]
            }
            Call::Reopen => {
                let served = if self.ending || self.faults == FaultMode::Ats { No } else { self.enabled };
                let waits = max(self.stopped, served);
                [(not_attached, !attached), (DriverError::FaultsNotEnabled(id), !waits), never]
            }
        }
    }

    /// Whether a call is sure to be refused.
    pub(super) fn refuses(&self, call: Call) -> bool {
        self.refusals(call).iter().any(|(_, holds)| *holds == Yes)
    }

    /// Whether a call is refused, as it has to be. Fails if it is and mustn't be, or the other way round.
    pub(super) fn is_refused(&mut self, call: Call, result: &Result<(), DriverError>) -> bool {
        for (error, holds) in self.refusals(call) {
            let is_it = result.as_ref() == Err(&error);
            match holds {
                No => assert!(!is_it || error == DriverError::Busy, "refused with {error}: {self:?}"),
                Maybe if !is_it => {}
                Maybe | Yes => {
                    assert!(is_it, "{result:?} instead of {error}: {self:?}");
                    match error {
                        DriverError::NotAttached(_) => self.known = min(self.known, Maybe),
                        DriverError::FaultsNotEnabled(_) if matches!(call, Call::Disable) => self.enabled = No,
                        _ => {}
                    }
                    return true;
                }
            }
        }
        false
    }

    /// It may be as it was, or abort.
    fn doubt(&mut self) {
        self.leads = core::array::from_fn(|place| self.may_reach(place));
        self.leads.iter_mut().for_each(|targets| _ = targets.insert(None));
        (self.attached, self.open) = (false, Yes);
    }

    pub(super) fn done(&mut self, call: Call) {
        let stalls = self.faults == FaultMode::Stall;
        match call {
            Call::Attach(Config { faults, space, substream_bits })
            | Call::Change(Config { faults, space, substream_bits }) => {
                *self = Self {
                    known: Yes,
                    attached: true,
                    faults,
                    substream_bits,
                    // Until its faults are enabled.
                    open: (faults != FaultMode::Stall).into(),
                    leads: [only(space), only(None), only(None)],
                    ..Self::new(self.id, self.forced)
                }
            }
            Call::Detach => *self = Self::new(self.id, self.forced),
            Call::Substream(place, space) => self.leads[place] = only(space),
            Call::Enable | Call::Disable => {
                (self.enabled, self.ending) = (matches!(call, Call::Enable).into(), false);
                if stalls {
                    self.open = self.enabled;
                }
            }
            Call::Reopen => {
                self.stopped = No;
                self.open = match (stalls, self.ending) {
                    (true, true) => self.open,
                    (true, false) => self.enabled,
                    (false, _) => Yes,
                };
            }
        }
    }

    pub(super) fn failed(&mut self, call: Call, error: &DriverError) {
        let is_incomplete = self.known != No && !self.attached;
        // It is asked for before anything is done.
        if matches!(error, DriverError::NoMemory(_)) && !is_incomplete {
            return;
        }
        let stalls = self.faults == FaultMode::Stall;
        match call {
            Call::Attach(config) | Call::Change(config) => {
                self.doubt();
                if config.faults != FaultMode::Stall {
                    self.leads[0].insert(config.space);
                }
                self.known = if matches!(call, Call::Attach(_)) { Maybe } else { Yes };
                self.enabled = No;
            }
            Call::Detach => {
                self.doubt();
                (self.known, self.enabled) = (Yes, No);
            }
            Call::Substream(place, space) => self.leads[place].extend([None, space]),
            Call::Enable => (self.enabled, self.ending) = (Maybe, true),
            Call::Disable => (self.enabled, self.ending) = (Yes, true),
            Call::Reopen => {}
        }
        if matches!(call, Call::Enable | Call::Disable | Call::Reopen) && (stalls || self.stopped != No) {
            self.open = if matches!(call, Call::Disable) { min(self.open, Maybe) } else { Maybe };
        }
    }

    /// A recovery aborts what stalls, and as far as it came if it failed.
    pub(super) fn recovered(&mut self, is_done: bool) {
        if self.attached && self.faults == FaultMode::Stall {
            self.open = if is_done { No } else { min(self.open, Maybe) };
        }
        if self.forced && self.known != No && self.enabled != Yes {
            self.stopped = max(self.stopped, Maybe);
            self.open = min(self.open, Maybe);
        }
    }

    /// A space was forgotten, or may have been.
    pub(super) fn forgets(&mut self, space: usize, is_done: bool) {
        for targets in &mut self.leads {
            if targets.contains(&Some(space)) {
                targets.insert(None);
            }
            if is_done {
                targets.remove(&Some(space));
            }
        }
    }
}
