//! Where answers go under loom.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use loom::thread;
use smmu_iopf::iopf::{Answer, NotSent, PageResponder};
use smmu_iopf::sync::Masked;

/// The SMMU: what it was sent.
#[derive(Default)]
pub(crate) struct Smmu {
    pub(crate) sent: Mutex<Vec<Answer>>,
    pub(crate) terminated: AtomicBool,
}

impl PageResponder for Smmu {
    fn respond(&self, _: &Masked, answers: &[Answer]) -> Result<(), NotSent> {
        // Publication is a step of its own, which others may come before.
        thread::yield_now();
        assert!(!self.terminated.load(SeqCst), "{answers:?} after STALL_TERM");
        self.sent.lock().unwrap().extend(answers);
        Ok(())
    }
}
