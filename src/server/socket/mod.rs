//! The UDP sockets: the listening socket, and spare sockets that only send.

mod error;
mod options;
mod passed;
mod spares;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind as bind_to, connect, getsockname,
    getsockopt, setsockopt, socket, sockopt,
};

pub(crate) use self::error::BindError;
use self::options::SocketOptions;
pub(crate) use self::passed::UnusedSettings;
use self::spares::{Sharing, open_spares};
use pyzor_udp::SourceAddress;

/// The largest send buffer of a spare socket, in bytes: the default of `net.core.wmem_max`.
const SPARE_BUFFER: usize = 212_992;

/// The listening socket and its spare sockets.
///
/// A reply to an address on a local network that no host has stays in the kernel for up to 3 seconds and occupies the
/// send buffer of its socket. Requests with forged senders can fill that buffer. Replies that do not fit go out by a
/// spare socket chosen by the receiver's address, so that one address fills at most one spare socket.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(super) socket: UdpSocket,
    /// Sockets that only send, bound to the same port at unroutable addresses, so that they receive nothing.
    pub(super) spares: Vec<UdpSocket>,
    /// The source address for spare sockets if a reply names none.
    pub(super) source: Option<SourceAddress>,
    /// Whether several datagrams to one peer can be sent as one packet (`UDP_SEGMENT`).
    pub(super) has_bursts: bool,
    /// Whether a service manager keeps the listening socket for the next server.
    pub(super) is_passed: bool,
    address: SocketAddr,
    /// Problems that do not prevent the server from running, one line each.
    pub(crate) warnings: Vec<String>,
    /// Lines for the log at level info.
    pub(crate) notices: Vec<String>,
}

impl Listener {
    /// The address and port of the listening socket.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The descriptors of all sockets.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        std::iter::once(&self.socket).chain(&self.spares).map(AsRawFd::as_raw_fd)
    }
}

/// A UDP socket with its options set, but not bound yet.
#[derive(Debug)]
pub(crate) struct UnboundSocket {
    descriptor: OwnedFd,
    /// `ListenAddress` as configured.
    address: String,
    port: u16,
    send_buffer: usize,
    is_shared: bool,
    warnings: Vec<String>,
    notices: Vec<String>,
}

impl UnboundSocket {
    /// Opens a socket for an address. An empty address means all IPv4 addresses of the host. An address with a colon
    /// is IPv6, and `::` also accepts IPv4. Anything else is an IPv4 address or a host name, resolved to its first
    /// IPv4 address. `send_buffer` is the requested size of the send buffer in bytes. With `is_shared`, other
    /// processes of the same user may bind the same port in this way.
    ///
    /// # Errors
    ///
    /// The system cannot open a socket. Options that cannot be set are warnings.
    pub(crate) fn open(
        address: &str,
        port: u16,
        send_buffer: usize,
        is_shared: bool,
    ) -> Result<Self, BindError> {
        let address = if address.is_empty() { "0.0.0.0" } else { address }.to_owned();
        let is_v6 = address.contains(':');
        let opened = datagram_socket(is_v6).and_then(|descriptor| {
            if is_shared {
                setsockopt(&descriptor, sockopt::ReusePort, &true)?;
            }
            Ok(descriptor)
        });
        let descriptor = match opened {
            Ok(descriptor) => descriptor,
            Err(error) => {
                let address = match is_v6 {
                    true => format!("[{}]:{port}", address.trim_matches(['[', ']'])),
                    false => format!("{address}:{port}"),
                };
                return Err(match error {
                    Errno::EAFNOSUPPORT if is_v6 => BindError::NoIpv6 { address },
                    error => BindError::NoSocket { address, error: error.into() },
                });
            }
        };
        let mut options = SocketOptions::of(descriptor.as_fd());
        if is_v6 {
            options.set(sockopt::Ipv6V6Only, &false, "IPV6_V6ONLY", "IPv4 requests may be lost");
        }
        options.count_drops();
        options.receive_buffer();
        options.send_buffer(send_buffer);
        let SocketOptions { warnings, notices, .. } = options;
        Ok(Self { descriptor, address, port, send_buffer, is_shared, warnings, notices })
    }

