//! The pid file: the process id of the daemon, locked while the daemon runs.
//!
//! The lock, not the number, tells whether the owner runs: the number may belong to another process by now, and a
//! killed daemon leaves its file behind.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::open::{is_lasting, not_regular};

/// The pid file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum PidFileError {
    /// Its owner is running.
    #[error("already running ({}): the pid file {} is locked", owner(*pid), path.display())]
    AlreadyRunning {
        path: PathBuf,
        /// The owner, if the file names one.
        pid: Option<u32>,
    },
    /// The system refuses access.
    #[error("cannot write the pid file {}: {error}", path.display())]
    Unusable {
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

impl PidFileError {
    /// Whether a running owner is the reason, which may be about to end.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::AlreadyRunning { .. })
    }

    /// Whether the error stays until an operator changes the file.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Unusable { error, .. } if is_lasting(error))
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

/// Checks that no running daemon has this pid file, and changes nothing.
///
/// # Errors
///
/// The owner is running, or the file cannot be opened.
pub(crate) fn check(path: &Path) -> Result<(), PidFileError> {
    match open(path, OpenOptions::new().read(true)) {
        Ok(file) => lock(path, file).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PidFileError::Unusable { path: path.to_owned(), error }),
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Following a link could overwrite any file, and opening a pipe could block.
    let file = match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        // A pipe or a socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(not_regular()),
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

impl PidFile {
    /// Writes the id of this process into the file. A file of a dead owner is replaced.
    ///
    /// # Errors
    ///
    /// The owner is running, or the file cannot be written.
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
                // On a full disk a truncated number could name another process. The former owner is dead.
                let _ = fs::remove_file(path);
                return Err(unusable(error));
            }
            return Ok(Self { path: path.to_owned(), file });
        }
    }

    /// Returns the path that the file was written to.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, unless it has been replaced.
    ///
    /// # Errors
    ///
    /// The system call fails.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.remove_if_own()
    }

    fn remove_if_own(&self) -> io::Result<()> {
        if is_at(&self.file, &self.path) { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

/// Removes the file when a start fails or is stopped.
impl Drop for PidFile {
    fn drop(&mut self) {
        // A file that stays is harmless: it is not locked.
        let _ = self.remove_if_own();
    }
}

fn replace_content(file: &mut File) -> io::Result<()> {
    let line = format!("{}\n", std::process::id());
    file.rewind()?;
    // One write, then truncation of a longer old number, so that readers never see a part of the number.
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
    fn file_holds_the_process_id_and_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_line());
        file.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn stale_file_is_replaced_completely() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "12345678901234567890\nand more\n").unwrap();
        check(&path).unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own_line());
    }

    #[test]
    fn running_owner_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
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
    fn replaced_file_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let first = PidFile::write(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = PidFile::write(&path).unwrap();
        first.remove().unwrap();
        assert!(path.exists());
        second.remove().unwrap();
    }

    #[test]
    fn links_and_directories_and_missing_parents_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
        for path in [link.as_path(), directory.path(), &directory.path().join("missing/pid")] {
            let error = PidFile::write(path).unwrap_err();
            assert!(!error.is_busy() && error.to_string().contains(&path.display().to_string()), "{error}");
        }
        assert!(!directory.path().join("elsewhere").exists());
    }
}
