//! Stopping in an orderly way when a signal asks for it.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::transfer::Failure;

/// Whether somebody wants the program to stop.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<Option<&'static str>>);

impl Stop {
    /// From here on INT and TERM ask for a stop; a second one ends the program on the spot.
    pub(super) fn on_signals() -> std::io::Result<Self> {
        let (sender, receiver) = watch::channel(None);
        for (kind, name) in [(SignalKind::interrupt(), "INT"), (SignalKind::terminate(), "TERM")] {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if sender.send_replace(Some(name)).is_some() {
                        // What this costs is what a kill costs: a file to be repaired by the next run.
                        std::process::exit(1);
                    }
                }
            });
        }
        Ok(Self(receiver))
    }

    /// Fails if a stop is wanted.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match *self.0.borrow() {
            Some(name) => Err(Failure::Interrupted(name)),
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
    pub(super) async fn sleep(&self, pause: Duration) -> Result<(), Failure> {
        let mut receiver = self.0.clone();
        // Without a sender left nobody can want it any more.
        let _ = tokio::time::timeout(pause, receiver.wait_for(Option::is_some)).await;
        self.check()
    }
}
