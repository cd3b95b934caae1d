//! Records as hashes where this server differs from the Python server.

use std::sync::Arc;

use crate::engines::redis::{Hashes, Texts, home, key, time_to_live};
use crate::engines::{Store, digests, done};
use crate::harness::{DIGEST, Redis, eventually};

#[test]
fn cleanup_age_of_0_removes_the_expiry_of_changed_records() {
    let store = Hashes::new();
    let server = store.home("CleanupAge = 0\n").start();
    let (changed, other) = (key(DIGEST), key(&"b".repeat(40)));
    for key in [&changed, &other] {
        store.redis().cli(&["hset", key, "r_count", "1", "r_entered", "1", "r_updated", "1"]);
        store.redis().cli(&["expire", key, "1000"]);
    }
    done(&server, "report", DIGEST);
    assert_eq!(time_to_live(store.redis(), &changed), -1);
    assert!((990..=1000).contains(&time_to_live(store.redis(), &other)));
}

#[test]
fn one_script_call_returns_an_outcome_for_each_digest() {
    let stores = (Hashes::new(), Texts::new());
    let both = [
        (&stores.0.0, stores.0.home("").start(), "pyzord.digest_v1."),
        (&stores.1.0, stores.1.home("").start(), "pyzord.digest."),
    ];
    for (redis, server, prefix) in both {
        let digests = digests(150);
        let all: Vec<&str> = digests.iter().map(String::as_str).collect();
        redis.cli(&["config", "resetstat"]);
        assert_eq!(server.request("report", &all).code(), 200);
        let statistics = redis.cli(&["info", "commandstats"]);
        assert!(statistics.contains("cmdstat_evalsha:calls=1,"), "{statistics}");
        // Two damaged records in the middle of the batch.
        for (place, planting) in [(20, ["rpush", "1"]), (140, ["sadd", "1"])] {
            let key = format!("{prefix}{}", all[place]);
            redis.cli(&["del", &key]);
            redis.cli(&[planting[0], &key, planting[1]]);
        }
        redis.cli(&["script", "flush"]);
        assert_eq!(server.request("report", &all).code(), 500);
        for (place, digest) in all.iter().enumerate() {
            let reply = server.request("check", &[digest]);
            match place {
                20 | 140 => assert_eq!(reply.code(), 500),
                _ => assert_eq!(reply.counts(), (2, 0), "{place}"),
            }
        }
        // Also if Redis becomes full, no report is counted without being acknowledged.
        redis.cli(&["config", "set", "maxmemory", "1"]);
        assert_eq!(server.request("report", &all[..9]).code(), 500);
        redis.cli(&["config", "set", "maxmemory", "0"]);
        for digest in &all[..9] {
            assert_eq!(server.request("check", &[digest]).counts(), (2, 0));
        }
    }
}

#[test]
fn damaged_hash_is_logged_and_not_changed() {
    let store = Hashes::new();
    let home = store.home("");
    let server = home.start();
    let (damaged, other) = (DIGEST.to_owned(), "b".repeat(40));
    let key = key(&damaged);
    let plantings: [&[&str]; 6] = [
        &["set", &key, "a text"],
        &["rpush", &key, "1"],
        &["hset", &key, "r_count", "many", "r_entered", "1"],
        &["hset", &key, "r_count", "1", "r_entered", "yesterday", "r_updated", "1"],
        &["hset", &key, "r_count", "1", "wl_count", "1.5"],
        &["hset", &key, "r_count", "1__0"],
    ];
    for (number, planting) in (1..).zip(plantings) {
        store.redis().cli(&["del", &key]);
        store.redis().cli(planting);
        let before = store.redis().cli(&["dump", &key]);
        let has_good_counts = planting.contains(&"yesterday");
        for operation in ["check", "info", "report", "whitelist"] {
            let reply = server.request(operation, &[&damaged]);
            if operation == "check" && has_good_counts {
                // A check reads only the counts.
                assert_eq!((reply.code(), reply.counts()), (200, (1, 0)));
                continue;
            }
            assert_eq!(reply.code(), 500, "{operation} {planting:?}");
            assert_eq!(reply.header("Diag").unwrap(), "Internal Server Error: Damaged record.");
        }
        // Other digests of the datagram are counted.
        assert_eq!(server.request("report", &[&other, &damaged]).code(), 500);
        assert_eq!(done(&server, "check", &other).counts(), (number, 0));
        assert_eq!(store.redis().cli(&["dump", &key]), before, "{planting:?}");
    }
    let log = home.log();
    assert!(log.contains(&format!("the record of {damaged} in ")) && log.contains(" is damaged"), "{log}");
}

