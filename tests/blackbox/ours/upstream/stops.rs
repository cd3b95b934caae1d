//! Stops while checks wait.

use nix::sys::signal::Signal;

use crate::harness::{Account, Caller, DIGEST, Home, PATIENCE, Redis, Remote, digest};
use crate::ours::shared_port;
use crate::ours::upstream::{PATIENT, asking, expect_before_timeout, found, number_of, send_checks};

#[test]
fn waiting_checks_get_the_plain_miss_at_a_stop() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let remote = Remote::silent();
        let home = asking(&remote, PATIENT);
        let mut server = home.start();
        let callers = [Caller::to(server.port()), Caller::to(server.port())];
        send_checks(&callers[0], 0..20);
        send_checks(&callers[1], 10..30);
        remote.receives(30);
        home.opinions_held(0, 40);
        server.signal(signal);
        assert!(server.ended().success());
        expect_before_timeout(remote.requests()[0].at);
        for (caller, first) in callers.iter().zip([0, 10]) {
            let mut numbers = Vec::new();
            for _ in 0..20 {
                let reply = caller.receive(PATIENCE).expect("no reply");
                let number = number_of(&reply);
                assert_eq!(String::from_utf8_lossy(&reply.0), found(10_000 + number, (0, 0)));
                numbers.push(number);
            }
            numbers.sort_unstable();
            assert_eq!(numbers, (first..first + 20).collect::<Vec<u32>>());
        }
        let usage = home.read("usage.log");
        assert_eq!(usage.matches(",check,").count(), 40, "{usage}");
        assert!(!home.log().contains("is unavailable"), "{}", home.log());
        assert_eq!(home.stored(), [].into());
    }
}

/// What the database has counted is kept, and signed checks are answered as well.
#[test]
fn stop_with_reports_beside_waiting_checks_loses_nothing() {
    let bob = Account::new("bob");
    let remote = Remote::silent();
    let home = Home::new().passwd(bob.passwd()).access("all : bob anonymous : allow\n");
    let home = home.config(PATIENT).asking(&[remote.name()]);
    let mut server = home.start();
    let socket = server.socket();
    let headers = format!("Op: check\nOp-Digest: {DIGEST}\nThread: 2000\nPV: 2.1\n");
    socket.send(&bob.sign(&headers, crate::harness::unix_time())).unwrap();
    remote.receives(1);
    for number in 0..50 {
        assert_eq!(server.request("report", &[&digest(number)]).code(), 200);
    }
    server.signal(Signal::SIGTERM);
    assert!(server.ended().success());
    let mut reply = [0; 1024];
    let length = socket.recv(&mut reply).unwrap();
    assert_eq!(String::from_utf8_lossy(&reply[..length]), found(2000, (0, 0)));
    assert_eq!(home.stored(), (0..50).map(|number| (digest(number), 1)).collect());
}

#[test]
fn server_stops_while_another_is_unavailable() {
    let remote = Remote::closed_at("127.0.0.1", crate::harness::free_port(), crate::harness::accept);
    let home = asking(&remote, PATIENT);
    let server = home.start();
    assert_eq!(server.request("check", &[DIGEST]).counts(), (0, 0));
    home.opinions_while(&remote.name(), "unavailable");
    assert!(server.stop().success());
}

/// Two processes share the port, and each has its own questions.
#[test]
fn stop_of_one_process_leaves_the_checks_of_the_other_waiting() {
    let (redis, remote) = (Redis::start(), Remote::holding(7, 2));
    let settings =
        format!("{PATIENT}ReusePort = True\nEngine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port());
    let home = Home::open().config(&settings).asking(&[remote.name()]);
    let [mut stopping, staying] = ["one", "two"].map(|name| shared_port::start(&home, name));
    let clients = shared_port::clients(&home);
    shared_port::ping(&clients, 2000, "before the stop");
    for client in &clients {
        client.send("check", &[DIGEST], 3000);
    }
    // One question of each process.
    remote.receives(2);
    shared_port::ping(&clients, 2001, "while checks wait");
    stopping.process().signal(Signal::SIGTERM);
    assert!(stopping.ended().success());
    remote.release();
    let replies: Vec<_> =
        clients.iter().map(|client| client.receive(PATIENCE).expect("no reply").counts()).collect();
    let missed = replies.iter().filter(|counts| **counts == (0, 0)).count();
    let found = replies.iter().filter(|counts| **counts == (7, 2)).count();
    assert!(missed > 0 && found > 0 && missed + found == clients.len(), "{replies:?}");
    staying.process().stop();
    let lines = |name: &str| home.read(&format!("{name}.usage")).matches(",check,").count();
    assert_eq!([lines("one"), lines("two")], [missed, found]);
}
