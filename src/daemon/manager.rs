//! Messages to the service manager while the server starts, serves and stops.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::warn;

use crate::os::notify::ServiceManager;
use crate::storage::Availability;

/// The time that each request for more time asks for, and the time between two.
const EXTENSION: Duration = Duration::from_secs(30);
const EXTENSION_PERIOD: Duration = Duration::from_secs(10);
/// The longest time that a stop asks for. A database that hangs must not prevent a restart for ever.
const LONGEST_STOP: Duration = Duration::from_secs(600);
/// The time between two looks at the database, and between two updates of the status.
const LOOK: Duration = Duration::from_secs(1);
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// The least period of the watchdog that a sign of life each second satisfies.
const LEAST_WATCHDOG: Duration = Duration::from_secs(2);

/// Waits for a future. Meanwhile asks for more time, so that a long repair does not run into `TimeoutStartSec`.
pub(super) async fn extended<T>(manager: &ServiceManager, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut ticks = interval(EXTENSION_PERIOD);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            _ = ticks.tick() => manager.extend_timeout(EXTENSION),
        }
    }
}

/// Waits for the end of a stop. Asks for more time for a while.
pub(super) async fn extended_stop(manager: &ServiceManager, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    if timeout(LONGEST_STOP, extended(manager, work.as_mut())).await.is_err() {
        work.await;
    }
}

/// Warns of a watchdog that would take a healthy server for hung.
pub(super) fn check_watchdog(manager: &ServiceManager) {
    if let Some(period) = manager.watchdog_period().filter(|period| *period < LEAST_WATCHDOG) {
        warn!(
            "the watchdog of the service manager expects a sign of life every {} ms, and there is one each second: set \
             WatchdogSec to {} at least",
            period.as_millis(),
            LEAST_WATCHDOG.as_secs()
        );
    }
}

/// Keeps the status up to date, for ever: at once when the availability of the database changes, and otherwise every
/// ten seconds if the text has changed.
pub(super) async fn keep_status(
    manager: ServiceManager,
    availability: impl Fn() -> Availability,
    text: impl Fn() -> String,
) {
    if !manager.is_present() {
        return std::future::pending().await;
    }
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = (None, String::new());
    let mut due = Instant::now();
    loop {
        looks.tick().await;
        manager.flush();
        let current = availability();
        if shown.0 == Some(current) && Instant::now() < due {
            continue;
        }
        let text = text();
        // Sent again if there was no room.
        if shown == (Some(current), text.clone()) || manager.status(&text) {
            shown = (Some(current), text);
            due = Instant::now() + STATUS_PERIOD;
        }
    }
}
