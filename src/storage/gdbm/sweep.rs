//! Walking a database in bounded slices: expiry, and the look for foreign keys.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::codec::Stored;
use super::file::handle::{GdbmError, Handle};
use super::file::open_file::Open;
use crate::record::Timestamp;
use pyzor_wire::digest::Digest;

/// The smallest size of a key's place in a bucket of the file format; a bucket of one block holds
/// no more keys than fit by it.
pub(super) const ELEMENT_SIZE: usize = 16;

/// One walk through a whole database that deletes what has expired.
///
/// Deleting moves other keys within their bucket, and a walk through that bucket would then miss
/// some. So an expired key is deleted only when the walk has left its bucket for certain, which is
/// when it has met more keys since than a bucket can hold.
pub(super) struct Sweep {
    horizon: Timestamp,
    walk: Walk,
    walked: u64,
    expired: VecDeque<(u64, Digest)>,
    distance: u64,
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

/// A walk over all keys, in the file's own order.
#[derive(Debug, Default)]
pub(super) struct Walk {
    position: Position,
}

/// How far a walk has come.
#[derive(Debug, Default)]
enum Position {
    #[default]
    Start,
    At(Vec<u8>),
    End,
}

impl Walk {
    /// The next key; none at the end.
    pub(super) fn next(&mut self, handle: &mut Handle) -> Result<Option<&[u8]>, GdbmError> {
        let (key, found) = match std::mem::take(&mut self.position) {
            Position::Start => {
                let mut key = Vec::new();
                let found = handle.first_key(&mut key)?;
                (key, found)
            }
            Position::At(mut key) => {
                let found = handle.next_key(&mut key)?;
                (key, found)
            }
            Position::End => (Vec::new(), false),
        };
        self.position = if found { Position::At(key) } else { Position::End };
        match &self.position {
            Position::At(key) => Ok(Some(key)),
            _ => Ok(None),
        }
    }
}

impl Sweep {
    /// A sweep that deletes what changed last before `horizon`.
    pub(super) fn new(horizon: Timestamp, block_size: usize) -> Self {
        Self {
            horizon,
            walk: Walk::default(),
            walked: 0,
            expired: VecDeque::new(),
            distance: (block_size / ELEMENT_SIZE) as u64 + 1,
            deleted: 0,
            damaged: 0,
            foreign: 0,
            longest: Duration::ZERO,
        }
    }

    /// How many records the walk has met.
    pub(super) fn walked(&self) -> u64 {
        self.walked
    }

    /// Goes on for about `bound`. Says whether the walk is finished.
    pub(super) fn slice(
        &mut self,
        open: &mut Open,
        path: &Path,
        bound: Duration,
    ) -> Result<bool, SweepError> {
        let start = Instant::now();
        let finished = loop {
            if self.delete_one(open, path, self.distance)? {
                // One operation at a time: each may have to wait for the disk.
            } else if !self.walk_one(open)? {
                while start.elapsed() < bound && self.delete_one(open, path, 0)? {}
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
    fn walk_one(&mut self, open: &mut Open) -> Result<bool, SweepError> {
        let Some(key) = self.walk.next(&mut open.handle)? else { return Ok(false) };
        self.walked += 1;
        match lower_case_digest(key) {
            None => self.foreign += 1,
            Some(_) if !open.handle.fetch(key, &mut open.value)? => {}
            Some(digest) => match Stored::decode(&open.value) {
                None => self.damaged += 1,
                Some(stored) if self.is_expired(open, &stored) => {
                    self.expired.push_back((self.walked, digest));
                }
                Some(_) => {}
            },
        }
        Ok(true)
    }

    /// Deletes the oldest expired record if the walk is `distance` keys behind it; says whether
    /// there was one so far back.
    fn delete_one(&mut self, open: &mut Open, path: &Path, distance: u64) -> Result<bool, SweepError> {
        let Some((_, digest)) =
            self.expired.front().copied().filter(|(met, _)| self.walked - met >= distance)
        else {
            return Ok(false);
        };
        self.expired.pop_front();
        let key = digest.to_hex();
        // It may have been reported in the meantime.
        let still = open.handle.fetch(&key, &mut open.value)?
            && Stored::decode(&open.value).is_some_and(|stored| self.is_expired(open, &stored));
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

    fn is_expired(&self, open: &Open, stored: &Stored) -> bool {
        stored.record(open.calendar.zone()).last_change().is_some_and(|last| last < self.horizon)
    }
}

/// The moment before which a last change has expired.
pub(super) fn horizon(age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(Timestamp::now().micros().saturating_sub(age))
}

/// The digest whose lower-case text a key is.
pub(super) fn lower_case_digest(key: &[u8]) -> Option<Digest> {
    Digest::from_hex(key).filter(|digest| digest.to_hex() == key)
}
