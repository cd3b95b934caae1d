//! The journal of a move or a merge: how much of each source key has been moved. A file, so that a run of any size can
//! be killed and run again.
//!
//! The journal keeps these invariants, by which each report is counted exactly once:
//!
//! - Before anything is added to the destination, one durable transaction ([`Journal::begin`]) stores the counts in the
//!   destination, the counts to be added, and for each key the counts that will then have been moved.
//! - After the destination has synced, one durable transaction ([`Journal::finish`]) stores the latter as the counts
//!   that have been moved, and deletes the entries of the additions.
//! - After a kill between the two, the next run determines which additions were made, and keeps the entries of those
//!   alone ([`Journal::confirm`]). All other additions are planned again.
//! - A record is deleted from the source only after `finish`, and the key is marked afterwards
//!   ([`Journal::mark_deleted`]), so that a new record under the key counts from 0. After a kill between deletion and
//!   mark, a new record is recognised by its times and counts (see [`super::moved_counts`]).

mod entries;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use redb::{Database, ReadableTable, Table, TableDefinition, WriteTransaction};
use tempfile::NamedTempFile;
use thiserror::Error;

use crate::migrate::identity::{DatabaseIdentity, ZoneOffsets};
use crate::migrate::moved_counts::MovedTallies;
use crate::migrate::redb_panics::{RedbError, catch_redb_panics};
use crate::record::Timestamp;

pub(super) use self::entries::{JournalKey, UnconfirmedAddition};

/// The version of the file format.
const FORMAT: &str = "pyzor-migrate 2";
/// Memory for redb's cache, in bytes.
const CACHE: usize = 64 << 20;

/// Counts of reports and of whitelistings.
type CountPair = (i64, i64);
/// The version of the format, and the names and time zones of both databases.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");
/// For each key, the counts that have been moved.
const MOVED: TableDefinition<'_, &[u8], MovedTallies> = TableDefinition::new("moved");
/// For each digest of the batch that is being added: the counts in the destination before, and the counts to be added.
const UNCONFIRMED: TableDefinition<'_, &[u8], (CountPair, CountPair)> = TableDefinition::new("doubts");
/// For each key of that batch, the entry for [`MOVED`] once the addition is known to have been made.
const UNDER_WAY: TableDefinition<'_, &[u8], MovedTallies> = TableDefinition::new("under way");

/// An error of one journal file.
#[derive(Debug, Error)]
#[error("the journal {}: {problem}", path.display())]
pub(super) struct JournalError {
    path: PathBuf,
    problem: JournalProblem,
}

#[derive(Debug, Error)]
enum JournalProblem {
    #[error("in use by another run")]
    InUse,
    #[error(
        "not a journal of pyzor-migrate, or damaged: if a run has added records with it, restore it or the destination, \
         because a run with another journal adds them again; otherwise name another file"
    )]
    NotAJournal,
    #[error("{0}")]
    Other(String),
}

/// An open journal, locked against other processes.
pub(super) struct Journal {
    path: PathBuf,
    database: Database,
}

impl Journal {
    /// Opens the journal of a migration from `source` to `destination`; creates it if the file does not exist.
    pub(super) fn open(
        path: &Path,
        source: &DatabaseIdentity,
        destination: &DatabaseIdentity,
    ) -> Result<Self, JournalError> {
        if path.symlink_metadata().is_ok() {
            let journal = Self::open_file(path)?;
            journal.claim(source, destination)?;
            return Ok(journal);
        }
        let failed = |error: io::Error| JournalError {
            path: path.to_owned(),
            problem: JournalProblem::Other(format!("cannot create it: {error}")),
        };
        // Gets its name once it is complete, so that a kill leaves a complete journal or none.
        let file = new_file(path).map_err(failed)?;
        let mut journal = Self::open_file(file.path())?;
        journal.claim(source, destination)?;
        file.persist_noclobber(path).map_err(|error| failed(error.error))?;
        File::open(directory_of(path)).and_then(|directory| directory.sync_all()).map_err(failed)?;
        path.clone_into(&mut journal.path);
        Ok(journal)
    }

