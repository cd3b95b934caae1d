//! Free room inside the file, so that it grows seldom.
//!
//! The library takes room for records and buckets from lists of free blocks, and where these have none
//! it lets the file grow by one block. Then it maps the whole file anew, and every page that is used
//! next costs a page fault: half the time of a report. So when the file has grown, a number of large
//! records is stored in it and deleted again, which leaves them on the list in the file's header. Smaller
//! ones are used up soon; larger ones get stuck in the lists of single buckets, so that the file grows out
//! of proportion, and the library keeps the memory for reading them.
//!
//! A process that is killed in between leaves some of these records behind. The next start deletes
//! them; until then every reader takes them for records that have expired long ago, under keys that
//! nobody can ask for.

use super::directory::Directory;
use super::handle::{GdbmError, Handle};

/// How many pieces are made free at once at most; the list has places for four times as many.
const MOST: usize = 1 << PAIRS;
/// Fewer are not worth it.
const FEWEST: usize = 4;
/// How many blocks a piece may have.
const LARGEST: usize = 4;
/// What part of the file they may be, so that a small one stays small.
const FRACTION: u64 = 8;

/// The keys differ by which of these pairs of bytes are swapped. Two bytes that are 24 places apart count
/// the same for the hash, so that all keys are in one bucket: there the library looks first for what is
/// left of the room that the one before was cut from.
const KEY: &[u8; 40] = b"ABCDEF room made inside abcdef by pyzord";
const PAIRS: usize = 6;
const DISTANCE: usize = 24;

/// The text of the records, with blanks for the rest behind the first comma.
const TEXT: (&[u8], &[u8]) = (b"1,", b"0,1970-01-01 00:00:00,1970-01-01 00:00:00,0,None,None");

/// Makes room in one file.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// The file's size when room was made last, with that room.
    size: u64,
}

impl Room {
    /// Makes room if the file has grown to this size since room was made last; then it is larger by up
    /// to a mebibyte afterwards.
    pub(super) fn renew(
        &mut self,
        handle: &mut Handle,
        directory: &mut Directory,
        size: u64,
    ) -> Result<(), GdbmError> {
        if size <= self.size {
            return Ok(());
        }
        let block = handle.block_size()?;
        let blocks = usize::try_from(size / FRACTION).unwrap_or(usize::MAX) / block.max(1);
        let pieces = blocks.min(MOST);
        self.size = size;
        // Whoever chooses digests with the hash of these keys must gain nothing.
        if pieces < FEWEST || directory.would_burst(KEY).unwrap_or(true) {
            return Ok(());
        }
        let piece = (blocks / pieces).min(LARGEST) * block;
        let text = text(piece - KEY.len());
        let stored = keys().take(pieces).try_for_each(|key| handle.store(&key, &text));
        remove_leftovers(handle)?;
        self.size += (pieces * piece) as u64;
        stored
    }
}

/// Deletes what a process that was killed may have left behind.
pub(super) fn remove_leftovers(handle: &mut Handle) -> Result<(), GdbmError> {
    keys().try_for_each(|key| handle.delete(&key).map(|_| ()))
}

fn keys() -> impl Iterator<Item = [u8; KEY.len()]> {
    (0..MOST).map(|number| {
        let mut key = *KEY;
        for pair in (0..PAIRS).filter(|pair| number & 1 << pair != 0) {
            key.swap(pair, pair + DISTANCE);
        }
        key
    })
}

/// A record of this length that is as old as any can be.
fn text(length: usize) -> Vec<u8> {
    let (head, tail) = TEXT;
    let mut text = head.to_vec();
    text.resize(length.saturating_sub(tail.len()).max(head.len()), b' ');
    text.extend_from_slice(tail);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::codec::Stored;
    use super::super::directory::hash;
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn all_keys_differ_have_one_hash_and_are_no_digests() {
        let keys: HashSet<_> = keys().collect();
        assert_eq!(keys.len(), MOST);
        assert!(keys.iter().all(|key| hash(key) == hash(KEY) && Digest::from_hex(key).is_none()));
    }

    #[test]
    fn the_text_is_that_of_an_expired_record() {
        let text = text(4056);
        assert_eq!(text.len(), 4056);
        let record = Stored::decode(&text).unwrap().record(&jiff::tz::TimeZone::UTC);
        assert_eq!(record.reports.count, 0);
        assert_eq!(record.last_change().unwrap().seconds(), 0);
    }
}
