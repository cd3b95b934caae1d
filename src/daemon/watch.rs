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
use std::time::Duration;
use std::{io, thread};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::access::{self, AccessLoadError, AccessSources, Authorizer, LoadedAccess, PresentFiles};
use crate::logging::Logs;
use crate::os::notify::ServiceManager;
use crate::os::signals::{Intention, Signals};
use crate::storage::Engine;

/// The pause before a retry, if the thread of a reload could not be started.
const RETRY: Duration = Duration::from_secs(1);

/// The consequence of a failed reload, for messages.
const UNCHANGED: &str = "the accounts and access rules in force stay unchanged";

/// The reason for the end of the service.
pub(super) enum ServiceEnd {
    /// A signal asked the server to stop.
    Asked,
    /// The engine or the server failed.
    Failed,
}

/// The extent of a reload, the smaller one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReloadRequest {
    Access,
    AccessAndLogs,
}

/// Takes signals and watches the engine, beside the server.
pub(super) struct SignalWatch {
    pub(super) signals: Signals,
    pub(super) sources: AccessSources,
    /// The files that existed at the last load.
    pub(super) present: PresentFiles,
    pub(super) access: Arc<ArcSwap<Authorizer>>,
    pub(super) logs: Logs,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) manager: ServiceManager,
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
        let mut reload = early.map_or(Reload::Idle, |request| self.start(request));
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
                        info!(lifecycle = true, "SIGUSR1 received. Reloading configuration.");
                        reload = self.request(reload, ReloadRequest::Access);
                    }
                    Intention::Reopen => {
                        info!(
                            lifecycle = true,
                            "SIGHUP received. Reopening log files and reloading configuration."
                        );
                        reload = self.request(reload, ReloadRequest::AccessAndLogs);
                    }
                },
            }
        };
        self.manager.stopping();
        // Fails if the server has ended without a request to stop.
        let _ = stop.send(());
        end
    }

    /// Starts a reload, or notes that another one must follow the running one: a file may have changed since that one
    /// read it.
    fn request(&self, reload: Reload, request: ReloadRequest) -> Reload {
        match reload {
            Reload::Idle => self.start(request),
            Reload::Running { outcome, next } => Reload::Running { outcome, next: next.max(Some(request)) },
            Reload::Delayed { request: delayed, .. } => self.start(delayed.max(request)),
        }
    }

    fn continue_reload(&mut self, reload: Reload, event: ReloadEvent) -> Reload {
        match (reload, event) {
            (Reload::Running { next, .. }, ReloadEvent::Finished(outcome)) => {
                self.apply(outcome);
                next.map_or_else(
                    || {
                        self.manager.ready();
                        Reload::Idle
                    },
                    |request| self.start(request),
                )
            }
            // The failure to start it has been reported.
            (Reload::Delayed { request, .. }, _) => {
                self.try_start(request).unwrap_or_else(|_| Reload::delayed(request))
            }
            (reload, _) => reload,
        }
    }

    fn start(&self, request: ReloadRequest) -> Reload {
        self.manager.reloading();
        self.try_start(request).unwrap_or_else(|error| {
            error!(
                lifecycle = true,
                "cannot start a reload: {error}; the logs, accounts and access rules in force stay unchanged until a \
                 retry succeeds"
            );
            Reload::delayed(request)
        })
    }

    /// Reloads in a thread of its own, because opening and reading files can take long, on a network file system for
    /// example.
    fn try_start(&self, request: ReloadRequest) -> io::Result<Reload> {
        let (logs, sources, before) = (self.logs.clone(), self.sources.clone(), self.present);
        let (done, outcome) = oneshot::channel();
        // Not one of the runtime's threads: tokio panics when it cannot start one.
        thread::Builder::new().name("reload".to_owned()).spawn(move || {
            if request == ReloadRequest::AccessAndLogs {
                logs.reopen();
            }
            // Fails if the server has ended meanwhile.
            let _ = done.send(access::load(&sources, before));
        })?;
        Ok(Reload::Running { outcome, next: None })
    }

    /// Applies the loaded accounts and access rules, or reports why they cannot be loaded.
    fn apply(&mut self, outcome: Result<LoadOutcome, oneshot::error::RecvError>) {
        match outcome {
            Ok(Ok(loaded)) => {
                log_loaded(&loaded);
                self.present = loaded.present;
                self.access.store(Arc::new(loaded.authorizer));
                info!(lifecycle = true, "The accounts and the access rules have been reloaded.");
            }
            Ok(Err(error)) => error!(lifecycle = true, "{error}; {UNCHANGED}"),
            Err(_) => {
                error!(lifecycle = true, "cannot reload: the thread that reloads panicked; {UNCHANGED}");
            }
        }
    }
}

type LoadOutcome = Result<LoadedAccess, AccessLoadError>;

/// The state of reloading.
enum Reload {
    Idle,
    Running {
        outcome: oneshot::Receiver<LoadOutcome>,
        /// The reload that must follow.
        next: Option<ReloadRequest>,
    },
    /// No thread could be started.
    Delayed {
        request: ReloadRequest,
        until: Instant,
    },
}

enum ReloadEvent {
    Finished(Result<LoadOutcome, oneshot::error::RecvError>),
    RetryDue,
}

impl Reload {
    fn delayed(request: ReloadRequest) -> Self {
        Self::Delayed { request, until: Instant::now() + RETRY }
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
