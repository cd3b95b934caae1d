//! Tracking of whether a store on another machine is available.
//!
//! A store counts as unavailable from the first operation that fails because of it or takes too long, until a new
//! connection has proved to work. Until then requests are refused at once, and only the task of [`keep`] retries.

mod keeper;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{error, warn};

pub(crate) use keeper::{RemoteStore, keep, with_lookup_hint};

use super::start::NO_ANSWER;
use crate::logging::allowance::{Allowance, withheld_note};
use keeper::RETRY_PERIOD;

/// Maximum wait of a request for the store, well below the 5 seconds that clients wait by default.
pub(crate) const LIMIT: Duration = Duration::from_millis(900);
/// Minimum time for the store, even if the request has waited elsewhere before.
const LEAST: Duration = Duration::from_millis(100);
/// Time after a store's return within which another loss counts as a relapse: the first retry then waits for a pause,
/// which doubles each time.
const SETTLED: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Time after which an outage is logged again, if its reason has not changed.
const FIRST_REMINDER: Duration = Duration::from_secs(5);
const REMINDER: Duration = Duration::from_secs(60);
/// Time for which an answer proves that the store is available, even if one operation times out.
const RECENT: Duration = Duration::from_millis(700);

/// The availability of a store, and its log lines.
#[derive(Debug)]
pub(crate) struct Presence {
    /// Name for messages, without a password.
    name: String,
    state: Mutex<PresenceState>,
    /// Wakes the keeper when the store is lost.
    lost: Notify,
}

#[derive(Debug)]
struct PresenceState {
    outage: Option<Outage>,
    /// Number of the current connections. Failures on older connections are ignored.
    epoch: u64,
    /// Time of the last answer.
    seen: Instant,
    /// Time of the last return.
    returned: Option<Instant>,
    /// Pause before the first retry of the next or current outage.
    pause: Duration,
    slow_lines: Allowance,
    loss_lines: Allowance,
    change_lines: Allowance,
}

#[derive(Debug)]
struct Outage {
    /// The last reason.
    why: String,
    since: Instant,
    is_logged: bool,
    is_retried: bool,
    next_reminder: Instant,
}

impl Presence {
    /// An available store.
    pub(crate) fn new(name: String) -> Self {
        let state = PresenceState {
            outage: None,
            epoch: 0,
            seen: Instant::now(),
            returned: None,
            pause: Duration::ZERO,
            slow_lines: Allowance::per_minute(10),
            loss_lines: Allowance::per_minute(60),
            change_lines: Allowance::per_minute(10),
        };
        Self { name, state: Mutex::new(state), lost: Notify::new() }
    }

    /// Returns the number of the current connections, or none while the store is unavailable.
    pub(crate) fn epoch(&self) -> Option<u64> {
        let state = self.lock();
        state.outage.is_none().then_some(state.epoch)
    }

    /// Returns the current outage: its start and the last reason.
    pub(crate) fn outage(&self) -> Option<(Instant, String)> {
        self.lock().outage.as_ref().map(|outage| (outage.since, outage.why.clone()))
    }

    /// Returns the end of the last outage.
    pub(crate) fn returned(&self) -> Option<Instant> {
        self.lock().returned
    }

    /// Records that the store has answered.
    pub(crate) fn seen(&self) {
        self.lock().seen = Instant::now();
    }

    /// Records that the store failed on connections of this epoch. Ignored if the epoch is not the current one.
    pub(crate) fn lost(&self, epoch: u64, why: &str) {
        let mut state = self.lock();
        if state.outage.is_some() || state.epoch != epoch {
            return;
        }
        let now = Instant::now();
        let withheld = state.loss_lines.take(now);
        if let Some(withheld) = withheld {
            let more = withheld_note(withheld);
            error!(
                "{} is unavailable: {why}; requests that need it are refused until it is back{more}",
                self.name
            );
        }
        state.pause = match state.returned {
            Some(returned) if now.saturating_duration_since(returned) < SETTLED => {
                (state.pause * 2).clamp(RETRY_PERIOD, LONGEST_PAUSE)
            }
            _ => Duration::ZERO,
        };
        state.outage = Some(Outage {
            why: why.to_owned(),
            since: now,
            is_logged: withheld.is_some(),
            is_retried: false,
            next_reminder: now + FIRST_REMINDER,
        });
        drop(state);
        self.lost.notify_one();
    }

