//! Deleting expired records, in bounded slices.

use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::codec::StoredRecord;
use super::file::handle::GdbmError;
use super::open_file::OpenFile;
use super::walk::{DelayedDeletions, KeyWalk, lower_case_digest};
use crate::record::Timestamp;
use pyzor_wire::digest::Digest;

/// One walk through a whole database that deletes what has expired, once the walk has left it behind.
pub(super) struct ExpirySweep {
    horizon: Timestamp,
    walk: KeyWalk,
    expired: DelayedDeletions<Digest>,
    /// How many records were deleted.
    pub(super) deleted: u64,
    /// How many could not be decoded and were left alone.
    pub(super) damaged: u64,
    /// How many keys are no lower-case digests and were left alone.
    pub(super) foreign: u64,
    /// The longest time that a slice took.
    pub(super) longest: Duration,
}

/// Why a sweep cannot go on.
#[derive(Debug, Error)]
pub(super) enum SweepError {
    /// The library says so.
    #[error("{0}")]
    Gdbm(#[from] GdbmError),
    /// Deleting makes the file grow, and its disk is full.
    #[error("there is no room on its disk, which even deleting needs")]
    NoRoom,
}

impl ExpirySweep {
    /// A sweep that deletes what changed last before `horizon`.
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

    /// How many records the walk has met.
    pub(super) fn walked(&self) -> u64 {
        self.walk.met()
    }

    /// Goes on for about `bound`. Says whether the walk is finished.
    pub(super) fn slice(
        &mut self,
        open: &mut OpenFile,
        path: &Path,
        bound: Duration,
    ) -> Result<bool, SweepError> {
        let start = Instant::now();
        let finished = loop {
            if self.delete_one(open, path, Some(self.walk.met()))? {
                // One operation at a time: each may have to wait for the disk.
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

    /// Looks at one more record; says whether there was one.
    fn walk_one(&mut self, open: &mut OpenFile) -> Result<bool, SweepError> {
        let Some(key) = self.walk.next(&mut open.handle)? else { return Ok(false) };
        match lower_case_digest(key) {
            None => self.foreign += 1,
            Some(_) if !open.handle.fetch(key, &mut open.value)? => {}
            Some(digest) => match StoredRecord::decode(&open.value) {
                None => self.damaged += 1,
                Some(stored) if self.is_expired(open, &stored) => {
                    self.expired.push(self.walk.met(), digest);
                }
                Some(_) => {}
            },
        }
        Ok(true)
    }

    /// Deletes the oldest expired record that a walk which has met so many keys has left behind, or the oldest of
    /// all without one; says whether there was one.
    fn delete_one(&mut self, open: &mut OpenFile, path: &Path, met: Option<u64>) -> Result<bool, SweepError> {
        let Some(digest) = self.expired.pop(met) else { return Ok(false) };
        let key = digest.to_hex();
        // It may have been reported in the meantime.
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
            open.dirty = true;
        }
        Ok(true)
    }

    fn is_expired(&self, open: &OpenFile, stored: &StoredRecord) -> bool {
        stored.record(open.calendar.zone()).last_change().is_some_and(|last| last < self.horizon)
    }
}

/// The moment before which a last change has expired.
pub(super) fn horizon(age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(Timestamp::now().micros().saturating_sub(age))
}
