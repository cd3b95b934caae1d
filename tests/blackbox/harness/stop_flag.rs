//! What tells the threads of a test to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// Tells other threads to stop, also when the test fails, so that none of them is waited for in vain.
#[derive(Default)]
pub(crate) struct StopFlag(AtomicBool);

impl StopFlag {
    /// Whether the threads are to stop.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the flag when the value that it returns is dropped.
    pub(crate) fn set_on_drop(&self) -> impl Drop + '_ {
        struct SetOnDrop<'a>(&'a AtomicBool);
        impl Drop for SetOnDrop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        SetOnDrop(&self.0)
    }
}
