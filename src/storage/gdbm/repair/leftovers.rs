//! Files that an interrupted repair has left beside the database.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::error::{RepairError, at};
use crate::storage::gdbm::file::location::DatabasePath;

/// The files that an attempt may have left.
fn leftovers(place: &DatabasePath) -> Result<Vec<PathBuf>, RepairError> {
    let name = place.beside(".repair");
    let rest = |path: &Path| path.as_os_str().as_encoded_bytes()[name.as_os_str().len()..].to_vec();
    // What the library adds to the name is random.
    let is_one = |rest: &[u8]| {
        rest.is_empty()
            || rest.len() == 7 && rest[0] == b'.' && rest[1..].iter().all(u8::is_ascii_alphanumeric)
    };
    let found = place.all_beside(".repair").map_err(at(&name))?;
    Ok(found.into_iter().filter(|path| is_one(&rest(path))).collect())
}

/// Removes them.
pub(super) fn remove_leftovers(place: &DatabasePath) -> Result<(), RepairError> {
    leftovers(place)?.iter().try_for_each(|path| fs::remove_file(path).map_err(at(path)))
}

/// Removes what an attempt has left, until there is nothing: the library may have renamed a file in the meantime. The
/// database must be locked.
pub(crate) fn remove_every_leftover(place: &DatabasePath) {
    loop {
        let found = leftovers(place).unwrap_or_default();
        if found.is_empty() {
            return;
        }
        for path in found {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!("{} is of no use any more and cannot be removed: {error}", path.display());
                    return;
                }
                _ => {}
            }
        }
    }
}
