//! Records as texts (`redis_v0`) where this server differs from the Python server.

use std::thread;

use crate::engines::redis::{Texts, time_to_live};
use crate::engines::{Store, done};
use crate::harness::{DIGEST, unix_time};

#[test]
fn cleanup_age_of_0_removes_the_expiry_of_texts() {
    // The Python server fails at each change with this setting.
    let store = Texts::new();
    let server = store.home("CleanupAge = 0\n").start();
    let (key, new) = (format!("pyzord.digest.{DIGEST}"), "b".repeat(40));
    store.0.cli(&["set", &key, "1,,,0,,", "ex", "1000"]);
    assert_eq!(server.request("report", &[DIGEST, &new]).code(), 200);
    assert!(store.0.cli(&["get", &key]).starts_with("2,"));
    assert_eq!(time_to_live(&store.0, &key), -1);
    assert_eq!(time_to_live(&store.0, &format!("pyzord.digest.{new}")), -1);
}

#[test]
fn two_servers_count_texts_exactly() {
    // The Python server reads and writes in two steps, and loses counts.
    let store = Texts::new();
    let servers = [store.home("").start(), store.home("").start()];
    thread::scope(|scope| {
        for server in servers.iter().chain(&servers) {
            scope.spawn(move || {
                for _ in 0..50 {
                    done(server, "report", DIGEST);
                    done(server, "whitelist", DIGEST);
                }
            });
        }
    });
    assert_eq!(done(&servers[0], "check", DIGEST).counts(), (200, 200));
}

#[test]
fn dates_in_texts_are_local() {
    let store = Texts::new();
    let key = format!("pyzord.digest.{DIGEST}");
    // Five hours behind UTC.
    store.0.cli(&["set", &key, "1,2026-11-22 05:37:12,2026-11-22 05:37:12,0,,"]);
    let server = store.home("").environment("TZ", "America/New_York").start();
    assert_eq!(done(&server, "info", DIGEST).times()[..2], [1_795_343_832, 1_795_343_832]);
    done(&server, "report", DIGEST);
    let [first, last, ..] = done(&server, "info", DIGEST).times();
    assert!(first == 1_795_343_832 && (unix_time() - last).abs() < 60, "{first} {last}");
    assert!(store.0.cli(&["get", &key]).starts_with("2,2026-11-22 05:37:12,20"));
}

#[test]
fn damaged_texts_are_refused_and_not_changed() {
    let store = Texts::new();
    let server = store.home("").start();
    let key = format!("pyzord.digest.{DIGEST}");
    for damaged in ["garbage", "1,,,2", "1,2026-11-22 05:37:12.5,,0,,", "x,,,0,,", "1,,,,,"] {
        store.0.cli(&["set", &key, damaged]);
        for operation in ["check", "info", "report", "whitelist"] {
            assert_eq!(server.request(operation, &[DIGEST]).code(), 500, "{operation} {damaged}");
        }
        assert_eq!(store.0.cli(&["get", &key]), format!("{damaged}\n"));
    }
    // A value that is not a text.
    store.0.cli(&["del", &key]);
    store.0.cli(&["hset", &key, "r_count", "1"]);
    for operation in ["check", "info", "report", "whitelist"] {
        let diagnosis = server.request(operation, &[DIGEST]).header("Diag").unwrap();
        assert_eq!(diagnosis, "Internal Server Error: Damaged record.", "{operation}");
    }
    assert_eq!(store.0.hash(&key).len(), 1);
    store.0.cli(&["set", &key, "1,,,0,,,more"]);
    done(&server, "report", DIGEST);
    let changed = store.0.cli(&["get", &key]);
    assert!(changed.starts_with("2,20") && changed.ends_with(",0,,\n"), "{changed}");
}
