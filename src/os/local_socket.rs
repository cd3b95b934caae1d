//! Listening Unix sockets with a path, which never take the place of one that a process listens on.
//!
//! A killed server leaves the file of its socket behind, and the next start must replace it. Only a connection shows
//! whether a process listens, so checking and replacing are two steps. These two, and the removal at the end, are made
//! under an exclusive lock (flock) on the directory: of several servers that start at once, the first creates the socket
//! and the others find that it listens. Without the lock nothing is replaced or removed.
//!
//! The directory must be one in which no other user may create files, as with every file of a server: other users could
//! hold the lock or take the name, and the server would have no socket.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat};
use nix::sys::time::{TimeSpec, TimeVal};
use nix::unistd::{UnlinkatFlags, unlinkat};
use thiserror::Error;

use super::open::is_lasting;

/// The connections that wait to be accepted. More are refused or wait in their own process.
const BACKLOG: i32 = 128;
/// The longest wait for the lock on the directory, and the pause between two attempts.
const LOCK_WAIT: Duration = Duration::from_millis(200);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// The longest path that the system's address of a Unix socket holds, in bytes.
const LONGEST_PATH: usize = 107;
/// The longest name of a socket in a directory with a longer path: the rest is for `/proc/self/fd/NUMBER/`.
const LONGEST_NAME: usize = 80;

/// The reason why a socket cannot be created. The text continues a line that names the path.
#[derive(Debug, Error)]
pub(crate) enum LocalSocketError {
    /// A process listens on the path.
    #[error("another process listens on it: stop that one, or choose another path")]
    InUse,
    /// Another process holds the lock on the directory.
    #[error("another process has locked its directory: choose a path in a directory of pyzord's own")]
    Locked,
    /// The path exists and is not a socket.
    #[error("the path exists and is not a socket: remove it, or choose another path")]
    NotSocket,
    /// The path does not end with a name.
    #[error("the path does not end with a file name: choose another path")]
    NoName,
    /// The address of a socket does not hold the path.
    #[error("the name is longer than {LONGEST_NAME} bytes: choose a shorter one")]
    LongName,
    /// The directory cannot be opened.
    #[error("cannot open its directory: {0}: create that directory, or choose another path")]
    Directory(io::Error),
    /// The system refuses the socket.
    #[error("{0}: choose a path in a directory in which the server's user may create files")]
    System(io::Error),
}

impl LocalSocketError {
    /// Whether another server is the reason, which may be about to end.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::InUse | Self::Locked)
    }

    /// Whether the error stays until an operator changes the path or its permissions.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::NotSocket | Self::NoName | Self::LongName => true,
            Self::Directory(error) | Self::System(error) => is_lasting(error),
            Self::InUse | Self::Locked => false,
        }
    }
}

impl From<Errno> for LocalSocketError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// A listening socket. When it is dropped, its file is removed before it is closed.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    pub(crate) file: SocketFile,
    /// Does not block.
    pub(crate) listener: UnixListener,
}

impl LocalSocket {
    /// Creates a socket whose file has this mode from its first moment. The umask must allow the mode. Replaces a file
    /// that no process listens on.
    ///
    /// # Errors
    ///
    /// The path is in use or cannot be created.
    pub(crate) fn bind(path: &Path, mode: Mode) -> Result<Self, LocalSocketError> {
        let place = SocketPlace::find(path)?;
        let lock = place.lock()?;
        if let Some(found) = place.stat()? {
            if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT != SFlag::S_IFSOCK {
                return Err(LocalSocketError::NotSocket);
            }
            if is_listened_on(&place.address()?)? {
                return Err(LocalSocketError::InUse);
            }
            unlinkat(&place.directory, place.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        let socket = stream_socket()?;
        // Linux gives the file the mode of the socket, less the umask. Where it does not, the umask alone decides.
        let _ = fchmod(&socket, mode);
        match bind(socket.as_raw_fd(), &place.address()?) {
            // Created since by a program that takes no lock.
            Err(Errno::EADDRINUSE) => return Err(LocalSocketError::InUse),
            outcome => outcome?,
        }
        listen(&socket, Backlog::new(BACKLOG)?)?;
        let stat = place.stat()?.ok_or(Errno::ENOENT)?;
        drop(lock);
        let file = SocketFile { place, identity: (stat.st_dev, stat.st_ino) };
        Ok(Self { file, listener: socket.into() })
    }

    /// Returns all descriptors: that of the socket, and that of its directory.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.listener.as_raw_fd(), self.file.place.directory.as_raw_fd()]
    }
}

/// Checks that a socket can have this path, and returns the name in it.
///
/// # Errors
///
/// It does not end with a name, or the name is too long.
pub(crate) fn check_path(path: &Path) -> Result<&OsStr, LocalSocketError> {
    let name = path.file_name().ok_or(LocalSocketError::NoName)?;
    // `file_name` ignores a slash at the end.
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(LocalSocketError::NoName);
    }
    if path.as_os_str().len() > LONGEST_PATH && name.len() > LONGEST_NAME {
        return Err(LocalSocketError::LongName);
    }
    Ok(name)
}

