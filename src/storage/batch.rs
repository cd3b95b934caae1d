//! What is asked of an engine at once: look-ups and increments, merged by digest.
//!
//! The replies of a batch are as if its requests ran one by one. The engine sees every digest
//! once: it reads the record as it was before the batch and then counts all increments of the
//! batch. A look-up that came behind some of them is answered from the record plus those.

use std::collections::HashMap;
use std::time::Instant;

use super::StorageError;
use crate::record::{Record, TallyKind, Timestamp};
use pyzor_wire::digest::Digest;

/// All that a batch wants of one digest, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct BatchEntry {
    /// The digest.
    pub digest: Digest,
    /// Whether the record is wanted as it was before this batch.
    pub look_up: bool,
    /// Whether the record's times are wanted as well. An engine may leave them out otherwise.
    pub times: bool,
    /// By how much to raise the reports.
    pub reports: u32,
    /// By how much to raise the whitelistings.
    pub whitelists: u32,
    /// What the look-up found; the default record where nothing is stored.
    pub found: Result<Record, StorageError>,
    /// What became of the reports.
    pub reported: Result<(), StorageError>,
    /// What became of the whitelistings.
    pub whitelisted: Result<(), StorageError>,
}

impl BatchEntry {
    /// Says the same of everything that is asked for the digest.
    pub fn fail(&mut self, error: StorageError) {
        self.found = Err(error);
        self.reported = Err(error);
        self.whitelisted = Err(error);
    }

    /// Whether anything is to be counted.
    pub fn changes(&self) -> bool {
        self.reports > 0 || self.whitelists > 0
    }
}

/// A place in a batch where the answer to one look-up will be.
#[derive(Clone, Copy, Debug)]
pub struct LookUp {
    entry: u32,
    reports_before: u32,
    whitelists_before: u32,
}

/// A place in a batch where the outcome of one increment will be.
#[derive(Clone, Copy, Debug)]
pub struct Increment {
    entry: u32,
    kind: TallyKind,
}

/// Look-ups and increments for an engine, and then their outcomes.
#[derive(Debug, Default)]
pub struct Batch {
    entries: Vec<BatchEntry>,
    places: HashMap<Digest, u32>,
    now: Timestamp,
    since: Option<Instant>,
}

impl Batch {
    /// Empties the batch for new requests, which all count as made at `now`; the oldest of them came at
    /// `since`.
    pub fn restart(&mut self, now: Timestamp, since: Instant) {
        self.entries.clear();
        self.places.clear();
        self.now = now;
        self.since = Some(since);
    }

    /// When the oldest request came.
    pub fn since(&self) -> Instant {
        self.since.unwrap_or_else(Instant::now)
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The moment of all changes.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Every digest once, with what is asked for it.
    pub fn entries(&self) -> &[BatchEntry] {
        &self.entries
    }

    /// Every digest once, for an engine to fill in the outcomes.
    pub fn entries_mut(&mut self) -> &mut [BatchEntry] {
        &mut self.entries
    }

    /// What is asked for this digest; nothing if it is none of the batch.
    pub fn entry_mut(&mut self, digest: &Digest) -> Option<&mut BatchEntry> {
        let place = *self.places.get(digest)?;
        self.entries.get_mut(place as usize)
    }

    /// Asks for a digest's record as it is after everything asked so far.
    pub fn look_up(&mut self, digest: Digest) -> LookUp {
        let look_up = self.look_up_counts(digest);
        self.entries[look_up.entry as usize].times = true;
        look_up
    }

    /// Asks for a digest's counts as they are after everything asked so far. The record that is found
    /// may lack its times.
    pub fn look_up_counts(&mut self, digest: Digest) -> LookUp {
        let place = self.place(digest);
        let entry = &mut self.entries[place as usize];
        entry.look_up = true;
        LookUp { entry: place, reports_before: entry.reports, whitelists_before: entry.whitelists }
    }

    /// Asks for one more report or whitelisting of a digest.
    pub fn increment(&mut self, digest: Digest, kind: TallyKind) -> Increment {
        let place = self.place(digest);
        let entry = &mut self.entries[place as usize];
        match kind {
            TallyKind::Report => entry.reports += 1,
            TallyKind::Whitelist => entry.whitelists += 1,
        }
        Increment { entry: place, kind }
    }

    /// What a look-up found. `limit` is the engine's highest count.
    ///
    /// # Errors
    ///
    /// What failed for the digest.
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

    /// What became of an increment.
    ///
    /// # Errors
    ///
    /// What failed for the digest; nothing was counted then.
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
                // An engine that forgets an entry must not make a success of it.
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
    fn a_look_up_sees_what_came_before_it_in_the_batch_and_nothing_later() {
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
    fn a_look_up_does_not_see_an_increment_that_failed() {
        let mut batch = batch();
        let increment = batch.increment(digest(1), TallyKind::Report);
        let look_up = batch.look_up(digest(1));
        batch.entries_mut()[0].found = Ok(Record::default());
        assert_eq!(batch.counted(increment), Err(StorageError::Unavailable));
        assert_eq!(batch.found(look_up, i64::MAX), Ok(Record::default()));
    }

    #[test]
    fn an_outcome_that_an_engine_forgot_is_a_failure() {
        let mut batch = batch();
        let look_up = batch.look_up(digest(1));
        assert_eq!(batch.found(look_up, i64::MAX), Err(StorageError::Unavailable));
    }
}
