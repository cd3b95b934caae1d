//! Whether a store on another machine is there, and who finds out that it is back.
//!
//! A store is away from the first operation that failed for want of it, or that took too long,
//! until a new connection has shown that it works. In between nobody waits for it: requests are
//! refused at once, and one task alone tries.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{error, warn};

use crate::logging::allowance::{Allowance, withheld_note};
use crate::os::confine;
use crate::storage::BoxFuture;

/// How long a request may wait for the store, a little less than the second that it may take.
pub(crate) const LIMIT: Duration = Duration::from_millis(900);
/// What is left of that at least for who has waited before, for other things.
const LEAST: Duration = Duration::from_millis(100);
/// How often a store that is there is looked at, which also keeps idle connections in use.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// How soon a store that is away is tried again.
const RETRY_PERIOD: Duration = Duration::from_millis(150);
/// A store that is lost again so soon after its return is given time before the next attempt, more with
/// each time.
const SETTLED: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a store is away when that is said once more, unless another reason was said before, and how often
/// after that.
const FIRST_REMINDER: Duration = Duration::from_secs(5);
const REMINDER: Duration = Duration::from_secs(60);
/// A store that answered something so recently is there, though it takes its time over another thing.
const RECENT: Duration = Duration::from_millis(700);

/// The one task's way to the store.
pub(crate) trait RemoteStore: Send + Sync + 'static {
    /// What is known of the store.
    fn presence(&self) -> &Presence;

    /// Finds out whether the connections in use still work; takes note of it where they do.
    fn check(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Puts a new connection that works in the place of all others.
    fn connect(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// What is known of a store.
#[derive(Debug)]
pub(crate) struct Presence {
    /// For people, without a password.
    name: String,
    state: Mutex<PresenceState>,
    /// Wakes the one task when the store is lost.
    lost: Notify,
}

#[derive(Debug)]
struct PresenceState {
    away: Option<Absence>,
    /// How often the store came back; what failed on older connections tells nothing any more.
    epoch: u64,
    /// When it last answered.
    seen: Instant,
    /// When it came back last, and how long to wait should it go again at once.
    returned: Option<Instant>,
    pause: Duration,
    slow: Allowance,
    losses: Allowance,
    changes: Allowance,
}

#[derive(Debug)]
struct Absence {
    /// The reason that was said last.
    told: String,
    since: Instant,
    /// Whether that has been said.
    is_told: bool,
    /// Whether it has been tried to reach it.
    is_tried: bool,
    reminder: Instant,
}

impl Presence {
    /// A store that is there.
    pub(crate) fn new(name: String) -> Self {
        let state = PresenceState {
            away: None,
            epoch: 0,
            seen: Instant::now(),
            returned: None,
            pause: Duration::ZERO,
            slow: Allowance::per_minute(10),
            losses: Allowance::per_minute(60),
            changes: Allowance::per_minute(10),
        };
        Self { name, state: Mutex::new(state), lost: Notify::new() }
    }

    /// The number of the present connections; none while the store is away.
    pub(crate) fn epoch(&self) -> Option<u64> {
        let state = self.lock();
        state.away.is_none().then_some(state.epoch)
    }

    /// Takes note that the store has answered.
    pub(crate) fn seen(&self) {
        self.lock().seen = Instant::now();
    }

    /// Takes note that something failed, on connections of this epoch, for want of the store.
    pub(crate) fn lost(&self, epoch: u64, why: &str) {
        let mut state = self.lock();
        if state.away.is_some() || state.epoch != epoch {
            return;
        }
        let now = Instant::now();
        let withheld = state.losses.take(now);
        if let Some(withheld) = withheld {
            let more = withheld_note(withheld);
            error!("{} is away: {why}; what needs it is refused until it is back{more}", self.name);
        }
        state.pause = match state.returned {
            Some(returned) if now.saturating_duration_since(returned) < SETTLED => {
                (state.pause * 2).clamp(RETRY_PERIOD, LONGEST_PAUSE)
            }
            _ => Duration::ZERO,
        };
        let (told, is_told, reminder) = (why.to_owned(), withheld.is_some(), now + FIRST_REMINDER);
        state.away = Some(Absence { told, since: now, is_told, is_tried: false, reminder });
        drop(state);
        self.lost.notify_one();
    }

    /// Takes note that something was not done in the time given. Says whether the store is there all the
    /// same.
    pub(crate) fn timed_out(&self, epoch: u64, given: Duration) -> bool {
        let mut state = self.lock();
        if state.seen.elapsed() < RECENT || given < LIMIT / 2 {
            if let Some(withheld) = state.slow.take(Instant::now()) {
                warn!(
                    "{} answers, but did not finish something in time, whose requests were refused{}",
                    self.name,
                    withheld_note(withheld)
                );
            }
            return true;
        }
        drop(state);
        self.lost(epoch, "it does not answer in time");
        false
    }

    /// How long to wait before the first attempt to reach a store that has been lost.
    fn first_pause(&self) -> Duration {
        let mut state = self.lock();
        let pause = state.pause;
        let is_first = state.away.as_mut().is_some_and(|away| !std::mem::replace(&mut away.is_tried, true));
        if is_first { pause } else { Duration::ZERO }
    }

    fn back(&self) {
        let mut state = self.lock();
        state.epoch += 1;
        state.seen = Instant::now();
        state.returned = Some(state.seen);
        if let Some(away) = state.away.take()
            && away.is_told
        {
            warn!("{} is back after {:.1} s", self.name, away.since.elapsed().as_secs_f64());
        }
    }

    /// Takes note that an attempt to reach the store has failed.
    fn still_lost(&self, why: String) {
        let mut state = self.lock();
        let PresenceState { away: Some(away), changes, .. } = &mut *state else { return };
        let now = Instant::now();
        let is_due = now >= away.reminder || away.is_told && away.told != why && changes.take(now).is_some();
        if is_due {
            // The first line may have been one too many.
            away.is_told = true;
            away.reminder = now + REMINDER;
            error!("{} is still away after {} s: {why}", self.name, away.since.elapsed().as_secs());
            away.told = why;
        }
    }

    fn lock(&self) -> MutexGuard<'_, PresenceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of the time that a request may wait is left to one that came at `since`.
pub(crate) fn time_left(since: Instant) -> Duration {
    LIMIT.saturating_sub(since.elapsed()).max(LEAST)
}

/// Looks after a store as long as anybody uses it.
pub(crate) async fn keep<L: RemoteStore>(link: Weak<L>) {
    while let Some(link) = link.upgrade() {
        let step = async {
            match link.presence().epoch() {
                Some(epoch) => check(&link, epoch).await,
                None => retry(&link).await,
            }
        };
        // Without this task a store that has been lost would never be back, whatever a library does.
        if AssertUnwindSafe(step).catch_unwind().await.is_err() {
            error!("looking after {} has failed and is begun again", link.presence().name);
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }
}

async fn check<L: RemoteStore>(link: &Arc<L>, epoch: u64) {
    let presence = link.presence();
    if timeout(CHECK_PERIOD, presence.lost.notified()).await.is_ok() {
        return;
    }
    match timeout(LIMIT, link.check()).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => presence.lost(epoch, &with_lookup_hint(why)),
        Err(_) => {
            presence.timed_out(epoch, LIMIT);
        }
    }
}

async fn retry<L: RemoteStore>(link: &Arc<L>) {
    let presence = link.presence();
    let pause = presence.first_pause();
    tokio::time::sleep(pause).await;
    match timeout(LIMIT, link.connect()).await {
        Ok(Ok(())) => presence.back(),
        Ok(Err(why)) => {
            presence.still_lost(with_lookup_hint(why));
            tokio::time::sleep(RETRY_PERIOD).await;
        }
        Err(_) => presence.still_lost("it does not answer in time".to_owned()),
    }
}

/// Why a store cannot be reached, with what keeps this process from looking up its name, if anything does.
pub(crate) fn with_lookup_hint(why: String) -> String {
    // The standard library's words for any failure to look up a name.
    let hint = why.contains("lookup address").then(confine::why_names_are_unknown).flatten();
    match hint {
        Some(hint) => format!("{why}: {hint}"),
        None => why,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A store that fails to be reached some times, and then is.
    struct Fake {
        presence: Presence,
        failures: AtomicU32,
        attempts: AtomicU32,
    }

    impl RemoteStore for Fake {
        fn presence(&self) -> &Presence {
            &self.presence
        }

        fn check(&self) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async { Ok(()) })
        }

        fn connect(&self) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async {
                self.attempts.fetch_add(1, Ordering::Relaxed);
                match self.failures.load(Ordering::Relaxed) {
                    0 => Ok(()),
                    left => {
                        self.failures.store(left - 1, Ordering::Relaxed);
                        Err(format!("{left} attempts too early"))
                    }
                }
            })
        }
    }

    fn presence() -> Presence {
        Presence::new("the store".to_owned())
    }

    #[test]
    fn only_the_first_loss_counts() {
        let presence = presence();
        let epoch = presence.epoch().unwrap();
        presence.lost(epoch, "one");
        presence.lost(epoch, "another");
        assert_eq!(presence.epoch(), None);
        assert_eq!(presence.lock().away.as_ref().map(|away| away.told.as_str()), Some("one"));
    }

    #[test]
    fn what_failed_on_former_connections_tells_nothing() {
        let presence = presence();
        let before = presence.epoch().unwrap();
        presence.lost(before, "gone");
        presence.back();
        presence.lost(before, "late");
        assert!(presence.epoch().is_some_and(|epoch| epoch != before));
    }

    #[test]
    fn one_slow_thing_is_no_absence_while_others_are_answered() {
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
    fn one_that_goes_again_and_again_is_given_more_time_each_time() {
        let presence = presence();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            presence.lost(presence.epoch().unwrap(), "gone");
            pauses.push(presence.first_pause());
            assert_eq!(presence.first_pause(), Duration::ZERO, "only before the first attempt");
            presence.back();
        }
        let pauses: Vec<u128> = pauses.iter().map(Duration::as_millis).collect();
        assert_eq!(pauses, [0, 150, 300, 500, 500, 500]);
    }

    #[test]
    fn an_absence_that_lasts_is_told_after_any_number_of_others() {
        let presence = presence();
        while presence.lock().away.as_ref().is_none_or(|away| away.is_told) {
            presence.back();
            presence.lost(presence.epoch().unwrap(), "gone");
        }
        presence.still_lost("gone".to_owned());
        assert!(!presence.lock().away.as_ref().unwrap().is_told);
        presence.lock().away.as_mut().unwrap().reminder = Instant::now();
        presence.still_lost("gone".to_owned());
        let state = presence.lock();
        let away = state.away.as_ref().unwrap();
        assert!(away.is_told && away.reminder > Instant::now());
    }

    #[test]
    fn one_task_alone_brings_it_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let fake = Arc::new(Fake {
                presence: presence(),
                failures: AtomicU32::new(2),
                attempts: AtomicU32::new(0),
            });
            let keeper = tokio::spawn(keep(Arc::downgrade(&fake)));
            for _ in 0..100 {
                fake.presence.lost(0, "gone");
            }
            while fake.presence.epoch().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(fake.attempts.load(Ordering::Relaxed), 3);
            drop(fake);
            keeper.await.unwrap();
        });
    }
}
