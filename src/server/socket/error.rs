//! Why the server cannot listen.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// Why the server cannot listen: one line that says what to do.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    /// It is neither an address nor a name that can be resolved.
    #[error("cannot resolve the address {address}: {error}")]
    Resolve {
        /// The address as the settings have it.
        address: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// Another process listens there.
    #[error(
        "cannot listen on {address}: the port is in use by another process; stop that, or choose another Port"
    )]
    InUse {
        /// The address and port.
        address: SocketAddr,
    },
    /// Another process listens there, and does not share the port with this one.
    #[error(
        "cannot listen on {address}: the port is in use by a process that does not share it: that must have ReusePort, \
         too, and have been started by the same user"
    )]
    NotShared {
        /// The address and port.
        address: SocketAddr,
    },
    /// The interface of a link-local address does not exist, at least not yet.
    #[error(
        "cannot listen on {address}: this host has no such interface; correct ListenAddress, or start pyzord once \
         the interface is there"
    )]
    AbsentInterface {
        /// The address with its interface, as the settings have it.
        address: String,
    },
    /// No interface of this host has the address, at least not yet.
    #[error(
        "cannot listen on {address}: no interface has this address; set ListenAddress to one of this host, or allow \
         listening before the address is there: sysctl net.{}.ip_nonlocal_bind=1",
        if address.is_ipv6() { "ipv6" } else { "ipv4" }
    )]
    Absent {
        /// The address and port.
        address: SocketAddr,
    },
    /// The kernel has no IPv6.
    #[error(
        "cannot listen on {address}: this kernel has no IPv6; set ListenAddress to an IPv4 address (0.0.0.0: all)"
    )]
    NoIpv6 {
        /// The address as the settings have it, and the port.
        address: String,
    },
    /// The system has no socket to give.
    #[error("cannot listen on {address}: {error}")]
    NoSocket {
        /// The address as the settings have it.
        address: String,
        /// The system's reason.
        error: io::Error,
    },
    /// A link-local address without its interface.
    #[error(
        "cannot listen on {address}: a link-local address is one of an interface: set ListenAddress to \
         {}%INTERFACE",
        address.ip()
    )]
    NoInterface {
        /// The address and port.
        address: SocketAddr,
    },
    /// The system refused.
    #[error("cannot listen on {address}: {error}")]
    Refused {
        /// The address and port.
        address: SocketAddr,
        /// The system's reason.
        error: io::Error,
    },
}
