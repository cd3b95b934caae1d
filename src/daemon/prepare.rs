//! Preparation inside the runtime: the database, accounts and access rules, the pid file, the socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::directories::DirectoryWarnings;
use super::error::StartError;
use super::listening::{self, EarlySocket};
use super::retry::retry;
use super::watch::log_loaded;
use super::{forwarding, second_opinions};
use crate::access::{self, Authorizer, PresentFiles};
use crate::forward::{ForwardSink, Forwarder};
use crate::limits::{AdmissionRules, Gate};
use crate::logging::Logs;
use crate::os::notify::Pulse;
use crate::os::pidfile::PidFile;
use crate::record::Timestamp;
use crate::remotes::RemoteDirectory;
use crate::server::{Server, ServerParts};
use crate::settings::Settings;
use crate::stats::ServerStats;
use crate::storage::{self, Engine};
use crate::upstream::Upstream;

/// Everything that serving needs.
pub(super) struct Prepared {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) server: Server,
    pub(super) present: PresentFiles,
    pub(super) access: Arc<ArcSwap<Authorizer>>,
    pub(super) stats: Arc<ServerStats>,
    /// Forwards accepted reports to other servers.
    pub(super) forwarder: Option<Arc<Forwarder>>,
    /// Asks other servers for second opinions.
    pub(super) upstream: Option<Arc<Upstream>>,
    /// The servers of forwarding and of second opinions, as loaded.
    pub(super) directories: [Option<RemoteDirectory>; 2],
    /// The UDP address of the server.
    pub(super) address: SocketAddr,
    pub(super) pid_file: Option<PidFile>,
    /// The address and the engine, for messages.
    pub(super) description: String,
}

/// Opens the database, loads accounts and access rules, writes the pid file, and binds the socket last, so that
/// requests arrive only when they can be answered.
pub(super) async fn prepare(
    settings: &Settings,
    logs: &Logs,
    socket: Option<EarlySocket>,
    pulse: Option<Pulse>,
) -> Result<Prepared, StartError> {
    let options = storage::EngineOptions {
        dsn: settings.digest_db.clone(),
        path: settings.digest_db_path.clone(),
        homedir: Some(settings.homedir.clone()),
        cleanup_age: (settings.cleanup_age > 0).then(|| Duration::from_secs(settings.cleanup_age)),
        connections: (settings.db_connections > 0).then_some(settings.db_connections as usize),
    };
    let engine = retry(async || storage::open(&settings.engine, &options).await).await?;
    let prepared = prepare_rest(settings, logs, socket, &engine, pulse).await;
    if prepared.is_err() {
        engine.close().await;
    }
    prepared
}

async fn prepare_rest(
    settings: &Settings,
    logs: &Logs,
    socket: Option<EarlySocket>,
    engine: &Arc<dyn Engine>,
    pulse: Option<Pulse>,
) -> Result<Prepared, StartError> {
    let loaded = access::load(&settings.access_sources(), PresentFiles::default())?;
    log_loaded(&loaded);
    let present = loaded.present;
    let mut warnings = DirectoryWarnings::default();
    let forwarding = settings.forward.as_ref();
    let forwarding =
        forwarding.map(|forward| forwarding::load(forward, &settings.homedir, &mut warnings)).transpose()?;
    let upstream = settings.upstream.as_ref();
    let upstream = upstream.map(|upstream| second_opinions::load(upstream, &mut warnings)).transpose()?;
    let directories = [
        forwarding.as_ref().map(|forwarding| forwarding.directory().clone()),
        upstream.as_ref().map(|upstream| upstream.directory().clone()),
    ];
    let access = Arc::new(ArcSwap::from_pointee(loaded.authorizer));
    let pid_file = match settings.detach {
        Some(_) => Some(retry(async || PidFile::write(&settings.pid_file)).await?),
        None => None,
    };
    let listener = listening::listen(settings, socket).await?;
    listener.warnings.iter().for_each(|warning| warn!("{warning}"));
    listener.notices.iter().for_each(|notice| info!("{notice}"));
    let address = listener.address();
    let description = format!("{address} (UDP), engine {}", engine.describe());
    let stats = Arc::new(ServerStats::default());
    let forwarder = forwarding.map(|forwarding| forwarding.start(address)).transpose()?;
    let (upstream, parts) = upstream.map(|upstream| upstream.start(address)).transpose()?.unzip();
    let server = Server::new(ServerParts {
        listener,
        access: Arc::clone(&access),
        engine: Arc::clone(engine),
        usage: logs.usage(),
        gate: Gate::new(rules(settings)),
        replay_guard: settings.replay_guard.then_some(settings.replay_guard_size),
        clock: Timestamp::now,
        stats: Arc::clone(&stats),
        pulse,
        origin: forwarding::own_origin(settings, forwarder.as_deref()),
        forward: forwarder.clone().map(|forwarder| forwarder as Arc<dyn ForwardSink>),
        forward_from: settings.forward_from.clone(),
        upstream: parts,
    })?;
    Ok(Prepared {
        engine: Arc::clone(engine),
        server,
        present,
        access,
        stats,
        forwarder,
        upstream,
        directories,
        address,
        pid_file,
        description,
    })
}

/// Returns the rules for accepting datagrams.
fn rules(settings: &Settings) -> AdmissionRules {
    AdmissionRules {
        allow: settings.allow_networks.clone(),
        deny: settings.deny_networks.clone(),
        rates: [settings.rate_limit, settings.rate_limit_errors, settings.rate_limit_writes],
        burst: settings.rate_limit_burst,
        exempt: settings.rate_limit_exempt.clone(),
        log_only: settings.rate_limit_log_only,
        prefix: (settings.rate_limit_prefix_v4, settings.rate_limit_prefix_v6),
        table: settings.rate_limit_table,
    }
}
