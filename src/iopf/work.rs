//! Which deferred group a core with time works on next.
//!
//! A stream's deferred groups wait in the stream's own lane, in their order, so a stream that floods fills its own. A lane with
//! groups in it stands in one list of one core: that of the core that was woken for it, by the stream's [`Priority`]. A turn is
//! the first lane of a list and at most [`BUDGET`] of its groups; a lane with more of them goes behind the others.
//!
//! Nothing starves:
//!
//! - within a list a lane waits for one turn of each lane before it,
//! - a list that has been passed over for a higher one [`PATIENCE`] times comes first, the lowest of them,
//! - a core looks at its own lists first, and steals when they are empty; in one of [`OWN_TURNS`] turns it looks at another core's
//!   first, so that the lanes of a core that is busy with something else do not wait for it.
//!
//! The groups of a turn are in the hand of the core that took it: while an interrupt keeps it, or one of them takes long, no other core
//! gets at the rest, and the answers to those before it wait. Their time-outs go on. A core that interrupts may keep for long, as
//! the one that drains, takes one at a time.
//!
//! The answers of a turn are claimed and sent together, in one masked section.
//!
//! Nothing is slept over: who puts a lane into a list looks afterwards which cores sleep, and who goes to sleep says so before it
//! looks at the lists. With a fence on either side, one of them sees the other.
//!
//! In a drain the records of a stream are dealt with in their order, so there the budget is the batch: what comes behind a flood
//! waits for inline answers only, which are short, and the queues of an SMMU take turns.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::AtomicU64 as Count;

use super::group::{FaultGroup, respond_all};
use super::state::FaultState;
use super::survive;
use crate::sync::atomic::{
    AtomicU32, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    fence,
};
use crate::sync::grace::Ref;
use crate::sync::lock::IrqLock;
use crate::sync::mutant::mutant;
use crate::sync::per_core::PerCore;
use crate::sync::{CoreId, Cpu, MAX_CORES, Masked};

/// The most groups of one stream that a core takes in a turn.
pub const BUDGET: usize = 8;

/// How often a list is passed over for one of a higher priority at most.
pub const PATIENCE: u32 = 4;

/// Of so many turns of a core, one begins with another core's lists.
pub const OWN_TURNS: u32 = 8;

/// Whose deferred groups come first among those in one core's lists; a core with lower ones in its own does not look for higher ones
/// in another's. Of the turns from its lists, Low gets one in [`PATIENCE`] + 1 at least, and Normal one in [`PATIENCE`] + 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// Before the others.
    High,
    /// What most streams have.
    #[default]
    Normal,
    /// After the others.
    Low,
}

const PRIORITIES: usize = [Priority::High, Priority::Normal, Priority::Low].len();

/// The deferred groups of one stream that no core has taken yet. With groups in it, it is in a list, or about to be.
#[derive(Debug)]
pub(super) struct Lane(IrqLock<Waiting>);

#[derive(Debug)]
struct Waiting {
    /// A ring.
    groups: Box<[Option<FaultGroup>]>,
    first: u16,
    count: u16,
    /// The lane behind this one in its list.
    next: Option<Ref<FaultState>>,
}

impl Lane {
    /// A lane for all of a stream's `groups`; `None` without memory.
    pub(super) fn new(groups: u16) -> Option<Self> {
        let groups = super::try_boxed(groups.into(), || Some(None))?;
        Some(Self(IrqLock::new(Waiting { groups, first: 0, count: 0, next: None })))
    }

    /// Returns the stream if the lane has to be put into a list now.
    fn push(&self, masked: &Masked, group: FaultGroup) -> Option<Ref<FaultState>> {
        let mut waiting = self.0.lock(masked);
        let unlisted = (waiting.count == 0).then(|| group.state().clone());
        waiting.push(group);
        unlisted
    }
}

impl Waiting {
    /// The place of the group that `index` others, at most as many as there are places, are before.
    fn place(&self, index: u16) -> usize {
        let place = usize::from(self.first) + usize::from(index);
        place.checked_sub(self.groups.len()).unwrap_or(place)
    }

