//! What a failed opening means, and what to do about it.

use std::io;
use std::path::Path;

use super::handle::{self, GdbmError};
use crate::storage::OpenError;

/// One line for the operator.
pub(super) fn explain(path: &Path, error: &GdbmError) -> OpenError {
    let file = path.display();
    match error.number {
        gdbm_sys::GDBM_CANT_BE_WRITER | gdbm_sys::GDBM_CANT_BE_READER => {
            let who =
                holder(path).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            OpenError::busy(format!("the database {file} is in use by {who}: stop that first"))
        }
        gdbm_sys::GDBM_BAD_MAGIC_NUMBER
        | handle::GDBM_FILE_EOF
        | gdbm_sys::GDBM_EMPTY_DATABASE
        | handle::GDBM_BAD_HEADER => OpenError::new(format!(
            "{file} is not a GNU dbm database ({error}): if it was one, pyzord --recover mends a copy of it; otherwise \
             move it away, or name another file with DigestDB"
        )),
        _ if error.system.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {
            OpenError::absent(format!("cannot open the database {file}: {error}"))
        }
        _ if error.system.is_none() => OpenError::new(format!(
            "cannot open the database {file}: {error}: if it is damaged, pyzord --recover mends a copy of it"
        )),
        _ => OpenError::new(format!("cannot open the database {file}: {error}")),
    }
}

/// The process that has locked a file, as far as the kernel's list tells.
pub(super) fn holder(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;

    let inode = format!(":{}", std::fs::metadata(path).ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(4);
        let (pid, file) = (words.next()?, words.next()?);
        if file.ends_with(&inode) { pid.parse().ok() } else { None }
    })
}
