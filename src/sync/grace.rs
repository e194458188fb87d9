//! Grace periods: when an object may be freed that other cores may be reading.
//!
//! # The algorithm
//!
//! A *read section* is code that runs on a core while its interrupts are masked. It follows a pointer out of a
//! [`Slot`] and uses the object, and stores nothing. Between two sections a core is *quiescent*: it holds no such
//! pointer. An object that was taken out of its slot may be freed when every core has been quiescent since.
//!
//! Periods have numbers, and one runs at a time:
//!
//! ```text
//! retire    the object is in no slot any more;  it goes on a stack
//! start     the stack is the period's;  requested += 1;  fence;  note whether each core is present
//! core      quiescent -> acknowledged = requested
//! end       every core acknowledged this period, or was away, or has been away since  ->  done = its number;  its stack is free
//! wait      need = (read-modify-write of `requested`, adding 0) + 1;  until done >= need
//! ```
//!
//! `need` names the first period that starts after what the waiting core did before. It takes a read-modify-write: a load
//! might miss a period that has started. A core is *away* while it is idle or offline, and then nobody asks it.
//!
//! Three orders carry the proof. What was retired, or done before a wait, comes before the start: by the stack (release and
//! acquire) or by `requested` (likewise).
//!
//! 1. What a section read comes before the acknowledgement (release), and that before the look that ends the period
//!    (acquire). Who ends it frees, or hands that on by the lock; who waits sees it by `done` (release and acquire).
//! 2. A core that acknowledged a period has read its number (acquire). The number was written after the object was taken out
//!    of its slot (release), so later sections of that core do not find it.
//! 3. A core that comes back stores its presence, fences, and then reads slots. Who starts a period fences after the slot was
//!    emptied, and then looks at presence. Either the look sees the core, or the core sees the empty slot. Both fences are
//!    needed, and a `SeqCst` access in place of one would not do.
//!
//! A period lasts as long as the longest masked section, plus one interrupt where it is *expedited*: then the cores that it
//! waits for are sent one, at whose end they are quiescent. A core that never becomes quiescent blocks frees, never
//! correctness; [`GraceTimeout`] names it to who waits, [`Domain::stuck`] to the kernel.
//!
//! # What types prove
//!
//! A section's guard borrows a [`Masked`]. Whatever says "this core is quiescent" takes the core's [`Cpu`] mutably or an
//! interrupt handler's `Masked` by value, and neither is to be had while a guard lives.
//!
//! ```compile_fail,E0505
//! # use smmu_iopf::sync::{Masked, grace::Domain};
//! fn wrong(domain: &Domain, masked: Masked) {
//!     let guard = domain.read(&masked);
//!     domain.quiescent(masked);
//!     drop(guard);
//! }
//! ```

mod counted;
mod period;
mod retired;

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64 as Counter;

use embedded_hal::delay::DelayNs;
use spin::Once;

pub use counted::{Counted, NoMemory, Ref, Slot, Stock};

use super::atomic::{
    AtomicU64,
    Ordering::{self, Acquire, Relaxed, Release, SeqCst},
    fence,
};
use super::lock::IrqLock;
use super::mutant::mutant;
use super::per_core::PerCore;
use super::{CoreId, CoreSet, Cpu, Masked, wait};
use period::Period;
use retired::{Due, Retired};

/// With more objects waiting than this, [`Domain::poll`] expedites.
const MANY_WAITING: u64 = 32;

/// A set of cores, and the objects that they share under grace periods. A kernel has one.
#[derive(Debug)]
pub struct Domain {
    /// The number of the period that started last.
    requested: AtomicU64,
    /// The number of the period that ended last.
    done: AtomicU64,
    cores: PerCore<Core>,
    keeper: IrqLock<Keeper>,
    retired: Retired,
    kick: Once<fn(CoreId)>,
    counters: Counters,
}

/// Whoever looks after periods, holds it.
#[derive(Debug, Default)]
struct Keeper {
    /// The period that runs.
    running: Option<Period>,
    /// What nobody has freed yet.
    due: Due,
}

