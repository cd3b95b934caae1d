//! Room on the disk, taken before it is needed.
//!
//! The library writes through a mapping and cannot cope with a disk that is full in the middle of
//! a change: other records are destroyed. So blocks behind what is in use are reserved, and
//! nothing is written unless the reserve can hold whatever the next changes may need.
//!
//! For the same reason nobody hears of a file system that has become read-only: the mapping takes the
//! changes, and they never reach the disk. So the system is asked now and then whether it would write.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::resource::{Resource, getrlimit};

use super::header::Header;

/// After how many changes it is looked at again how much is in use.
const CHANGES_PER_LOOK: u32 = 64;
/// What that many changes may need at most: each a block for the record and splits of a bucket.
/// A directory that doubles comes on top and is a fraction of the file.
const NEEDED: u64 = 1 << 20;
const NEEDED_FRACTION: u64 = 64;
/// How much is reserved at once.
const CHUNK: u64 = 4 << 20;
const CHUNK_FRACTION: u64 = 32;
/// How large this process must be allowed to make files for a new database to be of use: more than what the
/// first changes may need.
pub(crate) const MIN_FILE_SIZE: u64 = 2 * NEEDED;
/// How soon a refused reservation is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The reserve behind what is in use of one file.
#[derive(Debug)]
pub(crate) struct DiskReserve {
    file: File,
    in_use: u64,
    end: u64,
    changes_left: u32,
    refused: Option<ReserveRefusal>,
    supported: bool,
    /// The second in which the file system was last asked.
    asked: i64,
}

#[derive(Debug)]
struct ReserveRefusal {
    why: String,
    at: Instant,
}

/// What a look at the reserve brought that the operator should know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReserveNews {
    /// Nothing.
    None,
    /// From now on changes are refused: why, and whether that is for want of room.
    Full(String, bool),
    /// Changes are accepted again.
    RoomAgain,
    /// The file system cannot reserve, so changes are accepted without.
    Unsupported(String),
}

impl DiskReserve {
    /// A reserve for this file, empty at first.
    pub(crate) fn new(file: File) -> Self {
        Self { file, in_use: 0, end: 0, changes_left: 0, refused: None, supported: true, asked: i64::MIN }
    }

    /// Why changes are refused, if they are.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.why.as_str())
    }

    /// How much of the file was in use when it was last looked at, which is now and then.
    pub(crate) fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Makes room for one change in this second of some clock. Says whether it may be made.
    pub(crate) fn admit(&mut self, second: i64) -> (bool, ReserveNews) {
        let is_fresh = std::mem::replace(&mut self.asked, second) == second;
        if self.changes_left > 0 && is_fresh {
            self.changes_left -= 1;
            return (true, ReserveNews::None);
        }
        if self.refused.as_ref().is_some_and(|refused| refused.at.elapsed() < RETRY) {
            return (false, ReserveNews::None);
        }
        match self.extend(!is_fresh || self.refused.is_some()) {
            Ok(()) => {
                self.changes_left = CHANGES_PER_LOOK - 1;
                let news =
                    if self.refused.take().is_some() { ReserveNews::RoomAgain } else { ReserveNews::None };
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
                    None => ReserveNews::Full(error.to_string(), is_full),
                    Some(_) => ReserveNews::None,
                };
                self.changes_left = 0;
                self.refused = Some(ReserveRefusal { why: error.to_string(), at: Instant::now() });
                (false, news)
            }
        }
    }

    fn extend(&mut self, asks: bool) -> io::Result<()> {
        let size = match Header::read(&self.file)? {
            Some(header) => header.next_block,
            None => self.file.metadata()?.len(),
        };
        self.in_use = size;
        let needed = size + NEEDED + size / NEEDED_FRACTION;
        // Blocks behind the end of the file can be reserved beyond this limit, but not used. It may be
        // changed while the server runs.
        let limit = file_size_limit();
        if needed > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("this process may make files of {limit} bytes at most (ulimit -f, LimitFSIZE)"),
            ));
        }
        if !self.supported {
            return Ok(());
        }
        if needed <= self.end {
            if asks {
                // Changes nothing, but where nothing can be changed at all it is refused.
                fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 1)?;
            }
            return Ok(());
        }
        let end = size + CHUNK + size / CHUNK_FRACTION;
        // The first time the whole file, since a sparse one has holes to fill.
        let start = if self.end == 0 { 0 } else { self.end.min(size) };
        let offset = |bytes: u64| i64::try_from(bytes).map_err(|_| io::Error::from(Errno::EFBIG));
        fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset(start)?, offset(end - start)?)?;
        self.end = end;
        Ok(())
    }
}

/// How large this process may make a file, as far as the system tells.
pub(crate) fn file_size_limit() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(limit, _)| limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_any_more_is_found_out_within_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![0; 1 << 16]).unwrap();
        let writable = File::options().read(true).write(true).open(&path).unwrap();
        let mut reserve = DiskReserve::new(writable.try_clone().unwrap());
        assert_eq!(
            (reserve.admit(1), reserve.admit(1)),
            ((true, ReserveNews::None), (true, ReserveNews::None))
        );
        // As the descriptor of a file system that has become read-only.
        reserve.file = File::open(&path).unwrap();
        assert!(reserve.admit(1).0);
        let (admitted, news) = reserve.admit(2);
        assert!(!admitted && matches!(news, ReserveNews::Full(_, false)), "{news:?}");
        assert_eq!(reserve.admit(2), (false, ReserveNews::None));
        assert!(reserve.refusal().is_some());
        reserve.file = writable;
        std::thread::sleep(RETRY);
        assert_eq!(reserve.admit(2), (true, ReserveNews::RoomAgain));
    }
}
