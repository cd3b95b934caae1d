//! The tail: a hole at the end of the open file, so that the file need not be mapped again whenever it grows.
//!
//! The library extends the file by one block at a time. Each time it maps the whole file again, and every page used
//! next costs a page fault: that was half the time of a report. It keeps a mapping that reaches beyond the used part.
//! So while the server has the file open, the file is a gibibyte longer. The hole takes no room on the disk, and is
//! cut off when the file is closed. To the library a file with a tail looks like one left within a change, so the
//! start after a kill cuts the tail off before the library opens the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use tracing::{debug, warn};

use super::extents;
use super::handle::Handle;
use super::header::Header;
use super::reserve::file_size_limit;

/// Length of a new tail in bytes: room for ten million records. Mapping the file again waits for an fsync, so it must
/// be rare.
const TAIL: u64 = if usize::BITS >= 64 { 1 << 30 } else { 16 << 20 };
/// Remaining length of the tail at which a new one is made.
const MIN_REST: u64 = 4 << 20;

/// The tail of one open file.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    end: u64,
    state: TailState,
}

#[derive(Debug, PartialEq, Eq)]
enum TailState {
    /// There is no tail.
    Without,
    /// The file is mapped up to its end, tail included.
    Mapped,
    /// The tail was extended and is not mapped yet. The library looks at the length only after its next write.
    Extended,
}

impl Tail {
    /// Returns the state without a tail. None is made before [`Tail::begin`].
    pub(crate) fn new(file: File) -> Self {
        Self { file, end: 0, state: TailState::Without }
    }

    /// Makes a tail with the next change, if the header has the end of the used part.
    pub(crate) fn begin(&mut self) {
        if matches!(Header::read(&self.file), Ok(Some(_))) {
            self.state = TailState::Mapped;
        }
    }

    /// Extends the tail if the used part has come near its end. Must be called after every change. Without a tail the
    /// file works, but more slowly.
    pub(crate) fn keep(&mut self, handle: &mut Handle, in_use: u64) {
        match self.state {
            TailState::Without => {}
            TailState::Mapped if in_use + MIN_REST <= self.end => {}
            TailState::Mapped => {
                self.state = match self.extend(in_use) {
                    Ok(true) => TailState::Extended,
                    Ok(false) => TailState::Mapped,
                    Err(error) => {
                        debug!("cannot extend the database file beyond its used part: {error}");
                        TailState::Without
                    }
                }
            }
            TailState::Extended => {
                self.state = TailState::Mapped;
                if let Err(error) = handle.map_anew() {
                    // As with a limit of the address space. The library continues with system calls. It must not be
                    // asked to map the file again, because it would then extend the file itself.
                    warn!(
                        "cannot map the database file beyond its used part ({error}), which makes reports several \
                         times slower: raise the limit of the address space (ulimit -v, LimitAS)"
                    );
                    self.state = TailState::Without;
                    if let Err(error) = cut(&self.file) {
                        warn!("cannot truncate the database file to its used part: {error}");
                    }
                }
            }
        }
    }

    /// Extends the tail to its full length, or to the file size limit. Returns whether it is longer than before.
    ///
    /// Near the limit even a short tail matters: without one the library would extend the file itself, and fail in the
    /// middle of a change if the limit is lowered.
    fn extend(&mut self, in_use: u64) -> io::Result<bool> {
        let end = (in_use + TAIL).min(file_size_limit());
        if end <= self.end {
            return Ok(false);
        }
        if end <= in_use {
            return Err(Errno::EFBIG.into());
        }
        self.file.set_len(end)?;
        self.end = end;
        Ok(true)
    }
}

/// Truncates a file to its used part. No change may be under way.
pub(crate) fn cut(file: &File) -> io::Result<()> {
    match Header::read(file)? {
        Some(header) if file.metadata()?.len() > header.next_block => file.set_len(header.next_block),
        _ => Ok(()),
    }
}

/// Truncates a file to its used part, but keeps data in the tail. Such data belongs to a change that was never
/// finished, and the repair needs it.
pub(crate) fn cut_empty_tail(file: &File) -> io::Result<()> {
    const PART: usize = 1 << 16;
    let Some(header) = Header::read(file)? else { return Ok(()) };
    let mut end = header.next_block;
    if file.metadata()?.len() <= end {
        return Ok(());
    }
    // File systems may report reserved blocks as data: only bytes other than zero count.
    let mut bytes = [0; PART];
    for part in extents::data(file, end)? {
        let mut at = part.start;
        while at < part.end {
            let wanted = usize::try_from(part.end - at).unwrap_or(PART).min(PART);
            let read = file.read_at(&mut bytes[..wanted], at)?;
            if read == 0 {
                break;
            }
            if let Some(last) = bytes[..read].iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += read as u64;
        }
    }
    file.set_len(end)
}
