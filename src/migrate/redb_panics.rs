//! Turns panics of redb on damaged files into errors.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

/// What redb says went wrong.
pub(super) type RedbError = Box<dyn std::error::Error>;

thread_local! {
    /// Whether this thread does something whose panics are caught.
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Says nothing of panics that are caught here, from now on.
pub(super) fn silence_caught_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !CATCHES.get() {
            usual(panic);
        }
    }));
}

/// Turns panics of redb on damaged files into errors.
pub(super) fn catch_redb_panics<T>(work: impl FnOnce() -> Result<T, RedbError>) -> Result<T, RedbError> {
    CATCHES.set(true);
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    CATCHES.set(false);
    done.unwrap_or_else(|_| Err("it is damaged".into()))
}
