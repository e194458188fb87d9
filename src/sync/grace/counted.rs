//! Objects with a reference count and a grace period, and the slots that they are found in.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use super::super::Masked;
use super::super::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};
use super::super::mutant::mutant;
use super::super::refcount::{Get, RefCount};
use super::retired::Link;
use super::{Domain, ReadGuard};

/// The heap has no room for another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {bytes} bytes left on the heap")]
pub struct NoMemory {
    /// The size of the object, in bytes.
    pub bytes: usize,
}

/// An object on the heap that [`Ref`]s own together, and that outlives the last by a grace period.
#[repr(C)]
#[derive(Debug)]
pub struct Counted<T> {
    // First, so that a pointer to the one is a pointer to the other.
    link: Link,
    references: RefCount,
    value: T,
}

impl<T: fmt::Debug> Counted<T> {
    /// One more reference, which outlives the read section; `None` if the last is gone already.
    pub fn try_ref(&self) -> Option<Ref<T>> {
        self.count_more(1).then(|| Ref { object: NonNull::from(self) })
    }

    /// Whether there was one left.
    fn count_more(&self, more: u32) -> bool {
        let got = self.references.try_get(more);
        if got == Get::Saturated {
            self.link.domain().counters.leaked.fetch_add(1, Relaxed);
            log::error!("{:?} has too many references, and will never be freed", self.value);
        }
        got != Get::Gone
    }
}

impl<T> Counted<T> {
    /// How many references there are at some moment, for reports.
    pub fn references(&self) -> u32 {
        self.references.count()
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Owns one reference to a [`Counted`] object.
///
/// It may be dropped anywhere, at once: dropping the last one retires the object, and [`Domain::poll`] frees it.
pub struct Ref<T> {
    // Invariant: an object made by `Ref::new`, in which one reference is this one's.
    object: NonNull<Counted<T>>,
}

// SAFETY: a `Ref` lets several threads use the `T` (Sync), and another thread than its maker's drop it (Send).
unsafe impl<T: Send + Sync> Send for Ref<T> {}
// SAFETY: as above; from a shared `Ref` a thread can take one of its own.
unsafe impl<T: Send + Sync> Sync for Ref<T> {}

impl<T: Send + Sync + 'static> Ref<T> {
    /// Puts `value` on the heap, with one reference to it, to be freed under the grace periods of `domain`.
    ///
    /// # Errors
    ///
    /// [`NoMemory`] when the heap is full; `value` is dropped.
    pub fn new(domain: &Arc<Domain>, value: T) -> Result<Self, NoMemory> {
        Self::with_references(domain, value, 1)
    }

    /// An object that counts `references`, of which the caller gets one.
    pub(super) fn with_references(domain: &Arc<Domain>, value: T, references: u32) -> Result<Self, NoMemory> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(1).map_err(|_| NoMemory { bytes: size_of::<Counted<T>>() })?;
        memory.push(Counted {
            // SAFETY: `free` frees a `Counted<T>`, which this link heads; T is Send, so any thread may drop it.
            link: unsafe { Link::new(Arc::clone(domain), free::<T>) },
            references: RefCount::new(references),
            value,
        });
        // A boxed slice of one object has the layout of a boxed object.
        let object = Box::into_raw(memory.into_boxed_slice()).cast::<Counted<T>>();
        // SAFETY: `object` comes from a box, so it is no null pointer.
        let object = unsafe { NonNull::new_unchecked(object) };
        // SAFETY: nobody else knows the object yet.
        unsafe { Link::set_origin(object.cast()) };
        domain.counters.created.fetch_add(1, Relaxed);
        Ok(Self { object })
    }
}

/// Frees a `Counted<T>`.
///
/// # Safety
///
/// `link` is the origin of one made by [`Ref::new`] as this type, and nobody uses it any more.
unsafe fn free<T>(link: NonNull<Link>) {
    // SAFETY: the memory came from a box with this layout, and by the caller's word nobody else uses it.
    let object = unsafe { Box::from_raw(link.cast::<Counted<T>>().as_ptr()) };
    #[cfg(not(loom))]
    drop(object);
    // Under loom the value is dropped and its memory stays, so that it is loom that meets a late reader, not the heap.
    #[cfg(loom)]
    {
        let object = Box::into_raw(object);
        // SAFETY: as above; the memory is never used again.
        unsafe { ptr::drop_in_place(object) };
    }
}

impl<T> Ref<T> {
    /// The object, as long as interrupts are masked, whoever gets this reference meanwhile.
    pub fn during<'m>(&self, masked: &'m Masked) -> &'m Counted<T> {
        let _section = self.link.domain().read(masked);
        // SAFETY: the object was not retired when the section began, so it is freed in a period that does not end before the
        // section does. That is when `masked` ends: nobody can say before then that this core is quiescent.
        unsafe { self.object.as_ref() }
    }
}

/// References to one object that are taken, or given back, by one exchange.
///
/// ```
/// # use smmu_iopf::sync::{CoreId, Cpu, grace::{Domain, Ref, Stock}};
/// # let domain = std::sync::Arc::new(Domain::new());
/// # // SAFETY: the only core.
/// # let cpu = unsafe { Cpu::new(CoreId::FIRST) };
/// let object = Ref::new(&domain, 7)?;
/// cpu.masked(|masked| {
///     let mut stock = Stock::new(object.during(masked));
///     let taken: Vec<_> = (0..3).filter_map(|_| stock.take(3)).collect();
///     assert_eq!(object.references(), 4);
///     taken.into_iter().for_each(|reference| assert!(stock.put(reference).is_ok()));
///     drop(stock);
///     assert_eq!(object.references(), 1);
/// });
/// # Ok::<_, smmu_iopf::sync::grace::NoMemory>(())
/// ```
#[derive(Debug)]
pub struct Stock<'g, T> {
    /// Of its references `count` are the stock's.
    object: &'g Counted<T>,
    count: u32,
}

