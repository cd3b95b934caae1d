//! Errors of a repair.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use thiserror::Error;

use super::explain::is_of_another_machine;
use crate::storage::EngineOpenError;
use crate::storage::gdbm::cancel::Cancelled;
use crate::storage::gdbm::file::handle::GdbmError;

/// The reason why a file could not be rewritten.
#[derive(Debug, Error)]
pub(crate) enum RepairError {
    /// An error of the library.
    #[error("{0}")]
    Gdbm(#[from] GdbmError),
    /// The old file cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// A system call on this file failed.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    /// The new file cannot be used.
    #[error("{0}")]
    New(#[from] EngineOpenError),
    /// There is no room for the new file.
    #[error(
        "the disk has no room for a copy of the file, or the file size limit (ulimit -f, LimitFSIZE) is too low"
    )]
    NoRoom,
    /// No other file can replace this one.
    #[error("it is itself a mount point, so no other file can replace it: mount its directory instead")]
    MountPoint,
    /// The process was asked to stop.
    #[error("it was stopped")]
    Cancelled,
}

impl From<Cancelled> for RepairError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Returns whether the content of the file is the reason, and not a lack of room, memory, descriptors or rights.
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

/// Adds the path of a file to a system error.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> RepairError {
    move |error| RepairError::File { path: path.to_owned(), error }
}
