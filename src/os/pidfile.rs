//! The pid file: the daemon's number, locked as long as the daemon lives.
//!
//! The lock, not the number, says whether the owner lives: a number may long belong to another
//! process, and a killed daemon leaves its file behind.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::open::not_regular;

/// Why there is no pid file.
#[derive(Debug, Error)]
pub(crate) enum PidFileError {
    /// Its owner lives.
    #[error("already running ({}): the pid file {} is locked", owner(*pid), path.display())]
    AlreadyRunning {
        /// The file.
        path: PathBuf,
        /// The owner, as far as the file tells.
        pid: Option<u32>,
    },
    /// The system refused.
    #[error("cannot write the pid file {}: {error}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

impl PidFileError {
    /// Whether a living owner is all that stands in the way; it may be about to end.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::AlreadyRunning { .. })
    }
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
}

/// The pid file of this process.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
}

/// Looks whether a living daemon has this pid file, and changes nothing.
///
/// # Errors
///
/// It has, or the file cannot be opened.
pub(crate) fn check(path: &Path) -> Result<(), PidFileError> {
    match open(path, OpenOptions::new().read(true)) {
        Ok(file) => lock(path, file).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PidFileError::Unusable { path: path.to_owned(), error }),
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // A link could lead the number into any file, a pipe could be waited for.
    let file = match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        // A pipe or a socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(not_regular()),
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

impl PidFile {
    /// Writes this process's number into the file, which is replaced if its owner is dead.
    ///
    /// # Errors
    ///
    /// The owner lives, or the file cannot be written.
    pub(crate) fn write(path: &Path) -> Result<Self, PidFileError> {
        let unusable = |error| PidFileError::Unusable { path: path.to_owned(), error };
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let mut file = lock(path, open(path, &mut options).map_err(unusable)?)?;
            // A daemon that ended between opening and locking has removed the file.
            if !is_at(&file, path) {
                continue;
            }
            if let Err(error) = replace_content(&mut file) {
                // On a full disk: a part of the number would name another process. Its former owner is dead.
                let _ = fs::remove_file(path);
                return Err(unusable(error));
            }
            return Ok(Self { path: path.to_owned(), file });
        }
    }

    /// Removes the file, unless another one has been put in its place.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.remove_if_own()
    }

    fn remove_if_own(&self) -> io::Result<()> {
        if is_at(&self.file, &self.path) { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

/// A start that fails or is stopped leaves no file.
impl Drop for PidFile {
    fn drop(&mut self) {
        // The number of a dead process in it does no harm.
        let _ = self.remove_if_own();
    }
}

fn replace_content(file: &mut File) -> io::Result<()> {
    let line = format!("{}\n", std::process::id());
    file.rewind()?;
    // One write, and the rest of an older, longer number cut off only behind it, so that a reader
    // never sees a part of the number.
    file.write_all(line.as_bytes())?;
    file.set_len(line.len() as u64)
}

fn lock(path: &Path, mut file: File) -> Result<File, PidFileError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(PidFileError::AlreadyRunning { path: path.to_owned(), pid })
        }
        Err(TryLockError::Error(error)) => Err(PidFileError::Unusable { path: path.to_owned(), error }),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_line() -> String {
        format!("{}\n", std::process::id())
    }

    #[test]
    fn the_file_holds_the_number_and_goes_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_line());
        file.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, "12345678901234567890\nand more\n").unwrap();
        check(&path).unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_line());
    }

    #[test]
    fn a_living_owner_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let _file = PidFile::write(&path).unwrap();
        let expected = format!(
            "already running (pid {}): the pid file {} is locked",
            std::process::id(),
            path.display()
        );
        for error in [check(&path).unwrap_err(), PidFile::write(&path).unwrap_err()] {
            assert!(error.is_busy());
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn another_file_in_its_place_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let first = PidFile::write(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = PidFile::write(&path).unwrap();
        first.remove().unwrap();
        assert!(path.exists());
        second.remove().unwrap();
    }

    #[test]
    fn links_folders_and_missing_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
        for path in [link.as_path(), folder.path(), &folder.path().join("missing/pid")] {
            let error = PidFile::write(path).unwrap_err();
            assert!(!error.is_busy() && error.to_string().contains(&path.display().to_string()), "{error}");
        }
        assert!(!folder.path().join("elsewhere").exists());
    }
}
