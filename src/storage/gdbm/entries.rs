//! Entries of buckets that a change has left half written.
//!
//! The library writes a bucket as a whole. A kill in between can leave an entry with the place of one record and the
//! hash or the lengths of another, or of none. Its recovery takes whatever lies there for a record. So each entry is
//! compared with what it leads to, as gdbm 1.23 lays it out, in the machine's byte order.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::cancel::Cancel;
use super::codec::Stored;
use super::directory::{BUCKET_ELEMENTS, ELEMENT_SIZE, HASH_BITS, hash};
use super::header::{Header, long, word};
use super::repair::RepairError;
use super::sweep::lower_case_digest;
use crate::digest::Digest;

/// The hash of a place without an entry.
const NOTHING: u32 = u32::MAX;
/// Longer keys and texts are none of ours.
const LONGEST: usize = 256;
/// How many entries of the directory are read at once.
const AT_ONCE: u64 = 1 << 13;

/// What does not fit.
#[derive(Debug, Default)]
pub(super) struct Unfit {
    /// Keys that lie where an entry of another hash leads to.
    pub(super) keys: Vec<Vec<u8>>,
    /// Digests whose text is none of a record.
    pub(super) digests: HashSet<Digest>,
}

/// Looks at all entries of a file.
pub(super) fn unfit(file: &File, cancel: &Cancel) -> Result<Unfit, RepairError> {
    let mut found = Unfit::default();
    let Some(header) = Header::read(file)? else { return Ok(found) };
    let length = file.metadata()?.len();
    let is_plausible = header.bits <= HASH_BITS
        && header.directory.checked_add(8 << header.bits).is_some_and(|end| end <= length)
        && u64::from(header.bucket_size) <= length;
    if !is_plausible {
        return Ok(found);
    }
    let mut bucket = vec![0; header.bucket_size as usize];
    let (mut last, mut at, entries) = (0, 0, 1 << header.bits);
    let mut directory = Vec::new();
    while at < entries {
        cancel.check()?;
        directory.resize(AT_ONCE.min(entries - at) as usize * 8, 0);
        file.read_exact_at(&mut directory, header.directory + at * 8)?;
        at += AT_ONCE;
        for place in (0..directory.len()).step_by(8).map(|place| long(&directory, place)) {
            // Entries that lead to one bucket are neighbours. What cannot be read the library cannot read either.
            if std::mem::replace(&mut last, place) != place && file.read_exact_at(&mut bucket, place).is_ok()
            {
                look_at(file, &bucket, header.bucket_capacity as usize, &mut found);
            }
        }
    }
    Ok(found)
}

fn look_at(file: &File, bucket: &[u8], capacity: usize, found: &mut Unfit) {
    let elements = bucket.get(BUCKET_ELEMENTS as usize..).unwrap_or_default();
    let mut bytes = [0; 2 * LONGEST];
    for element in elements.chunks_exact(ELEMENT_SIZE).take(capacity) {
        let (key_size, text_size) = (word(element, 16) as usize, word(element, 20) as usize);
        if word(element, 0) == NOTHING || key_size > LONGEST || text_size > LONGEST {
            continue;
        }
        let bytes = &mut bytes[..key_size + text_size];
        if file.read_exact_at(bytes, long(element, 8)).is_err() {
            continue;
        }
        let (key, text) = bytes.split_at(key_size);
        if hash(key) != word(element, 0) {
            found.keys.push(key.to_owned());
        } else if let Some(digest) = lower_case_digest(key).filter(|_| Stored::decode(text).is_none()) {
            found.digests.insert(digest);
        }
    }
}
