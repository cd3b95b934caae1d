//! The parts of the process environment that settings depend on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use crate::remotes::DirectorySource;

/// The home and working directories from which paths are resolved.
pub(crate) struct Environment {
    /// The variable `HOME`.
    pub(crate) home: Option<OsString>,
    pub(crate) working_directory: PathBuf,
    /// Returns the home directory of a user by name; of the process's own user for an empty name.
    pub(crate) home_of: fn(&str) -> Option<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn of_process() -> Self {
        Self {
            home: std::env::var_os("HOME"),
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            home_of: |user| {
                let user = match user {
                    "" => User::from_uid(Uid::effective()),
                    user => User::from_name(user),
                };
                user.ok().flatten().map(|user| user.dir)
            },
        }
    }

    /// Returns the homedir of a client in this environment.
    pub(super) fn directory_source(&self, path: &Path) -> DirectorySource {
        let home = self.expand("~");
        DirectorySource { path: path.to_owned(), home: home.is_absolute().then_some(home) }
    }

    /// Replaces `~` or `~user` at the beginning of a path, if the home directory is known.
    pub(crate) fn expand(&self, path: &str) -> PathBuf {
        let Some(rest) = path.strip_prefix('~') else { return path.into() };
        let (user, below) = rest.split_once('/').unwrap_or((rest, ""));
        let home = match user {
            // As in Python, an empty HOME is the root of the file system.
            "" if self.home.as_ref().is_some_and(|home| home.is_empty()) => Some("/".into()),
            // Services may run without HOME: use the account's home directory.
            "" => self.home.as_ref().map(PathBuf::from).or_else(|| (self.home_of)("")),
            user => (self.home_of)(user),
        };
        match home {
            Some(home) if below.is_empty() => home,
            Some(home) => home.join(below),
            None => path.into(),
        }
    }
}
