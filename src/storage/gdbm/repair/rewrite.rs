//! The repair: a database file is rewritten as a new file, which then replaces the old one. A start,
//! `pyzord --recover` and the compaction after a migration use it.
//!
//! The library's recovery renames its result to the name that it has opened. So the old file gets a second name,
//! `NAME.repair`, and the library opens that one: the old file keeps its own name and content until the complete new
//! file is renamed over it. A kill at any point leaves the old or the new file, and besides only leftovers named
//! `NAME.repair*`, which the next start removes.
//!
//! Steps: link or copy the file to `NAME.repair`; make the library recover that; delete entries that a kill has left
//! half written (`entries`); restore records that the library did not find (`remains`); replace (`replace`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use nix::errno::Errno;

use super::entries::find_unfit;
use super::error::{RepairError, at, is_of_the_file};
use super::remains::put_back;
use super::replace::lacks_hard_links;
use super::unreadable::{remove_unreadable, unreadable};
use crate::record::Timestamp;
use crate::storage::gdbm::cancel::Cancel;
use crate::storage::gdbm::file::extents;
use crate::storage::gdbm::file::handle::{GDBM_BAD_AVAIL, Handle};
use crate::storage::gdbm::file::header::Header;
use crate::storage::gdbm::file::leftovers::{leftovers, remove_every_leftover};
use crate::storage::gdbm::file::location::{DatabasePath, FileAccess, size_of};
use crate::storage::gdbm::open_file::OpenFile;
use crate::storage::gdbm::walk::lower_case_digest;

/// Number of buckets that a kill within one change can leave half written. Their records are still in the file, so
/// nothing is lost if the library cannot read these buckets.
const BUCKETS_OF_ONE_CHANGE: usize = 2;

/// The purpose of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepairKind {
    /// At the start of a server, after a kill within one change, or after other damage.
    Start { is_one_change: bool },
    /// On demand. A sound file is left alone, unless its marker or tail shows that it may be damaged.
    Recover { is_doubtful: bool },
    /// Only what the library finds: no trace of deleted records stays in the file.
    Compact,
}

/// The result of a repair.
#[derive(Debug)]
pub(crate) struct Repaired {
    /// The new file, locked. None if nothing was done.
    pub(crate) file: Option<File>,
    /// Whether the file was sound, so that nothing was done.
    pub(crate) is_sound: bool,
    /// Number of records in the file.
    pub(crate) records: u64,
    /// Number of records that the library did not find.
    pub(crate) from_remains: usize,
    /// Number of unreadable records and buckets.
    pub(crate) unreadable: usize,
    /// The library's error, if it could not read the file at all.
    pub(crate) given_up: Option<String>,
    /// The path of the original file, if it is kept.
    pub(crate) kept: Option<PathBuf>,
}

/// The repair of one file.
#[derive(Debug)]
pub(crate) struct Repair<'a> {
    pub(crate) location: &'a DatabasePath,
    /// The time zone of dates in the file.
    pub(crate) zone: &'a TimeZone,
    /// Records last changed before this are not restored from remains: expiry may have deleted them.
    pub(crate) horizon: Option<Timestamp>,
    pub(crate) cancel: &'a Cancel,
}

