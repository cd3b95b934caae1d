//! Scans the source in passes and hands each batch of records to a copy or a move.
//!
//! The first pass meets every record. A move needs further passes for records that it could not delete yet: those that
//! changed too recently ([`SourcePass::recent`], see [`super::moving`]), and those that the destination had not written
//! to its disk ([`SourcePass::not_durable`]). Between two passes it waits for the disk and for [`PAUSE`].

use std::collections::HashSet;
use std::sync::Arc;

use thiserror::Error;

use super::copying::PendingWrite;
use super::journal::{Journal, JournalError, JournalKey};
use super::moving::PAUSE;
use super::options::MigrateOptions;
use super::progress_output::{MigrationCounts, MigrationProgress};
use super::read_ahead::read_ahead;
use super::record_limits::{awaits_disk, horizon, is_clamped, is_expired, is_saturated};
use super::seen_keys::SeenKeys;
use super::source_key::{SourceKey, classify};
use super::spool::Spool;
use super::stop_request::StopRequest;
use crate::record::{Record, Timestamp};
use crate::storage::bulk::{Bulk, BulkError, Item};
use pyzor_wire::digest::Digest;

/// Records in a batch.
pub(super) const BATCH: usize = 10_000;
/// Records in a batch with a journal, which is flushed to disk for each batch.
const BATCH_WITH_JOURNAL: usize = 20_000;
/// Number of times that the source is scanned at most.
const PASSES: u32 = 3;
/// Number of times that a record that keeps changing is tried.
pub(super) const ATTEMPTS: usize = 10;

/// Reason why a migration cannot continue.
#[derive(Debug, Error)]
pub(super) enum MigrateError {
    #[error(transparent)]
    Database(#[from] BulkError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A signal of this name asked for a stop.
    #[error("interrupted by {0}")]
    Interrupted(&'static str),
}

/// A copy, move, merge or dry run in progress.
pub(super) struct Transfer<'a> {
    pub(super) options: &'a MigrateOptions,
    pub(super) source: Arc<dyn Bulk>,
    /// None only in a dry run whose destination does not exist.
    pub(super) destination: Option<Arc<dyn Bulk>>,
    /// Present for a move or a merge.
    pub(super) journal: Option<&'a Journal>,
    pub(super) progress: &'a MigrationProgress,
    pub(super) stop: StopRequest,
    pub(super) counts: MigrationCounts,
    pub(super) spool: Spool,
    pub(super) seen: SeenKeys,
    /// Records that changed last before this time are left out.
    horizon: Option<Timestamp>,
    /// Whether records are deleted only after [`Bulk::bring_to_disk`].
    pub(super) awaits_disk: bool,
    /// Whether an earlier run with this journal may have moved something.
    pub(super) is_rerun: bool,
    pub(super) pass: SourcePass,
    /// The batch of a copy that is being written while the next one is prepared.
    pub(super) writing: Option<PendingWrite>,
}

/// The state of one scan of the source.
#[derive(Debug, Default)]
pub(super) struct SourcePass {
    pub(super) is_first: bool,
    /// Keys that were not deleted because they had changed after they were moved. They are moved again.
    pub(super) changed: Vec<Vec<u8>>,
    /// Number of records left in the source because they changed just now.
    pub(super) recent: u64,
    /// Number of records left in the source until the destination has them on its disk.
    pub(super) not_durable: u64,
    /// Keys whose counts were added to the destination in this pass. Empty in the first pass.
    pub(super) added: HashSet<Vec<u8>>,
}

/// A record of the source that is to be transferred.
pub(super) struct SourceRecord {
    pub(super) digest: Digest,
    /// Whether the key is another spelling of the digest: see [`SourceKey::Odd`].
    pub(super) is_odd: bool,
    /// Whether the key is met for the first time in this run.
    pub(super) is_new: bool,
    pub(super) item: Item,
    pub(super) record: Record,
}

impl SourceRecord {
    pub(super) fn journal_key(&self) -> JournalKey {
        JournalKey { digest: self.digest, key: self.item.key.clone() }
    }
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        options: &'a MigrateOptions,
        source: Arc<dyn Bulk>,
        destination: Option<Arc<dyn Bulk>>,
        journal: Option<&'a Journal>,
        progress: &'a MigrationProgress,
        stop: StopRequest,
    ) -> Self {
        let seen = SeenKeys::new(source.repeats());
        let awaits_disk =
            destination.as_ref().is_some_and(|destination| awaits_disk(options, destination.as_ref()));
        Self {
            options,
            source,
            destination,
            journal,
            progress,
            stop,
            counts: MigrationCounts::default(),
            spool: Spool::default(),
            seen,
            horizon: horizon(options),
            awaits_disk,
            is_rerun: false,
            pass: SourcePass::default(),
            writing: None,
        }
    }

    /// Transfers every record. If interrupted, finishes the batch that is being written.
    pub(super) async fn run(&mut self) -> Result<(), MigrateError> {
        let done = self.run_passes().await;
        let written = self.written().await;
        done.and(written)
    }

