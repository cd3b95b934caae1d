//! The UDP sockets: the one that requests come to, and spare ones that only send.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, GetSockOpt, SetSockOpt, SockFlag, SockProtocol, SockType, SockaddrStorage,
    bind as bind_to, connect, getsockname, getsockopt, setsockopt, socket, sockopt,
};
use thiserror::Error;

use pyzor_udp::Source;

/// How many bytes of received datagrams the kernel is asked to hold, which it then doubles: some 5000
/// requests, which a pause of 20 ms fills under a full load. More would make answers old under overload.
const RECEIVE_BUFFER: usize = 2 << 20;

/// How many sockets send besides the first one when that one is full.
const SPARES: usize = 16;
/// How many bytes a spare socket asks for as its send buffer at most; `net.core.wmem_max` allows this
/// everywhere.
const SPARE_BUFFER: usize = 212_992;
/// How many descriptors the process must be allowed for spare sockets to be made: the start, a reload and a
/// database need the others.
const LEAST_DESCRIPTORS: u64 = 128;

/// Why the server cannot listen: one line that says what to do.
#[derive(Debug, Error)]
pub enum BindError {
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

/// The socket that requests come to, with spare ones.
///
/// A reply to an address on a local network at which no host answers stays in the kernel for up to 3 seconds,
/// and takes room in the send buffer of its socket. Requests with forged senders can fill that buffer. Replies
/// that then do not fit go out by spare sockets, one chosen by the receiver's address, so that an address
/// fills one spare socket at most.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UdpSocket,
    /// Bound to the same port, and to addresses that no network reaches, so that they receive nothing.
    pub(super) spares: Vec<UdpSocket>,
    /// Where spare sockets send from, where a reply does not say it.
    pub(super) source: Option<Source>,
    /// Whether several datagrams to one peer can be sent as one packet.
    pub(super) has_bursts: bool,
    address: SocketAddr,
    /// What does not work and does not keep the server from serving, a line each.
    pub warnings: Vec<String>,
    /// What is good to know, a line each.
    pub notices: Vec<String>,
}

impl Listener {
    /// The address and port that requests come to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        std::iter::once(&self.socket).chain(&self.spares).map(AsRawFd::as_raw_fd)
    }
}

/// A UDP socket that has its buffers and no port yet, so that no request comes to it.
#[derive(Debug)]
pub struct Unbound {
    descriptor: OwnedFd,
    /// The address as the settings have it.
    address: String,
    port: u16,
    send_buffer: usize,
    is_shared: bool,
    warnings: Vec<String>,
    notices: Vec<String>,
}

