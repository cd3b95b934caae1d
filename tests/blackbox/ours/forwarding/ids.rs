//! Ids of forwarded requests, which every server recognizes, also one that does not forward.

use nix::sys::signal::Signal;

use crate::harness::{Account, DIGEST, Home, Redis, Remote, Reply, Server, digest, eventually, unix_time};

const ID: &str = "0123456789abcdef-7-1";

/// A homedir where bob and eve may report.
fn home(settings: &str) -> Home {
    let accounts = ["bob", "eve"].map(|name| Account::new(name).passwd()).concat();
    Home::new().passwd(accounts).access("all : bob eve anonymous : allow\n").config(settings)
}

/// Returns the headers of a report that another server forwards.
fn headers(digests: &[&str], id: &str, thread: u32) -> String {
    let digests: String = digests.iter().map(|digest| format!("Op-Digest: {digest}\n")).collect();
    format!("Op: report\nOp-Spec: 20,3,60,3\n{digests}Forward-Id: {id}\nThread: {thread}\nPV: 2.1\n")
}

fn signed(name: &str, digests: &[&str], id: &str, thread: u32) -> Vec<u8> {
    Account::new(name).sign(&headers(digests, id, thread), unix_time())
}

#[track_caller]
fn expect_reply(reply: Vec<u8>, code: i64, thread: i64) {
    let reply = Reply(reply);
    assert_eq!((reply.code(), reply.number("Thread")), (code, thread));
}

#[track_caller]
fn expect_count(server: &Server, digest: &str, count: i64) {
    assert_eq!(server.request("check", &[digest]).counts().0, count, "{digest}");
}

#[test]
fn request_that_comes_on_several_ways_is_counted_once() {
    let server = home("ReplayGuard = true\n").start();
    let second = &digest(2);
    let both = [DIGEST, second];
    expect_reply(server.ask(signed("bob", &both, ID, 5001)), 200, 5001);
    // Copies on other ways have other hops, threads, times, users and signatures.
    expect_reply(server.ask(signed("eve", &both, "0123456789ABCDEF-7-3", 5002)), 200, 5002);
    expect_reply(server.ask(headers(&both, "0123456789abcdef-7-255", 5003)), 200, 5003);
    expect_count(&server, DIGEST, 1);
    // The id alone does not suppress anything: other digests, or another operation, are another request.
    expect_reply(server.ask(signed("eve", &[DIGEST], ID, 5004)), 200, 5004);
    expect_count(&server, DIGEST, 2);
    expect_count(&server, second, 1);
    let whitelist = headers(&both, ID, 5005).replace("Op: report", "Op: whitelist");
    expect_reply(server.ask(whitelist), 200, 5005);
    assert_eq!(server.request("check", &[second]).counts(), (1, 1));
    // A refused copy is refused, and a refused request takes no id.
    let other = "0123456789abcdef-8-1";
    let forged = headers(&both, other, 5006) + "User: bob\nTime: 1\nSig: x\n";
    expect_reply(server.ask(forged), 401, 5006);
    expect_reply(server.ask(signed("bob", &both, other, 5007)), 200, 5007);
    expect_count(&server, DIGEST, 3);
    let home = server.home().clone();
    assert!(server.stop().success());
    let usage = home.read("usage.log");
    assert_eq!(usage.matches("eve,127.0.0.1,report,").count(), 2, "{usage}");
}

#[test]
fn copies_received_together_are_counted_once() {
    let server = home("").start();
    let sockets: Vec<_> = (0..10).map(|_| server.socket()).collect();
    // While the server is stopped, all copies collect in its socket.
    server.signal(Signal::SIGSTOP);
    for (socket, thread) in sockets.iter().zip(5000..) {
        socket.send(headers(&[DIGEST], ID, thread).as_bytes()).unwrap();
    }
    server.signal(Signal::SIGCONT);
    for (socket, thread) in sockets.iter().zip(5000..) {
        let mut reply = [0; 1000];
        let length = socket.recv(&mut reply).unwrap();
        expect_reply(reply[..length].to_vec(), 200, thread);
    }
    expect_count(&server, DIGEST, 1);
}

