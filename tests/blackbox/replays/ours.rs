//! `ReplayGuard`, which only this server has.

use nix::sys::signal::Signal;

use super::{counts, home, signed};
use crate::harness::{Account, DIGEST, Redis, Reply, ask_on, eventually};

const GUARDED: &str = "ReplayGuard = true\n";

#[test]
fn copy_gets_the_same_reply_and_is_not_counted_again() {
    let bob = Account::new("bob");
    let server = home(&bob, GUARDED).start();
    let (report, whitelist) = (signed(&bob, "report", 1), signed(&bob, "whitelist", 1));
    for request in [&report, &whitelist] {
        let first = server.ask(request);
        assert_eq!(Reply(first.clone()).code(), 200);
        for _ in 0..5 {
            // Each copy comes from another port.
            assert_eq!(server.ask(request), first);
        }
    }
    assert_eq!(counts(&server), (1, 1));
    // Changes outside the signed text do not make a different request.
    let text = String::from_utf8(report).unwrap();
    let signature = text.lines().find(|line| line.starts_with("Sig: ")).unwrap();
    let moved = format!("{signature}\n{}", text.replace(&format!("{signature}\n"), ""));
    assert_ne!(moved, text);
    for copy in [moved, text.replace('\n', "\r\n"), format!("{text}\n\n")] {
        assert_eq!(Reply(server.ask(copy)).code(), 200);
    }
    assert_eq!(counts(&server), (1, 1));
    // A second request by the same account on the same digest is counted.
    assert_eq!(Reply(server.ask(signed(&bob, "report", 2))).code(), 200);
    assert_eq!(counts(&server), (2, 1));
    let home = server.home().clone();
    server.signal(Signal::SIGUSR1);
    assert!(server.stop().success());
    assert!(home.log().contains("ReplayGuard: 13 copies of signed requests were not counted again"));
    let usage = home.read("usage.log");
    assert_eq!(usage.matches(" bob,127.0.0.1,report,").count(), 10, "{usage}");
}

#[test]
fn copies_received_together_are_counted_once() {
    let bob = Account::new("bob");
    let server = home(&bob, GUARDED).start();
    let report = signed(&bob, "report", 1);
    let socket = server.socket();
    // While the server is stopped, all copies collect in its socket.
    server.signal(Signal::SIGSTOP);
    for _ in 0..20 {
        socket.send(&report).unwrap();
    }
    server.signal(Signal::SIGCONT);
    let mut reply = [0; 1000];
    for _ in 0..20 {
        let length = socket.recv(&mut reply).unwrap();
        assert_eq!(Reply(reply[..length].to_vec()).code(), 200);
    }
    assert_eq!(counts(&server), (1, 0));
}

#[test]
fn unsigned_requests_and_look_ups_are_never_copies() {
    let bob = Account::new("bob");
    let server = home(&bob, GUARDED).start();
    let report = format!("Op: report\nOp-Digest: {DIGEST}\nThread: 5000\nPV: 2.1\n\n");
    server.ask(&report);
    server.ask(&report);
    let check = signed(&bob, "check", 1);
    assert_eq!(Reply(server.ask(&check)).counts(), (2, 0));
    server.ask(&report);
    assert_eq!(Reply(server.ask(&check)).counts(), (3, 0));
}

#[test]
fn copy_of_a_request_in_flight_gets_the_reply_of_that_request() {
    let bob = Account::new("bob");
    let mut redis = Redis::start();
    let settings = format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n{GUARDED}", redis.port());
    let server = home(&bob, &settings).start();
    let report = signed(&bob, "report", 1);

    // The database hangs: all copies wait, and get the same reply.
    redis.service().signal(Signal::SIGSTOP);
    let sockets = [server.socket(), server.socket(), server.socket()];
    for socket in &sockets {
        socket.send(&report).unwrap();
    }
    // The reply to this ping shows that the reports have been received.
    assert_eq!(server.request_as(&bob, "ping", &[]).code(), 200);
    redis.service().signal(Signal::SIGCONT);
    let codes = sockets.map(|socket| {
        let mut reply = [0; 1000];
        let length = socket.recv(&mut reply).unwrap();
        Reply(reply[..length].to_vec()).code()
    });
    // On a slow machine the database may have become unavailable in the meantime.
    assert!(codes == [200; 3] || codes == [500; 3], "{codes:?}");
    eventually("the database", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    let counted = counts(&server).0;
    assert!(counted == 1 || (counted == 0 && codes == [500; 3]), "{counted} {codes:?}");

    // The database is unavailable: the request is refused, so a copy sent later is a new attempt.
    let other = signed(&bob, "report", 2);
    redis.service().kill();
    eventually("a refusal", || (server.request("check", &[DIGEST]).code() == 500).then_some(()));
    assert_eq!(Reply(server.ask(&other)).code(), 500);
    redis.restart();
    eventually("the database", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    let before = counts(&server).0;
    for _ in 0..3 {
        assert_eq!(Reply(ask_on(&server.socket(), &other)).code(), 200);
    }
    assert_eq!(counts(&server).0, before + 1);
}
