//! Objects that wait for their grace period, on one stack that takes single pushes and is taken as a whole.
//!
//! Taking the whole leaves no room for the ABA problem, pushing works in any context and never waits, and a core
//! that goes offline has nothing to hand over.

use alloc::sync::Arc;
use core::ptr::{self, NonNull};

use super::super::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};
use super::super::mutant::mutant;
use super::Domain;

/// The head of every object that can be retired.
///
/// `next` is written by who owns the object: who retires it, then who holds the keeper. The stack's head and the lock order that.
#[derive(Debug)]
pub(super) struct Link {
    next: AtomicPtr<Link>,
    free: unsafe fn(NonNull<Link>),
    /// This link, by the pointer that its object was allocated as: a shared reference's may not free it.
    origin: NonNull<Link>,
    domain: Arc<Domain>,
}

// SAFETY: `origin` is an address that only `retire` uses, whose caller owns the object; the rest is Send.
unsafe impl Send for Link {}
// SAFETY: as above; shared, the rest is only read or atomic.
unsafe impl Sync for Link {}

impl Link {
    /// The link of an object of `domain`.
    ///
    /// # Safety
    ///
    /// `free` frees the object that the link heads, given that nobody else uses it, on any thread.
    pub(super) unsafe fn new(domain: Arc<Domain>, free: unsafe fn(NonNull<Link>)) -> Self {
        Self { next: AtomicPtr::new(ptr::null_mut()), free, origin: NonNull::dangling(), domain }
    }

    /// Tells a link where its object was allocated.
    ///
    /// # Safety
    ///
    /// `link` heads an object that is the caller's alone, and has the allocation's provenance.
    pub(super) unsafe fn set_origin(mut link: NonNull<Self>) {
        // SAFETY: by the caller's word nobody else uses it.
        unsafe { link.as_mut() }.origin = link;
    }

    pub(super) const fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// Hands the object that `link` heads to its domain, to be freed after a grace period.
    ///
    /// # Safety
    ///
    /// `link` heads an object that has its origin set. It is in no slot, no reference to it is left and none can be
    /// had: only read sections that are open by now may still use it.
    pub(super) unsafe fn retire(link: NonNull<Self>) {
        // SAFETY: nobody frees the object before it is pushed.
        let head = unsafe { link.as_ref() };
        // The object may be gone as soon as it is pushed, and with it the last other owner of the domain.
        let domain = Arc::clone(&head.domain);
        domain.counters.retired.fetch_add(1, Release);
        // SAFETY: the object is the caller's alone, and it gives it away.
        unsafe { domain.retired.push(head.origin) };
    }
}

/// The stack.
#[derive(Debug)]
pub(super) struct Retired {
    head: AtomicPtr<Link>,
}

impl Retired {
    pub(super) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }

    /// # Safety
    ///
    /// `link` is the origin of a retired object, which the caller owns and gives away.
    unsafe fn push(&self, link: NonNull<Link>) {
        // SAFETY: the caller owns the object until the exchange below succeeds.
        let own = unsafe { link.as_ref() };
        let order = if mutant!("push_relaxed") { Relaxed } else { Release };
        let mut head = self.head.load(Relaxed);
        loop {
            own.next.store(head, Relaxed);
            // Release: pairs with the acquire in `take`, for `next`, all that was done to the object, and that it is in no slot.
            match self.head.compare_exchange_weak(head, link.as_ptr(), order, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes everything.
    pub(super) fn take(&self) -> Chain {
        let order = if mutant!("take_unread") { Relaxed } else { Acquire };
        Chain { head: NonNull::new(self.head.swap(ptr::null_mut(), order)) }
    }

    /// A hint for who did not retire something itself.
    pub(super) fn is_empty(&self) -> bool {
        self.head.load(Relaxed).is_null()
    }
}

/// Retired objects with one owner.
///
/// Invariant: `head` is none or heads an object that the chain owns, as do the links that follow from it.
#[derive(Debug, Default)]
#[must_use = "dropping it leaks what it owns"]
pub(super) struct Chain {
    head: Option<NonNull<Link>>,
}

// SAFETY: the objects are the chain's alone, and any thread may free them (`Link::new`).
unsafe impl Send for Chain {}

impl Chain {
    fn pop(&mut self) -> Option<NonNull<Link>> {
        let link = self.head?;
        // SAFETY: by the invariant.
        self.head = NonNull::new(unsafe { link.as_ref() }.next.load(Relaxed));
        Some(link)
    }

    fn push(&mut self, link: NonNull<Link>) {
        let next = self.head.map_or(ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: `link` was popped from a chain, which owned it.
        unsafe { link.as_ref() }.next.store(next, Relaxed);
        self.head = Some(link);
    }
}

/// Retired objects whose grace period is over.
#[derive(Debug, Default)]
#[must_use = "dropping it leaks what it owns"]
pub(super) struct Due(Chain);

impl Due {
    /// Adds what waited for a period that has ended now.
    pub(super) fn add(&mut self, mut chain: Chain) {
        // Most often it is empty: who ends a period mostly frees.
        if self.0.head.is_none() {
            self.0 = chain;
            return;
        }
        while let Some(link) = chain.pop() {
            self.0.push(link);
        }
    }

    /// Frees them, and returns how many they were.
    pub(super) fn free(mut self) -> u64 {
        let mut freed = 0;
        while let Some(link) = self.0.pop() {
            // SAFETY: the chain owned the object, and the period after its retirement is over: the last section that
            // could find it has ended.
            unsafe { (link.as_ref().free)(link) };
            freed += 1;
        }
        freed
    }
}
