//! The records that are taken out of a queue together.

use core::fmt;

use super::fault::{Fault, Report};
use super::table::FaultTable;
use crate::sync::Masked;
use crate::sync::grace::ReadGuard;

/// Records of one queue that are reported together, in their order: see [`FaultTable::batch`].
pub struct Batch<'a> {
    table: &'a FaultTable,
    moment: Moment<'a>,
}

/// Where and when a report comes from.
pub(super) struct Moment<'a> {
    pub(super) section: &'a ReadGuard<'a>,
    pub(super) masked: &'a Masked,
    /// When the batch began, if the table has a clock.
    pub(super) began: Option<u64>,
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
