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
        let mut reloading: Option<oneshot::Receiver<Result<LoadedAccess, AccessLoadError>>> = None;
        let mut reload_again = self.reload_at_once;
        let mut reopen_again = false;
        let mut retry = None;
        let end = loop {
            // A signal during a reload may mean that a file has changed since it was read.
            if reload_again && reloading.is_none() {
                match self.reload(reopen_again) {
                    Ok(task) => {
                        reloading = Some(task);
                        (reopen_again, retry) = (false, None);
                    }
                    Err(error) => {
                        // What a signal has asked for is tried until it succeeds, and reported once.
                        if retry.is_none() {
                            error!(
                                "reloading failed: {error}; the logs, accounts and rules in force stay as they were \
                                 until it succeeds"
                            );
                        }
                        retry = Some(Instant::now() + RETRY);
                    }
                }
                reload_again = false;
            }
            tokio::select! {
                biased;
                why = &mut failed => {
                    error!(critical = true, "{why}");
                    break ServiceEnd::Failed;
                }
                () = stop.closed() => break ServiceEnd::Failed,
                outcome = async {
                    match &mut reloading {
                        Some(task) => task.await,
                        None => std::future::pending().await,
                    }
                } => {
                    reloading = None;
                    match outcome {
                        Ok(outcome) => self.take(outcome),
                        Err(_) => error!("reloading failed: its thread has died; {UNCHANGED}"),
                    }
                }
                () = async {
                    match retry {
                        Some(then) => sleep_until(then).await,
                        None => std::future::pending().await,
                    }
                } => reload_again = true,
                intention = self.signals.next() => match intention {
                    Intention::Stop(name) => {
                        info!("{name} received. Shutting down.");
                        break ServiceEnd::Asked;
                    }
                    Intention::Reload => {
                        info!("SIGUSR1 received. Reloading configuration.");
                        (reload_again, retry) = (true, None);
                    }
                    Intention::Reopen => {
                        info!("SIGHUP received. Reopening log files and reloading configuration.");
                        reopen_again = true;
                        (reload_again, retry) = (true, None);
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
    fn reload(&self, reopen: bool) -> io::Result<oneshot::Receiver<Result<LoadedAccess, AccessLoadError>>> {
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

/// Logs what was loaded.
pub(super) fn log_loaded(loaded: &LoadedAccess) {
    loaded.notes.iter().for_each(|note| info!("{note}"));
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
}
