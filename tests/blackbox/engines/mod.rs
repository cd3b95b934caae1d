//! Tests that run on every engine, and in the submodules, tests of one engine.
//!
//! The end of this file lists the engines and the tests that each of them runs.

mod gdbm;
mod mysql;
mod redis;
mod upstream;

use std::thread;

use self::upstream::{
    unknown_digests_are_asked_for_and_never_stored, waiting_checks_delay_no_others_of_their_batch,
};
use crate::harness::{DIGEST, Home, Remote, Reply, Server, digest, eventually, interop, unix_time};

/// The count of reports or whitelistings of a digest, with the first and last time in seconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: i64,
    first: Option<i64>,
    last: Option<i64>,
}

impl Tally {
    fn new(count: i64, first: i64, last: i64) -> Self {
        Self { count, first: Some(first), last: Some(last) }
    }
}

/// A record: reports and whitelistings.
type Record = (Tally, Tally);

/// A database of one engine, which tests read and write without our server.
trait Store {
    /// The highest count.
    const LIMIT: i64;

    /// Returns an empty database.
    fn new() -> Self;

    /// Returns a homedir whose config names the database, with further settings. Every operation is allowed.
    fn home(&self, settings: &str) -> Home;

    /// Stores records in the form of the established server. No server may run.
    fn plant(&self, home: &Home, records: &[(&str, Record)]);

    /// Reads the record of a digest like the established server. No server may run.
    fn record(&self, home: &Home, digest: &str) -> Option<Record>;
}

/// A time in the past.
const THEN: i64 = 1_300_000_000;
/// One second after [`THEN`].
const LATER: i64 = THEN + 1;

const DAY: i64 = 86_400;

/// Returns `count` different digests.
fn digests(count: u32) -> Vec<String> {
    (1..=count).map(|number| format!("{number:040x}")).collect()
}

/// Sends a request for one digest that must succeed.
#[track_caller]
fn done(server: &Server, operation: &str, digest: &str) -> Reply {
    let reply = server.request(operation, &[digest]);
    assert_eq!(reply.code(), 200, "{operation} of {digest}");
    reply
}

fn changes_are_counted_and_dated<S: Store>() {
    let store = S::new();
    let home = store.home("");
    let server = home.start();
    let start = unix_time();
    done(&server, "report", DIGEST);
    let first = done(&server, "info", DIGEST);
    let [entered, ..] = first.times();
    assert_eq!(first.times(), [entered, entered, 0, 0]);
    assert_eq!(first.counts(), (1, 0));
    // Reports until the next second, so that the two times differ.
    let updated = eventually("another second", || {
        done(&server, "report", DIGEST);
        Some(done(&server, "info", DIGEST).times()[1]).filter(|updated| *updated > entered)
    });
    let whitelisted = done(&server, "check", DIGEST).counts().0;
    assert!(whitelisted > 1);
    done(&server, "whitelist", DIGEST);
    let end = unix_time();
    let info = done(&server, "info", DIGEST);
    let [.., wl_entered, wl_updated] = info.times();
    assert_eq!(info.times()[..2], [entered, updated]);
    assert_eq!(info.counts(), (whitelisted, 1));
    assert_eq!(wl_entered, wl_updated);
    assert!(start <= entered && updated <= wl_entered && wl_entered <= end);

    assert!(server.stop().success());
    let expected = (Tally::new(whitelisted, entered, updated), Tally::new(1, wl_entered, wl_updated));
    assert_eq!(store.record(&home, DIGEST), Some(expected));
}

fn whitelistings_alone_are_counted<S: Store>() {
    let store = S::new();
    let home = store.home("");
    let server = home.start();
    done(&server, "whitelist", DIGEST);
    done(&server, "whitelist", DIGEST);
    let info = done(&server, "info", DIGEST);
    let [entered, updated, wl_entered, wl_updated] = info.times();
    assert_eq!((entered, updated), (0, 0));
    assert_eq!(info.counts(), (0, 2));
    server.stop();
    let expected = (Tally::default(), Tally::new(2, wl_entered, wl_updated));
    assert_eq!(store.record(&home, DIGEST), Some(expected));
}

