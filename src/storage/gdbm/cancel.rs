//! Cancelling the opening or recovery of a database. A library call cannot be interrupted, and in a repair it can take
//! seconds.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::file::leftovers::remove_every_leftover;
use super::file::location::DatabasePath;
use super::lock;
use crate::storage::EngineOpenError;

/// Time that a cancelled repair has to end. Within a library call it does not notice the cancellation.
const CANCEL_LIMIT: Duration = Duration::from_millis(300);

/// The work was cancelled.
#[derive(Debug)]
pub(super) struct Cancelled;

/// Cancels one opening or recovery. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<CancelShared>);

#[derive(Debug, Default)]
struct CancelShared {
    state: Mutex<CancelState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct CancelState {
    is_cancelled: bool,
    is_running: bool,
    /// The database that is being repaired.
    repairing: Option<DatabasePath>,
}

/// Opens a database in a blocking thread. Dropping the future cancels the opening, waits for its end as
/// [`Cancel::cancel`] does, and drops its result.
pub(super) async fn open_cancellable<T: Send + 'static>(
    open: impl FnOnce(&Cancel) -> Result<T, EngineOpenError> + Send + 'static,
) -> Result<T, EngineOpenError> {
    // Declared first and so dropped last, after the receiver.
    let cancel = CancelOnDrop(Cancel::default());
    let (sender, opened) = oneshot::channel();
    let attempt = cancel.0.clone();
    tokio::task::spawn_blocking(move || {
        attempt.during(|| {
            // Without a receiver, `send` returns the result, which is dropped here.
            drop(sender.send(open(&attempt)));
        })
    });
    opened.await.unwrap_or_else(|_| {
        Err(EngineOpenError::new("the thread that opens the database panicked".to_owned()))
    })
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Cancel {
    /// Runs work that can be cancelled. Fails if it was cancelled before.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> Result<T, Cancelled> {
        self.commit(|state| state.is_running = true)?;
        let done = work();
        lock(&self.0.state).is_running = false;
        self.0.changed.notify_all();
        Ok(done)
    }

    /// Cancels the work and waits for its end, but in a repair for 300 ms at most. The process may exit afterwards: the
    /// files of a library call that still runs have been unlinked.
    pub fn cancel(&self) {
        let mut state = lock(&self.0.state);
        state.is_cancelled = true;
        let waited = self.0.changed.wait_while(state, |state| state.is_running && state.repairing.is_none());
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.changed.wait_timeout_while(state, CANCEL_LIMIT, |state| state.is_running);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(location) = state.repairing.as_ref().filter(|_| state.is_running) {
            remove_every_leftover(location);
        }
    }

    /// Fails if the work was cancelled.
    pub(super) fn check(&self) -> Result<(), Cancelled> {
        self.commit(|_| ())
    }

    /// Runs a step that cannot be undone. Fails if the work was cancelled; a cancellation waits for the end of the
    /// step.
    pub(super) fn commit<T>(&self, work: impl FnOnce(&mut CancelState) -> T) -> Result<T, Cancelled> {
        let mut state = lock(&self.0.state);
        if state.is_cancelled { Err(Cancelled) } else { Ok(work(&mut state)) }
    }

    /// Sets the database that is being repaired.
    pub(super) fn set_repairing(&self, repairing: Option<DatabasePath>) {
        lock(&self.0.state).repairing = repairing;
        self.0.changed.notify_all();
    }
}
