//! Replies that are wrong or forged.

use std::net::UdpSocket;

use crate::harness::{Answer, Home, Remote, accept};
use crate::ours::forwarding::report;

/// Expects that replies by this script accept nothing, and that the server goes on.
#[track_caller]
fn expect_ignored(script: impl FnMut(&crate::harness::Datagram) -> Answer + Send + 'static) {
    let remote = Remote::start(script);
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report(server.port(), 0..2);
    let forwarding = home.forwarding_settled(&remote.name(), 2);
    assert_eq!((forwarding.count("accepted"), forwarding.count("silent")), (0, 2), "{forwarding:?}");
    remote.follow(accept);
    report(server.port(), 2..10);
    let forwarding = home.forwarding_settled(&remote.name(), 10);
    assert_eq!(forwarding.count("accepted"), 8, "{forwarding:?}");
}

#[test]
fn replies_that_match_no_request_accept_nothing() {
    let replies: [&[u8]; 9] = [
        b"",
        b"\n",
        b"\xff\xfe\0\0nonsense",
        b"Code: 200\nDiag: OK\nPV: 2.1\n\n",
        b"Code: 200\nDiag: OK\nPV: 2.1\nThread: 0\n\n",
        b"Code: 200\nDiag: OK\nPV: 2.1\nThread: 1023\n\n",
        b"Code: 200\nDiag: OK\nPV: 2.1\nThread: 99999999999999999999\n\n",
        b"Code: 200\nDiag: OK\nPV: 2.1\nThread: -1\n\n",
        b"Thread: \n Code: 200",
    ];
    for reply in replies {
        println!("{}", reply.escape_ascii());
        expect_ignored(move |_| Answer::Reply(reply.to_vec()));
    }
}

#[test]
fn replies_without_a_valid_code_accept_nothing() {
    for code in ["", "abc", "2OO", "-200", "99999999999999999999"] {
        let script = move |datagram: &crate::harness::Datagram| {
            let thread = datagram.header("Thread").unwrap();
            Answer::Reply(format!("Code: {code}\nDiag: OK\nPV: 2.1\nThread: {thread}\n\n").into_bytes())
        };
        let remote = Remote::start(script);
        let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
        home.remotes_file("config", "[client]\nTimeout = 1\n");
        let server = home.start();
        report(server.port(), 0..2);
        let forwarding = home.forwarding_settled(&remote.name(), 2);
        assert_eq!(forwarding.count("accepted"), 0, "{code}: {forwarding:?}");
    }
}

#[test]
fn copied_replies_accept_a_request_once() {
    let mut first = None;
    let remote = Remote::start(move |datagram| {
        // The reply to the first request, again and again.
        Answer::Reply(first.get_or_insert_with(|| datagram.reply(200)).clone())
    });
    let home = Home::open().config("ForwardDelay = 0\n").forwarding_to(&[remote.name()]);
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report(server.port(), 0..1);
    home.forwarding_settled(&remote.name(), 1);
    report(server.port(), 1..3);
    let forwarding = home.forwarding_settled(&remote.name(), 3);
    assert_eq!((forwarding.count("accepted"), forwarding.count("silent")), (1, 2), "{forwarding:?}");
}

/// The right reply, from another port.
#[test]
fn replies_from_elsewhere_are_not_received() {
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    expect_ignored(move |datagram| {
        let _ = stranger.send_to(&datagram.reply(200), datagram.from);
        Answer::Silence
    });
}
