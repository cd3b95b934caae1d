//! Cancelling the opening of a database. A call of the library cannot be interrupted, and may take seconds in a repair.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::file::leftovers::remove_every_leftover;
use super::file::location::DatabasePath;
use super::lock;
use crate::storage::EngineOpenError;

/// How long a cancelled repair may take to end by itself. In a call of the library it does not.
const CANCEL_LIMIT: Duration = Duration::from_millis(300);

/// Work has been cancelled.
#[derive(Debug)]
pub(super) struct Cancelled;

/// Cancels one opening or recovery. All clones are about the same one.
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
    /// The database beside which a repair may have files.
    repairing: Option<DatabasePath>,
}

/// Opens something in a thread that may wait for the disk. If the future is dropped, that is cancelled, and what has
/// been opened is dropped before this ends.
pub(super) async fn open_cancellable<T: Send + 'static>(
    open: impl FnOnce(&Cancel) -> Result<T, EngineOpenError> + Send + 'static,
) -> Result<T, EngineOpenError> {
    // Dropped last, when nothing can be received any more.
    let cancel = CancelOnDrop(Cancel::default());
    let (sender, opened) = oneshot::channel();
    let attempt = cancel.0.clone();
    tokio::task::spawn_blocking(move || {
        attempt.during(|| {
            // What is not wanted any more comes back.
            drop(sender.send(open(&attempt)));
        })
    });
    opened.await.unwrap_or_else(|_| Err(EngineOpenError::new("the opening has died".to_owned())))
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Cancel {
    /// Runs the work that can be cancelled, unless it is already.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> Result<T, Cancelled> {
        self.commit(|state| state.is_running = true)?;
        let done = work();
        lock(&self.0.state).is_running = false;
        self.0.changed.notify_all();
        Ok(done)
    }

    /// Cancels the work and waits for its end, in a repair for up to 300 ms. The process may end afterwards: if a call of
    /// the library still runs, its files have no name any more.
    pub fn cancel(&self) {
        let mut state = lock(&self.0.state);
        state.is_cancelled = true;
        let waited = self.0.changed.wait_while(state, |state| state.is_running && state.repairing.is_none());
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.changed.wait_timeout_while(state, CANCEL_LIMIT, |state| state.is_running);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = state.repairing.as_ref().filter(|_| state.is_running) {
            remove_every_leftover(place);
        }
    }

    /// Fails if the work was cancelled.
    pub(super) fn check(&self) -> Result<(), Cancelled> {
        self.commit(|_| ())
    }

    /// Does what cannot be undone, unless the work was cancelled before.
    pub(super) fn commit<T>(&self, work: impl FnOnce(&mut CancelState) -> T) -> Result<T, Cancelled> {
        let mut state = lock(&self.0.state);
        if state.is_cancelled { Err(Cancelled) } else { Ok(work(&mut state)) }
    }

    /// Notes the database that is being repaired, if any.
    pub(super) fn note(&self, repairing: Option<DatabasePath>) {
        lock(&self.0.state).repairing = repairing;
        self.0.changed.notify_all();
    }
}
