//! Beside the server: signals, reloading, the engine's health.

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::access::{self, AccessLoadError, AccessSources, Authorizer, LoadedAccess, PresentFiles};
use crate::logging::Logs;
use crate::os::signals::{Intention, Signals};
use crate::storage::Engine;

/// How soon a reload is tried again for which there was no thread.
const RETRY: Duration = Duration::from_secs(1);

/// What a reload that fails leaves behind.
const UNCHANGED: &str = "the accounts and rules in force stay as they were";

/// What ended the service.
pub(super) enum ServiceEnd {
    /// A signal.
    Asked,
    /// Something without which it cannot go on.
    Failed,
}

/// Takes signals and watches over the engine, beside the server.
pub(super) struct SignalWatch {
    pub(super) signals: Signals,
    /// Whether a signal asked for a reload before there was anything to reload.
    pub(super) reload_at_once: bool,
    pub(super) sources: AccessSources,
    /// Which files there were when they were loaded last.
    pub(super) present: PresentFiles,
    pub(super) access: Arc<ArcSwap<Authorizer>>,
    pub(super) logs: Logs,
    pub(super) engine: Arc<dyn Engine>,
}

impl SignalWatch {
    /// Reloads and reopens until the daemon is to end, which it then asks the server for.
    pub(super) async fn run_until_stopped(mut self, mut stop: oneshot::Sender<()>) -> ServiceEnd {
        let engine = Arc::clone(&self.engine);
        let failed = engine.failed();
        tokio::pin!(failed);
        let mut reload = PendingReload { is_wanted: self.reload_at_once, ..PendingReload::default() };
        let end = loop {
            reload.begin(&self);
            tokio::select! {
                biased;
                why = &mut failed => {
                    error!(critical = true, "{why}");
                    break ServiceEnd::Failed;
                }
                () = stop.closed() => break ServiceEnd::Failed,
                outcome = finished(&mut reload.running) => {
                    reload.running = None;
                    match outcome {
                        Ok(outcome) => self.take(outcome),
                        Err(_) => error!("reloading failed: its thread has died; {UNCHANGED}"),
                    }
                }
                () = due(reload.retry) => reload.is_wanted = true,
                intention = self.signals.next() => match intention {
                    Intention::Stop(name) => {
                        info!("{name} received. Shutting down.");
                        break ServiceEnd::Asked;
                    }
                    Intention::Reload => {
                        info!("SIGUSR1 received. Reloading configuration.");
                        reload.want(false);
                    }
                    Intention::Reopen => {
                        info!("SIGHUP received. Reopening log files and reloading configuration.");
                        reload.want(true);
                    }
                },
            }
        };
        // The receiver is gone when the server has ended by itself.
        let _ = stop.send(());
        end
    }

    /// Begins to reload, in a thread of its own: opening and reading may take long, on a network's file
    /// system for instance.
    fn reload(&self, reopen: bool) -> io::Result<ReloadOutcome> {
        let (logs, sources, before) = (self.logs.clone(), self.sources.clone(), self.present);
        let (done, reloading) = oneshot::channel();
        // The runtime's own threads would panic where there can be no more.
        thread::Builder::new().name("reload".to_owned()).spawn(move || {
            if reopen {
                logs.reopen();
            }
            // The receiver is gone when the server ends.
            let _ = done.send(access::load(&sources, before));
        })?;
        Ok(reloading)
    }

    /// Puts what was reloaded into force, or says why it is not.
    fn take(&mut self, outcome: Result<LoadedAccess, AccessLoadError>) {
        match outcome {
            Ok(loaded) => {
                log_loaded(&loaded);
                self.present = loaded.present;
                self.access.store(Arc::new(loaded.authorizer));
                info!("The accounts and the access rules have been reloaded.");
            }
            Err(error) => error!("{error}; {UNCHANGED}"),
        }
    }
}

/// What a thread that reloads will have loaded.
type ReloadOutcome = oneshot::Receiver<Result<LoadedAccess, AccessLoadError>>;

/// Reloads that signals have asked for.
#[derive(Default)]
struct PendingReload {
    running: Option<ReloadOutcome>,
    /// Whether another one is to begin when none is running: a signal during a reload may mean that a file has
    /// changed since it was read.
    is_wanted: bool,
    /// Whether the logs are to be opened again, too.
    reopen: bool,
    /// When one that could not begin is tried again.
    retry: Option<Instant>,
}

impl PendingReload {
    fn want(&mut self, reopen: bool) {
        self.reopen |= reopen;
        (self.is_wanted, self.retry) = (true, None);
    }

    /// Begins a reload that is wanted, unless one is running.
    fn begin(&mut self, watch: &SignalWatch) {
        if !self.is_wanted || self.running.is_some() {
            return;
        }
        match watch.reload(self.reopen) {
            Ok(task) => {
                self.running = Some(task);
                (self.reopen, self.retry) = (false, None);
            }
            Err(error) => {
                // What a signal has asked for is tried until it succeeds, and reported once.
                if self.retry.is_none() {
                    error!(
                        "reloading failed: {error}; the logs, accounts and rules in force stay as they were until it \
                         succeeds"
                    );
                }
                self.retry = Some(Instant::now() + RETRY);
            }
        }
        self.is_wanted = false;
    }
}

/// Waits for a reload that is running; for ever, if none is.
async fn finished(
    running: &mut Option<ReloadOutcome>,
) -> Result<Result<LoadedAccess, AccessLoadError>, oneshot::error::RecvError> {
    match running {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Waits for this moment; for ever, if there is none.
async fn due(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Logs what was loaded.
pub(super) fn log_loaded(loaded: &LoadedAccess) {
    loaded.notes.iter().for_each(|note| info!("{note}"));
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
}
