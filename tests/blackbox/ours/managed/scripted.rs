//! A scripted service manager, which reads each message.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::PATIENCE;

/// The socket of a service manager.
pub(super) struct Manager {
    socket: UnixDatagram,
    /// The value of `NOTIFY_SOCKET`.
    pub(super) name: OsString,
    /// The directory of the socket, which only the user of the tests can reach.
    _directory: TempDir,
}

impl Manager {
    /// A manager whose socket has a path that other users cannot reach.
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), name: path.into(), _directory: directory }
    }

    /// A manager whose socket has an abstract name.
    pub(super) fn with_abstract_name() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("notify").display().to_string();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self { socket, name: format!("@{name}").into(), _directory: directory }
    }

    /// Fills the queue of the socket.
    pub(super) fn fill(&self) {
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        filler.connect(&self.name).unwrap();
        while filler.send(b"STATUS=filler\n").is_ok() {}
    }

    /// Returns the next message that arrives in time.
    pub(super) fn next_within(&self, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).unwrap();
            match self.socket.recv(&mut buffer) {
                Ok(length) => return Some(String::from_utf8(buffer[..length].to_vec()).unwrap()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits for the next change of state, and returns its message. Skips the status, the watchdog, and requests for
    /// time.
    #[track_caller]
    pub(super) fn change(&self) -> String {
        self.next_but(&["STATUS=", "WATCHDOG=", "EXTEND_TIMEOUT_USEC="])
    }

    /// Waits for the next message that begins with none of these.
    #[track_caller]
    pub(super) fn next_but(&self, skipped: &[&str]) -> String {
        loop {
            let message = self.next_within(PATIENCE).expect("a message to the service manager");
            if !skipped.iter().any(|start| message.starts_with(start)) {
                return message;
            }
        }
    }

    /// Waits for a message that begins with this.
    #[track_caller]
    pub(super) fn wait_for(&self, start: &str) -> String {
        loop {
            let message = self.next_within(PATIENCE).unwrap_or_else(|| panic!("no message {start}"));
            if message.starts_with(start) {
                return message;
            }
        }
    }
}
