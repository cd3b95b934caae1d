//! Stopping in an orderly way when a signal asks for it.

use std::time::Duration;

use tokio::sync::watch;

use super::transfer::MigrateError;
use crate::os::signals::StopSignals;

/// Whether somebody wants the program to stop.
#[derive(Clone, Debug)]
pub(super) struct StopRequest(watch::Receiver<Option<&'static str>>);

impl StopRequest {
    /// From here on INT and TERM ask for a stop; a second one ends the program on the spot.
    pub(super) fn on_signals() -> std::io::Result<Self> {
        let mut signals = StopSignals::install()?;
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let name = signals.next().await.trim_start_matches("SIG");
                if sender.send_replace(Some(name)).is_some() {
                    // What this costs is what a kill costs: a file to be repaired by the next run.
                    std::process::exit(1);
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Fails if a stop is wanted.
    pub(super) fn check(&self) -> Result<(), MigrateError> {
        match *self.0.borrow() {
            Some(name) => Err(MigrateError::Interrupted(name)),
            None => Ok(()),
        }
    }

    /// Waits until a stop is wanted, by that signal.
    pub(super) async fn wanted(&mut self) -> &'static str {
        match self.0.wait_for(Option::is_some).await.ok().and_then(|name| *name) {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    /// Waits, unless a stop is wanted.
    pub(super) async fn sleep(&self, pause: Duration) -> Result<(), MigrateError> {
        let mut receiver = self.0.clone();
        // Without a sender left nobody can want it any more.
        let _ = tokio::time::timeout(pause, receiver.wait_for(Option::is_some)).await;
        self.check()
    }
}
