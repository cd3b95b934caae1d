//! A start, up to the runtime, in an order in which nothing that must not survive a fork exists before it.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::console::say;
use super::identity::{self, StartAborted};
use super::listening::RootSocket;
use super::prepare::{HANDOVER, HANDOVER_STEP, StartError};
use super::service::{failed_start, serve, stopped_while_starting};
use super::{confinement, runtime};
use crate::logging::{self, Logs};
use crate::os::detach::{self, Readiness};
use crate::os::{self, inherited, pidfile, privileges, signals};
use crate::settings::Settings;

/// How long the logs may take to be written at the end.
const LOG_WAIT: Duration = Duration::from_secs(1);

/// Everything up to the runtime.
pub(super) fn start(settings: &Settings) -> ExitCode {
    os::restrict_umask();
    let made_homedir = match create_homedir(&settings.homedir) {
        Ok(is_made) => is_made,
        Err(error) => {
            say("error", &error);
            return ExitCode::FAILURE;
        }
    };
    // Before anything else is open, and while it is the user who may have them.
    if let Some(path) = &settings.detach
        && let Err(error) = inherited::check_open(path)
    {
        say("error", &StartError::Output { path: path.display().to_string(), error });
        return ExitCode::FAILURE;
    }
    let inherited = match logging::inherit(settings.log_file.as_deref(), settings.usage_log_file.as_deref()) {
        Ok(inherited) => inherited,
        Err(error) => {
            say("error", &error);
            return ExitCode::FAILURE;
        }
    };
    let output = match settings.detach.as_deref().map(identity::open_output).transpose() {
        Ok(output) => output,
        Err(error) => {
            say("error", &error);
            return ExitCode::FAILURE;
        }
    };
    // Only root may lower it.
    let niced = privileges::nice(settings.nice);
    let socket = match identity::assume(settings, made_homedir) {
        Ok(socket) => socket,
        Err(refusal) => return refused(settings, refusal, |error| say("error", &error)),
    };
    let (log, usage_log) = (settings.log_file.as_deref(), settings.usage_log_file.as_deref());
    let logs = match logging::open(log, usage_log, settings.debug, inherited) {
        Ok(logs) => logs,
        Err(error) => {
            say("error", &error);
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = niced {
        warn!("the niceness {} was refused: {error}", settings.nice);
    }
    let readiness = match detach(settings, &logs, output, socket.as_ref()) {
        Ok(readiness) => readiness,
        Err(refusal) => return refused(settings, refusal, |error| error!("{error}")),
    };
    info!("Starting pyzord server.");
    confinement::confine(settings);
    let outcome = run(settings, &logs, socket, readiness);
    logs.close(LOG_WAIT);
    outcome
}

/// Ends a start that has failed or was stopped before there is a runtime. With `--detach` both are failures, since
/// the caller expects a daemon that serves.
fn refused(settings: &Settings, refusal: StartAborted, report: impl Fn(String)) -> ExitCode {
    match refusal {
        StartAborted::Failed(errors) => errors.into_iter().for_each(report),
        StartAborted::Stopped(name) if settings.detach.is_none() => {
            say("note", &stopped_while_starting(name));
            return ExitCode::SUCCESS;
        }
        StartAborted::Stopped(name) => report(stopped_while_starting(name)),
    }
    ExitCode::FAILURE
}

/// Makes the homedir if it is not there, and says whether that was so.
fn create_homedir(path: &Path) -> Result<bool, StartError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StartError::Homedir { path: path.display().to_string(), error })
        }
        outcome => Ok(outcome.is_ok()),
    }
}

/// Goes into the background if that is asked for, once it is clear that no other daemon has the
/// pid file.
fn detach(
    settings: &Settings,
    logs: &Logs,
    output: Option<File>,
    socket: Option<&RootSocket>,
) -> Result<Option<Readiness>, StartAborted> {
    let Some(output) = output else { return Ok(None) };
    let failed = |error: StartError| StartAborted::Failed(vec![error.to_string()]);
    let deadline = Instant::now() + HANDOVER;
    let mut pause = Duration::ZERO;
    loop {
        if let Some(name) = signals::stopped_within(pause) {
            return Err(StartAborted::Stopped(name));
        }
        match pidfile::check(&settings.pid_file) {
            Ok(()) => break,
            Err(error) if !error.is_busy() || Instant::now() >= deadline => return Err(failed(error.into())),
            Err(_) => pause = HANDOVER_STEP,
        }
    }
    let mut kept = logs.descriptors();
    kept.extend(socket.into_iter().flat_map(RootSocket::descriptors));
    detach::detach(output, &kept).map(Some).map_err(|error| failed(StartError::Detach(error)))
}

/// Everything from the runtime on.
fn run(
    settings: &Settings,
    logs: &Logs,
    socket: Option<RootSocket>,
    readiness: Option<Readiness>,
) -> ExitCode {
    let runtime = match runtime::build() {
        Ok(runtime) => runtime,
        Err(error) => return failed_start(StartError::System(error), readiness),
    };
    let outcome = runtime.block_on(serve(settings, logs, socket, readiness));
    // A file that cannot be read right now must not keep the process.
    runtime.shutdown_background();
    outcome
}
