//! Requests without a reply that are sent again.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::{Answer, Datagram, Home, Redis, Remote, Server, accept, digest, eventually, interop};
use crate::ours::forwarding::report;

/// A script that passes requests on to a real server, and loses the reply to the first `lost` copies of each request
/// with digests.
fn losing(server: &Server, lost: u32) -> impl FnMut(&Datagram) -> Answer + Send + 'static {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", server.port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut copies: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    move |datagram| {
        socket.send(&datagram.bytes).unwrap();
        let mut reply = vec![0; 8192];
        let length = socket.recv(&mut reply).unwrap();
        reply.truncate(length);
        let copies = copies.entry(datagram.bytes.clone()).or_default();
        *copies += 1;
        if *copies <= lost && datagram.operation() == "report" {
            return Answer::Silence;
        }
        Answer::Reply(reply)
    }
}

/// Forwards five reports, one request each, to a real server whose replies are lost. Returns what it has stored, and
/// the home of the forwarding server with the name of the remote one.
fn forward(remote: &Home, settings: &str, lost: u32) -> (BTreeMap<String, i64>, Vec<Datagram>, [u64; 3]) {
    let running = remote.start();
    let lossy = Remote::start(losing(&running, lost));
    let home = Home::open().config(&format!("ForwardDelay = 0\n{settings}")).forwarding_to(&[lossy.name()]);
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    let mut outages = 0;
    for number in 0..5 {
        // One after the other, so that silent ones are not three in a row.
        report(server.port(), number..number + 1);
        let forwarding = home.forwarding_settled(&lossy.name(), u64::from(number) + 1);
        outages += u64::from(forwarding.state() == "unavailable");
    }
    let forwarding = home.forwarding(&lossy.name());
    println!("{outages} outages, {forwarding:?}");
    let counts = ["accepted", "silent", "resent"].map(|name| forwarding.count(name));
    assert!(server.stop().success());
    assert!(running.stop().success());
    (remote.stored(), lossy.requests(), counts)
}

#[test]
fn repeated_request_counts_once_at_this_server() {
    let (stored, requests, counts) = forward(&Home::open(), "ForwardRetries = 2\n", 1);
    assert_eq!(stored, (0..5).map(|number| (digest(number), 1)).collect());
    assert_eq!(counts, [5, 0, 5]);
    for copies in requests.chunks(2) {
        assert_eq!(copies[0].bytes, copies[1].bytes);
        assert!(copies[1].at.duration_since(copies[0].at) >= Duration::from_millis(900));
    }
    assert_eq!(requests.len(), 10);
}

/// The documentation says so.
#[test]
fn repeated_request_counts_twice_at_the_established_server() {
    let remote = Home::open().program(interop("pyzord"));
    let (stored, _, counts) = forward(&remote, "ForwardRetries = 2\n", 1);
    assert_eq!(stored, (0..5).map(|number| (digest(number), 2)).collect());
    assert_eq!(counts, [5, 0, 5]);
}

#[test]
fn nothing_is_sent_again_by_default() {
    let (stored, requests, counts) = forward(&Home::open(), "", 1);
    assert_eq!(stored, (0..5).map(|number| (digest(number), 1)).collect());
    assert_eq!((counts, requests.len()), ([0, 5, 0], 5));
}

/// A request is sent once and then twice again.
#[test]
fn retries_end() {
    let silent = Remote::silent();
    let home = Home::open().config("ForwardDelay = 0\nForwardRetries = 2\n").forwarding_to(&[silent.name()]);
    home.remotes_file("config", "[client]\nTimeout = 1\n");
    let server = home.start();
    report(server.port(), 0..1);
    silent.receives(3);
    silent.follow(accept);
    // Until a reply shows that there is no outage, it may still be sent again.
    let forwarding = eventually("silence", || {
        report(server.port(), 1..2);
        Some(home.forwarding(&silent.name())).filter(|forwarding| forwarding.count("silent") == 1)
    });
    assert_eq!(forwarding.count("resent"), 2, "{forwarding:?}");
    assert_eq!(silent.counts("report")[&digest(0)], 3);
}

/// What was unanswered when a server was killed is sent again when it is back.
#[test]
fn requests_of_before_an_outage_are_repeated_after_it() {
    let mut remote = Remote::silent();
    let home = Home::open().config("ForwardDelay = 0\nForwardRetries = 1\n").forwarding_to(&[remote.name()]);
    home.remotes_file("config", "[client]\nTimeout = 30\n");
    let server = home.start();
    report(server.port(), 0..10);
    remote.receives(10);
    let before = remote.requests();
    remote.close();
    report(server.port(), 10..11);
    home.forwarding_with(&remote.name(), "an outage", |it| it.state() == "unavailable");
    remote.follow(accept);
    remote.open();
    let back = home.forwarding_settled(&remote.name(), 11);
    assert_eq!(back.count("accepted"), 11, "{back:?}");
    let after = remote.requests();
    for request in &before {
        assert!(after[before.len()..].iter().any(|copy| copy.bytes == request.bytes));
    }
}

/// The database of the other server is unavailable for a while: it replies with 500, and counts what it gets later.
#[test]
fn requests_that_failed_are_repeated() {
    let mut redis = Redis::start();
    let config = format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port());
    let remote = Home::open().config(&config).start();
    let name = format!("127.0.0.1:{}", remote.port());
    let home = Home::open().config("ForwardDelay = 0\nForwardRetries = 5\n").forwarding_to(&[&name]);
    let server = home.start();
    redis.service().kill();
    // What was on its way when the connection broke is in doubt, and is not counted later.
    assert_eq!(remote.request("report", &[&digest(99)]).code(), 500);
    report(server.port(), 0..20);
    let failed = home.forwarding_with(&name, "repetitions", |it| it.count("resent") >= 20);
    assert_eq!((failed.settled(), failed.state()), (0, "available"), "{failed:?}");
    redis.restart();
    let back = home.forwarding_settled(&name, 20);
    assert_eq!((back.count("accepted"), back.refused(500)), (20, 0), "{back:?}");
    for number in 0..20 {
        assert_eq!(remote.request("check", &[&digest(number)]).counts(), (1, 0));
    }
}

#[test]
fn requests_that_fail_to_the_end_are_refused() {
    let remote = Remote::refusing(500);
    let home = Home::open().config("ForwardDelay = 0\nForwardRetries = 1\n").forwarding_to(&[remote.name()]);
    let server = home.start();
    report(server.port(), 0..5);
    let refused = home.forwarding_settled(&remote.name(), 5);
    assert_eq!((refused.refused(500), refused.count("resent")), (5, 5), "{refused:?}");
    assert_eq!(remote.counts("report"), (0..5).map(|number| (digest(number), 2)).collect());
    assert_eq!(refused.state(), "available");
}
