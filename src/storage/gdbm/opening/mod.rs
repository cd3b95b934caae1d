//! Opening a database file for changes, in whatever state the last process left it.

mod missing;
mod repairing;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use tracing::{info, warn};

use super::cancel::Cancel;
use super::expiry::horizon;
use super::file::disk_note::DiskNote;
use super::file::handle::Handle;
use super::file::leftovers::remove_every_leftover;
use super::file::location::{DatabasePath, cannot_use, check_kind};
use super::file::marker::{Marker, MarkerState};
use super::open_file::OpenFile;
use super::repair::error::RepairError;
use super::repair::explain::explain;
use super::repair::rewrite::Repair;
use crate::storage::EngineOpenError;

/// Options for opening a database file.
#[derive(Debug)]
pub(super) struct FileOpener<'a> {
    pub(super) path: &'a Path,
    /// The time zone of dates in the file.
    pub(super) zone: TimeZone,
    /// The time without a change after which a record expires.
    pub(super) age: Option<Duration>,
    /// Number of blocks of the file that the library keeps decoded.
    pub(super) cached_blocks: usize,
    /// The homedir's note about a database on another disk.
    pub(super) note: Option<DiskNote>,
    pub(super) cancel: &'a Cancel,
}

/// A database file that is locked, marked and open for changes.
pub(super) struct OpenedFile {
    pub(super) open: OpenFile,
    pub(super) marker: Marker,
    pub(super) location: DatabasePath,
    /// The descriptor that holds the lock.
    pub(super) file: File,
}

impl FileOpener<'_> {
    /// Locks the file, creates or repairs it if that is needed, opens it, and sets its marker.
    ///
    /// A repair that fails for lack of room or rights does not prevent the start if the library accepts the file: the
    /// marker then records that a repair is owed.
    ///
    /// # Errors
    ///
    /// One line for the operator.
    pub(super) fn open(self) -> Result<OpenedFile, EngineOpenError> {
        check_kind(self.path)?;
        let location = DatabasePath::of(self.path)?;
        if self.path != location.file() {
            info!("the database {} resolves to {}", self.path.display(), location.file().display());
        }
        let mut marker = Marker::of(&location);
        let (locked, is_made) = self.lock(&location, &marker)?;
        remove_every_leftover(&location);
        let repair = Repair {
            location: &location,
            zone: &self.zone,
            horizon: self.age.map(horizon),
            cancel: self.cancel,
        };
        let (file, failure) =
            if locked.metadata().map_err(|error| cannot_use(location.file(), &error))?.len() == 0 {
                (missing::create(&repair, locked, is_made, &marker)?, None)
            } else {
                repairing::repair_if_needed(&repair, locked, &marker)?
            };
        let mut handle = self.open_handle(&location, &file, failure.as_ref())?;
        let is_marked = set_marker(&mut marker, &file, failure.is_some());
        if let Some(error) = &failure {
            repairing::warn_of_failure(&location, error, is_marked);
        }
        if location.is_mount_point(&file) {
            warn!(
                "the database {} is itself a mount point and cannot be repaired after a kill: mount its directory \
                 instead",
                location.file().display()
            );
        }
        handle.note_changes(marker.flag());
        if let Some(note) = &self.note {
            note.keep(&location, &file);
        }
        let open =
            OpenFile::new(handle, &file, self.zone).map_err(|error| cannot_use(location.file(), &error))?;
        Ok(OpenedFile { open, marker, location, file })
    }

    fn open_handle(
        &self,
        location: &DatabasePath,
        file: &File,
        failure: Option<&RepairError>,
    ) -> Result<Handle, EngineOpenError> {
        let explained = |error| explain(location.file(), &error);
        let mut handle = Handle::open(file, location.file()).map_err(explained)?;
        if handle.needs_recovery() {
            return Err(match failure {
                Some(error) => repairing::beyond_repair(location, error),
                None => repairing::beyond_repair(location, &"GNU dbm refuses it"),
            });
        }
        handle.keep_cached(self.cached_blocks).map_err(explained)?;
        Ok(handle)
    }
}

/// Sets the marker. Returns whether that succeeded, and otherwise warns the operator of the consequence of a kill.
fn set_marker(marker: &mut Marker, file: &File, needs_repair: bool) -> bool {
    let Err(error) = marker.set(file, needs_repair) else { return true };
    let then = match marker.state(file) {
        MarkerState::WithinChange | MarkerState::Doubtful => {
            "the next start repairs the database even if that is not needed"
        }
        MarkerState::Absent | MarkerState::BetweenChanges => {
            "the next start may not notice that the database needs a repair"
        }
    };
    warn!("cannot write the marker {}: {error}; if this process is killed, {then}", marker.path().display());
    false
}
