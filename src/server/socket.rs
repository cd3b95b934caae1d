//! The UDP socket, and receiving from it many datagrams a system call.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType,
    SockaddrStorage, bind as bind_to, recvmmsg, setsockopt, socket, sockopt,
};
use thiserror::Error;

use crate::protocol::MAX_DATAGRAM;

/// How many datagrams are received or sent by one system call at most.
pub const BATCH: usize = 64;

/// How many bytes of received datagrams the kernel is asked to hold, and then doubles: some 5000 requests,
/// which a pause of 20 ms fills under a full load. More would make answers old under overload.
const RECEIVE_BUFFER: usize = 2 << 20;

/// How often the kernel's count of dropped datagrams is asked for. It never goes down, so that
/// looking now and then misses nothing.
const DROPS_PERIOD: Duration = Duration::from_secs(1);

/// Why a socket could not be had: one line that says what to do.
#[derive(Debug, Error)]
pub enum BindError {
    /// The address is none and cannot be resolved.
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
    /// The system refused.
    #[error("cannot listen on {address}: {error}")]
    Refused {
        /// The address and port.
        address: SocketAddr,
        /// The system's reason.
        error: io::Error,
    },
}

/// Binds a UDP socket. An empty address is every IPv4 address of the machine; one with a colon is
/// IPv6, where `::` serves IPv4 as well; anything else is an IPv4 address or a host name, of which
/// the first IPv4 address counts.
///
/// # Errors
///
/// The address cannot be resolved, is in use, or the system refuses it.
pub fn bind(address: &str, port: u16) -> Result<UdpSocket, BindError> {
    let unresolved = |error| BindError::Resolve { address: address.to_owned(), error };
    let is_v6 = address.contains(':');
    let name = match address {
        "" => "0.0.0.0",
        bracketed if is_v6 => bracketed.trim_start_matches('[').trim_end_matches(']'),
        name => name,
    };
    let address = (name, port)
        .to_socket_addrs()
        .map_err(unresolved)?
        .find(|found| found.is_ipv6() == is_v6)
        .ok_or_else(|| unresolved(io::Error::other("it has no IPv4 address")))?;
    open(address).map_err(|error| match error {
        Errno::EADDRINUSE => BindError::InUse { address },
        error => BindError::Refused { address, error: error.into() },
    })
}

fn open(address: SocketAddr) -> nix::Result<UdpSocket> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(family, SockType::Datagram, flags, SockProtocol::Udp)?;
    if address.is_ipv6() {
        setsockopt(&descriptor, sockopt::Ipv6V6Only, &false)?;
    }
    setsockopt(&descriptor, sockopt::RxqOvfl, &1)?;
    // Beyond net.core.rmem_max for who is privileged, up to that for others.
    setsockopt(&descriptor, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&descriptor, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    bind_to(descriptor.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(descriptor))
}

/// Received datagrams, and what receiving them needs.
pub struct Inbox {
    buffers: Box<[u8]>,
    headers: MultiHeaders<SockaddrStorage>,
    received: Vec<(usize, SocketAddr)>,
    drops: u32,
    next_look: Option<Instant>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffers: vec![0; BATCH * MAX_DATAGRAM].into_boxed_slice(),
            headers: MultiHeaders::preallocate(BATCH, None),
            received: Vec::with_capacity(BATCH),
            drops: 0,
            next_look: None,
        }
    }
}

impl Inbox {
    /// Takes what the socket holds, up to a batch, and replaces what was here.
    ///
    /// # Errors
    ///
    /// The system's, `EAGAIN` when there is nothing.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> nix::Result<()> {
        self.received.clear();
        let mut chunks = self.buffers.chunks_exact_mut(MAX_DATAGRAM);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
        let now = Instant::now();
        let looks = self.next_look.is_none_or(|next| next <= now);
        // The kernel shortens the room for ancillary data to what it used, and the headers are
        // not restored between calls: reused ones would never bring the count again. So the
        // count is asked for with fresh headers, and everything else received without.
        let mut fresh = looks.then(|| MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(u32))));
        let headers = fresh.as_mut().unwrap_or(&mut self.headers);
        for message in recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?
        {
            let peer = message.address.as_ref().and_then(peer).unwrap_or_else(no_peer);
            self.received.push((message.bytes.min(MAX_DATAGRAM), peer));
            if looks && let Ok(messages) = message.cmsgs() {
                for ancillary in messages {
                    if let ControlMessageOwned::RxqOvfl(drops) = ancillary {
                        self.drops = drops;
                    }
                }
            }
        }
        if looks {
            self.next_look = Some(now + DROPS_PERIOD);
        }
        Ok(())
    }

    /// The datagrams with their senders, in the order of arrival.
    pub fn datagrams(&self) -> impl Iterator<Item = (&[u8], SocketAddr)> {
        let chunks = self.buffers.chunks_exact(MAX_DATAGRAM);
        self.received.iter().zip(chunks).map(|((length, peer), buffer)| (&buffer[..*length], *peer))
    }

    /// How many datagrams the last call brought.
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether the last call brought none.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// How many datagrams the kernel had dropped on this socket, for want of room, when it was
    /// last asked. Wraps around at 2^32.
    pub fn kernel_drops(&self) -> u32 {
        self.drops
    }
}

fn peer(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

/// Nothing can be sent to port 0, so a datagram from it is ignored.
fn no_peer() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

/// The address that a socket is bound to.
///
/// # Errors
///
/// The system's.
pub fn local_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let address: SockaddrStorage = nix::sys::socket::getsockname(socket.as_fd().as_raw_fd())?;
    peer(&address).ok_or_else(|| io::Error::other("it is no internet address"))
}

#[cfg(test)]
mod tests;
