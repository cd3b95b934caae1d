//! Messages to the service manager while the server starts, serves and stops.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::os::notify::ServiceManager;
use crate::storage::Availability;

/// The time that each request for more time asks for, and the time between two.
const EXTENSION: Duration = Duration::from_secs(30);
const EXTENSION_PERIOD: Duration = Duration::from_secs(10);
/// The longest time that a stop asks for. A database that hangs must not prevent a restart for ever.
const LONGEST_STOP: Duration = Duration::from_secs(600);
/// The time between two looks at the database and at messages that wait, and between two updates of the status.
const LOOK: Duration = Duration::from_secs(1);
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// The least period of the watchdog that a sign of life each second satisfies.
const LEAST_WATCHDOG: Duration = Duration::from_secs(2);

/// Waits for a future. Meanwhile asks for more time, so that a long repair does not run into `TimeoutStartSec`.
pub(super) async fn extended<T>(manager: &ServiceManager, work: impl Future<Output = T>) -> T {
    let mut extension = Extension::new(manager, Duration::MAX);
    let mut work = pin!(work);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            _ = looks.tick() => extension.look(),
        }
    }
}

/// A thread that asks the service manager for more time while a stop blocks the main thread. Ends when dropped.
pub(super) struct StopExtension(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

impl StopExtension {
    pub(super) fn start(manager: &ServiceManager) -> Self {
        if !manager.is_present() {
            return Self(None);
        }
        let (ended, end) = mpsc::channel();
        let mut extension = Extension::new(manager, LONGEST_STOP);
        let asking = thread::Builder::new().name("stop".to_owned()).spawn(move || {
            loop {
                extension.look();
                if end.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        });
        match asking {
            Ok(asking) => Self(Some((ended, asking))),
            Err(error) => {
                warn!("cannot start a thread that asks the service manager for more time: {error}");
                Self(None)
            }
        }
    }
}

impl Drop for StopExtension {
    fn drop(&mut self) {
        if let Some((ended, asking)) = self.0.take() {
            drop(ended);
            // A panic has been reported, and the stop goes on.
            let _ = asking.join();
        }
    }
}

/// The requests for more time during one wait.
struct Extension {
    manager: ServiceManager,
    begin: Instant,
    /// The time during which more time is asked for.
    longest: Duration,
    asked: Option<Instant>,
}

impl Extension {
    fn new(manager: &ServiceManager, longest: Duration) -> Self {
        Self { manager: manager.clone(), begin: Instant::now(), longest, asked: None }
    }

    /// Sends what had no room before, and asks for more time if that is due. Must be called each second.
    fn look(&mut self) {
        self.manager.flush();
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= EXTENSION_PERIOD);
        // Asked for again if there was no room.
        if is_due && self.begin.elapsed() < self.longest && self.manager.extend_timeout(EXTENSION) {
            self.asked = Some(Instant::now());
        }
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
