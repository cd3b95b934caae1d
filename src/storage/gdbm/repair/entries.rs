//! Detection of bucket entries that a kill has left half written.
//!
//! A kill while the library writes a bucket can leave an entry with the offset of one record and the hash or lengths of
//! another. The library's recovery takes the bytes at that offset for a record. So each entry is compared with the key
//! and text at its offset (layout of gdbm 1.23, the machine's byte order).

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

/// The hash of an unused entry.
const UNUSED: u32 = u32::MAX;
/// Maximum length of a key or text. Longer ones are not records of this server.
const LONGEST: usize = 256;
/// Number of directory entries read at a time.
const DIRECTORY_CHUNK: u64 = 1 << 13;
/// Number of bucket entries that are collected before they are compared.
const ENTRY_CHUNK: usize = 1 << 20;
/// Number of bytes of the file read at a time for the comparison.
const READ_SIZE: usize = 1 << 18;

/// Entries that do not match the record at their offset.
#[derive(Debug, Default)]
pub(crate) struct UnfitEntries {
    /// Keys whose hash is not that of the entry.
    pub(crate) keys: Vec<Vec<u8>>,
    /// Digests whose text cannot be decoded.
    pub(crate) digests: HashSet<Digest>,
}

/// An entry of a bucket.
struct BucketEntry {
    /// Offset of the key, which the text follows.
    offset: u64,
    hash: u32,
    key_size: usize,
    text_size: usize,
}

/// Compares all bucket entries of a file with the records at their offsets.
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
        directory.resize(DIRECTORY_CHUNK.min(buckets - at) as usize * 8, 0);
        file.read_exact_at(&mut directory, header.directory + at * 8)?;
        at += DIRECTORY_CHUNK;
        for offset in (0..directory.len()).step_by(8).map(|offset| long(&directory, offset)) {
            // Adjacent directory entries may name one bucket. The library cannot read an unreadable one either.
            if std::mem::replace(&mut last, offset) != offset
                && file.read_exact_at(&mut bucket, offset).is_ok()
            {
                entries.extend(entries_of(&bucket, header.bucket_capacity as usize));
            }
        }
        if entries.len() >= ENTRY_CHUNK || at >= buckets {
            compare(file, &mut entries, &mut found, cancel)?;
        }
    }
    Ok(found)
}

fn entries_of(bucket: &[u8], capacity: usize) -> impl Iterator<Item = BucketEntry> {
    let elements = bucket.get(BUCKET_ELEMENTS as usize..).unwrap_or_default();
    let entry = |element: &[u8]| BucketEntry {
        offset: long(element, 8),
        hash: word(element, 0),
        key_size: word(element, 16) as usize,
        text_size: word(element, 20) as usize,
    };
    elements
        .chunks_exact(ELEMENT_SIZE)
        .take(capacity)
        .map(entry)
        .filter(|entry| entry.hash != UNUSED && entry.key_size <= LONGEST && entry.text_size <= LONGEST)
}

/// Compares entries with the records at their offsets, in the order of the file, which takes a third of the time.
fn compare(
    file: &File,
    entries: &mut Vec<BucketEntry>,
    found: &mut UnfitEntries,
    cancel: &Cancel,
) -> Result<(), RepairError> {
    entries.sort_unstable_by_key(|entry| entry.offset);
    let (mut part, mut start, mut end) = (vec![0; READ_SIZE], 0, 0);
    for BucketEntry { offset, hash: expected, key_size, text_size } in entries.drain(..) {
        let Some(end_of_text) = offset.checked_add((key_size + text_size) as u64) else { continue };
        if end_of_text > end {
            cancel.check()?;
            // The library cannot read an unreadable part either. A read at the end of the file is short.
            (start, end) = (offset, offset + file.read_at(&mut part, offset).unwrap_or(0) as u64);
        }
        if end_of_text > end {
            continue;
        }
        let (key, rest) = part[(offset - start) as usize..].split_at(key_size);
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
