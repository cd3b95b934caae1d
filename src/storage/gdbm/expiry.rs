//! Deletion of expired records in bounded slices.

use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::info;

use super::codec::StoredRecord;
use super::file::handle::GdbmError;
use super::open_file::OpenFile;
use super::walk::{DelayedDeletions, KeyWalk, lower_case_digest};
use crate::record::Timestamp;
use pyzor_wire::digest::Digest;

/// One walk through a database that deletes expired records with the delay of [`DelayedDeletions`].
pub(super) struct ExpirySweep {
    horizon: Timestamp,
    walk: KeyWalk,
    expired: DelayedDeletions<Digest>,
    /// Number of records deleted.
    pub(super) deleted: u64,
    /// Number of records that cannot be decoded and stay.
    pub(super) damaged: u64,
    /// Number of keys that are not lower-case digests and stay.
    pub(super) foreign: u64,
    /// Duration of the longest slice.
    pub(super) longest: Duration,
}

/// The reason why a sweep cannot continue.
#[derive(Debug, Error)]
pub(super) enum SweepError {
    /// An error of the library.
    #[error("{0}")]
    Gdbm(#[from] GdbmError),
    /// The disk is full. A deletion can make the file grow.
    #[error("the disk has no room, which even a deletion can need")]
    NoRoom,
}

impl ExpirySweep {
    /// Returns a sweep that deletes records last changed before `horizon`.
    pub(super) fn new(horizon: Timestamp, block_size: usize) -> Self {
        Self {
            horizon,
            walk: KeyWalk::default(),
            expired: DelayedDeletions::new(block_size),
            deleted: 0,
            damaged: 0,
            foreign: 0,
            longest: Duration::ZERO,
        }
    }

    /// Returns the number of keys visited.
    pub(super) fn walked(&self) -> u64 {
        self.walk.visited()
    }

    /// Logs the result of a sweep that took this time.
    pub(super) fn log(&self, taken: Duration) {
        let ignored = |number: u64, what: &str| match number {
            0 => String::new(),
            number => format!("; ignored {number} {what}"),
        };
        info!(
            "Expiry: removed {} of {} records in {:.1} s (longest pause {} µs){}{}",
            self.deleted,
            self.walked(),
            taken.as_secs_f64(),
            self.longest.as_micros(),
            ignored(self.damaged, "damaged records"),
            ignored(self.foreign, "keys that are not lower-case digests"),
        );
    }

    /// Continues for about `bound`. Returns whether the sweep is complete.
    pub(super) fn slice(
        &mut self,
        open: &mut OpenFile,
        path: &Path,
        bound: Duration,
    ) -> Result<bool, SweepError> {
        let start = Instant::now();
        let finished = loop {
            if self.delete_one(open, path, Some(self.walk.visited()))? {
                // One operation per check of the time: each may have to wait for the disk.
            } else if !self.walk_one(open)? {
                while start.elapsed() < bound && self.delete_one(open, path, None)? {}
                break self.expired.is_empty();
            }
            if start.elapsed() >= bound {
                break false;
            }
        };
        self.longest = self.longest.max(start.elapsed());
        Ok(finished)
    }

    /// Visits the next record. Returns false at the end of the file.
    fn walk_one(&mut self, open: &mut OpenFile) -> Result<bool, SweepError> {
        let Some(key) = self.walk.next(&mut open.handle)? else { return Ok(false) };
        match lower_case_digest(key) {
            None => self.foreign += 1,
            Some(_) if !open.handle.fetch(key, &mut open.value)? => {}
            Some(digest) => match StoredRecord::decode(&open.value) {
                None => self.damaged += 1,
                Some(stored) if self.is_expired(open, &stored) => {
                    self.expired.push(self.walk.visited(), digest);
                }
                Some(_) => {}
            },
        }
        Ok(true)
    }

    /// Deletes the oldest pending record that the walk has left behind after visiting so many keys; without a number,
    /// the oldest one. Returns false if there is none.
    fn delete_one(
        &mut self,
        open: &mut OpenFile,
        path: &Path,
        visited: Option<u64>,
    ) -> Result<bool, SweepError> {
        let Some(digest) = self.expired.pop(visited) else { return Ok(false) };
        let key = digest.to_hex();
        // The digest may have been reported since.
        let still = open.handle.fetch(&key, &mut open.value)?
            && StoredRecord::decode(&open.value).is_some_and(|stored| self.is_expired(open, &stored));
        if still && !open.admit(path, Timestamp::now()) {
            return Err(SweepError::NoRoom);
        }
        if still {
            open.cache.forget(&digest);
        }
        if still && open.handle.delete(&key)? {
            self.deleted += 1;
            open.note_change();
            open.note_deleted_key(&key);
        }
        Ok(true)
    }

    fn is_expired(&self, open: &OpenFile, stored: &StoredRecord) -> bool {
        stored.record(open.calendar.zone()).last_change().is_some_and(|last| last < self.horizon)
    }
}

/// Returns the time before which a last change must be for a record to expire now.
pub(super) fn horizon(age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(Timestamp::now().micros().saturating_sub(age))
}
