//! One open database file: everything that is done under the lock.

use std::fs::File;
use std::io;
use std::path::Path;

use jiff::tz::TimeZone;
use tracing::{error, warn};

use super::directory::HashDirectory;
use super::handle::{GdbmError, Handle};
use super::reserve::{DiskReserve, ReserveNews};
use super::tail::Tail;
use crate::logging::allowance::Allowance;
use crate::record::Timestamp;
use crate::storage::gdbm::cache::RecordCache;
use crate::storage::gdbm::codec::{DateWriter, StoredRecord};

/// An open file and what is needed to use it.
pub(crate) struct OpenFile {
    pub(crate) handle: Handle,
    pub(crate) reserve: DiskReserve,
    pub(crate) directory: HashDirectory,
    pub(crate) calendar: DateWriter,
    pub(crate) cache: RecordCache,
    pub(crate) ahead: Tail,
    pub(crate) value: Vec<u8>,
    pub(crate) text: Vec<u8>,
    /// Whether something changed since the last sync.
    pub(crate) dirty: bool,
    /// Whether the last sync failed: nothing more is accepted until one succeeds.
    pub(crate) unsynced: bool,
    pub(crate) complaints: Allowance,
}

impl OpenFile {
    /// A handle on this file, whose dates are of this zone.
    pub(crate) fn new(handle: Handle, file: &File, zone: TimeZone) -> io::Result<Self> {
        Ok(Self {
            handle,
            reserve: DiskReserve::new(file.try_clone()?),
            directory: HashDirectory::new(file.try_clone()?),
            calendar: DateWriter::new(zone),
            cache: RecordCache::default(),
            ahead: Tail::new(file.try_clone()?),
            value: Vec::new(),
            text: Vec::new(),
            // A new file is to be on the disk soon, too.
            dirty: true,
            unsynced: false,
            complaints: Allowance::per_minute(10),
        })
    }

    /// Makes room for one change, made now. Says whether it may be made, and tells the operator when
    /// that changes.
    pub(crate) fn admit(&mut self, path: &Path, now: Timestamp) -> bool {
        if self.unsynced {
            return false;
        }
        let (admitted, news) = self.reserve.admit(now.seconds());
        let path = path.display();
        match news {
            ReserveNews::None => {}
            ReserveNews::Full(why, true) => error!(
                "no room for the database {path}: {why}; reports and whitelistings are refused until there is room \
                 again"
            ),
            ReserveNews::Full(why, false) => error!(
                "the database {path} cannot be written: {why}; reports and whitelistings are refused until it can be"
            ),
            ReserveNews::RoomAgain => {
                warn!("there is room for the database {path} again; reports and whitelistings are accepted");
            }
            ReserveNews::Unsupported(why) => warn!(
                "the file system of the database {path} cannot reserve blocks ({why}): see that its disk never \
                 becomes full, since that destroys records"
            ),
        }
        admitted
    }

    /// Keeps the file mapped beyond what is in use.
    pub(crate) fn extend_tail(&mut self) {
        self.ahead.keep(&mut self.handle, self.reserve.in_use());
    }

    pub(crate) fn put(&mut self, key: &[u8], stored: &StoredRecord) -> Result<(), GdbmError> {
        stored.encode(&mut self.text, &mut self.calendar);
        self.dirty = true;
        self.handle.store(key, &self.text)
    }
}
