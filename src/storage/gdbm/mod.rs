//! The gdbm engine: one GNU dbm file, which only this process has open.
//!
//! A look-up or a change takes about a microsecond, less than handing it to another thread would cost. So the server's
//! loop completes a batch itself, under a lock. The engine's one thread takes that lock only for short slices of an
//! expiry sweep. It also syncs the file, without the lock, so that no request waits for the disk.
//!
//! Dependencies point down: `engine`, `keeper` and `bulk` use `opening`, which uses `repair`, which uses `open_file`,
//! which uses `cache`, `codec`, `condition` and `file`.

mod bulk;
mod cache;
mod cancel;
mod closing;
mod codec;
mod condition;
mod core;
mod engine;
mod expiry;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keeper;
mod open_file;
mod opening;
mod repair;
mod survey;
mod walk;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use self::bulk::open_bulk;
pub use self::cancel::Cancel;
pub(super) use self::codec::in_calendar;
pub use self::engine::Gdbm;
pub(super) use self::engine::open;
pub use self::repair::recover::recover;

/// Locks a mutex even if another thread panicked with it: every structure here stays usable after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
