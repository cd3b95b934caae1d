//! Commands that the account may not run, or that Redis does not have.

use std::time::{Duration, Instant};

use crate::engines::done;
use crate::engines::redis::{RIGHTS, RIGHTS_V0, home, key, refusal};
use crate::harness::{DIGEST, Home, Redis, RedisCluster, eventually};

/// Creates the account `counter` with all rights that a server needs, except one.
fn account_without(redis: &Redis, missing: &str) {
    let mut command = vec!["acl", "setuser", "counter", "reset", "on", ">secret"];
    let rights = format!("{RIGHTS} {RIGHTS_V0}");
    command.extend(rights.split(' '));
    let missing = format!("-{missing}");
    command.push(&missing);
    assert_eq!(redis.cli(&command), "OK\n");
}

/// A homedir for a server with this engine and the account `counter`.
fn home_of(engine: &str, redis: &Redis, settings: &str) -> Home {
    Home::open().config(&format!(
        "Engine = {engine}\nDigestDB = 127.0.0.1,{},secret,0,counter\n{settings}",
        redis.port()
    ))
}

/// The commands that an engine needs.
fn needed(engine: &str) -> &'static [&'static str] {
    match engine {
        "redis" => &["evalsha", "script|load", "hmget", "hset", "expire", "persist", "scan"],
        _ => &["evalsha", "script|load", "get", "set", "expire", "persist", "scan"],
    }
}

#[test]
fn start_fails_with_the_name_of_each_missing_right() {
    let redis = Redis::start();
    for engine in ["redis", "redis_v0"] {
        for command in needed(engine) {
            account_without(&redis, command);
            let line = refusal(&home_of(engine, &redis, ""));
            let name = command.replace('|', " ");
            assert!(line.to_lowercase().contains(&format!("{name} is refused")), "{command}: {line}");
        }
        account_without(&redis, "del");
        drop(home_of(engine, &redis, "").start());
    }
    // The trial commands leave nothing behind.
    assert_eq!(redis.cli(&["dbsize"]), "0\n");
}

#[test]
fn start_fails_with_the_name_of_each_renamed_command() {
    for command in ["EVALSHA", "HMGET", "HSET", "EXPIRE", "PERSIST", "SCAN"] {
        let redis = Redis::with(&format!("--rename-command {command} elsewhere"), &[]);
        let line = refusal(&home(&format!("127.0.0.1,{},,0", redis.port()), ""));
        assert!(line.contains(&format!("{command} is refused")), "{line}");
        assert_eq!(redis.cli(&["dbsize"]), "0\n", "{command}");
    }
}