impl Unbound {
    /// Makes a socket for an address. An empty one is every IPv4 address of the host; one with a colon is IPv6,
    /// where `::` serves IPv4 as well; anything else is an IPv4 address or a host name, of which the first IPv4
    /// address counts. `send_buffer` is how many bytes of replies the kernel is asked to hold, and `is_shared` is
    /// whether other processes may bind the same port in this way, if the same user has made their sockets.
    ///
    /// # Errors
    ///
    /// The system has none. Options that it refuses are warnings.
    pub fn open(address: &str, port: u16, send_buffer: usize, is_shared: bool) -> Result<Self, BindError> {
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
        let mut options = Options::of(descriptor.as_fd());
        if is_v6 {
            options.set(sockopt::Ipv6V6Only, &false, "IPV6_V6ONLY", "IPv4 requests may not arrive");
        }
        options.set(sockopt::RxqOvfl, &1, "SO_RXQ_OVFL", "datagrams that the kernel drops are not counted");
        options.receive_buffer();
        options.send_buffer(send_buffer);
        let Options { warnings, notices, .. } = options;
        Ok(Self { descriptor, address, port, send_buffer, is_shared, warnings, notices })
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Binds the socket, to which requests come from now on.
    ///
    /// # Errors
    ///
    /// The address cannot be resolved, is in use or not there, or the system refuses it. It can be tried again.
    pub fn bind(&self) -> Result<Listener, BindError> {
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

    /// The address without the brackets that one of IPv6 may have.
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
        let mut options = Options::of(descriptor.as_fd());
        if address.ip().is_unspecified() {
            let missing = "replies may leave from another address than the one that was asked";
            match address {
                SocketAddr::V4(_) => options.set(sockopt::Ipv4PacketInfo, &true, "IP_PKTINFO", missing),
                SocketAddr::V6(_) => {
                    options.set(sockopt::Ipv6RecvPacketInfo, &true, "IPV6_RECVPKTINFO", missing)
                }
            };
        }
        let has_bursts =
            options.set(sockopt::UdpGsoSegment, &0, "UDP_SEGMENT", "replies to one peer are sent one by one");
        let mut warnings = self.warnings.clone();
        warnings.append(&mut options.warnings);
        let address = local_address(&descriptor)?;
        // What is sent to the host itself never waits in the kernel. On a shared port another process could take the
        // address of a spare one.
        let spares = if self.is_shared || address.ip().is_loopback() {
            Vec::new()
        } else {
            spares(&descriptor, address, self.send_buffer.min(SPARE_BUFFER), &mut warnings)
        };
        let (socket, source, notices) =
            (UdpSocket::from(descriptor), Source::bound(address), self.notices.clone());
        Ok(Listener { socket, spares, source, has_bursts, address, warnings, notices })
    }
}

/// A socket with its port, for tests.
#[cfg(test)]
pub(super) fn bind(
    address: &str,
    port: u16,
    send_buffer: usize,
    is_shared: bool,
) -> Result<Listener, BindError> {
    Unbound::open(address, port, send_buffer, is_shared)?.bind()
}

/// Takes a socket out of those that share its port, for good, so that new requests go to the others. What it has
/// received stays in it, and replies are sent as before. A socket that shares no port is left alone.
///
/// The kernel passes over a socket that has a peer, and the peer here is the socket itself, which asks nothing.
///
/// # Errors
///
/// The system refuses; requests go on coming to the socket.
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

/// The options of a socket that is being made. None of them keeps the server from serving.
struct Options<'a> {
    descriptor: BorrowedFd<'a>,
    warnings: Vec<String>,
    notices: Vec<String>,
}

impl<'a> Options<'a> {
    fn of(descriptor: BorrowedFd<'a>) -> Self {
        Self { descriptor, warnings: Vec::new(), notices: Vec::new() }
    }

    /// Sets an option and returns whether that worked; if not, `missing` says what that means.
    fn set<O: SetSockOpt>(&mut self, option: O, value: &O::Val, name: &str, missing: &str) -> bool {
        let outcome = setsockopt(&self.descriptor, option, value);
        if let Err(error) = outcome {
            self.warnings.push(format!("the system refuses the socket option {name}: {error}; {missing}"));
        }
        outcome.is_ok()
    }

    fn receive_buffer(&mut self) {
        let size = RECEIVE_BUFFER;
        // Beyond net.core.rmem_max with the right to, up to that without.
        if setsockopt(&self.descriptor, sockopt::RcvBufForce, &size).is_err()
            && self.set(sockopt::RcvBuf, &size, "SO_RCVBUF", "bursts of requests may be dropped")
        {
            self.tell_less(sockopt::RcvBuf, size, "receive buffer", "net.core.rmem_max");
        }
    }

    fn send_buffer(&mut self, size: usize) {
        if setsockopt(&self.descriptor, sockopt::SndBufForce, &size).is_err()
            && self.set(sockopt::SndBuf, &size, "SO_SNDBUF", "replies may be dropped")
        {
            self.tell_less(sockopt::SndBuf, size, "send buffer", "net.core.wmem_max");
        }
    }

    fn tell_less<O: GetSockOpt<Val = usize>>(&mut self, option: O, asked: usize, name: &str, limit: &str) {
        // The kernel doubles what it is asked for, and returns the double.
        match getsockopt(&self.descriptor, option) {
            Ok(granted) if granted / 2 < asked => self.notices.push(format!(
                "The {name} of the socket has {} bytes instead of {asked}; {limit} limits it.",
                granted / 2
            )),
            // Not knowing changes nothing.
            _ => {}
        }
    }
}

