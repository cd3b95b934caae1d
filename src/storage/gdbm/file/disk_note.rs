//! The note `pyzord.disk` in the homedir about databases on other disks.
//!
//! A database whose disk is not mounted looks like one that was never created. A new one, in the directory below the
//! mount point, would take reports that the real one then lacks. So the homedir keeps a note of databases that were
//! last used on another disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::location::DatabasePath;
use crate::os::open;
use crate::storage::EngineOpenError;

/// Prefix of the lines that name a database.
const DATABASE: &str = "database: ";

/// The note of one homedir.
#[derive(Clone, Debug)]
pub(crate) struct DiskNote {
    homedir: PathBuf,
    path: PathBuf,
}

impl DiskNote {
    /// Returns the note of a homedir.
    pub(crate) fn of(homedir: &Path) -> Self {
        Self { homedir: homedir.to_owned(), path: homedir.join("pyzord.disk") }
    }

    /// Checks that a missing database may be created.
    ///
    /// # Errors
    ///
    /// One line for the operator if it was last used on another disk.
    pub(crate) fn permit(&self, location: &DatabasePath) -> Result<(), EngineOpenError> {
        let Ok(text) = open::to_read(&self.path).and_then(io::read_to_string) else { return Ok(()) };
        let directory = location.file().parent().unwrap_or(Path::new("/"));
        // Device numbers change from boot to boot, and disks are replaced: any other disk is accepted.
        let is_elsewhere =
            device_of(directory).is_ok_and(|device| Some(device) != device_of(&self.homedir).ok());
        if is_elsewhere || !text.lines().any(|line| line == line_of(location)) {
            return Ok(());
        }
        Err(EngineOpenError::absent(format!(
            "the database {} is missing, and was last used on another disk: mount that disk, or remove {} to create a \
             new database here",
            location.file().display(),
            self.path.display()
        )))
    }

    /// Adds a database to the note if it is on another disk than the homedir, and removes it otherwise.
    pub(crate) fn keep(&self, location: &DatabasePath, database: &File) {
        if let Err(error) = self.try_to_keep(location, database) {
            warn!(
                "cannot write {}: {error}; a start without the disk of the database {} will create a new database",
                self.path.display(),
                location.file().display()
            );
        }
    }

    fn try_to_keep(&self, location: &DatabasePath, database: &File) -> io::Result<()> {
        const TEXT: &str = "pyzord creates no new database at these paths while their directories are on the disk of \
                            this file, because their own disk is then not mounted. To allow a new database, remove \
                            this file.\n\n";
        let is_elsewhere = device_of(&self.homedir)? != database.metadata()?.dev();
        let old = match open::to_read(&self.path).and_then(io::read_to_string) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let line = line_of(location);
        if is_elsewhere == old.lines().any(|other| other == line) {
            return Ok(());
        }
        let mut lines: Vec<&str> =
            old.lines().filter(|other| other.starts_with(DATABASE) && *other != line).collect();
        if is_elsewhere {
            lines.push(&line);
        }
        if lines.is_empty() {
            return fs::remove_file(&self.path);
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(&self.path)?.write_all((TEXT.to_owned() + &lines.join("\n") + "\n").as_bytes())
    }
}

fn device_of(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.dev())
}

fn line_of(location: &DatabasePath) -> String {
    format!("{DATABASE}{}", location.file().display())
}
