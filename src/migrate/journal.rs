//! What of each key has been moved: on disk, so that whoever goes on after an interruption adds nothing
//! twice, however large the databases are.
//!
//! Before a record is added to one in the destination, the journal holds how the destination was and what
//! will be added, and afterwards that it was. After a kill in between, the destination itself tells.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use thiserror::Error;

use super::identity::{DatabaseIdentity, ZoneOffsets};
use super::moved_counts::{MovedCounts, MovedTallies};
use crate::record::Timestamp;
use pyzor_wire::digest::Digest;

/// What the library says went wrong.
type RedbError = Box<dyn std::error::Error>;

/// The version of this format.
const FORMAT: &str = "pyzor-migrate 2";
/// Why one cannot be opened that another process has open.
const IN_USE: &str = "another run is using it";
/// How much memory the journal may take.
const CACHE: usize = 64 << 20;

/// Counts of reports and of whitelistings.
type CountPair = (i64, i64);
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");
const MOVED: TableDefinition<'_, &[u8], MovedTallies> = TableDefinition::new("moved");
/// Of each digest that is just being added to: the counts that were in the destination, and those added.
const UNCONFIRMED: TableDefinition<'_, &[u8], (CountPair, CountPair)> = TableDefinition::new("doubts");
/// Of each key that is just being moved, what will have been moved.
const UNDER_WAY: TableDefinition<'_, &[u8], MovedTallies> = TableDefinition::new("under way");

/// Why a journal cannot be used.
#[derive(Debug, Error)]
#[error("the journal {}: {why}", path.display())]
pub(super) struct JournalError {
    path: PathBuf,
    why: String,
}

/// An open journal, which nobody else has.
pub(super) struct Journal {
    path: PathBuf,
    database: Database,
}

/// A key of the source and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JournalKey {
    pub(super) digest: Digest,
    pub(super) key: Vec<u8>,
}

/// A digest that is just being added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnconfirmedAddition {
    pub(super) digest: Digest,
    /// The counts of reports and of whitelistings that the destination had.
    pub(super) before: (i64, i64),
    /// Those that are added.
    pub(super) added: (i64, i64),
}

/// The name under which a key is in the journal: one digest's keys are neighbours.
fn name(place: &JournalKey) -> Vec<u8> {
    let hex = place.digest.to_hex();
    let odd: &[u8] = if place.key == hex { b"" } else { &place.key };
    [&hex, odd].concat()
}

impl Journal {
    /// Opens the journal of moving from one database to the other, or begins it.
    ///
    /// # Errors
    ///
    /// One line that names the file.
    pub(super) fn open(
        path: &Path,
        source: &DatabaseIdentity,
        destination: &DatabaseIdentity,
    ) -> Result<Self, JournalError> {
        let journal = Self::existing(path)?;
        journal.write(|transaction| {
            let mut about = transaction.open_table(ABOUT)?;
            let format = about.insert("format", FORMAT)?.map(|format| format.value().to_owned());
            if let Some(format) = format.filter(|format| format != FORMAT) {
                return Err(format!("it is of another version of pyzor-migrate ({format})").into());
            }
            check_end(&mut about, "source", source)?;
            check_end(&mut about, "destination", destination)?;
            drop(about);
            transaction.open_table(MOVED)?;
            transaction.open_table(UNCONFIRMED)?;
            transaction.open_table(UNDER_WAY)?;
            Ok(())
        })?;
        Ok(journal)
    }

