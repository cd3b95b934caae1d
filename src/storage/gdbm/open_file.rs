//! One open database file with its records: the state behind the lock of an engine.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;
use tracing::{error, warn};

use super::cache::RecordCache;
use super::codec::{DateWriter, StoredRecord};
use super::condition::Condition;
use super::file::directory::HashDirectory;
use super::file::handle::{GdbmError, Handle};
use super::file::key_count::KeyCount;
use super::file::reserve::{DiskReserve, ReserveNews};
use super::file::tail::Tail;
use crate::logging::allowance::Allowance;
use crate::record::Timestamp;

/// An open database file and the state needed to read and write its records.
pub(crate) struct OpenFile {
    pub(crate) handle: Handle,
    pub(crate) reserve: DiskReserve,
    pub(crate) directory: HashDirectory,
    pub(crate) calendar: DateWriter,
    pub(crate) cache: RecordCache,
    pub(crate) tail: Tail,
    pub(crate) keys: KeyCount,
    pub(crate) condition: Arc<Condition>,
    /// Buffer for values read.
    pub(crate) value: Vec<u8>,
    /// Buffer for values written.
    pub(crate) text: Vec<u8>,
    /// Whether the file has changed since the last sync.
    pub(crate) dirty: bool,
    /// Whether the last sync failed. No change is accepted until one succeeds.
    pub(crate) unsynced: bool,
    /// Limits log lines that single records cause.
    pub(crate) complaints: Allowance,
}

impl OpenFile {
    pub(crate) fn new(handle: Handle, file: &File, zone: TimeZone) -> io::Result<Self> {
        let condition = Arc::<Condition>::default();
        condition.changed();
        Ok(Self {
            handle,
            reserve: DiskReserve::new(file.try_clone()?),
            directory: HashDirectory::new(file.try_clone()?),
            calendar: DateWriter::new(zone),
            cache: RecordCache::default(),
            tail: Tail::new(file.try_clone()?),
            keys: KeyCount::default(),
            condition,
            value: Vec::new(),
            text: Vec::new(),
            // A new file must reach the disk even if nothing is reported.
            dirty: true,
            unsynced: false,
            complaints: Allowance::per_minute(10),
        })
    }

    /// Reserves disk space for one change made now. Returns whether the change may be made, and logs when the answer
    /// changes.
    pub(crate) fn admit(&mut self, path: &Path, now: Timestamp) -> bool {
        if self.unsynced {
            return false;
        }
        let (admitted, news) = self.reserve.admit(now.seconds());
        let path = path.display();
        match news {
            ReserveNews::None => {}
            ReserveNews::Refused(why, is_full) => {
                let (why, until) = if is_full {
                    (format!("no room for the database {path}: {why}"), "there is room")
                } else {
                    (format!("cannot write the database {path}: {why}"), "that works again")
                };
                error!("{why}; reports and whitelistings are refused until {until}");
                self.condition.unreserved(why);
            }
            ReserveNews::Accepted => {
                warn!("the database {path} can be written again; reports and whitelistings are accepted");
                self.condition.reserved();
            }
            ReserveNews::Unsupported(why) => {
                warn!(
                    "the file system of the database {path} cannot reserve blocks ({why}): make sure that the disk \
                     never becomes full, because that destroys records"
                );
                self.condition.reserved();
            }
        }
        admitted
    }

    /// Extends the tail if necessary. Must be called after each change, so that the file stays mapped beyond its used
    /// part.
    pub(crate) fn extend_tail(&mut self) {
        self.tail.keep(&mut self.handle, self.reserve.in_use());
    }

    /// Stores a record. Does not touch the cache.
    pub(crate) fn put(&mut self, key: &[u8], stored: &StoredRecord) -> Result<(), GdbmError> {
        stored.encode(&mut self.text, &mut self.calendar);
        self.note_change();
        self.handle.store(key, &self.text)
    }

    /// Records that the file is about to change.
    pub(crate) fn note_change(&mut self) {
        if !std::mem::replace(&mut self.dirty, true) {
            self.condition.changed();
        }
    }

    /// Records that a new key was stored.
    pub(crate) fn note_new_key(&mut self, key: &[u8]) {
        self.keys.added(key);
        self.condition.counted(self.keys.total());
    }

    /// Records that a key was deleted.
    pub(crate) fn note_deleted_key(&mut self, key: &[u8]) {
        self.keys.removed(key);
        self.condition.counted(self.keys.total());
    }
}
