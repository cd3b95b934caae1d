//! The message for a library error when a file is opened.

use std::io;
use std::path::Path;

use crate::storage::EngineOpenError;
use crate::storage::gdbm::file::handle::{self, GdbmError};

/// Returns one line for the operator that says what to do.
pub(crate) fn explain(path: &Path, error: &GdbmError) -> EngineOpenError {
    let file = path.display();
    match error.number {
        _ if is_of_another_machine(error) => EngineOpenError::new(format!(
            "the database {file} cannot be used on this machine ({error}): dump it with gdbm_dump on the machine that \
             wrote it, and load the dump here with gdbm_load"
        )),
        gdbm_sys::GDBM_BAD_MAGIC_NUMBER
        | handle::GDBM_FILE_EOF
        | gdbm_sys::GDBM_EMPTY_DATABASE
        | handle::GDBM_BAD_HEADER => EngineOpenError::new(format!(
            "{file} is not a GNU dbm database ({error}): if it was one, run pyzord --recover, which repairs it and \
             keeps the original file; otherwise move it away, or set DigestDB to another file"
        )),
        _ if error.system.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {
            EngineOpenError::absent(format!("cannot open the database {file}: {error}"))
        }
        _ if error.system.is_none() => EngineOpenError::new(format!(
            "cannot open the database {file}: {error}: if it is damaged, run pyzord --recover, which repairs it and \
             keeps the original file"
        )),
        _ => EngineOpenError::new(format!("cannot open the database {file}: {error}")),
    }
}

/// Returns whether the file was written by a machine with another byte order or word size.
pub(crate) fn is_of_another_machine(error: &GdbmError) -> bool {
    matches!(error.number, handle::GDBM_BYTE_SWAPPED | handle::GDBM_BAD_FILE_OFFSET)
}
