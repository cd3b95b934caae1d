//! The task beside the server that takes signals, reloads, and watches the engine.
//!
//! Reloading has three states:
//!
//! ```text
//!   Idle ─── request ──▶ Running ──┐
//!    ▲                    │ ▲ ▲    │ the reload ended, and there was another request meanwhile
//!    │                    │ │ └────┘
//!    └─ the reload ended ─┘ │
//!                           │ after RETRY, or at the next request
//!   Delayed ────────────────┘
//! ```
//!
//! `Delayed` takes the place of `Running` whenever the thread of a reload cannot be started.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use std::{io, thread};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::directories::DirectoryWarnings;
use super::reload::{PendingReload, ReloadRequest, ReloadResult};
use crate::access::{self, AccessLoadError, AccessSources, Authorizer, LoadedAccess, PresentFiles};
use crate::control::reply::ReloadReport;
use crate::logging::{LogOpenError, Logs};
use crate::os::notify::ServiceManager;
use crate::os::signals::{Intention, Signals};
use crate::record::Timestamp;
use crate::remotes::{self, DirectoryError, DirectorySource, LoadedDirectory, RemoteDirectory};
use crate::storage::Engine;

/// The pause before a retry, if the thread of a reload could not be started.
const RETRY: Duration = Duration::from_secs(1);

/// The most warnings in the result of a reload.
const MOST_WARNINGS: usize = 100;

/// The consequence of a failed reload, for messages.
const UNCHANGED: &str = "the accounts and access rules in force stay unchanged";

/// What to do about a file that a reload may not read, for messages.
const DENIED: &str = ": let the user of pyzord read it; if it already can, the file is outside the directories that \
                      confinement has permitted since the start: restart pyzord";

/// The reason for the end of the service.
pub(super) enum ServiceEnd {
    /// A signal asked the server to stop.
    Asked,
    /// The engine or the server failed.
    Failed,
}

/// Takes signals and watches the engine, beside the server.
pub(super) struct SignalWatch {
    pub(super) signals: Signals,
    /// Requests of operators.
    pub(super) requests: mpsc::Receiver<PendingReload>,
    /// The time of the last load, in seconds since the Unix epoch.
    pub(super) loaded: Arc<AtomicI64>,
    pub(super) sources: AccessSources,
    /// The files that existed at the last load.
    pub(super) present: PresentFiles,
    pub(super) access: Arc<ArcSwap<Authorizer>>,
    /// The homedirs that name other servers.
    pub(super) remotes: Vec<ReloadedDirectory>,
    pub(super) logs: Logs,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) manager: ServiceManager,
}

/// The homedir of a client, and what takes its servers when they were read again.
pub(super) struct ReloadedDirectory {
    /// The option that names the directory.
    pub(super) option: &'static str,
    pub(super) source: DirectorySource,
    /// The servers in use.
    pub(super) in_force: RemoteDirectory,
    /// What the servers are for, for messages.
    pub(super) servers: &'static str,
    /// Replaces the servers, and returns a line for each change.
    pub(super) replace: Box<dyn Fn(RemoteDirectory) -> Vec<String> + Send>,
}

impl SignalWatch {
    /// Obeys signals until the server must stop, and then asks it to through `stop`. `early` is a request that came
    /// before the server served.
    pub(super) async fn run_until_stopped(
        mut self,
        early: Option<ReloadRequest>,
        mut stop: oneshot::Sender<()>,
    ) -> ServiceEnd {
        let engine = Arc::clone(&self.engine);
        let failed = engine.failed();
        tokio::pin!(failed);
        let mut reload = early.map_or(Reload::Idle, |request| self.start(request.into()));
        let end = loop {
            tokio::select! {
                biased;
                why = &mut failed => {
                    error!(critical = true, "{why}");
                    break ServiceEnd::Failed;
                }
                () = stop.closed() => break ServiceEnd::Failed,
                event = reload.next() => reload = self.continue_reload(reload, event),
                intention = self.signals.next() => match intention {
                    Intention::Stop(name) => {
                        info!(lifecycle = true, "{name} received. Shutting down.");
                        break ServiceEnd::Asked;
                    }
                    Intention::Reload => {
                        info!(lifecycle = true, "SIGUSR1 received. {}", ReloadRequest::Access.announcement());
                        reload = self.request(reload, ReloadRequest::Access.into());
                    }
                    Intention::Reopen => {
                        info!(lifecycle = true, "SIGHUP received. {}", ReloadRequest::AccessAndLogs.announcement());
                        reload = self.request(reload, ReloadRequest::AccessAndLogs.into());
                    }
                },
                Some(pending) = self.requests.recv() => {
                    info!(lifecycle = true, "Operator's request received. {}", pending.request.announcement());
                    reload = self.request(reload, pending);
                }
            }
        };
        self.manager.stopping();
        // Fails if the server has ended without a request to stop.
        let _ = stop.send(());
        end
    }