#[test]
fn copies_of_a_request_in_flight_get_its_outcome_with_their_own_threads() {
    let mut redis = Redis::start();
    let settings = format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\nReplayGuard = true\n", redis.port());
    let server = home(&settings).start();
    redis.service().signal(Signal::SIGSTOP);
    let requests = [
        signed("bob", &[DIGEST], ID, 5000),
        signed("eve", &[DIGEST], "0123456789abcdef-7-2", 5001),
        headers(&[DIGEST], "0123456789abcdef-7-3", 5002).into_bytes(),
        signed("bob", &[DIGEST], ID, 5000),
    ];
    let sockets = [server.socket(), server.socket(), server.socket(), server.socket()];
    for (socket, request) in sockets.iter().zip(&requests) {
        socket.send(request).unwrap();
    }
    // The reply to this ping shows that the reports have been received.
    assert_eq!(server.request("ping", &[]).code(), 200);
    redis.service().signal(Signal::SIGCONT);
    let replies = sockets.map(|socket| {
        let mut reply = [0; 1000];
        let length = socket.recv(&mut reply).unwrap();
        Reply(reply[..length].to_vec())
    });
    assert_eq!(replies.each_ref().map(|reply| reply.number("Thread")), [5000, 5001, 5002, 5000]);
    let codes = replies.each_ref().map(Reply::code);
    // On a slow machine the database may have become unavailable in the meantime.
    assert!(codes == [200; 4] || codes == [500; 4], "{codes:?}");
    eventually("the database", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    let counted = server.request("check", &[DIGEST]).counts().0;
    assert!(counted == 1 || (counted == 0 && codes == [500; 4]), "{counted} {codes:?}");

    // The database is unavailable: the request is refused, so a copy sent later is a new attempt.
    let other = "0123456789abcdef-8-1";
    redis.service().kill();
    eventually("a refusal", || (server.request("check", &[DIGEST]).code() == 500).then_some(()));
    expect_reply(server.ask(headers(&[DIGEST], other, 5003)), 500, 5003);
    redis.restart();
    eventually("the database", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    let before = server.request("check", &[DIGEST]).counts().0;
    for thread in 5004..5007 {
        expect_reply(server.ask(signed("eve", &[DIGEST], other, thread)), 200, thread.into());
    }
    expect_count(&server, DIGEST, before + 1);
}

#[test]
fn request_that_the_database_did_not_confirm_is_counted_once() {
    let mut redis = Redis::start();
    let settings = format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port());
    let server = home(&settings).start();
    redis.service().signal(Signal::SIGSTOP);
    expect_reply(server.ask(headers(&[DIGEST], ID, 5000)), 500, 5000);
    redis.service().signal(Signal::SIGCONT);
    eventually("the database", || (server.request("check", &[DIGEST]).code() == 200).then_some(()));
    // Redis counts what was sent when it was stopped. Then the copy is refused like the first.
    let counted = server.request("check", &[DIGEST]).counts().0;
    let copy = Reply(server.ask(headers(&[DIGEST], "0123456789abcdef-7-2", 5001)));
    let now = server.request("check", &[DIGEST]).counts().0;
    assert!(now <= 1 && (copy.code() == 500 || counted == 0), "{counted} {now} {}", copy.code());
}

#[test]
fn copy_with_too_many_hops_does_not_keep_a_request_from_its_way() {
    let remote = Remote::accepting();
    let server = home("").forwarding_to(&[remote.name()]).start();
    for (hops, thread) in [(255, 5000), (3, 5001), (1, 5002)] {
        let id = format!("0123456789abcdef-7-{hops}");
        expect_reply(server.ask(headers(&[DIGEST], &id, thread)), 200, thread.into());
    }
    expect_count(&server, DIGEST, 1);
    remote.receives(1);
    assert!(server.stop().success());
    let ids: Vec<_> =
        remote.requests().iter().map(|request| request.header("Forward-Id").map(str::to_owned)).collect();
    assert_eq!(ids, [Some("0123456789abcdef-7-4".to_owned())]);
}

#[test]
fn request_of_another_server_with_the_same_origin_is_reported() {
    let remote = Remote::accepting();
    let server = home("").forwarding_to(&[remote.name()]).start();
    let file = server.home().read("pyzord.origin");
    let (origin, _) = file.split_once(' ').unwrap();
    for thread in [5000, 5001] {
        expect_reply(server.ask(headers(&[DIGEST], &format!("{origin}-7-1"), thread)), 200, thread.into());
    }
    expect_count(&server, DIGEST, 1);
    remote.receives(1);
    expect_warning(&server, "its homedir is probably a copy of this server's: remove pyzord.origin there");

    let server = home("ForwardOrigin = 0123456789abcdef\n").start();
    expect_reply(server.ask(headers(&[DIGEST], ID, 5000)), 200, 5000);
    expect_count(&server, DIGEST, 0);
    expect_warning(&server, "set another ForwardOrigin there if it has another database");
}

#[track_caller]
fn expect_warning(server: &Server, remedy: &str) {
    let begin = "127.0.0.1 forwards reports with the origin of this server, which has not sent them; ";
    eventually("the warning", || {
        let log = server.home().log();
        log.lines().any(|line| line.contains(begin) && line.contains(remedy)).then_some(())
    });
}

#[test]
fn malformed_ids_are_as_none() {
    let server = home("").start();
    let long = "9".repeat(7000);
    let malformed = [
        "",
        "-",
        "--",
        "0123456789abcdef-7-0",
        "0123456789abcdef-7-256",
        "0123456789abcdef-18446744073709551616-1",
        "0123456789abcdef-07-1",
        "0123456789abcdef-+7-1",
        "0123456789abcdef-7-1 ",
        "0123456789abcdef-7-1\n 1",
        "0123456789abcdef-7-1-1",
        "0123456789abcde\u{e9}-7-1",
        "\u{0}123456789abcdef-7-1",
        &format!("0123456789abcdef-{long}-1"),
        &long,
    ];
    let mut count = 0;
    for id in malformed {
        for _ in 0..2 {
            expect_reply(server.ask(headers(&[DIGEST], id, 5000)), 200, 5000);
            count += 1;
            expect_count(&server, DIGEST, count);
        }
    }
    // The first of several ids counts.
    let twice = format!("Forward-Id: {ID}\n{}", headers(&[DIGEST], "x", 5000));
    for _ in 0..2 {
        expect_reply(server.ask(&twice), 200, 5000);
    }
    expect_count(&server, DIGEST, count + 1);
}
