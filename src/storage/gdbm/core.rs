//! What is done for each digest, under the lock on the open file.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, warn};

use super::codec::StoredRecord;
use super::file::handle::GdbmError;
use super::file::location::DatabasePath;
use super::file::marker::Marker;
use super::lock;
use super::open_file::OpenFile;
use crate::logging::allowance::withheld_note;
use crate::record::{TallyKind, Timestamp};
use crate::storage::{BatchEntry, StorageError};
use pyzor_wire::digest::Digest;

/// What the engine's thread may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Make changes durable.
    Opened,
    /// Delete expired records as well.
    Expiring,
    /// Nothing any more: the engine is to be closed.
    Stopping,
}

/// The open file and all that is known of it, for the engine and its thread.
pub(super) struct GdbmCore {
    pub(super) path: PathBuf,
    pub(super) place: DatabasePath,
    pub(super) marker: Marker,
    pub(super) age: Option<Duration>,
    /// None once closed.
    pub(super) open: Mutex<Option<OpenFile>>,
    /// The same open file, to be synced without the lock on it here. It is locked against other processes until
    /// this is dropped, when its marker is gone.
    pub(super) file: File,
    pub(super) phase: Mutex<Phase>,
    pub(super) wake: Condvar,
    pub(super) failure: watch::Sender<Option<String>>,
    /// Whether it has been told that the file is not at its place any more.
    pub(super) is_gone: AtomicBool,
}

impl GdbmCore {
    /// Lets records expire from now on.
    pub(super) fn begin_expiry(&self) {
        *lock(&self.phase) = Phase::Expiring;
        self.wake.notify_all();
    }

    /// The open file, once no other thread uses it; none once closed.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<OpenFile>> {
        lock(&self.open)
    }

    /// Does what a batch asks of one digest.
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
                    open.cache.put(&entry.digest, Some(changed));
                    open.extend_tail();
                    Ok(())
                }
                Err(error) => {
                    open.cache.forget(&entry.digest);
                    Err(self.report_error(open, &error))
                }
            }
        } else {
            Err(StorageError::Unavailable)
        };
        (entry.reported, entry.whitelisted) = (outcome, outcome);
        Ok(())
    }

    /// Reads what the file has of a digest, and keeps it at hand.
    fn read(
        &self,
        open: &mut OpenFile,
        digest: &Digest,
    ) -> Result<Result<Option<StoredRecord>, StorageError>, GdbmError> {
        let known = if open.handle.fetch(&digest.to_hex(), &mut open.value)? {
            let Some(stored) = StoredRecord::decode(&open.value) else {
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

    /// Whether a new key would blow the file's directory up, as chosen digests do.
    fn would_grow_directory(&self, open: &mut OpenFile, key: &[u8]) -> bool {
        let why = match open.directory.would_grow_directory(key) {
            Ok(false) => return false,
            Ok(true) => "it collides with too many others, which somebody must have chosen".to_owned(),
            Err(error) => format!("the directory cannot be read: {error}"),
        };
        if let Some(withheld) = open.complaints.take(Instant::now()) {
            let (key, path) = (key.escape_ascii(), self.path.display());
            warn!("the digest {key} is not stored in {path}: {why}{}", withheld_note(withheld));
        }
        true
    }

    /// Has the server end for this reason, of which only the first one counts.
    pub(super) fn fail(&self, why: String) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(why);
            first
        });
    }

    /// Logs an error of the library, and finds out whether it was the last one.
    pub(super) fn report_error(&self, open: &mut OpenFile, error: &GdbmError) -> StorageError {
        let path = self.path.display();
        self.marker.flag().require_repair();
        if open.handle.needs_recovery() {
            let why = format!(
                "the database {path} is damaged ({error}): the server ends, and its next start repairs the file; \
                 should that not help, run pyzord --recover"
            );
            self.fail(why);
        } else if let Some(withheld) = open.complaints.take(Instant::now()) {
            error!("the database {path}: {error}{}", withheld_note(withheld));
        }
        StorageError::Unavailable
    }
}