impl<'g, T> Stock<'g, T> {
    /// An empty stock for an object that a read section keeps.
    pub const fn new(object: &'g Counted<T>) -> Self {
        Self { object, count: 0 }
    }

    /// Puts a reference into it; hands it back if it is to another object.
    ///
    /// # Errors
    ///
    /// The reference.
    pub fn put(&mut self, reference: Ref<T>) -> Result<(), Ref<T>> {
        if !ptr::eq(&raw const *reference, self.object) {
            return Err(reference);
        }
        // It is counted here from now on.
        core::mem::forget(reference);
        self.count += 1;
        Ok(())
    }
}

impl<T: fmt::Debug> Stock<'_, T> {
    /// A reference out of the stock, which is filled up with `at_once` (at least 1) when it is empty; `None` if the object's last
    /// is gone already.
    pub fn take(&mut self, at_once: u32) -> Option<Ref<T>> {
        if self.count == 0 && self.object.count_more(at_once) {
            self.count = at_once;
        }
        self.count = self.count.checked_sub(1)?;
        Some(Ref { object: NonNull::from(self.object) })
    }
}

impl<T> Drop for Stock<'_, T> {
    fn drop(&mut self) {
        if self.count > 0 && self.object.references.put(self.count) {
            // SAFETY: as for a `Ref`: these were the last references.
            unsafe { Link::retire(NonNull::from(self.object).cast()) };
        }
    }
}

impl<T: fmt::Debug> Clone for Ref<T> {
    fn clone(&self) -> Self {
        let is_counted = self.count_more(1);
        // This one is counted, so the count is not 0.
        debug_assert!(is_counted);
        Self { object: self.object }
    }
}

impl<T> Deref for Ref<T> {
    type Target = Counted<T>;

    fn deref(&self) -> &Counted<T> {
        // SAFETY: the object lives as long as this reference to it is counted.
        unsafe { self.object.as_ref() }
    }
}

impl<T> Drop for Ref<T> {
    fn drop(&mut self) {
        if self.references.put(1) {
            // SAFETY: this was the last reference. A slot owns one, so the object is in no slot, and from 0 none is to
            // be had.
            unsafe { Link::retire(self.object.cast()) };
        }
    }
}

impl<T> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ref").field(&self.object).finish()
    }
}

/// A place where read sections find an object, or none. It owns one reference to what is in it.
pub struct Slot<T> {
    // Invariant: null, or an object of `domain` in which one reference is the slot's.
    object: AtomicPtr<Counted<T>>,
    domain: Arc<Domain>,
}

impl<T> Slot<T> {
    /// An empty slot for objects of `domain`.
    pub fn new(domain: Arc<Domain>) -> Self {
        Self { object: AtomicPtr::new(ptr::null_mut()), domain }
    }

    /// What is in the slot; it stays as long as the read section `guard` is open. `None` if it is empty, or if `guard` is
    /// another domain's, and protects nothing here.
    pub fn load<'g>(&self, guard: &'g ReadGuard<'_>) -> Option<&'g Counted<T>> {
        if !ptr::eq(guard.domain, &*self.domain) {
            return None;
        }
        // Acquire: pairs with the release in `publish`.
        let order = if mutant!("slot_unread") { Relaxed } else { Acquire };
        let object = NonNull::new(self.object.load(order))?;
        // SAFETY: the object was in the slot after the section began, so it is freed in a period that has not ended before
        // the section does.
        Some(unsafe { object.as_ref() })
    }

    /// Puts an object into the empty slot. From now on read sections find it, with all that was done to it before.
    ///
    /// # Errors
    ///
    /// Hands it back if the slot is not empty, or if the object is another domain's.
    pub fn publish(&self, object: Ref<T>) -> Result<(), Ref<T>> {
        if !Arc::ptr_eq(object.link.domain(), &self.domain) {
            return Err(object);
        }
        // Release: pairs with the acquire in `load` and `unpublish`.
        let order = if mutant!("publish_relaxed") { Relaxed } else { Release };
        match self.object.compare_exchange(ptr::null_mut(), object.object.as_ptr(), order, Relaxed) {
            Ok(_) => {
                // Its reference is the slot's now.
                core::mem::forget(object);
                Ok(())
            }
            Err(_) => Err(object),
        }
    }

    /// Empties the slot, and returns what was in it. Read sections that are open by now may still use it.
    pub fn unpublish(&self) -> Option<Ref<T>> {
        // Acquire: pairs with the release in `publish`. No release: who finds the slot empty, learns nothing by that, and what
        // orders it before a period is the push of what is retired, or `need`.
        let order = if mutant!("unpublish_unread") { Relaxed } else { Acquire };
        let object = NonNull::new(self.object.swap(ptr::null_mut(), order))?;
        // The slot's reference is the caller's now.
        Some(Ref { object })
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        drop(self.unpublish());
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.object).finish()
    }
}
