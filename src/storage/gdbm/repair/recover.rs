//! The repair on demand, `pyzord --recover`.

use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::error::RepairError;
use super::explain::{explain, is_of_another_machine};
use super::rewrite::{Repair, RepairKind};
use crate::storage::EngineOpenError;
use crate::storage::gdbm::cancel::Cancel;
use crate::storage::gdbm::expiry::horizon;
use crate::storage::gdbm::file::header::Header;
use crate::storage::gdbm::file::location::{DatabasePath, FileAccess, check_kind};
use crate::storage::gdbm::file::marker::{Marker, MarkerState};
use crate::storage::gdbm::file::tail;

/// Repairs a database file that may be damaged, and keeps the original; a sound file is left alone. No process may have
/// it open. Records that have not changed for `age` are not restored from unreferenced parts of the file, because they
/// may have been deleted by expiry.
///
/// # Returns
///
/// One line that says what was done.
///
/// # Errors
///
/// One line that names the file and says what to do. The file is then unchanged.
pub fn recover(path: &Path, age: Option<Duration>, cancel: &Cancel) -> Result<String, EngineOpenError> {
    let stopped = |_| Err(EngineOpenError::new("stopped before the recovery began".to_owned()));
    cancel.during(|| try_to_recover(path, age, cancel)).unwrap_or_else(stopped)
}

fn try_to_recover(path: &Path, age: Option<Duration>, cancel: &Cancel) -> Result<String, EngineOpenError> {
    check_kind(path)?;
    let location = DatabasePath::of(path)?;
    let file = location.lock(FileAccess::Change).map_err(|error| {
        if error.is_absent() {
            EngineOpenError::absent(format!("there is no database {}", location.file().display()))
        } else {
            error
        }
    })?;
    let failed = |error: RepairError| match &error {
        RepairError::Gdbm(error) if is_of_another_machine(error) => explain(location.file(), error),
        error => EngineOpenError::new(format!(
            "cannot recover the database {}: {error}; the file is unchanged",
            location.file().display()
        )),
    };
    let marker = Marker::of(&location);
    let state = marker.state(&file);
    if state == MarkerState::BetweenChanges {
        tail::cut_empty_tail(&file).map_err(|error| failed(error.into()))?;
    }
    let zone = TimeZone::system();
    let repair = Repair { location: &location, zone: &zone, horizon: age.map(horizon), cancel };
    let is_doubtful =
        matches!(state, MarkerState::WithinChange | MarkerState::Doubtful) || Header::has_tail(&file);
    let repaired = repair.run(&file, RepairKind::Recover { is_doubtful }).map_err(failed)?;
    // Otherwise the next start would repair the file again.
    marker.clear().map_err(|error| {
        EngineOpenError::new(format!(
            "the database {} was recovered, but its marker {} cannot be removed: {error}",
            location.file().display(),
            marker.path().display()
        ))
    })?;
    let (path, records) = (location.file().display(), repaired.records);
    if repaired.is_sound {
        return Ok(format!("{path} has {records} records and needs no repair"));
    }
    let how = match repaired.given_up {
        Some(error) => {
            format!("all of them found by scanning the file, because gdbm cannot read it ({error})")
        }
        None => format!(
            "{} of them from unreferenced parts of the file; {} parts were unreadable",
            repaired.from_remains, repaired.unreadable
        ),
    };
    let kept = repaired.kept.unwrap_or_default();
    Ok(format!(
        "{path} was recovered with {records} records, {how}; the original file is kept as {}",
        kept.display()
    ))
}
