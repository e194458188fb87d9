//! The report of the main job: what was checked, against what.

use core::fmt::{Debug, Display};

/// Counts checks and prints a line for each.
#[derive(Debug, Default)]
pub struct Report {
    held: u32,
    failed: u32,
}

impl Report {
    /// Begins a part of the report.
    pub fn heading(&self, title: impl Display) {
        log::info!("{title}");
    }

    /// Checks that `actual` is `expected`.
    pub fn equal<T: PartialEq<U> + Debug, U: Debug>(&mut self, what: impl Display, expected: T, actual: U) {
        if expected == actual {
            self.held += 1;
            log::info!("  ok    {what}: {actual:?}");
        } else {
            self.failed += 1;
            log::error!("  FAIL  {what}: expected {expected:?}, actual {actual:?}");
        }
    }

    /// Notes that a step ended in an error that no check expected.
    pub fn error(&mut self, what: impl Display, error: impl Display) {
        self.failed += 1;
        log::error!("  FAIL  {what}: expected success, actual {error}");
    }

    /// Says what cannot be checked on this machine, and why. It counts as nothing.
    pub fn not_checked(&self, what: impl Display, why: impl Display) {
        log::warn!("  --    {what}: not checked, {why}");
    }

    /// How many checks failed.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// How many checks held.
    pub fn held(&self) -> u32 {
        self.held
    }
}
