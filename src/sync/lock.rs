//! A spin lock held only with interrupts masked.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use super::Masked;
use inner::{Inner, InnerGuard};

/// Mutual exclusion between cores, and with the interrupts of the same core.
///
/// Taking it asks for the proof that interrupts are masked, and the guard does not outlive the proof: an interrupt
/// handler that wants the lock can never have interrupted its holder. Sections are bounded; nothing waits in them
/// but for another such lock, and a drain for room in the command queue (`docs/concurrency.md`).
///
/// ```compile_fail,E0597
/// # use smmu_iopf::sync::{Cpu, lock::IrqLock};
/// fn wrong(cpu: &Cpu, lock: &IrqLock<u32>) {
///     let mut kept = None;
///     cpu.masked(|masked| kept = Some(lock.lock(masked)));
/// }
/// ```
#[derive(Debug)]
pub struct IrqLock<T>(Inner<T>);

impl<T> IrqLock<T> {
    /// A free lock around `value`.
    #[cfg(not(any(loom, shuttle)))]
    pub const fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    /// A free lock around `value`.
    #[cfg(any(loom, shuttle))]
    pub fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    /// Waits until the lock is free, and holds it until the guard is dropped.
    pub fn lock<'a>(&'a self, _: &'a Masked) -> Guard<'a, T> {
        Guard { inner: inner::lock(&self.0), masked: PhantomData }
    }

    /// Holds the lock until the guard is dropped, or `None` if another core has it.
    pub fn try_lock<'a>(&'a self, _: &'a Masked) -> Option<Guard<'a, T>> {
        Some(Guard { inner: inner::try_lock(&self.0)?, masked: PhantomData })
    }
}

/// Holds an [`IrqLock`].
#[derive(Debug)]
#[must_use = "the lock is free again as soon as the guard is dropped"]
pub struct Guard<'a, T> {
    inner: InnerGuard<'a, T>,
    // Keeps the guard on this core, and inside the masked section.
    masked: PhantomData<&'a Masked>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(not(any(loom, shuttle)))]
mod inner {
    use spin::mutex::{SpinMutex, SpinMutexGuard};

    /// How a core waits for the lock: see [`pause`](crate::sync::pause).
    #[derive(Debug)]
    pub(super) struct Pause;

    impl spin::RelaxStrategy for Pause {
        fn relax() {
            crate::sync::pause();
        }
    }

    pub(super) type Inner<T> = SpinMutex<T, Pause>;
    pub(super) type InnerGuard<'a, T> = SpinMutexGuard<'a, T, Pause>;

    pub(super) fn lock<T>(inner: &Inner<T>) -> InnerGuard<'_, T> {
        inner.lock()
    }

    pub(super) fn try_lock<T>(inner: &Inner<T>) -> Option<InnerGuard<'_, T>> {
        inner.try_lock()
    }
}

// Loom and shuttle know their own mutex only, and would spin for ever on another.
#[cfg(any(loom, shuttle))]
mod inner {
    use std::sync::PoisonError;

    #[cfg(loom)]
    use loom::sync::{Mutex, MutexGuard};
    #[cfg(shuttle)]
    use shuttle::sync::{Mutex, MutexGuard};

    pub(super) type Inner<T> = Mutex<T>;
    pub(super) type InnerGuard<'a, T> = MutexGuard<'a, T>;

    pub(super) fn lock<T>(inner: &Inner<T>) -> InnerGuard<'_, T> {
        inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_lock<T>(inner: &Inner<T>) -> Option<InnerGuard<'_, T>> {
        inner.try_lock().ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Cpu, pause};
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::thread;

    #[test]
    fn two_cores_never_hold_the_lock_at_once() {
        let lock = IrqLock::new(());
        let inside = AtomicU32::new(0);
        let entries = AtomicU32::new(0);
        thread::scope(|scope| {
            for core in 0..4 {
                let (lock, inside, entries) = (&lock, &inside, &entries);
                scope.spawn(move || {
                    let cpu = Cpu::of_test(core);
                    for _ in 0..500 {
                        cpu.masked(|masked| {
                            let _guard = lock.lock(masked);
                            assert_eq!(inside.fetch_add(1, Relaxed), 0);
                            pause();
                            assert_eq!(inside.fetch_sub(1, Relaxed), 1);
                            // Not atomic as a whole: an intruder would make an entry vanish.
                            entries.store(entries.load(Relaxed) + 1, Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(entries.into_inner(), 2000);
    }

    #[test]
    fn a_held_lock_is_not_had_by_trying() {
        let lock = IrqLock::new(7);
        Cpu::of_test(0).masked(|masked| {
            let guard = lock.lock(masked);
            assert!(lock.try_lock(masked).is_none());
            drop(guard);
            assert_eq!(lock.try_lock(masked).map(|guard| *guard), Some(7));
        });
    }
}
