//! Datagrams with a forged sender, sent by a raw socket.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{ignored, reply_to, requests, server};
use crate::harness::{DIGEST, Forger, Server};

/// Sends a datagram from a port of 127.0.0.1 to another.
fn forge(forger: &Forger, from: u16, to: u16, payload: &[u8]) {
    let [from, to] = [from, to].map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    forger.send(from, to, payload);
}

/// Waits until the server has handled all earlier datagrams and sent its replies.
fn settle(server: &Server) {
    for _ in 0..2 {
        assert_eq!(server.request("check", &[DIGEST]).code(), 200);
    }
}

#[test]
fn forged_datagram_starts_no_loop_between_two_servers() {
    let (one, other) = (server(), server());
    let forger = Forger::new();
    let requests = requests();
    for (_, request) in &requests {
        // From the other server to the first, whose reply goes to the other, and so on in a loop.
        forge(&forger, other.port(), one.port(), request);
        [&one, &other, &one, &other].into_iter().for_each(settle);
    }
    assert_eq!(one.request("check", &[DIGEST]).counts(), (2, 1));
    assert_eq!(other.request("check", &[DIGEST]).counts(), (0, 0));
    assert_eq!((ignored(one), ignored(other)), (0, requests.len()), "the numbers of dropped datagrams");
}

#[test]
fn forged_datagram_starts_no_loop_within_a_server() {
    let server = server();
    let forger = Forger::new();
    let requests = requests();
    for (_, request) in &requests {
        forge(&forger, server.port(), server.port(), request);
        (0..3).for_each(|_| settle(&server));
    }
    assert_eq!(ignored(server), requests.len());
}

#[test]
fn datagram_from_port_zero_and_empty_datagram_get_no_reply() {
    let server = server();
    let forger = Forger::new();
    for (_, request) in requests() {
        forge(&forger, 0, server.port(), &request);
    }
    settle(&server);
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    assert!(reply_to(&server.socket(), b"").is_none());
    assert_eq!(ignored(server), requests().len() + 1);
}