fn repeated_digests_count_each_time<S: Store>() {
    let store = S::new();
    let server = store.home("").start();
    let (one, two, three) = (digests(1).remove(0), "2".repeat(40), "3".repeat(40));
    let reply = server.request("report", &[&one, &two, &one, &three, &one]);
    assert_eq!(reply.code(), 200);
    assert_eq!(server.request("whitelist", &[&two, &two]).code(), 200);
    assert_eq!(done(&server, "check", &one).counts(), (3, 0));
    assert_eq!(done(&server, "check", &two).counts(), (1, 2));
    assert_eq!(done(&server, "check", &three).counts(), (1, 0));
}

fn reports_from_many_clients_are_all_counted<S: Store>() {
    let store = S::new();
    let server = store.home("").start();
    let other = "b".repeat(40);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(server.request("report", &[DIGEST, &other]).code(), 200);
                    assert_eq!(server.request("whitelist", &[DIGEST]).code(), 200);
                }
            });
        }
    });
    assert_eq!(done(&server, "check", DIGEST).counts(), (200, 200));
    assert_eq!(done(&server, "check", &other).counts(), (200, 0));
}

fn counts_stay_at_their_limit<S: Store>() {
    let store = S::new();
    let home = store.home("CleanupAge = 0\n");
    let full = Tally::new(S::LIMIT, THEN, THEN);
    let nearly = Tally::new(S::LIMIT - 1, THEN, THEN);
    let other = "b".repeat(40);
    store.plant(&home, &[(DIGEST, (full, nearly)), (&other, (nearly, full))]);
    let server = home.start();
    for digest in [DIGEST, &other] {
        assert_eq!(server.request("report", &[digest, digest]).code(), 200);
        assert_eq!(server.request("whitelist", &[digest, digest]).code(), 200);
        assert_eq!(done(&server, "check", digest).counts(), (S::LIMIT, S::LIMIT));
    }
    server.stop();
    let (reports, whitelistings) = store.record(&home, DIGEST).unwrap();
    assert_eq!((reports.count, whitelistings.count), (S::LIMIT, S::LIMIT));
}

fn records_of_the_established_server_are_served_and_changed<S: Store>() {
    let store = S::new();
    let home = store.home("CleanupAge = 0\n");
    let digests = digests(4);
    let both = (Tally::new(5, THEN, LATER), Tally::new(3, THEN + 2, THEN + 3));
    let reported = (Tally::new(7, THEN, LATER), Tally::default());
    let whitelisted = (Tally::default(), Tally::new(2, THEN, LATER));
    let planted = [both, reported, whitelisted, both];
    let records: Vec<_> = digests.iter().map(String::as_str).zip(planted).collect();
    store.plant(&home, &records);

    let server = home.start();
    for (digest, (reports, whitelistings)) in &records {
        let info = done(&server, "info", digest);
        assert_eq!(info.counts(), (reports.count, whitelistings.count));
        let times = [reports.first, reports.last, whitelistings.first, whitelistings.last];
        assert_eq!(info.times(), times.map(Option::unwrap_or_default));
    }
    let start = unix_time();
    // The last one is not changed.
    let changed: Vec<&str> = digests[..3].iter().map(String::as_str).collect();
    assert_eq!(server.request("report", &changed).code(), 200);
    assert_eq!(done(&server, "check", &digests[0]).counts(), (6, 3));
    server.stop();

    for (index, (digest, (reports, whitelistings))) in records.iter().enumerate() {
        let (after, others) = store.record(&home, digest).unwrap();
        assert_eq!(others, *whitelistings, "{digest}");
        if index == 3 {
            assert_eq!(after, *reports);
            continue;
        }
        let last = after.last.unwrap();
        assert!((start..=unix_time()).contains(&last), "{last}");
        assert_eq!(after.count, reports.count + 1);
        assert_eq!(after.first, Some(reports.first.unwrap_or(last)));
    }
}

