//! Copies records: stores them in the destination, and replaces existing ones.

use tokio::task::{JoinHandle, block_in_place};

use super::record_limits::is_clamped;
use super::spool::SpooledDigest;
use super::transfer::{BATCH, MigrateError, SourceRecord, Transfer};
use crate::record::Record;
use crate::storage::bulk::{Bulk, BulkError, ChangeOutcome, Item, Put, united};

/// A batch that is being written.
pub(super) struct PendingWrite {
    /// Each key of the batch, and whether it is met for the first time.
    keys: Vec<(Vec<u8>, bool)>,
    outcomes: JoinHandle<Result<Vec<ChangeOutcome>, BulkError>>,
}

impl Transfer<'_> {
    /// Begins to store a batch. Records under odd keys go to the spool, because the scan may find more keys of their
    /// digests.
    pub(super) async fn copy(&mut self, records: Vec<SourceRecord>) -> Result<(), MigrateError> {
        let destination = self.destination()?;
        let (odd, regular): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.is_odd);
        let odd: Vec<_> = odd
            .into_iter()
            .map(|source: SourceRecord| (source.digest, source.item.key, source.record))
            .collect();
        block_in_place(|| self.spool.keep(&odd))?;
        let key = |source: &SourceRecord| (source.item.key.clone(), source.is_new);
        let keys: Vec<_> = regular.iter().map(key).collect();
        let same_engine = self.source.engine() == destination.engine();
        let put = |source: SourceRecord| Put {
            digest: source.digest,
            record: source.record,
            expires: self.expires(&source.record),
            held: same_engine.then_some(source.item.held),
        };
        let puts: Vec<Put> = regular.into_iter().map(put).collect();
        let is_newly_clamped = |(put, (_, is_new)): &(&Put, &(Vec<u8>, bool))| {
            *is_new && is_clamped(destination.as_ref(), &put.record)
        };
        self.counts.clamped += puts.iter().zip(&keys).filter(is_newly_clamped).count() as u64;
        self.written().await?;
        let outcomes = tokio::spawn(async move { destination.store(puts).await });
        self.writing = Some(PendingWrite { keys, outcomes });
        Ok(())
    }

    /// Waits for the batch that is being written, and counts its outcomes.
    pub(super) async fn written(&mut self) -> Result<(), MigrateError> {
        let Some(PendingWrite { keys, outcomes }) = self.writing.take() else { return Ok(()) };
        let outcomes =
            outcomes.await.map_err(|error| BulkError(format!("the write task failed: {error}")))??;
        for ((key, is_new), outcome) in keys.iter().zip(outcomes) {
            match outcome {
                ChangeOutcome::Done if !is_new => {}
                outcome => self.take_copied(&[key], outcome),
            }
        }
        Ok(())
    }

    /// Counts the outcome for the keys of one digest.
    fn take_copied(&mut self, keys: &[&Vec<u8>], outcome: ChangeOutcome) {
        match outcome {
            ChangeOutcome::Done => self.counts.transferred += keys.len() as u64,
            ChangeOutcome::Changed => self.counts.left += keys.len() as u64,
            ChangeOutcome::Refused(why) => {
                keys.iter().for_each(|key| self.fail(key, &why));
            }
        }
    }

    /// Stores the records in the spool, those of each digest added up to one.
    pub(super) async fn write_spool(&mut self) -> Result<(), MigrateError> {
        let mut after = None;
        loop {
            self.stop.check()?;
            let groups = block_in_place(|| self.spool.groups(after, BATCH))?;
            let Some(last) = groups.last() else { return Ok(()) };
            after = Some(last.digest);
            let destination = self.destination()?;
            let totals = totals(self.source.as_ref(), &groups).await?;
            let put = |(group, record): (&SpooledDigest, &Option<Record>)| {
                let record = record.unwrap_or_default();
                Put { digest: group.digest, record, expires: self.expires(&record), held: None }
            };
            let puts: Vec<Put> = groups.iter().zip(&totals).map(put).collect();
            let clamped = puts.iter().filter(|put| is_clamped(destination.as_ref(), &put.record)).count();
            self.counts.clamped += clamped as u64;
            for (group, outcome) in groups.iter().zip(destination.store(puts).await?) {
                let keys: Vec<&Vec<u8>> = group.odd.iter().map(|(key, _)| key).collect();
                self.take_copied(&keys, outcome);
            }
            self.progress.transferred(self.counts.transferred);
        }
    }
}

/// Returns for each digest the sum of its records in the spool and of the one under its regular key; none if there is
/// no record.
pub(super) async fn totals(
    source: &dyn Bulk,
    groups: &[SpooledDigest],
) -> Result<Vec<Option<Record>>, BulkError> {
    let keys: Vec<Vec<u8>> = groups.iter().map(|group| group.digest.to_hex().to_vec()).collect();
    let regular = source.read(keys.clone()).await?;
    let total = |((group, key), regular): ((&SpooledDigest, &Vec<u8>), Option<Item>)| {
        // MySQL may find an odd key by the regular one, because it compares without case.
        let regular = regular.filter(|item| item.key == *key).and_then(|item| item.record.ok());
        group
            .odd
            .iter()
            .map(|(_, record)| *record)
            .chain(regular)
            .reduce(|one, another| united(&one, &another))
    };
    Ok(groups.iter().zip(&keys).zip(regular).map(total).collect())
}
