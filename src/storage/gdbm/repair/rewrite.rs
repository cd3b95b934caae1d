//! Writing a file anew: the one repair, of a start and of `pyzord --recover`.
//!
//! All of it is done under a second name of the file, `NAME.repair`, and the complete file takes the place of the
//! old one in one rename. A kill leaves the file as it was, or the new one, and besides only files of that name, which
//! the next start removes. The library recovers onto the name that it has opened, so
//! that the old file keeps its own name and content.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use nix::errno::Errno;

use super::entries::find_unfit;
use super::error::{RepairError, at, is_of_the_file};
use super::remains::put_back;
use super::replace::no_links;
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

/// How many buckets may be half written after a kill in one change. The texts of all their records are in the file,
/// so that nothing is lost if the library cannot read them.
const BUCKETS_OF_ONE_CHANGE: usize = 2;

/// What the new file is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepairKind {
    /// Whatever a kill has left, at the start of a server: of one change, or perhaps of more.
    Start { is_one_change: bool },
    /// Whatever can be found, for an operator who doubts the file. Nothing is done to a sound one, unless it is known
    /// not to be.
    Recover { is_doubtful: bool },
    /// What the library finds: nothing is left of what was deleted.
    Compact,
}

/// What became of a file.
#[derive(Debug)]
pub(crate) struct Repaired {
    /// The new file in its place; none if nothing was to be done.
    pub(crate) file: Option<File>,
    /// Whether it was sound, so that nothing was done.
    pub(crate) is_sound: bool,
    /// How many records it has.
    pub(crate) records: u64,
    /// How many of them the library did not find.
    pub(crate) from_remains: usize,
    /// How many records and buckets could not be read.
    pub(crate) unreadable: usize,
    /// Why the library could make nothing of the file, if so.
    pub(crate) given_up: Option<String>,
    /// The file as it was, if it is kept.
    pub(crate) kept: Option<PathBuf>,
}

/// How one file is written anew.
#[derive(Debug)]
pub(crate) struct Repair<'a> {
    pub(crate) place: &'a DatabasePath,
    /// The zone of dates in the file.
    pub(crate) zone: &'a TimeZone,
    /// Records that changed last before this are not taken from remains: they may have been deleted for that.
    pub(crate) horizon: Option<Timestamp>,
    pub(crate) cancel: &'a Cancel,
}

impl Repair<'_> {
    /// Writes the file anew, which is locked. After an error everything is as it was.
    pub(crate) fn run(&self, original: &File, purpose: RepairKind) -> Result<Repaired, RepairError> {
        self.attempt(|| {
            if self.place.is_mount_point(original) {
                return Err(RepairError::MountPoint);
            }
            if !self.place.has_room(size_of(original)?)? {
                return Err(RepairError::NoRoom);
            }
            let name = self.name();
            self.link_or_copy(original, &name)?;
            self.cancel.check()?;
            self.write_anew(original, &name, purpose)
        })
    }

    /// Makes a new database in the place of an empty file, which is returned, or in that if nothing can take its place.
    pub(crate) fn create(&self, empty: File) -> Result<File, RepairError> {
        self.attempt(|| {
            if self.place.is_mount_point(&empty) {
                Handle::open(&empty, self.place.file())?.close()?;
                return Ok(empty);
            }
            let name = self.name();
            let new = self.place.lock_file(make(&name)?, FileAccess::Change)?;
            Handle::open(&new, &name)?.close()?;
            self.put(&empty, &new, &name, false)?;
            Ok(new)
        })
    }

    fn name(&self) -> PathBuf {
        self.place.beside(".repair")
    }

    fn remove_leftovers(&self) -> Result<(), RepairError> {
        let found = leftovers(self.place).map_err(at(&self.name()))?;
        found.iter().try_for_each(|path| fs::remove_file(path).map_err(at(path)))
    }

    fn attempt<T>(&self, work: impl FnOnce() -> Result<T, RepairError>) -> Result<T, RepairError> {
        self.cancel.check()?;
        // What an interrupted attempt has left is this one's, since the file is locked.
        self.remove_leftovers()?;
        self.cancel.note(Some(self.place.clone()));
        let outcome = work();
        remove_every_leftover(self.place);
        self.cancel.note(None);
        outcome
    }

    /// Gives the file another name, or makes a copy of it where that cannot be.
    fn link_or_copy(&self, original: &File, name: &Path) -> Result<(), RepairError> {
        match fs::hard_link(self.place.file(), name) {
            Ok(()) if is_same(original, &fs::metadata(name).map_err(at(name))?)? => Ok(()),
            Ok(()) => Err(io::Error::other("it was replaced meanwhile").into()),
            Err(error) if no_links(&error) => self.copy(original, name).map(drop),
            Err(error) => Err(at(name)(error)),
        }
    }

    /// Makes a copy of the file under the other name.
    fn copy(&self, original: &File, name: &Path) -> Result<File, RepairError> {
        if !self.place.has_room(2 * size_of(original)?)? {
            return Err(RepairError::NoRoom);
        }
        self.remove_leftovers()?;
        let copy = make(name)?;
        extents::copy(original, &copy).map_err(at(name))?;
        Ok(copy)
    }

    fn write_anew(&self, original: &File, name: &Path, purpose: RepairKind) -> Result<Repaired, RepairError> {
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
            repaired.from_remains =
                put_back(&mut open, self.place.file(), original, self.horizon, &unfit.digests, self.cancel)?;
        }
        repaired.records = open.handle.count()?;
        // Until here the library has it locked, which it does with what it recovers.
        open.handle.close()?;
        let new = self.place.lock_file(new, FileAccess::Change)?;
        let expected = if purpose == (RepairKind::Start { is_one_change: true }) {
            Header::read(original)?
                .map_or(0, |header| BUCKETS_OF_ONE_CHANGE * header.bucket_capacity as usize)
        } else {
            0
        };
        let keeps = recovers || repaired.unreadable > expected;
        repaired.kept = self.put(original, &new, name, keeps)?;
        repaired.file = Some(new);
        Ok(repaired)
    }

    /// Has the library write the file under its second name anew.
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
                // As after a kill while the header was written. What is read of the file does not need that list.
                is_forced = true;
                file = self.copy(original, name)?;
                Header::forget_free_blocks(&file).map_err(at(name))?;
                Handle::open(&file, name)?
            }
            handle => handle?,
        };
        repaired.unreadable = match handle.recover(is_forced) {
            Err(error) if error.system_number() == Some(Errno::EPERM) => {
                // The library gives its new file the owner and group of the old one, which this user may not do.
                drop(handle);
                file = self.copy(original, name)?;
                handle = Handle::open(&file, name)?;
                handle.recover(true)?
            }
            recovered => recovered?,
        };
        if is_same(&file, &fs::metadata(name).map_err(at(name))?)? {
            // Nothing is wrong with the file as such.
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
