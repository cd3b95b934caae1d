//! A file beside the database that is there while it is open.
//!
//! A process that is killed in the middle of a change can leave a file that looks sound and is not:
//! with a bucket that the directory does not name yet, or with room on the list of free blocks that
//! is in use. Whoever finds this marker at the start knows that the database was not closed, and
//! has it written anew.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::os::open;

const TEXT: &str = "pyzord has the database open, or was killed while it had. It removes this file when it closes the \
                    database; where it finds it at the start, it first repairs the database.\n";

/// The marker of one database.
#[derive(Debug)]
pub(super) struct Marker {
    path: PathBuf,
}

impl Marker {
    /// The marker of the database in this file.
    pub(super) fn of(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push(".open");
        Self { path: name.into() }
    }

    /// Its name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is there, so that the database was not closed.
    pub(super) fn is_set(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    /// Puts it there.
    pub(super) fn set(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = open::without_waiting(&mut options).open(&self.path)?;
        file.write_all(TEXT.as_bytes())
    }

    /// Removes it.
    pub(super) fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
