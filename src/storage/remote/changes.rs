//! Tracking of whether a reachable store accepts changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time after which a refusal no longer tells whether the store still refuses changes. Long enough that few changes keep
/// alerting operators.
const VALIDITY: Duration = Duration::from_secs(15 * 60);

/// Whether a reachable store refuses all changes, as a full or read-only one does. That ends with a change that is
/// accepted, with a trial that succeeds if an earlier one was refused, or 15 minutes after the last refusal.
#[derive(Debug, Default)]
pub(crate) struct ChangeAcceptance {
    /// Whether `state` has a refusal. Spares accepted changes the lock.
    is_refused: AtomicBool,
    state: Mutex<AcceptanceState>,
}

#[derive(Debug, Default)]
struct AcceptanceState {
    refusal: Option<ChangeRefusal>,
    /// The end of the last period in which changes were refused.
    accepted: Option<Instant>,
}

#[derive(Debug)]
struct ChangeRefusal {
    since: Instant,
    last: Instant,
    /// Whether a trial without effect was refused as well, so that the next one can tell the end.
    is_seen_by_trials: bool,
    why: String,
}

impl ChangeAcceptance {
    /// Records that the store has refused a change for a reason that concerns all changes.
    pub(crate) fn refused(&self, why: &str) {
        self.state().refuse(why, false);
        self.is_refused.store(true, Ordering::Relaxed);
    }

    /// Records that the store has refused a trial without effect for a reason that concerns all changes.
    pub(crate) fn trial_refused(&self, why: &str) {
        self.state().refuse(why, true);
        self.is_refused.store(true, Ordering::Relaxed);
    }

    /// Records that the store has accepted a trial without effect. Not all stores that refuse changes refuse those.
    pub(crate) fn trial_accepted(&self) {
        if self.state().refusal.as_ref().is_some_and(|refusal| refusal.is_seen_by_trials) {
            self.accepted();
        }
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
    fn refuse(&mut self, why: &str, is_trial: bool) {
        let now = Instant::now();
        self.expire(now);
        let (since, was_seen) =
            self.refusal.as_ref().map_or((now, false), |refusal| (refusal.since, refusal.is_seen_by_trials));
        self.refusal = Some(ChangeRefusal {
            since,
            last: now,
            is_seen_by_trials: was_seen || is_trial,
            why: why.to_owned(),
        });
    }

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

    /// Moves the last refusal into the past.
    fn age(changes: &ChangeAcceptance, by: Duration) {
        let mut state = changes.state();
        let refusal = state.refusal.as_mut().unwrap();
        refusal.last = refusal.last.checked_sub(by).unwrap();
    }

    #[test]
    fn refusal_that_is_not_repeated_within_a_quarter_of_an_hour_ends() {
        let changes = ChangeAcceptance::default();
        changes.refused("full");
        let (since, _) = changes.refusal().unwrap();
        for _ in 0..3 {
            age(&changes, Duration::from_secs(14 * 60));
            assert_eq!(changes.refusal(), Some((since, "full".to_owned())));
            changes.refused("full");
        }
        age(&changes, Duration::from_secs(15 * 60 + 1));
        assert_eq!(changes.refusal(), None);
        assert!(changes.accepted_since().is_some());
    }

    #[test]
    fn trial_ends_only_a_refusal_that_trials_see() {
        let changes = ChangeAcceptance::default();
        changes.refused("full");
        changes.trial_accepted();
        assert!(changes.refusal().is_some());
        changes.trial_refused("read-only");
        changes.refused("read-only");
        changes.trial_accepted();
        assert_eq!(changes.refusal(), None);
        // What the trials saw belonged to the last period.
        changes.refused("full");
        changes.trial_accepted();
        assert!(changes.refusal().is_some());
    }
}
