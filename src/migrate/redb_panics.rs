//! Turns redb's panics on corrupt files into errors.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

/// An error of redb or of a check on its tables.
pub(super) type RedbError = Box<dyn std::error::Error>;

thread_local! {
    /// Whether this thread is in [`catch_redb_panics`].
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Installs a panic hook that prints nothing for panics that are caught here.
pub(super) fn silence_caught_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !CATCHES.get() {
            usual(panic);
        }
    }));
}

/// Runs `work`, and returns an error if it panics.
pub(super) fn catch_redb_panics<T>(work: impl FnOnce() -> Result<T, RedbError>) -> Result<T, RedbError> {
    CATCHES.set(true);
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    CATCHES.set(false);
    done.unwrap_or_else(|_| Err("the file is corrupt".into()))
}
