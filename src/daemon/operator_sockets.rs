//! The listeners for operators: the control socket and the metrics.
//!
//! They are created after `User` has taken effect, so that the files are that user's, and before the confinement, which
//! forbids to listen. The port and the pid file come later: a server that starts beside a running one gets neither of
//! its listeners.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use nix::sys::stat::Mode;
use thiserror::Error;
use tracing::{info, warn};

use super::error::StartError;
use super::retry::retry_blocking;
use crate::control::socket;
use crate::os::local_socket::{LocalSocket, LocalSocketError, SocketFile};
use crate::os::stream_listener::StreamListener;
use crate::os::{open, with_umask};
use crate::settings::{MetricsAddress, Settings};

/// The reason why the metrics of `MetricsAddress` cannot be served.
#[derive(Debug, Error)]
pub(super) enum MetricsListenError {
    #[error("MetricsAddress: cannot listen on {address}: {error}: {}", advice(error))]
    Tcp { address: SocketAddr, error: std::io::Error },
    #[error("MetricsAddress: cannot create the socket {path}: {error}")]
    Unix { path: String, error: LocalSocketError },
}

impl MetricsListenError {
    /// Whether another server is the reason, which may be about to end.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Tcp { error, .. } => error.kind() == std::io::ErrorKind::AddrInUse,
            Self::Unix { error, .. } => error.is_busy(),
        }
    }

    /// Whether the error stays until an operator changes `MetricsAddress` or a permission.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::Tcp { error, .. } => open::is_lasting(error),
            Self::Unix { error, .. } => error.is_lasting(),
        }
    }
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "choose another port, or stop the process that listens on it",
        std::io::ErrorKind::AddrNotAvailable => "choose an address of this machine, such as 127.0.0.1",
        std::io::ErrorKind::PermissionDenied => "choose a port that the server's user may listen on",
        _ => "choose another address, or remove MetricsAddress",
    }
}

/// The listeners for operators.
#[derive(Debug, Default)]
pub(super) struct OperatorListeners {
    pub(super) control: Option<LocalSocket>,
    pub(super) metrics: Option<StreamListener>,
    /// The reason why there is no control socket, for the log.
    warning: Option<String>,
}

impl OperatorListeners {
    /// Creates the listeners of the settings. Without a control socket the server starts with a warning, since the
    /// option has a default; metrics that were asked for must be served. The signals to stop must be blocked; they end
    /// the wait for a listener that a stopping server still has.
    ///
    /// # Errors
    ///
    /// The metrics cannot be served, or a signal asked the server to stop.
    pub(super) fn open(settings: &Settings) -> Result<Self, StartError> {
        let metrics = settings.metrics_address.as_ref().map(listen_for_metrics).transpose()?;
        let mut listeners = Self { metrics, ..Self::default() };
        let Some(path) = &settings.control_socket else { return Ok(listeners) };
        match create_control_socket(path, settings.reuse_port) {
            Ok(control) => listeners.control = Some(control),
            Err(StartError::ControlSocket(error)) => {
                let path = path.display();
                listeners.warning = Some(format!(
                    "pyzorctl cannot reach this server: cannot create the control socket {path} (ControlSocket): {error}"
                ));
            }
            Err(error) => return Err(error),
        }
        Ok(listeners)
    }

    /// Returns all descriptors.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let control = self.control.iter().flat_map(LocalSocket::descriptors);
        control.chain(self.metrics.iter().flat_map(StreamListener::descriptors)).collect()
    }

    /// Returns the descriptors that accept connections.
    pub(super) fn accepting(&self) -> Vec<RawFd> {
        let control = self.control.iter().map(|socket| socket.listener.as_raw_fd());
        control.chain(self.metrics.iter().map(StreamListener::accepting)).collect()
    }

    /// Returns the lines for the log.
    pub(super) fn notes(&self) -> ListenerNotes {
        let control =
            self.control.as_ref().map(|socket| format!("Control socket: {}", socket.file.path().display()));
        let metrics = self.metrics.as_ref().and_then(|listener| match listener {
            StreamListener::Tcp(listener) => {
                listener.local_addr().ok().map(|address| format!("Metrics: http://{address}/metrics"))
            }
            StreamListener::Unix(socket) => Some(format!("Metrics: {}", socket.file.path().display())),
        });
        ListenerNotes {
            warning: self.warning.clone(),
            addresses: control.into_iter().chain(metrics).collect(),
        }
    }
}

/// The addresses of the listeners, and the reason why there is no control socket. A start that fails needs neither.
pub(super) struct ListenerNotes {
    warning: Option<String>,
    addresses: Vec<String>,
}

impl ListenerNotes {
    /// Writes the lines to the log.
    pub(super) fn log(&self) {
        self.warning.iter().for_each(|warning| warn!("{warning}"));
        self.addresses.iter().for_each(|address| info!("{address}"));
    }
}

/// Removes the file of a socket, with a warning if it stays.
pub(super) fn remove_file(file: SocketFile) {
    let path = file.path().to_owned();
    if let Err(error) = file.remove() {
        warn!("cannot remove the socket {}: {error}", path.display());
    }
}

fn create_control_socket(path: &Path, reuse_port: bool) -> Result<LocalSocket, StartError> {
    // Other processes on the port are no predecessors that are about to end.
    if reuse_port { Ok(socket::bind(path)?) } else { retry_blocking(|| socket::bind(path)) }
}

fn listen_for_metrics(address: &MetricsAddress) -> Result<StreamListener, StartError> {
    retry_blocking(|| match address {
        MetricsAddress::Tcp(address) => listen_on(*address)
            .map(StreamListener::Tcp)
            .map_err(|error| MetricsListenError::Tcp { address: *address, error }),
        MetricsAddress::Unix(path) => {
            // For the programs of a group, such as a proxy or a collector.
            let mode = Mode::from_bits_truncate(0o660);
            with_umask(Mode::S_IRWXO, || LocalSocket::bind(path, mode))
                .map(StreamListener::Unix)
                .map_err(|error| MetricsListenError::Unix { path: path.display().to_string(), error })
        }
    })
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
