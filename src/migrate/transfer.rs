//! Going through a source: batches are read ahead while the one before is written.

use std::collections::HashSet;
use std::sync::Arc;

use thiserror::Error;

use super::copying::PendingWrite;
use super::journal::{Journal, JournalError};
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

/// How many records are read before they are written; with a journal, which writes to its disk for each
/// batch, more.
pub(super) const RECORDS_AT_A_TIME: usize = 10_000;
const RECORDS_PER_JOURNAL_WRITE: usize = 20_000;
/// How often the source is looked through for records that were changed meanwhile.
const PASSES: u32 = 3;
/// How often a record that changes all the time is tried.
pub(super) const ATTEMPTS: usize = 10;

/// Why a migration cannot go on.
#[derive(Debug, Error)]
pub(super) enum MigrateError {
    /// A database cannot.
    #[error(transparent)]
    Database(#[from] BulkError),
    /// The journal cannot.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Somebody wanted it to stop.
    #[error("interrupted by {0}")]
    Interrupted(&'static str),
}

/// A migration under way.
pub(super) struct Transfer<'a> {
    pub(super) options: &'a MigrateOptions,
    pub(super) source: Arc<dyn Bulk>,
    /// None where there is none and none is to be created.
    pub(super) destination: Option<Arc<dyn Bulk>>,
    pub(super) journal: Option<Journal>,
    pub(super) progress: &'a MigrationProgress,
    pub(super) stop: StopRequest,
    pub(super) counts: MigrationCounts,
    pub(super) spool: Spool,
    pub(super) seen: SeenKeys,
    /// Before that a last change was too long ago.
    pub(super) horizon: Option<Timestamp>,
    pub(super) round: SourcePass,
    /// A batch of a copy that is being written, while the next one is prepared.
    pub(super) writing: Option<PendingWrite>,
}

/// One look through the source.
#[derive(Debug, Default)]
pub(super) struct SourcePass {
    /// Whether everything is met for the first time.
    pub(super) is_first: bool,
    /// Whether an earlier run may have moved something.
    pub(super) is_rerun: bool,
    /// Keys that were changed after they had been copied.
    pub(super) again: Vec<Vec<u8>>,
    /// How many were left in the source, having changed just now.
    pub(super) young: u64,
    /// Keys that were put into the destination in this round, unless it is the first one.
    pub(super) put: HashSet<Vec<u8>>,
    /// How many were left there until the destination has them on its disk.
    pub(super) undurable: u64,
}

/// A record that is to be moved.
pub(super) struct RecordToMove {
    pub(super) digest: Digest,
    pub(super) is_odd: bool,
    /// Whether its key is met for the first time.
    pub(super) is_new: bool,
    pub(super) item: Item,
    pub(super) record: Record,
}

impl<'a> Transfer<'a> {
    /// A migration that has not begun.
    pub(super) fn new(
        options: &'a MigrateOptions,
        source: Arc<dyn Bulk>,
        destination: Option<Arc<dyn Bulk>>,
        journal: Option<Journal>,
        progress: &'a MigrationProgress,
        stop: StopRequest,
    ) -> Self {
        let seen = SeenKeys::new(source.repeats());
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
            round: SourcePass::default(),
            writing: None,
        }
    }

    /// Moves everything, and finishes what it has begun when it is interrupted.
    pub(super) async fn run(&mut self) -> Result<(), MigrateError> {
        let done = self.run_on().await;
        let written = self.written().await;
        done.and(written)
    }

    async fn run_on(&mut self) -> Result<(), MigrateError> {
        let total = if self.progress.wants_total() { self.source.estimate().await? } else { None };
        self.progress.begin("copying", total);
        self.round.is_rerun = self.settle().await?;
        for pass in 0..PASSES {
            self.round =
                SourcePass { is_first: pass == 0, is_rerun: self.round.is_rerun, ..SourcePass::default() };
            self.pass().await?;
            let SourcePass { young, undurable, .. } = self.round;
            if young + undurable == 0 {
                break;
            }
            if pass + 1 < PASSES
                && let Some(destination) = self.destination.clone()
                && awaits_disk(self.options, destination.as_ref())
            {
                tokio::select! {
                    durable = destination.bring_to_disk() => durable?,
                    name = self.stop.wanted() => return Err(MigrateError::Interrupted(name)),
                }
            }
            if pass + 1 < PASSES && young > 0 {
                self.stop.sleep(PAUSE).await?;
            }
        }
        self.counts.left += self.round.young + self.round.undurable;
        self.write_spool().await?;
        if !self.options.dry_run
            && let Some(destination) = &self.destination
        {
            destination.sync().await?;
        }
        Ok(())
    }

