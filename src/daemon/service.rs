//! The service inside the runtime: preparation, serving, shutdown.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

use nix::unistd::Uid;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::console::print_to_stderr;
use super::directories::{FORWARDING, UPSTREAM};
use super::error::{EXIT_FAILURE, StartError};
use super::forwarding::end_of_wait;
use super::listening::EarlySocket;
use super::manager::{StopExtension, check_watchdog, extended, keep_status};
use super::operation::{Operation, ProcessFacts, ServerFacts};
use super::operator_sockets::OperatorListeners;
use super::operators::Operators;
use super::prepare::{Prepared, prepare};
use super::reload::ReloadRequest;
use super::watch::{ReloadedDirectory, ServiceEnd, SignalWatch};
use crate::logging::Logs;
use crate::os::detach::Readiness;
use crate::os::notify::ServiceManager;
use crate::os::pidfile::PidFile;
use crate::os::signals::{Intention, Signals};
use crate::record::Timestamp;
use crate::settings::Settings;

/// The most reloads that wait to be taken by the watch.
const RELOADS: usize = 8;

/// Prepares and serves until a signal asks the server to stop. Returns the exit code. Takes `readiness` out of the option
/// once it serves.
pub(super) async fn serve(
    settings: &Settings,
    logs: &Logs,
    socket: Option<EarlySocket>,
    listeners: OperatorListeners,
    manager: ServiceManager,
    facts: ProcessFacts,
    readiness: &mut Option<Readiness>,
) -> Result<u8, StartError> {
    let mut signals = Signals::install()?;
    log_notes(settings);
    check_watchdog(&manager);
    let notes = listeners.notes();
    let mut operators = Operators::start(listeners)?;
    let mut early_reload = None;
    let mut preparation = Box::pin(prepare(settings, logs, socket, manager.watchdog()));
    let prepared = tokio::select! {
        prepared = extended(&manager, preparation.as_mut()) => prepared?,
        name = stop_requested(&mut signals, &mut early_reload) => {
            manager.stopping();
            let _extension = StopExtension::start(&manager);
            // Waits for the end of what has been begun.
            drop(preparation);
            return Err(StartError::Stopped(name));
        }
    };
    notes.log();
    announce(&prepared.description, &manager, readiness.take());
    logs.serving();
    prepared.engine.begin_expiry();
    let (operation, watch) = operated(settings, logs, &prepared, facts, signals, manager);
    operators.serving(&operation);
    let end = serve_until_stopped(prepared, operators, operation, watch, early_reload).await;
    info!(lifecycle = true, "Server shutdown.");
    Ok(match end {
        ServiceEnd::Asked => 0,
        ServiceEnd::Failed => EXIT_FAILURE,
    })
}

/// Returns what operators see of a prepared server, and the task that takes signals and reloads.
fn operated(
    settings: &Settings,
    logs: &Logs,
    prepared: &Prepared,
    facts: ProcessFacts,
    signals: Signals,
    manager: ServiceManager,
) -> (Arc<Operation>, SignalWatch) {
    let (reloads, requests) = mpsc::channel(RELOADS);
    let loaded = Arc::new(AtomicI64::new(Timestamp::now().seconds()));
    let operation = Arc::new(Operation {
        forwarder: prepared.forwarder.clone(),
        upstream: prepared.upstream.clone(),
        facts: ServerFacts::now(prepared.address.to_string(), settings.engine.clone(), facts),
        stats: Arc::clone(&prepared.stats),
        engine: Arc::clone(&prepared.engine),
        access: Arc::clone(&prepared.access),
        loaded: Arc::clone(&loaded),
        reloads,
    });
    let watch = SignalWatch {
        signals,
        requests,
        loaded,
        sources: settings.access_sources(),
        present: prepared.present,
        access: Arc::clone(&prepared.access),
        remotes: reloaded_directories(settings, prepared),
        logs: logs.clone(),
        engine: Arc::clone(&prepared.engine),
        manager,
    };
    (operation, watch)
}

