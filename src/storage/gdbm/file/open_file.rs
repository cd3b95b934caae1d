//! One open database file: everything that is done under the lock.

use std::fs::File;
use std::io;
use std::path::Path;

use jiff::tz::TimeZone;
use tracing::{error, warn};

use super::directory::Directory;
use super::handle::{GdbmError, Handle};
use super::reserve::{News, Reserve};
use super::tail::Ahead;
use crate::logging::allowance::Allowance;
use crate::record::Timestamp;
use crate::storage::gdbm::cache::Cache;
use crate::storage::gdbm::codec::{Calendar, Stored};

/// An open file and what is needed to use it.
pub(crate) struct Open {
    pub(crate) handle: Handle,
    pub(crate) reserve: Reserve,
    pub(crate) directory: Directory,
    pub(crate) calendar: Calendar,
    pub(crate) cache: Cache,
    pub(crate) ahead: Ahead,
    pub(crate) value: Vec<u8>,
    pub(crate) text: Vec<u8>,
    /// Whether something changed since the last sync.
    pub(crate) dirty: bool,
    /// Whether the last sync failed: nothing more is accepted until one succeeds.
    pub(crate) unsynced: bool,
    pub(crate) complaints: Allowance,
}

impl Open {
    /// A handle on this file, whose dates are of this zone.
    pub(crate) fn new(handle: Handle, file: &File, zone: TimeZone) -> io::Result<Self> {
        Ok(Self {
            handle,
            reserve: Reserve::new(file.try_clone()?),
            directory: Directory::new(file.try_clone()?),
            calendar: Calendar::new(zone),
            cache: Cache::default(),
            ahead: Ahead::new(file.try_clone()?),
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
            News::None => {}
            News::Full(why, true) => error!(
                "no room for the database {path}: {why}; reports and whitelistings are refused until there is room \
                 again"
            ),
            News::Full(why, false) => error!(
                "the database {path} cannot be written: {why}; reports and whitelistings are refused until it can be"
            ),
            News::RoomAgain => {
                warn!("there is room for the database {path} again; reports and whitelistings are accepted");
            }
            News::Unsupported(why) => warn!(
                "the file system of the database {path} cannot reserve blocks ({why}): see that its disk never \
                 becomes full, since that destroys records"
            ),
        }
        admitted
    }

    /// Keeps the file mapped beyond what is in use.
    pub(crate) fn keep_ahead(&mut self) {
        self.ahead.keep(&mut self.handle, self.reserve.in_use());
    }

    pub(crate) fn put(&mut self, key: &[u8], stored: &Stored) -> Result<(), GdbmError> {
        stored.encode(&mut self.text, &mut self.calendar);
        self.dirty = true;
        self.handle.store(key, &self.text)
    }
}