    fn push(&mut self, group: FaultGroup) {
        // Each group in it holds one of the stream's slots, and there is a place for each of these.
        let place = self.place(self.count);
        if let Some(free) = self.groups.get_mut(place) {
            *free = Some(group);
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<FaultGroup> {
        let group = self.groups.get_mut(usize::from(self.first))?.take()?;
        self.first = self.place(1) as u16;
        self.count -= 1;
        Some(group)
    }
}

/// What a core takes in one turn.
type Turn = heapless::Vec<FaultGroup, BUDGET>;

/// Lanes one behind the other.
#[derive(Debug, Default)]
struct List {
    first: Option<Ref<FaultState>>,
    /// None if the first is the last.
    last: Option<Ref<FaultState>>,
    lanes: usize,
    passed: u32,
}

impl List {
    fn push(&mut self, masked: &Masked, stream: Ref<FaultState>) {
        self.append(masked, Self { first: Some(stream), lanes: 1, ..Self::default() });
    }

    /// Puts the lanes of `other` behind these.
    fn append(&mut self, masked: &Masked, other: Self) {
        let Some(first) = other.first else { return };
        self.lanes += other.lanes;
        match self.last.as_ref().or(self.first.as_ref()) {
            Some(before) => {
                let last = other.last.unwrap_or_else(|| first.clone());
                before.lane.0.lock(masked).next = Some(first);
                self.last = Some(last);
            }
            None => (self.first, self.last) = (Some(first), other.last),
        }
    }

    /// The turn of the first lane, and its stream. What the lane has left goes to the end.
    fn turn(&mut self, masked: &Masked, most: usize, groups: &mut Turn) -> Option<Ref<FaultState>> {
        let stream = self.first.take()?;
        self.lanes -= 1;
        let mut waiting = stream.lane.0.lock(masked);
        self.first = waiting.next.take();
        if self.lanes < 2 {
            self.last = None;
        }
        groups.extend(core::iter::from_fn(|| waiting.pop()).take(most));
        let more = waiting.count > 0;
        drop(waiting);
        if more {
            self.push(masked, stream.clone());
        }
        Some(stream)
    }
}

/// A core's lists, by priority.
#[derive(Debug, Default)]
struct Lists([List; PRIORITIES]);

impl Lists {
    fn turn(&mut self, masked: &Masked, most: usize, groups: &mut Turn) -> Option<Ref<FaultState>> {
        let is_impatient = |list: &List| list.lanes > 0 && list.passed >= PATIENCE;
        let impatient = self.0.iter().rposition(is_impatient);
        let chosen = impatient.or_else(|| self.0.iter().position(|list| list.lanes > 0))?;
        let (before, lower) = self.0.split_at_mut(chosen + 1);
        lower.iter_mut().filter(|list| list.lanes > 0).for_each(|list| list.passed += 1);
        let list = before.last_mut()?;
        list.passed = 0;
        list.turn(masked, most, groups)
    }

    fn lanes(&self) -> usize {
        self.0.iter().map(|list| list.lanes).sum()
    }
}

#[derive(Debug)]
struct OfCore {
    lists: IrqLock<Lists>,
    /// How many lanes are in the lists, for those who do not hold them.
    lanes: AtomicUsize,
    // Written by the core alone, masked.
    groups: Count,
    turns: Count,
    stolen: Count,
    wakes: Count,
    handed_over: Count,
}

/// What was done on all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkCounts {
    /// Groups taken.
    pub groups: u64,
    /// Turns in which they were taken.
    pub turns: u64,
    /// Turns out of another core's lists.
    pub stolen: u64,
    /// Sleeping cores woken.
    pub wakes: u64,
    /// Streams with groups that a core that left had in its lists.
    pub handed_over: u64,
}

/// Interrupts a core that rests, and does not wait for it. Stores before it have to be visible to that core (DSB ISHST before
/// the SGI).
pub type WakeCore = Box<dyn Fn(&Masked, CoreId) + Send + Sync>;

/// The work that interrupt handlers leave to cores with time: deferred groups, by core, priority and stream.
pub struct WorkQueues {
    cores: PerCore<OfCore>,
    /// The cores that sleep, or are about to, and have not been woken: a bit each.
    resting: AtomicU32,
    wake: WakeCore,
}

impl WorkQueues {
    /// Empty queues, which wake cores that rest by `wake`.
    pub fn new(wake: WakeCore) -> Self {
        let cores = PerCore::new(|| OfCore {
            lists: IrqLock::new(Lists::default()),
            lanes: AtomicUsize::new(0),
            groups: Count::new(0),
            turns: Count::new(0),
            stolen: Count::new(0),
            wakes: Count::new(0),
            handed_over: Count::new(0),
        });
        Self { cores, resting: AtomicU32::new(0), wake }
    }

