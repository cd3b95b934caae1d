//! The homedirs of clients that options name: they are checked, loaded and reloaded in the same way, and each message
//! about one names the option.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tracing::warn;

use super::error::StartError;
use crate::remotes::{self, DirectoryError, DirectorySource, LoadedDirectory, RemoteDirectory};
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

/// Reports each warning once, because two options may name one directory.
#[derive(Debug, Default)]
pub(super) struct DirectoryWarnings(BTreeSet<String>);

impl DirectoryWarnings {
    /// Returns the warnings that have not been reported.
    pub(super) fn fresh(&mut self, warnings: Vec<String>) -> Vec<String> {
        warnings.into_iter().filter(|warning| self.0.insert(warning.clone())).collect()
    }

    /// Logs the warnings that have not been reported, and returns them.
    pub(super) fn log(&mut self, warnings: Vec<String>) -> Vec<String> {
        let warnings = self.fresh(warnings);
        warnings.iter().for_each(|warning| warn!("{warning}"));
        warnings
    }
}

/// Loads the homedir of a client, and logs its warnings.
pub(super) fn load(
    option: &'static str,
    source: &DirectorySource,
    warnings: &mut DirectoryWarnings,
) -> Result<RemoteDirectory, StartError> {
    match remotes::load(source) {
        Ok(LoadedDirectory { directory, warnings: found, .. }) => {
            warnings.log(found);
            Ok(directory)
        }
        Err(mut error) => {
            warnings.log(std::mem::take(&mut error.warnings));
            Err(StartError::Directory { option, error })
        }
    }
}

/// Returns the problems of the homedir of a client, one line each.
pub(super) fn problems(option: &str, error: &DirectoryError) -> Vec<String> {
    error.problems.iter().map(|problem| format!("{option}: {problem}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_one_directory_are_reported_once() {
        let mut warnings = DirectoryWarnings::default();
        let lines = |texts: &[&str]| texts.iter().copied().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(warnings.fresh(lines(&["a", "b"])), ["a", "b"]);
        assert_eq!(warnings.fresh(lines(&["a", "c", "b"])), ["c"]);
    }

    #[test]
    fn each_problem_names_the_option() {
        let path = PathBuf::from("/nonexistent/directory");
        let source = DirectorySource { path, home: None };
        let error = load(UPSTREAM, &source, &mut DirectoryWarnings::default()).unwrap_err();
        assert_eq!(
            error.lines(),
            [
                "UpstreamHomeDir: the directory /nonexistent/directory does not exist: name the homedir of a client, with its file 'servers'"
            ]
        );
        assert_eq!(error.lines().join("\n"), error.to_string());
    }
}
