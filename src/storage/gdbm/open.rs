//! One open database file: everything that is done under the lock.

use std::path::Path;

use tracing::{error, warn};

use super::codec::{Calendar, Stored};
use super::directory::Directory;
use super::handle::{GdbmError, Handle};
use super::reserve::{News, Reserve};
use crate::allowance::Allowance;
use crate::storage::{Cursor, Page, StorageError};

/// An open file and what is needed to use it.
pub(super) struct Open {
    pub(super) handle: Handle,
    pub(super) reserve: Reserve,
    pub(super) directory: Directory,
    pub(super) calendar: Calendar,
    pub(super) value: Vec<u8>,
    pub(super) text: Vec<u8>,
    /// Whether something changed since the last sync.
    pub(super) dirty: bool,
    pub(super) complaints: Allowance,
}

impl Open {
    /// Makes room for one change. Says whether it may be made, and tells the operator when that
    /// changes.
    pub(super) fn admit(&mut self, path: &Path) -> bool {
        let (admitted, news) = self.reserve.admit();
        let path = path.display();
        match news {
            News::None => {}
            News::Full(why) => error!(
                "no room for the database {path}: {why}; reports and whitelistings are refused until there is room \
                 again"
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

    pub(super) fn put(&mut self, key: &[u8], stored: &Stored) -> Result<(), GdbmError> {
        stored.encode(&mut self.text, &mut self.calendar);
        self.dirty = true;
        self.handle.store(key, &self.text)
    }

    pub(super) fn page(&mut self, from: Option<Cursor>, limit: usize) -> Result<Page, GdbmError> {
        let mut key = Vec::new();
        let mut more = match from {
            Some(Cursor(last)) => {
                key = last;
                self.handle.next_key(&mut key)?
            }
            None => self.handle.first_key(&mut key)?,
        };
        let mut page = Page::default();
        while more {
            if self.handle.fetch(&key, &mut self.value)? {
                let record = Stored::decode(&self.value).map(|stored| stored.record(self.calendar.zone()));
                page.records.push((key.clone(), record.ok_or(StorageError::Damaged)));
            }
            if page.records.len() >= limit {
                page.next = Some(Cursor(key));
                break;
            }
            more = self.handle.next_key(&mut key)?;
        }
        Ok(page)
    }
}
