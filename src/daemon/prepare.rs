//! What must be had before the daemon serves, and what it means when it cannot.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use thiserror::Error;
use tracing::{info, warn};

use super::listening::{self, RootSocket};
use super::watch::log_loaded;
use crate::access::{self, AccessLoadError, Authorizer, PresentFiles};
use crate::limits::{AdmissionRules, Gate};
use crate::logging::Logs;
use crate::os::pidfile::{PidFile, PidFileError};
use crate::record::Timestamp;
use crate::server::socket::BindError;
use crate::server::{Server, ServerParts};
use crate::settings::Settings;
use crate::storage::{self, Engine, EngineOpenError};

/// What a dying process may still hold, a lock or the port, is waited for so long.
pub(super) const HANDOVER: Duration = Duration::from_secs(2);
/// How often it is tried again.
pub(super) const HANDOVER_STEP: Duration = Duration::from_millis(50);

/// Why the daemon did not start: one line for the operator.
#[derive(Debug, Error)]
pub(super) enum StartError {
    #[error("cannot create the homedir {path}: {error}")]
    Homedir { path: String, error: io::Error },
    #[error("cannot write to the file {path} of --detach: {error}")]
    Output { path: String, error: io::Error },
    #[error("cannot detach from the terminal: {0}")]
    Detach(io::Error),
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error(transparent)]
    Database(#[from] EngineOpenError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Access(#[from] AccessLoadError),
}

/// All that serving needs, once it could be had.
pub(super) struct Prepared {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) server: Server,
    pub(super) present: PresentFiles,
    pub(super) access: Arc<ArcSwap<Authorizer>>,
    pub(super) pid_file: Option<PidFile>,
    pub(super) place: String,
}

/// Opens the database, reads accounts and access, writes the pid file, and then binds the socket: requests come only
/// once they can be answered.
pub(super) async fn prepare(
    settings: &Settings,
    logs: &Logs,
    socket: Option<RootSocket>,
    detached: bool,
) -> Result<Prepared, StartError> {
    let options = storage::EngineOptions {
        dsn: settings.digest_db.clone(),
        path: settings.digest_db_path.clone(),
        homedir: Some(settings.homedir.clone()),
        cleanup_age: (settings.cleanup_age > 0).then(|| Duration::from_secs(settings.cleanup_age)),
        connections: (settings.db_connections > 0).then_some(settings.db_connections as usize),
    };
    let engine = hand_over(EngineOpenError::is_busy, || storage::open(&settings.engine, &options)).await?;
    let prepared = prepare_rest(settings, logs, socket, detached, &engine).await;
    if prepared.is_err() {
        engine.close().await;
    }
    prepared
}

async fn prepare_rest(
    settings: &Settings,
    logs: &Logs,
    socket: Option<RootSocket>,
    detached: bool,
    engine: &Arc<dyn Engine>,
) -> Result<Prepared, StartError> {
    let loaded = access::load(&settings.access_sources(), PresentFiles::default())?;
    log_loaded(&loaded);
    let present = loaded.present;
    let access = Arc::new(ArcSwap::from_pointee(loaded.authorizer));
    let pid_file = match detached {
        true => {
            Some(hand_over(PidFileError::is_busy, || async { PidFile::write(&settings.pid_file) }).await?)
        }
        false => None,
    };
    let listener = listening::listen(settings, socket).await?;
    listener.warnings.iter().for_each(|warning| warn!("{warning}"));
    listener.notices.iter().for_each(|notice| info!("{notice}"));
    let place = format!("{} (UDP), engine {}", listener.address(), engine.describe());
    let server = Server::new(ServerParts {
        listener,
        access: Arc::clone(&access),
        engine: Arc::clone(engine),
        usage: logs.usage(),
        gate: Gate::new(rules(settings)),
        replay_guard: settings.replay_guard.then_some(settings.replay_guard_size),
        clock: Timestamp::now,
    })?;
    Ok(Prepared { engine: Arc::clone(engine), server, present, access, pid_file, place })
}

/// Tries until what a dying process still holds is free, within a bound.
async fn hand_over<T, E, F: Future<Output = Result<T, E>>>(
    is_held: impl Fn(&E) -> bool,
    attempt: impl Fn() -> F,
) -> Result<T, E> {
    let deadline = Instant::now() + HANDOVER;
    loop {
        match attempt().await {
            Err(error) if is_held(&error) && Instant::now() < deadline => {
                tokio::time::sleep(HANDOVER_STEP).await;
            }
            outcome => return outcome,
        }
    }
}

/// Which datagrams are accepted, and how often.
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
