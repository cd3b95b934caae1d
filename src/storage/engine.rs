//! What an engine is to the server.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use thiserror::Error;

use super::Batch;

/// A future that an engine returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why something could not be done for one digest. What the operator must know of it has been
/// logged by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// The database cannot be reached, or does not accept the change.
    #[error("the database is temporarily unavailable")]
    Unavailable,
    /// The stored record cannot be decoded.
    #[error("the stored record is damaged")]
    Damaged,
}

/// How an engine deals with a batch.
pub enum BatchProgress {
    /// It is done.
    Done(Batch),
    /// It will be done; the batch comes back with its outcomes.
    Later(BoxFuture<'static, Batch>),
}

/// A store of records.
///
/// All engines behave alike: counters stop at [`Engine::count_limit`] instead of failing; a
/// record expires when neither tally changed for the age given when the engine was opened; a
/// change that was reported as done has been counted exactly once, and one that was not at most
/// once.
pub trait Engine: Send + Sync {
    /// The engine's name and its database, for people. Never contains a password.
    fn describe(&self) -> String;

    /// Looks up and counts all that the batch asks for: each entry's look-up first, then its
    /// increments. What fails for one digest fails for that digest only.
    fn run(&self, batch: Batch) -> BatchProgress;

    /// How many batches it is given at a time, as long as it has not answered them.
    fn batches_at_a_time(&self) -> usize {
        4
    }

    /// How much later than another one under way a batch is to be given, so that batches that take long are not
    /// all under way at once and requests wait for a part of that time only.
    fn spacing(&self) -> Duration {
        Duration::ZERO
    }

    /// The highest count that the engine can hold.
    fn count_limit(&self) -> i64;

    /// Whether the database can be reached, so that a batch takes its time. Otherwise batches are refused at once.
    fn is_available(&self) -> bool;

    /// Waits until the engine cannot go on in this process, and says why in one line. Never
    /// returns while it can.
    fn failed(&self) -> BoxFuture<'_, String>;

    /// Begins to delete expired records by itself, where the database does not. To be called once the server has all that
    /// it needs: a start that fails deletes nothing.
    fn begin_expiry(&self) {}

    /// Makes everything durable and ends all background work.
    fn close(&self) -> BoxFuture<'_, ()>;
}
