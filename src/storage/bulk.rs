//! Databases as a whole, for a program that moves records: nothing is served meanwhile, batches are
//! large, and an answer may take its time.
//!
//! What goes wrong with one record is told with it. What goes wrong with the database ends the work:
//! whoever moves records begins again later, and nothing has been lost.

use jiff::tz::TimeZone;
use thiserror::Error;

use super::BoxFuture;
pub use super::drivers::open_bulk as open;
use crate::record::{Record, Tally, Timestamp};
use pyzor_wire::digest::Digest;

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key as it is in the database, without what all keys begin with.
    pub key: Vec<u8>,
    /// What was found there, in a form of the engine's own, from which it tells whether it still is.
    pub held: Vec<u8>,
    /// The same as a record, or why it is none.
    pub record: Result<Record, String>,
}

/// A place in the middle of a database from which a scan goes on; each engine has its own form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// Some items of a database.
#[derive(Debug, Default)]
pub struct Items {
    /// What was found.
    pub items: Vec<Item>,
    /// Where to go on; none at the end.
    pub next: Option<Cursor>,
}

/// A record to be stored.
#[derive(Clone, Debug)]
pub struct Put {
    /// Its digest.
    pub digest: Digest,
    /// The record.
    pub record: Record,
    /// When it is to expire, where the engine lets records expire by themselves; none: never.
    pub expires: Option<Timestamp>,
    /// What held it in a database of the same engine, which may be more exact than the record.
    pub held: Option<Vec<u8>>,
}

/// A record to be added to what is stored.
#[derive(Clone, Debug)]
pub struct Addition {
    /// Its digest.
    pub digest: Digest,
    /// The counts to add; times before the first or behind the last that are stored replace them.
    pub record: Record,
    /// What was found under the digest when it was looked at last.
    pub seen: Option<Item>,
    /// As with [`Put::expires`], for what the sum is.
    pub expires: Option<Timestamp>,
    /// As with [`Put::held`], for where nothing is stored.
    pub held: Option<Vec<u8>>,
}

/// What became of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// It was made.
    Done,
    /// It was not, since something else is stored by now.
    Changed,
    /// It was not, for this reason, which is one of this record alone.
    Refused(String),
}

/// Why no more work can be done on a database: one line that names it, without a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BulkError(pub String);

/// What is to be done with a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkPurpose {
    /// To be looked at, and not to be touched in any way.
    Look,
    /// To be read; what a killed process left behind may be repaired.
    Read,
    /// To be read, and records to be deleted.
    Empty,
    /// To be written to; it is created if it is not there.
    Fill,
}

/// Work on a database under way or done.
pub type BulkFuture<'a, T> = BoxFuture<'a, Result<T, BulkError>>;

/// A database as a whole. All batches may have any size.
pub trait Bulk: Send + Sync {
    /// The engine's name.
    fn engine(&self) -> &'static str;

    /// The database, for people. Never contains a password.
    fn describe(&self) -> String;

    /// Names of which another database has one if, and only if, it is the same. The token is known to
    /// nobody else; the database that is asked first may leave it with its server, for the other to find.
    fn identity(&self, token: &str, first: bool) -> BulkFuture<'_, Vec<String>>;

    /// Names by which the database can be known again, also by another spelling of it and after its server was started
    /// anew. Another one may have some of them.
    fn names(&self) -> BulkFuture<'_, Vec<String>>;

    /// The time zone of the dates in it; none if its times have no zone.
    fn zone(&self) -> Option<TimeZone>;

    /// Whether it may still do what a process that has been killed has sent before.
    fn has_stragglers(&self) -> bool;

    /// About how many records there are; none if that would take long to find out.
    fn estimate(&self) -> BulkFuture<'_, Option<u64>>;

    /// Whether times are whole seconds, so that two changes can have the same one.
    fn has_whole_seconds(&self) -> bool;

    /// The nearest record that can be stored, as far as limits of numbers are concerned.
    fn clamp(&self, record: &Record) -> Record;

    /// What reading gives back of records that have been stored.
    fn read_back(&self, records: Vec<Record>) -> BulkFuture<'_, Vec<Record>>;

    /// Some items from the start or from where an earlier scan stopped. What is there during the whole
    /// of a scan is met, some of it twice.
    fn scan(&self, from: Option<Cursor>, limit: usize) -> BulkFuture<'_, Items>;

    /// What is stored under each of these keys.
    fn read(&self, keys: Vec<Vec<u8>>) -> BulkFuture<'_, Vec<Option<Item>>>;

    /// Stores records, replacing what is there.
    fn store(&self, records: Vec<Put>) -> BulkFuture<'_, Vec<ChangeOutcome>>;

    /// Adds records, each at once or not at all. An engine that compares first tells
    /// [`ChangeOutcome::Changed`] where something else is stored than was seen.
    fn add(&self, additions: Vec<Addition>) -> BulkFuture<'_, Vec<ChangeOutcome>>;

    /// Deletes items that are still what they were.
    fn delete(&self, items: Vec<Item>) -> BulkFuture<'_, Vec<ChangeOutcome>>;

    /// Makes everything that was done durable, as far as the engine leaves that to others.
    fn sync(&self) -> BulkFuture<'_, ()>;

    /// Whether what was done is durable only after [`Bulk::bring_to_disk`], which takes too long to be called
    /// for each batch.
    fn is_lazy(&self) -> bool {
        false
    }

    /// Fails if the database keeps nothing on a disk.
    fn refuse_volatile(&self) -> BulkFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Returns when everything that was done is on a disk. May take as long as writing all of the database.
    fn bring_to_disk(&self) -> BulkFuture<'_, ()> {
        self.sync()
    }

    /// Whether a scan may meet a key twice.
    fn repeats(&self) -> bool {
        false
    }

    /// Ends all work. What is not closed may have to be repaired by the next process that opens it.
    fn close(&self) -> BulkFuture<'_, ()>;
}

/// Two tallies of one digest as one.
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

/// A record with both tallies changed in the same way.
pub(super) fn map_tallies(record: &Record, mut change: impl FnMut(usize, &Tally) -> Tally) -> Record {
    Record { reports: change(0, &record.reports), whitelists: change(1, &record.whitelists) }
}

/// A tally with its times changed in the same way.
pub(super) fn map_times(tally: &Tally, change: impl Fn(Timestamp) -> Option<Timestamp>) -> Tally {
    Tally { count: tally.count, first: tally.first.and_then(&change), last: tally.last.and_then(&change) }
}
