//! Opening and binding the socket, or taking it from the service manager.

use std::net::UdpSocket;
use std::os::fd::RawFd;

use super::error::StartError;
use super::retry::{retry, retry_blocking};
use crate::server::socket::{BindError, Listener, UnboundSocket, UnusedSettings};
use crate::settings::Settings;

/// A socket that exists before the preparations: passed by the service manager, or opened by root for the user that
/// `User` names.
#[derive(Debug)]
pub(super) enum EarlySocket {
    Bound(Listener),
    /// To be bound right before the server serves.
    Unbound(UnboundSocket),
}

impl EarlySocket {
    /// Returns all descriptors.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        match self {
            Self::Bound(listener) => listener.descriptors().collect(),
            Self::Unbound(unbound) => vec![unbound.descriptor()],
        }
    }
}

/// Uses the socket that the service manager passed.
///
/// # Errors
///
/// The socket cannot be used.
pub(super) fn of_passed(settings: &Settings, socket: UdpSocket) -> Result<EarlySocket, StartError> {
    let unused = UnusedSettings {
        listen_address: settings.listen_address_is_given.then_some(settings.listen_address.as_str()),
        port: settings.port_is_given.then_some(settings.port),
        reuse_port: settings.reuse_port,
    };
    Ok(EarlySocket::Bound(Listener::of_passed(socket, settings.send_buffer, &unused)?))
}

/// Opens the socket as root, before the logs and the runtime exist. It is bound here, since the port may be one that
/// only root can bind. With `ReusePort` it is bound later: the kernel would give it a share of the other servers'
/// requests at once. The signals to stop must be blocked; they end the retries.
///
/// # Errors
///
/// The socket cannot be opened or bound, or a signal asked the server to stop.
pub(super) fn open_as_root(settings: &Settings) -> Result<EarlySocket, StartError> {
    let unbound = open(settings)?;
    if settings.reuse_port {
        return Ok(EarlySocket::Unbound(unbound));
    }
    retry_blocking(|| unbound.bind()).map(EarlySocket::Bound)
}

/// Binds the socket, and opens it first if root did not.
///
/// # Errors
///
/// It cannot be bound, even with retries.
pub(super) async fn listen(settings: &Settings, socket: Option<EarlySocket>) -> Result<Listener, BindError> {
    let unbound = match socket {
        Some(EarlySocket::Bound(listener)) => return Ok(listener),
        Some(EarlySocket::Unbound(unbound)) => unbound,
        None => open(settings)?,
    };
    retry(async || unbound.bind()).await
}

fn open(settings: &Settings) -> Result<UnboundSocket, BindError> {
    let Settings { listen_address, port, send_buffer, reuse_port, .. } = settings;
    UnboundSocket::open(listen_address, *port, *send_buffer, *reuse_port)
}