    /// Has a core with time [serve](super::FaultHandler::serve) `group`, after those of its stream that wait already. A core
    /// that rests is woken.
    ///
    /// Does not allocate, and waits for no more than the locks of these queues.
    pub fn push(&self, masked: &Masked, group: FaultGroup) {
        // Whoever takes the group out of its lane may let go of the stream.
        let lane = &group.state().during(masked).lane;
        let Some(stream) = lane.push(masked, group) else { return };
        let core = first(self.resting.load(Relaxed), masked.core()).unwrap_or(masked.core());
        let of_core = self.cores.of(core);
        let mut lists = of_core.lists.lock(masked);
        if let Some(list) = lists.0.get_mut(stream.limits.priority as usize) {
            list.push(masked, stream);
        }
        of_core.lanes.store(lists.lanes(), Relaxed);
        drop(lists);
        self.wake_one(masked, core);
    }

    /// One turn: takes the groups that are due and serves those that still wait. Returns how many were taken.
    pub fn work(&self, cpu: &Cpu) -> usize {
        self.work_with(cpu, BUDGET)
    }

    /// As [`work`](Self::work), with one group: what is behind it stays where other cores find it.
    pub fn work_one(&self, cpu: &Cpu) -> usize {
        self.work_with(cpu, 1)
    }

    fn work_with(&self, cpu: &Cpu, most: usize) -> usize {
        let mut groups = Turn::new();
        let Some(stream) = cpu.masked(|masked| self.turn(masked, most, &mut groups)) else { return 0 };
        let count = groups.len();
        // A group that was refused for its time, or whose stream was closed, wants no answer: nothing is brought in for it.
        let serve = |group: FaultGroup| {
            let special = group.special().cloned();
            let handler = special.as_ref().map_or(&*stream.handler, |special| &*special.handler);
            // One that panics has dropped its group, and no other.
            survive(|| handler.serve(cpu, group)).flatten()
        };
        let mut served = heapless::Vec::<_, BUDGET>::new();
        served.extend(groups.drain(..).filter(FaultGroup::is_waiting).filter_map(serve));
        cpu.masked(|masked| respond_all(masked, stream, &mut served));
        count
    }

    /// Whether a core has something to do here.
    pub fn is_waiting(&self) -> bool {
        self.cores.iter().any(|(_, of_core)| of_core.lanes.load(Relaxed) > 0)
    }

    /// Says that this core is about to sleep, until [`end_rest`](Self::end_rest), and returns whether there is work after all. An
    /// interrupt from `wake` has to end that sleep, also if it comes before.
    #[must_use = "with work waiting, nobody wakes a core that sleeps"]
    pub fn begin_rest(&self, masked: &Masked) -> bool {
        self.resting.fetch_or(bit(masked.core()), Relaxed);
        if !mutant!("rest_without_fence") {
            // Pairs with the fence in `wake_one`.
            fence(SeqCst);
        }
        self.is_waiting()
    }

    /// This core is up. It looks for work before it rests again.
    pub fn end_rest(&self, masked: &Masked) {
        self.resting.fetch_and(!bit(masked.core()), Relaxed);
    }

