//! Descriptors that were open when the process started, and the paths that mean them: `/dev/stdout`,
//! `/dev/stderr`, `/dev/fd/N` and `/proc/self/fd/N`, also behind symbolic links.
//!
//! Opening such a path fails where the descriptor is a socket, or a pipe or terminal of another user. So
//! the descriptor itself is used, and what belongs to others is left as it is: whether writing waits is a
//! property that all processes share which have it.
#![allow(unsafe_code, reason = "a descriptor that is known by its number has no owner to borrow it from")]

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

/// How many symbolic links are followed, as the kernel does.
const MOST_LINKS: usize = 40;
/// Where a process finds its own descriptors by their numbers.
const OWN: [&str; 3] = ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"];
/// How much a pipe that has room takes at once without waiting, and without a line of another process in
/// between.
const AT_ONCE: usize = 4096;

const STDOUT: RawFd = 1;
const STDERR: RawFd = 2;

/// The number of the descriptor of this process that a path means, if it means one.
pub(crate) fn number_of(path: &Path) -> Option<RawFd> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
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
    let own = || OWN.iter().filter_map(|own| fs::canonicalize(own).ok());
    OWN.iter().any(|own| directory == Path::new(own))
        || fs::canonicalize(directory).is_ok_and(|directory| own().any(|own| own == directory))
}

/// Checks that the descriptor which a path means, if it means one, is open. To be called for all paths
/// before any descriptor is duplicated or opened, which could take its number.
///
/// # Errors
///
/// It is not open.
pub(crate) fn check_open(path: &Path) -> io::Result<()> {
    let Some(number) = number_of(path).filter(|number| *number != STDOUT && *number != STDERR) else {
        return Ok(());
    };
    // SAFETY: the number is used by the next call alone, which fails if it is not open.
    let borrowed = (number >= 0).then(|| unsafe { BorrowedFd::borrow_raw(number) });
    let flags = borrowed.ok_or(Errno::EBADF).and_then(|it| fcntl(it, FcntlArg::F_GETFD));
    flags.map(drop).map_err(|error| io::Error::other(format!("descriptor {number}: {error}")))
}

/// A descriptor of the process's start, for writing.
#[derive(Clone, Debug)]
pub(crate) struct Inherited {
    number: RawFd,
    /// A duplicate; none of stdout and stderr, which are never closed and may become something else.
    duplicate: Option<Arc<OwnedFd>>,
}

impl Inherited {
    /// This process's stdout, whatever that becomes.
    pub(crate) const STDOUT: Self = Self { number: STDOUT, duplicate: None };
    /// This process's stderr, whatever that becomes.
    pub(crate) const STDERR: Self = Self { number: STDERR, duplicate: None };

    /// The descriptor that a path means, if it means one. To be called after [`check_open`] for all such paths
    /// and before the process has opened anything itself.
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
                // SAFETY: the number is used by the next call alone, which fails if it is not open.
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

    /// Its number at the start.
    pub(crate) fn number(&self) -> RawFd {
        self.number
    }

    /// The duplicate, which must survive going into the background.
    pub(crate) fn kept(&self) -> Option<RawFd> {
        self.duplicate.as_ref().map(|duplicate| duplicate.as_raw_fd())
    }

    /// Another descriptor of what it is now.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.with(|it| it.try_clone_to_owned())
    }

    /// Writes as much as there is room for now: whole lines, unless the first one is very long.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where there is no room, or the system's.
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

/// As many whole lines as a pipe takes at once, or the first part of a longer one.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= AT_ONCE {
        return bytes;
    }
    let part = &bytes[..AT_ONCE];
    let end = part.iter().rposition(|byte| *byte == b'\n').map_or(AT_ONCE, |end| end + 1);
    &part[..end]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn paths_of_own_descriptors_are_known_behind_links_too() {
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
    fn a_number_that_is_not_open_is_an_error() {
        assert!(Inherited::named(Path::new("/dev/fd/1000000")).is_err());
        assert!(Inherited::named(Path::new("/dev/fd/-1")).is_err());
        assert!(Inherited::named(Path::new("/dev/null")).unwrap().is_none());
    }

    #[test]
    fn a_pipe_takes_whole_lines_until_it_is_full_and_keeps_its_mode() {
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
