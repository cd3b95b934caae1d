//! An engine that keeps records in memory: the simplest implementation of [`Engine`], for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Batch, BatchProgress, BoxFuture, Engine, EngineStatus, StorageError};
use crate::record::{Record, TallyKind};
use pyzor_wire::digest::Digest;

/// An engine that keeps records in memory.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    records: Mutex<BTreeMap<Digest, Record>>,
    limit: i64,
    /// Digests whose requests fail, with the error.
    broken: BTreeMap<Digest, StorageError>,
}

impl MemoryEngine {
    /// Returns an engine with these records, whose counts stop at `limit`. Requests for digests in `broken` fail.
    pub fn new(
        records: BTreeMap<Digest, Record>,
        limit: i64,
        broken: BTreeMap<Digest, StorageError>,
    ) -> Self {
        Self { records: Mutex::new(records), limit, broken }
    }

    /// Returns a copy of all records.
    pub fn records(&self) -> BTreeMap<Digest, Record> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn run(&self, mut batch: Batch) -> BatchProgress {
        let now = batch.now();
        let mut records = self.lock();
        for entry in batch.entries_mut() {
            if let Some(error) = self.broken.get(&entry.digest) {
                entry.fail(*error);
                continue;
            }
            if entry.look_up {
                entry.found = Ok(records.get(&entry.digest).copied().unwrap_or_default());
            }
            for (kind, amount) in
                [(TallyKind::Report, entry.reports), (TallyKind::Whitelist, entry.whitelists)]
            {
                if amount > 0 {
                    let record = records.entry(entry.digest).or_default();
                    record.tally_mut(kind).add(amount, now, self.limit);
                }
            }
            (entry.reported, entry.whitelisted) = (Ok(()), Ok(()));
        }
        drop(records);
        BatchProgress::Done(batch)
    }

    fn count_limit(&self) -> i64 {
        self.limit
    }

    fn is_available(&self) -> bool {
        true
    }

    fn status(&self) -> EngineStatus {
        EngineStatus::default()
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
