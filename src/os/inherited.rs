//! Descriptors that the process inherited, and the paths that name them: `/dev/stdout`, `/dev/stderr`, `/dev/fd/N`
//! and `/proc/self/fd/N`, also behind symbolic links.
//!
//! Opening such a path fails if the descriptor is a socket, or a pipe or terminal of another user, so the descriptor
//! itself is used. Its flags stay unchanged, because other processes share them (`O_NONBLOCK` for example).
#![allow(unsafe_code, reason = "a descriptor that is known by number only has no owner to borrow from")]

use std::fs;
use std::io::{self, stderr, stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};

/// The maximum number of symbolic links to follow, as in the kernel.
const MAX_LINKS: usize = 40;
/// Directories of the descriptors of the own process.
const OWN_DIRECTORIES: [&str; 3] = ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"];
/// The number of bytes that a writable pipe takes without blocking and without interleaved lines of other processes
/// (`PIPE_BUF`).
const ATOMIC_WRITE: usize = 4096;

const STDOUT: RawFd = 1;
const STDERR: RawFd = 2;

/// Returns the number of the descriptor that a path names, if it names one of this process.
pub(crate) fn number_of(path: &Path) -> Option<RawFd> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if path == Path::new("/dev/stdout") {
            return Some(STDOUT);
        }
        if path == Path::new("/dev/stderr") {
            return Some(STDERR);
        }
        let parent = path.parent()?;
        if let Some(number) = path.file_name()?.to_str().and_then(|name| name.parse().ok())
            && has_own_descriptors(parent)
        {
            return Some(number);
        }
        path = parent.join(fs::read_link(&path).ok()?);
    }
    None
}

fn has_own_descriptors(directory: &Path) -> bool {
    let own = || OWN_DIRECTORIES.iter().filter_map(|own| fs::canonicalize(own).ok());
    OWN_DIRECTORIES.iter().any(|own| directory == Path::new(own))
        || fs::canonicalize(directory).is_ok_and(|directory| own().any(|own| own == directory))
}

/// Checks that the descriptor that a path names, if any, is open. Must be called for all paths before any descriptor
/// is duplicated or opened, since a new one could take the number.
///
/// # Errors
///
/// It is not open.
pub(crate) fn check_open(path: &Path) -> io::Result<()> {
    let Some(number) = number_of(path).filter(|number| *number != STDOUT && *number != STDERR) else {
        return Ok(());
    };
    // SAFETY: only the next call uses the number, and fails if it is not open.
    let borrowed = (number >= 0).then(|| unsafe { BorrowedFd::borrow_raw(number) });
    let flags = borrowed.ok_or(Errno::EBADF).and_then(|it| fcntl(it, FcntlArg::F_GETFD));
    flags.map(drop).map_err(|error| io::Error::other(format!("descriptor {number}: {error}")))
}

/// An inherited descriptor, for writing.
#[derive(Clone, Debug)]
pub(crate) struct Inherited {
    number: RawFd,
    /// A duplicate; `None` for stdout and stderr, which are never closed and may be redirected.
    duplicate: Option<Arc<OwnedFd>>,
}

impl Inherited {
    /// The stdout of this process, also after a redirection.
    pub(crate) const STDOUT: Self = Self { number: STDOUT, duplicate: None };
    /// The stderr of this process, also after a redirection.
    pub(crate) const STDERR: Self = Self { number: STDERR, duplicate: None };