/// Returns the homedirs of clients that a reload reads again.
fn reloaded_directories(settings: &Settings, prepared: &Prepared) -> Vec<ReloadedDirectory> {
    let [forwarded, asked] = &prepared.directories;
    let forwarding = settings.forward.as_ref().zip(prepared.forwarder.clone()).zip(forwarded.clone());
    let upstream = settings.upstream.as_ref().zip(prepared.upstream.clone()).zip(asked.clone());
    let forwarding = forwarding.map(|((settings, forwarder), in_force)| ReloadedDirectory {
        option: FORWARDING,
        source: settings.source.clone(),
        in_force,
        servers: "the servers that reports are forwarded to",
        replace: Box::new(move |directory| forwarder.replace(directory)),
    });
    let upstream = upstream.map(|((settings, upstream), in_force)| ReloadedDirectory {
        option: UPSTREAM,
        source: settings.source.clone(),
        in_force,
        servers: "the servers that are asked for second opinions",
        replace: Box::new(move |directory| upstream.replace(directory)),
    });
    forwarding.into_iter().chain(upstream).collect()
}

/// Serves, then ends the tasks for operators, closes the engine and removes the pid file.
async fn serve_until_stopped(
    prepared: Prepared,
    operators: Operators,
    operation: Arc<Operation>,
    watch: SignalWatch,
    early_reload: Option<ReloadRequest>,
) -> ServiceEnd {
    let Prepared { engine, mut server, pid_file, forwarder, upstream, .. } = prepared;
    let (stop, stopped) = oneshot::channel();
    let manager = watch.manager.clone();
    let status = keep_status(
        manager.clone(),
        {
            let engine = Arc::clone(&engine);
            move || engine.status().availability
        },
        move || operation.status().summary(),
    );
    let status = tokio::spawn(status);
    let watch = tokio::spawn(watch.run_until_stopped(early_reload, stop));
    let mut begun = Instant::now();
    server
        .serve(async {
            // A watch that has panicked drops its sender: stop then, too, because no signal could end the server.
            let _ = stopped.await;
            begun = Instant::now();
        })
        .await;
    status.abort();
    operators.end().await;
    let extension = StopExtension::start(&manager);
    if let Some(upstream) = upstream {
        upstream.stop();
    }
    if let Some(forwarder) = forwarder {
        forwarder.stop(end_of_wait(begun, Instant::now())).await;
    }
    engine.close().await;
    drop(extension);
    if let Some(pid_file) = pid_file {
        remove_pid_file(pid_file);
    }
    watch.await.unwrap_or_else(|error| {
        error!("the task that watches for signals panicked: {error}");
        ServiceEnd::Failed
    })
}

fn remove_pid_file(pid_file: PidFile) {
    let path = pid_file.path().to_owned();
    if let Err(error) = pid_file.remove() {
        warn!("cannot remove the pid file {}: {error}", path.display());
    }
}

/// Logs the warnings and notices of the settings.
fn log_notes(settings: &Settings) {
    settings.warnings.iter().for_each(|warning| warn!("{warning}"));
    if settings.user.is_empty() && Uid::effective().is_root() {
        warn!("running as root, which is not needed: set User to a dedicated user");
    }
    settings.notices.iter().for_each(|notice| info!("{notice}"));
}

/// Reports that requests are answered from now on: in the log, to the service manager, and to the terminal or the
/// process in the foreground.
fn announce(description: &str, manager: &ServiceManager, readiness: Option<Readiness>) {
    info!(lifecycle = true, "Listening on {description}");
    manager.ready();
    if readiness.is_none() && io::stderr().is_terminal() {
        print_to_stderr(&format!("pyzord: listening on {description}\n"));
    }
    if let Some(Err(error)) = readiness.map(Readiness::ready) {
        error!("{}", StartError::Detach(error));
    }
}

/// Waits for a signal to stop and returns its name. Remembers earlier requests to reload: the files that they concern
/// may have been read already, or not.
async fn stop_requested(signals: &mut Signals, reload: &mut Option<ReloadRequest>) -> &'static str {
    loop {
        let request = match signals.next().await {
            Intention::Stop(name) => return name,
            Intention::Reload => ReloadRequest::Access,
            Intention::Reopen => ReloadRequest::AccessAndLogs,
        };
        *reload = Some(request).max(*reload);
    }
}
