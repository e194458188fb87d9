//! The end of a master's faults.

use super::fault::Kind;
use super::slot::State;
use super::state::FaultState;
use super::statistics::{Counter, Statistics};
use super::table::FaultTable;
use crate::smmuv3::{PageResponse, StreamId};
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::grace::{Grace, Ref};
use crate::sync::mutant::mutant;
use crate::sync::{Cpu, Masked};

/// The right to answer for a closed master, and to end its fault state.
///
/// From the next grace period on no one else answers its groups, and none are added: new stalls are swallowed, because
/// STALL_TERM answers them, and page requests are answered Invalid as they come. Dropping this leaves the StreamIDs
/// quarantined: they stay in the table, closed, until [`FaultTable::close`] is called again.
#[derive(Debug)]
#[must_use = "a closed stream stays quarantined until it is finished"]
pub struct Closing<'t> {
    table: &'t FaultTable,
    state: Ref<FaultState>,
    finished: bool,
}

/// What became of the groups that were waiting when their stream was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Answered now; each had been reported and not answered.
    pub answered: usize,
    /// Stalls dropped without a command.
    pub terminated: usize,
    /// Not answered, because the answer could not be sent. Try again.
    pub unsent: usize,
}

/// Groups still wait for an answer, so the stream can't be finished.
#[derive(Debug, thiserror::Error)]
#[error("{waiting} groups of {:?} wait for an answer", .closing.streams())]
pub struct Unfinished<'t> {
    /// The right to try again.
    pub closing: Closing<'t>,
    /// How many groups wait.
    pub waiting: usize,
}

impl<'t> Closing<'t> {
    /// Closes `state`, unless someone else has the right to, or it is out of the table already.
    pub(super) fn begin(table: &'t FaultTable, state: Ref<FaultState>) -> Option<Self> {
        // A lock: pairs with the store in `drop`.
        let order = if mutant!("closing_unread") { Relaxed } else { Acquire };
        if state.closing.swap(true, order) {
            return None;
        }
        state.close();
        Some(Self { table, state, finished: false })
    }

    /// All StreamIDs of the master.
    pub fn streams(&self) -> &[StreamId] {
        &self.state.streams
    }

    /// How the master waits for answers.
    pub fn kind(&self) -> Kind {
        self.state.kind
    }

    /// What was counted for the master.
    pub fn statistics(&self) -> Statistics {
        self.state.counters.read()
    }

    /// Ends what was waiting: page request groups are answered, Invalid unless an answer was decided before, and stalls are
    /// dropped without a command, for after STALL_TERM their tags may belong to other transactions. Partial groups are
    /// dropped too.
    ///
    /// For stalls call it after STALL_TERM. `grace` is a grace period that began after [`FaultTable::close`] and passed: so
    /// every report and every answer that did not see the stream closed has ended.
    pub fn answer_pending(&self, cpu: &Cpu, _grace: &Grace) -> Leftover {
        let mut leftover = Leftover::default();
        for slot in &self.state.slots {
            cpu.masked(|masked| {
                self.state.discard(masked, slot, |_| true);
                // The holder may let go between look and claim, but only once.
                let claim = (0..2).find_map(|_| {
                    let word = slot.word();
                    let response = if word.state() == State::Unsent { word.response() } else { PageResponse::Invalid };
                    slot.claim(word, response, false)
                });
                let Some(claim) = claim else { return };
                match self.state.kind {
                    Kind::Stall | Kind::Stage2Stall => {
                        self.state.count(masked, [Counter::Terminated]);
                        self.state.give_back(claim.done());
                        leftover.terminated += 1;
                    }
                    Kind::Page if self.state.send(masked, claim) => leftover.answered += 1,
                    Kind::Page => leftover.unsent += 1,
                }
            });
        }
        leftover
    }

