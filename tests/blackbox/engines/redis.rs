//! Redis: hashes, as the established server writes them, and before that texts.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{Record, Store, Tally, digests, done};
use crate::harness::{
    Certificate, DIGEST, Home, Redis, RedisCluster, Sentinel, eventually, free_port, interop, is_ours,
    ours_only, unix_time,
};

/// A Redis with records as hashes.
pub(super) struct Hashes(Arc<Redis>);

impl Hashes {
    /// The server.
    pub(super) fn redis(&self) -> &Redis {
        &self.0
    }
}

/// A digest's key.
pub(super) fn key(digest: &str) -> String {
    format!("pyzord.digest_v1.{digest}")
}

impl Store for Hashes {
    const LIMIT: i64 = i64::MAX;
    /// An increment beyond the limit is an error to Redis.
    const ONLY_OURS: &[&str] = &["counts_stay_at_their_limit"];

    fn new() -> Self {
        Self(Arc::new(Redis::start()))
    }

    fn home(&self, settings: &str) -> Home {
        let port = self.0.port();
        Home::open().config(&format!("Engine = redis\nDigestDB = 127.0.0.1,{port},,0\n{settings}"))
    }

    fn plant(&self, _home: &Home, records: &[(&str, Record)]) {
        for (digest, (reports, whitelistings)) in records {
            let key = key(digest);
            for (name, tally) in [("r", reports), ("wl", whitelistings)] {
                // It writes only the fields of what has been changed.
                if let Tally { count, first: Some(first), last: Some(last) } = tally {
                    let field = |what: &str, value: &i64| {
                        self.0.cli(&["hset", &key, &format!("{name}_{what}"), &value.to_string()]);
                    };
                    field("count", count);
                    field("entered", first);
                    field("updated", last);
                }
            }
        }
    }

    fn record(&self, _home: &Home, digest: &str) -> Option<Record> {
        let fields = self.0.hash(&key(digest));
        if fields.is_empty() {
            return None;
        }
        let number = |name: &str| {
            let text = fields.get(name)?;
            let number: i64 = text.parse().unwrap();
            assert_eq!(*text, number.to_string(), "not as it is written");
            Some(number)
        };
        let tally = |name: &str| Tally {
            count: number(&format!("{name}_count")).unwrap_or(0),
            first: number(&format!("{name}_entered")).filter(|time| *time != 0),
            last: number(&format!("{name}_updated")).filter(|time| *time != 0),
        };
        Some((tally("r"), tally("wl")))
    }
}

/// A Redis with records as texts.
pub(super) struct Texts(Arc<Redis>);

impl Store for Texts {
    const LIMIT: i64 = i64::MAX;
    /// With a `CleanupAge` of 0 it wants every record to expire after 0 seconds, which is an error.
    const ONLY_OURS: &[&str] =
        &["counts_stay_at_their_limit", "records_of_the_established_server_are_served_and_changed"];

    fn new() -> Self {
        Self(Arc::new(Redis::start()))
    }

    fn home(&self, settings: &str) -> Home {
        let port = self.0.port();
        Home::open().config(&format!("Engine = redis_v0\nDigestDB = 127.0.0.1,{port},,0\n{settings}"))
    }

