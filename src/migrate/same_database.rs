//! Refuses to move a database to itself.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::options::DatabaseSpec;
use crate::storage;
use crate::storage::bulk::Bulk;

/// Refuses two names of one file. Opened twice, it would wait for its own lock.
pub(super) fn refuse_same_file(source: &DatabaseSpec, destination: &DatabaseSpec) -> Result<(), String> {
    let identity = |end: &DatabaseSpec| {
        let path: &Path = &end.options.path;
        let metadata = std::fs::metadata(path).ok().filter(|_| storage::properties(&end.engine).is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    match identity(source) {
        Some(file) if identity(destination) == Some(file) => Err(refusal(source.options.path.display())),
        _ => Ok(()),
    }
}

/// Refuses two names of one database: both are asked for their identity.
pub(super) async fn refuse_same_database(source: &dyn Bulk, destination: &dyn Bulk) -> Result<(), String> {
    if source.engine() != destination.engine() {
        return Ok(());
    }
    let now = crate::record::Timestamp::now().micros();
    let token = format!("pyzor-migrate.{}.{now}", std::process::id());
    let there = destination.identity(&token, true).await.map_err(|error| error.to_string())?;
    let here = source.identity(&token, false).await.map_err(|error| error.to_string())?;
    match here.iter().any(|name| there.contains(name)) {
        true => Err(refusal(source.describe())),
        false => Ok(()),
    }
}

fn refusal(database: impl Display) -> String {
    format!("source and destination are the same database, {database}")
}
