//! The daemon from its command line to its end: puts the rooms together, in an order in which
//! nothing that must not survive a fork exists before it, and no signal can come too early.

mod confinement;
mod identity;
mod listening;
mod prepare;
mod runtime;
mod watch;

use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use self::identity::Refusal;
use self::listening::Socket;
use self::prepare::{HANDOVER, HANDOVER_STEP, Prepared, StartError, prepare, sources};
use self::watch::{End, Watch};
use crate::access::{self, Present, Sources};
use crate::logging::{self, Logs};
use crate::os::detach::{self, Readiness};
use crate::os::inherited::{self, Inherited};
use crate::os::pidfile::{self, PidFile};
use crate::os::signals::{self, Intention, Signals};
use crate::os::{self, privileges};
use crate::settings::{self, Environment, Failure, Invocation, Settings};
use crate::storage::{self, Cancel};
use pyzor_home::problem::ConfigProblem;

/// The command line was misused.
const EXIT_USAGE: u8 = 2;
/// How often a recovery looks whether it is to stop, and whether it is done.
const RECOVERY_STEP: Duration = Duration::from_millis(20);
/// How long the logs may take to be written at the end.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the program `pyzord`.
pub fn main() -> ExitCode {
    signals::ignore_meaningless();
    // Signals wait until the server can take them. Everything else that the program does is ended by them.
    if let Err(error) = signals::block() {
        say("error", &StartError::System(error));
        return ExitCode::FAILURE;
    }
    let invocation = settings::load(std::env::args_os().skip(1), &Environment::of_process());
    // A repair takes them, too.
    if !matches!(invocation, Ok(Invocation::Serve(_) | Invocation::Recover(_)))
        && let Err(error) = signals::unblock()
    {
        say("error", &StartError::System(error));
        return ExitCode::FAILURE;
    }
    match invocation {
        Ok(Invocation::Print(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Ok(Invocation::CheckConfig(settings)) => {
            settings.notices.iter().for_each(|notice| say("note", notice));
            check(&[], &settings.warnings, &sources(&settings))
        }
        Ok(Invocation::Recover(settings)) => recover(&settings),
        Ok(Invocation::Serve(settings)) => start(&settings),
        Err(Failure::Usage(text)) => {
            // Nobody may be left to read it.
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Configuration { problems, warnings, check: Some(sources) }) => {
            check(&problems, &warnings, &sources)
        }
        Err(Failure::Configuration { problems, warnings, check: None }) => {
            warnings.iter().for_each(|warning| say("warning", warning));
            problems.iter().for_each(|problem| say("error", problem));
            ExitCode::FAILURE
        }
    }
}

/// Prints one line for a person on stderr, before there are logs. Where that is gone, or is full because nothing
/// reads it, the line is dropped: a start waits for no reader.
fn say(what: &str, text: &dyn fmt::Display) {
    tell(&format!("pyzord: {what}: {text}\n"));
}

fn tell(line: &str) {
    let mut rest = line.as_bytes();
    while !rest.is_empty()
        && let Ok(written @ 1..) = Inherited::STDERR.write_now(rest)
    {
        rest = &rest[written..];
    }
}

fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Says what is wrong with the settings, and with the accounts and rights that a start would load.
fn check(problems: &[ConfigProblem], warnings: &[String], sources: &Sources) -> ExitCode {
    warnings.iter().for_each(|warning| say("warning", warning));
    problems.iter().for_each(|problem| say("error", problem));
    let (mut errors, mut count) = (problems.len(), warnings.len());
    match access::load(sources, Present::default()) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| say("warning", warning));
            count += loaded.warnings.len();
        }
        Err(error) => {
            say("error", &error);
            errors += 1;
        }
    }
    let plural = |number, what| if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") };
    print(&format!(
        "pyzord: the configuration has {} and {}\n",
        plural(errors, "error"),
        plural(count, "warning")
    ));
    if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Repairs the database and says what became of it.
fn recover(settings: &Settings) -> ExitCode {
    os::restrict_umask();
    settings.warnings.iter().for_each(|warning| say("warning", warning));
    if settings.engine != "gdbm" {
        say("error", &format_args!("--recover is for a file of gdbm, and Engine is {}", settings.engine));
        return ExitCode::FAILURE;
    }
    let age = (settings.cleanup_age > 0).then(|| Duration::from_secs(settings.cleanup_age));
    let cancel = Cancel::default();
    let recovery = thread::spawn({
        let (path, cancel) = (settings.digest_db_path.clone(), cancel.clone());
        move || storage::recover(&path, age, &cancel)
    });
    while !recovery.is_finished() {
        if let Some(name) = signals::stopped_within(RECOVERY_STEP) {
            cancel.cancel();
            if !recovery.is_finished() {
                say("error", &format_args!("stopped by {name}"));
                return ExitCode::FAILURE;
            }
        }
    }
    match recovery.join() {
        Ok(Ok(text)) => {
            print(&format!("pyzord: {text}\n"));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            say("error", &error);
            ExitCode::FAILURE
        }
        Err(_) => {
            say("error", &"the thread of the recovery has died");
            ExitCode::FAILURE
        }
    }
}

