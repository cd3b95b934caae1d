//! Opening and binding the socket.

use std::os::fd::RawFd;

use super::error::StartError;
use super::retry::{retry, retry_blocking};
use crate::server::socket::{BindError, Listener, UnboundSocket};
use crate::settings::Settings;

/// The socket as root left it for the user that `User` names.
#[derive(Debug)]
pub(super) enum RootSocket {
    Bound(Listener),
    /// To be bound right before the server serves.
    Unbound(UnboundSocket),
}

impl RootSocket {
    /// Returns all descriptors.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Bound(listener) => listener.descriptors().collect(),
            Self::Unbound(unbound) => vec![unbound.descriptor()],
        }
    }
}

/// Opens the socket as root, before the logs and the runtime exist. It is bound here, since the port may be one that
/// only root can bind. With `ReusePort` it is bound later: the kernel would give it a share of the other servers'
/// requests at once. The signals to stop must be blocked; they end the retries.
///
/// # Errors
///
/// The socket cannot be opened or bound, or a signal asked the server to stop.
pub(super) fn open_as_root(settings: &Settings) -> Result<RootSocket, StartError> {
    let unbound = open(settings)?;
    if settings.reuse_port {
        return Ok(RootSocket::Unbound(unbound));
    }
    retry_blocking(|| unbound.bind()).map(RootSocket::Bound)
}

/// Binds the socket, and opens it first if root did not.
///
/// # Errors
///
/// It cannot be bound, even with retries.
pub(super) async fn listen(settings: &Settings, socket: Option<RootSocket>) -> Result<Listener, BindError> {
    let unbound = match socket {
        Some(RootSocket::Bound(listener)) => return Ok(listener),
        Some(RootSocket::Unbound(unbound)) => unbound,
        None => open(settings)?,
    };
    retry(async || unbound.bind()).await
}

fn open(settings: &Settings) -> Result<UnboundSocket, BindError> {
    let Settings { listen_address, port, send_buffer, reuse_port, .. } = settings;
    UnboundSocket::open(listen_address, *port, *send_buffer, *reuse_port)
}
