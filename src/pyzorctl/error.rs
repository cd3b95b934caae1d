//! Reasons why there is no answer of the server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::connection::MAX_REPLY;
use super::host_port::HostPort;

/// The reason why there is no answer. The text says what to do.
#[derive(Debug, Error)]
pub(super) enum NoAnswer {
    /// The config file of the homedir cannot be used.
    #[error("{0}: correct it, or run pyzorctl as root or as the server's user")]
    Config(String),
    /// There is no homedir.
    #[error("there is no directory {}: name the server's homedir with --homedir, or its socket with --socket", .0.display())]
    NoHomedir(PathBuf),
    /// The config has no control socket.
    #[error("ControlSocket is empty in {}, so the server has no control socket: set it and restart the server", .0.display())]
    Disabled(PathBuf),
    /// The path does not exist.
    #[error(
        "there is no control socket {}: if a server is running, name its homedir with --homedir; otherwise start it", .0.display()
    )]
    Missing(PathBuf),
    /// The path is not a socket.
    #[error("{} is not a socket: correct ControlSocket or --socket", .0.display())]
    NotASocket(PathBuf),
    /// The current user may not use the socket.
    #[error("cannot connect to {}: permission denied: run pyzorctl as root or as the server's user", .0.display())]
    Denied(PathBuf),
    /// No process listens on the socket.
    #[error("no server listens on {}: it has stopped; start it", .0.display())]
    Stale(PathBuf),
    /// The server does not accept the connection.
    #[error("the server at {} accepts no connection: it has too many, or is stopped or hung", .0.display())]
    Busy(PathBuf),
    /// Another error of the system.
    #[error("cannot use the control socket {}: {error}", .path.display())]
    System { path: PathBuf, error: io::Error },
    /// The server closed the connection.
    #[error(
        "the server at {} closed the connection without a complete reply: it is stopping, has too many connections, or \
         serves only root and its own user", .0.display()
    )]
    Closed(PathBuf),
    /// No complete reply arrived in time.
    #[error("no reply from {} within {} s: the server is stopped or hung", .path.display(), .patience.as_secs())]
    Silent { path: PathBuf, patience: Duration },
    /// The reply is too long.
    #[error("the reply from {} is longer than {MAX_REPLY} bytes: it is not that of pyzord", .0.display())]
    TooLong(PathBuf),
    /// The reply is not what was asked for.
    #[error(
        "the reply from {} is not understood ({reason}): the server may be of another version than this pyzorctl; restart it",
        .path.display()
    )]
    Malformed { path: PathBuf, reason: String },
    /// The name of a server has no address.
    #[error("cannot resolve {server}: {error}")]
    Unresolved { server: HostPort, error: io::Error },
    /// The config lets the system choose the port.
    #[error("Port is 0 in the config of {}, so the port is not known: name the server as HOST:PORT", .0.display())]
    NoPort(PathBuf),
    /// The server reports an error.
    #[error("{0}")]
    Refused(String),
    /// The server cannot answer now, or not this user.
    #[error("{0}")]
    Unavailable(String),
}

impl NoAnswer {
    /// The reason for an error of the system.
    pub(super) fn of_system(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing(path),
            io::ErrorKind::PermissionDenied => Self::Denied(path),
            io::ErrorKind::ConnectionRefused if is_other_file(&path) => Self::NotASocket(path),
            io::ErrorKind::ConnectionRefused => Self::Stale(path),
            io::ErrorKind::WouldBlock => Self::Busy(path),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Closed(path)
            }
            _ => Self::System { path, error },
        }
    }
}

/// Whether a path is known to be something else than a socket.
fn is_other_file(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    path.metadata().is_ok_and(|metadata| !metadata.file_type().is_socket())
}
