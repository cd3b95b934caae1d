//! A flag that stops the threads of a test.

use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that stops other threads, even if the test panics, so that a scope does not wait for them forever.
#[derive(Default)]
pub(crate) struct StopFlag(AtomicBool);

impl StopFlag {
    /// Whether the threads must stop.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns a guard that sets the flag when it is dropped.
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