impl Repair<'_> {
    /// Rewrites the file, which must be locked. An error leaves everything unchanged.
    pub(crate) fn run(&self, original: &File, purpose: RepairKind) -> Result<Repaired, RepairError> {
        self.attempt(|| {
            if self.location.is_mount_point(original) {
                return Err(RepairError::MountPoint);
            }
            if !self.location.has_room(size_of(original)?)? {
                return Err(RepairError::NoRoom);
            }
            let name = self.name();
            self.link_or_copy(original, &name)?;
            self.cancel.check()?;
            self.rewrite(original, &name, purpose)
        })
    }

    /// Creates a database and replaces an empty file by it. An empty file that is a mount point becomes the database
    /// itself. Returns the database file, locked.
    pub(crate) fn create(&self, empty: File) -> Result<File, RepairError> {
        self.attempt(|| {
            if self.location.is_mount_point(&empty) {
                Handle::open(&empty, self.location.file())?.close()?;
                return Ok(empty);
            }
            let name = self.name();
            let new = self.location.lock_file(make(&name)?, FileAccess::Change)?;
            Handle::open(&new, &name)?.close()?;
            self.replace(&empty, &new, &name, false)?;
            Ok(new)
        })
    }

    fn name(&self) -> PathBuf {
        self.location.beside(".repair")
    }

    fn remove_leftovers(&self) -> Result<(), RepairError> {
        let found = leftovers(self.location).map_err(at(&self.name()))?;
        found.iter().try_for_each(|path| fs::remove_file(path).map_err(at(path)))
    }

    /// Runs a repair, with leftovers removed before and after.
    fn attempt<T>(&self, work: impl FnOnce() -> Result<T, RepairError>) -> Result<T, RepairError> {
        self.cancel.check()?;
        // They are not those of another process, because the file is locked.
        self.remove_leftovers()?;
        self.cancel.set_repairing(Some(self.location.clone()));
        let outcome = work();
        remove_every_leftover(self.location);
        self.cancel.set_repairing(None);
        outcome
    }

    /// Gives the file a second name, or copies it if the file system has no hard links.
    fn link_or_copy(&self, original: &File, name: &Path) -> Result<(), RepairError> {
        match fs::hard_link(self.location.file(), name) {
            Ok(()) if is_same(original, &fs::metadata(name).map_err(at(name))?)? => Ok(()),
            Ok(()) => Err(io::Error::other("the file was replaced during the repair").into()),
            Err(error) if lacks_hard_links(&error) => self.copy(original, name).map(drop),
            Err(error) => Err(at(name)(error)),
        }
    }

    /// Copies the file to `name`, with room left for the recovered file.
    fn copy(&self, original: &File, name: &Path) -> Result<File, RepairError> {
        if !self.location.has_room(2 * size_of(original)?)? {
            return Err(RepairError::NoRoom);
        }
        self.remove_leftovers()?;
        let copy = make(name)?;
        extents::copy(original, &copy).map_err(at(name))?;
        Ok(copy)
    }

    fn rewrite(&self, original: &File, name: &Path, purpose: RepairKind) -> Result<Repaired, RepairError> {
        let mut repaired = Repaired {
            file: None,
            is_sound: false,
            records: 0,
            from_remains: 0,
            unreadable: 0,
            given_up: None,
            kept: None,
        };
        let recovers = matches!(purpose, RepairKind::Recover { .. });
        let handle = match self.recover(original, name, purpose, &mut repaired) {
            Err(RepairError::Gdbm(error)) if recovers && is_of_the_file(&error) => {
                self.cancel.check()?;
                repaired.given_up = Some(error.to_string());
                self.remove_leftovers()?;
                Handle::open(&make(name)?, name)?
            }
            handle => handle?,
        };
        self.cancel.check()?;
        if repaired.is_sound {
            handle.close()?;
            return Ok(repaired);
        }
        let unfit = find_unfit(original, self.cancel)?;
        let new = open(name)?;
        let mut open = OpenFile::new(handle, &new, self.zone.clone())?;
        for key in &unfit.keys {
            open.handle.delete(key)?;
        }
        if recovers {
            repaired.unreadable += remove_unreadable(&mut open)?;
        }
        if purpose != RepairKind::Compact {
            repaired.from_remains = put_back(
                &mut open,
                self.location.file(),
                original,
                self.horizon,
                &unfit.digests,
                self.cancel,
            )?;
        }
        repaired.records = open.handle.count()?;
        // Until it is closed, the library itself holds a lock on the file that it has recovered.
        open.handle.close()?;
        let new = self.location.lock_file(new, FileAccess::Change)?;
        let expected = if purpose == (RepairKind::Start { is_one_change: true }) {
            Header::read(original)?
                .map_or(0, |header| BUCKETS_OF_ONE_CHANGE * header.bucket_capacity as usize)
        } else {
            0
        };
        let keeps = recovers || repaired.unreadable > expected;
        repaired.kept = self.replace(original, &new, name, keeps)?;
        repaired.file = Some(new);
        Ok(repaired)
    }

    /// Makes the library recover the file under its second name. Returns the handle on the result.
    fn recover(
        &self,
        original: &File,
        name: &Path,
        purpose: RepairKind,
        repaired: &mut Repaired,
    ) -> Result<Handle, RepairError> {
        let mut is_forced = purpose != RepairKind::Recover { is_doubtful: false };
        let mut file = open(name)?;
        let mut handle = match Handle::open(&file, name) {
            Err(error) if error.number == GDBM_BAD_AVAIL => {
                // As after a kill while the header was written. Reading does not need the list of free blocks.
                is_forced = true;
                file = self.copy(original, name)?;
                Header::forget_free_blocks(&file).map_err(at(name))?;
                Handle::open(&file, name)?
            }
            handle => handle?,
        };
        repaired.unreadable = match handle.recover(is_forced) {
            Err(error) if error.system_number() == Some(Errno::EPERM) => {
                // The library gives its new file the owner and group of the old one, which this user cannot do.
                drop(handle);
                file = self.copy(original, name)?;
                handle = Handle::open(&file, name)?;
                handle.recover(true)?
            }
            recovered => recovered?,
        };
        if is_same(&file, &fs::metadata(name).map_err(at(name))?)? {
            // The library has found no damage and done nothing.
            let mut open = OpenFile::new(handle, original, self.zone.clone())?;
            repaired.is_sound = unreadable(&mut open, |key| lower_case_digest(key).is_some())?.is_empty();
            handle = open.handle;
            if repaired.is_sound {
                repaired.records = handle.count()?;
                return Ok(handle);
            }
            repaired.unreadable = handle.recover(true)?;
        }
        Ok(handle)
    }
}

fn make(path: &Path) -> Result<File, RepairError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(at(path))
}

fn open(path: &Path) -> Result<File, RepairError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(at(path))
}

fn is_same(file: &File, other: &fs::Metadata) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()) == (other.dev(), other.ino()))
}