    /// Has the master served again, by the handlers that it has. What a handler still holds from before stays too late.
    ///
    /// After [`answer_pending`](Self::answer_pending), when no record from before is in the queue any more, and before the
    /// device can cause a new one.
    ///
    /// # Errors
    ///
    /// [`Unfinished`] when groups wait for an answer; nothing has changed then.
    pub fn reopen(self) -> Result<(), Unfinished<'t>> {
        let (waiting, _) = self.state.unanswered();
        if waiting != 0 {
            return Err(Unfinished { closing: self, waiting });
        }
        self.state.forget_cuts();
        self.state.reopen();
        Ok(())
    }

    /// Takes the state out of the table. It is freed when its last group is let go and a grace period has passed.
    ///
    /// After [`answer_pending`](Self::answer_pending), and so a grace period: a report that did not see the master closed may still add a group,
    /// which nobody would answer.
    ///
    /// # Errors
    ///
    /// [`Unfinished`] when groups wait for an answer; nothing has changed then.
    pub fn finish(mut self, masked: &Masked) -> Result<Statistics, Unfinished<'t>> {
        let (waiting, _) = self.state.unanswered();
        if waiting != 0 {
            return Err(Unfinished { closing: self, waiting });
        }
        self.state.slots.iter().for_each(|slot| self.state.discard(masked, slot, |_| true));
        self.table.remove(masked, &self.state);
        self.finished = true;
        Ok(self.statistics())
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        // Never again after the end: the StreamIDs may be another state's by then. Pairs with the swap in `begin`.
        if !self.finished {
            self.state.closing.store(false, if mutant!("closing_relaxed") { Relaxed } else { Release });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::sync::Arc;

    use embedded_hal::delay::DelayNs;

    use super::*;
    use crate::iopf::{
        Answer, CloseError, Fault, FaultGroup, FaultHandler, Limits, NotSent, OpenRequest, PageResponder, Priority,
        StreamLimits, Verdict,
    };
    use crate::sync::grace::Domain;

    struct Nobody;

    impl PageResponder for Nobody {
        fn respond(&self, _: &Masked, _: &[Answer]) -> Result<(), NotSent> {
            Ok(())
        }
    }

    impl FaultHandler for Nobody {
        fn handle(&self, _: &Masked, _: &[Fault]) -> Verdict {
            Verdict::Defer
        }

        fn defer(&self, _: &Masked, _: FaultGroup) {}
    }

    impl DelayNs for Nobody {
        fn delay_ns(&mut self, _: u32) {}
    }

    #[test]
    fn who_found_the_state_before_it_was_finished_cannot_end_the_next_life() {
        const STREAM: StreamId = StreamId(0);
        let domain = Arc::new(Domain::new());
        let mut cpu = Cpu::of_test(0);
        domain.online(&mut cpu);
        let table = FaultTable::new(Arc::clone(&domain), Arc::new(Nobody), 0, Limits { states: 2, groups: 1 }).unwrap();
        let open = |cpu: &mut Cpu| {
            let limits = StreamLimits { groups: 1, requests: 1, time_out_us: 1000, priority: Priority::Normal };
            let handler = Arc::new(Nobody);
            let request = OpenRequest { streams: &[STREAM], kind: Kind::Stall, handler, limits, since: 0 };
            table.open(cpu, &mut Nobody, request)
        };
        open(&mut cpu).unwrap();
        let found = cpu.masked(|masked| table.get(masked, STREAM)).unwrap();
        let closing = cpu.masked(|masked| table.close(masked, STREAM)).unwrap();
        assert_eq!(cpu.masked(|masked| table.close(masked, STREAM)).unwrap_err(), CloseError::Closing(STREAM));
        cpu.masked(|masked| closing.finish(masked)).unwrap();
        open(&mut cpu).unwrap();
        assert!(Closing::begin(&table, found).is_none());
        drop(table);
        domain.poll(&mut cpu);
        assert_eq!(domain.stats().in_memory(), 0);
    }
}
