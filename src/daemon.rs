//! The daemon from its command line to its end: puts the rooms together, in an order in which
//! nothing that must not survive a fork exists before it, and no signal can come too early.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tracing::{error, info, warn};

use crate::access::{self, Authorizer, LoadError, Loaded, Present, Sources};
use crate::logging::{self, Logs};
use crate::os::detach::{self, Readiness};
use crate::os::pidfile::{self, PidFile, PidFileError};
use crate::os::signals::{self, Intention, Signals};
use crate::os::{self, privileges};
use crate::record::Timestamp;
use crate::server::socket::{BindError, bind, local_address};
use crate::server::{Parts, Server};
use crate::settings::{self, Environment, Failure, Invocation, Settings};
use crate::storage::{self, Engine, OpenError};

/// The command line was misused.
const EXIT_USAGE: u8 = 2;
/// What a dying process may still hold, a lock or the port, is waited for so long.
const HANDOVER: Duration = Duration::from_secs(2);
/// How often it is tried again.
const HANDOVER_STEP: Duration = Duration::from_millis(50);
/// How long the logs may take to be written at the end.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Why the daemon did not start: one line for the operator.
#[derive(Debug, Error)]
enum StartError {
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
    Database(#[from] OpenError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Access(#[from] LoadError),
}

/// What ended the service.
enum End {
    /// A signal.
    Asked,
    /// Something without which it cannot go on.
    Failed,
}

/// Runs the program `pyzord`.
pub fn main() -> ExitCode {
    match settings::load(std::env::args_os().skip(1), &Environment::of_process()) {
        Ok(Invocation::Print(text)) => {
            // A reader that has gone has seen what it wanted.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::CheckConfig(settings)) => check_config(&settings),
        Ok(Invocation::Serve(settings)) => start(&settings),
        Err(Failure::Usage(text)) => {
            eprint!("{text}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Configuration { problems, warnings }) => {
            warnings.iter().for_each(|warning| say("warning", warning));
            problems.iter().for_each(|problem| say("error", problem));
            ExitCode::FAILURE
        }
    }
}

/// Says one thing to a person, before there are logs.
fn say(what: &str, text: &dyn std::fmt::Display) {
    eprintln!("pyzord: {what}: {text}");
}

/// Loads what a start would load, says what is wrong with it, and starts nothing.
fn check_config(settings: &Settings) -> ExitCode {
    settings.warnings.iter().for_each(|warning| say("warning", warning));
    settings.notices.iter().for_each(|notice| say("note", notice));
    match access::load(&sources(settings), Present::default()) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| say("warning", warning));
            let count = settings.warnings.len() + loaded.warnings.len();
            let warnings = if count == 1 { "1 warning".to_owned() } else { format!("{count} warnings") };
            println!("pyzord: the configuration has no errors and {warnings}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say("error", &error);
            ExitCode::FAILURE
        }
    }
}

fn sources(settings: &Settings) -> Sources {
    Sources {
        passwd: settings.passwd_file.clone(),
        access: settings.access_file.clone(),
        order: settings.access_order,
        order_chosen: settings.access_order_explicit,
    }
}

/// Everything up to the runtime.
fn start(settings: &Settings) -> ExitCode {
    os::restrict_umask();
    if let Err(error) = create_homedir(&settings.homedir) {
        say("error", &error);
        return ExitCode::FAILURE;
    }
    // From here on a signal waits until there is somebody to take it.
    if let Err(error) = signals::block() {
        say("error", &StartError::System(error));
        return ExitCode::FAILURE;
    }
    let logs =
        match logging::open(settings.log_file.as_deref(), settings.usage_log_file.as_deref(), settings.debug)
        {
            Ok(logs) => logs,
            Err(error) => {
                say("error", &error);
                return ExitCode::FAILURE;
            }
        };
    if let Err(error) = privileges::nice(settings.nice) {
        warn!("the niceness {} was refused: {error}", settings.nice);
    }
    let readiness = match detach(settings, &logs) {
        Ok(readiness) => readiness,
        Err(error) => {
            error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    logs.start();
    let outcome = run(settings, &logs, readiness);
    logs.close(LOG_PATIENCE);
    outcome
}

fn create_homedir(path: &Path) -> Result<(), StartError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StartError::Homedir { path: path.display().to_string(), error })
        }
        _ => Ok(()),
    }
}