    /// The one of these files that is the journal of moving from one database to the other, if any. What cannot be read
    /// is told.
    pub(super) fn find(
        files: impl Iterator<Item = PathBuf>,
        source: &DatabaseIdentity,
        destination: &DatabaseIdentity,
    ) -> (Option<PathBuf>, Vec<JournalError>) {
        let (mut found, mut unreadable) = (None, Vec::new());
        for path in files {
            let names = Self::existing(&path).and_then(|journal| {
                journal.read(|transaction| {
                    let about = match transaction.open_table(ABOUT) {
                        // It had just been made.
                        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Default::default()),
                        about => about?,
                    };
                    let names = |role| -> Result<String, RedbError> {
                        Ok(about.get(role)?.map(|names| names.value().to_owned()).unwrap_or_default())
                    };
                    Ok((names("source")?, names("destination")?))
                })
            });
            match names {
                Ok((from, to)) if source.is_one_of(&from) && destination.is_one_of(&to) => found = Some(path),
                Ok(_) => {}
                // Another run has it: one of this migration would be in its way at the databases, too.
                Err(error) if error.why == IN_USE => {}
                Err(error) => unreadable.push(error),
            }
        }
        (found, unreadable)
    }

    /// Opens a file, which is made if it is not there.
    fn existing(path: &Path) -> Result<Self, JournalError> {
        let fail = |why: String| JournalError { path: path.to_owned(), why };
        let opened = catch_redb_panics(|| Ok(redb::Builder::new().set_cache_size(CACHE).create(path)));
        let database = opened.map_err(|error: RedbError| fail(error.to_string()))?.map_err(|error| {
            fail(match error {
                redb::DatabaseError::DatabaseAlreadyOpen => IN_USE.to_owned(),
                redb::DatabaseError::Storage(redb::StorageError::Io(error))
                    if error.kind() == std::io::ErrorKind::InvalidData =>
                {
                    "this file is no journal of pyzor-migrate; it is left as it is".to_owned()
                }
                error => error.to_string(),
            })
        })?;
        Ok(Self { path: path.to_owned(), database })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> Result<bool, JournalError> {
        self.read(|transaction| {
            let is_empty =
                |table| -> Result<bool, RedbError> { Ok(transaction.open_table(table)?.is_empty()?) };
            Ok(is_empty(MOVED)? && is_empty(UNDER_WAY)?)
        })
    }

    /// What is known of each of these keys.
    pub(super) fn moved(&self, places: &[JournalKey]) -> Result<Vec<Option<MovedCounts>>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(MOVED)?;
            places
                .iter()
                .map(|place| Ok(table.get(name(place).as_slice())?.map(|moved| MovedCounts(moved.value()))))
                .collect()
        })
    }

    /// Of which of these digests any key is known.
    pub(super) fn touched(&self, digests: &[Digest]) -> Result<Vec<bool>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(MOVED)?;
            let is_touched = |digest: &Digest| {
                let hex = digest.to_hex();
                let first = table.range(hex.as_slice()..)?.next().transpose()?;
                Ok(first.is_some_and(|(name, _)| name.value().starts_with(&hex)))
            };
            digests.iter().map(is_touched).collect()
        })
    }

    /// Takes note of what is about to be done, durably.
    pub(super) fn begin(
        &self,
        doubts: &[UnconfirmedAddition],
        under_way: &[(JournalKey, MovedCounts)],
    ) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(UNCONFIRMED)?;
            for doubt in doubts {
                table.insert(doubt.digest.to_hex().as_slice(), (doubt.before, doubt.added))?;
            }
            let mut table = transaction.open_table(UNDER_WAY)?;
            for (place, moved) in under_way {
                table.insert(name(place).as_slice(), moved.0.clone())?;
            }
            Ok(())
        })
    }

    /// Takes note of what has been done, and that nothing else is under way, durably.
    pub(super) fn finish(&self, done: &[(JournalKey, MovedCounts)]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(MOVED)?;
            for (place, moved) in done {
                table.insert(name(place).as_slice(), moved.0.clone())?;
            }
            drop(table);
            clear(transaction)
        })
    }

    /// Takes note that keys have been deleted from the source.
    pub(super) fn deleted(&self, places: &[JournalKey]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(MOVED)?;
            for place in places {
                let name = name(place);
                let known = table.get(name.as_slice())?.map(|moved| MovedCounts(moved.value()));
                if let Some(moved) = known {
                    table.insert(name.as_slice(), moved.deleted().0)?;
                }
            }
            Ok(())
        })
    }

    /// What was under way when a former run was interrupted.
    pub(super) fn doubts(&self) -> Result<Vec<UnconfirmedAddition>, JournalError> {
        self.read(|transaction| {
            let table = transaction.open_table(UNCONFIRMED)?;
            let mut doubts = Vec::new();
            for entry in table.iter()? {
                let (digest, counts) = entry?;
                let (before, added) = counts.value();
                if let Some(digest) = Digest::from_hex(digest.value()) {
                    doubts.push(UnconfirmedAddition { digest, before, added });
                }
            }
            Ok(doubts)
        })
    }

    /// Of what was under way, that for these digests has been done, and nothing else.
    pub(super) fn settle(&self, done: &[Digest]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut moved = transaction.open_table(MOVED)?;
            let under_way = transaction.open_table(UNDER_WAY)?;
            for digest in done {
                let hex = digest.to_hex();
                for entry in under_way.range(hex.as_slice()..)? {
                    let (name, counted) = entry?;
                    if !name.value().starts_with(&hex) {
                        break;
                    }
                    moved.insert(name.value(), counted.value())?;
                }
            }
            drop((moved, under_way));
            clear(transaction)
        })
    }

    /// Removes the journal.
    pub(super) fn remove(self) -> Result<(), JournalError> {
        let Self { path, database } = self;
        drop(database);
        std::fs::remove_file(&path).map_err(|error| JournalError { path, why: error.to_string() })
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, RedbError>,
    ) -> Result<T, JournalError> {
        let read = || work(&self.database.begin_read()?);
        catch_redb_panics(read).map_err(|error| self.failed(&error))
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, RedbError>,
    ) -> Result<T, JournalError> {
        let write = || {
            let transaction = self.database.begin_write()?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        catch_redb_panics(write).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &RedbError) -> JournalError {
        JournalError { path: self.path.clone(), why: error.to_string() }
    }
}

