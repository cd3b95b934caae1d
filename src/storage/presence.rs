//! Whether a store on another machine is there, and who finds out that it is back.
//!
//! A store is away from the first operation that failed for want of it, or that took too long,
//! until a new connection has shown that it works. In between nobody waits for it: requests are
//! refused at once, and one task alone tries.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{error, warn};

use super::BoxFuture;
use crate::allowance::{Allowance, more};

/// How long a request may wait for the store, a little less than the second that it may take.
pub(super) const LIMIT: Duration = Duration::from_millis(900);
/// How often a store that is there is looked at, which also keeps idle connections in use.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// How soon a store that is away is tried again.
const RETRY_PERIOD: Duration = Duration::from_millis(150);
/// A store that answered something so recently is there, though it takes its time over another thing.
const RECENT: Duration = Duration::from_millis(700);

/// The one task's way to the store.
pub(super) trait Link: Send + Sync + 'static {
    /// What is known of the store.
    fn presence(&self) -> &Presence;

    /// Finds out whether the connections in use still work.
    fn check(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Puts a new connection that works in the place of all others.
    fn connect(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// What is known of a store.
#[derive(Debug)]
pub(super) struct Presence {
    /// For people, without a password.
    name: String,
    state: Mutex<State>,
    /// Wakes the one task when the store is lost.
    lost: Notify,
}

#[derive(Debug)]
struct State {
    away: Option<Away>,
    /// How often the store came back; what failed on older connections tells nothing any more.
    epoch: u64,
    /// When it last answered.
    seen: Instant,
    slow: Allowance,
}

#[derive(Debug)]
struct Away {
    why: String,
    since: Instant,
}

impl Presence {
    /// A store that is there.
    pub(super) fn new(name: String) -> Self {
        let state = State { away: None, epoch: 0, seen: Instant::now(), slow: Allowance::per_minute(10) };
        Self { name, state: Mutex::new(state), lost: Notify::new() }
    }

    /// The store's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The number of the present connections; none while the store is away.
    pub(super) fn epoch(&self) -> Option<u64> {
        let state = self.lock();
        state.away.is_none().then_some(state.epoch)
    }

    /// Why the store is away; none while it is there.
    pub(super) fn why_away(&self) -> Option<String> {
        self.lock().away.as_ref().map(|away| away.why.clone())
    }

    /// Takes note that the store has answered.
    pub(super) fn seen(&self) {
        self.lock().seen = Instant::now();
    }

    /// Takes note that something failed, on connections of this epoch, for want of the store.
    pub(super) fn lost(&self, epoch: u64, why: &str) {
        let mut state = self.lock();
        if state.away.is_some() || state.epoch != epoch {
            return;
        }
        error!("{} is away: {why}; what needs it is refused until it is back", self.name);
        state.away = Some(Away { why: why.to_owned(), since: Instant::now() });
        drop(state);
        self.lost.notify_one();
    }

    /// Takes note that something took too long. Says whether the store is there all the same.
    pub(super) fn timed_out(&self, epoch: u64) -> bool {
        let mut state = self.lock();
        if state.seen.elapsed() < RECENT {
            if let Some(withheld) = state.slow.take(Instant::now()) {
                warn!(
                    "{} answers, but did not finish something in time, whose requests were refused{}",
                    self.name,
                    more(withheld)
                );
            }
            return true;
        }
        drop(state);
        self.lost(epoch, "it does not answer in time");
        false
    }

    fn back(&self) {
        let mut state = self.lock();
        state.epoch += 1;
        state.seen = Instant::now();
        if let Some(away) = state.away.take() {
            warn!("{} is back after {:.1} s", self.name, away.since.elapsed().as_secs_f64());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after a store as long as anybody uses it.
pub(super) async fn keep<L: Link>(link: Weak<L>) {
    while let Some(link) = link.upgrade() {
        match link.presence().epoch() {
            Some(epoch) => check(&link, epoch).await,
            None => retry(&link).await,
        }
    }
}

async fn check<L: Link>(link: &Arc<L>, epoch: u64) {
    let presence = link.presence();
    if timeout(CHECK_PERIOD, presence.lost.notified()).await.is_ok() {
        return;
    }
    match timeout(LIMIT, link.check()).await {
        Ok(Ok(())) => presence.seen(),
        Ok(Err(why)) => presence.lost(epoch, &why),
        Err(_) => {
            presence.timed_out(epoch);
        }
    }
}

async fn retry<L: Link>(link: &Arc<L>) {
    let presence = link.presence();
    match timeout(LIMIT, link.connect()).await {
        Ok(Ok(())) => presence.back(),
        Ok(Err(why)) => {
            if let Some(away) = &mut presence.lock().away {
                away.why = why;
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
        Err(_) => {}
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

    impl Link for Fake {
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
        assert_eq!((presence.epoch(), presence.why_away().as_deref()), (None, Some("one")));
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
        presence.timed_out(epoch);
        assert_eq!(presence.epoch(), Some(epoch));
        presence.lock().seen = Instant::now() - RECENT;
        presence.timed_out(epoch);
        assert_eq!(presence.epoch(), None);
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
