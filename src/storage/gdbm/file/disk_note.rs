//! A note in the homedir about a database on another disk.
//!
//! A database whose disk is not mounted looks like one that is yet to be made. A new one in the directory below
//! would take reports that are lost to the real one. So the homedir keeps a note of databases that are elsewhere.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::location::DatabasePath;
use crate::os::open;
use crate::storage::EngineOpenError;

/// What lines of the note begin with that name a database.
const DATABASE: &str = "database: ";

/// The note of one homedir.
#[derive(Clone, Debug)]
pub(crate) struct DiskNote {
    homedir: PathBuf,
    path: PathBuf,
}

impl DiskNote {
    /// The note in this directory.
    pub(crate) fn of(homedir: &Path) -> Self {
        Self { homedir: homedir.to_owned(), path: homedir.join("pyzord.disk") }
    }

    /// Whether a database may be made at this place, where there is none.
    ///
    /// # Errors
    ///
    /// One line for the operator: there was one, on another disk.
    pub(crate) fn permit(&self, place: &DatabasePath) -> Result<(), EngineOpenError> {
        let Ok(text) = open::to_read(&self.path).and_then(io::read_to_string) else { return Ok(()) };
        let directory = place.file().parent().unwrap_or(Path::new("/"));
        // Numbers of devices change from boot to boot, and disks are exchanged: any other disk will do.
        let is_elsewhere =
            device_of(directory).is_ok_and(|device| Some(device) != device_of(&self.homedir).ok());
        if is_elsewhere || !text.lines().any(|line| line == line_of(place)) {
            return Ok(());
        }
        Err(EngineOpenError::absent(format!(
            "the database {} is not there, and was on another disk when it was used last: mount that disk; or, if a new \
             database is to be made here, remove the note of it, {}",
            place.file().display(),
            self.path.display()
        )))
    }

    /// Notes where this database is, if that is another disk than the homedir's.
    pub(crate) fn keep(&self, place: &DatabasePath, database: &File) {
        if let Err(error) = self.try_to_keep(place, database) {
            warn!(
                "{} cannot be kept: {error}; should the disk of the database {} not be mounted, a start will make a new \
                 database",
                self.path.display(),
                place.file().display()
            );
        }
    }

    fn try_to_keep(&self, place: &DatabasePath, database: &File) -> io::Result<()> {
        const TEXT: &str = "pyzord makes no new database of these names as long as their directories are on the disk of this \
                            file, since their own disk is not mounted then. To have it make one, remove this file.\n\n";
        let is_elsewhere = device_of(&self.homedir)? != database.metadata()?.dev();
        let old = match open::to_read(&self.path).and_then(io::read_to_string) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let line = line_of(place);
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

fn line_of(place: &DatabasePath) -> String {
    format!("{DATABASE}{}", place.file().display())
}
