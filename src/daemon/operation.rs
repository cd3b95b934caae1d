//! The running server as operators see it: its state, its counters, and reloads on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use nix::unistd::{Uid, User};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::reload::{PendingReload, ReloadRequest};
use crate::access::Authorizer;
use crate::control::reply::{ControlReply, StatusReport};
use crate::control::request::ControlRequest;
use crate::control::serve::Operated;
use crate::forward::Forwarder;
use crate::metrics::Observed;
use crate::stats::{ServerStats, StatsReport, UpstreamCounts};
use crate::storage::{BoxFuture, Engine};
use crate::upstream::{Upstream, UpstreamStatus};

/// The longest wait for a reload. After it, the reply says that the reload still runs.
const RELOAD_WAIT: Duration = Duration::from_secs(30);

/// The facts about a server that do not change while it runs.
#[derive(Debug)]
pub(super) struct ServerFacts {
    /// The UDP address.
    pub(super) address: String,
    /// The name of the engine.
    pub(super) engine: String,
    pub(super) process: ProcessFacts,
    started: Timestamp,
    start: Instant,
}

impl ServerFacts {
    /// Returns the facts of a server that begins to serve now.
    pub(super) fn now(address: String, engine: String, process: ProcessFacts) -> Self {
        Self { address, engine, process, started: Timestamp::now(), start: Instant::now() }
    }
}

/// Returns the kind of build, its target, and the revision if `PYZORD_REVISION` was set when it was compiled.
fn build() -> String {
    let kind = if cfg!(debug_assertions) { "debug" } else { "release" };
    let revision = option_env!("PYZORD_REVISION").map(|revision| format!(", {revision}")).unwrap_or_default();
    format!("{kind}, {} {}{revision}", std::env::consts::OS, std::env::consts::ARCH)
}

/// The facts about the process that are known before the runtime exists.
#[derive(Debug)]
pub(super) struct ProcessFacts {
    /// The user that the server runs as.
    pub(super) user: String,
    /// The line of the log on confinement.
    pub(super) confinement: String,
}

/// Returns the name of the current user, or its number if it has no name. A confined process knows no names.
pub(super) fn user_name() -> String {
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// The running server.
pub(super) struct Operation {
    pub(super) facts: ServerFacts,
    pub(super) stats: Arc<ServerStats>,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) forwarder: Option<Arc<Forwarder>>,
    pub(super) upstream: Option<Arc<Upstream>>,
    pub(super) access: Arc<ArcSwap<Authorizer>>,
    /// The time of the last load of accounts and access rules, in seconds since the Unix epoch.
    pub(super) loaded: Arc<AtomicI64>,
    pub(super) reloads: mpsc::Sender<PendingReload>,
}

impl Operation {
    /// Returns the state of the server.
    pub(super) fn status(&self) -> StatusReport {
        let Self { facts, stats, .. } = self;
        let recent = stats.recent();
        let loaded = Timestamp::from_second(self.loaded.load(Ordering::Relaxed)).unwrap_or_default();
        let mut report = StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: build(),
            pid: std::process::id(),
            address: facts.address.clone(),
            started: in_seconds(facts.started),
            uptime_seconds: facts.start.elapsed().as_secs(),
            user: facts.process.user.clone(),
            confinement: facts.process.confinement.clone(),
            engine: facts.engine.clone(),
            database: self.engine.describe(),
            storage: self.engine.status(),
            accounts: self.access.load().len(),
            loaded: in_seconds(loaded),
            replies: stats.replies(),
            requests_per_second: recent.requests_per_second,
            drops: stats.drops.total(),
            lost_last_minute: recent.lost,
            replies_last_minute: recent.replies,
            engine_panics: stats.engine_panics.get(),
            forwarding: self.forwarder.as_ref().map(|forwarder| forwarder.status()).unwrap_or_default(),
            upstream: self.upstream.as_ref().map(|upstream| UpstreamStatus {
                servers: upstream.status(),
                cached: stats.upstream.cached.get(),
                waiting: stats.upstream.waiting.get(),
            }),
            ..StatusReport::default()
        };
        report.judge();
        report
    }

    /// Returns the counters of the server.
    fn counters(&self) -> StatsReport {
        let forwarding = self.forwarder.as_ref().map(|forwarder| forwarder.counts()).unwrap_or_default();
        let upstream = self
            .upstream
            .as_ref()
            .map(|upstream| UpstreamCounts { servers: upstream.counts(), ..self.stats.upstream.report() });
        StatsReport { forwarding, upstream, ..self.stats.report() }
    }

    async fn reload(&self, request: ReloadRequest) -> ControlReply {
        let (sender, result) = oneshot::channel();
        let pending = PendingReload { request, waiting: vec![sender] };
        if self.reloads.send(pending).await.is_err() {
            return ControlReply::Unavailable("the server is stopping".to_owned());
        }
        match timeout(RELOAD_WAIT, result).await {
            Ok(Ok(Ok(report))) => ControlReply::Reloaded(report),
            Ok(Ok(Err(why))) => ControlReply::Error(why),
            Ok(Err(_)) => ControlReply::Unavailable("the server is stopping".to_owned()),
            Err(_) => {
                let seconds = RELOAD_WAIT.as_secs();
                ControlReply::Error(format!(
                    "the reload has not finished after {seconds} s: its result will be in the log"
                ))
            }
        }
    }
}

impl Operated for Operation {
    fn answer(&self, request: ControlRequest) -> BoxFuture<'_, ControlReply> {
        Box::pin(async move {
            match request {
                ControlRequest::Status {} => ControlReply::Status(Box::new(self.status())),
                ControlRequest::Stats {} => ControlReply::Stats(Box::new(self.counters())),
                ControlRequest::Reload {} => self.reload(ReloadRequest::Access).await,
                ControlRequest::Reopen {} => self.reload(ReloadRequest::AccessAndLogs).await,
            }
        })
    }
}

impl Observed for Operation {
    fn status(&self) -> StatusReport {
        Self::status(self)
    }

    fn stats(&self) -> StatsReport {
        self.counters()
    }
}

/// Formats a time as in RFC 3339, without fractions of a second.
fn in_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
