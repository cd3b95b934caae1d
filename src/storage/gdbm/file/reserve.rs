//! Disk blocks reserved ahead of their use.
//!
//! The library writes through a memory mapping, and a disk that becomes full in the middle of a change destroys other
//! records. So blocks after the used part of the file are reserved with `fallocate`, and a change is made only if the
//! reserve holds the most that it can need. **Invariant: while a database is served or migrated, no library call
//! changes it unless [`DiskReserve::admit`] has returned true for it.** (A repair works on a new file, which can fail
//! safely.)
//!
//! A file system that has become read-only goes unnoticed for the same reason: the mapping accepts changes that never
//! reach the disk. So the first change in each second calls `fallocate` even if no more blocks are needed.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::resource::{Resource, getrlimit};

use super::header::Header;

/// Number of changes after which the used part of the file is measured again.
const CHANGES_PER_CHECK: u32 = 64;
/// The most bytes that so many changes can need: a block for each record, and splits of buckets.
const NEEDED: u64 = 1 << 20;
/// Fraction of the file that they can need in addition, for a directory that doubles.
const NEEDED_FRACTION: u64 = 64;
/// Number of bytes reserved at a time.
const CHUNK: u64 = 4 << 20;
/// Fraction of the file reserved at a time in addition.
const CHUNK_FRACTION: u64 = 32;
/// The lowest file size limit of a process with which a new database is usable: more than the first changes need.
pub(crate) const MIN_FILE_SIZE: u64 = 2 * NEEDED;
/// Time after which a reservation that failed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The blocks reserved for one database file.
#[derive(Debug)]
pub(crate) struct DiskReserve {
    file: File,
    /// Length of the used part, when last measured.
    in_use: u64,
    /// Offset up to which blocks are reserved; 0: nothing yet.
    end: u64,
    /// Number of changes before the next measurement.
    changes_left: u32,
    refused: Option<ReserveRefusal>,
    /// Whether the file system can reserve blocks.
    supported: bool,
    /// The second of the last change.
    last_second: i64,
}

#[derive(Debug)]
struct ReserveRefusal {
    why: String,
    at: Instant,
}

/// A change of state that must be reported to the operator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReserveNews {
    /// No change.
    None,
    /// Changes are refused from now on: the reason, and whether it is a lack of room.
    Refused(String, bool),
    /// Changes are accepted again.
    Accepted,
    /// The file system cannot reserve blocks, so changes are accepted without a reserve.
    Unsupported(String),
}

impl DiskReserve {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            in_use: 0,
            end: 0,
            changes_left: 0,
            refused: None,
            supported: true,
            last_second: i64::MIN,
        }
    }

    /// Returns the reason if changes are refused.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.why.as_str())
    }

    /// Returns the length of the used part of the file when it was last measured.
    pub(crate) fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Reserves blocks for one change. Returns whether the change may be made. `second` is the current second of any
    /// clock.
    pub(crate) fn admit(&mut self, second: i64) -> (bool, ReserveNews) {
        let is_fresh = std::mem::replace(&mut self.last_second, second) == second;
        if self.changes_left > 0 && is_fresh {
            self.changes_left -= 1;
            return (true, ReserveNews::None);
        }
        if self.refused.as_ref().is_some_and(|refused| refused.at.elapsed() < RETRY) {
            return (false, ReserveNews::None);
        }
        match self.extend(!is_fresh || self.refused.is_some()) {
            Ok(()) => {
                self.changes_left = CHANGES_PER_CHECK - 1;
                let news =
                    if self.refused.take().is_some() { ReserveNews::Accepted } else { ReserveNews::None };
                (true, news)
            }
            Err(error)
                if matches!(
                    error.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EOPNOTSUPP | Errno::ENOSYS)
                ) =>
            {
                self.supported = false;
                self.refused = None;
                (true, ReserveNews::Unsupported(error.to_string()))
            }
            Err(error) => {
                let is_full = matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
                );
                let news = match self.refused {
                    None => ReserveNews::Refused(error.to_string(), is_full),
                    Some(_) => ReserveNews::None,
                };
                self.changes_left = 0;
                self.refused = Some(ReserveRefusal { why: error.to_string(), at: Instant::now() });
                (false, news)
            }
        }
    }

    /// Extends the reserve if it is too small for the next changes. With `probes`, asks the file system in any case.
    fn extend(&mut self, probes: bool) -> io::Result<()> {
        let size = match Header::read(&self.file)? {
            Some(header) => header.next_block,
            None => self.file.metadata()?.len(),
        };
        self.in_use = size;
        let needed = size + NEEDED + size / NEEDED_FRACTION;
        // Blocks beyond this limit can be reserved but not used. The limit can change while the server runs.
        let limit = file_size_limit();
        if needed > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("files of this process are limited to {limit} bytes (ulimit -f, LimitFSIZE)"),
            ));
        }
        if !self.supported {
            return Ok(());
        }
        if needed <= self.end {
            if probes {
                // Changes nothing, but fails if the file system has become read-only.
                fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 1)?;
            }
            return Ok(());
        }
        let end = size + CHUNK + size / CHUNK_FRACTION;
        // The whole file the first time, because a sparse one has holes to fill.
        let start = if self.end == 0 { 0 } else { self.end.min(size) };
        let offset = |bytes: u64| i64::try_from(bytes).map_err(|_| io::Error::from(Errno::EFBIG));
        fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset(start)?, offset(end - start)?)?;
        self.end = end;
        Ok(())
    }
}

/// Returns the file size limit of this process in bytes.
pub(crate) fn file_size_limit() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(limit, _)| limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_system_that_became_read_only_is_noticed_within_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![0; 1 << 16]).unwrap();
        let writable = File::options().read(true).write(true).open(&path).unwrap();
        let mut reserve = DiskReserve::new(writable.try_clone().unwrap());
        assert_eq!(
            (reserve.admit(1), reserve.admit(1)),
            ((true, ReserveNews::None), (true, ReserveNews::None))
        );
        // fallocate fails on a read-only descriptor, as on a read-only file system.
        reserve.file = File::open(&path).unwrap();
        assert!(reserve.admit(1).0);
        let (admitted, news) = reserve.admit(2);
        assert!(!admitted && matches!(news, ReserveNews::Refused(_, false)), "{news:?}");
        assert_eq!(reserve.admit(2), (false, ReserveNews::None));
        assert!(reserve.refusal().is_some());
        reserve.file = writable;
        std::thread::sleep(RETRY);
        assert_eq!(reserve.admit(2), (true, ReserveNews::Accepted));
    }
}
