//! The socket that a service manager passed to this process, in the protocol of sd_listen_fds(3).

use std::env;
use std::net::{SocketAddr, UdpSocket};
use std::process;

use listenfd::ListenFd;
use thiserror::Error;

/// The passed descriptors are not one bound UDP socket.
#[derive(Debug, Error)]
pub(crate) enum PassedSocketError {
    /// `LISTEN_FDS` is not a number.
    #[error("LISTEN_FDS = {}: this is not a number of descriptors", .0.escape_debug())]
    Count(String),
    /// There are several.
    #[error(
        "the service manager passed {0} sockets, and pyzord serves one: set a single ListenDatagram= in the socket \
         unit; a port alone stands for IPv6 and IPv4"
    )]
    Several(u32),
    /// It is something else.
    #[error(
        "the service manager passed something else than a UDP socket ({0}): use ListenDatagram= in the socket unit"
    )]
    NotUdp(String),
    /// It receives from one peer only.
    #[error("the service manager passed a UDP socket that is connected to {0}: pass one that is bound only")]
    Connected(SocketAddr),
    /// It has no port.
    #[error("the service manager passed a UDP socket without a port: pass one that is bound")]
    Unbound,
}

/// Takes the UDP socket that a service manager passed, if any. Changes the environment: the process must have a single
/// thread. Children do not inherit the socket.
///
/// # Errors
///
/// Something else was passed.
pub(crate) fn passed_socket() -> Result<Option<UdpSocket>, PassedSocketError> {
    let own = process::id().to_string();
    // The variables may be meant for the parent of this process.
    let (Ok(process), Ok(count)) = (env::var("LISTEN_PID"), env::var("LISTEN_FDS")) else { return Ok(None) };
    if process != own {
        return Ok(None);
    }
    match count.parse() {
        Ok(0) => return Ok(None),
        Ok(1) => {}
        Ok(several) => return Err(PassedSocketError::Several(several)),
        Err(_) => return Err(PassedSocketError::Count(count)),
    }
    let taken = ListenFd::from_env().take_udp_socket(0);
    let Some(socket) = taken.map_err(|error| PassedSocketError::NotUdp(error.to_string()))? else {
        return Ok(None);
    };
    if let Ok(peer) = socket.peer_addr() {
        return Err(PassedSocketError::Connected(peer));
    }
    match socket.local_addr() {
        Ok(address) if address.port() != 0 => Ok(Some(socket)),
        _ => Err(PassedSocketError::Unbound),
    }
}
