//! Many datagrams a system call, each with its ancillary data: `recvmmsg` and `sendmmsg`.
//!
//! The wrappers of nix do not serve here: its receive headers lose their ancillary room with the first
//! call, and the results of its `sendmmsg` read addresses that only `recvmmsg` fills. The formats are
//! those of cmsg(3), ip(7), ipv6(7) and udp(7).

mod header;
mod receiver;
mod sender;

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

pub use self::receiver::DatagramReceiver;
pub use self::sender::DatagramSender;

/// How many datagrams one system call receives or sends at most.
pub const DATAGRAMS_PER_CALL: usize = 64;

/// Where a reply goes: to the sender of the request, and from the address that the request was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The sender of the request.
    pub peer: SocketAddr,
    /// The address of this host that the request was sent to, where the socket is bound to a wildcard
    /// address. None: the kernel chooses.
    pub source: Option<SourceAddress>,
}

/// An address of this host to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAddress {
    /// The address.
    pub address: IpAddr,
    /// The index of the interface of a link-local address, which is one only together with that; or 0.
    pub interface: u32,
}

impl SourceAddress {
    /// The address that a socket is bound to, unless that is a wildcard.
    pub fn bound(address: SocketAddr) -> Option<Self> {
        let interface = match address {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        (!address.ip().is_unspecified()).then_some(Self { address: address.ip(), interface })
    }
}

/// A received datagram, but for its bytes.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedDatagram {
    /// How many bytes of it are in the buffer.
    pub length: usize,
    /// Where its reply goes; none if the kernel names no Internet address as its sender.
    pub reply_to: Option<ReplyTo>,
    /// How many datagrams the kernel had dropped on this socket before this one, if it says so.
    pub drops: Option<u32>,
}

/// One datagram to send, or several of one length (but for the last) that leave as one packet.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingDatagrams<'a> {
    /// Where it goes.
    pub to: ReplyTo,
    /// The bytes of each datagram.
    pub datagrams: &'a [IoSlice<'a>],
}
