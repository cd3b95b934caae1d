//! Opening a database file for changes, whatever the process that had it before has left.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tracing::{info, warn};

use super::cancel::Cancel;
use super::expiry::horizon;
use super::file::disk_note::DiskNote;
use super::file::handle::Handle;
use super::file::header::Header;
use super::file::location::{DatabasePath, FileAccess, cannot_use, check_kind};
use super::file::open_file::OpenFile;
use super::file::{reserve, tail};
use super::repair::error::{RepairError, is_of_the_file};
use super::repair::explain::explain;
use super::repair::leftovers::remove_every_leftover;
use super::repair::marker::{Marker, MarkerState};
use super::repair::rewrite::{Repair, RepairKind, Repaired};
use crate::storage::EngineOpenError;

/// How a file is opened.
#[derive(Debug)]
pub(super) struct FileOpener<'a> {
    pub(super) path: &'a Path,
    /// The zone of dates in the file.
    pub(super) zone: TimeZone,
    /// After how long without a change a record expires.
    pub(super) age: Option<Duration>,
    /// How many blocks of the file the library keeps decoded.
    pub(super) cached_blocks: usize,
    /// What the homedir knows of the database's disk.
    pub(super) note: Option<DiskNote>,
    pub(super) cancel: &'a Cancel,
}

/// A file that is open for changes.
pub(super) struct OpenedFile {
    pub(super) open: OpenFile,
    pub(super) marker: Marker,
    pub(super) place: DatabasePath,
    pub(super) file: File,
}

impl FileOpener<'_> {
    /// Opens the file, creating it if there is none, and puts its marker there. What a killed process left behind is
    /// repaired if it needs that.
    ///
    /// # Errors
    ///
    /// One line for the operator.
    pub(super) fn run(self) -> Result<OpenedFile, EngineOpenError> {
        check_kind(self.path)?;
        let place = DatabasePath::of(self.path)?;
        if self.path != place.file() {
            info!("the database {} is {}", self.path.display(), place.file().display());
        }
        let mut marker = Marker::of(&place);
        let (mut file, is_made) = self.lock(&place, &marker)?;
        remove_every_leftover(&place);
        let repair =
            Repair { place: &place, zone: &self.zone, horizon: self.age.map(horizon), cancel: self.cancel };
        let mut failed = None;
        if file.metadata().map_err(|error| cannot_use(place.file(), &error))?.len() == 0 {
            file = create(&repair, file, is_made, &marker)?;
        } else if let Some(purpose) = what_to_repair(&place, &marker, &file)? {
            let start = Instant::now();
            match repair.run(&file, purpose) {
                Ok(repaired) => {
                    tell(&place, &repaired, start);
                    file = repaired.file.unwrap_or(file);
                }
                Err(RepairError::Cancelled) => {
                    return Err(EngineOpenError::new(format!(
                        "the repair of the database {} was stopped; it is as it was",
                        place.file().display()
                    )));
                }
                Err(RepairError::Gdbm(error)) if is_of_the_file(&error) => {
                    return Err(beyond_repair(&place, &error));
                }
                Err(error) => {
                    tail::cut_empty_tail(&file).map_err(|error| cannot_use(place.file(), &error))?;
                    failed = Some(error);
                }
            }
        }
        let explained = |error| explain(place.file(), &error);
        let mut handle = Handle::open(&file, place.file()).map_err(explained)?;
        if handle.needs_recovery() {
            return Err(match &failed {
                Some(error) => beyond_repair(&place, error),
                None => beyond_repair(&place, &"GNU dbm refuses it"),
            });
        }
        handle.keep_cached(self.cached_blocks).map_err(explained)?;
        let is_set = set(&mut marker, &file, failed.is_some());
        if let Some(error) = &failed {
            warn!(
                "the database {} was not closed and could not be repaired: {error}; it seems sound and is served; {}",
                place.file().display(),
                if is_set {
                    "the next start tries again"
                } else {
                    "run pyzord --recover once that is possible"
                }
            );
        }
        if place.is_mount_point(&file) {
            warn!(
                "the database {} is a mount point by itself, so that it cannot be repaired after a kill: mount its directory \
                 instead",
                place.file().display()
            );
        }
        handle.note_changes(marker.flag());
        if let Some(note) = &self.note {
            note.keep(&place, &file);
        }
        let open =
            OpenFile::new(handle, &file, self.zone).map_err(|error| cannot_use(place.file(), &error))?;
        Ok(OpenedFile { open, marker, place, file })
    }

    /// Locks the file, and makes an empty one only where none is missing; says whether it did.
    fn lock(&self, place: &DatabasePath, marker: &Marker) -> Result<(File, bool), EngineOpenError> {
        match place.lock(FileAccess::Change) {
            Err(error) if error.is_absent() => {}
            locked => return Ok((locked?, false)),
        }
        if marker.is_there() {
            put_back(place, marker)?;
            return Ok((place.lock(FileAccess::Change)?, false));
        }
        if let Some(note) = &self.note {
            note.permit(place)?;
        }
        place.lock_or_create()
    }
}

