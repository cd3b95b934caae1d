//! Room on the disk, taken before it is needed.
//!
//! The library writes through a mapping and cannot cope with a disk that is full in the middle of
//! a change: other records are destroyed. So blocks behind what is in use are reserved, and
//! nothing is written unless the reserve can hold whatever the next changes may need.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

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
/// How soon a refused reservation is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The reserve behind what is in use of one file.
#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    in_use: u64,
    end: u64,
    changes_left: u32,
    refused: Option<Refused>,
    supported: bool,
}

#[derive(Debug)]
struct Refused {
    why: String,
    at: Instant,
}

/// What a look at the reserve brought that the operator should know.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    None,
    /// From now on changes are refused.
    Full(String),
    /// Changes are accepted again.
    RoomAgain,
    /// The file system cannot reserve, so changes are accepted without.
    Unsupported(String),
}

impl Reserve {
    /// A reserve for this file, empty at first.
    pub(super) fn new(file: File) -> Self {
        Self { file, in_use: 0, end: 0, changes_left: 0, refused: None, supported: true }
    }

    /// Why changes are refused, if they are.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.why.as_str())
    }

    /// How much of the file was in use when it was last looked at, which is now and then.
    pub(super) fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Makes room for one change. Says whether it may be made.
    pub(super) fn admit(&mut self) -> (bool, News) {
        if self.changes_left > 0 {
            self.changes_left -= 1;
            return (true, News::None);
        }
        if self.refused.as_ref().is_some_and(|refused| refused.at.elapsed() < RETRY) {
            return (false, News::None);
        }
        match self.extend() {
            Ok(()) => {
                self.changes_left = CHANGES_PER_LOOK - 1;
                let news = if self.refused.take().is_some() { News::RoomAgain } else { News::None };
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
                (true, News::Unsupported(error.to_string()))
            }
            Err(error) => {
                let news = if self.refused.is_none() { News::Full(error.to_string()) } else { News::None };
                self.refused = Some(Refused { why: error.to_string(), at: Instant::now() });
                (false, news)
            }
        }
    }

    fn extend(&mut self) -> io::Result<()> {
        let size = match Header::read(&self.file)? {
            Some(header) => header.next_block,
            None => self.file.metadata()?.len(),
        };
        self.in_use = size;
        if !self.supported {
            return Ok(());
        }
        if size + NEEDED + size / NEEDED_FRACTION <= self.end {
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
