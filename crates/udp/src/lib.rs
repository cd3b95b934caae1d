//! Batches of datagrams with their ancillary data, many per system call: `recvmmsg` and `sendmmsg`.
//!
//! The wrappers of nix are unsuitable: its receive headers lose their ancillary buffers with the first call, and the
//! results of its `sendmmsg` read addresses that only `recvmmsg` fills. For the formats see cmsg(3), ip(7), ipv6(7) and
//! udp(7).

mod header;
mod receiver;
mod sender;

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

pub use self::receiver::DatagramReceiver;
pub use self::sender::DatagramSender;

/// The most datagrams per system call.
pub const DATAGRAMS_PER_CALL: usize = 64;

/// The addresses of a reply: it goes to the sender of the request, from the address the request was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The sender of the request.
    pub peer: SocketAddr,
    /// The address the request was sent to, if the socket is bound to a wildcard address. None: the kernel chooses.
    pub source: Option<SourceAddress>,
}

/// An address of this host to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAddress {
    /// The address.
    pub address: IpAddr,
    /// The index of the interface of a link-local address; 0 for other addresses.
    pub interface: u32,
}

impl SourceAddress {
    /// Returns the address a socket is bound to, unless that is a wildcard.
    pub fn bound(address: SocketAddr) -> Option<Self> {
        let interface = match address {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        (!address.ip().is_unspecified()).then_some(Self { address: address.ip(), interface })
    }
}

/// A received datagram without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedDatagram {
    /// The number of its bytes in the buffer.
    pub length: usize,
    /// The addresses of its reply; none if the sender has no Internet address.
    pub reply_to: Option<ReplyTo>,
    /// The number of datagrams the kernel has dropped on this socket so far, if reported.
    pub drops: Option<u32>,
}

/// One datagram to send, or several that leave as one packet. All but the last must have the same length.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingDatagrams<'a> {
    /// The receiver, and the address to send from.
    pub to: ReplyTo,
    /// The bytes of each datagram.
    pub datagrams: &'a [IoSlice<'a>],
}