/// Connects to the socket at a path, which may be longer than the system's address of a socket. The connection, and then
/// each write, waits for at most `patience`.
///
/// # Errors
///
/// No process listens there, or the user may not connect; `WouldBlock` if the queue of connections stays full.
pub(crate) fn connect_to(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let place;
    let address = if path.as_os_str().len() <= LONGEST_PATH {
        UnixAddr::new(path)?
    } else {
        place = SocketPlace::find(path).map_err(|error| match error {
            LocalSocketError::Directory(error) | LocalSocketError::System(error) => error,
            other => io::Error::other(other.to_string()),
        })?;
        place.address()?
    };
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeSpec::from_duration(patience);
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(limit.tv_sec(), limit.tv_nsec() / 1000))?;
    loop {
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The file of a socket, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    place: SocketPlace,
    /// Device and inode.
    identity: (libc::dev_t, libc::ino_t),
}

impl SocketFile {
    /// Returns the path that the file was created at.
    pub(crate) fn path(&self) -> &Path {
        &self.place.path
    }

    /// Removes the file, unless another one has taken its place. Call it while the listener is open, so that the inode
    /// cannot be that of another file.
    ///
    /// # Errors
    ///
    /// Another process has locked the directory, or the system call fails. A file that stays is harmless: the next start
    /// replaces it.
    pub(crate) fn remove(self) -> Result<(), LocalSocketError> {
        self.remove_if_own()
    }

    fn remove_if_own(&self) -> Result<(), LocalSocketError> {
        let _lock = self.place.lock()?;
        if self.place.stat()?.is_some_and(|stat| (stat.st_dev, stat.st_ino) == self.identity) {
            unlinkat(&self.place.directory, self.place.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    }
}

/// Removes the file when a start fails or is stopped.
impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = self.remove_if_own();
    }
}

/// The directory and the name of a socket.
#[derive(Debug)]
struct SocketPlace {
    path: PathBuf,
    /// Kept open, since a confined process cannot open every directory, and a directory may be renamed.
    directory: File,
    name: OsString,
}

impl SocketPlace {
    fn find(path: &Path) -> Result<Self, LocalSocketError> {
        let name = check_path(path)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = if parent == Path::new("") { Path::new(".") } else { parent };
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECTORY);
        let directory = options.open(parent).map_err(LocalSocketError::Directory)?;
        Ok(Self { path: path.to_owned(), directory, name: name.to_owned() })
    }

    /// Locks the directory until the lock is dropped. Waits a little, since other servers hold it for a moment only.
    fn lock(&self) -> Result<DirectoryLock<'_>, LocalSocketError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match self.directory.try_lock() {
                Ok(()) => return Ok(DirectoryLock(&self.directory)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => return Err(LocalSocketError::Locked),
                Err(TryLockError::Error(error)) => return Err(LocalSocketError::System(error)),
            }
        }
    }

    fn stat(&self) -> Result<Option<FileStat>, Errno> {
        match fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// Returns the path itself, or a short one through the open directory.
    fn path_within_limit(&self) -> PathBuf {
        if self.path.as_os_str().len() <= LONGEST_PATH {
            return self.path.clone();
        }
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(&self.name)
    }

    fn address(&self) -> Result<UnixAddr, Errno> {
        UnixAddr::new(&self.path_within_limit())
    }
}

/// Unlocks the directory when it is dropped.
struct DirectoryLock<'a>(&'a File);

impl Drop for DirectoryLock<'_> {
    fn drop(&mut self) {
        // The descriptor stays open, so closing it does not unlock.
        let _ = self.0.unlock();
    }
}

/// Whether a process listens on this socket. Never waits, even if the queue of connections is full.
fn is_listened_on(address: &UnixAddr) -> Result<bool, Errno> {
    match connect(stream_socket()?.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS) => Ok(true),
        // A socket of another type, so another program's.
        Err(Errno::EPROTOTYPE) => Ok(true),
        Err(error) => Err(error),
    }
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests;
