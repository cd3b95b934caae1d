//! Entries of buckets that a change has left half written.
//!
//! The library writes a bucket as a whole. A kill in between can leave an entry with the place of one record and the
//! hash or the lengths of another, or of none. Its recovery takes whatever lies there for a record. So each entry is
//! compared with what it leads to, as gdbm 1.23 lays it out, in the machine's byte order.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::error::RepairError;
use crate::storage::gdbm::cancel::Cancel;
use crate::storage::gdbm::codec::StoredRecord;
use crate::storage::gdbm::file::directory::{BUCKET_ELEMENTS, ELEMENT_SIZE, HASH_BITS, hash};
use crate::storage::gdbm::file::header::{Header, long, word};
use crate::storage::gdbm::walk::lower_case_digest;
use pyzor_wire::digest::Digest;

/// The hash of a place without an entry.
const NOTHING: u32 = u32::MAX;
/// Longer keys and texts are none of ours.
const LONGEST: usize = 256;
/// How many entries of the directory are read at once, how many of buckets are compared together, and how much of the
/// file is read for those.
const AT_ONCE: u64 = 1 << 13;
const TOGETHER: usize = 1 << 20;
const PART: usize = 1 << 18;

/// What does not fit.
#[derive(Debug, Default)]
pub(crate) struct UnfitEntries {
    /// Keys that lie where an entry of another hash leads to.
    pub(crate) keys: Vec<Vec<u8>>,
    /// Digests whose text is none of a record.
    pub(crate) digests: HashSet<Digest>,
}

/// An entry of a bucket.
struct BucketEntry {
    /// Where it leads to.
    place: u64,
    hash: u32,
    key_size: usize,
    text_size: usize,
}

/// Looks at all entries of a file.
pub(crate) fn find_unfit(file: &File, cancel: &Cancel) -> Result<UnfitEntries, RepairError> {
    let mut found = UnfitEntries::default();
    let Some(header) = Header::read(file)? else { return Ok(found) };
    let length = file.metadata()?.len();
    let is_plausible = header.bits <= HASH_BITS
        && header.directory.checked_add(8 << header.bits).is_some_and(|end| end <= length)
        && u64::from(header.bucket_size) <= length;
    if !is_plausible {
        return Ok(found);
    }
    let mut bucket = vec![0; header.bucket_size as usize];
    let (mut last, mut at, buckets) = (0, 0, 1 << header.bits);
    let mut directory = Vec::new();
    let mut entries = Vec::new();
    while at < buckets {
        cancel.check()?;
        directory.resize(AT_ONCE.min(buckets - at) as usize * 8, 0);
        file.read_exact_at(&mut directory, header.directory + at * 8)?;
        at += AT_ONCE;
        for place in (0..directory.len()).step_by(8).map(|place| long(&directory, place)) {
            // Neighbours may lead to one bucket. What cannot be read the library cannot read either.
            if std::mem::replace(&mut last, place) != place && file.read_exact_at(&mut bucket, place).is_ok()
            {
                entries.extend(entries_of(&bucket, header.bucket_capacity as usize));
            }
        }
        if entries.len() >= TOGETHER || at >= buckets {
            compare(file, &mut entries, &mut found, cancel)?;
        }
    }
    Ok(found)
}

fn entries_of(bucket: &[u8], capacity: usize) -> impl Iterator<Item = BucketEntry> {
    let elements = bucket.get(BUCKET_ELEMENTS as usize..).unwrap_or_default();
    let entry = |element: &[u8]| BucketEntry {
        place: long(element, 8),
        hash: word(element, 0),
        key_size: word(element, 16) as usize,
        text_size: word(element, 20) as usize,
    };
    elements
        .chunks_exact(ELEMENT_SIZE)
        .take(capacity)
        .map(entry)
        .filter(|entry| entry.hash != NOTHING && entry.key_size <= LONGEST && entry.text_size <= LONGEST)
}

/// Compares entries with what they lead to, in the order of the file, which takes a third of the time.
fn compare(
    file: &File,
    entries: &mut Vec<BucketEntry>,
    found: &mut UnfitEntries,
    cancel: &Cancel,
) -> Result<(), RepairError> {
    entries.sort_unstable_by_key(|entry| entry.place);
    let (mut part, mut start, mut end) = (vec![0; PART], 0, 0);
    for BucketEntry { place, hash: expected, key_size, text_size } in entries.drain(..) {
        let Some(behind) = place.checked_add((key_size + text_size) as u64) else { continue };
        if behind > end {
            cancel.check()?;
            // What cannot be read the library cannot read either. At the end of the file there is less.
            (start, end) = (place, place + file.read_at(&mut part, place).unwrap_or(0) as u64);
        }
        if behind > end {
            continue;
        }
        let (key, rest) = part[(place - start) as usize..].split_at(key_size);
        if hash(key) != expected {
            found.keys.push(key.to_owned());
        } else if let Some(digest) =
            lower_case_digest(key).filter(|_| StoredRecord::decode(&rest[..text_size]).is_none())
        {
            found.digests.insert(digest);
        }
    }
    Ok(())
}
