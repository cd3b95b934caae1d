//! The reasons why the homedir of a client cannot be used.

use std::io;
use std::path::Path;

use thiserror::Error;

use crate::os::open;

/// The homedir of a client cannot be used. The messages name files; the caller names the option.
#[derive(Debug, Error)]
#[error("{}", problems.join("; "))]
pub(crate) struct DirectoryError {
    /// The problems, one line each. At least one.
    pub(crate) problems: Vec<String>,
    /// Warnings about lines that were skipped before, one line each.
    pub(crate) warnings: Vec<String>,
    pub(super) is_lasting: bool,
    pub(super) is_denied: bool,
}

impl DirectoryError {
    /// An error that stays until an operator changes a file.
    pub(super) fn lasting(problems: Vec<String>) -> Self {
        Self { problems, warnings: Vec::new(), is_lasting: true, is_denied: false }
    }

    /// A file or directory that cannot be read.
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self::of(error, format!("cannot read {}: {error}", path.display()))
    }

    /// A symbolic link to a file that does not exist, but that is meant to.
    pub(super) fn dangling(path: &Path, error: &io::Error) -> Self {
        let shown = path.display();
        Self::of(
            error,
            format!(
                "{shown} is a symbolic link to a file that does not exist: write that file, or remove the link"
            ),
        )
    }

    /// A problem with a file that is caused by an error of the system.
    pub(super) fn of(error: &io::Error, problem: String) -> Self {
        Self {
            is_lasting: open::is_lasting(error),
            is_denied: error.kind() == io::ErrorKind::PermissionDenied,
            ..Self::lasting(vec![problem])
        }
    }

    /// Whether this process may not read a file.
    pub(crate) fn is_denied(&self) -> bool {
        self.is_denied
    }

    /// Whether the error stays until an operator changes a file. Otherwise a later attempt may succeed: a disk may be
    /// mounted meanwhile.
    pub(crate) fn is_lasting(&self) -> bool {
        self.is_lasting
    }
}
