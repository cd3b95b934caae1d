//! Comparing the records of two databases.

use std::sync::Arc;

use tokio::task::block_in_place;

use super::compare::{difference, lacks};
use super::copying::totals;
use super::progress_output::{MigrationCounts, MigrationProgress};
use super::read_ahead::read_ahead;
use super::record_limits::is_expired;
use super::seen_keys::SeenKeys;
use super::source_key::{SourceKey, classify};
use super::spool::Spool;
use super::stop_request::StopRequest;
use super::transfer::{MigrateError, RECORDS_AT_A_TIME};
use crate::record::{Record, Timestamp};
use crate::storage::bulk::{Bulk, BulkError, Item};
use pyzor_wire::digest::Digest;

/// What a comparison has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Keys of the source whose records were compared.
    pub(super) compared: u64,
    /// Of these, those whose record the destination does not have.
    pub(super) differing: u64,
}

/// A comparison under way.
pub(super) struct Verification<'a> {
    pub(super) source: Arc<dyn Bulk>,
    pub(super) destination: Arc<dyn Bulk>,
    pub(super) progress: &'a MigrationProgress,
    pub(super) stop: StopRequest,
    /// Whether the destination may have more than the source.
    pub(super) merged: bool,
    /// Before that a last change was too long ago.
    pub(super) horizon: Option<Timestamp>,
    /// Whether those that cannot be compared have been told and counted already.
    pub(super) is_told: bool,
}

impl Verification<'_> {
    /// Compares all records of the source with those of the destination.
    pub(super) async fn run(&self, counts: &mut MigrationCounts) -> Result<Findings, MigrateError> {
        let total = if self.progress.wants_total() { self.source.estimate().await? } else { None };
        self.progress.begin("comparing", total);
        let mut findings = Findings::default();
        let mut spool = Spool::default();
        let mut seen = SeenKeys::new(self.source.repeats());
        let mut batches = read_ahead(&self.source, RECORDS_AT_A_TIME);
        while let Some(items) = batches.recv().await {
            let items = items?;
            let met = items.len() as u64;
            self.batch(items, counts, (&mut findings, &mut spool, &mut seen)).await?;
            self.progress.advance(met);
            self.stop.check()?;
        }
        self.groups(&spool, &mut findings).await?;
        Ok(findings)
    }

    async fn batch(
        &self,
        items: Vec<Item>,
        counts: &mut MigrationCounts,
        (findings, spool, seen): (&mut Findings, &mut Spool, &mut SeenKeys),
    ) -> Result<(), MigrateError> {
        let (mut regular, mut odd) = (Vec::new(), Vec::new());
        for item in items {
            let is_new = seen.is_new(&item.key);
            let (digest, is_odd) = match classify(&item.key) {
                SourceKey::Regular(digest) => (digest, false),
                SourceKey::Odd(digest) => (digest, true),
                SourceKey::Foreign => {
                    counts.skipped += u64::from(is_new && !self.is_told);
                    continue;
                }
            };
            match item.record {
                Ok(record) if is_expired(self.horizon, &record) => {
                    counts.expired += u64::from(is_new && !self.is_told);
                }
                Ok(record) => {
                    findings.compared += u64::from(is_new);
                    match is_odd {
                        true => odd.push((digest, item.key, record)),
                        false => regular.push((digest, record)),
                    }
                }
                Err(why) if !self.is_told && seen.is_new_failure(&item.key) => {
                    counts.failed += 1;
                    self.progress.failed(&item.key, &why);
                }
                Err(_) => {}
            }
        }
        let suspects: Vec<Digest> =
            self.differing(&regular).await?.into_iter().map(|(at, _)| regular[at].0).collect();
        // What looks wrong may be the sum of several keys.
        block_in_place(|| spool.keep(&odd).and_then(|()| spool.suspect(&suspects)))?;
        Ok(())
    }

    async fn groups(&self, spool: &Spool, findings: &mut Findings) -> Result<(), MigrateError> {
        let mut behind = None;
        loop {
            self.stop.check()?;
            let groups = block_in_place(|| spool.groups(behind, RECORDS_AT_A_TIME))?;
            let Some(last) = groups.last() else { return Ok(()) };
            behind = Some(last.digest);
            let totals = totals(self.source.as_ref(), &groups).await?;
            let expected: Vec<(Digest, Record)> =
                groups.iter().zip(totals).filter_map(|(group, total)| Some((group.digest, total?))).collect();
            for (at, why) in self.differing(&expected).await? {
                let digest = expected[at].0;
                let odd = groups.iter().find(|group| group.digest == digest);
                findings.differing += odd.map_or(1, |group| group.odd.len().max(1) as u64);
                self.progress.say(&format_args!("Record {digest} differs: {why}"));
            }
        }
    }

    /// Which records the destination does not have, and what it has instead.
    async fn differing(&self, expected: &[(Digest, Record)]) -> Result<Vec<(usize, String)>, BulkError> {
        let keys = expected.iter().map(|(digest, _)| digest.to_hex().to_vec()).collect();
        let found = self.destination.read(keys).await?;
        let compare = |expected: &Record, found: Option<&Item>| match self.merged {
            true => lacks(expected, found),
            false => difference(expected, found),
        };
        let differs = |at: &usize| compare(&expected[*at].1, found[*at].as_ref()).is_some();
        let suspects: Vec<usize> = (0..expected.len()).filter(differs).collect();
        // Only the destination knows what it makes of a record.
        let given = self.destination.read_back(suspects.iter().map(|at| expected[*at].1).collect()).await?;
        let told = suspects
            .into_iter()
            .zip(given)
            .filter_map(|(at, expected)| Some((at, compare(&expected, found[at].as_ref())?)));
        Ok(told.collect())
    }
}
