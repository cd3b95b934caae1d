//! Records that the library finds but whose text cannot be decoded.

use crate::storage::gdbm::codec::StoredRecord;
use crate::storage::gdbm::file::handle::GdbmError;
use crate::storage::gdbm::open_file::OpenFile;
use crate::storage::gdbm::walk::KeyWalk;

/// Deletes records that cannot be decoded, which the library's recovery may have made of other data. Returns their
/// number.
pub(super) fn remove_unreadable(open: &mut OpenFile) -> Result<usize, GdbmError> {
    let found = unreadable(open, |_| true)?;
    for key in &found {
        open.handle.delete(key)?;
    }
    Ok(found.len())
}

/// Returns the wanted keys whose records cannot be decoded.
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