#[test]
fn new_reason_of_an_outage_is_logged_at_once() {
    let mut redis = Redis::start();
    let home = home(&format!("127.0.0.1,{},,0", redis.port()), "");
    let server = home.start();
    let lines = |why: &str| {
        home.log().lines().filter(|line| line.contains(" unavailable") && line.contains(why)).count()
    };
    let start = Instant::now();
    redis.service().kill();
    eventually("the first reason", || (lines("Connection refused") == 1).then_some(()));
    // A second reason, and the first again.
    for round in 1..=3 {
        let other = Redis::at(
            redis.port(),
            &format!("--port {} --requirepass secret", redis.port()),
            &["-a", "secret", "--no-auth-warning"],
        );
        eventually("the second reason", || (lines("NOAUTH") == round).then_some(()));
        drop(other);
        eventually("the first reason", || (lines("Connection refused") == 1 + round).then_some(()));
    }
    // An unchanged reason is logged once a minute.
    assert!(start.elapsed() < Duration::from_secs(50), "reminders have been counted");
    redis.restart();
    eventually("service", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
}

#[test]
fn start_fails_with_the_name_of_a_right_missing_on_a_cluster() {
    let cluster = RedisCluster::start(None);
    let dsn = format!("redis+cluster://counter:secret@{}", cluster.hosts());
    for command in ["asking", "expire"] {
        for node in cluster.nodes() {
            account_without(node, command);
            let asking = if command == "asking" { "-asking" } else { "+asking" };
            node.cli(&["acl", "setuser", "counter", "+cluster|slots", asking]);
        }
        let line = refusal(&home(&dsn, ""));
        assert!(line.to_lowercase().contains(&format!("{command} is refused")), "{line}");
    }
}

#[test]
fn revoked_right_stops_counting_until_it_is_granted_again() {
    stops_without_each_right(&Redis::start());
}

#[test]
fn revoked_right_on_valkey_stops_counting_until_it_is_granted_again() {
    stops_without_each_right(&Redis::valkey(""));
}

fn stops_without_each_right(redis: &Redis) {
    for (age, other) in [("5000", "persist"), ("0", "expire")] {
        account_without(redis, "del");
        redis.cli(&["flushall"]);
        let home = home_of("redis", redis, &format!("CleanupAge = {age}\n"));
        let server = home.start();
        let count = || redis.cli(&["hget", &key(DIGEST), "r_count"]);
        let mut counted = 0;
        for command in needed("redis").iter().filter(|name| !["scan", "script|load", other].contains(name)) {
            done(&server, "report", DIGEST);
            counted += 1;
            account_without(redis, command);
            for _ in 0..3 {
                assert_eq!(server.request("report", &[DIGEST]).code(), 500, "{command}");
                assert_eq!(count(), format!("{counted}\n"), "counted and refused without {command}");
            }
            eventually("the command's name", || {
                let named = |line: &str| {
                    line.contains(" unavailable")
                        && line.to_lowercase().contains(&format!("{command} is refused"))
                };
                home.log().lines().any(named).then_some(())
            });
            account_without(redis, "del");
            eventually("service", || {
                let code = server.request("report", &[DIGEST]).code();
                (code == 200).then_some(())
            });
            counted += 1;
            assert_eq!(count(), format!("{counted}\n"), "{command}");
        }
    }
}

#[test]
fn forbidden_keys_do_not_stop_others_from_being_counted() {
    let redis = Redis::start();
    account_without(&redis, "del");
    redis.cli(&["acl", "setuser", "counter", "resetkeys", "~pyzord.probe*", "~pyzord.digest_v1.[0-7]*"]);
    let server = home_of("redis", &redis, "").start();
    let digests: Vec<String> = (0..64).map(|number| format!("{:x}{number:039x}", number % 16)).collect();
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    assert_eq!(server.request("report", &all).code(), 500);
    for digest in all {
        let expected = if digest.starts_with(|first| first < '8') { "1\n" } else { "\n" };
        assert_eq!(redis.cli(&["hget", &key(digest), "r_count"]), expected, "{digest}");
    }
}

#[test]
fn start_fails_with_the_name_of_a_forbidden_key() {
    let redis = Redis::start();
    account_without(&redis, "del");
    redis.cli(&["acl", "setuser", "counter", "resetkeys", "~other*"]);
    let line = refusal(&home_of("redis", &redis, ""));
    assert!(line.contains("refused for the key pyzord.probe"), "{line}");
}

#[test]
fn cluster_that_stops_listing_its_slots_is_logged() {
    let cluster = RedisCluster::start(None);
    for node in cluster.nodes() {
        account_without(node, "del");
        node.cli(&["acl", "setuser", "counter", "+cluster|slots", "+asking"]);
    }
    let home = home(&format!("redis+cluster://counter:secret@{}", cluster.hosts()), "");
    let server = home.start();
    done(&server, "report", DIGEST);
    for node in cluster.nodes() {
        node.cli(&["acl", "setuser", "counter", "-cluster|slots"]);
    }
    let (key, line) = (key(DIGEST), "does not list the owners of its slots: ");
    let from = cluster.owner(&key);
    let to = (from + 1) % 3;
    cluster.begin_to_move(&key, from, to);
    cluster.move_key(&key, from, to);
    cluster.finish_to_move(&key, to);
    done(&server, "report", DIGEST);
    eventually("the refusal", || home.log().contains(line).then_some(()));
    done(&server, "report", DIGEST);
    assert_eq!(cluster.field(&key, "r_count"), "3");
    assert!(home.log().contains("cluster|slots"), "{}", home.log());
}
