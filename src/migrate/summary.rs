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

/// Prints every count that is not 0.
pub(super) fn print_counts(
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
        say(counts.existing, &format!("records would be {what} ones that are there"));
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

/// Prints the result of a comparison.
pub(super) fn print_findings(progress: &MigrationProgress, findings: &Findings) {
    let Findings { compared, differing } = findings;
    progress.say(&format_args!("Verification complete, {compared} records compared, {differing} differ"));
}