    fn plant(&self, _home: &Home, records: &[(&str, Record)]) {
        let date = |time: Option<i64>| {
            let zoned = |time| Timestamp::from_second(time).unwrap().to_zoned(TimeZone::UTC);
            time.map(|time| zoned(time).strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
        };
        let text = |tally: &Tally| format!("{},{},{}", tally.count, date(tally.first), date(tally.last));
        for (digest, (reports, whitelistings)) in records {
            let value = format!("{},{}", text(reports), text(whitelistings));
            self.0.cli(&["set", &format!("pyzord.digest.{digest}"), &value]);
        }
    }

    fn record(&self, _home: &Home, digest: &str) -> Option<Record> {
        let text = self.0.cli(&["get", &format!("pyzord.digest.{digest}")]);
        let fields: Vec<&str> = text.trim_end().split(',').collect();
        if fields == [""] {
            return None;
        }
        assert_eq!(fields.len(), 6, "{text}");
        let date = |field: &str| {
            assert!(field.is_empty() || field.len() == 19, "{text}");
            (!field.is_empty()).then(|| {
                let date: DateTime = field.replace(' ', "T").parse().unwrap();
                date.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second()
            })
        };
        let tally = |fields: &[&str]| Tally {
            count: fields[0].parse().unwrap(),
            first: date(fields[1]),
            last: date(fields[2]),
        };
        Some((tally(&fields[..3]), tally(&fields[3..])))
    }
}

/// What a Redis account needs for hashes on one server, as docs/redis.md says.
pub(super) const RIGHTS: &str =
    "~pyzord.* resetchannels -@all +evalsha +script|load +hmget +hset +expire +persist +scan +select";
/// What it needs besides for texts.
pub(super) const RIGHTS_V0: &str = "+get +set";

pub(super) fn home(dsn: &str, settings: &str) -> Home {
    Home::open().config(&format!("Engine = redis\nDigestDB = {dsn}\n{settings}"))
}

fn dsn(redis: &Redis) -> String {
    format!("127.0.0.1,{},,0", redis.port())
}

/// The seconds that a key has to live; -1 for ever.
fn time_to_live(redis: &Redis, key: &str) -> i64 {
    redis.cli(&["ttl", key]).trim().parse().unwrap()
}

/// Starts a server that must not come up, and returns the one line that says why.
#[track_caller]
pub(super) fn refusal(home: &Home) -> String {
    assert_eq!(home.try_start().err().expect("a server").code(), Some(1));
    let stderr = home.stderr();
    let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert!(errors.len() == 1 && !home.everything_said().contains("secret"), "{stderr}");
    errors[0].to_owned()
}

#[test]
fn changes_renew_the_time_to_live_and_look_ups_do_not() {
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
fn a_cleanup_age_of_0_takes_the_time_to_live_from_what_is_changed() {
    if !ours_only() {
        return;
    }
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
fn texts_are_renewed_too() {
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
fn a_cleanup_age_of_0_takes_the_time_to_live_from_texts_too() {
    // The established server cannot change anything with it.
    if !ours_only() {
        return;
    }
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
    // The established server reads and writes in two steps.
    if !ours_only() {
        return;
    }
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
fn texts_have_local_dates() {
    if !ours_only() {
        return;
    }
    let store = Texts::new();
    let key = format!("pyzord.digest.{DIGEST}");
    // Five hours behind.
    store.0.cli(&["set", &key, "1,2026-11-22 05:37:12,2026-11-22 05:37:12,0,,"]);
    let server = store.home("").environment("TZ", "America/New_York").start();
    assert_eq!(done(&server, "info", DIGEST).times()[..2], [1_795_343_832, 1_795_343_832]);
    done(&server, "report", DIGEST);
    let [first, last, ..] = done(&server, "info", DIGEST).times();
    assert!(first == 1_795_343_832 && (unix_time() - last).abs() < 60, "{first} {last}");
    assert!(store.0.cli(&["get", &key]).starts_with("2,2026-11-22 05:37:12,20"));
}

#[test]
fn a_batch_is_one_call_in_which_each_digest_has_its_own_outcome() {
    if !ours_only() {
        return;
    }
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
        let told = redis.cli(&["info", "commandstats"]);
        assert!(told.contains("cmdstat_evalsha:calls=1,"), "{told}");
        // Two that are damaged in different ways, in the middle.
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
        // Full in the middle of a batch, too, each is counted and acknowledged, or neither.
        redis.cli(&["config", "set", "maxmemory", "1"]);
        assert_eq!(server.request("report", &all[..9]).code(), 500);
        redis.cli(&["config", "set", "maxmemory", "0"]);
        for digest in &all[..9] {
            assert_eq!(server.request("check", &[digest]).counts(), (2, 0));
        }
    }
}

#[test]
fn both_servers_serve_one_redis_at_once() {
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
fn a_record_that_cannot_be_decoded_is_told_and_left_alone() {
    if !ours_only() {
        return;
    }
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
                // A check looks at nothing else.
                assert_eq!((reply.code(), reply.counts()), (200, (1, 0)));
                continue;
            }
            assert_eq!(reply.code(), 500, "{operation} {planting:?}");
            assert_eq!(reply.header("Diag").unwrap(), "Internal Server Error: Damaged record.");
        }
        // The others of the datagram are counted all the same.
        assert_eq!(server.request("report", &[&other, &damaged]).code(), 500);
        assert_eq!(done(&server, "check", &other).counts(), (number, 0));
        assert_eq!(store.redis().cli(&["dump", &key]), before, "{planting:?}");
    }
    let log = home.log();
    assert!(log.contains(&format!("the record of {damaged} in ")) && log.contains(" is damaged"), "{log}");
}

#[test]
fn texts_that_cannot_be_decoded_are_told_and_left_alone() {
    if !ours_only() {
        return;
    }
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
    // Something else than a text.
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

#[test]
fn numbers_of_all_sizes_are_counted_exactly() {
    if !ours_only() {
        return;
    }
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
fn fields_of_others_stay_and_a_time_of_0_is_none() {
    let store = Hashes::new();
    let server = store.home("").start();
    let key = key(DIGEST);
    // As a migration writes it.
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
        // The established server keeps the 0.
        assert_eq!(fields["r_entered"], fields["r_updated"]);
    }
}

#[test]
fn scripts_that_the_server_forgot_are_sent_again() {
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
    assert!(!home.log().contains(" is away"));
}

#[test]
fn records_of_the_former_engine_are_told() {
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
fn what_is_told_of_the_former_engine_does_not_tell_the_password() {
    if !ours_only() {
        return;
    }
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
        // Nobody has touched it.
        assert_eq!(redis.cli(&["get", &format!("pyzord.digest.{DIGEST}")]), "1,,,0,,\n");
    }
}

#[test]
fn scripts_forgotten_while_all_report_lose_nothing() {
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
    assert!(flushed > 1, "all was over too soon");
    assert_eq!(done(&server, "check", DIGEST).counts(), (clients * reports, 0));
}

#[test]
fn keys_that_are_no_digests_are_told() {
    if !ours_only() {
        return;
    }
    let store = Hashes::new();
    store.redis().cli(&["hset", &key("b'aaaa'"), "r_count", "1"]);
    let home = store.home("");
    let _server = home.start();
    eventually("the warning", || home.log().contains("no lower-case digests").then_some(()));
    assert!(home.log().contains("pyzor-migrate"));
}

#[test]
fn a_full_redis_refuses_changes_and_answers_checks() {
    if !ours_only() {
        return;
    }
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
    assert!(log.contains("OOM") && !log.contains(" is away"), "{log}");
}

#[test]
fn redis_is_found_in_every_way_that_a_dsn_can_say() {
    if !ours_only() {
        return;
    }
    let redis = Redis::with("--requirepass secret", &["-a", "secret", "--no-auth-warning"]);
    let (port, socket) = (redis.port(), redis.socket().display().to_string());
    redis.cli(&["acl", "setuser", "counter", "on", ">secret,2"]);
    for right in format!("{RIGHTS} {RIGHTS_V0}").split(' ') {
        redis.cli(&["acl", "setuser", "counter", right]);
    }
    let ways = [
        (format!("127.0.0.1,{port},secret,1"), 1),
        (format!("{socket},,secret,2"), 2),
        (format!("127.0.0.1,{port},secret,3,default"), 3),
        (format!("redis://:secret@127.0.0.1:{port}/4"), 4),
        (format!("redis://counter:secret%2C2@127.0.0.1:{port}/5"), 5),
        (format!("redis+unix://{socket}?db=6&user=counter&password=secret%2C2"), 6),
        (format!("unix://{socket}?password=secret"), 0),
    ];
    for (dsn, database) in ways {
        let home = home(&dsn, "CleanupAge = 0\n");
        let server = home.start();
        done(&server, "report", DIGEST);
        done(&server, "report", DIGEST);
        assert_eq!(done(&server, "info", DIGEST).counts(), (2, 0));
        assert!(server.stop().success());
        let stored = redis.cli(&["-n", &database.to_string(), "hget", &key(DIGEST), "r_count"]);
        assert_eq!(stored, "2\n", "{dsn}");
        assert!(!home.everything_said().contains("secret"), "{dsn}");
    }
    let texts = Home::open()
        .config(&format!("Engine = redis_v0\nDigestDB = redis://counter:secret%2C2@127.0.0.1:{port}/7\n"));
    done(&texts.start(), "whitelist", DIGEST);
    let unlocked = Redis::start();
    let open = unlocked.port();
    for (wrong, port, why) in [
        (format!("127.0.0.1,{port},secretive,0"), port, "password"),
        (format!("127.0.0.1,{port},,0"), port, "noauth"),
        (format!("127.0.0.1,{port},secret,99"), port, "out of range"),
        (format!("127.0.0.1,{port},secretive,99"), port, "password"),
        (format!("127.0.0.1,{open},unasked,99"), open, "out of range"),
        (format!("redis://nobody:secret@127.0.0.1:{port}/0"), port, "password"),
        (format!("redis+cluster://:secret@127.0.0.1:{port}"), port, "redis://"),
    ] {
        let line = refusal(&home(&wrong, ""));
        assert!(line.contains(&port.to_string()) && line.to_lowercase().contains(why), "{wrong}: {line}");
    }
}

#[test]
fn a_url_that_contradicts_itself_is_refused() {
    if !ours_only() {
        return;
    }
    let redis = Redis::start();
    let port = redis.port();
    for (parts, what) in [
        (format!("127.0.0.1:{port}/0?db=1"), "db"),
        (format!("one@127.0.0.1:{port}/?user=other&password=x"), "user"),
        (format!(":secret@127.0.0.1:{port}/?password=secret2"), "password"),
    ] {
        let line = refusal(&home(&format!("redis://{parts}"), ""));
        assert!(line.contains(&format!("two values of {what}")), "{line}");
    }
    done(&home(&format!("redis://127.0.0.1:{port}/1?db=1"), "").start(), "report", DIGEST);
    assert_eq!(redis.cli(&["-n", "1", "hget", &key(DIGEST), "r_count"]), "1\n");
}

#[test]
fn a_password_that_nobody_asked_for_is_forgiven() {
    // The established server does so with newer versions of its library than Debian's.
    if !ours_only() {
        return;
    }
    let redis = Redis::start();
    let server = home(&format!("127.0.0.1,{},unasked,0", redis.port()), "").start();
    done(&server, "report", DIGEST);
}

#[test]
fn redis_is_reached_through_tls() {
    if !ours_only() {
        return;
    }
    let certificate = Certificate::new();
    let port = free_port();
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (authority, other) = (path(certificate.authority()), Certificate::new());
    let options = format!(
        "--port 0 --tls-port {port} --tls-auth-clients no --tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {}",
        path(certificate.server()),
        path(certificate.key()),
        authority
    );
    let redis = Redis::at(port, &options, &["--tls", "--cacert", &authority]);
    let server = format!("127.0.0.1:{port}");
    for dsn in [
        format!("rediss://{server}/0?ca={authority}"),
        format!("rediss://localhost:{port}/0?ca={authority}"),
        format!("rediss://{server}/0?verify=no"),
    ] {
        done(&home(&dsn, "").start(), "report", DIGEST);
    }
    assert_eq!(redis.cli(&["hget", &key(DIGEST), "r_count"]), "3\n");
    for dsn in [
        format!("rediss://{server}/0?ca={}", path(other.authority())),
        format!("rediss://{server}/0"),
        format!("rediss://{server}/0?ca=/nonexistent.pem"),
    ] {
        let line = refusal(&home(&dsn, ""));
        assert!(line.contains("certificate") && line.contains(&port.to_string()), "{line}");
    }
}

#[test]
fn a_certificate_that_ca_itself_contains_is_accepted() {
    if !ours_only() {
        return;
    }
    let (other, issued) = (Certificate::of_itself(true), Certificate::new());
    let certificates =
        [Certificate::of_itself(true), Certificate::of_itself_with_rsa(), Certificate::of_itself(false)];
    for (certificate, version) in certificates.iter().zip(["TLSv1.2", "TLSv1.3", "TLSv1.3"]) {
        let port = free_port();
        let path = |path: std::path::PathBuf| path.display().to_string();
        let own = path(certificate.server());
        let options = format!(
            "--port 0 --tls-port {port} --tls-auth-clients no --tls-protocols {version} --tls-cert-file {own} \
             --tls-key-file {} --bind 127.0.0.1 127.0.0.2",
            path(certificate.key()),
        );
        let _redis = Redis::at(port, &options, &["--tls", "--cacert", &own]);
        let home = |host: &str, authority: std::path::PathBuf| {
            home(&format!("rediss://{host}:{port}/0?ca={}", authority.display()), "")
        };
        done(&home("127.0.0.1", certificate.server()).start(), "report", DIGEST);
        done(&home("localhost", issued.authority_and(certificate)).start(), "report", DIGEST);
        // The name counts all the same, and a certificate that says the same of itself is another one.
        for (wrong, word) in [
            (home("127.0.0.2", certificate.server()), "subjectAltName"),
            (home("127.0.0.1", other.server()), "ca="),
            (home("127.0.0.1", issued.authority_and(&other)), "ca="),
        ] {
            let line = refusal(&wrong);
            assert!(line.contains(word) && line.contains(&port.to_string()), "{line}");
            assert!(!line.contains("CaUsedAsEndEntity") && !line.contains("BadSignature"), "{line}");
        }
    }
}

#[test]
fn a_failure_of_tls_is_told_in_words() {
    if !ours_only() {
        return;
    }
    let redis = Redis::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    for (parameters, words) in [
        ("verify=no".to_owned(), "does not answer in TLS"),
        (format!("ca={}", file.path().display()), "has no certificates"),
    ] {
        let line = refusal(&home(&format!("rediss://127.0.0.1:{}/0?{parameters}", redis.port()), ""));
        assert!(line.contains(words), "{line}");
    }
    let line = refusal(&home(&format!("rediss://a..b:{}/0?verify=no", redis.port()), ""));
    assert!(line.contains("its host is no name that a certificate can have"), "{line}");
}

/// As Redis does unless told otherwise.
#[test]
fn a_server_that_wants_a_certificate_of_its_clients_is_refused_in_words() {
    if !ours_only() {
        return;
    }
    for version in ["TLSv1.2", "TLSv1.3"] {
        let (certificate, port) = (Certificate::of_itself(true), free_port());
        let (own, private) = (certificate.server().display().to_string(), certificate.key());
        let private = private.display();
        let options = format!(
            "--port 0 --tls-port {port} --tls-protocols {version} --tls-cert-file {own} --tls-key-file {private} \
             --tls-ca-cert-file {own}"
        );
        let client = ["--tls", "--cacert", &own, "--cert", &own, "--key", &private.to_string()];
        let _redis = Redis::at(port, &options, &client);
        let line = refusal(&home(&format!("rediss://127.0.0.1:{port}/0?ca={own}"), ""));
        assert!(line.contains("a certificate of its clients"), "{line}");
    }
}

#[test]
fn a_cluster_counts_exactly_while_a_slot_is_moved() {
    if !ours_only() {
        return;
    }
    moves_a_slot(&RedisCluster::start(None));
}

#[test]
fn nodes_that_should_have_names_and_have_none_are_found_by_their_addresses() {
    if !ours_only() {
        return;
    }
    // Each has an address of its own, and is not reached under that of another.
    let options = |port: u16| {
        let own = format!("127.0.0.{}", 2 + port % 250);
        format!(
            "--port {port} --cluster-preferred-endpoint-type hostname --bind 127.0.0.1 {own} --cluster-announce-ip {own}"
        )
    };
    let cluster = RedisCluster::with(None, options, &[]);
    let told = cluster.nodes()[0].cli(&["cluster", "slots"]);
    assert_eq!(told.lines().filter(|line| *line == "?").count(), 3, "{told}");
    moves_a_slot(&cluster);
}

fn moves_a_slot(cluster: &RedisCluster) {
    let home = home(&cluster.dsn(), "");
    let server = home.start();
    let digests = digests(60);
    let all: Vec<&str> = digests.iter().map(String::as_str).collect();
    let report = || assert_eq!(server.request("report", &all).code(), 200);
    report();
    for node in cluster.nodes() {
        assert!(node.cli(&["dbsize"]).trim().parse::<u32>().unwrap() > 5, "a node without records");
    }
    let moved = key(&digests[0]);
    let from = cluster.owner(&moved);
    let to = (from + 1) % 3;
    cluster.begin_to_move(&moved, from, to);
    // Still here, then there while the slot is still here, then there with the slot.
    report();
    cluster.move_key(&moved, from, to);
    report();
    // Nobody has told yet that the other node is one to be looked after.
    cluster.nodes()[to].cli(&["client", "kill", "type", "normal"]);
    eventually("another connection", || {
        (server.request("check", &[&digests[0]]).code() == 200).then_some(())
    });
    assert_eq!(done(&server, "check", &digests[0]).counts(), (3, 0));
    cluster.finish_to_move(&moved, to);
    report();
    report();
    for digest in &digests {
        assert_eq!(done(&server, "check", digest).counts(), (5, 0), "{digest}");
        assert_eq!(cluster.field(&key(digest), "r_count"), "5");
    }
    assert_eq!(cluster.owner(&moved), to);
}

#[test]
fn a_cluster_serves_what_it_has() {
    if !ours_only() {
        return;
    }
    let mut cluster = RedisCluster::start(None);
    for node in cluster.nodes() {
        node.cli(&["config", "set", "cluster-require-full-coverage", "no"]);
    }
    let digests = digests(60);
    let (there, gone): (Vec<_>, Vec<_>) = digests.iter().partition(|digest| cluster.owner(&key(digest)) > 0);
    let before = home(&cluster.dsn(), "").start();
    cluster.kill(0);
    let home = home(&cluster.dsn(), "");
    let after = home.start();
    for server in [&before, &after] {
        for digest in &there {
            eventually("those that are there", || {
                (server.request("report", &[digest]).code() == 200).then_some(())
            });
        }
        assert_eq!(server.request("report", &[gone[0]]).code(), 500);
    }
    assert_eq!(home.log().matches(" is away: ").count(), 1, "{}", home.log());
}

#[test]
fn a_slot_that_nobody_has_keeps_only_its_own_digests_waiting() {
    if !ours_only() {
        return;
    }
    let cluster = RedisCluster::start(None);
    let digests = digests(30);
    // The one by which a node is tried, and some other one.
    for key in ["pyzord.probe", &key(&digests[0])] {
        let slot = cluster.slot(key);
        for node in cluster.nodes() {
            node.cli(&["config", "set", "cluster-require-full-coverage", "no"]);
            node.cli(&["cluster", "delslots", &slot]);
        }
    }
    let home = home(&cluster.dsn(), "");
    let server = home.start();
    for digest in &digests[1..] {
        eventually("what somebody has", || (server.request("report", &[digest]).code() == 200).then_some(()));
    }
    for _ in 0..10 {
        assert_eq!(server.request("report", &[&digests[0]]).code(), 500);
        done(&server, "check", &digests[1]);
    }
    assert!(!home.log().contains(" is away"), "{}", home.log());
}

#[test]
fn sentinels_that_hang_do_not_take_the_master_away() {
    if !ours_only() {
        return;
    }
    let sentinel = Sentinel::start();
    let home = home(&format!("redis+sentinel://127.0.0.1:{}/counts", sentinel.port()), "");
    let server = home.start();
    sentinel.signal(Signal::SIGSTOP);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        done(&server, "report", DIGEST);
        thread::sleep(Duration::from_millis(5));
    }
    // Should the connection be lost, the master is found without them.
    sentinel.servers()[0].cli(&["client", "kill", "type", "normal"]);
    eventually("another connection", || (server.request("report", &[DIGEST]).code() == 200).then_some(()));
    sentinel.signal(Signal::SIGCONT);
    assert!(home.log().matches(" is away: ").count() <= 1, "{}", home.log());
}

#[test]
fn a_node_of_a_cluster_is_told_from_a_server() {
    if !ours_only() {
        return;
    }
    let cluster = RedisCluster::start(None);
    let lines: Vec<String> = cluster.nodes().iter().map(|node| refusal(&home(&dsn(node), ""))).collect();
    assert!(lines.iter().all(|line| line.contains("redis+cluster://")), "{lines:?}");
}

/// Passes on what goes to and comes from a server, until it is told to keep the next reply to itself and
/// to hang up.
struct Middleman {
    cut: Arc<AtomicBool>,
}

impl Middleman {
    fn new(port: u16, server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let armed = Arc::clone(&cut);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let armed = Arc::clone(&armed);
                // A node that has gone is not there for its clients either.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                thread::spawn(move || Self::serve(client, server, &armed));
            }
        });
        Self { cut }
    }

    fn serve(client: TcpStream, server: TcpStream, armed: &AtomicBool) {
        let (mut requests, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || {
            // Either may have gone.
            let _ = std::io::copy(&mut requests, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let (mut client, mut server) = (client, server);
        let mut buffer = [0; 65_536];
        while let Ok(length) = server.read(&mut buffer) {
            // The reply to a script that has counted for one digest; nothing else here is one.
            let is_count = buffer[..length].starts_with(b"*1\r\n:1\r\n");
            if length == 0 || (is_count && armed.swap(false, Ordering::SeqCst)) {
                break;
            }
            if client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    }
}

#[test]
fn a_command_whose_reply_is_lost_counts_once() {
    if !ours_only() {
        return;
    }
    let port = free_port();
    let cluster = RedisCluster::start(Some(port));
    let middleman = Middleman::new(port, cluster.nodes()[0].port());
    let home = home(&cluster.dsn(), "CleanupAge = 0\n");
    let server = home.start();
    let digests = digests(60);
    let there = |digest: &&String| cluster.owner(&key(digest)) == 0;
    let (lost, elsewhere) =
        (digests.iter().find(there).unwrap(), digests.iter().find(|digest| !there(digest)).unwrap());
    for round in 1..=5_i64 {
        eventually("the node", || (server.request("report", &[lost]).code() == 200).then_some(()));
        let before: i64 = cluster.field(&key(lost), "r_count").parse().unwrap();
        middleman.cut.store(true, Ordering::SeqCst);
        assert_eq!(server.request("report", &[lost]).code(), 500);
        assert!(!middleman.cut.load(Ordering::SeqCst), "nothing was cut");
        // The others serve on.
        done(&server, "report", elsewhere);
        assert_eq!(cluster.field(&key(elsewhere), "r_count"), round.to_string());
        let after: i64 = cluster.field(&key(lost), "r_count").parse().unwrap();
        assert_eq!(after, before + 1, "counted more than once, or not at all");
    }
}

#[test]
fn a_new_master_that_the_sentinel_names_is_followed() {
    if !ours_only() {
        return;
    }
    let sentinel = Sentinel::start();
    let home = home(&format!("redis+sentinel://127.0.0.1:{}/counts/1", sentinel.port()), "");
    let server = home.start();
    done(&server, "report", DIGEST);
    sentinel.fail_over();
    eventually("the new master to be followed", || home.log().contains(" is back after ").then_some(()));
    done(&server, "report", DIGEST);
    assert_eq!(sentinel.master().cli(&["-n", "1", "hget", &key(DIGEST), "r_count"]), "2\n");
    let log = home.log();
    assert!(log.contains(" is away: the sentinels name another master"), "{log}");
}