fn a_database_passes_between_the_two_servers<S: Store>() {
    let store = S::new();
    let ours = store.home("");
    let established = ours.clone().program(interop("pyzord"));
    let other = "b".repeat(40);
    let mut expected = (0, 0);
    let mut times = None;
    for home in [&ours, &established, &ours, &established] {
        let server = home.start();
        if let Some(times) = times {
            assert_eq!(done(&server, "info", DIGEST).times(), times);
        }
        assert_eq!(done(&server, "check", DIGEST).counts(), expected);
        assert_eq!(server.request("report", &[DIGEST, &other, DIGEST]).code(), 200);
        done(&server, "whitelist", DIGEST);
        expected = (expected.0 + 2, expected.1 + 1);
        let info = done(&server, "info", DIGEST);
        assert_eq!(info.counts(), expected);
        times = Some(info.times());
        assert!(server.stop().success());
    }
    let (reports, whitelistings) = store.record(&ours, DIGEST).unwrap();
    assert_eq!((reports.count, whitelistings.count), expected);
}

fn records_expire_when_their_reports_are_old<S: Store>() {
    let store = S::new();
    let home = store.home("CleanupAge = 864000\n");
    let (old, recent) = (unix_time() - 11 * DAY, unix_time() - 9 * DAY);
    let digests = digests(3);
    let records = [
        (digests[0].as_str(), (Tally::new(1, old, old), Tally::default())),
        (digests[1].as_str(), (Tally::new(2, old, recent), Tally::default())),
        (digests[2].as_str(), (Tally::new(3, old - DAY, old), Tally::new(4, old, old))),
    ];
    store.plant(&home, &records);
    let server = home.start();
    for digest in [&digests[0], &digests[2]] {
        eventually("expiry", || (done(&server, "check", digest).counts() == (0, 0)).then_some(()));
    }
    assert_eq!(done(&server, "check", &digests[1]).counts(), (2, 0));
    server.stop();
    assert_eq!(store.record(&home, &digests[0]), None);
    assert_eq!(store.record(&home, &digests[1]), Some(records[1].1));
    assert_eq!(store.record(&home, &digests[2]), None);
}

fn either_tally_keeps_a_record_from_expiring<S: Store>() {
    let store = S::new();
    let home = store.home("CleanupAge = 864000\n");
    let (old, recent) = (unix_time() - 11 * DAY, unix_time() - 9 * DAY);
    let digests = digests(5);
    let (old, recent) = (Tally::new(1, old, old), Tally::new(2, old, recent));
    let none = Tally::default();
    let kept = [(old, recent), (recent, old), (none, recent)];
    let gone = [(old, old), (none, old)];
    let records: Vec<_> = digests.iter().map(String::as_str).zip(kept.into_iter().chain(gone)).collect();
    store.plant(&home, &records);
    let server = home.start();
    for digest in &digests[3..] {
        eventually("expiry", || (done(&server, "check", digest).counts() == (0, 0)).then_some(()));
    }
    server.stop();
    for (index, (digest, record)) in records.iter().enumerate() {
        assert_eq!(store.record(&home, digest), (index < 3).then_some(*record), "{index}");
    }
}

fn nothing_expires_with_a_cleanup_age_of_0<S: Store>() {
    let store = S::new();
    let home = store.home("CleanupAge = 0\n");
    let record = (Tally::new(1, THEN, THEN), Tally::default());
    store.plant(&home, &[(DIGEST, record)]);
    let server = home.start();
    assert_eq!(done(&server, "check", DIGEST).counts(), (1, 0));
    server.stop();
    assert_eq!(store.record(&home, DIGEST), Some(record));
}

