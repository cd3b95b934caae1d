//! The trait of storage engines.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use thiserror::Error;

use super::{Batch, EngineStatus};

/// A future that an engine returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The reason why a request for one digest failed. The engine has logged what the operator must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// The database is unavailable or does not accept the change.
    #[error("the database is temporarily unavailable")]
    Unavailable,
    /// The database may or may not have made the change: it was sent, and its outcome is unknown.
    #[error("the database did not confirm the change")]
    InDoubt,
    /// The stored record cannot be decoded.
    #[error("the stored record is damaged")]
    Damaged,
}

/// The progress of a batch.
pub enum BatchProgress {
    /// The batch is complete.
    Done(Batch),
    /// The batch is under way. The future returns it with its outcomes.
    Later(BoxFuture<'static, Batch>),
}

/// A store of records.
///
/// All engines guarantee:
///
/// - A count stops at [`Engine::count_limit`] instead of failing.
/// - A record expires when neither tally has changed for [`cleanup_age`](super::EngineOptions::cleanup_age).
/// - A change reported as done has been counted exactly once, and a change reported as failed at most once.
pub trait Engine: Send + Sync {
    /// Returns a description of the engine and its database, without a password.
    fn describe(&self) -> String;

    /// Runs a batch: for each entry the look-up first, then the increments. An error of one digest concerns only that
    /// digest.
    fn run(&self, batch: Batch) -> BatchProgress;

    /// Returns the maximum number of batches in flight.
    fn batches_at_a_time(&self) -> usize {
        4
    }

    /// Returns the minimum time between the starts of two batches in flight. Spaced batches that take long do not all
    /// end at once, so requests wait only for a part of that time.
    fn spacing(&self) -> Duration {
        Duration::ZERO
    }

    /// Returns the highest count that the engine can store.
    fn count_limit(&self) -> i64;

    /// Returns whether the database is available. Otherwise batches fail immediately.
    fn is_available(&self) -> bool;

    /// Returns the state of the engine and its database, without passwords and keys. Never waits for the database or its
    /// disk, because the thread that serves requests calls this: background work keeps what takes longer up to date.
    fn status(&self) -> EngineStatus;

    /// Waits until the engine can no longer work in this process. Returns the reason in one line.
    fn failed(&self) -> BoxFuture<'_, String>;

    /// Begins to delete expired records, unless the store does so itself. Must be called only after everything else at
    /// the start has succeeded, so that a failed start deletes nothing.
    fn begin_expiry(&self) {}

    /// Makes everything durable and ends all background work.
    fn close(&self) -> BoxFuture<'_, ()>;
}
