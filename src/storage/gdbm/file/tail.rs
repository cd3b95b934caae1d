//! The file made longer than what is in use, so that it need not be mapped anew whenever it grows.
//!
//! The library lets the file grow by one block at a time. Each time it maps the whole file anew, and
//! every page that is used next costs a page fault: that was half the time of a report. A mapping that
//! reaches beyond what is in use is kept. So while the server has the file open it has a tail: a hole,
//! which takes no room on the disk, and which is mapped with the rest. It is cut off when the file is
//! closed. The library takes a file with a tail for one that was cut off in a change; so the next start
//! after a kill cuts it off before the library opens the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use tracing::{debug, warn};

use super::extents;
use super::handle::Handle;
use super::header::Header;
use super::reserve::file_size_limit;

/// How long the tail is made: room for ten million new records, after which the file is mapped anew. The
/// library then waits for the disk, so that must be seldom.
const TAIL: u64 = if usize::BITS >= 64 { 1 << 30 } else { 16 << 20 };
/// How much of the tail is left when a new one is made.
const LEFT: u64 = 4 << 20;

/// The tail of one open file.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    end: u64,
    state: TailState,
}

#[derive(Debug, PartialEq, Eq)]
enum TailState {
    /// No tail is wanted, or none can be had.
    Without,
    /// The file is mapped up to its end.
    Mapped,
    /// It is not yet. The library asks for the length only behind a write.
    Longer,
}

impl Tail {
    /// No tail, and none is going to be made before [`Tail::begin`].
    pub(crate) fn new(file: File) -> Self {
        Self { file, end: 0, state: TailState::Without }
    }

    /// From the next change on there is a tail, if the file has the layout by which it can be told from
    /// what is in use.
    pub(crate) fn begin(&mut self) {
        if matches!(Header::read(&self.file), Ok(Some(_))) {
            self.state = TailState::Mapped;
        }
    }

    /// Makes the tail longer if what is in use has come near its end. To be called behind every change.
    /// Where none can be had, the file is slower.
    pub(crate) fn keep(&mut self, handle: &mut Handle, in_use: u64) {
        match self.state {
            TailState::Without => {}
            TailState::Mapped if in_use + LEFT <= self.end => {}
            TailState::Mapped => {
                self.state = match self.extend(in_use) {
                    Ok(true) => TailState::Longer,
                    Ok(false) => TailState::Mapped,
                    Err(error) => {
                        debug!("the database file cannot be made longer ahead of its use: {error}");
                        TailState::Without
                    }
                }
            }
            TailState::Longer => {
                self.state = TailState::Mapped;
                if let Err(error) = handle.map_anew() {
                    // As where the process may not have so many addresses. The library goes on with
                    // system calls; told to map the file again, it would make it longer by itself.
                    warn!(
                        "the database file cannot be mapped ahead of its use ({error}): reports cost several times as \
                         much as they need to"
                    );
                    self.state = TailState::Without;
                    if let Err(error) = cut(&self.file) {
                        warn!("the tail of the database file cannot be cut off: {error}");
                    }
                }
            }
        }
    }

    /// Makes the tail as long as it is to be, or as a limit of file sizes lets it be. Returns whether it is
    /// longer now.
    ///
    /// Near such a limit a short tail matters most: without one the library would make the file longer itself,
    /// and fail in the middle of a change once the limit is lowered.
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

/// Cuts off the tail of a file that no change is under way in.
pub(crate) fn cut(file: &File) -> io::Result<()> {
    match Header::read(file)? {
        Some(header) if file.metadata()?.len() > header.next_block => file.set_len(header.next_block),
        _ => Ok(()),
    }
}

/// Cuts off the tail of a file that a change may have been under way in. Data in the tail is kept, since it is that
/// of a change which was never finished.
pub(crate) fn cut_empty_tail(file: &File) -> io::Result<()> {
    const PART: usize = 1 << 16;
    let Some(header) = Header::read(file)? else { return Ok(()) };
    let mut end = header.next_block;
    if file.metadata()?.len() <= end {
        return Ok(());
    }
    // Blocks that were reserved may or may not seem to be there: data is what is not zero.
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
