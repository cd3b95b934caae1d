//! Remains: records in a file that the library does not find.
//!
//! The library changes a file in several writes, the header last. After a kill in the middle of a bucket split, its
//! recovery does not find the new bucket and misses all its records. They are still in the file, each a key followed by
//! its text. So the whole file is scanned for records, and those whose digest the recovered file lacks are restored.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::RepairError;
use crate::record::Timestamp;
use crate::storage::gdbm::cancel::Cancel;
use crate::storage::gdbm::codec::StoredRecord;
use crate::storage::gdbm::file::directory::hash;
use crate::storage::gdbm::file::extents;
use crate::storage::gdbm::open_file::OpenFile;
use pyzor_wire::digest::{Digest, HEX_LEN};

/// Number of bytes scanned at a time.
const PART: usize = 1 << 20;
/// Number of bytes scanned again with the next part, so that records across the boundary are found.
const OVERLAP: usize = 256;
/// Number of records that are collected before they are looked up, sorted by hash, which is several times faster.
const BATCH: usize = 1 << 20;

/// Restores records from `file` whose digest the open database lacks or has `damaged`, except those last changed before
/// `horizon`. Returns their number. `path` names the database in the log.
pub(crate) fn put_back(
    open: &mut OpenFile,
    path: &Path,
    file: &File,
    horizon: Option<Timestamp>,
    damaged: &HashSet<Digest>,
    cancel: &Cancel,
) -> Result<usize, RepairError> {
    let missing = missing(open, file, horizon, damaged, cancel)?;
    for (digest, stored) in &missing {
        cancel.check()?;
        if !open.admit(path, Timestamp::now()) {
            return Err(RepairError::NoRoom);
        }
        open.put(&digest.to_hex(), stored)?;
    }
    Ok(missing.len())
}

/// A possible record: the hash of its key, its digest, and the offset of its text.
type RemainsCandidate = (u32, Digest, u64);

/// Returns the records to restore. Of several versions of a record, the one with the highest counts is the latest.
fn missing(
    open: &mut OpenFile,
    file: &File,
    horizon: Option<Timestamp>,
    damaged: &HashSet<Digest>,
    cancel: &Cancel,
) -> Result<HashMap<Digest, StoredRecord>, RepairError> {
    let mut missing: HashMap<Digest, StoredRecord> = HashMap::new();
    let mut found: Vec<RemainsCandidate> = Vec::new();
    let mut part = Vec::new();
    for extent in extents::data(file, 0)? {
        part.clear();
        let mut at = extent.start;
        while at < extent.end {
            cancel.check()?;
            let kept = part.len().min(OVERLAP);
            part.drain(..part.len() - kept);
            let wanted = usize::try_from(extent.end - at).unwrap_or(PART).min(PART);
            part.resize(kept + wanted, 0);
            let read = file.read_at(&mut part[kept..], at)?;
            if read == 0 {
                break;
            }
            part.truncate(kept + read);
            let start = at - kept as u64;
            found.extend(
                digests(&part).map(|(digest, text)| (hash(&digest.to_hex()), digest, start + text as u64)),
            );
            at += read as u64;
            if found.len() >= BATCH {
                keep_missing(open, file, &mut found, &mut missing, horizon, damaged)?;
            }
        }
    }
    keep_missing(open, file, &mut found, &mut missing, horizon, damaged)?;
    Ok(missing)
}

/// Moves the candidates that must be restored from `found` to `missing`.
fn keep_missing(
    open: &mut OpenFile,
    file: &File,
    found: &mut Vec<RemainsCandidate>,
    missing: &mut HashMap<Digest, StoredRecord>,
    horizon: Option<Timestamp>,
    damaged: &HashSet<Digest>,
) -> Result<(), RepairError> {
    found.sort_unstable_by_key(|(hash, ..)| *hash);
    for (_, digest, at) in found.drain(..) {
        if open.handle.has(&digest.to_hex())? && !damaged.contains(&digest) {
            continue;
        }
        let mut text = [0; OVERLAP];
        let read = file.read_at(&mut text, at)?;
        let Some(stored) = StoredRecord::decode_prefix(&text[..read]) else { continue };
        let last = stored.record(open.calendar.zone()).last_change();
        if horizon.is_some_and(|horizon| last.is_none_or(|last| last < horizon)) {
            continue;
        }
        missing
            .entry(digest)
            .and_modify(|best| {
                if stored.total() > best.total() {
                    *best = stored;
                }
            })
            .or_insert(stored);
    }
    Ok(())
}

/// Returns every digest in the bytes that the beginning of a record follows, with the position of the record.
fn digests(bytes: &[u8]) -> impl Iterator<Item = (Digest, usize)> {
    // Commas are rarer than the digit before them.
    memchr::memchr_iter(b',', bytes).filter_map(|comma| {
        let text = comma.checked_sub(1)?;
        let key = &bytes[text.checked_sub(HEX_LEN)?..text];
        if bytes[text] != b'1' {
            return None;
        }
        Some((crate::storage::gdbm::walk::lower_case_digest(key)?, text))
    })
}
