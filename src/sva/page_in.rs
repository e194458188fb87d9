//! Page-ins under way, so that faults that want one page bring it in once.
//!
//! The first fault leads. Another for the same page of the same address space waits, if the access that it needs is covered by
//! the leader's, and with the end of the page-in its group goes through again: it finds the page there, or, where the leader
//! failed, tries for itself. So what is shared is the page-in. A group's answer, deadline and claim stay its own, whatever
//! becomes of the leader's group meanwhile.

use alloc::vec::Vec;
use core::sync::atomic::AtomicU64 as Count;

use super::frames::FRAME_BYTES;
use crate::iopf::{FaultGroup, WorkQueues};
use crate::smmuv3::Access;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::lock::IrqLock;
use crate::sync::{MAX_CORES, Masked};

/// The most groups that wait in one address space. One more brings its page in by itself.
pub const WAITING: usize = 32;

/// The page-ins under way in one address space.
#[derive(Debug)]
pub struct PageIns {
    /// How many there are. A hint for those who do not hold the lock: who misses one brings the page in too, and one of both
    /// installs it.
    under_way: AtomicUsize,
    inside: IrqLock<Inside>,
    saved: Count,
}

#[derive(Debug)]
struct Inside {
    /// One for each core at most: a core brings in one page at a time.
    leaders: heapless::Vec<Leader, MAX_CORES>,
    /// At most [`WAITING`], for which there is room from the start. On the heap: address spaces are moved.
    waiting: Vec<(u64, FaultGroup)>,
}

#[derive(Debug)]
struct Leader {
    page: u64,
    access: Access,
}

/// What the holder of a group has to do for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "who leads has to tell when the page-in has ended"]
pub enum Step {
    /// Bring it in, and tell [`PageIns::end`].
    Lead,
    /// Bring it in without telling anyone: the page-in under way does not cover the access, or there is no room to wait.
    Alone,
    /// Nothing: the group was taken, and is served again when the page-in under way has ended.
    Wait,
}

impl Inside {
    fn is_covered(&self, page: u64, access: Access) -> bool {
        self.leaders.iter().any(|leader| leader.page == page && covers(leader.access, access))
    }
}

impl PageIns {
    /// `None` without memory.
    pub(super) fn new() -> Option<Self> {
        let mut waiting = Vec::new();
        waiting.try_reserve_exact(WAITING).ok()?;
        let inside = IrqLock::new(Inside { leaders: heapless::Vec::new(), waiting });
        Some(Self { under_way: AtomicUsize::new(0), inside, saved: Count::new(0) })
    }

    /// Joins `group` to the page-in of the page at `address` if one is under way that covers `access`, or begins one.
    pub fn join(&self, masked: &Masked, address: u64, access: Access, group: &mut Option<FaultGroup>) -> Step {
        let page = page_of(address);
        let mut inside = self.inside.lock(masked);
        if inside.is_covered(page, access) {
            if inside.waiting.len() >= WAITING {
                return Step::Alone;
            }
            inside.waiting.extend(group.take().map(|group| (page, group)));
            return Step::Wait;
        }
        let is_led = inside.leaders.iter().any(|leader| leader.page == page);
        if is_led || inside.leaders.push(Leader { page, access }).is_err() {
            return Step::Alone;
        }
        self.under_way.store(inside.leaders.len(), Relaxed);
        Step::Lead
    }

    /// Ends what [`Step::Lead`] began, with the page `is_there` or not: who waited goes through again, by `work`.
    pub fn end(&self, masked: &Masked, work: &WorkQueues, address: u64, is_there: bool) {
        let page = page_of(address);
        let mut inside = self.inside.lock(masked);
        inside.leaders.retain(|leader| leader.page != page);
        self.under_way.store(inside.leaders.len(), Relaxed);
        let mut index = 0;
        while let Some((waits_for, _)) = inside.waiting.get(index) {
            if *waits_for != page {
                index += 1;
                continue;
            }
            let (_, group) = inside.waiting.remove(index);
            self.saved.fetch_add(is_there.into(), Relaxed);
            work.push(masked, group);
        }
    }

    /// Whether any page-in is under way.
    pub fn are_under_way(&self) -> bool {
        self.under_way.load(Relaxed) > 0
    }

    /// Whether a page-in of the page at `address` is under way that covers `access`.
    pub fn is_under_way(&self, masked: &Masked, address: u64, access: Access) -> bool {
        self.are_under_way() && self.inside.lock(masked).is_covered(page_of(address), access)
    }

    /// How many groups found a page there because they had waited for another's page-in.
    pub fn saved(&self) -> u64 {
        self.saved.load(Relaxed)
    }
}

const fn page_of(address: u64) -> u64 {
    address / FRAME_BYTES as u64
}

const fn covers(one: Access, other: Access) -> bool {
    (one.read || !other.read)
        && (one.write || !other.write)
        && (one.execute || !other.execute)
        && (one.privileged || !other.privileged)
}