/// Which repair the file needs, if any. A tail that nothing can be in is cut off.
fn what_to_repair(
    place: &DatabasePath,
    marker: &Marker,
    file: &File,
) -> Result<Option<RepairKind>, EngineOpenError> {
    let of_more = Some(RepairKind::Start { is_one_change: false });
    match marker.left(file) {
        MarkerState::Half => Ok(Some(RepairKind::Start { is_one_change: true })),
        MarkerState::Doubtful => Ok(of_more),
        // As after a kill, if the marker was removed then.
        MarkerState::Nothing => Ok(of_more.filter(|_| Header::has_tail(file))),
        // What is in use was cut off.
        MarkerState::Sound if Header::is_cut_off(file) => Ok(of_more),
        MarkerState::Sound => {
            tail::cut_empty_tail(file).map_err(|error| cannot_use(place.file(), &error))?;
            if Header::has_tail(file) {
                // It is not as it was left: a copy, made in the middle of a change, has been put into it.
                return Ok(of_more);
            }
            info!(
                "the database {} was not closed by the process that had it, which must have been killed, but not in a \
                 change: it needs no repair",
                place.file().display()
            );
            Ok(None)
        }
    }
}

/// Puts back the file that earlier versions, killed in a repair, have left under another name.
fn put_back(place: &DatabasePath, marker: &Marker) -> Result<(), EngineOpenError> {
    let (file, marked) = (place.file().display(), marker.path().display());
    let found = place.all_beside(".").unwrap_or_default();
    let named = |path: &PathBuf| path.display().to_string();
    // As the library names it: `.~1~`. The longest and last one is the newest.
    let start = place.beside(".~").as_os_str().len();
    let is_kept = |path: &&PathBuf| {
        let number =
            path.as_os_str().as_encoded_bytes().get(start..).and_then(|rest| rest.strip_suffix(b"~"));
        number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    };
    let kept = found.iter().filter(is_kept).max_by_key(|path| (path.as_os_str().len(), (*path).clone()));
    if let Some(kept) = kept {
        // Another start may have done that meanwhile.
        return match fs::rename(kept, place.file()) {
            Ok(()) => {
                info!("the database {file} was not there any more; {} has been put back", kept.display());
                Ok(())
            }
            Err(error) => Err(EngineOpenError::new(format!(
                "the database {file} is not there, and {} cannot be put back: {error}",
                kept.display()
            ))),
        };
    }
    let others: Vec<String> = found.iter().filter(|path| *path != marker.path()).map(named).collect();
    let others =
        if others.is_empty() { String::new() } else { format!(" (there are {})", others.join(", ")) };
    Err(EngineOpenError::new(format!(
        "the database {file} is not there, though {marked} says that it was open: put the file back{others}, or, if a new \
         database is to be made, remove {marked}"
    )))
}

/// Makes a new database in the place of an empty file, which is removed if that fails and this process has made it.
fn create(repair: &Repair<'_>, empty: File, is_made: bool, marker: &Marker) -> Result<File, EngineOpenError> {
    let path = repair.place.file();
    let limit = reserve::file_size_limit();
    let made = if marker.is_there() {
        Err(format!(
            "it is empty, though {} says that it was open: put the file back, or, if a new database is to be made, remove \
             {0}",
            marker.path().display()
        ))
    } else if limit < reserve::LEAST_FILE {
        Err(format!(
            "this process may make files of {limit} bytes at most: raise the limit (ulimit -f, LimitFSIZE)"
        ))
    } else {
        repair.create(empty).map_err(|error| error.to_string())
    };
    made.map_err(|why| {
        if is_made && let Err(error) = fs::remove_file(path) {
            warn!("the empty file {} cannot be removed: {error}", path.display());
        }
        EngineOpenError::new(format!("cannot make the database {}: {why}", path.display()))
    })
}

fn tell(place: &DatabasePath, repaired: &Repaired, start: Instant) {
    let path = place.file().display();
    info!(
        "the database {path} was not closed by the process that had it, which must have been killed, or only after \
         errors; {} records have been recovered, {} of them from its remains, in {:.1} s",
        repaired.records,
        repaired.from_remains,
        start.elapsed().as_secs_f64(),
    );
    if let Some(kept) = &repaired.kept {
        warn!(
            "{} parts of the database {path} could not be read; what was in them has been put back as far as it was \
             found elsewhere; the file as it was is kept: {}",
            repaired.unreadable,
            kept.display()
        );
    }
}

/// Sets the marker, and says whether that was possible.
fn set(marker: &mut Marker, file: &File, needs_repair: bool) -> bool {
    let Err(error) = marker.set(file, needs_repair) else { return true };
    let then = match marker.left(file) {
        MarkerState::Half | MarkerState::Doubtful => {
            "the next start repairs the database, whether it needs that or not"
        }
        MarkerState::Nothing | MarkerState::Sound => {
            "the next start may not know that the database needs repair"
        }
    };
    warn!("{} cannot be written: {error}; if this process is killed, {then}", marker.path().display());
    false
}

fn beyond_repair(place: &DatabasePath, why: &dyn fmt::Display) -> EngineOpenError {
    EngineOpenError::new(format!(
        "the database {} needs recovery, which failed: {why}; fix that and start again, or run pyzord --recover, which \
         repairs what it can and keeps the file as it is",
        place.file().display()
    ))
}
