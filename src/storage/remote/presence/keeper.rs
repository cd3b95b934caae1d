//! The task that checks a store on another machine, and reconnects to it after an outage.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tracing::error;

use super::{LIMIT, Presence};
use crate::os::confine;
use crate::storage::BoxFuture;
use crate::storage::remote::start::NO_ANSWER;

/// Interval of the checks of an available store, which also keep idle connections in use.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// Pause between two attempts to reconnect.
pub(super) const RETRY_PERIOD: Duration = Duration::from_millis(150);

/// A store on another machine, for the task that keeps it connected.
pub(crate) trait RemoteStore: Send + Sync + 'static {
    /// Returns the store's availability.
    fn presence(&self) -> &Presence;

    /// Checks whether the current connections still work, and calls [`Presence::seen`] if they do.
    fn check(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Replaces all connections by a new one that works.
    fn connect(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// Checks and reconnects a store until it is dropped.
pub(crate) async fn keep<S: RemoteStore>(store: Weak<S>) {
    while let Some(store) = store.upgrade() {
        let step = async {
            match store.presence().epoch() {
                Some(epoch) => check(&store, epoch).await,
                None => retry(&store).await,
            }
        };
        // If a panic in a library ended this task, an outage would never end.
        if AssertUnwindSafe(step).catch_unwind().await.is_err() {
            error!("the task that checks {} panicked: it is restarted", store.presence().name);
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }
}

async fn check<S: RemoteStore>(store: &Arc<S>, epoch: u64) {
    let presence = store.presence();
    if timeout(CHECK_PERIOD, presence.lost.notified()).await.is_ok() {
        return;
    }
    match timeout(LIMIT, store.check()).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => presence.lost(epoch, &with_lookup_hint(why)),
        Err(_) => {
            presence.timed_out(epoch, LIMIT);
        }
    }
}

async fn retry<S: RemoteStore>(store: &Arc<S>) {
    let presence = store.presence();
    tokio::time::sleep(presence.pause_before_retry()).await;
    match timeout(LIMIT, store.connect()).await {
        Ok(Ok(())) => presence.back(),
        Ok(Err(why)) => {
            presence.still_lost(with_lookup_hint(why));
            tokio::time::sleep(RETRY_PERIOD).await;
        }
        Err(_) => presence.still_lost(NO_ANSWER.to_owned()),
    }
}

/// Adds to a failed name lookup the reason why this process cannot resolve names, if there is one.
pub(crate) fn with_lookup_hint(why: String) -> String {
    // The standard library's text for all lookup failures.
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

    /// A store that refuses some connections before it accepts one.
    struct FakeStore {
        presence: Presence,
        failures: AtomicU32,
        attempts: AtomicU32,
    }

    impl RemoteStore for FakeStore {
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

    #[test]
    fn keeper_alone_reconnects() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let store = Arc::new(FakeStore {
                presence: Presence::new("the store".to_owned()),
                failures: AtomicU32::new(2),
                attempts: AtomicU32::new(0),
            });
            let keeper = tokio::spawn(keep(Arc::downgrade(&store)));
            for _ in 0..100 {
                store.presence.lost(0, "gone");
            }
            while store.presence.epoch().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(store.attempts.load(Ordering::Relaxed), 3);
            drop(store);
            keeper.await.unwrap();
        });
    }
}
