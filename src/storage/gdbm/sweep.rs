//! Walking a database in bounded slices: expiry, and the look for foreign keys.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Open;
use super::codec::Stored;
use super::handle::GdbmError;
use crate::digest::Digest;
use crate::record::Timestamp;

/// The smallest size of a key's place in a bucket of the file format; a bucket of one block holds
/// no more keys than fit by it.
const ELEMENT_SIZE: usize = 16;

/// One walk through a whole database that deletes what has expired.
///
/// Deleting moves other keys within their bucket, and a walk through that bucket would then miss
/// some. So an expired key is deleted only when the walk has left its bucket for certain, which is
/// when it has met more keys since than a bucket can hold.
pub(super) struct Sweep {
    horizon: Timestamp,
    position: Position,
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

/// How far a walk has come.
enum Position {
    Start,
    At(Vec<u8>),
    End,
}

impl Sweep {
    /// A sweep that deletes what changed last before `horizon`.
    pub(super) fn new(horizon: Timestamp, block_size: usize) -> Self {
        Self {
            horizon,
            position: Position::Start,
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
    pub(super) fn slice(&mut self, open: &mut Open, bound: Duration) -> Result<bool, GdbmError> {
        let start = Instant::now();
        let finished = loop {
            if self.delete_one(open, self.distance)? {
                // One operation at a time: each may have to wait for the disk.
            } else if !self.walk_one(open)? {
                while start.elapsed() < bound && self.delete_one(open, 0)? {}
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
    fn walk_one(&mut self, open: &mut Open) -> Result<bool, GdbmError> {
        let (key, found) = match std::mem::replace(&mut self.position, Position::End) {
            Position::Start => {
                let mut key = Vec::new();
                let found = open.handle.first_key(&mut key)?;
                (key, found)
            }
            Position::At(mut key) => {
                let found = open.handle.next_key(&mut key)?;
                (key, found)
            }
            Position::End => return Ok(false),
        };
        if !found {
            return Ok(false);
        }
        self.walked += 1;
        match lower_case_digest(&key) {
            None => self.foreign += 1,
            Some(_) if !open.handle.fetch(&key, &mut open.value)? => {}
            Some(digest) => match Stored::decode(&open.value) {
                None => self.damaged += 1,
                Some(stored) if self.is_expired(open, &stored) => {
                    self.expired.push_back((self.walked, digest));
                }
                Some(_) => {}
            },
        }
        self.position = Position::At(key);
        Ok(true)
    }

    /// Deletes the oldest expired record if the walk is `distance` keys behind it; says whether
    /// there was one so far back.
    fn delete_one(&mut self, open: &mut Open, distance: u64) -> Result<bool, GdbmError> {
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

/// The digest whose lower-case text a key is.
pub(super) fn lower_case_digest(key: &[u8]) -> Option<Digest> {
    Digest::from_hex(key).filter(|digest| digest.to_hex() == key)
}
