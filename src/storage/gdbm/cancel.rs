//! Cancelling the opening of a database. A call of the library cannot be interrupted, and may take seconds in a repair.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use super::place::Place;
use super::repair::clean;

/// How long cancelled work may take to end by itself. In a call of the library it does not.
const PATIENCE: Duration = Duration::from_millis(300);

/// Work has been cancelled.
#[derive(Debug)]
pub(super) struct Cancelled;

/// Cancels one opening or recovery. All clones are about the same one.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Work>);

#[derive(Debug, Default)]
struct Work {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_cancelled: bool,
    is_running: bool,
    /// The database beside which a repair may have files.
    repairing: Option<Place>,
}

/// Cancels when it is dropped, as with a future that waits for the work.
#[derive(Debug)]
pub(super) struct CancelOnDrop(pub(super) Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Cancel {
    /// Runs the work that can be cancelled.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        lock(&self.0.state).is_running = true;
        let done = work();
        lock(&self.0.state).is_running = false;
        self.0.ended.notify_all();
        done
    }

    /// Cancels the work, and waits for up to 300 ms. The process may end afterwards: if a call of the library still runs,
    /// its files have no name any more.
    pub fn cancel(&self) {
        let mut state = lock(&self.0.state);
        state.is_cancelled = true;
        let waited = self.0.ended.wait_timeout_while(state, PATIENCE, |state| state.is_running);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = state.repairing.as_ref().filter(|_| state.is_running) {
            clean(place);
        }
    }

    /// Fails if the work was cancelled.
    pub(super) fn check(&self) -> Result<(), Cancelled> {
        self.commit(|| ())
    }

    /// Does what cannot be undone, unless the work was cancelled before.
    pub(super) fn commit<T>(&self, work: impl FnOnce() -> T) -> Result<T, Cancelled> {
        let state = lock(&self.0.state);
        if state.is_cancelled { Err(Cancelled) } else { Ok(work()) }
    }

    /// Notes the database that is being repaired, if any.
    pub(super) fn note(&self, repairing: Option<Place>) {
        lock(&self.0.state).repairing = repairing;
    }
}
