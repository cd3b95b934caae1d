//! Chooses the journal file of a migration, opens it, and removes it at the end.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha1::Digest as _;

use super::identity::DatabaseIdentity;
use super::journal::Journal;
use super::options::MigrateOptions;
use super::progress_output::report;
use crate::settings::Environment;
use crate::storage::bulk::Bulk;

/// Opens the journal if the migration needs one: a move or a merge that is not a dry run.
///
/// # Errors
///
/// One line. Also if a move between these databases is unfinished that this run would not continue.
pub(super) async fn open_journal(
    options: &MigrateOptions,
    environment: &Environment,
    source: &dyn Bulk,
    destination: Option<&Arc<dyn Bulk>>,
) -> Result<Option<Journal>, String> {
    let Some(destination) = destination.filter(|_| !options.dry_run) else { return Ok(None) };
    let identity =
        async |database: &dyn Bulk| DatabaseIdentity::of(database).await.map_err(|error| error.to_string());
    let (source, destination) = (identity(source).await?, identity(destination.as_ref()).await?);
    let directory = journal_directory(environment);
    let unfinished =
        directory.as_deref().and_then(|directory| find_journal(directory, &source, &destination));
    let unfinished = match unfinished {
        Some(unfinished) if !uses_default_file(options) => {
            return Err(format!(
                "a move between these databases was interrupted, and this run would replace its records or add them \
                 again: finish it first, with --delete and without --journal, or remove {}",
                unfinished.display()
            ));
        }
        unfinished => unfinished,
    };
    if !options.merge && !options.delete {
        return match options.journal {
            Some(_) => {
                Err("a copy keeps no journal: leave --journal out, or add --merge or --delete".to_owned())
            }
            None => Ok(None),
        };
    }
    let path = match (&options.journal, unfinished, directory) {
        (Some(path), ..) => path.clone(),
        (None, Some(unfinished), _) => unfinished,
        (None, None, Some(directory)) => {
            create_directory(&directory)?;
            directory.join(file_name(&source, &destination))
        }
        (None, None, None) => {
            return Err(
                "no home directory for the journal of --delete: name a file with --journal".to_owned()
            );
        }
    };
    Journal::open(&path, &source, &destination).map(Some).map_err(|error| error.to_string())
}

/// Removes a journal in the default file if no rerun needs it; prints where it is if one does.
pub(super) fn close_journal(
    journal: Journal,
    options: &MigrateOptions,
    went_well: bool,
) -> Result<(), String> {
    if !uses_default_file(options) {
        return Ok(());
    }
    let is_needed = !went_well && !journal.is_empty().map_err(|error| error.to_string())?;
    if !is_needed {
        return journal.remove().map_err(|error| error.to_string());
    }
    let path = journal.path().display();
    report(
        "note",
        &format_args!("the move is not complete: run it again with --delete (the journal is {path})"),
    );
    Ok(())
}

/// Whether the journal is in a file that the program has chosen itself.
fn uses_default_file(options: &MigrateOptions) -> bool {
    options.delete && options.journal.is_none()
}

/// Returns the directory of default files; none without a home directory.
fn journal_directory(environment: &Environment) -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.unwrap_or_else(|| environment.expand("~/.local/state"));
    state.is_absolute().then(|| state.join("pyzor-migrate"))
}

/// Returns the journal of an unfinished move between two databases, and warns of journals that cannot be read.
fn find_journal(
    directory: &Path,
    source: &DatabaseIdentity,
    destination: &DatabaseIdentity,
) -> Option<PathBuf> {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "journal"));
    let (found, unreadable) = Journal::find(files, source, destination);
    unreadable.iter().for_each(|error| report("warning", error));
    found
}

fn file_name(source: &DatabaseIdentity, destination: &DatabaseIdentity) -> String {
    let names = format!("{}\n{}", source.names[0], destination.names[0]);
    let hash = pyzor_wire::digest::hex(&sha1::Sha1::digest(names).into());
    format!("{}.journal", String::from_utf8_lossy(&hash))
}

fn create_directory(directory: &Path) -> Result<(), String> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
        let directory = directory.display();
        format!("cannot create {directory} for the journal: {error}: name a file with --journal")
    })
}
