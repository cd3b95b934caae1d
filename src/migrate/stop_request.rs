//! Stops the program between two batches when a signal asks for it.

use std::time::Duration;

use tokio::sync::watch;

use super::transfer::MigrateError;
use crate::os::signals::StopSignals;

/// Whether a signal has asked for a stop, and the signal's name without `SIG`.
#[derive(Clone, Debug)]
pub(super) struct StopRequest(watch::Receiver<Option<&'static str>>);

impl StopRequest {
    /// Handles INT and TERM from now on. A second one exits at once.
    pub(super) fn on_signals() -> std::io::Result<Self> {
        let mut signals = StopSignals::install()?;
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let name = signals.next().await.trim_start_matches("SIG");
                if sender.send_replace(Some(name)).is_some() {
                    // As safe as a kill: the next run repairs a gdbm file that was not closed.
                    std::process::exit(1);
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Fails if a stop has been requested.
    pub(super) fn check(&self) -> Result<(), MigrateError> {
        match *self.0.borrow() {
            Some(name) => Err(MigrateError::Interrupted(name)),
            None => Ok(()),
        }
    }

    /// Waits until a stop is requested, and returns the signal's name.
    pub(super) async fn requested(&mut self) -> &'static str {
        match self.0.wait_for(Option::is_some).await.ok().and_then(|name| *name) {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// Sleeps; fails at once if a stop is requested.
    pub(super) async fn sleep(&self, pause: Duration) -> Result<(), MigrateError> {
        let mut receiver = self.0.clone();
        // An error means that the sender is gone: no stop can be requested any more.
        let _ = tokio::time::timeout(pause, receiver.wait_for(Option::is_some)).await;
        self.check()
    }
}
