//! Records that are in a file and that the library does not find.
//!
//! The library changes a file in several steps, the header last. If it is killed in the middle of splitting a
//! bucket, its recovery does not find the new bucket, and misses all records that it was to hold. They are in
//! the file all the same, each its key with its text behind it: whatever is there of a digest that the recovered
//! file does not know is put back.

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

/// How much of the file is looked at at once, and how much of that again with the next part, so
/// that nothing is missed in between.
const PART: usize = 1 << 20;
const OVERLAP: usize = 256;
/// How many records are looked up at once. In the order of the file that is several times quicker.
const AT_ONCE: usize = 1 << 20;

/// Puts back what `file` has and the database does not, or has `damaged`, unless it changed last before `horizon`;
/// says how many records that were. The database is called `path` in what is logged.
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

/// A place in a file that may be a record: the hash of its key, its digest, and where its text begins.
type RemainsCandidate = (u32, Digest, u64);

/// What a file has of digests that the database does not know; of several versions that with the
/// highest counts, which is the last one.
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
            if found.len() >= AT_ONCE {
                keep_missing(open, file, &mut found, &mut missing, horizon, damaged)?;
            }
        }
    }
    keep_missing(open, file, &mut found, &mut missing, horizon, damaged)?;
    Ok(missing)
}

/// Keeps of what was found what is missing.
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

/// Every digest's text in some bytes that the beginning of a record follows, and where that is.
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
