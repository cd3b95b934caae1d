//! Mending a file that a killed process left behind.
//!
//! The library changes a file in several steps, the header last. A process that is killed between
//! them leaves a file that the library refuses to work with until it has been recovered. If that
//! was in the middle of splitting a bucket, the recovery does not find the new bucket, and misses
//! all records that it was to hold. They are in the file all the same, each its key with its text
//! behind it: whatever is there of a digest that the recovered file does not know is put back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use thiserror::Error;
use tracing::{info, warn};

use super::Open;
use super::codec::Stored;
use super::handle::{GdbmError, Handle, Recovered};
use super::marker::Marker;
use super::reserve::file_size_limit;
use crate::digest::{Digest, HEX_LEN};
use crate::record::Timestamp;
use crate::storage::OpenError;

/// How much of the file is looked at at once, and how much of that again with the next part, so
/// that nothing is missed in between.
const PART: usize = 1 << 20;
const OVERLAP: usize = 256;

/// Why a file could not be mended.
#[derive(Debug, Error)]
pub(super) enum RecoveryError {
    /// The library cannot.
    #[error("{0}")]
    Gdbm(#[from] GdbmError),
    /// The old file cannot be read again.
    #[error("{0}")]
    Backup(#[from] io::Error),
    /// There is no room to put records back.
    #[error(
        "there is no room on its disk, or the limit of file sizes (ulimit -f, LimitFSIZE) forbids another file"
    )]
    NoRoom,
}

/// Has the library write the file anew if it refuses to work with it, or if the marker says that it
/// was not closed. In the second case it may be sound, so that whatever hinders this is no reason
/// not to serve it.
pub(super) fn recover_if_needed(
    mut handle: Handle,
    path: &Path,
    marker: &Marker,
    open_again: impl FnOnce() -> Result<Handle, OpenError>,
) -> Result<(Handle, Option<Recovered>), OpenError> {
    let needed = handle.needs_recovery();
    if !needed && !marker.is_set() {
        return Ok((handle, None));
    }
    // The library would leave half of a new file behind on a disk that becomes full.
    let outcome = match has_room_beside(path) {
        Ok(true) => handle.recover().map_err(RecoveryError::from),
        Ok(false) => Err(RecoveryError::NoRoom),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(recovered) => Ok((handle, Some(recovered))),
        Err(error) if needed => Err(beyond_repair(path, &error)),
        Err(error) => {
            warn!(
                "the database {} was not closed and could not be repaired: {error}; it seems sound and is served; \
                 the next start tries again",
                path.display()
            );
            drop(handle);
            Ok((open_again()?, None))
        }
    }
}

fn beyond_repair(path: &Path, error: &RecoveryError) -> OpenError {
    let path = path.display();
    OpenError::new(format!(
        "the database {path} needs recovery, which failed: {error}; mend that and start again, or run pyzord \
         --recover, which mends a copy and keeps the file as it is"
    ))
}

/// Whether the disk can hold another file of this one's size, and what is reserved for changes of that, and
/// whether this process may make such a file.
pub(super) fn has_room_beside(path: &Path) -> io::Result<bool> {
    let size = std::fs::metadata(path)?.len();
    if size + size / 8 > file_size_limit() {
        return Ok(false);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let disk = nix::sys::statvfs::statvfs(folder)?;
    let free = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
    Ok(free > size + size / 8 + (8 << 20))
}

/// Puts back what a recovery has missed, unless it changed last before `horizon`, and removes the
/// backup if nothing has been lost.
pub(super) fn complete(
    open: &mut Open,
    path: &Path,
    recovered: &Recovered,
    horizon: Option<Timestamp>,
    start: Instant,
) -> Result<(), OpenError> {
    let put_back = File::open(&recovered.backup)
        .map_err(RecoveryError::from)
        .and_then(|mut backup| put_back(open, path, &mut backup, horizon));
    let missing = put_back.map_err(|error| {
        // The next start would take the repaired file for sound, and what it misses for what is not there.
        let undone = std::fs::rename(&recovered.backup, path);
        let (path, backup) = (path.display(), recovered.backup.display());
        OpenError::new(match undone {
            Ok(()) => format!(
                "the database {path} could be repaired, but not everything put back: {error}; it is as it was: mend \
                 that and start again"
            ),
            Err(undone) => format!(
                "the database {path} has been repaired, but not everything could be put back: {error}; mend that, \
                 move {backup}, which is the file as it was, back to {path}, which failed ({undone}), and start again"
            ),
        })
    })?;
    let (path, backup) = (path.display(), recovered.backup.display());
    info!(
        "the database {path} was not closed by the process that had it, which must have been killed, or only after \
         errors; {} records have been recovered, {} of them from its remains, in {:.1} s",
        recovered.records + missing,
        missing,
        start.elapsed().as_secs_f64(),
    );
    if recovered.failures > 0 {
        warn!(
            "{} parts of the database {path} could not be read; what was in them has been put back as far as it was \
             found elsewhere; the file as it was is kept: {backup}",
            recovered.failures
        );
    } else if let Err(error) = std::fs::remove_file(&recovered.backup) {
        warn!("the database's backup {backup} is not needed any more and cannot be removed: {error}");
    }
    Ok(())
}

/// Puts back what a recovery has missed, from the file as it was; says how many records that were.
pub(super) fn put_back(
    open: &mut Open,
    path: &Path,
    backup: &mut impl Read,
    horizon: Option<Timestamp>,
) -> Result<usize, RecoveryError> {
    let missing = missing(open, backup, horizon)?;
    for (digest, stored) in &missing {
        if !open.admit(path, Timestamp::now()) {
            return Err(RecoveryError::NoRoom);
        }
        open.put(&digest.to_hex(), stored)?;
    }
    Ok(missing.len())
}

/// What a file has of digests that the database does not know; of several versions that with the
/// highest counts, which is the last one.
fn missing(
    open: &mut Open,
    file: &mut impl Read,
    horizon: Option<Timestamp>,
) -> Result<HashMap<Digest, Stored>, RecoveryError> {
    let mut missing: HashMap<Digest, Stored> = HashMap::new();
    let mut part = Vec::new();
    loop {
        let kept = part.len().min(OVERLAP);
        part.drain(..part.len() - kept);
        if file.take(PART as u64).read_to_end(&mut part)? == 0 {
            return Ok(missing);
        }
        for (digest, stored) in texts(&part) {
            let last = stored.record(open.calendar.zone()).last_change();
            if horizon.is_some_and(|horizon| last.is_none_or(|last| last < horizon))
                || open.handle.fetch(&digest.to_hex(), &mut open.value)?
            {
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
    }
}

/// Every place in some bytes where a digest's text is followed by a record's.
fn texts(bytes: &[u8]) -> impl Iterator<Item = (Digest, Stored)> {
    (HEX_LEN..bytes.len()).filter_map(|at| {
        if !bytes[at..].starts_with(b"1,") {
            return None;
        }
        let key = &bytes[at - HEX_LEN..at];
        let digest = super::sweep::lower_case_digest(key)?;
        Some((digest, Stored::decode_prefix(&bytes[at..])?))
    })
}
