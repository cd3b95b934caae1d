//! Datagrams with a forged sender, which are sent by a raw socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::{ignored, requests, says, server};
use crate::harness::{DIGEST, Server, ours_only};

/// Sends datagrams under any sender, for which the kernel wants root.
struct Forger(OwnedFd);

impl Forger {
    fn new() -> Self {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let advice = "datagrams cannot be forged: run the tests as root or with CAP_NET_RAW";
        Self(raw.unwrap_or_else(|error| panic!("{advice}: {error}")))
    }

    /// Sends one from a port of 127.0.0.1 to another.
    fn send(&self, from: u16, to: u16, payload: &[u8]) {
        let address = Ipv4Addr::LOCALHOST.octets();
        // The kernel puts in the length and the checksum, and a UDP header may do without its own.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend([address, address].as_flattened());
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        packet.extend(u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        let sent = sendto(self.0.as_raw_fd(), &packet, &to, MsgFlags::empty());
        assert_eq!(sent.map_err(io::Error::from).unwrap(), packet.len());
    }
}

/// Everything that was sent to this server before, and what it said to it, has been sent on.
fn settle(server: &Server) {
    for _ in 0..2 {
        assert_eq!(server.request("check", &[DIGEST]).code(), 200);
    }
}

#[test]
fn two_servers_that_a_forged_datagram_points_at_each_other_fall_silent_at_once() {
    if !ours_only() {
        return;
    }
    let (one, other) = (server(), server());
    let forger = Forger::new();
    let requests = requests();
    for (_, request) in &requests {
        // To the one from the other, whose turn it is then, and back if it says anything.
        forger.send(other.port(), one.port(), request);
        [&one, &other, &one, &other].into_iter().for_each(settle);
    }
    assert_eq!(one.request("check", &[DIGEST]).counts(), (2, 1));
    assert_eq!(other.request("check", &[DIGEST]).counts(), (0, 0));
    assert_eq!((ignored(one), ignored(other)), (0, requests.len()), "who got how many replies");
}

#[test]
fn a_server_that_a_forged_datagram_points_at_itself_falls_silent_at_once() {
    if !ours_only() {
        return;
    }
    let server = server();
    let forger = Forger::new();
    let requests = requests();
    for (_, request) in &requests {
        forger.send(server.port(), server.port(), request);
        (0..3).for_each(|_| settle(&server));
    }
    assert_eq!(ignored(server), requests.len());
}

#[test]
fn a_datagram_from_port_zero_and_an_empty_one_get_no_reply() {
    if !ours_only() {
        return;
    }
    let server = server();
    let forger = Forger::new();
    for (_, request) in requests() {
        forger.send(0, server.port(), &request);
    }
    settle(&server);
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    assert!(says(&server.socket(), b"").is_none());
    assert_eq!(ignored(server), requests().len() + 1);
}
