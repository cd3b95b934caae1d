//! Opening a file for work on all of its records.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::tz::TimeZone;

use super::GdbmBulk;
use super::core::{BulkState, GdbmBulkCore};
use crate::storage::bulk::{Bulk, BulkPurpose};
use crate::storage::gdbm::cancel::{Cancel, open_cancellable};
use crate::storage::gdbm::file::handle::Handle;
use crate::storage::gdbm::file::location::{DatabasePath, FileAccess, cannot_use, check_kind};
use crate::storage::gdbm::file::marker::Marker;
use crate::storage::gdbm::open_file::OpenFile;
use crate::storage::gdbm::opening::{FileOpener, OpenedFile};
use crate::storage::gdbm::repair::explain::explain;
use crate::storage::gdbm::walk::DelayedDeletions;
use crate::storage::{BulkOpening, EngineOpenError, EngineOptions};

/// Number of blocks of the file that the library keeps decoded: 32 MiB with the usual block size. Records come in any
/// order, so a larger cache saves work.
const CACHED_BLOCKS: usize = 8192;

/// Opens a file for [`crate::storage::bulk::open`].
pub(in crate::storage) fn open_bulk(options: &EngineOptions, purpose: BulkPurpose) -> BulkOpening<'_> {
    Box::pin(async move {
        let (path, age) = (options.path.clone(), options.cleanup_age);
        let whole =
            open_cancellable(move |cancel| GdbmBulk::open(&path, purpose, TimeZone::system(), age, cancel))
                .await?;
        Ok(Arc::new(whole) as Arc<dyn Bulk>)
    })
}

impl GdbmBulk {
    /// Opens a file. A file that was not closed is repaired if the purpose allows changes.
    pub(super) fn open(
        path: &Path,
        purpose: BulkPurpose,
        zone: TimeZone,
        age: Option<Duration>,
        cancel: &Cancel,
    ) -> Result<Self, EngineOpenError> {
        let to_write = || open_to_write(path, &zone, age, cancel);
        let (mut open, marker, location, file) = match purpose {
            BulkPurpose::Look | BulkPurpose::Read => match open_to_read(path, &zone)? {
                (open, location, file, true) => (open, None, location, file),
                (open, _, file, false) if purpose == BulkPurpose::Read => {
                    drop((open, file));
                    to_write()?
                }
                _ => {
                    return Err(EngineOpenError::new(format!(
                        "the database {} was not closed (its last process was killed): first start and stop pyzord on \
                         it, which repairs it",
                        path.display()
                    )));
                }
            },
            BulkPurpose::Empty => {
                // Fails if there is no file: nothing may be created.
                drop(open_to_read(path, &zone)?);
                to_write()?
            }
            BulkPurpose::Fill => to_write()?,
        };
        let block = open.handle.block_size().map_err(|error| explain(path, &error))?;
        let state = BulkState {
            open: Some(open),
            visited: None,
            deletions: DelayedDeletions::new(block),
            has_deleted: false,
            was_scanned: false,
            is_mapped: true,
        };
        let path = location.file().to_owned();
        let shared = GdbmBulkCore { path, location, zone, marker, file, state: Mutex::new(state) };
        Ok(Self { shared: Arc::new(shared) })
    }
}

/// Opens a file for reading only. Returns whether its last process closed it.
fn open_to_read(
    path: &Path,
    zone: &TimeZone,
) -> Result<(OpenFile, DatabasePath, File, bool), EngineOpenError> {
    check_kind(path)?;
    let location = DatabasePath::of(path)?;
    let file = location.lock(FileAccess::Read)?;
    let mut handle = Handle::open_to_read(&file, location.file()).map_err(|error| explain(path, &error))?;
    let is_closed = !handle.needs_recovery() && !Marker::of(&location).exists();
    if is_closed {
        handle.keep_cached(CACHED_BLOCKS).map_err(|error| explain(path, &error))?;
    }
    let open = OpenFile::new(handle, &file, zone.clone()).map_err(|error| cannot_use(path, &error))?;
    Ok((open, location, file, is_closed))
}

fn open_to_write(
    path: &Path,
    zone: &TimeZone,
    age: Option<Duration>,
    cancel: &Cancel,
) -> Result<(OpenFile, Option<Marker>, DatabasePath, File), EngineOpenError> {
    let (zone, cached_blocks) = (zone.clone(), CACHED_BLOCKS);
    let opening = FileOpener { path, zone, age, cached_blocks, note: None, cancel };
    let OpenedFile { open, marker, location, file } = opening.open()?;
    Ok((open, Some(marker), location, file))
}
