//! Operations on all records of a file.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;

use jiff::tz::TimeZone;
use tracing::warn;

use crate::record::Timestamp;
use crate::storage::bulk::Cursor;
use crate::storage::bulk::{BulkError, ChangeOutcome, Item, Items};
use crate::storage::gdbm::cancel::Cancel;
use crate::storage::gdbm::codec::StoredRecord;
use crate::storage::gdbm::file::handle::GdbmError;
use crate::storage::gdbm::file::location::DatabasePath;
use crate::storage::gdbm::file::marker::Marker;
use crate::storage::gdbm::file::reserve::ReserveNews;
use crate::storage::gdbm::lock;
use crate::storage::gdbm::open_file::OpenFile;
use crate::storage::gdbm::repair::rewrite::{Repair, RepairKind};
use crate::storage::gdbm::walk::{DelayedDeletions, KeyWalk};

/// The largest file that is mapped into memory, which is faster. A larger mapping would make the process look as if it
/// took all memory, and a growing file would have to be mapped again all the time.
const LARGEST_MAPPED: u64 = 256 << 20;

/// State shared with the threads that do the work.
pub(super) struct GdbmBulkCore {
    pub(super) path: PathBuf,
    pub(super) location: DatabasePath,
    pub(super) zone: TimeZone,
    /// The marker; none if the file is only read.
    pub(super) marker: Option<Marker>,
    /// The descriptor that holds the lock.
    pub(super) file: File,
    pub(super) state: Mutex<BulkState>,
}

pub(super) struct BulkState {
    /// The open file; none once closed.
    pub(super) open: Option<OpenFile>,
    /// Number of keys that the current scan has visited; none without a scan.
    pub(super) visited: Option<u64>,
    /// Deletions that wait for the scan to leave their bucket.
    pub(super) deletions: DelayedDeletions<Item>,
    /// Whether a record has been deleted.
    pub(super) has_deleted: bool,
    /// Whether a scan has reached the end of the file.
    pub(super) was_scanned: bool,
    /// Whether the file is mapped into memory.
    pub(super) is_mapped: bool,
}

impl GdbmBulkCore {
    /// Requires a repair after an error of the library. Returns the error to report.
    pub(super) fn failed(&self, open: &mut OpenFile, error: &GdbmError) -> BulkError {
        let path = self.path.display();
        if let Some(marker) = &self.marker {
            marker.flag().require_repair();
        }
        let advice = if open.handle.needs_recovery() { "; the next run repairs it" } else { "" };
        BulkError(format!("the database {path}: {error}{advice}"))
    }

    /// Stops mapping the file once it is large.
    pub(super) fn bound_memory(&self, state: &mut BulkState) -> Result<(), BulkError> {
        if let Some(open) = state.open.as_mut().filter(|_| state.is_mapped)
            && self.file.metadata().is_ok_and(|metadata| metadata.len() > LARGEST_MAPPED)
        {
            open.handle.unmap().map_err(|error| self.failed(open, &error))?;
            state.is_mapped = false;
        }
        Ok(())
    }

    /// Reads the item of a key.
    pub(super) fn item(&self, open: &mut OpenFile, key: &[u8]) -> Result<Option<Item>, BulkError> {
        match open.handle.fetch(key, &mut open.value) {
            Ok(false) => Ok(None),
            Ok(true) => {
                let held = open.value.clone();
                let record = match StoredRecord::decode(&held) {
                    Some(stored) => Ok(stored.record(&self.zone)),
                    None => Err(format!("cannot decode '{}'", excerpt(&held))),
                };
                Ok(Some(Item { key: key.to_vec(), held, record }))
            }
            Err(error) => Err(self.failed(open, &error)),
        }
    }

