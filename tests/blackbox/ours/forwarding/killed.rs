//! Real servers that are killed and return while reports arrive.

use std::thread;
use std::time::Duration;

use crate::harness::{Caller, Home, Redis, Server, StopFlag, digest, interop};

/// How often the server is killed.
const KILLS: u64 = 3;
/// The most digests in flight: 32 requests of 10.
const IN_FLIGHT: u64 = 320;

/// Reports until stopped, at several hundred a second at most. Returns the number of accepted reports.
fn load(port: u16, over: &StopFlag) -> u32 {
    let mut caller = Caller::to(port);
    let mut sent = 0;
    while !over.is_set() {
        assert_eq!(caller.answered("report", &[&digest(sent)]).code(), 200);
        sent += 1;
        thread::sleep(Duration::from_millis(2));
    }
    sent
}

/// Kills and restarts the server of a home under load. Returns how many reports it has accepted, according to the server
/// that forwards to it, and how many there were.
fn kill_under_load(remote: &Home) -> (u64, u64) {
    let name = format!("127.0.0.1:{}", remote.port());
    let home = Home::open().forwarding_to(&[&name]);
    home.remotes_file("config", "[client]\nTimeout = 2\n");
    let server = home.start();
    let start = || {
        let mut running = Server::start(remote, remote.command());
        running.serves(&mut remote.caller());
        running
    };
    let over = StopFlag::default();
    let mut running = start();
    let (reports, running) = thread::scope(|scope| {
        let guard = over.set_on_drop();
        let load = scope.spawn(|| load(server.port(), &over));
        for _ in 0..KILLS {
            let before = home.forwarding(&name).count("accepted");
            home.forwarding_with(&name, "accepted reports", |it| it.count("accepted") > before + 50);
            // Kills the process.
            drop(running);
            home.forwarding_with(&name, "an outage", |it| it.state() == "unavailable");
            running = start();
        }
        let before = home.forwarding(&name).count("accepted");
        home.forwarding_with(&name, "accepted reports", |it| it.count("accepted") > before + 50);
        drop(guard);
        (u64::from(load.join().unwrap()), running)
    });
    let forwarding = home.forwarding_settled(&name, reports);
    let (accepted, silent) = (forwarding.count("accepted"), forwarding.count("silent"));
    println!("{reports} reports, {accepted} accepted, {silent} silent");
    assert_eq!(accepted + silent, reports, "{forwarding:?}");
    assert!(silent <= KILLS * IN_FLIGHT, "{forwarding:?}");
    assert!(server.stop().success());
    running.process().stop();
    (accepted, reports)
}

#[test]
fn killed_server_misses_only_what_was_in_flight() {
    let remote = Home::open();
    let (accepted, reports) = kill_under_load(&remote);
    let stored = remote.stored();
    let sum = u64::try_from(stored.values().sum::<i64>()).unwrap();
    assert!((accepted..=reports).contains(&sum), "{accepted} accepted of {reports}, {sum} stored");
    assert!(stored.values().all(|count| *count == 1));
}

/// Its counts are in Redis, because a kill damages its gdbm files.
#[test]
fn killed_established_server_misses_only_what_was_in_flight() {
    let redis = Redis::start();
    let config = format!("Engine = redis\nDigestDB = 127.0.0.1,{},,0\n", redis.port());
    let remote = Home::open().config(&config).program(interop("pyzord"));
    let (accepted, reports) = kill_under_load(&remote);
    let keys = redis.cli(&["keys", "pyzord.digest_v1.*"]);
    let mut sum = 0;
    for key in keys.lines() {
        assert_eq!(redis.cli(&["hget", key, "r_count"]).trim(), "1", "{key}");
        sum += 1;
    }
    assert!((accepted..=reports).contains(&sum), "{accepted} accepted of {reports}, {sum} stored");
}
