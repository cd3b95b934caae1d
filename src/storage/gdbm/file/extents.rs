//! The parts of a file that are not holes. A killed server leaves a hole of a gibibyte at the end of its file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

/// Returns the ranges from `start` on that are not holes, in order: the whole rest if the file system cannot tell.
pub(crate) fn data(file: &File, start: u64) -> io::Result<Vec<Range<u64>>> {
    let length = file.metadata()?.len();
    let seek = |offset: u64, whence| {
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        match lseek64(file, offset, whence) {
            Ok(found) => Ok(Some(found.unsigned_abs())),
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(io::Error::from(error)),
        }
    };
    let (mut parts, mut at) = (Vec::new(), start);
    while at < length {
        let part = match seek(at, Whence::SeekData) {
            Ok(None) => break,
            Ok(Some(data)) => data..seek(data, Whence::SeekHole)?.unwrap_or(length),
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => at..length,
            Err(error) => return Err(error),
        };
        at = part.end;
        parts.push(part);
    }
    Ok(parts)
}

/// Copies a file into an empty one. Holes stay holes.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    for part in data(from, 0)? {
        copy_part(from, to, part)?;
    }
    to.set_len(from.metadata()?.len())
}

fn copy_part(from: &File, to: &File, part: Range<u64>) -> io::Result<()> {
    let mut bytes = vec![0; 1 << 20];
    let mut at = part.start;
    while at < part.end {
        let wanted = usize::try_from(part.end - at).unwrap_or(bytes.len()).min(bytes.len());
        let read = from.read_at(&mut bytes[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&bytes[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
