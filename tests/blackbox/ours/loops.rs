//! Servers that are made to talk to each other, or to themselves, by a datagram with a forged sender: they must
//! fall silent at once.

mod raw_sockets;

use std::net::UdpSocket;

use crate::harness::{Account, DIGEST, Home, Reply, Server, ask_on, unix_time};

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
