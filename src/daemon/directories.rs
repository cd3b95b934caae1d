//! The homedirs of clients that options name: they are checked, loaded and reloaded in the same way, and each message
//! about one names the option.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tracing::warn;

use super::error::StartError;
use crate::remotes::{self, DirectoryError, DirectorySource, RemoteDirectory};
use crate::settings::Settings;

/// The option of forwarding.
pub(super) const FORWARDING: &str = "ForwardClientHomeDir";
/// The option of second opinions.
pub(super) const UPSTREAM: &str = "UpstreamHomeDir";

/// Returns the homedirs of clients in use, each with its option.
pub(super) fn in_use(settings: &Settings) -> impl Iterator<Item = (&'static str, &DirectorySource)> {
    let forward = settings.forward.as_ref().map(|forward| (FORWARDING, &forward.source));
    let upstream = settings.upstream.as_ref().map(|upstream| (UPSTREAM, &upstream.source));
    forward.into_iter().chain(upstream)
}

/// Returns all files of the homedirs of clients, each once, with the first option that names its directory.
pub(super) fn files(settings: &Settings) -> BTreeMap<PathBuf, &'static str> {
    let mut files = BTreeMap::new();
    for (option, source) in in_use(settings) {
        for path in remotes::files(source) {
            files.entry(path).or_insert(option);
        }
    }
    files
}

/// Loads the homedir of a client, and logs its warnings.
pub(super) fn load(option: &'static str, source: &DirectorySource) -> Result<RemoteDirectory, StartError> {
    let loaded = remotes::load(source);
    let warnings = loaded.as_ref().map_or_else(|error| &error.warnings, |loaded| &loaded.warnings);
    warnings.iter().for_each(|warning| warn!("{warning}"));
    loaded.map(|loaded| loaded.directory).map_err(|error| StartError::Directory { option, error })
}

/// Returns the problems of the homedir of a client, one line each.
pub(super) fn problems(option: &str, error: &DirectoryError) -> Vec<String> {
    error.problems.iter().map(|problem| format!("{option}: {problem}")).collect()
}