    async fn run_passes(&mut self) -> Result<(), MigrateError> {
        let total = if self.progress.has_bar() { self.source.estimate().await? } else { None };
        self.progress.begin("copying", total);
        if let Some(journal) = self.journal {
            self.is_rerun = self.recover(journal).await?;
        }
        for pass in 1..=PASSES {
            self.pass = SourcePass { is_first: pass == 1, ..SourcePass::default() };
            self.run_pass().await?;
            if self.pass.recent + self.pass.not_durable == 0 {
                break;
            }
            if pass < PASSES {
                self.wait_for_next_pass().await?;
            }
        }
        self.counts.left += self.pass.recent + self.pass.not_durable;
        self.write_spool().await?;
        if !self.options.dry_run
            && let Some(destination) = &self.destination
        {
            destination.sync().await?;
        }
        Ok(())
    }

    /// Waits until the moved records are on the destination's disk, and until recent changes are no longer recent.
    async fn wait_for_next_pass(&mut self) -> Result<(), MigrateError> {
        if self.awaits_disk {
            let destination = self.destination()?;
            tokio::select! {
                durable = destination.bring_to_disk() => durable?,
                name = self.stop.requested() => return Err(MigrateError::Interrupted(name)),
            }
        }
        if self.pass.recent > 0 {
            self.stop.sleep(PAUSE).await?;
        }
        Ok(())
    }

    /// Scans the source once, and retries records that changed meanwhile.
    async fn run_pass(&mut self) -> Result<(), MigrateError> {
        let size = if self.journal.is_some() { BATCH_WITH_JOURNAL } else { BATCH };
        let mut batches = read_ahead(&self.source, size);
        while let Some(items) = batches.recv().await {
            let items = items?;
            let met = items.len() as u64;
            let is_first = self.pass.is_first;
            self.transfer_batch(items, is_first).await?;
            self.retry_changed().await?;
            if is_first {
                self.progress.advance(met);
                self.progress.transferred(self.counts.transferred);
            }
            self.stop.check()?;
        }
        self.written().await?;
        self.progress.transferred(self.counts.transferred);
        for _ in 0..ATTEMPTS {
            if self.pass.changed.is_empty() {
                break;
            }
            self.retry_changed().await?;
            self.stop.check()?;
        }
        self.counts.left += self.pass.changed.len() as u64;
        Ok(())
    }

    /// Transfers the records again that changed after they had been moved.
    async fn retry_changed(&mut self) -> Result<(), MigrateError> {
        let changed = std::mem::take(&mut self.pass.changed);
        if !changed.is_empty() {
            let items = self.source.read(changed).await?;
            self.transfer_batch(items.into_iter().flatten().collect(), false).await?;
        }
        Ok(())
    }

    /// Transfers one batch. `is_first` is whether its keys may be met for the first time.
    async fn transfer_batch(&mut self, items: Vec<Item>, is_first: bool) -> Result<(), MigrateError> {
        let records = self.select(items, is_first);
        match self.journal {
            _ if self.options.dry_run => self.count_only(&records).await,
            Some(journal) => self.move_batch(records, journal).await,
            None => self.copy(records).await,
        }
    }

    /// Returns the records to transfer, and counts the others as skipped, expired or failed.
    fn select(&mut self, items: Vec<Item>, is_first: bool) -> Vec<SourceRecord> {
        let mut records = Vec::with_capacity(items.len());
        for item in items {
            let (digest, is_odd) = match classify(&item.key) {
                SourceKey::Regular(digest) => (digest, false),
                SourceKey::Odd(digest) => (digest, true),
                SourceKey::Foreign => {
                    self.counts.skipped += u64::from(is_first && self.seen.is_new(&item.key));
                    continue;
                }
            };
            let is_new = is_first && self.seen.is_new(&item.key);
            match &item.record {
                Ok(record) if is_expired(self.horizon, record) => self.counts.expired += u64::from(is_new),
                Ok(record) => {
                    let record = *record;
                    self.counts.clamped += u64::from(is_new && is_saturated(&item, &record));
                    records.push(SourceRecord { digest, is_odd, is_new, item, record });
                }
                Err(why) => self.fail(&item.key, why),
            }
        }
        records
    }

    /// Counts and reports a key that could not be transferred, once per key.
    pub(super) fn fail(&mut self, key: &[u8], why: &str) {
        if self.seen.is_new_failure(key) {
            self.counts.failed += 1;
            self.progress.print_failure(key, why);
        }
    }

    /// Returns when the destination must expire a record; none without `--cleanup-age`.
    pub(super) fn expires(&self, record: &Record) -> Option<Timestamp> {
        let age = i64::try_from(self.options.cleanup_age?.as_secs()).unwrap_or(i64::MAX);
        record.last_change().map(|last| Timestamp::from_seconds(last.seconds().saturating_add(age)))
    }

    pub(super) fn destination(&self) -> Result<Arc<dyn Bulk>, BulkError> {
        self.destination.clone().ok_or_else(|| BulkError("no destination is open".to_owned()))
    }

    /// Counts what a run without `--dry-run` would do.
    async fn count_only(&mut self, records: &[SourceRecord]) -> Result<(), MigrateError> {
        // A scan may return a key twice.
        let records: Vec<&SourceRecord> = records.iter().filter(|record| record.is_new).collect();
        if let Some(destination) = &self.destination {
            let keys = records.iter().map(|record| record.digest.to_hex().to_vec()).collect();
            let existing = destination.read(keys).await?.iter().flatten().count();
            self.counts.existing += existing as u64;
            for record in &records {
                self.counts.clamped += u64::from(is_clamped(destination.as_ref(), &record.record));
            }
        }
        self.counts.transferred += records.len() as u64;
        Ok(())
    }
}
