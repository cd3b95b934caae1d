//! Errors of opening and binding the listening socket.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::os::open;

/// Error of opening or binding the listening socket. Its text is one line that says what to do.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    /// The name could not be resolved.
    #[error("cannot resolve the address {address}: {error}")]
    Resolve {
        /// `ListenAddress` as configured.
        address: String,
        error: io::Error,
    },
    /// Another process uses the port.
    #[error(
        "cannot listen on {address}: the port is in use by another process: stop that process, or set another Port"
    )]
    InUse { address: SocketAddr },
    /// Another process uses the port and does not share it with this one.
    #[error(
        "cannot listen on {address}: the port is in use by a process that does not share it: set ReusePort for that \
         process, too, and run both as the same user"
    )]
    NotShared { address: SocketAddr },
    /// The interface of a link-local address does not exist, or not yet.
    #[error(
        "cannot listen on {address}: this host has no such interface: correct ListenAddress, or start pyzord after \
         the interface is up"
    )]
    AbsentInterface {
        /// `ListenAddress` as configured, with its interface.
        address: String,
    },
    /// No interface of this host has the address, or not yet.
    #[error(
        "cannot listen on {address}: no interface has this address: set ListenAddress to an address of this host, \
         or allow binding in advance: sysctl net.{}.ip_nonlocal_bind=1",
        if address.is_ipv6() { "ipv6" } else { "ipv4" }
    )]
    Absent { address: SocketAddr },
    /// The kernel does not support IPv6.
    #[error(
        "cannot listen on {address}: this kernel does not support IPv6: set ListenAddress to an IPv4 address \
         (0.0.0.0 for all)"
    )]
    NoIpv6 {
        /// `ListenAddress` as configured, and the port.
        address: String,
    },
    /// The system cannot open a socket.
    #[error("cannot listen on {address}: {error}")]
    NoSocket {
        /// `ListenAddress` as configured, and the port.
        address: String,
        error: io::Error,
    },
    /// A link-local address without its interface.
    #[error(
        "cannot listen on {address}: a link-local address needs an interface: set ListenAddress to \
         {}%INTERFACE",
        address.ip()
    )]
    NoInterface { address: SocketAddr },
    /// The system refuses to bind the address.
    #[error("cannot listen on {address}: {error}")]
    Refused { address: SocketAddr, error: io::Error },
}

impl BindError {
    /// Whether the error stays until an operator changes `ListenAddress`, `Port` or a permission.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::NoIpv6 { .. } | Self::NoInterface { .. } => true,
            Self::NoSocket { error, .. } | Self::Refused { error, .. } => open::is_lasting(error),
            Self::Resolve { .. }
            | Self::InUse { .. }
            | Self::NotShared { .. }
            | Self::AbsentInterface { .. }
            | Self::Absent { .. } => false,
        }
    }
}
