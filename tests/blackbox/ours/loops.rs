//! Loops between two servers, or within one, that a datagram with a forged sender could start.

mod raw_sockets;

use std::net::UdpSocket;

use crate::harness::{Account, DIGEST, Home, Reply, Server, ask_on, unix_time};

/// Starts a server that refuses one operation to anonymous clients, so that it sends every kind of reply.
fn server() -> Server {
    let access = "ping check info report whitelist : anonymous : allow\nall : bob : allow\n";
    Home::new().passwd(Account::new("bob").passwd()).access(access).start()
}

/// Returns requests that cause every reply code except 500, and replies that could be parsed as requests.
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
    // Lines within the echoed header, separated by every character that some parsers treat as the end of a line.
    for end in ["\n ", "\r", "\r\n ", "\n\t", "\x0b", "\x0c", "\x1c", "\u{85}", "\u{2028}"] {
        let thread = format!("1{end}Op: report{end}Op-Digest: {DIGEST}{end}PV: 2.1{end}Thread: 2{end}{end}");
        requests.push(plain(200, "ping", &thread, "2.1"));
        requests.push(plain(200, "ping", &format!("{end}Op: ping{end}"), "2.1"));
    }
    requests
}

/// Returns the reply to a datagram, if any. Replies that need no database may come in any order, but those to checks
/// come in order: after the reply to a second check, no other reply is outstanding.
fn reply_to(socket: &UdpSocket, datagram: &[u8]) -> Option<Reply> {
    socket.send(datagram).unwrap();
    let mut replies = Vec::new();
    for thread in ["first", "second"] {
        let check = format!("Op: check\nOp-Digest: {DIGEST}\nThread: {thread}\nPV: 2.1\n\n");
        let mut reply = Reply(ask_on(socket, check));
        while reply.header("Thread").as_deref() != Some(thread) {
            replies.push(reply);
            let mut buffer = vec![0; 10_000];
            let length = socket.recv(&mut buffer).unwrap();
            buffer.truncate(length);
            reply = Reply(buffer);
        }
    }
    assert!(replies.len() <= 1, "{} replies", replies.len());
    replies.pop()
}

/// Stops a server and returns the number of datagrams that it dropped according to its log.
fn ignored(server: Server) -> usize {
    let home = server.home().clone();
    assert!(server.stop().success());
    let log = home.log();
    let number = |line: &str, text: &str| {
        let (before, _) = line.split_once(text)?;
        before.rsplit(' ').next()?.parse::<usize>().ok()
    };
    let mut lines = log.lines();
    lines.by_ref().filter_map(|line| number(line, " datagrams ignored")).sum()
}

#[test]
fn server_never_answers_a_reply() {
    let (one, other) = (server(), server());
    let (to_one, to_other) = (one.socket(), other.socket());
    let requests = requests();
    for (code, request) in &requests {
        let text = request.escape_ascii();
        let reply = reply_to(&to_one, request).unwrap_or_else(|| panic!("no reply to {text}"));
        assert_eq!(reply.code(), *code, "{text}");
        for (socket, whose) in [(&to_other, "the other"), (&to_one, "the same")] {
            let answer = reply_to(socket, &reply.0).map(|reply| reply.0.escape_ascii().to_string());
            assert_eq!(answer, None, "{whose} server to the reply to {text}");
        }
    }
    // No lines within a `Thread` header were parsed as a request: each server counted only its own requests.
    assert_eq!(one.request("check", &[DIGEST]).counts(), (2, 1));
    assert_eq!(other.request("check", &[DIGEST]).counts(), (0, 0));
    assert_eq!((ignored(one), ignored(other)), (requests.len(), requests.len()));
}
