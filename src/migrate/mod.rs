//! `pyzor-migrate`: moves the records of one database to another one, of any engine.
//!
//! Without a journal records are copied: stored in the destination, whatever is there. With one they are
//! moved or merged: the journal knows what of each key has been moved, so that whatever is interrupted can
//! be run again, and what a server counts into the source meanwhile is added.

mod compare;
mod copying;
mod identity;
mod journal;
mod moved_counts;
mod moving;
mod options;
mod progress_output;
mod seen_keys;
mod source_key;
mod spool;
mod stop_request;
mod transfer;
mod verify;

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use sha1::Digest as _;
use tracing_subscriber::layer::SubscriberExt as _;

use self::identity::DatabaseIdentity;
use self::journal::Journal;
use self::options::{CommandLineError, DatabaseSpec, MigrateCommand, MigrateOptions, VerifyMode};
use self::progress_output::{MigrationCounts, MigrationProgress, WarningPrinter, complain};
use self::stop_request::StopRequest;
use self::transfer::{MigrateError, Transfer};
use self::verify::{Findings, Verification};
use crate::os::signals;
use crate::settings::Environment;
use crate::storage;
use crate::storage::bulk::{self, Bulk, Purpose};

/// The command line was misused.
const EXIT_USAGE: u8 = 2;

