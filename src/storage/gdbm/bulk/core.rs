//! What is done with a whole file, under the lock on it.

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

/// Up to which size a file is mapped into memory, which is quicker. A larger one would fill the memory, at
/// least in appearance; and one that grows has to be mapped anew all the time.
const LARGEST_MAPPED: u64 = 256 << 20;

/// The open file and all that is known of it.
pub(super) struct GdbmBulkCore {
    pub(super) path: PathBuf,
    pub(super) place: DatabasePath,
    pub(super) zone: TimeZone,
    /// None for a file that is only read.
    pub(super) marker: Option<Marker>,
    /// The open file, which is locked until this is dropped.
    pub(super) file: File,
    pub(super) state: Mutex<BulkState>,
}

pub(super) struct BulkState {
    /// None once closed.
    pub(super) open: Option<OpenFile>,
    /// How many keys the scan under way has met; none while there is none under way.
    pub(super) walked: Option<u64>,
    /// What is to be deleted when the scan has left it behind.
    pub(super) doomed: DelayedDeletions<Item>,
    /// Whether something has been deleted, and whether a scan has come to its end.
    pub(super) has_deleted: bool,
    pub(super) was_scanned: bool,
    /// Whether the file is mapped into memory.
    pub(super) is_mapped: bool,
}

impl GdbmBulkCore {
    /// An error of the library, after which the file is to be repaired.
    pub(super) fn failed(&self, open: &mut OpenFile, error: &GdbmError) -> BulkError {
        let path = self.path.display();
        if let Some(marker) = &self.marker {
            marker.flag().require_repair();
        }
        let advice = if open.handle.needs_recovery() { "; the next run repairs it" } else { "" };
        BulkError(format!("the database {path}: {error}{advice}"))
    }

    /// Has a file that has become large mapped no longer.
    pub(super) fn bound_memory(&self, state: &mut BulkState) -> Result<(), BulkError> {
        if let Some(open) = state.open.as_mut().filter(|_| state.is_mapped)
            && self.file.metadata().is_ok_and(|metadata| metadata.len() > LARGEST_MAPPED)
        {
            open.handle.unmap().map_err(|error| self.failed(open, &error))?;
            state.is_mapped = false;
        }
        Ok(())
    }

    /// What is stored under a key.
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

    /// Some items from the start, or from where a scan stopped.
    pub(super) fn page(
        &self,
        state: &mut BulkState,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<Items, BulkError> {
        let open = state.open.as_mut().ok_or_else(|| self.closed())?;
        let mut walk = match from {
            Some(Cursor(last)) => KeyWalk::behind(last, state.walked.unwrap_or(0)),
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
        state.walked = page.next.as_ref().map(|_| walk.met());
        state.was_scanned |= page.next.is_none();
        self.delete_due(state, state.walked)?;
        Ok(page)
    }

    /// Deletes what a scan that has met so many keys has left behind, or everything without one.
    pub(super) fn delete_due(&self, state: &mut BulkState, walked: Option<u64>) -> Result<(), BulkError> {
        let BulkState { open, doomed, has_deleted, .. } = state;
        let open = open.as_mut().ok_or_else(|| self.closed())?;
        // What comes behind a failure is given up with it.
        let due: Vec<Item> = std::iter::from_fn(|| doomed.pop(walked)).collect();
        for item in due {
            // The file is locked: only this process can have changed it.
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

    fn admit(&self, open: &mut OpenFile) -> Result<(), BulkError> {
        match open.reserve.admit(Timestamp::now().seconds()) {
            (true, ReserveNews::Unsupported(why)) => {
                let path = self.path.display();
                warn!(
                    "the file system of the database {path} cannot reserve blocks ({why}): see that its disk does not \
                     become full, since that destroys records"
                );
                Ok(())
            }
            (true, _) => Ok(()),
            (false, _) => {
                let why = open.reserve.refusal().unwrap_or_default().to_owned();
                Err(BulkError(format!("there is no room for the database {}: {why}", self.path.display())))
            }
        }
    }

    /// Stores a record, unless its key would make the directory too large.
    pub(super) fn put(
        &self,
        open: &mut OpenFile,
        key: &[u8],
        stored: &StoredRecord,
    ) -> Result<ChangeOutcome, BulkError> {
        let bursts = open.directory.would_grow_directory(key);
        if bursts.map_err(|error| BulkError(format!("the database {}: {error}", self.path.display())))?
            && !open.handle.fetch(key, &mut open.value).map_err(|error| self.failed(open, &error))?
        {
            let why = "it collides with too many others, which somebody must have chosen";
            return Ok(ChangeOutcome::Refused(why.to_owned()));
        }
        self.admit(open)?;
        stored.encode(&mut open.text, &mut open.calendar);
        open.dirty = true;
        // Most are new, and those need no look-up before.
        let is_new = open.handle.insert(key, &open.text).map_err(|error| self.failed(open, &error))?;
        if !is_new {
            open.handle.store(key, &open.text).map_err(|error| self.failed(open, &error))?;
        }
        Ok(ChangeOutcome::Done)
    }

    /// Rids the file, which has been closed, of what is left of deleted records: a repair would take that for lost
    /// ones. It needs room for what is left, and is worth it only when that is little.
    /// Returns what took its place, locked.
    fn compact(&self) -> Option<File> {
        let cancel = Cancel::default();
        let repair = Repair { place: &self.place, zone: &self.zone, horizon: None, cancel: &cancel };
        match repair.run(&self.file, RepairKind::Compact) {
            Ok(repaired) => repaired.file,
            Err(error) => {
                warn!(
                    "the database {} could not be made smaller: {error}; until it is, a repair can bring deleted records \
                     back (gdbmtool's reorganize makes it smaller)",
                    self.path.display()
                );
                None
            }
        }
    }

    /// Closes the file, unless that has been done.
    pub(super) fn close(&self, state: &mut BulkState, may_compact: bool) -> Result<(), BulkError> {
        let Some(mut open) = state.open.take() else { return Ok(()) };
        let needs_recovery = open.handle.needs_recovery();
        let failed = |why: String| BulkError(format!("closing the database {}: {why}", self.path.display()));
        open.handle.close().map_err(|error| failed(error.to_string()))?;
        // Something may have been given up half done.
        let is_sound = |marker: &&Marker| !needs_recovery && !marker.flag().needs_repair();
        if let Some(marker) = self.marker.as_ref().filter(is_sound) {
            let is_worth_it = state.has_deleted && state.was_scanned && may_compact;
            let _in_its_place = is_worth_it.then(|| self.compact());
            self.file
                .sync_all()
                .and_then(|()| self.place.sync_directory())
                .and_then(|()| marker.clear())
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// The error of everything that is asked of a file that has been closed.
    pub(super) fn closed(&self) -> BulkError {
        BulkError(format!("the database {} has been closed", self.path.display()))
    }
}

impl Drop for GdbmBulkCore {
    /// Work that is given up drops it in the middle of something else.
    fn drop(&mut self) {
        if let Err(error) = self.close(&mut lock(&self.state), false) {
            warn!("{error}");
        }
    }
}

/// The beginning of something, for people.
fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = 100;
    let more = if bytes.len() > LONGEST { "…" } else { "" };
    format!("{}{more}", bytes[..bytes.len().min(LONGEST)].escape_ascii())
}