/// Compares a database with the one that a journal knows, whose names and time zone are noted.
fn check_end(about: &mut Table<'_, &str, &str>, role: &str, end: &DatabaseIdentity) -> Result<(), RedbError> {
    let mut names = about.get(role)?.map(|names| names.value().to_owned()).unwrap_or_default();
    if !names.is_empty() && !end.is_one_of(&names) {
        let was = names.lines().next().unwrap_or_default();
        return Err(format!("it is of another migration, whose {role} is: {was}").into());
    }
    for name in &end.names {
        // It may be known by this one alone later.
        if !names.lines().any(|known| known == name) {
            names.extend([name, "\n"]);
        }
    }
    about.insert(role, names.as_str())?;
    let Some(zone) = &end.zone else { return Ok(()) };
    let role = format!("dates of the {role}");
    let known = about.get(role.as_str())?.map(|text| text.value().to_owned());
    let Some(known) = known else {
        about.insert(role.as_str(), ZoneOffsets::of(zone, Timestamp::now()).to_string().as_str())?;
        return Ok(());
    };
    let was = ZoneOffsets::parse(&known).ok_or("its time zone cannot be read")?;
    let is = ZoneOffsets::of(zone, was.until);
    if is.offsets != was.offsets {
        let (was, is) = (was.name, is.name);
        return Err(
            format!("the {role} were of the time zone {was}, and now it is {is}: set TZ as it was").into()
        );
    }
    Ok(())
}

thread_local! {
    /// Whether this thread does something whose panics are caught.
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Says nothing of panics that are caught here, from now on.
pub(super) fn silence_caught_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !CATCHES.get() {
            usual(panic);
        }
    }));
}

/// Does something with a file over whose damages the library panics.
fn catch_redb_panics<T>(work: impl FnOnce() -> Result<T, RedbError>) -> Result<T, RedbError> {
    CATCHES.set(true);
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    CATCHES.set(false);
    done.unwrap_or_else(|_| Err("it is damaged".into()))
}

/// Nothing is under way any more.
fn clear(transaction: &WriteTransaction) -> Result<(), RedbError> {
    transaction.delete_table(UNCONFIRMED)?;
    transaction.delete_table(UNDER_WAY)?;
    transaction.open_table(UNCONFIRMED)?;
    transaction.open_table(UNDER_WAY)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, Tally};

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 20])
    }

    fn place(number: u8, key: &str) -> JournalKey {
        let digest = digest(number);
        let key = if key.is_empty() { digest.to_hex().to_vec() } else { key.as_bytes().to_vec() };
        JournalKey { digest, key }
    }

    fn record(count: i64, first: i64) -> Record {
        let first = Some(Timestamp::from_seconds(first));
        Record { reports: Tally { count, first, last: first }, whitelists: Tally::default() }
    }

    fn end(name: &str) -> DatabaseIdentity {
        DatabaseIdentity { names: vec![name.to_owned()], zone: None }
    }

    fn open(directory: &tempfile::TempDir) -> Journal {
        Journal::open(&directory.path().join("j"), &end("a"), &end("b")).unwrap()
    }

    #[test]
    fn what_was_moved_is_known_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let (regular, odd) = (place(7, ""), place(7, "odd"));
        let moved = MovedCounts::with(None, &record(5, 100));
        let journal = open(&directory);
        journal.finish(&[(odd.clone(), moved.clone())]).unwrap();
        drop(journal);
        let journal = open(&directory);
        assert_eq!(journal.moved(&[regular, odd]).unwrap(), [None, Some(moved)]);
        assert_eq!(journal.touched(&[digest(6), digest(7), digest(8)]).unwrap(), [false, true, false]);
    }

    #[test]
    fn what_was_under_way_is_settled() {
        let directory = tempfile::tempdir().unwrap();
        let doubts = [1, 2].map(|number| UnconfirmedAddition {
            digest: digest(number),
            before: (1, 0),
            added: (5, 0),
        });
        let moved = MovedCounts::with(None, &record(5, 100));
        let places = [place(1, ""), place(1, "odd"), place(2, "")];
        let journal = open(&directory);
        journal.begin(&doubts, &places.clone().map(|place| (place, moved.clone()))).unwrap();
        drop(journal);
        let journal = open(&directory);
        assert_eq!(journal.doubts().unwrap(), doubts);
        journal.settle(&[digest(1)]).unwrap();
        assert_eq!(journal.moved(&places).unwrap(), [Some(moved.clone()), Some(moved), None]);
        assert_eq!(journal.doubts().unwrap(), []);
    }

    #[test]
    fn a_journal_of_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        drop(open(&directory));
        let refused = |source, to| Journal::open(&path, &end(source), &end(to)).err().unwrap().to_string();
        assert!(refused("x", "b").ends_with("it is of another migration, whose source is: a"));
        assert!(refused("a", "x").ends_with("it is of another migration, whose destination is: b"));
        let other = directory.path().join("other");
        std::fs::write(&other, "my precious notes\n".repeat(1000)).unwrap();
        let error = Journal::open(&other, &end("a"), &end("b")).err().unwrap().to_string();
        assert!(error.ends_with("this file is no journal of pyzor-migrate; it is left as it is"), "{error}");
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "my precious notes\n".repeat(1000));
    }
}