/// What a core says of itself. Only that core writes it, masked, by plain stores.
#[derive(Debug)]
struct Core {
    /// The last period in which the core was quiescent. It only grows, and never passes `requested`.
    acknowledged: AtomicU64,
    /// How often the core came or went: odd while it is present, even while it is idle or offline.
    presence: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    expedited: Counter,
    stuck: Counter,
    created: Counter,
    retired: Counter,
    freed: Counter,
    leaked: Counter,
}

/// How a [`Domain`] is doing: totals since it was made, each read at its own moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Periods that ended.
    pub periods: u64,
    /// Periods in which cores were interrupted to be done sooner.
    pub expedited: u64,
    /// Periods in which a core was named by [`Domain::stuck`].
    pub stuck: u64,
    /// Objects made.
    pub created: u64,
    /// Objects whose last reference was dropped.
    pub retired: u64,
    /// Objects freed.
    pub freed: u64,
    /// Objects whose reference count saturated: they are live for ever.
    pub leaked: u64,
}

impl Stats {
    /// Objects that somebody holds a reference to.
    pub const fn live(&self) -> u64 {
        self.created.saturating_sub(self.retired)
    }

    /// Objects retired and not freed yet.
    pub const fn pending(&self) -> u64 {
        self.retired.saturating_sub(self.freed)
    }

    /// Objects that take up memory, live or pending.
    pub const fn in_memory(&self) -> u64 {
        self.created.saturating_sub(self.freed)
    }
}

/// Proof that a whole grace period has passed: no core still uses what was out of its reach before.
///
/// It says nothing of hardware that reads tables on its own: for that it is what invalidating them begins with, and only
/// what comes out of that frees their memory.
///
/// ```compile_fail,E0423
/// let forged = smmu_iopf::sync::grace::Grace(());
/// ```
#[derive(Debug)]
#[must_use = "it is the permission to begin taking memory back from an SMMU"]
pub struct Grace(());

#[cfg(loom)]
impl Grace {
    /// What a mistake under test has instead of a proof.
    pub(crate) fn forged() -> Self {
        Self(())
    }
}

/// Cores that were in a read section all the time, or busy without a quiescent point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grace period held up by {holding} for {waited_us} us")]
pub struct GraceTimeout {
    /// The cores still waited for.
    pub holding: CoreSet,
    /// How long was waited, in microseconds.
    pub waited_us: u32,
}

/// Cores that have held a period up for long: what was retired is not freed meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grace period {period} is held up by {holding} for {for_us} us")]
pub struct Stuck {
    /// The period's number.
    pub period: u64,
    /// The cores.
    pub holding: CoreSet,
    /// Since when, in microseconds before now.
    pub for_us: u64,
}

/// An open read section: what was loaded from a [`Slot`] stays, until this is dropped.
#[derive(Debug)]
#[must_use = "objects may be used only as long as the guard lives"]
pub struct ReadGuard<'a> {
    domain: &'a Domain,
    // Keeps the guard on this core, and inside the masked section.
    masked: PhantomData<&'a Masked>,
}

impl Default for Domain {
    fn default() -> Self {
        Self::new()
    }
}

impl Domain {
    /// A domain with every core offline.
    pub fn new() -> Self {
        Self {
            requested: AtomicU64::new(0),
            done: AtomicU64::new(0),
            cores: PerCore::new(|| Core { acknowledged: AtomicU64::new(0), presence: AtomicU64::new(0) }),
            keeper: IrqLock::new(Keeper::default()),
            retired: Retired::new(),
            kick: Once::new(),
            counters: Counters::default(),
        }
    }

    /// Tells how to interrupt another core. Only the first call counts; without it, periods are never expedited.
    ///
    /// `kick` is called masked and must not wait. Stores before it have to be visible to the interrupted core (DSB ISHST
    /// before the SGI). The core has to end the interrupt in [`quiescent`](Self::quiescent).
    pub fn set_expedite(&self, kick: fn(CoreId)) {
        self.kick.call_once(|| kick);
    }

    /// This core takes part from now on.
    pub fn online(&self, cpu: &mut Cpu) {
        cpu.masked(|masked| self.come(masked));
    }

    /// This core takes no part until it comes back. It leaves nothing behind: what it retired, others free.
    pub fn offline(&self, cpu: &mut Cpu) {
        cpu.masked(|masked| self.go(masked));
    }

