//! Where a database really is: its path without links, its lock, and the files beside it.

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

/// How often a file that was replaced while it was being locked is opened again.
const ATTEMPTS: u32 = 100;
/// How many links are followed from one to the next.
const LINKS: usize = 40;
/// What a repair needs on the disk besides the size of the file.
const SLACK: u64 = 8 << 20;

/// The place of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatabasePath {
    file: PathBuf,
    directory: PathBuf,
}

/// What a process may do with a file that it has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileAccess {
    /// Read it, beside other readers.
    Read,
    /// Change it, alone.
    Change,
}

impl DatabasePath {
    /// The place that this path leads to, which is to be asked once: a link that changes later changes
    /// nothing for a process that has the file open.
    ///
    /// # Errors
    ///
    /// One line for the operator, also where the path is a link to what is not there: its disk may not be
    /// mounted.
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
                "the database {path} is a link to {target}, which is not there: mount the disk that it is on, or make an \
                 empty file there for a new database"
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

    /// The path of the file, without links.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// A path beside it, with this behind the name.
    pub(crate) fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.file.as_os_str().to_owned();
        name.push(end);
        name.into()
    }

    /// The files beside it whose names begin with its own and then this.
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

    /// Opens the file and locks it, until the last copy of this descriptor is closed. It is the file of this path then,
    /// whatever was renamed meanwhile.
    ///
    /// # Errors
    ///
    /// One line for the operator. It says so if the file is in use, or if there is none.
    pub(crate) fn lock(&self, purpose: FileAccess) -> Result<File, EngineOpenError> {
        self.lock_as(purpose, false).map(|(file, _)| file)
    }

    /// Locks the file to change it, and makes an empty one if there is none; says whether it did.
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
        Err(EngineOpenError::busy(format!("the database {} is replaced all the time", self.file.display())))
    }

    fn cannot_open(&self, error: &io::Error) -> EngineOpenError {
        let text = format!("cannot open the database {}: {error}", self.file.display());
        if error.kind() == io::ErrorKind::NotFound {
            EngineOpenError::absent(text)
        } else {
            EngineOpenError::new(text)
        }
    }

    /// Locks an open file as the library does, which keeps every other user of it away. The lock is ours and not
    /// the library's, which would give it up before the marker is gone.
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
                Err(EngineOpenError::new(format!("the database {path} cannot be locked: {error}")))
            }
        }
    }

    /// The other process that has locked the file, as far as the kernel's list tells.
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

    /// Whether the file of this path is mounted there by itself, so that no other one can take its place.
    pub(crate) fn is_mount_point(&self, file: &File) -> bool {
        let directory = fs::metadata(&self.directory).map(|directory| directory.dev());
        matches!((file.metadata(), directory), (Ok(file), Ok(directory)) if file.dev() != directory)
            || is_mounted(&self.file)
    }

    /// Whether this open file is the one of the path.
    pub(crate) fn is_there(&self, file: &File) -> bool {
        let number = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        match (fs::metadata(&self.file), file.metadata()) {
            (Ok(there), Ok(open)) => number(&there) == number(&open),
            _ => false,
        }
    }

    /// Whether the disk has room for so many more bytes and whether this process may make a file of so many.
    pub(crate) fn has_room(&self, size: u64) -> io::Result<bool> {
        let wanted = size + size / 8;
        if wanted > file_size_limit() {
            return Ok(false);
        }
        let disk = fstatvfs(File::open(&self.directory)?.as_fd())?;
        let free = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
        Ok(free > wanted + SLACK)
    }

    /// Waits until names in the directory have reached the disk.
    pub(crate) fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

/// Fails if there is something else than a file: a pipe would be waited for, for ever.
pub(crate) fn check_kind(path: &Path) -> Result<(), EngineOpenError> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let path = path.display();
        return Err(EngineOpenError::new(format!(
            "cannot open the database {path}: it is not a regular file"
        )));
    }
    Ok(())
}

/// Says that the system has refused something that the database needs.
pub(crate) fn cannot_use(path: &Path, error: &io::Error) -> EngineOpenError {
    EngineOpenError::new(format!("cannot use the database {}: {error}", path.display()))
}

/// Whether the kernel's list says that something is mounted at this path.
fn is_mounted(path: &Path) -> bool {
    // As in proc(5): the fifth word, in which blanks and some more are octal numbers.
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    let Some(path) = path.to_str() else { return false };
    let path =
        path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path))
}

/// How much of the disk a file takes, which is less than its length where it has holes, such as the tail that a
/// killed server leaves.
pub(crate) fn size_of(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    Ok(metadata.len().min(metadata.blocks() * 512))
}
