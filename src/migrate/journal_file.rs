//! Which file is the journal of a migration, and whether it needs one.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha1::Digest as _;

use super::identity::DatabaseIdentity;
use super::journal::Journal;
use super::options::MigrateOptions;
use super::progress_output::complain;
use crate::settings::Environment;
use crate::storage::bulk::Bulk;

/// Opens the journal, if one is needed; says whether it is one without a given name.
pub(super) async fn open_journal(
    options: &MigrateOptions,
    environment: &Environment,
    source: &dyn Bulk,
    destination: Option<&Arc<dyn Bulk>>,
) -> Result<(Option<Journal>, bool), String> {
    let Some(destination) = destination.filter(|_| !options.dry_run) else { return Ok((None, false)) };
    let end =
        async |database: &dyn Bulk| DatabaseIdentity::of(database).await.map_err(|error| error.to_string());
    let (source, destination) = (end(source).await?, end(destination.as_ref()).await?);
    let is_own = options.delete && options.journal.is_none();
    let home = journal_directory(environment);
    let unfinished = home.as_ref().and_then(|home| {
        let files = std::fs::read_dir(home).into_iter().flatten().flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "journal"));
        let (found, unreadable) = Journal::find(files, &source, &destination);
        unreadable.iter().for_each(|error| complain("warning", error));
        found
    });
    if let Some(unfinished) = unfinished.as_ref().filter(|_| !is_own) {
        return Err(format!(
            "a move between these databases was interrupted: what it has moved would be replaced or added again; run it \
             once more with --delete and without --journal, or remove {}",
            unfinished.display()
        ));
    }
    if !options.merge && !options.delete {
        return match options.journal {
            Some(_) => Err("--journal is for --merge and --delete: a copy needs none".to_owned()),
            None => Ok((None, false)),
        };
    }
    let path = match (&options.journal, unfinished, home) {
        (Some(path), ..) => path.clone(),
        (None, Some(unfinished), _) => unfinished,
        (None, None, Some(home)) => {
            create_directory(&home)?;
            let names = format!("{}\n{}", source.names[0], destination.names[0]);
            let name = pyzor_wire::digest::hex(&sha1::Sha1::digest(names).into());
            home.join(format!("{}.journal", String::from_utf8_lossy(&name)))
        }
        (None, None, None) => {
            return Err("--delete keeps a journal, and there is no home for it: name a file with --journal"
                .to_owned());
        }
    };
    let journal = Journal::open(&path, &source, &destination).map_err(|error| error.to_string())?;
    Ok((Some(journal), is_own))
}

/// Where moves remember what they have done when no file is named; none for a user without a home.
fn journal_directory(environment: &Environment) -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.unwrap_or_else(|| environment.expand("~/.local/state"));
    state.is_absolute().then(|| state.join("pyzor-migrate"))
}

fn create_directory(home: &Path) -> Result<(), String> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(|error| {
        format!("--delete keeps a journal in {}: {error}; name a file with --journal", home.display())
    })
}
