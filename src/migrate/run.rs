//! One run of the program: opens both databases, migrates or compares them, prints the result, and closes them.

use std::sync::Arc;

use super::journal_file::{close_journal, open_journal};
use super::options::{DatabaseSpec, MigrateOptions, VerifyMode};
use super::progress_output::{MigrationCounts, MigrationProgress, report};
use super::record_limits;
use super::same_database::{refuse_same_database, refuse_same_file};
use super::stop_request::StopRequest;
use super::summary::{print_counts, print_findings, print_outcome};
use super::transfer::{MigrateError, Transfer};
use super::verify::{Findings, Verification};
use crate::settings::Environment;
use crate::storage::bulk::{self, Bulk, BulkPurpose};

/// Runs what the options ask for, and returns whether every record was moved and nothing differs.
///
/// # Errors
///
/// One line, if the run could not begin.
pub(super) async fn run(options: &MigrateOptions, environment: &Environment) -> Result<bool, String> {
    let stop = StopRequest::on_signals().map_err(|error| error.to_string())?;
    refuse_same_file(&options.source, &options.destination)?;
    let mut interrupted = stop.clone();
    let (source, destination) = tokio::select! {
        opened = open_both(options) => opened?,
        name = interrupted.requested() => return Err(MigrateError::Interrupted(name).to_string()),
    };
    let progress = MigrationProgress::new(options.quiet);
    let run = Run { options, source, destination, progress, stop };
    let outcome = run.work(environment).await;
    let closed = run.close().await;
    Ok(outcome? && closed)
}

/// Opens the source and the destination. In a dry run there may be no destination.
async fn open_both(options: &MigrateOptions) -> Result<(Arc<dyn Bulk>, Option<Arc<dyn Bulk>>), String> {
    let changes = options.verify != VerifyMode::Only && !options.dry_run;
    let (reading, writing) = match (changes, options.delete) {
        (false, _) => (BulkPurpose::Look, BulkPurpose::Look),
        (true, false) => (BulkPurpose::Read, BulkPurpose::Fill),
        (true, true) => (BulkPurpose::Empty, BulkPurpose::Fill),
    };
    let open = async |database: &DatabaseSpec, purpose| {
        bulk::open(&database.engine, &database.options, purpose).await
    };
    let source = open(&options.source, reading).await.map_err(|error| error.to_string())?;
    match open(&options.destination, writing).await {
        Ok(destination) => Ok((source, Some(destination))),
        Err(error) if error.is_absent() && options.dry_run => Ok((source, None)),
        Err(error) => {
            close(&source).await;
            Err(error.to_string())
        }
    }
}

/// Closes a database, and returns whether that worked.
async fn close(database: &Arc<dyn Bulk>) -> bool {
    let closed = database.close().await;
    if let Err(error) = &closed {
        report("error", error);
    }
    closed.is_ok()
}

/// A run with both databases open.
struct Run<'a> {
    options: &'a MigrateOptions,
    source: Arc<dyn Bulk>,
    /// None only in a dry run whose destination does not exist.
    destination: Option<Arc<dyn Bulk>>,
    progress: MigrationProgress,
    stop: StopRequest,
}

impl Run<'_> {
    async fn work(&self, environment: &Environment) -> Result<bool, String> {
        if let Some(destination) = &self.destination {
            refuse_same_database(self.source.as_ref(), destination.as_ref()).await?;
        }
        match &self.destination {
            Some(destination) if self.options.verify == VerifyMode::Only => {
                Ok(self.verify_only(destination).await)
            }
            _ => self.migrate(environment).await,
        }
    }

    /// Copies, moves or merges, and then compares if `--verify` asks for it.
    async fn migrate(&self, environment: &Environment) -> Result<bool, String> {
        if let Some(destination) = &self.destination
            && record_limits::awaits_disk(self.options, destination.as_ref())
        {
            destination.refuse_volatile().await.map_err(|error| error.to_string())?;
        }
        let (source, destination) = (self.source.as_ref(), self.destination.as_ref());
        let journal = open_journal(self.options, environment, source, destination).await?;
        let stop = self.stop.clone();
        let mut transfer = Transfer::new(
            self.options,
            Arc::clone(&self.source),
            destination.cloned(),
            journal.as_ref(),
            &self.progress,
            stop,
        );
        let finished = transfer.run().await;
        self.progress.end();
        let mut counts = transfer.counts;
        if let Err(error) = &finished {
            report("error", error);
        }
        print_outcome(&self.progress, self.options, &counts, finished.is_ok());
        self.progress.print_rate(counts.transferred + counts.known);
        print_counts(&self.progress, self.options, &counts, destination);
        let mut went_well = finished.is_ok() && counts.failed == 0 && counts.left == 0 && counts.gone == 0;
        if let Some(journal) = journal {
            close_journal(journal, self.options, went_well)?;
        }
        if let Some(destination) = destination
            && finished.is_ok()
            && self.options.verify == VerifyMode::Afterwards
            && !self.options.delete
        {
            let findings = self.compare(destination, &mut counts, true).await;
            went_well &= findings.is_some_and(|findings| findings.differing == 0);
        }
        Ok(went_well)
    }

    /// Compares source and destination, changes nothing, and returns whether they agree.
    async fn verify_only(&self, destination: &Arc<dyn Bulk>) -> bool {
        let mut counts = MigrationCounts::default();
        let Some(findings) = self.compare(destination, &mut counts, false).await else { return false };
        self.progress.print_rate(findings.compared);
        print_counts(&self.progress, self.options, &counts, Some(destination));
        findings.differing == 0 && counts.failed == 0
    }

    /// Compares source and destination and prints what differs; none if the comparison failed, which is printed, too.
    ///
    /// `are_counted` is whether records that cannot be compared have been reported and counted before.
    async fn compare(
        &self,
        destination: &Arc<dyn Bulk>,
        counts: &mut MigrationCounts,
        are_counted: bool,
    ) -> Option<Findings> {
        let verification = Verification {
            source: Arc::clone(&self.source),
            destination: Arc::clone(destination),
            progress: &self.progress,
            stop: self.stop.clone(),
            merged: self.options.merge,
            horizon: record_limits::horizon(self.options),
            are_counted,
        };
        let found = verification.run(counts).await;
        self.progress.end();
        match found {
            Ok(findings) => {
                print_findings(&self.progress, &findings);
                Some(findings)
            }
            Err(error) => {
                report("error", &error);
                None
            }
        }
    }

    /// Closes both databases, and returns whether that worked.
    async fn close(&self) -> bool {
        let mut closed = close(&self.source).await;
        if let Some(destination) = &self.destination {
            closed &= close(destination).await;
        }
        closed
    }
}
