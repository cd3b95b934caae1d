//! Clients that send one request after the other.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::{PATIENCE, Reply};

/// A client with its own socket.
pub(crate) struct Caller {
    socket: UdpSocket,
    thread: u32,
}

impl Caller {
    /// A client of the server on this port of 127.0.0.1.
    pub(crate) fn to(port: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        Self { socket, thread: 1024 }
    }

    /// Sends a request, and waits up to `patience` for the reply to it. Other replies are dropped.
    pub(crate) fn ask(&mut self, operation: &str, digests: &[&str], patience: Duration) -> Option<Reply> {
        self.thread += 1;
        // Fails if no server listens there.
        self.socket.send(request(operation, digests, self.thread).as_bytes()).ok()?;
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 8192];
        loop {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.socket.set_read_timeout(Some(left)).unwrap();
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            let reply = Reply(buffer[..length].to_vec());
            if reply.number("Thread") == i64::from(self.thread) {
                return Some(reply);
            }
        }
    }

    /// Sends a request and returns the reply; panics if there is none.
    #[track_caller]
    pub(crate) fn answered(&mut self, operation: &str, digests: &[&str]) -> Reply {
        self.ask(operation, digests, PATIENCE).unwrap_or_else(|| panic!("no reply to {operation}"))
    }

    /// Returns the number of reports of a digest according to the server.
    #[track_caller]
    pub(crate) fn count(&mut self, digest: &str) -> i64 {
        self.answered("check", &[digest]).counts().0
    }

    /// Sends a request with this `Thread` without waiting for a reply.
    pub(crate) fn send(&self, operation: &str, digests: &[&str], thread: u32) {
        self.socket.send(request(operation, digests, thread).as_bytes()).unwrap();
    }

    /// Returns the next reply that arrives within `patience`.
    pub(crate) fn receive(&self, patience: Duration) -> Option<Reply> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 8192];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => return Some(Reply(buffer[..length].to_vec())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

fn request(operation: &str, digests: &[&str], thread: u32) -> String {
    let digests: String = digests.iter().map(|digest| format!("Op-Digest: {digest}\n")).collect();
    format!("Op: {operation}\n{digests}PV: 2.1\nThread: {thread}\n\n")
}
