//! Spare sockets, which send the replies that do not fit the send buffer of the listening socket.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{SockaddrStorage, bind as bind_to, getsockopt, setsockopt, sockopt};

use super::datagram_socket;

/// The number of spare sockets.
pub(super) const SPARES: usize = 16;
/// The least descriptor limit with which spare sockets are opened: startup, a reload and the database need the other
/// descriptors.
const LEAST_DESCRIPTORS: u64 = 128;

/// The option by which the spare sockets get the port of the listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// `SO_REUSEPORT`, if this user opened the listening socket.
    SameUser,
    /// `SO_REUSEADDR`, if another user opened it.
    AnyUser,
}

impl Sharing {
    fn set(self, socket: &impl AsFd, is_on: bool) -> nix::Result<()> {
        match self {
            Self::SameUser => setsockopt(socket, sockopt::ReusePort, &is_on),
            Self::AnyUser => setsockopt(socket, sockopt::ReuseAddr, &is_on),
        }
    }

    /// Returns the name of the option, and the users that could bind the port if it stayed on.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::SameUser => ("SO_REUSEPORT", "other processes of this user"),
            Self::AnyUser => ("SO_REUSEADDR", "other users"),
        }
    }
}

/// Opens sockets on the port of the listening socket that send and never receive. Adds a warning if it cannot open all
/// of them.
///
/// Each is bound to an unroutable address of its own. The listening socket was bound without `SO_REUSEPORT`, so that a
/// port in use is detected. The option is set only while the spare sockets are bound, so that no other process can
/// bind the port later.
pub(super) fn open_spares(
    first: &OwnedFd,
    address: SocketAddr,
    sharing: Sharing,
    send_buffer: usize,
    warnings: &mut Vec<String>,
) -> Vec<UdpSocket> {
    let mut spares = Vec::with_capacity(SPARES);
    let few = |spares: &Vec<_>, why: &str| {
        format!(
            "opened only {} of {SPARES} spare sockets for replies: {why}; floods with forged senders may cause more \
             replies to be dropped",
            spares.len()
        )
    };
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(limit, _)| limit);
    if descriptors < LEAST_DESCRIPTORS {
        let why = format!(
            "the descriptor limit is {descriptors}: raise it (ulimit -n, LimitNOFILE) to {LEAST_DESCRIPTORS} at least"
        );
        warnings.push(few(&spares, &why));
        return spares;
    }
    let mut make_all = || -> nix::Result<()> {
        let is_dual =
            address.ip().is_unspecified() && !getsockopt(first, sockopt::Ipv6V6Only).unwrap_or(false);
        sharing.set(first, true)?;
        let random = RandomState::new();
        for number in 0..SPARES {
            spares.push(open_spare(address, is_dual, sharing, random.hash_one(number), send_buffer)?);
        }
        Ok(())
    };
    if let Err(error) = make_all() {
        warnings.push(few(&spares, &error.to_string()));
    }
    let mut left_on = None;
    for socket in spares.iter().map(AsFd::as_fd).chain([first.as_fd()]) {
        left_on = sharing.set(&socket, false).err().or(left_on);
    }
    if let Some(error) = left_on {
        let (option, others) = sharing.names();
        warnings.push(format!(
            "cannot switch {option} off: {error}; {others} can bind the port and take requests"
        ));
    }
    spares
}

/// Opens a spare socket at an address derived from `random`. `is_dual`: an IPv6 socket that also serves IPv4.
fn open_spare(
    first: SocketAddr,
    is_dual: bool,
    sharing: Sharing,
    random: u64,
    send_buffer: usize,
) -> nix::Result<UdpSocket> {
    let descriptor = datagram_socket(first.is_ipv6())?;
    let [a, b, c, d, e, ..] = random.to_be_bytes();
    // From 127.1.0.0, because lower loopback addresses are in common use.
    let loopback = Ipv4Addr::new(127, a.max(1), b, c);
    let ip: IpAddr = match first {
        SocketAddr::V4(_) => loopback.into(),
        // Mapped, so that it can send to IPv4 and IPv6.
        SocketAddr::V6(_) if is_dual => loopback.to_ipv6_mapped().into(),
        // In the discard prefix 100::/64 (RFC 6666). An IPv4 address would block the port for IPv4 servers.
        SocketAddr::V6(_) => {
            let pair = |high, low| u16::from_be_bytes([high, low]);
            Ipv6Addr::new(0x100, 0, 0, 0, 0, pair(a, b), pair(c, d), e.max(1).into()).into()
        }
    };
    if first.is_ipv6() {
        setsockopt(&descriptor, sockopt::Ipv6V6Only, &!is_dual)?;
    }
    sharing.set(&descriptor, true)?;
    // No interface has the address, or the loopback interface is down.
    setsockopt(&descriptor, sockopt::IpFreebind, &true)?;
    // Processes of this host can send to it, but nothing reads it.
    setsockopt(&descriptor, sockopt::RcvBuf, &0)?;
    setsockopt(&descriptor, sockopt::SndBufForce, &send_buffer)
        .or_else(|_| setsockopt(&descriptor, sockopt::SndBuf, &send_buffer))?;
    bind_to(descriptor.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, first.port())))?;
    Ok(UdpSocket::from(descriptor))
}