    /// Records that an operation did not finish within `given`. Returns whether the store still counts as available,
    /// because it answered another operation lately or `given` was too short to tell.
    pub(crate) fn timed_out(&self, epoch: u64, given: Duration) -> bool {
        let mut state = self.lock();
        if state.seen.elapsed() < RECENT || given < LIMIT / 2 {
            if let Some(withheld) = state.slow_lines.take(Instant::now()) {
                warn!(
                    "{} answers, but an operation timed out and its requests were refused{}",
                    self.name,
                    withheld_note(withheld)
                );
            }
            return true;
        }
        drop(state);
        self.lost(epoch, NO_ANSWER);
        false
    }

    /// Returns the pause before the next attempt to reconnect: only the first attempt of an outage has one.
    fn pause_before_retry(&self) -> Duration {
        let mut state = self.lock();
        let pause = state.pause;
        let is_first =
            state.outage.as_mut().is_some_and(|outage| !std::mem::replace(&mut outage.is_retried, true));
        if is_first { pause } else { Duration::ZERO }
    }

    fn back(&self) {
        let mut state = self.lock();
        state.epoch += 1;
        state.seen = Instant::now();
        state.returned = Some(state.seen);
        if let Some(outage) = state.outage.take()
            && outage.is_logged
        {
            warn!("{} is back after {:.1} s", self.name, outage.since.elapsed().as_secs_f64());
        }
    }

    /// Records a failed attempt to reconnect, and logs it if the reason is new or a reminder is due.
    fn still_lost(&self, why: String) {
        let mut state = self.lock();
        let PresenceState { outage: Some(outage), change_lines, .. } = &mut *state else { return };
        let now = Instant::now();
        let is_due = now >= outage.next_reminder
            || outage.is_logged && outage.why != why && change_lines.take(now).is_some();
        if is_due {
            // The line of the loss itself may have been withheld.
            outage.is_logged = true;
            outage.next_reminder = now + REMINDER;
            error!("{} is still unavailable after {} s: {why}", self.name, outage.since.elapsed().as_secs());
            outage.why = why;
        }
    }

    fn lock(&self) -> MutexGuard<'_, PresenceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how long a request that arrived at `since` may still wait for the store.
pub(crate) fn time_left(since: Instant) -> Duration {
    LIMIT.saturating_sub(since.elapsed()).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence() -> Presence {
        Presence::new("the store".to_owned())
    }

    #[test]
    fn first_loss_of_an_outage_gives_the_reason() {
        let presence = presence();
        let epoch = presence.epoch().unwrap();
        presence.lost(epoch, "one");
        presence.lost(epoch, "another");
        assert_eq!(presence.epoch(), None);
        assert_eq!(presence.lock().outage.as_ref().map(|outage| outage.why.as_str()), Some("one"));
    }

    #[test]
    fn failures_on_former_connections_are_ignored() {
        let presence = presence();
        let before = presence.epoch().unwrap();
        presence.lost(before, "gone");
        presence.back();
        presence.lost(before, "late");
        assert!(presence.epoch().is_some_and(|epoch| epoch != before));
    }

    #[test]
    fn one_timeout_is_no_outage_while_other_operations_are_answered() {
        let presence = presence();
        let epoch = presence.epoch().unwrap();
        presence.seen();
        presence.timed_out(epoch, LIMIT);
        assert_eq!(presence.epoch(), Some(epoch));
        presence.lock().seen = Instant::now() - RECENT;
        presence.timed_out(epoch, LEAST);
        assert_eq!(presence.epoch(), Some(epoch));
        presence.timed_out(epoch, LIMIT);
        assert_eq!(presence.epoch(), None);
    }

    #[test]
    fn store_that_is_lost_repeatedly_is_retried_after_longer_pauses() {
        let presence = presence();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            presence.lost(presence.epoch().unwrap(), "gone");
            pauses.push(presence.pause_before_retry());
            assert_eq!(presence.pause_before_retry(), Duration::ZERO, "only before the first attempt");
            presence.back();
        }
        let pauses: Vec<u128> = pauses.iter().map(Duration::as_millis).collect();
        assert_eq!(pauses, [0, 150, 300, 500, 500, 500]);
    }

    #[test]
    fn lasting_outage_is_logged_even_if_the_line_of_its_loss_was_withheld() {
        let presence = presence();
        while presence.lock().outage.as_ref().is_none_or(|outage| outage.is_logged) {
            presence.back();
            presence.lost(presence.epoch().unwrap(), "gone");
        }
        presence.still_lost("gone".to_owned());
        assert!(!presence.lock().outage.as_ref().unwrap().is_logged);
        presence.lock().outage.as_mut().unwrap().next_reminder = Instant::now();
        presence.still_lost("gone".to_owned());
        let state = presence.lock();
        let outage = state.outage.as_ref().unwrap();
        assert!(outage.is_logged && outage.next_reminder > Instant::now());
    }
}