    /// Returns the descriptor that a path names, if any. Must be called after [`check_open`] for all such paths, and
    /// before the process opens anything itself.
    ///
    /// # Errors
    ///
    /// It is not open for writing.
    pub(crate) fn named(path: &Path) -> io::Result<Option<Self>> {
        let Some(number) = number_of(path) else { return Ok(None) };
        let inherited = match number {
            STDOUT => Self::STDOUT,
            STDERR => Self::STDERR,
            number => {
                // SAFETY: only the next call uses the number, and fails if it is not open.
                let borrowed = (number >= 0).then(|| unsafe { BorrowedFd::borrow_raw(number) });
                let duplicate = borrowed.ok_or(Errno::EBADF.into()).and_then(|it| it.try_clone_to_owned());
                let duplicate =
                    duplicate.map_err(|error| io::Error::other(format!("descriptor {number}: {error}")))?;
                Self { number, duplicate: Some(Arc::new(duplicate)) }
            }
        };
        let flags = OFlag::from_bits_truncate(inherited.with(|it| fcntl(it, FcntlArg::F_GETFL))?);
        if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
            return Err(io::Error::other(format!("descriptor {number} is not open for writing")));
        }
        Ok(Some(inherited))
    }

    pub(crate) fn number(&self) -> RawFd {
        self.number
    }

    /// Returns the duplicate, which must stay open in a detach.
    pub(crate) fn duplicate_number(&self) -> Option<RawFd> {
        self.duplicate.as_ref().map(|duplicate| duplicate.as_raw_fd())
    }

    /// Duplicates the descriptor.
    ///
    /// # Errors
    ///
    /// The system call fails.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.with(|it| it.try_clone_to_owned())
    }

    /// Writes without blocking: as many whole lines as there is room for, or the beginning of a very long line.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room, or another error of the write.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|it| match SFlag::from_bits_truncate(fstat(it)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Ok(nix::unistd::write(it, bytes)?),
            SFlag::S_IFSOCK => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(it.as_raw_fd(), whole_lines(bytes), flags)?)
            }
            _ => {
                let mut polled = [PollFd::new(it, PollFlags::POLLOUT)];
                match poll(&mut polled, PollTimeout::ZERO)? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(nix::unistd::write(it, whole_lines(bytes))?),
                }
            }
        })
    }

    fn with<T>(&self, action: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match &self.duplicate {
            Some(duplicate) => action(duplicate.as_fd()),
            None if self.number == STDOUT => action(stdout().as_fd()),
            None => action(stderr().as_fd()),
        }
    }
}

/// Returns as many whole lines as a pipe takes atomically, or the beginning of a longer line.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= ATOMIC_WRITE {
        return bytes;
    }
    let part = &bytes[..ATOMIC_WRITE];
    let end = part.iter().rposition(|byte| *byte == b'\n').map_or(ATOMIC_WRITE, |end| end + 1);
    &part[..end]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn paths_of_own_descriptors_are_recognized_behind_links() {
        let directory = tempfile::tempdir().unwrap();
        let link = |name: &str, target: &str| {
            let path = directory.path().join(name);
            symlink(target, &path).unwrap();
            path
        };
        for (path, number) in [
            (PathBuf::from("/dev/stdout"), Some(1)),
            ("/dev/stderr".into(), Some(2)),
            ("/dev/fd/7".into(), Some(7)),
            ("/proc/self/fd/12".into(), Some(12)),
            (format!("/proc/{}/fd/3", std::process::id()).into(), Some(3)),
            ("/proc/self/../self/fd/3".into(), Some(3)),
            (link("one", "/dev/stdout"), Some(1)),
            (link("two", "one"), Some(1)),
            (link("directory", "/proc/self/fd").join("5"), Some(5)),
            (link("itself", "itself"), None),
            (link("null", "/dev/null"), None),
            (directory.path().join("7"), None),
            ("/proc/1/fd/3".into(), None),
            ("/".into(), None),
        ] {
            assert_eq!(number_of(&path), number, "{}", path.display());
        }
    }

    #[test]
    fn number_that_is_not_open_is_refused() {
        assert!(Inherited::named(Path::new("/dev/fd/1000000")).is_err());
        assert!(Inherited::named(Path::new("/dev/fd/-1")).is_err());
        assert!(Inherited::named(Path::new("/dev/null")).unwrap().is_none());
    }

    #[test]
    fn pipe_takes_whole_lines_until_full_and_keeps_its_flags() {
        let (reader, writer) = io::pipe().unwrap();
        let number = writer.as_raw_fd();
        let inherited = Inherited::named(Path::new(&format!("/dev/fd/{number}"))).unwrap().unwrap();
        let lines = b"a line of some length\n".repeat(1000);
        let mut written = 0;
        let error = loop {
            match inherited.write_now(&lines) {
                Ok(length) => {
                    assert_eq!(lines[length - 1], b'\n');
                    written += length;
                }
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(written > 30_000, "{written}");
        let flags = OFlag::from_bits_truncate(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        drop(reader);
        let error = inherited.write_now(&lines).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
