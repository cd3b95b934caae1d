//! Records that this server and the Python server write and read alike.

use std::thread;

use super::{Hashes, Texts, key, time_to_live};
use crate::engines::{Store, digests, done};
use crate::harness::{DIGEST, eventually, interop, is_ours, unix_time};

#[test]
fn changes_renew_the_expiry_and_look_ups_do_not() {
    let store = Hashes::new();
    let server = store.home("CleanupAge = 5000\n").start();
    let key = key(DIGEST);
    for operation in ["report", "whitelist"] {
        done(&server, operation, DIGEST);
        assert!((4990..=5000).contains(&time_to_live(store.redis(), &key)), "{operation}");
        store.redis().cli(&["expire", &key, "1000"]);
        done(&server, "check", DIGEST);
        done(&server, "info", DIGEST);
        assert!((990..=1000).contains(&time_to_live(store.redis(), &key)), "a look-up after {operation}");
    }
}

#[test]
fn changes_renew_the_expiry_of_texts() {
    let store = Texts::new();
    let server = store.home("CleanupAge = 5000\n").start();
    let key = format!("pyzord.digest.{DIGEST}");
    for operation in ["report", "whitelist"] {
        done(&server, operation, DIGEST);
        assert!((4990..=5000).contains(&time_to_live(&store.0, &key)), "{operation}");
        store.0.cli(&["expire", &key, "1000"]);
        done(&server, "check", DIGEST);
        done(&server, "info", DIGEST);
        assert!((990..=1000).contains(&time_to_live(&store.0, &key)), "a look-up after {operation}");
    }
}

#[test]
fn both_servers_use_one_redis_at_the_same_time() {
    let store = Hashes::new();
    let ours = store.home("").start();
    let established = store.home("").program(interop("pyzord")).start();
    thread::scope(|scope| {
        for server in [&ours, &established] {
            scope.spawn(|| {
                for _ in 0..100 {
                    done(server, "report", DIGEST);
                    done(server, "whitelist", DIGEST);
                }
            });
        }
    });
    for server in [&ours, &established] {
        assert_eq!(done(server, "check", DIGEST).counts(), (200, 200));
    }
    assert_eq!(done(&ours, "info", DIGEST).times(), done(&established, "info", DIGEST).times());
}

#[test]
fn two_servers_on_one_redis_count_exactly() {
    let store = Hashes::new();
    let servers = [store.home("").start(), store.home("").start()];
    let digests = digests(20);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    thread::scope(|scope| {
        for server in servers.iter().chain(&servers) {
            let all = &all;
            scope.spawn(move || {
                for _ in 0..25 {
                    assert_eq!(server.request("report", all).code(), 200);
                }
            });
        }
    });
    for digest in all {
        assert_eq!(done(&servers[0], "check", digest).counts(), (100, 0));
    }
}

#[test]
fn unknown_fields_stay_and_a_time_of_0_is_none() {
    let store = Hashes::new();
    let server = store.home("").start();
    let key = key(DIGEST);
    // A record as pyzor-migrate writes it.
    store.redis().cli(&[
        "hset",
        &key,
        "r_count",
        "0",
        "r_entered",
        "0",
        "r_updated",
        "0",
        "wl_count",
        "2",
        "wl_entered",
        "-5",
        "wl_updated",
        "7",
        "note",
        "mine",
    ]);
    assert_eq!(done(&server, "info", DIGEST).times(), [0, 0, -5, 7]);
    let start = unix_time();
    done(&server, "report", DIGEST);
    let fields = store.redis().hash(&key);
    assert_eq!(
        (fields["note"].as_str(), fields["wl_entered"].as_str(), fields["wl_updated"].as_str()),
        ("mine", "-5", "7")
    );
    assert_eq!((fields["r_count"].as_str(), fields["wl_count"].as_str()), ("1", "2"));
    assert!(fields["r_updated"].parse::<i64>().unwrap() >= start);
    if is_ours() {
        // The Python server keeps the 0.
        assert_eq!(fields["r_entered"], fields["r_updated"]);
    }
}

#[test]
fn flushed_scripts_are_loaded_again() {
    let store = Hashes::new();
    let home = store.home("");
    let server = home.start();
    for count in 1..=3 {
        store.redis().cli(&["script", "flush"]);
        let other = "b".repeat(40);
        assert_eq!(server.request("report", &[DIGEST, &other]).code(), 200);
        assert_eq!(done(&server, "check", DIGEST).counts(), (count, 0));
    }
    server.stop();
    assert!(!home.log().contains(" is unavailable"));
}

#[test]
fn records_of_redis_v0_are_logged() {
    let store = Hashes::new();
    store.redis().cli(&["set", &format!("pyzord.digest.{DIGEST}"), "1,,,0,,"]);
    store.redis().cli(&["set", "other", "key"]);
    let home = store.home("");
    let _server = home.start();
    eventually("the lines", || {
        home.log().contains("Please migrate the records with: 'pyzor-migrate ").then_some(())
    });
    assert!(
        home.log().contains("CRITICAL You have 1 records in the deprecated version of the redis engine.")
    );
}

#[test]
fn flushing_scripts_during_reports_loses_no_count() {
    let store = Hashes::new();
    let server = store.home("").start();
    let (clients, reports) = (4, 50);
    let flushed = thread::scope(|scope| {
        let report = || (0..reports).for_each(|_| drop(done(&server, "report", DIGEST)));
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(report)).collect();
        let mut flushed = 0;
        while !clients.iter().all(|client| client.is_finished()) {
            store.redis().cli(&["script", "flush"]);
            flushed += 1;
        }
        flushed
    });
    assert!(flushed > 1, "the clients finished before scripts were flushed twice");
    assert_eq!(done(&server, "check", DIGEST).counts(), (clients * reports, 0));
}
