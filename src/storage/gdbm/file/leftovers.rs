//! Files that an interrupted repair has left beside the database: `NAME.repair`, and `NAME.repair.XXXXXX` of the
//! library.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::location::DatabasePath;

/// Returns the files that an interrupted repair may have left.
pub(crate) fn leftovers(location: &DatabasePath) -> io::Result<Vec<PathBuf>> {
    let name = location.beside(".repair");
    let rest = |path: &Path| path.as_os_str().as_encoded_bytes()[name.as_os_str().len()..].to_vec();
    // The library appends a dot and six random characters.
    let is_leftover = |rest: &[u8]| {
        rest.is_empty()
            || rest.len() == 7 && rest[0] == b'.' && rest[1..].iter().all(u8::is_ascii_alphanumeric)
    };
    let found = location.all_beside(".repair")?;
    Ok(found.into_iter().filter(|path| is_leftover(&rest(path))).collect())
}

/// Removes all leftovers, and warns about one that cannot be removed. The database must be locked.
///
/// Looks again until none is found, because a library call that still runs may rename one meanwhile.
pub(crate) fn remove_every_leftover(location: &DatabasePath) {
    loop {
        let found = leftovers(location).unwrap_or_default();
        if found.is_empty() {
            return;
        }
        for path in found {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!("cannot remove {}, left by an interrupted repair: {error}", path.display());
                    return;
                }
                _ => {}
            }
        }
    }
}
