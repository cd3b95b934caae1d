//! Writing a file anew: the one repair, of a start and of `pyzord --recover`.
//!
//! All of it is done under a second name of the file, `NAME.repair`, and the complete file takes the place of the
//! old one in one rename. A kill leaves the file as it was, or the new one, and besides only files of that name, which
//! the next start removes. The library recovers onto the name that it has opened, so
//! that the old file keeps its own name and content.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use jiff::Zoned;
use jiff::tz::TimeZone;
use nix::errno::Errno;
use thiserror::Error;
use tracing::warn;

use super::entries::unfit;
use super::explain::is_of_another_machine;
use super::remains::put_back;
use crate::record::Timestamp;
use crate::storage::OpenError;
use crate::storage::gdbm::cancel::{Cancel, Cancelled};
use crate::storage::gdbm::codec::Stored;
use crate::storage::gdbm::file::extents;
use crate::storage::gdbm::file::handle::{GDBM_BAD_AVAIL, GdbmError, Handle};
use crate::storage::gdbm::file::header::Header;
use crate::storage::gdbm::file::location::{Place, Use, size_of};
use crate::storage::gdbm::file::open_file::Open;
use crate::storage::gdbm::sweep::lower_case_digest;

/// How many buckets may be half written after a kill in one change. The texts of all their records are in the file,
/// so that nothing is lost if the library cannot read them.
const BUCKETS_OF_ONE_CHANGE: usize = 2;

/// Why a file could not be written anew.
#[derive(Debug, Error)]
pub(crate) enum RepairError {
    /// The library cannot.
    #[error("{0}")]
    Gdbm(#[from] GdbmError),
    /// The old file cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// Something cannot be done with this file.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    /// The new file cannot be used.
    #[error("{0}")]
    New(#[from] OpenError),
    /// There is no room for the new file.
    #[error(
        "its disk has no room for a copy of it, or the limit of file sizes (ulimit -f, LimitFSIZE) forbids one"
    )]
    NoRoom,
    /// Nothing can take the place of the file.
    #[error(
        "it is a mount point by itself, so that no other file can take its place: mount its directory instead"
    )]
    MountPoint,
    /// The process is asked to end.
    #[error("it was stopped")]
    Cancelled,
}

impl From<Cancelled> for RepairError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// What the new file is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
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
    pub(crate) place: &'a Place,
    /// The zone of dates in the file.
    pub(crate) zone: &'a TimeZone,
    /// Records that changed last before this are not taken from remains: they may have been deleted for that.
    pub(crate) horizon: Option<Timestamp>,
    pub(crate) cancel: &'a Cancel,
}

impl Repair<'_> {
    /// Writes the file anew, which is locked. After an error everything is as it was.
    pub(crate) fn run(&self, original: &File, purpose: Purpose) -> Result<Repaired, RepairError> {
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
            let new = self.place.lock_file(make(&name)?, Use::Change)?;
            Handle::open(&new, &name)?.close()?;
            self.put(&empty, &new, &name, false)?;
            Ok(new)
        })
    }

    fn name(&self) -> PathBuf {
        self.place.beside(".repair")
    }

    fn attempt<T>(&self, work: impl FnOnce() -> Result<T, RepairError>) -> Result<T, RepairError> {
        self.cancel.check()?;
        // What an interrupted attempt has left is this one's, since the file is locked.
        remove_leftovers(self.place)?;
        self.cancel.note(Some(self.place.clone()));
        let outcome = work();
        clean(self.place);
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
        remove_leftovers(self.place)?;
        let copy = make(name)?;
        extents::copy(original, &copy).map_err(at(name))?;
        Ok(copy)
    }

    fn write_anew(&self, original: &File, name: &Path, purpose: Purpose) -> Result<Repaired, RepairError> {
        let mut repaired = Repaired {
            file: None,
            is_sound: false,
            records: 0,
            from_remains: 0,
            unreadable: 0,
            given_up: None,
            kept: None,
        };
        let recovers = matches!(purpose, Purpose::Recover { .. });
        let handle = match self.recover(original, name, purpose, &mut repaired) {
            Err(RepairError::Gdbm(error)) if recovers && is_of_the_file(&error) => {
                self.cancel.check()?;
                repaired.given_up = Some(error.to_string());
                remove_leftovers(self.place)?;
                Handle::open(&make(name)?, name)?
            }
            handle => handle?,
        };
        self.cancel.check()?;
        if repaired.is_sound {
            handle.close()?;
            return Ok(repaired);
        }
        let unfit = unfit(original, self.cancel)?;
        let new = open(name)?;
        let mut open = Open::new(handle, &new, self.zone.clone())?;
        for key in &unfit.keys {
            open.handle.delete(key)?;
        }
        if recovers {
            repaired.unreadable += remove_unreadable(&mut open)?;
        }
        if purpose != Purpose::Compact {
            repaired.from_remains =
                put_back(&mut open, self.place.file(), original, self.horizon, &unfit.digests, self.cancel)?;
        }
        repaired.records = open.handle.count()?;
        // Until here the library has it locked, which it does with what it recovers.
        open.handle.close()?;
        let new = self.place.lock_file(new, Use::Change)?;
        let expected = if purpose == (Purpose::Start { is_one_change: true }) {
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
        purpose: Purpose,
        repaired: &mut Repaired,
    ) -> Result<Handle, RepairError> {
        let mut is_forced = purpose != Purpose::Recover { is_doubtful: false };
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
            let mut open = Open::new(handle, original, self.zone.clone())?;
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

    /// Keeps the file as it was under another name, which is returned.
    fn keep(&self, original: &File) -> Result<PathBuf, RepairError> {
        let stamp = Zoned::now().strftime(".broken-%Y%m%d-%H%M%S").to_string();
        let (mut kept, mut number) = (self.place.beside(&stamp), 1);
        loop {
            let outcome = match fs::hard_link(self.place.file(), &kept) {
                Err(error) if no_links(&error) => {
                    let mut options = OpenOptions::new();
                    let copied =
                        options.write(true).create_new(true).mode(0o600).open(&kept).and_then(|copy| {
                            extents::copy(original, &copy)?;
                            copy.sync_all()
                        });
                    if copied.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
                        // Half a file is of no use.
                        let _ = fs::remove_file(&kept);
                    }
                    copied
                }
                linked => linked,
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number += 1;
                    kept = self.place.beside(&format!("{stamp}-{number}"));
                }
                Err(error) => return Err(at(&kept)(error)),
                Ok(()) => return Ok(kept),
            }
        }
    }

    /// Puts the new file in the place of the old one, with its owner and mode, once it is on the disk. Returns where the
    /// old one is kept, if it is to be.
    fn put(
        &self,
        original: &File,
        new: &File,
        name: &Path,
        keeps: bool,
    ) -> Result<Option<PathBuf>, RepairError> {
        let (old, own) = (original.metadata()?, new.metadata().map_err(at(name))?);
        let mut mode = old.mode() & 0o7777;
        if (old.uid(), old.gid()) != (own.uid(), own.gid())
            && fchown(new, Some(old.uid()), Some(old.gid())).is_err()
            && fchown(new, None, Some(old.gid())).is_err()
        {
            // A group that this user is not in. Its own must not get what that one had.
            mode &= !0o2070;
        }
        new.set_permissions(Permissions::from_mode(mode)).map_err(at(name))?;
        new.sync_all().map_err(at(name))?;
        let kept = self.cancel.commit(|_| {
            let kept = keeps.then(|| self.keep(original)).transpose()?;
            let renamed = fs::rename(name, self.place.file()).map_err(at(name));
            if let (Err(_), Some(kept)) = (&renamed, &kept) {
                fs::remove_file(kept).map_err(at(kept))?;
            }
            renamed.map(|()| kept)
        })??;
        if let Err(error) = self.place.sync_directory() {
            warn!("the directory of the database {} cannot be synced: {error}", self.place.file().display());
        }
        Ok(kept)
    }
}

