//! Values that leave something to be done.

use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

/// What is still to be done for a value when nobody has taken it.
pub trait Settle {
    /// Does it.
    fn settle(&mut self);
}

/// A value that is settled when it is dropped, unless it was taken before.
#[derive(Debug)]
pub struct Owed<T: Settle>(ManuallyDrop<T>);

impl<T: Settle> Owed<T> {
    /// `value`, for which something is to be done.
    pub const fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }

    /// Takes the value, for which nothing is to be done any more.
    pub fn take(self) -> T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, nor dropped.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<T: Settle> Deref for Owed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Settle> DerefMut for Owed<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Settle> Drop for Owed<T> {
    fn drop(&mut self) {
        self.0.settle();
        // SAFETY: the value is not used again.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::rc::Rc;
    use core::cell::Cell;

    use super::*;

    struct Debt(Rc<Cell<u32>>);

    impl Settle for Debt {
        fn settle(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn what_is_dropped_is_settled_and_what_is_taken_is_not() {
        let settled = Rc::new(Cell::new(0));
        drop(Owed::new(Debt(settled.clone())));
        assert_eq!((settled.get(), Rc::strong_count(&settled)), (1, 1));
        drop(Owed::new(Debt(settled.clone())).take());
        assert_eq!((settled.get(), Rc::strong_count(&settled)), (1, 1));
    }
}
