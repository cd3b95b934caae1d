//! `pyzor-migrate`: moves the records of one database to another one, of any engine.
//!
//! Without a journal records are copied: stored in the destination, whatever is there. With one they are
//! moved or merged: the journal knows what of each key has been moved, so that whatever is interrupted can
//! be run again, and what a server counts into the source meanwhile is added.

mod arguments;
mod compare;
mod copying;
mod digest_plan;
mod identity;
mod journal;
mod journal_file;
mod moved_counts;
mod moving;
mod options;
mod progress_output;
mod read_ahead;
mod record_limits;
mod redb_panics;
mod same_database;
mod seen_keys;
mod settling;
mod source_key;
mod spool;
mod stop_request;
mod summary;
mod transfer;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt as _;

use self::journal::Journal;
use self::journal_file::open_journal;
use self::options::{CommandLineError, DatabaseSpec, MigrateCommand, MigrateOptions, VerifyMode};
use self::progress_output::{MigrationCounts, MigrationProgress, WarningPrinter, complain};
use self::same_database::{refuse_same_database, refuse_same_file};
use self::stop_request::StopRequest;
use self::summary::{print_counts, print_findings, print_outcome};
use self::transfer::{MigrateError, Transfer};
use self::verify::{Findings, Verification};
use crate::os::signals;
use crate::settings::Environment;
use crate::storage::bulk::{self, Bulk, BulkPurpose};

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
    redb_panics::silence_caught_panics();
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
        (false, _) => (BulkPurpose::Look, BulkPurpose::Look),
        (true, false) => (BulkPurpose::Read, BulkPurpose::Fill),
        (true, true) => (BulkPurpose::Empty, BulkPurpose::Fill),
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
        name = waiting.wanted() => return Err(MigrateError::Interrupted(name).to_string()),
    };
    let outcome = work(options, environment, &source, destination.as_ref(), stop).await;
    let mut went_well = true;
    for end in [Some(&source), destination.as_ref()].into_iter().flatten() {
        went_well &= close(end).await;
    }
    Ok(outcome? && went_well)
}

async fn open(end: &DatabaseSpec, purpose: BulkPurpose) -> Result<Option<Arc<dyn Bulk>>, String> {
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
        return Ok(verify_only(options, source, destination, &progress, stop).await);
    }
    if let Some(destination) = destination
        && record_limits::awaits_disk(options, destination.as_ref())
    {
        destination.refuse_volatile().await.map_err(|error| error.to_string())?;
    }
    let (journal, is_own) = open_journal(options, environment, source.as_ref(), destination).await?;
    let mut transfer =
        Transfer::new(options, Arc::clone(source), destination.cloned(), journal, &progress, stop.clone());
    let moved = transfer.run().await;
    progress.end();
    let mut counts = transfer.counts;
    if let Err(failure) = &moved {
        complain("error", failure);
    }
    let is_complete = moved.is_ok();
    print_outcome(&progress, options, &counts, is_complete);
    progress.say_rate(counts.transferred + counts.known);
    print_counts(&progress, options, &counts, destination);
    let mut went_well = is_complete && counts.failed == 0 && counts.left == 0 && counts.gone == 0;
    if let Some(journal) = transfer.journal.take() {
        close_journal(journal, is_own, went_well)?;
    }
    if is_complete
        && options.verify == VerifyMode::Afterwards
        && !options.delete
        && let Some(destination) = destination
    {
        let found = compare(options, source, destination, &progress, stop, &mut counts, true).await;
        progress.end();
        went_well &= print_result(&progress, found).is_some_and(|findings| findings.differing == 0);
    }
    Ok(went_well)
}

/// Compares source and destination and changes nothing; returns whether they agree.
async fn verify_only(
    options: &MigrateOptions,
    source: &Arc<dyn Bulk>,
    destination: &Arc<dyn Bulk>,
    progress: &MigrationProgress,
    stop: StopRequest,
) -> bool {
    let mut counts = MigrationCounts::default();
    let found = compare(options, source, destination, progress, stop, &mut counts, false).await;
    progress.end();
    let Some(findings) = print_result(progress, found) else { return false };
    progress.say_rate(findings.compared);
    print_counts(progress, options, &counts, Some(destination));
    findings.differing == 0 && counts.failed == 0
}

/// Prints what a comparison has found, or why it could not be made.
fn print_result(progress: &MigrationProgress, found: Result<Findings, MigrateError>) -> Option<Findings> {
    match found {
        Ok(findings) => {
            print_findings(progress, &findings);
            Some(findings)
        }
        Err(error) => {
            complain("error", &error);
            None
        }
    }
}

/// Removes a journal without a given name that is not needed for a rerun, and says where one is that is.
fn close_journal(journal: Journal, is_own: bool, went_well: bool) -> Result<(), String> {
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
    Ok(())
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
        horizon: record_limits::horizon(options),
        is_told,
    };
    verification.run(counts).await
}