/// Everything up to the runtime.
fn start(settings: &Settings) -> ExitCode {
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
    logs.close(LOG_PATIENCE);
    outcome
}

/// Ends a start that has failed or was stopped before there is a runtime. With `--detach` both are failures, since
/// the caller expects a daemon that serves.
fn refused(settings: &Settings, refusal: Refusal, tell: impl Fn(String)) -> ExitCode {
    match refusal {
        Refusal::Failed(errors) => errors.into_iter().for_each(tell),
        Refusal::Stopped(name) if settings.detach.is_none() => {
            say("note", &format_args!("stopped by {name} while it was starting"));
            return ExitCode::SUCCESS;
        }
        Refusal::Stopped(name) => tell(format!("stopped by {name} while it was starting")),
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
    socket: Option<&Socket>,
) -> Result<Option<Readiness>, Refusal> {
    let Some(output) = output else { return Ok(None) };
    let failed = |error: StartError| Refusal::Failed(vec![error.to_string()]);
    let deadline = Instant::now() + HANDOVER;
    let mut pause = Duration::ZERO;
    loop {
        if let Some(name) = signals::stopped_within(pause) {
            return Err(Refusal::Stopped(name));
        }
        match pidfile::check(&settings.pid_file) {
            Ok(()) => break,
            Err(error) if !error.is_busy() || Instant::now() >= deadline => return Err(failed(error.into())),
            Err(_) => pause = HANDOVER_STEP,
        }
    }
    let mut kept = logs.descriptors();
    kept.extend(socket.into_iter().flat_map(Socket::descriptors));
    detach::detach(output, &kept).map(Some).map_err(|error| failed(StartError::Detach(error)))
}

/// Everything from the runtime on.
fn run(settings: &Settings, logs: &Logs, socket: Option<Socket>, readiness: Option<Readiness>) -> ExitCode {
    let runtime = match runtime::build() {
        Ok(runtime) => runtime,
        Err(error) => return failed_start(StartError::System(error), readiness),
    };
    let outcome = runtime.block_on(serve(settings, logs, socket, readiness));
    // A file that cannot be read right now must not keep the process.
    runtime.shutdown_background();
    outcome
}

fn failed_start(error: StartError, readiness: Option<Readiness>) -> ExitCode {
    error!("{error}");
    if let Some(readiness) = readiness {
        readiness.failed();
    }
    ExitCode::FAILURE
}

async fn serve(
    settings: &Settings,
    logs: &Logs,
    socket: Option<Socket>,
    readiness: Option<Readiness>,
) -> ExitCode {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return failed_start(error.into(), readiness),
    };
    settings.warnings.iter().for_each(|warning| warn!("{warning}"));
    if settings.user.is_empty() && Uid::effective().is_root() {
        warn!("running as root, which the server has no need of: set User to one that is made for it");
    }
    settings.notices.iter().for_each(|notice| info!("{notice}"));
    let mut reload_at_once = false;
    let prepared = tokio::select! {
        prepared = prepare(settings, logs, socket, readiness.is_some()) => prepared,
        name = stop_asked(&mut signals, &mut reload_at_once) => {
            info!("{name} received. Shutting down.");
            if let Some(readiness) = readiness {
                say("error", &format_args!("stopped by {name} while it was starting"));
                readiness.failed();
            }
            return ExitCode::SUCCESS;
        }
    };
    let Prepared { engine, mut server, present, access, pid_file, place } = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return failed_start(error, readiness),
    };
    info!("Listening on {place}");
    if readiness.is_none() && io::stderr().is_terminal() {
        tell(&format!("pyzord: listening on {place}\n"));
    }
    if let Some(Err(error)) = readiness.map(Readiness::ready) {
        error!("cannot detach from the terminal: {error}");
    }
    logs.serving();

    let (stop, stopped) = oneshot::channel();
    let watch = Watch {
        signals,
        reload_at_once,
        sources: sources(settings),
        present,
        access,
        logs: logs.clone(),
        engine: Arc::clone(&engine),
    };
    let watch = tokio::spawn(watch.until_the_end(stop));
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
        End::Failed
    });
    info!("Server shutdown.");
    match end {
        End::Asked => ExitCode::SUCCESS,
        End::Failed => ExitCode::FAILURE,
    }
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
