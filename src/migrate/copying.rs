//! Copying: records are stored in the destination, whatever is there.

use tokio::task::{JoinHandle, block_in_place};

use super::record_limits::is_clamped;
use super::spool::SpooledDigest;
use super::transfer::{MigrateError, RECORDS_AT_A_TIME, RecordToMove, Transfer};
use crate::record::Record;
use crate::storage::bulk::{Bulk, BulkError, ChangeOutcome, Item, Put, united};

/// The keys of a batch, and what becomes of them.
pub(super) struct PendingWrite {
    /// With each, whether it is met for the first time.
    keys: Vec<(Vec<u8>, bool)>,
    outcomes: JoinHandle<Result<Vec<ChangeOutcome>, BulkError>>,
}

impl Transfer<'_> {
    /// Stores records, whatever is there. Those under odd keys wait until all of their digest are known.
    pub(super) async fn copy(&mut self, candidates: Vec<RecordToMove>) -> Result<(), MigrateError> {
        let destination = self.destination()?;
        let (odd, regular): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.is_odd);
        let odd: Vec<_> = odd
            .into_iter()
            .map(|candidate| (candidate.digest, candidate.item.key, candidate.record))
            .collect();
        block_in_place(|| self.spool.keep(&odd))?;
        let key = |candidate: &RecordToMove| (candidate.item.key.clone(), candidate.is_new);
        let keys: Vec<_> = regular.iter().map(key).collect();
        let same_engine = self.source.engine() == destination.engine();
        let put = |candidate: RecordToMove| Put {
            digest: candidate.digest,
            record: candidate.record,
            expires: self.expires(&candidate.record),
            held: same_engine.then_some(candidate.item.held),
        };
        let puts: Vec<Put> = regular.into_iter().map(put).collect();
        let is_counted = |(put, (_, is_new)): &(&Put, &(Vec<u8>, bool))| {
            *is_new && is_clamped(destination.as_ref(), &put.record)
        };
        self.counts.clamped += puts.iter().zip(&keys).filter(is_counted).count() as u64;
        self.written().await?;
        let outcomes = tokio::spawn(async move { destination.store(puts).await });
        self.writing = Some(PendingWrite { keys, outcomes });
        Ok(())
    }

    /// Waits for the batch that is being written.
    pub(super) async fn written(&mut self) -> Result<(), MigrateError> {
        let Some(PendingWrite { keys, outcomes }) = self.writing.take() else { return Ok(()) };
        let outcomes =
            outcomes.await.map_err(|error| BulkError(format!("the writing has died: {error}")))??;
        for ((key, is_new), outcome) in keys.iter().zip(outcomes) {
            match outcome {
                ChangeOutcome::Done if !is_new => {}
                outcome => self.take(&[key], outcome),
            }
        }
        Ok(())
    }

    /// Counts what became of some keys.
    fn take(&mut self, keys: &[&Vec<u8>], outcome: ChangeOutcome) {
        match outcome {
            ChangeOutcome::Done => self.counts.transferred += keys.len() as u64,
            ChangeOutcome::Changed => self.counts.left += keys.len() as u64,
            ChangeOutcome::Refused(why) => {
                keys.iter().for_each(|key| self.fail(key, &why));
            }
        }
    }

    /// Stores what waits in the spool, each digest's records as one.
    pub(super) async fn write_spool(&mut self) -> Result<(), MigrateError> {
        let mut behind = None;
        loop {
            self.stop.check()?;
            let groups = block_in_place(|| self.spool.groups(behind, RECORDS_AT_A_TIME))?;
            let Some(last) = groups.last() else { return Ok(()) };
            behind = Some(last.digest);
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
                self.take(&keys, outcome);
            }
            self.progress.transferred(self.counts.transferred);
        }
    }
}

/// All records of each digest as one, with the one under its own key; none where there is nothing any more.
pub(super) async fn totals(
    source: &dyn Bulk,
    groups: &[SpooledDigest],
) -> Result<Vec<Option<Record>>, BulkError> {
    let keys: Vec<Vec<u8>> = groups.iter().map(|group| group.digest.to_hex().to_vec()).collect();
    let own = source.read(keys.clone()).await?;
    let total = |((group, key), own): ((&SpooledDigest, &Vec<u8>), Option<Item>)| {
        // Some databases find one by the other's key.
        let own = own.filter(|item| item.key == *key).and_then(|item| item.record.ok());
        group.odd.iter().map(|(_, record)| *record).chain(own).reduce(|one, another| united(&one, &another))
    };
    Ok(groups.iter().zip(&keys).zip(own).map(total).collect())
}
