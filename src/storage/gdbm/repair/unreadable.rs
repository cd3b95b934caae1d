//! Records that the library finds and no server can read.

use crate::storage::gdbm::codec::StoredRecord;
use crate::storage::gdbm::file::handle::GdbmError;
use crate::storage::gdbm::open_file::OpenFile;
use crate::storage::gdbm::walk::KeyWalk;

/// Removes what no server could read: the library takes for a record whatever is where one should be.
/// Says how many there were.
pub(super) fn remove_unreadable(open: &mut OpenFile) -> Result<usize, GdbmError> {
    let found = unreadable(open, |_| true)?;
    for key in &found {
        open.handle.delete(key)?;
    }
    Ok(found.len())
}

/// The keys, of those that are asked for, whose records cannot be read.
pub(super) fn unreadable(
    open: &mut OpenFile,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Vec<u8>>, GdbmError> {
    let (mut walk, mut unreadable) = (KeyWalk::default(), Vec::new());
    while let Some(key) = walk.next(&mut open.handle)? {
        if is_wanted(key)
            && (!open.handle.fetch(key, &mut open.value)? || StoredRecord::decode(&open.value).is_none())
        {
            unreadable.push(key.to_owned());
        }
    }
    Ok(unreadable)
}