    /// The descriptor of the socket.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Binds the socket, which receives requests from now on.
    ///
    /// # Errors
    ///
    /// The address cannot be resolved, is in use, belongs to no interface, or the system refuses it. The caller may
    /// retry.
    pub(crate) fn bind(&self) -> Result<Listener, BindError> {
        let address = self.resolve()?;
        self.bind_to(address).map_err(|error| match error {
            Errno::EADDRINUSE if self.is_shared => BindError::NotShared { address },
            Errno::EADDRINUSE => BindError::InUse { address },
            Errno::EADDRNOTAVAIL => BindError::Absent { address },
            Errno::ENODEV if self.address.contains('%') => {
                BindError::AbsentInterface { address: self.name().to_owned() }
            }
            error => BindError::Refused { address, error: error.into() },
        })
    }

    /// The configured address without the brackets of an IPv6 address.
    fn name(&self) -> &str {
        if self.address.contains(':') {
            self.address.trim_start_matches('[').trim_end_matches(']')
        } else {
            &self.address
        }
    }

    fn resolve(&self) -> Result<SocketAddr, BindError> {
        let unresolved = |error| BindError::Resolve { address: self.address.clone(), error };
        let is_v6 = self.address.contains(':');
        let name = self.name();
        let address = (name, self.port)
            .to_socket_addrs()
            .map_err(|error| match is_v6 && name.contains('%') {
                true => BindError::AbsentInterface { address: name.to_owned() },
                false => unresolved(error),
            })?
            .find(|found| found.is_ipv6() == is_v6)
            .ok_or_else(|| unresolved(io::Error::other("it has no IPv4 address")))?;
        match address {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
                Err(BindError::NoInterface { address })
            }
            _ => Ok(address),
        }
    }

    fn bind_to(&self, address: SocketAddr) -> nix::Result<Listener> {
        let descriptor = self
            .descriptor
            .try_clone()
            .map_err(|error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))?;
        bind_to(descriptor.as_raw_fd(), &SockaddrStorage::from(address))?;
        // On a shared port, another process could bind the address of a spare socket.
        let sharing = (!self.is_shared).then_some(Sharing::SameUser);
        finish(descriptor, self.send_buffer, sharing, self.warnings.clone(), self.notices.clone())
    }
}

/// Sets the options of a bound socket, and opens the spare sockets unless `sharing` is none.
fn finish(
    descriptor: OwnedFd,
    send_buffer: usize,
    sharing: Option<Sharing>,
    mut warnings: Vec<String>,
    notices: Vec<String>,
) -> nix::Result<Listener> {
    let address = local_address(&descriptor)?;
    let mut options = SocketOptions::of(descriptor.as_fd());
    if address.ip().is_unspecified() {
        let missing = "replies may leave from another address than the request was sent to";
        match address {
            SocketAddr::V4(_) => options.set(sockopt::Ipv4PacketInfo, &true, "IP_PKTINFO", missing),
            SocketAddr::V6(_) => options.set(sockopt::Ipv6RecvPacketInfo, &true, "IPV6_RECVPKTINFO", missing),
        };
    }
    let has_bursts =
        options.set(sockopt::UdpGsoSegment, &0, "UDP_SEGMENT", "replies to one peer are sent one by one");
    warnings.append(&mut options.warnings);
    // Replies to the host itself never wait in the kernel.
    let spares = match sharing {
        Some(sharing) if !address.ip().is_loopback() => {
            open_spares(&descriptor, address, sharing, send_buffer.min(SPARE_BUFFER), &mut warnings)
        }
        _ => Vec::new(),
    };
    let (socket, source) = (UdpSocket::from(descriptor), SourceAddress::bound(address));
    Ok(Listener { socket, spares, source, has_bursts, is_passed: false, address, warnings, notices })
}

/// Opens and binds a socket, for tests.
#[cfg(test)]
pub(super) fn bind(
    address: &str,
    port: u16,
    send_buffer: usize,
    is_shared: bool,
) -> Result<Listener, BindError> {
    UnboundSocket::open(address, port, send_buffer, is_shared)?.bind()
}

