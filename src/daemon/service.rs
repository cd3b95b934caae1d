//! The service, from the runtime on: preparing, serving, and the end.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;

use nix::unistd::Uid;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::console::{print_to_stderr, say};
use super::listening::RootSocket;
use super::prepare::{Prepared, StartError, prepare};
use super::watch::{ServiceEnd, SignalWatch};
use crate::logging::Logs;
use crate::os::detach::Readiness;
use crate::os::pidfile::PidFile;
use crate::os::signals::{Intention, Signals};
use crate::settings::Settings;

/// Prepares everything that serving needs, serves until a signal asks for the end, and cleans up.
pub(super) async fn serve(
    settings: &Settings,
    logs: &Logs,
    socket: Option<RootSocket>,
    readiness: Option<Readiness>,
) -> ExitCode {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return failed_start(error.into(), readiness),
    };
    log_notes(settings);
    let mut reload_at_once = false;
    let prepared = tokio::select! {
        prepared = prepare(settings, logs, socket, readiness.is_some()) => prepared,
        name = stop_asked(&mut signals, &mut reload_at_once) => {
            info!("{name} received. Shutting down.");
            if let Some(readiness) = readiness {
                say("error", &stopped_while_starting(name));
                readiness.failed();
            }
            return ExitCode::SUCCESS;
        }
    };
    let Prepared { engine, mut server, present, access, pid_file, place } = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return failed_start(error, readiness),
    };
    announce(&place, readiness);
    logs.serving();
    engine.begin_expiry();

    let (stop, stopped) = oneshot::channel();
    let watch = SignalWatch {
        signals,
        reload_at_once,
        sources: settings.access_sources(),
        present,
        access,
        logs: logs.clone(),
        engine: Arc::clone(&engine),
    };
    let watch = tokio::spawn(watch.run_until_stopped(stop));
    let stopped = async move {
        // A watch that has died cannot ask any more; without one the daemon would never end.
        let _ = stopped.await;
    };
    server.serve(stopped).await;
    engine.close().await;
    if let Some(Err(error)) = pid_file.map(PidFile::remove) {
        warn!("the pid file {} stays: {error}", settings.pid_file.display());
    }
    let end = watch.await.unwrap_or_else(|error| {
        error!("the watch over signals has died: {error}");
        ServiceEnd::Failed
    });
    info!("Server shutdown.");
    match end {
        ServiceEnd::Asked => ExitCode::SUCCESS,
        ServiceEnd::Failed => ExitCode::FAILURE,
    }
}

/// Logs what the operator should look at or know of the settings.
fn log_notes(settings: &Settings) {
    settings.warnings.iter().for_each(|warning| warn!("{warning}"));
    if settings.user.is_empty() && Uid::effective().is_root() {
        warn!("running as root, which the server has no need of: set User to one that is made for it");
    }
    settings.notices.iter().for_each(|notice| info!("{notice}"));
}

/// Says that requests are answered from now on, in the log, and to the terminal or the process in the foreground.
fn announce(place: &str, readiness: Option<Readiness>) {
    info!("Listening on {place}");
    if readiness.is_none() && io::stderr().is_terminal() {
        print_to_stderr(&format!("pyzord: listening on {place}\n"));
    }
    if let Some(Err(error)) = readiness.map(Readiness::ready) {
        error!("{}", StartError::Detach(error));
    }
}

/// Says that a signal has ended a start.
pub(super) fn stopped_while_starting(signal: &str) -> String {
    format!("stopped by {signal} while it was starting")
}

/// The name of the signal to stop. Others before it are remembered: what they want read again may
/// have been read already, or not.
async fn stop_asked(signals: &mut Signals, reload: &mut bool) -> &'static str {
    loop {
        match signals.next().await {
            Intention::Stop(name) => return name,
            Intention::Reload | Intention::Reopen => *reload = true,
        }
    }
}

/// Reports why a start has failed.
pub(super) fn failed_start(error: StartError, readiness: Option<Readiness>) -> ExitCode {
    error!("{error}");
    if let Some(readiness) = readiness {
        readiness.failed();
    }
    ExitCode::FAILURE
}