/// Runs the program `pyzor-migrate`.
pub fn main() -> ExitCode {
    signals::ignore_file_size_limit();
    let environment = Environment::of_process();
    let options = match options::parse(std::env::args_os().skip(1), &environment) {
        Ok(MigrateCommand::Run(options)) => options,
        Ok(MigrateCommand::Print(text)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(CommandLineError::Usage(text)) => {
            let _ = io::stderr().write_all(text.as_bytes());
            return ExitCode::from(EXIT_USAGE);
        }
        Err(CommandLineError::Established(text)) => {
            let _ = writeln!(io::stdout(), "{text}");
            return ExitCode::FAILURE;
        }
        Err(CommandLineError::Database(text)) => {
            complain("error", &text);
            return ExitCode::FAILURE;
        }
    };
    crate::os::restrict_umask();
    journal::silence_caught_panics();
    let warnings = tracing_subscriber::registry().with(WarningPrinter { quiet: options.quiet });
    // Nobody else in this process has set another one.
    let _ = tracing::subscriber::set_global_default(warnings);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain("error", &error);
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(&options, &environment));
    // A server that does not answer must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain("error", &error);
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked; says whether all of it went well. An error is one of the start.
async fn run(options: &MigrateOptions, environment: &Environment) -> Result<bool, String> {
    let stop = StopRequest::on_signals().map_err(|error| error.to_string())?;
    refuse_same_file(&options.source, &options.destination)?;
    let changes = options.verify != VerifyMode::Only && !options.dry_run;
    let (reading, writing) = match (changes, options.delete) {
        (false, _) => (Purpose::Look, Purpose::Look),
        (true, false) => (Purpose::Read, Purpose::Fill),
        (true, true) => (Purpose::Empty, Purpose::Fill),
    };
    let opening = async {
        let source = open(&options.source, reading).await?.ok_or("the source has gone")?;
        let destination =
            match bulk::open(&options.destination.engine, &options.destination.options, writing).await {
                Ok(destination) => Some(destination),
                Err(error) if error.is_absent() && options.dry_run => None,
                Err(error) => {
                    close(&source).await;
                    return Err(error.to_string());
                }
            };
        Ok((source, destination))
    };
    let mut waiting = stop.clone();
    let (source, destination) = tokio::select! {
        opened = opening => opened?,
        name = waiting.wanted() => return Err(format!("interrupted by {name}")),
    };
    let outcome = work(options, environment, &source, destination.as_ref(), stop).await;
    let mut went_well = true;
    for end in [Some(&source), destination.as_ref()].into_iter().flatten() {
        went_well &= close(end).await;
    }
    Ok(outcome? && went_well)
}

async fn open(end: &DatabaseSpec, purpose: Purpose) -> Result<Option<Arc<dyn Bulk>>, String> {
    bulk::open(&end.engine, &end.options, purpose).await.map(Some).map_err(|error| error.to_string())
}

async fn close(end: &Arc<dyn Bulk>) -> bool {
    let closed = end.close().await;
    if let Err(error) = &closed {
        complain("error", error);
    }
    closed.is_ok()
}

async fn work(
    options: &MigrateOptions,
    environment: &Environment,
    source: &Arc<dyn Bulk>,
    destination: Option<&Arc<dyn Bulk>>,
    stop: StopRequest,
) -> Result<bool, String> {
    if let Some(destination) = destination {
        refuse_same_database(source.as_ref(), destination.as_ref()).await?;
    }
    let progress = MigrationProgress::new(options.quiet);
    if let (VerifyMode::Only, Some(destination)) = (options.verify, destination) {
        let mut counts = MigrationCounts::default();
        let found = compare(options, source, destination, &progress, stop, &mut counts, false).await;
        progress.end();
        return Ok(match found {
            Ok(findings) => {
                tell_findings(&progress, &findings);
                progress.say_rate(findings.compared);
                tell_rest(&progress, options, &counts, Some(destination));
                findings.differing == 0 && counts.failed == 0
            }
            Err(failure) => {
                complain("error", &failure);
                false
            }
        });
    }
    if let Some(destination) = destination
        && transfer::awaits_disk(options, destination.as_ref())
    {
        destination.refuse_volatile().await.map_err(|error| error.to_string())?;
    }
    let (journal, is_own) = journal(options, environment, source.as_ref(), destination).await?;
    let mut transfer =
        Transfer::new(options, Arc::clone(source), destination.cloned(), journal, &progress, stop.clone());
    let moved = transfer.run().await;
    progress.end();
    let mut counts = transfer.counts;
    if let Err(failure) = &moved {
        complain("error", failure);
    }
    let is_complete = moved.is_ok();
    tell(&progress, options, &counts, is_complete);
    progress.say_rate(counts.transferred + counts.known);
    tell_rest(&progress, options, &counts, destination);
    let mut went_well = is_complete && counts.failed == 0 && counts.left == 0 && counts.gone == 0;
    if let Some(journal) = transfer.journal.take() {
        let is_needed = !went_well && !journal.is_empty().map_err(|error| error.to_string())?;
        if is_own && !is_needed {
            journal.remove().map_err(|error| error.to_string())?;
        } else if is_own {
            let path = journal.path().display();
            complain(
                "note",
                &format_args!("what has been moved is remembered in {path}: run it again with --delete"),
            );
        }
    }
    if is_complete
        && options.verify == VerifyMode::Afterwards
        && !options.delete
        && let Some(destination) = destination
    {
        let found = compare(options, source, destination, &progress, stop, &mut counts, true).await;
        progress.end();
        match found {
            Ok(findings) => {
                tell_findings(&progress, &findings);
                went_well &= findings.differing == 0;
            }
            Err(failure) => {
                complain("error", &failure);
                went_well = false;
            }
        }
    }
    Ok(went_well)
}

async fn compare(
    options: &MigrateOptions,
    source: &Arc<dyn Bulk>,
    destination: &Arc<dyn Bulk>,
    progress: &MigrationProgress,
    stop: StopRequest,
    counts: &mut MigrationCounts,
    is_told: bool,
) -> Result<Findings, MigrateError> {
    let verification = Verification {
        source: Arc::clone(source),
        destination: Arc::clone(destination),
        progress,
        stop,
        merged: options.merge,
        horizon: transfer::horizon(options),
        is_told,
    };
    verification.run(counts).await
}

/// The lines at the end of which scripts know the first.
fn tell(progress: &MigrationProgress, options: &MigrateOptions, counts: &MigrationCounts, is_complete: bool) {
    let MigrationCounts { transferred, failed, .. } = counts;
    match (options.dry_run, is_complete) {
        (true, true) => progress.say(&format_args!(
            "Dry run complete, {transferred} records would be transferred, {failed} records failed"
        )),
        (_, is_complete) => {
            let what = if is_complete { "complete" } else { "incomplete" };
            progress.say(&format_args!(
                "Migration {what}, {transferred} records transferred successfully, {failed} records failed"
            ));
        }
    }
}

fn tell_rest(
    progress: &MigrationProgress,
    options: &MigrateOptions,
    counts: &MigrationCounts,
    destination: Option<&Arc<dyn Bulk>>,
) {
    let say = |count: u64, text: &str| {
        if count > 0 {
            progress.say(&format_args!("{count} {text}"));
        }
    };
    say(counts.skipped, "keys skipped: not digests");
    say(counts.expired, "records left out: expired");
    say(counts.known, "records had been transferred before");
    say(
        counts.gone,
        "records had been transferred before and are not in the destination any more: they have expired there, were moved \
         on, or are lost; a journal of another name transfers everything again",
    );
    if options.dry_run {
        let what = if options.merge { "added to" } else { "put in the place of" };
        say(counts.met, &format!("records would be {what} ones that are there"));
        if options.delete {
            say(counts.transferred, "records would be deleted from the source");
        }
        say(counts.clamped, "records would be clamped to what the destination can hold");
    } else {
        say(counts.deleted, "records deleted from the source");
        say(
            counts.left,
            "records left in the source, where they are changed again and again: stop what counts there",
        );
        say(counts.clamped, "records clamped to what the destination can hold");
    }
    let to_redis =
        destination.is_some_and(|destination| storage::properties(destination.engine()).expires_by_itself);
    if to_redis && options.cleanup_age.is_none() && options.verify != VerifyMode::Only {
        let would = if options.dry_run { "would have" } else { "have" };
        progress.say(&format_args!(
            "The records {would} no TTL and do not expire before they are reported again; --cleanup-age gives them one"
        ));
    }
}

fn tell_findings(progress: &MigrationProgress, findings: &Findings) {
    let Findings { compared, differing } = findings;
    progress.say(&format_args!("Verification complete, {compared} records compared, {differing} differ"));
}

/// Opens the journal, if one is needed; says whether it is one without a given name.
async fn journal(
    options: &MigrateOptions,
    environment: &Environment,
    source: &dyn Bulk,
    destination: Option<&Arc<dyn Bulk>>,
) -> Result<(Option<Journal>, bool), String> {
    let Some(destination) = destination.filter(|_| !options.dry_run) else { return Ok((None, false)) };
    let end =
        async |database: &dyn Bulk| DatabaseIdentity::of(database).await.map_err(|error| error.to_string());
    let (source, destination) = (end(source).await?, end(destination.as_ref()).await?);
    let is_own = options.delete && options.journal.is_none();
    let home = journals(environment);
    let unfinished = home.as_ref().and_then(|home| {
        let files = std::fs::read_dir(home).into_iter().flatten().flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "journal"));
        let (found, unreadable) = Journal::find(files, &source, &destination);
        unreadable.iter().for_each(|error| complain("warning", error));
        found
    });
    if let Some(unfinished) = unfinished.as_ref().filter(|_| !is_own) {
        return Err(format!(
            "a move between these databases was interrupted: what it has moved would be replaced or added again; run it \
             once more with --delete and without --journal, or remove {}",
            unfinished.display()
        ));
    }
    if !options.merge && !options.delete {
        return match options.journal {
            Some(_) => Err("--journal is for --merge and --delete: a copy needs none".to_owned()),
            None => Ok((None, false)),
        };
    }
    let path = match (&options.journal, unfinished, home) {
        (Some(path), ..) => path.clone(),
        (None, Some(unfinished), _) => unfinished,
        (None, None, Some(home)) => {
            create(&home)?;
            let names = format!("{}\n{}", source.names[0], destination.names[0]);
            let name = pyzor_wire::digest::hex(&sha1::Sha1::digest(names).into());
            home.join(format!("{}.journal", String::from_utf8_lossy(&name)))
        }
        (None, None, None) => {
            return Err("--delete keeps a journal, and there is no home for it: name a file with --journal"
                .to_owned());
        }
    };
    let journal = Journal::open(&path, &source, &destination).map_err(|error| error.to_string())?;
    Ok((Some(journal), is_own))
}