/// Removes a socket from the group that shares its port, so that new requests go to the other sockets. Requests
/// already received stay in its buffer, and it can still send replies. Does nothing if the port is not shared.
///
/// Works by connecting the socket to itself: the kernel delivers to a connected socket only what its peer sends.
///
/// # Errors
///
/// The system call failed; requests are still delivered to the socket.
pub(super) fn leave_shared_port(socket: &(impl AsFd + AsRawFd)) -> nix::Result<()> {
    if getsockopt(socket, sockopt::ReusePort)? {
        let own: SockaddrStorage = getsockname(socket.as_raw_fd())?;
        connect(socket.as_raw_fd(), &own)?;
    }
    Ok(())
}

fn datagram_socket(is_v6: bool) -> nix::Result<OwnedFd> {
    let family = if is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Datagram, flags, SockProtocol::Udp)
}

fn local_address(socket: &impl AsRawFd) -> nix::Result<SocketAddr> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
        .ok_or(Errno::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::spares::SPARES;
    use super::*;

    /// Returns a socket for IPv6 alone, and its address.
    pub(super) fn only_v6() -> (UdpSocket, SocketAddr) {
        let descriptor = datagram_socket(true).unwrap();
        setsockopt(&descriptor, sockopt::Ipv6V6Only, &true).unwrap();
        bind_to(descriptor.as_raw_fd(), &SockaddrStorage::from("[::]:0".parse::<SocketAddr>().unwrap()))
            .unwrap();
        let address = local_address(&descriptor).unwrap();
        (UdpSocket::from(descriptor), address)
    }

    #[test]
    fn configured_addresses_are_bound() {
        let local = |address| bind(address, 0, 100_000, false).unwrap().address().ip().to_string();
        assert_eq!(local(""), "0.0.0.0");
        assert_eq!(local("localhost"), "127.0.0.1");
        assert_eq!(local("::1"), "::1");
        assert_eq!(local("[::1]"), "::1");
        assert_eq!(local("::"), "::");
    }

    #[test]
    fn bind_errors_are_one_line_each() {
        let first = bind("127.0.0.1", 0, 100_000, false).unwrap();
        let address = first.address();
        let error = bind("127.0.0.1", address.port(), 100_000, false).unwrap_err();
        assert!(matches!(error, BindError::InUse { address: taken } if taken == address), "{error}");
        let text = |address| bind(address, 1, 100_000, false).unwrap_err().to_string();
        let error = text("no such host");
        assert!(error.starts_with("cannot resolve the address no such host: ") && !error.contains('\n'));
        let error = text("192.0.2.1");
        assert!(error.starts_with("cannot listen on 192.0.2.1:1: "), "{error}");
        assert!(error.ends_with("sysctl net.ipv4.ip_nonlocal_bind=1"), "{error}");
        assert!(text("2001:db8::1").ends_with("sysctl net.ipv6.ip_nonlocal_bind=1"));
        assert!(text("fe80::1%missing").contains("fe80::1%missing: this host has no such interface"));
        assert!(text("fe80::1%999999").contains("fe80::1%999999: this host has no such interface"));
        let error = text("fe80::1");
        assert!(error.ends_with("set ListenAddress to fe80::1%INTERFACE"), "{error}");
    }

    #[test]
    fn spare_sockets_leave_the_port_closed_to_other_processes() {
        for (any, own) in [("0.0.0.0", "127.0.0.1"), ("::", "::1")] {
            let listener = bind(any, 0, 100_000, false).unwrap();
            assert!(listener.warnings.is_empty(), "{:?}", listener.warnings);
            assert_eq!(listener.spares.len(), SPARES);
            let port = listener.address().port();
            for address in [any, own] {
                let other = datagram_socket(address.contains(':')).unwrap();
                setsockopt(&other, sockopt::ReusePort, &true).unwrap();
                setsockopt(&other, sockopt::ReuseAddr, &true).unwrap();
                let address = SockaddrStorage::from(SocketAddr::new(address.parse().unwrap(), port));
                assert_eq!(bind_to(other.as_raw_fd(), &address), Err(Errno::EADDRINUSE));
            }
        }
    }
}
