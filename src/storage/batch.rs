//! A batch: look-ups and increments that an engine runs together, merged by digest.
//!
//! The replies of a batch are the same as if its requests ran one by one. The engine gets every digest once: it reads
//! the record as it was before the batch and then applies all increments. A look-up that came after some of them is
//! answered with the record plus those.

use std::collections::HashMap;
use std::time::Instant;

use super::StorageError;
use crate::record::{Record, TallyKind, Timestamp};
use pyzor_wire::digest::Digest;

/// The requests of a batch for one digest, and their outcomes.
#[derive(Clone, Copy, Debug)]
pub struct BatchEntry {
    /// The digest.
    pub digest: Digest,
    /// Whether the record before this batch is requested.
    pub look_up: bool,
    /// Whether the record's times are requested. Otherwise an engine may leave them out.
    pub times: bool,
    /// Number of reports to add.
    pub reports: u32,
    /// Number of whitelistings to add.
    pub whitelists: u32,
    /// Outcome of the look-up; the default record if nothing is stored.
    pub found: Result<Record, StorageError>,
    /// Outcome of the reports.
    pub reported: Result<(), StorageError>,
    /// Outcome of the whitelistings.
    pub whitelisted: Result<(), StorageError>,
}

impl BatchEntry {
    /// Sets all outcomes of the digest to an error.
    pub fn fail(&mut self, error: StorageError) {
        self.found = Err(error);
        self.reported = Err(error);
        self.whitelisted = Err(error);
    }

    /// Marks the changes that are not known to be counted as in doubt.
    pub(super) fn doubt(&mut self) {
        for outcome in [&mut self.reported, &mut self.whitelisted] {
            if outcome.is_err() {
                *outcome = Err(StorageError::InDoubt);
            }
        }
    }

    /// Returns whether there is anything to add.
    pub fn changes(&self) -> bool {
        self.reports > 0 || self.whitelists > 0
    }
}

/// A token for the outcome of one look-up of a batch.
#[derive(Clone, Copy, Debug)]
pub struct LookUp {
    entry: u32,
    reports_before: u32,
    whitelists_before: u32,
}

/// A token for the outcome of one increment of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Increment {
    entry: u32,
    kind: TallyKind,
}

/// Look-ups and increments for an engine, with their outcomes.
#[derive(Debug, Default)]
pub struct Batch {
    entries: Vec<BatchEntry>,
    places: HashMap<Digest, u32>,
    now: Timestamp,
    since: Option<Instant>,
}

impl Batch {
    /// Empties the batch for new requests. All of them count as made at `now`; the oldest was received at `since`.
    pub fn restart(&mut self, now: Timestamp, since: Instant) {
        self.entries.clear();
        self.places.clear();
        self.now = now;
        self.since = Some(since);
    }

    /// Returns the time at which the oldest request was received.
    pub fn since(&self) -> Instant {
        self.since.unwrap_or_else(Instant::now)
    }

    /// Returns whether there are no requests.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the time of all changes.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Returns one entry for each digest.
    pub fn entries(&self) -> &[BatchEntry] {
        &self.entries
    }

    /// Returns one entry for each digest, so that an engine can set the outcomes.
    pub fn entries_mut(&mut self) -> &mut [BatchEntry] {
        &mut self.entries
    }

    /// Returns the entry of a digest, or none if the batch does not contain it.
    pub fn entry_mut(&mut self, digest: &Digest) -> Option<&mut BatchEntry> {
        let place = *self.places.get(digest)?;
        self.entries.get_mut(place as usize)
    }

    /// Adds a look-up of a digest's record, as it is after all requests added so far.
    pub fn look_up(&mut self, digest: Digest) -> LookUp {
        let look_up = self.look_up_counts(digest);
        self.entries[look_up.entry as usize].times = true;
        look_up
    }

    /// Adds a look-up of a digest's counts, as they are after all requests added so far. The record found may lack its
    /// times.
    pub fn look_up_counts(&mut self, digest: Digest) -> LookUp {
        let place = self.place(digest);
        let entry = &mut self.entries[place as usize];
        entry.look_up = true;
        LookUp { entry: place, reports_before: entry.reports, whitelists_before: entry.whitelists }
    }

    /// Adds one report or whitelisting of a digest.
    pub fn increment(&mut self, digest: Digest, kind: TallyKind) -> Increment {
        let place = self.place(digest);
        let entry = &mut self.entries[place as usize];
        match kind {
            TallyKind::Report => entry.reports += 1,
            TallyKind::Whitelist => entry.whitelists += 1,
        }
        Increment { entry: place, kind }
    }