/// Goes into the background if that is asked for, once it is clear that no other daemon has the
/// pid file.
fn detach(settings: &Settings, logs: &Logs) -> Result<Option<Readiness>, StartError> {
    let Some(path) = &settings.detach else { return Ok(None) };
    let deadline = Instant::now() + HANDOVER;
    while let Err(error) = pidfile::check(&settings.pid_file) {
        if !error.is_busy() || Instant::now() >= deadline {
            return Err(error.into());
        }
        std::thread::sleep(HANDOVER_STEP);
    }
    let output: File = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| StartError::Output { path: path.display().to_string(), error })?;
    detach::detach(output, &logs.descriptors()).map(Some).map_err(StartError::Detach)
}

/// Everything from the runtime on.
fn run(settings: &Settings, logs: &Logs, readiness: Option<Readiness>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed_start(StartError::System(error), readiness),
    };
    let outcome = runtime.block_on(serve(settings, logs, readiness));
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

/// All that serving needs, once it could be had.
struct Prepared {
    engine: Arc<dyn Engine>,
    server: Server,
    present: Present,
    access: Arc<ArcSwap<Authorizer>>,
    pid_file: Option<PidFile>,
    place: String,
}

async fn serve(settings: &Settings, logs: &Logs, readiness: Option<Readiness>) -> ExitCode {
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return failed_start(error.into(), readiness),
    };
    info!("Starting pyzord server.");
    settings.warnings.iter().for_each(|warning| warn!("{warning}"));
    settings.notices.iter().for_each(|notice| info!("{notice}"));
    let prepared = tokio::select! {
        prepared = prepare(settings, logs, readiness.is_some()) => prepared,
        name = stop_asked(&mut signals) => {
            info!("{name} received. Shutting down.");
            if let Some(readiness) = readiness {
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
        eprintln!("pyzord: listening on {place}");
    }
    if let Some(Err(error)) = readiness.map(Readiness::ready) {
        error!("cannot detach from the terminal: {error}");
    }
    logs.serving();

    let (stop, stopped) = oneshot::channel();
    let watch = Watch {
        signals,
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

async fn stop_asked(signals: &mut Signals) -> &'static str {
    loop {
        // Before anything is loaded there is nothing to reload.
        if let Intention::Stop(name) = signals.next().await {
            return name;
        }
    }
}

/// Opens the database, binds the socket, reads accounts and access, and writes the pid file.
async fn prepare(settings: &Settings, logs: &Logs, detached: bool) -> Result<Prepared, StartError> {
    let options = storage::Options {
        dsn: settings.digest_db.clone(),
        path: settings.digest_db_path.clone(),
        cleanup_age: (settings.cleanup_age > 0).then(|| Duration::from_secs(settings.cleanup_age)),
    };
    let engine = hand_over(OpenError::is_busy, || storage::open(&settings.engine, &options)).await?;
    let prepared = prepare_rest(settings, logs, detached, &engine).await;
    if prepared.is_err() {
        engine.close().await;
    }
    prepared
}

async fn prepare_rest(
    settings: &Settings,
    logs: &Logs,
    detached: bool,
    engine: &Arc<dyn Engine>,
) -> Result<Prepared, StartError> {
    let in_use = |error: &BindError| matches!(error, BindError::InUse { .. });
    let socket = hand_over(in_use, || bind(&settings.listen_address, settings.port)).await?;
    let place = format!("{} (UDP), engine {}", local_address(&socket)?, engine.describe());
    let loaded = access::load(&sources(settings), Present::default())?;
    tell(&loaded);
    let present = loaded.present;
    let access = Arc::new(ArcSwap::from_pointee(loaded.authorizer));
    let pid_file = match detached {
        true => Some(hand_over(PidFileError::is_busy, || PidFile::write(&settings.pid_file)).await?),
        false => None,
    };
    let server = Server::new(Parts {
        socket,
        access: Arc::clone(&access),
        engine: Arc::clone(engine),
        usage: logs.usage(),
        clock: Timestamp::now,
    })?;
    Ok(Prepared { engine: Arc::clone(engine), server, present, access, pid_file, place })
}

/// Tries until what a dying process still holds is free, within a bound.
async fn hand_over<T, E>(is_held: impl Fn(&E) -> bool, attempt: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + HANDOVER;
    loop {
        match attempt() {
            Err(error) if is_held(&error) && Instant::now() < deadline => {
                tokio::time::sleep(HANDOVER_STEP).await;
            }
            outcome => return outcome,
        }
    }
}

fn tell(loaded: &Loaded) {
    loaded.notes.iter().for_each(|note| info!("{note}"));
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
}

/// Takes signals and watches over the engine, beside the server.
struct Watch {
    signals: Signals,
    sources: Sources,
    /// Which files there were when they were loaded last.
    present: Present,
    access: Arc<ArcSwap<Authorizer>>,
    logs: Logs,
    engine: Arc<dyn Engine>,
}

impl Watch {
    /// Reloads and reopens until the daemon is to end, which it then asks the server for.
    async fn until_the_end(mut self, stop: oneshot::Sender<()>) -> End {
        let engine = Arc::clone(&self.engine);
        let failed = engine.failed();
        tokio::pin!(failed);
        let mut reloading: Option<JoinHandle<Result<Loaded, LoadError>>> = None;
        let mut reload_again = false;
        let end = loop {
            tokio::select! {
                biased;
                why = &mut failed => {
                    error!(critical = true, "{why}");
                    break End::Failed;
                }
                outcome = async {
                    match &mut reloading {
                        Some(task) => task.await,
                        None => std::future::pending().await,
                    }
                } => {
                    reloading = None;
                    self.take(outcome);
                }
                intention = self.signals.next() => match intention {
                    Intention::Stop(name) => {
                        info!("{name} received. Shutting down.");
                        break End::Asked;
                    }
                    Intention::Reload => {
                        info!("SIGUSR1 received. Reloading configuration.");
                        reload_again = true;
                    }
                    Intention::Reopen => {
                        info!("SIGHUP received. Reopening log files and reloading configuration.");
                        self.logs.reopen();
                        reload_again = true;
                    }
                },
            }
            // A signal during a reload may mean that a file has changed since it was read.
            if reload_again && reloading.is_none() {
                reload_again = false;
                reloading = Some(self.reload());
            }
        };
        // The server has ended by itself if nobody listens.
        let _ = stop.send(());
        end
    }

    fn reload(&self) -> JoinHandle<Result<Loaded, LoadError>> {
        let (sources, before) = (self.sources.clone(), self.present);
        // Reading may take long, on a network's file system for instance.
        tokio::task::spawn_blocking(move || access::load(&sources, before))
    }

    /// Puts what was reloaded into force, or says why it is not.
    fn take(&mut self, outcome: Result<Result<Loaded, LoadError>, JoinError>) {
        match outcome {
            Ok(Ok(loaded)) => {
                tell(&loaded);
                self.present = loaded.present;
                self.access.store(Arc::new(loaded.authorizer));
                info!("The accounts and the access rules have been reloaded.");
            }
            Ok(Err(error)) => error!("{error}; the accounts and rules in force stay as they were"),
            Err(error) => {
                error!("reloading failed: {error}; the accounts and rules in force stay as they were");
            }
        }
    }
}
