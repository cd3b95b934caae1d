//! Tracking of whether a reachable store accepts changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time after which a refusal no longer tells whether the store still refuses changes.
const VALIDITY: Duration = Duration::from_secs(60);

/// Whether a reachable store refuses all changes, as a full or read-only one does. That ends with a change that is
/// accepted, or a minute after the last one that was refused.
#[derive(Debug, Default)]
pub(crate) struct ChangeAcceptance {
    /// Whether `state` has a refusal. Spares accepted changes the lock.
    is_refused: AtomicBool,
    state: Mutex<AcceptanceState>,
}

#[derive(Debug, Default)]
struct AcceptanceState {
    refusal: Option<Refusal>,
    /// The end of the last period in which changes were refused.
    accepted: Option<Instant>,
}

#[derive(Debug)]
struct Refusal {
    since: Instant,
    last: Instant,
    why: String,
}

impl ChangeAcceptance {
    /// Records that the store has refused a change for a reason that concerns all changes.
    pub(crate) fn refused(&self, why: &str) {
        let now = Instant::now();
        let mut state = self.state();
        state.expire(now);
        let since = state.refusal.as_ref().map_or(now, |refusal| refusal.since);
        state.refusal = Some(Refusal { since, last: now, why: why.to_owned() });
        self.is_refused.store(true, Ordering::Relaxed);
    }

    /// Records that the store has accepted a change.
    pub(crate) fn accepted(&self) {
        if self.is_refused.swap(false, Ordering::Relaxed) {
            let mut state = self.state();
            if state.refusal.take().is_some() {
                state.accepted = Some(Instant::now());
            }
        }
    }

    /// Returns the start and the reason of the current period in which changes are refused.
    pub(crate) fn refusal(&self) -> Option<(Instant, String)> {
        let mut state = self.state();
        state.expire(Instant::now());
        state.refusal.as_ref().map(|refusal| (refusal.since, refusal.why.clone()))
    }

    /// Returns the end of the last period in which changes were refused.
    pub(crate) fn accepted_since(&self) -> Option<Instant> {
        self.state().accepted
    }

    fn state(&self) -> MutexGuard<'_, AcceptanceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AcceptanceState {
    /// Ends a refusal that is no longer valid.
    fn expire(&mut self, now: Instant) {
        if self.refusal.as_ref().is_some_and(|refusal| now.duration_since(refusal.last) > VALIDITY) {
            self.refusal = None;
            self.accepted = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_keeps_its_start_and_ends_with_an_accepted_change() {
        let changes = ChangeAcceptance::default();
        changes.accepted();
        assert_eq!((changes.refusal(), changes.accepted_since()), (None, None));
        changes.refused("full");
        let (since, _) = changes.refusal().unwrap();
        changes.refused("read-only");
        assert_eq!(changes.refusal(), Some((since, "read-only".to_owned())));
        changes.accepted();
        assert_eq!(changes.refusal(), None);
        assert!(changes.accepted_since() >= Some(since));
    }

    #[test]
    fn refusal_that_is_not_repeated_ends() {
        let changes = ChangeAcceptance::default();
        changes.refused("full");
        let long_ago = Instant::now().checked_sub(2 * VALIDITY).unwrap();
        changes.state().refusal.as_mut().unwrap().last = long_ago;
        assert_eq!(changes.refusal(), None);
        assert!(changes.accepted_since().is_some());
    }
}
