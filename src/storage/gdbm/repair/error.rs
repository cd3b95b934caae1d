//! Why a file could not be repaired.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use thiserror::Error;

use super::explain::is_of_another_machine;
use crate::storage::EngineOpenError;
use crate::storage::gdbm::cancel::Cancelled;
use crate::storage::gdbm::file::handle::GdbmError;

/// Why a file could not be written anew.
#[derive(Debug, Error)]
pub(crate) enum RepairError {
    /// The library cannot.
    #[error("{0}")]
    Gdbm(#[from] GdbmError),
    /// The old file cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// Something cannot be done with this file.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    /// The new file cannot be used.
    #[error("{0}")]
    New(#[from] EngineOpenError),
    /// There is no room for the new file.
    #[error(
        "its disk has no room for a copy of it, or the limit of file sizes (ulimit -f, LimitFSIZE) forbids one"
    )]
    NoRoom,
    /// Nothing can take the place of the file.
    #[error(
        "it is a mount point by itself, so that no other file can take its place: mount its directory instead"
    )]
    MountPoint,
    /// The process is asked to end.
    #[error("it was stopped")]
    Cancelled,
}

impl From<Cancelled> for RepairError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Whether the library has failed for what is in the file, and not for what this machine or process lacks.
pub(crate) fn is_of_the_file(error: &GdbmError) -> bool {
    let lacks = matches!(
        error.system_number(),
        Some(
            Errno::ENOSPC
                | Errno::EDQUOT
                | Errno::EFBIG
                | Errno::ENOMEM
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::EACCES
                | Errno::EPERM
                | Errno::EROFS
        )
    );
    !is_of_another_machine(error) && !lacks
}

/// Names the file with which something has failed.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> RepairError {
    move |error| RepairError::File { path: path.to_owned(), error }
}