    /// Reads up to `limit` items from the start, or from where a scan stopped.
    pub(super) fn page(
        &self,
        state: &mut BulkState,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<Items, BulkError> {
        let open = state.open.as_mut().ok_or_else(|| self.closed())?;
        let mut walk = match from {
            Some(Cursor(last)) => KeyWalk::after(last, state.visited.unwrap_or(0)),
            None => KeyWalk::default(),
        };
        let mut page = Items::default();
        while let Some(key) = walk.next(&mut open.handle).map_err(|error| self.failed(open, &error))? {
            page.items.extend(self.item(open, key)?);
            if page.items.len() >= limit {
                page.next = Some(Cursor(key.to_owned()));
                break;
            }
        }
        state.visited = page.next.as_ref().map(|_| walk.visited());
        state.was_scanned |= page.next.is_none();
        self.delete_due(state, state.visited)?;
        Ok(page)
    }

    /// Makes the deletions that are safe after the scan has visited so many keys; without a scan, all of them.
    pub(super) fn delete_due(&self, state: &mut BulkState, visited: Option<u64>) -> Result<(), BulkError> {
        let BulkState { open, deletions, has_deleted, .. } = state;
        let open = open.as_mut().ok_or_else(|| self.closed())?;
        // After an error the remaining deletions are dropped.
        let due: Vec<Item> = std::iter::from_fn(|| deletions.pop(visited)).collect();
        for item in due {
            // Only this process can have changed it since: the file is locked.
            if !open.handle.fetch(&item.key, &mut open.value).map_err(|error| self.failed(open, &error))?
                || open.value != item.held
            {
                continue;
            }
            self.admit(open)?;
            open.dirty = true;
            open.handle.delete(&item.key).map_err(|error| self.failed(open, &error))?;
            *has_deleted = true;
        }
        Ok(())
    }

    /// Reserves disk space for one change.
    fn admit(&self, open: &mut OpenFile) -> Result<(), BulkError> {
        match open.reserve.admit(Timestamp::now().seconds()) {
            (true, ReserveNews::Unsupported(why)) => {
                let path = self.path.display();
                warn!(
                    "the file system of the database {path} cannot reserve blocks ({why}): make sure that the disk \
                     does not become full, because that destroys records"
                );
                Ok(())
            }
            (true, _) => Ok(()),
            (false, _) => {
                let why = open.reserve.refusal().unwrap_or_default().to_owned();
                Err(BulkError(format!("no room for the database {}: {why}", self.path.display())))
            }
        }
    }

    /// Stores a record, unless a new key would make the directory of the file too large.
    pub(super) fn put(
        &self,
        open: &mut OpenFile,
        key: &[u8],
        stored: &StoredRecord,
    ) -> Result<ChangeOutcome, BulkError> {
        let is_too_large = open.directory.would_grow_directory(key);
        if is_too_large
            .map_err(|error| BulkError(format!("the database {}: {error}", self.path.display())))?
            && !open.handle.fetch(key, &mut open.value).map_err(|error| self.failed(open, &error))?
        {
            let why = "it collides with too many others, which were probably chosen to collide";
            return Ok(ChangeOutcome::Refused(why.to_owned()));
        }
        self.admit(open)?;
        stored.encode(&mut open.text, &mut open.calendar);
        open.dirty = true;
        // Most keys are new, and inserting needs no look-up.
        let is_new = open.handle.insert(key, &open.text).map_err(|error| self.failed(open, &error))?;
        if !is_new {
            open.handle.store(key, &open.text).map_err(|error| self.failed(open, &error))?;
        }
        Ok(ChangeOutcome::Done)
    }

    /// Rewrites the closed file without the remains of deleted records, which a later repair would restore. It needs
    /// room for a second file, so it is done only after a complete scan that deleted records. Returns the new file,
    /// locked.
    fn compact(&self) -> Option<File> {
        let cancel = Cancel::default();
        let repair = Repair { location: &self.location, zone: &self.zone, horizon: None, cancel: &cancel };
        match repair.run(&self.file, RepairKind::Compact) {
            Ok(repaired) => repaired.file,
            Err(error) => {
                warn!(
                    "cannot compact the database {}: {error}; until it is compacted (gdbmtool's reorganize does that), \
                     a repair can restore deleted records",
                    self.path.display()
                );
                None
            }
        }
    }

    /// Closes the file, if it is open, and removes the marker if no repair is owed.
    pub(super) fn close(&self, state: &mut BulkState, may_compact: bool) -> Result<(), BulkError> {
        let Some(mut open) = state.open.take() else { return Ok(()) };
        let needs_recovery = open.handle.needs_recovery();
        let failed =
            |why: String| BulkError(format!("cannot close the database {}: {why}", self.path.display()));
        open.handle.close().map_err(|error| failed(error.to_string()))?;
        // After an error a change may be half done.
        let is_sound = |marker: &&Marker| !needs_recovery && !marker.flag().needs_repair();
        if let Some(marker) = self.marker.as_ref().filter(is_sound) {
            let is_worth_it = state.has_deleted && state.was_scanned && may_compact;
            let _new_file = is_worth_it.then(|| self.compact());
            self.file
                .sync_all()
                .and_then(|()| self.location.sync_directory())
                .and_then(|()| marker.clear())
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Returns the error for work on a closed file.
    pub(super) fn closed(&self) -> BulkError {
        BulkError(format!("the database {} has been closed", self.path.display()))
    }
}

impl Drop for GdbmBulkCore {
    /// Closes the file if cancelled work has left it open.
    fn drop(&mut self) {
        if let Err(error) = self.close(&mut lock(&self.state), false) {
            warn!("{error}");
        }
    }
}

/// Returns the escaped beginning of some bytes.
fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = 100;
    let more = if bytes.len() > LONGEST { "…" } else { "" };
    format!("{}{more}", bytes[..bytes.len().min(LONGEST)].escape_ascii())
}
