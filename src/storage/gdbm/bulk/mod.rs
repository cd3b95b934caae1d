//! The gdbm engine for work on all records of a file.

mod core;
mod open;

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use self::core::{BulkState, GdbmBulkCore};
pub(in crate::storage) use self::open::open_bulk;
use super::codec::{StoredRecord, in_calendar};
use super::file::directory::hash;
use super::lock;
use crate::record::{Record, Timestamp};
use crate::storage::bulk::Cursor;
use crate::storage::bulk::{
    Addition, Bulk, BulkError, BulkFuture, ChangeOutcome, Item, Items, Put, map_tallies, map_times, united,
};

struct GdbmBulk {
    shared: Arc<GdbmBulkCore>,
}

impl GdbmBulk {
    /// Runs work on the open file in a blocking thread.
    fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&GdbmBulkCore, &mut BulkState) -> Result<T, BulkError> + Send + 'static,
    ) -> BulkFuture<'_, T> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || {
                let mut state = lock(&shared.state);
                shared.bound_memory(&mut state)?;
                work(&shared, &mut state)
            });
            done.await.unwrap_or_else(|error| {
                Err(BulkError(format!("the thread that works on the database panicked: {error}")))
            })
        })
    }
}

/// Returns a record in the exact form in which another gdbm file holds it, if `held` is one.
fn exact(held: Option<&[u8]>, record: &Record) -> StoredRecord {
    held.and_then(StoredRecord::decode).unwrap_or_else(|| StoredRecord::from_record(record))
}

/// Sorts changes into the order of the file, so that those in one block are together. Returns each with its old index.
fn in_order<T>(changes: Vec<T>, key: impl Fn(&T) -> [u8; 40]) -> Vec<(usize, T)> {
    let mut ordered: Vec<(usize, T)> = changes.into_iter().enumerate().collect();
    ordered.sort_by_cached_key(|(_, change)| hash(&key(change)));
    ordered
}

