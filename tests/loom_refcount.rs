//! Reference counts in every order that the memory model allows. `tools/loom.sh` runs it, also with mistakes built in.
#![cfg(loom)]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;
use smmu_iopf::sync::refcount::{Get, RefCount};

/// What the references guard: whoever has one reads, and who gave back the last one writes.
struct Shared {
    references: RefCount,
    object: UnsafeCell<u32>,
}

// SAFETY: loom watches every access to `object`, and reports two that conflict.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

fn shared(references: u32) -> Arc<Shared> {
    Arc::new(Shared { references: RefCount::new(references), object: UnsafeCell::new(1) })
}

impl Shared {
    fn read(&self) {
        // SAFETY: loom reports a conflicting access.
        self.object.with(|object| assert_eq!(unsafe { *object }, 1, "read after the end"));
    }

    /// Gives a reference back, and ends the object with the last. Returns whether it was that.
    fn put(&self) -> bool {
        let last = self.references.put(1);
        if last {
            // SAFETY: loom reports a conflicting access.
            self.object.with_mut(|object| assert_eq!(unsafe { object.replace(0) }, 1, "ended twice"));
        }
        last
    }
}

#[test]
fn the_last_reference_ends_the_object_after_all_reads() {
    loom::model(|| {
        let shared = shared(2);
        let other = Arc::clone(&shared);
        let other = thread::spawn(move || {
            other.read();
            other.put()
        });
        shared.read();
        let here = shared.put();
        assert!(here ^ other.join().unwrap(), "exactly one was the last");
    });
}

#[test]
fn none_left_is_never_taken() {
    loom::model(|| {
        let shared = shared(1);
        let other = Arc::clone(&shared);
        let other = thread::spawn(move || {
            if other.references.try_get(1) == Get::Gone {
                return false;
            }
            other.read();
            other.put()
        });
        let here = shared.put();
        assert!(here ^ other.join().unwrap(), "exactly one was the last");
        assert_eq!(shared.references.count(), 0);
    });
}

#[test]
fn a_saturated_count_never_ends() {
    loom::model(|| {
        let shared = shared(RefCount::SATURATED - 1);
        let other = Arc::clone(&shared);
        let other = thread::spawn(move || {
            assert_ne!(other.references.try_get(1), Get::Gone);
            assert_eq!(other.references.try_get(1), Get::Taken);
        });
        assert_ne!(shared.references.try_get(1), Get::Gone);
        other.join().unwrap();
        assert!(!shared.put());
        assert_eq!(shared.references.count(), RefCount::SATURATED);
    });
}
