//! What the engine's thread finds out for operators: the number of records, the size of the file, and problems.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::core::GdbmCore;
use super::file::header::Header;
use super::keeper::{PAUSE, SLICE};
use super::walk::{KeyWalk, lower_case_digest};
use crate::record::Timestamp;

/// Number of keys that are checked at the start.
const SAMPLE: u32 = 1000;
/// Time for which buckets are read ahead of a slice of a count.
const READ_AHEAD: Duration = Duration::from_millis(20);

impl GdbmCore {
    /// Brings the condition up to date: the size of the file, whether it is still at its path, and whether changes are
    /// still refused for lack of room, which may have ended without a change.
    pub(super) fn refresh(&self) {
        if let Ok(Some(header)) = Header::read(&self.file) {
            self.condition.measured(header.next_block);
        }
        self.warn_if_file_is_gone();
        if self.condition.is_unreserved()
            && let Some(open) = self.lock().as_mut()
        {
            open.admit(&self.path, Timestamp::now());
        }
    }

    /// Counts the records, in slices. After this the number is known, and changes keep it up to date.
    pub(super) fn count_records(&self, next_sync: &mut Instant) {
        while !self.stops_before(Instant::now() + PAUSE, false) {
            self.sync_if_due(next_sync);
            // Reads what the slice will need without the lock, so that no request waits for the disk meanwhile.
            let Some(mut ahead) = self.lock().as_ref().map(|open| open.keys.clone()) else { return };
            let (start, mut buckets) = (Instant::now(), 1);
            while start.elapsed() < READ_AHEAD && matches!(ahead.step(&self.file), Ok(false)) {
                buckets += 1;
            }
            let mut guard = self.lock();
            let Some(open) = guard.as_mut() else { return };
            let start = Instant::now();
            while buckets > 0 && start.elapsed() < SLICE {
                buckets -= 1;
                match open.keys.step(&self.file) {
                    Ok(false) => {}
                    Ok(true) => {
                        self.condition.counted(open.keys.total());
                        return;
                    }
                    Err(error) => {
                        warn!("cannot count the records of the database {}: {error}", self.path.display());
                        return;
                    }
                }
            }
        }
    }

    /// Logs, once, that the file was deleted, moved or replaced while it is open.
    pub(super) fn warn_if_file_is_gone(&self) {
        let Ok(open) = self.file.metadata() else { return };
        if self.location.is_there(&self.file) {
            self.condition.located(None);
            return;
        }
        let path = self.path.display();
        let is_removed = open.nlink() == 0;
        let problem = if is_removed {
            format!(
                "the database {path} was deleted: still writing to the deleted file, whose contents are lost when the \
                 server exits"
            )
        } else {
            format!("the database {path} was moved or replaced: still writing to the original file")
        };
        match self.is_gone.swap(true, Ordering::Relaxed) {
            true => {}
            false if is_removed => error!("{problem}"),
            false => warn!("{problem}"),
        }
        self.condition.located(Some(problem));
    }

    /// Warns if one of the first keys is not a lower-case digest. Works in slices, because each key may have to be read
    /// from the disk.
    pub(super) fn warn_of_foreign_keys(&self) {
        let mut walk = KeyWalk::default();
        let mut left = SAMPLE;
        while left > 0 && !self.stops_before(Instant::now() + PAUSE, false) {
            let mut guard = self.lock();
            let Some(open) = guard.as_mut() else { return };
            let start = Instant::now();
            while left > 0 && start.elapsed() < SLICE {
                match walk.next(&mut open.handle) {
                    Ok(Some(key)) if lower_case_digest(key).is_some() => left -= 1,
                    Ok(Some(_)) => {
                        let problem = format!(
                            "the database {} has keys that are not lower-case digests, which are ignored: migrate to \
                             another database with pyzor-migrate to repair, merge or skip them",
                            self.path.display()
                        );
                        warn!("{problem}");
                        self.condition.has_foreign_keys(problem);
                        return;
                    }
                    Ok(None) => return,
                    Err(error) => {
                        self.report_error(open, &error);
                        return;
                    }
                }
            }
        }
    }
}
