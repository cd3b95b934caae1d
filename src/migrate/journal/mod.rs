//! What of each key has been moved: on disk, so that a run after an interruption adds nothing
//! twice, however large the databases are.
//!
//! Before a record is added to one in the destination, the journal holds how the destination was and what
//! will be added, and afterwards that it was. After a kill in between, the destination itself tells.

mod entries;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use redb::{Database, ReadableTable, Table, TableDefinition, WriteTransaction};
use thiserror::Error;

use crate::migrate::identity::{DatabaseIdentity, ZoneOffsets};
use crate::migrate::moved_counts::MovedTallies;
use crate::migrate::redb_panics::{RedbError, catch_redb_panics};
use crate::record::Timestamp;

pub(super) use self::entries::{JournalKey, UnconfirmedAddition};

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

/// An open journal, which is locked against other processes.
pub(super) struct Journal {
    path: PathBuf,
    database: Database,
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
            check_database(&mut about, "source", source)?;
            check_database(&mut about, "destination", destination)?;
            drop(about);
            transaction.open_table(MOVED)?;
            transaction.open_table(UNCONFIRMED)?;
            transaction.open_table(UNDER_WAY)?;
            Ok(())
        })?;
        Ok(journal)
    }

    /// The one of these files that is the journal of moving from one database to the other, if any, and why others cannot
    /// be read.
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
fn check_database(
    about: &mut Table<'_, &str, &str>,
    role: &str,
    end: &DatabaseIdentity,
) -> Result<(), RedbError> {
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