    /// Enters the databases, or checks that they are those of the journal.
    fn claim(&self, source: &DatabaseIdentity, destination: &DatabaseIdentity) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut about = transaction.open_table(ABOUT)?;
            let format = about.insert("format", FORMAT)?.map(|format| format.value().to_owned());
            if let Some(format) = format.filter(|format| format != FORMAT) {
                return Err(format!(
                    "written by another version of pyzor-migrate ({format}): use that version, because a run with \
                     another journal adds the same records again"
                )
                .into());
            }
            check_database(&mut about, "source", source)?;
            check_database(&mut about, "destination", destination)?;
            drop(about);
            transaction.open_table(MOVED)?;
            transaction.open_table(UNCONFIRMED)?;
            transaction.open_table(UNDER_WAY)?;
            Ok(())
        })
    }

    /// Returns which of these files is the journal of a migration from `source` to `destination`, if any, and the errors
    /// of those that cannot be read.
    pub(super) fn find(
        files: impl Iterator<Item = PathBuf>,
        source: &DatabaseIdentity,
        destination: &DatabaseIdentity,
    ) -> (Option<PathBuf>, Vec<JournalError>) {
        let (mut found, mut unreadable) = (None, Vec::new());
        for path in files {
            match Self::open_file(&path).and_then(|journal| journal.names()) {
                Ok((from, to)) if source.is_one_of(&from) && destination.is_one_of(&to) => found = Some(path),
                Ok(_) => {}
                // Not of this migration: the databases refuse two migrations at a time.
                Err(JournalError { problem: JournalProblem::InUse, .. }) => {}
                Err(error) => unreadable.push(error),
            }
        }
        (found, unreadable)
    }

    /// Returns the known names of the source and of the destination, a name a line.
    fn names(&self) -> Result<(String, String), JournalError> {
        self.read(|transaction| {
            let about = match transaction.open_table(ABOUT) {
                // Created by a run that was killed before its first transaction.
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Default::default()),
                about => about?,
            };
            let names = |role| -> Result<String, RedbError> {
                Ok(about.get(role)?.map(|names| names.value().to_owned()).unwrap_or_default())
            };
            Ok((names("source")?, names("destination")?))
        })
    }

    /// Opens a file; creates it if it does not exist.
    fn open_file(path: &Path) -> Result<Self, JournalError> {
        use redb::{DatabaseError, StorageError};
        let opened = catch_redb_panics(|| Ok(redb::Builder::new().set_cache_size(CACHE).create(path)));
        let problem = match opened {
            Ok(Ok(database)) => return Ok(Self { path: path.to_owned(), database }),
            Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => JournalProblem::InUse,
            Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
                if error.kind() == io::ErrorKind::InvalidData =>
            {
                JournalProblem::NotAJournal
            }
            Ok(Err(error)) => JournalProblem::Other(error.to_string()),
            Err(error) => JournalProblem::Other(error.to_string()),
        };
        Err(JournalError { path: path.to_owned(), problem })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file.
    pub(super) fn remove(self) -> Result<(), JournalError> {
        let Self { path, database } = self;
        drop(database);
        fs::remove_file(&path)
            .map_err(|error| JournalError { path, problem: JournalProblem::Other(error.to_string()) })
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
        JournalError { path: self.path.clone(), problem: JournalProblem::Other(error.to_string()) }
    }
}

/// Creates an empty file beside `path`, and removes those that killed runs have left there.
fn new_file(path: &Path) -> io::Result<NamedTempFile> {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".new-");
    for entry in directory_of(path).read_dir().into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    tempfile::Builder::new().prefix(&prefix).tempfile_in(directory_of(path))
}

/// Returns the directory of a file.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses a database other than the one in the journal, and adds its names and time zone to the journal.
fn check_database(
    about: &mut Table<'_, &str, &str>,
    role: &str,
    database: &DatabaseIdentity,
) -> Result<(), RedbError> {
    let mut names = about.get(role)?.map(|names| names.value().to_owned()).unwrap_or_default();
    if !names.is_empty() && !database.is_one_of(&names) {
        let was = names.lines().next().unwrap_or_default();
        return Err(
            format!(
                "it belongs to another migration, whose {role} is {was}: name another file, or that database if it is \
                 the same one"
            )
            .into()
        );
    }
    for name in &database.names {
        // A later run may find the database under this name alone.
        if !names.lines().any(|known| known == name) {
            names.extend([name, "\n"]);
        }
    }
    about.insert(role, names.as_str())?;
    match &database.zone {
        Some(zone) => check_zone(about, role, zone),
        None => Ok(()),
    }
}

/// Refuses a time zone that gives past dates another meaning than in the run that created the journal.
fn check_zone(about: &mut Table<'_, &str, &str>, role: &str, zone: &TimeZone) -> Result<(), RedbError> {
    let role = format!("dates of the {role}");
    let known = about.get(role.as_str())?.map(|text| text.value().to_owned());
    let Some(known) = known else {
        about.insert(role.as_str(), ZoneOffsets::of(zone, Timestamp::now()).to_string().as_str())?;
        return Ok(());
    };
    let was = ZoneOffsets::parse(&known).ok_or("its time zone is malformed")?;
    let is = ZoneOffsets::of(zone, was.until);
    if is.offsets != was.offsets {
        let (was, is) = (was.name, is.name);
        return Err(format!(
            "the {role} were in the time zone {was}, which is now {is}: set TZ as in the first run"
        )
        .into());
    }
    Ok(())
}
