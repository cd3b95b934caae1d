//! The location of a database: its path without links, its lock, and the files beside it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statvfs::fstatvfs;

use super::reserve::file_size_limit;
use crate::os::open;
use crate::storage::EngineOpenError;

/// Number of attempts to lock a file that is replaced while it is being locked.
const ATTEMPTS: u32 = 100;
/// Number of links that are followed.
const LINKS: usize = 40;
/// Free bytes that a repair needs beyond the size of the file.
const SLACK: u64 = 8 << 20;

/// The resolved path of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatabasePath {
    file: PathBuf,
    directory: PathBuf,
}

/// The kind of lock on a database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileAccess {
    /// Shared with other readers.
    Read,
    /// Exclusive.
    Change,
}

impl DatabasePath {
    /// Resolves a path. Must be called once for each opening, so that a link that changes later has no effect on a
    /// process that has the file open.
    ///
    /// # Errors
    ///
    /// One line for the operator. A dangling link is an error, because the disk of its target may not be mounted.
    pub(crate) fn of(path: &Path) -> Result<Self, EngineOpenError> {
        let file = match fs::canonicalize(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::resolve_absent(path)?,
            Err(error) => return Err(cannot_use(path, &error)),
        };
        let directory = file.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { file, directory })
    }

    fn resolve_absent(path: &Path) -> Result<PathBuf, EngineOpenError> {
        let follow = |link: &Path| Some(link.parent()?.join(fs::read_link(link).ok()?));
        if let Some(target) = std::iter::successors(follow(path), |link| follow(link)).take(LINKS).last() {
            let (path, target) = (path.display(), target.display());
            return Err(EngineOpenError::absent(format!(
                "the database {path} is a link to {target}, which is missing: mount its disk, or create an empty file \
                 there for a new database"
            )));
        }
        let absent = |error: io::Error| {
            EngineOpenError::absent(format!("cannot open the database {}: {error}", path.display()))
        };
        let directory =
            path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().ok_or_else(|| absent(io::ErrorKind::IsADirectory.into()))?;
        Ok(fs::canonicalize(directory).map_err(absent)?.join(name))
    }

    /// Returns the path of the file, without links.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the path of the file with a suffix.
    pub(crate) fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.file.as_os_str().to_owned();
        name.push(end);
        name.into()
    }

    /// Returns the existing files whose paths begin with that of the database followed by `end`, sorted.
    pub(crate) fn all_beside(&self, end: &str) -> io::Result<Vec<PathBuf>> {
        let start = self.beside(end);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.as_os_str().as_encoded_bytes().starts_with(start.as_os_str().as_encoded_bytes()) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Opens the file and locks it until the last copy of the descriptor is closed. The locked file is the one that has
    /// this path when the function returns, even if it was replaced meanwhile.
    ///
    /// # Errors
    ///
    /// One line for the operator: [`EngineOpenError::is_busy`] if the file is in use, [`EngineOpenError::is_absent`] if
    /// it does not exist.
    pub(crate) fn lock(&self, purpose: FileAccess) -> Result<File, EngineOpenError> {
        self.lock_as(purpose, false).map(|(file, _)| file)
    }

    /// Locks the file exclusively, and creates an empty one if it does not exist. Returns whether it was created.
    pub(crate) fn lock_or_create(&self) -> Result<(File, bool), EngineOpenError> {
        self.lock_as(FileAccess::Change, true)
    }

    fn lock_as(&self, purpose: FileAccess, creates: bool) -> Result<(File, bool), EngineOpenError> {
        for _ in 0..ATTEMPTS {
            let mut options = OpenOptions::new();
            options.read(true).write(purpose == FileAccess::Change).mode(0o600);
            open::without_waiting(&mut options);
            let (opened, is_new) = match options.open(&self.file) {
                Err(error) if creates && error.kind() == io::ErrorKind::NotFound => {
                    (options.create_new(true).open(&self.file), true)
                }
                opened => (opened, false),
            };
            let file = match opened {
                Err(error) if is_new && error.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => opened.map_err(|error| self.cannot_open(&error))?,
            };
            let file = self.lock_file(file, purpose)?;
            if self.is_there(&file) {
                return Ok((file, is_new));
            }
        }
        Err(EngineOpenError::busy(format!(
            "the database {} was replaced {ATTEMPTS} times while it was being locked: stop the program that does so",
            self.file.display()
        )))
    }

    fn cannot_open(&self, error: &io::Error) -> EngineOpenError {
        let text = format!("cannot open the database {}: {error}", self.file.display());
        if error.kind() == io::ErrorKind::NotFound {
            EngineOpenError::absent(text)
        } else {
            EngineOpenError::of_file(text, error)
        }
    }

    /// Locks an open file with flock, as the library does, so that other programs respect it. The lock is not left to
    /// the library, which would release it before the marker is removed.
    pub(crate) fn lock_file(&self, file: File, purpose: FileAccess) -> Result<File, EngineOpenError> {
        let locked = match purpose {
            FileAccess::Read => file.try_lock_shared(),
            FileAccess::Change => file.try_lock(),
        };
        let path = self.file.display();
        match locked {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                let who = self
                    .holder()
                    .map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                Err(EngineOpenError::busy(format!("the database {path} is in use by {who}: stop that first")))
            }
            Err(TryLockError::Error(error)) => {
                Err(EngineOpenError::new(format!("cannot lock the database {path}: {error}")))
            }
        }
    }

    /// Returns the other process that has locked the file, if /proc/locks names it.
    fn holder(&self) -> Option<u32> {
        let metadata = fs::metadata(&self.file).ok()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        let named = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(4);
            let (pid, file) = (words.next()?, words.next()?);
            let pid = pid.parse().ok().filter(|pid| *pid != std::process::id());
            if file == named { pid } else { None }
        })
    }

    /// Returns whether the file is itself a mount point, which no other file can replace.
    pub(crate) fn is_mount_point(&self, file: &File) -> bool {
        let directory = fs::metadata(&self.directory).map(|directory| directory.dev());
        matches!((file.metadata(), directory), (Ok(file), Ok(directory)) if file.dev() != directory)
            || is_mounted(&self.file)
    }

    /// Returns whether an open file is still the one at the path.
    pub(crate) fn is_there(&self, file: &File) -> bool {
        let number = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        match (fs::metadata(&self.file), file.metadata()) {
            (Ok(there), Ok(open)) => number(&there) == number(&open),
            _ => false,
        }
    }

    /// Returns whether a file of this size, and an eighth more, fits onto the disk and below the file size limit.
    pub(crate) fn has_room(&self, size: u64) -> io::Result<bool> {
        let wanted = size + size / 8;
        if wanted > file_size_limit() {
            return Ok(false);
        }
        let disk = fstatvfs(File::open(&self.directory)?.as_fd())?;
        let free = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
        Ok(free > wanted + SLACK)
    }

    /// Syncs the directory of the file, so that a rename survives a crash of the machine.
    pub(crate) fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

/// Fails if the path exists and is not a regular file. Opening a pipe would block.
pub(crate) fn check_kind(path: &Path) -> Result<(), EngineOpenError> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let (path, error) = (path.display(), open::not_regular());
        return Err(EngineOpenError::of_file(format!("cannot open the database {path}: {error}"), &error));
    }
    Ok(())
}

/// Returns the error for a system call that the database needs and that has failed.
pub(crate) fn cannot_use(path: &Path, error: &io::Error) -> EngineOpenError {
    EngineOpenError::of_file(format!("cannot use the database {}: {error}", path.display()), error)
}

/// Returns whether /proc/self/mountinfo lists this path.
fn is_mounted(path: &Path) -> bool {
    // As in proc(5): the fifth word is the mount point, with blanks and some other characters in octal.
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    let Some(path) = path.to_str() else { return false };
    let path =
        path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path))
}

/// Returns the number of bytes that a file takes on the disk. Holes, such as the tail that a killed server leaves, do
/// not count.
pub(crate) fn size_of(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    Ok(metadata.len().min(metadata.blocks() * 512))
}
