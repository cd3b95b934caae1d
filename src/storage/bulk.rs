//! Work on all records of a database, for pyzor-migrate: batches are large, and latency does not matter.
//!
//! An error of one record is part of its outcome. An error of the database ends the work; it can be started again later
//! and loses nothing.

use jiff::tz::TimeZone;
use thiserror::Error;

use super::BoxFuture;
pub use super::drivers::open_bulk as open;
use crate::record::{Record, Tally, Timestamp};
use pyzor_wire::digest::Digest;

/// A key and its stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key in the database, without the prefix of all keys.
    pub key: Vec<u8>,
    /// The value in the engine's own form, with which the engine recognizes a later change.
    pub held: Vec<u8>,
    /// The decoded value, or the reason why it is not a record.
    pub record: Result<Record, String>,
}

/// A position in a database at which a scan continues. Each engine has its own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// One page of a scan.
#[derive(Debug, Default)]
pub struct Items {
    /// The items found.
    pub items: Vec<Item>,
    /// The position of the next page; none at the end.
    pub next: Option<Cursor>,
}

/// A record to store.
#[derive(Clone, Debug)]
pub struct Put {
    /// The digest.
    pub digest: Digest,
    /// The record.
    pub record: Record,
    /// The time at which it expires, in engines whose store deletes expired records; none: never.
    pub expires: Option<Timestamp>,
    /// The value in a source of the same engine, which may be more exact than `record`.
    pub held: Option<Vec<u8>>,
}

/// A record to add to the stored one.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The digest.
    pub digest: Digest,
    /// The counts to add. An earlier first time or a later last time replaces the stored one.
    pub record: Record,
    /// The item last read under this digest.
    pub seen: Option<Item>,
    /// The time at which the sum expires; see [`Put::expires`].
    pub expires: Option<Timestamp>,
    /// The value to store if there is none yet; see [`Put::held`].
    pub held: Option<Vec<u8>>,
}

/// The outcome of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// The change was made.
    Done,
    /// The change was not made, because the stored value is no longer the expected one.
    Changed,
    /// The change was not made, for a reason that concerns only this record.
    Refused(String),
}

/// An error that ends the work on a database: one line that names it, without a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BulkError(pub String);

/// The purpose for which a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkPurpose {
    /// Read, and change nothing at all.
    Look,
    /// Read. A file that was not closed may be repaired.
    Read,
    /// Read, and delete records.
    Empty,
    /// Write. A missing database is created.
    Fill,
}

/// The future of an operation on a database.
pub type BulkFuture<'a, T> = BoxFuture<'a, Result<T, BulkError>>;

/// A database opened for work on all of its records. Batches may have any size.
pub trait Bulk: Send + Sync {
    /// Returns the engine's name.
    fn engine(&self) -> &'static str;

    /// Returns a description of the database, without a password.
    fn describe(&self) -> String;

    /// Returns names of which another database has one if, and only if, it is the same database. `token` is a secret of
    /// this run: the database with `first` may leave it on its server, where the second one then finds it.
    fn identity(&self, token: &str, first: bool) -> BulkFuture<'_, Vec<String>>;

    /// Returns names by which a later run recognizes the database, even under another address and after a restart of
    /// its server. Other databases may share some of them.
    fn names(&self) -> BulkFuture<'_, Vec<String>>;

    /// Returns the time zone of the stored dates, or none if times are stored without a time zone.
    fn zone(&self) -> Option<TimeZone>;

    /// Returns whether the store may still execute operations that a killed process has sent.
    fn has_stragglers(&self) -> bool;

    /// Returns the approximate number of records, or none if counting takes long.
    fn estimate(&self) -> BulkFuture<'_, Option<u64>>;

    /// Returns whether times are stored in whole seconds, so that two changes can have the same time.
    fn has_whole_seconds(&self) -> bool;

    /// Returns the nearest record within the limits of the numbers that can be stored.
    fn clamp(&self, record: &Record) -> Record;

    /// Returns the records that reading returns after these were stored.
    fn read_back(&self, records: Vec<Record>) -> BulkFuture<'_, Vec<Record>>;

    /// Returns up to about `limit` items, from the start or from where an earlier page ended. A scan returns every item
    /// that exists during the whole scan, and may return some twice; see [`Bulk::repeats`].
    fn scan(&self, from: Option<Cursor>, limit: usize) -> BulkFuture<'_, Items>;

    /// Returns the item of each key.
    fn read(&self, keys: Vec<Vec<u8>>) -> BulkFuture<'_, Vec<Option<Item>>>;

    /// Stores records, replacing old ones.
    fn store(&self, records: Vec<Put>) -> BulkFuture<'_, Vec<ChangeOutcome>>;

    /// Adds records, each completely or not at all. An engine that compares first returns [`ChangeOutcome::Changed`] if
    /// the stored value is no longer [`Addition::seen`].
    fn add(&self, additions: Vec<Addition>) -> BulkFuture<'_, Vec<ChangeOutcome>>;

    /// Deletes items whose stored value has not changed.
    fn delete(&self, items: Vec<Item>) -> BulkFuture<'_, Vec<ChangeOutcome>>;

    /// Makes all changes durable, unless the store does so without a request.
    fn sync(&self) -> BulkFuture<'_, ()>;

    /// Returns whether changes are durable only after [`Bulk::bring_to_disk`], which takes too long to be called
    /// after each batch.
    fn is_lazy(&self) -> bool {
        false
    }

    /// Fails if the store keeps its data only in memory.
    fn refuse_volatile(&self) -> BulkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Waits until all changes are on a disk, which can take as long as writing the whole database.
    fn bring_to_disk(&self) -> BulkFuture<'_, ()> {
        self.sync()
    }

    /// Returns whether a scan may return a key twice.
    fn repeats(&self) -> bool {
        false
    }

    /// Ends all work. A database that is not closed may need a repair by the next process that opens it.
    fn close(&self) -> BulkFuture<'_, ()>;
}

/// Returns the sum of two records of one digest, with the earliest first and the latest last time.
pub fn united(one: &Record, another: &Record) -> Record {
    let tally = |one: &Tally, another: &Tally| Tally {
        count: one.count.saturating_add(another.count),
        first: match (one.first, another.first) {
            (Some(one), Some(another)) => Some(one.min(another)),
            (one, another) => one.or(another),
        },
        last: one.last.max(another.last),
    };
    Record {
        reports: tally(&one.reports, &another.reports),
        whitelists: tally(&one.whitelists, &another.whitelists),
    }
}

/// Applies a function to both tallies of a record, with their index.
pub(super) fn map_tallies(record: &Record, mut change: impl FnMut(usize, &Tally) -> Tally) -> Record {
    Record { reports: change(0, &record.reports), whitelists: change(1, &record.whitelists) }
}

/// Applies a function to both times of a tally.
pub(super) fn map_times(tally: &Tally, change: impl Fn(Timestamp) -> Option<Timestamp>) -> Tally {
    Tally { count: tally.count, first: tally.first.and_then(&change), last: tally.last.and_then(&change) }
}
