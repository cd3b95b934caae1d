//! Datagrams with forged senders.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

/// Sends IPv4 datagrams from any sender, for which the kernel requires `CAP_NET_RAW`.
pub(crate) struct Forger(OwnedFd);

impl Forger {
    /// A forger in the network namespace of this thread.
    pub(crate) fn new() -> Self {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let advice = "datagrams cannot be forged: run the tests as root or with CAP_NET_RAW";
        Self(raw.unwrap_or_else(|error| panic!("{advice}: {error}")))
    }

    /// Sends one datagram.
    pub(crate) fn send(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        // The kernel fills in the length and the checksum, and a UDP header needs no checksum.
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