/// The files that an attempt may have left.
fn leftovers(place: &Place) -> Result<Vec<PathBuf>, RepairError> {
    let name = place.beside(".repair");
    let rest = |path: &Path| path.as_os_str().as_encoded_bytes()[name.as_os_str().len()..].to_vec();
    // What the library adds to the name is random.
    let is_one = |rest: &[u8]| {
        rest.is_empty()
            || rest.len() == 7 && rest[0] == b'.' && rest[1..].iter().all(u8::is_ascii_alphanumeric)
    };
    let found = place.all_beside(".repair").map_err(at(&name))?;
    Ok(found.into_iter().filter(|path| is_one(&rest(path))).collect())
}

fn remove_leftovers(place: &Place) -> Result<(), RepairError> {
    leftovers(place)?.iter().try_for_each(|path| fs::remove_file(path).map_err(at(path)))
}

/// Removes what an attempt has left, until there is nothing: the library may have renamed a file in the meantime. The
/// database must be locked.
pub(crate) fn clean(place: &Place) {
    loop {
        let found = leftovers(place).unwrap_or_default();
        if found.is_empty() {
            return;
        }
        for path in found {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!("{} is of no use any more and cannot be removed: {error}", path.display());
                    return;
                }
                _ => {}
            }
        }
    }
}

/// Removes what no server could read: the library takes for a record whatever is where one should be.
/// Says how many there were.
fn remove_unreadable(open: &mut Open) -> Result<usize, GdbmError> {
    let found = unreadable(open, |_| true)?;
    for key in &found {
        open.handle.delete(key)?;
    }
    Ok(found.len())
}

/// The keys, of those that are asked for, whose records cannot be read.
fn unreadable(open: &mut Open, is_wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>, GdbmError> {
    let (mut key, mut unreadable) = (Vec::new(), Vec::new());
    let mut is_there = open.handle.first_key(&mut key)?;
    while is_there {
        if is_wanted(&key)
            && (!open.handle.fetch(&key, &mut open.value)? || Stored::decode(&open.value).is_none())
        {
            unreadable.push(key.clone());
        }
        is_there = open.handle.next_key(&mut key)?;
    }
    Ok(unreadable)
}

/// Whether the library has failed for what is in the file, and not for what this machine or process lacks.
pub(crate) fn is_of_the_file(error: &GdbmError) -> bool {
    let lacks = matches!(
        error.system_number(),
        Some(
            Errno::ENOSPC
                | Errno::EDQUOT
                | Errno::EFBIG
                | Errno::ENOMEM
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::EACCES
                | Errno::EPERM
                | Errno::EROFS
        )
    );
    !is_of_another_machine(error) && !lacks
}

fn make(path: &Path) -> Result<File, RepairError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(at(path))
}

fn open(path: &Path) -> Result<File, RepairError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(at(path))
}

fn at(path: &Path) -> impl Fn(io::Error) -> RepairError {
    move |error| RepairError::File { path: path.to_owned(), error }
}

fn is_same(file: &File, other: &fs::Metadata) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()) == (other.dev(), other.ino()))
}

/// Whether a file system has no second names for this file.
fn no_links(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(
        number,
        Some(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK | Errno::EXDEV | Errno::EINVAL)
    )
}