fn accepted_digests_are_forwarded<S: Store>() {
    let (store, remote) = (S::new(), Remote::accepting());
    let home = store.home("").forwarding_to(&[remote.name()]);
    let server = home.start();
    let (one, two) = (digest(1), digest(2));
    for _ in 0..5 {
        done(&server, "report", &one);
    }
    assert_eq!(server.request("report", &[&two, &one, &two]).code(), 200);
    for _ in 0..3 {
        done(&server, "whitelist", &one);
    }
    let forwarding = home.forwarding_settled(&remote.name(), 11);
    assert_eq!(forwarding.count("accepted"), 11, "{forwarding:?}");
    assert!(server.stop().success());
    assert_eq!(remote.counts("report"), [(one.clone(), 6), (two, 2)].into());
    assert_eq!(remote.counts("whitelist"), [(one, 3)].into());
}

/// Defines the tests of one engine: four that both servers pass with every engine, those that both pass with this one,
/// and those that only our server passes.
macro_rules! battery {
    ($engine:ident, $store:ty, both: [$($both:ident)*], ours: [$($ours:ident)*]) => {
        mod $engine {
            battery!(@tests $store,
                repeated_digests_count_each_time
                reports_from_many_clients_are_all_counted
                a_database_passes_between_the_two_servers
                nothing_expires_with_a_cleanup_age_of_0
                $($both)*
            );
            mod ours {
                battery!(@tests $store, $($ours)*);
            }
        }
    };
    (@tests $store:ty, $($test:ident)*) => {
        $(#[test]
        fn $test() {
            crate::engines::$test::<$store>();
        })*
    };
}

battery!(
    on_gdbm,
    crate::engines::gdbm::Gdbm,
    both: [
        changes_are_counted_and_dated
        whitelistings_alone_are_counted
        counts_stay_at_their_limit
        records_of_the_established_server_are_served_and_changed
        records_expire_when_their_reports_are_old
    ],
    ours: [
        accepted_digests_are_forwarded
        unknown_digests_are_asked_for_and_never_stored
        waiting_checks_delay_no_others_of_their_batch
        either_tally_keeps_a_record_from_expiring
    ]
);
// In Redis an increment beyond the limit is an error, so the established server fails.
battery!(
    on_redis,
    crate::engines::redis::Hashes,
    both: [
        changes_are_counted_and_dated
        whitelistings_alone_are_counted
        records_of_the_established_server_are_served_and_changed
    ],
    ours: [
        accepted_digests_are_forwarded
        unknown_digests_are_asked_for_and_never_stored
        waiting_checks_delay_no_others_of_their_batch
        counts_stay_at_their_limit
    ]
);
// With a `CleanupAge` of 0 the established server sets an expiry of 0 seconds, which is an error in Redis.
battery!(
    on_redis_v0,
    crate::engines::redis::Texts,
    both: [
        changes_are_counted_and_dated
        whitelistings_alone_are_counted
    ],
    ours: [
        accepted_digests_are_forwarded
        unknown_digests_are_asked_for_and_never_stored
        waiting_checks_delay_no_others_of_their_batch
        counts_stay_at_their_limit
        records_of_the_established_server_are_served_and_changed
    ]
);
// In MariaDB an increment beyond the limit is an error. And the established server sets the dates of both tallies with
// the first change of one.
battery!(
    on_mysql,
    crate::engines::mysql::MySql,
    both: [records_expire_when_their_reports_are_old],
    ours: [
        accepted_digests_are_forwarded
        unknown_digests_are_asked_for_and_never_stored
        waiting_checks_delay_no_others_of_their_batch
        changes_are_counted_and_dated
        whitelistings_alone_are_counted
        counts_stay_at_their_limit
        records_of_the_established_server_are_served_and_changed
        either_tally_keeps_a_record_from_expiring
    ]
);