/// Where moves remember what they have done when no file is named; none for a user without a home.
fn journals(environment: &Environment) -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.unwrap_or_else(|| environment.expand("~/.local/state"));
    state.is_absolute().then(|| state.join("pyzor-migrate"))
}

fn create(home: &Path) -> Result<(), String> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(|error| {
        format!("--delete keeps a journal in {}: {error}; name a file with --journal", home.display())
    })
}

/// Two names of one file would wait for each other's lock.
fn refuse_same_file(source: &DatabaseSpec, destination: &DatabaseSpec) -> Result<(), String> {
    let identity = |end: &DatabaseSpec| {
        let path: &Path = &end.options.path;
        let metadata = std::fs::metadata(path).ok().filter(|_| storage::properties(&end.engine).is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    match identity(source) {
        Some(file) if identity(destination) == Some(file) => {
            Err(format!("source and destination are the same database, {}", source.options.path.display()))
        }
        _ => Ok(()),
    }
}

async fn refuse_same_database(source: &dyn Bulk, destination: &dyn Bulk) -> Result<(), String> {
    if source.engine() != destination.engine() {
        return Ok(());
    }
    let now = crate::record::Timestamp::now().micros();
    let token = format!("pyzor-migrate.{}.{now}", std::process::id());
    let there = destination.identity(&token, true).await.map_err(|error| error.to_string())?;
    let here = source.identity(&token, false).await.map_err(|error| error.to_string())?;
    match here.iter().any(|name| there.contains(name)) {
        true => Err(format!("source and destination are the same database, {}", source.describe())),
        false => Ok(()),
    }
}