/// Sockets on the port of this one that send and never receive. Why there are not all of them is a warning.
///
/// Each is bound to an address of its own that no network reaches. The first socket has been bound without
/// `SO_REUSEPORT`, so that a taken port is noticed; that option is on only while these are bound, so that no
/// other process can bind the port later.
fn spares(
    first: &OwnedFd,
    address: SocketAddr,
    send_buffer: usize,
    warnings: &mut Vec<String>,
) -> Vec<UdpSocket> {
    let mut spares = Vec::with_capacity(SPARES);
    let few = |spares: &Vec<_>, why: &str| {
        format!(
            "{} of {SPARES} spare sockets for replies could be made: {why}; more replies may be dropped when many \
             requests have forged senders",
            spares.len()
        )
    };
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(limit, _)| limit);
    if descriptors < LEAST_DESCRIPTORS {
        let why = format!(
            "the limit of descriptors (ulimit -n, LimitNOFILE) is {descriptors} and must be {LEAST_DESCRIPTORS}"
        );
        warnings.push(few(&spares, &why));
        return spares;
    }
    let mut make_all = || -> nix::Result<()> {
        setsockopt(first, sockopt::ReusePort, &true)?;
        let random = RandomState::new();
        for number in 0..SPARES {
            spares.push(spare(address, random.hash_one(number), send_buffer)?);
        }
        Ok(())
    };
    if let Err(error) = make_all() {
        warnings.push(few(&spares, &error.to_string()));
    }
    let mut left_on = None;
    for socket in spares.iter().map(AsFd::as_fd).chain([first.as_fd()]) {
        left_on = setsockopt(&socket, sockopt::ReusePort, &false).err().or(left_on);
    }
    if let Some(error) = left_on {
        warnings.push(format!(
            "the system refuses to switch SO_REUSEPORT off: {error}; other processes of this user can bind the port \
             and take requests"
        ));
    }
    spares
}

/// One spare socket, at an address that the number chooses.
fn spare(first: SocketAddr, random: u64, send_buffer: usize) -> nix::Result<UdpSocket> {
    let descriptor = datagram_socket(first.is_ipv6())?;
    let [a, b, c, d, e, ..] = random.to_be_bytes();
    // 127.1.0.0 and beyond: addresses below that are in use.
    let loopback = Ipv4Addr::new(127, a.max(1), b, c);
    let ip: IpAddr = match first {
        SocketAddr::V4(_) => loopback.into(),
        // Sends to IPv4 as well.
        SocketAddr::V6(first) if first.ip().is_unspecified() => loopback.to_ipv6_mapped().into(),
        // Of the prefix that is for discarding (RFC 6666). One of IPv4 would take the port from IPv4 servers.
        SocketAddr::V6(_) => {
            let pair = |high, low| u16::from_be_bytes([high, low]);
            Ipv6Addr::new(0x100, 0, 0, 0, 0, pair(a, b), pair(c, d), e.max(1).into()).into()
        }
    };
    if first.is_ipv6() {
        setsockopt(&descriptor, sockopt::Ipv6V6Only, &!first.ip().is_unspecified())?;
    }
    setsockopt(&descriptor, sockopt::ReusePort, &true)?;
    // No interface has the address, or that of loopback is down.
    setsockopt(&descriptor, sockopt::IpFreebind, &true)?;
    // Processes of this host can send there, and nothing reads it.
    setsockopt(&descriptor, sockopt::RcvBuf, &0)?;
    setsockopt(&descriptor, sockopt::SndBufForce, &send_buffer)
        .or_else(|_| setsockopt(&descriptor, sockopt::SndBuf, &send_buffer))?;
    bind_to(descriptor.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, first.port())))?;
    Ok(UdpSocket::from(descriptor))
}

fn local_address(socket: &impl AsRawFd) -> nix::Result<SocketAddr> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
        .ok_or(Errno::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_bound_as_the_settings_name_them() {
        let local = |address| bind(address, 0, 100_000, false).unwrap().address().ip().to_string();
        assert_eq!(local(""), "0.0.0.0");
        assert_eq!(local("localhost"), "127.0.0.1");
        assert_eq!(local("::1"), "::1");
        assert_eq!(local("[::1]"), "::1");
        assert_eq!(local("::"), "::");
    }

    #[test]
    fn addresses_that_cannot_be_bound_are_explained_in_one_line() {
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
    fn spare_sockets_share_the_port_with_nobody_else() {
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