    async fn pass(&mut self) -> Result<(), MigrateError> {
        let batch = if self.journal.is_some() { RECORDS_PER_JOURNAL_WRITE } else { RECORDS_AT_A_TIME };
        let mut batches = read_ahead(&self.source, batch);
        while let Some(items) = batches.recv().await {
            let items = items?;
            let met = items.len() as u64;
            let is_first = self.round.is_first;
            self.batch(items, is_first).await?;
            self.look_again().await?;
            if is_first {
                self.progress.advance(met);
                self.progress.transferred(self.counts.transferred);
            }
            self.stop.check()?;
        }
        self.written().await?;
        self.progress.transferred(self.counts.transferred);
        for _ in 0..ATTEMPTS {
            if self.round.again.is_empty() {
                break;
            }
            self.look_again().await?;
            self.stop.check()?;
        }
        self.counts.left += self.round.again.len() as u64;
        Ok(())
    }

    /// Copies those once more that were changed after they had been copied.
    async fn look_again(&mut self) -> Result<(), MigrateError> {
        let again = std::mem::take(&mut self.round.again);
        if !again.is_empty() {
            let items = self.source.read(again).await?;
            self.batch(items.into_iter().flatten().collect(), false).await?;
        }
        Ok(())
    }

    async fn batch(&mut self, items: Vec<Item>, is_first: bool) -> Result<(), MigrateError> {
        let candidates = self.sort_out(items, is_first);
        if self.options.dry_run {
            self.look_only(&candidates).await
        } else if self.journal.is_some() {
            self.move_on(candidates).await
        } else {
            self.copy(candidates).await
        }
    }

    /// Those items that are to be moved.
    fn sort_out(&mut self, items: Vec<Item>, is_first: bool) -> Vec<RecordToMove> {
        let mut candidates = Vec::with_capacity(items.len());
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
                    candidates.push(RecordToMove { digest, is_odd, is_new, item, record });
                }
                Err(why) => self.fail(&item.key, why),
            }
        }
        candidates
    }

    /// Names a key that could not be moved, once.
    pub(super) fn fail(&mut self, key: &[u8], why: &str) {
        if self.seen.is_new_failure(key) {
            self.counts.failed += 1;
            self.progress.failed(key, why);
        }
    }

    /// When a record is to expire.
    pub(super) fn expires(&self, record: &Record) -> Option<Timestamp> {
        let age = i64::try_from(self.options.cleanup_age?.as_secs()).unwrap_or(i64::MAX);
        record.last_change().map(|last| Timestamp::from_seconds(last.seconds().saturating_add(age)))
    }

    pub(super) fn destination(&self) -> Result<Arc<dyn Bulk>, BulkError> {
        self.destination.clone().ok_or_else(|| BulkError("there is no destination".to_owned()))
    }

    async fn look_only(&mut self, candidates: &[RecordToMove]) -> Result<(), MigrateError> {
        // A scan may meet a key twice.
        let candidates: Vec<&RecordToMove> = candidates.iter().filter(|candidate| candidate.is_new).collect();
        if let Some(destination) = &self.destination {
            let keys = candidates.iter().map(|candidate| candidate.digest.to_hex().to_vec()).collect();
            let met = destination.read(keys).await?.iter().flatten().count();
            self.counts.met += met as u64;
            for candidate in &candidates {
                self.counts.clamped += u64::from(is_clamped(destination.as_ref(), &candidate.record));
            }
        }
        self.counts.transferred += candidates.len() as u64;
        Ok(())
    }
}
