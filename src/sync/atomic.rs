//! The atomics that ordering depends on: `core`'s, or loom's in a build with `--cfg loom`.
//!
//! Plain statistics use `core`'s everywhere: no order hangs on them, and loom would only explore them in vain.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
