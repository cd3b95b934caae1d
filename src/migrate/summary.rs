//! The last lines of a run: numbers of records that were transferred, left out, or differ.

use std::sync::Arc;

use super::options::{MigrateOptions, VerifyMode};
use super::progress_output::{MigrationCounts, MigrationProgress};
use super::verify::Findings;
use crate::storage;
use crate::storage::bulk::Bulk;

/// Prints the closing line. A complete migration has the line of the Python program, which scripts read.
pub(super) fn print_outcome(
    progress: &MigrationProgress,
    options: &MigrateOptions,
    counts: &MigrationCounts,
    is_complete: bool,
) {
    let MigrationCounts { transferred, failed, .. } = counts;
    match (options.dry_run, is_complete) {
        (true, true) => progress.print(&format_args!(
            "Dry run complete, {transferred} records would be transferred, {failed} records failed"
        )),
        (_, is_complete) => {
            let what = if is_complete { "complete" } else { "incomplete" };
            progress.print(&format_args!(
                "Migration {what}, {transferred} records transferred successfully, {failed} records failed"
            ));
        }
    }
}

/// Prints every count that is not 0.
pub(super) fn print_counts(
    progress: &MigrationProgress,
    options: &MigrateOptions,
    counts: &MigrationCounts,
    destination: Option<&Arc<dyn Bulk>>,
) {
    let print = |count: u64, text: &str| {
        if count > 0 {
            progress.print(&format_args!("{count} {text}"));
        }
    };
    print(counts.skipped, "keys skipped: not digests");
    print(counts.expired, "records left out: expired");
    print(counts.known, "records were transferred before");
    print(
        counts.gone,
        "records were transferred before but are missing in the destination (expired, moved on or lost): use a new \
         journal to transfer everything again",
    );
    if options.dry_run {
        let what = if options.merge { "be added to" } else { "replace" };
        print(counts.existing, &format!("records would {what} existing ones"));
        if options.delete {
            print(counts.transferred, "records would be deleted from the source");
        }
        print(counts.clamped, "records would be clamped to what the destination can hold");
    } else {
        print(counts.deleted, "records deleted from the source");
        print(
            counts.left,
            "records left in the source because they keep changing: stop the servers that write there, and run this \
             again",
        );
        print(counts.clamped, "records clamped to what the destination can hold");
    }
    let to_redis =
        destination.is_some_and(|destination| storage::properties(destination.engine()).expires_by_itself);
    if to_redis && options.cleanup_age.is_none() && options.verify != VerifyMode::Only {
        let would = if options.dry_run { "would have" } else { "have" };
        progress.print(&format_args!(
            "The records {would} no TTL and will not expire until they are reported again: set --cleanup-age to give \
             them one"
        ));
    }
}

/// Prints the result of a comparison.
pub(super) fn print_findings(progress: &MigrationProgress, findings: &Findings) {
    let Findings { compared, differing } = findings;
    progress.print(&format_args!("Verification complete, {compared} records compared, {differing} differ"));
}
