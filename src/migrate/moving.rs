//! Moves or merges one batch of records with a journal, so that each report is counted exactly once.
//!
//! The order of the steps makes it safe to kill the program between any two of them and run it again:
//!
//! 1. The journal stores the counts to be added ([`Journal::begin`]); then the destination adds them and syncs. After a
//!    kill, [`super::recovery`] finds out which additions were made.
//! 2. The journal stores how much of each key has been moved ([`Journal::finish`]). From here on a rerun adds only what
//!    is new.
//! 3. A record is deleted from the source only after step 2, and only if it has not changed since. After a kill, the
//!    next run finds the record moved completely, adds nothing, and deletes it.
//! 4. The journal marks the key as deleted, so that a record that appears under it later counts from 0.

use std::time::Duration;

use tokio::task::block_in_place;

use super::apply::read_back;
use super::journal::{Journal, JournalKey};
use super::moved_counts::MovedCounts;
use super::options::VerifyMode;
use super::plan::{DigestAction, DigestPlan, PlannedRecord};
use super::transfer::{MigrateError, SourceRecord, Transfer};
use crate::record::{Record, Timestamp};
use crate::storage::bulk::{ChangeOutcome, Item};

/// Minimum age, in seconds, of the last change of a record that is deleted in the first pass, if times are whole
/// seconds. If a record is deleted and then reported again in the same second, the new record can be equal to the
/// deleted one, so that a run after a kill would take it for moved. Younger records are deleted when a later pass,
/// after [`PAUSE`], finds them unchanged. Thus clocks of servers may be wrong by less than this.
const QUIET_SECONDS: i64 = 3600;
/// Pause before a pass that looks at recently changed records again.
pub(super) const PAUSE: Duration = Duration::from_secs(3);

/// Outcome of a batch in the destination.
#[derive(Default)]
struct AppliedBatch {
    /// Keys whose counts were added to the destination, with all counts moved so far.
    moved: Vec<(JournalKey, MovedCounts)>,
    /// Records that the destination has completely and durably.
    to_delete: Vec<(JournalKey, Item)>,
}

impl Transfer<'_> {
    /// Moves one batch: plans and applies it, updates the journal, and deletes from the source.
    pub(super) async fn move_batch(
        &mut self,
        records: Vec<SourceRecord>,
        journal: &Journal,
    ) -> Result<(), MigrateError> {
        let destination = self.destination()?;
        let plans = self.plan(records, destination.as_ref(), journal).await?;
        let mut outcomes = self.apply(&plans, destination.as_ref(), journal).await?;
        destination.sync().await?;
        if self.options.delete && self.options.verify == VerifyMode::Afterwards {
            read_back(&plans, &mut outcomes, destination.as_ref()).await?;
        }
        let has_additions = plans.iter().any(|plan| matches!(plan.action, DigestAction::Add(..)));
        let mut batch = AppliedBatch::default();
        for (plan, outcome) in plans.into_iter().zip(outcomes) {
            self.take_outcome(plan, outcome, &mut batch);
        }
        if has_additions {
            block_in_place(|| journal.finish(&batch.moved))?;
        }
        self.delete_from_source(batch.to_delete, journal).await
    }

    /// Counts the outcome for each key of a digest.
    fn take_outcome(&mut self, plan: DigestPlan, outcome: ChangeOutcome, batch: &mut AppliedBatch) {
        match outcome {
            ChangeOutcome::Done => {
                let is_added = !matches!(plan.action, DigestAction::Nothing);
                for member in plan.members {
                    self.counts.gone += u64::from(member.source.is_new && plan.is_gone);
                    self.take_moved(member, is_added, batch);
                }
            }
            // Other writers changed it between every read and addition.
            ChangeOutcome::Changed => {
                self.counts.left += plan.members.iter().filter(|member| member.source.is_new).count() as u64;
            }
            ChangeOutcome::Refused(why) => {
                plan.members.iter().for_each(|member| self.fail(&member.source.item.key, &why));
            }
        }
    }

    /// Counts a key that the destination has completely. `is_added` is whether this batch has added something.
    fn take_moved(&mut self, member: PlannedRecord, is_added: bool, batch: &mut AppliedBatch) {
        let PlannedRecord { source, moved } = member;
        let key = source.journal_key();
        if is_added {
            self.counts.transferred += u64::from(source.is_new || moved.is_none());
            batch.moved.push((key.clone(), MovedCounts::with(moved.as_ref(), &source.record)));
        } else {
            self.counts.known += u64::from(source.is_new && self.is_rerun);
        }
        if self.options.delete && self.may_delete(&source, is_added) {
            batch.to_delete.push((key, source.item));
        }
    }

    /// Returns whether a moved record may be deleted from the source now. If not, counts why a later pass must do it.
    fn may_delete(&mut self, source: &SourceRecord, is_added: bool) -> bool {
        // A key that the scan returned twice is handled once.
        let was_added = self.pass.added.contains(&source.item.key);
        if is_added && !self.pass.is_first {
            self.pass.added.insert(source.item.key.clone());
        }
        if was_added {
            return false;
        }
        // Unchanged since the pass before, and the disk has been waited for in between.
        if !is_added && !self.pass.is_first {
            return true;
        }
        if self.is_recent(&source.record) {
            self.pass.recent += 1;
            return false;
        }
        if self.awaits_disk {
            self.pass.not_durable += 1;
            return false;
        }
        true
    }

    /// Whether a record changed so recently that, if it is deleted, a new record under its key can be equal to it.
    fn is_recent(&self, record: &Record) -> bool {
        self.source.has_whole_seconds()
            && record
                .last_change()
                .is_some_and(|last| last.seconds() > Timestamp::now().seconds() - QUIET_SECONDS)
    }

    /// Deletes records from the source that have not changed since they were read.
    async fn delete_from_source(
        &mut self,
        records: Vec<(JournalKey, Item)>,
        journal: &Journal,
    ) -> Result<(), MigrateError> {
        let (keys, items): (Vec<JournalKey>, Vec<Item>) = records.into_iter().unzip();
        let mut deleted = Vec::new();
        for (key, outcome) in keys.into_iter().zip(self.source.delete(items).await?) {
            match outcome {
                ChangeOutcome::Done => deleted.push(key),
                ChangeOutcome::Changed => self.pass.changed.push(key.key),
                ChangeOutcome::Refused(why) => self.fail(&key.key, &why),
            }
        }
        self.counts.deleted += deleted.len() as u64;
        if !deleted.is_empty() {
            block_in_place(|| journal.mark_deleted(&deleted))?;
        }
        Ok(())
    }
}