    /// This core leaves: what is in its lists goes behind what `to` has in its own. It neither pushes nor rests before it is back.
    /// Who saw it rest may still put a lane into its lists; that is found as with a core that is busy.
    pub fn hand_over(&self, masked: &Masked, to: CoreId) {
        let here = self.cores.here(masked);
        let mut ours = here.lists.lock(masked);
        let Lists(lists) = core::mem::take(&mut *ours);
        here.lanes.store(0, Relaxed);
        // Nobody holds the lists of two cores.
        drop(ours);
        let of_core = self.cores.of(to);
        let mut theirs = of_core.lists.lock(masked);
        for (list, left) in theirs.0.iter_mut().zip(lists) {
            count(&here.handed_over, left.lanes as u64);
            list.append(masked, left);
        }
        of_core.lanes.store(theirs.lanes(), Relaxed);
        drop(theirs);
        if self.is_waiting() {
            self.wake_one(masked, to);
        }
    }

    /// What was done until now.
    pub fn counts(&self) -> WorkCounts {
        self.cores.iter().fold(WorkCounts::default(), |sum, (_, of_core)| WorkCounts {
            groups: sum.groups + of_core.groups.load(Relaxed),
            turns: sum.turns + of_core.turns.load(Relaxed),
            stolen: sum.stolen + of_core.stolen.load(Relaxed),
            wakes: sum.wakes + of_core.wakes.load(Relaxed),
            handed_over: sum.handed_over + of_core.handed_over.load(Relaxed),
        })
    }

    fn turn(&self, masked: &Masked, most: usize, groups: &mut Turn) -> Option<Ref<FaultState>> {
        let here = self.cores.here(masked);
        // In its place among the turns the core begins with itself, else with each other core in its place.
        let turn = here.turns.load(Relaxed) as u32;
        let start = if turn % OWN_TURNS == OWN_TURNS - 1 { turn / OWN_TURNS } else { 0 } as usize;
        let order = (0..MAX_CORES).map(|offset| (masked.core().index() + start + offset) % MAX_CORES);
        let (core, stream) = order.filter_map(CoreId::new).find_map(|core| {
            let of_core = self.cores.of(core);
            if of_core.lanes.load(Relaxed) == 0 {
                return None;
            }
            let mut lists = of_core.lists.lock(masked);
            let stream = lists.turn(masked, most, groups)?;
            of_core.lanes.store(lists.lanes(), Relaxed);
            Some((core, stream))
        })?;
        count(&here.turns, 1);
        count(&here.groups, groups.len() as u64);
        count(&here.stolen, u64::from(core != masked.core()));
        // With a core at rest, no lane waits for this one.
        if self.is_waiting() {
            self.wake_one(masked, core);
        }
        Some(stream)
    }

    /// Wakes a core that rests, if there is one: `preferred` if it does.
    fn wake_one(&self, masked: &Masked, preferred: CoreId) {
        if !mutant!("wake_without_fence") {
            // Pairs with the fence in `begin_rest`: either that core sees the lane, or this one sees that it rests.
            fence(SeqCst);
        }
        loop {
            let resting = self.resting.load(Relaxed);
            let preferred = Some(preferred).filter(|&core| resting & bit(core) != 0 && core != masked.core());
            let Some(core) = preferred.or_else(|| first(resting, masked.core())) else { return };
            // The next lane is for another core. Who loses this core to somebody else looks again, at fewer.
            if self.resting.fetch_and(!bit(core), Relaxed) & bit(core) != 0 {
                count(&self.cores.here(masked).wakes, 1);
                (self.wake)(masked, core);
                return;
            }
        }
    }
}

impl fmt::Debug for WorkQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueues").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

fn bit(core: CoreId) -> u32 {
    1 << core.index()
}

/// The first core in `set` but `here`, which is up, whatever it said before an interrupt.
fn first(set: u32, here: CoreId) -> Option<CoreId> {
    CoreId::all().find(|&core| set & bit(core) != 0 && core != here)
}

fn count(counter: &Count, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}