    /// Calls `sleep` with interrupts masked, unless `has_work` says that there is something to do; no period waits for
    /// this core meanwhile.
    ///
    /// `sleep` is WFI, which an interrupt ends although it is masked. It is taken when the core counts as present again, so
    /// that its handler can read. `has_work` comes after masking, so that nothing that an interrupt brings is slept over.
    pub fn idle(&self, cpu: &mut Cpu, has_work: impl FnOnce(&Masked) -> bool, sleep: impl FnOnce()) {
        cpu.masked(|masked| {
            if !has_work(masked) {
                self.go(masked);
                sleep();
                self.come(masked);
            }
        });
    }

    /// Opens a read section, until the guard is dropped.
    ///
    /// On a core that is away it brings the core back first, so that forgetting [`online`](Self::online) delays periods but
    /// never frees what is read.
    pub fn read<'a>(&'a self, masked: &'a Masked) -> ReadGuard<'a> {
        if !mutant!("read_while_away") {
            self.come(masked);
        }
        ReadGuard { domain: self, masked: PhantomData }
    }

    /// This core holds no object: what an interrupt handler says with its last breath.
    pub fn quiescent(&self, masked: Masked) {
        self.acknowledge(&masked);
    }

    /// Waits until a whole period has passed, interrupting cores that hold it up, for at most `limit_us` microseconds.
    ///
    /// This core goes on acknowledging meanwhile, so several may wait at once.
    ///
    /// # Errors
    ///
    /// [`GraceTimeout`] names the cores that were not quiescent in time.
    pub fn synchronize(&self, cpu: &mut Cpu, delay: &mut impl DelayNs, limit_us: u32) -> Result<Grace, GraceTimeout> {
        let need = if mutant!("grace_not_waited_for") { 0 } else { self.need() };
        wait::until(delay, limit_us, || {
            let holding = self.advance(cpu, need, true, |_, holding| holding);
            if self.done.load(done_order()) >= need { Ok(Grace(())) } else { Err(holding) }
        })
        .map_err(|expired| GraceTimeout { holding: expired.last, waited_us: expired.waited_us })
    }

    /// Says that this core is quiescent, moves the period on, and frees what is due; returns how many objects that was.
    ///
    /// Objects are dropped here, at thread level with interrupts as they are. Every core should come by regularly.
    pub fn poll(&self, cpu: &mut Cpu) -> usize {
        // A hint: what this core has retired counts here, by its next poll or a later one.
        let waiting = self.counters.retired.load(Relaxed).saturating_sub(self.counters.freed.load(Relaxed));
        if waiting == 0 {
            cpu.masked(|masked| self.acknowledge(masked));
            return 0;
        }
        let due = self.advance(cpu, 0, waiting > MANY_WAITING, |keeper, _| core::mem::take(&mut keeper.due));
        let freed = due.free();
        self.counters.freed.fetch_add(freed, Release);
        freed as usize
    }

    /// Names the cores that have held the running period up for `after_us` microseconds, once a period. For the kernel's
    /// regular round, with the time in microseconds from any beginning; a period's time starts with the first call in it.
    pub fn stuck(&self, cpu: &Cpu, now_us: u64, after_us: u64) -> Option<Stuck> {
        cpu.masked(|masked| {
            let stuck = self.keeper.try_lock(masked)?.running.as_mut()?.stuck(&self.cores, now_us, after_us)?;
            self.counters.stuck.fetch_add(1, Relaxed);
            Some(stuck)
        })
    }

    /// How the domain is doing.
    pub fn stats(&self) -> Stats {
        // Later stages first (acquire, each with the release of its count), so that no object is counted in a stage without
        // being counted in those before it.
        let freed = self.counters.freed.load(Acquire);
        let retired = self.counters.retired.load(Acquire);
        Stats {
            periods: self.done.load(Relaxed),
            expedited: self.counters.expedited.load(Relaxed),
            stuck: self.counters.stuck.load(Relaxed),
            created: self.counters.created.load(Relaxed),
            retired,
            freed,
            leaked: self.counters.leaked.load(Relaxed),
        }
    }