impl Bulk for GdbmBulk {
    fn engine(&self) -> &'static str {
        "gdbm"
    }

    fn describe(&self) -> String {
        format!("gdbm, {}", self.shared.path.display())
    }

    fn identity(&self, _token: &str, _first: bool) -> BulkFuture<'_, Vec<String>> {
        Box::pin(async {
            let metadata = self.shared.file.metadata();
            let metadata = metadata.map_err(|error| {
                BulkError(format!("the database {}: {error}", self.shared.path.display()))
            })?;
            Ok(vec![format!("file {}:{}", metadata.dev(), metadata.ino())])
        })
    }

    fn names(&self) -> BulkFuture<'_, Vec<String>> {
        // A repair changes the inode and keeps the name; a rename changes the name and keeps the inode.
        let mut names = vec![format!("file {}", self.shared.path.display())];
        if let Ok(metadata) = self.shared.file.metadata() {
            let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
            let made = made.map_or(0, |made| made.as_nanos());
            names.push(format!("inode {}:{} of {made}", metadata.dev(), metadata.ino()));
        }
        Box::pin(async { Ok(names) })
    }

    fn zone(&self) -> Option<TimeZone> {
        Some(self.shared.zone.clone())
    }

    fn has_stragglers(&self) -> bool {
        false
    }

    fn estimate(&self) -> BulkFuture<'_, Option<u64>> {
        self.work(|shared, state| {
            let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
            open.handle.count().map(Some).map_err(|error| shared.failed(open, &error))
        })
    }

    fn has_whole_seconds(&self) -> bool {
        false
    }

    fn clamp(&self, record: &Record) -> Record {
        let time = |time: Timestamp| Some(in_calendar(&self.shared.zone, time));
        map_tallies(record, |_, tally| map_times(tally, time))
    }

    fn read_back(&self, records: Vec<Record>) -> BulkFuture<'_, Vec<Record>> {
        let local = |time: Timestamp| {
            let moment = jiff::Timestamp::from_microsecond(time.micros()).ok()?;
            let date: DateTime = self.shared.zone.to_datetime(moment);
            let moment = self.shared.zone.to_timestamp(date).ok()?;
            Some(Timestamp::from_micros(moment.as_microsecond()))
        };
        let back = |record: &Record| map_tallies(&self.clamp(record), |_, tally| map_times(tally, local));
        let records = records.iter().map(back).collect();
        Box::pin(async { Ok(records) })
    }

    fn scan(&self, from: Option<Cursor>, limit: usize) -> BulkFuture<'_, Items> {
        self.work(move |shared, state| shared.page(state, from, limit.max(1)))
    }

    fn read(&self, keys: Vec<Vec<u8>>) -> BulkFuture<'_, Vec<Option<Item>>> {
        self.work(move |shared, state| {
            let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
            keys.iter().map(|key| shared.item(open, key)).collect()
        })
    }

    fn store(&self, records: Vec<Put>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        let clamped = |mut put: Put| {
            put.record = self.clamp(&put.record);
            put
        };
        let records: Vec<Put> = records.into_iter().map(clamped).collect();
        self.work(move |shared, state| {
            let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
            let mut outcomes = vec![ChangeOutcome::Changed; records.len()];
            for (at, put) in in_order(records, |put| put.digest.to_hex()) {
                let stored = exact(put.held.as_deref(), &put.record);
                outcomes[at] = shared.put(open, &put.digest.to_hex(), &stored)?;
            }
            Ok(outcomes)
        })
    }

    fn add(&self, additions: Vec<Addition>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        let clamped = |mut addition: Addition| {
            addition.record = self.clamp(&addition.record);
            addition
        };
        let additions: Vec<Addition> = additions.into_iter().map(clamped).collect();
        self.work(move |shared, state| {
            let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
            let mut outcomes = vec![ChangeOutcome::Changed; additions.len()];
            for (at, addition) in in_order(additions, |addition| addition.digest.to_hex()) {
                let key = addition.digest.to_hex();
                let sum = match shared.item(open, &key)? {
                    None => exact(addition.held.as_deref(), &addition.record),
                    Some(Item { record: Ok(there), .. }) => {
                        StoredRecord::from_record(&united(&there, &addition.record))
                    }
                    Some(Item { record: Err(why), .. }) => {
                        outcomes[at] = ChangeOutcome::Refused(format!("in the destination: {why}"));
                        continue;
                    }
                };
                outcomes[at] = shared.put(open, &key, &sum)?;
            }
            Ok(outcomes)
        })
    }

    fn delete(&self, items: Vec<Item>) -> BulkFuture<'_, Vec<ChangeOutcome>> {
        self.work(move |shared, state| {
            let mut outcomes = Vec::with_capacity(items.len());
            let visited = state.visited;
            for item in items {
                let open = state.open.as_mut().ok_or_else(|| shared.closed())?;
                let still = shared.item(open, &item.key)?;
                if still.as_ref().is_some_and(|still| still.held != item.held) {
                    outcomes.push(ChangeOutcome::Changed);
                    continue;
                }
                outcomes.push(ChangeOutcome::Done);
                state.deletions.push(visited.unwrap_or_default(), item);
            }
            shared.delete_due(state, visited)?;
            Ok(outcomes)
        })
    }

    fn sync(&self) -> BulkFuture<'_, ()> {
        // Without the lock on the state, so that a scan need not wait for the disk.
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let path = shared.path.clone();
            let synced = tokio::task::spawn_blocking(move || shared.file.sync_all()).await;
            match synced {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    Err(BulkError(format!("cannot write the database {} to disk: {error}", path.display())))
                }
                Err(error) => {
                    Err(BulkError(format!("the thread that works on the database panicked: {error}")))
                }
            }
        })
    }

    fn close(&self) -> BulkFuture<'_, ()> {
        self.work(|shared, state| {
            if state.open.is_none() {
                return Ok(());
            }
            let deleted = shared.delete_due(state, None);
            shared.close(state, deleted.is_ok()).and(deleted)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::storage::bulk::BulkPurpose;
    use crate::storage::gdbm::cancel::Cancel;
    use crate::storage::gdbm::file::handle::Handle;
    use crate::storage::gdbm::file::location::DatabasePath;
    use crate::storage::gdbm::file::marker::Marker;

    #[test]
    fn errors_leave_the_marker_for_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pyzord.db");
        let garbage = directory.path().join("garbage");
        std::fs::write(&garbage, [7; 1000]).unwrap();
        let file = File::open(&garbage).unwrap();
        let error = Handle::open(&file, &garbage).err().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for fails in [false, true] {
            let whole =
                GdbmBulk::open(&path, BulkPurpose::Fill, TimeZone::UTC, None, &Cancel::default()).unwrap();
            if fails {
                let mut state = lock(&whole.shared.state);
                let _ = whole.shared.failed(state.open.as_mut().unwrap(), &error);
            }
            runtime.block_on(whole.close()).unwrap();
            let marker = Marker::of(&DatabasePath::of(&path).unwrap());
            assert_eq!(marker.exists(), fails);
        }
    }
}
