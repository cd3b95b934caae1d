//! Listeners for connections: TCP, or a Unix socket.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

use super::local_socket::LocalSocket;

/// A listener that does not block.
#[derive(Debug)]
pub(crate) enum StreamListener {
    Tcp(TcpListener),
    Unix(LocalSocket),
}

impl StreamListener {
    /// Returns the descriptor that accepts connections.
    pub(crate) fn accepting(&self) -> RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(socket) => socket.listener.as_raw_fd(),
        }
    }

    /// Returns all descriptors.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Tcp(listener) => vec![listener.as_raw_fd()],
            Self::Unix(socket) => socket.descriptors().to_vec(),
        }
    }
}