    /// Starts a reload, or notes that another one must follow the running one: a file may have changed since that one
    /// read it.
    fn request(&self, reload: Reload, pending: PendingReload) -> Reload {
        match reload {
            Reload::Idle => self.start(pending),
            Reload::Running { outcome, running, next } => {
                let next = match next {
                    Some(next) => next.merge(pending),
                    None => pending,
                };
                Reload::Running { outcome, running, next: Some(next) }
            }
            Reload::Delayed { pending: delayed, .. } => self.start(delayed.merge(pending)),
        }
    }

    fn continue_reload(&mut self, reload: Reload, event: ReloadEvent) -> Reload {
        match (reload, event) {
            (Reload::Running { mut running, next, .. }, ReloadEvent::Finished(outcome)) => {
                running.answer(&self.apply(outcome));
                match next {
                    Some(next) => self.start(next),
                    None => {
                        self.manager.ready();
                        Reload::Idle
                    }
                }
            }
            // The failure to start it has been reported.
            (Reload::Delayed { pending, .. }, _) => {
                self.try_start(pending).unwrap_or_else(|(pending, _)| Reload::delayed(pending))
            }
            (reload, _) => reload,
        }
    }

    fn start(&self, pending: PendingReload) -> Reload {
        self.manager.reloading();
        self.try_start(pending).unwrap_or_else(|(mut pending, error)| {
            let text = format!(
                "cannot start a reload: {error}; the logs, accounts and access rules in force stay unchanged until a \
                 retry succeeds"
            );
            error!(lifecycle = true, "{text}");
            pending.answer(&Err(text));
            Reload::delayed(pending)
        })
    }

    /// Reloads in a thread of its own, because opening and reading files can take long, on a network file system for
    /// example.
    fn try_start(&self, pending: PendingReload) -> Result<Reload, (PendingReload, io::Error)> {
        let (logs, sources, before) = (self.logs.clone(), self.sources.clone(), self.present);
        let directories: Vec<_> = self.remotes.iter().map(|remotes| remotes.source.clone()).collect();
        let (done, outcome) = oneshot::channel();
        let reopens = pending.request == ReloadRequest::AccessAndLogs;
        // Not one of the runtime's threads: tokio panics when it cannot start one.
        let started = thread::Builder::new().name("reload".to_owned()).spawn(move || {
            let reopened = (reopens && logs.has_files()).then(|| logs.reopen());
            // Fails if the server has ended meanwhile.
            let _ = done.send(Box::new(ReloadOutcome {
                reopened,
                loaded: access::load(&sources, before),
                directories: directories.iter().map(remotes::load).collect(),
            }));
        });
        match started {
            Ok(_) => Ok(Reload::Running { outcome, running: pending, next: None }),
            Err(error) => Err((pending, error)),
        }
    }

