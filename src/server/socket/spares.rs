//! Spare sockets, which send what the first one has no room for.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{SockaddrStorage, bind as bind_to, setsockopt, sockopt};

use super::datagram_socket;

/// How many sockets send besides the first one when that one is full.
pub(super) const SPARES: usize = 16;
/// How many descriptors the process must be allowed for spare sockets to be made: the start, a reload and a
/// database need the others.
const LEAST_DESCRIPTORS: u64 = 128;

/// Sockets on the port of this one that send and never receive. Why there are not all of them is a warning.
///
/// Each is bound to an address of its own that no network reaches. The first socket has been bound without
/// `SO_REUSEPORT`, so that a taken port is noticed; that option is on only while these are bound, so that no
/// other process can bind the port later.
pub(super) fn open_spares(
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
            spares.push(open_spare(address, random.hash_one(number), send_buffer)?);
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
fn open_spare(first: SocketAddr, random: u64, send_buffer: usize) -> nix::Result<UdpSocket> {
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
