//! Databases that do not exist: a new one is created only if none is missing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::FileOpener;
use crate::storage::EngineOpenError;
use crate::storage::gdbm::file::location::{DatabasePath, FileAccess};
use crate::storage::gdbm::file::marker::Marker;
use crate::storage::gdbm::file::reserve;
use crate::storage::gdbm::repair::rewrite::Repair;

impl FileOpener<'_> {
    /// Locks the database file. Creates an empty one if neither the marker nor the note of another disk shows that
    /// there was one. Returns whether it was created.
    pub(super) fn lock(
        &self,
        location: &DatabasePath,
        marker: &Marker,
    ) -> Result<(File, bool), EngineOpenError> {
        match location.lock(FileAccess::Change) {
            Err(error) if error.is_absent() => {}
            locked => return Ok((locked?, false)),
        }
        if marker.exists() {
            put_back(location, marker)?;
            return Ok((location.lock(FileAccess::Change)?, false));
        }
        if let Some(note) = &self.note {
            note.permit(location)?;
        }
        location.lock_or_create()
    }
}

/// Restores the database from the backup `NAME.~1~` of the library. Earlier versions could leave the database under
/// that name only, if they were killed during a repair.
fn put_back(location: &DatabasePath, marker: &Marker) -> Result<(), EngineOpenError> {
    let (file, marked) = (location.file().display(), marker.path().display());
    let found = location.all_beside(".").unwrap_or_default();
    if let Some(backup) = newest_backup(location, &found) {
        return match fs::rename(backup, location.file()) {
            Ok(()) => {
                info!("the database {file} was missing: restored it from {}", backup.display());
                Ok(())
            }
            Err(error) => Err(EngineOpenError::new(format!(
                "the database {file} is missing, and it cannot be restored from {}: {error}",
                backup.display()
            ))),
        };
    }
    let others: Vec<String> =
        found.iter().filter(|path| *path != marker.path()).map(|path| path.display().to_string()).collect();
    let others = if others.is_empty() { String::new() } else { format!(" (found: {})", others.join(", ")) };
    Err(EngineOpenError::new(format!(
        "the database {file} is missing, but {marked} says that it was open: restore the file{others}, or remove \
         {marked} to create a new database"
    )))
}

/// Returns the backup with the highest number.
fn newest_backup<'a>(location: &DatabasePath, found: &'a [PathBuf]) -> Option<&'a Path> {
    let start = location.beside(".~").as_os_str().len();
    let is_backup = |path: &&Path| {
        let number =
            path.as_os_str().as_encoded_bytes().get(start..).and_then(|rest| rest.strip_suffix(b"~"));
        number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    };
    // Numbers without leading zeros: the longest is the highest, and of the longest the last in order.
    found.iter().map(PathBuf::as_path).filter(is_backup).max_by_key(|path| (path.as_os_str().len(), *path))
}

/// Replaces an empty file by a new database. If that fails, the empty file is removed if this process created it.
pub(super) fn create(
    repair: &Repair<'_>,
    empty: File,
    is_made: bool,
    marker: &Marker,
) -> Result<File, EngineOpenError> {
    let path = repair.location.file();
    let limit = reserve::file_size_limit();
    let made = if marker.exists() {
        Err(format!(
            "the file is empty, but {0} says that it was open: restore the file, or remove {0} to create a new \
             database",
            marker.path().display()
        ))
    } else if limit < reserve::MIN_FILE_SIZE {
        Err(format!(
            "files of this process are limited to {limit} bytes: raise the limit (ulimit -f, LimitFSIZE)"
        ))
    } else {
        repair.create(empty).map_err(|error| error.to_string())
    };
    made.map_err(|why| {
        if is_made && let Err(error) = fs::remove_file(path) {
            warn!("cannot remove the empty file {}: {error}", path.display());
        }
        EngineOpenError::new(format!("cannot create the database {}: {why}", path.display()))
    })
}
