//! Listeners in the runtime.

use std::io;

use tokio::net::{TcpListener, UnixListener};

use super::Transport;
use super::connection::Stream;
use crate::os::local_socket::SocketFile;
use crate::os::stream_listener::StreamListener;

/// A listener in the runtime. It keeps its descriptor, the only one on which the confinement lets it accept.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    /// The file is removed before the listener is closed.
    Unix {
        _file: SocketFile,
        listener: UnixListener,
    },
}

impl Acceptor {
    /// Adds a listener, which does not block, to the runtime.
    pub(super) fn new(listener: StreamListener) -> io::Result<Self> {
        match listener {
            StreamListener::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
            StreamListener::Unix(socket) => {
                let listener = UnixListener::from_std(socket.listener)?;
                Ok(Self::Unix { _file: socket.file, listener })
            }
        }
    }

    /// Waits for a connection. Can be cancelled.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::new(stream)),
            Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Stream::new(stream)),
        }
    }

    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Tcp(_) => Transport::Tcp,
            Self::Unix { .. } => Transport::Unix,
        }
    }
}
