//! Datagrams with a forged sender, which are sent by a raw socket.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{ignored, requests, says, server};
use crate::harness::{DIGEST, Forger, Server};

/// Sends a datagram from a port of 127.0.0.1 to another.
fn forge(forger: &Forger, from: u16, to: u16, payload: &[u8]) {
    let [from, to] = [from, to].map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    forger.send(from, to, payload);
}

/// Everything that was sent to this server before, and what it said to it, has been sent on.
fn settle(server: &Server) {
    for _ in 0..2 {
        assert_eq!(server.request("check", &[DIGEST]).code(), 200);
    }
}

#[test]
fn two_servers_that_a_forged_datagram_points_at_each_other_fall_silent_at_once() {
    let (one, other) = (server(), server());
    let forger = Forger::new();
    let requests = requests();
    for (_, request) in &requests {
        // To the one from the other, whose turn it is then, and back if it says anything.
        forge(&forger, other.port(), one.port(), request);
        [&one, &other, &one, &other].into_iter().for_each(settle);
    }
    assert_eq!(one.request("check", &[DIGEST]).counts(), (2, 1));
    assert_eq!(other.request("check", &[DIGEST]).counts(), (0, 0));
    assert_eq!((ignored(one), ignored(other)), (0, requests.len()), "who got how many replies");
}

#[test]
fn a_server_that_a_forged_datagram_points_at_itself_falls_silent_at_once() {
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
fn a_datagram_from_port_zero_and_an_empty_one_get_no_reply() {
    let server = server();
    let forger = Forger::new();
    for (_, request) in requests() {
        forge(&forger, 0, server.port(), &request);
    }
    settle(&server);
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    assert!(says(&server.socket(), b"").is_none());
    assert_eq!(ignored(server), requests().len() + 1);
}
