//! Servers that are made to talk to each other, or to themselves, by a datagram with a forged sender: they must
//! fall silent at once.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::harness::{Account, DIGEST, Home, Reply, Server, ask_on, ours_only, unix_time};

/// A server that refuses anonymous senders one operation, so that every kind of reply can be had.
fn server() -> Server {
    let access = "ping check info report whitelist : anonymous : allow\nall : bob : allow\n";
    Home::new().passwd(Account::new("bob").passwd()).access(access).start()
}

/// Requests whose replies have all the codes there are without a fault, and whatever may let a reply be
/// taken for a request.
fn requests() -> Vec<(i64, Vec<u8>)> {
    let plain = |code, op: &str, thread: &str, version: &str| {
        let text = format!("Op: {op}\nOp-Digest: {DIGEST}\nThread: {thread}\nPV: {version}\n\n");
        (code, text.into_bytes())
    };
    let bob = Account::new("bob");
    let signed = bob.sign(&format!("Op: report\nOp-Digest: {DIGEST}\nThread: 1\nPV: 2.1\n"), unix_time());
    let unknown = Account::new("eve").sign("Op: ping\nThread: 1\nPV: 2.1\n", unix_time());
    let mut requests = vec![
        plain(200, "ping", "1", "2.1"),
        plain(200, "check", "1", "2.1"),
        plain(200, "info", "1", "2.1"),
        plain(200, "report", "1", "2.1"),
        plain(200, "whitelist", "1", "2.1"),
        plain(400, "ping", "1", "none"),
        plain(403, "pong", "1", "2.1"),
        plain(403, "nothing", "1", "2.1"),
        plain(505, "ping", "1", "3.0"),
        (400, b"no request".to_vec()),
        (401, unknown),
        (200, signed),
    ];
    // Lines inside of the echoed header, by every character that anybody takes for the end of one.
    for end in ["\n ", "\r", "\r\n ", "\n\t", "\x0b", "\x0c", "\x1c", "\u{85}", "\u{2028}"] {
        let thread = format!("1{end}Op: report{end}Op-Digest: {DIGEST}{end}PV: 2.1{end}Thread: 2{end}{end}");
        requests.push(plain(200, "ping", &thread, "2.1"));
        requests.push(plain(200, "ping", &format!("{end}Op: ping{end}"), "2.1"));
    }
    requests
}

/// What a server says to a datagram, if anything. It asks its database one thing after the other, but what it has
/// decided at once it may send in any order: with the answer to a second check nothing is left.
fn says(socket: &UdpSocket, datagram: &[u8]) -> Option<Reply> {
    socket.send(datagram).unwrap();
    let mut said = Vec::new();
    for thread in ["first", "second"] {
        let check = format!("Op: check\nOp-Digest: {DIGEST}\nThread: {thread}\nPV: 2.1\n\n");
        let mut reply = Reply(ask_on(socket, check));
        while reply.header("Thread").as_deref() != Some(thread) {
            said.push(reply);
            let mut buffer = vec![0; 10_000];
            let length = socket.recv(&mut buffer).unwrap();
            buffer.truncate(length);
            reply = Reply(buffer);
        }
    }
    assert!(said.len() <= 1, "{} replies", said.len());
    said.pop()
}

/// How many datagrams a server has left unanswered, by its log, and none was lost on the way to it.
fn ignored(server: Server) -> usize {
    let home = server.home().clone();
    assert!(server.stop().success());
    let log = home.log();
    let number = |line: &str, text: &str| {
        let (before, _) = line.split_once(text)?;
        before.rsplit(' ').next()?.parse::<usize>().ok()
    };
    let mut lines = log.lines();
    lines.by_ref().filter_map(|line| number(line, " datagrams that get no reply")).sum()
}

#[test]
fn a_reply_of_any_kind_gets_no_reply_from_another_server() {
    if !ours_only() {
        return;
    }
    let (one, other) = (server(), server());
    let (to_one, to_other) = (one.socket(), other.socket());
    let requests = requests();
    for (code, request) in &requests {
        let text = request.escape_ascii();
        let reply = says(&to_one, request).unwrap_or_else(|| panic!("no reply to {text}"));
        assert_eq!(reply.code(), *code, "{text}");
        for (socket, whose) in [(&to_other, "the other"), (&to_one, "the same")] {
            let answer = says(socket, &reply.0).map(|reply| reply.0.escape_ascii().to_string());
            assert_eq!(answer, None, "{whose} server to the reply to {text}");
        }
    }
    // Nobody has taken the lines within a `Thread` for a request: each counted what it was asked for.
    assert_eq!(one.request("check", &[DIGEST]).counts(), (2, 1));
    assert_eq!(other.request("check", &[DIGEST]).counts(), (0, 0));
    assert_eq!((ignored(one), ignored(other)), (requests.len(), requests.len()));
}

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
