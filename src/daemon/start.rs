//! Startup before the tokio runtime exists. Everything that a fork would break (threads, the runtime) is created after
//! the detach.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tracing::{error, info, warn};

use super::console::say;
use super::error::{EXIT_FAILURE, StartError};
use super::identity;
use super::listening::{self, EarlySocket};
use super::operation::ProcessFacts;
use super::operator_sockets::OperatorListeners;
use super::retry::retry_blocking;
use super::service::serve;
use super::{confinement, operation, runtime};
use crate::logging::{self, Logs};
use crate::os::detach::{self, Readiness};
use crate::os::inherited::{self, Inherited};
use crate::os::notify::ServiceManager;
use crate::os::privileges::Identity;
use crate::os::{self, activation, open, pidfile, privileges};
use crate::settings::Settings;

/// The time limit for flushing the logs at the end.
const LOG_WAIT: Duration = Duration::from_secs(1);

/// Everything that is opened before the detach.
struct Opened {
    logs: Logs,
    /// The file that `--detach` names.
    output: Option<File>,
    /// The socket, if the service manager passed it or `User` has taken effect.
    socket: Option<EarlySocket>,
    manager: ServiceManager,
}

/// Starts the server and returns when it has ended.
pub(super) fn start(settings: &Settings) -> ExitCode {
    os::restrict_umask();
    let opened = match open_all(settings) {
        Ok(opened) => opened,
        Err(StartError::Stopped(name)) if settings.detach.is_none() => {
            say("note", &StartError::Stopped(name));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            error.lines().iter().for_each(|line| say("error", line));
            return ExitCode::from(error.exit_code());
        }
    };
    let logs = opened.logs.clone();
    let mut readiness = None;
    let code = run(settings, opened, &mut readiness).unwrap_or_else(|error| report(settings, &error));
    // Last, because the process that waits for it ends at once: everything has been reported by then.
    if let Some(readiness) = readiness {
        readiness.failed(code);
    }
    logs.close(LOG_WAIT);
    ExitCode::from(code)
}

/// Reports the reason for the end of a start to the logs, and returns the exit code. With `--detach` a stop is a failure, since the caller expects
/// a server that serves.
fn report(settings: &Settings, error: &StartError) -> u8 {
    let StartError::Stopped(name) = error else {
        error.lines().iter().for_each(|line| error!("{line}"));
        return error.exit_code();
    };
    info!(lifecycle = true, "{name} received. Shutting down.");
    if settings.detach.is_none() {
        return 0;
    }
    say("error", error);
    EXIT_FAILURE
}

/// Opens the logs, the output of `--detach`, the connection to the service manager and, as root, the socket, and becomes
/// the user that `User` names.
fn open_all(settings: &Settings) -> Result<Opened, StartError> {
    let passed = activation::passed_socket()?;
    // Descriptors of the caller: before anything else is open, and before User takes effect.
    if let Some(path) = &settings.detach {
        inherited::check_open(path).map_err(|error| StartError::Output { path: path.clone(), error })?;
    }
    let (log, usage_log) = (settings.log_file.as_deref(), settings.usage_log_file.as_deref());
    let inherited = logging::inherit(log, usage_log)?;
    // Looked up first, so that a start that fails leaves no homedir of root behind.
    let identity = identity::to_assume(settings)?;
    create_homedir(&settings.homedir, identity.as_ref())?;
    let output = settings.detach.as_deref().map(open_output).transpose()?;
    // Before User and Confine take effect, which may make its socket unreachable.
    let manager = ServiceManager::connect().unwrap_or_else(|error| {
        say("warning", &format_args!("cannot reach the service manager: {error}"));
        ServiceManager::default()
    });
    // As root, which may set larger buffers.
    let socket = passed.map(|socket| listening::of_passed(settings, socket)).transpose()?;
    // Lowering the niceness needs root: do it before User takes effect.
    let niced = privileges::nice(settings.nice);
    let socket = identity::assume(settings, identity.as_ref(), socket)?;
    let logs = logging::open(log, usage_log, settings.debug, inherited)?;
    if let Err(error) = niced {
        warn!("cannot set the niceness to {}: {error}", settings.nice);
    }
    Ok(Opened { logs, output, socket, manager })
}

/// Creates the homedir for this user, or for the current one, unless it exists.
fn create_homedir(path: &Path, identity: Option<&Identity>) -> Result<(), StartError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => identity.map_or(Ok(()), |identity| identity::give_homedir(path, identity)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StartError::Homedir { path: path.to_owned(), error }),
    }
}

/// Opens the file that takes all output in the background.
fn open_output(path: &Path) -> Result<File, StartError> {
    let opened = match Inherited::named(path) {
        Ok(Some(inherited)) => inherited.duplicate().map(File::from),
        Ok(None) => open::to_append(path),
        Err(error) => Err(error),
    };
    opened.map_err(|error| StartError::Output { path: path.to_owned(), error })
}

/// Detaches, confines the process and serves. `readiness` is left to the caller if the server never served.
fn run(settings: &Settings, opened: Opened, readiness: &mut Option<Readiness>) -> Result<u8, StartError> {
    let Opened { logs, output, socket, manager } = opened;
    if settings.detach.is_some() {
        // First, because it names the running server, if there is one.
        retry_blocking(|| pidfile::check(&settings.pid_file))?;
    }
    let listeners = OperatorListeners::open(settings)?;
    if let Some(output) = output {
        let mut kept = logs.descriptors();
        kept.extend(socket.iter().flat_map(EarlySocket::descriptors));
        kept.extend(listeners.descriptors());
        kept.extend(manager.descriptor());
        *readiness = Some(detach::detach(output, &kept).map_err(StartError::Detach)?);
    }
    info!(lifecycle = true, "Starting pyzord server.");
    // The fields in this order: a confined process knows no names of users.
    let facts = ProcessFacts {
        user: operation::user_name(),
        confinement: confinement::confine(settings, &listeners.accepting()),
    };
    let runtime = runtime::build()?;
    let outcome = runtime.block_on(serve(settings, &logs, socket, listeners, manager, facts, readiness));
    // A reload that still reads a file must not keep the process.
    runtime.shutdown_background();
    outcome
}