    /// Returns the outcome of a look-up. `limit` is the engine's highest count.
    ///
    /// # Errors
    ///
    /// The error that the engine set for the digest.
    pub fn found(&self, look_up: LookUp, limit: i64) -> Result<Record, StorageError> {
        let entry = &self.entries[look_up.entry as usize];
        let mut record = entry.found?;
        if look_up.reports_before > 0 && entry.reported.is_ok() {
            record.reports.add(look_up.reports_before, self.now, limit);
        }
        if look_up.whitelists_before > 0 && entry.whitelisted.is_ok() {
            record.whitelists.add(look_up.whitelists_before, self.now, limit);
        }
        Ok(record)
    }

    /// Returns the outcome of an increment.
    ///
    /// # Errors
    ///
    /// The error that the engine set for the digest. A reported failure may have been counted, once at most.
    pub fn counted(&self, increment: Increment) -> Result<(), StorageError> {
        let entry = &self.entries[increment.entry as usize];
        match increment.kind {
            TallyKind::Report => entry.reported,
            TallyKind::Whitelist => entry.whitelisted,
        }
    }

    fn place(&mut self, digest: Digest) -> u32 {
        let next = self.entries.len() as u32;
        let place = *self.places.entry(digest).or_insert(next);
        if place == next {
            self.entries.push(BatchEntry {
                digest,
                look_up: false,
                times: false,
                reports: 0,
                whitelists: 0,
                // An entry that an engine forgets must count as failed.
                found: Err(StorageError::Unavailable),
                reported: Err(StorageError::Unavailable),
                whitelisted: Err(StorageError::Unavailable),
            });
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Tally;

    const NOW: Timestamp = Timestamp::from_seconds(100);

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 20])
    }

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.restart(NOW, Instant::now());
        batch
    }

    #[test]
    fn increments_of_one_digest_are_merged() {
        let mut batch = batch();
        for _ in 0..3 {
            batch.increment(digest(1), TallyKind::Report);
        }
        batch.increment(digest(1), TallyKind::Whitelist);
        batch.increment(digest(2), TallyKind::Report);
        let asked: Vec<_> = batch
            .entries()
            .iter()
            .map(|entry| (entry.digest, entry.look_up, entry.reports, entry.whitelists))
            .collect();
        assert_eq!(asked, [(digest(1), false, 3, 1), (digest(2), false, 1, 0)]);
    }

    #[test]
    fn look_up_sees_the_increments_before_it_and_none_after_it() {
        let mut batch = batch();
        let before = batch.look_up(digest(1));
        batch.increment(digest(1), TallyKind::Report);
        let between = batch.look_up(digest(1));
        batch.increment(digest(1), TallyKind::Report);
        batch.increment(digest(1), TallyKind::Whitelist);
        let after = batch.look_up(digest(1));
        let entry = &mut batch.entries_mut()[0];
        let stored = Tally {
            count: 5,
            first: Some(Timestamp::from_seconds(1)),
            last: Some(Timestamp::from_seconds(2)),
        };
        entry.found = Ok(Record { reports: stored, whitelists: Tally::default() });
        (entry.reported, entry.whitelisted) = (Ok(()), Ok(()));
        let seen = |look_up| {
            let record = batch.found(look_up, i64::MAX).unwrap();
            (record.reports.count, record.reports.last, record.whitelists.count, record.whitelists.first)
        };
        assert_eq!(seen(before), (5, stored.last, 0, None));
        assert_eq!(seen(between), (6, Some(NOW), 0, None));
        assert_eq!(seen(after), (7, Some(NOW), 1, Some(NOW)));
    }

    #[test]
    fn look_up_does_not_see_a_failed_increment() {
        let mut batch = batch();
        let increment = batch.increment(digest(1), TallyKind::Report);
        let look_up = batch.look_up(digest(1));
        batch.entries_mut()[0].found = Ok(Record::default());
        assert_eq!(batch.counted(increment), Err(StorageError::Unavailable));
        assert_eq!(batch.found(look_up, i64::MAX), Ok(Record::default()));
    }

    #[test]
    fn outcome_that_the_engine_did_not_set_is_a_failure() {
        let mut batch = batch();
        let look_up = batch.look_up(digest(1));
        assert_eq!(batch.found(look_up, i64::MAX), Err(StorageError::Unavailable));
    }
}
