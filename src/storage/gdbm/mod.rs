//! The embedded engine: one GNU dbm file, which belongs to this process alone.
//!
//! A look-up or a change takes about a microsecond, less than handing it to another thread would.
//! So the server's loop itself completes a batch, under a lock that the engine's one thread takes
//! only for short slices of a sweep. That thread also waits for the disk when the file is synced,
//! on a descriptor of its own, so that no request has to.

mod bulk;
mod cache;
mod cancel;
mod codec;
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
mod walk;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use self::bulk::open_bulk;
pub use self::cancel::Cancel;
pub(super) use self::codec::in_calendar;
pub use self::engine::Gdbm;
pub(super) use self::engine::open;
pub use self::repair::recover::recover;

/// A panic of another thread leaves every structure here as usable as an error does.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
