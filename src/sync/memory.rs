//! Memory that may not be there.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicUsize;

/// What an [`Arc`] of a `T` takes: two counts, and it.
#[repr(C)]
struct Counted<T>(AtomicUsize, AtomicUsize, MaybeUninit<T>);

/// `value` in an [`Arc`], or `None` if the heap is full. An `Arc` can't be asked to try, so the heap is asked for as much before, and gets
/// it back: only if another core takes that in between, a full heap ends as it does for [`Arc::new`].
pub(crate) fn try_arc<T>(value: T) -> Option<Arc<T>> {
    Vec::<Counted<T>>::new().try_reserve_exact(1).ok()?;
    Some(Arc::new(value))
}

/// A slice of `len` values from `make`; `None` without memory, or when `make` has none.
pub(crate) fn try_boxed<T>(len: usize, mut make: impl FnMut() -> Option<T>) -> Option<Box<[T]>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).ok()?;
    for _ in 0..len {
        values.push(make()?);
    }
    Some(values.into_boxed_slice())
}
