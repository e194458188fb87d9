//! The records that are taken out of a queue together.

use core::cell::Cell;
use core::fmt;

use super::fault::{Fault, Report};
use super::shared::{AT_ONCE, Shared};
use super::state::FaultState;
use super::statistics::Counter;
use super::table::FaultTable;
use crate::sync::Masked;
use crate::sync::grace::{Counted, ReadGuard, Stock};

/// Records of one queue that are reported together, in their order: see [`FaultTable::batch`].
pub struct Batch<'a> {
    table: &'a FaultTable,
    moment: Moment<'a>,
}

/// Where and when a report comes from.
pub(super) struct Moment<'a> {
    pub(super) section: &'a ReadGuard<'a>,
    pub(super) masked: &'a Masked,
    pub(super) shared: &'a Shared,
    /// When the batch began, if the table has a clock.
    pub(super) began: Option<u64>,
    /// Slots that are counted in the limit over all streams and not in use, until the end of the batch.
    pub(super) aside: Cell<usize>,
}

/// What was deferred of a stream, and is counted together.
pub(super) struct Tally<'a> {
    state: &'a Counted<FaultState>,
    masked: &'a Masked,
    /// References for groups that are deferred.
    pub(super) references: Stock<'a, FaultState>,
    /// Groups deferred, and not counted yet.
    pub(super) deferred: usize,
}

impl Moment<'_> {
    /// The time now, if the table has a clock.
    pub(super) fn now(&self) -> Option<u64> {
        self.shared.now()
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        self.shared.release_slots(self.aside.get());
    }
}

impl<'a> Tally<'a> {
    pub(super) const fn new(state: &'a Counted<FaultState>, masked: &'a Masked) -> Self {
        Self { state, masked, references: Stock::new(state), deferred: 0 }
    }

    /// How many slots and references the next deferred group takes: a stream that has one will have more.
    pub(super) const fn at_once(&self) -> usize {
        if self.deferred == 0 { 1 } else { AT_ONCE }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        if self.deferred > 0 {
            let counters = [Counter::Records, Counter::Groups, Counter::Deferred];
            self.state.count_many(self.masked, counters, self.deferred);
        }
    }
}

impl<'a> Batch<'a> {
    pub(super) fn new(table: &'a FaultTable, moment: Moment<'a>) -> Self {
        Self { table, moment }
    }

    /// Deals with one record, the `record`th of its queue, from 0.
    ///
    /// Does not allocate, takes no lock, and looks at a bounded number of things. The handler is called within.
    pub fn report(&self, record: u64, fault: &Fault) -> Report {
        let state = self.table.find(self.moment.section, fault.stream);
        self.table.report_in(&self.moment, state, record, fault).of(fault)
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("table", self.table).field("began", &self.moment.began).finish_non_exhaustive()
    }
}
