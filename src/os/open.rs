//! Opening what an operator has named without waiting for it: a pipe has another end, which may never be
//! opened, and a terminal or device may not be ready.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading, or `/dev/null`, which is a way to say "nothing".
///
/// # Errors
///
/// The system's, or that it is anything else.
pub(crate) fn to_read(path: &Path) -> io::Result<File> {
    let file = match without_waiting(OpenOptions::new().read(true)).open(path) {
        // A socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(not_regular()),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if metadata.is_file() || is_null(&metadata) { Ok(file) } else { Err(not_regular()) }
}

/// Opens a file for appending, and creates it for this user alone. A pipe must have a reader.
///
/// # Errors
///
/// The system's.
pub(crate) fn to_append(path: &Path) -> io::Result<File> {
    match without_waiting(OpenOptions::new().append(true).create(true).mode(0o600)).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            Err(if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
                io::Error::other("no process has opened this pipe for reading: start its reader first")
            } else {
                error
            })
        }
        opened => opened,
    }
}

/// Adds to these options that nothing is waited for, and that no terminal becomes this process's own.
pub(crate) fn without_waiting(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
}

/// The error about what is not a regular file.
pub(crate) fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}

fn is_null(metadata: &Metadata) -> bool {
    let null = || fs::metadata("/dev/null").map(|null| null.rdev());
    metadata.file_type().is_char_device() && null().is_ok_and(|null| null == metadata.rdev())
}