#[test]
fn numbers_of_all_sizes_are_counted_exactly() {
    let store = Hashes::new();
    let server = store.home("CleanupAge = 0\n").start();
    let texts = Texts(Arc::clone(&store.0));
    let other = texts.home("CleanupAge = 0\n").start();
    for (before, after) in [
        ("0", "3"),
        ("-2", "1"),
        ("-9", "-6"),
        (" +07 ", "10"),
        ("1_000", "1003"),
        ("999999998", "1000000001"),
        ("999999999999999", "1000000000000002"),
        ("9007199254740991", "9007199254740994"),
        ("9007199254740992", "9007199254740995"),
        ("9223372036854775803", "9223372036854775806"),
        ("9223372036854775804", "9223372036854775807"),
        ("9223372036854775805", "9223372036854775807"),
        ("9223372036854775807", "9223372036854775807"),
        ("99999999999999999999", "9223372036854775807"),
    ] {
        store.0.cli(&["hset", &key(DIGEST), "r_count", before]);
        assert_eq!(server.request("report", &[DIGEST; 3]).code(), 200, "{before}");
        assert_eq!(store.0.cli(&["hget", &key(DIGEST), "r_count"]), format!("{after}\n"), "{before}");
        let text = format!("pyzord.digest.{DIGEST}");
        store.0.cli(&["set", &text, &format!("0,,,{before},,")]);
        assert_eq!(other.request("whitelist", &[DIGEST; 3]).code(), 200, "{before}");
        let changed = store.0.cli(&["get", &text]);
        assert!(changed.starts_with(&format!("0,,,{after},2")), "{before}: {changed}");
    }
}

#[test]
fn log_lines_about_records_of_redis_v0_do_not_contain_the_password() {
    let redis = Redis::with("--requirepass secret", &["-a", "secret", "--no-auth-warning"]);
    for dsn in [
        format!("127.0.0.1,{},secret,0", redis.port()),
        format!("redis://:secret@127.0.0.1:{}/0", redis.port()),
    ] {
        redis.cli(&["set", &format!("pyzord.digest.{DIGEST}"), "1,,,0,,"]);
        let home = home(&dsn, "");
        let server = home.start();
        let lines = || home.log().lines().filter(|line| line.contains(" CRITICAL ")).count();
        eventually("two lines", || (lines() == 2).then_some(()));
        assert!(server.stop().success());
        let said = home.everything_said();
        assert!(said.contains("pyzor-migrate") && !said.contains("secret"), "{said}");
        // The record itself is unchanged.
        assert_eq!(redis.cli(&["get", &format!("pyzord.digest.{DIGEST}")]), "1,,,0,,\n");
    }
}

#[test]
fn keys_that_are_not_digests_are_logged() {
    let store = Hashes::new();
    store.redis().cli(&["hset", &key("b'aaaa'"), "r_count", "1"]);
    let home = store.home("");
    let _server = home.start();
    eventually("the warning", || home.log().contains("not lower-case digests").then_some(()));
    assert!(home.log().contains("pyzor-migrate"));
}

#[test]
fn full_redis_refuses_changes_and_answers_checks() {
    let store = Hashes::new();
    let home = store.home("");
    let server = home.start();
    done(&server, "report", DIGEST);
    store.redis().cli(&["config", "set", "maxmemory", "1"]);
    assert_eq!(server.request("report", &[DIGEST]).code(), 500);
    assert_eq!(done(&server, "check", DIGEST).counts(), (1, 0));
    store.redis().cli(&["config", "set", "maxmemory", "0"]);
    done(&server, "report", DIGEST);
    assert_eq!(done(&server, "check", DIGEST).counts(), (2, 0));
    let log = home.log();
    assert!(log.contains("OOM") && !log.contains(" is unavailable"), "{log}");
}