    /// The first period that starts after what this core did until now.
    fn need(&self) -> u64 {
        if mutant!("need_by_load") {
            return self.requested.load(Acquire) + 1;
        }
        // A read-modify-write reads the latest number. Release: what came before it comes before every later period.
        self.requested.fetch_add(0, if mutant!("need_relaxed") { Relaxed } else { Release }) + 1
    }

    fn come(&self, masked: &Masked) {
        let presence = &self.cores.here(masked).presence;
        let before = presence.load(Relaxed);
        if before.is_multiple_of(2) {
            // Release: it may be the first that a period sees of this core's having been away.
            let order = if mutant!("come_relaxed") { Relaxed } else { Release };
            presence.store(before + 1, order);
            if !mutant!("come_without_fence") {
                // Pairs with the fence in `advance`.
                fence(SeqCst);
            }
        }
    }

    fn go(&self, masked: &Masked) {
        let presence = &self.cores.here(masked).presence;
        let before = presence.load(Relaxed);
        if !before.is_multiple_of(2) {
            let order = if mutant!("go_relaxed") { Relaxed } else { Release };
            // Release: the reads of this core's sections come before the look that finds it away.
            presence.store(before + 1, order);
        }
    }

    fn acknowledge(&self, masked: &Masked) {
        let core = self.cores.here(masked);
        // Acquire: pairs with the release of who asked for the period, so that later sections find the slots as they were
        // then. No fence is needed for that.
        let order = if mutant!("acknowledge_unread") { Relaxed } else { Acquire };
        let requested = self.requested.load(order);
        if core.acknowledged.load(Relaxed) != requested {
            // Release: pairs with the acquire in `Period::look`, for the reads of this core's sections until now.
            let order = if mutant!("acknowledge_relaxed") { Relaxed } else { Release };
            core.acknowledged.store(requested, order);
        }
    }

    /// Moves towards the end of period `need`, which is at most one later than the last one started, and of what was retired. `then`
    /// is told the cores that it now waits for.
    fn advance<R>(&self, cpu: &mut Cpu, need: u64, expedite: bool, then: impl FnOnce(&mut Keeper, CoreSet) -> R) -> R {
        cpu.masked(|masked| {
            let keeper = &mut *self.keeper.lock(masked);
            loop {
                // `cpu` is borrowed mutably: this core is quiescent.
                if !mutant!("wait_without_acknowledging") {
                    self.acknowledge(masked);
                }
                if let Some(ended) = keeper.running.take_if(|period| period.look(&self.cores).is_empty()) {
                    // Release: every core's sections come before what is done after waiting for this.
                    let order = if mutant!("done_relaxed") { Relaxed } else { Release };
                    self.done.store(ended.number(), order);
                    keeper.due.add(ended.into_retired());
                }
                if let Some(period) = &mut keeper.running {
                    if let Some(kick) = self.kick.get()
                        && period.expedite(expedite, *kick)
                    {
                        self.counters.expedited.fetch_add(1, Relaxed);
                    }
                    let holding = period.holding();
                    return then(keeper, holding);
                }
                if self.done.load(Relaxed) >= need && self.retired.is_empty() {
                    return then(keeper, CoreSet::EMPTY);
                }
                keeper.running = Some(self.start());
            }
        })
    }

    /// The next period, for what is on the stack by now. None runs, and the caller holds the keeper.
    fn start(&self) -> Period {
        let take = || self.retired.take();
        // Before the request: a core that has acknowledged it may find what is retired later.
        let retired = (!mutant!("taken_after_request")).then(take);
        // Release: who reads the number finds the slots as those who retired left them.
        let order = if mutant!("start_relaxed") { Relaxed } else { Release };
        let number = self.requested.fetch_add(1, order) + 1;
        if !mutant!("start_without_fence") {
            // Pairs with the fence in `come`: either the period sees that core, or that core sees the empty slot. Acquire, for each
            // `need` that this period satisfies, as well.
            fence(SeqCst);
        }
        Period::start(number, retired.unwrap_or_else(take), &self.cores)
    }
}

/// Acquire: pairs with the release in [`Domain::advance`], for every core's sections of before.
fn done_order() -> Ordering {
    if mutant!("done_unread") { Relaxed } else { Acquire }
}

#[cfg(all(test, not(loom)))]
mod tests;
