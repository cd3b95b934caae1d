//! Compares the records of two databases.

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
use super::transfer::{BATCH, MigrateError};
use crate::record::{Record, Timestamp};
use crate::storage::bulk::{Bulk, BulkError, Item};
use pyzor_wire::digest::Digest;

/// The result of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Number of keys of the source whose records were compared.
    pub(super) compared: u64,
    /// Number of those whose record in the destination is missing or different.
    pub(super) differing: u64,
}

/// A comparison of all records of the source with those of the destination.
pub(super) struct Verification<'a> {
    pub(super) source: Arc<dyn Bulk>,
    pub(super) destination: Arc<dyn Bulk>,
    pub(super) progress: &'a MigrationProgress,
    pub(super) stop: StopRequest,
    /// Whether the destination may have higher counts than the source.
    pub(super) merged: bool,
    /// Records that changed last before this time are left out.
    pub(super) horizon: Option<Timestamp>,
    /// Whether records that cannot be compared have been reported and counted before.
    pub(super) are_counted: bool,
}

impl Verification<'_> {
    pub(super) async fn run(&self, counts: &mut MigrationCounts) -> Result<Findings, MigrateError> {
        let total = if self.progress.has_bar() { self.source.estimate().await? } else { None };
        self.progress.begin("comparing", total);
        let mut findings = Findings::default();
        let mut spool = Spool::default();
        let mut seen = SeenKeys::new(self.source.repeats());
        let mut batches = read_ahead(&self.source, BATCH);
        while let Some(items) = batches.recv().await {
            let items = items?;
            let met = items.len() as u64;
            self.compare_batch(items, counts, (&mut findings, &mut spool, &mut seen)).await?;
            self.progress.advance(met);
            self.stop.check()?;
        }
        self.compare_spool(&spool, &mut findings).await?;
        Ok(findings)
    }

    /// Compares the records under regular keys; leaves those that differ, and odd keys, to the spool.
    async fn compare_batch(
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
                    counts.skipped += u64::from(is_new && !self.are_counted);
                    continue;
                }
            };
            match item.record {
                Ok(record) if is_expired(self.horizon, &record) => {
                    counts.expired += u64::from(is_new && !self.are_counted);
                }
                Ok(record) => {
                    findings.compared += u64::from(is_new);
                    match is_odd {
                        true => odd.push((digest, item.key, record)),
                        false => regular.push((digest, record)),
                    }
                }
                Err(why) if !self.are_counted && seen.is_new_failure(&item.key) => {
                    counts.failed += 1;
                    self.progress.print_failure(&item.key, &why);
                }
                Err(_) => {}
            }
        }
        let suspects: Vec<Digest> =
            self.differing(&regular).await?.into_iter().map(|(at, _)| regular[at].0).collect();
        // A digest that differs may be the sum of several keys, and the scan may not have returned all of them yet.
        block_in_place(|| spool.keep(&odd).and_then(|()| spool.suspect(&suspects)))?;
        Ok(())
    }

    /// Compares the digests in the spool, the records of each added up, and reports those that differ.
    async fn compare_spool(&self, spool: &Spool, findings: &mut Findings) -> Result<(), MigrateError> {
        let mut after = None;
        loop {
            self.stop.check()?;
            let groups = block_in_place(|| spool.groups(after, BATCH))?;
            let Some(last) = groups.last() else { return Ok(()) };
            after = Some(last.digest);
            let totals = totals(self.source.as_ref(), &groups).await?;
            let expected: Vec<(Digest, Record)> =
                groups.iter().zip(totals).filter_map(|(group, total)| Some((group.digest, total?))).collect();
            for (at, why) in self.differing(&expected).await? {
                let digest = expected[at].0;
                let odd = groups.iter().find(|group| group.digest == digest);
                findings.differing += odd.map_or(1, |group| group.odd.len().max(1) as u64);
                self.progress.print(&format_args!("Record {digest} differs: {why}"));
            }
        }
    }

    /// Returns the indexes of the records that differ from those in the destination, and how.
    async fn differing(&self, expected: &[(Digest, Record)]) -> Result<Vec<(usize, String)>, BulkError> {
        let keys = expected.iter().map(|(digest, _)| digest.to_hex().to_vec()).collect();
        let found = self.destination.read(keys).await?;
        let compare = |expected: &Record, found: Option<&Item>| match self.merged {
            true => lacks(expected, found),
            false => difference(expected, found),
        };
        let differs = |at: &usize| compare(&expected[*at].1, found[*at].as_ref()).is_some();
        let suspects: Vec<usize> = (0..expected.len()).filter(differs).collect();
        // Expected as the destination stores it: it may clamp counts or cut fractions of seconds.
        let given = self.destination.read_back(suspects.iter().map(|at| expected[*at].1).collect()).await?;
        let differing = suspects
            .into_iter()
            .zip(given)
            .filter_map(|(at, expected)| Some((at, compare(&expected, found[at].as_ref())?)));
        Ok(differing.collect())
    }
}
