//! Opening paths from the configuration without blocking: a pipe may have no other end, and a terminal or device may
//! not be ready.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Errors of the system that an operator must remove.
const LASTING: [i32; 8] = [
    libc::EACCES,
    libc::EPERM,
    libc::EROFS,
    libc::EISDIR,
    libc::ENOTDIR,
    libc::ELOOP,
    libc::ENAMETOOLONG,
    libc::ENXIO,
];

/// Opens a regular file for reading, or `/dev/null`, which stands for an empty file.
///
/// # Errors
///
/// The file cannot be opened, or is not a regular file.
pub(crate) fn to_read(path: &Path) -> io::Result<File> {
    let file = match without_waiting(OpenOptions::new().read(true)).open(path) {
        // A socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(not_regular()),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if metadata.is_file() || is_null(&metadata) { Ok(file) } else { Err(not_regular()) }
}

/// The contents of a file, and who may use it.
pub(crate) struct FileContent {
    pub(crate) text: Vec<u8>,
    /// The type and the permissions; 0 for `/dev/null`, which has no contents to protect.
    pub(crate) mode: u32,
}

/// Reads a regular file, or `/dev/null`, which stands for an empty file.
///
/// # Errors
///
/// The file cannot be read, or is not a regular file.
pub(crate) fn read(path: &Path) -> io::Result<FileContent> {
    let mut file = to_read(path)?;
    let metadata = file.metadata()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(FileContent { text, mode: if metadata.is_file() { metadata.mode() } else { 0 } })
}

/// Opens a file for appending, and creates it with access for this user only. A pipe must have a reader.
///
/// # Errors
///
/// The system call fails.
pub(crate) fn to_append(path: &Path) -> io::Result<File> {
    match without_waiting(OpenOptions::new().append(true).create(true).mode(0o600)).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            Err(if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
                io::Error::new(
                    io::ErrorKind::NotConnected,
                    "no process reads this pipe: start its reader first",
                )
            } else {
                error
            })
        }
        opened => opened,
    }
}

/// Adds the flags that prevent blocking, and prevent a terminal from becoming the controlling one.
pub(crate) fn without_waiting(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
}

/// Whether an error of using a path stays until an operator changes the path, its permissions or its kind. Other errors
/// may pass: a disk is mounted, has room again, or answers again.
pub(crate) fn is_lasting(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(number) => LASTING.contains(&number),
        // Of this program: the path is not a regular file, for example.
        None => error.kind() != io::ErrorKind::NotConnected,
    }
}

/// Returns the error for a path that is not a regular file.
pub(crate) fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}

fn is_null(metadata: &Metadata) -> bool {
    let null = || fs::metadata("/dev/null").map(|null| null.rdev());
    metadata.file_type().is_char_device() && null().is_ok_and(|null| null == metadata.rdev())
}
