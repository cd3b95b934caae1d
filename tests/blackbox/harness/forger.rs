//! Datagrams with forged sender addresses.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

/// Sends IPv4 datagrams with any sender address, which requires `CAP_NET_RAW`.
pub(crate) struct Forger(OwnedFd);

impl Forger {
    /// Opens a raw socket in the network namespace of this thread.
    pub(crate) fn new() -> Self {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        Self(raw.unwrap_or_else(|error| {
            panic!("cannot open a raw socket: {error}: run the tests as root or with CAP_NET_RAW")
        }))
    }

    /// Sends one datagram.
    pub(crate) fn send(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        // The kernel fills in the IP header's length and checksum. A UDP checksum is optional.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend([from.ip().octets(), to.ip().octets()].as_flattened());
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend(u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        let to = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
        let sent = sendto(self.0.as_raw_fd(), &packet, &to, MsgFlags::empty());
        assert_eq!(sent.map_err(io::Error::from).unwrap(), packet.len());
    }
}
