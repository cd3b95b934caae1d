//! The repair at the start: whether one is needed, and the log lines about it.

use std::fmt;
use std::fs::File;
use std::time::Instant;

use tracing::{info, warn};

use crate::storage::EngineOpenError;
use crate::storage::gdbm::file::header::Header;
use crate::storage::gdbm::file::location::{DatabasePath, cannot_use};
use crate::storage::gdbm::file::marker::{Marker, MarkerState};
use crate::storage::gdbm::file::tail;
use crate::storage::gdbm::repair::error::{RepairError, is_of_the_file};
use crate::storage::gdbm::repair::rewrite::{Repair, RepairKind, Repaired};

/// Repairs a locked file if its last process did not close it properly. Returns the file that is the database now,
/// locked, and the error of a repair that can be tried again by a later start.
pub(super) fn repair_if_needed(
    repair: &Repair<'_>,
    file: File,
    marker: &Marker,
) -> Result<(File, Option<RepairError>), EngineOpenError> {
    let location = repair.location;
    let Some(kind) = needed_repair(location, marker, &file)? else { return Ok((file, None)) };
    let start = Instant::now();
    match repair.run(&file, kind) {
        Ok(repaired) => {
            log_repair(location, &repaired, start);
            Ok((repaired.file.unwrap_or(file), None))
        }
        Err(RepairError::Cancelled) => Err(EngineOpenError::new(format!(
            "the repair of the database {} was stopped; the file is unchanged",
            location.file().display()
        ))),
        Err(RepairError::Gdbm(error)) if is_of_the_file(&error) => Err(beyond_repair(location, &error)),
        Err(error) => {
            tail::cut_empty_tail(&file).map_err(|error| cannot_use(location.file(), &error))?;
            Ok((file, Some(error)))
        }
    }
}

/// Returns the repair that the file needs, if any. Cuts the tail off a file that needs none.
fn needed_repair(
    location: &DatabasePath,
    marker: &Marker,
    file: &File,
) -> Result<Option<RepairKind>, EngineOpenError> {
    let of_any_damage = Some(RepairKind::Start { is_one_change: false });
    match marker.state(file) {
        MarkerState::WithinChange => Ok(Some(RepairKind::Start { is_one_change: true })),
        MarkerState::Doubtful => Ok(of_any_damage),
        // A closed file has no tail: the process was killed, and the marker was removed later.
        MarkerState::Absent => Ok(of_any_damage.filter(|_| Header::has_tail(file))),
        // The file was truncated since.
        MarkerState::BetweenChanges if Header::is_cut_off(file) => Ok(of_any_damage),
        MarkerState::BetweenChanges => {
            tail::cut_empty_tail(file).map_err(|error| cannot_use(location.file(), &error))?;
            if Header::has_tail(file) {
                // The tail held data: a copy made within a change was written into this file since.
                return Ok(of_any_damage);
            }
            info!(
                "the database {} was not closed (its last process was killed), but no change was under way: no repair \
                 is needed",
                location.file().display()
            );
            Ok(None)
        }
    }
}

fn log_repair(location: &DatabasePath, repaired: &Repaired, start: Instant) {
    let path = location.file().display();
    let from_remains = match repaired.from_remains {
        0 => String::new(),
        number => format!(", {number} of them from unreferenced parts of the file"),
    };
    info!(
        "the database {path} was not closed (its last process was killed or had errors): repaired in {:.1} s, {} \
         records recovered{from_remains}",
        start.elapsed().as_secs_f64(),
        repaired.records,
    );
    if let Some(kept) = &repaired.kept {
        warn!(
            "{} parts of the database {path} are unreadable; their records were restored as far as they were found \
             elsewhere; the original file is kept as {}",
            repaired.unreadable,
            kept.display()
        );
    }
}

/// Warns that a database is served although its repair failed.
pub(super) fn warn_of_failure(location: &DatabasePath, error: &RepairError, is_marked: bool) {
    warn!(
        "the database {} was not closed and could not be repaired: {error}; it seems sound and is served; {}",
        location.file().display(),
        if is_marked { "the next start tries again" } else { "run pyzord --recover once that is possible" }
    );
}

/// Returns the error for a file that cannot be served before an operator acts.
pub(super) fn beyond_repair(location: &DatabasePath, why: &dyn fmt::Display) -> EngineOpenError {
    EngineOpenError::new(format!(
        "the repair of the database {} failed: {why}; fix that and start again, or run pyzord --recover, which repairs \
         as much as possible and keeps the original file",
        location.file().display()
    ))
}
