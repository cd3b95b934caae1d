//! The state shared by the engine and its thread, and the work for one digest.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, warn};

use super::codec::StoredRecord;
use super::condition::Condition;
use super::file::handle::GdbmError;
use super::file::location::DatabasePath;
use super::file::marker::Marker;
use super::lock;
use super::open_file::OpenFile;
use crate::logging::allowance::withheld_note;
use crate::record::{TallyKind, Timestamp};
use crate::storage::{BatchEntry, StorageError};
use pyzor_wire::digest::Digest;

/// The tasks that the engine's thread is allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Sync changes.
    Opened,
    /// Sync changes and delete expired records.
    Expiring,
    /// End: the engine is being closed.
    Stopping,
}

/// State shared by the engine and its thread.
pub(super) struct GdbmCore {
    pub(super) path: PathBuf,
    pub(super) location: DatabasePath,
    pub(super) marker: Marker,
    /// The time without a change after which a record expires.
    pub(super) age: Option<Duration>,
    /// The open file; none once closed.
    pub(super) open: Mutex<Option<OpenFile>>,
    pub(super) condition: Arc<Condition>,
    /// The descriptor with which the file is synced, without taking `open`. It holds the lock against other processes,
    /// which must outlive the marker.
    pub(super) file: File,
    /// The engine's thread. Locked while the database is being closed.
    pub(super) keeper: Mutex<Option<JoinHandle<()>>>,
    pub(super) phase: Mutex<Phase>,
    pub(super) wake: Condvar,
    /// The reason why the server must stop.
    pub(super) failure: watch::Sender<Option<String>>,
    /// Whether it has been logged that the file is no longer at its path.
    pub(super) is_gone: AtomicBool,
}

impl GdbmCore {
    /// Allows the engine's thread to delete expired records.
    pub(super) fn begin_expiry(&self) {
        *lock(&self.phase) = Phase::Expiring;
        self.wake.notify_all();
    }

    /// Locks the open file. Contains none once it is closed.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<OpenFile>> {
        lock(&self.open)
    }

    /// Serves one entry of a batch: the look-up first, then the increments.
    ///
    /// # Errors
    ///
    /// An error of the library in the look-up.
    pub(super) fn serve(
        &self,
        open: &mut OpenFile,
        entry: &mut BatchEntry,
        now: Timestamp,
    ) -> Result<(), GdbmError> {
        let known = match open.cache.get(&entry.digest) {
            Some(known) => known,
            None => match self.read(open, &entry.digest)? {
                Ok(known) => known,
                Err(error) => {
                    entry.fail(error);
                    return Ok(());
                }
            },
        };
        let stored = known.unwrap_or_default();
        if entry.look_up {
            entry.found = Ok(if entry.times { stored.record(open.calendar.zone()) } else { stored.counts() });
        }
        if !entry.changes() {
            return Ok(());
        }
        let key = entry.digest.to_hex();
        let outcome = if known.is_none() && self.would_grow_directory(open, &key) {
            Err(StorageError::Unavailable)
        } else if open.admit(&self.path, now) {
            let mut changed = stored;
            for (kind, amount) in
                [(TallyKind::Report, entry.reports), (TallyKind::Whitelist, entry.whitelists)]
            {
                if amount > 0 {
                    changed.add(kind, amount, now);
                }
            }
            match open.put(&key, &changed) {
                Ok(()) => {
                    if known.is_none() {
                        open.note_new_key(&key);
                    }
                    open.cache.put(&entry.digest, Some(changed));
                    open.extend_tail();
                    Ok(())
                }
                Err(error) => {
                    open.cache.forget(&entry.digest);
                    self.report_error(open, &error);
                    Err(StorageError::InDoubt)
                }
            }
        } else {
            Err(StorageError::Unavailable)
        };
        (entry.reported, entry.whitelisted) = (outcome, outcome);
        Ok(())
    }

    /// Reads the record of a digest from the file into the cache. The inner error is that of a damaged record.
    fn read(
        &self,
        open: &mut OpenFile,
        digest: &Digest,
    ) -> Result<Result<Option<StoredRecord>, StorageError>, GdbmError> {
        let known = if open.handle.fetch(&digest.to_hex(), &mut open.value)? {
            let Some(stored) = StoredRecord::decode(&open.value) else {
                open.condition.has_damaged_record(digest);
                if let Some(withheld) = open.complaints.take(Instant::now()) {
                    error!(
                        "the record of {digest} in {} is damaged{}",
                        self.path.display(),
                        withheld_note(withheld)
                    );
                }
                return Ok(Err(StorageError::Damaged));
            };
            Some(stored)
        } else {
            None
        };
        open.cache.put(digest, known);
        Ok(Ok(known))
    }

    /// Returns whether a new key must be refused because it would make the directory of the file too large.
    fn would_grow_directory(&self, open: &mut OpenFile, key: &[u8]) -> bool {
        let why = match open.directory.would_grow_directory(key) {
            Ok(false) => return false,
            Ok(true) => "it collides with too many others, which were probably chosen to collide".to_owned(),
            Err(error) => format!("cannot read the hash directory: {error}"),
        };
        if let Some(withheld) = open.complaints.take(Instant::now()) {
            let (key, path) = (key.escape_ascii(), self.path.display());
            warn!("the digest {key} is not stored in {path}: {why}{}", withheld_note(withheld));
        }
        true
    }

    /// Stops the server. Only the first reason is kept.
    pub(super) fn fail(&self, why: String) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(why);
            first
        });
    }

    /// Logs an error of the library and requires a repair. Stops the server if the library refuses further work.
    pub(super) fn report_error(&self, open: &mut OpenFile, error: &GdbmError) -> StorageError {
        let path = self.path.display();
        self.marker.flag().require_repair();
        if open.handle.needs_recovery() {
            let why = format!(
                "the database {path} is damaged ({error}): the server stops, and its next start repairs the file; if \
                 that does not help, run pyzord --recover"
            );
            self.fail(why);
        } else if let Some(withheld) = open.complaints.take(Instant::now()) {
            error!("the database {path}: {error}{}", withheld_note(withheld));
        }
        StorageError::Unavailable
    }
}