    /// Applies the loaded accounts and access rules, and reports what changed or why they cannot be loaded.
    fn apply(&mut self, outcome: Result<Box<ReloadOutcome>, oneshot::error::RecvError>) -> ReloadResult {
        let Ok(outcome) = outcome else {
            let text = format!("cannot reload: the thread that reloads panicked; {UNCHANGED}");
            error!(lifecycle = true, "{text}");
            return Err(text);
        };
        let mut errors: Vec<String> = Vec::new();
        let mut report = ReloadReport::default();
        match outcome.reopened {
            Some(failures) if failures.is_empty() => {
                report.changes.push("the log files were reopened".to_owned());
            }
            Some(failures) => {
                errors.extend(failures.iter().map(|error| format!("{error}; still writing to the old file")));
            }
            None => {}
        }
        match outcome.loaded {
            Ok(loaded) => self.put_in_force(loaded, &mut report),
            Err(error) => {
                let remedy = if error.is_denied() { DENIED } else { "" };
                errors.push(format!("{error}{remedy}; {UNCHANGED}"));
            }
        }
        let mut warnings = DirectoryWarnings::default();
        for (remotes, loaded) in self.remotes.iter_mut().zip(outcome.directories) {
            let refusal = loaded.as_ref().ok().and_then(|loaded| loaded.refusal(&remotes.in_force));
            if let Some(refusal) = refusal {
                errors.push(format!("{}: {refusal}; {} stay unchanged", remotes.option, remotes.servers));
                continue;
            }
            match loaded {
                Ok(LoadedDirectory { directory, warnings: found, .. }) => {
                    report.warnings.extend(bounded(warnings.log(found)));
                    report.changes.extend(remotes.put_in_force(directory));
                }
                Err(mut error) => {
                    warnings.log(std::mem::take(&mut error.warnings));
                    let remedy = if error.is_denied() { DENIED } else { "" };
                    errors.push(format!(
                        "{}: {error}{remedy}; {} stay unchanged",
                        remotes.option, remotes.servers
                    ));
                }
            }
        }
        errors.iter().for_each(|error| error!(lifecycle = true, "{error}"));
        if errors.is_empty() {
            return Ok(report);
        }
        // One part can fail while the other succeeds.
        errors.extend(report.changes);
        Err(errors.join("; "))
    }

    fn put_in_force(&mut self, loaded: LoadedAccess, report: &mut ReloadReport) {
        log_loaded(&loaded);
        self.present = loaded.present;
        let before = self.access.swap(Arc::new(loaded.authorizer));
        self.loaded.store(Timestamp::now().seconds(), Ordering::Relaxed);
        info!(lifecycle = true, "The accounts and the access rules have been reloaded.");
        report.changes.extend(before.changes_to(&self.access.load()));
        report.warnings.extend(bounded(loaded.warnings));
    }
}

impl ReloadedDirectory {
    /// Uses these servers from now on. Logs and returns a line for each change.
    fn put_in_force(&mut self, directory: RemoteDirectory) -> Vec<String> {
        self.in_force = directory.clone();
        let changes = (self.replace)(directory);
        changes.iter().for_each(|change| info!(lifecycle = true, "{change}"));
        changes
    }
}

/// Returns the first warnings, and a line with the number of the others, which are in the log.
fn bounded(mut warnings: Vec<String>) -> Vec<String> {
    let more = warnings.len().saturating_sub(MOST_WARNINGS);
    if more > 0 {
        warnings.truncate(MOST_WARNINGS);
        warnings.push(format!("{more} more warnings: see the log"));
    }
    warnings
}

/// The result of the thread that reloads.
struct ReloadOutcome {
    /// The errors, if the logs were reopened.
    reopened: Option<Vec<LogOpenError>>,
    loaded: Result<LoadedAccess, AccessLoadError>,
    /// Those of [`SignalWatch::remotes`], in their order.
    directories: Vec<Result<LoadedDirectory, DirectoryError>>,
}

/// The state of reloading.
enum Reload {
    Idle,
    Running {
        outcome: oneshot::Receiver<Box<ReloadOutcome>>,
        running: PendingReload,
        /// The reload that must follow.
        next: Option<PendingReload>,
    },
    /// No thread could be started.
    Delayed {
        pending: PendingReload,
        until: Instant,
    },
}

enum ReloadEvent {
    Finished(Result<Box<ReloadOutcome>, oneshot::error::RecvError>),
    RetryDue,
}

impl Reload {
    fn delayed(pending: PendingReload) -> Self {
        Self::Delayed { pending, until: Instant::now() + RETRY }
    }

    /// Waits for the next event; forever, if idle.
    async fn next(&mut self) -> ReloadEvent {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Running { outcome, .. } => ReloadEvent::Finished(outcome.await),
            Self::Delayed { until, .. } => {
                sleep_until(*until).await;
                ReloadEvent::RetryDue
            }
        }
    }
}

/// Logs the notes and warnings about loaded files.
pub(super) fn log_loaded(loaded: &LoadedAccess) {
    loaded.notes.iter().for_each(|note| info!("{note}"));
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
}
